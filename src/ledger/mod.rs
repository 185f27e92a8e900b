//! The ledger: the one fate of every frame, counted once, and the law that nothing is missing.
//!
//! Three blocks that never mix: *fates*, which are ours and balance exactly after every flush; what the *kernel* says
//! it dropped before we saw it; and *reports*, which stand beside the law (ICMP, what was rewritten, delays).

mod delays;
mod law;
mod present;
mod publish;
mod read;
mod reason;
mod senders;
mod sum;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use delays::Delays;
pub use law::Imbalance;
pub use publish::Published;
pub use reason::{DropReason, Drops, Kind};
pub use senders::{SenderLedger, Senders};

/// Everything one worker counts. Counters only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Frames that a source handed to the path.
    pub captured: u64,
    /// Frames that ended in select.
    pub not_selected: Drops,
    /// Frames that ended in normalise.
    pub not_normalised: Drops,
    /// Of the selected frames, those that came cut: shorter than they were on the wire, or than their IP packet says. They are
    /// mirrored as they are.
    pub cut: u64,
    /// Extra frames that segmenting made out of super-frames: a super-frame of n segments adds n − 1.
    pub segments_added: u64,
    /// Wire frames that were offered to the destinations.
    pub offered: u64,
    /// Whether every destination was assigned an offered frame, or one of them.
    pub assignment: Assignment,
    /// Offered frames that no destination was assigned.
    pub not_assigned: Drops,
    /// The destinations' own accounts, in the order of the plan.
    pub destinations: Vec<DestinationLedger>,
    /// What the kernel dropped before we saw it.
    pub kernel: KernelDrops,
    /// What normalise rewrote.
    pub rewritten: Rewritten,
    /// What became of tunnels in sniffed frames.
    pub decapsulated: Decapsulated,
    /// Who sent what was received in tunnels.
    pub senders: Senders,
    /// How long live frames took.
    pub delays: Delays,
    /// How many workers are throttled because their output comes back: a state, not a counter.
    pub loop_alarm: u64,
    /// Interfaces that the session meant and had no room for, because its memory or `source.max_interfaces` was used up.
    pub refused_interfaces: u64,
}

/// How many destinations get an offered frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// All of them.
    #[default]
    Each,
    /// One, or none where none is healthy.
    One,
}

impl Assignment {
    /// Whether it is what nobody has to say.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the field")]
    pub(super) fn is_each(&self) -> bool {
        *self == Self::Each
    }
}

/// One destination's account. Its fields are keys of the JSON object, in this order: [`Ledger::to_json`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationLedger {
    /// The destination's name in the plan.
    pub name: Arc<str>,
    /// Where it sends, as the operator wrote it.
    pub to: Arc<str>,
    /// Wire frames that were given to this destination.
    pub assigned: u64,
    /// Extra frames that fitting to the path MTU made: a frame split into n pieces adds n − 1.
    pub split_added: u64,
    /// Inner frames that the kernel took without reporting an error for them, or that were written.
    pub sent: u64,
    /// Frames that wait in a batch for the next flush; 0 when a session has ended.
    pub in_flight: u64,
    /// Of the sent ones: frames that were cut to fit (`fit = "truncate"`).
    pub truncated: u64,
    /// Datagrams handed to the kernel.
    pub datagrams: u64,
    /// Bytes of outer IP packets handed to the kernel; of records for a capture file.
    pub bytes: u64,
    /// Frames that were not sent, by reason.
    pub dropped: Drops,
    /// Of the sent ones: frames whose records somebody else removed, with the capture file or by cutting it.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost_from_file: u64,
    /// ICMP errors that came back: reports, never fates.
    pub icmp: IcmpReports,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the field")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What the kernel dropped between interface and source, as rising totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelDrops {
    /// Frames lost because the capture buffer was full.
    pub buffer_full: u64,
    /// Frames that the interface or its driver dropped, where libpcap can tell.
    pub interface: u64,
    /// Frames that the kernel did not copy into the packet ring, because the `virtio_net_hdr` in front of each frame has no
    /// word for their segmentation offload (UFO, SCTP).
    pub untold: u64,
}

impl KernelDrops {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.buffer_full + self.interface + self.untold
    }
}

/// ICMP errors about our datagrams. Its fields are keys of the JSON object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IcmpReports {
    /// Port or protocol unreachable: the normal answer of an analyzer that only sniffs.
    pub port_unreachable: u64,
    /// Host or network unreachable: speaks against the destination.
    pub host_unreachable: u64,
    /// Fragmentation needed or packet too big: the path MTU was learnt from it.
    pub too_big: u64,
    /// Everything else.
    pub other: u64,
}

/// What normalise finished that the hardware would have finished. Its fields are keys of the JSON object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewritten {
    /// Super-frames cut into wire segments.
    pub super_frames: u64,
    /// Partial checksums finished.
    pub checksums: u64,
    /// VLAN tags put back.
    pub tags: u64,
}

/// Wire frames of a session that takes tunnels off what it captures: reports beside the law. Its fields are keys of the JSON
/// object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decapsulated {
    /// Frames that at least one tunnel was taken off.
    pub frames: u64,
    /// Frames that go on with what looks like a tunnel: its header is broken, or announces something else than a frame or
    /// packet, or there are more tunnels than are ever taken off.
    pub left_on: u64,
    /// Frames that go on as IP fragments of UDP or GRE, which may be a tunnel's.
    pub fragments: u64,
}

impl Decapsulated {
    /// Whether there was nothing that looked like a tunnel.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the field")]
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Ledger {
    /// An empty ledger for destinations with these names and addresses.
    pub fn new<'a>(destinations: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let destinations = destinations
            .into_iter()
            .map(|(name, to)| DestinationLedger { name: name.into(), to: to.into(), ..Default::default() })
            .collect();
        Self { destinations, ..Self::default() }
    }

    /// The same, with another number of destinations that a frame is assigned.
    #[must_use]
    pub fn assigning(self, assignment: Assignment) -> Self {
        Self { assignment, ..self }
    }

    /// What ended before any destination: in select, in normalise, or because there was none for it.
    pub fn dropped(&self) -> Drops {
        &(&self.not_selected + &self.not_normalised) + &self.not_assigned
    }

    /// Wire frames that were made so far, whatever became of them: how much work was done.
    pub fn wire_frames(&self) -> u64 {
        self.offered + self.not_normalised.total()
    }

    /// ICMP reports of all destinations together.
    pub fn icmp(&self) -> IcmpReports {
        self.destinations.iter().fold(IcmpReports::default(), |sum, destination| sum + destination.icmp)
    }
}
