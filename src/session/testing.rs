//! Workers for tests: their sources are made up, and what they mirror goes nowhere.

use std::io::PipeReader;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use super::contact::{Contact, Failures};
use super::path::Path;
use super::worker::Worker;
use crate::config::local_end::CaptureFilePlan;
use crate::config::plan::{FilePath, SamplePlan};
use crate::destination::Shared;
use crate::destination::capture_file::CaptureFile;
use crate::destination::{Destination, Destinations, Patience};
use crate::error::Explain;
use crate::frame::Frame;
use crate::frame::testing::frame;
use crate::ledger::{KernelDrops, Ledger};
use crate::normalise::Normaliser;
use crate::select::Selector;
use crate::select::own_traffic::OwnTraffic;
use crate::source::{Readiness, Source};

/// A frame of the smallest size.
pub(super) const FRAME: Frame<'_> = frame(&[2; 60]);

/// What a made-up source does when it is drained, as [`Source::drain`] describes it.
pub(super) type Drain =
    Box<dyn FnMut(Instant, usize, &mut dyn FnMut(&Frame<'_>)) -> Result<Readiness, Box<dyn Explain>> + Send>;

/// A made-up source.
pub(super) struct MadeUp {
    drain: Drain,
    /// What wakes the worker; `None` for one that is always ready.
    ring: Option<PipeReader>,
    /// Frames that the kernel dropped before it.
    dropped: u64,
}

impl MadeUp {
    /// One that is always ready, before which the kernel dropped so many frames.
    pub(super) fn always_ready(
        dropped: u64,
        drain: impl FnMut(Instant, usize, &mut dyn FnMut(&Frame<'_>)) -> Result<Readiness, Box<dyn Explain>>
        + Send
        + 'static,
    ) -> Box<dyn Source> {
        Box::new(Self { drain: Box::new(drain), ring: None, dropped })
    }

    /// One that is ready when `ring` is.
    pub(super) fn behind(
        ring: PipeReader,
        drain: impl FnMut(Instant, usize, &mut dyn FnMut(&Frame<'_>)) -> Result<Readiness, Box<dyn Explain>>
        + Send
        + 'static,
    ) -> Box<dyn Source> {
        Box::new(Self { drain: Box::new(drain), ring: Some(ring), dropped: 0 })
    }
}

impl Source for MadeUp {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        (self.drain)(now, budget, each)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(PipeReader::as_fd)
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        KernelDrops { buffer_full: self.dropped, interface: 0, untold: 0 }
    }
}

fn ledger() -> Ledger {
    Ledger::new([("1", "pcap:/dev/null")])
}

pub(super) fn contact() -> Contact {
    Contact::open(ledger(), Failures::default(), None).unwrap()
}

pub(super) fn worker(sources: Vec<Box<dyn Source>>, contact: &Contact, count: Option<u64>) -> Worker {
    let plan = CaptureFilePlan::plain(FilePath::Path("/dev/null".into()));
    let nowhere = CaptureFile::open(&plan, &["eth0".into()], Patience::Drop, &mut Shared::new(&[], 0)).unwrap();
    let path = Path {
        inside: None,
        selector: Selector::new(OwnTraffic::default(), crate::flow::FlowKey::PUBLIC, SamplePlan::default()),
        normaliser: Normaliser::new(None),
        destinations: Destinations::new(vec![Destination::File(nowhere)]),
        ledger: ledger(),
    };
    Worker::new(sources, path, contact.clone(), Duration::from_millis(2), count).unwrap()
}
