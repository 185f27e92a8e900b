//! The governor: keeps a session within what it may take from its host.
//!
//! A task of the control plane that looks ten times a second at what the workers and the host use, and sets how many flows
//! are admitted ([`crate::select::shed`] says how a flow is). Workers brake by themselves when a burst comes in between.
//! Without a limit there is no governor, and nothing is measured.

mod link_load;
mod meters;
mod pressure;
mod regulator;
mod view;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::daemon::TotalLimitPlan;
use crate::config::plan::LimitPlan;
use crate::kernel::underlay::Underlay;
use crate::quantity::{CpuShare, Share};
use crate::select::shed::{BUCKETS, Window};
use link_load::LinkLoad;
pub(super) use meters::{Governed, Shared};
use meters::{Measures, Meters};
use regulator::{Regulator, TICK};
pub use view::{GovernorState, GovernorView, LimitView, Shown};

/// How long flows are left out before it is said: a burst of a moment is no news.
const SAYS_AFTER: Duration = Duration::from_secs(1);
/// How often it is said again.
const SAYS_AGAIN: Duration = Duration::from_mins(1);
/// For so many ticks the kept fraction is shown.
const KEPT_OVER: usize = 20;

/// What all sessions of a daemon use together. Each session's governor adds to it and keeps within it.
#[derive(Debug)]
pub struct Totals {
    limit: Mutex<TotalLimitPlan>,
    meters: Meters,
}

impl Totals {
    /// Nothing is used yet.
    pub fn new(limit: TotalLimitPlan) -> Self {
        Self { limit: Mutex::new(limit), meters: Meters::default() }
    }

    /// What all sessions may use from now on; returns what it was before. Sessions that were opened while nothing was limited
    /// are not kept to it before they start again.
    pub fn replace(&self, limit: TotalLimitPlan) -> TotalLimitPlan {
        std::mem::replace(&mut *self.limit.lock().unwrap_or_else(PoisonError::into_inner), limit)
    }

    /// What all sessions may use.
    fn limit(&self) -> TotalLimitPlan {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything but memory is limited.
    fn is_any(&self) -> bool {
        let TotalLimitPlan { memory: _, bandwidth, rate, cpu } = self.limit();
        bandwidth.is_some() || rate.is_some() || cpu.is_some()
    }
}

/// What a governor is made from, before its session starts.
#[derive(Debug)]
pub(super) struct Plan {
    session: String,
    limit: LimitPlan,
    underlays: Vec<Arc<Underlay>>,
    totals: Option<Arc<Totals>>,
    pub(super) shared: Arc<Shared>,
}

impl Plan {
    /// For a session with this limit, if it has one that leaves flows out or `totals` have.
    pub(super) fn of(
        session: &str,
        limit: LimitPlan,
        underlays: Vec<Arc<Underlay>>,
        totals: Option<Arc<Totals>>,
    ) -> Option<Self> {
        let totals = totals.filter(|totals| totals.is_any());
        (limit.is_any() || totals.is_some()).then(|| {
            let shared = Arc::new(Shared::new(allowance(&limit)));
            Self { session: session.to_owned(), limit, underlays, totals, shared }
        })
    }

    /// Starts to govern. Must be called inside a tokio runtime.
    pub(super) fn start(self) -> Governor {
        let shown = Shown::new();
        let at_work = AtWork::new(self, shown.clone());
        Governor { shown, task: tokio::spawn(at_work.run()) }
    }
}

/// What a tick may use: frames, bytes, nanoseconds of CPU time.
fn allowance(limit: &LimitPlan) -> [Option<u64>; 3] {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and huge is as good as none")]
    let a_tick = |a_second: f64| (a_second * TICK.as_secs_f64()) as u64;
    [
        limit.rate.map(a_tick),
        limit.bandwidth.map(|bits| a_tick(bits / 8.0)),
        limit.cpu.map(|share| a_tick(share.cores() * 1e9)),
    ]
}

/// A governor at work; it ends when dropped.
#[derive(Debug)]
pub(super) struct Governor {
    shown: Shown,
    task: JoinHandle<()>,
}

impl Governor {
    /// What it measures and does.
    pub(super) fn shown(&self) -> Shown {
        self.shown.clone()
    }
}

impl Drop for Governor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task.
#[derive(Debug)]
struct AtWork {
    plan: Plan,
    shown: Shown,
    regulator: Regulator,
    /// When it looked last, and what had been used then: by the session, by all sessions, by the process.
    looked: Looked,
    links: Option<LinkLoad>,
    pressure: Option<Share>,
    /// What is known of each limit.
    limits: Vec<LimitView>,
    /// Of the last ticks: what was wanted and what was left out.
    kept: [(u64, u64); KEPT_OVER],
    tick: usize,
    speech: Speech,
}

#[derive(Clone, Copy, Debug)]
struct Looked {
    at: Instant,
    own: Measures,
    all: Measures,
    process: Duration,
    stalled: Duration,
}

/// What was said, and when.
#[derive(Clone, Copy, Debug, Default)]
struct Speech {
    /// Since when flows are left out.
    since: Option<Instant>,
    /// When that was said last, and how much had been left out then.
    said: Option<(Instant, u64)>,
}

impl AtWork {
    fn new(plan: Plan, shown: Shown) -> Self {
        let mut pressure = plan.limit.pressure;
        if let (Some(_), Err(error)) = (pressure, pressure::stalled()) {
            tracing::warn!(
                "session {}: `limit.pressure` has no effect: this kernel does not measure it ({error})",
                plan.session
            );
            pressure = None;
        }
        let links = plan.limit.underlay.and_then(|_| {
            LinkLoad::of(plan.underlays.clone())
                .inspect_err(|error| {
                    tracing::warn!("session {}: `limit.underlay` has no effect: {error}", plan.session);
                })
                .ok()
        });
        let looked = Looked {
            at: Instant::now(),
            own: plan.shared.meters.read(),
            all: plan.totals.as_ref().map(|totals| totals.meters.read()).unwrap_or_default(),
            process: process_time().unwrap_or_default(),
            stalled: pressure::stalled().unwrap_or_default(),
        };
        let (kept, speech) = ([(0, 0); KEPT_OVER], Speech::default());
        Self {
            plan,
            shown,
            regulator: Regulator::default(),
            looked,
            links,
            pressure,
            limits: Vec::new(),
            kept,
            tick: 0,
            speech,
        }
    }

    async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one comes at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// One tick: measures, decides, shows.
    async fn look(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.looked.at);
        // Two ticks at once, after this thread was kept from running, are one.
        if passed < TICK / 4 {
            return;
        }
        let own = self.plan.shared.meters.read();
        let since = own.since(self.looked.own);
        let uses = self.uses(since, passed).await;
        let tightest = uses.iter().map(|&(_, allowed, measured)| measured / allowed).fold(0.0, f64::max);
        let mut window = self.regulator.step(tightest, since.kept(), self.plan.shared.take_braked(), passed);
        window.in_portions = self.is_short_of_cpu() && window.settled < BUCKETS;
        self.plan.shared.admission.set(window);
        self.looked = Looked { at: now, own, ..self.looked };

        self.kept[self.tick % KEPT_OVER] = (since.wanted, since.shed);
        self.tick = self.tick.wrapping_add(1);
        self.remember(&uses);
        let view = self.show(window);
        self.say(&view, now, own.shed);
        self.shown.set(view);
    }

    /// Each limit with what it allows and what was used, a second.
    async fn uses(&mut self, since: Measures, passed: Duration) -> Vec<(&'static str, f64, f64)> {
        let seconds = passed.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a proportion")]
        let a_second = |count: u64| count as f64 / seconds;
        let cores = |share: Option<CpuShare>| share.map(CpuShare::cores);
        let LimitPlan { bandwidth, rate, cpu, memory: _, underlay, pressure: _ } = self.plan.limit;
        let mut uses = Vec::new();
        let mut put = |name, allowed: Option<f64>, measured: f64| {
            uses.extend(allowed.map(|allowed| (name, allowed, measured)));
        };
        put("limit.bandwidth", bandwidth, a_second(since.bytes) * 8.0);
        put("limit.rate", rate, a_second(since.frames));
        put("limit.cpu", cores(cpu), a_second(since.cpu) / 1e9);
        if let Some(totals) = &self.plan.totals {
            let limit = totals.limit();
            totals.meters.add(since);
            let all = totals.meters.read();
            let together = all.since(std::mem::replace(&mut self.looked.all, all));
            put("total limit.bandwidth", limit.bandwidth, a_second(together.bytes) * 8.0);
            put("total limit.rate", limit.rate, a_second(together.frames));
            if let (Some(allowed), Some(process)) = (limit.cpu, process_time()) {
                let before = std::mem::replace(&mut self.looked.process, process);
                put("total limit.cpu", Some(allowed.cores()), process.saturating_sub(before).as_secs_f64() / seconds);
            }
        }
        if let (Some(allowed), Ok(stalled)) = (self.pressure, pressure::stalled()) {
            let before = std::mem::replace(&mut self.looked.stalled, stalled);
            put("limit.pressure", Some(allowed.fraction()), stalled.saturating_sub(before).as_secs_f64() / seconds);
        }
        if let (Some(allowed), Some(links)) = (underlay, &mut self.links)
            && let Some(load) = links.busiest(seconds).await
        {
            uses.push(("limit.underlay", allowed.fraction(), load));
        }
        uses
    }

    /// Whether it is CPU time that is limited.
    fn is_short_of_cpu(&self) -> bool {
        let is_total = self.plan.totals.as_ref().is_some_and(|totals| totals.limit().cpu.is_some());
        is_total || self.plan.limit.cpu.is_some() || self.pressure.is_some()
    }

    /// Smooths what is shown.
    fn remember(&mut self, uses: &[(&'static str, f64, f64)]) {
        for &(name, allowed, measured) in uses {
            match self.limits.iter_mut().find(|limit| limit.name == name) {
                Some(limit) => limit.measured += (measured - limit.measured) * 0.1,
                None => self.limits.push(LimitView { name: name.into(), allowed, measured }),
            }
        }
    }

    fn show(&self, window: Window) -> GovernorView {
        let (wanted, shed) =
            self.kept.iter().fold((0, 0), |(wanted, shed), (more, left_out)| (wanted + more, shed + left_out));
        #[allow(clippy::cast_precision_loss, reason = "a proportion")]
        let kept_fraction = if wanted == 0 { 1.0 } else { 1.0 - shed as f64 / wanted as f64 };
        let state = match window {
            Window { settled: BUCKETS, .. } => GovernorState::Open,
            Window { open: BUCKETS, .. } => GovernorState::Recovering,
            Window { control_frames: false, .. } => GovernorState::Exhausted,
            _ => GovernorState::Shedding,
        };
        let use_of = |limit: &&LimitView| limit.measured / limit.allowed;
        let tightest = self.limits.iter().max_by(|one, other| use_of(one).total_cmp(&use_of(other)));
        let sheds = matches!(state, GovernorState::Shedding | GovernorState::Exhausted);
        GovernorView {
            state,
            reason: tightest.filter(|_| sheds).map(|limit| limit.name.clone()),
            kept_fraction,
            admitted_flows: f64::from(window.open) / f64::from(BUCKETS),
            limits: self.limits.clone(),
        }
    }

    /// Says when flows begin to be left out, once a minute that they still are, and when it is over.
    fn say(&mut self, view: &GovernorView, now: Instant, shed: u64) {
        let session = &self.plan.session;
        match (&view.reason, self.speech.since) {
            (Some(_), None) => self.speech.since = Some(now),
            (Some(reason), Some(since)) => {
                let (due, before) = match self.speech.said {
                    Some((said, before)) => (now >= said + SAYS_AGAIN, before),
                    None => (now >= since + SAYS_AFTER, 0),
                };
                if due {
                    let percent = view.kept_fraction * 100.0;
                    let frames = shed - before;
                    let exhausted = if view.state == GovernorState::Exhausted {
                        "; to receive alone takes more than it allows"
                    } else {
                        ""
                    };
                    tracing::warn!(
                        "session {session}: `{reason}` is reached: flows are left out, {percent:.0} % of the frames are kept \
                         ({frames} left out{exhausted})"
                    );
                    self.speech.said = Some((now, shed));
                }
            }
            (None, Some(_)) => {
                if self.speech.said.is_some() {
                    tracing::info!("session {session}: within its limits again, new flows are all mirrored");
                }
                self.speech = Speech::default();
            }
            (None, None) => {}
        }
    }
}

/// CPU time of this process.
fn process_time() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).map_err(io::Error::from).ok()
}
