//! What farspan asks the kernel about: links, routes, neighbours, path MTU. Safe code over netlink, sysfs and socket
//! options; nothing here touches a frame.
//!
//! The netlink crates change their interface often, so none of their types leaves this module.

pub mod capabilities;
pub mod echo;
pub mod error_queue;
pub mod knock;
pub mod link_events;
pub mod links;
pub mod locate;
pub mod lookup;
pub mod nearby;
pub mod neighbours;
pub mod netlink;
pub mod netns;
pub mod netns_error;
pub mod path_mtu;
pub mod routes;
pub mod segmentation;
pub mod stack;
#[cfg(test)]
pub(crate) mod testing;
pub mod underlay;
pub mod underlay_error;
pub mod watch;

/// Reads bytes as if the kernel had sent them over netlink, and says whether they are a message. This is the fuzzer's door:
/// interface names, addresses and routes are what others make of them.
#[doc(hidden)]
pub fn reads_netlink(bytes: &[u8]) -> bool {
    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
    use rtnetlink::packet_route::RouteNetlinkMessage;

    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return false };
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => drop(links::Link::read(link)),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => drop(routes::Route::read(route)),
        _ => {}
    }
    netlink::Event::read(message);
    true
}

/// Reads bytes as an entry of a socket's error queue, laid out as `sock_extended_err` of linux/errqueue.h. The fuzzer's door,
/// too: ICMP errors are what others send.
#[doc(hidden)]
pub fn reads_error(bytes: &[u8; 16]) -> Option<error_queue::Report> {
    let &[e0, e1, e2, e3, ee_origin, ee_type, ee_code, ee_pad, i0, i1, i2, i3, d0, d1, d2, d3] = bytes;
    error_queue::Report::read(&libc::sock_extended_err {
        ee_errno: u32::from_ne_bytes([e0, e1, e2, e3]),
        ee_origin,
        ee_type,
        ee_code,
        ee_pad,
        ee_info: u32::from_ne_bytes([i0, i1, i2, i3]),
        ee_data: u32::from_ne_bytes([d0, d1, d2, d3]),
    })
}
