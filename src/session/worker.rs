//! The loop: one thread takes every frame from its sources to its destinations.
//!
//! No async, channel, lock, allocation, clock reading or log line for a frame; those are for the turn around many.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::SessionError;
use super::contact::Contact;
use super::governor::{self, Governed};
use super::orders::{Attachment, LetGo, Order};
use super::path::Path;
use super::pulse::Pulse;
use crate::error::Explain;
use crate::frame::{Frame, InterfaceId};
use crate::ledger::{DropReason, KernelDrops};
use crate::quantity::Timestamp;
use crate::select::account::Sightings;
use crate::select::feedback;
use crate::source::{self, Readiness, Source};

/// How long a source that is not wanted any more may have frames, which the kernel may have captured while it was.
const LONGEST_LEAVE: Duration = Duration::from_secs(1);
/// What a worker waits for at every descriptor.
const READABLE: EpollEvent = EpollEvent::new(EpollFlags::EPOLLIN, 0);
/// The event by which the control plane wakes a worker.
const WOKEN: u64 = 1;
/// Frames that one source may hand over before the batches are flushed and the others get their turn.
const BUDGET: usize = 1024;
/// Wire frames that they may become: eight full batches. What a super-frame becomes is work, not what it is.
const WIRE_BUDGET: u64 = 8192;
/// Captured frames between two looks at that budget.
const PORTION_OF_BUDGET: usize = 64;
/// Longest sleep of a session that had frames lately: so often it looks at the kernel's counters, and at what came back for
/// what it sent.
const IDLE_TURN: Duration = Duration::from_secs(1);
/// Longest sleep of a session that has had none for so long that nothing can come back any more: it has nothing to look at,
/// and only shows that it is alive. Hundreds of sessions may share a host.
const DOZE: Duration = Duration::from_secs(10);
/// When that is.
const DOZES_AFTER: Duration = Duration::from_secs(31);
/// How often the kernel is asked for its counters: each time costs system calls.
const KERNEL_INTERVAL: Duration = Duration::from_secs(1);
/// How often the ledger is shown to the control plane when a turn leaves frames behind.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// How many times `delay` frames come together where CPU time is short.
const PORTION: u32 = 4;
/// Frames of a turn that are few, so that those of several turns fit into any buffer.
const FEW: u64 = 512;
/// How long a stopped session still takes what the kernel captured before, at most: a worker that the host kept from its
/// processor, or that a burst has left behind, catches up in that.
const MOST_GRACE: Duration = Duration::from_secs(2);

/// One worker: owns its sources, its stages and its ledger, shares nothing that a frame touches.
pub(super) struct Worker {
    taps: Vec<Tap>,
    path: Path,
    pulse: Pulse,
    wake: Epoll,
    contact: Contact,
    published_at: Option<Instant>,
    asked_kernel_at: Option<Instant>,
    /// Captured frames after which the session ends by itself.
    count: u64,
    /// The timestamps of the frames that are this run's, as of this turn.
    own_time: Range<u64>,
    /// Whether all frames are, now and for ever.
    is_sole: bool,
    /// Whether the other run was gone when the latest turn began.
    is_alone: bool,
    /// How long the kernel may still hand over what it captured before a source, or the session, was to end.
    grace: Duration,
    /// What the kernel dropped before sources that were let go: totals only rise.
    dropped_before: KernelDrops,
    /// How long frames come together where CPU time is short.
    portion: Duration,
    /// How many frames the latest turn found.
    found: u64,
    /// The latest turn that found any.
    found_at: Option<Instant>,
    /// For a session with limits.
    governed: Option<Governed>,
    /// Where the workers of the session say together that more frames look own than were sent.
    sightings: Sightings,
    /// How many such frames of this worker were noted there.
    noted_excess: u64,
    /// Which losses this worker has seen explained.
    explained: [bool; 2],
    /// Whether it was said that frames came cut.
    has_told_cut: bool,
}

/// A source with what the worker remembers about it.
struct Tap {
    attachment: Attachment,
    /// What its frames, and so the destinations, call its interface.
    interface: InterfaceId,
    source: Box<dyn Source>,
    readiness: Readiness,
    /// The last answer, kept when the source is gone.
    kernel_drops: KernelDrops,
    /// When it is let go: the control plane does not want it any more.
    leaves_at: Option<Instant>,
    /// Why it ended, until whoever follows interfaces hears of it.
    failure: Option<Box<dyn Explain>>,
}

impl Tap {
    fn new(attachment: Attachment, interface: InterfaceId, source: Box<dyn Source>) -> Self {
        let (readiness, kernel_drops) = (Readiness::More, KernelDrops::default());
        Self { attachment, interface, source, readiness, kernel_drops, leaves_at: None, failure: None }
    }

    /// Whether its frames were captured before: a file's.
    fn is_recorded(&self) -> bool {
        self.source.is_recorded()
    }
}

impl Worker {
    /// Prepares the loop. `delay` is how long the kernel may keep a captured frame; `count` ends the session after so
    /// many captured frames.
    ///
    /// # Errors
    /// When the kernel has no descriptor left for `epoll`.
    pub(super) fn new(
        sources: Vec<Box<dyn Source>>,
        path: Path,
        contact: Contact,
        delay: Duration,
        count: Option<u64>,
    ) -> nix::Result<Self> {
        let wake = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        wake.add(contact.stop.descriptor(), EpollEvent::new(EpollFlags::EPOLLIN, WOKEN))?;
        for source in &sources {
            if let Some(descriptor) = source.descriptor() {
                wake.add(descriptor, READABLE)?;
            }
        }
        let pulse = Pulse::new(contact.published.clone(), contact.stop.clone(), source::grace(delay) + MOST_GRACE);
        // The sources of a session that starts are those of its interfaces, in their order.
        let numbered = (0..).map(Attachment).zip((0..=u16::MAX).map(InterfaceId)).zip(sources);
        let taps = numbered.map(|((attachment, interface), source)| Tap::new(attachment, interface, source)).collect();
        Ok(Self {
            taps,
            path,
            pulse,
            wake,
            contact,
            published_at: None,
            asked_kernel_at: None,
            count: count.unwrap_or(u64::MAX),
            own_time: 0..u64::MAX,
            is_sole: false,
            is_alone: false,
            grace: source::grace(delay),
            dropped_before: KernelDrops::default(),
            portion: PORTION * delay,
            found: 0,
            found_at: None,
            governed: None,
            sightings: Sightings::default(),
            noted_excess: 0,
            explained: [false; 2],
            has_told_cut: false,
        })
    }

    /// Has this worker say together with others that more frames look own than were sent.
    pub(super) fn telling_of_excess(self, sightings: Sightings) -> Self {
        Self { sightings, ..self }
    }

    /// Has this worker keep within what its governor allows.
    pub(super) fn govern(&mut self, shared: &Arc<governor::Shared>) {
        self.path.selector.limit();
        self.governed = Some(Governed::new(Arc::clone(shared), Instant::now()));
    }

    /// Mirrors until the sources end, the count is reached or the session is stopped. Then every frame has its fate, and
    /// the published ledger is the whole account.
    pub(super) fn run(&mut self) {
        let mut stop_by = None;
        let mut now = Instant::now();
        loop {
            self.wait(now);
            now = Instant::now();
            if self.contact.orders.are_waiting() {
                self.carry_out(now);
            }

            if self.asked_kernel_at.is_some_and(|asked| now >= asked + 2 * KERNEL_INTERVAL) {
                // What sources know of their interfaces, and destinations of their ways, is from before a long sleep.
                self.asked_kernel_at = Some(now);
                self.ask_kernel(false);
                self.path.destinations.flush(now, &mut self.path.ledger);
            }
            self.see_takeover();
            self.follow_window(now);
            let (captured, offered) = (self.path.ledger.captured, self.path.ledger.offered);
            self.path.selector.catch_up();
            self.path.destinations.look();
            let oldest = self.drain(now, stop_by.is_some());
            self.let_go();
            self.path.destinations.flush(now, &mut self.path.ledger);
            self.measure(oldest, self.path.ledger.offered - offered);
            self.look_after_own(now);
            self.found = self.path.ledger.captured - captured;
            if self.found > 0 {
                self.found_at = Some(now);
            }
            self.settle(now, self.found);
            self.watch_feedback();
            self.tell_use(now);

            if self.contact.stop.is_requested() && stop_by.is_none() {
                // What the kernel captured before still sits in its buffer: give it time to hand that over.
                stop_by = Some(now + self.grace);
            }
            self.explain_losses();
            if self.pulse.is_halted() || self.has_ended() || stop_by.is_some_and(|by| self.may_leave(now, by)) {
                break;
            }
        }
        self.see_takeover();
        for tap in &mut self.taps {
            let Self { path, pulse, count, own_time, .. } = self;
            let recorded = tap.is_recorded();
            path.selector.look_at(tap.source.place());
            tap.source.finish(&mut |frame| {
                if path.ledger.captured < *count && is_own(frame, recorded, own_time) {
                    path.take(frame, pulse);
                }
            });
        }
        self.path.selector.catch_up();
        self.path.destinations.finish(now, &mut self.path.ledger);
        self.ask_kernel(true);
        // A state, and there is nothing any more that could be in it.
        self.path.ledger.loop_alarm = 0;
        self.contact.published.update(&self.path.ledger);
    }

    /// Gives what this worker held a fate, and shows its whole account, after it was interrupted in the middle of a turn.
    pub(super) fn close_account(&mut self) {
        self.path.ledger.close(DropReason::Crashed);
        self.contact.published.update(&self.path.ledger);
    }

    /// Looks which frames are this run's. Where it takes another's place, timestamps tell them apart; once that one is gone,
    /// and what both captured has been seen, all are: a clock that is set back must not keep them out. It has been seen when
    /// a turn that began afterwards has left nothing.
    fn see_takeover(&mut self) {
        self.own_time = self.contact.takeover.read();
        self.is_sole |= self.is_alone && !self.is_behind();
        self.is_alone = self.contact.takeover.is_sole();
        if self.is_sole {
            self.own_time.start = 0;
        }
    }

    /// Whether the latest turn left frames that a source has.
    fn is_behind(&self) -> bool {
        self.taps.iter().any(|tap| tap.readiness == Readiness::More)
    }

    /// Whether nothing has said yet that this run begins.
    fn is_held(&self) -> bool {
        self.own_time.start == u64::MAX
    }

    /// Follows the window that the governor has set.
    fn follow_window(&mut self, now: Instant) {
        if let (Some(governed), Some(shed)) = (&mut self.governed, self.path.selector.shed_mut()) {
            governed.follow(now, &self.path.ledger, shed);
        }
    }

    /// Looks whether what the turn captured is what the session sent, and pauses where that has to be tried.
    fn watch_feedback(&mut self) {
        let Path { selector, destinations, ledger, .. } = &mut self.path;
        let Some(feedback) = selector.feedback_mut() else { return };
        let sent = destinations.take_lengths();
        // The frames' clock is the wall clock; only a turn with frames has news.
        if self.found == 0 && sent.is_empty() && !feedback.is_testing() {
            return;
        }
        match feedback.end_turn(Timestamp::now().nanos(), &sent) {
            feedback::Order::GoOn => {}
            feedback::Order::Pause(pause) => self.pause(pause),
            feedback::Order::Raise(alarm) => {
                ledger.loop_alarm = 1;
                tracing::error!("{alarm}");
            }
            feedback::Order::Clear => {
                ledger.loop_alarm = 0;
                tracing::warn!("the mirror loop has ended: the session sends every frame again");
            }
        }
    }

    /// Leaves frames in the capture buffers for so long, unless somebody wants something of the worker.
    fn pause(&mut self, pause: Duration) {
        /// How soon a stop request or an order is seen.
        const STEP: Duration = Duration::from_millis(5);
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if self.contact.stop.is_requested() || self.contact.orders.are_waiting() {
                if let Some(feedback) = self.path.selector.feedback_mut() {
                    feedback.cancel();
                }
                return;
            }
            std::thread::sleep(left.min(STEP));
        }
    }

    /// Tells the governor what the turn used.
    fn tell_use(&mut self, now: Instant) {
        let is_behind = self.is_behind();
        if let (Some(governed), Some(shed)) = (&mut self.governed, self.path.selector.shed_mut()) {
            governed.tell(now, is_behind, &self.path.ledger, shed);
        }
    }

    /// Says when more frames look like own tunnels than were sent, and has the account of those that were sent forget what
    /// nobody will see any more.
    fn look_after_own(&mut self, now: Instant) {
        let is_behind = self.is_behind();
        let own = self.path.selector.own_traffic_mut();
        if !is_behind {
            own.forget(now);
        }
        let all = self.path.ledger.not_selected[DropReason::OwnExcess];
        let new = all - self.noted_excess;
        if new == 0 {
            return;
        }
        self.noted_excess = all;
        if let (Some(frames), Some(excess)) = (self.sightings.note_excess(new, now), own.take_excess()) {
            tracing::warn!(
                "{frames} frames look like the tunnel {excess}, which has sent fewer: another program sends them, or they \
                 come back; they are not mirrored, and counted as own_excess"
            );
        }
    }

    /// Sleeps until a source has frames, a deadline comes or the session is stopped.
    fn wait(&mut self, now: Instant) {
        if self.is_behind() {
            return;
        }
        let filling = self.taps.iter().filter_map(|tap| match tap.readiness {
            Readiness::Filling(until) => Some(until),
            _ => None,
        });
        if let Some(until) = filling.min().filter(|_| !self.contact.stop.is_requested()) {
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            return;
        }
        let deadlines = self.taps.iter().filter_map(|tap| match tap.readiness {
            Readiness::Until(deadline) => Some(deadline),
            _ => None,
        });
        let deadlines = deadlines.chain(self.taps.iter().filter_map(|tap| tap.leaves_at));
        let longest = if self.contact.stop.is_requested() {
            // A stopped session has no more to do than to empty the kernel's buffers.
            self.grace
        } else if self.found_at.is_some_and(|found| now < found + DOZES_AFTER) {
            IDLE_TURN
        } else {
            DOZE
        };
        let deadline = deadlines.chain(self.path.destinations.deadline()).min();
        let patience = deadline.map_or(longest, |deadline| deadline.saturating_duration_since(now).min(longest));
        if patience < Duration::from_millis(1) {
            // epoll counts in whole milliseconds; a paced replay asks for less.
            std::thread::sleep(patience);
        } else {
            let timeout = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::ZERO);
            let mut event = [EpollEvent::empty(); 1];
            // An interrupted or failed wait only makes this turn come early.
            if self.wake.wait(&mut event, timeout) == Ok(1) && event[0].data() == WOKEN {
                // Whoever woke us said why before: this turn sees it.
                self.contact.stop.acknowledge();
            }
        }
        self.let_come_together();
    }

    /// Lets more frames come where CPU time is short, so that they cost one turn together, as long as there are few of them:
    /// the buffer holds many times as many.
    fn let_come_together(&mut self) {
        let in_portions = self.path.selector.shed_mut().is_some_and(|shed| shed.window().in_portions);
        if in_portions && self.found < FEW && !self.contact.stop.is_requested() {
            std::thread::sleep(self.portion);
        }
    }

    /// Takes what the sources have, in turn, and says when the oldest of the live frames was captured.
    fn drain(&mut self, now: Instant, stopping: bool) -> Option<Timestamp> {
        let is_held = self.is_held();
        let Self { taps, path, pulse, contact, count, wake, own_time, .. } = self;
        let mut oldest = None;
        for tap in taps.iter_mut().filter(|tap| tap.readiness != Readiness::Ended) {
            // A source that fails gives what it still holds, be it over the budget.
            let left = count.saturating_sub(path.ledger.captured);
            let budget = usize::try_from(left).map_or(BUDGET, |left| left.min(BUDGET));
            let recorded = tap.is_recorded();
            if budget == 0 {
                // The count is reached and the session ends; what the kernel dropped here is still to be asked.
                continue;
            }
            if stopping && recorded {
                tap.readiness = Readiness::Ended;
                continue;
            }
            if is_held && recorded {
                // It would send what nobody wants to be sent yet.
                tap.readiness = Readiness::Waiting;
                continue;
            }
            path.selector.look_at(tap.source.place());
            let (mut first, mut is_over) = (Timestamp::MAX, false);
            let (mut left, wire_budget) = (budget, path.ledger.wire_frames() + WIRE_BUDGET);
            let drained = loop {
                let portion = left.min(PORTION_OF_BUDGET);
                tap.source.tell_interfaces(&mut |interface, name, file| {
                    path.destinations.learn_recorded_interface(interface, name, file);
                });
                let drained = tap.source.drain(now, portion, &mut |frame| {
                    if is_own(frame, recorded, own_time) {
                        first = first.min(frame.timestamp);
                        path.take(frame, pulse);
                    } else {
                        is_over |= frame.timestamp.nanos() >= own_time.end;
                    }
                });
                left -= portion;
                let is_spent = left == 0 || path.ledger.wire_frames() >= wire_budget || pulse.is_halted();
                if is_spent || !matches!(drained, Ok(Readiness::More)) {
                    break drained;
                }
            };
            tap.readiness = drained.unwrap_or_else(|failure| {
                if contact.returns.is_some() {
                    tap.failure = Some(failure);
                } else {
                    contact.failures.report(failure);
                }
                // What its buffer still holds would keep it readable, and the worker awake, for ever.
                let _ = tap.source.descriptor().map(|descriptor| wake.delete(descriptor));
                Readiness::Ended
            });
            if stopping && is_over {
                // What comes now is another run's.
                tap.readiness = Readiness::Waiting;
            }
            // When a recorded frame was captured says nothing about its way through here.
            if !recorded && first < Timestamp::MAX {
                oldest = Some(oldest.map_or(first, |oldest: Timestamp| oldest.min(first)));
            }
            // A busy one has more for ever.
            let may_leave = |at| now >= at && (tap.readiness != Readiness::More || now >= at + LONGEST_LEAVE);
            if tap.leaves_at.is_some_and(may_leave) {
                let _ = tap.source.descriptor().map(|descriptor| wake.delete(descriptor));
                tap.readiness = Readiness::Ended;
            }
        }
        oldest
    }

    /// Does what the control plane has ordered.
    fn carry_out(&mut self, now: Instant) {
        for order in self.contact.orders.take() {
            match order {
                Order::Attach { attachment, interface, name, source } => {
                    self.path.destinations.learn_interface(interface, &name);
                    let added = source.descriptor().map_or(Ok(()), |descriptor| self.wake.add(descriptor, READABLE));
                    let mut tap = Tap::new(attachment, interface, source);
                    if let Err(cause) = added {
                        tap.readiness = Readiness::Ended;
                        tap.failure = Some(SessionError::Resources { cause: cause.into() }.into());
                    }
                    self.taps.push(tap);
                }
                Order::Rename { attachment, name } => {
                    for tap in self.taps.iter().filter(|tap| tap.attachment == attachment) {
                        // Another device may have got the number of one that is gone: the frames that are left are of the
                        // old name.
                        if tap.source.is_attached() {
                            self.path.destinations.learn_interface(tap.interface, &name);
                        }
                    }
                }
                Order::Detach { attachment } => {
                    for tap in self.taps.iter_mut().filter(|tap| tap.attachment == attachment) {
                        tap.leaves_at = Some(now + self.grace);
                    }
                }
                Order::Govern(shared) => self.govern(&shared),
            }
        }
    }

    /// Gives back the sources that have ended, to whoever follows interfaces: they hold no frame any more, and what the
    /// kernel dropped before them is counted.
    fn let_go(&mut self) {
        let Self { taps, path, pulse, contact, dropped_before, own_time, .. } = self;
        let Some(returns) = &contact.returns else { return };
        for mut tap in taps.extract_if(.., |tap| tap.readiness == Readiness::Ended) {
            let recorded = tap.is_recorded();
            path.selector.look_at(tap.source.place());
            tap.source.finish(&mut |frame| {
                if is_own(frame, recorded, own_time) {
                    path.take(frame, pulse);
                }
            });
            *dropped_before = *dropped_before + tap.source.kernel_drops();
            path.destinations.forget_interface(tap.interface);
            let Tap { attachment, source, failure, .. } = tap;
            // Nobody waits for it any more when the session is abandoned.
            let _ = returns.send(LetGo { attachment, source, failure });
        }
    }

    /// Explains in the log, once a session, losses that somebody else's frames cause.
    fn explain_losses(&mut self) {
        const EXPLAINED: [DropReason; 2] = [DropReason::TooManySegments, DropReason::SegmentOverload];
        for (reason, is_explained) in EXPLAINED.into_iter().zip(&mut self.explained) {
            if !*is_explained && self.path.ledger.not_normalised[reason] > 0 {
                *is_explained = true;
                if self.contact.failures.is_first(reason.label()) {
                    let (label, sentence, remedy) = (reason.label(), reason.sentence(), reason.remedy());
                    tracing::warn!("frames are dropped as {label}: {sentence}; {remedy}");
                }
            }
        }
    }

    /// Measures how long the frames of this turn took at most: the wall clock is read once for all of them.
    fn measure(&mut self, oldest: Option<Timestamp>, frames: u64) {
        if let Some(oldest) = oldest.filter(|_| frames > 0) {
            self.path.ledger.delays.record(oldest, Timestamp::now(), frames);
        }
    }

    /// Proves that the ledger balances, and shows it: before every wait, and that is any turn that found less than it
    /// could take, because a pipe does not say whether the next read will wait.
    fn settle(&mut self, now: Instant, found: u64) {
        if is_due(&mut self.asked_kernel_at, now, KERNEL_INTERVAL) {
            self.ask_kernel(false);
        }
        debug_assert_eq!(self.path.ledger.balance(), Ok(()));
        if self.path.ledger.cut > 0 && !self.has_told_cut {
            self.has_told_cut = true;
            if self.path.destinations.have_a_tunnel() {
                tracing::warn!(
                    "frames come cut, shorter than they were on the wire, and are mirrored so: an IDS ignores such packets; \
                     the ledger counts them (cut)"
                );
            }
        }
        self.contact.published.note_turn(found > 0);
        if is_due(&mut self.published_at, now, PUBLISH_INTERVAL) || found < BUDGET as u64 {
            self.contact.published.update(&self.path.ledger);
        }
    }

    /// Takes the kernel's own counters into the ledger, and what sources tell about senders.
    fn ask_kernel(&mut self, end: bool) {
        for tap in self.taps.iter_mut().filter(|tap| tap.readiness != Readiness::Ended) {
            tap.kernel_drops = tap.source.kernel_drops();
        }
        self.path.ledger.kernel = self.taps.iter().fold(self.dropped_before, |sum, tap| sum + tap.kernel_drops);
        if self.path.ledger.kernel.untold > 0 && self.contact.failures.is_first("untold") {
            tracing::warn!(
                "the kernel drops frames whose segmentation offload it cannot describe to a packet ring (UFO, SCTP): switch \
                 that offload off where they are made, or capture with engine = \"pcap\""
            );
        }
        self.path.ledger.senders.update(|all| self.taps.iter_mut().for_each(|tap| tap.source.senders(end, all)));
    }

    /// Whether a stopped session may leave what its sources still hold: when they have nothing more, or nothing from its
    /// time; or when even a full buffer has been emptied, and it is a busy interface that has more for ever.
    fn may_leave(&self, now: Instant, by: Instant) -> bool {
        self.contact.stop.is_urgent() || now >= by && (!self.is_behind() || now >= by + MOST_GRACE)
    }

    /// Whether there is nothing left to do. Where interfaces are followed, others may come.
    fn has_ended(&self) -> bool {
        (self.contact.returns.is_none() && self.taps.iter().all(|tap| tap.readiness == Readiness::Ended))
            || self.path.ledger.captured >= self.count
            || self.path.destinations.are_gone()
    }
}

/// Whether a frame is this run's. What a file holds was captured before there was a run.
fn is_own(frame: &Frame<'_>, recorded: bool, own_time: &Range<u64>) -> bool {
    recorded || own_time.contains(&frame.timestamp.nanos())
}

/// Whether `interval` has passed since `last`, which then becomes `now`.
fn is_due(last: &mut Option<Instant>, now: Instant, interval: Duration) -> bool {
    let due = last.is_none_or(|last| now >= last + interval);
    if due {
        *last = Some(now);
    }
    due
}

#[cfg(test)]
impl Worker {
    /// The part of a turn that meets orders, sources and destinations.
    pub(super) fn turn_once(&mut self, now: Instant) {
        self.carry_out(now);
        self.drain(now, false);
        self.let_go();
        self.path.destinations.flush(now, &mut self.path.ledger);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, PipeReader, Write as _};
    use std::num::NonZeroU16;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::testing::{self, MadeUp};
    use super::*;
    use crate::frame::{At, Offload, Unfinished};
    use crate::ledger::Ledger;
    use crate::source::SourceError;

    /// What a worker with these sources counts, and how many things go wrong.
    fn run(sources: Vec<Box<dyn Source>>, count: Option<u64>) -> (Ledger, usize) {
        let contact = testing::contact();
        testing::worker(sources, &contact, count).run();
        (contact.published.read(), contact.failures.take().len())
    }

    /// An interface that goes away while so many frames wait in the source itself, and `ring` is readable.
    fn vanished(ring: PipeReader, held: usize) -> Box<dyn Source> {
        MadeUp::behind(ring, move |_, _, each| {
            (0..held).for_each(|_| each(&testing::FRAME));
            let (interface, cause) = ("eth7".to_owned(), pcap::Error::PcapError("the interface disappeared".into()));
            Err(Box::new(SourceError::CaptureEnded { interface, cause }))
        })
    }

    /// A buffer with so many frames that it takes longer to empty than the kernel takes to hand it over.
    fn slow(ring: PipeReader, mut left: u32) -> Box<dyn Source> {
        MadeUp::behind(ring, move |_, _, each| {
            if left == 0 {
                return Ok(Readiness::Waiting);
            }
            std::thread::sleep(Duration::from_millis(1));
            left -= 1;
            each(&testing::FRAME);
            Ok(Readiness::More)
        })
    }

    fn captured_after_a_stop(held: u32) -> u64 {
        let (contact, (ring, _writer)) = (testing::contact(), io::pipe().unwrap());
        contact.stop.request();
        testing::worker(vec![slow(ring, held)], &contact, None).run();
        contact.published.read().captured
    }

    /// A replay that waits for one frame, counts how often it is asked for it, and ends without it.
    fn waiting(asked: &Arc<AtomicU32>) -> Box<dyn Source> {
        let (asked, mut until) = (Arc::clone(asked), None);
        MadeUp::always_ready(0, move |now, _, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            let until = *until.get_or_insert(now + Duration::from_millis(50));
            Ok(if now < until { Readiness::Until(until) } else { Readiness::Ended })
        })
    }

    /// A busy interface: as many frames as anybody takes, and five lost by the kernel.
    fn busy() -> Box<dyn Source> {
        MadeUp::always_ready(5, |_, budget, each| {
            (0..budget).for_each(|_| each(&testing::FRAME));
            Ok(Readiness::More)
        })
    }

    #[test]
    fn a_count_takes_so_many_frames_and_what_the_kernel_dropped_at_every_source() {
        for count in [700, 100] {
            let (ledger, _) = run(vec![busy(), busy()], Some(count));
            assert_eq!((ledger.captured, ledger.kernel.buffer_full), (count, 10));
        }
    }

    #[test]
    fn timestamps_tell_whose_a_frame_is_until_the_other_run_is_gone_and_its_frames_are() {
        let contact = testing::contact();
        contact.takeover.close();
        let mut worker = testing::worker(vec![busy()], &contact, None);
        let mut own_time = || {
            worker.see_takeover();
            worker.own_time.clone()
        };
        assert_eq!(own_time(), u64::MAX..u64::MAX, "it waits for its moment");
        contact.takeover.begin_at(Timestamp::from_nanos(1000));
        assert_eq!(own_time(), 1000..u64::MAX);
        contact.takeover.begin();
        assert_eq!(own_time(), 1000..u64::MAX, "what both captured may still be there");
        assert_eq!(own_time(), 1000..u64::MAX, "more of it than a turn takes");
        worker.taps[0].readiness = Readiness::Waiting;
        worker.see_takeover();
        assert_eq!(worker.own_time, 0..u64::MAX);
    }

    #[test]
    fn a_replay_waits_for_its_moment_like_an_interface() {
        let contact = testing::contact();
        contact.takeover.close();
        let mut worker = testing::worker(vec![busy()], &contact, None);
        let mut captured_in_a_turn = || {
            worker.see_takeover();
            worker.drain(Instant::now(), false);
            std::mem::take(&mut worker.path.ledger.captured)
        };
        assert_eq!(captured_in_a_turn(), 0, "somebody may still decide against it");
        contact.takeover.begin();
        assert!(captured_in_a_turn() > 0);
    }

    #[test]
    fn an_event_that_comes_after_its_order_is_one_turn_more() {
        let contact = testing::contact();
        let asked = Arc::new(AtomicU32::new(0));
        // The worker was awake and has seen to the order already.
        contact.stop.wake();
        testing::worker(vec![waiting(&asked)], &contact, None).run();
        assert!(asked.load(Ordering::Relaxed) <= 5, "asked {asked:?} times");
    }

    #[test]
    fn a_stopped_session_takes_what_was_captured_before_however_slow_it_is() {
        assert_eq!(captured_after_a_stop(50), 50);
    }

    #[test]
    fn a_stopped_session_leaves_an_interface_that_has_more_for_ever() {
        let asked = Instant::now();
        assert!(captured_after_a_stop(u32::MAX) > 0);
        assert!(asked.elapsed() >= MOST_GRACE, "it may be only behind");
    }

    /// A super-frame of 530 segments.
    fn super_frame() -> Box<dyn Source> {
        MadeUp::always_ready(0, |_, _, each| {
            const SIZE: u16 = 500;
            let mut bytes = Vec::new();
            let headers = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 7], [192, 0, 2, 8], 64);
            headers.tcp(40_000, 80, 1, 1000).ack(1).write(&mut bytes, &[0x5a; 60]).unwrap();
            bytes.resize(54 + 530 * usize::from(SIZE), 0x5a);
            let checksum = Some(At { start: 34, offset: 16 });
            let offload = Offload::Exact(Unfinished { segment: NonZeroU16::new(SIZE), checksum });
            let wire_len = u32::try_from(bytes.len()).unwrap();
            each(&Frame { bytes: &bytes, wire_len, offload, ..testing::FRAME });
            Ok(Readiness::Ended)
        })
    }

    #[test]
    fn a_session_that_ends_inside_a_super_frame_has_a_whole_ledger() {
        let contact = testing::contact();
        contact.stop.hurry();
        testing::worker(vec![super_frame()], &contact, None).run();
        let ledger = contact.published.read();
        assert_eq!(ledger.balance(), Ok(()));
        let stopping = ledger.not_normalised[DropReason::Stopping];
        assert_eq!((ledger.captured, ledger.segments_added, ledger.offered + stopping), (1, 529, 530));
        assert!(stopping > 0 && ledger.destinations[0].sent == ledger.offered, "{ledger:?}");
    }

    #[test]
    fn what_a_failing_source_still_held_may_exceed_the_count() {
        let (ring, _writer) = io::pipe().unwrap();
        let (ledger, failures) = run(vec![vanished(ring, 10), busy()], Some(5));
        assert_eq!((ledger.captured, failures), (10, 1));
    }

    #[test]
    fn a_source_that_failed_wakes_nobody_any_more() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"unread").unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let (_, failures) = run(vec![vanished(reader, 0), waiting(&asked)], None);
        assert_eq!(failures, 1);
        // At first, when the time has come, and twice more because waits end at whole milliseconds.
        assert!(asked.load(Ordering::Relaxed) <= 4, "asked {asked:?} times");
    }
}
