//! What is received goes straight into an analyzer's standard input, as it comes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::encapsulation::{ERSPAN_3, Underlay, VXLAN};
use crate::farspan::{Farspan, Ledger, binary, replay, total};
use crate::judge::suricata::{STOCK, alerts_of};
use crate::lab::{Lab, Process, await_that};
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

/// Mirrors `frames` from the tapped host at a rate that no receiver has to fear.
fn mirror(lab: &Lab, frames: &[Vec<u8>], to: &str) {
    let file = lab.write("frames.pcap", traffic::capture_file(frames));
    replay(lab, &["-r", file.to_str().expect("a path in UTF-8"), "--rate", "10kpps", "--to", to]).assert_lossless();
}
