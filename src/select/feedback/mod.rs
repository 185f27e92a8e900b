//! Loops through tunnels that cannot be read: `WireGuard`, `IPsec`, relays that encrypt.
//!
//! Nothing in such a frame shows what it contains. But it comes because we sent something, and it is longer by what the
//! tunnel adds. Three steps decide:
//!
//! 1. *Suspicion.* Of the latest [`WINDOW`] mirrored frames three quarters are longer by the same overhead than a datagram
//!    that was sent shortly before. Few flows look like this: a ping sweep whose sizes grow does.
//! 2. *Experiment.* The worker leaves frames in the capture buffer for some milliseconds, and so sends nothing. Frames of a
//!    loop stop coming, because each one needs a datagram of ours. Other flows go on. After the pause the worker takes what
//!    was captured meanwhile; nothing is lost. [`ROUNDS`] pauses have to end like this, each after output that came back.
//! 3. *Throttle.* Ten frames per second are mirrored, by all workers that have found a loop together. Each of them is a probe: as long as they come back more often than
//!    chance explains, the loop is there.
//!
//! Time comes with the frames and the turns; no clock is read here.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::frame::Frame;
use crate::lengths::Lengths;
use crate::wire::layers::{self, Layers};

/// Frames that a suspicion is based on.
const WINDOW: usize = 20;
/// How many of them have to fit.
const ENOUGH: usize = 15;
/// How many different lengths they have to have: in a loop each round is longer. The frames of a bulk flow are not, although
/// a piece of one that was split may explain the next.
const GROWTH: usize = 5;
/// Frames of a turn that are looked at, about. In a loop that begins, a turn has fewer.
const EACH_TURN: u64 = 8;
/// Longest time that the window may span: slower loops do no harm.
const SLOWEST_WINDOW: u64 = 1_200 * MILLISECOND;
/// Turns that it takes to know how many frames come.
const FEWEST_TURNS: usize = 4;
/// Turns whose output may come back.
const TURNS: usize = 16;
/// How long one frame's output may take to come back, and how long it usually takes at most. A slower loop has fewer than
/// forty rounds per second.
const LONGEST_RETURN: u64 = 200 * MILLISECOND;
const SLOWEST_RETURN: u64 = 25 * MILLISECOND;
/// Pauses that have to stop the frames.
const ROUNDS: u32 = 3;
/// Datagrams that a relay may not be able to take at once.
const MANY: u64 = 100;
/// The longest pause. A window that would need a longer one is no suspicion.
const LONGEST_PAUSE: u64 = 500 * MILLISECOND;
/// After an experiment that proved nothing, and after more of them.
const FIRST_TRUCE: u64 = 20 * MILLISECOND;
const LONGEST_TRUCE: u64 = 30 * SECOND;
/// Between two frames of a throttled session.
const THROTTLE: u64 = 100 * MILLISECOND;
/// How long before the end of a turn a frame of the next one may have been captured.
const LONGEST_TURN: u64 = SECOND;
/// When a probe counts as come back, after it was sent; and the time of equal length in which one may come by chance.
const RETURN: std::ops::Range<u64> = 0..45 * MILLISECOND;
const CHANCE: std::ops::Range<u64> = 50 * MILLISECOND..95 * MILLISECOND;
/// Probes that say whether a loop has ended.
const PROBES: u32 = 16;
/// How many more of them may have come back than chance explains.
const FEW_RETURNS: u32 = 3;
/// The shortest throttle, and the longest after loops that came again.
const FIRST_HOLD: u64 = 2 * SECOND;
const LONGEST_HOLD: u64 = 64 * SECOND;

/// A set of overheads, which are what a tunnel adds to each datagram: bit `i` stands for [`LEAST_OVERHEAD`] + `i` bytes.
type Overheads = u128;
/// An Ethernet header: what a relay without any header of its own would add.
const LEAST_OVERHEAD: usize = 14;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// How many workers of a session are throttled: together they keep the rate. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<AtomicU64>);

/// One throttled worker's part of the rate, until it is dropped.
#[derive(Debug)]
struct Share(Pace);

impl Pace {
    fn share(&self) -> Share {
        self.0.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }
}

impl Share {
    /// How long this worker waits between two frames.
    fn interval(&self) -> u64 {
        let Pace(throttled) = &self.0;
        THROTTLE.saturating_mul(throttled.load(Ordering::Relaxed))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Pace(throttled) = &self.0;
        throttled.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Watches one worker's frames and output.
#[derive(Debug)]
pub struct Feedback {
    state: State,
    /// What the session's watchers have in common.
    pace: Pace,
    /// Frames of this turn, which of them is looked at next, and which after that one.
    captured: u64,
    next: u64,
    stride: u64,
    /// Whether the window has changed since it was judged.
    has_news: bool,
    /// The latest frames that were looked at.
    window: VecDeque<Seen>,
    /// What recent turns sent, the latest last.
    sent: VecDeque<Sent>,
    /// No experiment before this moment.
    truce_until: u64,
    truce: u64,
    /// How long the next throttle lasts at least, and when the last one ended.
    hold: u64,
    throttled_until: u64,
    /// The flow of the latest frame that fitted, during an experiment.
    flow: Option<Flow>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a worker has one")]
enum State {
    Watching,
    Testing(Test),
    Throttled(Throttle),
}

/// A captured frame.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: u64,
    length: usize,
    /// Overheads that would explain it by something we sent.
    overheads: Overheads,
    /// The same, with what padding to 16 bytes may add.
    padded: Overheads,
    /// How long ago that was sent.
    age: u64,
}

/// What a turn sent, and of how many frames.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: u64,
    captured: u64,
    lengths: Lengths,
}

/// An experiment.
#[derive(Clone, Copy, Debug)]
struct Test {
    round: u32,
    /// The overhead that the suspicion is about, and those that padding may make of it.
    overhead: u32,
    overheads: Overheads,
    /// When this pause began, how long output may take to come back, and how long the whole pause is.
    began: u64,
    settle: u64,
    pause: u64,
    /// Datagrams that were on their way when the pause began: as many have to come back.
    in_flight: u64,
    /// Frames that would come between `settle` and the end of the pause, if nothing stopped them.
    expected: u64,
    /// Frames that came until `settle`, those of them that fit, and those that came later.
    early: u64,
    fitting: u64,
    late: u64,
}

#[derive(Debug)]
struct Throttle {
    share: Share,
    overheads: Overheads,
    /// No end before this moment.
    hold_until: u64,
    next: u64,
    /// What the latest frame was sent as, and when; `None` until the turn that sends it has ended.
    probe: Option<Sent>,
    is_sending: bool,
    has_returned: bool,
    has_come_by_chance: bool,
    /// Results of the latest probes, a bit each.
    returned: u32,
    by_chance: u32,
    probes: u32,
}

/// What a worker has to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    GoOn,
    /// Leave frames in the capture buffer for so long.
    Pause(Duration),
    /// A loop was proven: say it.
    Raise(Alarm),
    /// The loop has ended: say it.
    Clear,
}

/// What is known of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// What the tunnel adds to each datagram at least, in bytes.
    overhead: usize,
    flow: Option<Flow>,
}

/// Where the frames go that come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    addresses: [IpAddr; 2],
    protocol: u8,
    port: Option<u16>,
}

impl Default for Feedback {
    fn default() -> Self {
        Self::new(Pace::default())
    }
}

impl Feedback {
    /// One of several watchers of a session, which have `pace` in common.
    pub fn new(pace: Pace) -> Self {
        Self {
            state: State::Watching,
            pace,
            captured: 0,
            next: 1,
            stride: 1,
            has_news: false,
            window: VecDeque::with_capacity(WINDOW + 1),
            sent: VecDeque::with_capacity(TURNS + 1),
            truce_until: 0,
            truce: FIRST_TRUCE,
            hold: FIRST_HOLD,
            throttled_until: 0,
            flow: None,
        }
    }

    /// Whether the session is throttled.
    pub fn is_throttled(&self) -> bool {
        matches!(self.state, State::Throttled(_))
    }

    /// Whether an experiment waits for its result.
    pub fn is_testing(&self) -> bool {
        matches!(self.state, State::Testing(_))
    }

    /// Looks at a frame that is to be mirrored, and says whether it may be.
    #[inline]
    pub fn admits(&mut self, frame: &Frame<'_>, layers: &Layers) -> bool {
        self.captured += 1;
        if self.captured < self.next {
            return true;
        }
        self.next = self.captured + self.stride;
        self.look(frame, layers)
    }

    fn look(&mut self, frame: &Frame<'_>, layers: &Layers) -> bool {
        let (at, length) = (frame.timestamp.nanos(), frame.wire_len as usize);
        match &mut self.state {
            State::Watching => {
                let seen = explain(&self.sent, at, length);
                if self.window.len() == WINDOW {
                    self.window.pop_front();
                }
                self.window.push_back(seen);
                self.has_news = true;
                true
            }
            State::Testing(test) => {
                if at < test.began + test.settle {
                    test.early += 1;
                    if explain(&self.sent, at, length).overheads & test.overheads != 0 {
                        test.fitting += 1;
                        self.flow = Flow::of(frame.bytes, layers).or(self.flow);
                    }
                } else {
                    test.late += 1;
                }
                true
            }
            State::Throttled(throttle) => throttle.admits(at, length),
        }
    }

    /// Ends a turn, in which `sent` left, at the time `now` of the frames' clock in nanoseconds.
    pub fn end_turn(&mut self, now: u64, sent: &Lengths) -> Order {
        let captured = std::mem::take(&mut self.captured);
        if !sent.is_empty() {
            if self.sent.len() == TURNS {
                self.sent.pop_front();
            }
            self.sent.push_back(Sent { at: now, captured, lengths: *sent });
        }
        // In a turn as large as this one, the frames that are looked at are spread evenly.
        self.stride = if matches!(self.state, State::Watching) { captured / EACH_TURN + 1 } else { 1 };
        self.next = 1;
        match &mut self.state {
            State::Watching => self.suspect(now),
            State::Testing(test) => {
                let test = *test;
                self.judge(test, now)
            }
            State::Throttled(throttle) => {
                if throttle.end_turn(now, sent) {
                    self.state = State::Watching;
                    self.throttled_until = now;
                    self.forget();
                    return Order::Clear;
                }
                Order::GoOn
            }
        }
    }

    /// Ends an experiment whose pause was cut short.
    pub fn cancel(&mut self) {
        if matches!(self.state, State::Testing(_)) {
            self.state = State::Watching;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.window.clear();
    }

    /// Begins an experiment if the window gives reason to.
    fn suspect(&mut self, now: u64) -> Order {
        let is_truce = now < self.truce_until && self.truce_until - now <= LONGEST_TRUCE;
        let (Some(first), Some(last)) = (self.window.front(), self.window.back()) else { return Order::GoOn };
        let span = last.at.saturating_sub(first.at);
        let is_explained = |seen: &&Seen| seen.overheads != 0;
        if is_truce || self.window.len() < WINDOW || span > SLOWEST_WINDOW || !std::mem::take(&mut self.has_news) {
            return Order::GoOn;
        }
        if self.window.iter().filter(is_explained).count() < ENOUGH {
            return Order::GoOn;
        }
        let constant = self.most_fitting(|seen| seen.overheads);
        let Some((overhead, overheads)) = constant.or_else(|| self.most_fitting(|seen| seen.padded)) else {
            return Order::GoOn;
        };
        let age = self.usual_age(overheads);
        if age > SLOWEST_RETURN || self.different_lengths(overheads) < GROWTH {
            return Order::GoOn;
        }
        let between = self.time_between_frames(first.at, now);
        let settle = 2 * age + 5 * MILLISECOND;
        let rest = (4 * between).max(6 * MILLISECOND).max(settle / 2);
        if now.saturating_sub(self.truce_until) > 10 * self.truce + 5 * SECOND {
            // What looked like a loop before did so long ago.
            self.truce = FIRST_TRUCE;
        }
        self.begin(Test {
            round: 0,
            overhead,
            overheads,
            began: now,
            settle,
            pause: settle + rest,
            in_flight: self.sent_since(now.saturating_sub(settle)),
            expected: rest / between.max(1),
            early: 0,
            fitting: 0,
            late: 0,
        })
    }

    /// The overhead that explains most frames of the window, if it explains enough of them and stands out: where lengths
    /// of all kinds come and go, every overhead explains most frames. With it come those that padding may make of it.
    fn most_fitting(&self, of: impl Fn(&Seen) -> Overheads) -> Option<(u32, Overheads)> {
        let fits = |overhead: u32| self.window.iter().filter(|seen| of(seen) >> overhead & 1 == 1).count();
        let counts = (0..Overheads::BITS).map(|overhead| (fits(overhead), overhead));
        let (sum, best, overhead) =
            counts.fold(
                (0, 0, 0),
                |(sum, best, at), (count, overhead)| {
                    if count > best { (sum + count, count, overhead) } else { (sum + count, best, at) }
                },
            );
        let average = sum / Overheads::BITS as usize;
        let stands_out = best >= ENOUGH && average * 4 <= best * 3;
        stands_out.then(|| (overhead, padded(1 << overhead.saturating_sub(15)) | padded(1 << overhead)))
    }

    fn begin(&mut self, mut test: Test) -> Order {
        // No flow that pauses regularly has the rhythm of every round.
        let jitter = (test.began / 1_000).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (6 * MILLISECOND);
        test.settle += jitter / 2;
        test.pause += jitter;
        if test.pause > LONGEST_PAUSE {
            self.state = State::Watching;
            self.forget();
            return Order::GoOn;
        }
        self.state = State::Testing(test);
        self.stride = 1;
        Order::Pause(Duration::from_nanos(test.pause))
    }

    /// How many lengths the frames have that fit.
    fn different_lengths(&self, overheads: Overheads) -> usize {
        let fitting = || self.window.iter().filter(|seen| seen.overheads & overheads != 0);
        let is_first = |at: usize, length: usize| fitting().take(at).all(|earlier| earlier.length != length);
        fitting().enumerate().filter(|&(at, seen)| is_first(at, seen.length)).count()
    }

    /// How long output takes to come back: not exceeded by three quarters of the frames that fit.
    fn usual_age(&self, overheads: Overheads) -> u64 {
        let mut ages = [0; WINDOW];
        let fitting = self.window.iter().filter(|seen| seen.overheads & overheads != 0);
        let count = ages.iter_mut().zip(fitting).map(|(age, seen)| *age = seen.age).count();
        ages[..count].sort_unstable();
        ages.get(count * 3 / 4).copied().unwrap_or(0)
    }

    /// The average time between the latest frames, as far back as `first` and [`FEWEST_TURNS`].
    fn time_between_frames(&self, first: u64, now: u64) -> u64 {
        // The first turn ended when its frames had come.
        let Some(fewest) = self.sent.len().checked_sub(FEWEST_TURNS).and_then(|at| self.sent.get(at)) else {
            return LONGEST_PAUSE;
        };
        let begin =
            self.sent.iter().map(|turn| turn.at).find(|&at| at >= first).map_or(fewest.at, |at| at.min(fewest.at));
        let captured: u64 = self.sent.iter().filter(|turn| turn.at > begin).map(|turn| turn.captured).sum();
        now.saturating_sub(begin) / captured.max(1)
    }

    /// How many datagrams left at `time` and later.
    fn sent_since(&self, time: u64) -> u64 {
        self.sent.iter().filter(|turn| turn.at >= time).map(|turn| turn.lengths.count()).sum()
    }

    /// Judges the frames that came during a pause.
    fn judge(&mut self, test: Test, now: u64) -> Order {
        let Test { fitting, early, late, expected, in_flight, settle, pause, .. } = test;
        // Flows that go on, and how many frames of them came before.
        let goes_on = late * 2 > expected;
        let others = late * settle / pause.saturating_sub(settle).max(1);
        // What was on its way has to have come back, one for one, and little else. Silence proves nothing.
        // Of very many a relay loses some.
        let lowest = if in_flight < MANY { in_flight * 3 } else { in_flight };
        let has_returned = fitting > 0 && (fitting * 5 >= lowest || test.round == 0);
        let is_other = fitting * 5 < early.saturating_sub(others) * 3;
        let is_more = fitting.saturating_sub(others) * 2 > in_flight * 3 + 4;
        if goes_on || !has_returned || is_other || is_more {
            self.state = State::Watching;
            self.truce_until = now + self.truce;
            self.truce = (self.truce * 2).min(LONGEST_TRUCE);
            self.forget();
            return Order::GoOn;
        }
        if test.round + 1 < ROUNDS {
            return self.begin(Test {
                round: test.round + 1,
                began: now,
                // All that left before the last pause has come back during it.
                in_flight: self.sent_since(now),
                early: 0,
                fitting: 0,
                late: 0,
                ..test
            });
        }
        // A loop that comes again soon was perhaps never over.
        let is_soon = self.throttled_until > 0 && now.saturating_sub(self.throttled_until) < LONGEST_HOLD;
        self.hold = if is_soon { (self.hold * 2).min(LONGEST_HOLD) } else { FIRST_HOLD };
        self.truce = FIRST_TRUCE;
        let (overheads, hold_until) = (test.overheads, now + self.hold);
        self.state = State::Throttled(Throttle::new(self.pace.share(), overheads, hold_until, now));
        let overhead = LEAST_OVERHEAD + test.overhead as usize;
        Order::Raise(Alarm { overhead, flow: self.flow })
    }
}

/// The overheads that make one of these lengths the length of a captured frame.
fn overheads(sent: &Lengths, captured: usize) -> Overheads {
    captured.checked_sub(LEAST_OVERHEAD).map_or(0, |longest| sent.down_from(longest))
}

/// Each overhead together with those that padding to 16 bytes makes of it.
fn padded(overheads: Overheads) -> Overheads {
    let two = overheads | overheads << 1;
    let four = two | two << 2;
    let eight = four | four << 4;
    eight | eight << 8
}

/// What we sent explains a frame of this length that was captured `at` this time.
fn explain(sent: &VecDeque<Sent>, at: u64, length: usize) -> Seen {
    let mut seen = Seen { at, length, overheads: 0, padded: 0, age: 0 };
    for turn in sent.iter().rev() {
        let age = at.saturating_sub(turn.at);
        if age > LONGEST_RETURN {
            break;
        }
        let overheads = overheads(&turn.lengths, length);
        if seen.overheads == 0 && overheads != 0 {
            seen.age = age;
        }
        seen.overheads |= overheads;
    }
    seen.padded = padded(seen.overheads);
    seen
}

impl Throttle {
    fn new(share: Share, overheads: Overheads, hold_until: u64, now: u64) -> Self {
        Self {
            next: now.saturating_add(share.interval()),
            share,
            overheads,
            hold_until,
            probe: None,
            is_sending: false,
            has_returned: false,
            has_come_by_chance: false,
            returned: 0,
            by_chance: 0,
            probes: 0,
        }
    }

    /// Lets a frame through every tenth of a second, or its part of that, and looks whether the others are what was let through before.
    fn admits(&mut self, at: u64, length: usize) -> bool {
        if let Some(probe) = &self.probe {
            let age = at.saturating_sub(probe.at);
            let fits = overheads(&probe.lengths, length) & self.overheads != 0;
            self.has_returned |= fits && RETURN.contains(&age);
            self.has_come_by_chance |= fits && CHANCE.contains(&age);
        }
        let interval = self.share.interval();
        // The wait counts from the end of a turn, and frames of the next turn may have been captured before that. A clock
        // that was set back further must not close the session for long.
        if at < self.next && self.next - at <= interval + LONGEST_TURN {
            return false;
        }
        if self.probe.take().is_some() {
            self.returned = self.returned << 1 | u32::from(self.has_returned);
            self.by_chance = self.by_chance << 1 | u32::from(self.has_come_by_chance);
            self.probes += 1;
        }
        (self.has_returned, self.has_come_by_chance) = (false, false);
        self.next = at.saturating_add(interval);
        self.is_sending = true;
        true
    }

    /// Takes note of what was sent, and says whether the loop has ended.
    fn end_turn(&mut self, now: u64, sent: &Lengths) -> bool {
        const LATEST: u32 = (1 << PROBES) - 1;
        if std::mem::take(&mut self.is_sending) && !sent.is_empty() {
            self.probe = Some(Sent { at: now, captured: 1, lengths: *sent });
            self.next = self.next.max(now.saturating_add(self.share.interval()));
        }
        let returned = (self.returned & LATEST).count_ones();
        let by_chance = (self.by_chance & LATEST).count_ones();
        self.probes >= PROBES && now >= self.hold_until && returned <= by_chance + FEW_RETURNS
    }
}

impl Flow {
    fn of(bytes: &[u8], layers: &Layers) -> Option<Self> {
        let packet = layers.ip?;
        Some(Self {
            addresses: packet.address_pair(bytes),
            protocol: packet.protocol,
            port: packet.ports(bytes).map(|(_, destination)| destination),
        })
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { overhead, flow } = self;
        write!(
            f,
            "mirror loop: most captured frames are this session's own output, which comes back encrypted and about \
             {overhead} bytes longer; the session sends ten frames per second until that ends, and drops the others as \
             `loop_throttled`. "
        )?;
        let Some(Flow { addresses: [source, destination], protocol, port }) = flow else {
            return f.write_str("Leave the VPN or relay that carries the mirror out of the capture with a filter");
        };
        write!(f, "They go from {source} to {destination}: leave them out with the filter `not (")?;
        match (*protocol, port) {
            (layers::UDP, Some(port)) => write!(f, "udp port {port}")?,
            (layers::TCP, Some(port)) => write!(f, "tcp port {port}")?,
            (protocol, _) => write!(f, "ip proto {protocol}")?,
        }
        write!(f, " and host {destination})`")
    }
}
