//! A live interface, captured through a TPACKET_V3 ring of our own.
//!
//! The kernel tells about each frame what libpcap hides: which way it went, how large the segments of a super-frame
//! are, which checksum is unfinished, which tag was taken out. libpcap still judges the interface and writes the filter.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use socket2::{SockFilter, SockRef};

use super::block::{self, Cursor};
use super::error::SourceError;
use super::fan_out::FanOut;
use super::{Readiness, Source, filter, live};
use crate::config::plan::{LivePlan, SessionPlan};
use crate::error::Explain;
use crate::frame::{Frame, InterfaceId, Offload, Place};
use crate::ledger::KernelDrops;
use crate::quantity::{Directions, Ifindex, Mtu, Workers};
use crate::sys::interface;
use crate::sys::packet_socket::{self, PacketSocket, RingShape};
use crate::sys::tpacket::Ring;

/// Bytes of one block. The largest frame that Linux makes fits (BIG TCP, just under 200 KiB). Not more: a block that is
/// handed over after the delay counts as used, however little is in it, so it is the number of blocks that says how long
/// the worker may be kept from its core.
const BLOCK: u32 = 1 << 18;
/// One is filled while another is read.
const LEAST_BLOCKS: u32 = 2;

/// One capture on one Ethernet interface.
pub(super) struct RingCapture {
    ring: Ring,
    /// Where reading the oldest block goes on.
    cursor: Option<Cursor>,
    /// Blocks taken since the ring last ran dry.
    taken: u32,
    /// Whether the kernel handed the latest of them over because it was full, before the delay.
    was_full: bool,
    /// More blocks than these in one go say that the ring is filling up.
    ease: u32,
    /// How long to let blocks come together.
    pause: Duration,
    /// How long after the end of the interface a block may come.
    grace: Duration,
    name: String,
    interface: InterfaceId,
    /// Whether what the offloads left unfinished is to be finished.
    normalise: bool,
    losses: Losses,
    /// Whether it says what all workers see of the interface.
    speaks: bool,
    /// The interface's number when it was opened: one that is made anew has another.
    index: Ifindex,
    place: Place,
    link: Link,
}

/// What the kernel dropped, and which of it had found room.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    /// Every drop that the kernel counted.
    dropped: u64,
    /// Those of them that left a slot unfilled.
    unfilled: u64,
    /// Frames of blocks whose header promised more than they hold: the kernel counts them as captured.
    broken: u64,
    /// Drops for want of room, as told last.
    told_full: u64,
}

impl Losses {
    /// The totals. The kernel counts a drop before its slot can be seen, so what has been told to be for want of room stays
    /// so: each number only rises, and their sum is exact.
    fn told(&mut self) -> KernelDrops {
        self.told_full = self.told_full.max(self.dropped.saturating_sub(self.unfilled));
        let untold = self.dropped - self.told_full;
        KernelDrops { buffer_full: self.told_full + self.broken, interface: 0, untold }
    }
}

/// An interface that is down for so long will not be gone at once, as one that is deleted: the operator hears of it.
const SAY_DOWN_AFTER: Duration = Duration::from_millis(500);
/// How often one that is down is looked at: when it is deleted then, the socket does not tell.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    /// It went down then, and no frame has come since.
    Down {
        since: Instant,
        said: bool,
    },
    /// It is gone. What it captured before may still be handed over until then.
    Gone(Instant),
}

impl RingCapture {
    /// Captures frames of the plan's directions that the session's filter matches, through one ring of `buffer` bytes for
    /// each of the plan's workers. `None` when the interface is not Ethernet: then libpcap has to make frames of what it
    /// gives.
    pub(super) fn open(
        plan: &LivePlan,
        session: &SessionPlan,
        (interface, name, index): (InterfaceId, &str, Ifindex),
        buffer: u64,
    ) -> Result<Option<Vec<Self>>, SourceError> {
        // libpcap knows why an interface cannot be captured, and writes its filter for a capture that is open.
        let mut judge = live::activate(plan, name, u64::from(BLOCK))?;
        if judge.get_datalink() != pcap::Linktype::ETHERNET {
            return Ok(None);
        }
        filter::apply(&mut judge, session.filter_of_captured())?;
        // A loopback interface receives whatever it sends: once is enough.
        let directions = match plan.directions {
            Directions::InOut if is_loopback(judge.as_fd(), name) => Directions::In,
            directions => directions,
        };
        let program = match (directions, session.filter_of_captured()) {
            (Directions::InOut, "") => None,
            (_, expression) => {
                Some(filter::program(&judge, directions, expression).map_err(|cause| live::refusal(name, cause))?)
            }
        };
        let program = filter::without_marked(program, session.mark());
        drop(judge);

        let shape = shape(buffer, plan);
        let rings =
            open_rings(plan, (index, name), (directions, program.as_deref()), shape, session.tunnels_taken_off())?;
        let captures = rings.into_iter().enumerate().map(|(worker, ring)| Self {
            ring,
            cursor: None,
            taken: 0,
            was_full: false,
            ease: shape.block_count / 8,
            pause: plan.delay * 3 / 4,
            grace: super::grace(plan.delay),
            name: name.to_owned(),
            interface,
            normalise: session.normalise.enabled,
            losses: Losses::default(),
            speaks: worker == 0,
            index,
            place: if plan.netns.is_none() { Place::Here(index) } else { Place::Elsewhere },
            link: Link::Up,
        });
        Ok(Some(captures.collect()))
    }

    /// The interface's MTU.
    pub(super) fn mtu(&self) -> Option<Mtu> {
        live::mtu(self.ring.as_fd(), &self.name)
    }

    /// What to wait for now that the ring has run dry. Where blocks fill up faster than the delay the kernel would wake us
    /// for each of them, and to be woken costs more than to mirror a hundred frames.
    fn ran_dry(&mut self, now: Instant) -> Readiness {
        let taken = mem::take(&mut self.taken);
        if self.was_full && (1..=self.ease).contains(&taken) {
            Readiness::Filling(now + self.pause)
        } else {
            Readiness::Waiting
        }
    }

    /// What the socket has to say while no frame comes: an interface that is down may come back, one that is gone does
    /// not. That one is known by its number: it may have another name by now.
    fn look_around(&mut self, now: Instant) -> Result<Option<Readiness>, SourceError> {
        if let Link::Gone(until) = self.link {
            let interface = self.name.clone();
            let cause = io::Error::from_raw_os_error(libc::ENODEV);
            return if now < until {
                Ok(Some(Readiness::Until(until)))
            } else {
                Err(SourceError::InterfaceGone { interface, cause })
            };
        }
        let told = match SockRef::from(&self.ring).take_error() {
            Ok(told) => told,
            Err(cause) => Some(cause),
        };
        // An interface that is deleted goes down first, and of that alone the socket tells.
        if told.is_none() && self.link == Link::Up {
            return Ok(None);
        }
        let name = self.is_attached().then(|| interface::name(self.ring.as_fd(), self.index));
        let Some(Ok(name)) = name else {
            // The kernel still holds the block that was being filled.
            let until = now + self.grace;
            self.link = Link::Gone(until);
            return Ok(Some(Readiness::Until(until)));
        };
        let (since, mut said) = match self.link {
            Link::Down { since, said } => (since, said),
            Link::Up | Link::Gone(_) => (now, false),
        };
        if self.speaks && !said && now >= since + SAY_DOWN_AFTER {
            tracing::warn!("{name} is down; waiting for it");
            said = true;
        }
        self.link = Link::Down { since, said };
        let is_to_be_said = self.speaks && !said;
        Ok(Some(Readiness::Until(if is_to_be_said { since + SAY_DOWN_AFTER } else { now + LOOK_AGAIN })))
    }
}

/// One ring for each worker. The filter that lets frames in, or none, comes last, when every worker has joined: until then
/// each socket would capture what is the others' too.
fn open_rings(
    plan: &LivePlan,
    (interface, name): (Ifindex, &str),
    (directions, program): (Directions, Option<&[SockFilter]>),
    shape: RingShape,
    tunnels: u8,
) -> Result<Vec<Ring>, SourceError> {
    let cannot_open = |cause| SourceError::CannotOpenRing { interface: name.to_owned(), cause };
    let cannot_share = |cause| SourceError::CannotShare { interface: name.to_owned(), cause };
    let mut group = (plan.workers > Workers::LEAST).then(|| FanOut::new(true, directions, tunnels));
    let mut rings = Vec::new();
    for _ in 0..plan.workers.value() {
        let ring = open_ring(plan, interface, directions, shape).map_err(cannot_open)?;
        group.as_mut().map_or(Ok(()), |group| group.join(ring.as_fd())).map_err(cannot_share)?;
        rings.push(ring);
    }
    for ring in &rings {
        let socket = SockRef::from(ring);
        // Where everything is meant, a program that says so would cost each frame a call.
        program.map_or_else(|| socket.detach_filter(), |program| socket.attach_filter(program)).map_err(cannot_open)?;
    }
    Ok(rings)
}

/// The order matters: a socket of no protocol gets no frame, and a filter that rejects everything keeps it so until
/// the real one is there.
fn open_ring(plan: &LivePlan, interface: Ifindex, directions: Directions, shape: RingShape) -> io::Result<Ring> {
    let ring = Ring::map(PacketSocket::open()?, shape)?;
    SockRef::from(&ring).attach_filter(&[filter::REJECT])?;
    ring.socket().bind(interface)?;
    if directions == Directions::In
        && let Err(error) = ring.socket().ignore_outgoing()
    {
        // Before Linux 4.20 the filter alone keeps them out.
        tracing::debug!(%error, "the kernel cannot leave out sent frames early");
    }
    if plan.promiscuous {
        ring.socket().promiscuous(interface)?;
    }
    Ok(ring)
}

fn is_loopback(socket: BorrowedFd<'_>, name: &str) -> bool {
    interface::flags(socket, name).is_ok_and(|flags| flags & libc::IFF_LOOPBACK != 0)
}

fn shape(buffer: u64, plan: &LivePlan) -> RingShape {
    RingShape {
        block_size: BLOCK,
        block_count: u32::try_from(buffer / u64::from(BLOCK)).unwrap_or(u32::MAX).max(LEAST_BLOCKS),
        retire_after: u32::try_from(plan.delay.as_millis()).unwrap_or(u32::MAX).max(1),
    }
}

impl Source for RingCapture {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        let mut left = budget;
        while left > 0 {
            let Some(block) = self.ring.block() else {
                let is_ending = self.look_around(now).map_err(|gone| Box::new(gone) as Box<dyn Explain>)?;
                return Ok(is_ending.unwrap_or_else(|| self.ran_dry(now)));
            };
            if matches!(self.link, Link::Down { .. }) {
                self.link = Link::Up;
            }
            let mut cursor = self.cursor.take().unwrap_or_else(|| Cursor::start(block));
            while left > 0
                && let Some(mut frame) = cursor.advance(block, self.interface)
            {
                if !self.normalise {
                    frame.offload = Offload::Whole;
                }
                each(&frame);
                left -= 1;
            }
            if left > 0 {
                // A block whose header promised more than it holds: those frames are as lost as any that did not fit.
                self.losses.broken += u64::from(cursor.left());
                self.losses.unfilled += u64::from(cursor.unfilled());
                self.was_full = block::was_full(block);
                self.taken += 1;
                self.ring.release();
            } else {
                self.cursor = Some(cursor);
            }
        }
        Ok(Readiness::More)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn place(&self) -> Place {
        self.place
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        if let Ok(counted) = self.ring.take_statistics() {
            self.losses.dropped += u64::from(counted.dropped);
        }
        self.losses.told()
    }

    fn is_attached(&self) -> bool {
        packet_socket::bound_to(self.ring.as_fd()) == Some(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_told_apart_once_and_only_rise() {
        let mut losses = Losses { dropped: 3, unfilled: 1, broken: 2, told_full: 0 };
        assert_eq!(losses.told(), KernelDrops { buffer_full: 4, interface: 0, untold: 1 });
        // A slot that is seen before the kernel has been asked, and a drop that was told before its slot was seen.
        losses.unfilled = 5;
        assert_eq!(losses.told(), KernelDrops { buffer_full: 4, interface: 0, untold: 1 });
        losses.dropped = 7;
        assert_eq!(losses.told(), KernelDrops { buffer_full: 4, interface: 0, untold: 5 });
    }
}
