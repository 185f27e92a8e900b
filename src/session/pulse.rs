//! What a worker does by time inside a turn: it publishes its ledger and looks for a stop request.
//!
//! One captured frame may become thousands of wire frames, and one turn takes many captured frames. So the pulse counts
//! wire frames, and reads the clock once for each [`STRIDE`] of them.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::stop::Stop;
use crate::ledger::{Ledger, Published};

/// Wire frames between two readings of the clock: about a millisecond of work in a release build.
const STRIDE: u32 = 512;
/// How often the ledger is published inside a turn.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// Counts wire frames, and acts by time.
pub(super) struct Pulse {
    /// Wire frames until the clock is read.
    left: u32,
    published: Published,
    published_at: Option<Instant>,
    stop: Stop,
    /// How long a stopped session may still mirror what was captured before, inside a turn.
    patience: Duration,
    /// When the stop request was first seen here.
    stop_seen: Option<Instant>,
    is_halted: bool,
}

impl Pulse {
    /// Publishes to `published`, and halts `patience` after a request of `stop`, or at once when it is urgent.
    pub(super) fn new(published: Published, stop: Stop, patience: Duration) -> Self {
        Self { left: STRIDE, published, published_at: None, stop, patience, stop_seen: None, is_halted: false }
    }

    /// Counts one wire frame. `Break`: the session must end; nothing more is mirrored.
    #[inline]
    pub(super) fn count(&mut self, ledger: &Ledger) -> ControlFlow<()> {
        self.left -= 1;
        if self.left == 0 {
            self.beat(ledger);
            // Once halted, every frame is looked at here: `left` stays at 1.
            if self.is_halted {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether nothing more is to be mirrored.
    pub(super) fn is_halted(&self) -> bool {
        self.is_halted
    }

    /// Reads the clock, publishes the ledger when it is time, and looks for a stop request.
    #[cold]
    #[inline(never)]
    fn beat(&mut self, ledger: &Ledger) {
        let now = Instant::now();
        if self.published_at.is_none_or(|last| now >= last + PUBLISH_INTERVAL) {
            debug_assert_eq!(ledger.balance(), Ok(()));
            self.published.update(ledger);
            self.published_at = Some(now);
        }
        if self.stop.is_requested() {
            let seen = *self.stop_seen.get_or_insert(now);
            self.is_halted |= self.stop.is_urgent() || now >= seen + self.patience;
        }
        self.left = if self.is_halted { 1 } else { STRIDE };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(patience: Duration) -> (Pulse, Published, Stop) {
        let (published, stop) = (Published::new(Ledger::default()), Stop::new().unwrap());
        (Pulse::new(published.clone(), stop.clone(), patience), published, stop)
    }

    fn count(pulse: &mut Pulse, frames: u32, ledger: &Ledger) -> ControlFlow<()> {
        (0..frames).try_for_each(|_| pulse.count(ledger))
    }

    #[test]
    fn the_ledger_is_published_inside_a_turn() {
        let (mut pulse, published, _stop) = pulse(Duration::MAX);
        let ledger = Ledger { captured: 7, offered: 7, ..Ledger::default() };
        assert!(count(&mut pulse, STRIDE - 1, &ledger).is_continue());
        assert_eq!(published.read().captured, 0);
        assert!(count(&mut pulse, 1, &ledger).is_continue());
        assert_eq!(published.read().captured, 7);
    }

    #[test]
    fn a_stopped_session_halts_when_its_patience_is_over_and_at_once_when_it_is_urgent() {
        let ledger = Ledger::default();
        let (mut patient, _, stop) = pulse(Duration::from_hours(1));
        stop.request();
        assert!(count(&mut patient, 3 * STRIDE, &ledger).is_continue());
        stop.hurry();
        assert!(count(&mut patient, STRIDE, &ledger).is_break());
        assert!(patient.is_halted() && count(&mut patient, 1, &ledger).is_break(), "and stays halted");

        let (mut impatient, _, stop) = pulse(Duration::ZERO);
        assert!(count(&mut impatient, 3 * STRIDE, &ledger).is_continue(), "nobody asked");
        stop.request();
        assert!(count(&mut impatient, STRIDE, &ledger).is_break());
    }
}
