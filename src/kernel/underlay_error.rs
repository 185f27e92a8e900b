//! What keeps a destination from being reached at all, told to an operator.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;

use crate::error::{ExitCode, Explain};

/// Why there is no way to a destination.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// The name has no address.
    #[error("cannot resolve \"{name}\"")]
    Unresolvable {
        /// As written.
        name: String,
        /// What the resolver said.
        #[source]
        cause: io::Error,
    },
    /// The host has addresses, but none of the source address's IP version.
    #[error("\"{host}\" has no address of the same IP version as the source address {from}")]
    OtherIpVersion {
        /// As written.
        host: String,
        /// The source address that was asked for.
        from: IpAddr,
    },
    /// The kernel knows no way.
    #[error("no route to {remote}")]
    NoRoute {
        /// The analyzer's address.
        remote: IpAddr,
        /// The interface that was asked for.
        device: Option<String>,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The source address is another host's, or nobody's.
    #[error("the source address {0} is not an address of this host")]
    ForeignSource(IpAddr),
    /// Whole frames can only be written for Ethernet.
    #[error("\"{device}\" is no Ethernet interface, and AF_XDP sends Ethernet frames")]
    NotEthernet {
        /// The interface that the route leads through.
        device: String,
    },
    /// The underlay interface does not exist.
    #[error("no interface \"{name}\" to send through")]
    NoSuchDevice {
        /// As written.
        name: String,
        /// Those there are.
        present: Vec<String>,
    },
    /// The kernel answers no questions.
    #[error("cannot ask the kernel about its routes")]
    Netlink(#[source] io::Error),
}

impl Explain for UnderlayError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unresolvable { name, .. } => format!("try `getent hosts {name}`, or give the analyzer's address"),
            Self::OtherIpVersion { .. } => "leave `source` out, or choose an address of the other version".to_owned(),
            Self::NoRoute { remote: IpAddr::V6(remote), device: None, .. } if remote.is_unicast_link_local() => {
                "a link-local address is on some link: say which with `device`".to_owned()
            }
            Self::NoRoute { remote, device: None, .. } => format!("see what `ip route get {remote}` says"),
            Self::NoRoute { remote, device: Some(device), .. } => {
                format!("see what `ip route get {remote} oif {device}` says")
            }
            Self::NotEthernet { .. } => "send through the kernel's IP stack: transmit=socket".to_owned(),
            Self::ForeignSource(_) => "`ip -brief address` shows this host's addresses".to_owned(),
            Self::NoSuchDevice { present, .. } => format!("interfaces here are {}", present.join(", ")),
            Self::Netlink(_) => return None,
        })
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoSuchDevice { .. } => ExitCode::NoInput,
            _ => ExitCode::Failed,
        }
    }
}

/// An [`UnderlayError`] with the destination that it concerns.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub(super) destination: String,
    pub(super) error: UnderlayError,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Unreachable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl Explain for Unreachable {
    fn place(&self) -> Option<String> {
        Some(self.destination.clone())
    }
    fn hint(&self) -> Option<String> {
        self.error.hint()
    }
    fn exit_code(&self) -> ExitCode {
        self.error.exit_code()
    }
}
