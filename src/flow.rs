//! The symmetric flow hash: A→B and B→A are one flow, everywhere in farspan.
//!
//! Analyzers spread datagrams over their threads by the outer source port, so a hash that differed by direction would
//! tear conversations apart.
//!
//! The hash also decides which flows a sample, a limit and `balance` let through. It is a keyed pseudo-random function
//! (SipHash-1-3, Aumasson and Bernstein 2012) of the two endpoints in a fixed order, so that nobody without the key
//! can compute which flows are left out, or find flows that share a decision. The source port, which everybody on the
//! underlay sees, and the decisions use different halves of the result: without the key neither tells the other.

use std::fmt;
use std::str::FromStr;

use crate::wire::layers::{Fragment, IpVersion, Layers};

/// The key of the flow hash: 128 bits. `Debug` shows its fingerprint only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey([u64; 2]);

/// Why a text is no key. The text is a secret, so the error does not contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a seed has 32 hexadecimal digits, and this text has {characters} characters{}", if *.is_hexadecimal { "" } else { ", some of them no hexadecimal digits" })]
pub struct InvalidKey {
    /// How many characters it has.
    pub characters: usize,
    /// Whether all of them are hexadecimal digits.
    pub is_hexadecimal: bool,
}

impl FlowKey {
    /// The key of everything that only has to tell flows apart: comparisons, probes, tests.
    pub const PUBLIC: Self = Self([0; 2]);
    /// Bytes of a key.
    pub const LEN: usize = 16;

    /// The key with these bytes, which should come from the kernel's random number generator.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [low, high] = u128::from_le_bytes(bytes).halves();
        Self([low, high])
    }

    /// 64 bits that tell this key from others and say nothing else about it.
    pub const fn fingerprint(self) -> Fingerprint {
        Fingerprint(sip_hash(self.0, [0x6e69_6672_6567_6e69, 0x7470_6e69_7265_6766], 16 << 56))
    }

    /// Hashes what identifies the flow of `frame`: addresses, protocol and ports of its first IP header; addresses
    /// alone for fragments, so that all of them stay together (behind an IPv6 fragment header only the first says
    /// which transport protocol it carries); the two MAC addresses for anything else.
    #[inline]
    pub fn flow(self, frame: &[u8], layers: &Layers) -> FlowHash {
        let Some(ip) = &layers.ip else {
            let [one, other] = [0, 6].map(|at| word_of(bytes_at(frame, at)));
            return self.of_short(one, other, 0, 12);
        };
        let (protocol, ports) = match ip.fragment {
            Fragment::Whole => (ip.protocol, ip.ports(frame)),
            Fragment::First | Fragment::Later => (0, None),
        };
        let (source_port, destination_port) = ports.unwrap_or_default();
        match ip.version {
            IpVersion::V4 => {
                // Both addresses are one load.
                let addresses = u64::from_be_bytes(bytes_at(frame, ip.start + 12));
                let endpoint = |address: u64, port: u16| address << 16 | u64::from(port);
                let source = endpoint(addresses >> 32, source_port);
                self.of_short(source, endpoint(addresses & u64::from(u32::MAX), destination_port), protocol, 13)
            }
            IpVersion::V6 => {
                let source = (u128::from_be_bytes(bytes_at(frame, ip.start + 8)), source_port);
                let destination = (u128::from_be_bytes(bytes_at(frame, ip.start + 24)), destination_port);
                self.of_ipv6(source, destination, protocol)
            }
        }
    }

    /// Two endpoints of 48 bits each and the protocol. `len` tells kinds of endpoints apart.
    #[inline]
    fn of_short(self, one: u64, other: u64, protocol: u8, len: u64) -> FlowHash {
        let (low, high) = (one.min(other), one.max(other));
        FlowHash(sip_hash(self.0, [low | high << 48], high >> 16 | u64::from(protocol) << 32 | len << 56))
    }

    #[inline]
    fn of_ipv6(self, one: (u128, u16), other: (u128, u16), protocol: u8) -> FlowHash {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        let ([a, b], [c, d]) = (low.0.halves(), high.0.halves());
        let ports = u64::from(low.1) | u64::from(high.1) << 16;
        FlowHash(sip_hash(self.0, [a, b, c, d], ports | u64::from(protocol) << 32 | 37 << 56))
    }
}

impl FromStr for FlowKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let characters = text.chars().count();
        let is_hexadecimal = text.chars().all(|character| character.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hexadecimal && characters == 2 * Self::LEN);
        number.map(|number| Self::from_bytes(number.to_be_bytes())).ok_or(InvalidKey { characters, is_hexadecimal })
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowKey({})", self.fingerprint())
    }
}

/// What tells one key from another, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Hash of an unordered pair of endpoints. Equal for both directions of a flow; not stable between versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// Which of `buckets` this flow's datagrams leave by, 0 to `buckets` - 1. `buckets` of 0 counts as 1.
    pub fn bucket(self, buckets: u32) -> u32 {
        scaled(u32::try_from(self.0 >> 32).unwrap_or(0), buckets)
    }

    /// 32 bits that decide about this flow for one purpose. They say nothing about [`bucket`](Self::bucket), nor about
    /// other purposes, so that the flows chosen for one are spread evenly over what the others choose.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
    pub const fn decision(self, purpose: Purpose) -> u32 {
        // The finaliser of MurmurHash3 (Appleby 2008): every bit of the input moves half of the output's.
        let mut word = self.0 as u32 ^ purpose as u32;
        word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
        word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
        word ^ (word >> 16)
    }

    /// Which of `parts` this flow belongs to for one purpose, 0 to `parts` - 1. `parts` of 0 counts as 1.
    pub fn part(self, purpose: Purpose, parts: u32) -> u32 {
        scaled(self.decision(purpose), parts)
    }
}

/// What a flow's hash decides, beside the source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Whether a sample has the flow.
    Sample = 0x5a3f_91d7,
    /// Whether the flow is left out when there is too much of everything.
    Shed = 0xc6e1_2b8d,
    /// Which of several destinations gets the flow.
    Balance = 0x1b87_3c52,
}

/// A place among `parts` for a uniform word: a multiplication instead of a remainder is uniform for any number, and cheaper.
fn scaled(word: u32, parts: u32) -> u32 {
    u32::try_from((u64::from(word) * u64::from(parts.max(1))) >> 32).unwrap_or(0)
}

/// The bytes of a MAC address as a number.
fn word_of(address: [u8; 6]) -> u64 {
    address.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// The bytes at `offset`; zeros where the frame is shorter, which no frame with an IP header is.
#[inline]
fn bytes_at<const N: usize>(frame: &[u8], offset: usize) -> [u8; N] {
    frame.get(offset..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// The two halves of a wide number, the low one first.
trait Halves {
    fn halves(self) -> [u64; 2];
}

impl Halves for u128 {
    #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
    fn halves(self) -> [u64; 2] {
        [self as u64, (self >> 64) as u64]
    }
}

/// SipHash-1-3 of `words` and a last word, which has the message's length in its highest byte.
///
/// Source: Aumasson and Bernstein, "`SipHash`: a fast short-input PRF" (2012), section 2, with one compression round a word
/// and three at the end, as in Rust's and Python's hash tables. A message of a constant number of words unrolls to
/// straight code: 5 rounds for IPv4, 8 for IPv6, of 14 instructions each.
#[inline]
const fn sip_hash<const N: usize>([k0, k1]: [u64; 2], words: [u64; N], last: u64) -> u64 {
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut at = 0;
    while at < N {
        state = absorbed(state, words[at]);
        at += 1;
    }
    let [a, b, c, d] = absorbed(state, last);
    let [a, b, c, d] = sip_round(sip_round(sip_round([a, b, c ^ 0xff, d])));
    a ^ b ^ c ^ d
}

#[inline]
const fn absorbed([a, b, c, d]: [u64; 4], word: u64) -> [u64; 4] {
    let [a, b, c, d] = sip_round([a, b, c, d ^ word]);
    [a ^ word, b, c, d]
}

#[inline]
const fn sip_round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32);
    c = c.wrapping_add(b);
    a = a.wrapping_add(d);
    b = b.rotate_left(17) ^ c;
    d = d.rotate_left(21) ^ a;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::Hasher as _;
    use std::net::IpAddr;

    /// One end of a conversation.
    type Endpoint = (IpAddr, u16);

    fn hash(frame: &[u8]) -> FlowHash {
        FlowKey::PUBLIC.flow(frame, &Layers::parse(frame))
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

    /// The vectors of the reference implementation for SipHash-1-3 (`vectors_sip64` of github.com/veorq/SipHash, compiled with
    /// cROUNDS=1 and dROUNDS=3; also in `library/coretests/tests/hash/sip.rs` of Rust): key 00 to 0f, message 00, 01, ...
    #[test]
    fn a06_the_hash_is_sip_hash_1_3() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(sip_hash(key, [], 0), 0xabac_0158_050f_c4dc);
        // Rust's own, whose key is zero, judges the longer ones.
        let words = [0x0706_0504_0302_0100_u64, 0x0f0e_0d0c_0b0a_0908, 3, 4];
        let by_rust = |count: usize| {
            let mut hasher = std::hash::DefaultHasher::new();
            words[..count].iter().for_each(|word| hasher.write(&word.to_le_bytes()));
            hasher.finish()
        };
        assert_eq!(sip_hash([0; 2], [words[0]], 8 << 56), by_rust(1));
        assert_eq!(sip_hash([0; 2], words, 32 << 56), by_rust(4));
    }

    #[test]
    fn a06_a_key_is_32_hexadecimal_digits_and_is_never_shown() {
        let key: FlowKey = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(key, FlowKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]));
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.fingerprint().to_string()) && !shown.contains("0706"), "{shown}");
        assert_ne!(key.fingerprint(), FlowKey::PUBLIC.fingerprint());
        for (text, characters, is_hexadecimal) in
            [("", 0, true), ("+0102030405060708090a0b0c0d0e0f0", 32, false), ("secret", 6, false), ("00ff", 4, true)]
        {
            let error = text.parse::<FlowKey>().unwrap_err();
            assert_eq!(error, InvalidKey { characters, is_hexadecimal });
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }

    /// Endpoints that cancel in an exclusive or, or in a sum, do not collide, and another key decides differently.
    #[test]
    fn a06_flows_that_are_left_out_cannot_be_computed_without_the_key() {
        let to = |near: u32, far: u32, port: u16| {
            frame(&[], near.to_be_bytes().into(), far.to_be_bytes().into(), 6, 0, &ports(port, port ^ 0x5555))
        };
        let flows: Vec<Vec<u8>> = (0..4096_u32)
            .map(|n| to(0x0a00_0000 + n, 0x0a00_0000 + (n ^ 0xfff), 0x4000 + u16::try_from(n).unwrap()))
            .collect();
        let parts = |key: &str| -> Vec<u32> {
            let key: FlowKey = key.parse().unwrap();
            flows.iter().map(|frame| key.flow(frame, &Layers::parse(frame)).part(Purpose::Sample, 10)).collect()
        };
        let (one, other) = (parts("00000000000000000000000000000001"), parts("00000000000000000000000000000002"));
        let unseen = |parts: &[u32]| parts.iter().filter(|&&part| part != 0).count();
        let both = one.iter().zip(&other).filter(|(one, other)| **one != 0 && **other != 0).count();
        // 9 of 10 each, with a standard deviation of 19; of those that the one key leaves out the other keeps a tenth.
        assert!((3590..=3780).contains(&unseen(&one)) && (3590..=3780).contains(&unseen(&other)));
        assert!((3200..=3440).contains(&both), "{both}");
    }

    /// What the underlay shows of flows, their source ports, says nothing about which of them are kept.
    #[test]
    fn a06_source_ports_tell_nothing_about_decisions() {
        for purpose in [Purpose::Sample, Purpose::Shed, Purpose::Balance] {
            let mut together = [[0_u32; 16]; 16];
            for n in 0..65_536_u32 {
                let [a, b, c, d] = n.to_be_bytes();
                let frame = frame(&[], [10, a, b, c].into(), [192, 0, 2, d].into(), 17, 0, &ports(4000, 53));
                let flow = hash(&frame);
                together[flow.bucket(16) as usize][flow.part(purpose, 16) as usize] += 1;
            }
            // 256 in each on average, with a standard deviation of 16.
            assert!(together.iter().flatten().all(|count| (170..=345).contains(count)), "{purpose:?}: {together:?}");
        }
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
