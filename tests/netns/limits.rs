//! Samples and limits: what is left out is left out whole.

use std::collections::BTreeMap;
use std::path::Path;

use crate::farspan::Farspan;
use crate::judge::{Capture, tshark};
use crate::lab::Lab;
use crate::traffic::{self, Servers};

/// How many frames each TCP conversation has in each direction, by the client's port.
fn conversations(capture: &Path) -> BTreeMap<String, [usize; 2]> {
    let mut conversations: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for ports in tshark::fields(capture, "tcp.port == 80", &["tcp.srcport", "tcp.dstport"]) {
        let answers = usize::from(ports[0] == "80");
        conversations.entry(ports[answers].clone()).or_default()[answers] += 1;
    }
    conversations
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_sample_of_flows_has_both_directions_of_each_and_every_frame() {
    const REQUESTS: u32 = 400;
    let lab = Lab::with_underlay_mtu(1600);
    let _servers = Servers::start(&lab);
    let tapped = Capture::start(&lab, &lab.host, "h0", "tcp port 80");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let arguments = ["-i", "h0", "--sample", "1/4", "--workers", "2", "--to", "vxlan://192.0.2.2?vni=42", "tcp"];
    let farspan = Farspan::mirror(&lab, &arguments);
    traffic::requests(&lab, REQUESTS);
    crate::lab::await_that("every conversation to end", || {
        tshark::count(tapped.file(), "tcp.dstport == 80 && tcp.flags.fin == 1") >= REQUESTS as usize
    });
    let ledger = farspan.stop();
    ledger.assert_lossless();
    arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));

    let (all, sampled) = (conversations(&tapped.stop()), conversations(&arriving.stop()));
    assert_eq!(all.len(), REQUESTS as usize);
    for (port, frames) in &sampled {
        assert_eq!(all.get(port), Some(frames), "the conversation of port {port}");
    }
    // A quarter, with a standard deviation of 9.
    assert!((55..=145).contains(&sampled.len()), "{} of {REQUESTS}", sampled.len());
    assert_eq!(ledger.captured, ledger.only().sent + ledger.dropped["sampled_out"], "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_sample_of_frames_has_exactly_one_in_so_many() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let sample = ["-i", "h0", "--sample", "1/10", "--sample-by", "frame"];
    let farspan =
        Farspan::mirror(&lab, &[&sample[..], &["--to", "vxlan://192.0.2.2?vni=42", "udp", "port", "9"]].concat());
    let frames: Vec<_> = (0..500).map(|number| traffic::udp_frame(number, 16, 400)).collect();
    traffic::send(&lab, &frames, "--mbps=20");
    arriving.await_frames(50);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!((ledger.captured, ledger.only().sent, ledger.dropped["sampled_out"]), (500, 50, 450));
    assert_eq!(tshark::count(&arriving.stop(), "vxlan"), 50);
}
