//! recvmmsg(2): many datagrams with one system call, into memory that was claimed before.
//!
//! Neither std nor socket2 has it, and nix's version allocates for every call.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most datagrams of one call: enough to make the system call cheap.
pub const MOST: usize = 32;
/// Room for one datagram: the longest that IP can tell.
const ROOM: usize = 1 << 16;
/// From one datagram's room to the next one's: 33 lines of the processor's caches more, so that the beginnings of all
/// datagrams have places of their own in them. At distances of a power of two they would push each other out.
const STRIDE: usize = ROOM + 33 * 64;

/// Datagrams of one call.
pub struct Datagrams {
    /// [`MOST`] times [`STRIDE`] bytes. The kernel gives pages to what was written once, and no others.
    memory: Vec<u8>,
    about: [About; MOST],
    count: usize,
}

/// What the kernel says of one datagram.
#[derive(Clone, Copy)]
struct About {
    length: usize,
    from: SocketAddress,
    time: Timestamped,
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What was received: the payload of UDP; of a raw IPv4 socket the whole packet, of a raw IPv6 socket what follows
    /// its headers (raw(7), ipv6(7)).
    pub bytes: &'a [u8],
    /// Who sent it; `None` for a socket of another family than IP.
    pub from: Option<IpAddr>,
    /// When the kernel received it, in nanoseconds since 1970, if the socket has `SO_TIMESTAMPNS`.
    pub nanos: Option<u64>,
}

impl Datagrams {
    /// Claims the memory.
    pub fn new() -> Self {
        // SAFETY: `About` holds C structs of integers and byte arrays, for which all zeroes is a valid value.
        let about = unsafe { zeroed() };
        Self { memory: vec![0; MOST * STRIDE], about, count: 0 }
    }

    /// Receives up to `most` datagrams from `socket`, at most [`MOST`], and never blocks. What was received before is
    /// gone. Returns how many there are: at least one.
    ///
    /// # Errors
    /// Why there is none: `WouldBlock` when none has come.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let Self { memory, about, count } = self;
        *count = 0;
        // SAFETY: `iovec` is a C struct of an integer and a pointer, for which all zeroes is a valid value.
        let mut slices: [libc::iovec; MOST] = unsafe { zeroed() };
        // SAFETY: `mmsghdr` is a C struct of integers and raw pointers, for which all zeroes is a valid value.
        let mut messages: [libc::mmsghdr; MOST] = unsafe { zeroed() };
        let mut wanted: libc::c_uint = 0;
        let rooms = memory.chunks_exact_mut(STRIDE).filter_map(|room| room.get_mut(..ROOM));
        for (((message, slice), room), about) in
            messages.iter_mut().zip(&mut slices).zip(rooms).zip(about.iter_mut()).take(most)
        {
            // Before its address is taken: nothing of ours writes to it behind the kernel's pointer.
            about.time.header.cmsg_len = 0;
            *slice = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = std::ptr::from_mut(&mut about.from).cast();
            header.msg_namelen = SocketAddress::LENGTH;
            header.msg_iov = slice;
            header.msg_iovlen = 1;
            header.msg_control = std::ptr::from_mut(&mut about.time).cast();
            header.msg_controllen = size_of::<Timestamped>() as _; // size_t with glibc, socklen_t with musl
            wanted += 1;
        }
        // SAFETY: recvmmsg(2): "The msgvec argument is a pointer to an array of mmsghdr structures. The size of this array
        // is specified in vlen": `wanted` of the `MOST` elements were filled above. Each msg_iov points to one element of
        // `slices`, which describes a part of `memory` that nothing else refers to; msg_name and msg_control point to an
        // element of `about` with its size, plain integers and bytes that the kernel may fill in any way. All of it
        // outlives the call and is borrowed mutably by it. timeout is null. The descriptor is open because it is
        // borrowed.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), wanted, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        *count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (message, about) in messages.iter().zip(about).take(*count) {
            about.length = message.msg_len as usize;
        }
        Ok(*count)
    }

    /// What the last call received, in order.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.memory.chunks_exact(STRIDE).zip(&self.about).take(self.count).map(|(room, about)| Datagram {
            // The kernel never says more than there is room.
            bytes: room.get(..about.length.min(ROOM)).unwrap_or_default(),
            from: about.from.ip(),
            nanos: about.time.nanos(),
        })
    }
}

impl Default for Datagrams {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datagrams").field("count", &self.count).finish_non_exhaustive()
    }
}

/// `struct sockaddr_in6`, of which `struct sockaddr_in` is shorter, as bytes: the family in the machine's byte order
/// and two bytes of port, then ip(7): four bytes of address; ipv6(7): four bytes of flow label, sixteen of address.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct SocketAddress([u8; 28]);

impl SocketAddress {
    const LENGTH: libc::socklen_t = 28;

    fn ip(&self) -> Option<IpAddr> {
        let [f0, f1, _, _, rest @ ..] = self.0;
        match libc::c_int::from(u16::from_ne_bytes([f0, f1])) {
            libc::AF_INET => rest.first_chunk().map(|&address: &[u8; 4]| Ipv4Addr::from(address).into()),
            libc::AF_INET6 => rest[4..].first_chunk().map(|&address: &[u8; 16]| Ipv6Addr::from(address).into()),
            _ => None,
        }
    }
}

/// A control message with the time of receipt. cmsg(3) puts the data behind the header at its natural alignment: as C
/// lays out a structure of the two.
#[derive(Clone, Copy)]
#[repr(C)]
struct Timestamped {
    header: libc::cmsghdr,
    time: libc::timespec,
}

impl Timestamped {
    fn nanos(&self) -> Option<u64> {
        // Nothing was written where the length is still 0.
        let is_there = self.header.cmsg_len != 0
            && self.header.cmsg_level == libc::SOL_SOCKET
            && self.header.cmsg_type == libc::SCM_TIMESTAMPNS;
        let seconds = u64::try_from(self.time.tv_sec).ok().filter(|_| is_there)?;
        Some(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(self.time.tv_nsec).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;
    use crate::quantity::Timestamp;
    use crate::sys::socket_option::IntOption;

    #[test]
    fn datagrams_come_in_order_with_sender_and_time() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (sender, receiver) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
            IntOption::TIMESTAMPS.set(receiver.as_fd(), 1).unwrap();
            let texts: Vec<String> = (0..MOST + 3).map(|number| "x".repeat(number)).collect();
            let before = Timestamp::now().nanos();
            for text in &texts {
                sender.send_to(text.as_bytes(), receiver.local_addr().unwrap()).unwrap();
            }
            let mut datagrams = Datagrams::new();
            let mut seen = Vec::new();
            for expected in [5, MOST - 2] {
                assert_eq!(datagrams.receive(receiver.as_fd(), expected).unwrap(), expected);
                for datagram in datagrams.iter() {
                    assert_eq!(datagram.from, Some(sender.local_addr().unwrap().ip()));
                    assert!((before..=Timestamp::now().nanos()).contains(&datagram.nanos.unwrap()));
                    seen.push(datagram.bytes.to_vec());
                }
            }
            assert!(seen.iter().map(Vec::as_slice).eq(texts.iter().map(String::as_bytes)));
            let nothing = datagrams.receive(receiver.as_fd(), MOST).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(datagrams.iter().count(), 0);
        }
    }

    #[test]
    fn the_longest_datagram_fits_and_has_no_time_unless_asked() {
        let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let longest = vec![7; 65_507];
        sender.send_to(&longest, receiver.local_addr().unwrap()).unwrap();
        let mut datagrams = Datagrams::new();
        datagrams.receive(receiver.as_fd(), MOST).unwrap();
        let only = datagrams.iter().next().unwrap();
        assert_eq!((only.bytes, only.nanos), (&longest[..], None));
    }
}
