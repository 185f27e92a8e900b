//! From a destination as it is planned to the way that its datagrams take.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::links::{Link, Mac};
use super::neighbours::without_neighbour;
use super::netlink::{Event, Events, Netlink};
use super::path_mtu::{is_local, path_mtu};
use super::routes::Route;
use super::underlay::{EXAMPLE_MACS, NextHop, Underlay};
use super::underlay_error::{UnderlayError, Unreachable};
use super::watch::{Way, hear, look};
use crate::config::plan::{DestinationPlan, End, Host, TransmitPlan, TunnelPlan};
use crate::error::{Explain, Problems};
use crate::quantity::{Ifindex, Mtu};

/// How long a start waits for next hops. The kernel asks again after one second (`retrans_time_ms`), so that one lost
/// question does not matter.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Finds the way to every tunnel destination and makes the kernel learn the next hops' link-layer addresses, so that
/// the first frame is not lost in its neighbour queue. In the order of `destinations`; `None` for those that are no
/// tunnel.
///
/// A next hop that does not answer within a second and a half is no error: it may come up later, and
/// [`watch`](super::watch::watch) will tell.
///
/// # Errors
/// Everything that keeps a destination from being reached at all, for all destinations at once.
pub async fn resolve(destinations: &[DestinationPlan]) -> Result<Vec<Option<Arc<Underlay>>>, Problems> {
    let (underlays, problems) = locate(destinations).await;
    Problems::unless_empty(problems)?;
    let live = destinations.iter().zip(&underlays).filter(|(plan, _)| plan.live_tunnel().is_some());
    let ways: Vec<Way> = live.filter_map(|(_, underlay)| underlay.clone()).map(Way::new).collect();
    learn_next_hops(ways).await.map_err(UnderlayError::Netlink)?;
    Ok(underlays)
}

/// Finds the way to every tunnel destination, as far as there is one, and sends nothing for it: next hops are what the
/// kernel knows already. Beside the ways comes everything that keeps a destination from being reached.
pub async fn locate(destinations: &[DestinationPlan]) -> (Vec<Option<Arc<Underlay>>>, Vec<Box<dyn Explain>>) {
    if destinations.iter().all(DestinationPlan::is_local) {
        return (vec![None; destinations.len()], Vec::new());
    }
    match Kernel::ask().await {
        Ok(kernel) => kernel.locate(destinations).await,
        Err(error) => (vec![None; destinations.len()], vec![UnderlayError::Netlink(error).into()]),
    }
}

/// A conversation with the kernel in which many ways may be asked for, and the links as they were when it began.
#[derive(Debug)]
pub struct Kernel {
    netlink: Netlink,
    links: Vec<Link>,
}

impl Kernel {
    /// Begins the conversation.
    ///
    /// # Errors
    /// When the kernel refuses the socket or does not tell the links.
    pub async fn ask() -> io::Result<Self> {
        let netlink = Netlink::open()?;
        let links = netlink.links().await?;
        Ok(Self { netlink, links })
    }

    /// The conversation, and the links.
    pub(super) fn parts(&self) -> (&Netlink, &[Link]) {
        (&self.netlink, &self.links)
    }

    /// The links as they were when the conversation began.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// As [`locate`].
    pub async fn locate(
        &self,
        destinations: &[DestinationPlan],
    ) -> (Vec<Option<Arc<Underlay>>>, Vec<Box<dyn Explain>>) {
        let Self { netlink, links } = self;
        locate_each(netlink, links, destinations).await
    }
}

async fn locate_each(
    netlink: &Netlink,
    links: &[Link],
    destinations: &[DestinationPlan],
) -> (Vec<Option<Arc<Underlay>>>, Vec<Box<dyn Explain>>) {
    let (mut underlays, mut problems) = (Vec::with_capacity(destinations.len()), Vec::<Box<dyn Explain>>::new());
    for destination in destinations {
        underlays.push(match &destination.end {
            End::Tap(_) | End::File(_) => None,
            End::Tunnel(tunnel) => match locate_one(netlink, links, tunnel).await {
                Ok(underlay) => Some(Arc::new(underlay)),
                Err(error) => {
                    problems.push(Unreachable { destination: destination.place(), error }.into());
                    None
                }
            },
        });
    }
    (underlays, problems)
}

async fn locate_one(netlink: &Netlink, links: &[Link], tunnel: &TunnelPlan) -> Result<Underlay, UnderlayError> {
    let (remote, _) = addresses_of(&tunnel.host, tunnel.source).await?;
    match (real_way(netlink, links, tunnel, remote).await, &tunnel.transmit) {
        (Ok(underlay), _) => Ok(underlay.with_source_chosen(tunnel.source.is_some())),
        (Err(error), TransmitPlan::Socket | TransmitPlan::Xdp { .. }) => Err(error),
        (Err(error), TransmitPlan::CaptureFile(_)) => {
            let local = tunnel.source.unwrap_or_else(|| example_source(remote));
            info!("{error}: the dry run assumes source address {local} and MTU {}", Mtu::ETHERNET);
            let way = Underlay::new(remote, local, None, Mtu::ETHERNET, NextHop::Usable);
            Ok(way.with_mtu(tunnel.mtu, tunnel.mtu_floor))
        }
    }
}

/// The first address that the resolver offers, and all of them, of the IP version of `source` where that is set.
pub(super) async fn addresses_of(host: &Host, source: Option<IpAddr>) -> Result<(IpAddr, Vec<IpAddr>), UnderlayError> {
    let (name, addresses) = match host {
        Host::Address(address) => (address.to_string(), vec![*address]),
        Host::Name(name) => match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(sockets) => (name.clone(), sockets.map(|socket| socket.ip()).collect()),
            Err(cause) => return Err(UnderlayError::Unresolvable { name: name.clone(), cause }),
        },
    };
    let is_usable = |address: &IpAddr| source.is_none_or(|from| from.is_ipv4() == address.is_ipv4());
    let usable: Vec<IpAddr> = addresses.into_iter().filter(is_usable).collect();
    match (usable.first().copied(), source) {
        (Some(first), _) => Ok((first, usable)),
        (None, Some(from)) => Err(UnderlayError::OtherIpVersion { host: name, from }),
        (None, None) => {
            let cause = io::Error::new(io::ErrorKind::NotFound, "the resolver knows the name, but no address of it");
            Err(UnderlayError::Unresolvable { name, cause })
        }
    }
}

async fn real_way(
    netlink: &Netlink,
    links: &[Link],
    tunnel: &TunnelPlan,
    remote: IpAddr,
) -> Result<Underlay, UnderlayError> {
    let bound = tunnel.device.as_deref().map(|name| named(links, name)).transpose()?;
    if let Some(source) = tunnel.source.filter(|&source| !is_local(source, bound)) {
        return Err(UnderlayError::ForeignSource(source));
    }
    let no_route = |cause| UnderlayError::NoRoute { remote, device: tunnel.device.clone(), cause };
    let route = netlink.route(remote, tunnel.source, bound, tunnel.mark).await.map_err(no_route)?;
    let own_frames = tunnel.transmit.is_xdp();
    let link = links.iter().find(|link| link.index == route.device);
    if own_frames && let Some(link) = link.filter(|link| link.mac.is_none()) {
        return Err(UnderlayError::NotEthernet { device: link.name.clone() });
    }
    let local = tunnel.source.or(route.source).unwrap_or_else(|| unspecified(remote));
    let mtu = path_mtu(local, remote, bound, tunnel.mark).map_err(no_route)?;
    // What somebody reported before the start is believed no more than what comes later.
    let device_mtu = link.and_then(|link| link.mtu).unwrap_or(mtu);
    let mtu = if route.is_learnt { mtu.max(tunnel.mtu_floor.min(device_mtu)) } else { mtu };
    let (ethernet, next_hop) = first_look(netlink, link, &route, remote).await.map_err(UnderlayError::Netlink)?;
    let underlay = Underlay::new(remote, local, Some(route.device), mtu, next_hop);
    let runs_are_cut = netlink.runs_are_cut(route.device).await;
    let underlay = underlay.bound_to(bound).with_mark(tunnel.mark).with_mtu(tunnel.mtu, tunnel.mtu_floor);
    underlay.look_around(links);
    Ok(underlay.with_ethernet(ethernet).with_own_frames(own_frames).with_runs_cut(runs_are_cut))
}

/// Outer MAC addresses and the state of the next hop, as far as the kernel knows them without asking anybody.
async fn first_look(
    netlink: &Netlink,
    link: Option<&Link>,
    route: &Route,
    remote: IpAddr,
) -> io::Result<((Mac, Mac), NextHop)> {
    let own_mac = link.and_then(|link| link.mac).unwrap_or(EXAMPLE_MACS.0);
    if !route.needs_neighbour(link) {
        return Ok(((own_mac, without_neighbour(own_mac, remote)), NextHop::Usable));
    }
    let neighbour = netlink.neighbour(route.device, route.gateway.unwrap_or(remote)).await?;
    let next_hop = neighbour.and_then(|known| known.reachability).unwrap_or(NextHop::Resolving);
    let next_mac = neighbour.and_then(|known| known.mac).unwrap_or(EXAMPLE_MACS.1);
    Ok(((own_mac, next_mac), next_hop))
}

fn named(links: &[Link], name: &str) -> Result<Ifindex, UnderlayError> {
    links.iter().find(|link| link.name == name).map(|link| link.index).ok_or_else(|| UnderlayError::NoSuchDevice {
        name: name.to_owned(),
        present: links.iter().map(|link| link.name.clone()).collect(),
    })
}

/// An address for documentation (RFC 5737, RFC 3849): the dry run sends from it when there is no route.
fn example_source(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn unspecified(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Makes the kernel ask for the next hops' addresses and waits until it knows all of them, or patience ends.
async fn learn_next_hops(mut ways: Vec<Way>) -> io::Result<()> {
    if ways.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut events = Events::subscribe()?;
    look(&mut ways, events.netlink()).await;
    while ways.iter().any(|way| !way.is_usable()) {
        match timeout_at(deadline, events.next()).await {
            Ok(Some(Event::Neighbour(neighbour))) => hear(&mut ways, neighbour, events.netlink()).await,
            Ok(Some(Event::Topology)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    for way in ways.iter().filter(|way| !way.is_usable()) {
        warn!("{way} does not answer yet: frames for it are dropped until it does");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestNamespace;
    use super::*;
    use crate::config::plan::{Encapsulation, FilePath, Ids};
    use crate::error::ExitCode;
    use crate::quantity::{Vni, Weight};

    fn tunnel_to(host: &str) -> TunnelPlan {
        let host = host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Address);
        TunnelPlan::with_defaults(Encapsulation::Vxlan { vni: Ids::all(Vni::new(7).unwrap()), port: 4789 }, host)
    }

    fn destination(tunnel: TunnelPlan) -> DestinationPlan {
        DestinationPlan {
            name: "1".to_owned(),
            to: "vxlan://…?vni=7".to_owned(),
            weight: Weight::default(),
            end: End::Tunnel(tunnel),
        }
    }

    fn resolve_in(namespace: &TestNamespace, tunnels: Vec<TunnelPlan>) -> Result<Vec<Arc<Underlay>>, Problems> {
        let destinations: Vec<_> = tunnels.into_iter().map(destination).collect();
        namespace
            .run_async(async move { resolve(&destinations).await })
            .map(|underlays| underlays.into_iter().flatten().collect())
    }

    fn neighbour_state(namespace: &TestNamespace, address: &str) -> String {
        namespace.output(&format!("ip -j neigh show {address}"))
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_gateway_is_resolved_before_the_first_frame() {
        let (tapped, _analyzer) = TestNamespace::pair();
        tapped.ip("route add 203.0.113.0/24 via 192.0.2.2");
        tapped.ip("-6 route add 2001:db8:9::/48 via 2001:db8::2");
        assert_eq!(neighbour_state(&tapped, "192.0.2.2"), "[]");

        let ways = resolve_in(&tapped, vec![tunnel_to("203.0.113.9"), tunnel_to("2001:db8:9::9")]).unwrap();

        for (way, local) in ways.iter().zip(["192.0.2.1", "2001:db8::1"]) {
            assert_eq!(way.local(), local.parse::<IpAddr>().unwrap());
            assert_eq!(way.next_hop(), NextHop::Usable, "{way:?} {}", tapped.output("ip neigh"));
            assert_eq!(way.mtu().value(), 1500);
            assert!(way.device().is_some());
        }
        for gateway in ["192.0.2.2", "2001:db8::2"] {
            assert!(neighbour_state(&tapped, gateway).contains("REACHABLE"), "{gateway}");
        }
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn the_mac_addresses_of_the_dry_run_are_the_real_ones_where_they_are_known() {
        let (tapped, analyzer) = TestNamespace::pair();
        resolve_in(&tapped, vec![tunnel_to("192.0.2.2")]).unwrap();
        let way = resolve_in(&tapped, vec![tunnel_to("192.0.2.2")]).unwrap().remove(0);
        let (source, destination) = way.ethernet();
        let written = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
        let links = |namespace: &TestNamespace| namespace.output("ip -j link show fke0");
        assert!(links(&tapped).contains(&written(source)));
        assert!(links(&analyzer).contains(&written(destination)));
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn every_destination_that_cannot_be_reached_is_named_with_a_hint() {
        let (tapped, _analyzer) = TestNamespace::pair();
        let device = |name: &str| Some(name.to_owned());
        let problems = resolve_in(
            &tapped,
            vec![
                tunnel_to("198.51.100.1"),
                tunnel_to("2001:db8:ffff::1"),
                tunnel_to("fe80::1"),
                tunnel_to("analyzer.invalid"),
                TunnelPlan { source: Some("192.0.2.77".parse().unwrap()), ..tunnel_to("192.0.2.2") },
                TunnelPlan { device: device("fke9"), ..tunnel_to("192.0.2.2") },
                TunnelPlan { source: Some("192.0.2.1".parse().unwrap()), ..tunnel_to("2001:db8::2") },
            ],
        )
        .unwrap_err();
        assert_eq!(problems.exit_code(), ExitCode::NoInput);
        let text = problems.to_string();
        for line in [
            "error: no route to 198.51.100.1\n  where: destination 1 (vxlan://…?vni=7)\n  cause: Network is unreachable \
             (os error 101)\n  hint:  see what `ip route get 198.51.100.1` says",
            "error: no route to 2001:db8:ffff::1\n",
            "hint:  a link-local address is on some link: say which with `device`\n",
            "error: cannot resolve \"analyzer.invalid\"\n",
            "error: the source address 192.0.2.77 is not an address of this host\n",
            "error: no interface \"fke9\" to send through\n",
            "hint:  interfaces here are lo, fke0",
            "error: \"2001:db8::2\" has no address of the same IP version as the source address 192.0.2.1\n",
        ] {
            assert!(text.contains(line), "{line}\nis missing in\n{text}");
        }
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_dry_run_needs_no_route() {
        let nowhere = TestNamespace::new();
        let dry = TransmitPlan::CaptureFile(FilePath::Standard);
        let ways = resolve_in(
            &nowhere,
            vec![
                TunnelPlan { transmit: dry.clone(), ..tunnel_to("203.0.113.9") },
                TunnelPlan { transmit: dry, device: Some("eth7".to_owned()), ..tunnel_to("2001:db8:9::9") },
            ],
        )
        .unwrap();
        assert_eq!(ways[0].local(), "192.0.2.1".parse::<IpAddr>().unwrap());
        assert_eq!(ways[1].local(), "2001:db8::1".parse::<IpAddr>().unwrap());
        assert!(ways.iter().all(|way| way.next_hop() == NextHop::Usable && way.mtu() == Mtu::ETHERNET));
    }

    #[tokio::test]
    async fn this_host_itself_needs_no_neighbour() {
        let ways = resolve(&[destination(tunnel_to("127.0.0.1"))]).await.unwrap();
        let way = ways[0].as_ref().unwrap();
        assert_eq!(way.local(), "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!((way.next_hop(), way.mtu().value()), (NextHop::Usable, 65_535));
    }
}
