//! Link-layer addresses of next hops: what ARP and IPv6 neighbour discovery know.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::links::{Mac, ifindex};
use super::netlink::{Netlink, words};
use super::path_mtu::{DISCARD, socket_to};
use super::routes::family;
use super::underlay::NextHop;
use crate::quantity::Ifindex;

/// One entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is on.
    pub device: Ifindex,
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address, once it has answered.
    pub mac: Option<Mac>,
    /// Whether datagrams reach it; `None` when the kernel has forgotten it, or has not asked yet.
    pub reachability: Option<NextHop>,
    /// Whether it has not been heard of for a while: the kernel asks it again only before it sends something to it.
    pub is_stale: bool,
}

/// Where frames to `remote` go on a link that needs no neighbour: to the group's address (RFC 1112 section 6.4,
/// RFC 2464 section 7), else to our own, as the kernel does (`arp_constructor` in net/ipv4/arp.c).
pub fn without_neighbour(own: Mac, remote: IpAddr) -> Mac {
    match remote {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
        _ => own,
    }
}

impl Netlink {
    /// What the kernel knows about `address` on `device`; `None` when nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn neighbour(&self, device: Ifindex, address: IpAddr) -> io::Result<Option<Neighbour>> {
        let mut question = NeighbourMessage::default();
        question.header.family = family(address);
        question.header.ifindex = device.value();
        question.attributes.push(NeighbourAttribute::Destination(address.into()));
        match self.ask(RouteNetlinkMessage::GetNeighbour(question)).await {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(answer))) => Ok(Neighbour::read(&answer)),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel ask for the link-layer address of `next_hop`, if it does not know it. `remote` is reached by
    /// it from `local`.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn ask_for_neighbour(
        &self,
        device: Ifindex,
        next_hop: IpAddr,
        local: IpAddr,
        remote: IpAddr,
    ) -> io::Result<()> {
        let by_datagram = || socket_to(local, remote, DISCARD, Some(device), None)?.send(&[]).map(drop);
        if next_hop.is_ipv6() && !has_link_local_address(device) {
            // Without a packet to send, the kernel asks from the link-local address or not at all (ndisc_solicit in
            // net/ipv6/ndisc.c).
            return by_datagram();
        }
        let asked = self
            .handle
            .neighbours()
            .add(device.value(), next_hop)
            // NTF_USE: as if a packet were sent to it, without one (neigh_add in net/core/neighbour.c).
            .flags(NeighbourFlags::Use)
            .state(NeighbourState::None)
            .replace()
            .execute()
            .await
            .map_err(|error| words(&error));
        match asked {
            // Without CAP_NET_ADMIN an empty datagram does the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => by_datagram(),
            asked => asked,
        }
    }
}

/// Whether `device` has an IPv6 address of link scope that it may ask from; yes when nobody can tell.
fn has_link_local_address(device: Ifindex) -> bool {
    // Of this thread's network namespace.
    let Ok(addresses) = std::fs::read_to_string("/proc/thread-self/net/if_inet6") else { return true };
    addresses.lines().any(|line| is_usable_link_local(line, device))
}

/// Whether this line of `/proc/net/if_inet6` tells of such an address: hexadecimal, the address, interface index, prefix
/// length, scope and flags (`if6_seq_show` in net/ipv6/addrconf.c).
fn is_usable_link_local(line: &str, device: Ifindex) -> bool {
    /// `IPV6_ADDR_LINKLOCAL` of include/net/ipv6.h.
    const LINK_SCOPE: u32 = 0x20;
    /// `IFA_F_TENTATIVE` and `IFA_F_OPTIMISTIC`: somebody else may have it (RFC 4862 section 5.4), nothing is asked from it.
    const NOT_YET: u32 = 0x40 | 0x04;
    let mut fields = line.split_whitespace().skip(1);
    let mut number = || u32::from_str_radix(fields.next()?, 16).ok();
    let (index, _prefix, scope, flags) = (number(), number(), number(), number());
    index == Some(device.value()) && scope == Some(LINK_SCOPE) && flags.is_some_and(|flags| flags & NOT_YET == 0)
}

impl Neighbour {
    pub(super) fn read(message: &NeighbourMessage) -> Option<Self> {
        let device = ifindex(message.header.ifindex)?;
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        let state = message.header.state;
        let (reachability, is_stale) = (reachability(state), state == NeighbourState::Stale);
        Some(Self { device, address: address?, mac, reachability, is_stale })
    }
}

fn reachability(state: NeighbourState) -> Option<NextHop> {
    match state {
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Noarp
        | NeighbourState::Permanent => Some(NextHop::Usable),
        NeighbourState::Incomplete => Some(NextHop::Resolving),
        NeighbourState::Failed => Some(NextHop::Failed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_may_be_somebody_else_s_yet_is_nothing_to_ask_from() {
        let device = Ifindex::new(0x1a).unwrap();
        let line = |index: &str, scope: &str, flags: &str| {
            format!("fe800000000000000200c0fffe000207 {index} 40 {scope} {flags}     eth0")
        };
        for flags in ["80", "00", "20"] {
            assert!(is_usable_link_local(&line("1a", "20", flags), device), "{flags}");
        }
        // Tentative, tentative and permanent, optimistic, refused by a neighbour.
        for flags in ["40", "c0", "84", "c8"] {
            assert!(!is_usable_link_local(&line("1a", "20", flags), device), "{flags}");
        }
        assert!(!is_usable_link_local(&line("1b", "20", "80"), device), "another interface");
        assert!(!is_usable_link_local(&line("1a", "00", "80"), device), "a global address");
        assert!(!is_usable_link_local("", device) && !is_usable_link_local("fe80 x", device));
    }
}
