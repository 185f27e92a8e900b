use std::collections::VecDeque;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::plan::SamplePlan;
use crate::frame::testing;
use crate::quantity::{ErspanSessionId, GreKey, Mtu, Timestamp, Vni};
use crate::select::own_traffic::OwnTraffic;
use crate::select::{Selector, Verdict as Selected};
use crate::wire::carrier::Carrier;
use crate::wire::nesting::testing::{Around, arounds, hosts, other, outer, packet};
use crate::wire::outer::{Outer, Transport};

const SECOND: u64 = 1_000_000_000;
const UDP_53: Transport = Transport::Udp { source_port: 5353, destination_port: 53, checksum: false };

fn host(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn host_v6(last: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()
}

fn vxlan(local: IpAddr, remote: IpAddr) -> OwnTunnel {
    let vnis = vec![Vni::new(42).unwrap(), Vni::new(43).unwrap()];
    OwnTunnel { local, remote, carrier: Carrier::Udp { sources: vec![40_000], destination: 4789, vnis } }
}

/// Tunnels of every encapsulation, and what stands in front of a frame in each of them.
fn tunnels() -> Vec<(OwnTunnel, Around)> {
    let tunnel = |carrier| OwnTunnel { local: host(1), remote: host(2), carrier };
    let session = ErspanSessionId::new(9).unwrap();
    let udp =
        |destination, vni| Carrier::Udp { sources: vec![40_000], destination, vnis: vec![Vni::new(vni).unwrap()] };
    let key = GreKey::new(0x0707_0707).unwrap();
    vec![
        (tunnel(udp(4789, 42)), Around::Vxlan(4789, 42)),
        (tunnel(udp(9999, 42)), Around::Vxlan(9999, 42)),
        (tunnel(udp(6081, 42)), Around::Geneve(6081, 42, 0)),
        (OwnTunnel { local: host_v6(1), remote: host_v6(2), ..tunnel(udp(4789, 42)) }, Around::Vxlan(4789, 42)),
        (tunnel(Carrier::Gre { keys: None, sequence: false }), Around::Bridged([false, false, false])),
        (tunnel(Carrier::Gre { keys: Some(vec![key]), sequence: true }), Around::Bridged([false, true, true])),
        (tunnel(Carrier::Erspan1), Around::Erspan(1, false)),
        (tunnel(Carrier::Erspan2 { sessions: vec![session] }), Around::Erspan(2, false)),
        (tunnel(Carrier::Erspan3 { sessions: vec![session] }), Around::Erspan(3, false)),
    ]
}

/// A frame that no IP packet can be taken out of, so that GRE carries it as Ethernet.
fn arp() -> Vec<u8> {
    [&[0xff; 6][..], &[0x52; 6], &[8, 6], &[1; 46]].concat()
}

fn captured(bytes: &[u8], at: u64) -> Frame<'_> {
    Frame { timestamp: Timestamp::from_nanos(at), ..testing::frame(bytes) }
}

fn judge(detector: &mut MirrorLoop, bytes: &[u8]) -> Option<DropReason> {
    judge_at(detector, bytes, SECOND)
}

fn judge_at(detector: &mut MirrorLoop, bytes: &[u8], at: u64) -> Option<DropReason> {
    let layers = Layers::parse(bytes);
    detector.judge(&captured(bytes, at), &layers, crate::flow::FlowKey::PUBLIC.flow(bytes, &layers))
}

/// The same without the search for relays, which finds more than the walk.
fn by_walk(detector: &mut MirrorLoop, bytes: &[u8]) -> Option<DropReason> {
    detector.relays = Relays::default();
    judge(detector, bytes)
}

proptest! {
    /// Whatever is around it, and whoever rewrote its source, a tunnel of ours is found.
    #[test]
    fn a_tunnel_of_ours_is_found_at_every_depth(
        which in 0..9_usize,
        layers in vec((arounds(), hosts()), 1..12),
        masqueraded: bool,
    ) {
        let (tunnel, around) = tunnels().swap_remove(which);
        let source = match tunnel.local {
            _ if !masqueraded => tunnel.local,
            IpAddr::V4(_) => host(77),
            IpAddr::V6(_) => host_v6(77),
        };
        let mut frame = around.wrap(&arp(), source, tunnel.remote);
        for (around, (source, destination)) in &layers {
            frame = around.wrap(&frame, *source, *destination);
        }
        prop_assume!(Walk::new(&frame).last().is_some_and(|level| level.tunnels > 0));
        let remote = tunnel.remote;
        let mut detector = MirrorLoop::new(vec![tunnel]);
        prop_assert_eq!(by_walk(&mut detector, &frame), Some(DropReason::Loop), "to {}", remote);
    }

    /// Tunnels of others, as many as there may be, are none.
    #[test]
    fn tunnels_of_others_are_no_loop(layers in vec((arounds(), hosts()), 0..8), (a, b) in hosts()) {
        let mut frame = packet(a, b, UDP_53, &[7; 100]);
        for (around, (source, destination)) in layers {
            frame = around.wrap(&frame, source, destination);
        }
        let mut detector = MirrorLoop::new(tunnels().into_iter().map(|(tunnel, _)| tunnel).collect());
        prop_assert_eq!(judge(&mut detector, &frame), None);
    }

    #[test]
    fn any_bytes_get_a_verdict(bytes in vec(any::<u8>(), 14..200), layers in vec((arounds(), hosts()), 0..4), cut in 0..200_usize) {
        let mut frame = bytes;
        for (around, (source, destination)) in layers {
            frame = around.wrap(&frame, source, destination);
        }
        frame.truncate(frame.len().saturating_sub(cut));
        let mut detector = MirrorLoop::new(tunnels().into_iter().map(|(tunnel, _)| tunnel).collect());
        judge(&mut detector, &frame);
    }

    /// A relay's own header may have any length, and the datagram may be whole or have lost its last bytes.
    #[test]
    fn our_header_is_found_anywhere_in_a_payload(which in 0..9_usize, before in vec(any::<u8>(), 0..900), after in 0..900_usize) {
        let (tunnel, around) = tunnels().swap_remove(which);
        let datagram = around.wrap(&[&arp()[..], &vec![7; after]].concat(), tunnel.local, tunnel.remote);
        let payload = [&before[..], &datagram[14..]].concat();
        let transport = Transport::Udp { source_port: 1194, destination_port: 1194, checksum: false };
        let relayed = packet(host(1), host(3), transport, &payload);
        let mut detector = MirrorLoop::new(vec![tunnel]);
        detector.catch_up();
        prop_assert_eq!(judge(&mut detector, &relayed), Some(DropReason::Loop));
    }
}

#[test]
fn the_outermost_packet_is_not_for_this_detector() {
    // Another host's mirror of the same analyzer that passes by.
    let foreign = Around::Vxlan(4789, 42).wrap(&arp(), host(7), host(2));
    assert_eq!(judge(&mut MirrorLoop::new(vec![vxlan(host(1), host(2))]), &foreign), None);
}

#[test]
fn other_ports_and_ids_stay_visible_inside_tunnels() {
    let mut detector = MirrorLoop::new(vec![vxlan(host(1), host(2))]);
    for (around, destination) in [
        (Around::Vxlan(4789, 41), host(2)),
        (Around::Vxlan(8472, 42), host(2)),
        (Around::Vxlan(4789, 42), host(3)),
        (Around::Gre([false; 3]), host(2)),
    ] {
        let frame = Around::Vxlan(4789, 7).wrap(&around.wrap(&arp(), host(1), destination), host(5), host(6));
        assert_eq!(judge(&mut detector, &frame), None, "{around:?}");
    }
}

#[test]
fn more_than_eight_tunnels_are_a_loop() {
    let mut detector = MirrorLoop::new(vec![vxlan(host(1), host(2))]);
    let mut frame = arp();
    for count in 1..=12 {
        frame = Around::Vxlan(4789, 7).wrap(&frame, host(100 + count), host(101 + count));
        let expected = (count > 8).then_some(DropReason::Loop);
        assert_eq!(judge(&mut detector, &frame), expected, "{count} tunnels");
    }
}

#[test]
fn an_error_that_quotes_our_datagram_is_a_loop_inside_a_tunnel_only() {
    let own = Around::Vxlan(4789, 42).wrap(&arp(), host(1), host(2));
    for quoted in [28, 36, 50] {
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0], &own[14..14 + quoted]].concat();
        let error = other(host(2), host(1), crate::wire::layers::ICMP, &message);
        let mut detector = MirrorLoop::new(vec![vxlan(host(1), host(2))]);
        assert_eq!(by_walk(&mut detector, &error), None, "that is own_traffic's");
        let mirrored = Around::Vxlan(4789, 7).wrap(&error, host(2), host(1));
        assert_eq!(by_walk(&mut detector, &mirrored), Some(DropReason::Loop), "{quoted} bytes of it");
    }
}

/// The fragments of a datagram with this identification.
fn fragments(source: IpAddr, destination: IpAddr, identification: u32, datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let transport = Transport::Udp { source_port: 40_000, destination_port: 4789, checksum: false };
    let outer = Outer { identification, ..outer(source, destination, transport) };
    outer
        .write_fragments(datagram, Mtu::new(1280).unwrap(), &mut Vec::new(), |frame| frames.push(frame.to_vec()))
        .unwrap();
    frames
}

#[test]
fn later_fragments_share_the_verdict_of_the_first_at_every_level() {
    let long = |inner: Vec<u8>| [&[8, 0, 0, 0, 0, 0, 42, 0][..], &inner, &[7; 3000]].concat();
    for [source, destination] in [[host(2), host(1)], [host_v6(2), host_v6(1)]] {
        let own = Around::Vxlan(4789, 42).wrap(&arp(), host(1), host(2));
        let ours = fragments(source, destination, 5, &long(own));
        let others = fragments(source, destination, 6, &long(arp()));
        let again = fragments(source, destination, 5, &long(arp()));
        for depth in 0..3 {
            let wrap = |frame: &Vec<u8>| {
                (0..depth).fold(frame.clone(), |frame, _| Around::Gre([false; 3]).wrap(&frame, host(8), host(9)))
            };
            let mut detector = MirrorLoop::new(vec![vxlan(host(1), host(2))]);
            // A later fragment that comes first is nobody's.
            assert_eq!(judge(&mut detector, &wrap(&ours[1])), None);
            for (ours, others) in ours.iter().zip(&others) {
                assert_eq!(judge(&mut detector, &wrap(ours)), Some(DropReason::Loop), "depth {depth}");
                assert_eq!(judge(&mut detector, &wrap(others)), None, "depth {depth}");
            }
            assert_eq!(judge_at(&mut detector, &wrap(&ours[1]), 10 * SECOND), None, "that was long ago");
            judge(&mut detector, &wrap(&ours[0]));
            for again in &again {
                assert_eq!(judge(&mut detector, &wrap(again)), None, "the identification is somebody else's now");
            }
        }
    }
}

#[test]
fn later_fragments_of_our_own_datagram_inside_a_tunnel_are_a_loop() {
    let datagram = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &arp(), &[7; 3000]].concat();
    for [local, remote] in [[host(1), host(2)], [host_v6(1), host_v6(2)]] {
        let mut detector = MirrorLoop::new(vec![vxlan(local, remote)]);
        for fragment in fragments(local, remote, 5, &datagram) {
            let mirrored = Around::Vxlan(4789, 7).wrap(&fragment, host(2), host(1));
            assert_eq!(by_walk(&mut detector, &mirrored), Some(DropReason::Loop));
        }
    }
}

#[test]
fn a_relay_is_found_among_many_frames() {
    let mut detector = MirrorLoop::new(vec![vxlan(host(1), host(2))]);
    let transport = |source_port| Transport::Udp { source_port, destination_port: 1194, checksum: false };
    let own = Around::Vxlan(4789, 42).wrap(&arp(), host(1), host(2));
    let relayed = packet(host(1), host(3), transport(7), &[&[9; 60][..], &own[14..]].concat());
    detector.catch_up();
    // A turn so large that most frames are not searched.
    let mut passed = 0;
    for number in 0..2000_u16 {
        let honest = packet(host(1), host(3), transport(1000 + number % 300), &[1; 500]);
        assert_eq!(judge(&mut detector, &honest), None);
        if number > 100 {
            passed += u32::from(judge(&mut detector, &relayed).is_none());
        }
    }
    assert!(passed <= relay::SAMPLE, "{passed} frames of the loop passed");
}

/// Mirrors the frames of hosts that mirror each other: what each one sends passes its own interface, where it is captured
/// with its real source, and that of the next host. Returns how many frames each has captured.
fn ring(hosts: &[(IpAddr, Around, Carrier)]) -> Vec<usize> {
    let tunnel = |number: usize| {
        let remote = hosts[(number + 1) % hosts.len()].0;
        OwnTunnel { local: hosts[number].0, remote, carrier: hosts[number].2.clone() }
    };
    // As sessions do it: what a change of the host's interfaces makes them read again is this list.
    let lists: Vec<AllTunnels> = (0..hosts.len()).map(|_| AllTunnels::default()).collect();
    let _entries: Vec<_> = lists.iter().enumerate().map(|(number, list)| list.enter(vec![tunnel(number)])).collect();
    let selector = |list: &AllTunnels| {
        Selector::new(OwnTraffic::following(list), crate::flow::FlowKey::PUBLIC, SamplePlan::default())
            .watching(MirrorLoop::following(list, LoopNotices::default()), None)
    };
    let mut selectors: Vec<Selector> = lists.iter().map(selector).collect();
    let ping = other(host(200), host(201), crate::wire::layers::ICMP, &[8; 64]);
    let mut waiting: VecDeque<(usize, Vec<u8>)> = (0..hosts.len()).map(|number| (number, ping.clone())).collect();
    let mut captured = vec![0; hosts.len()];
    while let Some((number, frame)) = waiting.pop_front() {
        captured[number] += 1;
        assert!(captured.iter().sum::<usize>() < 10_000, "the loop does not end: {captured:?}");
        selectors[number].catch_up();
        let layers = Layers::parse(&frame);
        if let Selected::Keep(_) = selectors[number].decide(&captured_frame(&frame), &layers) {
            let OwnTunnel { local, remote, .. } = tunnel(number);
            let sent = hosts[number].1.wrap(&frame, local, remote);
            waiting.push_back((number, sent.clone()));
            waiting.push_back(((number + 1) % hosts.len(), sent));
        }
    }
    captured
}

fn captured_frame(bytes: &[u8]) -> Frame<'_> {
    captured(bytes, SECOND)
}

#[test]
fn r01_a_ring_of_any_size_ends_after_one_ping() {
    let kinds: Vec<(OwnTunnel, Around)> = tunnels().into_iter().filter(|(tunnel, _)| tunnel.local.is_ipv4()).collect();
    for size in 2..=12_u8 {
        for shift in 0..kinds.len() {
            let hosts: Vec<_> = (0..size)
                .map(|number| {
                    let (tunnel, around) = &kinds[(usize::from(number) + shift) % kinds.len()];
                    (host(number + 1), around.clone(), tunnel.carrier.clone())
                })
                .collect();
            let captured = ring(&hosts);
            // The ping, and for each host before this one what it mirrors, twice at its sender.
            let most = 1 + 2 * (MOST_TUNNELS + 2);
            assert!(captured.iter().all(|&frames| frames <= most), "{size} hosts: {captured:?}");
        }
    }
}

#[test]
fn a_warning_names_the_other_host_and_what_to_do() {
    let targets = Targets::of(vec![vxlan(host(1), host(2))]);
    let evidence = |what, is_outgoing| Evidence {
        what,
        around: Some([host(2), host(1)]),
        protocol: crate::wire::layers::UDP,
        port: Some(4789),
        is_outgoing,
    };
    for (what, is_outgoing, words) in [
        (What::Nested(0), false, ["host 192.0.2.2 mirrors", "`not (udp port 4789 and host 192.0.2.2)`"]),
        (What::Nested(0), true, ["a tunnel of this host from 192.0.2.2", "`not (udp port 4789 and host 192.0.2.1)`"]),
        (What::TooDeep, false, ["more than 8 tunnels", "on host 192.0.2.2"]),
        (What::Relayed(0), false, ["a relay or VPN", "`not (udp port 4789 and host 192.0.2.1)`"]),
    ] {
        let text = notices::words(&evidence(what, is_outgoing), &targets);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}
