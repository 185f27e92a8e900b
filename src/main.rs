//! The `farspan` program.
fn main() {}
