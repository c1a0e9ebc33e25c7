//! The key that is made at the first start.

use crate::config::Config;
use crate::config::OWN_KEY;
use edge::api::Pass;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use edge::api::new_key;

/// The file in the data directory; only its owner may read it.
const FILE: &str = "api-key";
/// The least and the most characters of a key.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=256;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("{action} the key {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("use the key {0}: others than its owner may read it; run `chmod 600` on it")]
    Open(PathBuf),
    #[error(
        "use the key {0}: it has not 16 to 256 printable characters; delete the file and a new key is made"
    )]
    Malformed(PathBuf),
}

/// The API's key.
pub(super) struct Key {
    pub(super) text: String,
    pub(super) path: PathBuf,
    /// It was made just now, so that it is to be shown.
    pub(super) is_new: bool,
}

/// Reads the key, or makes one.
pub(super) fn load_or_make(data_dir: &Path) -> Result<Key, KeyError> {
    let path = data_dir.join(FILE);
    match read_again(data_dir) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => make(path),
        found => found,
    }
}

/// Reads the key, which is not made if it is not there.
pub(super) fn read_again(data_dir: &Path) -> Result<Key, KeyError> {
    let path = data_dir.join(FILE);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => Err(KeyError::Open(path)),
        Ok(_) => read(path),
        Err(source) => Err(KeyError::File { action: "look at", path, source }),
    }
}

fn read(path: PathBuf) -> Result<Key, KeyError> {
    let text = fs::read_to_string(&path);
    let text = text
        .map_err(|source| KeyError::File { action: "read", path: path.clone(), source })?
        .trim()
        .to_owned();
    if !LENGTHS.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(KeyError::Malformed(path));
    }
    Ok(Key { text, path, is_new: false })
}

/// Writes a new key whole or not at all.
fn make(path: PathBuf) -> Result<Key, KeyError> {
    let temporary = path.with_extension("new");
    let write = |text: &str| -> io::Result<()> {
        let mut file =
            File::options().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    };
    let text = new_key().map_err(|source| KeyError::File { action: "make", path: path.clone(), source })?;
    write(&text).map_err(|source| KeyError::File { action: "write", path: path.clone(), source })?;
    Ok(Key { text, path, is_new: true })
}

/// The keys of the settings beside the server's own, what each may do, and what anybody may without one.
pub(super) fn keys<'a>(config: &'a Config, own: &'a str) -> (Vec<(&'a str, Pass)>, Option<Pass>) {
    let pass_of = |name: &str| {
        let own = config.token_min_isolation.iter().find(|(key, _)| key == name);
        Pass { min_isolation: own.map_or(config.min_isolation, |(_, minimum)| *minimum) }
    };
    let own = std::iter::once((own, pass_of(OWN_KEY)));
    let named = config.api_tokens.iter().map(|(name, secret)| (secret.reveal(), pass_of(name)));
    let anybody = config.api_auth_disabled.then_some(Pass { min_isolation: config.min_isolation });
    (own.chain(named).collect(), anybody)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_guarded() {
        let directory = tempfile::tempdir().unwrap();
        let first = load_or_make(directory.path()).unwrap();
        let second = load_or_make(directory.path()).unwrap();
        assert!(first.is_new && !second.is_new && first.text == second.text);
        assert_eq!(fs::metadata(&first.path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&first.path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load_or_make(directory.path()), Err(KeyError::Open(_))));
        fs::set_permissions(&first.path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&first.path, "short").unwrap();
        assert!(matches!(load_or_make(directory.path()), Err(KeyError::Malformed(_))));
    }
}
