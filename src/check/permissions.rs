//! What this process may do, against what the plan needs.

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{SessionPlan, TunnelPlan};
use crate::error::{ExitCode, Explain};
use crate::kernel::capabilities::{Capability, remedy, setcap_line};
use crate::kernel::underlay::NextHop;

/// A destination that this process may not send to.
#[derive(Debug, thiserror::Error)]
#[error("not permitted to send GRE or ERSPAN, or by AF_XDP: {capability} is missing")]
struct NotPermitted {
    destination: String,
    capability: Capability,
}

impl Explain for NotPermitted {
    fn place(&self) -> Option<String> {
        Some(self.destination.clone())
    }
    fn hint(&self) -> Option<String> {
        Some(format!("{}\nVXLAN and Geneve need no capability to send through sockets", remedy(&[self.capability])))
    }
    fn exit_code(&self) -> ExitCode {
        ExitCode::NotPermitted
    }
}

/// Destinations that need more than this process has. Whether it may capture, libpcap says itself.
pub fn problems(plan: &SessionPlan, facts: &Facts) -> Vec<Box<dyn Explain>> {
    let capability = Capability::CAP_NET_RAW;
    if facts.capabilities.has(capability) {
        return Vec::new();
    }
    let refused =
        plan.destinations.iter().filter(|destination| destination.live_tunnel().is_some_and(needs_raw_socket));
    refused.map(|destination| NotPermitted { destination: destination.place(), capability }.into()).collect()
}

/// What works otherwise without a capability.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::from_iter(unmarked(plan, facts));
    let awaits_neighbour = plan.destinations.iter().zip(&facts.underlays).any(|(destination, underlay)| {
        destination.live_tunnel().is_some() && underlay.as_ref().is_some_and(|way| way.next_hop() != NextHop::Usable)
    });
    if facts.capabilities.has(Capability::CAP_NET_ADMIN) || !awaits_neighbour {
        return findings;
    }
    findings.push(
        Finding::note("the next hop will be asked for by an empty datagram to the analyzer's discard port")
            .because(format!("Without {} the kernel cannot be told to ask for it.", Capability::CAP_NET_ADMIN))
            .cure(setcap_line(&[Capability::CAP_NET_ADMIN])),
    );
    findings
}

/// Tunnels whose datagrams other processes cannot tell from other traffic.
fn unmarked(plan: &SessionPlan, facts: &Facts) -> Option<Finding> {
    let mark = plan.mark()?;
    let may_mark = [Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN];
    if may_mark.iter().any(|&capability| facts.capabilities.has(capability)) {
        return None;
    }
    let finding = Finding::note(format!("the tunnels' packets will not carry the mark {mark}"));
    let why = "Without CAP_NET_RAW or CAP_NET_ADMIN a socket gets no mark. Another farspan that mirrors the interface they \
               leave by will mirror them.";
    Some(finding.because(why).cure(setcap_line(&[Capability::CAP_NET_RAW])))
}

fn needs_raw_socket(tunnel: &TunnelPlan) -> bool {
    tunnel.encapsulation.udp_port().is_none() || tunnel.transmit.is_xdp()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{self, facts, mtu, vxlan};
    use super::*;
    use crate::config::plan::{Encapsulation, FilePath, TransmitPlan};
    use crate::kernel::capabilities::Capabilities;
    use crate::kernel::underlay::Underlay;

    fn unprivileged() -> Facts {
        Facts { capabilities: Capabilities::NONE, ..facts(mtu(1600)) }
    }

    #[test]
    fn gre_needs_a_raw_socket_and_vxlan_does_not() {
        let plan = |encapsulation| testing::plan(testing::tunnel(encapsulation));
        let refused = problems(&plan(Encapsulation::Erspan1), &unprivileged());
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].exit_code(), ExitCode::NotPermitted);
        assert!(refused[0].hint().is_some_and(|hint| hint.contains("AmbientCapabilities=CAP_NET_RAW")));
        assert!(problems(&plan(vxlan()), &unprivileged()).is_empty());
        let by_xdp = TunnelPlan { transmit: TransmitPlan::Xdp { zero_copy: false }, ..testing::tunnel(vxlan()) };
        assert_eq!(problems(&testing::plan(by_xdp), &unprivileged()).len(), 1);
        assert!(problems(&plan(Encapsulation::Erspan1), &facts(mtu(1600))).is_empty());
    }

    #[test]
    fn a_dry_run_needs_nothing() {
        let transmit = TransmitPlan::CaptureFile(FilePath::Standard);
        let plan = testing::plan(TunnelPlan { transmit, ..testing::tunnel(Encapsulation::Erspan1) });
        assert!(problems(&plan, &unprivileged()).is_empty());
        assert_eq!(findings(&plan, &unprivileged()), []);
    }

    #[test]
    fn an_unknown_next_hop_is_asked_for_by_a_datagram_only_without_the_capability() {
        let plan = testing::plan(testing::tunnel(vxlan()));
        let (remote, local) = ([192, 0, 2, 10].into(), [192, 0, 2, 1].into());
        let unknown = || vec![Some(Arc::new(Underlay::new(remote, local, None, mtu(1500), NextHop::Resolving)))];
        assert_eq!(findings(&plan, &Facts { underlays: unknown(), ..unprivileged() }).len(), 2);
        assert_eq!(findings(&plan, &Facts { underlays: unknown(), ..facts(mtu(1500)) }), []);
        let unmarked = findings(&plan, &unprivileged());
        assert_eq!(unmarked.len(), 1);
        assert!(unmarked[0].what.contains("0xfa500000/0xfff00000"), "{unmarked:?}");
    }
}
