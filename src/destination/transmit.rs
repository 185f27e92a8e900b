//! Where datagrams enter the kernel.

use std::fmt;

use super::Patience;
use super::batch::Batch;
use crate::ledger::DestinationLedger;

/// Takes batches of finished tunnel datagrams: the second of the two places where farspan meets a kernel it cannot
/// see behind.
///
/// A datagram begins with the tunnel header; outer IP and UDP are the engine's (or the kernel's) work.
pub trait Transmit: Send + fmt::Debug {
    /// Sends every datagram of `batch`, in order within each bucket, gives each its fate in `account` (`sent` or a
    /// drop reason, `in_flight` going down by one) and leaves the batch empty. ICMP reports met on the way are
    /// counted in `account.icmp`; a path MTU learnt from them goes to the destination's `Underlay`.
    fn send(&mut self, batch: &mut Batch, patience: Patience, account: &mut DestinationLedger);
}
