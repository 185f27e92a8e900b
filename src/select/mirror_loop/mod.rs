//! Mirror loops: frames that contain a tunnel of this process although they are not its datagrams.
//!
//! [`own_traffic`](super::own_traffic) leaves out the datagrams of our tunnels as they left. They may come back in a
//! tunnel of another host that mirrors them, in an overlay of this host, or in the datagrams of a relay. Each such frame
//! would be mirrored, come back longer, and never end. Two searches find them:
//!
//! - A walk through all tunnels that can be read. Inside another tunnel, the destination, the port or protocol, and the id
//!   identify a tunnel of ours. The source does not count there: hosts between may have rewritten it.
//! - A search for our outer IP header anywhere in the payload, for relays in formats of their own ([`relay`]).
//!
//! Later fragments share the verdict of their first fragment, at every level ([`fragments`]).

mod fragments;
mod notices;
mod relay;
mod targets;
#[cfg(test)]
mod tests;

pub use notices::LoopNotices;

use std::net::IpAddr;

use super::all_tunnels::AllTunnels;
use crate::flow::FlowHash;
use crate::frame::Frame;
use crate::ledger::DropReason;
use crate::quantity::Direction;
use crate::wire::carrier::OwnTunnel;
use crate::wire::layers::{Fragment, Ip, Layers};
use crate::wire::nesting::{self, Level, Walk};
use fragments::{LoopFragments, Position};
use relay::Relays;
use targets::Targets;

/// IP tunnels inside each other in one frame. More of them are a loop in which many mirrors take part: each of them finds
/// its own tunnel only after the frame has passed all others.
pub const MOST_TUNNELS: usize = 8;

/// Recognises frames that contain a tunnel of this process.
#[derive(Debug, Default)]
pub struct MirrorLoop {
    targets: Targets,
    fragments: LoopFragments,
    relays: Relays,
    all: AllTunnels,
    /// The edition of `all` that the targets are.
    edition: u64,
    notices: LoopNotices,
    /// What the latest turn found.
    found: Option<Evidence>,
}

/// A frame that was dropped, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Evidence {
    what: What,
    /// Source and destination of the packet that contains our tunnel, or of the outermost one.
    around: Option<[IpAddr; 2]>,
    /// Protocol of that packet, and its destination port.
    protocol: u8,
    port: Option<u16>,
    /// Whether this host sent the frame.
    is_outgoing: bool,
}

/// How a loop was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Our tunnel, the one with this number, is inside another tunnel.
    Nested(usize),
    /// More tunnels than [`MOST_TUNNELS`].
    TooDeep,
    /// The header of our tunnel, the one with this number, is somewhere in the payload.
    Relayed(usize),
}

impl MirrorLoop {
    /// Recognises these tunnels. Without any, it costs nothing.
    pub fn new(tunnels: Vec<OwnTunnel>) -> Self {
        let mut detector = Self::default();
        detector.learn(tunnels);
        detector
    }

    /// Recognises the tunnels of `all` sessions, also those that come later, and tells `notices`.
    pub fn following(all: &AllTunnels, notices: LoopNotices) -> Self {
        let (edition, tunnels) = all.read();
        Self { all: all.clone(), edition, notices, ..Self::new(tunnels) }
    }

    fn learn(&mut self, tunnels: Vec<OwnTunnel>) {
        self.targets = Targets::of(tunnels);
        self.relays.learn(&self.targets);
        if !self.targets.is_empty() {
            self.fragments.claim();
        }
    }

    /// Takes note of tunnels that came or went, and reports what the latest turn found. For between turns.
    pub fn catch_up(&mut self) {
        self.relays.begin_turn();
        if let Some(evidence) = self.found.take() {
            self.notices.tell(&evidence, &self.targets);
        }
        if self.all.edition() != self.edition {
            let (edition, tunnels) = self.all.read();
            self.learn(tunnels);
            self.edition = edition;
        }
    }

    /// Why `frame` must not be mirrored, if it must not. Asked once for each frame that is not our own datagram, in the
    /// order of capture.
    #[inline]
    pub fn judge(&mut self, frame: &Frame<'_>, layers: &Layers, flow: FlowHash) -> Option<DropReason> {
        if self.targets.is_empty() {
            return None;
        }
        if nesting::is_worth_a_walk(frame.bytes, layers) {
            return self.judge_nested(frame, layers, flow);
        }
        let target = self.relays.search(frame, layers, flow, &self.targets)?;
        Some(self.end(frame, layers, What::Relayed(target), None))
    }

    /// The same for a frame that may contain more than one packet. Out of line: what it keeps of all the packets would have to
    /// be prepared for each frame.
    #[inline(never)]
    fn judge_nested(&mut self, frame: &Frame<'_>, layers: &Layers, flow: FlowHash) -> Option<DropReason> {
        let now = frame.timestamp.nanos();
        let mut packets = Packets::default();
        let mut verdict = self.walk(frame.bytes, layers, now, &mut packets);
        if verdict == Verdict::Other
            && let Some(target) = self.relays.search(frame, layers, flow, &self.targets)
        {
            verdict = Verdict::Loop(What::Relayed(target));
        }
        let is_ours = verdict != Verdict::Other;
        for position in packets.first_fragments() {
            self.fragments.note(position, is_ours, now);
        }
        match verdict {
            Verdict::Other => None,
            Verdict::Own => Some(DropReason::OwnTraffic),
            Verdict::LoopFragment => Some(DropReason::Loop),
            Verdict::Loop(what) => Some(self.end(frame, layers, what, packets.around)),
        }
    }

    /// Whether `packet`, the outermost of a frame, goes to where a tunnel of ours goes, with an id of ours.
    pub fn goes_to_our_analyzer(&self, bytes: &[u8], packet: &Ip) -> bool {
        !self.targets.is_empty() && self.targets.inside(bytes, packet).is_some()
    }

    /// Ends a frame of a loop, the first of a turn with evidence. `around` is the packet that contains our tunnel, where that
    /// is not the outermost one.
    #[cold]
    #[inline(never)]
    fn end(&mut self, frame: &Frame<'_>, layers: &Layers, what: What, around: Option<Ip>) -> DropReason {
        if self.found.is_none() {
            let bytes = frame.bytes;
            let outermost = layers.ip.or_else(|| Walk::new(bytes).next().map(|level| level.packet));
            let around = around.or(outermost);
            self.found = Some(Evidence {
                what,
                around: around.map(|packet| packet.address_pair(bytes)),
                protocol: around.map_or(0, |packet| packet.protocol),
                port: around.and_then(|packet| Some(packet.ports(bytes)?.1)),
                is_outgoing: frame.direction == Some(Direction::Out),
            });
        }
        DropReason::Loop
    }

    /// Looks for our tunnels inside the tunnels of a frame.
    fn walk(&mut self, bytes: &[u8], layers: &Layers, now: u64, packets: &mut Packets) -> Verdict {
        let (mut walk, mut previous) = (Walk::new(bytes), None::<Level>);
        for level in walk.by_ref() {
            let Level { packet, tunnels, is_quoted } = level;
            // An ICMP error around a quoted packet is no tunnel.
            if let Some(outer) = previous.replace(level).filter(|outer| outer.tunnels < tunnels) {
                packets.around = Some(outer.packet);
            }
            match packet.fragment {
                Fragment::Whole => {}
                Fragment::First => packets.note(Position::of(bytes, &packet)),
                Fragment::Later => {
                    let position = Position::of(bytes, &packet);
                    if position.is_some_and(|position| self.fragments.contains(position, now)) {
                        return Verdict::LoopFragment;
                    }
                }
            }
            if tunnels > 0 {
                if let Some(target) = self.targets.inside(bytes, &packet) {
                    return Verdict::Loop(What::Nested(target));
                }
            } else if !is_quoted && layers.ip.is_none() && self.targets.outermost(bytes, &packet) {
                // Our datagram as it left, behind PPPoE or MPLS.
                return Verdict::Own;
            }
        }
        if walk.tunnels() > MOST_TUNNELS {
            packets.around = None;
            return Verdict::Loop(What::TooDeep);
        }
        packets.around = None;
        Verdict::Other
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Other,
    /// A datagram of ours.
    Own,
    Loop(What),
    /// A later fragment of a loop: its first fragment told more.
    LoopFragment,
}

/// What is remembered of a frame's packets during the walk.
#[derive(Debug, Default)]
struct Packets {
    /// The tunnel packet around the one that was looked at last.
    around: Option<Ip>,
    /// Those that are first fragments, as far as there is room: deeper ones do not matter.
    firsts: [Option<Position>; MOST_TUNNELS + 2],
    count: usize,
}

impl Packets {
    fn note(&mut self, position: Option<Position>) {
        if let Some(place) = self.firsts.get_mut(self.count) {
            *place = position;
            self.count += 1;
        }
    }

    fn first_fragments(&self) -> impl Iterator<Item = Position> {
        self.firsts.iter().take(self.count).flatten().copied()
    }
}
