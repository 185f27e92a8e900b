//! What a supervisor shows of its session: written by it, read by whoever makes a view.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::view::{DestinationView, InterfaceView, SessionView, State};
use crate::config::plan::{DestinationPlan, FilePath, SessionPlan};
use crate::destination::health::{Complaint, Health};
use crate::destination::last_error::{LastError, LastErrors};
use crate::error::{Explain, one_line, what_and_why};
use crate::kernel::underlay::{NextHop, Underlay};
use crate::ledger::{Ledger, Published};
use crate::session::{RefusedForRoom, empty_ledger, governor};
use crate::source::Interface;

/// A worker that has done no turn for so long is stuck. A replay waits 30 seconds for room within one.
const STUCK: Duration = Duration::from_mins(1);

/// One session as others see it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    inner: Arc<Mutex<Inner>>,
    /// Rises with every change of any session's state.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    plan: Arc<SessionPlan>,
    state: State,
    since: SystemTime,
    restarts: u64,
    interfaces: Vec<InterfaceView>,
    /// How many interfaces the run has no room for.
    refused_for_room: Arc<RefusedForRoom>,
    /// The ways of the destinations while the session runs, in their order.
    underlays: Vec<Option<Arc<Underlay>>>,
    /// Which of them can be given frames, where they are watched for it.
    health: Health,
    workers: Vec<Pulse>,
    governor: Option<governor::Shown>,
    /// The sum of the runs that are over.
    finished: Ledger,
    last_frame: Option<SystemTime>,
    last_error: Option<LastError>,
    /// What went wrong with the destinations last.
    errors: LastErrors,
}

/// A worker, and how it was when it was last looked at.
#[derive(Debug)]
struct Pulse {
    published: Published,
    turns: u64,
    since: Instant,
}

impl Shown {
    pub(super) fn new(plan: Arc<SessionPlan>, errors: LastErrors, changes: watch::Sender<u64>) -> Self {
        let inner = Inner {
            finished: empty_ledger(&plan),
            plan,
            state: State::Starting,
            since: SystemTime::now(),
            restarts: 0,
            interfaces: Vec::new(),
            refused_for_room: Arc::default(),
            underlays: Vec::new(),
            health: Health::new(),
            workers: Vec::new(),
            governor: None,
            last_frame: None,
            last_error: None,
            errors,
        };
        Self { inner: Arc::new(Mutex::new(inner)), changes }
    }

    /// Takes note of what the session is doing.
    pub(super) fn set_state(&self, state: State) {
        let mut inner = self.lock();
        if std::mem::discriminant(&inner.state) != std::mem::discriminant(&state) {
            inner.since = SystemTime::now();
        }
        inner.state = state;
        drop(inner);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The workers have started.
    pub(super) fn set_running(
        &self,
        run: Vec<Published>,
        interfaces: &[Interface],
        ways: Vec<Option<Arc<Underlay>>>,
        health: &Health,
    ) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.workers = run.into_iter().map(|published| Pulse { published, turns: 0, since: now }).collect();
        inner.interfaces = interfaces.iter().map(Into::into).collect();
        inner.underlays = ways;
        inner.health = health.clone();
        drop(inner);
        self.set_state(State::Running);
    }

    /// What keeps the run within its limits.
    pub(super) fn set_governor(&self, governor: Option<governor::Shown>) {
        self.lock().governor = governor;
    }

    /// The interfaces that the run has no room for, from now on.
    pub(super) fn set_refused_for_room(&self, refused: Arc<RefusedForRoom>) {
        self.lock().refused_for_room = refused;
    }

    /// What is captured now.
    pub(super) fn set_interfaces(&self, interfaces: &[Interface]) {
        let interfaces: Vec<InterfaceView> = interfaces.iter().map(Into::into).collect();
        let mut inner = self.lock();
        if inner.interfaces != interfaces {
            inner.interfaces = interfaces;
        }
    }

    /// A run is over, and this is its account.
    pub(super) fn add_run(&self, mut ledger: Ledger) {
        let mut inner = self.lock();
        inner.last_frame = inner.last_frame();
        inner.workers.clear();
        inner.governor = None;
        inner.refused_for_room = Arc::default();
        inner.underlays.clear();
        inner.health = Health::new();
        ledger.go_on_from(&inner.finished);
        inner.finished = ledger;
    }

    /// The session has another plan from now on: it counts from zero.
    pub(super) fn begin_anew(&self, plan: Arc<SessionPlan>) {
        let mut inner = self.lock();
        inner.finished = empty_ledger(&plan);
        inner.restarts = 0;
        inner.last_error = None;
        inner.plan = plan;
    }

    /// The session is about to be opened again after a failure.
    pub(super) fn count_restart(&self) {
        self.lock().restarts += 1;
    }

    /// Something went wrong, perhaps with a destination. Returns it in words.
    pub(super) fn note_failures<'a>(&self, failures: impl Iterator<Item = &'a dyn Explain>) -> String {
        let mut inner = self.lock();
        let mut words = Vec::new();
        for failure in failures {
            let place = failure.place().unwrap_or_default();
            if let Some(plan) = inner.plan.destinations.iter().find(|plan| place.contains(&plan.place())) {
                inner.errors.note(&plan.name, what_and_why(failure));
            }
            words.push(one_line(failure));
        }
        let words = words.join("; ");
        inner.last_error = Some(LastError::now(words.clone()));
        words
    }

    /// What the session is doing.
    pub(super) fn state(&self) -> State {
        self.lock().state
    }

    /// The account of the runs so far, and of the one under way.
    pub(super) fn ledger(&self) -> Ledger {
        self.lock().ledger()
    }

    /// The plan that the session has.
    pub(super) fn plan(&self) -> Arc<SessionPlan> {
        Arc::clone(&self.lock().plan)
    }

    /// Whether every worker has done a turn lately. Whoever asks does so at least once a minute. Who reads or writes a pipe
    /// waits for whoever is at its other end.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        if has_pipe(&inner.plan) {
            return true;
        }
        inner.workers.iter_mut().all(|worker| {
            let turns = worker.published.turns();
            if turns != worker.turns {
                (worker.turns, worker.since) = (turns, now);
            }
            now.duration_since(worker.since) < STUCK
        })
    }

    pub(super) fn view(&self) -> SessionView {
        let inner = self.lock();
        let (last_error, last_error_at) = inner.last_error.clone().map(|error| (error.words, error.at)).unzip();
        let ways = inner.underlays.iter().map(Option::as_deref).chain(std::iter::repeat(None));
        SessionView {
            name: inner.plan.name.clone(),
            state: inner.state,
            since: inner.since,
            restarts: inner.restarts,
            interfaces: inner.interfaces.clone(),
            refused_for_room: inner.refused_for_room.now(),
            ledger: inner.ledger(),
            last_frame: inner.last_frame(),
            last_error,
            last_error_at,
            governor: inner.governor.as_ref().map(governor::Shown::view),
            destinations: (0..)
                .zip(inner.plan.destinations.iter().zip(ways))
                .map(|(number, (plan, way))| inner.destination(plan, way, inner.health.complaint(number)))
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every field is whole at any moment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn ledger(&self) -> Ledger {
        if self.workers.is_empty() {
            return self.finished.clone();
        }
        let mut ledger = Ledger::sum(self.workers.iter().map(|worker| worker.published.read()));
        ledger.refused_interfaces += self.refused_for_room.total();
        ledger.go_on_from(&self.finished);
        ledger
    }

    fn last_frame(&self) -> Option<SystemTime> {
        self.workers.iter().filter_map(|worker| worker.published.last_frame()).chain(self.last_frame).max()
    }

    fn destination(
        &self,
        plan: &DestinationPlan,
        way: Option<&Underlay>,
        complaint: Option<Complaint>,
    ) -> DestinationView {
        // Whoever watches it hears of the next hop a moment later.
        let has_failed = way.is_some_and(|way| way.next_hop() == NextHop::Failed);
        let complaint = complaint.or(has_failed.then_some(Complaint::NextHop));
        let (last_error, last_error_at) = self.errors.of(&plan.name).map(|error| (error.words, error.at)).unzip();
        DestinationView {
            name: plan.name.as_str().into(),
            to: plan.to.as_str().into(),
            is_healthy: complaint.is_none(),
            why_unhealthy: complaint.map(|complaint| complaint.to_string()),
            mtu: way.map(|way| way.mtu().value()),
            last_error,
            last_error_at,
        }
    }
}

/// Whether a session replays a pipe, or writes one.
fn has_pipe(plan: &SessionPlan) -> bool {
    let files = plan.destinations.iter().filter_map(DestinationPlan::file);
    files.chain(plan.source.file().into_iter().flat_map(|replay| &replay.files)).any(FilePath::is_pipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::local_end::CaptureFilePlan;
    use crate::config::plan::{
        End, EndPlan, FilePath, FilePlan, LimitPlan, NormalisePlan, PriorityPlan, SamplePlan, SourcePlan, Spread,
    };
    use crate::quantity::{Mtu, SegmentLimit, Weight};

    fn plan() -> Arc<SessionPlan> {
        let file = || FilePath::Path("x".into());
        Arc::new(SessionPlan {
            name: "dmz".into(),
            source: SourcePlan::File(FilePlan::unpaced(file())),
            decap: None,
            filter: String::new(),
            sample: SamplePlan::default(),
            seed: None,
            normalise: NormalisePlan {
                enabled: false,
                mtu: Mtu::ETHERNET,
                truncate: None,
                max_segments: Some(SegmentLimit::DEFAULT),
            },
            destinations: vec![DestinationPlan {
                name: "1".into(),
                to: "pcap:x".into(),
                weight: Weight::default(),
                end: End::File(CaptureFilePlan::plain(file())),
            }],
            limit: LimitPlan::default(),
            priority: PriorityPlan::default(),
            spread: Spread::Replicate,
            end: EndPlan::default(),
        })
    }

    fn counted(captured: u64) -> Ledger {
        Ledger { captured, ..empty_ledger(&plan()) }
    }

    #[test]
    fn counters_never_fall_while_the_plan_is_the_same() {
        let shown = Shown::new(plan(), LastErrors::default(), watch::channel(0).0);
        let worker = Published::new(counted(5));
        shown.set_running(vec![worker.clone(), Published::new(counted(2))], &[], vec![None], &Health::new());
        assert_eq!(shown.view().ledger.captured, 7);
        worker.update(&counted(10));
        worker.note_turn(true);
        assert_eq!(shown.view().ledger.captured, 12);
        shown.add_run(counted(13));
        shown.set_state(State::Retrying { after: Duration::from_secs(1) });
        let view = shown.view();
        assert_eq!((view.ledger.captured, view.last_frame.is_some()), (13, true));
        shown.count_restart();
        shown.set_running(vec![Published::new(counted(1))], &[], vec![None], &Health::new());
        let view = shown.view();
        assert_eq!((view.ledger.captured, view.restarts, view.state), (14, 1, State::Running));
        assert_eq!((view.destinations.len(), view.destinations[0].is_healthy), (1, true));

        shown.add_run(counted(1));
        shown.begin_anew(plan());
        assert_eq!((shown.view().ledger.captured, shown.view().restarts), (0, 0));
    }

    #[test]
    fn a_worker_that_does_no_turn_for_a_minute_is_stuck() {
        let shown = Shown::new(plan(), LastErrors::default(), watch::channel(0).0);
        let worker = Published::new(counted(0));
        shown.set_running(vec![worker.clone()], &[], vec![None], &Health::new());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(shown.is_alive(at(0)));
        worker.note_turn(false);
        assert!(shown.is_alive(at(30)));
        assert!(shown.is_alive(at(80)));
        assert!(!shown.is_alive(at(91)));
        worker.note_turn(false);
        assert!(shown.is_alive(at(92)));
    }
}
