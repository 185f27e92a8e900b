//! What packet rings cost where there is no traffic.

use super::facts::Facts;
use super::finding::Finding;
use super::report::Report;
use crate::config::plan::{SessionPlan, SourcePlan};

/// From so many expiries a second on they are worth a word: each takes a microsecond, and several on a virtual machine.
const WORTH_A_WORD: u64 = 20_000;

/// How often a second the kernel's timers of the session's packet rings expire: each ring has one, which hands over what has
/// waited for `source.delay` (`prb_retire_rx_blk_timer_expired` in `net/packet/af_packet.c`).
pub fn expiries(plan: &SessionPlan, facts: &Facts) -> u64 {
    let SourcePlan::Live(live) = &plan.source else { return 0 };
    let rings = facts.tapped.len() as u64 * u64::from(live.workers.value());
    let delay = u64::try_from(live.delay.as_millis()).unwrap_or(u64::MAX).max(1);
    rings * 1000 / delay
}

/// What there is to say about the timers of all sessions of one process.
pub fn findings<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Option<Finding> {
    let expiries: u64 = reports.into_iter().map(|report| report.expiries).sum();
    (expiries >= WORTH_A_WORD).then(|| {
        Finding::note(format!("timers of packet rings expire {expiries} times a second"))
            .because(
                "Each ring has one that runs every `source.delay`, also where there is no traffic. That is the kernel's \
                 time, and no process shows it.",
            )
            .cure("give sessions with little traffic a longer `source.delay`, such as \"10ms\"")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{facts, link, mtu, plan, tapped, tunnel, vxlan};
    use super::*;
    use crate::quantity::Workers;

    fn report(interfaces: u64, workers: u64, delay: u64) -> Report {
        let mut plan = plan(tunnel(vxlan()));
        if let SourcePlan::Live(live) = &mut plan.source {
            (live.workers, live.delay) = (Workers::new(workers).unwrap(), Duration::from_millis(delay));
        }
        let links = (1..=interfaces).map(|number| tapped(link(number, "veth")));
        let facts = Facts { tapped: links.collect(), ..facts(mtu(1600)) };
        Report {
            session: String::new(),
            statements: Vec::new(),
            findings: Vec::new(),
            expiries: expiries(&plan, &facts),
        }
    }

    #[test]
    fn each_ring_s_timer_counts() {
        assert_eq!(report(3, 2, 2).expiries, 3000);
        assert_eq!(report(20, 1, 10).expiries, 2000);
    }

    #[test]
    fn hundreds_of_rings_are_worth_a_word() {
        let sessions = |count, delay| findings(&vec![report(1, 1, delay); count]).map(|finding| finding.what);
        assert_eq!(sessions(10, 2), None);
        assert_eq!(sessions(200, 2).unwrap(), "timers of packet rings expire 100000 times a second");
        assert_eq!(sessions(100, 10), None);
    }
}
