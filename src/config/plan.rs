//! A session as it is meant: every value checked, every default filled in, nothing left to interpret.

mod limits;
mod tunnels;

pub use limits::{LimitPlan, PriorityPlan, SampleBy, SamplePlan, Scheduling};
pub use tunnels::{Decap, EndpointPlan, OuterPackets, Tag, Takes, TunnelsPlan};

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::time::Duration;

use super::defaults::{LEAST_BUFFER, MOST_TUNNELS};
use super::local_end::{CaptureFilePlan, TapPlan};
use super::netns::Netns;
use crate::flow::FlowKey;
use crate::quantity::{
    Direction, Directions, Dscp, ErspanIndex, ErspanSessionId, GreKey, Mtu, PortRange, Rate, SampleRate, SegmentLimit,
    Snaplen, SocketMark, Ttl, Vni, Weight, Workers,
};

/// One session: from sources to destinations.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionPlan {
    /// Identity in messages; `mirror` when the command line made it.
    pub name: String,
    /// Where frames come from.
    pub source: SourcePlan,
    /// How many tunnels are taken off frames of interfaces and files; `None`: they stay as they are. What is received in
    /// tunnels has a number of its own.
    pub decap: Option<Decap>,
    /// A BPF expression in the syntax of pcap-filter(7); empty keeps everything. It asks what is mirrored: the frame inside
    /// the tunnels that are taken off.
    pub filter: String,
    /// Which of them.
    pub sample: SamplePlan,
    /// The key of the flow hash, which decides what is sampled, shed and balanced; `None` is this installation's.
    pub seed: Option<FlowKey>,
    /// How frames are made wire-true.
    pub normalise: NormalisePlan,
    /// Which of the destinations get a frame.
    pub spread: Spread,
    /// Where they go; at least one. Names are unique.
    pub destinations: Vec<DestinationPlan>,
    /// What it may take from its host.
    pub limit: LimitPlan,
    /// How its workers stand back behind other programs.
    pub priority: PriorityPlan,
    /// When the session ends by itself.
    pub end: EndPlan,
}

impl SessionPlan {
    /// Whether a tunnel of this session must know which way a frame went: the directions have different ids, or the
    /// header says it (ERSPAN III).
    pub fn needs_direction(&self) -> bool {
        self.destinations.iter().any(|destination| match &destination.end {
            End::Tunnel(tunnel) => tunnel.encapsulation.needs_direction(),
            End::Tap(_) | End::File(_) => false,
        })
    }

    /// What of the filter is asked of frames as they are captured: nothing where tunnels are taken off them first.
    pub fn filter_of_captured(&self) -> &str {
        if self.decap.is_some() { "" } else { &self.filter }
    }

    /// How many tunnels are taken off frames of interfaces and files at most.
    pub fn tunnels_taken_off(&self) -> u8 {
        match self.decap {
            None => 0,
            Some(Decap::Levels(levels)) => levels,
            Some(Decap::All) => MOST_TUNNELS,
        }
    }

    /// The mark of the session's tunnels. Frames that carry it are another tunnel's datagrams, whichever process sends
    /// them, and are left out. `None` where no datagram leaves this host, or tunnels are not marked.
    pub fn mark(&self) -> Option<SocketMark> {
        self.destinations.iter().find_map(|destination| destination.live_tunnel()?.mark)
    }

    /// Whether the flow hash decides what is seen of this session's frames, or by whom.
    pub fn chooses_flows(&self) -> bool {
        let samples = self.sample.rate != SampleRate::ALL && self.sample.by == SampleBy::Flow;
        samples || self.limit.is_any() || self.spread == Spread::Balance
    }

    /// The CPU of worker `number`, counted from 0, if it is to have one.
    pub fn cpu(&self, number: usize) -> Option<usize> {
        match &self.source {
            SourcePlan::Live(live) => live.pin.get(number.checked_rem(live.pin.len())?).copied(),
            SourcePlan::File(_) | SourcePlan::Tunnels(_) => None,
        }
    }

    /// Memory of all the session's capture buffers together, in bytes: what it asks for. A file has none.
    pub fn buffer(&self) -> u64 {
        match &self.source {
            SourcePlan::Live(LivePlan { buffer, .. })
            | SourcePlan::Tunnels(TunnelsPlan { outer: OuterPackets::Sockets { buffer }, .. }) => *buffer,
            SourcePlan::File(_) | SourcePlan::Tunnels(_) => 0,
        }
    }

    /// The same session with buffers of so many bytes, if it has any.
    #[must_use]
    pub fn with_buffer(mut self, bytes: u64) -> Self {
        if let Some(buffer) = self.source.buffer_mut() {
            *buffer = bytes;
        }
        self
    }

    /// The least that its buffers can be, as far as it is known how many there will be: a pattern counts as one interface.
    pub fn least_buffer(&self) -> u64 {
        match &self.source {
            SourcePlan::Live(live) => {
                let rings = live.interfaces.len() * usize::from(live.workers.value());
                LEAST_BUFFER.saturating_mul(u64::try_from(rings).unwrap_or(u64::MAX))
            }
            SourcePlan::Tunnels(TunnelsPlan { outer: OuterPackets::Sockets { buffer }, .. }) => {
                LEAST_BUFFER.min(*buffer)
            }
            SourcePlan::File(_) | SourcePlan::Tunnels(_) => 0,
        }
    }

    /// How many worker threads there are: a file has one, which keeps its order, and so have tunnels, whose datagrams are
    /// numbered.
    pub fn workers(&self) -> Workers {
        match &self.source {
            SourcePlan::Live(live) => live.workers,
            SourcePlan::File(_) | SourcePlan::Tunnels(_) => Workers::LEAST,
        }
    }
}

/// Where frames come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SourcePlan {
    /// Interfaces of this host.
    Live(LivePlan),
    /// Capture files.
    File(FilePlan),
    /// Tunnels in which others send their mirrors.
    Tunnels(TunnelsPlan),
}

impl SourcePlan {
    /// The memory of all capture or receive buffers together, in bytes, where there are some.
    pub fn buffer_mut(&mut self) -> Option<&mut u64> {
        match self {
            Self::Live(live) => Some(&mut live.buffer),
            Self::Tunnels(TunnelsPlan { outer: OuterPackets::Sockets { buffer }, .. }) => Some(buffer),
            Self::Tunnels(_) | Self::File(_) => None,
        }
    }

    /// The capture files that are read, if some are: of frames, or of outer packets.
    pub fn file(&self) -> Option<&FilePlan> {
        match self {
            Self::File(file) | Self::Tunnels(TunnelsPlan { outer: OuterPackets::File(file), .. }) => Some(file),
            Self::Live(_) | Self::Tunnels(_) => None,
        }
    }
}

/// Interfaces of this host.
#[derive(Clone, Debug, PartialEq)]
pub struct LivePlan {
    /// Names or glob patterns; at least one.
    pub interfaces: Vec<String>,
    /// Which directions.
    pub directions: Directions,
    /// Whether the interface is asked for frames that are not for this host.
    pub promiscuous: bool,
    /// What captures.
    pub engine: Engine,
    /// Memory of all capture buffers of the session together, in bytes. Where more interfaces appear than it has room for,
    /// small rings are borrowed from what [`LimitPlan::memory`] or the daemon's limit leaves.
    pub buffer: u64,
    /// Most interfaces at one time.
    pub max_interfaces: usize,
    /// Longest time that a frame waits in the capture buffer.
    pub delay: Duration,
    /// How many threads share the flows.
    pub workers: Workers,
    /// CPUs by number: worker n runs on the n-th one, from the front again behind the last. Empty: where the kernel
    /// likes.
    pub pin: Vec<usize>,
    /// The network namespace that the interfaces are in; farspan's own unless given. Tunnels leave from farspan's own.
    pub netns: Option<Netns>,
}

impl LivePlan {
    /// Whether it means interfaces that nobody has named, so that others may appear.
    pub fn has_patterns(&self) -> bool {
        self.interfaces.iter().any(|name| is_pattern(name))
    }

    /// By which name or pattern it would capture `device` of farspan's own network namespace, if it would.
    pub fn captures(&self, device: &str) -> Option<&str> {
        let is_meant = |pattern: &&String| *pattern == ANY || super::matches(pattern, device);
        self.interfaces.iter().filter(|_| self.netns.is_none()).find(is_meant).map(String::as_str)
    }
}

/// libpcap's name for every interface at once.
pub const ANY: &str = "any";

/// Whether `name` is a pattern of interface names, rather than the name of one.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// What captures on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The ring where it is possible, else libpcap.
    #[default]
    Auto,
    /// A packet ring of our own: the kernel tells offloads and directions exactly. Ethernet interfaces only.
    Ring,
    /// libpcap: any link type; offloads are recognised.
    Pcap,
}

/// Capture files: pcap or pcapng, compressed or not.
#[derive(Clone, Debug, PartialEq)]
pub struct FilePlan {
    /// Which ones; at least one. Several are merged in the order of their timestamps.
    pub files: Vec<FilePath>,
    /// How fast they are replayed.
    pub pace: Pace,
    /// With [`Pace::Recorded`]: longest wait between two frames.
    pub longest_pause: Option<Duration>,
}

impl FilePlan {
    /// One file, as fast as it can be read.
    pub fn unpaced(file: FilePath) -> Self {
        Self { files: vec![file], pace: Pace::Unpaced, longest_pause: None }
    }

    /// Whether one of the files is a standard stream or a named pipe.
    pub fn has_pipe(&self) -> bool {
        self.files.iter().any(FilePath::is_pipe)
    }
}

/// A file or a standard stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilePath {
    /// `-`: standard input or output.
    Standard,
    /// A path.
    Path(PathBuf),
}

impl FilePath {
    /// Whether it is a standard stream or a named pipe: whoever reads or writes it may wait for its other end.
    pub fn is_pipe(&self) -> bool {
        match self {
            Self::Standard => true,
            Self::Path(path) => path.metadata().is_ok_and(|about| about.file_type().is_fifo()),
        }
    }
}

/// How fast a file is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the destinations take it.
    Unpaced,
    /// With the gaps between the recorded timestamps.
    Recorded,
    /// At a constant rate.
    Rate(Rate),
}

/// Which destinations get a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// All of them.
    #[default]
    Replicate,
    /// One: that of the frame's flow, both directions together, among those that are healthy.
    Balance,
    /// One: the first that is healthy, in the order of the plan.
    Failover,
}

/// How a tunnel's destination is asked whether it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    /// Not at all: what the kernel and the network say by themselves decides.
    #[default]
    Off,
    /// By ICMP echo.
    Icmp,
    /// By a TCP connection to this port.
    Tcp(NonZeroU16),
}

/// How frames are made wire-true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormalisePlan {
    /// Whether segmentation and checksum offloads are undone: on for interfaces, off for files.
    pub enabled: bool,
    /// For files: the MTU of the link the file was recorded on. Interfaces know their own.
    pub mtu: Mtu,
    /// Keep only this many bytes of each wire frame.
    pub truncate: Option<Snaplen>,
    /// Most wire segments of one super-frame; `None` is no limit.
    pub max_segments: Option<SegmentLimit>,
}

/// When a session ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndPlan {
    /// After this many captured frames.
    pub count: Option<u64>,
    /// After this time.
    pub duration: Option<Duration>,
}

/// Where frames go.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationPlan {
    /// Identity in ledger, metrics and messages: `[a-z0-9-]{1,32}`; `1`, `2`, … on the command line.
    pub name: String,
    /// As the operator wrote it.
    pub to: String,
    /// Its share of the flows beside the other destinations' weights, with [`Spread::Balance`].
    pub weight: Weight,
    /// What it is.
    pub end: End,
}

impl DestinationPlan {
    /// What messages call it: its name, and where it sends.
    pub fn place(&self) -> String {
        format!("destination {} ({})", self.name, self.to)
    }

    /// The capture file that it writes, if it writes one: inner frames, or the dry run of a tunnel.
    pub fn file(&self) -> Option<&FilePath> {
        match &self.end {
            End::File(plan) => Some(&plan.file),
            End::Tap(_) => None,
            End::Tunnel(tunnel) => match &tunnel.transmit {
                TransmitPlan::CaptureFile(file) => Some(file),
                TransmitPlan::Socket | TransmitPlan::Xdp { .. } => None,
            },
        }
    }

    /// The tunnel, if datagrams of it leave this host: no dry run.
    pub fn live_tunnel(&self) -> Option<&TunnelPlan> {
        match &self.end {
            End::Tunnel(tunnel) => Some(tunnel).filter(|tunnel| tunnel.is_live()),
            End::Tap(_) | End::File(_) => None,
        }
    }

    /// How its datagrams leave, if it is a tunnel.
    pub fn transmit(&self) -> Option<&TransmitPlan> {
        match &self.end {
            End::Tap(_) | End::File(_) => None,
            End::Tunnel(tunnel) => Some(&tunnel.transmit),
        }
    }

    /// The same destination with the UDP source ports that worker `number` of `workers` may send from.
    #[must_use]
    pub fn of_worker(&self, number: u32, workers: Workers) -> Self {
        let mut plan = self.clone();
        if let End::Tunnel(tunnel) = &mut plan.end {
            tunnel.ports = tunnel.ports.part(number, workers.value().into());
        }
        plan
    }

    /// Whether it gives inner frames to this host, so that there is no way to be found.
    pub fn is_local(&self) -> bool {
        !matches!(self.end, End::Tunnel(_))
    }
}

/// What a destination is.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// A tunnel to an analyzer.
    Tunnel(TunnelPlan),
    /// A TAP device: inner frames for programs of this host.
    Tap(TapPlan),
    /// A capture file of inner frames.
    File(CaptureFilePlan),
}

/// A tunnel to an analyzer.
#[derive(Clone, Debug, PartialEq)]
pub struct TunnelPlan {
    /// The encapsulation with its ids.
    pub encapsulation: Encapsulation,
    /// The analyzer: an address or a name that is resolved at start.
    pub host: Host,
    /// What to do with a frame that does not fit the path MTU.
    pub fit: Fit,
    /// The program that listens there, if the operator told us: only `check` reads it.
    pub analyzer: Option<Analyzer>,
    /// Source address of the outer packets; the route's choice unless given.
    pub source: Option<IpAddr>,
    /// Underlay interface that the sockets are bound to; the route's choice unless given.
    pub device: Option<String>,
    /// Source ports of VXLAN and Geneve.
    pub ports: PortRange,
    /// Code point of the outer header.
    pub dscp: Dscp,
    /// Time to live of the outer header.
    pub ttl: Ttl,
    /// Checksum of the outer UDP header.
    pub udp_checksum: UdpChecksum,
    /// Whether datagrams leave in runs (UDP GSO); never those of GRE and ERSPAN.
    pub gso: Gso,
    /// How datagrams leave.
    pub transmit: TransmitPlan,
    /// How the analyzer is asked whether it is there.
    pub probe: Probe,
    /// The path MTU, whatever routes and ICMP say; `None`: what they say.
    pub mtu: Option<Mtu>,
    /// The least path MTU that is believed when it was learnt from ICMP.
    pub mtu_floor: Mtu,
    /// How often its name is looked up again; `None`: never. An address is never looked up.
    pub resolve: Option<Duration>,
    /// What its sockets are marked with; the same for all tunnels of a process. `None`: not at all.
    pub mark: Option<SocketMark>,
}

impl TunnelPlan {
    /// Whether datagrams leave this host, by whatever engine: it is no dry run.
    pub fn is_live(&self) -> bool {
        !matches!(self.transmit, TransmitPlan::CaptureFile(_))
    }
}

#[cfg(test)]
impl TunnelPlan {
    /// A tunnel with every default.
    pub(crate) fn with_defaults(encapsulation: Encapsulation, host: Host) -> Self {
        Self {
            encapsulation,
            host,
            fit: Fit::Split,
            analyzer: None,
            source: None,
            device: None,
            ports: PortRange::DYNAMIC,
            dscp: Dscp::DEFAULT,
            ttl: Ttl::DEFAULT,
            udp_checksum: UdpChecksum::Auto,
            gso: Gso::Auto,
            transmit: TransmitPlan::Socket,
            probe: Probe::Off,
            mtu: None,
            mtu_floor: crate::config::defaults::MTU_FLOOR,
            resolve: Some(crate::config::defaults::RESOLVE),
            mark: Some(SocketMark::DEFAULT),
        }
    }
}

/// The analyzer's address as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
}

/// An encapsulation with the ids that keep several taps apart in one analyzer.
#[derive(Clone, Debug, PartialEq)]
pub enum Encapsulation {
    /// RFC 7348.
    Vxlan {
        /// Network identifier.
        vni: Ids<Vni>,
        /// UDP destination port.
        port: u16,
    },
    /// RFC 8926, without options.
    Geneve {
        /// Network identifier.
        vni: Ids<Vni>,
        /// UDP destination port.
        port: u16,
    },
    /// RFC 2784 and 2890, protocol type 0x6558 (Transparent Ethernet Bridging).
    Gre {
        /// Key; absent from the header unless given.
        key: Option<Ids<GreKey>>,
        /// Whether the header carries a sequence number.
        sequence: bool,
    },
    /// GRE 0x88be without any flag.
    Erspan1,
    /// GRE 0x88be with sequence number and an 8-byte header.
    Erspan2 {
        /// Session id.
        session: Ids<ErspanSessionId>,
        /// Index.
        index: ErspanIndex,
    },
    /// GRE 0x22eb with sequence number and a 12-byte header.
    Erspan3 {
        /// Session id.
        session: Ids<ErspanSessionId>,
    },
}

impl Encapsulation {
    /// The UDP port that it is sent to; `None` for GRE and ERSPAN.
    pub fn udp_port(&self) -> Option<u16> {
        match *self {
            Self::Vxlan { port, .. } | Self::Geneve { port, .. } => Some(port),
            Self::Gre { .. } | Self::Erspan1 | Self::Erspan2 { .. } | Self::Erspan3 { .. } => None,
        }
    }

    fn needs_direction(&self) -> bool {
        match self {
            Self::Vxlan { vni, .. } | Self::Geneve { vni, .. } => vni.differ_by_direction(),
            Self::Gre { key, .. } => key.as_ref().is_some_and(Ids::differ_by_direction),
            Self::Erspan1 => false,
            Self::Erspan2 { session, .. } => session.differ_by_direction(),
            Self::Erspan3 { .. } => true,
        }
    }
}

/// An id that may differ by interface and direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids<T> {
    /// Patterns of interface names with their id, asked in this order; the last one is `*` when a plain number was
    /// written.
    pub by_interface: Vec<(String, T)>,
    /// The same for frames that went out; empty: as `by_interface`.
    pub out_by_interface: Vec<(String, T)>,
}

impl<T: Copy> Ids<T> {
    /// One id for everything.
    pub fn all(id: T) -> Self {
        Self { by_interface: vec![("*".to_owned(), id)], out_by_interface: Vec::new() }
    }

    /// Whether the two directions have different ids, so that the source must tell them apart.
    fn differ_by_direction(&self) -> bool {
        !self.out_by_interface.is_empty()
    }

    /// The same patterns with what `convert` makes of their ids.
    pub fn map<U>(&self, mut convert: impl FnMut(T) -> U) -> Ids<U> {
        let mut each = |patterns: &[(String, T)]| -> Vec<(String, U)> {
            patterns.iter().map(|(pattern, id)| (pattern.clone(), convert(*id))).collect()
        };
        Ids { by_interface: each(&self.by_interface), out_by_interface: each(&self.out_by_interface) }
    }

    /// The id for frames of `interface` that went `direction`; `None` when no pattern matches.
    pub fn resolve(&self, interface: &str, direction: Option<Direction>) -> Option<T> {
        let find = |patterns: &[(String, T)]| {
            patterns.iter().find(|(pattern, _)| crate::config::matches(pattern, interface)).map(|&(_, id)| id)
        };
        match direction {
            Some(Direction::Out) => find(&self.out_by_interface).or_else(|| find(&self.by_interface)),
            _ => find(&self.by_interface),
        }
    }
}

/// What to do when frame and encapsulation are larger than the path MTU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// Split the inner packet: TCP into valid segments, other IP into inner fragments. No outer fragment leaves.
    #[default]
    Split,
    /// Let the kernel fragment the outer packet.
    Fragment,
    /// Cut the frame.
    Truncate,
    /// Drop the frame.
    Drop,
}

/// Programs whose limits `check` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Analyzer {
    /// Suricata 7 or later.
    Suricata,
    /// Zeek.
    Zeek,
    /// Snort 3.
    Snort,
    /// Arkime.
    Arkime,
    /// The Linux kernel's own tunnel devices.
    Linux,
}

/// Checksum of the outer UDP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UdpChecksum {
    /// Computed over IPv6 (RFC 8200) and where datagrams leave in runs, which need it; else zero (RFC 7348 section 5).
    #[default]
    Auto,
    /// Computed.
    On,
    /// Zero.
    Off,
}

/// Whether datagrams of equal length pass the kernel together (UDP GSO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Where the kernel is sure to cut them apart before the interface.
    #[default]
    Auto,
    /// Until the kernel or the interface refuses one.
    On,
    /// Never.
    Off,
}

/// How datagrams leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TransmitPlan {
    /// Through UDP and raw sockets.
    #[default]
    Socket,
    /// As whole frames through an AF_XDP socket, past the kernel's IP stack, firewall and queueing disciplines.
    Xdp {
        /// Whether the network card may read them where they were written, which costs the interface an XDP program and
        /// its queue another receive path.
        zero_copy: bool,
    },
    /// The dry run: outer frames are written to a capture file as they would leave.
    CaptureFile(FilePath),
}

impl TransmitPlan {
    /// Whether it is AF_XDP, in whichever mode.
    pub const fn is_xdp(&self) -> bool {
        matches!(self, Self::Xdp { .. })
    }
}
