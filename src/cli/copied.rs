//! What a copy has done so far: counted by a thread, shown by another.

use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::text::printable;

/// How many of the things left out are named.
const NAMED_MAX: usize = 20;

/// Counters of a copy, and its bar.
#[derive(Debug)]
pub(super) struct Copied {
    entries: AtomicU64,
    bytes: AtomicU64,
    skipped: Mutex<Skipped>,
    bar: ProgressBar,
    /// Whether people are told of what is left out.
    is_told: bool,
}

#[derive(Debug, Default)]
struct Skipped {
    count: u64,
    named: Vec<String>,
}

impl Copied {
    /// Shows a bar on a terminal only.
    pub(super) fn new(is_json: bool, is_quiet: bool) -> Self {
        let has_bar = io::stderr().is_terminal() && !is_json && !is_quiet;
        let target = if has_bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style("{spinner} {bytes}  {bytes_per_sec}  {wide_msg}"));
        if has_bar {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self {
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            skipped: Mutex::default(),
            bar,
            is_told: !is_json,
        }
    }

    /// Tells how many bytes there will be.
    pub(super) fn expect(&self, bytes: u64) {
        self.bar.set_length(bytes);
        self.bar.set_style(style("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {wide_msg}"));
    }

    pub(super) fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    pub(super) fn name(&self, name: &str) {
        self.bar.set_message(printable(name));
    }

    pub(super) fn add_entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes what was left out, and why.
    pub(super) fn skip(&self, what: &str) {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        skipped.count += 1;
        if skipped.named.len() < NAMED_MAX {
            skipped.named.push(what.to_owned());
            if self.is_told {
                let text = format!("sandboxctl: left out: {}", printable(what));
                self.bar.suspend(|| {
                    // A note that cannot be written is no reason to fail.
                    io::Write::write_all(&mut io::stderr(), format!("{text}\n").as_bytes()).ok();
                });
            }
        }
    }

    /// Takes the bar away; returns how many things were left out.
    pub(super) fn finish(&self) -> u64 {
        self.bar.finish_and_clear();
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    pub(super) fn json(&self) -> Value {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "entries": self.entries.load(Ordering::Relaxed),
            "bytes": self.bytes(),
            "skipped": skipped.count,
            "skipped_named": skipped.named,
        })
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
