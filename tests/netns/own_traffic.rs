//! Capture and underlay on one interface: the mirror never mirrors itself, and hides nothing else of the analyzer. The
//! tunnels have no mark here, so that farspan itself recognises them; [`crate::marks`] is about marks.

use std::path::PathBuf;

use crate::farspan::{Farspan, by_xdp};
use crate::judge::{Capture, KernelVxlan, tshark};
use crate::lab::{Lab, UNDERLAY_HOST, await_that};
use crate::traffic::Servers;

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_copy_of_each_frame_and_no_loop() {
    let lab = Lab::new();
    let _device = KernelVxlan::start(&lab, 42, false);
    exactly_one_copy(&lab, "vxlan://192.0.2.2?vni=42", None, &[]);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_copy_where_our_datagrams_are_fragmented() {
    let lab = Lab::new();
    let _device = KernelVxlan::start(&lab, 42, false);
    let capture = exactly_one_copy(&lab, "vxlan://192.0.2.2?vni=42&fit=fragment", None, &[]);
    assert!(tshark::count(&capture, "ip.frag_offset#1 > 0") > 0, "full frames left as two fragments");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_copy_where_the_analyzer_has_no_socket() {
    let lab = Lab::new();
    lab.analyzer.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000");
    exactly_one_copy(&lab, "vxlan://192.0.2.2?vni=42", Some("icmp.type == 3"), &[]);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_copy_over_gre_where_the_analyzer_has_no_socket() {
    let lab = Lab::new();
    lab.analyzer.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000");
    exactly_one_copy(&lab, "gre://192.0.2.2?key=7", Some("icmp.type == 3"), &[]);
}

/// Lets the analyzer talk to the tapped host over the interface that is mirrored and that carries the mirror, and
/// compares what was said with what was mirrored. `about_us` selects what the analyzer answers to the mirror itself.
/// farspan runs with these `options`.
pub fn exactly_one_copy(lab: &Lab, to: &str, about_us: Option<&str>, options: &[&str]) -> PathBuf {
    let _servers = Servers::start(lab);
    lab.write("page", vec![b'x'; 200_000]);
    let seen = Capture::start(lab, &lab.analyzer, "a0", "");
    let farspan = Farspan::mirror(lab, &[&["-i", "u0", "--mark", "off", "--to", to], options].concat());
    // The analyzer is also a client of the host: pings, and a download with full frames.
    lab.analyzer.run(&format!("ping -q -c 20 -i 0.02 -s 900 {UNDERLAY_HOST}"));
    lab.analyzer.run(&format!("curl -sS -o /dev/null http://{UNDERLAY_HOST}/page"));
    // The last ping is recognised by its length: 25 bytes after an IP and an ICMP header.
    let last = "icmp.type == 8 && ip.len == 53";
    lab.analyzer.run(&format!("ping -q -c 1 -s 25 {UNDERLAY_HOST}"));
    await_that("the copy of the last ping", || tshark::count(seen.file(), last) >= 2);
    let ledger = farspan.stop();
    // The capture never sees what AF_XDP sends on its interface, only what the analyzer answers to it.
    let sees_own = !by_xdp() || about_us.is_some() || to.contains("fit=fragment");
    assert_eq!(ledger.dropped.get("own_traffic").is_some_and(|&frames| frames > 0), sees_own, "{ledger:#?}");
    assert_eq!(ledger.dropped.len(), usize::from(sees_own), "nothing else is left out: {ledger:#?}");

    let capture = seen.stop();
    let mirror = format!("(vxlan || gre) && ip.src#1 == {UNDERLAY_HOST} && ip.proto#1 != 1");
    let bare = |what: &str| tshark::count(&capture, &format!("{what} && !vxlan && !gre"));
    let mirrored = |what: &str| tshark::count(&capture, &format!("{what} && {mirror}"));
    for what in ["icmp.type == 8", "icmp.type == 0", "tcp.flags.syn == 1", "tcp.flags.fin == 1"] {
        assert!(bare(what) > 0, "{what} happened");
        assert_eq!(mirrored(what), bare(what), "{what} is mirrored exactly once, in {}", capture.display());
    }
    assert_eq!(mirrored("(vxlan.vni#2 || gre.proto#2)"), 0, "the mirror is not mirrored");
    if let Some(about_us) = about_us {
        assert!(tshark::count(&capture, about_us) > 0, "the analyzer did answer to the mirror");
        assert_eq!(mirrored(about_us), 0, "what the analyzer answers to the mirror is not mirrored");
    }
    capture
}
