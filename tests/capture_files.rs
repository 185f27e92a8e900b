//! Capture files as a source: every dialect is read, every broken one is explained.
//!
//! The files are written here byte by byte, after the specifications (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng),
//! so that neither our writer nor libpcap's judges our reader.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use farspan::config::local_end::CaptureFilePlan;
use farspan::config::plan::{
    EndPlan, FilePath, FilePlan, LimitPlan, NormalisePlan, Pace, PriorityPlan, SamplePlan, SessionPlan, SourcePlan,
    Spread,
};
use farspan::destination::capture_file::CaptureFile;
use farspan::destination::{Patience, Shared};
use farspan::error::{ExitCode, Explain};
use farspan::flow::FlowHash;
use farspan::frame::{InterfaceId, Offload, WireFrame};
use farspan::ledger::{DestinationLedger, DropReason};
use farspan::quantity::{Direction, Mtu, Rate, SegmentLimit, Timestamp};
use farspan::source::{self, Readiness};
use farspan::wire::layers::Layers;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;

/// What a test remembers of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    bytes: Vec<u8>,
    wire_len: u32,
    nanos: u64,
    direction: Option<Direction>,
    offload: Offload,
}

fn plan(path: &Path) -> SessionPlan {
    let file = FilePlan::unpaced(FilePath::Path(path.to_owned()));
    SessionPlan {
        name: "test".into(),
        source: SourcePlan::File(file),
        decap: None,
        filter: String::new(),
        sample: SamplePlan::default(),
        seed: None,
        normalise: NormalisePlan {
            enabled: false,
            mtu: Mtu::ETHERNET,
            truncate: None,
            max_segments: Some(SegmentLimit::DEFAULT),
        },
        spread: Spread::Replicate,
        destinations: Vec::new(),
        limit: LimitPlan::default(),
        priority: PriorityPlan::default(),
        end: EndPlan::default(),
    }
}

/// Reads a whole file: its frames, and the error it ended with.
fn read(plan: &SessionPlan) -> (Vec<Seen>, Option<Box<dyn Explain>>) {
    let mut opened = source::open(plan).unwrap();
    let source = &mut opened.shares[0][0];
    let mut seen = Vec::new();
    loop {
        let outcome = source.drain(Instant::now(), 3, &mut |frame| {
            seen.push(Seen {
                bytes: frame.bytes.to_vec(),
                wire_len: frame.wire_len,
                nanos: frame.timestamp.nanos(),
                direction: frame.direction,
                offload: frame.offload,
            });
        });
        match outcome {
            Ok(Readiness::More) => {}
            Ok(Readiness::Ended) => return (seen, None),
            Ok(other) => panic!("an unpaced file never waits: {other:?}"),
            Err(error) => return (seen, Some(error)),
        }
    }
}

/// Why a file cannot be opened: message, hint and exit code of the one problem.
fn refused(plan: &SessionPlan) -> (String, String, ExitCode) {
    let Err(problems) = source::open(plan) else { panic!("this opens") };
    let problem = problems.iter().next().unwrap();
    assert_eq!(problems.iter().count(), 1);
    (problems.to_string(), problem.hint().unwrap_or_default(), problems.exit_code())
}

/// A file of its own for each test.
struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("capture");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Writes numbers in the byte order of the host that "captured".
#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

const MICRO: u32 = 0xa1b2_c3d4;
const NANO: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;
const SECONDS: u32 = 1_700_000_000;

/// Classic pcap. Records are (fraction of the second, bytes, length on the wire).
fn pcap(order: Order, magic: u32, link_type: u32, records: &[(u32, &[u8], u32)]) -> Vec<u8> {
    let mut file = order.u32(magic).to_vec();
    file.extend([order.u16(2), order.u16(4)].concat());
    file.extend([0, 0, 262_144, link_type].map(|word| order.u32(word)).concat());
    for (fraction, bytes, wire_len) in records {
        let captured = u32::try_from(bytes.len()).unwrap();
        file.extend([SECONDS, *fraction, captured, *wire_len].map(|word| order.u32(word)).concat());
        file.extend(*bytes);
    }
    file
}

/// One block of pcapng: type, total length, body padded to 32 bits, total length.
fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
    let length = order.u32(u32::try_from(12 + body.len() + padding.len()).unwrap());
    [&order.u32(kind)[..], &length, body, &padding, &length].concat()
}

fn section(order: Order) -> Vec<u8> {
    let body = [&order.u32(0x1a2b_3c4d)[..], &order.u16(1), &order.u16(0), &[0xff; 8]].concat();
    block(order, 0x0a0d_0d0a, &body)
}

/// Interface description with the option `if_tsresol`.
fn interface(order: Order, link_type: u16, resolution: u8) -> Vec<u8> {
    let option = [&order.u16(9)[..], &order.u16(1), &[resolution, 0, 0, 0], &[0; 4]].concat();
    let body = [&order.u16(link_type)[..], &order.u16(0), &order.u32(262_144), &option].concat();
    block(order, 1, &body)
}

/// Enhanced packet block.
fn packet(order: Order, interface: u32, units: u64, bytes: &[u8]) -> Vec<u8> {
    let (high, low) = (u32::try_from(units >> 32).unwrap(), u32::try_from(units & 0xffff_ffff).unwrap());
    let length = u32::try_from(bytes.len()).unwrap();
    let fixed = [interface, high, low, length, length].map(|word| order.u32(word)).concat();
    block(order, 6, &[&fixed, bytes].concat())
}

/// An Ethernet frame with this payload: IPv4 UDP to port 53, behind these tags.
fn frame(tags: &[u8], payload: u8) -> Vec<u8> {
    let ip = [0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    let udp = [0x30, 0x39, 0, 53, 0, 12, 0, 0, payload, payload, payload, payload];
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], tags, &[8, 0], &ip, &udp].concat()
}

#[test]
fn pcap_in_either_byte_order_with_either_resolution() {
    let fixture = Fixture::new();
    let (first, second) = (frame(&[], 1), frame(&[], 2));
    for order in [Order::Little, Order::Big] {
        for (magic, nanos) in [(MICRO, 1000_u64), (NANO, 1)] {
            let bytes = pcap(order, magic, ETHERNET, &[(5, &first, 46), (999_999, &second, 9000)]);
            let (seen, error) = read(&plan(&fixture.write(&bytes)));
            let whole = |bytes: &Vec<u8>, wire_len, fraction| Seen {
                bytes: bytes.clone(),
                wire_len,
                nanos: u64::from(SECONDS) * 1_000_000_000 + fraction * nanos,
                direction: None,
                offload: Offload::Whole,
            };
            assert_eq!(seen, [whole(&first, 46, 5), whole(&second, 9000, 999_999)], "{order:?} {magic:x}");
            assert!(error.is_none());
        }
    }
}

#[test]
fn pcapng_in_either_byte_order_with_any_resolution() {
    let fixture = Fixture::new();
    let bytes = frame(&[], 1);
    for order in [Order::Little, Order::Big] {
        // Powers of ten, and of two when the top bit is set: 2^-10 here.
        for (resolution, units, nanos) in [
            (6, 1_700_000_000_000_005, 5_000),
            (9, 1_700_000_000_000_000_005, 5),
            (3, 1_700_000_000_005, 5_000_000),
            (0x8a, 1_700_000_000 * 1024 + 512, 500_000_000),
        ] {
            let file = [section(order), interface(order, 1, resolution), packet(order, 0, units, &bytes)].concat();
            let (seen, error) = read(&plan(&fixture.write(&file)));
            assert_eq!(seen.len(), 1, "{order:?} {resolution}");
            assert_eq!((&seen[0].bytes, seen[0].nanos), (&bytes, 1_700_000_000_000_000_000 + nanos));
            assert!(error.is_none());
        }
    }
}

#[test]
fn timestamps_after_2038_and_nonsense_ones_are_read() {
    let fixture = Fixture::new();
    let mut file = pcap(Order::Little, NANO, ETHERNET, &[(7, &frame(&[], 1), 46), (0xffff_ffff, &frame(&[], 2), 46)]);
    file[24..28].copy_from_slice(&0xfff0_0000_u32.to_le_bytes());
    let (seen, _) = read(&plan(&fixture.write(&file)));
    assert_eq!(seen[0].nanos, 0xfff0_0000 * 1_000_000_000 + 7);
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_filter_keeps_what_it_matches_also_behind_a_vlan_tag() {
    let fixture = Fixture::new();
    let (plain, in_5, in_6) = (frame(&[], 1), frame(&[0x81, 0, 0, 5], 2), frame(&[0x81, 0, 0, 6], 3));
    let file = pcap(Order::Little, NANO, ETHERNET, &[(0, &plain, 46), (1, &in_5, 50), (2, &in_6, 50)]);
    let path = fixture.write(&file);
    for (filter, expected) in
        [("vlan 5", vec![&in_5]), ("udp port 53", vec![&plain]), ("vlan and udp", vec![&in_5, &in_6])]
    {
        let (seen, _) = read(&SessionPlan { filter: filter.into(), ..plan(&path) });
        assert_eq!(seen.iter().map(|frame| &frame.bytes).collect::<Vec<_>>(), expected, "{filter}");
    }
    let (message, _, code) = refused(&SessionPlan { filter: "udp prot 53".into(), ..plan(&path) });
    assert!(message.contains("where: session.test.source, column 5 of the filter\n"), "{message}");
    assert!(message.contains("hint:  udp prot 53\n             ^ not understood from here on"), "{message}");
    assert_eq!(code, ExitCode::Usage);
}

#[test]
fn with_normalise_the_frames_are_treated_as_those_of_a_host() {
    let fixture = Fixture::new();
    let path = fixture.write(&pcap(Order::Little, NANO, ETHERNET, &[(0, &frame(&[], 1), 46)]));
    let normalise = NormalisePlan {
        enabled: true,
        mtu: Mtu::new(9000).unwrap(),
        truncate: None,
        max_segments: Some(SegmentLimit::DEFAULT),
    };
    let (seen, _) = read(&SessionPlan { normalise, ..plan(&path) });
    assert_eq!(seen[0].offload, Offload::Unknown { mtu: Mtu::new(9000).unwrap() });
}

#[test]
fn other_link_types_become_ethernet_and_what_cannot_is_empty() {
    let fixture = Fixture::new();
    let ip = &frame(&[], 1)[14..];
    let cooked = [&[0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 8, 0], ip].concat();
    let file = pcap(Order::Big, MICRO, 113, &[(0, &cooked, 48), (1, &cooked[..9], 48)]);
    let (seen, error) = read(&plan(&fixture.write(&file)));
    assert_eq!(&seen[0].bytes[6..], [&[2, 0, 0, 0, 0, 9, 8, 0], ip].concat());
    assert_eq!((seen[0].wire_len, seen[0].direction), (46, Some(Direction::Out)));
    assert!(seen[1].bytes.is_empty());
    assert!(error.is_none());

    let raw = pcap(Order::Little, MICRO, 101, &[(0, ip, 32)]);
    let (seen, _) = read(&plan(&fixture.write(&raw)));
    assert_eq!(&seen[0].bytes[12..], [&[8, 0], ip].concat());

    let (message, hint, code) = refused(&plan(&fixture.write(&pcap(Order::Little, MICRO, 239, &[]))));
    assert!(message.contains("link type NFLOG"), "{message}");
    assert!(hint.contains("Ethernet") && hint.contains("LINUX_SLL2"), "{hint}");
    assert_eq!(code, ExitCode::NoInput);
}

#[test]
fn a_file_that_breaks_off_is_mirrored_up_to_there() {
    let fixture = Fixture::new();
    let bytes = frame(&[], 1);
    let file = pcap(Order::Little, NANO, ETHERNET, &[(0, &bytes, 46), (1, &bytes, 46), (2, &bytes, 46)]);
    for missing in [1, 40, 50] {
        let (seen, error) = read(&plan(&fixture.write(&file[..file.len() - missing])));
        let error = error.expect("the file is damaged");
        assert_eq!(seen.len(), 2);
        assert!(error.to_string().ends_with("is damaged after frame 2"), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Failed);
        assert!(std::error::Error::source(&*error).unwrap().to_string().contains("truncated"));
    }
}

#[test]
fn r04_r05_each_frame_of_a_pcapng_file_becomes_ethernet_by_its_own_interface() {
    let fixture = Fixture::new();
    let order = Order::Little;
    let file = [
        section(order),
        interface(order, 1, 9),
        packet(order, 0, 1, &frame(&[], 1)),
        interface(order, 101, 9),
        packet(order, 1, 2, &frame(&[], 1)[14..]),
    ];
    let (seen, error) = read(&plan(&fixture.write(&file.concat())));
    assert!(error.is_none());
    assert_eq!((seen.len(), &seen[0].bytes), (2, &frame(&[], 1)));
    assert_eq!(seen[1].bytes[12..], frame(&[], 1)[12..]);

    let mut other_snaplen = interface(order, 1, 9);
    other_snaplen[12..16].copy_from_slice(&order.u32(96));
    let file = [section(order), interface(order, 1, 9), other_snaplen, packet(order, 0, 1, &frame(&[], 1))];
    let (seen, error) = read(&plan(&fixture.write(&file.concat())));
    assert!(error.is_none());
    assert_eq!(seen.len(), 1);
}

#[test]
fn what_is_no_capture_is_explained() {
    let fixture = Fixture::new();
    for (bytes, words) in [
        (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], "pcap and pcapng are read"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0], "pcap and pcapng are read"),
        (b"BZh91AY&SY", "bzip2 -dc"),
        (&[], "the file is empty"),
        (b"snoop\0\0\0\0\0\0\x02\0\0\0\x04", "editcap -F pcap"),
        (b"GET / HTTP/1.1\r\n\r\nsomething else", "pcap and pcapng are read"),
        (&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0], "pcap and pcapng are read"),
    ] {
        let (message, hint, code) = refused(&plan(&fixture.write(bytes)));
        assert!(hint.contains(words), "{message}");
        assert!(message.contains("is not a capture file"), "{message}");
        assert_eq!(code, ExitCode::NoInput);
    }
}

#[test]
fn what_cannot_be_read_is_explained() {
    let fixture = Fixture::new();
    let missing = fixture.directory.path().join("missing.pcap");
    let (message, hint, code) = refused(&plan(&missing));
    assert!(message.contains("No such file or directory") && message.contains("missing.pcap"), "{message}");
    assert!(hint.contains("check the path"), "{hint}");
    assert_eq!(code, ExitCode::NoInput);

    let (message, _, code) = refused(&plan(fixture.directory.path()));
    assert!(message.contains("is a directory"), "{message}");
    assert_eq!(code, ExitCode::NoInput);
}

#[test]
fn a_paced_replay_waits_for_each_frame_and_catches_up() {
    let fixture = Fixture::new();
    let bytes = frame(&[], 1);
    let records = [(0, &bytes[..], 46), (10_000_000, &bytes, 46), (20_000_000, &bytes, 46), (20_000_000, &bytes, 46)];
    let path = fixture.write(&pcap(Order::Little, NANO, ETHERNET, &records));
    let at = |millis| Duration::from_millis(millis);
    for pace in [Pace::Recorded, Pace::Rate(Rate::Frames(100.0))] {
        let last = if pace == Pace::Recorded { at(20) } else { at(30) };
        let source = SourcePlan::File(FilePlan { pace, ..FilePlan::unpaced(FilePath::Path(path.clone())) });
        let mut opened = source::open(&SessionPlan { source, ..plan(&path) }).unwrap();
        let start = Instant::now();
        let mut drain = |after: Duration| {
            let mut frames = 0;
            let readiness = opened.shares[0][0].drain(start + after, 8, &mut |lent| {
                assert_eq!(lent.bytes, bytes);
                frames += 1;
            });
            (frames, readiness.unwrap())
        };
        assert_eq!(drain(at(0)), (1, Readiness::Until(start + at(10))), "{pace:?}");
        assert_eq!(drain(at(9)), (0, Readiness::Until(start + at(10))));
        assert_eq!(drain(at(10)), (1, Readiness::Until(start + at(20))));
        let (frames, _) = drain(last);
        assert_eq!(frames, 2);
        assert_eq!(drain(last), (0, Readiness::Ended));
    }
}

#[test]
fn a_named_pipe_gives_each_frame_as_it_comes() {
    let fixture = Fixture::new();
    let path = fixture.directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let bytes = frame(&[], 1);
    let file = pcap(Order::Little, NANO, ETHERNET, &[(0, &bytes, 46), (1, &bytes, 46)]);
    let (proceed, proceeding) = std::sync::mpsc::channel();
    let writer = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            pipe.write_all(&file[..24 + 62]).unwrap();
            // The second frame is not written before the first one was read.
            proceeding.recv().unwrap();
            pipe.write_all(&file[24 + 62..]).unwrap();
        }
    });
    let mut opened = source::open(&plan(&path)).unwrap();
    assert!(opened.progress.is_none());
    let source = &mut opened.shares[0][0];
    let mut frames = 0;
    assert_eq!(source.drain(Instant::now(), 8, &mut |_| frames += 1).unwrap(), Readiness::Waiting);
    assert_eq!(frames, 1);
    let is_readable = |source: &dyn source::Source, patience| {
        let mut polled = [PollFd::new(source.descriptor().unwrap(), PollFlags::POLLIN)];
        poll(&mut polled, patience).unwrap() > 0
    };
    assert!(!is_readable(&**source, PollTimeout::ZERO), "nothing more was written");
    proceed.send(()).unwrap();
    loop {
        assert!(is_readable(&**source, PollTimeout::from(10_000_u16)), "there is more to read");
        if source.drain(Instant::now(), 8, &mut |_| frames += 1).unwrap() == Readiness::Ended {
            break;
        }
    }
    assert_eq!(frames, 2);
    writer.join().unwrap();
}

#[test]
fn progress_comes_to_the_size_of_the_file() {
    let fixture = Fixture::new();
    let bytes = frame(&[], 1);
    let path = fixture.write(&pcap(Order::Little, NANO, ETHERNET, &[(0, &bytes, 46), (1, &bytes, 46)]));
    let mut opened = source::open(&plan(&path)).unwrap();
    assert_eq!(opened.interfaces[0].name, path.display().to_string());
    let progress = opened.progress.take().unwrap();
    assert_eq!((progress.read(), progress.size()), (0, 24 + 2 * 62));
    opened.shares[0][0].drain(Instant::now(), 1, &mut |_| ()).unwrap();
    assert_eq!(progress.read(), 24 + 62);
    while opened.shares[0][0].drain(Instant::now(), 1, &mut |_| ()).unwrap() != Readiness::Ended {}
    assert_eq!(progress.read(), 24 + 2 * 62);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_full_disk_never_leaves_half_a_record() {
    // A file system of 64 KiB that only this thread sees.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    let fixture = Fixture::new();
    let disk = fixture.directory.path();
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).arg(disk).status().unwrap().success(), "{program} {arguments:?}");
    };
    assert!(Command::new("mount").args(["--make-rprivate", "/"]).status().unwrap().success());
    run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs"]);

    let path = disk.join("inner.pcap");
    let file = CaptureFilePlan::plain(FilePath::Path(path.clone()));
    let mut file = CaptureFile::open(&file, &["eth0".into()], Patience::Drop, &mut Shared::new(&[], 0)).unwrap();
    let (bytes, mut account) = (frame(&[], 1), DestinationLedger::default());
    let mut offer = |count, account: &mut DestinationLedger| {
        for nanos in 0..count {
            let frame = WireFrame {
                head: &[],
                body: &bytes,
                wire_len: 46,
                layers: Layers::default(),
                flow: FlowHash::default(),
                timestamp: Timestamp::from_nanos(nanos),
                direction: None,
                interface: InterfaceId(0),
                origin: None,
            };
            file.offer(&frame, account);
        }
        file.flush(Instant::now(), account);
    };
    // 62 bytes a record: 1056 fit beside the file header.
    offer(2000, &mut account);
    offer(10, &mut account);
    let expected = (1056, 1056 * 62, 0, 2000 + 10 - 1056);
    assert_eq!((account.sent, account.bytes, account.in_flight, account.dropped[DropReason::WriteFailed]), expected);
    let (seen, error) = read(&plan(&path));
    assert_eq!(seen.len(), 1056);
    assert!(error.is_none(), "the file ends with a whole record");
    drop(file);
    run("umount", &[]);
}

proptest! {
    /// A capture with any bytes changed is read or refused, and comes to an end.
    #[test]
    fn a_broken_capture_ends(
        pcapng in any::<bool>(),
        link_type in proptest::sample::select(vec![0_u16, 1, 9, 12, 50, 51, 101, 104, 108, 113, 166, 204, 205, 228, 229, 276]),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        order in proptest::sample::select(vec![Order::Little, Order::Big]),
    ) {
        let bytes = frame(&[], 1);
        let mut file = if pcapng {
            let packets = packet(order, 0, 1, &bytes).repeat(3);
            [section(order), interface(order, link_type, 9), packets].concat()
        } else {
            pcap(order, NANO, link_type.into(), &[(0, &bytes, 46), (1, &bytes, 46), (2, &bytes, 46)])
        };
        for (place, value) in changes {
            let place = place.index(file.len());
            file[place] = value;
        }
        let fixture = Fixture::new();
        let plan = plan(&fixture.write(&file));
        if let Ok(mut opened) = source::open(&plan) {
            let mut frames = 0;
            while let Ok(Readiness::More) = opened.shares[0][0].drain(Instant::now(), 2, &mut |_| frames += 1) {}
            prop_assert!(frames < file.len());
        }
    }
}
