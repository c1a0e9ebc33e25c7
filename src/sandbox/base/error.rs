//! What can go wrong, and whose fault it is.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use engine::bundle::BundleError;
use engine::{ControlError, LaunchError};
use metadata::MetadataError;
use model::{SandboxId, Status};
use network::NetworkError;
use storage::{FileError, StorageError};
use sys::cgroup::CgroupError;

/// `ENOENT`.
const NOT_THERE: i32 = 2;
/// What is said when nothing can be written, for the time being or until somebody sees to it.
const UNWRITABLE: &str = "the host's disk cannot be written now; what is there can be read";

/// Why a request failed; [`Error::kind`] says what the client should do.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::error_impl_error, reason = "the module's one error, always named sandbox::Error")]
pub enum Error {
    #[error("find the sandbox {0}")]
    NotFound(SandboxId),
    #[error("take the request: {0}")]
    Invalid(String),
    #[error("take the request: {0}")]
    Conflict(String),
    #[error("find the process {0:?} of the app")]
    UnknownProcess(String),
    #[error("take the request: {0}")]
    Busy(&'static str),
    #[error("{request} a sandbox that is {status}")]
    State { request: &'static str, status: Status },
    #[error("start a sandbox: the host is short of memory ({mem_available_percent} % available)")]
    Refused { reason: RefusedReason, mem_available_percent: f64 },
    #[error("create a sandbox: {0}")]
    Exhausted(String),
    #[error("find the process")]
    NoProcess,
    #[error("start {what}: {}", std::io::Error::from_raw_os_error(*errno))]
    Unstartable { what: String, errno: i32 },
    #[error("start a process: {0}")]
    TooMany(String),
    #[error("{action}")]
    ProcessOutput {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("use a file of the workspace")]
    File(#[source] FileError),
    #[error("use the workspace")]
    Storage(#[source] StorageError),
    #[error("record the sandbox")]
    Metadata(#[source] MetadataError),
    #[error("connect the sandbox to the network")]
    Network(#[source] NetworkError),
    #[error("limit the sandbox")]
    Cgroup(#[source] CgroupError),
    #[error("write the bundle")]
    Bundle(#[source] BundleError),
    #[error("launch the sandbox")]
    Launch(#[source] LaunchError),
    #[error("talk to the sandbox")]
    Control(#[source] ControlError),
    /// A step failed, and then taking back the earlier ones did too.
    #[error("take back what a failed step left ({})", cleanup.join("; "))]
    Leftovers {
        #[source]
        cause: Box<Self>,
        cleanup: Vec<String>,
    },
    #[error("prepare the run directory {path}")]
    RunDirectory {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("reach the sandbox's driver: the daemon is ending")]
    Ending,
    /// A failure that a test asked for.
    #[error("pass the fail point {0}")]
    FailPoint(&'static str),
    #[error("wait for a blocking step: it panicked")]
    Panicked,
}

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Change the request.
    Invalid,
    NotFound,
    /// Look at the state.
    Conflict,
    TooLarge,
    /// Wait, or end something.
    TooMany,
    /// Free something.
    Exhausted,
    /// Wait: memory is short.
    Refused {
        reason: RefusedReason,
        mem_available_percent: f64,
    },
    /// Ask for less at once.
    Busy,
    /// Try again soon.
    Unavailable,
    /// Try again soon: the host has no descriptor, process or memory left for it.
    Short,
    /// Report it.
    Internal,
}

/// Which threshold of memory refuses a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedReason {
    LowMemory,
    WakesRefused,
}

impl RefusedReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LowMemory => "low_memory",
            Self::WakesRefused => "wakes_refused",
        }
    }
}

impl Error {
    /// Says what the client should do.
    pub fn kind(&self) -> Kind {
        match self.kind_of_variant() {
            // What the host ran out of is nobody's mistake, whichever step met it.
            kind @ (Kind::Internal | Kind::Unavailable) => self.kind_of_errno().unwrap_or(kind),
            kind => kind,
        }
    }

    /// By the kernel's number at the bottom of the chain, where it says what the host has run out of.
    fn kind_of_errno(&self) -> Option<Kind> {
        let of_kernel = |error: &(dyn std::error::Error + 'static)| {
            let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            io.or_else(|| error.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()))
        };
        let number = match self {
            Self::Launch(LaunchError::Container { errno: Some(errno), .. }) => Some(*errno),
            _ => {
                let chain =
                    std::iter::successors(Some(self as &(dyn std::error::Error + 'static)), |e| e.source());
                chain.filter_map(of_kernel).last()
            }
        };
        match Errno::from_raw_os_error(number?) {
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => Some(Kind::Short),
            // The limit of processes, where it is a process that was to be made.
            Errno::AGAIN if matches!(self, Self::Launch(_)) => Some(Kind::Short),
            Errno::NOSPC | Errno::DQUOT => Some(Kind::Exhausted),
            _ => None,
        }
    }

    fn kind_of_variant(&self) -> Kind {
        match self {
            Self::NotFound(_) | Self::UnknownProcess(_) | Self::NoProcess => Kind::NotFound,
            Self::TooMany(_) => Kind::TooMany,
            Self::Invalid(_) | Self::Unstartable { .. } => Kind::Invalid,
            Self::Conflict(_) | Self::State { .. } => Kind::Conflict,
            Self::Refused { reason, mem_available_percent } => {
                Kind::Refused { reason: *reason, mem_available_percent: *mem_available_percent }
            }
            Self::Exhausted(_) => Kind::Exhausted,
            Self::Busy(_) => Kind::Busy,
            Self::File(error) => file_kind(error),
            Self::Storage(StorageError::UnknownTemplate { .. }) => Kind::Invalid,
            Self::Storage(error) if error.is_full() => Kind::Exhausted,
            Self::Metadata(error) if error.is_full() => Kind::Exhausted,
            Self::Storage(error) if error.is_unwritable() => Kind::Unavailable,
            Self::Metadata(error) if error.is_busy() || error.is_unwritable() => Kind::Unavailable,
            Self::Leftovers { cause, .. } => cause.kind(),
            Self::Control(ControlError::Ended | ControlError::Socket { .. } | ControlError::Silent)
            | Self::Ending
            // Its processes did not come to rest in time: they wait for a disk, or are many on a busy host.
            | Self::Cgroup(CgroupError::Unfrozen { .. }) => Kind::Unavailable,
            // Removed by somebody; the next look at the host makes it again.
            Self::RunDirectory { source, .. } | Self::ProcessOutput { source, .. }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Kind::Unavailable
            }
            Self::Storage(_)
            | Self::Metadata(_)
            | Self::Network(_)
            | Self::Cgroup(_)
            | Self::Bundle(_)
            | Self::Launch(_)
            | Self::Control(_)
            | Self::RunDirectory { .. }
            | Self::ProcessOutput { .. } => kind_of_cause(self),
            Self::FailPoint(_) | Self::Panicked => Kind::Internal,
        }
    }

    /// What a shell would end with: 127 for a command that is not there, 126 for one that cannot be started.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Unstartable { errno, .. } => Some(if *errno == NOT_THERE { 127 } else { 126 }),
            _ => None,
        }
    }

    /// The text for the client: what was wrong and what to do; nothing internal.
    pub fn message(&self) -> String {
        match self {
            Self::NotFound(_) => "sandbox not found".to_owned(),
            Self::UnknownProcess(name) => format!("the app has no process {name:?} and no log of one"),
            Self::Busy(text) => (*text).to_owned(),
            Self::Unstartable { what, errno } => {
                format!("{what}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::NoProcess => "process not found".to_owned(),
            Self::Invalid(text) | Self::Conflict(text) | Self::Exhausted(text) | Self::TooMany(text) => {
                text.clone()
            }
            Self::State { request, status } => format!("cannot {request} a sandbox that is {status}"),
            Self::Refused { .. } => "the host is short of memory; try again later".to_owned(),
            Self::File(error) => error.to_string(),
            Self::Storage(error @ StorageError::UnknownTemplate { .. }) => error.to_string(),
            Self::Leftovers { cause, .. } => cause.message(),
            Self::Storage(error) if error.is_unwritable() => UNWRITABLE.to_owned(),
            Self::Metadata(error) if error.is_unwritable() => UNWRITABLE.to_owned(),
            Self::Metadata(error) if error.is_busy() => {
                "the server's record is held by another program; try again".to_owned()
            }
            _ => match self.kind() {
                Kind::Exhausted => "the host's disk is full".to_owned(),
                Kind::Short => {
                    "the host has no descriptor, process or memory left for it now; try again".to_owned()
                }
                Kind::Unavailable => "the sandbox is not reachable now; try again".to_owned(),
                _ => "internal error; the server's log has the cause under this request's id".to_owned(),
            },
        }
    }
}

/// What a failure on the host means for the client: by the first error of the kernel's among its causes.
fn kind_of_cause(error: &Error) -> Kind {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return kind_of_io(error);
        }
        if let Some(LaunchError::Container { errno: Some(errno), .. }) = error.downcast_ref() {
            return kind_of_io(&io::Error::from_raw_os_error(*errno));
        }
        cause = error.source();
    }
    Kind::Internal
}

fn kind_of_io(error: &io::Error) -> Kind {
    match Errno::from_io_error(error) {
        _ if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Kind::Exhausted
        }
        // The disk is read-only, has failed or is gone.
        Some(Errno::ROFS | Errno::IO | Errno::NODEV | Errno::STALE | Errno::UCLEAN) => Kind::Unavailable,
        // The host, or what the server may have of it, has no process, memory or descriptor left just now.
        Some(Errno::AGAIN | Errno::NOMEM | Errno::NFILE | Errno::MFILE | Errno::NOBUFS) => Kind::Unavailable,
        _ => Kind::Internal,
    }
}

fn file_kind(error: &FileError) -> Kind {
    match error {
        FileError::NotFound { .. } => Kind::NotFound,
        FileError::Exists { .. } | FileError::NotEmpty { .. } => Kind::Conflict,
        FileError::Limit { .. } => Kind::TooLarge,
        FileError::NoSpace { .. } => Kind::Exhausted,
        FileError::Unwritable { .. } => Kind::Unavailable,
        FileError::Held { .. } => Kind::Short,
        FileError::Io { .. } => Kind::Internal,
        _ => Kind::Invalid,
    }
}

/// Why a preview cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no such sandbox")]
    UnknownSandbox,
    #[error("the sandbox does not expose port {0}")]
    PortNotExposed(u16),
    /// The host is short of memory; nothing was woken.
    #[error("the host is short of memory ({})", reason.as_str())]
    Refused { reason: RefusedReason, mem_available_percent: f64, retry_after_secs: u32 },
    /// The sandbox could not be started.
    #[error("the sandbox did not start: {message}")]
    NotStarted { message: String },
    /// A health check does not wake it.
    #[error("the sandbox is asleep, and a health check does not wake it")]
    Asleep,
    /// Nothing is kept for one more that waits for this sandbox.
    #[error("too many requests wait for this sandbox")]
    TooManyHeld,
    /// The host has no descriptor or memory for one more connection.
    #[error("the server has too many connections open")]
    Overloaded,
    /// It runs, and nothing listens on the port; not waited for, since it has been up for long.
    #[error("nothing listens on port {0} in the sandbox")]
    NothingListens(u16),
    /// It was woken or is starting, and the app was not up in time.
    #[error("the app did not listen on port {port} within {} s", waited.as_secs())]
    TimedOut { port: u16, waited: Duration },
    /// The sandbox is for people who have been let in only.
    #[error("the preview is private")]
    Private,
}

/// An error with its causes in one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
