//! tar: ustar with the long names of GNU and pax — man 5 tar.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::bounds::{broken, refused};
use super::pack::{Content, Meta, Pack};
use super::pax;
use super::tree::Tree;
use crate::error::FileError;
use crate::limits::Budget;
use model::SANDBOX_USER;

const BLOCK: u64 = 512;
/// A long name or an extended header: the longest path, its link, and some times.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;
/// Extended headers before one entry.
const EXTENSIONS_MAX: u32 = 8;
/// Zeros after the end: tar pads to the size of a tape's record.
const PADDING_BYTES_MAX: u64 = 1024 * 1024;
/// In a header itself.
const NAME_BYTES: usize = 100;

/// Packs.
#[derive(Debug)]
pub(super) struct Packer<W> {
    out: W,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    fn header(&mut self, kind: EntryType, meta: Meta<'_>, link: &[u8], size: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_uid(SANDBOX_USER.into());
        header.set_gid(SANDBOX_USER.into());
        header.set_size(size);
        header.set_mtime(u64::try_from(meta.modified).unwrap_or_default());
        for (text, field, long) in
            [(meta.path, 0, EntryType::GNULongName), (link, 157, EntryType::GNULongLink)]
        {
            if text.len() > NAME_BYTES {
                self.long(long, text)?;
            }
            let length = text.len().min(NAME_BYTES);
            if let (Some(to), Some(from)) =
                (header.as_mut_bytes().get_mut(field..field + length), text.get(..length))
            {
                to.copy_from_slice(from);
            }
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Writes a name that does not fit into a header, before that header.
    fn long(&mut self, kind: EntryType, text: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        let name = b"././@LongLink";
        if let Some(to) = header.as_mut_bytes().get_mut(..name.len()) {
            to.copy_from_slice(name);
        }
        header.set_entry_type(kind);
        let size = u64::try_from(text.len()).unwrap_or_default() + 1;
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(text)?;
        self.out.write_all(b"\0")?;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let zeros = [0; 512];
        let rest = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or_default();
        self.out.write_all(zeros.get(..rest).unwrap_or_default())
    }
}

impl<W: Write> Pack for Packer<W> {
    fn directory(&mut self, meta: Meta<'_>) -> io::Result<()> {
        let path = [meta.path, b"/"].concat();
        self.header(EntryType::Directory, Meta { path: &path, ..meta }, b"", 0)
    }

    fn link(&mut self, meta: Meta<'_>, target: &[u8]) -> io::Result<()> {
        self.header(EntryType::Symlink, meta, target, 0)
    }

    fn file(&mut self, meta: Meta<'_>, content: &mut Content<'_>) -> io::Result<()> {
        let size = content.size();
        self.header(EntryType::Regular, meta, b"", size)?;
        while let Some(piece) = content.next()? {
            self.out.write_all(piece)?;
        }
        self.pad(size)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()
    }
}

/// What extended headers said about the entry that follows.
#[derive(Debug, Default)]
struct Extended {
    count: u32,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<i64>,
}

/// Unpacks.
pub(super) fn unpack(mut input: impl Read, tree: &mut Tree, budget: &mut Budget) -> Result<(), FileError> {
    let mut extended = Extended::default();
    loop {
        let mut header = Header::new_old();
        input.read_exact(header.as_mut_bytes()).map_err(broken)?;
        if header.as_bytes().iter().all(|b| *b == 0) {
            break;
        }
        check_sum(&header)?;
        let kind = header.entry_type();
        if is_extension(kind) {
            extended.read(kind, &header, &mut input)?;
            continue;
        }
        budget.entry()?;
        entry(&header, std::mem::take(&mut extended), &mut input, tree, budget)?;
    }
    if extended.count > 0 {
        return Err(refused("it ends after an extended header"));
    }
    finish(&mut input)
}

fn entry(
    header: &Header,
    extended: Extended,
    input: &mut impl Read,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<(), FileError> {
    let size = match extended.size {
        Some(size) => size,
        None => header.entry_size().map_err(|_e| refused("it has a bad size"))?,
    };
    let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
    let link = link.unwrap_or_default();
    let mode = header.mode().map_err(|_e| refused("it has a bad mode"))?;
    let modified = extended
        .modified
        .or_else(|| header.mtime().ok().and_then(|t| i64::try_from(t).ok()))
        .unwrap_or_default();
    let kind = header.entry_type();
    // Old archives mark a directory by the end of its name only.
    let is_directory = kind.is_dir() || kind.is_file() && path.ends_with(b"/");
    if is_directory {
        tree.directory(&path, mode)?;
        return skip(input, size, budget);
    }
    match kind {
        EntryType::Regular | EntryType::Continuous => {
            let mut content = input.take(size);
            tree.file(&path, mode, modified, size, &mut content, budget)?;
            skip(input, size.next_multiple_of(BLOCK) - size, budget)
        }
        EntryType::Symlink => {
            tree.link(&path, &link)?;
            skip(input, size, budget)
        }
        EntryType::Link => {
            tree.hard_link(&path, &link)?;
            skip(input, size, budget)
        }
        _ => Err(refused(format!(
            "{:?} is neither file, directory nor link",
            String::from_utf8_lossy(path.get(..path.len().min(200)).unwrap_or_default())
        ))),
    }
}

fn is_extension(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

impl Extended {
    fn read(&mut self, kind: EntryType, header: &Header, input: &mut impl Read) -> Result<(), FileError> {
        self.count += 1;
        let size = header.entry_size().map_err(|_e| refused("it has a bad size"))?;
        if size > EXTENSION_BYTES_MAX || self.count > EXTENSIONS_MAX {
            return Err(refused("it has too long extended headers"));
        }
        let padded = usize::try_from(size.next_multiple_of(BLOCK)).unwrap_or_default();
        let mut data = vec![0; padded];
        input.read_exact(&mut data).map_err(broken)?;
        data.truncate(usize::try_from(size).unwrap_or_default());
        if kind.is_pax_local_extensions() {
            let records = pax::parse(&data)?;
            self.path = records.path.or_else(|| self.path.take());
            self.link = records.link.or_else(|| self.link.take());
            self.size = records.size.or(self.size);
            self.modified = records.modified.or(self.modified);
        } else if kind.is_pax_global_extensions() {
            // git archive's comment. Whatever else is in it is not for one entry, and not obeyed.
            pax::parse(&data)?;
        } else {
            let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
            data.truncate(end);
            *(if kind.is_gnu_longname() { &mut self.path } else { &mut self.link }) = Some(data);
        }
        Ok(())
    }
}

fn check_sum(header: &Header) -> Result<(), FileError> {
    // The sum is made as if its own field were blanks.
    let sum: u32 = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { u32::from(b' ') } else { u32::from(*b) })
        .sum();
    if header.cksum().ok() == Some(sum) { Ok(()) } else { Err(refused("it is no tar archive, or damaged")) }
}

/// Passes over bytes that mean nothing.
fn skip(input: &mut impl Read, count: u64, budget: &mut Budget) -> Result<(), FileError> {
    if count >= BLOCK {
        budget.bytes(count.next_multiple_of(BLOCK))?;
    }
    let whole = if count < BLOCK { count } else { count.next_multiple_of(BLOCK) };
    let skipped = io::copy(&mut input.take(whole), &mut io::sink()).map_err(broken)?;
    if skipped == whole { Ok(()) } else { Err(refused("it is cut short")) }
}

/// Reads to the end, where only padding may be.
fn finish(input: &mut impl Read) -> Result<(), FileError> {
    let (mut block, mut padding) = ([0; 4096], 0);
    loop {
        let read = input.read(&mut block).map_err(broken)?;
        if read == 0 {
            return Ok(());
        }
        padding += u64::try_from(read).unwrap_or(u64::MAX);
        if padding > PADDING_BYTES_MAX || block.get(..read).is_none_or(|b| b.iter().any(|b| *b != 0)) {
            return Err(refused("something follows its end"));
        }
    }
}
