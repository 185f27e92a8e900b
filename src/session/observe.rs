//! Watches the destinations of a session whose frames go to one of them: which can be given frames, and why not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use caps::Capability;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::config::plan::{DestinationPlan, End, Probe, SessionPlan, Spread};
use crate::destination::health::{Complaint, Condition, Health, Sign};
use crate::error::{Explain, Problems};
use crate::kernel::capabilities::remedy;
use crate::kernel::echo::Echo;
use crate::kernel::underlay::{NextHop, Underlay};
use crate::ledger::Published;

/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often an analyzer is asked, and how long it has to answer.
const ASK: Duration = Duration::from_secs(1);

/// What is to be watched of one session.
#[derive(Debug)]
pub(super) struct Observer {
    health: Health,
    watched: Vec<Watched>,
}

/// The running watch; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Observing(Vec<JoinHandle<()>>);

/// One destination.
#[derive(Debug)]
struct Watched {
    name: String,
    to: String,
    /// None: it is on this host.
    way: Option<Arc<Underlay>>,
    asker: Option<Asker>,
    condition: Condition,
    /// ICMP reports that speak against it, so far.
    reports: u64,
}

/// Asks one analyzer whether it is there.
#[derive(Debug)]
enum Asker {
    Icmp(Echo),
    Tcp { local: IpAddr, remote: IpAddr, port: NonZeroU16 },
}

/// The probe of a destination cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot probe destination {destination}")]
pub struct CannotProbe {
    /// Its name, and where it sends.
    destination: String,
    #[source]
    cause: io::Error,
}

impl Explain for CannotProbe {
    fn hint(&self) -> Option<String> {
        let denied = self.cause.kind() == io::ErrorKind::PermissionDenied;
        denied.then(|| {
            format!("CAP_NET_RAW is missing: {}, or choose probe=tcp:PORT", remedy(&[Capability::CAP_NET_RAW]))
        })
    }
}

impl Observer {
    /// Watches the destinations of `plan`; `None` where nothing depends on it and nobody is to be asked.
    ///
    /// # Errors
    /// For each destination whose probe cannot be opened.
    pub(super) fn open(
        plan: &SessionPlan,
        underlays: &[Option<Arc<Underlay>>],
        health: Health,
    ) -> Result<Option<Self>, Problems> {
        let asks = |plan: &DestinationPlan| matches!(&plan.end, End::Tunnel(tunnel) if tunnel.probe != Probe::Off);
        if plan.spread == Spread::Replicate && !plan.destinations.iter().any(asks) {
            return Ok(None);
        }
        let watched = plan.destinations.iter().zip(underlays).map(|(plan, way)| {
            // The dry run of a tunnel has nobody to be asked for.
            let way = way.clone().filter(|_| matches!(&plan.end, End::Tunnel(tunnel) if tunnel.is_live()));
            let asker =
                Asker::open(plan, way.as_deref()).map_err(|cause| CannotProbe { destination: plan.place(), cause })?;
            let condition = Condition::new(asker.is_some());
            Ok(Watched { name: plan.name.clone(), to: plan.to.clone(), way, asker, condition, reports: 0 })
        });
        Problems::gathered(watched).map(|watched| Some(Self { health, watched }))
    }

    /// Starts watching, on the runtime of the caller. `published` are the ledgers of the session's workers.
    pub(super) fn start(self, published: Vec<Published>) -> Observing {
        let Self { health, mut watched } = self;
        let mut tasks = Vec::new();
        let answers: Vec<Arc<Answer>> = watched.iter().map(|_| Arc::default()).collect();
        for (watched, answer) in watched.iter_mut().zip(&answers) {
            if let Some(asker) = watched.asker.take() {
                tasks.push(tokio::spawn(asker.ask_again_and_again(Arc::clone(answer))));
            }
        }
        tasks.push(tokio::spawn(async move {
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let now = looks.tick().await.into_std();
                for (number, watched) in watched.iter_mut().enumerate() {
                    let reports = published.iter().map(|published| reports(published, number)).sum();
                    let sign = watched.sign(reports, answers[number].take());
                    let has_changed = watched.condition.note(now, sign);
                    health.set(number, watched.condition.complaint());
                    if has_changed {
                        watched.tell();
                    }
                }
            }
        }));
        Observing(tasks)
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Host and network unreachables so far; port and protocol unreachables are what a sniffing analyzer answers.
fn reports(published: &Published, destination: usize) -> u64 {
    published.read().destinations.get(destination).map_or(0, |account| account.icmp.host_unreachable)
}

impl Watched {
    /// What is seen of it now.
    fn sign(&mut self, reports: u64, answer: Option<bool>) -> Sign {
        let reported = std::mem::replace(&mut self.reports, reports) < reports;
        let failed = self.way.as_ref().is_some_and(|way| way.next_hop() == NextHop::Failed);
        match answer {
            _ if failed => Sign::Dead(Complaint::NextHop),
            Some(false) => Sign::Bad(Complaint::Probe),
            _ if reported => Sign::Bad(Complaint::Icmp),
            Some(true) => Sign::Answer,
            None => Sign::Silence,
        }
    }

    fn tell(&self) {
        let Self { name, to, .. } = self;
        if let Some(complaint) = self.condition.complaint() {
            warn!("destination {name} ({to}) is not healthy: {complaint}");
        } else {
            info!("destination {name} ({to}) is healthy again");
        }
    }
}

/// The latest answer of an analyzer that nobody has looked at yet.
#[derive(Debug, Default)]
struct Answer(AtomicU8);

impl Answer {
    fn set(&self, answered: bool) {
        self.0.store(if answered { 1 } else { 2 }, Ordering::Relaxed);
    }

    fn take(&self) -> Option<bool> {
        match self.0.swap(0, Ordering::Relaxed) {
            0 => None,
            answer => Some(answer == 1),
        }
    }
}

impl Asker {
    fn open(plan: &DestinationPlan, way: Option<&Underlay>) -> io::Result<Option<Self>> {
        let (End::Tunnel(tunnel), Some(way)) = (&plan.end, way) else { return Ok(None) };
        let (local, remote) = (way.local(), way.remote());
        Ok(match tunnel.probe {
            Probe::Off => None,
            Probe::Icmp => Some(Self::Icmp(Echo::open(local, remote)?)),
            Probe::Tcp(port) => Some(Self::Tcp { local, remote, port }),
        })
    }

    async fn ask_again_and_again(mut self, answer: Arc<Answer>) {
        let mut times = interval(ASK);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = times.tick().await;
            answer.set(self.ask(asked).await.unwrap_or(false));
        }
    }

    async fn ask(&mut self, now: Instant) -> io::Result<bool> {
        match self {
            Self::Icmp(echo) => echo.ask((now + ASK).saturating_duration_since(Instant::now())).await,
            Self::Tcp { local, remote, port } => {
                let socket = if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.bind(SocketAddr::new(*local, 0))?;
                let connected = timeout(ASK, socket.connect(SocketAddr::new(*remote, port.get()))).await;
                Ok(matches!(connected, Ok(Ok(_))))
            }
        }
    }
}
