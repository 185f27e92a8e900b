//! What two sessions of one daemon must not both have.

use std::path::Path;

use super::load::SessionWritten;
use super::mistake::{Mistake, What};
use super::plan::{DestinationPlan, End, FilePath, OuterPackets, SessionPlan, SourcePlan};
use super::resolve::{is_one_file, read_from};
use super::written::{Table, Value, Written};

/// Every contest between two of `plans`, each at the place of the later session, which is the one in the same position of
/// `written`.
pub(super) fn between(plans: &[SessionPlan], written: &[SessionWritten]) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (number, (plan, written)) in plans.iter().zip(written).enumerate() {
        let at = |what, keys: &[&str]| {
            let origin = find(&written.keys, keys).and_then(Written::origin);
            Mistake::at(what, origin, [&["session", &plan.name], keys].concat().join("."))
        };
        for earlier in plans.iter().take(number) {
            for destination in &plan.destinations {
                let contests = |other: &DestinationPlan| same_end(destination, other);
                if let Some(what) = earlier.destinations.iter().find_map(contests) {
                    let what = What::SharedEnd(earlier.name.clone(), plan.name.clone(), what);
                    mistakes.push(at(what, &["destination", &destination.name, "to"]));
                }
            }
            for (captor, writer) in [(plan, earlier), (earlier, plan)] {
                let what = mirrors(captor, writer).or_else(|| reads(captor, writer));
                mistakes.extend(what.map(|what| at(what, &["source"])));
            }
            mistakes.extend(shared_port(earlier, plan).map(|what| at(what, &["source", "tunnel"])));
        }
    }
    mistakes
}

/// The value at the end of a path of keys.
fn find<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Written> {
    match path {
        [] => None,
        [key] => table.get(*key),
        [key, rest @ ..] => match &table.get(*key)?.value {
            Value::Table(table) => find(table, rest),
            Value::Word(_) | Value::List(_) => None,
        },
    }
}

/// What both destinations would write to. Even dry runs share a file in one session only.
fn same_end(one: &DestinationPlan, other: &DestinationPlan) -> Option<String> {
    if let (End::Tap(one), End::Tap(other)) = (&one.end, &other.end) {
        return (one.device == other.device).then(|| format!("the TAP device {}", one.device));
    }
    match (one.file()?, other.file()?) {
        (FilePath::Path(path), FilePath::Path(other)) => is_one_file(path, other).then(|| path.display().to_string()),
        (FilePath::Standard, FilePath::Standard) => Some("standard output".to_owned()),
        _ => None,
    }
}

/// What `captor` would mirror of `writer`'s mirror.
fn mirrors(captor: &SessionPlan, writer: &SessionPlan) -> Option<What> {
    let SourcePlan::Live(live) = &captor.source else { return None };
    let taps = writer.destinations.iter().filter_map(|destination| match &destination.end {
        End::Tap(tap) => Some(&tap.device),
        End::Tunnel(_) | End::File(_) => None,
    });
    let captured = |device: &String| Some((live.captures(device)?.to_owned(), device.clone()));
    let (pattern, device) = taps.into_iter().find_map(captured)?;
    Some(What::MirrorsAnother { captor: captor.name.clone(), pattern, writer: writer.name.clone(), device })
}

/// What `reader` would read while `writer` writes it.
fn reads(reader: &SessionPlan, writer: &SessionPlan) -> Option<What> {
    let files = &reader.source.file()?.files;
    let is_read = |path: &Path| files.iter().any(|file| is_one_file(&read_from(file), path));
    let written = |destination: &DestinationPlan| match destination.file()? {
        FilePath::Path(path) if is_read(path) => Some(path.display().to_string()),
        _ => None,
    };
    let file = writer.destinations.iter().find_map(written)?;
    Some(What::ReadWhileWritten { reader: reader.name.clone(), file, writer: writer.name.clone() })
}

/// A UDP port at which both would receive. Of GRE, which has no ports, each gets all and takes its own.
fn shared_port(one: &SessionPlan, other: &SessionPlan) -> Option<What> {
    let sockets = |plan: &SessionPlan| match &plan.source {
        SourcePlan::Tunnels(tunnels) if matches!(tunnels.outer, OuterPackets::Sockets { .. }) => {
            tunnels.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.port)).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    let others = sockets(other);
    sockets(one).into_iter().find_map(|(address, port)| {
        let is_shared = others.iter().any(|&(theirs, their_port)| {
            let meet = address == theirs || address.is_unspecified() || theirs.is_unspecified();
            port != 0 && port == their_port && meet && address.is_ipv4() == theirs.is_ipv4()
        });
        is_shared.then(|| What::SharedPort(one.name.clone(), other.name.clone(), port))
    })
}
