//! How far a replay is, for somebody who watches: on a terminal only.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::config::plan::SessionPlan;
use crate::ledger::Ledger;
use crate::source;
use crate::spool::{self, Patience};

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
        let terminal = ProgressDrawTarget::term_like(Box::new(Terminal::default()));
        let line = ProgressBar::with_draw_target(file.map(source::Progress::size), terminal);
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

/// Standard error, a terminal, behind its spool: a terminal that takes nothing (Ctrl-S) must not keep the control plane. What
/// is drawn while it takes nothing is left out.
#[derive(Debug, Default)]
struct Terminal(Mutex<String>);

impl Terminal {
    fn put(&self, text: &str) {
        // Text is whole, whoever was interrupted over it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    fn put_escape(&self, count: usize, letter: char) {
        // A count of zero would mean one (ECMA-48, 8.3).
        if count > 0 {
            self.put(&format!("\x1b[{count}{letter}"));
        }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        /// Where the terminal does not tell.
        const USUAL: u16 = 80;
        // Not `size`, which runs tput(1) where the kernel does not tell.
        let told = ratatui::crossterm::terminal::window_size().map_or(0, |size| size.columns);
        if told == 0 { USUAL } else { told }
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.put_escape(lines, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.put_escape(lines, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.put_escape(columns, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.put_escape(columns, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text);
        self.put("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        spool::standard_error().offer_if_idle(drawn.into_bytes());
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        /// What was drawn last is to be on the terminal, so that it is wiped.
        const SHORT: Duration = Duration::from_millis(20);
        spool::standard_error().drain(Patience::Stalled(SHORT));
        self.line.finish_and_clear();
    }
}
