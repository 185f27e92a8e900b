//! A frame as one side of a comparison has it.

use std::hash::{BuildHasher, RandomState};

use crate::flow::FlowKey;
use crate::quantity::Timestamp;
use crate::wire::layers::Layers;

/// Where a frame stands on its side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Counts the frames that are compared, from 1.
    pub ordinal: u64,
    /// The frame's number in its file, from 1, as Wireshark counts: of the packet it was taken out of, when a tunnel
    /// was taken off.
    pub number: u64,
}

/// A frame that was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Where it stands.
    pub place: Place,
    /// Its bytes, as far as they are compared.
    pub bytes: Vec<u8>,
    /// Its length on the wire, in bytes; larger than `bytes` when the capture cut it.
    pub wire_len: u32,
    /// When it was captured.
    pub timestamp: Timestamp,
    /// Hash of bytes and length: equal frames have equal hashes.
    pub hash: u64,
    /// Whose order it has to keep.
    pub group: Group,
}

/// Frames of one group are to keep their order: those of one flow, or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Group(u64);

impl Group {
    /// The group of all frames.
    pub const ALL: Self = Self(0);

    /// The group of a frame's flow.
    pub fn of_flow(frame: &[u8]) -> Self {
        Self(FlowKey::PUBLIC.flow(frame, &Layers::parse(frame)).0)
    }
}

impl Seen {
    /// Takes over a frame, keeping at most its first `keep` bytes.
    pub fn fill(&mut self, bytes: &[u8], wire_len: u32, timestamp: Timestamp, keep: usize, hasher: &RandomState) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes.get(..keep).unwrap_or(bytes));
        (self.wire_len, self.timestamp) = (wire_len, timestamp);
        self.hash = hasher.hash_one((self.bytes.as_slice(), wire_len));
    }

    /// Whether `other` is the same frame: the same bytes, of a frame of the same length.
    pub fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.wire_len == other.wire_len && self.bytes == other.bytes
    }

    /// Whether the capture cut it.
    pub fn is_cut(&self) -> bool {
        self.bytes.len() < self.wire_len as usize
    }
}
