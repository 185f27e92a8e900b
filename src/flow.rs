//! The symmetric flow hash: A→B and B→A are one flow, everywhere in farspan.
//!
//! Analyzers spread datagrams over their threads by the outer source port, so a hash that differed by direction would
//! tear conversations apart.

use crate::wire::layers::{Fragment, Layers};

/// Hash of an unordered pair of endpoints. Equal for both directions of a flow; not stable between versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowHash(pub u32);

impl FlowHash {
    /// Hashes what identifies the flow of `frame`: addresses, protocol and ports of its first IP header; addresses
    /// alone for fragments, so that all of them stay together (behind an IPv6 fragment header only the first says
    /// which transport protocol it carries); the two MAC addresses for anything else.
    pub fn of(frame: &[u8], layers: &Layers) -> Self {
        let Some(ip) = &layers.ip else {
            return Self(finish(frame.get(..12).map_or(0, |macs| endpoint(&macs[..6], 0) ^ endpoint(&macs[6..], 0))));
        };
        let (protocol, ports) = match ip.fragment {
            Fragment::Whole => (ip.protocol, ip.ports(frame)),
            Fragment::First | Fragment::Later => (0, None),
        };
        let (source_port, destination_port) = ports.unwrap_or_default();
        let (source, destination) = ip.addresses(frame);
        // Exclusive or forgets the order: that is what makes the hash symmetric.
        let pair = endpoint(source, source_port) ^ endpoint(destination, destination_port);
        Self(finish(pair ^ u64::from(protocol)))
    }

    /// The hash of this flow for another purpose: it says nothing about this one, nor about those for other purposes, so
    /// that the flows chosen for one are spread evenly over what the others choose.
    #[must_use]
    pub const fn mixed_for(self, purpose: Purpose) -> Self {
        // The finaliser of MurmurHash3 (Appleby 2008): every bit of the input moves half of the output's.
        let mut word = self.0 ^ purpose as u32;
        word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
        word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
        Self(word ^ (word >> 16))
    }

    /// Which of `buckets` this flow belongs to. `buckets` of 0 counts as 1.
    pub fn bucket(self, buckets: u32) -> u32 {
        // A multiplication instead of a remainder: uniform for any number of buckets, and cheaper.
        u32::try_from((u64::from(self.0) * u64::from(buckets.max(1))) >> 32).unwrap_or(0)
    }
}

/// What a flow's hash chooses, beside source ports and shares of the destinations, for which it serves as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Whether a sample has the flow.
    Sample = 0x5a3f_91d7,
    /// Whether the flow is left out when there is too much of everything.
    Shed = 0xc6e1_2b8d,
}

/// Mixes one endpoint well enough that the exclusive or of two does not cancel structure (10.0.0.1:80 and 10.0.0.2:81).
fn endpoint(address: &[u8], port: u16) -> u64 {
    // The port beside an IPv4 address, so that no address and port are like two others.
    let seed = 0x9e37_79b9_7f4a_7c15 ^ (u64::from(port) << 32);
    // An IPv4 address is one load, an IPv6 address two; a loop over pieces of any length costs each frame a tenth of all
    // that farspan does with it.
    if let Ok(ipv4) = <[u8; 4]>::try_from(address) {
        return mix(seed ^ u64::from(u32::from_le_bytes(ipv4)));
    }
    address.chunks(8).fold(seed, |state, piece| {
        let word = <[u8; 8]>::try_from(piece).unwrap_or_else(|_| {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            word
        });
        mix(state ^ u64::from_le_bytes(word))
    })
}

/// A multiplication whose two halves are folded together, as in wyhash (Wang Yi 2019): every bit of the input moves bits of
/// the output on both sides of it, for the price of one instruction.
fn mix(word: u64) -> u64 {
    let (low, high) = word.carrying_mul(0xa076_1d64_78bd_642f, 0);
    low ^ high
}

/// The high half of the mixed word: [`FlowHash::bucket`] uses the high bits first.
fn finish(word: u64) -> u32 {
    u32::try_from(mix(word) >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// One end of a conversation.
    type Endpoint = (IpAddr, u16);

    fn hash(frame: &[u8]) -> FlowHash {
        FlowHash::of(frame, &Layers::parse(frame))
    }

    fn octets(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// A frame with these tags and this IP payload; its MAC addresses say nothing about the flow.
    fn frame(tags: &[u8], source: IpAddr, destination: IpAddr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).map_or([0, 0], u16::to_be_bytes);
        let [high, low] = fragment.to_be_bytes();
        let (ethertype, header) = match source {
            IpAddr::V4(_) => ([0x08, 0], vec![0x45, 0, 0, 20 + length[1], 0, 7, high, low, 64, protocol, 0, 0]),
            IpAddr::V6(_) => ([0x86, 0xdd], vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64]),
        };
        [&[2; 12], tags, &ethertype, &header, &octets(source), &octets(destination), payload].concat()
    }

    /// The start of a TCP or UDP header.
    fn ports(source: u16, destination: u16) -> Vec<u8> {
        [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0, 8, 0, 0]].concat()
    }

    fn conversations() -> impl Strategy<Value = (Endpoint, Endpoint)> {
        prop_oneof![
            any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(a, p, b, q)| ((a.into(), p), (b.into(), q))),
            any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(a, p, b, q)| ((a.into(), p), (b.into(), q))),
        ]
    }

    proptest! {
        #[test]
        fn both_directions_are_one_flow_whatever_their_vlan(
            (near, far) in conversations(),
            // Not those of IPv6 extension headers, as which the ports would be read.
            protocol in (0..=255_u8).prop_filter("an extension header", |protocol| {
                ![0, 43, 44, 50, 51, 60, 135, 139, 140].contains(protocol)
            }),
        ) {
            let forth = frame(&[], near.0, far.0, protocol, 0, &ports(near.1, far.1));
            let tagged = [0x88, 0xa8, 0, 5, 0x81, 0, 0x60, 9];
            let back = frame(&tagged, far.0, near.0, protocol, 0, &ports(far.1, near.1));
            prop_assert_eq!(hash(&forth), hash(&back));
        }

        #[test]
        fn all_ipv4_fragments_stay_together(a: [u8; 4], b: [u8; 4], start: [u8; 8], rest: [u8; 8]) {
            let first = frame(&[], a.into(), b.into(), 17, 0x2000, &start);
            let later = frame(&[], a.into(), b.into(), 17, 0x0001, &rest);
            let back = frame(&[], b.into(), a.into(), 17, 0x0001, &rest);
            prop_assert_eq!(hash(&first), hash(&later));
            prop_assert_eq!(hash(&first), hash(&back));
        }

        #[test]
        fn all_ipv6_fragments_stay_together(a: [u8; 16], b: [u8; 16], start: [u8; 8], rest: [u8; 8]) {
            // Destination options behind the fragment header: a later fragment does not show what follows them.
            let options = [17, 0, 1, 4, 0, 0, 0, 0];
            let first = [&[60, 0, 0, 1, 0, 0, 0, 7][..], &options, &start].concat();
            let later = [&[60, 0, 0, 16, 0, 0, 0, 7][..], &rest].concat();
            let first = frame(&[], a.into(), b.into(), 44, 0, &first);
            let later = frame(&[], a.into(), b.into(), 44, 0, &later);
            prop_assert_eq!(hash(&first), hash(&later));
        }

        #[test]
        fn other_frames_belong_to_the_pair_of_their_mac_addresses(a: [u8; 6], b: [u8; 6], first: u8, second: u8) {
            let arp = |source: [u8; 6], destination: [u8; 6], rest| {
                hash(&[&destination[..], &source, &[0x08, 0x06], &[rest; 28]].concat())
            };
            prop_assert_eq!(arp(a, b, first), arp(b, a, second));
        }

        #[test]
        fn no_frame_is_too_short(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(hash(&frame).bucket(16) < 16);
        }
    }

    #[test]
    fn a_port_makes_up_for_no_part_of_an_address() {
        let to_server = |second, port: u16| {
            hash(&frame(&[], [10, second, 0, 7].into(), [10, 0, 0, 1].into(), 6, 0, &ports(port, 443)))
        };
        let distances = (0..=16).map(|bit| if bit == 16 { 0 } else { 1_u16 << bit });
        assert!(
            distances
                .flat_map(|one| [40_000 + one % 20_000, 40_000 - one % 20_000])
                .all(|port| { to_server(0, 40_000) != to_server(1, port) })
        );
    }

    /// Flows that differ in one small number only, as those of a busy client or of neighbours in one subnet do.
    #[test]
    fn flows_spread_over_the_buckets() {
        const FLOWS: u16 = 4096;
        let v4 = |subnet, last: u8| IpAddr::from([10, 0, subnet, last]);
        let v6 = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let server = (v4(0, 1), 443);
        let [clients, ports_of_one, neighbours, ipv6]: [fn(u16) -> Endpoint; 4] = [
            |n| (IpAddr::from([10, 0, 1 + n.to_be_bytes()[0], n.to_be_bytes()[1]]), 40_000),
            |n| (IpAddr::from([10, 0, 0, 2]), 32_768 + n),
            |n| (IpAddr::from([10, 0, 0, n.to_be_bytes()[1]]), 443 + u16::from(n.to_be_bytes()[0])),
            |n| (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2 + n]), 40_000),
        ];
        for (kind, client) in
            [("clients", clients), ("ports", ports_of_one), ("neighbours", neighbours), ("IPv6", ipv6)]
        {
            let mut flows = [0_u16; 16];
            for n in 0..FLOWS {
                let (address, port) = client(n);
                let server = if address.is_ipv4() { server } else { (v6(1), 443) };
                let bucket = hash(&frame(&[], address, server.0, 6, 0, &ports(port, server.1))).bucket(16);
                flows[bucket as usize] += 1;
            }
            // 256 in each on average, with a standard deviation of 15.5: this is eight of them.
            assert!(flows.iter().all(|flows| (132..=380).contains(flows)), "{kind}: {flows:?}");
        }
    }
}
