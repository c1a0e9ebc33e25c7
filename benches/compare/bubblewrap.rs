//! bubblewrap: namespaces and mounts only; no cgroup, no seccomp profile, nothing that lives on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::stats::Operation;
use super::{Contender, Recorder, Trouble, spawn};

#[derive(Debug)]
pub(crate) struct Bubblewrap {
    rootfs: PathBuf,
    workspace: PathBuf,
}

impl Bubblewrap {
    /// # Errors
    /// It is not installed, or there is no root file system.
    pub(crate) fn new(rootfs: Option<PathBuf>, workspace: &Path) -> Result<Self, Trouble> {
        let rootfs = rootfs.ok_or_else(|| Trouble::new("no --rootfs to run"))?;
        spawn::output(&["bwrap", "--version"])?;
        Ok(Self { rootfs, workspace: workspace.to_owned() })
    }

    fn run(&self) -> Result<Duration, Trouble> {
        let (rootfs, workspace) = (self.rootfs.display().to_string(), self.workspace.display().to_string());
        spawn::first_byte(&[
            "bwrap",
            "--unshare-all",
            "--unshare-user",
            "--uid",
            "1000",
            "--gid",
            "1000",
            "--hostname",
            "s-bench",
            "--cap-drop",
            "ALL",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
            "--setenv",
            "PATH",
            "/usr/local/bin:/usr/bin:/bin",
            "--ro-bind",
            &rootfs,
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "--tmpfs",
            "/var/tmp",
            "--tmpfs",
            "/run",
            "--bind",
            &workspace,
            "/home/sandbox",
            "--chdir",
            "/home/sandbox",
            "--",
            "echo",
            "ready",
        ])
    }
}

impl Contender for Bubblewrap {
    fn name(&self) -> &'static str {
        "bubblewrap"
    }

    fn set_up(&mut self) -> Result<(), Trouble> {
        self.run().map(|_| ())
    }

    fn round(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Trouble> {
        recorder.pause();
        recorder.add(Operation::CreateExec, self.run()?);
        Ok(())
    }
}
