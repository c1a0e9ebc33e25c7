//! The streams of a process: what it gets, and what is kept of them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::pipe::PipeFlags;

use engine::Journal;
use sys::watch::Watched;

/// Where output comes from; closed ones are gone.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) stdout: Option<Arc<Watched<OwnedFd>>>,
    pub(crate) stderr: Option<Arc<Watched<OwnedFd>>>,
    /// Through which it goes; what a sandbox leaves in its pipes when it ends is taken as well.
    pub(crate) journal: Arc<Journal>,
}

/// The two sides of a process's streams.
pub(crate) struct Streams {
    /// What it gets, and what is kept of the others.
    pub(crate) theirs: Vec<OwnedFd>,
    pub(crate) sources: Sources,
    pub(crate) input: Option<Arc<Watched<OwnedFd>>>,
}

/// Makes the pipes of a process that is to be started.
///
/// # Errors
/// The kernel's.
pub(crate) fn pipes(has_input: bool, journal: Arc<Journal>) -> io::Result<Streams> {
    let pipe = || {
        let ends = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // `/dev/stdout` is opened anew, by the mode of the pipe: proc(5). It is the daemon's, whose id is nobody's
        // inside. Only who may look into a process's descriptors comes to it.
        rustix::fs::fchmod(&ends.0, Mode::from_raw_mode(0o666))?;
        Ok::<_, rustix::io::Errno>(ends)
    };
    let watched = |fd: OwnedFd| {
        // Ours only: a program may take a stream that does not block for broken.
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok::<_, io::Error>(Some(Arc::new(Watched::new(fd)?)))
    };
    let (stdin, input) = if has_input {
        let (read, write) = pipe()?;
        (read, watched(write)?)
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let sources = Sources { stdout: watched(stdout)?, stderr: watched(stderr)?, journal };
    Ok(Streams { theirs: vec![stdin, stdout_end, stderr_end], sources, input })
}
