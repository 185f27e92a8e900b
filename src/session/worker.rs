//! The loop: one thread takes every frame from its sources to its destinations.
//!
//! No async, channel, lock, allocation, clock reading or log line for a frame; those are for the turn around many.

use std::mem;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::path::Path;
use super::stop::Stop;
use crate::error::Explain;
use crate::ledger::{KernelDrops, Ledger, Published};
use crate::source::{Readiness, Source};

/// Frames that one source may hand over before the batches are flushed and the others get their turn.
const BUDGET: usize = 1024;
/// Longest sleep: so often an idle session looks at the kernel's counters.
const IDLE_TURN: Duration = Duration::from_secs(1);
/// How often the kernel is asked for its counters: each time costs system calls.
const KERNEL_INTERVAL: Duration = Duration::from_secs(1);
/// How often the ledger is shown to the control plane when a turn leaves frames behind.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// How long a stopped session still takes frames that the kernel had captured before, at least.
const LEAST_GRACE: Duration = Duration::from_millis(10);

/// One worker: owns its sources, its stages and its ledger, shares nothing that a frame touches.
pub(super) struct Worker {
    taps: Vec<Tap>,
    path: Path,
    wake: Epoll,
    stop: Stop,
    published: Published,
    published_at: Option<Instant>,
    asked_kernel_at: Option<Instant>,
    /// Captured frames after which the session ends by itself.
    count: u64,
    grace: Duration,
    failures: Vec<Box<dyn Explain>>,
}

/// A source with what the worker remembers about it.
struct Tap {
    source: Box<dyn Source>,
    readiness: Readiness,
    /// The last answer, kept when the source is gone: totals only rise.
    kernel_drops: KernelDrops,
}

/// How a session ended.
#[derive(Debug)]
pub struct Outcome {
    /// The whole account; nothing is in flight.
    pub ledger: Ledger,
    /// What went wrong on the way. Frames mirrored before are in the ledger all the same.
    pub failures: Vec<Box<dyn Explain>>,
}

impl Worker {
    /// Prepares the loop. `delay` is how long the kernel may keep a captured frame; `count` ends the session after so
    /// many captured frames.
    ///
    /// # Errors
    /// When the kernel has no descriptor left for `epoll`.
    pub(super) fn new(
        sources: Vec<Box<dyn Source>>,
        path: Path,
        stop: Stop,
        published: Published,
        delay: Duration,
        count: Option<u64>,
    ) -> nix::Result<Self> {
        let wake = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        wake.add(stop.descriptor(), readable)?;
        for source in &sources {
            if let Some(descriptor) = source.descriptor() {
                wake.add(descriptor, readable)?;
            }
        }
        let taps = sources
            .into_iter()
            .map(|source| Tap { source, readiness: Readiness::More, kernel_drops: KernelDrops::default() })
            .collect();
        Ok(Self {
            taps,
            path,
            wake,
            stop,
            published,
            published_at: None,
            asked_kernel_at: None,
            count: count.unwrap_or(u64::MAX),
            grace: LEAST_GRACE.max(2 * delay),
            failures: Vec::new(),
        })
    }

    /// Mirrors until the sources end, the count is reached or the session is stopped.
    pub(super) fn run(&mut self) -> Outcome {
        let mut stop_by = None;
        let mut now = Instant::now();
        loop {
            self.wait(now);
            now = Instant::now();

            let before = self.path.ledger.captured;
            self.drain(now, stop_by.is_some());
            self.path.destinations.flush(now, &mut self.path.ledger);
            self.settle(now, self.path.ledger.captured - before);

            if self.stop.is_requested() && stop_by.is_none() {
                self.stop.acknowledge();
                // What the kernel captured before still sits in its buffer: give it time to hand that over.
                stop_by = Some(now + self.grace);
            }
            if self.has_ended() || stop_by.is_some_and(|by| now >= by) {
                break;
            }
        }
        for tap in &mut self.taps {
            let Self { path, count, .. } = self;
            tap.source.finish(&mut |frame| {
                if path.ledger.captured < *count {
                    path.take(frame);
                }
            });
        }
        self.path.destinations.finish(now, &mut self.path.ledger);
        self.ask_kernel(true);
        self.published.update(&self.path.ledger);
        let unwritten = self.path.destinations.failures(&self.path.ledger);
        self.failures.extend(unwritten.map(|problem| Box::new(problem) as _));
        Outcome { ledger: self.path.ledger.clone(), failures: mem::take(&mut self.failures) }
    }

    /// Sleeps until a source has frames, a deadline comes or the session is stopped.
    fn wait(&mut self, now: Instant) {
        if self.taps.iter().any(|tap| tap.readiness == Readiness::More) {
            return;
        }
        let filling = self.taps.iter().filter_map(|tap| match tap.readiness {
            Readiness::Filling(until) => Some(until),
            _ => None,
        });
        if let Some(until) = filling.min().filter(|_| !self.stop.is_requested()) {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            return;
        }
        let deadlines = self.taps.iter().filter_map(|tap| match tap.readiness {
            Readiness::Until(deadline) => Some(deadline),
            _ => None,
        });
        let deadline = deadlines.chain(self.path.destinations.deadline()).min().unwrap_or(now + IDLE_TURN);
        // A stopped session has no more to do than to empty the kernel's buffers.
        let limit = if self.stop.is_requested() { self.grace } else { IDLE_TURN };
        let patience = deadline.saturating_duration_since(now).min(limit);
        if patience < Duration::from_millis(1) {
            // epoll counts in whole milliseconds; a paced replay asks for less.
            std::thread::sleep(patience);
        } else {
            let timeout = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::ZERO);
            // An interrupted or failed wait only makes this turn come early.
            let _ = self.wake.wait(&mut [EpollEvent::empty(); 1], timeout);
        }
    }

    /// Takes what the sources have, in turn.
    fn drain(&mut self, now: Instant, stopping: bool) {
        let Self { taps, path, failures, count, wake, .. } = self;
        for tap in taps.iter_mut().filter(|tap| tap.readiness != Readiness::Ended) {
            // A source that fails gives what it still holds, be it over the budget.
            let left = count.saturating_sub(path.ledger.captured);
            let budget = usize::try_from(left).map_or(BUDGET, |left| left.min(BUDGET));
            let recorded = tap.source.descriptor().is_none();
            if budget == 0 {
                // The count is reached and the session ends; what the kernel dropped here is still to be asked.
                continue;
            }
            if stopping && recorded {
                tap.readiness = Readiness::Ended;
                continue;
            }
            tap.readiness = tap.source.drain(now, budget, &mut |frame| path.take(frame)).unwrap_or_else(|failure| {
                tracing::error!("{failure}");
                failures.push(failure);
                // What its buffer still holds would keep it readable, and the worker awake, for ever.
                let _ = tap.source.descriptor().map(|descriptor| wake.delete(descriptor));
                Readiness::Ended
            });
        }
    }

    /// Proves that the ledger balances, and shows it: before every wait, and that is any turn that found less than it
    /// could take, because a pipe does not say whether the next read will wait.
    fn settle(&mut self, now: Instant, found: u64) {
        if is_due(&mut self.asked_kernel_at, now, KERNEL_INTERVAL) {
            self.ask_kernel(false);
        }
        debug_assert_eq!(self.path.ledger.balance(), Ok(()));
        if is_due(&mut self.published_at, now, PUBLISH_INTERVAL) || found < BUDGET as u64 {
            self.published.update(&self.path.ledger);
        }
    }

    /// Takes the kernel's own counters into the ledger, and what sources tell about senders.
    fn ask_kernel(&mut self, end: bool) {
        for tap in self.taps.iter_mut().filter(|tap| tap.readiness != Readiness::Ended) {
            tap.kernel_drops = tap.source.kernel_drops();
        }
        self.path.ledger.kernel = self.taps.iter().fold(KernelDrops::default(), |sum, tap| KernelDrops {
            buffer_full: sum.buffer_full + tap.kernel_drops.buffer_full,
            interface: sum.interface + tap.kernel_drops.interface,
        });
        self.path.ledger.senders.update(|all| self.taps.iter_mut().for_each(|tap| tap.source.senders(end, all)));
    }

    /// Whether there is nothing left to do.
    fn has_ended(&self) -> bool {
        self.taps.iter().all(|tap| tap.readiness == Readiness::Ended)
            || self.path.ledger.captured >= self.count
            || self.path.destinations.are_gone()
    }
}

/// Whether `interval` has passed since `last`, which then becomes `now`.
fn is_due(last: &mut Option<Instant>, now: Instant, interval: Duration) -> bool {
    let due = last.is_none_or(|last| now >= last + interval);
    if due {
        *last = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use std::io::{self, PipeReader, Write as _};
    use std::os::fd::{AsFd as _, BorrowedFd};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::plan::FilePath;
    use crate::destination::capture_file::CaptureFile;
    use crate::destination::{Destination, Destinations};
    use crate::frame::{Frame, InterfaceId, Offload};
    use crate::normalise::Normaliser;
    use crate::quantity::Timestamp;
    use crate::select::Selector;
    use crate::select::own_traffic::OwnTraffic;
    use crate::source::SourceError;

    fn worker(sources: Vec<Box<dyn Source>>, count: Option<u64>) -> Worker {
        let nowhere = CaptureFile::create(&FilePath::Path("/dev/null".into())).unwrap();
        let ledger = Ledger::new([("1", "pcap:/dev/null")]);
        let published = Published::new(ledger.clone());
        let path = Path {
            selector: Selector::new(OwnTraffic::default()),
            normaliser: Normaliser::new(None),
            destinations: Destinations::new(vec![Destination::File(nowhere)]),
            ledger,
        };
        Worker::new(sources, path, Stop::new().unwrap(), published, Duration::from_millis(2), count).unwrap()
    }

    /// An interface that goes away while its buffer still holds frames.
    struct Vanished {
        ring: PipeReader,
        /// Frames that wait in the source itself.
        held: usize,
    }

    impl Source for Vanished {
        fn drain(
            &mut self,
            _: Instant,
            _: usize,
            each: &mut dyn FnMut(&Frame<'_>),
        ) -> Result<Readiness, Box<dyn Explain>> {
            (0..self.held).for_each(|_| each(&FRAME));
            let (interface, cause) = ("eth7".to_owned(), pcap::Error::PcapError("the interface disappeared".into()));
            Err(Box::new(SourceError::CaptureEnded { interface, cause }))
        }

        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            Some(self.ring.as_fd())
        }

        fn kernel_drops(&mut self) -> KernelDrops {
            KernelDrops::default()
        }
    }

    /// A replay that waits for one frame, counts how often it is asked for it, and ends without it.
    struct Waiting {
        until: Option<Instant>,
        asked: Arc<AtomicU32>,
    }

    impl Source for Waiting {
        fn drain(
            &mut self,
            now: Instant,
            _: usize,
            _: &mut dyn FnMut(&Frame<'_>),
        ) -> Result<Readiness, Box<dyn Explain>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let until = *self.until.get_or_insert(now + Duration::from_millis(50));
            Ok(if now < until { Readiness::Until(until) } else { Readiness::Ended })
        }

        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn kernel_drops(&mut self) -> KernelDrops {
            KernelDrops::default()
        }
    }

    const FRAME: Frame<'_> = Frame {
        has_restored_tag: false,
        refused: None,
        bytes: &[2; 60],
        wire_len: 60,
        timestamp: Timestamp::from_nanos(0),
        direction: None,
        interface: InterfaceId(0),
        offload: Offload::Whole,
    };

    /// A busy interface: as many frames as anybody takes, and five lost by the kernel.
    struct Busy;

    impl Source for Busy {
        fn drain(
            &mut self,
            _: Instant,
            budget: usize,
            each: &mut dyn FnMut(&Frame<'_>),
        ) -> Result<Readiness, Box<dyn Explain>> {
            (0..budget).for_each(|_| each(&FRAME));
            Ok(Readiness::More)
        }

        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn kernel_drops(&mut self) -> KernelDrops {
            KernelDrops { buffer_full: 5, interface: 0 }
        }
    }

    #[test]
    fn a_count_takes_so_many_frames_and_what_the_kernel_dropped_at_every_source() {
        let outcome = worker(vec![Box::new(Busy), Box::new(Busy)], Some(700)).run();
        assert_eq!((outcome.ledger.captured, outcome.ledger.kernel.buffer_full), (700, 10));
        let outcome = worker(vec![Box::new(Busy), Box::new(Busy)], Some(100)).run();
        assert_eq!((outcome.ledger.captured, outcome.ledger.kernel.buffer_full), (100, 10));
    }

    #[test]
    fn what_a_failing_source_still_held_may_exceed_the_count() {
        let (ring, _writer) = io::pipe().unwrap();
        let outcome = worker(vec![Box::new(Vanished { ring, held: 10 }), Box::new(Busy)], Some(5)).run();
        assert_eq!((outcome.ledger.captured, outcome.failures.len()), (10, 1));
    }

    #[test]
    fn a_source_that_failed_wakes_nobody_any_more() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"unread").unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let waiting = Waiting { until: None, asked: Arc::clone(&asked) };
        let outcome = worker(vec![Box::new(Vanished { ring: reader, held: 0 }), Box::new(waiting)], None).run();
        assert_eq!(outcome.failures.len(), 1);
        // At first, when the time has come, and twice more because waits end at whole milliseconds.
        assert!(asked.load(Ordering::Relaxed) <= 4, "asked {asked:?} times");
    }
}
