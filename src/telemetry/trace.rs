//! Where the time of one request goes, phase by phase.
//!
//! Whoever begins an operation opens a [`Trace`] around it; the code beneath names its phases without
//! knowing who asked. A phase costs two readings of the clock and one push, and nothing where no trace is open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most phases that one trace keeps: a request that does the same thing many times is cut.
const PHASES_MAX: usize = 256;

tokio::task_local! {
    static CURRENT: Trace;
}

/// One request's phases, in the order in which they ended; cheap to clone.
#[derive(Debug, Clone)]
pub struct Trace {
    begun: Instant,
    phases: Arc<Mutex<Vec<Phase>>>,
}

/// One part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    pub name: &'static str,
    /// From the beginning of the trace.
    pub at: Duration,
    pub took: Duration,
}

impl Trace {
    #[expect(clippy::new_without_default, reason = "a trace begins at a moment")]
    pub fn new() -> Self {
        Self { begun: Instant::now(), phases: Arc::default() }
    }

    /// The trace of this task, if it has one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs `work` so that its phases are noted here.
    pub async fn scope<T>(&self, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self.clone(), work).await
    }

    /// The same for work that is yet to be begun, on a task of its own.
    pub fn around<W: Future>(self, work: W) -> impl Future<Output = W::Output> + use<W> {
        CURRENT.scope(self, work)
    }

    /// Notes a phase that ends now.
    pub fn note(&self, name: &'static str, begun: Instant) {
        self.note_as(name, begun, begun.elapsed());
    }

    /// Notes a phase that another process has measured.
    pub fn note_as(&self, name: &'static str, begun: Instant, took: Duration) {
        let mut phases = self.phases();
        if phases.len() < PHASES_MAX {
            phases.push(Phase { name, at: begun.saturating_duration_since(self.begun), took });
        }
    }

    /// How many phases there are so far.
    pub fn len(&self) -> usize {
        self.phases().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The phases from a number on.
    pub fn since(&self, first: usize) -> Vec<Phase> {
        self.phases().get(first..).unwrap_or_default().to_vec()
    }

    /// The value of a `Server-Timing` header (<https://www.w3.org/TR/server-timing/>), in milliseconds;
    /// `at` is when a phase began.
    pub fn server_timing(&self) -> String {
        let total = format!("total;dur={:.3}", self.begun.elapsed().as_secs_f64() * 1e3);
        let phase = |p: Phase| {
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            format!("{};dur={:.3};at={:.3}", p.name, ms(p.took), ms(p.at))
        };
        std::iter::once(total).chain(self.since(0).into_iter().map(phase)).collect::<Vec<_>>().join(", ")
    }

    /// The phases from a number on in one line of a log, in milliseconds.
    pub fn told(&self, first: usize) -> String {
        let phase = |p: Phase| format!("{} {:.1}", p.name, p.took.as_secs_f64() * 1e3);
        self.since(first).into_iter().map(phase).collect::<Vec<_>>().join(", ")
    }

    fn phases(&self) -> MutexGuard<'_, Vec<Phase>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` as a phase of the trace that is open.
pub async fn phase<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = work.await;
    if let Some(trace) = Trace::current() {
        trace.note(name, begun);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_are_noted_where_a_trace_is_open() {
        phase("nobody", async {}).await;
        let trace = Trace::new();
        let sum = trace.scope(async { phase("a", async { 1 }).await + phase("b", async { 2 }).await }).await;
        assert_eq!((sum, trace.len(), Trace::current().is_none()), (3, 2, true));
        assert_eq!(trace.since(1).iter().map(|p| p.name).collect::<Vec<_>>(), ["b"]);
        trace.note_as("c", Instant::now(), Duration::from_micros(1500));
        let text = trace.server_timing();
        assert!(text.starts_with("total;dur=") && text.contains(", c;dur=1.500;at="), "{text}");
        assert_eq!(trace.told(2), "c 1.5");
        for _ in 0..2 * PHASES_MAX {
            trace.note("many", Instant::now());
        }
        assert_eq!(trace.len(), PHASES_MAX);
    }
}
