//! What others can make farspan take of the host's memory: by interfaces that appear, by datagrams with gaps. /proc is the judge.

use std::fs;

use crate::daemon::Daemon;
use crate::farspan::{Farspan, binary};
use crate::identities::{descriptors, each, make};
use crate::lab::{Lab, await_some, await_that, succeed};

/// Sends GRE datagrams with 64,000 bytes each to an address: first some in order, then those with every other number.
const SEND: &str = r#"
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
frame = b"\xff" * 6 + b"\x02\0\0\0\0\7" + b"\x88\xb5" + b"\x5a" * 63986
first, count, step = map(int, sys.argv[2:])
for n in range(count):
    s.sendto(struct.pack("!HHI", 0x1000, 0x6558, first + n * step) + frame, (sys.argv[1], 0))
    time.sleep(0.001)
"#;

#[test]
#[ignore = "needs root: run scripts/test"]
fn a17_frames_that_wait_for_their_order_take_no_more_memory_than_their_part_of_the_buffer() {
    /// KiB that may come beside the mebibyte that is a quarter of the buffer: spare memory and the allocator's.
    const BESIDE: u64 = 6 << 10;
    let lab = Lab::with_underlay_mtu(65_535);
    let to = ["--from", "gre://0.0.0.0", "--reorder", "1s", "-B", "4MiB", "--to", "pcap:/dev/null"];
    let farspan = Farspan::receive(&lab, &lab.analyzer, &to);
    let script = lab.write("gre.py", SEND);
    let send = |first: u32, count: u32, step: u32| {
        lab.host.run(&format!("python3 {} 192.0.2.2 {first} {count} {step}", script.display()));
        await_that("an empty receive buffer", || {
            let sockets = lab.analyzer.run("cat /proc/net/raw");
            // sl local_address rem_address st tx_queue:rx_queue …
            let queued = |line: &str| line.split_whitespace().nth(4).map(|queues| queues.ends_with(":00000000"));
            sockets.lines().skip(1).all(|line| queued(line).unwrap_or(true))
        });
    };
    // What is claimed once is there: memory for the datagrams of one call, and some that waited.
    send(0, 300, 1);
    let before = status_of(farspan.id(), "VmRSS");
    send(302, 1500, 2);
    let peak = farspan.peak_memory();
    let ledger = farspan.stop();
    assert!(ledger.captured > 1000, "{ledger:#?}");
    assert!(peak <= before + (1 << 10) + BESIDE, "resident: {before} KiB, then {peak} KiB");
}

/// Kilobytes of a line of `/proc/PID/status`.
fn status_of(pid: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).expect("proc(5) has it")
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a08_hundreds_of_interfaces_take_no_more_memory_than_the_limit() {
    const COUNT: u32 = 300;
    /// KiB beside the rings: tables of the kernel's counters, code that had not run.
    const BESIDE: u64 = 24 << 10;
    let lab = Lab::new();
    let configuration = "[limit]\nmemory = \"16MiB\"\n[session.a]\n\
         source = { interface = \"hxd*\", buffer = \"2MiB\" }\ndestination.b.to = \"pcap:/dev/null\"\n";
    let daemon = Daemon::start(&lab, configuration);
    let (resident, open) = (status_of(daemon.id(), "VmRSS"), descriptors(daemon.id()));
    make(&lab, 1..=COUNT);
    each(&lab, &lab.host, 1..=COUNT, |number| format!("link set hxd{number} up"));
    daemon.await_words("no further interface is mirrored");
    // What is refused is tried at every look: a second one changes nothing.
    lab.host.run("ip link set hxd300 down");
    lab.host.run("ip link set hxd300 up");
    let session = || -> serde_json::Value {
        let mut command = lab.host.command(binary());
        command.args(["status", "--json"]).env("FARSPAN_CONTROL__SOCKET", lab.path("control.sock"));
        let mut view: serde_json::Value =
            serde_json::from_str(&succeed(&mut command)).expect("`status --json` prints JSON");
        view["sessions"][0].take()
    };
    // How many are captured, and how many have no room. Those that are being opened are neither.
    let counts = || {
        let session = session();
        let captured = session["interfaces"].as_array().map_or(0, Vec::len);
        (
            captured,
            session["refused_for_room"].as_u64().map_or(0, |refused| usize::try_from(refused).expect("a few hundred")),
        )
    };
    let captured = await_some("each interface to be captured or refused", || {
        let (captured, refused) = counts();
        (captured + refused == COUNT as usize && refused > 200).then_some(captured)
    });
    assert!((2..=32).contains(&captured), "{captured} interfaces are captured: 16 MiB are 32 rings of 512 KiB");
    let sockets = lab.host.run("cat /proc/net/packet").lines().count() - 1;
    assert_eq!(sockets, captured, "packet sockets");
    let (now, now_open) = (status_of(daemon.id(), "VmRSS"), descriptors(daemon.id()));
    assert!(now <= resident + (16 << 10) + BESIDE, "resident: {resident} KiB, then {now} KiB");
    assert!(now_open <= open + captured + 8, "descriptors: {open}, then {now_open}");
    assert_eq!(daemon.log().matches("no further interface is mirrored").count(), 1, "{}", daemon.log());

    // Each refusal is counted once, and the count stays.
    let refused = || -> u64 {
        let mut command = lab.host.command(binary());
        command.args(["status", "--json"]).env("FARSPAN_CONTROL__SOCKET", lab.path("control.sock"));
        let view: serde_json::Value =
            serde_json::from_slice(&crate::farspan::run(&mut command).stdout).unwrap_or_default();
        view["sessions"][0]["ledger"]["refused_interfaces"].as_u64().unwrap_or(0)
    };
    await_that("the counter of refusals", || refused() >= u64::from(COUNT) - captured as u64);
    let before = refused();

    // Who goes makes room.
    each(&lab, &lab.host, 1..=COUNT - 10, |number| format!("link delete hxd{number}"));
    await_that("a capture of each of the ten that are left", || counts() == (10, 0));
    assert!(refused() >= before && before <= u64::from(2 * COUNT), "{before}, then {}", refused());
    daemon.stop();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a08_a_session_has_no_more_interfaces_than_it_may() {
    let lab = Lab::new();
    make(&lab, 1..=9);
    for number in 1..=6 {
        lab.host.link_up(&format!("hxd{number}"), 1500, &[]);
    }
    let farspan = Farspan::mirror(&lab, &["-i", "hxd*", "--max-interfaces", "4", "--to", "pcap:/dev/null"]);
    for number in 7..=9 {
        lab.host.link_up(&format!("hxd{number}"), 1500, &[]);
    }
    let captured = || lab.host.run("cat /proc/net/packet").lines().count() - 1;
    await_that("a refusal", || farspan.log().contains("`source.max_interfaces` allows"));
    assert_eq!(captured(), 4);
    lab.host.run("ip link delete hxd1");
    await_that("another one in its place", || farspan.log().matches("is mirrored now").count() == 1);
    assert_eq!(captured(), 4);
    farspan.stop();
}
