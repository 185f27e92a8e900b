//! The outer headers of a destination's datagrams, for engines that write them. On sockets that is the kernel's work.

use std::io;

use super::open_error::OpenError;
use super::udp::checksum_is_computed;
use crate::config::plan::{Fit, TunnelPlan};
use crate::kernel::underlay::Underlay;
use crate::wire::outer::{Addresses, Outer, Transport};

/// What the datagrams of `plan` have in front of them on the way that `underlay` is.
///
/// # Errors
/// When the source address is of another family than the analyzer's.
pub(super) fn headers(plan: &TunnelPlan, underlay: &Underlay) -> Result<Outer, OpenError> {
    let (local, remote) = (underlay.local(), underlay.remote());
    let addresses = Addresses::between(local, remote)
        .ok_or_else(|| OpenError::NotLocal { address: local, cause: io::ErrorKind::AddrNotAvailable.into() })?;
    let (source_mac, destination_mac) = underlay.ethernet();
    let transport = plan.encapsulation.udp_port().map_or(Transport::Gre, |destination_port| Transport::Udp {
        source_port: plan.ports.first(),
        destination_port,
        checksum: checksum_is_computed(plan, underlay),
    });
    Ok(Outer {
        source_mac,
        destination_mac,
        addresses,
        dscp: plan.dscp,
        ttl: plan.ttl,
        // RFC 6864 section 4.1: a packet that cannot be fragmented needs no identification; Linux sends 0.
        identification: 0,
        dont_fragment: plan.fit != Fit::Fragment,
        transport,
    })
}
