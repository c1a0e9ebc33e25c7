//! runc and crun: OCI runtimes on a bundle as close to a sandbox's as their configuration goes.
//!
//! They are favoured in one respect: their network namespace has no device but `lo`, since attaching one
//! is not a runtime's task.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::stats::Operation;
use super::{Contender, Recorder, Trouble, spawn};

/// The parent of the containers' cgroups.
const CGROUP: &str = "sandboxd-bench";

#[derive(Debug)]
pub(crate) struct Oci {
    program: &'static str,
    rootfs: PathBuf,
    workspace: PathBuf,
    seccomp: Option<Value>,
    bundle: PathBuf,
    state: String,
    serial: u32,
    idle: Vec<String>,
}

impl Oci {
    /// # Errors
    /// The program is not installed, or there is no root file system.
    pub(crate) fn new(
        program: &'static str,
        rootfs: Option<&Path>,
        workspace: &Path,
        seccomp: Option<&Value>,
        directory: &Path,
    ) -> Result<Self, Trouble> {
        let rootfs = rootfs.ok_or_else(|| Trouble::new("no --rootfs to run"))?;
        spawn::output(&[program, "--version"])?;
        let bundle = directory.join(program);
        std::fs::create_dir_all(&bundle).map_err(|e| Trouble::because("make a bundle", &e))?;
        Ok(Self {
            program,
            rootfs: rootfs.to_owned(),
            workspace: workspace.to_owned(),
            seccomp: seccomp.cloned(),
            state: bundle.join("state").display().to_string(),
            bundle,
            serial: 0,
            idle: Vec::new(),
        })
    }

    /// Writes the bundle of a new container, which is not part of what is timed; returns its name.
    fn prepare(&mut self, command: &[&str]) -> Result<String, Trouble> {
        self.serial += 1;
        let name = format!("sandboxd-bench-{}-{}", std::process::id(), self.serial);
        let mut config = config(&self.rootfs, &self.workspace, command);
        config["linux"]["cgroupsPath"] = format!("/{CGROUP}/{name}").into();
        if let Some(seccomp) = &self.seccomp {
            config["linux"]["seccomp"] = seccomp.clone();
        }
        std::fs::write(self.bundle.join("config.json"), config.to_string())
            .map_err(|e| Trouble::because("write a bundle", &e))?;
        Ok(name)
    }

    fn run_once(&mut self) -> Result<Duration, Trouble> {
        let name = self.prepare(&["echo", "ready"])?;
        let bundle = self.bundle.display().to_string();
        spawn::first_byte(&[self.program, "--root", &self.state, "run", "--bundle", &bundle, &name])
    }

    fn start_lasting(&mut self) -> Result<(String, Duration), Trouble> {
        let name = self.prepare(&["sleep", "infinity"])?;
        let bundle = self.bundle.display().to_string();
        let created =
            spawn::run(&[self.program, "--root", &self.state, "create", "--bundle", &bundle, &name])?;
        let started = spawn::run(&[self.program, "--root", &self.state, "start", &name])?;
        Ok((name, created + started))
    }

    fn delete(&self, name: &str) -> Result<(), Trouble> {
        spawn::run(&[self.program, "--root", &self.state, "delete", "-f", name]).map(|_| ())
    }
}

impl Contender for Oci {
    fn name(&self) -> &'static str {
        self.program
    }

    fn set_up(&mut self) -> Result<(), Trouble> {
        self.run_once().map(|_| ())
    }

    fn round(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Trouble> {
        recorder.pause();
        recorder.add(Operation::CreateExec, self.run_once()?);
        recorder.pause();
        let (name, created) = self.start_lasting()?;
        recorder.add(Operation::Create, created);
        let exec = [self.program, "--root", &self.state, "exec", &name, "true"];
        recorder.time(Operation::Exec, || spawn::run(&exec))?;
        recorder.time_hot(Operation::ExecHot, || spawn::run(&exec).map(|_| ()))?;
        recorder.time(Operation::Purge, || self.delete(&name))
    }

    fn start_idle(&mut self, count: u32) -> Option<Result<(), Trouble>> {
        Some((0..count).try_for_each(|_| {
            let (name, _) = self.start_lasting()?;
            self.idle.push(name);
            Ok(())
        }))
    }

    fn stop_idle(&mut self) {
        for name in std::mem::take(&mut self.idle) {
            self.delete(&name).ok();
        }
    }

    fn process_names(&self) -> &[&'static str] {
        &["sleep"]
    }

    fn tear_down(&mut self) {
        self.stop_idle();
        remove_cgroups();
    }
}

/// Removes the parent cgroups that the runtimes made for the bench and do not remove.
fn remove_cgroups() {
    let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup") else { return };
    let roots = entries.flatten().map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    for root in roots {
        // rmdir(2) takes only empty ones, so nothing that lives can be hit.
        std::fs::remove_dir(root.join(CGROUP)).ok();
    }
}

fn config(rootfs: &Path, workspace: &Path, command: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 1000, "gid": 1000},
            "args": command,
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/sandbox"],
            "cwd": "/home/sandbox",
            "capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []},
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": true},
        "hostname": "s-bench",
        "mounts": mounts(workspace),
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 536_870_912},
                "pids": {"limit": 1024},
            },
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts(workspace: &Path) -> Value {
    let tmpfs = |destination: &str, options: &[&str]| {
        let options = [&["nosuid", "nodev", "mode=1777"], options].concat();
        json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
    };
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        tmpfs("/dev/shm", &["noexec", "size=65536k"]),
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        tmpfs("/tmp", &["size=512m"]),
        tmpfs("/var/tmp", &["size=128m"]),
        tmpfs("/run", &[]),
        {"destination": "/home/sandbox", "type": "bind", "source": workspace, "options": ["rbind", "nosuid", "nodev", "rw"]},
    ])
}
