//! The name of the header field that a byte of a frame lies in.

use crate::wire::layers::{Fragment, ICMP, ICMPV6, Ip, IpVersion, Layers, SCTP, TCP, UDP};
use crate::wire::nested::Nested;

/// The fields of a header: where each ends, counted from the start of the header, and its name.
type Fields = &'static [(usize, &'static str)];

/// RFC 791 section 3.1.
const IPV4: Fields = &[
    (1, "IPv4 version and header length"),
    (2, "IPv4 DSCP and ECN"),
    (4, "IPv4 total length"),
    (6, "IPv4 identification"),
    (8, "IPv4 flags and fragment offset"),
    (9, "IPv4 TTL"),
    (10, "IPv4 protocol"),
    (12, "IPv4 header checksum"),
    (16, "IPv4 source address"),
    (20, "IPv4 destination address"),
    (usize::MAX, "IPv4 options"),
];

/// RFC 8200 sections 3 and 4.
const IPV6: Fields = &[
    (4, "IPv6 version, traffic class and flow label"),
    (6, "IPv6 payload length"),
    (7, "IPv6 next header"),
    (8, "IPv6 hop limit"),
    (24, "IPv6 source address"),
    (40, "IPv6 destination address"),
    (usize::MAX, "IPv6 extension headers"),
];

/// RFC 9293 section 3.1.
const TCP_HEADER: Fields = &[
    (2, "TCP source port"),
    (4, "TCP destination port"),
    (8, "TCP sequence number"),
    (12, "TCP acknowledgment number"),
    (14, "TCP data offset and flags"),
    (16, "TCP window"),
    (18, "TCP checksum"),
    (20, "TCP urgent pointer"),
    (usize::MAX, "TCP options"),
];

/// RFC 768.
const UDP_HEADER: Fields =
    &[(2, "UDP source port"), (4, "UDP destination port"), (6, "UDP length"), (8, "UDP checksum")];

/// RFC 792, RFC 4443 section 2.1.
const ICMP_HEADER: Fields = &[(1, "ICMP type"), (2, "ICMP code"), (4, "ICMP checksum")];

/// RFC 9260 section 3.1.
const SCTP_HEADER: Fields =
    &[(2, "SCTP source port"), (4, "SCTP destination port"), (8, "SCTP verification tag"), (12, "SCTP checksum")];

/// The field that the byte at `offset` of `frame` lies in. What lies inside a tunnel is called inner.
pub(super) fn name(frame: &[u8], offset: usize) -> String {
    let layers = Layers::parse(frame);
    match offset {
        0..6 => return "Ethernet destination".to_owned(),
        6..12 => return "Ethernet source".to_owned(),
        _ if offset + 2 < layers.network => return "VLAN tag".to_owned(),
        _ if offset < layers.network => return "EtherType".to_owned(),
        _ => {}
    }
    let Some(outermost) = layers.ip else { return "payload".to_owned() };
    let nested = Nested::within(frame, outermost);
    let inside = nested.packets().iter().enumerate().rev().find(|(_, packet)| packet.start <= offset);
    let (level, packet) = inside.unwrap_or((0, &outermost));
    let field = match offset {
        _ if offset < packet.end => within(packet, offset),
        _ if is_padding(outermost.end, frame.get(outermost.end..).unwrap_or_default()) => "padding",
        _ => "trailer",
    };
    ["inner ".repeat(level), field.to_owned()].concat()
}

/// The checksum fields of all packets of `frame`: where each begins and ends, and its name.
pub(super) fn checksums(frame: &[u8]) -> Vec<(std::ops::Range<usize>, String)> {
    let Some(outermost) = Layers::parse(frame).ip else { return Vec::new() };
    let mut found = Vec::new();
    for packet in Nested::within(frame, outermost).packets() {
        let mut add = |start: usize, length| found.push((start..start + length, name(frame, start)));
        if packet.version == IpVersion::V4 {
            add(packet.start + 10, 2);
        }
        match packet.protocol {
            _ if packet.fragment == Fragment::Later => {}
            TCP => add(packet.transport + 16, 2),
            UDP => add(packet.transport + 6, 2),
            ICMP | ICMPV6 => add(packet.transport + 2, 2),
            SCTP => add(packet.transport + 8, 4),
            _ => {}
        }
    }
    found
}

/// Whether `bytes` from byte `begin` of a frame on, behind its packet, are what a sender fills a frame up with: zeros, or
/// anything up to the least length of a frame, as senders leave what was in their buffers.
pub(super) fn is_padding(begin: usize, bytes: &[u8]) -> bool {
    /// IEEE 802.3 section 3.2.8, without the frame check sequence.
    const LEAST_FRAME: usize = 60;
    begin + bytes.len() <= LEAST_FRAME || bytes.iter().all(|&byte| byte == 0)
}

fn within(packet: &Ip, offset: usize) -> &'static str {
    let header = match packet.version {
        IpVersion::V4 => IPV4,
        IpVersion::V6 => IPV6,
    };
    if offset < packet.transport {
        return field(header, offset - packet.start);
    }
    let (header, end) = match (packet.protocol, packet.payload) {
        _ if packet.fragment == Fragment::Later => return "payload",
        (TCP, Some(payload)) => (TCP_HEADER, payload),
        (UDP, _) => (UDP_HEADER, packet.transport + 8),
        (ICMP | ICMPV6, _) => (ICMP_HEADER, packet.transport + 4),
        (SCTP, _) => (SCTP_HEADER, packet.transport + 12),
        _ => return "payload",
    };
    if offset < end { field(header, offset - packet.transport) } else { "payload" }
}

fn field(fields: Fields, offset: usize) -> &'static str {
    fields.iter().find(|(end, _)| offset < *end).map_or("payload", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::oracle::{ip_frame, tcp_frame, udp_frame};
    use etherparse::TcpHeader;

    #[test]
    fn every_byte_of_a_frame_has_a_name() {
        let frame = tcp_frame(false, 1, TcpHeader::new(1, 2, 3, 4), b"data");
        for (offset, expected) in [
            (0, "Ethernet destination"),
            (11, "Ethernet source"),
            (12, "VLAN tag"),
            (15, "VLAN tag"),
            (16, "EtherType"),
            (18, "IPv4 version and header length"),
            (26, "IPv4 TTL"),
            (29, "IPv4 header checksum"),
            (34, "IPv4 destination address"),
            (42, "TCP sequence number"),
            (55, "TCP checksum"),
            (58, "payload"),
            (62, "padding"),
        ] {
            assert_eq!(name(&[&frame[..], &[0; 4]].concat(), offset), expected, "byte {offset}");
        }
        let frame = udp_frame(true, 53, b"data");
        assert_eq!(name(&frame, 14 + 7), "IPv6 hop limit");
        assert_eq!(name(&frame, 14 + 40 + 7), "UDP checksum");
        assert_eq!(name(&ip_frame(false, ICMP, &[8; 8]), 36), "ICMP checksum");
        assert_eq!(name(&ip_frame(false, SCTP, &[8; 16]), 42), "SCTP checksum");
        assert_eq!(name(&[1; 20], 15), "payload");
    }

    #[test]
    fn what_is_inside_a_tunnel_is_inner() {
        let vxlan = [8, 0, 0, 0, 0, 0, 42, 0];
        let frame =
            udp_frame(false, 4789, &[&vxlan[..], &tcp_frame(false, 0, TcpHeader::new(1, 2, 3, 4), b"x")].concat());
        let inner = 14 + 20 + 8 + 8 + 14;
        assert_eq!(name(&frame, inner + 20 + 16), "inner TCP checksum");
        assert_eq!(name(&frame, 14 + 8), "IPv4 TTL");
        let names: Vec<_> = checksums(&frame).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["IPv4 header checksum", "UDP checksum", "inner IPv4 header checksum", "inner TCP checksum"]);
    }
}
