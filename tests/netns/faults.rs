//! What happens around a daemon, and that it goes on: the faults of the way to the analyzer, of its disk and of its clock.
//!
//! Every fault of this table costs frames at most while it lasts; each of them is counted, and afterwards frames arrive
//! again. `faults` is this file:
//!
//! | fault | test |
//! |---|---|
//! | interface down and up, deleted and made again, another MTU; another address of the host, a route by another device | `hotplug::a_session_of_the_daemon_lives_through_whatever_happens_to_interfaces_and_routes` |
//! | neighbour that does not answer, and then does; analyzer gone and back; ICMP unreachable; fragmentation needed | `faults::a_session_lives_through_whatever_happens_on_the_way_to_the_analyzer` |
//! | rate-limited underlay, whose full queue is `ENOBUFS` to a socket | `faults::a_full_queue_costs_what_it_refuses_and_no_more` |
//! | disk full | `faults::a_full_disk_costs_one_session_frames_and_the_other_none` |
//! | clock set forward and back, alone and while a session is replaced | `faults::a_clock_that_jumps_costs_no_frame` |
//! | control socket flooded; metrics scraped a hundred times a second | `outside::a_flooded_control_socket_costs_no_frame_and_still_answers`, `outside::scraped_a_hundred_times_a_second_under_traffic_the_last_page_is_the_ledger` |
//! | file with a mistake reloaded; killed and started again | `daemon::a_file_with_a_mistake_changes_nothing_and_every_mistake_is_told`, `daemon::killed_and_started_again_it_goes_on` |

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use crate::daemon::{Daemon, session, write};
use crate::farspan::{Ledger, binary, by_xdp, total};
use crate::judge::{Capture, tshark};
use crate::lab::{Lab, Namespace, await_that, succeed, wire};
use crate::traffic;

const TUNNEL: &str = "udp dst port 4789";
/// How soon frames must arrive again after a fault: the daemon takes two seconds at most, and the rest is for sending,
/// capturing and reading on a machine that does other things.
const RECOVERY: Duration = Duration::from_secs(10);

/// A session `fault` that mirrors what the tests send through `h0` to `to`.
fn mirror(to: &str) -> String {
    let transmit = if by_xdp() { "destination.ids.transmit = \"xdp\"\n" } else { "" };
    session("fault", "h0", to) + "select.filter = \"udp port 9\"\n" + transmit
}

/// Frames of which each has a length that no other has, so that it is known where it arrives.
struct Probes<'a> {
    lab: &'a Lab,
    sent: u16,
}

impl Probes<'_> {
    const LEAST: u16 = 100;

    /// Sends frames until one has arrived in `arriving`, and asserts that it did soon.
    fn arrive(&mut self, arriving: &Capture, after: &str) {
        self.sent += 1;
        let length = Self::LEAST + 4 * self.sent;
        let frame = [traffic::udp_frame(self.sent.into(), 1, length.into())];
        // Without Ethernet and IP.
        let seen = format!("udp.length == {} && udp.dstport == 9", length - 34);
        let since = Instant::now();
        await_that(&format!("a frame after: {after}"), || {
            traffic::send(self.lab, &frame, "--pps=100");
            tshark::count(arriving.file(), &seen) > 0
        });
        assert!(since.elapsed() < RECOVERY, "after {after} a frame arrived only after {:?}", since.elapsed());
    }

    /// Sends `frames` equal frames, of which some may be lost.
    fn lose(&self, frames: usize) {
        traffic::send(self.lab, &vec![traffic::udp_frame(0, 1, 90); frames], "--pps=500");
    }
}

/// Of the only destination of the session `fault`, by reason.
fn dropped(ledgers: &std::collections::BTreeMap<String, Ledger>, reason: &str) -> u64 {
    ledgers["fault"].only().dropped.get(reason).copied().unwrap_or(0)
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_session_lives_through_whatever_happens_on_the_way_to_the_analyzer() {
    let lab = Lab::with_underlay_mtu(1600);
    // Behind the lab's analyzer, which is a router here.
    let beyond = Namespace::named("fpr-beyond-");
    wire(&lab.analyzer, "r0", &beyond, "b0");
    lab.analyzer.link_up("r0", 1400, &["198.51.100.1/24"]);
    beyond.link_up("b0", 1400, &["198.51.100.2/24"]);
    lab.analyzer.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=10000");
    beyond.run("ip route add default via 198.51.100.1");
    lab.host.run("ip route add 198.51.100.0/24 via 192.0.2.2");
    let arriving = Capture::start(&lab, &beyond, "b0", TUNNEL);
    let mut probes = Probes { lab: &lab, sent: 0 };

    // The router does not answer who it is.
    lab.analyzer.run("ip link set a0 arp off");
    lab.host.run("ip neigh flush dev u0");
    let daemon = Daemon::start(&lab, &mirror("vxlan://198.51.100.2?vni=7"));
    probes.lose(200);
    lab.analyzer.run("ip link set a0 arp on");
    probes.arrive(&arriving, "a neighbour that did not answer");

    lab.analyzer.run("ip link set a0 down");
    probes.lose(50);
    lab.analyzer.run("ip link set a0 up");
    probes.arrive(&arriving, "a router that was gone");

    lab.analyzer.run("ip route add unreachable 198.51.100.2/32");
    probes.lose(50);
    lab.analyzer.run("ip route delete unreachable 198.51.100.2/32");
    probes.arrive(&arriving, "an analyzer that was reported unreachable");

    // What fits the first link and not the second: the router says so, and what is too long leaves as two from then on.
    let whole = [traffic::udp_frame(1, 1, 1400)];
    await_that("the path MTU to be learnt", || {
        traffic::send(&lab, &whole, "--pps=100");
        daemon.log().contains("path MTU is now 1400")
    });
    let before = tshark::count(arriving.file(), "vxlan");
    await_that("both parts of a frame", || {
        traffic::send(&lab, &whole, "--pps=100");
        tshark::count(arriving.file(), "vxlan") >= before + 2
    });
    probes.arrive(&arriving, "a smaller path MTU");

    let ledgers = daemon.stop();
    let ledger = &ledgers["fault"];
    assert!(dropped(&ledgers, "unreachable") > 0 && ledger.kernel_dropped == 0, "{ledger:#?}");
    assert!(ledger.only().split_added > 0, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_queue_costs_what_it_refuses_and_no_more() {
    const FRAMES: u32 = 3000;
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
    let daemon = Daemon::start(&lab, &mirror("vxlan://192.0.2.2?vni=7"));
    lab.host.run("tc qdisc replace dev u0 root tbf rate 10mbit burst 16kb limit 32kb");
    let frames: Vec<_> = (0..FRAMES).map(|number| traffic::udp_frame(number, 16, 400)).collect();
    traffic::send(&lab, &frames, "--mbps=100");
    lab.await_tapped("h0", FRAMES);
    await_that("the queue to run empty", || lab.host.run("tc -s qdisc show dev u0").contains("backlog 0b 0p"));
    lab.host.run("tc qdisc delete dev u0 root");
    Probes { lab: &lab, sent: 0 }.arrive(&arriving, "a queue that was full");

    let ledgers = daemon.stop();
    let account = ledgers["fault"].only();
    // AF_XDP passes the queue by.
    assert_eq!(dropped(&ledgers, "device_busy") > 0, !by_xdp(), "{account:#?}");
    arriving.await_frames(usize::try_from(account.sent).expect("a small number"));
    assert_eq!(tshark::count(&arriving.stop(), "vxlan") as u64, account.sent, "sent is what arrived: {account:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_disk_costs_one_session_frames_and_the_other_none() {
    const FRAMES: u32 = 3000;
    // A disk of 1 MiB that only this thread and what it starts sees.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
    succeed(Command::new("mount").args(["--make-rprivate", "/"]));
    let lab = Lab::with_underlay_mtu(1600);
    let disk = lab.path("disk");
    fs::create_dir(&disk).expect("the folder is writable");
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk));
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 600 << 10]).expect("there is room");
    let file = disk.join("record.pcap");
    let record = session("record", "h0", &format!("pcap:{}", file.display())) + "select.filter = \"udp port 9\"\n";
    let daemon = Daemon::start(&lab, &(record + &mirror("vxlan://192.0.2.2?vni=7")));
    let frames: Vec<_> = (0..FRAMES).map(|number| traffic::udp_frame(number, 4, 400)).collect();
    traffic::send(&lab, &frames, "--mbps=50");
    daemon.await_words("cannot write the capture file");
    lab.await_tapped("h0", FRAMES);
    fs::remove_file(&ballast).expect("the ballast is there");
    let late = [traffic::udp_frame(FRAMES, 4, 333)];
    let since = Instant::now();
    await_that("a frame in the file again", || {
        traffic::send(&lab, &late, "--pps=100");
        tshark::count(&file, "udp.length == 299") > 0
    });
    assert!(since.elapsed() < RECOVERY, "a frame was recorded again only after {:?}", since.elapsed());

    let (_, ledgers) = daemon.stop_anyhow();
    ledgers["fault"].assert_lossless();
    let (record, account) = (&ledgers["record"], ledgers["record"].only());
    assert_eq!(account.dropped.get("write_failed"), Some(&total(&account.dropped)), "{record:#?}");
    assert!(total(&account.dropped) > 0 && record.kernel_dropped == 0, "{record:#?}");
    tshark::assert_sound(&file);
    assert_eq!(tshark::count(&file, "frame") as u64, account.sent, "what is counted as written can be read");
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
fn a_clock_that_jumps_costs_no_frame() {
    const DAY: i64 = 86_400;
    for jump in [-DAY, DAY] {
        let lab = Lab::with_underlay_mtu(1600);
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNEL);
        let configuration = |vni: u32| {
            let beside = session("beside", "h0", "erspan2://192.0.2.2?session=7") + "select.filter = \"udp port 9\"\n";
            beside + &mirror(&format!("vxlan://192.0.2.2?vni={vni}"))
        };
        let mut command = lab.host.command(binary());
        let clock = Clock::of(&lab, &mut command);
        command.args(["run", "--json", "-C"]).arg(write(&lab, &configuration(1)));
        let daemon = Daemon::start_command(&lab, command);
        let mut probes = Probes { lab: &lab, sent: 0 };
        probes.arrive(&arriving, "the start");
        clock.set(jump);
        probes.arrive(&arriving, "a clock that jumped");
        // The moment of the exchange is a day away from the frames, and stays so.
        daemon.reload(&lab, &configuration(2), "reloaded: ");
        probes.arrive(&arriving, "a reload by a clock that jumped");
        clock.set(0);
        probes.arrive(&arriving, "a clock that was set right again");
        daemon.reload(&lab, &configuration(3), "reloaded: ");
        probes.arrive(&arriving, "a reload by the right clock");
        daemon.stop()["beside"].assert_lossless();
    }
}
