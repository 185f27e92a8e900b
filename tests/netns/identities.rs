//! Which interface a frame was seen on, as the analyzer and the capture file are told it: by VNI and by name. Interfaces appear
//! while the kernel refuses farspan descriptors or threads, and while they flap. tcpdump at the analyzer and tshark are the
//! judges.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::farspan::{Farspan, binary};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{Lab, Namespace, await_that, succeed};
use crate::traffic;

/// What the analyzer captures.
const TUNNEL: &str = "udp dst port 4789";
/// Outer Ethernet, IPv4, UDP and VXLAN.
const OUTER: usize = 50;
const VNI: std::ops::Range<usize> = 46..49;
/// Frames of the test have a type of their own, and behind it the number of the interface that they are sent to.
const TYPE: [u8; 2] = [0x88, 0xb5];
const FIRST_VNI: u32 = 100;

/// Sends a frame to each interface, again and again, until it is ended: `hxeN` is the other end of `hxdN`.
const SEND: &str = r#"
import socket, sys, time
sockets = {}
while True:
    for number in map(int, sys.argv[1:]):
        try:
            if number not in sockets:
                s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                s.bind(("hxe%d" % number, 0))
                sockets[number] = s
            frame = b"\xff" * 6 + b"\x02\0\0\0\0\7" + b"\x88\xb5" + number.to_bytes(2, "big")
            sockets[number].send(frame.ljust(60, b"\0"))
        except OSError:
            sockets.pop(number, None)
    time.sleep(0.002)
"#;

/// Lets each interface be up for 0 to 4 ms at a time, for some seconds. Then all stay up.
const FLAP: &str = r#"
import fcntl, random, socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def set_up(name, up):
    request = struct.pack("16sh14x", name.encode(), 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(s, 0x8913, request))[1]
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", name.encode(), flags | 1 if up else flags & ~1))
names = ["hxd%s" % number for number in sys.argv[1:]]
random.seed(12)
end = time.monotonic() + 5
while time.monotonic() < end:
    random.shuffle(names)
    for name in names:
        set_up(name, True)
        time.sleep(random.uniform(0, 0.004))
        set_up(name, False)
for name in names:
    set_up(name, True)
"#;

/// Makes pairs `hxdN` of the host and `hxeN` of the client, of which the latter are up.
pub fn make(lab: &Lab, numbers: std::ops::RangeInclusive<u32>) {
    let (host, client) = (lab.host.name(), lab.client.name());
    let pair = |number| format!("link add hxd{number} netns {host} type veth peer name hxe{number} netns {client}");
    each(lab, &lab.host, numbers.clone(), pair);
    // No link-local address: it would add frames of its own to the test's traffic.
    each(lab, &lab.host, numbers.clone(), |number| format!("link set hxd{number} addrgenmode none"));
    each(lab, &lab.client, numbers, |number| format!("link set hxe{number} addrgenmode none up"));
}

/// Has `ip` carry out a line for each number, in `namespace`.
pub fn each(lab: &Lab, namespace: &Namespace, numbers: std::ops::RangeInclusive<u32>, line: impl Fn(u32) -> String) {
    let lines: Vec<String> = numbers.map(line).collect();
    succeed(Command::new("ip").args(["-n", namespace.name(), "-batch"]).arg(lab.write("batch", lines.join("\n"))));
}

fn words(numbers: std::ops::RangeInclusive<u32>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

/// Starts sending to the interfaces with these numbers.
fn send(lab: &Lab, numbers: std::ops::RangeInclusive<u32>) -> crate::lab::Process {
    let script = lab.write("send.py", SEND);
    lab.client.start(&format!("python3 {} {}", script.display(), words(numbers)), &lab.path("send.log"))
}

/// How many datagrams carried frames of each interface under each VNI: by number and VNI.
fn by_interface(datagrams: &[Vec<u8>]) -> BTreeMap<(u32, u32), usize> {
    let mut seen = BTreeMap::new();
    for datagram in datagrams {
        if datagram.get(OUTER + 12..OUTER + 14) == Some(&TYPE) {
            let number = u32::from(u16::from_be_bytes([datagram[OUTER + 14], datagram[OUTER + 15]]));
            let vni = datagram[VNI].iter().fold(0, |vni, &byte| vni << 8 | u32::from(byte));
            *seen.entry((number, vni)).or_default() += 1;
        }
    }
    seen
}

/// The same of a pcapng file, by number and by the interface's name, as tshark reads it.
fn by_name(file: &Path) -> BTreeMap<(String, String), usize> {
    let mut seen = BTreeMap::new();
    for fields in tshark::fields(file, "eth.type == 0x88b5", &["data.data", "frame.interface_name"]) {
        let number = u32::from_str_radix(&fields[0][..4], 16).expect("tshark prints hexadecimal digits");
        *seen.entry((format!("hxd{number}"), fields[1].clone())).or_default() += 1;
    }
    seen
}

/// `vni=hxd1:101,hxd2:102,…`
fn tunnel(numbers: std::ops::RangeInclusive<u32>) -> String {
    let ids: Vec<String> = numbers.map(|number| format!("hxd{number}:{}", FIRST_VNI + number)).collect();
    format!("vxlan://192.0.2.2?vni={}", ids.join(","))
}

/// Sets a soft limit of a process, as its own user.
fn limit(what: &str, pid: u32, value: usize) {
    let owner = fs::metadata(format!("/proc/{pid}")).expect("it runs").uid();
    let user = [format!("--reuid={owner}"), format!("--regid={owner}")];
    let mut command = Command::new("setpriv");
    command.args(user).args(["--clear-groups", "prlimit", "--pid", &pid.to_string(), &format!("--{what}={value}:")]);
    succeed(&mut command);
}

/// How many descriptors a process has.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// The limit of descriptors that leaves a process a single one: enough to look at the interfaces, too few to open one.
fn one_more_descriptor(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let number = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<usize>().ok();
    let used: Vec<usize> = entries.filter_map(number).collect();
    (0..).filter(|number| !used.contains(number)).nth(1).expect("a process has an end of descriptors")
}

/// Waits until frames of this interface have arrived, and asserts that each came with this VNI.
fn assert_only(arriving: &Capture, number: u32, vni: u32) {
    await_that(&format!("frames of hxd{number}"), || {
        by_interface(&arriving.frames()).iter().any(|(&(of, _), &count)| of == number && count >= 20)
    });
    let seen = by_interface(&arriving.frames());
    let wrong: Vec<_> = seen.iter().filter(|&(&(of, under), _)| of == number && under != vni).collect();
    assert!(wrong.is_empty(), "frames of hxd{number} under other VNIs than {vni}: {wrong:?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a01_sixty_interfaces_that_flap_while_they_come_up_leave_under_their_own_ids() {
    const COUNT: u32 = 60;
    for workers in ["1", "2"] {
        let lab = Lab::new();
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
        let file = lab.path("names.pcapng");
        make(&lab, 1..=1);
        lab.host.link_up("hxd1", 1500, &[]);
        let (to, written) = (tunnel(1..=COUNT + 1), format!("pcap:{}", file.display()));
        let farspan = Farspan::mirror(&lab, &["-i", "hxd*", "--workers", workers, "--to", &to, "--to", &written]);
        make(&lab, 2..=COUNT + 1);
        let sender = send(&lab, 1..=COUNT + 1);
        let script = lab.write("flap.py", FLAP);
        lab.host.run(&format!("python3 {} {}", script.display(), words(2..=COUNT + 1)));
        await_that("frames of all interfaces", || {
            let seen = by_interface(&arriving.frames());
            (1..=COUNT + 1).all(|number| seen.keys().any(|&(of, _)| of == number))
        });
        drop(sender);
        let ledger = farspan.stop();
        let arrived = frames_of(&arriving.stop());
        let seen = by_interface(&arrived);
        let wrong: Vec<_> = seen.iter().filter(|&(&(number, vni), _)| vni != FIRST_VNI + number).collect();
        assert!(wrong.is_empty(), "frames under other interfaces' VNIs, with {workers} workers: {wrong:?}");
        let named = by_name(&file);
        let wrong: Vec<_> = named.iter().filter(|((sent_to, name), _)| sent_to != name).collect();
        assert!(wrong.is_empty(), "frames under other interfaces' names, with {workers} workers: {wrong:?}");
        assert!(named.len() > usize::try_from(COUNT).expect("small"), "{named:?}");
        for destination in &ledger.destinations {
            assert_eq!(destination.dropped.get("unknown_interface"), None, "{ledger:#?}");
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a01_an_interface_that_finds_no_descriptor_at_first_leaves_under_its_own_id() {
    let lab = Lab::new();
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let file = lab.path("names.pcapng");
    make(&lab, 1..=2);
    lab.host.link_up("hxd1", 1500, &[]);
    let (to, written) = (tunnel(1..=2), format!("pcap:{}", file.display()));
    let farspan = Farspan::mirror(&lab, &["-i", "hxd*", "--to", &to, "--to", &written]);
    let _sender = send(&lab, 1..=2);
    assert_only(&arriving, 1, FIRST_VNI + 1);
    lab.host.run("ip link delete hxd1");
    await_that("the end of hxd1", || farspan.log().contains("hxd1 has gone"));
    // The descriptors of hxd1 are closed by a thread of their own.
    await_that("no packet socket", || lab.host.run("cat /proc/net/packet").lines().count() == 1);
    limit("nofile", farspan.id(), one_more_descriptor(farspan.id()));
    lab.host.run("ip link set hxd2 up");
    await_that("a refusal", || farspan.log().contains("trying again"));
    limit("nofile", farspan.id(), 1000);
    assert_only(&arriving, 2, FIRST_VNI + 2);
    farspan.stop();
    let named = by_name(&file);
    assert!(named.keys().all(|(sent_to, name)| sent_to == name), "{named:?}");
    assert!(named.keys().any(|(sent_to, _)| sent_to == "hxd2"), "{named:?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a02_an_interface_that_finds_no_thread_or_descriptor_at_first_crashes_nobody() {
    let lab = Lab::new();
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    make(&lab, 2..=3);
    // Root may have as many threads as it wants.
    let mut command = lab.host.command("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=+net_raw",
        "--ambient-caps=+net_raw",
    ]);
    command.arg(binary()).args(["mirror", "--json", "-i", "h0", "-i", "hxd*"]);
    command.args(["--to", "vxlan://192.0.2.2?vni=h0:7,hxd2:102,hxd3:103"]);
    let farspan = Farspan::start_command(&lab, ["mirror", "mirroring "], command);
    let _sender = send(&lab, 2..=3);
    for (number, what) in [(2, "nproc"), (3, "nofile")] {
        let enough = if what == "nproc" { 10_000 } else { 1000 };
        let little = if what == "nproc" { 1 } else { one_more_descriptor(farspan.id()) };
        let before = farspan.log().matches("trying again").count();
        limit(what, farspan.id(), little);
        lab.host.run(&format!("ip link set hxd{number} up"));
        await_that("a refusal", || farspan.log().matches("trying again").count() > before);
        limit(what, farspan.id(), enough);
        assert_only(&arriving, number, FIRST_VNI + number);
    }
    let ledger = farspan.stop();
    assert_eq!(ledger.only().dropped.get("crashed"), None, "{ledger:#?}");
    assert_eq!(ledger.only().dropped.get("unknown_interface"), None, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn o5_an_interface_that_is_given_twice_is_captured_once() {
    const FRAMES: u32 = 50;
    let lab = Lab::new();
    lab.host.run("ip link property add dev h0 altname lan0");
    for (number, given) in [["h0", "h0"], ["h0", "lan0"], ["lan0", "h*"], ["h*", "h0"]].iter().enumerate() {
        let file = lab.path(&format!("{number}.pcap"));
        let to = format!("pcap:{}", file.display());
        let farspan = Farspan::mirror(&lab, &["-i", given[0], "-i", given[1], "--to", &to]);
        assert_eq!(farspan.log().matches("is given more than once").count(), 1, "{given:?}: {}", farspan.log());
        let frames: Vec<_> = (0..FRAMES).map(|number| traffic::numbered_frame(number, 100)).collect();
        traffic::send(&lab, &frames, "--pps=1000");
        lab.await_tapped("h0", FRAMES);
        farspan.stop();
        let arrived = traffic::of_stranger(frames_of(&file)).len();
        assert_eq!(arrived, usize::try_from(FRAMES).expect("small"), "{given:?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_namespace_that_is_being_deleted_is_absent_and_no_lack_of_capabilities() {
    let lab = Lab::new();
    // What `ip netns` leaves for a moment: the file without its mount.
    let name = format!("fpr-gone-{}", std::process::id());
    let path = Path::new("/run/netns").join(&name);
    fs::write(&path, "").expect("the tests run as root");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o0)).expect("the tests run as root");
    let mut command = lab.host.command("setpriv");
    let capabilities = ["--inh-caps=+net_raw,+sys_admin", "--ambient-caps=+net_raw,+sys_admin"];
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(capabilities).arg(binary());
    command.args(["mirror", "-i", "eth0", "--netns", &name, "--to", "pcap:-"]);
    let output = crate::farspan::run(&mut command);
    fs::remove_file(&path).expect("it is ours");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("there is no network namespace `{name}`")), "{said}");
    assert!(!said.contains("CAP_SYS_PTRACE"), "{said}");
    assert_eq!(output.status.code(), Some(66), "{said}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn frames_for_a_route_that_discards_them_are_unreachable() {
    for kind in ["blackhole", "unreachable", "prohibit"] {
        let lab = Lab::new();
        let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "vxlan://192.0.2.2?vni=1"]);
        lab.host.run(&format!("ip route add {kind} 192.0.2.2/32"));
        let frames: Vec<_> = (0..200).map(|number| traffic::numbered_frame(number, 100)).collect();
        traffic::send(&lab, &frames, "--pps=1000");
        lab.await_tapped("h0", 200);
        let (_, ledger) = farspan.stop_anyhow();
        assert_eq!(ledger.only().dropped.get("write_failed"), None, "{kind}: {ledger:#?}");
        assert!(ledger.only().dropped.get("unreachable").is_some_and(|&lost| lost >= 200), "{kind}: {ledger:#?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a01_a_device_with_the_index_of_a_deleted_one_leaves_under_its_own_id() {
    let lab = Lab::new();
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    make(&lab, 1..=1);
    lab.host.link_up("hxd1", 1500, &[]);
    let index = lab.host.run("cat /sys/class/net/hxd1/ifindex");
    let farspan = Farspan::mirror(&lab, &["-i", "hxd*", "--to", &tunnel(1..=2)]);
    let _sender = send(&lab, 1..=2);
    assert_only(&arriving, 1, FIRST_VNI + 1);
    // Before the follower looks again.
    let client = lab.client.name();
    let replaced = format!(
        "link delete hxd1\nlink add hxd2 index {} type veth peer name hxe2 netns {client}\nlink set hxd2 addrgenmode none up\n",
        index.trim()
    );
    succeed(Command::new("ip").args(["-n", lab.host.name(), "-batch"]).arg(lab.write("replaced", replaced)));
    lab.client.run("ip link set hxe2 addrgenmode none up");
    assert_only(&arriving, 2, FIRST_VNI + 2);
    farspan.stop();
    let seen = by_interface(&frames_of(&arriving.stop()));
    assert!(seen.keys().all(|&(number, vni)| vni == FIRST_VNI + number), "{seen:?}");
}
