//! Tunnels through AF_XDP between network namespaces: what a socket sends, what arrives, and what the interface does.

use std::time::Duration;

use super::super::testing::{encapsulations, frame, ledger, plan, udp_frame, vxlan};
use super::super::{Destination, Destinations};
use super::network_tests::{
    FAR, arrived, meet, next_tunnel_packet, offer, packet_socket, route_over_a_narrow_link, sink,
    without_identification,
};
use super::*;
use crate::config::plan::{End, Fit, Gso, UdpChecksum};
use crate::error::Explain as _;
use crate::kernel::locate::resolve;
use crate::kernel::testing::TestNamespace;
use crate::ledger::Ledger;
use crate::quantity::{Dscp, Ttl, Weight};

const COPIED: TransmitPlan = TransmitPlan::Xdp { zero_copy: false };
/// What a veth does not offer: frames are copied all the same.
const ZERO_COPY: TransmitPlan = TransmitPlan::Xdp { zero_copy: true };

/// A destination through AF_XDP; `change` sets what differs from the defaults.
fn by_xdp(encapsulation: Encapsulation, remote: &str, change: impl FnOnce(&mut TunnelPlan)) -> DestinationPlan {
    let (_, mut plan) = plan(encapsulation, remote.parse().unwrap(), Fit::Split);
    plan.transmit = COPIED;
    change(&mut plan);
    DestinationPlan { name: "1".to_owned(), to: "test".to_owned(), weight: Weight::default(), end: End::Tunnel(plan) }
}

/// Finds the ways and opens the tunnels in `namespace`, as a session does.
fn open_all(namespace: &TestNamespace, plans: Vec<DestinationPlan>) -> (Vec<Tunnel>, Vec<Arc<Underlay>>) {
    let found = plans.clone();
    let ways = namespace.run_async(async move { resolve(&found).await }).unwrap();
    let ways: Vec<Arc<Underlay>> = ways.into_iter().flatten().collect();
    let (known, plans) = (ways.clone(), plans);
    let tunnels = namespace.run(move || {
        let mut shared = Shared::new(&plans, 0);
        let mut open = |(plan, way): (&DestinationPlan, &Arc<Underlay>)| {
            let End::Tunnel(tunnel) = &plan.end else { panic!("a tunnel") };
            Tunnel::open(plan, tunnel, way, &["eth0".into()], Patience::Drop, &mut shared)
        };
        plans.iter().zip(&known).map(&mut open).collect::<Result<Vec<_>, _>>()
    });
    (tunnels.unwrap_or_else(|error| panic!("{error}: {:?}", error.error)), ways)
}

fn open(namespace: &TestNamespace, plan: DestinationPlan) -> (Tunnel, Arc<Underlay>) {
    let (mut tunnels, mut ways) = open_all(namespace, vec![plan]);
    (tunnels.remove(0), ways.remove(0))
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn whole_frames_are_the_very_bytes_that_sockets_send() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    // A network card would finish the checksums; a veth passes them on unfinished.
    near.output("ethtool -K fke0 tx off");
    let mut first_ports = (50_000..).step_by(SOURCE_PORTS as usize);
    for (remote, encapsulation) in
        [FAR, "2001:db8::2"].into_iter().flat_map(|remote| encapsulations().into_iter().map(move |one| (remote, one)))
    {
        for checksum in [UdpChecksum::Auto, UdpChecksum::On, UdpChecksum::Off] {
            let wire = packet_socket(&far);
            let first = first_ports.next().unwrap();
            let mut account = DestinationLedger::default();
            let mut seen = [COPIED, ZERO_COPY, TransmitPlan::Socket].map(|transmit| {
                let (mut tunnel, _) = open(
                    &near,
                    by_xdp(encapsulation.clone(), remote, |plan| {
                        plan.ports = format!("{first}-65535").parse().unwrap();
                        (plan.dscp, plan.ttl) = (Dscp::new(46).unwrap(), Ttl::new(17).unwrap());
                        plan.udp_checksum = checksum;
                        plan.transmit = transmit;
                        plan.gso = Gso::Off; // runs would have a checksum
                    }),
                );
                tunnel.fitter = Fitter::new(Fit::Split).numbering_from(1);
                for bytes in [udp_frame(1, 10), udp_frame(2, 1001), udp_frame(3, 3000)] {
                    offer(&mut tunnel, &bytes, &mut account);
                    tunnel.flush(Instant::now(), &mut account);
                }
                tunnel.finish(Instant::now(), &mut account);
                drop(tunnel);
                (0..5).map(|_| without_identification(next_tunnel_packet(&wire))).collect::<Vec<_>>()
            });
            assert_eq!((account.sent, account.dropped.total(), account.in_flight), (15, 0, 0));
            // A socket's source port may be held for a moment by what just closed.
            if encapsulation.udp_port().is_some() {
                seen.iter_mut().flatten().for_each(|bytes| forget_source_port(bytes));
            }
            assert!(seen[0] == seen[2] && seen[1] == seen[2], "{encapsulation:?} to {remote}, checksum {checksum}");
        }
    }
}

/// Writes zero over the outer source port, and over the checksum that covers it.
fn forget_source_port(bytes: &mut [u8]) {
    let transport = if bytes[12..14] == [0x08, 0x00] { 34 } else { 54 };
    bytes[transport..transport + 2].fill(0);
    if bytes[transport + 6..transport + 8] != [0, 0] {
        bytes[transport + 6..transport + 8].fill(0xff);
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn more_frames_than_there_is_memory_for_arrive_in_order_and_with_right_checksums() {
    for transmit in [COPIED, ZERO_COPY] {
        let (near, far) = TestNamespace::pair();
        let sink = sink(&far, FAR, &vxlan(4789));
        let plan = by_xdp(vxlan(4789), FAR, |plan| (plan.udp_checksum, plan.transmit) = (UdpChecksum::On, transmit));
        let (mut tunnel, _) = open(&near, plan);
        let mut account = DestinationLedger::default();
        for number in 0..10_000 {
            offer(&mut tunnel, &udp_frame(number % 50, 1200), &mut account);
        }
        tunnel.finish(Instant::now(), &mut account);
        assert_eq!((account.sent, account.dropped.total(), account.in_flight), (10_000, 0, 0));
        // The far host's sockets refuse wrong checksums.
        assert_eq!(arrived(&sink), 10_000);
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn several_destinations_share_the_queue_of_their_interface_and_keep_their_own_accounts() {
    [COPIED, ZERO_COPY].iter().for_each(share_the_queue);
}

fn share_the_queue(transmit: &TransmitPlan) {
    let (near, far) = TestNamespace::pair();
    far.ip("addr add 192.0.2.3/24 dev fke0");
    let plans = [(4789, FAR), (4790, FAR), (4789, "192.0.2.3")];
    let sinks = plans.map(|(port, address)| sink(&far, address, &vxlan(port)));
    let plans =
        plans.map(|(port, address)| by_xdp(vxlan(port), address, |plan| plan.transmit = transmit.clone())).to_vec();
    let (tunnels, _) = open_all(&near, plans);
    let mut destinations = Destinations::new(tunnels.into_iter().map(Destination::Tunnel).collect());
    let (mut ledger, now) = (ledger(3), Instant::now());
    for turn in 0..20 {
        for payload in 100..400 {
            ledger.captured += 1;
            destinations.offer(&frame(&udp_frame(turn, payload)), &mut ledger);
        }
        destinations.flush(now, &mut ledger);
        assert_eq!(ledger.balance(), Ok(()));
    }
    destinations.finish(now, &mut ledger);
    assert_eq!(ledger.balance(), Ok(()));
    for (account, sink) in ledger.destinations.iter().zip(&sinks) {
        assert_eq!((account.sent, arrived(sink), account.in_flight), (6000, 6000, 0));
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn jumbo_frames_leave_whole_where_the_interface_takes_them() {
    let (near, far) = TestNamespace::pair();
    for namespace in [&near, &far] {
        namespace.ip("link set fke0 mtu 9216");
    }
    let sink = sink(&far, FAR, &vxlan(4789));
    let (mut tunnel, _) = open(&near, by_xdp(vxlan(4789), FAR, |plan| plan.udp_checksum = UdpChecksum::On));
    let mut account = DestinationLedger::default();
    for payload in [10, 2000, 4000, 4096, 8000, 8972] {
        offer(&mut tunnel, &udp_frame(1, payload), &mut account);
    }
    tunnel.finish(Instant::now(), &mut account);
    assert_eq!((account.sent, account.split_added, arrived(&sink)), (6, 0, 6));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn an_analyzer_that_answers_unreachable_is_reported_through_the_idle_sockets() {
    let gre = Encapsulation::Gre { key: None, sequence: false };
    for encapsulation in [vxlan(4789), gre] {
        let (near, far) = TestNamespace::pair();
        far.write("/proc/sys/net/ipv4/icmp_ratelimit", "0");
        let (mut tunnel, _) = open(&near, by_xdp(encapsulation, FAR, |_| ()));
        let mut account = DestinationLedger::default();
        for number in 0..50 {
            offer(&mut tunnel, &udp_frame(number, 100), &mut account);
        }
        tunnel.finish(Instant::now(), &mut account);
        assert_eq!((account.sent, account.dropped.total()), (50, 0));
        assert!(account.icmp.port_unreachable > 0, "{account:?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_routers_too_big_reaches_the_idle_sockets_and_is_learnt() {
    let (near, far) = TestNamespace::pair();
    route_over_a_narrow_link(&near, &far);
    let (mut tunnel, way) = open(&near, by_xdp(vxlan(4789), "198.51.100.9", |_| ()));
    let (mut account, now) = (DestinationLedger::default(), Instant::now());
    offer(&mut tunnel, &udp_frame(1, 1464 - 42), &mut account);
    tunnel.flush(now, &mut account);
    tunnel.flush(now + Duration::from_secs(1), &mut account);
    assert_eq!((account.icmp.too_big, way.mtu().value()), (1, 1300));
    offer(&mut tunnel, &udp_frame(1, 1464 - 42), &mut account);
    tunnel.finish(now, &mut account);
    assert_eq!((account.sent, account.split_added), (3, 1));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_the_interface_drops_without_a_carrier_is_not_sent() {
    let (near, far) = TestNamespace::pair();
    let sink = sink(&far, FAR, &vxlan(4789));
    let (mut tunnel, _) = open(&near, by_xdp(vxlan(4789), FAR, |_| ()));
    let (mut account, now) = (DestinationLedger::default(), Instant::now());
    for number in 0..100 {
        offer(&mut tunnel, &udp_frame(number, 100), &mut account);
    }
    tunnel.flush(now, &mut account);
    assert_eq!((account.sent, arrived(&sink)), (100, 100));

    far.ip("link set fke0 down");
    for number in 0..100 {
        offer(&mut tunnel, &udp_frame(number, 100), &mut account);
    }
    tunnel.flush(now, &mut account);
    assert_eq!((account.sent, account.dropped[DropReason::DeviceBusy], account.in_flight), (100, 100, 0));

    far.ip("link set fke0 up");
    for number in 0..100 {
        offer(&mut tunnel, &udp_frame(number, 100), &mut account);
    }
    tunnel.finish(now, &mut account);
    assert_eq!((account.sent, arrived(&sink)), (200, 100));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn an_interface_that_is_down_takes_one_batch_and_no_more() {
    let (near, far) = TestNamespace::pair();
    let sink = sink(&far, FAR, &vxlan(4789));
    let (mut tunnel, _) = open(&near, by_xdp(vxlan(4789), FAR, |_| ()));
    let (mut account, now) = (DestinationLedger::default(), Instant::now());
    let offer_300 = |tunnel: &mut Tunnel, account: &mut DestinationLedger| {
        (0..300).for_each(|number| offer(tunnel, &udp_frame(number, 100), account));
        tunnel.flush(now, account);
    };
    near.ip("link set fke0 down");
    offer_300(&mut tunnel, &mut account);
    offer_300(&mut tunnel, &mut account);
    let down = account.dropped[DropReason::InterfaceDown];
    assert_eq!((account.sent, account.in_flight, down), (0, 64, 600 - 64));
    let until = tunnel.deadline().unwrap().duration_since(now);
    assert!(until >= Duration::from_millis(100), "{until:?}: an interface that is down wakes nobody up");

    near.ip("link set fke0 up");
    tunnel.flush(now, &mut account);
    offer_300(&mut tunnel, &mut account);
    tunnel.finish(now, &mut account);
    assert_eq!((account.sent, account.in_flight, arrived(&sink)), (364, 0, 364));
}

fn offer_100(destinations: &mut Destinations, ledger: &mut Ledger) {
    for number in 0..100 {
        ledger.captured += 1;
        destinations.offer(&frame(&udp_frame(number, 100)), ledger);
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn an_interface_that_is_made_anew_is_found_again_and_what_it_had_is_counted() {
    let (near, far) = TestNamespace::pair();
    let (tunnel, way) = open(&near, by_xdp(vxlan(4789), FAR, |_| ()));
    let mut destinations = Destinations::new(vec![Destination::Tunnel(tunnel)]);
    let (mut ledger, now) = (ledger(1), Instant::now());
    offer_100(&mut destinations, &mut ledger);
    destinations.flush(now, &mut ledger);
    assert_eq!(ledger.destinations[0].sent, 100);

    near.ip("link del fke0");
    offer_100(&mut destinations, &mut ledger);
    destinations.flush(now, &mut ledger);
    assert_eq!(ledger.balance(), Ok(()));
    assert_eq!(ledger.destinations[0].dropped[DropReason::InterfaceDown], 100);

    near.connect(&far);
    meet(&near);
    let sink = sink(&far, FAR, &vxlan(4789));
    let again = near.run_async(async move { resolve(&[by_xdp(vxlan(4789), FAR, |_| ())]).await }).unwrap().remove(0);
    let again = again.unwrap();
    // The control plane's watch does this.
    way.set_device(again.device());
    way.set_source_mac(again.ethernet().0);
    way.set_destination_mac(again.ethernet().1);
    let account = near.run(move || {
        destinations.flush(now + Duration::from_secs(1), &mut ledger);
        offer_100(&mut destinations, &mut ledger);
        destinations.finish(now + Duration::from_secs(2), &mut ledger);
        assert_eq!(ledger.balance(), Ok(()));
        ledger.destinations.remove(0)
    });
    assert_eq!((account.sent, account.in_flight, arrived(&sink)), (200, 0, 100));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_queue_that_somebody_has_or_that_is_not_there_is_said_with_what_to_do() {
    let (near, _far) = TestNamespace::pair();
    let (tunnel, way) = open(&near, by_xdp(vxlan(4789), FAR, |_| ()));
    let errors = near.run(move || {
        let plan = by_xdp(vxlan(4789), FAR, |_| ());
        let End::Tunnel(tunnel_plan) = &plan.end else { panic!("a tunnel") };
        [0, 7].map(|worker| {
            let mut shared = Shared::new(std::slice::from_ref(&plan), worker);
            let opened = Tunnel::open(&plan, tunnel_plan, &way, &["eth0".into()], Patience::Drop, &mut shared);
            opened.map(drop).unwrap_err()
        })
    });
    drop(tunnel);
    assert_eq!(errors[0].to_string(), "cannot send through transmit queue 0 of fke0 by AF_XDP");
    assert!(errors[0].hint().unwrap().contains("ss --xdp"), "{:?}", errors[0].hint());
    assert!(errors[1].hint().unwrap().contains("fke0 may have no queue 7"), "{:?}", errors[1].hint());
    assert_eq!(errors[1].place().unwrap(), "destination 1 (test), transmit");
}
