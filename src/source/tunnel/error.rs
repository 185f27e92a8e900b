//! What can be wrong with a tunnel endpoint, told to an operator.

use std::io;

use crate::error::{ExitCode, Explain};
use crate::kernel::capabilities::{Capability, remedy};

/// Why an endpoint receives nothing.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The process may not open raw sockets.
    #[error("not permitted to receive GRE or ERSPAN: it takes the capability CAP_NET_RAW")]
    NotPermitted {
        /// The endpoint as it was written.
        endpoint: String,
        /// The kernel's word.
        #[source]
        cause: io::Error,
    },
    /// The UDP port has a listener.
    #[error("UDP port {port} is taken")]
    PortTaken {
        /// The endpoint as it was written.
        endpoint: String,
        /// The port.
        port: u16,
        /// The kernel's word.
        #[source]
        cause: io::Error,
    },
    /// The address is nobody's here.
    #[error("no interface of this host has the endpoint's address")]
    NoSuchAddress {
        /// The endpoint as it was written.
        endpoint: String,
        /// The kernel's word.
        #[source]
        cause: io::Error,
    },
    /// Another refusal while the socket was opened.
    #[error("cannot {what} the endpoint's socket")]
    Socket {
        /// The endpoint as it was written.
        endpoint: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's word.
        #[source]
        cause: io::Error,
    },
    /// The running socket failed.
    #[error("the endpoint receives nothing any more")]
    Ended {
        /// The endpoint as it was written.
        endpoint: String,
        /// The kernel's word.
        #[source]
        cause: io::Error,
    },
}

impl TunnelError {
    /// A refusal of `what`, as what it means to an operator.
    pub(super) fn of(endpoint: &str, port: u16, what: &'static str, cause: io::Error) -> Self {
        let endpoint = endpoint.to_owned();
        match cause.kind() {
            io::ErrorKind::PermissionDenied if port == 0 => Self::NotPermitted { endpoint, cause },
            io::ErrorKind::AddrInUse => Self::PortTaken { endpoint, port, cause },
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress { endpoint, cause },
            _ => Self::Socket { endpoint, what, cause },
        }
    }
}

impl Explain for TunnelError {
    fn place(&self) -> Option<String> {
        match self {
            Self::NotPermitted { endpoint, .. }
            | Self::PortTaken { endpoint, .. }
            | Self::NoSuchAddress { endpoint, .. }
            | Self::Socket { endpoint, .. }
            | Self::Ended { endpoint, .. } => Some(format!("endpoint {endpoint}")),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotPermitted { .. } => {
                Some(format!("{}\nVXLAN and Geneve need no capability", remedy(&[Capability::CAP_NET_RAW])))
            }
            Self::PortTaken { port, .. } => Some(format!(
                "`ss -lunp 'sport = :{port}'` names the program; without one it is a tunnel device of the kernel: `ip -d \
                 link show type vxlan`, `ip -d link show type geneve`"
            )),
            Self::NoSuchAddress { .. } => {
                Some("`ip address` shows them; 0.0.0.0 and [::] stand for all of them".to_owned())
            }
            Self::Socket { .. } | Self::Ended { .. } => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotPermitted { .. } => ExitCode::NotPermitted,
            _ => ExitCode::Failed,
        }
    }
}
