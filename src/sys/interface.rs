//! What the kernel says about an interface, and lets be set, on a socket.
//!
//! sysfs would say it without unsafe code, but it shows the network namespace in which it was mounted: after
//! `nsenter -n` that is another one than ours. A socket belongs to one namespace for ever.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{Ioctl, c_int, c_short};

use crate::quantity::Ifindex;

/// The MTU of the interface `name`, in bytes, in the network namespace of `socket`, which may be of any kind.
///
/// # Errors
/// The kernel's: `ENODEV` when there is no such interface; also when `name` is longer than an interface name can be.
pub fn mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let answer = ask(socket, name, libc::SIOCGIFMTU, libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 })?;
    // SAFETY: after SIOCGIFMTU succeeded, ifr_mtu is the field of the union that the kernel filled in.
    let mtu = unsafe { answer.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Sets the MTU of the interface `name`, in bytes.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_NET_ADMIN`, `EINVAL` for a size that the device does not have.
pub fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: u32) -> io::Result<()> {
    let ifru_mtu = i32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidInput)?;
    ask(socket, name, libc::SIOCSIFMTU, libc::__c_anonymous_ifr_ifru { ifru_mtu }).map(|_| ())
}

/// The flags of the interface `name`: `IFF_UP` and the others of netdevice(7).
///
/// # Errors
/// As [`mtu`].
pub fn flags(socket: BorrowedFd<'_>, name: &str) -> io::Result<c_int> {
    let answer = ask(socket, name, libc::SIOCGIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_flags: 0 })?;
    // SAFETY: after SIOCGIFFLAGS succeeded, ifr_flags is the field of the union that the kernel filled in.
    let flags = unsafe { answer.ifru_flags };
    Ok(c_int::from(flags))
}

/// Sets the flags of the interface `name`: also brings it up or down.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_NET_ADMIN`.
pub fn set_flags(socket: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: ifr_flags(flags) };
    ask(socket, name, libc::SIOCSIFFLAGS, ifr_ifru).map(|_| ())
}

/// The name of the interface with this number, in the network namespace of `socket`.
///
/// # Errors
/// The kernel's: `ENODEV` when there is no such interface.
pub fn name(socket: BorrowedFd<'_>, index: Ifindex) -> io::Result<String> {
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_ifindex: index.value().cast_signed() };
    let mut question = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru };
    // SAFETY: netdevice(7): SIOCGIFNAME "given the ifr_ifindex, return the name of the interface in ifr_name". `question` is
    // a whole struct ifreq and outlives the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut question) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = question.ifr_name.iter().map(|letter| letter.to_ne_bytes()[0]).take_while(|&letter| letter != 0);
    Ok(String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned())
}

/// One of the requests of netdevice(7) that take and give a number.
fn ask(
    socket: BorrowedFd<'_>,
    name: &str,
    request: Ioctl,
    ifr_ifru: libc::__c_anonymous_ifr_ifru,
) -> io::Result<libc::__c_anonymous_ifr_ifru> {
    let mut question = libc::ifreq { ifr_name: ifr_name(name)?, ifr_ifru };
    // SAFETY: netdevice(7): these requests work "on any socket's file descriptor regardless of the family or type", "pass
    // an ifreq structure", read ifr_name, which ends with a zero, and read or fill in one number of the union. `question`
    // is a whole struct ifreq and outlives the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut question) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(question.ifr_ifru) }
}

/// Flags as `struct ifreq` holds them: in 16 bits, of which the sign is one.
pub(super) fn ifr_flags(flags: c_int) -> c_short {
    let [low, high, ..] = flags.to_le_bytes();
    c_short::from_le_bytes([low, high])
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

    #[test]
    fn an_interface_is_known_by_its_number() {
        let socket = UnixDatagram::unbound().unwrap();
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        let number = |number: u32| Ifindex::new(number.into()).unwrap();
        assert_eq!(name(socket.as_fd(), number(loopback)).unwrap(), "lo");
        assert_eq!(name(socket.as_fd(), Ifindex::MAX).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
