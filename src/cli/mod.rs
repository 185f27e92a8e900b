//! The command line: one command a file.

mod check;
mod compare;
mod daemon_socket;
mod described;
mod destination_arguments;
mod generate;
mod journal;
mod limit_arguments;
mod log;
mod mirror;
mod orders;
mod output;
mod probe;
mod progress;
mod receive;
mod run;
mod running;
mod runtime;
mod session_arguments;
mod source_arguments;
mod status;
mod top;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::monitoring::LogPlan;
use crate::error::{ExitCode, Problems};
use crate::privilege;
use crate::session::signals;
use log::{Log, LogArguments};
use session_arguments::SessionArguments;
use source_arguments::AllSourceArguments;

/// A SPAN port made of software: mirrors this host's traffic, wire-true, to remote analyzers over VXLAN, GRE, ERSPAN
/// or Geneve
#[derive(Debug, Parser)]
#[command(name = "farspan", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArguments,
}

const EXAMPLES: &str = "\
Examples:
  farspan mirror -i eth0 --to 'vxlan://192.0.2.10?vni=42' not port 22
      mirror eth0 to a Suricata or Zeek box, without the administrator's own SSH
  farspan check -i eth0 --to 'vxlan://192.0.2.10?vni=42'
      what would happen: MTU, route, privileges, bandwidth; sends nothing
  farspan receive --from vxlan://0.0.0.0 --to pcap:- | tshark -r -
      look at what somebody else mirrors to this host";

#[derive(Debug, Subcommand)]
enum Command {
    /// Mirror interfaces or a capture file to analyzers
    #[command(after_help = mirror::EXAMPLES, override_usage = mirror::USAGE)]
    Mirror(mirror::MirrorArguments),
    /// Receive what others mirror: to a capture file, or relayed to analyzers
    #[command(after_help = receive::EXAMPLES, override_usage = receive::USAGE)]
    Receive(receive::ReceiveArguments),
    /// Say what mirroring would do, and find every mistake, without sending anything
    #[command(after_help = check::EXAMPLES, override_usage = check::USAGE)]
    Check(SessionArguments<AllSourceArguments>),
    /// Run every session of a configuration, and keep it running
    #[command(after_help = run::EXAMPLES)]
    Run(run::RunArguments),
    /// Send a harmless exchange through the tunnel, and print the IDS rule that proves it arrived
    #[command(after_help = probe::EXAMPLES)]
    Probe(probe::ProbeArguments),
    /// Say whether two captures hold the same frames, byte for byte and in order, and name every difference
    #[command(after_help = compare::EXAMPLES)]
    Compare(compare::CompareArguments),
    /// Say what the daemon does: its sessions, what they lost and why, how their destinations are
    #[command(after_help = status::EXAMPLES)]
    Status(status::StatusArguments),
    /// Watch the daemon on the terminal: rates, losses and what to do about them
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopArguments),
    /// Have the daemon read its configuration again
    #[command(after_help = orders::RELOAD_EXAMPLES)]
    Reload(orders::ReloadArguments),
    /// Have the daemon stop one session for a while
    #[command(after_help = orders::PAUSE_EXAMPLES)]
    Pause(orders::SessionOrder),
    /// Have the daemon let a paused session go on
    Resume(orders::SessionOrder),
    /// Print a commented configuration, the manual page or shell completions
    Generate(generate::GenerateArguments),
}

/// Runs the command that the process's arguments name and says how the process ends. Wrong usage ends it in clap.
pub fn run() -> ExitCode {
    let Arguments { command, log } = Arguments::parse();
    signals::let_large_writes_fail();
    let runs_sessions = matches!(command, Command::Mirror(_) | Command::Receive(_) | Command::Run(_));
    if runs_sessions {
        signals::hold();
    }
    let _finish = Finish { handles_signals: runs_sessions };
    panic::set_hook(Box::new(say_panic));
    // The daemon's configuration has a say in its log.
    if !matches!(command, Command::Run(_)) {
        log.start(LogPlan::default(), Log::Foreground);
    }
    privilege::raise();
    let done = match command {
        Command::Mirror(arguments) => mirror::run(&arguments, log.quiet).map(|()| ExitCode::Done),
        Command::Receive(arguments) => receive::run(&arguments, log.quiet).map(|()| ExitCode::Done),
        Command::Check(arguments) => check::run(&arguments).map(|()| ExitCode::Done),
        Command::Run(arguments) => run::run(&arguments, &log).map(|()| ExitCode::Done),
        Command::Probe(arguments) => probe::run(&arguments, log.quiet).map(|()| ExitCode::Done),
        Command::Compare(arguments) => compare::run(&arguments, log.quiet),
        Command::Status(arguments) => status::run(&arguments).map(|()| ExitCode::Done),
        Command::Top(arguments) => top::run(&arguments).map(|()| ExitCode::Done),
        Command::Reload(arguments) => orders::reload(&arguments, log.quiet).map(|()| ExitCode::Done),
        Command::Pause(order) => orders::pause(order).map(|()| ExitCode::Done),
        Command::Resume(order) => orders::resume(order).map(|()| ExitCode::Done),
        Command::Generate(arguments) => generate::run(&arguments, Arguments::command()).map(|()| ExitCode::Done),
    };
    done.unwrap_or_else(|problems| report(&problems))
}

/// Waits at the end, also after a panic, until everything has been said.
struct Finish {
    handles_signals: bool,
}

impl Drop for Finish {
    fn drop(&mut self) {
        output::finish(self.handles_signals);
    }
}

/// Says where a thread panicked, without waiting for whoever reads it.
fn say_panic(panicked: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    output::say(&format!("thread '{name}' {panicked}{backtrace}\n"));
}

/// Tells the operator what went wrong.
fn report(problems: &Problems) -> ExitCode {
    output::say(&problems.to_string());
    problems.exit_code()
}
