//! A capture file of inner frames, or standard output: nanosecond pcap.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::plan::FilePath;
use crate::error::Explain;
use crate::frame::WireFrame;
use crate::ledger::{DestinationLedger, DropReason};
use crate::wire::pcap::{FileHeader, RecordHeader};

/// Why a capture file cannot be written from the start.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the capture file `{file}`")]
pub struct CannotCreate {
    file: String,
    #[source]
    cause: io::Error,
}

impl Explain for CannotCreate {
    fn hint(&self) -> Option<String> {
        match self.cause.kind() {
            io::ErrorKind::NotFound => Some("its directory does not exist".to_owned()),
            io::ErrorKind::PermissionDenied => Some("choose a directory that you may write to".to_owned()),
            io::ErrorKind::IsADirectory => Some("name a file inside the directory".to_owned()),
            io::ErrorKind::StorageFull => Some("make room on its disk, or choose another one".to_owned()),
            io::ErrorKind::BrokenPipe => Some("the program that was to read standard output has ended".to_owned()),
            _ => None,
        }
    }
}

/// A capture file of inner frames, or standard output.
///
/// Records are collected in memory of its own and written by [`flush`](Self::flush). A file never ends with half a
/// record: what a full disk cut off is taken back.
#[derive(Debug)]
pub struct CaptureFile {
    name: String,
    file: File,
    /// Length of the file up to its last whole record; `None` for standard output, which cannot be cut.
    whole: Option<u64>,
    records: Vec<u8>,
    /// What every further frame is dropped for, once nothing can be written any more.
    closed: Option<DropReason>,
    /// Whether a failed write was said; it is said once.
    complained: bool,
}

impl CaptureFile {
    /// Room for several of the largest frames.
    const BUFFER: usize = 1 << 20;

    /// Creates the file, or takes standard output, and writes the file header.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn create(path: &FilePath) -> Result<Self, CannotCreate> {
        let (name, file) = match path {
            FilePath::Standard => ("-".to_owned(), io::stdout().as_fd().try_clone_to_owned().map(File::from)),
            FilePath::Path(path) => {
                (path.display().to_string(), OpenOptions::new().write(true).create(true).truncate(true).open(path))
            }
        };
        let mut file = file.map_err(|cause| CannotCreate { file: name.clone(), cause })?;
        let header = FileHeader::bytes();
        file.write_all(&header).map_err(|cause| CannotCreate { file: name.clone(), cause })?;
        let can_be_cut = *path != FilePath::Standard && file.metadata().is_ok_and(|metadata| metadata.is_file());
        let whole = can_be_cut.then_some(header.len() as u64);
        Ok(Self { name, file, whole, records: Vec::with_capacity(Self::BUFFER), closed: None, complained: false })
    }

    /// Whether nothing can be written any more: the reader of the pipe has ended, or a record broke off in it.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Appends one frame to the buffer.
    pub fn offer(&mut self, frame: &WireFrame<'_>, account: &mut DestinationLedger) {
        if let Some(reason) = self.closed {
            account.dropped[reason] += 1;
            return;
        }
        if self.records.len() + RecordHeader::LEN + frame.len() > Self::BUFFER {
            self.flush(account);
        }
        let captured = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let header = RecordHeader { timestamp: frame.timestamp, captured, wire_len: frame.wire_len };
        self.records.extend_from_slice(&header.bytes());
        self.records.extend_from_slice(frame.head);
        self.records.extend_from_slice(frame.body);
        account.in_flight += 1;
    }

    /// Writes the buffer and gives every record its fate.
    pub fn flush(&mut self, account: &mut DestinationLedger) {
        if self.records.is_empty() {
            return;
        }
        let (written, result) = write_as_much_as_possible(&mut self.file, &self.records);
        let (frames, bytes) = whole_records(&self.records[..written]);
        account.sent += frames;
        account.bytes += bytes as u64;
        account.in_flight -= frames;
        self.whole = self.whole.map(|whole| whole + bytes as u64);
        if let Err(error) = result {
            let reason = self.give_up(&error, written > bytes);
            let (lost, _) = whole_records(&self.records[bytes..]);
            account.dropped[reason] += lost;
            account.in_flight -= lost;
        }
        self.records.clear();
    }

    /// Writes the buffer and gives every record its fate: afterwards nothing is in flight.
    pub fn finish(&mut self, account: &mut DestinationLedger) {
        self.flush(account);
    }

    /// Decides what a failed write means for the frames after it.
    fn give_up(&mut self, error: &io::Error, broke_off: bool) -> DropReason {
        let reason = match error.kind() {
            io::ErrorKind::BrokenPipe => DropReason::ReaderGone,
            _ => DropReason::WriteFailed,
        };
        if !self.complained {
            tracing::warn!("cannot write the capture file `{}`: {error}", self.name);
            self.complained = true;
        }
        let repaired = self.whole.is_some_and(|whole| self.cut_to(whole).is_ok());
        if reason == DropReason::ReaderGone || (broke_off && !repaired) {
            self.closed = Some(reason);
        }
        reason
    }

    /// Takes back what stands behind the last whole record.
    fn cut_to(&mut self, whole: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.file.set_len(whole)?;
        self.file.seek(SeekFrom::Start(whole)).map(|_| ())
    }
}

/// Writes until everything is written or the kernel refuses; tells how many bytes it took.
fn write_as_much_as_possible(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody else made the pipe at standard output non-blocking; waiting for its reader is still right.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// How many whole records `records` begins with, and their length in bytes.
fn whole_records(records: &[u8]) -> (u64, usize) {
    let (mut count, mut end) = (0, 0);
    while let Some(length) = RecordHeader::record_len(&records[end..]).filter(|length| end + length <= records.len()) {
        count += 1;
        end += length;
    }
    (count, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowHash;
    use crate::frame::InterfaceId;
    use crate::quantity::Timestamp;
    use crate::wire::layers::Layers;

    const FRAME: [u8; 60] = [7; 60];

    fn frame(nanos: u64) -> WireFrame<'static> {
        let (head, body) = FRAME.split_at(20);
        WireFrame {
            head,
            body,
            wire_len: 1514,
            layers: Layers::default(),
            flow: FlowHash::default(),
            timestamp: Timestamp::from_nanos(nanos),
            direction: None,
            interface: InterfaceId(0),
        }
    }

    /// A destination that writes to `file`, which cannot be cut.
    fn writing_to(file: File) -> CaptureFile {
        CaptureFile { name: "test".into(), file, whole: None, records: Vec::new(), closed: None, complained: false }
    }

    #[test]
    fn libpcap_reads_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inner.pcap");
        let mut account = DestinationLedger::default();
        let mut file = CaptureFile::create(&FilePath::Path(path.clone())).unwrap();
        // More than the buffer holds, so that it is written in between too.
        for number in 0..20_000 {
            file.offer(&frame(1_700_000_000_123_456_789 + number), &mut account);
        }
        assert!(account.sent > 0 && account.in_flight > 0 && account.sent + account.in_flight == 20_000);
        file.finish(&mut account);
        let expected = DestinationLedger { sent: 20_000, bytes: 20_000 * 76, ..Default::default() };
        assert_eq!(account, expected);

        let mut capture = pcap::Capture::from_file_with_precision(path, pcap::Precision::Nano).unwrap();
        assert_eq!(capture.get_datalink(), pcap::Linktype::ETHERNET);
        for number in 0..20_000 {
            let packet = capture.next_packet().unwrap();
            assert_eq!((packet.data, packet.header.len), (&FRAME[..], 1514));
            assert_eq!((packet.header.ts.tv_sec, packet.header.ts.tv_usec), (1_700_000_000, 123_456_789 + number));
        }
        assert_eq!(capture.next_packet(), Err(pcap::Error::NoMorePackets));
    }

    #[test]
    fn a_reader_that_has_gone_closes_the_destination() {
        let (reader, writer) = io::pipe().unwrap();
        let mut file = writing_to(File::from(std::os::fd::OwnedFd::from(writer)));
        let mut account = DestinationLedger::default();
        file.offer(&frame(1), &mut account);
        file.flush(&mut account);
        assert_eq!((account.sent, account.bytes, file.is_closed()), (1, 76, false));

        drop(reader);
        file.offer(&frame(2), &mut account);
        file.flush(&mut account);
        assert!(file.is_closed());
        file.offer(&frame(3), &mut account);
        file.finish(&mut account);
        assert_eq!((account.sent, account.in_flight, account.dropped[DropReason::ReaderGone]), (1, 0, 2));
    }

    #[test]
    fn a_full_device_loses_what_it_does_not_take_and_is_tried_again() {
        let mut file = writing_to(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let mut account = DestinationLedger::default();
        for _ in 0..2 {
            file.offer(&frame(1), &mut account);
            file.flush(&mut account);
        }
        assert_eq!((account.sent, account.in_flight, account.dropped[DropReason::WriteFailed]), (0, 0, 2));
        assert!(!file.is_closed());
    }

    #[test]
    fn half_a_record_is_not_a_record() {
        let record = [&RecordHeader { timestamp: Timestamp::default(), captured: 4, wire_len: 4 }.bytes()[..], &[1; 4]];
        let two = [record.concat(), record.concat()].concat();
        assert_eq!(whole_records(&two), (2, 40));
        assert_eq!(whole_records(&two[..39]), (1, 20));
        assert_eq!(whole_records(&two[..25]), (1, 20));
        assert_eq!(whole_records(&two[..3]), (0, 0));
    }

    #[test]
    fn a_file_that_cannot_be_created_says_why() {
        for (path, hint) in [
            ("/nowhere-at-all/x.pcap", "its directory does not exist"),
            ("/", "name a file inside the directory"),
            ("/dev/full", "make room on its disk, or choose another one"),
        ] {
            let Err(error) = CaptureFile::create(&FilePath::Path(path.into())) else { panic!("{path} is no file") };
            assert_eq!(error.to_string(), format!("cannot write the capture file `{path}`"));
            assert_eq!(error.hint().as_deref(), Some(hint));
        }
    }
}
