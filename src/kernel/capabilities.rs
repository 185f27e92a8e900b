//! What this process may do (capabilities(7)).

use std::fmt;
use std::io;

/// A privilege that farspan can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `CAP_NET_ADMIN`: promiscuous mode beyond packet sockets, asking for a neighbour, larger socket buffers.
    NetAdmin,
    /// `CAP_NET_RAW`: packet sockets to capture with, raw sockets for GRE.
    NetRaw,
    /// `CAP_BPF`, Linux 5.8: with `CAP_NET_ADMIN`, the XDP program of AF_XDP's zero-copy mode.
    Bpf,
    /// `CAP_SYS_ADMIN`: everything that `CAP_BPF` gives, too.
    SysAdmin,
}

impl Capability {
    /// Bit number in the kernel's masks (`linux/capability.h`).
    const fn bit(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::NetRaw => 13,
            Self::SysAdmin => 21,
            Self::Bpf => 39,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Bpf => "CAP_BPF",
        })
    }
}

/// The command that gives this program both capabilities once and for all.
pub fn setcap_line() -> String {
    setcap("cap_net_raw,cap_net_admin")
}

/// The same with what the zero-copy mode of AF_XDP needs beside them.
pub fn zero_copy_setcap_line() -> String {
    setcap("cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock")
}

fn setcap(capabilities: &str) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "farspan".into());
    format!("sudo setcap {capabilities}=ep {}", program.display())
}

/// The effective capabilities of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Every capability there is.
    pub const ALL: Self = Self(u64::MAX);
    /// None, as an ordinary user has them.
    pub const NONE: Self = Self(0);

    /// Those of this process, out of `/proc/self/status`.
    ///
    /// # Errors
    /// When `/proc` is not there, or its `CapEff` line is not as proc(5) says.
    pub fn of_this_process() -> io::Result<Self> {
        Self::read(&std::fs::read_to_string("/proc/self/status")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status has no CapEff line"))
    }

    /// Whether `capability` is among them.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability.bit()) != 0
    }

    fn read(status: &str) -> Option<Self> {
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(mask.trim(), 16).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_out_of_proc() {
        let status = "Name:\tfarspan\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000002000\nCapBnd:\t0\n";
        let capabilities = Capabilities::read(status).unwrap();
        assert!(capabilities.has(Capability::NetRaw));
        assert!(!capabilities.has(Capability::NetAdmin));
        assert_eq!(Capabilities::read("CapEff:\tnothing\n"), None);
    }
}
