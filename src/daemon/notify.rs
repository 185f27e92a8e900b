//! What systemd is told (`sd_notify(3)`): nothing at all where nobody listens.

use std::time::Duration;

use sd_notify::NotifyState;

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

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}
