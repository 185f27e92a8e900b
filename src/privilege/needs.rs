//! From a plan to what its process goes on to need once everything is open: a pure function, so that a test, `check` and
//! the documentation can say it without being root.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::daemon::DaemonPlan;
use crate::config::netns::Netns;
use crate::config::plan::{
    DestinationPlan, End, FilePath, OuterPackets, Probe, SessionPlan, SourcePlan, TransmitPlan, TunnelPlan, TunnelsPlan,
};
use crate::kernel::capabilities::{Capabilities, Capability};
use crate::sys::tun;

/// The first port that everybody may bind (`net.ipv4.ip_unprivileged_port_start`).
const FIRST_FREE_PORT: u16 = 1024;

/// Where TAP devices come from, and what keeps this host out of them: a device's own settings are not there yet.
const TAP_PLACES: [&str; 3] = [tun::CLONE_DEVICE, "/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"];

/// What a process goes on to need after everything is open. Everything else is given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Capabilities by their number, each with the first reason that was found.
    capabilities: BTreeMap<u8, (Capability, Reason)>,
    /// Capture files: they and those that follow them appear in their directories.
    pub files: BTreeSet<PathBuf>,
    /// Other files, and directories with all that is in them, that are written.
    pub writes: BTreeSet<PathBuf>,
    /// The same of what is read, beside what every program reads.
    pub reads: BTreeSet<PathBuf>,
}

/// How long a session lives: what is only opened once needs no capability afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// In the foreground: its sources are opened once, but for patterns, and it ends with them.
    Once,
    /// In the daemon: what fails is tried again, and interfaces come and go.
    Stays,
}

/// Why a capability stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A packet socket for each interface that comes, or comes back.
    Interfaces,
    /// The network namespace that they are in is entered for that.
    Namespace,
    /// It is found by a process of another user.
    ForeignProcess,
    /// Raw sockets of GRE and ERSPAN, after a failure.
    RawSockets,
    /// The mark of tunnel sockets, after a failure.
    Marks,
    /// Sockets of ICMP probes, after a failure.
    Probes,
    /// Receive buffers beyond `net.core.rmem_max`, after a failure.
    ReceiveBuffers,
    /// Endpoints at ports below 1024, after a failure.
    LowPorts,
    /// An AF_XDP socket on an output interface that comes back.
    XdpSocket,
    /// Its memory, beyond `ulimit -l`.
    XdpMemory,
    /// The XDP program of zero-copy mode, on an interface that comes back.
    XdpProgram,
    /// A TAP device that somebody deleted is made again.
    Tap,
    /// The next capture file, in a directory of another user.
    ForeignDirectory,
    /// `privileges.capabilities` says so.
    Asked,
}

impl Reason {
    /// Every reason there is: the documentation has a row for each.
    pub const ALL: [Self; 14] = [
        Self::Interfaces,
        Self::Namespace,
        Self::ForeignProcess,
        Self::RawSockets,
        Self::Marks,
        Self::Probes,
        Self::ReceiveBuffers,
        Self::LowPorts,
        Self::XdpSocket,
        Self::XdpMemory,
        Self::XdpProgram,
        Self::Tap,
        Self::ForeignDirectory,
        Self::Asked,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interfaces => "interfaces that come new or come back",
            Self::Namespace => "another network namespace, for interfaces there",
            Self::ForeignProcess => "the network namespace of a process or container",
            Self::RawSockets => "raw sockets that are opened again",
            Self::Marks => "the mark of tunnel sockets that are opened again",
            Self::Probes => "ICMP probes that are opened again",
            Self::ReceiveBuffers => "receive buffers beyond net.core.rmem_max, when an endpoint is opened again",
            Self::LowPorts => "a port below 1024 that is bound again",
            Self::XdpSocket => "AF_XDP on an output interface that comes back",
            Self::XdpMemory => "the memory of AF_XDP sockets",
            Self::XdpProgram => "the XDP program of zero-copy mode",
            Self::Tap => "a TAP device that is made again when somebody deletes it",
            Self::ForeignDirectory => "capture files in a directory of another user",
            Self::Asked => "privileges.capabilities",
        })
    }
}

impl Needs {
    /// What the session of `plan` needs. `receive_buffer` is `net.core.rmem_max`, in bytes.
    pub fn of(plan: &SessionPlan, life: Life, receive_buffer: u64) -> Self {
        let mut needs = Self::default();
        let stays = life == Life::Stays;
        match &plan.source {
            SourcePlan::Live(source) if stays || source.has_patterns() => needs.interfaces(source.netns.as_ref()),
            SourcePlan::Tunnels(tunnels) if stays => needs.endpoints(tunnels, receive_buffer),
            SourcePlan::Live(_) | SourcePlan::Tunnels(_) | SourcePlan::File(_) => {}
        }
        let files = plan.source.file().filter(|_| stays).map(|plan| plan.files.as_slice()).unwrap_or_default();
        for file in files {
            if let FilePath::Path(path) = file {
                needs.reads.insert(directory_of(path));
            }
        }
        for destination in &plan.destinations {
            needs.destination(destination, stays);
        }
        needs
    }

    /// What the daemon needs whose configuration was read from `directories`: all that its sessions do, and to read it again.
    pub fn of_daemon(plan: &DaemonPlan, directories: &BTreeSet<PathBuf>, receive_buffer: u64) -> Self {
        let mut needs = Self::default();
        for session in &plan.sessions {
            needs.and(Self::of(session, Life::Stays, receive_buffer));
        }
        for &capability in &plan.privileges.capabilities {
            needs.capability(capability, Reason::Asked);
            if capability == Capability::CAP_NET_ADMIN {
                needs.writes.extend(TAP_PLACES.map(PathBuf::from));
            }
        }
        needs.reads.extend(directories.iter().cloned());
        // The socket goes with the daemon, and a reload puts another one in its place.
        let socket = plan.control.socket.as_deref().map(directory_of);
        needs.writes.extend(socket.filter(|directory| plan.control.is_wanted || directory.is_dir()));
        needs
    }

    /// The same with one capability more.
    pub fn capability(&mut self, capability: Capability, reason: Reason) {
        self.capabilities.entry(capability.index()).or_insert((capability, reason));
    }

    /// The same with what `other` needs, too.
    pub fn and(&mut self, other: Self) {
        for (capability, reason) in other.capabilities.into_values() {
            self.capability(capability, reason);
        }
        self.files.extend(other.files);
        self.writes.extend(other.writes);
        self.reads.extend(other.reads);
    }

    /// The capabilities, each with its reason.
    pub fn capabilities(&self) -> impl Iterator<Item = (Capability, Reason)> {
        self.capabilities.values().copied()
    }

    /// Whether `capability` is needed.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains_key(&capability.index())
    }

    /// The capabilities as a set.
    pub fn set(&self) -> Capabilities {
        self.capabilities().map(|(capability, _)| capability).collect()
    }

    /// Interfaces that may come, in this network namespace.
    fn interfaces(&mut self, netns: Option<&Netns>) {
        self.capability(Capability::CAP_NET_RAW, Reason::Interfaces);
        let Some(netns) = netns else { return };
        self.capability(Capability::CAP_SYS_ADMIN, Reason::Namespace);
        match netns {
            Netns::Name(_) => {}
            Netns::Path(path) if !path.starts_with("/proc") => drop(self.reads.insert(directory_of(path))),
            Netns::Path(_) | Netns::Process(_) | Netns::Container(_) => {
                self.capability(Capability::CAP_SYS_PTRACE, Reason::ForeignProcess);
            }
        }
    }

    fn endpoints(&mut self, tunnels: &TunnelsPlan, receive_buffer: u64) {
        let OuterPackets::Sockets { buffer } = tunnels.outer else { return };
        let sockets = tunnels.sockets();
        if buffer / u64::try_from(sockets.len().max(1)).unwrap_or(1) > receive_buffer {
            self.capability(Capability::CAP_NET_ADMIN, Reason::ReceiveBuffers);
        }
        for port in sockets.iter().filter_map(|endpoints| endpoints.first()).map(|endpoint| endpoint.port) {
            match port {
                0 => self.capability(Capability::CAP_NET_RAW, Reason::RawSockets),
                1..FIRST_FREE_PORT => self.capability(Capability::CAP_NET_BIND_SERVICE, Reason::LowPorts),
                FIRST_FREE_PORT.. => {}
            }
        }
    }

    fn destination(&mut self, destination: &DestinationPlan, stays: bool) {
        match &destination.end {
            End::Tunnel(tunnel) => self.tunnel(tunnel, stays),
            End::File(_) => {}
            End::Tap(_) => {
                self.capability(Capability::CAP_NET_ADMIN, Reason::Tap);
                self.writes.extend(TAP_PLACES.map(PathBuf::from));
            }
        }
        if let Some(FilePath::Path(path)) = destination.file() {
            self.files.insert(path.clone());
        }
    }

    fn tunnel(&mut self, tunnel: &TunnelPlan, stays: bool) {
        if stays && tunnel.probe == Probe::Icmp {
            self.capability(Capability::CAP_NET_RAW, Reason::Probes);
        }
        match tunnel.transmit {
            TransmitPlan::Xdp { zero_copy } => {
                self.capability(Capability::CAP_NET_RAW, Reason::XdpSocket);
                self.capability(Capability::CAP_IPC_LOCK, Reason::XdpMemory);
                if zero_copy {
                    self.capability(Capability::CAP_NET_ADMIN, Reason::XdpProgram);
                    self.capability(Capability::CAP_BPF, Reason::XdpProgram);
                }
            }
            TransmitPlan::Socket if stays && tunnel.encapsulation.udp_port().is_none() => {
                self.capability(Capability::CAP_NET_RAW, Reason::RawSockets);
            }
            TransmitPlan::Socket if stays && tunnel.mark.is_some() => {
                self.capability(Capability::CAP_NET_RAW, Reason::Marks);
            }
            TransmitPlan::Socket | TransmitPlan::CaptureFile(_) => {}
        }
    }
}

/// `net.core.rmem_max`, in bytes: the largest receive buffer without `CAP_NET_ADMIN`.
pub fn largest_receive_buffer() -> u64 {
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max");
    limit.ok().and_then(|limit| limit.trim().parse().ok()).unwrap_or(0)
}

/// The directory that `path` is in.
pub fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::testing::session;

    /// What the session needs whose keys are `keys`, where the kernel gives sockets 208 KiB by itself.
    fn needs(keys: &str, life: Life) -> Needs {
        Needs::of(&session(&["[session.a]\n", keys].concat()).unwrap(), life, 212_992)
    }

    fn capabilities(keys: &str, life: Life) -> String {
        needs(keys, life)
            .capabilities()
            .map(|(name, _)| name.to_string().replace("CAP_", ""))
            .collect::<Vec<_>>()
            .join(" ")
    }

    const LIVE: &str = "source.interface = \"eth0\"\n";

    #[test]
    fn what_stays_is_what_will_be_opened_again() {
        let received = |endpoint: &str| format!("source.tunnel = \"{endpoint}\"\ndestination.b.to = \"pcap:-\"\n");
        let to = |destination: &str| format!("{LIVE}destination.b.to = \"{destination}\"\n");
        for (keys, once, stays) in [
            (to("vxlan://192.0.2.10?vni=42"), "", "NET_RAW"),
            (to("erspan1://192.0.2.10"), "", "NET_RAW"),
            (to("vxlan://192.0.2.10?vni=42&transmit=xdp"), "NET_RAW IPC_LOCK", "NET_RAW IPC_LOCK"),
            (
                to("vxlan://192.0.2.10?vni=42&transmit=xdp-zerocopy"),
                "NET_ADMIN NET_RAW IPC_LOCK BPF",
                "NET_ADMIN NET_RAW IPC_LOCK BPF",
            ),
            (to("tap:ids0"), "NET_ADMIN", "NET_ADMIN NET_RAW"),
            (received("vxlan://0.0.0.0"), "", "NET_ADMIN"),
            (received("vxlan://0.0.0.0") + "source.buffer = \"1MiB\"", "", "NET_ADMIN"),
            (received("vxlan://0.0.0.0:79"), "", "NET_BIND_SERVICE NET_ADMIN"),
            (received("erspan://0.0.0.0"), "", "NET_ADMIN NET_RAW"),
            ("source.file = \"a.pcap\"\ndestination.b.to = \"gre://192.0.2.10\"\n".to_owned(), "", "NET_RAW"),
            ("source.file = \"a.pcap\"\ndestination.b.to = \"vxlan://192.0.2.10?vni=1\"\n".to_owned(), "", "NET_RAW"),
            (
                "source.file = \"a.pcap\"\ndestination.b.to = \"vxlan://192.0.2.10?vni=1&probe=icmp\"\n".to_owned(),
                "",
                "NET_RAW",
            ),
            ("source.file = \"a.pcap\"\ndestination.b.to = \"pcap:b.pcap\"\n".to_owned(), "", ""),
        ] {
            assert_eq!(capabilities(&keys, Life::Once), once, "in the foreground: {keys}");
            assert_eq!(capabilities(&keys, Life::Stays), stays, "in the daemon: {keys}");
        }
    }

    #[test]
    fn files_and_devices_that_are_written_are_named() {
        let needs = needs(
            "source.file = \"/srv/a.pcap\"\ndestination.b.to = \"pcap:/srv/out/{time}.pcapng\"\n\
             destination.c.to = \"vxlan://192.0.2.10?vni=1&transmit=pcap:dry.pcap\"\ndestination.d.to = \"tap:ids0\"\n",
            Life::Stays,
        );
        assert_eq!(needs.files, ["/srv/out/{time}.pcapng", "dry.pcap"].map(PathBuf::from).into());
        assert_eq!(needs.reads, ["/srv"].map(PathBuf::from).into());
        assert!(needs.writes.contains(Path::new("/dev/net/tun")));
    }

    #[test]
    fn sessions_add_up_and_the_first_reason_stays() {
        let mut all = needs(&format!("{LIVE}destination.b.to = \"pcap:-\"\n"), Life::Stays);
        all.and(needs(
            &format!("{LIVE}destination.b.to = \"gre://192.0.2.10\"\ndestination.c.to = \"tap:ids0\"\n"),
            Life::Stays,
        ));
        let expected = [(Capability::CAP_NET_ADMIN, Reason::Tap), (Capability::CAP_NET_RAW, Reason::Interfaces)];
        assert_eq!(all.capabilities().collect::<Vec<_>>(), expected);
    }
}
