//! Sequences of events: interfaces that come, go, flap and change their names, openings that fail in every manner, workers
//! that carry out their orders late. Real follower, roster, workers and destinations; the host is made up.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::open_destinations;
use super::super::path::Path;
use super::super::worker::Worker;
use super::*;
use crate::config::plan::SourcePlan;
use crate::config::testing::session;
use crate::destination::{Patience, Shared};
use crate::frame::{Frame, testing};
use crate::kernel::underlay::{NextHop, Underlay};
use crate::ledger::{DropReason, KernelDrops, Ledger};
use crate::normalise::Normaliser;
use crate::quantity::{Mtu, Timestamp};
use crate::select::Selector;
use crate::select::own_traffic::OwnTraffic;
use crate::source::{Pool, Readiness, Source};

/// Names that an interface may have, each with a VNI of its own; the session means all but the last, which has no id.
const NAMES: [&str; 7] = ["x0", "x1", "x2", "x3", "x4", "x5", "y0"];
const WITH_ID: usize = 5;
/// Outer Ethernet, IPv4, UDP and VXLAN: what a dry run puts before the frame.
const OUTER: usize = 50;
const VNI: std::ops::Range<usize> = 46..49;
/// Where a frame says which device it is of, in its payload: behind the MAC addresses and the type.
const DEVICE: usize = 14;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A device is made; or made anew under the index of one that was deleted.
    Add {
        name: usize,
        reuse_index: bool,
    },
    Delete(usize),
    Rename {
        device: usize,
        name: usize,
    },
    Flap(usize),
    /// The follower looks.
    Look,
    /// What is being opened is opened, or fails.
    Opened(Vec<Outcome>),
    /// No thread, or the namespace has gone: nothing is opened.
    NothingOpened,
    /// A worker carries out its orders and does a turn.
    Turn(usize),
    /// A source of a worker fails.
    Fail {
        worker: usize,
        device: usize,
    },
    /// The follower takes back one source.
    TakeBack,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Opened,
    Down,
    NoDescriptor,
    NoMemory,
    Gone,
}

fn events() -> impl Strategy<Value = Event> {
    let (name, device) = (0..NAMES.len(), 0..8_usize);
    let outcome = prop_oneof![
        4 => Just(Outcome::Opened),
        1 => Just(Outcome::Down),
        1 => Just(Outcome::NoDescriptor),
        1 => Just(Outcome::NoMemory),
        1 => Just(Outcome::Gone),
    ];
    prop_oneof![
        4 => (name.clone(), any::<bool>()).prop_map(|(name, reuse_index)| Event::Add { name, reuse_index }),
        2 => device.clone().prop_map(Event::Delete),
        3 => (device.clone(), name).prop_map(|(device, name)| Event::Rename { device, name }),
        2 => device.clone().prop_map(Event::Flap),
        6 => Just(Event::Look),
        5 => vec(outcome, 8).prop_map(Event::Opened),
        1 => Just(Event::NothingOpened),
        6 => (0..3_usize).prop_map(Event::Turn),
        1 => (0..3_usize, device).prop_map(|(worker, device)| Event::Fail { worker, device }),
        4 => Just(Event::TakeBack),
    ]
}

/// A network device.
#[derive(Debug, Default)]
struct Device {
    index: u32,
    /// All the names that it has had, the latest last.
    names: Vec<&'static str>,
    up: bool,
    gone: bool,
}

impl Device {
    fn name(&self) -> &'static str {
        self.names.last().copied().unwrap_or_default()
    }
}

type Devices = Arc<Mutex<Vec<Device>>>;

/// A worker's part of a device: each turn it has a frame that says which device it is of.
struct Part {
    devices: Devices,
    device: usize,
    interface: InterfaceId,
    fails: Arc<Mutex<Vec<(usize, usize)>>>,
    worker: usize,
}

impl Source for Part {
    fn drain(
        &mut self,
        _: std::time::Instant,
        _: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        let mut bytes = [0; 60];
        bytes[DEVICE] = u8::try_from(self.device).unwrap();
        each(&Frame { timestamp: Timestamp::from_nanos(1), interface: self.interface, ..testing::frame(&bytes) });
        let fails = self.fails.lock().unwrap().contains(&(self.worker, self.device));
        if fails || self.devices.lock().unwrap()[self.device].gone {
            let cause = io::Error::from_raw_os_error(libc::ENODEV);
            return Err(Box::new(SourceError::InterfaceGone { interface: "x".to_owned(), cause }));
        }
        Ok(Readiness::Waiting)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        KernelDrops::default()
    }

    fn is_attached(&self) -> bool {
        !self.devices.lock().unwrap()[self.device].gone
    }
}

/// A session with some workers on a host that is made up.
struct World {
    devices: Devices,
    next_index: u32,
    follower: Follower,
    contacts: Vec<Contact>,
    workers: Vec<Worker>,
    fails: Arc<Mutex<Vec<(usize, usize)>>>,
    /// What is being opened.
    opening: Vec<Wanted>,
    now: std::time::Instant,
    folder: TempDir,
}

impl World {
    fn new(workers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (0..=WITH_ID).map(|id| format!("x{id}:{}", 100 + id)).collect();
        let (dry, file) = (folder.path().join("dry.pcap"), folder.path().join("names.pcapng"));
        let text = format!(
            "[session.s]\nsource = {{ interface = \"[xy]*\", workers = {workers} }}\n\
             destination.tunnel = {{ to = \"vxlan://192.0.2.1?vni={}\", transmit = \"pcap:{}\" }}\n\
             destination.file = {{ to = \"pcap:{}\" }}\n",
            ids.join(","),
            dry.display(),
            file.display()
        );
        let plan = session(&text).unwrap_or_else(|problems| panic!("{problems:?}"));
        let SourcePlan::Live(live) = plan.source.clone() else { panic!("interfaces") };
        let ways: Vec<_> = plan.destinations.iter().map(|plan| plan.transmit().map(|_| way())).collect();
        let mut shared = Shared::new(&plan.destinations, 0);
        let (returns, returned): (_, UnboundedReceiver<LetGo>) = unbounded_channel();
        let failures = Failures::default();
        let ledger = || Ledger::new(plan.destinations.iter().map(|one| (one.name.as_str(), one.to.as_str())));
        let mut ready = Vec::new();
        for number in 0..workers {
            shared.go_on_to(u32::try_from(number).unwrap());
            let destinations = open_destinations(&plan.destinations, &ways, &[], Patience::Drop, &mut shared).unwrap();
            let path = Path {
                inside: None,
                selector: Selector::new(OwnTraffic::default(), crate::flow::FlowKey::PUBLIC, plan.sample),
                normaliser: Normaliser::new(None),
                destinations,
                ledger: ledger(),
            };
            let contact = Contact::open(ledger(), failures.clone(), Some(returns.clone())).unwrap();
            let worker = Worker::new(Vec::new(), path, contact.clone(), Duration::ZERO, None).unwrap();
            ready.push((contact, worker));
        }
        let budget = Some(Budget::new(&live, &plan, &Pool::new(1 << 30)));
        let mut nothing = Opened {
            shares: Vec::new(),
            interfaces: Vec::new(),
            buffers: Vec::new(),
            budget,
            progress: None,
            namespace: Some(Namespace::own()),
        };
        let follower = Follower::new(live, Arc::new(plan.clone()), &mut nothing, returned, failures, true);
        let (contacts, workers) = ready.into_iter().unzip();
        let (devices, fails) = (Devices::default(), Arc::default());
        Self {
            devices,
            next_index: 1,
            follower,
            contacts,
            workers,
            fails,
            opening: Vec::new(),
            now: std::time::Instant::now(),
            folder,
        }
    }

    fn apply(&mut self, event: &Event) {
        let devices = Arc::clone(&self.devices);
        let mut devices = devices.lock().unwrap();
        let at = |number: &usize, devices: &[Device]| (!devices.is_empty()).then(|| number % devices.len());
        let is_free = |name: &str, devices: &[Device]| devices.iter().all(|one| one.gone || one.name() != name);
        match event {
            Event::Add { name, reuse_index } => {
                if devices.len() < 200 && is_free(NAMES[*name], &devices) {
                    let unused = |index: &u32| devices.iter().all(|one| one.gone || one.index != *index);
                    let freed = devices.iter().filter(|one| one.gone).map(|one| one.index).find(unused);
                    let index = freed.filter(|_| *reuse_index).unwrap_or(self.next_index);
                    self.next_index = self.next_index.max(index + 1);
                    devices.push(Device { index, names: vec![NAMES[*name]], up: true, gone: false });
                }
            }
            Event::Delete(device) => {
                if let Some(at) = at(device, &devices) {
                    devices[at].gone = true;
                }
            }
            Event::Rename { device, name } => {
                if let Some(at) = at(device, &devices)
                    && !devices[at].gone
                    && is_free(NAMES[*name], &devices)
                {
                    devices[at].names.push(NAMES[*name]);
                }
            }
            Event::Flap(device) => {
                if let Some(at) = at(device, &devices) {
                    devices[at].up = !devices[at].up;
                }
            }
            Event::Look => {
                drop(devices);
                self.look();
            }
            Event::Opened(outcomes) => {
                drop(devices);
                self.opened(outcomes);
            }
            Event::NothingOpened => {
                if !self.opening.is_empty() {
                    self.opening.clear();
                    drop(devices);
                    self.follower.attach(Vec::new(), &self.contacts);
                }
            }
            Event::Turn(worker) => {
                drop(devices);
                let worker = worker % self.workers.len();
                self.now += Duration::from_millis(1);
                self.workers[worker].turn_once(self.now);
            }
            Event::Fail { worker, device } => {
                if let Some(at) = at(device, &devices) {
                    self.fails.lock().unwrap().push((worker % self.workers.len(), at));
                }
            }
            Event::TakeBack => {
                drop(devices);
                if let Ok(gone) = self.follower.returns.try_recv() {
                    self.follower.take_back(gone, &self.contacts);
                }
            }
        }
    }

    fn present(&self) -> Vec<Present> {
        let present = |one: &Device| Present {
            index: Ifindex::new(one.index.into()).unwrap(),
            name: one.name().to_owned(),
            up: one.up,
        };
        self.devices.lock().unwrap().iter().filter(|one| !one.gone).map(present).collect()
    }

    fn look(&mut self) {
        if self.opening.is_empty() {
            // The rest after a capture that broke off is the clock's business.
            self.follower.resting.clear();
            self.opening = self.follower.compare(&self.present(), &self.contacts);
        }
    }

    fn opened(&mut self, outcomes: &[Outcome]) {
        let wanted = std::mem::take(&mut self.opening);
        if wanted.is_empty() {
            return;
        }
        let attempts = wanted.into_iter().zip(outcomes.iter().cycle()).map(|(wanted, &outcome)| {
            let outcome = self.open_one(&wanted, outcome);
            Attempt { wanted, outcome }
        });
        let attempts: Vec<Attempt> = attempts.collect();
        self.follower.attach(attempts, &self.contacts);
    }

    /// As [`source::open_one`]: only the very interface that is meant, by its index, while it has the name that is meant.
    fn open_one(&self, wanted: &Wanted, outcome: Outcome) -> Result<Captured, SourceError> {
        let Wanted { meant, id, .. } = wanted;
        let name = meant.name.clone();
        let no_ring = |error| SourceError::CannotOpenRing {
            interface: meant.name.clone(),
            cause: io::Error::from_raw_os_error(error),
        };
        match outcome {
            Outcome::Opened => {}
            Outcome::Down => {
                let cause = pcap::Error::PcapError("not up".into());
                return Err(SourceError::InterfaceDown { interface: name, cause });
            }
            Outcome::NoDescriptor => return Err(no_ring(libc::EMFILE)),
            Outcome::NoMemory => return Err(no_ring(libc::ENOMEM)),
            Outcome::Gone => return Err(SourceError::NoSuchInterface { name, present: Vec::new() }),
        }
        let devices = self.devices.lock().unwrap();
        let is_meant =
            |one: &Device| !one.gone && one.name() == name && Some(one.index) == meant.index.map(Ifindex::value);
        let Some(device) = devices.iter().position(is_meant) else {
            return Err(SourceError::NoSuchInterface { name, present: Vec::new() });
        };
        let part = |worker| {
            let (devices, fails) = (Arc::clone(&self.devices), Arc::clone(&self.fails));
            Box::new(Part { devices, device, interface: *id, fails, worker }) as Box<dyn Source>
        };
        let interface = Interface { name, index: meant.index, mtu: None, engine: None };
        Ok(Captured { sources: (0..self.workers.len()).map(part).collect(), interface })
    }

    /// Lets everything come to rest, so that what is attached is what is there.
    fn settle(&mut self) {
        self.fails.lock().unwrap().clear();
        for _ in 0..6 {
            // Longer than the kernel may still have frames of an interface that is let go.
            self.now += Duration::from_secs(2);
            for number in 0..self.workers.len() {
                self.apply(&Event::Turn(number));
            }
            while let Ok(gone) = self.follower.returns.try_recv() {
                self.follower.take_back(gone, &self.contacts);
            }
            if self.opening.is_empty() {
                self.look();
            }
            self.opened(&[Outcome::Opened]);
        }
    }

    /// How many datagrams there are of each device with each VNI.
    fn datagrams(&self) -> BTreeMap<(u8, u32), u32> {
        let mut capture = pcap::Capture::from_file(self.folder.path().join("dry.pcap")).unwrap();
        let mut seen = BTreeMap::new();
        while let Ok(packet) = capture.next_packet() {
            let [a, b, c] = packet.data[VNI].try_into().unwrap();
            *seen.entry((packet.data[OUTER + DEVICE], u32::from_be_bytes([0, a, b, c]))).or_default() += 1;
        }
        seen
    }
}

fn way() -> Arc<Underlay> {
    let (remote, local) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    Arc::new(Underlay::new(remote, local, None, Mtu::ETHERNET, NextHop::Usable))
}

fn vni_of(name: &str) -> Option<u32> {
    NAMES.iter().take(WITH_ID + 1).position(|known| *known == name).map(|id| 100 + u32::try_from(id).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// No frame leaves under the id of a name that its device never had, whatever happens; and when all has come to rest,
    /// each device that is there leaves under the id of its name, and is called so in every destination.
    #[test]
    fn a01_an_attached_number_means_the_same_name_everywhere(
        workers in 1..=3_usize,
        events in vec(events(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        let mut world = World::new(workers);
        for event in &events {
            world.apply(event);
        }
        world.settle();
        let before = world.datagrams();
        for number in 0..workers {
            world.apply(&Event::Turn(number));
        }
        let after = world.datagrams();

        let devices = world.devices.lock().unwrap();
        for &(device, vni) in after.keys() {
            let names = &devices[usize::from(device)].names;
            let ids: Vec<_> = names.iter().filter_map(|name| vni_of(name)).collect();
            prop_assert!(ids.contains(&vni), "a frame of {names:?} left under VNI {vni}");
        }
        for (number, device) in devices.iter().enumerate() {
            let number = u8::try_from(number).unwrap();
            let grown: Vec<(u32, u32)> = after
                .iter()
                .filter(|&(&(of, _), _)| of == number)
                .map(|(key, count)| (key.1, count - before.get(key).copied().unwrap_or(0)))
                .filter(|&(_, more)| more > 0)
                .collect();
            // One that is down stays attached if it was.
            let expected = vni_of(device.name()).filter(|_| !device.gone).map(|vni| (vni, u32::try_from(workers).unwrap()));
            let is_right = grown.is_empty() && !(expected.is_some() && device.up) || grown == expected.into_iter().collect::<Vec<_>>();
            prop_assert!(is_right, "device {device:?} left as {grown:?}, expected {expected:?}");
        }
        for worker in &world.workers {
            for (interface, name) in world.follower.roster.numbers() {
                prop_assert_eq!(worker.path().destinations.names_of(interface), [name.clone()]);
            }
            let accounts = &worker.path().ledger.destinations;
            let unknown: u64 = accounts.iter().map(|account| account.dropped[DropReason::UnknownInterface]).sum();
            prop_assert_eq!(unknown, 0, "frames of interfaces that a destination did not know");
        }
    }
}
