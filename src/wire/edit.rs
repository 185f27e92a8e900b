//! Edits of IP and transport headers where they stand: lengths, checksums, identifications.
//!
//! What is not there is not written: whoever cuts a packet has checked before that all of it is.

use super::checksum::{ChecksumError, Sum, update};
use super::layers::{Ip, IpVersion, TCP, UDP, u16_at};

/// Room for the headers of one piece: four nested packets with tunnel options fit; what has more is not cut.
pub const MOST_HEADERS: usize = 512;

/// Buffer in which the headers of a piece are written.
pub type HeaderBuffer = [u8; MOST_HEADERS];

/// Where the checksum of TCP (RFC 9293) or UDP (RFC 768) is.
pub fn checksum_field(packet: &Ip) -> Option<usize> {
    match packet.protocol {
        TCP => Some(packet.transport + 16),
        UDP => Some(packet.transport + 6),
        _ => None,
    }
}

/// RFC 768: a UDP checksum that comes out as zero is sent as all ones, because zero says that there is none.
pub fn as_sent(protocol: u8, checksum: u16) -> u16 {
    if protocol == UDP && checksum == 0 { 0xffff } else { checksum }
}

/// Writes where the packet ends into its IP header.
pub fn write_length(headers: &mut [u8], packet: &Ip, end: usize) {
    match packet.version {
        IpVersion::V4 => replace_in_ipv4(headers, packet, 2, saturated(end - packet.start)),
        IpVersion::V6 => put(headers, packet.start + 4, saturated(end - packet.start - 40)),
    }
}

/// Where the IPv4 header checksum is in its header.
const IPV4_CHECKSUM: usize = 10;

/// Whether `packet` has an IPv4 header checksum of zero that is not right.
pub fn lacks_ipv4_checksum(headers: &[u8], packet: &Ip) -> bool {
    let is_wrong = |header| Sum::of(header).error() != ChecksumError::NONE;
    packet.version == IpVersion::V4
        && u16_at(headers, packet.start + IPV4_CHECKSUM) == Some(0)
        && headers.get(packet.start..packet.transport).is_some_and(is_wrong)
}

/// Writes the right IPv4 header checksum; does nothing to IPv6.
pub fn finish_ipv4(headers: &mut [u8], packet: &Ip) {
    if packet.version == IpVersion::V4 {
        put(headers, packet.start + IPV4_CHECKSUM, 0);
        let sum = Sum::of(headers.get(packet.start..packet.transport).unwrap_or_default());
        put(headers, packet.start + IPV4_CHECKSUM, sum.checksum());
    }
}

/// Puts `value` into the IPv4 header and corrects the header checksum, or leaves it as wrong as it is.
pub fn replace_in_ipv4(headers: &mut [u8], packet: &Ip, offset: usize, value: u16) {
    let (field, checksum) = (packet.start + offset, packet.start + IPV4_CHECKSUM);
    if let (Some(old), Some(sum)) = (u16_at(headers, field), u16_at(headers, checksum)) {
        put(headers, field, value);
        put(headers, checksum, update(sum, old, value));
    }
}

/// Writes a big-endian number, if there is room for it.
pub fn put(bytes: &mut [u8], offset: usize, value: u16) {
    if let Some(field) = bytes.get_mut(offset..offset + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// `number`, or the largest that 16 bits hold. Lengths of packets never are larger.
pub fn saturated(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
