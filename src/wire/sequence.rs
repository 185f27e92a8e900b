//! What GRE and ERSPAN sequence numbers (RFC 2890 section 2.2) tell a receiver: how many datagrams of a stream were
//! lost, came late or came twice, and whether the sender began anew.
//!
//! A stream is what one sender numbers: its address, the encapsulation and the id. Numbers have 32 bits and wrap. The
//! last [`WINDOW`] of them are remembered one by one, so that senders with several threads, and networks with several
//! paths, may mix them within it. A number is lost when it leaves the window unseen, or at the end: what is counted
//! once stays counted.
//!
//! A datagram far outside the window may be an outage, a sender that began anew, or a stray. The next one tells: two
//! that belong together move the window, one alone does not.

/// How many sequence numbers are remembered.
pub const WINDOW: u32 = 1024;

/// What happened to one stream. Counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that came, all of them.
    pub received: u64,
    /// Sequence numbers that never came.
    pub lost: u64,
    /// Datagrams that came after a later one.
    pub reordered: u64,
    /// Datagrams whose number had come before.
    pub duplicated: u64,
    /// How often the sender began anew.
    pub restarts: u64,
}

/// Where a stream is.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    counts: Counts,
    window: Option<Window>,
    /// A number far outside the window, which the next datagram confirms or not.
    outlier: Option<u32>,
}

/// The latest numbers.
#[derive(Clone, Debug)]
struct Window {
    highest: u32,
    /// How many numbers, from the highest down, belong to the stream: fewer than all after its beginning.
    length: u32,
    /// One bit a number, at the number modulo [`WINDOW`]; clear beyond `length`.
    seen: [u64; WINDOW as usize / 64],
}

impl Stream {
    /// A datagram with this number came.
    pub fn receive(&mut self, number: u32) {
        let Self { counts, window, outlier } = self;
        counts.received += 1;
        let Some(window) = window else {
            self.window = Some(Window::beginning_at(number));
            return;
        };
        match (window.ahead(number), outlier.take()) {
            (Some(ahead), stray) if ahead < WINDOW => {
                counts.reordered += u64::from(stray.is_some());
                counts.lost += window.advance(ahead);
                window.see(number);
            }
            (None, stray) if window.behind(number) < WINDOW => {
                counts.reordered += u64::from(stray.is_some());
                window.see_late(number, counts);
            }
            (_, Some(first)) if is_near(first, number) => window.move_to(first, number, counts),
            (_, stray) => {
                counts.reordered += u64::from(stray.is_some());
                *outlier = Some(number);
            }
        }
    }

    /// What happened so far. Numbers that may still come are not lost yet.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Nothing more will come, for now: what is missing is lost.
    pub fn settle(&mut self) {
        let Some(window) = &mut self.window else { return };
        if let Some(outlier) = self.outlier.take() {
            // Nothing contradicts it.
            window.move_to(outlier, outlier, &mut self.counts);
        }
        self.counts.lost += window.settle();
    }
}

/// Whether two numbers can belong to one window.
fn is_near(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).min(b.wrapping_sub(a)) < WINDOW
}

impl Window {
    fn beginning_at(number: u32) -> Self {
        let mut window = Self { highest: number, length: 1, seen: [0; WINDOW as usize / 64] };
        window.see(number);
        window
    }

    /// How far `number` is ahead of the highest: `None` when it is not. Half of all numbers are ahead.
    fn ahead(&self, number: u32) -> Option<u32> {
        let distance = number.wrapping_sub(self.highest);
        (1..=u32::MAX / 2).contains(&distance).then_some(distance)
    }

    /// How far `number` is behind the highest.
    fn behind(&self, number: u32) -> u32 {
        self.highest.wrapping_sub(number)
    }

    fn bit(number: u32) -> (usize, u64) {
        let place = number % WINDOW;
        (place as usize / 64, 1 << (place % 64))
    }

    fn has_seen(&self, number: u32) -> bool {
        let (word, bit) = Self::bit(number);
        self.seen[word] & bit != 0
    }

    fn see(&mut self, number: u32) {
        let (word, bit) = Self::bit(number);
        self.seen[word] |= bit;
    }

    /// A number of the window that is not the next one.
    fn see_late(&mut self, number: u32, counts: &mut Counts) {
        if self.has_seen(number) {
            counts.duplicated += 1;
            return;
        }
        // Before the first that we saw: then it began before.
        self.length = self.length.max(self.behind(number) + 1);
        counts.reordered += 1;
        self.see(number);
    }

    /// Moves the window up and returns how many numbers left it unseen.
    fn advance(&mut self, distance: u32) -> u64 {
        if distance >= WINDOW {
            let lost = self.missing() + u64::from(distance - WINDOW);
            *self = Self { highest: self.highest.wrapping_add(distance), length: WINDOW, seen: Default::default() };
            return lost;
        }
        let mut lost = 0;
        for _ in 0..distance {
            self.highest = self.highest.wrapping_add(1);
            // The place of the new number is that of the one which leaves.
            lost += u64::from(self.length == WINDOW && !self.has_seen(self.highest));
            let (word, bit) = Self::bit(self.highest);
            self.seen[word] &= !bit;
            self.length = WINDOW.min(self.length + 1);
        }
        lost
    }

    /// Goes to where two numbers are that came one after the other, `first` first, and both outside.
    fn move_to(&mut self, first: u32, second: u32, counts: &mut Counts) {
        let highest = if second.wrapping_sub(first) < WINDOW { second } else { first };
        // Senders begin at 0 (RFC 2890 section 2.2). A wrap comes step by step, so who suddenly is there began anew.
        if let Some(distance) = self.ahead(highest).filter(|_| first.min(second) >= WINDOW) {
            counts.lost += self.advance(distance);
            self.see(highest);
        } else {
            counts.lost += self.missing();
            counts.restarts += 1;
            *self = Self::beginning_at(highest);
        }
        if first == second {
            return;
        }
        if highest == first {
            self.see_late(second, counts);
        } else {
            // The first of the two did not come late.
            self.length = self.length.max(self.behind(first) + 1);
            self.see(first);
        }
    }

    /// How many numbers of the window were not seen.
    fn missing(&self) -> u64 {
        let seen: u32 = self.seen.iter().map(|word| word.count_ones()).sum();
        u64::from(self.length - seen.min(self.length))
    }

    /// The same, once: from then on they count as seen.
    fn settle(&mut self) -> u64 {
        let missing = self.missing();
        for back in 0..self.length {
            self.see(self.highest.wrapping_sub(back));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn counts_of(numbers: impl IntoIterator<Item = u32>) -> Counts {
        let mut stream = Stream::default();
        numbers.into_iter().for_each(|number| stream.receive(number));
        stream.settle();
        stream.counts()
    }

    proptest! {
        /// Whatever a network does within the window, the account is exact, wherever the numbers begin.
        #[test]
        fn losses_repetitions_and_swaps_within_the_window_are_counted_exactly(
            start: u32,
            length in 1..5000_u32,
            lost in vec(any::<prop::sample::Index>(), 0..200),
            repeated in vec((any::<prop::sample::Index>(), 0..500_usize), 0..50),
            swapped in vec((any::<prop::sample::Index>(), 0..200_usize), 0..50),
        ) {
            let lost: HashSet<usize> = lost.iter().map(|index| index.index(length as usize)).collect();
            let mut sent: Vec<u32> = (0..length)
                .filter(|&n| !lost.contains(&(n as usize)))
                .map(|n| start.wrapping_add(n))
                .collect();
            prop_assume!(!sent.is_empty());
            for (index, distance) in swapped {
                let at = index.index(sent.len());
                let other = (at + distance).min(sent.len() - 1);
                sent.swap(at, other);
            }
            for (index, distance) in &repeated {
                let at = index.index(sent.len());
                let copy = sent[at];
                sent.insert((at + distance).min(sent.len()), copy);
            }
            // The slow twin: with all numbers at hand.
            let offset = |number: u32| i64::from(number.wrapping_sub(start));
            let (mut seen, mut highest, mut reordered, mut duplicated) = (HashSet::new(), i64::MIN, 0, 0);
            for &number in &sent {
                prop_assume!(highest == i64::MIN || (highest - offset(number)).abs() < i64::from(WINDOW));
                if !seen.insert(number) {
                    duplicated += 1;
                } else if offset(number) < highest {
                    reordered += 1;
                }
                highest = highest.max(offset(number));
            }
            let first = seen.iter().map(|&number| offset(number)).min().unwrap();
            let lost = u64::try_from(highest - first + 1).unwrap() - seen.len() as u64;
            let expected = Counts { received: sent.len() as u64, lost, reordered, duplicated, restarts: 0 };
            prop_assert_eq!(counts_of(sent), expected);
        }

        #[test]
        fn counters_only_rise_and_no_numbers_are_unsafe(numbers in vec(prop_oneof![any::<u32>(), 0..3000_u32], 0..300)) {
            let mut stream = Stream::default();
            let mut before = Counts::default();
            for number in numbers {
                stream.receive(number);
                let now = stream.counts();
                prop_assert_eq!(now.received, before.received + 1);
                for (now, before) in [
                    (now.lost, before.lost),
                    (now.reordered, before.reordered),
                    (now.duplicated, before.duplicated),
                    (now.restarts, before.restarts),
                ] {
                    prop_assert!(now >= before);
                }
                before = now;
            }
            stream.settle();
            let settled = stream.counts();
            prop_assert!(settled.lost >= before.lost);
            stream.settle();
            prop_assert_eq!(stream.counts(), settled);
        }
    }

    #[test]
    fn a_wrap_is_no_restart() {
        let numbers = (0..5000_u32).map(|n| n.wrapping_sub(2500));
        assert_eq!(counts_of(numbers), Counts { received: 5000, ..Counts::default() });
        let with_a_gap = (0..5000_u32).filter(|n| !(2400..2600).contains(n)).map(|n| n.wrapping_sub(2500));
        assert_eq!(counts_of(with_a_gap), Counts { received: 4800, lost: 200, ..Counts::default() });
    }

    #[test]
    fn a_sender_that_begins_anew_loses_nothing() {
        for before in [5000, u32::MAX - 5000, u32::MAX / 2 + 5000] {
            let numbers = (before..before + 3000).chain(0..2000);
            let expected = Counts { received: 5000, restarts: 1, ..Counts::default() };
            assert_eq!(counts_of(numbers), expected, "{before}");
        }
        // What was missing before is lost all the same.
        let numbers = (7000..8000).chain(8010..8020).chain([1, 0, 2]);
        let expected = Counts { received: 1013, lost: 10, reordered: 1, restarts: 1, ..Counts::default() };
        assert_eq!(counts_of(numbers), expected);
    }

    #[test]
    fn a_long_outage_is_loss() {
        let numbers = (0..100).chain(1_000_000..1_000_100);
        assert_eq!(counts_of(numbers), Counts { received: 200, lost: 999_900, ..Counts::default() });
        // Also when it lasts to the end but for one datagram.
        let numbers = (0..100).chain([1_000_000]);
        assert_eq!(counts_of(numbers), Counts { received: 101, lost: 999_900, ..Counts::default() });
        // Just outside the window, and just inside.
        for gap in WINDOW - 2..WINDOW + 3 {
            let numbers = (0..100).chain(100 + gap..300 + gap);
            assert_eq!(counts_of(numbers), Counts { received: 300, lost: gap.into(), ..Counts::default() }, "{gap}");
        }
    }

    #[test]
    fn a_stray_moves_nothing() {
        // One that is later than the window remembers, and one from nowhere.
        let numbers = (0..3000).chain([5, 3000, 0x7000_0000]).chain(3001..3100);
        let expected = Counts { received: 3102, reordered: 2, ..Counts::default() };
        assert_eq!(counts_of(numbers), expected);
    }

    #[test]
    fn what_may_still_come_is_not_lost_yet() {
        let mut stream = Stream::default();
        for number in [0, 1, 3] {
            stream.receive(number);
        }
        assert_eq!(stream.counts(), Counts { received: 3, ..Counts::default() });
        stream.receive(2);
        assert_eq!(stream.counts(), Counts { received: 4, reordered: 1, ..Counts::default() });
        stream.receive(5);
        (6..6 + WINDOW).for_each(|number| stream.receive(number));
        assert_eq!(stream.counts().lost, 1);
    }
}
