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
    /// and protocol alone for fragments, so that all of them stay together; the two MAC addresses for anything else.
    pub fn of(frame: &[u8], layers: &Layers) -> Self {
        let Some(ip) = layers.ip else {
            return Self(finish(frame.get(..12).map_or(0, |macs| endpoint(&macs[..6], 0) ^ endpoint(&macs[6..], 0))));
        };
        let ports = if ip.fragment == Fragment::Whole { ip.ports(frame) } else { None };
        let (source_port, destination_port) = ports.unwrap_or_default();
        let (source, destination) = ip.addresses(frame);
        // Exclusive or forgets the order: that is what makes the hash symmetric.
        let pair = endpoint(source, source_port) ^ endpoint(destination, destination_port);
        Self(finish(pair ^ u64::from(ip.protocol)))
    }

    /// Which of `buckets` this flow belongs to. `buckets` of 0 counts as 1.
    pub fn bucket(self, buckets: u32) -> u32 {
        // A multiplication instead of a remainder: uniform for any number of buckets, and cheaper.
        u32::try_from((u64::from(self.0) * u64::from(buckets.max(1))) >> 32).unwrap_or(0)
    }
}

/// Mixes one endpoint well enough that the exclusive or of two does not cancel structure (10.0.0.1:80 and 10.0.0.2:81).
fn endpoint(address: &[u8], port: u16) -> u64 {
    let mut state = u64::from(port).wrapping_add(0x9e37_79b9_7f4a_7c15);
    for piece in address.chunks(8) {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        state = mix(state ^ u64::from_le_bytes(word));
    }
    state
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The high half of the mixed word: [`FlowHash::bucket`] uses the high bits first.
fn finish(word: u64) -> u32 {
    u32::try_from(mix(word) >> 32).unwrap_or(0)
}
