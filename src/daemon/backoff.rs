//! How long a session that failed waits before it is opened again, and how often that is said. No clock: time comes in.

use std::time::{Duration, Instant};

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_mins(1);
/// A session that ran for so long had recovered: its next failure is a new one.
const HEALTHY: Duration = Duration::from_mins(1);
/// Trouble that goes on is said so often.
const REMINDER: Duration = Duration::from_mins(1);

/// Waits that double from a second to a minute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) const fn new() -> Self {
        Self(FIRST)
    }

    /// The next wait, after a session that had run for `ran`.
    pub(super) fn next(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            *self = Self::new();
        }
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST);
        wait
    }
}

/// Trouble that may repeat: said at once, then once a minute, with how often it happened in between.
#[derive(Clone, Debug, Default)]
pub(super) struct Complaint {
    words: String,
    said: Option<Instant>,
    unsaid: u32,
}

impl Complaint {
    /// Whether this failure is to be said now, and how many times the same went unsaid before.
    pub(super) fn note(&mut self, words: &str, now: Instant) -> Option<u32> {
        let is_new = self.words != words;
        if is_new {
            words.clone_into(&mut self.words);
        }
        if !is_new && self.said.is_some_and(|said| now.duration_since(said) < REMINDER) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute_and_begin_anew_after_health() {
        let mut backoff = Backoff::new();
        let seconds: Vec<u64> = (0..8).map(|_| backoff.next(Duration::ZERO).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.next(Duration::from_secs(59)).as_secs(), 60);
        assert_eq!(backoff.next(HEALTHY).as_secs(), 1);
        assert_eq!(backoff.next(Duration::ZERO).as_secs(), 2);
    }

    #[test]
    fn the_same_trouble_is_said_once_a_minute_with_a_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut complaint = Complaint::default();
        let said: Vec<_> = [0, 1, 3, 7, 59].map(|second| complaint.note("no such device", at(second))).into();
        assert_eq!(said, [Some(0), None, None, None, None]);
        assert_eq!(complaint.note("no such device", at(60)), Some(4));
        assert_eq!(complaint.note("no such device", at(61)), None);
        assert_eq!(complaint.note("not permitted", at(62)), Some(1), "another trouble is said at once");
    }
}
