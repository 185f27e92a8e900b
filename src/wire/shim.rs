//! Headers that may stand between Ethernet (with its VLAN tags) and IP. [`Layers`](super::layers::Layers) reads through them, so
//! that flow hash, checksums, segmentation and splitting see the packet behind them.
//!
//! | header | EtherType | source | length field |
//! |---|---|---|---|
//! | MPLS labels, also a pseudowire with Ethernet | 0x8847, 0x8848 | RFC 3032, RFC 4385, RFC 4448 | |
//! | `PPPoE` session and PPP | 0x8864 | RFC 2516 section 4, RFC 1661 section 2 | yes |
//! | LLC, LLC with SNAP | below 0x0600: a length | IEEE 802.3 section 3.2.6, IEEE 802.2, RFC 1042 | yes |
//! | VN-tag | 0x8926 | Cisco; Wireshark's `packet-vntag.c` | |
//! | E-tag | 0x893f | IEEE 802.1BR section 11 | |
//! | Cisco metadata (CMD, security group tag) | 0x8909 | Wireshark's `packet-cisco-metadata.c` | |
//! | I-tag of provider backbone bridges | 0x88e7 | IEEE 802.1ah, IEEE 802.1Q section 9.7 | |
//! | network service header | 0x894f | RFC 8300 section 2 | |
//! | `FabricPath` | 0x8903 | Cisco; 16 bits of forwarding tag and TTL, then Ethernet | |
//! | TRILL | 0x22f3 | RFC 6325 section 3 | |
//! | time stamps of Arista switches | 0xd28b | Arista EOS manual, TAP Aggregation | |
//!
//! `MACsec` (0x88e5) is not read: its check value covers the frame as it is.

use super::edit::put;
use super::ethernet::{self, VLAN_TAG_LEN, is_vlan};
use super::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, u16_at};

const MPLS: u16 = 0x8847;
const MPLS_UPSTREAM: u16 = 0x8848;
const PPPOE_SESSION: u16 = 0x8864;
const VN_TAG: u16 = 0x8926;
const E_TAG: u16 = 0x893f;
const CISCO_METADATA: u16 = 0x8909;
const I_TAG: u16 = 0x88e7;
const NETWORK_SERVICE: u16 = 0x894f;
const FABRIC_PATH: u16 = 0x8903;
const TRILL: u16 = 0x22f3;
const ARISTA_TIME: u16 = 0xd28b;
/// The largest length of an IEEE 802.3 frame; 0x0600 is the least `EtherType`.
const LONGEST: u16 = 1500;

/// Headers that are read one behind the other, VLAN tags between them included.
const MOST: usize = 12;
/// Headers with a length field among them.
const MOST_LENGTHS: usize = 4;
/// Labels of one stack.
const MOST_LABELS: usize = 16;

/// The length fields in front of an IP packet, to be rewritten when the packet becomes another length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lengths {
    /// Where each stands, and what it held.
    fields: [(usize, u16); MOST_LENGTHS],
    count: usize,
    /// Where the packet ended.
    end: usize,
}

impl Lengths {
    /// The length fields in `headers`, which begin with the Ethernet header, in front of the packet that starts at `start` and
    /// ends at `end`.
    pub fn of(headers: &[u8], start: usize, end: usize) -> Self {
        if start == ethernet::HEADER_LEN {
            return Self::default();
        }
        let mut lengths = Self { end, ..Self::default() };
        let Some(ethertype) = u16_at(headers, ethernet::HEADER_LEN - 2) else { return lengths };
        walk(headers, ethertype, ethernet::HEADER_LEN, &mut lengths);
        lengths
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Writes the lengths for a packet that ends at `end`. One that was wrong stays wrong by the same difference.
    pub fn write(&self, headers: &mut [u8], end: usize) {
        for &(at, value) in self.fields.iter().take(self.count) {
            // A length that 16 bits cannot tell wraps, as the field did.
            let [.., high, low] = self.end.wrapping_sub(end).to_be_bytes();
            put(headers, at, value.wrapping_sub(u16::from_be_bytes([high, low])));
        }
    }

    fn push(&mut self, headers: &[u8], at: usize) -> Option<()> {
        *self.fields.get_mut(self.count)? = (at, u16_at(headers, at)?);
        self.count += 1;
        Some(())
    }
}

/// Where the IP packet behind shim headers begins, and its `EtherType`. `ethertype` is that of what stands at `at`.
pub(super) fn to_ip(frame: &[u8], ethertype: u16, at: usize) -> Option<(u16, usize)> {
    walk(frame, ethertype, at, &mut Lengths::default())
}

fn walk(frame: &[u8], mut ethertype: u16, mut at: usize, lengths: &mut Lengths) -> Option<(u16, usize)> {
    for _ in 0..MOST {
        (ethertype, at) = match ethertype {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => return Some((ethertype, at)),
            tag if is_vlan(tag) => behind(frame, at, VLAN_TAG_LEN - 2)?,
            MPLS | MPLS_UPSTREAM => behind_labels(frame, at)?,
            PPPOE_SESSION => {
                const LENGTH: usize = 4;
                const HEADER: usize = 6;
                lengths.push(frame, at + LENGTH)?;
                (ethertype_of_ppp(u16_at(frame, at + HEADER)?)?, at + HEADER + 2)
            }
            VN_TAG => behind(frame, at, 4)?,
            E_TAG => behind(frame, at, 6)?,
            // Version and length; the length counts words behind them, without the EtherType.
            CISCO_METADATA => behind(frame, at, 2 + 4 * usize::from(*frame.get(at + 1)?))?,
            // Four bytes of tag, two addresses.
            I_TAG => behind(frame, at, 4 + 12)?,
            NETWORK_SERVICE => behind_service_header(frame, at)?,
            FABRIC_PATH => behind(frame, at, 2 + 12)?,
            TRILL => {
                let options = usize::from(u16_at(frame, at)? >> 6 & 0x1f) * 4;
                behind(frame, at, 6 + options + 12)?
            }
            ARISTA_TIME => match u16_at(frame, at + 2)? {
                // 48 bits of time instead of 64.
                0x20 | 0x0120 => behind(frame, at, 4 + 6)?,
                _ => behind(frame, at, 4 + 8)?,
            },
            ..=LONGEST => {
                // A frame without an Ethernet header has no length either.
                lengths.push(frame, at.checked_sub(2)?)?;
                behind_llc(frame, at)?
            }
            _ => return None,
        };
    }
    None
}

/// The `EtherType` that stands `distance` bytes behind `at`, and where it ends.
fn behind(frame: &[u8], at: usize, distance: usize) -> Option<(u16, usize)> {
    let at = at + distance;
    Some((u16_at(frame, at)?, at + 2))
}

/// Behind the bottom of the label stack nothing says what follows; only IP begins with a version.
fn behind_labels(frame: &[u8], mut at: usize) -> Option<(u16, usize)> {
    const ADDRESSES: usize = 12;
    for _ in 0..MOST_LABELS {
        let is_bottom = frame.get(at + 2)? & 1 != 0;
        at += 4;
        if is_bottom {
            let is_ethernet = |at: usize| {
                let ethertype = u16_at(frame, at + ADDRESSES);
                ethertype.is_some_and(|kind| matches!(kind, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) || is_vlan(kind))
            };
            return match frame.get(at)? >> 4 {
                4 if has_ipv4(frame, at) => Some((ETHERTYPE_IPV4, at)),
                6 if has_ipv6(frame, at) => Some((ETHERTYPE_IPV6, at)),
                // RFC 4385: the control word of a pseudowire.
                0 if is_ethernet(at + 4) => behind(frame, at + 4, ADDRESSES),
                _ if is_ethernet(at) => behind(frame, at, ADDRESSES),
                _ => None,
            };
        }
    }
    None
}

/// Whether header and length are those of IPv4: a pseudowire's MAC address may begin with a 4.
fn has_ipv4(frame: &[u8], at: usize) -> bool {
    let header = frame.get(at).map_or(0, |first| usize::from(first & 0x0f) * 4);
    // A super-frame has no length, or a cut frame fewer bytes.
    header >= 20 && u16_at(frame, at + 2).is_some_and(|length| length == 0 || usize::from(length) >= header)
}

fn has_ipv6(frame: &[u8], at: usize) -> bool {
    frame.len() >= at + 40
}

fn ethertype_of_ppp(protocol: u16) -> Option<u16> {
    match protocol {
        0x0021 => Some(ETHERTYPE_IPV4),
        0x0057 => Some(ETHERTYPE_IPV6),
        0x0281 => Some(MPLS),
        _ => None,
    }
}

/// RFC 8300 section 2.2: six bits count words, the fourth byte is the next protocol.
fn behind_service_header(frame: &[u8], at: usize) -> Option<(u16, usize)> {
    let length = usize::from(frame.get(at + 1)? & 0x3f) * 4;
    match frame.get(at + 3)? {
        1 => Some((ETHERTYPE_IPV4, at + length)),
        2 => Some((ETHERTYPE_IPV6, at + length)),
        3 => behind(frame, at + length, 12),
        5 => Some((MPLS, at + length)),
        _ => None,
    }
}

/// RFC 1042: SNAP with an organisation of 0, or 802.2's own number for IP.
fn behind_llc(frame: &[u8], at: usize) -> Option<(u16, usize)> {
    const IP: [u8; 3] = [0x06, 0x06, 0x03];
    match frame.get(at..at + 3)? {
        [0xaa, 0xaa, 0x03] => match frame.get(at + 3..at + 6)? {
            [0, 0, 0 | 0xf8] => behind(frame, at, 6),
            _ => None,
        },
        llc if llc == IP => Some((ETHERTYPE_IPV4, at + 3)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::Layers;
    use super::super::nesting::Walk;
    use super::*;

    const IPV4: [u8; 28] = [
        0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
        0, 53, 0, 53, 0, 8, 0, 0, // UDP
    ];

    /// Everything between the MAC addresses and the packet.
    fn shims() -> Vec<(&'static str, Vec<u8>, usize)> {
        let macs = [2; 12];
        vec![
            ("MPLS", vec![0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64], 0),
            ("pseudowire with control word", [&[0x88, 0x47, 0, 1, 1, 64, 0, 0, 0, 0][..], &macs, &[8, 0]].concat(), 0),
            ("pseudowire", [&[0x88, 0x48, 0, 1, 1, 64][..], &macs, &[0x81, 0, 0, 7, 8, 0]].concat(), 0),
            ("PPPoE", vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21], 1),
            ("tag and PPPoE", vec![0x81, 0, 0, 7, 0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21], 1),
            ("PPPoE with MPLS", vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 34, 0x02, 0x81, 0, 1, 1, 64], 1),
            ("SNAP", vec![0, 36, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0], 1),
            ("LLC", vec![0, 31, 6, 6, 3], 1),
            ("VN-tag", vec![0x89, 0x26, 0, 1, 0, 2, 8, 0], 0),
            ("VN-tag and VLAN tag", vec![0x89, 0x26, 0, 1, 0, 2, 0x81, 0, 0, 7, 8, 0], 0),
            ("E-tag", vec![0x89, 0x3f, 0, 1, 0, 2, 0, 0, 8, 0], 0),
            ("CMD", vec![0x89, 0x09, 1, 1, 0, 1, 0, 7, 8, 0], 0),
            ("I-tag", [&[0x88, 0xe7, 0, 0, 0, 7][..], &macs, &[8, 0]].concat(), 0),
            ("NSH", vec![0x89, 0x4f, 0x0f, 0xc2, 2, 1, 0, 0, 7, 1], 0),
            ("FabricPath", [&[0x89, 0x03, 0, 1][..], &macs, &[8, 0]].concat(), 0),
            ("TRILL", [&[0x22, 0xf3, 0, 0x41, 0, 1, 0, 2, 1, 2, 3, 4][..], &macs, &[8, 0]].concat(), 0),
            ("Arista", [&[0xd2, 0x8b, 0, 1, 0, 0x10][..], &[9; 8], &[8, 0]].concat(), 0),
        ]
    }

    #[test]
    fn the_packet_behind_every_header_is_found() {
        for (name, shim, lengths) in shims() {
            let frame = [&[2; 12][..], &shim, &IPV4].concat();
            let start = 12 + shim.len();
            let packet = Layers::parse(&frame).ip.unwrap_or_else(|| panic!("{name}"));
            assert_eq!((packet.start, packet.end, packet.payload), (start, start + 28, Some(start + 28)), "{name}");
            let found = Lengths::of(&frame, start, packet.end);
            assert_eq!(found.count, lengths, "{name}");
            let mut shorter = frame.clone();
            found.write(&mut shorter, packet.end - 3);
            for &(at, value) in found.fields.iter().take(found.count) {
                assert_eq!(u16_at(&shorter, at), Some(value - 3), "{name}");
            }
            // However much of it is missing, nothing is read beyond.
            for length in 0..frame.len() {
                let _ = Layers::parse(&frame[..length]);
            }
        }
    }

    /// Else a loop behind such a header would be none to the search for tunnels inside each other.
    #[test]
    fn r01_the_walk_through_tunnels_begins_with_the_same_packet() {
        let shims = shims().into_iter().map(|(name, shim, _)| (name, shim));
        let others = [
            ("CMD of another length", vec![0x89, 0x09, 1, 2, 0, 1, 0, 7, 0, 2, 0, 8, 8, 0]),
            ("SNAP of a bridge", vec![0, 36, 0xaa, 0xaa, 3, 0, 0, 0xf8, 8, 0]),
        ];
        for (name, shim) in shims.chain(others) {
            let frame = [&[2; 12][..], &shim, &IPV4].concat();
            let packet = Layers::parse(&frame).ip.unwrap_or_else(|| panic!("{name}"));
            assert_eq!(Walk::new(&frame).next().map(|level| level.packet), Some(packet), "{name}");
        }
    }

    #[test]
    fn what_is_no_ip_stays_none() {
        for ethertype in [0x0806_u16, 0x88cc, 0x8863, 0x88e5, 0x0600, 0x0026] {
            let frame = [&[2; 12][..], &ethertype.to_be_bytes(), &[0x42, 0x42, 3], &[0; 60]].concat();
            assert_eq!(Layers::parse(&frame).ip, None, "{ethertype:#06x}");
        }
    }
}
