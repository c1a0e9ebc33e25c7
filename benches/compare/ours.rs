//! The server, over loopback HTTP, as any client would drive it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Client, CreateSandbox};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::files::{self, Yard};
use super::stats::Operation;
use super::stream::Api;
use super::{Contender, Recorder, Trouble, web};

/// A command or a wake that takes longer is a failure, not a sample.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    /// `host:port` of the previews.
    pub(crate) preview: String,
    pub(crate) preview_domain: String,
}

/// The server as a contender.
#[derive(Debug)]
pub(crate) struct Ours {
    name: &'static str,
    server: Server,
    runtime: Runtime,
    client: Arc<Client>,
    /// Sleeps and wakes; made by the set-up.
    app: Option<String>,
    /// Runs, and has the same app without a manifest.
    bare: Option<String>,
    idle: Vec<String>,
    /// Moved in and out, where that can be compared.
    files: Option<Rc<Yard>>,
    /// Processes of the server and of its sandboxes begin so.
    process_names: Vec<&'static str>,
}

impl Ours {
    pub(crate) fn new(name: &'static str, server: Server, files: Option<Rc<Yard>>) -> Result<Self, Trouble> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Trouble::because("start a runtime", &e))?;
        let client = Arc::new(connect(&server)?);
        Ok(Self {
            name,
            server,
            runtime,
            client,
            app: None,
            bare: None,
            idle: Vec::new(),
            files,
            process_names: vec!["sandbox"],
        })
    }

    fn create(&self) -> Result<String, Trouble> {
        self.runtime.block_on(create(&self.client))
    }

    fn exec(&self, id: &str, command: &str) -> Result<(), Trouble> {
        self.output(id, command).map(drop)
    }

    /// The app's own start, in a sandbox that runs.
    fn app_alone(&self, id: &str) -> Result<Duration, Trouble> {
        let text = self.output(id, "env -C app python3 alone.py")?;
        let milliseconds = text.trim().parse::<f64>();
        let milliseconds = milliseconds.map_err(|e| Trouble::because("read how long the app took", &e))?;
        Ok(Duration::from_secs_f64(milliseconds / 1000.0))
    }

    fn output(&self, id: &str, command: &str) -> Result<String, Trouble> {
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let answer = self.runtime.block_on(self.client.exec(id, &command, LIMIT));
        let output = answer.map_err(|e| Trouble::because("exec", &e))?.value;
        if output.exit_code != 0 {
            return Err(Trouble::new(format!("exec {command:?} ended with {}", output.exit_code)));
        }
        Ok(output.stdout)
    }

    fn purge(&self, id: &str) -> Result<(), Trouble> {
        self.runtime.block_on(self.client.purge(id)).map(|_| ()).map_err(|e| Trouble::because("purge", &e))
    }

    fn stop(&self, id: &str) -> Result<(), Trouble> {
        self.runtime.block_on(self.client.stop(id)).map(|_| ()).map_err(|e| Trouble::because("stop", &e))
    }

    fn freeze(&self, id: &str) -> Result<(), Trouble> {
        self.runtime.block_on(self.client.pause(id)).map(|_| ()).map_err(|e| Trouble::because("pause", &e))
    }

    fn wake(&self, id: &str) -> Result<Duration, Trouble> {
        let host = format!("s-{}-{}.preview.{}", id.to_lowercase(), web::PORT, self.server.preview_domain);
        web::first_answer(&self.server.preview, &host, Instant::now(), LIMIT)
    }
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn set_up(&mut self) -> Result<(), Trouble> {
        let id = self.create()?;
        self.app = Some(id.clone());
        let bare = self.create()?;
        self.bare = Some(bare.clone());
        for (sandbox, path, content) in [
            (&id, "server.py", web::SERVER),
            (&id, "sandbox.yaml", web::MANIFEST),
            (&bare, "server.py", web::SERVER),
            (&bare, "alone.py", web::ALONE),
        ] {
            let put = self.client.put_file(sandbox, path, Bytes::from_static(content.as_bytes()));
            self.runtime.block_on(put).map_err(|e| Trouble::because("put a file", &e))?;
        }
        self.app_alone(&bare)?;
        // Once through everything: caches are warm as the rivals' are.
        self.stop(&id)?;
        self.wake(&id)?;
        self.stop(&id)?;
        let warm = self.create()?;
        self.exec(&warm, "true")?;
        self.purge(&warm)
    }

    fn round(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Trouble> {
        let app = self.app.clone().ok_or_else(|| Trouble::new("use an app that was not set up"))?;
        recorder.pause();
        let started = Instant::now();
        let id = self.create()?;
        let created = started.elapsed();
        self.exec(&id, "echo ready")?;
        recorder.add(Operation::CreateExec, started.elapsed());
        recorder.add(Operation::Create, created);
        recorder.time(Operation::Exec, || self.exec(&id, "true"))?;
        recorder.time_hot(Operation::ExecHot, || self.exec(&id, "true"))?;
        recorder.time(Operation::Purge, || self.purge(&id))?;
        recorder.pause();
        recorder.add(Operation::Wake, self.wake(&app)?);
        let bare = self.bare.as_deref().ok_or_else(|| Trouble::new("use an app that was not set up"))?;
        recorder.add(Operation::AppStart, self.app_alone(bare)?);
        recorder.time(Operation::Freeze, || self.freeze(&app))?;
        recorder.pause();
        // The request itself thaws it.
        recorder.add(Operation::Thaw, self.wake(&app)?);
        recorder.time(Operation::Stop, || self.stop(&app))?;
        let Some(yard) = &self.files else { return Ok(()) };
        let api = Api::new(&self.server.url, self.server.token.as_deref());
        files::round(&api, &app, yard, recorder)
    }

    fn creates_per_second(&mut self, clients: u32, each: u32) -> Option<Result<f64, Trouble>> {
        let started = Instant::now();
        let ids = self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..clients {
                // Each with a connection of its own, as separate clients have.
                let client = connect(&self.server)?;
                tasks.spawn(async move {
                    let mut ids = Vec::new();
                    for _ in 0..each {
                        ids.push(create(&client).await?);
                    }
                    Ok::<_, Trouble>(ids)
                });
            }
            tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()
        });
        let took = started.elapsed();
        Some(ids.and_then(|ids| {
            ids.iter().flatten().try_for_each(|id| self.purge(id))?;
            Ok(f64::from(clients * each) / took.as_secs_f64())
        }))
    }

    fn start_idle(&mut self, count: u32) -> Option<Result<(), Trouble>> {
        Some((0..count).try_for_each(|_| {
            self.idle.push(self.create()?);
            Ok(())
        }))
    }

    fn stop_idle(&mut self) {
        for id in std::mem::take(&mut self.idle) {
            // What is left is left on the private server, which goes next.
            self.purge(&id).ok();
        }
    }

    fn amid_idle(&mut self, recorder: &mut Recorder<'_>, times: u32) -> Result<(), Trouble> {
        let id = self.create()?;
        self.idle.push(id.clone());
        let api = Api::new(&self.server.url, self.server.token.as_deref());
        self.exec(&id, "true")?;
        for _ in 0..times {
            recorder.time_hot(Operation::ExecAmid, || self.exec(&id, "true"))?;
            recorder.add(Operation::FirstByte, api.first_byte(&id)?);
        }
        for _ in 0..times.div_ceil(50) {
            recorder.add(Operation::Stream, api.stream(&id)?);
        }
        Ok(())
    }

    fn process_names(&self) -> &[&'static str] {
        &self.process_names
    }

    fn tear_down(&mut self) {
        self.stop_idle();
        for sandbox in [self.app.take(), self.bare.take()].into_iter().flatten() {
            self.purge(&sandbox).ok();
        }
    }
}

pub(crate) fn connect(server: &Server) -> Result<Client, Trouble> {
    Client::new(&server.url, server.token.as_deref())
        .map_err(|e| Trouble::because("use the server's address", &e))
}

pub(crate) async fn create(client: &Client) -> Result<String, Trouble> {
    let request = CreateSandbox {
        ports: vec![web::PORT],
        template: Some("blank".to_owned()),
        memory_high: Some("512M".to_owned()),
        ..CreateSandbox::default()
    };
    client.create(&request).await.map(|row| row.value.id).map_err(|e| Trouble::because("create", &e))
}
