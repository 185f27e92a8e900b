//! What an operator reads about a loop: each other host once, with what to do there.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::targets::Targets;
use super::{Evidence, MOST_TUNNELS, What};
use crate::wire::carrier::{Carrier, OwnTunnel};
use crate::wire::layers;

/// Hosts that are named at most. One is the rule.
const MOST_NAMED: usize = 8;

/// What the workers of a session have said about loops. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct LoopNotices(Arc<Mutex<Vec<Said>>>);

/// What was said: how a loop was recognised, and which host was named, or between which two a relay stands.
type Said = (std::mem::Discriminant<What>, Option<[IpAddr; 2]>);

impl LoopNotices {
    /// Logs a warning about `evidence`, unless one names the host already.
    pub(super) fn tell(&self, evidence: &Evidence, targets: &Targets) {
        let is_relay = matches!(evidence.what, What::Relayed(_));
        let hosts = evidence.around.map(|[source, destination]| {
            if is_relay { [source.min(destination), source.max(destination)] } else { [source, source] }
        });
        let key = (std::mem::discriminant(&evidence.what), hosts);
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.contains(&key) || said.len() >= MOST_NAMED {
            return;
        }
        said.push(key);
        tracing::warn!("{}", words(evidence, targets));
    }
}

/// The warning.
pub(super) fn words(evidence: &Evidence, targets: &Targets) -> String {
    let Evidence { what, around, protocol, port, is_outgoing } = evidence;
    let unknown = || ("another host".to_owned(), "this host".to_owned());
    let (source, destination) =
        around.map_or_else(unknown, |[source, destination]| (source.to_string(), destination.to_string()));
    let own = |number: usize| targets.get(number).map_or_else(|| "a tunnel of this host".to_owned(), described);
    let end = "such frames are dropped as `loop`";
    match what {
        What::Nested(number) if *is_outgoing => format!(
            "mirror loop: a tunnel of this host from {source} to {destination} carries {}, and the interface that it leaves \
             by is mirrored; {end}. Mirror another interface, or leave that tunnel out: {}",
            own(*number),
            filter(*protocol, *port, &destination),
        ),
        What::Nested(number) => format!(
            "mirror loop: host {source} mirrors what this host mirrors: {} comes back inside a tunnel from {source} to \
             {destination}; {end}. Leave the mirror's datagrams out on {source}: {}",
            own(*number),
            targets.get(*number).map_or_else(String::new, own_filter),
        ),
        What::TooDeep => format!(
            "mirror loop: a frame from {source} to {destination} has more than {MOST_TUNNELS} tunnels inside each other, so \
             several hosts mirror each other's mirrors; {end}. Leave the mirrors' datagrams out on host {source}: {}",
            filter(*protocol, *port, &destination),
        ),
        What::Relayed(number) => format!(
            "mirror loop: frames from {source} to {destination} contain {}, so a relay or VPN carries the mirror over a \
             mirrored interface; {end}. Leave the relay's datagrams out: {}",
            own(*number),
            filter(*protocol, *port, &destination),
        ),
    }
}

/// A tunnel of ours, as an operator knows it.
fn described(tunnel: &OwnTunnel) -> String {
    let (local, remote) = (tunnel.local, tunnel.remote);
    match &tunnel.carrier {
        Carrier::Udp { destination, .. } => format!("the tunnel from {local} to {remote} (UDP port {destination})"),
        Carrier::Gre { .. } => format!("the GRE tunnel from {local} to {remote}"),
        Carrier::Erspan1 | Carrier::Erspan2 { .. } | Carrier::Erspan3 { .. } => {
            format!("the ERSPAN tunnel from {local} to {remote}")
        }
    }
}

/// A filter without the datagrams of our tunnel.
fn own_filter(tunnel: &OwnTunnel) -> String {
    let port = match &tunnel.carrier {
        Carrier::Udp { destination, .. } => Some(*destination),
        _ => None,
    };
    filter(tunnel.carrier.ip_protocol(), port, &tunnel.remote.to_string())
}

/// A filter without what goes to `host` with this protocol, and port where there is one.
fn filter(protocol: u8, port: Option<u16>, host: &str) -> String {
    match (protocol, port) {
        (layers::UDP, Some(port)) => format!("`not (udp port {port} and host {host})`"),
        (layers::TCP, Some(port)) => format!("`not (tcp port {port} and host {host})`"),
        (protocol, _) => format!("`not (ip proto {protocol} and host {host})`"),
    }
}
