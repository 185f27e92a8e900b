//! A reload: from the sessions that run to those of another plan, as a whole or not at all.
//!
//! What does not change does not notice. What changes is opened while the old version still runs, and takes over at a
//! moment that both know; only where both cannot be open at once (a UDP port to receive at, an AF_XDP queue, a file with
//! other rules) the old version ends before. Until the last moment everything can still be left as it was.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{Instrument, info, warn};

use super::manager::{Entry, Manager, span_of};
use super::memory;
use super::opening::{Common, Kept, Started};
use super::supervisor::{Order, Replacement, last_words};
use super::view::State;
use crate::config::change::{Changes, Claim, claims};
use crate::config::daemon::{DaemonPlan, TotalLimitPlan};
use crate::config::plan::SessionPlan;
use crate::error::{Explain, Problems};

/// How long a session may take to be opened; name servers and next hops have less.
const LONGEST_OPENING: Duration = Duration::from_secs(20);

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Sessions that go on as they were.
    pub kept: Vec<String>,
    /// Sessions that have another plan now.
    pub changed: Vec<String>,
    /// Sessions that are new.
    pub added: Vec<String>,
    /// Sessions that have ended.
    pub removed: Vec<String>,
    /// Of the changed and new ones: those that could not be opened, each with the reason. They are tried again.
    pub not_open: Vec<(String, String)>,
}

/// A session that is to run under a plan, and how far that is.
struct Coming {
    plan: Arc<SessionPlan>,
    granted: Arc<SessionPlan>,
    kept: Kept,
    /// The session that has the name now.
    before: Option<Before>,
    /// Whether it has the plan that it had, and only its buffers become smaller.
    is_same: bool,
    outcome: Option<Result<Started, Problems>>,
}

/// A session as it is before the reload.
#[derive(Clone)]
struct Before {
    plan: Arc<SessionPlan>,
    granted: Arc<SessionPlan>,
    kept: Kept,
    orders: tokio::sync::mpsc::UnboundedSender<Order>,
    /// Whether it mirrors, so that there is something to lose.
    is_running: bool,
}

/// Makes the sessions of `manager` those of `plan`.
///
/// # Errors
/// Why a session that ran could not be opened under its new plan: then everything is as it was.
pub(super) async fn reload(
    manager: &Manager,
    common: &Arc<Common>,
    plan: &DaemonPlan,
) -> Result<ReloadReport, Problems> {
    let before: Vec<Before> = manager.sessions().iter().map(Before::of).collect();
    let changes = Changes::between(before.iter().map(|one| &*one.plan), plan.sessions.iter());
    let mut coming = coming(plan, &before, &changes, common.memory().lent());
    let granted = granted(&before, &changes, &coming);

    // Whoever leaves or changes holds what it has until it is told to let go.
    let goes_on = |one: &&Before| {
        changes.kept.contains(&one.plan.name) && coming.iter().all(|other| other.plan.name != one.plan.name)
    };
    let leaving: Vec<&Before> = before.iter().filter(|one| !goes_on(one)).collect();
    let is_early = |one: &&mut Coming| !leaving.iter().any(|holder| one.is_kept_out_by(holder));
    open_all(common, coming.iter_mut().filter(is_early).collect()).await;
    give_up_if_any_failed(&coming)?;

    let is_late = |one: &Coming| one.outcome.is_none();
    if coming.iter().any(is_late) {
        let holders: Vec<&Before> = leaving
            .iter()
            .copied()
            .filter(|holder| coming.iter().filter(|one| is_late(one)).any(|one| one.is_kept_out_by(holder)))
            .collect();
        // One that is kept from ending holds what it has, and the sessions that need it fail.
        let _ = timeout(LONGEST_OPENING, join_all(holders.iter().map(|holder| holder.free()))).await;
        open_all(common, coming.iter_mut().filter(|one| is_late(one)).collect()).await;
        if let Err(problems) = give_up_if_any_failed(&coming) {
            // What they have open is what the others need again.
            let opened = coming.iter_mut().filter_map(|one| one.outcome.as_mut()?.as_mut().ok());
            join_all(opened.map(|started| {
                started.running.stop();
                last_words(started)
            }))
            .await;
            drop(coming);
            for holder in holders {
                holder.go_on_as_before();
            }
            return Err(problems);
        }
    }
    let order: Vec<&str> = plan.sessions.iter().map(|plan| plan.name.as_str()).collect();
    let report = carry_out(manager, common, changes, coming, &order);
    common.totals().replace(plan.limit);
    common.memory().resize(plan.limit.memory.saturating_sub(granted));
    Ok(report)
}

/// The sessions that are new or have another plan, each with the buffers that it gets: what is left by those that go on. Where
/// those hold more than all may have now, everybody gets another share, and who gets a smaller one is opened anew.
/// `borrowed` is what sessions have beyond their buffers.
fn coming(plan: &DaemonPlan, before: &[Before], changes: &Changes, borrowed: u64) -> Vec<Coming> {
    let is_kept = |name: &str| changes.kept.iter().any(|kept| kept == name);
    let kept = before.iter().filter(|one| is_kept(&one.plan.name));
    let taken: u64 = kept.map(|one| one.granted.buffer()).sum();
    let is_too_much = taken > plan.limit.memory;
    let plans = plan.sessions.iter().filter(|plan| is_too_much || !is_kept(&plan.name));
    let plans: Vec<Arc<SessionPlan>> = plans.map(|plan| Arc::new(plan.clone())).collect();
    let left = if is_too_much { plan.limit.memory } else { (plan.limit.memory - taken).saturating_sub(borrowed) };
    let granted = grant(TotalLimitPlan { memory: left, ..plan.limit }, &plans);
    let one = |(plan, granted): (Arc<SessionPlan>, Arc<SessionPlan>)| {
        let before = before.iter().find(|one| one.plan.name == plan.name).cloned();
        let is_same = is_kept(&plan.name);
        if is_same && before.as_ref().is_some_and(|before| before.granted.buffer() <= granted.buffer()) {
            return None;
        }
        let kept = before.as_ref().map(|before| before.kept.copy()).unwrap_or_default();
        Some(Coming { plan, granted, kept, before, is_same, outcome: None })
    };
    plans.into_iter().zip(granted).filter_map(one).collect()
}

/// Bytes of the buffers that all sessions have when `coming` has been carried out.
fn granted(before: &[Before], changes: &Changes, coming: &[Coming]) -> u64 {
    let is_kept = |one: &&Before| {
        let name = &one.plan.name;
        changes.kept.contains(name) && coming.iter().all(|other| other.plan.name != *name)
    };
    let kept = before.iter().filter(is_kept).map(|one| one.granted.buffer());
    kept.chain(coming.iter().map(|one| one.granted.buffer())).sum()
}

/// The plans with the buffers that `limit` lets them have.
pub(super) fn grant(limit: TotalLimitPlan, plans: &[Arc<SessionPlan>]) -> Vec<Arc<SessionPlan>> {
    let wanted: Vec<_> = plans.iter().map(|plan| (plan.buffer(), plan.least_buffer())).collect();
    let shares = memory::shares(limit.memory, &wanted);
    let reduced = shares.iter().zip(&wanted).filter(|(share, (wanted, _))| *share < wanted).count();
    if reduced > 0 {
        let memory = bytesize::ByteSize::b(limit.memory);
        info!("{reduced} sessions get smaller capture buffers than they ask for: [limit] memory leaves them {memory}");
    }
    let granted = |(plan, share): (&Arc<SessionPlan>, u64)| match plan.buffer() {
        wanted if wanted == share => Arc::clone(plan),
        _ => Arc::new(SessionPlan::clone(plan).with_buffer(share)),
    };
    plans.iter().zip(shares).map(granted).collect()
}

/// Opens sessions, all at once; their workers wait for their moment.
async fn open_all(common: &Arc<Common>, coming: Vec<&mut Coming>) {
    join_all(coming.into_iter().map(|one| async {
        let span = span_of(&one.plan);
        let opened = async {
            let opened = common.open(&one.granted, &one.kept).await?;
            opened.next_hops().await;
            opened.start(true)
        };
        let in_time = timeout(LONGEST_OPENING, opened.instrument(span)).await;
        one.outcome = Some(in_time.unwrap_or_else(|_| {
            // Whatever still opens it has taken what was kept.
            one.kept = one.before.as_ref().map(|before| before.kept.copy()).unwrap_or_default();
            Err(NotInTime.into())
        }));
    }))
    .await;
}

/// A session that runs is not given up for one that cannot be opened.
fn give_up_if_any_failed(coming: &[Coming]) -> Result<(), Problems> {
    let words =
        coming.iter().filter(|one| one.before.as_ref().is_some_and(|before| before.is_running)).filter_map(|one| {
            let problems = one.outcome.as_ref()?.as_ref().err()?;
            Some(CannotChange { session: one.plan.name.clone(), why: problems.in_one_line() }.into())
        });
    Problems::unless_empty(words.collect::<Vec<Box<dyn Explain>>>())
}

/// Nothing is in the way any more. `order` is that of the configuration.
fn carry_out(
    manager: &Manager,
    common: &Arc<Common>,
    changes: Changes,
    coming: Vec<Coming>,
    order: &[&str],
) -> ReloadReport {
    let Changes { kept, changed, added, removed } = changes;
    let mut report = ReloadReport { kept, changed, added, removed, not_open: Vec::new() };
    let mut sessions = manager.sessions();
    for Coming { plan, granted, kept, before, is_same, outcome } in coming {
        let started = match outcome {
            Some(Ok(started)) => Some(started),
            Some(Err(problems)) => {
                report.not_open.push((plan.name.clone(), problems.in_one_line()));
                None
            }
            None => None,
        };
        match sessions.iter_mut().find(|entry| entry.plan.name == plan.name).filter(|_| before.is_some()) {
            Some(entry) => {
                (entry.plan, entry.granted, entry.kept) = (Arc::clone(&plan), Arc::clone(&granted), kept.clone());
                let replacement = Replacement { plan, granted, started, kept, is_same };
                drop(entry.orders.send(Order::Replace(replacement)));
            }
            None => sessions.push(manager.spawn(common, plan, granted, kept, started).0),
        }
    }
    let gone = |entry: &mut Entry| report.removed.contains(&entry.plan.name);
    for entry in sessions.extract_if(.., gone) {
        drop(entry.orders.send(Order::Stop));
        // Nobody will ask for its account any more.
        tokio::spawn(async move {
            let _ = entry.task.await;
            info!("session {} has ended: {}", entry.plan.name, entry.shown.ledger().to_json());
        });
    }
    sessions.sort_by_key(|entry| order.iter().position(|name| *name == entry.plan.name));
    report
}

impl Before {
    fn of(entry: &Entry) -> Self {
        Self {
            plan: Arc::clone(&entry.plan),
            granted: Arc::clone(&entry.granted),
            kept: entry.kept.clone(),
            orders: entry.orders.clone(),
            is_running: entry.shown.state() == State::Running,
        }
    }

    /// Makes it let go of everything.
    async fn free(&self) {
        let (freed, is_free) = oneshot::channel();
        drop(self.orders.send(Order::Free(freed)));
        // A task that has ended has let go, too.
        let _ = is_free.await;
    }

    /// Lets it go on under the plan that it had.
    fn go_on_as_before(&self) {
        let (plan, granted, kept) = (Arc::clone(&self.plan), Arc::clone(&self.granted), self.kept.clone());
        drop(self.orders.send(Order::Replace(Replacement { plan, granted, started: None, kept, is_same: true })));
    }
}

impl Coming {
    /// Whether it cannot be opened while `holder` is open.
    fn is_kept_out_by(&self, holder: &Before) -> bool {
        let own =
            self.before.as_ref().filter(|before| before.plan.name == holder.plan.name).map(|before| &*before.plan);
        let held = claims(&holder.plan, None);
        claims(&self.plan, own).iter().any(|claim: &Claim| held.iter().any(|held| claim.contests(held)))
    }
}

/// Something keeps a session from being opened or not, and it would keep a reload from its end.
#[derive(Debug, thiserror::Error)]
#[error("it was not open within {} s: something keeps it, such as a pipe that nobody writes", LONGEST_OPENING.as_secs())]
struct NotInTime;

impl Explain for NotInTime {}

/// Why a session keeps its old plan, and with it all the others.
#[derive(Debug, thiserror::Error)]
#[error("the session {session} could not be opened under its new plan: {why}")]
struct CannotChange {
    session: String,
    why: String,
}

impl Explain for CannotChange {
    fn hint(&self) -> Option<String> {
        Some("everything runs on as it did".to_owned())
    }
}

/// Says what a reload came to.
pub(super) fn say(outcome: &Result<ReloadReport, Problems>) {
    match outcome {
        Ok(report) => {
            let count = |what: &str, list: &[String]| (!list.is_empty()).then(|| format!("{what} {}", list.join(", ")));
            let told: Vec<String> =
                [count("changed", &report.changed), count("added", &report.added), count("removed", &report.removed)]
                    .into_iter()
                    .flatten()
                    .collect();
            let told = if told.is_empty() { "nothing changed".to_owned() } else { told.join("; ") };
            let (kept, plural) = (report.kept.len(), if report.kept.len() == 1 { "" } else { "s" });
            info!("reloaded: {told}; {kept} session{plural} went on");
            for (session, why) in &report.not_open {
                warn!("session {session} is not open yet: {why}");
            }
        }
        Err(problems) => warn!("not reloaded, everything runs on as it did: {}", problems.in_one_line()),
    }
}
