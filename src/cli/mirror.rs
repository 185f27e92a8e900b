//! `farspan mirror`: arguments → plan → session → ledger.

use clap::Args;

use super::running::{self, RunningArguments};
use super::session_arguments::SessionArguments;
use super::source_arguments::CaptureArguments;
use crate::error::Problems;

pub(super) const USAGE: &str = "\
farspan mirror -i IF | -r FILE --to DEST [OPTIONS] [EXPRESSION]...
       farspan mirror -C FILE [--session NAME] [OPTIONS] [EXPRESSION]...";

pub(super) const EXAMPLES: &str = "\
Examples:
  farspan mirror -i eth0 --to 'vxlan://192.0.2.10?vni=42' not port 22
      one interface to one analyzer, without the administrator's own SSH
  farspan mirror -i eth0 -i 'veth*' --to 'geneve://[2001:db8::10]?vni=eth0:1,*:2'
      several interfaces, told apart by VNI
  farspan mirror -i eth1 --decap 1 --to tap:ids0 tcp port 443
      a SPAN port that delivers tunnels of others: the frames inside, as a filter chooses them
  farspan mirror -r incident.pcapng --rate 20kpps --to 'erspan2://192.0.2.10?session=7' --json
      a capture file, replayed to an appliance; the ledger for programs";

/// Arguments of `farspan mirror`.
#[derive(Debug, Args)]
pub struct MirrorArguments {
    #[command(flatten)]
    session: SessionArguments<CaptureArguments>,
    #[command(flatten)]
    running: RunningArguments,
}

/// Mirrors until the source ends, the count or the time is reached, or the operator stops it; then prints the ledger.
///
/// # Errors
/// What kept the session from starting, or went wrong on the way.
pub fn run(arguments: &MirrorArguments, quiet: bool) -> Result<(), Problems> {
    running::run(&arguments.session.plan()?, quiet, &arguments.running)
}
