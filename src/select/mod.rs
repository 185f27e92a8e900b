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

    /// The same, which also recognises loops: by the content of frames, and with `has_feedback` by what the session sends.
    #[must_use]
    pub fn watching(self, mirror_loop: MirrorLoop, has_feedback: bool) -> Self {
        Self { mirror_loop, feedback: has_feedback.then(Feedback::default), ..self }
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
        if let Some(reason) = frame.refused {
            return Verdict::Drop(reason);
        }
        if frame.bytes.is_empty() {
            // The source could make no Ethernet frame of it.
            return Verdict::Drop(DropReason::Undecodable);
        }
        if frame.bytes.len() < crate::wire::ethernet::HEADER_LEN {
            return Verdict::Drop(DropReason::TooShort);
        }
        let sighting = Sighting { place: self.place, interface: frame.interface, direction: frame.direction };
        if let Some(reason) = self.own_traffic.judge(frame.bytes, layers, sighting) {
            return Verdict::Drop(reason);
        }
        let flow = self.key.flow(frame.bytes, layers);
        if let Some(reason) = self.mirror_loop.judge(frame, layers, flow) {
            return Verdict::Drop(reason);
        }
        if self.sample.as_mut().is_some_and(|sample| !sample.keeps(flow)) {
            return Verdict::Drop(DropReason::SampledOut);
        }
        if self.shed.as_mut().is_some_and(|shed| !shed.admits(flow, frame.bytes, layers)) {
            return Verdict::Drop(DropReason::Shed);
        }
        if self.feedback.as_mut().is_some_and(|feedback| !feedback.admits(frame, layers)) {
            return Verdict::Drop(DropReason::LoopThrottled);
        }
        Verdict::Keep(flow)
    }
}
