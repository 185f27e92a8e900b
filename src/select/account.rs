//! How many frames may be farspan's own: no more than it has sent.
//!
//! A frame that looks like one of farspan's own datagrams is left out, so that whoever can make one could hide in it. What
//! bounds that is an account: each interface shows each datagram once in each direction. What goes beyond is somebody
//! else's, and is told.
//!
//! Workers count for themselves and tell each other once a turn. What the others have counted meanwhile is missing then,
//! which may let a few frames more be own, and never one less.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::{InterfaceId, Place};
use crate::kernel::nearby::Nearby;
use crate::quantity::{Direction, Ifindex};
use crate::repeated::Rising;

/// How many datagrams one tunnel has given to its engine, whether they left or not. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<AtomicU64>);

impl Sent {
    /// Counts datagrams that are about to be given to the kernel: once a batch, and before any of them can be seen.
    pub fn add(&self, datagrams: usize) {
        // The capture that shows them comes behind a system call of this thread, so that no order is needed beyond that.
        self.0.fetch_add(datagrams as u64, Ordering::Release);
    }

    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// What is known of a tunnel beside what its datagrams look like.
#[derive(Clone, Debug)]
pub struct Account {
    /// How many datagrams it has sent.
    pub sent: Sent,
    /// The interfaces that may receive them.
    pub nearby: Arc<Nearby>,
}

/// What the account of own frames makes of one that looks own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Farspan has sent as many.
    Own,
    /// It has not.
    Excess,
}

/// What a frame that looks own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A datagram or its first fragment.
    Datagram,
    /// An ICMP error that quotes one.
    Quote,
}

/// After so long, a datagram that was not seen will not be. It is long, because a shaped queue may hold datagrams for
/// seconds, and only begins to count where the capture buffer has been emptied since.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);
/// On the interface `any` a datagram shows once for each interface of its path: bridges, bonds, VLANs and their ports.
const MOST_STACKED: u64 = 16;
/// ICMP errors about one datagram at most.
const ERRORS: u64 = 2;
/// ICMP errors beyond the datagrams sent: about those of the process that had the same ports before.
const LATE_QUOTES: u64 = 16;

/// The account of the tunnels between two addresses, as one worker keeps it.
#[derive(Debug, Default)]
pub(super) struct PathAccount {
    /// The counts of the tunnels that there are.
    sent: Vec<Sent>,
    /// What those had sent that are no more.
    retired: u64,
    /// The sum of both as it was last read: at most what it is now.
    known: u64,
    /// Whether some tunnel has no account: then nothing is limited.
    is_unlimited: bool,
    /// The interfaces that may receive these datagrams; `None`: that is not known.
    nearby: Option<Vec<Ifindex>>,
    /// By interface.
    seen: Vec<[Tally; TALLIES]>,
    /// What had been sent when [`FORGOTTEN_AFTER`] began, and what had been when it ended last.
    before: u64,
    forgotten: u64,
}

/// Received, sent or unknown; datagrams or quotes.
const TALLIES: usize = 6;

/// What was seen on one interface in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    own: u64,
    /// How much of it the other workers know.
    told: u64,
    /// What they have seen.
    others: u64,
    /// What was sent long ago and never seen here; less than 0 for frames that were shown again.
    settled: i64,
}

impl Tally {
    fn seen(&self) -> u64 {
        (self.own + self.others).saturating_add_signed(self.settled)
    }

    /// Counts as seen what was sent before and will not be seen any more, and as not seen what was shown again.
    fn settle(&mut self, long_ago: u64, by_now: u64) {
        let seen = self.seen();
        let settled = seen.clamp(long_ago, by_now.max(long_ago));
        self.settled = self.settled.saturating_add_unsigned(settled).saturating_sub_unsigned(seen);
    }
}

impl PathAccount {
    /// Takes the tunnels that there are now, each with its account, if it has one, and what was sent before by others.
    pub(super) fn take_tunnels(&mut self, accounts: &[Option<Account>], retired: u64) {
        self.sent = accounts.iter().flatten().map(|account| account.sent.clone()).collect();
        self.retired = retired;
        self.is_unlimited = accounts.iter().any(Option::is_none);
        let sets: Option<Vec<_>> = accounts.iter().map(|account| account.as_ref()?.nearby.links()).collect();
        self.nearby = sets.map(|sets| sets.concat());
        self.known = self.total();
    }

    /// Whether an interface cannot have received a datagram of ours: it is in the network namespace of the tunnels, and
    /// none leaves by it or by anything that it is stacked with.
    pub(super) fn is_far(&self, place: Place, direction: Option<Direction>) -> bool {
        match (place, direction, &self.nearby) {
            (Place::Here(link), Some(Direction::In), Some(nearby)) => !nearby.contains(&link),
            _ => false,
        }
    }

    /// Counts one frame that looks own.
    pub(super) fn count(
        &mut self,
        kind: Kind,
        place: Place,
        interface: InterfaceId,
        direction: Option<Direction>,
    ) -> Standing {
        let copies = match place {
            Place::Recorded => return Standing::Own,
            _ if self.is_unlimited => return Standing::Own,
            Place::Here(_) | Place::Elsewhere => 1,
            Place::Several => MOST_STACKED,
        };
        // Where the directions are not told apart, a datagram may show in both.
        let copies = copies * if direction.is_some() { 1 } else { 2 };
        let at = usize::from(interface.0);
        if self.seen.len() <= at {
            // Only the first time that an interface shows anything of ours.
            let mut new = [Tally::default(); TALLIES];
            settle(&mut new, self.forgotten, self.before);
            self.seen.resize(at + 1, new);
        }
        let forgotten = self.forgotten;
        let is_within = |known: u64, seen: u64| seen < most(kind, known, forgotten).saturating_mul(copies);
        let Some(tally) = self.seen.get(at).map(|tallies| tallies[position(kind, direction)]) else {
            return Standing::Own;
        };
        if !is_within(self.known, tally.seen()) {
            self.known = self.total();
            if !is_within(self.known, tally.seen()) {
                return Standing::Excess;
            }
        }
        if let Some(tallies) = self.seen.get_mut(at) {
            tallies[position(kind, direction)].own += 1;
        }
        Standing::Own
    }

    /// Forgets what was sent a minute ago or longer and was not seen: nobody may hide in it. To be called about once a
    /// minute, when all that was captured has been seen.
    pub(super) fn forget(&mut self) {
        self.forgotten = self.before;
        self.before = self.total();
        for tallies in &mut self.seen {
            settle(tallies, self.forgotten, self.before);
        }
    }

    fn total(&self) -> u64 {
        self.sent.iter().map(Sent::total).sum::<u64>() + self.retired
    }
}

/// How many frames of `kind` may come of so many datagrams, on one interface in one direction; `forgotten` are those that
/// were sent long ago. Drivers that are busy show the same frame again (`net/core/dev.c:xmit_one`), seldom, and a datagram
/// may cause both a redirect and another error.
fn most(kind: Kind, sent: u64, forgotten: u64) -> u64 {
    match kind {
        Kind::Datagram => sent + (sent - forgotten.min(sent)) / 64,
        Kind::Quote => sent.saturating_mul(ERRORS) + LATE_QUOTES,
    }
}

/// Settles the accounts of one interface between what was sent `long_ago` and what was sent `by_now`.
fn settle(tallies: &mut [Tally; TALLIES], long_ago: u64, by_now: u64) {
    for (position, tally) in tallies.iter_mut().enumerate() {
        let times = if position < TALLIES / 2 { 1 } else { ERRORS };
        tally.settle(long_ago.saturating_mul(times), by_now.saturating_mul(times));
    }
}

fn position(kind: Kind, direction: Option<Direction>) -> usize {
    let of_direction = match direction {
        Some(Direction::In) => 0,
        Some(Direction::Out) => 1,
        None => 2,
    };
    of_direction + if kind == Kind::Quote { 3 } else { 0 }
}

/// When accounts forget.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    next: Option<Instant>,
}

impl Forgetting {
    /// Whether it is time.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let next = *self.next.get_or_insert(now + FORGOTTEN_AFTER);
        let is_due = now >= next;
        if is_due {
            self.next = Some(now + FORGOTTEN_AFTER);
        }
        is_due
    }
}

/// What the workers of one session tell each other of the own frames that they see.
#[derive(Clone, Debug, Default)]
pub struct Sightings(Arc<Mutex<Common>>);

#[derive(Debug, Default)]
struct Common {
    seen: Vec<(Whose, u64)>,
    excess: u64,
    told: Rising,
}

/// The tunnels between two addresses, an interface, and a place among the tallies.
type Whose = (u64, u16, usize);

impl Sightings {
    /// Tells what this worker has seen since the last time, and learns what the others have. `path` is
    /// the number of the tunnels' path.
    pub(super) fn exchange(&self, path: u64, account: &mut PathAccount) {
        let mut common = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (interface, tallies) in (0..).zip(&mut account.seen) {
            for (position, tally) in tallies.iter_mut().enumerate().filter(|(_, tally)| tally.own > 0) {
                let whose = (path, interface, position);
                let known = common.seen.iter().position(|&(known, _)| known == whose).unwrap_or_else(|| {
                    common.seen.push((whose, 0));
                    common.seen.len() - 1
                });
                if let Some((_, all)) = common.seen.get_mut(known) {
                    *all += tally.own - tally.told;
                    tally.told = tally.own;
                    tally.others = all.saturating_sub(tally.own);
                }
            }
        }
    }

    /// Counts frames beyond the accounts, and returns how many there are since they were last spoken of, when they may be
    /// spoken of again.
    pub fn note_excess(&self, frames: u64, now: Instant) -> Option<u64> {
        let mut common = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        common.excess += frames;
        let excess = common.excess;
        common.told.news(now, excess)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN: Option<Direction> = Some(Direction::In);
    const OUT: Option<Direction> = Some(Direction::Out);

    fn link(number: u64) -> Ifindex {
        Ifindex::new(number).unwrap()
    }

    /// An account of one tunnel that may be received on interface 2.
    fn account() -> (PathAccount, Sent) {
        let (sent, nearby) = (Sent::default(), Arc::new(Nearby::default()));
        nearby.set(vec![link(2)]);
        let mut account = PathAccount::default();
        account.take_tunnels(&[Some(Account { sent: sent.clone(), nearby })], 0);
        (account, sent)
    }

    /// How many of `frames` are own.
    fn own(account: &mut PathAccount, place: Place, interface: u16, direction: Option<Direction>, frames: u64) -> u64 {
        own_of(account, Kind::Datagram, (place, interface, direction), frames)
    }

    fn own_of(
        account: &mut PathAccount,
        kind: Kind,
        (place, interface, direction): (Place, u16, Option<Direction>),
        frames: u64,
    ) -> u64 {
        let count = |_: &u64| account.count(kind, place, InterfaceId(interface), direction) == Standing::Own;
        (0..frames).filter(count).count() as u64
    }

    #[test]
    fn each_interface_shows_each_datagram_once_in_each_direction() {
        let (mut account, sent) = account();
        assert_eq!(own(&mut account, Place::Here(link(2)), 0, OUT, 5), 0, "nothing was sent");
        sent.add(20);
        for (interface, direction) in [(0, OUT), (0, IN), (7, OUT)] {
            assert_eq!(own(&mut account, Place::Here(link(2)), interface, direction, 50), 20);
        }
        assert_eq!(own(&mut account, Place::Elsewhere, 8, IN, 50), 20);
        assert_eq!(own(&mut account, Place::Here(link(2)), 3, None, 90), 40, "both directions together");
        assert_eq!(own(&mut account, Place::Several, 4, OUT, 900), 20 * MOST_STACKED);
        assert_eq!(own(&mut account, Place::Recorded, 5, None, 900), 900);
        sent.add(640);
        assert_eq!(own(&mut account, Place::Here(link(2)), 0, OUT, 900), 640 + 660 / 64, "some are shown again");
    }

    #[test]
    fn errors_have_an_account_of_their_own() {
        let (mut account, sent) = account();
        sent.add(10);
        let at = (Place::Here(link(9)), 0, IN);
        assert_eq!(own_of(&mut account, Kind::Quote, at, 100), 20 + LATE_QUOTES);
        assert_eq!(own(&mut account, Place::Here(link(9)), 0, IN, 100), 10);
    }

    #[test]
    fn only_what_is_received_where_no_tunnel_leaves_is_far() {
        let (mut account, _) = account();
        assert!(account.is_far(Place::Here(link(3)), IN));
        for (place, direction) in [
            (Place::Here(link(2)), IN),
            (Place::Here(link(3)), OUT),
            (Place::Here(link(3)), None),
            (Place::Elsewhere, IN),
            (Place::Several, IN),
        ] {
            assert!(!account.is_far(place, direction), "{place:?} {direction:?}");
        }
        let unknown = Account { sent: Sent::default(), nearby: Arc::default() };
        account.take_tunnels(&[Some(unknown)], 0);
        assert!(!account.is_far(Place::Here(link(3)), IN), "as long as the interfaces are not known");
    }

    #[test]
    fn what_ended_tunnels_have_sent_still_counts() {
        let (mut account, sent) = account();
        sent.add(30);
        assert_eq!(own(&mut account, Place::Elsewhere, 0, OUT, 20), 20);
        // A reload: another tunnel of the same path takes over.
        let other = Sent::default();
        account.take_tunnels(&[Some(Account { sent: other.clone(), nearby: Arc::default() })], 30);
        other.add(5);
        assert_eq!(own(&mut account, Place::Elsewhere, 0, OUT, 50), 15);
    }

    #[test]
    fn nobody_hides_in_what_was_sent_long_ago() {
        let (mut account, sent) = account();
        sent.add(1000);
        account.forget();
        sent.add(10);
        account.forget();
        assert_eq!(own(&mut account, Place::Elsewhere, 0, IN, 5000), 10);
        account.forget();
        account.forget();
        sent.add(3);
        for interface in [0, 1] {
            assert_eq!(own(&mut account, Place::Elsewhere, interface, IN, 5000), 3);
            assert_eq!(own_of(&mut account, Kind::Quote, (Place::Elsewhere, interface, IN), 5000), 6 + LATE_QUOTES);
        }
    }

    #[test]
    fn what_an_honest_host_shows_is_own_whenever_accounts_forget() {
        let (mut account, sent) = account();
        for turn in 0..100 {
            sent.add(64 * turn);
            // A busy driver shows one in 64 again.
            assert_eq!(own(&mut account, Place::Here(link(2)), 0, OUT, 65 * turn as u64), 65 * turn as u64);
            if turn % 7 == 0 {
                account.forget();
            }
        }
    }

    #[test]
    fn workers_share_an_account() {
        let (mut one, sent) = account();
        let (mut two, _) = account();
        two.take_tunnels(&[Some(Account { sent: sent.clone(), nearby: Arc::default() })], 0);
        sent.add(50);
        let sightings = Sightings::default();
        assert_eq!(own(&mut one, Place::Elsewhere, 0, OUT, 30), 30);
        sightings.exchange(1, &mut one);
        assert_eq!(own(&mut two, Place::Elsewhere, 0, OUT, 1), 1);
        sightings.exchange(1, &mut two);
        assert_eq!(own(&mut two, Place::Elsewhere, 0, OUT, 100), 19);
        sightings.exchange(1, &mut two);
        sightings.exchange(1, &mut one);
        assert_eq!(own(&mut one, Place::Elsewhere, 0, OUT, 100), 0);
        // A path that comes later is another one.
        sightings.exchange(2, &mut PathAccount::default());
        let start = Instant::now();
        assert_eq!(sightings.note_excess(7, start), Some(7));
        assert_eq!(sightings.note_excess(1, start + Duration::from_secs(1)), None);
        assert_eq!(sightings.note_excess(1, start + Duration::from_secs(61)), Some(2));
    }
}
