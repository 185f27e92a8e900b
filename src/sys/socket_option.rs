//! setsockopt(2) and getsockopt(2) for options that neither socket2 nor nix knows.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

use super::{check, length_of};

/// A socket option whose value is a C `int`: its level and its name.
#[derive(Clone, Copy, Debug)]
pub struct IntOption(c_int, c_int);

impl IntOption {
    /// Whether UDP over IPv4 leaves its checksum zero (`SO_NO_CHECK`, which libc lacks: 11 in
    /// `asm-generic/socket.h`).
    pub const UDP_NO_CHECKSUM_V4: Self = Self(libc::SOL_SOCKET, 11);
    /// Whether UDP over IPv6 leaves its checksum zero (`linux/udp.h`).
    pub const UDP_NO_CHECKSUM_V6: Self = Self(libc::SOL_UDP, libc::UDP_NO_CHECK6_TX);
    /// Whether UDP over IPv6 takes datagrams whose checksum is zero, as tunnels may send them (RFC 6935, `linux/udp.h`).
    pub const UDP_ZERO_CHECKSUM_V6: Self = Self(libc::SOL_UDP, libc::UDP_NO_CHECK6_RX);
    /// Whether each datagram comes with the time at which the kernel received it, in nanoseconds: socket(7).
    pub const TIMESTAMPS: Self = Self(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS);
    /// Path MTU discovery of IPv4, ip(7): `IP_PMTUDISC_DO` sets DF and refuses what is larger than the path MTU;
    /// `IP_PMTUDISC_DONT` clears DF and fragments.
    pub const MTU_DISCOVER_V4: Self = Self(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
    /// The same for IPv6, ipv6(7).
    pub const MTU_DISCOVER_V6: Self = Self(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER);
    /// Whether the kernel makes up a flow label (`linux/in6.h`).
    pub const AUTO_FLOW_LABEL: Self = Self(libc::IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL);

    /// The fan-out group of a packet socket, packet(7): the group's id in the low half, how it spreads frames in the high
    /// half.
    pub const PACKET_FANOUT: Self = Self(libc::SOL_PACKET, libc::PACKET_FANOUT);

    /// Sets the option.
    ///
    /// # Errors
    /// The kernel's, for instance `ENOPROTOOPT` from a socket of another family.
    pub fn set(self, socket: BorrowedFd<'_>, value: c_int) -> io::Result<()> {
        set_option(socket, self.0, self.1, &value)
    }

    /// The option's value.
    ///
    /// # Errors
    /// The kernel's, as for [`set`](Self::set).
    pub fn value_of(self, socket: BorrowedFd<'_>) -> io::Result<c_int> {
        let mut value: c_int = 0;
        let mut length = length_of::<c_int>();
        // SAFETY: getsockopt(2): "optlen is a value-result argument, initially containing the size of the buffer pointed
        // to by optval": both point to live variables above, and the kernel writes no more than that size. The descriptor
        // is open because it is borrowed.
        check(unsafe {
            libc::getsockopt(socket.as_raw_fd(), self.0, self.1, (&raw mut value).cast(), &raw mut length)
        })?;
        Ok(value)
    }
}

/// How many datagrams the kernel dropped at this socket since it was opened: its receive buffer was full, or their
/// checksum was wrong. The count has 32 bits and wraps. It is the one of `SO_RXQ_OVFL`, which socket(7) only hands out
/// with a later datagram.
///
/// # Errors
/// The kernel's: `ENOPROTOOPT` before Linux 4.12.
pub fn dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // `SK_MEMINFO_DROPS` and `SK_MEMINFO_VARS` of `linux/sock_diag.h`; `SO_MEMINFO` copies that array.
    const DROPS: usize = 8;
    const COUNTERS: usize = 9;
    let mut counters = [0_u32; COUNTERS];
    let mut length = length_of::<[u32; COUNTERS]>();
    // SAFETY: getsockopt(2): optval and optlen "identify a buffer in which the value for the requested option(s) are to
    // be returned"; "optlen is a value-result argument, initially containing the size of the buffer": they describe
    // `counters`, plain integers that outlive the call. The descriptor is open because it is borrowed.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            counters.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(counters[DROPS])
}

/// Sets an option whose value is any C structure.
///
/// # Errors
/// The kernel's.
pub(super) fn set_option<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: setsockopt(2): "The arguments optval and optlen are used to access option values": they describe `value`,
    // which outlives the call; the kernel copies it. The descriptor is open because it is borrowed.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length_of::<T>())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_kernel_knows_every_option_for_its_own_family_only() {
        let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
        for option in [IntOption::UDP_NO_CHECKSUM_V4, IntOption::MTU_DISCOVER_V4] {
            option.set(v4.as_fd(), 1).unwrap();
            assert_eq!(option.value_of(v4.as_fd()).unwrap(), 1);
        }
        let refused = IntOption::MTU_DISCOVER_V6.set(v4.as_fd(), 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOPROTOOPT));

        let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        for option in [
            IntOption::UDP_NO_CHECKSUM_V6,
            IntOption::UDP_ZERO_CHECKSUM_V6,
            IntOption::TIMESTAMPS,
            IntOption::MTU_DISCOVER_V6,
            IntOption::AUTO_FLOW_LABEL,
        ] {
            option.set(v6.as_fd(), 1).unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_the_receive_buffer_is_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&receiver).set_recv_buffer_size(4096).unwrap();
        assert_eq!(dropped(receiver.as_fd()).unwrap(), 0);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..50 {
            sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
        }
        receiver.set_nonblocking(true).unwrap();
        let mut taken = 0;
        while receiver.recv(&mut [0; 1000]).is_ok() {
            taken += 1;
        }
        assert!(taken < 50);
        assert_eq!(dropped(receiver.as_fd()).unwrap(), 50 - taken);
    }
}
