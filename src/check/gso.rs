//! Whether datagrams leave in runs (UDP GSO), and what the analyzer then sees.

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{DestinationPlan, End, Gso, SessionPlan, TransmitPlan, UdpChecksum};
use crate::kernel::segmentation::RunsAreCut;
use crate::kernel::underlay::Underlay;

/// Says where runs would save CPU and are not sent, and where they may arrive uncut.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let ways = plan.destinations.iter().zip(&facts.underlays);
    ways.filter_map(|(destination, way)| one(destination, way.as_deref()?, facts)).collect()
}

fn one(destination: &DestinationPlan, way: &Underlay, facts: &Facts) -> Option<Finding> {
    let End::Tunnel(tunnel) = &destination.end else { return None };
    let is_udp = tunnel.encapsulation.udp_port().is_some() && tunnel.transmit == TransmitPlan::Socket;
    if !is_udp || way.remote().is_loopback() {
        return None;
    }
    let device = facts.links.iter().find(|link| Some(link.index) == way.device()).map(|link| link.name.as_str())?;
    let name = &destination.name;
    match (tunnel.gso, tunnel.udp_checksum, way.runs_are_cut()) {
        (Gso::Auto, UdpChecksum::Auto | UdpChecksum::On, RunsAreCut::ByTheDevice) => Some(
            Finding::note(format!("destination {name}: every datagram leaves by itself, without UDP GSO"))
                .because(format!(
                    "{device} takes long runs of datagrams uncut (tx-udp-segmentation). A network card cuts them; a \
                     veth, a bridge or a virtual machine's interface may pass them on to the analyzer as they are."
                ))
                .cure(format!("to save about half of the CPU: ethtool -K {device} tx-udp-segmentation off"))
                .cure(format!("or, if {device} is a network card: gso=on")),
        ),
        (Gso::Auto, UdpChecksum::Auto | UdpChecksum::On, RunsAreCut::InTheQueue) => Some(
            Finding::note(format!("destination {name}: every datagram leaves by itself, without UDP GSO")).because(
                format!("A queueing discipline of {device} would cut runs of datagrams and not say which it drops."),
            ),
        ),
        (Gso::On, _, RunsAreCut::ByTheDevice) => Some(
            Finding::warning(format!("destination {name}: frames may arrive as one"))
                .because(format!(
                    "gso=on, and {device} takes runs of datagrams uncut. If it is no network card, the analyzer sees \
                     up to 64 of them as one frame that it cannot read."
                ))
                .cure(format!("gso=auto, or: ethtool -K {device} tx-udp-segmentation off")),
        ),
        (Gso::On, _, RunsAreCut::InTheQueue) => Some(
            Finding::warning(format!("destination {name}: frames may be lost uncounted"))
                .because(format!(
                    "gso=on, and a queueing discipline of {device} cuts runs of datagrams without saying which it drops."
                ))
                .cure("gso=auto"),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::finding::Severity;
    use super::super::testing::{facts, mtu, plan, tunnel, vxlan};
    use super::*;
    use crate::config::plan::{Encapsulation, TunnelPlan};
    use crate::kernel::underlay::NextHop;

    fn heard(tunnel: TunnelPlan, runs_are_cut: RunsAreCut) -> Vec<(Severity, String)> {
        let mut facts = facts(mtu(1600));
        let (remote, local) = ([192, 0, 2, 10].into(), [192, 0, 2, 1].into());
        let way = Underlay::new(remote, local, Some(facts.links[0].index), mtu(1600), NextHop::Usable);
        facts.underlays = vec![Some(Arc::new(way.with_runs_cut(runs_are_cut)))];
        findings(&plan(tunnel), &facts).into_iter().map(|finding| (finding.severity, finding.what)).collect()
    }

    #[test]
    fn what_is_said_depends_on_who_cuts() {
        let gso = |gso| TunnelPlan { gso, ..tunnel(vxlan()) };
        let singly = (Severity::Note, "destination 1: every datagram leaves by itself, without UDP GSO".to_owned());
        for silent in [RunsAreCut::BeforeTheDevice, RunsAreCut::Unknown] {
            assert_eq!(heard(gso(Gso::Auto), silent), []);
        }
        for said in [RunsAreCut::ByTheDevice, RunsAreCut::InTheQueue] {
            assert_eq!(heard(gso(Gso::Auto), said), std::slice::from_ref(&singly));
            assert_eq!(heard(gso(Gso::Off), said), []);
            assert_eq!(heard(tunnel(Encapsulation::Erspan1), said), []);
            assert_eq!(heard(TunnelPlan { udp_checksum: UdpChecksum::Off, ..gso(Gso::Auto) }, said), []);
            assert_eq!(heard(gso(Gso::On), said)[0].0, Severity::Warning);
        }
    }
}
