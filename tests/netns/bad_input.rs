//! Capture files that are damaged, foreign or absurd: no panic, a documented exit code, and a message with a hint.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use crate::farspan::{binary, run};
use crate::traffic;

/// Exit codes that a bad file may lead to: done (its frames are odd, the file is not), failed while reading, no input.
const DOCUMENTED: [i32; 3] = [0, 1, 66];

#[test]
fn damaged_files_end_with_a_message_and_a_hint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = traffic::capture_file(&[traffic::udp_frame(1, 1, 100), traffic::udp_frame(2, 1, 1000)]);
    for (name, content) in damaged(&whole) {
        let file = folder.path().join(name);
        fs::write(&file, content).expect("the folder is writable");
        ends_well(&file, folder.path());
    }
}

#[test]
fn frames_of_every_length_and_content_do_no_harm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let frames: Vec<_> = traffic::twelve_types().into_iter().map(|(_, frame)| frame).collect();
    // Every kind of frame cut at every place in its headers, and with each header byte at its extremes.
    let cut = frames.iter().flat_map(|frame| (0..frame.len().min(80)).map(|end| frame[..end].to_vec()));
    let bent = frames.iter().flat_map(|frame| {
        (12..frame.len().min(60)).flat_map(|at| {
            [0, 0x7f, 0xff].map(|value| {
                let mut frame = frame.clone();
                frame[at] = value;
                frame
            })
        })
    });
    let file = folder.path().join("absurd.pcap");
    fs::write(&file, traffic::capture_file(&cut.chain(bent).collect::<Vec<_>>())).expect("the folder is writable");
    assert_eq!(ends_well(&file, folder.path()), 0, "the file is whole, only its frames are odd");
}

/// Named ways to damage a good file.
fn damaged(whole: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let section = [0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0].to_vec();
    vec![
        ("empty", Vec::new()),
        ("header-cut", whole[..10].to_vec()),
        ("no-frames", whole[..24].to_vec()),
        ("record-header-cut", whole[..30].to_vec()),
        ("record-cut", whole[..whole.len() - 100].to_vec()),
        ("record-too-long", with(32, &u32::MAX.to_ne_bytes())),
        ("record-longer-than-wire", with(36, &10_u32.to_ne_bytes())),
        ("record-of-nothing", with(32, &0_u32.to_ne_bytes())),
        ("time-absurd", with(28, &u32::MAX.to_ne_bytes())),
        ("version-unknown", with(4, &9_u16.to_ne_bytes())),
        ("snaplen-zero", with(16, &0_u32.to_ne_bytes())),
        ("snaplen-huge", with(16, &u32::MAX.to_ne_bytes())),
        ("link-type-wifi", with(20, &105_u32.to_ne_bytes())),
        ("link-type-unknown", with(20, &0xfffe_u32.to_ne_bytes())),
        ("gzip", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3].to_vec()),
        ("text", b"this is not a capture file, it is a sentence\n".to_vec()),
        ("elf", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("pcapng-header-only", section.clone()),
        ("pcapng-block-too-long", [&section[..], &[0xff; 12], &[6, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]].concat()),
    ]
}

/// Replays a file into a capture file and into a dry run, and returns the exit code.
pub fn ends_well(file: &Path, folder: &Path) -> i32 {
    let out = folder.join("out.pcap");
    let inner = format!("pcap:{}", out.display());
    let plain = ends_documented(Command::new(binary()).args(["mirror", "-r"]).arg(file).args(["--to", &inner]));
    let repaired = ends_documented(Command::new(binary()).args(["mirror", "--normalise", "-r"]).arg(file).args([
        "--to",
        "vxlan://127.0.0.1?vni=42",
        "--transmit",
        &inner,
    ]));
    assert_eq!(plain, repaired, "{}: a file is as bad in any command", file.display());
    plain
}

fn ends_documented(command: &mut Command) -> i32 {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), None, "{command:?}\n{said}");
    assert!(!said.contains("panicked"), "{command:?}\n{said}");
    let code = output.status.code().expect("no signal ended it");
    assert!(DOCUMENTED.contains(&code), "{command:?} ended with {code}\n{said}");
    if code != 0 {
        assert!(said.contains("error: ") && said.contains("hint: "), "{command:?} says only:\n{said}");
    }
    code
}
