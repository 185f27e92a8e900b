//! Where frames come from: live interfaces, capture files, and the tunnels of other mirrors.
//!
//! A source lends each frame to a closure and takes it back when the closure returns, so that a slow destination can
//! never pin the source's memory. Sources know nothing of what happens to a frame.

mod block;
mod bpf;
mod by_direction;
mod captures;
mod classic_bpf;
mod error;
mod fan_out;
mod file;
mod filter;
mod flow_program;
mod held;
pub(crate) mod interfaces;
mod lanes;
mod link_type;
mod live;
mod memory;
mod pace;
mod recorded;
mod ring;
mod tunnel;

pub(crate) use captures::open_one;
pub use captures::{Captured, Refuses};
pub use error::{ForeignKind, SourceError};
pub use file::Progress;
pub(crate) use memory::Budget;
pub use memory::{NoRoom, Pool, alone};
pub use recorded::while_wanted;
pub use tunnel::TunnelError;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use file::Replay;
use link_type::LinkLayer;

use crate::config::defaults;
use crate::config::plan::{Engine, FilePath, FilePlan, NormalisePlan, SessionPlan, SourcePlan};
use crate::error::{ExitCode, Explain, Problems};
use crate::frame::{Frame, InterfaceId, Place};
use crate::kernel::netns::Namespace;
use crate::ledger::{KernelDrops, SenderLedger};
use crate::quantity::{Ifindex, Mtu, Timestamp};

/// What a source has after a [`drain`](Source::drain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// More frames are there already: the budget was the limit.
    More,
    /// Nothing now: wait for the source's descriptor to become readable.
    Waiting,
    /// Frames come so fast that the descriptor would be readable again at once. The buffer holds what comes until this
    /// moment many times over: let them come together.
    Filling(Instant),
    /// Nothing before this moment, because the replay is paced or frames wait for the other direction; only a
    /// descriptor, if there is one, may become readable before.
    Until(Instant),
    /// There will never be another frame.
    Ended,
}

/// A stream of captured frames: one of the two places where farspan meets a kernel it cannot see behind.
pub trait Source: Send {
    /// Lends up to `budget` frames that are ready, in order, and says what to wait for. Never blocks on a live
    /// interface; a file is read at once unless it is paced. `now` is when the turn began.
    ///
    /// # Errors
    /// When no further frame can come: the interface went away, the file is damaged. Frames lent before stay valid.
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>>;

    /// The descriptor that becomes readable when frames are ready; none for a file, which is always ready.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Where it sees frames. It stays the same as long as the source lives.
    fn place(&self) -> Place {
        Place::Recorded
    }

    /// Whether the frames were captured before: by a capture file, also one that comes through a pipe.
    fn is_recorded(&self) -> bool {
        self.descriptor().is_none()
    }

    /// Tells interfaces that were found in a capture file since it was asked last: number, name, and the name of the file.
    /// To be asked before each [`drain`](Self::drain), which lends no frame of an interface that was not told.
    fn tell_interfaces(&mut self, _learn: &mut dyn FnMut(InterfaceId, &str, &str)) {}

    /// What the kernel dropped before us since the source was opened: rising totals. Takes a few system calls, in which
    /// a source also notices what changed about its interface: for once a second and for the end, not for every turn.
    fn kernel_drops(&mut self) -> KernelDrops;

    /// Whether it captures the very device that it was opened on: one that was deleted does not come back, even if another
    /// one has its index and its name. Takes a system call.
    fn is_attached(&self) -> bool {
        true
    }

    /// Appends what came from whom, for a source that receives tunnels. At the `end` of the session nothing more is
    /// expected, and what is missing is lost. For once a second, like [`kernel_drops`](Self::kernel_drops).
    fn senders(&mut self, _end: bool, _all: &mut Vec<SenderLedger>) {}

    /// Lends what the source still holds back, at the end of the session.
    fn finish(&mut self, _each: &mut dyn FnMut(&Frame<'_>)) {}
}

/// What a session captures from.
pub struct Opened {
    /// For each worker its sources, ready to be drained: of every interface the part that is that worker's.
    pub shares: Vec<Vec<Box<dyn Source>>>,
    /// What [`Frame::interface`] counts.
    pub interfaces: Vec<Interface>,
    /// Bytes of all rings of each of the interfaces.
    pub buffers: Vec<u64>,
    /// What further rings may take; `None` where there are none.
    pub(crate) budget: Option<Budget>,
    /// How far a replay has come; `None` for live sources and pipes.
    pub progress: Option<Progress>,
    /// The network namespace of the interfaces; `None` where there are none, and while there is no such namespace.
    pub namespace: Option<Namespace>,
}

/// An interface of this host; or a capture file or the socket of a tunnel endpoint, which is one interface of its own
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number; `None` for a file, for `any` and for a tunnel endpoint.
    pub index: Option<Ifindex>,
    /// Its MTU when it was opened; `None` for a file, for `any` and for a tunnel endpoint.
    pub mtu: Option<Mtu>,
    /// What captures it; `None` for a file and for a tunnel endpoint.
    pub engine: Option<Engine>,
}

/// Whether the interfaces of `plan` are there, as far as that can be told without opening one.
///
/// # Errors
/// A [`SourceError`] for each that is not.
pub fn look(plan: &SessionPlan) -> Result<(), Problems> {
    match &plan.source {
        SourcePlan::Live(live) => {
            let found = Namespace::find(live.netns.as_ref())?;
            let present = found.within(|| interfaces::present(&live.interfaces))??;
            let absent = interfaces::meant(&live.interfaces, &present).1;
            Problems::unless_empty(absent).map_err(|found| problems_of(plan, found))
        }
        SourcePlan::File(_) | SourcePlan::Tunnels(_) => Ok(()),
    }
}

/// Whether the filter of `plan` can be understood, on some link at least: on which one it captures is known when it is
/// opened.
///
/// # Errors
/// When it cannot.
pub fn check_filter(plan: &SessionPlan) -> Result<(), Problems> {
    let checked = match plan.decap {
        Some(_) => InnerFilter::of(plan).map(drop),
        None => filter::check_anywhere(&plan.filter),
    };
    checked
        .map_err(|problem| Problems::from(Misconfigured(problem)).at(&format!("session.{}.select.filter", plan.name)))
}

/// The filter of a session that takes tunnels off sniffed frames: it asks the frames inside, which no kernel can.
#[derive(Clone, Debug)]
pub struct InnerFilter(bpf::Program);

impl InnerFilter {
    /// The filter of `plan`; `None`: every frame is kept.
    ///
    /// # Errors
    /// When Ethernet frames cannot be asked.
    pub fn of(plan: &SessionPlan) -> Result<Option<Self>, SourceError> {
        Ok(filter::of_ethernet(&plan.filter)?.map(Self))
    }

    /// Whether the filter keeps a frame of `wire_len` bytes, of which two pieces are there, one behind the other.
    pub fn keeps(&self, pieces: [&[u8]; 2], wire_len: u32) -> bool {
        self.0.matches_pieces(pieces, wire_len)
    }
}

/// Whether the filter `expression` keeps this Ethernet frame; `None` for an expression that is wrong on Ethernet.
pub fn keeps(expression: &str, frame: &[u8]) -> Option<bool> {
    let program = filter::of_ethernet(expression).ok()?;
    Some(program.is_none_or(|program| program.matches(frame, u32::try_from(frame.len()).unwrap_or(u32::MAX))))
}

/// A mistake in a configuration file that only libpcap finds.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Misconfigured(SourceError);

impl Explain for Misconfigured {
    fn place(&self) -> Option<String> {
        self.0.place()
    }

    fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::Config
    }
}

/// Opens everything that `plan` captures from, as a session that runs alone.
///
/// # Errors
/// Every [`SourceError`] that was found.
pub fn open(plan: &SessionPlan) -> Result<Opened, Problems> {
    open_among(plan, &alone(plan))
}

/// The same, beside other sessions that share the memory of `pool`.
///
/// # Errors
/// As [`open`].
pub fn open_among(plan: &SessionPlan, pool: &Pool) -> Result<Opened, Problems> {
    check_inner_filter(plan)?;
    open_source(plan, pool).map_err(|problems| problems_of(plan, problems))
}

/// Finds out, before anything is opened, whether the filter can ask the frames inside tunnels.
fn check_inner_filter(plan: &SessionPlan) -> Result<(), Problems> {
    match plan.decap {
        Some(_) => InnerFilter::of(plan).map(drop).map_err(|problem| problems_of(plan, problem.into())),
        None => Ok(()),
    }
}

impl Opened {
    /// What has no capture rings.
    fn without_rings(
        shares: Vec<Vec<Box<dyn Source>>>,
        interfaces: Vec<Interface>,
        progress: Option<Progress>,
    ) -> Self {
        Self { shares, interfaces, buffers: Vec::new(), budget: None, progress, namespace: None }
    }
}

/// The same for a session that lives on without any interface: of those that `plan` means and that it does not refuse,
/// the ones that are there. Files and tunnels are opened as by [`open_among`].
///
/// # Errors
/// Every [`SourceError`] that no other interface would be spared.
pub fn open_staying(plan: &SessionPlan, pool: &Pool, refuses: Refuses<'_>) -> Result<Opened, Problems> {
    check_inner_filter(plan)?;
    match &plan.source {
        SourcePlan::Live(live) => {
            captures::open_staying(live, plan, pool, refuses).map_err(|problems| problems_of(plan, problems))
        }
        SourcePlan::File(_) | SourcePlan::Tunnels(_) => open_among(plan, pool),
    }
}

/// How long after an interface has gone, or a session was asked to end, the kernel may still hand over what it captured
/// before, when a frame waits in the capture buffer for `delay` at most.
pub(crate) fn grace(delay: Duration) -> Duration {
    /// The kernel's timers are not finer.
    const LEAST: Duration = Duration::from_millis(10);
    LEAST.max(2 * delay)
}

/// On the command line there is one source, and each problem names what it is about; in a file there are several.
fn problems_of(plan: &SessionPlan, problems: Problems) -> Problems {
    match plan.name.as_str() {
        defaults::SESSION => problems,
        name => problems.at(&format!("session.{name}.source")),
    }
}

fn open_source(plan: &SessionPlan, pool: &Pool) -> Result<Opened, Problems> {
    match &plan.source {
        SourcePlan::Live(live) => captures::open(live, plan, pool),
        SourcePlan::File(file) => {
            let replay = Replay::open(file, plan.filter_of_captured(), &plan.normalise, true)?;
            let interface = |name: &str| Interface { name: name.to_owned(), index: None, mtu: None, engine: None };
            let interfaces = replay.names().map(interface).collect();
            let progress = replay.progress();
            Ok(Opened::without_rings(vec![vec![Box::new(replay)]], interfaces, progress))
        }
        SourcePlan::Tunnels(tunnels) => tunnel::open(tunnels, plan),
    }
}

/// Opens one capture file outside any session: every frame as it was recorded, as fast as it can be read.
///
/// # Errors
/// When it is not there, is no capture file, or holds frames of which no Ethernet frames can be made.
pub fn open_file(file: &FilePath) -> Result<Box<dyn Source>, SourceError> {
    let as_recorded = NormalisePlan { enabled: false, mtu: Mtu::ETHERNET, truncate: None, max_segments: None };
    Ok(Box::new(Replay::open(&FilePlan::unpaced(file.clone()), "", &as_recorded, false)?))
}

/// Lends every frame in a block that a packet ring has filled, and returns how many more its header promises, those that
/// the kernel did not fill among them. This is
/// the fuzzer's door: whatever the bytes are, a capture takes them the same way.
#[doc(hidden)]
pub fn frames_of_block(block: &mut [u8], each: &mut dyn FnMut(&Frame<'_>)) -> u32 {
    let mut cursor = block::Cursor::start(block);
    while let Some(frame) = cursor.advance(block, InterfaceId::default()) {
        each(&frame);
    }
    cursor.left() + cursor.unfilled()
}

/// How frames of `link_type` become Ethernet; said once if they are not.
fn link_layer(place: &str, link_type: pcap::Linktype) -> Result<LinkLayer, SourceError> {
    let named = || link_type.get_name().unwrap_or_else(|_| link_type.0.to_string());
    let Some(link) = LinkLayer::of(link_type) else {
        return Err(SourceError::UnsupportedLinkType { place: place.to_owned(), link_type: named() });
    };
    if !link.is_ethernet() {
        tracing::info!("{place} has link type {}: its frames get a synthetic Ethernet header", named());
    }
    Ok(link)
}

/// libpcap's timestamp: asked for nanoseconds, it puts them where microseconds used to be.
fn timestamp(header: &pcap::PacketHeader) -> Timestamp {
    const NANOS_A_SECOND: u64 = 1_000_000_000;
    // Files have 32 bits without sign, which libpcap reads with sign: negative is after 2038, not before 1970.
    let seconds =
        u64::try_from(header.ts.tv_sec).or_else(|_| u64::try_from(header.ts.tv_sec & 0xffff_ffff)).unwrap_or(0);
    let nanos = u64::try_from(header.ts.tv_usec).unwrap_or(0);
    Timestamp::from_nanos(seconds.saturating_mul(NANOS_A_SECOND).saturating_add(nanos))
}
