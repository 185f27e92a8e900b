//! The governor: keeps a session within what it may take from its host.
//!
//! A task of the control plane that looks ten times a second at what the workers and the host use, and sets how many flows
//! are admitted ([`crate::select::shed`] says how a flow is). Workers brake by themselves when a burst comes in between.
//! Without a limit there is no governor, and nothing is measured.
//!
//! The governor of an idle session rests. A daemon with hundreds of idle sessions would spend most of its CPU time on looks
//! that change nothing. The first frame wakes it, and so does a total limit that other sessions use to a large part.

#[cfg(test)]
mod flood;
mod link_load;
mod meters;
mod pressure;
mod regulator;
mod scale;
mod totals;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::Instrument as _;

use crate::config::plan::LimitPlan;
use crate::kernel::underlay::Underlay;
use crate::quantity::{CpuShare, Share};
use crate::select::shed::{BUCKETS, Closed, Window};
use link_load::LinkLoad;
use meters::Measures;
pub(super) use meters::{Governed, Shared};
use regulator::{Regulator, TICK, ticks_in};
pub use totals::Totals;
pub use view::{GovernorState, GovernorView, LimitView, Shown};

/// How long flows are left out before it is said: a burst of a moment is no news.
const SAYS_AFTER: Duration = Duration::from_secs(1);
/// How often it is said again.
const SAYS_AGAIN: Duration = Duration::from_mins(1);
/// The limits of bytes; the others are of frames, or of what frames cost.
const BYTES: [&str; 3] = ["limit.bandwidth", "total limit.bandwidth", "limit.underlay"];
/// For so many ticks the kept fraction is shown.
const KEPT_OVER: usize = 20;
/// Times a limit is used: below, and without frames, a governor rests. One that finds a total limit used so far wakes all
/// that rest.
const CALM: f64 = 0.5;
/// How often a resting governor refreshes what it shows of the limits that all sessions share.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// What a governor is made from.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    limit: LimitPlan,
    underlays: Vec<Arc<Underlay>>,
    totals: Option<Arc<Totals>>,
}

impl Plan {
    /// For a session with this limit, which tunnels by `underlays` and is one of those that `totals` are about.
    pub(super) fn new(limit: LimitPlan, underlays: Vec<Arc<Underlay>>, totals: Option<Arc<Totals>>) -> Self {
        Self { limit, underlays, totals }
    }

    /// What workers and governor are to share, if there is a limit now, of the session or of all, that leaves flows out.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        let is_any = self.limit.is_any() || self.totals.as_ref().is_some_and(|totals| totals.is_any());
        is_any.then(|| Arc::new(Shared::new(allowance(&self.limit))))
    }

    /// Starts to govern the workers that have `shared`. Must be called inside a tokio runtime.
    pub(super) fn start(&self, shared: Arc<Shared>) -> Governor {
        let shown = Shown::new();
        let at_work = AtWork::new(self.clone(), shared, shown.clone());
        Governor { shown, task: tokio::spawn(at_work.run().in_current_span()) }
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

/// Waits until another session's governor says that a limit of all sessions is used to a large part, or one is changed.
async fn pressed(totals: Option<&Totals>) {
    match totals {
        Some(totals) => totals.pressed().await,
        None => std::future::pending().await,
    }
}

/// The task.
#[derive(Debug)]
struct AtWork {
    plan: Plan,
    shared: Arc<Shared>,
    shown: Shown,
    regulator: Regulator,
    /// When it looked last, and what had been used then: by the session, by all sessions.
    looked: Looked,
    links: Option<LinkLoad>,
    pressure: Option<Share>,
    /// What is known of each limit.
    limits: Vec<LimitView>,
    /// Of the last ticks: what was wanted and what was left out.
    kept: [(u64, u64); KEPT_OVER],
    tick: usize,
    speech: Speech,
    /// Whether the latest look found nothing that the next one could change.
    is_idle: bool,
}

#[derive(Clone, Copy, Debug)]
struct Looked {
    at: Instant,
    own: Measures,
    all: Measures,
    stalled: Duration,
}

/// A limit, and what was used of it since the last tick.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// Its key.
    name: &'static str,
    /// In the units of [`LimitView`].
    allowed: f64,
    measured: f64,
    /// How much of what it has for mirrors they used: 1 is all of it.
    times: f64,
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
    fn new(plan: Plan, shared: Arc<Shared>, shown: Shown) -> Self {
        let mut pressure = plan.limit.pressure;
        if let (Some(_), Err(error)) = (pressure, pressure::stalled()) {
            tracing::warn!("`limit.pressure` has no effect: this kernel does not measure it ({error})");
            pressure = None;
        }
        let links = plan.limit.underlay.and_then(|_| {
            LinkLoad::of(plan.underlays.clone())
                .inspect_err(|error| tracing::warn!("`limit.underlay` has no effect: {error}"))
                .ok()
        });
        let looked = Looked {
            at: Instant::now(),
            own: shared.meters.read(),
            all: plan.totals.as_ref().map(|totals| totals.meters.read()).unwrap_or_default(),
            stalled: pressure.and_then(|_| pressure::stalled().ok()).unwrap_or_default(),
        };
        let (kept, speech) = ([(0, 0); KEPT_OVER], Speech::default());
        Self {
            plan,
            shared,
            shown,
            regulator: Regulator::default(),
            looked,
            links,
            pressure,
            limits: Vec::new(),
            kept,
            tick: 0,
            speech,
            is_idle: false,
        }
    }

    async fn run(mut self) {
        let now = Instant::now();
        let first = self.plan.totals.as_ref().map_or(now + TICK, |totals| totals.next_tick(now));
        let mut ticks = interval_at(first, TICK);
        // A late one does not move those that follow.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.look().await;
            if self.is_idle && self.rest().await {
                // The first interval is at least half a tick long, and ends when all others look.
                let now = Instant::now();
                let next = self.plan.totals.as_ref().map_or(now + TICK, |totals| totals.next_tick(now + TICK / 2));
                ticks.reset_at(next);
            }
        }
    }

    /// Waits until a worker has a frame, the limits of all sessions are changed or used to a large part, or what is shown is
    /// old. Says whether another interval begins; if not, the next look comes at once.
    async fn rest(&mut self) -> bool {
        self.shared.rest.begin();
        // A frame that came before a worker could see the flag.
        if self.shared.meters.read().wanted == self.looked.own.wanted {
            let totals = self.plan.totals.as_deref();
            let is_old = tokio::select! {
                () = self.shared.rest.ended() => false,
                () = pressed(totals) => false,
                () = tokio::time::sleep(LONGEST_REST) => true,
            };
            self.shared.rest.end();
            if is_old {
                return false;
            }
        }
        self.shared.rest.end();
        // Nothing was used before: a rate is that of the time from here on.
        let now = Instant::now();
        self.looked.at = now;
        if let Some(totals) = &self.plan.totals {
            self.looked.all = totals.meters.read();
            totals.resume(now);
        }
        true
    }

    /// One tick: measures, decides, shows.
    async fn look(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.looked.at);
        // Two ticks at once, after this thread was kept from running, are one.
        if passed < TICK / 4 {
            return;
        }
        let own = self.shared.meters.read();
        let since = own.since(self.looked.own);
        let uses = self.uses(since, now, passed).await;
        let tightest = uses.iter().max_by(|one, other| one.times.total_cmp(&other.times));
        let is_of_bytes = tightest.is_some_and(|one| BYTES.contains(&one.name));
        self.regulator.scale.note(&self.shared.loads.take(), is_of_bytes, ticks_in(passed));
        let tightest = tightest.map_or(0.0, |one| one.times);
        let is_pressed = |one: &Use| one.name.starts_with("total ") && one.times >= CALM;
        if let Some(totals) = self.plan.totals.as_ref().filter(|_| uses.iter().any(is_pressed)) {
            totals.press();
        }
        let mut window = self.regulator.step(tightest, since.kept(), self.shared.take_braked(), passed);
        window.in_portions = self.is_short_of_cpu() && window != Window::FULL;
        self.shared.admission.set(window);
        self.looked = Looked { at: now, own, ..self.looked };

        self.kept[self.tick % KEPT_OVER] = (since.wanted, since.shed);
        self.tick = self.tick.wrapping_add(1);
        self.is_idle = tightest < CALM && window == Window::FULL && self.may_rest();
        self.remember(&uses, passed);
        let view = self.show(window);
        self.say(&view, now, own.shed);
        self.shown.set(view);
    }

    /// Each limit with what was used of it, a second.
    async fn uses(&mut self, since: Measures, now: Instant, passed: Duration) -> Vec<Use> {
        let seconds = passed.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a proportion")]
        let a_second = |count: u64| count as f64 / seconds;
        let cores = |share: Option<CpuShare>| share.map(CpuShare::cores);
        let LimitPlan { bandwidth, rate, cpu, memory: _, underlay, pressure: _ } = self.plan.limit;
        let mut uses = Vec::new();
        let mut put = |name, allowed: Option<f64>, measured: f64| {
            uses.extend(allowed.map(|allowed| Use { name, allowed, measured, times: measured / allowed }));
        };
        put("limit.bandwidth", bandwidth, a_second(since.bytes) * 8.0);
        put("limit.rate", rate, a_second(since.frames));
        put("limit.cpu", cores(cpu), a_second(since.cpu) / 1e9);
        let mut mirrored = a_second(since.bytes) * 8.0;
        if let Some(totals) = &self.plan.totals {
            let limit = totals.limit();
            totals.meters.add(since);
            let all = totals.meters.read();
            let together = all.since(std::mem::replace(&mut self.looked.all, all));
            mirrored = a_second(together.bytes) * 8.0;
            put("total limit.bandwidth", limit.bandwidth, mirrored);
            put("total limit.rate", limit.rate, a_second(together.frames));
            if let (Some(allowed), Some(used)) = (cores(limit.cpu), totals.cores(now)) {
                put("total limit.cpu", Some(allowed), used);
            }
        }
        if let Some(allowed) = self.pressure
            && let Ok(stalled) = pressure::stalled()
        {
            let before = std::mem::replace(&mut self.looked.stalled, stalled);
            put("limit.pressure", Some(allowed.fraction()), stalled.saturating_sub(before).as_secs_f64() / seconds);
        }
        if let (Some(allowed), Some(links)) = (underlay, &mut self.links)
            && let Some(busy) = links.busiest(seconds).await
        {
            let (allowed, measured) = (allowed.fraction(), busy.load);
            uses.push(Use { name: "limit.underlay", allowed, measured, times: busy.times(allowed, mirrored) });
        }
        uses
    }

    /// Whether nothing but frames, or the use of a total limit, can change what the next look finds.
    fn may_rest(&self) -> bool {
        // What the host's other programs do to it shows in no frame.
        let watches_host = self.pressure.is_some() || self.links.is_some();
        !watches_host && self.kept == [(0, 0); KEPT_OVER] && self.speech.since.is_none() && self.regulator.is_at_rest()
    }

    /// Whether it is CPU time that is limited.
    fn is_short_of_cpu(&self) -> bool {
        let is_total = self.plan.totals.as_ref().is_some_and(|totals| totals.limit().cpu.is_some());
        is_total || self.plan.limit.cpu.is_some() || self.pressure.is_some()
    }

    /// Smooths what is shown. A reload may have changed what all sessions are allowed.
    fn remember(&mut self, uses: &[Use], passed: Duration) {
        let weight = (0.1 * passed.as_secs_f64() / TICK.as_secs_f64()).min(1.0);
        let now = |&Use { name, allowed, measured, .. }: &Use| {
            let before = self.limits.iter().find(|limit| limit.name == name);
            let measured = before.map_or(measured, |limit| limit.measured + (measured - limit.measured) * weight);
            LimitView { name: name.into(), allowed, measured }
        };
        self.limits = uses.iter().map(now).collect();
    }

    fn show(&self, window: Window) -> GovernorView {
        let (wanted, shed) =
            self.kept.iter().fold((0, 0), |(wanted, shed), (more, left_out)| (wanted + more, shed + left_out));
        #[allow(clippy::cast_precision_loss, reason = "a proportion")]
        let kept_fraction = if wanted == 0 { 1.0 } else { 1.0 - shed as f64 / wanted as f64 };
        let state = match window {
            Window { established: 0, control_frames: false, .. } => GovernorState::Exhausted,
            Window { closed: Closed { to_new: 1.., .. }, .. } => GovernorState::Shedding,
            Window { settled: BUCKETS, closed: Closed { unsettled: 0, .. }, .. } => GovernorState::Open,
            Window { open: BUCKETS, .. } => GovernorState::Recovering,
            _ => GovernorState::Shedding,
        };
        let use_of = |limit: &&LimitView| limit.measured / limit.allowed;
        let tightest = self.limits.iter().max_by(|one, other| use_of(one).total_cmp(&use_of(other)));
        let sheds = matches!(state, GovernorState::Shedding | GovernorState::Exhausted);
        GovernorView {
            state,
            reason: tightest.filter(|_| sheds).map(|limit| limit.name.clone()),
            kept_fraction,
            admitted_flows: window.admitted(),
            limits: self.limits.clone(),
        }
    }

    /// Says when flows begin to be left out, once a minute that they still are, and when it is over.
    fn say(&mut self, view: &GovernorView, now: Instant, shed: u64) {
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
                        "`{reason}` is reached: flows are left out, {percent:.0} % of the frames are kept ({frames} left \
                         out{exhausted})"
                    );
                    self.speech.said = Some((now, shed));
                }
            }
            (None, Some(_)) => {
                if self.speech.said.is_some() {
                    tracing::info!("within the limits again: new flows are all mirrored");
                }
                self.speech = Speech::default();
            }
            (None, None) => {}
        }
    }
}
