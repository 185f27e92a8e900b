//! Samples and limits: what is left out is left out whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{self, Daemon};
use crate::farspan::{Farspan, Ledger, binary};
use crate::judge::{Capture, Suricata, frames_of, tshark};
use crate::lab::{Disturbed, Lab, await_that, succeed, undisturbed};
use crate::pace::{Pace, now};
use crate::traffic::{self, Servers};

const VXLAN: &str = "vxlan://192.0.2.2?vni=42";

/// How many frames each TCP conversation has in each direction, by the client's port.
fn conversations(capture: &Path) -> BTreeMap<String, [usize; 2]> {
    let mut conversations: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for ports in tshark::fields(capture, "tcp.port == 80", &["tcp.srcport", "tcp.dstport"]) {
        let answers = usize::from(ports[0] == "80");
        conversations.entry(ports[answers].clone()).or_default()[answers] += 1;
    }
    conversations
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_sample_of_flows_has_both_directions_of_each_and_every_frame() {
    const REQUESTS: u32 = 400;
    let lab = Lab::with_underlay_mtu(1600);
    let _servers = Servers::start(&lab);
    let tapped = Capture::start(&lab, &lab.host, "h0", "tcp port 80");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let arguments = ["-i", "h0", "--sample", "1/4", "--workers", "2", "--to", "vxlan://192.0.2.2?vni=42", "tcp"];
    let farspan = Farspan::mirror(&lab, &arguments);
    traffic::requests(&lab, REQUESTS);
    await_that("every conversation to end", || {
        tshark::count(tapped.file(), "tcp.dstport == 80 && tcp.flags.fin == 1") >= REQUESTS as usize
    });
    let ledger = farspan.stop();
    ledger.assert_lossless();
    arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));

    let (all, sampled) = (conversations(&tapped.stop()), conversations(&arriving.stop()));
    assert_eq!(all.len(), REQUESTS as usize);
    for (port, frames) in &sampled {
        assert_eq!(all.get(port), Some(frames), "the conversation of port {port}");
    }
    // A quarter, with a standard deviation of 9.
    assert!((55..=145).contains(&sampled.len()), "{} of {REQUESTS}", sampled.len());
    assert_eq!(ledger.captured, ledger.only().sent + ledger.dropped["sampled_out"], "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_sample_of_frames_has_exactly_one_in_so_many() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let sample = ["-i", "h0", "--sample", "1/10", "--sample-by", "frame"];
    let farspan =
        Farspan::mirror(&lab, &[&sample[..], &["--to", "vxlan://192.0.2.2?vni=42", "udp", "port", "9"]].concat());
    let frames: Vec<_> = (0..500).map(|number| traffic::udp_frame(number, 16, 400)).collect();
    traffic::send(&lab, &frames, "--mbps=20");
    arriving.await_frames(50);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!((ledger.captured, ledger.only().sent, ledger.dropped["sampled_out"]), (500, 50, 450));
    assert_eq!(tshark::count(&arriving.stop(), "vxlan"), 50);
}

/// CPU time of all threads of a process, in nanoseconds (`/proc/PID/task/TID/schedstat`).
fn cpu_time(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("farspan runs");
    let of_thread = |task: fs::DirEntry| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(of_thread).sum()
}

/// Which part of a core the process uses meanwhile.
fn cpu_share(process: u32, meanwhile: Duration) -> f64 {
    let (start, before) = (Instant::now(), cpu_time(process));
    thread::sleep(meanwhile);
    #[allow(clippy::cast_precision_loss)]
    let used = (cpu_time(process) - before) as f64 / 1e9;
    used / start.elapsed().as_secs_f64()
}

/// Waits for the whole of a replay beside the test, and returns how fast it came and what `meanwhile` found.
fn while_sending<T>(lab: &Lab, frames: &[Vec<u8>], rate: &str, meanwhile: impl FnOnce() -> T) -> (Pace, T) {
    let file = lab.write("load.pcap", traffic::capture_file(frames));
    let sent = || {
        thread::scope(|scope| {
            let sending = scope.spawn(|| lab.client.run(&format!("tcpreplay -q -K -i c0 {rate} {}", file.display())));
            let found = meanwhile();
            sending.join().expect("tcpreplay ends");
            found
        })
    };
    Pace::of(&lab.host, "h0", sent)
}

/// Asserts that what was mirrored a second is as much as the limit allows, or as was offered where that is less. Flows that
/// were admitted go on while they exceed the limit by less than a fifth.
fn assert_limited(mirrored: f64, limit: f64, offered: f64) {
    let least = 0.6 * limit.min(offered);
    assert!((least..1.25 * limit).contains(&mirrored), "{mirrored} a second of {offered}, where {limit} are allowed");
}

/// Of what would have gone on, the part that did, as the ledger says.
#[allow(clippy::cast_precision_loss)]
fn kept(ledger: &Ledger) -> f64 {
    let shed = ledger.dropped.get("shed").copied().unwrap_or(0);
    let wanted = ledger.captured - (crate::farspan::total(&ledger.dropped) - shed);
    1.0 - shed as f64 / wanted as f64
}

/// What a mirror with a limit made of 5,000 frames a second, for six seconds, of 500 flows.
struct Mirrored {
    said: String,
    ledger: Ledger,
    arrived: PathBuf,
    pace: Pace,
}

/// How many flows the load of [`mirrored_with`] has, one frame after the other.
const FLOWS: u16 = 500;

fn mirrored_with(lab: &Lab, limit: &[&str], length: usize) -> Mirrored {
    let arriving = Capture::start(lab, &lab.analyzer, "a0", "udp dst port 4789");
    let arguments = [&["-i", "h0"], limit, &["--to", VXLAN, "udp", "port", "9"]].concat();
    let farspan = Farspan::mirror(lab, &arguments);
    let frames: Vec<_> = (0..30_000).map(|number| traffic::udp_frame(number, FLOWS, length)).collect();
    let (pace, ()) = while_sending(lab, &frames, "--pps=5000", || ());
    let said = farspan.log();
    let ledger = farspan.stop();
    ledger.assert_lossless();
    arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
    Mirrored { said, ledger, arrived: arriving.stop(), pace }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_limit_of_bandwidth_holds_at_the_analyzer_from_the_beginning() {
    const LIMIT: f64 = 4e6;
    /// Bytes of a frame, and of its outer IP packet.
    const LENGTHS: (usize, u16) = (500, 536);
    let lab = Lab::with_underlay_mtu(1600);
    // 20 Mbit/s.
    let Mirrored { said, ledger, arrived, pace } = mirrored_with(&lab, &["--limit-bandwidth", "4 Mbit/s"], LENGTHS.0);

    let datagrams = datagrams(&arrived);
    let begin = datagrams[0].0;
    let bits = |from, to| bits(&datagrams, begin + from, begin + to);
    let offered = |from, to| pace.a_second(begin + from, begin + to) * f64::from(LENGTHS.1) * 8.0;
    // All of the load would be 5.3 times the limit.
    assert!(bits(0.0, 0.1) < LIMIT * 0.1 * 4.5, "{} bits in the first tenth of a second", bits(0.0, 0.1));
    assert!(bits(0.0, 1.0) < LIMIT * 1.6, "{} bits in the first second", bits(0.0, 1.0));
    assert_limited(bits(1.0, 5.0) / 4.0, LIMIT, offered(1.0, 5.0));
    assert!(said.contains("WARN `limit.bandwidth` is reached: flows are left out"), "{said}");
    assert!(ledger.dropped["shed"] > 10_000, "{ledger:#?}");

    // A flow is there from its beginning to its end, or cut off once: none comes back in its middle.
    let mut last_seen: BTreeMap<u32, u32> = BTreeMap::new();
    for frame in traffic::of_stranger(frames_of(&arrived).iter().map(|datagram| datagram[50..].to_vec()).collect()) {
        let number = u32::from_be_bytes(*frame[42..].first_chunk().expect("it was made so"));
        let flow = number % u32::from(FLOWS);
        if let Some(before) = last_seen.insert(flow, number) {
            let missing = (number - before) / u32::from(FLOWS) - 1;
            assert!(missing < 10, "flow {flow} was gone for {missing} frames");
        }
    }
}

/// Outer bits of the datagrams that came between two times.
fn bits(datagrams: &[(f64, f64)], from: f64, to: f64) -> f64 {
    datagrams.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, bits)| bits).sum()
}

/// How many datagrams came a second between two times.
#[allow(clippy::cast_precision_loss)]
fn a_second(datagrams: &[(f64, f64)], from: f64, to: f64) -> f64 {
    datagrams.iter().filter(|(at, _)| (from..to).contains(at)).count() as f64 / (to - from)
}

/// When each datagram came, in seconds since 1970, and how many bits its outer packet has.
fn datagrams(capture: &Path) -> Vec<(f64, f64)> {
    let read = |fields: Vec<String>| {
        let length = fields[1].split(',').next().and_then(|length| length.parse::<f64>().ok());
        (fields[0].parse().expect("a time"), length.expect("a length") * 8.0)
    };
    tshark::fields(capture, "vxlan", &["frame.time_epoch", "ip.len"]).into_iter().map(read).collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_limit_of_the_rate_holds_at_the_analyzer() {
    const LIMIT: f64 = 1000.0;
    let lab = Lab::with_underlay_mtu(1600);
    let Mirrored { said, ledger, arrived, pace } = mirrored_with(&lab, &["--limit-rate", "1 kpps"], 200);
    let datagrams = datagrams(&arrived);
    let begin = datagrams[0].0;
    let (from, to) = (begin + 1.0, begin + 5.0);
    assert_limited(a_second(&datagrams, from, to), LIMIT, pace.a_second(from, to));
    assert!(said.contains("WARN `limit.rate` is reached: flows are left out"), "{said}");
    assert_eq!(ledger.captured, ledger.only().sent + ledger.dropped["shed"], "{ledger:#?}");
}

/// What the governor of a daemon's first session says of itself (`farspan status --json`).
fn governor(lab: &Lab) -> Value {
    let mut command = lab.host.command(binary());
    command.args(["status", "--json"]).env("FARSPAN_CONTROL__SOCKET", lab.path("control.sock"));
    let status: Value = serde_json::from_str(&succeed(&mut command)).expect("status --json is JSON");
    status["sessions"][0]["governor"].clone()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_mirror_makes_room_for_others_on_its_underlay_and_comes_back() {
    undisturbed(|slower| {
        // A veth says that it has 10 Gbit/s.
        let share = 0.002 / f64::from(slower);
        let limit = share * 10e9;
        let lab = Lab::with_underlay_mtu(1600);
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
        let session = daemon::session("one", "h0", VXLAN);
        let limited = format!("limit.underlay = \"{}%\"\nselect.filter = \"tcp port 80\"\n", share * 100.0);
        let daemon = Daemon::start(&lab, &format!("{session}{limited}"));
        // Ten thousand frames a second, 11 Mbit/s in their tunnels, as long as the rest takes.
        let frames = traffic::conversations_over_http(22_000 / slower);
        // Others send 16 Mbit/s, for eight seconds.
        let others = vec![traffic::numbered_frame(0, 1000); 16_000 / slower as usize];
        let other_bits = f64::from(16_000 / slower) * 8000.0;
        let others = lab.write("others.pcap", traffic::capture_file(&others));
        let (pace, (from, to)) = while_sending(&lab, &frames, &format!("--pps={}", 10_000 / slower), || {
            await_that("the mirror to run", || governor(&lab)["limits"][0]["measured"].as_f64() > Some(0.2 * share));
            assert_eq!(governor(&lab)["state"], "open");
            let from = now();
            lab.host.run(&format!("tcpreplay -q -K -i u0 --pps={} {}", 2000 / slower, others.display()));
            let to = now();
            await_that("new flows to be mirrored again", || governor(&lab)["admitted_flows"] == 1.0);
            (from, to)
        });
        let said = daemon.log();
        let ledgers = daemon.stop();
        ledgers["one"].assert_lossless();
        // Ethernet headers count on the interface.
        let bytes = u32::try_from(frames.iter().map(|frame| frame.len() + 50).sum::<usize>()).expect("some megabytes");
        let bits_of_one = f64::from(bytes) * 8.0 / f64::from(10 * (22_000 / slower));
        let others = other_bits / (to - from);
        let offered = pace.a_second(from + 3.0, to) * bits_of_one;
        if others > 0.9 * limit || others + offered < 1.1 * limit {
            return Err(Disturbed(format!("others sent {others} bit/s, and {offered} were to be mirrored")));
        }
        assert!(said.contains("in{session=\"one\"}: `limit.underlay` is reached: flows are left out"), "{said}");
        arriving.await_frames(usize::try_from(ledgers["one"].only().sent).expect("a small number"));
        let datagrams = datagrams(&arriving.stop());
        let (from, to) = (from + 3.0, to);
        let mirrored = bits(&datagrams, from, to) / (to - from) + a_second(&datagrams, from, to) * 14.0 * 8.0;
        let together = mirrored + others;
        assert!((0.85 * limit..1.1 * limit).contains(&together), "{together} bit/s, {mirrored} of the mirror");
        Ok(())
    });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_total_limit_that_a_reload_brings_or_changes_holds_for_sessions_that_run() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let sessions = [("one", 1), ("two", 2)].map(|(name, vni)| {
        let session = daemon::session(name, "h0", &format!("vxlan://192.0.2.2?vni={vni}"));
        format!("{session}select.filter = \"udp port 9\"\n")
    });
    let daemon = Daemon::start(&lab, &sessions.concat());
    let limited = |limit: &str| {
        let configuration = format!("[limit]\nrate = \"{limit}\"\n{}", sessions.concat());
        daemon.reload(&lab, &configuration, "reloaded: nothing changed; 2 sessions went on");
        let allowed = |limit: f64| governor(&lab)["limits"][0]["allowed"].as_f64() == Some(limit);
        await_that("the governor to know the limit", || allowed(if limit == "4 kpps" { 4000.0 } else { 1000.0 }));
        now()
    };
    // 4,000 frames a second for sixteen seconds, of 500 flows; each session has them all.
    let frames: Vec<_> = (0..64_000).map(|number| traffic::udp_frame(number, 500, 200)).collect();
    let (pace, (unlimited, some, few, end)) = while_sending(&lab, &frames, "--pps=4000", || {
        assert!(governor(&lab).is_null(), "nothing is limited");
        thread::sleep(Duration::from_secs(1));
        let from = now();
        thread::sleep(Duration::from_secs(1));
        let unlimited = (from, now());
        let some = limited("4 kpps");
        thread::sleep(Duration::from_secs(4));
        let few = limited("1 kpps");
        thread::sleep(Duration::from_secs(4));
        (unlimited, some, few, now())
    });
    let ledgers = daemon.stop();
    for ledger in ledgers.values() {
        ledger.assert_lossless();
        assert_eq!(
            (ledger.captured, ledger.kernel_dropped),
            (64_000, 0),
            "it went on through both reloads: {ledger:#?}"
        );
    }
    let sent: u64 = ledgers.values().map(|ledger| ledger.only().sent).sum();
    arriving.await_frames(usize::try_from(sent).expect("a small number"));
    let datagrams = datagrams(&arriving.stop());
    // Both sessions mirror each frame.
    let offered = |from, to| 2.0 * pace.a_second(from, to);
    let (from, to) = unlimited;
    let (before, came) = (a_second(&datagrams, from, to), offered(from, to));
    assert!((0.9 * came..1.1 * came).contains(&before), "{before} of {came} frames a second without a limit");
    for (limit, from, to) in [(4000.0, some + 2.0, few - 0.2), (1000.0, few + 2.0, end)] {
        assert_limited(a_second(&datagrams, from, to), limit, offered(from, to));
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn all_sessions_together_keep_to_the_total_limit() {
    const LIMIT: f64 = 4e6;
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let configuration = [
        "[limit]\nbandwidth = \"4 Mbit/s\"\n".to_owned(),
        daemon::session("one", "h0", "vxlan://192.0.2.2?vni=1"),
        daemon::session("two", "h0", "vxlan://192.0.2.2?vni=2"),
    ];
    let daemon = Daemon::start(&lab, &configuration.concat());
    let frames: Vec<_> = (0..30_000).map(|number| traffic::udp_frame(number, 500, 500)).collect();
    let (pace, ()) = while_sending(&lab, &frames, "--pps=5000", || ());
    let said = daemon.log();
    for session in ["one", "two"] {
        assert!(said.contains(&format!("in{{session=\"{session}\"}}: `total limit.bandwidth` is reached")), "{said}");
    }
    let ledgers = daemon.stop();
    let sent: u64 = ledgers.values().map(|ledger| ledger.only().sent).sum();
    arriving.await_frames(usize::try_from(sent).expect("a small number"));
    let datagrams = datagrams(&arriving.stop());
    let begin = datagrams[0].0;
    let (from, to) = (begin + 1.5, begin + 5.5);
    // Both sessions mirror each frame, in outer packets of 536 bytes.
    assert_limited(bits(&datagrams, from, to) / (to - from), LIMIT, 2.0 * pace.a_second(from, to) * 536.0 * 8.0);
}

/// How many bytes each packet ring of the tapped host has, as `ss` tells it.
fn rings(lab: &Lab) -> Vec<u64> {
    let told = lab.host.run("ss --no-header --packet --extended");
    let number = |ring: &str, name: &str| {
        let digits = ring.split_once(name)?.1.split([',', ')']).next()?;
        digits.parse::<u64>().ok()
    };
    let ring = |line: &str| Some(number(line, "blk_size:")? * number(line, "blk_nr:")?);
    told.lines().filter_map(ring).collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_reload_that_lowers_the_total_of_memory_gives_sessions_that_run_smaller_buffers_without_a_gap() {
    const FRAMES: u32 = 20_000;
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let session = daemon::session("one", "h0", VXLAN);
    let configuration = format!("{session}select.filter = \"udp port 9\"\n");
    let daemon = Daemon::start(&lab, &configuration);
    assert_eq!(rings(&lab), [24 << 20]);
    let frames: Vec<_> = (0..FRAMES).map(|number| traffic::udp_frame(number, 1, 200)).collect();
    while_sending(&lab, &frames, "--pps=4000", || {
        arriving.await_frames(1000);
        let lowered = format!("[limit]\nmemory = \"3MiB\"\n{configuration}");
        daemon.reload(&lab, &lowered, "reloaded: nothing changed; 1 session went on");
        await_that("the smaller ring alone", || rings(&lab) == [3 << 20]);
    });
    arriving.await_frames(FRAMES as usize);
    let ledger = daemon.stop().remove("one").expect("the session has a ledger");
    ledger.assert_lossless();
    assert_eq!(ledger.captured, u64::from(FRAMES), "one account for both rings: {ledger:#?}");
    // Around the moment of the change one of the new ring may overtake those of the old one.
    let arrived: BTreeSet<_> = frames_of(&arriving.stop()).iter().map(|frame| frame[50..].to_vec()).collect();
    assert!(arrived == frames.into_iter().collect(), "each frame arrives once");
}

/// What a run with a fifth of the CPU came to.
#[derive(Debug)]
struct Governed {
    /// Parts of a core: what the mirror takes without a limit, what it may take, what it took.
    unlimited: f64,
    allowed: f64,
    taken: f64,
    /// Parts of the frames: as the ledger says, and at the analyzer.
    kept: f64,
    arrived: f64,
    /// Conversations of which the analyzer saw anything, and those that raised their alert.
    seen: usize,
    alerts: u64,
}

/// Mirrors conversations with a fifth of the CPU time that it would take.
fn governed(seconds: u32, slower: u32) -> Result<Governed, Disturbed> {
    // The more frames a second, the less of the CPU time is for waking up.
    let frames_a_second = [20_000, 100_000][usize::from(traffic::full())] / slower;
    let rate = format!("--pps={frames_a_second}");
    let lab = Lab::with_underlay_mtu(1600);
    let plain = ["-i", "h0", "-B", "64MiB", "--to", VXLAN, "tcp", "port", "80"];
    let farspan = Farspan::mirror(&lab, &plain);
    let some = traffic::conversations_over_http(frames_a_second / 10 * 4);
    let (_, unlimited) = while_sending(&lab, &some, &rate, || {
        thread::sleep(Duration::from_millis(500));
        cpu_share(farspan.id(), Duration::from_secs(3))
    });
    farspan.stop();

    let allowed = (unlimited / 5.0 * 1000.0).round() / 1000.0;
    let rules = "alert http any any -> any any (msg:\"a request\"; flow:established,to_server; http.uri; content:\"/evil\"; sid:1;)\n";
    let settings = ["af-packet.1.ring-size=60000", "af-packet.1.threads=1"];
    let suricata = Suricata::start(&lab, rules, &settings);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let limit = format!("{:.1}% of a core", allowed * 100.0);
    let farspan = Farspan::mirror(&lab, &[&["--limit-cpu", &limit], &plain[..]].concat());
    let conversations = traffic::conversations_over_http(frames_a_second / 10 * seconds);
    let (_, taken) = while_sending(&lab, &conversations, &rate, || {
        thread::sleep(Duration::from_secs(4));
        cpu_share(farspan.id(), Duration::from_secs(u64::from(seconds) - 6))
    });
    let said = farspan.log();
    assert!(said.contains("`limit.cpu` is reached: flows are left out"), "{said}");
    let ledger = farspan.stop();
    if ledger.kernel_dropped != 0 {
        return Err(Disturbed(format!("the kernel dropped {} frames before farspan", ledger.kernel_dropped)));
    }
    ledger.assert_lossless();
    let sent = usize::try_from(ledger.only().sent).expect("a small number");
    arriving.await_frames(sent);
    let capture = arriving.stop();
    let flows: BTreeSet<(String, String)> = tshark::fields(&capture, "vxlan && tcp", &["ip.addr", "tcp.port"])
        .into_iter()
        .map(|fields| {
            let client = fields[0].split(',').skip(2).find(|address| address.starts_with("10.9.")).map(str::to_owned);
            let port = fields[1].split(',').find(|&port| port != "80").map(str::to_owned);
            (client.unwrap_or_default(), port.unwrap_or_default())
        })
        .collect();
    let findings = suricata.stop();
    let dropped = findings.counter(["capture", "kernel_drops"]);
    if dropped != 0 {
        return Err(Disturbed(format!("Suricata lost {dropped} frames itself")));
    }
    #[allow(clippy::cast_precision_loss)]
    let arrived = tshark::count(&capture, "vxlan && tcp") as f64 / conversations.len() as f64;
    let alerts = findings.alerts.get(&1).copied().unwrap_or(0);
    Ok(Governed { unlimited, allowed, taken, kept: kept(&ledger), arrived, seen: flows.len(), alerts })
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn with_a_fifth_of_the_cpu_time_the_analyzer_sees_fewer_conversations_but_whole_ones() {
    let found = undisturbed(|slower| governed(20, slower));
    println!("{found:#?}");
    let Governed { unlimited, allowed, taken, kept, arrived, seen, alerts, .. } = found;
    assert!(taken < unlimited, "{found:#?}");
    assert!((kept - arrived).abs() < 0.02, "{found:#?}");
    // Where others are at work, waking and receiving alone can cost more than a fifth: then hardly a flow is left, and those
    // that are were cut when the window shut. The full matrices are for a quiet machine.
    if traffic::full() || seen > 500 {
        assert!(taken < 1.5 * allowed || !traffic::full(), "{found:#?}");
        assert!(seen > 500, "{found:#?}");
        #[allow(clippy::cast_precision_loss)]
        let complete = alerts as f64 / seen as f64;
        assert!(complete > if traffic::full() { 0.99 } else { 0.9 }, "{complete}: {found:#?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn workers_stand_back_as_they_are_told() {
    let lab = Lab::new();
    let arguments =
        ["-i", "h0", "--nice", "11", "--scheduling", "batch", "--cpus", "0", "--workers", "2", "--to", VXLAN];
    let farspan = Farspan::mirror(&lab, &arguments);
    let tasks = format!("/proc/{}/task", farspan.id());
    let scheduled = || {
        let threads = fs::read_dir(&tasks).into_iter().flatten().flatten().filter_map(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
            // proc_pid_stat(5): nice is field 19, the policy field 41; 3 is SCHED_BATCH.
            let fields: Vec<&str> = fields.split_whitespace().collect();
            let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned();
            name.starts_with("worker-").then(|| format!("{name} {} {} {cpus}", fields[16], fields[38]))
        });
        threads.collect::<BTreeSet<_>>()
    };
    let expected: BTreeSet<String> = ["worker-0 11 3 0", "worker-1 11 3 0"].map(str::to_owned).into();
    await_that("two workers that stand back", || scheduled() == expected);
    farspan.stop().assert_lossless();
}

/// How often the first thread of a process, which is its control plane, has run.
fn runs(process: u32) -> u64 {
    let schedstat = fs::read_to_string(format!("/proc/{process}/task/{process}/schedstat")).expect("farspan runs");
    schedstat.split_whitespace().nth(2).and_then(|runs| runs.parse().ok()).expect("a number")
}

/// A governor looks ten times a second. Without frames it does not, and with the first ones it does again.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a_governor_rests_while_nothing_comes_and_limits_what_comes_then() {
    const LIMIT: usize = 200;
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let arguments = ["-i", "h0", "--limit-rate", "200pps", "--limit-cpu", "90%", "--to", VXLAN, "udp", "port", "9"];
    let farspan = Farspan::mirror(&lab, &arguments);
    await_that("the governor to rest", || {
        let before = runs(farspan.id());
        thread::sleep(Duration::from_secs(1));
        runs(farspan.id()) - before < 6
    });
    let frames: Vec<_> = (0..2000 * 7).map(|number| traffic::udp_frame(number, 500, 120)).collect();
    traffic::send(&lab, &frames, "--pps=2000");
    let ledger = farspan.stop();
    arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
    let times = tshark::values(&arriving.stop(), "vxlan", "frame.time_relative");
    let late = times.iter().filter(|time| time.parse::<f64>().is_ok_and(|time| (2.0..6.0).contains(&time))).count();
    assert!(2 * late <= 3 * LIMIT * 4, "{} frames a second, where {LIMIT} are allowed", late / 4);
    assert!(late >= LIMIT / 2, "{late} frames in four seconds");
}
