//! The tunnels of all sessions of this process: two sessions that captured each other's would mirror for ever.
//!
//! A session enters its tunnels before its first datagram leaves; the workers of the others look once a turn whether
//! somebody did.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::account::Account;
use crate::wire::carrier::OwnTunnel;

/// The tunnels of all sessions. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct AllTunnels(Arc<Register>);

#[derive(Debug, Default)]
struct Register {
    /// Rises with every change of the list.
    edition: AtomicU64,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    entries: Vec<(u64, Vec<Known>)>,
    paths: Vec<Path>,
    /// How many paths there have been.
    counted: u64,
}

/// A tunnel that some session has.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) tunnel: OwnTunnel,
    /// `None`: what it sends is not counted.
    pub(super) account: Option<Account>,
    /// The number of its path.
    pub(super) path: u64,
}

/// The tunnels between two addresses, from the first that there is to the last.
#[derive(Debug)]
struct Path {
    /// Local and remote address, and IP protocol.
    key: (IpAddr, IpAddr, u8),
    /// No other path has it, nor the same one later.
    number: u64,
    /// What tunnels had sent that are no more.
    retired: u64,
}

/// One session's tunnels, which are in the list until this is dropped.
#[derive(Debug)]
pub struct Entry {
    number: u64,
    all: AllTunnels,
}

impl AllTunnels {
    /// Adds the tunnels of one session, of which nothing says how many datagrams they send.
    #[must_use = "the tunnels are forgotten with the entry"]
    pub fn enter(&self, tunnels: Vec<OwnTunnel>) -> Entry {
        self.enter_with(tunnels.into_iter().map(|tunnel| (tunnel, None)).collect())
    }

    /// Adds the tunnels of one session, each with its account.
    #[must_use = "the tunnels are forgotten with the entry"]
    pub fn enter_with(&self, tunnels: Vec<(OwnTunnel, Option<Account>)>) -> Entry {
        let mut list = self.list();
        // Editions are counted under the lock, so that no two entries have one number.
        let number = self.0.edition.load(Ordering::Relaxed) + 1;
        let known = tunnels.into_iter().map(|(tunnel, account)| {
            let path = list.path_of(&tunnel);
            Known { tunnel, account, path }
        });
        let known = known.collect();
        list.entries.push((number, known));
        self.0.edition.store(number, Ordering::Release);
        Entry { number, all: self.clone() }
    }

    /// Changes when the list has.
    pub(super) fn edition(&self) -> u64 {
        self.0.edition.load(Ordering::Acquire)
    }

    /// The list, and the edition that it is.
    pub fn read(&self) -> (u64, Vec<OwnTunnel>) {
        let list = self.list();
        (self.edition(), list.entries.iter().flat_map(|(_, known)| known).map(|known| known.tunnel.clone()).collect())
    }

    /// The same with what is known beside, and for each path its number and what was sent by tunnels that are no more.
    pub(super) fn read_accounts(&self) -> (u64, Vec<Known>, Vec<(u64, u64)>) {
        let list = self.list();
        let known = list.entries.iter().flat_map(|(_, known)| known).cloned().collect();
        (self.edition(), known, list.paths.iter().map(|path| (path.number, path.retired)).collect())
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // A list of whole entries, whoever was interrupted over it.
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// The number of the path of `tunnel`, a new one where it is the first of it.
    fn path_of(&mut self, tunnel: &OwnTunnel) -> u64 {
        let key = (tunnel.local, tunnel.remote, tunnel.carrier.ip_protocol());
        if let Some(path) = self.paths.iter().find(|path| path.key == key) {
            return path.number;
        }
        self.counted += 1;
        self.paths.push(Path { key, number: self.counted, retired: 0 });
        self.counted
    }

    /// Removes an entry; what its tunnels have sent stays with their paths, as long as these have others.
    fn remove(&mut self, number: u64) {
        let removed = self.entries.extract_if(.., |(entry, _)| *entry == number).flat_map(|(_, known)| known);
        for Known { account, path, .. } in removed.collect::<Vec<_>>() {
            if let (Some(account), Some(path)) = (account, self.paths.iter_mut().find(|known| known.number == path)) {
                path.retired += account.sent.total();
            }
        }
        let Self { entries, paths, .. } = self;
        let is_used = |path: &Path| entries.iter().flat_map(|(_, known)| known).any(|known| known.path == path.number);
        paths.retain(is_used);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut list = self.all.list();
        list.remove(self.number);
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
