//! The outer headers: Ethernet, IPv4 (RFC 791) or IPv6 (RFC 8200), and UDP (RFC 768) or nothing more for GRE.
//!
//! ```text
//! +----------+---------------------+----------------+---------------+----------------+
//! | Ethernet | IPv4 20 | IPv6 40   | UDP 8 (or not) | tunnel header | mirrored frame |
//! +----------+---------------------+----------------+---------------+----------------+
//!                                                   |<--------- datagram ---------->|
//! ```
//!
//! On sockets the kernel writes all this; the dry run writes it here, so that its capture file shows what would leave.
//! ECN is 00 (a receiver drops a congestion mark over a frame without ECN, RFC 6040), the IPv6 flow label 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, UdpHeader,
    ether_type, ip_number,
};

use crate::quantity::{Dscp, Mtu, Ttl};

/// Outer headers of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Our link-layer address.
    pub source_mac: [u8; 6],
    /// The next hop's.
    pub destination_mac: [u8; 6],
    /// Ours and the analyzer's.
    pub addresses: Addresses,
    /// Code point, the upper six bits of TOS or traffic class.
    pub dscp: Dscp,
    /// Time to live or hop limit.
    pub ttl: Ttl,
    /// Names the packet for reassembly. IPv4 carries the low 16 bits always, IPv6 all of it in fragments only.
    pub identification: u32,
    /// IPv4's DF flag. [`write_fragments`](Self::write_fragments) clears it.
    pub dont_fragment: bool,
    /// What carries the datagram.
    pub transport: Transport,
}

/// Source and destination address, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Over IPv4.
    V4 {
        /// Ours.
        source: Ipv4Addr,
        /// The analyzer's.
        destination: Ipv4Addr,
    },
    /// Over IPv6.
    V6 {
        /// Ours.
        source: Ipv6Addr,
        /// The analyzer's.
        destination: Ipv6Addr,
    },
}

/// What carries the datagram over IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// VXLAN and Geneve.
    Udp {
        /// Entropy: one of our ports, by flow.
        source_port: u16,
        /// The tunnel's port.
        destination_port: u16,
        /// Whether the checksum is computed; zero otherwise.
        checksum: bool,
    },
    /// GRE and ERSPAN: IP protocol 47, the datagram follows at once.
    Gre,
}

/// The datagram does not fit into one IP packet, whose length field has 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a datagram of {0} bytes does not fit into an IP packet")]
pub struct TooLong(pub usize);

impl Addresses {
    /// The two addresses, if they are of one family.
    pub fn between(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 { source, destination }),
            _ => None,
        }
    }
}

impl Outer {
    /// Appends headers and `datagram` to `out`: one Ethernet frame.
    ///
    /// # Errors
    /// When `datagram` does not fit into an IP packet; `out` is then unchanged.
    pub fn write(&self, datagram: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        let udp = self.udp_header(datagram)?;
        self.write_ip_packet(None, [head(udp.as_ref()), datagram], out).ok_or(TooLong(datagram.len()))
    }

    /// Gives each Ethernet frame of `datagram` to `each`: one if it fits `mtu`, otherwise IP fragments as full as `mtu`
    /// and the eight-byte rule allow, in order. IPv4 packets have DF clear, as those of a socket that may fragment.
    /// `scratch` is overwritten.
    ///
    /// # Errors
    /// When `datagram` does not fit into an IP packet; `each` is then never called.
    pub fn write_fragments(
        &self,
        datagram: &[u8],
        mtu: Mtu,
        scratch: &mut Vec<u8>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        let outer = Self { dont_fragment: false, ..*self };
        scratch.clear();
        outer.write(datagram, scratch)?;
        if scratch.len() - Ethernet2Header::LEN <= mtu.value() as usize {
            each(scratch);
            return Ok(());
        }
        let udp = outer.udp_header(datagram)?;
        let head = head(udp.as_ref());
        let ip_len = match outer.addresses {
            Addresses::V4 { .. } => Ipv4Header::MIN_LEN,
            Addresses::V6 { .. } => Ipv6Header::LEN + Ipv6FragmentHeader::LEN,
        };
        // All fragments but the last carry a multiple of eight bytes (RFC 791 section 3.2, RFC 8200 section 4.5), so
        // that the UDP header is always in the first.
        let room = (mtu.value() as usize - ip_len) & !7;
        let (end, mut offset) = (head.len() + datagram.len(), 0);
        while offset < end {
            let next = end.min(offset + room);
            let data = &datagram[offset.saturating_sub(head.len())..next - head.len()];
            let head = if offset == 0 { head } else { &[] };
            let place = FragmentPlace { offset, more: next < end };
            scratch.clear();
            outer.write_ip_packet(Some(place), [head, data], scratch).ok_or(TooLong(datagram.len()))?;
            each(scratch);
            offset = next;
        }
        Ok(())
    }

    /// The UDP header in front of the whole datagram, if there is one.
    fn udp_header(&self, datagram: &[u8]) -> Result<Option<[u8; UdpHeader::LEN]>, TooLong> {
        let Transport::Udp { source_port, destination_port, checksum } = self.transport else { return Ok(None) };
        let too_long = |_| TooLong(datagram.len());
        let mut header =
            UdpHeader::without_ipv4_checksum(source_port, destination_port, datagram.len()).map_err(too_long)?;
        if checksum {
            header.checksum = match self.addresses {
                Addresses::V4 { source, destination } => {
                    header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), datagram)
                }
                Addresses::V6 { source, destination } => {
                    header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), datagram)
                }
            }
            .map_err(too_long)?;
        }
        Ok(Some(header.to_bytes()))
    }

    /// Appends one Ethernet frame with one IP packet or fragment; `None` when a length does not fit its field.
    fn write_ip_packet(&self, place: Option<FragmentPlace>, payload: [&[u8]; 2], out: &mut Vec<u8>) -> Option<()> {
        let payload_len = payload[0].len() + payload[1].len();
        let protocol = match self.transport {
            Transport::Udp { .. } => ip_number::UDP,
            Transport::Gre => ip_number::GRE,
        };
        match self.addresses {
            Addresses::V4 { source, destination } => {
                let header = self.ipv4_header(source, destination, protocol, place, payload_len)?;
                out.extend_from_slice(&self.ethernet_header(ether_type::IPV4));
                out.extend_from_slice(&header.to_bytes());
            }
            Addresses::V6 { source, destination } => {
                let fragment = match place {
                    Some(place) => Some(self.ipv6_fragment_header(protocol, place)?),
                    None => None,
                };
                let header = Ipv6Header {
                    traffic_class: self.dscp.value() << 2,
                    payload_length: u16::try_from(payload_len + fragment.map_or(0, |header| header.len())).ok()?,
                    next_header: if fragment.is_some() { ip_number::IPV6_FRAG } else { protocol },
                    hop_limit: self.ttl.value(),
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                out.extend_from_slice(&self.ethernet_header(ether_type::IPV6));
                out.extend_from_slice(&header.to_bytes());
                if let Some(fragment) = fragment {
                    out.extend_from_slice(&fragment);
                }
            }
        }
        out.extend_from_slice(payload[0]);
        out.extend_from_slice(payload[1]);
        Some(())
    }

    fn ethernet_header(&self, ether_type: EtherType) -> [u8; Ethernet2Header::LEN] {
        Ethernet2Header { source: self.source_mac, destination: self.destination_mac, ether_type }.to_bytes()
    }

    fn ipv4_header(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: IpNumber,
        place: Option<FragmentPlace>,
        payload_len: usize,
    ) -> Option<Ipv4Header> {
        let [.., high, low] = self.identification.to_be_bytes();
        let mut header = Ipv4Header {
            // Six bits always are a code point.
            dscp: IpDscp::try_new(self.dscp.value()).unwrap_or_default(),
            total_len: u16::try_from(Ipv4Header::MIN_LEN + payload_len).ok()?,
            identification: u16::from_be_bytes([high, low]),
            dont_fragment: self.dont_fragment,
            more_fragments: place.is_some_and(|place| place.more),
            fragment_offset: place.map_or(Some(IpFragOffset::ZERO), FragmentPlace::offset_field)?,
            time_to_live: self.ttl.value(),
            protocol,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv4Header::default()
        };
        header.header_checksum = header.calc_header_checksum();
        Some(header)
    }

    fn ipv6_fragment_header(&self, protocol: IpNumber, place: FragmentPlace) -> Option<[u8; Ipv6FragmentHeader::LEN]> {
        let offset = place.offset_field()?;
        Some(Ipv6FragmentHeader::new(protocol, offset, place.more, self.identification).to_bytes())
    }
}

/// Where a fragment's data belong in the packet.
#[derive(Clone, Copy)]
struct FragmentPlace {
    /// In bytes: a multiple of eight.
    offset: usize,
    /// Whether others follow.
    more: bool,
}

impl FragmentPlace {
    fn offset_field(self) -> Option<IpFragOffset> {
        IpFragOffset::try_new(u16::try_from(self.offset / 8).ok()?).ok()
    }
}

/// The bytes of a header that may not be there.
fn head(udp: Option<&[u8; UdpHeader::LEN]>) -> &[u8] {
    udp.map_or(&[], |header| &header[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::defrag::{IpDefragPayloadVec, IpDefragPool};
    use etherparse::{InternetSlice, IpHeaders, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    const UDP: Transport = Transport::Udp { source_port: 50_000, destination_port: 4789, checksum: true };

    fn over_ipv4(transport: Transport) -> Outer {
        Outer {
            source_mac: [0, 0, 0x5e, 0, 0x53, 1],
            destination_mac: [0, 0, 0x5e, 0, 0x53, 2],
            addresses: Addresses::between([192, 0, 2, 1].into(), [192, 0, 2, 2].into()).unwrap(),
            dscp: Dscp::new(8).unwrap(),
            ttl: Ttl::DEFAULT,
            identification: 0x0001_2345,
            dont_fragment: true,
            transport,
        }
    }

    fn over_ipv6(transport: Transport) -> Outer {
        let address = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        Outer { addresses: Addresses::between(address(1), address(2)).unwrap(), ..over_ipv4(transport) }
    }

    fn whole(outer: &Outer, datagram: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        outer.write(datagram, &mut frame).unwrap();
        frame
    }

    fn fragments(outer: &Outer, datagram: &[u8], mtu: u64) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        outer
            .write_fragments(datagram, Mtu::new(mtu).unwrap(), &mut Vec::new(), |frame| frames.push(frame.to_vec()))
            .unwrap();
        frames
    }

    /// What etherparse's reassembly makes of `frames`: the IP payload, which must be complete with the last frame.
    fn reassembled(frames: &[Vec<u8>]) -> IpDefragPayloadVec {
        let mut pool = IpDefragPool::<(), ()>::new();
        let mut complete = None;
        for frame in frames {
            assert!(complete.is_none(), "complete before the last fragment");
            complete = pool.process_sliced_packet(&SlicedPacket::from_ethernet(frame).unwrap(), (), ()).unwrap();
        }
        complete.unwrap()
    }

    proptest! {
        #[test]
        fn fragments_fit_the_mtu_and_reassemble_to_the_whole_packet(
            datagram in proptest::collection::vec(any::<u8>(), 0..6000),
            mtu in 576..2000_u64,
            udp: bool,
            v6: bool,
        ) {
            let transport = if udp { UDP } else { Transport::Gre };
            let outer = if v6 { over_ipv6(transport) } else { over_ipv4(transport) };
            let frames = fragments(&outer, &datagram, mtu);
            prop_assert!(frames.iter().all(|frame| frame.len() as u64 <= 14 + mtu));
            let whole = whole(&Outer { dont_fragment: false, ..outer }, &datagram);
            if whole.len() as u64 <= 14 + mtu {
                prop_assert_eq!(frames, vec![whole]);
            } else {
                let payload = reassembled(&frames);
                prop_assert_eq!(&payload.payload, &whole[14 + if v6 { 40 } else { 20 }..]);
                prop_assert_eq!(payload.ip_number, if udp { ip_number::UDP } else { ip_number::GRE });
            }
        }
    }

    #[test]
    fn a_reader_finds_every_field_as_it_was_set() {
        for outer in [over_ipv4(UDP), over_ipv6(UDP)] {
            let frame = whole(&outer, b"tunnel header and frame");
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("no UDP in {packet:?}") };
            assert_eq!((udp.source_port(), udp.destination_port()), (50_000, 4789));
            assert_eq!(udp.payload(), b"tunnel header and frame");
            let (ip, _) = IpHeaders::from_slice(&frame[14..]).unwrap();
            let expected = match ip {
                IpHeaders::Ipv4(ip, _) => {
                    assert_eq!((ip.dscp.value(), ip.ecn.value(), ip.time_to_live), (8, 0, 64));
                    assert_eq!((ip.identification, ip.dont_fragment), (0x2345, true));
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    udp.to_header().calc_checksum_ipv4(&ip, udp.payload())
                }
                IpHeaders::Ipv6(ip, _) => {
                    assert_eq!((ip.traffic_class, ip.flow_label.value(), ip.hop_limit), (8 << 2, 0, 64));
                    udp.to_header().calc_checksum_ipv6(&ip, udp.payload())
                }
            };
            assert_eq!(udp.checksum(), expected.unwrap());
        }
    }

    #[test]
    fn gre_follows_ip_at_once() {
        for outer in [over_ipv4(Transport::Gre), over_ipv6(Transport::Gre)] {
            let frame = whole(&outer, &[0, 0, 0x65, 0x58]);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let payload = match &packet.net {
                Some(InternetSlice::Ipv4(ip)) => ip.payload(),
                Some(InternetSlice::Ipv6(ip)) => ip.payload(),
                _ => panic!("no IP in {packet:?}"),
            };
            assert_eq!((payload.ip_number, payload.payload), (ip_number::GRE, &[0, 0, 0x65, 0x58][..]));
        }
    }

    #[test]
    fn what_no_ip_packet_can_hold_is_refused_and_nothing_is_written() {
        let datagram = vec![0; 65_535];
        for (outer, most) in [
            (over_ipv4(UDP), 65_535 - 28),
            (over_ipv4(Transport::Gre), 65_535 - 20),
            (over_ipv6(UDP), 65_535 - 8),
            (over_ipv6(Transport::Gre), 65_535),
        ] {
            let mut frame = Vec::new();
            assert_eq!(outer.write(&datagram[..most], &mut frame), Ok(()));
            frame.clear();
            if let Some(too_long) = datagram.get(..=most) {
                assert_eq!(outer.write(too_long, &mut frame), Err(TooLong(most + 1)));
                assert!(frame.is_empty());
            }
        }
    }
}
