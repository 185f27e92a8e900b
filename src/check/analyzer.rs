//! What each analyzer does not see, and the lines that its configuration needs.
//!
//! Suricata 7.0.10, tshark, Open vSwitch and the kernel's devices were measured; what is said about Zeek and Snort is
//! out of their sources and manuals.

use super::facts::Facts;
use super::finding::{Finding, Severity};
use crate::config::defaults::{GENEVE_PORT, VXLAN_PORT};
use crate::config::plan::{
    Analyzer, DestinationPlan, Encapsulation, End, Fit, Ids, SessionPlan, TunnelPlan, UdpChecksum,
};
use crate::kernel::underlay::Underlay;

/// One tunnel of a session, with all that an analyzer's view of it depends on.
struct Case<'a> {
    tunnel: &'a TunnelPlan,
    /// Whether the outer packets are IPv6.
    ipv6: bool,
    /// Whether frames are cut.
    truncates: bool,
}

/// Something that analyzers do not see, or see otherwise than one may expect.
struct Limit {
    analyzers: &'static [Analyzer],
    applies: fn(&Case<'_>) -> bool,
    severity: Severity,
    what: &'static str,
    why: &'static str,
    remedy: &'static str,
}

use Analyzer::{Arkime, Linux, Snort, Suricata, Zeek};
use Severity::{Note, Warning};

const LIMITS: &[Limit] = &[
    Limit {
        analyzers: &[Suricata],
        applies: |case| matches!(case.tunnel.encapsulation, Encapsulation::Erspan3 { .. }),
        severity: Warning,
        what: "Suricata sees nothing of this mirror",
        why: "No version of it decodes ERSPAN III (GRE protocol 0x22eb).",
        remedy: "use erspan2:// or vxlan://",
    },
    Limit {
        analyzers: &[Snort],
        applies: |case| matches!(case.tunnel.encapsulation, Encapsulation::Erspan1),
        severity: Warning,
        what: "Snort may see nothing of this mirror",
        why: "It has decoders for ERSPAN II and III; type I, without a header of its own, is none of them.",
        remedy: "use erspan2:// or vxlan://",
    },
    Limit {
        analyzers: &[Suricata, Zeek, Snort, Arkime],
        applies: |case| case.truncates,
        severity: Warning,
        what: "cut frames raise no alerts",
        why: "Packets shorter than their own length field are set aside, and their TCP streams have gaps.",
        remedy: "mirror whole frames: no -s, no `truncate`, fit=split",
    },
    Limit {
        analyzers: &[Suricata, Zeek],
        applies: |case| distinguishes_taps(&case.tunnel.encapsulation),
        severity: Warning,
        what: "flows with the same addresses and ports behind different ids are one flow to it",
        why: "VNI, session id and key are not part of its flow key: overlapping taps mix, and raise no alerts.",
        remedy: "one analyzer instance or interface for each tap whose addresses overlap",
    },
    Limit {
        analyzers: &[Suricata],
        applies: |case| matches!(case.tunnel.encapsulation, Encapsulation::Vxlan { .. }),
        severity: Note,
        what: "MPLS and PPPoE frames inside VXLAN stay unseen",
        why: "Suricata's VXLAN decoder takes IPv4, IPv6, VLAN and ARP only; behind GRE, ERSPAN and Geneve it takes all.",
        remedy: "if there are any, use gre:// or geneve://",
    },
    Limit {
        analyzers: &[Suricata, Zeek, Snort, Arkime],
        applies: |case| is_erspan(&case.tunnel.encapsulation),
        severity: Note,
        what: "one capture thread of the analyzer takes all of it",
        why: "The kernel's packet fan-out cannot look into ERSPAN, so that all of it has one hash.",
        remedy: "to spread it over several threads, use vxlan://, geneve:// or gre://",
    },
    Limit {
        analyzers: &[Suricata, Zeek],
        applies: |case| case.tunnel.fit == Fit::Fragment && case.ipv6,
        severity: Warning,
        what: "outer IPv6 fragments go to other threads than the rest of their flow",
        why: "The kernel joins IPv4 fragments before it spreads packets over threads, but not IPv6 ones.",
        remedy: "use fit=split, or one capture thread",
    },
    Limit {
        analyzers: &[Zeek],
        applies: |case| {
            let geneve = matches!(case.tunnel.encapsulation, Encapsulation::Geneve { .. });
            geneve && case.ipv6 && case.tunnel.udp_checksum == UdpChecksum::Off
        },
        severity: Warning,
        what: "Zeek drops Geneve over IPv6 with a zero UDP checksum",
        why: "It takes a zero checksum over IPv6 for VXLAN only.",
        remedy: "leave udp_checksum at auto",
    },
    Limit {
        analyzers: &[Linux],
        applies: |case| is_udp(&case.tunnel.encapsulation) && case.ipv6 && case.tunnel.udp_checksum == UdpChecksum::Off,
        severity: Warning,
        what: "Linux drops it: UDP checksum zero over IPv6",
        why: "Its tunnel devices want a checksum over IPv6 unless they are told otherwise.",
        remedy: "leave udp_checksum at auto, or create the device with udp6zerocsumrx",
    },
];

/// What the analyzers of the session will not see, and the lines for their configuration.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let ways = facts.underlays.iter().map(Option::as_deref);
    plan.destinations.iter().zip(ways).flat_map(|(destination, way)| of_destination(plan, destination, way)).collect()
}

fn of_destination(plan: &SessionPlan, destination: &DestinationPlan, way: Option<&Underlay>) -> Vec<Finding> {
    let End::Tunnel(tunnel) = &destination.end else { return Vec::new() };
    let Some(analyzer) = tunnel.analyzer else {
        let known = "name it to hear what it will not see: analyzer=suricata, zeek, snort, arkime or linux";
        return vec![Finding::note(format!("destination {}: the analyzer is not named", destination.name)).cure(known)];
    };
    let case = Case {
        tunnel,
        ipv6: way.is_some_and(|way| way.remote().is_ipv6()),
        truncates: plan.normalise.truncate.is_some() || tunnel.fit == Fit::Truncate,
    };
    let limits = LIMITS.iter().filter(|limit| limit.analyzers.contains(&analyzer) && (limit.applies)(&case));
    let mut findings: Vec<Finding> = limits
        .map(|limit| Finding {
            severity: limit.severity,
            what: format!("destination {}: {}", destination.name, limit.what),
            why: limit.why.to_owned(),
            remedy: vec![limit.remedy.to_owned()],
        })
        .collect();
    let lines = configuration(analyzer, &case);
    if !lines.is_empty() {
        let what = format!("destination {}: {} needs these lines", destination.name, place_of_configuration(analyzer));
        findings.push(Finding { severity: Note, what, why: String::new(), remedy: lines });
    }
    findings
}

const fn place_of_configuration(analyzer: Analyzer) -> &'static str {
    match analyzer {
        Suricata => "suricata.yaml",
        Zeek => "Zeek's local.zeek",
        Snort => "snort.lua",
        Arkime => "Arkime",
        Linux => "the analyzer's host",
    }
}

/// Lines that the analyzer needs beside its stock configuration.
fn configuration(analyzer: Analyzer, case: &Case<'_>) -> Vec<String> {
    let fragments = case.tunnel.fit == Fit::Fragment;
    let mut lines = Vec::new();
    match (analyzer, unusual_port(&case.tunnel.encapsulation)) {
        (Suricata, Some((protocol, usual, port))) => {
            lines.push(format!("decoder: {{ {protocol}: {{ enabled: true, ports: \"[{usual}, {port}]\" }} }}"));
        }
        (Zeek, Some((protocol, _, port))) => {
            let module = if protocol == "vxlan" { "VXLAN" } else { "Geneve" };
            lines.push(format!("redef PacketAnalyzer::{module}::{protocol}_ports += {{ {port}/udp }};"));
        }
        (Snort, Some((protocol, usual, port))) => {
            lines.push(format!("udp = {{ {protocol}_ports = '{usual} {port}' }}"));
        }
        _ => {}
    }
    match analyzer {
        Suricata if fragments => lines.push("af-packet: [ { interface: IF, defrag: yes } ]".to_owned()),
        Zeek if fragments => lines.push("redef AF_Packet::enable_defrag = T;".to_owned()),
        Linux => lines.extend(linux_device(&case.tunnel.encapsulation)),
        _ => {}
    }
    lines
}

/// The device that unpacks the tunnel, and a look at what comes out of it.
fn linux_device(encapsulation: &Encapsulation) -> Vec<String> {
    let device = match encapsulation {
        Encapsulation::Vxlan { vni, port } => first(vni).map(|vni| {
            // Without `dstport` the device listens on 8472, and with `dev` its MTU is too small for full frames.
            format!("vxlan id {vni} dstport {port} nolearning udp6zerocsumrx")
        }),
        Encapsulation::Geneve { vni, port } => {
            first(vni).map(|vni| format!("geneve id {vni} remote SENDER dstport {port} udp6zerocsumrx"))
        }
        Encapsulation::Gre { key, .. } => {
            let key = key.as_ref().and_then(first).map_or_else(String::new, |key| format!(" key {key}"));
            Some(format!("gretap local ANALYZER remote SENDER{key}"))
        }
        Encapsulation::Erspan1 => Some("erspan local ANALYZER remote SENDER erspan_ver 0".to_owned()),
        Encapsulation::Erspan2 { session, .. } => {
            first(session).map(|id| format!("erspan local ANALYZER remote SENDER seq key {id} erspan_ver 1"))
        }
        Encapsulation::Erspan3 { session } => {
            first(session).map(|id| format!("erspan local ANALYZER remote SENDER seq key {id} erspan_ver 2"))
        }
    };
    let create = device.map(|device| format!("ip link add mirror0 type {device}"));
    // GRO merges TCP segments, in the tunnel and behind it, and leaves their checksums unfinished. IF receives the mirror.
    let settings = ["ethtool -K IF gro off", "ethtool -K mirror0 gro off", "ip link set mirror0 arp off up"];
    let settings = settings.map(str::to_owned);
    create.into_iter().chain(settings).collect()
}

/// Protocol, usual port and this port, where the port is not the usual one.
fn unusual_port(encapsulation: &Encapsulation) -> Option<(&'static str, u16, u16)> {
    match *encapsulation {
        Encapsulation::Vxlan { port, .. } if port != VXLAN_PORT => Some(("vxlan", VXLAN_PORT, port)),
        Encapsulation::Geneve { port, .. } if port != GENEVE_PORT => Some(("geneve", GENEVE_PORT, port)),
        _ => None,
    }
}

fn distinguishes_taps(encapsulation: &Encapsulation) -> bool {
    match encapsulation {
        Encapsulation::Vxlan { vni, .. } | Encapsulation::Geneve { vni, .. } => are_several(vni),
        Encapsulation::Gre { key, .. } => key.as_ref().is_some_and(are_several),
        Encapsulation::Erspan2 { session, .. } | Encapsulation::Erspan3 { session } => are_several(session),
        Encapsulation::Erspan1 => false,
    }
}

/// Whether taps or directions have ids of their own.
fn are_several<T: PartialEq>(ids: &Ids<T>) -> bool {
    let mut all = ids.by_interface.iter().chain(&ids.out_by_interface).map(|(_, id)| id);
    let one = all.next();
    all.any(|id| Some(id) != one)
}

fn first<T: Copy>(ids: &Ids<T>) -> Option<T> {
    ids.by_interface.first().map(|&(_, id)| id)
}

const fn is_udp(encapsulation: &Encapsulation) -> bool {
    matches!(encapsulation, Encapsulation::Vxlan { .. } | Encapsulation::Geneve { .. })
}

const fn is_erspan(encapsulation: &Encapsulation) -> bool {
    matches!(encapsulation, Encapsulation::Erspan1 | Encapsulation::Erspan2 { .. } | Encapsulation::Erspan3 { .. })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{facts, mtu, plan, tunnel, vxlan};
    use super::*;
    use crate::quantity::{ErspanIndex, ErspanSessionId, Snaplen, Vni};

    fn heard(tunnel: TunnelPlan) -> Vec<(Severity, String)> {
        let findings = findings(&plan(tunnel), &facts(mtu(1600)));
        findings.into_iter().map(|finding| (finding.severity, finding.what)).collect()
    }

    fn warnings(tunnel: TunnelPlan) -> Vec<String> {
        heard(tunnel).into_iter().filter(|(severity, _)| *severity == Warning).map(|(_, what)| what).collect()
    }

    fn lines(tunnel: TunnelPlan) -> Vec<String> {
        let findings = findings(&plan(tunnel), &facts(mtu(1600)));
        findings
            .into_iter()
            .find(|finding| finding.what.contains("needs these lines"))
            .map_or_else(Vec::new, |f| f.remedy)
    }

    fn seen_by(analyzer: Analyzer, encapsulation: Encapsulation) -> TunnelPlan {
        TunnelPlan { analyzer: Some(analyzer), ..tunnel(encapsulation) }
    }

    fn session() -> Ids<ErspanSessionId> {
        Ids::all(ErspanSessionId::new(3).unwrap())
    }

    fn on_port(port: u16) -> Encapsulation {
        Encapsulation::Vxlan { vni: Ids::all(Vni::new(42).unwrap()), port }
    }

    #[test]
    fn erspan_3_is_invisible_to_suricata_alone() {
        let erspan3 = || Encapsulation::Erspan3 { session: session() };
        assert_eq!(warnings(seen_by(Suricata, erspan3())), ["destination 1: Suricata sees nothing of this mirror"]);
        assert_eq!(warnings(seen_by(Zeek, erspan3())), [""; 0]);
        let erspan2 = Encapsulation::Erspan2 { session: session(), index: ErspanIndex::new(0).unwrap() };
        assert_eq!(
            heard(seen_by(Suricata, erspan2)),
            [(Note, "destination 1: one capture thread of the analyzer takes all of it".to_owned())]
        );
    }

    #[test]
    fn each_analyzer_gets_the_lines_for_an_unusual_port() {
        assert_eq!(lines(seen_by(Suricata, vxlan())), [""; 0]);
        let suricata = "decoder: { vxlan: { enabled: true, ports: \"[4789, 8472]\" } }";
        assert_eq!(lines(seen_by(Suricata, on_port(8472))), [suricata]);
        let zeek = "redef PacketAnalyzer::VXLAN::vxlan_ports += { 8472/udp };";
        assert_eq!(lines(seen_by(Zeek, on_port(8472))), [zeek]);
        assert_eq!(lines(seen_by(Snort, on_port(8472))), ["udp = { vxlan_ports = '4789 8472' }"]);
        let linux = lines(seen_by(Linux, on_port(8472)));
        assert_eq!(linux[0], "ip link add mirror0 type vxlan id 42 dstport 8472 nolearning udp6zerocsumrx");
        assert_eq!(linux[1..3], ["ethtool -K IF gro off", "ethtool -K mirror0 gro off"]);
    }

    #[test]
    fn ids_that_keep_taps_apart_do_not_keep_them_apart_for_an_ids() {
        let vni = |number| Vni::new(number).unwrap();
        let several = Ids {
            by_interface: vec![("eth0".to_owned(), vni(10)), ("veth*".to_owned(), vni(11))],
            out_by_interface: Vec::new(),
        };
        let apart = Encapsulation::Vxlan { vni: several, port: 4789 };
        let expected = "destination 1: flows with the same addresses and ports behind different ids are one flow to it";
        assert_eq!(warnings(seen_by(Suricata, apart.clone())), [expected]);
        assert_eq!(warnings(seen_by(Linux, apart)), [""; 0]);
    }

    #[test]
    fn cut_frames_are_warned_of_wherever_they_are_cut() {
        let mut plan = plan(seen_by(Zeek, vxlan()));
        plan.normalise.truncate = Some(Snaplen::new(128).unwrap());
        assert_eq!(findings(&plan, &facts(mtu(1600)))[0].what, "destination 1: cut frames raise no alerts");
        let cut_to_fit = TunnelPlan { fit: Fit::Truncate, ..seen_by(Suricata, vxlan()) };
        assert_eq!(warnings(cut_to_fit), ["destination 1: cut frames raise no alerts"]);
    }

    #[test]
    fn nothing_is_said_against_the_defaults() {
        for analyzer in [Suricata, Zeek, Snort, Arkime, Linux] {
            assert_eq!(warnings(seen_by(analyzer, vxlan())), [""; 0], "{analyzer:?}");
        }
    }
}
