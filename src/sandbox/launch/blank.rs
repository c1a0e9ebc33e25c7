//! A launched sandbox that is nobody's yet, and the place on the host where it runs.
//!
//! ```text
//! site: lease + cgroup + network + run directory ─► blank: launched, sandbox-init waits ─► (claimed)
//! ```
//!
//! Neither is recorded: they have no owner, and what they leave behind is found by its name, that of a launch
//! which no record knows. So both can be made before anybody asks for them (see [`crate::launch::pool`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::{Error, chain};
use crate::base::points::fail_point;
use crate::base::records::Records;
use crate::base::tasks::blocking;
use crate::launch::etc::write_etc;
use crate::launch::ground::Ground;
use crate::launch::host::Host;
use crate::launch::limits::settings;
use crate::launch::spaces::Space;
use crate::launch::undo::{Undo, run, take_back};
use crate::launch::{bundles, ids};
use crate::running::process::link::Attaching;
use engine::{Engine, Identity, Launch, Launched};
use model::{Isolation, LaunchId, Limits, Record};
use network::Attachment;
use sys::cgroup::Cgroup;
use sys::controls::Settings;
use telemetry::{Trace, phase};

/// A file in the run directory of a launch that is nobody's yet. It goes with the last step of a claim, once the
/// record says that it runs; so it tells a daemon that finds both that the claim was not finished. Like what
/// runs there, it need not survive more than a daemon.
const UNCLAIMED: &str = "unclaimed";

/// A file beside it with the record of the sandbox that runs there, should the database lose that.
const NOTE: &str = "record";
/// The most bytes of a note: a record with the largest environment has a quarter of that.
const NOTE_BYTES_MAX: u64 = 4 << 20;

/// Where a launch will run.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) launch: LaunchId,
    pub(crate) address_index: u32,
    pub(crate) network: Attachment,
    /// Without one its processes have the host's ids.
    pub(crate) space: Option<Space>,
    pub(crate) cgroup: Cgroup,
    pub(crate) run_directory: PathBuf,
    settings: Settings,
    nested: bool,
}

/// A launched sandbox without identity.
#[derive(Debug)]
pub(crate) struct Blank {
    pub(crate) site: Site,
    pub(crate) launched: Launched,
    /// The way to its processes, once it is somebody's.
    pub(crate) attaching: Option<Attaching>,
    nofile: u64,
    engine: Engine,
}

/// A launch that failed: it is for the caller to say when the site goes.
#[derive(Debug)]
pub(crate) struct Unlaunched {
    pub(crate) site: Site,
    pub(crate) cause: Error,
}

impl Site {
    /// Makes a site with these limits; `nested`: in which programs may make namespaces.
    ///
    /// # Errors
    /// The step that failed; nothing is left, or what is left is named by [`Error::Leftovers`].
    pub(crate) async fn make(ground: &Ground, limits: &Limits, nested: bool) -> Result<Self, Error> {
        fail_point("provision-lease")?;
        let address_index = ground
            .books
            .leases
            .take()
            .ok_or_else(|| Error::Exhausted("no address is left for another sandbox".into()))?;
        let mut undo = vec![Undo::Lease(address_index)];
        let launch = LaunchId::generate();
        let settings = settings(&ground.host, limits);
        let run_directory = ground.host.config.run_dir.join(launch.to_string());
        // The two do not know one another, and each waits for the kernel: they go at once.
        let (cgroup, network) = tokio::join!(
            phase("cgroup", make_cgroup(ground, launch, settings)),
            // Apart, since its size would be that of everything that makes a site.
            phase("network", Box::pin(connect(ground, address_index, nested)))
        );
        // Whatever was made is noted before the first failure is looked at.
        if let Ok(cgroup) = &cgroup {
            undo.push(Undo::Cgroup(cgroup.clone()));
        }
        let made = async {
            let (cgroup, (space, network)) = (cgroup?, network?);
            undo.push(Undo::RunDirectory(run_directory.clone()));
            make_run_directory(&ground.host, &run_directory)?;
            Ok(Self { launch, address_index, network, space, cgroup, run_directory, settings, nested })
        };
        match made.await {
            Ok(site) => Ok(site),
            Err(cause) => Err(take_back(ground, undo, cause).await),
        }
    }

    /// How it is taken away.
    pub(crate) fn undo(&self) -> Vec<Undo> {
        vec![
            Undo::Lease(self.address_index),
            Undo::Cgroup(self.cgroup.clone()),
            Undo::RunDirectory(self.run_directory.clone()),
        ]
    }

    /// Says that what runs here is somebody's: the last step of a claim.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn note_claimed(&self) -> Result<(), Error> {
        let mark = self.run_directory.join(UNCLAIMED);
        std::fs::remove_file(&mark).map_err(|source| failed(&mark, source))
    }

    /// Gives it other limits than it was made with.
    fn limit(&mut self, host: &Host, limits: &Limits) -> Result<(), Error> {
        let settings = settings(host, limits);
        if settings != self.settings {
            self.cgroup.limit(&self.settings, &settings).map_err(Error::Cgroup)?;
            self.settings = settings;
        }
        Ok(())
    }
}

impl Blank {
    /// Launches a container at a site; the rootfs is looked at first, so that no mount can be led out of it
    /// by a link.
    ///
    /// # Errors
    /// The step that failed, and the site, at which something may be.
    pub(crate) async fn launch(ground: &Ground, site: Site, nofile: u64) -> Result<Self, Box<Unlaunched>> {
        Self::launch_as(ground, site, nofile, Engine::of(Isolation::Container), None, None).await
    }

    /// The same for any engine; one that does not begin nameless is somebody's at once, and so is one whose root
    /// file system is written to such layers.
    ///
    /// # Errors
    /// As [`Blank::launch`].
    pub(crate) async fn launch_as(
        ground: &Ground,
        mut site: Site,
        nofile: u64,
        engine: Engine,
        identity: Option<&Identity>,
        layers: Option<PathBuf>,
    ) -> Result<Self, Box<Unlaunched>> {
        if !engine.has_users() {
            // Its network stays where it is.
            site.space = None;
        }
        // Apart, since its size would be that of everything that starts a sandbox.
        match Box::pin(launch(ground, &site, nofile, engine, identity, layers)).await {
            Ok(launched) => Ok(Self { site, launched, attaching: None, nofile, engine }),
            Err(cause) => Err(Box::new(Unlaunched { site, cause })),
        }
    }

    /// Waits until its `sandbox-init` answers.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn wait_ready(&self) -> Result<(), Error> {
        self.launched.control.hello().await.map_err(Error::Control)
    }

    /// Whether it can become a sandbox with such limits: those of its processes were set at its launch.
    pub(crate) fn fits(&self, nofile: u64) -> bool {
        self.nofile == nofile
    }

    /// Gives it an identity; the workspace is that of a path unless it is given; `running` is its record. After a failure it is of no use any more.
    ///
    /// # Errors
    /// The step that failed.
    pub(crate) async fn claim(
        &mut self,
        ground: &Ground,
        limits: &Limits,
        identity: Identity,
        workspace: Option<OwnedFd>,
        running: &Record,
    ) -> Result<(), Error> {
        fail_point("provision-claim")?;
        self.site.limit(&ground.host, limits)?;
        // While the record is synced, for which the caller waits beside this.
        write_note(&ground.books.records, &self.site.run_directory, running);
        if self.engine.begins_nameless() {
            let ids = self.site.space.as_ref().and_then(|space| space.workspace.as_ref());
            let furnished = ground.host.runtime.furnish(&self.launched.process, ids, &identity, workspace);
            phase("furnish", furnished).await.map_err(Error::Launch)?;
        }
        phase("identity", self.launched.control.claim(identity.env)).await.map_err(Error::Control)?;
        // What the first command needs, while the rest of the create goes on.
        let control = self.launched.control.clone();
        self.attaching = Some(ground.tasks.spawn(async move { control.attach().await }));
        Ok(())
    }
}

async fn launch(
    ground: &Ground,
    site: &Site,
    nofile: u64,
    engine: Engine,
    identity: Option<&Identity>,
    layers: Option<PathBuf>,
) -> Result<Launched, Error> {
    let looking = Arc::clone(&ground.host);
    let (directory, identity) = (site.run_directory.clone(), identity.cloned());
    let workspace = identity.as_ref().map(|identity| identity.workspace.clone());
    let is_writable = layers.is_some();
    let bundle = blocking(move || {
        fail_point("provision-bundle")?;
        looking.check_rootfs()?;
        // The site may have been made a while ago, and the run directory cleared since.
        if !directory.exists() {
            make_run_directory(&looking, &directory)?;
        }
        match identity {
            Some(identity) => bundles::of_gvisor(&looking, &directory, nofile, &identity),
            None => bundles::of_kind(&looking, nofile, is_writable),
        }
    });
    let bundle = phase("rootfs", bundle).await?;
    fail_point("provision-launch")?;
    let begun = std::time::Instant::now();
    let launch = Launch {
        id: site.launch,
        directory: site.run_directory.clone(),
        bundle,
        netns: Arc::clone(&site.network.netns),
        stage: engine
            .is_staged()
            .then(|| ids::staging(&ground.host, site.space.as_ref(), layers))
            .transpose()?,
        cgroup: site.cgroup.entry().map_err(Error::Cgroup)?,
        nested: site.nested,
        engine,
        workspace,
    };
    let launched = phase("launch", ground.host.runtime.launch(launch)).await.map_err(Error::Launch)?;
    if let Some(trace) = Trace::current() {
        trace.note_as("container-create", begun, launched.create);
        trace.note_as("container-start", begun, launched.start);
    }
    Ok(launched)
}

async fn make_cgroup(ground: &Ground, launch: LaunchId, settings: Settings) -> Result<Cgroup, Error> {
    let host = Arc::clone(&ground.host);
    blocking(move || {
        fail_point("provision-cgroup")?;
        host.cgroups.create(&launch.to_string(), &settings).map_err(Error::Cgroup)
    })
    .await
}

/// Makes the namespaces, and the network in them.
async fn connect(ground: &Ground, index: u32, nested: bool) -> Result<(Option<Space>, Attachment), Error> {
    let (space, netns) = match ground.host.config.user_spaces {
        Some(spaces) => {
            let (space, netns) =
                phase("namespaces", spaces.make(&ground.host.runtime, index, nested)).await?;
            (Some(space), Some(netns))
        }
        None => (None, None),
    };
    let host = Arc::clone(&ground.host);
    let attached = blocking(move || {
        fail_point("provision-network")?;
        host.network.attach(index, netns).map_err(Error::Network)
    });
    Ok((space, attached.await?))
}

/// Whether what was launched as this is nobody's, whatever the record says.
pub(crate) fn is_unclaimed(run_dir: &Path, launch: LaunchId) -> bool {
    run_dir.join(launch.to_string()).join(UNCLAIMED).exists()
}

/// Keeps the record of a sandbox beside what runs. Without it a database that was lost is harder to replace, no more.
pub(crate) fn write_note(records: &Records, run_directory: &Path, record: &Record) {
    let write = |text: String| {
        let new = run_directory.join(format!("{NOTE}.new"));
        let file = std::fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(&new);
        file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
            .and_then(|()| std::fs::rename(&new, run_directory.join(NOTE)))
            .map_err(|source| failed(&new, source))
    };
    if let Err(error) = records.note(record).and_then(write) {
        tracing::warn!(id = %record.spec.id, error = %chain(&error), "failed to keep the record beside a sandbox that runs");
    }
}

/// The records that were kept beside what runs, but for what is nobody's yet.
pub fn notes(run_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let launches = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<LaunchId>().ok());
    let claimed = launches.filter(|launch| !is_unclaimed(run_dir, *launch));
    let read = |launch: LaunchId| {
        let file = std::fs::File::open(run_dir.join(launch.to_string()).join(NOTE)).ok()?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, NOTE_BYTES_MAX), &mut text).ok()?;
        Some(text)
    };
    claimed.filter_map(read).collect()
}

fn make_run_directory(host: &Host, path: &Path) -> Result<(), Error> {
    let failed = |source| failed(path, source);
    let make = || std::fs::DirBuilder::new().mode(0o700).create(path);
    match make() {
        // Somebody has removed everything: what all sandboxes share goes first.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_etc(host)?;
            make().map_err(failed)?;
        }
        made => made.map_err(failed)?,
    }
    std::fs::File::create(path.join(UNCLAIMED)).map(drop).map_err(failed)
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::RunDirectory { path: path.display().to_string(), source }
}

/// Removes a site; what runs at it is killed with its cgroup.
pub(crate) async fn discard(ground: &Ground, site: Site) {
    for error in run(ground, site.undo()).await {
        tracing::error!(launch = %site.launch, error = %chain(&error), "cannot remove a sandbox that is nobody's");
    }
}
