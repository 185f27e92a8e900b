//! Which addresses the pseudo header of TCP and UDP has: not always those of the IP header.
//!
//! A packet that is source-routed carries the address of its next router as its destination; the checksum has that of its
//! final destination (RFC 9293 section 3.1 over RFC 791; RFC 8200 section 8.1). A mobile node writes its care-of address as
//! the source; the checksum has its home address (RFC 6275 section 6.3). Linux computes both so when it sends
//! (`tcp_v4_send_check`, `tcp_v6_send_check`: the socket's addresses).

use super::layers::{DESTINATION_OPTIONS, Ip, IpVersion, ROUTING};

/// Length of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// Source and destination address one after the other, 8 bytes for IPv4 and 32 for IPv6.
pub(super) struct Addresses {
    bytes: [u8; 32],
    length: usize,
}

impl Addresses {
    /// Both addresses.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Whether `packet` has options or extension headers, which may say something about addresses.
#[inline]
pub(super) fn has_more_headers(packet: &Ip) -> bool {
    let plain = match packet.version {
        IpVersion::V4 => IPV4_HEADER,
        IpVersion::V6 => IPV6_HEADER,
    };
    packet.transport != packet.start + plain
}

/// The addresses of the pseudo header of `packet`, a packet of `bytes`, with everything that its options and extension
/// headers say. What makes no sense there says nothing.
// Out of the way of the packets that have none.
#[cold]
#[inline(never)]
pub(super) fn addresses(packet: &Ip, bytes: &[u8]) -> Addresses {
    let (first, length) = match packet.version {
        IpVersion::V4 => (packet.start + 12, 8),
        IpVersion::V6 => (packet.start + 8, 32),
    };
    let mut addresses = Addresses { bytes: [0; 32], length };
    if let Some(header) = bytes.get(first..first + length) {
        addresses.bytes[..length].copy_from_slice(header);
    }
    match packet.version {
        IpVersion::V4 => {
            let options = bytes.get(packet.start + IPV4_HEADER..packet.transport).unwrap_or_default();
            if let Some(destination) = end_of_source_route(options) {
                addresses.bytes[4..8].copy_from_slice(&destination);
            }
        }
        IpVersion::V6 => {
            let extensions = bytes.get(packet.start + IPV6_HEADER..packet.transport).unwrap_or_default();
            let next = bytes.get(packet.start + 6).copied().unwrap_or_default();
            read_extensions(next, extensions, &mut addresses.bytes);
        }
    }
    addresses
}

/// The last address of a loose or strict source route (RFC 791 section 3.1) that has not been reached.
fn end_of_source_route(mut options: &[u8]) -> Option<[u8; 4]> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    loop {
        options = match options {
            [NO_OPERATION, rest @ ..] => rest,
            [LOOSE | STRICT, length, pointer, ..] => {
                // The pointer counts from 1, at the option's type; beyond the length the route has been followed.
                let route = options.get(3..usize::from(*length))?;
                return route.last_chunk().copied().filter(|_| pointer <= length);
            }
            [] | [END, ..] => return None,
            [_, length, ..] if *length >= 2 => options.get(usize::from(*length)..)?,
            _ => return None,
        };
    }
}

/// Puts what extension headers say into `addresses`: the source, 16 bytes, then the destination.
fn read_extensions(mut kind: u8, mut extensions: &[u8], addresses: &mut [u8; 32]) {
    const AUTHENTICATION: u8 = 51;
    while let [next, length, ..] = *extensions {
        let length = match kind {
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let Some((header, rest)) = extensions.split_at_checked(length) else { return };
        match kind {
            ROUTING => {
                let visited: [u8; 16] = addresses[16..].try_into().unwrap_or_default();
                if let Some(destination) = end_of_routing(header, visited) {
                    addresses[16..].copy_from_slice(&destination);
                }
            }
            DESTINATION_OPTIONS => {
                if let Some(home) = home_address(header) {
                    addresses[..16].copy_from_slice(&home);
                }
            }
            _ => {}
        }
        (kind, extensions) = (next, rest);
    }
}

/// The final destination that a routing header names whose segments are not all behind it; `visited` is the destination of
/// the IPv6 header.
fn end_of_routing(header: &[u8], visited: [u8; 16]) -> Option<[u8; 16]> {
    const ADDRESSES: usize = 8;
    /// Deprecated, RFC 5095; still what RFC 8200 section 4.4 describes.
    const SOURCE_ROUTE: u8 = 0;
    /// RFC 6275 section 6.4.
    const MOBILE: u8 = 2;
    /// RFC 6554 section 3.
    const RPL: u8 = 3;
    /// RFC 8754 section 2: the list is in reverse, its first entry is the last segment.
    const SEGMENT_ROUTING: u8 = 4;

    let &[_, length, kind, left, compression, padding, ..] = header else { return None };
    if left == 0 {
        return None;
    }
    match kind {
        SOURCE_ROUTE => {
            let addresses = header.get(ADDRESSES..)?.as_chunks::<16>().0;
            addresses.get((usize::from(length) / 2).checked_sub(1)?).copied()
        }
        MOBILE | SEGMENT_ROUTING => header.get(ADDRESSES..)?.first_chunk().copied(),
        RPL => {
            // Of the last address so many bytes of its beginning are left out, which are those of the destination.
            let (left_out, padding) = (usize::from(compression & 0x0f), usize::from(padding >> 4));
            let end = header.len().checked_sub(padding)?;
            let tail = header.get(end.checked_sub(16 - left_out)?.max(ADDRESSES)..end)?;
            let mut last = visited;
            last.get_mut(left_out..).filter(|rest| rest.len() == tail.len())?.copy_from_slice(tail);
            Some(last)
        }
        _ => None,
    }
}

/// The address in a Home Address option (RFC 6275 section 6.3) of a destination options header.
fn home_address(header: &[u8]) -> Option<[u8; 16]> {
    const PAD_1: u8 = 0;
    const HOME_ADDRESS: u8 = 201;
    let mut options = header.get(2..)?;
    loop {
        options = match options {
            [PAD_1, rest @ ..] => rest,
            [HOME_ADDRESS, 16, rest @ ..] => return rest.first_chunk().copied(),
            [_, length, rest @ ..] => rest.get(usize::from(*length)..)?,
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::Ip;
    use super::*;

    const CARE_OF: [u8; 16] = [0xca; 16];
    const NEXT: [u8; 16] = [0x4e; 16];
    const FINAL: [u8; 16] = [0xf1; 16];

    /// An IPv6 packet with these extension headers, each begun with its next header, in front of UDP.
    fn ipv6(first: u8, extensions: &[u8]) -> Vec<u8> {
        let length = u16::try_from(extensions.len() + 8).unwrap().to_be_bytes();
        [&[0x60, 0, 0, 0][..], &length, &[first, 64], &CARE_OF, &NEXT, extensions, &[0, 1, 0, 2, 0, 8, 0, 0]].concat()
    }

    fn of(packet: &[u8]) -> Vec<u8> {
        let parsed = Ip::parse(packet, 0).unwrap();
        assert!(has_more_headers(&parsed));
        addresses(&parsed, packet).bytes().to_vec()
    }

    fn routing(kind: u8, left: u8, words: [u8; 4], addresses: &[[u8; 16]]) -> Vec<u8> {
        let length = u8::try_from(addresses.len() * 2).unwrap();
        [&[17, length, kind, left][..], &words, &addresses.concat()].concat()
    }

    #[test]
    fn a_routing_header_names_the_final_destination() {
        let (to_final, to_next) = ([CARE_OF, FINAL].concat(), [CARE_OF, NEXT].concat());
        let other = [0x77; 16];
        for (header, expected) in [
            (routing(0, 2, [0; 4], &[other, FINAL]), &to_final),
            (routing(0, 0, [0; 4], &[other, FINAL]), &to_next),
            (routing(2, 1, [0; 4], &[FINAL]), &to_final),
            (routing(4, 1, [1, 0, 0, 0], &[FINAL, other]), &to_final),
            (routing(4, 0, [1, 0, 0, 0], &[FINAL, other]), &to_next),
            (routing(99, 1, [0; 4], &[FINAL]), &to_next),
        ] {
            assert_eq!(&of(&ipv6(43, &header)), expected, "{header:?}");
        }
        // RFC 6554: 14 bytes of each address are left out, 4 of padding fill the 8 bytes.
        let compressed = [17, 1, 3, 2, 0xee, 0x40, 0, 0, 1, 1, 2, 2, 0, 0, 0, 0];
        let last = [&CARE_OF[..], &NEXT[..14], &[2, 2]].concat();
        assert_eq!(of(&ipv6(43, &compressed)), last);
    }

    #[test]
    fn a_home_address_is_the_source() {
        let home = [0xee; 16];
        let option = [&[43, 2, 1, 2, 0, 0, 201, 16][..], &home].concat();
        let both = [option, routing(2, 1, [0; 4], &[FINAL])].concat();
        assert_eq!(of(&ipv6(60, &both)), [home, FINAL].concat());
        // Options of no meaning here, and one that is cut.
        assert_eq!(of(&ipv6(60, &[17, 0, 1, 4, 0, 0, 0, 0])), [CARE_OF, NEXT].concat());
        assert_eq!(of(&ipv6(60, &[17, 0, 1, 2, 0, 0, 201, 16])), [CARE_OF, NEXT].concat());
    }

    #[test]
    fn a_source_route_ends_at_the_final_destination() {
        let packet = |options: &[u8]| {
            let words = u8::try_from(5 + options.len() / 4).unwrap();
            let length = u8::try_from(20 + options.len() + 8).unwrap();
            let header =
                [&[0x40 | words, 0, 0, length, 0, 7, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..], options];
            [header.concat(), vec![0, 1, 0, 2, 0, 8, 0, 0]].concat()
        };
        let (next, end) = ([10, 0, 0, 1, 10, 0, 0, 2], [10, 0, 0, 1, 9, 9, 9, 9]);
        for (options, expected) in [
            (&[1, 131, 11, 4, 8, 8, 8, 8, 9, 9, 9, 9][..], end),
            (&[137, 7, 4, 9, 9, 9, 9, 0][..], end),
            (&[137, 7, 8, 9, 9, 9, 9, 0][..], next),
            (&[7, 7, 4, 9, 9, 9, 9, 0][..], next),
            (&[131, 255, 4, 9][..], next),
        ] {
            assert_eq!(of(&packet(options)), expected, "{options:?}");
        }
    }
}
