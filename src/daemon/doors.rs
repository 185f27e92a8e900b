//! The doors of the daemon: the page of metrics and the control socket, opened before anything is mirrored, and changed in a
//! reload like everything else, as a whole or not at all.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::control::{Answer, Command, Control};
use super::view::State;
use super::{Manager, metrics};
use crate::config::daemon::{ControlPlan, DaemonPlan, MetricsPlan};
use crate::error::{ExitCode, Explain, Problems, one_line};

/// How long whoever pauses or resumes a session waits for its new state: longer than a session takes that sends what it has.
const ORDER_PATIENCE: Duration = Duration::from_secs(6);

/// The doors as they are.
#[derive(Debug, Default)]
pub(super) struct Doors {
    metrics: Door<MetricsPlan>,
    control: Door<ControlPlan>,
}

/// One door: what was asked for, and the task that answers there. It closes when it is dropped.
#[derive(Debug, Default)]
struct Door<P> {
    plan: Option<P>,
    task: Option<JoinHandle<()>>,
}

/// Doors that are open, and behind which nobody answers yet.
#[derive(Debug, Default)]
pub(super) struct Opened {
    metrics: Option<(MetricsPlan, Option<TcpListener>)>,
    control: Option<(ControlPlan, Option<Control>)>,
}

/// The kernel does not let us listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for scrapers at {address}")]
struct CannotListen {
    address: SocketAddr,
    #[source]
    cause: io::Error,
}

impl Explain for CannotListen {
    fn place(&self) -> Option<String> {
        Some("metrics.listen".to_owned())
    }

    fn hint(&self) -> Option<String> {
        match self.cause.kind() {
            io::ErrorKind::AddrInUse => {
                Some(format!("`ss -ltnp sport = {}` shows who has the port", self.address.port()))
            }
            io::ErrorKind::AddrNotAvailable => Some("it must be an address of this host: `ip address`".to_owned()),
            io::ErrorKind::PermissionDenied => Some("ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()),
            _ => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self.cause.kind() {
            io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            _ => ExitCode::Failed,
        }
    }
}

impl Doors {
    /// Opens what `plan` wants otherwise than it is now.
    ///
    /// # Errors
    /// What cannot be opened. All doors are as they were then.
    pub(super) fn open(&mut self, plan: &DaemonPlan) -> Result<Opened, Problems> {
        let mut opened = Opened::default();
        if self.metrics.plan != Some(plan.metrics) {
            let listener = plan.metrics.listen.map(listen).transpose()?;
            opened.metrics = Some((plan.metrics, listener));
        }
        if self.control.plan.as_ref() != Some(&plan.control) {
            let path = plan.control.socket.as_deref();
            let is_mine =
                path.is_some() && self.control.plan.as_ref().is_some_and(|mine| mine.socket.as_deref() == path);
            let control = path.map(|path| open_control(path, &plan.control, is_mine)).transpose()?.flatten();
            opened.control = Some((plan.control.clone(), control));
        }
        Ok(opened)
    }

    /// Lets `manager` answer behind the doors that were `opened`, and closes those in whose place they are.
    pub(super) fn exchange(&mut self, opened: Opened, manager: &Manager) {
        let Opened { metrics, control } = opened;
        if let Some((plan, listener)) = metrics {
            let task = listener.and_then(|listener| tokio::net::TcpListener::from_std(listener).ok()).map(|listener| {
                let manager = manager.clone();
                tokio::spawn(metrics::serve(listener, move || manager.view()))
            });
            self.metrics = Door { plan: Some(plan), task };
        }
        if let Some((plan, control)) = control {
            let task = control.map(|mut control| {
                if let Err(error) = control.take_place() {
                    tracing::warn!("{}", one_line(&error));
                }
                let manager = manager.clone();
                tokio::spawn(control.serve(move |command| carry_out(manager.clone(), command)))
            });
            self.control = Door { plan: Some(plan), task };
        }
    }
}

impl<P> Drop for Door<P> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, Problems> {
    let listening = TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    let listener = listening.map_err(|cause| CannotListen { address, cause })?;
    if !address.ip().is_loopback() {
        tracing::warn!(
            "metrics: {address} is no address of this host alone, and whoever reaches it may read them; a firewall should \
             let only Prometheus in"
        );
    }
    Ok(listener)
}

/// The socket at `path`. Nobody has asked for the default one: where it cannot be had, the daemon goes on without.
fn open_control(path: &Path, plan: &ControlPlan, is_mine: bool) -> Result<Option<Control>, Problems> {
    match Control::open(path, plan, is_mine) {
        Ok(control) => Ok(Some(control)),
        Err(error) if plan.is_wanted => Err(error.into()),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            tracing::warn!("{error}{cause}; farspan status, top, reload, pause and resume will not find this daemon");
            Ok(None)
        }
    }
}

/// Does what somebody asks for at the control socket.
async fn carry_out(manager: Manager, command: Command) -> Result<Answer, Problems> {
    let done = |word: &str| Ok(Answer::Done(word.to_owned()));
    match command {
        Command::Status => Ok(Answer::View(Box::new(manager.view()))),
        Command::Reload => manager.reload().await.map(Answer::Reloaded),
        Command::Pause { session } => {
            manager.pause(&session)?;
            settle(&manager, &session, |state| state == State::Paused).await;
            done("paused")
        }
        Command::Resume { session } => {
            manager.resume(&session)?;
            settle(&manager, &session, |state| !matches!(state, State::Paused | State::Starting)).await;
            done("resumed")
        }
    }
}

/// Waits until the state of `session` is what was ordered, so that whoever looks after his order sees it.
async fn settle(manager: &Manager, session: &str, is_ordered: impl Fn(State) -> bool) {
    let mut changes = manager.changes();
    let is_settled = || {
        let view = manager.view();
        let state = view.sessions.iter().find(|one| one.name == session).map(|one| one.state);
        state.is_none_or(&is_ordered)
    };
    let settled = async { while !is_settled() && changes.changed().await.is_ok() {} };
    // Whatever it still waits for, the order stands.
    let _ = timeout(ORDER_PATIENCE, settled).await;
}
