//! `sandboxd backup` and `sandboxd restore`.

use std::io;
use std::path::{Path, PathBuf};

use super::exit::{Exit, say};
use super::{lock, settings};
use crate::config::Config;
use metadata::{Evidence, MetadataError};

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
        Err(error) => because(&error),
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
    let evidence = match evidence(&config) {
        Ok(evidence) => evidence,
        Err(error) => return Exit::TryAgain.because(&error, "see data_dir"),
    };
    match metadata::restore(&config.database, from, &evidence) {
        Ok(kept) => {
            if let Some(kept) = kept {
                say(&format!("the record that was there is kept as {}", kept.display()));
            }
            say(&format!("the next start uses the record of {}", from.display()));
            Exit::Success
        }
        Err(error) => because(&error),
    }
}

/// Says why the record cannot be used, and what helps.
pub(super) fn because(error: &MetadataError) -> Exit {
    let (exit, remedy) = if error.is_full() {
        (Exit::TryAgain, "free space and try again")
    } else if error.is_busy() {
        (
            Exit::TryAgain,
            "end the program that holds the database (`fuser` names it) and try again; nothing was changed",
        )
    } else if error.is_unwritable() {
        (
            Exit::TryAgain,
            "the disk of data_dir cannot be read or written: see to it and try again; nothing was changed",
        )
    } else {
        (Exit::Unavailable, "")
    };
    exit.because(error, remedy)
}

/// An evidence that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("list the workspaces in {path}")]
pub(super) struct Unlisted {
    path: PathBuf,
    source: io::Error,
}

/// What else than the record there is of sandboxes.
pub(super) fn evidence(config: &Config) -> Result<Evidence, Unlisted> {
    let path = &config.data_dir;
    let workspaces = storage::known_workspaces(path);
    let workspaces = workspaces.map_err(|source| Unlisted { path: path.clone(), source })?;
    Ok(Evidence { workspaces, notes: sandbox::notes(&config.run_dir) })
}

fn config(flags: &[(String, String)]) -> Result<Config, Exit> {
    settings::read_config(flags).map_err(|error| Exit::Config.because(&error, "see `sandboxd check-config`"))
}
