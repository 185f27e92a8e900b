//! Log lines: always to standard error, without colours unless that is a terminal.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::io::{IsTerminal, Stderr, Write, stderr};

use clap::{ArgAction, Args};
use tracing_subscriber::EnvFilter;

/// How much is said.
#[derive(Debug, Args)]
pub struct LogArguments {
    /// Say less: only warnings, no start line and no ledger
    #[arg(short, long, global = true, help_heading = "Output", conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for even more (RUST_LOG=farspan=trace chooses by module)
    #[arg(short, long, global = true, help_heading = "Output", action = ArgAction::Count)]
    verbose: u8,
}

impl LogArguments {
    /// Starts logging. `RUST_LOG` is stronger than the flags.
    pub fn start(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "warn",
            (false, 0) => "info",
            (false, 1) => "debug",
            (false, _) => "trace",
        };
        // netlink-packet-route warns about each attribute of a newer kernel: nothing an operator can act on.
        let default = format!("warn,farspan={level},netlink_packet_route=error");
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        let colours = understands_escapes() && std::env::var_os("NO_COLOR").is_none();
        let writer = if understands_escapes() { over_progress } else { stderr };
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        // Only a second subscriber in one process is refused, and a process has one command line.
        let _ = lines.with_ansi(colours).without_time().with_target(false).try_init();
    }
}

fn understands_escapes() -> bool {
    stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb")
}

/// Standard error, after wiping the line of a replay's progress, which is drawn again below.
fn over_progress() -> Stderr {
    const WIPE: &[u8] = b"\r\x1b[K";
    let mut stderr = stderr();
    // A terminal that takes nothing will not take the log line either.
    let _ = stderr.write_all(WIPE);
    stderr
}
