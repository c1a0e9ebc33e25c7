//! Every way a command can fail: what to say, what to do about it, and the exit code.
//!
//! The codes are those of sysexits(3) where it has one; `docs/cli.md` lists them for users.

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use client::{ClientError, EndpointError, OutputError, Refusal, TransportError};

use super::key_state::KeyState;
use super::text::printable;

/// How `sandboxctl` ends when not with a remote command's own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Done = 0,
    /// The command line or what it asks for is not valid.
    Usage = 64,
    /// Copied, but not all of it.
    Partial = 65,
    /// There is no such sandbox, process or file.
    NotFound = 66,
    /// No server answers there.
    Unavailable = 69,
    /// The server or this program is at fault.
    Bug = 70,
    /// The sandbox's state or owner does not allow it.
    Conflict = 73,
    /// The result could not be written.
    Output = 74,
    /// The same may succeed later.
    RetryLater = 75,
    /// What the server sent is not to be believed.
    Protocol = 76,
    /// The key is missing, wrong or not good for this.
    NoPermission = 77,
    /// The remote command was ended by `--timeout`, as with timeout(1).
    TimedOut = 124,
    /// The remote command cannot be started, as in a shell.
    NotExecutable = 126,
    /// The remote command is not there, as in a shell.
    NoCommand = 127,
    /// The reader of an exec's output went away: what a shell shows for SIGPIPE.
    BrokenPipe = 141,
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Usage(String),
    /// The command line cannot be read; people are shown more of it.
    #[error("{0}")]
    Misuse(String),
    #[error("use the server address")]
    Endpoint(#[source] EndpointError),
    #[error("read the key in {path}")]
    Key {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("start")]
    Runtime(#[source] io::Error),
    #[error("find sandbox {given:?}")]
    NotFound { given: String, near: Vec<String> },
    #[error("choose: {given:?} begins {} ids", candidates.len())]
    Ambiguous { given: String, candidates: Vec<String> },
    #[error("{context}")]
    Client {
        context: String,
        key: KeyState,
        server: String,
        #[source]
        source: Box<ClientError>,
    },
    /// A process could no longer be followed; it does not end with that.
    #[error("{failure}")]
    Session { failure: Box<Self>, remedy: String },
    #[error("take the terminal")]
    Terminal(#[source] io::Error),
    #[error("find process {given:?}")]
    NoProcess { given: String, sandbox: String },
    #[error("find a log or process {given:?}")]
    NoLog { given: String, names: Vec<String> },
    #[error("{action} {path}")]
    Local {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    /// What came is not what a copy may write.
    #[error("unpack what the server sent: {0}")]
    Archive(String),
    #[error("copy all: {0} not copied")]
    Partial(String),
    #[error("write the result")]
    Output(#[source] io::Error),
    /// Not told to the user: whoever would read it has gone.
    #[error("write to a closed pipe")]
    BrokenPipe,
}

impl ExitStatus {
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

impl Failure {
    /// Writing here failed.
    pub(super) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Output(error),
        }
    }

    pub(super) fn status(&self) -> ExitStatus {
        match self {
            Self::Usage(_) | Self::Misuse(_) | Self::Endpoint(_) | Self::Ambiguous { .. } => {
                ExitStatus::Usage
            }
            Self::Key { .. } => ExitStatus::NoPermission,
            Self::NotFound { .. } | Self::NoProcess { .. } | Self::NoLog { .. } => ExitStatus::NotFound,
            Self::Runtime(_) => ExitStatus::Bug,
            Self::Session { failure, .. } => failure.status(),
            Self::Local { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ExitStatus::NotFound,
                io::ErrorKind::PermissionDenied => ExitStatus::NoPermission,
                _ => ExitStatus::Output,
            },
            Self::Archive(_) => ExitStatus::Protocol,
            Self::Partial(_) => ExitStatus::Partial,
            Self::Output(_) | Self::Terminal(_) => ExitStatus::Output,
            Self::BrokenPipe => ExitStatus::BrokenPipe,
            Self::Client { source, .. } => client_status(source),
        }
    }

    /// Returns what the user can do about it.
    fn remedy(&self) -> Option<String> {
        match self {
            Self::Misuse(_) => Some("`sandboxctl help COMMAND` shows what it takes".to_owned()),
            Self::Endpoint(_) => {
                Some("set SANDBOXD_URL or --url, for example http://127.0.0.1:9090".to_owned())
            }
            Self::Key { .. } => Some("run as the user who may read it, or set SANDBOXD_TOKEN".to_owned()),
            Self::NotFound { near, .. } if near.is_empty() => {
                Some("`sandboxctl ls` shows what there is".to_owned())
            }
            Self::NotFound { near, .. } => Some(format!("did you mean {}?", near.join(" or "))),
            Self::Ambiguous { candidates, .. } => {
                Some(format!("give more of the id: {}", candidates.join(", ")))
            }
            Self::Client { source, key, server, .. } => match source.as_ref() {
                ClientError::Transport(error) => Some(transport_remedy(error, server)),
                other => refusal_remedy(other.refusal()?, key),
            },
            Self::Session { failure, remedy } => {
                let own = failure.remedy();
                Some(own.map_or_else(|| remedy.clone(), |own| format!("{own}; {remedy}")))
            }
            Self::NoProcess { sandbox, .. } => {
                Some(format!("`sandboxctl ps --all {sandbox}` shows what there is"))
            }
            Self::NoLog { names, .. } if names.is_empty() => {
                Some("no app runs there; `sandboxctl ps --all` shows what was started".to_owned())
            }
            Self::NoLog { names, .. } => Some(format!(
                "the app has {}; `sandboxctl ps --all` shows what was started",
                names.join(", ")
            )),
            Self::Partial(_) => Some("the rest is complete; what was left out is named above".to_owned()),
            Self::Usage(_)
            | Self::Runtime(_)
            | Self::Terminal(_)
            | Self::Local { .. }
            | Self::Archive(_)
            | Self::Output(_)
            | Self::BrokenPipe => None,
        }
    }

    /// Writes what went wrong: as lines for people, or as one JSON object.
    ///
    /// A standard error that cannot be written to leaves the exit code to speak alone.
    pub(super) fn report(&self, out: &mut dyn Write, json: bool) {
        if matches!(self, Self::BrokenPipe) {
            return;
        }
        let text = if json { self.as_json() } else { self.as_text() };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
    }

    fn as_text(&self) -> String {
        let mut text = format!("sandboxctl: failed to {}\n", printable(&self.chain()));
        text.extend(self.remedy().map(|remedy| format!("  {}\n", printable(&remedy))));
        text.extend(self.request_id().map(|id| format!("  request id {}\n", printable(id))));
        text
    }

    fn as_json(&self) -> String {
        let object = serde_json::json!({
            "error": self.chain(),
            "remedy": self.remedy(),
            "request_id": self.request_id(),
            "exit_code": self.status().code(),
        });
        format!("{object}\n")
    }

    fn chain(&self) -> String {
        if let Self::Session { failure, .. } = self {
            return failure.chain();
        }
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let part = error.to_string();
            // A transparent error shows its source's words already.
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            source = error.source();
        }
        text
    }

    fn request_id(&self) -> Option<&str> {
        match self {
            Self::Client { source, .. } => source.request_id(),
            Self::Session { failure, .. } => failure.request_id(),
            _ => None,
        }
    }
}

fn client_status(error: &ClientError) -> ExitStatus {
    match error {
        ClientError::Transport(TransportError::AnswerTimeout { .. }) => ExitStatus::RetryLater,
        ClientError::Transport(TransportError::TooLarge { .. })
        | ClientError::Decode { .. }
        | ClientError::Encode { .. }
        | ClientError::Output(OutputError::Form(_))
        | ClientError::Event(_) => ExitStatus::Bug,
        ClientError::Transport(
            TransportError::Connect { .. }
            | TransportError::ConnectTimeout { .. }
            | TransportError::Exchange { .. },
        )
        | ClientError::Output(OutputError::Closed | OutputError::Socket(_)) => ExitStatus::Unavailable,
        ClientError::Refused { refusal, .. } => refusal_status(refusal),
    }
}

fn refusal_status(refusal: &Refusal) -> ExitStatus {
    match refusal.status.as_u16() {
        _ if refusal.exit_code == Some(ExitStatus::NoCommand.code()) => ExitStatus::NoCommand,
        _ if refusal.exit_code == Some(ExitStatus::NotExecutable.code()) => ExitStatus::NotExecutable,
        401 | 403 => ExitStatus::NoPermission,
        404 => ExitStatus::NotFound,
        429 | 502..=504 | 507 => ExitStatus::RetryLater,
        409 if refusal.retryable => ExitStatus::RetryLater,
        409 => ExitStatus::Conflict,
        400..=499 => ExitStatus::Usage,
        _ => ExitStatus::Bug,
    }
}

fn transport_remedy(error: &TransportError, server: &str) -> String {
    match error {
        TransportError::Connect { .. } | TransportError::ConnectTimeout { .. } => format!(
            "no server there: start one (`sandboxd serve`), or set SANDBOXD_URL if it is not at {server}"
        ),
        TransportError::AnswerTimeout { .. } => "the server is busy or hangs: try again later".to_owned(),
        TransportError::Exchange { .. } => {
            format!("the connection broke, or what listens at {server} is not sandboxd: look at its log")
        }
        TransportError::TooLarge { .. } => "ask for less at once".to_owned(),
    }
}

fn refusal_remedy(refusal: &Refusal, key: &KeyState) -> Option<String> {
    match refusal.status.as_u16() {
        401 => Some(key.remedy()),
        403 => Some("the key is good, but not for this: use another in SANDBOXD_TOKEN".to_owned()),
        503 if matches!(refusal.code.as_deref(), Some("low_memory" | "wakes_refused")) => Some(format!(
            "the server's memory is nearly full: stop a sandbox, or try again in {} s",
            refusal.retry_after_seconds.unwrap_or(30)
        )),
        429 | 503 => Some(format!("try again in {} s", refusal.retry_after_seconds.unwrap_or(30))),
        507 => Some("the disk or a quota is full: purge a sandbox that is not needed".to_owned()),
        500 => Some("the server's log tells more under the request id".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn refused(status: u16, body: &str, key: KeyState) -> Failure {
        let refusal =
            Refusal::read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes());
        Failure::Client {
            context: "stop sandbox 01J".to_owned(),
            key,
            server: "http://127.0.0.1:9090".to_owned(),
            source: Box::new(ClientError::Refused {
                method: "POST",
                path: "/p".to_owned(),
                refusal: Box::new(refusal),
            }),
        }
    }

    #[test]
    fn every_status_has_its_exit_code() {
        let check = |status, body: &str, expected| {
            assert_eq!(refused(status, body, KeyState::Given).status(), expected, "{status} {body}");
        };
        check(400, "", ExitStatus::Usage);
        check(400, r#"{"error":{"code":"invalid_request","exit_code":127}}"#, ExitStatus::NoCommand);
        check(400, r#"{"error":{"code":"invalid_request","exit_code":126}}"#, ExitStatus::NotExecutable);
        check(400, r#"{"error":{"code":"invalid_request","exit_code":0}}"#, ExitStatus::Usage);
        check(401, "", ExitStatus::NoPermission);
        check(403, "", ExitStatus::NoPermission);
        check(404, "", ExitStatus::NotFound);
        check(409, "", ExitStatus::Conflict);
        check(409, r#"{"error":{"code":"task_in_progress","retryable":true}}"#, ExitStatus::RetryLater);
        check(413, "", ExitStatus::Usage);
        check(429, "", ExitStatus::RetryLater);
        check(500, "", ExitStatus::Bug);
        check(503, "", ExitStatus::RetryLater);
        check(507, "", ExitStatus::RetryLater);
    }

    #[test]
    fn says_what_failed_why_and_what_to_do() {
        let failure = refused(401, r#"{"error":"unauthorized"}"#, KeyState::NotRemote);
        assert_eq!(
            failure.as_text(),
            "sandboxctl: failed to stop sandbox 01J: POST /p: the server answered 401: unauthorized\n  \
             no key was sent: the key on this machine is not for a server elsewhere; set SANDBOXD_TOKEN\n"
        );
        let json: serde_json::Value = serde_json::from_str(&failure.as_json()).unwrap();
        assert_eq!(json["exit_code"], 77);
        let near = Failure::NotFound { given: "01K".to_owned(), near: vec!["01J".to_owned()] };
        assert_eq!(near.as_text(), "sandboxctl: failed to find sandbox \"01K\"\n  did you mean 01J?\n");
    }

    #[test]
    fn a_servers_words_cannot_drive_the_terminal() {
        let text = refused(500, "\x1b]0;owned\x07\r\nline", KeyState::Given).as_text();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}
