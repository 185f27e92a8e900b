//! Where datagrams enter the kernel.

use std::{fmt, io};

use super::Patience;
use super::batch::{Batch, Datagram};
use crate::ledger::{DestinationLedger, DropReason};

/// Takes batches of finished tunnel datagrams: the second of the two places where farspan meets a kernel it cannot
/// see behind.
///
/// A datagram begins with the tunnel header; outer IP and UDP are the engine's (or the kernel's) work.
pub trait Transmit: Send + fmt::Debug {
    /// Sends every datagram of `batch`, each flow in order, gives each its fate in `account` (`sent` or a
    /// drop reason, `in_flight` going down by one) and leaves the batch empty. ICMP reports met on the way are
    /// counted in `account.icmp`; a path MTU learnt from them goes to the destination's `Underlay`.
    fn send(&mut self, batch: &mut Batch, patience: Patience, account: &mut DestinationLedger);

    /// Counts the ICMP reports that came back without making a send fail, and returns the last error that made a
    /// datagram `write_failed`, if there was one since the last call. Not for every frame: about once a second.
    fn collect_reports(&mut self, account: &mut DestinationLedger) -> Option<io::Error>;

    /// Whether nothing can leave any more: the dry run's reader has ended. Sockets never close.
    fn is_closed(&self) -> bool {
        false
    }
}

/// Counts `datagram` as sent: with `outer_len` bytes of outer IP and UDP in front of it.
pub(super) fn count_sent(account: &mut DestinationLedger, datagram: &Datagram, outer_len: usize) {
    account.in_flight -= 1;
    account.sent += 1;
    account.truncated += u64::from(datagram.cut);
    account.datagrams += 1;
    account.bytes += (outer_len + datagram.len()) as u64;
}

/// Counts `datagrams` of the batch as dropped.
pub(super) fn count_dropped(account: &mut DestinationLedger, reason: DropReason, datagrams: usize) {
    account.in_flight -= datagrams as u64;
    account.dropped[reason] += datagrams as u64;
}
