//! `farspan probe`: a recognisable, harmless exchange through the tunnel, and the rule that proves it arrived.

use clap::Args;

use super::destination_arguments::{DestinationArguments, MarkArguments, write_destinations};
use super::output;
use super::runtime::block_on;
use crate::config::load::SessionWritten;
use crate::config::plan::DestinationPlan;
use crate::config::resolve::destinations;
use crate::destination::Patience;
use crate::destination::Shared;
use crate::error::{Explain, Problems};
use crate::kernel::locate::resolve;
use crate::ledger::Ledger;
use crate::probe::{self, Token};
use crate::session::open_destinations;

pub(super) const EXAMPLES: &str = "\
Examples:
  farspan probe --to 'vxlan://192.0.2.10?vni=42'
      send it, and print the Suricata rule and the Zeek line that see it
  farspan probe --to 'erspan2://192.0.2.10?session=7' --to 'gre://[2001:db8::10]'
      try several ways at once
  farspan probe --to 'vxlan://192.0.2.10?vni=42' --transmit pcap:probe.pcap
      write what would be sent, for suricata -r";

/// Arguments of `farspan probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// Where to, as for `farspan mirror` (repeatable)
    #[arg(long, value_name = "DEST", required = true, help_heading = "Destination")]
    to: Vec<String>,
    #[command(flatten)]
    destination: DestinationArguments,
    #[command(flatten)]
    mark: MarkArguments,
    /// Print the ledger as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Sends the exchange, says what proves its arrival, and prints the ledger.
///
/// # Errors
/// Every mistake in the destinations, and whatever keeps them from being opened.
pub fn run(arguments: &ProbeArguments, quiet: bool) -> Result<(), Problems> {
    let plans = arguments.destinations()?;
    let token = Token::random();
    let ledger = block_on(send(&token, &plans))??;
    let proof = if arguments.json { String::new() } else { probe::proof(&token) };
    output::print(&proof)?;
    if !quiet {
        output::print_ledger(&plans, &ledger, arguments.json)?;
    }
    match ledger.destinations.iter().map(|destination| destination.dropped.total()).sum() {
        0 => Ok(()),
        frames => Err(ProbeLost { frames }.into()),
    }
}

/// The exchange did not leave this host as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{frames} frames of the exchange did not leave this host")]
struct ProbeLost {
    frames: u64,
}

impl Explain for ProbeLost {
    fn hint(&self) -> Option<String> {
        Some("the ledger says why; `farspan check` may say what to do".to_owned())
    }
}

async fn send(token: &Token, plans: &[DestinationPlan]) -> Result<Ledger, Problems> {
    let underlays = resolve(plans).await?;
    let mut destinations =
        open_destinations(plans, &underlays, &["probe".to_owned()], Patience::Drop, &mut Shared::new(plans, 0))?;
    let mut ledger = Ledger::new(plans.iter().map(|plan| (plan.name.as_str(), plan.to.as_str())));
    probe::send(token, &mut destinations, &mut ledger);
    Ok(ledger)
}

impl ProbeArguments {
    /// The destinations to probe.
    fn destinations(&self) -> Result<Vec<DestinationPlan>, Problems> {
        let mut session = SessionWritten {
            for_every_destination: self.destination.table(),
            mark_flag: self.mark.written(),
            ..SessionWritten::default()
        };
        write_destinations(&self.to, &mut session.keys);
        destinations(&session)
    }
}
