//! TAP devices: `Documentation/networking/tuntap.rst`, drivers/net/tun.c.
//!
//! What is written to the descriptor of a TAP device, one Ethernet frame a write(2), the device receives. It exists as
//! long as somebody has it open, unless it was made persistent.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{Ioctl, c_ulong};

use super::check;
use super::interface::{ifr_flags, ifr_name};

/// Where TAP devices come from.
pub const CLONE_DEVICE: &str = "/dev/net/tun";

/// How many descriptors a TAP device may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// One.
    One,
    /// Several. A device that exists must be attached to as it was made.
    Several,
}

/// Opens [`CLONE_DEVICE`], which is no TAP device yet.
///
/// # Errors
/// `ENOENT` and `ENODEV` where the kernel has no TAP devices or nobody made the file, `EACCES` where its mode says so.
pub fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CLONE_DEVICE)
}

/// Makes `file` the TAP device `name`, which is created unless it exists; frames have nothing in front of them.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_NET_ADMIN` and for devices of other users, `EBUSY` for one that somebody has open,
/// `EINVAL` for an interface of another kind or other `queues`.
pub fn attach(file: &File, name: &str, queues: Queues) -> io::Result<()> {
    let queues = match queues {
        Queues::One => 0,
        Queues::Several => libc::IFF_MULTI_QUEUE,
    };
    let ifru_flags = ifr_flags(libc::IFF_TAP | libc::IFF_NO_PI | queues);
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags };
    let mut request = libc::ifreq { ifr_name: ifr_name(name)?, ifr_ifru };
    // SAFETY: tuntap.rst: TUNSETIFF takes a `struct ifreq` with name and flags, and writes the name that the device got
    // into it. `request` is a whole one, its name ends with a zero, and it outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }).map(|_| ())
}

/// Lets the user with this number attach to the device without `CAP_NET_ADMIN`.
///
/// # Errors
/// The kernel's: `EINVAL` for a number that is no user's in this namespace.
pub fn set_owner(tap: BorrowedFd<'_>, user: u32) -> io::Result<()> {
    set(tap, libc::TUNSETOWNER, user.into())
}

/// Keeps the kernel from handing over, and the device from promising, unfinished checksums and super-frames.
///
/// # Errors
/// The kernel's.
pub fn clear_offloads(tap: BorrowedFd<'_>) -> io::Result<()> {
    set(tap, libc::TUNSETOFFLOAD, 0)
}

/// A request whose argument is a number.
fn set(tap: BorrowedFd<'_>, request: Ioctl, argument: c_ulong) -> io::Result<()> {
    // SAFETY: tun.c:__tun_chr_ioctl takes the argument of TUNSETOWNER and TUNSETOFFLOAD as a number, never as an address.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), request, argument) }).map(|_| ())
}
