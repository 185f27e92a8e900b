//! What becomes of the frames that found no equal: each gets one kind of difference, with a partner where it has one.
//!
//! A frame of B is looked for where it is to be expected in A, which its neighbours that met their equals tell, among
//! the frames of A that are left, the nearest first. First come the differences that leave no doubt (cut, padded, VLAN,
//! checksum), then TCP streams that were merged or split, then frames that are the same packet with other bytes. Who
//! has no partner then is missing or extra.

use std::collections::{BTreeMap, HashSet};

use super::field;
use super::findings::{Difference, Kind};
use super::stream::{self, Recut};
use super::twin;
use super::waiting::Held;
use crate::wire::ethernet::HEADER_LEN;
use crate::wire::layers::{Layers, u16_at};

/// How many frames are looked at on each side of the place where a partner is expected.
const NEIGHBOURS: usize = 32;

/// Frames, by ordinal, and what is the matter with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// The kind of difference.
    pub kind: Kind,
    /// Frames of A.
    pub a: Vec<u64>,
    /// Frames of B.
    pub b: Vec<u64>,
}

/// The frames of one side that are left, by ordinal.
type Left<'w> = BTreeMap<u64, &'w Held>;

/// Judges all that wait on both sides.
pub(super) fn judge(a: &BTreeMap<u64, Held>, b: &BTreeMap<u64, Held>) -> Vec<Judgement> {
    let mut judgements = Vec::new();
    let mut a: Left<'_> = a.iter().map(|(&ordinal, held)| (ordinal, held)).collect();
    let mut b: Left<'_> = b.iter().map(|(&ordinal, held)| (ordinal, held)).collect();
    let places = places(&b);
    b.retain(|&ordinal, held| {
        if held.copy_of.is_some() {
            judgements.push(Judgement { kind: Kind::Duplicated, a: Vec::new(), b: vec![ordinal] });
        }
        held.copy_of.is_none()
    });
    let pair = |a: &mut Left<'_>, b: &mut Left<'_>, kind: fn(&Held, &Held) -> Option<Kind>| -> Vec<Judgement> {
        let mut pairs = Vec::new();
        b.retain(|ordinal, held| {
            let place = places.get(ordinal).copied().unwrap_or_default();
            let Some((partner, kind)) = partner(a, place, |other| kind(other, held)) else { return true };
            a.remove(&partner);
            pairs.push(Judgement { kind, a: vec![partner], b: vec![*ordinal] });
            false
        });
        pairs
    };
    judgements.extend(pair(&mut a, &mut b, |x, y| twin::kind(&x.seen, &y.seen)));
    judgements.extend(recut(&mut a, &mut b));
    judgements.extend(pair(&mut a, &mut b, |x, y| {
        twin::is_same_packet(&x.seen.bytes, &y.seen.bytes).then_some(Kind::Changed)
    }));
    judgements.extend(a.keys().map(|&ordinal| Judgement { kind: Kind::Missing, a: vec![ordinal], b: Vec::new() }));
    judgements.extend(b.keys().map(|&ordinal| Judgement { kind: Kind::Extra, a: Vec::new(), b: vec![ordinal] }));
    judgements
}

/// Where frames of B are to be expected in A: behind the equal of the frame before, and before that of the frame behind.
/// Frames in a row are expected in a row.
fn places(b: &Left<'_>) -> BTreeMap<u64, [u64; 2]> {
    let mut after: BTreeMap<u64, u64> = BTreeMap::new();
    let mut row = (0_u64, 0_u64);
    for (&ordinal, held) in b {
        let in_a_row = if ordinal == row.0 + 1 { row.1 + 1 } else { ordinal };
        row = (ordinal, held.after.unwrap_or(in_a_row));
        after.insert(ordinal, row.1);
    }
    let (mut places, mut row) = (BTreeMap::new(), (0_u64, 0_u64));
    for (&ordinal, held) in b.iter().rev() {
        let first = after.get(&ordinal).copied().unwrap_or(ordinal);
        let in_a_row = if ordinal + 1 == row.0 { row.1.saturating_sub(1) } else { first };
        row = (ordinal, held.before.unwrap_or(in_a_row));
        places.insert(ordinal, [first, row.1]);
    }
    places
}

/// The frame among `left` that is nearest to one of `places` and for which `kind` says something.
fn partner(left: &Left<'_>, places: [u64; 2], kind: impl Fn(&Held) -> Option<Kind>) -> Option<(u64, Kind)> {
    let near = |place: u64| {
        outward(left, place).find_map(|(ordinal, held)| Some((ordinal.abs_diff(place), ordinal, kind(held)?)))
    };
    let first = near(places[0]);
    let second = if places[0] == places[1] || matches!(first, Some((0, ..))) { None } else { near(places[1]) };
    first.into_iter().chain(second).min_by_key(|(distance, ..)| *distance).map(|(_, ordinal, kind)| (ordinal, kind))
}

/// The neighbours of `place`, the nearest first.
fn outward<'l, 'w>(left: &'l Left<'w>, place: u64) -> impl Iterator<Item = (u64, &'w Held)> + use<'l, 'w> {
    let mut up = left.range(place..).take(NEIGHBOURS).peekable();
    let mut down = left.range(..place).rev().take(NEIGHBOURS).peekable();
    std::iter::from_fn(move || {
        let is_up_nearer = match (up.peek(), down.peek()) {
            (Some((above, _)), Some((below, _))) => *above - place <= place - *below,
            (above, _) => above.is_some(),
        };
        let (&ordinal, &held) = if is_up_nearer { up.next() } else { down.next() }?;
        Some((ordinal, held))
    })
}

/// Takes out the frames of TCP streams that were merged or split.
fn recut(a: &mut Left<'_>, b: &mut Left<'_>) -> Vec<Judgement> {
    fn bytes<'l>(left: &'l Left<'_>) -> impl Iterator<Item = (u64, &'l [u8])> {
        left.iter().map(|(&ordinal, held)| (ordinal, held.seen.bytes.as_slice()))
    }
    let found = stream::recut(bytes(a), bytes(b));
    let taken: [HashSet<u64>; 2] = [
        found.iter().flat_map(|recut| recut.a.iter().copied()).collect(),
        found.iter().flat_map(|recut| recut.b.iter().copied()).collect(),
    ];
    a.retain(|ordinal, _| !taken[0].contains(ordinal));
    b.retain(|ordinal, _| !taken[1].contains(ordinal));
    let judged =
        |Recut { a, b }: Recut| Judgement { kind: if b.len() < a.len() { Kind::Merged } else { Kind::Split }, a, b };
    found.into_iter().map(judged).collect()
}

/// What there is to say about a judgement. `a` and `b` are its frames.
pub(super) fn describe(kind: Kind, a: &[Held], b: &[Held]) -> Difference {
    let numbers = |side: &[Held]| side.iter().map(|held| held.seen.place.number).collect();
    let plain = Difference::plain(kind, numbers(a), numbers(b));
    match (kind, a, b) {
        (Kind::Missing, [held], _) | (Kind::Extra, _, [held]) => {
            Difference { note: format!("{} bytes", held.seen.bytes.len()), ..plain }
        }
        (Kind::Duplicated, _, [held]) => {
            let note = held.copy_of.map(|number| format!("another copy of A's frame {number}")).unwrap_or_default();
            Difference { note, ..plain }
        }
        (Kind::Cut, [x], [y]) => Difference { at: Some(shorter(x, y)), note: cut(x, y), ..plain },
        (Kind::Padded, [x], [y]) => Difference { at: Some(shorter(x, y)), note: padded(x, y), ..plain },
        (Kind::VlanLost | Kind::VlanAdded | Kind::VlanChanged, [x], [y]) => {
            Difference { at: Some(apart(x, y)), note: format!("{} in A, {} in B", tags(x), tags(y)), ..plain }
        }
        (Kind::Checksum, [x], [y]) => {
            let fields = twin::checksums_apart(&x.seen.bytes, &y.seen.bytes).unwrap_or_default();
            Difference { at: Some(apart(x, y)), field: Some(fields.join(", ")), ..plain }
        }
        (Kind::Changed, [x], [y]) => {
            let at = apart(x, y);
            let longer = if x.seen.bytes.len() > y.seen.bytes.len() { x } else { y };
            let (in_a, in_b) = (x.seen.bytes.len(), y.seen.bytes.len());
            let note = if in_a == in_b { String::new() } else { format!("{in_a} bytes in A, {in_b} in B") };
            Difference { at: Some(at), field: Some(field::name(&longer.seen.bytes, at)), note, ..plain }
        }
        (Kind::Merged | Kind::Split, _, _) => {
            let payload: usize = b.iter().map(payload_len).sum();
            Difference { note: format!("{payload} bytes of the stream"), ..plain }
        }
        _ => plain,
    }
}

fn shorter(x: &Held, y: &Held) -> usize {
    x.seen.bytes.len().min(y.seen.bytes.len())
}

fn apart(x: &Held, y: &Held) -> usize {
    twin::first_difference(&x.seen.bytes, &y.seen.bytes)
}

fn cut(x: &Held, y: &Held) -> String {
    let has = |held: &Held| format!("{} of {} bytes", held.seen.bytes.len(), held.seen.wire_len);
    let kept = shorter(x, y);
    let packet_is_whole = Layers::parse(&x.seen.bytes).ip.is_some_and(|packet| packet.end <= kept);
    let gone = x.seen.bytes.get(kept..).unwrap_or_default();
    let only = if !packet_is_whole || x.seen.is_cut() || gone.is_empty() {
        String::new()
    } else if field::is_padding(kept, gone) {
        ": only padding is gone".to_owned()
    } else {
        format!(": a trailer of {} bytes behind the packet is gone", gone.len())
    };
    format!("A has {}, B {}{only}", has(x), has(y))
}

fn padded(x: &Held, y: &Held) -> String {
    let (frame, tail) = (&x.seen.bytes, &y.seen.bytes[x.seen.bytes.len()..]);
    let of_what = match tail {
        _ if tail == crc32(frame).to_le_bytes() => "its FCS",
        _ if tail.iter().all(|&byte| byte == 0) => "zeros",
        _ if field::is_padding(frame.len(), tail) => "padding that is not zero",
        _ => "a trailer of other bytes",
    };
    format!("{} bytes became {}, with {of_what}", frame.len(), y.seen.bytes.len())
}

/// The frame check sequence of Ethernet (IEEE 802.3 section 3.2.9), which is sent low byte first.
fn crc32(frame: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let byte = |sum: u32, &byte: &u8| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 })
    };
    !frame.iter().fold(u32::MAX, byte)
}

/// The VLAN numbers of a frame, outermost first.
fn tags(held: &Held) -> String {
    let Some(parts) = twin::Parts::of(&held.seen.bytes) else { return "no tag".to_owned() };
    let tag = |tag: &[u8]| {
        let (tpid, control) = (u16_at(tag, 0).unwrap_or_default(), u16_at(tag, 2).unwrap_or_default());
        let priority = match control >> 12 {
            0 => String::new(),
            bits => format!(" PCP {}{}", bits >> 1, if bits & 1 == 1 { " DEI" } else { "" }),
        };
        format!("{tpid:04x} VLAN {}{priority}", control & 0xfff)
    };
    let tags: Vec<String> = parts.tags.chunks_exact(4).map(tag).collect();
    if tags.is_empty() { "no tag".to_owned() } else { tags.join(" / ") }
}

fn payload_len(held: &Held) -> usize {
    let packet = Layers::parse(&held.seen.bytes).ip;
    packet.and_then(|packet| Some(packet.end - packet.payload?)).unwrap_or(held.seen.bytes.len() - HEADER_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r15_only_zeros_and_what_fills_to_60_bytes_are_padding() {
        assert!(field::is_padding(46, &[0xaa; 14]));
        assert!(!field::is_padding(46, &[0xaa; 15]));
        assert!(field::is_padding(60, &[0; 40]));
        assert!(!field::is_padding(60, &[0xde, 0xad, 0xbe, 0xef]));
    }

    #[test]
    fn the_frame_check_sequence_is_that_of_ieee_802_3() {
        // The check value of CRC-32 in the catalogues: that of the nine digits.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
