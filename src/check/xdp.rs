//! What AF_XDP passes by, and what it takes from the interface.

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{DestinationPlan, SessionPlan, TransmitPlan};
use crate::kernel::capabilities::{Capabilities, Capability, ZERO_COPY, setcap_line};
use crate::kernel::underlay::Underlay;

/// Says which of the host's rules do not see datagrams that leave as whole frames, and what zero-copy mode does to the
/// interface that they leave by.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let workers = plan.workers().value().into();
    let ways = plan.destinations.iter().zip(&facts.underlays);
    let each = ways.flat_map(|(destination, way)| one(destination, way.as_deref(), workers, facts).unwrap_or_default());
    let is_zero_copy = |plan: &DestinationPlan| plan.transmit() == Some(&TransmitPlan::Xdp { zero_copy: true });
    let lacking = missing_privilege(facts.capabilities).filter(|_| plan.destinations.iter().any(is_zero_copy));
    each.chain(lacking).collect()
}

fn one(destination: &DestinationPlan, way: Option<&Underlay>, workers: u32, facts: &Facts) -> Option<Vec<Finding>> {
    let TransmitPlan::Xdp { zero_copy } = destination.transmit()? else { return None };
    let device = way?.device()?;
    let device = &facts.links.iter().find(|link| link.index == device)?.name;
    let mut findings = vec![passed_by(&destination.name, device)];
    if *zero_copy {
        findings.push(taken(&destination.name, device, workers));
    }
    Some(findings)
}

fn passed_by(name: &str, device: &str) -> Finding {
    Finding::note(format!("destination {name}: neither firewall nor queueing of this host sees its datagrams"))
        .because(format!(
            "AF_XDP hands whole frames to {device}: past netfilter's output, routing policy, the queueing discipline \
             (`tc qdisc show dev {device}`) and captures on {device} itself."
        ))
        .cure("where a rule or a shaper must hold for the mirror: transmit=socket")
}

fn taken(name: &str, device: &str, workers: u32) -> Finding {
    let queues = match workers {
        1 => "queue 0".to_owned(),
        _ => format!("queues 0 to {}", workers - 1),
    };
    Finding::note(format!(
        "destination {name}: zero-copy mode takes {queues} of {device}, and an XDP program goes there"
    ))
    .because(format!(
        "What {device} receives by {queues} then goes through farspan's memory and is copied once more. The program \
             passes everything on, and no other can be attached meanwhile. Many drivers reset the interface when \
             it comes and when it goes: connections wait, a second or more. Where the driver does not offer the mode, \
             frames are copied as with transmit=xdp, and the log says so."
    ))
    .cure(format!("where {device} must not be touched: transmit=xdp"))
}

fn missing_privilege(capabilities: Capabilities) -> Option<Finding> {
    let may_load = capabilities.has(Capability::CAP_BPF) && capabilities.has(Capability::CAP_NET_ADMIN);
    (!may_load && !capabilities.has(Capability::CAP_SYS_ADMIN)).then(|| {
        Finding::note("frames will be copied: zero-copy mode is not permitted")
            .because(format!("{} and {} load its XDP program.", Capability::CAP_BPF, Capability::CAP_NET_ADMIN))
            .cure(setcap_line(&ZERO_COPY))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{self, facts, mtu, vxlan};
    use super::*;
    use crate::config::plan::TunnelPlan;

    fn plan(transmit: TransmitPlan) -> SessionPlan {
        testing::plan(TunnelPlan { transmit, ..testing::tunnel(vxlan()) })
    }

    #[test]
    fn what_is_passed_by_is_said_for_xdp_only() {
        let facts = facts(mtu(1600));
        assert_eq!(findings(&plan(TransmitPlan::Socket), &facts), []);
        let found = findings(&plan(TransmitPlan::Xdp { zero_copy: false }), &facts);
        assert_eq!(found.len(), 1);
        let device = Arc::clone(facts.underlays[0].as_ref().unwrap()).device();
        let device = &facts.links.iter().find(|link| Some(link.index) == device).unwrap().name;
        assert!(found[0].why.contains(&format!("tc qdisc show dev {device}")), "{}", found[0].why);
    }

    #[test]
    fn what_zero_copy_takes_from_the_interface_is_said_and_what_it_lacks() {
        let mut facts = facts(mtu(1600));
        let plan = plan(TransmitPlan::Xdp { zero_copy: true });
        let found = findings(&plan, &facts);
        assert_eq!(found.len(), 2);
        assert!(found[1].what.contains("takes queue 0 of eth0"), "{}", found[1].what);
        assert!(found[1].why.contains("reset the interface"), "{}", found[1].why);
        facts.capabilities = Capabilities::NONE;
        let found = findings(&plan, &facts);
        assert_eq!(found.len(), 3);
        assert!(found[2].remedy[0].contains("cap_bpf"), "{:?}", found[2].remedy);
    }
}
