//! Pre-flight: everything that can be said about a session before its first frame, without sending any.
//!
//! *Problems* keep a session from running and are errors like any other. *Findings* do not, but somebody should know
//! them: frames that leave in two pieces, traffic that the analyzer will not see. [`facts`] are asked of the host once;
//! everything else here judges a plan by them and does no I/O.

pub mod analyzer;
pub mod capture;
pub mod facts;
pub mod finding;
pub mod gro;
pub mod gso;
pub mod kept;
pub mod limits;
pub mod local_ends;
pub mod mtu;
pub mod network;
pub mod permissions;
pub mod report;
pub mod stacked;
#[cfg(test)]
mod testing;
pub mod timers;
pub mod traffic;
pub mod words;
pub mod workers;
pub mod xdp;

use crate::config::local_end::CaptureFilePlan;
use crate::config::plan::{DestinationPlan, End, FilePlan, SessionPlan, TransmitPlan, TunnelPlan};
use crate::destination::missing_ids;
use crate::destination::shared_file::CannotCreate;
use crate::error::{Explain, Problems};
use crate::session::cannot_probe;
use crate::session::relay_loop::relay_loops;
use crate::source;
use facts::Facts;
use finding::Finding;
use report::Report;

/// Looks at one session from all sides. Takes as long as its traffic is measured: [`traffic::WINDOW`].
///
/// Beside the report comes everything that would keep the session from running.
pub async fn check(plan: &SessionPlan) -> (Report, Vec<Box<dyn Explain>>) {
    let (interfaces, mut problems) = match open_sources(plan) {
        Ok(interfaces) => (interfaces, Vec::new()),
        Err(problems) => (Vec::new(), problems.into_iter().collect()),
    };
    problems.extend(missing_ids(&plan.destinations, &interfaces));
    let (facts, unreachable) = Facts::gather(plan).await;
    problems.extend(unreachable);
    problems.extend(relay_loops(plan, &facts.underlays));
    problems.extend(permissions::problems(plan, &facts));
    problems.extend(cannot_probe(plan, &facts.underlays).into_iter().flatten());
    problems.extend(local_ends::problems(plan, &facts));
    problems.extend(unwritable_files(plan));
    (judge(plan, &facts), problems)
}

/// Opens the session's sources with their filter and closes them again; says what their interfaces are called.
fn open_sources(plan: &SessionPlan) -> Result<Vec<String>, Problems> {
    // Opening a pipe would take from it what the session is to read.
    if plan.source.file().is_some_and(FilePlan::has_pipe) {
        return Ok(Vec::new());
    }
    let opened = source::open(plan)?;
    Ok(opened.interfaces.into_iter().map(|interface| interface.name).collect())
}

/// Capture files, those of dry runs among them, that cannot be written where they are to be. None is created.
fn unwritable_files(plan: &SessionPlan) -> Vec<Box<dyn Explain>> {
    let cannot = |plan: &CaptureFilePlan| Some(CannotCreate::in_the_way(plan)?.into());
    let cannot = |destination: &DestinationPlan| -> Option<Box<dyn Explain>> {
        match &destination.end {
            End::File(file) => cannot(file),
            End::Tunnel(TunnelPlan { transmit: TransmitPlan::CaptureFile(file), .. }) => {
                cannot(&CaptureFilePlan::plain(file.clone()))
            }
            End::Tunnel(_) | End::Tap(_) => None,
        }
    };
    plan.destinations.iter().filter_map(cannot).collect()
}

/// What there is to say about `plan` on a host with these facts.
fn judge(plan: &SessionPlan, facts: &Facts) -> Report {
    let rules: [fn(&SessionPlan, &Facts) -> Vec<Finding>; 12] = [
        capture::findings,
        gro::findings,
        workers::findings,
        limits::findings,
        mtu::findings,
        network::findings,
        |plan, facts| stacked::findings(plan, &facts.links, &facts.wrappers),
        gso::findings,
        xdp::findings,
        permissions::findings,
        local_ends::findings,
        analyzer::findings,
    ];
    let mut findings: Vec<Finding> = rules.iter().flat_map(|rule| rule(plan, facts)).collect();
    findings.sort_by_key(|finding| finding.severity);
    Report {
        session: plan.name.clone(),
        statements: words::statements(plan, facts),
        findings,
        expiries: timers::expiries(plan, facts),
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{facts, mtu, plan, tunnel, vxlan};
    use super::*;
    use crate::config::plan::{Analyzer, Encapsulation, Host, Ids, SourcePlan};
    use crate::kernel::testing::TestNamespace;
    use crate::quantity::Vni;

    fn check_in(namespace: &TestNamespace, plan: SessionPlan) -> (Report, String) {
        let (report, problems) = namespace.run_async(async move {
            let (report, problems) = check(&plan).await;
            (report, Problems::unless_empty(problems).map_or_else(|problems| problems.to_string(), |()| String::new()))
        });
        (report, problems)
    }

    fn capturing(interfaces: &[&str], tunnel: TunnelPlan) -> SessionPlan {
        let mut plan = plan(tunnel);
        if let SourcePlan::Live(live) = &mut plan.source {
            live.interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        }
        plan
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_host_is_looked_at_without_a_packet_leaving_it() {
        let (tapped, _analyzer) = TestNamespace::pair();
        tapped.ip("link add fkebr type bridge");
        tapped.ip("link add fke5 type veth peer name fke6");
        tapped.ip("link set fke5 master fkebr up");
        tapped.ip("link set fke6 up");
        tapped.ip("link set fkebr up");
        let analyzer = TunnelPlan { host: Host::Address([192, 0, 2, 2].into()), ..tunnel(vxlan()) };

        let (report, problems) = check_in(&tapped, capturing(&["fke[56]", "fkebr"], analyzer));

        assert_eq!(problems, "");
        let text = report.to_string();
        for line in [
            "way      192.0.2.1 -> 192.0.2.2 by fke0, next hop not asked for yet\n",
            "mtu      1514 + 36 = 1550, the path takes 1500: full frames leave as 2\n",
            "warning: frames of fke5 are mirrored twice\n  why:  fke5 is a port of the bridge fkebr, and both are captured.\n",
            "warning: every frame of fke6 and fke5 is mirrored twice\n",
            "note: super-frames are cut back at the MTU of fkebr, fke6, fke5\n",
        ] {
            assert!(text.contains(line), "{line}\nis missing in\n{text}");
        }
        assert_eq!(tapped.output("ip neigh show 192.0.2.2"), "");
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn an_interface_without_an_id_is_told() {
        let (tapped, _analyzer) = TestNamespace::pair();
        let vni = Ids { by_interface: vec![("eth*".to_owned(), Vni::MAX)], out_by_interface: Vec::new() };
        let host = Host::Address([192, 0, 2, 2].into());
        let analyzer = TunnelPlan { host, ..tunnel(Encapsulation::Vxlan { vni, port: 4789 }) };
        let (_, problems) = check_in(&tapped, capturing(&["fke0"], analyzer));
        assert!(problems.contains("interface \"fke0\" has no VNI"), "{problems}");
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn every_mistake_is_told_at_once() {
        let (tapped, _analyzer) = TestNamespace::pair();
        let nowhere = TunnelPlan { host: Host::Address([198, 51, 100, 1].into()), ..tunnel(Encapsulation::Erspan1) };
        let mut plan = capturing(&["fke0", "eth7"], nowhere);
        plan.filter = "port banana".to_owned();
        let (_, problems) = check_in(&tapped, plan);
        for words in ["eth7", "banana", "no route to 198.51.100.1"] {
            assert!(problems.contains(words), "{words} is missing in\n{problems}");
        }
    }

    #[test]
    fn a_plan_is_told_on_one_page() {
        let mut plan = plan(TunnelPlan { analyzer: Some(Analyzer::Suricata), ..tunnel(vxlan()) });
        plan.filter = "not port 22".to_owned();
        let mut facts = facts(mtu(1500));
        facts.tapped[0].segmentation = Some(true);
        assert_eq!(
            judge(&plan, &facts).to_string(),
            "\
session mirror
  from     eth0 (MTU 1500), both directions, 1.0 Mbit/s in 1000 frames/s now
  filter   not port 22
  to       1: vxlan://192.0.2.10?vni=42
           VXLAN, VNI 42, UDP port 4789
  way      192.0.2.1 -> 192.0.2.10 by eth0, next hop known
  mtu      1514 + 36 = 1550, the path takes 1500: full frames leave as 2
  send     about 1.4 Mbit/s at the traffic of this moment, before any filter
note: super-frames are cut back at the MTU of eth0
  why:  With TSO or GRO on, libpcap sees them uncut. The stream is exact; where the wire's segments began is not known.
  do:   engine = \"ring\" knows it
note: destination 1: full frames leave as two
  why:  1514 + 36 (outer headers) = 1550, the path takes 1500. TCP is cut into valid segments, other IP into inner \
fragments. What cannot be cut (not IP, signed TCP) is dropped as oversize.
  do:   to keep frames whole, raise the MTU of the path to 1554 (with a VLAN tag), on every device of it; 1600 is a common choice
note: destination 1: UDP port 4789 must be let in
  why:  By the firewalls on the way and, in a cloud, the analyzer's security group (AWS, Azure, Alibaba) or VPC \
firewall rule (Google).
note: destination 1: MPLS and PPPoE frames inside VXLAN stay unseen
  why:  Suricata's VXLAN decoder takes IPv4, IPv6, VLAN and ARP only; behind GRE, ERSPAN and Geneve it takes all.
  do:   if there are any, use gre:// or geneve://
"
        );
    }
}
