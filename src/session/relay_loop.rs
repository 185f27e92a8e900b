//! A relay that would receive what it sends: every frame would go round for ever.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::plan::{
    DestinationPlan, Encapsulation, End, EndpointPlan, Ids, OuterPackets, SessionPlan, SourcePlan, TunnelPlan,
};
use crate::error::{ExitCode, Explain};
use crate::kernel::path_mtu::is_local;
use crate::kernel::underlay::Underlay;
use crate::quantity::{GreKey, Vni};
use crate::wire::decapsulate::Tunnel;

/// A destination whose datagrams one of the session's own endpoints takes.
#[derive(Debug, thiserror::Error)]
#[error("the session would receive its own datagrams: {address} is this host, and {endpoint} takes what is sent there")]
pub struct RelayLoop {
    destination: String,
    address: IpAddr,
    endpoint: String,
}

impl Explain for RelayLoop {
    fn place(&self) -> Option<String> {
        Some(self.destination.clone())
    }

    fn hint(&self) -> Option<String> {
        Some(
            "send to another host, port or id, or bind the endpoint to an address of its own; ids in the endpoint \
             (`?vni=7`) keep the session's own datagrams out"
                .to_owned(),
        )
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}

/// The destinations of `plan` that lead back into it. `underlays` are the ways to them, in their order. Files are no
/// endpoints: what they hold was sent long ago.
pub fn relay_loops(plan: &SessionPlan, underlays: &[Option<Arc<Underlay>>]) -> Vec<Box<dyn Explain>> {
    let SourcePlan::Tunnels(tunnels) = &plan.source else { return Vec::new() };
    if matches!(tunnels.outer, OuterPackets::File(_)) {
        return Vec::new();
    }
    let leads_back = |(destination, way): (&DestinationPlan, &Option<Arc<Underlay>>)| -> Option<Box<dyn Explain>> {
        let End::Tunnel(tunnel) = &destination.end else { return None };
        let way = way.as_ref()?;
        let address = way.remote();
        let endpoint =
            tunnels.endpoints.iter().find(|endpoint| tunnel.is_live() && takes(endpoint, address, tunnel))?;
        let (destination, endpoint) = (destination.place(), endpoint.written.clone());
        is_local(address, way.device()).then(|| RelayLoop { destination, address, endpoint }.into())
    };
    plan.destinations.iter().zip(underlays).filter_map(leads_back).collect()
}

/// Whether `endpoint` takes what `tunnel` sends to `address`, with any of its ids.
fn takes(endpoint: &EndpointPlan, address: IpAddr, tunnel: &TunnelPlan) -> bool {
    let (kind, port, ids) = sent(&tunnel.encapsulation);
    endpoint.is_at(address) && endpoint.port == port && ids.into_iter().any(|id| endpoint.wants(kind, id))
}

/// What leaves: the encapsulation, its UDP port (0 without one) and every id.
fn sent(encapsulation: &Encapsulation) -> (Tunnel, u16, Vec<Option<u32>>) {
    match encapsulation {
        Encapsulation::Vxlan { vni, port } => (Tunnel::Vxlan, *port, every(vni, Vni::value)),
        Encapsulation::Geneve { vni, port } => (Tunnel::Geneve, *port, every(vni, Vni::value)),
        Encapsulation::Gre { key, .. } => {
            (Tunnel::Gre, 0, key.as_ref().map_or_else(|| vec![None], |key| every(key, GreKey::value)))
        }
        Encapsulation::Erspan1 => (Tunnel::Erspan1, 0, vec![None]),
        Encapsulation::Erspan2 { session, .. } => (Tunnel::Erspan2, 0, every(session, |id| id.value().into())),
        Encapsulation::Erspan3 { session } => (Tunnel::Erspan3, 0, every(session, |id| id.value().into())),
    }
}

fn every<T: Copy>(ids: &Ids<T>, value: impl Fn(T) -> u32) -> Vec<Option<u32>> {
    ids.by_interface.iter().chain(&ids.out_by_interface).map(|&(_, id)| Some(value(id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::endpoint;
    use crate::config::plan::Host;

    #[test]
    fn what_an_endpoint_takes_would_come_back() {
        let own: IpAddr = [192, 0, 2, 1].into();
        let vxlan = |vni| {
            let encapsulation = Encapsulation::Vxlan { vni: Ids::all(Vni::new(vni).unwrap()), port: 4789 };
            TunnelPlan::with_defaults(encapsulation, Host::Address(own))
        };
        let gre = TunnelPlan::with_defaults(Encapsulation::Gre { key: None, sequence: false }, Host::Address(own));
        for (written, tunnel, expected) in [
            ("vxlan://0.0.0.0", vxlan(7), true),
            ("vxlan://192.0.2.1", vxlan(7), true),
            ("vxlan://0.0.0.0?vni=1-7", vxlan(7), true),
            ("vxlan://0.0.0.0?vni=1-7", vxlan(8), false),
            ("vxlan://0.0.0.0:8472", vxlan(7), false),
            ("vxlan://192.0.2.2", vxlan(7), false),
            ("vxlan://[::]", vxlan(7), false),
            ("geneve://0.0.0.0:4789", vxlan(7), false),
            ("gre://0.0.0.0", gre.clone(), true),
            ("gre://0.0.0.0?key=3", gre.clone(), false),
            ("erspan://0.0.0.0", gre, false),
        ] {
            assert_eq!(takes(&endpoint::read(written).unwrap(), own, &tunnel), expected, "{written}");
        }
    }
}
