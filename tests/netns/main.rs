//! farspan against the real thing: namespaces, real clients and servers, and judges that are not ours.
//!
//! Each test builds its own [`lab`]: a client, a tapped host and an analyzer, wired with veth. [`traffic`] makes real
//! clients talk to real servers there, [`farspan`] runs the binary that Cargo built, and [`judge`] asks tshark,
//! Suricata, the kernel's vxlan device and Open vSwitch what arrived. `scripts/test` installs what is needed and runs
//! all of it; a failed test keeps its folder (captures, logs, ledger) and prints where.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may stop at the first surprise
#![allow(missing_docs)] // a test binary has no public interface

mod encapsulation;
mod farspan;
mod judge;
mod lab;
mod pace;
mod traffic;

mod availability;
mod bad_input;
mod bulk;
mod captures;
mod daemon;
mod decapsulation;
mod encapsulations;
mod faults;
mod formats;
mod frame_types;
mod hotplug;
mod identities;
mod ids;
mod law;
mod limits;
mod loops;
mod many_sessions;
mod marks;
mod memory;
mod merging;
mod outside;
mod own_accounts;
mod own_traffic;
mod pipes;
mod privileges;
mod receive;
mod recording;
mod resources;
mod settings;
mod shims;
mod spread;
mod stacked_routes;
mod status;
mod super_frames;
mod tap;
mod trust;
mod vnet;
mod workers;
