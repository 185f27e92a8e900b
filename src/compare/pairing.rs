//! Brings equal frames together: the loop over both sides.

use super::findings::{Difference, Findings, Kind};
use super::judge::{describe, judge};
use super::order::{Run, Watch};
use super::recall::Recall;
use super::seen::Seen;
use super::side::Side;
use super::waiting::{Held, Waiting};
use super::{Comparing, Comparison, Order, Shift};
use crate::error::Explain;

/// Both sides, and everything that is not settled yet.
pub(super) struct Pairing {
    sides: [Side; 2],
    waiting: [Waiting; 2],
    met: Met,
    watch: Option<Watch>,
    findings: Findings,
    window: u64,
    /// Counts the frames that had to wait.
    turns: u64,
    beyond_window: u64,
}

/// What is known of the frames that met their equals.
struct Met {
    count: u64,
    /// The foremost pair: both of its frames stand behind those of all pairs before. By ordinal.
    foremost: [u64; 2],
    recall: Recall,
    shift: Option<Shift>,
}

/// Which of several equal frames that wait: equal frames often come in a row, and are to meet in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// The first one behind the foremost pair.
    InLine,
    /// The first one.
    Any,
}

const A: usize = 0;
const B: usize = 1;

impl Pairing {
    /// Nothing read yet.
    pub fn new(sides: [Side; 2], rules: &Comparing) -> Self {
        // A quarter remembers what has met; the rest is for what waits.
        let recall = Recall::within(rules.window / 4);
        Self {
            sides,
            waiting: Default::default(),
            met: Met { count: 0, foremost: [0; 2], recall, shift: None },
            watch: (rules.order != Order::None).then(Watch::default),
            findings: Findings::listing(rules.most),
            window: rules.window / 4 * 3,
            turns: 0,
            beyond_window: 0,
        }
    }

    /// Reads both sides to their ends and settles every frame.
    ///
    /// # Errors
    /// When a side ends before its time.
    pub fn run(&mut self) -> Result<(), Box<dyn Explain>> {
        loop {
            for side in &mut self.sides {
                side.look()?;
            }
            if self.meets_waiting(A, Which::InLine) || self.meets_waiting(B, Which::InLine) {
                continue;
            }
            match self.sides.each_ref().map(Side::head) {
                [None, None] => break,
                [Some(a), Some(b)] if a.is_same(b) => self.heads_meet(),
                _ => self.meet_or_wait(),
            }
            if self.bytes() > self.window {
                self.judge_older_half();
            }
        }
        self.judge_until(u64::MAX);
        Ok(())
    }

    /// The result.
    pub fn into_comparison(self, names: [String; 2], rules: &Comparing) -> Comparison {
        let (counts, differences) = self.findings.into_parts();
        Comparison {
            names,
            tallies: self.sides.map(|side| side.tally()),
            identical: self.met.count,
            counts,
            differences,
            beyond_window: self.beyond_window,
            shift: self.met.shift,
            rules: rules.clone(),
        }
    }

    /// The frames that are looked at are equal.
    fn heads_meet(&mut self) {
        let Self { sides: [a, b], waiting, met, watch, .. } = self;
        if let (Some(x), Some(y)) = (a.head(), b.head()) {
            met.pair(x, y, waiting, watch.as_mut());
            let (x, y) = (x.place.ordinal, y.place.ordinal);
            (a.latest, b.latest) = ((x, y), (y, x));
        }
        a.advance();
        b.advance();
    }

    /// The frames that are looked at are not equal, or one side has ended. Whoever's equal waits meets it; else the side
    /// that has not run ahead of the other goes on, so that a gap on one side is read over without reading the other
    /// one far ahead.
    fn meet_or_wait(&mut self) {
        let has_met = [A, B].map(|own| self.meets_waiting(own, Which::Any));
        if has_met.contains(&true) {
            return;
        }
        let leads = [A, B].map(|own| {
            let side = &self.sides[own];
            side.head().map_or(u64::MAX, |_| side.lead(self.met.foremost[own]))
        });
        for own in [A, B] {
            if leads[own] <= leads[1 - own] {
                self.waits(own);
            }
        }
    }

    /// Whether the frame that is looked at on side `own` has met its equal among those that wait on the other side.
    fn meets_waiting(&mut self, own: usize, which: Which) -> bool {
        let other = 1 - own;
        let Some(head) = self.sides[own].head() else { return false };
        let behind = match which {
            Which::InLine => self.met.foremost[other],
            Which::Any => 0,
        };
        let Some(equal) = self.waiting[other].meet(head, behind) else { return false };
        let (own_ordinal, other_ordinal) = (head.place.ordinal, equal.seen.place.ordinal);
        let pair = if own == A { [head, &equal.seen] } else { [&equal.seen, head] };
        self.met.pair(pair[A], pair[B], &mut self.waiting, self.watch.as_mut());
        let group = equal.seen.group;
        self.sides[own].latest = (own_ordinal, other_ordinal);
        if other_ordinal > self.sides[other].latest.0 {
            self.sides[other].latest = (other_ordinal, own_ordinal);
        }
        self.sides[own].advance();
        let moved = self.watch.as_mut().map(|watch| watch.waits_no_longer(group));
        self.add_moved(moved);
        true
    }

    /// The frame that is looked at on side `own` waits for its equal.
    fn waits(&mut self, own: usize) {
        let side = &mut self.sides[own];
        let Some(seen) = side.head() else { return };
        self.turns += 1;
        let copy_of = if own == B { self.met.recall.number_of(seen.hash) } else { None };
        let after = (side.latest.0 + 1 == seen.place.ordinal).then_some(side.latest.1 + 1);
        let held = Held { seen: seen.clone(), turn: self.turns, after, before: None, copy_of };
        if let Some(watch) = &mut self.watch {
            watch.waits(held.seen.group);
        }
        self.waiting[own].push(held);
        side.advance();
    }

    /// Memory that is bounded by the window, in bytes.
    fn bytes(&self) -> u64 {
        self.waiting.iter().map(Waiting::bytes).sum::<u64>() + self.watch.as_ref().map_or(0, Watch::bytes)
    }

    /// Makes room: those that have waited longest are judged.
    fn judge_older_half(&mut self) {
        let mut turns: Vec<u64> =
            self.waiting.iter().flat_map(|waiting| waiting.frames().values().map(|held| held.turn)).collect();
        let middle = turns.len() / 2;
        if middle < turns.len() {
            let (_, &mut until, _) = turns.select_nth_unstable(middle);
            self.judge_until(until);
        }
    }

    /// Judges those who wait since `turn` or longer, together with their partners.
    fn judge_until(&mut self, turn: u64) {
        let is_end = turn == u64::MAX;
        self.waiting[B].tell_copies();
        for judgement in judge(self.waiting[A].frames(), self.waiting[B].frames()) {
            let turn_of = |side: usize, ordinal| self.waiting[side].frames().get(ordinal).map(|held| held.turn);
            let oldest = judgement.a.iter().filter_map(|ordinal| turn_of(A, ordinal));
            let oldest = oldest.chain(judgement.b.iter().filter_map(|ordinal| turn_of(B, ordinal))).min();
            if oldest.is_none_or(|oldest| oldest > turn) {
                continue;
            }
            let mut take = |side: usize, ordinals: &[u64]| -> Vec<Held> {
                ordinals.iter().filter_map(|&ordinal| self.waiting[side].remove(ordinal)).collect()
            };
            let (a, b) = (take(A, &judgement.a), take(B, &judgement.b));
            let is_uncertain = match judgement.kind {
                Kind::Missing | Kind::Changed => !is_end,
                Kind::Extra => !is_end || self.met.recall.has_forgotten(),
                _ => false,
            };
            self.beyond_window += u64::from(is_uncertain);
            self.findings.add(describe(judgement.kind, &a, &b));
            for held in a.iter().chain(&b) {
                let moved = self.watch.as_mut().map(|watch| watch.waits_no_longer(held.seen.group));
                self.add_moved(moved);
            }
        }
    }

    fn add_moved(&mut self, runs: Option<Vec<Run>>) {
        for run in runs.into_iter().flatten() {
            for position in 0..run.length {
                let (a, b) = (run.a.number + position, run.b.number + position);
                self.findings.add(Difference::plain(Kind::Reordered, vec![a], vec![b]));
            }
        }
    }
}

impl Met {
    /// `a` and `b`, which are equal, have met.
    fn pair(&mut self, a: &Seen, b: &Seen, waiting: &mut [Waiting; 2], watch: Option<&mut Watch>) {
        self.count += 1;
        let [x, y] = [a.place.ordinal, b.place.ordinal];
        if x > self.foremost[A] && y > self.foremost[B] {
            self.foremost = [x, y];
        }
        let later = i128::from(b.timestamp.nanos()) - i128::from(a.timestamp.nanos());
        let later = i64::try_from(later).unwrap_or(if later < 0 { i64::MIN } else { i64::MAX });
        let shift = self.shift.get_or_insert(Shift { least_ns: later, most_ns: later });
        (shift.least_ns, shift.most_ns) = (shift.least_ns.min(later), shift.most_ns.max(later));
        self.recall.remember(a.hash, a.place.number);
        if !waiting[A].is_empty() {
            waiting[A].tell_neighbours(x, y);
        }
        if !waiting[B].is_empty() {
            waiting[B].tell_neighbours(y, x);
            waiting[B].mark_copies(b.hash, a.place.number);
        }
        if let Some(watch) = watch {
            watch.met(a.group, a.place, b.place);
        }
    }
}
