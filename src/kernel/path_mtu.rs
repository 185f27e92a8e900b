//! The path MTU, as the kernel knows it: the route's, or what ICMP errors taught it.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::quantity::{Ifindex, Mtu, SocketMark};

/// Any port: connecting a UDP socket sends nothing.
const ANY_PORT: u16 = DISCARD;
/// UDP's discard port (RFC 863): nobody minds an empty datagram there.
pub(super) const DISCARD: u16 = 9;

/// The largest IP packet that the way from `local` to `remote` takes, through `device` where that is set, for packets with
/// this `mark`.
///
/// The kernel forgets learnt values after some minutes (`net.ipv4.route.mtu_expires`) without telling anybody.
///
/// # Errors
/// The kernel's: no route, or `local` is no address of this host. `InvalidData` for an MTU that no IP link may have.
pub fn path_mtu(local: IpAddr, remote: IpAddr, device: Option<Ifindex>, mark: Option<SocketMark>) -> io::Result<Mtu> {
    let socket = socket_to(local, remote, ANY_PORT, device, mark)?;
    // IPv6 sockets answer IP_MTU too, with the MTU of their IPv6 route (ipv6_getsockopt in net/ipv6/ipv6_sockglue.c
    // hands SOL_IP to ip_getsockopt, which asks the socket's route).
    let mtu = getsockopt(&socket, sockopt::IpMtu)?;
    Mtu::new(u64::try_from(mtu).unwrap_or(0)).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Whether `address` is one of this host's; `device` says on which link a link-local one is.
pub fn is_local(address: IpAddr, device: Option<Ifindex>) -> bool {
    udp_socket(address).and_then(|socket| socket.bind(&scoped(address, 0, device))).is_ok()
}

/// A UDP socket that is connected to `remote`; marked, where the process may.
pub(super) fn socket_to(
    local: IpAddr,
    remote: IpAddr,
    port: u16,
    device: Option<Ifindex>,
    mark: Option<SocketMark>,
) -> io::Result<Socket> {
    let socket = udp_socket(remote)?;
    mark_if_permitted(&socket, mark);
    if let Some(device) = device {
        // SO_BINDTOIFINDEX, whichever IP version: it needs no privilege on a socket that is not bound yet.
        socket.bind_device_by_index_v4(NonZeroU32::new(device.value()))?;
    }
    socket.bind(&scoped(local, 0, device))?;
    socket.connect(&scoped(remote, port, device))?;
    Ok(socket)
}

/// Marks a socket that asks after an analyzer. Without `CAP_NET_RAW` or `CAP_NET_ADMIN` it stays unmarked: its packets
/// carry no frame, so that a mirror of them ends by itself.
pub(super) fn mark_if_permitted(socket: &Socket, mark: Option<SocketMark>) {
    if let Some(mark) = mark
        && let Err(error) = socket.set_mark(mark.value())
    {
        tracing::debug!(%error, "a socket that asks after an analyzer has no mark");
    }
}

fn udp_socket(family_of: IpAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(SocketAddr::new(family_of, 0)), Type::DGRAM, Some(Protocol::UDP))
}

/// Link-local IPv6 addresses mean nothing without the interface they are on.
pub(super) fn scoped(address: IpAddr, port: u16, device: Option<Ifindex>) -> SockAddr {
    match (address, device) {
        (IpAddr::V6(v6), Some(device)) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, device.value()).into()
        }
        _ => SocketAddr::new(address, port).into(),
    }
}
