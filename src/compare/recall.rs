//! What was met lately: whoever comes again is a duplicate.

use std::collections::{HashMap, VecDeque};

/// Remembers the hashes of the latest frames that met their equal, up to a bound.
#[derive(Debug)]
pub(super) struct Recall {
    known: HashMap<u64, Known>,
    in_order: VecDeque<u64>,
    most: usize,
    has_forgotten: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    number: u64,
    times: u32,
}

impl Recall {
    /// What one remembered frame takes, in bytes: its places in the map and in the queue.
    const COST: u64 = 64;

    /// Remembers as many frames as fit into `bytes`.
    pub fn within(bytes: u64) -> Self {
        let most = usize::try_from(bytes / Self::COST).unwrap_or(usize::MAX).max(1);
        Self { known: HashMap::new(), in_order: VecDeque::new(), most, has_forgotten: false }
    }

    /// A frame of this content, number `number` of A, has met its equal.
    pub fn remember(&mut self, hash: u64, number: u64) {
        let known = self.known.entry(hash).or_insert(Known { number, times: 0 });
        (known.number, known.times) = (number, known.times.saturating_add(1));
        self.in_order.push_back(hash);
        if self.in_order.len() > self.most
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.has_forgotten = true;
            if let Some(known) = self.known.get_mut(&oldest) {
                known.times -= 1;
                if known.times == 0 {
                    self.known.remove(&oldest);
                }
            }
        }
    }

    /// The number in A of the latest frame of this content that met its equal.
    pub fn number_of(&self, hash: u64) -> Option<u64> {
        self.known.get(&hash).map(|known| known.number)
    }

    /// Whether it remembers no longer everything.
    pub fn has_forgotten(&self) -> bool {
        self.has_forgotten
    }
}
