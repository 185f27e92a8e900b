//! What holds unless a key says otherwise: help texts, the sample configuration and the documentation quote these.
//! A type with a default of its own (`Fit`, `Ttl`, `PortRange`) has it beside its definition.

use std::time::Duration;

use crate::quantity::{ErspanIndex, Mtu, Workers};
use crate::wire::geneve::Geneve;
use crate::wire::vxlan::Vxlan;

/// Name of the session that the command line makes.
pub const SESSION: &str = "mirror";

/// UDP destination port of VXLAN: IANA's.
pub const VXLAN_PORT: u16 = Vxlan::PORT;
/// UDP destination port of Geneve: IANA's.
pub const GENEVE_PORT: u16 = Geneve::PORT;
/// Capture memory of a session, in bytes: a 20 MB burst at 10 Gbit/s must fit.
pub const BUFFER: u64 = 24 << 20;
/// Smallest capture buffer of one interface, in bytes.
pub const LEAST_BUFFER: u64 = 1 << 20;
/// Smallest ring of one interface and worker, in bytes, where the memory is used up: two blocks.
pub const LEAST_RING: u64 = 512 << 10;
/// Most interfaces of a session at one time.
pub const MAX_INTERFACES: usize = 512;
/// Memory of the capture buffers of all the daemon's sessions together, in bytes: ten sessions have all they ask for, and
/// two hundred more than a Mebibyte each. It is the kernel's memory and cannot be swapped out: more than that is the
/// operator's decision.
pub const TOTAL_MEMORY: u64 = 256 << 20;
/// Whether the daemon reads its configuration again when a file changes: an editor writes a file in several steps, and an
/// operator who has written all of them says so.
pub const RELOAD_WATCH: bool = false;
/// Where the control socket is.
pub const CONTROL_SOCKET: &str = "/run/farspan/control.sock";
/// Longest time that a frame waits in the capture buffer.
pub const DELAY: Duration = Duration::from_millis(2);
/// Worker threads of a session: one carries a busy Gigabit link, and costs least for each frame.
pub const WORKERS: Workers = Workers::LEAST;
/// Whether interfaces are asked for frames that are not for this host: a tap wants all of them.
pub const PROMISCUOUS: bool = true;
/// Whether GRE headers carry a sequence number: many receivers take only the plain header.
pub const GRE_SEQUENCE: bool = false;
/// ERSPAN II index: the field belongs to the platform, and analyzers ignore it.
pub const ERSPAN_INDEX: ErspanIndex = ErspanIndex::LEAST;
/// Most tunnels that are taken off one frame: more than any network nests, few enough that a frame made to nest cannot
/// keep a worker busy.
pub const MOST_TUNNELS: u8 = 8;
/// Most UDP source ports that one tunnel uses: enough to spread over an analyzer's threads, few enough to batch.
pub const SOURCE_PORTS: u32 = 16;
/// Largest MTU of a TAP device.
pub const MOST_TAP_MTU: Mtu = Mtu::MOST_TAP;
/// Between two look-ups of an analyzer's name: the usual time to live of DNS records that are meant to change.
pub const RESOLVE: Duration = Duration::from_mins(1);
/// Most destinations that share a session's frames.
pub const MOST_SHARING: usize = 64;
/// How long a replay waits for a destination that takes nothing.
pub const REPLAY_PATIENCE: Duration = Duration::from_secs(30);
/// How long live frames wait for the next hop's first answer.
pub const NEXT_HOP_PATIENCE: Duration = Duration::from_secs(1);
/// How many live frames wait for the next hop's first answer.
pub const NEXT_HOP_QUEUE: usize = 64;

/// The least path MTU that is believed when ICMP reports it: what every IPv6 link carries (RFC 8200 section 5). An IPv4 path
/// that is narrower takes the key `mtu`.
pub const MTU_FLOOR: Mtu = Mtu::IPV6_LEAST;
