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

/// The busiest of some interfaces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Busy {
    /// How much of its link's speed is used, by whomever: 1 is all of it.
    pub(super) load: f64,
    /// That speed, in bits a second.
    speed: f64,
}

/// A mirror can only make room with what it sends itself, and others come and go in bursts: more than this is not asked of it
/// at a time, so that no burst of a tenth of a second cuts conversations short.
const MOST_TIMES: f64 = 2.0;

impl Busy {
    /// How much of the room that others leave below `allowed` is used by mirrors, which send so many bits a second: more than
    /// all of it exactly when the load is higher than allowed.
    pub(super) fn times(self, allowed: f64, mirrored: f64) -> f64 {
        let mirrored = (mirrored / self.speed).clamp(f64::MIN_POSITIVE, self.load.max(f64::MIN_POSITIVE));
        let room = allowed - (self.load - mirrored);
        if room > 0.0 { (mirrored / room).min(MOST_TIMES) } else { MOST_TIMES }
    }
}

impl LinkLoad {
    /// For the interfaces of these ways. Must be used inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub(super) fn of(underlays: Vec<Arc<Underlay>>) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, underlays, sent: HashMap::new(), without_speed: HashSet::new() })
    }

    /// The busiest one since the last call, which was so many seconds ago; `None` where nobody knows.
    pub(super) async fn busiest(&mut self, seconds: f64) -> Option<Busy> {
        let devices: HashSet<Ifindex> = self.underlays.iter().filter_map(|underlay| underlay.device()).collect();
        let mut busiest: Option<Busy> = None;
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
            let (bits, speed) = (sent.saturating_sub(before) as f64 * 8.0, speed as f64);
            let load = bits / seconds / speed;
            if busiest.is_none_or(|busiest| busiest.load < load) {
                busiest = Some(Busy { load, speed });
            }
        }
        busiest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_others_send_is_not_the_mirror_s_to_leave_out() {
        let busy = |load| Busy { load, speed: 1e9 };
        // Alone it is as any other limit.
        assert!((busy(0.6).times(0.5, 6e8) - 1.2).abs() < 1e-9);
        // Others take 30 of 50 percent: 20 are left, and 25 are sent.
        assert!((busy(0.55).times(0.5, 2.5e8) - 1.25).abs() < 1e-9);
        assert!(busy(0.7).times(0.5, 1e8) >= MOST_TIMES, "others alone are too much");
        assert!(busy(0.1).times(0.5, 0.0) < 0.01, "nothing is sent");
    }

    proptest! {
        #[test]
        fn it_is_too_much_exactly_when_the_load_is(load in 0.0..1.2_f64, allowed in 0.001..1.0_f64, mirrored in 0.0..2e9_f64) {
            let times = Busy { load, speed: 1e9 }.times(allowed, mirrored);
            prop_assert!((0.0..=MOST_TIMES).contains(&times), "{times}");
            prop_assume!((load - allowed).abs() > 1e-6);
            prop_assert_eq!(times > 1.0, load > allowed, "{}", times);
        }
    }
}
