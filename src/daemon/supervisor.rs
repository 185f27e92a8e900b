//! One session of the daemon: opened, run, opened again after it failed, until somebody wants something else of it.
//!
//! Each session has a task of its own, so that none waits for another one's analyzer, name server or disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::opening::{Common, Kept, Opened, Started};
use super::shown::Shown;
use super::view::State;
use crate::config::change::claims;
use crate::config::plan::SessionPlan;
use crate::error::{Explain, Problems};
use crate::kernel::lookup::{Moved, moved};
use crate::quantity::Timestamp;
use crate::repeated::Repeated;
use crate::session::Outcome;
use crate::session::control::PATIENCE;

/// Links and routes change in bursts: a session that waits is tried again so long after the first change.
const SETTLE: Duration = Duration::from_millis(50);
/// However often they change, it is not tried more often than this.
const LEAST_WAIT: Duration = Duration::from_millis(500);
/// How far ahead the moment is at which one run ends and another begins: longer than any turn of a worker.
const AHEAD: Duration = Duration::from_millis(5);
/// So long a session's tunnels stay known after it ended: what it sent last may still be on its way back.
const TUNNELS_LINGER: Duration = Duration::from_secs(2);

/// What a session can be asked for.
#[allow(clippy::large_enum_variant, reason = "an order comes once in a while")]
pub(super) enum Order {
    /// To end what it has under way, and to wait.
    Pause,
    /// To go on after that.
    Resume,
    /// To free everything that it has open, to say so, and to wait for what comes next.
    Free(oneshot::Sender<()>),
    /// To go on under another plan.
    Replace(Replacement),
    /// To end.
    Stop,
}

/// The plan that a session gets in a reload.
pub(super) struct Replacement {
    /// The plan.
    pub(super) plan: Arc<SessionPlan>,
    /// What of it the session opens: the same with the buffers that it is given.
    pub(super) granted: Arc<SessionPlan>,
    /// What was opened for it already, and waits for its moment.
    pub(super) started: Option<Started>,
    /// What a later run of it can go on with.
    pub(super) kept: Kept,
    /// Whether the counters go on, because it is the plan that the session had.
    pub(super) is_same: bool,
}

/// One session's task.
pub(super) struct Supervisor {
    common: Arc<Common>,
    shown: Shown,
    granted: Arc<SessionPlan>,
    kept: Kept,
    orders: UnboundedReceiver<Order>,
    backoff: Backoff,
    /// What it failed with last.
    trouble: Repeated,
    is_paused: bool,
}

/// What comes next.
#[allow(clippy::large_enum_variant, reason = "a session has one at a time")]
enum Next {
    Open,
    Start(Opened),
    Run(Started),
    Retry(Duration),
    /// Nothing, until an order comes.
    Rest(State),
    End,
}

/// Why a run has ended, or is to end.
#[allow(clippy::large_enum_variant, reason = "a run has one end")]
enum Ended {
    /// By itself.
    ByItself(Outcome),
    /// For what is asked of the session; a closed channel means that the daemon ends.
    Asked(Option<Order>),
    /// For another run of the session, which was opened beside it.
    Followed(Replacement),
    /// For another run of the session, which cannot be opened before: what this one holds may be what that one needs.
    InTheWay,
}

impl Supervisor {
    pub(super) fn new(
        common: Arc<Common>,
        shown: Shown,
        granted: Arc<SessionPlan>,
        kept: Kept,
        orders: UnboundedReceiver<Order>,
    ) -> Self {
        let (backoff, trouble) = (Backoff::new(), Repeated::default());
        Self { common, shown, granted, kept, orders, backoff, trouble, is_paused: false }
    }

    /// Keeps the session going until it is told to end. `tried` hears when it was opened for the first time, or could not
    /// be.
    pub(super) async fn supervise(mut self, tried: oneshot::Sender<()>, started: Option<Started>) {
        let mut tried = Some(tried);
        let mut next = match started {
            Some(started) => {
                started.running.begin();
                Next::Run(started)
            }
            None => Next::Open,
        };
        loop {
            next = match next {
                Next::Open => {
                    let opened = self.open().await;
                    // Nobody may be waiting for it.
                    tried.take().map(|tried| tried.send(()));
                    opened
                }
                Next::Start(opened) => self.start(opened).await,
                Next::Run(started) => self.run(started).await,
                Next::Retry(wait) => self.wait(wait).await,
                Next::Rest(state) => self.rest(state).await,
                Next::End => break,
            };
        }
    }

    async fn open(&mut self) -> Next {
        self.shown.set_state(State::Starting);
        let (common, granted, kept) = (Arc::clone(&self.common), Arc::clone(&self.granted), self.kept.clone());
        let opening = common.open(&granted, &kept);
        tokio::pin!(opening);
        let mut ordered = None;
        let opened = loop {
            tokio::select! {
                opened = &mut opening => break opened,
                order = self.orders.recv(), if ordered.is_none() => match order {
                    // What keeps the opening, such as a pipe or a disk, keeps nobody else.
                    Some(Order::Stop) | None => return Next::End,
                    Some(order) => ordered = Some(order),
                },
            }
        };
        match (opened, ordered) {
            (_, Some(order)) if !matches!(order, Order::Resume) => self.obey(Some(order)),
            (Ok(opened), _) => Next::Start(opened),
            (Err(problems), _) => self.fail(problems.iter(), Duration::ZERO),
        }
    }

    async fn start(&mut self, opened: Opened) -> Next {
        self.common.permission().await;
        tokio::select! {
            () = opened.next_hops() => {}
            order = self.orders.recv() => return self.obey(order),
        }
        match opened.start(false) {
            Ok(started) => Next::Run(started),
            Err(problems) => self.fail(problems.iter(), Duration::ZERO),
        }
    }

    async fn run(&mut self, mut started: Started) -> Next {
        let since = Instant::now();
        started.running.govern();
        self.shown.set_governor(started.running.governor());
        self.shown.set_running(started.published(), &started.interfaces, started.ways.clone(), &started.health);
        self.shown.set_refused_for_room(started.running.refused_for_room());
        match self.until_order(&mut started).await {
            Ended::ByItself(outcome) => {
                self.end_run(&mut started, &outcome);
                self.ended(&outcome, since.elapsed())
            }
            Ended::Asked(order) => self.hand_over(started, order, false).await,
            Ended::Followed(replacement) => self.hand_over(started, Some(Order::Replace(replacement)), true).await,
            Ended::InTheWay => self.begin_again(started).await,
        }
    }

    /// Follows what changes around a run until it ends, or is to end.
    async fn until_order(&mut self, started: &mut Started) -> Ended {
        let (mut limits, mut sources) = (self.common.totals().changes(), self.common.sources());
        let mut interfaces = started.running.interfaces();
        // What has changed until now is seen now.
        interfaces.mark_changed();
        sources.mark_changed();
        let (granted, ways) = (Arc::clone(&self.granted), started.ways.clone());
        let look_up = moved(&granted.destinations, &ways);
        tokio::pin!(look_up);
        // A file that is replayed would be replayed again from its beginning.
        let is_live = granted.source.file().is_none();
        loop {
            tokio::select! {
                outcome = started.running.ended() => return Ended::ByItself(outcome),
                order = self.orders.recv() => return Ended::Asked(order),
                Ok(()) = limits.changed() => {
                    if started.running.govern() {
                        self.shown.set_governor(started.running.governor());
                    }
                }
                Ok(()) = interfaces.changed() => self.shown.set_interfaces(&interfaces.borrow_and_update()),
                Ok(()) = sources.changed(), if is_live => {
                    if started.is_outdated() && let Some(ended) = self.follow_source().await {
                        return ended;
                    }
                }
                at = &mut look_up, if is_live => match self.follow(&at).await {
                    Some(replacement) => return Ended::Followed(replacement),
                    None => look_up.set(moved(&granted.destinations, &ways)),
                },
            }
        }
    }

    /// Ends a run for what is asked of the session, and does that. `is_beside` where it is to make room for another run of
    /// the session that was opened beside it.
    async fn hand_over(&mut self, mut started: Started, mut order: Option<Order>, is_beside: bool) -> Next {
        let is_followed = match &order {
            // It runs already.
            Some(Order::Resume) => return Next::Run(started),
            Some(Order::Replace(Replacement { started: Some(next), .. })) => {
                let moment = ahead();
                next.running.begin_at(moment);
                started.running.stop_at(moment);
                true
            }
            _ => {
                started.running.stop();
                false
            }
        };
        self.shown.set_state(State::Stopping);
        let outcome = self.last_account(&mut started).await;
        // The run that follows would show them as its own.
        if !is_followed && !outcome.failures.is_empty() {
            self.shown.note_failures(outcome.failures.iter().map(|failure| &**failure));
        }
        if let Some(Order::Replace(replacement)) = &mut order
            && is_beside
        {
            // Whoever reloads knows what the session has open by the handle that it had before.
            replacement.kept = self.kept.adopt(&replacement.kept);
        }
        self.obey(order)
    }

    /// Ends a run and opens the session anew.
    async fn begin_again(&mut self, mut started: Started) -> Next {
        self.shown.count_restart();
        started.running.stop();
        self.last_account(&mut started).await;
        Next::Open
    }

    /// Opens another run of the session beside the one that goes on.
    async fn open_beside(&self) -> Result<Replacement, Problems> {
        let kept = self.kept.copy();
        let opened = self.common.open(&self.granted, &kept).await?;
        opened.next_hops().await;
        let started = opened.start(true)?;
        let (plan, granted) = (self.shown.plan(), Arc::clone(&self.granted));
        Ok(Replacement { plan, granted, started: Some(started), kept, is_same: true })
    }

    /// Opens the session anew, because the way to an analyzer has another source address than its sockets. `None` where
    /// that cannot be, which is said.
    async fn follow_source(&mut self) -> Option<Ended> {
        match self.open_beside().await {
            Ok(replacement) => {
                info!("the way to an analyzer has another source address: the session is opened anew");
                Some(Ended::Followed(replacement))
            }
            Err(_) if !claims(&self.granted, Some(&self.granted)).is_empty() => {
                info!("the way to an analyzer has another source address: the session ends, to be opened anew");
                Some(Ended::InTheWay)
            }
            Err(problems) => {
                self.stay(&problems);
                None
            }
        }
    }

    /// Opens the session anew, because an analyzer's name stands for another address; the run that goes on meanwhile ends
    /// at the moment at which the other begins. `None` where that cannot be, which is said.
    async fn follow(&self, Moved { destination, from, to }: &Moved) -> Option<Replacement> {
        match self.open_beside().await {
            Ok(replacement) => {
                info!("{destination}: its name stands for {to} now; frames went to {from}");
                Some(replacement)
            }
            Err(problems) => {
                warn!(
                    "{destination}: its name stands for {to} now, but frames still go to {from}: {}",
                    problems.in_one_line()
                );
                None
            }
        }
    }

    /// Says that a run goes on although another should have taken its place.
    fn stay(&mut self, problems: &Problems) {
        let words = problems.in_one_line();
        if self.trouble.note(&words, Instant::now()).is_some() {
            warn!("the way to an analyzer has another source address, but the session goes on as it is: {words}");
        }
    }

    /// Waits until a run that was asked to end is over, and takes its account.
    async fn last_account(&self, started: &mut Started) -> Outcome {
        let outcome = last_words(started).await;
        self.end_run(started, &outcome);
        outcome
    }

    /// Takes the account of a run that is over.
    fn end_run(&self, started: &mut Started, outcome: &Outcome) {
        self.shown.add_run(outcome.ledger.clone());
        self.kept.rest(&self.granted);
        if let Some(tunnels) = started.running.take_tunnels() {
            tokio::spawn(async move {
                sleep(TUNNELS_LINGER).await;
                drop(tunnels);
            });
        }
    }

    /// What comes after a run that ended by itself.
    fn ended(&mut self, outcome: &Outcome, ran: Duration) -> Next {
        if !outcome.failures.is_empty() {
            return self.fail(outcome.failures.iter().map(|failure| &**failure), ran);
        }
        if self.granted.source.file().is_some() {
            info!("the capture file has ended");
            return Next::Rest(State::Ended);
        }
        self.fail(std::iter::once(&EndedUnasked as &dyn Explain), ran)
    }

    /// Takes note of a failure, and says when the session is tried again.
    fn fail<'a>(&mut self, problems: impl Iterator<Item = &'a dyn Explain>, ran: Duration) -> Next {
        let words = self.shown.note_failures(problems);
        let wait = self.backoff.next(ran);
        match self.trouble.note(&words, Instant::now()) {
            Some(0) => warn!("{words}; trying again in {} s and whenever a link or route changes", wait.as_secs()),
            Some(times) => warn!("{words}; it failed {times} more times since that was last said"),
            None => {}
        }
        Next::Retry(wait)
    }

    /// Waits until it is time to try again.
    async fn wait(&mut self, wait: Duration) -> Next {
        self.shown.set_state(State::Retrying { after: wait });
        let mut topology = self.common.topology();
        topology.mark_unchanged();
        let begun = Instant::now();
        tokio::select! {
            () = sleep(wait) => {}
            changed = topology.changed() => {
                if changed.is_err() {
                    return Next::End;
                }
                sleep(SETTLE.max(LEAST_WAIT.saturating_sub(begun.elapsed()))).await;
            }
            order = self.orders.recv() => return self.obey(order),
        }
        self.shown.count_restart();
        Next::Open
    }

    /// Waits for an order.
    async fn rest(&mut self, state: State) -> Next {
        self.shown.set_state(state);
        match self.orders.recv().await {
            // One that replays no file any more does not begin it anew because somebody resumes it.
            Some(Order::Resume) if !self.is_paused => Next::Rest(state),
            order => self.obey(order),
        }
    }

    /// Does what is asked of a session that has nothing under way; a closed channel means that the daemon ends.
    fn obey(&mut self, order: Option<Order>) -> Next {
        match order {
            Some(Order::Pause) => {
                info!("paused");
                self.is_paused = true;
                Next::Rest(State::Paused)
            }
            Some(Order::Resume) => {
                if self.is_paused {
                    info!("resumed");
                }
                self.is_paused = false;
                Next::Open
            }
            Some(Order::Free(freed)) => {
                self.kept.release();
                // Whoever asked may have given up.
                let _ = freed.send(());
                Next::Rest(if self.is_paused { State::Paused } else { State::Starting })
            }
            Some(Order::Replace(Replacement { plan, granted, started, kept, is_same })) => {
                if !is_same {
                    info!("the account under the former plan: {}", self.shown.ledger().to_json());
                    self.shown.begin_anew(plan);
                }
                (self.granted, self.kept) = (granted, kept);
                (self.backoff, self.trouble) = (Backoff::new(), Repeated::default());
                match started {
                    _ if self.is_paused => Next::Rest(State::Paused),
                    Some(started) => {
                        // An earlier run has ended for it, or there was none.
                        started.running.begin();
                        Next::Run(started)
                    }
                    None => Next::Open,
                }
            }
            Some(Order::Stop) | None => Next::End,
        }
    }
}

/// The last words of a session that was asked to end. A pipe that gives or takes nothing may keep it from that.
pub(super) async fn last_words(started: &mut Started) -> Outcome {
    match timeout(PATIENCE, started.running.ended()).await {
        Ok(outcome) => outcome,
        Err(_) => started.running.abandon().await,
    }
}

/// A moment that no worker is past yet.
fn ahead() -> Timestamp {
    Timestamp::from_nanos(Timestamp::now().nanos().saturating_add(u64::try_from(AHEAD.as_nanos()).unwrap_or(0)))
}

/// A live session whose workers ended although nothing failed.
#[derive(Debug, thiserror::Error)]
#[error("no destination takes frames any more: whoever read them has ended")]
struct EndedUnasked;

impl Explain for EndedUnasked {}
