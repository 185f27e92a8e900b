//! What a tunnel of ours looks like on the underlay: everything in its datagrams that never changes.

use std::net::IpAddr;

use super::layers::{self, Ip, u16_at, u32_at};
use super::{erspan, gre};
use crate::quantity::{ErspanSessionId, GreKey, Vni};

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

/// How a tunnel's datagrams are recognised behind the IP header: everything in it that never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// VXLAN and Geneve: UDP from one of our source ports to the tunnel's port, with one of our VNIs.
    Udp {
        /// Ports of our socket bank.
        sources: Vec<u16>,
        /// VXLAN's or Geneve's port.
        destination: u16,
        /// The VNIs we send. Both encapsulations carry it at the same place.
        vnis: Vec<Vni>,
    },
    /// GRE with an Ethernet frame.
    Gre {
        /// Our keys; `None` when we send none.
        keys: Option<Vec<GreKey>>,
        /// Whether we send a sequence number.
        sequence: bool,
    },
    /// ERSPAN I: GRE without any flag.
    Erspan1,
    /// ERSPAN II.
    Erspan2 {
        /// Our session ids.
        sessions: Vec<ErspanSessionId>,
    },
    /// ERSPAN III.
    Erspan3 {
        /// Our session ids.
        sessions: Vec<ErspanSessionId>,
    },
}

/// Length of a UDP header (RFC 768).
const UDP_HEADER_LEN: usize = 8;
/// Where the word with the VNI begins in a VXLAN header (RFC 7348 section 5) and in a Geneve header (RFC 8926 section 3.4).
const VNI: usize = 4;

impl OwnTunnel {
    /// The tunnels of several workers, each a list in the order of the session's destinations, as one such list: a tunnel's
    /// workers differ in their source ports only.
    pub fn of_all_workers(workers: impl IntoIterator<Item = Vec<Self>>) -> Vec<Self> {
        let join = |mut joined: Vec<Self>, worker: Vec<Self>| {
            for (tunnel, other) in joined.iter_mut().zip(worker) {
                if let (Carrier::Udp { sources, .. }, Carrier::Udp { sources: more, .. }) =
                    (&mut tunnel.carrier, other.carrier)
                {
                    sources.extend(more);
                }
            }
            joined
        };
        workers.into_iter().reduce(join).unwrap_or_default()
    }
}

impl Carrier {
    /// Adds the source ports and VNIs of `other` where both are UDP to the same port. Returns whether they are.
    pub fn absorb(&mut self, other: &Self) -> bool {
        let (Self::Udp { sources, destination, vnis }, Self::Udp { sources: ports, destination: port, vnis: ids }) =
            (self, other)
        else {
            return false;
        };
        if destination != port {
            return false;
        }
        sources.extend(ports);
        let new: Vec<Vni> = ids.iter().copied().filter(|id| !vnis.contains(id)).collect();
        vnis.extend(new);
        true
    }

    /// The protocol number of the outer IP header.
    pub fn ip_protocol(&self) -> u8 {
        match self {
            Self::Udp { .. } => layers::UDP,
            Self::Gre { .. } | Self::Erspan1 | Self::Erspan2 { .. } | Self::Erspan3 { .. } => layers::GRE,
        }
    }

    /// Whether our headers stand at the transport header of `ip`. A quote may end before the VNI, key or session id: then
    /// what is there decides.
    pub fn carries(&self, bytes: &[u8], ip: &Ip) -> bool {
        let is_gre = |flags: u16, protocol: u16| {
            u16_at(bytes, ip.transport) == Some(flags) && u16_at(bytes, ip.transport + 2) == Some(protocol)
        };
        let is_one_of = |sessions: &[ErspanSessionId]| {
            let behind_sequence = u32_at(bytes, ip.transport + 8);
            behind_sequence.is_none_or(|word| sessions.contains(&erspan::session_of(word)))
        };
        match self {
            Self::Udp { sources, destination, vnis } => {
                // The kernel's own VXLAN devices take any port as their source, also one of ours: the VNI tells them apart.
                let has_our_id = || {
                    let vni = u32_at(bytes, ip.transport + UDP_HEADER_LEN + VNI);
                    vni.is_none_or(|word| vnis.iter().any(|vni| vni.value() == word >> 8))
                };
                ip.ports(bytes).is_some_and(|(from, to)| to == *destination && sources.contains(&from)) && has_our_id()
            }
            Self::Gre { keys, sequence } => {
                let key_flag = if keys.is_some() { gre::KEY_PRESENT } else { 0 };
                let sequence_flag = if *sequence { gre::SEQUENCE_PRESENT } else { 0 };
                is_gre(key_flag | sequence_flag, gre::TRANSPARENT_ETHERNET)
                    && keys.as_ref().is_none_or(|keys| {
                        let key = u32_at(bytes, ip.transport + 4);
                        key.is_none_or(|key| keys.iter().any(|ours| ours.value() == key))
                    })
            }
            Self::Erspan1 => is_gre(0, gre::ERSPAN),
            Self::Erspan2 { sessions } => is_gre(gre::SEQUENCE_PRESENT, gre::ERSPAN) && is_one_of(sessions),
            Self::Erspan3 { sessions } => is_gre(gre::SEQUENCE_PRESENT, gre::ERSPAN_III) && is_one_of(sessions),
        }
    }
}
