//! Writes results where they were asked for; a reader that has seen enough is no failure.

use std::io::{self, ErrorKind, Write};

use crate::config::plan::{DestinationPlan, End, FilePath, TransmitPlan};
use crate::error::{Explain, Problems};
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
    if destinations.iter().any(writes_standard_output) { write(&mut io::stderr().lock(), &text) } else { print(&text) }
}

fn writes_standard_output(plan: &DestinationPlan) -> bool {
    match &plan.end {
        End::File(file) => *file == FilePath::Standard,
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
