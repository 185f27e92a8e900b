//! Puts IP fragments together again: IPv4 (RFC 791 section 3.2) and IPv6 (RFC 8200 section 4.5).
//!
//! On sockets the kernel does it; this is for capture files. Memory and age are bounded: a file full of first
//! fragments costs no more than [`MOST_PENDING`] datagrams, of which the oldest goes first.

use etherparse::defrag::{IpDefragBuf, IpFragRange};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header};

use super::ip_fragment::{FRAGMENT_HEADER, FragmentHeaderPlace};
use super::layers::{Ip, IpVersion, u16_at};
use crate::quantity::Timestamp;

/// How many datagrams may be incomplete at the same time: with 64 KiB each, 4 MiB.
pub const MOST_PENDING: usize = 64;
/// How long a datagram waits for its last fragment by the capture's clock, in nanoseconds: Linux's 30 s
/// (`net.ipv4.ipfrag_time`).
const LONGEST_WAIT: u64 = 30_000_000_000;

/// Datagrams of which some fragments are still missing.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Oldest first.
    pending: Vec<Pending>,
    /// Buffers of datagrams that are complete or given up.
    spare: Vec<(Vec<u8>, Vec<IpFragRange>)>,
    /// The last one that was complete, as one IP packet.
    packet: Vec<u8>,
    given_up: u64,
}

/// A datagram that is not complete.
#[derive(Debug)]
struct Pending {
    key: Key,
    since: Timestamp,
    /// What it begins with. Of an IPv6 datagram, only the first fragment's word counts (RFC 8200 section 4.5).
    protocol: u8,
    data: IpDefragBuf,
}

/// What the fragments of a datagram have in common. An IPv4 address stands in the first four bytes of its sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    version: IpVersion,
    source: [u8; 16],
    destination: [u8; 16],
    identification: u32,
    /// IPv4's only: RFC 8200 allows later fragments to say something else.
    protocol: u8,
}

/// What one fragment says about its place.
#[derive(Clone, Copy, Debug)]
struct Place {
    identification: u32,
    /// In bytes.
    offset: u16,
    more_follow: bool,
    /// What the datagram begins with.
    protocol: u8,
    /// Where the fragment's data begin.
    data: usize,
}

/// A fragment that contradicts the fragments before it, with which its datagram ends, or the rules: it is no fragment, is
/// not a multiple of eight bytes long, or ends behind 65,535 bytes or behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fragment does not fit its datagram")]
pub struct DoesNotFit;

/// Whether `packet`, which has a Fragment header, is the only fragment of its datagram (RFC 6946): it is whole.
pub(super) fn is_atomic(bytes: &[u8], packet: &Ip) -> bool {
    packet.version == IpVersion::V6
        && Place::of(bytes, packet).is_some_and(|place| place.offset == 0 && !place.more_follow)
}

impl Reassembly {
    /// Adds `fragment`, an IP packet in `bytes` that was captured at `timestamp`. Returns the whole packet once all of
    /// it is there: with a minimal IP header, which begins at its first byte. A fragment that the capture has cut is as
    /// good as missing: its datagram never becomes whole, and is given up once.
    ///
    /// # Errors
    /// When the fragment cannot be used.
    pub fn add(
        &mut self,
        bytes: &[u8],
        fragment: &Ip,
        timestamp: Timestamp,
    ) -> Result<Option<(&[u8], Ip)>, DoesNotFit> {
        self.forget_before(timestamp);
        let place = Place::of(bytes, fragment).filter(|place| place.data <= fragment.end).ok_or(DoesNotFit)?;
        let key = Key::of(bytes, fragment, &place);
        let known = self.pending.iter().position(|pending| pending.key == key);
        let index = known.unwrap_or_else(|| self.begin(key, timestamp));
        let Some(data) = bytes.get(place.data..fragment.end) else { return Ok(None) };
        let offset = IpFragOffset::try_new(place.offset / 8).map_err(|_| DoesNotFit)?;
        let whole = &mut self.pending[index];
        if whole.data.add(offset, place.more_follow, data).is_err() {
            self.forget(index);
            return Err(DoesNotFit);
        }
        if place.offset == 0 {
            whole.protocol = place.protocol;
        }
        if !whole.data.is_complete() {
            return Ok(None);
        }
        let Pending { data, protocol, .. } = self.pending.remove(index);
        self.packet.clear();
        key.write_header(protocol, data.data().len(), &mut self.packet);
        self.packet.extend_from_slice(data.data());
        self.spare.push(data.take_bufs());
        Ok(Ip::parse(&self.packet, 0).map(|packet| (self.packet.as_slice(), packet)))
    }

    /// Gives up everything that is incomplete: no more fragments will come.
    pub fn finish(&mut self) {
        while !self.pending.is_empty() {
            self.give_up(0);
        }
    }

    /// How many datagrams never became complete, so far; without those that ended with a refused fragment.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// A place for a new datagram, at the expense of the oldest if need be.
    fn begin(&mut self, key: Key, since: Timestamp) -> usize {
        if self.pending.len() == MOST_PENDING {
            self.give_up(0);
        }
        let (mut data, mut sections) = self.spare.pop().unwrap_or_default();
        data.clear();
        sections.clear();
        let data = IpDefragBuf::new(IpNumber(key.protocol), data, sections);
        self.pending.push(Pending { key, since, protocol: key.protocol, data });
        self.pending.len() - 1
    }

    fn forget_before(&mut self, now: Timestamp) {
        while self.pending.first().is_some_and(|oldest| now.nanos().saturating_sub(oldest.since.nanos()) > LONGEST_WAIT)
        {
            self.give_up(0);
        }
    }

    fn give_up(&mut self, index: usize) {
        self.forget(index);
        self.given_up += 1;
    }

    fn forget(&mut self, index: usize) {
        self.spare.push(self.pending.remove(index).data.take_bufs());
    }
}

impl Place {
    fn of(bytes: &[u8], packet: &Ip) -> Option<Self> {
        match packet.version {
            IpVersion::V4 => {
                const MORE_FRAGMENTS: u16 = 0x2000;
                let (identification, field) = (u16_at(bytes, packet.start + 4)?, u16_at(bytes, packet.start + 6)?);
                Some(Self {
                    identification: identification.into(),
                    offset: (field & 0x1fff) << 3,
                    more_follow: field & MORE_FRAGMENTS != 0,
                    protocol: packet.protocol,
                    data: packet.transport,
                })
            }
            IpVersion::V6 => {
                let place = FragmentHeaderPlace::find(bytes, packet).filter(|place| place.exists)?;
                let &[protocol, _, o0, o1, i0, i1, i2, i3] =
                    bytes.get(place.offset..)?.first_chunk::<FRAGMENT_HEADER>()?;
                let field = u16::from_be_bytes([o0, o1]);
                Some(Self {
                    identification: u32::from_be_bytes([i0, i1, i2, i3]),
                    offset: field & 0xfff8,
                    more_follow: field & 1 != 0,
                    protocol,
                    data: place.offset + FRAGMENT_HEADER,
                })
            }
        }
    }
}

impl Key {
    fn of(bytes: &[u8], packet: &Ip, place: &Place) -> Self {
        let sixteen = |address: &[u8]| {
            let mut wide = [0; 16];
            wide[..address.len()].copy_from_slice(address);
            wide
        };
        let (source, destination) = packet.addresses(bytes);
        Self {
            version: packet.version,
            source: sixteen(source),
            destination: sixteen(destination),
            identification: place.identification,
            protocol: if packet.version == IpVersion::V4 { place.protocol } else { 0 },
        }
    }

    /// Appends an IP header for a packet with `length` bytes of `protocol`. One that the length field cannot tell gets
    /// none, and ends where the bytes end.
    fn write_header(&self, protocol: u8, length: usize, out: &mut Vec<u8>) {
        const HOPS: u8 = 64;
        let four = |address: [u8; 16]| [address[0], address[1], address[2], address[3]];
        match self.version {
            IpVersion::V4 => {
                let mut header = Ipv4Header {
                    time_to_live: HOPS,
                    protocol: IpNumber(protocol),
                    source: four(self.source),
                    destination: four(self.destination),
                    ..Ipv4Header::default()
                };
                header.total_len = u16::try_from(Ipv4Header::MIN_LEN + length).unwrap_or(0);
                header.header_checksum = header.calc_header_checksum();
                out.extend_from_slice(&header.to_bytes());
            }
            IpVersion::V6 => {
                let header = Ipv6Header {
                    payload_length: u16::try_from(length).unwrap_or(0),
                    next_header: IpNumber(protocol),
                    hop_limit: HOPS,
                    source: self.source,
                    destination: self.destination,
                    ..Ipv6Header::default()
                };
                out.extend_from_slice(&header.to_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::MOST_HEADERS;
    use super::super::ip_fragment::Fragmenter;
    use super::super::layers::{Layers, UDP};
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    /// A UDP packet over IPv4 or IPv6.
    fn packet(v6: bool, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder =
            if v6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64) };
        let mut out = Vec::new();
        builder.udp(50_000, 4789).write(&mut out, payload).unwrap();
        out
    }

    /// The same in fragments with at most `limit` bytes a frame.
    fn fragments(frame: &[u8], limit: usize, identification: u32) -> Vec<Vec<u8>> {
        let (mut buffer, mut pieces) = ([0; MOST_HEADERS], Vec::new());
        let outer = Layers::parse(frame).ip.unwrap();
        let fragmenter = Fragmenter::new(&mut buffer, &[], frame, outer, identification).unwrap();
        fragmenter.cut(limit, |head, body, _| pieces.push([head, body].concat())).unwrap();
        pieces
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn add(reassembly: &mut Reassembly, fragment: &[u8], seconds: u64) -> Result<Option<Vec<u8>>, DoesNotFit> {
        let packet = Layers::parse(fragment).ip.unwrap();
        let whole = reassembly.add(fragment, &packet, at(seconds))?;
        Ok(whole.map(|(bytes, packet)| {
            assert_eq!((packet.start, packet.end, packet.protocol), (0, bytes.len(), UDP));
            bytes[packet.transport..].to_vec()
        }))
    }

    proptest! {
        #[test]
        fn what_was_cut_is_whole_again_in_any_order_and_with_repetitions(
            v6: bool,
            payload in proptest::collection::vec(any::<u8>(), 200..3000),
            limit in 100..800_usize,
            swaps: Vec<(prop::sample::Index, prop::sample::Index)>,
            repeated: prop::sample::Index,
        ) {
            let frame = packet(v6, &payload);
            let mut pieces = fragments(&frame, limit, 7);
            prop_assume!(pieces.len() > 1);
            let last = pieces.pop().unwrap();
            for (a, b) in swaps {
                let (a, b) = (a.index(pieces.len()), b.index(pieces.len()));
                pieces.swap(a, b);
            }
            pieces.push(pieces[repeated.index(pieces.len())].clone());
            let mut reassembly = Reassembly::default();
            for piece in &pieces {
                prop_assert_eq!(add(&mut reassembly, piece, 0), Ok(None));
            }
            let transport = Layers::parse(&frame).ip.unwrap().transport;
            prop_assert_eq!(add(&mut reassembly, &last, 0), Ok(Some(frame[transport..].to_vec())));
            prop_assert_eq!((reassembly.given_up(), reassembly.pending.len()), (0, 0));
        }

        #[test]
        fn no_bytes_are_unsafe(bytes in proptest::collection::vec(any::<u8>(), 0..80), v6: bool) {
            let mut frame = packet(v6, &[]);
            frame.truncate(14);
            frame.extend_from_slice(&bytes);
            if let Some(packet) = Layers::parse(&frame).ip {
                let mut reassembly = Reassembly::default();
                let _ = reassembly.add(&frame, &packet, at(0));
                prop_assert!(reassembly.pending.len() <= 1);
            }
        }
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let frame = packet(false, &[7; 1000]);
        let mut reassembly = Reassembly::default();
        let more = u32::try_from(MOST_PENDING).unwrap() + 3;
        for identification in 0..more {
            assert_eq!(add(&mut reassembly, &fragments(&frame, 700, identification)[0], 0), Ok(None));
        }
        assert_eq!((reassembly.given_up(), reassembly.pending.len()), (3, MOST_PENDING));
        // The youngest still becomes whole, and the first fragment of the oldest is gone.
        assert!(add(&mut reassembly, &fragments(&frame, 700, more - 1)[1], 0).unwrap().is_some());
        assert_eq!(add(&mut reassembly, &fragments(&frame, 700, 0)[1], 0), Ok(None));
        reassembly.finish();
        assert_eq!((reassembly.given_up(), reassembly.pending.len()), (u64::from(more), 0));
    }

    #[test]
    fn a_datagram_waits_for_thirty_seconds_by_the_clock_of_the_capture() {
        let frame = packet(true, &[7; 1000]);
        let pieces = fragments(&frame, 700, 9);
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, &pieces[0], 100), Ok(None));
        assert!(add(&mut reassembly, &pieces[1], 130).unwrap().is_some());
        assert_eq!(add(&mut reassembly, &pieces[0], 200), Ok(None));
        assert_eq!(add(&mut reassembly, &pieces[1], 231), Ok(None));
        assert_eq!(reassembly.given_up(), 1);
    }

    #[test]
    fn a_datagram_of_which_the_capture_cut_a_fragment_is_given_up_once() {
        let pieces = fragments(&packet(false, &[7; 1000]), 700, 9);
        let cut = |piece: &Vec<u8>| piece[..piece.len() - 1].to_vec();
        for pieces in [[pieces[0].clone(), cut(&pieces[1])], [cut(&pieces[0]), pieces[1].clone()]] {
            let mut reassembly = Reassembly::default();
            for piece in &pieces {
                assert_eq!(add(&mut reassembly, piece, 0), Ok(None));
            }
            reassembly.finish();
            assert_eq!((reassembly.given_up(), reassembly.pending.len()), (1, 0));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_ends_its_datagram() {
        let pieces = fragments(&packet(false, &[7; 1000]), 700, 9);
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, &pieces[0], 0), Ok(None));
        // A first fragment that is not a multiple of eight bytes long.
        let mut odd = pieces[0].clone();
        odd[17] -= 1;
        assert_eq!(add(&mut reassembly, &odd, 0), Err(DoesNotFit));
        assert_eq!((reassembly.given_up(), reassembly.pending.len()), (0, 0));
    }
}
