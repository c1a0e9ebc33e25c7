//! The bodies this client sends and understands.
//!
//! Only what its users need is decoded; [`super::Answer`] keeps the server's own JSON beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// What to create; everything absent is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CreateSandbox {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A size such as `512M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<String>,
    /// As the API takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nested_namespaces: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visibility: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_preset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalIds>,
}

/// Whom a sandbox belongs to in the caller's own terms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExternalIds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
}

/// A sandbox as the compatible routes show it.
///
/// `status` is a text, not an enumeration: a later server may know more states than this client.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Row {
    pub id: String,
    pub status: String,
    #[serde(default)]
    pub workspace_mnt: Option<String>,
    #[serde(default)]
    pub memory_high: Option<String>,
    #[serde(default)]
    pub error_message: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ports: Vec<u16>,
    /// RFC 3339, UTC.
    #[serde(default)]
    pub created_at: Option<String>,
    /// RFC 3339, UTC.
    #[serde(default)]
    pub stopped_at: Option<String>,
    /// Seconds since 1970 (UTC).
    #[serde(default)]
    pub last_active_at: Option<i64>,
    /// Seconds since 1970 (UTC).
    #[serde(default)]
    pub keepalive_until: Option<i64>,
    #[serde(default)]
    pub container_ip: Option<String>,
    #[serde(default)]
    pub external_user_id: Option<String>,
    #[serde(default)]
    pub external_project_id: Option<String>,
    #[serde(default)]
    pub visibility: Option<String>,
    #[serde(default)]
    pub idle_policy: Option<String>,
}

/// One sandbox: its row and what is known about it while it runs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SandboxView {
    pub row: Row,
    #[serde(default)]
    pub live_state: Option<serde_json::Value>,
}

/// A sandbox as `/v1` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SandboxV1 {
    pub id: String,
    pub status: String,
    #[serde(default)]
    pub preview: Option<Preview>,
    /// The app's own processes.
    #[serde(default)]
    pub processes: Vec<AppProcess>,
}

/// One process that the app declares.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AppProcess {
    pub name: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub running: bool,
    #[serde(default)]
    pub pid: Option<i64>,
    #[serde(default)]
    pub restarts: u32,
}

/// What a sandbox uses.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Stats {
    #[serde(default)]
    pub memory: Memory,
    #[serde(default)]
    pub cpu: Cpu,
    #[serde(default)]
    pub pids: Pids,
    /// Absent while it is in use or does not run.
    #[serde(default)]
    pub idle_for_s: Option<u64>,
    #[serde(default)]
    pub throttled: bool,
}

/// In bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Memory {
    #[serde(default)]
    pub current: Option<u64>,
    #[serde(default)]
    pub peak: Option<u64>,
    #[serde(default)]
    pub max: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Cpu {
    #[serde(default)]
    pub usage_seconds: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Pids {
    #[serde(default)]
    pub current: Option<u64>,
    #[serde(default)]
    pub max: Option<u64>,
}

/// The last lines of a log.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Logs {
    #[serde(default)]
    pub lines: Vec<String>,
}

/// What a sandbox may begin as.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Presets {
    pub presets: Vec<Preset>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Preset {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ports: Vec<u16>,
}

/// Where a sandbox's app is seen.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Preview {
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub status: Option<String>,
}

/// What a command wrote and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ExecOutput {
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
    pub exit_code: i64,
}

/// What a purge freed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Purged {
    #[serde(default)]
    pub purged: bool,
    #[serde(default)]
    pub freed_bytes: u64,
}

/// Older servers write an empty list as `null`.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_rows_of_old_and_new_servers() {
        let old =
            r#"{"id":"01J","status":"running","ports":null,"last_active_at":1700000000,"container_ip":""}"#;
        let row: Row = serde_json::from_str(old).unwrap();
        assert_eq!((row.id.as_str(), row.ports.len(), row.last_active_at), ("01J", 0, Some(1_700_000_000)));
        let new = r#"{"id":"01J","status":"hibernated","ports":[80,65535],"labels":{"a":"b"}}"#;
        let row: Row = serde_json::from_str(new).unwrap();
        assert_eq!((row.status.as_str(), row.ports), ("hibernated", vec![80, 65_535]));
        assert!(serde_json::from_str::<Row>(r#"{"status":"running"}"#).is_err());
    }

    #[test]
    fn encodes_only_what_is_asked_for() {
        let text = |create: &CreateSandbox| serde_json::to_string(create).unwrap();
        assert_eq!(text(&CreateSandbox::default()), "{}");
        let create = CreateSandbox {
            ports: vec![3000],
            env: [("A".to_owned(), "b=c".to_owned())].into(),
            external: Some(ExternalIds { user_id: Some("u".to_owned()), project_id: None }),
            ..CreateSandbox::default()
        };
        assert_eq!(text(&create), r#"{"ports":[3000],"env":{"A":"b=c"},"external":{"user_id":"u"}}"#);
    }
}
