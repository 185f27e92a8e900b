//! The handle on the daemon: what everybody outside its sessions may see of it and ask of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::opening::{Common, Kept, Started};
use super::reload::ReloadReport;
use super::shown::Shown;
use super::supervisor::{Order, Supervisor};
use super::view::{Reloads, State, View};
use crate::config::plan::SessionPlan;
use crate::error::{Explain, Problems};

/// The daemon, as others see it. A clone is another handle on the same one.
#[derive(Clone, Debug)]
pub struct Manager(Arc<Managed>);

#[derive(Debug)]
struct Managed {
    started: (SystemTime, Instant),
    sessions: Mutex<Vec<Entry>>,
    reloads: Mutex<Reloads>,
    requests: UnboundedSender<Request>,
    /// Rises with every change of any session's state.
    changes: watch::Sender<u64>,
}

/// A wish to have the configuration read again; the answer goes to whoever waits for one.
pub(super) type Request = Option<oneshot::Sender<Result<ReloadReport, Problems>>>;

/// One session, as the manager knows it.
#[derive(Debug)]
pub(super) struct Entry {
    /// What was configured.
    pub(super) plan: Arc<SessionPlan>,
    /// The same with the buffers that it was given.
    pub(super) granted: Arc<SessionPlan>,
    pub(super) shown: Shown,
    pub(super) kept: Kept,
    pub(super) orders: UnboundedSender<Order>,
    pub(super) task: JoinHandle<()>,
}

/// Somebody asked something of a session that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no session `{name}`")]
pub struct NoSuchSession {
    /// The name.
    pub name: String,
    /// The sessions that are there.
    pub sessions: Vec<String>,
}

impl Explain for NoSuchSession {
    fn hint(&self) -> Option<String> {
        Some(format!("there are {}", self.sessions.join(", ")))
    }
}

/// The daemon is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct IsStopping;

impl Explain for IsStopping {}

impl Manager {
    /// A daemon without sessions, and the requests that it gets.
    pub(super) fn new() -> (Self, UnboundedReceiver<Request>) {
        let (requests, receive) = unbounded_channel();
        let managed = Managed {
            started: (SystemTime::now(), Instant::now()),
            sessions: Mutex::default(),
            reloads: Mutex::default(),
            requests,
            changes: watch::channel(0).0,
        };
        (Self(Arc::new(managed)), receive)
    }

    /// The daemon at this moment.
    pub fn view(&self) -> View {
        let (started, since) = self.0.started;
        View {
            version: env!("CARGO_PKG_VERSION").into(),
            started,
            uptime: since.elapsed(),
            reloads: self.reloads().clone(),
            sessions: self.sessions().iter().map(|entry| entry.shown.view()).collect(),
        }
    }

    /// Reads the configuration again and carries it out, as a whole or not at all.
    ///
    /// # Errors
    /// Why everything stays as it was.
    pub async fn reload(&self) -> Result<ReloadReport, Problems> {
        let (answer, receive) = oneshot::channel();
        self.0.requests.send(Some(answer)).map_err(|_| IsStopping)?;
        receive.await.map_err(|_| IsStopping)?
    }

    /// The same for whoever waits for no answer: the log has it.
    pub fn ask_for_reload(&self) {
        // A daemon that is stopping has no use for it.
        let _ = self.0.requests.send(None);
    }

    /// Lets `session` finish what it has captured, and then do nothing until it is resumed.
    ///
    /// # Errors
    /// When there is no session of that name.
    pub fn pause(&self, session: &str) -> Result<(), NoSuchSession> {
        self.order(session, Order::Pause)
    }

    /// Lets a paused `session` go on. One that is not paused is tried again at once if it waits for that.
    ///
    /// # Errors
    /// When there is no session of that name.
    pub fn resume(&self, session: &str) -> Result<(), NoSuchSession> {
        self.order(session, Order::Resume)
    }

    /// Changes whenever the state of a session has.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Waits until no session is starting.
    pub(super) async fn settled(&self) {
        let mut changes = self.changes();
        while self.sessions().iter().any(|entry| entry.shown.state() == State::Starting) {
            // The manager itself keeps the sender.
            let _ = changes.changed().await;
        }
    }

    fn order(&self, session: &str, order: Order) -> Result<(), NoSuchSession> {
        let sessions = self.sessions();
        let Some(entry) = sessions.iter().find(|entry| entry.plan.name == session) else {
            let sessions = sessions.iter().map(|entry| entry.plan.name.clone()).collect();
            return Err(NoSuchSession { name: session.to_owned(), sessions });
        };
        // Its task only ends with the daemon, or with the session.
        drop(entry.orders.send(order));
        Ok(())
    }

    /// Starts the task of a session. What it was `started` with already waits for its moment.
    pub(super) fn spawn(
        &self,
        common: &Arc<Common>,
        plan: Arc<SessionPlan>,
        granted: Arc<SessionPlan>,
        kept: Kept,
        started: Option<Started>,
    ) -> (Entry, oneshot::Receiver<()>) {
        let (orders, receive) = unbounded_channel();
        let (tried, has_tried) = oneshot::channel();
        let shown = Shown::new(Arc::clone(&plan), kept.errors.clone(), self.0.changes.clone());
        let supervisor =
            Supervisor::new(Arc::clone(common), shown.clone(), Arc::clone(&granted), kept.clone(), receive);
        let span = span_of(&plan);
        let task = tokio::spawn(supervisor.supervise(tried, started).instrument(span));
        (Entry { plan, granted, shown, kept, orders, task }, has_tried)
    }

    /// The sessions. Whoever has them lets go of them before waiting for anything.
    pub(super) fn sessions(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Entries are whole.
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reloads(&self) -> MutexGuard<'_, Reloads> {
        self.0.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every worker of every session is at work.
    pub(super) fn is_alive(&self) -> bool {
        let now = Instant::now();
        // Each is looked at, so that each is known to have been.
        self.sessions().iter().filter(|entry| !entry.shown.is_alive(now)).count() == 0
    }

    /// The sessions in a few words: for systemd, and whoever reads `systemctl status`.
    pub fn status(&self) -> String {
        let sessions = self.sessions();
        let states: Vec<State> = sessions.iter().map(|entry| entry.shown.state()).collect();
        let of = |label: &str| states.iter().filter(|state| state.label() == label).count();
        let counted = State::LABELS.map(|label| (label, of(label)));
        let told: Vec<String> =
            counted.iter().filter(|(_, count)| *count > 0).map(|(label, count)| format!("{count} {label}")).collect();
        let sessions = if states.len() == 1 { "session" } else { "sessions" };
        format!("{} {sessions}: {}", states.len(), told.join(", "))
    }
}

/// Every log line about a session says so: as text `in{session="dmz"}`, in the journal `FARSPAN_SESSION=dmz`.
pub(super) fn span_of(plan: &SessionPlan) -> tracing::Span {
    tracing::error_span!("in", session = plan.name)
}
