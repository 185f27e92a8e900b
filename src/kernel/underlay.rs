//! The way to one analyzer: route, source address, path MTU and next hop, shared between the control plane that
//! watches it and the worker that sends over it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::links::{Link, Mac};
use super::nearby::{Nearby, around};
use super::segmentation::RunsAreCut;
use crate::config::defaults::MTU_FLOOR;
use crate::quantity::{Ifindex, Mtu, SocketMark};

/// Whether datagrams can leave for the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The next hop's link-layer address is known, or none is needed.
    Usable,
    /// The kernel is asking for it: what is sent now waits in the kernel's short queue, which loses silently.
    Resolving,
    /// It does not answer, or there is no route.
    Failed,
}

/// The way to one analyzer.
///
/// Addresses stay as they were at the start, because sockets are bound to them; everything else follows the kernel. Where
/// the route prefers another source address by now, [`has_another_source`](Self::has_another_source) says so.
#[derive(Debug)]
pub struct Underlay {
    remote: IpAddr,
    local: IpAddr,
    bound_device: Option<Ifindex>,
    /// What sockets are marked with that send over it.
    mark: Option<SocketMark>,
    /// Source and destination MAC address of the outer frames, each in the low 48 bits.
    ethernet: [AtomicU64; 2],
    /// Whether we write the outer frames ourselves, past the kernel's neighbour table.
    own_frames: bool,
    /// An [`Ifindex`], or 0 while there is no route.
    device: AtomicU32,
    /// The interfaces that datagrams may be seen on.
    nearby: Arc<Nearby>,
    mtu: AtomicU32,
    /// The path MTU that the operator has pinned.
    pinned: Option<Mtu>,
    /// The least path MTU that is believed when ICMP reports it.
    floor: Mtu,
    /// The path MTU at the start.
    first_mtu: Mtu,
    runs_are_cut: RunsAreCut,
    /// Whether that is no longer so, or no longer known to be.
    runs_changed: AtomicBool,
    next_hop: Mutex<NextHop>,
    changed: Condvar,
    /// The session is to end: nobody waits any longer.
    hurried: AtomicBool,
    /// ICMP reports that host or network cannot be reached, so far.
    unreachable_reports: AtomicU64,
    /// Tells whoever watches the analyzer that there is something new to look at.
    news: watch::Sender<()>,
    /// Whether the operator chose the source address.
    source_is_chosen: bool,
    /// Whether the route prefers another source address than ours.
    other_source: AtomicBool,
}

/// MAC addresses for examples (RFC 9542 section 2.1.4): they stand where the real ones are not known.
pub const EXAMPLE_MACS: (Mac, Mac) = ([0x00, 0x00, 0x5e, 0x00, 0x53, 0x01], [0x00, 0x00, 0x5e, 0x00, 0x53, 0x02]);

impl Underlay {
    /// A way to `remote` from `local` through `device`, as the kernel's routes say it now.
    pub fn new(remote: IpAddr, local: IpAddr, device: Option<Ifindex>, mtu: Mtu, next_hop: NextHop) -> Self {
        Self {
            remote,
            local,
            bound_device: None,
            mark: None,
            ethernet: [EXAMPLE_MACS.0, EXAMPLE_MACS.1].map(|mac| AtomicU64::new(number(mac))),
            own_frames: false,
            device: AtomicU32::new(device.map_or(0, Ifindex::value)),
            nearby: Arc::default(),
            mtu: AtomicU32::new(mtu.value()),
            pinned: None,
            floor: MTU_FLOOR.min(mtu),
            first_mtu: mtu,
            runs_are_cut: RunsAreCut::Unknown,
            runs_changed: AtomicBool::new(false),
            next_hop: Mutex::new(next_hop),
            changed: Condvar::new(),
            hurried: AtomicBool::new(false),
            unreachable_reports: AtomicU64::new(0),
            news: watch::Sender::new(()),
            source_is_chosen: false,
            other_source: AtomicBool::new(false),
        }
    }

    /// The same way for sockets that are bound to `device`: it never moves to another.
    #[must_use]
    pub fn bound_to(mut self, device: Option<Ifindex>) -> Self {
        self.bound_device = device;
        self
    }

    /// The same way for sockets that have this mark, on which the route may depend.
    #[must_use]
    pub fn with_mark(mut self, mark: Option<SocketMark>) -> Self {
        self.mark = mark;
        self
    }

    /// The same way from an address that the operator chose, if `chosen`, which no route changes.
    #[must_use]
    pub fn with_source_chosen(mut self, chosen: bool) -> Self {
        self.source_is_chosen = chosen;
        self
    }

    /// The same way with the MAC addresses (source, destination) of the outer frames.
    #[must_use]
    pub fn with_ethernet(self, (source, destination): (Mac, Mac)) -> Self {
        self.set_source_mac(source);
        self.set_destination_mac(destination);
        self
    }

    /// The same way for an engine that writes the outer frames itself if `own_frames`: the kernel sends nothing over it,
    /// and so does not notice by itself that the next hop is gone.
    #[must_use]
    pub fn with_own_frames(mut self, own_frames: bool) -> Self {
        self.own_frames = own_frames;
        self
    }

    /// The same way with what is known about runs of datagrams.
    #[must_use]
    pub fn with_runs_cut(mut self, where_cut: RunsAreCut) -> Self {
        self.runs_are_cut = where_cut;
        self
    }

    /// The same way with a path MTU that the operator has `pinned`, or with another least one that is believed of ICMP.
    #[must_use]
    pub fn with_mtu(mut self, pinned: Option<Mtu>, floor: Mtu) -> Self {
        let mtu = pinned.unwrap_or(self.first_mtu);
        (self.pinned, self.first_mtu, self.floor) = (pinned, mtu, floor.min(mtu));
        self.mtu.store(mtu.value(), Ordering::Relaxed);
        self
    }

    /// Whether the operator has pinned the path MTU: then nothing is learnt.
    pub fn has_pinned_mtu(&self) -> bool {
        self.pinned.is_some()
    }

    /// The least path MTU that is believed when ICMP reports it, and no more than the first one.
    pub fn mtu_floor(&self) -> Mtu {
        self.floor
    }

    /// The path MTU at the start.
    pub fn first_mtu(&self) -> Mtu {
        self.first_mtu
    }

    /// Takes note of the source address that the route prefers now.
    pub fn prefer_source(&self, source: IpAddr) {
        let is_other = source != self.local && !self.source_is_chosen;
        if self.other_source.swap(is_other, Ordering::Relaxed) != is_other {
            self.news.send_replace(());
        }
    }

    /// Whether it is another than that of our sockets, which are to be opened anew then.
    pub fn has_another_source(&self) -> bool {
        self.other_source.load(Ordering::Relaxed)
    }

    /// The analyzer's address.
    pub fn remote(&self) -> IpAddr {
        self.remote
    }

    /// Source address of our datagrams.
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// The interface they leave by, while there is a route.
    pub fn device(&self) -> Option<Ifindex> {
        Ifindex::new(u64::from(self.device.load(Ordering::Relaxed))).ok()
    }

    /// The interfaces near the route.
    pub fn nearby(&self) -> &Arc<Nearby> {
        &self.nearby
    }

    /// Takes note of which of `links` are near the route.
    pub fn look_around(&self, links: &[Link]) {
        if let Some(device) = self.device() {
            self.nearby.set(around(links, device));
        }
    }

    /// The interface that the operator bound our sockets to.
    pub fn bound_device(&self) -> Option<Ifindex> {
        self.bound_device
    }

    /// The mark of sockets that send over it.
    pub fn mark(&self) -> Option<SocketMark> {
        self.mark
    }

    /// Source and destination MAC address of the outer frames now; [`EXAMPLE_MACS`] stand for unknown ones. Sockets leave
    /// them to the kernel.
    pub fn ethernet(&self) -> (Mac, Mac) {
        let [source, destination] = &self.ethernet;
        (mac(source.load(Ordering::Relaxed)), mac(destination.load(Ordering::Relaxed)))
    }

    /// Whether an engine writes the outer frames itself.
    pub fn has_own_frames(&self) -> bool {
        self.own_frames
    }

    /// Takes note of our MAC address.
    pub fn set_source_mac(&self, source: Mac) {
        self.ethernet[0].store(number(source), Ordering::Relaxed);
    }

    /// Takes note of the next hop's MAC address.
    pub fn set_destination_mac(&self, destination: Mac) {
        self.ethernet[1].store(number(destination), Ordering::Relaxed);
    }

    /// Takes note of the interface that the route leads through now.
    pub fn set_device(&self, device: Option<Ifindex>) {
        self.device.store(device.map_or(0, Ifindex::value), Ordering::Relaxed);
    }

    /// The path MTU: largest outer IP packet in bytes.
    pub fn mtu(&self) -> Mtu {
        Mtu::new(u64::from(self.mtu.load(Ordering::Relaxed))).unwrap_or(Mtu::ETHERNET)
    }

    /// Takes note of a path MTU that this host's routes or interfaces told, unless one is pinned.
    pub fn learn_mtu(&self, mtu: Mtu) {
        if self.pinned.is_none() {
            self.mtu.store(mtu.value(), Ordering::Relaxed);
        }
    }

    /// A path MTU that ICMP reported, as far as it is believed: anybody can forge a report.
    pub fn believed(&self, reported: Mtu) -> Mtu {
        reported.max(self.floor)
    }

    /// Where runs of datagrams are cut: as it was found at the start, and unknown as soon as that has changed.
    pub fn runs_are_cut(&self) -> RunsAreCut {
        if self.runs_changed.load(Ordering::Relaxed) { RunsAreCut::Unknown } else { self.runs_are_cut }
    }

    /// Takes note that runs are not cut any more where they were at the start.
    pub fn forget_where_runs_are_cut(&self) {
        self.runs_changed.store(true, Ordering::Relaxed);
    }

    /// The state of the next hop now.
    pub fn next_hop(&self) -> NextHop {
        *self.next_hop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a changed next hop and wakes who waits for it.
    pub fn set_next_hop(&self, state: NextHop) {
        let before = std::mem::replace(&mut *self.next_hop.lock().unwrap_or_else(PoisonError::into_inner), state);
        if before != state {
            self.changed.notify_all();
            self.news.send_replace(());
        }
    }

    /// Changes with the state of the next hop, with the source address that the route prefers, and with every ICMP report
    /// that host or network cannot be reached.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Takes note of an ICMP report that host or network cannot be reached.
    pub fn note_unreachable(&self) {
        self.unreachable_reports.fetch_add(1, Ordering::Relaxed);
        self.news.send_replace(());
    }

    /// How many such reports there have been. They only rise.
    pub fn unreachable_reports(&self) -> u64 {
        self.unreachable_reports.load(Ordering::Relaxed)
    }

    /// Waits until the next hop is usable, `patience` at most and not when the session is to end, and says what it is
    /// then.
    pub fn wait_for_next_hop(&self, patience: Duration) -> NextHop {
        let state = self.next_hop.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, patience, |state| *state != NextHop::Usable && self.may_wait())
            .unwrap_or_else(PoisonError::into_inner);
        *state
    }

    /// Whether a replay may wait for room on this way.
    pub fn may_wait(&self) -> bool {
        !self.hurried.load(Ordering::Relaxed)
    }

    /// Ends all waiting, now and later: the session is to end.
    pub fn stop_waiting(&self) {
        // Under the lock, so that nobody falls asleep between asking and being told.
        let _state = self.next_hop.lock().unwrap_or_else(PoisonError::into_inner);
        self.hurried.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

/// A MAC address as a number of 48 bits.
fn number(mac: Mac) -> u64 {
    mac.iter().fold(0, |number, &octet| number << 8 | u64::from(octet))
}

/// The MAC address in the low 48 bits of a number.
fn mac(number: u64) -> Mac {
    number.to_be_bytes().last_chunk().copied().unwrap_or_default()
}
