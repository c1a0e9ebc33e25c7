//! One daemon per data directory: flock(2).

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Why the data directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("lock {0}: another sandboxd uses this data directory")]
    Taken(PathBuf),
    #[error("open the lock {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Held for as long as the daemon lives; the kernel releases it however the daemon ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock of a data directory.
pub(super) fn take(data_dir: &Path) -> Result<Lock, LockError> {
    let path = data_dir.join("lock");
    let failed = |source| LockError::Open { path: path.clone(), source };
    let opened = File::options().create(true).append(true).mode(0o600).open(&path);
    let mut writer = opened.map_err(failed)?;
    // What holds the lock cannot write: a file system with such a descriptor cannot be made read-only by its operator.
    let file = File::open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LockError::Taken(path)),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    // For people only: which process it is. A full disk may have no room for it.
    let _unwritten: io::Result<()> =
        writer.set_len(0).and_then(|()| writeln!(writer, "{}", std::process::id()));
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = take(directory.path()).unwrap();
        assert!(matches!(take(directory.path()), Err(LockError::Taken(_))));
        drop(first);
        take(directory.path()).unwrap();
    }
}
