//! What a daemon lives through. After each fault, frames arrive again once the kernel knows that its cause is over, and
//! every frame that was lost has its reason. The whole table, and where each row is shown, by sockets and by AF_XDP where
//! they differ:
//!
//! | fault | shown by |
//! |---|---|
//! | interface missing, down and up, deleted and made again, of another MTU | `hotplug::a_session_of_the_daemon_…`, `daemon::counters_go_on_…` |
//! | the host's own address changed, route moved to another device | `hotplug::a_session_of_the_daemon_…` |
//! | the analyzer's name stands for another address | `daemon::an_analyzer_whose_name_…` |
//! | next hop unresolved, then resolved; analyzer gone, then back with another MAC address | [`a_next_hop_that_is_missing_…`](a_next_hop_that_is_missing_or_goes_costs_counted_frames_until_it_is_there) |
//! | router that does not answer, or whose link is down | [`a_router_that_…`](a_router_that_is_silent_or_without_its_link_is_used_again) |
//! | host unreachable and packet too big, by ICMP | [`a_router_s_reports_…`](a_router_s_reports_are_counted_and_followed) |
//! | port unreachable, by ICMP | `law::a_host_that_answers_port_unreachable_…` |
//! | underlay limited in its rate, its queue full (`ENOBUFS`) | [`what_the_queue_…`](what_the_queue_of_the_underlay_refuses_is_counted_until_it_takes_frames_again) |
//! | disk full | [`a_full_disk_…`](a_full_disk_costs_one_session_frames_and_the_other_none) |
//! | clock set forward and back | [`a_clock_…`](a_clock_that_is_set_keeps_no_frame_from_its_way) |
//! | SIGKILL and start | [`killed_…`](killed_at_work_it_starts_again_on_what_it_had), `daemon::killed_and_started_again_…` |
//! | control socket flooded, metrics scraped 100 times a second | `outside::a_flooded_control_socket_…`, `outside::scraped_a_hundred_times_…` |
//! | mistakes in a file that is read again | `daemon::a_file_with_a_mistake_…`, `outside::a_session_is_paused_…` |

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use crate::daemon::{Daemon, session, write};
use crate::farspan::{Ledger, binary, total};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{Lab, Namespace, await_that, succeed, wire};
use crate::spread::{route_to_a_host_behind_the_analyzer, several_analyzers};
use crate::traffic;

const TO: &str = "vxlan://192.0.2.2?vni=7";
/// What the analyzer captures.
const TUNNEL: &str = "udp dst port 4789";
/// How soon frames must arrive again after a fault: the daemon takes two seconds at most, and the rest is for sending,
/// capturing and reading on a machine that does other things.
const RECOVERY: Duration = Duration::from_secs(10);

/// A session that mirrors numbered frames and nothing else, so that its ledger can be held against their count.
fn plan(name: &str, to: &str, transmit: &str) -> String {
    let way = if to.contains("://") { format!("destination.ids.transmit = \"{transmit}\"\n") } else { String::new() };
    format!("{}{way}select.filter = \"udp dst port 9\"\n", session(name, "h0", to))
}

/// The numbered frames that a test has sent.
struct Numbered {
    next: u32,
    length: usize,
}

impl Numbered {
    const fn of_length(length: usize) -> Self {
        Self { next: 0, length }
    }

    /// Sends so many more, of 16 flows.
    fn send(&mut self, lab: &Lab, count: u32) {
        let numbers = self.next..self.next + count;
        self.next += count;
        let frames: Vec<_> = numbers.map(|number| traffic::udp_frame(number, 16, self.length)).collect();
        traffic::send(lab, &frames, "--pps=4000");
    }

    /// Sends until one of them arrives: what is sent before the fault is over may be lost.
    fn await_arrival(&mut self, lab: &Lab, at: &Capture, what: &str) {
        let (first, begun) = (self.next, Instant::now());
        await_that(&format!("frames to arrive {what}"), || {
            self.send(lab, 1);
            numbers_in(&at.frames()).last().is_some_and(|&last| last >= first)
        });
        let elapsed = begun.elapsed();
        println!("frames arrive {what} after {:.1} s", elapsed.as_secs_f64());
        assert!(elapsed < RECOVERY, "frames arrive {what} only after {elapsed:?}");
    }

    /// Asserts that a ledger has every one of them, with one fate each: those that it calls sent are in `arrived`.
    fn assert_accounted(&self, ledger: &Ledger, arrived: u64) {
        assert_eq!(ledger.captured + ledger.kernel_dropped, u64::from(self.next), "{ledger:#?}");
        assert_eq!(ledger.kernel_dropped, 0, "{ledger:#?}");
        let account = ledger.only();
        assert_eq!(account.sent, arrived, "sent is what arrived: {ledger:#?}");
    }
}

/// The numbers of the test's frames in captured packets, whatever is in front of them.
fn numbers_in(packets: &[Vec<u8>]) -> Vec<u32> {
    /// From the Ethernet source address of a frame to its number: EtherType, IPv4 and UDP lie between.
    const NUMBER: usize = 6 + 2 + 20 + 8;
    let number_of = |packet: &Vec<u8>| {
        let from = packet.windows(traffic::STRANGER.len()).rposition(|bytes| bytes == traffic::STRANGER)?;
        packet.get(from + NUMBER..)?.first_chunk().copied().map(u32::from_be_bytes)
    };
    packets.iter().filter_map(number_of).collect()
}

fn both_ways(test: impl Fn(&str)) {
    for transmit in ["socket", "xdp"] {
        println!("transmit = {transmit}");
        test(transmit);
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_next_hop_that_is_missing_or_goes_costs_counted_frames_until_it_is_there() {
    both_ways(|transmit| {
        let lab = several_analyzers();
        let mut frames = Numbered::of_length(300);
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
        lab.analyzer.run("ip address delete 192.0.2.2/24 dev a0");
        let daemon = Daemon::start(&lab, &plan("dmz", TO, transmit));
        frames.send(&lab, 200);
        lab.analyzer.run("ip address add 192.0.2.2/24 dev a0");
        frames.await_arrival(&lab, &arriving, "when the next hop answers for the first time");

        lab.analyzer.run("ip address delete 192.0.2.2/24 dev a0");
        await_that("the kernel to find that the analyzer is gone", || {
            frames.send(&lab, 20);
            lab.host.run("ip neigh show 192.0.2.2").contains("FAILED")
        });
        frames.send(&lab, 200);
        lab.analyzer.run("ip link set a0 address 02:00:00:00:00:77");
        lab.analyzer.run("ip address add 192.0.2.2/24 dev a0");
        frames.await_arrival(&lab, &arriving, "when the analyzer is back with another address of its card");
        let ledger = daemon.stop().remove("dmz").expect("it has a ledger");
        let arrived = arriving.stop();
        // What the kernel took in the moment in which it gave the next hop up, it dropped, and said so.
        let (account, in_capture) = (ledger.only(), tshark::count(&arrived, "vxlan") as u64);
        let lost = account.sent.saturating_sub(in_capture);
        assert!(lost <= account.icmp.host_unreachable, "{lost} were lost: {ledger:#?}");
        frames.assert_accounted(&ledger, in_capture + lost);
        assert!(total(&account.dropped) >= 200, "{ledger:#?}");
        let to_the_new_one =
            frames_of(&arrived).last().is_some_and(|datagram| datagram.starts_with(&[2, 0, 0, 0, 0, 0x77]));
        assert!(to_the_new_one, "the last datagram has the new address");
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_router_that_is_silent_or_without_its_link_is_used_again() {
    both_ways(|transmit| {
        let lab = Lab::with_underlay_mtu(1600);
        // Behind the lab's analyzer, which is a router here.
        let beyond = Namespace::named("fpr-beyond-");
        wire(&lab.analyzer, "r0", &beyond, "b0");
        lab.analyzer.link_up("r0", 1600, &["198.51.100.1/24"]);
        beyond.link_up("b0", 1600, &["198.51.100.2/24"]);
        lab.analyzer.await_link("r0");
        lab.analyzer.run("sysctl -qw net.ipv4.ip_forward=1");
        beyond.run("ip route add default via 198.51.100.1");
        lab.host.run("ip route add 198.51.100.0/24 via 192.0.2.2");
        let arriving = Capture::start(&lab, &beyond, "b0", TUNNEL);
        let mut frames = Numbered::of_length(300);

        // It does not answer who it is.
        lab.analyzer.run("ip link set a0 arp off");
        lab.host.run("ip neigh flush dev u0");
        let daemon = Daemon::start(&lab, &plan("dmz", "vxlan://198.51.100.2?vni=7", transmit));
        frames.send(&lab, 200);
        lab.analyzer.run("ip link set a0 arp on");
        frames.await_arrival(&lab, &arriving, "when a silent router answers");

        lab.analyzer.run("ip link set a0 down");
        frames.send(&lab, 200);
        lab.analyzer.run("ip link set a0 up");
        frames.await_arrival(&lab, &arriving, "when a router has its link again");
        let ledger = daemon.stop().remove("dmz").expect("it has a ledger");
        assert_eq!((ledger.captured, ledger.kernel_dropped), (u64::from(frames.next), 0), "{ledger:#?}");
        assert!(ledger.only().dropped["unreachable"] > 0, "{ledger:#?}");
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_router_s_reports_are_counted_and_followed() {
    both_ways(|transmit| {
        let lab = several_analyzers();
        route_to_a_host_behind_the_analyzer(&lab);
        // With its tunnel headers larger than the way behind the router will be.
        let mut frames = Numbered::of_length(1400);
        let (passing, arriving) =
            (Capture::start(&lab, &lab.analyzer, "a0", TUNNEL), Capture::start(&lab, &lab.analyzer, "r0", TUNNEL));
        let daemon = Daemon::start(&lab, &plan("far", "vxlan://203.0.113.9?vni=7", transmit));
        frames.await_arrival(&lab, &arriving, "through a router");

        lab.analyzer.run("ip neigh del 203.0.113.9 dev r0");
        let reports = Capture::start(&lab, &lab.host, "u0", "icmp[icmptype] == icmp-unreach");
        await_that("the router to report that the host is gone", || {
            frames.send(&lab, 20);
            !reports.frames().is_empty()
        });
        lab.analyzer.run("ip neigh replace 203.0.113.9 lladdr 02:00:00:00:00:99 dev r0 nud permanent");
        frames.await_arrival(&lab, &arriving, "when the host behind the router is back");

        lab.analyzer.run("ip link set r0 mtu 1300");
        frames.await_arrival(&lab, &arriving, "in pieces when the way behind the router is narrow");
        let ledger = daemon.stop().remove("far").expect("it has a ledger");
        reports.stop();
        frames.assert_accounted(&ledger, tshark::count(&passing.stop(), "vxlan") as u64);
        let account = ledger.only();
        assert!(account.icmp.host_unreachable > 0 && account.icmp.too_big > 0, "{ledger:#?}");
        // What was on its way to the kernel when the report came is too large for it.
        let refused = account.dropped.get("oversize").copied().unwrap_or(0);
        assert!(account.split_added > 0 && total(&account.dropped) == refused, "{ledger:#?}");
        let narrow =
            tshark::count(&arriving.stop(), "vxlan && ip.len#1 <= 1300 && ip.frag_offset#1 == 0 && ip.flags.mf#1 == 0");
        assert!(narrow >= 2, "a frame that was split arrives in two datagrams");
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_the_queue_of_the_underlay_refuses_is_counted_until_it_takes_frames_again() {
    // A queue that is too slow, and one that refuses everything; and the same without that. The first cuts what is longer
    // than its burst (`tbf_segment` in net/sched/sch_tbf.c), and calls a run sent if it took any piece of it: no runs.
    for [queue, remedy] in [
        ["tbf rate 1mbit burst 4kb limit 8kb", "tbf rate 1gbit burst 1mb limit 1mb"],
        ["pfifo limit 0", "pfifo limit 1000"],
    ] {
        both_ways(|transmit| {
            let lab = Lab::with_underlay_mtu(1600);
            let mut frames = Numbered::of_length(1000);
            let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
            let runs = if transmit == "socket" { "destination.ids.gso = \"off\"\n" } else { "" };
            let configuration = plan("dmz", TO, transmit) + runs;
            let daemon = Daemon::start(&lab, &configuration);
            frames.await_arrival(&lab, &arriving, "without a queue");
            lab.host.run(&format!("tc qdisc replace dev u0 root {queue}"));
            frames.send(&lab, 2000);
            // What it holds then is still sent.
            lab.host.run(&format!("tc qdisc change dev u0 root {remedy}"));
            frames.await_arrival(&lab, &arriving, "when the queue takes frames");
            let ledger = daemon.stop().remove("dmz").expect("it has a ledger");
            let refused = ledger.only().dropped.get("device_busy").copied().unwrap_or(0);
            // AF_XDP passes the queue by.
            assert_eq!(refused > 0, transmit == "socket", "{queue}: {ledger:#?}");
            assert_eq!(refused, total(&ledger.only().dropped), "{ledger:#?}");
            frames.assert_accounted(&ledger, tshark::count(&arriving.stop(), "vxlan") as u64);
        });
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_disk_costs_one_session_frames_and_the_other_none() {
    // A disk of 512 KiB that only this thread and what it starts sees.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
    succeed(Command::new("mount").args(["--make-rprivate", "/"]));
    let lab = Lab::with_underlay_mtu(1600);
    let disk = lab.path("disk");
    fs::create_dir(&disk).expect("the folder is writable");
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(&disk));
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 400 << 10]).expect("there is room");
    let file = disk.join("all.pcap");
    let mut frames = Numbered::of_length(400);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let record = plan("record", &format!("pcap:{}", file.display()), "socket");
    let daemon = Daemon::start(&lab, &[record, plan("dmz", TO, "socket")].concat());
    frames.send(&lab, 800);
    daemon.await_words("cannot write the capture file");
    fs::remove_file(&ballast).expect("the ballast is there");
    let first = frames.next;
    await_that("a frame in the file again", || {
        frames.send(&lab, 1);
        numbers_in(&frames_of(&file)).last().is_some_and(|&last| last >= first)
    });
    arriving.await_frames(frames.next as usize);
    let (_, ledgers) = daemon.stop_anyhow();
    frames.assert_accounted(&ledgers["dmz"], arriving.frames().len() as u64);
    ledgers["dmz"].assert_lossless();
    tshark::assert_sound(&file);
    frames.assert_accounted(&ledgers["record"], tshark::count(&file, "frame") as u64);
    let lost = ledgers["record"].only().dropped.get("write_failed").copied().unwrap_or(0);
    assert!(lost > 0, "{ledgers:#?}");
    succeed(Command::new("umount").arg(&disk));
}

/// The wall clock of a program, as many seconds beside everybody else's as a file says.
struct Clock<'a> {
    lab: &'a Lab,
}

impl Clock<'_> {
    /// Builds what stands between the program and its C library, and sets the clock right.
    fn of<'a>(lab: &'a Lab, command: &mut Command) -> Clock<'a> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/clock.c");
        let library = lab.path("clock.so");
        succeed(Command::new("cc").args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]).arg(&library).arg(source));
        let clock = Clock { lab };
        lab.write("clock", [0; 8]);
        command.env("LD_PRELOAD", &library).env("FARSPAN_TEST_CLOCK", lab.path("clock"));
        clock
    }

    /// Sets it so many seconds forward, or back.
    fn set(&self, seconds: i64) {
        // In place, because the program has the file mapped.
        let file = fs::File::options().write(true).open(self.lab.path("clock")).expect("the file is there");
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0).expect("the file is writable");
    }
}

/// The kernel stamps frames with the real time: to the program, whose clock was shifted, they are of another day, as they
/// are when the machine's clock is set between a decision and the frames that it is about.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a_clock_that_is_set_keeps_no_frame_from_its_way() {
    const DAY: i64 = 86_400;
    let lab = Lab::with_underlay_mtu(1600);
    let mut frames = Numbered::of_length(300);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    fs::create_dir(lab.path("files")).expect("the folder is writable");
    let series = format!("pcap:{}/all-{{time}}.pcap?rotate_size=64KiB", lab.path("files").display());
    let record = plan("record", &series, "socket");
    // By libpcap with two workers, which has a moment of its own from which on frames count.
    let shared = "source.engine = \"pcap\"\nsource.workers = 2\n";
    let configuration = |delay: &str| {
        format!("{record}{}source.delay = \"{delay}\"\n{shared}", without_engine(&plan("dmz", TO, "socket")))
    };
    let mut command = lab.host.command(binary());
    let clock = Clock::of(&lab, &mut command);
    command.args(["run", "--json", "-C"]).arg(write(&lab, &configuration("2ms")));
    let daemon = Daemon::start_command(&lab, command);
    frames.await_arrival(&lab, &arriving, "at the right time");
    for (shift, delay) in [(DAY, "3ms"), (-DAY, "4ms"), (0, "5ms")] {
        clock.set(shift);
        frames.await_arrival(&lab, &arriving, &format!("with a clock that is off by {shift} s"));
        frames.send(&lab, 200);
        // The moment of the exchange is a day away from the frames, and stays so.
        daemon.reload(&lab, &configuration(delay), "reloaded: changed dmz; 1 session went on");
        frames.await_arrival(&lab, &arriving, "after a reload");
    }
    let ledgers = daemon.stop();
    ledgers.values().for_each(Ledger::assert_lossless);
    assert!(ledgers["dmz"].captured > 0, "{ledgers:#?}");
    let files = fs::read_dir(lab.path("files")).expect("a folder").flatten();
    let recorded: Vec<u32> = files.flat_map(|file| numbers_in(&frames_of(&file.path()))).collect();
    frames.assert_accounted(&ledgers["record"], recorded.len() as u64);
    let each: BTreeSet<u32> = recorded.into_iter().collect();
    assert!(each.into_iter().eq(0..frames.next), "the session that nothing changed has every frame, once");
}

/// A plan that leaves the engine to who adds lines to it.
fn without_engine(plan: &str) -> String {
    plan.split_inclusive('\n').filter(|line| !line.starts_with("source.engine")).collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn killed_at_work_it_starts_again_on_what_it_had() {
    both_ways(|transmit| {
        let lab = Lab::with_underlay_mtu(1600);
        let mut frames = Numbered::of_length(300);
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
        let configuration = plan("dmz", TO, transmit);
        let mut daemon = Daemon::start(&lab, &configuration);
        for _ in 0..3 {
            frames.await_arrival(&lab, &arriving, "after a start");
            daemon.signal("KILL");
            drop(daemon);
            daemon = Daemon::start(&lab, &configuration);
        }
        let before = frames.next;
        frames.await_arrival(&lab, &arriving, "after the last start");
        let ledger = daemon.stop().remove("dmz").expect("it has a ledger");
        ledger.assert_lossless();
        assert_eq!(ledger.captured, u64::from(frames.next - before), "{ledger:#?}");
    });
}
