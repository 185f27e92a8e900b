//! Log lines: to standard error, as text or as JSON, or into the journal. The terminal alone gets colours.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write, stderr};
use std::os::unix::fs::MetadataExt as _;

use clap::{ArgAction, Args};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use super::journal::Journal;
use crate::config::monitoring::{LogFormat, LogLevel, LogPlan};
use crate::escape::{in_json, in_one_line};
use crate::spool;

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
            LogFormat::Auto | LogFormat::Journald => match Journal::open() {
                Ok(journal) => (journal.boxed(), None),
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
    // One event is one line, whatever names are in it.
    let fields = fmt::format::debug_fn(|out, field, value| {
        let text = format!("{value:?}");
        let text = in_one_line(&text);
        if field.name() == "message" { write!(out, "{text}") } else { write!(out, "{field}={text}") }
    });
    let writer = StandardError { wipes: understands_escapes(), is_json: false };
    let lines = fmt::layer().fmt_fields(fields.delimited(" ")).with_writer(writer).with_ansi(colours);
    let lines = lines.log_internal_errors(false).with_target(false);
    match log {
        Log::Foreground => lines.without_time().boxed(),
        Log::Daemon => lines.boxed(),
    }
}

fn json() -> Lines {
    let lines = fmt::layer().json().flatten_event(true).with_span_list(false).with_target(false);
    lines.log_internal_errors(false).with_writer(StandardError { wipes: false, is_json: true }).boxed()
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

/// Gives each line to the spool of standard error: neither a worker nor the control plane waits for its reader.
#[derive(Clone, Copy, Debug)]
struct StandardError {
    /// Whether the line of a replay's progress is wiped before, which is drawn again below.
    wipes: bool,
    is_json: bool,
}

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for StandardError {
    /// One call has one whole line (`tracing_subscriber::fmt::Layer::on_event`).
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        const WIPE: &[u8] = b"\r\x1b[K";
        let wipe = if self.wipes { WIPE } else { b"" };
        let shown = if self.is_json {
            Cow::from(in_json(&String::from_utf8_lossy(line)).into_owned().into_bytes())
        } else {
            Cow::from(line)
        };
        spool::standard_error().offer([wipe, &shown].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
