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
