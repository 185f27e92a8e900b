//! Datagrams of ours and of others between the same hosts, whole, in fragments, and quoted.

use super::*;
use crate::quantity::{ErspanSessionId, GreKey, Mtu, Vni};
use crate::wire::nesting::testing::outer;
use crate::wire::outer::{Outer, Transport};
use proptest::prelude::*;

const VXLAN: Transport = Transport::Udp { source_port: 50_000, destination_port: 4789, checksum: false };
const DATAGRAM: &[u8] = &[0; 64];

/// The two ends of the tunnel, and a stranger.
#[derive(Clone, Copy, Debug)]
struct Hosts {
    local: IpAddr,
    remote: IpAddr,
    other: IpAddr,
}

fn ipv4() -> Hosts {
    let host = |last| IpAddr::from([192, 0, 2, last]);
    Hosts { local: host(1), remote: host(2), other: host(3) }
}

fn ipv6() -> Hosts {
    let host = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
    Hosts { local: host(1), remote: host(2), other: host(3) }
}

fn own(hosts: Hosts, carrier: Carrier) -> OwnTraffic {
    OwnTraffic::new(vec![OwnTunnel { local: hosts.local, remote: hosts.remote, carrier }])
}

fn vxlan() -> Carrier {
    Carrier::Udp { sources: vec![50_000, 50_007], destination: 4789, vnis: vec![Vni::LEAST] }
}

fn erspan2(sessions: &[u64]) -> Carrier {
    Carrier::Erspan2 { sessions: sessions.iter().map(|&id| ErspanSessionId::new(id).unwrap()).collect() }
}

fn frame(source: IpAddr, destination: IpAddr, transport: Transport, datagram: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    outer(source, destination, transport).write(datagram, &mut frame).unwrap();
    frame
}

fn udp(source: IpAddr, destination: IpAddr, source_port: u16, destination_port: u16) -> Vec<u8> {
    frame(source, destination, Transport::Udp { source_port, destination_port, checksum: false }, DATAGRAM)
}

/// A GRE packet of our tunnel's hosts that begins with these words.
fn gre(hosts: Hosts, words: &[u32]) -> Vec<u8> {
    let mut datagram: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    datagram.extend_from_slice(DATAGRAM);
    frame(hosts.local, hosts.remote, Transport::Gre, &datagram)
}

fn fragments(hosts: Hosts, transport: Transport, identification: u32, datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let outer = Outer { identification, ..outer(hosts.local, hosts.remote, transport) };
    outer
        .write_fragments(datagram, Mtu::new(576).unwrap(), &mut Vec::new(), |frame| frames.push(frame.to_vec()))
        .unwrap();
    frames
}

/// An ICMP error of this type, from a stranger, that quotes this much of the IP packet in `quoted`.
fn icmp_error(to: IpAddr, from: IpAddr, kind: u8, quoted: &[u8], bytes_behind_ip: usize) -> Vec<u8> {
    let header_len = if to.is_ipv4() { 20 } else { 40 };
    let quote = quoted.get(14..14 + header_len + bytes_behind_ip).unwrap_or(&quoted[14..]);
    let message = [&[kind, 3, 0, 0, 0, 0, 0, 0], quote].concat();
    let mut error = frame(from, to, Transport::Gre, &message);
    // The transport protocol, ICMP or ICMPv6; nobody here looks at the header checksum.
    let (place, protocol) = if to.is_ipv4() { (14 + 9, layers::ICMP) } else { (14 + 6, layers::ICMPV6) };
    error[place] = protocol;
    error
}

fn is_ours(own: &mut OwnTraffic, frame: &[u8]) -> bool {
    own.is_ours(frame, &Layers::parse(frame))
}

#[test]
fn workers_differ_in_their_source_ports_only() {
    let (local, remote) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let udp = |sources: &[u16]| Carrier::Udp { sources: sources.to_vec(), destination: 4789, vnis: vec![Vni::LEAST] };
    let tunnels =
        |sources: &[u16]| [udp(sources), Carrier::Erspan1].map(|carrier| OwnTunnel { local, remote, carrier }).to_vec();
    let workers = [&[49152, 49153], &[57344, 57345]].map(|sources| tunnels(sources));
    assert_eq!(OwnTunnel::of_all_workers(workers), tunnels(&[49152, 49153, 57344, 57345]));
    assert_eq!(OwnTunnel::of_all_workers([tunnels(&[7])]), tunnels(&[7]));
}

#[test]
fn without_tunnels_nothing_is_ours() {
    let Hosts { local, remote, .. } = ipv4();
    assert!(!is_ours(&mut OwnTraffic::default(), &udp(local, remote, 50_000, 4789)));
}

#[test]
fn udp_is_ours_by_addresses_source_port_and_destination_port() {
    for hosts in [ipv4(), ipv6()] {
        let Hosts { local, remote, other } = hosts;
        let mut own = own(hosts, vxlan());
        assert!(is_ours(&mut own, &udp(local, remote, 50_000, 4789)));
        assert!(is_ours(&mut own, &udp(local, remote, 50_007, 4789)));
        for (visible, why) in [
            (udp(local, remote, 50_001, 4789), "a port between those of our bank"),
            (udp(local, remote, 50_000, 4790), "another destination port"),
            (udp(remote, local, 50_000, 4789), "the other way"),
            (udp(local, other, 50_000, 4789), "another remote"),
            (udp(other, remote, 50_000, 4789), "another local"),
            (frame(local, remote, Transport::Gre, DATAGRAM), "another protocol"),
        ] {
            assert!(!is_ours(&mut own, &visible), "{why}");
        }
    }
}

/// A VXLAN device of the kernel may send from any port of `ip_local_port_range`, also from one that a tunnel has bound.
#[test]
fn a04_another_vni_between_the_same_ports_is_somebody_elses() {
    for hosts in [ipv4(), ipv6()] {
        let Hosts { local, remote, .. } = hosts;
        let vni = |value| Vni::new(value).unwrap();
        let udp = |source: u16, vnis: &[u64]| Carrier::Udp {
            sources: vec![source],
            destination: 4789,
            vnis: vnis.iter().map(|&value| vni(value)).collect(),
        };
        let with_vni = |value: u8| [&[8, 0, 0, 0, 0, 0, value, 0], DATAGRAM].concat();
        let mut own = own(hosts, udp(50_000, &[7, 8]));
        for (value, ours) in [(7, true), (8, true), (9, false), (0, false)] {
            let datagram = frame(local, remote, VXLAN, &with_vni(value));
            assert_eq!(is_ours(&mut own, &datagram), ours, "VNI {value}");
            let fragments = fragments(hosts, VXLAN, 100 + u32::from(value), &[with_vni(value), vec![0; 1500]].concat());
            assert!(fragments.iter().all(|fragment| is_ours(&mut own, fragment) == ours), "VNI {value}, fragments");
        }
        // The quote of an ICMP error may end before it.
        let datagram = frame(local, remote, VXLAN, &with_vni(9));
        let kind = if local.is_ipv4() { 3 } else { 1 };
        assert!(is_ours(&mut own, &icmp_error(local, remote, kind, &datagram, 8)));
        assert!(!is_ours(&mut own, &icmp_error(local, remote, kind, &datagram, 100)));
        let with_trailer = [icmp_error(local, remote, kind, &datagram, 8), vec![0xee; 20]].concat();
        assert!(is_ours(&mut own, &with_trailer), "what follows the packet is no part of the quote");

        // Tunnels to one port are recognised together.
        let tunnel = |carrier| OwnTunnel { local, remote, carrier };
        let mut both = OwnTraffic::new(vec![tunnel(udp(50_000, &[7])), tunnel(udp(50_000, &[9]))]);
        for (value, ours) in [(7, true), (8, false), (9, true)] {
            assert_eq!(is_ours(&mut both, &frame(local, remote, VXLAN, &with_vni(value))), ours, "VNI {value} of both");
        }
    }
}

#[test]
fn a_datagram_is_ours_behind_any_vlan_tags() {
    let Hosts { local, remote, .. } = ipv4();
    let untagged = udp(local, remote, 50_000, 4789);
    let tagged = [&untagged[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7], &untagged[12..]].concat();
    assert!(is_ours(&mut own(ipv4(), vxlan()), &tagged));
}

#[test]
fn gre_is_ours_by_flags_protocol_type_and_key() {
    let key = |value| GreKey::new(value).unwrap();
    let bare = || Carrier::Gre { keys: None, sequence: false };
    let counted = || Carrier::Gre { keys: None, sequence: true };
    let keyed = || Carrier::Gre { keys: Some(vec![key(5), key(0xffff_ffff)]), sequence: false };
    let erspan3 = || Carrier::Erspan3 { sessions: vec![ErspanSessionId::new(9).unwrap()] };
    let type_ii = |session: u32| vec![0x1000_88be, 1, 0x1000_0000 | session, 0];
    let type_iii = |session: u32| vec![0x1000_22eb, 1, 0x2000_0400 | session, 0, 0x8000];
    for (carrier, ours, words) in [
        (bare(), true, vec![0x0000_6558]),
        (bare(), false, vec![0x1000_6558, 0]),
        (bare(), false, vec![0x2000_6558, 5]),
        (bare(), false, vec![0x0000_88be]),
        (bare(), false, vec![0x0000_0800]),
        (counted(), true, vec![0x1000_6558, 12]),
        (counted(), false, vec![0x0000_6558]),
        (keyed(), true, vec![0x2000_6558, 5]),
        (keyed(), true, vec![0x2000_6558, 0xffff_ffff]),
        (keyed(), false, vec![0x2000_6558, 6]),
        (keyed(), false, vec![0x0000_6558]),
        (keyed(), false, vec![0x3000_6558, 5, 0]),
        (Carrier::Erspan1, true, vec![0x0000_88be]),
        (Carrier::Erspan1, false, type_ii(9)),
        (erspan2(&[8, 9]), true, type_ii(9)),
        (erspan2(&[8, 9]), false, type_ii(10)),
        (erspan2(&[8, 9]), false, type_iii(9)),
        (erspan2(&[8, 9]), false, vec![0x0000_88be]),
        (erspan3(), true, type_iii(9)),
        (erspan3(), false, type_iii(8)),
        (erspan3(), false, type_ii(9)),
    ] {
        for hosts in [ipv4(), ipv6()] {
            let mut own = own(hosts, carrier.clone());
            assert_eq!(is_ours(&mut own, &gre(hosts, &words)), ours, "{carrier:?} {words:x?} {hosts:?}");
        }
    }
}

#[test]
fn later_fragments_belong_to_whom_their_first_belongs() {
    for hosts in [ipv4(), ipv6()] {
        let foreign_udp = Transport::Udp { source_port: 40_000, destination_port: 4789, checksum: false };
        let datagram = vec![0; 1500];
        let mut own = own(hosts, vxlan());
        let ours = fragments(hosts, VXLAN, 7, &datagram);
        let theirs = fragments(hosts, foreign_udp, 8, &datagram);
        assert!(ours.len() >= 3 && theirs.len() >= 3);
        assert!(!is_ours(&mut own, &ours[1]), "nobody knows whose this is before the first fragment");
        // Interleaved, as two senders do; and seen twice, as on a bridge and its port.
        for _ in 0..2 {
            for (our, their) in ours.iter().zip(&theirs) {
                assert!(is_ours(&mut own, our));
                assert!(!is_ours(&mut own, their));
            }
        }
        // The same id in another protocol names another packet, and leaves ours alone.
        let gre = fragments(hosts, Transport::Gre, 7, &datagram);
        assert!(gre.iter().all(|fragment| !is_ours(&mut own, fragment)));
        assert!(is_ours(&mut own, &ours[2]));
        // Once the id has come round to somebody else, it is theirs.
        let reused = fragments(hosts, foreign_udp, 7, &datagram);
        assert!(reused.iter().all(|fragment| !is_ours(&mut own, fragment)));
    }
}

#[test]
fn erspan_fragments_are_told_apart_by_the_session_in_the_first() {
    let mut own = own(ipv4(), erspan2(&[9]));
    let datagram = |session: u8| [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, session][..], &[0; 1500]].concat();
    let ours = fragments(ipv4(), Transport::Gre, 1, &datagram(9));
    let theirs = fragments(ipv4(), Transport::Gre, 2, &datagram(10));
    assert!(ours.iter().all(|fragment| is_ours(&mut own, fragment)));
    assert!(theirs.iter().all(|fragment| !is_ours(&mut own, fragment)));
}

#[test]
fn icmp_errors_are_ours_when_they_quote_a_datagram_of_ours_to_us() {
    for (hosts, errors, echo) in [(ipv4(), &[3, 4, 5, 11, 12][..], 8), (ipv6(), &[1, 2, 3, 4][..], 128)] {
        let Hosts { local, remote, other } = hosts;
        let mut own = own(hosts, vxlan());
        let datagram = udp(local, remote, 50_000, 4789);
        for &kind in errors {
            for from in [remote, other] {
                assert!(is_ours(&mut own, &icmp_error(local, from, kind, &datagram, 8)));
                assert!(is_ours(&mut own, &icmp_error(local, from, kind, &datagram, 500)));
            }
        }
        let foreign = udp(local, remote, 40_000, 4789);
        let answer = udp(remote, local, 4789, 50_000);
        for (visible, why) in [
            (icmp_error(local, remote, errors[0], &foreign, 8), "quotes another datagram"),
            (icmp_error(local, remote, errors[0], &answer, 8), "quotes the other way"),
            (icmp_error(other, remote, errors[0], &datagram, 8), "is for somebody else"),
            (icmp_error(local, remote, echo, &datagram, 8), "is no error"),
            (icmp_error(local, remote, errors[0], &datagram, 3), "quotes too little to tell"),
        ] {
            assert!(!is_ours(&mut own, &visible), "{why}");
        }
    }
}

#[test]
fn a_later_fragment_of_a_ping_is_no_icmp_error_whatever_it_carries() {
    let Hosts { local, remote, .. } = ipv4();
    let mut fragment = icmp_error(local, remote, 3, &udp(local, remote, 50_000, 4789), 8);
    fragment[14 + 7] = 1;
    assert!(!is_ours(&mut own(ipv4(), vxlan()), &fragment));
}

#[test]
fn a_quote_that_ends_before_the_session_id_is_ours() {
    let mut own = own(ipv4(), erspan2(&[9]));
    let Hosts { local, remote, .. } = ipv4();
    let ours = gre(ipv4(), &[0x1000_88be, 1, 0x1000_0009, 0]);
    let theirs = gre(ipv4(), &[0x1000_88be, 1, 0x1000_000a, 0]);
    assert!(is_ours(&mut own, &icmp_error(local, remote, 3, &ours, 8)));
    assert!(!is_ours(&mut own, &icmp_error(local, remote, 3, &theirs, 12)));
}

#[test]
fn icmp_errors_may_quote_a_later_fragment() {
    for (hosts, kind) in [(ipv4(), 11), (ipv6(), 3)] {
        let mut own = own(hosts, vxlan());
        let fragments = fragments(hosts, VXLAN, 7, &[0; 1500]);
        let error = icmp_error(hosts.local, hosts.remote, kind, &fragments[1], 16);
        assert!(!is_ours(&mut own, &error));
        assert!(is_ours(&mut own, &fragments[0]));
        assert!(is_ours(&mut own, &error));
    }
}

#[test]
fn each_of_several_tunnels_is_recognised() {
    let tunnel = |hosts: Hosts, carrier| OwnTunnel { local: hosts.local, remote: hosts.remote, carrier };
    let mut own =
        OwnTraffic::new(vec![tunnel(ipv4(), vxlan()), tunnel(ipv4(), Carrier::Erspan1), tunnel(ipv6(), vxlan())]);
    for hosts in [ipv4(), ipv6()] {
        assert!(is_ours(&mut own, &udp(hosts.local, hosts.remote, 50_007, 4789)));
    }
    assert!(is_ours(&mut own, &gre(ipv4(), &[0x0000_88be])));
    assert!(!is_ours(&mut own, &gre(ipv6(), &[0x0000_88be])));
}

#[test]
fn tunnels_of_other_sessions_are_ours_from_the_next_turn_on() {
    let hosts = ipv4();
    let tunnel = |carrier| OwnTunnel { local: hosts.local, remote: hosts.remote, carrier };
    let all = AllTunnels::default();
    let _first = all.enter(vec![tunnel(vxlan())]);
    let mut own = OwnTraffic::following(&all);
    let fragments = fragments(hosts, VXLAN, 77, &[0; 1000]);
    assert!(is_ours(&mut own, &fragments[0]));

    let other = Carrier::Udp { sources: vec![51_000], destination: 4789, vnis: vec![Vni::LEAST] };
    let second = all.enter(vec![tunnel(other), tunnel(Carrier::Erspan1)]);
    let theirs = [udp(hosts.local, hosts.remote, 51_000, 4789), gre(hosts, &[0x0000_88be])];
    assert!(theirs.iter().all(|frame| !is_ours(&mut own, frame)));
    own.catch_up();
    assert!(theirs.iter().all(|frame| is_ours(&mut own, frame)));
    assert!(is_ours(&mut own, &fragments[1]), "what was known of fragments stays known");
    assert_eq!(own.paths.iter().map(|path| path.carriers.len()).collect::<Vec<_>>(), [1, 1]);

    drop(second);
    own.catch_up();
    assert!(theirs.iter().all(|frame| !is_ours(&mut own, frame)));
    assert!(is_ours(&mut own, &udp(hosts.local, hosts.remote, 50_000, 4789)));
}

proptest! {
    /// Hostile bytes on our path, whole and cut anywhere: an answer, never a panic.
    #[test]
    fn any_bytes_get_an_answer(
        v6: bool,
        protocol in prop_oneof![Just(layers::UDP), Just(layers::GRE), Just(layers::ICMP), Just(layers::ICMPV6), Just(44)],
        from_remote: bool,
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let hosts = if v6 { ipv6() } else { ipv4() };
        let (source, destination) =
            if from_remote { (hosts.remote, hosts.local) } else { (hosts.local, hosts.remote) };
        let mut hostile = frame(source, destination, Transport::Gre, &bytes);
        hostile[if v6 { 14 + 6 } else { 14 + 9 }] = protocol;
        let mut own = own(hosts, vxlan());
        for end in 0..=hostile.len() {
            is_ours(&mut own, &hostile[..end]);
        }
    }
}
