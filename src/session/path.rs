//! What happens to one frame between source and destinations.

use super::pulse::Pulse;
use crate::decapsulate::Decapsulator;
use crate::destination::Destinations;
use crate::flow::FlowHash;
use crate::frame::{Frame, WireFrame};
use crate::ledger::{DropReason, Ledger};
use crate::normalise::Normaliser;
use crate::quantity::Snaplen;
use crate::select::{Selector, Verdict};
use crate::source::InnerFilter;
use crate::wire::layers::Layers;

/// The stages of one worker and the ledger they write.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) selector: Selector,
    pub(super) normaliser: Normaliser,
    /// Of a session that takes tunnels off what it captures.
    pub(super) inside: Option<Inside>,
    pub(super) destinations: Destinations,
    pub(super) ledger: Ledger,
}

/// The stages of frames that come out of tunnels.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) decapsulator: Decapsulator,
    /// The operator's filter; `None` keeps every frame.
    pub(super) filter: Option<InnerFilter>,
    /// Cuts what is mirrored, last of all.
    pub(super) truncate: Option<Snaplen>,
}

impl Path {
    /// Takes one frame all the way into the destinations' batches. `pulse` hears of each wire frame, and may end the
    /// session in the middle of a super-frame: each segment that is left is then counted as `stopping`.
    pub(super) fn take(&mut self, frame: &Frame<'_>, pulse: &mut Pulse) {
        if self.inside.is_some() {
            return self.take_inside(frame, pulse);
        }
        let Self { selector, normaliser, destinations, ledger, .. } = self;
        ledger.captured += 1;
        if pulse.is_halted() {
            ledger.not_normalised[DropReason::Stopping] += 1;
            return;
        }

        let layers = Layers::parse(frame.bytes);
        let flow = match selector.decide(frame, &layers) {
            Verdict::Keep(flow) => flow,
            Verdict::Drop(reason) => {
                ledger.not_selected[reason] += 1;
                return;
            }
        };
        let end = layers.ip.map_or(0, |packet| packet.end).max(frame.wire_len as usize);
        ledger.cut += u64::from(frame.bytes.len() < end);
        // Counted beside the ledger, which the destinations have meanwhile.
        let mut rewritten = ledger.rewritten;
        rewritten.tags += u64::from(frame.has_restored_tag);
        let mut given = 0_u64;
        let wire_frames = normaliser.apply(frame, &layers, flow, &mut rewritten, |wire| {
            // Counted before it is offered: the ledger balances between any two segments.
            ledger.segments_added += u64::from(given > 0);
            given += 1;
            destinations.offer(wire, ledger);
            pulse.count(ledger)
        });
        match wire_frames {
            Ok(wire_frames) => {
                let withheld = wire_frames - given;
                ledger.segments_added += withheld;
                ledger.not_normalised[DropReason::Stopping] += withheld;
            }
            Err(reason) => ledger.not_normalised[reason] += 1,
        }
        ledger.rewritten = rewritten;
    }

    /// The same where tunnels are taken off: what makes a frame ours, or a loop, is asked of the captured frame; everything
    /// else of each wire frame inside. One that is left out there counts among those that ended in normalise.
    // Out of the way of the sessions that mirror frames as they are.
    #[inline(never)]
    fn take_inside(&mut self, frame: &Frame<'_>, pulse: &mut Pulse) {
        let Self { selector, normaliser, inside: Some(inside), destinations, ledger } = self else { return };
        ledger.captured += 1;
        if pulse.is_halted() {
            ledger.not_normalised[DropReason::Stopping] += 1;
            return;
        }
        let layers = Layers::parse(frame.bytes);
        if let Some(reason) = selector.refuse_captured(frame, &layers) {
            ledger.not_selected[reason] += 1;
            return;
        }
        let keeps_tunnels = selector.keeps_tunnels(frame, &layers);
        let mut rewritten = ledger.rewritten;
        rewritten.tags += u64::from(frame.has_restored_tag);
        let mut given = 0_u64;
        let wire_frames = normaliser.apply(frame, &layers, FlowHash::default(), &mut rewritten, |wire| {
            ledger.segments_added += u64::from(given > 0);
            given += 1;
            inside.take(wire, keeps_tunnels, (selector, destinations), ledger);
            pulse.count(ledger)
        });
        match wire_frames {
            Ok(wire_frames) => {
                let withheld = wire_frames - given;
                ledger.segments_added += withheld;
                ledger.not_normalised[DropReason::Stopping] += withheld;
            }
            Err(reason) => ledger.not_normalised[reason] += 1,
        }
        ledger.rewritten = rewritten;
    }
}

impl Inside {
    /// Takes the tunnels off one wire frame, unless it keeps them, and gives what is left to the destinations if it is chosen.
    fn take(
        &mut self,
        wire: &WireFrame<'_>,
        keeps_tunnels: bool,
        (selector, destinations): (&mut Selector, &mut Destinations),
        ledger: &mut Ledger,
    ) {
        let inner = if keeps_tunnels {
            ledger.decapsulated.left_on += 1;
            self.decapsulator.whole(wire)
        } else {
            self.decapsulator.apply(wire, &mut ledger.decapsulated)
        };
        let is_wanted = |filter: &InnerFilter| filter.keeps([inner.wire.head, inner.wire.body], inner.wire.wire_len);
        if !self.filter.as_ref().is_none_or(is_wanted) {
            ledger.not_normalised[DropReason::Filtered] += 1;
            return;
        }
        match selector.choose(inner.start, inner.wire.len(), &inner.layers) {
            Verdict::Keep(flow) => {
                let end = inner.wire.layers.ip.map_or(0, |packet| packet.end).max(inner.wire.wire_len as usize);
                ledger.cut += u64::from(inner.wire.len() < end);
                let whole = WireFrame { flow, ..inner.wire };
                let kept = self.truncate.map_or(whole, |keep| whole.truncated(keep.value() as usize));
                destinations.offer(&kept, ledger);
            }
            Verdict::Drop(reason) => ledger.not_normalised[reason] += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;
    use std::sync::Arc;
    use std::time::Instant;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::open_destinations;
    use super::*;
    use crate::config::local_end::CaptureFilePlan;
    use crate::config::plan::{
        Decap, DestinationPlan, Encapsulation, End, FilePath, Fit, Host, Ids, SampleBy, SamplePlan, TransmitPlan,
        TunnelPlan,
    };
    use crate::destination::Patience;
    use crate::destination::Shared;
    use crate::flow::FlowKey;
    use crate::frame::{At, InterfaceId, Offload, Unfinished};
    use crate::kernel::underlay::{NextHop, Underlay};
    use crate::ledger::DropReason;
    use crate::quantity::{Direction, Mtu, Timestamp, Vni, Weight};
    use crate::select::own_traffic::OwnTraffic;

    /// A frame as a source might lend it: anything from noise to a super-frame, with any claim about its offloads.
    #[derive(Clone, Debug)]
    struct Lent {
        bytes: Vec<u8>,
        missing: u32,
        offload: Offload,
        direction: Option<Direction>,
    }

    fn frames() -> impl Strategy<Value = Lent> {
        let offload = prop_oneof![
            Just(Offload::Whole),
            (0..2000_u16, any::<Option<(u16, u16)>>()).prop_map(|(size, checksum)| Offload::Exact(Unfinished {
                segment: NonZeroU16::new(size),
                checksum: checksum.map(|(start, offset)| At { start: start % 100, offset: offset % 40 }),
            })),
            Just(Offload::Exact(Unfinished {
                segment: NonZeroU16::new(1448),
                checksum: Some(At { start: 34, offset: 16 })
            })),
            (68..9000_u64).prop_map(|mtu| Offload::Unknown { mtu: Mtu::new(mtu).unwrap() }),
        ];
        let tunnels = prop_oneof![Just(4789_u16), Just(6081), Just(37008)];
        let in_tunnel = (tunnels, packets()).prop_map(|(port, frame)| {
            let header: &[u8] = match port {
                4789 => &[8, 0, 0, 0, 0, 0, 7, 0],
                6081 => &[0, 0, 0x65, 0x58, 0, 0, 7, 0],
                _ => &[1, 0, 0, 1, 1],
            };
            let mut bytes = Vec::new();
            let outer = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 7], [192, 0, 2, 8], 64);
            outer.udp(50_000, port).write(&mut bytes, &[header, &frame].concat()).unwrap();
            bytes
        });
        let bytes = prop_oneof![vec(any::<u8>(), 0..100), packets(), in_tunnel];
        let direction = proptest::sample::select(vec![None, Some(Direction::In), Some(Direction::Out)]);
        (bytes, prop_oneof![4 => Just(0), 1 => 0..3000_u32], offload, direction)
            .prop_map(|(bytes, missing, offload, direction)| Lent { bytes, missing, offload, direction })
    }

    /// TCP or UDP over IPv4 or IPv6, with up to 20,000 bytes of payload, and perhaps one byte that somebody changed.
    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let payload = prop_oneof![3 => 0..1500_usize, 1 => 0..20_000_usize];
        (any::<[bool; 3]>(), payload, proptest::option::weighted(0.2, (0..80_usize, any::<u8>()))).prop_map(
            |([tcp, v4, tagged], payload, changed)| {
                let start = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
                let ip = match (v4, tagged) {
                    (true, true) => start.single_vlan(7.try_into().unwrap()).ipv4([192, 0, 2, 7], [192, 0, 2, 8], 64),
                    (true, false) => start.ipv4([192, 0, 2, 7], [192, 0, 2, 8], 64),
                    (false, _) => start.ipv6([1; 16], [2; 16], 64),
                };
                let (mut bytes, payload) = (Vec::new(), vec![0x5a; payload]);
                if tcp {
                    ip.tcp(40_000, 80, 1, 1000).ack(1).write(&mut bytes, &payload).unwrap();
                } else {
                    ip.udp(40_000, 53).write(&mut bytes, &payload).unwrap();
                }
                if let Some((at, value)) = changed
                    && let Some(byte) = bytes.get_mut(at)
                {
                    *byte = value;
                }
                bytes
            },
        )
    }

    fn samples() -> impl Strategy<Value = SamplePlan> {
        let by = proptest::sample::select(vec![SampleBy::Flow, SampleBy::Frame]);
        (1..4_u32, by).prop_map(|(one_in, by)| SamplePlan { rate: format!("1/{one_in}").parse().unwrap(), by })
    }

    fn tunnel(fit: Fit, folder: &std::path::Path) -> End {
        let encapsulation = Encapsulation::Vxlan { vni: Ids::all(Vni::LEAST), port: 4789 };
        let outer = FilePath::Path(folder.join(fit.to_string()));
        let host = Host::Address([192, 0, 2, 1].into());
        let transmit = TransmitPlan::CaptureFile(outer);
        End::Tunnel(TunnelPlan { fit, transmit, ..TunnelPlan::with_defaults(encapsulation, host) })
    }

    proptest! {
        /// The law, from the first stage to the last, whatever a source lends: to tunnels that split, cut and drop, and to
        /// a file.
        #[test]
        fn every_frame_has_exactly_one_fate(
            frames in vec(frames(), 0..60),
            truncate in proptest::option::of(14..200_u64),
            flush_after in 1..20_usize,
            sample in samples(),
            decap in proptest::option::of(prop_oneof![Just(Decap::All), (1..9_u8).prop_map(Decap::Levels)]),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = |name: &str| End::File(CaptureFilePlan::plain(FilePath::Path(name.into())));
            let ends = [
                tunnel(Fit::Split, folder.path()),
                tunnel(Fit::Truncate, folder.path()),
                tunnel(Fit::Drop, folder.path()),
                file("/dev/null"),
            ];
            let plans: Vec<_> = (1..)
                .zip(ends)
                .map(|(number, end)| DestinationPlan { name: number.to_string(), to: "test".into(), weight: Weight::default(), end })
                .collect();
            let way = || Arc::new(Underlay::new([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), None, Mtu::ETHERNET, NextHop::Usable));
            let ways: Vec<_> = plans.iter().map(|plan| matches!(plan.end, End::Tunnel(_)).then(way)).collect();
            let mut shared = Shared::new(&plans, 0);
            let destinations =
                open_destinations(&plans, &ways, &["eth0".into()], Patience::Drop, &mut shared).unwrap();
            let mut path = Path {
                selector: Selector::new(OwnTraffic::new(destinations.own_tunnels()), FlowKey::PUBLIC, sample),
                normaliser: Normaliser::new(truncate.filter(|_| decap.is_none()).map(|length| Snaplen::new(length).unwrap())),
                inside: decap.map(|decap| Inside {
                    decapsulator: Decapsulator::new(decap),
                    filter: None,
                    truncate: truncate.map(|length| Snaplen::new(length).unwrap()),
                }),
                destinations,
                ledger: Ledger::new(plans.iter().map(|plan| (plan.name.as_str(), plan.to.as_str()))),
            };
            let now = Instant::now();
            let contact = super::super::testing::contact();
            let mut pulse = Pulse::new(contact.published, contact.stop, std::time::Duration::MAX);
            for (number, lent) in frames.iter().enumerate() {
                path.take(&Frame {
                    bytes: &lent.bytes,
                    wire_len: u32::try_from(lent.bytes.len()).unwrap() + lent.missing,
                    timestamp: Timestamp::from_nanos(1),
                    direction: lent.direction,
                    interface: InterfaceId(0),
                    origin: None,
                    offload: lent.offload,
                    has_restored_tag: false,
                    refused: None,
                }, &mut pulse);
                prop_assert_eq!(path.ledger.balance(), Ok(()));
                if number % flush_after == 0 {
                    path.destinations.flush(now, &mut path.ledger);
                    prop_assert_eq!(path.ledger.balance(), Ok(()));
                }
            }
            path.destinations.finish(now, &mut path.ledger);
            prop_assert_eq!(path.ledger.balance(), Ok(()));
            prop_assert_eq!(path.ledger.captured, frames.len() as u64);
            let too_short = frames.iter().filter(|lent| (1..14).contains(&lent.bytes.len())).count() as u64;
            prop_assert_eq!(path.ledger.not_selected[DropReason::TooShort], too_short);
            prop_assert!(path.ledger.destinations.iter().all(|account| account.in_flight == 0));
            let file = path.ledger.destinations.last().unwrap();
            prop_assert_eq!(file.sent, path.ledger.offered, "a file takes every frame");
        }
    }
}
