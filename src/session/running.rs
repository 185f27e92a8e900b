//! A running session: its worker threads, seen as one.

use std::future::pending;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::SessionError;
use super::contact::{Contact, Failures};
use super::follow::{Follower, RefusedForRoom};
use super::governor::{self, Governor};
use super::observe::{Observer, Observing};
use super::orders::Order;
use super::worker::Worker;
use crate::config::plan::{PriorityPlan, Scheduling, SessionPlan};
use crate::destination::{Ending, Unwritten};
use crate::error::{Explain, Problems};
use crate::kernel::link_events::Links;
use crate::kernel::underlay::Underlay;
use crate::ledger::{DropReason, Ledger, Published};
use crate::quantity::Timestamp;
use crate::select::all_tunnels::Entry;
use crate::source::Interface;
use crate::sys::thread as scheduling;

/// How long workers may take to close their account when nobody waits for more. They look every few hundred frames.
const HURRY: Duration = Duration::from_millis(500);

/// A session whose workers run.
#[derive(Debug)]
pub struct Running {
    contacts: Vec<Contact>,
    failures: Failures,
    underlays: Vec<Arc<Underlay>>,
    /// Which destinations are capture files.
    files: Vec<bool>,
    /// Tells pipes that the session is to end.
    ending: Ending,
    exits: UnboundedReceiver<Exit>,
    /// How many workers have not ended yet.
    at_work: usize,
    /// What is captured, unless interfaces are followed.
    interfaces: watch::Sender<Vec<Interface>>,
    follower: Option<Box<Follower>>,
    /// What limits the session, or may do so one day.
    limits: Option<governor::Plan>,
    /// Once it is limited.
    governor: Option<Governor>,
    observing: Option<Observing>,
    tunnels: Option<Entry>,
}

/// How a session ended.
#[derive(Debug)]
pub struct Outcome {
    /// The whole account; nothing is in flight.
    pub ledger: Ledger,
    /// What went wrong on the way. Frames mirrored before are in the ledger all the same.
    pub failures: Vec<Box<dyn Explain>>,
}

impl Outcome {
    /// How a session ends that was asked to before it had begun.
    pub fn of_nothing(plan: &SessionPlan) -> Self {
        Self { ledger: super::empty_ledger(plan), failures: Vec::new() }
    }
}

/// What a session has beside its workers.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) failures: Failures,
    pub(super) underlays: Vec<Arc<Underlay>>,
    /// Which destinations are capture files.
    pub(super) files: Vec<bool>,
    /// Tells pipes that the session is to end.
    pub(super) ending: Ending,
    /// What is captured at the start.
    pub(super) interfaces: Vec<Interface>,
    pub(super) follower: Option<Box<Follower>>,
    pub(super) tunnels: Option<Entry>,
}

/// A worker that is ready to run.
pub(super) struct Ready {
    pub(super) worker: Worker,
    pub(super) contact: Contact,
    /// The CPU that it stays on.
    pub(super) cpu: Option<usize>,
    /// How it stands back behind other programs.
    pub(super) priority: PriorityPlan,
}

/// A worker's last word.
#[derive(Debug)]
struct Exit {
    /// Its number.
    worker: usize,
    /// Whether it ended as it should.
    well: bool,
}

impl Running {
    /// Starts `workers`, which have the failures of `parts` in common.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub(super) fn start(workers: Vec<Ready>, parts: Parts) -> Result<Self, Problems> {
        let (send, exits) = unbounded_channel();
        let contacts = workers.iter().map(|ready| ready.contact.clone()).collect();
        let at_work = workers.len();
        let Parts { failures, underlays, files, ending, interfaces, follower, tunnels } = parts;
        let running = Self {
            contacts,
            failures,
            underlays,
            files,
            ending,
            exits,
            at_work,
            interfaces: watch::Sender::new(interfaces),
            follower,
            limits: None,
            governor: None,
            observing: None,
            tunnels,
        };
        for (number, ready) in workers.into_iter().enumerate() {
            if let Err(cause) = start_one(number, ready, send.clone()) {
                running.stop();
                return Err(SessionError::Resources { cause }.into());
            }
        }
        Ok(running)
    }

    /// Has a governor keep the workers within `limits`, if they share something with it. Then this must be called inside a
    /// tokio runtime.
    pub(super) fn governed_by(mut self, limits: governor::Plan, shared: Option<Arc<governor::Shared>>) -> Self {
        self.governor = shared.map(|shared| limits.start(shared));
        self.limits = Some(limits);
        self
    }

    /// Has a governor keep the workers within limits that there were not when they started, and says whether it is so that
    /// there is one since. Must be called inside a tokio runtime.
    pub fn govern(&mut self) -> bool {
        let Some((limits, shared)) = self.limits.as_ref().and_then(|limits| Some((limits, limits.shared()?))) else {
            return false;
        };
        if self.governor.is_some() {
            return false;
        }
        for contact in &self.contacts {
            contact.order([Order::Govern(Arc::clone(&shared))]);
        }
        self.governor = Some(limits.start(shared));
        true
    }

    /// What the governor measures and does; `None` for a session without limits.
    pub fn governor(&self) -> Option<governor::Shown> {
        self.governor.as_ref().map(Governor::shown)
    }

    /// Has the destinations watched, until this is dropped.
    pub(super) fn observe(&mut self, observer: Observer) {
        self.observing = Some(observer.start());
    }

    /// Asks the workers to end with what has been captured until now; [`ended`](Self::ended) tells when they have.
    pub fn stop(&self) {
        self.stop_at(Timestamp::now());
    }

    /// From now on every frame is this run's, which was started waiting: no other is there any more. A clock that is set back
    /// later keeps no frame out.
    pub fn begin(&self) {
        for contact in &self.contacts {
            contact.takeover.begin();
            contact.stop.wake();
        }
    }

    /// From this moment on frames are this run's, which was started waiting. To be followed by [`begin`](Self::begin) when
    /// the other one has ended.
    pub fn begin_at(&self, moment: Timestamp) {
        for contact in &self.contacts {
            contact.takeover.begin_at(moment);
            contact.stop.wake();
        }
    }

    /// Asks the workers to end; frames that are captured from this moment on are not theirs any more. Where another run goes
    /// on from it, it should be some milliseconds ahead, so that no worker is past it. The first such moment stands.
    pub fn stop_at(&self, moment: Timestamp) {
        for contact in &self.contacts {
            contact.takeover.end_at(moment);
            contact.stop.request();
        }
        self.underlays.iter().for_each(|underlay| underlay.stop_waiting());
        self.ending.request();
    }

    /// The ledger of all workers together, as it was a moment ago.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::sum(self.contacts.iter().map(|contact| contact.published.read()));
        ledger.refused_interfaces += self.follower.as_ref().map_or(0, |follower| follower.refused_for_room().total());
        ledger
    }

    /// Ends the session now: the workers leave what they have not taken, also the rest of a super-frame, and close their
    /// account. Of a worker that cannot, because a pipe gives or takes nothing, the account is the one that it published
    /// last, in which nothing is in flight.
    pub async fn abandon(&mut self) -> Outcome {
        self.contacts.iter().for_each(|contact| contact.stop.hurry());
        self.ending.hurry();
        if let Ok(mut outcome) = tokio::time::timeout(HURRY, self.ended()).await {
            outcome.failures.push(SessionError::Hurried.into());
            return outcome;
        }
        let mut ledger = self.ledger();
        ledger.close(DropReason::Stopping);
        Outcome { ledger, failures: vec![SessionError::Abandoned.into()] }
    }

    /// What each worker shows of itself.
    pub fn published(&self) -> Vec<Published> {
        self.contacts.iter().map(|contact| contact.published.clone()).collect()
    }

    /// What keeps the session's tunnels out of all captures: whoever has it may let it outlive the session, until its last
    /// datagrams and the answers to them have passed.
    pub fn take_tunnels(&mut self) -> Option<Entry> {
        self.tunnels.take()
    }

    /// The interfaces, or the file, that are captured now; it changes when they do.
    pub fn interfaces(&self) -> watch::Receiver<Vec<Interface>> {
        self.follower.as_ref().map_or_else(|| self.interfaces.subscribe(), |follower| follower.interfaces())
    }

    /// The interfaces that the session means and has no room for: for as long as it runs.
    pub fn refused_for_room(&self) -> Arc<RefusedForRoom> {
        self.follower.as_ref().map_or_else(Arc::default, |follower| follower.refused_for_room())
    }

    /// Follows the interfaces of farspan's own network namespace by a look that other sessions share.
    pub fn share_links(&mut self, links: Links) {
        if let Some(follower) = &mut self.follower {
            follower.share_links(links);
        }
    }

    /// Waits for the end of all workers. Where one ends, the others are asked to: a session without a part of its flows
    /// would look whole. Until then the interfaces that the plan means are followed, where others may come; nothing is
    /// missed when the wait is given up and begun again.
    pub async fn ended(&mut self) -> Outcome {
        while self.at_work > 0 {
            let Self { contacts, exits, follower, .. } = self;
            let is_stopping = contacts.iter().any(|contact| contact.stop.is_requested());
            let exit = tokio::select! {
                exit = exits.recv() => exit,
                () = followed(follower, contacts), if !is_stopping => continue,
            };
            let Some(Exit { worker, well }) = exit else { break };
            self.at_work -= 1;
            if !well {
                self.failures.report(SessionError::Crashed { worker }.into());
            }
            if self.at_work > 0 {
                self.stop();
            }
        }
        let ledger = self.ledger();
        let files =
            ledger.destinations.iter().zip(&self.files).filter_map(|(account, is_file)| is_file.then_some(account));
        let mut failures = self.failures.take();
        failures.extend(files.filter_map(Unwritten::of).map(|unwritten| Box::new(unwritten) as _));
        Outcome { ledger, failures }
    }
}

/// One turn of following the interfaces; none comes where they are not followed.
async fn followed(follower: &mut Option<Box<Follower>>, contacts: &[Contact]) {
    match follower {
        Some(follower) => follower.turn(contacts).await,
        None => pending().await,
    }
}

impl Drop for Running {
    /// Nobody will ask for the workers any more: a run that was prepared, and then not wanted.
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts one worker thread.
fn start_one(number: usize, ready: Ready, exits: UnboundedSender<Exit>) -> std::io::Result<()> {
    let Ready { mut worker, contact, cpu, priority } = ready;
    let session = tracing::Span::current();
    let run = move || {
        // So that what the worker logs names its session, where there are several.
        let _session = session.enter();
        // Nothing of a worker that panicked is used again but its ledger: numbers, whole wherever it broke off.
        let well = catch_unwind(AssertUnwindSafe(|| match settle_down(cpu, &priority) {
            Ok(()) => worker.run(),
            Err(cannot) => contact.failures.report(cannot.into()),
        }));
        if well.is_err() {
            worker.close_account();
        }
        // The last word first: to close many captures takes the kernel seconds. Where nobody waits for it any more, the
        // process is ending.
        drop(exits.send(Exit { worker: number, well: well.is_ok() }));
    };
    thread::Builder::new().name(format!("worker-{number}")).spawn(run).map(drop)
}

/// Puts this thread where and behind whom it is to run.
fn settle_down(cpu: Option<usize>, priority: &PriorityPlan) -> Result<(), SessionError> {
    if let Some(cpu) = cpu {
        pin(&[cpu]).map_err(|cause| SessionError::NotPinned { cpu, cause })?;
    }
    stand_back(priority).map_err(|cause| SessionError::NoPriority { cause })
}

fn stand_back(priority: &PriorityPlan) -> io::Result<()> {
    let PriorityPlan { nice, scheduling: way, cpus } = priority;
    if !cpus.is_empty() {
        pin(cpus)?;
    }
    nice.map_or(Ok(()), |nice| scheduling::set_nice(nice.value()))?;
    match way {
        Scheduling::Other => Ok(()),
        Scheduling::Batch => scheduling::schedule_as_batch(),
        Scheduling::Idle => scheduling::schedule_as_idle(),
    }
}

/// Keeps this thread on these CPUs.
fn pin(cpus: &[usize]) -> nix::Result<()> {
    let mut only = CpuSet::new();
    cpus.iter().try_for_each(|&cpu| only.set(cpu))?;
    sched_setaffinity(Pid::from_raw(0), &only)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sched::sched_getaffinity;

    use super::super::testing::{self, MadeUp};
    use super::*;
    use crate::source::{Readiness, Source, SourceError};

    type End = fn() -> Result<Readiness, Box<dyn Explain>>;

    /// A source that gives one frame, and then does what it was made for.
    fn one_frame(then: Option<End>) -> Box<dyn Source> {
        let mut gave = false;
        MadeUp::always_ready(3, move |_, _, each| {
            if !std::mem::replace(&mut gave, true) {
                each(&testing::FRAME);
                return Ok(Readiness::Until(Instant::now()));
            }
            then.map_or(Ok(Readiness::Waiting), |then| then())
        })
    }

    /// A source with a defect, which shows after two frames have been taken.
    fn breaking() -> Box<dyn Source> {
        MadeUp::always_ready(0, |_, _, each| {
            each(&testing::FRAME);
            each(&testing::FRAME);
            panic!("a defect that this test makes")
        })
    }

    fn ready(failures: &Failures, then: Option<End>, cpu: Option<usize>) -> Ready {
        ready_with(failures, one_frame(then), cpu)
    }

    fn ready_with(failures: &Failures, source: Box<dyn Source>, cpu: Option<usize>) -> Ready {
        let contact = Contact { failures: failures.clone(), ..testing::contact() };
        let worker = testing::worker(vec![source], &contact, None);
        Ready { worker, contact, cpu, priority: PriorityPlan::default() }
    }

    fn outcome(workers: impl FnOnce(&Failures) -> Vec<Ready>) -> Outcome {
        let failures = Failures::default();
        let parts = Parts { failures: failures.clone(), files: vec![true], ..Parts::default() };
        let mut running = Running::start(workers(&failures), parts).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(running.ended())
    }

    fn words(outcome: &Outcome) -> Vec<String> {
        outcome.failures.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn when_one_worker_crashes_the_others_end_with_their_accounts() {
        let outcome = outcome(|failures| {
            let crash: fn() -> _ = || panic!("a defect that this test makes");
            vec![ready(failures, None, None), ready(failures, Some(crash), None), ready(failures, None, None)]
        });
        assert_eq!(
            words(&outcome),
            ["worker thread worker-1 ended unexpectedly; the frames that it held are counted as crashed"]
        );
        assert_eq!((outcome.ledger.captured, outcome.ledger.kernel.buffer_full), (3, 9));
        assert_eq!((outcome.ledger.balance(), outcome.ledger.destinations[0].sent), (Ok(()), 3));
    }

    #[test]
    fn what_a_worker_holds_when_it_crashes_has_a_fate() {
        let outcome = outcome(|failures| vec![ready_with(failures, breaking(), None)]);
        assert_eq!(outcome.failures.len(), 1);
        let account = &outcome.ledger.destinations[0];
        assert_eq!((outcome.ledger.captured, account.sent, account.in_flight), (2, 0, 0));
        assert_eq!(account.dropped[DropReason::Crashed], 2);
        assert_eq!(outcome.ledger.balance(), Ok(()));
    }

    #[test]
    fn an_interface_that_all_workers_lose_is_told_once() {
        let outcome = outcome(|failures| {
            let gone: fn() -> _ = || {
                let cause = std::io::ErrorKind::NotFound.into();
                Err(SourceError::InterfaceGone { interface: "eth7".to_owned(), cause }.into())
            };
            vec![ready(failures, Some(gone), None), ready(failures, Some(gone), None)]
        });
        assert_eq!(words(&outcome), ["the capture on `eth7` ended"]);
        assert_eq!(outcome.ledger.captured, 2);
    }

    #[test]
    fn a_pinned_worker_has_its_cpu_alone() {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cpu = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap()).unwrap();
        let seen = thread::spawn(move || {
            pin(&[cpu]).unwrap();
            sched_getaffinity(Pid::from_raw(0)).unwrap()
        });
        let seen = seen.join().unwrap();
        assert!((0..CpuSet::count()).all(|other| seen.is_set(other).unwrap() == (other == cpu)));

        let nowhere =
            outcome(|failures| vec![ready(failures, None, Some(CpuSet::count() - 1)), ready(failures, None, None)]);
        assert_eq!(words(&nowhere), [format!("worker cannot stay on CPU {}", CpuSet::count() - 1)]);
        assert_eq!(nowhere.ledger.captured, 1, "the other one ends by itself");
    }
}
