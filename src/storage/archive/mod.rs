//! Trees as tar, gzipped tar and zip, both ways.
//!
//! What is packed is streamed; what is unpacked is placed in a directory that no tenant can reach and comes
//! into the workspace only when the whole archive was good. Formats are parsed with bounded memory, and every
//! name, size and count in them is taken for what an enemy might have written.

mod bounds;
mod merge;
mod meter;
mod pack;
mod pax;
mod tar;
mod tree;
mod zip;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::sync::Arc;

use super::files::Files;
use super::limits::{Budget, TreeLimits};
use super::path::FilePath;
use super::place::Stage;
use super::spool::{Spool, unnamed};
use super::walk::{Step, View, Walk};
use crate::archive::bounds::BUFFER_BYTES;
use crate::archive::bounds::LEVEL;
use crate::archive::bounds::broken;
use crate::error::FileError;
pub use bounds::Unpacked;
use meter::{Counted, Inflating};
use model::ArchiveFormat;
use tree::Tree;

impl Files {
    /// Looks whether a tree can be packed, before a byte of it is sent.
    ///
    /// # Errors
    /// Not found, not a directory, or a limit is passed.
    pub fn measure(&self, path: &FilePath, view: View, limits: TreeLimits) -> Result<(), FileError> {
        let mut budget = self.budget(limits);
        let mut walk = Walk::new(self.subdirectory(path)?, view, true, &budget)?;
        while let Some(step) = walk.step(&mut budget)? {
            if let Step::Node(node) = step
                && node.kind == rustix::fs::FileType::RegularFile
            {
                budget.bytes(node.size())?;
            }
        }
        Ok(())
    }

    /// Packs what is in a directory. Names are relative to it; links are packed as links, FIFOs, sockets and
    /// devices are left out.
    ///
    /// # Errors
    /// Not found, not a directory, a limit is passed, or nobody takes the bytes any more.
    pub fn pack(
        &self,
        path: &FilePath,
        view: View,
        format: ArchiveFormat,
        limits: TreeLimits,
        out: &mut dyn Write,
    ) -> Result<(), FileError> {
        let mut budget = self.budget(limits);
        let mut walk = Walk::new(self.subdirectory(path)?, view, true, &budget)?;
        let transfer = |source| FileError::Transfer { source };
        match format {
            ArchiveFormat::Tar => {
                pack::run(&mut walk, &mut tar::Packer::new(out), &mut budget)?;
            }
            ArchiveFormat::TarGz => {
                let level = flate2::Compression::new(LEVEL);
                let mut gzip = flate2::write::GzEncoder::new(out, level);
                pack::run(&mut walk, &mut tar::Packer::new(&mut gzip), &mut budget)?;
                gzip.finish().map_err(transfer)?;
            }
            ArchiveFormat::Zip => {
                let directory = Spool::new(Arc::clone(self.yard()));
                pack::run(&mut walk, &mut zip::Packer::new(out, directory), &mut budget)?;
            }
        }
        Ok(())
    }

    /// Unpacks an archive into a directory, which is made where it is missing. Files that are there are
    /// replaced, others stay. A refused archive leaves everything as it was.
    ///
    /// # Errors
    /// The archive is damaged, names something outside, has what is neither file, directory nor link, passes
    /// a limit, or a directory stands where it has a file or the other way round.
    pub fn unpack(
        &self,
        path: &FilePath,
        format: ArchiveFormat,
        limits: TreeLimits,
        input: &mut dyn Read,
    ) -> Result<Unpacked, FileError> {
        let failed = FileError::at("unpack into", path.as_str());
        merge::check(self, path)?;
        let stage = Stage::new(self.yard(), self.owner()).map_err(&failed)?;
        let mut budget = self.budget(limits);
        let mut tree = Tree::new(&stage).map_err(&failed)?;
        match format {
            ArchiveFormat::Tar => {
                tar::unpack(BufReader::with_capacity(BUFFER_BYTES, input), &mut tree, &mut budget)?;
            }
            ArchiveFormat::TarGz => {
                let input = Inflating::new(Counted::new(input));
                tar::unpack(BufReader::with_capacity(BUFFER_BYTES, input), &mut tree, &mut budget)?;
            }
            ArchiveFormat::Zip => {
                // Its table of contents is at the end.
                let (file, length) = spool(&stage, input, limits)?;
                zip::unpack(file, length, &mut tree, &mut budget)?;
            }
        }
        let unpacked = tree.unpacked();
        merge::run(self, path, &stage)?;
        Ok(unpacked)
    }
}

/// Keeps a body in a file without a name.
fn spool(stage: &Stage, input: &mut dyn Read, limits: TreeLimits) -> Result<(File, u64), FileError> {
    let failed = FileError::at("keep", "the archive");
    let mut file = unnamed(&stage.directory).map_err(&failed)?;
    // It counts for itself: what is in it is counted when it is unpacked.
    let mut budget = Budget::new(limits);
    let (mut buffer, mut length) = (vec![0; BUFFER_BYTES], 0);
    loop {
        let read = input.read(&mut buffer).map_err(broken)?;
        let Some(piece) = buffer.get(..read).filter(|p| !p.is_empty()) else { return Ok((file, length)) };
        let count = u64::try_from(read).unwrap_or(u64::MAX);
        budget.bytes(count)?;
        length += count;
        file.write_all(piece).map_err(&failed)?;
    }
}
