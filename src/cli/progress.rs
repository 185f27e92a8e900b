//! How far a replay is, for somebody who watches: on a terminal only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::plan::SessionPlan;
use crate::ledger::Ledger;
use crate::source;

/// A line on the terminal that follows a replay; it disappears when dropped.
#[derive(Debug)]
pub struct Progress {
    line: ProgressBar,
    /// `None` for a pipe, whose end nobody knows.
    file: Option<source::Progress>,
}

impl Progress {
    /// Starts the line when `plan` replays a file and standard error is a terminal.
    pub fn of(plan: &SessionPlan, file: Option<&source::Progress>, quiet: bool) -> Option<Self> {
        let replays = plan.source.file().is_some();
        if quiet || !replays || !std::io::stderr().is_terminal() {
            return None;
        }
        let line = ProgressBar::with_draw_target(file.map(source::Progress::size), ProgressDrawTarget::stderr());
        let template = match file {
            Some(_) => "{elapsed} [{bar:30}] {percent:>3} % {msg}",
            None => "{elapsed} {spinner} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            line.set_style(style);
        }
        line.enable_steady_tick(Duration::from_millis(200));
        Some(Self { line, file: file.cloned() })
    }

    /// Shows what has been counted so far.
    pub fn show(&self, ledger: &Ledger) {
        if let Some(file) = &self.file {
            self.line.set_position(file.read());
        }
        let sent: u64 = ledger.destinations.iter().map(|destination| destination.sent).sum();
        self.line.set_message(format!("{} frames read, {} sent", HumanCount(ledger.captured), HumanCount(sent)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.line.finish_and_clear();
    }
}
