//! What happens to one frame between source and destinations.

use crate::destination::Destinations;
use crate::flow::FlowHash;
use crate::frame::Frame;
use crate::ledger::Ledger;
use crate::normalise::Normaliser;
use crate::select::{Selector, Verdict};
use crate::wire::layers::Layers;

/// The stages of one worker and the ledger they write.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) selector: Selector,
    pub(super) normaliser: Normaliser,
    pub(super) destinations: Destinations,
    pub(super) ledger: Ledger,
}

impl Path {
    /// Takes one frame all the way into the destinations' batches.
    pub(super) fn take(&mut self, frame: &Frame<'_>) {
        let Self { selector, normaliser, destinations, ledger } = self;
        ledger.captured += 1;

        let layers = Layers::parse(frame.bytes);
        if let Verdict::Drop(reason) = selector.decide(frame, &layers) {
            ledger.not_selected[reason] += 1;
            return;
        }

        let flow = FlowHash::of(frame.bytes, &layers);
        // Counted beside the ledger, which the destinations have meanwhile.
        let mut rewritten = ledger.rewritten;
        rewritten.tags += u64::from(frame.has_restored_tag);
        match normaliser.apply(frame, &layers, flow, &mut rewritten, |wire| destinations.offer(wire, ledger)) {
            Ok(wire_frames) => ledger.segments_added += wire_frames - 1,
            Err(reason) => ledger.not_normalised[reason] += 1,
        }
        ledger.rewritten = rewritten;
    }
}
