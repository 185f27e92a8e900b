//! What one worker and the control plane have of each other.

use std::sync::{Arc, Mutex, PoisonError};

use super::orders::{Order, Orders, Returns};
use super::stop::Stop;
use super::takeover::Takeover;
use crate::error::Explain;
use crate::ledger::{Ledger, Published};

/// What one worker and the control plane have of each other. The worker uses it between turns, never for a frame.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    /// How this worker is asked to end. Each has its own: an event that one acknowledges would not wake another.
    pub(super) stop: Stop,
    /// This worker's ledger, as others see it.
    pub(super) published: Published,
    /// What went wrong in the session.
    pub(super) failures: Failures,
    /// Which frames are this run's.
    pub(super) takeover: Takeover,
    /// What this worker is to do between two turns.
    pub(super) orders: Orders,
    /// Where it gives sources back that have ended, if anybody follows the interfaces: then it lives on without them.
    pub(super) returns: Option<Returns>,
}

impl Contact {
    /// For a worker that begins with the account `ledger`.
    ///
    /// # Errors
    /// When the kernel has no descriptor left for an event.
    pub(super) fn open(ledger: Ledger, failures: Failures, returns: Option<Returns>) -> nix::Result<Self> {
        let (stop, published, orders) = (Stop::new()?, Published::new(ledger), Orders::default());
        Ok(Self { stop, published, failures, takeover: Takeover::open(), orders, returns })
    }

    /// Has the worker carry out `orders` before its next turn.
    pub(super) fn order(&self, orders: impl IntoIterator<Item = Order>) {
        self.orders.give(orders);
        self.stop.wake();
    }
}

/// What went wrong in a session, each thing once: when an interface goes away, all workers see it.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    failures: Arc<Mutex<Vec<Box<dyn Explain>>>>,
    /// Labels of the losses that the log has explained.
    explained: Arc<Mutex<Vec<&'static str>>>,
}

impl Failures {
    /// Says and keeps `failure`, unless the same has been reported.
    pub(super) fn report(&self, failure: Box<dyn Explain>) {
        // A list of whole failures, whoever was interrupted over it.
        let mut known = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let words = failure.to_string();
        if known.iter().all(|other| other.to_string() != words) {
            tracing::error!("{words}");
            known.push(failure);
        }
    }

    /// Whether the log has not explained losses of this label yet; it has from this call on.
    pub(super) fn is_first(&self, label: &'static str) -> bool {
        let mut explained = self.explained.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !explained.contains(&label);
        if is_first {
            explained.push(label);
        }
        is_first
    }

    /// Everything that was reported, in its order.
    pub(super) fn take(&self) -> Vec<Box<dyn Explain>> {
        std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
