//! What the kernel joins before a GRE endpoint receives it.
//!
//! GRO looks into GRE packets without sequence numbers and makes one packet of several whose inner TCP segments follow
//! each other (`net/ipv4/gre_offload.c`); a raw socket gets that one, and the source cuts it back. It does not look into
//! ERSPAN, and into UDP tunnels only for the kernel's own devices.

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{OuterPackets, SessionPlan, SourcePlan, Takes};
use crate::wire::decapsulate::Tunnel;

/// Whether the session receives GRE through a socket.
pub fn receives_gre(plan: &SessionPlan) -> bool {
    let SourcePlan::Tunnels(tunnels) = &plan.source else { return false };
    let is_gre = tunnels.endpoints.iter().any(|endpoint| endpoint.takes == Takes::Only(Tunnel::Gre));
    is_gre && matches!(tunnels.outer, OuterPackets::Sockets { .. })
}

/// Says where segments may be joined.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    if !receives_gre(plan) || facts.joining.is_empty() {
        return Vec::new();
    }
    let all = facts.joining.join(", ");
    let finding = Finding::note(format!("the kernel merges TCP segments inside GRE on {all}"))
        .because(
            "Receive offload (GRO) is on there. farspan cuts what was merged back into the frames that were sent; a filter \
             expression that asks for lengths sees the merged frames.",
        )
        .cure(format!("to have no segments merged: ethtool -K {} gro off", facts.joining[0]));
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, mtu, plan, tunnel, vxlan};
    use super::*;
    use crate::config::endpoint;
    use crate::config::plan::{Decap, Tag, TunnelsPlan};

    #[test]
    fn only_gre_is_joined_and_only_where_the_offload_is_on() {
        let heard = |from: &str, joining: &[&str]| {
            let mut plan = plan(tunnel(vxlan()));
            plan.source = SourcePlan::Tunnels(TunnelsPlan {
                outer: OuterPackets::Sockets { buffer: 1 << 20 },
                endpoints: vec![endpoint::read(from).unwrap()],
                allow: Vec::new(),
                strict: false,
                decap: Decap::default(),
                tag: Tag::Off,
                reorder: None,
            });
            let joining = joining.iter().map(|&name| name.to_owned()).collect();
            findings(&plan, &Facts { joining, ..facts(mtu(1500)) })
        };
        let told = heard("gre://0.0.0.0", &["eth0", "eth1"]);
        assert_eq!(told[0].what, "the kernel merges TCP segments inside GRE on eth0, eth1");
        assert_eq!(told[0].remedy, ["to have no segments merged: ethtool -K eth0 gro off"]);
        for (from, joining) in
            [("gre://[::]", &[][..]), ("erspan://0.0.0.0", &["eth0"]), ("vxlan://0.0.0.0", &["eth0"])]
        {
            assert_eq!(heard(from, joining).len(), 0, "{from}");
        }
    }
}
