//! Where settings come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::env_file;
use super::settings::{FORMER, SETTINGS, variable};
use super::tree::ConfigError;

/// Names of the environment that are for the programs that use a server: whoever has set them for
/// `sandboxctl` may start a server too.
const OF_CLIENTS: [&str; 3] = ["url", "token", "preview_url"];
/// Read when it is there and no other file is named.
const FILE: &str = "/etc/sandboxd/config.toml";

/// What each setting was given as, and where.
#[derive(Debug, Default)]
pub struct Sources {
    pub(super) values: BTreeMap<&'static str, Value>,
    pub(super) ignored: Vec<String>,
    /// Names in the environment that nobody knows: other programs may have set them.
    pub(super) warnings: Vec<String>,
    /// Names that nobody knows.
    pub(super) problems: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) origin: String,
}

/// Collects file, environment and flags, in this order; `default_file` is read if it is there.
///
/// # Errors
/// The file cannot be read or is not TOML.
pub fn collect(
    flags: &[(String, String)],
    env: &BTreeMap<String, String>,
    default_file: Option<&Path>,
) -> Result<Sources, ConfigError> {
    let mut sources = Sources::default();
    let named = flags.iter().find(|(name, _)| name == "config").map(|(_, file)| file);
    if let Some(file) = named.or_else(|| env.get("SANDBOXD_CONFIG")) {
        sources.read_file(Path::new(file))?;
    } else if let Some(file) = default_file.filter(|f| f.exists()) {
        sources.read_file(file)?;
    }
    for (name, text) in env {
        let known = SETTINGS.iter().find(|s| variable(s.name) == *name);
        let former = name.strip_prefix("SANDBOXD_").map(str::to_ascii_lowercase);
        match (known, former) {
            (Some(setting), _) => sources.set(setting.name, text, name.clone()),
            (None, Some(rest)) if rest == "config" || name == env_file::NAME || rest.starts_with("test_") => {
            }
            (None, Some(rest)) if OF_CLIENTS.contains(&rest.as_str()) => {}
            (None, Some(rest)) if FORMER.contains(&rest.as_str()) => sources.ignored.push(rest),
            (None, Some(rest)) => sources.warnings.push(unknown(&rest, name)),
            (None, None) => {}
        }
    }
    for (name, text) in flags.iter().filter(|(name, _)| name != "config") {
        match SETTINGS.iter().find(|s| s.name == name) {
            Some(setting) => sources.set(setting.name, text, "--set".to_owned()),
            None => sources.problems.push(unknown(name, "--set")),
        }
    }
    Ok(sources)
}

/// The file that is read when no other is named.
pub fn default_file() -> PathBuf {
    PathBuf::from(FILE)
}

impl Sources {
    fn read_file(&mut self, file: &Path) -> Result<(), ConfigError> {
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|e| ConfigError(vec![format!("{shown}: {e}")]))?;
        let table: toml::Table = text.parse().map_err(|e| ConfigError(vec![format!("{shown}: {e}")]))?;
        for (name, value) in table {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                _ => {
                    self.problems.push(format!("{shown}: {name} is a text, a number, or true or false"));
                    continue;
                }
            };
            match SETTINGS.iter().find(|s| s.name == name) {
                Some(setting) => self.set(setting.name, &text, shown.to_string()),
                None => self.problems.push(unknown(&name, &shown.to_string())),
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &'static str, text: &str, origin: String) {
        self.values.insert(name, Value { text: text.to_owned(), origin });
    }
}

/// Says that a name is no setting, and which one may be meant.
fn unknown(name: &str, origin: &str) -> String {
    let nearest = SETTINGS.iter().min_by_key(|s| distance(s.name, name)).map(|s| s.name);
    let hint =
        nearest.filter(|n| distance(n, name) <= 3).map_or(String::new(), |n| format!("; did you mean {n}?"));
    format!("{origin}: there is no setting {name:?}{hint}")
}

/// The number of single-character edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, right) in b.bytes().enumerate() {
            let (above, before) = (row.get(j + 1).copied().unwrap_or(0), row.get(j).copied().unwrap_or(0));
            let best = (diagonal + usize::from(left != right)).min(above + 1).min(before + 1);
            diagonal = above;
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = best;
            }
        }
    }
    row.last().copied().unwrap_or(0)
}
