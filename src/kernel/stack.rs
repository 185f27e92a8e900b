//! Tunnels of this host that a route goes through before its packets leave by a wire.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoGeneve, InfoGre, InfoGre6, InfoIpTunnel, InfoVxlan, InfoXfrm, LinkAttribute, LinkInfo, LinkMessage,
};

use super::links::{Link, ifindex};
use super::locate::Kernel;
use super::nearby::below;
use super::netlink::Netlink;
use super::underlay::Underlay;
use crate::config::defaults::{GENEVE_PORT, VXLAN_PORT};
use crate::quantity::Ifindex;

/// More tunnels inside each other than any host has.
const MOST: usize = 8;

/// A tunnel device of this host: it wraps what is sent by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapper {
    /// Its number.
    pub index: Ifindex,
    /// Its name.
    pub device: String,
    /// The kernel's word for what it is: `vxlan`, `wireguard`, `tun`, …
    pub kind: String,
    /// What its packets look like.
    pub outer: Outer,
    /// The address that they are sent from, where the kernel tells it.
    pub local: Option<IpAddr>,
    /// The interface that they leave by; `None` where the kernel does not tell it.
    pub by: Option<Ifindex>,
}

/// What the packets of a tunnel device look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// UDP to this port; to this address, where it is the only one.
    Udp {
        /// The far end.
        remote: Option<IpAddr>,
        /// Its port.
        port: u16,
    },
    /// An IP protocol.
    Ip {
        /// The far end.
        remote: Option<IpAddr>,
        /// The protocol's number.
        protocol: u8,
    },
    /// `IPsec`: ESP, plain or in UDP.
    Ipsec,
    /// Encrypted frames (IEEE 802.1AE).
    MacSec,
    /// Frames of a PPP session over Ethernet.
    Pppoe,
    /// UDP to peers that only the device's own program or protocol knows.
    Peers,
    /// Whatever a program in user space makes of them.
    Program,
}

impl Kernel {
    /// The tunnel devices that each of `ways` leads through, from the analyzer's route on.
    pub async fn wrappers<'a>(&self, ways: impl IntoIterator<Item = Option<&'a Underlay>>) -> Vec<Vec<Wrapper>> {
        let (netlink, links) = self.parts();
        let mut all = Vec::new();
        for way in ways {
            all.push(match way.and_then(Underlay::device) {
                Some(device) => netlink.wrappers_of(links, device).await,
                None => Vec::new(),
            });
        }
        all
    }
}

impl Netlink {
    async fn wrappers_of(&self, links: &[Link], device: Ifindex) -> Vec<Wrapper> {
        let mut wrappers: Vec<Wrapper> = Vec::new();
        let mut devices = vec![device];
        while let Some(device) = devices.pop()
            && wrappers.len() < MOST
        {
            for index in below(links, device) {
                let Some(link) = links.iter().find(|link| link.index == index) else { continue };
                // A TAP device in a bridge is a virtual machine's port as a rule, not a way to the network.
                let is_port_of_a_machine = index != device && link.kind.as_deref() == Some("tun");
                if is_port_of_a_machine || wrappers.iter().any(|known| known.index == index) {
                    continue;
                }
                let wrapper = self.wrapper(link).await;
                devices.extend(wrapper.as_ref().and_then(|wrapper| wrapper.by));
                wrappers.extend(wrapper);
            }
        }
        wrappers
    }

    /// What `link` wraps its packets in, if it does.
    async fn wrapper(&self, link: &Link) -> Option<Wrapper> {
        let kind = link.kind.clone()?;
        // As far as the kind tells it: a bridge may have hundreds of ports that are no tunnels.
        let mut outer = match kind.as_str() {
            "vxlan" => Outer::Udp { remote: None, port: VXLAN_PORT },
            "geneve" => Outer::Udp { remote: None, port: GENEVE_PORT },
            "gre" | "gretap" | "erspan" | "ip6gre" | "ip6gretap" | "ip6erspan" => {
                Outer::Ip { remote: None, protocol: 47 }
            }
            "ipip" => Outer::Ip { remote: None, protocol: 4 },
            "sit" | "ip6tnl" => Outer::Ip { remote: None, protocol: 41 },
            "xfrm" | "vti" | "vti6" => Outer::Ipsec,
            "macsec" => Outer::MacSec,
            "ppp" => Outer::Pppoe,
            "wireguard" | "ovpn" | "l2tpeth" | "gtp" | "bareudp" | "amt" => Outer::Peers,
            "tun" => Outer::Program,
            _ => return None,
        };
        let Told { remote, local, port, lower } = self.told_of(link.index).await.unwrap_or_default();
        match &mut outer {
            Outer::Udp { remote: to, port: at } => (*to, *at) = (remote, port.unwrap_or(*at)),
            Outer::Ip { remote: to, .. } => *to = remote,
            Outer::Ipsec | Outer::MacSec | Outer::Pppoe | Outer::Peers | Outer::Program => {}
        }
        let by = match (lower.or(link.lower), remote) {
            (Some(lower), _) => Some(lower),
            (None, Some(remote)) => self.route(remote, local, None, None).await.ok().map(|route| route.device),
            (None, None) => None,
        };
        Some(Wrapper { index: link.index, device: link.name.clone(), kind, outer, local, by })
    }

    async fn told_of(&self, index: Ifindex) -> io::Result<Told> {
        let mut question = LinkMessage::default();
        question.header.index = index.value();
        match self.ask(RouteNetlinkMessage::GetLink(question)).await? {
            Some(RouteNetlinkMessage::NewLink(answer)) => Ok(Told::read(&answer)),
            _ => Ok(Told::default()),
        }
    }
}

/// What the kernel tells of a tunnel device.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    remote: Option<IpAddr>,
    local: Option<IpAddr>,
    port: Option<u16>,
    lower: Option<Ifindex>,
}

impl Told {
    fn read(message: &LinkMessage) -> Self {
        let mut told = Self::default();
        let infos = message.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
        for info in infos.flatten() {
            match info {
                LinkInfo::Data(InfoData::Vxlan(infos)) => infos.iter().for_each(|info| told.vxlan(info)),
                LinkInfo::Data(InfoData::Geneve(infos)) => infos.iter().for_each(|info| told.geneve(info)),
                LinkInfo::Data(InfoData::GreTun(infos) | InfoData::GreTap(infos) | InfoData::ErSpan(infos)) => {
                    for info in infos {
                        told.gre(info);
                    }
                }
                LinkInfo::Data(InfoData::GreTun6(infos) | InfoData::GreTap6(infos) | InfoData::Ip6ErSpan(infos)) => {
                    for info in infos {
                        told.gre6(info);
                    }
                }
                LinkInfo::Data(InfoData::IpTunnel(infos)) => infos.iter().for_each(|info| told.ip_tunnel(info)),
                LinkInfo::Data(InfoData::Xfrm(infos)) => {
                    told.lower = infos.iter().find_map(|info| match info {
                        InfoXfrm::Link(link) => ifindex(*link),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        // A group is no address that a route leads to, and 0.0.0.0 stands for any.
        told.remote = told.remote.filter(|remote| !remote.is_multicast() && !remote.is_unspecified());
        told.local = told.local.filter(|local| !local.is_unspecified());
        told
    }

    fn vxlan(&mut self, info: &InfoVxlan) {
        match info {
            InfoVxlan::Group(remote) => self.remote = Some((*remote).into()),
            InfoVxlan::Group6(remote) => self.remote = Some((*remote).into()),
            InfoVxlan::Local(local) => self.local = Some((*local).into()),
            InfoVxlan::Local6(local) => self.local = Some((*local).into()),
            InfoVxlan::Link(link) => self.lower = ifindex(*link),
            InfoVxlan::Port(port) => self.port = Some(*port),
            _ => {}
        }
    }

    fn geneve(&mut self, info: &InfoGeneve) {
        match info {
            InfoGeneve::Remote(remote) => self.remote = Some((*remote).into()),
            InfoGeneve::Remote6(remote) => self.remote = Some((*remote).into()),
            InfoGeneve::Port(port) => self.port = Some(*port),
            _ => {}
        }
    }

    fn gre(&mut self, info: &InfoGre) {
        match info {
            InfoGre::Remote(remote) => self.remote = Some((*remote).into()),
            InfoGre::Local(local) => self.local = Some((*local).into()),
            InfoGre::Link(link) => self.lower = ifindex(*link),
            _ => {}
        }
    }

    fn gre6(&mut self, info: &InfoGre6) {
        match info {
            InfoGre6::Remote(remote) => self.remote = Some((*remote).into()),
            InfoGre6::Local(local) => self.local = Some((*local).into()),
            InfoGre6::Link(link) => self.lower = ifindex(*link),
            _ => {}
        }
    }

    fn ip_tunnel(&mut self, info: &InfoIpTunnel) {
        match info {
            InfoIpTunnel::Remote(remote) => self.remote = Some(*remote),
            InfoIpTunnel::Local(local) => self.local = Some(*local),
            InfoIpTunnel::Link(link) => self.lower = ifindex(*link),
            _ => {}
        }
    }
}
