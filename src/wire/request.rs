//! What clients send.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

/// `POST /sandbox`; every field may be left out, and so may the body.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct CreateBody {
    /// A ULID; made when left out.
    #[schema(pattern = r"^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$")]
    pub id: Option<String>,
    /// 1 to 65535 each, at most 64.
    #[schema(max_items = 64, value_type = Option<Vec<Port>>)]
    pub ports: Option<Vec<i64>>,
    #[schema(example = "512M", pattern = r"^[0-9]{1,12}([bB]|[kmgtKMGT]([iI]?[bB])?)?$")]
    pub memory_high: Option<String>,
    /// The server's own where they are left out.
    pub limits: Option<LimitsBody>,
    /// `public` (default) or `private`.
    #[schema(pattern = "^(public|private)$")]
    pub visibility: Option<String>,
    pub external: Option<ExternalBody>,
    /// A template's name; `blank` or `none` for an empty app directory.
    #[schema(pattern = "^[a-z0-9-]{0,64}$")]
    pub template: Option<String>,
    pub env: Option<BTreeMap<String, String>>,
    /// `sleep` (default), `always_on` or `manual`.
    #[schema(pattern = "^(sleep|always_on|manual)$")]
    pub idle_policy: Option<String>,
    pub sleep: Option<SleepBody>,
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,128}$")]
    pub app_id: Option<String>,
    /// A preset: its template and its ports; `template` and `ports` win.
    #[schema(pattern = "^[a-z0-9-]{0,64}$")]
    pub runtime_preset: Option<String>,
    pub git: Option<GitBody>,
    pub preview: Option<PreviewBody>,
    /// What stands between it and the host: `container` (default, unless the key demands more) or `gvisor`.
    #[schema(pattern = "^(container|gvisor)$")]
    pub isolation: Option<String>,
    /// `read_only` (default), or `overlay`: `user: root` may write the root file system, as packages do.
    #[schema(pattern = "^(read_only|overlay)$")]
    pub rootfs: Option<String>,
    /// Whether its programs may make user, pid and network namespaces of their own, as Chromium's sandbox does; not
    /// by default. It opens more of the host's kernel to them; with `gvisor` they always can.
    pub nested_namespaces: Option<bool>,
}

/// A port of a sandbox, as the description has it.
struct Port;

impl PartialSchema for Port {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(65_535));
        number.build().into()
    }
}

impl ToSchema for Port {}

/// A program and its arguments, as the description has them.
pub(super) struct Command;

impl PartialSchema for Command {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[^\\u0000]*$"));
        let program = text().min_length(Some(1)).build();
        let list = ArrayBuilder::new().prefix_items([program]).items(text().build()).min_items(Some(1));
        list.build().into()
    }
}

impl ToSchema for Command {}

/// How previews reach the app.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct PreviewBody {
    /// `preview` (default): the app is shown the preview's host name; `upstream`: `localhost:<port>`, for
    /// development servers that refuse others.
    #[schema(pattern = "^(preview|upstream)$")]
    pub host_header: Option<String>,
}

/// Whose sandbox it is, in the client's own terms.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ExternalBody {
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256)]
    pub user_id: Option<String>,
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256)]
    pub project_id: Option<String>,
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256)]
    pub workspace_id: Option<String>,
}

/// A repository to clone into the app directory.
#[derive(Debug, Deserialize, ToSchema)]
pub struct GitBody {
    #[schema(pattern = r"^(https?|git|ssh|file)://[!-~]{1,2000}$")]
    pub repo_url: String,
    /// Empty: the repository's own.
    #[schema(pattern = r"^([!-,.-~][!-~]{0,254})?$")]
    pub branch: Option<String>,
}

/// `POST /v1/sandboxes`: one sandbox per project.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateV1Body {
    pub project: ProjectBody,
    #[schema(pattern = "^(public|private)$")]
    pub visibility: Option<String>,
    #[schema(pattern = "^[a-z0-9-]{0,64}$")]
    pub template: Option<String>,
    pub from_snapshot: Option<String>,
    #[schema(pattern = "^[a-z0-9-]{0,64}$")]
    pub runtime_preset: Option<String>,
    pub preview: Option<PreviewBody>,
    /// `sleep` (default), `always_on` or `manual`.
    #[schema(pattern = "^(sleep|always_on|manual)$")]
    pub idle_policy: Option<String>,
    pub sleep: Option<SleepBody>,
    /// The server's own where they are left out.
    pub limits: Option<LimitsBody>,
    /// What stands between it and the host: `container` (default, unless the key demands more) or `gvisor`.
    #[schema(pattern = "^(container|gvisor)$")]
    pub isolation: Option<String>,
    /// `read_only` (default), or `overlay`: `user: root` may write the root file system, as packages do.
    #[schema(pattern = "^(read_only|overlay)$")]
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
    #[schema(minimum = 1, maximum = 31622400)]
    pub after: u64,
    /// Seconds after that until its processes are ended; 0: at once, without freezing; `null`: never. Left
    /// out: when the server's own idle time is over.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 31622400)]
    pub then_stop_after: Option<Option<u64>>,
}

/// `PATCH /v1/sandboxes/{id}`; what is left out stays as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchBody {
    /// `sleep`, `always_on` or `manual`.
    #[schema(pattern = "^(sleep|always_on|manual)$")]
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
    #[schema(example = "512M", pattern = r"^[0-9]{1,12}([bB]|[kmgtKMGT]([iI]?[bB])?)?$")]
    pub memory_max: Option<String>,
    /// Past it the sandbox is slowed down; nine tenths of `memory_max` when that is given without it.
    #[schema(example = "384M", pattern = r"^[0-9]{1,12}([bB]|[kmgtKMGT]([iI]?[bB])?)?$")]
    pub memory_high: Option<String>,
    /// How much may be moved out to swap; as much as `memory_max` when that is given without it.
    #[schema(example = "512M", pattern = r"^[0-9]{1,12}([bB]|[kmgtKMGT]([iI]?[bB])?)?$")]
    pub swap_max: Option<String>,
    /// Being out of memory ends the sandbox as a whole, which starts anew at its next use, instead of one process.
    pub oom_group: Option<bool>,
    /// A number of processors, 0.01 at least; `null`: whatever is free.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<f64>, example = 0.5)]
    pub cpu_max: Option<Option<f64>>,
    /// Its share of the processors where they are short, 1 to 10000; 100 is usual.
    #[schema(minimum = 1, maximum = 10000)]
    pub cpu_weight: Option<u32>,
    /// `null`: no limits.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<IoMaxBody>)]
    pub io_max: Option<Option<IoMaxBody>>,
    /// Its share of the disk where it is short, 1 to 10000; 100 is usual.
    #[schema(minimum = 1, maximum = 10000)]
    pub io_weight: Option<u32>,
    /// Processes and threads, 16 to 32768.
    #[schema(minimum = 16, maximum = 32768)]
    pub pids_max: Option<u32>,
    /// Open files of one process, 64 at least; times `pids_max` held to half of what the machine can have open, but
    /// not below 1024.
    #[schema(minimum = 64)]
    pub nofile: Option<u64>,
}

/// The most a sandbox may ask of the workspaces' disk in a second; what is left out is not limited.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IoMaxBody {
    /// Bytes, 64K at least.
    #[schema(example = "20M", pattern = r"^[0-9]{1,12}([bB]|[kmgtKMGT]([iI]?[bB])?)?$")]
    pub read_bps: Option<String>,
    #[schema(example = "10M", pattern = r"^[0-9]{1,12}([bB]|[kmgtKMGT]([iI]?[bB])?)?$")]
    pub write_bps: Option<String>,
    /// Requests, 10 at least.
    #[schema(minimum = 10, maximum = 4294967295_u64)]
    pub read_iops: Option<u64>,
    #[schema(minimum = 10, maximum = 4294967295_u64)]
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
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256, min_length = 1)]
    pub id: String,
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256)]
    pub user_id: String,
}

/// `POST /sandbox/{id}/exec`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ExecBody {
    #[schema(value_type = Command, example = json!(["bash", "-lc", "echo hello"]))]
    pub cmd: Vec<String>,
    /// Answer in plain text, as it comes.
    #[serde(default)]
    pub stream: bool,
    /// `sandbox`, which is also the default, or `root`.
    #[schema(pattern = "^(sandbox|root)$")]
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
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256, min_length = 1)]
    pub external_user_id: String,
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256)]
    pub external_project_id: Option<String>,
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", max_length = 256)]
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
    #[param(pattern = "^(creating|running|paused|stopped|error)$")]
    pub status: Option<String>,
    /// 1 to 500; 100 when left out.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<usize>,
    /// The `next_cursor` of the page before.
    #[param(pattern = r"^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$")]
    pub cursor: Option<String>,
}
