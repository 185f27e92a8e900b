//! Frames that are larger than the path MTU allows.

use crate::config::plan::Fit;
use crate::frame::WireFrame;
use crate::ledger::DropReason;
use crate::wire::ip_fragment::Fragmenter;
use crate::wire::layers::{Fragment, Ip, Layers, TCP};
use crate::wire::nested::Nested;
use crate::wire::segment::{HeaderBuffer, MOST_HEADERS, Partial, Segmenter, is_signed};

/// Makes frames fit one destination's path.
#[derive(Debug)]
pub struct Fitter {
    policy: Fit,
    /// Rewritten headers of the piece at hand.
    headers: HeaderBuffer,
    /// Of the inner fragments that we make: one for each packet, so that only 65,536 packets later an IPv4
    /// identification comes again.
    identification: u32,
}

impl Fitter {
    /// Does what `policy` says with frames that are too large.
    pub fn new(policy: Fit) -> Self {
        Self { policy, headers: [0; MOST_HEADERS], identification: 0 }
    }

    /// Gives `frame`, or what it has to become so that no frame is longer than `room` bytes, to `each`, and returns
    /// how many frames that were. `room` is the path MTU without outer headers.
    ///
    /// A frame that is cut by [`Fit::Truncate`] says so by [`WireFrame::is_truncated`]. With [`Fit::Fragment`] frames
    /// pass as they are: the kernel fragments the outer packet.
    ///
    /// # Errors
    /// [`DropReason::Oversize`] when the frame may not or cannot be made to fit; `each` was not called then.
    pub fn fit(
        &mut self,
        frame: &WireFrame<'_>,
        room: usize,
        mut each: impl FnMut(&WireFrame<'_>),
    ) -> Result<u64, DropReason> {
        if frame.len() <= room || self.policy == Fit::Fragment {
            each(frame);
            return Ok(1);
        }
        match self.policy {
            Fit::Split => self.split(frame, room, each).ok_or(DropReason::Oversize),
            Fit::Truncate => {
                each(&frame.truncated(room));
                Ok(1)
            }
            Fit::Drop | Fit::Fragment => Err(DropReason::Oversize),
        }
    }

    /// TCP into segments, any other IP into fragments. `None`, before the first piece, when neither can be.
    fn split(&mut self, frame: &WireFrame<'_>, room: usize, mut each: impl FnMut(&WireFrame<'_>)) -> Option<u64> {
        let packet = frame.layers.ip.filter(|_| !frame.is_truncated())?;
        if packet.end <= room {
            // Only what stands behind the packet is too much: padding, or a trailer.
            let (head, body) = (frame.head, frame.body.get(..packet.end.checked_sub(frame.head.len())?)?);
            each(&WireFrame { head, body, wire_len: wire_len(head, body), ..*frame });
            return Some(1);
        }
        let offer = |head: &[u8], body: &[u8], piece: Ip| {
            let layers = Layers { ip: Some(piece), ..frame.layers };
            each(&WireFrame { head, body, wire_len: wire_len(head, body), layers, ..*frame });
        };
        if let Some((headers, payload)) = tcp_at_payload(frame, &packet) {
            // Its signature covers the segment as it is.
            if is_signed(&headers[packet.transport..]) {
                return None;
            }
            let nested = Nested::only(packet);
            if let Some(segmenter) = Segmenter::new(&mut self.headers, headers, payload, nested, Partial::Wrong) {
                return segmenter.cut(room, offer);
            }
        }
        self.identification = self.identification.wrapping_add(1);
        let fragmenter = Fragmenter::new(&mut self.headers, frame.head, frame.body, packet, self.identification)?;
        fragmenter.cut(room, offer)
    }
}

/// Headers up to the TCP payload, and what follows, of a packet that is TCP and no fragment.
fn tcp_at_payload<'a>(frame: &WireFrame<'a>, packet: &Ip) -> Option<(&'a [u8], &'a [u8])> {
    let payload = packet.payload.filter(|_| packet.protocol == TCP && packet.fragment == Fragment::Whole)?;
    match frame.head.len() {
        0 => frame.body.split_at_checked(payload),
        length => (length == payload).then_some((frame.head, frame.body)),
    }
}

/// A frame's length on the wire.
fn wire_len(head: &[u8], body: &[u8]) -> u32 {
    u32::try_from(head.len() + body.len()).unwrap_or(u32::MAX)
}
