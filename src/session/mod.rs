//! A running session: opened as a whole or not at all, then its worker threads until their end.

mod contact;
pub mod control;
mod error;
mod follow;
pub mod governor;
mod observe;
mod orders;
mod path;
mod pulse;
pub mod relay_loop;
mod roster;
mod running;
pub mod signals;
mod stop;
mod takeover;
#[cfg(test)]
mod testing;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::unbounded_channel;

use crate::config::defaults::MOST_TAP_MTU;
use crate::config::plan::{self, DestinationPlan, End, SessionPlan, SourcePlan};
use crate::decapsulate::Decapsulator;
use crate::destination::capture_file::CaptureFile;
use crate::destination::health::Health;
use crate::destination::last_error::LastErrors;
use crate::destination::open_error::CannotOpen;
use crate::destination::spread::Spread;
use crate::destination::tap::Tap;
use crate::destination::tunnel::Tunnel;
use crate::destination::{Destination, Destinations, Ending, Patience, Shared, missing_ids};
use crate::error::Problems;
use crate::flow::FlowKey;
use crate::installation;
use crate::kernel::underlay::Underlay;
use crate::ledger::{Assignment, Ledger};
use crate::normalise::{Admission, Normaliser};
use crate::quantity::{Mtu, Workers};
use crate::select::Selector;
use crate::select::account::Sightings;
use crate::select::all_tunnels::{AllTunnels, Entry};
use crate::select::feedback::{Feedback, Pace};
use crate::select::mirror_loop::{LoopNotices, MirrorLoop};
use crate::select::own_traffic::OwnTraffic;
use crate::source::{self, InnerFilter, Interface, Opened, Pool, Progress};
use crate::wire::carrier::OwnTunnel;

use contact::{Contact, Failures};
pub use error::SessionError;
use follow::Follower;
pub use follow::RefusedForRoom;
use governor::Totals;
use observe::Observer;
pub use observe::cannot_probe;
use orders::Returns;
use path::{Inside, Path};
pub use running::{Outcome, Running};
use running::{Parts, Ready};
use worker::Worker;

/// A session with everything open and nothing moving yet.
pub struct Session {
    workers: Vec<Ready>,
    failures: Failures,
    underlays: Vec<Arc<Underlay>>,
    files: Vec<bool>,
    /// Tells pipes that the session is to end.
    ending: Ending,
    interfaces: Vec<Interface>,
    progress: Option<Progress>,
    limits: governor::Plan,
    /// What the workers have with their governor, if anything is limited.
    governed: Option<Arc<governor::Shared>>,
    health: Health,
    observer: Option<Observer>,
    follower: Option<Follower>,
    /// Keeps the session's tunnels among those that no session captures.
    tunnels: Entry,
}

/// What a session of the daemon finds there already.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The tunnels of all sessions, which this one adds its own to.
    pub all_tunnels: AllTunnels,
    /// What the session had open in an earlier run, and afterwards what it has open now.
    pub shared: Option<Shared>,
    /// Whether it stays when its interfaces have gone, and waits for those that are not there yet.
    pub stays: bool,
    /// What all sessions together use, where that is limited.
    pub totals: Option<Arc<Totals>>,
    /// Where is noted what goes wrong with its destinations.
    pub errors: LastErrors,
    /// Memory that its capture rings may borrow beyond its own; that of a session alone unless given.
    pub memory: Option<Pool>,
}

/// What the selectors of a session's workers have in common.
#[derive(Debug, Default)]
struct Together {
    sightings: Sightings,
    loop_notices: LoopNotices,
    pace: Pace,
}

impl Session {
    /// Opens sources and destinations. `underlays` are the ways to the plan's tunnels, in the order of its
    /// destinations.
    ///
    /// # Errors
    /// Everything that could not be opened.
    pub fn open(plan: &SessionPlan, underlays: &[Option<Arc<Underlay>>]) -> Result<Self, Problems> {
        Self::open_among(plan, underlays, &mut Surroundings::default())
    }

    /// The same, in surroundings that are not empty.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_among(
        plan: &SessionPlan,
        underlays: &[Option<Arc<Underlay>>],
        around: &mut Surroundings,
    ) -> Result<Self, Problems> {
        Problems::unless_empty(relay_loop::relay_loops(plan, underlays))?;
        let pool = around.memory.clone().unwrap_or_else(|| source::alone(plan));
        let mut opened = if around.stays {
            source::open_staying(plan, &pool, &|name| missing_ids(&plan.destinations, &[name.to_owned()]).pop())?
        } else {
            source::open_among(plan, &pool)?
        };
        let (patience, delay) = patience_of(&plan.source);
        let names: Vec<String> = opened.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let mtu = mirrored_mtu(plan, opened.interfaces.iter().map(|interface| interface.mtu));
        let shared = match around.shared.take() {
            Some(shared) => shared.for_another_run(&plan.destinations),
            None => Shared::new(&plan.destinations, 0),
        };
        let shared = around.shared.insert(shared.of_mtu(mtu).queueing(plan.buffer()));
        let destinations = open_for_workers(plan, underlays, &names, patience, shared)?;
        let health = Health::new();
        let ending = shared.ending().clone();
        let observer = Observer::open(plan, underlays, health.clone(), around.errors.clone())?;
        let own = OwnTunnel::of_all_workers(destinations.iter().map(Destinations::own_tunnels));
        let accounts = destinations.first().map(Destinations::accounts).unwrap_or_default();
        let tunnels = around.all_tunnels.enter_with(own.into_iter().zip(accounts).collect());
        let (together, failures) = (Together::default(), Failures::default());
        let (returns, follower) = follower(plan, &mut opened, &failures, around.stays).unzip();
        let mut workers = Vec::new();
        for (number, (sources, destinations)) in opened.shares.into_iter().zip(destinations).enumerate() {
            let spread = Spread::new(plan.spread, &plan.destinations, health.clone());
            let destinations = destinations.spread_by(spread).telling(around.errors.clone());
            let path = path_to(destinations, plan, &around.all_tunnels, &together, delay)?;
            let contact =
                Contact::open(path.ledger.clone(), failures.clone(), returns.clone()).map_err(no_resources)?;
            let worker = Worker::new(sources, path, contact.clone(), delay, plan.end.count).map_err(no_resources)?;
            let worker = worker.telling_of_excess(together.sightings.clone());
            workers.push(Ready { worker, contact, cpu: plan.cpu(number), priority: plan.priority.clone() });
        }
        let underlays: Vec<_> = underlays.iter().flatten().cloned().collect();
        let limits = governor::Plan::new(plan.limit, underlays.clone(), around.totals.clone());
        let governed = limits.shared();
        if let Some(shared) = &governed {
            for Ready { worker, .. } in &mut workers {
                worker.govern(shared);
            }
        }
        Ok(Self {
            workers,
            failures,
            underlays,
            files: plan.destinations.iter().map(|destination| destination.file().is_some()).collect(),
            ending,
            interfaces: opened.interfaces,
            progress: opened.progress,
            limits,
            governed,
            health,
            observer,
            tunnels,
            follower,
        })
    }

    /// The interfaces, or the file, that are mirrored.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// How far the replay of a file has come.
    pub fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// Which of its destinations can be given frames, as far as they are watched.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Starts the workers, and the governor of a session with limits: inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(self) -> Result<Running, Problems> {
        let Self { workers, failures, underlays, files, ending, interfaces, observer, tunnels, follower, .. } = self;
        let (follower, tunnels) = (follower.map(Box::new), Some(tunnels));
        let parts = Parts { failures, underlays, files, ending, interfaces, follower, tunnels };
        let mut running = Running::start(workers, parts)?;
        if let Some(observer) = observer {
            running.observe(observer);
        }
        Ok(running.governed_by(self.limits, self.governed))
    }

    /// Starts the workers, which let every frame pass by until [`Running::begin_at`] or [`Running::begin`] says whose the
    /// frames are: an earlier run of the session still mirrors them. The replay of a file waits, too.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_waiting(self) -> Result<Running, Problems> {
        self.workers.iter().for_each(|ready| ready.contact.takeover.close());
        self.start()
    }

    /// Runs the workers on this thread, one after the other, each to the end of its files. This is the fuzzer's door:
    /// the whole way of a frame, without the price of a thread for every file.
    #[doc(hidden)]
    pub fn run_here(self) -> Ledger {
        Ledger::sum(self.workers.into_iter().map(|Ready { mut worker, contact, .. }| {
            worker.run();
            contact.published.read()
        }))
    }
}

/// How long the destinations of a session with this source may wait for room, and how long the kernel may keep a frame.
fn patience_of(source: &SourcePlan) -> (Patience, Duration) {
    match source {
        SourcePlan::Live(live) => (Patience::Drop, live.delay),
        source if source.file().is_some() => (Patience::Wait, Duration::ZERO),
        SourcePlan::File(_) | SourcePlan::Tunnels(_) => (Patience::Drop, Duration::ZERO),
    }
}

/// The key of the flow hash of `plan`. A seed that does not outlast this process is told once.
fn flow_key(plan: &SessionPlan) -> FlowKey {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if let Some(key) = plan.seed {
        return key;
    }
    let seed = installation::seed();
    if let Err(why) = &seed.stored
        && plan.chooses_flows()
        && !TOLD.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            "no seed is stored ({why}): which flows are chosen changes with every start; `select.seed` sets one"
        );
    }
    seed.key
}

/// The stages of one worker of `plan`, which end at `destinations`.
///
/// # Errors
/// When the filter cannot ask the frames inside tunnels.
fn path_to(
    destinations: Destinations,
    plan: &SessionPlan,
    all_tunnels: &AllTunnels,
    together: &Together,
    delay: Duration,
) -> Result<Path, Problems> {
    // What files and TAP devices get is sent to nobody: whoever checks a tunnel sees it there.
    let sends = plan.destinations.iter().any(|destination| destination.live_tunnel().is_some());
    let selector = if sends {
        let Together { sightings, loop_notices, pace } = together;
        let sightings = (plan.workers() > Workers::LEAST).then(|| sightings.clone());
        let own_traffic = OwnTraffic::following(all_tunnels).sharing(sightings);
        let is_live = matches!(plan.source, SourcePlan::Live(_));
        let mirror_loop = MirrorLoop::following(all_tunnels, loop_notices.clone());
        let feedback = is_live.then(|| Feedback::new(pace.clone()));
        Selector::new(own_traffic, flow_key(plan), plan.sample).watching(mirror_loop, feedback)
    } else {
        Selector::new(OwnTraffic::default(), flow_key(plan), plan.sample)
    };
    let inside = match plan.decap {
        Some(decap) => Some(Inside {
            decapsulator: Decapsulator::new(decap),
            filter: InnerFilter::of(plan)?,
            truncate: plan.normalise.truncate,
        }),
        None => None,
    };
    // There, what is cut is the frame inside.
    let truncate = plan.normalise.truncate.filter(|_| inside.is_none());
    Ok(Path {
        selector,
        inside,
        normaliser: Normaliser::new(truncate)
            .admitting(Admission::new(plan.normalise.max_segments, delay))
            .of_foreign(!matches!(plan.source, SourcePlan::Live(_))),
        destinations,
        ledger: empty_ledger(plan),
    })
}

fn no_resources(cause: nix::Error) -> SessionError {
    SessionError::Resources { cause: cause.into() }
}

/// Who follows the interfaces, and how workers give theirs back: where some may come, or go without ending the session.
fn follower(plan: &SessionPlan, opened: &mut Opened, failures: &Failures, stays: bool) -> Option<(Returns, Follower)> {
    let SourcePlan::Live(live) = &plan.source else { return None };
    // What is only named is there at the start, and its end is the session's.
    (stays || live.has_patterns()).then(|| {
        let (returns, returned) = unbounded_channel();
        let plan = Arc::new(plan.clone());
        (returns, Follower::new(live.clone(), plan, opened, returned, failures.clone(), stays))
    })
}

/// An account for the destinations of `plan`, before the first frame.
pub fn empty_ledger(plan: &SessionPlan) -> Ledger {
    let assignment = match plan.spread {
        plan::Spread::Replicate => Assignment::Each,
        plan::Spread::Balance | plan::Spread::Failover => Assignment::One,
    };
    Ledger::new(plan.destinations.iter().map(|plan| (plan.name.as_str(), plan.to.as_str()))).assigning(assignment)
}

/// The largest MTU of what `plan` mirrors, as far as a TAP device can have it; `interfaces` are those of its interfaces,
/// where they have one. How long the frames are that others recorded or send, nobody knows unless they are normalised.
pub fn mirrored_mtu(plan: &SessionPlan, interfaces: impl Iterator<Item = Option<Mtu>>) -> Mtu {
    let largest = match &plan.source {
        SourcePlan::Live(_) => interfaces.map(|mtu| mtu.unwrap_or(Mtu::MAX)).max(),
        SourcePlan::File(_) | SourcePlan::Tunnels(_) => plan.normalise.enabled.then_some(plan.normalise.mtu),
    };
    largest.unwrap_or(Mtu::MAX).min(MOST_TAP_MTU)
}

/// Opens every destination of `plan` once for each worker: each has sockets, batches and source ports of its own.
fn open_for_workers(
    plan: &SessionPlan,
    underlays: &[Option<Arc<Underlay>>],
    interfaces: &[String],
    patience: Patience,
    shared: &mut Shared,
) -> Result<Vec<Destinations>, Problems> {
    let workers = plan.workers();
    let open = |number: u8| {
        if number > 0 {
            shared.go_on_to(number.into());
        }
        let own: Vec<_> = plan.destinations.iter().map(|plan| plan.of_worker(number.into(), workers)).collect();
        open_destinations(&own, underlays, interfaces, patience, shared)
    };
    (0..workers.value()).map(open).collect()
}

/// Opens every destination of `plans`, whose ways are `underlays`, for frames of `interfaces`. `shared` is what the
/// session's destinations have in common, also those of its other workers.
///
/// # Errors
/// Everything that could not be opened.
pub fn open_destinations(
    plans: &[DestinationPlan],
    underlays: &[Option<Arc<Underlay>>],
    interfaces: &[String],
    patience: Patience,
    shared: &mut Shared,
) -> Result<Destinations, Problems> {
    let opened = plans.iter().zip(underlays).map(|(plan, underlay)| match (&plan.end, underlay) {
        (End::Tap(tap), _) => match Tap::open(tap, patience, shared) {
            Ok(tap) => Ok(Destination::Tap(tap)),
            Err(error) => Err(CannotOpen { destination: plan.place(), error: error.into() }.into()),
        },
        (End::File(file), _) => match CaptureFile::open(file, interfaces, patience, shared) {
            Ok(file) => Ok(Destination::File(file)),
            Err(error) => Err(Problems::from(error).at(&plan.place())),
        },
        (End::Tunnel(tunnel), Some(underlay)) => {
            Ok(Destination::Tunnel(Tunnel::open(plan, tunnel, underlay, interfaces, patience, shared)?))
        }
        (End::Tunnel(_), None) => Err(SessionError::NoWay { destination: plan.name.clone() }.into()),
    });
    Problems::gathered(opened).map(Destinations::new)
}
