//! Finds the checksum that a host left to its hardware.
//!
//! Linux writes the sum of the pseudo header into the field (`CHECKSUM_PARTIAL`, include/linux/skbuff.h) and expects the
//! hardware to add the rest. A tap sees the frame before that. Per frame at most one checksum is unfinished: with
//! tunnels it is the innermost one that can be summed later, because the outer one can be known without the payload
//! (local checksum offload: it is already that of the finished packet).

use crate::frame::At;
use crate::wire::checksum::{ChecksumError, Sum};
use crate::wire::edit::{as_sent, checksum_field};
use crate::wire::layers::{Fragment, Ip, SCTP, TCP, UDP, u16_at};
use crate::wire::nested::from_outermost;

/// A checksum to be written.
pub(super) struct Finish {
    /// Where the payload of the transport header with the field begins, in the frame.
    pub(super) headers: usize,
    /// Where the field is.
    pub(super) field: usize,
    /// What belongs there.
    pub(super) checksum: u16,
}

/// The unfinished checksum of `frame`, in its packet `outermost` or in one inside it.
///
/// The payload is only summed when a field holds the pseudo-header sum. By chance one frame in 65,536 does so with a
/// checksum that is right, and is left alone.
///
/// `foreign`: the field may also hold the sum without the length, as NDIS wants it for large send offload.
pub(super) fn unfinished(frame: &[u8], outermost: Ip, foreign: bool) -> Option<Finish> {
    let (level, checksum) = from_outermost(frame, outermost).enumerate().find_map(|(level, packet)| {
        let partial = Partial::of(frame, &packet, foreign)?;
        Some((level, partial.finish(frame, &packet)?))
    })?;
    // An outer checksum that is right for the bytes as they are says that they went over the wire like this.
    let is_confirmed = from_outermost(frame, outermost)
        .take(level)
        .any(|outer| udp_sum(frame, &outer).is_some_and(|sum| sum.error() == ChecksumError::NONE));
    (!is_confirmed).then_some(checksum)
}

/// The checksum that the kernel told to be unfinished, `at` an offset of `frame`.
///
/// The field holds what the hardware is to add to the sum of everything from the transport header on. Not for SCTP,
/// whose checksum is a `CRC32c` (RFC 9260 section 6.8).
pub(super) fn at(frame: &[u8], outermost: Option<Ip>, at: At) -> Option<Finish> {
    let (start, field) = (usize::from(at.start), usize::from(at.start) + usize::from(at.offset));
    let packet =
        outermost.and_then(|outermost| from_outermost(frame, outermost).find(|packet| packet.transport == start));
    let protocol = packet.map_or(TCP, |packet| packet.protocol);
    if protocol == SCTP {
        return None;
    }
    let checksum = as_sent(protocol, Sum::of(frame.get(start..)?).checksum());
    let headers = packet.and_then(|packet| packet.payload).unwrap_or(field + 2);
    Some(Finish { headers, field, checksum })
}

/// A checksum field that holds the sum of the pseudo header.
struct Partial {
    field: usize,
    headers: usize,
    pseudo_header: Sum,
    /// The length that is not in the field: 0 where it is.
    missing: u16,
}

impl Partial {
    fn of(frame: &[u8], packet: &Ip, foreign: bool) -> Option<Self> {
        let (field, headers) = (checksum_field(packet)?, packet.payload?);
        if packet.fragment != Fragment::Whole || headers > packet.end || packet.end > frame.len() {
            return None;
        }
        let length = packet.end - packet.transport;
        let pseudo_header = Sum::pseudo_header(packet, frame, packet.protocol, length);
        let is_in_field = |sum: Sum| u16_at(frame, field) == Some(sum.fold());
        let missing = if is_in_field(pseudo_header) {
            0
        } else if foreign && is_in_field(Sum::pseudo_header(packet, frame, packet.protocol, 0)) {
            u16::try_from(length).ok()?
        } else {
            return None;
        };
        let agrees = packet.protocol != UDP || usize::from(u16_at(frame, packet.transport + 4)?) == length;
        agrees.then_some(Self { field, headers, pseudo_header, missing })
    }

    /// The right checksum, unless it is there already.
    fn finish(&self, frame: &[u8], packet: &Ip) -> Option<Finish> {
        let segment = Sum::of(frame.get(packet.transport..packet.end)?);
        if self.pseudo_header.then(segment).error() == ChecksumError::NONE {
            return None;
        }
        // The field holds the pseudo header's sum already: that is what the host put it there for.
        let whole = Sum::of(&self.missing.to_be_bytes()).then(segment);
        let checksum = as_sent(packet.protocol, whole.checksum());
        Some(Finish { headers: self.headers, field: self.field, checksum })
    }
}

/// The sum of a UDP packet with a checksum.
fn udp_sum(frame: &[u8], packet: &Ip) -> Option<Sum> {
    let has_checksum = packet.protocol == UDP && u16_at(frame, packet.transport + 6)? != 0;
    let segment = frame.get(packet.transport..packet.end).filter(|_| has_checksum)?;
    Some(Sum::pseudo_header(packet, frame, UDP, segment.len()).then_bytes(segment))
}
