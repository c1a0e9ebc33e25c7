//! The streams of a process in a sandbox that can be given descriptors and cannot hand any back.
//!
//! They are pipes with names, beside the ring: `<id>.out`, `<id>.err` and `<id>.in`. `sandbox-init` keeps
//! their other ends as ever, so nothing is lost while there is no daemon, and the next one opens them by name. What
//! goes through a terminal is moved by `sandbox-init` to and from such pipes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::running::process::streams::{Sources, Streams};
use engine::{Journal, named};
use protocol::Spawn;
use sys::watch::Watched;

const OUTPUT: &str = "out";
const ERRORS: &str = "err";
const INPUT: &str = "in";

type End = Option<Arc<Watched<OwnedFd>>>;

/// Makes the pipes of a process that is to be started.
///
/// # Errors
/// The kernel's.
pub(crate) fn streams(ring: &Path, spawn: &Spawn, journal: Arc<Journal>) -> io::Result<Streams> {
    let has_terminal = spawn.tty.is_some();
    let (stdin, input) = if has_terminal || spawn.input {
        let [read, write] = named::pipe(&path(ring, INPUT))?;
        (blocking(read)?, watched(write)?)
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let [stdout, stdout_end] = named::pipe(&path(ring, OUTPUT))?;
    let mut theirs = vec![stdin, blocking(stdout_end)?];
    let mut sources = Sources { stdout: watched(stdout)?, stderr: None, journal };
    if !has_terminal {
        let [stderr, stderr_end] = named::pipe(&path(ring, ERRORS))?;
        theirs.push(blocking(stderr_end)?);
        sources.stderr = watched(stderr)?;
    }
    Ok(Streams { theirs, sources, input })
}

/// Opens the pipes of a process that an earlier daemon started.
///
/// # Errors
/// The kernel's; there are none.
pub(crate) fn find(ring: &Path, has_terminal: bool, journal: &Arc<Journal>) -> io::Result<(Sources, End)> {
    let journal = Arc::clone(journal);
    let stdout = watched(named::reader(&path(ring, OUTPUT))?)?;
    let stderr = if has_terminal { None } else { watched(named::reader(&path(ring, ERRORS))?)? };
    let input = named::writer(&path(ring, INPUT))?.map(watched).transpose()?.flatten();
    Ok((Sources { stdout, stderr, journal }, input))
}

/// Removes the names; who has the pipes open keeps them.
pub(crate) fn remove(ring: &Path) {
    for which in [OUTPUT, ERRORS, INPUT] {
        // Not every process has them all.
        let _ignored: io::Result<()> = std::fs::remove_file(path(ring, which));
    }
}

/// Removes the name of an input whose end has been asked for: the next daemon must not open it again.
pub(crate) fn remove_input(ring: &Path) {
    let _ignored: io::Result<()> = std::fs::remove_file(path(ring, INPUT));
}

fn path(ring: &Path, which: &str) -> PathBuf {
    ring.with_extension(which)
}

/// A program may take a stream that does not block for broken.
fn blocking(end: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&end, false)?;
    Ok(end)
}

fn watched(end: OwnedFd) -> io::Result<End> {
    Ok(Some(Arc::new(Watched::new(end)?)))
}
