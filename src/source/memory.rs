//! How much memory the capture rings of a session may take, however many interfaces appear.
//!
//! A session has `buffer` for itself. Beyond it, small rings are lent out of what `[limit] memory` leaves over all sessions.
//! What fits nowhere is not captured, and that is said: kernel memory that others can make a host use without bound would be
//! theirs to exhaust.

use std::sync::{Arc, Mutex, PoisonError};

use bytesize::ByteSize;

use crate::config::defaults::{LEAST_BUFFER, LEAST_RING};
use crate::config::plan::{LivePlan, SessionPlan, SourcePlan};
use crate::error::Explain;

/// Memory that no session was granted, for the rings of those that need more. Clones are the same memory.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Bytes>>);

#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    free: u64,
    /// Of those: how many are lent.
    lent: u64,
}

/// What one session has of a [`Pool`]; returned when it is dropped.
#[derive(Debug)]
struct Loan {
    pool: Pool,
    bytes: u64,
}

impl Pool {
    /// Of so many bytes.
    pub fn new(free: u64) -> Self {
        Self(Arc::new(Mutex::new(Bytes { free, lent: 0 })))
    }

    /// Makes it as large as this. What is lent stays lent.
    pub fn resize(&self, free: u64) {
        self.bytes().free = free;
    }

    /// How many bytes are lent.
    pub fn lent(&self) -> u64 {
        self.bytes().lent
    }

    fn left(&self) -> u64 {
        let bytes = *self.bytes();
        bytes.free.saturating_sub(bytes.lent)
    }

    fn bytes(&self) -> std::sync::MutexGuard<'_, Bytes> {
        // Two numbers, whoever was interrupted over them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan {
    /// Borrows more, or gives back. Says whether it has as many bytes as this now; else it has as many as before.
    fn resize(&mut self, bytes: u64) -> bool {
        let mut pool = self.pool.bytes();
        let lent = pool.lent.saturating_sub(self.bytes) + bytes;
        if bytes > self.bytes && lent > pool.free {
            return false;
        }
        pool.lent = lent;
        drop(pool);
        self.bytes = bytes;
        true
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// What the rings of one session may take.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The session's own, in bytes.
    own: u64,
    /// All that it may have, if that is limited.
    most: Option<u64>,
    most_interfaces: usize,
    workers: u64,
    /// Whether interfaces may appear, for which something is left.
    more_may_come: bool,
    loan: Loan,
}

/// Why an interface is not captured although it could be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// As many as there may be are captured.
    #[error("no further interface is mirrored: {0} are, as many as `source.max_interfaces` allows")]
    Interfaces(usize),
    /// The memory is used up.
    #[error(
        "no further interface is mirrored: {0} of capture buffers are in use, and the limit leaves no room for another"
    )]
    Memory(ByteSize),
}

impl Explain for NoRoom {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Interfaces(_) => "raise `source.max_interfaces`, or write a pattern that means fewer interfaces",
                Self::Memory(_) => "raise `[limit] memory` or the session's `limit.memory`, or write a pattern that means fewer interfaces",
            }
            .to_owned(),
        )
    }
}

impl Budget {
    /// Of the session `plan`, which captures as `live` says and may borrow from `pool`.
    pub(crate) fn new(live: &LivePlan, plan: &SessionPlan, pool: &Pool) -> Self {
        Self {
            own: live.buffer,
            most: plan.limit.memory,
            most_interfaces: live.max_interfaces,
            workers: u64::from(live.workers.value()),
            more_may_come: live.has_patterns(),
            loan: Loan { pool: pool.clone(), bytes: 0 },
        }
    }

    /// Bytes of each ring of an interface that is to be opened, one ring a worker. `interfaces` are captured or being opened
    /// already, whose rings have `taken` bytes; `wanted` are to be opened together with this one, which counts.
    ///
    /// # Errors
    /// When there is no room even for the smallest ring.
    pub(crate) fn ring(&mut self, interfaces: usize, taken: u64, wanted: usize) -> Result<u64, NoRoom> {
        if interfaces >= self.most_interfaces {
            return Err(NoRoom::Interfaces(self.most_interfaces));
        }
        let rings = u64::try_from(wanted.max(1)).unwrap_or(u64::MAX).saturating_mul(self.workers);
        let parts = rings.saturating_mul(if self.more_may_come { 2 } else { 1 });
        let share = (self.own.saturating_sub(taken) / parts).max(LEAST_BUFFER);
        let workers = self.workers;
        let total = |ring: u64| taken.saturating_add(ring.saturating_mul(workers));
        // Where it has to be borrowed, half of what is left stays for smaller ones.
        let borrowed = total(share).saturating_sub(self.own).saturating_sub(self.loan.bytes);
        let is_modest = borrowed <= self.loan.pool.left() / 2;
        let mut sizes = [share, LEAST_RING].into_iter().filter(|&ring| ring == LEAST_RING || is_modest);
        sizes.find(|&ring| self.allows(total(ring))).ok_or(NoRoom::Memory(ByteSize::b(taken)))
    }

    /// Whether all rings together may have so many bytes; borrows what is missing, and gives back what is not needed.
    pub(crate) fn allows(&mut self, total: u64) -> bool {
        let fits = total <= self.own || self.most.is_none_or(|most| total <= most);
        fits && self.loan.resize(total.saturating_sub(self.own))
    }
}

/// What a session that runs alone may borrow: as much as the sessions of a daemon may have together, unless its own limit says
/// less.
pub fn alone(plan: &SessionPlan) -> Pool {
    let most = plan.limit.memory.unwrap_or(crate::config::defaults::TOTAL_MEMORY);
    match &plan.source {
        SourcePlan::Live(live) => Pool::new(most.saturating_sub(live.buffer)),
        SourcePlan::File(_) | SourcePlan::Tunnels(_) => Pool::default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget(own: u64, most: Option<u64>, workers: u64, more_may_come: bool, pool: &Pool) -> Budget {
        let loan = Loan { pool: pool.clone(), bytes: 0 };
        Budget { own, most, most_interfaces: 1000, workers, more_may_come, loan }
    }

    #[test]
    fn rings_share_what_is_free_and_patterns_leave_half_of_it() {
        let pool = Pool::default();
        let ring = |own, workers, more, taken, wanted| budget(own, None, workers, more, &pool).ring(0, taken, wanted);
        assert_eq!(ring(24 * MIB, 1, false, 0, 1), Ok(24 * MIB));
        assert_eq!(ring(24 * MIB, 2, false, 0, 2), Ok(6 * MIB));
        assert_eq!(ring(24 * MIB, 1, true, 0, 1), Ok(12 * MIB));
        assert_eq!(ring(24 * MIB, 1, true, 12 * MIB, 2), Ok(3 * MIB));
        assert_eq!(ring(2 * MIB, 1, true, MIB, 1), Ok(MIB));
        assert_eq!(ring(2 * MIB, 1, true, MIB + MIB / 2, 1), Ok(LEAST_RING));
        assert_eq!(ring(2 * MIB, 1, true, 2 * MIB, 1), Err(NoRoom::Memory(ByteSize::b(2 * MIB))));
    }

    #[test]
    fn a08_no_more_interfaces_than_the_operator_allows() {
        let mut budget = Budget { most_interfaces: 3, ..budget(24 * MIB, None, 1, true, &Pool::default()) };
        assert!(budget.ring(2, 0, 1).is_ok());
        assert_eq!(budget.ring(3, 0, 1), Err(NoRoom::Interfaces(3)));
    }

    proptest! {
        /// However many interfaces come and go in however many sessions, all rings together stay below what was granted and
        /// the pool; and a session below its own limit. What is given back can be had again.
        #[test]
        fn a08_rings_never_take_more_than_there_is(
            free in 0..64 * MIB,
            sessions in proptest::collection::vec((MIB..8 * MIB, proptest::option::of(MIB..16 * MIB), 1..4_u64), 1..4),
            events in proptest::collection::vec((0..4_usize, any::<bool>(), 1..9_usize), 0..200),
        ) {
            let pool = Pool::new(free);
            let own: Vec<u64> = sessions.iter().map(|&(own, most, _)| most.map_or(own, |most| own.min(most))).collect();
            let mut budgets: Vec<(Budget, Vec<u64>)> = sessions
                .iter()
                .zip(&own)
                .map(|(&(_, most, workers), &own)| (budget(own, most, workers, true, &pool), Vec::new()))
                .collect();
            for (session, is_new, wanted) in events {
                let at = session % budgets.len();
                let (budget, rings) = &mut budgets[at];
                if is_new {
                    if let Ok(ring) = budget.ring(rings.len(), rings.iter().sum(), wanted) {
                        rings.push(ring * budget.workers);
                    }
                } else {
                    rings.pop();
                    prop_assert!(budget.allows(rings.iter().sum()), "less always fits");
                }
                let beyond: u64 = budgets.iter().zip(&own).map(|((_, rings), own)| rings.iter().sum::<u64>().saturating_sub(*own)).sum();
                prop_assert!(beyond <= free && pool.lent() == beyond, "{beyond} of {free}, {} lent", pool.lent());
                for ((_, rings), &(_, most, _)) in budgets.iter().zip(&sessions) {
                    let sum: u64 = rings.iter().sum();
                    prop_assert!(most.is_none_or(|most| sum <= most), "{sum} of {most:?}");
                }
            }
            drop(budgets);
            prop_assert_eq!(pool.lent(), 0);
        }
    }
}
