//! A Docker engine, through its own command line, with the settings closest to a sandbox's.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::stats::Operation;
use super::{Contender, Recorder, Trouble, spawn, web};

const IMAGE: &str = "sandboxd-bench:rootfs";
const APP: &str = "sandboxd-bench-app";
const LIMIT: Duration = Duration::from_secs(60);

/// The closest equivalents of what every sandbox has. Docker's default seccomp profile is on.
const SETTINGS: [&str; 20] = [
    "--network",
    "bridge",
    "--memory",
    "512m",
    "--pids-limit",
    "1024",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--read-only",
    "--tmpfs",
    "/tmp:size=512m",
    "--tmpfs",
    "/var/tmp:size=128m",
    "--tmpfs",
    "/run",
    "--user",
    "1000:1000",
    "--workdir=/home/sandbox",
];

#[derive(Debug)]
pub(crate) struct Docker {
    rootfs: PathBuf,
    workspace: PathBuf,
    mount: String,
    port: u16,
    serial: u32,
    idle: Vec<String>,
}

impl Docker {
    /// # Errors
    /// No engine answers, or there is no root file system to import.
    pub(crate) fn new(rootfs: Option<PathBuf>, workspace: PathBuf) -> Result<Self, Trouble> {
        let rootfs = rootfs.ok_or_else(|| Trouble::new("no --rootfs to make the same image of"))?;
        let version = spawn::output(&["docker", "version", "--format", "{{.Server.Version}}"]);
        version
            .map_err(|e| Trouble::because("no engine answers at DOCKER_HOST or the default socket", &e))?;
        let mount = format!("{}:/home/sandbox", workspace.display());
        Ok(Self { rootfs, workspace, mount, port: free_port()?, serial: 0, idle: Vec::new() })
    }

    fn container(&mut self) -> String {
        self.serial += 1;
        format!("sandboxd-bench-{}-{}", std::process::id(), self.serial)
    }

    fn run<'a>(&'a self, first: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec!["docker", "run"];
        arguments.extend(first);
        arguments.extend(SETTINGS);
        arguments.extend(["-v", &self.mount, IMAGE]);
        arguments.extend(command);
        arguments
    }

    fn start_detached(&self, name: &str) -> Result<Duration, Trouble> {
        // --init: a PID 1 that passes TERM on, as ours does; sleep as PID 1 would ignore it.
        spawn::run(&self.run(&["-d", "--init", "--name", name], &["sleep", "infinity"]))
    }
}

impl Contender for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn set_up(&mut self) -> Result<(), Trouble> {
        let rootfs = self.rootfs.display().to_string();
        let tar = ["tar", "-C", &rootfs, "--one-file-system", "-c", "."];
        spawn::pipe(&tar, &["docker", "import", "-", IMAGE])?;
        let server = self.workspace.join("server.py");
        std::fs::write(server, web::SERVER).map_err(|e| Trouble::because("write the app", &e))?;
        spawn::output(&["docker", "rm", "-f", APP]).ok();
        let publish = format!("127.0.0.1:{}:{}", self.port, web::PORT);
        let first = ["-d", "--init", "--name", APP, "-p", &publish];
        spawn::run(&self.run(&first, &["bash", "-lc", "exec python3 server.py"]))?;
        web::first_answer(&format!("127.0.0.1:{}", self.port), "localhost", Instant::now(), LIMIT)?;
        spawn::run(&["docker", "stop", APP])?;
        spawn::first_byte(&self.run(&["--rm"], &["echo", "ready"])).map(|_| ())
    }

    fn round(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Trouble> {
        let name = self.container();
        recorder.pause();
        recorder.add(Operation::CreateExec, spawn::first_byte(&self.run(&["--rm"], &["echo", "ready"]))?);
        recorder.pause();
        recorder.add(Operation::Create, self.start_detached(&name)?);
        let exec = ["docker", "exec", &name, "true"];
        recorder.time(Operation::Exec, || spawn::run(&exec))?;
        recorder.time_hot(Operation::ExecHot, || spawn::run(&exec).map(|_| ()))?;
        recorder.time(Operation::Purge, || spawn::run(&["docker", "rm", "-f", &name]))?;
        recorder.pause();
        let started = Instant::now();
        spawn::run(&["docker", "start", APP])?;
        let answered = web::first_answer(&format!("127.0.0.1:{}", self.port), "localhost", started, LIMIT)?;
        recorder.add(Operation::Wake, answered);
        recorder.time(Operation::Freeze, || spawn::run(&["docker", "pause", APP]))?;
        recorder.pause();
        let started = Instant::now();
        spawn::run(&["docker", "unpause", APP])?;
        let answered = web::first_answer(&format!("127.0.0.1:{}", self.port), "localhost", started, LIMIT)?;
        recorder.add(Operation::Thaw, answered);
        recorder.time(Operation::Stop, || spawn::run(&["docker", "stop", APP])).map(|_| ())
    }

    fn creates_per_second(&mut self, clients: u32, each: u32) -> Option<Result<f64, Trouble>> {
        // A tenth of ours is enough for a rate that is a tenth of ours.
        let each = each.div_ceil(5);
        let names: Vec<Vec<String>> =
            (0..clients).map(|_| (0..each).map(|_| self.container()).collect()).collect();
        let started = Instant::now();
        let docker = &*self;
        let result = std::thread::scope(|scope| {
            let threads: Vec<_> = names
                .iter()
                .map(|names| {
                    scope.spawn(move || {
                        names.iter().try_for_each(|name| docker.start_detached(name).map(|_| ()))
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_panic| Err(Trouble::new("a client panicked")))
            })
        });
        let took = started.elapsed();
        for name in names.iter().flatten() {
            spawn::run(&["docker", "rm", "-f", name]).ok();
        }
        Some(result.map(|()| f64::from(clients * each) / took.as_secs_f64()))
    }

    fn start_idle(&mut self, count: u32) -> Option<Result<(), Trouble>> {
        Some((0..count).try_for_each(|_| {
            let name = self.container();
            self.start_detached(&name)?;
            self.idle.push(name);
            Ok(())
        }))
    }

    fn stop_idle(&mut self) {
        for name in std::mem::take(&mut self.idle) {
            spawn::run(&["docker", "rm", "-f", &name]).ok();
        }
    }

    fn process_names(&self) -> &[&'static str] {
        &["containerd-shim", "dockerd", "containerd", "docker-init", "tini", "docker-proxy", "sleep"]
    }

    fn tear_down(&mut self) {
        self.stop_idle();
        spawn::run(&["docker", "rm", "-f", APP]).ok();
        spawn::run(&["docker", "rmi", "-f", IMAGE]).ok();
    }
}

fn free_port() -> Result<u16, Trouble> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    listener.map(|address| address.port()).map_err(|e| Trouble::because("find a free port", &e))
}
