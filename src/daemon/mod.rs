//! The daemon: every session of the configuration, kept running, changed without a gap, and shown.

pub mod http;
pub mod metrics;
pub mod view;

#[cfg(test)]
pub(crate) mod testing;
mod visitors;
