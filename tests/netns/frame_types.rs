//! The kinds of frame that a mirror meets pass unharmed, live.

use crate::farspan::Farspan;
use crate::judge::KernelVxlan;
use crate::lab::{Lab, await_that};
use crate::traffic;

#[test]
#[ignore = "needs root: run scripts/test"]
fn every_kind_of_frame_passes_unharmed() {
    let lab = Lab::with_underlay_mtu(9200);
    lab.set_tapped_mtu(9000);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "vxlan://192.0.2.2?vni=42"]);

    let kinds = traffic::twelve_types();
    let frames: Vec<_> = kinds.iter().map(|(_, frame)| frame.clone()).collect();
    traffic::send(&lab, &frames, "--pps=200");
    await_that("every kind of frame", || traffic::of_stranger(delivered.frames()).len() >= kinds.len());
    farspan.stop().assert_lossless();

    let arrived = traffic::of_stranger(delivered.frames());
    assert_eq!(arrived.len(), kinds.len(), "each frame arrives once");
    for (kind, frame) in &kinds {
        assert!(arrived.contains(frame), "{kind} is not as it was sent: {frame:02x?}");
    }
}
