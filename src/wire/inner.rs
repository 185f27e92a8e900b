//! What stands behind a tunnel header: an Ethernet frame, or a packet without one. One rule for every encapsulation.
//!
//! The header says what follows, and the bytes have to agree:
//!
//! 1. The header says IP. A version nibble of 4 or 6 makes it IPv4 or IPv6, whichever of the two the header says. Bytes that are
//!    an Ethernet frame with IP are that. Anything else is refused.
//! 2. The header says Ethernet, or nothing. Bytes that are a whole IP packet and no Ethernet frame with IP are that packet:
//!    an IPv4 packet has a right header checksum and ends with the bytes or before; an IPv6 packet ends exactly with them. Anything
//!    else is an Ethernet frame.
//! 3. The header says MPLS: that is what it is.

use super::ParseError;
use super::checksum::Sum;
use super::ethernet::{HEADER_LEN, is_vlan};
use super::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Layers, u16_at};

/// `EtherType` of MPLS (RFC 5332): unicast, or downstream-assigned labels.
pub const ETHERTYPE_MPLS: u16 = 0x8847;
/// `EtherType` of MPLS with upstream-assigned labels.
pub const ETHERTYPE_MPLS_UPSTREAM: u16 = 0x8848;

/// What a tunnel header says about what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// An Ethernet frame; or nothing, and the encapsulation carries only those.
    Ethernet,
    /// An IP packet.
    Ip,
    /// An MPLS packet with this `EtherType`.
    Mpls(u16),
}

impl Says {
    /// What an `EtherType` as protocol type says. `None`: nothing that is taken off.
    pub(super) fn of_ethertype(protocol: u16) -> Option<Self> {
        match protocol {
            super::gre::TRANSPARENT_ETHERNET => Some(Self::Ethernet),
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Some(Self::Ip),
            ETHERTYPE_MPLS | ETHERTYPE_MPLS_UPSTREAM => Some(Self::Mpls(protocol)),
            _ => None,
        }
    }
}

/// The `EtherType` of the packet that `bytes` are; `None` when they are an Ethernet frame. `missing` bytes at their end were
/// cut. `header` names the header in front.
///
/// # Errors
/// When `bytes` are not what the header says, nor an Ethernet frame.
pub(super) fn ethertype_of(
    header: &'static str,
    says: Says,
    bytes: &[u8],
    missing: usize,
) -> Result<Option<u16>, ParseError> {
    match says {
        Says::Mpls(ethertype) => Ok(Some(ethertype)),
        _ if is_ethernet_with_ip(bytes) => Ok(None),
        Says::Ethernet if is_ipv4(bytes, missing) => Ok(Some(ETHERTYPE_IPV4)),
        Says::Ethernet if is_ipv6(bytes, missing) => Ok(Some(ETHERTYPE_IPV6)),
        Says::Ethernet => Ok(None),
        Says::Ip => match bytes.first().map_or(0, |first| first >> 4) {
            4 => Ok(Some(ETHERTYPE_IPV4)),
            6 => Ok(Some(ETHERTYPE_IPV6)),
            had => Err(ParseError::Unexpected { header, field: "inner IP version", needed: 4, had: had.into() }),
        },
    }
}

/// Whether the bytes can be an Ethernet frame at all: the type is an `EtherType`, or a length that the frame has (IEEE 802.3
/// section 3.2.6).
pub(super) fn can_be_ethernet(bytes: &[u8], missing: usize) -> bool {
    const LEAST_ETHERTYPE: u16 = 0x0600;
    const LONGEST: u16 = 1500;
    match u16_at(bytes, HEADER_LEN - 2) {
        Some(LEAST_ETHERTYPE..) => true,
        Some(length @ ..=LONGEST) => HEADER_LEN + usize::from(length) <= bytes.len() + missing,
        _ => false,
    }
}

/// Whether an EtherType of IP stands where Ethernet has it, also behind VLAN tags, and the version agrees.
fn is_ethernet_with_ip(bytes: &[u8]) -> bool {
    let mut at = HEADER_LEN - 2;
    while u16_at(bytes, at).is_some_and(is_vlan) {
        at += 4;
    }
    let version = bytes.get(at + 2).map(|first| first >> 4);
    matches!((u16_at(bytes, at), version), (Some(ETHERTYPE_IPV4), Some(4)) | (Some(ETHERTYPE_IPV6), Some(6)))
}

/// The same, or ARP's `EtherType` behind the VLAN tags.
pub(super) fn is_ethernet_with_ip_or_arp(bytes: &[u8]) -> bool {
    const ETHERTYPE_ARP: u16 = 0x0806;
    is_ethernet_with_ip(bytes) || Layers::parse(bytes).ethertype == ETHERTYPE_ARP
}

/// RFC 791 section 3.1.
fn is_ipv4(bytes: &[u8], missing: usize) -> bool {
    let Some(&first) = bytes.first().filter(|&first| first >> 4 == 4) else { return false };
    let header = usize::from(first & 0x0f) * 4;
    let length = u16_at(bytes, 2).map_or(0, usize::from);
    (20..=length).contains(&header)
        && length <= bytes.len() + missing
        && bytes.get(..header).is_some_and(|header| Sum::of(header).fold() == 0xffff)
}

/// RFC 8200 section 3.
fn is_ipv6(bytes: &[u8], missing: usize) -> bool {
    const HEADER: usize = 40;
    bytes.first().is_some_and(|first| first >> 4 == 6)
        && u16_at(bytes, 4).is_some_and(|length| HEADER + usize::from(length) == bytes.len() + missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_SUM_RIGHT: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0x40, 0, 64, 59, 0xb6, 0xab, 192, 0, 2, 1, 192, 0, 2, 2];

    fn verdict(says: Says, bytes: &[u8]) -> Result<Option<u16>, ParseError> {
        ethertype_of("VXLAN", says, bytes, 0)
    }

    #[test]
    fn headers_and_bytes_have_to_agree() {
        assert_eq!(Sum::of(&HEADER_SUM_RIGHT).fold(), 0xffff, "the vector is right");
        let mut wrong_sum = HEADER_SUM_RIGHT;
        wrong_sum[10] ^= 1;
        let ipv6 = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0x20; 32]].concat();
        let long_ipv6 = [&ipv6[..], &[0]].concat();
        let frame = [&[0x45; 12][..], &[0x08, 0x00], &HEADER_SUM_RIGHT].concat();
        let tagged = [&[2; 12][..], &[0x81, 0, 0, 7, 0x86, 0xdd], &ipv6].concat();
        let arp = [&[2; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        for (says, bytes, expected) in [
            (Says::Ethernet, &frame[..], Some(None)),
            (Says::Ethernet, &tagged, Some(None)),
            (Says::Ethernet, &arp, Some(None)),
            (Says::Ethernet, &HEADER_SUM_RIGHT, Some(Some(ETHERTYPE_IPV4))),
            (Says::Ethernet, &wrong_sum, Some(None)),
            (Says::Ethernet, &ipv6, Some(Some(ETHERTYPE_IPV6))),
            (Says::Ethernet, &long_ipv6, Some(None)),
            (Says::Ip, &wrong_sum, Some(Some(ETHERTYPE_IPV4))),
            (Says::Ip, &long_ipv6, Some(Some(ETHERTYPE_IPV6))),
            (Says::Ip, &frame, Some(None)),
            (Says::Ip, &arp, None),
            (Says::Ip, &[], None),
            (Says::Mpls(ETHERTYPE_MPLS), &[0, 1, 1, 64], Some(Some(ETHERTYPE_MPLS))),
        ] {
            assert_eq!(verdict(says, bytes).ok(), expected, "{says:?} {bytes:?}");
        }
    }
}
