//! Which way the kernel would send to an address.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};

use super::links::{Link, ifindex};
use super::netlink::Netlink;
use crate::quantity::{Ifindex, SocketMark};

/// A way to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface it leaves by.
    pub device: Ifindex,
    /// The router, when the address is not on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
    /// Whether the address is one host on a link. Addresses of this host, broadcast and multicast need no neighbour.
    pub unicast: bool,
    /// Whether the kernel's path MTU for it was learnt from ICMP: such a route expires (`rt_fill_info` in net/ipv4/route.c,
    /// `rt6_fill_node` in net/ipv6/route.c).
    pub is_learnt: bool,
}

impl Netlink {
    /// Asks for the route of packets with this `mark` to `to`, from `source` and through `device` where those are set.
    ///
    /// # Errors
    /// The kernel's: `ENETUNREACH` when there is no route, `EHOSTUNREACH` or `EACCES` when a route forbids it, `EINVAL`
    /// when `source` is no address of this host.
    pub async fn route(
        &self,
        to: IpAddr,
        source: Option<IpAddr>,
        device: Option<Ifindex>,
        mark: Option<SocketMark>,
    ) -> io::Result<Route> {
        let route = self.ask_for_route(to, source, device, mark).await?;
        // Where a source is given, IPv6 only prefers the device, unless a socket is bound to it
        // (`ip6_route_output_flags` in net/ipv6/route.c). Ours are: without the source the answer is theirs.
        match device {
            Some(device) if source.is_some() && route.device != device => {
                self.ask_for_route(to, None, Some(device), mark).await
            }
            _ => Ok(route),
        }
    }

    async fn ask_for_route(
        &self,
        to: IpAddr,
        source: Option<IpAddr>,
        device: Option<Ifindex>,
        mark: Option<SocketMark>,
    ) -> io::Result<Route> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(to);
        question.header.destination_prefix_length = bits(to);
        question.attributes.push(RouteAttribute::Destination(to.into()));
        if let Some(source) = source {
            question.header.source_prefix_length = bits(source);
            question.attributes.push(RouteAttribute::Source(source.into()));
        }
        if let Some(device) = device {
            question.attributes.push(RouteAttribute::Oif(device.value()));
        }
        question.attributes.extend(mark.map(|mark| RouteAttribute::Mark(mark.value())));
        match self.ask(RouteNetlinkMessage::GetRoute(question)).await? {
            Some(RouteNetlinkMessage::NewRoute(answer)) => Route::read(&answer),
            _ => Err(io::Error::other("the kernel does not say which way")),
        }
    }
}

impl Route {
    /// Whether what leaves by `link` on this route needs a neighbour's link-layer address.
    pub fn needs_neighbour(&self, link: Option<&Link>) -> bool {
        self.unicast && link.is_none_or(|link| link.needs_neighbour)
    }

    pub(super) fn read(message: &RouteMessage) -> io::Result<Self> {
        let (mut device, mut gateway, mut source, mut is_learnt) = (None, None, None, false);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => device = ifindex(*index),
                RouteAttribute::Gateway(address) => gateway = plain(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => source = plain(address),
                RouteAttribute::CacheInfo(cache) => is_learnt = cache.expires != 0,
                _ => {}
            }
        }
        match message.header.kind {
            // IPv6 answers with such a route where IPv4 answers with an error.
            RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit | RouteType::Throw => Err(no_route()),
            kind => Ok(Self {
                device: device.ok_or_else(no_route)?,
                gateway,
                source,
                unicast: matches!(kind, RouteType::Unicast | RouteType::Anycast),
                is_learnt,
            }),
        }
    }
}

fn no_route() -> io::Error {
    nix::errno::Errno::ENETUNREACH.into()
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

pub(super) fn family(address: IpAddr) -> rtnetlink::packet_route::AddressFamily {
    match address {
        IpAddr::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
    }
}
