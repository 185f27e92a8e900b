//! Which frames changed places.
//!
//! Of the frames of a group (all of them, or one flow) that met their equals, the reordered ones are a smallest set
//! without which the others are in the same order on both sides: what is left is a longest increasing subsequence.
//!
//! Only disorder takes memory. While no frame of a group waits, everything before is settled and everything to come
//! stands behind it on both sides; so a group is watched from the first of its frames that waits to the moment when none
//! waits any more, and frames that follow each other on both sides are one run.

use std::collections::HashMap;

use super::seen::{Group, Place};

/// Watches the order in every group.
#[derive(Debug, Default)]
pub(super) struct Watch {
    groups: HashMap<Group, Disorder>,
    runs: usize,
}

/// A group in which frames wait.
#[derive(Debug, Default)]
struct Disorder {
    waiting: usize,
    runs: Vec<Run>,
}

/// Frames that follow each other on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one, in A.
    pub a: Place,
    /// The first one, in B.
    pub b: Place,
    /// How many.
    pub length: u64,
}

impl Watch {
    /// A frame of `group` begins to wait.
    pub fn waits(&mut self, group: Group) {
        self.groups.entry(group).or_default().waiting += 1;
    }

    /// Two frames of `group` have met.
    pub fn met(&mut self, group: Group, a: Place, b: Place) {
        let Some(disorder) = self.groups.get_mut(&group) else { return };
        match disorder.runs.last_mut() {
            Some(run) if run.goes_on_with(a, b) => run.length += 1,
            _ => {
                disorder.runs.push(Run { a, b, length: 1 });
                self.runs += 1;
            }
        }
    }

    /// A frame of `group` waits no longer. Returns the runs that changed places, when the group is settled by it.
    pub fn waits_no_longer(&mut self, group: Group) -> Vec<Run> {
        let Some(disorder) = self.groups.get_mut(&group) else { return Vec::new() };
        disorder.waiting -= 1;
        if disorder.waiting > 0 {
            return Vec::new();
        }
        let runs = self.groups.remove(&group).map(|disorder| disorder.runs).unwrap_or_default();
        self.runs -= runs.len();
        moved(runs)
    }

    /// Memory that disorder takes, in bytes.
    pub fn bytes(&self) -> u64 {
        ((self.runs + self.groups.len()) * 2 * size_of::<Run>()) as u64
    }
}

impl Run {
    fn goes_on_with(&self, a: Place, b: Place) -> bool {
        let follows = |first: Place, next: Place| {
            next.ordinal == first.ordinal + self.length && next.number == first.number + self.length
        };
        follows(self.a, a) && follows(self.b, b)
    }
}

/// The runs outside a heaviest increasing subsequence, in the order of B. A run is moved as a whole or not at all: what
/// is before or behind one of its frames is so for all of them.
fn moved(mut runs: Vec<Run>) -> Vec<Run> {
    if runs.len() < 2 {
        return Vec::new();
    }
    runs.sort_unstable_by_key(|run| run.b.ordinal);
    let mut by_a: Vec<usize> = (0..runs.len()).collect();
    by_a.sort_unstable_by_key(|&index| runs[index].a.ordinal);
    let mut rank = vec![0; runs.len()];
    for (position, &index) in by_a.iter().enumerate() {
        rank[index] = position + 1;
    }
    // A Fenwick tree over the ranks: the heaviest sequence that ends at or before each rank, and with which run.
    let mut tree: Vec<(u64, usize)> = vec![(0, usize::MAX); runs.len() + 1];
    let mut previous = vec![usize::MAX; runs.len()];
    let mut heaviest = (0, usize::MAX);
    for (index, run) in runs.iter().enumerate() {
        let (mut best, mut position) = ((0, usize::MAX), rank[index] - 1);
        while position > 0 {
            best = heavier(best, tree[position]);
            position -= lowest_bit(position);
        }
        previous[index] = best.1;
        let own = (best.0 + run.length, index);
        heaviest = heavier(heaviest, own);
        position = rank[index];
        while position < tree.len() {
            tree[position] = heavier(tree[position], own);
            position += lowest_bit(position);
        }
    }
    let (mut stays, mut index) = (vec![false; runs.len()], heaviest.1);
    while let Some(stay) = stays.get_mut(index) {
        *stay = true;
        index = previous[index];
    }
    runs.into_iter().zip(stays).filter(|(_, stays)| !stays).map(|(run, _)| run).collect()
}

/// The heavier one; of equals the first.
fn heavier(first: (u64, usize), second: (u64, usize)) -> (u64, usize) {
    if second.0 > first.0 { second } else { first }
}

fn lowest_bit(position: usize) -> usize {
    position & position.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(a: u64, b: u64, length: u64) -> Run {
        let place = |ordinal| Place { ordinal, number: ordinal };
        Run { a: place(a), b: place(b), length }
    }

    /// The slow twin: the length of a longest increasing subsequence, quadratic.
    fn longest_increasing(sequence: &[u64]) -> usize {
        let mut best: Vec<usize> = Vec::new();
        for (index, value) in sequence.iter().enumerate() {
            let before = (0..index).filter(|&other| sequence[other] < *value).map(|other| best[other]).max();
            best.push(before.unwrap_or(0) + 1);
        }
        best.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn the_lighter_of_two_runs_has_moved() {
        assert_eq!(moved(vec![run(1, 4, 3), run(4, 1, 3), run(7, 7, 1)]).len(), 1);
        assert_eq!(moved(vec![run(1, 6, 1), run(2, 1, 5)]), [run(1, 6, 1)]);
        assert_eq!(moved(vec![run(6, 1, 1), run(1, 2, 5)]), [run(6, 1, 1)]);
    }

    #[test]
    fn a_group_is_settled_when_nobody_waits() {
        let place = |ordinal| Place { ordinal, number: ordinal };
        let (mut watch, group) = (Watch::default(), Group::ALL);
        watch.met(group, place(1), place(1));
        assert_eq!(watch.bytes(), 0);
        watch.waits(group);
        for ordinal in 3..9 {
            watch.met(group, place(ordinal), place(ordinal - 1));
        }
        assert_eq!(watch.runs, 1);
        watch.met(group, place(2), place(8));
        assert_eq!(watch.waits_no_longer(group), [run(2, 8, 1)]);
        assert_eq!(watch.bytes(), 0);
    }

    proptest! {
        #[test]
        fn no_fewer_frames_can_be_called_moved(order in Just((1..=40_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let runs = order.iter().zip(1..).map(|(&a, b)| run(a, b, 1)).collect();
            let moved = moved(runs);
            prop_assert_eq!(moved.len(), order.len() - longest_increasing(&order));
            let kept: Vec<_> = order.iter().filter(|&&a| moved.iter().all(|run| run.a.ordinal != a)).collect();
            prop_assert!(kept.is_sorted());
        }
    }
}
