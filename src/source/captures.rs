//! Opening interfaces: those of a session that starts, and those that appear while it runs.

use super::by_direction::ByDirection;
use super::error::SourceError;
use super::interfaces::{self, Meant, meant};
use super::live::Live;
use super::memory::{Budget, NoRoom, Pool};
use super::ring::RingCapture;
use super::{Interface, Opened, Source, filter};
use crate::config::defaults::LEAST_RING;
use crate::config::plan::{ANY, Engine, LivePlan, SessionPlan};
use crate::error::{Explain, Problems, what_and_why};
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
pub(super) fn open(live: &LivePlan, plan: &SessionPlan, pool: &Pool) -> Result<Opened, Problems> {
    let namespace = Namespace::find(live.netns.as_ref())?;
    let opened = namespace.within(|| open_needed(live, plan, pool))??;
    Ok(Opened { namespace: Some(namespace), ..opened })
}

/// Opens what there is of it. What is not there yet is said, and so is what cannot be captured; only what keeps every
/// interface from being captured is a problem.
pub(super) fn open_staying(
    live: &LivePlan,
    plan: &SessionPlan,
    pool: &Pool,
    refuses: Refuses<'_>,
) -> Result<Opened, Problems> {
    match Namespace::find(live.netns.as_ref()) {
        Ok(namespace) => {
            let opened = namespace.within(|| open_what_is_there(live, plan, pool, refuses))??;
            Ok(Opened { namespace: Some(namespace), ..opened })
        }
        Err(absent) if absent.is_absence() => {
            filter::check(&plan.filter)?;
            tracing::warn!("{absent}: waiting for it");
            Ok(nothing_yet(live, Budget::new(live, plan, pool)))
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
    let (sources, mut interface) = open_interface(live, plan, (id, &meant.name, meant.index), buffer)?;
    let is_it = index_of(&meant.name) == meant.index && sources.iter().all(|source| source.is_attached());
    if !is_it {
        // It has another name or is gone, and another interface may have its name.
        return Err(SourceError::NoSuchInterface { name: meant.name.clone(), present: Vec::new() });
    }
    interface.index = meant.index;
    Ok(Captured { sources, interface })
}

fn nothing_yet(live: &LivePlan, budget: Budget) -> Opened {
    let shares = (0..live.workers.value()).map(|_| Vec::new()).collect();
    let (interfaces, buffers) = (Vec::new(), Vec::new());
    Opened { shares, interfaces, buffers, budget: Some(budget), progress: None, namespace: None }
}

impl Opened {
    /// How many bytes each ring of the next interface gets, with which `wanted` are to be opened.
    fn next_ring(&mut self, wanted: usize) -> Result<u64, SourceError> {
        let (interfaces, taken) = (self.interfaces.len(), self.buffers.iter().sum());
        let budget = self.budget.as_mut().ok_or(NoRoom::Interfaces(0))?;
        Ok(budget.ring(interfaces, taken, wanted)?)
    }

    fn add(&mut self, Captured { sources, interface }: Captured, ring: u64) {
        self.buffers.push(ring * self.shares.len() as u64);
        self.shares.iter_mut().zip(sources).for_each(|(share, source)| share.push(source));
        self.interfaces.push(interface);
    }
}

/// The number that the next of `opened` has, as long as there are numbers.
fn next_id(opened: &Opened) -> Option<InterfaceId> {
    u16::try_from(opened.interfaces.len()).ok().map(InterfaceId)
}

fn open_needed(live: &LivePlan, plan: &SessionPlan, pool: &Pool) -> Result<Opened, Problems> {
    let present = interfaces::present(&live.interfaces)?;
    let (meant, problems) = meant(&live.interfaces, &present);
    for note in interfaces::repeated(&live.interfaces, &present) {
        tracing::info!("{note}");
    }
    let mut problems: Vec<Box<dyn Explain>> = problems.into_iter().map(Into::into).collect();
    if meant.is_empty() {
        // No interface will compile the filter; its mistakes are to be known all the same.
        problems.extend(filter::check(&plan.filter).err().map(Into::into));
    }
    let mut opened = nothing_yet(live, Budget::new(live, plan, pool));
    let (mut down, mut no_room) = (Vec::new(), None);
    for (before, one) in meant.iter().enumerate() {
        let Some(id) = next_id(&opened) else { break };
        let ring = opened.next_ring(meant.len() - before);
        let captured = ring.and_then(|ring| Ok((open_one(live, plan, (id, one), ring)?, ring)));
        match captured {
            Ok((captured, ring)) => opened.add(captured, ring),
            Err(problem @ SourceError::NoRoom(_)) if !live.interfaces.contains(&one.name) => no_room = Some(problem),
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
        problems.extend(down.into_iter().chain(no_room).map(Into::into));
    } else {
        if let Some(no_room) = no_room {
            tracing::warn!("{}", what_and_why(&no_room));
        }
        for problem in down {
            tracing::warn!("{problem}: it is mirrored when it is up");
        }
    }
    Problems::unless_empty(problems)?;
    Ok(opened)
}

fn open_what_is_there(
    live: &LivePlan,
    plan: &SessionPlan,
    pool: &Pool,
    refuses: Refuses<'_>,
) -> Result<Opened, Problems> {
    let present = interfaces::present(&live.interfaces)?;
    let (mut meant, absent) = meant(&live.interfaces, &present);
    for note in interfaces::repeated(&live.interfaces, &present) {
        tracing::info!("{note}");
    }
    let named = absent.iter().filter(|absent| matches!(absent, SourceError::NoSuchInterface { .. })).count();
    for absent in absent {
        tracing::warn!("{absent}: waiting for it");
    }
    meant.retain(|one| one.up);
    if meant.is_empty() {
        filter::check(&plan.filter)?;
    }
    let wanted = meant.len() + named;
    let mut opened = nothing_yet(live, Budget::new(live, plan, pool));
    for (before, one) in meant.iter().enumerate() {
        let Some(id) = next_id(&opened) else { break };
        if let Some(reason) = refuses(&one.name) {
            tracing::warn!("{} is not mirrored: {reason}", one.name);
            continue;
        }
        let ring = match opened.next_ring(wanted - before) {
            Ok(ring) => ring,
            Err(problem) => {
                // No other one finds room either.
                tracing::warn!("{}", what_and_why(&problem));
                break;
            }
        };
        match open_one(live, plan, (id, one), ring) {
            Ok(captured) => opened.add(captured, ring),
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
    (id, name, index): (InterfaceId, &str, Option<Ifindex>),
    buffer: u64,
) -> Result<(Vec<Box<dyn Source>>, Interface), SourceError> {
    let captured_by = |engine, mtu| Interface { name: name.to_owned(), index: None, mtu, engine: Some(engine) };
    // By its index, which no other interface has while it is there.
    let rings = match (plan.engine, index) {
        (Engine::Auto | Engine::Ring, Some(index)) => {
            RingCapture::open(plan, session, (id, name, index), buffer.max(LEAST_RING))?
        }
        _ => None,
    };
    if let Some(rings) = rings {
        let mtu = rings.first().and_then(RingCapture::mtu);
        return Ok((boxed(rings), captured_by(Engine::Ring, mtu)));
    }
    if plan.engine == Engine::Ring {
        return Err(SourceError::NoRing { interface: name.to_owned() });
    }
    let open = |directions, buffer: u64| {
        let captures = Live::open(plan, session, (id, name), directions, buffer.max(LEAST_RING))?;
        if captures.iter().all(|capture| capture.bound_to() == index) {
            Ok(captures)
        } else {
            // libpcap goes by the name, which another interface had meanwhile.
            Err(SourceError::NoSuchInterface { name: name.to_owned(), present: Vec::new() })
        }
    };
    let tell_directions = plan.directions == Directions::InOut && session.needs_direction();
    // Frames of `any` are cooked and tell their direction themselves.
    if !tell_directions || name == ANY {
        let captures = open(plan.directions, buffer)?;
        let mtu = captures.first().and_then(Live::mtu);
        return Ok((boxed(captures), captured_by(Engine::Pcap, mtu)));
    }
    let (received, sent) = (open(Directions::In, buffer / 2)?, open(Directions::Out, buffer / 2)?);
    let mtu = received.first().and_then(Live::mtu);
    // Both groups were joined in the order of the workers: each worker has both directions of its flows.
    let merged =
        received.into_iter().zip(sent).map(|(received, sent)| ByDirection::new(name, [received, sent], plan.delay));
    Ok((boxed(merged.collect::<Result<Vec<_>, _>>()?), captured_by(Engine::Pcap, mtu)))
}

fn boxed<S: Source + 'static>(sources: Vec<S>) -> Vec<Box<dyn Source>> {
    sources.into_iter().map(|source| Box::new(source) as _).collect()
}

/// The number that an interface of this thread's namespace has now; none for `any`.
fn index_of(name: &str) -> Option<Ifindex> {
    nix::net::if_::if_nametoindex(name).ok().and_then(|index| Ifindex::new(index.into()).ok())
}
