//! Frames of other link types become Ethernet: their own header is replaced by a synthetic Ethernet header.
//!
//! | link type | header | `EtherType` from | addresses from |
//! |---|---|---|---|
//! | Linux cooked v1, v2 | 16, 20 bytes | its protocol field | its link-layer address is the sender's; its packet type tells the direction |
//! | raw IP (also IPv4 only, IPv6 only) | none | the IP version | – |
//! | BSD loopback (NULL, LOOP) | 4 bytes | the address family | – |
//! | PPP, PPP in HDLC framing | 1 to 4 bytes | the protocol number: IP and MPLS; everything else stays PPP | – |
//! | PPP with a direction (`PPP_PPPD`, `PPP_WITH_DIR`) | 1 or 2 more | the same | – |
//! | PPP over Ethernet | none | its code: session or discovery | – |
//! | Cisco HDLC | 4 bytes, 5 with a direction | its protocol field | – |
//!
//! Addresses that the capture does not have are [`HOST`] for this host and [`PEER`] for everyone else; what was sent to a group goes to the broadcast address. A VLAN tag of a cooked frame stands behind
//! its protocol field, so that it comes out where Ethernet has it.
//!
//! Layouts: <https://www.tcpdump.org/linktypes.html>.

use pcap::Linktype;

use crate::quantity::Direction;
use crate::wire::ethernet::{self, HEADER_LEN, HOST, PEER};
use crate::wire::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, u16_at};

/// What can be mirrored, for messages.
pub(super) const SUPPORTED: &str = "Ethernet, Linux cooked (LINUX_SLL, LINUX_SLL2), raw IP (RAW, IPV4, IPV6), BSD loopback (NULL, LOOP), PPP (PPP, PPP_SERIAL, \
     PPP_ETHER, PPP_PPPD, PPP_WITH_DIR) and Cisco HDLC (C_HDLC)";

/// Largest frame that libpcap hands over (its `MAXIMUM_SNAPLEN`), in bytes.
pub(super) const LARGEST_FRAME: usize = 262_144;

const BROADCAST: [u8; 6] = [0xff; 6];

/// One captured frame as Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ethernet<'a> {
    /// The frame; empty when no Ethernet frame can be made of what was captured.
    pub bytes: &'a [u8],
    /// Its length on the wire, in bytes.
    pub wire_len: u32,
    /// Which way it went, where its own header told.
    pub direction: Option<Direction>,
}

/// Makes Ethernet frames of one capture's frames.
#[derive(Debug)]
pub(super) struct LinkLayer {
    kind: LinkKind,
    scratch: Scratch,
}

/// Where synthetic frames are put together; claimed once.
#[derive(Debug)]
pub(super) struct Scratch(Vec<u8>);

/// A link type of which Ethernet frames can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// Ethernet itself.
    Ethernet,
    /// `LINKTYPE_LINUX_SLL`.
    Cooked1,
    /// `LINKTYPE_LINUX_SLL2`.
    Cooked2,
    /// An IP packet, whose first byte tells the version.
    Raw,
    /// `LINKTYPE_NULL`, `LINKTYPE_LOOP`.
    Loopback,
    /// An IP packet of this `EtherType`.
    Ip(u16),
    /// `LINKTYPE_PPP`, `LINKTYPE_PPP_HDLC`: PPP with or without HDLC's address and control, or Cisco HDLC.
    Ppp,
    /// `LINKTYPE_PPP_WITH_DIR`: one byte with the direction, then as [`Ppp`](Self::Ppp).
    PppWithDirection,
    /// `LINKTYPE_PPP_PPPD`: the direction stands where HDLC has its address.
    PppOfPppd,
    /// `LINKTYPE_PPP_ETHER`: what Ethernet carries as PPP over Ethernet.
    PppOverEthernet,
    /// `LINKTYPE_C_HDLC`.
    CiscoHdlc,
    /// `LINKTYPE_C_HDLC_WITH_DIR`: one byte with the direction, then as [`CiscoHdlc`](Self::CiscoHdlc).
    CiscoHdlcWithDirection,
}

/// What the header of another link type says.
struct Replaced {
    header_len: usize,
    ethertype: u16,
    sender: Option<[u8; 6]>,
    to_group: bool,
    direction: Option<Direction>,
}

impl LinkLayer {
    /// For captures of this link type; `None` for one of which no Ethernet frames can be made.
    pub fn of(link_type: Linktype) -> Option<Self> {
        let kind = LinkKind::of(link_type)?;
        let scratch = if kind == LinkKind::Ethernet { Scratch(Vec::new()) } else { Scratch::new() };
        Some(Self { kind, scratch })
    }

    /// The link type.
    pub fn kind(&self) -> LinkKind {
        self.kind
    }

    /// Whether its frames are Ethernet by themselves.
    pub fn is_ethernet(&self) -> bool {
        self.kind == LinkKind::Ethernet
    }

    /// Whether its frames tell which way they went.
    pub fn tells_direction(&self) -> bool {
        matches!(self.kind, LinkKind::Cooked1 | LinkKind::Cooked2)
    }

    /// `captured` as an Ethernet frame. `wire_len` is its length before it was cut.
    pub fn ethernet<'a>(&'a mut self, captured: &'a [u8], wire_len: u32) -> Ethernet<'a> {
        self.kind.ethernet(captured, wire_len, &mut self.scratch)
    }
}

impl Scratch {
    /// Claims room for the largest frame with the longest synthetic header.
    pub fn new() -> Self {
        Self(Vec::with_capacity(LARGEST_FRAME + HEADER_LEN))
    }
}

impl LinkKind {
    /// For captures of this link type; `None` for one of which no Ethernet frames can be made.
    pub fn of(link_type: Linktype) -> Option<Self> {
        // libpcap has raw IP as 12 (DLT_RAW on Linux), files have it as 101 (LINKTYPE_RAW).
        Some(match link_type.0 {
            1 => Self::Ethernet,
            0 | 108 => Self::Loopback,
            9 | 50 => Self::Ppp,
            12 | 101 => Self::Raw,
            51 => Self::PppOverEthernet,
            104 => Self::CiscoHdlc,
            113 => Self::Cooked1,
            166 => Self::PppOfPppd,
            204 => Self::PppWithDirection,
            205 => Self::CiscoHdlcWithDirection,
            228 => Self::Ip(ETHERTYPE_IPV4),
            229 => Self::Ip(ETHERTYPE_IPV6),
            276 => Self::Cooked2,
            _ => return None,
        })
    }

    /// `captured` as an Ethernet frame, put together in `scratch` if it has another header. `wire_len` is its length before
    /// it was cut.
    pub fn ethernet<'a>(self, captured: &'a [u8], wire_len: u32, scratch: &'a mut Scratch) -> Ethernet<'a> {
        // A damaged file may claim that a frame was shorter than what was captured of it.
        let wire_len = wire_len.max(u32::try_from(captured.len()).unwrap_or(u32::MAX));
        let replaced = match self {
            Self::Ethernet => return Ethernet { bytes: captured, wire_len, direction: None },
            Self::Cooked1 => cooked1(captured, wire_len),
            Self::Cooked2 => cooked2(captured, wire_len),
            Self::Raw => ip_version(captured).map(|ethertype| Replaced::without_addresses(0, ethertype)),
            Self::Loopback => loopback(captured),
            Self::Ip(ethertype) => Some(Replaced::without_addresses(0, ethertype)),
            Self::Ppp => ppp(captured),
            Self::PppWithDirection => behind_direction(captured, ppp),
            Self::PppOfPppd => behind_direction(captured, pppd),
            Self::PppOverEthernet => ppp_over_ethernet(captured),
            Self::CiscoHdlc => cisco_hdlc(captured),
            Self::CiscoHdlcWithDirection => behind_direction(captured, cisco_hdlc),
        };
        let payload = replaced.as_ref().and_then(|header| captured.get(header.header_len..));
        let (Some(replaced), Some(payload)) = (replaced, payload) else {
            return Ethernet { bytes: &[], wire_len, direction: None };
        };
        let (destination, source) = replaced.addresses();
        let Scratch(scratch) = scratch;
        scratch.clear();
        scratch.extend_from_slice(&ethernet::header(destination, source, replaced.ethertype));
        scratch.extend_from_slice(payload);
        let cut = wire_len.saturating_sub(u32::try_from(captured.len()).unwrap_or(u32::MAX));
        let wire_len = u32::try_from(scratch.len()).unwrap_or(u32::MAX).saturating_add(cut);
        Ethernet { bytes: scratch, wire_len, direction: replaced.direction }
    }
}

impl Replaced {
    fn without_addresses(header_len: usize, ethertype: u16) -> Self {
        Self { header_len, ethertype, sender: None, to_group: false, direction: None }
    }

    /// Destination and source address of the synthetic header.
    fn addresses(&self) -> ([u8; 6], [u8; 6]) {
        let (sender, receiver) = match self.direction {
            Some(Direction::Out) => (HOST, PEER),
            _ => (PEER, HOST),
        };
        (if self.to_group { BROADCAST } else { receiver }, self.sender.unwrap_or(sender))
    }
}

/// `LINKTYPE_LINUX_SLL`: packet type (2 bytes), ARPHRD type (2), address length (2), address (8), protocol (2).
fn cooked1(captured: &[u8], wire_len: u32) -> Option<Replaced> {
    const LEN: usize = 16;
    let packet_type = u16_at(captured, 0)?;
    let address_len = u16_at(captured, 4)?;
    let address = captured.get(6..14)?;
    let protocol = u16_at(captured, 14)?;
    cooked(LEN, packet_type, u16_at(captured, 2)?, (address_len, address), protocol, wire_len)
}

/// `LINKTYPE_LINUX_SLL2`: protocol (2 bytes), reserved (2), interface (4), ARPHRD type (2), packet type (1), address
/// length (1), address (8).
fn cooked2(captured: &[u8], wire_len: u32) -> Option<Replaced> {
    const LEN: usize = 20;
    let packet_type = u16::from(*captured.get(10)?);
    let address_len = u16::from(*captured.get(11)?);
    let address = captured.get(12..20)?;
    let protocol = u16_at(captured, 0)?;
    cooked(LEN, packet_type, u16_at(captured, 8)?, (address_len, address), protocol, wire_len)
}

fn cooked(
    header_len: usize,
    packet_type: u16,
    hardware: u16,
    (address_len, address): (u16, &[u8]),
    protocol: u16,
    wire_len: u32,
) -> Option<Replaced> {
    // Protocol numbers below 0x0600 are no EtherTypes (linux/if_ether.h): of these, only frames with an IEEE 802.3
    // length field are Ethernet.
    const NOVELL_802_3: u16 = 0x0001;
    const LLC_802_2: u16 = 0x0004;
    // Hardware types whose protocol field is something else (linux/if_arp.h).
    const NETLINK: u16 = 824;
    const GRE: u16 = 778;
    const FRAME_RELAY: u16 = 770;
    const RADIOTAP: u16 = 803;

    if matches!(hardware, NETLINK | GRE | FRAME_RELAY | RADIOTAP) {
        return None;
    }
    let ethertype = match protocol {
        NOVELL_802_3 | LLC_802_2 => {
            let length = wire_len.checked_sub(u32::try_from(header_len).ok()?)?;
            u16::try_from(length).ok().filter(|&length| length <= 1500)?
        }
        0x0600.. => protocol,
        _ => return None,
    };
    let (to_group, direction) = match packet_type {
        0 | 3 => (false, Some(Direction::In)),
        1 | 2 => (true, Some(Direction::In)),
        4 => (false, Some(Direction::Out)),
        _ => (false, None),
    };
    let sender = if address_len == 6 { address.get(..6).and_then(|address| address.try_into().ok()) } else { None };
    Some(Replaced { header_len, ethertype, sender, to_group, direction })
}

/// `LINKTYPE_NULL` and `LINKTYPE_LOOP`: the address family in 4 bytes, in whichever order the capturing host had.
fn loopback(captured: &[u8]) -> Option<Replaced> {
    const LEN: usize = 4;
    let family: [u8; LEN] = captured.get(..LEN)?.try_into().ok()?;
    let ethertype = match u32::from_be_bytes(family).min(u32::from_le_bytes(family)) {
        2 => ETHERTYPE_IPV4,
        // Linux, Windows, NetBSD and OpenBSD, FreeBSD, macOS.
        10 | 23 | 24 | 28 | 30 => ETHERTYPE_IPV6,
        _ => return None,
    };
    Some(Replaced::without_addresses(LEN, ethertype))
}

/// PPP (RFC 1661 section 2), perhaps behind HDLC's address and control (RFC 1662 section 3.1); or Cisco HDLC, which
/// `LINKTYPE_PPP_HDLC` may be as well.
fn ppp(captured: &[u8]) -> Option<Replaced> {
    const UNICAST: u8 = 0x0f;
    const BROADCAST: u8 = 0x8f;
    match captured {
        [0xff, 0x03, ..] => ppp_behind(captured, 2),
        [UNICAST | BROADCAST, 0x00, ..] => cisco_hdlc(captured),
        _ => ppp_behind(captured, 0),
    }
}

/// The header of PPP behind so many bytes. What carries no protocol that Ethernet has an `EtherType` of its own for stays
/// PPP, with the `EtherType` of PPP.
fn ppp_behind(captured: &[u8], begin: usize) -> Option<Replaced> {
    /// IEEE 802 numbers: Point-to-Point Protocol.
    const ETHERTYPE_PPP: u16 = 0x880b;
    // A protocol number may be compressed to its lower byte, which is odd (RFC 1661 section 6.5).
    let first = *captured.get(begin)?;
    let (protocol, header_len) =
        if first & 1 == 1 { (first.into(), begin + 1) } else { (u16_at(captured, begin)?, begin + 2) };
    Some(match protocol {
        0x0021 => Replaced::without_addresses(header_len, ETHERTYPE_IPV4),
        0x0057 => Replaced::without_addresses(header_len, ETHERTYPE_IPV6),
        // MPLS (RFC 3032 section 4).
        0x0281 => Replaced::without_addresses(header_len, 0x8847),
        0x0283 => Replaced::without_addresses(header_len, 0x8848),
        _ => Replaced::without_addresses(begin, ETHERTYPE_PPP),
    })
}

/// pppd's: HDLC's address has become the direction, its control is still there.
fn pppd(captured: &[u8]) -> Option<Replaced> {
    ppp_behind(captured, 1)
}

/// What `read` makes of everything behind one byte that is 0 for a frame that came in, and something else for one that
/// went out.
fn behind_direction(captured: &[u8], read: fn(&[u8]) -> Option<Replaced>) -> Option<Replaced> {
    let (&direction, rest) = captured.split_first()?;
    let replaced = read(rest)?;
    let direction = if direction == 0 { Direction::In } else { Direction::Out };
    Some(Replaced { header_len: replaced.header_len + 1, direction: Some(direction), ..replaced })
}

/// PPP over Ethernet (RFC 2516 section 4) without Ethernet: version and type (1 byte), code (1), session (2), length (2).
fn ppp_over_ethernet(captured: &[u8]) -> Option<Replaced> {
    const SESSION: u16 = 0x8864;
    const DISCOVERY: u16 = 0x8863;
    let ethertype = if *captured.get(1)? == 0 { SESSION } else { DISCOVERY };
    Some(Replaced::without_addresses(0, ethertype))
}

/// Cisco HDLC (RFC 1547 section 4.3.1): address (1 byte), control (1), `EtherType` (2). Its keepalives (SLARP) and the
/// protocols that Ethernet carries in IEEE 802.2 frames have no `EtherType` there.
fn cisco_hdlc(captured: &[u8]) -> Option<Replaced> {
    const LEN: usize = 4;
    const SLARP: u16 = 0x8035;
    const CDP: u16 = 0x2000;
    const OSI: u16 = 0xfefe;
    match u16_at(captured, 2)? {
        SLARP | CDP | OSI | ..0x0600 => None,
        ethertype => Some(Replaced::without_addresses(LEN, ethertype)),
    }
}

fn ip_version(packet: &[u8]) -> Option<u16> {
    match packet.first()? >> 4 {
        4 => Some(ETHERTYPE_IPV4),
        6 => Some(ETHERTYPE_IPV6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rebuilt(link_type: i32, captured: &[u8], wire_len: u32) -> (Vec<u8>, u32, Option<Direction>) {
        let mut link = LinkLayer::of(Linktype(link_type)).unwrap();
        let frame = link.ethernet(captured, wire_len);
        (frame.bytes.to_vec(), frame.wire_len, frame.direction)
    }

    /// Ethernet header that etherparse reads out of a rebuilt frame.
    fn header(frame: &[u8]) -> (etherparse::Ethernet2Header, &[u8]) {
        etherparse::Ethernet2Header::from_slice(frame).unwrap()
    }

    #[test]
    fn cooked_frames_keep_sender_protocol_and_direction() {
        let sent = [&[0, 4, 0, 1, 0, 6, 0xaa, 1, 2, 3, 4, 5, 0, 0, 0x08, 0x00][..], &[0x45; 30]].concat();
        let (frame, wire_len, direction) = rebuilt(113, &sent, 100);
        let (ethernet, payload) = header(&frame);
        assert_eq!(ethernet.source, [0xaa, 1, 2, 3, 4, 5]);
        assert_eq!(ethernet.destination, PEER);
        assert_eq!((ethernet.ether_type.0, payload), (0x0800, &[0x45; 30][..]));
        assert_eq!((wire_len, direction), (100 - 16 + 14, Some(Direction::Out)));

        let received =
            [&[0x86, 0xdd, 0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 0xbb, 1, 2, 3, 4, 5, 0, 0][..], &[0x60; 40]].concat();
        let (frame, wire_len, direction) = rebuilt(276, &received, 60);
        let (ethernet, payload) = header(&frame);
        assert_eq!((ethernet.source, ethernet.destination), ([0xbb, 1, 2, 3, 4, 5], HOST));
        assert_eq!((ethernet.ether_type.0, payload), (0x86dd, &[0x60; 40][..]));
        assert_eq!((wire_len, direction), (54, Some(Direction::In)));
    }

    #[test]
    fn the_vlan_tag_of_a_cooked_frame_stands_where_ethernet_has_it() {
        let tagged = [&[0, 1, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 0x81, 0, 0x60, 5, 0x08, 0x06][..], &[9; 28]].concat();
        let (frame, ..) = rebuilt(113, &tagged, 48);
        assert_eq!(&frame[..6], BROADCAST);
        assert_eq!(frame[12..18], [0x81, 0, 0x60, 5, 0x08, 0x06]);
    }

    #[test]
    fn a_cooked_llc_frame_gets_a_length_field() {
        let stp = [&[0, 2, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 0, 4][..], &[0x42, 0x42, 3, 0, 0]].concat();
        let (frame, ..) = rebuilt(113, &stp, 16 + 38);
        assert_eq!(frame[12..14], [0, 38]);
    }

    #[test]
    fn raw_ip_and_loopback_tell_their_ethertype() {
        for (link_type, captured, ethertype, header_len) in [
            (12, &[0x45, 0][..], 0x0800, 0),
            (101, &[0x60, 0], 0x86dd, 0),
            (228, &[0x45, 0], 0x0800, 0),
            (229, &[0x60, 0], 0x86dd, 0),
            (0, &[2, 0, 0, 0, 0x45], 0x0800, 4),
            (0, &[0, 0, 0, 2, 0x45], 0x0800, 4),
            (108, &[0, 0, 0, 30, 0x60], 0x86dd, 4),
        ] {
            let (frame, wire_len, direction) = rebuilt(link_type, captured, 1000);
            let (ethernet, payload) = header(&frame);
            assert_eq!(ethernet.ether_type.0, ethertype, "link type {link_type}");
            assert_eq!(payload, &captured[header_len..]);
            assert_eq!((ethernet.destination, ethernet.source), (HOST, PEER));
            assert_eq!((wire_len as usize, direction), (1000 - header_len + 14, None));
        }
    }

    #[test]
    fn what_cannot_become_ethernet_is_empty() {
        for (link_type, captured) in [
            (12, &[][..]),
            (12, &[0x15]),
            (0, &[7, 0, 0, 0, 0x45]),
            (0, &[2, 0]),
            (113, &[0, 4, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0, 8]),
            (113, &[0, 4, 0x03, 0x38, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]),
            (276, &[0, 0x0c, 0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0]),
        ] {
            assert_eq!(rebuilt(link_type, captured, 20).0, [0; 0], "link type {link_type}: {captured:?}");
        }
    }

    #[test]
    fn other_link_types_are_refused() {
        for link_type in [105, 107, 127, 239] {
            assert!(LinkLayer::of(Linktype(link_type)).is_none(), "link type {link_type}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(
            link_type in proptest::sample::select(vec![0, 1, 9, 12, 50, 51, 101, 104, 108, 113, 166, 204, 205, 228, 229, 276]),
            captured in proptest::collection::vec(any::<u8>(), 0..64),
            wire_len in any::<u32>(),
        ) {
            let (frame, wire_len, _) = rebuilt(link_type, &captured, wire_len);
            prop_assert!(frame.len() <= wire_len as usize || frame.len() <= captured.len() + HEADER_LEN);
            prop_assert!(frame.is_empty() || link_type == 1 || frame.len() >= HEADER_LEN);
        }
    }
}
