//! Tunnels in which others send their mirrors: what comes out of them are the session's frames.
//!
//! The outer packets come from sockets ([`Endpoint`]: one for each UDP port, one for GRE and ERSPAN together) or from a
//! capture file ([`OuterFile`]). The kernel reassembles fragments for sockets; for a file, [`wire::reassembly`] does.
//! Then both are the same: [`Receiver`].
//!
//! [`wire::reassembly`]: crate::wire::reassembly

mod endpoint;
mod error;
mod merge_program;
mod merged;
mod outer_file;
mod receiver;
mod reorder;
mod senders;

pub use error::TunnelError;

use super::{Interface, Opened, Source};
use crate::config::plan::{OuterPackets, SessionPlan, TunnelsPlan};
use crate::error::{Explain, Problems};
use crate::frame::InterfaceId;
use endpoint::Endpoint;
use outer_file::OuterFile;
use receiver::Receiver;

/// Opens every socket of `tunnels`, or its file.
///
/// # Errors
/// Everything that could not be opened.
pub(super) fn open(tunnels: &TunnelsPlan, plan: &SessionPlan) -> Result<Opened, Problems> {
    let name = |name: &str| Interface { name: name.to_owned(), index: None, mtu: None, engine: None };
    let interfaces = tunnels.names().iter().map(|written| name(written)).collect();
    if let OuterPackets::File(file) = &tunnels.outer {
        let receiver = Receiver::new(tunnels, tunnels.endpoints.clone(), plan, InterfaceId(0))?;
        let file = OuterFile::open(file, receiver, tunnels.reorder)?;
        let progress = file.progress();
        return Ok(Opened::without_rings(vec![vec![Box::new(file)]], interfaces, progress));
    }
    if tunnels.allow.is_empty() {
        tracing::warn!("everybody who reaches the endpoints may send frames: --allow CIDR names who may");
    }
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    let mut problems: Vec<Box<dyn Explain>> = Vec::new();
    for (endpoints, number) in tunnels.sockets().into_iter().zip(0..) {
        let endpoints = endpoints.into_iter().cloned().collect();
        let source = Receiver::new(tunnels, endpoints, plan, InterfaceId(number))
            .map_err(Into::into)
            .and_then(|receiver| Endpoint::open(tunnels, receiver).map_err(Into::into));
        match source {
            Ok(source) => sources.push(Box::new(source)),
            Err(problem) => problems.push(problem),
        }
    }
    Problems::unless_empty(problems)?;
    Ok(Opened::without_rings(vec![sources], interfaces, None))
}

/// The program of a watch, for a test of its jumps.
#[cfg(test)]
pub(super) fn merge_program_of_ipv4() -> Vec<libc::sock_filter> {
    merge_program::program(crate::wire::layers::IpVersion::V4, 0)
}
