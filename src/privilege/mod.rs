//! Least privilege: what this process may do after everything is open is what its plan goes on to need.
//!
//! [`needs`] says what that is. [`user`] leaves root before anything is opened, so that every file belongs to the user
//! who writes the next one too. [`drop`] comes after everything is open and before a worker starts: capabilities and
//! Landlock's domain belong to a thread, and those that it starts later inherit them. Nothing here knows sessions.
//!
//! What a compromised process could still do is bounded four times: by its capabilities, by its user, by the files that
//! Landlock leaves it, and by the system calls that seccomp leaves it. Each stands for itself where the kernel lacks the
//! others.

pub mod files;
pub mod needs;
pub mod system_calls;
pub mod user;

use std::fmt;
use std::path::{Path, PathBuf};

use caps::{CapSet, CapsHashSet};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use tracing::debug;

use crate::config::privileges::Sandbox;
use crate::error::{ExitCode, Explain, Problems};
use crate::kernel::capabilities::{Capabilities, Capability, listed};
use needs::{Needs, Reason, directory_of};

/// What a process may still do. A reload must get along with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    capabilities: Capabilities,
    /// Where it may write; everywhere without Landlock.
    writes: Option<Vec<PathBuf>>,
    refuses_system_calls: bool,
}

/// The kernel does not let us give something up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The thread's sets cannot be read or written.
    #[error("cannot give up capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// prctl(2), `PR_SET_NO_NEW_PRIVS`.
    #[error("cannot give up new privileges")]
    NewPrivileges(#[source] nix::Error),
}

impl Explain for PrivilegeError {
    fn hint(&self) -> Option<String> {
        Some(
            "this takes Linux 3.5 or newer, and a container whose own seccomp profile allows capset and prctl"
                .to_owned(),
        )
    }
}

/// Gives up everything but `needs`. To be called on the thread that starts all others, after everything is open.
///
/// # Errors
/// When capabilities, or new ones, cannot be given up. A kernel without Landlock or seccomp is no error.
pub fn drop(needs: &Needs, sandbox: Sandbox) -> Result<Kept, PrivilegeError> {
    nix::sys::prctl::set_no_new_privs().map_err(PrivilegeError::NewPrivileges)?;
    let needs = with_foreign_directories(needs).map_err(PrivilegeError::Capabilities)?;
    // Under Landlock nobody looks into another process, and that is where a container's namespace is found.
    let writes = match sandbox {
        Sandbox::Auto if !needs.has(Capability::CAP_SYS_PTRACE) => files::confine(&needs),
        Sandbox::Auto | Sandbox::Off => None,
    };
    let capabilities = keep_only(needs.set()).map_err(PrivilegeError::Capabilities)?;
    let refuses_system_calls = sandbox == Sandbox::Auto && system_calls::refuse(&needs);
    let kept = Kept { capabilities, writes, refuses_system_calls };
    debug!("privileges: {kept}");
    Ok(kept)
}

/// Makes effective what is permitted: a file may give capabilities without that (`setcap …=p`), so that it can be run
/// where some of them are not to be had. To be called before the first thread is started.
pub fn raise() {
    let raised = caps::read(None, CapSet::Permitted).and_then(|all| caps::set(None, CapSet::Effective, &all));
    if let Err(error) = raised {
        debug!("capabilities stay as they are: {error}");
    }
}

/// Leaves this thread without any capability. For threads that the runtime may start before [`drop`], to resolve names:
/// they need none.
pub fn renounce() {
    if let Err(error) = keep_only(Capabilities::NONE) {
        debug!("a thread keeps its capabilities: {error}");
    }
}

/// Leaves this thread, and those that it starts, with those of `kept` that it had.
fn keep_only(kept: Capabilities) -> Result<Capabilities, caps::errors::CapsError> {
    let had = caps::read(None, CapSet::Permitted)?;
    // What nobody can execute needs no bound; a process without CAP_SETPCAP cannot change it either.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    set_both(&had.into_iter().filter(|&capability| kept.has(capability)).collect())?;
    caps::clear(None, CapSet::Inheritable)?;
    Ok(caps::read(None, CapSet::Permitted)?.into_iter().collect())
}

/// Makes these the thread's capabilities, all of them effective.
fn set_both(set: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    // Raised before what is permitted shrinks, lowered with it.
    let permitted = caps::read(None, CapSet::Permitted)?;
    caps::set(None, CapSet::Effective, &permitted.intersection(set).copied().collect())?;
    caps::set(None, CapSet::Permitted, set)
}

/// The same needs, with what it takes to begin the next capture file in a directory of another user, where there is one:
/// only this host knows.
///
/// # Errors
/// When the thread's capabilities cannot be read or written.
pub fn with_foreign_directories(needs: &Needs) -> Result<Needs, caps::errors::CapsError> {
    let mut needs = needs.clone();
    if let Some(directory) = foreign_directory(&needs)? {
        debug!("{} belongs to another user: CAP_DAC_OVERRIDE stays", directory.display());
        needs.capability(Capability::CAP_DAC_OVERRIDE, Reason::ForeignDirectory);
    }
    Ok(needs)
}

/// The first directory of a capture file where only `CAP_DAC_OVERRIDE` lets us make the next one: root writes into the
/// directory of another user.
fn foreign_directory(needs: &Needs) -> Result<Option<PathBuf>, caps::errors::CapsError> {
    let effective = caps::read(None, CapSet::Effective)?;
    let mut without = effective.clone();
    without.remove(&Capability::CAP_DAC_OVERRIDE);
    without.remove(&Capability::CAP_DAC_READ_SEARCH);
    if without.len() == effective.len() {
        return Ok(None);
    }
    let mut directories: Vec<PathBuf> = needs.files.iter().map(|file| directory_of(file)).collect();
    directories.retain(|directory| may_write(directory));
    caps::set(None, CapSet::Effective, &without)?;
    let foreign = directories.into_iter().find(|directory| !may_write(directory));
    caps::set(None, CapSet::Effective, &effective)?;
    Ok(foreign)
}

/// Whether the thread may make files in `directory` with the capabilities that are effective now.
fn may_write(directory: &Path) -> bool {
    faccessat(AT_FDCWD, directory, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok()
}

impl Kept {
    /// That a process with this can do what `needs` says, which the configuration of a reload wants.
    ///
    /// # Errors
    /// Everything that was given up.
    pub fn suffices_for(&self, needs: &Needs) -> Result<(), Problems> {
        let capabilities = needs.capabilities().filter(|&(capability, _)| !self.capabilities.has(capability));
        let mut missing: Vec<GivenUp> =
            capabilities.map(|(capability, reason)| GivenUp::Capability { capability, reason }).collect();
        let places = needs.files.iter().map(|file| files::place_of(file)).chain(needs.writes.iter().cloned());
        missing.extend(places.filter(|place| !self.may_write(place)).map(|place| GivenUp::Place { place }));
        Problems::unless_empty(missing)
    }

    fn may_write(&self, place: &Path) -> bool {
        let (Some(writes), Ok(place)) = (&self.writes, place.canonicalize()) else { return true };
        writes.iter().any(|writable| place.starts_with(writable))
    }
}

/// What farspan's start took it for not needing, and a new configuration needs.
#[derive(Debug, thiserror::Error)]
enum GivenUp {
    #[error("the new configuration needs {capability} ({reason}), which farspan does not have any more")]
    Capability { capability: Capability, reason: Reason },
    #[error("the new configuration writes to {}, where farspan may not write any more", place.display())]
    Place { place: PathBuf },
}

impl Explain for GivenUp {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Capability { capability, .. } => format!(
                "restart farspan: it gives up what its configuration does not need; to have it for later reloads: \
                 privileges.capabilities = [\"{capability}\"]"
            ),
            Self::Place { .. } => {
                "restart farspan: it keeps to the directories that its configuration named at its start".to_owned()
            }
        })
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::NotPermitted
    }
}

impl fmt::Display for Kept {
    /// One line for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept: Vec<Capability> =
            caps::all().into_iter().filter(|&capability| self.capabilities.has(capability)).collect();
        let mut names: Vec<String> = kept.iter().map(|capability| listed([capability].into_iter())).collect();
        names.sort_unstable();
        let capabilities = if names.is_empty() { "no capability".to_owned() } else { names.join(", ") };
        let files = if self.writes.is_some() { "files confined by Landlock" } else { "files not confined" };
        let calls =
            if self.refuses_system_calls { "system calls filtered by seccomp" } else { "system calls not filtered" };
        write!(f, "{capabilities}; {files}; {calls}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(writes: Option<Vec<PathBuf>>) -> Kept {
        let capabilities = [Capability::CAP_NET_RAW].into_iter().collect();
        Kept { capabilities, writes, refuses_system_calls: true }
    }

    #[test]
    fn a_reload_that_needs_what_was_given_up_is_told_so() {
        let mut needs = Needs::default();
        needs.capability(Capability::CAP_NET_RAW, Reason::Interfaces);
        needs.files.insert("/tmp/copy.pcap".into());
        let kept = kept(Some(vec!["/tmp".into()]));
        assert!(kept.suffices_for(&needs).is_ok());
        needs.capability(Capability::CAP_NET_ADMIN, Reason::Tap);
        needs.files.insert("/usr/copy.pcap".into());
        let text = kept.suffices_for(&needs).unwrap_err().to_string();
        for words in [
            "needs CAP_NET_ADMIN (a TAP device that is made again when somebody deletes it)",
            "privileges.capabilities = [\"CAP_NET_ADMIN\"]",
            "writes to /usr, where farspan may not write any more",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }

    #[test]
    fn what_is_kept_is_said_in_one_line() {
        assert_eq!(kept(None).to_string(), "CAP_NET_RAW; files not confined; system calls filtered by seccomp");
    }

    #[test]
    fn a_thread_that_renounces_has_nothing_left_and_others_keep_theirs() {
        let before = Capabilities::permitted().unwrap();
        std::thread::spawn(|| {
            renounce();
            for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
                assert!(caps::read(None, set).unwrap().is_empty(), "{set:?}");
            }
        })
        .join()
        .unwrap();
        assert_eq!(Capabilities::permitted().unwrap(), before);
    }
}
