//! Recognises super-frames: packets longer than the MTU of the interface that they were seen on, which therefore no
//! wire has carried.
//!
//! What a tap sees on Linux 6.18 (veth, and the kernel's vxlan device over it, default offloads, 2026): the IP total
//! length is that of the super-frame, at every level; TCP and outer UDP checksums hold the pseudo-header sum for the
//! super-frame's length; a UDP datagram that was sent with `UDP_SEGMENT` looks like one long datagram, and nothing in
//! it tells where it will be cut.

use crate::frame::WireFrame;
use crate::quantity::Mtu;
use crate::wire::layers::{Ip, IpVersion, Layers};
use crate::wire::nested::Nested;
use crate::wire::segment::{HeaderBuffer, Partial, Segmenter};

/// Whether no interface with this `mtu` can have sent or received the frame as it is.
///
/// An IP packet tells its length, so that tags and padding do not matter. Of anything else the bytes behind the tags
/// are counted, with room for what drivers let through above the MTU: two labels or tags, or a check sequence.
pub(super) fn is_super_frame(frame: &WireFrame<'_>, mtu: Mtu) -> bool {
    const TOLERANCE: usize = 8;
    let mtu = mtu.value() as usize;
    match frame.layers.ip {
        Some(packet) => with_end(packet, frame).end.saturating_sub(packet.start) > mtu,
        None => (frame.wire_len as usize).saturating_sub(frame.layers.network) > mtu + TOLERANCE,
    }
}

/// Cuts a super-frame into segments that fill `mtu`, and returns how many. `None`, before the first, when it cannot be
/// known what the wire carried: it is not TCP, it was cut by the capture, its headers do not fit `buffer`.
pub(super) fn segment(
    frame: &WireFrame<'_>,
    mtu: Mtu,
    buffer: &mut HeaderBuffer,
    mut each: impl FnMut(WireFrame<'_>),
) -> Option<u64> {
    if frame.is_truncated() {
        return None;
    }
    let outermost = with_end(frame.layers.ip?, frame);
    let nested = Nested::within(frame.body, outermost);
    let (headers, payload) = frame.body.split_at_checked(nested.packets().last()?.payload?)?;
    let segmenter = Segmenter::new(buffer, headers, payload, nested, Partial::Unfinished)?;
    segmenter.cut(outermost.start + mtu.value() as usize, |head, body, packet| {
        let layers = Layers { ip: Some(packet), ..frame.layers };
        each(WireFrame { head, body, wire_len: wire_len(head, body), layers, ..*frame });
    })
}

/// The packet with its real end: one that is too long for its length field has 0 there. With IPv6 only a jumbo option
/// makes that plain, which not every kernel adds.
fn with_end(packet: Ip, frame: &WireFrame<'_>) -> Ip {
    let is_empty_ipv6 = packet.version == IpVersion::V6 && packet.end == packet.start + 40;
    let end = frame.wire_len as usize;
    let is_too_long = end > packet.start + 40 + usize::from(u16::MAX);
    if is_empty_ipv6 && is_too_long { Ip { end, ..packet } } else { packet }
}

/// A frame's length on the wire.
fn wire_len(head: &[u8], body: &[u8]) -> u32 {
    u32::try_from(head.len() + body.len()).unwrap_or(u32::MAX)
}
