//! Frames that look like farspan's own are its own only where they can be, and no more of them than it sent.

use std::path::Path;

use crate::farspan::{Farspan, Ledger, binary};
use crate::judge::{Capture, tshark};
use crate::lab::{Lab, UNDERLAY_HOST, await_that};
use crate::marks::take_in_silence;

/// The tunnel that strangers imitate.
const TUNNEL: &str = "vxlan://192.0.2.2?vni=1&ports=50000-50001&transmit=socket";

/// Starts `farspan mirror` with packet rings, which know directions, on the host.
fn mirror(lab: &Lab, arguments: &[&str]) -> Farspan {
    let mut command = lab.host.command(binary());
    command.args(["mirror", "--json", "--engine", "ring", "--to", TUNNEL]).args(arguments);
    Farspan::start_command(lab, ["mirror", "mirroring "], command)
}

/// A script that sends frames which look like the tunnel's: `python3 FILE INTERFACE COUNT [VNI]`. Each carries a word in place
/// of a frame.
fn forge(lab: &Lab) -> String {
    let script = "
import socket, struct, sys, time
link, count, vni = sys.argv[1], int(sys.argv[2]), int((sys.argv + ['1'])[3])
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((link, 0))
payload = b'\\x08\\0\\0\\0' + (vni << 8).to_bytes(4, 'big') + b'\\x02' * 12 + b'\\x88\\xb5' + b'forged' + bytes(40)
udp = struct.pack('!HHHH', 50000, 4789, 8 + len(payload), 0) + payload
def checksum(header):
    total = sum(struct.unpack('!10H', header))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
for number in range(count):
    fields = ['!BBHHHBBH4s4s', 69, 0, 20 + len(udp), number, 0x4000, 64, 17, 0, socket.inet_aton('192.0.2.1'), socket.inet_aton('192.0.2.2')]
    fields[8] = checksum(struct.pack(*fields))
    raw.send(b'\\x02\\0\\0\\0\\0\\x02' + b'\\x02\\0\\0\\0\\0\\x01' + b'\\x08\\0' + struct.pack(*fields) + udp)
    if number % 50 == 49:
        time.sleep(0.01)
";
    lab.write("forge.py", script).display().to_string()
}

/// How many forged frames are in the capture inside the tunnel.
fn forged(capture: &Path) -> usize {
    tshark::count(capture, "vxlan && eth.type == 0x88b5 && ip.src#2 == 192.0.2.1")
}

fn ping(lab: &Lab, seen: &Capture, count: u32, copies: usize) {
    lab.analyzer.run(&format!("ping -q -c {count} -i 0.02 -s 900 {UNDERLAY_HOST}"));
    await_that("the copies of the pings", || {
        tshark::count(seen.file(), "vxlan && icmp.type == 0 && ip.len == 928") >= copies
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a04_what_is_received_where_no_tunnel_leaves_is_not_own() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    let script = forge(&lab);
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
    let farspan = mirror(&lab, &["-i", "h0", "-i", "u0"]);
    lab.client.run(&format!("python3 {script} c0 200"));
    await_that("the copies of the forged frames", || forged(seen.file()) >= 200);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(ledger.dropped.get("own_traffic"), None, "{ledger:#?}");
    assert_eq!(forged(&seen.stop()), 200);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a04_what_looks_own_beyond_what_was_sent_is_a_loss_and_is_told() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    let script = forge(&lab);
    for workers in ["1", "2"] {
        let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
        let farspan = mirror(&lab, &["-i", "u0", "--workers", workers]);
        ping(&lab, &seen, 10, 10);
        lab.analyzer.run(&format!("python3 {script} a0 500"));
        // The mark of the end: all frames before it have been looked at.
        lab.analyzer.run(&format!("ping -q -c 3 -i 0.1 -s 901 {UNDERLAY_HOST}"));
        await_that("farspan to tell it", || farspan.log().contains("own_excess"));
        await_that("the copies of the last pings", || {
            tshark::count(seen.file(), "vxlan && icmp.type == 0 && ip.len == 929") >= 3
        });
        let log = farspan.log();
        let ledger = farspan.stop();
        let capture = seen.stop();
        let sent = ledger.only().sent;
        let dropped = |reason: &str| ledger.dropped.get(reason).copied().unwrap_or(0);
        assert_eq!(dropped("own_traffic") + dropped("own_excess"), 500, "{ledger:#?}");
        // Ten pings and their answers had been sent before, and the last ones after.
        assert!((20..=sent).contains(&dropped("own_traffic")), "{ledger:#?}");
        assert_eq!(forged(&capture), 0, "they are no part of the mirror");
        let told: Vec<&str> = log.lines().filter(|line| line.contains("own_excess")).collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains("192.0.2.1 -> 192.0.2.2") && told[0].contains("on u0, received"), "{log}");
    }
}

/// A VXLAN device of the kernel chooses its source ports by flow, also those that the tunnel has bound.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a04_another_vni_between_the_same_ports_arrives_complete() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    let script = forge(&lab);
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
    let farspan = mirror(&lab, &["-i", "u0"]);
    // So that the tunnel has sent datagrams that the others could pass for.
    ping(&lab, &seen, 60, 60);
    lab.host.run(&format!("python3 {script} u0 100 2"));
    await_that("the copies of the others", || forged(seen.file()) >= 100);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(forged(&seen.stop()), 100, "{ledger:#?}");
}

/// Each datagram shows once on each interface of its way: the bridge, and the port that it leaves by.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a04_an_honest_host_has_no_excess() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    lab.host.run("ip address flush dev u0");
    lab.host.run("ip link add br1 type bridge");
    lab.host.run("ip link set u0 master br1");
    lab.host.link_up("br1", 1500, &["192.0.2.1/24"]);
    lab.host.await_link("br1");
    for (engine, workers) in [("ring", "1"), ("ring", "2"), ("pcap", "1"), ("pcap", "2")] {
        let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
        let mut command = lab.host.command(binary());
        command.args(["mirror", "--json", "--mark", "off", "--engine", engine, "--workers", workers]);
        // Full frames leave as two fragments each.
        command.args(["-i", "br1", "-i", "u0", "--to", "vxlan://192.0.2.2?vni=1&transmit=socket&fit=fragment"]);
        let farspan = Farspan::start_command(&lab, ["mirror", "mirroring "], command);
        lab.analyzer.run(&format!("ping -q -c 100 -i 0.002 -s 1472 {UNDERLAY_HOST}"));
        lab.analyzer.run(&format!("ping -q -c 1 -s 25 {UNDERLAY_HOST}"));
        await_that("the copies of the last answer", || {
            tshark::count(seen.file(), "vxlan && icmp.type == 0 && ip.len == 53") >= 2
        });
        let log = farspan.log();
        let ledger: Ledger = farspan.stop();
        ledger.assert_lossless();
        assert_eq!(ledger.dropped.get("own_excess"), None, "{engine} {workers} {ledger:#?}");
        let own = ledger.dropped.get("own_traffic").copied().unwrap_or(0);
        let capture = seen.stop();
        let outer = "ip.src == 192.0.2.1 && ip.dst == 192.0.2.2 && (udp.dstport == 4789 || ip.frag_offset > 0)";
        let packets = tshark::fields(&capture, outer, &["ip.id"]).len() as u64;
        assert!(packets > 400);
        assert_eq!(own, 2 * packets, "each on the bridge and on its port, {engine} {workers}");
        assert!(!log.contains("WARN"), "{log}");
    }
}
