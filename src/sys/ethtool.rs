//! Whether an interface's offloads are on: the oldest part of the ethtool interface, which every driver answers.

use std::io;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Socket, Type};

use super::interface::ifr_name;

/// An offload that makes the capture see frames that were never on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Offload {
    /// TCP segmentation by the device: `ETHTOOL_GTSO` in linux/ethtool.h.
    TcpSegmentation = 0x1e,
    /// Received segments joined by the kernel: `ETHTOOL_GGRO`.
    GenericReceive = 0x2b,
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Whether `offload` is on at `interface`.
///
/// # Errors
/// The kernel's: no such interface, or a driver that does not know. `InvalidInput` for a name that is too long.
pub fn is_on(interface: &str, offload: Offload) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = EthtoolValue { command: offload as u32, data: 0 };
    let mut request = libc::ifreq {
        ifr_name: ifr_name(interface)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: netdevice(7): SIOCETHTOOL takes a pointer to a `struct ifreq` whose `ifr_data` points to a structure that
    // begins with the command; for the two commands of `Offload` that is `struct ethtool_value` (linux/ethtool.h),
    // which is what `value` is, and the kernel writes its `data` and nothing else. Both live on this stack frame
    // beyond the call, and `socket` is open. Neither socket2 nor nix wraps this call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offload_is_read_as_ethtool_shows_it() {
        // Linux keeps TSO on at the loopback device: it has nothing to segment for.
        assert!(is_on("lo", Offload::TcpSegmentation).is_ok_and(|on| on));
        assert!(is_on("no-such-device0", Offload::TcpSegmentation).is_err());
        assert!(is_on("a-name-that-no-interface-can-have", Offload::GenericReceive).is_err());
    }
}
