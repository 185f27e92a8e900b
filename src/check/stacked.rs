//! Routes to analyzers that go through another tunnel of this host, whose packets leave by a mirrored interface.
//!
//! There the mirror's own datagrams are inside other packets. Recognition by their headers does not reach into encrypted
//! ones, and a mark does not pass every device, so that a mirror of them could feed itself. The plan and the kernel's routes
//! tell it before the first frame.

use std::net::IpAddr;

use super::finding::{Finding, Severity};
use crate::config::plan::{LivePlan, SessionPlan, SourcePlan};
use crate::kernel::links::Link;
use crate::kernel::locate::Kernel;
use crate::kernel::nearby::{above, around};
use crate::kernel::stack::{Outer, Wrapper};
use crate::kernel::underlay::Underlay;
use crate::quantity::{Dscp, Ttl};
use crate::source;
use crate::wire::outer::{self, Addresses, Transport};

/// What is to be said about the routes of `plan` whose tunnel devices are `stacks`, in the order of its destinations, on a
/// host with these `links`.
pub fn findings(plan: &SessionPlan, links: &[Link], stacks: &[Vec<Wrapper>]) -> Vec<Finding> {
    let SourcePlan::Live(live) = &plan.source else { return Vec::new() };
    let mut findings = Vec::new();
    for (destination, stack) in plan.destinations.iter().zip(stacks) {
        if destination.live_tunnel().is_none() {
            continue;
        }
        for wrapper in stack {
            let Some(mirrored) = mirrored(live, links, wrapper) else { continue };
            match is_kept(&plan.filter, wrapper) {
                Some(false) => {}
                is_kept => findings.push(finding(&destination.place(), wrapper, mirrored, is_kept)),
            }
        }
    }
    findings
}

/// The same for a session that starts, whose destinations are behind `ways`.
pub async fn at_start(
    kernel: &Kernel,
    plan: &SessionPlan,
    ways: impl IntoIterator<Item = Option<&Underlay>>,
) -> Vec<Finding> {
    match &plan.source {
        SourcePlan::Live(live) if live.netns.is_none() => findings(plan, kernel.links(), &kernel.wrappers(ways).await),
        SourcePlan::Live(_) | SourcePlan::File(_) | SourcePlan::Tunnels(_) => Vec::new(),
    }
}

/// Says a finding in the log.
pub fn say(finding: &Finding) {
    let Finding { severity, what, why, remedy } = finding;
    let remedy = remedy.join("; ");
    match severity {
        Severity::Warning => tracing::warn!("{what}. {why} To prevent that, {remedy}"),
        Severity::Note => tracing::info!("{what}. {why} To prevent that, {remedy}"),
    }
}

/// The mirrored interface that packets of `wrapper` leave by, or may.
fn mirrored<'l>(live: &LivePlan, links: &'l [Link], wrapper: &Wrapper) -> Option<&'l Link> {
    let is_captured = |link: &&Link| live.captures(&link.name).is_some();
    if let Some(by) = wrapper.by {
        let path = around(links, by);
        return links.iter().filter(is_captured).find(|link| path.contains(&link.index));
    }
    let inside = above(links, wrapper.index);
    let may_carry = |link: &&Link| {
        link.up && link.needs_neighbour && link.kind.as_deref() != Some("tun") && !inside.contains(&link.index)
    };
    links.iter().filter(is_captured).find(may_carry)
}

/// Whether the operator's filter keeps packets of `wrapper`; `None` where nobody can know.
fn is_kept(filter: &str, wrapper: &Wrapper) -> Option<bool> {
    if filter.is_empty() {
        return Some(true);
    }
    let Outer::Udp { remote: Some(remote), port } = wrapper.outer else { return None };
    let any =
        if remote.is_ipv4() { IpAddr::from([192, 0, 2, 1]) } else { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]) };
    let outer = outer::Outer {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        addresses: Addresses::between(wrapper.local.unwrap_or(any), remote)?,
        dscp: Dscp::DEFAULT,
        ttl: Ttl::DEFAULT,
        identification: 1,
        dont_fragment: true,
        transport: Transport::Udp { source_port: 50_000, destination_port: port, checksum: false },
    };
    let mut frame = Vec::new();
    outer.write(&[0; 100], &mut frame).ok()?;
    source::keeps(filter, &frame)
}

fn finding(destination: &str, wrapper: &Wrapper, mirrored: &Link, is_kept: Option<bool>) -> Finding {
    let Wrapper { device, kind, by, .. } = wrapper;
    let leave = if by.is_some() { "leave" } else { "may leave" };
    let what = format!(
        "{destination}: its route goes through {device}, a tunnel of this host ({kind}) whose packets {leave} by {}, which \
         is mirrored",
        mirrored.name
    );
    // An operator who wrote a filter may have seen to it.
    let finding = if is_kept.is_some() { Finding::warning(what) } else { Finding::note(what) };
    finding
        .because("The packets of that tunnel contain the datagrams of this mirror, which could then mirror itself.")
        .cure(filter_to_add(wrapper))
        .cure(format!("or mirror {device} in the place of {}", mirrored.name))
}

fn filter_to_add(wrapper: &Wrapper) -> String {
    let device = &wrapper.device;
    let to = |remote: Option<IpAddr>| remote.map_or_else(String::new, |remote| format!(" and dst host {remote}"));
    match wrapper.outer {
        Outer::Udp { remote, port } => format!("add to the filter: not (udp dst port {port}{})", to(remote)),
        Outer::Ip { remote, protocol } => format!("add to the filter: not (ip proto {protocol}{})", to(remote)),
        Outer::Ipsec => "add to the filter: not (esp or udp port 4500)".to_owned(),
        Outer::MacSec => "add to the filter: not ether proto 0x88e5".to_owned(),
        Outer::Pppoe => "add to the filter: not pppoes".to_owned(),
        Outer::Peers => format!(
            "add to the filter: not (udp port PORT and host PEER), with the port and the peer of {device} (for WireGuard: \
             wg show {device} endpoints)"
        ),
        Outer::Program => format!(
            "add to the filter: not (port PORT and host PEER), with the port and the peer of the program behind {device} \
             (ss -tunp names them)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{link, plan, tunnel, vxlan};
    use super::*;
    use crate::quantity::Ifindex;

    fn wrapper(kind: &str, outer: Outer, by: Option<u64>) -> Wrapper {
        let by = by.map(|index| Ifindex::new(index).unwrap());
        let index = Ifindex::new(9).unwrap();
        Wrapper { index, device: "t0".to_owned(), kind: kind.to_owned(), outer, local: None, by }
    }

    fn found(filter: &str, wrapper: Wrapper) -> Vec<Finding> {
        let mut plan = plan(tunnel(vxlan()));
        plan.filter = filter.to_owned();
        let links = [link(2, "eth0"), link(3, "eth1"), link(9, "t0")];
        findings(&plan, &links, &[vec![wrapper]])
    }

    #[test]
    fn a_route_through_a_tunnel_over_a_mirrored_interface_is_warned_of() {
        let remote = Some([10, 0, 0, 2].into());
        let vxlan = |by| wrapper("vxlan", Outer::Udp { remote, port: 4789 }, by);
        let said = found("", vxlan(Some(2)));
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].severity, Severity::Warning);
        assert!(said[0].what.contains("goes through t0") && said[0].what.contains("leave by eth0"), "{said:?}");
        assert_eq!(said[0].remedy[0], "add to the filter: not (udp dst port 4789 and dst host 10.0.0.2)");
        assert_eq!(found("", vxlan(Some(3))), [], "eth1 is not mirrored");
        assert_eq!(found("not (udp dst port 4789 and dst host 10.0.0.2)", vxlan(Some(2))), [], "the filter says so");
        assert_eq!(found("not port 22", vxlan(Some(2))).len(), 1, "another filter");
    }

    #[test]
    fn what_nobody_can_know_is_a_warning_unless_there_is_a_filter() {
        for (kind, outer) in [("tun", Outer::Program), ("wireguard", Outer::Peers)] {
            let said = found("", wrapper(kind, outer, None));
            assert_eq!(said[0].severity, Severity::Warning);
            assert!(said[0].what.contains("may leave by eth0"), "{said:?}");
            assert_eq!(found("not port 22", wrapper(kind, outer, None))[0].severity, Severity::Note);
        }
    }

    #[test]
    fn every_filter_that_is_advised_can_be_understood() {
        let (v4, v6) = (Some([10, 0, 0, 2].into()), Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into()));
        for outer in [
            Outer::Udp { remote: None, port: 8472 },
            Outer::Udp { remote: v6, port: 6081 },
            Outer::Ip { remote: v4, protocol: 47 },
            Outer::Ip { remote: None, protocol: 4 },
            Outer::Ipsec,
            Outer::MacSec,
            Outer::Pppoe,
        ] {
            let advice = filter_to_add(&wrapper("x", outer, None));
            let filter = advice.strip_prefix("add to the filter: ").unwrap();
            assert!(source::keeps(filter, &[0; 60]).is_some(), "{filter}");
        }
    }
}
