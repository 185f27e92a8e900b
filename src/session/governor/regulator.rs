//! How far the window is open: pure arithmetic, asked ten times a second.
//!
//! It is told how far the limits are used, 1 being all that is allowed, and answers with a window. Four rules:
//!
//! - New flows are refused before established ones are cut short: `open` moves first, and `established` follows it only as
//!   far and as fast as the load stays too high.
//! - It comes down fast and goes up slowly, and within three percent of a limit it does not move.
//! - Nothing is saved up: while everything is let in there is no credit, while nothing is, no debt.
//! - What was open for a minute is settled.

use std::time::Duration;

use crate::select::shed::{BUCKETS, Window};

/// How often it is asked.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The whole scale, as a number.
const SCALE: f64 = 65_536.0;
/// Of the limit, above and below: the window stays where it is.
const DEAD_ZONE: f64 = 0.03;
/// Times the limit: so much that established flows are cut short, without waiting for them to end.
const TOO_MUCH: f64 = 1.15;
/// Times the limit within a tick: a burst. What new flows may have comes down at once.
pub(super) const BURST: f64 = 2.0;
/// Times the limit within a tick: so sudden a burst that established flows go at once too.
pub(super) const FLOOD: f64 = 3.0;
/// After so many seconds, what was open all the time is settled.
const SETTLES_AFTER: usize = 60;
/// How long nothing at all was let in, and it was still too much, before control frames go too.
const LAST_RESORT: Duration = Duration::from_secs(1);

/// The state between two ticks. `open` and `established` are parts of the scale, 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Regulator {
    open: f64,
    established: f64,
    /// The use of the limits, smoothed over about a third of a second.
    smoothed: f64,
    settling: Settling,
    /// How long it has been too much with everything left out.
    in_vain: Duration,
}

impl Default for Regulator {
    /// Everything is let in, and has been for long.
    fn default() -> Self {
        Self { open: 1.0, established: 1.0, smoothed: 0.0, settling: Settling::default(), in_vain: Duration::ZERO }
    }
}

/// What workers did by themselves in a tick, because it was not over yet and its allowance was: the marks that they came
/// down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Braked {
    /// How far new flows were admitted then.
    pub(super) open: u32,
    /// How far established ones were.
    pub(super) established: u32,
}

impl Regulator {
    /// The window for the next tick. `used` is the use of the limit that is used most, over the last `interval`.
    pub(super) fn step(&mut self, used: f64, braked: Option<Braked>, interval: Duration) -> Window {
        let used = if used.is_finite() { used.clamp(0.0, 100.0) } else { 100.0 };
        let ticks = (interval.as_secs_f64() / TICK.as_secs_f64()).clamp(0.1, 5.0);
        self.smoothed += (used - self.smoothed) * (1.0 - 0.7_f64.powf(ticks));
        if let Some(Braked { open, established }) = braked {
            // What was used before they braked says nothing about now.
            self.open = self.open.min(f64::from(open) / SCALE);
            self.established = self.established.min(f64::from(established) / SCALE);
            self.smoothed = self.smoothed.min(1.0);
        } else if used > BURST {
            self.open = self.open.min(self.established) / used;
            if used > FLOOD {
                self.established = self.open;
            }
            self.smoothed = 1.0;
        } else {
            self.approach(ticks);
        }
        if self.open > 0.999 {
            self.open = 1.0;
        } else if self.open * SCALE < 1.0 {
            self.open = 0.0;
        }
        self.established = self.established.max(self.open);
        let is_in_vain = self.open <= 0.0 && self.smoothed > 1.0 + DEAD_ZONE;
        self.in_vain = if is_in_vain { self.in_vain + interval } else { Duration::ZERO };
        self.window(interval)
    }

    /// Moves towards the limit.
    fn approach(&mut self, ticks: f64) {
        let relative = 1.0 / self.smoothed.max(0.01);
        if self.smoothed > 1.0 + DEAD_ZONE {
            self.open *= relative.powf(0.3).max(0.9).powf(ticks);
            let follow = if self.smoothed > TOO_MUCH { 0.25 } else { 0.02 };
            // Flows that were admitted before and go on for long must not press `open` down to nothing meanwhile.
            self.open = self.open.max(self.established / 2.0);
            self.established += (self.open - self.established) * (follow * ticks).min(1.0);
            if self.smoothed > TOO_MUCH && self.established * SCALE < 64.0 {
                self.established = 0.0;
                self.open = 0.0;
            }
        } else if self.smoothed < 1.0 - DEAD_ZONE {
            self.open = (self.open * relative.powf(0.2).min(1.03).powf(ticks) + 0.0005 * ticks).min(1.0);
        }
    }

    fn window(&mut self, interval: Duration) -> Window {
        let (open, established) = (mark(self.open), mark(self.established));
        let settled = self.settling.note(open, interval);
        Window { settled, open, established, control_frames: self.in_vain < LAST_RESORT }
    }
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
    }

    impl Host {
        fn new(load: f64, floor: f64, lasts: usize) -> Self {
            Self { load, floor, lasts, begun: vec![1.0; lasts] }
        }

        /// Use of the limit in a tick with this window.
        fn used(&mut self, window: Window, noise: f64) -> f64 {
            let part = |mark: u32| f64::from(mark) / SCALE;
            self.begun.remove(0);
            self.begun.push(part(window.open));
            let (settled, established) = (part(window.settled), part(window.established));
            for admitted in &mut self.begun {
                *admitted = admitted.min(established).max(settled);
            }
            #[allow(clippy::cast_precision_loss, reason = "a short time")]
            let kept = self.begun.iter().sum::<f64>() / self.lasts as f64;
            self.load * noise * (self.floor + (1.0 - self.floor) * kept)
        }
    }

    fn run(host: &mut Host, regulator: &mut Regulator, ticks: usize) -> Vec<(f64, Window)> {
        let mut window = regulator.window(Duration::ZERO);
        (0..ticks)
            .map(|tick| {
                // A load that is never the same, and never by chance.
                let noise = [1.0, 1.2, 0.7, 1.1, 0.9, 1.3, 0.8][tick % 7];
                let used = host.used(window, noise);
                window = regulator.step(used, None, TICK);
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
        assert!(after[3..].iter().all(|(used, _)| *used < 1.6), "{after:?}");
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
        let braked = Braked { open: BUCKETS / 4, established: BUCKETS / 2 };
        let window = regulator.step(5.0, Some(braked), TICK);
        assert_eq!((window.open, window.established), (BUCKETS / 4, BUCKETS / 2));
    }

    proptest! {
        /// Whatever the load, what dropping costs, and how long flows last: the limit holds on average, it is used, and
        /// the window does not swing.
        #[test]
        fn the_limit_is_used_and_not_exceeded(load in 1.2..12.0_f64, floor in 0.0..0.05_f64, lasts in 1..100_usize) {
            let mut regulator = Regulator::default();
            let mut host = Host::new(load, floor, lasts);
            run(&mut host, &mut regulator, 600);
            let steady = run(&mut host, &mut regulator, 700);
            let mean = mean(&steady);
            prop_assert!((0.9..1.06).contains(&mean), "mean {mean}");
            // Established flows are hardly ever cut short: each cut is a step down of `established` below what it was.
            let cut: u32 = steady.windows(2).map(|pair| pair[0].1.established.saturating_sub(pair[1].1.established)).sum();
            prop_assert!(f64::from(cut) < 0.5 * SCALE, "{cut} places were cut within 70 seconds");
        }

        #[test]
        fn marks_are_in_order_whatever_is_measured(
            used in proptest::collection::vec(prop_oneof![0.0..3.0_f64, any::<f64>()], 1..200),
            braked in proptest::option::of(any::<[u16; 2]>()),
            millis in 0..2000_u64,
        ) {
            let mut regulator = Regulator::default();
            for used in used {
                let braked = braked.map(|[one, other]| Braked {
                    open: one.min(other).into(),
                    established: one.max(other).into(),
                });
                let window = regulator.step(used, braked, Duration::from_millis(millis));
                prop_assert!(window.settled <= window.open, "{window:?}");
                prop_assert!(window.open <= window.established && window.established <= BUCKETS, "{window:?}");
            }
        }
    }
}
