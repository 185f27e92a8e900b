//! Takes tunnels off wire frames, between normalise and the destinations.
//!
//! It comes after normalise, because only the outer headers tell how a host's super-frame becomes wire frames: a tunnel's
//! super-frame becomes the packets that the wire carried, each with the right checksums inside, and then each packet loses
//! its tunnel. What needs a new head (a packet that came without Ethernet header, a VLAN tag that the sender took out) gets
//! one in a small buffer. The payload stays where it is.

use crate::config::defaults::MOST_TUNNELS;
use crate::config::plan::Decap;
use crate::frame::WireFrame;
use crate::ledger;
use crate::wire::decapsulate::{Decapsulated, Rules};
use crate::wire::ethernet::{self, VLAN_TAG_LEN};
use crate::wire::layers::{Ip, Layers, TCP};
use crate::wire::sniffed::{Depth, Left};

/// Bytes from which the headers of a frame are read whose head was rewritten: all that normalise rewrites, and as much
/// again for tunnel headers in front of the payload.
const VIEW: usize = 1024;
/// Bytes that may have to stand in front: an Ethernet header and a tag.
const FRONT: usize = ethernet::HEADER_LEN + VLAN_TAG_LEN;
/// TPID of a tag that is put back.
const TPID: u16 = 0x8100;
/// Destination and source address.
const ADDRESSES: usize = 12;

/// Takes tunnels off.
#[derive(Debug)]
pub struct Decapsulator {
    rules: Rules,
    depth: Depth,
    /// The beginning of a frame that is in two pieces.
    view: Box<[u8; VIEW]>,
    /// A new head.
    head: Box<[u8; FRONT + VIEW]>,
}

/// A frame without its tunnels.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    /// The frame as it goes on. Its flow is still to be hashed.
    pub wire: WireFrame<'a>,
    /// Its beginning in one piece, with all headers, without an Ethernet header that farspan made.
    pub start: &'a [u8],
    /// Where the headers are in `start`.
    pub layers: Layers,
}

impl Decapsulator {
    /// Takes off as many tunnels as `decap` says.
    pub fn new(decap: Decap) -> Self {
        let depth = match decap {
            Decap::Levels(most) => Depth { most, all: false },
            Decap::All => Depth { most: MOST_TUNNELS, all: true },
        };
        let (view, head) = (Box::new([0; VIEW]), Box::new([0; FRONT + VIEW]));
        Self { rules: Rules::default(), depth, view, head }
    }

    /// Takes the tunnels off `wire`, and counts that in `account`. A frame without any stays as it is.
    pub fn apply<'a>(&'a mut self, wire: &WireFrame<'a>, account: &mut ledger::Decapsulated) -> Inner<'a> {
        let Self { rules, depth, view, head } = self;
        let whole = whole(wire, view);
        let Some(outer) = &whole.layers.ip else { return whole };
        let sniffed = rules.sniff(whole.start, outer, *depth);
        match sniffed.left {
            None => {}
            Some(Left::Header) => account.left_on += 1,
            Some(Left::Fragment) => account.fragments += 1,
        }
        let Some(taken) = &sniffed.inner else { return whole };
        account.frames += 1;
        without(wire, (whole.start, outer.end), taken, head)
    }

    /// `wire` as it is.
    pub fn whole<'a>(&'a mut self, wire: &WireFrame<'a>) -> Inner<'a> {
        whole(wire, &mut self.view)
    }
}

fn whole<'a>(wire: &WireFrame<'a>, view: &'a mut [u8; VIEW]) -> Inner<'a> {
    if wire.head.is_empty() {
        return Inner { wire: *wire, start: wire.body, layers: wire.layers };
    }
    let has_all_headers = |packet: &Ip| packet.protocol == TCP && packet.payload == Some(wire.head.len());
    if wire.layers.ip.as_ref().is_some_and(has_all_headers) {
        return Inner { wire: *wire, start: wire.head, layers: wire.layers };
    }
    let start = in_one_piece(wire, view);
    Inner { wire: *wire, start, layers: Layers::parse(start) }
}

/// The beginning of `wire` in `view`: its head, and what of its body there is room for.
fn in_one_piece<'v>(wire: &WireFrame<'_>, view: &'v mut [u8; VIEW]) -> &'v [u8] {
    let from_head = wire.head.len().min(VIEW);
    let from_body = wire.body.len().min(VIEW - from_head);
    view[..from_head].copy_from_slice(&wire.head[..from_head]);
    view[from_head..from_head + from_body].copy_from_slice(&wire.body[..from_body]);
    &view[..from_head + from_body]
}

/// `wire` without everything around `taken`, which came out of `start`, its beginning. The outer packet ends at `outer_end`.
fn without<'a>(
    wire: &WireFrame<'a>,
    (start, outer_end): (&'a [u8], usize),
    taken: &Decapsulated<'a>,
    head: &'a mut [u8; FRONT + VIEW],
) -> Inner<'a> {
    // It is a part of `start`.
    let from = taken.bytes.as_ptr().addr() - start.as_ptr().addr();
    let there = from + taken.bytes.len();
    let end = match wire.head {
        [] => there,
        // What `start` has no room for is in the body.
        _ => (there + taken.missing).min(outer_end).min(wire.len()),
    };
    let layers = match taken.bare {
        None => Layers::parse(taken.bytes),
        Some(ethertype) => Layers::of_packet(ethertype, taken.bytes),
    };
    let (inner_head, body_from, in_front) = match (taken.bare, taken.removed_tag) {
        (None, None) => {
            let until = end.min(wire.head.len());
            (wire.head.get(from..until).unwrap_or_default(), from, 0)
        }
        _ => with_new_head(wire, from, taken, &layers, head),
    };
    let in_body = |at: usize| at.saturating_sub(wire.head.len());
    Inner {
        wire: WireFrame {
            head: inner_head,
            body: wire.body.get(in_body(body_from)..in_body(end)).unwrap_or_default(),
            wire_len: u32::try_from(in_front + original_length(taken, &layers)).unwrap_or(u32::MAX),
            layers: layers.behind(in_front),
            direction: taken.direction.or(wire.direction),
            ..*wire
        },
        start: taken.bytes,
        layers,
    }
}

/// The head of a frame that needs other bytes in front; where in `wire` its body begins; and how many bytes more than in
/// the tunnel stand in front. `taken` begins at `from` in `wire`.
fn with_new_head<'h>(
    wire: &WireFrame<'_>,
    from: usize,
    taken: &Decapsulated<'_>,
    layers: &Layers,
    head: &'h mut [u8; FRONT + VIEW],
) -> (&'h [u8], usize, usize) {
    let made = taken.synthetic_header();
    let (addresses, ethertype, skip) = match &made {
        Some(header) => {
            let (addresses, ethertype) = header.split_at(ADDRESSES);
            (addresses, ethertype, 0)
        }
        None => (taken.bytes.get(..ADDRESSES).unwrap_or_default(), [].as_slice(), ADDRESSES),
    };
    let tag = taken.removed_tag.map(|control| {
        let ([t0, t1], [high, low]) = (TPID.to_be_bytes(), control.to_be_bytes());
        [t0, t1, high, low]
    });
    let mut length = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(place) = head.get_mut(length..length + bytes.len()) {
            place.copy_from_slice(bytes);
            length += bytes.len();
        }
    };
    put(addresses);
    put(tag.as_ref().map_or(&[], |tag| tag));
    put(ethertype);
    // Whole headers up to the payload, if there is room; in any case what stands in the head that normalise rewrote.
    let rewritten = wire.head.len().saturating_sub(from);
    let headers = layers.ip.map_or(skip, |packet| packet.payload.unwrap_or(packet.transport));
    let wanted = headers.max(rewritten).max(skip).min(taken.bytes.len());
    let until = if wanted - skip.min(wanted) <= VIEW { wanted } else { rewritten.max(skip) };
    put(taken.bytes.get(skip..until).unwrap_or_default());
    let in_front = made.map_or(0, |header| header.len()) + tag.map_or(0, |tag| tag.len());
    (&head[..length], from + until, in_front)
}

/// How long the frame inside was on its wire. A sender that cut it does not say, but the IP packet inside does.
fn original_length(taken: &Decapsulated<'_>, layers: &Layers) -> usize {
    let length = taken.bytes.len() + taken.missing;
    if taken.truncated { layers.ip.map_or(0, |packet| packet.end).max(length + 1) } else { length }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::FlowHash;
    use crate::frame::InterfaceId;
    use crate::quantity::{Direction, Timestamp};

    /// UDP over IPv4 in an Ethernet frame.
    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let packet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        packet.udp(50_000, port).write(&mut out, payload).unwrap();
        out
    }

    fn gre(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let packet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        packet.write(&mut out, etherparse::IpNumber(47), payload).unwrap();
        out
    }

    fn inner(payload: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let packet = etherparse::PacketBuilder::ethernet2([6; 6], [8; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        packet.tcp(40_000, 80, 1, 1000).write(&mut out, &vec![0x5a; payload]).unwrap();
        out
    }

    fn vxlan(frame: &[u8]) -> Vec<u8> {
        udp(4789, &[&[8, 0, 0, 0, 0, 0, 42, 0], frame].concat())
    }

    /// A frame whose first `head` bytes normalise has rewritten.
    fn wire(bytes: &[u8], head: usize) -> WireFrame<'_> {
        let (head, body) = bytes.split_at(head.min(bytes.len()));
        WireFrame {
            head,
            body,
            wire_len: bytes.len().try_into().unwrap(),
            layers: Layers::parse(bytes),
            flow: FlowHash(0),
            timestamp: Timestamp::default(),
            direction: Some(Direction::In),
            interface: InterfaceId::default(),
            origin: None,
        }
    }

    /// What comes out, as it would be sent, and what was counted. The headers are where the frame has them.
    fn taken(decap: Decap, bytes: &[u8], head: usize) -> (Vec<u8>, u32, ledger::Decapsulated) {
        let (mut decapsulator, mut account) = (Decapsulator::new(decap), ledger::Decapsulated::default());
        let inner = decapsulator.apply(&wire(bytes, head), &mut account);
        let mut out = vec![0; inner.wire.len()];
        inner.wire.copy_to(&mut out);
        assert_eq!(inner.wire.layers, Layers::parse(&out), "{out:x?}");
        (out, inner.wire.wire_len, account)
    }

    #[test]
    fn a_frame_comes_out_whole_wherever_its_head_ends() {
        let (one, frame) = (Decap::Levels(1), inner(1400));
        let in_gre = [&[0, 0, 0x65, 0x58], &frame[..]].concat();
        for outer in [vxlan(&frame), gre(&in_gre)] {
            // Behind the outer headers, in the middle of the tunnel's, behind the inner ones, and nowhere.
            for head in [0, 34, 38, 42, 45, 50, 64, 92, 104, 110, 500] {
                let (out, length, account) = taken(one, &outer, head);
                assert!(out == frame, "{head}");
                assert_eq!((length as usize, account.frames), (frame.len(), 1));
            }
        }
    }

    #[test]
    fn a_packet_gets_an_ethernet_header_and_a_tag_comes_back() {
        let frame = inner(600);
        let packet = gre(&[&[0, 0, 8, 0], &frame[14..]].concat());
        let made = ethernet::header(ethernet::HOST, ethernet::PEER, 0x0800);
        let expected = [&made[..], &frame[14..]].concat();
        // ERSPAN II with the tag of VLAN 100 taken out (encapsulation 2).
        let erspan = [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 100, 0x10, 7, 0, 0, 0, 0], &frame[..]].concat();
        let tagged = [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat();
        for (outer, expected) in [(packet, expected), (gre(&erspan), tagged)] {
            for head in [0, 34, 38, 60, 78, 92, 104] {
                let (out, length, _) = taken(Decap::All, &outer, head);
                assert!(out == expected, "{head}: {:x?} {:x?}", &out[..60], &expected[..60]);
                assert_eq!(length as usize, expected.len());
            }
        }
    }

    #[test]
    fn as_many_come_off_as_are_wanted() {
        let frame = inner(100);
        let (mut nested, mut shells) = (frame.clone(), vec![frame]);
        for _ in 0..10 {
            nested = vxlan(&nested);
            shells.push(nested.clone());
        }
        let account = |frames, left_on| ledger::Decapsulated { frames, left_on, fragments: 0 };
        for (decap, from, to, counted) in [
            (Decap::Levels(1), 3, 2, account(1, 0)),
            (Decap::Levels(3), 3, 0, account(1, 0)),
            (Decap::Levels(8), 3, 0, account(1, 0)),
            (Decap::All, 8, 0, account(1, 0)),
            (Decap::All, 9, 1, account(1, 1)),
            (Decap::Levels(8), 10, 2, account(1, 0)),
            (Decap::All, 0, 0, account(0, 0)),
        ] {
            let (out, _, account) = taken(decap, &shells[from], 0);
            assert!(out == shells[to], "{decap:?}: {from} to {to}");
            assert_eq!(account, counted);
        }
    }

    #[test]
    fn what_is_no_tunnel_passes_unchanged() {
        let answer =
            [0x8a, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 3, b'w', b'w', b'w', 7, b'e', b'x', b'a', b'm', b'p'];
        let plausible_type = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &[2; 12], &[0x05, 0xff], &[0; 40]].concat();
        let control = [0, 0x80, 0x65, 0x58, 0, 0, 1, 0, 1, 2, 3];
        for (frame, left_on) in [
            (inner(100), 0),
            (udp(53, &answer), 0),
            // An answer to a client whose port is a tunnel's: reserved bits, and no packet behind them.
            (udp(4789, &answer), 0),
            (udp(6081, &control), 0),
            (udp(4789, &plausible_type), 0),
            (udp(4789, &[8, 0, 0]), 1),
            (gre(&[0, 0, 0x88, 0x0b, 1, 2, 3]), 1),
        ] {
            let (out, _, account) = taken(Decap::All, &frame, 0);
            assert!(out == frame, "{frame:x?}");
            assert_eq!(account, ledger::Decapsulated { frames: 0, left_on, fragments: 0 }, "{frame:x?}");
        }
        let mut fragment = vxlan(&inner(100));
        fragment[20] = 0x20;
        let (out, _, account) = taken(Decap::All, &fragment, 0);
        assert!(out == fragment && account.fragments == 1);
    }

    #[test]
    fn a_capture_that_was_cut_tells_how_long_the_frame_inside_was() {
        let (frame, outer) = (inner(1000), vxlan(&inner(1000)));
        let mut account = ledger::Decapsulated::default();
        let cut = WireFrame { wire_len: outer.len().try_into().unwrap(), ..wire(&outer[..200], 0) };
        let mut decapsulator = Decapsulator::new(Decap::All);
        let Inner { wire, .. } = decapsulator.apply(&cut, &mut account);
        assert_eq!((wire.body, wire.wire_len as usize), (&frame[..150], frame.len()));
    }

    proptest! {
        /// Any bytes, in two pieces wherever they were cut.
        #[test]
        fn no_bytes_are_unsafe(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| udp(4789, &bytes)),
                proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| udp(6081, &bytes)),
                proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| gre(&bytes)),
                proptest::collection::vec(any::<u8>(), 0..2000),
                (0..1500_usize).prop_map(|length| vxlan(&inner(length))),
            ],
            changed in proptest::option::of((0..120_usize, any::<u8>())),
            head in 0..520_usize,
            cut in prop_oneof![3 => Just(usize::MAX), 1 => 0..300_usize],
        ) {
            let mut bytes = bytes;
            if let Some((at, value)) = changed && let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            let length = bytes.len();
            bytes.truncate(cut);
            let whole = WireFrame { wire_len: length.try_into().unwrap(), ..wire(&bytes, head) };
            let mut account = ledger::Decapsulated::default();
            let mut decapsulator = Decapsulator::new(Decap::All);
            let inner = decapsulator.apply(&whole, &mut account);
            prop_assert!(inner.wire.len() <= bytes.len() + FRONT);
            let mut out = vec![0; inner.wire.len()];
            inner.wire.copy_to(&mut out);
            crate::flow::FlowKey::PUBLIC.flow(inner.start, &inner.layers);
            if head == 0 || bytes.is_empty() {
                prop_assert_eq!(inner.wire.layers, Layers::parse(&out));
            }
        }
    }
}
