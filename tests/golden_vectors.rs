//! What we write, byte for byte against encoders that share nothing with ours: scapy, the Linux kernel, and Open
//! vSwitch's userspace datapath. And what a kernel answers. Each line of a vector is a word of the header's figure, with
//! its fields named.

#![allow(clippy::unwrap_used)]

use farspan::quantity::{Direction, Dscp, ErspanIndex, ErspanSessionId, GreKey, Mtu, Timestamp, Ttl, Vni};
use farspan::select::own_traffic::OwnTraffic;
use farspan::wire::carrier::{Carrier, OwnTunnel};
use farspan::wire::decapsulate::{Decapsulated, Rules, Tunnel};
use farspan::wire::erspan::{Erspan2, Erspan3, Ticks};
use farspan::wire::geneve::Geneve;
use farspan::wire::gre::{self, Gre};
use farspan::wire::layers::Layers;
use farspan::wire::outer::{Addresses, Outer, Transport};
use farspan::wire::vxlan::Vxlan;

#[test]
fn vxlan_as_scapy_writes_it() {
    let header = Vxlan { vni: vni() };
    let datagram = in_front_of(FRAME, Vxlan::LEN, |out| header.write(out));
    assert_written(VXLAN_IPV4, &over_ipv4(udp(4789, false)), &datagram);
    assert_written(VXLAN_IPV4_CHECKSUM, &over_ipv4(udp(4789, true)), &datagram);
    assert_written(VXLAN_IPV6, &over_ipv6(udp(4789, true)), &datagram);
    assert_eq!(Vxlan::parse(&datagram), Ok((header, &bytes(FRAME)[..])));
}

#[test]
fn vxlan_as_the_kernel_writes_it() {
    let datagram = in_front_of(FRAME, Vxlan::LEN, |out| Vxlan { vni: vni() }.write(out));
    let ipv4 = Outer { identification: 0x7302, ..over_ipv4(udp(4789, true)) };
    assert_written(KERNEL_VXLAN_IPV4, &ipv4, &datagram);
    assert_written(KERNEL_VXLAN_IPV6, &over_ipv6(udp(4789, true)), &datagram);
}

#[test]
fn outer_fragments_as_the_kernel_makes_them() {
    let ipv4 = Outer { identification: 0xbdfd, ..over_ipv4(udp(4789, false)) };
    let ipv6 = Outer { identification: 0xe911_a270, ..over_ipv6(udp(4789, true)) };
    for (outer, vectors) in [(ipv4, KERNEL_FRAGMENTS_IPV4), (ipv6, KERNEL_FRAGMENTS_IPV6)] {
        let expected = vectors.map(|(headers, length)| {
            let mut frame = bytes(headers);
            frame.resize(length, 0);
            frame
        });
        let mut fragments = Vec::new();
        let mtu = Mtu::new(1280).unwrap();
        outer.write_fragments(&[0; 2600], mtu, &mut Vec::new(), |frame| fragments.push(frame.to_vec())).unwrap();
        assert_eq!(fragments, expected);
    }
}

#[test]
fn geneve_as_scapy_and_open_vswitch_write_it() {
    let header = Geneve { vni: vni() };
    let datagram = in_front_of(FRAME, Geneve::LEN, |out| header.write(out));
    assert_written(GENEVE_IPV4, &over_ipv4(udp(6081, false)), &datagram);
    assert_written(GENEVE_IPV6, &over_ipv6(udp(6081, true)), &datagram);
    let from_its_port = Transport::Udp { source_port: 0xa16c, destination_port: 6081, checksum: false };
    assert_written(OVS_GENEVE, &as_open_vswitch(from_its_port), &datagram);
    assert_eq!(Geneve::parse(&datagram), Ok((header, &bytes(FRAME)[..])));
}

#[test]
fn gre_as_scapy_and_open_vswitch_write_it() {
    let key = Some(GreKey::new(0xcafe_f00d).unwrap());
    let sequence = Some(0x0102_0304);
    let (ipv4, ipv6) = (over_ipv4(Transport::Gre), over_ipv6(Transport::Gre));
    let ovs = as_open_vswitch(Transport::Gre);
    for (vector, outer, key, sequence) in [
        (GRE_IPV4, ipv4, None, None),
        (GRE_IPV6, ipv6, None, None),
        (GRE_KEY, ipv4, key, None),
        (GRE_SEQUENCE, ipv4, None, sequence),
        (GRE_KEY_SEQUENCE, ipv4, key, sequence),
        (OVS_GRE, ovs, None, None),
        (OVS_GRE_KEY_SEQUENCE, ovs, key, Some(1)),
    ] {
        let header = Gre { protocol: gre::TRANSPARENT_ETHERNET, key, sequence };
        let datagram = in_front_of(FRAME, header.header_len(), |out| header.write(out));
        assert_written(vector, &outer, &datagram);
        assert_eq!(Gre::parse(&datagram), Ok((header, &bytes(FRAME)[..])));
    }
}

#[test]
fn erspan_i_as_scapy_writes_it() {
    let header = Gre { protocol: gre::ERSPAN, key: None, sequence: None };
    let datagram = in_front_of(FRAME, header.header_len(), |out| header.write(out));
    assert_written(ERSPAN_I, &over_ipv4(Transport::Gre), &datagram);
}

#[test]
fn erspan_ii_as_scapy_and_open_vswitch_write_it() {
    let index = ErspanIndex::new(0x12345).unwrap();
    let plain = Erspan2 { session: session(), index, truncated: false, tagged: false };
    let tagged_truncated = Erspan2 { truncated: true, tagged: true, ..plain };
    for (vector, outer, sequence, header, frame) in [
        (ERSPAN_II, over_ipv4(Transport::Gre), 0x0102_0304, plain, FRAME),
        (ERSPAN_II_TAGGED_TRUNCATED, over_ipv6(Transport::Gre), 0x0102_0304, tagged_truncated, TAGGED_FRAME),
        (OVS_ERSPAN_II, as_open_vswitch(Transport::Gre), 1, plain, FRAME),
    ] {
        let gre = Gre { protocol: gre::ERSPAN, key: None, sequence: Some(sequence) };
        let erspan = in_front_of(frame, Erspan2::LEN, |out| header.write(out));
        let datagram = [written(gre.header_len(), |out| gre.write(out)), erspan.clone()].concat();
        assert_written(vector, &outer, &datagram);
        assert_eq!(Erspan2::parse(&erspan), Ok((header, &bytes(frame)[..])));
    }
}

#[test]
fn erspan_iii_as_scapy_and_open_vswitch_write_it() {
    let timestamp = Ticks(0xdead_beef);
    let ingress = Erspan3 { session: session(), direction: Direction::In, timestamp, truncated: false };
    let egress_truncated = Erspan3 { direction: Direction::Out, truncated: true, ..ingress };
    // The capture saw it at 2026-11-22 10:38:53.103432 UTC, within the same 100 µs.
    let captured = Timestamp::from_nanos(1_795_343_933_103_432_000);
    let egress = Erspan3 { direction: Direction::Out, timestamp: captured.into(), ..ingress };
    for (vector, outer, sequence, header) in [
        (ERSPAN_III_IN, over_ipv4(Transport::Gre), 0x0102_0304, ingress),
        (ERSPAN_III_OUT_TRUNCATED, over_ipv6(Transport::Gre), 0x0102_0304, egress_truncated),
        (OVS_ERSPAN_III, as_open_vswitch(Transport::Gre), 0, egress),
    ] {
        let gre = Gre { protocol: gre::ERSPAN_III, key: None, sequence: Some(sequence) };
        let erspan = in_front_of(FRAME, Erspan3::LEN, |out| header.write(out));
        let mut datagram = [written(gre.header_len(), |out| gre.write(out)), erspan.clone()].concat();
        if vector == OVS_ERSPAN_III {
            // P: Open vSwitch leaves it 0; the draft sets it for an Ethernet frame, and so do we.
            datagram[18] &= !0x80;
        }
        assert_written(vector, &outer, &datagram);
        assert_eq!(Erspan3::parse(&erspan), Ok((header, &bytes(FRAME)[..])));
    }
}

#[test]
fn what_the_kernel_answers_to_our_datagrams_is_own_traffic() {
    let vxlan = Carrier::Udp { sources: vec![50_000], destination: 4789, vnis: vec![vni()] };
    let erspan = Carrier::Erspan2 { sessions: vec![session()] };
    for (answer, outer, carrier) in [
        (KERNEL_PORT_UNREACHABLE_IPV4, over_ipv4(udp(4789, true)), &vxlan),
        (KERNEL_PROTOCOL_UNREACHABLE_IPV4, over_ipv4(Transport::Gre), &erspan),
        (KERNEL_PORT_UNREACHABLE_IPV6, over_ipv6(udp(4789, true)), &vxlan),
        (KERNEL_PARAMETER_PROBLEM_IPV6, over_ipv6(Transport::Gre), &erspan),
    ] {
        let (local, remote) = match outer.addresses {
            Addresses::V4 { source, destination } => (source.into(), destination.into()),
            Addresses::V6 { source, destination } => (source.into(), destination.into()),
        };
        let answer = bytes(answer);
        let layers = Layers::parse(&answer);
        for ours in [&vxlan, &erspan] {
            let mut own = OwnTraffic::new(vec![OwnTunnel { local, remote, carrier: ours.clone() }]);
            assert_eq!(own.is_ours(&answer, &layers), ours == carrier, "{ours:?}");
        }
    }
}

#[test]
fn what_others_wrote_is_taken_off_again() {
    let (vni, key, session) = (Some(0x12_3456), Some(0xcafe_f00d), Some(0x2a5));
    let (sequence, first) = (Some(0x0102_0304), Some(1));
    let (into, out) = (Some(Direction::In), Some(Direction::Out));
    for (vector, tunnel, id, sequence, direction) in [
        (VXLAN_IPV4, Tunnel::Vxlan, vni, None, None),
        (VXLAN_IPV4_CHECKSUM, Tunnel::Vxlan, vni, None, None),
        (VXLAN_IPV6, Tunnel::Vxlan, vni, None, None),
        (KERNEL_VXLAN_IPV4, Tunnel::Vxlan, vni, None, None),
        (KERNEL_VXLAN_IPV6, Tunnel::Vxlan, vni, None, None),
        (GENEVE_IPV4, Tunnel::Geneve, vni, None, None),
        (GENEVE_IPV6, Tunnel::Geneve, vni, None, None),
        (OVS_GENEVE, Tunnel::Geneve, vni, None, None),
        (GRE_IPV4, Tunnel::Gre, None, None, None),
        (GRE_IPV6, Tunnel::Gre, None, None, None),
        (GRE_KEY, Tunnel::Gre, key, None, None),
        (GRE_SEQUENCE, Tunnel::Gre, None, sequence, None),
        (GRE_KEY_SEQUENCE, Tunnel::Gre, key, sequence, None),
        (OVS_GRE, Tunnel::Gre, None, None, None),
        (OVS_GRE_KEY_SEQUENCE, Tunnel::Gre, key, first, None),
        (ERSPAN_I, Tunnel::Erspan1, None, None, None),
        (ERSPAN_II, Tunnel::Erspan2, session, sequence, None),
        (ERSPAN_II_TAGGED_TRUNCATED, Tunnel::Erspan2, session, sequence, None),
        (OVS_ERSPAN_II, Tunnel::Erspan2, session, first, None),
        (ERSPAN_III_IN, Tunnel::Erspan3, session, sequence, into),
        (ERSPAN_III_OUT_TRUNCATED, Tunnel::Erspan3, session, sequence, out),
        (OVS_ERSPAN_III, Tunnel::Erspan3, session, Some(0), out),
    ] {
        let outer = bytes(vector);
        let strict = Rules { strict: true, ..Rules::default() };
        let (_, taken) = strict.take_from_frame(&outer).unwrap_or_else(|error| panic!("{error}:\n{vector}"));
        let frame = if vector == ERSPAN_II_TAGGED_TRUNCATED { TAGGED_FRAME } else { FRAME };
        assert_eq!(taken.bytes, bytes(frame), "{vector}");
        let truncated = vector == ERSPAN_II_TAGGED_TRUNCATED || vector == ERSPAN_III_OUT_TRUNCATED;
        let expected =
            Decapsulated { tunnel, id, sequence, direction, truncated, removed_tag: None, missing: 0, ..taken };
        assert_eq!(taken, expected, "{vector}");
    }
}

/// Compares a whole outer frame.
#[track_caller]
fn assert_written(vector: &str, outer: &Outer, datagram: &[u8]) {
    let mut frame = Vec::new();
    outer.write(datagram, &mut frame).unwrap();
    let expected = bytes(vector);
    let differs = frame.iter().zip(&expected).position(|(ours, theirs)| ours != theirs);
    assert_eq!(frame, expected, "they differ first at byte {differs:?} of\n{vector}");
}

fn over_ipv4(transport: Transport) -> Outer {
    Outer {
        source_mac: [0x00, 0x00, 0x5e, 0x00, 0x53, 0x01],
        destination_mac: [0x00, 0x00, 0x5e, 0x00, 0x53, 0x02],
        addresses: Addresses::between([192, 0, 2, 1].into(), [192, 0, 2, 2].into()).unwrap(),
        dscp: Dscp::new(8).unwrap(),
        ttl: Ttl::DEFAULT,
        identification: 0x1234,
        dont_fragment: true,
        transport,
    }
}

fn over_ipv6(transport: Transport) -> Outer {
    let address = |last: u16| [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into();
    Outer { addresses: Addresses::between(address(1), address(2)).unwrap(), ..over_ipv4(transport) }
}

/// Open vSwitch names no packet that may not be fragmented (RFC 6864 section 4.1).
fn as_open_vswitch(transport: Transport) -> Outer {
    Outer { identification: 0, ..over_ipv4(transport) }
}

fn udp(destination_port: u16, checksum: bool) -> Transport {
    Transport::Udp { source_port: 50_000, destination_port, checksum }
}

fn vni() -> Vni {
    Vni::new(0x12_3456).unwrap()
}

fn session() -> ErspanSessionId {
    ErspanSessionId::new(0x2a5).unwrap()
}

/// What `write` leaves in `length` bytes that were not zero before.
fn written(length: usize, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut header = vec![0xaa; length];
    write(&mut header);
    header
}

fn in_front_of(frame: &str, length: usize, write: impl FnOnce(&mut [u8])) -> Vec<u8> {
    [written(length, write), bytes(frame)].concat()
}

/// The bytes of a vector: hexadecimal, spaces between fields, a comment behind `#`.
fn bytes(vector: &str) -> Vec<u8> {
    let digits: Vec<u8> = vector
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.bytes().filter(|byte| !byte.is_ascii_whitespace()))
        .collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// An ARP request, from and for addresses of documentation (RFC 7042, RFC 5737). The mirrored frame of all vectors.
const FRAME: &str = "
    ffffffffffff 00005e00530a 0806     # destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

/// The same in VLAN 100, with priority 5.
const TAGGED_FRAME: &str = "
    ffffffffffff 00005e00530a 8100 a064 0806 # destination, source, 802.1Q, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

// scapy 2.8.0: the output of tests/golden/make.py.

const VXLAN_IPV4: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004e                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 11 a447                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    c350 12b5 003a 0000                # UDP: source port 50000, destination port, length, checksum
    08 000000                          # VXLAN: I; reserved
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const VXLAN_IPV4_CHECKSUM: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004e                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 11 a447                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    c350 12b5 003a 68af                # UDP: source port 50000, destination port, length, checksum
    08 000000                          # VXLAN: I; reserved
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const VXLAN_IPV6: &str = "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    003a 11 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    c350 12b5 003a 913e                # UDP: source port 50000, destination port, length, checksum
    08 000000                          # VXLAN: I; reserved
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const GENEVE_IPV4: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004e                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 11 a447                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    c350 17c1 003a 0000                # UDP: source port 50000, destination port, length, checksum
    00 00 6558                         # Geneve: version 0, no options; O 0, C 0; Transparent Ethernet Bridging
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const GENEVE_IPV6: &str = "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    003a 11 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    c350 17c1 003a 2eda                # UDP: source port 50000, destination port, length, checksum
    00 00 6558                         # Geneve: version 0, no options; O 0, C 0; Transparent Ethernet Bridging
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const GRE_IPV4: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0042                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 2f a435                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    0000 6558                          # GRE: flags, version 0; protocol type
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const GRE_IPV6: &str = "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    002e 2f 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    0000 6558                          # GRE: flags, version 0; protocol type
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const GRE_KEY: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0046                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 2f a431                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    2000 6558                          # GRE: flags, version 0; protocol type
    cafef00d                           # key 0xcafef00d
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const GRE_SEQUENCE: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0046                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 2f a431                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    1000 6558                          # GRE: flags, version 0; protocol type
    01020304                           # sequence number 0x01020304
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const GRE_KEY_SEQUENCE: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004a                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 2f a42d                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    3000 6558                          # GRE: flags, version 0; protocol type
    cafef00d                           # key 0xcafef00d
    01020304                           # sequence number 0x01020304
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const ERSPAN_I: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0042                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 2f a435                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    0000 88be                          # GRE: flags, version 0; protocol type
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const ERSPAN_II: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004e                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 2f a429                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    1000 88be                          # GRE: flags, version 0; protocol type
    01020304                           # sequence number 0x01020304
    1000 02a5                          # ERSPAN: version 1, VLAN 0; COS 0, En, T, session 0x2a5
    00012345                           # reserved, index 0x12345
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const ERSPAN_II_TAGGED_TRUNCATED: &str = "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    003e 2f 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    1000 88be                          # GRE: flags, version 0; protocol type
    01020304                           # sequence number 0x01020304
    1000 1ea5                          # ERSPAN: version 1, VLAN 0; COS 0, En, T, session 0x2a5
    00012345                           # reserved, index 0x12345
    ffffffffffff 00005e00530a 8100 a064 0806 # the frame: destination, source, 802.1Q priority 5 VLAN 100, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const ERSPAN_III_IN: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0052                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    1234 4000                          # identification; DF, offset 0
    40 2f a425                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    1000 22eb                          # GRE: flags, version 0; protocol type
    01020304                           # sequence number 0x01020304
    2000 02a5                          # ERSPAN: version 2, VLAN 0; COS 0, BSO 00, T, session 0x2a5
    deadbeef                           # timestamp 0xdeadbeef
    0000 8000                          # SGT 0; P 1, FT 0, Hw ID 0, D, Gra 00, O 0
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const ERSPAN_III_OUT_TRUNCATED: &str = "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    003e 2f 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    1000 22eb                          # GRE: flags, version 0; protocol type
    01020304                           # sequence number 0x01020304
    2000 06a5                          # ERSPAN: version 2, VLAN 0; COS 0, BSO 00, T, session 0x2a5
    deadbeef                           # timestamp 0xdeadbeef
    0000 8008                          # SGT 0; P 1, FT 0, Hw ID 0, D, Gra 00, O 0
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

// The kernel's vxlan device, Linux 6.18 with iproute2 6.1.0, captured by tcpdump at the other end of a veth pair whose
// checksum offload is off; FRAME was written to the device through a packet socket:
//   ip link add vx4 type vxlan id 1193046 local 192.0.2.1 remote 192.0.2.2 dstport 4789 srcport 50000 50001 \
//     ttl 64 tos 0x20 df set nolearning
//   ip link add vx6 type vxlan id 1193046 local 2001:db8::1 remote 2001:db8::2 dstport 4789 srcport 50000 50001 \
//     ttl 64 tos 0x20 udp6zerocsumrx nolearning

const KERNEL_VXLAN_IPV4: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004e                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    7302 4000                          # identification; DF, offset 0
    40 11 4379                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    c350 12b5 003a 68af                # UDP: source port 50000, destination port, length, checksum
    08 000000                          # VXLAN: I; reserved
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const KERNEL_VXLAN_IPV6: &str = "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    003a 11 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    c350 12b5 003a 913e                # UDP: source port 50000, destination port, length, checksum
    08 000000                          # VXLAN: I; reserved
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

// The kernel's own fragments, Linux 6.18: 2600 zero bytes sent over a veth pair of MTU 1280, from UDP sockets bound to
// port 50000 with IP_MTU_DISCOVER or IPV6_MTU_DISCOVER at DONT, traffic class 0x20, SO_NO_CHECK over IPv4 and
// IPV6_AUTOFLOWLABEL 0. Each with the length of its Ethernet frame; what follows the headers is zero.

const KERNEL_FRAGMENTS_IPV4: [(&str, usize); 3] = [
    (
        "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 04fc                         # IPv4, 5 words; DSCP 8, ECN 00; total length 1276
    bdfd 2000                          # identification; MF, offset 0
    40 11 13d0                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    c350 12b5 0a30 0000                # UDP: source port 50000, destination port, length 2608, checksum
",
        1290,
    ),
    (
        "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 04fc                         # IPv4, 5 words; DSCP 8, ECN 00; total length 1276
    bdfd 209d                          # identification; MF, offset 157 times 8
    40 11 1333                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
",
        1290,
    ),
    (
        "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0074                         # IPv4, 5 words; DSCP 8, ECN 00; total length 116
    bdfd 013a                          # identification; offset 314 times 8
    40 11 371e                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
",
        130,
    ),
];

const KERNEL_FRAGMENTS_IPV6: [(&str, usize); 3] = [
    (
        "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    04d8 2c 40                         # payload length 1240; next header: fragment; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    11 00 0001                         # fragment: next header UDP; reserved; offset 0, M
    e911a270                           # identification
    c350 12b5 0a30 ba13                # UDP: source port 50000, destination port, length 2608, checksum
",
        1294,
    ),
    (
        "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    04d8 2c 40                         # payload length 1240; next header: fragment; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    11 00 04d1                         # fragment: next header UDP; reserved; offset 154 times 8, M
    e911a270                           # identification
",
        1294,
    ),
    (
        "
    00005e005302 00005e005301 86dd     # Ethernet: destination, source, type
    62000000                           # IPv6; DSCP 8, ECN 00; flow label 0
    0098 2c 40                         # payload length 152; next header: fragment; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    11 00 09a0                         # fragment: next header UDP; reserved; offset 308 times 8
    e911a270                           # identification
",
        206,
    ),
];

// Open vSwitch 3.1.0, userspace datapath, captured in the same way; FRAME came in by a port of the same bridge:
//   ovs-vsctl add-port br0 tun0 -- set interface tun0 type=TYPE options:remote_ip=192.0.2.2 options:tos=0x20 \
//     options:ttl=64 OPTIONS
//   ovs-ofctl add-flow br0 in_port=PORT,actions=output:tun0
//   TYPE and OPTIONS in the order of the vectors:
//     geneve  options:key=1193046
//     gre
//     gre     options:key=3405705229 options:seq=true
//     erspan  options:key=677 options:erspan_ver=1 options:erspan_idx=0x12345
//     erspan  options:key=677 options:erspan_ver=2 options:erspan_dir=1 options:erspan_hwid=0

const OVS_GENEVE: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004e                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    0000 4000                          # identification; DF, offset 0
    40 11 b67b                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    a16c 17c1 003a 0000                # UDP: source port, destination port, length, checksum
    00 00 6558                         # Geneve: version 0, no options; O 0, C 0; Transparent Ethernet Bridging
    123456 00                          # VNI 0x123456; reserved
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const OVS_GRE: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0042                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    0000 4000                          # identification; DF, offset 0
    40 2f b669                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    0000 6558                          # GRE: flags, version 0; protocol type
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const OVS_GRE_KEY_SEQUENCE: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004a                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    0000 4000                          # identification; DF, offset 0
    40 2f b661                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    3000 6558                          # GRE: flags, version 0; protocol type
    cafef00d                           # key 0xcafef00d
    00000001                           # sequence number 1
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const OVS_ERSPAN_II: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 004e                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    0000 4000                          # identification; DF, offset 0
    40 2f b65d                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    1000 88be                          # GRE: flags, version 0; protocol type
    00000001                           # sequence number 1
    1000 02a5                          # ERSPAN: version 1, VLAN 0; COS 0, En, T, session 0x2a5
    00012345                           # reserved, index 0x12345
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const OVS_ERSPAN_III: &str = "
    00005e005302 00005e005301 0800     # Ethernet: destination, source, type
    45 20 0052                         # IPv4, 5 words; DSCP 8, ECN 00; total length
    0000 4000                          # identification; DF, offset 0
    40 2f b659                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    1000 22eb                          # GRE: flags, version 0; protocol type
    00000000                           # sequence number 0
    2000 02a5                          # ERSPAN: version 2, VLAN 0; COS 0, BSO 00, T, session 0x2a5
    1c5fb2da                           # timestamp: at 1795343933.103432
    0000 0008                          # SGT 0; P 0, FT 0, Hw ID 0, D, Gra 00, O 0
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

// What a Linux 6.18 host without a listener answers to VXLAN from port 50000 and to ERSPAN II, captured by tcpdump on
// the sender's side of a veth pair.

const KERNEL_PORT_UNREACHABLE_IPV4: &str = "
    00005e005301 00005e005302 0800     # Ethernet: destination, source, type
    45 c0 006a                         # IPv4, 5 words; DSCP, ECN; total length
    8408 0000                          # identification; flags, offset
    40 01 71c7                         # TTL 64; protocol; header checksum
    c0000202 c0000201                  # 192.0.2.2, 192.0.2.1
    03 03 814c 00000000                # ICMP: destination unreachable, port; checksum; unused. It quotes:
    45 00 004e                         # IPv4, 5 words; DSCP, ECN; total length
    3cc7 4000                          # identification; flags, offset
    40 11 79d4                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    c350 12b5 003a 68af                # UDP: source port 50000, destination port 4789, length, checksum
    08000000 12345600                  # VXLAN: I; VNI 0x123456
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const KERNEL_PROTOCOL_UNREACHABLE_IPV4: &str = "
    00005e005301 00005e005302 0800     # Ethernet: destination, source, type
    45 c0 006a                         # IPv4, 5 words; DSCP, ECN; total length
    8409 0000                          # identification; flags, offset
    40 01 71c6                         # TTL 64; protocol; header checksum
    c0000202 c0000201                  # 192.0.2.2, 192.0.2.1
    03 02 61c6 00000000                # ICMP: destination unreachable, protocol; checksum; unused. It quotes:
    45 00 004e                         # IPv4, 5 words; DSCP, ECN; total length
    3eca 4000                          # identification; flags, offset
    40 2f 77b3                         # TTL 64; protocol; header checksum
    c0000201 c0000202                  # 192.0.2.1, 192.0.2.2
    1000 88be 00000001                 # GRE: flags; protocol type; sequence number 1
    100002a5 00012345                  # ERSPAN: version 1, session 0x2a5; index 0x12345
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const KERNEL_PORT_UNREACHABLE_IPV6: &str = "
    00005e005301 00005e005302 86dd     # Ethernet: destination, source, type
    600c4b87                           # IPv6; DSCP, ECN; flow label
    006a 3a 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000002   # 2001:db8::2
    20010db8000000000000000000000001   # 2001:db8::1
    01 04 b921 00000000                # ICMPv6: destination unreachable, port; checksum; unused. It quotes:
    6007788a                           # IPv6; DSCP, ECN; flow label
    003a 11 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    c350 12b5 003a 913e                # UDP: source port 50000, destination port 4789, length, checksum
    08000000 12345600                  # VXLAN: I; VNI 0x123456
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";

const KERNEL_PARAMETER_PROBLEM_IPV6: &str = "
    00005e005301 00005e005302 86dd     # Ethernet: destination, source, type
    6008f742                           # IPv6; DSCP, ECN; flow label
    006a 3a 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000002   # 2001:db8::2
    20010db8000000000000000000000001   # 2001:db8::1
    04 01 9539 00000006                # ICMPv6: parameter problem, next header; checksum; pointer. It quotes:
    600b8473                           # IPv6; DSCP, ECN; flow label
    003a 2f 40                         # payload length; next header; hop limit 64
    20010db8000000000000000000000001   # 2001:db8::1
    20010db8000000000000000000000002   # 2001:db8::2
    1000 88be 00000001                 # GRE: flags; protocol type; sequence number 1
    100002a5 00012345                  # ERSPAN: version 1, session 0x2a5; index 0x12345
    ffffffffffff 00005e00530a 0806     # the frame: destination, source, ARP
    0001080006040001 00005e00530a c6336401 000000000000 c6336402 # who has 198.51.100.2, says 198.51.100.1
";
