//! What is wrong with what is asked of a sandbox.

/// The most ports of a sandbox.
pub(crate) const PORTS_MAX: usize = 64;
/// The most variables in a sandbox's environment.
pub(crate) const ENVIRONMENT_ENTRIES_MAX: usize = 1_000;
/// The most bytes of an environment, names and values together: one of the longest variables and a common rest.
/// Written as JSON it is at most six times that, which a frame of the control connection takes.
pub(crate) const ENVIRONMENT_BYTES_MAX: usize = 192 * 1024;
/// The most bytes of one variable with its `=` and NUL: `MAX_ARG_STRLEN` of execve(2).
pub(crate) const VARIABLE_BYTES_MAX: usize = 128 * 1024;
/// How much of a variable's name is repeated in an error.
pub(crate) const NAME_CHARS_MAX: usize = 100;
/// The most bytes in an outside id.
pub(crate) const EXTERNAL_LENGTH_MAX: usize = 256;
/// The longest time that a sandbox may be idle, in seconds: a year.
pub(crate) const SLEEP_SECS_MAX: u64 = 366 * 86_400;

/// Why a request to create a sandbox cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("ports are numbers from 1 to 65535, not {0}")]
    Port(i64),
    #[error("a sandbox has at most {PORTS_MAX} ports")]
    Ports,
    #[error("the name of an environment variable is not empty and has no '=', newline or NUL")]
    EnvironmentName,
    #[error("the value of the environment variable {0:?} has a NUL")]
    EnvironmentValue(String),
    #[error("the environment variable {0:?} has more than {VARIABLE_BYTES_MAX} bytes, with its '=' and NUL")]
    EnvironmentVariable(String),
    #[error(
        "an environment has at most {ENVIRONMENT_ENTRIES_MAX} variables and {ENVIRONMENT_BYTES_MAX} bytes"
    )]
    EnvironmentSize,
    #[error("a template's name has 1 to 64 characters of a-z, 0-9 and '-'")]
    Template,
    #[error("an app id has 1 to 128 characters of A-Z, a-z, 0-9, '-', '_' and '.'")]
    App,
    #[error("{0} has more than {EXTERNAL_LENGTH_MAX} characters or a control character")]
    External(&'static str),
    #[error("sleep.after is 1 to {SLEEP_SECS_MAX} seconds, and sleep.then_stop_after 0 to {SLEEP_SECS_MAX}")]
    Sleep,
    #[error("{0:?} is not one of {1}")]
    Choice(String, &'static str),
    #[error(
        "a repository's address is https://, http://, git://, ssh:// or file://, without blanks or control characters, at most 2048 bytes"
    )]
    Repository,
    #[error(
        "a branch's name has 1 to 255 characters, no blank or control character, and does not begin with '-'"
    )]
    Branch,
}
