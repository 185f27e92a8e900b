//! The interfaces of one network namespace, kept up to date: for whoever follows those that appear and vanish.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::netns::Namespace;
use super::netns_error::NetnsError;
use crate::error::{ExitCode, Explain};
use crate::quantity::Ifindex;
use crate::sys::async_fd::watched;

/// Links change in bursts, so a change is looked at when this time has passed since the first.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the interfaces are looked at although the kernel tells nothing.
const TICK: Duration = Duration::from_secs(10);

/// One interface that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its number: an interface that is made anew has another.
    pub index: Ifindex,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
}

/// The interfaces of one network namespace as they are now. Clones share one socket and one look: a look at a thousand
/// interfaces costs milliseconds, and there may be hundreds of sessions.
#[derive(Clone, Debug)]
pub struct Links(watch::Receiver<Arc<[Present]>>);

impl Links {
    /// Looks at the interfaces of `namespace`, and follows them on the runtime of the caller for as long as anybody has the
    /// answer or a clone of it.
    ///
    /// # Errors
    /// When the kernel refuses the socket, the interfaces or the namespace.
    pub fn follow(namespace: &Namespace) -> Result<Self, LinksError> {
        // The socket first: what changes behind the look is told.
        let events = namespace.within(subscribe)?.and_then(watched).map(Events).map_err(LinksError::Socket)?;
        let now: Arc<[Present]> = look(namespace)?.into();
        let (tell, links) = watch::channel(now);
        tokio::spawn(keep_up(namespace.clone(), events, tell));
        Ok(Self(links))
    }

    /// The interfaces as they are now.
    pub fn now(&self) -> Arc<[Present]> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits until an interface came, went, changed its name, or went up or down, since this or [`now`](Self::now) was
    /// asked last. Nothing is missed when the wait is given up.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody will tell any more: the runtime ends.
            std::future::pending::<()>().await;
        }
    }
}

/// Why interfaces cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// The kernel refuses the netlink socket.
    #[error("cannot follow the interfaces of this host")]
    Socket(#[source] io::Error),
    /// The kernel does not list the interfaces.
    #[error("cannot list the interfaces of this host")]
    NoList(#[source] Errno),
}

impl Explain for LinksError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Namespace(error) => error.hint(),
            Self::Socket(_) => Some("look at `ulimit -n`".to_owned()),
            Self::NoList(_) => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Namespace(error) => error.exit_code(),
            Self::Socket(_) | Self::NoList(_) => ExitCode::Failed,
        }
    }
}

/// Every interface of `namespace`, in the kernel's order.
///
/// # Errors
/// When the kernel does not list them, or does not let us in.
pub fn look(namespace: &Namespace) -> Result<Vec<Present>, LinksError> {
    namespace.within(look_here)?.map_err(LinksError::NoList)
}

/// The same in the namespace of this thread.
fn look_here() -> nix::Result<Vec<Present>> {
    // Every interface has one entry of the packet family beside those of its addresses.
    let present = getifaddrs()?.filter_map(|entry| {
        let index = u64::try_from(entry.address?.as_link_addr()?.ifindex()).ok()?;
        let up = entry.flags.contains(InterfaceFlags::IFF_UP);
        if is_strange(&entry.interface_name, index) {
            return None;
        }
        Some(Present { index: Ifindex::new(index).ok()?, name: entry.interface_name, up })
    });
    Ok(present.collect())
}

/// Whether an interface cannot be called by its name, because that is no UTF-8; said once of each. A tenant may choose such a
/// name in a namespace of its own, and it must not keep the other interfaces from being mirrored.
fn is_strange(name: &str, index: u64) -> bool {
    /// More are not remembered, and not said.
    const MOST: usize = 256;
    static SAID: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
    // What was no UTF-8 has this character instead, and names nothing then.
    if !name.contains(char::REPLACEMENT_CHARACTER) || if_nametoindex(name).is_ok_and(|own| u64::from(own) == index) {
        return false;
    }
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() < MOST && said.insert(index) {
        tracing::warn!("interface {index} is not mirrored: its name is no UTF-8 (`{name}`); give it another name");
    }
    true
}

async fn keep_up(namespace: Namespace, events: Events, tell: watch::Sender<Arc<[Present]>>) {
    loop {
        tokio::select! {
            () = tell.closed() => return,
            heard = timeout(TICK, events.any()) => if matches!(heard, Ok(Ok(()))) {
                sleep(SETTLE).await;
                // What came meanwhile is seen by the same look.
                events.forget();
            },
        }
        match look(&namespace) {
            Ok(now) => {
                tell.send_if_modified(|known| {
                    let changed = known[..] != now[..];
                    if changed {
                        *known = now.into();
                    }
                    changed
                });
            }
            Err(error) => tracing::debug!("cannot look at the interfaces, trying again: {error}"),
        }
    }
}

/// What the kernel tells about links (rtnetlink(7)). That something changed is enough: what it is, is looked at. So an event
/// that the kernel could not keep for us is one like any other.
#[derive(Debug)]
struct Events(AsyncFd<OwnedFd>);

impl Events {
    /// Waits for any event.
    async fn any(&self) -> io::Result<()> {
        loop {
            let mut readable = self.0.readable().await?;
            // What has been thrown away meanwhile is no event.
            if readable.try_io(|socket| Ok(take(socket.get_ref())?)).is_ok() {
                return Ok(());
            }
        }
    }

    /// Throws away what was told until now.
    fn forget(&self) {
        while take(self.0.get_ref()).is_ok() {}
    }
}

/// Subscribes in the network namespace of this thread.
fn subscribe() -> io::Result<OwnedFd> {
    /// `RTMGRP_LINK` of `linux/rtnetlink.h`.
    const LINK: u32 = 1;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, LINK))?;
    Ok(socket)
}

/// Takes one message, whatever it says; `EAGAIN` when there is none. That the kernel lost some (`ENOBUFS`) is a message too.
fn take(socket: &OwnedFd) -> Result<(), Errno> {
    // What does not fit into the buffer is thrown away (netlink(7)).
    match recv(socket.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_DONTWAIT) {
        Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => Ok(()),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::testing::{PATIENCE, TestNamespace};
    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let present = look(&Namespace::own()).unwrap();
        assert!(present.iter().any(|one| one.name == "lo" && one.up));
        let mut indices: Vec<Ifindex> = present.iter().map(|one| one.index).collect();
        indices.dedup();
        assert_eq!(indices.len(), present.len(), "each once: {present:?}");
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn what_changes_is_told_soon_and_a_burst_once() {
        let namespace = TestNamespace::new();
        namespace.run_async(async {
            let mut links = Links::follow(&Namespace::own()).unwrap();
            let mut told = 0;
            for (command, name, up) in [
                ("link add f0 type veth peer name p0", "f0", Some(false)),
                ("link set f0 up", "f0", Some(true)),
                ("link set f0 down name f1", "f1", Some(false)),
                ("link delete f1", "f1", None),
            ] {
                assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success());
                let is_so = |links: &Links| links.now().iter().find(|one| one.name == name).map(|one| one.up) == up;
                let is_told = async {
                    while !is_so(&links) {
                        links.changed().await;
                        told += 1;
                    }
                };
                timeout(PATIENCE, is_told).await.expect(command);
            }
            // The other end changes, too.
            assert!(told <= 8, "told {told} times");
        });
    }
}
