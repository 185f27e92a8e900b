//! The law of accounting where the network is against it: a slow underlay, a missing host, a host that refuses.

use crate::farspan::{Farspan, by_xdp, total};
use crate::judge::{Capture, KernelVxlan, tshark};
use crate::lab::{Lab, await_that};
use crate::traffic;

const FRAMES: u32 = 5_000;

#[test]
#[ignore = "needs root: run scripts/test"]
fn behind_a_rate_limited_underlay_sent_is_what_arrived() {
    let lab = Lab::with_underlay_mtu(1600);
    lab.host.run("tc qdisc replace dev u0 root tbf rate 20mbit burst 16kb limit 64kb");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "vxlan://192.0.2.2?vni=42"]);
    traffic::send(&lab, &numbered(), "--mbps=200");
    // AF_XDP passes the queue by, and everything arrives.
    if by_xdp() {
        arriving.await_frames(FRAMES as usize);
    } else {
        await_that("the last frame to pass farspan and the queue to run empty", || {
            let queue = lab.host.run("tc -s qdisc show dev u0");
            passed_on(&queue) && queue.contains("backlog 0b 0p")
        });
    }
    let ledger = farspan.stop();
    await_that("the queue to run empty", || lab.host.run("tc -s qdisc show dev u0").contains("backlog 0b 0p"));

    let account = ledger.only();
    assert_eq!(ledger.captured, account.sent + total(&account.dropped) + total(&ledger.dropped), "{ledger:#?}");
    let is_refused = account.dropped.get("device_busy").is_some_and(|&frames| frames > 0);
    assert_eq!(is_refused, !by_xdp(), "{ledger:#?}");
    assert!(ledger.captured + ledger.kernel_dropped >= u64::from(FRAMES), "the tap saw every frame: {ledger:#?}");
    arriving.await_frames(usize::try_from(account.sent).expect("a small number"));
    assert_eq!(tshark::count(&arriving.stop(), "vxlan") as u64, account.sent, "sent is what arrived");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_missing_host_costs_another_destination_nothing() {
    let lab = Lab::with_underlay_mtu(1600);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let missing = "vxlan://192.0.2.99?vni=1";
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", missing, "--to", "vxlan://192.0.2.2?vni=42"]);
    traffic::send(&lab, &numbered(), "--pps=4000");
    delivered_completely(&delivered);
    let ledger = farspan.stop();
    assert_eq!(ledger.destinations[0].to, missing);
    assert_eq!(ledger.destinations[0].sent, 0, "nothing was handed to the neighbour queue: {ledger:#?}");
    assert_eq!(total(&ledger.destinations[1].dropped), 0, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_host_that_answers_port_unreachable_costs_nothing_at_all() {
    let lab = Lab::with_underlay_mtu(1600);
    lab.analyzer.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000");
    let delivered = KernelVxlan::start(&lab, 42, false);
    let refused = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4790");
    let farspan = Farspan::mirror(
        &lab,
        &["-i", "h0", "--to", "vxlan://192.0.2.2:4790?vni=1", "--to", "vxlan://192.0.2.2?vni=42"],
    );
    traffic::send(&lab, &numbered(), "--pps=4000");
    delivered_completely(&delivered);
    refused.await_frames(FRAMES as usize);
    farspan.stop().assert_lossless();
}

fn numbered() -> Vec<Vec<u8>> {
    (0..FRAMES).map(|number| traffic::udp_frame(number, 16, 400)).collect()
}

/// Whether farspan has nothing more to say: the queue has seen, sent or refused, as many datagrams as frames were sent.
/// The line is `Sent 0 bytes 0 pkt (dropped 0, overlimits 0 requeues 0)`.
fn passed_on(queue: &str) -> bool {
    let number_before = |word: &str| {
        let end = queue.find(word)?;
        queue[..end].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let sent = number_before(" pkt").unwrap_or(0);
    let refused = number_before(", overlimits").unwrap_or(0);
    sent + refused >= u64::from(FRAMES)
}

fn delivered_completely(delivered: &Capture) {
    await_that("every frame at the second destination", || {
        traffic::of_stranger(delivered.frames()).len() >= FRAMES as usize
    });
    let mut arrived = traffic::of_stranger(delivered.frames());
    arrived.sort();
    let mut sent = numbered();
    sent.sort();
    assert!(arrived == sent, "the second destination gets every frame, once and unharmed");
}
