//! The keys that keep a session small: samples, limits, priorities.

use super::keys::{Keys, Mistakes};
use super::mistake::What;
use super::plan::{LimitPlan, PriorityPlan, SamplePlan, SourcePlan};
use super::{resolve, words};

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

/// The limits of a session. Its capture buffer becomes as small as they say.
pub(super) fn limit(session: &Keys<'_>, source: Option<&mut SourcePlan>, mistakes: &mut Mistakes) -> LimitPlan {
    let keys = session.table("limit", mistakes);
    keys.only(&["bandwidth", "rate", "cpu", "memory", "underlay", "pressure"], mistakes);
    let limit = LimitPlan {
        bandwidth: keys.read("bandwidth", mistakes, words::bandwidth),
        rate: keys.read("rate", mistakes, words::frames_a_second),
        cpu: keys.read("cpu", mistakes, str::parse),
        memory: keys.read("memory", mistakes, words::memory),
        underlay: keys.read("underlay", mistakes, str::parse),
        pressure: keys.read("pressure", mistakes, str::parse),
    };
    let Some(source) = source else { return limit };
    if source.file().is_some() && (limit.is_any() || limit.memory.is_some()) {
        mistakes.push(session.mistake("limit", What::LimitOfFile));
    }
    if let (Some(buffer), Some(memory)) = (source.buffer_mut(), limit.memory) {
        *buffer = memory.min(*buffer);
    }
    limit
}

/// How the workers of a session stand back.
pub(super) fn priority(session: &Keys<'_>, source: Option<&SourcePlan>, mistakes: &mut Mistakes) -> PriorityPlan {
    let keys = session.table("priority", mistakes);
    keys.only(&["nice", "scheduling", "cpus"], mistakes);
    let cpus = resolve::cpus(&keys, "cpus", mistakes);
    if let (false, Some(SourcePlan::Live(live))) = (cpus.is_empty(), source)
        && !live.pin.is_empty()
    {
        mistakes.push(keys.mistake("cpus", What::CpusAndPin));
    }
    PriorityPlan {
        nice: keys.read("nice", mistakes, str::parse),
        scheduling: keys.read("scheduling", mistakes, str::parse).unwrap_or_default(),
        cpus,
    }
}
