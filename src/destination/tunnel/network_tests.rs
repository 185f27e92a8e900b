//! Tunnels between network namespaces: the kernel's queues, its ICMP and its headers are the judges.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::testing::{encapsulations, frame, ledger, plan, udp_frame, vxlan, way};
use super::super::{Destination, Destinations};
use super::*;
use crate::config::plan::{End, FilePath, Fit, Gso, UdpChecksum};
use crate::kernel::locate::locate;
use crate::kernel::testing::{TestNamespace, await_that};
use crate::kernel::underlay::NextHop;
use crate::quantity::{Dscp, Ttl, Weight};
use crate::wire::layers::{Fragment, GRE, IpVersion, Layers, UDP};

const NEAR: &str = "192.0.2.1";
pub(super) const FAR: &str = "192.0.2.2";

/// Opens a tunnel from [`NEAR`] to `remote`; the sockets stay in the namespace.
fn open(namespace: &TestNamespace, remote: &'static str, encapsulation: Encapsulation, patience: Patience) -> Tunnel {
    let (_, plan) = plan(encapsulation, remote.parse().unwrap(), Fit::Split);
    open_planned(namespace, plan, way(NEAR, remote, 1500, NextHop::Usable), patience)
}

fn open_planned(namespace: &TestNamespace, plan: TunnelPlan, way: Arc<Underlay>, patience: Patience) -> Tunnel {
    namespace.run(move || {
        let to = "test".to_owned();
        let destination =
            DestinationPlan { name: "1".to_owned(), to, weight: Weight::default(), end: End::Tunnel(plan.clone()) };
        Tunnel::open(&destination, &plan, &way, &["eth0".into()], patience, &mut Shared::new(&[], 0)).unwrap()
    })
}

/// A socket of the far host that keeps all VXLAN (or, raw, all GRE) for `address`.
pub(super) fn sink(namespace: &TestNamespace, address: &'static str, encapsulation: &Encapsulation) -> Socket {
    let port = encapsulation.udp_port();
    namespace.run(move || {
        let socket = match port {
            Some(_) => Socket::new(Domain::IPV4, Type::DGRAM, None),
            None => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(GRE)))),
        };
        let socket = socket.unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
        socket.bind(&SocketAddr::new(address.parse().unwrap(), port.unwrap_or(0)).into()).unwrap();
        socket
    })
}

/// How many datagrams `sink` holds; the near host's queue has been emptied before.
pub(super) fn arrived(sink: &Socket) -> u64 {
    sink.set_nonblocking(true).unwrap();
    let (mut buffer, mut reader) = (vec![0; 65_536], sink);
    std::iter::from_fn(|| reader.read(&mut buffer).ok()).count() as u64
}

/// Waits until the queueing discipline of the near host's interface holds nothing.
fn await_empty_queue(namespace: &TestNamespace) {
    let is_empty = || namespace.output("tc -s qdisc show dev fke0").contains("backlog 0b 0p");
    await_that("the queue to be empty", is_empty);
}

/// Makes both hosts know each other's link-layer address.
pub(super) fn meet(near: &TestNamespace) {
    for address in [FAR, "2001:db8::2"] {
        near.output(&format!("ping -c 1 -w 5 {address}"));
    }
}

pub(super) fn offer(tunnel: &mut Tunnel, bytes: &[u8], account: &mut DestinationLedger) {
    account.assigned += 1;
    tunnel.offer(&frame(bytes), account);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn behind_a_slow_interface_what_is_sent_arrives_and_the_rest_is_device_busy() {
    let gre = Encapsulation::Gre { key: None, sequence: true };
    for encapsulation in [vxlan(4789), gre] {
        let (near, far) = TestNamespace::pair();
        meet(&near);
        near.output("tc qdisc add dev fke0 root tbf rate 20mbit burst 3000 limit 20000");
        let sink = sink(&far, FAR, &encapsulation);
        let mut tunnel = open(&near, FAR, encapsulation, Patience::Drop);
        let mut account = DestinationLedger::default();
        for number in 0..500 {
            offer(&mut tunnel, &udp_frame(number, 1000), &mut account);
        }
        tunnel.finish(Instant::now(), &mut account);
        await_empty_queue(&near);
        assert_eq!(arrived(&sink), account.sent);
        assert!(account.sent > 0 && account.dropped[DropReason::DeviceBusy] > 0, "{account:?}");
        assert_eq!(account.sent + account.dropped[DropReason::DeviceBusy], 500);
    }
}

/// Opens a tunnel over the way that the kernel itself shows, with what it says about runs of datagrams.
fn open_located(near: &TestNamespace, gso: Gso) -> Tunnel {
    let (destination, plan) = plan(vxlan(4789), FAR.parse().unwrap(), Fit::Split);
    let plan = TunnelPlan { gso, ..plan };
    let (mut ways, problems) = near.run_async(async move { locate(&[destination]).await });
    assert!(problems.is_empty());
    open_planned(near, plan, ways.remove(0).unwrap(), Patience::Drop)
}

/// Mirrors 200 frames of two lengths in 50 flows, and returns what the far host sees: every outer frame on the wire,
/// and every datagram in a socket.
fn mirror_200(near: &TestNamespace, far: &TestNamespace, tunnel: &mut Tunnel) -> (Vec<Vec<u8>>, u64) {
    let (wire, sink) = (packet_socket(far), sink(far, FAR, &vxlan(4789)));
    setsockopt(&wire, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    let mut account = DestinationLedger::default();
    for number in 0..200 {
        offer(tunnel, &udp_frame(number % 50, if number % 4 < 3 { 1000 } else { 100 }), &mut account);
    }
    tunnel.finish(Instant::now(), &mut account);
    assert_eq!((account.sent, account.datagrams, account.dropped.total()), (200, 200, 0));
    near.output("ping -c 1 -w 5 192.0.2.2"); // behind everything else
    let mut seen = Vec::new();
    let mut buffer = vec![0; 65_536];
    wire.set_nonblocking(true).unwrap();
    while let Ok(len) = (&wire).read(&mut buffer) {
        if Layers::parse(&buffer[..len]).ip.is_some_and(|ip| ip.protocol == UDP) {
            seen.push(buffer[..len].to_vec());
        }
    }
    (seen, arrived(&sink))
}

/// The outer UDP checksum, and whether it is right, as another decoder sees it.
fn outer_checksum(frame: &[u8]) -> (u16, bool) {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Udp(udp))) =
        (&sliced.net, &sliced.transport)
    else {
        panic!("not UDP over IPv4")
    };
    let right = udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
    (udp.checksum(), udp.checksum() == right)
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn where_the_kernel_cuts_runs_every_frame_arrives_by_itself_with_a_right_checksum() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    near.output("ethtool -K fke0 tx off");
    near.output("ethtool -K fke0 tx-udp-segmentation off");
    let (seen, delivered) = mirror_200(&near, &far, &mut open_located(&near, Gso::Auto));
    assert_eq!((seen.len(), delivered), (200, 200));
    for frame in &seen {
        assert!(frame.len() <= 14 + 1500);
        assert!(matches!(outer_checksum(frame), (1.., true)), "{:?}", outer_checksum(frame));
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn where_the_interface_may_pass_runs_on_uncut_auto_sends_none_and_on_lets_packet_sockets_see_them() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    let (seen, delivered) = mirror_200(&near, &far, &mut open_located(&near, Gso::Auto));
    assert_eq!((seen.len(), delivered), (200, 200));
    assert!(seen.iter().all(|frame| frame.len() <= 14 + 1500 && outer_checksum(frame).0 == 0));

    // A veth: sockets get each datagram, but who captures there sees fewer and longer frames.
    let (seen, delivered) = mirror_200(&near, &far, &mut open_located(&near, Gso::On));
    assert_eq!(delivered, 200);
    assert!(seen.len() < 200 && seen.iter().any(|frame| frame.len() > 14 + 1500), "{} frames", seen.len());
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_queue_that_counts_packets_refuses_runs_as_a_whole() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    near.output("ethtool -K fke0 tx-udp-segmentation off");
    near.output("tc qdisc add dev fke0 root handle 1: htb default 1");
    near.output("tc class add dev fke0 parent 1: classid 1:1 htb rate 100mbit");
    near.output("tc qdisc add dev fke0 parent 1:1 handle 2: pfifo limit 3");
    let sink = sink(&far, FAR, &vxlan(4789));
    let mut tunnel = open_located(&near, Gso::Auto);
    let mut account = DestinationLedger::default();
    for number in 0..1000 {
        offer(&mut tunnel, &udp_frame(number % 50, 1000), &mut account);
    }
    tunnel.finish(Instant::now(), &mut account);
    await_empty_queue(&near);
    assert_eq!(arrived(&sink), account.sent);
    assert_eq!(account.sent + account.dropped[DropReason::DeviceBusy], 1000);
    assert!(account.sent > 0 && account.dropped.total() > 0, "{account:?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn runs_stop_when_the_path_becomes_narrower_and_no_datagram_is_lost_for_it() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    near.output("ethtool -K fke0 tx-udp-segmentation off");
    let sink = sink(&far, FAR, &vxlan(4789));
    let mut tunnel = open_located(&near, Gso::Auto);
    near.ip("link set fke0 mtu 1000");
    let (mut account, now) = (DestinationLedger::default(), Instant::now());
    for number in 0..100 {
        offer(&mut tunnel, &udp_frame(number % 50, if number % 2 == 0 { 1200 } else { 500 }), &mut account);
    }
    tunnel.finish(now, &mut account);
    assert_eq!((account.sent, account.dropped[DropReason::Oversize], account.dropped.total()), (50, 50, 50));
    assert_eq!(arrived(&sink), 50);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_replay_waits_for_a_slow_interface_and_loses_nothing() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    near.output("tc qdisc add dev fke0 root tbf rate 40mbit burst 3000 limit 20000");
    let encapsulation = vxlan(4789);
    let sink = sink(&far, FAR, &encapsulation);
    let mut tunnel = open(&near, FAR, encapsulation, Patience::Wait);
    let mut account = DestinationLedger::default();
    for number in 0..500 {
        offer(&mut tunnel, &udp_frame(number, 1000), &mut account);
    }
    tunnel.finish(Instant::now(), &mut account);
    await_empty_queue(&near);
    assert_eq!((arrived(&sink), account.sent, account.dropped.total()), (500, 500, 0));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn an_analyzer_that_answers_unreachable_costs_neither_itself_nor_another_a_frame() {
    let gre = Encapsulation::Gre { key: None, sequence: false };
    for encapsulation in [vxlan(4789), gre] {
        let (near, far) = TestNamespace::pair();
        meet(&near);
        far.write("/proc/sys/net/ipv4/icmp_ratelimit", "0");
        far.ip("addr add 192.0.2.3/24 dev fke0");
        let sink = sink(&far, "192.0.2.3", &encapsulation);
        let deaf = open(&near, FAR, encapsulation.clone(), Patience::Drop);
        let hearing = open(&near, "192.0.2.3", encapsulation, Patience::Drop);
        let mut destinations = Destinations::new(vec![Destination::Tunnel(deaf), Destination::Tunnel(hearing)]);
        let (mut ledger, now) = (ledger(2), Instant::now());
        for turn in 0..20 {
            for number in 0..20 {
                ledger.captured += 1;
                destinations.offer(&frame(&udp_frame(turn * 20 + number, 200)), &mut ledger);
            }
            destinations.flush(now, &mut ledger);
        }
        destinations.finish(now, &mut ledger);
        assert_eq!(ledger.balance(), Ok(()));
        let [deaf, hearing] = &ledger.destinations[..] else { panic!("two of them") };
        assert_eq!((deaf.sent, hearing.sent, arrived(&sink)), (400, 400, 400));
        assert!(deaf.icmp.port_unreachable > 0);
        assert_eq!(hearing.icmp.port_unreachable, 0, "raw sockets see each other's reports");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_smaller_interface_mtu_is_learnt_and_frames_are_split_from_then_on() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    let encapsulation = vxlan(4789);
    let sink = sink(&far, FAR, &encapsulation);
    let mut tunnel = open(&near, FAR, encapsulation, Patience::Drop);
    near.ip("link set fke0 mtu 1400");
    let (mut account, now) = (DestinationLedger::default(), Instant::now());
    let full = udp_frame(1, 1464 - 42);

    offer(&mut tunnel, &full, &mut account);
    tunnel.flush(now, &mut account);
    assert_eq!((account.dropped[DropReason::Oversize], account.sent), (1, 0));
    assert_eq!(tunnel.underlay.mtu().value(), 1400);

    offer(&mut tunnel, &full, &mut account);
    tunnel.finish(now, &mut account);
    assert_eq!((account.sent, account.split_added, arrived(&sink)), (2, 1, 2));
}

/// Makes the far host the router to 198.51.100.9, over a link of 1300 bytes.
pub(super) fn route_over_a_narrow_link(near: &TestNamespace, far: &TestNamespace) {
    far.write("/proc/sys/net/ipv4/ip_forward", "1");
    far.ip("link add far1 type veth peer name far2");
    far.ip("link set far1 mtu 1300 up");
    far.ip("link set far2 up");
    far.ip("addr add 198.51.100.1/24 dev far1");
    far.ip("neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev far1");
    near.ip("route add 198.51.100.0/24 via 192.0.2.2");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_routers_too_big_is_learnt_and_costs_no_later_frame() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    route_over_a_narrow_link(&near, &far);
    let mut tunnel = open(&near, "198.51.100.9", vxlan(4789), Patience::Drop);
    let (mut account, now) = (DestinationLedger::default(), Instant::now());
    let full = udp_frame(1, 1464 - 42);

    offer(&mut tunnel, &full, &mut account);
    tunnel.flush(now, &mut account);
    assert_eq!((account.sent, account.dropped.total()), (1, 0), "the kernel took it; the router could not");
    assert_eq!((account.icmp.too_big, tunnel.underlay.mtu().value()), (1, 1300));

    offer(&mut tunnel, &full, &mut account);
    offer(&mut tunnel, &udp_frame(1, 20), &mut account);
    tunnel.finish(now, &mut account);
    assert_eq!((account.sent, account.split_added, account.dropped.total()), (4, 1, 0));
}

/// The dry run promises outer frames "as they would leave": here they leave, with every header field that can be set.
#[test]
#[ignore = "needs root: run scripts/test"]
fn the_dry_run_writes_the_very_bytes_that_the_kernel_sends() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    // A network card would finish the checksums; a veth passes them on unfinished.
    near.output("ethtool -K fke0 tx off");
    let macs = (mac(&near), mac(&far));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dry.pcap");
    let variants = [(Fit::Split, UdpChecksum::Auto), (Fit::Fragment, UdpChecksum::On), (Fit::Split, UdpChecksum::Off)];
    // Ports of its own for each tunnel: the last one's may live on for a moment in a child that another test forks.
    let mut port_ranges = (50_000..).step_by(SOURCE_PORTS as usize).map(|first| format!("{first}-65535"));
    for (local, remote) in [(NEAR, FAR), ("2001:db8::1", "2001:db8::2")] {
        let way = Arc::into_inner(way(local, remote, 1500, NextHop::Usable)).unwrap();
        let way = Arc::new(way.with_ethernet(macs));
        for (encapsulation, (fit, udp_checksum)) in encapsulations()
            .into_iter()
            .flat_map(|encapsulation| variants.map(|variant| (encapsulation.clone(), variant)))
        {
            let (_, plan) = plan(encapsulation, way.remote(), fit);
            let (dscp, ttl) = (Dscp::new(46).unwrap(), Ttl::new(17).unwrap());
            let ports = port_ranges.next().unwrap().parse().unwrap();
            let live = TunnelPlan { ports, dscp, ttl, udp_checksum, ..plan };
            let dry = TunnelPlan { transmit: TransmitPlan::CaptureFile(FilePath::Path(path.clone())), ..live.clone() };
            let wire = packet_socket(&far);
            let mut tunnels =
                [live.clone(), dry].map(|plan| open_planned(&near, plan, Arc::clone(&way), Patience::Drop));
            for tunnel in &mut tunnels {
                tunnel.fitter = Fitter::new(fit).numbering_from(1);
            }

            let mut account = DestinationLedger::default();
            for bytes in [udp_frame(1, 10), udp_frame(2, 1000), udp_frame(3, 3000)] {
                for tunnel in &mut tunnels {
                    offer(tunnel, &bytes, &mut account);
                    tunnel.flush(Instant::now(), &mut account);
                }
            }
            assert_eq!((account.dropped.total(), account.in_flight), (0, 0));
            let mut capture = pcap::Capture::from_file(&path).unwrap();
            let mut compared = 0;
            while let Ok(packet) = capture.next_packet() {
                let [sent, written] = [next_tunnel_packet(&wire), packet.data.to_vec()].map(without_identification);
                assert_eq!(sent, written, "{live:?}");
                compared += 1;
            }
            assert_eq!(compared, 5, "3000 bytes are cut in three, by us or by the kernel");
        }
    }
}

/// A socket that sees every frame of the host.
pub(super) fn packet_socket(namespace: &TestNamespace) -> Socket {
    let every_protocol = i32::from(0x0003_u16.to_be()); // ETH_P_ALL of linux/if_ether.h, in network order
    namespace.run(move || {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every_protocol))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    })
}

/// The next frame on the wire that is a tunnel's: not neighbour discovery, not an ICMP answer.
pub(super) fn next_tunnel_packet(mut wire: &Socket) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    loop {
        let len = wire.read(&mut buffer).unwrap();
        if Layers::parse(&buffer[..len]).ip.is_some_and(|ip| matches!(ip.protocol, UDP | GRE)) {
            return buffer[..len].to_vec();
        }
    }
}

/// The kernel draws the identification of packets that may be fragmented from a hat, and counts it for the others, where
/// it means nothing (RFC 6864 section 4.1).
pub(super) fn without_identification(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(ip) = Layers::parse(&bytes).ip else { return bytes };
    match (ip.version, ip.fragment) {
        (IpVersion::V4, _) => {
            bytes[ip.start + 4..ip.start + 6].fill(0);
            bytes[ip.start + 10..ip.start + 12].fill(0); // the header checksum, which covers it
        }
        (IpVersion::V6, Fragment::Whole) => {}
        (IpVersion::V6, _) => bytes[ip.start + 44..ip.start + 48].fill(0),
    }
    bytes
}

/// The MAC address of the host's interface.
fn mac(namespace: &TestNamespace) -> [u8; 6] {
    let link = namespace.output("ip -br link show dev fke0");
    let octets = link.split_whitespace().nth(2).unwrap().split(':');
    octets.map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect::<Vec<u8>>().try_into().unwrap()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_the_analyzer_answers_to_gre_is_counted_by_one_of_several_workers() {
    let (near, far) = TestNamespace::pair();
    meet(&near);
    far.write("/proc/sys/net/ipv4/icmp_ratelimit", "0");
    let accounts = near.run(|| {
        let (destination, plan) =
            plan(Encapsulation::Gre { key: None, sequence: false }, FAR.parse().unwrap(), Fit::Split);
        let (way, mut shared) = (way(NEAR, FAR, 1500, NextHop::Usable), Shared::new(&[], 0));
        let mut workers = [0, 1].map(|number| {
            shared.go_on_to(number);
            let opened = Tunnel::open(&destination, &plan, &way, &["eth0".into()], Patience::Drop, &mut shared);
            (opened.unwrap(), DestinationLedger::default())
        });
        for number in 0..20 {
            for (tunnel, account) in &mut workers {
                offer(tunnel, &udp_frame(number, 100), account);
                tunnel.flush(Instant::now(), account);
            }
        }
        // The answers are there when that to a ping, which was sent behind them, is.
        std::process::Command::new("ping").args(["-c", "1", "-w", "5", FAR]).output().unwrap();
        workers.map(|(mut tunnel, mut account)| {
            tunnel.finish(Instant::now(), &mut account);
            account
        })
    });
    let [first, second] = accounts;
    assert_eq!((first.sent, second.sent), (20, 20));
    assert_eq!((first.icmp.port_unreachable, second.icmp.port_unreachable), (40, 0));
}
