//! What the daemon shows of itself at one moment: the metrics, the control socket and `farspan status` all show this.
//!
//! A view is a copy, which `farspan status` and `farspan top` read out of its JSON again. Nobody who holds one keeps a session or a worker waiting.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::plan::Engine;
use crate::ledger::Ledger;
use crate::quantity::Mtu;
use crate::session::governor::GovernorView;
use crate::source::Interface;

/// The whole daemon. Its fields are keys of the JSON object that `farspan status --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    /// farspan's version.
    pub version: Cow<'static, str>,
    /// When the daemon was started, in seconds since 1970.
    #[serde(with = "unix_time")]
    pub started: SystemTime,
    /// How long ago that is, in seconds, by a clock that nobody sets.
    #[serde(with = "seconds")]
    pub uptime: Duration,
    /// What became of requests to read the configuration again.
    pub reloads: Reloads,
    /// Every session, in the order of the configuration.
    pub sessions: Vec<SessionView>,
}

/// What became of requests to read the configuration again. The first reading, at the start, is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    /// How many were carried out, also those that changed nothing.
    pub succeeded: u64,
    /// How many left everything as it was, because something was wrong.
    pub failed: u64,
    /// Why the latest one failed; `None` after one that succeeded.
    pub last_error: Option<String>,
}

/// One session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionView {
    /// Its name in the configuration.
    pub name: String,
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// Since when it has been doing that, in seconds since 1970.
    #[serde(with = "unix_time")]
    pub since: SystemTime,
    /// How often it was started again after it had failed, under the plan that it has now.
    pub restarts: u64,
    /// What it captures from; what it captured from last while it does not run.
    pub interfaces: Vec<InterfaceView>,
    /// How many interfaces it means and does not capture, because its memory or `source.max_interfaces` is used up.
    #[serde(default)]
    pub refused_for_room: usize,
    /// The account of all its workers, and of its earlier runs under the plan that it has now.
    pub ledger: Ledger,
    /// When a frame was captured last, in seconds since 1970.
    #[serde(with = "perhaps_unix_time")]
    pub last_frame: Option<SystemTime>,
    /// What went wrong last, be it over or not.
    pub last_error: Option<String>,
    /// When that was, in seconds since 1970.
    #[serde(default, with = "perhaps_unix_time")]
    pub last_error_at: Option<SystemTime>,
    /// What keeps it within its limits, while it runs; `None` without limits.
    #[serde(default)]
    pub governor: Option<GovernorView>,
    /// The destinations, in the order of the configuration, which is that of the ledger's accounts.
    pub destinations: Vec<DestinationView>,
}

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It is being opened.
    Starting,
    /// Its workers run.
    Running,
    /// It could not be opened, or ended, and is to be opened again.
    Retrying {
        /// In so many seconds; sooner if an interface or a route changes.
        #[serde(rename = "retry_in", with = "seconds")]
        after: Duration,
    },
    /// Somebody asked it to pause: nothing of it is open.
    Paused,
    /// It was asked to end and gives its last frames their fates.
    Stopping,
    /// The capture file that it replayed has ended.
    Ended,
}

impl State {
    /// Every label, for whoever shows a state as a set of switches.
    pub const LABELS: [&'static str; 6] = ["starting", "running", "retrying", "paused", "stopping", "ended"];

    /// The word for it in JSON, metrics and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying { .. } => "retrying",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }

    /// Whether the session does what it was configured for, or has done it.
    pub const fn is_well(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Ended)
    }
}

/// One interface, capture file or tunnel endpoint that a session captures from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes when it was opened, where it has one.
    pub mtu: Option<u32>,
    /// What captures: `ring` or `pcap`; `None` for files and tunnels.
    pub engine: Option<Cow<'static, str>>,
}

impl From<&Interface> for InterfaceView {
    fn from(interface: &Interface) -> Self {
        let engine = |engine| match engine {
            Engine::Auto | Engine::Ring => "ring",
            Engine::Pcap => "pcap",
        };
        Self {
            name: interface.name.clone(),
            mtu: interface.mtu.map(Mtu::value),
            engine: interface.engine.map(engine).map(Cow::Borrowed),
        }
    }
}

/// One destination of a session; how many frames it got says its account in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationView {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where it sends, as the operator wrote it.
    pub to: Arc<str>,
    /// Whether it can be reached, as far as is known. What is on this host always can.
    pub is_healthy: bool,
    /// Why not.
    pub why_unhealthy: Option<String>,
    /// The path MTU in bytes, for a tunnel whose session runs.
    pub mtu: Option<u32>,
    /// What went wrong with it last, be it over or not.
    pub last_error: Option<String>,
    /// When that was, in seconds since 1970.
    #[serde(default, with = "perhaps_unix_time")]
    pub last_error_at: Option<SystemTime>,
}

/// Durations as seconds with their fraction, to the millisecond: as much as anybody reads.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        // Rounded, not cut: what was read from JSON is a fraction less than the millisecond that was written.
        let millis = (duration.as_micros() + 500) / 1000;
        serializer.serialize_f64(u64::try_from(millis).unwrap_or(u64::MAX) as f64 / 1e3)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Moments as seconds since 1970, with their fraction.
mod unix_time {
    use std::time::SystemTime;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        super::seconds::serialize(&time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let since = super::seconds::deserialize(deserializer)?;
        SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(|| serde::de::Error::custom("a moment beyond all clocks"))
    }
}

/// Moments that have perhaps not come yet.
mod perhaps_unix_time {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Moment(#[serde(with = "super::unix_time")] SystemTime);

    #[allow(clippy::ref_option, reason = "serde gives a reference to the field")]
    pub(super) fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(Moment).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(|Moment(time)| time))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing;
    use super::*;

    #[test]
    fn a_view_is_one_json_object() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_500);
        let mut ledger = Ledger::new([("ids", "vxlan://192.0.2.1?vni=1")]);
        ledger.captured = 7;
        let session = SessionView {
            name: "dmz".into(),
            state: State::Retrying { after: Duration::from_millis(1500) },
            since: time,
            restarts: 3,
            interfaces: vec![InterfaceView { name: "eth0".into(), mtu: Some(1500), engine: Some("ring".into()) }],
            refused_for_room: 0,
            ledger,
            last_frame: Some(time),
            last_error: Some("there is no interface `eth0`".into()),
            last_error_at: Some(time),
            governor: None,
            destinations: Vec::new(),
        };
        let view = View {
            version: "0.1.0".into(),
            started: time,
            uptime: Duration::from_secs(9),
            reloads: Reloads { succeeded: 1, failed: 2, last_error: None },
            sessions: vec![session],
        };
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!((&json["started"], &json["uptime"]), (&1_800_000_000.5.into(), &9.0.into()));
        assert_eq!(json["reloads"]["failed"], 2);
        let session = &json["sessions"][0];
        assert_eq!((&session["state"], &session["retry_in"]), (&"retrying".into(), &1.5.into()));
        assert_eq!((&session["ledger"]["captured"], &session["interfaces"][0]["mtu"]), (&7.into(), &1500.into()));
        let read: View = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), json);
    }

    /// The keys of what `status --json` prints, each with its way there; ledger and governor have tables of their own.
    fn keys(way: &str, value: &serde_json::Value, found: &mut BTreeSet<(String, String)>) {
        match value {
            serde_json::Value::Object(object) => {
                for (key, value) in object {
                    let is_inner = (value.is_object() || value.is_array()) && key != "ledger" && key != "governor";
                    if is_inner {
                        let inner = if value.is_object() { format!("{way}{key}.") } else { format!("{way}{key}") };
                        keys(&inner, value, found);
                    } else {
                        found.insert((way.to_owned(), key.clone()));
                    }
                }
            }
            serde_json::Value::Array(list) => list.iter().for_each(|one| keys(&format!("{way}[]."), one, found)),
            _ => {}
        }
    }

    #[test]
    fn the_documentation_has_every_key() {
        let documentation = include_str!("../../docs/METRICS.md");
        let mut found = BTreeSet::new();
        keys("", &serde_json::to_value(testing::view()).unwrap(), &mut found);
        assert!(found.len() > 20, "{found:?}");
        for (way, key) in found {
            // Keys of one object share a row: the first is written with its way, the others as `.key`.
            let first = format!("`{way}{key}`");
            let beside = |row: &str| row.starts_with(&format!("| `{way}")) && row.contains(&format!("`.{key}`"));
            assert!(
                documentation.lines().any(|row| row.starts_with("| ") && (row.contains(&first) || beside(row))),
                "docs/METRICS.md lacks {first}"
            );
        }
    }

    #[test]
    fn a_state_has_one_word_everywhere() {
        let states = [
            State::Starting,
            State::Running,
            State::Retrying { after: Duration::ZERO },
            State::Paused,
            State::Stopping,
            State::Ended,
        ];
        assert_eq!(states.map(State::label), State::LABELS);
        for state in states {
            assert_eq!(serde_json::to_value(state).unwrap()["state"], state.label());
        }
    }
}
