//! Whether several workers can do more than one.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{LivePlan, SessionPlan, SourcePlan};

/// How many threads there are and where they run, if there is more to say than that there is one.
pub fn in_words(live: &LivePlan) -> Option<String> {
    let workers = live.workers.value();
    if workers == 1 && live.pin.is_empty() {
        return None;
    }
    let threads = if workers == 1 { "1 thread".to_owned() } else { format!("{workers} threads share the flows") };
    let cpus: Vec<String> = live.pin.iter().take(workers.into()).map(ToString::to_string).collect();
    let pinned = if cpus.is_empty() { String::new() } else { format!(", pinned to CPU {}", cpus.join(", ")) };
    Some(format!("{threads}{pinned}"))
}

/// Says when workers would only wait for each other.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let SourcePlan::Live(live) = &plan.source else { return Vec::new() };
    let workers = usize::from(live.workers.value());
    let pinned: BTreeSet<usize> = (0..workers).filter_map(|number| plan.cpu(number)).collect();
    let allowed: BTreeSet<usize> = plan.priority.cpus.iter().copied().collect();
    let (cpus, where_to) = match (pinned.len(), allowed.len()) {
        (0, 0) => (facts.cpus, "farspan may use"),
        (0, allowed) => (allowed, "`priority.cpus` gives them"),
        (pinned, _) => (pinned, "`pin` gives them"),
    };
    if workers <= cpus {
        return Vec::new();
    }
    let plural = if cpus == 1 { "" } else { "s" };
    vec![
        Finding::note(format!("more workers than CPUs: {workers} for {cpus}"))
            .because(format!(
                "They take turns on the {cpus} CPU{plural} that {where_to}, and each costs memory of its own."
            ))
            .cure(format!("workers = {cpus}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, mtu, plan, tunnel, vxlan};
    use super::*;
    use crate::quantity::Workers;

    fn session(workers: u64, pin: &[usize]) -> SessionPlan {
        let mut plan = plan(tunnel(vxlan()));
        if let SourcePlan::Live(live) = &mut plan.source {
            (live.workers, live.pin) = (Workers::new(workers).unwrap(), pin.to_vec());
        }
        plan
    }

    fn words(workers: u64, pin: &[usize]) -> Option<String> {
        let SourcePlan::Live(live) = session(workers, pin).source else { panic!("not live") };
        in_words(&live)
    }

    #[test]
    fn one_worker_is_not_worth_a_word() {
        assert_eq!(words(1, &[]), None);
        assert_eq!(words(1, &[3]).unwrap(), "1 thread, pinned to CPU 3");
        assert_eq!(words(2, &[]).unwrap(), "2 threads share the flows");
        assert_eq!(words(3, &[0, 2]).unwrap(), "3 threads share the flows, pinned to CPU 0, 2");
        assert_eq!(words(2, &[0, 2, 4]).unwrap(), "2 threads share the flows, pinned to CPU 0, 2");
    }

    #[test]
    fn more_workers_than_cpus_are_told() {
        let facts = facts(mtu(1600)); // of a host with four
        let heard = |workers, pin: &[usize]| {
            findings(&session(workers, pin), &facts).into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        assert_eq!(heard(4, &[]), [""; 0]);
        assert_eq!(heard(5, &[]), ["more workers than CPUs: 5 for 4"]);
        assert_eq!(heard(2, &[0, 2]), [""; 0]);
        assert_eq!(heard(3, &[0, 2]), ["more workers than CPUs: 3 for 2"]);
        assert_eq!(heard(2, &[1, 1]), ["more workers than CPUs: 2 for 1"]);
        let mut plan = session(3, &[]);
        plan.priority.cpus = vec![2, 3, 3];
        let found = findings(&plan, &facts);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "more workers than CPUs: 3 for 2");
    }
}
