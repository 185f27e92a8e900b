//! Where datagrams enter the kernel.

use std::time::Instant;
use std::{fmt, io};

use super::Patience;
use crate::frame::WireFrame;
use crate::ledger::{DestinationLedger, DropReason};

/// Largest IP packet in bytes: its length field has 16 bits.
pub const LARGEST_PACKET: usize = 65_535;

/// Takes finished tunnel datagrams into its own memory and sends them: the second of the two places where farspan meets
/// a kernel it cannot see behind.
///
/// A datagram begins with the tunnel header; outer IP and UDP are the engine's (or the kernel's) work.
pub trait Transmit: Send + fmt::Debug {
    /// Copies `frame` behind `header_len` bytes of room and lends that room for the tunnel header: the one copy of a
    /// frame's life. `None` when there is no memory left before datagrams have been sent. `bucket` names the source port:
    /// it is the same for all frames of a flow. `cut` says that the frame was cut to fit.
    fn push(&mut self, header_len: usize, frame: &WireFrame<'_>, bucket: u32, cut: bool) -> Option<&mut [u8]>;

    /// How many datagrams wait to be sent.
    fn waiting(&self) -> usize;

    /// Lends the beginning of every datagram that waits, in the order in which each flow will leave: tunnel header and
    /// frame.
    fn each_header(&mut self, each: &mut dyn FnMut(&mut [u8]));

    /// Sends every datagram that waits, each flow in order, and gives each its fate in `account` (`sent` or a drop reason,
    /// `in_flight` going down by one). ICMP reports met on the way are counted in `account.icmp`; a path MTU learnt
    /// from them goes to the destination's `Underlay`.
    fn send(&mut self, patience: Patience, account: &mut DestinationLedger);

    /// Forgets the datagrams that wait but the first `count`, and returns how many that took away.
    fn keep(&mut self, count: usize) -> usize;

    /// Counts the ICMP reports that came back without making a send fail, and returns the last error that made a
    /// datagram `write_failed`, if there was one since the last call. Not for every frame: about once a second.
    fn collect_reports(&mut self, account: &mut DestinationLedger) -> Option<io::Error>;

    /// Takes in what the kernel has finished since, once a turn. Only where it does not say so at once.
    fn settle(&mut self, _now: Instant, _account: &mut DestinationLedger) {}

    /// When it is to be settled again at the latest: soon while the kernel has datagrams whose fate is not known yet.
    fn unsettled_until(&self, _now: Instant) -> Option<Instant> {
        None
    }

    /// Waits a moment for the fates of datagrams that the kernel still has, and gives those that it does not tell the
    /// reason `stopping`.
    fn finish(&mut self, _account: &mut DestinationLedger) {}

    /// Why there is no room for a datagram, although none waits.
    fn when_full(&self) -> DropReason {
        DropReason::DeviceBusy
    }

    /// Largest outer IP packet that it can send, in bytes. It may be another only after [`settle`](Self::settle).
    fn largest_packet(&self) -> usize {
        LARGEST_PACKET
    }

    /// Whether nothing can leave any more: the dry run's reader has ended. Sockets never close.
    fn is_closed(&self) -> bool {
        false
    }
}

/// Counts a datagram that was in flight as sent: `packet` bytes long with its outer IP header, and `cut` if the frame
/// was cut to fit.
pub(super) fn count_sent(account: &mut DestinationLedger, packet: usize, cut: bool) {
    account.in_flight -= 1;
    account.sent += 1;
    account.truncated += u64::from(cut);
    account.datagrams += 1;
    account.bytes += packet as u64;
}

/// Counts `datagrams` that were in flight as dropped.
pub(super) fn count_dropped(account: &mut DestinationLedger, reason: DropReason, datagrams: usize) {
    account.in_flight -= datagrams as u64;
    account.dropped[reason] += datagrams as u64;
}
