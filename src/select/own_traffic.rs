//! Our own tunnels: mirroring them would never end.
//!
//! When the capture sees the interface that the tunnels leave by, each datagram comes back as a frame: it would be
//! mirrored in a datagram, which comes back. ICMP errors close a slower circle: each one, mirrored, asks for the next.
//! Exactly these frames are left out; whatever else the two hosts say to each other stays visible.

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use super::account::{Forgetting, Kind, PathAccount, Sightings, Standing};
use super::all_tunnels::{AllTunnels, Known};
use crate::frame::{InterfaceId, Place};
use crate::kernel::nearby;
use crate::ledger::DropReason;
use crate::quantity::Direction;
use crate::wire::carrier::{Carrier, OwnTunnel};
use crate::wire::layers::{self, Fragment, Ip, IpVersion, Layers, u16_at, u32_at};

/// Recognises our own datagrams, their later fragments, and ICMP errors that quote them.
#[derive(Debug, Default)]
pub struct OwnTraffic {
    paths: Vec<OwnPath>,
    all: AllTunnels,
    /// Which edition of `all` the paths are.
    edition: u64,
    /// Which edition of the interfaces near their routes they know.
    nearby: u64,
    /// What the session's other workers see; `None` where there are none.
    sightings: Option<Sightings>,
    forgetting: Forgetting,
    latest_excess: Option<Excess>,
}

/// Where a frame was seen, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sighting {
    /// What kind of source saw it.
    pub place: Place,
    /// The interface.
    pub interface: InterfaceId,
    /// Which way it went, where known.
    pub direction: Option<Direction>,
}

/// Frames that look like a tunnel's and are more than it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Source address of the tunnel.
    pub local: IpAddr,
    /// Destination address of the tunnel.
    pub remote: IpAddr,
    /// Where the latest was seen.
    pub place: Place,
    /// Which way it went, where known.
    pub direction: Option<Direction>,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.direction {
            Some(Direction::In) => ", received",
            Some(Direction::Out) => ", sent",
            None => "",
        };
        write!(f, "{} -> {} (the latest was seen ", self.local, self.remote)?;
        match self.place {
            Place::Here(link) => match nix::net::if_::if_indextoname(link.value()) {
                Ok(name) => write!(f, "on {}", name.to_string_lossy()),
                Err(_) => write!(f, "on interface number {}", link.value()),
            },
            Place::Elsewhere => f.write_str("in another network namespace"),
            Place::Several | Place::Recorded => f.write_str("on some interface"),
        }?;
        write!(f, "{way})")
    }
}

impl OwnTraffic {
    /// Recognises these tunnels; none are a mirror that only writes files.
    pub fn new(tunnels: Vec<OwnTunnel>) -> Self {
        let known = tunnels.into_iter().map(|tunnel| Known { tunnel, account: None, path: 0 }).collect();
        Self { paths: OwnPath::of(known, &[], Vec::new()), ..Self::default() }
    }

    /// Recognises the tunnels of `all` sessions, also those that come later.
    pub fn following(all: &AllTunnels) -> Self {
        let (nearby, (edition, known, retired)) = (nearby::edition(), all.read_accounts());
        Self { paths: OwnPath::of(known, &retired, Vec::new()), all: all.clone(), edition, nearby, ..Self::default() }
    }

    /// The same for one of several workers of a session, which share `sightings`.
    #[must_use]
    pub fn sharing(self, sightings: Option<Sightings>) -> Self {
        Self { sightings, ..self }
    }

    /// Takes note of tunnels that came or went, of interfaces near their routes, and of what other workers have seen. For
    /// between turns: two atomic loads where nothing happened.
    pub fn catch_up(&mut self) {
        let nearby = nearby::edition();
        if self.all.edition() != self.edition || nearby != self.nearby {
            let (edition, known, retired) = self.all.read_accounts();
            self.paths = OwnPath::of(known, &retired, std::mem::take(&mut self.paths));
            (self.edition, self.nearby) = (edition, nearby);
        }
        self.exchange();
    }

    /// Forgets about once a minute what was sent and not seen, so that nobody can hide in it. For between turns, when all
    /// that was captured has been seen.
    pub fn forget(&mut self, now: Instant) {
        if self.forgetting.is_due(now) {
            self.paths.iter_mut().for_each(|path| path.has_seen = true);
            self.exchange();
            self.paths.iter_mut().for_each(|path| path.account.forget());
        }
    }

    fn exchange(&mut self) {
        let Some(sightings) = &self.sightings else { return };
        for path in &mut self.paths {
            if std::mem::take(&mut path.has_seen) {
                sightings.exchange(path.number, &mut path.account);
            }
        }
    }

    /// The latest frame that was more than was sent, since this was asked last.
    pub fn take_excess(&mut self) -> Option<Excess> {
        self.latest_excess.take()
    }

    /// Whether `frame` is ours, as far as it can be known by its bytes.
    pub fn is_ours(&mut self, frame: &[u8], layers: &Layers) -> bool {
        self.judge(frame, layers, Sighting::default()).is_some()
    }

    /// Why `frame` is to be left out, if it looks like ours. Asked once for each captured frame, in the order of capture: a
    /// first fragment tells which later ones are ours.
    pub fn judge(&mut self, frame: &[u8], layers: &Layers, sighting: Sighting) -> Option<DropReason> {
        let ip = layers.ip.as_ref()?;
        // A datagram is of one path, and an ICMP error of none.
        let addresses = ip.addresses(frame);
        let (standing, at) = match self.paths.iter().position(|path| path.is_between(addresses, ip.protocol)) {
            Some(at) => (self.paths.get_mut(at)?.has_sent(frame, ip, sighting)?, at),
            None => self.is_quoted(frame, ip, sighting)?,
        };
        if standing == Standing::Own {
            return Some(DropReason::OwnTraffic);
        }
        let (Sighting { place, direction, .. }, path) = (sighting, self.paths.get(at)?);
        self.latest_excess = address(&path.local).zip(address(&path.remote)).map(|(local, remote)| Excess {
            local,
            remote,
            place,
            direction,
        });
        Some(DropReason::OwnExcess)
    }

    /// Whether an ICMP error to us quotes a datagram of ours: RFC 792 asks for its IP header and eight bytes, RFC 4443
    /// for as much as fits.
    fn is_quoted(&mut self, frame: &[u8], ip: &Ip, sighting: Sighting) -> Option<(Standing, usize)> {
        if ip.fragment == Fragment::Later || !is_icmp_error(frame, ip) {
            return None;
        }
        // What follows the packet is no part of the quote.
        let frame = frame.get(..ip.end).unwrap_or(frame);
        let quoted = Ip::parse(frame, ip.transport + ICMP_HEADER_LEN)?;
        let (_, addressee) = ip.addresses(frame);
        let is_path =
            |path: &OwnPath| path.local == addressee && path.is_between(quoted.addresses(frame), quoted.protocol);
        let at = self.paths.iter().position(is_path)?;
        let path = self.paths.get_mut(at)?;
        let Sighting { place, interface, direction } = sighting;
        // An error comes by any way that leads here.
        path.is_own(frame, &quoted).then(|| {
            path.has_seen = true;
            (path.account.count(Kind::Quote, place, interface, direction), at)
        })
    }
}

/// What the packets of our tunnels between two addresses look like: hundreds of sessions often have one analyzer, and a
/// frame that is none of theirs is to be told so at once.
#[derive(Debug)]
struct OwnPath {
    /// As in an IP header: 4 or 16 bytes.
    local: Vec<u8>,
    remote: Vec<u8>,
    /// The last four bytes of `remote`.
    remote_end: [u8; 4],
    /// UDP or GRE.
    protocol: u8,
    carriers: Vec<Carrier>,
    fragments: FragmentIds,
    /// Its number in [`AllTunnels`].
    number: u64,
    account: PathAccount,
    /// Whether something of it was seen since the other workers were told.
    has_seen: bool,
}

impl OwnPath {
    /// The paths of the tunnels in `known`; `retired` says what others had sent on each path. What is known of fragments
    /// and of what was seen on paths that were there `before` stays known.
    fn of(known: Vec<Known>, retired: &[(u64, u64)], mut before: Vec<Self>) -> Vec<Self> {
        let (mut paths, mut accounts) = (Vec::<Self>::new(), Vec::new());
        for Known { tunnel: OwnTunnel { local, remote, carrier }, account, path: number } in known {
            let (local, remote, protocol) = (octets(local), octets(remote), carrier.ip_protocol());
            let is_same = |path: &Self| path.local == local && path.remote == remote && path.protocol == protocol;
            if let Some((path, accounts)) = paths.iter_mut().zip(&mut accounts).find(|(path, _)| is_same(path)) {
                path.take_up(carrier);
                Vec::push(accounts, account);
                continue;
            }
            let known = before.iter().position(|path| path.number == number && is_same(path));
            let (fragments, known) = match known.map(|at| before.swap_remove(at)) {
                Some(path) => (path.fragments, path.account),
                None => (FragmentIds::new(), PathAccount::default()),
            };
            let remote_end = remote.last_chunk().copied().unwrap_or_default();
            let carriers = vec![carrier];
            let path = Self {
                local,
                remote,
                remote_end,
                protocol,
                carriers,
                fragments,
                number,
                account: known,
                has_seen: true,
            };
            paths.push(path);
            accounts.push(vec![account]);
        }
        for (path, accounts) in paths.iter_mut().zip(&accounts) {
            let retired = retired.iter().find(|(number, _)| *number == path.number).map_or(0, |&(_, retired)| retired);
            path.account.take_tunnels(accounts, retired);
        }
        paths
    }

    /// Adds another tunnel of the path. UDP to one port is one carrier, however many tunnels there are.
    fn take_up(&mut self, carrier: Carrier) {
        let is_absorbed = self.carriers.iter_mut().any(|known| known.absorb(&carrier));
        if !is_absorbed && !self.carriers.contains(&carrier) {
            self.carriers.push(carrier);
        }
    }

    /// Whether the packet on our path that `frame` carries is ours, or looks so and is more than we sent; takes note of
    /// first fragments. `None`: it is somebody else's.
    fn has_sent(&mut self, frame: &[u8], ip: &Ip, sighting: Sighting) -> Option<Standing> {
        let Sighting { place, interface, direction } = sighting;
        let id = fragment_id(frame, ip);
        if ip.fragment == Fragment::Later {
            let standing = id.and_then(|id| self.fragments.later(id))?;
            return Some(standing).filter(|_| !self.account.is_far(place, direction));
        }
        let is_ours = self.is_own(frame, ip) && !self.account.is_far(place, direction);
        let standing = is_ours.then(|| {
            self.has_seen = true;
            self.account.count(Kind::Datagram, place, interface, direction)
        });
        if let (Fragment::First, Some(id)) = (ip.fragment, id) {
            self.fragments.note(id, standing);
        }
        standing
    }

    /// The question that nearly every frame answers with no. Addresses and protocol are also what, with the
    /// identification, tells fragments of different packets apart (RFC 791 section 3.2, RFC 8200 section 4.5).
    #[inline]
    fn is_between(&self, (source, destination): (&[u8], &[u8]), protocol: u8) -> bool {
        // Four bytes are compared at once, 4 or 16 by a call: and these differ in nearly every frame.
        destination.last_chunk() == Some(&self.remote_end)
            && destination == self.remote
            && source == self.local
            && protocol == self.protocol
    }

    /// Whether a packet on our path is ours.
    fn is_own(&self, bytes: &[u8], ip: &Ip) -> bool {
        match ip.fragment {
            Fragment::Whole | Fragment::First => self.carriers.iter().any(|carrier| carrier.carries(bytes, ip)),
            Fragment::Later => fragment_id(bytes, ip).is_some_and(|id| self.fragments.contains(id)),
        }
    }
}

/// Identifications of recent first fragments that were ours. One slot for each value of the low bits: ids of one path
/// count up (IPv4) or are random (IPv6), and fragments of one packet follow each other closely.
#[derive(Debug)]
struct FragmentIds(Vec<Option<FirstFragment>>);

#[derive(Clone, Copy, Debug)]
struct FirstFragment {
    id: u32,
    standing: Standing,
    /// How many later ones may follow: nobody can hide more of them behind one first fragment.
    left: u16,
}

impl FragmentIds {
    const SLOTS: usize = 1024;
    /// The largest packet in pieces of the smallest MTU is 120 of them, each on several interfaces.
    const MOST_LATER: u16 = 1024;

    fn new() -> Self {
        Self(vec![None; Self::SLOTS])
    }

    /// The last first fragment with an id decides whose the later ones are: a foreign one takes a used id away.
    fn note(&mut self, id: u32, standing: Option<Standing>) {
        let slot = &mut self.0[id as usize % Self::SLOTS];
        if let Some(standing) = standing {
            *slot = Some(FirstFragment { id, standing, left: Self::MOST_LATER });
        } else if slot.is_some_and(|first| first.id == id) {
            *slot = None;
        }
    }

    /// What a later fragment is, by its first one.
    fn later(&mut self, id: u32) -> Option<Standing> {
        let first = self.0[id as usize % Self::SLOTS].as_mut().filter(|first| first.id == id)?;
        first.left = first.left.checked_sub(1)?;
        Some(first.standing)
    }

    fn contains(&self, id: u32) -> bool {
        self.0[id as usize % Self::SLOTS].is_some_and(|first| first.id == id)
    }
}

/// Type, code, checksum, and four bytes whose meaning depends on the type (RFC 792, RFC 4443 section 2.1).
const ICMP_HEADER_LEN: usize = 8;

/// Whether this is an ICMP message that quotes the packet it complains about.
fn is_icmp_error(frame: &[u8], ip: &Ip) -> bool {
    match (ip.protocol, frame.get(ip.transport)) {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
        (layers::ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        (layers::ICMPV6, Some(kind)) => matches!(kind, 1..=4),
        _ => false,
    }
}

/// What names the packet that a fragment belongs to.
fn fragment_id(bytes: &[u8], ip: &Ip) -> Option<u32> {
    match ip.version {
        IpVersion::V4 => u16_at(bytes, ip.start + 4).map(u32::from),
        // The last four bytes of the fragment header, which is the last header before our UDP or GRE.
        IpVersion::V6 => u32_at(bytes, ip.transport - 4),
    }
}

/// An address as an IP header has it.
fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
