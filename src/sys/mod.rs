//! The only unsafe code: one kernel interface a file, each block argued from the manual page.
#![allow(unsafe_code)] // the one place where it is allowed

pub mod ethtool;
pub mod interface;
pub mod mmap;
pub mod mmsg;
pub mod packet_fanout;
pub mod packet_socket;
pub mod socket_option;
pub mod tpacket;
