//! A pipe or a device that capture records are written to, by a thread, through a bounded queue.
//!
//! A program reads the other end of a pipe, and may stop reading. A worker that writes there would block for as long as the
//! program likes. So workers put whole records into a queue, and a thread writes them. What becomes of each record is
//! reported to the worker that gave it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::Patience;
use super::super::records::Format;
use super::ending::Ending;
use crate::ledger::DropReason;
use crate::privilege;

/// Most bytes of one write.
const PIECE: usize = 256 * 1024;
/// The same where the descriptor may block: a pipe that is ready takes so many bytes at once (`PIPE_BUF`, pipe(7)).
const SMALL_PIECE: usize = 4096;
/// What a record costs in the queue beside its bytes.
const RECORD_COST: usize = size_of::<Record>();
/// Capacity that an empty queue keeps, in bytes.
const KEPT_CAPACITY: usize = 1 << 20;
/// How long the writer waits for the reader before it looks whether it is to end.
const NAP: Duration = Duration::from_millis(50);
/// How long an opening waits for room for the file header.
const HEADER_PATIENCE: Duration = Duration::from_secs(1);
/// How long a writer in the middle of a write is waited for. A write that does not block takes microseconds.
const WRITE_PATIENCE: Duration = Duration::from_millis(100);
/// How often it is said that a reader is too slow.
const SAY: Duration = Duration::from_mins(1);

/// The output. Clones are the same one; the thread ends when the last of them is dropped.
#[derive(Clone, Debug)]
pub(super) struct Stream(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// As messages call it.
    name: String,
    sink: Sink,
    state: Mutex<State>,
    /// There is something to write, or nothing more will come.
    news: Condvar,
    /// Something was written or lost.
    taken: Condvar,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    /// The records that `bytes` consists of.
    records: VecDeque<Record>,
    /// How much of the first record is written.
    begun: usize,
    /// How many bytes the thread is writing.
    in_hand: usize,
    outlets: BTreeMap<u32, Tally>,
    next_outlet: u32,
    /// When the reader last took something.
    progress: Instant,
    is_running: bool,
    is_closing: bool,
    /// Why nothing can be written any more.
    closed: Option<DropReason>,
    /// The error with which it could last not be written.
    refusal: Option<String>,
    /// When it was last said that the reader is too slow.
    said_slow: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    len: u32,
    /// Who gave it; [`NOBODY`] for a block without a frame.
    outlet: u32,
}

/// The number that no outlet has.
const NOBODY: u32 = 0;

/// What became of an outlet's records since it last asked.
#[derive(Debug, Default)]
struct Tally {
    runs: VecDeque<Run>,
    /// Records that wait.
    waiting: u64,
}

/// What became of records that were given one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::destination) struct Run {
    pub(in crate::destination) records: u64,
    pub(in crate::destination) bytes: u64,
    /// Why they are not written; `None` for records that the reader can read.
    pub(in crate::destination) lost: Option<DropReason>,
}

impl Stream {
    /// An output that begins with `header`. Waits a second at most for a reader that leaves no room for it; what is left then
    /// is the first thing in the queue.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn begin(name: String, sink: Sink, header: &[u8]) -> io::Result<Self> {
        let mut state = State {
            bytes: VecDeque::new(),
            records: VecDeque::new(),
            begun: 0,
            in_hand: 0,
            outlets: BTreeMap::new(),
            next_outlet: NOBODY,
            progress: Instant::now(),
            is_running: false,
            is_closing: false,
            closed: None,
            refusal: None,
            said_slow: None,
        };
        let begun = Instant::now();
        let mut written = 0;
        while written < header.len() && begun.elapsed() < HEADER_PATIENCE {
            if sink.is_ready(NAP) {
                written += sink.write(&header[written..])?;
            }
        }
        if written < header.len() {
            state.push(&header[written..], NOBODY);
        }
        let (news, taken) = (Condvar::new(), Condvar::new());
        Ok(Self(Arc::new(Handle(Arc::new(Shared { name, sink, state: Mutex::new(state), news, taken })))))
    }

    /// Puts a block without a frame into the queue, however full it is.
    pub(super) fn push_block(&self, block: &[u8]) {
        let mut state = self.state();
        if state.closed.is_none() {
            state.push(block, NOBODY);
            // A worker that gives records starts the thread: it has no more rights than a worker.
            drop(state);
            self.0.0.news.notify_one();
        }
    }

    /// Where one destination of a worker gives its records. The queue may hold `most` bytes when it gives some.
    pub(super) fn outlet(&self, format: Format, patience: Patience, most: usize, ending: Ending) -> Outlet {
        let mut state = self.state();
        state.next_outlet = state.next_outlet.wrapping_add(1).max(NOBODY + 1);
        let number = state.next_outlet;
        state.outlets.insert(number, Tally::default());
        drop(state);
        Outlet { stream: self.clone(), number, format, patience, most, ending, waiting: 0, pause: LEAST_PAUSE }
    }

    /// Why nothing can be written any more: the reader has ended, or a record broke off.
    pub(super) fn closed(&self) -> Option<DropReason> {
        self.state().closed
    }

    /// The error with which it could last not be written.
    pub(super) fn last_refusal(&self) -> Option<String> {
        self.state().refusal.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.state()
    }

    /// Has the thread write what is in the queue.
    fn run(&self, mut state: MutexGuard<'_, State>) {
        if !state.is_running {
            let (shared, session) = (Arc::clone(&self.0.0), tracing::Span::current());
            let write = move || {
                let _session = session.enter();
                privilege::renounce();
                shared.write_out();
            };
            // Started by the first worker that has something: it has the limits of the worker, and its priority.
            match thread::Builder::new().name("stream".to_owned()).spawn(write) {
                Ok(_) => state.is_running = true,
                Err(error) => {
                    let all = state.bytes.len();
                    state.fail(&error, all);
                    return;
                }
            }
        }
        drop(state);
        self.0.0.news.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state().is_closing = true;
        self.0.news.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes until nobody can give records any more.
    fn write_out(&self) {
        let mut piece = Vec::with_capacity(PIECE);
        while self.has_work() {
            if !self.sink.is_ready(NAP) {
                continue;
            }
            self.state().take_in_hand(&mut piece, self.sink.most());
            let written = if piece.is_empty() { Ok(0) } else { self.sink.write(&piece) };
            let mut state = self.state();
            let in_hand = std::mem::take(&mut state.in_hand);
            match written {
                Ok(0) => {}
                Ok(bytes) => state.advance(bytes),
                Err(error) => {
                    if state.refusal.is_none() && error.kind() != ErrorKind::BrokenPipe {
                        tracing::warn!("cannot write the capture file `{}`: {error}", self.name);
                    }
                    state.fail(&error, in_hand);
                }
            }
            drop(state);
            self.taken.notify_all();
        }
    }

    /// Waits until there is something to write. `false` when nobody waits for it.
    fn has_work(&self) -> bool {
        let mut state = self.state();
        while state.bytes.is_empty() && !state.is_closing {
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_closing
    }
}

impl State {
    fn push(&mut self, bytes: &[u8], outlet: u32) {
        self.bytes.extend(bytes);
        self.records.push_back(Record { len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), outlet });
    }

    /// Bytes that the queue takes.
    fn cost(&self) -> usize {
        self.bytes.len() + self.records.len() * RECORD_COST
    }

    /// Copies the first bytes, `most` at most.
    fn take_in_hand(&mut self, piece: &mut Vec<u8>, most: usize) {
        piece.clear();
        let (first, second) = self.bytes.as_slices();
        let first = &first[..first.len().min(most)];
        piece.extend_from_slice(first);
        piece.extend_from_slice(&second[..second.len().min(most - first.len())]);
        self.in_hand = piece.len();
    }

    /// So many bytes are written.
    fn advance(&mut self, bytes: usize) {
        self.bytes.drain(..bytes.min(self.bytes.len()));
        self.begun += bytes;
        while let Some(first) = self.records.front().copied().filter(|first| first.len as usize <= self.begun) {
            self.begun -= first.len as usize;
            self.records.pop_front();
            self.settle(first, None);
        }
        self.progress = Instant::now();
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT_CAPACITY);
            self.records.shrink_to(KEPT_CAPACITY / RECORD_COST);
        }
    }

    /// The kernel refused `in_hand` bytes: the records that begin in them are lost. Nothing can be written any more after half a
    /// record, without a reader, or when a block is lost that later records refer to.
    fn fail(&mut self, error: &io::Error, in_hand: usize) {
        let reason = match error.kind() {
            ErrorKind::BrokenPipe => DropReason::ReaderGone,
            _ => DropReason::WriteFailed,
        };
        self.refusal = Some(error.to_string());
        if reason == DropReason::ReaderGone || self.begun > 0 {
            self.closed = Some(reason);
        }
        let mut left = if self.closed.is_some() { usize::MAX } else { in_hand };
        while left > 0
            && let Some(record) = self.records.pop_front()
        {
            let here = record.len as usize - std::mem::take(&mut self.begun);
            self.bytes.drain(..here.min(self.bytes.len()));
            left = left.saturating_sub(here);
            if record.outlet == NOBODY {
                self.closed = Some(reason);
                left = usize::MAX;
            }
            self.settle(record, Some(reason));
        }
    }

    /// Reports to the outlet of `record` what became of it.
    fn settle(&mut self, record: Record, lost: Option<DropReason>) {
        let Some(tally) = self.outlets.get_mut(&record.outlet) else { return };
        tally.waiting = tally.waiting.saturating_sub(1);
        let bytes = u64::from(record.len);
        match tally.runs.back_mut().filter(|run| run.lost == lost) {
            Some(run) => {
                run.records += 1;
                run.bytes += bytes;
            }
            None => tally.runs.push_back(Run { records: 1, bytes, lost }),
        }
    }

    /// Takes the records of `outlet` out of the queue, which are lost. What is being written, and the rest of a record that is
    /// begun, stay: nothing but that rest can follow.
    fn withdraw(&mut self, outlet: u32) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let records = std::mem::take(&mut self.records);
        // Bytes of the first record that are gone from the queue.
        let (mut begun, mut in_hand) = (self.begun, self.in_hand);
        for record in records {
            let here = record.len as usize - std::mem::take(&mut begun);
            let mut these: VecDeque<u8> = bytes.drain(..here.min(bytes.len())).collect();
            let is_begun = in_hand > 0 || (self.records.is_empty() && self.begun > 0);
            in_hand = in_hand.saturating_sub(here);
            if record.outlet != outlet {
                self.bytes.append(&mut these);
                self.records.push_back(record);
                continue;
            }
            self.settle(record, Some(DropReason::Stopping));
            if is_begun {
                self.bytes.append(&mut these);
                self.records.push_back(Record { outlet: NOBODY, ..record });
            }
        }
    }
}

/// The shortest pause between two looks at what became of records.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// The longest one.
const MOST_PAUSE: Duration = Duration::from_millis(100);

/// Where one destination of a worker gives its records, and learns what became of them.
#[derive(Debug)]
pub(in crate::destination) struct Outlet {
    stream: Stream,
    number: u32,
    format: Format,
    patience: Patience,
    /// Most bytes in the queue.
    most: usize,
    ending: Ending,
    /// Records that were given and not reported yet.
    waiting: u64,
    /// Until the next look.
    pause: Duration,
}

impl Outlet {
    /// Gives whole records, all of them or none: a queue without room for them refuses them (live), or is waited for (a replay).
    ///
    /// # Errors
    /// Why they are lost.
    pub(in crate::destination) fn give(&mut self, records: &[u8]) -> Result<(), DropReason> {
        let (count, _) = self.format.whole_records(records, usize::MAX);
        let cost = records.len() + usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(RECORD_COST);
        let begun = Instant::now();
        let mut state = self.stream.state();
        loop {
            if let Some(reason) = state.closed {
                return Err(reason);
            }
            if state.records.is_empty() || state.cost() + cost <= self.most {
                break;
            }
            match self.patience {
                Patience::Drop => {
                    let is_said = state.said_slow.is_some_and(|said| begun.duration_since(said) < SAY);
                    if !is_said {
                        state.said_slow = Some(begun);
                        drop(state);
                        say_slow(&self.stream.0.0.name);
                    }
                    return Err(DropReason::ReaderSlow);
                }
                Patience::Wait if self.ending.is_over(state.progress, None) => return Err(DropReason::Stopping),
                Patience::Wait => state = self.nap(state),
            }
        }
        let mut rest = records;
        while let Some(len) = self.format.record_len(rest).filter(|&len| len > 0 && len <= rest.len()) {
            state.push(&rest[..len], self.number);
            rest = &rest[len..];
        }
        if let Some(tally) = state.outlets.get_mut(&self.number) {
            tally.waiting += count;
        }
        self.waiting += count;
        self.pause = LEAST_PAUSE;
        self.stream.run(state);
        Ok(())
    }

    /// What became of records since this was last asked.
    pub(in crate::destination) fn collect(&mut self) -> VecDeque<Run> {
        if self.waiting == 0 {
            return VecDeque::new();
        }
        let mut state = self.stream.state();
        let runs = state.outlets.get_mut(&self.number).map(|tally| std::mem::take(&mut tally.runs)).unwrap_or_default();
        drop(state);
        self.waiting -= runs.iter().map(|run| run.records).sum::<u64>().min(self.waiting);
        if runs.is_empty() {
            self.pause = (self.pause * 2).min(MOST_PAUSE);
        }
        runs
    }

    /// When it is to be asked again, if anything waits.
    pub(in crate::destination) fn deadline(&self, now: Instant) -> Option<Instant> {
        (self.waiting > 0).then(|| now + self.pause)
    }

    /// Waits until everything is written: for a replay without end, otherwise as long as the reader reads, and for some seconds
    /// at most. What is left then is lost. Afterwards nothing waits.
    pub(in crate::destination) fn finish(&mut self) {
        let from = (self.patience == Patience::Drop).then(Instant::now);
        let mut state = self.stream.state();
        if state.waits_for(self.number) {
            // What a file begins with may be all that there is.
            self.stream.run(state);
            state = self.stream.state();
        }
        while state.waits_for(self.number) && !self.ending.is_over(state.progress, from) {
            state = self.nap(state);
        }
        if !state.waits_for(self.number) {
            return;
        }
        let until = Instant::now() + WRITE_PATIENCE;
        while state.in_hand > 0 && Instant::now() < until {
            state = self.nap(state);
        }
        state.withdraw(self.number);
    }

    /// Why nothing can be written any more.
    pub(in crate::destination) fn closed(&self) -> Option<DropReason> {
        self.stream.closed()
    }

    fn nap<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let taken = &self.stream.0.0.taken;
        taken.wait_timeout(state, NAP).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    fn waits_for(&self, outlet: u32) -> bool {
        self.outlets.get(&outlet).is_some_and(|tally| tally.waiting > 0)
            // Or it is a file header that is left.
            || (!self.records.is_empty() && self.records.iter().all(|record| record.outlet == NOBODY))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut state = self.stream.state();
        // Records of a worker that crashed are still written.
        state.outlets.remove(&self.number);
    }
}

#[cold]
fn say_slow(name: &str) {
    tracing::warn!(
        "the program that reads `{name}` is slower than the mirror: frames are dropped as {}; {}",
        DropReason::ReaderSlow.label(),
        DropReason::ReaderSlow.remedy()
    );
}

/// The descriptor that is written.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// Whether a write returns at once.
    never_blocks: bool,
}

impl Sink {
    /// What was opened with `O_NONBLOCK`, by an open file description that no other process has.
    pub(super) fn opened(file: File) -> Self {
        Self { file, never_blocks: true }
    }

    /// What another process may have, too, such as standard output: its flags stay as they are. A pipe is opened once more,
    /// where the kernel lets this process do that.
    pub(super) fn inherited(file: File) -> Self {
        let is_pipe = file.metadata().is_ok_and(|found| found.file_type().is_fifo());
        let again = is_pipe.then(|| {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
        });
        match again {
            Some(Ok(file)) => Self::opened(file),
            _ => Self { file, never_blocks: false },
        }
    }

    /// Waits until something can be written, so long at most. Also when the reader has ended: the write says so.
    fn is_ready(&self, patience: Duration) -> bool {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)], timeout).is_ok_and(|ready| ready > 0)
    }

    /// Most bytes of one write.
    fn most(&self) -> usize {
        if self.never_blocks { PIECE } else { SMALL_PIECE }
    }

    /// Writes what there is room for; 0 where there is none.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(self.most())];
        match (&self.file).write(bytes) {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
