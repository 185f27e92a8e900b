//! Makes routers say whether they still cannot reach a host, while nobody sends anything to it: with an empty datagram to
//! UDP's discard port, which nobody minds.

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::Socket;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::error_queue::{ErrorQueue, Report};
use super::path_mtu::{DISCARD, socket_to};
use super::underlay::Underlay;

/// A socket to one host that does not send anything but questions.
#[derive(Debug)]
pub struct Knock {
    socket: Socket,
    remote: IpAddr,
    queue: ErrorQueue,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echoed {
    /// Nothing.
    Silence,
    /// The host itself refused the datagram: it is there.
    Refusal,
    /// A router cannot reach it.
    Unreachable,
}

impl Knock {
    /// Knocks at the analyzer that `way` leads to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(way: &Underlay) -> io::Result<Self> {
        let (local, remote) = (way.local(), way.remote());
        let socket = socket_to(local, remote, DISCARD, way.bound_device(), way.mark())?;
        socket.set_nonblocking(true)?;
        match remote {
            IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
            IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
        }
        Ok(Self { socket, remote, queue: ErrorQueue::new() })
    }

    /// What came back since the last time; then knocks again.
    pub fn again(&mut self) -> Echoed {
        let mut heard = Echoed::Silence;
        self.queue.drain(self.socket.as_fd(), self.remote, |report| match report {
            Report::HostUnreachable => heard = Echoed::Unreachable,
            Report::PortUnreachable if heard == Echoed::Silence => heard = Echoed::Refusal,
            _ => {}
        });
        // That there is no way is the next hop's state, which is watched too.
        let _ = self.socket.send(&[]);
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::await_that;
    use super::*;
    use crate::kernel::underlay::NextHop;
    use crate::quantity::Mtu;

    #[test]
    fn a_host_that_refuses_is_there() {
        let here: IpAddr = [127, 0, 0, 1].into();
        let way = Underlay::new(here, here, None, Mtu::ETHERNET, NextHop::Usable);
        let mut knock = Knock::open(&way).unwrap();
        assert_eq!(knock.again(), Echoed::Silence);
        await_that("UDP's discard port, which nobody serves here", || knock.again() == Echoed::Refusal);
    }
}
