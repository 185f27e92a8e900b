//! setsockopt(2) `PACKET_FANOUT_DATA`: the program by which a fan-out group of packet sockets chooses a member, packet(7).

use std::io;
use std::os::fd::BorrowedFd;

use super::socket_option::set_option;

/// Gives the group of `socket` a classic BPF program, whose answer for a frame, modulo the number of members, is the
/// member that gets it. Linux 4.3.
///
/// # Errors
/// `EINVAL` when the socket is in no group of mode `PACKET_FANOUT_CBPF`, or the kernel does not accept the program.
pub fn choose_by(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The kernel copies the instructions out of this memory, which outlives the call, and writes nothing to it
    // (net/packet/af_packet.c:fanout_set_data_cbpf, net/core/filter.c:bpf_prog_create_from_user).
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &program)
}
