//! Frames in tunnels in tunnels, for tests.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{ETHER_IP, IP_IN_IP, IPV6_IN_IP, MPLS, MPLS_IN_IP, PPPOE_SESSION};
use crate::quantity::{Dscp, Ttl};
use crate::wire::ethernet::HEADER_LEN;
use crate::wire::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::outer::{Addresses, Outer, Transport};

/// Something that is put around a frame.
#[derive(Clone, Debug)]
pub(crate) enum Around {
    /// VXLAN to this port.
    Vxlan(u16, u32),
    /// The Generic Protocol Extension, to this port.
    VxlanGpe(u16, u32),
    /// Geneve to this port, with so many bytes of options.
    Geneve(u16, u32, usize),
    /// GRE with these of checksum, key and sequence number.
    Gre([bool; 3]),
    /// The same, always with an Ethernet frame.
    Bridged([bool; 3]),
    /// ERSPAN I, II or III, the last one with its sub-header or without.
    Erspan(u8, bool),
    IpInIp,
    EtherIp,
    MplsInIp,
    /// So many labels.
    Mpls(u8),
    Pppoe,
    Vlan,
}

impl Around {
    /// Whether it has an IP header.
    pub(crate) fn is_tunnel(&self) -> bool {
        !matches!(self, Self::Mpls(_) | Self::Pppoe | Self::Vlan)
    }

    /// `frame` inside it, between these two hosts where it has an IP header.
    pub(crate) fn wrap(&self, frame: &[u8], source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let udp = |destination_port, header: &[u8], rest: &[u8]| {
            let transport = Transport::Udp { source_port: 40_000, destination_port, checksum: false };
            packet(source, destination, transport, &[header, rest].concat())
        };
        let gre = |parts: &[&[u8]]| packet(source, destination, Transport::Gre, &parts.concat());
        let bare = bare(frame);
        let vni = |vni: u32| (vni << 8).to_be_bytes();
        match self {
            Self::Vxlan(port, id) => udp(*port, &[&[8, 0, 0, 0], &vni(*id)[..]].concat(), frame),
            Self::VxlanGpe(port, id) => {
                let (protocol, inner) = match bare {
                    Some((ETHERTYPE_IPV4, packet)) => (1, packet),
                    Some((_, packet)) => (2, packet),
                    None => (3, frame),
                };
                udp(*port, &[&[0x0c, 0, 0, protocol], &vni(*id)[..]].concat(), inner)
            }
            Self::Geneve(port, id, options) => {
                let words = u8::try_from(options / 4).unwrap();
                udp(*port, &[&[words, 0, 0x65, 0x58], &vni(*id)[..], &vec![0x11; *options]].concat(), frame)
            }
            Self::Gre([checksum, key, sequence]) | Self::Bridged([checksum, key, sequence]) => {
                let flags = u8::from(*checksum) << 7 | u8::from(*key) << 5 | u8::from(*sequence) << 4;
                let words = 4 * (usize::from(*checksum) + usize::from(*key) + usize::from(*sequence));
                let bare = bare.filter(|_| matches!(self, Self::Gre(_)));
                let (protocol, inner) = bare.unwrap_or((0x6558, frame));
                gre(&[&[flags, 0], &protocol.to_be_bytes(), &vec![7; words], inner])
            }
            Self::Erspan(1, _) => gre(&[&[0, 0, 0x88, 0xbe], frame]),
            Self::Erspan(2, _) => gre(&[&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 9, 0, 0, 0, 0], frame]),
            Self::Erspan(_, sub_header) => {
                let rest: &[u8] = if *sub_header { &[0, 0, 0x80, 1, 1, 2, 3, 4, 5, 6, 7, 8] } else { &[0, 0, 0x80, 0] };
                gre(&[&[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1, 0x20, 0, 0, 9, 0, 0, 0, 0], rest, frame])
            }
            Self::IpInIp => match bare {
                Some((ETHERTYPE_IPV4, inner)) => other(source, destination, IP_IN_IP, inner),
                Some((_, inner)) => other(source, destination, IPV6_IN_IP, inner),
                None => Self::EtherIp.wrap(frame, source, destination),
            },
            Self::EtherIp => other(source, destination, ETHER_IP, &[&[0x30, 0], frame].concat()),
            Self::MplsInIp => other(source, destination, MPLS_IN_IP, &labels(1, frame)),
            Self::Mpls(count) => [&frame[..12], &MPLS.to_be_bytes(), &labels(*count, frame)].concat(),
            Self::Pppoe => match bare {
                Some((kind, inner)) => {
                    let protocol: u16 = if kind == ETHERTYPE_IPV4 { 0x21 } else { 0x57 };
                    let length = u16::try_from(inner.len() + 2).unwrap().to_be_bytes();
                    let head = [&PPPOE_SESSION.to_be_bytes()[..], &[0x11, 0, 0, 5], &length].concat();
                    [&frame[..12], &head, &protocol.to_be_bytes(), inner].concat()
                }
                None => Self::Vlan.wrap(frame, source, destination),
            },
            Self::Vlan => [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat(),
        }
    }
}

/// So many labels and what `frame` is: an IP packet, or Ethernet behind a control word.
fn labels(count: u8, frame: &[u8]) -> Vec<u8> {
    let stack = (1..=count).flat_map(|label| [0, 1, 0x10 | u8::from(label == count), 64]);
    let head: Vec<u8> = stack.collect();
    match bare(frame) {
        Some((_, packet)) => [&head, packet].concat(),
        None => [&head, &[0; 4][..], frame].concat(),
    }
}

/// The IP packet of an untagged frame, with its `EtherType`.
fn bare(frame: &[u8]) -> Option<(u16, &[u8])> {
    let kind = u16::from_be_bytes([frame[12], frame[13]]);
    matches!(kind, ETHERTYPE_IPV4 | ETHERTYPE_IPV6).then_some((kind, &frame[HEADER_LEN..]))
}

/// An Ethernet frame with an IP packet from one host to another.
pub(crate) fn packet(source: IpAddr, destination: IpAddr, transport: Transport, datagram: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    outer(source, destination, transport).write(datagram, &mut frame).unwrap();
    frame
}

pub(crate) fn outer(source: IpAddr, destination: IpAddr, transport: Transport) -> Outer {
    Outer {
        source_mac: [0x52; 6],
        destination_mac: [0x54; 6],
        addresses: Addresses::between(source, destination).unwrap(),
        dscp: Dscp::DEFAULT,
        ttl: Ttl::DEFAULT,
        identification: 77,
        dont_fragment: true,
        transport,
    }
}

/// The same with any protocol number.
pub(crate) fn other(source: IpAddr, destination: IpAddr, protocol: u8, datagram: &[u8]) -> Vec<u8> {
    let mut frame = packet(source, destination, Transport::Gre, datagram);
    frame[HEADER_LEN + if source.is_ipv4() { 9 } else { 6 }] = protocol;
    frame
}

/// Anything that can be put around a frame, to hosts that no test tunnels to.
pub(crate) fn arounds() -> impl Strategy<Value = Around> {
    let vni = || 1..1000_u32;
    let port = |usual: u16| prop_oneof![3 => Just(usual), 1 => 1..u16::MAX];
    prop_oneof![
        (prop_oneof![port(4789), Just(8472)], vni()).prop_map(|(port, vni)| Around::Vxlan(port, vni)),
        (port(4790), vni()).prop_map(|(port, vni)| Around::VxlanGpe(port, vni)),
        (port(6081), vni(), 0..4_usize).prop_map(|(port, vni, words)| Around::Geneve(port, vni, words * 4)),
        any::<[bool; 3]>().prop_map(Around::Gre),
        any::<[bool; 3]>().prop_map(Around::Bridged),
        (1..=3_u8, any::<bool>()).prop_map(|(kind, sub_header)| Around::Erspan(kind, sub_header)),
        Just(Around::IpInIp),
        Just(Around::EtherIp),
        Just(Around::MplsInIp),
        (1..4_u8).prop_map(Around::Mpls),
        Just(Around::Pppoe),
        Just(Around::Vlan),
    ]
}

/// Two hosts of one IP version, far from those of any test.
pub(crate) fn hosts() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| ([10, 99, 0, a].into(), [10, 99, 1, b].into())),
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| {
            let host = |last: u8| IpAddr::from([0xfd00, 0x99, 0, 0, 0, 0, 0, u16::from(last)]);
            (host(a), host(b))
        }),
    ]
}
