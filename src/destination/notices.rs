//! What a destination tells the operator while it runs: once, or at most once a minute with a count.

use std::io;
use std::time::{Duration, Instant};

use crate::ledger::{DestinationLedger, DropReason};
use crate::rising::Rising;

/// Turns the counters of one destination into log lines.
#[derive(Debug)]
pub(super) struct Notices {
    /// The analyzer's command that silences port or protocol unreachable.
    firewall_line: String,
    next_look: Option<Instant>,
    /// How much had been sent at the last look, and when it last was more than before.
    sent: (u64, Option<Instant>),
    said_port_unreachable: bool,
    host_unreachable: Rising,
    unreachable: Rising,
    write_failed: Rising,
    /// The last error that made a datagram `write_failed`.
    refusal: Option<io::Error>,
}

/// Between two looks at the counters, and at the sockets' error queues.
const LOOK: Duration = Duration::from_secs(1);
/// How long after the last datagram an answer to it may still come: a router asks for a silent host for seconds before it
/// says that it is not there. A session without traffic has sixteen queues that are looked at for nothing.
const ECHO: Duration = Duration::from_secs(30);

impl Notices {
    /// `firewall_line` is what an operator runs on the analyzer to silence its port or protocol unreachables.
    pub(super) fn new(firewall_line: String) -> Self {
        Self {
            firewall_line,
            next_look: None,
            sent: (0, None),
            said_port_unreachable: false,
            host_unreachable: Rising::default(),
            unreachable: Rising::default(),
            write_failed: Rising::default(),
            refusal: None,
        }
    }

    /// Whether it is time to look, about once a second.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next_look.is_none_or(|next| next <= now);
        if due {
            self.next_look = Some(now + LOOK);
        }
        due
    }

    /// Whether anything can have come back: something has been sent lately, or something is wrong that is to be said.
    pub(super) fn expects_reports(&mut self, now: Instant, account: &DestinationLedger) -> bool {
        let touched = account.datagrams + account.dropped.total();
        if self.sent.0 != touched {
            self.sent = (touched, Some(now));
        }
        self.sent.1.is_some_and(|last| now.duration_since(last) < ECHO)
    }

    /// The last error that made a datagram `write_failed`.
    pub(super) fn last_refusal(&self) -> Option<String> {
        self.refusal.as_ref().map(ToString::to_string)
    }

    /// Says what is new in `account`. `failure` is the last error that made a datagram `write_failed`.
    pub(super) fn say(&mut self, now: Instant, account: &DestinationLedger, failure: Option<io::Error>) {
        let (name, to) = (&account.name, &account.to);
        if account.icmp.port_unreachable > 0 && !self.said_port_unreachable {
            self.said_port_unreachable = true;
            tracing::info!(
                "destination {name} ({to}): the analyzer answers \"port unreachable\", as one that only sniffs does; \
                 nothing is lost. To silence it there: {}",
                self.firewall_line
            );
        }
        if let Some(reports) = self.host_unreachable.news(now, account.icmp.host_unreachable) {
            tracing::warn!("destination {name} ({to}): {reports} ICMP reports that the host cannot be reached");
        }
        if let Some(frames) = self.unreachable.news(now, account.dropped[DropReason::Unreachable]) {
            let (sentence, remedy) = (DropReason::Unreachable.sentence(), DropReason::Unreachable.remedy());
            tracing::warn!("destination {name} ({to}): {frames} frames dropped: {sentence}; {remedy}");
        }
        if let Some(error) = failure {
            if let Some(frames) = self.write_failed.news(now, account.dropped[DropReason::WriteFailed]) {
                tracing::warn!("destination {name} ({to}): {frames} frames dropped: {error}");
            }
            self.refusal = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_looked_at_once_a_second() {
        let start = Instant::now();
        let mut notices = Notices::new(String::new());
        let looks: Vec<bool> =
            [0, 500, 999, 1000, 1001, 2500].map(|ms| notices.is_due(start + Duration::from_millis(ms))).to_vec();
        assert_eq!(looks, [true, false, false, true, false, true]);
    }
}
