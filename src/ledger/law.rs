//! The law of accounting, as equations that must hold after every flush.

use super::{Assignment, DestinationLedger, DropReason, Ledger};

/// An equation that does not hold: a defect of farspan, never of the network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ledger does not balance: {equation}: {left} is not {right}")]
pub struct Imbalance {
    /// The equation, in the words of the ledger.
    pub equation: String,
    /// Value of its left side.
    pub left: u64,
    /// Value of its right side.
    pub right: u64,
}

impl Ledger {
    /// Checks every equation.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn balance(&self) -> Result<(), Imbalance> {
        let selected = self.captured.saturating_sub(self.not_selected.total());
        equal("captured = dropped in select + selected", self.captured, self.not_selected.total() + selected)?;
        equal(
            "selected + segments added = dropped in normalise + offered",
            selected + self.segments_added,
            self.not_normalised.total() + self.offered,
        )?;
        if self.assignment == Assignment::One {
            let assigned: u64 = self.destinations.iter().map(|destination| destination.assigned).sum();
            let right = assigned + self.not_assigned.total();
            equal("offered = sum of assigned + dropped for want of a destination", self.offered, right)?;
        }
        for destination in &self.destinations {
            if self.assignment == Assignment::Each {
                equal_at(destination, "offered = assigned", self.offered, destination.assigned)?;
            }
            equal_at(
                destination,
                "assigned + split added = sent + in flight + dropped",
                destination.assigned + destination.split_added,
                destination.sent + destination.in_flight + destination.dropped.total(),
            )?;
        }
        Ok(())
    }

    /// Gives every frame that has no fate yet this one: nobody can tell any more what became of what a worker held. Wherever
    /// that worker was interrupted, the law holds afterwards, nothing is in flight, and no count has fallen.
    pub fn close(&mut self, reason: DropReason) {
        let selected = self.captured.saturating_sub(self.not_selected.total());
        let left = selected + self.segments_added;
        let right = self.not_normalised.total() + self.offered;
        self.not_normalised[reason] += left.saturating_sub(right);
        // A super-frame's segments are offered one by one, and counted when all of them have been.
        self.segments_added += right.saturating_sub(left);

        if self.assignment == Assignment::One {
            let assigned: u64 = self.destinations.iter().map(|destination| destination.assigned).sum();
            self.not_assigned[reason] += self.offered.saturating_sub(assigned + self.not_assigned.total());
        }
        for destination in &mut self.destinations {
            if self.assignment == Assignment::Each {
                destination.assigned = destination.assigned.max(self.offered);
            }
            destination.in_flight = 0;
            let left = destination.assigned + destination.split_added;
            let right = destination.sent + destination.dropped.total();
            destination.dropped[reason] += left.saturating_sub(right);
            // The pieces of a frame leave before they are counted, as segments do.
            destination.split_added += right.saturating_sub(left);
        }
    }
}

fn equal(equation: &str, left: u64, right: u64) -> Result<(), Imbalance> {
    if left == right { Ok(()) } else { Err(Imbalance { equation: equation.to_owned(), left, right }) }
}

fn equal_at(destination: &DestinationLedger, equation: &str, left: u64, right: u64) -> Result<(), Imbalance> {
    equal(equation, left, right)
        .map_err(|found| Imbalance { equation: format!("{equation} (destination {})", destination.name), ..found })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn balanced() -> Ledger {
        let mut ledger = Ledger::new([("1", "vxlan://192.0.2.1?vni=1")]);
        ledger.captured = 10;
        ledger.not_selected[DropReason::OwnTraffic] = 2;
        ledger.not_normalised[DropReason::Unsegmentable] = 1;
        ledger.segments_added = 4;
        ledger.offered = 11;
        let destination = &mut ledger.destinations[0];
        destination.assigned = 11;
        destination.split_added = 3;
        destination.sent = 12;
        destination.in_flight = 1;
        destination.dropped[DropReason::Oversize] = 1;
        ledger
    }

    #[test]
    fn a_whole_ledger_balances() {
        assert_eq!(balanced().balance(), Ok(()));
    }

    #[test]
    fn where_one_destination_gets_a_frame_the_sum_of_them_has_all() {
        let mut ledger = balanced().assigning(Assignment::One);
        assert_eq!(ledger.balance(), Ok(()));
        ledger.offered += 2;
        ledger.segments_added += 2;
        ledger.not_assigned[DropReason::NoDestination] = 2;
        assert_eq!((ledger.balance(), ledger.dropped().total()), (Ok(()), 5));
        ledger.not_assigned[DropReason::NoDestination] = 1;
        assert_eq!(ledger.balance().unwrap_err().left, 13);
    }

    #[test]
    fn one_frame_without_a_fate_is_found_and_named() {
        let mut ledger = balanced();
        ledger.destinations[0].sent -= 1;
        let imbalance = ledger.balance().unwrap_err();
        assert_eq!(imbalance.equation, "assigned + split added = sent + in flight + dropped (destination 1)");
        assert_eq!((imbalance.left, imbalance.right), (14, 13));

        let mut ledger = balanced();
        ledger.captured += 1;
        assert!(ledger.balance().is_err());
    }

    proptest! {
        /// A worker may be interrupted between any two of its counts: what it had not counted yet is less than what it had,
        /// somewhere.
        #[test]
        fn an_account_that_broke_off_anywhere_can_be_closed(
            missing in proptest::collection::vec(0..3_u64, 6),
            one in any::<bool>(),
        ) {
            let mut ledger = balanced().assigning(if one { Assignment::One } else { Assignment::Each });
            ledger.captured += missing[0];
            ledger.offered += missing[1];
            ledger.segments_added -= missing[2];
            let destination = &mut ledger.destinations[0];
            destination.assigned += missing[1].min(missing[3]);
            destination.split_added -= missing[4];
            destination.sent += missing[5];
            let before = ledger.clone();

            ledger.close(DropReason::Crashed);

            prop_assert_eq!(ledger.balance(), Ok(()));
            prop_assert_eq!(ledger.captured, before.captured);
            let (is, was) = (&ledger.destinations[0], &before.destinations[0]);
            prop_assert_eq!((is.sent, is.in_flight), (was.sent, 0));
            for &reason in DropReason::ALL.iter().filter(|&&reason| reason != DropReason::Crashed) {
                prop_assert_eq!(is.dropped[reason], was.dropped[reason]);
            }
            prop_assert!(is.assigned >= was.assigned && is.split_added >= was.split_added);
            prop_assert!(ledger.segments_added >= before.segments_added);
        }
    }

    #[test]
    fn what_was_in_flight_is_lost_and_a_whole_account_stays_as_it_is() {
        let mut ledger = balanced();
        ledger.close(DropReason::Crashed);
        assert_eq!(ledger.destinations[0].dropped[DropReason::Crashed], 1);
        let closed = ledger.clone();
        ledger.close(DropReason::Stopping);
        assert_eq!(ledger, closed);
    }
}
