//! ERSPAN (draft-foschiano-erspan-03): a mirrored frame in GRE, with the number of the SPAN session it belongs to.
//!
//! Type I is GRE alone, [`gre::ERSPAN`](super::gre::ERSPAN) without any flag, so it has nothing to write here.
//!
//! Type II: GRE `0x1000 0x88be`, sequence number, and (section 4.2)
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Ver=1 |          VLAN         | COS | En|T|    Session ID     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |       Reserved        |                Index                  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Type III: GRE `0x1000 0x22eb`, sequence number, and (section 4.3)
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Ver=2 |          VLAN         | COS |BSO|T|    Session ID     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Timestamp                            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |             SGT               |P|    FT   |   Hw ID   |D|Gra|O|
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! With O set, eight bytes of platform specific information follow, which only others send.
//!
//! VLAN and COS stay 0 and the tag stays in the frame: Suricata counts a VLAN number in this header as one more tag,
//! and tears a flow apart when it differs by direction.

use super::{ParseError, split_header};
use crate::quantity::{Direction, ErspanIndex, ErspanSessionId, Timestamp};

/// The header of ERSPAN type II, behind GRE with a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erspan2 {
    /// The SPAN session.
    pub session: ErspanSessionId,
    /// Platform dependent: port and direction on switches.
    pub index: ErspanIndex,
    /// T: the frame was cut to fit.
    pub truncated: bool,
    /// Whether the frame carries an 802.1Q tag: En is then 11 ("VLAN tag preserved in frame"), else 00.
    pub tagged: bool,
}

impl Erspan2 {
    /// Length in bytes, without GRE.
    pub const LEN: usize = 8;

    /// Writes the header to the first [`LEN`](Self::LEN) bytes of `out`, which must have them.
    pub fn write(&self, out: &mut [u8]) {
        let en = if self.tagged { TAG_PRESERVED } else { 0 };
        let word = VERSION_II | en | session_bits(self.truncated, self.session);
        out[..4].copy_from_slice(&word.to_be_bytes());
        out[4..8].copy_from_slice(&self.index.value().to_be_bytes());
    }

    /// Reads a header and returns what follows. VLAN, COS and the reserved bits are ignored.
    ///
    /// # Errors
    /// When fewer than eight bytes are there, or the version is not 1.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let ([w0, w1, w2, w3, index @ ..], rest) = split_header::<{ Self::LEN }>("ERSPAN II", bytes)?;
        let word = u32::from_be_bytes([*w0, *w1, *w2, *w3]);
        expect_version("ERSPAN II", VERSION_II, word)?;
        let index = u32::from_be_bytes(*index) & ErspanIndex::MAX.value();
        let header = Self {
            session: session_of(word),
            index: ErspanIndex::new(index.into()).unwrap_or(ErspanIndex::MAX),
            truncated: word & TRUNCATED != 0,
            tagged: word & TAG_PRESERVED == TAG_PRESERVED,
        };
        Ok((header, rest))
    }
}

/// The header of ERSPAN type III, behind GRE with a sequence number. It carries an Ethernet frame (P 1, FT 0) from
/// hardware 0, says nothing about bad frames (BSO 00), has no security group tag and no platform sub-header (O 0:
/// Linux and Open vSwitch would take one for the frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erspan3 {
    /// The SPAN session.
    pub session: ErspanSessionId,
    /// D: whether the frame entered (0) or left (1) the interface it was mirrored from.
    pub direction: Direction,
    /// When it was captured (Gra 00).
    pub timestamp: Ticks,
    /// T: the frame was cut to fit.
    pub truncated: bool,
}

impl Erspan3 {
    /// Length in bytes, without GRE.
    pub const LEN: usize = 12;

    /// Writes the header to the first [`LEN`](Self::LEN) bytes of `out`, which must have them.
    pub fn write(&self, out: &mut [u8]) {
        let word = VERSION_III | session_bits(self.truncated, self.session);
        let direction = if self.direction == Direction::Out { EGRESS } else { 0 };
        out[..4].copy_from_slice(&word.to_be_bytes());
        out[4..8].copy_from_slice(&self.timestamp.0.to_be_bytes());
        out[8..12].copy_from_slice(&(ETHERNET_PAYLOAD | direction).to_be_bytes());
    }

    /// Reads a header and returns what follows. What we never send is ignored.
    ///
    /// # Errors
    /// When fewer than twelve bytes are there, the version is not 2, or a platform sub-header follows.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let ([w0, w1, w2, w3, t0, t1, t2, t3, flags @ ..], rest) = split_header::<{ Self::LEN }>("ERSPAN III", bytes)?;
        let (word, flags) = (u32::from_be_bytes([*w0, *w1, *w2, *w3]), u32::from_be_bytes(*flags));
        expect_version("ERSPAN III", VERSION_III, word)?;
        if flags & SUB_HEADER != 0 {
            return Err(ParseError::Unexpected { header: "ERSPAN III", field: "O flag", needed: 0, had: 1 });
        }
        let header = Self {
            session: session_of(word),
            direction: if flags & EGRESS == 0 { Direction::In } else { Direction::Out },
            timestamp: Ticks(u32::from_be_bytes([*t0, *t1, *t2, *t3])),
            truncated: word & TRUNCATED != 0,
        };
        Ok((header, rest))
    }
}

/// What the two types say of a frame, from whomever they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The SPAN session.
    pub session: ErspanSessionId,
    /// Which way the frame went; only type III tells.
    pub direction: Option<Direction>,
    /// T: the frame was cut to fit.
    pub truncated: bool,
    /// Tag control information of the 802.1Q tag that the sender took out (type II with En 10).
    pub removed_tag: Option<u16>,
    /// Whether an IP packet without Ethernet header follows (type III with FT 2).
    pub bare: bool,
    /// Whether bits are set that have no meaning.
    pub reserved_bits: bool,
}

impl Received {
    /// Reads a header of type II and returns what follows.
    ///
    /// # Errors
    /// As [`Erspan2::parse`].
    pub fn parse_ii(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (header, rest) = Erspan2::parse(bytes)?;
        let ([v0, v1, c0, c1, r0, r1, ..], _) = split_header::<{ Erspan2::LEN }>("ERSPAN II", bytes)?;
        let (vlan, cos) = (u16::from_be_bytes([*v0, *v1]) & 0x0fff, u16::from_be_bytes([*c0, *c1]));
        let was_removed = u32::from(cos) & TAG_PRESERVED == TAG_REMOVED;
        let received = Self {
            session: header.session,
            direction: None,
            truncated: header.truncated,
            // COS stands where a tag has its priority.
            removed_tag: was_removed.then_some(cos & 0xe000 | vlan),
            bare: false,
            reserved_bits: u16::from_be_bytes([*r0, *r1]) & 0xfff0 != 0,
        };
        Ok((received, rest))
    }

    /// Reads a header of type III with its platform sub-header, if there is one, and returns what follows.
    ///
    /// # Errors
    /// When it is cut, the version is not 2, or what follows is neither an Ethernet frame nor an IP packet.
    pub fn parse_iii(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        const IP_PACKET: u32 = 2;
        let ([w0, w1, w2, w3, .., f0, f1, f2, f3], mut rest) = split_header::<{ Erspan3::LEN }>("ERSPAN III", bytes)?;
        let (word, flags) = (u32::from_be_bytes([*w0, *w1, *w2, *w3]), u32::from_be_bytes([*f0, *f1, *f2, *f3]));
        expect_version("ERSPAN III", VERSION_III, word)?;
        if flags & SUB_HEADER != 0 {
            rest = split_header::<8>("ERSPAN III platform", rest)?.1;
        }
        let frame_type = (flags >> 10) & 0x1f;
        if frame_type != 0 && frame_type != IP_PACKET {
            return Err(ParseError::Unexpected {
                header: "ERSPAN III",
                field: "frame type",
                needed: 0,
                had: frame_type,
            });
        }
        let received = Self {
            session: session_of(word),
            direction: Some(if flags & EGRESS == 0 { Direction::In } else { Direction::Out }),
            truncated: word & TRUNCATED != 0,
            removed_tag: None,
            bare: frame_type == IP_PACKET,
            reserved_bits: false,
        };
        Ok((received, rest))
    }
}

/// Time in units of 100 µs, the low 32 bits of it: wraps every 4.97 days. Linux and Open vSwitch count them from the
/// epoch too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks(pub u32);

impl From<Timestamp> for Ticks {
    #[allow(clippy::cast_possible_truncation, reason = "the field is defined as the low 32 bits")]
    fn from(timestamp: Timestamp) -> Self {
        Self((timestamp.nanos() / 100_000) as u32)
    }
}

/// Ver 1.
const VERSION_II: u32 = 1 << 28;
/// Ver 2.
const VERSION_III: u32 = 2 << 28;
/// Where Ver stands.
const VERSION: u32 = 0xf << 28;
/// En 11.
const TAG_PRESERVED: u32 = 0b11 << 11;
/// En 10.
const TAG_REMOVED: u32 = 0b10 << 11;
/// T, in the first word of both types.
const TRUNCATED: u32 = 1 << 10;
/// P, in the last word of type III.
const ETHERNET_PAYLOAD: u32 = 1 << 15;
/// D, in the last word of type III.
const EGRESS: u32 = 1 << 3;
/// O, in the last word of type III.
const SUB_HEADER: u32 = 1;

/// T and session id, where both types have them.
fn session_bits(truncated: bool, session: ErspanSessionId) -> u32 {
    u32::from(session.value()) | if truncated { TRUNCATED } else { 0 }
}

/// The session id in the first word of both types.
pub(crate) fn session_of(first_word: u32) -> ErspanSessionId {
    // Ten bits always are a session id.
    ErspanSessionId::new(u64::from(first_word & 0x3ff)).unwrap_or(ErspanSessionId::MAX)
}

fn expect_version(header: &'static str, version: u32, first_word: u32) -> Result<(), ParseError> {
    if first_word & VERSION == version {
        return Ok(());
    }
    Err(ParseError::Unexpected { header, field: "version", needed: version >> 28, had: first_word >> 28 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sessions() -> impl Strategy<Value = ErspanSessionId> {
        (0..=1023_u64).prop_map(|session| ErspanSessionId::new(session).unwrap())
    }

    proptest! {
        #[test]
        fn type_ii_is_read_as_it_was_written(
            session in sessions(),
            index in 0..=0xf_ffff_u64,
            truncated: bool,
            tagged: bool,
            frame: Vec<u8>,
        ) {
            let header = Erspan2 { session, index: ErspanIndex::new(index).unwrap(), truncated, tagged };
            let mut datagram = [&[0xaa; Erspan2::LEN], &frame[..]].concat();
            header.write(&mut datagram);
            prop_assert_eq!(Erspan2::parse(&datagram), Ok((header, &frame[..])));
            prop_assert!(Erspan3::parse(&[&datagram[..8], &[0; 4]].concat()).is_err());
        }

        #[test]
        fn type_iii_is_read_as_it_was_written(
            session in sessions(),
            out: bool,
            ticks: u32,
            truncated: bool,
            frame: Vec<u8>,
        ) {
            let direction = if out { Direction::Out } else { Direction::In };
            let header = Erspan3 { session, direction, timestamp: Ticks(ticks), truncated };
            let mut datagram = [&[0xaa; Erspan3::LEN], &frame[..]].concat();
            header.write(&mut datagram);
            prop_assert_eq!(Erspan3::parse(&datagram), Ok((header, &frame[..])));
            prop_assert!(Erspan2::parse(&datagram).is_err());
        }
    }

    #[test]
    fn a_tick_is_100_microseconds_and_the_count_wraps() {
        assert_eq!(Ticks::from(Timestamp::from_nanos(250_000)), Ticks(2));
        // 2026-01-01 00:00:00 UTC: 17,672,256,000,000 ticks, less 4114 turns of the counter.
        let new_year = Timestamp::from_nanos(1_767_225_600_000_000_000);
        assert_eq!(Ticks::from(new_year), Ticks(2_760_544_256));
    }

    #[test]
    fn what_only_switches_send_is_read() {
        // VLAN 100, COS 5, En 10, session 7; the reserved bits of the second word.
        let removed = [0x10, 0x64, 0xb0, 0x07, 0, 0, 0, 1];
        let (received, rest) = Received::parse_ii(&[&removed[..], b"frame"].concat())
            .map(|(header, rest)| (header, rest.to_vec()))
            .unwrap();
        assert_eq!((received.session.value(), received.removed_tag, rest.as_slice()), (7, Some(0xa064), &b"frame"[..]));
        assert!(!received.reserved_bits && !received.truncated);
        let [first, .., last] = [[0x10, 0x64, 0x18, 0x07, 0, 0, 0, 1], [0x10, 0, 0, 7, 0, 0x10, 0, 1]];
        assert_eq!(Received::parse_ii(&first).unwrap().0.removed_tag, None);
        assert!(Received::parse_ii(&last).unwrap().0.reserved_bits);

        // D and O: eight more bytes; then FT 2, and FT 1.
        let sub_header = [&[0x20, 0, 4, 7, 0, 0, 0, 0, 0, 0, 0x80, 0x09][..], &[0xaa; 8], b"frame"].concat();
        let (received, rest) = Received::parse_iii(&sub_header).unwrap();
        assert_eq!(rest, b"frame");
        assert_eq!((received.direction, received.truncated, received.bare), (Some(Direction::Out), true, false));
        assert!(Received::parse_iii(&sub_header[..19]).is_err());
        assert!(Received::parse_iii(&[0x20, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x08, 0]).unwrap().0.bare);
        let other = Received::parse_iii(&[0x20, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x04, 0]).unwrap_err();
        assert_eq!(other.to_string(), "ERSPAN III header: frame type is 0x1, not 0x0");
    }

    #[test]
    fn a_platform_sub_header_is_refused_rather_than_taken_for_the_frame() {
        let mut header = [0; Erspan3::LEN];
        header[0] = 0x20;
        header[11] = 0x01;
        let error = Erspan3::parse(&header).unwrap_err();
        assert_eq!(error.to_string(), "ERSPAN III header: O flag is 0x1, not 0x0");
    }
}
