//! Which frames go on: questions asked in a fixed order, the first "no" is the frame's fate. Changes nothing.
//!
//! Filter and direction are asked in the kernel or in libpcap, before a frame is captured. What comes out of a tunnel
//! meets the filter in its source, which says so with the frame.

pub mod account;
pub mod all_tunnels;
pub mod feedback;
pub mod mirror_loop;
pub mod own_traffic;
pub mod sample;
pub mod shed;

use crate::config::plan::SamplePlan;
use crate::flow::{FlowHash, FlowKey};
use crate::frame::{Frame, Place};
use crate::ledger::DropReason;
use crate::wire::layers::Layers;
use feedback::Feedback;
use mirror_loop::MirrorLoop;
use own_traffic::{OwnTraffic, Sighting};
use sample::Sample;
use shed::Shed;

/// The answer for one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The frame goes on; its flow has this hash.
    Keep(FlowHash),
    /// The frame ends here.
    Drop(DropReason),
}

/// Asks the questions.
#[derive(Debug)]
pub struct Selector {
    own_traffic: OwnTraffic,
    /// Where the frames are seen that come now.
    place: Place,
    /// Decides, as the hash of each flow, what is sampled, shed and balanced.
    key: FlowKey,
    mirror_loop: MirrorLoop,
    /// `None`: nothing that is sent can come back.
    feedback: Option<Feedback>,
    /// `None`: every frame.
    sample: Option<Sample>,
    /// `None`: nothing is limited.
    shed: Option<Shed>,
}

impl Selector {
    /// A selector that keeps what `sample` says, but never our own tunnels. `key` is the key of the flow hash.
    pub fn new(own_traffic: OwnTraffic, key: FlowKey, sample: SamplePlan) -> Self {
        let (mirror_loop, feedback) = (MirrorLoop::default(), None);
        let place = Place::default();
        Self { own_traffic, place, key, mirror_loop, feedback, sample: Sample::of(sample), shed: None }
    }

    /// The same, which also recognises loops: by the content of frames, and with `feedback` by what the session sends.
    #[must_use]
    pub fn watching(self, mirror_loop: MirrorLoop, feedback: Option<Feedback>) -> Self {
        Self { mirror_loop, feedback, ..self }
    }

    /// What watches whether the output comes back, if anything does.
    pub fn feedback_mut(&mut self) -> Option<&mut Feedback> {
        self.feedback.as_mut()
    }

    /// Has flows left out from now on when there are too many: claims the memory for it.
    pub fn limit(&mut self) {
        self.shed.get_or_insert_default();
    }

    /// Which flows are left out, if any ever are.
    pub fn shed_mut(&mut self) -> Option<&mut Shed> {
        self.shed.as_mut()
    }

    /// Says where the next frames are seen.
    pub fn look_at(&mut self, place: Place) {
        self.place = place;
    }

    /// The recognition of own tunnels.
    pub fn own_traffic_mut(&mut self) -> &mut OwnTraffic {
        &mut self.own_traffic
    }

    /// Learns what changed around the session since the last turn.
    pub fn catch_up(&mut self) {
        self.own_traffic.catch_up();
        self.mirror_loop.catch_up();
    }

    /// Decides about one frame.
    pub fn decide(&mut self, frame: &Frame<'_>, layers: &Layers) -> Verdict {
        if let Some(reason) = self.refuses(frame, layers) {
            return Verdict::Drop(reason);
        }
        let flow = self.key.flow(frame.bytes, layers);
        if let Some(reason) = self.mirror_loop.judge(frame, layers, flow) {
            return Verdict::Drop(reason);
        }
        let verdict = self.choose_flow(flow, (frame.bytes, frame.bytes.len()), layers);
        if matches!(verdict, Verdict::Keep(_)) && self.comes_back(frame, layers) {
            return Verdict::Drop(DropReason::LoopThrottled);
        }
        verdict
    }

    /// Why a captured frame, whose tunnels are still to be taken off, goes no further; what is chosen of the frames inside,
    /// [`choose`](Self::choose) says.
    pub fn refuse_captured(&mut self, frame: &Frame<'_>, layers: &Layers) -> Option<DropReason> {
        let refused = self.refuses(frame, layers).or_else(|| {
            let flow = self.key.flow(frame.bytes, layers);
            self.mirror_loop.judge(frame, layers, flow)
        });
        refused.or_else(|| self.comes_back(frame, layers).then_some(DropReason::LoopThrottled))
    }

    /// Whether the tunnels of a captured frame stay on: it goes to our own analyzer, as the datagrams of another mirror do. Two
    /// mirrors that see each other's datagrams would hand one frame to and fro for ever. With its tunnel on, the other one
    /// finds its own datagram in ours.
    pub fn keeps_tunnels(&self, frame: &Frame<'_>, layers: &Layers) -> bool {
        let is_ours = |packet| self.mirror_loop.goes_to_our_analyzer(frame.bytes, packet);
        layers.ip.as_ref().is_some_and(is_ours)
    }

    /// Decides about a frame of `length` bytes that came out of a captured one. `start` is its beginning, with all headers.
    pub fn choose(&mut self, start: &[u8], length: usize, layers: &Layers) -> Verdict {
        let flow = self.key.flow(start, layers);
        self.choose_flow(flow, (start, length), layers)
    }

    /// Whether the frame is none that can be mirrored, or one of our own.
    #[inline]
    fn refuses(&mut self, frame: &Frame<'_>, layers: &Layers) -> Option<DropReason> {
        if let Some(reason) = frame.refused {
            return Some(reason);
        }
        if frame.bytes.is_empty() {
            // The source could make no Ethernet frame of it.
            return Some(DropReason::Undecodable);
        }
        if frame.bytes.len() < crate::wire::ethernet::HEADER_LEN {
            return Some(DropReason::TooShort);
        }
        let sighting = Sighting { place: self.place, interface: frame.interface, direction: frame.direction };
        self.own_traffic.judge(frame.bytes, layers, sighting)
    }

    #[inline]
    fn choose_flow(&mut self, flow: FlowHash, (start, length): (&[u8], usize), layers: &Layers) -> Verdict {
        if self.sample.as_mut().is_some_and(|sample| !sample.keeps(flow)) {
            return Verdict::Drop(DropReason::SampledOut);
        }
        if self.shed.as_mut().is_some_and(|shed| !shed.admits(flow, (start, length), layers)) {
            return Verdict::Drop(DropReason::Shed);
        }
        Verdict::Keep(flow)
    }

    /// Whether the session is throttled because its output comes back.
    #[inline]
    fn comes_back(&mut self, frame: &Frame<'_>, layers: &Layers) -> bool {
        self.feedback.as_mut().is_some_and(|feedback| !feedback.admits(frame, layers))
    }
}
