//! Output that may block, written by threads that may wait.
//!
//! Standard error, standard output, the journal and the service manager are read by other programs. When such a program
//! stops reading, a write to it blocks for as long as the program likes. Workers and the control plane therefore put their
//! output into a bounded queue, and a thread writes it. A queue that is full drops what comes and counts it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::privilege;

/// Most bytes that wait in one queue.
const MOST_BYTES: usize = 1 << 20;
/// Most entries that wait in one queue.
const MOST_ENTRIES: usize = 8192;
/// Most bytes of one write: a pipe takes `PIPE_BUF` bytes as a whole (pipe(7)), and a reader's progress shows in between.
const CHUNK: usize = 4096;

/// How long somebody who waits for a reader sleeps at most before looking at the time.
const NAP: Duration = Duration::from_millis(20);

/// Log lines that were dropped because nobody took them in time.
static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);
static STANDARD_ERROR: OnceLock<Spool> = OnceLock::new();
static STANDARD_OUTPUT: OnceLock<Spool> = OnceLock::new();
/// Every spool of this process, for [`renew`] and [`settle`].
static ALL: Mutex<Vec<Spool>> = Mutex::new(Vec::new());

thread_local! {
    /// What the thread of a spool says itself while it writes: it goes out at once, in front of what waits.
    static ASIDE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// How many log lines were dropped so far, because nobody took them in time.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES.load(Ordering::Relaxed)
}

/// The spool of standard error.
pub fn standard_error() -> &'static Spool {
    STANDARD_ERROR.get_or_init(|| Spool::start("standard-error", Content::Lines, Descriptor::of(io::stderr())))
}

/// The spool of standard output.
pub fn standard_output() -> &'static Spool {
    STANDARD_OUTPUT.get_or_init(|| Spool::start("standard-output", Content::Results, Descriptor::of(io::stdout())))
}

/// Has other threads go on with all spools, which have the limits and the confinement of the thread that calls this. To be
/// called after privileges were given up.
pub fn renew() {
    for spool in &*all() {
        spool.shared.state().generation += 1;
        spool.shared.news.notify_all();
        // Without a thread, whoever waits for the spool writes itself.
        let _ = spool.run();
    }
}

/// Waits until everything is written that was put into any spool, as long as `patience` lets it. Whether it is.
pub fn settle(patience: Patience) -> bool {
    /// How often it is looked at.
    const LOOK: Duration = Duration::from_millis(5);
    let spools = all().clone();
    let begun = Instant::now();
    let (mut seen, mut since) = (0, begun);
    loop {
        let waiting: Vec<&Spool> = spools.iter().filter(|spool| !spool.is_drained()).collect();
        if waiting.is_empty() {
            return true;
        }
        for spool in &waiting {
            spool.write_without_thread();
        }
        let progress = spools.iter().map(Spool::progress).fold(0, u64::wrapping_add);
        if progress != seen {
            (seen, since) = (progress, Instant::now());
        }
        if patience.is_over(begun, since) {
            return false;
        }
        thread::sleep(LOOK);
    }
}

fn all() -> MutexGuard<'static, Vec<Spool>> {
    // Handles only, each whole.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long somebody waits for a spool to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until everything is written. For a command that a signal can end meanwhile.
    Endless,
    /// For as long as the reader takes something within this time, and for ten times of it at most.
    Stalled(Duration),
}

impl Patience {
    /// Whether somebody who has waited since `begun` gives up, when the reader took something `since`.
    fn is_over(self, begun: Instant, since: Instant) -> bool {
        match self {
            Self::Endless => false,
            Self::Stalled(stall) => since.elapsed() >= stall || begun.elapsed() >= stall.saturating_mul(10),
        }
    }
}

/// What a spool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Log lines: dropped ones are counted, and said where they are missing.
    Lines,
    /// Results that somebody asked for: dropped ones are said in the log.
    Results,
    /// Messages whose loss nobody is told of.
    Notices,
}

/// Where a spool writes to. It may block.
pub trait Sink: Send + 'static {
    /// Writes one entry. `progress` is called whenever a part of it was taken.
    ///
    /// # Errors
    /// When the rest of the entry cannot be written.
    fn write(&mut self, entry: &[u8], progress: &mut dyn FnMut()) -> io::Result<()>;
}

/// A queue in front of something that may block. A clone is another handle on the same one.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    content: Content,
    state: Mutex<State>,
    /// Something is to be written, or another thread is to write.
    news: Condvar,
    /// Something has been taken.
    taken: Condvar,
    /// Held by the thread that writes, for as long as it is the one.
    sink: Mutex<Box<dyn Sink>>,
}

struct State {
    queue: VecDeque<Entry>,
    /// Bytes in the queue.
    bytes: usize,
    /// Whether an entry has left the queue and is not written yet.
    is_writing: bool,
    /// Rises whenever something is taken.
    progress: u64,
    /// Which thread is to write: the latest one.
    generation: u64,
    /// The thread that was started last, by its generation.
    running: Option<u64>,
    /// Why a result could not be written.
    error: Option<io::Error>,
}

enum Entry {
    Bytes(Vec<u8>),
    /// So many entries are missing here.
    Gap(u64),
}

impl Spool {
    /// A spool in front of `sink`, and the thread that writes it, which is called `name`.
    pub fn start(name: &'static str, content: Content, sink: impl Sink) -> Self {
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            is_writing: false,
            progress: 0,
            generation: 0,
            running: None,
            error: None,
        };
        let shared = Shared {
            name,
            content,
            state: Mutex::new(state),
            news: Condvar::new(),
            taken: Condvar::new(),
            sink: Mutex::new(Box::new(sink)),
        };
        let spool = Self { shared: Arc::new(shared) };
        all().push(spool.clone());
        // Without a thread, whoever waits for the spool writes itself.
        let _ = spool.run();
        spool
    }

    /// Puts `entry` into the queue, or drops and counts it when the queue is full.
    pub fn offer(&self, entry: Vec<u8>) {
        let Some(entry) = aside(entry) else { return };
        let mut state = self.shared.state();
        if state.queue.len() < MOST_ENTRIES && state.bytes + entry.len() <= MOST_BYTES {
            self.shared.push(state, entry);
            return;
        }
        if self.shared.content == Content::Lines {
            DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
        }
        match state.queue.back_mut() {
            Some(Entry::Gap(missing)) => *missing += 1,
            _ => state.queue.push_back(Entry::Gap(1)),
        }
    }

    /// Puts `entry` into the queue when nothing waits there; for what another entry replaces a moment later.
    pub fn offer_if_idle(&self, entry: Vec<u8>) {
        let state = self.shared.state();
        if state.is_drained() {
            self.shared.push(state, entry);
        }
    }

    /// Puts `entry` into the queue, however full it is: for the one result of a command.
    pub fn give(&self, entry: Vec<u8>) {
        self.shared.push(self.shared.state(), entry);
    }

    /// Whether everything is written, or could not be.
    pub fn is_drained(&self) -> bool {
        self.shared.state().is_drained()
    }

    /// A number that rises whenever the reader takes something.
    pub fn progress(&self) -> u64 {
        self.shared.state().progress
    }

    /// Why something could not be written since this was last asked.
    pub fn take_error(&self) -> Option<io::Error> {
        self.shared.state().error.take()
    }

    /// Waits until everything is written, as long as `patience` lets it. Whether it is.
    pub fn drain(&self, patience: Patience) -> bool {
        if self.is_drained() {
            return true;
        }
        self.write_without_thread();
        let begun = Instant::now();
        let (mut seen, mut since) = (self.progress(), begun);
        loop {
            let state = self.shared.state();
            if state.is_drained() {
                return true;
            }
            if state.progress != seen {
                (seen, since) = (state.progress, Instant::now());
            }
            if patience.is_over(begun, since) {
                return false;
            }
            // Whoever panicked with the lock left it whole.
            drop(self.shared.taken.wait_timeout(state, NAP));
        }
    }

    /// Starts the thread if it does not run. Where the kernel gives none, this one writes: it may as well block.
    fn write_without_thread(&self) {
        if self.run().is_err() {
            self.shared.write_here();
        }
    }

    /// Starts the thread of this generation, unless it runs.
    fn run(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        let generation = state.generation;
        if state.running == Some(generation) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name(self.shared.name.to_owned()).spawn(move || {
            privilege::renounce();
            shared.write_out(Some(generation));
        })?;
        state.running = Some(generation);
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut state: MutexGuard<'_, State>, entry: Vec<u8>) {
        state.bytes += entry.len();
        state.queue.push_back(Entry::Bytes(entry));
        drop(state);
        self.news.notify_one();
    }

    /// Writes what is in the queue on this thread.
    fn write_here(&self) {
        if self.sink.try_lock().is_ok() {
            self.write_out(None);
        }
    }

    /// Writes until another thread is to: one of a later generation. Without a generation: until the queue is empty.
    fn write_out(&self, generation: Option<u64>) {
        // The thread before may still be in the middle of an entry.
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(entry) = self.next(generation) {
            let (entry, entries) = match entry {
                Entry::Bytes(entry) => (entry, 1),
                Entry::Gap(missing) => (self.say_gap(missing), 0),
            };
            let written = sink.write(&entry, &mut || self.note_progress());
            let mut state = self.state();
            if let Err(error) = written {
                if self.content == Content::Lines {
                    DROPPED_LINES.fetch_add(entries, Ordering::Relaxed);
                }
                state.error = Some(error);
            }
            state.is_writing = false;
            state.progress += 1;
            drop(state);
            self.taken.notify_all();
        }
    }

    fn next(&self, generation: Option<u64>) -> Option<Entry> {
        let mut state = self.state();
        loop {
            if generation.is_some_and(|generation| state.generation != generation) {
                return None;
            }
            if let Some(entry) = state.queue.pop_front() {
                if let Entry::Bytes(bytes) = &entry {
                    state.bytes -= bytes.len();
                }
                state.is_writing = true;
                return Some(entry);
            }
            generation?;
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn note_progress(&self) {
        self.state().progress += 1;
        self.taken.notify_all();
    }

    /// What is written where `missing` entries are missing.
    fn say_gap(&self, missing: u64) -> Vec<u8> {
        match self.content {
            Content::Lines => {
                ASIDE.set(Some(Vec::new()));
                tracing::warn!("{missing} log lines are missing here: nobody read the log in time");
                ASIDE.take().unwrap_or_default()
            }
            Content::Results => {
                tracing::warn!("{missing} ledgers were not printed: nobody reads standard output");
                Vec::new()
            }
            Content::Notices => Vec::new(),
        }
    }
}

impl State {
    fn is_drained(&self) -> bool {
        self.queue.is_empty() && !self.is_writing
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

/// Keeps `entry` for the thread of a spool that says something itself; otherwise gives it back.
fn aside(entry: Vec<u8>) -> Option<Vec<u8>> {
    ASIDE.with_borrow_mut(|aside| match aside {
        Some(aside) => {
            aside.extend(entry);
            None
        }
        None => Some(entry),
    })
}

/// A descriptor that other programs read, such as standard error.
struct Descriptor(io::Result<File>);

impl Descriptor {
    fn of(stream: impl AsFd) -> Self {
        Self(stream.as_fd().try_clone_to_owned().map(File::from))
    }
}

impl Sink for Descriptor {
    fn write(&mut self, mut entry: &[u8], progress: &mut dyn FnMut()) -> io::Result<()> {
        let file = self.0.as_mut().map_err(|error| io::Error::from(error.kind()))?;
        while !entry.is_empty() {
            match file.write(&entry[..entry.len().min(CHUNK)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    entry = &entry[taken..];
                    progress();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another program made the descriptor non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
