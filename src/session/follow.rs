//! Follows the interfaces of a running session: opens those that appear, lets go of those that vanish.
//!
//! Part of the control plane. Opening and closing takes the kernel milliseconds an interface, so threads of their own do
//! it, inside the plan's network namespace; the workers hear of it between two turns.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::contact::{Contact, Failures};
use super::orders::{LetGo, Order};
use super::roster::{Change, Roster};
use crate::config::plan::{LivePlan, SessionPlan};
use crate::destination::missing_ids;
use crate::error::{Explain, what_and_why};
use crate::frame::InterfaceId;
use crate::kernel::link_events::{Links, LinksError, Present};
use crate::kernel::netns::{Namespace, Process};
use crate::quantity::Ifindex;
use crate::source::interfaces::{Meant, by_other_names, meant, unlisted};
use crate::source::{self, Budget, Captured, Interface, NoRoom, Opened, SourceError};

/// How often what was not possible is tried again, and a namespace looked at: nobody tells when its last process has ended.
const AGAIN: Duration = Duration::from_secs(1);
/// What will become of an interface that could not be captured.
const TRYING_AGAIN: &str = "trying again";
/// How often the interfaces are compared although nobody tells of a change.
const TICK: Duration = Duration::from_mins(1);

/// The interfaces that a session means and has no room for: its memory or `source.max_interfaces` is used up.
#[derive(Debug, Default)]
pub struct RefusedForRoom {
    now: AtomicUsize,
    total: AtomicU64,
}

impl RefusedForRoom {
    /// How many there are.
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// How many there were since the session began: an interface that goes and comes again is another one.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn set(&self, now: usize, new: usize) {
        self.now.store(now, Ordering::Relaxed);
        self.total.fetch_add(new as u64, Ordering::Relaxed);
    }
}

/// What follows the interfaces of one session.
pub(super) struct Follower {
    live: LivePlan,
    plan: Arc<SessionPlan>,
    /// Whether the session waits for what it names, too; else that has to stay where it is.
    stays: bool,
    roster: Roster,
    /// What the rings may take.
    budget: Option<Budget>,
    /// What was said about interfaces for which there is no room: once, until there is room for all.
    no_room: Option<NoRoom>,
    /// How many there are, and were.
    refused_for_room: Arc<RefusedForRoom>,
    /// Which ones.
    without_room: HashSet<(Option<Ifindex>, String)>,
    /// What is captured now, for whoever wants to see it.
    shown: watch::Sender<Vec<Interface>>,
    returns: UnboundedReceiver<LetGo>,
    failures: Failures,
    /// `None` while there is no such namespace.
    namespace: Option<Namespace>,
    /// The process that the latest one was found by: `pid:` means that one for ever. It holds nothing.
    met: Option<Process>,
    links: Option<Links>,
    /// The interfaces that are being opened, with numbers that are reserved for them.
    opening: Option<oneshot::Receiver<Vec<Attempt>>>,
    /// When to look although nobody tells of a change.
    look_at: Instant,
    /// What was said about interfaces that cannot be captured, by their name: once each.
    complaints: Vec<(String, String)>,
    /// Interfaces that the plan means and the session has no use for, as long as they are there.
    refused: Vec<(Option<Ifindex>, String)>,
    /// Interfaces whose capture broke off, and when they may be opened again if they are still there.
    resting: Vec<(Option<Ifindex>, Instant)>,
}

/// An interface whose turn it is to be opened.
#[derive(Clone, Debug)]
struct Wanted {
    meant: Meant,
    /// Reserved for it.
    id: InterfaceId,
    /// Bytes of one ring.
    buffer: u64,
}

/// One that was opened, or not.
struct Attempt {
    wanted: Wanted,
    outcome: Result<Captured, SourceError>,
}

impl Follower {
    /// Of a session that captures what was `opened` already. If it `stays`, nothing that is missing is a failure.
    pub(super) fn new(
        live: LivePlan,
        plan: Arc<SessionPlan>,
        opened: &mut Opened,
        returns: UnboundedReceiver<LetGo>,
        failures: Failures,
        stays: bool,
    ) -> Self {
        let (interfaces, namespace) = (&opened.interfaces, opened.namespace.clone());
        let workers = usize::from(live.workers.value());
        Self {
            roster: Roster::new(workers, interfaces.iter().cloned().zip(opened.buffers.iter().copied())),
            budget: opened.budget.take(),
            no_room: None,
            refused_for_room: Arc::default(),
            without_room: HashSet::new(),
            shown: watch::Sender::new(interfaces.clone()),
            live,
            plan,
            stays,
            returns,
            failures,
            // The very one in which they were opened: another one of the same name has other interfaces.
            met: namespace.as_ref().and_then(Namespace::process),
            namespace,
            links: None,
            opening: None,
            look_at: Instant::now(),
            complaints: Vec::new(),
            refused: Vec::new(),
            resting: Vec::new(),
        }
    }

    /// Uses the look at farspan's own namespace that others use, too, unless the plan means another namespace.
    pub(super) fn share_links(&mut self, links: Links) {
        if self.live.netns.is_none() {
            (self.namespace, self.links) = (Some(Namespace::own()), Some(links));
        }
    }

    /// What is captured now; it changes when that does.
    pub(super) fn interfaces(&self) -> watch::Receiver<Vec<Interface>> {
        self.shown.subscribe()
    }

    /// Waits until something happens and does what follows from it. Nothing is missed when the wait is given up.
    pub(super) async fn turn(&mut self, contacts: &[Contact]) {
        tokio::select! {
            Some(gone) = self.returns.recv() => self.take_back(gone, contacts),
            opened = opened(&mut self.opening) => {
                self.opening = None;
                self.attach(opened, contacts);
            }
            () = changed(&mut self.links) => {}
            () = sleep_until(self.look_at) => {}
        }
        // One look after the other: what is being opened is not compared with.
        if self.opening.is_none() {
            self.look(contacts);
        }
        let captured = self.roster.interfaces();
        self.shown.send_if_modified(|shown| {
            let is_new = *shown != captured;
            *shown = captured;
            is_new
        });
    }

    /// Compares what is captured with what is there.
    fn look(&mut self, contacts: &[Contact]) {
        self.look_at = Instant::now() + TICK;
        if !self.is_inside(contacts) {
            return;
        }
        let Some(links) = &mut self.links else { return };
        let present = links.now();
        let present = self.with_other_names(&present);
        let wanted = self.compare(&present, contacts);
        if !wanted.is_empty() {
            self.open(wanted);
        }
    }

    /// Those that are there, also by the names that the plan has for them and the kernel's list has not.
    fn with_other_names(&self, present: &[Present]) -> Vec<Present> {
        let mut all = present.to_vec();
        if let Some(namespace) = &self.namespace
            && unlisted(&self.live.interfaces, present).next().is_some()
        {
            let others = namespace.within(|| by_other_names(&self.live.interfaces, present));
            all.extend(others.unwrap_or_default());
        }
        all
    }

    /// Has what follows from the interfaces that are there carried out, except that it returns those that are to be opened:
    /// [`attach`](Self::attach) or [`give_up`](Self::give_up) has to follow before the next look.
    fn compare(&mut self, present: &[Present], contacts: &[Contact]) -> Vec<Wanted> {
        let (mut meant, _) = meant(&self.live.interfaces, present);
        self.complaints.retain(|(name, _)| meant.iter().any(|one| one.name == *name));
        self.refused.retain(|refused| meant.iter().any(|one| is_of(refused, one)));
        meant.retain(|one| self.has_use_for(one));
        let mut wanted = Vec::new();
        for change in self.roster.compare(&meant) {
            match change {
                Change::Open(one) => wanted.push(one),
                other => self.order(other, contacts),
            }
        }
        let now = Instant::now();
        self.resting.retain(|&(_, until)| now < until);
        wanted.retain(|one| !self.resting.iter().any(|&(index, _)| index == one.index));
        if let Some(next) = self.resting.iter().map(|&(_, until)| until).min() {
            self.look_at = self.look_at.min(next);
        }
        self.reserve(wanted)
    }

    /// Finds the namespace of the plan and the look at its interfaces, or lets go of everything when it has gone.
    fn is_inside(&mut self, contacts: &[Contact]) -> bool {
        if let Some(namespace) = &mut self.namespace
            && !namespace.is_current()
        {
            tracing::info!("the network namespace {} has gone: waiting for it", self.place());
            for change in self.roster.let_all_go() {
                self.order(change, contacts);
            }
            // What we hold of it would keep it alive.
            (self.namespace, self.links) = (None, None);
        }
        if self.live.netns.is_some() {
            self.look_at = Instant::now() + AGAIN;
        }
        if self.links.is_some() {
            return true;
        }
        let namespace = match self.namespace.clone() {
            Some(namespace) => Ok(namespace),
            None => Namespace::find_again(self.live.netns.as_ref(), self.met),
        };
        let links = namespace.map_err(LinksError::from).and_then(|namespace| {
            let links = Links::follow(&namespace)?;
            self.met = namespace.process();
            self.namespace = Some(namespace);
            Ok(links)
        });
        match links {
            Ok(links) => self.links = Some(links),
            Err(error) => {
                self.look_at = Instant::now() + AGAIN;
                self.complain(&self.place(), &error, TRYING_AGAIN);
            }
        }
        self.links.is_some()
    }

    /// What messages call the namespace.
    fn place(&self) -> String {
        self.live.netns.as_ref().map_or_else(String::new, ToString::to_string)
    }

    /// Whether the session can capture it: every tunnel has an id for an interface of that name. Says so if not.
    fn has_use_for(&mut self, one: &Meant) -> bool {
        if self.refused.iter().any(|refused| is_of(refused, one)) {
            return false;
        }
        let missing = missing_ids(&self.plan.destinations, std::slice::from_ref(&one.name));
        if let Some(reason) = missing.first() {
            tracing::warn!("{} is not mirrored: {}", one.name, what_and_why(&**reason));
            self.refused.push((one.index, one.name.clone()));
        }
        missing.is_empty()
    }

    /// Gives each interface that is to be opened its number and its part of the memory. For some there may be no room: they
    /// are tried again at every look.
    fn reserve(&mut self, meant: Vec<Meant>) -> Vec<Wanted> {
        let workers = u64::from(self.live.workers.value());
        let (mut wanted, mut refused, count) = (Vec::new(), None, meant.len());
        let mut without_room = HashSet::new();
        if let Some(budget) = &mut self.budget {
            // What rings that have gone had is anybody's.
            budget.allows(self.roster.buffer());
            for (before, meant) in meant.into_iter().enumerate() {
                if refused.is_some() {
                    // No other one finds room either.
                    without_room.insert((meant.index, meant.name));
                    continue;
                }
                let ring = budget.ring(self.roster.len(), self.roster.buffer(), count - before);
                let reserved = ring.and_then(|buffer| {
                    let id = self.roster.reserve(buffer * workers);
                    id.map(|id| (id, buffer)).ok_or(NoRoom::Interfaces(self.roster.len()))
                });
                match reserved {
                    Ok((id, buffer)) => wanted.push(Wanted { meant, id, buffer }),
                    Err(no_room) => {
                        refused = Some(no_room);
                        without_room.insert((meant.index, meant.name));
                    }
                }
            }
        }
        let new = without_room.difference(&self.without_room).count();
        self.without_room = without_room;
        self.refused_for_room.set(self.without_room.len(), new);
        if let Some(no_room) = &refused
            && self.no_room.as_ref().map(std::mem::discriminant) != Some(std::mem::discriminant(no_room))
        {
            tracing::warn!("{}", what_and_why(no_room));
        }
        self.no_room = refused;
        wanted
    }

    /// The interfaces that the session means and has no room for.
    pub(super) fn refused_for_room(&self) -> Arc<RefusedForRoom> {
        Arc::clone(&self.refused_for_room)
    }

    /// Starts opening interfaces, on a thread inside the namespace.
    fn open(&mut self, wanted: Vec<Wanted>) {
        let Some(namespace) = self.namespace.clone() else { return self.give_up() };
        let (tell, told) = oneshot::channel();
        let (live, plan, span) = (self.live.clone(), Arc::clone(&self.plan), tracing::Span::current());
        let open = move || {
            let _span = span.enter();
            let open_one = |wanted: Wanted| {
                let outcome = source::open_one(&live, &plan, (wanted.id, &wanted.meant), wanted.buffer);
                Attempt { wanted, outcome }
            };
            let opened = namespace.within(|| wanted.into_iter().map(open_one).collect::<Vec<_>>());
            // Nobody waits for it when the session ends meanwhile.
            let _ = tell.send(opened.unwrap_or_default());
        };
        match thread::Builder::new().name("opening".to_owned()).spawn(open) {
            Ok(_) => self.opening = Some(told),
            Err(error) => {
                tracing::warn!("cannot open interfaces, trying again: {error}");
                self.give_up();
            }
        }
    }

    /// Nothing that was to be opened is: the thread did not start, or the namespace has gone.
    fn give_up(&mut self) {
        self.roster.release_reserved();
        self.look_at = Instant::now() + AGAIN;
    }

    /// Hands every worker its part of the interfaces that were opened. What was not opened gives its number back.
    fn attach(&mut self, opened: Vec<Attempt>, contacts: &[Contact]) {
        if opened.is_empty() {
            self.give_up();
        }
        for Attempt { wanted: Wanted { meant, id, buffer }, outcome } in opened {
            let Captured { sources, interface } = match outcome {
                Ok(captured) => captured,
                Err(error) => {
                    self.cannot_open(meant, &error);
                    continue;
                }
            };
            tracing::info!("{} is mirrored now", meant.name);
            self.complaints.retain(|(name, _)| *name != meant.name);
            let attachment = self.roster.attach(id, interface, buffer * sources.len() as u64);
            let name: Arc<str> = meant.name.into();
            for (contact, source) in contacts.iter().zip(sources) {
                contact.order([Order::Attach { attachment, interface: id, name: Arc::clone(&name), source }]);
            }
        }
        self.roster.release_reserved();
    }

    fn cannot_open(&mut self, meant: Meant, error: &SourceError) {
        match error {
            // It will be up, or there again: the kernel tells.
            SourceError::InterfaceDown { .. } | SourceError::NoSuchInterface { .. } => {}
            // It will never be anything else.
            SourceError::NoRing { .. } | SourceError::UnsupportedLinkType { .. } => {
                self.complain(&meant.name, error, "it is not mirrored");
                self.refused.push((meant.index, meant.name));
                return;
            }
            _ => self.complain(&meant.name, error, TRYING_AGAIN),
        }
        self.look_at = Instant::now() + AGAIN;
    }

    /// Says once why an interface is not captured, and what will become of it.
    fn complain(&mut self, name: &str, error: &dyn Explain, then: &str) {
        let words = what_and_why(error);
        if self.complaints.iter().any(|(known, said)| known == name && *said == words) {
            return;
        }
        tracing::warn!("{words}: {then}");
        self.complaints.retain(|(known, _)| known != name);
        self.complaints.push((name.to_owned(), words));
    }

    /// Has every worker do what the bookkeeping says.
    fn order(&mut self, change: Change, contacts: &[Contact]) {
        for contact in contacts {
            match &change {
                Change::Rename(attachment, name) => {
                    contact.order([Order::Rename { attachment: *attachment, name: Arc::clone(name) }]);
                }
                Change::LetGo(attachment) => contact.order([Order::Detach { attachment: *attachment }]),
                Change::Open(_) => {}
            }
        }
        match change {
            Change::Rename(_, name) => tracing::info!("an interface is called {name} now"),
            Change::LetGo(attachment) => {
                if let Some(interface) = self.roster.interface(attachment) {
                    self.is_gone(&interface.name, None);
                }
            }
            Change::Open(_) => {}
        }
    }

    /// Takes back a source from a worker, and closes it aside.
    fn take_back(&mut self, LetGo { attachment, source, failure }: LetGo, contacts: &[Contact]) {
        if let Some(interface) = self.roster.let_go(attachment) {
            self.is_gone(&interface.name, failure);
            // Where one worker has lost its part of the flows, all begin anew, if the interface is still there.
            for contact in contacts {
                contact.order([Order::Detach { attachment }]);
            }
            self.resting.push((interface.index, Instant::now() + AGAIN));
        }
        // Without a thread it is closed here.
        let _ = thread::Builder::new().name("closing".to_owned()).spawn(move || drop(source));
    }

    /// Says that an interface has gone. Where it was named, and the session does not stay, that is a failure.
    fn is_gone(&self, name: &str, failure: Option<Box<dyn Explain>>) {
        if self.stays || !self.live.interfaces.iter().any(|named| named == name) {
            tracing::info!("{name} has gone");
            return;
        }
        let gone = || {
            let cause = std::io::Error::from_raw_os_error(libc::ENODEV);
            SourceError::InterfaceGone { interface: name.to_owned(), cause }.into()
        };
        self.failures.report(failure.unwrap_or_else(gone));
    }
}

/// Whether a refusal is of this interface, as it is called now.
fn is_of((index, name): &(Option<Ifindex>, String), one: &Meant) -> bool {
    *index == one.index && *name == one.name
}

/// What was opened, when it is; for ever, if nothing is being opened.
async fn opened(opening: &mut Option<oneshot::Receiver<Vec<Attempt>>>) -> Vec<Attempt> {
    match opening {
        // A thread that ends without a word has opened nothing.
        Some(opening) => opening.await.unwrap_or_default(),
        None => pending().await,
    }
}

async fn changed(links: &mut Option<Links>) {
    match links {
        Some(links) => links.changed().await,
        None => pending().await,
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("roster", &self.roster).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
