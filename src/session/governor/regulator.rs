//! How far the window is open: pure arithmetic, asked ten times a second.
//!
//! It is told how far the limits are used, 1 being all that is allowed, and which part of the frames was kept, and answers
//! with a window. The quotient of the two says how much of the load the limit has room for. That is where `open` goes at
//! once, and it does not matter how long the flows last that were admitted before: a controller that went on turning until
//! they have ended would swing. Some rules besides:
//!
//! - New flows are refused before established ones are cut short: `established` comes down only while the load stays too
//!   high, or when it is a flood.
//! - Who is cut short by a flood is decided half a second after it began, when it is known where it comes. Until then
//!   established flows beyond the mark wait.
//! - It comes down fast and goes up slowly, and within three percent of where it should be it does not move.
//! - The load of each part of the scale is measured ([`Scale`]), because it need not be even.
//! - A burst is as much as two ticks in a row had. A worker that was kept from its core takes in one tick what came in
//!   several: that is none.
//! - Nothing is saved up: while everything is let in there is no credit, while nothing is, no debt.

use std::time::Duration;

use super::scale::Scale;
use crate::select::shed::{BUCKETS, Window};

/// How often it is asked.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The whole scale, as a number.
const SCALE: f64 = 65_536.0;
/// Of the place where the window should end, above and below: it stays where it is.
const DEAD_ZONE: f64 = 0.03;
/// What a tick weighs in the smoothed use: they reach back about two seconds.
const WEIGHT: f64 = 0.05;
/// What a tick weighs in what was lately: half a second.
const LATE_WEIGHT: f64 = 0.2;
/// What a tick weighs in the skew: it changes within minutes.
const SKEW_WEIGHT: f64 = 0.005;
/// The same where only what is open is admitted.
const EXACT_SKEW_WEIGHT: f64 = 0.1;
/// Times the limit, on average: so much that established flows are cut short, without waiting for them to end.
const TOO_MUCH: f64 = 1.2;
/// Times the limit over half a second: so much that it is not waited for longer to be sure.
const URGENT: f64 = 1.25;
/// Times the limit in two ticks: a burst. What new flows may have comes down at once.
pub(super) const BURST: f64 = 2.0;
/// Times the limit in two ticks: so sudden a burst that established flows go at once too.
pub(super) const FLOOD: f64 = 3.0;
/// After so many ticks it is decided who is cut short by a flood. Until then the load of the scale's parts is measured.
const DOUBTS_FOR: f64 = 5.0;
/// After so many seconds, what was open all the time is settled.
const SETTLES_AFTER: usize = 60;
/// How long nothing at all was let in, and it was still too much, before control frames go too.
const LAST_RESORT: Duration = Duration::from_secs(1);

/// The state between two ticks. `open` and `established` are parts of the scale, 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Regulator {
    open: f64,
    established: f64,
    /// The use of the limits, smoothed.
    used: f64,
    /// The part of the frames that was kept, smoothed in the same way.
    kept: f64,
    /// Both, smoothed over a shorter time, and never begun anew: their quotient is the load.
    lately: (f64, f64),
    /// The use of the limits in the latest tick alone.
    latest: f64,
    /// Frames kept for each that should be, by the measured load of what is open.
    skew: f64,
    /// How the load is spread over the scale.
    pub(super) scale: Scale,
    /// Whether control frames are so many that they have no right of way.
    has_control_flood: bool,
    settling: Settling,
    /// A flood about which is not decided yet.
    doubt: Option<Doubt>,
    /// How long it has been too much with everything left out.
    in_vain: Duration,
}

impl Default for Regulator {
    /// Everything is let in, and has been for long.
    fn default() -> Self {
        Self {
            open: 1.0,
            established: 1.0,
            used: 0.0,
            kept: 1.0,
            lately: (0.0, 1.0),
            latest: 0.0,
            skew: 1.0,
            scale: Scale::default(),
            has_control_flood: false,
            settling: Settling::default(),
            doubt: None,
            in_vain: Duration::ZERO,
        }
    }
}

/// A flood, until it is known where it comes: established flows beyond a mark wait.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The mark, a part of the scale.
    gate: f64,
    /// For how many ticks more.
    ticks: f64,
}

/// What workers did by themselves in a tick, because it was not over yet and its allowance was: the marks that they came
/// down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Braked {
    /// How far new flows were admitted then.
    pub(super) open: u32,
    /// How far established ones were in a flood, else all of them. Whether they are cut short is decided here.
    pub(super) established: u32,
}

impl Regulator {
    /// The window for the next tick. `used` is the use of the limit that is used most, over the last `interval`, and `kept`
    /// the part of the frames that was kept, if there were any.
    pub(super) fn step(&mut self, used: f64, kept: Option<f64>, braked: Option<Braked>, interval: Duration) -> Window {
        let used = if used.is_finite() { used.clamp(0.0, 100.0) } else { 100.0 };
        let ticks = ticks_in(interval);
        self.used += (used - self.used) * (WEIGHT * ticks);
        let late_weight = (LATE_WEIGHT * ticks).min(1.0);
        self.lately.0 += (used - self.lately.0) * late_weight;
        if let Some(kept) = kept {
            self.lately.1 += (kept - self.lately.1) * late_weight;
            self.kept += (kept - self.kept) * (WEIGHT * ticks);
            let below = self.scale.below(self.open);
            if below > 0.001 {
                // Where nothing but what is open is admitted, it shows at once what that is.
                let is_exact = self.open < 1.0 && self.established < self.open * 1.02;
                let weight = if is_exact { EXACT_SKEW_WEIGHT } else { SKEW_WEIGHT };
                self.skew += (kept / below - self.skew) * (weight * ticks);
                self.skew = self.skew.clamp(0.02, 50.0);
            }
        }
        let lasting = used.min(std::mem::replace(&mut self.latest, used));
        let cuts_established = braked.is_some_and(|braked| braked.established < BUCKETS);
        let share = if cuts_established {
            kept.unwrap_or(1.0) / used.max(0.01)
        } else if lasting > BURST {
            kept.unwrap_or(1.0) / lasting
        } else {
            self.lately.1 / self.lately.0.max(0.01)
        };
        self.scale.choose(self.open, share, cuts_established || lasting > FLOOD || self.used > TOO_MUCH);
        self.has_control_flood = self.scale.is_flooded_with_control_frames(share);
        let is_cut = if cuts_established || lasting > FLOOD || self.doubt.is_some() {
            self.doubt(used, kept, ticks)
        } else if let Some(Braked { open, .. }) = braked {
            // What was used before they braked says nothing about now.
            self.come_down_to(f64::from(open) / SCALE, 1.0, used)
        } else if lasting > BURST {
            let open = self.room(lasting, kept.unwrap_or(1.0));
            self.come_down_to(open, self.established, used)
        } else {
            false
        };
        if !is_cut {
            self.approach(ticks);
        }
        if self.open > 0.999 {
            self.open = 1.0;
        } else if self.open * SCALE < 1.0 {
            self.open = 0.0;
        }
        self.established = self.established.max(self.open);
        if self.established * SCALE < 1.0 {
            self.established = 0.0;
        }
        let is_in_vain = self.established <= 0.0 && self.used > 1.0 + DEAD_ZONE;
        self.in_vain = if is_in_vain { self.in_vain + interval } else { Duration::ZERO };
        self.window(interval)
    }

    /// Whether another step without frames, at the same use, would change nothing.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_open = self.open >= 1.0 && self.established >= 1.0;
        is_open && self.doubt.is_none() && self.in_vain.is_zero() && self.used < 0.9 && self.scale.is_at_rest()
    }

    /// A flood: who is cut short is decided when its load has been measured; until then they wait.
    fn doubt(&mut self, used: f64, kept: Option<f64>, ticks: f64) -> bool {
        if self.doubt.is_none() {
            self.lately = (used, kept.unwrap_or(1.0));
        }
        let (used_lately, kept_lately) = self.lately;
        let gate = self.room(used_lately, kept_lately);
        let left = self.doubt.map_or(DOUBTS_FOR, |doubt| doubt.ticks) - ticks;
        if left <= 0.0 {
            self.doubt = None;
            return self.come_down_to(gate, gate, used);
        }
        self.doubt = Some(Doubt { gate, ticks: left });
        self.open = self.open.min(gate);
        true
    }

    /// Up to where the limit has room, when so much is used for the part that is kept.
    fn room(&self, used: f64, kept: f64) -> f64 {
        self.scale.mark(kept.max(1.0 / SCALE) / used.max(0.01) / self.skew)
    }

    /// A burst: goes down at once, and begins to smooth anew. Says whether flows that are under way were cut short.
    fn come_down_to(&mut self, open: f64, established: f64, used: f64) -> bool {
        let is_cut = established < self.established;
        self.established = self.established.min(established);
        self.open = self.open.min(open).min(self.established);
        let will_be_kept = if is_cut { self.open } else { self.established };
        self.kept = (self.scale.below(will_be_kept) * self.skew).min(1.0);
        self.used = if is_cut { 1.0 } else { self.used.min(used).max(1.0) };
        is_cut
    }

    /// Moves towards where the limit is just used.
    fn approach(&mut self, ticks: f64) {
        let (lately, kept_lately) = self.lately;
        let is_urgent = lately > self.used.max(URGENT);
        let (used, kept) = if is_urgent { self.lately } else { (self.used, self.kept) };
        let room = self.room(used, kept);
        if used > TOO_MUCH {
            // Not down to where new flows are refused: that was decided in a moment, and what is cut does not come back.
            let enough = self.room(lately, kept_lately).clamp(self.open, self.established);
            self.established += (enough - self.established) * (0.12 * ticks);
            if self.established * SCALE < 64.0 {
                (self.established, self.open) = (0.0, 0.0);
            }
        }
        if room < self.open * (1.0 - DEAD_ZONE) && used > 0.9 {
            self.open = room.max(self.open * 0.8_f64.powf(ticks));
        } else if room > self.open * (1.0 + DEAD_ZONE) && used < 1.0 {
            self.open = room.min(self.open * 1.03_f64.powf(ticks) + 0.0005 * ticks);
        } else if used < 0.9 {
            // Whatever else is thought: the limit is not used.
            self.open = (self.open * 1.003_f64.powf(ticks) + 0.0002 * ticks).min(1.0);
        }
    }

    fn window(&mut self, interval: Duration) -> Window {
        let (open, established) = (mark(self.open), mark(self.established));
        let settled = self.settling.note(open, interval);
        let control_frames = self.in_vain < LAST_RESORT && !self.has_control_flood;
        let gate = self.doubt.map_or(BUCKETS, |doubt| mark(doubt.gate));
        Window { settled, open, established, gate, control_frames, in_portions: false, closed: self.scale.closed() }
    }
}

/// An interval in ticks, as far as it counts.
pub(super) fn ticks_in(interval: Duration) -> f64 {
    (interval.as_secs_f64() / TICK.as_secs_f64()).clamp(0.1, 5.0)
}

/// A part of the scale as a mark on it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 65,536")]
fn mark(part: f64) -> u32 {
    ((part.clamp(0.0, 1.0) * SCALE).round() as u32).min(BUCKETS)
}

/// How far it was open at least in each of the last seconds.
#[derive(Clone, Debug)]
struct Settling {
    least: [u32; SETTLES_AFTER],
    at: usize,
    /// How long the current second has been going on.
    passed: Duration,
}

impl Default for Settling {
    fn default() -> Self {
        Self { least: [BUCKETS; SETTLES_AFTER], at: 0, passed: Duration::ZERO }
    }
}

impl Settling {
    /// Takes note of how far it is open now, and says how far it was all the time.
    fn note(&mut self, open: u32, interval: Duration) -> u32 {
        self.passed += interval;
        if self.passed >= Duration::from_secs(1) {
            self.passed = Duration::ZERO;
            self.at = (self.at + 1) % SETTLES_AFTER;
            self.least[self.at] = open;
        }
        self.least[self.at] = self.least[self.at].min(open);
        self.least.iter().copied().min().unwrap_or(open)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A host that mirrors: flows begin evenly over the scale and last for a while, and what is dropped costs a part of
    /// what is mirrored.
    struct Host {
        /// Use of the limit if everything were mirrored.
        load: f64,
        /// Of that, what dropping costs.
        floor: f64,
        /// Ticks that a flow lasts.
        lasts: usize,
        /// Up to where flows were admitted that began in each of the last ticks; the latest last.
        begun: Vec<f64>,
        /// The part of the frames that the first half of the flows has, as a power: 1 when they are all alike.
        skew: f64,
        /// Flows that were admitted, and of these, those that were cut short.
        admitted: f64,
        cut: f64,
    }

    impl Host {
        fn new(load: f64, floor: f64, lasts: usize) -> Self {
            Self { load, floor, lasts, begun: vec![1.0; lasts], skew: 1.0, admitted: 0.0, cut: 0.0 }
        }

        /// Use of the limit in a tick with this window, and the part of the frames that is kept.
        fn used(&mut self, window: Window, noise: f64) -> (f64, f64) {
            let part = |mark: u32| f64::from(mark) / SCALE;
            self.begun.remove(0);
            self.begun.push(part(window.open));
            let (settled, established) = (part(window.settled), part(window.established));
            self.admitted += part(window.open);
            for admitted in &mut self.begun {
                let stays = admitted.min(established).max(settled);
                self.cut += (*admitted - stays).max(0.0);
                *admitted = stays;
            }
            let gate = part(window.gate);
            #[allow(clippy::cast_precision_loss, reason = "a short time")]
            let kept = self.begun.iter().map(|admitted| admitted.min(gate)).sum::<f64>() / self.lasts as f64;
            let kept = kept.powf(self.skew);
            (self.load * noise * (self.floor + (1.0 - self.floor) * kept), kept)
        }
    }

    fn run(host: &mut Host, regulator: &mut Regulator, ticks: usize) -> Vec<(f64, Window)> {
        // A load that is never the same, and never by chance.
        run_uneven(host, regulator, ticks, &[1.0, 1.2, 0.7, 1.1, 0.9, 1.3, 0.8])
    }

    fn run_uneven(host: &mut Host, regulator: &mut Regulator, ticks: usize, noise: &[f64]) -> Vec<(f64, Window)> {
        let mut window = regulator.window(Duration::ZERO);
        noise
            .iter()
            .cycle()
            .take(ticks)
            .map(|&noise| {
                let (used, kept) = host.used(window, noise);
                window = regulator.step(used, Some(kept), None, TICK);
                (used, window)
            })
            .collect()
    }

    fn mean(used: &[(f64, Window)]) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a short time")]
        let count = used.len() as f64;
        used.iter().map(|(used, _)| used).sum::<f64>() / count
    }

    #[test]
    fn below_the_limit_everything_is_settled() {
        for (_, window) in run(&mut Host::new(0.7, 0.1, 10), &mut Regulator::default(), 500) {
            assert_eq!(window, Window::FULL);
        }
    }

    #[test]
    fn a_load_that_ends_leaves_nothing_behind() {
        let mut regulator = Regulator::default();
        run(&mut Host::new(20.0, 0.02, 10), &mut regulator, 300);
        let after = run(&mut Host::new(0.5, 0.02, 10), &mut regulator, 1200);
        let opens: Vec<u32> = after.iter().map(|(_, window)| window.open).collect();
        assert!(opens.windows(2).all(|pair| pair[0] <= pair[1]), "it only goes up");
        assert_eq!(opens[300], BUCKETS, "within half a minute");
        assert!(after[500].1.settled < BUCKETS, "but what is under way is not let in at once");
        assert_eq!(after[1199].1, Window::FULL);
    }

    #[test]
    fn a_sudden_flood_is_met_within_two_ticks() {
        let (mut regulator, mut host) = (Regulator::default(), Host::new(0.5, 0.02, 50));
        run(&mut host, &mut regulator, 100);
        host.load = 10.0;
        let after = run(&mut host, &mut regulator, 20);
        assert!(after[2..].iter().all(|(used, _)| *used < 1.6), "{after:?}");
    }

    #[test]
    fn flows_that_never_end_are_cut_short_when_nothing_else_helps() {
        for load in [1.5, 2.1, 2.5, 2.9, 3.5, 6.0] {
            let (mut regulator, mut host) = (Regulator::default(), Host::new(load, 0.02, 1000));
            let after = run(&mut host, &mut regulator, 90);
            let mean = mean(&after[20..]);
            assert!((0.7..1.25).contains(&mean), "{mean} times the limit under {load} times");
        }
    }

    #[test]
    fn what_a_worker_catches_up_with_is_no_burst() {
        let (mut regulator, mut host) = (Regulator::default(), Host::new(2.5, 0.02, 50));
        run(&mut host, &mut regulator, 600);
        let before = regulator.clone();
        // For three ticks it has no core, then it takes in one what came in four. The next time the governor is late too.
        for (used, tenths) in [(0.0, 10), (0.0, 10), (0.0, 10), (4.0, 10), (1.0, 10), (0.1, 37), (12.0, 3), (1.0, 10)] {
            regulator.step(used, Some(0.4), None, TICK * tenths / 10);
        }
        assert!(regulator.established >= before.established, "nothing is cut short");
        assert!(regulator.open > 0.9 * before.open, "{} of {}", regulator.open, before.open);
    }

    #[test]
    fn when_dropping_alone_is_too_much_nothing_is_left_in_the_end_and_it_comes_back() {
        let (mut regulator, mut host) = (Regulator::default(), Host::new(20.0, 0.1, 10));
        let during = run(&mut host, &mut regulator, 300);
        let last = during[299].1;
        assert_eq!((last.open, last.established, last.control_frames), (0, 0, false));
        host.load = 0.5;
        let after = run(&mut host, &mut regulator, 400);
        assert_eq!((after[399].1.open, after[399].1.control_frames), (BUCKETS, true));
    }

    #[test]
    fn what_workers_did_themselves_is_not_done_again() {
        let mut regulator = Regulator::default();
        let braked = Braked { open: BUCKETS / 4, established: BUCKETS };
        let window = regulator.step(5.0, Some(1.0), Some(braked), TICK);
        assert_eq!((window.open, window.established), (BUCKETS / 4, BUCKETS));
        // Of a flood they leave it to the regulator who is cut short.
        let mut regulator = Regulator::default();
        let window = regulator.step(5.0, Some(1.0), Some(Braked { established: BUCKETS / 4, ..braked }), TICK);
        assert_eq!((window.open, window.established, window.gate), (BUCKETS / 5, BUCKETS, BUCKETS / 5));
        let window = (0..5).map(|_| regulator.step(1.0, Some(0.2), None, TICK)).last().unwrap();
        assert_eq!((window.open, window.established, window.gate), (BUCKETS / 5, BUCKETS / 5, BUCKETS));
    }

    #[test]
    fn bursts_that_workers_brake_in_every_tick_end_all_the_same() {
        let (mut regulator, mut host) = (Regulator::default(), Host::new(1.8, 0.02, 1000));
        let mut window = Window::FULL;
        let used: Vec<f64> = (0..100)
            .map(|_| {
                let (used, kept) = host.used(window, 1.0);
                // New flows only, each time.
                let braked = Braked { open: window.open / 2, established: BUCKETS };
                window = regulator.step(used, Some(kept), Some(braked), TICK);
                used
            })
            .collect();
        assert!(used[99] < 1.25, "{used:?}");
    }

    #[test]
    fn a_load_of_twice_the_limit_that_is_uneven_is_not_cut_further_than_it_must() {
        // Flows that never end, and a worker that is kept from its core now and then.
        let (mut regulator, mut host) = (Regulator::default(), Host::new(2.0, 0.02, 1000));
        let noise = [1.0, 1.1, 0.0, 2.1, 0.8, 1.2, 0.9, 0.1, 0.0, 2.8];
        let after = run_uneven(&mut host, &mut regulator, 100, &noise);
        let (used, _) = host.used(after[99].1, 1.0);
        assert!((0.8..1.25).contains(&used), "{used} times the limit");
    }

    proptest! {
        /// Whatever the load, what dropping costs, how long flows last and how unlike they are: the limit is used, it holds
        /// on average, and flows that were admitted stay.
        #[test]
        fn the_limit_is_used_and_not_exceeded(
            load in 1.2..10.0_f64,
            floor in 0.0..0.05_f64,
            lasts in 1..100_usize,
            skew in 0.8..1.3_f64,
        ) {
            let mut regulator = Regulator::default();
            let mut host = Host { skew, ..Host::new(load, floor, lasts) };
            run(&mut host, &mut regulator, 600);
            (host.admitted, host.cut) = (0.0, 0.0);
            let steady = run(&mut host, &mut regulator, 700);
            let mean = mean(&steady);
            prop_assert!((0.93..1.07).contains(&mean), "mean {mean}");
            prop_assert!(host.cut < 0.002 * host.admitted, "{} of {} are cut short", host.cut, host.admitted);
        }

        #[test]
        fn marks_are_in_order_whatever_is_measured(
            used in proptest::collection::vec(prop_oneof![0.0..3.0_f64, any::<f64>()], 1..200),
            braked in proptest::option::of(any::<[u16; 2]>()),
            kept in proptest::option::of(0.0..1.0_f64),
            millis in 0..2000_u64,
        ) {
            let mut regulator = Regulator::default();
            for used in used {
                let braked = braked.map(|[one, other]| Braked {
                    open: one.min(other).into(),
                    established: one.max(other).into(),
                });
                let window = regulator.step(used, kept, braked, Duration::from_millis(millis));
                prop_assert!(window.settled <= window.open, "{window:?}");
                prop_assert!(window.open <= window.established && window.established <= BUCKETS, "{window:?}");
            }
        }
    }
}
