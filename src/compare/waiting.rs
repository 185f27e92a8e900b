//! The frames of one side that have not met their equal yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::seen::Seen;

/// A frame that waits.
#[derive(Debug)]
pub(super) struct Held {
    /// The frame.
    pub seen: Seen,
    /// When it began to wait: a count over both sides.
    pub turn: u64,
    /// Where it is to be expected on the other side, by ordinal: behind the equal of the frame before it.
    pub after: Option<u64>,
    /// The same from the other end: before the equal of the frame behind it.
    pub before: Option<u64>,
    /// The number of a frame of the other side that is equal to it, but has met another one. Told by
    /// [`Waiting::tell_copies`] where that happened while it waited.
    pub copy_of: Option<u64>,
}

/// All that wait, by ordinal and by content.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    frames: BTreeMap<u64, Held>,
    by_hash: HashMap<u64, Equals>,
    bytes: u64,
}

/// Those with one content. A capture may repeat one frame for as long as the window is: nothing is done for each of them.
#[derive(Debug, Default)]
struct Equals {
    /// By ordinal.
    ordinals: BTreeSet<u64>,
    /// The number of the frame of the other side that was the last to meet another frame of this content.
    copy_of: Option<u64>,
}

/// What a waiting frame takes beside its bytes: its places in both maps, and what judging it takes. In bytes.
const OVERHEAD: u64 = 512;

impl Waiting {
    /// Lets a frame wait.
    pub fn push(&mut self, held: Held) {
        self.bytes += held.seen.bytes.len() as u64 + OVERHEAD;
        self.by_hash.entry(held.seen.hash).or_default().ordinals.insert(held.seen.place.ordinal);
        self.frames.insert(held.seen.place.ordinal, held);
    }

    /// The equal of `seen`, which waits no longer: the first one whose ordinal is larger than `behind`.
    pub fn meet(&mut self, seen: &Seen, behind: u64) -> Option<Held> {
        let equals = self.by_hash.get(&seen.hash)?;
        let is_equal = |ordinal: &u64| self.frames.get(ordinal).is_some_and(|held| held.seen.is_same(seen));
        let ordinal = equals.ordinals.range(behind.saturating_add(1)..).copied().find(is_equal)?;
        self.remove(ordinal)
    }

    /// Takes one out.
    pub fn remove(&mut self, ordinal: u64) -> Option<Held> {
        let held = self.frames.remove(&ordinal)?;
        self.bytes -= held.seen.bytes.len() as u64 + OVERHEAD;
        if let Some(equals) = self.by_hash.get_mut(&held.seen.hash) {
            equals.ordinals.remove(&ordinal);
            if equals.ordinals.is_empty() {
                self.by_hash.remove(&held.seen.hash);
            }
        }
        Some(held)
    }

    /// The frame with this content met its equal, which is number `number` on the other side: whoever waits with the
    /// same content may be a copy.
    pub fn mark_copies(&mut self, hash: u64, number: u64) {
        if let Some(equals) = self.by_hash.get_mut(&hash) {
            equals.copy_of = Some(number);
        }
    }

    /// Tells each frame whether it may be a copy. For once before they are judged.
    pub fn tell_copies(&mut self) {
        for equals in self.by_hash.values().filter(|equals| equals.copy_of.is_some()) {
            for ordinal in &equals.ordinals {
                if let Some(held) = self.frames.get_mut(ordinal) {
                    held.copy_of = equals.copy_of;
                }
            }
        }
    }

    /// The frame with the ordinal `own` met `other`: that tells its neighbours where they are to be expected.
    pub fn tell_neighbours(&mut self, own: u64, other: u64) {
        if let Some(next) = self.frames.get_mut(&(own + 1)) {
            next.after = Some(other + 1);
        }
        if let Some(previous) = self.frames.get_mut(&(own - 1)) {
            previous.before = Some(other.saturating_sub(1));
        }
    }

    /// Those that wait, by ordinal.
    pub fn frames(&self) -> &BTreeMap<u64, Held> {
        &self.frames
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Memory that they take, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
