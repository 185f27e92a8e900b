//! Puts frames back into the order of their sequence numbers, in bounded time and memory.
//!
//! A frame that comes before one with a lower number waits for that one: at most as long as the operator allows, not
//! together with more than [`MOST`] others, and not beyond the bytes that the socket has for it. What comes late all the same
//! goes on at once.

use std::time::{Duration, Instant};

use super::super::Readiness;
use super::super::held::Held;
use super::receiver::Received;
use super::senders::MOST as MOST_STREAMS;
use crate::frame::Frame;
use crate::wire::sequence::WINDOW;

/// Most frames that wait at the same time.
const MOST: usize = 1024;
/// Bytes that are kept for frames to come when those that waited have gone on.
const SPARE: usize = 256 << 10;

/// The frames that wait.
pub struct Reorder {
    /// How long; `None`: not at all.
    delay: Option<Duration>,
    /// The number that each stream of the table of senders has to give next.
    next: Vec<Option<u32>>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    /// Bytes of memory of those that wait, and the most that there may be.
    bytes: usize,
    most_bytes: usize,
    /// Memory of frames that have gone on, [`SPARE`] bytes at most.
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
}

/// One frame that waits.
struct Waiting {
    stream: usize,
    number: u32,
    /// When it goes on at the latest.
    until: Instant,
    held: Held,
    memory: Vec<u8>,
}

impl Reorder {
    /// Lets frames wait as long as `delay` says, in `most_bytes` of memory.
    pub fn new(delay: Option<Duration>, most_bytes: usize) -> Self {
        let (next, waiting, spare) = (vec![None; MOST_STREAMS], Vec::new(), Vec::new());
        Self { delay, next, waiting, bytes: 0, most_bytes, spare, spare_bytes: 0 }
    }

    /// Lends the frame at once, or later; with it all that waited for it.
    pub fn take(&mut self, now: Instant, received: &Received<'_>, each: &mut dyn FnMut(&Frame<'_>)) {
        let (Some(delay), Some((stream, number))) = (self.delay, received.place) else {
            return each(&received.frame);
        };
        let Some(next) = self.next.get_mut(stream) else { return each(&received.frame) };
        let ahead = next.map_or(0, |next| number.wrapping_sub(next));
        let behind = 0_u32.wrapping_sub(ahead);
        if ahead != 0 && behind <= WINDOW {
            // Its place has passed.
            return each(&received.frame);
        }
        if self.waiting.iter().any(|frame| (frame.stream, frame.number) == (stream, number)) {
            // The second of two.
            return each(&received.frame);
        }
        if (1..WINDOW).contains(&ahead) {
            if self.has_room(received.frame.bytes.len()) {
                return self.keep(stream, number, now + delay, &received.frame);
            }
            // At least one goes on, so that this comes to an end; and it may be this frame's turn then.
            self.release_oldest(each);
            return self.take(now, received, each);
        }
        if ahead != 0 {
            // An outage, or a sender that begins anew: nobody waits for what was before.
            self.release_up_to(stream, None, each);
        }
        each(&received.frame);
        self.go_on_from(stream, number, each);
    }

    /// Lends what has waited long enough.
    pub fn release(&mut self, now: Instant, each: &mut dyn FnMut(&Frame<'_>)) {
        while self.waiting.first().is_some_and(|oldest| oldest.until <= now) {
            self.release_oldest(each);
        }
    }

    /// Lends everything.
    pub fn release_all(&mut self, each: &mut dyn FnMut(&Frame<'_>)) {
        while !self.waiting.is_empty() {
            self.release_oldest(each);
        }
    }

    /// What a source that has nothing more now waits for.
    pub fn readiness(&self) -> Readiness {
        self.waiting.first().map_or(Readiness::Waiting, |oldest| Readiness::Until(oldest.until))
    }

    fn has_room(&self, length: usize) -> bool {
        self.waiting.is_empty() || (self.waiting.len() < MOST && self.bytes + length <= self.most_bytes)
    }

    fn keep(&mut self, stream: usize, number: u32, until: Instant, frame: &Frame<'_>) {
        let mut memory = self.spare.pop().unwrap_or_default();
        self.spare_bytes -= memory.capacity();
        memory.clear();
        memory.reserve_exact(frame.bytes.len());
        let held = Held::copy(frame, &mut memory);
        self.bytes += memory.capacity();
        self.waiting.push(Waiting { stream, number, until, held, memory });
    }

    /// Lends the frame that has waited longest, after those of its stream that have lower numbers.
    fn release_oldest(&mut self, each: &mut dyn FnMut(&Frame<'_>)) {
        let Some(oldest) = self.waiting.first() else { return };
        let (stream, number) = (oldest.stream, oldest.number);
        self.release_up_to(stream, Some(number), each);
        self.go_on_from(stream, number, each);
    }

    /// Lends the waiting frames of `stream` in the order of their numbers, up to and with `last`.
    fn release_up_to(&mut self, stream: usize, last: Option<u32>, each: &mut dyn FnMut(&Frame<'_>)) {
        let Some(next) = self.next[stream] else { return };
        let distance = |number: u32| number.wrapping_sub(next);
        let most = last.map_or(u32::MAX, distance);
        let lowest = |waiting: &[Waiting]| {
            let own = waiting.iter().enumerate().filter(|(_, frame)| frame.stream == stream);
            let own = own.filter(|(_, frame)| distance(frame.number) <= most);
            own.min_by_key(|(_, frame)| distance(frame.number)).map(|(index, _)| index)
        };
        while let Some(index) = lowest(&self.waiting) {
            self.lend(index, each);
        }
    }

    /// After `number`, lends what follows without a gap.
    fn go_on_from(&mut self, stream: usize, number: u32, each: &mut dyn FnMut(&Frame<'_>)) {
        let mut next = number.wrapping_add(1);
        while let Some(index) = self.waiting.iter().position(|frame| (frame.stream, frame.number) == (stream, next)) {
            self.lend(index, each);
            next = next.wrapping_add(1);
        }
        self.next[stream] = Some(next);
    }

    fn lend(&mut self, index: usize, each: &mut dyn FnMut(&Frame<'_>)) {
        let Waiting { held, memory, .. } = self.waiting.remove(index);
        each(&held.frame(&memory));
        self.bytes -= memory.capacity();
        if self.spare_bytes + memory.capacity() <= SPARE {
            self.spare_bytes += memory.capacity();
            self.spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::testing;
    use proptest::prelude::*;

    const DELAY: Duration = Duration::from_millis(5);

    /// What comes out when these (stream, number, milliseconds) come in; the number is the frame.
    fn given(frames: &[(usize, u32, u64)], start: u32) -> Vec<(usize, u32)> {
        let (mut reorder, mut out) = (Reorder::new(Some(DELAY), 1 << 20), Vec::new());
        let begin = Instant::now();
        let mut seen = |frame: &Frame<'_>| {
            let [stream, number @ ..] = *frame.bytes.first_chunk::<5>().unwrap();
            out.push((usize::from(stream), u32::from_be_bytes(number).wrapping_sub(start)));
        };
        for &(stream, number, millis) in frames {
            let now = begin + Duration::from_millis(millis);
            let number = start.wrapping_add(number);
            let bytes = [&[u8::try_from(stream).unwrap()][..], &number.to_be_bytes()].concat();
            let frame = testing::frame(&bytes);
            reorder.release(now, &mut seen);
            reorder.take(now, &Received { frame, place: Some((stream, number)) }, &mut seen);
        }
        reorder.release_all(&mut seen);
        assert!(matches!(reorder.readiness(), Readiness::Waiting));
        out
    }

    #[test]
    fn a_frame_waits_for_those_before_it() {
        for start in [0, u32::MAX - 1] {
            let frames = [(0, 0, 0), (0, 2, 0), (1, 9, 0), (0, 3, 1), (0, 1, 2), (0, 4, 3)];
            assert_eq!(given(&frames, start), [(0, 0), (1, 9), (0, 1), (0, 2), (0, 3), (0, 4)]);
        }
    }

    #[test]
    fn it_does_not_wait_longer_than_it_may() {
        let frames = [(0, 0, 0), (0, 3, 0), (0, 2, 1), (0, 4, 6), (0, 1, 7)];
        assert_eq!(given(&frames, 0), [(0, 0), (0, 2), (0, 3), (0, 4), (0, 1)]);
    }

    #[test]
    fn an_outage_and_a_new_beginning_make_nobody_wait() {
        let frames = [(0, 5000, 0), (0, 5002, 0), (0, 9000, 0), (0, 9001, 0), (0, 0, 0), (0, 1, 0)];
        assert_eq!(given(&frames, 0), [(0, 5000), (0, 5002), (0, 9000), (0, 9001), (0, 0), (0, 1)]);
    }

    #[test]
    fn a17_frames_that_wait_have_a_bound_in_bytes_and_their_memory_is_returned() {
        const MOST_BYTES: usize = 1 << 20;
        let (mut reorder, begin) = (Reorder::new(Some(DELAY), MOST_BYTES), Instant::now());
        let large = vec![7; 64_000];
        let frame = testing::frame(&large);
        let mut out = 0;
        // Every other number is missing, on several streams.
        for number in 0..1500 {
            let place = Some((number % 3, u32::try_from(number / 3 * 2).unwrap()));
            reorder.take(begin, &Received { frame, place }, &mut |_| out += 1);
            let held: usize = reorder.waiting.iter().map(|one| one.memory.capacity()).sum();
            let spare: usize = reorder.spare.iter().map(Vec::capacity).sum();
            assert_eq!((held, spare), (reorder.bytes, reorder.spare_bytes));
            assert!(held <= MOST_BYTES && spare <= SPARE, "{held} and {spare} bytes");
        }
        assert!(reorder.waiting.len() > 10, "some wait");
        reorder.release_all(&mut |_| out += 1);
        assert_eq!((out, reorder.bytes, reorder.waiting.len()), (1500, 0, 0));
    }

    proptest! {
        #[test]
        fn every_frame_goes_on_once_and_small_swaps_are_undone(
            count in 1..3000_u32,
            swaps in proptest::collection::vec((any::<prop::sample::Index>(), 1..100_usize), 0..40),
            start: u32,
        ) {
            let mut numbers: Vec<u32> = (0..count).collect();
            for (index, distance) in swaps {
                // The first tells where the stream begins.
                let at = 1 + index.index(numbers.len());
                if at + distance < numbers.len() {
                    numbers.swap(at, at + distance);
                }
            }
            let frames: Vec<_> = numbers.iter().map(|&number| (0, number, 0)).collect();
            let out = given(&frames, start);
            prop_assert_eq!(out, (0..count).map(|number| (0, number)).collect::<Vec<_>>());
        }

        #[test]
        fn no_frame_is_lost_whatever_the_numbers(numbers in proptest::collection::vec((0..3_usize, any::<u32>()), 0..200)) {
            let frames: Vec<_> = numbers.iter().map(|&(stream, number)| (stream, number, 0)).collect();
            let mut out = given(&frames, 0);
            let mut expected = numbers;
            out.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(out, expected);
        }
    }
}
