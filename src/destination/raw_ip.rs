//! The raw IP socket for GRE and ERSPAN (IP protocol 47): the kernel adds the IP header, nothing else.

use std::io::ErrorKind;

use socket2::{Domain, Protocol, Socket, Type};

use super::open_error::OpenError;
use super::socket::TunnelSocket;
use crate::config::plan::TunnelPlan;
use crate::kernel::underlay::Underlay;
use crate::wire::layers::GRE;

/// Opens the socket to the analyzer.
///
/// # Errors
/// [`OpenError::NotPermitted`] without `CAP_NET_RAW`; what else the kernel refuses.
pub(super) fn open(plan: &TunnelPlan, underlay: &Underlay) -> Result<TunnelSocket, OpenError> {
    let domain = if underlay.remote().is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket =
        Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(GRE)))).map_err(|cause| match cause.kind() {
            ErrorKind::PermissionDenied => OpenError::NotPermitted(cause),
            _ => OpenError::Socket { doing: "open", cause },
        })?;
    let socket = TunnelSocket::prepare(socket, plan, underlay, 0)?;
    socket.bind(underlay, 0).map_err(|cause| match cause.kind() {
        ErrorKind::AddrNotAvailable => OpenError::NotLocal { address: underlay.local(), cause },
        _ => OpenError::Socket { doing: "bind", cause },
    })?;
    Ok(socket)
}
