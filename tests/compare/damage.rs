//! Deliberate damage to captures: each kind changes one place, and knows what a comparison has to say about it.

use farspan::compare::Kind;
use farspan::wire::layers::{Fragment, Ip, IpVersion, Layers, TCP, UDP};

/// A frame of a capture, and its length on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub bytes: Vec<u8>,
    pub wire_len: u32,
}

impl Recorded {
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self { wire_len: u32::try_from(bytes.len()).expect("frames are short"), bytes }
    }
}

/// Everything that can happen to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Drop,
    Insert,
    Repeat,
    Delay,
    Truncate,
    CutByCapture,
    Pad,
    KeepFcs,
    StripTag,
    AddTag,
    AnotherVlan,
    IpChecksum,
    TcpChecksum,
    UdpChecksum,
    Split,
    Merge,
    FlipPayload,
    AnotherMac,
    Route,
}

/// What a comparison has to say, and nothing else. Frame numbers count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub kind: Kind,
    pub a: Vec<u64>,
    pub b: Vec<u64>,
    pub at: Option<usize>,
    pub field: Option<&'static str>,
}

impl Damage {
    pub const ALL: [Self; 19] = [
        Self::Drop,
        Self::Insert,
        Self::Repeat,
        Self::Delay,
        Self::Truncate,
        Self::CutByCapture,
        Self::Pad,
        Self::KeepFcs,
        Self::StripTag,
        Self::AddTag,
        Self::AnotherVlan,
        Self::IpChecksum,
        Self::TcpChecksum,
        Self::UdpChecksum,
        Self::Split,
        Self::Merge,
        Self::FlipPayload,
        Self::AnotherMac,
        Self::Route,
    ];

    /// Damages `frames` at `index`, if this can happen to that frame.
    pub fn at(self, index: usize, frames: &[Recorded]) -> Option<(Vec<Recorded>, Expected)> {
        let (out, expected) = match self {
            Self::Drop | Self::Insert | Self::Repeat | Self::Delay => self.to_places(index, frames),
            Self::Split | Self::Merge => self.to_segments(index, frames),
            _ => self.to_bytes(&frames[index]).map(|(frame, place)| {
                let number = index as u64 + 1;
                let mut out = frames.to_vec();
                out[index] = frame;
                let Place { kind, at, field } = place;
                (out, Expected { at: Some(at), field, ..Expected::of(kind, &[number], &[number]) })
            }),
        }?;
        // A frame of which there are several, or that becomes equal to another one, is something else.
        let numbered = |frames: &[Recorded], number: u64| frames[usize::try_from(number).expect("small") - 1].clone();
        let times = |wanted: &Recorded| frames.iter().filter(|frame| *frame == wanted).count();
        let is_moved = matches!(self, Self::Drop | Self::Repeat | Self::Delay);
        let is_unique = times(&frames[index]) == 1 && expected.a.iter().all(|&a| times(&numbered(frames, a)) == 1);
        let is_new = is_moved || expected.b.iter().all(|&b| times(&numbered(&out, b)) == 0);
        (is_unique && is_new).then_some((out, expected))
    }

    /// Changes which frames there are, and where.
    fn to_places(self, index: usize, frames: &[Recorded]) -> Option<(Vec<Recorded>, Expected)> {
        /// How many frames a delayed one is overtaken by.
        const DELAY: usize = 5;
        let (mut out, number) = (frames.to_vec(), index as u64 + 1);
        let expected = match self {
            Self::Drop => {
                out.remove(index);
                Expected::of(Kind::Missing, &[number], &[])
            }
            Self::Insert => {
                let strange = b"nobody has sent this frame, ever; a comparison finds it";
                out.insert(index, Recorded::whole(strange.to_vec()));
                Expected::of(Kind::Extra, &[], &[number])
            }
            Self::Repeat => {
                out.insert(index + 1, frames[index].clone());
                Expected::of(Kind::Duplicated, &[], &[number + 1])
            }
            _ => {
                (index + DELAY < frames.len()).then_some(())?;
                let delayed = out.remove(index);
                out.insert(index + DELAY, delayed);
                Expected::of(Kind::Reordered, &[number], &[number + DELAY as u64])
            }
        };
        Some((out, expected))
    }

    /// Cuts a TCP stream otherwise.
    fn to_segments(self, index: usize, frames: &[Recorded]) -> Option<(Vec<Recorded>, Expected)> {
        let (mut out, number) = (frames.to_vec(), index as u64 + 1);
        if self == Self::Split {
            let pieces = split(&frames[index].bytes)?;
            let b: Vec<u64> = (number..).take(pieces.len()).collect();
            out.splice(index..=index, pieces.into_iter().map(Recorded::whole));
            return Some((out, Expected::of(Kind::Split, &[number], &b)));
        }
        let (other, whole) = merged(index, frames)?;
        out[index] = Recorded::whole(whole);
        out.remove(other);
        Some((out, Expected::of(Kind::Merged, &[number, other as u64 + 1], &[number])))
    }

    /// Changes the bytes of one frame.
    fn to_bytes(self, frame: &Recorded) -> Option<(Recorded, Place)> {
        let (bytes, layers) = (&frame.bytes, Layers::parse(&frame.bytes));
        let plain = |kind, at| Place { kind, at, field: None };
        let flipped = |at: usize, place: Place| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            Some((Recorded::whole(bytes), Place { at, ..place }))
        };
        let rewritten = |range: std::ops::Range<usize>, with: &[u8], place| {
            let mut bytes = bytes.clone();
            bytes.splice(range, with.iter().copied());
            Some((Recorded::whole(bytes), place))
        };
        let (end, half) = (bytes.len(), bytes.len() / 2);
        let checksum = |field| Place { field: Some(field), ..plain(Kind::Checksum, 0) };
        let changed = |field| Place { field, ..plain(Kind::Changed, 0) };
        match self {
            Self::Truncate => rewritten(half..end, &[], plain(Kind::Cut, half)),
            Self::CutByCapture => {
                let kept = Recorded { bytes: bytes[..half].to_vec(), wire_len: frame.wire_len };
                Some((kept, plain(Kind::Cut, half)))
            }
            Self::Pad => rewritten(end..end, &[0; 6], plain(Kind::Padded, end)),
            Self::KeepFcs => rewritten(end..end, &fcs(bytes), plain(Kind::Padded, end)),
            Self::StripTag | Self::AnotherVlan if layers.network < 18 => None,
            Self::StripTag => {
                let without = [&bytes[..12], &bytes[16..]].concat();
                let at = bytes.iter().zip(&without).position(|(x, y)| x != y).unwrap_or(without.len());
                Some((Recorded::whole(without), plain(Kind::VlanLost, at)))
            }
            Self::AddTag if layers.network < 14 => None,
            Self::AddTag => {
                let with = [&bytes[..12], &[0x81, 0, 0x60, 5], &bytes[12..]].concat();
                let at = bytes.iter().zip(&with).position(|(x, y)| x != y).unwrap_or(end);
                Some((Recorded::whole(with), plain(Kind::VlanAdded, at)))
            }
            Self::AnotherVlan => flipped(15, plain(Kind::VlanChanged, 0)),
            Self::AnotherMac => flipped(5, changed(Some("Ethernet destination"))),
            Self::IpChecksum => flipped(ipv4(&layers)?.start + 11, checksum("IPv4 header checksum")),
            Self::TcpChecksum => flipped(carrying(TCP, bytes)?.transport + 16, checksum("TCP checksum")),
            Self::UdpChecksum => flipped(carrying(UDP, bytes)?.transport + 6, checksum("UDP checksum")),
            Self::FlipPayload => {
                let packet = carrying(TCP, bytes).or_else(|| carrying(UDP, bytes))?;
                (packet.payload? < packet.end).then(|| flipped(packet.end - 1, changed(None)))?
            }
            Self::Route => {
                let start = ipv4(&layers)?.start;
                let ttl = bytes[start + 8].wrapping_sub(1);
                let with = [ttl, bytes[start + 9], bytes[start + 10] ^ 1];
                rewritten(start + 8..start + 11, &with, Place { at: start + 8, ..changed(Some("IPv4 TTL")) })
            }
            Self::Drop | Self::Insert | Self::Repeat | Self::Delay | Self::Split | Self::Merge => None,
        }
    }
}

/// What is different about one frame, and where.
struct Place {
    kind: Kind,
    at: usize,
    field: Option<&'static str>,
}

impl Expected {
    fn of(kind: Kind, a: &[u64], b: &[u64]) -> Self {
        Self { kind, a: a.to_vec(), b: b.to_vec(), at: None, field: None }
    }
}

fn ipv4(layers: &Layers) -> Option<Ip> {
    layers.ip.filter(|packet| packet.version == IpVersion::V4)
}

/// The packet of a frame that carries a whole header of `protocol`.
fn carrying(protocol: u8, frame: &[u8]) -> Option<Ip> {
    let packet = whole(frame, &Layers::parse(frame)).filter(|packet| packet.protocol == protocol)?;
    packet.payload.map(|_| packet)
}

/// The IP packet of a frame, if all of it is there.
fn whole(frame: &[u8], layers: &Layers) -> Option<Ip> {
    layers.ip.filter(|packet| packet.fragment == Fragment::Whole && packet.end <= frame.len())
}

/// A TCP segment in three, as a sender's hardware would cut it, but with the checksums of the whole.
fn split(frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let packet = carrying(TCP, frame)?;
    let payload = &frame[packet.payload?..packet.end];
    let size = payload.len().div_ceil(3);
    (size > 1).then_some(())?;
    let pieces = payload.chunks(size).enumerate().map(|(piece, bytes)| {
        let mut cut = [&frame[..packet.payload.expect("TCP has one")], bytes].concat();
        move_sequence(&mut cut, &packet, piece * size);
        cut
    });
    Some(pieces.map(|piece| with_length(piece, &packet)).collect())
}

/// The segment at `index` with the one that follows it in its stream, which is another frame soon after.
fn merged(index: usize, frames: &[Recorded]) -> Option<(usize, Vec<u8>)> {
    let parsed = |frame: &Recorded| {
        let packet = carrying(TCP, &frame.bytes)?;
        let payload = frame.bytes[packet.payload?..packet.end].to_vec();
        let sequence = &frame.bytes[packet.transport + 4..packet.transport + 8];
        let sequence = u32::from_be_bytes(sequence.try_into().expect("four bytes"));
        (!payload.is_empty()).then_some((packet, payload, sequence))
    };
    let (packet, payload, sequence) = parsed(&frames[index])?;
    let next = sequence.wrapping_add(u32::try_from(payload.len()).expect("small"));
    let mut behind = frames.iter().enumerate().skip(index + 1).take(8);
    let (other, rest) = behind.find_map(|(number, frame)| {
        let (other, rest, sequence) = parsed(frame)?;
        let is_same_way = other.addresses(&frame.bytes) == packet.addresses(&frames[index].bytes)
            && other.ports(&frame.bytes) == packet.ports(&frames[index].bytes);
        (is_same_way && sequence == next).then_some((number, rest))
    })?;
    let whole = [&frames[index].bytes[..packet.end], &rest].concat();
    Some((other, with_length(whole, &packet)))
}

fn move_sequence(frame: &mut [u8], packet: &Ip, by: usize) {
    let field = packet.transport + 4..packet.transport + 8;
    let sequence = u32::from_be_bytes(frame[field.clone()].try_into().expect("four bytes"));
    frame[field].copy_from_slice(&sequence.wrapping_add(u32::try_from(by).expect("small")).to_be_bytes());
}

/// The frame with the length of its packet in the IP header.
fn with_length(mut frame: Vec<u8>, packet: &Ip) -> Vec<u8> {
    let (field, from) = match packet.version {
        IpVersion::V4 => (packet.start + 2, packet.start),
        IpVersion::V6 => (packet.start + 4, packet.start + 40),
    };
    let length = u16::try_from(frame.len() - from).expect("small");
    frame[field..field + 2].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The frame check sequence, bit by bit (IEEE 802.3 section 3.2.9).
fn fcs(frame: &[u8]) -> [u8; 4] {
    let mut sum = u32::MAX;
    for byte in frame {
        for bit in 0..8 {
            let carry = (sum ^ u32::from(byte >> bit)) & 1;
            sum = (sum >> 1) ^ (0xedb8_8320 * carry);
        }
    }
    (!sum).to_le_bytes()
}
