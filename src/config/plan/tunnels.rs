//! The plan of a source that receives what others mirror.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::FilePlan;
use crate::quantity::Prefix;
use crate::wire::decapsulate::Tunnel;

/// Tunnels in which others send their mirrors: the frames are those inside.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelsPlan {
    /// Where the outer packets come from.
    pub outer: OuterPackets,
    /// What is taken; at least one endpoint, unless the packets are a file's: then none means everything.
    pub endpoints: Vec<EndpointPlan>,
    /// From whom; from everybody when there is none.
    pub allow: Vec<Prefix>,
    /// Whether headers with reserved bits are refused.
    pub strict: bool,
    /// How many tunnels are taken off.
    pub decap: Decap,
    /// How the tunnel's id stays with the frame.
    pub tag: Tag,
    /// How long a frame may wait for those that were numbered before it; `None`: frames go on as they come.
    pub reorder: Option<Duration>,
}

impl TunnelsPlan {
    /// What stands for an interface's name in the ids of destinations: one for each socket, or the file.
    pub fn names(&self) -> Vec<String> {
        match &self.outer {
            OuterPackets::File(plan) => {
                let names: Vec<_> = plan.files.iter().map(|file| format!("file:{file}")).collect();
                vec![names.join(", ")]
            }
            OuterPackets::Sockets { .. } => {
                let name = |endpoints: &Vec<&EndpointPlan>| {
                    endpoints.iter().map(|endpoint| endpoint.written.as_str()).collect::<Vec<_>>().join(", ")
                };
                self.sockets().iter().map(name).collect()
            }
        }
    }

    /// The endpoints by socket: one for each UDP port of an address, and one for GRE and ERSPAN together.
    pub fn sockets(&self) -> Vec<Vec<&EndpointPlan>> {
        let mut sockets: Vec<Vec<&EndpointPlan>> = Vec::new();
        for endpoint in &self.endpoints {
            let place = (endpoint.address, endpoint.port);
            match sockets.iter_mut().find(|others| (others[0].address, others[0].port) == place) {
                Some(others) => others.push(endpoint),
                None => sockets.push(vec![endpoint]),
            }
        }
        sockets
    }
}

/// Where outer packets come from.
#[derive(Clone, Debug, PartialEq)]
pub enum OuterPackets {
    /// The endpoints' own sockets, with so much memory for all of them together, in bytes.
    Sockets {
        /// Memory of all receive buffers together, in bytes.
        buffer: u64,
    },
    /// A capture file.
    File(FilePlan),
}

/// One tunnel endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointPlan {
    /// As the operator wrote it.
    pub written: String,
    /// Which encapsulations.
    pub takes: Takes,
    /// The address of this host that is sent to; unspecified for all of its family.
    pub address: IpAddr,
    /// UDP destination port; 0 for GRE and ERSPAN.
    pub port: u16,
    /// Which VNIs, keys or session ids; all when there is none.
    pub ids: Vec<RangeInclusive<u32>>,
}

/// The encapsulations of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// This one.
    Only(Tunnel),
    /// Every type of ERSPAN.
    AnyErspan,
}

/// How many tunnels are taken off a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decap {
    /// So many, or as many as there are.
    Levels(u8),
    /// All there are; too many are refused.
    All,
}

impl Default for Decap {
    /// The one that it came in.
    fn default() -> Self {
        Self::Levels(1)
    }
}

/// How the tunnel's id stays with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// Not at all.
    #[default]
    Off,
    /// The low 12 bits as a VLAN number, in an 802.1Q tag in front of all others.
    Vlan,
}
