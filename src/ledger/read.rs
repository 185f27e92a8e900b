//! Reads a ledger out of its JSON object again, for who shows another process's ledger: keys that are missing are zero, and
//! reasons that are not known here are left out, so that the two programs need not be of one age.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::{
    Assignment, Decapsulated, Delays, DestinationLedger, DropReason, Drops, KernelDrops, Ledger, Rewritten,
    SenderLedger,
};
use crate::wire::decapsulate::Tunnel;

/// The object of [`Ledger::to_json`].
#[derive(Default, Deserialize)]
#[serde(default)]
struct Json {
    captured: u64,
    kernel_dropped: u64,
    kernel_untold: u64,
    cut: u64,
    segments_added: u64,
    dropped: Drops,
    assignment: Assignment,
    rewritten: Rewritten,
    decapsulated: Decapsulated,
    destinations: Vec<DestinationLedger>,
    senders: Vec<SenderLedger>,
    delay: Delays,
    loop_alarm: u64,
    refused_interfaces: u64,
}

impl<'de> Deserialize<'de> for Ledger {
    /// What ended before any destination ended in select, as far as the object says, and what the kernel dropped found the
    /// buffer full.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let mut ledger = Self {
            captured: json.captured,
            not_selected: json.dropped,
            cut: json.cut,
            segments_added: json.segments_added,
            assignment: json.assignment,
            offered: (json.captured + json.segments_added).saturating_sub(json.dropped.total()),
            destinations: json.destinations,
            kernel: KernelDrops {
                buffer_full: json.kernel_dropped.saturating_sub(json.kernel_untold),
                interface: 0,
                untold: json.kernel_untold,
            },
            rewritten: json.rewritten,
            decapsulated: json.decapsulated,
            delays: json.delay,
            loop_alarm: json.loop_alarm,
            refused_interfaces: json.refused_interfaces,
            ..Self::default()
        };
        ledger.senders.update(|rows| *rows = json.senders);
        Ok(ledger)
    }
}

impl<'de> Deserialize<'de> for Drops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let mut drops = Self::default();
        for &reason in DropReason::ALL {
            drops[reason] = counts.get(reason.label()).copied().unwrap_or(0);
        }
        Ok(drops)
    }
}

/// The sender's address, or `others`.
pub(super) fn sender<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<std::net::IpAddr>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "others" => Ok(None),
        address => address.parse().map(Some).map_err(D::Error::custom),
    }
}

/// The encapsulation's label.
pub(super) fn encapsulation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Tunnel>, D::Error> {
    let label = Option::<String>::deserialize(deserializer)?;
    Ok(label.and_then(|label| Tunnel::ALL.into_iter().find(|tunnel| tunnel.label() == label)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Timestamp;

    #[test]
    fn what_was_written_is_read_again() {
        let mut ledger = Ledger::new([("ids1", "vxlan://192.0.2.1?vni=1")]);
        ledger.captured = 12;
        ledger.not_selected[DropReason::OwnTraffic] = 2;
        ledger.segments_added = 4;
        ledger.offered = 14;
        ledger.kernel.buffer_full = 7;
        ledger.rewritten.checksums = 5;
        ledger.delays.record(Timestamp::from_nanos(0), Timestamp::from_nanos(1_500_000), 14);
        let account = &mut ledger.destinations[0];
        (account.assigned, account.sent, account.bytes) = (14, 13, 9000);
        account.dropped[DropReason::Unreachable] = 1;
        account.icmp.too_big = 3;
        for (from, encapsulation) in [(Some([192, 0, 2, 7].into()), Some(Tunnel::Erspan3)), (None, None)] {
            let row = SenderLedger {
                from,
                encapsulation,
                id: None,
                received: 5,
                lost: None,
                reordered: 0,
                duplicated: 0,
                restarts: 0,
                reserved_bits: 0,
            };
            ledger.senders.update(|rows| rows.push(row));
        }
        let read: Ledger = serde_json::from_str(&ledger.to_json()).unwrap();
        assert_eq!(read.to_json(), ledger.to_json());
        assert_eq!((read.balance(), read.delays), (Ok(()), ledger.delays));
    }

    #[test]
    fn what_a_younger_or_older_program_wrote_is_read_as_far_as_it_is_known() {
        let text =
            r#"{"captured":3,"dropped":{"own_traffic":1,"unheard_of":2},"destinations":[{"name":"a","news":1}]}"#;
        let read: Ledger = serde_json::from_str(text).unwrap();
        assert_eq!((read.captured, read.dropped().total(), &*read.destinations[0].name), (3, 1, "a"));
    }
}
