//! Which interfaces a session captures, by what number frames call each, and what has to change when the host's have
//! changed. Pure bookkeeping: nothing here opens or closes anything.
//!
//! A number belongs to one opening of one interface, from [`Roster::reserve`] until that has failed or every worker has given
//! the source back. Destinations learn its name with the order that attaches the source, and forget it with the source: the
//! roster keeps nothing about them, so that no failed opening can leave anything behind.

use std::sync::Arc;

use super::orders::Attachment;
use crate::frame::InterfaceId;
use crate::source::Interface;
use crate::source::interfaces::Meant;

/// The interfaces of a session that runs.
#[derive(Debug)]
pub(super) struct Roster {
    /// How many workers have a part of each interface.
    workers: usize,
    /// By number: who has it. The lowest free number is given out next, so that there are never more than interfaces at one
    /// time.
    numbers: Vec<Holder>,
    attached: Vec<Attached>,
    next: u64,
}

/// Who has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// An interface that is being opened, with rings of so many bytes.
    Opening(u64),
    Attached,
}

/// An interface that is captured.
#[derive(Debug)]
struct Attached {
    attachment: Attachment,
    id: InterfaceId,
    interface: Interface,
    /// Bytes of its rings.
    buffer: u64,
    /// How many workers have not given their source back.
    holders: usize,
    /// Whether they were told to.
    is_leaving: bool,
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// An interface is there that is not captured.
    Open(Meant),
    /// It has another name, by which the plan means it too.
    Rename(Attachment, Arc<str>),
    /// It is gone, or not meant any more.
    LetGo(Attachment),
}

impl Roster {
    /// Of a session with so many workers, that was started with `interfaces`, numbered in their order, each with the bytes of
    /// its rings.
    pub(super) fn new(workers: usize, interfaces: impl IntoIterator<Item = (Interface, u64)>) -> Self {
        let mut roster = Self { workers, numbers: Vec::new(), attached: Vec::new(), next: 0 };
        for (number, (interface, buffer)) in (0..=u16::MAX).zip(interfaces) {
            roster.numbers.push(Holder::Nobody);
            roster.attach(InterfaceId(number), interface, buffer);
        }
        roster
    }

    /// What is captured now.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        self.attached.iter().filter(|one| !one.is_leaving).map(|one| one.interface.clone()).collect()
    }

    /// Bytes of all rings, also of those that are being opened.
    pub(super) fn buffer(&self) -> u64 {
        let opening = self.numbers.iter().map(|holder| match holder {
            Holder::Opening(buffer) => *buffer,
            Holder::Nobody | Holder::Attached => 0,
        });
        opening.chain(self.attached.iter().map(|one| one.buffer)).sum()
    }

    /// How many numbers are taken: by interfaces that are captured, being opened, or not given back by every worker.
    pub(super) fn len(&self) -> usize {
        self.numbers.iter().filter(|&&holder| holder != Holder::Nobody).count()
    }

    /// Compares with `meant`, the interfaces that are there and that the plan means, and takes note of what it says itself.
    pub(super) fn compare(&mut self, meant: &[Meant]) -> Vec<Change> {
        let mut changes = Vec::new();
        for one in self.attached.iter_mut().filter(|one| !one.is_leaving) {
            match meant.iter().find(|now| now.index == one.interface.index) {
                Some(now) if now.name == one.interface.name => {}
                Some(now) if now.index.is_some() => {
                    one.interface.name.clone_from(&now.name);
                    changes.push(Change::Rename(one.attachment, now.name.as_str().into()));
                }
                _ => {
                    one.is_leaving = true;
                    changes.push(Change::LetGo(one.attachment));
                }
            }
        }
        let is_known = |now: &&Meant| self.attached.iter().any(|one| one.interface.index == now.index);
        changes.extend(meant.iter().filter(|now| now.up && !is_known(now)).cloned().map(Change::Open));
        changes
    }

    /// Everything that is captured is to be let go.
    pub(super) fn let_all_go(&mut self) -> Vec<Change> {
        self.compare(&[])
    }

    /// A number for an interface that is to be opened with rings of `buffer` bytes. `None` when every number is taken.
    pub(super) fn reserve(&mut self, buffer: u64) -> Option<InterfaceId> {
        let free = self.numbers.iter().position(|&holder| holder == Holder::Nobody);
        let at = free.unwrap_or(self.numbers.len());
        let id = u16::try_from(at).ok().map(InterfaceId)?;
        match self.numbers.get_mut(at) {
            Some(number) => *number = Holder::Opening(buffer),
            None => self.numbers.push(Holder::Opening(buffer)),
        }
        Some(id)
    }

    /// Takes back every number that was reserved and whose interface has not been attached.
    pub(super) fn release_reserved(&mut self) {
        for number in self.numbers.iter_mut().filter(|number| matches!(number, Holder::Opening(_))) {
            *number = Holder::Nobody;
        }
    }

    /// Takes up an interface whose number was reserved, with rings of `buffer` bytes.
    pub(super) fn attach(&mut self, id: InterfaceId, interface: Interface, buffer: u64) -> Attachment {
        self.set(id, Holder::Attached);
        let attachment = Attachment(self.next);
        self.next += 1;
        let holders = self.workers;
        self.attached.push(Attached { attachment, id, interface, buffer, holders, is_leaving: false });
        attachment
    }

    /// One worker has given its source back. Says which interface when it is the first one that tells an end that nobody
    /// ordered.
    pub(super) fn let_go(&mut self, attachment: Attachment) -> Option<Interface> {
        let at = self.attached.iter().position(|one| one.attachment == attachment)?;
        let one = self.attached.get_mut(at)?;
        one.holders = one.holders.saturating_sub(1);
        let is_news = !std::mem::replace(&mut one.is_leaving, true);
        let news = is_news.then(|| one.interface.clone());
        if one.holders == 0 {
            let gone = self.attached.swap_remove(at);
            self.set(gone.id, Holder::Nobody);
        }
        news
    }

    /// The interface that a source is of, while any worker has it.
    pub(super) fn interface(&self, attachment: Attachment) -> Option<&Interface> {
        self.attached.iter().find(|one| one.attachment == attachment).map(|one| &one.interface)
    }

    fn set(&mut self, id: InterfaceId, holder: Holder) {
        if let Some(number) = self.numbers.get_mut(usize::from(id.0)) {
            *number = holder;
        }
    }
}

#[cfg(test)]
impl Roster {
    /// The interfaces that are captured, by their numbers.
    pub(super) fn numbers(&self) -> Vec<(InterfaceId, String)> {
        let attached = self.attached.iter().filter(|one| !one.is_leaving);
        attached.map(|one| (one.id, one.interface.name.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Ifindex;

    fn index(number: u32) -> Option<Ifindex> {
        Ifindex::new(number.into()).ok()
    }

    fn interface(number: u32, name: &str) -> Interface {
        Interface { name: name.to_owned(), index: index(number), mtu: None, engine: None }
    }

    fn started(workers: usize, interfaces: &[Interface], buffer: u64) -> Roster {
        Roster::new(workers, interfaces.iter().map(|one| (one.clone(), buffer)))
    }

    fn there(interfaces: &[(u32, &str)]) -> Vec<Meant> {
        let meant = |&(number, name): &(u32, &str)| Meant { name: name.to_owned(), index: index(number), up: true };
        interfaces.iter().map(meant).collect()
    }

    /// Opens what `changes` say, and the numbers that it got.
    fn open(roster: &mut Roster, changes: &[Change]) -> Vec<InterfaceId> {
        let opened = changes.iter().filter_map(|change| match change {
            Change::Open(meant) => Some(meant),
            _ => None,
        });
        let take_up = |meant: &Meant| {
            let id = roster.reserve(10).unwrap();
            let interface = Interface { name: meant.name.clone(), index: meant.index, mtu: None, engine: None };
            roster.attach(id, interface, 10);
            id
        };
        opened.map(take_up).collect()
    }

    #[test]
    fn what_appears_is_opened_and_what_vanishes_is_let_go_by_every_worker() {
        let mut roster = started(2, &[interface(1, "veth1")], 10);
        let changes = roster.compare(&there(&[(1, "veth1"), (2, "veth2")]));
        assert_eq!(open(&mut roster, &changes), [InterfaceId(1)]);
        assert_eq!((roster.compare(&there(&[(1, "veth1"), (2, "veth2")])), roster.buffer()), (Vec::new(), 20));

        assert_eq!(roster.compare(&there(&[(2, "veth2")])), [Change::LetGo(Attachment(0))]);
        assert_eq!(roster.compare(&there(&[(2, "veth2")])), [], "ordered once");
        assert_eq!(roster.interfaces(), [interface(2, "veth2")]);
        assert_eq!((roster.let_go(Attachment(0)), roster.buffer()), (None, 20));
        assert_eq!((roster.let_go(Attachment(0)), roster.buffer()), (None, 10));
        assert_eq!(roster.let_go(Attachment(0)), None, "nobody has it any more");
    }

    #[test]
    fn an_end_that_nobody_ordered_is_news_once() {
        let mut roster = started(2, &[interface(1, "veth1")], 10);
        assert_eq!(roster.let_go(Attachment(0)), Some(interface(1, "veth1")));
        assert_eq!(roster.compare(&there(&[(1, "veth1")])), [], "the other worker still has it");
        assert_eq!(roster.let_go(Attachment(0)), None);
        assert_eq!(roster.compare(&there(&[(1, "veth1")])).len(), 1, "opened again");
    }

    #[test]
    fn one_that_is_made_again_has_another_number_while_the_old_one_leaves() {
        let mut roster = started(1, &[interface(1, "veth1"), interface(2, "veth2")], 10);
        let changes = roster.compare(&there(&[(9, "veth1"), (2, "veth2")]));
        assert_eq!(changes[0], Change::LetGo(Attachment(0)));
        assert_eq!(open(&mut roster, &changes), [InterfaceId(2)]);
        assert_eq!(roster.let_go(Attachment(0)), None);
        assert_eq!(roster.compare(&there(&[(9, "veth1"), (2, "veth2")])), []);
        assert_eq!(roster.reserve(10), Some(InterfaceId(0)), "free again");
    }

    #[test]
    fn a01_an_opening_that_failed_leaves_nothing_behind() {
        let mut roster = started(1, &[interface(1, "veth1")], 10);
        assert_eq!((roster.reserve(5), roster.reserve(7)), (Some(InterfaceId(1)), Some(InterfaceId(2))));
        assert_eq!((roster.buffer(), roster.len()), (22, 3));
        roster.attach(InterfaceId(2), interface(3, "veth3"), 7);
        roster.release_reserved();
        assert_eq!((roster.buffer(), roster.len()), (17, 2));
        assert_eq!(roster.reserve(1), Some(InterfaceId(1)));
    }

    #[test]
    fn interfaces_of_the_start_have_their_position_as_number_whatever_they_are_called() {
        let mut roster = started(1, &[interface(1, "a"), interface(2, "a"), interface(3, "b")], 10);
        assert_eq!(roster.reserve(10), Some(InterfaceId(3)));
    }

    #[test]
    fn years_of_containers_take_no_more_numbers_than_there_are_at_one_time() {
        let mut roster = started(1, &[interface(1, "eth0")], 10);
        for number in 2..200_000 {
            let name = format!("veth{number}");
            let changes = roster.compare(&there(&[(1, "eth0"), (number, &name)]));
            open(&mut roster, &changes);
            let Some(&Change::LetGo(attachment)) = changes.first() else { continue };
            roster.let_go(attachment);
        }
        assert!(roster.numbers.len() <= 3, "{:?}", roster.numbers);
    }

    #[test]
    fn another_name_is_learnt_unless_the_plan_does_not_mean_it() {
        let mut roster = started(1, &[interface(1, "veth1")], 10);
        let renamed = roster.compare(&there(&[(1, "web0")]));
        assert_eq!(renamed, [Change::Rename(Attachment(0), "web0".into())]);
        assert_eq!(roster.compare(&there(&[(1, "web0")])), []);
        assert_eq!(roster.compare(&[]), [Change::LetGo(Attachment(0))]);
    }

    #[test]
    fn an_interface_that_is_down_is_left_until_it_is_up() {
        let mut roster = started(1, &[], 0);
        let mut meant = there(&[(1, "veth1")]);
        meant[0].up = false;
        assert_eq!(roster.compare(&meant), []);
        meant[0].up = true;
        let changes = roster.compare(&meant);
        open(&mut roster, &changes);
        meant[0].up = false;
        assert_eq!(roster.compare(&meant), [], "one that is captured waits for itself");
    }
}
