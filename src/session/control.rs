//! The control plane of a session in the foreground: signals, the time limit, the view from outside.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::signals::{Request, Signals};
use super::{Outcome, Running};
use crate::ledger::Ledger;

/// How often a running session is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a session may take to end before the operator hears why: a pipe that gives or takes nothing blocks it.
pub const REMINDER: Duration = Duration::from_secs(1);
/// How long it may take at all.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// So soon after the first, a second signal is the first one's echo: timeout(1) signals the program, then its group.
pub const ECHO: Duration = Duration::from_millis(100);

/// Waits for the end of a session: its own, after `duration`, or when a signal asks for it, each of which lets it finish
/// what it has captured. A second signal, or five seconds without an end, ends it at once
/// ([`Running::abandon`]). `look`, if anybody does, sees the ledger several times a second, and `show` whenever a signal asks for it.
pub async fn until_end(
    mut running: Running,
    signals: &mut Signals,
    duration: Option<Duration>,
    mut look: Option<impl FnMut(&Ledger)>,
    show: impl Fn(&Ledger),
) -> Outcome {
    let time_is_up = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => pending().await,
        }
    };
    tokio::pin!(time_is_up);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);

    let (reminder, limit) = (sleep(REMINDER), sleep(PATIENCE));
    tokio::pin!(reminder, limit);
    let (mut stopping_since, mut has_reminded) = (None::<Instant>, false);
    loop {
        tokio::select! {
            outcome = running.ended() => return outcome,
            _ = looks.tick(), if look.is_some() => {
                if let Some(look) = &mut look {
                    look(&running.ledger());
                }
                continue;
            }
            () = &mut reminder, if stopping_since.is_some() && !has_reminded => {
                tracing::warn!("still mirroring what was captured before, or waiting for a reader; a second signal ends the session at once");
                has_reminded = true;
                continue;
            }
            () = &mut limit, if stopping_since.is_some() => return running.abandon().await,
            () = &mut time_is_up, if stopping_since.is_none() => (),
            request = signals.next() => if request != Request::End {
                show(&running.ledger());
                continue;
            },
        }
        if let Some(since) = stopping_since {
            if since.elapsed() < ECHO {
                continue;
            }
            return running.abandon().await;
        }
        stopping_since = Some(Instant::now());
        running.stop();
        reminder.set(sleep(REMINDER));
        limit.set(sleep(PATIENCE));
    }
}
