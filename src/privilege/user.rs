//! Leaving root before anything is opened: the files, sockets and devices that come then belong to the daemon's own user,
//! who must be able to make them again.

use caps::{CapSet, CapsHashSet};
use nix::unistd::{geteuid, setgroups, setresgid, setresuid};

use crate::config::privileges::User;
use crate::error::{ExitCode, Explain};
use crate::kernel::capabilities::Capability;

/// What opening may take, whatever the plan. [`super::drop`] takes most of it away again a moment later.
const OPENING: [Capability; 8] = [
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_BPF,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    // To empty the bounding set.
    Capability::CAP_SETPCAP,
];

/// Why the process stays who it is.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Only root can become somebody else.
    #[error("only root can become user {user}")]
    NotRoot {
        /// Who was to be become.
        user: String,
    },
    /// The kernel refuses it.
    #[error("cannot become user {user}")]
    Refused {
        /// Who was to be become.
        user: String,
        /// The kernel's words.
        #[source]
        cause: nix::Error,
    },
    /// Capabilities are lost on the way.
    #[error("cannot keep capabilities while becoming user {user}")]
    Capabilities {
        /// Who was to be become.
        user: String,
        /// The kernel's words.
        #[source]
        cause: caps::errors::CapsError,
    },
}

impl Explain for UserError {
    fn place(&self) -> Option<String> {
        Some("privileges.user".to_owned())
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotRoot { .. } => {
                "start farspan as root, or leave the key out: it then runs as whoever starts it".to_owned()
            }
            Self::Refused { .. } | Self::Capabilities { .. } => {
                "this takes CAP_SETUID and CAP_SETGID, which a container may lack: start farspan as that user"
                    .to_owned()
            }
        })
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::NotPermitted
    }
}

/// Makes this process one of `user`, in no other group than that user's own, with the capabilities that opening takes.
/// Nothing to do where it is one already. To be called before the first thread is started.
///
/// # Errors
/// When this is not root, or the kernel refuses it.
pub fn become_user(user: &User) -> Result<(), UserError> {
    let name = || user.name.clone();
    if geteuid() == user.uid {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err(UserError::NotRoot { user: name() });
    }
    let lost = |cause| UserError::Capabilities { user: name(), cause };
    let refused = |cause| UserError::Refused { user: name(), cause };
    let permitted = caps::read(None, CapSet::Permitted).map_err(lost)?;
    let kept: CapsHashSet = permitted.into_iter().filter(|capability| OPENING.contains(capability)).collect();
    // Otherwise the kernel takes everything when the last of the user numbers is not 0 any more (capabilities(7)).
    caps::securebits::set_keepcaps(true).map_err(lost)?;
    setgroups(&[]).map_err(refused)?;
    setresgid(user.gid, user.gid, user.gid).map_err(refused)?;
    setresuid(user.uid, user.uid, user.uid).map_err(refused)?;
    caps::securebits::set_keepcaps(false).map_err(lost)?;
    super::set_both(&kept).map_err(lost)
}
