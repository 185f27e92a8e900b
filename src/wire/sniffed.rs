//! Takes tunnels off frames that were seen on a link, among frames that carry none.
//!
//! [`decapsulate`](super::decapsulate) reads what was sent to an endpoint, where everything is a tunnel. On a link, a
//! port number is only a hint: the datagram may be an answer to a client that has this port. So what comes out of a
//! tunnel has to be plausible, or the frame is left as it is:
//!
//! 1. The header reads as an endpoint would read it.
//! 2. An Ethernet frame has an `EtherType`, or a length that it has room for ([`inner::can_be_ethernet`]).
//! 3. Behind a UDP tunnel header with reserved bits set stands a packet, or a frame with IP or ARP.

use super::decapsulate::{DecapsulateError, Decapsulated, Rules, Tunnel};
use super::inner::{self, ETHERTYPE_MPLS, ETHERTYPE_MPLS_UPSTREAM};
use super::layers::{Fragment, GRE, Ip, Layers, UDP};

/// What came off a frame, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sniffed<'a> {
    /// The frame without the tunnels that were taken off; `None`: none was.
    pub inner: Option<Decapsulated<'a>>,
    /// What may be a tunnel and stays on.
    pub left: Option<Left>,
}

/// Why a tunnel stays on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The packet is an IP fragment of UDP or GRE.
    Fragment,
    /// The header is cut or broken, or announces something that is not taken off, or there are more tunnels than are
    /// ever taken off.
    Header,
}

/// How many tunnels are taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// At most so many.
    pub most: u8,
    /// Whether a further one is worth a count: all were meant.
    pub all: bool,
}

impl Rules {
    /// Takes tunnels off `outer`, an IP packet of `frame`. Of a packet that was cut, the headers have to be there.
    pub fn sniff<'a>(&self, frame: &'a [u8], outer: &Ip, depth: Depth) -> Sniffed<'a> {
        let mut sniffed = Sniffed::default();
        let mut levels = 0;
        loop {
            let next = match &sniffed.inner {
                None => self.take_plausible(frame, outer),
                Some(inner) => self.inside_plausibly(inner),
            };
            match next {
                Ok(_) if levels == depth.most => {
                    sniffed.left = depth.all.then_some(Left::Header);
                    return sniffed;
                }
                Ok(inner) => sniffed.inner = Some(inner),
                Err(left) => {
                    sniffed.left = left;
                    return sniffed;
                }
            }
            levels += 1;
            if levels == depth.most && !depth.all {
                return sniffed;
            }
        }
    }

    /// The tunnel inside what came out of one, if there is one that can be taken off.
    pub fn inside<'a>(&self, taken: &Decapsulated<'a>) -> Option<Decapsulated<'a>> {
        let packet = packet_of(taken)?;
        self.take_from_packet(taken.bytes, &packet).ok().map(|inner| inner.within(taken))
    }

    fn inside_plausibly<'a>(&self, taken: &Decapsulated<'a>) -> Result<Decapsulated<'a>, Option<Left>> {
        let packet = packet_of(taken).ok_or(None)?;
        self.take_plausible(taken.bytes, &packet).map(|inner| inner.within(taken))
    }

    /// The error says what stays on, if that may be a tunnel.
    fn take_plausible<'a>(&self, bytes: &'a [u8], packet: &Ip) -> Result<Decapsulated<'a>, Option<Left>> {
        if !matches!(packet.protocol, UDP | GRE) {
            return Err(None);
        }
        match self.take_from_packet(bytes, packet) {
            Ok(taken) if is_plausible(&taken) => Ok(taken),
            // Control packets are for the tunnel's other end.
            Ok(_) | Err(DecapsulateError::NoTunnel | DecapsulateError::ControlPacket) => Err(None),
            Err(DecapsulateError::Fragment) => Err(self.may_be_one(bytes, packet).then_some(Left::Fragment)),
            Err(_) => Err(Some(Left::Header)),
        }
    }

    /// Whether a fragment may belong to a tunnel's packet. Only the first one tells the port.
    fn may_be_one(&self, bytes: &[u8], packet: &Ip) -> bool {
        let has_port = |(_, port)| self.ports.iter().any(|(at, _)| *at == port);
        packet.protocol == GRE || packet.fragment == Fragment::Later || packet.ports(bytes).is_some_and(has_port)
    }
}

/// The IP packet in what came out of a tunnel.
fn packet_of(taken: &Decapsulated<'_>) -> Option<Ip> {
    match taken.bare {
        None => Layers::parse(taken.bytes).ip,
        Some(ETHERTYPE_MPLS | ETHERTYPE_MPLS_UPSTREAM) => None,
        Some(_) => Ip::parse(taken.bytes, 0),
    }
}

fn is_plausible(taken: &Decapsulated<'_>) -> bool {
    let Decapsulated { tunnel, bytes, missing, notes, .. } = *taken;
    if taken.bare.is_some() {
        return true;
    }
    let is_by_port = !matches!(tunnel, Tunnel::Gre | Tunnel::Erspan1 | Tunnel::Erspan2 | Tunnel::Erspan3);
    // Where the sender cut the frame, nobody knows how long it was.
    let has_room = taken.truncated || inner::can_be_ethernet(bytes, missing);
    bytes.len() >= super::ethernet::HEADER_LEN
        && has_room
        && !(is_by_port && notes.reserved_bits && !inner::is_ethernet_with_ip_or_arp(bytes))
}

impl Decapsulated<'_> {
    /// The same inside what came out of another tunnel: what the outer packet lacks, the inner one lacks too.
    fn within(self, outer: &Self) -> Self {
        Self { missing: self.missing.max(outer.missing), direction: outer.direction.or(self.direction), ..self }
    }
}
