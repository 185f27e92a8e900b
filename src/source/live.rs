//! A live interface, captured through libpcap: a memory-mapped `TPACKET_V3` ring.
//!
//! Never in libpcap's immediate mode: that falls back to `TPACKET_V2`, with a wake-up for about every frame.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use pcap::{Active, Capture};
use socket2::SockRef;

use super::error::SourceError;
use super::fan_out::FanOut;
use super::filter::{Asks, FrameFilter};
use super::link_type::{LARGEST_FRAME, LinkLayer};
use super::{Readiness, Source, filter, timestamp};
use crate::config::plan::{ANY, LivePlan, SessionPlan};
use crate::error::Explain;
use crate::frame::{Frame, InterfaceId, Offload, Place};
use crate::ledger::KernelDrops;
use crate::quantity::{Direction, Directions, Ifindex, Mtu, Timestamp, Workers};
use crate::sys;
use crate::sys::packet_socket;

/// Longer than any frame waits in the ring between the opening of a capture and the first look, in nanoseconds.
const MOST_WAIT: u64 = 2_000_000_000;

/// One capture on one interface.
pub(super) struct Live {
    capture: Capture<Active>,
    link: LinkLayer,
    name: String,
    interface: InterfaceId,
    place: Place,
    /// The device when it was opened.
    index: Option<Ifindex>,
    /// Known when only one direction is captured.
    direction: Option<Direction>,
    mtu: Mtu,
    /// What of the operator's filter is asked here, of the Ethernet frame: nothing where the kernel is asked.
    filter: FrameFilter,
    asks: Asks,
    /// Whether what the host's offloads left undone is to be finished.
    normalise: bool,
    /// Frames from before do not count: they may be another worker's too.
    since: Timestamp,
    /// Whether it is the one, of several workers' captures, that tells what the interface itself dropped.
    tells_interface_drops: bool,
    drops: RisingDrops,
    /// How long after the end of the interface the kernel may still hand over what it captured before.
    grace: Duration,
    /// When that time is over, once libpcap has told the end.
    ending: Option<(Instant, pcap::Error)>,
}

impl Live {
    /// Captures frames of `directions` that the filter of `session` matches, through one ring of `buffer` bytes for each
    /// of the plan's workers.
    pub fn open(
        plan: &LivePlan,
        session: &SessionPlan,
        interface: (InterfaceId, &str),
        directions: Directions,
        buffer: u64,
    ) -> Result<Vec<Self>, SourceError> {
        let cannot_share = |cause| SourceError::CannotShare { interface: interface.1.to_owned(), cause };
        if plan.workers == Workers::LEAST {
            let mut live = Self::open_one(plan, session, interface, directions, buffer)?;
            live.leave_out_marked(session)?;
            return Ok(vec![live]);
        }
        let mut group = None;
        let mut captures = Vec::new();
        for worker in 0..plan.workers.value() {
            let mut live = Self::open_one(plan, session, interface, directions, buffer)?;
            SockRef::from(&live.capture).attach_filter(&[filter::REJECT]).map_err(cannot_share)?;
            // Not told to ignore what is sent: libpcap would not tell a single socket either.
            let tunnels = session.tunnels_taken_off();
            let group = group.get_or_insert_with(|| FanOut::new(live.link.is_ethernet(), Directions::InOut, tunnels));
            group.join(live.capture.as_fd()).map_err(cannot_share)?;
            live.tells_interface_drops &= worker == 0;
            captures.push(live);
        }
        // libpcap starts to capture before anybody can join: what is in the rings until now may be in several of them.
        let since = Timestamp::now();
        for live in &mut captures {
            live.since = since;
            let in_kernel = live.in_kernel(session.filter_of_captured());
            filter::set(&mut live.capture, in_kernel)?;
            only(&mut live.capture, directions, in_kernel, &live.link).map_err(|cause| refusal(interface.1, cause))?;
            live.leave_out_marked(session)?;
        }
        Ok(captures)
    }

    fn open_one(
        plan: &LivePlan,
        session: &SessionPlan,
        (interface, name): (InterfaceId, &str),
        directions: Directions,
        buffer: u64,
    ) -> Result<Self, SourceError> {
        let mut capture = activate(plan, name, buffer)?;
        let link = super::link_layer(name, capture.get_datalink())?;
        let filter = filter::apply_live(&mut capture, link.kind(), session.filter_of_captured())?;
        let asks = filter.of(capture.get_datalink());
        let direction = match directions {
            Directions::In => Some(Direction::In),
            Directions::Out => Some(Direction::Out),
            Directions::InOut => None,
        };
        let mtu = mtu(capture.as_fd(), name).unwrap_or(Mtu::ETHERNET);
        let index = packet_socket::bound_to(capture.as_fd());
        let mut live = Self {
            index,
            capture,
            link,
            name: name.to_owned(),
            interface,
            place: place(plan, name),
            direction,
            mtu,
            filter,
            asks,
            normalise: session.normalise.enabled,
            since: Timestamp::default(),
            // libpcap asks the files of farspan's own namespace, in which another interface may have this name.
            tells_interface_drops: plan.netns.is_none(),
            drops: RisingDrops::default(),
            grace: super::grace(plan.delay),
            ending: None,
        };
        let in_kernel = live.in_kernel(session.filter_of_captured());
        only(&mut live.capture, directions, in_kernel, &live.link).map_err(|cause| refusal(name, cause))?;
        Ok(live)
    }

    /// What of the operator's filter is asked in the kernel.
    fn in_kernel<'e>(&self, expression: &'e str) -> &'e str {
        if self.asks == Asks::Nothing { expression } else { "" }
    }

    /// Has the kernel leave out frames that the tunnels of farspan processes sent, where `session` has a tunnel itself.
    /// What was captured before does not count: some of it may be such frames.
    fn leave_out_marked(&mut self, session: &SessionPlan) -> Result<(), SourceError> {
        let Some(mark) = session.mark() else { return Ok(()) };
        filter::leave_out_marked(&self.capture, mark)
            .map_err(|cause| SourceError::CannotLeaveOutMarked { interface: self.name.clone(), cause })?;
        self.since = Timestamp::now();
        Ok(())
    }

    /// Waits for what the kernel still has before the end is told.
    fn ends(&mut self, until: Instant, cause: pcap::Error) -> Readiness {
        self.ending = Some((until, cause));
        Readiness::Until(until)
    }

    /// The index of the device that it captures; `None` for `any`, and when the device has gone.
    pub fn bound_to(&self) -> Option<Ifindex> {
        packet_socket::bound_to(self.capture.as_fd())
    }

    /// The interface's MTU; `None` when it has none, as `any`.
    pub fn mtu(&self) -> Option<Mtu> {
        mtu(self.capture.as_fd(), &self.name)
    }
}

impl Source for Live {
    fn drain(
        &mut self,
        now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        let Self { capture, link, interface, direction, since, filter, asks, .. } = self;
        let offload = if self.normalise { Offload::Unknown { mtu: self.mtu } } else { Offload::Whole };
        let lent = capture.dispatch(Some(budget), |packet| {
            let timestamp = timestamp(packet.header);
            // Nothing waits for two seconds: what seems to be as old as that was stamped by a clock that was set back.
            if (1..=MOST_WAIT).contains(&since.nanos().saturating_sub(timestamp.nanos())) {
                return;
            }
            let ethernet = link.ethernet(packet.data, packet.header.len);
            let captured = (packet.data, packet.header.len);
            // What cannot become Ethernet cannot be asked, and is counted.
            let is_kept = || filter.keeps(*asks, captured, (ethernet.bytes, ethernet.wire_len));
            if !ethernet.bytes.is_empty() && !is_kept() {
                return;
            }
            each(&Frame {
                bytes: ethernet.bytes,
                wire_len: ethernet.wire_len,
                timestamp,
                direction: direction.or(ethernet.direction),
                interface: *interface,
                origin: None,
                offload,
                has_restored_tag: false,
                refused: None,
            });
        });
        if matches!(lent, Ok(lent) if lent >= budget) {
            return Ok(Readiness::More);
        }
        match (lent, self.ending.take()) {
            (Ok(_), None) => Ok(Readiness::Waiting),
            (_, Some((until, cause))) if now >= until => {
                Err(Box::new(SourceError::CaptureEnded { interface: self.name.clone(), cause }))
            }
            (Err(cause), None) => Ok(self.ends(now + self.grace, cause)),
            (_, Some((until, cause))) => Ok(self.ends(until, cause)),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.capture.as_fd())
    }

    fn place(&self) -> Place {
        self.place
    }

    fn is_attached(&self) -> bool {
        self.index == self.bound_to()
    }

    /// Asks the kernel, and for the interface's MTU too, which may have changed: a few system calls, for between
    /// turns.
    fn kernel_drops(&mut self) -> KernelDrops {
        self.mtu = self.mtu().unwrap_or(self.mtu);
        if let Ok(counted) = self.capture.stats() {
            self.drops.update(counted);
        }
        let KernelDrops { buffer_full, interface, untold } = self.drops.totals;
        KernelDrops { buffer_full, interface: if self.tells_interface_drops { interface } else { 0 }, untold }
    }
}

/// Where a capture on the interface `name` sees its frames.
fn place(plan: &LivePlan, name: &str) -> Place {
    if name == ANY {
        return Place::Several;
    }
    let index = nix::net::if_::if_nametoindex(name).ok().and_then(|index| Ifindex::new(index.into()).ok());
    index.filter(|_| plan.netns.is_none()).map_or(Place::Elsewhere, Place::Here)
}

/// Opens libpcap's capture on the interface `name` with a ring of `buffer` bytes.
pub(super) fn activate(plan: &LivePlan, name: &str, buffer: u64) -> Result<Capture<Active>, SourceError> {
    let refused = |cause| refusal(name, cause);
    // A timeout of 0 would be none at all.
    let delay = i32::try_from(plan.delay.as_millis()).unwrap_or(i32::MAX).max(1);
    Capture::from_device(name)
        .map_err(refused)?
        .promisc(plan.promiscuous)
        .snaplen(i32::try_from(LARGEST_FRAME).unwrap_or(i32::MAX))
        .buffer_size(i32::try_from(buffer).unwrap_or(i32::MAX))
        .timeout(delay)
        .precision(pcap::Precision::Nano)
        .open()
        .and_then(Capture::setnonblock)
        .map_err(refused)
}

/// Lets only frames of `directions` through.
///
/// libpcap's own direction check looks at every frame after the ring, and is always right. The kernel's filter keeps
/// the other frames out of the ring to begin with, but libpcap (1.10) repeats its filter in user space for the first
/// block of the ring, where `inbound` and `outbound` match nothing: the first frames would be lost. So libpcap gets the
/// expression alone, and the kernel the expression with the direction.
fn only(
    capture: &mut Capture<Active>,
    directions: Directions,
    expression: &str,
    link: &LinkLayer,
) -> Result<(), pcap::Error> {
    let direction = match directions {
        Directions::In => pcap::Direction::In,
        Directions::Out => pcap::Direction::Out,
        Directions::InOut => return Ok(()),
    };
    capture.direction(direction)?;
    // In cooked captures libpcap translates offsets for the kernel, which only it can.
    if !link.tells_direction() {
        let program = filter::program(capture, directions, expression)?;
        // A kernel that refuses the program still has libpcap's check behind it.
        if let Err(error) = SockRef::from(&*capture).attach_filter(&program) {
            tracing::debug!(%error, "the kernel took no filter for the direction");
        }
    }
    Ok(())
}

/// The MTU of the interface `name` in the network namespace of `socket`.
pub(super) fn mtu(socket: BorrowedFd<'_>, name: &str) -> Option<Mtu> {
    sys::interface::mtu(socket, name).ok().and_then(|mtu| Mtu::new(mtu.into()).ok())
}

/// What libpcap's refusal means. It tells only in words.
pub(super) fn refusal(interface: &str, cause: pcap::Error) -> SourceError {
    let interface = interface.to_owned();
    let words = cause.to_string();
    if words.contains("not permitted") || words.contains("ermission") {
        SourceError::NotPermitted { interface, cause }
    } else if words.contains("not up") {
        SourceError::InterfaceDown { interface, cause }
    } else {
        SourceError::CannotOpen { interface, cause }
    }
}

/// libpcap's 32-bit counters as totals that never wrap.
#[derive(Debug, Default)]
struct RisingDrops {
    totals: KernelDrops,
    buffer_full: u32,
    interface: u32,
}

impl RisingDrops {
    fn update(&mut self, counted: pcap::Stat) {
        self.totals.buffer_full += u64::from(counted.dropped.wrapping_sub(self.buffer_full));
        // What an interface that is gone has dropped is 0 again: no rise, and no wrap either.
        let rise = counted.if_dropped.wrapping_sub(self.interface).cast_signed();
        self.totals.interface += u64::try_from(rise).unwrap_or(0);
        (self.buffer_full, self.interface) = (counted.dropped, counted.if_dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_rise_over_a_wrap_of_the_kernel_s_counter() {
        let mut drops = RisingDrops::default();
        for dropped in [5, u32::MAX, 2] {
            drops.update(pcap::Stat { received: 0, dropped, if_dropped: 1 });
        }
        assert_eq!(drops.totals, KernelDrops { buffer_full: u64::from(u32::MAX) + 3, interface: 1, untold: 0 });
        drops.update(pcap::Stat { received: 0, dropped: 2, if_dropped: 0 });
        assert_eq!(drops.totals.interface, 1, "the interface is gone");
    }
}
