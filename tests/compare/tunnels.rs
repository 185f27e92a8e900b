//! A tunnel on one side is taken off before the frames are compared: what `mirror` writes, and what others add to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use farspan::compare::{Comparing, Comparison, Kind, Plan, compare};
use farspan::config::plan::FilePath;
use farspan::wire::decapsulate::Tunnel;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::compared;
use crate::damage::Recorded;
use crate::traffic::captures;

/// A capture of the strategy's, the same in every run.
fn frames() -> Vec<Recorded> {
    captures().new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

/// Writes a pcap file: little endian, microseconds, Ethernet (pcap-savefile(5)).
pub fn write(path: &Path, frames: &[Recorded]) {
    let mut file = [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 262_144, 1].map(u32::to_le_bytes).concat();
    for (number, frame) in (0_u32..).zip(frames) {
        let captured = u32::try_from(frame.bytes.len()).unwrap();
        file.extend([number, 0, captured, frame.wire_len].map(u32::to_le_bytes).concat());
        file.extend(&frame.bytes);
    }
    std::fs::write(path, file).unwrap();
}

pub fn of_files(files: [&Path; 2], rules: Comparing) -> Comparison {
    compare(&Plan { files: files.map(|file| FilePath::Path(file.to_owned())), rules }).unwrap()
}

/// What `farspan mirror` would send, as a capture.
fn mirrored(directory: &Path, file: &Path, to: &str) -> PathBuf {
    let outer = directory.join("outer.pcap");
    let transmit = format!("pcap:{}", outer.display());
    let mirror = Command::new(env!("CARGO_BIN_EXE_farspan"))
        .args(["-q", "mirror", "-r", file.to_str().unwrap(), "--to", to, "--transmit", &transmit])
        .output()
        .unwrap();
    assert!(mirror.status.success(), "{mirror:?}");
    outer
}

#[test]
fn what_mirror_sends_is_what_it_read() {
    let (directory, frames) = (tempfile::tempdir().unwrap(), frames());
    let file = directory.path().join("a.pcap");
    write(&file, &frames);
    for to in [
        "vxlan://127.0.0.1?vni=42&ports=50000",
        "vxlan://127.0.0.1:8472?vni=42&ports=50000",
        "vxlan://[::1]?vni=42&ports=50000",
        "geneve://127.0.0.1?vni=7&ports=50000",
        "gre://127.0.0.1?key=7",
        "gre://[::1]?seq=on",
        "erspan1://127.0.0.1",
        "erspan2://127.0.0.1?session=3",
        "erspan3://127.0.0.1?session=3",
    ] {
        let outer = mirrored(directory.path(), &file, to);
        let decapsulated = |decapsulate| of_files([&file, &outer], Comparing { decapsulate, ..Comparing::default() });
        let comparison = decapsulated([false, true]);
        assert!(comparison.is_same(), "{to}\n{}", comparison.table());
        assert_eq!(comparison.tallies[1].compared, frames.len() as u64);
        // Without taking the tunnel off, nothing is the same.
        assert_eq!(decapsulated([false, false]).identical, 0, "{to}");
        let turned = of_files([&outer, &file], Comparing { decapsulate: [true, false], ..Comparing::default() });
        assert!(turned.is_same());
        let both = of_files([&outer, &outer], Comparing { decapsulate: [true, true], ..Comparing::default() });
        assert!(both.is_same());
    }
}

#[test]
fn only_ports_of_vxlan_are_taken_off() {
    let (directory, frames) = (tempfile::tempdir().unwrap(), frames());
    let file = directory.path().join("a.pcap");
    write(&file, &frames);
    let outer = mirrored(directory.path(), &file, "vxlan://127.0.0.1:14789?vni=1&ports=50000");
    let mut rules = Comparing { decapsulate: [false, true], ..Comparing::default() };
    let comparison = of_files([&file, &outer], rules.clone());
    assert_eq!((comparison.identical, comparison.tallies[1].no_tunnel), (0, frames.len() as u64));
    rules.tunnels.ports.push((14_789, Tunnel::Vxlan));
    assert!(of_files([&file, &outer], rules).is_same());
}

/// An outer packet: Ethernet with a tag, and VXLAN over IPv4 in two fragments of which the second comes first.
fn tagged_and_fragmented(number: u16, inner: &[u8]) -> [Recorded; 2] {
    let datagram = {
        let length = u16::try_from(16 + inner.len()).unwrap().to_be_bytes();
        [&[0xc3, 0x50, 0x12, 0xb5][..], &length, &[0, 0], &[8, 0, 0, 0, 0, 0, 9, 0], inner].concat()
    };
    let cut = datagram.len() / 16 * 8;
    let fragment = |field: u16, data: &[u8]| {
        let length = u16::try_from(20 + data.len()).unwrap().to_be_bytes();
        let [identification, field] = [number, field].map(u16::to_be_bytes);
        let ip =
            [&[0x45, 0][..], &length, &identification, &field, &[64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]].concat();
        Recorded::whole([&[2; 12][..], &[0x81, 0, 0, 5, 8, 0], &ip, data].concat())
    };
    let offset = u16::try_from(cut / 8).unwrap();
    [fragment(offset, &datagram[cut..]), fragment(0x2000, &datagram[..cut])]
}

#[test]
fn outer_tags_and_fragments_are_understood_and_packets_without_a_tunnel_are_left_out() {
    let inner = frames();
    let mut outer: Vec<Recorded> =
        (0..).zip(&inner).flat_map(|(number, frame)| tagged_and_fragmented(number, &frame.bytes)).collect();
    // One of the inner frames goes by itself, between the two fragments of the fourth.
    outer.insert(7, inner[0].clone());
    let rules = Comparing { decapsulate: [false, true], ..Comparing::default() };
    let comparison = compared(&inner, &outer, &rules);
    assert!(comparison.is_same(), "{}", comparison.table());
    assert_eq!(comparison.tallies[1].no_tunnel, 1);

    // The numbers of B are those of the packets in its file: the second fragment of the third frame is number 6.
    let without_third: Vec<Recorded> = inner.iter().take(2).chain(inner.iter().skip(3)).cloned().collect();
    let comparison = compared(&without_third, &outer, &rules);
    assert_eq!(comparison.counts.nonzero().collect::<Vec<_>>(), [(Kind::Extra, 1)]);
    assert_eq!(comparison.differences[0].b, [6]);

    // A fragment that is gone takes its frame with it, and is counted.
    outer.remove(0);
    let comparison = compared(&inner, &outer, &rules);
    assert_eq!(comparison.counts.nonzero().collect::<Vec<_>>(), [(Kind::Missing, 1)]);
    assert_eq!((comparison.differences[0].a[0], comparison.tallies[1].broken_tunnel), (1, 1));
}
