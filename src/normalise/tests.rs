use super::vectors::{VECTORS, payload};
use super::*;
use crate::quantity::Mtu;
use std::num::NonZeroU16;

use crate::frame::{At, testing};
use crate::wire::checksum::{ChecksumError, Sum};
use crate::wire::edit::{checksum_field, put};
use crate::wire::layers::UDP;
use crate::wire::nested::Nested;
use crate::wire::oracle::{ip_frame, segment, tcp_frame, udp_frame};
use etherparse::TcpHeader;
use proptest::prelude::*;

/// What becomes of a frame, as whole wire frames.
fn normalise_as(frame: &Frame<'_>, truncate: Option<Snaplen>) -> (Result<Vec<Vec<u8>>, DropReason>, Rewritten) {
    let (mut wire, mut rewritten) = (Vec::new(), Rewritten::default());
    let layers = Layers::parse(frame.bytes);
    let count = Normaliser::new(truncate).apply(frame, &layers, FlowHash(7), &mut rewritten, |piece| {
        let mut bytes = vec![0; piece.len()];
        piece.copy_to(&mut bytes);
        if truncate.is_none() {
            assert_eq!(piece.layers, Layers::parse(&bytes));
            assert_eq!(piece.is_truncated(), frame.wire_len as usize > frame.bytes.len());
        }
        assert_eq!(piece.flow, FlowHash(7));
        wire.push(bytes);
        ControlFlow::Continue(())
    });
    if let Ok(count) = count {
        assert_eq!(count, wire.len() as u64);
    } else {
        assert!(wire.is_empty());
        assert_eq!(rewritten, Rewritten::default());
    }
    (count.map(|_| wire), rewritten)
}

fn captured(bytes: &[u8], mtu: u64) -> Frame<'_> {
    Frame { offload: Offload::Unknown { mtu: Mtu::new(mtu).unwrap() }, ..testing::frame(bytes) }
}

fn normalise(bytes: &[u8], mtu: u64) -> (Result<Vec<Vec<u8>>, DropReason>, Rewritten) {
    normalise_as(&captured(bytes, mtu), None)
}

/// The frame passes byte for byte, and nothing is counted.
fn assert_untouched(bytes: &[u8]) {
    assert_eq!(normalise(bytes, 1500), (Ok(vec![bytes.to_vec()]), Rewritten::default()));
}

fn assert_unsegmentable(bytes: &[u8]) {
    assert_eq!(normalise(bytes, 1500).0, Err(DropReason::Unsegmentable));
}

const ONE_SUPER_FRAME: Rewritten = Rewritten { super_frames: 1, checksums: 0, tags: 0 };
const ONE_CHECKSUM: Rewritten = Rewritten { super_frames: 0, checksums: 1, tags: 0 };

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn tcp_header() -> TcpHeader {
    TcpHeader { ack: true, acknowledgment_number: 9, ..TcpHeader::new(443, 50_000, 0xffff_ff00, 501) }
}

/// Leaves the frame's TCP or UDP checksum as Linux does for the hardware.
fn make_partial(frame: &mut [u8]) {
    let packet = *Nested::within(frame, Layers::parse(frame).ip.unwrap()).packets().last().unwrap();
    let length = packet.end - packet.transport;
    let sum = Sum::pseudo_header(&packet, frame, packet.protocol, length).fold();
    put(frame, checksum_field(&packet).unwrap(), sum);
}

/// VXLAN around an Ethernet frame.
fn in_vxlan(inner: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, 42, 0], inner].concat()
}

#[test]
fn super_frames_become_the_segments_that_linux_makes_of_them() {
    for vector in VECTORS {
        let (headers, payload) = (bytes_of(vector.super_frame), payload());
        let (segments, rewritten) = normalise(&[headers.as_slice(), &payload].concat(), 1500);
        let size = 1514 - headers.len();
        let expected: Vec<Vec<u8>> = vector
            .segments
            .iter()
            .zip(payload.chunks(size))
            .map(|(headers, payload)| [bytes_of(headers).as_slice(), payload].concat())
            .collect();
        assert_eq!((segments, rewritten), (Ok(expected), ONE_SUPER_FRAME), "{}", vector.name);
    }
}

/// What the kernel tells about a frame whose payload begins at `headers`, for segments of `size` bytes.
fn told(bytes: &[u8], size: u16) -> Offload {
    let packet = *Nested::within(bytes, Layers::parse(bytes).ip.unwrap()).packets().last().unwrap();
    let start = packet.transport.try_into().unwrap();
    let offset = (checksum_field(&packet).unwrap() - packet.transport).try_into().unwrap();
    Offload::Exact(Unfinished { segment: NonZeroU16::new(size), checksum: Some(At { start, offset }) })
}

#[test]
fn segments_have_the_size_that_the_kernel_told() {
    for vector in VECTORS {
        let (headers, payload) = (bytes_of(vector.super_frame), payload());
        let bytes = [headers.as_slice(), &payload].concat();
        let exactly = |size: usize| {
            let offload = told(&bytes, size.try_into().unwrap());
            normalise_as(&Frame { offload, ..captured(&bytes, 1500) }, None)
        };
        let full = 1514 - headers.len();
        assert_eq!(exactly(full), normalise(&bytes, 1500), "{}", vector.name);
        // A smaller MSS is what the sender negotiated: an MTU that holds just that gives the same.
        assert_eq!(exactly(full - 100), normalise(&bytes, 1400), "{}", vector.name);
    }
}

#[test]
fn a_udp_super_frame_becomes_the_datagrams_that_the_kernel_told() {
    let data: Vec<u8> = (0..=255).cycle().take(3_100).collect();
    let mut bytes = udp_frame(false, 443, &data);
    make_partial(&mut bytes);
    assert_eq!(normalise(&bytes, 1500).0, Err(DropReason::Unsegmentable), "its boundaries cannot be guessed");
    let frame = Frame { offload: told(&bytes, 1200), ..captured(&bytes, 1500) };
    let (datagrams, rewritten) = normalise_as(&frame, None);
    let datagrams = datagrams.unwrap();
    assert_eq!((datagrams.len(), rewritten), (3, ONE_SUPER_FRAME));
    let carried: Vec<Vec<u8>> = datagrams
        .iter()
        .map(|datagram| {
            let packet = Layers::parse(datagram).ip.unwrap();
            let sum = Sum::pseudo_header(&packet, datagram, UDP, packet.end - packet.transport)
                .then_bytes(&datagram[packet.transport..]);
            assert_eq!(sum.error(), ChecksumError::NONE);
            datagram[packet.payload.unwrap()..].to_vec()
        })
        .collect();
    assert_eq!(carried, data.chunks(1200).map(<[u8]>::to_vec).collect::<Vec<_>>());
}

#[test]
fn a_checksum_is_finished_where_the_kernel_told_and_only_there() {
    let right = tcp_frame(true, 1, tcp_header(), &[7; 301]);
    let mut partial = right.clone();
    make_partial(&mut partial);
    let exactly = |bytes: &[u8], offload| normalise_as(&Frame { offload, ..captured(bytes, 1500) }, None);
    assert_eq!(exactly(&partial, told(&partial, 0)), (Ok(vec![right]), ONE_CHECKSUM));
    let untold = Offload::Exact(Unfinished::default());
    assert_eq!(exactly(&partial, untold), (Ok(vec![partial.clone()]), Rewritten::default()));
    let beyond = At { start: 5_000, offset: 16 };
    let nonsense = Offload::Exact(Unfinished { segment: None, checksum: Some(beyond) });
    assert_eq!(exactly(&partial, nonsense), (Ok(vec![partial]), Rewritten::default()));
}

#[test]
fn a_recorded_super_frame_is_left_alone() {
    let vector = [bytes_of(VECTORS[0].super_frame), payload()].concat();
    let frame = Frame { offload: Offload::Whole, ..captured(&vector, 1500) };
    assert_eq!(normalise_as(&frame, None), (Ok(vec![vector.clone()]), Rewritten::default()));
}

#[test]
fn truncation_comes_last_and_keeps_the_length_on_the_wire() {
    let vector = [bytes_of(VECTORS[0].super_frame), payload()].concat();
    let whole = normalise(&vector, 1500).0.unwrap();
    for snaplen in [14, 60, 66, 100, 1514] {
        let cut = normalise_as(&captured(&vector, 1500), Some(Snaplen::new(snaplen).unwrap())).0.unwrap();
        let keep = usize::try_from(snaplen).unwrap();
        assert_eq!(cut, whole.iter().map(|frame| frame[..keep.min(frame.len())].to_vec()).collect::<Vec<_>>());
    }
    let mut lengths = Vec::new();
    Normaliser::new(Some(Snaplen::new(60).unwrap()))
        .apply(&captured(&vector, 1500), &Layers::parse(&vector), FlowHash(0), &mut Rewritten::default(), |piece| {
            lengths.push((piece.len(), piece.wire_len, piece.is_truncated()));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(lengths, [(60, 1514, true), (60, 1514, true), (60, 170, true)]);
}

#[test]
fn a_super_frame_is_one_by_its_packet_length_and_not_by_padding_or_tags() {
    let mut full = tcp_frame(false, 2, tcp_header(), &[1; 1460]);
    assert_eq!(full.len(), 1522);
    full.extend([0; 20]);
    assert_untouched(&full);
    let one_more = tcp_frame(false, 2, tcp_header(), &[1; 1461]);
    assert_eq!(normalise(&one_more, 1500).0.unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [1522, 63]);
}

/// Evasion tools and broken senders claim lengths that nothing stands behind; an analyzer has rules for that.
#[test]
fn a_packet_that_claims_more_than_its_frame_has_is_no_super_frame() {
    for (is_ipv6, length) in [(false, 16), (true, 18)] {
        for mut frame in [tcp_frame(is_ipv6, 0, tcp_header(), &[1; 100]), udp_frame(is_ipv6, 53, &[1; 100])] {
            put(&mut frame, length, 60_000);
            assert_untouched(&frame);
        }
    }
}

/// BIG TCP: IPv6 with the jumbo option that the kernel takes out again, and IPv4 with no length at all.
#[test]
fn super_frames_over_64_kib_become_ordinary_packets() {
    let data: Vec<u8> = (0..=255).cycle().take(180_000).collect();
    for is_ipv6 in [false, true] {
        let mut frame = tcp_frame(is_ipv6, 0, TcpHeader { psh: true, ..tcp_header() }, &[]);
        if is_ipv6 {
            frame[18..20].fill(0);
            frame[20] = 0;
            let length = u32::try_from(8 + 20 + data.len()).unwrap().to_be_bytes();
            frame.splice(54..54, [&[6, 0, 0xc2, 4], length.as_slice()].concat());
        } else {
            frame[16..18].fill(0);
            frame[24..26].fill(0);
            let checksum = Sum::of(&frame[14..34]).checksum();
            put(&mut frame, 24, checksum);
        }
        frame.extend(&data);
        make_partial(&mut frame);
        let (segments, rewritten) = normalise(&frame, 1500);
        assert_eq!(rewritten, ONE_SUPER_FRAME);
        let segments: Vec<_> = segments.unwrap().iter().map(|frame| segment(frame)).collect();
        assert!(segments.iter().all(|segment| segment.error == 0));
        // On an interface whose MTU is as large, as loopback's is.
        let largest = normalise(&frame, 100_000).0.unwrap();
        assert_eq!(largest.iter().map(|frame| segment(frame).payload.len()).sum::<usize>(), data.len());
        assert_eq!(largest[0].len(), 14 + 65_535);
        assert_eq!(segments.into_iter().flat_map(|segment| segment.payload).collect::<Vec<_>>(), data);
    }
}

/// Newer kernels leave the jumbo option out.
#[test]
fn an_ipv6_super_frame_without_a_length_is_recognised() {
    let mut frame = tcp_frame(true, 0, tcp_header(), &[]);
    frame[18..20].fill(0);
    frame.extend(vec![7; 100_000]);
    let segments = normalise(&frame, 1500).0.unwrap();
    assert_eq!(segments.iter().map(|frame| segment(frame).payload.len()).sum::<usize>(), 100_000);
}

/// A program that sends VXLAN datagrams with `UDP_SEGMENT`: here each carries the same inner frame but the last.
#[test]
fn glued_tunnel_datagrams_are_cut_where_each_ends() {
    for is_ipv6 in [false, true] {
        let datagram = in_vxlan(&tcp_frame(false, 0, tcp_header(), &[5; 400]));
        let last = in_vxlan(&tcp_frame(true, 1, tcp_header(), &[6; 30]));
        let mut frame = udp_frame(is_ipv6, 4789, &[&*datagram, &*datagram, &*datagram, &*datagram, &*last].concat());
        // The outer checksum is what UDP_SEGMENT leaves to the hardware.
        let outermost = Layers::parse(&frame).ip.unwrap();
        let sum = Sum::pseudo_header(&outermost, &frame, 17, outermost.end - outermost.transport).fold();
        put(&mut frame, checksum_field(&outermost).unwrap(), sum);

        let (pieces, rewritten) = normalise(&frame, 1500);
        let mut expected = [&datagram, &datagram, &datagram, &datagram, &last].map(|it| udp_frame(is_ipv6, 4789, it));
        if !is_ipv6 {
            for (piece, identification) in expected.iter_mut().zip([0xfffe_u16, 0xffff, 0, 1, 2]) {
                put(piece, 18, identification);
                put(piece, 24, 0);
                let checksum = Sum::of(&piece[14..34]).checksum();
                put(piece, 24, checksum);
            }
        }
        assert_eq!((pieces, rewritten), (Ok(expected.to_vec()), ONE_SUPER_FRAME));
    }
}

/// Tunnel headers from the outer IP payload to the inner Ethernet frame or, last four, to the inner IP packet.
fn tunnels() -> Vec<(u8, Vec<u8>, bool)> {
    let udp = |port: u16, header: &[u8]| {
        let port = port.to_be_bytes();
        (17, [&[0xc0, 0, port[0], port[1], 0, 0, 0, 0], header].concat(), true)
    };
    vec![
        udp(4789, &[8, 0, 0, 0, 0, 0, 42, 0]),
        udp(8472, &[8, 0, 0, 0, 0, 0, 42, 0]),
        udp(6081, &[2, 0, 0x65, 0x58, 0, 0, 42, 0, 1, 2, 3, 1, 9, 9, 9, 9]),
        (47, vec![0, 0, 0x65, 0x58], true),
        (47, vec![0x20, 0, 0x65, 0x58, 0, 0, 0, 42], true),
        (47, vec![0, 0, 8, 0], false),
        (47, vec![0, 0, 0x86, 0xdd], false),
        (4, vec![], false),
        (41, vec![], false),
    ]
}

/// A frame in a tunnel, with the lengths that it needs and the UDP checksum that Linux leaves to the hardware.
fn tunnelled(is_ipv6: bool, (protocol, header, has_ethernet): &(u8, Vec<u8>, bool), inner: &[u8]) -> Vec<u8> {
    let inside = if *has_ethernet { inner } else { &inner[14..] };
    let mut frame = ip_frame(is_ipv6, *protocol, &[header, inside].concat());
    if *protocol == 17 {
        let outermost = Layers::parse(&frame).ip.unwrap();
        let length = outermost.end - outermost.transport;
        put(&mut frame, outermost.transport + 4, length.try_into().unwrap());
        let sum = Sum::pseudo_header(&outermost, &frame, 17, length).fold();
        put(&mut frame, outermost.transport + 6, sum);
    }
    frame
}

#[test]
fn a_super_frame_in_a_tunnel_is_cut_as_it_would_be_outside() {
    let data: Vec<u8> = (0..=250).cycle().take(5001).collect();
    for ((protocol, header, has_ethernet), is_ipv6) in
        tunnels().into_iter().flat_map(|tunnel| [(tunnel.clone(), false), (tunnel, true)])
    {
        let inner_is_ipv6 = protocol == 41 || header == [0, 0, 0x86, 0xdd];
        let mut inner = tcp_frame(inner_is_ipv6, 0, TcpHeader { psh: true, cwr: true, ..tcp_header() }, &data);
        make_partial(&mut inner);
        let tunnel = (protocol, header, has_ethernet);
        let frame = tunnelled(is_ipv6, &tunnel, &inner);
        let (pieces, rewritten) = normalise(&frame, 1500);
        assert_eq!(rewritten, ONE_SUPER_FRAME, "{tunnel:?}");

        let overhead = frame.len() - inner.len();
        let inside = normalise(&inner, 1500 - overhead as u64).0.unwrap();
        let pieces = pieces.unwrap();
        assert_eq!(pieces.len(), inside.len());
        for (position, (piece, inside)) in pieces.iter().zip(&inside).enumerate() {
            let mut expected = tunnelled(is_ipv6, &tunnel, inside);
            if !is_ipv6 {
                let identification = 0xfffe_u16.wrapping_add(position.try_into().unwrap());
                put(&mut expected, 18, identification);
                put(&mut expected, 24, 0);
                let checksum = Sum::of(&expected[14..34]).checksum();
                put(&mut expected, 24, checksum);
            }
            if tunnel.0 == 17 {
                let sliced = etherparse::SlicedPacket::from_ethernet(piece).unwrap();
                let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                let right = match sliced.net.unwrap() {
                    etherparse::NetSlice::Ipv4(ip) => {
                        udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap()
                    }
                    etherparse::NetSlice::Ipv6(ip) => {
                        udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap()
                    }
                    etherparse::NetSlice::Arp(_) => panic!("ARP"),
                };
                let field = if is_ipv6 { 60 } else { 40 };
                put(&mut expected, field, right);
            }
            assert_eq!(piece, &expected, "{tunnel:?}");
        }
    }
}

#[test]
fn a_tunnel_in_a_tunnel_is_followed() {
    let mut inner = tcp_frame(true, 0, tcp_header(), &[9; 4000]);
    make_partial(&mut inner);
    let tunnel = &tunnels()[0];
    let frame = tunnelled(false, &tunnels()[3], &tunnelled(true, tunnel, &inner));
    let (pieces, rewritten) = normalise(&frame, 1500);
    assert_eq!(rewritten, ONE_SUPER_FRAME);
    let before_inner = frame.len() - inner.len();
    let payload: Vec<u8> = pieces.unwrap().iter().flat_map(|piece| segment(&piece[before_inner..]).payload).collect();
    assert_eq!(payload, [9; 4000]);
}

/// Sequence numbers of a tunnel are its sender's to give out; a GRE checksum is not among those that are known here.
#[test]
fn gre_with_sequence_or_checksum_is_unsegmentable() {
    for flags in [0x10, 0x80] {
        let tunnel = (47, vec![flags, 0, 0x65, 0x58, 0, 0, 0, 1], true);
        assert_unsegmentable(&tunnelled(false, &tunnel, &tcp_frame(false, 0, tcp_header(), &[1; 3000])));
    }
}

#[test]
fn what_cannot_be_known_is_unsegmentable() {
    let data = [1; 3000];
    assert_unsegmentable(&udp_frame(false, 443, &data));
    assert_unsegmentable(&udp_frame(true, 443, &data));
    assert_unsegmentable(&udp_frame(false, 4789, &data));
    assert_unsegmentable(&tcp_frame(false, 0, TcpHeader { syn: true, ..tcp_header() }, &data));
    assert_unsegmentable(&tcp_frame(false, 0, TcpHeader { rst: true, ..tcp_header() }, &data));
    for signature in [19, 29] {
        let mut signed = tcp_header();
        signed.set_options_raw(&[[1, 1, signature, 18].as_slice(), &[0xaa; 16]].concat()).unwrap();
        assert_unsegmentable(&tcp_frame(false, 0, signed, &data));
    }
    let mpls = [[2; 12].as_slice(), &[0x88, 0x47], &data].concat();
    assert_unsegmentable(&mpls);
    // Tunnel datagrams that would not fit either, or of different lengths.
    let (long, short) = (in_vxlan(&udp_frame(false, 53, &data)), in_vxlan(&udp_frame(false, 53, b"short")));
    assert_unsegmentable(&udp_frame(false, 4789, &[&*long, &*long].concat()));
    assert_unsegmentable(&udp_frame(false, 4789, &[&*short, &*long].concat()));
    // Bytes behind the packet inside the tunnel inside the tunnel.
    let trailer = [in_vxlan(&tcp_frame(false, 0, tcp_header(), &data)), vec![0; 4]].concat();
    assert_unsegmentable(&udp_frame(false, 4789, &in_vxlan(&udp_frame(false, 4789, &trailer))));

    let whole = tcp_frame(false, 0, tcp_header(), &data);
    let cut = Frame { wire_len: 3054, ..captured(&whole[..2000], 1500) };
    assert_eq!(normalise_as(&cut, None).0, Err(DropReason::Unsegmentable));
    let mut fragment = whole;
    fragment[20] = 0x20;
    assert_unsegmentable(&fragment);
}

#[test]
fn partial_checksums_are_finished() {
    for is_ipv6 in [false, true] {
        for right in [tcp_frame(is_ipv6, 1, tcp_header(), b"odd"), udp_frame(is_ipv6, 53, b"even")] {
            assert_untouched(&right);
            let mut partial = right.clone();
            make_partial(&mut partial);
            assert_ne!(partial, right);
            assert_eq!(normalise(&partial, 1500), (Ok(vec![right]), ONE_CHECKSUM));
        }
    }
}

#[test]
fn the_partial_checksum_of_a_packet_in_a_tunnel_is_finished_and_the_outer_one_left() {
    let right = tcp_frame(true, 1, tcp_header(), b"inner");
    let mut partial = right.clone();
    make_partial(&mut partial);
    for is_ipv6 in [false, true] {
        // Local checksum offload: the outer checksum is that of the finished packet.
        let finished = udp_frame(is_ipv6, 8472, &in_vxlan(&right));
        let mut captured = finished.clone();
        let inner = captured.len() - partial.len();
        captured[inner..].copy_from_slice(&partial);
        assert_eq!(normalise(&captured, 1500), (Ok(vec![finished]), ONE_CHECKSUM));
        // The outer checksum confirms that the inner one went over the wire unfinished.
        assert_untouched(&udp_frame(is_ipv6, 4789, &in_vxlan(&partial)));
        // Another port says nothing about what is inside.
        let mut elsewhere = udp_frame(is_ipv6, 4700, &in_vxlan(&partial));
        put(&mut elsewhere, if is_ipv6 { 60 } else { 40 }, 0);
        assert_untouched(&elsewhere);
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let frame = |word: u16| udp_frame(false, 53, &word.to_be_bytes());
    let word = (0..=u16::MAX).find(|&word| frame(word)[40..42] == [0xff, 0xff]).unwrap();
    let mut partial = frame(word);
    make_partial(&mut partial);
    assert_eq!(normalise(&partial, 1500).0, Ok(vec![frame(word)]));
}

#[test]
fn checksums_that_are_not_partial_stay() {
    let mut absent = udp_frame(false, 53, b"without");
    absent[40..42].fill(0);
    assert_untouched(&absent);
    let mut wrong = tcp_frame(false, 0, tcp_header(), b"wrong");
    wrong[50] ^= 1;
    assert_untouched(&wrong);
    // A payload whose right checksum happens to be the sum of the pseudo header.
    let by_chance = (0..=u16::MAX).map(|word| tcp_frame(false, 0, tcp_header(), &word.to_be_bytes())).find(|frame| {
        let mut partial = frame.clone();
        make_partial(&mut partial);
        partial == *frame
    });
    assert_untouched(&by_chance.unwrap());
}

#[test]
fn fragments_and_cut_frames_keep_their_checksums() {
    let mut partial = tcp_frame(false, 0, tcp_header(), &[1; 100]);
    make_partial(&mut partial);
    let cut = Frame { wire_len: 154, ..captured(&partial[..120], 1500) };
    assert_eq!(normalise_as(&cut, None), (Ok(vec![partial[..120].to_vec()]), Rewritten::default()));
    partial[20] = 0x20;
    assert_untouched(&partial);
}

/// How the checksum of a generated super-frame is.
#[derive(Clone, Copy, Debug)]
enum Checksum {
    Partial,
    Right,
    Wrong(u8),
}

fn checksum() -> impl Strategy<Value = Checksum> {
    prop_oneof![Just(Checksum::Partial), Just(Checksum::Right), (1..=255_u8).prop_map(Checksum::Wrong)]
}

proptest! {
    #[test]
    fn segments_together_are_the_super_frame(
        (is_ipv6, tags, flags) in (any::<bool>(), 0..3_u8, any::<u8>()),
        (sequence, urgent) in (any::<u32>(), any::<u16>()),
        options in proptest::collection::vec(Just(1_u8), 0..=40),
        size in 1..20_000_usize, mtu in 576..9000_u64, checksum in checksum(),
    ) {
        let payload: Vec<u8> = (0..=250).cycle().take(size).collect();
        let mut header = TcpHeader { sequence_number: sequence, ..tcp_header() };
        header.set_options_raw(&options).unwrap();
        (header.fin, header.psh, header.ece, header.cwr) =
            (flags & 1 != 0, flags & 8 != 0, flags & 0x40 != 0, flags & 0x80 != 0);
        (header.urg, header.urgent_pointer) = if flags & 0x20 == 0 { (false, 0) } else { (true, urgent) };
        let mut frame = tcp_frame(is_ipv6, tags, header, &payload);
        let packet = Layers::parse(&frame).ip.unwrap();
        match checksum {
            Checksum::Partial => make_partial(&mut frame),
            Checksum::Wrong(by) => {
                frame[packet.transport + 16] ^= by;
                // One wrong checksum in 65536 is the one that the host would have left unfinished.
                let mut partial = frame.clone();
                make_partial(&mut partial);
                prop_assume!(frame != partial);
            }
            Checksum::Right => {}
        }
        let expected_error = if matches!(checksum, Checksum::Partial) { 0 } else { segment(&frame).error };
        let whole = segment(&frame);
        let is_super = packet.end - packet.start > usize::try_from(mtu).unwrap();
        let (pieces, rewritten) = normalise(&frame, mtu);
        let pieces = pieces.unwrap();
        prop_assert_eq!(rewritten.super_frames, u64::from(is_super));
        prop_assert_eq!(pieces.len() > 1, is_super);

        let limit = packet.start + usize::try_from(mtu).unwrap();
        let last = pieces.len() - 1;
        let mut offset = 0;
        for (position, piece) in pieces.iter().enumerate() {
            let seen = segment(piece);
            let fits = if position < last { piece.len() == limit } else { piece.len() <= limit };
            prop_assert!(fits);
            prop_assert_eq!(seen.sequence, sequence.wrapping_add(u32::try_from(offset).unwrap()));
            prop_assert_eq!(seen.error, expected_error);
            prop_assert_eq!(&seen.payload, &whole.payload[offset..offset + seen.payload.len()]);
            let id = u16::try_from(position).unwrap();
            prop_assert_eq!(seen.identification, whole.identification.map(|first| first.wrapping_add(id)));
            prop_assert_eq!(seen.flags & 0x09, if position == last { whole.flags & 0x09 } else { 0 });
            prop_assert_eq!(seen.flags & 0x80, if position == 0 { whole.flags & 0x80 } else { 0 });
            prop_assert_eq!(seen.flags & 0x50, whole.flags & 0x50);
            // Linux leaves the pointer as it is.
            prop_assert_eq!((seen.flags & 0x20, seen.urgent), (whole.flags & 0x20, whole.urgent));
            offset += seen.payload.len();
        }
        prop_assert_eq!(offset, size);
    }

    /// Whatever the bytes are, nothing panics, and what is not rewritten is untouched.
    #[test]
    fn any_bytes_pass_or_are_dropped(
        vector in 0..VECTORS.len(), changes in proptest::collection::vec((0..200_usize, any::<u8>()), 0..6),
        keep in 0..3200_usize, mtu in 576..2000_u64,
    ) {
        let mut frame = [bytes_of(VECTORS[vector].super_frame), payload()].concat();
        frame.truncate(keep);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let (wire, rewritten) = normalise(&frame, mtu);
        if rewritten == Rewritten::default() && let Ok(wire) = wire {
            prop_assert_eq!(wire, vec![frame]);
        }
    }
}
