//! Finds the key for the API.
//!
//! `SANDBOXD_TOKEN` if it is set; otherwise, for a server on this machine, the file in which the
//! daemon keeps the key of its first start. That file's key is never sent elsewhere: requests are not encrypted.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use client::Endpoint;

use super::failure::Failure;
use super::key_state::KeyState;

/// The daemon's own default.
const DATA_DIR: &str = "/var/lib/sandboxd";
const KEY_FILE: &str = "api-key";
/// A key has some tens of characters; a file larger than this is something else.
const KEY_BYTES_MAX: u64 = 4096;

/// Finds the key for a server; a key that is not there is no failure, since a server may want none.
///
/// # Errors
/// The key file cannot be read for another reason than permission, or holds no key.
pub(super) fn find(
    endpoint: &Endpoint,
    token: Option<String>,
    data_dir: Option<PathBuf>,
) -> Result<(Option<String>, KeyState), Failure> {
    if let Some(token) = token.filter(|t| !t.is_empty()) {
        let is_valid = token.bytes().all(|b| b.is_ascii_graphic());
        return is_valid.then_some((Some(token), KeyState::Given)).ok_or_else(|| {
            Failure::Usage(
                "use SANDBOXD_TOKEN: a key has no blanks and only visible ASCII characters".to_owned(),
            )
        });
    }
    if !endpoint.is_loopback() {
        return Ok((None, KeyState::NotRemote));
    }
    let data_dir = data_dir.filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| DATA_DIR.into());
    let path = data_dir.join(KEY_FILE);
    match read(&path) {
        Ok(key) => Ok((Some(key), KeyState::Found(path))),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok((None, KeyState::Missing(path))),
            io::ErrorKind::PermissionDenied => Ok((None, KeyState::Unreadable(path))),
            _ => Err(Failure::Key { path: path.display().to_string(), source: error }),
        },
    }
}

fn read(path: &Path) -> io::Result<String> {
    // A FIFO would wait for a writer for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(KEY_BYTES_MAX).read_to_string(&mut text)?;
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(io::Error::other("it holds no key"));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Endpoint {
        "http://127.0.0.1:9090".parse().unwrap()
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(KEY_FILE), "from-file\n").unwrap();
        let data_dir = || Some(directory.path().to_owned());
        let (key, state) = find(&local(), Some("given".to_owned()), data_dir()).unwrap();
        assert_eq!((key.as_deref(), state), (Some("given"), KeyState::Given));
        let (key, state) = find(&local(), Some(String::new()), data_dir()).unwrap();
        assert_eq!(
            (key.as_deref(), state),
            (Some("from-file"), KeyState::Found(directory.path().join(KEY_FILE)))
        );
    }

    #[test]
    fn the_file_is_for_this_machine_only() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(KEY_FILE), "from-file\n").unwrap();
        let elsewhere = "http://198.51.100.7:9090".parse().unwrap();
        let (key, state) = find(&elsewhere, None, Some(directory.path().to_owned())).unwrap();
        assert_eq!((key, state), (None, KeyState::NotRemote));
    }

    #[test]
    fn what_is_no_key_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = || Some(directory.path().to_owned());
        let path = directory.path().join(KEY_FILE);
        assert_eq!(find(&local(), None, data_dir()).unwrap(), (None, KeyState::Missing(path.clone())));
        for content in ["", "\n", "two words", "caf\u{e9}"] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(find(&local(), None, data_dir()), Err(Failure::Key { .. })), "{content:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(find(&local(), None, data_dir()), Err(Failure::Key { .. })));
        assert!(matches!(find(&local(), Some("a b".to_owned()), None), Err(Failure::Usage(_))));
    }
}
