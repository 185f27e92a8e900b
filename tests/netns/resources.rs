//! What farspan takes from the host with its defaults.

use crate::encapsulation::{Underlay, VXLAN};
use crate::farspan::Farspan;
use crate::lab::{HOST, Lab};
use crate::traffic::{self, Servers};

/// 24 MiB of it is the capture buffer.
const MOST_MEMORY_KIB: u64 = 48 << 10;

#[test]
#[ignore = "needs root: run scripts/test"]
fn memory_stays_small_under_bulk_traffic() {
    let lab = Lab::new();
    let _servers = Servers::start(&lab);
    traffic::bulk_file(&lab, 256 << 20);
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", &VXLAN.url(Underlay::V4)]);
    lab.client.run(&format!("curl -sS -o /dev/null http://{HOST}/bulk"));
    let peak = farspan.peak_memory();
    let ledger = farspan.stop();
    assert!(ledger.captured + ledger.kernel_dropped > 1_000, "the bulk passed the tap: {ledger:#?}");
    assert!(peak < MOST_MEMORY_KIB, "peak resident memory is {peak} KiB");
}
