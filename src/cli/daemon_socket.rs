//! Which daemon the commands that talk to one mean.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::config::defaults::CONTROL_SOCKET;
use crate::daemon::control::{Answer, Command, ask};
use crate::daemon::view::View;
use crate::error::Problems;

/// The environment's name for the key `control.socket`.
const VARIABLE: &str = "FARSPAN_CONTROL__SOCKET";

/// Where the daemon listens.
#[derive(Clone, Debug, Args)]
pub struct DaemonSocket {
    /// The daemon's control socket, [control] socket of its configuration [default: FARSPAN_CONTROL__SOCKET of the
    /// environment, else /run/farspan/control.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    socket: Option<PathBuf>,
}

impl DaemonSocket {
    /// Asks the daemon.
    ///
    /// # Errors
    /// When it does not answer, and what it says against it.
    pub fn ask(&self, command: &Command) -> Result<Answer, Problems> {
        let named = self.socket.clone().or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        ask(&named.unwrap_or_else(|| PathBuf::from(CONTROL_SOCKET)), command)
    }

    /// What the daemon shows of itself.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn view(&self) -> Result<View, Problems> {
        match self.ask(&Command::Status)? {
            Answer::View(view) => Ok(*view),
            Answer::Reloaded(_) | Answer::Done(_) | Answer::Problems(_) => Err(OtherAnswer.into()),
        }
    }
}

/// A defect of the daemon.
#[derive(Debug, thiserror::Error)]
#[error("the daemon answers another question")]
struct OtherAnswer;

impl crate::error::Explain for OtherAnswer {
    fn hint(&self) -> Option<String> {
        Some("the farspan that runs and the one that asks are of different ages: restart it".to_owned())
    }
}
