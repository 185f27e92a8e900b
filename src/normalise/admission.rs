//! Which super-frames are cut: work is bounded by the wire frames that are made, not by the frames that are captured.
//!
//! Whoever can send a super-frame into a mirrored interface (a container with `CAP_NET_RAW`, a guest's virtio queue) says
//! how small its segments are. One frame of 60,000 bytes becomes 60,000 segments of one byte. What is made for such
//! frames would be taken from all others: the capture buffer overflows, and the kernel drops whatever comes.

use std::time::Duration;

use crate::ledger::DropReason;
use crate::quantity::{SegmentLimit, Timestamp};
use crate::wire::layers::TCP;

/// Smallest segment of TCP that Linux makes: `TCP_MIN_GSO_SIZE` (include/net/tcp.h).
const LEAST_TCP_SEGMENT: usize = 8;
/// Most smaller ones that the kernel joins on receive, and that were each sent so: what GRO takes in one poll of the
/// interface (`NAPI_POLL_WEIGHT`, include/linux/netdevice.h).
const MOST_JOINED: usize = 64;
/// Payload of the smallest segments that ordinary connections use: the default MSS of 536 bytes (RFC 9293 section 3.7.1)
/// less 40 bytes of options.
const ORDINARY_SEGMENT: usize = 496;
/// So many smaller segments of one super-frame are little work.
const FEW: usize = 16;
/// A worker that is later than this, beyond what frames wait in the capture buffer, does not keep up.
const LATE: Duration = Duration::from_millis(25);

/// Decides about each super-frame before its first segment is made.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// Most segments of one super-frame; `None` is no limit.
    max_segments: Option<SegmentLimit>,
    /// Age, in nanoseconds, at which a frame says that the worker is late.
    late_after: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(Some(SegmentLimit::DEFAULT), Duration::ZERO)
    }
}

impl Admission {
    /// Refuses super-frames of more than `max_segments` segments; `delay` is how long the kernel may keep a captured
    /// frame.
    pub fn new(max_segments: Option<SegmentLimit>, delay: Duration) -> Self {
        /// A worker lets frames come together for so many times `delay` where CPU time is short.
        const LONGEST_WAIT: u32 = 5;
        let late_after = (LATE + LONGEST_WAIT * delay).as_nanos();
        Self { max_segments, late_after: u64::try_from(late_after).unwrap_or(u64::MAX) }
    }

    /// Whether a super-frame that fills the interface's MTU with each of its `pieces` is cut.
    ///
    /// # Errors
    /// `TooManySegments`.
    pub(super) fn of_unknown(&self, pieces: usize) -> Result<(), DropReason> {
        let is_too_many = self.max_segments.is_some_and(|most| pieces > most.value() as usize);
        if is_too_many { Err(DropReason::TooManySegments) } else { Ok(()) }
    }

    /// Whether a super-frame of `protocol`, captured at `timestamp`, is cut into `pieces` of `size` bytes of payload, as its
    /// sender told. Reads the clock where that is many small ones.
    ///
    /// # Errors
    /// `Unsegmentable`: the kernel makes no such segments. `TooManySegments`. `SegmentOverload`: the worker is late, so that
    /// other frames are about to be lost.
    pub(super) fn of_told(
        &self,
        protocol: u8,
        size: usize,
        pieces: usize,
        timestamp: Timestamp,
    ) -> Result<(), DropReason> {
        if protocol == TCP && size < LEAST_TCP_SEGMENT && pieces > MOST_JOINED {
            return Err(DropReason::Unsegmentable);
        }
        self.of_unknown(pieces)?;
        let is_dense = size < ORDINARY_SEGMENT && pieces > FEW;
        if is_dense && self.is_late(timestamp, Timestamp::now()) {
            return Err(DropReason::SegmentOverload);
        }
        Ok(())
    }

    /// Whether a frame that was captured at `timestamp` comes late `now`.
    fn is_late(&self, timestamp: Timestamp, now: Timestamp) -> bool {
        now.nanos().saturating_sub(timestamp.nanos()) > self.late_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::layers::UDP;

    #[test]
    fn segments_that_the_kernel_never_makes_are_not_made_here() {
        let (admission, now) = (Admission::default(), Timestamp::now());
        assert_eq!(admission.of_told(TCP, 7, 65, now), Err(DropReason::Unsegmentable));
        assert_eq!(admission.of_told(TCP, 1, 60_000, now), Err(DropReason::Unsegmentable));
        assert_eq!(admission.of_told(TCP, 1, 64, now), Ok(()), "GRO joins what was sent byte by byte");
        assert_eq!(admission.of_told(TCP, 8, 65, now), Ok(()));
        assert_eq!(admission.of_told(UDP, 1, 128, now), Ok(()), "UDP_MAX_SEGMENTS of any size");
    }

    #[test]
    fn the_limit_is_the_operators() {
        let now = Timestamp::now();
        let told = |admission: Admission, pieces| admission.of_told(TCP, 8, pieces, now);
        assert_eq!(told(Admission::default(), 536), Ok(()));
        assert_eq!(told(Admission::default(), 537), Err(DropReason::TooManySegments));
        assert_eq!(Admission::default().of_unknown(537), Err(DropReason::TooManySegments));
        assert_eq!(told(Admission::new(None, Duration::ZERO), 7500), Ok(()));
        let ten = Admission::new(Some(SegmentLimit::new(10).unwrap()), Duration::ZERO);
        assert_eq!((told(ten, 10), told(ten, 11)), (Ok(()), Err(DropReason::TooManySegments)));
    }

    #[test]
    fn a_late_worker_makes_no_more_of_many_small_segments() {
        let admission = Admission::new(None, Duration::from_millis(2));
        let at = |age: u64| Timestamp::from_nanos(1_000_000_000 - age * 1_000_000);
        let now = Timestamp::from_nanos(1_000_000_000);
        assert!(!admission.is_late(at(35), now) && admission.is_late(at(36), now));
        assert!(!admission.is_late(Timestamp::from_nanos(2_000_000_000), now), "a clock that was set back");
        let long_ago = Timestamp::from_nanos(1);
        assert_eq!(admission.of_told(TCP, 120, 500, long_ago), Err(DropReason::SegmentOverload));
        assert_eq!(admission.of_told(TCP, 496, 500, long_ago), Ok(()), "an ordinary bulk transfer");
        assert_eq!(admission.of_told(TCP, 120, 16, long_ago), Ok(()), "little work");
    }
}
