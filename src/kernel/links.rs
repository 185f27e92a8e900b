//! The interfaces of this network namespace.

use std::io;

use futures_util::stream::TryStreamExt as _;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::netlink::{Netlink, words};
use crate::quantity::{Ifindex, Mtu};

/// A MAC address.
pub type Mac = [u8; 6];

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: Ifindex,
    /// Its name.
    pub name: String,
    /// Largest IP packet, in bytes, unless it is outside anything that carries IP.
    pub mtu: Option<Mtu>,
    /// Its MAC address, if it is Ethernet.
    pub mac: Option<Mac>,
    /// Whether it is administratively up.
    pub up: bool,
    /// The kernel's word for what it is (`bridge`, `veth`, `vlan`, …); `None` for hardware.
    pub kind: Option<String>,
    /// The bridge, bond or team that it is a port of.
    pub master: Option<Ifindex>,
    /// The interface of this namespace below it (VLAN, macvlan) or at its other end (veth).
    pub lower: Option<Ifindex>,
    /// Whether what it sends needs a neighbour's link-layer address: not on loopback, point-to-point and `NOARP`.
    pub needs_neighbour: bool,
    /// What went through it.
    pub counters: Counters,
}

/// An interface's rising totals. A super-frame counts as one frame in most drivers, with all its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received frames.
    pub received_frames: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Sent frames.
    pub sent_frames: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
}

impl Netlink {
    /// Every interface, in the kernel's order.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn links(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(|error| words(&error))?;
        Ok(messages.iter().filter_map(Link::read).collect())
    }

    /// The interface with this number, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn link(&self, index: Ifindex) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        question.header.index = index.value();
        match self.ask(RouteNetlinkMessage::GetLink(question)).await {
            Ok(Some(RouteNetlinkMessage::NewLink(answer))) => Ok(Link::read(&answer)),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Link {
    pub(super) fn read(message: &LinkMessage) -> Option<Self> {
        const NO_NEIGHBOUR: LinkFlags = LinkFlags::Loopback.union(LinkFlags::Pointopoint).union(LinkFlags::Noarp);

        let flags = message.header.flags;
        let mut link = Self {
            index: ifindex(message.header.index)?,
            name: String::new(),
            mtu: None,
            mac: None,
            up: flags.contains(LinkFlags::Up),
            kind: None,
            master: None,
            lower: None,
            needs_neighbour: !flags.intersects(NO_NEIGHBOUR),
            counters: Counters::default(),
        };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = Mtu::new(u64::from(*mtu)).ok(),
                LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok(),
                LinkAttribute::Controller(master) => link.master = ifindex(*master),
                LinkAttribute::Link(lower) => link.lower = ifindex(*lower),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                LinkAttribute::Stats64(stats) => {
                    link.counters = Counters {
                        received_frames: stats.rx_packets,
                        received_bytes: stats.rx_bytes,
                        sent_frames: stats.tx_packets,
                        sent_bytes: stats.tx_bytes,
                    };
                }
                _ => {}
            }
        }
        // An index in another namespace names nothing here.
        link.lower = link.lower.filter(|_| !elsewhere);
        Some(link)
    }
}

/// An index as the kernel writes it: 0 is none.
pub(super) fn ifindex(number: u32) -> Option<Ifindex> {
    Ifindex::new(u64::from(number)).ok()
}
