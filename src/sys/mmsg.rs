//! sendmmsg(2): many datagrams with one system call.
//!
//! Neither std nor socket2 has it, and nix's version shares one set of control messages between all datagrams.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most datagrams of one call: enough to make the system call cheap, few enough that their headers fit the stack.
pub const MOST: usize = 64;

/// Sends up to [`MOST`] of `datagrams` through the connected `socket`, each slice one datagram, in order, and never
/// blocks. Returns how many the kernel took: at least one, unless `datagrams` is empty.
///
/// # Errors
/// Why the *first* datagram was not taken. When a later one was refused the count falls short, and the manual page
/// says of its error: "The error code is lost. The caller can retry the transmission, starting at the first failed
/// message."
pub fn send_each(socket: BorrowedFd<'_>, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: `mmsghdr` is a C struct of integers and raw pointers, for which all zeroes is a valid value.
    let mut messages: [libc::mmsghdr; MOST] = unsafe { std::mem::zeroed() };
    let mut count: libc::c_uint = 0;
    for (message, datagram) in messages.iter_mut().zip(datagrams) {
        // The kernel only reads the datagram; the structure is shared with recvmmsg, hence `mut`. "IoSlice is guaranteed
        // to be ABI compatible with the iovec type on Unix" (std::io::IoSlice).
        message.msg_hdr.msg_iov = std::ptr::from_ref(datagram).cast_mut().cast();
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: sendmmsg(2): "The msgvec argument is a pointer to an array of mmsghdr structures. The size of this array
    // is specified in vlen": `count` of the `MOST` elements were filled above. Each msg_iov points into `datagrams`,
    // which is borrowed for longer than the call, and the kernel keeps none of it; msg_name is null, as it may be on a
    // connected socket. It writes only msg_len, inside `messages`. The descriptor is open because it is borrowed.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    fn connected() -> (UdpSocket, UdpSocket) {
        let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (sender, receiver)
    }

    #[test]
    fn each_slice_arrives_as_its_own_datagram_in_order() {
        let (sender, receiver) = connected();
        let texts: Vec<String> = (0..MOST + 6).map(|number| "x".repeat(number)).collect();
        let slices: Vec<IoSlice<'_>> = texts.iter().map(|text| IoSlice::new(text.as_bytes())).collect();

        assert_eq!(send_each(sender.as_fd(), &slices).unwrap(), MOST, "one call takes no more than MOST");
        assert_eq!(send_each(sender.as_fd(), &slices[MOST..]).unwrap(), 6);
        let mut buffer = [0; 256];
        for text in &texts {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), text.len());
        }
    }

    #[test]
    fn the_first_datagrams_error_is_returned_and_a_later_one_shortens_the_count() {
        let (sender, _receiver) = connected();
        let too_long = vec![0; 70_000];
        let slices = [IoSlice::new(b"short"), IoSlice::new(&too_long)];

        assert_eq!(send_each(sender.as_fd(), &slices).unwrap(), 1);
        let error = send_each(sender.as_fd(), &slices[1..]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(send_each(sender.as_fd(), &[]).unwrap(), 0);
    }
}
