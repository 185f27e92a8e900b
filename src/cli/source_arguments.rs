//! The flags that say where frames come from: interfaces and files for `mirror`, tunnels for `receive`, all for `check`.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use std::time::Duration;

use clap::{Args, ValueHint};

use crate::config::plan::EndPlan;
use crate::config::written::{Origin, Table, Value, Written, set, set_flag};

/// Flags of one kind of source.
pub trait SourceFlags: Args {
    /// Writes them over the keys of a session.
    fn write_over(&self, keys: &mut Table);
}

/// Interfaces and capture files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct CaptureArguments {
    /// Interface to mirror, or a pattern such as 'veth*' (repeatable)
    #[arg(short, long, value_name = "IF")]
    interface: Vec<String>,
    /// Capture file to replay: pcap or pcapng, also compressed (gzip, zstd); - is standard input. Several are merged in the
    /// order of their timestamps (repeatable)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    read: Vec<String>,
    /// Only frames that came in, went out, or all: in, out, inout [default: inout]
    #[arg(short = 'Q', long, value_name = "WAY")]
    direction: Option<String>,
    /// Network namespace of the interfaces: a name of `ip netns`, a path, pid:N or container:ID [default: farspan's own]
    #[arg(long, value_name = "NETNS")]
    netns: Option<String>,
    /// Leave the interface as it is: only frames that are for this host
    #[arg(short = 'p', long)]
    no_promiscuous: bool,
    /// What captures: ring knows offloads and directions exactly, pcap takes any link type [default: auto: ring where
    /// it is possible]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Longest time that a frame waits in the capture memory [default: 2ms]
    #[arg(long, value_name = "TIME")]
    delay: Option<String>,
    /// Most interfaces at one time: further ones that a pattern means are refused, with a warning [default: 512]
    #[arg(long, value_name = "N")]
    max_interfaces: Option<String>,
    /// Threads that share the flows of the interfaces, 1 to 64 [default: 1]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// CPUs of the workers, such as 0,2 or 4-7: each worker stays on one [default: where the kernel likes]
    #[arg(long, value_name = "CPUS")]
    pin: Option<String>,
}

/// Tunnels in which others send their mirrors.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct TunnelArguments {
    /// Endpoint to receive at: vxlan://0.0.0.0, geneve://[::]:6081, gre://0.0.0.0, erspan://0.0.0.0 (any type), erspan1://,
    /// erspan2://, erspan3://, tzsp://, hperm://, jmirror://; ?vni=, ?key= or ?session=7,10-19 selects. Or file:FILE: outer packets of a capture file
    /// (repeatable)
    #[arg(long, value_name = "ENDPOINT")]
    from: Vec<String>,
    /// Take frames of these senders only: 192.0.2.0/24 (repeatable) [default: of everybody]
    #[arg(long, value_name = "CIDR")]
    allow: Vec<String>,
    /// Refuse headers with reserved bits set, as Linux and Open vSwitch do
    #[arg(long)]
    strict: bool,
    /// Keep VNI, key or session with the frame: vlan puts its low 12 bits into an 802.1Q tag [default: off]
    #[arg(long, value_name = "HOW")]
    tag: Option<String>,
    /// Restore the order of GRE and ERSPAN sequence numbers; a frame waits for earlier ones at most this long
    /// [default: off]
    #[arg(long, value_name = "TIME")]
    reorder: Option<String>,
}

/// Every source there is.
#[derive(Debug, Args)]
pub struct AllSourceArguments {
    #[command(flatten)]
    capture: CaptureArguments,
    #[command(flatten)]
    tunnels: TunnelArguments,
}

/// What every source has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct AnySourceArguments {
    /// How many tunnels inside each other are taken off: 1 to 8, or all. Frames of interfaces and files without a tunnel pass
    /// unchanged [default: 1 of what is received in tunnels, else off]
    #[arg(long, value_name = "N")]
    decap: Option<String>,
    /// Memory for frames that wait to be taken [default: 24MiB]
    #[arg(short = 'B', long, value_name = "SIZE")]
    buffer: Option<String>,
    /// How fast a file is replayed: unpaced, or recorded for the recorded gaps [default: unpaced]
    #[arg(long)]
    pace: Option<String>,
    /// With --pace recorded: the longest wait between two frames, such as 5s [default: as recorded]
    #[arg(long, value_name = "TIME")]
    max_pause: Option<String>,
    /// Replay a file at this rate: 20kpps, 500Mbit/s
    #[arg(long)]
    rate: Option<String>,
    /// Stop after this many frames
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop after this time: 60s, 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

impl SourceFlags for CaptureArguments {
    fn write_over(&self, keys: &mut Table) {
        set_flag(keys, &["source", "direction"], "-Q", self.direction.as_deref());
        set_flag(keys, &["source", "engine"], "--engine", self.engine.as_deref());
        set_flag(keys, &["source", "delay"], "--delay", self.delay.as_deref());
        set_flag(keys, &["source", "workers"], "--workers", self.workers.as_deref());
        set_flag(keys, &["source", "max_interfaces"], "--max-interfaces", self.max_interfaces.as_deref());
        set_flag(keys, &["source", "pin"], "--pin", self.pin.as_deref());
        set_flag(keys, &["source", "netns"], "--netns", self.netns.as_deref());
        if self.no_promiscuous {
            set(keys, &["source", "promiscuous"], Written::bare_flag("--no-promiscuous", "off"));
        }
        if !self.interface.is_empty() || !self.read.is_empty() {
            forget_source(keys);
        }
        write_list(keys, "interface", "-i", &self.interface);
        write_list(keys, "file", "-r", &self.read);
    }
}

impl SourceFlags for TunnelArguments {
    fn write_over(&self, keys: &mut Table) {
        if !self.from.is_empty() {
            forget_source(keys);
        }
        write_list(keys, "tunnel", "--from", &self.from);
        write_list(keys, "allow", "--allow", &self.allow);
        set_flag(keys, &["source", "tag"], "--tag", self.tag.as_deref());
        set_flag(keys, &["source", "reorder"], "--reorder", self.reorder.as_deref());
        if self.strict {
            set(keys, &["source", "strict"], Written::bare_flag("--strict", "on"));
        }
    }
}

impl SourceFlags for AllSourceArguments {
    fn write_over(&self, keys: &mut Table) {
        self.capture.write_over(keys);
        // Interfaces and endpoints together are a mistake, which the plan will tell.
        if self.capture.interface.is_empty() && self.capture.read.is_empty() {
            self.tunnels.write_over(keys);
        } else {
            let TunnelArguments { from, .. } = &self.tunnels;
            write_list(keys, "tunnel", "--from", from);
        }
    }
}

impl AnySourceArguments {
    /// Writes the flags over the keys of a session.
    pub fn write_over(&self, keys: &mut Table) {
        set_flag(keys, &["source", "decap"], "--decap", self.decap.as_deref());
        set_flag(keys, &["source", "buffer"], "--buffer", self.buffer.as_deref());
        set_flag(keys, &["source", "pace"], "--pace", self.pace.as_deref());
        set_flag(keys, &["source", "max_pause"], "--max-pause", self.max_pause.as_deref());
        set_flag(keys, &["source", "rate"], "--rate", self.rate.as_deref());
    }

    /// When the session ends by itself.
    pub fn end(&self) -> EndPlan {
        EndPlan { count: self.count, duration: self.duration }
    }
}

/// A source on the command line takes the place of the file's, of whichever kind.
fn forget_source(keys: &mut Table) {
    if let Some(Value::Table(source)) = keys.get_mut("source").map(|source| &mut source.value) {
        for kind in ["interface", "file", "tunnel"] {
            source.shift_remove(kind);
        }
    }
}

fn write_list(keys: &mut Table, key: &str, flag: &str, words: &[String]) {
    if words.is_empty() {
        return;
    }
    let list = words.iter().map(|word| Written::flag(flag, word)).collect();
    let origin = Some(Origin::Flag(format!("{flag} {}", words.join(&format!(" {flag} ")))));
    set(keys, &["source", key], Written { value: Value::List(list), origin });
}
