//! What differs between two plans of the daemon: what a reload has to do, and what it must leave alone.

use std::path::PathBuf;

use super::plan::{DestinationPlan, End, FilePath, OuterPackets, SessionPlan, SourcePlan, TransmitPlan};

/// What a reload has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names of sessions that go on as they are.
    pub kept: Vec<String>,
    /// Names of sessions whose plan is another one.
    pub changed: Vec<String>,
    /// Names of sessions that were not there before.
    pub added: Vec<String>,
    /// Names of sessions that are there no more.
    pub removed: Vec<String>,
}

impl Changes {
    /// What leads from the sessions `before` to those `after`. A session is known by its name.
    pub fn between<'a>(
        before: impl IntoIterator<Item = &'a SessionPlan>,
        after: impl IntoIterator<Item = &'a SessionPlan>,
    ) -> Self {
        let (before, after): (Vec<_>, Vec<_>) = (before.into_iter().collect(), after.into_iter().collect());
        let mut changes = Self::default();
        for plan in &after {
            let list = match before.iter().find(|known| known.name == plan.name) {
                None => &mut changes.added,
                Some(known) if known == plan => &mut changes.kept,
                Some(_) => &mut changes.changed,
            };
            list.push(plan.name.clone());
        }
        let is_removed = |plan: &&&SessionPlan| after.iter().all(|new| new.name != plan.name);
        changes.removed.extend(before.iter().filter(is_removed).map(|plan| plan.name.clone()));
        changes
    }

    /// Whether there is nothing to do.
    pub fn is_nothing(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

/// Something that only one session can have at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A TAP device, by name.
    Tap(String),
    /// A file that is written.
    File(PathBuf),
    /// Standard output.
    StandardOutput,
    /// A UDP port at which tunnels are received.
    Port(u16),
    /// UDP source ports that leave no others: the range has no more than the tunnel uses.
    SourcePorts(u16, u16),
    /// Transmit queues of the interfaces that AF_XDP sends through.
    Queues,
}

/// What `plan` claims as long as it runs. `unless` is the plan that the session had before: what both have, the session
/// hands on to itself.
pub fn claims(plan: &SessionPlan, unless: Option<&SessionPlan>) -> Vec<Claim> {
    let is_handed_on =
        |destination: &DestinationPlan| unless.is_some_and(|before| before.destinations.contains(destination));
    let mut claims = Vec::new();
    for destination in &plan.destinations {
        let handed_on = is_handed_on(destination);
        match destination.file() {
            Some(FilePath::Path(path)) if !handed_on => claims.push(Claim::File(path.clone())),
            Some(FilePath::Standard) if !handed_on => claims.push(Claim::StandardOutput),
            _ => {}
        }
        match &destination.end {
            End::Tap(tap) if !handed_on => claims.push(Claim::Tap(tap.device.clone())),
            End::Tunnel(tunnel) if tunnel.is_live() => {
                // Sockets and queues belong to a run: a destination that stays the same opens them again, too.
                if matches!(tunnel.transmit, TransmitPlan::Xdp { .. }) {
                    claims.push(Claim::Queues);
                }
                if tunnel.ports.count() <= MANY_PORTS {
                    claims.push(Claim::SourcePorts(tunnel.ports.first(), tunnel.ports.last()));
                }
            }
            End::Tap(_) | End::Tunnel(_) | End::File(_) => {}
        }
    }
    if let SourcePlan::Tunnels(tunnels) = &plan.source
        && let OuterPackets::Sockets { .. } = tunnels.outer
    {
        claims.extend(tunnels.endpoints.iter().filter(|endpoint| endpoint.port != 0).map(|it| Claim::Port(it.port)));
    }
    claims
}

/// A range of so many source ports serves several sessions at a time.
const MANY_PORTS: u32 = 4 * super::defaults::SOURCE_PORTS;

impl Claim {
    /// Whether whoever has the one keeps others from the other.
    pub fn contests(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SourcePorts(first, last), Self::SourcePorts(other_first, other_last)) => {
                first <= other_last && other_first <= last
            }
            (one, other) => one == other,
        }
    }
}
