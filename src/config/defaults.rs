//! Every default in one place: help texts, the sample configuration and the documentation quote these.

use std::time::Duration;

/// IANA's UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;
/// IANA's UDP port of Geneve.
pub const GENEVE_PORT: u16 = 6081;
/// Capture memory of a session, in bytes: a 20 MB burst at 10 Gbit/s must fit.
pub const BUFFER: u64 = 24 << 20;
/// Smallest capture buffer of one interface, in bytes.
pub const LEAST_BUFFER: u64 = 1 << 20;
/// Longest time that a frame waits in the capture buffer.
pub const DELAY: Duration = Duration::from_millis(2);
/// Most UDP source ports that one tunnel uses: enough to spread over an analyzer's threads, few enough to batch.
pub const SOURCE_PORTS: u32 = 16;
/// How long a replay waits for a destination that takes nothing.
pub const REPLAY_PATIENCE: Duration = Duration::from_secs(30);
/// How long live frames wait for the next hop's first answer.
pub const NEXT_HOP_PATIENCE: Duration = Duration::from_secs(1);
/// How many live frames wait for the next hop's first answer.
pub const NEXT_HOP_QUEUE: usize = 64;
