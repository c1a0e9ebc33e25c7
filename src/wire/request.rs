//! What clients send.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

/// `POST /sandbox`; every field may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct CreateBody {
    /// A ULID; made when left out.
    pub id: Option<String>,
    /// 1 to 65535 each, at most 64.
    pub ports: Option<Vec<i64>>,
    #[schema(example = "512M")]
    pub memory_high: Option<String>,
    /// The server's own where they are left out.
    pub limits: Option<LimitsBody>,
    /// `public` (default) or `private`.
    pub visibility: Option<String>,
    pub external: Option<ExternalBody>,
    /// A template's name; `blank` or `none` for an empty app directory.
    pub template: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    /// `sleep` (default), `always_on` or `manual`.
    pub idle_policy: Option<String>,
    pub sleep: Option<SleepBody>,
    pub app_id: Option<String>,
    /// A preset: its template and its ports; `template` and `ports` win.
    pub runtime_preset: Option<String>,
    pub git: Option<GitBody>,
    pub preview: Option<PreviewBody>,
    /// What stands between it and the host: `container` (default, unless the key demands more) or `gvisor`.
    pub isolation: Option<String>,
    /// `read_only` (default), or `overlay`: `user: root` may write the root file system, as packages do.
    pub rootfs: Option<String>,
    /// Whether its programs may make user, pid and network namespaces of their own, as Chromium's sandbox does; not
    /// by default. It opens more of the host's kernel to them; with `gvisor` they always can.
    pub nested_namespaces: Option<bool>,
}

/// How previews reach the app.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct PreviewBody {
    /// `preview` (default): the app is shown the preview's host name; `upstream`: `localhost:<port>`, for
    /// development servers that refuse others.
    pub host_header: Option<String>,
}

/// Whose sandbox it is, in the client's own terms; at most 256 bytes each.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ExternalBody {
    pub user_id: Option<String>,
    pub project_id: Option<String>,
    pub workspace_id: Option<String>,
}

/// A repository to clone into the app directory.
#[derive(Debug, Deserialize, ToSchema)]
pub struct GitBody {
    pub repo_url: String,
    pub branch: Option<String>,
}

/// `POST /v1/sandboxes`: one sandbox per project.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateV1Body {
    pub project: ProjectBody,
    pub visibility: Option<String>,
    pub template: Option<String>,
    pub from_snapshot: Option<String>,
    pub runtime_preset: Option<String>,
    pub preview: Option<PreviewBody>,
    /// `sleep` (default), `always_on` or `manual`.
    pub idle_policy: Option<String>,
    pub sleep: Option<SleepBody>,
    /// The server's own where they are left out.
    pub limits: Option<LimitsBody>,
    /// What stands between it and the host: `container` (default, unless the key demands more) or `gvisor`.
    pub isolation: Option<String>,
    /// `read_only` (default), or `overlay`: `user: root` may write the root file system, as packages do.
    pub rootfs: Option<String>,
    /// Whether its programs may make user, pid and network namespaces of their own, as Chromium's sandbox does; not
    /// by default. It opens more of the host's kernel to them; with `gvisor` they always can.
    pub nested_namespaces: Option<bool>,
}

/// When a sandbox that nobody uses goes to sleep.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SleepBody {
    /// Seconds without a use after which it is frozen.
    pub after: u64,
    /// Seconds after that until its processes are ended; 0: at once, without freezing; `null`: never. Left
    /// out: when the server's own idle time is over.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    pub then_stop_after: Option<Option<u64>>,
}

/// `PATCH /v1/sandboxes/{id}`; what is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchBody {
    /// `sleep`, `always_on` or `manual`.
    pub idle_policy: Option<String>,
    /// `null`: as the server's settings say.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<SleepBody>)]
    pub sleep: Option<Option<SleepBody>>,
    /// In force at once, but `nofile`: from the next start.
    pub limits: Option<LimitsBody>,
}

/// What a sandbox may use; what is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    /// Past it the kernel kills inside the sandbox. 32M at least.
    #[schema(example = "512M")]
    pub memory_max: Option<String>,
    /// Past it the sandbox is slowed down; nine tenths of `memory_max` when that is given without it.
    #[schema(example = "384M")]
    pub memory_high: Option<String>,
    /// How much may be moved out to swap; as much as `memory_max` when that is given without it.
    #[schema(example = "512M")]
    pub swap_max: Option<String>,
    /// Being out of memory ends the sandbox as a whole, which starts anew at its next use, instead of one process.
    pub oom_group: Option<bool>,
    /// A number of processors, 0.01 at least; `null`: whatever is free.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<f64>, example = 0.5)]
    pub cpu_max: Option<Option<f64>>,
    /// Its share of the processors where they are short, 1 to 10000; 100 is usual.
    pub cpu_weight: Option<u32>,
    /// `null`: no limits.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<IoMaxBody>)]
    pub io_max: Option<Option<IoMaxBody>>,
    /// Its share of the disk where it is short, 1 to 10000; 100 is usual.
    pub io_weight: Option<u32>,
    /// Processes and threads, 16 to 32768.
    pub pids_max: Option<u32>,
    /// Open files of one process, 64 at least; times `pids_max` held to half of what the machine can have open, but
    /// not below 1024.
    pub nofile: Option<u64>,
}

/// The most a sandbox may ask of the workspaces' disk in a second; what is left out is not limited.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IoMaxBody {
    /// Bytes, 64K at least.
    #[schema(example = "20M")]
    pub read_bps: Option<String>,
    #[schema(example = "10M")]
    pub write_bps: Option<String>,
    /// Requests, 10 at least.
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

/// Tells a field that is `null` from one that is left out.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectBody {
    pub id: String,
    pub user_id: String,
}

/// `POST /sandbox/{id}/exec`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ExecBody {
    #[schema(example = json!(["bash", "-lc", "echo hello"]))]
    pub cmd: Vec<String>,
    /// Answer in plain text, as it comes.
    #[serde(default)]
    pub stream: bool,
    /// `sandbox`, which is also the default, or `root`.
    pub user: Option<String>,
}

/// `POST /sandbox/{id}/keepalive`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct KeepaliveBody {
    /// Unix seconds; the idle time from now when left out.
    pub until: Option<i64>,
}

/// `POST /sandbox/{id}/claim`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ClaimBody {
    pub external_user_id: String,
    pub external_project_id: Option<String>,
    pub external_workspace_id: Option<String>,
}

/// The filter of `GET /sandboxes`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    pub external_user_id: Option<String>,
    pub external_project_id: Option<String>,
}

/// The filter of `GET /v1/sandboxes`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListV1Query {
    pub status: Option<String>,
    /// 1 to 500; 100 when left out.
    pub limit: Option<usize>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}
