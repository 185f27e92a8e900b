//! Sequence numbers of GRE and ERSPAN: one counter for each id of a destination, shared by the workers of its session.
//!
//! A number is given out when its datagram is about to leave, for all that wait at once: one atomic addition a batch, and
//! what several workers send interleaves by whole batches. Until then the header's field says which counter it asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The counters of one destination, in the order of its ids.
#[derive(Clone, Debug)]
pub struct Counters(Arc<[AtomicU32]>);

impl Counters {
    /// `ids` counters. RFC 2890 section 2.2: each starts at 0, goes up by one, wraps.
    pub(super) fn new(ids: usize) -> Self {
        Self((0..ids).map(|_| AtomicU32::new(0)).collect())
    }

    /// How many ids it counts for.
    pub(super) fn ids(&self) -> usize {
        self.0.len()
    }
}

/// Numbers the datagrams of one worker.
#[derive(Debug)]
pub(super) struct Numbering {
    /// Where the number is in a tunnel header.
    at: usize,
    counters: Counters,
    /// By counter: headers that were written since numbers were last given out.
    asked: Vec<u32>,
    /// By counter: the next number of those given out.
    next: Vec<u32>,
}

impl Numbering {
    /// For headers whose number is at offset `at`.
    pub(super) fn new(at: usize, counters: Counters) -> Self {
        let (asked, next) = (vec![0; counters.0.len()], vec![0; counters.0.len()]);
        Self { at, counters, asked, next }
    }

    /// The counters, for other workers.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts from the same counters as others do.
    pub(super) fn share(&mut self, counters: Counters) {
        self.counters = counters;
    }

    /// What a header holds in place of its number until [`give_out`](Self::give_out): its counter.
    pub(super) fn ask(&mut self, counter: usize) -> u32 {
        // While no batch leaves, because the next hop does not answer, more may ask than there are numbers.
        self.asked[counter] = self.asked[counter].saturating_add(1);
        u32::try_from(counter).unwrap_or(0)
    }

    /// Takes numbers for every header that asked. A frame that was dropped meanwhile has one too, the last of them, so
    /// that whoever counts at the other end sees the loss.
    pub(super) fn give_out(&mut self) {
        for ((next, asked), counter) in self.next.iter_mut().zip(&mut self.asked).zip(&*self.counters.0) {
            if *asked > 0 {
                *next = counter.fetch_add(*asked, Ordering::Relaxed);
                *asked = 0;
            }
        }
    }

    /// Writes the next number into `header`, which asked.
    pub(super) fn number(&mut self, header: &mut [u8]) {
        let Some(field) = header.get_mut(self.at..).and_then(<[u8]>::first_chunk_mut::<4>) else { return };
        if let Some(next) = self.next.get_mut(u32::from_be_bytes(*field) as usize) {
            *field = next.to_be_bytes();
            *next = next.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for one number of each counter in turn and returns what the headers hold then.
    fn numbers(numbering: &mut Numbering, counters: &[usize]) -> Vec<u32> {
        let mut headers: Vec<[u8; 8]> =
            counters.iter().map(|&counter| (u64::from(numbering.ask(counter)) << 16).to_be_bytes()).collect();
        numbering.give_out();
        for header in &mut headers {
            numbering.number(header);
        }
        headers.iter().map(|header| u32::from_be_bytes(header[2..6].try_into().unwrap())).collect()
    }

    #[test]
    fn each_id_counts_for_itself_over_batches_and_workers_and_wraps() {
        let counters = Counters::new(2);
        let mut first = Numbering::new(2, counters.clone());
        let mut second = Numbering::new(2, Counters::new(2));
        second.share(first.counters().clone());
        assert_eq!(numbers(&mut first, &[0, 1, 0]), [0, 0, 1]);
        assert_eq!(numbers(&mut second, &[1, 0]), [1, 2]);
        counters.0[0].store(u32::MAX, Ordering::Relaxed);
        assert_eq!(numbers(&mut first, &[0, 0, 0, 1]), [u32::MAX, 0, 1, 2]);
    }

    #[test]
    fn more_may_be_dropped_than_there_are_numbers() {
        let mut numbering = Numbering::new(2, Counters::new(1));
        numbering.asked[0] = u32::MAX;
        assert_eq!(numbers(&mut numbering, &[0, 0, 0]), [0, 1, 2]);
        assert_eq!(numbers(&mut numbering, &[0]), [u32::MAX]);
    }

    #[test]
    fn a_dropped_frame_leaves_a_gap() {
        let mut numbering = Numbering::new(0, Counters::new(1));
        let mut header = numbering.ask(0).to_be_bytes();
        numbering.ask(0); // dropped
        numbering.give_out();
        numbering.number(&mut header);
        assert_eq!(header, [0; 4]);
        let mut header = numbering.ask(0).to_be_bytes();
        numbering.give_out();
        numbering.number(&mut header);
        assert_eq!(header, [0, 0, 0, 2]);
    }
}
