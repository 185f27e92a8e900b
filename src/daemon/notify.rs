//! What systemd is told (`sd_notify(3)`): nothing at all where nobody listens.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::spool::{Content, Sink, Spool};

/// The variable that names the service manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Everything runs, or is being tried again.
pub(super) fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] ends that.
pub(super) fn reloading() {
    // Without the time systemd would take the reload for one that began before it asked (`Type=notify-reload`).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("systemd is not told of the reload: {error}"),
    }
}

/// Nothing new is begun, and what is under way is finished.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// What the sessions are doing.
pub(super) fn status(status: &str) {
    say(&[NotifyState::Status(status)]);
}

/// The control plane and every worker are alive.
pub(super) fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be said, if systemd waits for it: twice in the time that it allows.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|allowed| allowed / 2)
}

/// Puts a message into the queue of a thread: a service manager that takes nothing must not keep the control plane.
fn say(states: &[NotifyState<'_>]) {
    static SPOOL: LazyLock<Option<Spool>> = LazyLock::new(|| {
        std::env::var_os(SOCKET)?;
        Some(Spool::start("notify", Content::Notices, ServiceManager))
    });
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    if let Some(spool) = &*SPOOL {
        spool.offer(lines.join("\n").into_bytes());
    }
}

/// The socket that `NOTIFY_SOCKET` names.
struct ServiceManager;

impl Sink for ServiceManager {
    fn write(&mut self, message: &[u8], _progress: &mut dyn FnMut()) -> io::Result<()> {
        let message = String::from_utf8_lossy(message);
        if message.is_empty() {
            return Ok(());
        }
        let told = sd_notify::notify(&[NotifyState::Custom(&message)]);
        told.inspect_err(|error| tracing::debug!("systemd cannot be told: {error}"))
    }
}
