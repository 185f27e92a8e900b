//! Which frames are a run's own: those that were captured in its time.
//!
//! When a reload puts a new run in the place of an old one, both capture for a while. The moment at which the one ends
//! and the other begins decides, by the kernel's timestamp, whose a frame is: so none is mirrored twice, and none by
//! nobody.
//!
//! The clock of those timestamps may be set. A run whose beginning is then in the future would see nothing until it comes,
//! so a frame that seems to be far older than its run is one of a clock that was set back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::quantity::Timestamp;

/// The time of a run, as nanoseconds since 1970. Shared by a worker, which reads it once a turn, and whoever sets it.
#[derive(Clone, Debug)]
pub(super) struct Window(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    since: AtomicU64,
    until: AtomicU64,
}

impl Window {
    /// From ever, for ever.
    pub(super) fn open() -> Self {
        Self(Arc::new(Limits { since: AtomicU64::new(0), until: AtomicU64::new(u64::MAX) }))
    }

    /// Not before somebody says so.
    pub(super) fn close(&self) {
        self.0.since.store(u64::MAX, Ordering::Relaxed);
    }

    /// Frames from this moment on count, if it is closed: a time that has begun goes on.
    pub(super) fn begin_at(&self, moment: Timestamp) {
        let _ = self.0.since.compare_exchange(u64::MAX, moment.nanos(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Frames from this moment on count no more.
    pub(super) fn end_at(&self, moment: Timestamp) {
        self.0.until.store(moment.nanos(), Ordering::Relaxed);
    }

    /// Whether its end is known.
    pub(super) fn ends(&self) -> bool {
        self.0.until.load(Ordering::Relaxed) != u64::MAX
    }

    /// The time as it is set now.
    pub(super) fn read(&self) -> Span {
        Span { since: self.0.since.load(Ordering::Relaxed), until: self.0.until.load(Ordering::Relaxed) }
    }
}

/// The time of a run, as it was set at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    since: u64,
    until: u64,
}

impl Span {
    /// Whether a frame of this time is the run's.
    pub(super) fn contains(self, at: Timestamp) -> bool {
        let has_begun = at.nanos() >= self.since || (self.since != u64::MAX && at.is_of_a_clock_set_back(self.since()));
        has_begun && !self.is_over(at)
    }

    /// Whether a frame of this time is a later run's.
    pub(super) const fn is_over(self, at: Timestamp) -> bool {
        at.nanos() >= self.until
    }

    const fn since(self) -> Timestamp {
        Timestamp::from_nanos(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * SECOND)
    }

    #[test]
    fn what_was_captured_in_its_time_is_a_run_s_and_nothing_else() {
        let window = Window::open();
        assert!(window.read().contains(at(0)) && window.read().contains(at(1_000)));
        window.close();
        assert!(!window.read().contains(at(0)) && !window.read().contains(at(1_000)));
        window.begin_at(at(1_000));
        window.end_at(at(2_000));
        let span = window.read();
        let before = |moment: Timestamp| Timestamp::from_nanos(moment.nanos() - 1);
        assert!(span.contains(at(1_000)) && span.contains(before(at(2_000))));
        assert!(!span.contains(before(at(1_000))) && !span.contains(at(2_000)));
        assert!(span.is_over(at(2_000)) && !span.is_over(before(at(2_000))));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_frame_out() {
        let window = Window::open();
        window.close();
        window.begin_at(at(10_000));
        assert!(!window.read().contains(at(9_999)), "an earlier run has this one");
        assert!(window.read().contains(at(6_400)), "an hour earlier there was no capture to hold it");
        window.end_at(at(20_000));
        assert!(window.read().contains(at(6_400)));
    }
}
