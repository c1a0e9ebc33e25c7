//! What a client asked for, checked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::id::SandboxId;
use crate::isolation::Isolation;
use crate::limits::Limits;
use crate::spec_error::ENVIRONMENT_BYTES_MAX;
use crate::spec_error::ENVIRONMENT_ENTRIES_MAX;
use crate::spec_error::EXTERNAL_LENGTH_MAX;
use crate::spec_error::NAME_CHARS_MAX;
use crate::spec_error::PORTS_MAX;
use crate::spec_error::SLEEP_SECS_MAX;
use crate::spec_error::SpecError;
use crate::spec_error::VARIABLE_BYTES_MAX;

/// Everything that is fixed about a sandbox when it is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    pub id: SandboxId,
    pub ports: Vec<u16>,
    pub env: Environment,
    pub template: Option<TemplateName>,
    pub visibility: Visibility,
    pub idle_policy: IdlePolicy,
    pub host_header: HostHeader,
    /// `None`: the instance's.
    pub sleep: Option<SleepPolicy>,
    pub limits: Limits,
    pub external: External,
    pub app_id: Option<AppName>,
    pub git: Option<GitSource>,
    pub isolation: Isolation,
    pub rootfs: RootFs,
    /// Whether its programs may make user, pid and network namespaces of their own.
    pub nested_namespaces: bool,
}

/// What the root file system takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RootFs {
    /// Nothing: it is the same for all.
    #[default]
    ReadOnly,
    /// What root of the sandbox writes, in a layer of the sandbox's own that lasts as its workspace does.
    Overlay,
}

impl SandboxSpec {
    /// Checks a list of ports; duplicates are dropped, the order is kept.
    ///
    /// # Errors
    /// A number outside 1–65535, or more than 64 of them.
    pub fn parse_ports(numbers: &[i64]) -> Result<Vec<u16>, SpecError> {
        let mut ports = Vec::with_capacity(numbers.len().min(PORTS_MAX));
        for number in numbers {
            let port = u16::try_from(*number).ok().filter(|p| *p != 0).ok_or(SpecError::Port(*number))?;
            if !ports.contains(&port) {
                ports.push(port);
            }
            if ports.len() > PORTS_MAX {
                return Err(SpecError::Ports);
            }
        }
        Ok(ports)
    }
}

/// Environment variables, checked: they reach execve(2) and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Checks names and values.
    ///
    /// # Errors
    /// A name that is empty or has `=` or a newline; a NUL anywhere; too many or too much.
    pub fn new(entries: BTreeMap<String, String>) -> Result<Self, SpecError> {
        let bytes: usize = entries.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if entries.len() > ENVIRONMENT_ENTRIES_MAX || bytes > ENVIRONMENT_BYTES_MAX {
            return Err(SpecError::EnvironmentSize);
        }
        for (name, value) in &entries {
            if name.is_empty() || name.contains(['=', '\n', '\0']) {
                return Err(SpecError::EnvironmentName);
            }
            if value.contains('\0') {
                return Err(SpecError::EnvironmentValue(name.clone()));
            }
            if name.len() + value.len() + 2 > VARIABLE_BYTES_MAX {
                return Err(SpecError::EnvironmentVariable(name.chars().take(NAME_CHARS_MAX).collect()));
            }
        }
        Ok(Self(entries))
    }

    /// Returns the variables in the order of their names.
    pub fn entries(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// Whom a sandbox belongs to in the client's own terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct External {
    user_id: Option<String>,
    project_id: Option<String>,
    workspace_id: Option<String>,
}

impl External {
    /// Checks the three ids; an empty one counts as absent.
    ///
    /// # Errors
    /// More than 256 bytes, or a control character.
    pub fn new(
        user: Option<String>,
        project: Option<String>,
        workspace: Option<String>,
    ) -> Result<Self, SpecError> {
        let check = |name: &'static str, value: Option<String>| match value {
            Some(v) if v.chars().count() > EXTERNAL_LENGTH_MAX || v.chars().any(char::is_control) => {
                Err(SpecError::External(name))
            }
            Some(v) if v.is_empty() => Ok(None),
            other => Ok(other),
        };
        Ok(Self {
            user_id: check("external_user_id", user)?,
            project_id: check("external_project_id", project)?,
            workspace_id: check("external_workspace_id", workspace)?,
        })
    }

    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    pub fn project_id(&self) -> Option<&str> {
        self.project_id.as_deref()
    }

    pub fn workspace_id(&self) -> Option<&str> {
        self.workspace_id.as_deref()
    }
}

/// Who may open a sandbox's previews.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    #[default]
    Public,
    Private,
}

impl Visibility {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

impl FromStr for Visibility {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "public" => Ok(Self::Public),
            "private" => Ok(Self::Private),
            _ => Err(choice(text, "public, private")),
        }
    }
}

/// Which host name an app is told that it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The preview's own.
    #[default]
    Preview,
    /// `localhost:<port>`, for development servers that refuse others.
    Upstream,
}

impl HostHeader {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preview => "preview",
            Self::Upstream => "upstream",
        }
    }
}

impl FromStr for HostHeader {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "preview" => Ok(Self::Preview),
            "upstream" => Ok(Self::Upstream),
            _ => Err(choice(text, "preview, upstream")),
        }
    }
}

/// What happens to a sandbox that nobody uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// It is put to sleep.
    #[default]
    Sleep,
    /// It runs on, and is started when the daemon starts.
    AlwaysOn,
    /// Somebody pauses and stops it by request; it never sleeps by itself, nor is it started by itself.
    Manual,
}

impl IdlePolicy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sleep => "sleep",
            Self::AlwaysOn => "always_on",
            Self::Manual => "manual",
        }
    }
}

impl RootFs {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::Overlay => "overlay",
        }
    }
}

impl FromStr for RootFs {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "read_only" => Ok(Self::ReadOnly),
            "overlay" => Ok(Self::Overlay),
            _ => Err(choice(text, "read_only, overlay")),
        }
    }
}

impl FromStr for IdlePolicy {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sleep" => Ok(Self::Sleep),
            "always_on" => Ok(Self::AlwaysOn),
            "manual" => Ok(Self::Manual),
            _ => Err(choice(text, "sleep, always_on, manual")),
        }
    }
}

/// When a sandbox that nobody uses is frozen, and when its processes are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepPolicy {
    after: Duration,
    then_stop_after: Option<Duration>,
}

/// What is due for a sandbox that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    Awake,
    Frozen,
    Stopped,
}

impl SleepPolicy {
    /// Freeze after so many seconds without a use, and stop so many seconds later; `None`: never, zero: at
    /// once, without freezing.
    ///
    /// # Errors
    /// Freezing at once, or a time longer than a year.
    pub fn new(after_secs: u64, then_stop_after_secs: Option<u64>) -> Result<Self, SpecError> {
        let valid = (1..=SLEEP_SECS_MAX).contains(&after_secs)
            && then_stop_after_secs.is_none_or(|secs| secs <= SLEEP_SECS_MAX);
        if !valid {
            return Err(SpecError::Sleep);
        }
        let then_stop_after = then_stop_after_secs.map(Duration::from_secs);
        Ok(Self { after: Duration::from_secs(after_secs), then_stop_after })
    }

    /// Stop at `stop`, and freeze at `freeze` if that is earlier and not zero.
    pub fn of_instance(freeze: Duration, stop: Duration) -> Self {
        if freeze.is_zero() || freeze >= stop {
            Self { after: stop, then_stop_after: Some(Duration::ZERO) }
        } else {
            Self { after: freeze, then_stop_after: Some(stop.saturating_sub(freeze)) }
        }
    }

    pub fn after(&self) -> Duration {
        self.after
    }

    pub fn then_stop_after(&self) -> Option<Duration> {
        self.then_stop_after
    }

    /// After how much time without a use it is stopped.
    pub fn stops_after(&self) -> Option<Duration> {
        self.then_stop_after.map(|then| self.after.saturating_add(then))
    }

    /// What a sandbox should be that nobody has used for so long, and in how much time that changes.
    pub fn tier(&self, idle: Duration) -> (Tier, Option<Duration>) {
        match self.stops_after() {
            Some(stop) if idle >= stop => (Tier::Stopped, None),
            _ if idle < self.after => (Tier::Awake, Some(self.after.saturating_sub(idle))),
            Some(stop) => (Tier::Frozen, Some(stop.saturating_sub(idle))),
            None => (Tier::Frozen, None),
        }
    }
}

/// The name of a template: one path component of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateName(String);

impl TemplateName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Says whether this names the empty app directory rather than a template's files.
    pub fn is_blank(&self) -> bool {
        matches!(self.0.as_str(), "blank" | "none")
    }
}

impl FromStr for TemplateName {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=64).contains(&text.len()) && text.bytes().all(allowed);
        if valid { Ok(Self(text.to_owned())) } else { Err(SpecError::Template) }
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of the client's app that a sandbox runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppName(String);

impl AppName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AppName {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let valid = (1..=128).contains(&text.len()) && text.bytes().all(allowed);
        if valid { Ok(Self(text.to_owned())) } else { Err(SpecError::App) }
    }
}

/// A repository that is cloned into the app directory when a sandbox is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    repo_url: String,
    branch: Option<String>,
}

impl GitSource {
    /// Checks the address and the branch; both reach git as arguments, inside the sandbox.
    ///
    /// # Errors
    /// An address of another scheme, a branch that git would take for an option.
    pub fn new(repo_url: String, branch: Option<String>) -> Result<Self, SpecError> {
        let schemes = ["https://", "http://", "git://", "ssh://", "file://"];
        let plain = |text: &str| !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if repo_url.len() > 2048 || !plain(&repo_url) || !schemes.iter().any(|s| repo_url.starts_with(s)) {
            return Err(SpecError::Repository);
        }
        let branch = branch.filter(|b| !b.is_empty());
        if branch.as_deref().is_some_and(|b| b.len() > 255 || b.starts_with('-') || !plain(b)) {
            return Err(SpecError::Branch);
        }
        Ok(Self { repo_url, branch })
    }

    pub fn repo_url(&self) -> &str {
        &self.repo_url
    }

    pub fn branch(&self) -> Option<&str> {
        self.branch.as_deref()
    }
}

fn choice(text: &str, allowed: &'static str) -> SpecError {
    SpecError::Choice(text.chars().take(64).collect(), allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_checked_and_unique() {
        assert_eq!(SandboxSpec::parse_ports(&[3000, 80, 3000]), Ok(vec![3000, 80]));
        for bad in [0, -1, 65_536, i64::MAX] {
            assert_eq!(SandboxSpec::parse_ports(&[bad]), Err(SpecError::Port(bad)));
        }
        let many: Vec<i64> = (1..=65).collect();
        assert_eq!(SandboxSpec::parse_ports(&many), Err(SpecError::Ports));
    }

    #[test]
    fn environment_refuses_what_execve_cannot_carry() {
        let one =
            |name: &str, value: &str| Environment::new(BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert!(one("A", "b=c").is_ok() && one("A", "x\ny").is_ok());
        let longest = "x".repeat(VARIABLE_BYTES_MAX - 3);
        assert!(one("A", &longest).is_ok());
        assert!(matches!(one("AB", &longest), Err(SpecError::EnvironmentVariable(_))));
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\n", "x"), ("A", "x\0")] {
            assert!(one(name, value).is_err(), "{name:?}={value:?}");
        }
        assert_eq!(one("A", &"x".repeat(ENVIRONMENT_BYTES_MAX)), Err(SpecError::EnvironmentSize));
    }

    #[test]
    fn sleep_has_two_tiers() {
        let secs = Duration::from_secs;
        let policy = SleepPolicy::new(10, Some(20)).unwrap();
        assert_eq!(policy.tier(secs(9)), (Tier::Awake, Some(secs(1))));
        assert_eq!(policy.tier(secs(10)), (Tier::Frozen, Some(secs(20))));
        assert_eq!(policy.tier(secs(30)), (Tier::Stopped, None));
        assert_eq!(SleepPolicy::new(10, Some(0)).unwrap().tier(secs(10)), (Tier::Stopped, None));
        assert_eq!(SleepPolicy::new(10, None).unwrap().tier(secs(1_000_000)), (Tier::Frozen, None));
        assert_eq!(SleepPolicy::of_instance(secs(300), secs(2100)).tier(secs(2100)), (Tier::Stopped, None));
        for freeze in [0, 5, 6] {
            let policy = SleepPolicy::of_instance(secs(freeze), secs(5));
            assert_eq!(policy.tier(secs(4)), (Tier::Awake, Some(secs(1))));
            assert_eq!(policy.tier(secs(5)), (Tier::Stopped, None));
        }
        for bad in [(0, None), (SLEEP_SECS_MAX + 1, None), (1, Some(SLEEP_SECS_MAX + 1))] {
            assert_eq!(SleepPolicy::new(bad.0, bad.1), Err(SpecError::Sleep));
        }
    }

    #[test]
    fn names_are_single_components() {
        for bad in ["", "..", "a/b", "A", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<TemplateName>().is_err(), "{bad}");
        }
        assert!("react-vite".parse::<TemplateName>().is_ok());
        assert!("none".parse::<TemplateName>().is_ok_and(|t| t.is_blank()));
    }

    #[test]
    fn git_sources_cannot_become_options() {
        assert!(GitSource::new("https://example.org/a.git".into(), Some("main".into())).is_ok());
        for bad in ["--upload-pack=x", "ext::sh -c x", "/etc", "https://a b"] {
            assert!(GitSource::new(bad.into(), None).is_err(), "{bad}");
        }
        assert!(GitSource::new("https://example.org/a.git".into(), Some("-b".into())).is_err());
    }
}
