//! `compare` says exactly what happened to a capture: one difference for each damage, of the right kind, at the right
//! frame, and nothing else. The judge over real captures is another program.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod captures;
mod damage;
mod traffic;
mod tunnels;
mod windows;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use farspan::compare::{Comparing, Comparison, Kind, Order, compare_sources};
use farspan::error::Explain;
use farspan::flow::FlowKey;
use farspan::frame::{Frame, InterfaceId, Offload};
use farspan::ledger::KernelDrops;
use farspan::quantity::Timestamp;
use farspan::source::{Readiness, Source};
use farspan::wire::layers::Layers;
use proptest::prelude::*;

use damage::{Damage, Expected, Recorded};
use traffic::captures;

/// A capture in memory.
struct InMemory(VecDeque<Recorded>);

impl Source for InMemory {
    fn drain(
        &mut self,
        _now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        for _ in 0..budget {
            let Some(recorded) = self.0.pop_front() else { return Ok(Readiness::Ended) };
            each(&Frame {
                bytes: &recorded.bytes,
                wire_len: recorded.wire_len,
                timestamp: Timestamp::default(),
                direction: None,
                interface: InterfaceId(0),
                origin: None,
                offload: Offload::Whole,
                has_restored_tag: false,
                refused: None,
            });
        }
        Ok(Readiness::More)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        KernelDrops::default()
    }
}

fn compared(a: &[Recorded], b: &[Recorded], rules: &Comparing) -> Comparison {
    let source = |frames: &[Recorded]| -> Box<dyn Source> { Box::new(InMemory(frames.iter().cloned().collect())) };
    compare_sources([source(a), source(b)], ["a".to_owned(), "b".to_owned()], rules).unwrap()
}

fn in_order(order: Order) -> Comparing {
    Comparing { order, ..Comparing::default() }
}

/// Asserts that `comparison` found `expected` and nothing else.
fn assert_found(comparison: &Comparison, expected: &Expected) {
    let text = comparison.table().to_string();
    let [difference] = comparison.differences.as_slice() else { panic!("{expected:?}, and not\n{text}") };
    assert_eq!((difference.kind, &difference.a, &difference.b), (expected.kind, &expected.a, &expected.b), "{text}");
    assert!(expected.at.is_none() || difference.at == expected.at, "{expected:?}\n{text}");
    assert!(expected.field.is_none() || difference.field.as_deref() == expected.field, "{expected:?}\n{text}");
    assert_eq!(comparison.counts.nonzero().collect::<Vec<_>>(), [(expected.kind, 1)], "{text}");
    assert_eq!((comparison.is_same(), comparison.beyond_window), (false, 0), "{text}");
}

proptest! {
    #[test]
    fn a_capture_is_the_same_as_itself(frames in captures()) {
        for order in [Order::Global, Order::Flow, Order::None] {
            let comparison = compared(&frames, &frames, &in_order(order));
            prop_assert!(comparison.is_same());
            prop_assert_eq!(comparison.identical, frames.len() as u64);
            prop_assert!(comparison.differences.is_empty());
        }
    }

    #[test]
    fn each_damage_is_named_at_its_frame(frames in captures(), index: prop::sample::Index) {
        let index = index.index(frames.len());
        for damage in Damage::ALL {
            let Some((damaged, expected)) = damage.at(index, &frames) else { continue };
            assert_found(&compared(&frames, &damaged, &in_order(Order::Global)), &expected);
            let any_order = compared(&frames, &damaged, &in_order(Order::None));
            if damage == Damage::Delay {
                prop_assert!(any_order.is_same());
            } else {
                assert_found(&any_order, &expected);
            }
        }
    }

    #[test]
    fn damages_far_apart_do_not_disturb_each_other(
        first in captures(), second in captures(), damages in (0..Damage::ALL.len(), 0..Damage::ALL.len()),
        places: (prop::sample::Index, prop::sample::Index),
    ) {
        let (x, y) = (Damage::ALL[damages.0], Damage::ALL[damages.1]);
        let (i, j) = (places.0.index(first.len()), places.1.index(second.len()));
        prop_assume!(first.iter().all(|frame| !second.contains(frame)));
        let all = [&first[..], &second].concat();
        let damaged = x.at(i, &first).zip(y.at(j, &second));
        let Some(((one, expected_one), (two, expected_two))) = damaged else { return Ok(()) };
        let comparison = compared(&all, &[one, two].concat(), &in_order(Order::Global));
        let mut expected = [expected_one.kind, expected_two.kind];
        let mut found: Vec<Kind> = comparison.differences.iter().map(|difference| difference.kind).collect();
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, expected, "{:?} at {}, {:?} at {}: {}", x, i, y, j, comparison.table());
    }

    #[test]
    fn any_two_captures_can_be_compared_and_every_frame_is_accounted_for(
        a in proptest::collection::vec(any_frame(), 0..40), b in proptest::collection::vec(any_frame(), 0..40),
    ) {
        for order in [Order::Global, Order::Flow, Order::None] {
            let comparison = compared(&a, &b, &Comparing { most: 1000, ..in_order(order) });
            let listed = |side: fn(&farspan::compare::Difference) -> usize| -> u64 {
                let unequal = comparison.differences.iter().filter(|difference| difference.kind != Kind::Reordered);
                unequal.map(|difference| side(difference) as u64).sum()
            };
            prop_assert_eq!(comparison.identical + listed(|difference| difference.a.len()), a.len() as u64);
            prop_assert_eq!(comparison.identical + listed(|difference| difference.b.len()), b.len() as u64);
        }
    }

    #[test]
    fn flows_may_overtake_each_other_where_order_is_judged_by_flow(frames in captures(), seed: u32) {
        let mut shuffled = frames.clone();
        shuffled.sort_by_key(|frame| FlowKey::PUBLIC.flow(&frame.bytes, &Layers::parse(&frame.bytes)).0.wrapping_mul(u64::from(seed) | 1));
        let comparison = compared(&frames, &shuffled, &in_order(Order::Flow));
        prop_assert!(comparison.is_same(), "{}", comparison.table());
        let global = compared(&frames, &shuffled, &in_order(Order::Global));
        prop_assert_eq!(global.is_same(), frames == shuffled);
        prop_assert!(global.counts.nonzero().all(|(kind, _)| kind == Kind::Reordered));
    }
}

/// Frames of few different bytes, so that many are equal or nearly so.
fn any_frame() -> impl Strategy<Value = Recorded> {
    (proptest::collection::vec(0..3_u8, 1..24), 0..3_u32).prop_map(|(bytes, lacking)| {
        let wire_len = u32::try_from(bytes.len()).unwrap() + lacking;
        Recorded { bytes, wire_len }
    })
}
