//! The interfaces that a plan means.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use nix::net::if_::if_nametoindex;

use super::error::SourceError;
use crate::config;
use crate::config::plan::{ANY, is_pattern};
use crate::kernel::link_events::{self, LinksError, Present};
use crate::kernel::netns::Namespace;
use crate::quantity::Ifindex;
use crate::sys;

/// An interface that a plan means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// Its name.
    pub name: String,
    /// Its number; `None` for `any`.
    pub index: Option<Ifindex>,
    /// Whether it is up.
    pub up: bool,
}

/// The interfaces that `patterns` may mean, in the network namespace of this thread: all there are, or only those that are
/// named if all of them are there. The list of a host with hundreds of interfaces costs the kernel a millisecond, and
/// hundreds of sessions ask.
pub(crate) fn present(patterns: &[String]) -> Result<Vec<Present>, LinksError> {
    named(patterns).map_or_else(|| link_events::look(&Namespace::own()), Ok)
}

fn named(patterns: &[String]) -> Option<Vec<Present>> {
    let socket = UnixDatagram::unbound().ok()?;
    let find = |name: &String| {
        let index = if_nametoindex(name.as_str()).ok()?;
        let up = sys::interface::flags(socket.as_fd(), name).ok()? & libc::IFF_UP != 0;
        Some(Present { index: Ifindex::new(index.into()).ok()?, name: name.clone(), up })
    };
    let is_list = patterns.iter().any(|name| is_pattern(name) || name == ANY);
    if is_list { None } else { patterns.iter().map(find).collect() }
}

/// The interfaces of `present` that `patterns` mean, in their order, each once; and what means nothing.
pub(crate) fn meant(patterns: &[String], present: &[Present]) -> (Vec<Meant>, Vec<SourceError>) {
    let (mut meant, mut problems) = (Vec::<Meant>::new(), Vec::new());
    for pattern in patterns {
        let before = meant.len();
        let matches = present.iter().filter(|one| is_match(pattern, &one.name));
        let mut matches: Vec<Meant> =
            matches.map(|one| Meant { name: one.name.clone(), index: Some(one.index), up: one.up }).collect();
        if pattern == ANY {
            matches.push(Meant { name: ANY.to_owned(), index: None, up: true });
        }
        if matches.is_empty() {
            problems.push(nothing(pattern, present));
        }
        for one in matches {
            if !meant[..before].contains(&one) {
                meant.push(one);
            }
        }
    }
    (meant, problems)
}

/// Whether `pattern` means the interface `name`: a pattern takes time to be read, and few are one.
fn is_match(pattern: &str, name: &str) -> bool {
    if is_pattern(pattern) { config::matches(pattern, name) } else { pattern == name }
}

fn nothing(pattern: &str, present: &[Present]) -> SourceError {
    let present = present.iter().map(|one| one.name.clone()).collect();
    if is_pattern(pattern) {
        SourceError::NoMatch { pattern: pattern.to_owned(), present }
    } else {
        SourceError::NoSuchInterface { name: pattern.to_owned(), present }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ExitCode, Explain};
    use crate::kernel::link_events::look;
    use crate::kernel::netns::Namespace;

    fn meant_here(patterns: [&str; 2]) -> (Vec<String>, Vec<SourceError>) {
        let present = look(&Namespace::own()).unwrap();
        let (meant, problems) = meant(&patterns.map(str::to_owned), &present);
        (meant.into_iter().map(|one| one.name).collect(), problems)
    }

    #[test]
    fn a_name_that_two_patterns_mean_comes_once() {
        let (names, problems) = meant_here(["lo", "l[o]"]);
        assert_eq!(names, ["lo"]);
        assert!(problems.is_empty());
    }

    #[test]
    fn what_means_nothing_is_told_with_what_there_is() {
        let (names, problems) = meant_here(["eth7q", "q7*"]);
        assert_eq!(names, [""; 0]);
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["there is no interface `eth7q`", "no interface matches `q7*`"]);
        for problem in problems {
            assert!(problem.hint().is_some_and(|hint| hint.starts_with("interfaces here are ") && hint.contains("lo")));
            assert_eq!(problem.exit_code(), ExitCode::NoInput);
        }
    }
}
