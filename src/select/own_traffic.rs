//! Our own tunnels: mirroring them would never end.

use std::net::IpAddr;

use crate::quantity::PortRange;
use crate::wire::layers::Layers;

/// One tunnel as it looks on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTunnel {
    /// Source address of our datagrams.
    pub local: IpAddr,
    /// The destination.
    pub remote: IpAddr,
    /// What distinguishes our datagrams from other traffic between the two.
    pub carrier: Carrier,
}

/// How a tunnel's datagrams are recognised behind the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// UDP from one of our source ports to the tunnel's port.
    Udp {
        /// Ports of our socket bank.
        sources: PortRange,
        /// VXLAN's or Geneve's port.
        destination: u16,
    },
    /// GRE (IP protocol 47) with this protocol type: and with one of these keys, if we send a key.
    Gre {
        /// `0x6558`, `0x88be` or `0x22eb`.
        protocol: u16,
        /// Our keys; `None` when we send none.
        keys: Option<Vec<u32>>,
    },
}

/// Recognises the session's own datagrams, their later fragments, and ICMP errors that quote them.
#[derive(Debug, Default)]
pub struct OwnTraffic {
    tunnels: Vec<OwnTunnel>,
}

impl OwnTraffic {
    /// Recognises these tunnels; none are a mirror that only writes files.
    pub fn new(tunnels: Vec<OwnTunnel>) -> Self {
        Self { tunnels }
    }

    /// Whether `frame` is ours.
    pub fn is_ours(&mut self, frame: &[u8], layers: &Layers) -> bool {
        let _ = (frame, layers);
        !self.tunnels.is_empty() && unimplemented!()
    }
}
