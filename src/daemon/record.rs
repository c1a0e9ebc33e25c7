//! `sandboxd backup` and `sandboxd restore`.

use std::path::Path;

use super::exit::{Exit, say};
use super::{lock, serve};
use crate::config::Config;
use crate::metadata;

/// Copies the record; the daemon may run.
pub(super) fn backup(flags: &[(String, String)], target: &Path) -> Exit {
    let config = match config(flags) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match metadata::save(&config.database, target) {
        Ok(()) => {
            say(&format!("copied {} to {}", config.database.display(), target.display()));
            Exit::Success
        }
        Err(error) if error.is_full() => Exit::TryAgain.because(&error, "free space and try again"),
        Err(error) => Exit::Unavailable.because(&error, ""),
    }
}

/// Puts a copy in the place of the record; no daemon may run.
pub(super) fn restore(flags: &[(String, String)], from: &Path) -> Exit {
    let config = match config(flags) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if let Err(error) = std::fs::create_dir_all(&config.data_dir) {
        return Exit::Unavailable.because(&error, "the data directory cannot be made; see data_dir");
    }
    let _lock = match lock::take(&config.data_dir) {
        Ok(lock) => lock,
        Err(error) => return Exit::Unavailable.because(&error, "end it first"),
    };
    match metadata::restore(&config.database, from) {
        Ok(kept) => {
            if let Some(kept) = kept {
                say(&format!("the record that was there is kept as {}", kept.display()));
            }
            say(&format!("the next start uses the record of {}", from.display()));
            Exit::Success
        }
        Err(error) => Exit::Unavailable.because(&error, ""),
    }
}

fn config(flags: &[(String, String)]) -> Result<Config, Exit> {
    serve::read_config(flags).map_err(|error| Exit::Config.because(&error, "see `sandboxd check-config`"))
}
