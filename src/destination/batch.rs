//! Datagrams on their way to one engine.

/// Datagrams on their way to one engine, each with its flow bucket.
#[derive(Debug)]
pub struct Batch {}
