//! tshark: a dissector of every encapsulation that farspan writes.

use std::path::Path;
use std::process::Command;

use crate::lab::succeed;

/// How many frames pass a display filter.
pub fn count(capture: &Path, filter: &str) -> usize {
    values(capture, filter, "frame.number").len()
}

/// What `field` is in each of the frames that pass a display filter.
pub fn values(capture: &Path, filter: &str, field: &str) -> Vec<String> {
    succeed(tshark(capture, filter).args(["-T", "fields", "-e", field])).lines().map(str::to_owned).collect()
}

/// What capinfos says about a file, line by line.
pub fn about(capture: &Path) -> String {
    succeed(Command::new("capinfos").arg(capture))
}

/// Fields of each frame that passes a display filter, packet by packet: fragments are not put together. All occurrences
/// of a field, the outermost first, with commas between them.
pub fn fields(capture: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = tshark(capture, filter);
    command.args(["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-T", "fields", "-E", "separator=/t"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let lines = succeed(&mut command);
    lines.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Asserts that tshark finds no wrong checksum, outer or inner, and no malformed packet.
pub fn assert_sound(capture: &Path) {
    for fault in [
        "ip.checksum.status == Bad",
        "tcp.checksum.status == Bad",
        "udp.checksum.status == Bad",
        "icmpv6.checksum.status == Bad",
        "_ws.malformed",
        "_ws.short",
    ] {
        assert_eq!(count(capture, fault), 0, "frames with {fault} in {}", capture.display());
    }
}

fn tshark(capture: &Path, filter: &str) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture);
    for verified in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"] {
        command.args(["-o", &format!("{verified}:TRUE")]);
    }
    command.args(["-Y", filter]);
    command
}
