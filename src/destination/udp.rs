//! UDP sockets for VXLAN and Geneve: a bank of source ports, so that an analyzer's threads share the flows.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use super::open_error::OpenError;
use super::runs::leave_in_runs;
use super::socket::TunnelSocket;
use crate::config::defaults::SOURCE_PORTS;
use crate::config::plan::{TunnelPlan, UdpChecksum};
use crate::kernel::underlay::Underlay;
use crate::quantity::PortRange;
use crate::sys::socket_option::IntOption;

/// Opens the bank to `port` of the analyzer: each socket with its source port, the first free ones of the plan's range.
/// A range of one port keeps all datagrams in one order.
///
/// # Errors
/// When no port is free, or the kernel refuses a socket.
pub(super) fn open(
    plan: &TunnelPlan,
    underlay: &Underlay,
    port: u16,
) -> Result<(Vec<TunnelSocket>, Vec<u16>), OpenError> {
    let (mut sockets, mut sources) = (Vec::new(), Vec::new());
    // The next one: where many sessions share a range, most of its ports are refused.
    let mut unbound = None;
    let mut take = |source: u16| -> Result<bool, OpenError> {
        let socket = match &unbound {
            Some(socket) => socket,
            None => unbound.insert(open_one(plan, underlay, port)?),
        };
        match socket.bind(underlay, source) {
            Ok(()) => {
                sockets.extend(unbound.take());
                sources.push(source);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(false),
            Err(cause) if cause.kind() == ErrorKind::AddrNotAvailable => {
                Err(OpenError::NotLocal { address: underlay.local(), cause })
            }
            Err(cause) => Err(OpenError::Socket { doing: "bind", cause }),
        }
    };
    let mut wanted = SOURCE_PORTS;
    let is_ours = take(plan.ports.first())?;
    wanted -= u32::from(is_ours);
    for source in ports_behind_the_first(plan.ports, is_ours) {
        if wanted == 0 {
            break;
        }
        wanted -= u32::from(take(source)?);
    }
    if let Some(&last) = sources.last() {
        NEXT_PORT.store(last.saturating_add(1), Ordering::Relaxed);
    }
    if sockets.is_empty() {
        return Err(OpenError::NoFreePort { range: plan.ports, address: underlay.local() });
    }
    Ok((sockets, sources))
}

/// The port behind those that this process took last: where several sessions share a range, the first ports of it are
/// theirs already, and to be refused each of them costs the more the more sessions there are.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// The other ports of a range: in order, unless somebody has the first. Then those behind the last that this process took
/// come first.
fn ports_behind_the_first(range: PortRange, first_is_ours: bool) -> impl Iterator<Item = u16> {
    let next = if first_is_ours { 0 } else { NEXT_PORT.load(Ordering::Relaxed) };
    let (before, behind): (Vec<u16>, Vec<u16>) = ports(range).skip(1).partition(|&port| port < next);
    behind.into_iter().chain(before)
}

/// The ports of a range, in order.
pub(super) fn ports(range: PortRange) -> impl Iterator<Item = u16> {
    (range.first()..=u16::MAX).take_while(move |&port| range.contains(port))
}

/// Whether the outer UDP checksum is computed on this way.
pub(super) fn checksum_is_computed(plan: &TunnelPlan, underlay: &Underlay) -> bool {
    match plan.udp_checksum {
        UdpChecksum::On => true,
        UdpChecksum::Off => false,
        UdpChecksum::Auto => underlay.remote().is_ipv6() || leave_in_runs(plan, underlay),
    }
}

fn open_one(plan: &TunnelPlan, underlay: &Underlay, port: u16) -> Result<TunnelSocket, OpenError> {
    let (domain, no_checksum) = match underlay.remote() {
        IpAddr::V4(_) => (Domain::IPV4, IntOption::UDP_NO_CHECKSUM_V4),
        IpAddr::V6(_) => (Domain::IPV6, IntOption::UDP_NO_CHECKSUM_V6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(OpenError::socket("open"))?;
    let socket = TunnelSocket::prepare(socket, plan, underlay, port)?;
    let off = !checksum_is_computed(plan, underlay);
    no_checksum.set(socket.socket().as_fd(), off.into()).map_err(OpenError::socket("set the UDP checksum of"))?;
    Ok(socket)
}
