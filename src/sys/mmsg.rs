//! sendmmsg(2): many datagrams with one system call, and runs of equally long ones as one message of it.
//!
//! Neither std nor socket2 has it, and nix's version shares one set of control messages between all messages.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most messages of one call, be they datagrams or runs: enough to make the system call cheap, few enough that their headers fit the stack.
pub const MOST: usize = 64;

/// Most datagrams of one run: `UDP_MAX_SEGMENTS` of the kernels before 6.9; it is 128 since.
pub const MOST_OF_A_RUN: usize = 64;
/// Most bytes of one run: with IP and UDP in front they must fit an IP packet.
pub const MOST_BYTES_OF_A_RUN: usize = 65_000;

/// Sends up to [`MOST`] `runs` through the connected `socket`, in order, and never blocks. Returns how many the kernel
/// took: at least one, unless `runs` is empty.
///
/// A run of one slice is one datagram. A run of several slices enters the kernel as one message and leaves as one
/// datagram each (`UDP_SEGMENT`, udp(7)): they must be equally long, only the last may be shorter, and there may be
/// [`MOST_OF_A_RUN`] of them with [`MOST_BYTES_OF_A_RUN`].
///
/// # Errors
/// Why the *first* run was not taken. When a later one was refused the count falls short, and the manual page
/// says of its error: "The error code is lost. The caller can retry the transmission, starting at the first failed
/// message."
pub fn send_each(socket: BorrowedFd<'_>, runs: &[&[IoSlice<'_>]]) -> io::Result<usize> {
    // Of these several thousand bytes a call needs few.
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MOST];
    let mut sizes = [const { MaybeUninit::<SegmentSize>::uninit() }; MOST];
    let mut count: libc::c_uint = 0;
    for ((message, size), run) in messages.iter_mut().zip(&mut sizes).zip(runs) {
        // SAFETY: `mmsghdr` is a C struct of integers and raw pointers, for which all zeroes is a valid value.
        let message = message.write(unsafe { std::mem::zeroed() });
        // The kernel only reads the datagrams; the structure is shared with recvmmsg, hence `mut`. "IoSlice is guaranteed
        // to be ABI compatible with the iovec type on Unix" (std::io::IoSlice).
        message.msg_hdr.msg_iov = run.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_iovlen = run.len() as _; // size_t with glibc, int with musl
        if let [first, _, ..] = run {
            message.msg_hdr.msg_control = std::ptr::from_mut(size.write(SegmentSize::new(first.len()))).cast();
            message.msg_hdr.msg_controllen = size_of::<SegmentSize>() as _; // size_t with glibc, socklen_t with musl
        }
        count += 1;
    }
    // SAFETY: sendmmsg(2): "The msgvec argument is a pointer to an array of mmsghdr structures. The size of this array
    // is specified in vlen": the first `count` of the `MOST` elements were written above. Each msg_iov points to the msg_iovlen
    // elements of a slice in `runs`, which is borrowed for longer than the call with everything it refers to, and the
    // kernel keeps none of it; msg_name is null, as it may be on a connected socket. msg_control is null or, as
    // sendmsg(2) says, "points to a buffer" of msg_controllen bytes: one element of `sizes`, laid out as cmsg(3) says
    // (see `SegmentSize`), which outlives the call. The kernel writes only msg_len, inside `messages`. The descriptor
    // is open because it is borrowed.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr().cast(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A control message that says how long each datagram of a run is: udp(7), `UDP_SEGMENT`.
///
/// cmsg(3) puts the data behind the header at its natural alignment, and pads the whole to that of the header: as C
/// lays out a structure of the two.
#[repr(C)]
struct SegmentSize {
    header: libc::cmsghdr,
    size: u16,
}

impl SegmentSize {
    fn new(size: usize) -> Self {
        // SAFETY: `cmsghdr` is a C struct of integers, for which all zeroes is a valid value.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (std::mem::offset_of!(Self, size) + size_of::<u16>()) as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        // A size that does not fit is longer than any datagram: the kernel refuses the largest for that.
        Self { header, size: u16::try_from(size).unwrap_or(u16::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::sys::socket_option::IntOption;

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
        let runs: Vec<&[IoSlice<'_>]> = slices.chunks(1).collect();

        assert_eq!(send_each(sender.as_fd(), &runs).unwrap(), MOST, "one call takes no more than MOST");
        assert_eq!(send_each(sender.as_fd(), &runs[MOST..]).unwrap(), 6);
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
        let runs: Vec<&[IoSlice<'_>]> = slices.chunks(1).collect();

        assert_eq!(send_each(sender.as_fd(), &runs).unwrap(), 1);
        let error = send_each(sender.as_fd(), &runs[1..]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(send_each(sender.as_fd(), &[]).unwrap(), 0);
    }

    #[test]
    fn the_slices_of_a_run_arrive_as_datagrams_of_their_own_between_others() {
        let (sender, receiver) = connected();
        let texts = [&b"before"[..], b"one of run", b"two of run", b"and three!", b"rest", b"after, alone"];
        let slices = texts.map(IoSlice::new);
        let runs = [&slices[..1], &slices[1..5], &slices[5..]];

        assert_eq!(send_each(sender.as_fd(), &runs).unwrap(), 3);
        let mut buffer = [0; 256];
        for text in texts {
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], text);
        }
    }

    #[test]
    fn the_longest_run_is_taken_and_one_without_a_checksum_is_refused() {
        let (sender, receiver) = connected();
        let datagram = vec![7; MOST_BYTES_OF_A_RUN / MOST_OF_A_RUN];
        let slices = [IoSlice::new(&datagram); MOST_OF_A_RUN];
        assert_eq!(send_each(sender.as_fd(), &[&slices]).unwrap(), 1);
        let mut buffer = [0; 2048];
        for _ in slices {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), datagram.len());
        }

        IntOption::UDP_NO_CHECKSUM_V4.set(sender.as_fd(), 1).unwrap();
        let error = send_each(sender.as_fd(), &[&slices]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
