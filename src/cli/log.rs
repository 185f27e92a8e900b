//! Log lines: to standard error, as text or as JSON, or into the journal. The terminal alone gets colours.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::io::{IsTerminal, Stderr, Write, stderr};
use std::os::unix::fs::MetadataExt as _;

use clap::{ArgAction, Args};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::monitoring::{LogFormat, LogLevel, LogPlan};

/// How much is said, and how.
#[derive(Debug, Args)]
pub struct LogArguments {
    /// Say less: only warnings, no start line and no ledger
    #[arg(short, long, global = true, help_heading = "Output", conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for even more (RUST_LOG=farspan=trace chooses by module)
    #[arg(short, long, global = true, help_heading = "Output", action = ArgAction::Count)]
    verbose: u8,
    /// How log lines look: text, json (an object a line), journald (with the session as a field), or auto: journald where
    /// standard error leads there, else text [default: auto]
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Output")]
    log_format: Option<LogFormat>,
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// That of somebody who watches: without times.
    Foreground,
    /// That of a daemon: with times, for whoever reads it later.
    Daemon,
}

impl LogArguments {
    /// Starts logging by `plan`. Flags are stronger than it, and `RUST_LOG` is stronger than they are.
    pub fn start(&self, plan: LogPlan, log: Log) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "warn",
            (false, 0) => level(plan.level),
            (false, 1) => "debug",
            (false, _) => "trace",
        };
        // netlink-packet-route warns about each attribute of a newer kernel: nothing an operator can act on.
        let others = if level == "error" { "error" } else { "warn" };
        let default = format!("{others},farspan={level},netlink_packet_route=error");
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        let (layer, missing) = match self.log_format.unwrap_or(plan.format) {
            LogFormat::Text => (text(log), None),
            LogFormat::Json => (json(), None),
            LogFormat::Auto if !leads_to_journal() => (text(log), None),
            LogFormat::Auto | LogFormat::Journald => match journal() {
                Ok(journal) => (journal, None),
                Err(error) => (text(log), Some(error)),
            },
        };
        // Only a second subscriber in one process is refused, and a process has one command line.
        let _ = Registry::default().with(filter).with(layer).try_init();
        if let Some(error) = missing {
            tracing::warn!("the journal cannot be reached, log lines go to standard error: {error}");
        }
    }
}

const fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

type Lines = Box<dyn Layer<tracing_subscriber::layer::Layered<EnvFilter, Registry>> + Send + Sync>;

fn text(log: Log) -> Lines {
    let colours = understands_escapes() && std::env::var_os("NO_COLOR").is_none();
    let writer = if understands_escapes() { over_progress } else { stderr };
    let lines = fmt::layer().with_writer(writer).with_ansi(colours).with_target(false);
    match log {
        Log::Foreground => lines.without_time().boxed(),
        Log::Daemon => lines.boxed(),
    }
}

fn json() -> Lines {
    let lines = fmt::layer().json().flatten_event(true).with_span_list(false).with_target(false);
    lines.with_writer(stderr).boxed()
}

/// The journal's own protocol: the session is the field `FARSPAN_SESSION`.
fn journal() -> std::io::Result<Lines> {
    // Those of syslog(3), of which `journalctl -p` knows.
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    let journal = tracing_journald::layer()?.with_priority_mappings(priorities);
    let name = env!("CARGO_PKG_NAME").to_owned();
    Ok(journal.with_syslog_identifier(name).with_field_prefix(Some("FARSPAN".to_owned())).boxed())
}

/// Whether standard error is the journal's, as systemd says in `JOURNAL_STREAM` (systemd.exec(5)): device and inode.
fn leads_to_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    // The link in proc(5) leads to the file, socket or pipe itself.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|file| stream.to_str() == Some(format!("{}:{}", file.dev(), file.ino()).as_str()))
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
