//! `farspan compare`: two captures, and every difference between them.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use bytesize::ByteSize;
use clap::{Args, ValueEnum, ValueHint};

use super::output;
use crate::compare::{Comparing, Kind, Order, Plan, compare};
use crate::config::plan::FilePath;
use crate::error::{ExitCode, Problems};
use crate::quantity::Snaplen;
use crate::wire::decapsulate::Tunnel;

pub(super) const EXAMPLES: &str = "\
Examples:
  farspan compare tapped.pcap arrived.pcap --decap b
      did every frame that was captured at the host arrive through the tunnel?
  farspan compare host.pcap analyzer.pcap --order flow --ignore checksum,split
      a capture with the host's offloads in it, against what an analyzer got
  farspan mirror -r big.pcap --to pcap:- | farspan compare big.pcap - --json
      a stream, and the result for programs

Exit status: 0 the same, 1 different, 2 cannot compare.";

/// Arguments of `farspan compare`.
#[derive(Debug, Args)]
pub struct CompareArguments {
    /// What is expected: a capture file, pcap or pcapng; - is standard input
    #[arg(value_name = "A", value_parser = file, value_hint = ValueHint::FilePath)]
    a: FilePath,
    /// What came out of it: another capture file
    #[arg(value_name = "B", value_parser = file, value_hint = ValueHint::FilePath)]
    b: FilePath,
    /// Take the outermost tunnel off each packet of one side or of both: VXLAN, Geneve, GRE, ERSPAN, TZSP, HP ERM,
    /// Jmirror
    #[arg(long, value_name = "SIDE", help_heading = "Reading")]
    decap: Option<Decap>,
    /// With --decap: another UDP port of VXLAN, beside 4789, 4790 and 8472 (repeatable)
    #[arg(long, value_name = "PORT", requires = "decap", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Reading")]
    vxlan_port: Vec<u16>,
    /// Compare only the first bytes of each frame, counted from the destination MAC [default: all]
    #[arg(short = 's', long, value_name = "SNAPLEN", help_heading = "Reading")]
    snaplen: Option<Snaplen>,
    /// Where frames have to keep their order: everywhere, inside each flow (both directions together), or nowhere
    #[arg(long, value_name = "ORDER", default_value = "global", help_heading = "Judging")]
    order: OrderWord,
    /// Kinds of difference that do not matter: counted and listed, but still the same (missing, extra, duplicated,
    /// reordered, cut, padded, vlan_lost, vlan_added, vlan_changed, checksum, merged, split, changed)
    #[arg(long, value_name = "KINDS", value_delimiter = ',', help_heading = "Judging")]
    ignore: Vec<Kind>,
    /// Memory for frames whose equals have not come yet: how far apart they may be
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(Comparing::WINDOW), value_parser = window, help_heading = "Judging")]
    window: ByteSize,
    /// List so many differences; all are counted
    #[arg(long, value_name = "N", default_value_t = Comparing::MOST, help_heading = "Output")]
    most: usize,
    /// Print the result as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// The sides on which a tunnel is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Decap {
    /// Packets of A
    A,
    /// Packets of B
    B,
    /// Packets of A and B
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OrderWord {
    /// All frames keep their places
    Global,
    /// Flows may overtake each other
    Flow,
    /// Any order is the same
    None,
}

/// Compares, and prints what came out.
///
/// # Errors
/// When there is no verdict.
pub fn run(arguments: &CompareArguments, quiet: bool) -> Result<ExitCode, Problems> {
    let comparison = compare(&arguments.plan())?;
    if arguments.json {
        output::print_json(&comparison.to_json())?;
    } else if !quiet {
        output::print(&comparison.table().to_string())?;
    }
    Ok(if comparison.is_same() { ExitCode::Done } else { ExitCode::Failed })
}

impl CompareArguments {
    fn plan(&self) -> Plan {
        let mut rules = Comparing {
            decapsulate: [Decap::A, Decap::B]
                .map(|side| self.decap.is_some_and(|decap| decap == side || decap == Decap::Both)),
            order: match self.order {
                OrderWord::Global => Order::Global,
                OrderWord::Flow => Order::Flow,
                OrderWord::None => Order::None,
            },
            snaplen: self.snaplen,
            window: self.window.as_u64(),
            most: self.most,
            ignored: self.ignore.clone(),
            ..Comparing::default()
        };
        let vxlan = self.vxlan_port.iter().map(|&port| (port, Tunnel::Vxlan));
        rules.tunnels.ports.splice(..0, vxlan);
        Plan { files: [self.a.clone(), self.b.clone()], rules }
    }
}

fn file(text: &str) -> Result<FilePath, &'static str> {
    text.parse().map_err(|_| "name a capture file; - is standard input")
}

fn window(text: &str) -> Result<ByteSize, String> {
    let least = ByteSize(Comparing::LEAST_WINDOW);
    match text.parse() {
        Ok(size) if size >= least => Ok(size),
        _ => Err(format!("write a size of at least {least}, such as 256MiB or 2GiB")),
    }
}
