//! The law under scripted engines and next hops, and real sockets on loopback.

use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::batch::Batch;
use super::super::testing::{frame, ledger, plan, udp_frame, underlay, vxlan};
use super::super::transmit::count_sent;
use super::super::{Destination, Destinations};
use super::*;
use crate::config::defaults::{NEXT_HOP_PATIENCE, VXLAN_PORT};
use crate::config::plan::{Fit, Gso, Ids};
use crate::error::{ExitCode, Explain};
use crate::kernel::underlay::NextHop;
use crate::ledger::Ledger;
use crate::quantity::{Mtu, PortRange};
use crate::wire::carrier::Carrier;

/// An engine that drops what its script says and counts what it "sent".
#[derive(Debug, Default)]
struct Scripted {
    batch: Batch,
    fates: VecDeque<Option<DropReason>>,
    /// When it loses its interface, and what waits with it.
    loses_all_at: Option<Instant>,
}

impl Transmit for Scripted {
    fn push(&mut self, header_len: usize, frame: &WireFrame<'_>, bucket: u32, cut: bool) -> Option<&mut [u8]> {
        self.batch.push(header_len, frame, bucket, cut)
    }

    fn waiting(&self) -> usize {
        self.batch.len()
    }

    fn each_header(&mut self, each: &mut dyn FnMut(&mut [u8])) {
        self.batch.each_header(each);
    }

    fn send(&mut self, _: Patience, account: &mut DestinationLedger) {
        for datagram in self.batch.datagrams() {
            match self.fates.pop_front().flatten() {
                Some(reason) => count_dropped(account, reason, 1),
                None => count_sent(account, 28 + datagram.len(), datagram.cut),
            }
        }
        self.batch.clear();
    }

    fn keep(&mut self, count: usize) -> usize {
        self.batch.truncate(count)
    }

    fn collect_reports(&mut self, _: &mut DestinationLedger) -> Option<io::Error> {
        None
    }

    fn settle(&mut self, now: Instant, account: &mut DestinationLedger) {
        if self.loses_all_at.is_some_and(|at| now >= at) {
            count_dropped(account, DropReason::InterfaceDown, self.batch.truncate(0));
        }
    }
}

/// A tunnel whose engine is scripted, and the way it watches.
fn scripted(fit: Fit, fates: Vec<Option<DropReason>>, next_hop: NextHop) -> (Tunnel, Arc<Underlay>) {
    let underlay = underlay("192.0.2.1", 1500, next_hop);
    let (_, plan) = plan(vxlan(VXLAN_PORT), underlay.remote(), fit);
    let encapsulator = Encapsulator::new(&plan.encapsulation, &["eth0".into()]).unwrap();
    let engine: Box<dyn Transmit> = Box::new(Scripted { fates: fates.into(), ..Scripted::default() });
    (
        Tunnel::assemble(
            &plan,
            &underlay,
            encapsulator,
            (engine, vec![49152, 49153]),
            (Patience::Drop, Sent::default()),
            (Arc::default(), false),
        ),
        underlay,
    )
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Offer { payload: usize },
    Flush { after: Duration },
    NextHop(NextHop),
    PathMtu(u64),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3000_usize).prop_map(|payload| Event::Offer { payload }),
        1 => (0..65_000_usize).prop_map(|payload| Event::Offer { payload }),
        4 => (0..1500_u64).prop_map(|ms| Event::Flush { after: Duration::from_millis(ms) }),
        1 => proptest::sample::select(vec![NextHop::Usable, NextHop::Resolving, NextHop::Failed])
            .prop_map(Event::NextHop),
        1 => proptest::sample::select(vec![576, 1280, 1500, 9000, 65_536]).prop_map(Event::PathMtu),
    ]
}

fn fates() -> impl Strategy<Value = Vec<Option<DropReason>>> {
    vec(proptest::option::weighted(0.3, proptest::sample::select(DropReason::ALL)), 0..100)
}

/// Offers `bytes` the way the worker does.
fn offer(destinations: &mut Destinations, ledger: &mut Ledger, bytes: &[u8]) {
    ledger.captured += 1;
    destinations.offer(&frame(bytes), ledger);
}

proptest! {
    /// The law (`ledger/law.rs`), for two destinations with different luck, after every step.
    #[test]
    fn the_ledger_balances_whatever_happens(
        events in vec(events(), 0..120),
        lucky in fates(),
        unlucky in fates(),
        fits in proptest::sample::select(vec![
            (Fit::Split, Fit::Drop), (Fit::Fragment, Fit::Truncate), (Fit::Truncate, Fit::Split)
        ]),
    ) {
        let (first, first_way) = scripted(fits.0, lucky, NextHop::Usable);
        let (second, second_way) = scripted(fits.1, unlucky, NextHop::Resolving);
        let mut destinations = Destinations::new(vec![Destination::Tunnel(first), Destination::Tunnel(second)]);
        let mut ledger = ledger(2);
        let mut now = Instant::now();
        for event in events {
            match event {
                Event::Offer { payload } => offer(&mut destinations, &mut ledger, &udp_frame(4000, payload)),
                Event::Flush { after } => {
                    now += after;
                    destinations.flush(now, &mut ledger);
                }
                Event::NextHop(state) => second_way.set_next_hop(state),
                Event::PathMtu(mtu) => first_way.learn_mtu(Mtu::new(mtu).unwrap()),
            }
            prop_assert_eq!(ledger.balance(), Ok(()));
        }
        destinations.finish(now, &mut ledger);
        prop_assert_eq!(ledger.balance(), Ok(()));
        for account in &ledger.destinations {
            prop_assert_eq!(account.in_flight, 0);
            prop_assert_eq!(account.datagrams, account.sent);
        }
    }
}

#[test]
fn frames_wait_a_while_for_the_next_hop_and_leave_when_it_answers() {
    let (mut tunnel, way) = scripted(Fit::Split, Vec::new(), NextHop::Resolving);
    let (mut account, start) = (DestinationLedger::default(), Instant::now());
    let small = udp_frame(1, 20);
    for _ in 0..NEXT_HOP_QUEUE + 6 {
        account.assigned += 1;
        tunnel.offer(&frame(&small), &mut account);
    }
    tunnel.flush(start, &mut account);
    assert_eq!((account.in_flight, account.dropped[DropReason::Unreachable]), (NEXT_HOP_QUEUE as u64, 6));
    assert!(tunnel.deadline().is_some_and(|deadline| deadline < start + NEXT_HOP_PATIENCE));

    way.set_next_hop(NextHop::Usable);
    tunnel.flush(start + NEXT_HOP_PATIENCE / 2, &mut account);
    assert_eq!((account.in_flight, account.sent), (0, NEXT_HOP_QUEUE as u64));
    assert_eq!(tunnel.deadline(), None);
}

#[test]
fn frames_that_wait_in_vain_are_unreachable_and_so_are_all_while_the_next_hop_has_failed() {
    let (mut tunnel, way) = scripted(Fit::Split, Vec::new(), NextHop::Resolving);
    let (mut account, start) = (DestinationLedger::default(), Instant::now());
    let small = udp_frame(1, 20);
    tunnel.offer(&frame(&small), &mut account);
    tunnel.flush(start, &mut account);
    assert_eq!(account.in_flight, 1);
    tunnel.flush(start + NEXT_HOP_PATIENCE, &mut account);
    assert_eq!((account.in_flight, account.dropped[DropReason::Unreachable]), (0, 1));

    way.set_next_hop(NextHop::Failed);
    tunnel.offer(&frame(&small), &mut account);
    tunnel.flush(start + NEXT_HOP_PATIENCE, &mut account);
    assert_eq!((account.in_flight, account.dropped[DropReason::Unreachable]), (0, 2));

    way.set_next_hop(NextHop::Resolving);
    tunnel.offer(&frame(&small), &mut account);
    tunnel.finish(start + NEXT_HOP_PATIENCE, &mut account);
    assert_eq!((account.in_flight, account.dropped[DropReason::Stopping]), (0, 1));
}

#[test]
fn nothing_is_looked_at_again_when_the_engine_has_lost_what_was_held() {
    let (mut tunnel, _way) = scripted(Fit::Split, Vec::new(), NextHop::Resolving);
    let (mut account, start) = (DestinationLedger::default(), Instant::now());
    let later = start + NEXT_HOP_PATIENCE / 2;
    tunnel.outbox.engine = Box::new(Scripted { loses_all_at: Some(later), ..Scripted::default() });
    tunnel.offer(&frame(&udp_frame(1, 20)), &mut account);
    tunnel.flush(start, &mut account);
    assert!(account.in_flight == 1 && tunnel.deadline().is_some());
    tunnel.flush(later, &mut account);
    assert_eq!((account.in_flight, account.dropped[DropReason::InterfaceDown]), (0, 1));
    assert_eq!(tunnel.deadline(), None);
}

#[test]
fn a_replay_waits_until_the_next_hop_answers() {
    let underlay = underlay("192.0.2.1", 1500, NextHop::Failed);
    let (_, plan) = plan(vxlan(VXLAN_PORT), underlay.remote(), Fit::Split);
    let encapsulator = Encapsulator::new(&plan.encapsulation, &["file".into()]).unwrap();
    let engine: Box<dyn Transmit> = Box::<Scripted>::default();
    let mut tunnel = Tunnel::assemble(
        &plan,
        &underlay,
        encapsulator,
        (engine, vec![]),
        (Patience::Wait, Sent::default()),
        (Arc::default(), false),
    );
    let mut account = DestinationLedger::default();
    tunnel.offer(&frame(&udp_frame(1, 20)), &mut account);
    let answer = std::thread::spawn(move || underlay.set_next_hop(NextHop::Usable));
    tunnel.flush(Instant::now(), &mut account);
    answer.join().unwrap();
    assert_eq!((account.sent, account.in_flight), (1, 0));
}

#[test]
fn the_path_mtu_bounds_what_leaves_from_the_next_turn_on() {
    let (mut tunnel, way) = scripted(Fit::Truncate, Vec::new(), NextHop::Usable);
    let (mut account, now) = (DestinationLedger::default(), Instant::now());
    let large = udp_frame(1, 1464 - 42);
    tunnel.offer(&frame(&large), &mut account);
    tunnel.flush(now, &mut account);
    assert_eq!((account.bytes, account.truncated), (1500, 0));

    way.learn_mtu(Mtu::new(1400).unwrap());
    tunnel.flush(now, &mut account);
    tunnel.offer(&frame(&large), &mut account);
    tunnel.flush(now, &mut account);
    assert_eq!((account.bytes, account.truncated), (1500 + 1400, 1));
}

/// Opens a tunnel to `receiver` over loopback.
fn to_loopback(receiver: &UdpSocket, ports: &str) -> Tunnel {
    with_gso(receiver, ports, Gso::Auto)
}

fn with_gso(receiver: &UdpSocket, ports: &str, gso: Gso) -> Tunnel {
    let address = receiver.local_addr().unwrap();
    let underlay = underlay(&address.ip().to_string(), 65_536, NextHop::Usable);
    let (destination, mut plan) = plan(vxlan(address.port()), address.ip(), Fit::Split);
    plan.ports = ports.parse().unwrap();
    plan.gso = gso;
    let shared = &mut Shared::new(&[], 0);
    Tunnel::open(&destination, &plan, &underlay, &["eth0".into()], Patience::Drop, shared).unwrap()
}

fn receiver(address: &str) -> UdpSocket {
    let receiver = UdpSocket::bind(address).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    receiver
}

#[test]
fn frames_arrive_behind_a_vxlan_header_from_one_of_our_ports_with_each_flow_in_order() {
    const FLOWS: u16 = 20;
    for (address, gso) in ["127.0.0.1:0", "[::1]:0"].into_iter().flat_map(|a| [(a, Gso::Off), (a, Gso::On)]) {
        let receiver = receiver(address);
        let mut tunnel = with_gso(&receiver, "49152-65535", gso);
        let Some(OwnTunnel { carrier: Carrier::Udp { sources, destination, .. }, .. }) = tunnel.own_tunnel().cloned()
        else {
            panic!("VXLAN is carried by UDP")
        };
        assert_eq!(destination, receiver.local_addr().unwrap().port());
        assert_eq!(sources.len(), SOURCE_PORTS as usize);

        let mut account = DestinationLedger::default();
        let frames: Vec<Vec<u8>> = (0..100).map(|number| udp_frame(number % FLOWS, usize::from(number % 7))).collect();
        for bytes in &frames {
            tunnel.offer(&frame(bytes), &mut account);
        }
        tunnel.flush(Instant::now(), &mut account);
        assert_eq!((account.sent, account.in_flight, account.dropped.total()), (100, 0, 0));

        let (mut buffer, mut arrived) = ([0; 2048], Vec::new());
        for _ in &frames {
            let (len, from) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..8], [8, 0, 0, 0, 0, 0, 42, 0], "RFC 7348: only the I flag, and VNI 42");
            assert!(sources.contains(&from.port()));
            arrived.push((from.port(), buffer[8..len].to_vec()));
        }
        for flow in 0..FLOWS {
            let of_flow = |bytes: &&Vec<u8>| bytes[34..36] == flow.to_be_bytes();
            let sent: Vec<&Vec<u8>> = frames.iter().filter(of_flow).collect();
            let got: Vec<&(u16, Vec<u8>)> = arrived.iter().filter(|(_, bytes)| of_flow(&bytes)).collect();
            assert_eq!(got.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), sent);
            assert!(got.iter().all(|(port, _)| *port == got[0].0), "one port a flow");
        }
    }
}

#[test]
fn an_analyzer_without_a_socket_loses_nothing_and_is_reported() {
    let receiver = receiver("127.0.0.1:0");
    let mut tunnel = to_loopback(&receiver, "49152-65535");
    drop(receiver);
    let mut account = DestinationLedger::default();
    for number in 0..200 {
        tunnel.offer(&frame(&udp_frame(number, 100)), &mut account);
    }
    let start = Instant::now();
    tunnel.flush(start, &mut account);
    tunnel.finish(start, &mut account);
    assert_eq!((account.sent, account.dropped.total()), (200, 0));
    assert!(account.icmp.port_unreachable > 0);
}

#[test]
fn ports_in_use_are_passed_over_and_a_range_without_a_free_one_is_an_error() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let receiver = receiver("127.0.0.1:0");
    let range = format!("{port}-{}", port.saturating_add(40));
    let tunnel = to_loopback(&receiver, &range);
    let Some(OwnTunnel { carrier: Carrier::Udp { sources, .. }, .. }) = tunnel.own_tunnel() else {
        panic!("VXLAN is carried by UDP")
    };
    assert!(!sources.contains(&port) && !sources.is_empty());

    let underlay = underlay("127.0.0.1", 65_536, NextHop::Usable);
    let (destination, mut plan) = plan(vxlan(VXLAN_PORT), underlay.remote(), Fit::Split);
    plan.ports = port.to_string().parse::<PortRange>().unwrap();
    let shared = &mut Shared::new(&[], 0);
    let Err(error) = Tunnel::open(&destination, &plan, &underlay, &["eth0".into()], Patience::Drop, shared) else {
        panic!("the only port is taken")
    };
    assert_eq!(error.to_string(), format!("every UDP source port of {port}-{port} is in use at 127.0.0.1"));
    assert_eq!(error.place().unwrap(), "destination 1 (test), ports");
}

#[test]
fn one_port_keeps_the_order_of_all_flows() {
    for gso in [Gso::Off, Gso::On] {
        let receiver = receiver("127.0.0.1:0");
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut tunnel = with_gso(&receiver, &free.to_string(), gso);
        let mut account = DestinationLedger::default();
        let frames: Vec<Vec<u8>> = (0..50).map(|number| udp_frame(number, usize::from(number / 3 % 2))).collect();
        for bytes in &frames {
            tunnel.offer(&frame(bytes), &mut account);
        }
        tunnel.flush(Instant::now(), &mut account);
        let mut buffer = [0; 256];
        for bytes in &frames {
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[8..len], bytes);
        }
    }
}

#[test]
fn an_interface_without_an_id_and_a_foreign_source_address_are_said_with_what_to_do() {
    let vni = Ids { by_interface: vec![("eth*".into(), crate::quantity::Vni::MAX)], out_by_interface: Vec::new() };
    let way = underlay("192.0.2.77", 1500, NextHop::Usable);
    let shared = &mut Shared::new(&[], 0);
    let (destination, by_interface) = plan(Encapsulation::Vxlan { vni, port: VXLAN_PORT }, way.remote(), Fit::Split);
    let error = Tunnel::open(&destination, &by_interface, &way, &["lo".into()], Patience::Drop, shared).unwrap_err();
    assert_eq!(error.to_string(), "interface \"lo\" has no VNI");
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert_eq!(error.hint().unwrap(), "the ids are given for eth*: add one for this interface, or for \"*\"");

    let (destination, plan) = plan(vxlan(VXLAN_PORT), way.remote(), Fit::Split);
    let error = Tunnel::open(&destination, &plan, &way, &["lo".into()], Patience::Drop, shared).unwrap_err();
    assert_eq!(error.to_string(), "cannot send from 192.0.2.77");
    assert_eq!(error.exit_code(), ExitCode::Failed);
}
