//! A capture file with several writers, or a series of them: one batch of records after the other.

mod current;
mod ending;
mod guard;
mod stream;
#[cfg(test)]
mod tests;

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};

use super::Patience;
use super::file_series::FileSeries;
use super::output_file::{self, OutputFile, Refused};
use super::records::Format;
use crate::config::local_end::{CaptureFilePlan, Rotation, Sync};
use crate::config::plan::FilePath;
use crate::error::Explain;
use crate::ledger::DropReason;
use crate::wire::pcapng::Interface;
use current::{Current, Harm, write_as_much_as_possible};

pub use ending::Ending;
pub(super) use stream::{Outlet, Run};
use stream::{Sink, Stream};

/// Why a capture file cannot be written from the start.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the capture file `{file}`")]
pub struct CannotCreate {
    file: String,
    #[source]
    cause: io::Error,
}

impl CannotCreate {
    /// Why it is refused although the kernel would write it.
    fn refused(&self) -> Option<&Refused> {
        Refused::of(&self.cause)
    }

    /// What keeps the files of `plan` from being written, as far as that can be told without creating one.
    pub fn in_the_way(plan: &CaptureFilePlan) -> Option<Self> {
        let FilePath::Path(path) = &plan.file else { return None };
        if let Some(refused) = output_file::in_the_way(path).filter(|_| !plan.rotation.is_on()) {
            return Some(Self { file: path.display().to_string(), cause: refused.into() });
        }
        let may = if !plan.rotation.is_on() && path.exists() {
            access(path, AccessFlags::W_OK)
        } else {
            // With the dot, a file in the directory's place is not taken for one that nobody may enter.
            let directory = path.parent().unwrap_or(Path::new("")).join(".");
            access(&directory, AccessFlags::W_OK | AccessFlags::X_OK)
        };
        may.err().map(|error| Self { file: path.display().to_string(), cause: error.into() })
    }
}

impl Explain for CannotCreate {
    fn hint(&self) -> Option<String> {
        if let Some(refused) = self.refused() {
            return refused.hint();
        }
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

/// A capture file, a series of them, or standard output, that several destinations and workers may write: a batch of
/// records after the other, never mixed. Each file is complete: it has its own header, no record straddles two, and none
/// ends with half a record, because what a full disk cut off is taken back.
#[derive(Clone, Debug)]
pub(super) struct SharedFile {
    /// What the file consists of.
    pub(super) format: Format,
    /// Whether time alone may end a file.
    pub(super) rotates_by_time: bool,
    output: Arc<Mutex<Output>>,
}

#[derive(Debug)]
struct Output {
    /// As messages call it.
    name: String,
    format: Format,
    /// In pcapng: the interfaces of the section at hand, by their number.
    interfaces: Vec<Known>,
    /// Blocks that stand in front of the next record: what is new about interfaces.
    pending: Vec<u8>,
    rotation: Rotation,
    sync: Sync,
    /// Where the next file comes from; `None` for standard output.
    series: Option<FileSeries>,
    /// The file at hand. There is none while the next one of a series cannot be begun.
    current: Option<Current>,
    /// What is written instead of a file, where a program may read it: a pipe or a device.
    stream: Option<Stream>,
    /// The thread that waits for the disk to have the last complete file.
    syncing: Option<JoinHandle<()>>,
    /// Why nothing can be written any more.
    closed: Option<DropReason>,
    /// With which error it could last not be written. The first one is said in the log.
    refusal: Option<String>,
    /// When it is looked at again whether the file at hand is still the one at its path.
    look_at: Instant,
    /// When it was last said that it is not.
    said_at: Option<Instant>,
    /// Frames that were found lost while no worker looked.
    lost_aside: u64,
    /// Whether the guard looks, too.
    is_guarded: bool,
    /// Whose messages it writes.
    session: tracing::Span,
}

/// An interface that a file knows.
#[derive(Debug)]
struct Known {
    interface: Interface,
    /// How many there are whose records may name it.
    users: usize,
}

/// So many interfaces that nobody uses any more keep their numbers. Then their numbers are for others, in a new section:
/// where containers come and go for years, a file does not begin with all that there ever were.
const MOST_UNUSED: usize = 256;

/// How often it is looked at whether the file at hand is still the one at its path, while it is written.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is said that it is not, where somebody cuts or removes it again and again.
const SAY: Duration = Duration::from_mins(1);

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
    /// Creates the first file, or takes standard output, and writes the file header.
    pub(super) fn create(plan: &CaptureFilePlan) -> Result<Self, CannotCreate> {
        let name = match &plan.file {
            FilePath::Standard => "-".to_owned(),
            FilePath::Path(path) => path.display().to_string(),
        };
        let format = Format::of(&plan.file);
        let mut output = Output {
            name,
            format,
            interfaces: Vec::new(),
            pending: Vec::new(),
            rotation: plan.rotation,
            sync: plan.sync,
            series: match &plan.file {
                FilePath::Standard => None,
                FilePath::Path(path) => Some(FileSeries::new(path, &plan.rotation, plan.mode)),
            },
            current: None,
            stream: None,
            syncing: None,
            closed: None,
            refusal: None,
            look_at: Instant::now() + LOOK,
            said_at: None,
            lost_aside: 0,
            is_guarded: false,
            session: tracing::Span::current(),
        };
        match output.begin() {
            Ok(()) => Ok(Self::over(output)),
            Err(cause) => Err(CannotCreate { file: output.name, cause }),
        }
    }

    fn over(output: Output) -> Self {
        let (format, rotates_by_time) = (output.format, output.rotation.time.is_some());
        Self { format, rotates_by_time, output: Arc::new(Mutex::new(output)) }
    }

    /// The number by which the file knows `interface` until it is [released](Self::release), which is added to it unless
    /// it is there already. In pcap, which knows no interfaces, always 0.
    pub(super) fn number_of(&self, interface: Interface) -> Result<u32, CannotCreate> {
        let mut output = self.output();
        let number = output.number_of(interface);
        output.write_pending().map_err(|cause| CannotCreate { file: output.name.clone(), cause })?;
        Ok(number)
    }

    /// The same while records are written. Where that is not possible now, no record can be written either, and it is tried
    /// again with the next one.
    pub(super) fn number_of_another(&self, interface: Interface) -> u32 {
        self.output().number_of(interface)
    }

    /// No further record will have this number, unless another user has it too.
    pub(super) fn release(&self, number: u32) {
        let mut output = self.output();
        let known = usize::try_from(number).ok().and_then(|at| output.interfaces.get_mut(at));
        if let Some(known) = known {
            known.users = known.users.saturating_sub(1);
        }
    }

    /// The same for one of many. `None` where the interfaces, with which every file of a series begins, would leave too
    /// little room for its records.
    pub(super) fn number_of_one_of_many(&self, interface: Interface) -> Option<u32> {
        let mut output = self.output();
        let is_known = output.interfaces.iter().any(|known| known.interface == interface);
        (is_known || output.may_have_another()).then(|| output.number_of(interface))
    }

    /// Where one destination of a worker gives its records, if a program may read them: a pipe or a device. The queue in front
    /// of it may hold `most` bytes.
    pub(super) fn outlet(&self, patience: Patience, most: usize, ending: &Ending) -> Option<Outlet> {
        let output = self.output();
        output.stream.as_ref().map(|stream| stream.outlet(output.format, patience, most, ending.clone()))
    }

    /// Gives whole records to `outlet`, behind what the file is to know about their interfaces. All of them or none.
    ///
    /// # Errors
    /// Why they are lost.
    pub(super) fn give(&self, outlet: &mut Outlet, records: &[u8]) -> Result<(), DropReason> {
        // The lock is free again before a reader is waited for.
        self.output().push_pending();
        outlet.give(records)
    }

    /// Appends whole records to a file.
    pub(super) fn append(&self, records: &[u8]) -> Written {
        self.output().append(records)
    }

    /// Whether nothing can be written any more. Whoever is still writing would know that it can.
    pub(super) fn is_closed(&self) -> bool {
        let is_closed = |output: MutexGuard<'_, Output>| {
            output.closed.is_some() || output.stream.as_ref().is_some_and(|stream| stream.closed().is_some())
        };
        self.output.try_lock().is_ok_and(is_closed)
    }

    /// The error with which it could last not be written.
    pub(super) fn last_refusal(&self) -> Option<String> {
        let output = self.output();
        output.stream.as_ref().map_or_else(|| output.refusal.clone(), Stream::last_refusal)
    }

    /// Ends the file at hand if its time is over: the next record begins another one.
    pub(super) fn look_at_the_time(&self, now: Instant) {
        self.output().look_at_the_time(now);
    }

    /// When the time of the file at hand is over, if it has one and any record.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.output().deadline()
    }

    /// Looks whether the file at hand is still the one at its path, if it is time, and begins another one if it is not. Says
    /// how many frames that were written are lost.
    pub(super) fn look(&self, now: Instant) -> u64 {
        let mut output = self.output();
        if !output.is_guarded && output.series.is_some() {
            output.is_guarded = true;
            guard::watch(&self.output);
        }
        output.look(now) + std::mem::take(&mut output.lost_aside)
    }

    /// Waits until the disk has everything, where the plan wants that. Says how many frames that were written are lost,
    /// because somebody cut or removed the file.
    pub(super) fn finish(&self) -> u64 {
        let mut output = self.output();
        output.finish() + std::mem::take(&mut output.lost_aside)
    }

    /// When it is time to [look](Self::look) again.
    pub(super) fn next_look(now: Instant) -> Instant {
        now + LOOK
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        // A poisoned lock guards nothing that could be half done: `whole` is written last.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output {
    /// Begins the next file, or standard output, with its header.
    fn begin(&mut self) -> io::Result<()> {
        let (file, path, place) = match &mut self.series {
            None => {
                let file = io::stdout().as_fd().try_clone_to_owned().map(File::from)?;
                if may_block(&file.metadata()?) {
                    return self.begin_stream(Sink::inherited(file));
                }
                (file, None, None)
            }
            Some(series) => {
                let (path, OutputFile { file, identity }) = series.begin()?;
                if identity.is_none() && may_block(&file.metadata()?) {
                    return self.begin_stream(Sink::opened(file));
                }
                let place = identity.map(|identity| (path.clone(), identity));
                (file, Some(path), place)
            }
        };
        let can_be_cut = place.is_some();
        let mut current = Current { file, place, whole: None, records: 0, since: Instant::now() };
        let header = self.header();
        if let Err(error) = current.file.write_all(&header) {
            // Half a header is no capture file. What was a device or a pipe stays where it was.
            if let Some(path) = path.filter(|_| can_be_cut && self.rotation.is_on()) {
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        self.pending.clear();
        current.whole = can_be_cut.then_some(header.len() as u64);
        if let (Some(series), Some(path)) = (&mut self.series, path) {
            series.settle(path);
        }
        self.current = Some(current);
        Ok(())
    }

    /// Begins a pipe or a device with the header of a file.
    fn begin_stream(&mut self, sink: Sink) -> io::Result<()> {
        let header = self.header();
        self.stream = Some(Stream::begin(self.name.clone(), sink, &header)?);
        self.pending.clear();
        Ok(())
    }

    /// Gives to a pipe or device what stands in front of the next record.
    fn push_pending(&mut self) {
        if let Some(stream) = self.stream.as_ref().filter(|_| !self.pending.is_empty()) {
            stream.push_block(&self.pending);
            self.pending.clear();
        }
    }

    /// Whether a file that is rotated still has most of its size for records.
    fn may_have_another(&self) -> bool {
        self.rotation.size.is_none_or(|size| self.header().len() as u64 <= size / 4)
    }

    /// What each file and each section begins with: the header, and in pcapng the interfaces.
    fn header(&self) -> Vec<u8> {
        let interfaces = self.interfaces.iter().map(|known| known.interface.block());
        std::iter::once(self.format.file_header()).chain(interfaces).collect::<Vec<_>>().concat()
    }

    fn number_of(&mut self, interface: Interface) -> u32 {
        if self.format == Format::Pcap {
            return 0;
        }
        let at = self.interfaces.iter().position(|known| known.interface == interface).unwrap_or_else(|| {
            let mut unused = (0..self.interfaces.len()).filter(|&at| self.interfaces[at].users == 0);
            let first = unused.next();
            if let Some(first) = first
                && unused.count() >= MOST_UNUSED
            {
                // Whoever has a number keeps it: sections differ in those that nobody has.
                self.interfaces[first].interface = interface;
                self.pending = self.header();
                return first;
            }
            self.pending.extend_from_slice(&interface.block());
            self.interfaces.push(Known { interface, users: 0 });
            self.interfaces.len() - 1
        });
        self.interfaces[at].users += 1;
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// Writes what stands in front of the next record, unless the next file begins with it.
    fn write_pending(&mut self) -> io::Result<()> {
        self.push_pending();
        if let Some(current) = self.current.as_mut().filter(|_| !self.pending.is_empty()) {
            current.write_block(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn append(&mut self, records: &[u8]) -> Written {
        let mut bytes = 0;
        while bytes < records.len() {
            if self.closed.is_some() {
                return Written { bytes, lost: self.closed, closed: true };
            }
            match self.append_some(&records[bytes..]) {
                Ok(more) => bytes += more,
                Err((more, reason)) => {
                    return Written { bytes: bytes + more, lost: Some(reason), closed: self.closed.is_some() };
                }
            }
        }
        Written { bytes, lost: None, closed: false }
    }

    /// Appends as many records as the file at hand may take, or the first one to the next file. When that fails: the
    /// length of the whole records that stand, and why the others do not.
    fn append_some(&mut self, records: &[u8]) -> Result<usize, (usize, DropReason)> {
        let format = self.format;
        // A record that is larger than a file may be has one for itself.
        let first = format.record_len(records).unwrap_or(records.len()).min(records.len());
        if self.current.as_ref().is_some_and(|current| current.records > 0 && self.room(current) < first) {
            self.end();
        }
        if self.current.is_none()
            && let Err(error) = self.begin()
        {
            return Err((0, self.give_up(&error, false)));
        }
        if let Err(error) = self.write_pending() {
            return Err((0, self.give_up(&error, true)));
        }
        let room = self.current.as_ref().map_or(0, |current| self.room(current));
        let part = if records.len() <= room {
            records
        } else {
            let (_, fitting) = format.whole_records(records, room);
            &records[..fitting.max(first)]
        };
        let Some(current) = &mut self.current else { return Err((0, DropReason::WriteFailed)) };
        let (written, result) = write_as_much_as_possible(&mut current.file, part);
        let (records, bytes) = format.whole_records(&part[..written], usize::MAX);
        current.whole = current.whole.map(|whole| whole + bytes as u64);
        current.records += records;
        match result {
            Ok(()) if self.sync == Sync::Flush => {
                let synced = current.file.sync_data();
                self.complain_of(synced.err().as_ref());
                Ok(bytes)
            }
            Ok(()) => Ok(bytes),
            Err(error) => Err((bytes, self.give_up(&error, written > bytes))),
        }
    }

    /// How many bytes the file at hand may still take.
    fn room(&self, current: &Current) -> usize {
        let limit = self.rotation.size.unwrap_or(u64::MAX);
        usize::try_from(limit.saturating_sub(current.len())).unwrap_or(usize::MAX)
    }

    /// Decides what a failed write means for the records after it.
    fn give_up(&mut self, error: &io::Error, broke_off: bool) -> DropReason {
        let reason = match error.kind() {
            ErrorKind::BrokenPipe => DropReason::ReaderGone,
            _ => DropReason::WriteFailed,
        };
        self.complain_of(Some(error));
        let repaired = self.current.as_mut().is_some_and(|current| current.take_back().is_ok());
        if reason == DropReason::ReaderGone || (broke_off && !repaired) {
            self.closed = Some(reason);
        }
        reason
    }

    fn complain_of(&mut self, error: Option<&io::Error>) {
        let Some(error) = error else { return };
        if self.refusal.replace(error.to_string()).is_none() {
            tracing::warn!("cannot write the capture file `{}`: {error}", self.name);
        }
    }

    fn look_at_the_time(&mut self, now: Instant) {
        if self.deadline().is_some_and(|over| now >= over) {
            self.end();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let current = self.current.as_ref().filter(|current| current.records > 0)?;
        self.rotation.time.and_then(|time| current.since.checked_add(time))
    }

    /// Ends the file at hand. The disk may take its time, and frames come in meanwhile: a thread waits for it, one at a
    /// time, so that a disk that is too slow for the mirror slows it down.
    fn end(&mut self) {
        let Some(Current { file, .. }) = self.current.take() else { return };
        if self.sync == Sync::Off {
            return;
        }
        self.wait_for_disk();
        let name = self.name.clone();
        let sync = move || say_of_sync(&name, file.sync_all());
        // Without a thread the file is closed unsynced, as the kernel likes.
        self.syncing = thread::Builder::new().name("sync".to_owned()).spawn(sync).ok();
    }

    fn look(&mut self, now: Instant) -> u64 {
        if now < self.look_at {
            return 0;
        }
        self.look_now(now)
    }

    fn look_now(&mut self, now: Instant) -> u64 {
        self.look_at = now + LOOK;
        let Some(harm) = self.current.as_ref().and_then(Current::harm) else { return 0 };
        let lost = self.give_up_file(harm);
        if let Err(error) = self.begin() {
            self.complain_of(Some(&error));
        }
        lost
    }

    /// Leaves the file at hand, which is not the one at its path any more, or not whole.
    fn give_up_file(&mut self, harm: Harm) -> u64 {
        let lost = match (&self.current, harm) {
            (Some(current), Harm::Cut | Harm::Removed) => current.records,
            (_, Harm::Moved) | (None, _) => 0,
        };
        if self.said_at.is_none_or(|said| said.elapsed() >= SAY) {
            self.said_at = Some(Instant::now());
            let name = &self.name;
            match harm {
                Harm::Cut => {
                    tracing::warn!("somebody cut the capture file `{name}`: {lost} frames are lost; it is begun again");
                }
                Harm::Removed => {
                    tracing::warn!(
                        "somebody removed the capture file `{name}`: {lost} frames are lost; it is begun again"
                    );
                }
                Harm::Moved => tracing::warn!("somebody moved the capture file `{name}`; it is begun again"),
            }
        }
        if harm == Harm::Moved {
            self.end();
        } else {
            self.current = None;
        }
        lost
    }

    fn finish(&mut self) -> u64 {
        let harm = self.current.as_ref().and_then(Current::harm);
        let lost = harm.map_or(0, |harm| self.give_up_file(harm));
        self.wait_for_disk();
        if let Some(current) = self.current.as_ref().filter(|_| self.sync != Sync::Off) {
            say_of_sync(&self.name, current.file.sync_all());
        }
        lost
    }

    fn wait_for_disk(&mut self) {
        if let Some(thread) = self.syncing.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

fn say_of_sync(name: &str, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!("the disk may lack a part of the capture file `{name}`: {error}");
    }
}

/// Whether a program at the other end decides when a write returns. `/dev/null` (1:3, null(4)) has no other end.
fn may_block(found: &Metadata) -> bool {
    let is_null = found.file_type().is_char_device() && found.rdev() == nix::sys::stat::makedev(1, 3);
    !found.is_file() && !is_null
}

#[cfg(test)]
impl SharedFile {
    /// Writes pcap behind what `file`, a pipe or a device, holds already.
    pub(super) fn writing_to(file: File) -> Self {
        let stream = Stream::begin("test".to_owned(), Sink::inherited(file), &[]).unwrap();
        Self::over(Output {
            name: "test".to_owned(),
            format: Format::Pcap,
            interfaces: Vec::new(),
            pending: Vec::new(),
            rotation: Rotation::default(),
            sync: Sync::Off,
            series: None,
            current: None,
            stream: Some(stream),
            syncing: None,
            closed: None,
            refusal: None,
            look_at: Instant::now() + LOOK,
            said_at: None,
            lost_aside: 0,
            is_guarded: false,
            session: tracing::Span::current(),
        })
    }
}
