//! The source of `farspan receive`: tunnels in which others send their mirrors.

use super::endpoint::{self, EndpointError};
use super::keys::{Keys, Mistakes};
use super::mistake::What;
use super::plan::{EndpointPlan, FilePath, OuterPackets, TunnelsPlan};
use super::{defaults, resolve, words};
use crate::quantity::Prefix;

/// Reads every key of a tunnel source. `None` when there is no endpoint, or none that reads.
pub(super) fn resolve(keys: &Keys<'_>, mistakes: &mut Mistakes) -> Option<TunnelsPlan> {
    let strict = keys.read("strict", mistakes, words::switch).unwrap_or_default();
    // Interfaces and files may have it, too: there it may be `off`.
    let decap = keys.written("tunnel").and_then(|_| keys.read("decap", mistakes, words::decap)).unwrap_or_default();
    let tag = keys.read("tag", mistakes, words::tag).unwrap_or_default();
    let reorder = keys.read("reorder", mistakes, words::reorder).unwrap_or_default();
    let allow = keys.written("allow").and_then(|_| keys.words("allow", mistakes)).unwrap_or_default();
    let allow = each(keys, "allow", &allow, str::parse::<Prefix>, mistakes);
    let written = keys.written("tunnel").and_then(|_| keys.words("tunnel", mistakes))?;
    let (files, endpoints): (Vec<String>, Vec<String>) =
        written.iter().map(|text| text.trim().to_owned()).partition(|text| text.starts_with("file:"));
    let endpoints = each(keys, "tunnel", &endpoints, endpoint::read, mistakes);
    let outer = match files.as_slice() {
        [] => {
            only_sockets(keys, &endpoints, mistakes);
            let buffer = keys.read("buffer", mistakes, words::buffer).unwrap_or(defaults::BUFFER);
            OuterPackets::Sockets { buffer }
        }
        files => {
            let paths: Result<Vec<FilePath>, _> =
                files.iter().map(|file| file.trim_start_matches("file:").parse()).collect();
            let Ok(files) = paths else {
                mistakes.push(keys.mistake("tunnel", EndpointError::NoFile));
                return None;
            };
            if keys.written("buffer").is_some() {
                let (wanted, found) = ("interfaces and tunnel endpoints", "a capture file");
                mistakes.push(keys.mistake("buffer", What::OtherSource { key: "buffer", wanted, found }));
            }
            OuterPackets::File(resolve::file_plan(keys, "tunnel", files, mistakes))
        }
    };
    let has_any = !endpoints.is_empty() || matches!(outer, OuterPackets::File(_));
    has_any.then_some(TunnelsPlan { outer, endpoints, allow, strict, decap, tag, reorder })
}

/// Reads each word of a list; what does not read is a mistake.
fn each<T, E: Into<What>>(
    keys: &Keys<'_>,
    key: &str,
    words: &[String],
    read: impl Fn(&str) -> Result<T, E>,
    mistakes: &mut Mistakes,
) -> Vec<T> {
    let mut understood = Vec::new();
    for word in words {
        match read(word) {
            Ok(value) => understood.push(value),
            Err(error) => mistakes.push(keys.mistake(key, error)),
        }
    }
    understood
}

/// What only makes sense without, or with, a file.
fn only_sockets(keys: &Keys<'_>, endpoints: &[EndpointPlan], mistakes: &mut Mistakes) {
    for key in ["pace", "rate", "max_pause"].into_iter().filter(|key| keys.written(key).is_some()) {
        let (wanted, found) = ("capture files", "a tunnel endpoint");
        mistakes.push(keys.mistake(key, What::OtherSource { key, wanted, found }));
    }
    // Raw sockets each get a copy of every packet that is theirs.
    let raw = || endpoints.iter().filter(|endpoint| endpoint.port == 0);
    let twice = raw().find(|endpoint| {
        !endpoint.address.is_unspecified()
            && raw().any(|other| other.address.is_unspecified() && other.is_at(endpoint.address))
    });
    mistakes.extend(twice.map(|endpoint| keys.mistake("tunnel", What::ReceivedTwice(endpoint.address))));
}
