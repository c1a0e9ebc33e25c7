//! The environment file: variables that, unlike a process's own, can be read again.

use std::collections::BTreeMap;
use std::path::Path;

use super::tree::ConfigError;

/// The variable that names the file.
pub(super) const NAME: &str = "SANDBOXD_ENV_FILE";
/// Read when it is there and no other file is named.
const FILE: &str = "/etc/sandboxed/sandboxd.env";

/// Adds the variables of the environment file, which win: what was given to the process when it was started cannot
/// have changed since.
///
/// # Errors
/// The file that [`NAME`] names cannot be read, or a line of it is not understood.
pub fn with_env_file(mut env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
    let named = env.get(NAME).filter(|file| !file.is_empty()).cloned();
    let file = named.clone().unwrap_or_else(|| FILE.to_owned());
    if named.is_some() || Path::new(&file).exists() {
        let text = std::fs::read_to_string(&file).map_err(|e| ConfigError(vec![format!("{file}: {e}")]))?;
        env.extend(parse(&file, &text)?);
    }
    Ok(env)
}

/// Lines of `NAME=VALUE`, as systemd.exec(5), `EnvironmentFile=`, has them; `export` before it and quotes around the
/// value are taken off. A value is never shown: it may be a secret.
fn parse(file: &str, text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match line.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some((name, value)) if is_name(name) && value.matches('"').count() % 2 == 0 => {
                let quoted = |sign| value.strip_prefix(sign)?.strip_suffix(sign);
                let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
                found.push((name.to_owned(), value.to_owned()));
            }
            _ => problems.push(format!("{file}: line {}: it has the form NAME=VALUE", index + 1)),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(ConfigError(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_named_without_their_value() {
        let text = "# keys\n\nexport A=1\nB = \"two words\"\nC='x=y'\nD=\n";
        let found = parse("f", text).unwrap();
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(found, [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", "")]);
        let error = parse("f", "A=1\nsecret\n9=x\nB=\"open\n").unwrap_err();
        assert_eq!(error.0.len(), 3);
        assert!(error.0[0].contains("line 2") && !error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn the_file_wins_and_must_be_there_if_it_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("env");
        let env = BTreeMap::from([
            (NAME.to_owned(), file.display().to_string()),
            ("SANDBOXD_LOG".to_owned(), "info".to_owned()),
            ("SANDBOXD_IMAGE".to_owned(), "kept".to_owned()),
        ]);
        assert!(with_env_file(env.clone()).is_err());
        std::fs::write(&file, "SANDBOXD_LOG=debug\n").unwrap();
        let merged = with_env_file(env).unwrap();
        assert_eq!((&*merged["SANDBOXD_LOG"], &*merged["SANDBOXD_IMAGE"]), ("debug", "kept"));
    }
}
