//! `[metrics]`, `[control]` and `[log]`: how the daemon is seen and asked from outside.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::unistd::Group;

use super::defaults;
use super::keys::{Keys, Mistakes};
use super::mistake::What;
use super::words::unreadable;
use crate::quantity::QuantityError;

/// `[metrics]`: where scrapers are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsPlan {
    /// Address and port; nowhere unless given.
    pub listen: Option<SocketAddr>,
}

/// `[control]`: where the other commands find the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlan {
    /// The unix socket; `None` is off.
    pub socket: Option<PathBuf>,
    /// Whether somebody wrote it: the default path may be out of reach for whoever runs a daemon by hand, and then there is
    /// no socket.
    pub is_wanted: bool,
    /// The group whose members may use it, beside root and the daemon's own user.
    pub group: Option<u32>,
}

impl Default for ControlPlan {
    fn default() -> Self {
        Self { socket: Some(PathBuf::from(defaults::CONTROL_SOCKET)), is_wanted: false, group: None }
    }
}

/// `[log]`: how log lines look, and how many there are. Flags go over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPlan {
    /// How they look.
    pub format: LogFormat,
    /// From where on they are said.
    pub level: LogLevel,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Journald where standard error leads there, else text.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
    /// Into the journal by its own protocol, with the session as a field.
    Journald,
}

/// From where on log lines are said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What somebody should look at.
    Warn,
    /// What an operator may want to know.
    #[default]
    Info,
    /// What explains the rest.
    Debug,
    /// Everything.
    Trace,
}

pub(super) fn metrics(top: &Keys<'_>, mistakes: &mut Mistakes) -> MetricsPlan {
    let keys = top.table("metrics", mistakes);
    keys.only(&["listen"], mistakes);
    MetricsPlan { listen: keys.read("listen", mistakes, address) }
}

pub(super) fn control(top: &Keys<'_>, mistakes: &mut Mistakes) -> ControlPlan {
    let keys = top.table("control", mistakes);
    keys.only(&["socket", "group"], mistakes);
    let group = keys.read("group", mistakes, group);
    match keys.read("socket", mistakes, socket) {
        Some(socket) => ControlPlan { socket, is_wanted: true, group },
        None => ControlPlan { group, ..ControlPlan::default() },
    }
}

pub(super) fn log(top: &Keys<'_>, mistakes: &mut Mistakes) -> LogPlan {
    let keys = top.table("log", mistakes);
    keys.only(&["format", "level"], mistakes);
    LogPlan {
        format: keys.read("format", mistakes, str::parse).unwrap_or_default(),
        level: keys.read("level", mistakes, str::parse).unwrap_or_default(),
    }
}

fn address(text: &str) -> Result<SocketAddr, QuantityError> {
    text.parse().map_err(|_| unreadable("listening address", text, "an address with its port, such as 127.0.0.1:9469"))
}

fn socket(text: &str) -> Result<Option<PathBuf>, QuantityError> {
    // sun_path of unix(7) has 107 bytes beside its zero, and four are for the name that a socket has at first.
    const MOST: usize = 103;
    match text {
        "off" => Ok(None),
        path if Path::new(path).is_absolute() && path.len() <= MOST => Ok(Some(path.into())),
        _ => Err(unreadable("socket path", text, "an absolute path of at most 103 bytes, or off")),
    }
}

fn group(text: &str) -> Result<u32, What> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) | Err(_) => Err(What::NoSuchGroup(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::written::{Table, Written, set};
    use super::*;

    fn top(keys: &[(&str, &str, &str)]) -> Table {
        let mut top = Table::new();
        for (table, key, value) in keys {
            set(&mut top, &[table, key], Written::flag("test", value));
        }
        top
    }

    #[test]
    fn nothing_listens_unless_it_is_told_to_and_the_socket_has_its_place() {
        let (nothing, mut mistakes) = (Table::new(), Mistakes::new());
        let keys = Keys::new("", &nothing);
        assert_eq!(metrics(&keys, &mut mistakes).listen, None);
        let default = control(&keys, &mut mistakes);
        assert_eq!(
            default,
            ControlPlan { socket: Some("/run/farspan/control.sock".into()), is_wanted: false, group: None }
        );
        assert_eq!(log(&keys, &mut mistakes), LogPlan { format: LogFormat::Auto, level: LogLevel::Info });
        assert!(mistakes.is_empty());
    }

    #[test]
    fn what_is_written_is_read() {
        let mut mistakes = Mistakes::new();
        let written = top(&[
            ("metrics", "listen", "[::1]:9469"),
            ("control", "socket", "off"),
            ("control", "group", "0"),
            ("log", "format", "json"),
            ("log", "level", "debug"),
        ]);
        let keys = Keys::new("", &written);
        assert_eq!(metrics(&keys, &mut mistakes).listen, Some("[::1]:9469".parse().unwrap()));
        assert_eq!(control(&keys, &mut mistakes), ControlPlan { socket: None, is_wanted: true, group: Some(0) });
        assert_eq!(log(&keys, &mut mistakes), LogPlan { format: LogFormat::Json, level: LogLevel::Debug });
        assert!(mistakes.is_empty(), "{mistakes:?}");
    }

    #[test]
    fn every_mistake_says_what_would_be_right() {
        let mut mistakes = Mistakes::new();
        let written = top(&[
            ("metrics", "listen", "9469"),
            ("control", "socket", "run/farspan.sock"),
            ("control", "group", "no-such-group"),
            ("log", "format", "xml"),
            ("log", "level", "loud"),
            ("log", "colour", "red"),
        ]);
        let keys = Keys::new("", &written);
        metrics(&keys, &mut mistakes);
        control(&keys, &mut mistakes);
        log(&keys, &mut mistakes);
        let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "`9469` is not a listening address: write an address with its port, such as 127.0.0.1:9469",
                "there is no group `no-such-group` here",
                "`run/farspan.sock` is not a socket path: write an absolute path of at most 103 bytes, or off",
                "there is no key `colour` here",
                "`xml` is not a log format: write auto, text, json or journald",
                "`loud` is not a log level: write error, warn, info, debug or trace",
            ]
        );
    }
}
