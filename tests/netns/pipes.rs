//! What is received goes straight into an analyzer's standard input, as it comes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::encapsulation::{ERSPAN_3, Underlay, VXLAN};
use crate::farspan::{Farspan, Ledger, binary, replay, total};
use crate::judge::suricata::{STOCK, alerts_of};
use crate::judge::{frames_of, tshark};
use crate::lab::{Lab, Process, await_that, succeed};
use crate::traffic::{self, HTTP_DNS_TLS, RULES, Servers};

/// Room for every frame in its tunnel.
const WIDE_MTU: u32 = 1700;

/// `farspan receive --from … --to pcap:- | program`, both running.
struct Pipe {
    farspan: Process,
    reader: Process,
    log: PathBuf,
}

impl Pipe {
    /// Starts both at the analyzer, and waits until farspan receives. What the program prints goes to `printed`.
    fn start(lab: &Lab, endpoint: &str, program: &[&str], printed: &Path) -> Self {
        let log = lab.path("receive.log");
        let (output, input) = io::pipe().expect("a pipe");
        let printed = File::create(printed).expect("the folder is writable");
        let mut command = lab.analyzer.command(program[0]);
        command.args(&program[1..]).stdout(printed.try_clone().expect("a file can be cloned")).stderr(printed);
        let reader = Process::start_reading(command, Stdio::from(output));
        let mut command = lab.analyzer.command(binary());
        command
            .args(["receive", "--json", "--from", endpoint, "--to", "pcap:-"])
            .stdout(Stdio::from(input))
            .stderr(File::create(&log).expect("the folder is writable"));
        let mut pipe = Self { farspan: Process::start(command), reader, log };
        await_that("farspan's start line", || {
            assert!(pipe.farspan.ended().is_none(), "{}", pipe.said());
            pipe.said().contains("receiving ")
        });
        pipe
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends farspan, and with it the program's input; both end well. Standard output has the frames, so that the ledger
    /// stands in the log.
    fn stop(mut self) -> Ledger {
        let status = self.farspan.interrupt();
        assert!(status.success(), "{status}\n{}", self.said());
        await_that("the reader to end with its input", || {
            self.reader.ended().is_some_and(|status| {
                assert!(status.success(), "{status}");
                true
            })
        });
        self.ledger()
    }

    fn ledger(&self) -> Ledger {
        let said = self.said();
        Ledger::lawful(said.lines().rfind(|line| line.starts_with('{')).expect("the ledger stands in the log"))
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn tshark_reads_live_what_is_received() {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let printed = lab.path("tshark");
    let endpoint = ERSPAN_3.endpoint(Underlay::V4);
    let tshark = ["tshark", "-n", "-l", "-r", "-", "-T", "fields", "-e", "frame.len"];
    let pipe = Pipe::start(&lab, &endpoint, &tshark, &printed);
    let frames: Vec<_> = (0..300).map(|number| traffic::udp_frame(number, 4, 60 + number as usize * 4)).collect();
    mirror(&lab, &frames, &ERSPAN_3.url(Underlay::V4));
    // While farspan goes on receiving.
    let lengths = || -> Vec<usize> {
        let printed = fs::read_to_string(&printed).unwrap_or_default();
        printed.lines().filter_map(|line| line.trim().parse().ok()).collect()
    };
    await_that("every frame in tshark", || lengths().len() >= frames.len());
    pipe.stop().assert_lossless();
    let mut lengths = lengths();
    lengths.sort_unstable();
    assert_eq!(lengths, frames.iter().map(Vec::len).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn suricata_alerts_live_about_what_is_received() {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let _servers = Servers::start(&lab);
    let rules = lab.write("suricata.rules", RULES);
    let folder = lab.path("suricata");
    fs::create_dir(&folder).expect("the folder is writable");
    let [rules, folder] = [&rules, &folder].map(|path| path.to_str().expect("a path in UTF-8"));
    let suricata = ["suricata", "-c", STOCK, "-S", rules, "-l", folder, "-r", "/dev/stdin"];
    // ERSPAN III, which Suricata does not decode by itself.
    let pipe = Pipe::start(&lab, &ERSPAN_3.endpoint(Underlay::V4), &suricata, &lab.path("suricata.console"));
    let mirror = Farspan::mirror(&lab, &["-i", "h0", "--to", &ERSPAN_3.url(Underlay::V4)]);
    await_that("alerts while farspan receives", || {
        Servers::converse(&lab);
        let alerts = alerts_of(Path::new(folder));
        HTTP_DNS_TLS.iter().all(|signature| alerts.contains_key(signature))
    });
    mirror.stop().assert_lossless();
    pipe.stop().assert_lossless();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_reader_that_has_seen_enough_ends_the_session_well() {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let first = lab.path("first");
    let mut pipe = Pipe::start(&lab, &VXLAN.endpoint(Underlay::V4), &["head", "-c", "5000"], &first);
    let frames: Vec<_> = (0..200).map(|number| traffic::udp_frame(number, 4, 500)).collect();
    let mut status = None;
    await_that("farspan to end when nobody reads any more", || {
        mirror(&lab, &frames, &VXLAN.url(Underlay::V4));
        status = pipe.farspan.ended();
        status.is_some()
    });
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", pipe.said());
    assert_eq!(fs::metadata(&first).expect("head has written").len(), 5000);
    let ledger = pipe.ledger();
    let file = ledger.only();
    assert!(file.dropped.get("reader_gone").is_some_and(|&gone| gone > 0), "{ledger:#?}");
    assert_eq!(file.sent + total(&file.dropped), ledger.captured);
}

/// A live mirror of `h0` to standard output, which `cat` reads into a file, and to a capture file beside it.
struct Beside {
    farspan: Process,
    reader: Process,
    log: PathBuf,
    read: PathBuf,
    file: PathBuf,
}

impl Beside {
    fn start(lab: &Lab) -> Self {
        let [log, read, file] = ["mirror.log", "read.pcap", "file.pcap"].map(|name| lab.path(name));
        let (output, input) = io::pipe().expect("a pipe");
        let mut cat = Command::new("cat");
        cat.stdout(File::create(&read).expect("the folder is writable"));
        let reader = Process::start_reading(cat, Stdio::from(output));
        let mut command = lab.host.command(binary());
        command.args(["mirror", "--json", "-i", "h0", "-B", "4MiB", "--to", "pcap:-", "--to"]);
        command.args([&format!("pcap:{}", file.display()), "udp dst port 9"]).stdout(Stdio::from(input));
        command.stderr(File::create(&log).expect("the folder is writable"));
        let beside = Self { farspan: Process::start(command), reader, log, read, file };
        await_that("farspan's start line", || beside.said().contains("mirroring "));
        // The reader has had the header: it reads, until it is stopped.
        await_that("the header", || fs::metadata(&beside.read).is_ok_and(|read| read.len() == 24));
        beside
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal_reader(&self, signal: &str) {
        succeed(Command::new("kill").args([&format!("-{signal}"), &self.reader.id().to_string()]));
    }

    /// Sends so many frames of 1,000 bytes, and waits until farspan has captured them.
    fn send(&self, lab: &Lab, count: u32) {
        let frames: Vec<_> = (0..count).map(|number| traffic::udp_frame(number, 16, 958)).collect();
        traffic::send(lab, &frames, "--pps=5000");
        lab.await_tapped("h0", count);
        // As many as came: the kernel may have dropped some on a busy machine.
        let mut before = 0;
        await_that("the file to have them", || {
            std::thread::sleep(Duration::from_millis(300));
            let length = fs::metadata(&self.file).map_or(0, |file| file.len());
            std::mem::replace(&mut before, length) == length && length > 24
        });
    }

    /// Ends farspan, then lets the reader read to the end. How long the first took, and the ledger.
    fn stop(&mut self) -> (Duration, Ledger) {
        let begun = Instant::now();
        let status = self.farspan.interrupt();
        let took = begun.elapsed();
        assert!(status.success(), "{status}\n{}", self.said());
        self.signal_reader("CONT");
        await_that("the reader to end", || self.reader.ended().is_some());
        let said = self.said();
        (took, Ledger::lawful(said.lines().rfind(|line| line.starts_with('{')).expect("the ledger stands in the log")))
    }
}

/// A3: the judges are `cat`, tshark and the clock.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a03_a_reader_that_stops_costs_no_other_destination_a_frame_and_does_not_keep_the_end() {
    let lab = Lab::new();
    let mut beside = Beside::start(&lab);
    beside.signal_reader("STOP");
    beside.send(&lab, 10_000);
    assert!(beside.said().contains("slower than the mirror"), "{}", beside.said());
    let (took, ledger) = beside.stop();
    assert!(took < Duration::from_secs(12), "two seconds, and what the machine is busy with: {took:?}");
    assert_eq!(ledger.captured + ledger.kernel_dropped, 10_000, "{ledger:#?}");
    let [pipe, file] = &ledger.destinations[..] else { panic!("two destinations") };
    assert_eq!(file.sent, ledger.captured, "{ledger:#?}");
    assert_eq!(tshark::count(&beside.file, "udp.dstport == 9") as u64, ledger.captured);
    assert!(pipe.dropped["reader_slow"] > 0 && pipe.dropped["stopping"] > 0, "{ledger:#?}");
    assert_eq!(pipe.sent + total(&pipe.dropped), ledger.captured, "{ledger:#?}");
    assert_eq!(frames_of(&beside.read).len() as u64, pipe.sent, "whole records, as many as were sent");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a03_a_reader_that_is_slow_within_the_buffer_gets_every_frame() {
    let lab = Lab::new();
    let mut beside = Beside::start(&lab);
    beside.signal_reader("STOP");
    beside.send(&lab, 3_000);
    beside.signal_reader("CONT");
    let all = fs::metadata(&beside.file).expect("a file").len();
    await_that("the reader to have what the file has", || {
        fs::metadata(&beside.read).is_ok_and(|read| read.len() == all)
    });
    let (_, ledger) = beside.stop();
    ledger
        .destinations
        .iter()
        .for_each(|account| assert_eq!((account.sent, total(&account.dropped)), (ledger.captured, 0)));
    assert_eq!(tshark::count(&beside.read, "udp.dstport == 9") as u64, ledger.captured, "{ledger:#?}");
}

/// Mirrors `frames` from the tapped host at a rate that no receiver has to fear.
fn mirror(lab: &Lab, frames: &[Vec<u8>], to: &str) {
    let file = lab.write("frames.pcap", traffic::capture_file(frames));
    replay(lab, &["-r", file.to_str().expect("a path in UTF-8"), "--rate", "10kpps", "--to", to]).assert_lossless();
}
