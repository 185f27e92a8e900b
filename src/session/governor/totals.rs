//! What all sessions of a daemon may use together, and do.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::meters::Meters;
use super::regulator::TICK;
use crate::config::daemon::TotalLimitPlan;

/// What all sessions of a daemon use together. Each session's governor adds to it and keeps within it.
#[derive(Debug)]
pub struct Totals {
    limit: watch::Sender<TotalLimitPlan>,
    pub(super) meters: Meters,
    process: Mutex<ProcessLoad>,
    /// All governors look at the same moments: hundreds of timers would wake the process hundreds of times.
    started: Instant,
    /// Wakes the governors that rest.
    pressure: Notify,
}

/// How many cores the process uses. To ask for the time of hundreds of threads takes the kernel a while, so it is asked once
/// for all governors.
#[derive(Debug, Default)]
struct ProcessLoad {
    asked: Option<(Instant, Duration)>,
    cores: Option<f64>,
}

impl Totals {
    /// Nothing is used yet.
    pub fn new(limit: TotalLimitPlan) -> Self {
        Self {
            limit: watch::Sender::new(limit),
            meters: Meters::default(),
            process: Mutex::default(),
            started: Instant::now(),
            pressure: Notify::new(),
        }
    }

    /// What all sessions may use from now on. Sessions that nothing limited so far hear of it by [`changes`](Self::changes).
    pub fn replace(&self, limit: TotalLimitPlan) {
        self.limit.send_if_modified(|before| std::mem::replace(before, limit) != limit);
    }

    /// Changes whenever what they may use has.
    pub fn changes(&self) -> watch::Receiver<TotalLimitPlan> {
        self.limit.subscribe()
    }

    /// What all sessions may use.
    pub(super) fn limit(&self) -> TotalLimitPlan {
        *self.limit.borrow()
    }

    /// Whether anything but memory is limited.
    pub(super) fn is_any(&self) -> bool {
        let TotalLimitPlan { memory: _, bandwidth, rate, cpu } = self.limit();
        bandwidth.is_some() || rate.is_some() || cpu.is_some()
    }

    /// When governors look next.
    pub(super) fn next_tick(&self, now: Instant) -> Instant {
        let ticks = now.saturating_duration_since(self.started).as_millis() / TICK.as_millis();
        self.started + TICK * u32::try_from(ticks + 1).unwrap_or(u32::MAX)
    }

    /// Wakes the governors that rest: a limit is used to a large part.
    pub(super) fn press(&self) {
        self.pressure.notify_waiters();
    }

    /// Waits until a limit is used to a large part, or another one is set.
    pub(super) async fn pressed(&self) {
        let mut limit = self.limit.subscribe();
        tokio::select! {
            () = self.pressure.notified() => {}
            // The sender lives as long as this.
            _ = limit.changed() => {}
        }
    }

    /// Begins to measure the process again, if no governor has done so in the last two ticks.
    pub(super) fn resume(&self, now: Instant) {
        let mut load = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if load.asked.is_some_and(|(asked, _)| now.saturating_duration_since(asked) >= 2 * TICK) {
            load.asked = process_time().map(|time| (now, time));
        }
    }

    /// How many cores the process has used since the last tick; `None` in the first one, and where the kernel does not tell.
    pub(super) fn cores(&self, now: Instant) -> Option<f64> {
        // Two numbers, whoever was interrupted over them.
        let mut load = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if load.asked.is_none_or(|(asked, _)| now.saturating_duration_since(asked) >= TICK / 2) {
            let time = process_time()?;
            load.cores = load.asked.map(|(asked, before)| {
                time.saturating_sub(before).as_secs_f64() / now.saturating_duration_since(asked).as_secs_f64()
            });
            load.asked = Some((now, time));
        }
        load.cores
    }
}

/// CPU time of this process.
fn process_time() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).map_err(io::Error::from).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: TotalLimitPlan = TotalLimitPlan { memory: 0, bandwidth: None, rate: None, cpu: None };

    #[test]
    fn who_waits_for_a_limit_hears_of_another_one_only() {
        let totals = Totals::new(NOTHING);
        let changes = totals.changes();
        totals.replace(NOTHING);
        assert!(!changes.has_changed().unwrap() && !totals.is_any());
        totals.replace(TotalLimitPlan { rate: Some(1e3), ..NOTHING });
        assert!(changes.has_changed().unwrap() && totals.is_any());
    }

    #[test]
    fn all_governors_look_at_the_same_moments() {
        let totals = Totals::new(NOTHING);
        let at = |ticks: u32, micros| totals.next_tick(totals.started + TICK * ticks + Duration::from_micros(micros));
        assert_eq!(at(0, 0), totals.started + TICK);
        assert_eq!((at(7, 1), at(7, 99_000)), (totals.started + TICK * 8, totals.started + TICK * 8));
    }

    #[tokio::test]
    async fn governors_that_rest_hear_of_pressure_and_of_another_limit() {
        let totals = Totals::new(NOTHING);
        let (one, other) = (totals.pressed(), totals.pressed());
        let both = async { tokio::join!(one, other) };
        tokio::pin!(both);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut both).await.is_err(), "nothing has happened");
        totals.press();
        both.await;
        let third = totals.pressed();
        tokio::pin!(third);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut third).await.is_err());
        totals.replace(TotalLimitPlan { rate: Some(1e3), ..NOTHING });
        third.await;
    }

    #[test]
    fn a_pause_of_all_governors_is_not_measured() {
        let totals = Totals::new(NOTHING);
        let start = totals.started;
        totals.cores(start);
        totals.resume(start + TICK);
        assert_eq!(totals.process.lock().unwrap().asked.unwrap().0, start, "others have looked");
        totals.resume(start + 50 * TICK);
        assert_eq!(totals.process.lock().unwrap().asked.unwrap().0, start + 50 * TICK);
    }

    #[test]
    fn the_process_is_asked_once_a_tick() {
        let totals = Totals::new(NOTHING);
        let start = totals.started;
        assert_eq!(totals.cores(start), None, "nothing to compare with");
        let first = totals.cores(start + TICK);
        assert!(first.is_some());
        assert_eq!(totals.cores(start + TICK + TICK / 4), first);
    }
}
