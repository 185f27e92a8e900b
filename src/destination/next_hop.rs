//! The gate before the sockets: the kernel holds only a few datagrams for a neighbour that has not answered yet, and
//! loses the others silently. So they wait here, and are counted when they wait in vain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Patience;
use crate::config::defaults::{NEXT_HOP_PATIENCE, REPLAY_PATIENCE};
use crate::kernel::underlay::{NextHop, Underlay};

/// What becomes of datagrams now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// They may be sent.
    Open,
    /// The next hop may answer in a moment: the first few wait.
    Hold,
    /// They would be lost: there is nobody to send them to.
    Shut,
}

/// Watches the next hop on behalf of one destination.
#[derive(Debug)]
pub(super) struct NextHopGate {
    underlay: Arc<Underlay>,
    patience: Patience,
    held_since: Option<Instant>,
    look_again: Option<Instant>,
    /// A replay has waited its whole patience; it does not again until the next hop has answered once.
    waited_in_vain: bool,
}

/// How soon held frames are looked at again: well under the delay that an analyzer would notice.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl NextHopGate {
    /// A gate for the next hop of `underlay`.
    pub(super) fn new(underlay: Arc<Underlay>, patience: Patience) -> Self {
        Self { underlay, patience, held_since: None, look_again: None, waited_in_vain: false }
    }

    /// Says what becomes of datagrams that want to leave now. A replay waits for the answer in here. `now` is `None` in
    /// the middle of a turn, when no clock has been read: then nothing is overdue.
    pub(super) fn ask(&mut self, now: Option<Instant>) -> Passage {
        let state = match self.underlay.next_hop() {
            NextHop::Resolving | NextHop::Failed if self.patience == Patience::Wait && !self.waited_in_vain => {
                self.underlay.wait_for_next_hop(REPLAY_PATIENCE)
            }
            state => state,
        };
        self.waited_in_vain = state != NextHop::Usable && self.patience == Patience::Wait;
        let passage = match state {
            NextHop::Usable => Passage::Open,
            NextHop::Resolving if self.patience == Patience::Drop && !self.overdue(now) => Passage::Hold,
            NextHop::Resolving | NextHop::Failed => Passage::Shut,
        };
        if passage != Passage::Hold {
            self.clear();
        }
        passage
    }

    /// Nothing is held any more.
    pub(super) fn clear(&mut self) {
        self.held_since = None;
        self.look_again = None;
    }

    /// When held datagrams must be looked at again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look_again
    }

    /// Whether what is held has waited long enough; the waiting begins with the first question that has a clock.
    fn overdue(&mut self, now: Option<Instant>) -> bool {
        let Some(now) = now else { return false };
        let since = *self.held_since.get_or_insert(now);
        self.look_again = Some(now + LOOK_AGAIN);
        now.duration_since(since) >= NEXT_HOP_PATIENCE
    }
}
