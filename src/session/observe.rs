//! Watches the destinations of a session: which can be given frames, and why not. Where each gets every frame, nothing
//! depends on it, and whoever looks at the session is told all the same.

use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use caps::Capability;
use futures_util::future::select_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{Instrument as _, info, warn};

use crate::config::defaults::NEXT_HOP_PATIENCE;
use crate::config::plan::{DestinationPlan, End, Probe, SessionPlan};
use crate::destination::health::{Complaint, Condition, Health, Sign};
use crate::destination::last_error::LastErrors;
use crate::error::{ExitCode, Explain, Problems};
use crate::kernel::capabilities::remedy;
use crate::kernel::echo::{Echo, connects};
use crate::kernel::knock::{Echoed, Knock};
use crate::kernel::underlay::{NextHop, Underlay};

/// How often everything is looked at, while there is anything to look at.
const LOOK: Duration = Duration::from_millis(500);
/// How often an analyzer is asked, and how long it has to answer.
const ASK: Duration = Duration::from_secs(1);

/// What is to be watched of one session.
#[derive(Debug)]
pub(super) struct Observer {
    health: Health,
    errors: LastErrors,
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
    is_probed: bool,
    condition: Condition,
    /// ICMP reports that speak against it, so far.
    reports: u64,
    /// Since when the kernel has been asking for the next hop.
    resolving_since: Option<std::time::Instant>,
    /// Asks after one that has been reported: it gets no frames that routers could report.
    knock: Option<Knock>,
}

/// Asks one analyzer whether it is there.
#[derive(Debug)]
enum Asker {
    Icmp(Echo),
    Tcp { way: Arc<Underlay>, port: NonZeroU16 },
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
        self.is_denied().then(|| {
            format!("CAP_NET_RAW is missing: {}, or choose probe=tcp:PORT", remedy(&[Capability::CAP_NET_RAW]))
        })
    }

    fn exit_code(&self) -> ExitCode {
        if self.is_denied() { ExitCode::NotPermitted } else { ExitCode::Failed }
    }
}

impl CannotProbe {
    fn is_denied(&self) -> bool {
        self.cause.kind() == io::ErrorKind::PermissionDenied
    }
}

/// Every destination of `plan` that cannot be probed from here as it is to be, by the ways that lead there.
pub fn cannot_probe(plan: &SessionPlan, underlays: &[Option<Arc<Underlay>>]) -> Option<Problems> {
    Observer::open(plan, underlays, Health::new(), LastErrors::default()).err()
}

impl Observer {
    /// Watches the destinations of `plan`, and notes in `errors` what speaks against them; `None` where all of them are on
    /// this host.
    ///
    /// # Errors
    /// For each destination whose probe cannot be opened.
    pub(super) fn open(
        plan: &SessionPlan,
        underlays: &[Option<Arc<Underlay>>],
        health: Health,
        errors: LastErrors,
    ) -> Result<Option<Self>, Problems> {
        let (mut watched, mut problems) = (Vec::new(), Vec::new());
        for (plan, way) in plan.destinations.iter().zip(underlays) {
            // The dry run of a tunnel has nobody to be asked for.
            let way = way.clone().filter(|_| plan.live_tunnel().is_some());
            match Asker::open(plan, way.as_ref()) {
                Ok(asker) => watched.push(Watched {
                    name: plan.name.clone(),
                    to: plan.to.clone(),
                    way,
                    condition: Condition::new(asker.is_some()),
                    is_probed: asker.is_some(),
                    asker,
                    reports: 0,
                    resolving_since: None,
                    knock: None,
                }),
                Err(cause) => problems.push(CannotProbe { destination: plan.place(), cause }),
            }
        }
        let is_anybody_away = watched.iter().any(|watched| watched.way.is_some());
        Problems::unless_empty(problems).map(|()| is_anybody_away.then_some(Self { health, errors, watched }))
    }

    /// Starts watching, on the runtime of the caller.
    pub(super) fn start(self) -> Observing {
        let Self { health, errors, mut watched } = self;
        let mut tasks = Vec::new();
        let answers: Vec<Arc<Answer>> = watched.iter().map(|_| Arc::default()).collect();
        for (watched, answer) in watched.iter_mut().zip(&answers) {
            if let Some(asker) = watched.asker.take() {
                tasks.push(tokio::spawn(asker.ask_again_and_again(Arc::clone(answer))));
            }
        }
        let looking = async move {
            let ways: Vec<Arc<Underlay>> = watched.iter().filter_map(|watched| watched.way.clone()).collect();
            let mut news: Vec<_> = ways.iter().map(|way| way.news()).collect();
            loop {
                let now = Instant::now();
                for (number, watched) in watched.iter_mut().enumerate() {
                    let sign = watched.sign(now.into_std(), answers[number].take());
                    if watched.condition.note(now.into_std(), sign) {
                        watched.tell(&errors);
                    }
                    health.set(number, watched.condition.complaint());
                    health.set_hopeful(number, watched.condition.is_hopeful(now.into_std()));
                }
                if watched.iter().all(Watched::is_calm) {
                    // Hundreds of sessions to which nothing happens cost nothing. The news come as long as there are ways.
                    let _ = select_all(news.iter_mut().map(|news| Box::pin(news.changed()))).await;
                }
                sleep_until(now + LOOK).await;
            }
        };
        tasks.push(tokio::spawn(looking.in_current_span()));
        Observing(tasks)
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Watched {
    /// What is seen of it now.
    fn sign(&mut self, now: std::time::Instant, answer: Option<bool>) -> Sign {
        let Some(way) = &self.way else { return Sign::Silence };
        // Of host and network unreachables; port and protocol unreachables are what a sniffing analyzer answers.
        let reports = way.unreachable_reports();
        let reported = std::mem::replace(&mut self.reports, reports) < reports;
        let next_hop = way.next_hop();
        let resolving = (next_hop == NextHop::Resolving).then(|| *self.resolving_since.get_or_insert(now));
        self.resolving_since = resolving;
        // So long frames wait for it: after that they would be dropped.
        let is_late = resolving.is_some_and(|since| now.duration_since(since) >= NEXT_HOP_PATIENCE);
        match answer {
            _ if next_hop == NextHop::Failed || is_late => Sign::Dead(Complaint::NextHop),
            Some(false) => Sign::Bad(Complaint::Probe),
            // Anybody can forge a report. Where the analyzer is asked, its answers decide.
            Some(true) => Sign::Answer,
            None if self.is_probed => Sign::Silence,
            None if reported => Sign::Bad(Complaint::Icmp),
            None => self.knock(),
        }
    }

    /// Hears what routers say about one that they reported, and makes them say it again.
    fn knock(&mut self) -> Sign {
        if self.condition.complaint() != Some(Complaint::Icmp) {
            self.knock = None;
            return Sign::Silence;
        }
        if self.knock.is_none() {
            // Without one it is tried with its own flows when the time has come.
            self.knock = self.way.as_ref().and_then(|way| Knock::open(way).ok());
        }
        match self.knock.as_mut().map(Knock::again) {
            Some(Echoed::Unreachable) => Sign::Bad(Complaint::Icmp),
            Some(Echoed::Refusal) => Sign::Answer,
            Some(Echoed::Silence) | None => Sign::Silence,
        }
    }

    /// Whether nothing is to be looked at before something happens on its way.
    fn is_calm(&self) -> bool {
        self.condition.is_calm() && self.resolving_since.is_none()
    }

    fn tell(&self, errors: &LastErrors) {
        let Self { name, to, .. } = self;
        if let Some(complaint) = self.condition.complaint() {
            warn!("destination {name} ({to}) is not healthy: {complaint}");
            errors.note(name, complaint.to_string());
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
    fn open(plan: &DestinationPlan, way: Option<&Arc<Underlay>>) -> io::Result<Option<Self>> {
        let (End::Tunnel(tunnel), Some(way)) = (&plan.end, way) else { return Ok(None) };
        Ok(match tunnel.probe {
            Probe::Off => None,
            Probe::Icmp => Some(Self::Icmp(Echo::open(way)?)),
            Probe::Tcp(port) => Some(Self::Tcp { way: Arc::clone(way), port }),
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
            Self::Tcp { way, port } => connects(way, port.get(), ASK).await,
        }
    }
}
