//! The files of a sandbox, whether it runs or sleeps; using them does not wake it.

use std::time::SystemTime;

use bytes::Bytes;

use super::error::Error;
use super::supervisor::{Supervisor, blocking};
use crate::model::SandboxId;
use crate::storage::{self, FilePath};

/// A file or directory beneath the app directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the app directory.
    pub path: String,
    pub directory: bool,
    pub size: Option<u64>,
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct Download {
    pub file: tokio::fs::File,
    pub size: u64,
    pub modified: Option<SystemTime>,
}

/// A file that is being written; dropped before [`Upload::commit`], nothing is changed.
#[derive(Debug)]
pub struct Upload {
    inner: Option<storage::Upload>,
}

impl Supervisor {
    /// Lists a directory beneath the app directory.
    ///
    /// # Errors
    /// Not found, not a directory, too many entries, or a path that leads out.
    pub async fn list_files(
        &self,
        id: SandboxId,
        path: &str,
        recursive: bool,
    ) -> Result<Vec<FileEntry>, Error> {
        let path = FilePath::parse_directory(path).map_err(Error::File)?;
        let entries =
            self.with_files(id, move |files| files.list(&path, recursive).map_err(Error::File)).await?;
        let convert = |entry: storage::Entry| FileEntry {
            directory: entry.kind == storage::EntryKind::Dir,
            path: entry.path,
            size: entry.size,
        };
        Ok(entries.into_iter().map(convert).collect())
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// Not found, not a regular file, or a path that leads out.
    pub async fn open_file(&self, id: SandboxId, path: &str) -> Result<Download, Error> {
        let path = FilePath::parse(path).map_err(Error::File)?;
        let (file, size, modified) =
            self.with_files(id, move |files| files.open(&path).map_err(Error::File)).await?;
        Ok(Download { file: tokio::fs::File::from_std(file), size, modified })
    }

    /// Begins to write a file; directories above it are made.
    ///
    /// # Errors
    /// The path is a directory, leads out, or nothing can be written.
    pub async fn create_file(&self, id: SandboxId, path: &str) -> Result<Upload, Error> {
        let path = FilePath::parse(path).map_err(Error::File)?;
        let upload = self.with_files(id, move |files| files.create(&path).map_err(Error::File)).await?;
        Ok(Upload { inner: Some(upload) })
    }

    async fn with_files<T: Send + 'static>(
        &self,
        id: SandboxId,
        step: impl FnOnce(&storage::Files) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.find(id)?;
        let shared = std::sync::Arc::clone(&self.shared);
        blocking(move || step(&shared.storage.files(id).map_err(Error::Storage)?)).await
    }
}

impl Upload {
    /// Adds to the file.
    ///
    /// # Errors
    /// The disk is full or fails.
    ///
    /// # Cancel safety
    /// Not cancel safe: a write that is given up ends the upload.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let Some(mut upload) = self.inner.take() else { return Err(Error::Ending) };
        let upload = blocking(move || {
            upload.write(&bytes).map_err(Error::File)?;
            Ok(upload)
        })
        .await?;
        self.inner = Some(upload);
        Ok(())
    }

    /// Puts the file in place of what was there; returns its size.
    ///
    /// # Errors
    /// The disk is full or fails, or a directory is in the way.
    pub async fn commit(mut self) -> Result<u64, Error> {
        let Some(upload) = self.inner.take() else { return Err(Error::Ending) };
        blocking(move || upload.commit().map_err(Error::File)).await
    }
}
