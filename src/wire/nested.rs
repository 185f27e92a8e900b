//! IP packets inside the tunnel packets of a host: VXLAN, Geneve, GRE and IP in IP.
//!
//! A host that encapsulates leaves offloads unfinished on the inside too, and its device then segments and sums through
//! the tunnel headers. What is found here is only ever used to repair such packets: a port number is a good hint, and
//! everything that is changed has to agree with it first.

use super::ethernet::HEADER_LEN;
use super::layers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, GRE, Ip, Layers, UDP, u16_at};

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
        let mut nested = Self::only(outermost);
        let mut packet = outermost;
        while nested.count < MOST_NESTED
            && let Some(inner) = inside(bytes, &packet)
        {
            nested.packets[nested.count] = inner;
            nested.count += 1;
            packet = inner;
        }
        nested
    }

    /// The packets, outermost first.
    pub fn packets(&self) -> &[Ip] {
        &self.packets[..self.count]
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

/// The packet that `outer`, a packet of `bytes`, carries, if it is a tunnel packet.
fn inside(bytes: &[u8], outer: &Ip) -> Option<Ip> {
    const IP_IN_IP: u8 = 4;
    const IPV6_IN_IP: u8 = 41;
    /// VXLAN's port, and the one that Linux used before there was a standard.
    const VXLAN: [u16; 2] = [4789, 8472];
    const GENEVE: u16 = 6081;

    if outer.fragment != Fragment::Whole {
        return None;
    }
    let bytes = bytes.get(..outer.end.min(bytes.len()))?;
    match outer.protocol {
        UDP => {
            let payload = outer.payload?;
            match u16_at(bytes, outer.transport + 2)? {
                port if VXLAN.contains(&port) => behind_vxlan(bytes, payload),
                GENEVE => behind_geneve(bytes, payload),
                _ => None,
            }
        }
        GRE => behind_gre(bytes, outer.transport),
        IP_IN_IP | IPV6_IN_IP => Ip::parse(bytes, outer.transport),
        _ => None,
    }
}

/// RFC 7348 section 5: the I flag says that this is VXLAN with an Ethernet frame behind it.
fn behind_vxlan(bytes: &[u8], start: usize) -> Option<Ip> {
    (bytes.get(start)? & 0x08 != 0).then(|| in_ethernet(bytes, start + 8))?
}

/// RFC 8926 section 3.4.
fn behind_geneve(bytes: &[u8], start: usize) -> Option<Ip> {
    let version_and_length = bytes.get(start)?;
    let options = usize::from(version_and_length & 0x3f) * 4;
    (version_and_length >> 6 == 0)
        .then(|| behind_protocol_type(bytes, u16_at(bytes, start + 2)?, start + 8 + options))?
}

/// RFC 2784 and 2890.
fn behind_gre(bytes: &[u8], start: usize) -> Option<Ip> {
    let flags = u16_at(bytes, start)?;
    if flags & !(GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE) != 0 {
        return None;
    }
    let optional = 4 * (flags & (GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE)).count_ones() as usize;
    behind_protocol_type(bytes, u16_at(bytes, start + 2)?, start + 4 + optional)
}

/// GRE flag: a checksum over everything behind the outer IP header is there.
pub const GRE_CHECKSUM: u16 = 0x8000;
/// GRE flag: a key is there.
pub const GRE_KEY: u16 = 0x2000;
/// GRE flag: a sequence number is there.
pub const GRE_SEQUENCE: u16 = 0x1000;

fn behind_protocol_type(bytes: &[u8], protocol_type: u16, start: usize) -> Option<Ip> {
    const TRANSPARENT_ETHERNET_BRIDGING: u16 = 0x6558;
    match protocol_type {
        TRANSPARENT_ETHERNET_BRIDGING => in_ethernet(bytes, start),
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ip::parse(bytes, start),
        _ => None,
    }
}

/// The packet in the Ethernet frame at `start`.
fn in_ethernet(bytes: &[u8], start: usize) -> Option<Ip> {
    let frame = bytes.get(start..).filter(|frame| frame.len() > HEADER_LEN)?;
    let packet = Layers::parse(frame).ip?;
    Some(Ip {
        start: packet.start + start,
        end: packet.end + start,
        transport: packet.transport + start,
        payload: packet.payload.map(|payload| payload + start),
        ..packet
    })
}
