//! How far a replay is, for somebody who watches: on a terminal only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::plan::{SessionPlan, SourcePlan};
use crate::ledger::Ledger;

/// A line on the terminal that follows a replay; it disappears when dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts the line when `plan` replays a file and standard error is a terminal.
    pub fn of(plan: &SessionPlan, quiet: bool) -> Option<Self> {
        let replays = matches!(plan.source, SourcePlan::File(_));
        if quiet || !replays || !std::io::stderr().is_terminal() {
            return None;
        }
        let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            line.set_style(style);
        }
        line.enable_steady_tick(Duration::from_millis(200));
        Some(Self(line))
    }

    /// Shows what has been counted so far.
    pub fn show(&self, ledger: &Ledger) {
        let sent: u64 = ledger.destinations.iter().map(|destination| destination.sent).sum();
        self.0.set_message(format!("{} frames read, {} sent", HumanCount(ledger.captured), HumanCount(sent)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
