//! Our tunnels as they look inside other tunnels.

use std::net::IpAddr;

use crate::wire::carrier::{Carrier, OwnTunnel};
use crate::wire::layers::{Ip, u32_at};

/// Our tunnels. The number of one is its place in the list.
#[derive(Debug, Default)]
pub(super) struct Targets(Vec<Target>);

/// One tunnel.
#[derive(Debug)]
struct Target {
    tunnel: OwnTunnel,
    /// As in an IP header: 4 or 16 bytes.
    local: Vec<u8>,
    remote: Vec<u8>,
    /// The last four bytes of `remote`: with hundreds of tunnels most are told apart by them.
    remote_end: [u8; 4],
    protocol: u8,
}

impl Targets {
    pub(super) fn of(tunnels: Vec<OwnTunnel>) -> Self {
        let target = |tunnel: OwnTunnel| {
            let (local, remote) = (octets(tunnel.local), octets(tunnel.remote));
            let remote_end = remote.last_chunk().copied().unwrap_or_default();
            Target { local, remote, remote_end, protocol: tunnel.carrier.ip_protocol(), tunnel }
        };
        Self(tunnels.into_iter().map(target).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, number: usize) -> Option<&OwnTunnel> {
        self.0.get(number).map(|target| &target.tunnel)
    }

    /// Each local address once.
    pub(super) fn locals(&self) -> Vec<&[u8]> {
        let mut locals: Vec<&[u8]> = self.0.iter().map(|target| target.local.as_slice()).collect();
        locals.sort_unstable();
        locals.dedup();
        locals
    }

    /// The number of our tunnel to which `packet`, inside another tunnel, belongs: by destination, port or protocol, and
    /// id. Where the id is cut off, as in the quote of an ICMP error, the source has to be ours.
    pub(super) fn inside(&self, bytes: &[u8], packet: &Ip) -> Option<usize> {
        let (source, destination) = packet.addresses(bytes);
        self.0.iter().position(|target| {
            destination.last_chunk() == Some(&target.remote_end)
                && destination == target.remote
                && packet.protocol == target.protocol
                && match target.has_our_id(bytes, packet) {
                    Some(is_ours) => is_ours,
                    None => source == target.local && target.tunnel.carrier.carries(bytes, packet),
                }
        })
    }

    /// The same for a header that was found by its addresses in any payload: everything has to be there.
    pub(super) fn anywhere(&self, bytes: &[u8], packet: &Ip) -> Option<usize> {
        let (source, destination) = packet.addresses(bytes);
        self.0.iter().position(|target| {
            source == target.local
                && destination == target.remote
                && packet.protocol == target.protocol
                && target.has_our_id(bytes, packet) == Some(true)
        })
    }

    /// Whether `packet` is a datagram of ours as it left.
    pub(super) fn outermost(&self, bytes: &[u8], packet: &Ip) -> bool {
        let (source, destination) = packet.addresses(bytes);
        self.0.iter().any(|target| {
            source == target.local
                && destination == target.remote
                && packet.protocol == target.protocol
                && target.tunnel.carrier.carries(bytes, packet)
        })
    }
}

impl Target {
    /// Whether destination port and id, or what GRE says, are ours; `None` where the id is cut off.
    fn has_our_id(&self, bytes: &[u8], packet: &Ip) -> Option<bool> {
        /// VXLAN's and Geneve's VNI: the first three bytes of the second word.
        const VNI: usize = 4;
        /// Flags and protocol type, then the key, if there is one.
        const KEY: usize = 4;
        /// GRE with a sequence number, then the word with the session id.
        const SESSION: usize = 8;
        match &self.tunnel.carrier {
            Carrier::Udp { destination, vnis, .. } => {
                if packet.ports(bytes).is_none_or(|(_, port)| port != *destination) {
                    return Some(false);
                }
                let word = u32_at(bytes, packet.payload? + VNI)?;
                Some(vnis.iter().any(|vni| vni.value() == word >> 8))
            }
            carrier => {
                let last_word = match carrier {
                    Carrier::Gre { keys: Some(_), .. } => KEY,
                    Carrier::Erspan2 { .. } | Carrier::Erspan3 { .. } => SESSION,
                    _ => 0,
                };
                u32_at(bytes, packet.transport + last_word)?;
                Some(carrier.carries(bytes, packet))
            }
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
