//! Several taps in one analyzer stay apart: by interface, by direction, and by ERSPAN III's own bit.

use crate::farspan::Farspan;
use crate::judge::{Capture, tshark};
use crate::lab::{HOST, Lab, await_that};

const PINGS: usize = 5;

#[test]
#[ignore = "needs root: run scripts/test"]
fn interface_and_direction_are_told_by_id_and_by_erspans_bit() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789 or proto gre");
    let by_id = "vxlan://192.0.2.2?vni=h*:10,*:30&vni_out=h0:20";
    let by_bit = "erspan3://192.0.2.2?session=7";
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "-i", "lo", "--to", by_id, "--to", by_bit]);
    lab.client.run(&format!("ping -q -c {PINGS} -i 0.02 {HOST}"));
    lab.host.run("ping -q -c 1 -s 25 127.0.0.1");
    // The last frame is known by its length: 25 bytes after an IP and an ICMP header.
    await_that("the answer on the loopback interface", || {
        tshark::count(arriving.file(), "vxlan.vni == 30 && icmp.type == 0") == 1
            && tshark::count(arriving.file(), "erspan && icmp.type == 0 && ip.len == 53") == 1
    });
    farspan.stop().assert_lossless();
    let capture = arriving.stop();

    for (what, count) in [
        ("vxlan.vni == 10 && icmp.type == 8", PINGS),
        ("vxlan.vni == 20 && icmp.type == 0", PINGS),
        ("vxlan.vni == 30 && icmp && ip.src == 127.0.0.1", 2),
        ("vxlan && icmp", 2 * PINGS + 2),
        ("erspan.direction == 0 && icmp.type == 8 && ip.dst == 10.8.0.2", PINGS),
        ("erspan.direction == 1 && icmp.type == 0 && ip.src == 10.8.0.2", PINGS),
        ("erspan && icmp", 2 * PINGS + 2),
    ] {
        assert_eq!(tshark::count(&capture, what), count, "{what}");
    }
    // Requests and answers of one ping are in order, though libpcap captures them apart.
    assert_eq!(tshark::count(&capture, "icmp.resp_not_found"), 0);
}
