//! Sampling: one flow in N, whole, or one frame in N.

use crate::config::plan::{SampleBy, SamplePlan};
use crate::flow::{FlowHash, Purpose};

/// Chooses the frames of a sample.
#[derive(Clone, Copy, Debug)]
pub enum Sample {
    /// All frames of one flow in so many. It is the hash that chooses, so both directions, all fragments between two
    /// addresses and all workers agree, and one session chooses like another.
    Flows(u32),
    /// One frame in so many, the first of them; each worker counts its own.
    Frames {
        /// In so many.
        one_in: u32,
        /// Frames that are still left out before the next one is kept.
        left_out: u32,
    },
}

impl Sample {
    /// The sample of a plan; `None` when that is every frame.
    pub fn of(plan: SamplePlan) -> Option<Self> {
        match (plan.rate.one_in(), plan.by) {
            (1, _) => None,
            (one_in, SampleBy::Flow) => Some(Self::Flows(one_in)),
            (one_in, SampleBy::Frame) => Some(Self::Frames { one_in, left_out: 0 }),
        }
    }

    /// Whether a frame of this flow is in the sample. Asked once for each frame.
    pub fn keeps(&mut self, flow: FlowHash) -> bool {
        match self {
            Self::Flows(one_in) => flow.part(Purpose::Sample, *one_in) == 0,
            Self::Frames { one_in, left_out } => {
                let kept = *left_out == 0;
                *left_out = if kept { *one_in - 1 } else { *left_out - 1 };
                kept
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(one_in: u32, by: SampleBy) -> Option<Sample> {
        let rate = format!("1/{one_in}").parse().unwrap();
        Sample::of(SamplePlan { rate, by })
    }

    /// Hashes as those of many flows.
    fn flows(count: u32) -> impl Iterator<Item = FlowHash> {
        (0..u64::from(count)).map(|number| FlowHash(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    #[test]
    fn every_frame_is_no_sample() {
        assert!(sample(1, SampleBy::Flow).is_none() && sample(1, SampleBy::Frame).is_none());
    }

    #[test]
    fn the_chosen_flows_are_spread_over_all_source_ports() {
        for one_in in [2, 10, 16, 100] {
            let mut sample = sample(one_in, SampleBy::Flow).unwrap();
            let mut buckets = [0_u32; 16];
            for flow in flows(160_000 * one_in / 10).filter(|&flow| sample.keeps(flow)) {
                buckets[flow.bucket(16) as usize] += 1;
            }
            // 1,000 in each on average, with a standard deviation of 31.
            assert!(buckets.iter().all(|flows| (800..1200).contains(flows)), "1/{one_in}: {buckets:?}");
        }
    }

    proptest! {
        #[test]
        fn a_sample_of_frames_keeps_exactly_one_in_so_many(one_in in 2..1000_u32, frames in 0..5000_u32) {
            let mut sample = sample(one_in, SampleBy::Frame).unwrap();
            let kept = (0..frames).filter(|_| sample.keeps(FlowHash(7))).count();
            prop_assert_eq!(u32::try_from(kept).unwrap(), frames.div_ceil(one_in));
        }

        #[test]
        fn a_flow_is_whole_whoever_looks_at_it(flow: u64, one_in in 2..1000_u32) {
            let mut one = sample(one_in, SampleBy::Flow).unwrap();
            let mut other = sample(one_in, SampleBy::Flow).unwrap();
            let first = one.keeps(FlowHash(flow));
            prop_assert!((0..10).all(|_| one.keeps(FlowHash(flow)) == first && other.keeps(FlowHash(flow)) == first));
        }
    }
}
