//! The program under test, and the programs that judge what it wrote.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What tshark tells of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub bytes: String,
    pub time: String,
    pub wire_len: String,
    pub interface: Option<String>,
    pub direction: Option<String>,
}

pub fn farspan() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspan"));
    command.env_remove("RUST_LOG");
    command
}

/// Mirrors capture files into one, without a loss.
pub fn mirror(files: &[&Path], to: &Path, more: &[&str]) {
    let mut command = farspan();
    command.arg("mirror");
    for file in files {
        command.arg("-r").arg(file);
    }
    succeed(command.args(["--to", &super::pcap_file(to)]).args(more));
}

/// What a command that is refused says.
pub fn refused(arguments: &[&str]) -> String {
    let output = farspan().args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?}");
    said
}

/// Standard output of a command that must succeed.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a field is in each frame of a capture.
pub fn field(capture: &Path, field: &str) -> Vec<String> {
    let fields = ["-T", "fields", "-e", field];
    succeed(Command::new("tshark").arg("-n").arg("-r").arg(capture).args(fields)).lines().map(str::to_owned).collect()
}

/// Every frame of a capture.
pub fn frames(capture: &Path) -> Vec<Frame> {
    // tshark lists custom blocks too, which have no frames.
    let tshark = |arguments: &[&str]| {
        succeed(Command::new("tshark").args(["-n", "-Y", "eth", "-r"]).arg(capture).args(arguments))
    };
    let packets: Vec<Value> = serde_json::from_str(&tshark(&["-T", "json", "-x", "-j", "frame"])).unwrap();
    let fields = ["time_epoch", "len", "interface_name", "packet_flags_direction"].map(|name| format!("frame.{name}"));
    let mut arguments = vec!["-T", "fields", "-E", "separator=/t"];
    for field in &fields {
        arguments.extend(["-e", field]);
    }
    let told = tshark(&arguments);
    assert_eq!(told.lines().count(), packets.len());
    packets.iter().zip(told.lines()).map(|(packet, told)| frame(packet, told)).collect()
}

fn frame(packet: &Value, told: &str) -> Frame {
    let fields: Vec<&str> = told.split('\t').collect();
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Frame {
        bytes: packet["_source"]["layers"]["frame_raw"][0].as_str().unwrap().to_owned(),
        // tshark has no time for a simple packet block: it is 1970 where a file must have one.
        time: some(fields[0]).unwrap_or_else(|| "0.000000000".to_owned()),
        wire_len: fields[1].to_owned(),
        interface: some(fields[2]),
        direction: some(fields[3]).filter(|direction| !direction.ends_with('0')),
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
