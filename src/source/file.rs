//! A capture file: pcap or pcapng, any time resolution, either byte order, from a path or from standard input.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap::{Capture, Offline, Precision};

use super::error::{ForeignKind, SourceError};
use super::link_type::LinkLayer;
use super::pace::{Ahead, Pacer};
use super::{Readiness, Source, filter, timestamp};
use crate::config::plan::{FilePath, FilePlan, NormalisePlan};
use crate::error::Explain;
use crate::frame::{Frame, InterfaceId, Offload};
use crate::ledger::KernelDrops;
use crate::wire::pcap::RecordHeader;

/// How far a replay has come, for a progress bar.
#[derive(Clone, Debug)]
pub struct Progress {
    read: Arc<AtomicU64>,
    size: u64,
}

impl Progress {
    /// Bytes of the file that were read: an estimate from below, since libpcap does not say what it skips.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed).min(self.size)
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// A capture file that is being replayed.
pub(super) struct Replay {
    reader: Reader,
    input: Input,
    /// For a replay that does not go as fast as it can.
    paced: Option<(Pacer, Ahead)>,
}

/// What a file is read from, which decides how far one may read without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// A regular file of so many bytes: every read returns at once.
    Regular(u64),
    /// A pipe or terminal at standard input, which can be asked.
    Stdin,
    /// A named pipe, which only libpcap has open.
    NamedPipe,
}

impl Replay {
    /// Opens the file. Reads the file header, and waits for it on a pipe.
    pub fn open(plan: &FilePlan, expression: &str, normalise: &NormalisePlan) -> Result<Self, SourceError> {
        let name = plan.file.to_string();
        let unreadable = |cause| SourceError::Unreadable { file: name.clone(), cause };
        let (path, input, first) = match &plan.file {
            FilePath::Standard => (Path::new("-"), Input::standard().map_err(unreadable)?, None),
            FilePath::Path(path) => {
                let (input, first) = Input::inspect(path).map_err(unreadable)?;
                (path.as_path(), input, first)
            }
        };
        let mut capture = Capture::from_file_with_precision(path, Precision::Nano).map_err(|cause| {
            let kind = first.as_deref().and_then(ForeignKind::of);
            SourceError::Foreign { file: name.clone(), kind, cause }
        })?;
        let link = super::link_layer(&name, capture.get_datalink())?;
        filter::apply(&mut capture, expression)?;
        let offload = if normalise.enabled { Offload::Unknown { mtu: normalise.mtu } } else { Offload::Whole };
        let bytes_read = Arc::default();
        let paced = Pacer::of(plan.pace).map(|pacer| (pacer, Ahead::new()));
        Ok(Self { reader: Reader { capture, link, name, offload, frames: 0, bytes_read }, input, paced })
    }

    /// The file's name in messages, and as the session's one interface.
    pub fn name(&self) -> &str {
        &self.reader.name
    }

    /// How far the replay has come; `None` for a pipe, which has no size.
    pub fn progress(&self) -> Option<Progress> {
        match self.input {
            Input::Regular(size) => Some(Progress { read: Arc::clone(&self.reader.bytes_read), size }),
            Input::Stdin | Input::NamedPipe => None,
        }
    }
}

impl Source for Replay {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        let Self { reader, input, paced } = self;
        match (paced, input) {
            (Some((pacer, ahead)), _) => reader.read_due(pacer, ahead, now, budget, each),
            (None, Input::Regular(_)) if reader.read(budget, each)? < budget => Ok(Readiness::Ended),
            (None, Input::Regular(_)) => Ok(Readiness::More),
            (None, input) => reader.read_stream(*input, budget, each),
        }
    }

    /// A file is always ready.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        KernelDrops::default()
    }
}

/// libpcap's reader of one file.
struct Reader {
    capture: Capture<Offline>,
    link: LinkLayer,
    name: String,
    offload: Offload,
    /// Frames given so far.
    frames: u64,
    bytes_read: Arc<AtomicU64>,
}

impl Reader {
    /// Reads up to `budget` frames that the filter keeps. Fewer than `budget` mean the end of the file.
    fn read(&mut self, budget: usize, each: &mut dyn FnMut(&Frame<'_>)) -> Result<usize, Box<dyn Explain>> {
        let Self { capture, link, offload, frames, .. } = self;
        let mut bytes = 0;
        let read = capture.dispatch(Some(budget), |packet| {
            *frames += 1;
            bytes += RecordHeader::LEN + packet.data.len();
            let ethernet = link.ethernet(packet.data, packet.header.len);
            each(&Frame {
                bytes: ethernet.bytes,
                wire_len: ethernet.wire_len,
                timestamp: timestamp(packet.header),
                direction: ethernet.direction,
                interface: InterfaceId(0),
                origin: None,
                offload: *offload,
                has_restored_tag: false,
                refused: None,
            });
        });
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        read.map_err(|cause| self.broken(cause))
    }

    /// Reads what is there without waiting, but one frame at least.
    fn read_stream(
        &mut self,
        input: Input,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        for _ in 0..budget {
            if self.read(1, each)? == 0 {
                return Ok(Readiness::Ended);
            }
            if !input.is_ready() {
                break;
            }
        }
        Ok(Readiness::More)
    }

    /// Reads what is due, and one frame ahead.
    fn read_due(
        &mut self,
        pacer: &mut Pacer,
        ahead: &mut Ahead,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        for _ in 0..budget {
            match ahead.due() {
                Some(due) if due > now => return Ok(Readiness::Until(due)),
                Some(_) => ahead.give(each),
                None => {
                    let read = self.read(1, &mut |frame| {
                        let due = pacer.due(now, frame.timestamp, frame.wire_len);
                        if due > now { ahead.keep(frame, due) } else { each(frame) }
                    })?;
                    if read == 0 {
                        return Ok(Readiness::Ended);
                    }
                }
            }
        }
        Ok(Readiness::More)
    }

    fn broken(&self, cause: pcap::Error) -> Box<dyn Explain> {
        let (file, frames) = (self.name.clone(), self.frames);
        // libpcap tells the two apart only in words.
        Box::new(if cause.to_string().contains("different from") {
            SourceError::Mixed { file, frames, cause }
        } else {
            SourceError::Damaged { file, frames, cause }
        })
    }
}

impl Input {
    /// What stands at standard input: often a file all the same.
    fn standard() -> io::Result<Self> {
        let metadata = File::from(io::stdin().as_fd().try_clone_to_owned()?).metadata()?;
        Ok(if metadata.is_file() { Self::Regular(metadata.len()) } else { Self::Stdin })
    }

    /// What stands at `path`, with its first bytes if looking at them takes nothing away.
    fn inspect(path: &Path) -> io::Result<(Self, Option<Vec<u8>>)> {
        let metadata = fs::metadata(path)?;
        if path.to_str().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "libpcap opens only file names in UTF-8"));
        }
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !metadata.is_file() {
            return Ok((Self::NamedPipe, None));
        }
        let mut first = Vec::new();
        File::open(path)?.take(8).read_to_end(&mut first)?;
        Ok((Self::Regular(metadata.len()), Some(first)))
    }

    /// Whether the next read is sure to return at once. What libpcap has buffered cannot be seen from here, so that a
    /// "no" may be wrong; then a turn ends early, which costs little.
    fn is_ready(self) -> bool {
        match self {
            Self::Regular(_) => true,
            Self::Stdin => {
                let stdin = io::stdin();
                let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
                poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            }
            Self::NamedPipe => false,
        }
    }
}
