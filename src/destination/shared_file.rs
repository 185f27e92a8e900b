//! A capture file with several writers: nanosecond pcap, one batch of records after the other.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::plan::FilePath;
use crate::error::Explain;
use crate::ledger::DropReason;
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
            ErrorKind::NotFound => Some("its directory does not exist".to_owned()),
            ErrorKind::PermissionDenied => Some("choose a directory that you may write to".to_owned()),
            ErrorKind::IsADirectory => Some("name a file inside the directory".to_owned()),
            ErrorKind::StorageFull => Some("make room on its disk, or choose another one".to_owned()),
            ErrorKind::BrokenPipe => Some("the program that was to read standard output has ended".to_owned()),
            _ => None,
        }
    }
}

/// A nanosecond pcap file, or standard output, that several destinations and workers may write: a batch of records after
/// the other, never mixed. It never ends with half a record: what a full disk cut off is taken back.
#[derive(Clone, Debug)]
pub(super) struct SharedFile(Arc<Mutex<Output>>);

#[derive(Debug)]
struct Output {
    name: String,
    file: File,
    /// Length of the file up to its last whole record; `None` for what cannot be cut: a pipe, standard output.
    whole: Option<u64>,
    /// Why nothing can be written any more.
    closed: Option<DropReason>,
    /// Whether a failed write was said; it is said once.
    complained: bool,
}

/// What became of a batch of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Length of the records that stand in the file, from the batch's beginning; always whole ones.
    pub(super) bytes: usize,
    /// Why the others do not, if there are any.
    pub(super) lost: Option<DropReason>,
    /// Whether nothing can be written any more: the reader of the pipe has ended, or a record broke off in it.
    pub(super) closed: bool,
}

impl SharedFile {
    /// Creates the file, or takes standard output, and writes the file header.
    pub(super) fn create(path: &FilePath) -> Result<Self, CannotCreate> {
        let (name, file) = match path {
            FilePath::Standard => ("-".to_owned(), io::stdout().as_fd().try_clone_to_owned().map(File::from)),
            FilePath::Path(path) => {
                (path.display().to_string(), OpenOptions::new().write(true).create(true).truncate(true).open(path))
            }
        };
        let cannot = |cause| CannotCreate { file: name.clone(), cause };
        let mut file = file.map_err(cannot)?;
        let header = FileHeader::bytes();
        file.write_all(&header).map_err(cannot)?;
        let can_be_cut = *path != FilePath::Standard && file.metadata().is_ok_and(|metadata| metadata.is_file());
        let whole = can_be_cut.then_some(header.len() as u64);
        Ok(Self::over(name, file, whole))
    }

    /// Writes behind what `file` holds already.
    pub(super) fn over(name: String, file: File, whole: Option<u64>) -> Self {
        Self(Arc::new(Mutex::new(Output { name, file, whole, closed: None, complained: false })))
    }

    /// Appends whole records. Waits while a pipe is full.
    pub(super) fn append(&self, records: &[u8]) -> Written {
        // A poisoned lock guards nothing that could be half done: `whole` is written last.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(records)
    }
}

impl Output {
    fn append(&mut self, records: &[u8]) -> Written {
        if self.closed.is_some() {
            return Written { bytes: 0, lost: self.closed, closed: true };
        }
        let (written, result) = write_as_much_as_possible(&mut self.file, records);
        let (_, bytes) = whole_records(&records[..written]);
        self.whole = self.whole.map(|whole| whole + bytes as u64);
        let lost = result.err().map(|error| self.give_up(&error, written > bytes));
        Written { bytes, lost, closed: self.closed.is_some() }
    }

    /// Decides what a failed write means for the records after it.
    fn give_up(&mut self, error: &io::Error, broke_off: bool) -> DropReason {
        let reason = match error.kind() {
            ErrorKind::BrokenPipe => DropReason::ReaderGone,
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
        self.file.set_len(whole)?;
        self.file.seek(SeekFrom::Start(whole)).map(|_| ())
    }
}

/// Writes until everything is written or the kernel refuses; tells how many bytes it took.
fn write_as_much_as_possible(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else made the pipe at standard output non-blocking; waiting for its reader is still right.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// How many whole records `records` begins with, and their length in bytes.
pub(super) fn whole_records(records: &[u8]) -> (u64, usize) {
    let (mut count, mut end) = (0, 0);
    while let Some(length) = RecordHeader::record_len(&records[end..]).filter(|length| end + length <= records.len()) {
        count += 1;
        end += length;
    }
    (count, end)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::Shared;
    use super::*;
    use crate::quantity::Timestamp;

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
    fn batches_of_several_workers_do_not_mix() {
        const BATCHES: usize = 200;
        let directory = tempfile::tempdir().unwrap();
        let path = FilePath::Path(directory.path().join("shared.pcap"));
        let mut ends = Shared::new(&[], 0);
        let batch = |worker: u8| {
            let header = RecordHeader { timestamp: Timestamp::default(), captured: 1000, wire_len: 1000 };
            [&header.bytes()[..], &[worker; 1000]].concat().repeat(7)
        };
        thread::scope(|scope| {
            for worker in 1..=3_u8 {
                let file = ends.file(&path).unwrap();
                scope.spawn(move || {
                    for _ in 0..BATCHES {
                        let records = batch(worker);
                        let written = Written { bytes: records.len(), lost: None, closed: false };
                        assert_eq!(file.append(&records), written);
                    }
                });
            }
        });
        let mut capture = pcap::Capture::from_file(directory.path().join("shared.pcap")).unwrap();
        let mut seen = Vec::new();
        while let Ok(packet) = capture.next_packet() {
            assert!(packet.data.len() == 1000 && packet.data.iter().all(|byte| *byte == packet.data[0]));
            seen.push(packet.data[0]);
        }
        assert_eq!(seen.len(), 3 * BATCHES * 7);
        assert!(seen.chunks(7).all(|batch| batch.iter().all(|worker| worker == &batch[0])), "a batch after the other");
    }
}
