//! Processes in a sandbox: start one, find it again, signal it; one method per route.
//!
//! A process belongs to its sandbox and not to who started it: a client that goes away changes
//! nothing, and [`super::ProcessOutput`] follows it from any offset.

use std::collections::BTreeMap;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::requests::segment;
use crate::error::ClientError;
use crate::requests::{Answer, Client};

/// What to start; everything absent is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StartProcess {
    pub cmd: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A terminal of this size; without one the streams are pipes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<TerminalSize>,
    /// Whether there will be input; otherwise it reads from `/dev/null`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// Does not keep the sandbox awake.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub cols: u16,
    pub rows: u16,
}

/// A process that runs or ran.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Process {
    pub id: String,
    /// `running`, `exited` or `lost`; a text, since a later server may know more.
    pub status: String,
    #[serde(default)]
    pub pid: Option<i64>,
    #[serde(default)]
    pub cmd: Vec<String>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub tty: bool,
    /// RFC 3339, UTC.
    #[serde(default)]
    pub started_at: Option<String>,
    #[serde(default)]
    pub exit_code: Option<i64>,
    #[serde(default)]
    pub signal: Option<String>,
    #[serde(default)]
    pub timed_out: bool,
    #[serde(default)]
    pub output: OutputRange,
}

/// Which bytes of a process's output the server still has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct OutputRange {
    #[serde(default)]
    pub start: u64,
    #[serde(default)]
    pub end: u64,
    #[serde(default)]
    pub dropped_bytes: u64,
}

/// Processes, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProcessList {
    #[serde(default)]
    pub processes: Vec<Process>,
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignalTarget {
    Process,
    #[default]
    Group,
    /// Everything it ever started.
    Tree,
}

impl SignalTarget {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Group => "group",
            Self::Tree => "tree",
        }
    }
}

impl Client {
    /// `POST /v1/sandboxes/{id}/processes`: wakes the sandbox.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every method.
    pub async fn start_process(
        &self,
        id: &str,
        start: &StartProcess,
    ) -> Result<Answer<Process>, ClientError> {
        self.json(self.call(Method::POST, processes(id)).with_json(start)?).await
    }

    /// `GET /v1/sandboxes/{id}/processes`
    pub async fn processes(&self, id: &str) -> Result<Answer<ProcessList>, ClientError> {
        self.json(self.call(Method::GET, processes(id))).await
    }

    /// `GET /v1/sandboxes/{id}/processes/{process}`
    pub async fn process(&self, id: &str, process: &str) -> Result<Answer<Process>, ClientError> {
        self.json(self.call(Method::GET, one(id, process))).await
    }

    /// `POST …/processes/{process}/signal`: `signal` is a name without `SIG`.
    pub async fn signal_process(
        &self,
        id: &str,
        process: &str,
        signal: &str,
        target: SignalTarget,
    ) -> Result<(), ClientError> {
        let body = json!({"signal": signal, "target": target.as_str()});
        let call = self.call(Method::POST, format!("{}/signal", one(id, process))).with_json(&body)?;
        self.bytes(call).await.map(|_body| ())
    }

    /// `DELETE …/processes/{process}`: kills it and everything it ever started.
    pub async fn kill_process(&self, id: &str, process: &str) -> Result<(), ClientError> {
        self.bytes(self.call(Method::DELETE, one(id, process))).await.map(|_body| ())
    }
}

fn processes(id: &str) -> String {
    format!("/v1/sandboxes/{}/processes", segment(id))
}

pub(super) fn one(id: &str, process: &str) -> String {
    format!("{}/{}", processes(id), segment(process))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_no_more_than_was_said() {
        let text = |start: &StartProcess| serde_json::to_string(start).unwrap();
        let start = StartProcess { cmd: vec!["true".to_owned()], ..StartProcess::default() };
        assert_eq!(text(&start), r#"{"cmd":["true"]}"#);
        let start = StartProcess {
            tty: Some(TerminalSize { cols: 80, rows: 24 }),
            env: [("A".to_owned(), "b".to_owned())].into(),
            stdin: true,
            timeout_s: Some(5),
            ..start
        };
        assert_eq!(
            text(&start),
            r#"{"cmd":["true"],"env":{"A":"b"},"tty":{"cols":80,"rows":24},"stdin":true,"timeout_s":5}"#
        );
    }

    #[test]
    fn reads_processes_of_other_versions() {
        let process: Process = serde_json::from_str(r#"{"id":"01A","status":"napping","later":1}"#).unwrap();
        assert_eq!((process.status.as_str(), process.output.end), ("napping", 0));
    }
}
