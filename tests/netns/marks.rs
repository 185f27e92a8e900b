//! Socket marks: farspan processes of one host do not mirror each other's tunnels, and nothing else stays unseen.

use std::path::Path;

use crate::farspan::{Farspan, Ledger, binary, by_xdp, engine};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{Lab, Namespace, Process, UNDERLAY_HOST, await_that, succeed, wire};

/// A second analyzer, in the same namespace as the first.
const SECOND: &str = "192.0.2.3";

/// Starts `farspan mirror` in `namespace`; its files are called `name`.
fn mirror(lab: &Lab, namespace: &Namespace, name: &str, arguments: &[&str]) -> Farspan {
    let mut command = namespace.command(binary());
    command.args(["mirror", "--json"]).args(engine());
    let says = |word: &str| arguments.iter().any(|argument| argument.contains(word));
    if by_xdp() && says("vxlan://") && !says("transmit") {
        command.args(["--transmit", "xdp"]);
    }
    command.args(arguments);
    Farspan::start_command(lab, [name, "mirroring "], command)
}

/// Has the analyzer take what tunnels bring, and answer nothing to it.
pub fn take_in_silence(lab: &Lab) -> Process {
    let script = "
import select, socket
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)]
sockets[0].bind(('', 4789))
print('ready', flush=True)
while True:
    for one in select.select(sockets, [], [])[0]:
        one.recv(65536)
";
    let (script, log) = (lab.write("sink.py", script), lab.path("sink.log"));
    let process = lab.analyzer.start(&format!("python3 {}", script.display()), &log);
    await_that("the sink", || std::fs::read_to_string(&log).is_ok_and(|said| said.contains("ready")));
    process
}

/// Sends one ping from the analyzer to the host, and then another by which it is known that all copies of the first have
/// arrived: `copies` of it in the capture.
fn one_ping(lab: &Lab, seen: &Capture, copies: usize) {
    lab.analyzer.run(&format!("ping -q -c 1 -s 900 {UNDERLAY_HOST}"));
    lab.analyzer.run(&format!("ping -q -c 1 -s 25 {UNDERLAY_HOST}"));
    await_that("the copies of the last answer", || {
        tshark::count(seen.file(), "(vxlan || gre) && icmp.type == 0 && ip.len == 53") >= copies
    });
}

/// How many frames of the first ping arrived in the tunnel that `tunnel` selects: requests and answers.
fn copies(capture: &Path, tunnel: &str) -> [usize; 2] {
    [8, 0].map(|kind| tshark::count(capture, &format!("{tunnel} && icmp.type == {kind} && ip.len == 928")))
}

fn assert_quiet(ledger: &Ledger, log: &str) {
    assert!(ledger.captured < 100, "{ledger:#?}");
    ledger.assert_lossless();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_two_processes_on_one_interface_do_not_mirror_each_other() {
    let lab = Lab::new();
    lab.analyzer.run(&format!("ip address add {SECOND}/24 dev a0"));
    let _sink = take_in_silence(&lab);
    for (number, engine) in ["ring", "pcap"].into_iter().enumerate() {
        for (workers, encapsulations) in [("1", ["vxlan", "vxlan"]), ("2", ["gre", "vxlan"])] {
            let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
            let to = |encapsulation: &str, address: &str| match encapsulation {
                "gre" => format!("gre://{address}?key=42"),
                _ => format!("vxlan://{address}?vni=42"),
            };
            let name = |which: &str| format!("{which}-{number}-{workers}");
            let start = |which: &str, to: &str| {
                let arguments = ["-i", "u0", "--engine", engine, "--workers", workers, "--to", to];
                let mut command = lab.host.command(binary());
                command.args(["mirror", "--json"]).args(arguments);
                Farspan::start_command(&lab, [&name(which), "mirroring "], command)
            };
            let one = start("one", &to(encapsulations[0], "192.0.2.2"));
            let two = start("two", &to(encapsulations[1], SECOND));
            one_ping(&lab, &seen, 2);
            for farspan in [one, two] {
                let log = farspan.log();
                assert_quiet(&farspan.stop(), &log);
            }
            let capture = seen.stop();
            for (encapsulation, address) in encapsulations.into_iter().zip(["192.0.2.2", SECOND]) {
                let tunnel = format!("{encapsulation} && ip.dst#1 == {address} && ip.src#1 == {UNDERLAY_HOST}");
                assert_eq!(copies(&capture, &tunnel), [1, 1], "{engine} {tunnel}");
            }
            assert!(frames_of(&capture).len() < 100);
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_a_container_and_its_host_do_not_mirror_each_other_for_ever() {
    let lab = Lab::new();
    lab.analyzer.run(&format!("ip address add {SECOND}/24 dev a0"));
    let _sink = take_in_silence(&lab);
    // The container has an interface on a bridge of the host, and its packets are routed.
    let container = Namespace::named("fpr-box");
    wire(&container, "b0", &lab.host, "veth0");
    lab.host.run("ip link add br0 type bridge");
    lab.host.run("ip link set br0 addrgenmode none up");
    lab.host.run("ip address add 10.9.0.1/24 dev br0");
    lab.host.run("ip link set veth0 master br0 addrgenmode none up");
    container.link_up("b0", 1500, &["10.9.0.2/24"]);
    container.run("ip route add default via 10.9.0.1");
    lab.host.run("sysctl -qw net.ipv4.ip_forward=1");
    lab.analyzer.run("ip route add 10.9.0.0/24 via 192.0.2.1");
    container.await_link("b0");
    container.run("ping -q -c 1 -w 30 192.0.2.2");

    let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
    let host = mirror(&lab, &lab.host, "host", &["-i", "u0", "-i", "br0", "--to", "vxlan://192.0.2.2?vni=1"]);
    // It sees the host's interface, too, as an agent in a container does.
    let netns = format!("/run/netns/{}", lab.host.name());
    let to = format!("vxlan://{SECOND}?vni=2");
    let boxed = mirror(&lab, &container, "container", &["--netns", &netns, "-i", "u0", "--to", &to]);
    one_ping(&lab, &seen, 2);
    for farspan in [host, boxed] {
        let log = farspan.log();
        assert_quiet(&farspan.stop(), &log);
    }
    let capture = seen.stop();
    // What the host makes of the container's tunnel is other traffic of it: a ping inside two tunnels.
    assert_eq!(copies(&capture, "vxlan.vni == 1 && !(vxlan.vni#2)"), [1, 1]);
    assert_eq!(copies(&capture, "ip.src#1 == 10.9.0.2 && vxlan.vni == 2 && !(vxlan.vni#2)"), [1, 1]);
    assert!(frames_of(&capture).len() < 100);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_a_capture_file_still_shows_marked_datagrams() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
    let record = lab.path("record.pcap");
    let to_file = format!("pcap:{}", record.display());
    // The file is there before the first datagram: the tunnel's session mirrors what the kernel says by itself, such as ARP,
    // as soon as it runs.
    let file = mirror(&lab, &lab.host, "file", &["-i", "u0", "--to", &to_file]);
    let tunnel =
        mirror(&lab, &lab.host, "tunnel", &["-i", "u0", "--transmit", "socket", "--to", "vxlan://192.0.2.2?vni=9"]);
    one_ping(&lab, &seen, 1);
    let sent = usize::try_from(tunnel.stop().only().sent).expect("a few datagrams");
    await_that("the last datagram", || tshark::count(seen.file(), "vxlan") >= sent);
    file.stop().assert_lossless();
    let arrived = tshark::count(&seen.stop(), "vxlan");
    assert!(arrived > 0);
    assert_eq!(tshark::count(&record, "vxlan"), arrived, "the file has every datagram that arrived");
}

/// What an expression selects, with and without a tunnel in the session, which adds the question about the mark.
#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_a_filter_means_the_same_beside_the_mark() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    for engine in ["ring", "pcap"] {
        for (number, filter) in
            ["", "not port 22", "vlan", "vlan 7 and icmp", "len > 500 or arp"].into_iter().enumerate()
        {
            let name = |which: &str| format!("{which}-{engine}-{number}");
            let start = |which: &str, to: &[&str]| {
                let mut command = lab.host.command(binary());
                let file = format!("pcap:{}", lab.path(&name(which)).display());
                command.args(["mirror", "--json", "-i", "h0", "--engine", engine, "--to", &file]).args(to);
                command.args(filter.split_whitespace());
                Farspan::start_command(&lab, [&format!("{}-run", name(which)), "mirroring "], command)
            };
            let plain = start("plain", &[]);
            let beside = start("beside", &["--to", "vxlan://192.0.2.2?vni=1"]);
            send_frames(&lab);
            let (plain, beside) = (plain.stop(), beside.stop());
            plain.assert_lossless();
            beside.assert_lossless();
            // Whatever else the client's kernel says meanwhile is no part of it.
            let sent = |which: &str| {
                let mut frames = frames_of(&lab.path(&name(which)));
                frames.retain(|frame| frame.get(6..12) == Some(&[2, 0, 0, 0, 0, 1]));
                frames
            };
            assert!(!sent("plain").is_empty(), "{engine} `{filter}` selects something");
            assert_eq!(sent("plain"), sent("beside"), "{engine} `{filter}`");
        }
    }
}

/// Sends frames with and without VLAN tags from the client.
fn send_frames(lab: &Lab) {
    let script = "
import socket, struct
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(('c0', 0))
def frame(protocol, dport, size, tag):
    udp = struct.pack('!HHHH', 1000, dport, 8 + size, 0) + bytes(size)
    total = 20 + len(udp)
    ip = struct.pack('!BBHHHBBH4s4s', 69, 0, total, 1, 0, 64, protocol, 0, socket.inet_aton('10.8.0.1'), socket.inet_aton('10.8.0.9'))
    ethernet = b'\\x02\\0\\0\\0\\0\\x02' + b'\\x02\\0\\0\\0\\0\\x01' + (struct.pack('!HH', 0x8100, tag) if tag else b'') + b'\\x08\\0'
    raw.send(ethernet + ip + udp)
for size in (20, 600):
    for tag in (0, 7, 8):
        frame(17, 22, size, tag)
        frame(17, 53, size, tag)
        frame(1, 0, size, tag)
";
    let script = lab.write("frames.py", script);
    lab.client.run(&format!("python3 {}", script.display()));
}

/// Tunnels of other programs to the same port of the same analyzer, and packets whose mark others have set.
#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_tunnels_and_marks_of_others_arrive_complete() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "");
    let farspan = mirror(&lab, &lab.host, "mirror", &["-i", "u0", "--to", "vxlan://192.0.2.2?vni=1"]);
    let script = "
import socket
# The last two have the mark of farspan's tunnels; to one of them other software has added bits.
for mark in (0, 1, 0x4000, 0x80000, 0x0a500000, 0xfa400000, 0x05a00000, 0xffffffff, 0xfa500000, 0xfa504001):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark - (1 << 32) if mark >> 31 else mark)
    for number in range(5):
        sender.sendto(b'\\x08\\0\\0\\0\\0\\0\\x63\\0' + bytes(60) + mark.to_bytes(4, 'big'), ('192.0.2.2', 4789))
";
    let script = lab.write("marks.py", script);
    lab.host.run(&format!("python3 {}", script.display()));
    one_ping(&lab, &seen, 1);
    let log = farspan.log();
    let ledger = farspan.stop();
    let capture = seen.stop();
    assert_eq!(tshark::count(&capture, "vxlan.vni == 99 && !(vxlan.vni == 1)"), 50, "all are sent");
    assert_eq!(
        tshark::count(&capture, "vxlan.vni == 1 && vxlan.vni == 99"),
        40,
        "but for the marked ones all are mirrored"
    );
    assert_quiet(&Ledger { captured: 0, ..ledger }, &log);
}

/// What AF_XDP sends in copy mode carries the mark to the other end of a veth in the same namespace.
#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_frames_of_af_xdp_carry_the_mark() {
    let lab = Lab::new();
    // Both ends in one namespace, so that the mark stays; the analyzer's address is behind the far end.
    let links = "ip link add x0 numtxqueues 4 numrxqueues 4 type veth peer name x1 numtxqueues 4 numrxqueues 4";
    lab.host.run(links);
    lab.host.link_up("x0", 1500, &["198.51.100.1/24"]);
    lab.host.link_up("x1", 1500, &[]);
    lab.host.await_link("x0");
    lab.host.run("ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:99 dev x0");
    let to = "vxlan://198.51.100.2?vni=1&transmit=xdp";
    // The watcher sees what carries another mark than its own.
    for (mark, is_seen) in [("0xfa500000/0xfff00000", false), ("0x7/0xf", true)] {
        let seen = Capture::start(&lab, &lab.host, "x1", "");
        let sender = Farspan::mirror_as_told(&lab, &["-i", "h0", "--mark", mark, "--to", to]);
        let mut command = lab.host.command(binary());
        command.args(["mirror", "--json", "-i", "x1", "--to", "vxlan://192.0.2.2?vni=2"]);
        let watcher = Farspan::start_command(&lab, ["watcher", "mirroring "], command);
        lab.client.run("ping -q -c 3 -i 0.05 10.8.0.2");
        await_that("the datagrams on the far end", || tshark::count(seen.file(), "vxlan && icmp") >= 6);
        sender.stop();
        let ledger = watcher.stop();
        assert_eq!(ledger.captured >= 6, is_seen, "{mark}: {ledger:#?}");
        assert_eq!(ledger.captured == 0, !is_seen, "{mark}: {ledger:#?}");
    }
}

/// Without the capability a tunnel runs, and says that it is not marked.
#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_without_capabilities_a_tunnel_runs_unmarked_and_says_so() {
    let lab = Lab::new();
    let _sink = take_in_silence(&lab);
    lab.host.run("ping -q -c 1 192.0.2.2");
    let seen = Capture::start(&lab, &lab.analyzer, "a0", "udp port 4789");
    let frames = lab.path("in.pcap");
    let tapped = Capture::start(&lab, &lab.host, "h0", "icmp");
    lab.client.run("ping -q -c 2 -i 0.05 10.8.0.2");
    tapped.await_frames(4);
    std::fs::copy(tapped.stop(), &frames).unwrap();
    let input = frames.display().to_string();
    let arguments = ["-r", &input, "--to", "vxlan://192.0.2.2?vni=1"];
    let run = |what: &str| {
        let mut command = lab.host.command("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"]);
        command.arg(binary()).arg(what).args(arguments);
        let output = crate::farspan::run(&mut command);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let said = run("mirror");
    assert!(said.contains("carry no mark"), "{said}");
    seen.await_frames(4);
    let said = run("check");
    assert!(said.contains("note: the tunnels' packets will not carry the mark 0xfa500000/0xfff00000"), "{said}");
}

/// The route of packets with the mark is the one that is asked for.
#[test]
#[ignore = "needs root: run scripts/test"]
fn t26_policy_routing_by_the_mark_is_followed() {
    let lab = Lab::new();
    lab.host.run("ip route add 203.0.113.0/24 via 10.8.0.1");
    lab.host.run("ip route add 203.0.113.0/24 via 192.0.2.2 table 77");
    lab.host.run("ip rule add fwmark 0xfa500000/0xfff00000 lookup 77");
    let check = |more: &[&str]| {
        let mut command = lab.host.command(binary());
        command.args(["check", "-i", "h0", "--to", "vxlan://203.0.113.9?vni=1"]).args(more);
        succeed(&mut command)
    };
    assert!(check(&[]).contains("203.0.113.9 by u0"), "{}", check(&[]));
    assert!(check(&["--mark", "off"]).contains("203.0.113.9 by h0"), "{}", check(&["--mark", "off"]));
}
