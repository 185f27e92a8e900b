//! What this process may do (capabilities(7)), and how it gets what it lacks.

use std::io;

use caps::CapSet;
pub use caps::Capability;
use nix::unistd::geteuid;

/// What farspan can use, for whatever plan. What each is for stands in [`crate::privilege::needs`].
pub const USED: [Capability; 8] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_BPF,
];

/// The capabilities of AF_XDP's zero-copy mode: a raw socket, its memory, and the program on the interface.
pub const ZERO_COPY: [Capability; 4] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_IPC_LOCK, Capability::CAP_BPF];

/// A hint for a process that lacks these: the command that gives them to this program once and for all, and the line
/// that a systemd unit needs.
pub fn remedy(missing: &[Capability]) -> String {
    format!("run as root, or once: {}\nor, in a systemd unit: {}", setcap_line(missing), unit_line(missing))
}

/// The command that gives this program these capabilities beside those that it gave already: setcap(8) replaces what a
/// file had.
pub fn setcap_line(missing: &[Capability]) -> String {
    let had = if geteuid().is_root() { None } else { Capabilities::permitted().ok() }.unwrap_or(Capabilities::NONE);
    let wanted = USED.iter().filter(|capability| missing.contains(capability) || had.has(**capability));
    let wanted: Vec<String> = wanted.map(|capability| capability.to_string().to_lowercase()).collect();
    let program = std::env::current_exe().unwrap_or_else(|_| "farspan".into());
    format!("sudo setcap {}=ep {}", wanted.join(","), program.display())
}

/// The line of a systemd unit that gives its process these capabilities; several such lines add up.
fn unit_line(missing: &[Capability]) -> String {
    format!("AmbientCapabilities={}", listed(missing.iter()))
}

/// Their names, with blanks between.
pub fn listed<'a>(capabilities: impl Iterator<Item = &'a Capability>) -> String {
    capabilities.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Every capability there is.
    pub const ALL: Self = Self(u64::MAX);
    /// None, as an ordinary user has them.
    pub const NONE: Self = Self(0);

    /// The effective ones of this thread: what it may do now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of_this_process() -> io::Result<Self> {
        Self::read(CapSet::Effective)
    }

    /// The permitted ones of this thread: what it may make effective.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn permitted() -> io::Result<Self> {
        Self::read(CapSet::Permitted)
    }

    /// Whether `capability` is among them.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & capability.bitmask() != 0
    }

    fn read(set: CapSet) -> io::Result<Self> {
        caps::read(None, set).map(|set| set.into_iter().collect()).map_err(io::Error::other)
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(capabilities: T) -> Self {
        Self(capabilities.into_iter().fold(0, |mask, capability| mask | capability.bitmask()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_names_the_command_and_the_unit_s_line() {
        let words = remedy(&[Capability::CAP_NET_RAW]);
        let (command, unit) = words.split_once('\n').unwrap();
        assert!(command.contains("cap_net_raw") && command.contains("=ep /"), "{words}");
        assert_eq!(unit, "or, in a systemd unit: AmbientCapabilities=CAP_NET_RAW");
    }

    #[test]
    fn a_set_has_what_was_put_in() {
        let set: Capabilities = ZERO_COPY.into_iter().collect();
        assert!(set.has(Capability::CAP_BPF) && !set.has(Capability::CAP_SYS_ADMIN));
        assert!(!Capabilities::NONE.has(Capability::CAP_NET_RAW) && Capabilities::ALL.has(Capability::CAP_NET_RAW));
    }
}
