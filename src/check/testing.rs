//! Plans and hosts for the tests of the rules.

use std::sync::Arc;
use std::time::Duration;

use super::facts::{Facts, Tapped};
use super::traffic::Traffic;
use crate::config::plan::{
    DestinationPlan, Encapsulation, End, EndPlan, Engine, Host, Ids, LimitPlan, LivePlan, NormalisePlan, PriorityPlan,
    SamplePlan, SessionPlan, SourcePlan, Spread, TunnelPlan,
};
use crate::kernel::capabilities::Capabilities;
use crate::kernel::links::{Counters, Link};
use crate::kernel::underlay::{NextHop, Underlay};
use crate::quantity::{Directions, Ifindex, Mtu, SegmentLimit, Vni, Weight, Workers};

pub fn mtu(bytes: u64) -> Mtu {
    Mtu::new(bytes).unwrap()
}

pub fn vxlan() -> Encapsulation {
    Encapsulation::Vxlan { vni: Ids::all(Vni::new(42).unwrap()), port: 4789 }
}

pub fn tunnel(encapsulation: Encapsulation) -> TunnelPlan {
    TunnelPlan::with_defaults(encapsulation, Host::Address([192, 0, 2, 10].into()))
}

/// `eth0` to one tunnel.
pub fn plan(tunnel: TunnelPlan) -> SessionPlan {
    SessionPlan {
        name: "mirror".to_owned(),
        source: SourcePlan::Live(LivePlan {
            interfaces: vec!["eth0".to_owned()],
            directions: Directions::InOut,
            promiscuous: true,
            engine: Engine::Pcap,
            buffer: 1 << 20,
            max_interfaces: 512,
            delay: Duration::from_millis(2),
            workers: Workers::LEAST,
            pin: Vec::new(),
            netns: None,
        }),
        decap: None,
        filter: String::new(),
        sample: SamplePlan::default(),
        seed: None,
        normalise: NormalisePlan {
            enabled: true,
            mtu: Mtu::ETHERNET,
            truncate: None,
            max_segments: Some(SegmentLimit::DEFAULT),
        },
        spread: Spread::Replicate,
        destinations: vec![DestinationPlan {
            name: "1".to_owned(),
            to: "vxlan://192.0.2.10?vni=42".to_owned(),
            weight: Weight::default(),
            end: End::Tunnel(tunnel),
        }],
        limit: LimitPlan::default(),
        priority: PriorityPlan::default(),
        end: EndPlan::default(),
    }
}

pub fn link(index: u64, name: &str) -> Link {
    Link {
        index: Ifindex::new(index).unwrap(),
        name: name.to_owned(),
        mtu: Some(Mtu::ETHERNET),
        mac: None,
        up: true,
        kind: None,
        master: None,
        lower: None,
        needs_neighbour: true,
        counters: Counters::default(),
    }
}

pub fn tapped(link: Link) -> Tapped {
    Tapped {
        link,
        segmentation: Some(false),
        receive_offload: Some(false),
        traffic: Traffic { frames: 1000.0, bytes: 125_000.0 },
    }
}

/// A host with `eth0`, whose path to the analyzer has this MTU.
pub fn facts(path: Mtu) -> Facts {
    let eth0 = link(2, "eth0");
    let (remote, local) = ([192, 0, 2, 10].into(), [192, 0, 2, 1].into());
    let underlay = Underlay::new(remote, local, Some(eth0.index), path, NextHop::Usable);
    Facts {
        links: vec![eth0.clone()],
        tapped: vec![tapped(eth0)],
        underlays: vec![Some(Arc::new(underlay))],
        wrappers: vec![Vec::new()],
        capabilities: Capabilities::ALL,
        cloud: None,
        cpus: 4,
        has_tap_devices: true,
        joining: Vec::new(),
        seed: Ok((None, "/var/lib/farspan/seed".into())),
    }
}
