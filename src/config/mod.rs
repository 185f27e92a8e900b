//! From words to a plan: what was written, layer over layer, becomes what is meant, or a list of every mistake.

pub mod change;
pub mod daemon;
pub mod load;
pub mod local_end;
pub mod netns;
pub mod plan;
pub mod privileges;
pub mod reading;
pub mod resolve;

pub mod defaults;
pub mod destination_url;
pub mod endpoint;
pub mod mistake;
pub mod monitoring;
pub mod trust;
pub mod written;

mod contest;
mod destination;
mod file;
mod keys;
mod limits;
#[cfg(test)]
pub mod testing;
mod tunnels;
mod words;

/// The commented configuration that `farspan generate config` prints: every key with its default.
pub const REFERENCE: &str = include_str!("../../conf/farspan.toml");

/// Whether `name` matches `pattern`: `*`, `?` and `[…]` as in a shell.
pub fn matches(pattern: &str, name: &str) -> bool {
    glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(name))
}
