//! getsockopt(2) `SO_PEERGROUPS`, socket(7) and unix(7): the groups of whoever connected a unix socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{gid_t, socklen_t};

use super::{check, length_of};

/// Most groups that are asked for; Linux lets a process have 65,536 (`NGROUPS_MAX`).
const MOST: usize = 65_536;

/// The supplementary groups of the process at the other end of `socket`, as they were when it connected. The kernel
/// answers: no directory service is asked.
///
/// # Errors
/// The kernel's: `ENODATA` where nobody has connected, `ENOPROTOOPT` before Linux 4.13.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<gid_t> = vec![0; 32];
    loop {
        let room = socklen_t::try_from(groups.len()).unwrap_or(0) * length_of::<gid_t>();
        let mut length = room;
        // SAFETY: getsockopt(2): optval and optlen "identify a buffer in which the value for the requested option(s) are to
        // be returned", and "optlen is a value-result argument, initially containing the size of the buffer": they describe
        // `groups`, plain integers that outlive the call. The descriptor is open because it is borrowed.
        let answer = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length / length_of::<gid_t>()).unwrap_or(0);
        match check(answer) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel says how much room it needs.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && length > room && count <= MOST => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_this_process_has_its_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(one.as_fd()).unwrap();
        let mut own: Vec<u32> = std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find_map(|line| line.strip_prefix("Groups:"))
            .unwrap()
            .split_whitespace()
            .map(|group| group.parse().unwrap())
            .collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
    }
}
