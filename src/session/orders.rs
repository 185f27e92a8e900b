//! What the control plane has a worker do while it runs: take on an interface, let go of one, learn a name, keep within a limit.
//!
//! A worker looks at one atomic a turn. Only when somebody has ordered something it takes the lock, between two turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use super::governor;
use crate::error::Explain;
use crate::frame::InterfaceId;
use crate::source::Source;

/// The number of one source that was attached to a session: the same for every worker, and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Attachment(pub(super) u64);

/// Something to do between two turns.
pub(super) enum Order {
    /// Has the destinations learn the interface, then takes frames of this source, too. One order, so that no source is
    /// attached by a number that means another name, or nothing.
    Attach { attachment: Attachment, interface: InterfaceId, name: Arc<str>, source: Box<dyn Source> },
    /// The interface has another name now.
    Rename { attachment: Attachment, name: Arc<str> },
    /// Takes what the kernel has captured until now, then gives the source back.
    Detach { attachment: Attachment },
    /// Keeps within limits from now on.
    Govern(Arc<governor::Shared>),
}

/// The orders that wait for one worker. Clones are the same list.
#[derive(Clone, Default)]
pub(super) struct Orders {
    are_waiting: Arc<AtomicBool>,
    list: Arc<Mutex<Vec<Order>>>,
}

impl Orders {
    /// Adds orders, to be carried out in their order. Whoever gives them wakes the worker.
    pub(super) fn give(&self, orders: impl IntoIterator<Item = Order>) {
        // A list of whole orders, whoever was interrupted over it.
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.extend(orders);
        self.are_waiting.store(true, Ordering::Release);
    }

    /// Whether there are any: one atomic read.
    pub(super) fn are_waiting(&self) -> bool {
        self.are_waiting.load(Ordering::Acquire)
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<Order> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        self.are_waiting.store(false, Ordering::Relaxed);
        std::mem::take(&mut list)
    }
}

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Orders").field("are_waiting", &self.are_waiting()).finish_non_exhaustive()
    }
}

/// A source that a worker has let go: everything it held is in the ledger. To close it takes the kernel a while, so the
/// control plane does that.
pub(super) struct LetGo {
    pub(super) attachment: Attachment,
    pub(super) source: Box<dyn Source>,
    /// Why, unless it was ordered.
    pub(super) failure: Option<Box<dyn Explain>>,
}

/// Where a worker gives sources back.
pub(super) type Returns = UnboundedSender<LetGo>;
