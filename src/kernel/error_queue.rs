//! A socket's error queue, ip(7) `IP_RECVERR`: what became of datagrams after the kernel took them.

use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use crate::quantity::Mtu;

/// What one entry of the queue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// ICMP: nothing listens on the port, or the host does not speak the protocol.
    PortUnreachable,
    /// ICMP: a router, or this host's own neighbour discovery, cannot reach the address.
    HostUnreachable,
    /// ICMP: a router cannot forward a packet of that size, and says which it could.
    TooBig(Option<Mtu>),
    /// Any other ICMP error.
    Other,
    /// Not ICMP: this host refused the datagram as larger than the path MTU that it knows.
    LocalTooBig(Option<Mtu>),
}

/// Reads error queues. Holds the memory for it, so that reading does not allocate.
#[derive(Debug)]
pub struct ErrorQueue {
    control: Vec<u8>,
}

/// Entries read at one go. A queue is bounded by its socket's receive buffer; this bounds a peer that fills it as fast
/// as we read.
const MOST_AT_ONCE: usize = 4096;

/// Under this no ICMP error lowers a path MTU: `net.ipv4.route.min_pmtu` unless changed, as the kernel's own route does.
const LEAST_MTU_V4: u64 = 552;
/// The same for IPv6: its links carry at least that much (RFC 8201 section 4).
const LEAST_MTU_V6: u64 = 1280;

impl ErrorQueue {
    /// A reader for the sockets of one destination.
    pub fn new() -> Self {
        Self { control: nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6) }
    }

    /// Empties the queue of `socket`, which also clears the error that the kernel would return for the next send.
    /// Reports about datagrams to other hosts than `remote` are skipped: raw sockets of one protocol see each other's.
    pub fn drain(&mut self, socket: BorrowedFd<'_>, remote: IpAddr, mut each: impl FnMut(Report)) {
        for _ in 0..MOST_AT_ONCE {
            // The datagram that went wrong comes along; only its beginning is worth a buffer, and nothing reads it.
            let mut payload = [0; 8];
            let mut slices = [IoSliceMut::new(&mut payload)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            // ip(7): "The original destination address of the datagram that caused the error is supplied via msg_name."
            let Ok(message) =
                recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut self.control), flags)
            else {
                return;
            };
            if message.address.as_ref().and_then(ip_of) != Some(remote) {
                continue;
            }
            let Ok(controls) = message.cmsgs() else { continue };
            controls.filter_map(|control| report_of(&control)).for_each(&mut each);
        }
    }
}

impl Default for ErrorQueue {
    fn default() -> Self {
        Self::new()
    }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn report_of(control: &ControlMessageOwned) -> Option<Report> {
    let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) = control else {
        return None;
    };
    Report::read(error)
}

impl Report {
    /// Reads the kernel's description; `None` for what concerns neither reachability nor size, such as timestamps.
    pub(super) fn read(error: &libc::sock_extended_err) -> Option<Self> {
        let mtu = Mtu::new(u64::from(error.ee_info)).ok();
        // Anybody can send an ICMP error that names a tiny MTU, and the queue has it as it came.
        let not_under = |least| Mtu::new(u64::from(error.ee_info).max(least)).ok();
        match error.ee_origin {
            libc::SO_EE_ORIGIN_LOCAL if error.ee_errno == libc::EMSGSIZE.unsigned_abs() => Some(Self::LocalTooBig(mtu)),
            libc::SO_EE_ORIGIN_ICMP => Some(Self::of_icmp(error.ee_type, error.ee_code, not_under(LEAST_MTU_V4))),
            libc::SO_EE_ORIGIN_ICMP6 => Some(Self::of_icmpv6(error.ee_type, error.ee_code, not_under(LEAST_MTU_V6))),
            _ => None,
        }
    }

    /// RFC 792 and RFC 1122 section 3.2.2.1: type 3 is "destination unreachable".
    fn of_icmp(kind: u8, code: u8, mtu: Option<Mtu>) -> Self {
        match (kind, code) {
            (3, 2 | 3) => Self::PortUnreachable,
            (3, 4) => Self::TooBig(mtu),
            (3, _) => Self::HostUnreachable,
            _ => Self::Other,
        }
    }

    /// RFC 4443 section 3: a protocol that nobody speaks is a "parameter problem" with code 1 there.
    fn of_icmpv6(kind: u8, code: u8, mtu: Option<Mtu>) -> Self {
        match (kind, code) {
            (1, 4) | (4, 1) => Self::PortUnreachable,
            (1, _) => Self::HostUnreachable,
            (2, _) => Self::TooBig(mtu),
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    #[test]
    fn a_closed_port_on_loopback_is_reported_and_the_pending_error_is_gone() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&sender, sockopt::Ipv4RecvErr, &true).unwrap();
        sender.send_to(b"hello", closed).unwrap();

        let mut reports = Vec::new();
        ErrorQueue::new().drain(sender.as_fd(), closed.ip(), |report| reports.push(report));
        assert_eq!(reports, [Report::PortUnreachable]);
        assert!(sender.take_error().unwrap().is_none());
    }

    #[test]
    fn reports_about_another_host_are_skipped() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&sender, sockopt::Ipv4RecvErr, &true).unwrap();
        sender.send_to(b"hello", closed).unwrap();

        let mut reports = Vec::new();
        ErrorQueue::new().drain(sender.as_fd(), "127.0.0.2".parse().unwrap(), |report| reports.push(report));
        assert_eq!(reports, []);
    }

    #[test]
    fn no_icmp_error_names_a_smaller_mtu_than_the_kernel_believes() {
        let report = |ee_origin, ee_type, ee_code, ee_info| {
            let ee_errno = libc::EMSGSIZE.unsigned_abs();
            let error =
                libc::sock_extended_err { ee_errno, ee_origin, ee_type, ee_code, ee_pad: 0, ee_info, ee_data: 0 };
            Report::read(&error)
        };
        for tiny in [0, 68, 400] {
            let v4 = report(libc::SO_EE_ORIGIN_ICMP, 3, 4, tiny);
            assert_eq!(v4, Some(Report::TooBig(Mtu::new(552).ok())));
            let v6 = report(libc::SO_EE_ORIGIN_ICMP6, 2, 0, tiny);
            assert_eq!(v6, Some(Report::TooBig(Mtu::new(1280).ok())));
        }
        // This host's own word about its links counts as it is.
        let local = report(libc::SO_EE_ORIGIN_LOCAL, 0, 0, 400);
        assert_eq!(local, Some(Report::LocalTooBig(Mtu::new(400).ok())));
    }

    #[test]
    fn icmp_errors_read_as_the_rfcs_say() {
        let mtu = Mtu::new(1400).ok();
        let cases = [
            ((libc::SO_EE_ORIGIN_ICMP, 3, 3), Some(Report::PortUnreachable)),
            ((libc::SO_EE_ORIGIN_ICMP, 3, 2), Some(Report::PortUnreachable)),
            ((libc::SO_EE_ORIGIN_ICMP, 3, 1), Some(Report::HostUnreachable)),
            ((libc::SO_EE_ORIGIN_ICMP, 3, 4), Some(Report::TooBig(mtu))),
            ((libc::SO_EE_ORIGIN_ICMP, 11, 0), Some(Report::Other)),
            ((libc::SO_EE_ORIGIN_ICMP6, 1, 4), Some(Report::PortUnreachable)),
            ((libc::SO_EE_ORIGIN_ICMP6, 4, 1), Some(Report::PortUnreachable)),
            ((libc::SO_EE_ORIGIN_ICMP6, 1, 3), Some(Report::HostUnreachable)),
            ((libc::SO_EE_ORIGIN_ICMP6, 2, 0), Some(Report::TooBig(mtu))),
            ((libc::SO_EE_ORIGIN_LOCAL, 0, 0), Some(Report::LocalTooBig(mtu))),
            ((libc::SO_EE_ORIGIN_NONE, 0, 0), None),
        ];
        for ((ee_origin, ee_type, ee_code), expected) in cases {
            let error = libc::sock_extended_err {
                ee_errno: libc::EMSGSIZE.unsigned_abs(),
                ee_origin,
                ee_type,
                ee_code,
                ee_pad: 0,
                ee_info: 1400,
                ee_data: 0,
            };
            assert_eq!(Report::read(&error), expected, "{error:?}");
        }
    }
}
