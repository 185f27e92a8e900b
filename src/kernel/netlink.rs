//! A conversation with the kernel's routing side (rtnetlink(7)).

use std::io;
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkFlags;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::neighbours::Neighbour;
use super::netns::Namespace;

/// An open netlink socket of the network namespace that this thread is in. Must be used inside a tokio runtime.
#[derive(Debug)]
pub struct Netlink {
    pub(super) handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
}

/// Something that changed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A neighbour entry has this state now.
    Neighbour(Neighbour),
    /// A link, an address or a route came, went or changed.
    Topology,
}

/// Changes as the kernel tells them.
#[derive(Debug)]
pub struct Events {
    netlink: Netlink,
    changes: mpsc::Receiver<Event>,
    reader: JoinHandle<()>,
}

/// How long the kernel may take for an answer: it has it at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many changes wait for a reader. What does not fit is lost, like what does not fit in the kernel's own queue:
/// readers look at the state itself now and then.
const EVENT_QUEUE: usize = 256;

impl Netlink {
    /// Opens a socket for questions.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Opens a socket for questions about another network namespace.
    ///
    /// # Errors
    /// When the kernel refuses the socket, or does not let us in.
    pub fn open_in(namespace: &Namespace) -> io::Result<Self> {
        let runtime = Handle::current();
        let open = || {
            let _here_too = runtime.enter();
            Self::open()
        };
        namespace.within(open).map_err(io::Error::other)?
    }

    /// Asks one question that has at most one answer.
    pub(super) async fn ask(&self, question: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(question);
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request).map_err(|error| words(&error))?;
        // The connection leaves out an answer that it cannot read, such as one with a name that is no UTF-8.
        while let Some(answer) = timeout(PATIENCE, answers.next()).await? {
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => return Ok(Some(message)),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Events {
    /// Subscribes to changes of neighbours, links, addresses and routes.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn subscribe() -> io::Result<Self> {
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Neigh,
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        let (sender, changes) = mpsc::channel(EVENT_QUEUE);
        let reader = tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                if let Some(event) = Event::read(message) {
                    // A full queue loses the change: see EVENT_QUEUE.
                    let _ = sender.try_send(event);
                }
            }
        });
        Ok(Self { netlink: Netlink { handle, connection: tokio::spawn(connection) }, changes, reader })
    }

    /// The same socket, for questions.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// The next change; `None` when the kernel closed the socket.
    pub async fn next(&mut self) -> Option<Event> {
        self.changes.recv().await
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Event {
    pub(super) fn read(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Self> {
        let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
        match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Neighbour::read(&neighbour).map(Self::Neighbour),
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                Neighbour::read(&neighbour).map(|gone| Self::Neighbour(Neighbour { reachability: None, ..gone }))
            }
            // Captures come and go with the promiscuous mode of their interfaces; that leads nowhere else.
            RouteNetlinkMessage::NewLink(link) if is_about_listening(link.header.change_mask) => None,
            _ => Some(Self::Topology),
        }
    }
}

/// Whether nothing has changed of a link but what it listens to.
fn is_about_listening(changed: LinkFlags) -> bool {
    !changed.is_empty() && (LinkFlags::Promisc | LinkFlags::Allmulti).contains(changed)
}

/// The kernel's own words for what a request came to.
pub(super) fn words(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
