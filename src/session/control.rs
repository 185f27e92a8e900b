//! The control plane of a session in the foreground: signals, the time limit, the view from outside.

use std::future::pending;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Outcome, Running, SessionError};
use crate::ledger::Ledger;

/// How often a running session is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a session may take to end before the operator hears why: a pipe that gives or takes nothing blocks it.
const REMINDER: Duration = Duration::from_secs(1);

/// Waits for the end of a session: its own, after `duration`, or at SIGINT or SIGTERM, each of which lets it finish
/// what it has captured. A second signal ends it at once, with the ledger as it was last published. `look`, if anybody
/// does, sees the ledger several times a second.
///
/// # Errors
/// When the runtime cannot listen for signals.
pub async fn until_end(
    mut running: Running,
    duration: Option<Duration>,
    mut look: Option<impl FnMut(&Ledger)>,
) -> std::io::Result<Outcome> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let time_is_up = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => pending().await,
        }
    };
    tokio::pin!(time_is_up);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);

    let reminder = sleep(REMINDER);
    tokio::pin!(reminder);
    let (mut stopping, mut has_reminded) = (false, false);
    loop {
        let signalled = tokio::select! {
            outcome = running.ended() => return Ok(outcome),
            _ = looks.tick(), if look.is_some() => {
                if let Some(look) = &mut look {
                    look(&running.ledger());
                }
                continue;
            }
            () = &mut reminder, if stopping && !has_reminded => {
                tracing::warn!("still waiting for a frame or a reader; a second signal ends the session at once");
                has_reminded = true;
                continue;
            }
            () = &mut time_is_up, if !stopping => false,
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
        };
        if stopping && signalled {
            return Ok(Outcome { ledger: running.ledger(), failures: vec![SessionError::Abandoned.into()] });
        }
        stopping = true;
        running.stop();
        reminder.set(sleep(REMINDER));
    }
}
