//! A walk through a tree, written down by a packer.

use std::fs::File;
use std::io::{self, Read as _};

use rustix::fs::{FileType, Stat};

use super::bounds::BUFFER_BYTES;
use crate::edit::MODE_BITS;
use crate::error::FileError;
use crate::limits::Budget;
use crate::walk::{Node, Step, Walk};
use sys::fs as sysfs;

/// What is known of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta<'a> {
    /// Relative, as bytes.
    pub(super) path: &'a [u8],
    pub(super) mode: u32,
    pub(super) modified: i64,
}

/// Writes entries in one format. Its errors are those of whom the bytes go to.
pub(super) trait Pack {
    fn directory(&mut self, meta: Meta<'_>) -> io::Result<()>;

    fn link(&mut self, meta: Meta<'_>, target: &[u8]) -> io::Result<()>;

    /// Takes content, of exactly the size that is given.
    fn file(&mut self, meta: Meta<'_>, content: &mut Content<'_>) -> io::Result<()>;

    fn finish(&mut self) -> io::Result<()>;
}

/// The content of a file: as long as it was when it was opened, whatever the tenant does to it meanwhile.
#[derive(Debug)]
pub(super) struct Content<'a> {
    file: File,
    left: u64,
    buffer: &'a mut Vec<u8>,
    budget: &'a mut Budget,
}

pub(super) fn run(walk: &mut Walk, packer: &mut dyn Pack, budget: &mut Budget) -> Result<(), FileError> {
    let transfer = |error: io::Error| match error.downcast::<FileError>() {
        Ok(carried) => carried,
        Err(source) => FileError::Transfer { source },
    };
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(step) = walk.step(budget)? {
        match step {
            Step::Enter(node) => packer.directory(meta(&node.path, &node.stat)).map_err(transfer)?,
            Step::Leave => {}
            Step::Node(Node { name, path, kind: FileType::Symlink, stat }) => {
                // It may have become something else.
                let Some(directory) = walk.directory() else { break };
                let Ok(target) = rustix::fs::readlinkat(directory, &name, Vec::new()) else { continue };
                packer.link(meta(&path, &stat), target.as_bytes()).map_err(transfer)?;
            }
            Step::Node(Node { name, path, kind: FileType::RegularFile, .. }) => {
                let Some(directory) = walk.directory() else { break };
                let (file, stat) = match sysfs::open_file_at(directory, &name) {
                    Ok(opened) => opened,
                    // Left out it would be missed later; whatever else is in the way has been removed since.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Err(FileError::at("pack", &String::from_utf8_lossy(&path))(error));
                    }
                    Err(_) => continue,
                };
                let left = u64::try_from(stat.st_size).unwrap_or_default();
                let mut content = Content { file, left, buffer: &mut buffer, budget };
                packer.file(meta(&path, &stat), &mut content).map_err(transfer)?;
            }
            Step::Node(_) => {}
        }
    }
    packer.finish().map_err(transfer)
}

fn meta<'a>(path: &'a [u8], stat: &Stat) -> Meta<'a> {
    Meta { path, mode: stat.st_mode & MODE_BITS, modified: stat.st_mtime }
}

impl Content<'_> {
    pub(super) fn size(&self) -> u64 {
        self.left
    }

    /// Returns the next piece; what the file has lost since it was opened is zeros.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.buffer.len());
        let Some(piece) = self.buffer.get_mut(..wanted) else { return Ok(None) };
        // A file that cannot be read is as one that has become shorter: the archive goes on.
        let length = match self.file.read(piece).unwrap_or(0) {
            0 => {
                piece.fill(0);
                wanted
            }
            read => read,
        };
        let count = u64::try_from(length).unwrap_or(u64::MAX);
        self.left -= count;
        self.budget.bytes(count).map_err(FileError::into_io)?;
        Ok(self.buffer.get(..length))
    }
}
