//! A tunnel to one analyzer: fit, encapsulate with the one copy, batch, send.

use std::time::Instant;

use crate::frame::WireFrame;
use crate::ledger::DestinationLedger;

/// A tunnel to one analyzer.
#[derive(Debug)]
pub struct Tunnel {}

impl Tunnel {
    /// Fits, encapsulates and batches one frame.
    pub fn offer(&mut self, frame: &WireFrame<'_>, account: &mut DestinationLedger) {
        let _ = (frame, account);
    }

    /// Sends the batch, if the next hop can be reached.
    pub fn flush(&mut self, now: Instant, account: &mut DestinationLedger) {
        let _ = (now, account);
    }

    /// Sends or drops what is in flight.
    pub fn finish(&mut self, now: Instant, account: &mut DestinationLedger) {
        let _ = (now, account);
    }

    /// When a held batch must be looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }
}
