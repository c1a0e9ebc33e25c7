//! Files on the wire.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::paths::{AnyPath, EntryPath, RegularPath};

/// Which file.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// Relative to the base.
    #[serde(default)]
    #[param(value_type = AnyPath, inline)]
    pub path: String,
    #[serde(default)]
    pub recursive: bool,
    /// `app` (default), the app directory, or `home`, the home directory of the sandbox's user.
    #[param(pattern = "^(app|home)$")]
    pub base: Option<String>,
}

/// Which file or directory, but not the base itself.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EntryQuery {
    /// Relative to the base.
    #[serde(default)]
    #[param(required = true, value_type = EntryPath, inline)]
    pub path: String,
    /// A directory with what is in it.
    #[serde(default)]
    pub recursive: bool,
    /// `app` (default), the app directory, or `home`, the home directory of the sandbox's user.
    #[param(pattern = "^(app|home)$")]
    pub base: Option<String>,
}

/// Which regular file.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ContentQuery {
    /// Relative to the base.
    #[serde(default)]
    #[param(required = true, value_type = RegularPath, inline)]
    pub path: String,
    /// `app` (default), the app directory, or `home`, the home directory of the sandbox's user.
    #[param(pattern = "^(app|home)$")]
    pub base: Option<String>,
}

/// Where the paths of a body begin.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BaseQuery {
    /// `app` (default) or `home`.
    #[param(pattern = "^(app|home)$")]
    pub base: Option<String>,
}

/// Which tree, and how it is packed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ArchiveQuery {
    /// Of a directory, relative to the base; empty for the base itself.
    #[serde(default)]
    #[param(value_type = AnyPath, inline)]
    pub path: String,
    /// `tar` (default), `tar.gz` or `zip`.
    #[param(pattern = r"^(tar|tar\.gz|zip)$")]
    pub format: Option<String>,
    /// `app` (default) or `home`.
    #[param(pattern = "^(app|home)$")]
    pub base: Option<String>,
}

/// What of the app directory is exported.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// With `node_modules`, `.git`, `dist` and `.vite` too.
    #[serde(default)]
    pub all: bool,
}

/// `POST /v1/sandboxes/{id}/files/mkdir`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MkdirBody {
    #[schema(value_type = EntryPath, inline)]
    pub path: String,
    /// Octal; of the directory itself, where it is made.
    #[schema(example = "0755", pattern = "^0?[0-7]{1,3}$")]
    pub mode: Option<String>,
}

/// `POST /v1/sandboxes/{id}/files/move` and `…/copy`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    #[schema(value_type = EntryPath, inline)]
    pub from: String,
    #[schema(value_type = EntryPath, inline)]
    pub to: String,
    /// Replace what is there.
    #[serde(default)]
    pub overwrite: bool,
}

/// `POST /v1/sandboxes/{id}/files/chmod`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChmodBody {
    #[schema(value_type = AnyPath, inline)]
    pub path: String,
    /// Octal, at most `0777`.
    #[schema(example = "0755", pattern = "^0?[0-7]{1,3}$")]
    pub mode: String,
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

#[derive(Debug, Serialize, ToSchema)]
pub struct FileStat {
    pub path: String,
    /// `file`, `dir`, `link` or `other`.
    pub r#type: &'static str,
    pub size: u64,
    #[schema(example = "0644")]
    pub mode: String,
    pub mtime: String,
    /// Where a link leads, as it says itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What happened to a file.
#[derive(Debug, Serialize, ToSchema)]
pub struct FileChange {
    pub path: String,
    /// `created`, `modified` (closed after writing; with the isolation `gvisor`, written), `deleted` or `moved`.
    pub kind: &'static str,
    /// Where it was, if it was moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A tree that was unpacked.
#[derive(Debug, Serialize, ToSchema)]
pub struct Unpacked {
    pub path: String,
    /// Files, directories and links.
    pub entries: u64,
    /// Of content.
    pub bytes: u64,
}
