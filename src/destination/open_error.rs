//! What can go wrong while a tunnel or a TAP device is opened.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;

use super::shared_file::CannotCreate;
use super::tap_device::TapError;
use super::xdp_queue::QueueError;
use crate::error::{ExitCode, Explain};
use crate::kernel::capabilities::{Capability, remedy};
use crate::quantity::PortRange;

/// A destination that cannot be opened, and why.
#[derive(Debug)]
pub struct CannotOpen {
    /// Which one: [`DestinationPlan::place`](crate::config::plan::DestinationPlan::place).
    pub destination: String,
    /// What went wrong.
    pub error: OpenError,
}

impl fmt::Display for CannotOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for CannotOpen {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl Explain for CannotOpen {
    fn place(&self) -> Option<String> {
        let key = self.error.key().map_or(String::new(), |key| format!(", {key}"));
        Some(format!("{}{key}", self.destination))
    }

    fn hint(&self) -> Option<String> {
        self.error.hint()
    }

    fn exit_code(&self) -> ExitCode {
        self.error.exit_code()
    }
}

/// Why a destination cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ids go by interface, and one interface has none.
    #[error("interface \"{interface}\" has no {what}")]
    NoId {
        /// The id in the field's words.
        what: &'static str,
        /// The interface without an id.
        interface: String,
        /// The patterns that were asked.
        patterns: Vec<String>,
    },
    /// Raw sockets, which GRE and ERSPAN need, are not for everyone.
    #[error("cannot open a raw socket, which GRE and ERSPAN need")]
    NotPermitted(#[source] io::Error),
    /// The address to send from is not one of this host's.
    #[error("cannot send from {address}")]
    NotLocal {
        /// The address.
        address: IpAddr,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The interface to send from is not there.
    #[error("cannot send through \"{device}\"")]
    Device {
        /// The interface's name.
        device: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// All UDP source ports are taken.
    #[error("every UDP source port of {range} is in use at {address}")]
    NoFreePort {
        /// The ports that were tried.
        range: PortRange,
        /// The local address.
        address: IpAddr,
    },
    /// Anything else the kernel refused.
    #[error("cannot {doing} the tunnel's socket")]
    Socket {
        /// What was being done: "open", "set the TTL of".
        doing: &'static str,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The interface's transmit queue cannot be had for AF_XDP.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The TAP device cannot be had.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The dry run's file cannot be made.
    #[error(transparent)]
    File(#[from] CannotCreate),
}

impl OpenError {
    /// An error of this socket call, ready for `map_err`.
    pub(super) fn socket(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |cause| Self::Socket { doing, cause }
    }

    /// The destination's key that led here, if one did.
    fn key(&self) -> Option<&'static str> {
        match self {
            Self::NotLocal { .. } => Some("source"),
            Self::Device { .. } => Some("device"),
            Self::NoFreePort { .. } => Some("ports"),
            Self::File(_) | Self::Queue(_) => Some("transmit"),
            Self::NoId { .. } | Self::NotPermitted(_) | Self::Socket { .. } | Self::Tap(_) => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoId { patterns, .. } => {
                Some(format!("the ids are given for {}: add one for this interface, or for \"*\"", patterns.join(", ")))
            }
            Self::NotPermitted(_) => Some(format!(
                "CAP_NET_RAW is missing: {}\nVXLAN and Geneve need no capability to send",
                remedy(&[Capability::CAP_NET_RAW])
            )),
            Self::NotLocal { .. } => Some("`ip address` lists the addresses of this host".into()),
            Self::Device { .. } => Some("`ip link` lists the interfaces of this host".into()),
            Self::NoFreePort { .. } => Some("give a wider range with `ports`, or see who has them: ss -uanp".into()),
            Self::File(cannot) => cannot.hint(),
            Self::Queue(error) => error.hint(),
            Self::Tap(error) => error.hint(),
            Self::Socket { .. } => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoId { .. } => ExitCode::Usage,
            Self::NotPermitted(_) => ExitCode::NotPermitted,
            Self::Queue(error) if error.cause.kind() == io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            Self::Device { .. } => ExitCode::NoInput,
            Self::File(cannot) => cannot.exit_code(),
            Self::Tap(error) => error.exit_code(),
            Self::NotLocal { .. } | Self::NoFreePort { .. } | Self::Queue(_) | Self::Socket { .. } => ExitCode::Failed,
        }
    }
}
