//! A process's ring and those who follow it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use engine::{Ended, Journal, Moved, Ring, Stream};

/// With less room than this nothing is moved: many small moves would cost more than a short wait.
const ROOM_MIN: u64 = 4096;
/// How long a process may be held up for its first reader: much longer than a client takes from one request to the
/// next.
const FIRST_READER_WAIT: Duration = Duration::from_secs(2);

/// What everybody sees of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many bytes there have been.
    pub(crate) end: u64,
    pub(crate) ended: Option<Ended>,
    /// It has ended and its own output is all there.
    pub(crate) is_complete: bool,
    /// Nothing can come any more: whoever had its output open has gone.
    pub(crate) is_closed: bool,
}

/// The output of one process.
#[derive(Debug)]
pub(crate) struct Output {
    ring: Ring,
    flow: Mutex<Flow>,
    seen: watch::Sender<Seen>,
    /// Some follower has read on, or left.
    moved: Notify,
    next_follower: AtomicU64,
}

/// Who follows, and how far each has come.
#[derive(Debug, Default)]
struct Flow {
    followers: BTreeMap<u64, Position>,
    /// Has the place of the client that will follow first, so that nothing is dropped until it comes.
    placeholder: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    offset: u64,
    moved_at: Instant,
}

/// What came of an attempt to take output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Bytes(u64),
    /// The slowest follower would be overtaken.
    Full,
    End,
}

impl Output {
    pub(crate) fn new(ring: Ring, ended: Option<Ended>) -> Self {
        let seen = Seen { end: ring.end(), ended, ..Seen::default() };
        Self {
            ring,
            flow: Mutex::default(),
            seen: watch::Sender::new(seen),
            moved: Notify::new(),
            next_follower: AtomicU64::default(),
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.ring.capacity()
    }

    /// How much can still be read.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let (start, end) = self.range();
        end.saturating_sub(start)
    }

    /// The first offset that can still be read, and the one after the last.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.ring.start(), self.ring.end())
    }

    /// Moves what a descriptor has to the ring.
    pub(crate) fn take(&self, from: impl AsFd, stream: Stream, journal: &Journal) -> io::Result<Taken> {
        // Held all along: who comes to follow now must not be overtaken by this very move.
        let flow = self.lock();
        let room = self.room(&flow);
        if room < ROOM_MIN {
            return Ok(Taken::Full);
        }
        let moved = self.ring.take(from, stream, room, journal)?;
        drop(flow);
        let end = self.ring.end();
        match moved {
            Moved::Bytes(count) => {
                self.seen.send_modify(|seen| seen.end = end);
                Ok(Taken::Bytes(count))
            }
            Moved::End => Ok(Taken::End),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.room(&self.lock()) < ROOM_MIN
    }

    /// Waits until a follower has read on, or left.
    pub(crate) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Lets go of followers that have not read for `stall`; returns how many.
    pub(crate) fn cut_stalled(&self, stall: Duration) -> usize {
        let mut flow = self.lock();
        let before = flow.followers.len();
        let (now, limit) = (Instant::now(), self.ring.end().saturating_sub(self.ring.capacity() - ROOM_MIN));
        let placeholder = flow.placeholder;
        flow.followers.retain(|id, at| {
            let patience = if Some(*id) == placeholder { stall.min(FIRST_READER_WAIT) } else { stall };
            at.offset > limit || now.saturating_duration_since(at.moved_at) < patience
        });
        let cut = before - flow.followers.len();
        drop(flow);
        if cut > 0 {
            // Those who were cut look again and see it.
            self.seen.send_modify(|_| ());
        }
        cut
    }

    /// When the slowest follower has held up the process for `stall`.
    pub(crate) fn stalls_at(&self, stall: Duration) -> Instant {
        let flow = self.lock();
        let slowest = flow.followers.iter().min_by_key(|(_, at)| at.offset);
        let is_awaited = slowest.is_some_and(|(id, _)| Some(*id) == flow.placeholder);
        let patience = if is_awaited { stall.min(FIRST_READER_WAIT) } else { stall };
        slowest.map_or_else(Instant::now, |(_, at)| at.moved_at) + patience
    }

    pub(crate) fn note_end(&self, ended: Ended) {
        if let Err(error) = self.ring.note_end(&ended) {
            tracing::error!(%error, "cannot write down how a process ended");
        }
        self.seen.send_modify(|seen| seen.ended = Some(ended));
    }

    pub(crate) fn note_pid(&self, pid: i32) {
        if let Err(error) = self.ring.note_pid(pid) {
            tracing::error!(%error, "cannot write down that a process was started");
        }
    }

    pub(crate) fn complete(&self, is_closed: bool) {
        self.seen.send_modify(|seen| {
            seen.is_complete = true;
            seen.is_closed |= is_closed;
        });
    }

    /// Adds a follower; `None` if there is no such offset yet.
    pub(crate) fn attach(&self, offset: u64) -> Option<u64> {
        let mut flow = self.lock();
        let (start, end) = self.range();
        if offset > end {
            return None;
        }
        let id = self.next_follower.fetch_add(1, Ordering::Relaxed);
        flow.followers.insert(id, Position { offset: offset.max(start), moved_at: Instant::now() });
        if let Some(placeholder) = flow.placeholder.take() {
            flow.followers.remove(&placeholder);
            self.moved.notify_one();
        }
        Some(id)
    }

    /// Makes a follower the placeholder of the next one.
    pub(crate) fn keep_place(&self, follower: u64) {
        self.lock().placeholder = Some(follower);
        // Whoever waits for it, in a ring that is full already, has less patience with a placeholder.
        self.moved.notify_one();
    }

    pub(crate) fn is_attached(&self, follower: u64) -> bool {
        self.lock().followers.contains_key(&follower)
    }

    pub(crate) fn is_followed(&self) -> bool {
        !self.lock().followers.is_empty()
    }

    /// Reads for a follower that holds its place at `offset`.
    pub(crate) fn read(&self, offset: u64, max: u64, headroom: usize) -> io::Result<(Stream, Vec<u8>)> {
        self.ring.read(offset, max, headroom)
    }

    /// Notes how far a follower has come.
    pub(crate) fn advance(&self, follower: u64, offset: u64) {
        if let Some(at) = self.lock().followers.get_mut(&follower) {
            *at = Position { offset, moved_at: Instant::now() };
        }
        self.moved.notify_one();
    }

    pub(crate) fn leave(&self, follower: u64) {
        self.lock().followers.remove(&follower);
        self.moved.notify_one();
    }

    fn room(&self, flow: &Flow) -> u64 {
        let slowest = flow.followers.values().map(|at| at.offset).min();
        let behind = slowest.map_or(0, |offset| self.ring.end().saturating_sub(offset));
        self.ring.capacity().saturating_sub(behind)
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_room_looks_again_when_a_follower_becomes_a_placeholder() {
        let directory = tempfile::tempdir().unwrap();
        let ring = Ring::create(&directory.path().join("ring"), 65536, b"{}").unwrap();
        let output = Output::new(ring, None);
        let follower = output.attach(0).unwrap();
        let stall = FIRST_READER_WAIT * 100;
        assert!(output.stalls_at(stall) > Instant::now() + FIRST_READER_WAIT);
        output.keep_place(follower);
        tokio::time::timeout(Duration::from_secs(10), output.moved()).await.unwrap();
        assert!(output.stalls_at(stall) <= Instant::now() + FIRST_READER_WAIT);
    }
}
