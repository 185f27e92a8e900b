//! Why a frame was not sent: one list for counters, messages, JSON and documentation.

use std::ops::{Add, Index, IndexMut};

use serde::{Serialize, Serializer};

/// Whether a drop was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The operator's rules say so.
    Policy,
    /// A frame that should have arrived did not. Only this is worth an alarm.
    Loss,
}

impl Kind {
    /// The word in metrics and documentation.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Loss => "loss",
        }
    }
}

/// Declares the reasons once, each with its label, kind, sentence and remedy.
macro_rules! reasons {
    ($($name:ident, $label:literal, $kind:ident, $sentence:literal, $remedy:literal;)*) => {
        /// Why a frame, or one of the pieces it was cut into, was not sent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $(#[doc = $sentence] $name,)*
        }

        impl DropReason {
            /// Every reason, policies first.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in JSON and metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }

            /// Policy or loss.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind),* }
            }

            /// What happened, for an operator.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }

            /// What to do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy),* }
            }
        }
    };
}

reasons! {
    OwnTraffic, "own_traffic", Policy,
        "the frame carries one of farspan's own tunnels, or an ICMP error about one",
        "none needed: mirroring the mirror would never end";
    Loop, "loop", Policy,
        "the frame contains one of farspan's own tunnels inside another tunnel or a relay's datagram, or more than 8 tunnels",
        "end the loop: the log names the host or relay and the filter to add";
    Filtered, "filtered", Policy,
        "the frame, without the tunnels that were taken off, does not match the filter",
        "none needed: the filter says so";
    SampledOut, "sampled_out", Policy,
        "the frame is not in the sample",
        "none needed: `sample` says so";
    Shed, "shed", Policy,
        "a limit is reached, and the frame's flow is among those that are left out",
        "raise the limit that the log names, or select less: a filter, or `sample`";
    NotAllowed, "not_allowed", Policy,
        "the tunnel's sender is none that --allow names",
        "if it should be heard, add its address to `allow`";
    OtherId, "other_id", Policy,
        "no endpoint takes this encapsulation with this VNI, key or session id",
        "if it is wanted, add it to the endpoint: vxlan://0.0.0.0?vni=42,43";
    NoTunnel, "no_tunnel", Policy,
        "the packet of the capture file carries no VXLAN, Geneve, GRE, ERSPAN, TZSP, HP ERM or Jmirror",
        "none needed; if it is VXLAN on another port, name it: --from vxlan://0.0.0.0:PORT";
    LoopThrottled, "loop_throttled", Loss,
        "most captured frames are the session's own output that comes back encrypted, so it sends ten frames per second",
        "end the loop: leave the tunnel that the log names out of the capture with a filter";
    TooShort, "too_short", Loss,
        "the frame is shorter than an Ethernet header",
        "look at the sender or the capture file: such a frame cannot be mirrored";
    Undecodable, "undecodable", Loss,
        "a link-layer, tunnel or fragment header is broken, so that no Ethernet frame can be made of it",
        "look at the capture with tshark; --strict refuses more than a receiver has to";
    NestedTooDeep, "nested_too_deep", Loss,
        "there are more tunnels inside each other than are ever taken off",
        "take off fewer: --decap 1; then look at what is inside with tshark";
    OwnExcess, "own_excess", Loss,
        "the frame looks like one of farspan's own tunnels, and there are more such frames on its interface than farspan sent",
        "find out with tcpdump -e who sends them: somebody forges them, or a switch sends the tunnel back";
    UnknownInterface, "unknown_interface", Loss,
        "the destination does not know the interface that the frame was captured on, so that it would leave under another one's id",
        "this is a defect of farspan: please report it with what the log says";
    Unsegmentable, "unsegmentable", Loss,
        "a super-frame whose wire segments cannot be known",
        "capture with engine = \"ring\", or switch off the offload that made it: ethtool -K IF tx-udp-segmentation off gro off";
    TooManySegments, "too_many_segments", Loss,
        "the super-frame would become more segments than `max_segments` allows",
        "find its sender with `tcpdump -e -v`; if such segments are wanted, raise `max_segments` or set it to off";
    SegmentOverload, "segment_overload", Loss,
        "the worker was late, and the super-frame would have become many small segments",
        "find its sender with `tcpdump -e -v`; give the worker a free core, or leave the sender out with a filter";
    Oversize, "oversize", Loss,
        "the frame with its encapsulation is larger than the path MTU and may not or cannot be split, or the TAP device has a smaller MTU",
        "raise the MTU of the path by the encapsulation's overhead, or choose another `fit`; a TAP device has its own `mtu`";
    SocketFull, "socket_full", Loss,
        "the socket's send buffer was full",
        "the underlay is slower than the mirror: select less, or limit the rate";
    DeviceBusy, "device_busy", Loss,
        "the underlay interface or its queueing discipline did not take the datagram, or the TAP device the frame",
        "look at `tc -s qdisc` and `ip -s link`: the underlay is slower than the mirror, or has no carrier";
    Unreachable, "unreachable", Loss,
        "there is no route to the destination, or its next hop does not answer",
        "check `ip route get` and `ip neigh` for the destination";
    NoDestination, "no_destination", Loss,
        "no destination was healthy",
        "look at the analyzers and the ways to them: `farspan status` says what speaks against each";
    InterfaceDown, "interface_down", Loss,
        "the underlay interface or the TAP device is down or gone",
        "check `ip link`";
    WriteFailed, "write_failed", Loss,
        "the kernel refused the datagram, or the file could not be written",
        "the log says with which error";
    ReaderGone, "reader_gone", Loss,
        "the program that read the pipe has ended",
        "restart the reader";
    ReaderSlow, "reader_slow", Loss,
        "the program that reads the pipe is slower than the mirror, and the queue in front of it is full",
        "give the reader more CPU time, enlarge `buffer`, or select less";
    Stopping, "stopping", Loss,
        "the session ended before the frame could be sent",
        "none: a destination did not take frames, or a super-frame was not finished, when the session was stopped";
    Crashed, "crashed", Loss,
        "the worker that held the frame ended unexpectedly",
        "this is a defect of farspan: please report it with what the log says";
}

/// A count for each [`DropReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// All drops together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self[reason])).filter(|&(_, count)| count > 0)
    }
}

impl Add for &Drops {
    type Output = Drops;
    fn add(self, other: Self) -> Drops {
        Drops(std::array::from_fn(|reason| self.0[reason] + other.0[reason]))
    }
}

impl Serialize for Drops {
    /// The reasons that occurred under their labels.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.nonzero().map(|(reason, count)| (reason.label(), count)))
    }
}

impl Index<DropReason> for Drops {
    type Output = u64;
    fn index(&self, reason: DropReason) -> &u64 {
        &self.0[reason as usize]
    }
}

impl IndexMut<DropReason> for Drops {
    fn index_mut(&mut self, reason: DropReason) -> &mut u64 {
        &mut self.0[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_slot_and_label() {
        let mut drops = Drops::default();
        for (position, &reason) in DropReason::ALL.iter().enumerate() {
            drops[reason] += 1 + position as u64;
        }
        let seen: Vec<u64> = drops.nonzero().map(|(_, count)| count).collect();
        assert_eq!(seen, (1..=DropReason::ALL.len() as u64).collect::<Vec<_>>());
        let labels: std::collections::HashSet<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        assert_eq!(drops.total(), seen.iter().sum::<u64>());
    }

    #[test]
    fn the_documentation_has_every_reason_in_these_words() {
        let documentation = include_str!("../../docs/METRICS.md");
        for reason in DropReason::ALL {
            let kind = reason.kind().label();
            let row = format!("| `{}` | {kind} | {} | {} |\n", reason.label(), reason.sentence(), reason.remedy());
            assert!(documentation.contains(&row), "docs/METRICS.md lacks: {row}");
        }
    }
}
