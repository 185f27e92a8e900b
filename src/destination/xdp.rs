//! The AF_XDP engine: whole outer frames from memory of our own straight to the device, past the kernel's IP stack,
//! firewall and queueing disciplines.
//!
//! What the stack does for a socket is done here: outer headers (`wire/outer_template.rs`), the next hop's address and
//! the path MTU (the destination's `Underlay`). ICMP errors are addressed to sockets, so the sockets that would have sent
//! the same datagrams are open all the same, and idle.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Patience;
use super::open_error::OpenError;
use super::outer;
use super::socket::TunnelSocket;
use super::socket_bank::take_reports;
use super::transmit::{LARGEST_PACKET, Transmit, count_dropped, count_sent};
use super::xdp_queue::{Member, Outgoing, Queue, Queues, join, join_now, lock};
use crate::config::defaults::REPLAY_PATIENCE;
use crate::config::plan::TunnelPlan;
use crate::frame::WireFrame;
use crate::kernel::underlay::Underlay;
use crate::ledger::{DestinationLedger, DropReason};
use crate::sys::xsk::Slot;
use crate::wire::ethernet;
use crate::wire::outer_template::OuterTemplate;

/// Frames that are submitted together: enough to make the system call cheap, few enough that the kernel's copy finds them
/// in the processor's caches, and that the next ones do not push them out. More would cost a tenth more CPU.
const BATCH: usize = 64;
/// How soon the kernel is asked again for fates that it did not tell at once.
const SETTLE: Duration = Duration::from_millis(1);
/// How often a lost interface is looked for, or one that is down is tried.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Longest single wait for the device: so soon a replay notices that its session is to end.
const NAP: Duration = Duration::from_millis(1);
/// How long the end of a session waits for frames that the device has not sent.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// The AF_XDP engine of one destination.
#[derive(Debug)]
pub(super) struct Xdp {
    queues: Arc<Mutex<Queues>>,
    /// `None` while the interface that the route leads through is not to be had.
    member: Option<Member>,
    look_again: Option<Instant>,
    /// Memory without a frame; the last used first, because it is still in the processor's caches.
    free: Vec<Slot>,
    waiting: Vec<Waiting>,
    /// Frames that the kernel has.
    submitted: usize,
    outer: OuterTemplate,
    /// The source port of each bucket; empty for GRE.
    ports: Vec<u16>,
    underlay: Arc<Underlay>,
    /// Sockets with the same ports: ICMP errors come to them.
    idle: Vec<TunnelSocket>,
    /// Whether the interface was down when the kernel was last asked to send: frames are then refused, so that not a ring
    /// full of them leaves late, and what it had taken before leaves when it is up again, as out of a network card's ring.
    is_down: bool,
    /// Whether a frame may wait for the device: no longer when one has waited in vain.
    may_wait: bool,
    write_failed: Option<io::Error>,
}

/// A frame that is ready but for its outer headers.
#[derive(Debug)]
struct Waiting {
    slot: Slot,
    frame: Outgoing,
    bucket: u32,
}

impl Xdp {
    /// Sends to the analyzer behind `underlay` from `ports`, to which the `idle` sockets are bound.
    ///
    /// # Errors
    /// When the queue of the interface cannot be had.
    pub(super) fn open(
        plan: &TunnelPlan,
        underlay: &Arc<Underlay>,
        idle: Vec<TunnelSocket>,
        ports: Vec<u16>,
        queues: &Arc<Mutex<Queues>>,
    ) -> Result<Self, OpenError> {
        let outer = OuterTemplate::new(&outer::headers(plan, underlay)?);
        let (member, free) = match underlay.device().map(|device| join(queues, device, underlay.mark())).transpose()? {
            Some((member, free)) => (Some(member), free),
            None => (None, Vec::new()),
        };
        Ok(Self {
            queues: Arc::clone(queues),
            member,
            look_again: None,
            waiting: Vec::with_capacity(BATCH),
            free,
            submitted: 0,
            outer,
            ports,
            underlay: Arc::clone(underlay),
            idle,
            is_down: false,
            may_wait: true,
            write_failed: None,
        })
    }

    /// Submits what waits and has the kernel send it.
    fn submit(&mut self, queue: &mut Queue, account: &mut DestinationLedger) {
        let Some(member) = &self.member else { return };
        let (source, destination) = self.underlay.ethernet();
        self.outer.set_ethernet(source, destination);
        self.submitted += self.waiting.len();
        for Waiting { mut slot, frame, bucket } in self.waiting.drain(..) {
            let port = self.ports.get(bucket as usize).copied().unwrap_or(0);
            if let Some(bytes) = slot.bytes_mut().get_mut(..frame.len) {
                self.outer.write(port, bytes);
            }
            member.submit(queue, slot, frame);
        }
        self.kick(queue, account);
    }

    /// Has the kernel send what was submitted, and gives what it has done with its fate.
    fn kick(&mut self, queue: &mut Queue, account: &mut DestinationLedger) {
        let Self { member: Some(member), free, submitted, .. } = self else { return };
        let result = member.kick(queue, &mut |done| {
            *submitted -= 1;
            match done.dropped {
                None => count_sent(account, done.frame.len - ethernet::HEADER_LEN, done.frame.cut),
                Some(reason) => count_dropped(account, reason, 1),
            }
            free.extend(done.slot);
        });
        free.extend(member.complete_share(queue));
        self.is_down = queue.is_down();
        self.write_failed = result.err().or(self.write_failed.take());
    }

    /// A replay waits until there is room again, [`REPLAY_PATIENCE`] at most.
    fn wait_for_room(&mut self, queue: &mut Queue, account: &mut DestinationLedger) {
        let mut waited = Duration::ZERO;
        while (self.free.is_empty() || self.is_down) && self.submitted > 0 && self.may_wait && self.underlay.may_wait()
        {
            sleep(NAP);
            waited += NAP;
            self.kick(queue, account);
            self.may_wait = waited < REPLAY_PATIENCE;
        }
        self.may_wait |= !self.free.is_empty() && !self.is_down;
    }

    /// Leaves the queue; what the kernel still has of ours is lost with it.
    fn leave(&mut self, account: &mut DestinationLedger) {
        if let Some(member) = self.member.take() {
            let waiting = self.waiting.drain(..);
            count_dropped(account, DropReason::InterfaceDown, waiting.len() + self.submitted);
            member.leave(self.free.drain(..).chain(waiting.map(|waiting| waiting.slot)));
            (self.submitted, self.is_down) = (0, false);
        }
    }

    /// Follows the route to another interface, or to the same one made anew.
    fn follow(&mut self, now: Instant, account: &mut DestinationLedger) {
        let Some(device) = self.underlay.device() else { return };
        let here =
            self.member.as_ref().is_some_and(|member| member.device == device && !lock(&member.queue()).is_gone());
        if here || self.look_again.is_some_and(|again| now < again) {
            return;
        }
        self.look_again = Some(now + LOOK_AGAIN);
        self.leave(account);
        match join_now(&self.queues, device, self.underlay.mark()) {
            Ok((member, slots)) => {
                self.member = Some(member);
                self.free.extend(slots);
                self.look_again = None;
            }
            Err(error) => tracing::debug!("{error}: {}; trying again", error.cause),
        }
    }
}

impl Transmit for Xdp {
    fn push(&mut self, header_len: usize, frame: &WireFrame<'_>, bucket: u32, cut: bool) -> Option<&mut [u8]> {
        let len = self.outer.len() + header_len + frame.len();
        if self.is_down || self.member.as_ref().is_none_or(|member| len > member.largest_frame) {
            return None;
        }
        if self.waiting.len() >= BATCH {
            return None;
        }
        let slot = self.free.pop()?;
        self.waiting.push(Waiting { slot, frame: Outgoing { len, cut }, bucket });
        // There is room: a slot holds the largest frame.
        let datagram = self.waiting.last_mut()?.slot.bytes_mut().get_mut(self.outer.len()..len)?;
        let (header, place) = datagram.split_at_mut_checked(header_len)?;
        frame.copy_to(place);
        Some(header)
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn each_header(&mut self, each: &mut dyn FnMut(&mut [u8])) {
        let start = self.outer.len();
        for Waiting { slot, frame, .. } in &mut self.waiting {
            each(slot.bytes_mut().get_mut(start..frame.len).unwrap_or_default());
        }
    }

    fn send(&mut self, patience: Patience, account: &mut DestinationLedger) {
        let Some(queue) = self.member.as_ref().map(Member::queue) else { return };
        let mut queue = lock(&queue);
        self.submit(&mut queue, account);
        if patience == Patience::Wait {
            self.wait_for_room(&mut queue, account);
        }
    }

    fn keep(&mut self, count: usize) -> usize {
        let forgotten = self.waiting.drain(count.min(self.waiting.len())..);
        let number = forgotten.len();
        self.free.extend(forgotten.map(|waiting| waiting.slot));
        number
    }

    fn collect_reports(&mut self, account: &mut DestinationLedger) -> Option<io::Error> {
        for socket in &mut self.idle {
            take_reports(socket, &self.underlay, &mut account.icmp);
        }
        self.write_failed.take()
    }

    fn settle(&mut self, now: Instant, account: &mut DestinationLedger) {
        if (self.submitted > 0 || self.is_down)
            && let Some(queue) = self.member.as_ref().map(Member::queue)
        {
            self.kick(&mut lock(&queue), account);
        }
        self.follow(now, account);
    }

    fn unsettled_until(&self, now: Instant) -> Option<Instant> {
        if self.member.is_none() || self.is_down {
            return Some(self.look_again.filter(|&again| again > now).unwrap_or(now + LOOK_AGAIN));
        }
        (self.submitted > 0).then(|| now + SETTLE)
    }

    fn finish(&mut self, account: &mut DestinationLedger) {
        if let Some(queue) = self.member.as_ref().map(Member::queue) {
            let (mut queue, mut waited) = (lock(&queue), Duration::ZERO);
            if self.submitted > 0 {
                self.kick(&mut queue, account);
            }
            while self.submitted > 0 && waited < LAST_PATIENCE && !queue.is_gone() {
                sleep(NAP);
                waited += NAP;
                self.kick(&mut queue, account);
            }
        }
        count_dropped(account, DropReason::Stopping, self.submitted);
        self.submitted = 0;
    }

    fn when_full(&self) -> DropReason {
        if self.member.is_none() || self.is_down { DropReason::InterfaceDown } else { DropReason::DeviceBusy }
    }

    fn largest_packet(&self) -> usize {
        let frame = self.member.as_ref().map_or(usize::MAX, |member| member.largest_frame);
        frame.saturating_sub(ethernet::HEADER_LEN).min(LARGEST_PACKET)
    }
}
