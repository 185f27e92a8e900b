//! Frames that are larger than the path MTU allows.

use std::hash::{BuildHasher as _, RandomState};

use crate::config::plan::Fit;
use crate::frame::WireFrame;
use crate::ledger::DropReason;
use crate::wire::edit::{HeaderBuffer, MOST_HEADERS};
use crate::wire::ethernet::MOST_TRAILER;
use crate::wire::ip_fragment::Fragmenter;
use crate::wire::layers::{Fragment, Ip, TCP};
use crate::wire::nested::Nested;
use crate::wire::segment::{Partial, Segmenter, is_signed};

/// Makes frames fit one destination's path.
#[derive(Debug)]
pub struct Fitter {
    policy: Fit,
    /// Rewritten headers of the piece at hand.
    headers: HeaderBuffer,
    /// Of the inner fragments that we make: one for each packet from a random start on, so that only 65,536 packets later
    /// an IPv4 identification comes again.
    identification: u32,
}

impl Fitter {
    /// Does what `policy` says with frames that are too large.
    pub fn new(policy: Fit) -> Self {
        // Two taps of one packet must not give its fragments, or another's, the same identification at one analyzer.
        let [.., a, b, c, d] = RandomState::new().hash_one(()).to_be_bytes();
        Self { policy, headers: [0; MOST_HEADERS], identification: u32::from_be_bytes([a, b, c, d]) }
    }

    /// The same with a known identification of the first inner fragments.
    #[cfg(test)]
    #[must_use]
    pub fn numbering_from(self, first: u32) -> Self {
        Self { identification: first.wrapping_sub(1), ..self }
    }

    /// Whether frames may be longer than the path allows: the kernel fragments the outer packet.
    pub fn leaves_to_kernel(&self) -> bool {
        self.policy == Fit::Fragment
    }

    /// Gives `frame`, or what it has to become so that no frame is longer than `room` bytes, to `each`, which also hears
    /// whether it was cut short ([`Fit::Truncate`]), and returns how many frames that were. `room` is what fits the path
    /// and can be sent, without outer headers.
    ///
    /// # Errors
    /// [`DropReason::Oversize`] when the frame may not or cannot be made to fit; `each` was not called then.
    pub fn fit(
        &mut self,
        frame: &WireFrame<'_>,
        room: usize,
        mut each: impl FnMut(&WireFrame<'_>, bool),
    ) -> Result<u64, DropReason> {
        if frame.len() <= room {
            each(frame, false);
            return Ok(1);
        }
        match self.policy {
            Fit::Split => self.split(frame, room, each).ok_or(DropReason::Oversize),
            Fit::Truncate => {
                each(&frame.truncated(room), true);
                Ok(1)
            }
            Fit::Drop | Fit::Fragment => Err(DropReason::Oversize),
        }
    }

    /// TCP into segments, any other IP into fragments. `None`, before the first piece, when neither can be, or when more
    /// would be left out than padding or a trailer behind the packet. The first piece counts as cut where such a trailer is
    /// left out.
    // Out of the way of the frames that fit.
    #[inline(never)]
    fn split(&mut self, frame: &WireFrame<'_>, room: usize, mut each: impl FnMut(&WireFrame<'_>, bool)) -> Option<u64> {
        let packet = frame.layers.ip.filter(|_| !frame.is_truncated())?;
        let trailer = frame.body.get(packet.end.saturating_sub(frame.head.len())..).unwrap_or_default();
        // Padding is zero, of any length.
        let mut cut = trailer.iter().any(|&byte| byte != 0);
        if cut && trailer.len() > MOST_TRAILER {
            return None;
        }
        if packet.end <= room {
            // Only what stands behind the packet is too much.
            let (head, body) = (frame.head, frame.body.get(..packet.end.checked_sub(frame.head.len())?)?);
            each(&frame.piece(head, body, packet), cut);
            return Some(1);
        }
        let offer =
            |head: &[u8], body: &[u8], packet: Ip| each(&frame.piece(head, body, packet), std::mem::take(&mut cut));
        if let Some((headers, payload)) = tcp_at_payload(frame, &packet) {
            // Its signature covers the segment as it is.
            if is_signed(&headers[packet.transport..]) {
                return None;
            }
            let nested = Nested::only(packet);
            if let Some(segmenter) = Segmenter::new(&mut self.headers, headers, payload, nested, Partial::Wrong) {
                return segmenter.cut(room, offer);
            }
        }
        self.identification = self.identification.wrapping_add(1);
        let fragmenter = Fragmenter::new(&mut self.headers, frame.head, frame.body, packet, self.identification)?;
        fragmenter.cut(room, offer)
    }
}

/// Headers up to the TCP payload, and what follows, of a packet that is TCP and no fragment.
fn tcp_at_payload<'a>(frame: &WireFrame<'a>, packet: &Ip) -> Option<(&'a [u8], &'a [u8])> {
    let payload = packet.payload.filter(|_| packet.protocol == TCP && packet.fragment == Fragment::Whole)?;
    match frame.head.len() {
        0 => frame.body.split_at_checked(payload),
        length => (length == payload).then_some((frame.head, frame.body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowHash;
    use crate::frame::InterfaceId;
    use crate::quantity::Timestamp;
    use crate::wire::layers::Layers;
    use crate::wire::oracle::{segment, tcp_frame, udp_frame};
    use etherparse::defrag::IpDefragPool;
    use etherparse::{Ipv4HeaderSlice, SlicedPacket, TcpHeader};
    use proptest::prelude::*;

    /// The frame with its first `head` bytes rewritten, as normalise gives it.
    fn wire(bytes: &[u8], head: usize) -> WireFrame<'_> {
        let (head, body) = bytes.split_at(head);
        WireFrame {
            head,
            body,
            wire_len: bytes.len().try_into().unwrap(),
            layers: Layers::parse(bytes),
            flow: FlowHash(7),
            timestamp: Timestamp::default(),
            direction: None,
            interface: InterfaceId::default(),
            origin: None,
        }
    }

    /// What becomes of a frame, as whole frames, none of which is longer than `room`.
    fn fitted(fitter: &mut Fitter, frame: &WireFrame<'_>, room: usize) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut pieces = Vec::new();
        let count = fitter.fit(frame, room, |piece, _| {
            let mut bytes = vec![0; piece.len()];
            piece.copy_to(&mut bytes);
            assert!(bytes.len() <= room);
            if !piece.is_truncated() {
                assert_eq!(piece.layers, Layers::parse(&bytes));
            }
            assert_eq!(piece.flow, FlowHash(7));
            pieces.push(bytes);
        });
        match count {
            Ok(count) => assert_eq!(count, pieces.len() as u64),
            Err(_) => assert!(pieces.is_empty()),
        }
        count.map(|_| pieces)
    }

    fn split(bytes: &[u8], room: usize) -> Result<Vec<Vec<u8>>, DropReason> {
        fitted(&mut Fitter::new(Fit::Split), &wire(bytes, 0), room)
    }

    /// What etherparse makes of fragments, in the order given: protocol and payload of the packet.
    fn reassembled(fragments: &[Vec<u8>]) -> Option<(u8, Vec<u8>)> {
        let mut pool = IpDefragPool::<(), ()>::new();
        let (last, others) = fragments.split_last()?;
        for fragment in others {
            let sliced = SlicedPacket::from_ethernet(fragment).unwrap();
            assert_eq!(pool.process_sliced_packet(&sliced, (), ()), Ok(None));
        }
        let whole = pool.process_sliced_packet(&SlicedPacket::from_ethernet(last).unwrap(), (), ()).unwrap()?;
        Some((whole.ip_number.0, whole.payload))
    }

    fn tcp_header() -> TcpHeader {
        TcpHeader { ack: true, psh: true, fin: true, ..TcpHeader::new(443, 50_000, 1000, 501) }
    }

    fn data(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn a_frame_that_fits_passes_whatever_the_policy() {
        let frame = udp_frame(false, 53, &data(1000));
        for policy in [Fit::Split, Fit::Fragment, Fit::Truncate, Fit::Drop] {
            assert_eq!(fitted(&mut Fitter::new(policy), &wire(&frame, 42), frame.len()), Ok(vec![frame.clone()]));
        }
    }

    #[test]
    fn the_other_policies_do_what_they_say() {
        let frame = udp_frame(false, 53, &data(1472));
        let too_large = wire(&frame, 42);
        let mut seen = Vec::new();
        let count = Fitter::new(Fit::Truncate).fit(&too_large, 1464, |piece, cut| {
            seen.push((piece.len(), piece.wire_len, piece.is_truncated(), cut));
        });
        assert_eq!((count, seen), (Ok(1), vec![(1464, 1514, true, true)]));
        // What is too long for one IP packet no kernel fragments.
        for policy in [Fit::Drop, Fit::Fragment] {
            assert_eq!(fitted(&mut Fitter::new(policy), &too_large, 1464), Err(DropReason::Oversize));
        }
    }

    #[test]
    fn a_full_segment_leaves_as_two() {
        let frame = tcp_frame(true, 1, tcp_header(), &data(1440));
        let mut padded = frame.clone();
        padded.extend([0xee; 4]);
        let pieces = split(&padded, 1464).unwrap();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1464, 132]);
        let seen: Vec<_> = pieces.iter().map(|piece| segment(piece)).collect();
        assert_eq!(
            seen.iter().map(|piece| (piece.sequence, piece.flags)).collect::<Vec<_>>(),
            [(1000, 16), (2386, 25)]
        );
        assert!(seen.iter().all(|piece| piece.error == 0));
        // What normalise has rewritten is cut in the same way.
        assert_eq!(fitted(&mut Fitter::new(Fit::Split), &wire(&frame, 78), 1464).unwrap(), pieces);
    }

    /// What an evasion tool sends, an analyzer has rules for: the flag goes only with the byte that it points to.
    #[test]
    fn an_urgent_pointer_to_nothing_stays_on_the_first_piece() {
        const URG: u8 = 0x20;
        for (pointer, expected) in [(0, [Some(0), None]), (900, [Some(900), None]), (1200, [Some(1200), Some(254)])] {
            let header = TcpHeader { urg: true, urgent_pointer: pointer, ..tcp_header() };
            let pieces = split(&tcp_frame(false, 0, header, &data(1400)), 1000).unwrap();
            let urgent =
                |piece: &Vec<u8>| Some(segment(piece)).filter(|seen| seen.flags & URG != 0).map(|seen| seen.urgent);
            assert_eq!(pieces.iter().map(urgent).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_trailer_alone_is_left_out() {
        let frame = tcp_frame(false, 0, tcp_header(), &data(1000));
        let padded = [frame.as_slice(), &[0; 100]].concat();
        assert_eq!(split(&padded, 1060), Ok(vec![frame.clone()]));
        assert_eq!(fitted(&mut Fitter::new(Fit::Split), &wire(&padded, 54), 1060), Ok(vec![frame]));
    }

    #[test]
    fn what_cannot_be_split_is_oversize() {
        let payload = data(1400);
        let mut signed = tcp_header();
        signed.set_options_raw(&[[1, 1, 19, 18].as_slice(), &[0xaa; 16]].concat()).unwrap();
        let mpls = [[2; 12].as_slice(), &[0x88, 0x47], &payload].concat();
        for frame in [tcp_frame(false, 0, signed, &payload), mpls] {
            assert_eq!(split(&frame, 1000), Err(DropReason::Oversize));
        }
        // Without a length of its own, where the packet ends is a guess.
        for (is_ipv6, length) in [(false, 16), (true, 18)] {
            let mut endless = udp_frame(is_ipv6, 53, &payload);
            endless[length..length + 2].fill(0);
            assert_eq!(split(&endless, 1000), Err(DropReason::Oversize));
        }
        let frame = udp_frame(false, 53, &payload);
        let cut = WireFrame { wire_len: 2000, ..wire(&frame, 0) };
        assert_eq!(fitted(&mut Fitter::new(Fit::Split), &cut, 1000), Err(DropReason::Oversize));
        for room in 0..50 {
            assert_eq!(split(&tcp_frame(false, 0, tcp_header(), &payload), room), Err(DropReason::Oversize));
            assert_eq!(split(&udp_frame(true, 53, &payload), room), Err(DropReason::Oversize));
        }
    }

    /// Data in a segment that opens or resets a connection is part of that segment, not of the stream.
    #[test]
    fn a_reset_with_data_becomes_fragments() {
        for header in [TcpHeader { rst: true, ..tcp_header() }, TcpHeader { syn: true, ..tcp_header() }] {
            let frame = tcp_frame(false, 0, header, &data(1400));
            assert_eq!(reassembled(&split(&frame, 1000).unwrap()), Some((6, frame[34..].to_vec())));
        }
    }

    #[test]
    fn ipv4_fragments_may_be_fragmented_and_have_an_identification_of_their_own() {
        let frame = udp_frame(false, 53, &data(1472));
        let mut fitter = Fitter::new(Fit::Split).numbering_from(1);
        let header_of = |piece: &Vec<u8>| Ipv4HeaderSlice::from_slice(&piece[14..]).unwrap().to_header();
        // The head ends with the UDP header, or with a header inside the tunnel that the datagram may be.
        for (head, identification) in [(0, 1), (42, 2), (116, 3)] {
            let pieces = fitted(&mut fitter, &wire(&frame, head), 1464).unwrap();
            for piece in &pieces {
                let header = header_of(piece);
                assert!(!header.dont_fragment);
                assert_eq!(header.identification, identification);
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            }
            assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1458, 90]);
            assert_eq!(reassembled(&pieces), Some((17, frame[34..].to_vec())));
        }
    }

    /// RFC 791 section 3.1: loose source routing (131) is copied, record route (7) is not.
    #[test]
    fn later_ipv4_fragments_have_only_the_options_that_are_copied() {
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 131, 7, 4, 192, 0, 2, 9, 0];
        let mut frame = udp_frame(false, 53, &data(1000));
        frame.splice(34..34, options);
        frame[14] = 0x49;
        let length = u16::try_from(frame.len() - 14).unwrap().to_be_bytes();
        frame[16..18].copy_from_slice(&length);
        frame[24..26].fill(0);
        let checksum = crate::wire::checksum::Sum::of(&frame[14..50]).checksum().to_be_bytes();
        frame[24..26].copy_from_slice(&checksum);
        let pieces = split(&frame, 500).unwrap();
        assert_eq!(pieces[0][34..50], options);
        for piece in &pieces {
            let header = Ipv4HeaderSlice::from_slice(&piece[14..]).unwrap().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        for piece in &pieces[1..] {
            assert_eq!(piece[14], 0x47);
            assert_eq!(piece[34..42], [131, 7, 4, 192, 0, 2, 9, 0]);
        }
        assert_eq!(reassembled(&pieces), Some((17, frame[50..].to_vec())));
        // A header checksum that is wrong is as wrong in every piece.
        frame[24] ^= 0x10;
        for (piece, right) in split(&frame, 500).unwrap().iter().zip(&pieces) {
            let sum = |frame: &[u8]| crate::wire::checksum::Sum::of(&frame[14..14 + usize::from(frame[14] & 15) * 4]);
            assert_eq!(sum(piece).error(), sum(&frame).error());
            assert_ne!(sum(piece).error(), sum(right).error());
        }
    }

    /// RFC 8200 section 4.5: hop-by-hop options and routing header stand before the Fragment header, destination
    /// options for the last destination behind it.
    #[test]
    fn an_ipv6_fragment_header_stands_behind_what_routers_read() {
        let frame = udp_frame(true, 53, &data(1400));
        let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
        let for_every_hop = [43, 0, 1, 4, 0, 0, 0, 0];
        let routing = [60, 0, 0xfd, 0, 0, 0, 0, 0];
        let for_the_last = [17, 0, 1, 4, 0, 0, 0, 0];
        let extensions = [hop_by_hop, for_every_hop, routing, for_the_last].concat();
        let mut extended = frame.clone();
        extended.splice(54..54, extensions.iter().copied());
        extended[20] = 0;
        let length = u16::try_from(extended.len() - 54).unwrap().to_be_bytes();
        extended[18..20].copy_from_slice(&length);
        for head in [0, 94] {
            let pieces = fitted(&mut Fitter::new(Fit::Split), &wire(&extended, head), 1000).unwrap();
            assert_eq!(pieces.len(), 2);
            for piece in &pieces {
                assert_eq!(piece[20], 0);
                assert_eq!(piece[54..70], extended[54..70]);
                assert_eq!(piece[70..78], [44, 0, 0xfd, 0, 0, 0, 0, 0]);
                assert_eq!(piece[78..80], [60, 0]);
            }
            let data: Vec<u8> = pieces.iter().flat_map(|piece| piece[86..].to_vec()).collect();
            assert_eq!(data, extended[78..]);
        }
    }

    proptest! {
        #[test]
        fn segments_together_are_the_segment(
            (is_ipv6, tags) in (any::<bool>(), 0..3_u8), size in 1..9000_usize, room in 200..3000_usize, wrong in any::<u8>(),
        ) {
            let mut frame = tcp_frame(is_ipv6, tags, tcp_header(), &data(size));
            let packet = Layers::parse(&frame).ip.unwrap();
            frame[packet.transport + 16] ^= wrong;
            let whole = segment(&frame);
            let mut merged = Vec::new();
            let pieces = split(&frame, room).unwrap();
            prop_assert_eq!(pieces.len(), size.div_ceil(room - packet.payload.unwrap()));
            for piece in pieces {
                let seen = segment(&piece);
                prop_assert_eq!(seen.error, whole.error);
                prop_assert_eq!(seen.sequence, whole.sequence + u32::try_from(merged.len()).unwrap());
                merged.extend(seen.payload);
            }
            prop_assert_eq!(merged, whole.payload);
        }

        /// Fragments may meet another destination with an even narrower path.
        #[test]
        fn fragments_of_fragments_reassemble(
            is_ipv6 in any::<bool>(), size in 600..9000_usize, room in 220..1400_usize, narrower in 120..200_usize,
        ) {
            let frame = udp_frame(is_ipv6, 53, &data(size));
            let transport = Layers::parse(&frame).ip.unwrap().transport;
            let whole = Some((17, frame[transport..].to_vec()));
            let mut fitter = Fitter::new(Fit::Split);
            let pieces = match fitted(&mut fitter, &wire(&frame, 0), room) {
                Ok(pieces) if pieces.len() > 1 => pieces,
                other => {
                    prop_assert_eq!(other, Ok(vec![frame]));
                    return Ok(());
                }
            };
            prop_assert_eq!(&reassembled(&pieces), &whole);
            let mut narrow = |piece: &Vec<u8>| fitted(&mut fitter, &wire(piece, 0), narrower).unwrap();
            let smaller: Vec<_> = pieces.iter().flat_map(&mut narrow).collect();
            prop_assert!(smaller.len() > pieces.len());
            prop_assert_eq!(&reassembled(&smaller), &whole);
        }

        /// Whatever the bytes are, nothing panics and nothing is too long.
        #[test]
        fn any_bytes_are_split_or_dropped(
            is_ipv6 in any::<bool>(), is_tcp in any::<bool>(), size in 0..2000_usize, room in 14..1500_usize, head in any::<bool>(),
            changes in proptest::collection::vec((12..80_usize, any::<u8>()), 0..8),
        ) {
            let mut frame = if is_tcp {
                tcp_frame(is_ipv6, 0, tcp_header(), &data(size))
            } else {
                udp_frame(is_ipv6, 4789, &data(size))
            };
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            let payload = Layers::parse(&frame).ip.and_then(|packet| packet.payload);
            let head = payload.filter(|_| head).unwrap_or(0);
            let mut lengths = Vec::new();
            let count = Fitter::new(Fit::Split).fit(&wire(&frame, head), room, |piece, _| lengths.push(piece.len()));
            prop_assert!(lengths.iter().all(|&length| length <= room));
            prop_assert_eq!(count.unwrap_or(0), lengths.len() as u64);
        }
    }
}
