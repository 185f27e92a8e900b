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
    if let Some(named) = named(patterns) {
        return Ok(named);
    }
    let mut present = link_events::look(&Namespace::own())?;
    present.extend(by_other_names(patterns, &present));
    Ok(present)
}

/// Interfaces of `present` that `patterns` name otherwise than the kernel's list does, in the network namespace of this
/// thread: by an alternative name (`ip link property add dev eth0 altname lan`).
pub(crate) fn by_other_names(patterns: &[String], present: &[Present]) -> Vec<Present> {
    let find = |name: &String| {
        let index = if_nametoindex(name.as_str()).ok().and_then(|index| Ifindex::new(index.into()).ok())?;
        let known = present.iter().find(|one| one.index == index)?;
        Some(Present { name: name.clone(), ..known.clone() })
    };
    unlisted(patterns, present).filter_map(find).collect()
}

/// The names among `patterns` that no interface of `present` has.
pub(crate) fn unlisted<'a>(patterns: &'a [String], present: &'a [Present]) -> impl Iterator<Item = &'a String> {
    let is_name = |name: &&String| !is_pattern(name) && *name != ANY;
    patterns.iter().filter(is_name).filter(|name| present.iter().all(|one| one.name != **name))
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

/// The interfaces of `present` that `patterns` mean, in their order, each once, by the name that means it first; and what
/// means nothing. Beside `any`, which captures every interface, all others would be captured twice.
pub(crate) fn meant(patterns: &[String], present: &[Present]) -> (Vec<Meant>, Vec<SourceError>) {
    let (mut meant, mut problems) = (Vec::<Meant>::new(), Vec::new());
    for pattern in patterns {
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
            if meant.iter().all(|known| known.index != one.index) {
                meant.push(one);
            }
        }
    }
    if let Some(any) = meant.iter().find(|one| one.index.is_none()) {
        meant = vec![any.clone()];
    }
    (meant, problems)
}

/// What `patterns` mean more than once, said for each interface: a name twice, by two of its names, by a name and by a pattern.
/// That two patterns overlap is no news.
pub(crate) fn repeated(patterns: &[String], present: &[Present]) -> Vec<String> {
    let is_any = |name: &&String| *name == ANY;
    if patterns.iter().any(|name| name == ANY) && !patterns.iter().all(|name| name == ANY) {
        return vec![
            "`any` captures every interface: those that are named beside it are not captured again".to_owned(),
        ];
    }
    if patterns.iter().filter(is_any).count() > 1 {
        return vec!["`any` is given more than once: it is captured once".to_owned()];
    }
    let mut seen = Vec::new();
    let mut said = Vec::new();
    for one in present.iter().filter(|one| {
        let is_first = !seen.contains(&one.index);
        seen.push(one.index);
        is_first
    }) {
        let names = present.iter().filter(|other| other.index == one.index).map(|other| other.name.as_str());
        let names: Vec<&str> = names.collect();
        let means = |pattern: &&String| names.iter().any(|name| is_match(pattern, name));
        let by: Vec<&String> = patterns.iter().filter(means).collect();
        if by.len() > 1 && by.iter().any(|name| !is_pattern(name)) {
            let by: Vec<String> = by.iter().map(|name| format!("`{name}`")).collect();
            said.push(format!("{} is given more than once ({}): it is captured once", one.name, by.join(", ")));
        }
    }
    said
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

    #[test]
    fn o5_an_interface_is_captured_once_however_often_it_is_given() {
        let one = |index: u32, name: &str| Present {
            index: Ifindex::new(index.into()).unwrap(),
            name: name.to_owned(),
            up: true,
        };
        let present = [one(2, "eth0"), one(3, "eth1"), one(2, "lan")];
        let of = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            let meant = meant(&patterns, &present).0.into_iter().map(|one| one.name).collect::<Vec<_>>();
            (meant.join(" "), repeated(&patterns, &present).len())
        };
        for (patterns, names, notes) in [
            (&["eth0", "eth0"][..], "eth0", 1),
            (&["eth0", "lan"], "eth0", 1),
            (&["lan", "eth*"], "lan eth1", 1),
            (&["eth*", "eth0"], "eth0 eth1", 1),
            (&["eth0", "eth1"], "eth0 eth1", 0),
            (&["eth*", "*"], "eth0 eth1", 0),
            (&["any", "eth0"], "any", 1),
            (&["eth0", "any", "any"], "any", 1),
            (&["any", "any"], "any", 1),
        ] {
            assert_eq!(of(patterns), (names.to_owned(), notes), "{patterns:?}");
        }
    }

    #[test]
    fn names_that_are_not_listed_are_looked_up() {
        let present = look(&Namespace::own()).unwrap();
        let patterns = ["lo", "any", "l*", "eth7q"].map(str::to_owned);
        assert_eq!(unlisted(&patterns, &present).collect::<Vec<_>>(), ["eth7q"]);
        assert_eq!(by_other_names(&patterns, &present), []);
    }
}
