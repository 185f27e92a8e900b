//! What a destination tells the operator while it runs: once, or at most once a minute with a count.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kernel::underlay::Underlay;
use crate::ledger::{DestinationLedger, DropReason};
use crate::quantity::Mtu;
use crate::repeated::{EverySecond, Repeated, Rising};

/// Turns what one worker counts of a destination into log lines, which the session's workers write together.
#[derive(Debug)]
pub(super) struct Notices {
    /// The analyzer's command that silences port or protocol unreachable.
    firewall_line: String,
    /// When the counters, and the sockets' error queues, are looked at.
    pub(super) next_look: EverySecond,
    /// How much had been sent at the last look, and when it last was more than before.
    sent: (u64, Option<Instant>),
    /// What this worker has added to the common counts.
    added: Counts,
    /// How many frames a narrow path had cost at the last look, and how many there had been.
    cost: (u64, u64),
    said: Arc<Mutex<Said>>,
}

/// What was said about a destination, by whichever worker.
#[derive(Debug, Default)]
pub struct Said {
    port_unreachable: bool,
    room: Option<usize>,
    counts: Counts,
    host_unreachable: Rising,
    unreachable: Rising,
    write_failed: Rising,
    narrow: Repeated,
    /// The last error that made a datagram `write_failed`.
    refusal: Option<io::Error>,
}

/// What is spoken of with a count.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    host_unreachable: u64,
    unreachable: u64,
    write_failed: u64,
}

/// How long after the last datagram an answer to it may still come: a router asks for a silent host for seconds before it
/// says that it is not there. A session without traffic has sixteen queues that are looked at for nothing.
const REPORTS_LINGER: Duration = Duration::from_secs(30);

impl Notices {
    /// `firewall_line` is what an operator runs on the analyzer to silence its port or protocol unreachables; `said` is
    /// what the workers have in common.
    pub(super) fn new(firewall_line: String, said: Arc<Mutex<Said>>) -> Self {
        let (next_look, added) = (EverySecond::default(), Counts::default());
        Self { firewall_line, next_look, sent: (0, None), added, cost: (0, 0), said }
    }

    /// Whether anything can have come back: something has been sent lately, or something is wrong that is to be said.
    pub(super) fn expects_reports(&mut self, now: Instant, account: &DestinationLedger) -> bool {
        let touched = account.datagrams + account.dropped.total();
        if self.sent.0 != touched {
            self.sent = (touched, Some(now));
        }
        self.sent.1.is_some_and(|last| now.duration_since(last) < REPORTS_LINGER)
    }

    /// The last error that made a datagram `write_failed`.
    pub(super) fn last_refusal(&self) -> Option<String> {
        lock(&self.said).refusal.as_ref().map(ToString::to_string)
    }

    /// Says what is new in `account`. `failure` is the last error that made a datagram `write_failed`.
    pub(super) fn say(&mut self, now: Instant, account: &DestinationLedger, failure: Option<io::Error>) {
        let (name, to) = (&account.name, &account.to);
        let own = Counts {
            host_unreachable: account.icmp.host_unreachable,
            unreachable: account.dropped[DropReason::Unreachable],
            write_failed: account.dropped[DropReason::WriteFailed],
        };
        let added = std::mem::replace(&mut self.added, own);
        let mut said = lock(&self.said);
        let Said { port_unreachable, counts, host_unreachable, unreachable, write_failed, refusal, room: _, narrow: _ } =
            &mut *said;
        counts.host_unreachable += own.host_unreachable.saturating_sub(added.host_unreachable);
        counts.unreachable += own.unreachable.saturating_sub(added.unreachable);
        counts.write_failed += own.write_failed.saturating_sub(added.write_failed);
        if account.icmp.port_unreachable > 0 && !std::mem::replace(port_unreachable, true) {
            tracing::info!(
                "destination {name} ({to}): the analyzer answers \"port unreachable\", as one that only sniffs does; \
                 nothing is lost. To silence it there: {}",
                self.firewall_line
            );
        }
        if let Some(reports) = host_unreachable.news(now, counts.host_unreachable) {
            tracing::warn!("destination {name} ({to}): {reports} ICMP reports that the host cannot be reached");
        }
        if let Some(frames) = unreachable.news(now, counts.unreachable) {
            let (sentence, remedy) = (DropReason::Unreachable.sentence(), DropReason::Unreachable.remedy());
            tracing::warn!("destination {name} ({to}): {frames} frames dropped: {sentence}; {remedy}");
        }
        if let Some(error) = failure {
            if let Some(frames) = write_failed.news(now, counts.write_failed) {
                tracing::warn!("destination {name} ({to}): {frames} frames dropped: {error}");
            }
            *refusal = Some(error);
        }
    }

    /// Warns where a path MTU that was learnt costs more than a third of the frames: anybody can forge the report.
    pub(super) fn say_cost(&mut self, now: Instant, account: &DestinationLedger, way: &Underlay) {
        /// Fewer frames are no proof of anything.
        const LEAST: u64 = 30;

        let total = (account.dropped[DropReason::Oversize] + account.split_added, account.assigned);
        let before = std::mem::replace(&mut self.cost, total);
        let (cost, frames) = (total.0.saturating_sub(before.0), total.1.saturating_sub(before.1));
        let (mtu, first) = (way.mtu(), way.first_mtu());
        if mtu >= first || frames < LEAST || 3 * cost <= frames {
            return;
        }
        let words = mtu.to_string();
        if lock(&self.said).narrow.note(&words, now).is_some() {
            let (name, to, percent) = (&account.name, &account.to, 100 * cost.min(frames) / frames);
            tracing::warn!(
                "destination {name} ({to}): {percent} % of the frames are too long for the path MTU of {mtu} that was \
                 learnt ({first} at the start). If the report is wrong, `mtu` pins the right value"
            );
        }
    }

    /// Says that the path MTU is `mtu` now, which leaves room for frames of `room` bytes.
    pub(super) fn say_room(&self, account: &DestinationLedger, mtu: Mtu, room: usize) {
        if lock(&self.said).room.replace(room) != Some(room) {
            let (name, to) = (&account.name, &account.to);
            tracing::info!("destination {name} ({to}): path MTU is now {mtu}, room for frames of {room} bytes");
        }
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    // Whoever panicked with it has only counted less than there was.
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repeated::MINUTE;

    #[test]
    fn what_several_workers_count_is_said_once_and_together() {
        let (now, said) = (Instant::now(), Arc::<Mutex<Said>>::default());
        let mut workers = [(); 3].map(|()| Notices::new(String::new(), Arc::clone(&said)));
        let mut account = DestinationLedger::default();
        account.icmp.port_unreachable = 1;
        account.dropped[DropReason::Unreachable] = 5;
        let said_of = |said: &Mutex<Said>| {
            let mut said = lock(said);
            let counts = said.counts;
            (counts.unreachable, said.port_unreachable, said.unreachable.news(now, counts.unreachable))
        };
        workers[0].say(now, &account, None);
        assert_eq!(said_of(&said), (5, true, None), "said just now");
        for worker in &mut workers {
            worker.say(now, &account, None);
        }
        assert_eq!(lock(&said).counts.unreachable, 15);
        assert_eq!(lock(&said).unreachable.news(now + MINUTE, 15), Some(10), "all that was not said yet");
    }
}
