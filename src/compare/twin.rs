//! Whether two unequal frames are the same one with a difference that has a name.

use super::field;
use super::findings::Kind;
use super::seen::Seen;
use crate::wire::ethernet::HEADER_LEN;
use crate::wire::layers::{Ip, IpVersion, Layers, TCP, u16_at};

/// The kind of difference between `a` and `b`, if they are one frame that was cut, padded, tagged or summed otherwise.
pub(super) fn kind(a: &Seen, b: &Seen) -> Option<Kind> {
    let (x, y) = (a.bytes.as_slice(), b.bytes.as_slice());
    if x.starts_with(y) {
        return Some(Kind::Cut);
    }
    if y.starts_with(x) {
        return Some(if a.is_cut() { Kind::Cut } else { Kind::Padded });
    }
    tags(x, y).or_else(|| checksums_apart(x, y).is_some().then_some(Kind::Checksum))
}

/// How the VLAN tags differ, if nothing else does.
fn tags(a: &[u8], b: &[u8]) -> Option<Kind> {
    let (x, y) = (Parts::of(a)?, Parts::of(b)?);
    if x.addresses != y.addresses || x.rest != y.rest {
        return None;
    }
    Some(match y.tags.len().cmp(&x.tags.len()) {
        std::cmp::Ordering::Less => Kind::VlanLost,
        std::cmp::Ordering::Equal => Kind::VlanChanged,
        std::cmp::Ordering::Greater => Kind::VlanAdded,
    })
}

/// A frame taken apart around its VLAN tags.
pub(super) struct Parts<'a> {
    addresses: &'a [u8],
    /// TPID and TCI of each.
    pub tags: &'a [u8],
    /// From the `EtherType` on.
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` when the frame has no `EtherType`.
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let network = Layers::parse(frame).network;
        if network < HEADER_LEN {
            return None;
        }
        Some(Self { addresses: &frame[..12], tags: &frame[12..network - 2], rest: &frame[network - 2..] })
    }
}

/// The names of the checksums that differ, if nothing else does.
pub(super) fn checksums_apart(a: &[u8], b: &[u8]) -> Option<Vec<String>> {
    if a.len() != b.len() {
        return None;
    }
    let fields = field::checksums(a);
    let mut apart = vec![false; fields.len()];
    for offset in differing(a, b) {
        let position = fields.iter().position(|(range, _)| range.contains(&offset))?;
        apart[position] = true;
    }
    Some(fields.into_iter().zip(apart).filter(|(_, apart)| *apart).map(|((_, name), _)| name).collect())
}

/// Offset of the first byte that differs: the shorter length if the longer one only goes on.
pub(super) fn first_difference(a: &[u8], b: &[u8]) -> usize {
    differing(a, b).next().unwrap_or(a.len().min(b.len()))
}

/// Whether `a` and `b`, which differ in some other way, are the same packet all the same: it says the same under other
/// headers, its numbers are the same, or it differs in one place only. A frame that went lost beside one that came in
/// is none.
pub(super) fn is_same_packet(a: &[u8], b: &[u8]) -> bool {
    if a.len() == b.len() && differs_in_one_place(a, b) {
        return true;
    }
    let layers = [a, b].map(Layers::parse);
    match [layers[0].ip, layers[1].ip] {
        [Some(ip), Some(other)] => Packet { frame: a, ip }.is_same(&Packet { frame: b, ip: other }),
        [None, None] => {
            let equal = a.len().min(b.len()) - differing(a, b).count();
            layers[0].ethertype == layers[1].ethertype && 2 * equal >= a.len().max(b.len())
        }
        _ => false,
    }
}

/// An IP packet in its frame.
struct Packet<'f> {
    frame: &'f [u8],
    ip: Ip,
}

impl Packet<'_> {
    fn is_same(&self, other: &Self) -> bool {
        /// Less payload can be equal by chance.
        const TELLING: usize = 8;
        if self.payload().len() >= TELLING && self.payload() == other.payload() {
            return true;
        }
        let way = |packet: &Self| (packet.ip.protocol, packet.ip.ports(packet.frame));
        if way(self) != way(other) || self.ip.addresses(self.frame) != other.ip.addresses(other.frame) {
            return false;
        }
        let has_payloads = !self.payload().is_empty() && !other.payload().is_empty();
        if self.ip.protocol == TCP && has_payloads {
            self.numbers().is_some() && self.numbers() == other.numbers()
        } else {
            self.identification().is_some() && self.identification() == other.identification()
        }
    }

    /// What TCP or UDP carries, without padding.
    fn payload(&self) -> &[u8] {
        let end = self.ip.end.min(self.frame.len());
        self.ip.payload.and_then(|payload| self.frame.get(payload..end)).unwrap_or_default()
    }

    /// TCP's sequence and acknowledgment number.
    fn numbers(&self) -> Option<&[u8]> {
        self.frame.get(self.ip.transport + 4..self.ip.transport + 12)
    }

    /// IPv4's identification; senders that do not use it write 0.
    fn identification(&self) -> Option<u16> {
        match self.ip.version {
            IpVersion::V4 => u16_at(self.frame, self.ip.start + 4).filter(|&number| number != 0),
            IpVersion::V6 => None,
        }
    }
}

/// Whether all bytes that differ, checksums aside, lie close together.
fn differs_in_one_place(a: &[u8], b: &[u8]) -> bool {
    /// The longest header field: an IPv6 address.
    const PLACE: usize = 16;
    let checksums = field::checksums(a);
    let mut elsewhere = differing(a, b).filter(|offset| !checksums.iter().any(|(range, _)| range.contains(offset)));
    let first = elsewhere.next();
    let last = elsewhere.last().or(first);
    first.zip(last).is_some_and(|(first, last)| last - first < PLACE)
}

fn differing<'a>(a: &'a [u8], b: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    a.iter().zip(b).enumerate().filter(|(_, (x, y))| x != y).map(|(offset, _)| offset)
}
