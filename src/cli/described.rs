//! What arguments describe: a session in the foreground, or all that a daemon does.

use crate::config::daemon::DaemonPlan;
use crate::config::plan::SessionPlan;
use crate::config::reading::Provenance;
use crate::config::trust;
use crate::error::Problems;
use crate::privilege::needs::{Life, Needs};

/// What arguments may describe.
#[derive(Debug)]
pub enum Described {
    /// One session, in the foreground.
    Session(Box<SessionPlan>),
    /// A whole configuration, as `farspan run` has it.
    Daemon {
        /// What is to be done.
        plan: Box<DaemonPlan>,
        /// Where it was read.
        provenance: Box<Provenance>,
    },
}

impl Described {
    /// The sessions of it.
    pub fn sessions(&self) -> &[SessionPlan] {
        match self {
            Self::Session(plan) => std::slice::from_ref(plan),
            Self::Daemon { plan, .. } => &plan.sessions,
        }
    }

    /// That nobody else may write what the daemon is to do.
    ///
    /// # Errors
    /// Every file and directory that others may write to.
    pub fn check_trust(&self) -> Result<(), Problems> {
        match self {
            Self::Daemon { plan, provenance } => {
                trust::check(provenance, plan.privileges.user.as_ref().map(|user| user.uid))
            }
            Self::Session(_) => Ok(()),
        }
    }

    /// What its process goes on to need. `receive_buffer` is `net.core.rmem_max`, in bytes.
    pub fn needs(&self, receive_buffer: u64) -> Needs {
        match self {
            Self::Session(plan) => Needs::of(plan, Life::Once, receive_buffer),
            Self::Daemon { plan, provenance } => Needs::of_daemon(plan, &provenance.directories, receive_buffer),
        }
    }
}
