//! Writes results where they were asked for; a reader that has seen enough is no failure.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::config::plan::{DestinationPlan, End, FilePath, TransmitPlan};
use crate::error::{ExitCode, Explain, Problems};
use crate::ledger::Ledger;

/// Standard output or standard error did not take the result.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the result")]
pub struct OutputError(#[from] io::Error);

impl Explain for OutputError {
    fn hint(&self) -> Option<String> {
        Some("is the disk full, or standard output closed?".to_owned())
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
    write(&mut io::stdout().lock(), text)
}

/// Prints a ledger as table or JSON: to standard output, or to standard error when that carries frames.
///
/// # Errors
/// As [`print`].
pub fn print_ledger(destinations: &[DestinationPlan], ledger: &Ledger, json: bool) -> Result<(), Problems> {
    let text = if json { format!("{}\n", ledger.to_json()) } else { ledger.table().to_string() };
    print_beside(destinations, &text)
}

/// Writes `text` to standard output, or to standard error when one of `destinations` has that for its frames.
///
/// # Errors
/// As [`print`].
pub fn print_beside(destinations: &[DestinationPlan], text: &str) -> Result<(), Problems> {
    if destinations.iter().any(writes_standard_output) { write(&mut io::stderr().lock(), text) } else { print(text) }
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
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn write(out: &mut impl Write, text: &str) -> Result<(), Problems> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(OutputError(error).into()),
        _ => Ok(()),
    }
}
