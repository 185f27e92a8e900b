//! Capture files: pcap or pcapng, compressed or not, from paths or from pipes, merged in the order of their timestamps.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::error::SourceError;
use super::filter::FrameFilter;
use super::lanes::{Lanes, Ready};
use super::link_type::{Ethernet, Scratch};
use super::pace::Pacer;
use super::{Readiness, Source};
use crate::config::plan::{FilePlan, NormalisePlan};
use crate::error::Explain;
use crate::frame::{Frame, InterfaceId, Offload};
use crate::ledger::KernelDrops;

/// How far a replay has come, for a progress bar.
#[derive(Clone, Debug)]
pub struct Progress {
    read: Arc<AtomicU64>,
    size: u64,
}

impl Progress {
    /// Bytes of the files that were read.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed).min(self.size)
    }

    /// Size of the files together, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Capture files that are being replayed.
pub(super) struct Replay {
    lanes: Lanes,
    filter: FrameFilter,
    offload: Offload,
    scratch: Scratch,
    /// For a replay that does not go as fast as it can.
    pacer: Option<Pacer>,
    /// When the next frame is due, once that was asked.
    due: Option<Instant>,
    progress: Option<Progress>,
}

impl Replay {
    /// Opens the files. Reads their headers, and waits for them on pipes. With `with_names`, interfaces that a file names
    /// are told by [`Source::tell_interfaces`].
    pub fn open(
        plan: &FilePlan,
        expression: &str,
        normalise: &NormalisePlan,
        with_names: bool,
    ) -> Result<Self, SourceError> {
        let filter = FrameFilter::compile(expression)?;
        let lanes = Lanes::open(&plan.files, &filter, with_names)?;
        Ok(Self {
            progress: lanes.size().map(|size| Progress { read: Arc::default(), size }),
            lanes,
            filter,
            offload: if normalise.enabled { Offload::Unknown { mtu: normalise.mtu } } else { Offload::Whole },
            scratch: Scratch::new(),
            pacer: Pacer::of(plan.pace, plan.longest_pause),
            due: None,
        })
    }

    /// The files' names, in messages and as the session's interfaces.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lanes.names()
    }

    /// How far the replay has come; `None` where there is a pipe, which has no size.
    pub fn progress(&self) -> Option<Progress> {
        self.progress.clone()
    }

    fn read(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, SourceError> {
        let Self { lanes, filter, offload, scratch, pacer, due, .. } = self;
        // What the filter leaves out counts too: a turn has an end also where it keeps nothing.
        for _ in 0..budget {
            let number = match lanes.ready(filter)? {
                Ready::Frame(number) => number,
                Ready::Waiting => {
                    let asked = lanes.ask_to_be_woken();
                    let file = || lanes.names().collect::<Vec<_>>().join(", ");
                    asked.map_err(|cause| SourceError::Unreadable { file: file(), cause })?;
                    return Ok(Readiness::Waiting);
                }
                Ready::Ended => return Ok(Readiness::Ended),
            };
            let Some(front) = lanes.front(number) else {
                lanes.advance(filter);
                continue;
            };
            let (captured, record) = (front.captured, front.record);
            let ethernet = match front.link.kind {
                Some(kind) => kind.ethernet(captured, record.wire_len, scratch),
                None => Ethernet { bytes: &[], wire_len: record.wire_len, direction: None },
            };
            let whole = (ethernet.bytes, ethernet.wire_len);
            // What cannot become Ethernet cannot be asked, and is counted.
            let is_kept =
                ethernet.bytes.is_empty() || filter.keeps(front.link.asks, (captured, record.wire_len), whole);
            let timestamp = record.timestamp.unwrap_or_default();
            if is_kept {
                if let Some(pacer) = pacer {
                    let due = *due.get_or_insert_with(|| pacer.due(now, record.timestamp, ethernet.wire_len));
                    if due > now {
                        return Ok(Readiness::Until(due));
                    }
                }
                *due = None;
                each(&Frame {
                    bytes: ethernet.bytes,
                    wire_len: ethernet.wire_len,
                    timestamp,
                    direction: record.direction.or(ethernet.direction),
                    interface: front.link.interface,
                    origin: None,
                    offload: *offload,
                    has_restored_tag: false,
                    refused: None,
                });
            }
            lanes.advance(filter);
            if lanes.has_news() {
                // Frames of an interface are lent only when it has been told.
                return Ok(Readiness::More);
            }
        }
        Ok(Readiness::More)
    }
}

impl Source for Replay {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        let readiness = self.read(now, budget, each);
        if let Some(progress) = &self.progress {
            progress.read.store(self.lanes.position(), Ordering::Relaxed);
        }
        Ok(readiness?)
    }

    /// None where all are files: these are always ready.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.lanes.descriptor()
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn tell_interfaces(&mut self, learn: &mut dyn FnMut(InterfaceId, &str, &str)) {
        self.lanes.tell_news(learn);
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        KernelDrops::default()
    }
}
