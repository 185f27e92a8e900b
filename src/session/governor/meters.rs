//! What workers tell the governor and what it tells them: a few atomics, touched once a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use super::regulator::{BURST, Braked, FLOOD, TICK};
use crate::ledger::{DropReason, Ledger};
use crate::select::shed::{Admission, BINS_USIZE, BUCKETS, Load, Loads, Shed};

/// How much of the time that it lost a worker that catches up counts at most.
const MOST_BEHIND: Duration = Duration::from_millis(500);

/// What is measured of a session's workers together, as rising totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measures {
    /// Frames that went on to the destinations.
    pub(super) frames: u64,
    /// Bytes that the destinations sent or wrote: outer IP packets, records.
    pub(super) bytes: u64,
    /// CPU time of the threads, in nanoseconds.
    pub(super) cpu: u64,
    /// Captured frames that would have gone on.
    pub(super) wanted: u64,
    /// Of those, what was left out.
    pub(super) shed: u64,
}

impl Measures {
    /// What came since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            frames: self.frames.saturating_sub(earlier.frames),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            cpu: self.cpu.saturating_sub(earlier.cpu),
            wanted: self.wanted.saturating_sub(earlier.wanted),
            shed: self.shed.saturating_sub(earlier.shed),
        }
    }

    /// The part of the frames that went on; `None` when there was none.
    pub(super) fn kept(self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "a proportion")]
        (self.wanted > 0).then(|| 1.0 - self.shed as f64 / self.wanted as f64)
    }

    /// What one worker's ledger says.
    fn of(ledger: &Ledger, cpu: u64) -> Self {
        let shed = ledger.not_selected[DropReason::Shed];
        let selected = ledger.captured.saturating_sub(ledger.not_selected.total());
        let bytes = ledger.destinations.iter().map(|destination| destination.bytes).sum();
        Self { frames: ledger.offered, bytes, cpu, wanted: selected + shed, shed }
    }
}

/// Totals that several add to.
#[derive(Debug, Default)]
pub(super) struct Meters([AtomicU64; 5]);

impl Meters {
    pub(super) fn add(&self, Measures { frames, bytes, cpu, wanted, shed }: Measures) {
        for (total, more) in self.0.iter().zip([frames, bytes, cpu, wanted, shed]) {
            if more > 0 {
                // A count stands for itself; nothing else is published by it.
                total.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn read(&self) -> Measures {
        let [frames, bytes, cpu, wanted, shed] = [0, 1, 2, 3, 4].map(|at: usize| self.0[at].load(Ordering::Relaxed));
        Measures { frames, bytes, cpu, wanted, shed }
    }
}

/// How often a worker adds what came in each bin to what all of them tell: two additions for each bin.
const LOADS_INTERVAL: Duration = Duration::from_millis(20);

/// What came in each part of the scale, of all workers together.
#[derive(Debug)]
pub(super) struct LoadMeters(Box<[[AtomicU64; 2]]>);

impl Default for LoadMeters {
    fn default() -> Self {
        Self((0..=BINS_USIZE).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect())
    }
}

impl LoadMeters {
    fn add(&self, loads: &Loads) {
        for ([frames, bytes], load) in self.0.iter().zip(&loads.0) {
            if load.frames > 0 {
                // Counts stand for themselves; nothing else is published by them.
                frames.fetch_add(load.frames, Ordering::Relaxed);
                bytes.fetch_add(load.bytes, Ordering::Relaxed);
            }
        }
    }

    /// What came since this was asked last.
    pub(super) fn take(&self) -> Loads {
        let mut loads = Loads::default();
        for ([frames, bytes], load) in self.0.iter().zip(&mut loads.0) {
            *load = Load { frames: taken(frames), bytes: taken(bytes) };
        }
        loads
    }
}

/// Returns a count and sets it to 0. A plain read comes first, because an exchange of a zero costs the governors of hundreds of
/// idle sessions most of their time.
fn taken(count: &AtomicU64) -> u64 {
    if count.load(Ordering::Relaxed) == 0 { 0 } else { count.swap(0, Ordering::Relaxed) }
}

/// How a governor sleeps until a worker has a frame.
#[derive(Debug, Default)]
pub(super) struct Rest {
    is_on: AtomicBool,
    bell: Notify,
}

impl Rest {
    /// From here on a worker that has a frame wakes the governor. The governor reads the meters once more afterwards: either
    /// it sees the frame there, or the worker sees the flag.
    pub(super) fn begin(&self) {
        self.is_on.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }

    /// Waits until a worker has had a frame.
    pub(super) async fn ended(&self) {
        self.bell.notified().await;
    }

    /// Wakes the governor if it rests, after frames were added to the meters.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.is_on.load(Ordering::Relaxed) && self.is_on.swap(false, Ordering::Relaxed) {
            self.bell.notify_one();
        }
    }
}

/// What the workers of one session and its governor share.
#[derive(Debug)]
pub(in crate::session) struct Shared {
    pub(super) admission: Admission,
    pub(super) meters: Meters,
    /// What came in each part of the scale since the governor looked last.
    pub(super) loads: LoadMeters,
    /// While the session has no frames.
    pub(super) rest: Rest,
    /// What a tick may use of frames, bytes and CPU time; as much as anybody likes where nothing is limited.
    allowance: [u64; 3],
    /// The marks that workers came down to by themselves in this tick: open, established.
    lowered: [AtomicU32; 2],
}

impl Shared {
    /// `allowance` is what a tick may use: frames, bytes and nanoseconds of CPU time.
    pub(super) fn new(allowance: [Option<u64>; 3]) -> Self {
        Self {
            admission: Admission::default(),
            meters: Meters::default(),
            loads: LoadMeters::default(),
            rest: Rest::default(),
            allowance: allowance.map(|most| most.unwrap_or(u64::MAX).max(1)),
            lowered: [AtomicU32::new(u32::MAX), AtomicU32::new(u32::MAX)],
        }
    }

    /// What workers did by themselves since this was asked last.
    pub(super) fn take_braked(&self) -> Option<Braked> {
        let [open, established] = [0, 1].map(|at: usize| self.lowered[at].swap(u32::MAX, Ordering::Relaxed));
        (open <= BUCKETS).then_some(Braked { open, established: established.min(BUCKETS) })
    }

    /// How far the tick's allowance is used, 1 being all of it.
    fn used(&self, since: Measures) -> f64 {
        let Measures { frames, bytes, cpu, .. } = since;
        let parts = [frames, bytes, cpu].into_iter().zip(self.allowance);
        #[allow(clippy::cast_precision_loss, reason = "a proportion")]
        parts.map(|(used, most)| used as f64 / most as f64).fold(0.0, f64::max)
    }
}

/// A worker's side: it tells what it used, follows the window, and brakes by itself when a burst comes between two ticks.
#[derive(Debug)]
pub(in crate::session) struct Governed {
    shared: Arc<Shared>,
    /// What this worker has told so far; `None` before its first turn with a governor.
    told: Option<Measures>,
    /// How many frames it had captured by then.
    captured: u64,
    /// When more began to be used than [`BURST`] times the limit, and what this worker had used by then. Others may be
    /// catching up: theirs is their own to judge.
    since: (Instant, Measures),
    /// Whether it has narrowed the window since then.
    has_braked: bool,
    /// When it told what came in each part of the scale.
    told_loads: Instant,
    /// For the seconds that the window counts in.
    started: Instant,
}

impl Governed {
    /// A worker that begins now.
    pub(in crate::session) fn new(shared: Arc<Shared>, now: Instant) -> Self {
        let since = (now, Measures::default());
        Self { shared, told: None, captured: 0, since, has_braked: false, told_loads: now, started: now }
    }

    /// Follows the window: at the beginning of a turn. What the worker has done before the first one is nobody's concern.
    pub(in crate::session) fn follow(&mut self, now: Instant, ledger: &Ledger, shed: &mut Shed) {
        if self.told.is_none() {
            let told = Measures::of(ledger, cpu_time(0));
            (self.told, self.since.1) = (Some(told), told);
        }
        shed.follow(&self.shared.admission, now.saturating_duration_since(self.started).as_secs());
    }

    /// Tells what the turn used: at its end. `now` is the time at its beginning, `is_behind` whether it left frames that
    /// have been captured.
    pub(in crate::session) fn tell(&mut self, now: Instant, is_behind: bool, ledger: &Ledger, shed: &mut Shed) {
        let told = self.told.unwrap_or_default();
        let used = Measures::of(ledger, cpu_time(told.cpu));
        self.shared.meters.add(used.since(told));
        if ledger.captured > std::mem::replace(&mut self.captured, ledger.captured) {
            self.shared.rest.wake();
        }
        if now.saturating_duration_since(self.told_loads) >= LOADS_INTERVAL {
            self.shared.loads.add(&shed.take_loads());
            self.told_loads = now;
        }
        self.told = Some(used);

        let since = used.since(self.since.1);
        let passed = now.saturating_duration_since(self.since.0);
        let ticks = passed.as_secs_f64() / TICK.as_secs_f64();
        // In allowances of a tick.
        let part = self.shared.used(since);
        let excess = part - BURST * ticks;
        if excess <= 0.0 {
            self.has_braked = false;
            // While a worker catches up after it was kept from its core, that time counts too: in it the frames came.
            if !is_behind {
                self.since = (now, used);
            } else if passed > MOST_BEHIND {
                self.since = (now.checked_sub(MOST_BEHIND).unwrap_or(now), told);
            }
        } else if excess > 1.0 {
            let kept = since.kept().unwrap_or(1.0);
            self.brake((now, used), part / ticks.max(0.05), excess, kept, shed);
        }
    }

    /// Narrows the window: the limit is exceeded so many times, and more than a tick's allowance went beyond a mere peak.
    /// New flows first. Flows that are under way wait for the governor's decision when that was not enough, and only in a
    /// flood.
    fn brake(&mut self, (now, used): (Instant, Measures), times: f64, excess: f64, kept: f64, shed: &mut Shed) {
        let is_flood = times > FLOOD && excess > 2.0;
        if self.has_braked && !is_flood {
            return;
        }
        let window = shed.window();
        let open = scaled(kept / times).min(window.open);
        let established = if is_flood { open } else { BUCKETS };
        shed.narrow(open, established);
        for (lowered, mark) in self.shared.lowered.iter().zip([open, established]) {
            lowered.fetch_min(mark, Ordering::Relaxed);
        }
        self.has_braked = true;
        if is_flood {
            // From here on it is another load.
            (self.since, self.has_braked) = ((now, used), false);
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 65,536")]
fn scaled(part: f64) -> u32 {
    (f64::from(BUCKETS) * part.clamp(0.0, 1.0)) as u32
}

/// CPU time of this thread in nanoseconds; `before` where the kernel does not tell.
fn cpu_time(before: u64) -> u64 {
    let Ok(time) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) else { return before };
    let time = Duration::from(time);
    u64::try_from(time.as_nanos()).unwrap_or(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger in which so many frames went on.
    fn ledger(offered: u64, shed: u64) -> Ledger {
        let mut ledger = Ledger { captured: offered + shed, offered, ..Ledger::default() };
        ledger.not_selected[DropReason::Shed] = shed;
        ledger
    }

    #[test]
    fn every_worker_s_use_counts_once() {
        let shared = Arc::new(Shared::new([None; 3]));
        let now = Instant::now();
        let mut workers = [(); 2].map(|()| (Governed::new(Arc::clone(&shared), now), Shed::default()));
        for turn in 1..=3 {
            for (governed, shed) in &mut workers {
                governed.tell(now, false, &ledger(10 * turn, turn), shed);
            }
        }
        let Measures { frames, wanted, shed, cpu, .. } = shared.meters.read();
        assert_eq!((frames, wanted, shed), (60, 66, 6));
        assert!(cpu > 0, "this thread has run");
        assert_eq!(shared.take_braked(), None);
    }

    #[tokio::test]
    async fn the_first_frame_wakes_a_governor_that_rests_once() {
        let shared = Arc::new(Shared::new([None; 3]));
        let now = Instant::now();
        let (mut governed, mut shed) = (Governed::new(Arc::clone(&shared), now), Shed::default());
        let is_woken = || async { tokio::time::timeout(Duration::ZERO, shared.rest.ended()).await.is_ok() };
        governed.tell(now, false, &ledger(1, 0), &mut shed);
        assert!(!is_woken().await, "it was awake");
        shared.rest.begin();
        governed.tell(now, false, &ledger(1, 0), &mut shed);
        assert!(!is_woken().await, "a turn without frames");
        governed.tell(now, false, &ledger(1, 1), &mut shed);
        assert!(is_woken().await, "also by a frame that is left out");
        governed.tell(now, false, &ledger(2, 1), &mut shed);
        assert!(!is_woken().await);
    }

    #[test]
    fn a_burst_between_two_ticks_is_braked_by_the_worker_in_proportion() {
        let shared = Arc::new(Shared::new([Some(100), None, None]));
        let start = Instant::now();
        let (mut governed, mut shed) = (Governed::new(Arc::clone(&shared), start), Shed::default());
        governed.tell(start + TICK / 10, false, &ledger(110, 0), &mut shed);
        assert_eq!(shed.window().open, BUCKETS, "it may be a mere peak");
        // Five times the limit: 250 of 100 in half a tick.
        governed.tell(start + TICK / 2, false, &ledger(250, 0), &mut shed);
        let window = shed.window();
        assert_eq!((window.open, window.established), (BUCKETS / 5, BUCKETS), "new flows only");
        governed.tell(start + TICK * 6 / 10, false, &ledger(300, 0), &mut shed);
        assert_eq!(shed.window(), window, "once is enough");
        // It goes on, with flows that were admitted before; a fifth of it was left out.
        governed.tell(start + TICK, false, &ledger(500, 125), &mut shed);
        let mark = scaled(0.8 / 5.0);
        let window = shed.window();
        assert_eq!(
            (window.open, window.established, window.gate),
            (mark, BUCKETS, mark),
            "and those that are under way wait"
        );
        let braked = Braked { open: mark, established: mark };
        assert_eq!((shared.take_braked(), shared.take_braked()), (Some(braked), None));
        // The governor decides anew.
        shared.admission.set(crate::select::shed::Window::FULL);
        governed.follow(start + TICK, &ledger(500, 125), &mut shed);
        assert_eq!(shed.window().open, BUCKETS);
        governed.tell(start + TICK * 2, false, &ledger(600, 125), &mut shed);
        assert_eq!(shed.window().open, BUCKETS, "within the limit");
    }

    #[test]
    fn what_a_worker_catches_up_with_is_no_burst() {
        let shared = Arc::new(Shared::new([Some(100), None, None]));
        let start = Instant::now();
        let (mut governed, mut shed) = (Governed::new(Arc::clone(&shared), start), Shed::default());
        let (mut now, mut count) = (start, 0);
        governed.tell(now, false, &ledger(count, 0), &mut shed);
        // For some ticks it has no core. It takes what came in them within a few turns.
        for (ticks, frames) in [(3, 150), (20, 1000)] {
            let (began, before) = (now, count);
            now += TICK * ticks;
            while count < before + frames {
                count += frames / 5;
                governed.tell(now, count < before + frames, &ledger(count, 0), &mut shed);
                now += TICK / 100;
            }
            assert_eq!((shed.window().open, shared.take_braked()), (BUCKETS, None), "{:?} without a core", now - began);
        }
        // As much in as short a time without such a reason.
        governed.tell(now, false, &ledger(count + 150, 0), &mut shed);
        assert!(shed.window().open < BUCKETS);
    }

    #[test]
    fn a_governor_that_comes_late_is_no_burst() {
        let shared = Arc::new(Shared::new([Some(100), None, None]));
        let start = Instant::now();
        let (mut governed, mut shed) = (Governed::new(Arc::clone(&shared), start), Shed::default());
        governed.tell(start + TICK * 3, false, &ledger(310, 0), &mut shed);
        assert_eq!(shed.window().open, BUCKETS);
        assert_eq!(shared.take_braked(), None);
    }
}
