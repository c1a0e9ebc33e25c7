//! The app of a running sandbox: its manifest is read, its processes are watched, its port is probed.
//!
//! `sandbox-init` keeps the processes running; what they are is decided here, since the manifest is
//! a hostile text and is parsed where a failure harms nobody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::base::activity::now_ms;
use crate::base::error::Error;
use crate::base::events::What;
use crate::base::request::ExecRequest;
use crate::base::view::{AppView, Preview, PreviewStatus, ProcessKind, ProcessView};
use crate::books::registry::Entry;
use crate::life::announce::{Began, How};
use crate::running::live::Live;
use crate::running::process::hold;
use crate::serve::exec::{ExecEvent, exec};
use crate::serve::preview::dial;
use crate::serve::serving::Serving;
use engine::Conversation;
use model::manifest::{Manifest, Web};
use model::{GitSource, Status};
use protocol::{App, ProcessState, Reply, Request, Stamp};

/// The app directory as `sandbox-init` sees it.
const DIRECTORY: &str = "/home/sandbox/workspace/app";
/// How often an app that is starting is asked whether it is up, at first and at the least.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(2);
/// The pause before an app that could not be watched is watched again.
const WATCH_PAUSE: Duration = Duration::from_secs(2);
/// The longest an app may take to answer a probe.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the clone of a repository may take.
const CLONE_DEADLINE: Duration = Duration::from_secs(600);
/// How much of git's complaint is told.
const MESSAGE_CHARS_MAX: usize = 2000;

/// How long it takes at most that an app which is put into a new, empty sandbox is looked for.
const APP_PAUSE: Duration = Duration::from_millis(10);

/// Looks after what runs in a sandbox from its beginning; starts a task and does not wait.
pub(crate) fn begin(serving: &Arc<Serving>, Began { entry, live, how }: Began) {
    let watching = Arc::clone(serving);
    serving.ground.tasks.spawn(async move {
        let git = match how {
            How::Adopted => None,
            How::Launched { git, is_empty } => {
                // What a first command needs, while whoever sends it reads the answer.
                hold::prepare(&entry.processes, &live).await;
                if is_empty {
                    // There is no app yet, and that command goes first.
                    tokio::time::sleep(APP_PAUSE).await;
                }
                git
            }
        };
        watch(watching, entry, live, git).await;
    });
}

/// Watches the app until the sandbox ends.
async fn watch(serving: Arc<Serving>, entry: Arc<Entry>, live: Arc<Live>, git: Option<GitSource>) {
    let watching = async {
        let trouble = match git {
            Some(git) => clone(&serving, &entry, &git).await,
            None => None,
        };
        loop {
            let Err(error) = follow(&serving, &entry, &live, trouble.as_deref()).await;
            // The sandbox runs on without; when it is its init that has failed, the driver sees to it.
            tracing::warn!(id = %entry.id, error = %crate::chain(&error), "an app is not watched for a while");
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    };
    tokio::select! {
        () = live.ended.cancelled() => {}
        () = serving.ground.tasks.ending.cancelled() => {}
        () = watching => {}
    }
}

/// Keeps the app as its manifest declares it. `trouble` is what else went wrong with the app.
async fn follow(
    serving: &Arc<Serving>,
    entry: &Arc<Entry>,
    live: &Arc<Live>,
    trouble: Option<&str>,
) -> Result<Infallible, Error> {
    let mut read = read(serving, entry).await?;
    let mut manifest = read.manifest.take();
    publish(entry, manifest.as_ref(), &read, trouble);
    let mut app = app_of(manifest.as_ref());
    app.stamp = read.stamp;
    let mut conversation = live.control.supervise(app.clone()).await.map_err(Error::Control)?;
    loop {
        let web = manifest.as_ref().and_then(|m| m.web.clone());
        tokio::select! {
            changed = until_changed(entry, &mut conversation) => changed?,
            // Never completes: it probes again whenever the app starts anew.
            () = probe(serving, entry, live, web) => {}
        }
        read = self::read(serving, entry).await?;
        // With one that is wrong everything stays as it was but for the message: a slip of the pen in an
        // editor takes no app down.
        if read.problem.is_none() {
            manifest = read.manifest.take();
            app = app_of(manifest.as_ref());
            publish(entry, manifest.as_ref(), &read, trouble);
        } else {
            entry.publish(|published| set_message(published, read.message(trouble)));
        }
        app.stamp = read.stamp;
        conversation.ask(&Request::Supervise { app: app.clone() }, &[]).await.map_err(Error::Control)?;
    }
}

/// A manifest as it was found.
struct Read {
    /// `None`: there is none, or it is wrong.
    manifest: Option<Manifest>,
    problem: Option<String>,
    stamp: Option<Stamp>,
}

impl Read {
    fn message(&self, trouble: Option<&str>) -> Option<String> {
        self.problem.clone().or_else(|| trouble.map(str::to_owned))
    }
}

async fn read(serving: &Arc<Serving>, entry: &Arc<Entry>) -> Result<Read, Error> {
    let (host, id) = (Arc::clone(&serving.ground.host), entry.id);
    let manifest = move || host.storage.manifest(id).map_err(Error::Storage);
    let file = entry.share.run(manifest).await?;
    let Some(file) = file else { return Ok(Read { manifest: None, problem: None, stamp: None }) };
    let stamp = Stamp {
        inode: file.stat.st_ino,
        modified_s: file.stat.st_mtime,
        modified_ns: i64::try_from(file.stat.st_mtime_nsec).unwrap_or_default(),
        length: u64::try_from(file.stat.st_size).unwrap_or_default(),
    };
    let (manifest, problem) = match Manifest::parse(&file.text) {
        Ok(manifest) => (Some(manifest), None),
        Err(error) => (None, Some(error.to_string())),
    };
    if let Some(problem) = &problem {
        tracing::info!(%id, problem, "a manifest cannot be used");
        serving.ground.books.tell(id, What::Error { message: problem.clone() });
    }
    Ok(Read { manifest, problem, stamp: Some(stamp) })
}

/// Shows what is to run; how it is doing is told by `sandbox-init`.
fn publish(entry: &Entry, manifest: Option<&Manifest>, read: &Read, trouble: Option<&str>) {
    let spec_port = entry.record().spec.ports.first().copied();
    entry.publish(|published| {
        set_message(published, read.message(trouble));
        let web = manifest.and_then(|m| m.web.as_ref());
        let status = match web {
            Some(_) => PreviewStatus::Starting,
            None if read.problem.is_some() => PreviewStatus::Error,
            None => PreviewStatus::None,
        };
        let port = web.map(|w| w.port).or(spec_port);
        published.app.preview = Preview { port, status, ..Preview::default() };
        published.app.processes.clear();
    });
}

/// Shows a message in the row. It says what is wrong now, so it lives as long as the sandbox does and
/// need not last longer.
fn set_message(published: &mut crate::books::registry::Published, message: Option<String>) {
    if published.record.error_message != message {
        let mut record = (*published.record).clone();
        record.error_message = message;
        published.record = Arc::new(record);
    }
}

fn app_of(manifest: Option<&Manifest>) -> App {
    let Some(manifest) = manifest else { return App { directory: DIRECTORY.to_owned(), ..App::default() } };
    let web = manifest.web.iter().map(|web| protocol::Process {
        name: "web".to_owned(),
        kind: protocol::ProcessKind::Web,
        command: web.command.clone(),
    });
    let workers = manifest.workers.iter().map(|worker| protocol::Process {
        name: worker.name.clone(),
        kind: protocol::ProcessKind::Worker,
        command: worker.command.clone(),
    });
    let build = manifest.build.as_ref().map(|build| protocol::Build {
        command: build.command.clone(),
        timeout_ms: u64::from(build.timeout_secs) * 1000,
    });
    App { build, processes: web.chain(workers).collect(), directory: DIRECTORY.to_owned(), stamp: None }
}

/// Publishes what `sandbox-init` tells until it says that the manifest has changed.
async fn until_changed(entry: &Arc<Entry>, conversation: &mut Conversation) -> Result<(), Error> {
    loop {
        match conversation.reply().await.map_err(Error::Control)? {
            Reply::ManifestChanged => return Ok(()),
            Reply::Process(state) => entry.publish(|published| set_process(&mut published.app, state)),
            Reply::Build { error, .. } => entry.publish(|published| {
                let preview = &mut published.app.preview;
                if error.is_some() {
                    preview.status = PreviewStatus::Error;
                }
                preview.build_error_message =
                    error.map(|text| text.chars().take(MESSAGE_CHARS_MAX).collect());
            }),
            Reply::Hello { .. }
            | Reply::Claimed
            | Reply::Attached { .. }
            | Reply::Started { .. }
            | Reply::Failed { .. }
            | Reply::NotStarted { .. }
            | Reply::Taken { .. }
            | Reply::Exited { .. } => {
                return Err(Error::Control(engine::ControlError::Unexpected));
            }
        }
    }
}

fn set_process(app: &mut AppView, state: ProcessState) {
    let is_web = state.kind == protocol::ProcessKind::Web;
    if is_web && app.preview.status != PreviewStatus::None {
        app.preview.status = if state.given_up {
            PreviewStatus::Error
        } else if state.pid.is_none() || app.preview.status != PreviewStatus::Ready {
            // Between two runs it is on its way again.
            PreviewStatus::Starting
        } else {
            app.preview.status
        };
    }
    let view = ProcessView {
        name: state.name,
        kind: if is_web { ProcessKind::Web } else { ProcessKind::Worker },
        running: state.pid.is_some(),
        pid: state.pid,
        restarts: state.restarts,
        given_up: state.given_up,
        last_exit_code: state.exit_code,
    };
    match app.processes.iter_mut().find(|p| p.name == view.name) {
        Some(known) => *known = view,
        None => app.processes.push(view),
    }
}

/// Asks the web process for its health path whenever it is starting; never completes.
async fn probe(serving: &Arc<Serving>, entry: &Arc<Entry>, live: &Arc<Live>, web: Option<Web>) {
    let Some(web) = web else { return std::future::pending().await };
    let mut changes = entry.state.subscribe();
    let mut pause = PROBE_INTERVAL;
    loop {
        // What is frozen does not answer, and is not asked.
        let starting = |published: &crate::books::registry::Published| {
            published.app.preview.status == PreviewStatus::Starting
                && published.record.status == Status::Running
        };
        if !starting(&changes.borrow()) {
            pause = PROBE_INTERVAL;
        }
        if changes.wait_for(starting).await.is_err() {
            return std::future::pending().await;
        }
        let status = match tokio::time::timeout(PROBE_DEADLINE, ask_health(serving, live, &web)).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(_)) | Err(_) => None,
        };
        entry.publish(|published| {
            let preview = &mut published.app.preview;
            preview.last_checked_at = Some(now_ms());
            preview.last_http_status = status;
            // Any answer shows that the app serves; whether it is a good one is for people to see.
            if status.is_some() && preview.status == PreviewStatus::Starting {
                preview.status = PreviewStatus::Ready;
            }
        });
        tokio::time::sleep(pause).await;
        // An app that never listens is asked less and less often.
        pause = pause.mul_f64(1.1).min(PROBE_INTERVAL_MAX);
    }
}

/// Sends one request and reads the status of the answer.
async fn ask_health(serving: &Arc<Serving>, live: &Arc<Live>, web: &Web) -> std::io::Result<u16> {
    let mut stream = dial(serving, live, web.port).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost:{}\r\nUser-Agent: sandboxd-probe\r\nConnection: close\r\n\r\n",
        web.health_path, web.port
    );
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    let status =
        std::str::from_utf8(&start).ok().and_then(|s| s.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok());
    status.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Clones the repository into the app directory, as the sandbox's user, inside the sandbox; returns what
/// went wrong.
async fn clone(serving: &Arc<Serving>, entry: &Arc<Entry>, git: &GitSource) -> Option<String> {
    let mut cmd: Vec<String> = ["git", "clone", "--quiet"].map(str::to_owned).into();
    if let Some(branch) = git.branch() {
        cmd.extend(["--branch".to_owned(), branch.to_owned()]);
    }
    cmd.extend(["--".to_owned(), git.repo_url().to_owned(), DIRECTORY.to_owned()]);
    let request = ExecRequest { cmd, ..ExecRequest::default() };
    let problem = match tokio::time::timeout(CLONE_DEADLINE, run(serving, entry, request)).await {
        Ok(Ok(None)) => None,
        Ok(Ok(Some(complaint))) => Some(complaint),
        Ok(Err(error)) => Some(error.message()),
        Err(_) => Some(format!("it took longer than {} s", CLONE_DEADLINE.as_secs())),
    };
    problem.map(|problem| format!("the repository could not be cloned: {problem}"))
}

/// Runs a command to its end; the value is what it complained of, when it failed.
async fn run(serving: &Arc<Serving>, entry: &Entry, request: ExecRequest) -> Result<Option<String>, Error> {
    let mut exec = exec(serving, entry.id, request).await?;
    let mut complaint = String::new();
    while let Some(event) = exec.next().await? {
        match event {
            ExecEvent::Stdout(_) => {}
            ExecEvent::Stderr(bytes) if complaint.len() < MESSAGE_CHARS_MAX => {
                complaint.push_str(&String::from_utf8_lossy(&bytes));
            }
            ExecEvent::Stderr(_) => {}
            ExecEvent::Exited(0) => return Ok(None),
            ExecEvent::Exited(_) => break,
        }
    }
    Ok(Some(complaint.trim().chars().take(MESSAGE_CHARS_MAX).collect()))
}
