//! A frame on its way: as it was captured, and as the wire carried it.
//!
//! "Frame" means the Ethernet frame from destination MAC to the last payload byte: no preamble, no FCS, VLAN tags in
//! line. Offsets count from its first byte.

use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::flow::FlowHash;
use crate::ledger::DropReason;
use crate::quantity::{Direction, Ifindex, Mtu, Timestamp};
use crate::wire::decapsulate::Tunnel;
use crate::wire::layers::{Ip, Layers};

/// A frame as a source lends it: it ends with the callback it was given to.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The bytes that were captured. Empty when the source could make no Ethernet frame of them: `undecodable`.
    pub bytes: &'a [u8],
    /// Length on the wire (or in the host, for a super-frame), in bytes; larger than `bytes` when the capture cut it.
    pub wire_len: u32,
    /// When it was captured.
    pub timestamp: Timestamp,
    /// Which way it went, where the source can tell.
    pub direction: Option<Direction>,
    /// Which of the session's interfaces it was seen on: an index into the session's interface list.
    pub interface: InterfaceId,
    /// The stream of the tunnel that it came out of, where that has an account of its own.
    pub origin: Option<&'a Origin>,
    /// What the host's offloads may have left unfinished.
    pub offload: Offload,
    /// Whether the source put back a VLAN tag that the kernel or the NIC had taken out.
    pub has_restored_tag: bool,
    /// Why the frame ends here already: what a source finds out that no stage behind it could. `bytes` is then empty.
    pub refused: Option<DropReason>,
}

/// Position of an interface in the session's list; a file is interface 0 of its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InterfaceId(pub u16);

/// Where a source sees its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// At an interface of the network namespace that farspan's tunnels leave from.
    Here(Ifindex),
    /// At an interface of another network namespace.
    Elsewhere,
    /// At all interfaces of a network namespace: `any`.
    Several,
    /// Somewhere else, at another time: in a capture file, or inside tunnels that others send.
    #[default]
    Recorded,
}

/// A stream of tunnelled frames: what one sender sends with one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its number, which no other stream of the session has. Numbers are not given out one after the other.
    pub number: u32,
    /// Whose outer packets these are.
    pub sender: IpAddr,
    /// What they are.
    pub encapsulation: Tunnel,
    /// VNI, key or session id; `None` where the packets have none.
    pub id: Option<u32>,
}

/// What is known about segmentation and checksum offload of a captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// The bytes are what the wire carried, or what somebody recorded: left byte for byte.
    Whole,
    /// The kernel told exactly what the hardware was to finish.
    Exact(Unfinished),
    /// The frame comes from a host's stack, and nothing tells what the hardware was to finish. It is recognised: an IP
    /// packet over the interface's `mtu` is a super-frame, a checksum field that holds the pseudo-header sum is
    /// partial.
    Unknown {
        /// MTU of the interface the frame was seen on.
        mtu: Mtu,
    },
}

/// What a host left to its hardware, as the kernel's `virtio_net_hdr` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// The frame is a super-frame, to be cut into segments with so many payload bytes (`gso_size`).
    pub segment: Option<NonZeroU16>,
    /// A checksum that is still partial.
    pub checksum: Option<At>,
}

/// Where a partial checksum is: it covers everything from `start` to the end of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// First byte that is summed: the transport header. Counts from the frame's first byte.
    pub start: u16,
    /// Where the 16-bit field lies behind `start`.
    pub offset: u16,
}

/// A frame as the wire carried it: a rewritten head, if anything had to be rewritten, and a borrowed body.
#[derive(Clone, Copy, Debug)]
pub struct WireFrame<'a> {
    /// Rewritten first bytes. Empty when the frame is untouched; otherwise whole headers up to the transport payload.
    pub head: &'a [u8],
    /// The rest, borrowed from the source.
    pub body: &'a [u8],
    /// Length on the wire in bytes; larger than head and body together when the frame was cut.
    pub wire_len: u32,
    /// Where the headers lie, counted over head and body together.
    pub layers: Layers,
    /// Symmetric hash of the flow: both directions have the same.
    pub flow: FlowHash,
    /// When it was captured.
    pub timestamp: Timestamp,
    /// Which way it went, where known.
    pub direction: Option<Direction>,
    /// Which of the session's interfaces it was seen on.
    pub interface: InterfaceId,
    /// The stream of the tunnel that it came out of, where that has an account of its own.
    pub origin: Option<&'a Origin>,
}

impl<'a> WireFrame<'a> {
    /// At most the first `keep` bytes of the frame, which keeps the length that it had on the wire.
    #[must_use]
    pub fn truncated(&self, keep: usize) -> Self {
        let head = &self.head[..keep.min(self.head.len())];
        let body = &self.body[..(keep - head.len()).min(self.body.len())];
        Self { head, body, ..*self }
    }

    /// A frame that was cut out of this one and is whole in itself: `head` and `body`, with `packet` in it.
    #[must_use]
    pub fn piece<'p>(&self, head: &'p [u8], body: &'p [u8], packet: Ip) -> WireFrame<'p>
    where
        'a: 'p,
    {
        let wire_len = u32::try_from(head.len() + body.len()).unwrap_or(u32::MAX);
        WireFrame { head, body, wire_len, layers: Layers { ip: Some(packet), ..self.layers }, ..*self }
    }

    /// Bytes that will be mirrored.
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether nothing would be mirrored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the frame is shorter than it was on the wire.
    pub fn is_truncated(&self) -> bool {
        self.len() < self.wire_len as usize
    }

    /// Copies the frame to the start of `out`, which must have room for [`len`](Self::len) bytes.
    pub fn copy_to(&self, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(self.head.len());
        // Most frames have none, and to copy nothing is a call all the same.
        if !self.head.is_empty() {
            head.copy_from_slice(self.head);
        }
        rest[..self.body.len()].copy_from_slice(self.body);
    }
}

/// Frames for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Frame, InterfaceId, Offload};
    use crate::quantity::Timestamp;

    /// A whole frame of the first interface, captured at the beginning of time.
    pub(crate) const fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame {
            bytes,
            #[allow(clippy::cast_possible_truncation, reason = "`try_from` cannot be const")]
            wire_len: bytes.len() as u32,
            timestamp: Timestamp::from_nanos(0),
            direction: None,
            interface: InterfaceId(0),
            origin: None,
            offload: Offload::Whole,
            has_restored_tag: false,
            refused: None,
        }
    }
}
