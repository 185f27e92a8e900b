//! Files larger than the window: what is near is found all the same, and what may be wrong is said.

use farspan::compare::{Comparing, Kind};

use crate::compared;
use crate::damage::Recorded;

const SMALL: u64 = 1 << 20;

/// Frame number `number` of a long capture: 1 KiB, and no two alike.
fn frame(number: usize) -> Recorded {
    let mut bytes = vec![0x55; 1024];
    bytes[100..108].copy_from_slice(&(number as u64).to_be_bytes());
    Recorded::whole(bytes)
}

fn capture(numbers: impl Iterator<Item = usize>) -> Vec<Recorded> {
    numbers.map(frame).collect()
}

#[test]
fn a_file_many_times_the_window_is_compared_to_its_end() {
    let rules = Comparing { window: SMALL, ..Comparing::default() };
    let a = capture(0..8000);
    let same = compared(&a, &a, &rules);
    assert!(same.is_same() && same.beyond_window == 0, "{}", same.table());

    // One in a hundred is gone: more of them than the window holds. Who is called missing early is really missing, but
    // nobody can know that before the end.
    let b = capture((0..8000).filter(|number| number % 5 != 3));
    let comparison = compared(&a, &b, &rules);
    assert_eq!(comparison.counts.nonzero().collect::<Vec<_>>(), [(Kind::Missing, 1600)]);
    assert_eq!((comparison.identical, comparison.differences[0].a[0]), (6400, 4));
    assert!(comparison.beyond_window > 0 && comparison.beyond_window < 1600, "{}", comparison.beyond_window);
    assert!(comparison.table().to_string().contains("a larger --window tells"));
}

#[test]
fn a_gap_within_the_window_is_read_over_and_one_beyond_it_is_admitted() {
    let rules = Comparing { window: SMALL, ..Comparing::default() };
    let a = capture(0..4000);
    let with_gap = |gap: usize| compared(&a, &capture((0..1000).chain(1000 + gap..4000)), &rules);
    let near = with_gap(200);
    assert_eq!(near.counts.nonzero().collect::<Vec<_>>(), [(Kind::Missing, 200)]);
    assert_eq!(near.beyond_window, 0);
    let far = with_gap(2000);
    assert!(!far.is_same() && far.beyond_window > 0, "{}", far.table());
}

#[test]
fn a_frame_that_comes_again_is_a_duplicate_as_long_as_it_is_remembered() {
    let rules = Comparing { window: SMALL, ..Comparing::default() };
    let a = capture(0..6000);
    let with_copy_of = |number: usize| {
        let mut b = a.clone();
        b.push(frame(number));
        compared(&a, &b, &rules)
    };
    let near = with_copy_of(5000);
    assert_eq!(near.counts.nonzero().collect::<Vec<_>>(), [(Kind::Duplicated, 1)]);
    assert_eq!(near.differences[0].note, "another copy of A's frame 5001");
    let far = with_copy_of(10);
    assert_eq!(far.counts.nonzero().collect::<Vec<_>>(), [(Kind::Extra, 1)]);
    assert_eq!(far.beyond_window, 1);
}

#[test]
fn a_whole_capture_without_its_tags_is_told_frame_by_frame_however_long() {
    let rules = Comparing { window: SMALL, ..Comparing::default() };
    let tagged: Vec<Recorded> = capture(0..5000)
        .into_iter()
        .map(|mut frame| {
            frame.bytes.splice(12..12, [0x81, 0, 0, 9]);
            Recorded::whole(frame.bytes)
        })
        .collect();
    let comparison = compared(&tagged, &capture(0..5000), &rules);
    assert_eq!(comparison.counts.nonzero().collect::<Vec<_>>(), [(Kind::VlanLost, 5000)]);
    assert_eq!(comparison.beyond_window, 0);
    let matters_not = Comparing { ignored: vec![Kind::VlanLost], ..rules };
    assert!(compared(&tagged, &capture(0..5000), &matters_not).is_same());
}

#[test]
fn one_frame_that_is_repeated_through_the_whole_window_costs_no_more_than_others() {
    const TIMES: usize = 60_000;
    let short = |byte: u8| vec![Recorded::whole(vec![byte; 60]); TIMES];
    // All of A waits for its equals, which B has behind as many others.
    let (a, b) = (short(1), [short(2), short(1)].concat());
    let comparison = compared(&a, &b, &Comparing { window: 256 << 20, ..Comparing::default() });
    assert_eq!(comparison.counts.nonzero().collect::<Vec<_>>(), [(Kind::Extra, TIMES as u64)]);
    assert_eq!((comparison.identical, comparison.beyond_window), (TIMES as u64, 0));
    // And all of them are copies of one.
    let comparison = compared(&a[..1], &a, &Comparing::default());
    assert_eq!(comparison.counts.nonzero().collect::<Vec<_>>(), [(Kind::Duplicated, TIMES as u64 - 1)]);
}
