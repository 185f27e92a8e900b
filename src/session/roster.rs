//! Which interfaces a session captures, by what number frames call each, and what has to change when the host's have
//! changed. Pure bookkeeping: nothing here opens or closes anything.

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
    /// By number: what frames call it, and how many have it. A name that comes again gets its number again, and a number
    /// that nobody has is for another name: so there are never more numbers than interfaces at one time.
    slots: Vec<Slot>,
    attached: Vec<Attached>,
    next: u64,
}

#[derive(Debug)]
struct Slot {
    name: String,
    users: usize,
}

/// An interface that is captured.
#[derive(Debug)]
struct Attached {
    attachment: Attachment,
    id: InterfaceId,
    interface: Interface,
    /// Bytes of its rings.
    buffer: u64,
    /// How many workers have not let it go.
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
    Rename(InterfaceId, Arc<str>),
    /// It is gone, or not meant any more.
    LetGo(Attachment),
}

impl Roster {
    /// Of a session with so many workers, that was started with `interfaces`, whose rings have `buffer` bytes each time.
    pub(super) fn new(workers: usize, interfaces: &[Interface], buffer: u64) -> Self {
        let mut roster = Self { workers, slots: Vec::new(), attached: Vec::new(), next: 0 };
        for interface in interfaces {
            if let Some((id, _)) = roster.reserve(&interface.name) {
                roster.attach(id, interface.clone(), buffer);
            }
        }
        roster
    }

    /// What is captured now.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        self.attached.iter().filter(|one| !one.is_leaving).map(|one| one.interface.clone()).collect()
    }

    /// Bytes of all rings.
    pub(super) fn buffer(&self) -> u64 {
        self.attached.iter().map(|one| one.buffer).sum()
    }

    /// Compares with `meant`, the interfaces that are there and that the plan means, and takes note of what it says itself.
    pub(super) fn compare(&mut self, meant: &[Meant]) -> Vec<Change> {
        let mut changes = Vec::new();
        for one in self.attached.iter_mut().filter(|one| !one.is_leaving) {
            let now = meant.iter().find(|now| now.index == one.interface.index);
            let slot = self.slots.get_mut(usize::from(one.id.0));
            match (now, slot) {
                (Some(now), _) if now.name == one.interface.name => {}
                // Frames of another interface that had the same name keep that name.
                (Some(now), Some(slot)) if slot.users == 1 && now.index.is_some() => {
                    one.interface.name.clone_from(&now.name);
                    slot.name.clone_from(&now.name);
                    changes.push(Change::Rename(one.id, now.name.as_str().into()));
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

    /// A number for frames of interfaces of this name, and whether destinations have to learn it. `None` when every number
    /// is taken.
    pub(super) fn reserve(&mut self, name: &str) -> Option<(InterfaceId, bool)> {
        let same = self.slots.iter().position(|slot| slot.name == name);
        let at = same.or_else(|| self.slots.iter().position(|slot| slot.users == 0)).unwrap_or(self.slots.len());
        let id = u16::try_from(at).ok().map(InterfaceId)?;
        match self.slots.get_mut(at) {
            Some(slot) => {
                name.clone_into(&mut slot.name);
                slot.users += 1;
            }
            None => self.slots.push(Slot { name: name.to_owned(), users: 1 }),
        }
        Some((id, same.is_none()))
    }

    /// Gives a number back that was reserved.
    pub(super) fn release(&mut self, id: InterfaceId) {
        if let Some(slot) = self.slots.get_mut(usize::from(id.0)) {
            slot.users = slot.users.saturating_sub(1);
        }
    }

    /// Takes up an interface whose number was reserved, with rings of `buffer` bytes.
    pub(super) fn attach(&mut self, id: InterfaceId, interface: Interface, buffer: u64) -> Attachment {
        let attachment = Attachment(self.next);
        self.next += 1;
        let holders = self.workers;
        self.attached.push(Attached { attachment, id, interface, buffer, holders, is_leaving: false });
        attachment
    }

    /// One worker has let go. Says which interface when it is the first one that tells an end that nobody ordered.
    pub(super) fn let_go(&mut self, attachment: Attachment) -> Option<Interface> {
        let at = self.attached.iter().position(|one| one.attachment == attachment)?;
        let one = &mut self.attached[at];
        one.holders -= 1;
        let is_news = !std::mem::replace(&mut one.is_leaving, true);
        let news = is_news.then(|| one.interface.clone());
        if one.holders == 0 {
            let gone = self.attached.swap_remove(at);
            self.release(gone.id);
        }
        news
    }

    /// The interface that a source is of, while any worker has it.
    pub(super) fn interface(&self, attachment: Attachment) -> Option<&Interface> {
        self.attached.iter().find(|one| one.attachment == attachment).map(|one| &one.interface)
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

    fn there(interfaces: &[(u32, &str)]) -> Vec<Meant> {
        let meant = |&(number, name): &(u32, &str)| Meant { name: name.to_owned(), index: index(number), up: true };
        interfaces.iter().map(meant).collect()
    }

    /// Opens what `changes` say, and the numbers that it got.
    fn open(roster: &mut Roster, changes: &[Change]) -> Vec<(InterfaceId, bool)> {
        let opened = changes.iter().filter_map(|change| match change {
            Change::Open(meant) => Some(meant),
            _ => None,
        });
        let take_up = |meant: &Meant| {
            let (id, is_new) = roster.reserve(&meant.name).unwrap();
            let interface = Interface { name: meant.name.clone(), index: meant.index, mtu: None, engine: None };
            roster.attach(id, interface, 10);
            (id, is_new)
        };
        opened.map(take_up).collect()
    }

    #[test]
    fn what_appears_is_opened_and_what_vanishes_is_let_go_by_every_worker() {
        let mut roster = Roster::new(2, &[interface(1, "veth1")], 10);
        let changes = roster.compare(&there(&[(1, "veth1"), (2, "veth2")]));
        assert_eq!(open(&mut roster, &changes), [(InterfaceId(1), true)]);
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
        let mut roster = Roster::new(2, &[interface(1, "veth1")], 10);
        assert_eq!(roster.let_go(Attachment(0)), Some(interface(1, "veth1")));
        assert_eq!(roster.compare(&there(&[(1, "veth1")])), [], "the other worker still has it");
        assert_eq!(roster.let_go(Attachment(0)), None);
        assert_eq!(roster.compare(&there(&[(1, "veth1")])).len(), 1, "opened again");
    }

    #[test]
    fn one_that_is_made_again_has_its_name_s_number_while_the_old_one_leaves() {
        let mut roster = Roster::new(1, &[interface(1, "veth1"), interface(2, "veth2")], 10);
        let changes = roster.compare(&there(&[(9, "veth1"), (2, "veth2")]));
        assert_eq!(changes[0], Change::LetGo(Attachment(0)));
        assert_eq!(open(&mut roster, &changes), [(InterfaceId(0), false)]);
        assert_eq!(roster.let_go(Attachment(0)), None);
        assert_eq!(roster.compare(&there(&[(9, "veth1"), (2, "veth2")])), []);
    }

    #[test]
    fn years_of_containers_take_no_more_numbers_than_there_are_at_one_time() {
        let mut roster = Roster::new(1, &[interface(1, "eth0")], 10);
        for number in 2..200_000 {
            let name = format!("veth{number}");
            let changes = roster.compare(&there(&[(1, "eth0"), (number, &name)]));
            open(&mut roster, &changes);
            let Some(&Change::LetGo(attachment)) = changes.first() else { continue };
            roster.let_go(attachment);
        }
        assert!(roster.slots.len() <= 3, "{:?}", roster.slots);
    }

    #[test]
    fn another_name_is_learnt_unless_the_plan_does_not_mean_it() {
        let mut roster = Roster::new(1, &[interface(1, "veth1")], 10);
        let renamed = roster.compare(&there(&[(1, "web0")]));
        assert_eq!(renamed, [Change::Rename(InterfaceId(0), "web0".into())]);
        assert_eq!(roster.compare(&there(&[(1, "web0")])), []);
        assert_eq!(roster.compare(&[]), [Change::LetGo(Attachment(0))]);
    }

    #[test]
    fn an_interface_that_is_down_is_left_until_it_is_up() {
        let mut roster = Roster::new(1, &[], 0);
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
