//! The app's manifest, `sandbox.yaml`: what runs in a sandbox by itself.
//!
//! It is written by the tenant: everything in it is bounded and checked, and nothing in it reaches
//! anything but a shell inside the sandbox.

use std::collections::BTreeSet;

use serde::Deserialize;

/// The most bytes of a manifest that are read.
pub const BYTES_MAX: usize = 64 * 1024;
/// The port of a web process that names none.
const PORT_DEFAULT: u16 = 3000;
/// How long a build may take when the manifest does not say, in seconds.
const BUILD_TIMEOUT_SECS_DEFAULT: u32 = 120;
/// The longest build, in seconds.
const BUILD_TIMEOUT_SECS_MAX: u32 = 3600;
/// The most workers of an app.
const WORKERS_MAX: usize = 16;
/// The most bytes of one command.
const COMMAND_BYTES_MAX: usize = 16 * 1024;

/// What an app declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub web: Option<Web>,
    pub build: Option<Build>,
    pub workers: Vec<Worker>,
}

/// The process whose port is the app's preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    /// Run as `bash -lc` in the app directory.
    pub command: String,
    pub port: u16,
    /// The path whose answer says that the app is up; begins with `/`.
    pub health_path: String,
    pub restart_after_task: bool,
}

/// A command that runs to its end before the web process starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub command: String,
    pub timeout_secs: u32,
}

/// A process beside the web process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Unique in the app; never `web` or `build`, whose logs are kept under those names.
    pub name: String,
    pub command: String,
    pub restart_after_task: bool,
}

/// Everything that is wrong with a manifest, one sentence each; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sandbox.yaml: {}", .0.join("; "))]
pub struct ManifestError(pub Vec<String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    version: i64,
    #[serde(default)]
    web: Option<RawWeb>,
    #[serde(default)]
    build: Option<RawBuild>,
    #[serde(default)]
    workers: Vec<RawWorker>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWeb {
    #[serde(default)]
    command: String,
    port: Option<i64>,
    health_path: Option<String>,
    #[serde(default)]
    restart_after_task: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBuild {
    #[serde(default)]
    command: String,
    timeout_seconds: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorker {
    #[serde(default)]
    name: String,
    #[serde(default)]
    command: String,
    #[serde(default)]
    restart_after_task: bool,
}

impl Manifest {
    /// Reads a manifest strictly.
    ///
    /// # Errors
    /// Text that is not YAML or has more than [`BYTES_MAX`] bytes, an unknown key, a version other
    /// than 1, a bad port, a missing command, a worker's name that is bad or taken: all of them at once.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let one = |problem: String| ManifestError(vec![problem]);
        if text.len() > BYTES_MAX {
            return Err(one(format!("it has more than {BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(text).map_err(|e| one(format!("it is not UTF-8: {e}")))?;
        let raw: RawManifest = serde_saphyr::from_str(text).map_err(|e| one(first_line(&e.to_string())))?;
        let mut problems = Vec::new();
        if raw.version != 1 {
            problems.push(format!("version must be 1, not {}", raw.version));
        }
        let web = raw.web.map(|web| check_web(web, &mut problems));
        let build = raw.build.and_then(|build| check_build(build, &mut problems));
        let workers = check_workers(raw.workers, &mut problems);
        if problems.is_empty() { Ok(Self { web, build, workers }) } else { Err(ManifestError(problems)) }
    }
}

fn check_web(raw: RawWeb, problems: &mut Vec<String>) -> Web {
    check_command("web.command", &raw.command, problems);
    let port = match raw.port.map(|p| (p, u16::try_from(p).ok().filter(|p| *p != 0))) {
        None => PORT_DEFAULT,
        Some((_, Some(port))) => port,
        Some((number, None)) => {
            problems.push(format!("web.port is a number from 1 to 65535, not {number}"));
            PORT_DEFAULT
        }
    };
    let health_path = raw.health_path.unwrap_or_else(|| "/".to_owned());
    let printable = |b: u8| b.is_ascii_graphic();
    if !health_path.starts_with('/') || health_path.len() > 1024 || !health_path.bytes().all(printable) {
        problems.push(
            "web.health_path begins with '/' and has only printable ASCII, at most 1024 bytes".to_owned(),
        );
    }
    Web { command: raw.command, port, health_path, restart_after_task: raw.restart_after_task }
}

fn check_build(raw: RawBuild, problems: &mut Vec<String>) -> Option<Build> {
    if raw.command.trim().is_empty() {
        return None;
    }
    check_command("build.command", &raw.command, problems);
    let seconds = raw.timeout_seconds.unwrap_or_else(|| i64::from(BUILD_TIMEOUT_SECS_DEFAULT));
    let timeout_secs = u32::try_from(seconds).ok().filter(|s| (1..=BUILD_TIMEOUT_SECS_MAX).contains(s));
    if timeout_secs.is_none() {
        problems.push(format!("build.timeout_seconds is from 1 to {BUILD_TIMEOUT_SECS_MAX}, not {seconds}"));
    }
    Some(Build { command: raw.command, timeout_secs: timeout_secs.unwrap_or(BUILD_TIMEOUT_SECS_DEFAULT) })
}

fn check_workers(raw: Vec<RawWorker>, problems: &mut Vec<String>) -> Vec<Worker> {
    if raw.len() > WORKERS_MAX {
        problems.push(format!("an app has at most {WORKERS_MAX} workers"));
    }
    let mut names = BTreeSet::from(["web".to_owned(), "build".to_owned()]);
    let mut workers = Vec::new();
    for worker in raw.into_iter().take(WORKERS_MAX) {
        if !is_process_name(&worker.name) {
            problems.push("a worker's name has 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'".to_owned());
        } else if !names.insert(worker.name.clone()) {
            problems.push(format!("the worker's name {:?} is taken", worker.name));
        }
        check_command("a worker's command", &worker.command, problems);
        workers.push(Worker {
            name: worker.name,
            command: worker.command,
            restart_after_task: worker.restart_after_task,
        });
    }
    workers
}

fn check_command(what: &str, command: &str, problems: &mut Vec<String>) {
    if command.trim().is_empty() {
        problems.push(format!("{what} is missing"));
    } else if command.len() > COMMAND_BYTES_MAX || command.contains('\0') {
        problems.push(format!("{what} has a NUL or more than {COMMAND_BYTES_MAX} bytes"));
    }
}

/// Says whether this can be the name of a process of an app, and so of its log.
pub fn is_process_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// The first line of a parser's message, bounded: the rest is a picture of the tenant's text.
fn first_line(message: &str) -> String {
    message
        .strip_prefix("error: ")
        .unwrap_or(message)
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        Manifest::parse(text.as_bytes()).expect_err("the manifest is bad").0
    }

    #[test]
    fn defaults_are_filled_in() {
        let manifest =
            Manifest::parse(b"version: 1\nweb:\n  command: npm start\nbuild:\n  command: \"\"\n").unwrap();
        let web = manifest.web.unwrap();
        assert_eq!((web.port, web.health_path.as_str()), (3000, "/"));
        assert_eq!((manifest.build, manifest.workers), (None, vec![]));
    }

    #[test]
    fn every_problem_is_named() {
        let found = problems(
            "version: 2\nweb: {port: 0}\nworkers:\n- {name: a, command: x}\n- {name: a, command: y}\n- {name: web, command: y}\n",
        );
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn hostile_texts_are_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n";
        for text in
            ["", "[]", "version: x", "version: 1\nhooks: {}", bomb, &"[".repeat(60_000), &"#".repeat(70_000)]
        {
            assert!(!problems(text).is_empty());
        }
        assert!(Manifest::parse(b"\xff\xfe").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_manifest_or_refused(
            parts in proptest::collection::vec(
                proptest::sample::select(vec!["version: 1\n", "web:\n", "  command: x\n", "  port: ", "0\n", "70000\n", "build: ", "workers:\n", "- {name: a, command: b}\n", "- name: ../x\n", "&a ", "*a\n", "!!binary ", "\u{0}", "\t", "? ", "{", "[", "'", "\"", "|\n", "---\n", "\u{feff}"]),
                0..24,
            ),
        ) {
            if let Ok(manifest) = Manifest::parse(parts.concat().as_bytes()) {
                proptest::prop_assert!(manifest.web.is_none_or(|web| web.port > 0));
                proptest::prop_assert!(manifest.workers.iter().all(|w| is_process_name(&w.name)));
            }
        }

        #[test]
        fn any_bytes_are_a_manifest_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _either = Manifest::parse(&bytes);
        }
    }
}
