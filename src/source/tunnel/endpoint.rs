//! One socket: a UDP port of VXLAN, Geneve, TZSP, HP ERM or Jmirror, or IP protocol 47 with GRE and ERSPAN.
//!
//! Because somebody listens, the kernel answers the sender with no ICMP error; and it reassembles fragments and drops
//! wrong UDP checksums before the socket sees a datagram. UDP GRO is left off: it joins datagrams only where they are
//! equally long and of one outer flow, which mirrored traffic seldom is.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::super::{Readiness, Source};
use super::error::TunnelError;
use super::merged::MergeWatch;
use super::receiver::{Begins, OuterPacket, Receiver};
use super::reorder::Reorder;
use crate::config::plan::{EndpointPlan, OuterPackets, Takes, TunnelsPlan};
use crate::error::Explain;
use crate::frame::Frame;
use crate::ledger::{KernelDrops, SenderLedger};
use crate::let_go::{LET_GO, until_let_go};
use crate::quantity::Timestamp;
use crate::sys::recvmmsg::{self, Datagrams};
use crate::sys::socket_option::{self, IntOption};
use crate::wire::decapsulate::Tunnel;
use crate::wire::layers::{self, Ip, IpVersion};

/// How long datagrams that come fast are let come together. The default buffer holds what comes at 10 Gbit/s in forty
/// times as long; even one of 1 MiB holds it.
const PAUSE: Duration = Duration::from_micros(500);

/// A socket and what becomes of its datagrams.
pub struct Endpoint {
    socket: Socket,
    /// The endpoint, the first of those that share the socket, for messages.
    written: String,
    carries: Carries,
    datagrams: Datagrams,
    receiver: Receiver,
    reorder: Reorder,
    /// When it last had datagrams.
    last: Option<Instant>,
    /// The kernel's last count, and the total since the start: the kernel's has 32 bits.
    dropped: (u32, u64),
}

/// What a datagram of the socket begins with.
#[derive(Clone, Copy, Debug)]
enum Carries {
    /// The header of a tunnel in UDP.
    Datagram(Tunnel),
    /// An IPv4 header, then GRE.
    GreInIpv4,
    Gre,
}

impl Endpoint {
    /// Opens the socket of the receiver's endpoints, which all have one address and port.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn open(tunnels: &TunnelsPlan, receiver: Receiver) -> Result<Self, TunnelError> {
        let [plan, ..] = receiver.endpoints() else {
            return Err(TunnelError::of("", 0, "choose", io::ErrorKind::InvalidInput.into()));
        };
        let carries = match (plan.takes, plan.address) {
            (Takes::Only(tunnel), _) if plan.port != 0 => Carries::Datagram(tunnel),
            (_, IpAddr::V4(_)) => Carries::GreInIpv4,
            (_, IpAddr::V6(_)) => Carries::Gre,
        };
        let buffer = match tunnels.outer {
            OuterPackets::Sockets { buffer } => buffer / u64::try_from(tunnels.sockets().len().max(1)).unwrap_or(1),
            OuterPackets::File(_) => 0,
        };
        // Before the socket: what that one gives has been told of.
        let version = if plan.address.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
        // ERSPAN has a protocol type of its own, inside which the kernel merges nothing (`gre_gro_receive`).
        let is_merged = plan.takes == Takes::Only(Tunnel::Gre);
        let merges = is_merged.then(|| MergeWatch::open(version));
        // The frames that wait for their order have a part of the same memory.
        let waiting = tunnels.reorder.map_or(0, |_| buffer / 4);
        let socket = open_socket(plan, carries, buffer - waiting)?;
        Ok(Self {
            socket,
            written: plan.written.clone(),
            carries,
            datagrams: Datagrams::new(),
            receiver: receiver.unmerging(merges),
            reorder: Reorder::new(tunnels.reorder, usize::try_from(waiting).unwrap_or(usize::MAX)),
            last: None,
            dropped: (0, 0),
        })
    }

    /// What to wait for now that nothing more is there, after `taken` datagrams. Where they come so fast that each would
    /// wake us, they are let come together: to be woken costs more than a datagram.
    fn ran_dry(&mut self, now: Instant, taken: usize) -> Readiness {
        let was_soon = self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE);
        if taken > 0 {
            self.last = Some(now);
        }
        if taken > 1 || (taken == 1 && was_soon) {
            return Readiness::Filling(now + PAUSE);
        }
        self.reorder.readiness()
    }

    fn deal_out(&mut self, now: Instant, each: &mut dyn FnMut(&Frame<'_>)) {
        let Self { datagrams, carries, receiver, reorder, .. } = self;
        for datagram in datagrams.iter() {
            // A socket of IP always says; what did not say could not be allowed by any address.
            let from = datagram.from.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            let begins = match carries {
                Carries::Datagram(tunnel) => Begins::Datagram(*tunnel),
                Carries::Gre => Begins::Gre,
                // The kernel has read the header before: it is right.
                Carries::GreInIpv4 => match Ip::parse(datagram.bytes, 0) {
                    Some(packet) => Begins::Ip(packet),
                    None => Begins::Gre,
                },
            };
            let timestamp = Timestamp::from_nanos(datagram.nanos.unwrap_or(0));
            let outer = OuterPacket { bytes: datagram.bytes, begins, from, timestamp };
            receiver.take(&outer, &mut |received| reorder.take(now, received, each));
        }
    }
}

impl Source for Endpoint {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        self.reorder.release(now, each);
        let mut left = budget;
        while left > 0 {
            let wanted = left.min(recvmmsg::MOST);
            match self.datagrams.receive(self.socket.as_fd(), wanted) {
                Ok(count) => {
                    self.deal_out(now, each);
                    left -= count;
                    if count < wanted {
                        return Ok(self.ran_dry(now, budget - left));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(self.ran_dry(now, budget - left)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Readiness::More),
                Err(cause) => {
                    self.reorder.release_all(each);
                    return Err(TunnelError::Ended { endpoint: self.written.clone(), cause }.into());
                }
            }
        }
        Ok(Readiness::More)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        let (last, total) = &mut self.dropped;
        if let Ok(count) = socket_option::dropped(self.socket.as_fd()) {
            *total += u64::from(count.wrapping_sub(*last));
            *last = count;
        }
        KernelDrops { buffer_full: *total, interface: 0, untold: 0 }
    }

    fn senders(&mut self, end: bool, all: &mut Vec<SenderLedger>) {
        self.receiver.senders(end, all);
    }

    fn finish(&mut self, each: &mut dyn FnMut(&Frame<'_>)) {
        self.reorder.release_all(each);
    }
}

/// Opens and binds the socket, with so many bytes of receive buffer.
fn open_socket(plan: &EndpointPlan, carries: Carries, buffer: u64) -> Result<Socket, TunnelError> {
    let refused = |what| move |cause: io::Error| TunnelError::of(&plan.written, plan.port, what, cause);
    let domain = Domain::for_address(SocketAddr::new(plan.address, 0));
    let (kind, protocol) = match carries {
        Carries::Datagram(_) => (Type::DGRAM, Protocol::UDP),
        Carries::GreInIpv4 | Carries::Gre => (Type::RAW, Protocol::from(i32::from(layers::GRE))),
    };
    let socket = Socket::new(domain, kind, Some(protocol)).map_err(refused("open"))?;
    socket.set_nonblocking(true).map_err(refused("prepare"))?;
    IntOption::TIMESTAMPS.set(socket.as_fd(), 1).map_err(refused("ask for times at"))?;
    if plan.address.is_ipv6() {
        // 0.0.0.0 and [::] are two endpoints.
        if kind == Type::DGRAM {
            socket.set_only_v6(true).map_err(refused("keep IPv4 away from"))?;
            IntOption::UDP_ZERO_CHECKSUM_V6.set(socket.as_fd(), 1).map_err(refused("allow zero checksums at"))?;
        }
    }
    give_memory(&socket, &plan.written, buffer);
    let address = SockAddr::from(SocketAddr::new(plan.address, plan.port));
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    until_let_go(LET_GO, || socket.bind(&address), is_taken).map_err(refused("bind"))?;
    Ok(socket)
}

/// Gives the socket `wanted` bytes of receive buffer: beyond the system's limit with `CAP_NET_ADMIN`, up to it
/// without.
fn give_memory(socket: &Socket, endpoint: &str, wanted: u64) {
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(i32::MAX as usize / 2);
    let _ = setsockopt(socket, sockopt::RcvBufForce, &wanted).or_else(|_| setsockopt(socket, sockopt::RcvBuf, &wanted));
    // socket(7): "The kernel doubles this value (to allow space for bookkeeping overhead)".
    let given = socket.recv_buffer_size().unwrap_or(0) / 2;
    if given < wanted {
        tracing::warn!(
            "{endpoint} has a receive buffer of {} KiB, not {} KiB: sysctl net.core.rmem_max, or CAP_NET_ADMIN, allows more",
            given / 1024,
            wanted / 1024
        );
    }
}
