//! What farspan asks the kernel about: links, routes, neighbours, path MTU. Safe code over netlink, sysfs and socket
//! options; nothing here touches a frame.

pub mod underlay;
