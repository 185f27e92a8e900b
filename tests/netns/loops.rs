//! Mirror loops: what a mirror sent comes back on the interface that it captures, inside another tunnel.
//!
//! In each test one ping would become an endless stream. The judges count: tcpdump and tshark where the analyzer would be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::farspan::{Farspan, Ledger, binary, engine, transmit};
use crate::judge::{Capture, tshark};
use crate::lab::{ANALYZER, Lab, Namespace, Process, UNDERLAY_HOST, await_that, wire};
use crate::traffic;

/// Frames that a session may capture after one ping.
const FEW: u64 = 100;
/// How long a loop would have to show itself.
const WATCHED: Duration = Duration::from_secs(3);

/// `farspan mirror` in any namespace, whose files have a name of their own, with this run's engine and way of transmitting.
fn mirror(lab: &Lab, namespace: &Namespace, name: &str, arguments: &[&str]) -> Farspan {
    let mut command = namespace.command(binary());
    command.args(["mirror", "--json"]).args(engine()).args(transmit(arguments)).args(arguments);
    Farspan::start_command(lab, [name, "mirroring "], command)
}

/// Pings once, and lets a loop go round for as long as the issue gives it.
fn ping_and_watch(from: &Namespace, to: &str, captures: &[&Capture]) {
    let began = Instant::now();
    from.run(&format!("ping -q -c 1 -W 30 {to}"));
    // Either nothing goes round any more, or there are far too many frames.
    await_that("the time of a loop to pass", || {
        let most = captures.iter().map(|capture| capture.frames().len()).max().unwrap_or(0);
        began.elapsed() >= WATCHED || most > 5_000
    });
}

/// How many copies of the ping's frames a capture holds: frames of the mirror that `mirror` selects which carry request and
/// reply themselves, and nothing around them.
fn copies_of_the_ping(capture: &Path, mirror: &str) -> [usize; 2] {
    [8, 0].map(|kind| {
        let filter = format!("{mirror} && icmp.type == {kind}");
        let protocols = tshark::values(capture, &filter, "frame.protocols");
        // One tunnel: at the last of its headers the frame begins as any frame does.
        protocols.iter().filter(|all| all.matches(":eth:").count() + all.matches("icmp").count() == 2).count()
    })
}

fn assert_few(name: &str, ledger: &Ledger) {
    assert!(ledger.captured < FEW, "{name} captured {} frames: {ledger:#?}", ledger.captured);
}

fn warnings(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("mirror loop")).collect()
}

/// Two hosts that mirror their underlay to each other.
fn two_hosts(prepare: impl FnOnce(&Lab), options: &[&str]) -> (Lab, [String; 2]) {
    let lab = Lab::new();
    prepare(&lab);
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
    let arguments = |link, to| [options, &["-i", link, "--to", to]].concat();
    let one = mirror(&lab, &lab.host, "one", &arguments("u0", "vxlan://192.0.2.2?vni=42"));
    let other = mirror(&lab, &lab.analyzer, "other", &arguments("a0", "vxlan://192.0.2.1?vni=43"));
    ping_and_watch(&lab.host, ANALYZER, &[&seen]);
    let logs = [one.log(), other.log()];
    let ledgers = [("one", one.stop()), ("other", other.stop())];
    let file = seen.stop();
    for (name, ledger) in &ledgers {
        assert_few(name, ledger);
    }
    for vni in [42, 43] {
        assert_eq!(copies_of_the_ping(&file, &format!("vxlan.vni == {vni}")), [1, 1], "VNI {vni}: {ledgers:#?}");
    }
    assert!(ledgers.iter().any(|(_, ledger)| ledger.dropped.contains_key("loop")), "{ledgers:#?}");
    (lab, logs)
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_two_hosts_that_mirror_to_each_other_do_not_loop() {
    assert_each_names_the_other(&two_hosts(|_| {}, &[]).1);
}

/// Without marks the contents alone tell.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_two_hosts_that_mirror_to_each_other_do_not_loop_without_marks() {
    assert_each_names_the_other(&two_hosts(|_| {}, &["--mark", "off"]).1);
}

fn assert_each_names_the_other([one, other]: &[String; 2]) {
    for (log, host) in [(one, ANALYZER), (other, UNDERLAY_HOST)] {
        let said = warnings(log);
        assert_eq!(said.len(), 1, "one warning: {log}");
        assert!(said[0].contains(&format!("host {host} mirrors")) && said[0].contains("`not (udp port 4789"), "{log}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_two_hosts_do_not_loop_where_the_source_of_one_is_rewritten() {
    let rewritten = |lab: &Lab| {
        lab.host.run("ip address add 192.0.2.9/24 dev u0");
        let rules = "table ip nat {\n chain post {\n type nat hook postrouting priority 100;\n \
                     udp dport 4789 snat to 192.0.2.9\n }\n}\n";
        let rules = lab.write("nat.nft", rules);
        lab.host.run(&format!("nft -f {}", rules.display()));
    };
    let (_lab, [_, other]) = two_hosts(rewritten, &[]);
    assert!(!warnings(&other).is_empty(), "{other}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_a_ring_of_three_hosts_with_three_encapsulations_does_not_loop() {
    let lab = Lab::new();
    let switch = Namespace::named("fpr-switch");
    switch.run("ip link add br0 type bridge");
    switch.run("ip link set br0 up");
    let hosts: Vec<Namespace> = (1..=3).map(|number| Namespace::named(&format!("fpr-ring{number}-"))).collect();
    for (number, host) in (1..).zip(&hosts) {
        let port = format!("p{number}");
        wire(host, "r0", &switch, &port);
        switch.run(&format!("ip link set {port} master br0 up"));
        host.link_up("r0", 1500, &[&format!("198.51.100.{number}/24")]);
        host.await_link("r0");
        switch.await_link(&port);
        host.run("ethtool -K r0 tx off tso off gso off gro off");
    }
    let ports: Vec<Capture> = (1..=3).map(|number| Capture::start(&lab, &switch, &format!("p{number}"), "")).collect();
    let to = ["vxlan://198.51.100.2?vni=42", "erspan2://198.51.100.3?session=7", "geneve://198.51.100.1?vni=9"];
    let sessions: Vec<Farspan> = (0..3)
        .map(|number| mirror(&lab, &hosts[number], &format!("ring{number}"), &["-i", "r0", "--to", to[number]]))
        .collect();
    hosts[0].run("ping -q -c 1 -W 30 198.51.100.2");
    let captures: Vec<&Capture> = ports.iter().collect();
    ping_and_watch(&hosts[0], "198.51.100.3", &captures);
    let logs: Vec<String> = sessions.iter().map(Farspan::log).collect();
    let ledgers: Vec<Ledger> = sessions.into_iter().map(Farspan::stop).collect();
    // Two pings, so twice as many frames.
    for (number, ledger) in ledgers.iter().enumerate() {
        assert!(ledger.captured < 2 * FEW, "host {number}: {ledger:#?}");
        assert!(ledger.dropped.contains_key("loop"), "host {number}: {ledger:#?}");
    }
    for (number, log) in logs.iter().enumerate() {
        // The neighbour in the ring mirrors this host's tunnel.
        let next = format!("198.51.100.{}", (number + 1) % 3 + 1);
        assert!(warnings(log).iter().any(|line| line.contains(&format!("host {next} mirrors"))), "{log}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_an_analyzer_behind_an_overlay_of_the_host_does_not_loop() {
    behind_an_overlay(&[]);
}

/// The mark passes the kernel's tunnel. Without it, the datagram inside tells.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_an_analyzer_behind_an_overlay_of_the_host_does_not_loop_without_marks() {
    let ledger = behind_an_overlay(&["--mark", "off"]);
    assert!(ledger.dropped.contains_key("loop"), "{ledger:#?}");
}

fn behind_an_overlay(options: &[&str]) -> Ledger {
    let lab = Lab::new();
    let overlay = |namespace: &Namespace, number: u8, remote: u8| {
        let local = format!("local 192.0.2.{number} remote 192.0.2.{remote}");
        namespace.run(&format!("ip link add vx0 type vxlan id 1 dstport 8472 {local}"));
        namespace.link_up("vx0", 1450, &[&format!("10.9.0.{number}/24")]);
    };
    overlay(&lab.host, 1, 2);
    overlay(&lab.analyzer, 2, 1);
    lab.host.run("ping -q -c 1 -W 30 10.9.0.2");
    let seen = Capture::start(&lab, &lab.analyzer, "vx0", "udp dst port 4789");
    let engine = engine();
    let engine: Vec<&str> = engine.iter().map(String::as_str).collect();
    let arguments = [&engine, options, &["-i", "u0", "--to", "vxlan://10.9.0.2?vni=42"]].concat();
    let farspan = Farspan::mirror_as_told(&lab, &arguments);
    ping_and_watch(&lab.host, ANALYZER, &[&seen]);
    let ledger = farspan.stop();
    assert_few("the host", &ledger);
    assert_eq!(copies_of_the_ping(&seen.stop(), "vxlan.vni == 42"), [1, 1], "{ledger:#?}");
    ledger
}

/// Carries IP packets between a TUN device and UDP: as they are, or combined with a key stream. The stream depends on the
/// position only, so that a packet that is encrypted twice is no longer the packet.
const RELAY: &str = r#"
import fcntl, os, random, select, socket, struct, sys
encrypts, local, remote = sys.argv[1] == "encrypted", sys.argv[2], sys.argv[3]
stream = random.Random(7).randbytes(65536)
def combined(packet):
    if not encrypts:
        return packet
    key = int.from_bytes(stream[:len(packet)], "big")
    return (int.from_bytes(packet, "big") ^ key).to_bytes(len(packet), "big")
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun9", 0x1001))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((local, 5555))
print("ready", flush=True)
while True:
    for ready in select.select([tun, udp], [], [])[0]:
        try:
            if ready is tun:
                udp.sendto(combined(os.read(tun, 65536)), (remote, 5555))
            else:
                os.write(tun, combined(udp.recv(65536)))
        except OSError:
            pass
"#;

/// A relay at both ends of the underlay, with the analyzer as 10.9.0.2 behind it.
fn relayed(lab: &Lab, mode: &str) -> [Process; 2] {
    let script = lab.write("relay.py", RELAY);
    [(&lab.host, 1, 2), (&lab.analyzer, 2, 1)].map(|(namespace, number, other)| {
        let log = lab.path(&format!("relay{number}.log"));
        let line = format!("python3 {} {mode} 192.0.2.{number} 192.0.2.{other}", script.display());
        let process = namespace.start(&line, &log);
        await_that("the relay", || std::fs::read_to_string(&log).is_ok_and(|words| words.contains("ready")));
        namespace.link_up("tun9", 1400, &[&format!("10.9.0.{number}/24")]);
        process
    })
}

fn behind_a_relay(mode: &str, traffic: impl FnOnce(&Lab, &Capture)) -> (Lab, Ledger, String, PathBuf) {
    let lab = Lab::new();
    let _relays = relayed(&lab, mode);
    lab.host.run("ping -q -c 1 -W 30 10.9.0.2");
    let seen = Capture::start(&lab, &lab.analyzer, "tun9", "udp dst port 4789");
    let farspan = Farspan::mirror_as_told(&lab, &["-i", "u0", "--to", "vxlan://10.9.0.2?vni=42"]);
    traffic(&lab, &seen);
    let log = farspan.log();
    let ledger = farspan.stop();
    let file = seen.stop();
    (lab, ledger, log, file)
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_an_analyzer_behind_a_readable_relay_does_not_loop() {
    let (_lab, ledger, log, file) =
        behind_a_relay("readable", |lab, seen| ping_and_watch(&lab.host, ANALYZER, &[seen]));
    assert_few("the host", &ledger);
    assert!(ledger.dropped.contains_key("loop"), "{ledger:#?}");
    assert_eq!(copies_of_the_ping(&file, "vxlan.vni == 42"), [1, 1], "{ledger:#?}");
    assert_eq!(warnings(&log).len(), 1, "{log}");
    assert!(log.contains("a relay or VPN") && log.contains("`not (udp port 5555 and host 192.0.2.2)`"), "{log}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_honest_frames_beside_a_readable_relay_arrive_exactly_once() {
    const PINGS: usize = 300;
    let (_lab, ledger, log, file) = behind_a_relay("readable", |lab, seen| {
        // Requests and replies: a hundred frames per second.
        lab.analyzer.run(&format!("ping -q -c {PINGS} -i 0.02 {UNDERLAY_HOST}"));
        await_that("the last reply's copy", || {
            !tshark::values(seen.file(), &format!("icmp.type == 0 && icmp.seq == {PINGS}"), "icmp.seq").is_empty()
        });
    });
    ledger.assert_lossless();
    for kind in [8, 0] {
        let numbers = tshark::values(&file, &format!("vxlan.vni == 42 && icmp.type == {kind}"), "icmp.seq");
        let different: BTreeSet<&String> = numbers.iter().collect();
        assert_eq!((numbers.len(), different.len()), (PINGS, PINGS), "type {kind}: {ledger:#?}\n{log}");
    }
    assert!(!log.contains("loop_throttled"), "{log}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_an_analyzer_behind_an_encrypting_relay_raises_an_alarm() {
    let (_lab, ledger, log, file) =
        behind_a_relay("encrypted", |lab, seen| ping_and_watch(&lab.host, ANALYZER, &[seen]));
    assert_few("the host", &ledger);
    assert_eq!(copies_of_the_ping(&file, "vxlan.vni == 42"), [1, 1], "{ledger:#?}");
    let said = warnings(&log);
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("ERROR") && said[0].contains("`not (udp port 5555 and host 192.0.2.2)`"), "{log}");
    assert!(ledger.dropped.contains_key("loop_throttled"), "{ledger:#?}");
}

/// A real VPN between host and analyzer: WireGuard in user space, with the analyzer as 10.9.0.2 behind it.
fn wireguard(lab: &Lab) -> [Process; 2] {
    let ends = [(&lab.host, 1, 2), (&lab.analyzer, 2, 1)];
    let key = |number: i32| lab.path(&format!("wg{number}.key"));
    // The name is of this process alone: the control sockets of all WireGuard devices are in one folder of the machine.
    let device = |number: i32| format!("fw{number}-{}", std::process::id() % 1_000_000);
    let public: Vec<String> = ends
        .iter()
        .map(|&(namespace, number, _)| {
            let line = format!("umask 077; wg genkey > {0}; wg pubkey < {0}", key(number).display());
            crate::lab::succeed(namespace.command("sh").args(["-c", &line])).trim().to_owned()
        })
        .collect();
    let mut processes = ends.iter().zip([&public[1], &public[0]]).map(|(&(namespace, number, other), peer)| {
        let device = device(number);
        let process = namespace.start(&format!("wireguard-go -f {device}"), &lab.path(&format!("wg{number}.log")));
        await_that("the device", || Path::new(&format!("/var/run/wireguard/{device}.sock")).exists());
        namespace.run(&format!(
            "wg set {device} listen-port 51820 private-key {} peer {peer} endpoint 192.0.2.{other}:51820 allowed-ips 10.9.0.0/24",
            key(number).display()
        ));
        namespace.link_up(&device, 1420, &[&format!("10.9.0.{number}/24")]);
        process
    });
    let both = [processes.next().expect("one"), processes.next().expect("the other")];
    lab.host.run("ping -q -c 1 -W 5 10.9.0.2");
    both
}

/// A real VPN: `check` and the start warn, the loop is found and slowed down, and the filter that the alarm prints ends it.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_an_analyzer_behind_wireguard_raises_an_alarm_whose_filter_ends_the_loop() {
    const TO: &str = "vxlan://10.9.0.2?vni=42";
    const FILTER: &str = "not (udp port 51820 and host 192.0.2.2)";
    let lab = Lab::new();
    let _both = wireguard(&lab);
    let device = format!("fw2-{}", std::process::id() % 1_000_000);
    let warning = "a tunnel of this host (tun) whose packets may leave by u0, which is mirrored";
    let said = crate::lab::succeed(lab.host.command(binary()).args(["check", "-i", "u0", "--to", TO]));
    assert!(said.contains(warning) && said.contains("add to the filter: not (port PORT and host PEER)"), "{said}");

    let seen = Capture::start(&lab, &lab.analyzer, &device, "udp dst port 4789");
    let arguments = ["-i", "u0", "--to", TO];
    let looping = mirror(&lab, &lab.host, "looping", &[&arguments[..], &["--transmit", "socket"]].concat());
    assert!(looping.log().contains(warning), "{}", looping.log());
    ping_and_watch(&lab.host, ANALYZER, &[&seen]);
    let log = looping.log();
    let ledger = looping.stop();
    // Pieces of split frames go round too: in a tenth of a second there are hundreds, without an end tens of thousands.
    assert!(ledger.only().assigned < 1000, "{ledger:#?}");
    assert!(ledger.dropped.contains_key("loop_throttled"), "{ledger:#?}");
    let said = warnings(&log);
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("ERROR") && said[0].contains(&format!("`{FILTER}`")), "{log}");
    assert_eq!(copies_of_the_ping(seen.file(), "vxlan.vni == 42"), [1, 1], "{ledger:#?}");

    let filtered = [&arguments[..], &["--transmit", "socket", FILTER]].concat();
    let quiet = mirror(&lab, &lab.host, "quiet", &filtered);
    ping_and_watch(&lab.host, ANALYZER, &[&seen]);
    let log = quiet.log();
    let ledger = quiet.stop();
    ledger.assert_lossless();
    assert!(ledger.captured < 20 && warnings(&log).is_empty(), "{ledger:#?}\n{log}");
    assert_eq!(copies_of_the_ping(&seen.stop(), "vxlan.vni == 42"), [2, 2], "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_a_sweep_of_growing_frames_and_a_bulk_flow_raise_no_alarm() {
    let lab = Lab::with_underlay_mtu(1600);
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "vxlan://192.0.2.2?vni=42", "udp dst port 9 or tcp"]);
    // Each frame is longer than the one before by what VXLAN and a tunnel would add to it; then all of one length.
    let lengths = (0..400).map(|number| 98 + number % 16 * 80).chain(std::iter::repeat_n(700, 400));
    let frames: Vec<_> = (0..).zip(lengths).map(|(number, length)| traffic::udp_frame(number, 3, length)).collect();
    traffic::send(&lab, &frames, "--pps=200");
    await_that("every frame", || seen.frames().len() >= frames.len());
    let server = lab.host.start("iperf3 -s -1 -p 5201", &lab.path("iperf3.log"));
    await_that("iperf3 to listen", || lab.host.run("ss -Hlnt").contains(":5201 "));
    lab.client.run("iperf3 -c 10.8.0.2 -p 5201 -t 1 -b 20M");
    drop(server);
    let log = farspan.log();
    let ledger = farspan.stop();
    let copies: BTreeSet<Vec<u8>> = frames_behind_vxlan(&seen.stop()).into_iter().collect();
    assert!(frames.iter().all(|frame| copies.contains(frame)), "{ledger:#?}");
    assert!(warnings(&log).is_empty(), "{log}");
    assert!(!ledger.dropped.contains_key("loop_throttled") && !ledger.dropped.contains_key("loop"), "{ledger:#?}");
}

fn frames_behind_vxlan(capture: &Path) -> Vec<Vec<u8>> {
    let frames = crate::judge::frames_of(capture);
    frames.iter().filter_map(|frame| frame.get(50..)).map(<[u8]>::to_vec).collect()
}

/// Sends VXLAN datagrams of the same port and VNI as the mirror's, short ones and such that become fragments.
const OTHER_PARTY: &str = r#"
import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("192.0.2.2", 33333))
# The kernel may fragment.
udp.setsockopt(socket.IPPROTO_IP, 10, 0)
inner = bytes.fromhex("02fa0000000202fa0000000188b5")
for number in range(60):
    for length in (100, 3000):
        frame = inner + number.to_bytes(4, "big") + bytes([length % 251]) * length
        udp.sendto(bytes.fromhex("0800000000002a00") + frame, ("192.0.2.1", 4789))
"#;

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_vxlan_of_others_between_the_same_hosts_arrives_complete_also_in_fragments() {
    let lab = Lab::new();
    // So that a copy of each fragment fits the path.
    lab.analyzer.run("ip route add 192.0.2.1/32 dev a0 mtu 1400");
    let script = lab.write("other.py", OTHER_PARTY);
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "udp or (ip[6:2] & 0x1fff != 0)");
    let farspan = Farspan::mirror(&lab, &["-i", "u0", "--to", "vxlan://192.0.2.2?vni=42"]);
    lab.analyzer.run(&format!("python3 {}", script.display()));
    let from = |frames: &[Vec<u8>], last: u8| -> Vec<Vec<u8>> {
        frames.iter().filter(|frame| frame.get(26..30) == Some(&[192, 0, 2, last])).cloned().collect()
    };
    let mirrored = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let copies: Vec<Vec<u8>> =
            from(frames, 1).iter().filter_map(|frame| frame.get(50..)).map(<[u8]>::to_vec).collect();
        // The host's ICMP errors are mirrored too.
        copies.into_iter().filter(|frame| frame.get(23) == Some(&17)).collect()
    };
    await_that("a copy of each", || {
        let frames = seen.frames();
        let sent = from(&frames, 2).len();
        sent >= 60 * 4 && from(&mirrored(&frames), 2).len() >= sent
    });
    let ledger = farspan.stop();
    let frames = crate::judge::frames_of(&seen.stop());
    let (mut sent, mut copies) = (from(&frames, 2), from(&mirrored(&frames), 2));
    sent.sort();
    copies.sort();
    assert_eq!(copies.len(), sent.len(), "{ledger:#?}");
    assert!(copies == sent, "every byte: {ledger:#?}");
    assert!(!ledger.dropped.contains_key("loop"), "{ledger:#?}");
}
