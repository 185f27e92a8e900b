//! Readers that stop, end or are slow, and what their outlets learn.

use std::io::{PipeReader, Read as _};
use std::os::fd::OwnedFd;

use super::super::super::records::About;
use super::*;
use crate::quantity::Timestamp;

/// A record of 1,016 bytes.
fn record(byte: u8) -> Vec<u8> {
    let about = About { timestamp: Timestamp::default(), wire_len: 1000, interface: 0, direction: None };
    let mut record = Vec::new();
    about.write(Format::Pcap, [&[], &[byte; 1000]], &mut record);
    record
}

fn pipe() -> (PipeReader, Stream) {
    let (reader, writer) = io::pipe().unwrap();
    let sink = Sink::inherited(File::from(OwnedFd::from(writer)));
    assert!(sink.never_blocks);
    (reader, Stream::begin("test".to_owned(), sink, b"header").unwrap())
}

fn live(stream: &Stream, most: usize) -> Outlet {
    stream.outlet(Format::Pcap, Patience::Drop, most, Ending::default())
}

/// Records by what became of them: written, lost.
fn sum(runs: &VecDeque<Run>) -> (u64, u64) {
    let of = |lost: bool| runs.iter().filter(|run| run.lost.is_some() == lost).map(|run| run.records).sum();
    (of(false), of(true))
}

#[test]
fn a03_a_stuck_reader_costs_what_the_queue_does_not_hold_and_then_what_it_does_not_read() {
    let (mut reader, stream) = pipe();
    let mut outlet = live(&stream, 100 * (1016 + RECORD_COST));
    let begun = Instant::now();
    let taken = (0..1000).filter(|&number| outlet.give(&record(u8::try_from(number % 251).unwrap())).is_ok()).count();
    assert!(begun.elapsed() < Duration::from_secs(2), "nothing waits for the reader");
    assert!((100..=170).contains(&taken), "{taken}: a queue of 100, and the pipe");
    outlet.ending.hurry();
    outlet.finish();
    let (written, lost) = sum(&outlet.collect());
    assert_eq!((written + lost, outlet.waiting), (taken as u64, 0));
    // The rest of the record that broke off is all that comes.
    drop((outlet, stream));
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    let whole = (read.len() - b"header".len()) as u64 / 1016;
    assert!([written, written + 1].contains(&whole), "{whole} were read, {written} reported: the last one was begun");
}

#[test]
fn a03_a_record_that_is_begun_is_finished_before_those_of_another_worker() {
    let (mut reader, stream) = pipe();
    let (mut one, mut other) = (live(&stream, 1 << 20), live(&stream, 1 << 20));
    (0..200).for_each(|_| one.give(&record(1)).unwrap());
    other.give(&record(2)).unwrap();
    let mut written = 0;
    while written == 0 {
        written += sum(&one.collect()).0;
        thread::sleep(LEAST_PAUSE);
    }
    one.ending.hurry();
    one.finish();
    let (more, lost) = sum(&one.collect());
    written += more;
    assert!(lost > 0 && written + lost == 200);
    let reading = thread::spawn(move || {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        read
    });
    while other.waiting > 0 {
        assert_eq!(sum(&other.collect()).1, 0);
        thread::sleep(LEAST_PAUSE);
    }
    drop((one, other, stream));
    let read = reading.join().unwrap();
    let mut records = read[b"header".len()..].chunks(1016);
    assert_eq!(records.by_ref().next_back(), Some(&record(2)[..]));
    assert!(records.all(|found| found == record(1)), "whole records only");
    assert!([written, written + 1].contains(&(read.len() as u64 / 1016 - 1)));
}

#[test]
fn a03_a_replay_waits_for_room_until_its_session_is_to_end() {
    let (mut reader, stream) = pipe();
    let ending = Ending::default();
    let mut outlet = stream.outlet(Format::Pcap, Patience::Wait, 1016 + RECORD_COST, ending.clone());
    let reading = thread::spawn(move || {
        let mut read = vec![0; 6 + 500 * 1016];
        reader.read_exact(&mut read).unwrap();
        reader
    });
    (0..500).for_each(|_| outlet.give(&record(1)).unwrap());
    outlet.finish();
    assert_eq!(sum(&outlet.collect()), (500, 0));
    let _reader = reading.join().unwrap();
    ending.hurry();
    let given = (0..200).filter(|_| outlet.give(&record(1)).is_ok()).count();
    assert!(given < 100, "{given}: the pipe holds 64");
    assert_eq!(outlet.give(&record(1)), Err(DropReason::Stopping));
}

#[test]
fn a03_a_descriptor_that_cannot_be_opened_again_is_written_in_pieces_that_fit() {
    let (writer, mut reader) = std::os::unix::net::UnixStream::pair().unwrap();
    let sink = Sink::inherited(File::from(OwnedFd::from(writer)));
    assert!(!sink.never_blocks);
    let stream = Stream::begin("test".to_owned(), sink, b"").unwrap();
    let mut outlet = live(&stream, 1 << 20);
    (0..500).for_each(|_| outlet.give(&record(3)).unwrap());
    let mut read = vec![0; 500 * 1016];
    reader.read_exact(&mut read).unwrap();
    assert!(read.chunks(1016).all(|found| found == record(3)));
    outlet.finish();
    assert_eq!(sum(&outlet.collect()), (500, 0));
}

#[test]
fn a_reader_that_ends_closes_the_stream() {
    let (reader, stream) = pipe();
    let mut outlet = live(&stream, 1 << 20);
    drop(reader);
    (0..100).for_each(|_| {
        let _ = outlet.give(&record(1));
    });
    outlet.finish();
    let runs = outlet.collect();
    assert!(runs.iter().all(|run| run.lost == Some(DropReason::ReaderGone)), "{runs:?}");
    assert_eq!((outlet.give(&record(1)), stream.closed()), (Err(DropReason::ReaderGone), Some(DropReason::ReaderGone)));
}
