//! Where the headers of an Ethernet frame lie. Read once for each frame, then passed along.
//!
//! Written by hand because every frame pays for it: a few nanoseconds. etherparse is its oracle in the tests.

use std::net::IpAddr;

use super::{ethernet, shim};

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of GRE.
pub const GRE: u8 = 47;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;
/// IP protocol number of `ICMPv6`.
pub const ICMPV6: u8 = 58;

/// IPv6 next-header number of Hop-by-Hop Options.
pub(super) const HOP_BY_HOP: u8 = 0;
/// IPv6 next-header number of a Routing header.
pub(super) const ROUTING: u8 = 43;
/// IPv6 next-header number of a Fragment header.
pub(super) const FRAGMENT: u8 = 44;
/// IPv6 next-header number of Destination Options.
pub(super) const DESTINATION_OPTIONS: u8 = 60;

/// Offsets of the headers of one frame, from its first byte. What is missing or broken is simply not there: a frame
/// with a broken IP header is mirrored like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// `EtherType` behind all VLAN tags; 0 when the frame is too short to have one.
    pub ethertype: u16,
    /// Where the bytes behind Ethernet header and VLAN tags begin: 14 without tags. IP begins there, or behind more headers.
    pub network: usize,
    /// The IP header, when there is a complete one, also behind MPLS, `PPPoE` and what else [`shim`] knows.
    pub ip: Option<Ip>,
}

/// An IPv4 or IPv6 header and what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// 4 or 6.
    pub version: IpVersion,
    /// Where the IP header begins.
    pub start: usize,
    /// Where the packet ends by its own length field: beyond the frame when the frame was cut, before its end when
    /// there is padding. A packet without a length (a jumbogram, or a super-frame over 65,535 bytes) ends with the
    /// frame.
    pub end: usize,
    /// Transport protocol, behind IPv6 extension headers.
    pub protocol: u8,
    /// Where the transport header (or the fragment's data) begins.
    pub transport: usize,
    /// Whether this is a fragment.
    pub fragment: Fragment,
    /// Where the payload of TCP or UDP begins, when its header is complete and this is not a later fragment.
    pub payload: Option<usize>,
}

/// The two versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Whether an IP packet is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment, or the only one (RFC 6946): the transport header is there.
    First,
    /// A later fragment: no transport header.
    Later,
}

impl Layers {
    /// Reads the headers of `frame`. Never fails and never reads beyond `frame`.
    pub fn parse(frame: &[u8]) -> Self {
        let mut network = ethernet::HEADER_LEN;
        let Some(mut ethertype) = u16_at(frame, network - 2) else { return Self::default() };
        while ethernet::is_vlan(ethertype) {
            let Some(inner) = u16_at(frame, network + 2) else { break };
            ethertype = inner;
            network += ethernet::VLAN_TAG_LEN;
        }
        // Each arm whole: put together behind the match, the header would be copied once more for every frame.
        match ethertype {
            ETHERTYPE_IPV4 => Self { ethertype, network, ip: Ip::parse_v4(frame, network) },
            ETHERTYPE_IPV6 => Self { ethertype, network, ip: Ip::parse_v6(frame, network) },
            _ => Self { ethertype, network, ip: behind_shims(frame, ethertype, network) },
        }
    }
}

impl Layers {
    /// The same of a packet without Ethernet header, whose `EtherType` is known. Offsets count from its first byte.
    pub fn of_packet(ethertype: u16, packet: &[u8]) -> Self {
        let ip = match ethertype {
            ETHERTYPE_IPV4 => Ip::parse_v4(packet, 0),
            ETHERTYPE_IPV6 => Ip::parse_v6(packet, 0),
            _ => behind_shims(packet, ethertype, 0),
        };
        Self { ethertype, network: 0, ip }
    }

    /// The same in a frame that has `bytes` more in front.
    #[must_use]
    pub fn behind(self, bytes: usize) -> Self {
        Self { network: self.network + bytes, ip: self.ip.map(|packet| packet.behind(bytes)), ..self }
    }
}

/// The IP packet behind the headers that may stand between Ethernet and IP.
#[cold]
#[inline(never)]
fn behind_shims(frame: &[u8], ethertype: u16, network: usize) -> Option<Ip> {
    match shim::to_ip(frame, ethertype, network)? {
        (ETHERTYPE_IPV4, start) => Ip::parse_v4(frame, start),
        (_, start) => Ip::parse_v6(frame, start),
    }
}

impl Ip {
    /// The packet at `start` of `bytes`, whichever version its first nibble says.
    pub fn parse(bytes: &[u8], start: usize) -> Option<Self> {
        match bytes.get(start)? >> 4 {
            4 => Self::parse_v4(bytes, start),
            6 => Self::parse_v6(bytes, start),
            _ => None,
        }
    }

    /// The same packet in a buffer that has `bytes` more in front.
    #[must_use]
    pub fn behind(self, bytes: usize) -> Self {
        Self {
            start: self.start + bytes,
            end: self.end + bytes,
            transport: self.transport + bytes,
            payload: self.payload.map(|payload| payload + bytes),
            ..self
        }
    }

    /// RFC 791 section 3.1.
    fn parse_v4(bytes: &[u8], start: usize) -> Option<Self> {
        let header = bytes.get(start..start + 20)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || header_len < 20 || bytes.len() < start + header_len {
            return None;
        }
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let end = match total_len {
            0 => bytes.len(),
            short if short < header_len => return None,
            _ => start + total_len,
        };
        let packet = bytes.get(..end).unwrap_or(bytes);
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let fragment = match (flags & 0x1fff, flags & 0x2000 != 0) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        let (protocol, transport) = (header[9], start + header_len);
        let payload = transport_payload(packet, protocol, transport, fragment);
        Some(Self { version: IpVersion::V4, start, end, protocol, transport, fragment, payload })
    }

    /// RFC 8200 sections 3 and 4.
    fn parse_v6(bytes: &[u8], start: usize) -> Option<Self> {
        const AUTHENTICATION: u8 = 51;
        const MOST_EXTENSIONS: usize = 8;

        let header = bytes.get(start..start + 40)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (mut protocol, mut transport, mut fragment) = (header[6], start + 40, Fragment::Whole);
        let end = match payload_len {
            0 => bytes.len(),
            _ => start + 40 + payload_len,
        };
        let packet = bytes.get(..end).unwrap_or(bytes);
        for _ in 0..MOST_EXTENSIONS {
            let Some(extension) = packet.get(transport..transport + 8) else { break };
            let length = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(extension[1]) + 1) * 8,
                AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
                FRAGMENT => {
                    let later = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0;
                    fragment = if later { Fragment::Later } else { Fragment::First };
                    8
                }
                _ => break,
            };
            if transport + length > packet.len() {
                break;
            }
            protocol = extension[0];
            transport += length;
            if fragment == Fragment::Later {
                break;
            }
        }
        let payload = transport_payload(packet, protocol, transport, fragment);
        Some(Self { version: IpVersion::V6, start, end, protocol, transport, fragment, payload })
    }

    /// Source and destination address as bytes: 4 or 16 each.
    pub fn addresses<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let (first, length) = match self.version {
            IpVersion::V4 => (self.start + 12, 4),
            IpVersion::V6 => (self.start + 8, 16),
        };
        bytes[first..first + 2 * length].split_at(length)
    }

    /// The same as values.
    pub fn address_pair(&self, bytes: &[u8]) -> [IpAddr; 2] {
        let (source, destination) = self.addresses(bytes);
        [source, destination].map(|octets| match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
            (Ok(octets), _) => octets.into(),
            (_, Ok(octets)) => octets.into(),
            // Neither has another length.
            _ => IpAddr::from([0; 4]),
        })
    }

    /// Source and destination port of TCP, UDP or SCTP, unless this is a fragment without them.
    #[inline]
    pub fn ports(&self, bytes: &[u8]) -> Option<(u16, u16)> {
        if self.fragment == Fragment::Later || !matches!(self.protocol, TCP | UDP | SCTP) {
            return None;
        }
        let packet = bytes.get(..self.end).unwrap_or(bytes);
        let &[a, b, c, d] = packet.get(self.transport..)?.first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

/// Where the payload of a complete TCP (RFC 9293 section 3.1) or UDP (RFC 768) header begins. `packet` ends where its
/// IP header says, so that padding is never taken for a header.
fn transport_payload(packet: &[u8], protocol: u8, transport: usize, fragment: Fragment) -> Option<usize> {
    let length = match (protocol, fragment) {
        (_, Fragment::Later) => return None,
        (TCP, _) => usize::from(packet.get(transport + 12)? >> 4) * 4,
        (UDP, _) => 8,
        _ => return None,
    };
    let least = if protocol == TCP { 20 } else { 8 };
    (length >= least && transport + length <= packet.len()).then_some(transport + length)
}

/// The big-endian number at `offset`, if it is there.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The same of four bytes.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, LaxSlicedPacket, TransportSlice};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What etherparse's lax slices say about `frame`, as our type: the oracle. `fragment` comes from the generator,
    /// because etherparse does not tell a first fragment from a later one.
    fn oracle(frame: &[u8], fragment: Fragment) -> Layers {
        let sliced = LaxSlicedPacket::from_ethernet(frame).unwrap();
        let offset = |slice: &[u8]| slice.as_ptr() as usize - frame.as_ptr() as usize;
        let ether = sliced.ether_payload().unwrap();
        let ip = sliced.ip_payload().map(|ip| {
            let transport = offset(ip.payload);
            let is_v4 = ether.ether_type.0 == ETHERTYPE_IPV4;
            let start = offset(ether.payload);
            Ip {
                version: if is_v4 { IpVersion::V4 } else { IpVersion::V6 },
                start,
                end: transport + ip.payload.len(),
                protocol: ip.ip_number.0,
                transport,
                fragment,
                // A first fragment has a transport header, which etherparse leaves alone.
                payload: match &sliced.transport {
                    Some(TransportSlice::Tcp(tcp)) => Some(offset(tcp.payload())),
                    Some(TransportSlice::Udp(udp)) => Some(offset(udp.payload())),
                    _ => None,
                },
            }
        });
        Layers { ethertype: ether.ether_type.0, network: offset(ether.payload), ip }
    }

    /// A transport protocol and its header and payload.
    fn transports() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let tcp = (vec(any::<u8>(), 12), 5..=15_u8, vec(any::<u8>(), 47..100)).prop_map(|(start, words, rest)| {
            let bytes = [&start[..], &[words << 4], &rest].concat();
            (TCP, bytes)
        });
        let udp = (any::<[u8; 4]>(), vec(any::<u8>(), 0..60)).prop_map(|(ports, payload)| {
            let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
            (UDP, [&ports[..], &length, &[0, 0], &payload].concat())
        });
        let others = (prop_oneof![Just(ICMP), Just(GRE), Just(ICMPV6), Just(132), Just(50)], vec(any::<u8>(), 1..60));
        prop_oneof![tcp, udp, others]
    }

    fn fragments() -> impl Strategy<Value = Fragment> {
        prop_oneof![4 => Just(Fragment::Whole), 1 => Just(Fragment::First), 1 => Just(Fragment::Later)]
    }

    fn ipv4_packets() -> impl Strategy<Value = (u16, Fragment, Vec<u8>)> {
        (transports(), fragments(), vec(any::<[u8; 4]>(), 0..=10)).prop_map(
            |((protocol, payload), fragment, options)| {
                let length = u16::try_from(payload.len()).unwrap();
                let mut header = Ipv4Header::new(length, 64, IpNumber(protocol), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
                header.options = options.concat().as_slice().try_into().unwrap();
                header.set_payload_len(payload.len()).unwrap();
                header.more_fragments = fragment == Fragment::First;
                if fragment == Fragment::Later {
                    header.fragment_offset = IpFragOffset::try_new(185).unwrap();
                }
                (ETHERTYPE_IPV4, fragment, [&header.to_bytes()[..], &payload].concat())
            },
        )
    }

    /// Extension headers in a row (RFC 8200 section 4.1), each asked for by a flag, in front of a transport header.
    fn ipv6_packets() -> impl Strategy<Value = (u16, Fragment, Vec<u8>)> {
        let extensions = (any::<[bool; 4]>(), 0..4_u8);
        (transports(), fragments(), extensions, any::<[u8; 32]>()).prop_map(
            |((protocol, payload), fragment, ([hop_by_hop, destination, routing, authentication], size), addresses)| {
                let options = |wanted: bool, number: u8| {
                    wanted.then(|| (number, [&[0, size][..], &vec![0; 6 + usize::from(size) * 8]].concat()))
                };
                let fragment_header = || {
                    let later = IpFragOffset::try_new(if fragment == Fragment::Later { 185 } else { 0 }).unwrap();
                    let more = fragment == Fragment::First;
                    (44, Ipv6FragmentHeader::new(IpNumber(0), later, more, 7).to_bytes().to_vec())
                };
                let mut chain: Vec<(u8, Vec<u8>)> = [
                    options(hop_by_hop, 0),
                    options(destination, 60),
                    options(routing, 43),
                    (fragment != Fragment::Whole).then(fragment_header),
                    // The authentication header counts in 4 bytes, less 2 (RFC 4302 section 2.2). It is part of what
                    // a fragment carries, and in a later one it is not there.
                    (authentication && fragment != Fragment::Later).then(|| (51, [&[0, 4][..], &[0; 22]].concat())),
                    Some((protocol, payload)),
                ]
                .into_iter()
                .flatten()
                .collect();
                for index in 1..chain.len() {
                    chain[index - 1].1[0] = chain[index].0;
                }
                let next_header = chain[0].0;
                let chain: Vec<u8> = chain.into_iter().flat_map(|(_, bytes)| bytes).collect();
                let [high, low] = u16::try_from(chain.len()).unwrap().to_be_bytes();
                let header = [&[0x60, 0, 0, 0, high, low, next_header, 64][..], &addresses].concat();
                (ETHERTYPE_IPV6, fragment, [header, chain].concat())
            },
        )
    }

    /// Ethernet, up to three tags, and an IP packet; with how many tags, and whether it is a fragment.
    fn frames() -> impl Strategy<Value = (usize, Fragment, Vec<u8>)> {
        let tag = (prop_oneof![Just(0x8100_u16), Just(0x88a8), Just(0x9100)], any::<u16>());
        let packet = prop_oneof![ipv4_packets(), ipv6_packets()];
        (any::<[u8; 12]>(), vec(tag, 0..=3), packet).prop_map(|(macs, tags, (ethertype, fragment, packet))| {
            let mut frame = macs.to_vec();
            for (tpid, tci) in &tags {
                frame.extend_from_slice(&tpid.to_be_bytes());
                frame.extend_from_slice(&tci.to_be_bytes());
            }
            frame.extend_from_slice(&ethertype.to_be_bytes());
            frame.extend_from_slice(&packet);
            (tags.len(), fragment, frame)
        })
    }

    /// What every reader of `Layers` relies on.
    fn assert_in_range(frame: &[u8], layers: &Layers) {
        assert!(layers.ethertype == 0 || layers.network <= frame.len());
        let Some(ip) = layers.ip else { return };
        assert!(ip.start < ip.transport && ip.transport <= ip.end.min(frame.len()), "{ip:?}");
        assert!(ip.payload.is_none_or(|payload| ip.transport < payload && payload <= ip.end.min(frame.len())));
        let (source, destination) = ip.addresses(frame);
        assert_eq!(source.len(), destination.len());
        let _ = ip.ports(frame);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whole_frames_read_as_etherparse_reads_them((tags, fragment, frame) in frames(), padding in 0..8_usize) {
            let padded = [&frame[..], &vec![0; padding]].concat();
            let layers = Layers::parse(&padded);
            assert_in_range(&padded, &layers);
            let mut expected = oracle(&padded, fragment);
            prop_assert_eq!(layers.network, 14 + 4 * tags);
            if let (Fragment::First, Some(ip)) = (fragment, &mut expected.ip) {
                ip.payload = match ip.protocol {
                    TCP => Some(ip.transport + usize::from(frame[ip.transport + 12] >> 4) * 4),
                    UDP => Some(ip.transport + 8),
                    _ => None,
                };
            }
            prop_assert_eq!(layers, expected);
        }

        #[test]
        fn a_cut_frame_reads_as_far_as_it_goes((_, fragment, frame) in frames(), cut in 0.0..1.0_f64) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "any length will do")]
            let cut = &frame[..14 + ((frame.len() - 14) as f64 * cut) as usize];
            let (layers, whole) = (Layers::parse(cut), Layers::parse(&frame));
            assert_in_range(cut, &layers);
            let (Some(ip), Some(whole)) = (layers.ip, whole.ip) else { return Ok(()) };
            // The length field still says where the packet would have ended.
            prop_assert_eq!(ip.end, whole.end);
            if ip.transport == whole.transport {
                prop_assert_eq!((ip.protocol, ip.fragment), (whole.protocol, fragment));
                prop_assert!(ip.payload == whole.payload || ip.payload.is_none());
                let expected = oracle(cut, fragment).ip.unwrap();
                prop_assert_eq!((ip.protocol, ip.transport), (expected.protocol, expected.transport));
            }
        }

        #[test]
        fn no_bytes_lead_out_of_the_frame(bytes in vec(any::<u8>(), 0..200), ethertype in 0..4_u8) {
            let mut frame = bytes;
            let ethertype = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x12, 0x34]][usize::from(ethertype)];
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&ethertype);
            }
            for version in [0x40, 0x60] {
                if let Some(first) = frame.get_mut(14) {
                    *first = version | *first & 0x0f;
                }
                assert_in_range(&frame, &Layers::parse(&frame));
            }
        }
    }

    #[test]
    fn padding_is_never_taken_for_a_transport_header() {
        // An IPv4 packet of nothing but its header, protocol UDP, in a frame padded to 60 bytes.
        let header = Ipv4Header::new(0, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        let frame = [&[0; 12][..], &[0x08, 0x00], &header.to_bytes(), &[0xff; 26]].concat();
        let ip = Layers::parse(&frame).ip.unwrap();
        assert_eq!((ip.transport, ip.end), (34, 34));
        assert_eq!((ip.payload, ip.ports(&frame)), (None, None));
    }

    #[test]
    fn a_packet_without_a_length_ends_with_its_frame() {
        for (ethertype, header) in [
            ([0x08, 0x00], [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, TCP][..], &[0; 10]].concat()),
            ([0x86, 0xdd], [&[0x60, 0, 0, 0, 0, 0, TCP, 64][..], &[0; 32]].concat()),
        ] {
            let mut frame = [&[0; 12][..], &ethertype, &header, &vec![0x50; 70_000]].concat();
            frame[14 + header.len() + 12] = 0x50;
            let ip = Layers::parse(&frame).ip.unwrap();
            assert_eq!((ip.end, ip.payload), (frame.len(), Some(14 + header.len() + 20)));
        }
    }
}
