//! Where frames come from: live interfaces through libpcap, and capture files.
//!
//! A source lends each frame to a closure and takes it back when the closure returns, so that a slow destination can
//! never pin the source's memory. Sources know nothing of what happens to a frame.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::error::Explain;
use crate::frame::Frame;
use crate::ledger::KernelDrops;

/// What a source has after a [`drain`](Source::drain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// More frames are there already: the budget was the limit.
    More,
    /// Nothing now: wait for the source's descriptor.
    Waiting,
    /// Nothing before this moment: the replay is paced.
    Until(Instant),
    /// There will never be another frame.
    Ended,
}

/// A stream of captured frames: one of the two places where farspan meets a kernel it cannot see behind.
pub trait Source: Send {
    /// Lends up to `budget` frames that are ready, in order, and says what to wait for. Never blocks on a live
    /// interface; a file is read at once unless it is paced. `now` is the worker's only clock reading this turn.
    ///
    /// # Errors
    /// When no further frame can come: the interface went away, the file is damaged. Frames lent before stay valid.
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>>;

    /// The descriptor that becomes readable when frames are ready; none for a file, which is always ready.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// What the kernel dropped before us since the source was opened: rising totals.
    fn kernel_drops(&mut self) -> KernelDrops;
}
