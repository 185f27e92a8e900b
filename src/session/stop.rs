//! How a session is asked to end: a flag that the worker reads once a turn, and an event that wakes it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Asks a worker to end. Cloned into whoever may ask.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    requested: Arc<AtomicBool>,
    urgent: Arc<AtomicBool>,
    event: Arc<EventFd>,
}

impl Stop {
    /// A stop that nobody has requested yet.
    ///
    /// # Errors
    /// When the kernel has no descriptor left for an event.
    pub(super) fn new() -> nix::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { requested: Arc::default(), urgent: Arc::default(), event: Arc::new(event) })
    }

    /// Asks the worker to end after the frames that were captured until now.
    pub(super) fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Asks the worker to end with what it has given to its destinations, and to leave everything else.
    pub(super) fn hurry(&self) {
        self.urgent.store(true, Ordering::Relaxed);
        self.request();
    }

    /// Wakes the worker for a turn.
    pub(super) fn wake(&self) {
        // A full event counter means that the worker has been woken already.
        let _ = self.event.write(1);
    }

    /// Readable from the request until it is acknowledged.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Lets the worker sleep again after it was woken.
    pub(super) fn acknowledge(&self) {
        // Nothing to read means that nothing keeps it awake.
        let _ = self.event.read();
    }

    /// Whether the worker is to leave what it has not taken yet.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }

    /// Whether anybody asked.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}
