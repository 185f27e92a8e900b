//! Asks a host whether it is there: by ICMP echo (RFC 792, RFC 4443 section 4), or by a TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::path_mtu::{mark_if_permitted, scoped};
use super::underlay::Underlay;
use crate::quantity::Ifindex;

/// Bytes of an echo's header.
const HEADER: usize = 8;
/// The identifier of our questions. Those of an unprivileged socket get one from the kernel.
const IDENTIFIER: u16 = 0xfa25;
/// What our questions carry, so that nobody else's answers are taken for ours.
const COOKIE: &[u8; 16] = b"farspan is there";

/// A socket that asks one host.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    local: IpAddr,
    remote: IpAddr,
    sequence: u16,
}

impl Echo {
    /// Asks the analyzer that `way` leads to.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, unless the kernel lets this user ask (`net.ipv4.ping_group_range`).
    pub fn open(way: &Underlay) -> io::Result<Self> {
        let (local, remote, device) = (way.local(), way.remote(), way.bound_device());
        let (domain, protocol) =
            if remote.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let open = |kind| Socket::new(domain, kind, Some(protocol));
        let socket = open(Type::DGRAM).or_else(|_| open(Type::RAW))?;
        socket.set_nonblocking(true)?;
        mark_if_permitted(&socket, way.mark());
        go_by(&socket, device)?;
        socket.bind(&scoped(local, 0, device))?;
        socket.connect(&scoped(remote, 0, device))?;
        Ok(Self { socket, local, remote, sequence: 0 })
    }

    /// Asks once, and says whether an answer came within `patience`.
    ///
    /// # Errors
    /// When the process has no descriptor left; that the kernel cannot send is no answer.
    pub async fn ask(&mut self, patience: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        self.sequence = self.sequence.wrapping_add(1);
        // tokio knows no ICMP; to send and to receive are the same for every connected socket.
        let socket = UdpSocket::from_std(self.socket.try_clone()?.into())?;
        if socket.send(&self.question()).await.is_err() {
            return Ok(false);
        }
        let mut packet = [0; 256];
        loop {
            match timeout_at(deadline, socket.recv(&mut packet)).await {
                Ok(Ok(length)) if self.is_answer(packet.get(..length).unwrap_or_default()) => return Ok(true),
                // Somebody else's, or an earlier one.
                Ok(Ok(_)) => {}
                // Nothing came, or the network said something about a question.
                Ok(Err(_)) | Err(_) => return Ok(false),
            }
        }
    }

    fn question(&self) -> Vec<u8> {
        let echo = IcmpEchoHeader { id: IDENTIFIER, seq: self.sequence };
        let mut bytes = match (self.local, self.remote) {
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let kind = Icmpv6Type::EchoRequest(echo);
                let header = Icmpv6Header::with_checksum(kind, local.octets(), remote.octets(), COOKIE);
                header.unwrap_or_else(|_| Icmpv6Header::new(kind)).to_bytes().to_vec()
            }
            _ => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), COOKIE).to_bytes().to_vec(),
        };
        bytes.extend_from_slice(COOKIE);
        bytes
    }

    /// Whether `packet` answers the latest question. A raw socket of IPv4 shows the IP header before it.
    fn is_answer(&self, packet: &[u8]) -> bool {
        let start = match (self.remote, packet.first()) {
            // An echo reply begins with a zero, an IPv4 header does not.
            (IpAddr::V4(_), Some(first)) if first >> 4 == 4 => usize::from(first & 15) * 4,
            _ => 0,
        };
        let Some((header, body)) = packet.get(start..).and_then(|echo| echo.split_at_checked(HEADER)) else {
            return false;
        };
        let reply = if self.remote.is_ipv4() { 0 } else { 129 };
        header[0] == reply && header[6..8] == self.sequence.to_be_bytes() && body == COOKIE
    }
}

/// Whether the analyzer that `way` leads to accepts a TCP connection to `port` within `patience`.
///
/// # Errors
/// When the process has no descriptor left, or the way no address.
pub async fn connects(way: &Underlay, port: u16, patience: Duration) -> io::Result<bool> {
    let (local, remote, device) = (way.local(), way.remote(), way.bound_device());
    let socket = Socket::new(Domain::for_address(SocketAddr::new(remote, port)), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    mark_if_permitted(&socket, way.mark());
    go_by(&socket, device)?;
    socket.bind(&scoped(local, 0, device))?;
    let Some(to) = scoped(remote, port, device).as_socket() else { return Ok(false) };
    let socket = TcpSocket::from_std_stream(socket.into());
    Ok(matches!(timeout(patience, socket.connect(to)).await, Ok(Ok(_))))
}

/// Has `socket` send through the interface that the tunnel is bound to, if it is.
fn go_by(socket: &Socket, device: Option<Ifindex>) -> io::Result<()> {
    device.map_or(Ok(()), |device| socket.bind_device_by_index_v4(NonZeroU32::new(device.value())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::underlay::NextHop;
    use crate::quantity::Mtu;

    /// The kernel answers for its own addresses; where it does not let us ask, it says so.
    #[tokio::test]
    async fn this_host_answers_and_nobody_does_not() {
        for address in ["127.0.0.1", "::1"] {
            let address = address.parse().unwrap();
            let way = Underlay::new(address, address, None, Mtu::ETHERNET, NextHop::Usable);
            match Echo::open(&way) {
                Ok(mut echo) => {
                    for _ in 0..3 {
                        assert!(echo.ask(Duration::from_secs(5)).await.unwrap(), "{address}");
                    }
                }
                Err(error) => assert!(
                    matches!(
                        error.raw_os_error(),
                        Some(libc::EPERM | libc::EACCES | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
                    ),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn only_the_answer_to_the_latest_question_counts() {
        let [local, remote] = ["127.0.0.1", "127.0.0.1"].map(|address| address.parse::<IpAddr>().unwrap());
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let echo = Echo { socket, local, remote, sequence: 7 };
        let answer = |kind: u8, sequence: u8, cookie: &[u8]| [&[kind, 0, 0, 0, 1, 2, 0, sequence][..], cookie].concat();
        let behind_ip = |answer: &[u8]| [&[0x45; 20][..], answer].concat();
        let right = answer(0, 7, COOKIE);
        assert!(echo.is_answer(&right) && echo.is_answer(&behind_ip(&right)));
        for wrong in [answer(8, 7, COOKIE), answer(0, 6, COOKIE), answer(0, 7, b"another"), vec![0; 7], Vec::new()] {
            assert!(!echo.is_answer(&wrong) && !echo.is_answer(&behind_ip(&wrong)));
        }
    }
}
