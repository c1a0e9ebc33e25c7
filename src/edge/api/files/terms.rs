//! What all requests about files have in common.

use crate::api::convert;
use crate::api::error::{ApiError, Style};
use crate::api::respond::Json;
use model::FileBase;
use sandbox::{EntryKind, Error};
use wire::{FileEntry, FileStat};

pub(crate) fn shown_entry(entry: sandbox::FileEntry<'_>) -> FileEntry {
    FileEntry {
        path: entry.path.to_owned(),
        r#type: match entry.kind {
            EntryKind::Dir => "dir",
            EntryKind::File => "file",
        },
        size: entry.size,
    }
}

pub(crate) fn base_of(text: Option<&str>) -> Result<FileBase, ApiError> {
    let base = text.map_or_else(|| Ok(FileBase::default()), str::parse);
    base.map_err(|unknown| Style::V1.invalid(format!("base {unknown}")))
}

pub(crate) fn mode_of(text: &str) -> Result<u32, ApiError> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten();
    mode.ok_or_else(|| Style::V1.invalid("mode is octal, such as \"0755\""))
}

pub(crate) fn shown(stat: model::FileStat) -> Json<FileStat> {
    Json(FileStat {
        path: stat.path,
        r#type: stat.kind.as_str(),
        size: stat.size,
        mode: format!("{:04o}", stat.mode),
        mtime: convert::time(stat.modified_ms),
        target: stat.target,
    })
}

pub(crate) fn core(error: Error) -> ApiError {
    Style::V1.of_core(&error)
}
