//! What AF_XDP passes by, and what it takes from the interface.

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{DestinationPlan, End, SessionPlan, TransmitPlan};
use crate::kernel::underlay::Underlay;

/// Says which of the host's rules do not see datagrams that leave as whole frames.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let ways = plan.destinations.iter().zip(&facts.underlays);
    ways.filter_map(|(destination, way)| one(destination, way.as_deref()?, facts)).collect()
}

fn one(destination: &DestinationPlan, way: &Underlay, facts: &Facts) -> Option<Finding> {
    let is_xdp = matches!(&destination.end, End::Tunnel(tunnel) if tunnel.transmit == TransmitPlan::Xdp);
    let link = facts.links.iter().find(|link| Some(link.index) == way.device()).filter(|_| is_xdp)?;
    let (name, device) = (&destination.name, &link.name);
    Some(
        Finding::note(format!("destination {name}: neither firewall nor queueing of this host sees its datagrams"))
            .because(format!(
                "transmit=xdp hands whole frames to {device}: past netfilter's output, routing policy, the queueing \
                 discipline (`tc qdisc show dev {device}`) and captures on {device} itself."
            ))
            .cure("where a rule or a shaper must hold for the mirror: transmit=socket"),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{self, facts, mtu, vxlan};
    use super::*;
    use crate::config::plan::TunnelPlan;

    #[test]
    fn what_is_passed_by_is_said_for_xdp_only() {
        let facts = facts(mtu(1600));
        let plan = |transmit| testing::plan(TunnelPlan { transmit, ..testing::tunnel(vxlan()) });
        assert_eq!(findings(&plan(TransmitPlan::Socket), &facts), []);
        let found = findings(&plan(TransmitPlan::Xdp), &facts);
        assert_eq!(found.len(), 1);
        let device = Arc::clone(facts.underlays[0].as_ref().unwrap()).device();
        let device = &facts.links.iter().find(|link| Some(link.index) == device).unwrap().name;
        assert!(found[0].why.contains(&format!("tc qdisc show dev {device}")), "{}", found[0].why);
    }
}
