//! `farspan receive`: the other end of somebody's mirror.

use clap::Args;

use super::running::{self, RunningArguments};
use super::session_arguments::SessionArguments;
use super::source_arguments::TunnelArguments;
use crate::error::Problems;

pub(super) const USAGE: &str = "\
farspan receive --from ENDPOINT [--from …] --to DEST [OPTIONS] [EXPRESSION]...
       farspan receive -C FILE [--session NAME] [OPTIONS] [EXPRESSION]...";

pub(super) const EXAMPLES: &str = "\
Examples:
  farspan receive --from vxlan://0.0.0.0 --allow 192.0.2.0/24 --to pcap:mirror.pcap
      record the frames that a cloud or a switch sends in VXLAN
  farspan receive --from erspan://0.0.0.0 --to pcap:- | tshark -r -
      look at them while they come
  farspan receive --from 'erspan3://0.0.0.0?session=7' --to 'vxlan://192.0.2.10?vni=7'
      relay ERSPAN III, which Suricata does not read, as VXLAN, which it does";

/// Arguments of `farspan receive`.
#[derive(Debug, Args)]
pub struct ReceiveArguments {
    #[command(flatten)]
    session: SessionArguments<TunnelArguments>,
    #[command(flatten)]
    running: RunningArguments,
}

/// Receives until the count or the time is reached, the file ends or the operator stops it; then prints the ledger.
///
/// # Errors
/// What kept the session from starting, or went wrong on the way.
pub fn run(arguments: &ReceiveArguments, quiet: bool) -> Result<(), Problems> {
    running::run(&arguments.session.plan()?, quiet, &arguments.running)
}
