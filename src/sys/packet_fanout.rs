//! setsockopt(2) `PACKET_FANOUT_DATA`: the program by which a fan-out group of packet sockets chooses a member, packet(7).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Gives the group of `socket` a classic BPF program, whose answer for a frame, modulo the number of members, is the
/// member that gets it. Linux 4.3.
///
/// # Errors
/// `EINVAL` when the socket is in no group of mode `PACKET_FANOUT_CBPF`, or the kernel does not accept the program.
pub fn choose_by(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    #[allow(clippy::cast_possible_truncation, reason = "two words")]
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: setsockopt(2) reads `optlen` bytes of `optval`, which describe the `sock_fprog` above. It names `len`
    // instructions, which the kernel copies without writing to them (net/packet/af_packet.c:fanout_set_data_cbpf,
    // net/core/filter.c:bpf_prog_create_from_user). Both outlive the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT_DATA,
            (&raw const program).cast(),
            size,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
