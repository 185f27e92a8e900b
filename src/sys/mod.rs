//! The only unsafe code: one kernel interface a file, each block argued from the manual page.

pub mod interface;
pub mod mmsg;
pub mod socket_option;
