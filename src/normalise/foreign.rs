//! What the offloads of other systems than Linux leave undone in recorded frames.
//!
//! Windows and macOS hand their hardware IPv4 headers whose checksum is zero, and Windows frames for large send offload whose
//! total length is zero as well. Linux always computes the header checksum. Zero is taken for unfinished where it is not
//! right; any other wrong checksum stays.

use super::checksum::Finish;
use crate::wire::edit::{finish_ipv4, lacks_ipv4_checksum, write_length};
use crate::wire::layers::{Ip, IpVersion, TCP, UDP, u16_at};

/// Frames up to this length may be padded: where their packet ends only its length tells. In bytes, without check sequence.
const PADDED: usize = 60;

/// An IPv4 header that is not finished.
pub(super) struct Ipv4 {
    packet: Ip,
    /// Whether the total length is 0.
    lacks_length: bool,
}

impl Ipv4 {
    /// The header of `packet`, the outermost of `frame`, if its checksum or its length was left to the hardware.
    pub(super) fn left_undone(frame: &[u8], packet: &Ip) -> Option<Self> {
        if packet.version != IpVersion::V4 {
            return None;
        }
        let lacks_length = u16_at(frame, packet.start + 2)? == 0
            && matches!(packet.protocol, TCP | UDP)
            && frame.len() > PADDED
            && u16::try_from(frame.len() - packet.start).is_ok();
        (lacks_length || lacks_ipv4_checksum(frame, packet)).then_some(Self { packet: *packet, lacks_length })
    }

    /// How many bytes of the frame are rewritten, together with the transport checksum of `finish`.
    pub(super) fn headers(&self, finish: Option<&Finish>) -> usize {
        finish.map_or(self.packet.payload.unwrap_or(self.packet.transport), |finish| finish.headers)
    }

    /// Writes the length, and a checksum that was zero. A wrong one stays as wrong as it is.
    pub(super) fn finish(&self, head: &mut [u8]) {
        let lacks_checksum = lacks_ipv4_checksum(head, &self.packet);
        if self.lacks_length {
            write_length(head, &self.packet, self.packet.end);
        }
        if lacks_checksum {
            finish_ipv4(head, &self.packet);
        }
    }
}
