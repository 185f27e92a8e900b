//! A tunnel to one analyzer: fit, encapsulate with the one copy, batch, send.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Patience;
use super::dry_run::DryRun;
use super::encapsulate::{Encapsulator, Stream, outer_len};
use super::fit::Fitter;
use super::next_hop::{NextHopGate, Passage};
use super::notices::{Notices, Said};
use super::open_error::{CannotOpen, OpenError};
use super::runs::Runs;
use super::socket::TunnelSocket;
use super::socket_bank::SocketBank;
use super::transmit::{Transmit, count_dropped};
use super::xdp::Xdp;
use super::{Shared, raw_ip, udp};
use crate::config::defaults::{NEXT_HOP_QUEUE, SOURCE_PORTS};
use crate::config::local_end::CaptureFilePlan;
use crate::config::plan::{DestinationPlan, Encapsulation, TransmitPlan, TunnelPlan};
use crate::frame::{InterfaceId, WireFrame};
use crate::kernel::capabilities::Capability;
use crate::kernel::underlay::Underlay;
use crate::ledger::{DestinationLedger, DropReason, IcmpReports};
use crate::lengths::Lengths;
use crate::select::account::{Account, Sent};
use crate::wire::carrier::OwnTunnel;
use crate::wire::pcapng::Interface;

/// A tunnel to one analyzer.
#[derive(Debug)]
pub struct Tunnel {
    fitter: Fitter,
    /// Largest frame that fits the path MTU with its encapsulation, unless the kernel fragments what does not, and that
    /// can be sent, in bytes; as of the latest flush.
    room: usize,
    underlay: Arc<Underlay>,
    outbox: Outbox,
    notices: Notices,
    /// Whether another worker's socket gets the same ICMP reports: those of GRE have no port, so each raw socket gets all.
    repeats_reports: bool,
    own: Option<OwnTunnel>,
}

/// Everything behind the fit: datagrams on their way out.
#[derive(Debug)]
struct Outbox {
    encapsulator: Encapsulator,
    /// What stands before a frame in its packet, in bytes: outer IP and UDP, and the tunnel header.
    overhead: usize,
    /// How many buckets the engine has: one a source port; 0 counts as 1.
    buckets: u32,
    engine: Box<dyn Transmit>,
    /// The dry run has none: nobody needs to answer it.
    gate: Option<NextHopGate>,
    /// Lengths of what was given to the engine since they were taken.
    lengths: Lengths,
    /// When the engine must be asked for fates again.
    unsettled_until: Option<Instant>,
    patience: Patience,
    /// Counts what is given to the engine, so that nobody else's frames pass for ours.
    sent: Sent,
}

impl Tunnel {
    /// Opens the sockets, or the dry run's file, of `destination`, whose tunnel is `plan`. Ids are resolved for
    /// `interfaces`, the session's list.
    ///
    /// # Errors
    /// What the kernel does not permit or have, or an interface without an id.
    pub fn open(
        destination: &DestinationPlan,
        plan: &TunnelPlan,
        underlay: &Arc<Underlay>,
        interfaces: &[String],
        patience: Patience,
        shared: &mut Shared,
    ) -> Result<Self, CannotOpen> {
        let encapsulator = Encapsulator::new(&plan.encapsulation, interfaces);
        encapsulator
            .and_then(|mut encapsulator| {
                encapsulator.share(shared.counters(&destination.name, &plan.encapsulation));
                Ok((encapsulator, open_engine(destination, plan, underlay, patience, shared)?))
            })
            .map(|(encapsulator, engine)| {
                let notices = (shared.said(&destination.name), shared.worker > 0);
                let sent = shared.sent(&destination.name);
                Self::assemble(plan, underlay, encapsulator, engine, (patience, sent), notices)
            })
            .map_err(|error| CannotOpen { destination: destination.place(), error })
    }

    /// Resolves the ids for an interface of this name, which frames call `interface` from now on. Where it has none, its
    /// frames are dropped as [`DropReason::UnknownInterface`].
    pub fn learn_interface(&mut self, interface: InterfaceId, name: &str) {
        if let Err(error) = self.outbox.encapsulator.learn(interface, name) {
            tracing::error!("{error}");
        }
    }

    /// Whether the plan has an id for an interface of this name.
    pub fn has_id_for(&self, name: &str) -> bool {
        self.outbox.encapsulator.has_id_for(name)
    }

    /// Forgets an interface, whose number another one may get.
    pub fn forget_interface(&mut self, interface: InterfaceId) {
        self.outbox.encapsulator.forget(interface);
    }

    /// Fits, encapsulates and batches one frame.
    pub fn offer(&mut self, frame: &WireFrame<'_>, account: &mut DestinationLedger) {
        let outbox = &mut self.outbox;
        let Some(stream) = outbox.encapsulator.stream_of(frame) else {
            account.dropped[DropReason::UnknownInterface] += 1;
            return;
        };
        match self.fitter.fit(frame, self.room, |piece, cut| outbox.push(piece, stream, cut, account)) {
            Ok(pieces) => account.split_added += pieces - 1,
            Err(reason) => account.dropped[reason] += 1,
        }
    }

    /// Sends the batch, if the next hop can be reached; also takes in what came back since the last time.
    pub fn flush(&mut self, now: Instant, account: &mut DestinationLedger) {
        self.outbox.engine.settle(now, account);
        self.outbox.release(Some(now), account);
        self.outbox.unsettled_until = self.outbox.engine.unsettled_until(now);
        self.forget_repeated(account);
        if self.notices.next_look.is_due(now) && self.notices.expects_reports(now, account) {
            self.report(now, account);
        }
        self.refresh_room(account);
    }

    /// Sends or drops what is in flight.
    pub fn finish(&mut self, now: Instant, account: &mut DestinationLedger) {
        self.outbox.release(Some(now), account);
        self.outbox.abandon(DropReason::Stopping, account);
        self.outbox.engine.finish(account);
        self.report(now, account);
    }

    /// Takes in the ICMP reports that no send has met, and says what is new.
    fn report(&mut self, now: Instant, account: &mut DestinationLedger) {
        let failure = self.outbox.engine.collect_reports(account);
        self.forget_repeated(account);
        self.notices.say(now, account, failure);
        self.notices.say_cost(now, account, &self.underlay);
    }

    /// Leaves ICMP reports to the worker that counts them.
    fn forget_repeated(&self, account: &mut DestinationLedger) {
        if self.repeats_reports {
            account.icmp = IcmpReports::default();
        }
    }

    /// Adds the lengths of the datagrams since the last time to `sent`, in bytes of outer IP packets.
    pub fn take_lengths(&mut self, sent: &mut Lengths) {
        sent.extend(&std::mem::take(&mut self.outbox.lengths));
    }

    /// Whether nothing can leave any more: it is a dry run into a pipe whose reader has ended.
    pub fn is_closed(&self) -> bool {
        self.outbox.engine.is_closed()
    }

    /// The error with which the kernel last refused a datagram that was then `write_failed`.
    pub fn last_refusal(&self) -> Option<String> {
        self.notices.last_refusal()
    }

    /// When a held batch, or what the kernel has not finished, must be looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        let held = self.outbox.gate.as_ref().and_then(NextHopGate::deadline);
        held.into_iter().chain(self.outbox.unsettled_until).min()
    }

    /// What our datagrams look like on the underlay; `None` for a dry run, of which none leaves.
    pub fn own_tunnel(&self) -> Option<&OwnTunnel> {
        self.own.as_ref()
    }

    /// How many of them there are, and where they may be seen; `None` for a dry run.
    pub fn account(&self) -> Option<Account> {
        let nearby = Arc::clone(self.underlay.nearby());
        self.own.is_some().then(|| Account { sent: self.outbox.sent.clone(), nearby })
    }

    /// The path MTU may have changed: by an ICMP report, or by the kernel's routes.
    fn refresh_room(&mut self, account: &DestinationLedger) {
        let room = self.outbox.room(&self.fitter, &self.underlay);
        if room != self.room {
            self.notices.say_room(account, self.underlay.mtu(), room);
            self.room = room;
        }
    }
}

impl Outbox {
    /// [`Tunnel::room`] as way and engine are now.
    fn room(&self, fitter: &Fitter, underlay: &Underlay) -> usize {
        let path = if fitter.leaves_to_kernel() { usize::MAX } else { underlay.mtu().value() as usize };
        self.engine.largest_packet().min(path).saturating_sub(self.overhead)
    }

    /// Takes one frame that is ready to leave: the tunnel header in front, the one copy behind it.
    fn push(&mut self, frame: &WireFrame<'_>, stream: Stream, cut: bool, account: &mut DestinationLedger) {
        account.in_flight += 1;
        if !self.try_push(frame, stream, cut) {
            self.release(None, account);
            if !self.try_push(frame, stream, cut) {
                // The engine is full of frames that are held for the next hop, or that the device has not sent yet.
                let is_held = self.engine.waiting() > 0;
                let reason = if is_held { DropReason::Unreachable } else { self.engine.when_full() };
                count_dropped(account, reason, 1);
            }
        }
    }

    /// Gives the frame to the engine, if that has room.
    fn try_push(&mut self, frame: &WireFrame<'_>, stream: Stream, cut: bool) -> bool {
        let bucket = frame.flow.bucket(self.buckets);
        let Some(header) = self.engine.push(self.encapsulator.header_len(), frame, bucket, cut) else { return false };
        self.encapsulator.write(frame, stream, header);
        self.lengths.note(self.overhead + frame.len());
        true
    }

    /// Lets the batch go, keeps the beginning of it, or drops it, as the next hop allows.
    fn release(&mut self, now: Option<Instant>, account: &mut DestinationLedger) {
        if self.engine.waiting() == 0 {
            // The engine may have lost what was held: nothing is to be looked at again.
            self.gate.iter_mut().for_each(NextHopGate::clear);
            return;
        }
        match self.gate.as_mut().map_or(Passage::Open, |gate| gate.ask(now)) {
            Passage::Open => {
                self.encapsulator.number(&mut *self.engine);
                self.sent.add(self.engine.waiting());
                self.engine.send(self.patience, account);
            }
            Passage::Hold => {
                let late = self.engine.keep(NEXT_HOP_QUEUE);
                count_dropped(account, DropReason::Unreachable, late);
            }
            Passage::Shut => self.abandon(DropReason::Unreachable, account),
        }
    }

    /// Drops what is still in the batch.
    fn abandon(&mut self, reason: DropReason, account: &mut DestinationLedger) {
        let left = self.engine.keep(0);
        count_dropped(account, reason, left);
        if let Some(gate) = &mut self.gate {
            gate.clear();
        }
    }
}

impl Tunnel {
    /// Puts the parts together; `sources` are the UDP ports of the engine's buckets, none for GRE.
    fn assemble(
        plan: &TunnelPlan,
        underlay: &Arc<Underlay>,
        encapsulator: Encapsulator,
        (engine, sources): (Box<dyn Transmit>, Vec<u16>),
        (patience, sent): (Patience, Sent),
        (said, is_another_worker): (Arc<Mutex<Said>>, bool),
    ) -> Self {
        let is_live = plan.is_live();
        let outbox = Outbox {
            overhead: outer_len(&plan.encapsulation, underlay.remote()) + encapsulator.header_len(),
            buckets: u32::try_from(sources.len()).unwrap_or(u32::MAX),
            engine,
            lengths: Lengths::default(),
            unsettled_until: None,
            gate: is_live.then(|| NextHopGate::new(Arc::clone(underlay), patience)),
            patience,
            encapsulator,
            sent,
        };
        let carrier = outbox.encapsulator.carrier(sources);
        let fitter = Fitter::new(plan.fit);
        Self {
            room: outbox.room(&fitter, underlay),
            fitter,
            underlay: Arc::clone(underlay),
            outbox,
            notices: Notices::new(firewall_line(&plan.encapsulation, underlay.remote()), said),
            repeats_reports: is_another_worker && plan.encapsulation.udp_port().is_none(),
            own: is_live.then(|| OwnTunnel { local: underlay.local(), remote: underlay.remote(), carrier }),
        }
    }
}

/// The engine of the plan, and the UDP source ports of its buckets.
fn open_engine(
    destination: &DestinationPlan,
    plan: &TunnelPlan,
    underlay: &Arc<Underlay>,
    patience: Patience,
    shared: &mut Shared,
) -> Result<(Box<dyn Transmit>, Vec<u16>), OpenError> {
    let outer_len = outer_len(&plan.encapsulation, underlay.remote());
    let bank = |sockets, runs| Box::new(SocketBank::new(sockets, runs, Arc::clone(underlay), outer_len));
    Ok(match (&plan.transmit, plan.encapsulation.udp_port()) {
        (TransmitPlan::CaptureFile(path), _) => {
            let sources: Vec<u16> = udp::ports(plan.ports).take(SOURCE_PORTS as usize).collect();
            let file = shared.file(&CaptureFilePlan::plain(path.clone()))?;
            let about = Interface { name: destination.name.clone(), comment: Some(destination.to.clone()) };
            let number = file.number_of(about)?;
            let outlet = file.outlet(patience, shared.backlog, shared.ending());
            (Box::new(DryRun::new(plan, underlay, sources.clone(), (file, number), outlet)?), sources)
        }
        (TransmitPlan::Socket, Some(port)) => {
            let (sockets, sources) = udp::open(plan, underlay, port)?;
            if shared.worker == 0 && !sockets.iter().all(TunnelSocket::is_marked) {
                say_unmarked(&destination.place());
            }
            (bank(sockets, Runs::new(plan, underlay, outer_len)), sources)
        }
        (TransmitPlan::Socket, None) => (bank(vec![raw_ip::open(plan, underlay)?], Runs::never(underlay)), Vec::new()),
        (TransmitPlan::Xdp { .. }, port) => {
            let (idle, sources) = match port {
                Some(port) => udp::open(plan, underlay, port)?,
                None => (vec![raw_ip::open(plan, underlay)?], Vec::new()),
            };
            (Box::new(Xdp::open(plan, underlay, idle, sources.clone(), &shared.queues)?), sources)
        }
    })
}

/// Says that other processes cannot tell this tunnel from other traffic.
fn say_unmarked(destination: &str) {
    tracing::info!(
        "{destination}: its packets carry no mark, because {} is missing: another farspan that mirrors the interface they \
         leave by will mirror them",
        Capability::CAP_NET_RAW
    );
}

/// Drops our datagrams before the analyzer's stack answers them; packet sockets see them all the same.
fn firewall_line(encapsulation: &Encapsulation, remote: IpAddr) -> String {
    let command = if remote.is_ipv4() { "iptables" } else { "ip6tables" };
    match encapsulation.udp_port() {
        Some(port) => format!("{command} -I INPUT -p udp --dport {port} -j DROP"),
        None => format!("{command} -I INPUT -p gre -j DROP"),
    }
}

#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod xdp_tests;
