//! What the kernel says about an interface, asked on a socket.
//!
//! sysfs would say it without unsafe code, but it shows the network namespace in which it was mounted: after
//! `nsenter -n` that is another one than ours. A socket belongs to one namespace for ever.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The MTU of the interface `name`, in bytes, in the network namespace of `socket`, which may be of any kind.
///
/// # Errors
/// The kernel's: `ENODEV` when there is no such interface; also when `name` is longer than an interface name can be.
pub fn mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 };
    let mut request = libc::ifreq { ifr_name: ifr_name(name)?, ifr_ifru };
    // SAFETY: netdevice(7): SIOCGIFMTU works "on any socket's file descriptor regardless of the family or type", reads
    // ifr_name, which ends with a zero, and fills in ifr_mtu. `request` is a whole struct ifreq and outlives the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: after SIOCGIFMTU succeeded, ifr_mtu is the field of the union that the kernel filled in.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The name as the kernel reads it: at most 15 bytes and a zero.
pub(super) fn ifr_name(interface: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn the_loopback_interface_has_an_mtu_and_nobody_else_s() {
        let socket = UnixDatagram::unbound().unwrap();
        assert!(mtu(socket.as_fd(), "lo").unwrap() >= 576);
        assert_eq!(mtu(socket.as_fd(), "lo7qx").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(mtu(socket.as_fd(), "longer-than-sixteen").is_err());
    }
}
