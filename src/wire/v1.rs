//! Answers of `/v1`.

use serde::Serialize;
use utoipa::ToSchema;

/// A sandbox and its app.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sandbox {
    pub id: String,
    pub status: &'static str,
    pub preview: Preview,
    pub processes: Vec<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_task_id: Option<String>,
    pub template: String,
    pub created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

/// The app's main port.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preview {
    pub url: String,
    pub port: u16,
    /// `down`, `starting`, `ready`, `error` or `none`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_error_message: Option<String>,
}

/// One process of the app.
#[derive(Debug, Serialize, ToSchema)]
pub struct Process {
    pub name: String,
    /// `web` or `worker`.
    pub kind: &'static str,
    pub running: bool,
    /// In the sandbox's own pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub restarts: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SandboxList {
    pub sandboxes: Vec<Sandbox>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FileList {
    pub entries: Vec<FileEntry>,
    pub path: String,
    pub recursive: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FileEntry {
    pub path: String,
    /// `file` or `dir`.
    pub r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct WrittenFile {
    pub path: String,
    pub size: u64,
}

/// What is wrong with a manifest.
#[derive(Debug, Serialize, ToSchema)]
pub struct ManifestReport {
    pub valid: bool,
    pub errors: Vec<String>,
}
