//! Replays into pipes whose readers are slow, stop or never come. The binary runs as a process; the judge is a Python program
//! that counts the records it reads.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Patience with everything that is awaited: far more than any of it takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Frames of a replay: 20 MB of records, five times what the queue and the pipe hold.
const FRAMES: u32 = 20_000;
/// Bytes of a frame.
const LEN: u32 = 1000;

/// Reads standard input, so many bytes at once and so many seconds apart, and prints how many whole records of a classic pcap
/// stream there were, and how many bytes behind them.
const READER: &str = r#"
import json, struct, sys, time
at_once, pause = int(sys.argv[1]), float(sys.argv[2])
data = bytearray()
while piece := sys.stdin.buffer.raw.read(at_once):
    data += piece
    time.sleep(pause)
at, records = 24, 0
while at + 16 <= len(data):
    length = struct.unpack_from("<I", data, at + 8)[0]
    if at + 16 + length > len(data):
        break
    at += 16 + length
    records += 1
print(json.dumps({"records": records, "rest": len(data) - at}))
"#;

fn reader(input: Stdio, at_once: u32, pause: &str) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", READER, &at_once.to_string(), pause]).stdin(input).stdout(Stdio::piped()).spawn().unwrap()
}

/// What a reader printed.
fn printed(reader: Child) -> Value {
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A capture file of `count` frames.
fn capture(path: &Path, count: u32) {
    let mut bytes = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for number in 0..count {
        bytes.extend([1_700_000_000 + number / 1000, number % 1000 * 1000, LEN, LEN].map(u32::to_le_bytes).concat());
        bytes.extend(number.to_be_bytes());
        bytes.resize(bytes.len() + LEN as usize - 4, 7);
    }
    fs::write(path, bytes).unwrap();
}

fn farspan(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: &str) {
    let mut command = Command::new("kill");
    assert!(command.args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
}

/// The ledger, which stands in the log where standard output has the frames.
fn ledger(output: &Output) -> Value {
    let said = [String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout)].concat();
    let line = said.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no ledger: {said}"));
    serde_json::from_str(line).unwrap()
}

fn dropped(account: &Value) -> u64 {
    account["dropped"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[test]
fn a03_a_replay_waits_for_a_slow_reader_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    capture(&folder.path().join("in.pcap"), FRAMES);
    let dry = farspan(folder.path(), &["mirror", "-r", "in.pcap", "--to", "gre://192.0.2.1?transmit=pcap:outer.pcap"]);
    assert!({ dry }.output().unwrap().status.success());
    for (what, to) in [("mirror", "pcap:-"), ("mirror", "gre://192.0.2.1?transmit=pcap:-"), ("receive", "pcap:-")] {
        let (output, input) = io::pipe().unwrap();
        let reader = reader(output.into(), 65_536, "0.002");
        let mut arguments = vec![what, "--json", "--to", to];
        arguments.extend(if what == "mirror" { ["-r", "in.pcap"] } else { ["--from", "file:outer.pcap"] });
        let ended = farspan(folder.path(), &arguments).stdout(input).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let (ledger, printed) = (ledger(&ended), printed(reader));
        assert_eq!(printed["rest"], 0, "{what} {to}");
        let account = &ledger["destinations"][0];
        assert_eq!(account["sent"], printed["records"], "{what} {to}: {ledger}");
        assert_eq!((&account["sent"], dropped(account)), (&Value::from(FRAMES), 0), "{what} {to}: {ledger}");
    }
}

/// Standard output, a named pipe of each format, and a dry run, whose readers never read: the session ends in time, and the
/// ledger says what the pipe holds.
#[test]
fn a03_a_replay_whose_reader_stops_ends_in_time_and_counts_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    capture(&folder.path().join("in.pcap"), FRAMES);
    for name in ["named", "named.pcapng"] {
        let path = folder.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    for to in ["pcap:-", "pcap:named", "pcap:named.pcapng", "gre://192.0.2.1?transmit=pcap:-"] {
        let mut command = farspan(folder.path(), &["mirror", "--json", "-r", "in.pcap", "--to", to]);
        let mut output = match to.strip_prefix("pcap:named") {
            None => {
                let (output, input) = io::pipe().unwrap();
                command.stdout(input);
                File::from(OwnedFd::from(output))
            }
            Some(suffix) => {
                let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
                let path = folder.path().join(format!("named{suffix}"));
                File::options().read(true).custom_flags(flags).open(path).unwrap()
            }
        };
        let child = command.spawn().unwrap();
        drop(command);
        // The pipe is full, and the worker waits for room in the queue, when nothing more is written.
        let mut before = 0;
        await_that("a full pipe", || {
            std::thread::sleep(Duration::from_millis(400));
            let written = bytes_written(&child);
            std::mem::replace(&mut before, written) == written && written >= 60_000
        });
        signal(&child, "TERM");
        let begun = Instant::now();
        let ended = child.wait_with_output().unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(12), "two seconds, and what the machine is busy with: {to}: {took:?}");
        let ledger = ledger(&ended);
        let account = &ledger["destinations"][0];
        assert_eq!(account["in_flight"], 0, "{ledger}");
        assert_eq!(account["dropped"]["stopping"].as_u64(), Some(dropped(account)), "{to}: {ledger}");
        assert!(dropped(account) > 1000, "{to}: {ledger}");
        let captured = ledger["captured"].as_u64().unwrap();
        assert_eq!(account["sent"].as_u64().unwrap() + dropped(account), captured, "{to}: {ledger}");
        // All that stands in the pipe.
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        assert_eq!(account["sent"].as_u64(), Some(records(&bytes, to.ends_with("pcapng"))), "{to}: {ledger}");
    }
}

/// What a process has written to all its descriptors (proc(5), `io`).
fn bytes_written(child: &Child) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
}

/// How many whole records of packets there are.
fn records(bytes: &[u8], is_pcapng: bool) -> u64 {
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let (mut at, mut records) = (if is_pcapng { 0 } else { 24 }, 0);
    loop {
        let (length, is_packet) = if is_pcapng {
            (word(at + 4), word(at) == Some(6))
        } else {
            (word(at + 8).map(|length| length + 16), true)
        };
        match length {
            Some(length) if at + length as usize <= bytes.len() => at += length as usize,
            _ => return records,
        }
        records += u64::from(is_packet);
    }
}

/// A named pipe that nobody writes keeps no thread of the daemon once its session is not wanted any more.
#[test]
fn a18_a_pipe_without_a_writer_keeps_no_thread_when_its_session_goes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    nix::unistd::mkfifo(&at("silent"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    capture(&at("in.pcap"), 10);
    let good = "[session.good]\nsource.file = \"in.pcap\"\ndestination.out.to = \"pcap:good.pcap\"\n";
    let silent = "[session.silent]\nsource.file = \"silent\"\ndestination.out.to = \"pcap:silent.pcap\"\n";
    fs::write(at("farspan.toml"), [good, silent].concat()).unwrap();
    let log = at("log");
    let mut command = farspan(folder.path(), &["run", "--json", "-C", "farspan.toml"]);
    command.env("FARSPAN_CONTROL__SOCKET", at("control.sock")).stderr(File::create(&log).unwrap());
    let child = command.spawn().unwrap();
    let opening = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
        tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "opening"))
            .count()
    };
    let said = || fs::read_to_string(&log).unwrap_or_default();
    await_that("the daemon to run", || said().contains("farspan: running "));
    assert_eq!(opening(), 1, "{}", said());
    fs::write(at("farspan.toml"), good).unwrap();
    signal(&child, "HUP");
    await_that("the reload", || said().contains("reloaded"));
    await_that("the thread to end", || opening() == 0);
    signal(&child, "TERM");
    assert!(child.wait_with_output().unwrap().status.success(), "{}", said());
}

/// A session without frames writes a file that somebody removes, cuts or replaces. Its worker sleeps for ten seconds.
#[test]
fn a13_an_idle_session_notices_that_its_file_is_gone() {
    for what in ["removed", "cut", "replaced"] {
        let folder = tempfile::tempdir().unwrap();
        let (silent, path) = (folder.path().join("silent"), folder.path().join("x.pcap"));
        capture(&folder.path().join("header.pcap"), 1);
        let recorded = fs::read(folder.path().join("header.pcap")).unwrap();
        let (input, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, &recorded).unwrap();
        let log = folder.path().join("log");
        let mut command = farspan(folder.path(), &["mirror", "--json", "-r", "-", "--to", "pcap:x.pcap"]);
        let child = command.stdin(input).stderr(File::create(&log).unwrap()).spawn().unwrap();
        await_that("the frame", || fs::metadata(&path).is_ok_and(|found| found.len() == 24 + 16 + u64::from(LEN)));
        let begun = Instant::now();
        match what {
            "removed" => fs::remove_file(&path).unwrap(),
            "cut" => File::options().write(true).open(&path).unwrap().set_len(0).unwrap(),
            _ => {
                fs::write(&silent, "of somebody").unwrap();
                fs::rename(&silent, &path).unwrap();
            }
        }
        await_that("a new file with a header", || fs::metadata(&path).is_ok_and(|found| found.len() == 24));
        println!("{what}: noticed after {:?}", begun.elapsed());
        signal(&child, "TERM");
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "the file lacks a frame");
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(said.matches("it is begun again").count(), 1, "{said}");
        assert_eq!(ledger(&ended)["destinations"][0]["lost_from_file"], 1);
    }
}
