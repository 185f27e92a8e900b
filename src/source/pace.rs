//! When each frame of a file is due.

use std::time::{Duration, Instant};

use crate::config::plan::Pace;
use crate::quantity::{Rate, Timestamp};

/// Tells when each frame of a replay is due. A replay that fell behind catches up: the moments count from its first
/// frame, not from the one before.
#[derive(Debug)]
pub(super) struct Pacer {
    rhythm: Rhythm,
    /// Moment and timestamp of the first frame.
    first: Option<(Instant, Timestamp)>,
    /// Seconds of the replay that the frames so far take at a constant rate.
    spent: f64,
}

#[derive(Clone, Copy, Debug)]
enum Rhythm {
    Recorded(Recorded),
    Constant(Rate),
}

/// The recorded gaps.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    /// The longest pause between two frames.
    most: Option<Duration>,
    /// When the latest frame was due, after the first one.
    latest: Duration,
    /// How much was left out of the pauses so far.
    left_out: Duration,
    /// Whether a pause was told.
    has_told: bool,
}

impl Pacer {
    /// For this pace; `None` when frames do not wait. `most` is the longest pause between two recorded frames.
    pub fn of(pace: Pace, most: Option<Duration>) -> Option<Self> {
        let rhythm = match pace {
            Pace::Unpaced => return None,
            Pace::Recorded => {
                let (latest, left_out) = (Duration::ZERO, Duration::ZERO);
                Rhythm::Recorded(Recorded { most, latest, left_out, has_told: false })
            }
            Pace::Rate(rate) => Rhythm::Constant(rate),
        };
        Some(Self { rhythm, first: None, spent: 0.0 })
    }

    /// When the next frame is due, which is this one; `now` is when the first one is. A frame without a timestamp is due at
    /// once.
    pub fn due(&mut self, now: Instant, timestamp: Option<Timestamp>, wire_len: u32) -> Instant {
        let (start, first) = match (self.first, timestamp) {
            (Some(first), _) => first,
            (None, Some(timestamp)) => *self.first.insert((now, timestamp)),
            (None, None) => *self.first.insert((now, Timestamp::default())),
        };
        let after = match &mut self.rhythm {
            Rhythm::Recorded(recorded) => {
                let Some(timestamp) = timestamp else { return now };
                recorded.after(Duration::from_nanos(timestamp.nanos().saturating_sub(first.nanos())))
            }
            Rhythm::Constant(rate) => {
                let before = self.spent;
                self.spent += match *rate {
                    Rate::Frames(rate) => 1.0 / rate,
                    Rate::Bits(rate) => f64::from(wire_len) * 8.0 / rate,
                };
                Duration::try_from_secs_f64(before).unwrap_or(Duration::MAX)
            }
        };
        let due = start.checked_add(after).unwrap_or(start);
        self.tell(due.saturating_duration_since(now));
        due
    }

    /// Says that nothing will be mirrored for a while.
    fn tell(&mut self, pause: Duration) {
        const WORTH_TELLING: Duration = Duration::from_secs(10);
        const ALWAYS: Duration = Duration::from_mins(1);
        let Rhythm::Recorded(recorded) = &mut self.rhythm else { return };
        // No more than one line a minute.
        if pause >= ALWAYS || (pause >= WORTH_TELLING && !recorded.has_told) {
            recorded.has_told = true;
            let pause = humantime::format_duration(Duration::from_secs(pause.as_secs()));
            tracing::warn!(
                "the next frame was recorded {pause} later: the replay waits; --max-pause 1s shortens such pauses"
            );
        }
    }
}

impl Recorded {
    /// When a frame is due that was recorded `after` the first one. One that was recorded before the latest does not wait.
    fn after(&mut self, after: Duration) -> Duration {
        let due = after.saturating_sub(self.left_out);
        let pause = due.saturating_sub(self.latest);
        let too_long = self.most.map_or(Duration::ZERO, |most| pause.saturating_sub(most));
        self.left_out += too_long;
        let due = due.saturating_sub(too_long);
        self.latest = self.latest.max(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds after the start at which frames of these timestamps (in ms) and lengths are due.
    fn due(pace: Pace, frames: &[(u64, u32)]) -> Vec<u128> {
        let (mut pacer, start) = (Pacer::of(pace, None).unwrap(), Instant::now());
        let moments =
            frames.iter().map(|&(at, len)| pacer.due(start, Some(Timestamp::from_nanos(at * 1_000_000)), len));
        moments.map(|moment| (moment - start).as_millis()).collect()
    }

    #[test]
    fn recorded_gaps_are_kept_and_a_clock_that_stepped_back_waits_for_nothing() {
        assert_eq!(due(Pace::Recorded, &[(1000, 60), (1010, 60), (900, 60), (1030, 60)]), [0, 10, 0, 30]);
    }

    #[test]
    fn a_constant_rate_counts_frames_or_bits() {
        let frames = [(0, 125), (0, 250), (9, 125), (0, 125)];
        assert_eq!(due(Pace::Rate(Rate::Frames(100.0)), &frames), [0, 10, 20, 30]);
        assert_eq!(due(Pace::Rate(Rate::Bits(100_000.0)), &frames), [0, 10, 30, 40]);
    }

    #[test]
    fn a_longest_pause_moves_everything_behind_it() {
        let mut pacer = Pacer::of(Pace::Recorded, Some(Duration::from_millis(50))).unwrap();
        let start = Instant::now();
        let mut due = |millis: u64| {
            let due = pacer.due(start, Some(Timestamp::from_nanos(millis * 1_000_000)), 60);
            (due - start).as_millis()
        };
        let two_years = 729 * 24 * 3600 * 1000;
        assert_eq!([0, 10, 100, two_years, two_years + 20, 5].map(&mut due), [0, 10, 60, 110, 130, 0]);
        assert_eq!(due(two_years + 60), 170);
    }

    #[test]
    fn as_fast_as_it_goes_has_no_pacer() {
        assert!(Pacer::of(Pace::Unpaced, None).is_none());
    }
}
