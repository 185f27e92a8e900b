//! Runs farspan as an operator would, reads its ledger, and holds it against the law.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

use serde::Deserialize;

use crate::lab::{Lab, Namespace, Process, await_that};

/// The binary under test: what Cargo built, or another build such as the packaged one.
pub fn binary() -> PathBuf {
    std::env::var_os("FARSPAN_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_farspan").into(), Into::into)
}

/// The capture engine of this run, if `FARSPAN_ENGINE` names one: every test holds for each of them.
pub fn engine() -> Vec<String> {
    std::env::var("FARSPAN_ENGINE").map_or_else(|_| Vec::new(), |engine| vec!["--engine".to_owned(), engine])
}

/// Whether this run sends by AF_XDP: `FARSPAN_TRANSMIT=xdp`. Every test holds for each way of transmitting.
pub fn by_xdp() -> bool {
    std::env::var("FARSPAN_TRANSMIT").is_ok_and(|transmit| transmit == "xdp")
}

/// The way of transmitting of this run, unless `arguments` name no tunnel, ask for what only sockets do, or say it
/// themselves.
pub fn transmit(arguments: &[&str]) -> &'static [&'static str] {
    let says = |word: &str| arguments.iter().any(|argument| argument.contains(word));
    if by_xdp() && says("://") && !says("fit=fragment") && !says("transmit") { &["--transmit", "xdp"] } else { &[] }
}

/// A running `farspan mirror` or `farspan receive`.
pub struct Farspan {
    process: Process,
    ledger: PathBuf,
    log: PathBuf,
}

impl Farspan {
    /// Starts `farspan mirror … --json` on the tapped host and waits for its start line.
    pub fn mirror(lab: &Lab, arguments: &[&str]) -> Self {
        let engine = engine();
        let engine = engine.iter().map(String::as_str);
        // A filter may stand last.
        let arguments: Vec<&str> =
            engine.chain(transmit(arguments).iter().copied()).chain(arguments.iter().copied()).collect();
        Self::start(lab, &lab.host, ["mirror", "mirroring "], &arguments)
    }

    /// Starts `farspan receive … --json` in `namespace` and waits for its start line.
    pub fn receive(lab: &Lab, namespace: &Namespace, arguments: &[&str]) -> Self {
        Self::start(lab, namespace, ["receive", "receiving "], arguments)
    }

    /// Starts `farspan mirror … --json` on the tapped host, whatever this run's engine and way of transmitting.
    pub fn mirror_as_told(lab: &Lab, arguments: &[&str]) -> Self {
        Self::start(lab, &lab.host, ["mirror", "mirroring "], arguments)
    }

    fn start(lab: &Lab, namespace: &Namespace, [what, started]: [&str; 2], arguments: &[&str]) -> Self {
        let mut command = namespace.command(binary());
        command.args([what, "--json"]).args(arguments);
        Self::start_command(lab, [what, started], command)
    }

    /// Starts a command that becomes `farspan`, and waits until it has said `started`; its files are called `what`.
    pub fn start_command(lab: &Lab, [what, started]: [&str; 2], mut command: Command) -> Self {
        let (ledger, log) = (lab.path(&format!("{what}.json")), lab.path(&format!("{what}.log")));
        command
            .stdout(File::create(&ledger).expect("the folder is writable"))
            .stderr(File::create(&log).expect("the folder is writable"));
        let mut farspan = Self { process: Process::start(command), ledger, log };
        await_that("farspan's start line", || {
            if let Some(status) = farspan.process.ended() {
                panic!("farspan ended at once: {status}\n{}", farspan.log());
            }
            farspan.log().contains(started)
        });
        farspan
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process, for a test that ends it itself.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The largest resident memory it has had, in KiB (`VmHWM` of proc(5)).
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("farspan runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("proc(5) has VmHWM");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("VmHWM is a number")
    }

    /// Interrupts it and returns its ledger, which is lawful.
    pub fn stop(self) -> Ledger {
        let log = self.log.clone();
        let (status, ledger) = self.stop_anyhow();
        assert!(status.success(), "farspan ended with {status}\n{}", fs::read_to_string(log).unwrap_or_default());
        ledger
    }

    /// The same, whatever its exit code.
    pub fn stop_anyhow(mut self) -> (ExitStatus, Ledger) {
        let status = self.process.interrupt();
        let printed = fs::read_to_string(&self.ledger).unwrap_or_default();
        assert!(!printed.is_empty(), "farspan ended with {status} and without a ledger\n{}", self.log());
        (status, Ledger::lawful(&printed))
    }
}

/// Runs `farspan mirror -r … --json` to its end in the tapped host's namespace and returns its lawful ledger.
pub fn replay(lab: &Lab, arguments: &[&str]) -> Ledger {
    let output = run(lab.host.command(binary()).args(["mirror", "--json"]).args(arguments).args(transmit(arguments)));
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ledger::lawful(&String::from_utf8_lossy(&output.stdout))
}

/// Runs farspan to its end, whatever that is.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("farspan can be run")
}

/// The JSON ledger, with the keys that the tests look at.
#[derive(Debug, Deserialize)]
pub struct Ledger {
    pub captured: u64,
    pub kernel_dropped: u64,
    #[serde(default)]
    pub kernel_untold: u64,
    pub segments_added: u64,
    /// Whether one destination gets a frame; nothing: each does.
    pub assignment: Option<String>,
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    pub rewritten: Rewritten,
    /// What became of tunnels in sniffed frames.
    #[serde(default)]
    pub decapsulated: BTreeMap<String, u64>,
    pub destinations: Vec<Destination>,
    pub senders: Vec<Sender>,
}

/// What a receiver tells of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Sender {
    pub from: String,
    pub encapsulation: Option<String>,
    pub id: Option<u32>,
    pub received: u64,
    pub lost: Option<u64>,
    pub reordered: u64,
    pub duplicated: u64,
    pub restarts: u64,
    pub reserved_bits: u64,
}

#[derive(Debug, Deserialize)]
pub struct Rewritten {
    pub super_frames: u64,
    pub checksums: u64,
}

#[derive(Debug, Deserialize)]
pub struct Destination {
    pub to: String,
    pub assigned: u64,
    pub split_added: u64,
    pub sent: u64,
    pub in_flight: u64,
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
    pub icmp: IcmpReports,
}

/// What routers and hosts told about one destination's datagrams.
#[derive(Debug, Deserialize)]
pub struct IcmpReports {
    pub host_unreachable: u64,
    pub too_big: u64,
}

impl Ledger {
    /// Reads the ledger that farspan printed and asserts the law of accounting.
    pub fn lawful(json: &str) -> Self {
        let ledger: Self = serde_json::from_str(json).unwrap_or_else(|why| panic!("not a ledger: {why}\n{json}"));
        let offered = ledger.captured - total(&ledger.dropped) + ledger.segments_added;
        let assigned: u64 = ledger.destinations.iter().map(|destination| destination.assigned).sum();
        if ledger.assignment.as_deref() == Some("one") {
            // Frames for which there was no destination are among those dropped.
            assert_eq!(assigned, offered, "every frame is some destination's: {ledger:#?}");
        }
        for destination in &ledger.destinations {
            if ledger.assignment.is_none() {
                assert_eq!(destination.assigned, offered, "every destination is offered every frame: {ledger:#?}");
            }
            assert_eq!(destination.in_flight, 0, "nothing is in flight at the end: {ledger:#?}");
            assert_eq!(
                destination.assigned + destination.split_added,
                destination.sent + total(&destination.dropped),
                "every frame has one fate: {ledger:#?}"
            );
        }
        ledger
    }

    /// The account of the only destination.
    pub fn only(&self) -> &Destination {
        assert_eq!(self.destinations.len(), 1);
        &self.destinations[0]
    }

    /// Asserts that nothing was lost: neither before farspan nor in it.
    pub fn assert_lossless(&self) {
        assert_eq!(self.kernel_dropped, 0, "the kernel dropped frames before farspan: {self:#?}");
        for destination in &self.destinations {
            assert_eq!(total(&destination.dropped), 0, "{self:#?}");
        }
    }
}

/// Drops of all reasons.
pub fn total(dropped: &BTreeMap<String, u64>) -> u64 {
    dropped.values().sum()
}
