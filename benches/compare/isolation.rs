//! What isolation costs: each measure at the start of a process, and the filter at each system call.
//!
//! Everything is done by the code that launches sandboxes (`sys`, `engine::bundle::seccomp`), with a measure and without it, in turns within
//! one run. Landlock, which sandboxes do not use, is there for comparison.

use std::ffi::CStr;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::bundle::{Template, seccomp};
use model::IdBase;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};
use sys::clone::{self, Fork};
use sys::seccomp::{self as filter, Instruction};
use sys::userns::{self, Bounds, Extent};
use sys::{capabilities, mount, netns};

use super::landlock;
use super::ours::{self, Server};
use super::report::{ALL_MEASURES, Measure};
use super::stats::Summary;
use super::{Trouble, note};

/// Beyond those of the servers that are measured.
const ID_BASE: &str = "3221225472";
/// How often a child makes each call.
const CALLS: u32 = 100_000;
/// What they are called in results.
const OF_CALLS: [&str; 3] = ["getppid", "read of 1 byte", "openat + close"];

/// What a start is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct With {
    users: bool,
    seccomp: bool,
    landlock: bool,
}

const NOTHING: With = With { users: false, seccomp: false, landlock: false };
/// What sandboxes have.
const ALL: With = With { users: true, seccomp: true, landlock: false };
/// A measure that two servers are compared by too.
const OF_USERS: &str = "user namespace and mapped mounts";
const STARTS: [(&str, With); 4] = [
    (OF_USERS, With { users: true, ..NOTHING }),
    ("seccomp filter", With { seccomp: true, ..NOTHING }),
    (ALL_MEASURES, ALL),
    ("Landlock, not used", With { landlock: true, ..NOTHING }),
];

/// What is needed to start a process as a sandbox's first one.
struct Ground {
    init: OwnedFd,
    rootfs: PathBuf,
    workspace: PathBuf,
    processes: Vec<Extent>,
    files: Vec<Extent>,
    bounds: Bounds,
    program: Vec<Instruction>,
}

/// Measures everything in so many rounds; what cannot be measured is named with the reason.
pub(crate) fn measure(
    rounds: u32,
    (init, rootfs, workspace): (&Path, &Path, &Path),
    not_measured: &mut Vec<(String, String)>,
) -> Result<Vec<Measure>, Trouble> {
    let failed = |what: &'static str| move |e: io::Error| Trouble::because(what, &e);
    let ground = Ground::new(init, rootfs, workspace)?;
    let landlock = landlock::supported();
    if let Err(error) = &landlock {
        not_measured.push(("Landlock".to_owned(), error.to_string()));
    }
    let is_there = |with: With| landlock.is_ok() || !with.landlock;
    let mut starts: Vec<_> =
        STARTS.iter().filter(|(_, with)| is_there(*with)).map(|s| (*s, [vec![], vec![]])).collect();
    note("what isolation costs at the start");
    for _warm in 0..3 {
        ground.start(ALL).map_err(failed("start a process with all measures"))?;
    }
    for _round in 0..rounds {
        for ((_, with), [without, has]) in &mut starts {
            without.push(ground.start(NOTHING).map_err(failed("start a process"))?);
            has.push(ground.start(*with).map_err(failed("start a process with a measure"))?);
        }
    }
    note("what it costs at each system call");
    let kinds = [("seccomp filter", Confined::BySeccomp), ("Landlock, not used", Confined::ByLandlock)];
    let kinds = kinds.into_iter().filter(|(_, kind)| landlock.is_ok() || *kind != Confined::ByLandlock);
    let mut calls: Vec<_> = kinds.map(|kind| (kind, [vec![], vec![]])).collect();
    for _round in 0..rounds.min(20) {
        for ((_, kind), [without, has]) in &mut calls {
            without.push(ground.calls(Confined::No).map_err(failed("make system calls"))?);
            has.push(ground.calls(*kind).map_err(failed("make system calls under a filter"))?);
        }
    }
    let starts = starts
        .into_iter()
        .filter_map(|((name, _), [without, has])| Measure::of("start, ms", name.to_owned(), without, has));
    let calls = calls.into_iter().flat_map(|((name, _), [without, has])| {
        OF_CALLS.iter().enumerate().filter_map(move |(at, call)| {
            let of = |times: &[[f64; 3]]| times.iter().map(|round| round[at]).collect();
            Measure::of("call, ns", format!("{call}: {name}"), of(&without), of(&has))
        })
    });
    Ok(starts.chain(calls.collect::<Vec<_>>()).collect())
}

/// Times creates, in turns, of two servers that launch nothing ahead, of which only the second has user namespaces.
pub(crate) fn creates(rounds: u32, servers: [&Server; 2]) -> Result<Vec<Measure>, Trouble> {
    note("what it costs a create");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Trouble::because("start a runtime", &e))?;
    let clients = [ours::connect(servers[0])?, ours::connect(servers[1])?];
    let mut times = [vec![], vec![]];
    for round in 0..=rounds {
        for (client, times) in clients.iter().zip(&mut times) {
            let begun = Instant::now();
            let id = runtime.block_on(ours::create(client))?;
            // The first warms up.
            if round > 0 {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            runtime.block_on(client.purge(&id)).map_err(|e| Trouble::because("purge", &e))?;
        }
    }
    let [without, with] = times;
    Ok(Measure::of("create without a pool, ms", OF_USERS.to_owned(), without, with).into_iter().collect())
}

/// Under what a child makes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confined {
    No,
    BySeccomp,
    ByLandlock,
}

impl Ground {
    fn new(init: &Path, rootfs: &Path, workspace: &Path) -> Result<Self, Trouble> {
        let base = ID_BASE.parse::<IdBase>().map_err(|e| Trouble::because("find ids", &e))?;
        let range = base.range(0).ok_or_else(|| Trouble::new("find ids for a user namespace"))?;
        let template = Template::embedded().map_err(|e| Trouble::because("read the template", &e))?;
        Ok(Self {
            init: File::open(init)
                .map_err(|e| Trouble::because(format!("open {}", init.display()), &e))?
                .into(),
            rootfs: rootfs.to_owned(),
            workspace: workspace.to_owned(),
            processes: range.processes(),
            files: range.workspace(),
            bounds: template.bounds().map_err(|e| Trouble::because("read the template", &e))?,
            program: seccomp::embedded().map_err(|e| Trouble::because("compile the filter", &e))?,
        })
    }

    /// Makes namespaces and mounts, forks, confines the child, has it execute `sandbox-init`, which ends at once since
    /// nobody is at its other end, and waits for that: in milliseconds.
    fn start(&self, with: With) -> io::Result<f64> {
        let begun = Instant::now();
        let (user, network, files) = if with.users {
            let made = userns::make(&self.processes, true, &self.bounds)?;
            let files = userns::make(&self.files, false, &Bounds::default())?.user;
            (Some(made.user), made.network.ok_or(io::ErrorKind::NotFound)?, Some(files))
        } else {
            (None, netns::create(|| Ok(()))?.0, None)
        };
        let as_fd =
            |fd: &'_ Option<OwnedFd>| fd.as_ref().map(|fd| fd.as_fd().try_clone_to_owned()).transpose();
        let (of_root, of_files) = (as_fd(&user)?, as_fd(&files)?);
        let _root = mount::detached_at(&self.rootfs, of_root.as_ref().map(|fd| fd.as_fd()))?;
        let _home = mount::detached_at(&self.workspace, of_files.as_ref().map(|fd| fd.as_fd()))?;
        match clone::fork_into(None)? {
            Fork::Parent(pid) => {
                let status = clone::wait_for(pid);
                let took = begun.elapsed().as_secs_f64() * 1e3;
                // Its own code for a socket that is not there.
                if status == Some(1) {
                    Ok(took)
                } else {
                    Err(io::Error::other(format!("it ended with {status:?}")))
                }
            }
            Fork::Child => {
                let error = self.become_init(with, user.as_ref().map(|fd| fd.as_fd()), network.as_fd());
                clone::exit_now(error.err().and_then(|e| e.raw_os_error()).unwrap_or(255).max(2))
            }
        }
    }

    fn become_init(
        &self,
        with: With,
        user: Option<BorrowedFd<'_>>,
        network: BorrowedFd<'_>,
    ) -> io::Result<()> {
        const NAME: &CStr = c"sandbox-init";
        if let Some(user) = user {
            move_into_link_name_space(user, Some(LinkNameSpaceType::User))?;
        }
        move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
        // What it says of the socket that is not there.
        let null = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stderr(&null)?;
        capabilities::gain_nothing()?;
        if with.landlock {
            landlock::restrict()?;
        }
        if with.seccomp {
            filter::load(&self.program)?;
        }
        Err(clone::execute(self.init.as_fd(), NAME, &[]))
    }

    /// Has a child make calls, and say how many nanoseconds each took.
    fn calls(&self, confined: Confined) -> io::Result<[f64; 3]> {
        let (mut ours, theirs) = io::pipe()?;
        match clone::fork_into(None)? {
            Fork::Child => {
                drop(ours);
                clone::exit_now(i32::from(self.call_and_tell(confined, theirs).is_err()))
            }
            Fork::Parent(pid) => {
                drop(theirs);
                let mut bytes = [[0; 8]; 3];
                let told = ours.read_exact(bytes.as_flattened_mut());
                clone::wait_for(pid);
                told.map(|()| bytes.map(f64::from_ne_bytes))
            }
        }
    }

    fn call_and_tell(&self, confined: Confined, mut told: PipeWriter) -> io::Result<()> {
        let zero = File::open("/dev/zero")?;
        capabilities::gain_nothing()?;
        match confined {
            Confined::No => {}
            Confined::BySeccomp => filter::load(&self.program)?,
            Confined::ByLandlock => landlock::restrict()?,
        }
        let asks = per_call(CALLS, || {
            black_box(rustix::process::getppid());
            Ok(())
        })?;
        let reads = per_call(CALLS, || rustix::io::read(&zero, &mut [0_u8; 1]).map(drop))?;
        let opens = per_call(CALLS / 4, || {
            rustix::fs::open("/etc/passwd", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop)
        })?;
        told.write_all([asks, reads, opens].map(f64::to_ne_bytes).as_flattened())
    }
}

/// Nanoseconds of processor time of one of so many calls: others that run meanwhile do not count.
fn per_call(count: u32, mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<f64> {
    let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let begun = used();
    for _ in 0..count {
        call()?;
    }
    Ok((used() - begun).as_secs_f64() * 1e9 / f64::from(count))
}

impl Measure {
    /// `None` of nothing.
    fn of(kind: &'static str, name: String, without: Vec<f64>, with: Vec<f64>) -> Option<Self> {
        Some(Self { kind, name, without: Summary::of(without)?, with: Summary::of(with)? })
    }
}
