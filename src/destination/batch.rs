//! Datagrams on their way to one engine: tunnel header and frame, back to back in memory that is claimed once.

use crate::flow::FlowHash;
use crate::frame::WireFrame;
use crate::quantity::Timestamp;
use crate::sys::mmsg;

/// Most datagrams of a batch: what comes in 2 ms at half a million frames a second, so that runs of them are long.
pub const MOST_DATAGRAMS: usize = 1024;
/// Bytes of all datagrams of a batch together: 1,000 of 1,550 bytes, and always the largest that fits an IP packet.
pub const MOST_BYTES: usize = 1536 << 10;

/// Datagrams on their way to one engine, each with its flow bucket.
#[derive(Debug)]
pub struct Batch {
    /// All datagrams, one behind the other. Untouched pages cost nothing: the kernel gives them on first use.
    bytes: Vec<u8>,
    used: usize,
    datagrams: Vec<Datagram>,
}

/// One datagram of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    start: usize,
    len: usize,
    /// Which of the engine's sockets sends it: the same for all frames of a flow.
    pub bucket: u32,
    flow: FlowHash,
    /// Whether the frame was cut to fit the path MTU.
    pub cut: bool,
    /// When the frame was captured.
    pub timestamp: Timestamp,
}

impl Datagram {
    /// Length of tunnel header and frame in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { bytes: vec![0; MOST_BYTES], used: 0, datagrams: Vec::with_capacity(MOST_DATAGRAMS) }
    }

    /// How many datagrams wait.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Whether a datagram of `len` bytes still fits. An empty batch has room for every datagram that fits an IP packet.
    pub fn has_room_for(&self, len: usize) -> bool {
        self.datagrams.len() < MOST_DATAGRAMS && len <= self.bytes.len() - self.used
    }

    /// Copies `frame` behind `header_len` bytes of room and lends that room for the tunnel header: the one copy of a
    /// frame's life. `None` when there is no room left.
    pub fn push(&mut self, header_len: usize, frame: &WireFrame<'_>, bucket: u32, cut: bool) -> Option<&mut [u8]> {
        let (start, len) = (self.used, header_len + frame.len());
        if !self.has_room_for(len) {
            return None;
        }
        let (header, rest) = self.bytes.get_mut(start..start + len)?.split_at_mut(header_len);
        frame.copy_to(rest);
        self.used += len;
        self.datagrams.push(Datagram { start, len, bucket, flow: frame.flow, cut, timestamp: frame.timestamp });
        Some(header)
    }

    /// Puts the datagrams of each bucket side by side, in the order in which they came.
    pub fn group_by_bucket(&mut self) {
        // `start` rises with every push, so an unstable sort keeps the order and needs no memory.
        self.datagrams.sort_unstable_by_key(|datagram| (datagram.bucket, datagram.start));
    }

    /// After [`group_by_bucket`](Self::group_by_bucket): brings equally long datagrams of a bucket side by side, as far as
    /// each flow keeps its order.
    pub fn group_by_length(&mut self) {
        for bucket in self.datagrams.chunk_by_mut(|one, next| one.bucket == next.bucket) {
            // What leaves with one call is looked at together: the effort for a datagram has a bound.
            bucket.chunks_mut(mmsg::MOST).for_each(group_by_length);
        }
    }

    /// The datagrams, in the order in which they came, or grouped.
    pub fn datagrams(&self) -> &[Datagram] {
        &self.datagrams
    }

    /// Lends the beginning of each datagram, in the order of [`datagrams`](Self::datagrams), to be changed.
    pub fn each_header(&mut self, each: &mut dyn FnMut(&mut [u8])) {
        for datagram in &self.datagrams {
            each(self.bytes.get_mut(datagram.start..datagram.start + datagram.len).unwrap_or_default());
        }
    }

    /// Tunnel header and frame of one of this batch's datagrams.
    pub fn bytes_of(&self, datagram: &Datagram) -> &[u8] {
        self.bytes.get(datagram.start..datagram.start + datagram.len).unwrap_or_default()
    }

    /// Keeps the first `count` datagrams and returns how many that took away.
    pub fn truncate(&mut self, count: usize) -> usize {
        let taken = self.datagrams.len().saturating_sub(count);
        self.datagrams.truncate(count);
        self.used = self.datagrams.iter().map(|datagram| datagram.start + datagram.len).max().unwrap_or(0);
        taken
    }

    /// Forgets all datagrams and keeps the memory.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.used = 0;
    }
}

/// Behind the first datagram put all that are as long and overtake none of their own flow; then the same with the rest.
fn group_by_length(datagrams: &mut [Datagram]) {
    let mut rest = datagrams;
    while let Some(len) = rest.first().map(Datagram::len) {
        let mut grouped = 1;
        // One bit for the flows of all that are passed over. Flows that share a bit only stay where they are; the low
        // bits of the hash are free, as buckets use the high ones.
        let mut passed = 0_u64;
        for position in 1..rest.len() {
            let flow = 1 << (rest[position].flow.0 % u64::from(u64::BITS));
            if rest[position].len == len && passed & flow == 0 {
                rest[grouped..=position].rotate_right(1);
                grouped += 1;
            } else {
                passed |= flow;
            }
        }
        rest = &mut rest[grouped..];
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::testing::frame;
    use super::*;

    #[test]
    fn a_datagram_is_header_and_frame_back_to_back() {
        let mut batch = Batch::new();
        batch.push(4, &frame(b"first frame"), 0, false).unwrap().copy_from_slice(b"head");
        batch.push(4, &frame(b"second frame"), 0, false).unwrap().copy_from_slice(b"HEAD");
        let bytes: Vec<_> = batch.datagrams().iter().map(|datagram| batch.bytes_of(datagram)).collect();
        assert_eq!(bytes, [&b"headfirst frame"[..], b"HEADsecond frame"]);
    }

    #[test]
    fn grouping_keeps_the_order_inside_a_bucket() {
        let mut batch = Batch::new();
        for number in 0..=255_u8 {
            batch.push(0, &frame(&[number; 20]), u32::from(number % 7), false).unwrap();
        }
        batch.group_by_bucket();
        let seen: Vec<(u32, u8)> =
            batch.datagrams().iter().map(|datagram| (datagram.bucket, batch.bytes_of(datagram)[0])).collect();
        let mut expected: Vec<(u32, u8)> = (0..=255).map(|number: u8| (u32::from(number % 7), number)).collect();
        expected.sort_by_key(|&(bucket, _)| bucket);
        assert_eq!(seen, expected);
    }

    proptest! {
        #[test]
        fn grouping_by_length_changes_the_order_of_no_flow(datagrams in vec((0..4_u32, 0..5_u32, 2..5_usize), 0..300)) {
            let mut batch = Batch::new();
            for (number, &(bucket, flow, len)) in (0_u16..).zip(&datagrams) {
                let [high, low] = number.to_be_bytes();
                let bytes = &[high, low, 0, 0][..len];
                // Flows 3 and 67 share a bit.
                let flow = FlowHash(if flow == 4 { 67 } else { flow.into() });
                batch.push(0, &WireFrame { flow, ..frame(bytes) }, bucket, false).unwrap();
            }
            batch.group_by_bucket();
            let before = batch.datagrams().to_vec();
            batch.group_by_length();
            let after = batch.datagrams().to_vec();

            prop_assert!(after.is_sorted_by_key(|datagram| datagram.bucket));
            let of_flow = |all: &[Datagram], flow, bucket| -> Vec<Datagram> {
                all.iter().filter(|one| (one.flow, one.bucket) == (flow, bucket)).copied().collect()
            };
            for one in &before {
                prop_assert_eq!(of_flow(&before, one.flow, one.bucket), of_flow(&after, one.flow, one.bucket));
            }
        }
    }

    #[test]
    fn flows_in_step_are_grouped_by_length() {
        let mut batch = Batch::new();
        for (flow, len) in [(1, 60), (1, 90), (2, 60), (3, 90), (2, 90), (3, 60), (1, 60)] {
            batch.push(0, &WireFrame { flow: FlowHash(flow), ..frame(&[0; 99][..len]) }, 0, false).unwrap();
        }
        batch.group_by_length();
        let seen: Vec<_> = batch.datagrams().iter().map(|datagram| (datagram.flow.0, datagram.len)).collect();
        assert_eq!(seen, [(1, 60), (2, 60), (1, 90), (3, 90), (2, 90), (3, 60), (1, 60)]);
    }

    #[test]
    fn a_batch_is_full_by_number_or_by_bytes_and_empty_again_after_clear() {
        let mut batch = Batch::new();
        for _ in 0..MOST_DATAGRAMS {
            batch.push(8, &frame(&[0; 60]), 0, false).unwrap();
        }
        assert!(batch.push(8, &frame(&[0; 60]), 0, false).is_none());
        batch.clear();

        let largest = vec![0; 65_507];
        for _ in 0..MOST_BYTES / 65_515 {
            batch.push(8, &frame(&largest), 0, false).unwrap();
        }
        assert!(!batch.has_room_for(65_515));
        batch.clear();
        assert!(batch.has_room_for(65_515));
    }

    #[test]
    fn truncating_gives_the_room_back() {
        let (mut batch, large) = (Batch::new(), vec![7; 64 << 10]);
        for _ in 0..MOST_BYTES / large.len() {
            batch.push(0, &frame(&large), 0, false).unwrap();
        }
        assert!(!batch.has_room_for(1));
        assert_eq!(batch.truncate(3), MOST_BYTES / large.len() - 3);
        assert_eq!(batch.len(), 3);
        assert!(batch.has_room_for(5 * large.len()));
        assert_eq!(batch.truncate(10), 0);
    }
}
