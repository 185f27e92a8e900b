//! IP packets inside the tunnel packets of a host: VXLAN, Geneve, GRE and IP in IP.
//!
//! A host that encapsulates leaves offloads unfinished on the inside too, and its device then segments and sums through
//! the tunnel headers. What is found here is only ever used to repair such packets: a port number is a good hint, and
//! everything that is changed has to agree with it first.

use super::ethernet::HEADER_LEN;
use super::geneve::Geneve;
use super::gre::{self, TRANSPARENT_ETHERNET};
use super::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, GRE, Ip, Layers, UDP, u16_at};
use super::shim::Lengths;
use super::vxlan::Vxlan;

/// How many IP headers are followed: pod network, tenant network, provider network and one more.
pub const MOST_NESTED: usize = 4;

/// IP packets, each inside the one before, outermost first. Never empty.
#[derive(Clone, Copy, Debug)]
pub struct Nested {
    packets: [Ip; MOST_NESTED],
    count: usize,
}

impl Nested {
    /// Only `packet`, whatever is inside.
    pub fn only(packet: Ip) -> Self {
        Self { packets: [packet; MOST_NESTED], count: 1 }
    }

    /// `outermost`, a packet of `bytes`, and all that is inside it.
    pub fn within(bytes: &[u8], outermost: Ip) -> Self {
        let mut nested = Self { count: 0, ..Self::only(outermost) };
        for (place, packet) in nested.packets.iter_mut().zip(from_outermost(bytes, outermost)) {
            *place = packet;
            nested.count += 1;
        }
        nested
    }

    /// The same packets down to the one whose transport header begins at `transport`.
    pub fn down_to(self, transport: usize) -> Option<Self> {
        let level = self.packets().iter().position(|packet| packet.transport == transport)?;
        Some(Self { count: level + 1, ..self })
    }

    /// The packets, outermost first.
    pub fn packets(&self) -> &[Ip] {
        &self.packets[..self.count]
    }

    /// The same packets, all of which end at `end`, whatever their length fields say.
    #[must_use]
    pub fn ending_at(mut self, end: usize) -> Self {
        for packet in &mut self.packets {
            packet.end = end;
        }
        self
    }

    /// The same packets in a buffer that lacks `bytes` bytes behind the outermost IP header.
    #[must_use]
    pub fn without(mut self, bytes: usize) -> Self {
        self.packets[0] = Ip { start: self.packets[0].start + bytes, ..self.packets[0] };
        for packet in &mut self.packets {
            *packet = Ip {
                start: packet.start - bytes,
                end: packet.end - bytes,
                transport: packet.transport - bytes,
                payload: packet.payload.map(|payload| payload - bytes),
                ..*packet
            };
        }
        self
    }
}

/// `outermost`, a packet of `bytes`, then the packet inside it, and so on, each one looked for before it is asked for.
pub fn from_outermost(bytes: &[u8], outermost: Ip) -> impl Iterator<Item = Ip> {
    std::iter::successors(Some(outermost), |packet| inside(bytes, packet)).take(MOST_NESTED)
}

/// The packet that `outer`, a packet of `bytes`, carries, if it is a tunnel packet.
fn inside(bytes: &[u8], outer: &Ip) -> Option<Ip> {
    const IP_IN_IP: u8 = 4;
    const IPV6_IN_IP: u8 = 41;

    if outer.fragment != Fragment::Whole {
        return None;
    }
    let bytes = bytes.get(..outer.end.min(bytes.len()))?;
    match outer.protocol {
        UDP => {
            let payload = bytes.get(outer.payload?..)?;
            let frame = match u16_at(bytes, outer.transport + 2)? {
                Vxlan::PORT | Vxlan::LINUX_PORT => Vxlan::parse(payload).ok()?.1,
                Geneve::PORT => Geneve::parse(payload).ok()?.1,
                _ => return None,
            };
            in_ethernet(bytes, bytes.len() - frame.len())
        }
        GRE => behind_gre(bytes, outer.transport),
        IP_IN_IP | IPV6_IN_IP => Ip::parse(bytes, outer.transport),
        _ => None,
    }
}

/// The packet behind the GRE header at `start`.
fn behind_gre(bytes: &[u8], start: usize) -> Option<Ip> {
    let (gre, payload) = gre::Received::parse(bytes.get(start..)?).ok().filter(|(gre, _)| !gre.reserved_bits)?;
    let payload = bytes.len() - payload.len();
    match gre.header.protocol {
        TRANSPARENT_ETHERNET => in_ethernet(bytes, payload),
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ip::parse(bytes, payload),
        _ => None,
    }
}

/// The packet in the Ethernet frame at `start`.
fn in_ethernet(bytes: &[u8], start: usize) -> Option<Ip> {
    let frame = bytes.get(start..).filter(|frame| frame.len() > HEADER_LEN)?;
    let packet = Layers::parse(frame).ip?;
    // Only the outermost frame's length fields are rewritten.
    if !Lengths::of(frame, packet.start, packet.end).is_empty() {
        return None;
    }
    Some(packet.behind(start))
}
