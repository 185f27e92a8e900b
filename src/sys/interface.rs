//! What the kernel says about an interface, asked on a socket.
//!
//! sysfs would say it without unsafe code, but it shows the network namespace in which it was mounted: after
//! `nsenter -n` that is another one than ours. A socket belongs to one namespace for ever.

#![allow(unsafe_code, reason = "SIOCGIFMTU has no safe wrapper in the crates we use")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The MTU of the interface `name`, in bytes, in the network namespace of `socket`, which may be of any kind.
///
/// # Errors
/// The kernel's: `ENODEV` when there is no such interface; also when `name` is longer than an interface name can be.
pub fn mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    // SAFETY: struct ifreq is plain C data (netdevice(7)), for which all zeroes is a value: an empty name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let (place, bytes) = (&mut request.ifr_name, name.as_bytes());
    if bytes.len() >= place.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, &byte) in place.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // SAFETY: netdevice(7): SIOCGIFMTU works "on any socket's file descriptor regardless of the family or type", reads
    // ifr_name, which ends with a zero because it is longer than `name`, and fills in ifr_mtu. `request` is a whole
    // struct ifreq and outlives the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: after SIOCGIFMTU succeeded, ifr_mtu is the field of the union that the kernel filled in.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
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
