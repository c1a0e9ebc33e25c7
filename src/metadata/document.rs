//! The spec of a sandbox as one JSON document, and back.
//!
//! The stored types are apart from the model's: the model may be rearranged without changing what is on the disk.
//! A new field is added here with `#[serde(default)]` and raises [`VERSION`]: every earlier version is then still
//! read. A later version, or a field that this version does not have, is refused: the next write of the record
//! would drop what was not understood.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use model::{
    AppName, ByteSize, CpuMax, Environment, External, GitSource, IoMax, Limits, SandboxId, SandboxSpec,
    SleepPolicy, TemplateName,
};

/// Version of the documents that are written; documents of this and of every earlier version are read.
const VERSION: u32 = 1;

/// Why a document is not the spec of a sandbox.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("its spec was written by a newer version (document {found}, this one knows {VERSION})")]
    Newer { found: u32 },
    #[error("its spec is not a document: {0}")]
    Form(#[source] serde_json::Error),
    #[error("{field} in its spec: {problem}")]
    Field { field: &'static str, problem: String },
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    version: u32,
    ports: Cow<'a, [u16]>,
    env: Cow<'a, BTreeMap<String, String>>,
    template: Option<Cow<'a, str>>,
    visibility: Cow<'a, str>,
    idle_policy: Cow<'a, str>,
    host_header: Cow<'a, str>,
    sleep: Option<StoredSleep>,
    limits: StoredLimits,
    external: StoredExternal<'a>,
    app_id: Option<Cow<'a, str>>,
    git: Option<StoredGit<'a>>,
    isolation: Cow<'a, str>,
    rootfs: Cow<'a, str>,
    nested_namespaces: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSleep {
    after_secs: u64,
    then_stop_after_secs: Option<u64>,
}

/// Sizes are bytes, rates bytes or operations in a second.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLimits {
    memory_max: u64,
    memory_high: u64,
    swap_max: u64,
    oom_group: bool,
    cpu_max_milli: Option<u32>,
    cpu_weight: u32,
    io_weight: u32,
    io_read_bps: Option<u64>,
    io_write_bps: Option<u64>,
    io_read_iops: Option<u64>,
    io_write_iops: Option<u64>,
    pids_max: u32,
    nofile: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredExternal<'a> {
    user_id: Option<Cow<'a, str>>,
    project_id: Option<Cow<'a, str>>,
    workspace_id: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredGit<'a> {
    repo_url: Cow<'a, str>,
    branch: Option<Cow<'a, str>>,
}

/// Writes a spec; the id is not in the document, since the row has it.
pub(super) fn encode(spec: &SandboxSpec) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Document {
        version: VERSION,
        ports: Cow::Borrowed(&spec.ports),
        env: Cow::Borrowed(spec.env.entries()),
        template: spec.template.as_ref().map(|template| template.as_str().into()),
        visibility: spec.visibility.as_str().into(),
        idle_policy: spec.idle_policy.as_str().into(),
        host_header: spec.host_header.as_str().into(),
        sleep: spec.sleep.map(|policy| StoredSleep {
            after_secs: policy.after().as_secs(),
            then_stop_after_secs: policy.then_stop_after().map(|time| time.as_secs()),
        }),
        limits: StoredLimits::of(&spec.limits),
        external: StoredExternal {
            user_id: spec.external.user_id().map(Cow::Borrowed),
            project_id: spec.external.project_id().map(Cow::Borrowed),
            workspace_id: spec.external.workspace_id().map(Cow::Borrowed),
        },
        app_id: spec.app_id.as_ref().map(|app| app.as_str().into()),
        git: spec.git.as_ref().map(|git| StoredGit {
            repo_url: git.repo_url().into(),
            branch: git.branch().map(Cow::Borrowed),
        }),
        isolation: spec.isolation.as_str().into(),
        rootfs: spec.rootfs.as_str().into(),
        nested_namespaces: spec.nested_namespaces,
    })
}

/// Reads a spec; every value passes the checks of the model.
///
/// # Errors
/// A later version, no document, or a value that the model refuses.
pub(super) fn decode(id: SandboxId, text: &str) -> Result<SandboxSpec, DocumentError> {
    let Version { version } = serde_json::from_str(text).map_err(DocumentError::Form)?;
    if version > VERSION {
        return Err(DocumentError::Newer { found: version });
    }
    let document: Document<'_> = serde_json::from_str(text).map_err(DocumentError::Form)?;
    let git = document.git.map(|git| {
        let source = GitSource::new(git.repo_url.into_owned(), git.branch.map(Cow::into_owned));
        source.map_err(|error| bad("git", &error))
    });
    let sleep = document.sleep.map(|sleep| {
        let policy = SleepPolicy::new(sleep.after_secs, sleep.then_stop_after_secs);
        policy.map_err(|error| bad("sleep", &error))
    });
    let template = document.template.map(|name| parse::<TemplateName>("template", &name));
    let app_id = document.app_id.map(|name| parse::<AppName>("app_id", &name));
    Ok(SandboxSpec {
        id,
        ports: document.ports.into_owned(),
        env: Environment::new(document.env.into_owned()).map_err(|error| bad("env", &error))?,
        template: template.transpose()?,
        visibility: parse("visibility", &document.visibility)?,
        idle_policy: parse("idle_policy", &document.idle_policy)?,
        host_header: parse("host_header", &document.host_header)?,
        sleep: sleep.transpose()?,
        limits: document.limits.into_limits(),
        external: document.external.into_external()?,
        app_id: app_id.transpose()?,
        git: git.transpose()?,
        isolation: parse("isolation", &document.isolation)?,
        rootfs: parse("rootfs", &document.rootfs)?,
        nested_namespaces: document.nested_namespaces,
    })
}

impl StoredLimits {
    fn of(limits: &Limits) -> Self {
        Self {
            memory_max: limits.memory_max.as_u64(),
            memory_high: limits.memory_high.as_u64(),
            swap_max: limits.swap_max.as_u64(),
            oom_group: limits.oom_group,
            cpu_max_milli: limits.cpu_max.map(CpuMax::milli),
            cpu_weight: limits.cpu_weight,
            io_weight: limits.io_weight,
            io_read_bps: limits.io_max.read_bps.map(ByteSize::as_u64),
            io_write_bps: limits.io_max.write_bps.map(ByteSize::as_u64),
            io_read_iops: limits.io_max.read_iops,
            io_write_iops: limits.io_max.write_iops,
            pids_max: limits.pids_max,
            nofile: limits.nofile,
        }
    }

    fn into_limits(self) -> Limits {
        Limits {
            memory_max: ByteSize::bytes(self.memory_max),
            memory_high: ByteSize::bytes(self.memory_high),
            swap_max: ByteSize::bytes(self.swap_max),
            oom_group: self.oom_group,
            cpu_max: self.cpu_max_milli.map(CpuMax::from_milli),
            cpu_weight: self.cpu_weight,
            io_max: IoMax {
                read_bps: self.io_read_bps.map(ByteSize::bytes),
                write_bps: self.io_write_bps.map(ByteSize::bytes),
                read_iops: self.io_read_iops,
                write_iops: self.io_write_iops,
            },
            io_weight: self.io_weight,
            pids_max: self.pids_max,
            nofile: self.nofile,
        }
    }
}

impl StoredExternal<'_> {
    fn into_external(self) -> Result<External, DocumentError> {
        let external = External::new(
            self.user_id.map(Cow::into_owned),
            self.project_id.map(Cow::into_owned),
            self.workspace_id.map(Cow::into_owned),
        );
        external.map_err(|error| bad("external", &error))
    }
}

fn parse<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, DocumentError> {
    text.parse().map_err(|error| bad(field, &error))
}

fn bad(field: &'static str, problem: &impl Display) -> DocumentError {
    DocumentError::Field { field, problem: problem.to_string() }
}
