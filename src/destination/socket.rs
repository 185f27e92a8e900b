//! One socket of the underlay: the options that every tunnel's sockets share, and the calls behind them.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockAddr, SockFilter, SockRef, Socket};

use super::open_error::OpenError;
use super::socket_bank::DatagramSocket;
use crate::config::plan::{Fit, TunnelPlan};
use crate::kernel::error_queue::{ErrorQueue, Report};
use crate::kernel::underlay::Underlay;
use crate::quantity::SocketMark;
use crate::sys::mmsg;
use crate::sys::socket_option::IntOption;

/// A datagram socket to one analyzer. It is connected, which saves the kernel looking for the way of every datagram; a
/// pending ICMP error, which costs a connected socket its next datagram, is taken off before that is sent again.
#[derive(Debug)]
pub(super) struct TunnelSocket {
    socket: Socket,
    remote: IpAddr,
    to: SockAddr,
    error_queue: ErrorQueue,
    is_marked: bool,
    /// Whether the kernel may cut datagrams.
    fragments: bool,
    /// Whether the kernel ignores on it what it learnt of the path MTU.
    ignores_learnt_mtu: bool,
}

/// Bytes that may wait in one socket, as the kernel counts them: enough for a batch, so that a busy device says so
/// (`ENOBUFS`) before the socket does (`EAGAIN`).
const SEND_BUFFER: usize = 2 << 20;

/// How long a replay naps when the device's queue is full: some hundred kilobytes at 10 Gbit/s.
const NAP: Duration = Duration::from_micros(500);

impl TunnelSocket {
    /// Prepares `socket`, which is neither bound nor connected, to send to `port` of the analyzer (0 without ports).
    ///
    /// # Errors
    /// The socket call that the kernel refused.
    pub(super) fn prepare(
        socket: Socket,
        plan: &TunnelPlan,
        underlay: &Underlay,
        port: u16,
    ) -> Result<Self, OpenError> {
        use OpenError as E;
        // We never read, so nothing may pile up: a filter that keeps 0 bytes of every packet. The error queue has its
        // own way in and is not filtered.
        const RETURN_CONSTANT: u16 = 0x06; // BPF_RET | BPF_K
        socket.attach_filter(&[SockFilter::new(RETURN_CONSTANT, 0, 0, 0)]).map_err(E::socket("attach a filter to"))?;
        if let Some(device) = &plan.device {
            socket.bind_device(Some(device.as_bytes())).map_err(|cause| E::Device { device: device.clone(), cause })?;
        }
        // Before it is connected: the route may depend on the mark.
        let is_marked = mark(&socket, plan.mark).map_err(E::socket("mark"))?;
        set_ip_options(&socket, plan, underlay.remote())?;
        // The forced one needs CAP_NET_ADMIN and may exceed net.core.wmem_max. Less than asked for only makes `EAGAIN`
        // more likely than `ENOBUFS`; both are counted.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER));
        let to = SockAddr::from(address(underlay, underlay.remote(), port));
        let (remote, error_queue) = (underlay.remote(), ErrorQueue::new());
        let fragments = plan.fit == Fit::Fragment;
        let mut socket = Self { socket, remote, to, error_queue, is_marked, fragments, ignores_learnt_mtu: false };
        if underlay.has_pinned_mtu() {
            socket.ignore_learnt_mtu();
        }
        Ok(socket)
    }

    /// Binds to `port` (0 without ports) of the local address and connects to the analyzer.
    ///
    /// # Errors
    /// The kernel's: `EADDRINUSE`, `EADDRNOTAVAIL`.
    pub(super) fn bind(&self, underlay: &Underlay, port: u16) -> io::Result<()> {
        self.socket.bind(&SockAddr::from(address(underlay, underlay.local(), port)))?;
        self.socket.connect(&self.to)
    }

    /// Whether its packets carry the mark that they are to carry, if they are.
    pub(super) fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// The socket itself, for the options of one protocol.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }
}

/// Has the packets of `socket` carry `mark`, and says whether they do, or need none: it takes `CAP_NET_RAW` (since
/// Linux 5.17, `net/core/sock.c:sk_setsockopt`) or `CAP_NET_ADMIN`.
pub(super) fn mark<'s>(socket: impl Into<SockRef<'s>>, mark: Option<SocketMark>) -> io::Result<bool> {
    match mark.map(|mark| socket.into().set_mark(mark.value())) {
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Some(Err(error)) => Err(error),
        Some(Ok(())) | None => Ok(true),
    }
}

/// Header fields, fragmentation and error reporting.
fn set_ip_options(socket: &Socket, plan: &TunnelPlan, remote: IpAddr) -> Result<(), OpenError> {
    use OpenError as E;
    let traffic_class = u32::from(plan.dscp.value()) << 2; // the two bits below are ECN and stay 00
    let ttl = u32::from(plan.ttl.value());
    match remote {
        IpAddr::V4(_) => {
            let discover = if plan.fit == Fit::Fragment { libc::IP_PMTUDISC_DONT } else { libc::IP_PMTUDISC_DO };
            socket.set_tos_v4(traffic_class).map_err(E::socket("set the DSCP of"))?;
            socket.set_ttl_v4(ttl).map_err(E::socket("set the TTL of"))?;
            IntOption::MTU_DISCOVER_V4.set(socket.as_fd(), discover).map_err(E::socket("set DF for"))?;
            setsockopt(socket, sockopt::Ipv4RecvErr, &true).map_err(|e| E::socket("watch the errors of")(e.into()))
        }
        IpAddr::V6(_) => {
            let discover = if plan.fit == Fit::Fragment { libc::IPV6_PMTUDISC_DONT } else { libc::IPV6_PMTUDISC_DO };
            socket.set_tclass_v6(traffic_class).map_err(E::socket("set the DSCP of"))?;
            socket.set_unicast_hops_v6(ttl).map_err(E::socket("set the hop limit of"))?;
            IntOption::MTU_DISCOVER_V6.set(socket.as_fd(), discover).map_err(E::socket("forbid fragments for"))?;
            // The source port is the entropy. Kernels before 5.8 stop hashing at a label, and a made-up one differs
            // from socket to socket.
            IntOption::AUTO_FLOW_LABEL.set(socket.as_fd(), 0).map_err(E::socket("clear the flow label of"))?;
            setsockopt(socket, sockopt::Ipv6RecvErr, &true).map_err(|e| E::socket("watch the errors of")(e.into()))
        }
    }
}

/// A socket address; a link-local one is only complete with its interface.
fn address(underlay: &Underlay, ip: IpAddr, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
        IpAddr::V6(ip) => {
            let link_local = ip.is_unicast_link_local();
            let scope = underlay.device().filter(|_| link_local).map_or(0, crate::quantity::Ifindex::value);
            SocketAddrV6::new(ip, port, 0, scope).into()
        }
    }
}

impl DatagramSocket for TunnelSocket {
    fn send(&mut self, runs: &[&[IoSlice<'_>]]) -> io::Result<usize> {
        mmsg::send_each(self.socket.as_fd(), runs)
    }

    fn reports(&mut self, each: &mut dyn FnMut(Report)) {
        self.error_queue.drain(self.socket.as_fd(), self.remote, each);
    }

    fn ignore_learnt_mtu(&mut self) -> bool {
        // ip(7): PROBE sets DF and ignores the path MTU; INTERFACE cuts to what the interface takes, ignoring it too.
        let (option, discover) = match (self.remote, self.fragments) {
            (IpAddr::V4(_), false) => (IntOption::MTU_DISCOVER_V4, libc::IP_PMTUDISC_PROBE),
            (IpAddr::V4(_), true) => (IntOption::MTU_DISCOVER_V4, libc::IP_PMTUDISC_INTERFACE),
            (IpAddr::V6(_), false) => (IntOption::MTU_DISCOVER_V6, libc::IPV6_PMTUDISC_PROBE),
            (IpAddr::V6(_), true) => (IntOption::MTU_DISCOVER_V6, libc::IPV6_PMTUDISC_INTERFACE),
        };
        let is_new = !self.ignores_learnt_mtu && option.set(self.socket.as_fd(), discover).is_ok();
        self.ignores_learnt_mtu |= is_new;
        is_new
    }

    fn wait(&mut self, device: bool, at_most: Duration) -> Duration {
        let start = Instant::now();
        if device {
            std::thread::sleep(NAP.min(at_most));
        } else {
            let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
            // An interrupted or early return is no harm: the datagram is tried again, and what is left is waited for.
            let _ = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)], timeout);
        }
        start.elapsed()
    }
}
