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

#[cfg(test)]
mod tests {

    use super::super::testing;
    use super::*;

    fn sessions(text: &str) -> Vec<SessionPlan> {
        testing::whole(text).unwrap().sessions
    }

    fn session(name: &str, rest: &str) -> String {
        format!("[session.{name}]\nsource.interface = \"eth0\"\n{rest}\n")
    }

    #[test]
    fn a_session_is_known_by_its_name_and_changed_by_its_plan() {
        let to = |host: u8| format!("destination.ids.to = \"gre://192.0.2.{host}\"");
        let before = sessions(&[session("a", &to(1)), session("b", &to(2)), session("c", &to(3))].concat());
        let after = sessions(&[session("d", &to(4)), session("c", &to(3)), session("a", &to(9))].concat());
        let changes = Changes::between(&before, &after);
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let expected =
            Changes { kept: names(&["c"]), changed: names(&["a"]), added: names(&["d"]), removed: names(&["b"]) };
        assert_eq!(changes, expected);
        let nothing = Changes { kept: names(&["d", "c", "a"]), ..Changes::default() };
        assert_eq!(Changes::between(&after, &after), nothing);
    }

    #[test]
    fn an_unchanged_end_is_handed_on_and_sockets_are_not() {
        let plan = |ids: &str, keep: u8| {
            let file = format!("destination.b.to = \"pcap:x-{{number}}?rotate_size=1MiB&keep={keep}\"");
            let rest = format!("destination.a.to = \"tap:ids0\"\n{file}\ndestination.c.to = \"{ids}\"");
            sessions(&session("dmz", &rest)).remove(0)
        };
        let (port, queue) = ("vxlan://192.0.2.1?vni=1&ports=50000", "gre://192.0.2.1?transmit=xdp");
        let file = || Claim::File("x-{number}".into());
        let before = plan(port, 2);
        assert_eq!(claims(&before, None), [Claim::Tap("ids0".into()), file(), Claim::SourcePorts(50000, 50000)]);
        assert_eq!(claims(&before, Some(&before)), [Claim::SourcePorts(50000, 50000)]);
        assert_eq!(claims(&plan(queue, 3), Some(&before)), [file(), Claim::Queues]);
        assert_eq!(claims(&plan("vxlan://192.0.2.1?vni=1", 2), Some(&before)), []);
        assert!(Claim::SourcePorts(1, 5).contests(&Claim::SourcePorts(5, 9)));
        assert!(!Claim::SourcePorts(1, 5).contests(&Claim::SourcePorts(6, 9)));
        assert!(file().contests(&file()) && !file().contests(&Claim::Queues));
    }
}
