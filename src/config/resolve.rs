//! From what was written to what is meant, or to every mistake.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::defaults;
use super::destination::{self, One};
use super::keys::{Keys, Mistakes};
use super::load::SessionWritten;
use super::mistake::{Mistake, What};
use super::plan::{
    Decap, DestinationPlan, End, FilePath, FilePlan, LivePlan, NormalisePlan, Pace, SessionPlan, SourcePlan, Spread,
    is_pattern,
};
use super::written::Value;
use super::{limits, tunnels, words};
use crate::error::Problems;
use crate::quantity::{Mtu, Rate, SegmentLimit, SocketMark, Workers};

/// Resolves one session.
///
/// # Errors
/// Every mistake that was found, each with its place.
pub fn session(written: &SessionWritten) -> Result<SessionPlan, Problems> {
    let mut mistakes = Mistakes::new();
    let keys = session_keys(written);
    keys.only(&["source", "select", "normalise", "spread", "destination", "limit", "priority"], &mut mistakes);
    let mut source = source(&keys, written.end.count, &mut mistakes);
    let decap = decap(&keys, &mut mistakes);
    let limit = limits::limit(&keys, source.as_mut(), &mut mistakes);
    let priority = limits::priority(&keys, source.as_ref(), &mut mistakes);
    let select = keys.table("select", &mut mistakes);
    select.only(&["filter", "sample", "sample_by", "seed"], &mut mistakes);
    let filter = select.word("filter", &mut mistakes).unwrap_or_default().trim().to_owned();
    let sample = limits::sample(&select, &mut mistakes);
    let seed = select.read("seed", &mut mistakes, str::parse);
    let normalise = normalise(&keys, source.as_ref(), &mut mistakes);
    let spread = keys.read("spread", &mut mistakes, words::spread).unwrap_or_default();
    let destinations = all_destinations(&keys, written, source.as_ref(), &mut mistakes);
    if spread != Spread::Replicate && destinations.len() > defaults::MOST_SHARING {
        mistakes.push(keys.mistake("spread", What::TooManyToShare(destinations.len())));
    }
    match (source, Problems::unless_empty(mistakes)) {
        (Some(source), Ok(())) => Ok(SessionPlan {
            name: written.name.clone().unwrap_or_else(|| defaults::SESSION.to_owned()),
            source,
            decap,
            filter,
            sample,
            seed,
            normalise,
            spread,
            destinations,
            limit,
            priority,
            end: written.end,
        }),
        (_, Err(problems)) => Err(problems),
        // A source is only missing together with a mistake.
        (None, Ok(())) => Err(Mistake::at(What::NoSource, None, "").into()),
    }
}

/// Resolves only the destinations of a session: for commands that capture nothing.
///
/// # Errors
/// Every mistake in them.
pub fn destinations(written: &SessionWritten) -> Result<Vec<DestinationPlan>, Problems> {
    let mut mistakes = Mistakes::new();
    let destinations = all_destinations(&session_keys(written), written, None, &mut mistakes);
    Problems::unless_empty(mistakes).map(|()| destinations)
}

fn session_keys(written: &SessionWritten) -> Keys<'_> {
    let path = written.name.as_ref().map_or_else(String::new, |name| format!("session.{name}"));
    Keys::new(path, &written.keys)
}

/// The kinds of source: the key that names one, every key it has beside, and what it is called.
const KINDS: [(&str, &[&str], &str, &str); 3] = [
    (
        "interface",
        &[
            "direction",
            "engine",
            "buffer",
            "delay",
            "promiscuous",
            "workers",
            "pin",
            "netns",
            "max_interfaces",
            "decap",
        ],
        "interfaces",
        "an interface",
    ),
    ("file", &["pace", "rate", "max_pause", "decap"], "capture files", "a capture file"),
    (
        "tunnel",
        &["allow", "strict", "decap", "tag", "reorder", "buffer", "pace", "rate", "max_pause"],
        "tunnels",
        "a tunnel endpoint",
    ),
];

fn source(session: &Keys<'_>, count: Option<u64>, mistakes: &mut Mistakes) -> Option<SourcePlan> {
    let keys = session.table("source", mistakes);
    let mut known: Vec<&str> = KINDS.iter().map(|&(name, ..)| name).collect();
    for &key in KINDS.iter().flat_map(|&(_, keys, ..)| keys) {
        if !known.contains(&key) {
            known.push(key);
        }
    }
    keys.only(&known, mistakes);
    let (live, file) = (live(&keys, mistakes), file(&keys, mistakes));
    let tunnels = tunnels::resolve(&keys, mistakes);
    let mut written = KINDS.iter().filter(|&&(name, ..)| keys.written(name).is_some());
    let (Some(&(name, own, _, found)), None) = (written.next(), written.next()) else {
        match KINDS.iter().rev().find(|&&(name, ..)| keys.written(name).is_some()) {
            None => {
                // What is no table was refused already.
                if matches!(session.written("source").map(|written| &written.value), None | Some(Value::Table(_))) {
                    mistakes.push(session.missing("source", What::NoSource));
                }
            }
            Some(&(name, ..)) => mistakes.push(keys.mistake(name, What::TwoSources)),
        }
        return None;
    };
    for &key in known.iter().filter(|&&key| key != name && !own.contains(&key) && keys.written(key).is_some()) {
        let wanted = KINDS.iter().find(|(_, keys, ..)| keys.contains(&key)).map_or("", |&(_, _, wanted, _)| wanted);
        mistakes.push(keys.mistake(key, What::OtherSource { key, wanted, found }));
    }
    let source = match name {
        "interface" => live.map(SourcePlan::Live),
        "file" => file.map(SourcePlan::File),
        _ => tunnels.map(SourcePlan::Tunnels),
    };
    if let (Some(SourcePlan::Live(live)), Some(_)) = (&source, count)
        && live.workers > Workers::LEAST
    {
        mistakes.push(keys.mistake("workers", What::CountOfWorkers(live.workers)));
    }
    source
}

/// How many tunnels are taken off sniffed frames. A source of tunnels reads the key itself.
fn decap(session: &Keys<'_>, mistakes: &mut Mistakes) -> Option<Decap> {
    // What is no table was refused already.
    let keys = session.table("source", &mut Mistakes::new());
    let is_received = keys.written("tunnel").is_some();
    if is_received { None } else { keys.read("decap", mistakes, words::decap_or_off).flatten() }
}

fn live(keys: &Keys<'_>, mistakes: &mut Mistakes) -> Option<LivePlan> {
    let directions = keys.read("direction", mistakes, str::parse).unwrap_or_default();
    let engine = keys.read("engine", mistakes, words::engine).unwrap_or_default();
    let buffer = keys.read("buffer", mistakes, words::buffer).unwrap_or(defaults::BUFFER);
    let delay = keys.read("delay", mistakes, words::delay).unwrap_or(defaults::DELAY);
    let promiscuous = keys.read("promiscuous", mistakes, words::switch).unwrap_or(defaults::PROMISCUOUS);
    let workers = keys.read("workers", mistakes, str::parse).unwrap_or(defaults::WORKERS);
    let pin = cpus(keys, "pin", mistakes);
    let netns = keys.read("netns", mistakes, str::parse);
    let max_interfaces = keys.read("max_interfaces", mistakes, words::interfaces).unwrap_or(defaults::MAX_INTERFACES);
    let interfaces = keys.words("interface", mistakes)?;
    for pattern in &interfaces {
        if glob::Pattern::new(pattern).is_err() {
            mistakes.push(keys.mistake("interface", What::Pattern { pattern: pattern.clone() }));
        }
    }
    Some(LivePlan { interfaces, directions, promiscuous, engine, buffer, max_interfaces, delay, workers, pin, netns })
}

/// The CPUs behind `key`. Each must be one that the kernel lets this process run on.
pub(super) fn cpus(keys: &Keys<'_>, key: &'static str, mistakes: &mut Mistakes) -> Vec<usize> {
    if keys.written(key).is_none() {
        return Vec::new();
    }
    let Some(words) = keys.words(key, mistakes) else { return Vec::new() };
    let cpus = words::cpus(&words).unwrap_or_else(|error| {
        mistakes.push(keys.mistake(key, error));
        Vec::new()
    });
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return cpus };
    let is_present = |cpu: usize| allowed.is_set(cpu).unwrap_or(false);
    let missing = cpus.iter().find(|&&cpu| !is_present(cpu));
    mistakes.extend(missing.map(|&cpu| {
        let present = (0..CpuSet::count()).filter(|&cpu| is_present(cpu)).collect();
        keys.mistake(key, What::NoSuchCpu { cpu, present })
    }));
    cpus
}

fn file(keys: &Keys<'_>, mistakes: &mut Mistakes) -> Option<FilePlan> {
    let paths = keys.paths("file", mistakes)?;
    let Ok(files) = paths.iter().map(|path| path.parse::<FilePath>()).collect() else {
        let expected = "a path, -, or a list of them";
        mistakes.push(keys.mistake("file", What::Shape { key: "file".to_owned(), expected }));
        return None;
    };
    Some(file_plan(keys, "file", files, mistakes))
}

/// What is read out of `files`, which stand behind `key`.
pub(super) fn file_plan(keys: &Keys<'_>, key: &'static str, files: Vec<FilePath>, mistakes: &mut Mistakes) -> FilePlan {
    if files.iter().filter(|&file| *file == FilePath::Standard).count() > 1 {
        mistakes.push(keys.mistake(key, What::StandardInputTwice));
    }
    let pace = pace(keys, mistakes);
    let longest_pause = keys.read("max_pause", mistakes, words::pause);
    if keys.written("max_pause").is_some() && pace != Pace::Recorded {
        mistakes.push(keys.mistake("max_pause", What::PauseWithoutPace));
    }
    FilePlan { files, pace, longest_pause }
}

/// How fast a file is replayed.
fn pace(keys: &Keys<'_>, mistakes: &mut Mistakes) -> Pace {
    let pace = keys.read("pace", mistakes, words::pace);
    let rate = keys.read("rate", mistakes, str::parse::<Rate>);
    if keys.written("pace").is_some() && keys.written("rate").is_some() {
        mistakes.push(keys.mistake("rate", What::PaceAndRate));
    }
    rate.map(Pace::Rate).or(pace).unwrap_or(Pace::Unpaced)
}

fn normalise(session: &Keys<'_>, source: Option<&SourcePlan>, mistakes: &mut Mistakes) -> NormalisePlan {
    let keys = session.table("normalise", mistakes);
    keys.only(&["enabled", "mtu", "truncate", "max_segments"], mistakes);
    let is_live = matches!(source, Some(SourcePlan::Live(_)));
    let enabled = keys.read("enabled", mistakes, words::switch).unwrap_or(is_live);
    if let (Some(source), Some(_)) = (source, keys.written("mtu")) {
        match source {
            SourcePlan::Live(_) => {
                let found = "an interface, which knows its own";
                mistakes.push(keys.mistake("mtu", What::OtherSource { key: "mtu", wanted: "capture files", found }));
            }
            SourcePlan::File(_) | SourcePlan::Tunnels(_) if !enabled => {
                mistakes.push(keys.mistake("mtu", What::MtuWithoutNormalise));
            }
            SourcePlan::File(_) | SourcePlan::Tunnels(_) => {}
        }
    }
    NormalisePlan {
        enabled,
        mtu: keys.read("mtu", mistakes, str::parse).unwrap_or(Mtu::ETHERNET),
        truncate: keys.read("truncate", mistakes, words::truncate).unwrap_or_default(),
        max_segments: keys.read("max_segments", mistakes, words::max_segments).unwrap_or(Some(SegmentLimit::DEFAULT)),
    }
}

fn all_destinations(
    session: &Keys<'_>,
    written: &SessionWritten,
    source: Option<&SourcePlan>,
    mistakes: &mut Mistakes,
) -> Vec<DestinationPlan> {
    let tables = session.table("destination", mistakes).named_tables(mistakes);
    if tables.is_empty() {
        mistakes.push(session.missing("destination", What::NoDestination));
    }
    let mark = mark(written, mistakes);
    let mut used = HashSet::new();
    let mut destinations: Vec<DestinationPlan> = Vec::new();
    let interfaces = interfaces_by_name(source);
    for (name, own) in tables {
        let for_every = &written.for_every_destination;
        let one = One { name, own: &own, for_every, interfaces: &interfaces, mark };
        let Some(plan) = destination::resolve(&one, &mut used, mistakes) else { continue };
        if destinations.iter().any(|earlier| earlier.name == plan.name) {
            mistakes.push(own.mistake("to", What::SameName(plan.name.clone())));
        }
        let what = compressed_name(&plan)
            .or_else(|| contested_file(&plan, &destinations, source))
            .or_else(|| contested_tap(&plan, &destinations, source))
            .or_else(|| too_few_ports(&plan, source))
            .or_else(|| both_modes_of_xdp(&plan, &destinations));
        mistakes.extend(what.map(|what| own.mistake("to", what)));
        destinations.push(plan);
    }
    for (key, flag) in &written.for_every_destination {
        // With a mistake in one of them, nobody knows what it would have used.
        if !used.contains(key.as_str()) && mistakes.is_empty() {
            mistakes.push(Mistake::at(What::UselessFlag { key: key.clone() }, flag.origin(), key.clone()));
        }
    }
    destinations
}

/// What the sockets of the session's tunnels are marked with.
fn mark(written: &SessionWritten, mistakes: &mut Mistakes) -> Option<SocketMark> {
    let Some(flag) = &written.mark_flag else { return written.mark };
    let Value::Word(word) = &flag.value else { return written.mark };
    words::mark(word).unwrap_or_else(|error| {
        mistakes.push(Mistake::at(error, flag.origin(), ""));
        written.mark
    })
}

/// The interfaces that are named rather than matched: each must have an id in every tunnel.
fn interfaces_by_name(source: Option<&SourcePlan>) -> Vec<String> {
    match source {
        Some(SourcePlan::Live(live)) => live.interfaces.iter().filter(|name| !is_pattern(name)).cloned().collect(),
        Some(SourcePlan::File(plan)) => plan.files.iter().map(ToString::to_string).collect(),
        Some(SourcePlan::Tunnels(tunnels)) => tunnels.names(),
        None => Vec::new(),
    }
}

/// Why the workers of `source` cannot all send to `plan`: each needs source ports of its own, so that those of one flow
/// are one worker's.
fn too_few_ports(plan: &DestinationPlan, source: Option<&SourcePlan>) -> Option<What> {
    let (End::Tunnel(tunnel), Some(SourcePlan::Live(live))) = (&plan.end, source) else { return None };
    let (workers, ports) = (live.workers, tunnel.ports.count());
    (ports < workers.value().into()).then_some(What::PortsOfWorkers { workers, ports })
}

/// Why `plan` must not have its TAP device: another destination has it, or the session would mirror what it writes there.
fn contested_tap(plan: &DestinationPlan, earlier: &[DestinationPlan], source: Option<&SourcePlan>) -> Option<What> {
    let End::Tap(tap) = &plan.end else { return None };
    if earlier.iter().any(|other| matches!(&other.end, End::Tap(other) if other.device == tap.device)) {
        return Some(What::SameFile(format!("the TAP device {}", tap.device)));
    }
    let Some(SourcePlan::Live(live)) = source else { return None };
    let pattern = live.captures(&tap.device)?.to_owned();
    Some(What::MirrorsItself { pattern, device: tap.device.clone() })
}

/// Destinations that leave by one interface share its queue, so all are sent in one mode.
fn both_modes_of_xdp(plan: &DestinationPlan, earlier: &[DestinationPlan]) -> Option<What> {
    let way = plan.transmit().filter(|way| way.is_xdp())?;
    let is_other = |other: &DestinationPlan| other.transmit().is_some_and(|other| other.is_xdp() && other != way);
    earlier.iter().any(is_other).then_some(What::XdpInBothModes)
}

/// The name of the file that `plan` writes, if it is that of a compressed one. To compress live traffic takes CPU time from
/// the workers, and a compressed file that a crash cut off cannot be repaired by leaving out its last record.
fn compressed_name(plan: &DestinationPlan) -> Option<What> {
    const SUFFIXES: [&str; 7] = ["gz", "zst", "zstd", "xz", "bz2", "lz4", "zip"];
    let Some(FilePath::Path(path)) = plan.file() else { return None };
    let suffix = path.extension()?.to_str()?.to_ascii_lowercase();
    SUFFIXES.contains(&suffix.as_str()).then(|| What::CompressedName(path.display().to_string()))
}

/// Why `plan` must not write its file. Inner frames have a file for themselves; only the dry run gathers the outer
/// frames of several tunnels in one.
fn contested_file(plan: &DestinationPlan, earlier: &[DestinationPlan], source: Option<&SourcePlan>) -> Option<What> {
    let file = plan.file()?;
    if let (Some(read), FilePath::Path(path)) = (source.and_then(SourcePlan::file), file)
        && read.files.iter().any(|file| is_one_file(&read_from(file), path))
    {
        return Some(What::Overwritten(path.display().to_string()));
    }
    let is_inner = |plan: &DestinationPlan| matches!(plan.end, End::File(_));
    let contests = |other: &DestinationPlan| match (other.file(), file) {
        // Dry runs share a file that they know by the same name.
        (Some(FilePath::Path(other)), FilePath::Path(path)) if other != path => is_one_file(other, path),
        (other_file, file) => other_file == Some(file) && (is_inner(plan) || is_inner(other)),
    };
    let name = || if *file == FilePath::Standard { "standard output".into() } else { file.to_string() };
    earlier.iter().any(contests).then(|| What::SameFile(name()))
}

/// Where a capture file is read from: standard input is often a file too.
pub(super) fn read_from(file: &FilePath) -> Cow<'_, Path> {
    match file {
        FilePath::Standard => Path::new("/dev/stdin").into(),
        FilePath::Path(path) => path.into(),
    }
}

/// Whether two paths lead to one regular file, which then could not be read or written beside the other. A file that
/// does not exist yet is known by its directory and name.
pub(super) fn is_one_file(one: &Path, other: &Path) -> bool {
    one == other || identity(one).is_some_and(|identity_of_one| Some(identity_of_one) == identity(other))
}

/// Device and number of a regular file, or of the directory and the name that it will have there.
fn identity(path: &Path) -> Option<(u64, u64, Option<&OsStr>)> {
    if let Ok(file) = path.metadata() {
        return file.is_file().then(|| (file.dev(), file.ino(), None));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (directory, name) = (directory.metadata().ok()?, path.file_name()?);
    Some((directory.dev(), directory.ino(), Some(name)))
}
