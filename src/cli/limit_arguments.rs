//! The flags that keep a session small: samples, limits, priorities.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use clap::Args;

use crate::config::written::{Table, Written, set, set_flag};

/// Which part of the traffic.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sample")]
pub struct SampleArguments {
    /// Mirror only one flow in so many, whole: 1/10 [default: 1/1]
    #[arg(long, value_name = "1/N")]
    sample: Option<String>,
    /// What a sample counts: flow, or frame for single frames [default: flow]
    #[arg(long, value_name = "WHAT")]
    sample_by: Option<String>,
    /// Key of the flow hash, 32 hexadecimal digits: hosts with the same seed sample and balance alike [default: random,
    /// stored with this installation]
    #[arg(long, value_name = "HEX")]
    seed: Option<String>,
}

/// What the session may take from its host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits: over them, whole flows are left out")]
pub struct LimitArguments {
    /// Of what is sent, outer headers included: 500Mbit/s [default: none]
    #[arg(long, value_name = "RATE")]
    limit_bandwidth: Option<String>,
    /// Of frames that are sent: 20kpps [default: none]
    #[arg(long, value_name = "RATE")]
    limit_rate: Option<String>,
    /// Of CPU time: '20% of a core' [default: none]
    #[arg(long, value_name = "SHARE")]
    limit_cpu: Option<String>,
    /// Of capture memory: 64MiB [default: none]
    #[arg(long, value_name = "SIZE")]
    limit_memory: Option<String>,
    /// Of the load of the interface that tunnels leave by, whoever makes it: 90% of its speed [default: none]
    #[arg(long, value_name = "SHARE")]
    limit_underlay: Option<String>,
    /// Of the time in which somebody on this host waits for a CPU: 20% [default: none]
    #[arg(long, value_name = "SHARE")]
    limit_pressure: Option<String>,
    /// Nice value of the workers, 0 to 19 [default: as farspan was started]
    #[arg(long, value_name = "N")]
    nice: Option<String>,
    /// How the workers are scheduled: other, batch, or idle, only when nobody else wants the CPU [default: other]
    #[arg(long, value_name = "WAY")]
    scheduling: Option<String>,
    /// CPUs that the workers share, such as 2-3 [default: all of farspan's]
    #[arg(long, value_name = "CPUS")]
    cpus: Option<String>,
}

impl LimitArguments {
    /// Writes the flags over the keys of a session.
    pub fn write_over(&self, keys: &mut Table) {
        set_flag(keys, &["limit", "bandwidth"], "--limit-bandwidth", self.limit_bandwidth.as_deref());
        set_flag(keys, &["limit", "rate"], "--limit-rate", self.limit_rate.as_deref());
        set_flag(keys, &["limit", "cpu"], "--limit-cpu", self.limit_cpu.as_deref());
        set_flag(keys, &["limit", "memory"], "--limit-memory", self.limit_memory.as_deref());
        set_flag(keys, &["limit", "underlay"], "--limit-underlay", self.limit_underlay.as_deref());
        set_flag(keys, &["limit", "pressure"], "--limit-pressure", self.limit_pressure.as_deref());
        set_flag(keys, &["priority", "nice"], "--nice", self.nice.as_deref());
        set_flag(keys, &["priority", "scheduling"], "--scheduling", self.scheduling.as_deref());
        set_flag(keys, &["priority", "cpus"], "--cpus", self.cpus.as_deref());
    }
}

impl SampleArguments {
    /// Writes the flags over the keys of a session.
    pub fn write_over(&self, keys: &mut Table) {
        set_flag(keys, &["select", "sample"], "--sample", self.sample.as_deref());
        set_flag(keys, &["select", "sample_by"], "--sample-by", self.sample_by.as_deref());
        // Its origin does not show the secret.
        if let Some(seed) = &self.seed {
            set(keys, &["select", "seed"], Written::bare_flag("--seed", seed));
        }
    }
}
