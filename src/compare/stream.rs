//! TCP segments that were merged or split: other frames, the same stream.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::wire::layers::{Fragment, Layers, TCP};

/// Frames of A and of B, by ordinal, that carry the same bytes of one direction of a TCP connection, cut otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recut {
    /// In the order of the stream.
    pub a: Vec<u64>,
    /// In the order of the stream.
    pub b: Vec<u64>,
}

/// One segment.
#[derive(Clone, Copy, Debug)]
struct Piece<'f> {
    ordinal: u64,
    payload: &'f [u8],
}

/// Addresses and ports of one direction.
type Way = [u8; 36];
/// Segments by how far their sequence numbers are from the first one that was seen (RFC 9293 section 3.4: modulo 2^32).
type Segments<'f> = BTreeMap<i32, VecDeque<Piece<'f>>>;

/// Finds what was merged or split among frames of A and of B, given with their ordinals. Those that carry the same
/// segment are left out.
pub(super) fn recut<'f>(
    a: impl Iterator<Item = (u64, &'f [u8])>,
    b: impl Iterator<Item = (u64, &'f [u8])>,
) -> Vec<Recut> {
    let mut ways: HashMap<Way, (u32, [Segments<'f>; 2])> = HashMap::new();
    let sides = a.map(|frame| (0, frame)).chain(b.map(|frame| (1, frame)));
    for (side, (ordinal, frame)) in sides {
        let Some((way, sequence, payload)) = segment(frame) else { continue };
        let (first, segments) = ways.entry(way).or_insert((sequence, Default::default()));
        let distance = sequence.wrapping_sub(*first).cast_signed();
        segments[side].entry(distance).or_default().push_back(Piece { ordinal, payload });
    }
    let mut found: Vec<Recut> = ways.into_values().flat_map(|(_, segments)| recut_in(segments)).collect();
    found.sort_unstable_by_key(|recut| recut.a.first().copied());
    found
}

fn recut_in([mut a, mut b]: [Segments<'_>; 2]) -> Vec<Recut> {
    let mut found = Vec::new();
    let starts: Vec<i32> = a.keys().copied().filter(|start| b.contains_key(start)).collect();
    for start in starts {
        while let Some((x, y)) = common(&a, &b, start) {
            let take = |segments: &mut Segments<'_>, starts: Vec<i32>| -> Vec<u64> {
                starts
                    .iter()
                    .filter_map(|start| segments.get_mut(start)?.pop_front())
                    .map(|piece| piece.ordinal)
                    .collect()
            };
            let recut = Recut { a: take(&mut a, x), b: take(&mut b, y) };
            if recut.a.len() + recut.b.len() > 2 {
                found.push(recut);
            }
        }
    }
    found
}

/// The segments from `start` on, on both sides, up to the first place where one ends on both, if they carry the same.
fn common(a: &Segments<'_>, b: &Segments<'_>, start: i32) -> Option<(Vec<i32>, Vec<i32>)> {
    let mut sides = [(a, start, Vec::new(), Vec::new()), (b, start, Vec::new(), Vec::new())];
    loop {
        let behind = usize::from(!sides[0].2.is_empty() && (sides[1].2.is_empty() || sides[1].1 < sides[0].1));
        let (segments, end, starts, bytes) = &mut sides[behind];
        let piece = segments.get(end)?.front()?;
        starts.push(*end);
        bytes.extend_from_slice(piece.payload);
        *end = end.checked_add(i32::try_from(piece.payload.len()).ok()?)?;
        let [(_, a_end, a_starts, a_bytes), (_, b_end, b_starts, b_bytes)] = &sides;
        let shared = a_bytes.len().min(b_bytes.len());
        if a_bytes[..shared] != b_bytes[..shared] {
            return None;
        }
        if a_end == b_end && !a_starts.is_empty() && !b_starts.is_empty() {
            let [(_, _, a_starts, _), (_, _, b_starts, _)] = sides;
            return Some((a_starts, b_starts));
        }
    }
}

/// Direction, sequence number and payload of a TCP segment that is there as a whole.
fn segment(frame: &[u8]) -> Option<(Way, u32, &[u8])> {
    let packet = Layers::parse(frame).ip.filter(|ip| ip.protocol == TCP && ip.fragment == Fragment::Whole)?;
    let payload = frame.get(packet.payload?..packet.end).filter(|payload| !payload.is_empty())?;
    let sequence = frame.get(packet.transport + 4..packet.transport + 8)?.try_into().ok()?;
    let (source, destination) = packet.addresses(frame);
    let mut way = [0; 36];
    way[..source.len()].copy_from_slice(source);
    way[16..16 + destination.len()].copy_from_slice(destination);
    way[32..].copy_from_slice(frame.get(packet.transport..packet.transport + 4)?);
    Some((way, u32::from_be_bytes(sequence), payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::oracle::tcp_frame;
    use etherparse::TcpHeader;
    use proptest::prelude::*;

    /// 3000 bytes that repeat late.
    fn stream() -> Vec<u8> {
        (0..=250_u8).cycle().map(|byte| byte.wrapping_mul(7)).take(3000).collect()
    }

    /// Segments of the stream that end at `cuts`, around the wrap of the sequence number.
    fn segments(cuts: &[usize]) -> Vec<Vec<u8>> {
        let stream = stream();
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let first = u32::MAX - 1000;
        let pieces = starts.zip(cuts.iter().copied().chain([stream.len()]));
        pieces
            .map(|(start, end)| {
                let sequence = first.wrapping_add(u32::try_from(start).unwrap());
                tcp_frame(false, 0, TcpHeader::new(80, 4000, sequence, 9), &stream[start..end])
            })
            .collect()
    }

    fn recut_of(a: &[Vec<u8>], b: &[Vec<u8>]) -> Vec<Recut> {
        let numbered = |frames: &'_ [Vec<u8>]| -> Vec<(u64, Vec<u8>)> { (1..).zip(frames.iter().cloned()).collect() };
        let (a, b) = (numbered(a), numbered(b));
        let lend = |frames| -> Vec<(u64, &[u8])> {
            let frames: &[(u64, Vec<u8>)] = frames;
            frames.iter().map(|(ordinal, frame)| (*ordinal, frame.as_slice())).collect()
        };
        recut(lend(&a).into_iter(), lend(&b).into_iter())
    }

    #[test]
    fn a_super_frame_is_its_segments_and_the_reverse() {
        let (whole, pieces) = (segments(&[]), segments(&[1000, 2000]));
        assert_eq!(recut_of(&whole, &pieces), [Recut { a: vec![1], b: vec![1, 2, 3] }]);
        assert_eq!(recut_of(&pieces, &whole), [Recut { a: vec![1, 2, 3], b: vec![1] }]);
        assert_eq!(recut_of(&pieces, &pieces), []);
    }

    #[test]
    fn a_stream_that_lacks_or_changes_a_byte_is_not_the_same() {
        let whole = segments(&[]);
        let mut pieces = segments(&[1000, 2000]);
        *pieces[1].last_mut().unwrap() ^= 1;
        assert_eq!(recut_of(&whole, &pieces), []);
        pieces.remove(1);
        assert_eq!(recut_of(&whole, &pieces), []);
    }

    proptest! {
        #[test]
        fn any_two_ways_to_cut_a_stream_meet_where_both_cut(
            x in proptest::collection::btree_set(1..2999_usize, 0..5),
            y in proptest::collection::btree_set(1..2999_usize, 0..5),
        ) {
            let (x, y): (Vec<_>, Vec<_>) = (x.into_iter().collect(), y.into_iter().collect());
            let found = recut_of(&segments(&x), &segments(&y));
            let both = x.iter().filter(|cut| y.contains(cut)).count();
            let (a, b): (usize, usize) = (found.iter().map(|r| r.a.len()).sum(), found.iter().map(|r| r.b.len()).sum());
            // What is not among them was cut alike on both sides.
            prop_assert_eq!((x.len() + 1) - a, (y.len() + 1) - b);
            prop_assert!(found.len() + (x.len() + 1 - a) == both + 1);
        }
    }
}
