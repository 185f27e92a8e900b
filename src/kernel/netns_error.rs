//! What keeps farspan out of a network namespace, told to an operator.

use std::io;
use std::path::PathBuf;

use super::capabilities::{Capability, remedy};
use crate::config::netns::Netns;
use crate::error::{ExitCode, Explain};

/// Why a network namespace cannot be found or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No namespace has this name.
    #[error("there is no network namespace `{name}`")]
    NoSuchName {
        /// The name.
        name: String,
        /// The names there are.
        present: Vec<String>,
    },
    /// No process has this number, or another one has it by now.
    #[error("there is no process {pid}")]
    NoProcess {
        /// The number.
        pid: u32,
    },
    /// No process is in a control group of this container.
    #[error("no process of a container `{id}` is running")]
    NoContainer {
        /// The id, or its beginning.
        id: String,
    },
    /// The ids of several containers begin so.
    #[error("`{id}` may be one of several containers")]
    Ambiguous {
        /// The beginning.
        id: String,
        /// Their ids.
        found: Vec<String>,
    },
    /// The file cannot be opened, or the namespace not be entered.
    #[error("cannot open the network namespace `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// A file that stands for no network namespace.
    #[error("`{path}` is not a network namespace")]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// The file belongs to somebody else.
    #[error("not permitted to look at the network namespace `{netns}`: it takes the capability CAP_SYS_PTRACE")]
    Hidden {
        /// As the operator named it.
        netns: Netns,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The process may not enter.
    #[error("not permitted to enter the network namespace `{netns}`: it takes the capability CAP_SYS_ADMIN")]
    NotPermitted {
        /// As the operator named it.
        netns: Netns,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The kernel gives no thread.
    #[error("cannot start a thread to enter a network namespace")]
    NoThread {
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
}

impl NetnsError {
    /// Whether the namespace is merely not there: it may come, as that of a container that is started again.
    pub fn is_absence(&self) -> bool {
        match self {
            // The file of a name is there for a moment before the namespace is mounted over it.
            Self::NoSuchName { .. }
            | Self::NoProcess { .. }
            | Self::NoContainer { .. }
            | Self::NotANamespace { .. } => true,
            Self::Unreadable { cause, .. } => cause.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

impl Explain for NetnsError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchName { present, .. } if present.is_empty() => {
                Some("no network namespace has a name here; pid:NUMBER and container:ID mean those of a process".into())
            }
            Self::NoSuchName { present, .. } => Some(format!("network namespaces here are {}", present.join(", "))),
            Self::NoProcess { .. } => Some("ps -e lists the processes of this host".into()),
            Self::NoContainer { .. } => Some(
                "the container's id is what `docker ps` or `crictl ps` prints; farspan must see its processes".into(),
            ),
            Self::Ambiguous { found, .. } => Some(format!("write more of the id: {}", found.join(", "))),
            Self::Hidden { .. } => Some(remedy(&[Capability::CAP_SYS_PTRACE, Capability::CAP_SYS_ADMIN])),
            Self::NotPermitted { .. } => Some(remedy(&[Capability::CAP_NET_RAW, Capability::CAP_SYS_ADMIN])),
            Self::NotANamespace { .. } => Some("`ip netns` lists those that have names; lsns lists all".into()),
            Self::Unreadable { .. } => Some("check the path; lsns lists the network namespaces of this host".into()),
            Self::NoThread { .. } => Some("look at `ulimit -u`".into()),
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Hidden { .. } | Self::NotPermitted { .. } => ExitCode::NotPermitted,
            Self::NoThread { .. } | Self::Ambiguous { .. } => ExitCode::Failed,
            _ => ExitCode::NoInput,
        }
    }
}
