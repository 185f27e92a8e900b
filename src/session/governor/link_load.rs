//! How busy the interfaces are that the tunnels leave by.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use crate::kernel::netlink::Netlink;
use crate::kernel::underlay::Underlay;
use crate::quantity::Ifindex;
use crate::sys::ethtool;

/// Watches them. Netlink tells the totals of the network namespace that the session lives in.
#[derive(Debug)]
pub(super) struct LinkLoad {
    netlink: Netlink,
    underlays: Vec<Arc<Underlay>>,
    /// Of each interface that was looked at: what it had sent then.
    sent: HashMap<Ifindex, u64>,
    /// Interfaces of which it was said that nobody knows their speed.
    without_speed: HashSet<Ifindex>,
}

impl LinkLoad {
    /// For the interfaces of these ways. Must be used inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub(super) fn of(underlays: Vec<Arc<Underlay>>) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, underlays, sent: HashMap::new(), without_speed: HashSet::new() })
    }

    /// The load of the busiest one since the last call, which was so many seconds ago: 1 is as fast as its link is.
    /// `None` where nobody knows.
    pub(super) async fn busiest(&mut self, seconds: f64) -> Option<f64> {
        let devices: HashSet<Ifindex> = self.underlays.iter().filter_map(|underlay| underlay.device()).collect();
        let mut busiest = None;
        for device in devices {
            let Ok(Some(link)) = self.netlink.link(device).await else { continue };
            let sent = link.counters.sent_bytes;
            let before = self.sent.insert(device, sent).unwrap_or(sent);
            let Ok(Some(speed)) = ethtool::speed(&link.name) else {
                if self.without_speed.insert(device) {
                    tracing::warn!("{}: no link speed is known, so `limit.underlay` does not watch it", link.name);
                }
                continue;
            };
            #[allow(clippy::cast_precision_loss, reason = "a proportion")]
            let load = sent.saturating_sub(before) as f64 * 8.0 / seconds / speed as f64;
            busiest = Some(load.max(busiest.unwrap_or(0.0)));
        }
        busiest
    }
}
