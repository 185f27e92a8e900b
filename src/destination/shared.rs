//! What destinations share: those of one worker with each other, and a session's workers among themselves.

use std::sync::{Arc, Mutex};

use super::notices::Said;
use super::sequence::Counters;
use super::shared_file::{CannotCreate, Ending, SharedFile};
use super::tap_device::{TapDevice, TapError};
use super::xdp_queue::Queues;
use super::zero_copy::ZeroCopy;
use crate::config::local_end::{CaptureFilePlan, TapPlan};
use crate::config::plan::{DestinationPlan, Encapsulation, End, TransmitPlan};
use crate::quantity::Mtu;
use crate::select::account::Sent;

/// Least bytes of a queue in front of a pipe; all of them where the session has no capture buffer.
const LEAST_BACKLOG: usize = 4 << 20;

/// What destinations open together. Made once a session; whoever opens a destination, for whichever worker, finds here
/// what was opened before.
///
/// A clone has the same files, devices and counters: a session that is opened again goes on with them.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The session's capture files, dry runs among them.
    files: Vec<(CaptureFilePlan, SharedFile)>,
    /// The session's TAP devices, by name.
    taps: Vec<Arc<TapDevice>>,
    /// The largest MTU that frames come from: TAP devices get it unless their plan says another.
    mtu: Mtu,
    /// The session's sequence numbers, by destination and what they number; `None` where the encapsulation has none.
    counters: Vec<(String, Encapsulation, Option<Counters>)>,
    /// How many datagrams each destination has sent in this run, by name.
    sent: Vec<(String, Sent)>,
    /// What was said about each destination, by name.
    said: Vec<(String, Arc<Mutex<Said>>)>,
    /// The number of the worker that opens destinations now.
    pub(super) worker: u32,
    /// Most bytes that wait for the program that reads a pipe.
    pub(super) backlog: usize,
    /// By which pipes learn that this run is to end.
    ending: Ending,
    /// How many destinations send through AF_XDP.
    members: usize,
    /// The session's interfaces in zero-copy mode, where that is wanted.
    zero_copy: Option<Arc<Mutex<ZeroCopy>>>,
    /// The worker's AF_XDP sockets: one for each interface.
    pub(super) queues: Arc<Mutex<Queues>>,
}

impl Shared {
    /// For the destinations `plans` of the worker with this number, which is the first that opens any.
    pub fn new(plans: &[DestinationPlan], worker: u32) -> Self {
        let ways = plans.iter().filter_map(|plan| plan.transmit());
        let zero_copy = ways.clone().any(|way| *way == TransmitPlan::Xdp { zero_copy: true }).then(Arc::default);
        let members = ways.filter(|way| way.is_xdp()).count();
        let queues = queues(worker, members, zero_copy.as_ref());
        let mtu = Mtu::ETHERNET;
        let (files, taps, counters, sent, said) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (backlog, ending) = (LEAST_BACKLOG, Ending::default());
        Self { files, taps, mtu, counters, sent, said, worker, backlog, ending, members, zero_copy, queues }
    }

    /// The same for frames of links with this MTU; Ethernet's unless given.
    #[must_use]
    pub fn of_mtu(self, mtu: Mtu) -> Self {
        Self { mtu, ..self }
    }

    /// The same, in which the queue in front of each pipe may hold so many bytes: 4 MiB at least.
    #[must_use]
    pub fn queueing(self, bytes: u64) -> Self {
        let backlog = usize::try_from(bytes).unwrap_or(usize::MAX).max(LEAST_BACKLOG);
        Self { backlog, ..self }
    }

    /// By which pipes learn that this run is to end.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// For another run of the session, whose destinations are `plans` now: what an unchanged destination had open stays
    /// open, so that its file and device go on and its numbers too. A pipe whose reader has ended is opened again.
    #[must_use]
    pub fn for_another_run(mut self, plans: &[DestinationPlan]) -> Self {
        let new = Self::new(plans, 0);
        let file = |plan: &DestinationPlan| match &plan.end {
            End::File(file) => Some(file.clone()),
            End::Tap(_) | End::Tunnel(_) => plan.file().cloned().map(CaptureFilePlan::plain),
        };
        let files: Vec<CaptureFilePlan> = plans.iter().filter_map(file).collect();
        self.files.retain(|(known, file)| files.contains(known) && !file.is_closed());
        self.taps.retain(|tap| plans.iter().any(|plan| matches!(&plan.end, End::Tap(plan) if tap.has_plan(plan))));
        Self { files: self.files, taps: self.taps, counters: self.counters, ..new }
    }

    /// Lets go of what only one may have: TAP devices, once nobody writes to them either.
    pub fn release(&mut self) {
        self.taps.clear();
    }

    /// Goes on to another worker of the session: it has sockets of its own.
    pub fn go_on_to(&mut self, worker: u32) {
        self.worker = worker;
        self.queues = queues(worker, self.members, self.zero_copy.as_ref());
    }

    /// The capture file of that plan, created unless another destination or worker has done so in this session.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub(super) fn file(&mut self, plan: &CaptureFilePlan) -> Result<SharedFile, CannotCreate> {
        if let Some((_, file)) = self.files.iter().find(|(known, _)| known.file == plan.file) {
            return Ok(file.clone());
        }
        let file = SharedFile::create(plan)?;
        self.files.push((plan.clone(), file.clone()));
        Ok(file)
    }

    /// How many datagrams all workers send to the destination `name`.
    pub(super) fn sent(&mut self, name: &str) -> Sent {
        if let Some((_, sent)) = self.sent.iter().find(|(known, _)| known == name) {
            return sent.clone();
        }
        let sent = Sent::default();
        self.sent.push((name.to_owned(), sent.clone()));
        sent
    }

    /// What any worker has said about the destination `name`.
    pub(super) fn said(&mut self, name: &str) -> Arc<Mutex<Said>> {
        if let Some((_, said)) = self.said.iter().find(|(known, _)| known == name) {
            return Arc::clone(said);
        }
        let said = Arc::<Mutex<Said>>::default();
        self.said.push((name.to_owned(), Arc::clone(&said)));
        said
    }

    /// The TAP device of that plan, created unless another worker has done so in this session.
    ///
    /// # Errors
    /// When the kernel does not let us have the device.
    pub(super) fn tap(&mut self, plan: &TapPlan) -> Result<Arc<TapDevice>, TapError> {
        if let Some(tap) = self.taps.iter().find(|known| known.is_named(&plan.device)) {
            return Ok(Arc::clone(tap));
        }
        let tap = Arc::new(TapDevice::open(plan, self.mtu)?);
        self.taps.push(Arc::clone(&tap));
        Ok(tap)
    }

    /// The sequence numbers of the destination `name`, whose tunnel is `encapsulation`: those of the first worker that
    /// opened it, if any did.
    pub(super) fn counters(&mut self, name: &str, encapsulation: &Encapsulation) -> &mut Option<Counters> {
        let known = self.counters.iter().position(|(known, what, _)| known == name && what == encapsulation);
        let at = known.unwrap_or_else(|| {
            self.counters.push((name.to_owned(), encapsulation.clone(), None));
            self.counters.len() - 1
        });
        &mut self.counters[at].2
    }
}

fn queues(worker: u32, members: usize, zero_copy: Option<&Arc<Mutex<ZeroCopy>>>) -> Arc<Mutex<Queues>> {
    Arc::new(Mutex::new(Queues::new(worker, members, zero_copy.cloned())))
}
