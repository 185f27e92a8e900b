//! From one outer packet to the frame inside: allowed? a tunnel? wanted? counted, unwrapped, tagged, filtered.

use std::net::IpAddr;

use super::super::bpf::Program;
use super::super::error::SourceError;
use super::super::filter;
use super::merged::MergeWatch;
use super::senders::SenderTable;
use crate::config::defaults::MOST_TUNNELS;
use crate::config::plan::{Decap, EndpointPlan, SessionPlan, Tag, Takes, TunnelsPlan};
use crate::frame::{Frame, InterfaceId, Offload, Unfinished};
use crate::ledger::{DropReason, SenderLedger};
use crate::quantity::{Prefix, Timestamp};
use crate::wire::decapsulate::{DecapsulateError, Decapsulated, Rules, Tunnel};
use crate::wire::ethernet::VLAN_TAG_LEN;
use crate::wire::layers::{Ip, Layers};

/// TPID of an 802.1Q tag.
const TPID: u16 = 0x8100;
/// VLAN number in a tag.
const VLAN: u32 = 0x0fff;

/// What becomes of each outer packet of one endpoint.
pub struct Receiver {
    endpoints: Vec<EndpointPlan>,
    allow: Vec<Prefix>,
    rules: Rules,
    decap: Decap,
    tag: Tag,
    /// The operator's filter, for the frames inside.
    filter: Option<Program>,
    offload: Offload,
    interface: InterfaceId,
    senders: SenderTable,
    /// Tells what GRO merged; none where it merges nothing, and for a capture file.
    merges: Option<MergeWatch>,
    /// Where frames are put together that do not stand in the packet as they go on; claimed at start.
    scratch: Vec<u8>,
}

/// An outer packet, before anybody has looked inside.
#[derive(Clone, Copy, Debug)]
pub struct OuterPacket<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What they begin with.
    pub begins: Begins,
    /// Who sent it.
    pub from: IpAddr,
    /// When it came.
    pub timestamp: Timestamp,
}

/// What the bytes of an outer packet begin with.
#[derive(Clone, Copy, Debug)]
pub enum Begins {
    /// The header of this tunnel: the payload of a UDP socket.
    Datagram(Tunnel),
    /// A GRE header: what a raw IPv6 socket gives.
    Gre,
    /// Somewhere in them is this IP packet: what a raw IPv4 socket gives, or a capture file.
    Ip(Ip),
}

/// A frame that came out of its tunnel, and where its stream is in the table of senders.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The frame.
    pub frame: Frame<'a>,
    /// Its stream and its number there, if it has both.
    pub place: Option<(usize, u32)>,
}

impl Receiver {
    /// A receiver of what `endpoints` want. Without any of them, everything.
    ///
    /// # Errors
    /// When the filter is wrong.
    pub fn new(
        tunnels: &TunnelsPlan,
        endpoints: Vec<EndpointPlan>,
        plan: &SessionPlan,
        interface: InterfaceId,
    ) -> Result<Self, SourceError> {
        /// The longest frame that libpcap hands over, with a header and two tags in front.
        const LONGEST: usize = super::super::link_type::LARGEST_FRAME + 32;

        let ports = endpoints.iter().filter_map(|endpoint| match endpoint.takes {
            Takes::Only(tunnel) if endpoint.port != 0 => Some((endpoint.port, tunnel)),
            Takes::Only(_) | Takes::AnyErspan => None,
        });
        let standard = Rules { strict: tunnels.strict, ..Rules::default() };
        let rules = if endpoints.is_empty() { standard } else { Rules { ports: ports.collect(), ..standard } };
        let offload =
            if plan.normalise.enabled { Offload::Unknown { mtu: plan.normalise.mtu } } else { Offload::Whole };
        Ok(Self {
            endpoints,
            allow: tunnels.allow.clone(),
            rules,
            decap: tunnels.decap,
            tag: tunnels.tag,
            filter: filter::of_ethernet(&plan.filter)?,
            offload,
            interface,
            senders: SenderTable::new(interface, &tunnels.allow),
            merges: None,
            scratch: Vec::with_capacity(LONGEST),
        })
    }

    /// Cuts back what the kernel has merged on the way to a socket.
    #[must_use]
    pub fn unmerging(self, merges: Option<MergeWatch>) -> Self {
        Self { merges, ..self }
    }

    /// The endpoints that it receives for.
    pub fn endpoints(&self) -> &[EndpointPlan] {
        &self.endpoints
    }

    /// Takes one packet: exactly one frame is lent, which is `refused` if nothing comes out.
    pub fn take(&mut self, outer: &OuterPacket<'_>, each: &mut dyn FnMut(&Received<'_>)) {
        let received = match self.look_inside(outer) {
            Ok(received) => received,
            Err(reason) => Received { frame: self.refused(outer.timestamp, reason), place: None },
        };
        each(&received);
    }

    /// A frame that ends here.
    pub fn refused(&self, timestamp: Timestamp, reason: DropReason) -> Frame<'static> {
        Frame {
            bytes: &[],
            wire_len: 0,
            timestamp,
            direction: None,
            interface: self.interface,
            origin: None,
            offload: self.offload,
            has_restored_tag: false,
            refused: Some(reason),
        }
    }

    /// What came from whom. At the `end`, what is missing is lost.
    pub fn senders(&mut self, end: bool, all: &mut Vec<SenderLedger>) {
        if end {
            self.senders.settle();
        }
        self.senders.write(all);
    }

    fn look_inside<'a>(&'a mut self, outer: &OuterPacket<'a>) -> Result<Received<'a>, DropReason> {
        if !self.allow.is_empty() && !self.allow.iter().any(|prefix| prefix.contains(outer.from)) {
            return Err(DropReason::NotAllowed);
        }
        let outermost = self.outermost(outer).map_err(reason)?;
        if !self.is_wanted(outer, &outermost) {
            return Err(DropReason::OtherId);
        }
        let row = self.senders.count(outer.from, &outermost);
        let inner = self.deeper(outermost)?;
        let bytes = put_together(&mut self.scratch, &inner, self.tag, outermost.id);
        let wire_len = wire_len(bytes, inner.missing, outermost.truncated);
        if self.filter.as_ref().is_some_and(|filter| !filter.matches(bytes, wire_len)) {
            return Err(DropReason::Filtered);
        }
        let offload = match &mut self.merges {
            Some(merges) => merged(merges, &mut self.senders, row, bytes).unwrap_or(self.offload),
            None => self.offload,
        };
        let frame = Frame {
            bytes,
            wire_len,
            timestamp: outer.timestamp,
            direction: outermost.direction,
            interface: self.interface,
            origin: row.and_then(|row| self.senders.origin(row)),
            offload,
            has_restored_tag: inner.removed_tag.is_some(),
            refused: None,
        };
        Ok(Received { frame, place: row.zip(outermost.sequence) })
    }

    fn outermost<'a>(&self, outer: &OuterPacket<'a>) -> Result<Decapsulated<'a>, DecapsulateError> {
        match &outer.begins {
            Begins::Datagram(tunnel) => self.rules.take_from_datagram(*tunnel, outer.bytes, 0),
            Begins::Gre => self.rules.take_from_gre(outer.bytes, 0),
            Begins::Ip(packet) => self.rules.take_from_packet(outer.bytes, packet),
        }
    }

    /// Whether an endpoint takes this. The kernel has looked at address and port of what came through a socket; a file's
    /// packets went to anybody.
    fn is_wanted(&self, outer: &OuterPacket<'_>, taken: &Decapsulated<'_>) -> bool {
        let sent_to = match &outer.begins {
            Begins::Ip(packet) => {
                let port = packet.ports(outer.bytes).map_or(0, |(_, destination)| destination);
                address(packet.addresses(outer.bytes).1).map(|address| (address, port))
            }
            Begins::Datagram(_) | Begins::Gre => None,
        };
        self.endpoints.is_empty()
            || self.endpoints.iter().any(|endpoint| {
                let is_there = sent_to.is_none_or(|(to, port)| endpoint.is_at(to) && endpoint.port == port);
                is_there && endpoint.wants(taken.tunnel, taken.id)
            })
    }

    /// Takes off as many more tunnels as the operator wants. What carries none is as deep as it goes.
    fn deeper<'a>(&self, outermost: Decapsulated<'a>) -> Result<Decapsulated<'a>, DropReason> {
        let (levels, all) = match self.decap {
            Decap::Levels(levels) => (levels, false),
            Decap::All => (MOST_TUNNELS, true),
        };
        let mut inner = outermost;
        for _ in 1..levels {
            let Some(next) = self.rules.inside(&inner) else { return Ok(inner) };
            inner = next;
        }
        if all && self.rules.inside(&inner).is_some() { Err(DropReason::NestedTooDeep) } else { Ok(inner) }
    }
}

/// The frame as it goes on: where it stands, or in `scratch` when something has to be put in front.
fn put_together<'a>(scratch: &'a mut Vec<u8>, inner: &Decapsulated<'a>, tag: Tag, id: Option<u32>) -> &'a [u8] {
    const MACS: usize = 12;
    let identity = match (tag, id) {
        (Tag::Vlan, Some(id)) => u16::try_from(id & VLAN).ok(),
        _ => None,
    };
    if inner.bare.is_none() && inner.removed_tag.is_none() && identity.is_none() {
        return inner.bytes;
    }
    scratch.clear();
    inner.write(scratch);
    // Too short for addresses: it will be refused as it is.
    if scratch.len() >= MACS {
        for tag in [inner.removed_tag, identity].into_iter().flatten() {
            let [high, low] = tag.to_be_bytes();
            let [t0, t1] = TPID.to_be_bytes();
            let tag: [u8; VLAN_TAG_LEN] = [t0, t1, high, low];
            scratch.splice(MACS..MACS, tag);
        }
    }
    scratch
}

/// What GRO did to a frame, if it did. The senders' accounts count what was merged.
fn merged(merges: &mut MergeWatch, senders: &mut SenderTable, row: Option<usize>, frame: &[u8]) -> Option<Offload> {
    let packet = Layers::parse(frame).ip?;
    let offload = merges.offload_of(frame, &packet, senders.full_size(row));
    let payload = packet.payload.map_or(0, |payload| packet.end.saturating_sub(payload));
    match offload {
        None => senders.note_size(row, packet.end - packet.start),
        Some(Offload::Exact(Unfinished { segment: Some(size), .. })) => {
            let more = payload.div_ceil(usize::from(size.get())).saturating_sub(1);
            senders.count_merged(row, more as u64);
        }
        Some(_) => {}
    }
    offload
}

/// How long the frame was. A sender that cut it does not say, but the IP packet inside does.
fn wire_len(frame: &[u8], missing: usize, truncated: bool) -> u32 {
    let length = frame.len() + missing;
    let length =
        if truncated { Layers::parse(frame).ip.map_or(0, |packet| packet.end).max(length + 1) } else { length };
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The address in these bytes: four or sixteen.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk().map(|&address: &[u8; 4]| address.into()),
        _ => bytes.first_chunk().map(|&address: &[u8; 16]| address.into()),
    }
}

/// The fate of a packet out of which nothing comes.
fn reason(error: DecapsulateError) -> DropReason {
    match error {
        DecapsulateError::NoTunnel => DropReason::NoTunnel,
        DecapsulateError::Fragment
        | DecapsulateError::Header(_)
        | DecapsulateError::ControlPacket
        | DecapsulateError::WrongChecksum
        | DecapsulateError::ReservedBits => DropReason::Undecodable,
    }
}
