//! Makes frames wire-true: super-frames become the segments that the wire carried, partial checksums are finished,
//! everything else stays byte for byte.

use crate::flow::FlowHash;
use crate::frame::{Frame, WireFrame};
use crate::ledger::{DropReason, Rewritten};
use crate::quantity::Snaplen;
use crate::wire::layers::Layers;

/// Turns one captured frame into any number of wire frames.
#[derive(Debug)]
pub struct Normaliser {
    truncate: Option<Snaplen>,
}

impl Normaliser {
    /// Cuts wire frames to `truncate` bytes, last of all.
    pub fn new(truncate: Option<Snaplen>) -> Self {
        Self { truncate }
    }

    /// Gives the wire frames of `frame` to `each`, in the order of the wire, and returns how many. What had to be
    /// rewritten is counted in `rewritten`.
    ///
    /// # Errors
    /// The reason why nothing of the frame can be mirrored; `each` was not called then.
    pub fn apply(
        &mut self,
        frame: &Frame<'_>,
        layers: &Layers,
        flow: FlowHash,
        rewritten: &mut Rewritten,
        each: impl FnMut(&WireFrame<'_>),
    ) -> Result<u64, DropReason> {
        let _ = (frame, layers, flow, rewritten, each, self.truncate);
        unimplemented!()
    }
}
