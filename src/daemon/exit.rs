//! The exit codes, after sysexits(3).

use std::io::{self, Write as _};
use std::process::ExitCode;

use metadata::MetadataError;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Success,
    /// What was checked is not as it should be.
    Failure,
    /// The command line is wrong (`EX_USAGE`).
    Usage,
    /// Something that is needed is not there: the rootfs, a port, another daemon's lock, a record that can be used
    /// (`EX_UNAVAILABLE`).
    Unavailable,
    /// A bug, or an error of the system that has no remedy here (`EX_SOFTWARE`).
    Software,
    /// Try again later: the disk is full or fails, or another program holds the database (`EX_TEMPFAIL`).
    TryAgain,
    /// No right to do it: not root, no cgroup to write (`EX_NOPERM`).
    Permission,
    /// The configuration is wrong (`EX_CONFIG`).
    Config,
    /// Sandboxes would be isolated less than was demanded (beyond sysexits).
    Isolation,
}

impl Exit {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Software => 70,
            Self::TryAgain => 75,
            Self::Permission => 77,
            Self::Config => 78,
            Self::Isolation => 79,
        }
    }

    /// How a start ends that failed so: later, if the disk is to blame, since somebody may see to it meanwhile.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return if is_of_disk(error) { Self::TryAgain } else { Self::Unavailable };
            }
            if error.downcast_ref::<MetadataError>().is_some_and(|e| e.is_full() || e.is_unwritable()) {
                return Self::TryAgain;
            }
            cause = error.source();
        }
        Self::Unavailable
    }

    /// Says why on standard error, in one line and a remedy, and ends so.
    pub(super) fn because(self, what: &dyn std::error::Error, remedy: &str) -> Self {
        complain(&format!("sandboxd: cannot {}", chain(what)));
        if !remedy.is_empty() {
            complain(&format!("sandboxd: {remedy}"));
        }
        self
    }
}

fn is_of_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let has_failed = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO);
    has_failed || matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Writes a line to standard error; a closed or full one must not end the daemon.
pub(super) fn complain(text: &str) {
    let _ignored: std::io::Result<()> = writeln!(std::io::stderr(), "{text}");
}

/// Writes a line to standard output.
pub(super) fn say(text: &str) {
    let _ignored: std::io::Result<()> = writeln!(std::io::stdout(), "{text}");
}
