//! Writes results where they were asked for; a reader that has seen enough is no failure.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::plan::{DestinationPlan, End, FilePath, TransmitPlan};
use crate::error::{ExitCode, Explain, Problems};
use crate::escape::{in_json, in_lines};
use crate::ledger::Ledger;
use crate::session::control::ECHO;
use crate::session::signals::Signals;
use crate::spool::{self, Patience, Spool};

/// How long a reader may take nothing of a result, once the process was asked to end.
const STALL: Duration = Duration::from_secs(2);
/// How long it may take for all of it then.
const LONGEST: Duration = Duration::from_secs(20);
/// How long log lines may hold up the result that follows them.
const LINES_FIRST: Duration = Duration::from_millis(200);
/// How often a result that is being written is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Standard output or standard error did not take the result.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The kernel refuses it.
    #[error("cannot write the result")]
    Refused(#[from] io::Error),
    /// Its reader takes nothing.
    #[error("the result was not printed: nothing was read for {} s", STALL.as_secs())]
    NotRead,
}

impl Explain for OutputError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused(_) => "is the disk full, or standard output closed?".to_owned(),
            Self::NotRead => "look at the program that reads standard output; a file takes the result too".to_owned(),
        })
    }
}

/// Frames are bytes that no terminal should be given.
#[derive(Debug, thiserror::Error)]
#[error("`pcap:-` would write frames to this terminal")]
pub struct FramesToTerminal;

impl Explain for FramesToTerminal {
    fn hint(&self) -> Option<String> {
        Some(
            "give them to a program, as in `farspan mirror … --to pcap:- | tshark -r -`, or write pcap:FILE".to_owned(),
        )
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Usage
    }
}

/// Makes sure that frames for standard output have a reader that understands them.
///
/// # Errors
/// When standard output is a terminal.
pub fn check_reader(destinations: &[DestinationPlan]) -> Result<(), Problems> {
    let shown = destinations.iter().any(writes_standard_output) && io::stdout().is_terminal();
    if shown { Err(FramesToTerminal.into()) } else { Ok(()) }
}

/// Writes `text` to standard output. `farspan generate man | head` ends quietly.
///
/// # Errors
/// When it cannot be written, unless because the reader has gone.
pub fn print(text: &str) -> Result<(), Problems> {
    write(&mut io::stdout().lock(), &in_lines(text))
}

/// The same for a line of JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(json: &str) -> Result<(), Problems> {
    write(&mut io::stdout().lock(), &format!("{}\n", in_json(json)))
}

/// The same for text of farspan's own, such as a manual page.
///
/// # Errors
/// As [`print`].
pub fn print_as_it_is(text: &str) -> Result<(), Problems> {
    write(&mut io::stdout().lock(), text)
}

/// Prints a ledger as table or JSON: to standard output, or to standard error when that carries frames.
///
/// # Errors
/// As [`print`].
pub fn print_ledger(destinations: &[DestinationPlan], ledger: &Ledger, json: bool) -> Result<(), Problems> {
    let text = in_words(ledger, json);
    if destinations.iter().any(writes_standard_output) {
        say(&text);
        Ok(())
    } else {
        print_as_it_is(&text)
    }
}

/// A ledger as a table, or as a line of JSON.
pub fn in_words(ledger: &Ledger, json: bool) -> String {
    if json { format!("{}\n", in_json(&ledger.to_json())) } else { in_lines(&ledger.table().to_string()).into_owned() }
}

/// Where the results of a session go that writes to `destinations`: standard output, or standard error when that carries
/// frames.
pub fn spool_beside<'a>(destinations: impl IntoIterator<Item = &'a DestinationPlan>) -> &'static Spool {
    if destinations.into_iter().any(writes_standard_output) {
        spool::standard_error()
    } else {
        spool::standard_output()
    }
}

/// Writes the result of a session: all of it, in order, behind the log lines before it. A reader that is slow is waited for.
/// One that takes nothing is waited for until a signal asks the process to end, and then for [`STALL`]; the signal after
/// that ends the wait. `was_asked` says whether one has asked already.
///
/// # Errors
/// When it cannot be written, unless because the reader has gone.
pub async fn deliver(text: String, to: &Spool, was_asked: bool, signals: &mut Signals) -> Result<(), Problems> {
    let begun = Instant::now();
    while !spool::standard_error().is_drained() && begun.elapsed() < LINES_FIRST {
        sleep(LOOK).await;
    }
    // That of an earlier line is none of this result.
    let _ = to.take_error();
    to.give(text.into_bytes());
    let (mut seen, mut since) = (to.progress(), Instant::now());
    let mut asked = was_asked.then_some(since);
    while !to.is_drained() {
        tokio::select! {
            () = sleep(LOOK) => {}
            () = signals.end() => match asked {
                // The first one's echo is no second one.
                Some(first) if first.elapsed() >= ECHO => return Err(OutputError::NotRead.into()),
                Some(_) => {}
                None => (asked, since) = (Some(Instant::now()), Instant::now()),
            }
        }
        let progress = to.progress();
        if progress != seen {
            (seen, since) = (progress, Instant::now());
        }
        if asked.is_some_and(|asked| since.elapsed() >= STALL || asked.elapsed() >= LONGEST) {
            return Err(OutputError::NotRead.into());
        }
    }
    match to.take_error() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(OutputError::Refused(error).into()),
        _ => Ok(()),
    }
}

fn writes_standard_output(plan: &DestinationPlan) -> bool {
    match &plan.end {
        End::File(plan) => plan.file == FilePath::Standard,
        End::Tap(_) => false,
        End::Tunnel(tunnel) => tunnel.transmit == TransmitPlan::CaptureFile(FilePath::Standard),
    }
}

/// Says something to the operator on standard error; when nobody can hear it, the exit code still tells.
pub fn say(text: &str) {
    spool::standard_error().offer(in_lines(text).into_owned().into_bytes());
}

/// Waits until everything has been said: as long as it takes where a signal can end the process meanwhile, and for
/// [`STALL`] where `handles_signals`.
pub fn finish(handles_signals: bool) {
    spool::settle(if handles_signals { Patience::Stalled(STALL) } else { Patience::Endless });
}

fn write(out: &mut impl Write, text: &str) -> Result<(), Problems> {
    // In the order in which it was said.
    spool::standard_error().drain(Patience::Stalled(LINES_FIRST));
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(OutputError::Refused(error).into()),
        _ => Ok(()),
    }
}
