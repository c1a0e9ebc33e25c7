//! zip: stored and deflated entries, zip64, no encryption — APPNOTE.TXT.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Write};

use flate2::bufread::DeflateDecoder;
use flate2::{Compress, Compression, FlushCompress, Status};
use rawzip::path::EntryPath;
use rawzip::time::{UtcDateTime, ZipDateTimeKind};
use rawzip::{CompressionMethod, FileReader, ZipArchive, ZipArchiveWriter};

use super::bounds::{LEVEL, broken, refused};
use super::meter::check_ratio;
use super::pack::{Content, Meta, Pack};
use super::tree::Tree;
use crate::error::FileError;
use crate::limits::Budget;
use crate::spool::Spool;

/// A local header without its name.
const LOCAL_HEADER_BYTES: u64 = 30;
/// A record of the central directory without its name and what follows that.
const RECORD_BYTES: usize = 46;
/// The longest target of a link.
const TARGET_BYTES_MAX: u64 = 4096;
/// How much deflated data is written at once.
const DEFLATED_BYTES: usize = 32 * 1024;
/// The type bits of a link in a mode.
const LINK_BITS: u32 = 0o120_000;

/// Packs. Of what has been sent nothing is held in memory: the records of the central directory, one for each entry
/// and with its whole path, are spooled until the end.
#[derive(Debug)]
pub(super) struct Packer<W> {
    out: W,
    /// How much has been sent.
    offset: u64,
    entries: u64,
    directory: Option<Spool>,
    deflater: Deflater,
}

/// Deflates one file after the other. What this takes is a third of a MiB, which would be made anew for each of many
/// small files.
#[derive(Debug)]
struct Deflater {
    compress: Compress,
    out: Vec<u8>,
}

/// Where an archive of one entry goes: the entry to the client, its record beside it.
struct Target<'a, W> {
    out: &'a mut W,
    record: &'a RefCell<Option<Vec<u8>>>,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(out: W, directory: Spool) -> Self {
        Self { out, offset: 0, entries: 0, directory: Some(directory), deflater: Deflater::new() }
    }

    /// Writes one entry, as an archive of its own that begins where the one before has ended.
    fn entry(
        &mut self,
        write: impl FnOnce(&mut ZipArchiveWriter<Target<'_, W>>, &mut Deflater) -> io::Result<()>,
    ) -> io::Result<()> {
        let record = RefCell::new(None);
        let target = Target { out: &mut self.out, record: &record };
        let mut archive = ZipArchiveWriter::builder().with_offset(self.offset).build(target);
        write(&mut archive, &mut self.deflater)?;
        self.offset = archive.stream_offset();
        record.replace(Some(Vec::new()));
        archive.finish().map_err(failed)?;
        let record = record.take().unwrap_or_default();
        let record = record.get(..record_length(&record)).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.entries += 1;
        self.directory.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(record)
    }
}

impl<W: Write> Write for Target<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.record.borrow_mut() {
            Some(record) => record.write(bytes),
            None => self.out.write(bytes),
        }
    }

    /// Does nothing: whoever writes an entry flushes at its end, and the client wants larger pieces than that.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Deflater {
    fn new() -> Self {
        Self { compress: Compress::new(Compression::new(LEVEL), false), out: vec![0; DEFLATED_BYTES] }
    }

    /// Begins the next file.
    fn begin(&mut self) -> &mut Self {
        self.compress.reset();
        self
    }

    /// Takes as much of the bytes as it wants, and writes what comes of it; returns how much was taken, and whether
    /// that was the end.
    fn step(
        &mut self,
        bytes: &[u8],
        flush: FlushCompress,
        to: &mut impl Write,
    ) -> io::Result<(usize, Status)> {
        let (taken, made) = (self.compress.total_in(), self.compress.total_out());
        let status = self.compress.compress(bytes, &mut self.out, flush).map_err(io::Error::other)?;
        let count = |after: u64, before: u64| usize::try_from(after - before).unwrap_or(usize::MAX);
        let made = count(self.compress.total_out(), made);
        to.write_all(self.out.get(..made).unwrap_or_default())?;
        Ok((count(self.compress.total_in(), taken), status))
    }
}

/// One file that is being deflated.
struct Deflating<'a, W> {
    deflater: &'a mut Deflater,
    to: W,
}

impl<W: Write> Deflating<'_, W> {
    fn finish(mut self) -> io::Result<()> {
        while self.deflater.step(&[], FlushCompress::Finish, &mut self.to)?.1 != Status::StreamEnd {}
        Ok(())
    }
}

impl<W: Write> Write for Deflating<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        // It may fill what it writes to before it takes anything.
        while taken == 0 && !bytes.is_empty() {
            taken = self.deflater.step(bytes, FlushCompress::None, &mut self.to)?.0;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The length of the first record of a central directory: APPNOTE.TXT, 4.3.12.
fn record_length(bytes: &[u8]) -> usize {
    let field = |at: usize| match bytes.get(at..at + 2) {
        Some(&[low, high]) => usize::from(u16::from_le_bytes([low, high])),
        _ => 0,
    };
    RECORD_BYTES + field(28) + field(30) + field(32)
}

/// What follows the central directory: APPNOTE.TXT, 4.3.14 to 4.3.16.
fn end_of_directory(entries: u64, length: u64, offset: u64) -> Vec<u8> {
    let mut end = Vec::new();
    let (few, short, near) = (u16::try_from(entries), u32::try_from(length), u32::try_from(offset));
    if few.is_err() || short.is_err() || near.is_err() {
        // The record of zip64 and its locator. What is 45 is the version of the format that has it.
        end.extend(b"PK\x06\x06");
        end.extend(44_u64.to_le_bytes());
        end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        [entries, entries, length, offset].iter().for_each(|field| end.extend(field.to_le_bytes()));
        end.extend(b"PK\x06\x07\0\0\0\0");
        end.extend((offset + length).to_le_bytes());
        end.extend(1_u32.to_le_bytes());
    }
    let (few, short, near) = (few.unwrap_or(u16::MAX), short.unwrap_or(u32::MAX), near.unwrap_or(u32::MAX));
    end.extend(b"PK\x05\x06\0\0\0\0");
    [few, few].iter().for_each(|field| end.extend(field.to_le_bytes()));
    [short, near].iter().for_each(|field| end.extend(field.to_le_bytes()));
    end.extend([0, 0]);
    end
}

impl<W: Write> Pack for Packer<W> {
    fn directory(&mut self, meta: Meta<'_>) -> io::Result<()> {
        let path = [meta.path, b"/"].concat();
        self.entry(|archive, _| {
            let directory = archive.new_dir(EntryPath::verbatim(path));
            let directory = directory.last_modified(UtcDateTime::from_unix(meta.modified));
            directory.unix_permissions(meta.mode).create().map(drop).map_err(failed)
        })
    }

    fn link(&mut self, meta: Meta<'_>, target: &[u8]) -> io::Result<()> {
        self.entry(|archive, _| {
            let file = archive.new_file(EntryPath::verbatim(meta.path));
            let file = file.last_modified(UtcDateTime::from_unix(meta.modified));
            let (mut entry, config) = file.unix_permissions(LINK_BITS | 0o777).start().map_err(failed)?;
            let mut writer = config.wrap(&mut entry);
            writer.write_all(target)?;
            let (_, written) = writer.finish().map_err(failed)?;
            entry.finish(written).map(drop).map_err(failed)
        })
    }

    fn file(&mut self, meta: Meta<'_>, content: &mut Content<'_>) -> io::Result<()> {
        self.entry(|archive, deflater| {
            let file = archive.new_file(EntryPath::verbatim(meta.path));
            let file = file.last_modified(UtcDateTime::from_unix(meta.modified)).unix_permissions(meta.mode);
            let file = file.compression_method(CompressionMethod::DEFLATE);
            let (mut entry, config) = file.start().map_err(failed)?;
            let mut writer = config.wrap(Deflating { deflater: deflater.begin(), to: &mut entry });
            while let Some(piece) = content.next()? {
                writer.write_all(piece)?;
            }
            let (deflating, written) = writer.finish().map_err(failed)?;
            deflating.finish()?;
            entry.finish(written).map(drop).map_err(failed)
        })
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(directory) = self.directory.take() else { return Ok(()) };
        let directory = directory.finish();
        directory.copy_to(&mut self.out)?;
        self.out.write_all(&end_of_directory(self.entries, directory.length(), self.offset))?;
        self.out.flush()
    }
}

/// Unpacks a file of a given length.
pub(super) fn unpack(file: File, length: u64, tree: &mut Tree, budget: &mut Budget) -> Result<(), FileError> {
    let mut buffer = vec![0; rawzip::RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(file, &mut buffer).map_err(damaged)?;
    check(&archive, &mut buffer, length, budget)?;
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(damaged)? {
        budget.entry()?;
        let path = entry.file_path().as_bytes().to_vec();
        let (mode, method) = (entry.mode(), entry.compression_method());
        if entry.is_dir() {
            tree.directory(&path, mode.permissions())?;
            continue;
        }
        let type_bits = mode.value() & 0o170_000;
        if !mode.is_symlink() && !matches!(type_bits, 0 | 0o100_000) {
            let shown = String::from_utf8_lossy(&path).into_owned();
            return Err(refused(format!("{shown:?} is neither file, directory nor link")));
        }
        let size = entry.uncompressed_size_hint();
        // A time without a zone is taken as it stands.
        let modified = match entry.last_modified() {
            ZipDateTimeKind::Utc(time) => time.to_unix(),
            ZipDateTimeKind::Local(_) => 0,
        };
        let found = archive.get_entry(entry.wayfinder()).map_err(damaged)?;
        let packed: Box<dyn io::Read> = match method {
            CompressionMethod::STORE => Box::new(found.reader()),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(BufReader::new(found.reader()))),
            _ => return Err(refused("it is packed with a method other than deflate")),
        };
        // It compares size and checksum at the end.
        let mut content = found.verifying_reader(packed);
        if mode.is_symlink() {
            let mut target = Vec::new();
            let mut content = content.take(TARGET_BYTES_MAX + 1);
            content.read_to_end(&mut target).map_err(read_failed)?;
            tree.link(&path, &target)?;
        } else {
            tree.file(&path, mode.permissions(), modified, size, &mut Verified(&mut content), budget)?;
        }
    }
    Ok(())
}

/// Looks at the table of contents alone: bombs are refused before anything is unpacked.
fn check(
    archive: &ZipArchive<FileReader>,
    buffer: &mut [u8],
    length: u64,
    budget: &Budget,
) -> Result<(), FileError> {
    let limits = budget.limits();
    let too_many = || FileError::Limit { what: "entries", limit: limits.entries_max };
    if archive.entries_hint() > limits.entries_max {
        return Err(too_many());
    }
    let (mut ranges, mut unpacked) = (Vec::new(), 0_u64);
    let mut entries = archive.entries(buffer);
    while let Some(entry) = entries.next_entry().map_err(damaged)? {
        if u64::try_from(ranges.len()).unwrap_or(u64::MAX) >= limits.entries_max {
            return Err(too_many());
        }
        if entry.flags().is_encrypted() {
            return Err(refused("it is encrypted"));
        }
        unpacked = unpacked.saturating_add(entry.uncompressed_size_hint());
        let start = entry.local_header_offset();
        ranges.push((start, start.saturating_add(LOCAL_HEADER_BYTES + entry.compressed_size_hint())));
    }
    if archive.entries_hint() != u64::try_from(ranges.len()).unwrap_or(u64::MAX) {
        return Err(refused("its table of contents has another number of entries than it says"));
    }
    if unpacked > limits.bytes_max {
        return Err(FileError::Limit { what: "bytes", limit: limits.bytes_max });
    }
    check_ratio(length, unpacked)?;
    // Entries that share their bytes make a small archive a huge one.
    ranges.sort_unstable();
    let overlap = ranges.iter().zip(ranges.iter().skip(1)).any(|(a, b)| a.1 > b.0);
    if overlap || ranges.last().is_some_and(|last| last.1 > archive.directory_offset()) {
        return Err(refused("its entries overlap"));
    }
    Ok(())
}

/// A reader whose errors are those of the archive.
struct Verified<R>(R);

impl<R: io::Read> io::Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| read_failed(error).into_io())
    }
}

fn read_failed(error: io::Error) -> FileError {
    match broken(error) {
        // The archive is in a file of ours: what cannot be read is not what it should be.
        FileError::Transfer { .. } => refused("it is damaged"),
        other => other,
    }
}

fn damaged(error: rawzip::Error) -> FileError {
    refused(format!("it is no zip archive, or damaged: {error}"))
}

fn failed(error: rawzip::Error) -> io::Error {
    match error.kind() {
        rawzip::ErrorKind::IO(inner) => inner.kind().into(),
        _ => io::Error::other(error.to_string()),
    }
}
