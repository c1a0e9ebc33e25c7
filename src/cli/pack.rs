//! Files and trees here as one tar stream.
//!
//! Links are packed as links, but for those that are named themselves. What is neither file, directory nor link is
//! left out and told. Owners are not packed: in a sandbox everything belongs to its user.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::{Builder, EntryType, Header};

use super::copied::Copied;
use super::failure::Failure;
use super::pipe::PipeWriter;

/// What to pack under which name; an empty name packs what is in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) name: String,
}

/// A file that must have as many bytes as it had when its header was written.
struct Exact<'a> {
    file: File,
    left: u64,
    copied: &'a Copied,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
        if length == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        self.left -= length as u64;
        self.copied.add_bytes(length as u64);
        Ok(length)
    }
}

/// Counts the bytes of all files, for a bar that knows its end; what cannot be read is found out by [`pack`].
pub(super) fn total(sources: &[Source]) -> u64 {
    let mut total = 0;
    let mut stack: Vec<PathBuf> = sources.iter().map(|source| source.path.clone()).collect();
    let mut is_named = sources.len();
    while let Some(path) = stack.pop() {
        let metadata = if is_named > 0 { std::fs::metadata(&path) } else { std::fs::symlink_metadata(&path) };
        is_named = is_named.saturating_sub(1);
        match metadata {
            Ok(metadata) if metadata.is_file() => total += metadata.len(),
            Ok(metadata) if metadata.is_dir() => {
                stack.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
            }
            _ => {}
        }
    }
    total
}

/// Packs sources into a pipe; a failure ends it as one.
pub(super) fn pack(sources: &[Source], mut writer: PipeWriter, copied: &Arc<Copied>) -> Result<(), Failure> {
    let mut builder = Builder::new(&mut writer);
    let packed = sources.iter().try_for_each(|source| tree(&mut builder, source, copied));
    let packed =
        packed.and_then(|()| builder.finish().map_err(|e| local("send", Path::new("the archive"), e)));
    drop(builder);
    let packed = packed.and_then(|()| writer.flush().map_err(|e| local("send", Path::new("the archive"), e)));
    if packed.is_err() {
        writer.fail("the archive could not be made");
    }
    packed
}

fn tree<W: Write>(builder: &mut Builder<W>, source: &Source, copied: &Copied) -> Result<(), Failure> {
    // What is named is followed; what is found is not.
    let metadata = std::fs::metadata(&source.path).map_err(|e| local("read", &source.path, e))?;
    let mut stack = vec![(source.path.clone(), PathBuf::from(&source.name), metadata)];
    while let Some((path, name, metadata)) = stack.pop() {
        if metadata.is_dir() {
            if !name.as_os_str().is_empty() {
                let mut header = header(&metadata, EntryType::Directory);
                builder.append_data(&mut header, &name, io::empty()).map_err(|e| local("pack", &path, e))?;
                copied.add_entry();
            }
            stack.extend(children(&path, &name)?);
        } else {
            entry(builder, &path, &name, &metadata, copied)?;
        }
    }
    Ok(())
}

/// Lists a directory, the first name last, for a stack.
fn children(path: &Path, name: &Path) -> Result<Vec<(PathBuf, PathBuf, Metadata)>, Failure> {
    let failed = |e| local("read", path, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(|e| local("read", &entry.path(), e))?;
        found.push((entry.path(), name.join(entry.file_name()), metadata));
    }
    found.sort_by(|a, b| b.1.cmp(&a.1));
    Ok(found)
}

fn entry<W: Write>(
    builder: &mut Builder<W>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
    copied: &Copied,
) -> Result<(), Failure> {
    let failed = |e| local("pack", path, e);
    if metadata.file_type().is_symlink() {
        let target = std::fs::read_link(path).map_err(failed)?;
        let mut header = header(metadata, EntryType::Symlink);
        builder.append_link(&mut header, name, target).map_err(failed)?;
    } else if metadata.is_file() {
        // A FIFO that has taken the file's place would wait for its other end.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let mut header = header(metadata, EntryType::Regular);
        header.set_size(metadata.len());
        let data = Exact { file, left: metadata.len(), copied };
        builder.append_data(&mut header, name, data).map_err(failed)?;
    } else {
        copied.skip(&format!("{}, which is neither file, directory nor link", path.display()));
        return Ok(());
    }
    copied.add_entry();
    Ok(())
}

fn header(metadata: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
    header.set_size(0);
    header
}

pub(super) fn local(action: &'static str, path: &Path, source: io::Error) -> Failure {
    Failure::Local { action, path: path.display().to_string(), source }
}
