//! `farspan status`: what the daemon does at this moment.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::daemon_socket::DaemonSocket;
use super::output;
use crate::daemon::NoSuchSession;
use crate::daemon::view::{DestinationView, InterfaceView, SessionView, State, View};
use crate::error::Problems;
use crate::escape::in_one_line;
use crate::session::governor::{GovernorState, GovernorView};

pub(super) const EXAMPLES: &str = "\
Examples:
  farspan status
      every session of the daemon: what it does, what it lost and why, how its destinations are
  farspan status dmz
      one session
  farspan status --json | jq '.sessions[] | {name, state}'
      for programs

Exit status: 0 the daemon answered, 1 there is none, 77 this user may not ask.";

/// Arguments of `farspan status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Only this session
    session: Option<String>,
    #[command(flatten)]
    socket: DaemonSocket,
    /// Print all of it as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Prints what the daemon shows of itself.
///
/// # Errors
/// When it does not answer.
pub fn run(arguments: &StatusArguments) -> Result<(), Problems> {
    let mut view = arguments.socket.view()?;
    if let Some(name) = &arguments.session {
        let sessions = view.sessions.iter().map(|session| session.name.clone()).collect();
        view.sessions.retain(|session| session.name == *name);
        if view.sessions.is_empty() {
            return Err(NoSuchSession { name: name.clone(), sessions }.into());
        }
    }
    // Numbers, strings and maps with string keys: nothing that JSON could refuse.
    if arguments.json {
        return output::print_json(&serde_json::to_string(&view).unwrap_or_default());
    }
    output::print(&Table { view: &view, now: SystemTime::now() }.to_string())
}

/// A view as lines.
struct Table<'a> {
    view: &'a View,
    now: SystemTime,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let View { version, started: _, uptime, reloads, sessions } = self.view;
        writeln!(f, "farspan {version}, up for {}, reloaded {}", age(*uptime), times(reloads.succeeded))?;
        if let Some(error) = &reloads.last_error {
            writeln!(f, "the last reload failed, and nothing was changed: {}", in_one_line(error))?;
        }
        for session in sessions {
            f.write_char('\n')?;
            self.session(session, f)?;
        }
        Ok(())
    }
}

impl Table<'_> {
    fn session(&self, session: &SessionView, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = match session.state {
            State::Retrying { after } => format!(", again in {}", age(after)),
            _ => String::new(),
        };
        let restarts = match session.restarts {
            0 => String::new(),
            count => format!(", started again {}", times(count)),
        };
        let since = self.ago(session.since);
        writeln!(f, "session {}: {} for {since}{again}{restarts}", in_one_line(&session.name), session.state.label())?;
        let from: Vec<String> = session.interfaces.iter().map(interface).collect();
        if !from.is_empty() {
            row(f, "from", &from.join(", "))?;
        }
        let last_frame = session.last_frame.map_or_else(|| "none yet".to_owned(), |at| format!("{} ago", self.ago(at)));
        row(f, "last frame", &last_frame)?;
        if let Some(error) = &session.last_error {
            row(f, "last error", &self.dated(error, session.last_error_at))?;
        }
        if let Some(governor) = &session.governor {
            row(f, "limits", &governor_words(governor))?;
        }
        for destination in &session.destinations {
            row(f, &format!("to {}", destination.name), &destination_words(destination))?;
            if let Some(error) = &destination.last_error {
                row(f, "  last error", &self.dated(error, destination.last_error_at))?;
            }
        }
        write!(f, "{}", session.ledger.table())
    }

    fn dated(&self, error: &str, at: Option<SystemTime>) -> String {
        at.map_or_else(|| error.to_owned(), |at| format!("{} ago: {error}", self.ago(at)))
    }

    fn ago(&self, time: SystemTime) -> String {
        age(self.now.duration_since(time).unwrap_or_default())
    }
}

fn interface(InterfaceView { name, mtu: _, engine }: &InterfaceView) -> String {
    engine.as_ref().map_or_else(|| name.clone(), |engine| format!("{name} ({engine})"))
}

fn destination_words(destination: &DestinationView) -> String {
    let mut words = destination.to.to_string();
    words.extend(destination.mtu.map(|mtu| format!(" over MTU {mtu}")));
    match (&destination.why_unhealthy, destination.is_healthy) {
        (_, true) => {}
        (Some(why), false) => words.extend([", out of reach: ", why]),
        (None, false) => words.push_str(", out of reach"),
    }
    words
}

/// What the governor does, and how far each limit is used.
pub(super) fn governor_words(governor: &GovernorView) -> String {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let does = match (governor.state, &governor.reason) {
        (GovernorState::Open, _) => "everything is mirrored".to_owned(),
        (state, reason) => {
            let by = reason.as_ref().map_or_else(String::new, |reason| format!(" by {reason}"));
            format!(
                "{}{by}: {} of the frames are kept, {} of new flows admitted",
                state.label(),
                percent(governor.kept_fraction),
                percent(governor.admitted_flows)
            )
        }
    };
    let used = governor.limits.iter().map(|limit| format!("; {} of {} used", percent(limit.used()), limit.name));
    does + &used.collect::<Vec<_>>().concat()
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, words: &str) -> fmt::Result {
    writeln!(f, "  {:<20}{}", in_one_line(what), in_one_line(words))
}

/// A time in the two largest units that it has: `3days 2h`.
pub(super) fn age(duration: Duration) -> String {
    let coarse = match duration.as_secs() {
        0 => Duration::from_millis(u64::from(duration.subsec_millis())),
        1..10 => Duration::from_millis(100 * (u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) / 100)),
        seconds => Duration::from_secs(seconds),
    };
    let text = humantime::format_duration(coarse).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing;

    #[test]
    fn an_operator_reads_what_each_session_does_and_lost() {
        let view = testing::view();
        let now = view.started + view.uptime;
        let text = Table { view: &view, now }.to_string();
        let (head, rest) = text.split_once("\nsession dmz").unwrap();
        assert_eq!(
            head,
            "farspan 0.1.0, up for 3days 2h, reloaded 2 times\n\
             the last reload failed, and nothing was changed: there is no key `delya` here\n"
        );
        let dmz = rest.split_once("\n  captured").unwrap().0;
        assert_eq!(
            dmz,
            ": running for 3days 2h, started again once\n  \
             from                eth0 (ring)\n  \
             last frame          2h 1m ago\n  \
             limits              shedding by limit.cpu: 62.5 % of the frames are kept, 50.0 % of new flows admitted; \
             125.0 % of limit.cpu used\n  \
             to ids1             vxlan://192.0.2.10?vni=42 over MTU 1500\n  \
             to archive          gre://192.0.2.20 over MTU 1500, out of reach: its next hop does not answer\n    \
             last error        1m ago: unreachable: there is no route to the destination"
        );
        let relay = rest.split_once("session relay").unwrap().1.split_once("\n  captured").unwrap().0;
        assert_eq!(
            relay,
            ": retrying for 3days 1h, again in 2s 500ms, started again 4 times\n  \
             last frame          none yet\n  \
             last error          1m ago: UDP port 4789 is taken\n  \
             to file             pcap:relay.pcap"
        );
        for line in [
            "  kernel dropped                 7  before farspan saw them; a larger --buffer holds more\n",
            "    unreachable                 30  there is no route to the destination, or its next hop does not answer\n",
            "  delay                     1.8 ms  half of the frames at most; 99 of 100 at most 3.9 ms\n",
            "  192.0.2.77 erspan2 7           5  2 lost, 1 reordered\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_time_has_two_units() {
        let ages = [3, 2_345, 61_999, 7_326_000].map(|millis| age(Duration::from_millis(millis)));
        assert_eq!(ages, ["3ms", "2s 300ms", "1m 1s", "2h 2m"]);
    }
}
