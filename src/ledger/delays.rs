//! How long frames took through farspan: a report beside the law, which costs a frame one comparison.

use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::quantity::Timestamp;

/// A histogram of the time from the kernel's timestamp of a frame to the end of the turn that handed it to the kernel
/// again.
///
/// The clock is read once a turn, and all frames of a turn count with the delay of the oldest one: so these are upper
/// bounds. A clock that is set while frames wait shows as one odd turn. Frames of capture files have no delay, and those
/// that wait for a next hop's first answer leave later than is counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Frames in each bucket; the last one is for those beyond every bound.
    counts: [u64; Delays::BOUNDS.len() + 1],
    /// All delays together, in nanoseconds.
    sum: u64,
}

impl Delays {
    /// Upper bounds of the buckets, in microseconds: dense around the 2 ms of the capture buffer, and the 5 ms in which a
    /// frame is to leave.
    pub const BOUNDS: [u32; 16] = [
        100, 250, 500, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 7_500, 10_000, 25_000, 100_000, 250_000,
        1_000_000,
    ];
    /// What a single delay counts at most: more is a clock that was set.
    const MOST: Duration = Duration::from_mins(1);

    /// Counts `frames` of a turn that ended at `end`, and whose oldest frame is from `oldest`.
    pub fn record(&mut self, oldest: Timestamp, end: Timestamp, frames: u64) {
        let delay = Duration::from_nanos(end.nanos().saturating_sub(oldest.nanos())).min(Self::MOST);
        let bucket = Self::BOUNDS.partition_point(|&bound| u128::from(bound) * 1_000 < delay.as_nanos());
        self.counts[bucket] += frames;
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.sum = self.sum.saturating_add(nanos.saturating_mul(frames));
    }

    /// Whether none was counted.
    pub fn is_empty(&self) -> bool {
        self.frames() == 0
    }

    /// How many frames were counted.
    pub fn frames(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All delays together, in seconds.
    #[allow(clippy::cast_precision_loss, reason = "a sum of measurements, whose last digits mean nothing")]
    pub fn sum(&self) -> f64 {
        self.sum as f64 / 1e9
    }

    /// For each bound in seconds how many frames took at most so long; without the last bucket, which is unbounded.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        Self::BOUNDS.iter().map(|&bound| f64::from(bound) / 1e6).zip(sums)
    }

    /// The delay that the share `quantile` of all frames, between 0 and 1, did not exceed: inside a bucket as if its frames
    /// lay evenly in it, and the largest bound where it lies beyond. `None` before the first frame.
    #[allow(clippy::cast_precision_loss, reason = "a share of frames, whose last digits mean nothing")]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let frames = self.frames();
        if frames == 0 {
            return None;
        }
        let rank = quantile.clamp(0.0, 1.0) * frames as f64;
        let (mut below, mut bound_below) = (0, 0.0);
        for (bound, sum) in self.cumulative() {
            if sum as f64 >= rank && sum > below {
                let part = (rank - below as f64).max(0.0) / (sum - below) as f64;
                return Some(Duration::from_secs_f64(bound_below + part * (bound - bound_below)));
            }
            (below, bound_below) = (sum, bound);
        }
        Some(Duration::from_secs_f64(bound_below))
    }

    /// What was counted since `earlier`, a former state of the same account; everything where it is none.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let is_former =
            self.sum >= earlier.sum && self.counts.iter().zip(&earlier.counts).all(|(now, then)| now >= then);
        if !is_former {
            return *self;
        }
        let counts = std::array::from_fn(|bucket| self.counts[bucket] - earlier.counts[bucket]);
        Self { counts, sum: self.sum - earlier.sum }
    }
}

/// The JSON object of delays, in seconds. `p50` and `p99` are there for who does not want to reckon.
#[derive(Serialize, Deserialize)]
struct Json {
    frames: u64,
    sum: f64,
    #[serde(default)]
    p50: Option<f64>,
    #[serde(default)]
    p99: Option<f64>,
    /// Each bound, and how many frames took at most so long.
    buckets: Vec<(f64, u64)>,
}

impl Serialize for Delays {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [p50, p99] = [0.5, 0.99].map(|share| self.quantile(share).map(|delay| delay.as_secs_f64()));
        Json { frames: self.frames(), sum: self.sum(), p50, p99, buckets: self.cumulative().collect() }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Delays {
    /// Buckets with other bounds than ours give nothing.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let mut delays = Self::default();
        let is_ours = json.buckets.iter().map(|&(bound, _)| bound).eq(delays.cumulative().map(|(bound, _)| bound));
        if !is_ours {
            return Ok(delays);
        }
        let mut below = 0;
        for (count, sum) in delays.counts.iter_mut().zip(json.buckets.iter().map(|&(_, sum)| sum).chain([json.frames]))
        {
            *count = sum.saturating_sub(below);
            below = sum.max(below);
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "such a cast stops at the type's ends"
        )]
        let sum = (json.sum * 1e9).round() as u64;
        Ok(Self { sum, ..delays })
    }
}

impl Add for Delays {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let counts = std::array::from_fn(|bucket| self.counts[bucket] + other.counts[bucket]);
        Self { counts, sum: self.sum.saturating_add(other.sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn recorded(turns: &[(u64, u64)]) -> Delays {
        let mut delays = Delays::default();
        for &(nanos, frames) in turns {
            delays.record(Timestamp::from_nanos(1_000), Timestamp::from_nanos(1_000 + nanos), frames);
        }
        delays
    }

    #[test]
    fn a_turn_counts_with_all_its_frames_in_one_bucket() {
        let delays = recorded(&[(MILLISECOND, 3), (MILLISECOND + 1, 4), (0, 1), (2_000 * MILLISECOND, 2)]);
        assert_eq!(delays.frames(), 10);
        let sums: Vec<(f64, u64)> = delays.cumulative().collect();
        assert_eq!((sums[0], sums[3], sums[4]), ((0.0001, 1), (0.001, 4), (0.0015, 8)));
        assert_eq!(sums.last(), Some(&(1.0, 8)), "the last two took longer than every bound");
        assert!((delays.sum() - 4.007_000_004).abs() < 1e-9);
    }

    #[test]
    fn a_clock_that_is_set_gives_no_nonsense() {
        let mut delays = Delays::default();
        delays.record(Timestamp::from_nanos(5), Timestamp::from_nanos(1), 1);
        delays.record(Timestamp::from_nanos(0), Timestamp::from_nanos(u64::MAX), u64::MAX - 1);
        assert_eq!(delays.cumulative().next(), Some((0.0001, 1)));
        assert_eq!(delays.frames(), u64::MAX);
        assert_eq!(delays.quantile(1.0), Some(Duration::from_secs(1)));
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_rank() {
        assert_eq!(Delays::default().quantile(0.5), None);
        let delays = recorded(&[(MILLISECOND, 50), (9 * MILLISECOND, 50)]);
        assert_eq!(delays.quantile(0.5), Some(Duration::from_millis(1)));
        assert_eq!(delays.quantile(0.25), Some(Duration::from_micros(750)));
        assert_eq!(delays.quantile(0.75), Some(Duration::from_micros(8_750)));
        assert_eq!(delays.quantile(0.0), Some(Duration::from_micros(500)));
    }

    #[test]
    fn the_latest_delays_are_the_difference_of_two_accounts() {
        let (then, now) = (recorded(&[(MILLISECOND, 3)]), recorded(&[(MILLISECOND, 5), (MILLISECOND * 3, 1)]));
        assert_eq!(now.since(&then), recorded(&[(MILLISECOND, 2), (MILLISECOND * 3, 1)]));
        assert_eq!(then.since(&now), then, "the account began anew");
        assert_eq!(then + now.since(&then), now);
    }
}
