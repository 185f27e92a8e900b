//! Errors as an operator reads them: what failed, where, why, and what to do about it.

use std::error::Error;
use std::fmt;

use crate::escape::{in_lines, in_one_line};

/// The process's exit codes. They are a contract: scripts and service managers act on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything was done.
    Done = 0,
    /// Something failed while running; of a comparison: the captures differ.
    Failed = 1,
    /// The command line is wrong: also a bad filter or destination URL. Of a comparison: there is no verdict.
    Usage = 2,
    /// There is no such interface or file (`EX_NOINPUT` of sysexits.h).
    NoInput = 66,
    /// The kernel does not permit it (`EX_NOPERM`).
    NotPermitted = 77,
    /// The configuration file is wrong (`EX_CONFIG`).
    Config = 78,
}

impl ExitCode {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Done, Self::Failed, Self::Usage, Self::NoInput, Self::NotPermitted, Self::Config];
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// An error that can tell an operator more than its own sentence.
///
/// `Display` says *what* failed, [`Error::source`] *why* (usually the kernel's words); the methods here add the rest.
pub trait Explain: Error + Send + Sync {
    /// Where: a file with line, a flag, a configuration key, an interface.
    fn place(&self) -> Option<String> {
        None
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        None
    }

    /// How the process ends if nobody can go on.
    fn exit_code(&self) -> ExitCode {
        ExitCode::Failed
    }
}

/// One or more mistakes, reported together. Never empty.
#[derive(Debug)]
pub struct Problems(Vec<Box<dyn Explain>>);

impl Problems {
    /// `Err` with everything that was found, or `Ok` when nothing was.
    ///
    /// # Errors
    /// When `found` holds at least one problem.
    pub fn unless_empty<E: Into<Box<dyn Explain>>>(found: Vec<E>) -> Result<(), Self> {
        if found.is_empty() { Ok(()) } else { Err(Self(found.into_iter().map(Into::into).collect())) }
    }

    /// All the values, or the problems of all that have some.
    ///
    /// # Errors
    /// When at least one of `results` is an error.
    pub fn gathered<T>(results: impl IntoIterator<Item = Result<T, Self>>) -> Result<Vec<T>, Self> {
        let mut values = Vec::new();
        let mut found = Vec::new();
        for result in results {
            match result {
                Ok(value) => values.push(value),
                Err(problems) => found.extend(problems.0),
            }
        }
        Self::unless_empty(found).map(|()| values)
    }

    /// The problems of several, together.
    pub fn all(several: impl IntoIterator<Item = Self>) -> Self {
        Self(several.into_iter().flatten().collect())
    }

    /// The problems, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Explain> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// All of them as a log line has them.
    pub fn in_one_line(&self) -> String {
        self.iter().map(one_line).collect::<Vec<_>>().join("; ")
    }

    /// The same problems, found at `place`: it stands in front of what each says itself.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        let at = |problem| Box::new(Found { place: place.to_owned(), problem }) as Box<dyn Explain>;
        Self(self.0.into_iter().map(at).collect())
    }

    /// The exit code of the gravest problem: the largest one.
    pub fn exit_code(&self) -> ExitCode {
        self.iter().map(Explain::exit_code).max().unwrap_or(ExitCode::Failed)
    }
}

/// A problem as a log line has it: what, why and where.
pub fn one_line(problem: &dyn Explain) -> String {
    let words = what_and_why(problem);
    problem.place().map_or_else(|| words.clone(), |place| format!("{words} ({})", in_one_line(&place)))
}

/// The same where everybody knows where.
pub fn what_and_why(problem: &dyn Explain) -> String {
    let mut words = problem.to_string();
    let mut cause = problem.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    in_one_line(&words).into_owned()
}

/// A problem and the place where it was found.
#[derive(Debug)]
struct Found {
    place: String,
    problem: Box<dyn Explain>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl Error for Found {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}

impl Explain for Found {
    fn place(&self) -> Option<String> {
        let own = self.problem.place().map_or_else(String::new, |own| format!(", {own}"));
        Some(format!("{}{own}", self.place))
    }

    fn hint(&self) -> Option<String> {
        self.problem.hint()
    }

    fn exit_code(&self) -> ExitCode {
        self.problem.exit_code()
    }
}

impl IntoIterator for Problems {
    type Item = Box<dyn Explain>;
    type IntoIter = std::vec::IntoIter<Box<dyn Explain>>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<E: Explain + 'static> From<E> for Box<dyn Explain> {
    fn from(error: E) -> Self {
        Box::new(error)
    }
}

impl<E: Explain + 'static> From<E> for Problems {
    fn from(error: E) -> Self {
        Self(vec![error.into()])
    }
}

impl fmt::Display for Problems {
    /// The four parts of each problem, as they go to standard error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.iter() {
            // A name with a line feed makes no line of its own. Only hints have several lines.
            writeln!(f, "error: {}", in_one_line(&problem.to_string()))?;
            if let Some(place) = problem.place() {
                writeln!(f, "  where: {}", in_one_line(&place))?;
            }
            let mut cause = problem.source();
            while let Some(error) = cause {
                writeln!(f, "  cause: {}", in_one_line(&error.to_string()))?;
                cause = error.source();
            }
            if let Some(hint) = problem.hint() {
                writeln!(f, "  hint:  {}", in_lines(&hint).replace('\n', "\n         "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open capture on \"eth7\"")]
    struct Sample(#[source] std::io::Error);

    impl Explain for Sample {
        fn place(&self) -> Option<String> {
            Some("-i eth7".into())
        }
        fn hint(&self) -> Option<String> {
            Some("interfaces here are eth0, lo\nsecond line".into())
        }
        fn exit_code(&self) -> ExitCode {
            ExitCode::NoInput
        }
    }

    #[test]
    fn an_operator_reads_what_where_why_and_what_to_do() {
        let problems = Problems::from(Sample(std::io::Error::other("no such device")));
        assert_eq!(
            problems.to_string(),
            "error: cannot open capture on \"eth7\"\n  where: -i eth7\n  cause: no such device\n  \
             hint:  interfaces here are eth0, lo\n         second line\n"
        );
        assert_eq!(problems.exit_code(), ExitCode::NoInput);
        let found = problems.at("session.dmz.source");
        assert!(
            found.to_string().contains("\n  where: session.dmz.source, -i eth7\n  cause: no such device\n"),
            "{found}"
        );
        assert_eq!(found.exit_code(), ExitCode::NoInput);
    }
}
