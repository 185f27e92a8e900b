//! Several analyzers that share the traffic: flows stay whole, one that goes takes only its own along, and finds them again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use etherparse::PacketBuilder;

use crate::daemon::{Daemon, session};
use crate::farspan::{Farspan, total};
use crate::judge::{Capture, frames_of};
use crate::lab::{Lab, await_that};
use crate::traffic;

const FLOWS: u16 = 10_000;
const ANALYZERS: [[u8; 4]; 3] = [[192, 0, 2, 2], [192, 0, 2, 3], [192, 0, 2, 4]];
const ANALYZER_3: &str = "192.0.2.4/24";

/// Which analyzer each flow arrived at; more than one: it was torn.
type Arrivals = BTreeMap<u16, BTreeSet<[u8; 4]>>;

#[test]
#[ignore = "needs root: run scripts/test"]
fn ten_thousand_flows_are_shared_by_three_analyzers_and_only_those_of_a_dead_one_move() {
    let lab = several_analyzers();
    let to = ["vxlan://192.0.2.2?vni=1&name=a", "vxlan://192.0.2.3?vni=1&name=b", "vxlan://192.0.2.4?vni=1&name=c"];
    let farspan = Farspan::mirror(
        &lab,
        &["-i", "h0", "--spread", "balance", "--to", to[0], "--to", to[1], "--to", to[2], "udp", "port", "9"],
    );
    let before = arrivals(&lab);
    let mut shares = BTreeMap::<[u8; 4], usize>::new();
    for analyzers in before.values() {
        assert_eq!(analyzers.len(), 1, "both directions of a flow arrive at one analyzer");
        *shares.entry(*analyzers.first().unwrap()).or_default() += 1;
    }
    // The analyzers' kernels refuse every datagram, as those of sniffing analyzers do: that means nothing.
    assert!(shares.len() == 3 && shares.values().all(|share| (3167..=3500).contains(share)), "{shares:?}");

    lab.analyzer.run(&format!("ip address delete {ANALYZER_3} dev a0"));
    await_health(&lab, &farspan, "destination c (vxlan://192.0.2.4?vni=1&name=c) is not healthy");
    let without = arrivals(&lab);
    for (flow, analyzers) in &without {
        let was = &before[flow];
        assert!(!analyzers.contains(&ANALYZERS[2]), "flow {flow} is still sent to the dead one");
        assert!(analyzers == was || was.contains(&ANALYZERS[2]), "flow {flow} moved from {was:?} to {analyzers:?}");
    }

    lab.analyzer.run(&format!("ip address add {ANALYZER_3} dev a0"));
    await_health(&lab, &farspan, "destination c (vxlan://192.0.2.4?vni=1&name=c) is healthy again");
    assert!(arrivals(&lab) == before, "every flow is back where it was");
    let ledger = farspan.stop();
    assert!(ledger.destinations.iter().all(|account| account.sent > 0));
    assert_eq!(ledger.dropped.get("no_destination"), None, "{ledger:#?}");
}

/// A session that shares its flows out among all analyzers with these weights.
fn weighted(weights: [u8; 3]) -> String {
    let to = |number: usize| {
        let [a, b, c, d] = ANALYZERS[number];
        format!("vxlan://{a}.{b}.{c}.{d}?vni=1&weight={}", weights[number])
    };
    format!(
        "{}destination.b.to = \"{}\"\ndestination.c.to = \"{}\"\nspread = \"balance\"\nselect.filter = \"udp port 9\"\n",
        session("shared", "h0", &to(0)),
        to(1),
        to(2)
    )
}

/// A weight is changed while the flows go on: the destination with the greater one takes flows from the others, none moves
/// between those, and every frame arrives once.
#[test]
#[ignore = "needs root: run scripts/test"]
fn changed_weights_move_only_the_flows_that_must_and_lose_no_frame() {
    let lab = several_analyzers();
    let daemon = Daemon::start(&lab, &weighted([1, 1, 1]));
    let before = arrivals(&lab);
    let reload_under_traffic = |weights| {
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
        thread::scope(|scope| {
            scope.spawn(|| traffic::send(&lab, &conversations(FLOWS), "--pps=2500"));
            await_that("the traffic to be under way", || arriving.frames().len() > 1_000);
            daemon.reload(&lab, &weighted(weights), "reloaded: changed shared");
            assert!(arriving.frames().len() < 2 * usize::from(FLOWS), "it was, when the plan had changed");
        });
        arriving.await_frames(2 * usize::from(FLOWS));
        let mut frames: Vec<_> = arriving.frames().into_iter().map(|frame| frame[50..].to_vec()).collect();
        arriving.stop();
        frames.sort_unstable();
        let mut sent = conversations(FLOWS);
        sent.sort_unstable();
        assert!(frames == sent, "every frame arrives, and only once: {} of {}", frames.len(), sent.len());
    };

    reload_under_traffic([1, 1, 2]);
    let heavier = arrivals(&lab);
    let third = BTreeSet::from([ANALYZERS[2]]);
    for (flow, analyzers) in &heavier {
        assert!(analyzers == &before[flow] || analyzers == &third, "flow {flow} moved to {analyzers:?}");
    }
    let share = |arrivals: &Arrivals| arrivals.values().filter(|analyzers| **analyzers == third).count();
    assert!((4750..=5250).contains(&share(&heavier)), "half of the flows: {}", share(&heavier));

    reload_under_traffic([1, 1, 1]);
    assert!(arrivals(&lab) == before, "every flow is back where it was");
    daemon.stop()["shared"].assert_lossless();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn failover_goes_to_the_second_analyzer_and_comes_back() {
    let lab = several_analyzers();
    let to = ["gre://192.0.2.4?name=first", "gre://192.0.2.3?name=second"];
    let farspan =
        Farspan::mirror(&lab, &["-i", "h0", "--spread", "failover", "--to", to[0], "--to", to[1], "udp", "port", "9"]);
    let everything_at = |analyzer: [u8; 4]| {
        let arrived = arrivals(&lab);
        assert!(arrived.values().all(|at| at.len() == 1 && at.contains(&analyzer)), "all at {analyzer:?}");
    };
    everything_at(ANALYZERS[2]);
    lab.analyzer.run(&format!("ip address delete {ANALYZER_3} dev a0"));
    await_health(&lab, &farspan, "destination first (gre://192.0.2.4?name=first) is not healthy");
    everything_at(ANALYZERS[1]);
    lab.analyzer.run(&format!("ip address add {ANALYZER_3} dev a0"));
    await_health(&lab, &farspan, "destination first (gre://192.0.2.4?name=first) is healthy again");
    everything_at(ANALYZERS[2]);
    farspan.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_that_does_not_answer_its_icmp_probe_gets_nothing_until_it_does() {
    let lab = several_analyzers();
    let deaf = |is_deaf: u8| lab.analyzer.run(&format!("sysctl -qw net.ipv4.icmp_echo_ignore_all={is_deaf}"));
    gets_nothing_while_silent(&lab, "icmp", || drop(deaf(1)), || drop(deaf(0)));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_that_does_not_answer_its_tcp_probe_gets_nothing_until_it_does() {
    let lab = several_analyzers();
    let serve = || Some(lab.analyzer.start("iperf3 -s -p 7", &lab.path("iperf3.log")));
    let server = RefCell::new(serve());
    await_that("iperf3 to listen", || lab.analyzer.run("ss -Hlnt").contains(":7 "));
    gets_nothing_while_silent(&lab, "tcp:7", || drop(server.take()), || drop(server.replace(serve())));
}

fn gets_nothing_while_silent(lab: &Lab, probe: &str, silence: impl FnOnce(), speak: impl FnOnce()) {
    let to = format!("vxlan://192.0.2.2?vni=1&name=only&probe={probe}");
    let farspan = Farspan::mirror(lab, &["-i", "h0", "--spread", "failover", "--to", &to, "udp", "port", "9"]);
    assert_eq!(arrivals(lab).len(), usize::from(FLOWS), "everything arrives");
    silence();
    await_that("the probe to fail", || farspan.log().contains("is not healthy: it does not answer the probe"));
    traffic::send(lab, &conversations(100), "--pps=5000");
    speak();
    await_that("the probe to succeed", || farspan.log().contains("is healthy again"));
    assert_eq!(arrivals(lab).len(), usize::from(FLOWS), "everything arrives again");
    let ledger = farspan.stop();
    assert_eq!(ledger.dropped.get("no_destination"), Some(&200), "{ledger:#?}");
    assert_eq!(total(&ledger.only().dropped), 0, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_router_that_reports_an_analyzer_moves_its_flows_and_no_frame_is_risked_until_it_is_back() {
    let lab = several_analyzers();
    let behind = [203, 0, 113, 9];
    route_to_a_host_behind_the_analyzer(&lab);
    let to = ["vxlan://203.0.113.9?vni=1&name=far", "vxlan://192.0.2.3?vni=1&name=near"];
    let farspan =
        Farspan::mirror(&lab, &["-i", "h0", "--spread", "failover", "--to", to[0], "--to", to[1], "udp", "port", "9"]);
    let all_at = |analyzer: [u8; 4]| arrivals(&lab).values().all(|at| at.len() == 1 && at.contains(&analyzer));
    assert!(all_at(behind));

    lab.analyzer.run("ip neigh del 203.0.113.9 dev r0");
    let reported = format!("destination far ({}) is not healthy: ICMP reports that", to[0]);
    await_health(&lab, &farspan, &reported);
    assert!(all_at(ANALYZERS[1]), "the near one, which refuses every datagram, gets everything");
    // Longer than the damping time: what routers say to the empty datagrams keeps it from being tried.
    let questions = Capture::start(&lab, &lab.analyzer, "a0", "icmp[icmptype] == icmp-unreach and src host 192.0.2.2");
    await_that("the router to report again and again", || {
        assert!(!farspan.log().contains("is healthy again"), "{}", farspan.log());
        questions.frames().len() >= 20
    });
    questions.stop();

    lab.analyzer.run("ip neigh replace 203.0.113.9 lladdr 02:00:00:00:00:99 dev r0 nud permanent");
    await_health(&lab, &farspan, &format!("destination far ({}) is healthy again", to[0]));
    assert!(all_at(behind), "everything is back");
    let ledger = farspan.stop();
    assert_eq!(ledger.dropped.get("no_destination"), None, "{ledger:#?}");
}

/// A link that was down for a moment: to wait for the damping time where nobody else is would only lose frames.
#[test]
#[ignore = "needs root: run scripts/test"]
fn the_only_analyzer_is_used_as_soon_as_it_can_be_reached_again() {
    let lab = several_analyzers();
    let farspan = Farspan::mirror(
        &lab,
        &["-i", "h0", "--spread", "balance", "--to", "vxlan://192.0.2.2?vni=1&name=only", "udp", "port", "9"],
    );
    lab.analyzer.run("ip link set a0 down");
    await_health(&lab, &farspan, "is not healthy: there is no route to it, or its next hop does not answer");
    lab.analyzer.run("ip link set a0 up");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    await_that("frames to arrive", || {
        traffic::send(&lab, &conversations(100), "--pps=2000");
        !arriving.frames().is_empty()
    });
    assert!(!farspan.log().contains("is healthy again"), "before the damping time is over: {}", farspan.log());
    arriving.stop();
    let ledger = farspan.stop();
    assert!(ledger.dropped["no_destination"] > 0, "{ledger:#?}");
}

/// Several workers decide alike, and what is on this host may be a member, too.
#[test]
#[ignore = "needs root: run scripts/test"]
fn two_workers_share_flows_out_alike_among_an_analyzer_and_a_file() {
    let lab = several_analyzers();
    let file = lab.path("share.pcap");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let record = format!("pcap:{}?name=record", file.display());
    let to = ["vxlan://192.0.2.2?vni=1&name=ids&weight=3", record.as_str()];
    let farspan = Farspan::mirror(
        &lab,
        &["-i", "h0", "--workers", "2", "--spread", "balance", "--to", to[0], "--to", to[1], "udp", "port", "9"],
    );
    for _ in 0..2 {
        traffic::send(&lab, &conversations(2_000), "--pps=10000");
    }
    lab.await_tapped("h0", 8_000);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    let sent = |number: usize| usize::try_from(ledger.destinations[number].sent).expect("a small number");
    assert_eq!(sent(0) + sent(1), 8_000, "{ledger:#?}");
    arriving.await_frames(sent(0));
    arriving.stop();
    let at = |frames: Vec<Vec<u8>>| {
        let mut count = BTreeMap::<[u8; 2], usize>::new();
        for frame in frames {
            *count.entry(frame.last_chunk().copied().unwrap()).or_default() += 1;
        }
        count
    };
    let (analyzer, recorded) = (at(frames_of(&lab.path("a0.pcap"))), at(frames_of(&file)));
    assert!(analyzer.values().chain(recorded.values()).all(|&frames| frames == 4), "both directions, both times");
    assert_eq!(analyzer.len() + recorded.len(), 2_000, "each flow has one of the two");
    assert!((1425..=1575).contains(&analyzer.len()), "three quarters: {}", analyzer.len());
}

/// Has the analyzer's machine route to a network behind it, whose only host, 203.0.113.9, is there at first.
pub fn route_to_a_host_behind_the_analyzer(lab: &Lab) {
    for command in [
        "ip link add r0 type veth peer name r1",
        "ip address add 203.0.113.1/24 dev r0",
        "ip link set r0 up",
        "ip link set r1 arp off up",
        "ip neigh add 203.0.113.9 lladdr 02:00:00:00:00:99 dev r0 nud permanent",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0 net.ipv4.neigh.r0.retrans_time_ms=100",
    ] {
        lab.analyzer.run(command);
    }
    lab.host.run("ip route add 203.0.113.0/24 via 192.0.2.2");
}

/// One interface with the addresses of three, and a kernel that notices soon when one of them does not answer.
pub fn several_analyzers() -> Lab {
    let lab = Lab::with_underlay_mtu(1600);
    for address in ["192.0.2.3/24", ANALYZER_3] {
        lab.analyzer.run(&format!("ip address add {address} dev a0"));
    }
    for setting in ["base_reachable_time_ms=1000", "delay_first_probe_time=1", "retrans_time_ms=200"] {
        lab.host.run(&format!("sysctl -qw net.ipv4.neigh.u0.{setting}"));
    }
    lab
}

/// Sends a little traffic, for which the kernel asks after its neighbours, until farspan says these words.
fn await_health(lab: &Lab, farspan: &Farspan, words: &str) {
    await_that(words, || {
        traffic::send(lab, &conversations(100), "--pps=2000");
        farspan.log().contains(words)
    });
}

/// A datagram and its answer of each of so many flows.
pub fn conversations(flows: u16) -> Vec<Vec<u8>> {
    let one = |flow: u16, back: bool| {
        let (client, server) = (([10, 9, flow.to_be_bytes()[0], flow.to_be_bytes()[1]], 20_000), ([10, 8, 0, 200], 9));
        let ((from, from_port), (to, to_port)) = if back { (server, client) } else { (client, server) };
        let packet = PacketBuilder::ethernet2(traffic::STRANGER, [2, 0xfa, 0, 0, 0, 2])
            .ipv4(from, to, 64)
            .udp(from_port, to_port);
        let mut frame = Vec::new();
        packet.write(&mut frame, &flow.to_be_bytes()).expect("a vector takes everything");
        frame
    };
    (0..flows).flat_map(|flow| [one(flow, false), one(flow, true)]).collect()
}

/// Sends every flow in both directions, and says where each arrived.
fn arrivals(lab: &Lab) -> Arrivals {
    let arriving = Capture::start(lab, &lab.analyzer, "a0", "udp dst port 4789 or proto gre");
    traffic::send(lab, &conversations(FLOWS), "--pps=20000");
    arriving.await_frames(2 * usize::from(FLOWS));
    let mut arrivals = Arrivals::new();
    for datagram in arriving.frames() {
        // The outer IPv4 destination, and the flow's number at the end.
        let (at, flow) = (datagram[30..34].try_into().unwrap(), datagram.last_chunk().copied().map(u16::from_be_bytes));
        arrivals.entry(flow.unwrap()).or_default().insert(at);
    }
    arriving.stop();
    arrivals
}
