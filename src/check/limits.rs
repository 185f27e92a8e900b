//! What is left out on purpose, and what the session may take.

use super::facts::Facts;
use super::finding::Finding;
use super::report::Statement;
use super::traffic::bits_in_words;
use crate::config::plan::{End, LimitPlan, PriorityPlan, SampleBy, SamplePlan, Scheduling, SessionPlan};

/// The sample, the limits and the priority, where there are some.
pub fn in_words(plan: &SessionPlan) -> Vec<Statement> {
    let SamplePlan { rate, by } = plan.sample;
    let what = match by {
        SampleBy::Flow => "flow, whole",
        SampleBy::Frame => "frame",
    };
    let sample = (rate.one_in() > 1).then(|| format!("one {what}, in {}", rate.one_in()));
    let LimitPlan { bandwidth, rate, cpu, memory: _, underlay, pressure } = plan.limit;
    let limits = [
        bandwidth.map(bits_in_words),
        rate.map(|frames| format!("{frames:.0} frames a second")),
        cpu.map(|share| share.to_string()),
        underlay.map(|share| format!("the underlay {share} busy")),
        pressure.map(|share| format!("{share} of the time somebody waits for a CPU")),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let limits = (!limits.is_empty()).then(|| format!("{}; beyond it, whole flows are left out", limits.join(", ")));
    let said = [("sample", sample), ("limit", limits), ("priority", priority(&plan.priority))];
    said.into_iter().filter_map(|(about, text)| Some(Statement::new(about, text?))).collect()
}

/// Which key the flow hash has, where that decides what is seen or somebody gave one. The seed itself is a secret.
pub fn seed_in_words(plan: &SessionPlan, facts: &Facts) -> Option<Statement> {
    let text = match (plan.seed, &facts.seed) {
        (Some(key), _) => format!("fingerprint {}, from select.seed", key.fingerprint()),
        (None, _) if !plan.chooses_flows() => return None,
        (None, Ok((Some(key), path))) => format!("fingerprint {}, of {}", key.fingerprint(), path.display()),
        (None, Ok((None, path))) => format!("none yet: the first start stores one in {}", path.display()),
        (None, Err(why)) => format!("a new one with every start, unless one can be stored: {why}"),
    };
    Some(Statement::new("seed", text))
}

/// How the workers stand back behind other programs, if they do.
fn priority(PriorityPlan { nice, scheduling, cpus }: &PriorityPlan) -> Option<String> {
    let scheduling = match scheduling {
        Scheduling::Other => None,
        Scheduling::Batch => Some("as a computation that nobody waits for (SCHED_BATCH)".to_owned()),
        Scheduling::Idle => Some("only when no other program wants the CPU (SCHED_IDLE)".to_owned()),
    };
    let cpus = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let cpus = (!cpus.is_empty()).then(|| format!("on CPU {cpus}"));
    let said: Vec<String> = [nice.map(|nice| format!("nice {nice}")), scheduling, cpus].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// Says when an analyzer of conversations gets single frames.
pub fn findings(plan: &SessionPlan, _: &Facts) -> Vec<Finding> {
    let is_torn = plan.sample.by == SampleBy::Frame && plan.sample.rate.one_in() > 1;
    let analyzes = |end: &End| matches!(end, End::Tunnel(tunnel) if tunnel.analyzer.is_some());
    if !is_torn || !plan.destinations.iter().any(|destination| analyzes(&destination.end)) {
        return Vec::new();
    }
    let why =
        "A sample of frames tears every conversation: an IDS reassembles none of them, and its rules stay silent.";
    vec![Finding::warning("the analyzer gets single frames").because(why).cure("sample_by = \"flow\"")]
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, mtu, plan, tunnel, vxlan};
    use super::*;
    use std::path::PathBuf;

    use crate::config::plan::{Analyzer, TunnelPlan};
    use crate::flow::FlowKey;

    #[test]
    fn samples_and_limits_are_told() {
        let mut plan = plan(tunnel(vxlan()));
        assert!(in_words(&plan).is_empty());
        plan.sample = SamplePlan { rate: "1/10".parse().unwrap(), by: SampleBy::Flow };
        plan.limit = LimitPlan { bandwidth: Some(5e8), cpu: Some("20%".parse().unwrap()), ..LimitPlan::default() };
        plan.priority = PriorityPlan { scheduling: Scheduling::Idle, cpus: vec![2, 3], ..PriorityPlan::default() };
        assert_eq!(
            in_words(&plan),
            [
                Statement::new("sample", "one flow, whole, in 10"),
                Statement::new("limit", "500.0 Mbit/s, 20 % of a core; beyond it, whole flows are left out"),
                Statement::new("priority", "only when no other program wants the CPU (SCHED_IDLE), on CPU 2, 3"),
            ]
        );
    }

    #[test]
    fn a06_the_seed_is_told_by_its_fingerprint_where_it_decides() {
        let said = |plan: &SessionPlan, seed| seed_in_words(plan, &Facts { seed, ..facts(mtu(1500)) });
        let mut plan = plan(tunnel(vxlan()));
        let digits = "000102030405060708090a0b0c0d0e0f";
        let key: FlowKey = digits.parse().unwrap();
        let path = || PathBuf::from("/var/lib/farspan/seed");
        assert_eq!(said(&plan, Ok((Some(key), path()))), None);
        plan.sample.rate = "1/10".parse().unwrap();
        let fingerprint = format!("fingerprint {}, of /var/lib/farspan/seed", key.fingerprint());
        assert_eq!(said(&plan, Ok((Some(key), path()))), Some(Statement::new("seed", fingerprint)));
        let none = "none yet: the first start stores one in /var/lib/farspan/seed";
        assert_eq!(said(&plan, Ok((None, path()))), Some(Statement::new("seed", none)));
        (plan.sample.rate, plan.seed) = (crate::quantity::SampleRate::ALL, Some(key));
        let given = format!("fingerprint {}, from select.seed", key.fingerprint());
        assert_eq!(said(&plan, Ok((None, path()))), Some(Statement::new("seed", given)));
    }

    #[test]
    fn an_analyzer_of_single_frames_is_warned_about() {
        let mut plan = plan(TunnelPlan { analyzer: Some(Analyzer::Suricata), ..tunnel(vxlan()) });
        for (sample, by, found) in
            [("1/1", SampleBy::Frame, 0), ("1/9", SampleBy::Flow, 0), ("1/9", SampleBy::Frame, 1)]
        {
            plan.sample = SamplePlan { rate: sample.parse().unwrap(), by };
            assert_eq!(findings(&plan, &facts(mtu(1500))).len(), found, "{sample} {by}");
        }
    }
}
