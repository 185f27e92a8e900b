//! The flags that keep a session small: samples, limits, priorities.

#![allow(clippy::doc_markdown, reason = "doc comments of arguments are help texts, printed as they are")]

use clap::Args;

use crate::config::written::{Table, Written, set};

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
}

impl SampleArguments {
    /// Writes the flags over the keys of a session.
    pub fn write_over(&self, keys: &mut Table) {
        write(keys, ["select", "sample"], "--sample", self.sample.as_ref());
        write(keys, ["select", "sample_by"], "--sample-by", self.sample_by.as_ref());
    }
}

fn write(keys: &mut Table, path: [&str; 2], flag: &str, word: Option<&String>) {
    if let Some(word) = word {
        set(keys, &path, Written::flag(flag, word));
    }
}
