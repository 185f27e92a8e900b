//! The plan in words.

use std::fmt::Display;

use super::facts::{Facts, Tapped};
use super::limits;
use super::local_ends::{file_in_words, tap_in_words};
use super::mtu::{Room, inner_mtu};
use super::network::protocol;
use super::report::Statement;
use super::traffic::{Traffic, bits_in_words};
use super::workers;
use crate::config::plan::{
    Decap, DestinationPlan, Encapsulation, End, FilePlan, Fit, Ids, LivePlan, OuterPackets, Pace, SessionPlan,
    SourcePlan, Tag, TransmitPlan, TunnelPlan, TunnelsPlan,
};
use crate::destination::encapsulate::overhead;
use crate::kernel::underlay::{NextHop, Underlay};
use crate::quantity::{Directions, Mtu, Rate, SegmentLimit};

/// Where frames come from, what is done to them, where they go.
pub fn statements(plan: &SessionPlan, facts: &Facts) -> Vec<Statement> {
    let mut said = match &plan.source {
        SourcePlan::Live(live) => live_source(live, facts),
        SourcePlan::File(file) => {
            vec![Statement::new("from", files_in_words(file))]
        }
        SourcePlan::Tunnels(tunnels) => tunnel_source(tunnels),
    };
    said.extend(plan.decap.map(|decap| Statement::new("take off", decap_in_words(decap))));
    if !plan.filter.is_empty() {
        said.push(Statement::new("filter", plan.filter.as_str()));
    }
    said.extend(limits::in_words(plan));
    said.extend(limits::seed_in_words(plan, facts));
    said.extend(
        plan.normalise
            .truncate
            .map(|snaplen| Statement::new("keep", format!("the first {snaplen} bytes of each frame"))),
    );
    said.extend(match plan.normalise.max_segments {
        Some(SegmentLimit::DEFAULT) => None,
        Some(most) => Some(Statement::new("cut", format!("super-frames of at most {most} segments"))),
        None => Some(Statement::new("cut", "super-frames of any number of segments, which may keep a worker busy")),
    });
    let traffic = facts.tapped.iter().fold(Traffic::default(), |sum, tapped| {
        sum.plus(tapped.traffic.on_the_wire(tapped.link.mtu.unwrap_or(Mtu::ETHERNET).value()))
    });
    let live_traffic = (!facts.tapped.is_empty()).then_some(traffic);
    for (destination, underlay) in plan.destinations.iter().zip(&facts.underlays) {
        said.extend(one_destination(plan, destination, underlay.as_deref(), live_traffic, facts));
    }
    said
}

/// Which tunnels captured frames lose.
fn decap_in_words(decap: Decap) -> String {
    let how_many = match decap {
        Decap::Levels(1) => "one tunnel".to_owned(),
        Decap::Levels(levels) => format!("up to {levels} tunnels inside each other"),
        Decap::All => "all tunnels".to_owned(),
    };
    format!("{how_many}; frames without one, and outer IP fragments, pass unchanged")
}

fn live_source(live: &LivePlan, facts: &Facts) -> Vec<Statement> {
    let directions = match live.directions {
        Directions::In => "received frames",
        Directions::Out => "sent frames",
        Directions::InOut => "both directions",
    };
    let one = |tapped: &Tapped| {
        let mtu = tapped.link.mtu.map_or_else(String::new, |mtu| format!(" (MTU {mtu})"));
        format!("{}{mtu}, {directions}, {} now", tapped.link.name, traffic_in_words(tapped.traffic))
    };
    let mut said = Vec::new();
    if facts.tapped.is_empty() {
        said.push(Statement::new("from", format!("{}, {directions}", live.interfaces.join(", "))));
    }
    let about = |number| if number == 0 { "from" } else { "" };
    said.extend(facts.tapped.iter().enumerate().map(|(number, tapped)| Statement::new(about(number), one(tapped))));
    said.extend(workers::in_words(live).map(|workers| Statement::new("workers", workers)));
    said
}

fn files_in_words(plan: &FilePlan) -> String {
    let names: Vec<String> = plan.files.iter().map(ToString::to_string).collect();
    let merged = if names.len() > 1 { ", merged by timestamp" } else { "" };
    let pause = plan
        .longest_pause
        .map_or_else(String::new, |most| format!(", pauses of {} at most", humantime::format_duration(most)));
    format!("{}{merged}, {}{pause}", names.join(", "), pace(plan.pace))
}

fn tunnel_source(tunnels: &TunnelsPlan) -> Vec<Statement> {
    let endpoints: Vec<&str> = tunnels.endpoints.iter().map(|endpoint| endpoint.written.as_str()).collect();
    let from = match &tunnels.outer {
        OuterPackets::Sockets { .. } => endpoints.join(", "),
        OuterPackets::File(file) if endpoints.is_empty() => {
            format!("every tunnel in {}", files_in_words(file))
        }
        OuterPackets::File(file) => format!("{} in {}", endpoints.join(", "), files_in_words(file)),
    };
    let allowed: Vec<String> = tunnels.allow.iter().map(ToString::to_string).collect();
    let whom = if allowed.is_empty() { "anybody".to_owned() } else { allowed.join(", ") };
    let unwrap = match tunnels.decap {
        Decap::Levels(1) => None,
        Decap::Levels(levels) => Some(format!("up to {levels} tunnels inside each other")),
        Decap::All => Some("all tunnels inside each other".to_owned()),
    };
    let identity =
        (tunnels.tag == Tag::Vlan).then(|| "the low 12 bits of VNI, key or session become a VLAN tag".to_owned());
    let order = tunnels.reorder.map(|delay| format!("by sequence numbers, waiting {} ms at most", delay.as_millis()));
    let rest = [("sender", Some(whom)), ("unwrap", unwrap), ("tag", identity), ("order", order)];
    let rest = rest.into_iter().filter_map(|(about, text)| Some(Statement::new(about, text?)));
    std::iter::once(Statement::new("from", from)).chain(rest).collect()
}

fn one_destination(
    plan: &SessionPlan,
    destination: &DestinationPlan,
    underlay: Option<&Underlay>,
    traffic: Option<Traffic>,
    facts: &Facts,
) -> Vec<Statement> {
    let head = |text: String| Statement::new("to", format!("{}: {text}", destination.name));
    let tunnel = match &destination.end {
        End::Tap(tap) => return vec![head(destination.to.clone()), tap_in_words(tap, plan, facts)],
        End::File(file) => return vec![head(file_in_words(file))],
        End::Tunnel(tunnel) => tunnel,
    };
    let mut said = vec![head(destination.to.clone())];
    said.push(Statement::new("", format!("{}, {}", encapsulation(&tunnel.encapsulation), carrier(tunnel))));
    let Some(underlay) = underlay else {
        said.push(Statement::new("way", "none"));
        return said;
    };
    said.push(Statement::new("way", way(tunnel, underlay, facts)));
    let room = Room::new(inner_mtu(plan, facts), tunnel, underlay);
    said.push(Statement::new("mtu", arithmetic(room, tunnel.fit)));
    if let Some(traffic) = traffic {
        let bits = bits_in_words(traffic.mirrored_bits(overhead(&tunnel.encapsulation, underlay.remote())));
        said.push(Statement::new("send", format!("about {bits} at the traffic of this moment, before any filter")));
    }
    said
}

fn carrier(tunnel: &TunnelPlan) -> String {
    let protocol = protocol(tunnel.encapsulation.udp_port());
    match &tunnel.transmit {
        TransmitPlan::Socket => protocol,
        TransmitPlan::Xdp { zero_copy: false } => format!("{protocol}, sent by AF_XDP"),
        TransmitPlan::Xdp { zero_copy: true } => {
            format!("{protocol}, sent by AF_XDP, without a copy where the driver can")
        }
        TransmitPlan::CaptureFile(file) => format!("{protocol}; a dry run: outer frames go to {file}"),
    }
}

fn way(tunnel: &TunnelPlan, underlay: &Underlay, facts: &Facts) -> String {
    let device = facts.links.iter().find(|link| Some(link.index) == underlay.device());
    let device = device.map_or_else(String::new, |link| format!(" by {}", link.name));
    let next_hop = match (&tunnel.transmit, underlay.next_hop()) {
        (TransmitPlan::CaptureFile(_), _) => "",
        (_, NextHop::Usable) => ", next hop known",
        (_, NextHop::Resolving) => ", next hop not asked for yet",
        (_, NextHop::Failed) => ", next hop did not answer when it was last asked",
    };
    format!("{} -> {}{device}{next_hop}", underlay.local(), underlay.remote())
}

fn arithmetic(room: Room, fit: Fit) -> String {
    let Room { frame, overhead, path } = room;
    let sum = format!("{frame} + {overhead} = {}, the path takes {path}: full frames", room.needed());
    match fit {
        _ if room.needed() <= path => format!("{sum} fit"),
        Fit::Split => format!("{sum} leave as {}", room.pieces()),
        Fit::Fragment => format!("{sum} leave as outer fragments"),
        Fit::Truncate => format!("{sum} are cut"),
        Fit::Drop => format!("{sum} are dropped"),
    }
}

fn encapsulation(encapsulation: &Encapsulation) -> String {
    match encapsulation {
        Encapsulation::Vxlan { vni, .. } => format!("VXLAN, VNI {}", ids(vni)),
        Encapsulation::Geneve { vni, .. } => format!("Geneve, VNI {}", ids(vni)),
        Encapsulation::Gre { key: None, .. } => "GRE, transparent Ethernet, no key".to_owned(),
        Encapsulation::Gre { key: Some(key), .. } => format!("GRE, transparent Ethernet, key {}", ids(key)),
        Encapsulation::Erspan1 => "ERSPAN I".to_owned(),
        Encapsulation::Erspan2 { session, .. } => format!("ERSPAN II, session {}", ids(session)),
        Encapsulation::Erspan3 { session } => format!("ERSPAN III, session {}", ids(session)),
    }
}

/// `42`, or `eth0:10,veth*:11`; and those of sent frames where they differ.
fn ids<T: Display>(ids: &Ids<T>) -> String {
    let words = |patterns: &[(String, T)]| {
        let word =
            |(pattern, id): &(String, T)| if pattern == "*" { id.to_string() } else { format!("{pattern}:{id}") };
        patterns.iter().map(word).collect::<Vec<_>>().join(",")
    };
    let received = words(&ids.by_interface);
    if ids.out_by_interface.is_empty() {
        return received;
    }
    format!("{received} in and {} out", words(&ids.out_by_interface))
}

fn traffic_in_words(traffic: Traffic) -> String {
    format!("{} in {:.0} frames/s", bits_in_words(traffic.bits()), traffic.frames)
}

fn pace(pace: Pace) -> String {
    match pace {
        Pace::Unpaced => "as fast as it goes".to_owned(),
        Pace::Recorded => "at the recorded pace".to_owned(),
        Pace::Rate(Rate::Frames(frames)) => format!("at {frames:.0} frames/s"),
        Pace::Rate(Rate::Bits(bits)) => format!("at {}", bits_in_words(bits)),
    }
}
