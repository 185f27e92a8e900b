//! getsockopt(2) `SO_GET_FILTER`: the classic BPF program that a socket has, socket(7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_void, socklen_t};
use socket2::SockFilter;

use super::check;

/// The largest program that the kernel takes: `BPF_MAXINSNS` of `linux/bpf_common.h`.
const MOST_INSTRUCTIONS: usize = 4096;

/// The program as it was attached; empty where the socket has none.
///
/// # Errors
/// The kernel's: `EACCES` when the socket has an extended BPF program.
pub fn attached(socket: BorrowedFd<'_>) -> io::Result<Vec<SockFilter>> {
    /// `asm-generic/socket.h`: the same number as `SO_ATTACH_FILTER`.
    const SO_GET_FILTER: libc::c_int = libc::SO_ATTACH_FILTER;

    let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; MOST_INSTRUCTIONS];
    // Counted in instructions, not in bytes (net/core/filter.c:sk_get_filter).
    let mut length = socklen_t::try_from(program.len()).unwrap_or(socklen_t::MAX);
    // SAFETY: getsockopt(2): optval and optlen "identify a buffer in which the value for the requested option(s) are to be
    // returned". The kernel writes no more than `length` instructions, all of which `program` holds, and their number to
    // `length`; both outlive the call. Every bit pattern is a `sock_filter`. The descriptor is open because it is borrowed.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_GET_FILTER,
            program.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    })?;
    program.truncate(length as usize);
    Ok(program.into_iter().map(|one| SockFilter::new(one.code, one.jt, one.jf, one.k)).collect())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_program_comes_back_as_it_was_attached() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(attached(socket.as_fd()).unwrap().is_empty());
        let program = [
            SockFilter::new(0x20, 0, 0, 12),
            SockFilter::new(0x15, 0, 1, 7),
            SockFilter::new(6, 0, 0, 0),
            SockFilter::new(6, 0, 0, 99),
        ];
        socket2::SockRef::from(&socket).attach_filter(&program).unwrap();
        let back = attached(socket.as_fd()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{program:?}"));
    }
}
