//! Outer packets out of a capture file: what a tap on the underlay recorded.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::super::error::SourceError;
use super::super::file::{Progress, Replay};
use super::super::{Readiness, Source};
use super::receiver::{Begins, OuterPacket, Receiver, address};
use super::reorder::Reorder;
use crate::config::plan::{FilePlan, NormalisePlan};
use crate::error::Explain;
use crate::frame::Frame;
use crate::ledger::{DropReason, KernelDrops, SenderLedger};
use crate::quantity::{Mtu, Timestamp};
use crate::wire::layers::{Fragment, Layers};
use crate::wire::reassembly::Reassembly;

/// A capture file and what becomes of its packets.
pub struct OuterFile {
    outer: Replay,
    inside: Inside,
}

/// Bytes of frames that wait for their order, where no socket's buffer says how many.
const REORDER_BYTES: usize = 4 << 20;

/// What is done to each packet.
struct Inside {
    receiver: Receiver,
    reassembly: Reassembly,
    /// Datagrams given up that have had their fate.
    given_up: u64,
    reorder: Reorder,
}

impl OuterFile {
    /// Opens the file.
    ///
    /// # Errors
    /// As for a file of frames.
    pub fn open(plan: &FilePlan, receiver: Receiver, reorder: Option<Duration>) -> Result<Self, SourceError> {
        // Filter and normalise are for the frames inside.
        let untouched = NormalisePlan { enabled: false, mtu: Mtu::ETHERNET, truncate: None, max_segments: None };
        let outer = Replay::open(plan, "", &untouched, false)?;
        let reorder = Reorder::new(reorder, REORDER_BYTES);
        Ok(Self { outer, inside: Inside { receiver, reassembly: Reassembly::default(), given_up: 0, reorder } })
    }

    /// How far the replay has come.
    pub fn progress(&self) -> Option<Progress> {
        self.outer.progress()
    }
}

impl Inside {
    /// Takes one captured frame of the underlay: nothing is lent for a fragment that does not complete its datagram.
    fn take(&mut self, now: Instant, frame: &Frame<'_>, each: &mut dyn FnMut(&Frame<'_>)) {
        let Self { receiver, reassembly, reorder, .. } = self;
        let timestamp = frame.timestamp;
        let Some(packet) = Layers::parse(frame.bytes).ip else {
            return each(&receiver.refused(timestamp, DropReason::NoTunnel));
        };
        let (bytes, packet) = if packet.fragment == Fragment::Whole {
            (frame.bytes, packet)
        } else {
            match reassembly.add(frame.bytes, &packet, timestamp) {
                Ok(Some(whole)) => whole,
                Ok(None) => return self.account_given_up(timestamp, each),
                Err(_) => {
                    // Its datagram shares its fate, if that ends with it.
                    each(&receiver.refused(timestamp, DropReason::Undecodable));
                    return self.account_given_up(timestamp, each);
                }
            }
        };
        let Some(from) = address(packet.addresses(bytes).0) else {
            return each(&receiver.refused(timestamp, DropReason::Undecodable));
        };
        let outer = OuterPacket { bytes, begins: Begins::Ip(packet), from, timestamp };
        receiver.take(&outer, &mut |received| reorder.take(now, received, each));
        self.account_given_up(timestamp, each);
    }

    /// Gives each datagram that never became whole its fate.
    fn account_given_up(&mut self, timestamp: Timestamp, each: &mut dyn FnMut(&Frame<'_>)) {
        for _ in self.given_up..self.reassembly.given_up() {
            each(&self.receiver.refused(timestamp, DropReason::Undecodable));
        }
        self.given_up = self.reassembly.given_up();
    }
}

impl Source for OuterFile {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        let Self { outer, inside } = self;
        inside.reorder.release(now, each);
        let drained = outer.drain(now, budget, &mut |frame| inside.take(now, frame, each));
        if !matches!(drained, Ok(Readiness::More | Readiness::Waiting | Readiness::Until(_))) {
            self.finish(each);
        }
        drained
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.outer.descriptor()
    }

    fn is_recorded(&self) -> bool {
        self.outer.is_recorded()
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        KernelDrops::default()
    }

    fn senders(&mut self, end: bool, all: &mut Vec<SenderLedger>) {
        self.inside.receiver.senders(end, all);
    }

    fn finish(&mut self, each: &mut dyn FnMut(&Frame<'_>)) {
        self.inside.reorder.release_all(each);
        self.inside.reassembly.finish();
        self.inside.account_given_up(Timestamp::default(), each);
    }
}
