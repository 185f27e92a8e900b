//! The only unsafe code: one kernel interface a file, each block argued from the manual page.
#![allow(unsafe_code)] // the one place where it is allowed

pub mod async_fd;
pub mod ethtool;
pub mod interface;
pub mod malloc;
pub mod mmap;
pub mod mmsg;
pub mod packet_fanout;
pub mod packet_socket;
pub mod peer_groups;
pub mod prefetch;
pub mod recvmmsg;
pub mod signal;
pub mod socket_filter;
pub mod socket_option;
pub mod thread;
pub mod tpacket;
pub mod tun;
pub mod xattr;
pub mod xdp_program;
pub mod xsk;

use std::io;

use libc::{c_int, socklen_t};

/// The length of a structure as system calls take it.
fn length_of<T>() -> socklen_t {
    socklen_t::try_from(size_of::<T>()).unwrap_or(socklen_t::MAX)
}

/// System calls answer -1 and `errno`.
fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
