//! Relays in user space: our outer IP header somewhere in the payload of a frame.
//!
//! To search each payload completely would cost a large frame several per cent of all that is done with it. So a few
//! frames of every turn are searched, which is all of them as long as there are few, and of each group of flows one frame
//! in [`SAMPLE`]. A group in which something was found is searched completely from then on, and so are all frames for a
//! second: a loop begins with few frames, and is found before there are many.

use memchr::memmem::Finder;

use super::targets::Targets;
use crate::flow::FlowHash;
use crate::frame::Frame;
use crate::wire::layers::{Ip, Layers};

/// Frames of a turn that are searched whatever flow they belong to.
const EACH_TURN: u32 = 16;
/// Of the other frames of a group one in so many is searched. A power of two.
pub(super) const SAMPLE: u32 = 16;
/// Groups of flows.
const GROUPS: u32 = 1024;
/// How long a group is searched completely after something was found in it, in seconds.
const GROUP_ALERT: u64 = 60;
/// How long everything is, in nanoseconds.
const ALERT: u64 = 1_000_000_000;
/// The shortest datagram of ours: IPv4, GRE and an Ethernet header.
const SHORTEST: usize = 20 + 4 + 14;

/// Searches payloads for our outer headers.
#[derive(Debug, Default)]
pub(super) struct Relays {
    /// One for each local address: it stands in the header as the source.
    finders: Vec<Finder<'static>>,
    /// For each group a count of frames in the low bits, and above them the second until which it is searched completely.
    groups: Vec<u32>,
    left: u32,
    alert_until: u64,
}

/// The group that a flow belongs to.
fn group_of(flow: FlowHash) -> usize {
    flow.bucket(GROUPS) as usize
}

impl Relays {
    /// Searches for other tunnels from now on.
    pub(super) fn learn(&mut self, targets: &Targets) {
        self.finders = targets.locals().into_iter().map(|local| Finder::new(local).into_owned()).collect();
        if !targets.is_empty() {
            self.groups.resize(GROUPS as usize, 0);
        }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.left = EACH_TURN;
    }

    /// The number of our tunnel whose header is in the payload of `frame`, if the frame is searched.
    #[inline]
    pub(super) fn search(
        &mut self,
        frame: &Frame<'_>,
        layers: &Layers,
        flow: FlowHash,
        targets: &Targets,
    ) -> Option<usize> {
        let start = layers.ip.as_ref().map_or(layers.network, |ip| ip.payload.unwrap_or(ip.transport));
        let now = frame.timestamp.nanos();
        if frame.bytes.len() < start + SHORTEST || !self.is_due(flow, now) {
            return None;
        }
        self.search_from(start, frame.bytes, flow, now, targets)
    }

    /// Out of line: few frames come here.
    #[inline(never)]
    fn search_from(
        &mut self,
        start: usize,
        frame: &[u8],
        flow: FlowHash,
        now: u64,
        targets: &Targets,
    ) -> Option<usize> {
        let found = self.find(frame, start, targets);
        if found.is_some() {
            self.alert_until = now.saturating_add(ALERT);
            let until = u32::try_from((now / ALERT + GROUP_ALERT) % (1 << 28)).unwrap_or(0);
            if let Some(group) = self.groups.get_mut(group_of(flow)) {
                *group = until * SAMPLE;
            }
        }
        found
    }

    /// Whether this frame is one of those that are searched.
    #[inline]
    fn is_due(&mut self, flow: FlowHash, now: u64) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return true;
        }
        let Some(group) = self.groups.get_mut(group_of(flow)) else { return false };
        let (count, until) = (*group % SAMPLE, *group / SAMPLE);
        *group = until * SAMPLE + (count + 1) % SAMPLE;
        if count == 0 {
            return true;
        }
        // The last case is a clock that was set back.
        let is_alert = now < self.alert_until && self.alert_until - now <= ALERT;
        is_alert || (until > 0 && (now / ALERT) % (1 << 28) <= u64::from(until))
    }

    /// Searches behind `start`, where the headers of the frame end.
    fn find(&self, frame: &[u8], start: usize, targets: &Targets) -> Option<usize> {
        let payload = frame.get(start..)?;
        self.finders.iter().find_map(|finder| {
            let before_source = if finder.needle().len() == 4 { 12 } else { 8 };
            finder.find_iter(payload).find_map(|at| {
                let packet = Ip::parse(payload, at.checked_sub(before_source)?)?;
                targets.anywhere(payload, &packet)
            })
        })
    }
}
