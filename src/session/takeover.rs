//! Which frames are a run's own where it takes another's place: those that were captured in its time.
//!
//! When a reload puts a new run in the place of an old one, both capture for a while. The moment at which the one ends
//! and the other begins decides, by the kernel's timestamp, whose a frame is: so none is mirrored twice, and none by
//! nobody.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::quantity::Timestamp;

/// The time of a run, as nanoseconds since 1970. Shared by a worker, which reads it once a turn, and whoever sets it.
#[derive(Clone, Debug)]
pub(super) struct Takeover(Arc<Times>);

#[derive(Debug)]
struct Times {
    since: AtomicU64,
    until: AtomicU64,
    /// Whether no other run is there any more.
    is_sole: AtomicBool,
}

impl Takeover {
    /// From ever, for ever.
    pub(super) fn open() -> Self {
        let (since, until) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self(Arc::new(Times { since, until, is_sole: AtomicBool::new(false) }))
    }

    /// Not before somebody says so.
    pub(super) fn close(&self) {
        self.0.since.store(u64::MAX, Ordering::Relaxed);
    }

    /// Frames from this moment on count.
    pub(super) fn begin_at(&self, moment: Timestamp) {
        self.0.since.store(moment.nanos(), Ordering::Relaxed);
    }

    /// No other run is there any more: what has not been captured yet counts, whatever its timestamp says.
    pub(super) fn begin(&self) {
        // Where no moment was set, no run was there before either.
        let _ = self.0.since.compare_exchange(u64::MAX, 0, Ordering::Relaxed, Ordering::Relaxed);
        self.0.is_sole.store(true, Ordering::Relaxed);
    }

    /// Whether nobody else is there.
    pub(super) fn is_sole(&self) -> bool {
        self.0.is_sole.load(Ordering::Relaxed)
    }

    /// Frames from this moment on count no more. The first such moment stands: another run may rely on it.
    pub(super) fn end_at(&self, moment: Timestamp) {
        let _ = self.0.until.compare_exchange(u64::MAX, moment.nanos(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The time as it is set now.
    pub(super) fn read(&self) -> Range<u64> {
        self.0.since.load(Ordering::Relaxed)..self.0.until.load(Ordering::Relaxed)
    }
}
