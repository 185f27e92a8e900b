//! Several workers' ledgers as one: every counter is a sum, so the law that holds for each holds for all.

use std::ops::{Add, AddAssign};

use super::{Decapsulated, DestinationLedger, IcmpReports, KernelDrops, Ledger, Rewritten, Senders};

impl Ledger {
    /// The ledgers of one session's workers together; an empty one when there are none.
    pub fn sum(ledgers: impl IntoIterator<Item = Self>) -> Self {
        let add = |mut sum: Self, ledger| {
            sum += &ledger;
            sum
        };
        ledgers.into_iter().reduce(add).unwrap_or_default()
    }

    /// Adds what an earlier run of the same session counted, which had the same destinations.
    pub fn go_on_from(&mut self, earlier: &Self) {
        // Streams that both know are one, where those of two workers are two.
        let mut senders = std::mem::take(&mut self.senders);
        senders.go_on_from(&earlier.senders);
        // What an earlier run was warned of is not this one's state.
        *self += &Self { senders: Senders::default(), loop_alarm: 0, ..earlier.clone() };
        self.senders = senders;
    }
}

// Every field is named, so that a counter that is added to a ledger is added to the sums too.

impl AddAssign<&Self> for Ledger {
    /// Adds what another worker of the same session counted, which has the same destinations.
    fn add_assign(&mut self, other: &Self) {
        let Self {
            captured,
            not_selected,
            not_normalised,
            cut,
            segments_added,
            offered,
            assignment: _,
            not_assigned,
            destinations,
            kernel,
            rewritten,
            decapsulated,
            senders,
            delays,
            loop_alarm,
            refused_interfaces,
        } = other;
        self.captured += captured;
        self.not_selected = &self.not_selected + not_selected;
        self.not_normalised = &self.not_normalised + not_normalised;
        self.cut += cut;
        self.segments_added += segments_added;
        self.offered += offered;
        self.not_assigned = &self.not_assigned + not_assigned;
        self.destinations.iter_mut().zip(destinations).for_each(|(sum, destination)| *sum += destination);
        self.kernel = self.kernel + *kernel;
        self.rewritten = self.rewritten + *rewritten;
        self.decapsulated = self.decapsulated + *decapsulated;
        self.senders.append(senders);
        self.delays = self.delays + *delays;
        self.loop_alarm += loop_alarm;
        self.refused_interfaces += refused_interfaces;
    }
}

impl AddAssign<&Self> for DestinationLedger {
    /// Adds what another worker sent to the same destination.
    fn add_assign(&mut self, other: &Self) {
        let Self {
            name: _,
            to: _,
            assigned,
            split_added,
            sent,
            in_flight,
            truncated,
            datagrams,
            bytes,
            dropped,
            lost_from_file,
            icmp,
        } = other;
        self.assigned += assigned;
        self.split_added += split_added;
        self.sent += sent;
        self.in_flight += in_flight;
        self.truncated += truncated;
        self.datagrams += datagrams;
        self.bytes += bytes;
        self.dropped = &self.dropped + dropped;
        self.lost_from_file += lost_from_file;
        self.icmp = self.icmp + *icmp;
    }
}

impl Add for KernelDrops {
    type Output = Self;
    fn add(self, Self { buffer_full, interface, untold }: Self) -> Self {
        Self {
            buffer_full: self.buffer_full + buffer_full,
            interface: self.interface + interface,
            untold: self.untold + untold,
        }
    }
}

impl Add for IcmpReports {
    type Output = Self;
    fn add(self, Self { port_unreachable, host_unreachable, too_big, other }: Self) -> Self {
        Self {
            port_unreachable: self.port_unreachable + port_unreachable,
            host_unreachable: self.host_unreachable + host_unreachable,
            too_big: self.too_big + too_big,
            other: self.other + other,
        }
    }
}

impl Add for Rewritten {
    type Output = Self;
    fn add(self, Self { super_frames, checksums, tags }: Self) -> Self {
        Self {
            super_frames: self.super_frames + super_frames,
            checksums: self.checksums + checksums,
            tags: self.tags + tags,
        }
    }
}

impl Add for Decapsulated {
    type Output = Self;
    fn add(self, Self { frames, left_on, fragments }: Self) -> Self {
        Self { frames: self.frames + frames, left_on: self.left_on + left_on, fragments: self.fragments + fragments }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DropReason, SenderLedger};
    use super::*;
    use crate::quantity::Timestamp;
    use crate::wire::decapsulate::Tunnel;

    /// A ledger that balances, with numbers of its own in every counter.
    fn lawful(seed: &[u64; 16]) -> Ledger {
        let mut ledger = Ledger::new([("1", "vxlan://192.0.2.1?vni=1"), ("2", "pcap:copy.pcap")]);
        ledger.not_selected[DropReason::OwnTraffic] = seed[0];
        ledger.not_normalised[DropReason::Unsegmentable] = seed[1];
        ledger.segments_added = seed[2];
        ledger.captured = seed[0] + seed[1] + seed[3];
        ledger.offered = seed[2] + seed[3];
        ledger.kernel = KernelDrops { buffer_full: seed[4], interface: seed[5], untold: seed[4] + seed[5] };
        ledger.refused_interfaces = seed[15];
        ledger.rewritten = Rewritten { super_frames: seed[6], checksums: seed[7], tags: seed[8] };
        ledger.decapsulated = Decapsulated { frames: seed[8], left_on: seed[7], fragments: seed[6] };
        ledger.delays.record(Timestamp::from_nanos(0), Timestamp::from_nanos(seed[9]), 1 + seed[10] % 1000);
        for (number, account) in ledger.destinations.iter_mut().enumerate() {
            account.assigned = ledger.offered;
            account.split_added = seed[9];
            account.in_flight = seed[10].min(account.assigned);
            account.dropped[DropReason::Oversize] = seed[9];
            account.sent = account.assigned - account.in_flight;
            account.truncated = seed[11];
            account.datagrams = account.sent + number as u64;
            account.bytes = seed[12];
            let [port_unreachable, host_unreachable, too_big, other] = [seed[13], seed[14], seed[15], seed[0]];
            account.icmp = IcmpReports { port_unreachable, host_unreachable, too_big, other };
        }
        ledger
    }

    /// Every number of a ledger, in the order in which it is shown for debugging: so none can be forgotten here.
    fn numbers(ledger: &Ledger) -> Vec<u64> {
        let text =
            format!("{ledger:?}").replace("vxlan://192.0.2.1?vni=1", "").replace("\"1\"", "").replace("\"2\"", "");
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    }

    proptest! {
        /// Each counter of the sum is the sum of the counters, and the law that holds for the parts holds for it.
        #[test]
        fn the_sum_of_lawful_ledgers_is_lawful(seeds in proptest::collection::vec(any::<[u32; 16]>(), 1..6)) {
            let ledgers: Vec<Ledger> = seeds.iter().map(|seed| lawful(&seed.map(u64::from))).collect();
            prop_assert!(ledgers.iter().all(|ledger| ledger.balance().is_ok()));
            let sum = Ledger::sum(ledgers.clone());
            prop_assert_eq!(sum.balance(), Ok(()));
            let parts: Vec<Vec<u64>> = ledgers.iter().map(numbers).collect();
            let expected: Vec<u64> = (0..parts[0].len()).map(|at| parts.iter().map(|part| part[at]).sum()).collect();
            prop_assert_eq!(numbers(&sum), expected);
            prop_assert_eq!(&*sum.destinations[1].to, "pcap:copy.pcap");
        }
    }

    #[test]
    fn a_session_that_was_started_again_goes_on_counting() {
        let stream = |last, received| SenderLedger {
            from: Some([192, 0, 2, last].into()),
            encapsulation: Some(Tunnel::Gre),
            id: Some(7),
            received,
            lost: Some(1),
            reordered: 0,
            duplicated: 0,
            restarts: 0,
            reserved_bits: 0,
        };
        let (mut now, mut before) = (lawful(&[3; 16]), lawful(&[5; 16]));
        now.senders.update(|rows| rows.extend([stream(1, 10), stream(2, 20)]));
        before.senders.update(|rows| rows.extend([stream(2, 100), stream(3, 300)]));
        let captured = now.captured + before.captured;
        now.go_on_from(&before);
        assert_eq!((now.captured, now.balance()), (captured, Ok(())));
        let received: Vec<_> = now.senders.rows().iter().map(|row| (row.received, row.lost)).collect();
        assert_eq!(received, [(10, Some(1)), (120, Some(2)), (300, Some(1))]);
    }

    #[test]
    fn one_worker_s_ledger_is_its_own_sum() {
        let ledger = lawful(&[7; 16]);
        assert_eq!(Ledger::sum([ledger.clone()]), ledger);
        assert_eq!(Ledger::sum([]), Ledger::default());
    }
}
