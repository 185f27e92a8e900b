//! A frame that has to wait inside its source: copied out of libpcap's memory.

use std::ops::Range;

use crate::frame::{Frame, InterfaceId, Offload, Origin};
use crate::quantity::{Direction, Timestamp};

/// Everything of a frame but its bytes, which stand in memory that its keeper owns.
#[derive(Clone, Debug)]
pub(super) struct Held {
    range: Range<usize>,
    wire_len: u32,
    timestamp: Timestamp,
    direction: Option<Direction>,
    interface: InterfaceId,
    origin: Option<Origin>,
    offload: Offload,
}

impl Held {
    /// Copies `frame` behind what `memory` holds already.
    pub fn copy(frame: &Frame<'_>, memory: &mut Vec<u8>) -> Self {
        let start = memory.len();
        memory.extend_from_slice(frame.bytes);
        let &Frame { wire_len, timestamp, direction, interface, offload, .. } = frame;
        let (range, origin) = (start..memory.len(), frame.origin.copied());
        Self { range, wire_len, timestamp, direction, interface, origin, offload }
    }

    /// The frame again. `memory` is what it was copied to.
    pub fn frame<'a>(&'a self, memory: &'a [u8]) -> Frame<'a> {
        let &Self { wire_len, timestamp, direction, interface, offload, .. } = self;
        // The range lies inside as long as the keeper shrinks its memory only together with its frames.
        let bytes = memory.get(self.range.clone()).unwrap_or_default();
        Frame {
            bytes,
            wire_len,
            timestamp,
            direction,
            interface,
            origin: self.origin.as_ref(),
            offload,
            has_restored_tag: false,
            refused: None,
        }
    }

    /// Where its bytes begin.
    pub fn start(&self) -> usize {
        self.range.start
    }

    /// When it was captured.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Its bytes stand `distance` nearer to the start of the memory now.
    pub fn moved_down(&mut self, distance: usize) {
        self.range = self.range.start - distance..self.range.end - distance;
    }
}
