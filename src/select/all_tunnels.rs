//! The tunnels of all sessions of this process: two sessions that captured each other's would mirror for ever.
//!
//! A session enters its tunnels before its first datagram leaves; the workers of the others look once a turn whether
//! somebody did.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::wire::carrier::OwnTunnel;

/// The tunnels of all sessions. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct AllTunnels(Arc<Register>);

#[derive(Debug, Default)]
struct Register {
    /// Rises with every change of the list.
    edition: AtomicU64,
    list: Mutex<Vec<(u64, Vec<OwnTunnel>)>>,
}

/// One session's tunnels, which are in the list until this is dropped.
#[derive(Debug)]
pub struct Entry {
    number: u64,
    all: AllTunnels,
}

impl AllTunnels {
    /// Adds the tunnels of one session.
    #[must_use = "the tunnels are forgotten with the entry"]
    pub fn enter(&self, tunnels: Vec<OwnTunnel>) -> Entry {
        let mut list = self.list();
        // Editions are counted under the lock, so that no two entries have one number.
        let number = self.0.edition.load(Ordering::Relaxed) + 1;
        list.push((number, tunnels));
        self.0.edition.store(number, Ordering::Release);
        Entry { number, all: self.clone() }
    }

    /// Changes when the list has.
    pub(super) fn edition(&self) -> u64 {
        self.0.edition.load(Ordering::Acquire)
    }

    /// The list, and the edition that it is.
    pub(super) fn read(&self) -> (u64, Vec<OwnTunnel>) {
        let list = self.list();
        (self.edition(), list.iter().flat_map(|(_, tunnels)| tunnels).cloned().collect())
    }

    fn list(&self) -> MutexGuard<'_, Vec<(u64, Vec<OwnTunnel>)>> {
        // A list of whole entries, whoever was interrupted over it.
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut list = self.all.list();
        list.retain(|(number, _)| *number != self.number);
        self.all.0.edition.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::carrier::Carrier;

    #[test]
    fn tunnels_are_there_while_their_session_is() {
        let tunnel = |last| OwnTunnel {
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, last].into(),
            carrier: Carrier::Erspan1,
        };
        let all = AllTunnels::default();
        let (first, second) = (all.enter(vec![tunnel(2)]), all.enter(vec![tunnel(3), tunnel(4)]));
        let (edition, tunnels) = all.read();
        assert_eq!(tunnels, [tunnel(2), tunnel(3), tunnel(4)]);
        drop(first);
        assert!(all.edition() > edition);
        assert_eq!(all.read().1, [tunnel(3), tunnel(4)]);
        let third = all.enter(Vec::new());
        assert_ne!(third.number, second.number);
    }
}
