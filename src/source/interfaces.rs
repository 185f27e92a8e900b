//! The interfaces that a plan means.

use nix::net::if_::if_nametoindex;

use super::error::SourceError;
use crate::config;

/// libpcap's name for all interfaces together.
pub(super) const ANY: &str = "any";

/// The interfaces that `patterns` mean, in their order, each once; and what means nothing.
pub(super) fn meant(patterns: &[String]) -> (Vec<String>, Vec<SourceError>) {
    // The list of a host with hundreds of interfaces costs the kernel a millisecond, and hundreds of sessions ask.
    let are_there =
        patterns.iter().all(|name| !name.contains(['*', '?', '[']) && if_nametoindex(name.as_str()).is_ok());
    let present = match if are_there { Ok(patterns.to_vec()) } else { present() } {
        Ok(present) => present,
        Err(cause) => return (Vec::new(), vec![SourceError::NoList(cause)]),
    };
    let (mut meant, mut problems) = (Vec::<String>::new(), Vec::new());
    for pattern in patterns {
        let before = meant.len();
        let mut matches = present.iter().filter(|name| config::matches(pattern, name)).cloned().collect::<Vec<_>>();
        if pattern == ANY {
            matches.push(ANY.to_owned());
        }
        if matches.is_empty() {
            problems.push(nothing(pattern, &present));
        }
        for name in matches {
            if !meant[..before].contains(&name) {
                meant.push(name);
            }
        }
    }
    (meant, problems)
}

fn nothing(pattern: &str, present: &[String]) -> SourceError {
    let present = present.to_vec();
    if pattern.contains(['*', '?', '[']) {
        SourceError::NoMatch { pattern: pattern.to_owned(), present }
    } else {
        SourceError::NoSuchInterface { name: pattern.to_owned(), present }
    }
}

fn present() -> nix::Result<Vec<String>> {
    let names = nix::net::if_::if_nameindex()?;
    Ok(names.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ExitCode, Explain};

    #[test]
    fn a_name_that_two_patterns_mean_comes_once() {
        let (names, problems) = meant(&["lo".to_owned(), "l[o]".to_owned()]);
        assert_eq!(names, ["lo"]);
        assert!(problems.is_empty());
    }

    #[test]
    fn what_means_nothing_is_told_with_what_there_is() {
        let (names, problems) = meant(&["eth7q".to_owned(), "q7*".to_owned(), "lo".to_owned()]);
        assert_eq!(names, ["lo"]);
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["there is no interface `eth7q`", "no interface matches `q7*`"]);
        for problem in problems {
            assert!(problem.hint().is_some_and(|hint| hint.starts_with("interfaces here are ") && hint.contains("lo")));
            assert_eq!(problem.exit_code(), ExitCode::NoInput);
        }
    }
}
