//! When each frame of a file is due.

use std::time::{Duration, Instant};

use super::held::Held;
use super::link_type::LARGEST_FRAME;
use crate::config::plan::Pace;
use crate::frame::Frame;
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
    Recorded,
    Constant(Rate),
}

impl Pacer {
    /// For this pace; `None` when frames do not wait.
    pub fn of(pace: Pace) -> Option<Self> {
        let rhythm = match pace {
            Pace::Unpaced => return None,
            Pace::Recorded => Rhythm::Recorded,
            Pace::Rate(rate) => Rhythm::Constant(rate),
        };
        Some(Self { rhythm, first: None, spent: 0.0 })
    }

    /// When the next frame is due, which is this one; `now` is when the first one is.
    pub fn due(&mut self, now: Instant, timestamp: Timestamp, wire_len: u32) -> Instant {
        let (start, first) = *self.first.get_or_insert((now, timestamp));
        let after = match self.rhythm {
            Rhythm::Recorded => Duration::from_nanos(timestamp.nanos().saturating_sub(first.nanos())),
            Rhythm::Constant(rate) => {
                let before = self.spent;
                self.spent += match rate {
                    Rate::Frames(rate) => 1.0 / rate,
                    Rate::Bits(rate) => f64::from(wire_len) * 8.0 / rate,
                };
                Duration::try_from_secs_f64(before).unwrap_or(Duration::MAX)
            }
        };
        start.checked_add(after).unwrap_or(start)
    }
}

/// Room for one frame that was read before it is due.
#[derive(Debug)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    waiting: Option<(Instant, Held)>,
}

impl Ahead {
    /// Nothing read ahead; claims the memory.
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(LARGEST_FRAME), waiting: None }
    }

    /// When the frame is due, if there is one.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|&(due, _)| due)
    }

    /// Copies `frame` for later.
    pub fn keep(&mut self, frame: &Frame<'_>, due: Instant) {
        self.bytes.clear();
        self.waiting = Some((due, Held::copy(frame, &mut self.bytes)));
    }

    /// Gives the frame to `each`.
    pub fn give(&mut self, each: &mut dyn FnMut(&Frame<'_>)) {
        if let Some((_, held)) = self.waiting.take() {
            each(&held.frame(&self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds after the start at which frames of these timestamps (in ms) and lengths are due.
    fn due(pace: Pace, frames: &[(u64, u32)]) -> Vec<u128> {
        let (mut pacer, start) = (Pacer::of(pace).unwrap(), Instant::now());
        let moments = frames.iter().map(|&(at, len)| pacer.due(start, Timestamp::from_nanos(at * 1_000_000), len));
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
    fn as_fast_as_it_goes_has_no_pacer() {
        assert!(Pacer::of(Pace::Unpaced).is_none());
    }
}
