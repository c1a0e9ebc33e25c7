//! When an `always_on` sandbox that was lost is started again.

use std::time::{Duration, Instant};

/// The pause before an `always_on` sandbox whose first process was lost is started again.
const REVIVE_PAUSE: Duration = Duration::from_secs(1);
/// The longest of these pauses; they double.
const REVIVE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A sandbox that ran for so long was healthy: the next pause is the first one again.
const HEALTHY: Duration = Duration::from_secs(60);

/// The next start of a lost sandbox, and the pause before the one after it.
#[derive(Debug)]
pub(crate) struct Revive {
    /// `None`: it is not to be started.
    pub(crate) at: Option<Instant>,
    pause: Duration,
}

impl Default for Revive {
    fn default() -> Self {
        Self { at: None, pause: REVIVE_PAUSE }
    }
}

impl Revive {
    /// Begins the first pause again after a healthy while, else the next.
    pub(crate) fn after_loss(&mut self, ran_for: Option<Duration>) {
        if ran_for.is_some_and(|time| time >= HEALTHY) {
            self.pause = REVIVE_PAUSE;
        }
        self.schedule();
    }

    /// Begins the next pause, twice as long as the one before.
    pub(crate) fn schedule(&mut self) {
        self.at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(REVIVE_PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_a_bound_and_resets_after_a_healthy_while() {
        let mut revive = Revive::default();
        assert!(revive.at.is_none());
        let mut pauses = Vec::new();
        for _loss in 0..8 {
            let before = Instant::now();
            revive.after_loss(Some(Duration::from_secs(1)));
            pauses.push((revive.at.unwrap() - before).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let before = Instant::now();
        revive.after_loss(Some(HEALTHY));
        assert_eq!((revive.at.unwrap() - before).as_secs(), 1);
        assert_eq!(revive.pause, REVIVE_PAUSE * 2);
    }
}
