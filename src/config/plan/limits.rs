//! What keeps a session small: samples, limits, priorities.

use crate::quantity::SampleRate;

/// Which frames are mirrored at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplePlan {
    /// One in so many.
    pub rate: SampleRate,
    /// So many of what.
    pub by: SampleBy,
}

impl Default for SamplePlan {
    /// All of them.
    fn default() -> Self {
        Self { rate: SampleRate::ALL, by: SampleBy::Flow }
    }
}

/// What a sample counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleBy {
    /// Whole flows, both directions of each: for analyzers that follow conversations.
    #[default]
    Flow,
    /// Single frames: for statistics.
    Frame,
}
