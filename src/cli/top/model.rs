//! What `farspan top` knows: the latest view of the daemon, and how its counters have moved.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::daemon::view::{SessionView, State, View};
use crate::ledger::{DropReason, Drops, Kind, Ledger};
use crate::session::governor::GovernorState;

/// How many rates are kept: two minutes, more than a line of any terminal shows.
const MEMORY: usize = 120;

/// The daemon over the last two minutes.
#[derive(Debug)]
pub(super) struct Model {
    view: View,
    earlier: Option<View>,
    rates: HashMap<Key, VecDeque<u64>>,
    /// The session that is looked at closer.
    chosen: usize,
    /// What went wrong in asking, or what was done.
    pub(super) message: Option<String>,
}

/// A session, and one of its destinations or itself.
type Key = (String, Option<String>);

/// A line of the dashboard.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) is_destination: bool,
    pub(super) is_chosen: bool,
    /// The state of a session, or the health of a destination.
    pub(super) state: String,
    /// Whether somebody should look.
    pub(super) is_well: bool,
    /// Captured by a session or sent by a destination, in frames a second.
    pub(super) frames: u64,
    /// Handed to the kernel, in bits a second.
    pub(super) bits: u64,
    /// Of loss, in frames a second; of a session before its destinations, the kernel's included.
    pub(super) lost: u64,
    /// What 99 of 100 frames of the last second took at most.
    pub(super) delay: Option<Duration>,
    /// `frames` of the last seconds, the latest one last.
    pub(super) history: Vec<u64>,
}

/// Why frames of the chosen session were dropped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DropRow {
    /// The destination; empty before any.
    pub(super) destination: String,
    /// `None` is the kernel.
    pub(super) reason: Option<DropReason>,
    /// Frames a second.
    pub(super) rate: u64,
    /// Frames in all.
    pub(super) total: u64,
}

impl DropRow {
    pub(super) fn label(&self) -> &'static str {
        self.reason.map_or("kernel_dropped", DropReason::label)
    }

    pub(super) fn is_loss(&self) -> bool {
        self.reason.is_none_or(|reason| reason.kind() == Kind::Loss)
    }

    pub(super) fn remedy(&self) -> &'static str {
        self.reason.map_or("enlarge `buffer`; select less; give the host a free core", DropReason::remedy)
    }
}

impl Model {
    pub(super) fn new(view: View) -> Self {
        Self { view, earlier: None, rates: HashMap::new(), chosen: 0, message: None }
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Takes a newer view.
    pub(super) fn update(&mut self, view: View) {
        self.earlier = Some(std::mem::replace(&mut self.view, view));
        self.chosen = self.chosen.min(self.view.sessions.len().saturating_sub(1));
        let rates: Vec<(Key, u64)> =
            self.rows().into_iter().zip(self.keys()).map(|(row, key)| (key, row.frames)).collect();
        self.rates.retain(|key, _| rates.iter().any(|(known, _)| known == key));
        for (key, rate) in rates {
            let history = self.rates.entry(key).or_default();
            history.push_back(rate);
            if history.len() > MEMORY {
                history.pop_front();
            }
        }
    }

    /// The session that is looked at closer.
    pub(super) fn chosen(&self) -> Option<&SessionView> {
        self.view.sessions.get(self.chosen)
    }

    /// Looks at the next session.
    pub(super) fn down(&mut self) {
        self.chosen = (self.chosen + 1).min(self.view.sessions.len().saturating_sub(1));
    }

    /// Looks at the session before.
    pub(super) fn up(&mut self) {
        self.chosen = self.chosen.saturating_sub(1);
    }

    /// What is identified by each of the [`rows`](Self::rows).
    fn keys(&self) -> Vec<Key> {
        let of_session = |session: &SessionView| {
            let own = (session.name.clone(), None);
            let destinations = session.ledger.destinations.iter();
            let each = destinations.map(|account| (session.name.clone(), Some(account.name.to_string())));
            std::iter::once(own).chain(each).collect::<Vec<Key>>()
        };
        self.view.sessions.iter().flat_map(of_session).collect()
    }

    /// Every session, with its destinations below it.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> =
            self.view.sessions.iter().enumerate().flat_map(|(place, session)| self.session(place, session)).collect();
        for (row, key) in rows.iter_mut().zip(self.keys()) {
            row.history = self.rates.get(&key).map(|rates| rates.iter().copied().collect()).unwrap_or_default();
        }
        rows
    }

    fn session(&self, place: usize, session: &SessionView) -> Vec<Row> {
        let now = &session.ledger;
        let then = self.earlier_ledger(&session.name).unwrap_or(now);
        let bytes = |ledger: &Ledger| ledger.destinations.iter().map(|account| account.bytes).sum();
        let lost = |ledger: &Ledger| losses(&ledger.dropped()) + ledger.kernel.total();
        let state = match (session.state, session.governor.as_ref().map(|governor| governor.state)) {
            (State::Retrying { after }, _) => format!("again in {} s", after.as_secs() + 1),
            (State::Running, Some(governor)) if governor != GovernorState::Open => governor.label().to_owned(),
            (state, _) => state.label().to_owned(),
        };
        let mut rows = vec![Row {
            name: session.name.clone(),
            is_destination: false,
            is_chosen: place == self.chosen,
            state,
            is_well: session.state.is_well(),
            frames: self.rate(now.captured, then.captured),
            bits: 8 * self.rate(bytes(now), bytes(then)),
            lost: self.rate(lost(now), lost(then)),
            delay: now.delays.since(&then.delays).quantile(0.99),
            history: Vec::new(),
        }];
        for (place, account) in now.destinations.iter().enumerate() {
            let then = then.destinations.get(place).unwrap_or(account);
            let is_well = session.destinations.get(place).is_none_or(|destination| destination.is_healthy);
            rows.push(Row {
                name: account.name.to_string(),
                is_destination: true,
                is_chosen: false,
                state: if is_well { "reachable" } else { "out of reach" }.to_owned(),
                is_well,
                frames: self.rate(account.sent, then.sent),
                bits: 8 * self.rate(account.bytes, then.bytes),
                lost: self.rate(losses(&account.dropped), losses(&then.dropped)),
                delay: None,
                history: Vec::new(),
            });
        }
        rows
    }

    /// Why frames of the chosen session were dropped: what is dropped now first, then what was.
    pub(super) fn drops(&self) -> Vec<DropRow> {
        let Some(session) = self.chosen() else { return Vec::new() };
        let now = &session.ledger;
        let then = self.earlier_ledger(&session.name).unwrap_or(now);
        let mut rows = Vec::new();
        let mut add = |destination: &str, reason, total: u64, before: u64| {
            if total > 0 {
                let rate = self.rate(total, before);
                rows.push(DropRow { destination: destination.to_owned(), reason, rate, total });
            }
        };
        let kernel = |ledger: &Ledger| ledger.kernel.total();
        add("", None, kernel(now), kernel(then));
        let before = then.dropped();
        now.dropped().nonzero().for_each(|(reason, total)| add("", Some(reason), total, before[reason]));
        for (place, account) in now.destinations.iter().enumerate() {
            let then = then.destinations.get(place).unwrap_or(account);
            let each = account.dropped.nonzero();
            each.for_each(|(reason, total)| add(&account.name, Some(reason), total, then.dropped[reason]));
        }
        rows.sort_by_key(|row| (!row.is_loss(), std::cmp::Reverse((row.rate, row.total))));
        rows
    }

    fn earlier_ledger(&self, session: &str) -> Option<&Ledger> {
        self.earlier.as_ref()?.sessions.iter().find(|earlier| earlier.name == session).map(|earlier| &earlier.ledger)
    }

    /// How much a counter rises in a second. One that fell has begun anew.
    fn rate(&self, now: u64, then: u64) -> u64 {
        let Some(earlier) = &self.earlier else { return 0 };
        let millis = self.view.uptime.saturating_sub(earlier.uptime).as_millis().max(1);
        u64::try_from(u128::from(now.saturating_sub(then)) * 1_000 / millis).unwrap_or(u64::MAX)
    }
}

fn losses(drops: &Drops) -> u64 {
    drops.nonzero().filter(|(reason, _)| reason.kind() == Kind::Loss).map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing;

    /// Two seconds later, 500 frames more.
    fn later(mut view: View) -> View {
        view.uptime += Duration::from_secs(2);
        let ledger = &mut view.sessions[0].ledger;
        ledger.captured += 500;
        ledger.kernel.buffer_full += 20;
        ledger.destinations[1].sent += 490;
        ledger.destinations[1].bytes += 490 * 500;
        ledger.destinations[1].dropped[DropReason::Unreachable] += 10;
        view
    }

    #[test]
    fn rates_are_those_between_two_views() {
        let mut model = Model::new(testing::view());
        assert!(model.rows().iter().all(|row| row.frames == 0 && row.history.is_empty()));
        model.update(later(testing::view()));
        let rows = model.rows();
        let names: Vec<(&str, bool)> = rows.iter().map(|row| (row.name.as_str(), row.is_destination)).collect();
        assert_eq!(names, [("dmz", false), ("ids1", true), ("archive", true), ("relay", false), ("file", true)]);
        assert_eq!((rows[0].frames, rows[0].lost, rows[0].history.as_slice()), (250, 10, &[250][..]));
        assert_eq!((rows[2].frames, rows[2].bits, rows[2].lost), (245, 245 * 500 * 8, 5));
        assert_eq!((rows[2].state.as_str(), rows[2].is_well), ("out of reach", false));
        assert_eq!((rows[3].state.as_str(), rows[3].is_well), ("again in 3 s", false));
        model.update(testing::view());
        assert_eq!(model.rows()[0].frames, 0, "a counter that fell has begun anew");
        assert_eq!(model.rows()[0].history, [250, 0]);
    }

    #[test]
    fn losses_are_told_before_policies_with_what_to_do() {
        let mut model = Model::new(testing::view());
        model.update(later(testing::view()));
        let drops = model.drops();
        let told: Vec<(&str, &str, u64, u64)> =
            drops.iter().map(|row| (row.destination.as_str(), row.label(), row.rate, row.total)).collect();
        assert_eq!(
            told,
            [("", "kernel_dropped", 10, 27), ("archive", "unreachable", 5, 40), ("", "own_traffic", 0, 100)]
        );
        assert_eq!(drops[1].remedy(), DropReason::Unreachable.remedy());
    }

    #[test]
    fn the_choice_stays_among_the_sessions_there_are() {
        let mut model = Model::new(testing::view());
        model.up();
        assert_eq!(model.chosen().unwrap().name, "dmz");
        model.down();
        model.down();
        assert_eq!(model.chosen().unwrap().name, "relay");
        let mut fewer = testing::view();
        fewer.sessions.truncate(1);
        model.update(fewer.clone());
        assert_eq!(model.chosen().unwrap().name, "dmz");
        fewer.sessions.clear();
        model.update(fewer);
        assert!(model.chosen().is_none() && model.drops().is_empty() && model.rows().is_empty());
    }
}
