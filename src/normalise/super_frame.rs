//! Recognises super-frames: packets longer than the MTU of the interface that they were seen on, which therefore no
//! wire has carried.
//!
//! What a tap sees on Linux 6.18 (veth, and the kernel's vxlan device over it, default offloads, 2026): the IP total
//! length is that of the super-frame, at every level, except on devices with `tx-gso-partial`, where headers have the
//! lengths of one segment (Documentation/networking/segmentation-offloads.rst, "Partial Generic Segmentation Offload");
//! TCP and outer UDP checksums hold the pseudo-header sum for the super-frame's length; datagrams that were sent with `UDP_SEGMENT` look like one long datagram. Where that will be cut
//! only its payload can tell, and of what is common only tunnel packets do.

use std::ops::ControlFlow;

use super::admission::Admission;
use crate::frame::WireFrame;
use crate::ledger::DropReason;
use crate::quantity::Mtu;
use crate::wire::edit::HeaderBuffer;
use crate::wire::ethernet::MOST_TRAILER;
use crate::wire::layers::{Ip, TCP, UDP};
use crate::wire::nested::Nested;
use crate::wire::segment::{Partial, Segmenter};

/// Whether no interface with this `mtu` can have sent or received the frame as it is.
///
/// An IP packet tells its length, so that tags and padding do not matter; one that claims more than its frame has is
/// broken, not long. Of anything else, and of a packet with more behind it than its frame can explain, the bytes behind the
/// tags are counted, with room for what drivers let through above the MTU: two labels or tags, or a check sequence.
pub(super) fn is_super_frame(frame: &WireFrame<'_>, mtu: Mtu) -> bool {
    const TOLERANCE: usize = 8;
    let (mtu, wire_len) = (mtu.value() as usize, frame.wire_len as usize);
    match frame.layers.ip {
        Some(packet) if !has_unexplained_trailer(frame, &packet) => {
            packet.end.min(wire_len).saturating_sub(packet.start) > mtu
        }
        _ => wire_len.saturating_sub(frame.layers.network) > mtu + TOLERANCE,
    }
}

/// Whether more bytes follow `packet` than padding and trailers can be: its headers have the lengths of one segment.
fn has_unexplained_trailer(frame: &WireFrame<'_>, packet: &Ip) -> bool {
    (frame.wire_len as usize).saturating_sub(packet.end) > MOST_TRAILER
}

/// Cuts a super-frame into segments that fill `mtu`, and returns how many. `foreign`: it may be another system's.
///
/// # Errors
/// Before the first segment: what `admission` says of so many; `Unsegmentable` when it cannot be known what the wire
/// carried, because it is neither TCP nor a run of tunnel datagrams, was cut by the capture, is longer than its headers say,
/// or has headers that do not fit `buffer`.
// Out of the way of the frames that are whole.
#[inline(never)]
pub(super) fn segment(
    frame: &WireFrame<'_>,
    (mtu, foreign): (Mtu, bool),
    admission: &Admission,
    buffer: &mut HeaderBuffer,
    each: impl FnMut(&WireFrame<'_>) -> ControlFlow<()>,
) -> Result<u64, DropReason> {
    let (segmenter, size) = recognised(frame, (mtu, foreign), buffer).ok_or(DropReason::Unsegmentable)?;
    admission.of_unknown(segmenter.pieces(size))?;
    Ok(segmenter.cut_payload(size, emit(frame, each)))
}

/// Cuts a super-frame into segments of `size` payload bytes, as the kernel told, and returns how many. `transport` is
/// where the transport header with the payload begins, when that was told too.
///
/// # Errors
/// Before the first segment: what `admission` says of so many of this size; `Unsegmentable` when the kernel's words do
/// not fit the bytes.
// Out of the way of the frames that are whole.
#[inline(never)]
pub(super) fn segment_exactly(
    frame: &WireFrame<'_>,
    size: usize,
    transport: Option<usize>,
    admission: &Admission,
    buffer: &mut HeaderBuffer,
    each: impl FnMut(&WireFrame<'_>) -> ControlFlow<()>,
) -> Result<u64, DropReason> {
    let (segmenter, size) = told(frame, size, transport, buffer).ok_or(DropReason::Unsegmentable)?;
    admission.of_told(segmenter.protocol(), size, segmenter.pieces(size), frame.timestamp)?;
    Ok(segmenter.cut_payload(size, emit(frame, each)))
}

/// A super-frame that nothing tells about, and how much payload fills `mtu`.
fn recognised<'s, 'a>(
    frame: &WireFrame<'a>,
    (mtu, foreign): (Mtu, bool),
    buffer: &'s mut HeaderBuffer,
) -> Option<(Segmenter<'s, 'a>, usize)> {
    let outermost = frame.layers.ip.filter(|packet| !has_unexplained_trailer(frame, packet))?;
    let (nested, limit) = boundaries(frame.body, outermost, outermost.start + mtu.value() as usize)?;
    let segmenter = segmenter(frame, nested, Partial::Unfinished { foreign }, buffer)?;
    let size = segmenter.size_within(limit)?;
    Some((segmenter, size))
}

/// A super-frame that the kernel tells about, and how much payload a segment has.
fn told<'s, 'a>(
    frame: &WireFrame<'a>,
    size: usize,
    transport: Option<usize>,
    buffer: &'s mut HeaderBuffer,
) -> Option<(Segmenter<'s, 'a>, usize)> {
    let nested = Nested::within(frame.body, frame.layers.ip?);
    let nested = match transport {
        Some(transport) => nested.down_to(transport)?,
        None => nested,
    };
    // The kernel cuts everything there is, whatever lengths the headers have (`skb_segment`).
    let nested = nested.ending_at(frame.body.len());
    let segmenter = segmenter(frame, nested, Partial::Told { innermost: transport.is_some() }, buffer)?;
    let size = segmenter.within_packet(size)?;
    Some((segmenter, size))
}

fn segmenter<'s, 'a>(
    frame: &WireFrame<'a>,
    nested: Nested,
    partial: Partial,
    buffer: &'s mut HeaderBuffer,
) -> Option<Segmenter<'s, 'a>> {
    let (headers, payload) = frame.body.split_at_checked(nested.packets().last()?.payload?)?;
    let whole = !frame.is_truncated();
    Segmenter::new(buffer, headers, payload, nested, partial).filter(|_| whole)
}

/// Makes wire frames of the pieces of `frame`.
fn emit(
    frame: &WireFrame<'_>,
    mut each: impl FnMut(&WireFrame<'_>) -> ControlFlow<()>,
) -> impl FnMut(&[u8], &[u8], Ip) -> ControlFlow<()> {
    move |head, body, packet| each(&frame.piece(head, body, packet))
}

/// Whose payload is cut, and where in the frame the first piece ends: at `full`, where a full packet would, for TCP.
fn boundaries(frame: &[u8], outermost: Ip, full: usize) -> Option<(Nested, usize)> {
    let nested = Nested::within(frame, outermost);
    match nested.packets() {
        [.., innermost] if innermost.protocol == TCP && innermost.end == outermost.end => Some((nested, full)),
        [_, first, ..] if first.end <= full && is_run_of_datagrams(frame, &outermost, first.end) => {
            Some((Nested::only(outermost), first.end))
        }
        _ => None,
    }
}

/// Whether the payload of `outermost` is a run of tunnel datagrams as `UDP_SEGMENT` sends them: all as long as the
/// first, which ends at `first_end`, only the last perhaps shorter, and each filled exactly by the packet inside.
fn is_run_of_datagrams(frame: &[u8], outermost: &Ip, first_end: usize) -> bool {
    let Some(start) = outermost.payload.filter(|_| outermost.protocol == UDP) else { return false };
    let size = first_end - start;
    (start..outermost.end).step_by(size.max(1)).all(|start| {
        let end = outermost.end.min(start + size);
        let datagram = Ip { end, payload: Some(start), ..*outermost };
        Nested::within(frame, datagram).packets().get(1).is_some_and(|inside| inside.end == end)
    })
}
