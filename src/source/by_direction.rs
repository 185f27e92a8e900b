//! One interface with its two directions told apart: two captures, merged back into the order of the wire.
//!
//! libpcap does not say which way a frame went. Where a tunnel needs it (an id for each direction, ERSPAN III), each
//! direction gets a ring of its own, and frames wait here, copied, until it is sure that the other ring holds none that
//! is older. Sources that need no direction never pay for this.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::error::SourceError;
use super::held::Held;
use super::link_type::LARGEST_FRAME;
use super::live::Live;
use super::{Readiness, Source};
use crate::error::Explain;
use crate::frame::{Frame, Place};
use crate::ledger::KernelDrops;
use crate::quantity::Timestamp;

/// Both directions of one interface, in order.
pub(super) struct ByDirection {
    captures: [Live; 2],
    merge: Merge,
    /// Readable when one of the captures is.
    either: Epoll,
}

impl ByDirection {
    /// Merges two captures of one interface, each of one direction. `delay` is the longest time that a frame waits in
    /// a capture's ring.
    pub fn new(name: &str, captures: [Live; 2], delay: Duration) -> Result<Self, SourceError> {
        let cannot_wait = |cause| SourceError::CannotWait { interface: name.to_owned(), cause };
        let either = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(cannot_wait)?;
        for capture in &captures {
            if let Some(descriptor) = capture.descriptor() {
                either.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(cannot_wait)?;
            }
        }
        Ok(Self { captures, merge: Merge::new(delay), either })
    }
}

impl Source for ByDirection {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        let mut left = budget;
        while left > 0 {
            let mut ending = None;
            for (capture, lane) in self.captures.iter_mut().zip(&mut self.merge.lanes) {
                match fill(capture, lane, now) {
                    Ok(readiness) => ending = ending.max(until(readiness)),
                    Err(error) => {
                        self.merge.give_all(each);
                        return Err(error);
                    }
                }
            }
            let given = self.merge.give(now, left, each);
            if given == 0 {
                let next = self.merge.deadline().into_iter().chain(ending).min();
                return Ok(next.map_or(Readiness::Waiting, Readiness::Until));
            }
            left -= given;
        }
        Ok(Readiness::More)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.either.0.as_fd())
    }

    fn place(&self) -> Place {
        let [received, _] = &self.captures;
        received.place()
    }

    fn is_attached(&self) -> bool {
        self.captures.iter().all(Source::is_attached)
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        let [received, sent] = &mut self.captures;
        let (received, sent) = (received.kernel_drops(), sent.kernel_drops());
        // The interface's own drops are the same for both.
        KernelDrops { buffer_full: received.buffer_full + sent.buffer_full, interface: received.interface, untold: 0 }
    }
}

/// Takes what `capture` has, while `lane` has room.
fn fill(capture: &mut Live, lane: &mut Lane, now: Instant) -> Result<Readiness, Box<dyn Explain>> {
    let mut readiness = Readiness::Waiting;
    while lane.has_room() {
        let held = lane.len();
        readiness = capture.drain(now, 1, &mut |frame| lane.push(frame, now))?;
        if lane.len() == held {
            break;
        }
    }
    Ok(readiness)
}

/// The moment that a capture waits for.
fn until(readiness: Readiness) -> Option<Instant> {
    match readiness {
        Readiness::Until(moment) => Some(moment),
        _ => None,
    }
}

/// Two ordered streams of frames on their way to be one.
struct Merge {
    lanes: [Lane; 2],
    /// How long an older frame can stay hidden in the other ring.
    patience: Duration,
}

impl Merge {
    fn new(patience: Duration) -> Self {
        Self { lanes: [Lane::new(), Lane::new()], patience }
    }

    /// Gives up to `budget` frames to `each`, oldest first, while it is sure that none older can come.
    fn give(&mut self, now: Instant, budget: usize, each: &mut dyn FnMut(&Frame<'_>)) -> usize {
        let patience = self.patience;
        for given in 0..budget {
            let Some((older, newer)) = self.oldest_first() else { return given };
            let may_hide_an_older = newer.is_empty()
                && older.oldest_arrival().is_some_and(|arrival| now.saturating_duration_since(arrival) < patience);
            if may_hide_an_older && older.has_room() {
                return given;
            }
            older.pop(each);
        }
        budget
    }

    /// Gives everything to `each`, oldest first: nothing older can come any more.
    fn give_all(&mut self, each: &mut dyn FnMut(&Frame<'_>)) {
        while let Some((older, _)) = self.oldest_first() {
            older.pop(each);
        }
    }

    /// When the oldest frame may go even if the other direction stays silent.
    fn deadline(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(Lane::oldest_arrival).min()?.checked_add(self.patience)
    }

    /// The lane with the oldest frame, and the other one; `None` when both are empty. At the same time, what was
    /// received goes first: it may be what the sent frame answers.
    fn oldest_first(&mut self) -> Option<(&mut Lane, &mut Lane)> {
        let [received, sent] = &mut self.lanes;
        match (received.oldest(), sent.oldest()) {
            (None, None) => None,
            (Some(_), None) => Some((received, sent)),
            (Some(one), Some(other)) if one <= other => Some((received, sent)),
            (_, Some(_)) => Some((sent, received)),
        }
    }
}

/// Frames of one direction, copied, in order. Its memory is claimed once.
struct Lane {
    bytes: Vec<u8>,
    /// Each with the moment it was taken out of the ring.
    frames: VecDeque<(Instant, Held)>,
}

impl Lane {
    const BYTES: usize = 4 * LARGEST_FRAME;
    const FRAMES: usize = 4096;

    fn new() -> Self {
        Self { bytes: Vec::with_capacity(Self::BYTES), frames: VecDeque::with_capacity(Self::FRAMES) }
    }

    fn len(&self) -> usize {
        self.frames.len()
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether one more frame fits, however large.
    fn has_room(&self) -> bool {
        self.frames.len() < Self::FRAMES && self.bytes.len() - self.unused() + LARGEST_FRAME <= Self::BYTES
    }

    fn oldest(&self) -> Option<Timestamp> {
        self.frames.front().map(|(_, frame)| frame.timestamp())
    }

    fn oldest_arrival(&self) -> Option<Instant> {
        self.frames.front().map(|&(arrival, _)| arrival)
    }

    fn push(&mut self, frame: &Frame<'_>, now: Instant) {
        if self.bytes.len() + frame.bytes.len() > Self::BYTES {
            self.move_to_front();
        }
        self.frames.push_back((now, Held::copy(frame, &mut self.bytes)));
    }

    fn pop(&mut self, each: &mut dyn FnMut(&Frame<'_>)) {
        if let Some((_, held)) = self.frames.pop_front() {
            each(&held.frame(&self.bytes));
        }
        if self.frames.is_empty() {
            self.bytes.clear();
        }
    }

    /// Bytes before the oldest frame, where others were.
    fn unused(&self) -> usize {
        self.frames.front().map_or(self.bytes.len(), |(_, oldest)| oldest.start())
    }

    /// Makes room behind the newest frame out of what is unused before the oldest.
    fn move_to_front(&mut self) {
        let unused = self.unused();
        self.bytes.drain(..unused);
        for (_, frame) in &mut self.frames {
            frame.moved_down(unused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{InterfaceId, Offload};
    use crate::quantity::Direction;
    use proptest::prelude::*;

    const PATIENCE: Duration = Duration::from_millis(2);

    fn frame(bytes: &[u8], at: u64, direction: Direction) -> Frame<'_> {
        Frame {
            bytes,
            wire_len: 60,
            timestamp: Timestamp::from_nanos(at),
            direction: Some(direction),
            interface: InterfaceId(3),
            origin: None,
            offload: Offload::Whole,
            has_restored_tag: false,
            refused: None,
        }
    }

    fn given(merge: &mut Merge, now: Instant, budget: usize) -> Vec<(u64, Direction)> {
        let mut given = Vec::new();
        let count = merge.give(now, budget, &mut |frame| {
            given.extend(frame.direction.map(|direction| (frame.timestamp.nanos(), direction)));
        });
        assert_eq!(count, given.len());
        given
    }

    #[test]
    fn a_response_that_is_seen_first_waits_for_its_request() {
        let (mut merge, start) = (Merge::new(PATIENCE), Instant::now());
        merge.lanes[1].push(&frame(b"response", 20, Direction::Out), start);
        assert_eq!(given(&mut merge, start, 8), []);
        assert_eq!(merge.deadline(), Some(start + PATIENCE));

        merge.lanes[0].push(&frame(b"request", 10, Direction::In), start);
        assert_eq!(given(&mut merge, start, 8), [(10, Direction::In)]);
        assert_eq!(given(&mut merge, start + PATIENCE, 8), [(20, Direction::Out)]);
        assert_eq!(merge.deadline(), None);
    }

    #[test]
    fn a_budget_is_kept() {
        let (mut merge, start) = (Merge::new(PATIENCE), Instant::now());
        for at in 0..5 {
            merge.lanes[0].push(&frame(b"frame", at, Direction::In), start);
        }
        assert_eq!(given(&mut merge, start + PATIENCE, 3).len(), 3);
        assert_eq!(given(&mut merge, start + PATIENCE, 3).len(), 2);
    }

    #[test]
    fn a_full_lane_does_not_wait() {
        let (mut merge, start) = (Merge::new(PATIENCE), Instant::now());
        let large = vec![7; LARGEST_FRAME];
        let mut pushed = 0;
        while merge.lanes[0].has_room() {
            merge.lanes[0].push(&frame(&large, pushed, Direction::In), start);
            pushed += 1;
        }
        assert!(!given(&mut merge, start, 1).is_empty());
        assert!(merge.lanes[0].bytes.capacity() < Lane::BYTES + LARGEST_FRAME);
    }

    proptest! {
        /// However late each direction shows its frames, within the patience: they come out complete, unharmed and in
        /// the order of their timestamps.
        #[test]
        fn order_and_bytes_survive(
            frames in proptest::collection::vec((any::<bool>(), 0_u64..2_000_000, 1_u64..400_000), 1..200),
            turn in 1_u64..500_000,
        ) {
            let start = Instant::now();
            let mut clock = 0;
            // Each lane shows its frames late, in order, and never later than the patience.
            let mut last_shown = [0; 2];
            let mut shown: Vec<(u64, usize, u64)> = frames.iter().map(|&(sent, delay, gap)| {
                clock += gap;
                let lane = usize::from(sent);
                last_shown[lane] = last_shown[lane].max(clock + delay);
                (last_shown[lane], lane, clock)
            }).collect();
            let expected: Vec<u64> = shown.iter().map(|&(.., at)| at).collect();
            shown.sort_by_key(|&(when, ..)| when);

            let mut merge = Merge::new(PATIENCE);
            let (mut out, mut time) = (Vec::new(), 0);
            let mut waiting = shown.iter().peekable();
            while out.len() < expected.len() {
                time += turn;
                let now = start + Duration::from_nanos(time);
                while let Some((_, lane, at)) = waiting.next_if(|&&(when, ..)| when <= time) {
                    merge.lanes[*lane].push(&frame(&at.to_be_bytes(), *at, Direction::In), now);
                }
                merge.give(now, 7, &mut |frame| {
                    assert_eq!(frame.bytes, frame.timestamp.nanos().to_be_bytes());
                    out.push(frame.timestamp.nanos());
                });
            }
            prop_assert_eq!(out, expected);
        }
    }
}
