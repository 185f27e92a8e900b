//! The table `[privileges]` of the daemon: who it is, and what it keeps.

use std::str::FromStr;

use nix::unistd::{Gid, Uid};

use super::keys::{Keys, Mistakes};
use super::mistake::What;
use crate::kernel::capabilities::{Capability, USED};
use crate::quantity::QuantityError;

/// What the daemon may do after it has opened everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivilegesPlan {
    /// Who it becomes before it opens anything, when root starts it; `None`: it stays who it is.
    pub user: Option<User>,
    /// Whether files are confined and system calls refused.
    pub sandbox: Sandbox,
    /// Capabilities that stay beside those that the sessions need, for the sessions of later reloads.
    pub keep: Vec<Capability>,
}

/// Whether files are confined and system calls refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// As far as the kernel can.
    #[default]
    Auto,
    /// Not at all.
    Off,
}

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, or a number where nobody has a name for it.
    pub name: String,
    /// User number.
    pub uid: Uid,
    /// Number of the user's own group.
    pub gid: Gid,
}

/// Reads the table.
pub(super) fn resolve(keys: &Keys<'_>, mistakes: &mut Mistakes) -> PrivilegesPlan {
    keys.only(&["user", "sandbox", "keep"], mistakes);
    let mut keep = Vec::new();
    for word in keys.written("keep").and_then(|_| keys.words("keep", mistakes)).into_iter().flatten() {
        match capability(&word) {
            Ok(capability) => keep.push(capability),
            Err(error) => mistakes.push(keys.mistake("keep", error)),
        }
    }
    PrivilegesPlan {
        user: keys.read("user", mistakes, user),
        sandbox: keys.read("sandbox", mistakes, str::parse).unwrap_or_default(),
        keep,
    }
}

/// A user by name or number, who has a line in the host's list of users.
fn user(text: &str) -> Result<User, What> {
    let found = match text.parse() {
        Ok(number) => nix::unistd::User::from_uid(Uid::from_raw(number)),
        Err(_) => nix::unistd::User::from_name(text),
    };
    let found = found.ok().flatten().ok_or_else(|| What::NoSuchUser(text.to_owned()))?;
    Ok(User { name: found.name, uid: found.uid, gid: found.gid })
}

/// One of the capabilities that farspan can use, with or without `CAP_`, in any case.
fn capability(text: &str) -> Result<Capability, QuantityError> {
    let found = Capability::from_str(&caps::to_canonical(text)).ok();
    found.filter(|found| USED.contains(found)).ok_or_else(|| QuantityError::Unreadable {
        what: "capability that farspan uses",
        text: text.to_owned(),
        example: "CAP_NET_RAW, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF, CAP_IPC_LOCK",
    })
}
