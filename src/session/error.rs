//! What keeps a session from starting or from ending well.

use crate::error::Explain;

/// What keeps an otherwise sound session from starting or from ending well.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel gave no descriptor or thread.
    #[error("cannot start the worker thread")]
    Resources {
        /// The kernel's words.
        #[source]
        cause: std::io::Error,
    },
    /// Nobody asked the kernel for the way to a tunnel.
    #[error("the way to destination \"{destination}\" is not known")]
    NoWay {
        /// The destination's name.
        destination: String,
    },
    /// A defect of farspan.
    #[error("worker thread worker-{worker} ended unexpectedly; the frames that it held are counted as crashed")]
    Crashed {
        /// The worker's number.
        worker: usize,
    },
    /// The CPU was there when the session was planned.
    #[error("worker cannot stay on CPU {cpu}")]
    NotPinned {
        /// Its number.
        cpu: usize,
        /// The kernel's words.
        #[source]
        cause: nix::Error,
    },
    /// The kernel does not let the worker stand back as planned.
    #[error("worker cannot have the priority that `priority` gives it")]
    NoPriority {
        /// The kernel's words.
        #[source]
        cause: std::io::Error,
    },
    /// A second signal did not want to wait, or the workers took too long.
    #[error(
        "ended before every captured frame was mirrored; what was not taken from the capture buffer is not in the ledger"
    )]
    Hurried,
    /// The worker did not end in time, or a second signal did not want to wait for it.
    #[error("ended while a pipe gave or took no frame; what the session held then is not in the ledger")]
    Abandoned,
}

impl Explain for SessionError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Resources { .. } => Some("look at `ulimit -n` and `ulimit -u`".into()),
            Self::NoWay { .. } | Self::Crashed { .. } => {
                Some("this is a defect of farspan: please report it with the message above".into())
            }
            Self::NotPinned { .. } => Some("`pin` names the CPUs; lscpu shows which are online".into()),
            Self::NoPriority { .. } => Some(
                "a lower nice value than farspan was started with needs CAP_SYS_NICE; `lscpu` shows the CPUs".into(),
            ),
            Self::Hurried | Self::Abandoned => None,
        }
    }
}
