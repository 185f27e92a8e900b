//! How the worker shows its ledger to the control plane.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::Ledger;

/// A copy of the worker's ledger, and signs of its life, that other threads may read while it runs. The worker writes
/// them between turns, never for a frame.
#[derive(Clone, Debug)]
pub struct Published(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    ledger: Mutex<Ledger>,
    turns: AtomicU64,
    /// Milliseconds since 1970; 0 before the first frame.
    last_frame: AtomicU64,
}

impl Published {
    /// Starts with what is counted already.
    pub fn new(ledger: Ledger) -> Self {
        Self(Arc::new(Board { ledger: Mutex::new(ledger), ..Board::default() }))
    }

    /// Replaces the copy. Does not allocate once names and destinations are known.
    pub fn update(&self, ledger: &Ledger) {
        // A reader cannot leave the copy half written, so a poisoned lock is as good as any.
        let mut shown = self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        // A derived `clone_from` would make a new vector.
        let mut destinations = std::mem::take(&mut shown.destinations);
        destinations.clone_from(&ledger.destinations);
        let mut senders = std::mem::take(&mut shown.senders);
        senders.follow(&ledger.senders);
        *shown = Ledger { destinations, senders, ..*ledger };
    }

    /// Shows that the worker has done another turn, in which it found frames or none.
    pub fn note_turn(&self, has_found: bool) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        if has_found {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.0.last_frame.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// The latest copy.
    pub fn read(&self) -> Ledger {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many turns the worker has done: the number stands still while it is stuck.
    pub fn turns(&self) -> u64 {
        self.0.turns.load(Ordering::Relaxed)
    }

    /// When the worker took its last frame, to the turn.
    pub fn last_frame(&self) -> Option<SystemTime> {
        match self.0.last_frame.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
        }
    }
}
