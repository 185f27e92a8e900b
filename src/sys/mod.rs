//! The only unsafe code: one kernel interface a file, each block argued from the manual page.
#![allow(unsafe_code)] // the one place where it is allowed

pub mod ethtool;
pub mod interface;
pub mod mmsg;
pub mod socket_option;
