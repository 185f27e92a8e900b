//! A running session: opened as a whole or not at all, then one worker thread until its end.

pub mod control;
mod path;
mod stop;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::plan::{DestinationPlan, End, SessionPlan, SourcePlan};
use crate::destination::capture_file::CaptureFile;
use crate::destination::tunnel::Tunnel;
use crate::destination::{Destination, Destinations, Patience, Shared};
use crate::error::{Explain, Problems};
use crate::kernel::underlay::Underlay;
use crate::ledger::{Ledger, Published};
use crate::normalise::Normaliser;
use crate::select::Selector;
use crate::select::own_traffic::OwnTraffic;
use crate::source::{self, Interface, Progress};

use path::Path;
use stop::Stop;
pub use worker::Outcome;
use worker::Worker;

/// A session with everything open and nothing moving yet.
pub struct Session {
    worker: Worker,
    underlays: Vec<Arc<Underlay>>,
    stop: Stop,
    published: Published,
    interfaces: Vec<Interface>,
    progress: Option<Progress>,
}

/// A session whose worker runs.
#[derive(Debug)]
pub struct Running {
    outcome: oneshot::Receiver<Outcome>,
    underlays: Vec<Arc<Underlay>>,
    stop: Stop,
    published: Published,
}

/// What keeps an otherwise sound session from starting or from ending well.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel gave no descriptor or thread.
    #[error("cannot start the worker thread")]
    Resources {
        /// The kernel's words.
        #[source]
        cause: std::io::Error,
    },
    /// Nobody asked the kernel for the way to a tunnel.
    #[error("the way to destination \"{destination}\" is not known")]
    NoWay {
        /// The destination's name.
        destination: String,
    },
    /// A defect of farspan: the ledger is as it was last published.
    #[error("the worker thread ended unexpectedly; the ledger is as it was shortly before")]
    Crashed,
    /// The worker did not end in time, or a second signal did not want to wait for it.
    #[error("ended while a pipe gave or took no frame; what the session held then is not in the ledger")]
    Abandoned,
}

impl Explain for SessionError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Resources { .. } => Some("look at `ulimit -n` and `ulimit -u`".into()),
            Self::NoWay { .. } | Self::Crashed => {
                Some("this is a defect of farspan: please report it with the message above".into())
            }
            Self::Abandoned => None,
        }
    }
}

impl Session {
    /// Opens sources and destinations. `underlays` are the ways to the plan's tunnels, in the order of its
    /// destinations.
    ///
    /// # Errors
    /// Everything that could not be opened.
    pub fn open(plan: &SessionPlan, underlays: &[Option<Arc<Underlay>>]) -> Result<Self, Problems> {
        let opened = source::open(plan)?;
        let (patience, delay) = match &plan.source {
            SourcePlan::Live(live) => (Patience::Drop, live.delay),
            SourcePlan::File(_) => (Patience::Wait, Duration::ZERO),
        };
        let names: Vec<String> = opened.interfaces.iter().map(|interface| interface.name.clone()).collect();
        let destinations = open_destinations(&plan.destinations, underlays, &names, patience)?;

        let ledger = Ledger::new(plan.destinations.iter().map(|plan| (plan.name.as_str(), plan.to.as_str())));
        let published = Published::new(ledger.clone());
        let path = Path {
            selector: Selector::new(OwnTraffic::new(destinations.own_tunnels())),
            normaliser: Normaliser::new(plan.normalise.truncate),
            destinations,
            ledger,
        };
        let no_resources = |cause: nix::Error| SessionError::Resources { cause: cause.into() };
        let stop = Stop::new().map_err(no_resources)?;
        let worker = Worker::new(opened.sources, path, stop.clone(), published.clone(), delay, plan.end.count)
            .map_err(no_resources)?;
        let underlays = underlays.iter().flatten().cloned().collect();
        Ok(Self { worker, underlays, stop, published, interfaces: opened.interfaces, progress: opened.progress })
    }

    /// The interfaces, or the file, that are mirrored.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// How far the replay of a file has come.
    pub fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// Starts the worker.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(self) -> Result<Running, Problems> {
        let Self { mut worker, underlays, stop, published, .. } = self;
        let (send, outcome) = oneshot::channel();
        std::thread::Builder::new()
            .name("worker".into())
            // The outcome first: to close many captures takes the kernel seconds. Where nobody waits for it any more, the
            // process is ending.
            .spawn(move || drop(send.send(worker.run())))
            .map_err(|cause| SessionError::Resources { cause })?;
        Ok(Running { outcome, underlays, stop, published })
    }
}

impl Running {
    /// Asks the worker to end; [`ended`](Self::ended) tells when it has.
    pub fn stop(&self) {
        self.stop.request();
        self.underlays.iter().for_each(|underlay| underlay.stop_waiting());
    }

    /// The ledger as it was a moment ago.
    pub fn ledger(&self) -> Ledger {
        self.published.read()
    }

    /// Waits for the worker's end.
    pub async fn ended(&mut self) -> Outcome {
        match (&mut self.outcome).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome { ledger: self.published.read(), failures: vec![SessionError::Crashed.into()] },
        }
    }
}

/// Opens every destination of `plans`, whose ways are `underlays`, for frames of `interfaces`.
///
/// # Errors
/// Everything that could not be opened.
pub fn open_destinations(
    plans: &[DestinationPlan],
    underlays: &[Option<Arc<Underlay>>],
    interfaces: &[String],
    patience: Patience,
) -> Result<Destinations, Problems> {
    let mut shared = Shared::new(plans, 0);
    let opened = plans.iter().zip(underlays).map(|(plan, underlay)| match (&plan.end, underlay) {
        (End::File(file), _) => Ok(Destination::File(CaptureFile::create(file)?)),
        (End::Tunnel(tunnel), Some(underlay)) => {
            Ok(Destination::Tunnel(Tunnel::open(plan, tunnel, underlay, interfaces, patience, &mut shared)?))
        }
        (End::Tunnel(_), None) => Err(SessionError::NoWay { destination: plan.name.clone() }.into()),
    });
    Problems::gathered(opened).map(Destinations::new)
}
