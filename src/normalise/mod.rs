//! Makes frames wire-true: super-frames become the segments that the wire carried, partial checksums are finished,
//! everything else stays byte for byte.

#[cfg(test)]
mod against_linux;
mod checksum;
mod super_frame;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use crate::flow::FlowHash;
use crate::frame::{Frame, Offload, Unfinished, WireFrame};
use crate::ledger::{DropReason, Rewritten};
use crate::quantity::Snaplen;
use crate::wire::edit::{HeaderBuffer, MOST_HEADERS};
use crate::wire::layers::Layers;

/// Turns one captured frame into any number of wire frames.
#[derive(Debug)]
pub struct Normaliser {
    truncate: Option<Snaplen>,
    /// Rewritten headers of the wire frame at hand.
    headers: HeaderBuffer,
}

impl Normaliser {
    /// Cuts wire frames to `truncate` bytes, last of all.
    pub fn new(truncate: Option<Snaplen>) -> Self {
        Self { truncate, headers: [0; MOST_HEADERS] }
    }

    /// Gives the wire frames of `frame` to `each`, in the order of the wire, and returns how many. What had to be
    /// rewritten is counted in `rewritten`: a super-frame once, whatever became of its checksum, and every other frame
    /// whose partial checksum was finished.
    ///
    /// # Errors
    /// The reason why nothing of the frame can be mirrored; `each` was not called then.
    pub fn apply(
        &mut self,
        frame: &Frame<'_>,
        layers: &Layers,
        flow: FlowHash,
        rewritten: &mut Rewritten,
        mut each: impl FnMut(&WireFrame<'_>),
    ) -> Result<u64, DropReason> {
        let truncate = self.truncate.map(|snaplen| snaplen.value() as usize);
        let mut offer = |wire: &WireFrame<'_>| match truncate {
            Some(keep) => each(&wire.truncated(keep)),
            None => each(wire),
        };
        let whole = WireFrame {
            head: &[],
            body: frame.bytes,
            wire_len: frame.wire_len,
            layers: *layers,
            flow,
            timestamp: frame.timestamp,
            direction: frame.direction,
            interface: frame.interface,
            origin: frame.origin,
        };
        let finish = match frame.offload {
            Offload::Exact(Unfinished { segment: Some(size), checksum }) => {
                let (size, transport) = (usize::from(size.get()), checksum.map(|at| usize::from(at.start)));
                let segments = super_frame::segment_exactly(&whole, size, transport, &mut self.headers, offer);
                return counted(segments, rewritten);
            }
            Offload::Unknown { mtu } if super_frame::is_super_frame(&whole, mtu) => {
                return counted(super_frame::segment(&whole, mtu, &mut self.headers, offer), rewritten);
            }
            Offload::Exact(Unfinished { segment: None, checksum }) => {
                checksum.and_then(|at| checksum::at(frame.bytes, layers.ip, at))
            }
            Offload::Unknown { .. } => layers.ip.and_then(|packet| checksum::unfinished(frame.bytes, packet)),
            Offload::Whole => None,
        };
        let finished = self.write_checksum(&whole, finish);
        rewritten.checksums += u64::from(finished.is_some());
        offer(finished.as_ref().unwrap_or(&whole));
        Ok(1)
    }

    /// The frame with `finish` written; `None` when there is none to write, or the frame was cut.
    fn write_checksum<'a>(
        &'a mut self,
        whole: &WireFrame<'a>,
        finish: Option<checksum::Finish>,
    ) -> Option<WireFrame<'a>> {
        let finish = finish.filter(|_| !whole.is_truncated())?;
        let (headers, body) = whole.body.split_at_checked(finish.headers)?;
        let head = self.headers.get_mut(..headers.len())?;
        head.copy_from_slice(headers);
        head.get_mut(finish.field..finish.field + 2)?.copy_from_slice(&finish.checksum.to_be_bytes());
        Some(WireFrame { head, body, ..*whole })
    }
}

/// The segments of a super-frame, or that it cannot be known how it is to be cut.
fn counted(segments: Option<u64>, rewritten: &mut Rewritten) -> Result<u64, DropReason> {
    rewritten.super_frames += u64::from(segments.is_some());
    segments.ok_or(DropReason::Unsegmentable)
}
