//! What clients ask for.

use std::time::Duration;

use crate::base::view::Snapshot;
use model::{
    AppName, Environment, External, GitSource, HostHeader, IdlePolicy, Isolation, LimitsChange, RootFs,
    SandboxId, TemplateName, Visibility,
};

/// What a client asks for when it creates a sandbox; everything is checked already.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// Taken: a conflict, unless only its workspace is left and the owner is the same.
    pub id: Option<SandboxId>,
    /// Empty: the template's.
    pub ports: Vec<u16>,
    /// When the template declares none either.
    pub ports_default: Vec<u16>,
    pub env: Environment,
    pub template: Option<TemplateName>,
    pub visibility: Visibility,
    pub idle_policy: IdlePolicy,
    pub host_header: HostHeader,
    pub sleep: Option<SleepRequest>,
    pub external: External,
    pub app_id: Option<AppName>,
    pub git: Option<GitSource>,
    pub limits: LimitsChange,
    /// `None`: the weakest that the client may have.
    pub isolation: Option<Isolation>,
    pub rootfs: RootFs,
    /// Whether its programs may make user, pid and network namespaces of their own.
    pub nested_namespaces: bool,
    /// Answer the existing sandbox of the same project instead of making a second one.
    pub one_per_project: bool,
}

/// When to sleep, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepRequest {
    pub after: u64,
    /// `None`: when the instance's idle time is over; `Some(None)`: never.
    pub then_stop_after: Option<Option<u64>>,
}

/// What a client wants to change; what is absent stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpdateRequest {
    pub idle_policy: Option<IdlePolicy>,
    /// `Some(None)`: as the instance says.
    pub sleep: Option<Option<SleepRequest>>,
    pub limits: LimitsChange,
}

/// Made, or found by its project.
#[derive(Debug, Clone)]
pub enum Created {
    New(Snapshot),
    Existing(Snapshot),
}

/// Which sandboxes to list; an empty field matches all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub external_user_id: Option<String>,
    pub external_project_id: Option<String>,
}

/// What a start did.
#[derive(Debug, Clone)]
pub struct Started {
    pub snapshot: Snapshot,
    /// False: it ran already.
    pub woke: bool,
    pub took: Duration,
}

/// A command to run in a sandbox.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    pub cmd: Vec<String>,
    /// Added to the sandbox's environment.
    pub env: Environment,
    /// Absolute; `~/workspace` when absent.
    pub cwd: Option<String>,
    /// As root of the sandbox's user namespace instead of as its user.
    pub root: bool,
}
