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
    pub capabilities: Vec<Capability>,
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
pub(super) fn resolve(top: &Keys<'_>, mistakes: &mut Mistakes) -> PrivilegesPlan {
    let keys = top.table("privileges", mistakes);
    keys.only(&["user", "sandbox", "capabilities"], mistakes);
    let mut capabilities = Vec::new();
    for word in keys.words("capabilities", mistakes).into_iter().flatten() {
        match capability(&word) {
            Ok(capability) => capabilities.push(capability),
            Err(error) => mistakes.push(keys.mistake("capabilities", error)),
        }
    }
    PrivilegesPlan {
        user: keys.read("user", mistakes, user),
        sandbox: keys.read("sandbox", mistakes, str::parse).unwrap_or_default(),
        capabilities,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::written::{Table, Written, set};

    fn privileges(keys: &[(&'static str, &str)]) -> (PrivilegesPlan, Vec<String>) {
        let mut table = Table::new();
        for &(key, word) in keys {
            set(&mut table, &["privileges", key], Written::flag(key, word));
        }
        let mut mistakes = Mistakes::new();
        let plan = resolve(&Keys::new("", &table), &mut mistakes);
        (plan, mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_key_is_read() {
        let (plan, mistakes) =
            privileges(&[("user", "root"), ("sandbox", "off"), ("capabilities", "net_admin, CAP_BPF")]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let user = User { name: "root".to_owned(), uid: Uid::from_raw(0), gid: Gid::from_raw(0) };
        let capabilities = vec![Capability::CAP_NET_ADMIN, Capability::CAP_BPF];
        assert_eq!(plan, PrivilegesPlan { user: Some(user), sandbox: Sandbox::Off, capabilities });
        assert_eq!(privileges(&[]).0, PrivilegesPlan::default());
    }

    #[test]
    fn users_and_capabilities_that_there_are_not_are_refused() {
        let (_, mistakes) =
            privileges(&[("user", "no-such-user-here"), ("sandbox", "on"), ("capabilities", "net_raw,sys_boot")]);
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(mistakes.iter().any(|mistake| mistake.contains("sys_boot")), "{mistakes:?}");
    }
}
