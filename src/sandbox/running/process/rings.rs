//! What the output of all processes of the instance may take of the host.
//!
//! A ring is a file in the run directory, which mostly lies in memory, and a descriptor. It is kept for a while after its
//! process has ended, and nobody counts it for the sandbox. So all of them together are bounded: by a part of the file system
//! that holds the run directory, since a launch needs room there too, and by a number. When the bound is reached the oldest
//! outputs of ended processes go, of the sandbox that has most of them; when there are none, new rings are small, and
//! at last refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::error::Error;
use sys::fs::space;

/// The most rings, each with a descriptor: a small part of the million that a server may have open.
const NUMBER_MAX: u64 = 4096;
/// The part of the file system that full-sized rings may take; small ones may take as much again.
const PART: u64 = 4;
/// What a ring takes beside the output: its head, and what the file system adds.
const HEAD_BYTES: u64 = 8192;

/// The bounds and what is taken of them.
#[derive(Debug)]
pub(crate) struct Rings {
    bytes_max: u64,
    number_max: u64,
    bytes: AtomicU64,
    number: AtomicU64,
}

/// What one ring takes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    rings: Arc<Rings>,
    bytes: AtomicU64,
}

impl Rings {
    /// Bounds for rings in a directory.
    pub(crate) fn within(run_dir: &Path) -> Self {
        let total = space(run_dir).map_or(0, |space| space.total_bytes);
        // A file system that does not tell: as much as a small machine has to spare.
        let total = if total == 0 { 1 << 30 } else { total };
        Self::with(total / PART)
    }

    fn with(bytes_max: u64) -> Self {
        let number_max = (bytes_max / size(RING_BYTES_MIN)).clamp(1, NUMBER_MAX);
        Self { bytes_max, number_max, bytes: AtomicU64::new(0), number: AtomicU64::new(0) }
    }

    /// Takes a share for a ring of so much output; `None` where that is too much.
    fn take(self: &Arc<Self>, capacity: u64) -> Option<Share> {
        let bytes = size(capacity);
        // Counted before it is looked at: of many at once, each sees the others.
        let number = self.number.fetch_add(1, Ordering::AcqRel);
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let share = Share { rings: Arc::clone(self), bytes: AtomicU64::new(bytes) };
        let fits = number < self.number_max && before.saturating_add(bytes) <= self.bytes_max;
        // The smallest are bounded by their number alone.
        (fits || (number < self.number_max && capacity <= RING_BYTES_MIN)).then_some(share)
    }

    /// Counts a ring that an earlier daemon has made, whatever the bounds.
    pub(crate) fn adopt(self: &Arc<Self>, capacity: u64) -> Share {
        self.number.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(size(capacity), Ordering::AcqRel);
        Share { rings: Arc::clone(self), bytes: AtomicU64::new(size(capacity)) }
    }
}

impl Share {
    /// Notes that nothing more will come than so much output.
    pub(crate) fn shrink(&self, output_bytes: u64) {
        let before = self.bytes.load(Ordering::Acquire);
        let after = size(output_bytes).min(before);
        // The pump of the process is the only one who does this.
        self.bytes.store(after, Ordering::Release);
        self.rings.bytes.fetch_sub(before - after, Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.rings.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::AcqRel);
        self.rings.number.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How much a ring takes for so much output: a bit for each byte, and the head.
const fn size(output_bytes: u64) -> u64 {
    output_bytes + output_bytes / 8 + HEAD_BYTES
}

/// A share for a new ring, and how much output it may hold; `evict` gives a ring of an ended process back, if there
/// is one.
///
/// # Errors
/// There are too many, and of none has the process ended.
pub(crate) fn admit(
    rings: &Arc<Rings>,
    wanted: u64,
    evict: impl Fn() -> bool,
) -> Result<(Share, u64), Error> {
    // Each round gives one ring back; of many at once, each has its own.
    for _round in 0..NUMBER_MAX {
        if let Some(share) = rings.take(wanted) {
            return Ok((share, wanted));
        }
        if !evict() {
            break;
        }
    }
    let capacity = wanted.min(RING_BYTES_MIN);
    let share =
        rings.take(capacity).ok_or(Error::Busy("too many processes run on this server; try again"))?;
    Ok((share, capacity))
}

/// The least that a ring holds, whatever the others do.
pub(crate) const RING_BYTES_MIN: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_bounded_in_bytes_and_in_number() {
        let rings = Arc::new(Rings::with(4 * size(1 << 20)));
        let mut shares: Vec<_> = (0..4).map(|_| rings.take(1 << 20).unwrap()).collect();
        assert!(rings.take(1 << 20).is_none());
        // Its process has written little and ended.
        shares[0].shrink(0);
        let fits = (1 << 20) - HEAD_BYTES;
        shares.push(rings.take(fits).unwrap());
        assert!(rings.take(fits).is_none());
        // Small ones go on until there are too many.
        shares.extend(std::iter::from_fn(|| rings.take(RING_BYTES_MIN)));
        assert_eq!(u64::try_from(shares.len()).unwrap(), rings.number_max);
        drop(shares);
        assert_eq!((rings.bytes.load(Ordering::Acquire), rings.number.load(Ordering::Acquire)), (0, 0));
    }
}
