//! Launching a sandbox of the gVisor tier, in a worker of the launcher.
//!
//! `runsc` takes the place of libcontainer: it is run in the sandbox's cgroup, joins its network namespace, and
//! passes the control socket on. Its two processes, the kernel and the file server, are all that there is of
//! the sandbox on the host; everything they keep is beneath the launch's run directory.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Instant;

use protocol::{CONTROL_DESCRIPTOR, LaunchReply, LaunchRequest, LaunchStep, Runsc};
use sys::{mount, process};

/// The longest message that is passed on of what it says.
const MESSAGE_BYTES_MAX: u64 = 2048;

/// Runs a sandbox and leaves it to itself.
pub(super) fn launch(
    request: &LaunchRequest,
    runsc: &Runsc,
    workspace: OwnedFd,
) -> Result<LaunchReply, LaunchReply> {
    let begun = Instant::now();
    let failed = |message: String| LaunchReply::Failed { step: LaunchStep::Create, errno: None, message };
    // In a mount namespace of this worker's own, which ends with what it starts: the launcher's sees no workspace.
    mount::attach_apart(workspace, &runsc.workspace)
        .map_err(|error| failed(format!("mount the workspace: {error}")))?;
    // Named after what it is of: `<state>/…` goes with the run directory.
    let pid_file = request.state_root.with_extension("pid");
    let mut command = process::command(&runsc.program);
    command
        .arg("--root")
        .arg(&request.state_root)
        // It is born in the right cgroup, and everything that it starts with it.
        .arg("--ignore-cgroups=true")
        // Sockets are made in the sandbox's network namespace: previews, firewall and addresses are as ever.
        .arg("--network=host")
        // The root is read-only; what is written goes to the workspace and to tmpfs.
        .arg("--overlay2=none")
        // Works on any machine, whatever the default of this version.
        .arg("--platform=systrap")
        .arg("--host-uds=none")
        .arg("--host-fifo=none")
        .args(["run", "--detach"])
        .arg("--bundle")
        .arg(&request.bundle)
        .arg("--pid-file")
        .arg(&pid_file)
        .arg(format!("--pass-fd={CONTROL_DESCRIPTOR}:{CONTROL_DESCRIPTOR}"))
        .arg(&request.id)
        .stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| failed(format!("run {}: {error}", runsc.program.display())))?;
    let status = child.wait().map_err(|error| failed(format!("wait for runsc: {error}")))?;
    if !status.success() {
        let mut message = String::new();
        if let Some(stderr) = child.stderr.take() {
            // What it may have left behind has the pipe open too, and is not waited for.
            let _unread: rustix::io::Result<()> = rustix::io::ioctl_fionbio(&stderr, true);
            let _as_much_as_there_is = stderr.take(MESSAGE_BYTES_MAX).read_to_string(&mut message);
        }
        return Err(failed(format!("runsc: {status}: {}", message.trim())));
    }
    let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
    let pid = pid.ok_or_else(|| failed("runsc has not said which process it started".to_owned()))?;
    let create_us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
    Ok(LaunchReply::Running { pid, create_us, start_us: 0 })
}
