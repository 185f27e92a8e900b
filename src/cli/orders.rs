//! `farspan reload`, `farspan pause`, `farspan resume`: orders to the daemon that runs.

use clap::Args;

use super::daemon_socket::DaemonSocket;
use super::output;
use crate::daemon::ReloadReport;
use crate::daemon::control::Command;
use crate::error::{Explain, Problems};

pub(super) const RELOAD_EXAMPLES: &str = "\
The daemon reads its configuration again, as a whole or not at all: sessions that did not change lose no frame, and a
mistake leaves everything as it was. The exit code is then that of the mistake: 78 for one in a file.";

pub(super) const PAUSE_EXAMPLES: &str = "\
The session sends what it has captured, and then captures nothing until farspan resume, or until the daemon is started
again. Its counters stay.";

/// Arguments of `farspan reload`.
#[derive(Debug, Args)]
pub struct ReloadArguments {
    #[command(flatten)]
    socket: DaemonSocket,
    /// Print what changed as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Arguments of `farspan pause` and `farspan resume`.
#[derive(Debug, Args)]
pub struct SessionOrder {
    /// The session: its name in the configuration
    session: String,
    #[command(flatten)]
    socket: DaemonSocket,
}

/// Has the daemon read its configuration again, and says what came of it.
///
/// # Errors
/// Why everything runs on as it did, or why a session that changed is not open.
pub fn reload(arguments: &ReloadArguments, quiet: bool) -> Result<(), Problems> {
    let report = arguments.socket.reload()?;
    if arguments.json {
        // Names: nothing that JSON could refuse.
        output::print_json(&serde_json::to_string(&report).unwrap_or_default())?;
    } else if !quiet {
        output::print(&told(&report))?;
    }
    let not_open = report.not_open.into_iter().map(|(session, why)| NotOpen { session, why });
    Problems::unless_empty(not_open.collect())
}

/// Pauses a session.
///
/// # Errors
/// When there is none of that name.
pub fn pause(order: SessionOrder) -> Result<(), Problems> {
    order.socket.order(&Command::Pause { session: order.session })
}

/// Lets a paused session go on.
///
/// # Errors
/// When there is none of that name.
pub fn resume(order: SessionOrder) -> Result<(), Problems> {
    order.socket.order(&Command::Resume { session: order.session })
}

/// What a reload did, a line for each kind of change.
fn told(report: &ReloadReport) -> String {
    let ReloadReport { kept, changed, added, removed, not_open: _ } = report;
    let line = |what: &str, sessions: &[String]| match sessions {
        [] => String::new(),
        sessions => format!("{what:<8} {}\n", sessions.join(", ")),
    };
    [line("kept", kept), line("changed", changed), line("added", added), line("removed", removed)].concat()
}

/// A session of the new configuration that does not run yet.
#[derive(Debug, thiserror::Error)]
#[error("session {session} is not open: {why}")]
struct NotOpen {
    session: String,
    why: String,
}

impl Explain for NotOpen {
    fn hint(&self) -> Option<String> {
        Some("the daemon tries it again by itself; farspan status shows when it runs".to_owned())
    }
}
