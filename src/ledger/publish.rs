//! How the worker shows its ledger to the control plane.

use std::sync::{Arc, Mutex, PoisonError};

use super::Ledger;

/// A copy of the worker's ledger that other threads may read while it runs. The worker writes it between turns, never
/// for a frame.
#[derive(Clone, Debug)]
pub struct Published(Arc<Mutex<Ledger>>);

impl Published {
    /// Starts with what is counted already.
    pub fn new(ledger: Ledger) -> Self {
        Self(Arc::new(Mutex::new(ledger)))
    }

    /// Replaces the copy. Does not allocate once names and destinations are known.
    pub fn update(&self, ledger: &Ledger) {
        // A reader cannot leave the copy half written, so a poisoned lock is as good as any.
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A derived `clone_from` would make a new vector.
        let mut destinations = std::mem::take(&mut shown.destinations);
        destinations.clone_from(&ledger.destinations);
        let mut senders = std::mem::take(&mut shown.senders);
        senders.follow(&ledger.senders);
        *shown = Ledger { destinations, senders, ..*ledger };
    }

    /// The latest copy.
    pub fn read(&self) -> Ledger {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
