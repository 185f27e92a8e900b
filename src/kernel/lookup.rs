//! Analyzers that move: their names are looked up again while a session runs.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, select_all};
use tokio::time::sleep;
use tracing::{info, warn};

use super::locate::addresses_of;
use super::underlay::Underlay;
use crate::config::plan::{DestinationPlan, Host, TunnelPlan};

/// An analyzer whose name does not stand for the address any more that the session sends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The destination: [`DestinationPlan::place`].
    pub destination: String,
    /// The address that the session sends to.
    pub from: IpAddr,
    /// The first one that the name stands for now.
    pub to: IpAddr,
}

/// Waits until the first of `destinations`, whose ways are `ways`, has moved; for ever where none can. A name that has
/// several addresses may tell them in any order: the analyzer stays as long as its address is among them. While a name
/// cannot be looked up, which is said once, its address stays too.
pub async fn moved(destinations: &[DestinationPlan], ways: &[Option<Arc<Underlay>>]) -> Moved {
    let waits: Vec<BoxFuture<'_, Moved>> = destinations
        .iter()
        .zip(ways)
        .filter_map(|(destination, way)| {
            let tunnel = destination.live_tunnel()?;
            let (Host::Name(_), Some(interval)) = (&tunnel.host, tunnel.resolve) else { return None };
            Some(one_moved(destination, tunnel, way.as_ref()?.remote(), interval).boxed())
        })
        .collect();
    if waits.is_empty() {
        return pending().await;
    }
    select_all(waits).await.0
}

async fn one_moved(destination: &DestinationPlan, tunnel: &TunnelPlan, from: IpAddr, interval: Duration) -> Moved {
    let (place, mut is_in_doubt) = (destination.place(), false);
    loop {
        sleep(interval).await;
        match addresses_of(&tunnel.host, tunnel.source).await {
            Ok((_, all)) if all.contains(&from) => {
                if std::mem::take(&mut is_in_doubt) {
                    info!("{place}: the name can be looked up again, and {from} is still its address");
                }
            }
            Ok((to, _)) => return Moved { destination: place, from, to },
            Err(error) => {
                if !std::mem::replace(&mut is_in_doubt, true) {
                    warn!("{place}: {error}; frames still go to {from}, its address until now");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{Encapsulation, End, Ids};
    use crate::kernel::underlay::NextHop;
    use crate::quantity::{Mtu, Vni, Weight};

    fn destination(host: &str) -> DestinationPlan {
        let encapsulation = Encapsulation::Vxlan { vni: Ids::all(Vni::LEAST), port: 4789 };
        let host = host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Address);
        let resolve = Some(Duration::from_millis(1));
        let end = End::Tunnel(TunnelPlan { resolve, ..TunnelPlan::with_defaults(encapsulation, host) });
        DestinationPlan { name: "ids".to_owned(), to: "vxlan://…".to_owned(), weight: Weight::default(), end }
    }

    fn way(remote: [u8; 4]) -> Arc<Underlay> {
        Arc::new(Underlay::new(remote.into(), [127, 0, 0, 1].into(), None, Mtu::ETHERNET, NextHop::Usable))
    }

    async fn moved_soon(hosts: &[(&str, [u8; 4])], patience: Duration) -> Option<Moved> {
        let destinations: Vec<_> = hosts.iter().map(|(host, _)| destination(host)).collect();
        let ways: Vec<_> = hosts.iter().map(|&(_, remote)| Some(way(remote))).collect();
        tokio::time::timeout(patience, moved(&destinations, &ways)).await.ok()
    }

    /// `localhost` is in every host's own table.
    #[tokio::test]
    async fn an_analyzer_moves_when_its_address_is_none_of_its_name_s_any_more() {
        let hosts = [("192.0.2.1", [192, 0, 2, 7]), ("localhost", [127, 0, 0, 1]), ("localhost", [192, 0, 2, 9])];
        let moved = moved_soon(&hosts, Duration::from_secs(30)).await.unwrap();
        assert_eq!((moved.destination.as_str(), moved.from), ("destination ids (vxlan://…)", hosts[2].1.into()));
        assert!(moved.to.is_loopback(), "{moved:?}");
    }

    #[tokio::test]
    async fn names_that_still_stand_for_their_address_or_cannot_be_looked_up_stay() {
        let hosts = [("localhost", [127, 0, 0, 1]), ("analyzer.invalid", [192, 0, 2, 7])];
        assert_eq!(moved_soon(&hosts, Duration::from_millis(300)).await, None);
        assert_eq!(moved_soon(&[], Duration::from_millis(1)).await, None);
    }
}
