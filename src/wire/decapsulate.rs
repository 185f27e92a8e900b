//! Takes one tunnel off: from the bytes of an outer Ethernet frame, of an outer IP packet, or of a datagram as a socket
//! gives it, to the mirrored frame and everything that the tunnel's headers say about it.
//!
//! ```text
//! +----------+-------------+------+----------------------------+-----------------+
//! | Ethernet | IPv4 / IPv6 | UDP  | VXLAN · VXLAN-GPE · Geneve | mirrored frame  |
//! | + VLANs  | extensions  |      | TZSP · HP ERM · Jmirror    | or IP packet,   |
//! |          |             |------+----------------------------| whole or cut    |
//! |          |             | GRE · GRE + ERSPAN I, II, III     |                 |
//! +----------+-------------+-----------------------------------+-----------------+
//! ```
//!
//! Other people's senders are read generously: reserved bits, options, keys and sub-headers are accepted and noted,
//! unless [`Rules::strict`] is set. What cannot be a frame is refused with the field that says so. Whether a frame or a bare
//! packet stands behind the header, one rule decides for all of them: [`inner`](super::inner). Nothing is copied.

use super::erspan;
use super::ethernet::{self, HEADER_LEN};
use super::geneve::{self, Geneve};
use super::gre::{self, ERSPAN, ERSPAN_III, TRANSPARENT_ETHERNET};
use super::inner::{self, Says};
use super::layers::{Fragment, GRE, Ip, Layers, UDP, u16_at};
use super::vxlan::{self, Vxlan};
use super::{ParseError, hp_erm, jmirror, reassembly, tzsp};
use crate::quantity::{Direction, GreKey};

/// What counts as a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// UDP destination ports, each with what is sent there.
    pub ports: Vec<(u16, Tunnel)>,
    /// Refuses headers in which reserved bits are set.
    pub strict: bool,
}

impl Default for Rules {
    /// The ports of IANA, the one that Linux has used since before there was one, and those that vendors chose.
    fn default() -> Self {
        Self {
            ports: vec![
                (Vxlan::PORT, Tunnel::Vxlan),
                (Geneve::PORT, Tunnel::Geneve),
                (Vxlan::LINUX_PORT, Tunnel::Vxlan),
                (Vxlan::GENERIC_PROTOCOL_PORT, Tunnel::Vxlan),
                (tzsp::PORT, Tunnel::Tzsp),
                (hp_erm::PORT, Tunnel::HpErm),
                (jmirror::PORT, Tunnel::Jmirror),
            ],
            strict: false,
        }
    }
}

/// A frame without the tunnel it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulated<'a> {
    /// The tunnel that it came in.
    pub tunnel: Tunnel,
    /// VNI, GRE key, ERSPAN session id or Jmirror's mirror identifier; GRE may have none, ERSPAN I, TZSP and HP ERM have none.
    pub id: Option<u32>,
    /// GRE's sequence number.
    pub sequence: Option<u32>,
    /// Which way the frame went where it was mirrored: ERSPAN III.
    pub direction: Option<Direction>,
    /// Whether the sender says that it cut the frame: ERSPAN II and III.
    pub truncated: bool,
    /// Tag control information of a VLAN tag that the sender took out of the frame: ERSPAN II.
    pub removed_tag: Option<u16>,
    /// What else there is to know.
    pub notes: Notes,
    /// `EtherType` of an IP or MPLS packet that came without Ethernet header; `None` when `bytes` is an Ethernet frame.
    pub bare: Option<u16>,
    /// The mirrored frame, or the IP packet.
    pub bytes: &'a [u8],
    /// How many bytes the frame lacks at its end, because the outer packet was cut.
    pub missing: usize,
}

/// The encapsulations that are taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// RFC 7348, and its Generic Protocol Extension.
    Vxlan,
    /// RFC 8926.
    Geneve,
    /// RFC 2784; NVGRE (RFC 7637) too.
    Gre,
    /// draft-foschiano-erspan-03 section 4.1.
    Erspan1,
    /// The same, section 4.2.
    Erspan2,
    /// The same, section 4.3.
    Erspan3,
    /// `TaZmen` Sniffer Protocol, of `MikroTik` routers.
    Tzsp,
    /// HP encapsulated remote mirroring, of `ProCurve` and Aruba switches.
    HpErm,
    /// Juniper packet mirroring.
    Jmirror,
}

/// What a header has that ours do not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Reserved bits are set.
    pub reserved_bits: bool,
    /// It is VXLAN's Generic Protocol Extension.
    pub generic_protocol: bool,
    /// GRE's checksum is there, and right.
    pub checksum_verified: bool,
}

/// Why no frame came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecapsulateError {
    /// The packet is no tunnel's: another protocol, another port, no IP.
    #[error("this is no VXLAN, Geneve, GRE, ERSPAN, TZSP, HP ERM or Jmirror packet")]
    NoTunnel,
    /// The packet is a fragment, which has to be reassembled first.
    #[error("the outer packet is a fragment")]
    Fragment,
    /// A header is cut, or says that no frame follows.
    #[error(transparent)]
    Header(#[from] ParseError),
    /// A Geneve packet for the tunnel's other end (O), or a TZSP message to its sensor.
    #[error("a control packet carries no frame")]
    ControlPacket,
    /// GRE's checksum is there, and wrong.
    #[error("the GRE checksum is wrong")]
    WrongChecksum,
    /// Reserved bits are set, and the rules are strict.
    #[error("reserved bits are set")]
    ReservedBits,
}

impl Tunnel {
    /// Every encapsulation.
    pub const ALL: [Self; 9] = [
        Self::Vxlan,
        Self::Geneve,
        Self::Gre,
        Self::Erspan1,
        Self::Erspan2,
        Self::Erspan3,
        Self::Tzsp,
        Self::HpErm,
        Self::Jmirror,
    ];

    /// Its name in URLs, JSON and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Gre => "gre",
            Self::Erspan1 => "erspan1",
            Self::Erspan2 => "erspan2",
            Self::Erspan3 => "erspan3",
            Self::Tzsp => "tzsp",
            Self::HpErm => "hperm",
            Self::Jmirror => "jmirror",
        }
    }

    /// What its headers call the id that tells streams of one sender apart.
    pub const fn id_word(self) -> &'static str {
        match self {
            Self::Vxlan | Self::Geneve => "VNI",
            Self::Gre => "key",
            Self::Erspan1 | Self::Erspan2 | Self::Erspan3 | Self::Tzsp | Self::HpErm => "session",
            Self::Jmirror => "mirror",
        }
    }
}

impl Decapsulated<'_> {
    /// The Ethernet header that an IP packet gets which came without one.
    pub fn synthetic_header(&self) -> Option<[u8; HEADER_LEN]> {
        self.bare.map(|ethertype| ethernet::header(ethernet::HOST, ethernet::PEER, ethertype))
    }

    /// Appends the Ethernet frame to `out`, with a [`synthetic_header`](Self::synthetic_header) if it needs one.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.synthetic_header().as_ref().map_or(&[], |header| header));
        out.extend_from_slice(self.bytes);
    }
}

impl Rules {
    /// Takes the outermost tunnel off an Ethernet frame, which may be cut at its end and may have VLAN tags. Also says
    /// where the IP packet is that carried it.
    ///
    /// # Errors
    /// When the frame carries none, or a broken one.
    pub fn take_from_frame<'a>(&self, frame: &'a [u8]) -> Result<(Ip, Decapsulated<'a>), DecapsulateError> {
        let outer = Layers::parse(frame).ip.ok_or(DecapsulateError::NoTunnel)?;
        Ok((outer, self.take_from_packet(frame, &outer)?))
    }

    /// Takes the tunnel off `outer`, an IP packet somewhere in `bytes`.
    ///
    /// # Errors
    /// When the packet carries none, or a broken one.
    pub fn take_from_packet<'a>(&self, bytes: &'a [u8], outer: &Ip) -> Result<Decapsulated<'a>, DecapsulateError> {
        if outer.fragment != Fragment::Whole && !reassembly::is_atomic(bytes, outer) {
            return Err(DecapsulateError::Fragment);
        }
        let packet = bytes.get(..outer.end).unwrap_or(bytes);
        let payload = packet.get(outer.transport..).ok_or(DecapsulateError::NoTunnel)?;
        self.take_from_transport(outer.protocol, payload, outer.end - packet.len())
    }

    /// Takes the tunnel off what an IP packet with this `protocol` carries. `missing` bytes at its end were cut.
    ///
    /// # Errors
    /// When it carries none, or a broken one.
    pub fn take_from_transport<'a>(
        &self,
        protocol: u8,
        payload: &'a [u8],
        missing: usize,
    ) -> Result<Decapsulated<'a>, DecapsulateError> {
        match protocol {
            GRE => self.take_from_gre(payload, missing),
            UDP => self.take_from_udp(payload, missing),
            _ => Err(DecapsulateError::NoTunnel),
        }
    }

    /// RFC 768. The checksum is not looked at: sockets have verified it, and in files it is often left to hardware.
    fn take_from_udp<'a>(&self, packet: &'a [u8], missing: usize) -> Result<Decapsulated<'a>, DecapsulateError> {
        const UDP_HEADER: usize = 8;
        let port = u16_at(packet, 2).ok_or(DecapsulateError::NoTunnel)?;
        let payload = packet.get(UDP_HEADER..).ok_or(DecapsulateError::NoTunnel)?;
        // Behind the datagram there may be padding; a super-frame, or a jumbogram (RFC 2675), has no length.
        let room = payload.len() + missing;
        let length = match u16_at(packet, 4).map(usize::from) {
            Some(length @ UDP_HEADER..) => room.min(length - UDP_HEADER),
            _ => room,
        };
        let datagram = payload.get(..length).unwrap_or(payload);
        let missing = length - datagram.len();
        let tunnel = self.ports.iter().find(|(at, _)| *at == port).ok_or(DecapsulateError::NoTunnel)?.1;
        self.take_from_datagram(tunnel, datagram, missing)
    }

    /// Takes a tunnel of this kind off a UDP datagram. `missing` bytes at its end were cut.
    ///
    /// # Errors
    /// When the header is cut or broken, or is followed by something else than a frame or packet.
    pub fn take_from_datagram<'a>(
        &self,
        tunnel: Tunnel,
        datagram: &'a [u8],
        missing: usize,
    ) -> Result<Decapsulated<'a>, DecapsulateError> {
        match tunnel {
            Tunnel::Vxlan => self.take_from_vxlan(datagram, missing),
            Tunnel::Geneve => self.take_from_geneve(datagram, missing),
            Tunnel::Tzsp => take_from_tzsp(datagram, missing),
            Tunnel::HpErm => {
                let frame = hp_erm::frame(datagram)?;
                // Nothing else tells a mirror from other datagrams to the port.
                if !inner::can_be_ethernet(frame, missing) {
                    return Err(DecapsulateError::NoTunnel);
                }
                Decapsulated::plain(tunnel, frame, missing).followed_by("HP ERM", Says::Ethernet)
            }
            Tunnel::Jmirror => {
                let (mirror, packet) = jmirror::parse(datagram)?;
                let taken = Decapsulated { id: Some(mirror), ..Decapsulated::plain(tunnel, packet, missing) };
                taken.followed_by("Jmirror", Says::Ip)
            }
            Tunnel::Gre | Tunnel::Erspan1 | Tunnel::Erspan2 | Tunnel::Erspan3 => Err(DecapsulateError::NoTunnel),
        }
    }

    /// Takes VXLAN off a UDP datagram. `missing` bytes at its end were cut.
    ///
    /// # Errors
    /// When the header is cut, names no network, or is followed by something else than a frame or an IP packet.
    pub fn take_from_vxlan<'a>(
        &self,
        datagram: &'a [u8],
        missing: usize,
    ) -> Result<Decapsulated<'a>, DecapsulateError> {
        let (vxlan, bytes) = vxlan::Received::parse(datagram)?;
        let reserved_bits = self.tolerate(vxlan.reserved_bits)?;
        let notes = Notes { reserved_bits, generic_protocol: vxlan.generic, ..Notes::default() };
        let id = Some(vxlan.header.vni.value());
        let says = if vxlan.bare.is_some() { Says::Ip } else { Says::Ethernet };
        Decapsulated { id, notes, ..Decapsulated::plain(Tunnel::Vxlan, bytes, missing) }.followed_by("VXLAN", says)
    }

    /// Takes Geneve off a UDP datagram, with its options. `missing` bytes at its end were cut.
    ///
    /// # Errors
    /// When header or options are cut, the version is unknown, or no frame follows.
    pub fn take_from_geneve<'a>(
        &self,
        datagram: &'a [u8],
        missing: usize,
    ) -> Result<Decapsulated<'a>, DecapsulateError> {
        let (geneve, bytes) = geneve::Received::parse(datagram)?;
        if geneve.is_control {
            return Err(DecapsulateError::ControlPacket);
        }
        let says = Says::of_ethertype(geneve.protocol).ok_or_else(|| unexpected_protocol("Geneve", geneve.protocol))?;
        let notes = Notes { reserved_bits: self.tolerate(geneve.reserved_bits)?, ..Notes::default() };
        let id = Some(geneve.header.vni.value());
        Decapsulated { id, notes, ..Decapsulated::plain(Tunnel::Geneve, bytes, missing) }.followed_by("Geneve", says)
    }

    /// Takes GRE, and ERSPAN inside it, off the payload of an IP packet. `missing` bytes at its end were cut; then its
    /// checksum cannot be verified.
    ///
    /// # Errors
    /// When a header is cut, the checksum is wrong, or neither a frame nor an IP packet follows.
    pub fn take_from_gre<'a>(&self, packet: &'a [u8], missing: usize) -> Result<Decapsulated<'a>, DecapsulateError> {
        let (gre, bytes) = gre::Received::parse(packet)?;
        let checksum_verified = gre.has_checksum && missing == 0;
        if checksum_verified && !gre::is_intact(packet) {
            return Err(DecapsulateError::WrongChecksum);
        }
        let header = gre.header;
        let plain =
            |tunnel, bytes| Decapsulated { sequence: header.sequence, ..Decapsulated::plain(tunnel, bytes, missing) };
        let key = header.key.map(GreKey::value);
        let mut says = Says::Ethernet;
        let (taken, reserved_bits) = match (header.protocol, header.sequence) {
            // Only the sequence number tells type II from type I.
            (ERSPAN, None) => (plain(Tunnel::Erspan1, bytes), false),
            (ERSPAN, Some(_)) => {
                let (erspan, bytes) = erspan::Received::parse_ii(bytes)?;
                (plain(Tunnel::Erspan2, bytes).of_erspan(erspan), erspan.reserved_bits)
            }
            (ERSPAN_III, _) => {
                let (erspan, bytes) = erspan::Received::parse_iii(bytes)?;
                says = if erspan.bare { Says::Ip } else { Says::Ethernet };
                (plain(Tunnel::Erspan3, bytes).of_erspan(erspan), erspan.reserved_bits)
            }
            (protocol, _) => {
                says = Says::of_ethertype(protocol).ok_or_else(|| unexpected_protocol("GRE", protocol))?;
                (Decapsulated { id: key, ..plain(Tunnel::Gre, bytes) }, false)
            }
        };
        let reserved_bits = self.tolerate(gre.reserved_bits || reserved_bits)?;
        let notes = Notes { reserved_bits, checksum_verified, ..Notes::default() };
        Decapsulated { notes, ..taken }.followed_by("GRE", says)
    }

    /// Whether reserved bits are set, if that may be.
    fn tolerate(&self, reserved_bits: bool) -> Result<bool, DecapsulateError> {
        if reserved_bits && self.strict { Err(DecapsulateError::ReservedBits) } else { Ok(reserved_bits) }
    }
}

/// Takes TZSP off a UDP datagram.
fn take_from_tzsp(datagram: &[u8], missing: usize) -> Result<Decapsulated<'_>, DecapsulateError> {
    let (tzsp, frame) = tzsp::Received::parse(datagram)?;
    if tzsp.is_control {
        return Err(DecapsulateError::ControlPacket);
    }
    let cut = tzsp.original_length.map_or(0, |length| usize::from(length).saturating_sub(frame.len()));
    Decapsulated::plain(Tunnel::Tzsp, frame, missing.max(cut)).followed_by("TZSP", Says::Ethernet)
}

fn unexpected_protocol(header: &'static str, had: u16) -> ParseError {
    let (needed, had) = (TRANSPARENT_ETHERNET.into(), had.into());
    ParseError::Unexpected { header, field: "protocol type", needed, had }
}

impl<'a> Decapsulated<'a> {
    /// The same, of which `header` says what follows.
    fn followed_by(self, header: &'static str, says: Says) -> Result<Self, DecapsulateError> {
        let bare = inner::ethertype_of(header, says, self.bytes, self.missing)?;
        Ok(Self { bare, ..self })
    }

    /// An Ethernet frame of which nothing more is known.
    fn plain(tunnel: Tunnel, bytes: &'a [u8], missing: usize) -> Self {
        Self {
            tunnel,
            id: None,
            sequence: None,
            direction: None,
            truncated: false,
            removed_tag: None,
            notes: Notes::default(),
            bare: None,
            bytes,
            missing,
        }
    }

    /// The same with what an ERSPAN header says.
    fn of_erspan(self, erspan: erspan::Received) -> Self {
        Self {
            id: Some(erspan.session.value().into()),
            direction: erspan.direction,
            truncated: erspan.truncated,
            removed_tag: erspan.removed_tag,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
    use super::*;
    use proptest::prelude::*;

    const MACS: [u8; 12] = [2; 12];
    const FRAME: &[u8] = b"ABCDEFabcdef\x08\x00the frame";

    /// An IPv4 packet in an Ethernet frame.
    fn over_ipv4(tags: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let header = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        [&MACS[..], tags, &[0x08, 0x00], &header, payload].concat()
    }

    /// An IPv6 packet whose extension headers are `extensions`, the first of them of number `next`.
    fn over_ipv6(next: u8, extensions: &[u8], payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(extensions.len() + payload.len()).unwrap().to_be_bytes();
        let header = [&[0x60, 0, 0, 0, high, low, next, 64][..], &[1; 16], &[2; 16]].concat();
        [&MACS[..], &[0x86, 0xdd], &header, extensions, payload].concat()
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        [&[0xc3, 0x50], &port.to_be_bytes()[..], &length.to_be_bytes(), &[0, 0], payload].concat()
    }

    fn vxlan() -> Vec<u8> {
        [&[8, 0, 0, 0, 0, 0, 42, 0], FRAME].concat()
    }

    fn take(frame: &[u8]) -> Result<Decapsulated<'_>, DecapsulateError> {
        Rules::default().take_from_frame(frame).map(|(_, taken)| taken)
    }

    #[test]
    fn the_outer_packet_may_have_tags_extensions_and_padding() {
        let datagram = udp(4789, &vxlan());
        let tags = [0x88, 0xa8, 0, 5, 0x81, 0x00, 0xe0, 9];
        let hop_by_hop = [17, 0, 1, 4, 0, 0, 0, 0];
        let atomic = [17, 0, 0, 0, 0, 0, 0, 7];
        for frame in [
            over_ipv4(&[], UDP, &datagram),
            over_ipv4(&tags, UDP, &datagram),
            over_ipv4(&[], UDP, &udp(8472, &vxlan())),
            over_ipv6(UDP, &[], &datagram),
            over_ipv6(0, &hop_by_hop, &datagram),
            over_ipv6(44, &atomic, &datagram),
            [&over_ipv4(&[], UDP, &datagram)[..], &[0; 9]].concat(),
            over_ipv4(&[], UDP, &[&datagram[..], &[0; 9]].concat()),
        ] {
            let taken = take(&frame).unwrap();
            assert_eq!((taken.tunnel, taken.id, taken.bytes, taken.missing), (Tunnel::Vxlan, Some(42), FRAME, 0));
        }
    }

    #[test]
    fn what_the_capture_cut_is_known() {
        let frame = over_ipv4(&[], UDP, &udp(4789, &vxlan()));
        let taken = take(&frame[..frame.len() - 3]).unwrap();
        assert_eq!((taken.bytes, taken.missing), (&FRAME[..FRAME.len() - 3], 3));
        // With a checksum, which can then not be verified.
        let gre = [&[0x80, 0, 0x65, 0x58, 0xde, 0xad, 0, 0], FRAME].concat();
        let frame = over_ipv4(&[], GRE, &gre);
        let taken = take(&frame[..frame.len() - 3]).unwrap();
        assert_eq!((taken.bytes, taken.missing, taken.notes), (&FRAME[..FRAME.len() - 3], 3, Notes::default()));
        assert_eq!(take(&frame), Err(DecapsulateError::WrongChecksum));
    }

    #[test]
    fn a_gre_checksum_is_verified() {
        let mut gre = [&[0x80, 0, 0x65, 0x58, 0, 0, 0, 0], FRAME].concat();
        let sum = crate::wire::checksum::Sum::of(&gre).checksum().to_be_bytes();
        gre[4..6].copy_from_slice(&sum);
        let taken = Rules::default().take_from_gre(&gre, 0).unwrap();
        assert_eq!((taken.bytes, taken.notes.checksum_verified), (FRAME, true));
    }

    #[test]
    fn packets_without_ethernet_get_a_header() {
        let ipv4 = [0x45, 0, 0, 20];
        let ipv6 = [0x60, 0, 0, 0];
        let erspan = [0x20, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x08, 0];
        for (datagram, ethertype) in [
            ([&[0, 0, 0x08, 0x00][..], &ipv4].concat(), ETHERTYPE_IPV4),
            ([&[0, 0, 0x86, 0xdd][..], &ipv6].concat(), ETHERTYPE_IPV6),
            ([&[0, 0, 0x22, 0xeb][..], &erspan, &ipv4].concat(), ETHERTYPE_IPV4),
            ([&[0, 0, 0x22, 0xeb][..], &erspan, &ipv6].concat(), ETHERTYPE_IPV6),
        ] {
            let taken = Rules::default().take_from_gre(&datagram, 0).unwrap();
            let mut frame = Vec::new();
            taken.write(&mut frame);
            assert_eq!(frame[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            assert_eq!(frame[12..14], ethertype.to_be_bytes());
            assert_eq!(frame[14..], *taken.bytes);
        }
    }

    #[test]
    fn erspan_is_told_apart_by_sequence_number_and_protocol_type() {
        let two = [0x10, 0x64, 0xb4, 0x07, 0, 0, 0, 1];
        let three = [0x20, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x80, 0x08];
        let plain = Decapsulated::plain(Tunnel::Erspan1, FRAME, 0);
        let with_session = Decapsulated { id: Some(7), ..plain };
        for (datagram, expected) in [
            ([&[0, 0, 0x88, 0xbe][..], FRAME].concat(), plain),
            // A key says nothing about the type.
            ([&[0x20, 0, 0x88, 0xbe, 0, 0, 0, 9][..], FRAME].concat(), plain),
            (
                [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 9][..], &two, FRAME].concat(),
                Decapsulated {
                    tunnel: Tunnel::Erspan2,
                    sequence: Some(9),
                    truncated: true,
                    removed_tag: Some(0xa064),
                    ..with_session
                },
            ),
            (
                [&[0, 0, 0x22, 0xeb][..], &three, FRAME].concat(),
                Decapsulated { tunnel: Tunnel::Erspan3, direction: Some(Direction::Out), ..with_session },
            ),
        ] {
            assert_eq!(Rules::default().take_from_gre(&datagram, 0), Ok(expected));
        }
    }

    #[test]
    fn strict_rules_refuse_reserved_bits() {
        let strict = Rules { strict: true, ..Rules::default() };
        let refused = Err(DecapsulateError::ReservedBits);
        let vxlan = [&[0x88, 0, 0, 7, 0, 0, 42, 0], FRAME].concat();
        assert_eq!(strict.take_from_vxlan(&vxlan, 0), refused);
        assert!(Rules::default().take_from_vxlan(&vxlan, 0).unwrap().notes.reserved_bits);
        let geneve = [&[0, 1, 0x65, 0x58, 0, 0, 42, 0], FRAME].concat();
        assert_eq!(strict.take_from_geneve(&geneve, 0), refused);
        assert!(Rules::default().take_from_geneve(&geneve, 0).unwrap().notes.reserved_bits);
        let gre = [&[0x08, 0, 0x65, 0x58], FRAME].concat();
        assert_eq!(strict.take_from_gre(&gre, 0), refused);
        assert!(Rules::default().take_from_gre(&gre, 0).unwrap().notes.reserved_bits);
    }

    #[test]
    fn what_carries_no_frame_is_refused() {
        let fragment = {
            let mut frame = over_ipv4(&[], UDP, &udp(4789, &vxlan()));
            frame[20] = 0x20;
            frame
        };
        for (frame, expected) in [
            (over_ipv4(&[], UDP, &udp(53, &vxlan())), DecapsulateError::NoTunnel),
            (over_ipv4(&[], 6, &[0; 20]), DecapsulateError::NoTunnel),
            ([&MACS[..], &[0x08, 0x06], &[0; 28]].concat(), DecapsulateError::NoTunnel),
            (fragment, DecapsulateError::Fragment),
            (over_ipv4(&[], UDP, &udp(6081, &[0, 0x80, 0x65, 0x58, 0, 0, 1, 0])), DecapsulateError::ControlPacket),
        ] {
            assert_eq!(take(&frame), Err(expected));
        }
        let keepalive = over_ipv4(&[], GRE, &[0, 0, 0, 0]);
        let error = take(&keepalive).unwrap_err();
        assert_eq!(error.to_string(), "GRE header: protocol type is 0x0, not 0x6558");
    }

    proptest! {
        #[test]
        fn no_bytes_are_unsafe(
            carrier in 0..4_u8,
            port in proptest::sample::select(vec![4789, 4790, 6081]),
            bytes in proptest::collection::vec(any::<u8>(), 0..96),
            cut: prop::sample::Index,
        ) {
            let frame = match carrier {
                0 => over_ipv4(&[], GRE, &bytes),
                1 => over_ipv6(UDP, &[], &udp(port, &bytes)),
                2 => [&MACS[..], &[0x08, 0x00], &bytes].concat(),
                _ => over_ipv4(&[], UDP, &udp(port, &bytes)),
            };
            let frame = &frame[..cut.index(frame.len() + 1)];
            if let Ok(taken) = take(frame) {
                prop_assert!(taken.bytes.len() <= frame.len());
                prop_assert!(u16::try_from(taken.missing).is_ok());
            }
        }
    }
}
