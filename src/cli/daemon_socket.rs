//! Which daemon the commands that talk to one mean.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::config::defaults::CONTROL_SOCKET;
use crate::daemon::ReloadReport;
use crate::daemon::control::{Answer, Command, DIFFERENT_AGES, ask};
use crate::daemon::view::View;
use crate::error::{Explain, Problems};

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
    fn ask(&self, command: &Command) -> Result<Answer, Problems> {
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

    /// Has the daemon read its configuration again.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn reload(&self) -> Result<ReloadReport, Problems> {
        match self.ask(&Command::Reload)? {
            Answer::Reloaded(report) => Ok(report),
            Answer::View(_) | Answer::Done(_) | Answer::Problems(_) => Err(OtherAnswer.into()),
        }
    }

    /// Has the daemon do something of which there is nothing to tell.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn order(&self, command: &Command) -> Result<(), Problems> {
        match self.ask(command)? {
            Answer::Done(_) => Ok(()),
            Answer::View(_) | Answer::Reloaded(_) | Answer::Problems(_) => Err(OtherAnswer.into()),
        }
    }
}

/// A defect of the daemon.
#[derive(Debug, thiserror::Error)]
#[error("the daemon answers another question")]
struct OtherAnswer;

impl Explain for OtherAnswer {
    fn hint(&self) -> Option<String> {
        Some(DIFFERENT_AGES.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::daemon::control::Line;

    #[test]
    fn an_answer_to_another_question_is_no_success() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            for answer in [Answer::Done("paused".to_owned()), Answer::Reloaded(ReloadReport::default())] {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                stream.write_all(&Line::of(answer)).unwrap();
            }
        });
        let socket = DaemonSocket { socket: Some(path) };
        let reloaded = socket.reload().unwrap_err();
        let paused = socket.order(&Command::Pause { session: "dmz".to_owned() }).unwrap_err();
        for problems in [reloaded, paused] {
            assert!(problems.to_string().starts_with("error: the daemon answers another question\n"), "{problems}");
        }
        daemon.join().unwrap();
    }
}
