//! How much an archive becomes when it is unpacked, compared with what was sent.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use super::bounds::{BUFFER_BYTES, RATIO_FREE_BYTES, RATIO_MAX};
use crate::error::FileError;

/// A reader that counts.
#[derive(Debug)]
pub(super) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

/// Gunzips, until the ratio is that of a bomb. Several members one after the other are one stream.
#[derive(Debug)]
pub(super) struct Inflating<R: Read> {
    decoder: MultiGzDecoder<BufReader<Counted<R>>>,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, count: Rc::default() }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

impl<R: Read> Inflating<R> {
    pub(super) fn new(input: Counted<R>) -> Self {
        let packed = Rc::clone(&input.count);
        let decoder = MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, input));
        Self { decoder, packed, unpacked: 0 }
    }
}

impl<R: Read> Read for Inflating<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.unpacked += u64::try_from(read).unwrap_or(u64::MAX);
        check_ratio(self.packed.get(), self.unpacked).map_err(FileError::into_io)?;
        Ok(read)
    }
}

/// Refuses what has become too much of too little.
pub(super) fn check_ratio(packed: u64, unpacked: u64) -> Result<(), FileError> {
    if unpacked > RATIO_FREE_BYTES && unpacked / packed.max(1) >= RATIO_MAX {
        return Err(FileError::Limit { what: "times the packed size", limit: RATIO_MAX });
    }
    Ok(())
}
