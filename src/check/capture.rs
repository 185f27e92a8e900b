//! What is captured more than once, and what was never on a wire.

use super::facts::{Facts, Tapped};
use super::finding::Finding;
use crate::config::plan::{Engine, SessionPlan, SourcePlan};
use crate::kernel::links::Link;
use crate::quantity::Directions;

/// Says which interfaces show the same frames, which are down, and which hand over super-frames.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let SourcePlan::Live(live) = &plan.source else { return Vec::new() };
    let tapped: Vec<&Link> = facts.tapped.iter().map(|tapped| &tapped.link).collect();
    let mut findings = Vec::new();
    for (number, first) in tapped.iter().enumerate() {
        for second in &tapped[number + 1..] {
            findings.extend(twice(first, second, live.directions));
        }
    }
    findings.extend(
        tapped.iter().filter(|link| !link.up).map(|link| {
            Finding::warning(format!("{} is down", link.name)).cure(format!("ip link set {} up", link.name))
        }),
    );
    if plan.normalise.enabled && live.engine == Engine::Pcap {
        findings.extend(super_frames(&facts.tapped));
    }
    findings.extend(filter_of_inner_frames(plan));
    findings
}

/// A filter that the kernel cannot ask.
fn filter_of_inner_frames(plan: &SessionPlan) -> Option<Finding> {
    (plan.decap.is_some() && !plan.filter.is_empty()).then(|| {
        Finding::note("the kernel does not ask the filter")
            .because(
                "It asks the frames inside the tunnels, which the kernel does not see. So every frame of the interfaces takes \
                 room in the capture buffer and CPU time of a worker, and those that do not match are counted as `filtered`.",
            )
            .cure("if frames are lost (`kernel_dropped`), a larger `buffer` or more `workers`")
    })
}

/// Two interfaces that see the same frames.
fn twice(first: &Link, second: &Link, directions: Directions) -> Option<Finding> {
    let (a, b) = (&first.name, &second.name);
    if let Some((upper, port)) = [(first, second), (second, first)].into_iter().find(|(u, p)| p.master == Some(u.index))
    {
        let kind = upper.kind.as_deref().unwrap_or("master");
        return Some(
            Finding::warning(format!("frames of {} are mirrored twice", port.name))
                .because(format!("{} is a port of the {kind} {}, and both are captured.", port.name, upper.name))
                .cure(format!("capture the ports or the {kind}, not both")),
        );
    }
    let is_veth = first.kind.as_deref() == Some("veth") && second.kind.as_deref() == Some("veth");
    if is_veth && (first.lower == Some(second.index) || second.lower == Some(first.index)) {
        return Some(
            Finding::warning(format!("every frame of {a} and {b} is mirrored twice"))
                .because("They are the two ends of one veth: what one sends, the other receives.")
                .cure(format!("capture {a} or {b}, not both")),
        );
    }
    if let Some((upper, lower)) = [(first, second), (second, first)].into_iter().find(|(u, l)| u.lower == Some(l.index))
    {
        return Some(
            Finding::warning(format!("frames of {} are mirrored twice", upper.name))
                .because(format!("They go through {} too, which is captured as well.", lower.name))
                .cure(format!("capture {} or {}, not both", upper.name, lower.name)),
        );
    }
    (first.master.is_some() && first.master == second.master && directions == Directions::InOut).then(|| {
        Finding::warning(format!("frames between {a} and {b} are mirrored twice"))
            .because("Both are ports of one bridge: a frame comes in at one and goes out at the other.")
            .cure("capture one direction only: -Q in")
    })
}

/// Frames that the host's offloads make larger than any wire carries.
fn super_frames(tapped: &[Tapped]) -> Option<Finding> {
    let names: Vec<&str> = tapped
        .iter()
        .filter(|tapped| tapped.segmentation == Some(true) || tapped.receive_offload == Some(true))
        .map(|tapped| tapped.link.name.as_str())
        .collect();
    if names.is_empty() {
        return None;
    }
    Some(Finding::note(format!("super-frames are cut back at the MTU of {}", names.join(", "))).because(
        "With TSO or GRO on, libpcap sees them uncut. The stream is exact; where the wire's segments began is not known.",
    ).cure("engine = \"ring\" knows it"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, link, mtu, plan, tapped, tunnel, vxlan};
    use super::*;
    use crate::quantity::Ifindex;

    fn heard(links: Vec<Link>, directions: Directions) -> Vec<String> {
        let mut plan = plan(tunnel(vxlan()));
        if let SourcePlan::Live(live) = &mut plan.source {
            live.directions = directions;
        }
        let facts = Facts { tapped: links.into_iter().map(tapped).collect(), ..facts(mtu(1600)) };
        findings(&plan, &facts).into_iter().map(|finding| finding.what).collect()
    }

    fn index(number: u64) -> Option<Ifindex> {
        Ifindex::new(number).ok()
    }

    fn kind(link: Link, kind: &str) -> Link {
        Link { kind: Some(kind.to_owned()), ..link }
    }

    #[test]
    fn a_bridge_and_its_port_show_the_same_frames() {
        let bridge = kind(link(5, "br0"), "bridge");
        let port = Link { master: index(5), ..link(2, "eth0") };
        let stranger = link(3, "eth1");
        assert_eq!(heard(vec![port, bridge, stranger], Directions::In), ["frames of eth0 are mirrored twice"]);
    }

    #[test]
    fn two_ports_of_one_bridge_show_what_goes_between_them() {
        let ports = || vec![Link { master: index(5), ..link(2, "eth0") }, Link { master: index(5), ..link(3, "eth1") }];
        assert_eq!(heard(ports(), Directions::InOut), ["frames between eth0 and eth1 are mirrored twice"]);
        assert_eq!(heard(ports(), Directions::In), [""; 0]);
    }

    #[test]
    fn two_ends_of_a_veth_show_the_same_frames() {
        let ends = vec![
            Link { lower: index(3), ..kind(link(2, "va"), "veth") },
            Link { lower: index(2), ..kind(link(3, "vb"), "veth") },
        ];
        assert_eq!(heard(ends, Directions::InOut), ["every frame of va and vb is mirrored twice"]);
    }

    #[test]
    fn a_vlan_and_the_interface_below_show_the_same_frames() {
        let vlan = Link { lower: index(2), ..kind(link(7, "eth0.5"), "vlan") };
        assert_eq!(heard(vec![link(2, "eth0"), vlan], Directions::InOut), ["frames of eth0.5 are mirrored twice"]);
    }

    #[test]
    fn super_frames_are_a_matter_of_offloads_and_of_normalising() {
        let mut plan = plan(tunnel(vxlan()));
        let mut facts = facts(mtu(1600));
        facts.tapped[0].receive_offload = Some(true);
        assert_eq!(findings(&plan, &facts)[0].what, "super-frames are cut back at the MTU of eth0");
        plan.normalise.enabled = false;
        assert_eq!(findings(&plan, &facts), []);
    }

    #[test]
    fn an_interface_that_is_down_is_told() {
        assert_eq!(heard(vec![Link { up: false, ..link(2, "eth0") }], Directions::InOut), ["eth0 is down"]);
    }
}
