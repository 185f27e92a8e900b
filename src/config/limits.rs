//! The keys that keep a session small: samples, limits, priorities.

use super::keys::{Keys, Mistakes};
use super::mistake::What;
use super::plan::SamplePlan;

/// The sample, out of the table `select`.
pub(super) fn sample(keys: &Keys<'_>, mistakes: &mut Mistakes) -> SamplePlan {
    let rate = keys.read("sample", mistakes, str::parse);
    let by = keys.read("sample_by", mistakes, str::parse);
    if by.is_some() && keys.written("sample").is_none() {
        mistakes.push(keys.mistake("sample_by", What::SampleOfWhat));
    }
    let SamplePlan { rate: all, by: flow } = SamplePlan::default();
    SamplePlan { rate: rate.unwrap_or(all), by: by.unwrap_or(flow) }
}
