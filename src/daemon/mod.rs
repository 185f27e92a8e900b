//! The daemon: every session of the configuration, kept running, changed without a gap, and shown.

pub mod view;
