//! Fragmented datagrams that are part of a loop.

use std::hash::{BuildHasher as _, RandomState};

use crate::wire::layers::Ip;
use crate::wire::nesting;

/// How long later fragments may come after the first one, in nanoseconds. An identification is used again much later.
const LIFE: u64 = 2_000_000_000;
/// Sets of [`WAYS`] entries.
const SETS: usize = 256;
const WAYS: usize = 4;

/// Recent datagrams whose first fragment was a loop. Others are not kept, so that foreign fragments need no memory.
#[derive(Debug, Default)]
pub(super) struct LoopFragments {
    /// Random: nobody can choose identifications that share an entry.
    key: RandomState,
    /// Empty until [`claim`](Self::claim).
    entries: Vec<Entry>,
}

/// What all fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Position {
    source: [u8; 16],
    destination: [u8; 16],
    protocol: u8,
    identification: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    hash: u64,
    /// When it is forgotten, in nanoseconds of the frames' time; 0: nothing is here.
    until: u64,
}

impl Position {
    /// That of `packet`, a fragment.
    pub(super) fn of(bytes: &[u8], packet: &Ip) -> Option<Self> {
        let whole = |address: &[u8]| {
            let mut octets = [0; 16];
            octets[..address.len()].copy_from_slice(address);
            octets
        };
        let (source, destination) = packet.addresses(bytes);
        let (protocol, identification) = nesting::fragment_identity(bytes, packet)?;
        Some(Self { source: whole(source), destination: whole(destination), protocol, identification })
    }
}

impl LoopFragments {
    /// Claims the memory, if that has not been done.
    pub(super) fn claim(&mut self) {
        self.entries.resize(SETS * WAYS, Entry::default());
    }

    /// Takes note of a first fragment, and whether it is part of a loop. The latest one with an identification decides about the later fragments.
    pub(super) fn note(&mut self, position: Position, is_loop: bool, now: u64) {
        let (hash, set) = self.set(position);
        let Some(entries) = self.entries.get_mut(set..set + WAYS) else { return };
        let known = entries.iter().position(|entry| entry.until > 0 && entry.hash == hash);
        if !is_loop {
            if let Some(known) = known {
                entries[known].until = 0;
            }
            return;
        }
        let oldest = entries.iter().enumerate().min_by_key(|(_, entry)| entry.until).map_or(0, |(at, _)| at);
        entries[known.unwrap_or(oldest)] = Entry { hash, until: now.saturating_add(LIFE) };
    }

    /// Whether the first fragment of that datagram was a loop, a moment ago.
    pub(super) fn contains(&self, position: Position, now: u64) -> bool {
        let (hash, set) = self.set(position);
        // A clock that was set back must not make an entry live longer.
        let is_alive = |entry: &Entry| entry.until > now && entry.until - now <= LIFE;
        self.entries
            .get(set..set + WAYS)
            .is_some_and(|entries| entries.iter().any(|entry| entry.hash == hash && is_alive(entry)))
    }

    fn set(&self, position: Position) -> (u64, usize) {
        let hash = self.key.hash_one(position);
        (hash, usize::try_from(hash % SETS as u64).unwrap_or(0) * WAYS)
    }
}
