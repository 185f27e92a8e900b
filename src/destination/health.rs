//! Which destinations of a session can be given frames: whoever watches them writes it, the workers read it once a turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most destinations that share a session's frames.
pub const MOST: usize = crate::config::defaults::MOST_SHARING;
/// So many bad signs speak against a destination, unless a good one comes between them: one report may be about a single
/// datagram, or old.
const TOLERATED: u32 = 3;
/// How long nothing must speak against a destination before it is given frames again.
pub const DAMPING: Duration = Duration::from_secs(5);
/// The same after it has come and gone several times: each time twice as long, up to this.
const MOST_DAMPING: Duration = Duration::from_mins(1);
/// How long routers must have been silent about a destination to be taken to reach it: longer than one asks for the host
/// before it reports it again (three seconds on Linux).
const SILENCE: Duration = Duration::from_secs(4);

/// The health of every destination of a session. A clone shows and sets the same.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shown>);

#[derive(Debug)]
struct Shown {
    healthy: AtomicU64,
    hopeful: AtomicU64,
    /// What speaks against those that are not.
    complaints: Mutex<[Option<Complaint>; MOST]>,
}

/// Who was healthy at one moment, and who looked as if it would be soon: one bit a destination, in the order of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Healthy {
    healthy: u64,
    hopeful: u64,
}

impl Health {
    /// Everybody is healthy until something speaks against it.
    pub fn new() -> Self {
        let (healthy, hopeful) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self(Arc::new(Shown { healthy, hopeful, complaints: Mutex::new([None; MOST]) }))
    }

    /// Who is healthy now.
    pub fn now(&self) -> Healthy {
        let load = |bits: &AtomicU64| bits.load(Ordering::Relaxed);
        Healthy { healthy: load(&self.0.healthy), hopeful: load(&self.0.hopeful) }
    }

    /// Notes whether nothing speaks against destination `number` any more, although it is not healthy again yet.
    pub fn set_hopeful(&self, number: usize, is_hopeful: bool) {
        let bit = if number < MOST { 1 << number } else { 0 };
        if is_hopeful {
            self.0.hopeful.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.hopeful.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// What speaks against destination `number`, if anything does.
    pub fn complaint(&self, number: usize) -> Option<Complaint> {
        // An array of whole values, whoever was interrupted over it.
        self.0.complaints.lock().unwrap_or_else(PoisonError::into_inner).get(number).copied().flatten()
    }

    /// Notes what speaks against destination `number`; nothing: it is healthy. Numbers from [`MOST`] on are nobody's.
    pub fn set(&self, number: usize, complaint: Option<Complaint>) {
        let mut complaints = self.0.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shown) = complaints.get_mut(number) else { return };
        *shown = complaint;
        if complaint.is_none() {
            self.0.healthy.fetch_or(1 << number, Ordering::Relaxed);
        } else {
            self.0.healthy.fetch_and(!(1 << number), Ordering::Relaxed);
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Healthy {
    /// Whether destination `number` is among them.
    pub fn contains(self, number: usize) -> bool {
        number < MOST && self.healthy >> number & 1 == 1
    }

    /// Those of the first `count` destinations that can be given frames: the healthy ones. Where none is, to wait for the
    /// damping time would only lose frames, so that the hopeful ones are as good.
    #[must_use]
    pub fn usable(self, count: usize) -> Self {
        let all = if count < MOST { (1 << count) - 1 } else { u64::MAX };
        let healthy = match self.healthy & all {
            0 => self.hopeful & all,
            healthy => healthy,
        };
        Self { healthy, ..self }
    }
}

/// What speaks against a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// The kernel has no route, or the next hop does not answer.
    #[error("there is no route to it, or its next hop does not answer")]
    NextHop,
    /// A router, or the analyzer's network, said so.
    #[error("ICMP reports that its host or network cannot be reached")]
    Icmp,
    /// It was asked, and did not answer.
    #[error("it does not answer the probe")]
    Probe,
}

/// What was seen of a destination in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered a probe.
    Answer,
    /// Nothing.
    Silence,
    /// Something that may pass.
    Bad(Complaint),
    /// Something that leaves no doubt: frames would be dropped.
    Dead(Complaint),
}

/// One destination's state of health, damped: it takes several bad signs to lose it, and time without any to get it back.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// What made it unhealthy; `None` while it is healthy.
    complaint: Option<Complaint>,
    /// Bad signs since the last good one.
    bad: u32,
    /// Since when nothing has spoken against it.
    quiet_since: Option<Instant>,
    /// When it became healthy again, if it ever was not.
    back_since: Option<Instant>,
    damping: Duration,
    /// Whether it has answered since it became unhealthy, and nothing has spoken against it since.
    has_answered: bool,
    /// Whether it is probed: then only an answer shows that it is there.
    is_probed: bool,
}

impl Condition {
    /// Healthy, as far as anybody knows.
    pub fn new(is_probed: bool) -> Self {
        Self {
            complaint: None,
            bad: 0,
            quiet_since: None,
            back_since: None,
            damping: DAMPING,
            has_answered: false,
            is_probed,
        }
    }

    /// What speaks against it, while something does.
    pub fn complaint(&self) -> Option<Complaint> {
        self.complaint
    }

    /// Whether it stays as it is until something happens: nobody waits for an answer, or for it to be well again.
    pub fn is_calm(&self) -> bool {
        self.complaint.is_none() && !self.is_probed
    }

    /// Whether what spoke against it no longer does. Routers are silent for some seconds between two reports.
    pub fn is_hopeful(&self, now: Instant) -> bool {
        let quiet = self.quiet_since.map(|since| now.duration_since(since));
        match self.complaint {
            None => false,
            Some(Complaint::Icmp) => quiet.is_some_and(|quiet| self.has_answered || quiet >= SILENCE),
            Some(Complaint::NextHop | Complaint::Probe) => quiet.is_some(),
        }
    }

    /// Takes note of a sign. Returns whether it became healthy or unhealthy by it.
    pub fn note(&mut self, now: Instant, sign: Sign) -> bool {
        match self.complaint {
            None => self.doubt(now, sign),
            Some(_) => self.hope(now, sign),
        }
    }

    fn doubt(&mut self, now: Instant, sign: Sign) -> bool {
        let (bad, complaint) = match sign {
            Sign::Answer => (0, None),
            Sign::Silence => (self.bad, None),
            Sign::Bad(complaint) => (self.bad + 1, (self.bad + 1 >= TOLERATED).then_some(complaint)),
            Sign::Dead(complaint) => (TOLERATED, Some(complaint)),
        };
        self.bad = bad;
        if complaint.is_none() {
            return false;
        }
        // One that was hardly back before it went again is not to be trusted so soon.
        let hardly_back = self.back_since.is_some_and(|since| now.duration_since(since) < 2 * self.damping);
        self.damping = if hardly_back { (2 * self.damping).min(MOST_DAMPING) } else { DAMPING };
        (self.complaint, self.quiet_since, self.has_answered) = (complaint, None, false);
        true
    }

    fn hope(&mut self, now: Instant, sign: Sign) -> bool {
        match sign {
            Sign::Bad(complaint) | Sign::Dead(complaint) => {
                (self.complaint, self.quiet_since, self.has_answered) = (Some(complaint), None, false);
                return false;
            }
            // A probe that is under way says nothing yet.
            Sign::Silence if self.is_probed && self.quiet_since.is_none() => return false,
            Sign::Silence => {}
            Sign::Answer => self.has_answered = true,
        }
        let since = *self.quiet_since.get_or_insert(now);
        if now.duration_since(since) < self.damping {
            return false;
        }
        (self.complaint, self.bad, self.quiet_since, self.back_since) = (None, 0, None, Some(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_destination_has_a_bit_of_its_own() {
        let health = Health::new();
        health.set(3, Some(Complaint::Icmp));
        health.set(MOST, Some(Complaint::Icmp));
        assert!(!health.now().contains(3) && health.now().contains(2) && health.now().contains(63));
        assert!(!health.now().contains(MOST));
        assert_eq!((health.complaint(3), health.complaint(2)), (Some(Complaint::Icmp), None));
        health.set(3, None);
        assert_eq!((health.now(), health.complaint(3)), (Health::default().now(), None));
    }

    #[test]
    fn a_dead_next_hop_counts_at_once_and_reports_when_they_come_again() {
        let now = Instant::now();
        let mut condition = Condition::new(false);
        assert!(condition.note(now, Sign::Dead(Complaint::NextHop)));
        assert_eq!(condition.complaint(), Some(Complaint::NextHop));

        let mut condition = Condition::new(false);
        let reported: Vec<bool> = (0..3).map(|_| condition.note(now, Sign::Bad(Complaint::Icmp))).collect();
        assert_eq!(reported, [false, false, true]);
        let mut answering = Condition::new(true);
        for _ in 0..10 {
            assert!(!answering.note(now, Sign::Bad(Complaint::Probe)) && !answering.note(now, Sign::Answer));
        }
    }

    #[test]
    fn it_comes_back_when_nothing_has_spoken_against_it_for_a_while() {
        let mut now = Instant::now();
        let mut condition = Condition::new(false);
        condition.note(now, Sign::Dead(Complaint::NextHop));
        for sign in [Sign::Silence, Sign::Silence, Sign::Dead(Complaint::NextHop), Sign::Silence] {
            now += 3 * SECOND;
            assert!(!condition.note(now, sign));
        }
        assert!(condition.note(now + DAMPING, Sign::Silence));
        assert_eq!(condition.complaint(), None);
    }

    #[test]
    fn where_nobody_is_healthy_those_are_taken_that_look_well_again() {
        let health = Health::new();
        let usable = || (0..3).filter(|&number| health.now().usable(3).contains(number)).collect::<Vec<_>>();
        health.set_hopeful(MOST, true);
        health.set(1, Some(Complaint::NextHop));
        health.set_hopeful(1, true);
        assert_eq!(usable(), [0, 2]);
        health.set(0, Some(Complaint::NextHop));
        health.set(2, Some(Complaint::NextHop));
        assert_eq!(usable(), [1]);
        health.set_hopeful(1, false);
        assert_eq!(usable(), [0; 0]);

        let now = Instant::now();
        let mut condition = Condition::new(false);
        condition.note(now, Sign::Dead(Complaint::NextHop));
        assert!(!condition.is_hopeful(now));
        condition.note(now, Sign::Silence);
        assert!(condition.is_hopeful(now));
        // Routers are silent between two reports; an answer says more.
        condition.note(now, Sign::Bad(Complaint::Icmp));
        condition.note(now, Sign::Silence);
        assert!(!condition.is_hopeful(now + SILENCE / 2) && condition.is_hopeful(now + SILENCE));
        condition.note(now, Sign::Answer);
        assert!(condition.is_hopeful(now));
    }

    #[test]
    fn one_that_is_probed_comes_back_when_it_answers() {
        let start = Instant::now();
        let mut condition = Condition::new(true);
        condition.note(start, Sign::Dead(Complaint::NextHop));
        assert!(!condition.note(start + 60 * SECOND, Sign::Silence));
        assert!(!condition.note(start + 61 * SECOND, Sign::Answer));
        assert!(!condition.note(start + 62 * SECOND, Sign::Silence));
        assert!(condition.note(start + 61 * SECOND + DAMPING, Sign::Answer));
    }

    #[test]
    fn one_that_comes_and_goes_is_waited_for_longer_each_time() {
        let mut now = Instant::now();
        let mut condition = Condition::new(false);
        let mut waited = Vec::new();
        for _ in 0..6 {
            assert!(condition.note(now, Sign::Dead(Complaint::NextHop)));
            let gone = now;
            while !condition.note(now, Sign::Silence) {
                now += SECOND;
            }
            waited.push((now - gone).as_secs());
            now += SECOND;
        }
        assert_eq!(waited, [5, 10, 20, 40, 60, 60]);
        now += 10 * MOST_DAMPING;
        condition.note(now, Sign::Dead(Complaint::NextHop));
        condition.note(now, Sign::Silence);
        assert!(condition.note(now + DAMPING, Sign::Silence), "what was long ago is forgiven");
    }

    proptest! {
        /// Between two changes lies the damping time at least, or a change for the worse.
        #[test]
        fn it_is_never_back_before_the_damping_time(signs in proptest::collection::vec((0..4_u8, 0..3000_u64), 1..200)) {
            let (mut now, mut condition, mut gone) = (Instant::now(), Condition::new(false), None);
            for (sign, wait) in signs {
                now += Duration::from_millis(wait);
                let sign = match sign {
                    0 => Sign::Answer,
                    1 => Sign::Silence,
                    2 => Sign::Bad(Complaint::Icmp),
                    _ => Sign::Dead(Complaint::NextHop),
                };
                let changed = condition.note(now, sign);
                match (changed, condition.complaint()) {
                    (true, Some(_)) => gone = Some(now),
                    (true, None) => prop_assert!(now - gone.unwrap() >= DAMPING),
                    (false, _) => {}
                }
            }
        }
    }
}
