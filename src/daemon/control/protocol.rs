//! What is said over the control socket: one line of JSON asks, one line answers, and the connection ends.
//!
//! ```text
//! {"version":1,"command":"status"}                    {"version":1,"view":{…}}
//! {"version":1,"command":"pause","session":"dmz"}     {"version":1,"done":"paused"}
//! {"version":1,"command":"reload"}                    {"version":1,"reloaded":{"kept":["dmz"],…}}
//! {"version":1,"command":"resume","session":"dmx"}    {"version":1,"problems":[{"what":"there is no session `dmx`",…}]}
//! ```

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::daemon::ReloadReport;
use crate::daemon::view::View;
use crate::error::{ExitCode, Explain, Problems};

/// The version of this protocol. It rises when a request or an answer would be misunderstood; new keys alone do not raise
/// it.
pub const VERSION: u32 = 1;
/// What is to be done where the two ends do not understand each other.
pub const DIFFERENT_AGES: &str = "the farspan that runs and the one that asks are of different ages: restart it";

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// What the daemon does.
    Status,
    /// That it reads its configuration again.
    Reload,
    /// That a session finishes what it has captured and then does nothing.
    Pause {
        /// Its name.
        session: String,
    },
    /// That a paused session goes on.
    Resume {
        /// Its name.
        session: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `status`.
    View(Box<View>),
    /// To `reload`.
    Reloaded(ReloadReport),
    /// What was ordered, in one word.
    Done(String),
    /// Why nothing was done.
    Problems(Vec<Told>),
}

/// A line of the protocol.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line<T> {
    /// [`VERSION`].
    pub version: u32,
    /// What is said.
    #[serde(flatten)]
    pub said: T,
}

impl<T: Serialize> Line<T> {
    /// `said` as a line.
    pub fn of(said: T) -> Vec<u8> {
        // Numbers, strings and maps with string keys: nothing that JSON could refuse.
        let mut line = serde_json::to_vec(&Self { version: VERSION, said }).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Only the version, which is read before anything else is.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A line that is not understood.
#[derive(Debug, thiserror::Error)]
pub enum Misunderstood {
    /// It is no JSON object of this protocol.
    #[error("this is no line of farspan's control protocol")]
    NoProtocol(#[source] serde_json::Error),
    /// It is one of another version.
    #[error("this is version {0} of farspan's control protocol, and {VERSION} is spoken here")]
    Version(u32),
}

impl Explain for Misunderstood {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProtocol(_) => {
                format!("one line of JSON, such as {{\"version\":{VERSION},\"command\":\"status\"}}")
            }
            Self::Version(_) => DIFFERENT_AGES.to_owned(),
        })
    }
}

/// Reads a line.
///
/// # Errors
/// When it is of another version, or none at all.
pub fn read<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T, Misunderstood> {
    let Versioned { version } = serde_json::from_slice(line).map_err(Misunderstood::NoProtocol)?;
    if version != VERSION {
        return Err(Misunderstood::Version(version));
    }
    serde_json::from_slice::<Line<T>>(line).map(|line| line.said).map_err(Misunderstood::NoProtocol)
}

/// A problem as it was told by another process, with its four parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    what: String,
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<Box<Cause>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    exit_code: u8,
}

/// The why of a problem, and the why of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cause {
    what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<Box<Cause>>,
}

impl Told {
    /// Every problem of `problems`, as it is told.
    pub fn all(problems: &Problems) -> Vec<Self> {
        problems.iter().map(Self::of).collect()
    }

    fn of(problem: &dyn Explain) -> Self {
        Self {
            what: problem.to_string(),
            place: problem.place(),
            cause: Cause::of(problem.source()),
            hint: problem.hint(),
            exit_code: problem.exit_code() as u8,
        }
    }
}

impl Cause {
    fn of(error: Option<&(dyn Error + 'static)>) -> Option<Box<Self>> {
        error.map(|error| Box::new(Self { what: error.to_string(), cause: Self::of(error.source()) }))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Told {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl Explain for Told {
    fn place(&self) -> Option<String> {
        self.place.clone()
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::ALL.into_iter().find(|&code| code as u8 == self.exit_code).unwrap_or(ExitCode::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_written_as_documented() {
        let pause = Command::Pause { session: "dmz".into() };
        assert_eq!(Line::of(&Command::Status), b"{\"version\":1,\"command\":\"status\"}\n");
        assert_eq!(Line::of(&pause), b"{\"version\":1,\"command\":\"pause\",\"session\":\"dmz\"}\n");
        assert_eq!(read::<Command>(&Line::of(&pause)).unwrap(), pause);
        let with_news = br#"{"news":[1],"command":"reload","version":1}"#;
        assert_eq!(read::<Command>(with_news).unwrap(), Command::Reload);
    }

    #[test]
    fn a_line_of_another_version_is_told_apart_from_nonsense() {
        let newer = read::<Command>(br#"{"version":2,"command":"dance"}"#).unwrap_err();
        assert!(matches!(newer, Misunderstood::Version(2)));
        for nonsense in ["", "status", "{}", r#"{"version":1}"#, r#"{"version":1,"command":"dance"}"#, "[1]"] {
            assert!(matches!(read::<Command>(nonsense.as_bytes()), Err(Misunderstood::NoProtocol(_))), "{nonsense}");
        }
    }

    #[test]
    fn a_problem_keeps_its_four_parts_and_its_exit_code() {
        let line = br#"{"version":1,"problems":[{"what":"no","where":"a.toml:1:2","cause":{"what":"why","cause":{"what":"deeper"}},"hint":"do","exit_code":78}]}"#;
        let Answer::Problems(told) = read::<Answer>(line).unwrap() else { panic!("another answer") };
        let problems = Problems::unless_empty(told.clone()).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "error: no\n  where: a.toml:1:2\n  cause: why\n  cause: deeper\n  hint:  do\n"
        );
        assert_eq!(problems.exit_code(), ExitCode::Config);
        assert_eq!(Told::all(&problems), told);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_understood_or_refused(line in "\\PC{0,200}") {
            let _ = read::<Command>(line.as_bytes());
            let _ = read::<Answer>(line.as_bytes());
        }
    }
}
