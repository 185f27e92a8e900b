//! The other opinion in tests: frames made and read by etherparse.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, VlanId};

/// What TCP and IP headers of a frame say.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Flags byte: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// Urgent pointer.
    pub urgent: u16,
    /// IPv4 identification.
    pub identification: Option<u16>,
    /// What the TCP checksum is over the right one, modulo 65,535: 0 is right.
    pub error: u32,
    /// TCP payload.
    pub payload: Vec<u8>,
}

/// Reads a frame that must be TCP to its last byte, with a right IPv4 header checksum.
pub fn segment(frame: &[u8]) -> Segment {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP: {sliced:?}") };
    let (right, identification) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            let right = tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap();
            (right, Some(header.identification()))
        }
        NetSlice::Ipv6(ip) => (tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap(), None),
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let payload = tcp.payload().to_vec();
    assert!(frame.ends_with(&payload));
    let error = (u32::from(tcp.checksum()) + 65_535 - u32::from(right)) % 65_535;
    let (sequence, flags, urgent) = (tcp.sequence_number(), tcp.slice()[13], tcp.urgent_pointer());
    Segment { sequence, flags, urgent, identification, error, payload }
}

/// A TCP frame: over IPv6 or IPv4, with no, one or two VLAN tags.
pub fn tcp_frame(is_ipv6: bool, tags: u8, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(is_ipv6, tags).tcp_header(header).write(&mut frame, payload).unwrap();
    frame
}

/// A UDP frame, without VLAN tags.
pub fn udp_frame(is_ipv6: bool, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(is_ipv6, 0).udp(49_152, destination_port).write(&mut frame, payload).unwrap();
    frame
}

/// An IP packet with any payload, in Ethernet.
pub fn ip_frame(is_ipv6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(is_ipv6, 0).write(&mut frame, etherparse::IpNumber(protocol), payload).unwrap();
    frame
}

fn ip(is_ipv6: bool, tags: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = if is_ipv6 {
        let mut header = etherparse::Ipv6Header { hop_limit: 64, ..Default::default() };
        (header.source, header.destination) = ([0xfd; 16], [0xfe; 16]);
        etherparse::IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
    } else {
        let mut header =
            etherparse::Ipv4Header::new(0, 64, etherparse::ip_number::TCP, [192, 0, 2, 1], [192, 0, 2, 2]).unwrap();
        (header.identification, header.dont_fragment) = (0xfffe, true);
        etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    };
    let (outer, inner) = (VlanId::try_new(100).unwrap(), VlanId::try_new(200).unwrap());
    match tags {
        0 => ethernet.ip(ip),
        1 => ethernet.single_vlan(outer).ip(ip),
        _ => ethernet.double_vlan(outer, inner).ip(ip),
    }
}
