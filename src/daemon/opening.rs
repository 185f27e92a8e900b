//! How a session is opened: the ways to its analyzers found, then everything it needs, on a thread of its own.
//!
//! To open and close a capture takes the kernel some milliseconds, in which it waits for its own processors (RCU). On
//! threads, two hundred sessions wait for the same moment.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::check::stacked;
use crate::config::daemon::TotalLimitPlan;
use crate::config::plan::{DestinationPlan, SessionPlan, SourcePlan};
use crate::destination::Shared;
use crate::destination::health::Health;
use crate::destination::last_error::LastErrors;
use crate::error::Problems;
use crate::kernel::link_events::Links;
use crate::kernel::locate::Kernel;
use crate::kernel::netns::Namespace;
use crate::kernel::underlay::{NextHop, Underlay};
use crate::kernel::underlay_error::UnderlayError;
use crate::kernel::watch::Watcher;
use crate::ledger::Published;
use crate::select::all_tunnels::AllTunnels;
use crate::session::governor::Totals;
use crate::session::{Running, Session, SessionError, Surroundings};
use crate::source::{Interface, Pool, while_wanted};

/// How many sessions are opened at a time: each has a thread meanwhile.
const AT_A_TIME: usize = 32;
/// So long the list of the host's links serves everybody who asks.
const FRESH: Duration = Duration::from_millis(200);
/// How long a session waits for its next hops: the kernel asks again after one second (`retrans_time_ms`).
const NEXT_HOP_PATIENCE: Duration = Duration::from_millis(1500);
/// How often it looks whether they have answered.
const LOOK: Duration = Duration::from_millis(10);

/// What the sessions of the daemon have in common.
#[derive(Debug)]
pub(super) struct Common {
    all_tunnels: AllTunnels,
    watcher: Watcher,
    /// The interfaces of farspan's own network namespace; `None` when the kernel does not let us follow them.
    links: Option<Links>,
    kernel: tokio::sync::Mutex<Option<(Instant, Arc<Kernel>)>>,
    openings: Semaphore,
    /// What all sessions together use.
    totals: Arc<Totals>,
    /// Memory that no session was granted.
    memory: Pool,
    /// Whether workers may start: everything that takes privileges has been tried once, and they have been given up.
    may_start: watch::Receiver<bool>,
    /// What was said about routes: a session that is tried again says nothing new.
    said: Mutex<HashSet<String>>,
}

/// What a session has beyond its runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// What it keeps open from one run to the next.
    open: Arc<Mutex<Option<Shared>>>,
    /// What went wrong with its destinations.
    pub(super) errors: LastErrors,
}

/// A session that is open, and nothing of it moves yet.
pub(super) struct Opened {
    session: Session,
    ways: Vec<Option<Arc<Underlay>>>,
    links: Option<Links>,
}

/// A session whose workers run.
pub(super) struct Started {
    pub(super) running: Running,
    pub(super) ways: Vec<Option<Arc<Underlay>>>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) health: Health,
}

impl Common {
    /// Starts to watch the ways. Workers start when `may_start` becomes true.
    pub(super) fn new(may_start: watch::Receiver<bool>, limit: TotalLimitPlan) -> Self {
        Self {
            all_tunnels: AllTunnels::default(),
            watcher: Watcher::start(),
            links: follow_links(),
            kernel: tokio::sync::Mutex::default(),
            openings: Semaphore::new(AT_A_TIME),
            totals: Arc::new(Totals::new(limit)),
            memory: Pool::default(),
            may_start,
            said: Mutex::default(),
        }
    }

    /// What all sessions together may use, and do.
    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Memory that no session was granted, for the rings of interfaces that appear.
    pub(super) fn memory(&self) -> &Pool {
        &self.memory
    }

    /// Changes whenever a link, an address or a route of the host has.
    pub(super) fn topology(&self) -> watch::Receiver<u64> {
        self.watcher.topology()
    }

    /// Changes whenever some way has another source address than its sockets, and now and then while it has.
    pub(super) fn sources(&self) -> watch::Receiver<u64> {
        self.watcher.sources()
    }

    /// Opens everything that `plan` needs, but for what `kept` holds of an earlier run; afterwards `kept` holds what a
    /// later run may go on with.
    ///
    /// # Errors
    /// Everything that is in the way.
    pub(super) async fn open(&self, plan: &Arc<SessionPlan>, kept: &Kept) -> Result<Opened, Problems> {
        let ways = self.locate(plan).await.map_err(|problems| problems.at(&format!("session.{}", plan.name)))?;
        self.say_stacked(plan, &ways).await;
        let live = plan.destinations.iter().zip(&ways).filter(|(destination, _)| destination.live_tunnel().is_some());
        self.watcher.add(live.filter_map(|(_, way)| way.clone()));

        // Nobody closes the semaphore.
        let _turn = self.openings.acquire().await;
        // The only interface that is named is missed where it is not there. A pattern means what comes, too, and of several
        // interfaces one that is missing does not keep the others.
        let stays = matches!(&plan.source, SourcePlan::Live(live) if live.has_patterns() || live.interfaces.len() > 1);
        let mut around = Surroundings {
            all_tunnels: self.all_tunnels.clone(),
            shared: kept.take(),
            stays,
            totals: Some(Arc::clone(&self.totals)),
            errors: kept.errors.clone(),
            memory: Some(self.memory.clone()),
        };
        let (send, receive) = oneshot::channel();
        let work = {
            let (plan, ways, span) = (Arc::clone(plan), ways.clone(), tracing::Span::current());
            move || {
                let _span = span.enter();
                let send = Rc::new(send);
                let waiting = Rc::clone(&send);
                let open = || Session::open_among(&plan, &ways, &mut around);
                let opened = while_wanted(move || !waiting.is_closed(), open);
                if let Some(send) = Rc::into_inner(send) {
                    // An error means that the receiver has ended.
                    let _ = send.send((opened, around.shared));
                }
            }
        };
        let no_thread = |cause| SessionError::Resources { cause };
        thread::Builder::new().name("opening".to_owned()).spawn(work).map_err(no_thread)?;
        let Ok((opened, shared)) = receive.await else {
            return Err(no_thread(std::io::ErrorKind::Interrupted.into()).into());
        };
        kept.put(shared);
        opened.map(|session| Opened { session, ways, links: self.links.clone() })
    }

    async fn locate(&self, plan: &SessionPlan) -> Result<Vec<Option<Arc<Underlay>>>, Problems> {
        if plan.destinations.iter().all(DestinationPlan::is_local) {
            return Ok(vec![None; plan.destinations.len()]);
        }
        let kernel = self.kernel().await.map_err(UnderlayError::Netlink)?;
        let (ways, problems) = kernel.locate(&plan.destinations).await;
        Problems::unless_empty(problems).map(|()| ways)
    }

    /// Says which routes go through tunnels whose packets the session would mirror: each thing once.
    async fn say_stacked(&self, plan: &SessionPlan, ways: &[Option<Arc<Underlay>>]) {
        const MOST: usize = 1024;
        let Ok(kernel) = self.kernel().await else { return };
        let findings = stacked::at_start(&kernel, plan, ways.iter().map(Option::as_deref)).await;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() > MOST {
            said.clear();
        }
        for finding in findings {
            if said.insert(format!("{} {}", plan.name, finding.what)) {
                stacked::say(&finding);
            }
        }
    }

    /// A conversation with the kernel that knows the links as they are: one for all who come at the same moment.
    async fn kernel(&self) -> std::io::Result<Arc<Kernel>> {
        let mut known = self.kernel.lock().await;
        if let Some((_, kernel)) = known.as_ref().filter(|(asked, _)| asked.elapsed() < FRESH) {
            return Ok(Arc::clone(kernel));
        }
        let kernel = Arc::new(Kernel::ask().await?);
        *known = Some((Instant::now(), Arc::clone(&kernel)));
        Ok(kernel)
    }

    /// Waits until workers may start.
    pub(super) async fn permission(&self) {
        // When nobody can give it any more, the daemon ends.
        let _ = self.may_start.clone().wait_for(|may_start| *may_start).await;
    }
}

/// Follows the interfaces once for all sessions.
fn follow_links() -> Option<Links> {
    Links::follow(&Namespace::own()).inspect_err(|error| tracing::warn!("{error}")).ok()
}

impl Opened {
    /// Waits until the next hops have answered, for a moment at most: what is sent before waits in short queues.
    pub(super) fn next_hops(&self) -> impl Future<Output = ()> + use<> {
        let (ways, deadline) = (self.ways.clone(), Instant::now() + NEXT_HOP_PATIENCE);
        async move {
            let are_known = || ways.iter().flatten().all(|way| way.next_hop() == NextHop::Usable);
            while !are_known() && Instant::now() < deadline {
                sleep(LOOK).await;
            }
        }
    }

    /// Starts the workers: at once, or waiting for [`Running::begin_at`] or [`Running::begin`].
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub(super) fn start(self, waiting: bool) -> Result<Started, Problems> {
        let (interfaces, health) = (self.session.interfaces().to_vec(), self.session.health().clone());
        let mut running = if waiting { self.session.start_waiting() } else { self.session.start() }?;
        if let Some(links) = self.links {
            running.share_links(links);
        }
        Ok(Started { running, ways: self.ways, interfaces, health })
    }
}

impl Started {
    /// Whether the way to an analyzer has another source address than its sockets: they are to be opened anew.
    pub(super) fn is_outdated(&self) -> bool {
        self.ways.iter().flatten().any(|way| way.has_another_source())
    }

    /// What its workers show.
    pub(super) fn published(&self) -> Vec<Published> {
        self.running.published()
    }
}

impl Kept {
    /// The same handles, for a run that begins while this one goes on.
    pub(super) fn copy(&self) -> Self {
        Self { open: Arc::new(Mutex::new(self.lock().clone())), errors: self.errors.clone() }
    }

    /// Lets go of what belonged to a run of `plan` that is over.
    pub(super) fn rest(&self, plan: &SessionPlan) {
        let mut kept = self.lock();
        *kept = kept.take().map(|shared| shared.for_another_run(&plan.destinations));
    }

    /// Has from now on what `other` has.
    pub(super) fn adopt(&self, other: &Self) -> Self {
        self.put(other.take());
        self.clone()
    }

    /// Lets go of what another session, or another version of this one, could not have meanwhile.
    pub(super) fn release(&self) {
        if let Some(shared) = &mut *self.lock() {
            shared.release();
        }
    }

    fn take(&self) -> Option<Shared> {
        self.lock().take()
    }

    fn put(&self, shared: Option<Shared>) {
        *self.lock() = shared;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Shared>> {
        // Handles only, each whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
