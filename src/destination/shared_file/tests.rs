//! Several writers, several files, full disks.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caps::CapSet;

use super::super::Shared;
use super::super::records::About;
use super::*;
use crate::kernel::capabilities::Capability;
use crate::quantity::Timestamp;

/// `count` records of `len` bytes, each of this byte.
fn records(format: Format, byte: u8, len: usize, count: usize) -> Vec<u8> {
    let wire_len = u32::try_from(len).unwrap();
    let about = About { timestamp: Timestamp::default(), wire_len, interface: 0, direction: None };
    let mut records = Vec::new();
    (0..count).for_each(|_| about.write(format, [&[], &vec![byte; len]], &mut records));
    records
}

const fn all(bytes: usize) -> Written {
    Written { bytes, lost: None, closed: false }
}

/// The files of a directory in the order of their names, each with the frames that libpcap reads from it to its end.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<Vec<u8>>)> {
    let mut paths: Vec<_> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let mut capture = pcap::Capture::from_file(&path).unwrap();
        let mut frames = Vec::new();
        loop {
            match capture.next_packet() {
                Ok(packet) => frames.push(packet.data.to_vec()),
                Err(pcap::Error::NoMorePackets) => return (path, frames),
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn batches_of_several_workers_do_not_mix() {
    const BATCHES: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let plan = CaptureFilePlan::plain(FilePath::Path(directory.path().join("shared.pcap")));
    let mut ends = Shared::new(&[], 0);
    thread::scope(|scope| {
        for worker in 1..=3_u8 {
            let file = ends.file(&plan).unwrap();
            scope.spawn(move || {
                for _ in 0..BATCHES {
                    let records = records(Format::Pcap, worker, 1000, 7);
                    assert_eq!(file.append(&records), all(records.len()));
                }
            });
        }
    });
    let [(_, seen)] = &files(directory.path())[..] else { panic!("one file") };
    assert!(seen.iter().all(|frame| frame.len() == 1000 && frame.iter().all(|byte| *byte == frame[0])));
    assert_eq!(seen.len(), 3 * BATCHES * 7);
    assert!(seen.chunks(7).all(|batch| batch.iter().all(|frame| frame == &batch[0])), "a batch after the other");
}

#[test]
fn a_file_is_followed_by_the_next_before_it_is_too_large() {
    for (name, format) in [("m-{number}.pcap", Format::Pcap), ("m-{number}.pcapng", Format::Pcapng)] {
        let directory = tempfile::tempdir().unwrap();
        let file = FilePath::Path(directory.path().join(name));
        let rotation = Rotation { size: Some(10_000), ..Rotation::default() };
        let file =
            SharedFile::create(&CaptureFilePlan { rotation, sync: Sync::Rotate, ..CaptureFilePlan::plain(file) })
                .unwrap();
        let interface = |name: &str| Interface { name: name.to_owned(), comment: None };
        assert_eq!(file.number_of(interface("eth0")).unwrap(), 0);
        let batch = records(format, 1, 1000, 25);
        assert_eq!(file.append(&batch), all(batch.len()));
        // One that is larger than a file may be, and an interface that comes late.
        let giant = records(format, 2, 20_000, 1);
        let late = u32::from(format == Format::Pcapng);
        assert_eq!(file.number_of(interface("eth1")).unwrap(), late);
        assert_eq!(file.number_of(interface("eth0")).unwrap(), 0);
        assert_eq!(file.append(&giant), all(giant.len()));
        let last = records(format, 3, 1000, 1);
        assert_eq!(file.append(&last), all(last.len()));
        file.finish();

        let files = files(directory.path());
        let counts: Vec<usize> = files.iter().map(|(_, frames)| frames.len()).collect();
        assert_eq!(counts, [9, 9, 7, 1, 1]);
        for (path, frames) in &files {
            assert!(path.metadata().unwrap().len() <= 10_000 || frames[0].len() == 20_000, "{}", path.display());
        }
        let all: Vec<u8> = files.iter().flat_map(|(_, frames)| frames).map(|frame| frame[0]).collect();
        assert_eq!(all, [&[1; 25][..], &[2], &[3]].concat());
    }
}

#[test]
fn time_ends_a_file_that_holds_something() {
    let directory = tempfile::tempdir().unwrap();
    let file = FilePath::Path(directory.path().join("m-{number}.pcap"));
    let rotation = Rotation { time: Some(Duration::from_mins(1)), ..Rotation::default() };
    let file =
        SharedFile::create(&CaptureFilePlan { rotation, sync: Sync::Flush, ..CaptureFilePlan::plain(file) }).unwrap();
    let start = Instant::now();
    let record = records(Format::Pcap, 1, 60, 1);
    for minutes in [0, 2, 3] {
        file.look_at_the_time(start + Duration::from_secs(minutes * 60));
    }
    file.append(&record);
    file.append(&record);
    file.look_at_the_time(start + Duration::from_secs(59));
    file.append(&record);
    file.look_at_the_time(start + Duration::from_secs(61));
    file.append(&record);
    file.finish();
    let counts: Vec<usize> = files(directory.path()).iter().map(|(_, frames)| frames.len()).collect();
    assert_eq!(counts, [3, 1]);
}

#[test]
fn a_next_file_that_cannot_be_begun_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let file = FilePath::Path(folder.join("m-{number}.pcap"));
    let rotation = Rotation { size: Some(1000), ..Rotation::default() };
    let file = SharedFile::create(&CaptureFilePlan { rotation, ..CaptureFilePlan::plain(file) }).unwrap();
    let two = records(Format::Pcap, 1, 800, 2);
    fs::remove_dir_all(&folder).unwrap();
    let lost = Written { bytes: two.len() / 2, lost: Some(DropReason::WriteFailed), closed: false };
    assert_eq!(file.append(&two), lost);
    assert_eq!(file.append(&two), Written { bytes: 0, ..lost });
    fs::create_dir(&folder).unwrap();
    assert_eq!(file.append(&two), all(two.len()));
    assert_eq!(files(&folder).len(), 2);
}

#[test]
fn interfaces_that_come_up_leave_a_rotated_file_its_room() {
    let directory = tempfile::tempdir().unwrap();
    let file = FilePath::Path(directory.path().join("m-{number}.pcapng"));
    let rotation = Rotation { size: Some(64 << 10), ..Rotation::default() };
    let file = SharedFile::create(&CaptureFilePlan { rotation, ..CaptureFilePlan::plain(file) }).unwrap();
    let interface = |number: u32| Interface { name: format!("stream {number}"), comment: Some("x".repeat(60)) };
    let known = (0..1000).take_while(|&number| file.number_of_one_of_many(interface(number)) == Some(number)).count();
    assert!((100..200).contains(&known), "{known}");
    assert_eq!(file.number_of_one_of_many(interface(1000)), None);
    let batch = records(Format::Pcapng, 1, 1000, 100);
    assert_eq!(file.append(&batch), all(batch.len()));
    let files = files(directory.path());
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|(path, _)| path.metadata().unwrap().len() <= 64 << 10));
}

#[test]
fn a_directory_that_is_not_there_is_known_before_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let inside = |name: &str| directory.path().join(name);
    fs::write(inside("file"), "").unwrap();
    let hint = |path: PathBuf| {
        CannotCreate::in_the_way(&CaptureFilePlan::plain(FilePath::Path(path))).map(|cannot| cannot.hint())
    };
    assert_eq!(hint(inside("nowhere/a.pcap")), Some(Some("its directory does not exist".to_owned())));
    assert_eq!(hint(inside("nowhere/a-{time}.pcap")), Some(Some("its directory does not exist".to_owned())));
    assert_eq!(hint(inside("file/a.pcap")), Some(None));
    for path in [inside("a.pcap"), inside("file"), "a.pcap".into(), "/dev/null".into()] {
        assert_eq!(hint(path), None);
    }
    assert!(!inside("a.pcap").exists());
}

/// The names of the interfaces that frames were captured on, as libpcap's section has them. Reads the blocks themselves:
/// (interface of the section, frame's first byte).
fn packets_by_name(bytes: &[u8]) -> Vec<(String, u8)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut names, mut packets) = (0, Vec::new(), Vec::new());
    while at < bytes.len() {
        match word(at) {
            0x0a0d_0d0a => names.clear(),
            1 => {
                // The first option is the name.
                let len = usize::from(u16::from_le_bytes([bytes[at + 18], bytes[at + 19]]));
                names.push(String::from_utf8(bytes[at + 20..at + 20 + len].to_vec()).unwrap());
            }
            _ => packets.push((names[word(at + 8) as usize].clone(), bytes[at + 28])),
        }
        at += word(at + 4) as usize;
    }
    packets
}

#[test]
fn interfaces_that_come_and_go_for_years_do_not_make_a_file_begin_with_all_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("years.pcapng");
    let file = SharedFile::create(&CaptureFilePlan::plain(FilePath::Path(path.clone()))).unwrap();
    let interface = |name: &str| Interface { name: name.to_owned(), comment: None };
    let record = |interface: u32, byte: u8| {
        let about = About { timestamp: Timestamp::default(), wire_len: 60, interface, direction: None };
        let mut record = Vec::new();
        about.write(Format::Pcapng, [&[], &[byte; 60]], &mut record);
        record
    };
    let stays = file.number_of(interface("eth0")).unwrap();
    for number in 0..1000_u32 {
        let name = format!("veth{number}");
        let comes = file.number_of_another(interface(&name));
        let byte = u8::try_from(number % 251).unwrap();
        file.append(&record(comes, byte));
        file.append(&record(stays, 255));
        file.release(comes);
    }
    assert!(file.output().interfaces.len() <= MOST_UNUSED + 3);
    assert!(file.output().header().len() < 20_000);
    file.finish();

    let expected = (0..1000_u32)
        .flat_map(|number| [(format!("veth{number}"), u8::try_from(number % 251).unwrap()), ("eth0".to_owned(), 255)]);
    assert_eq!(packets_by_name(&fs::read(&path).unwrap()), expected.collect::<Vec<_>>());
    assert_eq!(files(directory.path())[0].1.len(), 2000, "libpcap reads every section");
}

#[test]
fn a13_a_file_that_somebody_cuts_removes_or_moves_is_begun_again_and_what_is_lost_is_counted() {
    type Change = fn(&Path);
    let changes: [(&str, Change, u64); 6] = [
        ("cut to nothing", |path| File::options().write(true).open(path).unwrap().set_len(0).unwrap(), 3),
        ("cut inside a record", |path| File::options().write(true).open(path).unwrap().set_len(90).unwrap(), 3),
        ("removed", |path| fs::remove_file(path).unwrap(), 3),
        ("replaced", |path| fs::rename(other(path), path).unwrap(), 3),
        ("moved", |path| fs::rename(path, path.with_extension("old")).unwrap(), 0),
        ("left alone", |_| {}, 0),
    ];
    for format in [Format::Pcap, Format::Pcapng] {
        for (what, change, lost) in changes {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(if format == Format::Pcap { "x.pcap" } else { "x.pcapng" });
            let file = SharedFile::create(&CaptureFilePlan::plain(FilePath::Path(path.clone()))).unwrap();
            file.number_of(Interface { name: "eth0".to_owned(), comment: None }).unwrap();
            let batch = |byte| records(format, byte, 60, 3);
            file.append(&batch(1));
            change(&path);
            let now = Instant::now();
            assert_eq!(file.look(now), 0, "it is not time: {what}");
            // What was written until somebody looked is lost with the rest.
            let early = if what == "left alone" || what == "moved" { 0 } else { 3 };
            file.append(&batch(2));
            assert_eq!(file.look(now + LOOK), lost + early, "{what}");
            assert_eq!(file.look(now + 2 * LOOK), 0, "{what}");
            file.append(&batch(3));
            assert_eq!(file.finish(), 0, "{what}");
            let written = packets(&path);
            let expected: &[u8] = if what == "left alone" { &[1, 1, 1, 2, 2, 2, 3, 3, 3] } else { &[3, 3, 3] };
            assert_eq!(written, expected, "{what}");
            if what == "moved" {
                assert_eq!(packets(&path.with_extension("old")), [1, 1, 1, 2, 2, 2]);
            }
        }
    }
}

/// Another file, to be put into the place of the one at `path`.
fn other(path: &Path) -> PathBuf {
    let other = path.with_extension("other");
    fs::write(&other, "of somebody").unwrap();
    other
}

/// The first byte of each packet that libpcap reads.
fn packets(path: &Path) -> Vec<u8> {
    let mut capture = pcap::Capture::from_file(path).unwrap();
    let mut bytes = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(packet) => bytes.push(packet.data[0]),
            Err(pcap::Error::NoMorePackets) => return bytes,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

#[test]
fn a13_what_is_lost_just_before_the_end_is_counted_and_no_file_is_made_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pcap");
    let file = SharedFile::create(&CaptureFilePlan::plain(FilePath::Path(path.clone()))).unwrap();
    file.append(&records(Format::Pcap, 1, 60, 5));
    fs::remove_file(&path).unwrap();
    assert_eq!((file.finish(), path.exists()), (5, false));
}

/// A directory that may not be searched any more, as a disk or server that does not answer, does not say that the file has
/// gone; and another one could not be begun.
#[test]
fn a13_a_file_that_cannot_be_looked_at_is_written_on() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let path = inside.join("x.pcap");
    let file = SharedFile::create(&CaptureFilePlan::plain(FilePath::Path(path.clone()))).unwrap();
    file.append(&records(Format::Pcap, 1, 60, 5));
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o000)).unwrap();
    let lost = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            // Root searches every directory unless its thread gives that up.
            for capability in [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH] {
                caps::drop(None, CapSet::Effective, capability).unwrap();
            }
            assert_eq!(fs::metadata(&path).unwrap_err().kind(), ErrorKind::PermissionDenied);
            let lost = file.look(Instant::now() + LOOK);
            assert_eq!(file.append(&records(Format::Pcap, 1, 60, 5)).lost, None);
            lost
        });
        looking.join().unwrap()
    });
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!((lost, file.finish()), (0, 0));
    assert_eq!(packets(&path).len(), 10);
}

#[test]
fn a13_a_series_goes_on_with_its_next_file() {
    let directory = tempfile::tempdir().unwrap();
    let rotation = Rotation { size: Some(1 << 20), time: None, keep: Some(3) };
    let file = FilePath::Path(directory.path().join("x-{number}.pcap"));
    let file = SharedFile::create(&CaptureFilePlan { rotation, ..CaptureFilePlan::plain(file) }).unwrap();
    file.append(&records(Format::Pcap, 1, 60, 5));
    fs::remove_file(directory.path().join("x-000001.pcap")).unwrap();
    assert_eq!(file.look(Instant::now() + LOOK), 5);
    file.append(&records(Format::Pcap, 2, 60, 5));
    file.finish();
    let [(path, seen)] = &files(directory.path())[..] else { panic!("one file") };
    assert_eq!((path.file_name().unwrap().to_str(), seen.len()), (Some("x-000002.pcap"), 5));
}
