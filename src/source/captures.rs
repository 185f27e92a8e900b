//! Opening interfaces: those of a session that starts, and those that appear while it runs.

use super::by_direction::ByDirection;
use super::error::SourceError;
use super::interfaces::{self, Meant, meant};
use super::live::Live;
use super::ring::RingCapture;
use super::{Interface, Opened, Source, filter};
use crate::config::defaults::LEAST_BUFFER;
use crate::config::plan::{ANY, Engine, LivePlan, SessionPlan};
use crate::error::{Explain, Problems};
use crate::frame::InterfaceId;
use crate::kernel::netns::Namespace;
use crate::quantity::{Directions, Ifindex};

/// Asks whether a session has a use for an interface of that name, and why not.
pub type Refuses<'a> = &'a (dyn Fn(&str) -> Option<Box<dyn Explain>> + Sync);

/// One interface that is open.
pub struct Captured {
    /// For each worker its part.
    pub sources: Vec<Box<dyn Source>>,
    /// What it is.
    pub interface: Interface,
}

/// Opens what `live` names and matches. Everything named must be there and up, and something must match each pattern.
pub(super) fn open(live: &LivePlan, plan: &SessionPlan) -> Result<Opened, Problems> {
    Namespace::find(live.netns.as_ref())?.within(|| open_needed(live, plan))?
}

/// Opens what there is of it. What is not there yet is said, and so is what cannot be captured; only what keeps every
/// interface from being captured is a problem.
pub(super) fn open_staying(live: &LivePlan, plan: &SessionPlan, refuses: Refuses<'_>) -> Result<Opened, Problems> {
    match Namespace::find(live.netns.as_ref()) {
        Ok(namespace) => namespace.within(|| open_what_is_there(live, plan, refuses))?,
        Err(absent) if absent.is_absence() => {
            filter::check(&plan.filter)?;
            tracing::warn!("{absent}: waiting for it");
            Ok(nothing_yet(live))
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens one interface, which must be the one that is meant, with a ring of `buffer` bytes for each worker. Must be called
/// inside the namespace of the plan.
pub(crate) fn open_one(
    live: &LivePlan,
    plan: &SessionPlan,
    (id, meant): (InterfaceId, &Meant),
    buffer: u64,
) -> Result<Captured, SourceError> {
    let (sources, mut interface) = open_interface(live, plan, (id, &meant.name), buffer)?;
    if index_of(&meant.name) != meant.index {
        // Another interface has taken its name meanwhile. Which of the two was opened, nobody knows.
        return Err(SourceError::NoSuchInterface { name: meant.name.clone(), present: Vec::new() });
    }
    interface.index = meant.index;
    Ok(Captured { sources, interface })
}

/// How many bytes each of so many `rings` gets that are opened together, of the `free` ones that no ring has. Where
/// `more_may_come` half of them are left to those. Never less than makes a ring.
pub(crate) fn share(free: u64, rings: usize, more_may_come: bool) -> u64 {
    let parts = u64::try_from(rings.max(1)).unwrap_or(u64::MAX).saturating_mul(if more_may_come { 2 } else { 1 });
    (free / parts).max(LEAST_BUFFER)
}

fn nothing_yet(live: &LivePlan) -> Opened {
    let shares = (0..live.workers.value()).map(|_| Vec::new()).collect();
    Opened { shares, interfaces: Vec::new(), progress: None }
}

impl Opened {
    fn add(&mut self, Captured { sources, interface }: Captured) {
        self.shares.iter_mut().zip(sources).for_each(|(share, source)| share.push(source));
        self.interfaces.push(interface);
    }
}

/// The number that the next of `opened` has, as long as there are numbers.
fn next_id(opened: &Opened) -> Option<InterfaceId> {
    u16::try_from(opened.interfaces.len()).ok().map(InterfaceId)
}

fn open_needed(live: &LivePlan, plan: &SessionPlan) -> Result<Opened, Problems> {
    let present = interfaces::present(&live.interfaces)?;
    let (meant, problems) = meant(&live.interfaces, &present);
    let mut problems: Vec<Box<dyn Explain>> = problems.into_iter().map(Into::into).collect();
    if meant.is_empty() {
        // No interface will compile the filter; its mistakes are to be known all the same.
        problems.extend(filter::check(&plan.filter).err().map(Into::into));
    }
    let buffer = share(live.buffer, meant.len() * usize::from(live.workers.value()), live.has_patterns());
    let mut opened = nothing_yet(live);
    let mut down = Vec::new();
    for one in &meant {
        let Some(id) = next_id(&opened) else { break };
        match open_one(live, plan, (id, one), buffer) {
            Ok(captured) => opened.add(captured),
            // A pattern means those that can be captured; only a name means this very one.
            Err(problem @ SourceError::InterfaceDown { .. }) if !live.interfaces.contains(&one.name) => {
                down.push(problem);
            }
            Err(problem) => {
                let general = problem.is_general();
                problems.push(problem.into());
                if general {
                    break;
                }
            }
        }
    }
    if opened.interfaces.is_empty() {
        problems.extend(down.into_iter().map(Into::into));
    } else {
        for problem in down {
            tracing::warn!("{problem}: it is mirrored when it is up");
        }
    }
    Problems::unless_empty(problems)?;
    Ok(opened)
}

fn open_what_is_there(live: &LivePlan, plan: &SessionPlan, refuses: Refuses<'_>) -> Result<Opened, Problems> {
    let present = interfaces::present(&live.interfaces)?;
    let (mut meant, absent) = meant(&live.interfaces, &present);
    let named = absent.iter().filter(|absent| matches!(absent, SourceError::NoSuchInterface { .. })).count();
    for absent in absent {
        tracing::warn!("{absent}: waiting for it");
    }
    meant.retain(|one| one.up);
    if meant.is_empty() {
        filter::check(&plan.filter)?;
    }
    let rings = (meant.len() + named) * usize::from(live.workers.value());
    let buffer = share(live.buffer, rings, live.has_patterns());
    let mut opened = nothing_yet(live);
    for one in &meant {
        let Some(id) = next_id(&opened) else { break };
        if let Some(reason) = refuses(&one.name) {
            tracing::warn!("{} is not mirrored: {reason}", one.name);
            continue;
        }
        match open_one(live, plan, (id, one), buffer) {
            Ok(captured) => opened.add(captured),
            Err(problem) if problem.is_general() => return Err(problem.into()),
            Err(problem) => tracing::warn!("{problem}: it is not mirrored"),
        }
    }
    Ok(opened)
}

/// One source for each worker, of `buffer` bytes.
fn open_interface(
    plan: &LivePlan,
    session: &SessionPlan,
    interface: (InterfaceId, &str),
    buffer: u64,
) -> Result<(Vec<Box<dyn Source>>, Interface), SourceError> {
    let captured_by = |engine, mtu| Interface { name: interface.1.to_owned(), index: None, mtu, engine: Some(engine) };
    let rings = match plan.engine {
        Engine::Auto | Engine::Ring if interface.1 != ANY => {
            RingCapture::open(plan, session, interface, buffer.max(LEAST_BUFFER))?
        }
        _ => None,
    };
    if let Some(rings) = rings {
        let mtu = rings.first().and_then(RingCapture::mtu);
        return Ok((boxed(rings), captured_by(Engine::Ring, mtu)));
    }
    if plan.engine == Engine::Ring {
        return Err(SourceError::NoRing { interface: interface.1.to_owned() });
    }
    let open = |directions, buffer: u64| Live::open(plan, session, interface, directions, buffer.max(LEAST_BUFFER));
    let tell_directions = plan.directions == Directions::InOut && session.needs_direction();
    // Frames of `any` are cooked and tell their direction themselves.
    if !tell_directions || interface.1 == ANY {
        let captures = open(plan.directions, buffer)?;
        let mtu = captures.first().and_then(Live::mtu);
        return Ok((boxed(captures), captured_by(Engine::Pcap, mtu)));
    }
    let (received, sent) = (open(Directions::In, buffer / 2)?, open(Directions::Out, buffer / 2)?);
    let mtu = received.first().and_then(Live::mtu);
    // Both groups were joined in the order of the workers: each worker has both directions of its flows.
    let merged = received
        .into_iter()
        .zip(sent)
        .map(|(received, sent)| ByDirection::new(interface.1, [received, sent], plan.delay));
    Ok((boxed(merged.collect::<Result<Vec<_>, _>>()?), captured_by(Engine::Pcap, mtu)))
}

fn boxed<S: Source + 'static>(sources: Vec<S>) -> Vec<Box<dyn Source>> {
    sources.into_iter().map(|source| Box::new(source) as _).collect()
}

/// The number that an interface of this thread's namespace has now; none for `any`.
fn index_of(name: &str) -> Option<Ifindex> {
    nix::net::if_::if_nametoindex(name).ok().and_then(|index| Ifindex::new(index.into()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn rings_share_what_is_free_and_patterns_leave_half_of_it() {
        assert_eq!(share(24 * MIB, 1, false), 24 * MIB);
        assert_eq!(share(24 * MIB, 4, false), 6 * MIB);
        assert_eq!(share(24 * MIB, 1, true), 12 * MIB);
        assert_eq!(share(12 * MIB, 2, true), 3 * MIB);
        assert_eq!((share(24 * MIB, 100, false), share(0, 1, true)), (LEAST_BUFFER, LEAST_BUFFER));
    }
}
