//! Follows what the kernel knows about the ways to the analyzers while a session runs.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};

use super::links::Mac;
use super::neighbours::{Neighbour, without_neighbour};
use super::netlink::{Event, Events, Netlink};
use super::path_mtu::path_mtu;
use super::segmentation::RunsAreCut;
use super::underlay::{EXAMPLE_MACS, NextHop, Underlay};
use crate::quantity::{Ifindex, Mtu, SocketMark};

/// How often everything is looked at without a reason: the kernel tells nobody when it forgets a learnt path MTU.
const TICK: Duration = Duration::from_secs(5);

/// How often a silent next hop is asked again, and the kernel for its events after it has failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an answer of the kernel is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Routes and links change in bursts, so a change is looked at when this time has passed since the first.
const SETTLE: Duration = Duration::from_millis(20);

/// Keeps next hop, device and path MTU of every underlay as the kernel has them. Never ends; runs on the control
/// runtime and is aborted with its session.
pub async fn watch(underlays: Vec<Arc<Underlay>>) {
    let (_nobody, mut more) = unbounded_channel();
    watch_all(underlays.into_iter().map(Way::new).collect(), &mut more, &Changes::default()).await;
}

/// The ways of any number of sessions, watched over one socket. A way is forgotten when its session has.
#[derive(Clone, Debug)]
pub struct Watcher {
    more: UnboundedSender<Vec<Way>>,
    topology: watch::Receiver<u64>,
    sources: watch::Receiver<u64>,
}

/// What the watcher tells everybody who waits for it: numbers that rise.
#[derive(Debug, Default)]
struct Changes {
    topology: watch::Sender<u64>,
    sources: watch::Sender<u64>,
}

impl Watcher {
    /// Starts watching on the runtime of the caller.
    pub fn start() -> Self {
        let (more, mut add) = unbounded_channel();
        let changes = Changes::default();
        let (topology, sources) = (changes.topology.subscribe(), changes.sources.subscribe());
        tokio::spawn(async move { watch_all(Vec::new(), &mut add, &changes).await });
        Self { more, topology, sources }
    }

    /// Watches these, too. What the kernel does not know about them it is made to ask for at once.
    pub fn add(&self, underlays: impl IntoIterator<Item = Arc<Underlay>>) {
        // Nobody receives any more only when the runtime ends.
        let _ = self.more.send(underlays.into_iter().map(Way::new).collect());
    }

    /// Changes whenever a link, an address or a route has.
    pub fn topology(&self) -> watch::Receiver<u64> {
        self.topology.clone()
    }

    /// Changes whenever some way has another source address than its sockets, and now and then while it has.
    pub fn sources(&self) -> watch::Receiver<u64> {
        self.sources.clone()
    }
}

async fn watch_all(mut ways: Vec<Way>, more: &mut UnboundedReceiver<Vec<Way>>, changes: &Changes) {
    loop {
        if let Err(error) = follow(&mut ways, more, changes).await {
            debug!("cannot follow the kernel's routes and neighbours, trying again: {error}");
        }
        sleep(AGAIN).await;
    }
}

/// Follows events until the kernel closes the socket.
async fn follow(ways: &mut Vec<Way>, more: &mut UnboundedReceiver<Vec<Way>>, changes: &Changes) -> io::Result<()> {
    let mut events = Events::subscribe()?;
    let (mut next_look, mut look_at_all) = (Instant::now(), Instant::now());
    let mut has_changed = true;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Neighbour(neighbour)) => {
                    hear(ways, neighbour, events.netlink()).await;
                    if !ways.iter().all(Way::is_usable) {
                        next_look = next_look.min(Instant::now() + AGAIN);
                    }
                }
                Some(Event::Topology) => {
                    changes.topology.send_modify(|changes| *changes += 1);
                    look_at_all = look_at_all.min(Instant::now() + SETTLE);
                    has_changed = true;
                }
                None => return Ok(()),
            },
            Some(mut new) = more.recv() => {
                look(&mut new, events.netlink()).await;
                next_look = next_look.min(Instant::now() + AGAIN);
                ways.append(&mut new);
            }
            () = sleep_until(next_look.min(look_at_all)) => {
                ways.retain(Way::is_wanted);
                let now = Instant::now();
                if now >= look_at_all {
                    look(ways.iter_mut(), events.netlink()).await;
                    if has_changed {
                        has_changed = !look_around(ways, events.netlink()).await;
                    }
                    look_at_all = Instant::now() + TICK;
                } else {
                    let silent: Vec<&mut Way> = ways.iter_mut().filter(|way| !way.is_usable()).collect();
                    look(silent, events.netlink()).await;
                }
                if ways.iter().any(|way| way.underlay.has_another_source()) {
                    changes.sources.send_modify(|changes| *changes += 1);
                }
                next_look = if ways.iter().all(Way::is_usable) { look_at_all } else { Instant::now() + AGAIN };
            }
        }
    }
}

/// Tells every way what became of a neighbour.
pub(super) async fn hear(ways: &mut [Way], neighbour: Neighbour, netlink: &Netlink) {
    for way in ways {
        way.hear(neighbour, netlink).await;
    }
}

/// Reads everything anew, and asks for neighbours that are not known: once what several ways have in common.
pub(super) async fn look(ways: impl IntoIterator<Item = &mut Way>, netlink: &Netlink) {
    let (mut found, mut asked) = (Vec::<(Question, io::Result<Found>)>::new(), Vec::new());
    for way in ways {
        let question = way.question();
        let known = found.iter().position(|(known, _)| *known == question);
        let at = known.unwrap_or(found.len());
        if known.is_none() {
            found.push((question, in_time(question.ask(netlink)).await));
        }
        let before = way.underlay.device();
        way.take(&found[at].1);
        // Our address may be gone, or the route lead through another interface with another one.
        let after = way.underlay.device();
        if (after.is_none() || after != before)
            && let Ok(route) = in_time(netlink.route(question.remote, None, question.bound, question.mark)).await
            && let Some(source) = route.source
        {
            way.underlay.prefer_source(source);
        }
        if way.must_ask && !asked.contains(&way.neighbour) {
            way.ask(netlink).await;
            asked.push(way.neighbour);
        }
    }
}

/// Takes note of the interfaces near every way, and says whether the kernel told them.
async fn look_around(ways: &[Way], netlink: &Netlink) -> bool {
    if ways.is_empty() {
        return true;
    }
    let links = in_time(netlink.links()).await;
    links.map(|links| ways.iter().for_each(|way| way.underlay.look_around(&links))).is_ok()
}

/// An answer of the kernel, or `TimedOut`: where its queue overflows, as in a storm of changes, an answer may be lost.
async fn in_time<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether an error says that datagrams cannot leave. Others are about the question, such as a lack of descriptors.
fn is_no_way(error: &io::Error) -> bool {
    let no_way = [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::ENETDOWN,
        libc::EADDRNOTAVAIL,
        libc::EAFNOSUPPORT,
        libc::EACCES,
        libc::EPERM,
        libc::EINVAL,
        libc::ENODEV,
        libc::ENXIO,
    ];
    error.raw_os_error().is_some_and(|code| no_way.contains(&code))
}

/// What decides which way datagrams take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    remote: IpAddr,
    local: IpAddr,
    bound: Option<Ifindex>,
    mark: Option<SocketMark>,
    /// Whether it matters where runs are cut.
    runs: bool,
}

/// What the kernel says of a way.
#[derive(Clone, Copy, Debug)]
struct Found {
    device: Ifindex,
    mtu: Mtu,
    /// Whether that was learnt from ICMP.
    is_learnt: bool,
    own_mac: Option<Mac>,
    /// The next hop, where one is needed, and what is known of it.
    next_hop: Option<(IpAddr, Option<Neighbour>)>,
    runs_are_cut: RunsAreCut,
}

impl Question {
    async fn ask(self, netlink: &Netlink) -> io::Result<Found> {
        let Self { remote, local, bound, mark, runs } = self;
        let route = netlink.route(remote, Some(local), bound, mark).await?;
        let mtu = path_mtu(local, remote, bound, mark)?;
        let runs_are_cut = if runs { netlink.runs_are_cut(route.device).await } else { RunsAreCut::Unknown };
        let link = netlink.link(route.device).await?;
        let address = route.gateway.unwrap_or(remote);
        let next_hop = if route.needs_neighbour(link.as_ref()) {
            Some((address, netlink.neighbour(route.device, address).await?))
        } else {
            None
        };
        let is_learnt = route.is_learnt;
        Ok(Found {
            device: route.device,
            mtu,
            is_learnt,
            own_mac: link.and_then(|link| link.mac),
            next_hop,
            runs_are_cut,
        })
    }
}

/// One underlay and the neighbour that its datagrams go to.
#[derive(Debug)]
pub(super) struct Way {
    underlay: Arc<Underlay>,
    /// Interface and address of the next hop; `None` when none is needed, or there is no route.
    neighbour: Option<(Ifindex, IpAddr)>,
    /// Whether the next hop is to be asked whether it is still there.
    must_ask: bool,
}

impl Way {
    pub(super) fn new(underlay: Arc<Underlay>) -> Self {
        Self { underlay, neighbour: None, must_ask: true }
    }

    pub(super) fn is_usable(&self) -> bool {
        self.underlay.next_hop() == NextHop::Usable
    }

    /// Whether anybody but the watcher still has it.
    fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.underlay) > 1
    }

    fn question(&self) -> Question {
        Question {
            remote: self.underlay.remote(),
            local: self.underlay.local(),
            bound: self.underlay.bound_device(),
            mark: self.underlay.mark(),
            runs: self.underlay.runs_are_cut() == RunsAreCut::BeforeTheDevice,
        }
    }

    /// Takes note of what the kernel says of the way now.
    fn take(&mut self, found: &io::Result<Found>) {
        match found {
            Ok(found) => {
                let next_hop = self.follow(*found);
                self.note(next_hop);
            }
            Err(error) if !is_no_way(error) => {
                debug!("the way to {} is not known anew: {error}", self.underlay.remote());
            }
            Err(error) => {
                debug!("no way to {}: {error}", self.underlay.remote());
                self.neighbour = None;
                self.underlay.set_device(None);
                self.note(NextHop::Failed);
            }
        }
    }

    /// Takes note of what became of a neighbour, if it is ours. One that the kernel has forgotten is asked for again
    /// at once: its link was down for a moment.
    async fn hear(&mut self, neighbour: Neighbour, netlink: &Netlink) {
        if self.neighbour == Some((neighbour.device, neighbour.address)) {
            let next_hop = self.learn(neighbour);
            self.note(next_hop);
            if neighbour.reachability.is_none() {
                self.ask(netlink).await;
            }
        }
    }

    /// Takes note of the neighbour's address, and says whether datagrams reach it.
    fn learn(&mut self, neighbour: Neighbour) -> NextHop {
        if let Some(mac) = neighbour.mac {
            self.underlay.set_destination_mac(mac);
        }
        let next_hop = neighbour.reachability.unwrap_or(NextHop::Resolving);
        // The kernel asks before it sends. Where it sends nothing it must be told to.
        self.must_ask = next_hop != NextHop::Usable || (neighbour.is_stale && self.underlay.has_own_frames());
        next_hop
    }

    /// Makes the kernel ask for the neighbour, unless datagrams are known to reach it.
    async fn ask(&self, netlink: &Netlink) {
        let (true, Some((device, address))) = (self.must_ask, self.neighbour) else { return };
        let (local, remote) = (self.underlay.local(), self.underlay.remote());
        if let Err(error) = in_time(netlink.ask_for_neighbour(device, address, local, remote)).await {
            debug!("cannot ask for {self}: {error}");
        }
    }

    /// Everything at once: an engine that writes outer frames itself never sends those of one interface through another,
    /// but for a moment.
    fn follow(&mut self, found: Found) -> NextHop {
        let Found { device, mtu, is_learnt, own_mac, next_hop, runs_are_cut } = found;
        if self.underlay.runs_are_cut() == RunsAreCut::BeforeTheDevice && runs_are_cut != RunsAreCut::BeforeTheDevice {
            self.underlay.forget_where_runs_are_cut();
        }
        self.note_mtu(if is_learnt { self.underlay.believed(mtu) } else { mtu });
        if let Some(own_mac) = own_mac {
            self.underlay.set_source_mac(own_mac);
        }
        self.neighbour = next_hop.map(|(address, _)| (device, address));
        self.must_ask = true;
        let next_hop = if let Some((_, known)) = next_hop {
            known.map_or(NextHop::Resolving, |neighbour| self.learn(neighbour))
        } else {
            let remote = self.underlay.remote();
            self.underlay.set_destination_mac(without_neighbour(own_mac.unwrap_or(EXAMPLE_MACS.0), remote));
            NextHop::Usable
        };
        self.underlay.set_device(Some(device));
        next_hop
    }

    fn note_mtu(&self, mtu: Mtu) {
        let before = self.underlay.mtu();
        if before != mtu && !self.underlay.has_pinned_mtu() {
            info!("the path MTU to {} is {mtu} now, it was {before}", self.underlay.remote());
            self.underlay.learn_mtu(mtu);
        }
    }

    fn note(&self, next_hop: NextHop) {
        let before = self.underlay.next_hop();
        match (before, next_hop) {
            // Asking again does not make a silent next hop any better: only an answer does.
            (NextHop::Failed, NextHop::Resolving) => return,
            (before, now) if before == now => return,
            // Each session tells its operator about its destinations; this way may be that of hundreds.
            (_, NextHop::Failed) => debug!("{self} cannot be reached"),
            (NextHop::Failed, NextHop::Usable) => debug!("{self} can be reached again"),
            _ => {}
        }
        self.underlay.set_next_hop(next_hop);
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = self.underlay.remote();
        match self.neighbour {
            Some((_, address)) if address != remote => write!(f, "{remote} behind {address}"),
            _ => write!(f, "{remote}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PATIENCE, TestNamespace};
    use super::*;
    use crate::quantity::Mtu;

    /// Watches the way from `tapped` to 192.0.2.2 while `change` is made and until `reached`.
    fn watch_until(
        tapped: &TestNamespace,
        underlay: &Arc<Underlay>,
        change: impl FnOnce(),
        reached: impl Fn(&Underlay) -> bool + Send + Sync + 'static,
    ) {
        let theirs = Arc::clone(underlay);
        let (started, wait) = std::sync::mpsc::channel();
        let outcome = tapped.spawn_async(async move {
            let watcher = tokio::spawn(watch(vec![Arc::clone(&theirs)]));
            started.send(()).unwrap();
            let condition = async {
                while !reached(&theirs) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let outcome = tokio::time::timeout(PATIENCE, condition).await;
            watcher.abort();
            (outcome.is_ok(), format!("{theirs:?}"))
        });
        wait.recv().unwrap();
        change();
        let (reached, underlay) = outcome.recv().unwrap();
        assert!(reached, "{underlay}");
    }

    fn way(next_hop: NextHop) -> Arc<Underlay> {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        Arc::new(Underlay::new(address("192.0.2.2"), address("192.0.2.1"), None, Mtu::ETHERNET, next_hop))
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_next_hop_that_falls_silent_and_comes_back_is_noticed() {
        let (tapped, analyzer) = TestNamespace::pair();
        tapped.ip("neigh flush all");
        tapped.write("/proc/sys/net/ipv4/neigh/fke0/retrans_time_ms", "100");
        let underlay = way(NextHop::Resolving);
        watch_until(&tapped, &underlay, || {}, |underlay| underlay.next_hop() == NextHop::Usable);
        assert!(underlay.device().is_some());

        let unplug = || analyzer.ip("link set fke0 down");
        watch_until(&tapped, &underlay, unplug, |underlay| underlay.next_hop() == NextHop::Failed);

        let plug_in = || analyzer.ip("link set fke0 up");
        watch_until(&tapped, &underlay, plug_in, |underlay| underlay.next_hop() == NextHop::Usable);
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_next_hop_s_new_mac_address_is_noticed() {
        let (tapped, analyzer) = TestNamespace::pair();
        let underlay = way(NextHop::Resolving);
        watch_until(&tapped, &underlay, || {}, |underlay| underlay.next_hop() == NextHop::Usable);
        // As a standby that takes over does: it tells everybody.
        analyzer.write("/proc/sys/net/ipv4/conf/fke0/arp_notify", "1");
        let replace = || analyzer.ip("link set fke0 address 02:00:00:00:00:77");
        watch_until(&tapped, &underlay, replace, |underlay| {
            (underlay.ethernet().1, underlay.next_hop()) == ([2, 0, 0, 0, 0, 0x77], NextHop::Usable)
        });
    }

    /// The kernel asks a neighbour before it sends to it, and here it never sends.
    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_next_hop_that_falls_silent_is_noticed_where_only_whole_frames_are_sent() {
        let (tapped, analyzer) = TestNamespace::pair();
        for (setting, value) in [
            ("/proc/sys/net/ipv4/neigh/fke0/base_reachable_time_ms", "500"),
            ("/proc/sys/net/ipv4/neigh/fke0/retrans_time_ms", "100"),
            ("/proc/sys/net/ipv4/neigh/fke0/delay_first_probe_time", "1"),
        ] {
            tapped.write(setting, value);
        }
        let underlay = Arc::new(Arc::into_inner(way(NextHop::Resolving)).unwrap().with_own_frames(true));
        watch_until(&tapped, &underlay, || {}, |underlay| underlay.next_hop() == NextHop::Usable);
        let fall_silent = || analyzer.ip("link set fke0 arp off");
        watch_until(&tapped, &underlay, fall_silent, |underlay| underlay.next_hop() == NextHop::Failed);
        let answer = || analyzer.ip("link set fke0 arp on");
        watch_until(&tapped, &underlay, answer, |underlay| underlay.next_hop() == NextHop::Usable);
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_changed_mtu_is_noticed() {
        let (tapped, _analyzer) = TestNamespace::pair();
        let underlay = way(NextHop::Usable);
        let shrink = || tapped.ip_beside("link set fke0 mtu 1400");
        watch_until(&tapped, &underlay, shrink, |underlay| underlay.mtu().value() == 1400);
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn the_least_path_mtu_that_the_kernel_learns_is_still_a_way() {
        let (tapped, _analyzer) = TestNamespace::pair();
        let underlay = way(NextHop::Resolving);
        // `net.ipv4.route.min_pmtu`: what one forged ICMP error can bring about.
        let shrink = || tapped.ip_beside("route replace 192.0.2.0/24 dev fke0 src 192.0.2.1 mtu 552");
        watch_until(&tapped, &underlay, shrink, |underlay| {
            (underlay.mtu().value(), underlay.next_hop()) == (552, NextHop::Usable)
        });
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn an_interface_that_takes_runs_uncut_from_now_on_is_noticed() {
        let (tapped, _analyzer) = TestNamespace::pair();
        tapped.output("ethtool -K fke0 tx-udp-segmentation off");
        let underlay = Arc::into_inner(way(NextHop::Resolving)).unwrap().with_runs_cut(RunsAreCut::BeforeTheDevice);
        let underlay = Arc::new(underlay);
        watch_until(&tapped, &underlay, || {}, |underlay| underlay.next_hop() == NextHop::Usable);
        assert_eq!(underlay.runs_are_cut(), RunsAreCut::BeforeTheDevice);

        tapped.output("ethtool -K fke0 tx-udp-segmentation on");
        watch_until(&tapped, &underlay, || {}, |underlay| underlay.runs_are_cut() == RunsAreCut::Unknown);
    }

    #[test]
    #[ignore = "needs root: run scripts/test"]
    fn a_route_that_goes_and_comes_back_by_another_device_is_followed() {
        let (tapped, _analyzer) = TestNamespace::pair();
        let underlay = way(NextHop::Resolving);
        watch_until(&tapped, &underlay, || {}, |underlay| underlay.next_hop() == NextHop::Usable);
        let first = underlay.device();

        let cut = || tapped.ip_beside("route del 192.0.2.0/24");
        watch_until(&tapped, &underlay, cut, |underlay| underlay.next_hop() == NextHop::Failed);
        assert_eq!(underlay.device(), None);

        tapped.ip("link add fke7 type veth peer name fke8");
        tapped.ip("link set fke8 up");
        tapped.ip("link set fke7 arp off up");
        let reroute = || tapped.ip_beside("route add 192.0.2.0/24 dev fke7");
        watch_until(&tapped, &underlay, reroute, |underlay| underlay.next_hop() == NextHop::Usable);
        assert_ne!(underlay.device(), first);
    }
}
