//! Real TCP bulk with the kernel's offloads on: what the analyzer sees is what a wire would have carried.

use crate::encapsulation::{Underlay, VXLAN};
use crate::farspan::Farspan;
use crate::judge::{Capture, Suricata, tshark};
use crate::lab::{Disturbed, HOST, Lab, undisturbed};
use crate::traffic::{self, Servers};

/// Enough for super-frames of every size, little enough for the judges' buffers.
const BULK: u64 = 12 << 20;

/// Whole files, however long; and a ring that holds a burst of them. The decoders stay as they are.
const SURICATA_SETTINGS: [&str; 4] = [
    "stream.reassembly.depth=0",
    "app-layer.protocols.http.libhtp.default-config.response-body-limit=0",
    "af-packet.1.ring-size=60000",
    "af-packet.1.threads=1",
];

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_file_is_whole_at_the_analyzer_over_a_path_mtu_of_1500() {
    let split_added = bulk_over(1500);
    assert!(split_added > 0, "full frames do not fit 1500 bytes with their encapsulation");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_file_is_whole_at_the_analyzer_over_a_path_mtu_of_1600() {
    let split_added = bulk_over(1600);
    assert_eq!(split_added, 0, "full frames fit 1600 bytes with their encapsulation");
}

/// Downloads a file past farspan, has the judges look at what arrived, and returns how many frames splitting added.
fn bulk_over(mtu: u32) -> u64 {
    undisturbed(|slower| judged_bulk(mtu, slower))
}

fn judged_bulk(mtu: u32, slower: u32) -> Result<u64, Disturbed> {
    let lab = Lab::with_underlay_mtu(mtu);
    let _servers = Servers::start(&lab);
    let sum = traffic::bulk_file(&lab, BULK);
    let sums = lab.write("sums", format!("{sum}\n"));
    let rules = format!(
        "alert http any any -> any any (msg:\"the whole file\"; flow:established,to_client; filesha256:{}; sid:10;)\n",
        sums.display()
    );
    let suricata = Suricata::start(&lab, &rules, &SURICATA_SETTINGS);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", Underlay::V4.tunnel_filter());
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", &VXLAN.url(Underlay::V4)]);

    let rate = 24_000 / slower;
    lab.client.run(&format!("curl -sS -o /dev/null --limit-rate {rate}K http://{HOST}/bulk"));
    crate::lab::await_that("the end of the conversation", || tshark::count(arriving.file(), "tcp.flags.fin == 1") >= 2);
    let ledger = farspan.stop();
    let findings = suricata.stop();
    let dropped = [ledger.kernel_dropped, findings.counter(["capture", "kernel_drops"])];
    if dropped != [0, 0] {
        return Err(Disturbed(format!("the kernel dropped {dropped:?} frames before farspan and Suricata")));
    }
    ledger.assert_lossless();
    assert!(ledger.rewritten.super_frames > 0, "the offloads were on: {ledger:#?}");
    assert!(ledger.rewritten.checksums > 0, "the offloads were on: {ledger:#?}");
    assert!(ledger.segments_added > 0);

    arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
    let capture = arriving.stop();
    tshark::assert_sound(&capture);
    assert_eq!(tshark::count(&capture, &format!("ip.len#1 > {mtu} || ip.flags.mf#1 == 1 || ip.frag_offset#1 > 0")), 0);
    assert_eq!(tshark::count(&capture, "frame.len > 1514 && ip.len#2 > 1500"), 0, "no super-frame leaves");
    assert_eq!(findings.counter(["tcp", "reassembly_gap"]), 0, "Suricata missed nothing");
    assert_eq!(findings.counter(["tcp", "invalid_checksum"]), 0, "Suricata believes every checksum");
    assert_eq!(findings.alerts, [(10, 1)].into(), "Suricata extracts the file with its SHA-256, once");
    Ok(ledger.only().split_added)
}
