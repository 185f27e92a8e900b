//! The daemon: every session of the configuration, kept running, changed without a gap, and shown.
//!
//! One thread, a tokio runtime: a task for each session ([`supervisor`]), one for reloads, one that watches the ways to
//! all analyzers, and [`run`], which listens to signals and to whoever asks the [`Manager`]. No frame ever meets it.

mod backoff;
pub mod control;
mod doors;
mod file_watch;
pub mod http;
mod manager;
mod memory;
pub mod metrics;
mod notify;
mod opening;
mod reload;
mod shown;
mod supervisor;
#[cfg(test)]
pub(crate) mod testing;
pub mod view;
mod visitors;

pub use manager::{IsStopping, Manager, NoSuchSession};
pub use reload::ReloadReport;

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use crate::config::daemon::DaemonPlan;
use crate::config::plan::{DestinationPlan, SessionPlan};
use crate::config::reading::{self, Reading};
use crate::error::Problems;
use crate::ledger::{DropReason, Ledger};
use crate::privilege;
use crate::privilege::needs::{Needs, largest_receive_buffer};
use crate::session::control::{ECHO, PATIENCE, REMINDER};
use crate::session::signals::{Request as Asked, Signals};
use crate::spool;
use doors::Doors;
use manager::Request;
use opening::{Common, Kept};
use supervisor::Order;

/// How long the start waits for sessions that take their time, such as for a name server.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// States change in bursts: systemd hears of them so long after the first.
const STATUS_DELAY: Duration = Duration::from_millis(200);

/// What the daemon is to run, and how it comes to know more.
pub struct Configuration {
    /// The configuration as it is now.
    pub first: Loaded,
    /// Reads it again. This may take long, or never end: it runs on a thread of its own.
    pub load: Arc<dyn Fn() -> Result<Loaded, Problems> + Send + Sync>,
    /// The file that it is read from.
    pub file: PathBuf,
}

/// A configuration that was read.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub plan: DaemonPlan,
    /// The directories that it was read from, those of symbolic links included.
    pub directories: BTreeSet<PathBuf>,
}

/// A session's account, when the daemon has ended.
#[derive(Debug)]
pub struct LastAccount {
    /// Its name.
    pub session: String,
    /// Where it sent.
    pub destinations: Vec<DestinationPlan>,
    /// What it counted under the plan that it had last.
    pub ledger: Ledger,
}

/// How the daemon has ended.
#[derive(Debug)]
pub struct End {
    /// Of every session.
    pub accounts: Vec<LastAccount>,
    /// Why they are not the whole truth, if they are not.
    pub cut_short: Option<CutShort>,
}

/// The daemon did not wait for all sessions to end: for longer than a session may take, or somebody did not want it to.
#[derive(Debug, thiserror::Error)]
#[error("ended before every session had; what those held then is not in their ledgers")]
pub struct CutShort;

impl crate::error::Explain for CutShort {}

/// Runs every session until one of `signals` asks for an end, and lets each finish what it has captured. `ready` is called
/// once all of them have been opened, or tried to be; `show` whenever a signal asks for the ledgers. A second signal ends the
/// daemon with the ledgers as they were last published.
///
/// # Errors
/// What keeps the daemon from starting: its listeners cannot be opened, or privileges cannot be given up.
pub async fn run(
    configuration: Configuration,
    signals: &mut Signals,
    ready: impl FnOnce(&Manager),
    show: impl Fn(&[LastAccount]),
) -> Result<End, Problems> {
    let Configuration { first: Loaded { plan, directories }, load, file } = configuration;
    let (may_start, permission) = watch::channel(false);
    let common = Arc::new(Common::new(permission, plan.limit));
    let (manager, requests) = Manager::new();

    let mut doors = Doors::default();
    let opened = doors.open(&plan)?;
    doors.exchange(opened, &manager);

    let opened = start_sessions(&manager, &common, &plan);
    let signalled = tokio::select! {
        // What takes its time goes on doing so.
        _ = timeout(START_PATIENCE, opened) => false,
        () = signals.end() => true,
    };
    // Everything is open that takes privileges, or has been tried; the threads that come now have what is left.
    let needs = Needs::of_daemon(&plan, &directories, largest_receive_buffer());
    let kept = Arc::new(privilege::drop(&needs, plan.privileges.sandbox)?);
    spool::renew();
    info!("privileges: {kept}");
    may_start.send_replace(true);
    // The first frames wait for next hops that the kernel does not know yet.
    if !signalled {
        let _ = timeout(START_PATIENCE, manager.settled()).await;
    }
    let read = Arc::new(move || {
        let Loaded { plan, directories } = load()?;
        let needs = Needs::of_daemon(&plan, &directories, largest_receive_buffer());
        kept.suffices_for(&needs).map(|()| plan)
    });
    let reloader = tokio::spawn(keep_reloading(manager.clone(), common, requests, doors, plan, read, file));
    if !signalled {
        notify::ready(&manager.status());
        ready(&manager);
        serve(&manager, signals, show).await;
    }

    notify::stopping();
    // Whatever a reload was opening is let go of.
    reloader.abort();
    let cut_short = stop(&manager, signals).await.err();
    Ok(End { accounts: last_accounts(&manager), cut_short })
}

/// Starts the task of each session, and returns what waits for all of them to be opened.
fn start_sessions(manager: &Manager, common: &Arc<Common>, plan: &DaemonPlan) -> impl Future<Output = ()> + use<> {
    let plans: Vec<Arc<SessionPlan>> = plan.sessions.iter().cloned().map(Arc::new).collect();
    let granted = reload::grant(plan.limit, &plans);
    let taken = granted.iter().map(|plan| plan.buffer()).sum();
    common.memory().resize(plan.limit.memory.saturating_sub(taken));
    let (entries, tried): (Vec<_>, Vec<_>) = plans
        .into_iter()
        .zip(granted)
        .map(|(plan, granted)| manager.spawn(common, plan, granted, Kept::default(), None))
        .unzip();
    *manager.sessions() = entries;
    async move { drop(join_all(tried).await) }
}

/// Does what signals ask for, and tells systemd, until one asks the daemon to end.
async fn serve(manager: &Manager, signals: &mut Signals, show: impl Fn(&[LastAccount])) {
    let mut changes = manager.changes();
    let alive_every = notify::watchdog_interval();
    let mut watchdog = interval(alive_every.unwrap_or(Duration::from_secs(1)).max(Duration::from_millis(1)));
    watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Asked::End => return,
                Asked::Reload => manager.ask_for_reload(),
                Asked::Account => show(&last_accounts(manager)),
            },
            _ = watchdog.tick(), if alive_every.is_some() => {
                if manager.is_alive() {
                    notify::alive();
                }
            }
            Ok(()) = changes.changed() => {
                sleep(STATUS_DELAY).await;
                changes.mark_unchanged();
                notify::status(&manager.status());
            }
        }
    }
}

/// Carries out one reload after the other.
async fn keep_reloading(
    manager: Manager,
    common: Arc<Common>,
    mut requests: UnboundedReceiver<Request>,
    mut doors: Doors,
    mut plan: DaemonPlan,
    load: Arc<impl Fn() -> Result<DaemonPlan, Problems> + Send + Sync + 'static>,
    file: PathBuf,
) {
    let mut late: Option<Reading<DaemonPlan>> = None;
    let watching = |plan: &DaemonPlan| -> Option<JoinHandle<()>> {
        let (manager, file) = (manager.clone(), file.clone());
        plan.reload.watch.then(|| tokio::spawn(file_watch::watch(file, move || manager.ask_for_reload())))
    };
    let mut watcher = watching(&plan);
    let mut waiting = VecDeque::new();
    while let Some(request) = next_request(&mut requests, &mut waiting).await {
        notify::reloading();
        let loaded = load_aside(&file, &load, &mut late).await;
        let outcome: Result<_, Problems> = async {
            let new = loaded?;
            let opened = doors.open(&new)?;
            let report = reload::reload(&manager, &common, &new).await?;
            doors.exchange(opened, &manager);
            if new.reload != plan.reload {
                watcher.take().inspect(JoinHandle::abort);
                watcher = watching(&new);
            }
            if new.privileges != plan.privileges || new.log != plan.log {
                warn!("what changed below [privileges] or [log] takes effect when farspan is started again");
            }
            plan = new;
            Ok(report)
        }
        .await;
        {
            let mut reloads = manager.reloads();
            match &outcome {
                Ok(_) => (reloads.succeeded, reloads.last_error) = (reloads.succeeded + 1, None),
                Err(problems) => {
                    (reloads.failed, reloads.last_error) = (reloads.failed + 1, Some(problems.in_one_line()));
                }
            }
        }
        reload::say(&outcome);
        notify::ready(&manager.status());
        if let Some(answer) = request {
            // Whoever asked may have gone.
            let _ = answer.send(outcome);
        }
    }
}

/// Waits for the next request. Those for which nobody waits, such as signals, are one: a reload that takes long must not be
/// followed by one for each signal that came meanwhile.
async fn next_request(requests: &mut UnboundedReceiver<Request>, waiting: &mut VecDeque<Request>) -> Option<Request> {
    if waiting.is_empty() {
        waiting.push_back(requests.recv().await?);
    }
    while let Ok(request) = requests.try_recv() {
        if request.is_some() || waiting.iter().all(Option::is_some) {
            waiting.push_back(request);
        }
    }
    waiting.pop_front()
}

/// Reads the configuration on a thread of its own. Of those that take too long there is one at a time.
async fn load_aside(
    file: &Path,
    load: &Arc<impl Fn() -> Result<DaemonPlan, Problems> + Send + Sync + 'static>,
    late: &mut Option<Reading<DaemonPlan>>,
) -> Result<DaemonPlan, Problems> {
    if let Some(before) = late
        && before.is_under_way()
    {
        // What it finds is older than the request.
        if let Err(problems) = before.ended().await
            && before.is_under_way()
        {
            return Err(problems);
        }
    }
    let load = Arc::clone(load);
    let reading = late.insert(reading::begin(file, move || load())?);
    let loaded = reading.ended().await;
    if !reading.is_under_way() {
        *late = None;
    }
    loaded
}

/// Ends every session, and waits until each has given its last frames their fates.
///
/// # Errors
/// When it did not wait to the end.
async fn stop(manager: &Manager, signals: &mut Signals) -> Result<(), CutShort> {
    let since = Instant::now();
    let tasks: Vec<JoinHandle<()>> = manager
        .sessions()
        .iter_mut()
        .map(|entry| {
            // A task that has ended wants no order.
            drop(entry.orders.send(Order::Stop));
            std::mem::replace(&mut entry.task, tokio::spawn(async {}))
        })
        .collect();
    let all = timeout(PATIENCE + Duration::from_secs(1), join_all(tasks));
    let reminder = async {
        sleep(REMINDER).await;
        warn!("still waiting for sessions to end; a second signal ends the daemon at once");
        pending::<Infallible>().await
    };
    let second_signal = async {
        loop {
            signals.end().await;
            // The first one's echo is no second one.
            if since.elapsed() >= ECHO {
                break;
            }
        }
    };
    tokio::select! {
        all = all => all.map(drop).map_err(|_| CutShort),
        () = second_signal => Err(CutShort),
        never = reminder => match never {},
    }
}

fn last_accounts(manager: &Manager) -> Vec<LastAccount> {
    let account = |entry: &manager::Entry| {
        let plan = entry.shown.plan();
        let mut ledger = entry.shown.ledger();
        // What waits for the reader of a pipe in a session that has not ended.
        ledger.close(DropReason::Stopping);
        LastAccount { session: plan.name.clone(), destinations: plan.destinations.clone(), ledger }
    };
    manager.sessions().iter().map(account).collect()
}
