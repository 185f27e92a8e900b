//! A capture file of inner frames.

use crate::frame::WireFrame;
use crate::ledger::DestinationLedger;

/// A capture file of inner frames, or standard output.
#[derive(Debug)]
pub struct CaptureFile {}

impl CaptureFile {
    /// Appends one frame to the buffer.
    pub fn offer(&mut self, frame: &WireFrame<'_>, account: &mut DestinationLedger) {
        let _ = (frame, account);
    }

    /// Writes the buffer.
    pub fn flush(&mut self, account: &mut DestinationLedger) {
        let _ = account;
    }

    /// Writes the buffer and gives every record its fate.
    pub fn finish(&mut self, account: &mut DestinationLedger) {
        let _ = account;
    }
}
