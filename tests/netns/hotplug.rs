//! Interfaces that appear, vanish and change while farspan runs, here and in other network namespaces. The kernel's list of
//! packet sockets says what is captured, tcpdump at the analyzer what arrives.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use crate::daemon::{Daemon, session};
use crate::farspan::{Farspan, binary, engine, run, total};
use crate::judge::{Capture, tshark};
use crate::lab::{Lab, Namespace, await_that, succeed, wire};
use crate::traffic;

const TO: &str = "vxlan://192.0.2.2?vni=web*:3,veth*:2";
/// What the analyzer captures.
const TUNNEL: &str = "udp dst port 4789";

/// Plugs a veth into `namespace`: `name` there, and its other end, `pNAME`, at the client.
fn plug(lab: &Lab, namespace: &Namespace, name: &str) {
    let peer = format!("p{name}");
    wire(namespace, name, &lab.client, &peer);
    namespace.link_up(name, 1500, &[]);
    lab.client.link_up(&peer, 1500, &[]);
    namespace.await_link(name);
}

/// Waits until packet sockets capture on the interface `name` of `namespace`: by its number, since it may have been made anew.
fn await_capture(namespace: &Namespace, name: &str) {
    let index = namespace.run(&format!("cat /sys/class/net/{name}/ifindex"));
    await_that(&format!("a capture on {name}"), || {
        // sk RefCnt Type Proto Iface R Rmem User Inode, of which Proto is 3 for everything and R says that it runs.
        namespace.run("cat /proc/net/packet").lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            matches!(fields[..], [_, _, _, "0003", at, "1", ..] if at == index.trim())
        })
    });
}

/// Numbered frames of the stranger, all of them of different numbers.
fn numbered(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(|number| traffic::udp_frame(number, 16, 400)).collect()
}

/// Sends frames of these numbers to the interface `name`, and waits until the analyzer has each of them with this VNI.
fn all_arrive(lab: &Lab, name: &str, numbers: std::ops::Range<u32>, vni: u32, arriving: &Capture) {
    let frames = numbered(numbers.clone());
    traffic::send_from(lab, &lab.client, &format!("p{name}"), &frames, "--pps=5000");
    await_numbers(arriving, numbers, vni);
}

fn await_numbers(arriving: &Capture, numbers: std::ops::Range<u32>, vni: u32) {
    let expected: BTreeSet<u32> = numbers.collect();
    await_that(&format!("{} frames with VNI {vni}", expected.len()), || {
        let seen: BTreeSet<u32> = numbers_in(&arriving.frames(), vni).into_iter().collect();
        seen.is_superset(&expected)
    });
}

/// The numbers of the stranger's frames in datagrams with this VNI: outer Ethernet, IPv4, UDP and VXLAN are 50 bytes.
fn numbers_in(datagrams: &[Vec<u8>], vni: u32) -> Vec<u32> {
    const INNER: usize = 50;
    const NUMBER: usize = INNER + 42;
    let number_of = |datagram: &Vec<u8>| {
        let is_meant = datagram.get(46..49)? == &vni.to_be_bytes()[1..]
            && datagram.get(INNER + 6..INNER + 12)? == traffic::STRANGER;
        is_meant.then(|| u32::from_be_bytes(datagram[NUMBER..NUMBER + 4].try_into().expect("four bytes")))
    };
    datagrams.iter().filter_map(number_of).collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_a_pattern_means_is_mirrored_whatever_happens_to_it() {
    const LONG: u32 = 1_000_000;
    for workers in ["1", "2"] {
        let lab = Lab::with_underlay_mtu(6000);
        plug(&lab, &lab.host, "veth0");
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
        let arguments = ["-i", "veth*", "-i", "web*", "--workers", workers, "--to", TO];
        plug(&lab, &lab.host, "web0");
        let farspan = Farspan::mirror(&lab, &arguments);

        // It appears.
        plug(&lab, &lab.host, "veth1");
        await_capture(&lab.host, "veth1");
        all_arrive(&lab, "veth1", 0..300, 2, &arriving);
        all_arrive(&lab, "veth0", 300..400, 2, &arriving);

        // What it has captured when it vanishes still arrives; it is made again, with another number.
        traffic::send_from(&lab, &lab.client, "pveth1", &numbered(400..700), "--pps=5000");
        lab.host.run("ip link delete veth1");
        await_numbers(&arriving, 400..700, 2);
        plug(&lab, &lab.host, "veth1");
        await_capture(&lab.host, "veth1");
        all_arrive(&lab, "veth1", 700..1000, 2, &arriving);

        // It goes down and comes up.
        lab.host.run("ip link set veth1 down");
        lab.host.run("ip link set veth1 up");
        await_capture(&lab.host, "veth1");
        all_arrive(&lab, "veth1", 1000..1300, 2, &arriving);

        // Its MTU changes.
        lab.host.run("ip link set veth1 mtu 4000");
        lab.client.run("ip link set pveth1 mtu 4000");
        let long = [traffic::udp_frame(LONG, 16, 3000)];
        await_that("a frame of the new size", || {
            // libpcap takes it for a super-frame until the new MTU is known, within a second.
            traffic::send_from(&lab, &lab.client, "pveth1", &long, "--pps=100");
            numbers_in(&arriving.frames(), 2).contains(&LONG)
        });

        // It gets a name by which the plan means it too, with another id.
        lab.host.run("ip link set veth1 down");
        lab.host.run("ip link set veth1 name web1");
        lab.host.run("ip link set web1 up");
        await_that("the new name", || farspan.log().contains("web1"));
        // libpcap ends a capture whose interface got another name while it was down.
        if engine().iter().any(|word| word == "pcap") {
            await_that("the capture by the new name", || farspan.log().contains("web1 is mirrored now"));
        }
        traffic::send_from(&lab, &lab.client, "pveth1", &numbered(1300..1600), "--pps=5000");
        await_numbers(&arriving, 1300..1600, 3);

        // One that the plan does not mean: what comes now is nobody's.
        let ends = || farspan.log().matches("web1 has gone").count();
        let before = ends();
        lab.host.run("ip link set web1 down");
        lab.host.run("ip link set web1 name other1");
        lab.host.run("ip link set other1 up");
        await_that("the end of its capture", || ends() > before);
        all_arrive(&lab, "veth0", 1600..1700, 2, &arriving);

        let ledger = farspan.stop();
        ledger.assert_lossless();
        arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
        let arrived = arriving.stop();
        assert_eq!(tshark::count(&arrived, "vxlan") as u64, ledger.only().sent, "sent is what arrived");
        let datagrams = crate::judge::frames_of(&arrived);
        let mut numbers = [numbers_in(&datagrams, 2), numbers_in(&datagrams, 3)].concat();
        numbers.retain(|&number| number != LONG);
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1700).collect::<Vec<_>>(), "every frame once, with {workers} workers");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_the_kernel_dropped_before_an_interface_vanished_stays_counted() {
    const FRAMES: u32 = 30_000;
    let lab = Lab::with_underlay_mtu(1600);
    plug(&lab, &lab.host, "veth0");
    plug(&lab, &lab.host, "veth1");
    let farspan =
        Farspan::mirror(&lab, &["-i", "veth*", "-B", "2MiB", "--to", "vxlan://192.0.2.2?vni=2", "udp port 9"]);
    let signal = |signal: &str| succeed(Command::new("kill").args([signal, &farspan.id().to_string()]));
    // While it stands still, the ring overflows and the interface vanishes.
    signal("-STOP");
    traffic::send_from(&lab, &lab.client, "pveth1", &numbered(0..FRAMES), "--topspeed");
    lab.await_tapped("veth1", FRAMES);
    lab.host.run("ip link delete veth1");
    signal("-CONT");
    await_that("the end of its capture", || farspan.log().contains("veth1 has gone"));
    let ledger = farspan.stop();
    assert!(ledger.kernel_dropped > 0, "{ledger:#?}");
    let seen = ledger.captured + ledger.kernel_dropped;
    assert_eq!(seen, u64::from(FRAMES), "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn an_interface_without_an_id_is_refused_and_others_go_on() {
    let lab = Lab::with_underlay_mtu(1600);
    plug(&lab, &lab.host, "veth1");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let farspan = Farspan::mirror(&lab, &["-i", "veth*", "--to", "vxlan://192.0.2.2?vni=veth1:1,veth2:2"]);
    plug(&lab, &lab.host, "veth3");
    await_that("the refusal", || farspan.log().contains("veth3 is not mirrored: "));
    plug(&lab, &lab.host, "veth2");
    await_capture(&lab.host, "veth2");
    all_arrive(&lab, "veth2", 0..100, 2, &arriving);
    assert_eq!(farspan.log().matches("veth3 is not mirrored").count(), 1, "{}", farspan.log());
    assert!(farspan.log().contains("has no VNI"), "{}", farspan.log());
    farspan.stop().assert_lossless();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_capture_file_learns_interfaces_while_it_is_written() {
    let lab = Lab::new();
    plug(&lab, &lab.host, "veth0");
    let file = lab.path("inner.pcapng");
    let farspan = Farspan::mirror(&lab, &["-i", "veth*", "--to", &format!("pcap:{}", file.display())]);
    for (name, count) in [("veth0", 10), ("veth1", 20), ("veth2", 30)] {
        if name != "veth0" {
            plug(&lab, &lab.host, name);
            await_capture(&lab.host, name);
        }
        traffic::send_from(&lab, &lab.client, &format!("p{name}"), &numbered(0..count), "--pps=5000");
        let is_theirs = format!("frame.interface_name == \"{name}\" && eth.src == 02:fa:00:00:00:01");
        await_that(name, || tshark::count(&file, &is_theirs) as u64 == u64::from(count));
    }
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(tshark::count(&file, "frame") as u64, ledger.only().sent);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_named_interface_that_vanishes_is_an_error_and_a_pattern_s_is_none() {
    let lab = Lab::with_underlay_mtu(1600);
    plug(&lab, &lab.host, "veth0");
    let farspan = Farspan::mirror(&lab, &["-i", "veth*", "--to", TO]);
    lab.host.run("ip link delete veth0");
    await_that("its end", || farspan.log().contains("veth0 has gone"));
    farspan.stop().assert_lossless();

    plug(&lab, &lab.host, "veth0");
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "-i", "veth*", "--to", "vxlan://192.0.2.2?vni=1"]);
    lab.host.run("ip link delete h0");
    await_that("its end", || farspan.log().contains("the capture on `h0` ended"));
    let (status, _) = farspan.stop_anyhow();
    assert_eq!(status.code(), Some(1), "what was named is missing");
}

/// The faults of interfaces and routes that a daemon lives through: after each, frames arrive again, and what was lost is
/// counted.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a_session_of_the_daemon_lives_through_whatever_happens_to_interfaces_and_routes() {
    // By its name, which is missed, and by a pattern, which waits.
    for (interface, transmit) in [("veth1", "socket"), ("veth[1]", "socket"), ("veth1", "xdp")] {
        live_through_everything(interface, transmit);
    }
}

fn live_through_everything(interface: &str, transmit: &str) {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "any", TUNNEL);
    let to = format!("vxlan://192.0.2.2?vni=7&transmit={transmit}");
    let daemon = Daemon::start(&lab, &session("pods", interface, &to));
    let mut number = 0;
    let mut frames_arrive = |what: &str| {
        number += 1;
        let frame = [traffic::udp_frame(number, 1, 300 + 4 * number as usize)];
        // Its UDP datagram, without Ethernet and IP, is as long as no other.
        let length = format!("udp.length == {} && udp.dstport == 9", 300 + 4 * number - 34);
        await_that(what, || {
            // What comes before the fault is over may be lost.
            traffic::send_from(&lab, &lab.client, "pveth1", &frame, "--pps=100");
            tshark::count(arriving.file(), &length) > 0
        });
    };
    let missing = |log: String| log.contains("there is no interface `veth1`") || log.contains("no interface matches");
    await_that("the missing interface to be told", || missing(daemon.log()));
    plug(&lab, &lab.host, "veth1");
    frames_arrive("an interface that appears");
    lab.host.run("ip link set veth1 down");
    lab.host.run("ip link set veth1 up");
    frames_arrive("an interface that went down and came up");
    lab.host.run("ip link delete veth1");
    plug(&lab, &lab.host, "veth1");
    frames_arrive("an interface that was made again");
    lab.host.run("ip link set veth1 mtu 1400");
    frames_arrive("an interface with another MTU");
    lab.host.run("ip address delete 192.0.2.1/24 dev u0");
    lab.host.run("ip address add 192.0.2.7/24 dev u0");
    frames_arrive("another address of the host");
    wire(&lab.host, "u1", &lab.analyzer, "a1");
    lab.host.link_up("u1", 1600, &["198.51.100.1/24"]);
    lab.analyzer.link_up("a1", 1600, &["198.51.100.2/24"]);
    lab.host.await_link("u1");
    lab.host.run("ip route add 192.0.2.2/32 via 198.51.100.2 dev u1");
    frames_arrive("a route through another device");
    let ledgers = daemon.stop();
    let ledger = &ledgers["pods"];
    assert!(ledger.captured > 0 && ledger.kernel_dropped == 0, "{ledger:#?}");
}

/// Everything that names the client's namespace finds it, and what is captured there leaves from the host's.
#[test]
#[ignore = "needs root: run scripts/test"]
fn other_network_namespaces_are_mirrored_by_name_path_process_and_container() {
    const CONTAINER: &str = "7c1d5e0a9b3f4826a1c0ffee00112233445566778899aabbccddeeff01234567";
    // Mounts that only this thread and what it starts sees.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
    succeed(Command::new("mount").args(["--make-rprivate", "/"]));
    let lab = Lab::with_underlay_mtu(1600);
    let process = lab.client.start("sleep 600", &lab.path("sleep.log"));
    await_that("the process inside", || {
        let of = |path: String| fs::read_link(path).ok();
        let inside = of(format!("/proc/{}/ns/net", process.id()));
        inside.is_some() && inside != of("/proc/self/ns/net".into())
    });
    // A process of a container, as far as /proc tells.
    let groups = lab.write("cgroup", format!("0::/system.slice/docker-{CONTAINER}.scope\n"));
    succeed(Command::new("mount").arg("--bind").arg(&groups).arg(format!("/proc/{}/cgroup", process.id())));
    let names = [
        lab.client.name().to_owned(),
        format!("/run/netns/{}", lab.client.name()),
        format!("pid:{}", process.id()),
        format!("container:{}", &CONTAINER[..12]),
    ];
    for netns in names {
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
        let arguments = ["--netns", &netns, "-i", "c0", "-i", "box*", "--to", "vxlan://192.0.2.2?vni=7"];
        wire(&lab.client, "box0", &lab.host, "pbox0");
        lab.client.link_up("box0", 1500, &[]);
        lab.host.link_up("pbox0", 1500, &[]);
        let farspan = Farspan::mirror(&lab, &arguments);
        traffic::send_from(&lab, &lab.host, "h0", &numbered(0..100), "--pps=5000");
        await_numbers(&arriving, 0..100, 7);
        // An interface that appears inside.
        wire(&lab.client, "box1", &lab.host, "pbox1");
        lab.client.link_up("box1", 1500, &[]);
        lab.host.link_up("pbox1", 1500, &[]);
        await_capture(&lab.client, "box1");
        traffic::send_from(&lab, &lab.host, "pbox1", &numbered(100..200), "--pps=5000");
        await_numbers(&arriving, 100..200, 7);
        farspan.stop().assert_lossless();
        arriving.stop();
        lab.client.run("ip link delete box0");
        lab.client.run("ip link delete box1");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_namespace_that_vanishes_is_let_go_and_mirrored_again_when_it_is_back() {
    let lab = Lab::with_underlay_mtu(1600);
    let furnish = || {
        let inside = Namespace::named("fpr-box-");
        plug(&lab, &inside, "veth0");
        inside
    };
    let inside = furnish();
    let netns = inside.name().to_owned();
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let farspan = Farspan::mirror(&lab, &["--netns", &netns, "-i", "veth*", "--to", TO]);
    await_capture(&inside, "veth0");
    all_arrive(&lab, "veth0", 0..100, 2, &arriving);

    drop(inside);
    // Who still had something open inside would keep the namespace alive, and so its end of the veth.
    await_that("the end of the namespace", || !lab.client.run("ip -br link").contains("pveth0"));
    let inside = furnish();
    await_capture(&inside, "veth0");
    all_arrive(&lab, "veth0", 100..200, 2, &arriving);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(total(&ledger.dropped), 0, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_keeps_farspan_out_of_a_namespace_is_told() {
    let lab = Lab::new();
    let mirror = |netns: &str, bounds: &[&str]| {
        let mut command = lab.host.command("setpriv");
        command.args(bounds).arg(binary()).args(["mirror", "--netns", netns, "-i", "c0", "--to", "pcap:/dev/null"]);
        let output = run(command.args(engine()));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = mirror(lab.client.name(), &["--bounding-set", "-sys_admin"]);
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("it takes the capability CAP_SYS_ADMIN"), "{said}");
    let (code, said) = mirror("no-such-namespace", &[]);
    assert_eq!(code, Some(66), "{said}");
    assert!(said.contains("there is no network namespace `no-such-namespace`"), "{said}");
    assert!(said.contains(lab.client.name()), "it says which there are: {said}");
    assert!(Path::new("/run/netns").join(lab.client.name()).exists());
}

/// The daemon opens its session anew then; in the foreground the capabilities for that have been given up.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a_mirror_in_the_foreground_says_that_the_way_has_another_source_address_and_keeps_its_own() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "vxlan://192.0.2.2?vni=1", "udp"]);
    lab.host.run("sysctl -qw net.ipv4.conf.u0.promote_secondaries=1");
    lab.host.run("ip address add 192.0.2.77/24 dev u0");
    lab.host.run("ip address delete 192.0.2.1/24 dev u0");
    let said = "destination 1 (vxlan://192.0.2.2?vni=1): the way there has another source address now, and frames still \
                leave from 192.0.2.1";
    await_that("the warning", || farspan.log().contains(said));
    lab.host.run("ip address add 192.0.2.1/24 dev u0");
    await_that("frames to arrive again", || {
        traffic::send(&lab, &numbered(0..10), "--pps=1000");
        !arriving.frames().is_empty()
    });
    assert!(
        arriving.frames().iter().all(|datagram| datagram[26..30] == [192, 0, 2, 1]),
        "from the address that it has"
    );
    farspan.stop();
}
