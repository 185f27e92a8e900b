use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{arounds, hosts, packet};
use super::*;
use crate::wire::outer::Transport;

const UDP_53: Transport = Transport::Udp { source_port: 5353, destination_port: 53, checksum: false };

fn walk(frame: &[u8]) -> Vec<Level> {
    Walk::new(frame).collect()
}

proptest! {
    /// Every packet is found, in its order, whatever is around it.
    #[test]
    fn every_packet_is_found_in_its_place(layers in vec((arounds(), hosts()), 0..14), (a, b) in hosts()) {
        let mut frame = packet(a, b, UDP_53, b"payload");
        let mut expected = vec![(a, b)];
        for (around, (source, destination)) in layers {
            // Without an IP header `wrap` may still choose a tunnel that can hold the frame.
            let before = frame.len();
            frame = around.wrap(&frame, source, destination);
            prop_assume!(frame.len() < 60_000);
            prop_assert!(frame.len() > before.saturating_sub(HEADER_LEN));
            if around.is_tunnel() {
                expected.insert(0, (source, destination));
            }
        }
        let found = walk(&frame);
        let address = |bytes: &[u8]| -> std::net::IpAddr {
            match <[u8; 4]>::try_from(bytes) {
                Ok(v4) => v4.into(),
                Err(_) => <[u8; 16]>::try_from(bytes).unwrap().into(),
            }
        };
        let addresses: Vec<_> = found
            .iter()
            .map(|level| {
                let (source, destination) = level.packet.addresses(&frame);
                (address(source), address(destination))
            })
            .collect();
        prop_assert_eq!(addresses, expected);
        prop_assert!(found.iter().enumerate().all(|(number, level)| level.tunnels == number && !level.is_quoted));
        let layers = Layers::parse(&frame);
        let has_more = found.len() > 1 || layers.ip.is_none();
        prop_assert!(!has_more || is_worth_a_walk(&frame, &layers), "the quick question has the same answer");
    }

    /// The few instructions in front of the closer look leave no tunnel out.
    #[test]
    fn no_tunnel_in_udp_is_overlooked(
        port in prop_oneof![any::<u16>(), proptest::sample::select(vec![4789, 8472, 4790, 6081, 6635])],
        bits in any::<u32>(),
        form in proptest::sample::select(vec![(0, 0), (VXLAN, u32::MAX), (GENERIC, GENERIC_FIXED), (GENEVE, GENEVE_FIXED)]),
        rest in vec(any::<u8>(), 0..40),
    ) {
        let (value, fixed) = form;
        let first = value & fixed | bits & !fixed;
        let payload = [&first.to_be_bytes()[..], &rest].concat();
        let udp = Transport::Udp { source_port: 5353, destination_port: port, checksum: false };
        let frame = packet([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), udp, &payload);
        let found = Layers::parse(&frame).ip.unwrap();
        prop_assert!(may_be_udp_tunnel(&frame, &found) || carried(&frame, &found).is_none());
    }

    #[test]
    fn any_bytes_end_the_walk(bytes in vec(any::<u8>(), 0..300), layers in vec((arounds(), hosts()), 0..4), cut in 0..400_usize) {
        let mut frame = [&[2; 12][..], &bytes].concat();
        frame.resize(frame.len().max(14), 0);
        for (around, (source, destination)) in layers {
            frame = around.wrap(&frame, source, destination);
        }
        frame.truncate(frame.len().saturating_sub(cut));
        for level in walk(&frame) {
            level.packet.addresses(&frame);
            fragment_identity(&frame, &level.packet);
        }
        is_worth_a_walk(&frame, &Layers::parse(&frame));
    }

    /// Each byte of a nested frame may be anything: headers that announce too much, or themselves.
    #[test]
    fn a_changed_byte_ends_the_walk(layers in vec((arounds(), hosts()), 1..8), at: prop::sample::Index, value: u8) {
        let mut frame = packet([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), UDP_53, b"payload");
        for (around, (source, destination)) in layers {
            frame = around.wrap(&frame, source, destination);
        }
        let at = at.index(frame.len());
        frame[at] = value;
        for level in walk(&frame) {
            fragment_identity(&frame, &level.packet);
        }
    }
}

#[test]
fn a_walk_is_bounded_however_long_a_frame_is() {
    let frame = [&[2; 12][..], &[0x81, 0, 0, 7].repeat(16_000)].concat();
    assert_eq!(walk(&frame), []);
    let labels = [&[2; 12][..], &[0x88, 0x47], &[0, 1, 0, 64].repeat(16_000)].concat();
    assert_eq!(walk(&labels), []);
    let nested = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 4, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..]].concat().repeat(3000);
    let frame = [&[2; 12][..], &[8, 0], &nested].concat();
    assert!(walk(&frame).len() <= MOST_STEPS as usize);
}

#[test]
fn what_an_error_quotes_is_seen_as_quoted() {
    let inner = packet([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), UDP_53, b"0123456789");
    for (error, kind) in [(layers::ICMP, 3), (layers::ICMP, 11), (layers::ICMP, 8)] {
        let message = [&[kind, 3, 0, 0, 0, 0, 0, 0], &inner[14..14 + 28]].concat();
        let frame = testing::other([192, 0, 2, 2].into(), [192, 0, 2, 1].into(), error, &message);
        let found = walk(&frame);
        assert_eq!(found.len(), if kind == 8 { 1 } else { 2 });
        assert!(found.iter().all(|level| level.tunnels == 0));
        assert!(found.get(1).is_none_or(|level| level.is_quoted && level.packet.ports(&frame) == Some((5353, 53))));
    }
}

#[test]
fn fragments_of_a_datagram_have_one_identity() {
    use crate::quantity::Mtu;
    for (source, destination) in [
        ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()),
    ] {
        let mut frames = Vec::new();
        let outer = crate::wire::outer::Outer { identification: 0x1234, ..testing::outer(source, destination, UDP_53) };
        let mtu = Mtu::new(1280).unwrap();
        outer.write_fragments(&[7; 3000], mtu, &mut Vec::new(), |frame| frames.push(frame.to_vec())).unwrap();
        assert!(frames.len() > 2);
        for frame in &frames {
            assert_eq!(fragment_identity(frame, &Layers::parse(frame).ip.unwrap()), Some((UDP, 0x1234)));
        }
    }
}
