//! How busy the host's processors are: `/proc/stat` — man 5 proc_stat.

use std::fs::File;
use std::io::Read as _;

/// More than the first line has: ten numbers of at most twenty digits.
const LINE_BYTES: usize = 256;
/// Where the time without work stands: idle, and idle with a disk at work.
const IDLE_FIELDS: std::ops::RangeInclusive<usize> = 3..=4;
/// Guests' time is part of the first two fields.
const FIELDS: usize = 8;

/// Ticks of all processors when last read.
#[derive(Debug, Default)]
pub struct Processors {
    idle: u64,
    all: u64,
}

impl Processors {
    /// Reads which share of the time since the last call processors had nothing to do, in percent; `None` where the
    /// kernel does not say.
    pub fn idle_percent(&mut self) -> Option<u64> {
        // The lines of single processors and interrupts are not read: of many they are many.
        let mut buffer = [0; LINE_BYTES];
        let length = File::open("/proc/stat").ok()?.read(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(buffer.get(..length)?);
        let (idle, all) = ticks(text.lines().next()?)?;
        let since = (idle.saturating_sub(self.idle), all.saturating_sub(self.all));
        *self = Self { idle, all };
        Some((since.0 * 100).checked_div(since.1).unwrap_or(100))
    }
}

/// Ticks without work, and all, of a line `cpu  user nice system idle iowait irq softirq steal guest guest_nice`.
fn ticks(line: &str) -> Option<(u64, u64)> {
    let numbers = line.strip_prefix("cpu ")?.split_ascii_whitespace().take(FIELDS).map(str::parse);
    let numbers = numbers.collect::<Result<Vec<u64>, _>>().ok()?;
    let idle = numbers.get(IDLE_FIELDS)?.iter().sum();
    Some((idle, numbers.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_ticks_are_told_from_all() {
        assert_eq!(ticks("cpu  1 2 3 40 5 6 7 8 900 900"), Some((45, 72)));
        assert_eq!((ticks("cpu0 1 2 3"), ticks("cpu  1 2"), ticks("intr 1")), (None, None, None));
        let mut processors = Processors::default();
        assert!(processors.idle_percent().is_some_and(|percent| percent <= 100));
    }
}
