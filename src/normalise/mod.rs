//! Makes frames wire-true: super-frames become the segments that the wire carried, partial checksums are finished,
//! everything else stays byte for byte.

mod admission;
#[cfg(test)]
mod against_linux;
mod checksum;
mod foreign;
mod super_frame;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::ops::ControlFlow;

pub use admission::Admission;

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
    admission: Admission,
    /// Whether frames were recorded elsewhere: other systems than Linux leave other things to their hardware.
    foreign: bool,
    /// Rewritten headers of the wire frame at hand.
    headers: HeaderBuffer,
}

impl Normaliser {
    /// Cuts wire frames to `truncate` bytes, last of all.
    pub fn new(truncate: Option<Snaplen>) -> Self {
        Self { truncate, admission: Admission::default(), foreign: false, headers: [0; MOST_HEADERS] }
    }

    /// The same, which cuts the super-frames that `admission` admits.
    #[must_use]
    pub fn admitting(self, admission: Admission) -> Self {
        Self { admission, ..self }
    }

    /// The same for frames that were recorded or received, where `foreign`: what the offloads of other systems than Linux
    /// leave undone is finished too.
    #[must_use]
    pub fn of_foreign(self, foreign: bool) -> Self {
        Self { foreign, ..self }
    }

    /// Gives the wire frames of `frame` to `each`, in the order of the wire, until that breaks off, and returns how many
    /// there are. What had to be rewritten is counted in `rewritten`: a super-frame once, whatever became of its checksum,
    /// and every other frame whose partial checksum was finished.
    ///
    /// # Errors
    /// The reason why nothing of the frame can be mirrored; `each` was not called then.
    pub fn apply(
        &mut self,
        frame: &Frame<'_>,
        layers: &Layers,
        flow: FlowHash,
        rewritten: &mut Rewritten,
        mut each: impl FnMut(&WireFrame<'_>) -> ControlFlow<()>,
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
                let Self { admission, headers, .. } = self;
                let segments = super_frame::segment_exactly(&whole, size, transport, admission, headers, offer);
                return counted(segments, rewritten);
            }
            Offload::Unknown { mtu } if super_frame::is_super_frame(&whole, mtu) => {
                let segments =
                    super_frame::segment(&whole, (mtu, self.foreign), &self.admission, &mut self.headers, offer);
                return counted(segments, rewritten);
            }
            Offload::Exact(Unfinished { segment: None, checksum }) => {
                checksum.and_then(|at| checksum::at(frame.bytes, layers.ip, at))
            }
            Offload::Unknown { .. } => {
                layers.ip.and_then(|packet| checksum::unfinished(frame.bytes, packet, self.foreign))
            }
            Offload::Whole => None,
        };
        let finished = if self.foreign && matches!(frame.offload, Offload::Unknown { .. }) {
            self.write_foreign(&whole, finish.as_ref())
        } else {
            self.write_checksum(&whole, finish.as_ref())
        };
        rewritten.checksums += u64::from(finished.is_some());
        // It is the only one: whether more are wanted is the next frame's matter.
        let _ = offer(finished.as_ref().unwrap_or(&whole));
        Ok(1)
    }

    /// The frame with `finish` written; `None` when there is none to write, or the frame was cut.
    fn write_checksum<'a>(
        &'a mut self,
        whole: &WireFrame<'a>,
        finish: Option<&checksum::Finish>,
    ) -> Option<WireFrame<'a>> {
        let finish = finish?;
        self.write(whole, finish.headers, |_| (), Some(finish))
    }

    /// The same for a frame of another system, also with what its IPv4 header lacks. Out of line: frames of live captures do
    /// not come here.
    #[inline(never)]
    fn write_foreign<'a>(
        &'a mut self,
        whole: &WireFrame<'a>,
        finish: Option<&checksum::Finish>,
    ) -> Option<WireFrame<'a>> {
        match whole.layers.ip.and_then(|packet| foreign::Ipv4::left_undone(whole.body, &packet)) {
            Some(ip) => self.write(whole, ip.headers(finish), |head| ip.finish(head), finish),
            None => self.write_checksum(whole, finish),
        }
    }

    /// The frame with its first `headers` bytes rewritten: by `edit`, then by `finish`.
    fn write<'a>(
        &'a mut self,
        whole: &WireFrame<'a>,
        headers: usize,
        edit: impl FnOnce(&mut [u8]),
        finish: Option<&checksum::Finish>,
    ) -> Option<WireFrame<'a>> {
        let (headers, body) = whole.body.split_at_checked(headers).filter(|_| !whole.is_truncated())?;
        let head = self.headers.get_mut(..headers.len())?;
        head.copy_from_slice(headers);
        edit(head);
        if let Some(finish) = finish {
            head.get_mut(finish.field..finish.field + 2)?.copy_from_slice(&finish.checksum.to_be_bytes());
        }
        Some(WireFrame { head, body, ..*whole })
    }
}

/// The segments of a super-frame, or why it is not cut.
fn counted(segments: Result<u64, DropReason>, rewritten: &mut Rewritten) -> Result<u64, DropReason> {
    rewritten.super_frames += u64::from(segments.is_ok());
    segments
}
