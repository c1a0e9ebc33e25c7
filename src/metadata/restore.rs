//! Saving a database elsewhere, and putting one in its place.

use std::path::{Path, PathBuf};

use crate::backup::{copy, set_aside, take};
use crate::error::MetadataError;
use crate::mark::{self, Mark};
use crate::paths::{BESIDE, beside};
use crate::recover::{self, Evidence};
use crate::{rows, schema};

/// `sandboxd backup`: copies the record of a daemon that may be running.
///
/// # Errors
/// There is none, it is damaged, or the copy cannot be written.
pub fn save(database: &Path, target: &Path) -> Result<(), MetadataError> {
    let connection = recover::patiently(database, schema::inspect)?;
    copy(&connection, target)
}

/// `sandboxd restore`: puts a copy in the place of the record, which is kept beside it; returns its new name. From then
/// on the copy counts as newer than everything that is known of the record.
///
/// # Errors
/// The copy is damaged, foreign or newer, or the files cannot be written.
pub fn restore(database: &Path, from: &Path, evidence: &Evidence) -> Result<Option<PathBuf>, MetadataError> {
    let connection = recover::patiently(from, schema::inspect)?;
    let own = rows::stamp(&connection).map_err(super::error::classify)?;
    drop(connection);
    let stamp = recover::stamp_for(database, evidence, own)?;
    let has_any = BESIDE.iter().any(|suffix| beside(database, suffix).exists());
    let kept = if has_any { Some(set_aside(database, "replaced")?) } else { None };
    take(from, database)?;
    let connection = schema::open(database)?;
    let stamp = rows::stamped(&connection, stamp)?;
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").map_err(super::error::classify)?;
    Mark::make(&mark::path_of(database), stamp).map_err(MetadataError::File)?;
    Ok(kept)
}
