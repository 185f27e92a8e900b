//! The arithmetic of full frames, outer headers and the path MTU.

use super::facts::Facts;
use super::finding::Finding;
use crate::config::plan::{DestinationPlan, End, Fit, SessionPlan, SourcePlan, TunnelPlan};
use crate::destination::encapsulate::overhead;
use crate::kernel::underlay::Underlay;
use crate::quantity::Mtu;
use crate::wire::ethernet::{HEADER_LEN, VLAN_TAG_LEN};

/// How a full frame of the source meets a destination's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The largest inner frame without a VLAN tag, in bytes.
    pub frame: usize,
    /// Outer IP, UDP and tunnel headers, in bytes.
    pub overhead: usize,
    /// Path MTU, in bytes.
    pub path: usize,
}

impl Room {
    /// The arithmetic for frames from a link with MTU `inner` to `tunnel`.
    pub fn new(inner: Mtu, tunnel: &TunnelPlan, underlay: &Underlay) -> Self {
        Self {
            frame: bytes(inner) + HEADER_LEN,
            overhead: overhead(&tunnel.encapsulation, underlay.remote()),
            path: bytes(underlay.mtu()),
        }
    }

    /// The path MTU that takes a full frame, in bytes.
    pub fn needed(self) -> usize {
        self.frame + self.overhead
    }

    /// The path MTU that takes it with a VLAN tag too.
    fn needed_with_tag(self) -> usize {
        self.needed() + VLAN_TAG_LEN
    }

    /// Into how many pieces `fit = "split"` makes a full TCP frame: 1 when it fits.
    pub fn pieces(self) -> usize {
        // IPv4 and TCP without options; the common timestamp option never changes the count by more than one.
        const HEADERS: usize = HEADER_LEN + 20 + 20;
        if self.needed() <= self.path {
            return 1;
        }
        let payload = self.frame.saturating_sub(HEADERS);
        let room = self.path.saturating_sub(self.overhead + HEADERS);
        if room == 0 { payload } else { payload.div_ceil(room) }
    }
}

/// The largest MTU that frames of the session come from: the interfaces', or what a file is said to come from.
pub fn inner_mtu(plan: &SessionPlan, facts: &Facts) -> Mtu {
    match &plan.source {
        SourcePlan::File(_) | SourcePlan::Tunnels(_) => plan.normalise.mtu,
        SourcePlan::Live(_) => facts.tapped.iter().filter_map(|tapped| tapped.link.mtu).max().unwrap_or(Mtu::ETHERNET),
    }
}

/// The longest IP packet that there is: no path takes more.
const LONGEST: usize = 65_535;

/// The MTU that vendors advise for paths of tunnels between hosts with MTU 1500.
const COMMON: usize = 1600;

/// Says what happens to full frames that do not fit.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let inner = inner_mtu(plan, facts);
    let tight = |(destination, underlay): (&DestinationPlan, _)| {
        let (End::Tunnel(tunnel), Some(underlay)) = (&destination.end, underlay) else { return None };
        does_not_fit(&destination.name, Room::new(inner, tunnel, underlay), tunnel.fit)
    };
    let ways = || facts.underlays.iter().map(Option::as_deref);
    let pinned =
        plan.destinations.iter().zip(ways()).filter_map(|(destination, underlay)| pinned(destination, underlay?));
    pinned.chain(plan.destinations.iter().zip(ways()).filter_map(tight)).collect()
}

/// Says that the path MTU is the plan's, whatever routes and routers say.
fn pinned(destination: &DestinationPlan, underlay: &Underlay) -> Option<Finding> {
    if !underlay.has_pinned_mtu() {
        return None;
    }
    let (name, mtu) = (&destination.name, underlay.mtu());
    Some(
        Finding::note(format!("destination {name}: the path MTU is pinned to {mtu}"))
            .because("`mtu` sets it. The route's MTU and what routers report (\"fragmentation needed\") are ignored.")
            .cure("if a device of the path has a smaller MTU, longer datagrams are lost there: lower `mtu`, or leave it out"),
    )
}

fn does_not_fit(name: &str, room: Room, fit: Fit) -> Option<Finding> {
    let Room { frame, overhead, path } = room;
    let (needed, tagged) = (room.needed(), room.needed_with_tag());
    if needed <= path && tagged <= path {
        return None;
    }
    let common = if tagged <= COMMON { format!("; {COMMON} is a common choice") } else { String::new() };
    let raise = if tagged <= LONGEST {
        format!("raise the MTU of the path to {tagged} (with a VLAN tag), on every device of it{common}")
    } else {
        format!("lower the MTU of what is mirrored: no packet is longer than {LONGEST}")
    };
    if needed <= path {
        return Some(
            Finding::note(format!("destination {name}: full frames fit, with a VLAN tag they do not"))
                .because(format!("{frame} + 4 (tag) + {overhead} (outer headers) = {tagged}, the path takes {path}."))
                .cure(raise),
        );
    }
    let arithmetic = format!("{frame} + {overhead} (outer headers) = {needed}, the path takes {path}.");
    Some(match fit {
        Fit::Split => Finding::note(format!("destination {name}: full frames leave as {}", in_pieces(room.pieces())))
            .because(format!(
                "{arithmetic} TCP is cut into valid segments, other IP into inner fragments. What cannot be cut (not IP, \
                 signed TCP) is dropped as oversize."
            ))
            .cure(format!("to keep frames whole, {raise}")),
        Fit::Fragment => Finding::warning(format!("destination {name}: full frames leave as outer fragments"))
            .because(format!("{arithmetic} Clouds and switches may drop fragments, and not every analyzer joins them."))
            .cure(format!("choose fit=split, or {raise}")),
        Fit::Truncate => Finding::warning(format!(
            "destination {name}: full frames are cut to {} bytes",
            path.saturating_sub(overhead)
        ))
        .because(format!("{arithmetic} Suricata and Zeek ignore packets that are shorter than their own length says."))
        .cure(format!("choose fit=split, or {raise}")),
        Fit::Drop => Finding::warning(format!("destination {name}: full frames are dropped"))
            .because(arithmetic)
            .cure(format!("choose fit=split, or {raise}")),
    })
}

fn in_pieces(pieces: usize) -> String {
    match pieces {
        2 => "two".to_owned(),
        3 => "three".to_owned(),
        more => more.to_string(),
    }
}

fn bytes(mtu: Mtu) -> usize {
    usize::try_from(mtu.value()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::finding::Severity;
    use super::super::testing::{self, facts, plan, tunnel, vxlan};
    use super::*;
    use crate::config::plan::{Encapsulation, Ids};
    use crate::kernel::underlay::NextHop;
    use crate::quantity::{ErspanIndex, ErspanSessionId, GreKey, Vni};

    fn room(encapsulation: Encapsulation, remote: &str, path: u64) -> Room {
        let underlay =
            Underlay::new(remote.parse().unwrap(), remote.parse().unwrap(), None, testing::mtu(path), NextHop::Usable);
        Room::new(Mtu::ETHERNET, &tunnel(encapsulation), &underlay)
    }

    /// Path MTUs for a full frame of 1514 bytes over IPv4 and IPv6: lengths of packets that other encapsulators made.
    #[test]
    fn the_needed_path_mtu_is_that_of_other_encapsulators() {
        let session = || Ids::all(ErspanSessionId::new(1).unwrap());
        let gre =
            |key: bool, sequence| Encapsulation::Gre { key: key.then(|| Ids::all(GreKey::new(7).unwrap())), sequence };
        for (encapsulation, v4, v6) in [
            (vxlan(), 1550, 1570),
            (Encapsulation::Geneve { vni: Ids::all(Vni::new(1).unwrap()), port: 6081 }, 1550, 1570),
            (gre(false, false), 1538, 1558),
            (gre(true, false), 1542, 1562),
            (gre(true, true), 1546, 1566),
            (Encapsulation::Erspan1, 1538, 1558),
            (Encapsulation::Erspan2 { session: session(), index: ErspanIndex::new(0).unwrap() }, 1550, 1570),
            (Encapsulation::Erspan3 { session: session() }, 1554, 1574),
        ] {
            assert_eq!(room(encapsulation.clone(), "192.0.2.10", 1500).needed(), v4, "{encapsulation:?}");
            assert_eq!(room(encapsulation.clone(), "2001:db8::10", 1500).needed(), v6, "{encapsulation:?}");
        }
    }

    #[test]
    fn a_full_frame_is_cut_into_as_few_pieces_as_fit() {
        let pieces = |path| room(vxlan(), "192.0.2.10", path).pieces();
        assert_eq!([1550, 1549, 1500, 821, 819, 600].map(pieces), [1, 2, 2, 2, 3, 3]);
    }

    #[test]
    fn what_becomes_of_full_frames_depends_on_fit_and_path() {
        let heard = |path, fit| -> Vec<(Severity, String)> {
            let plan = plan(TunnelPlan { fit, ..tunnel(vxlan()) });
            let findings = findings(&plan, &facts(testing::mtu(path)));
            findings.into_iter().map(|finding| (finding.severity, finding.what)).collect()
        };
        let one = |severity, what: &str| vec![(severity, format!("destination 1: {what}"))];
        assert_eq!(heard(1600, Fit::Drop), []);
        assert_eq!(heard(1554, Fit::Drop), []);
        assert_eq!(heard(1550, Fit::Split), one(Severity::Note, "full frames fit, with a VLAN tag they do not"));
        assert_eq!(heard(1500, Fit::Split), one(Severity::Note, "full frames leave as two"));
        assert_eq!(heard(1500, Fit::Fragment), one(Severity::Warning, "full frames leave as outer fragments"));
        assert_eq!(heard(1500, Fit::Truncate), one(Severity::Warning, "full frames are cut to 1464 bytes"));
        assert_eq!(heard(1500, Fit::Drop), one(Severity::Warning, "full frames are dropped"));
    }

    #[test]
    fn a_jumbo_interface_decides_over_a_smaller_one() {
        let mut facts = facts(testing::mtu(1500));
        facts.tapped.push(testing::tapped(testing::link(3, "eth1")));
        facts.tapped[1].link.mtu = Some(testing::mtu(9000));
        facts.underlays = vec![Some(Arc::new(Underlay::new(
            [192, 0, 2, 10].into(),
            [192, 0, 2, 1].into(),
            None,
            testing::mtu(9001),
            NextHop::Usable,
        )))];
        let findings = findings(&plan(tunnel(vxlan())), &facts);
        assert_eq!(findings[0].what, "destination 1: full frames leave as two");
        assert!(findings[0].remedy[0].contains("9054"), "{findings:?}");
    }

    #[test]
    fn nobody_is_told_to_set_an_mtu_that_there_is_not() {
        let mut facts = facts(testing::mtu(1500));
        // The loopback interface's.
        facts.tapped[0].link.mtu = Some(testing::mtu(65_536));
        let findings = findings(&plan(tunnel(vxlan())), &facts);
        let told = "to keep frames whole, lower the MTU of what is mirrored: no packet is longer than 65535";
        assert_eq!(findings[0].remedy, [told]);
    }
}
