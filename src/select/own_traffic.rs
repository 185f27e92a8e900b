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
        let (standing, at) = match self.paths.iter().position(|path| path.is_on_path(frame, ip)) {
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
        let quoted = Ip::parse(frame, ip.transport + ICMP_HEADER_LEN)?;
        let (_, addressee) = ip.addresses(frame);
        let is_path = |path: &OwnPath| path.local == addressee && path.is_on_path(frame, &quoted);
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
    fn is_on_path(&self, bytes: &[u8], ip: &Ip) -> bool {
        let (source, destination) = ip.addresses(bytes);
        // Four bytes are compared at once, 4 or 16 by a call: and these differ in nearly every frame.
        destination.last_chunk() == Some(&self.remote_end)
            && destination == self.remote
            && source == self.local
            && ip.protocol == self.protocol
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
mod tests {
    use super::*;
    use crate::quantity::{ErspanSessionId, GreKey, Mtu, Vni};
    use crate::wire::nesting::testing::outer;
    use crate::wire::outer::{Outer, Transport};
    use proptest::prelude::*;

    const VXLAN: Transport = Transport::Udp { source_port: 50_000, destination_port: 4789, checksum: false };
    const DATAGRAM: &[u8] = &[0; 64];

    /// The two ends of the tunnel, and a stranger.
    #[derive(Clone, Copy, Debug)]
    struct Hosts {
        local: IpAddr,
        remote: IpAddr,
        other: IpAddr,
    }

    fn ipv4() -> Hosts {
        let host = |last| IpAddr::from([192, 0, 2, last]);
        Hosts { local: host(1), remote: host(2), other: host(3) }
    }

    fn ipv6() -> Hosts {
        let host = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        Hosts { local: host(1), remote: host(2), other: host(3) }
    }

    fn own(hosts: Hosts, carrier: Carrier) -> OwnTraffic {
        OwnTraffic::new(vec![OwnTunnel { local: hosts.local, remote: hosts.remote, carrier }])
    }

    fn vxlan() -> Carrier {
        Carrier::Udp { sources: vec![50_000, 50_007], destination: 4789, vnis: vec![Vni::LEAST] }
    }

    fn erspan2(sessions: &[u64]) -> Carrier {
        Carrier::Erspan2 { sessions: sessions.iter().map(|&id| ErspanSessionId::new(id).unwrap()).collect() }
    }

    fn frame(source: IpAddr, destination: IpAddr, transport: Transport, datagram: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        outer(source, destination, transport).write(datagram, &mut frame).unwrap();
        frame
    }

    fn udp(source: IpAddr, destination: IpAddr, source_port: u16, destination_port: u16) -> Vec<u8> {
        frame(source, destination, Transport::Udp { source_port, destination_port, checksum: false }, DATAGRAM)
    }

    /// A GRE packet of our tunnel's hosts that begins with these words.
    fn gre(hosts: Hosts, words: &[u32]) -> Vec<u8> {
        let mut datagram: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        datagram.extend_from_slice(DATAGRAM);
        frame(hosts.local, hosts.remote, Transport::Gre, &datagram)
    }

    fn fragments(hosts: Hosts, transport: Transport, identification: u32, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let outer = Outer { identification, ..outer(hosts.local, hosts.remote, transport) };
        outer
            .write_fragments(datagram, Mtu::new(576).unwrap(), &mut Vec::new(), |frame| frames.push(frame.to_vec()))
            .unwrap();
        frames
    }

    /// An ICMP error of this type, from a stranger, that quotes this much of the IP packet in `quoted`.
    fn icmp_error(to: IpAddr, from: IpAddr, kind: u8, quoted: &[u8], bytes_behind_ip: usize) -> Vec<u8> {
        let header_len = if to.is_ipv4() { 20 } else { 40 };
        let quote = quoted.get(14..14 + header_len + bytes_behind_ip).unwrap_or(&quoted[14..]);
        let message = [&[kind, 3, 0, 0, 0, 0, 0, 0], quote].concat();
        let mut error = frame(from, to, Transport::Gre, &message);
        // The transport protocol, ICMP or ICMPv6; nobody here looks at the header checksum.
        let (place, protocol) = if to.is_ipv4() { (14 + 9, layers::ICMP) } else { (14 + 6, layers::ICMPV6) };
        error[place] = protocol;
        error
    }

    fn is_ours(own: &mut OwnTraffic, frame: &[u8]) -> bool {
        own.is_ours(frame, &Layers::parse(frame))
    }

    #[test]
    fn workers_differ_in_their_source_ports_only() {
        let (local, remote) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let udp =
            |sources: &[u16]| Carrier::Udp { sources: sources.to_vec(), destination: 4789, vnis: vec![Vni::LEAST] };
        let tunnels = |sources: &[u16]| {
            [udp(sources), Carrier::Erspan1].map(|carrier| OwnTunnel { local, remote, carrier }).to_vec()
        };
        let workers = [&[49152, 49153], &[57344, 57345]].map(|sources| tunnels(sources));
        assert_eq!(OwnTunnel::of_all_workers(workers), tunnels(&[49152, 49153, 57344, 57345]));
        assert_eq!(OwnTunnel::of_all_workers([tunnels(&[7])]), tunnels(&[7]));
    }

    #[test]
    fn without_tunnels_nothing_is_ours() {
        let Hosts { local, remote, .. } = ipv4();
        assert!(!is_ours(&mut OwnTraffic::default(), &udp(local, remote, 50_000, 4789)));
    }

    #[test]
    fn udp_is_ours_by_addresses_source_port_and_destination_port() {
        for hosts in [ipv4(), ipv6()] {
            let Hosts { local, remote, other } = hosts;
            let mut own = own(hosts, vxlan());
            assert!(is_ours(&mut own, &udp(local, remote, 50_000, 4789)));
            assert!(is_ours(&mut own, &udp(local, remote, 50_007, 4789)));
            for (visible, why) in [
                (udp(local, remote, 50_001, 4789), "a port between those of our bank"),
                (udp(local, remote, 50_000, 4790), "another destination port"),
                (udp(remote, local, 50_000, 4789), "the other way"),
                (udp(local, other, 50_000, 4789), "another remote"),
                (udp(other, remote, 50_000, 4789), "another local"),
                (frame(local, remote, Transport::Gre, DATAGRAM), "another protocol"),
            ] {
                assert!(!is_ours(&mut own, &visible), "{why}");
            }
        }
    }

    /// A VXLAN device of the kernel may send from any port of `ip_local_port_range`, also from one that a tunnel has bound.
    #[test]
    fn a04_another_vni_between_the_same_ports_is_somebody_elses() {
        for hosts in [ipv4(), ipv6()] {
            let Hosts { local, remote, .. } = hosts;
            let vni = |value| Vni::new(value).unwrap();
            let udp = |source: u16, vnis: &[u64]| Carrier::Udp {
                sources: vec![source],
                destination: 4789,
                vnis: vnis.iter().map(|&value| vni(value)).collect(),
            };
            let with_vni = |value: u8| [&[8, 0, 0, 0, 0, 0, value, 0], DATAGRAM].concat();
            let mut own = own(hosts, udp(50_000, &[7, 8]));
            for (value, ours) in [(7, true), (8, true), (9, false), (0, false)] {
                let datagram = frame(local, remote, VXLAN, &with_vni(value));
                assert_eq!(is_ours(&mut own, &datagram), ours, "VNI {value}");
                let fragments =
                    fragments(hosts, VXLAN, 100 + u32::from(value), &[with_vni(value), vec![0; 1500]].concat());
                assert!(fragments.iter().all(|fragment| is_ours(&mut own, fragment) == ours), "VNI {value}, fragments");
            }
            // The quote of an ICMP error may end before it.
            let datagram = frame(local, remote, VXLAN, &with_vni(9));
            let kind = if local.is_ipv4() { 3 } else { 1 };
            assert!(is_ours(&mut own, &icmp_error(local, remote, kind, &datagram, 8)));
            assert!(!is_ours(&mut own, &icmp_error(local, remote, kind, &datagram, 100)));

            // Tunnels to one port are recognised together.
            let tunnel = |carrier| OwnTunnel { local, remote, carrier };
            let mut both = OwnTraffic::new(vec![tunnel(udp(50_000, &[7])), tunnel(udp(50_000, &[9]))]);
            for (value, ours) in [(7, true), (8, false), (9, true)] {
                assert_eq!(
                    is_ours(&mut both, &frame(local, remote, VXLAN, &with_vni(value))),
                    ours,
                    "VNI {value} of both"
                );
            }
        }
    }

    #[test]
    fn a_datagram_is_ours_behind_any_vlan_tags() {
        let Hosts { local, remote, .. } = ipv4();
        let untagged = udp(local, remote, 50_000, 4789);
        let tagged = [&untagged[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7], &untagged[12..]].concat();
        assert!(is_ours(&mut own(ipv4(), vxlan()), &tagged));
    }

    #[test]
    fn gre_is_ours_by_flags_protocol_type_and_key() {
        let key = |value| GreKey::new(value).unwrap();
        let bare = || Carrier::Gre { keys: None, sequence: false };
        let counted = || Carrier::Gre { keys: None, sequence: true };
        let keyed = || Carrier::Gre { keys: Some(vec![key(5), key(0xffff_ffff)]), sequence: false };
        let erspan3 = || Carrier::Erspan3 { sessions: vec![ErspanSessionId::new(9).unwrap()] };
        let type_ii = |session: u32| vec![0x1000_88be, 1, 0x1000_0000 | session, 0];
        let type_iii = |session: u32| vec![0x1000_22eb, 1, 0x2000_0400 | session, 0, 0x8000];
        for (carrier, ours, words) in [
            (bare(), true, vec![0x0000_6558]),
            (bare(), false, vec![0x1000_6558, 0]),
            (bare(), false, vec![0x2000_6558, 5]),
            (bare(), false, vec![0x0000_88be]),
            (bare(), false, vec![0x0000_0800]),
            (counted(), true, vec![0x1000_6558, 12]),
            (counted(), false, vec![0x0000_6558]),
            (keyed(), true, vec![0x2000_6558, 5]),
            (keyed(), true, vec![0x2000_6558, 0xffff_ffff]),
            (keyed(), false, vec![0x2000_6558, 6]),
            (keyed(), false, vec![0x0000_6558]),
            (keyed(), false, vec![0x3000_6558, 5, 0]),
            (Carrier::Erspan1, true, vec![0x0000_88be]),
            (Carrier::Erspan1, false, type_ii(9)),
            (erspan2(&[8, 9]), true, type_ii(9)),
            (erspan2(&[8, 9]), false, type_ii(10)),
            (erspan2(&[8, 9]), false, type_iii(9)),
            (erspan2(&[8, 9]), false, vec![0x0000_88be]),
            (erspan3(), true, type_iii(9)),
            (erspan3(), false, type_iii(8)),
            (erspan3(), false, type_ii(9)),
        ] {
            for hosts in [ipv4(), ipv6()] {
                let mut own = own(hosts, carrier.clone());
                assert_eq!(is_ours(&mut own, &gre(hosts, &words)), ours, "{carrier:?} {words:x?} {hosts:?}");
            }
        }
    }

    #[test]
    fn later_fragments_belong_to_whom_their_first_belongs() {
        for hosts in [ipv4(), ipv6()] {
            let foreign_udp = Transport::Udp { source_port: 40_000, destination_port: 4789, checksum: false };
            let datagram = vec![0; 1500];
            let mut own = own(hosts, vxlan());
            let ours = fragments(hosts, VXLAN, 7, &datagram);
            let theirs = fragments(hosts, foreign_udp, 8, &datagram);
            assert!(ours.len() >= 3 && theirs.len() >= 3);
            assert!(!is_ours(&mut own, &ours[1]), "nobody knows whose this is before the first fragment");
            // Interleaved, as two senders do; and seen twice, as on a bridge and its port.
            for _ in 0..2 {
                for (our, their) in ours.iter().zip(&theirs) {
                    assert!(is_ours(&mut own, our));
                    assert!(!is_ours(&mut own, their));
                }
            }
            // The same id in another protocol names another packet, and leaves ours alone.
            let gre = fragments(hosts, Transport::Gre, 7, &datagram);
            assert!(gre.iter().all(|fragment| !is_ours(&mut own, fragment)));
            assert!(is_ours(&mut own, &ours[2]));
            // Once the id has come round to somebody else, it is theirs.
            let reused = fragments(hosts, foreign_udp, 7, &datagram);
            assert!(reused.iter().all(|fragment| !is_ours(&mut own, fragment)));
        }
    }

    #[test]
    fn erspan_fragments_are_told_apart_by_the_session_in_the_first() {
        let mut own = own(ipv4(), erspan2(&[9]));
        let datagram = |session: u8| [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, session][..], &[0; 1500]].concat();
        let ours = fragments(ipv4(), Transport::Gre, 1, &datagram(9));
        let theirs = fragments(ipv4(), Transport::Gre, 2, &datagram(10));
        assert!(ours.iter().all(|fragment| is_ours(&mut own, fragment)));
        assert!(theirs.iter().all(|fragment| !is_ours(&mut own, fragment)));
    }

    #[test]
    fn icmp_errors_are_ours_when_they_quote_a_datagram_of_ours_to_us() {
        for (hosts, errors, echo) in [(ipv4(), &[3, 4, 5, 11, 12][..], 8), (ipv6(), &[1, 2, 3, 4][..], 128)] {
            let Hosts { local, remote, other } = hosts;
            let mut own = own(hosts, vxlan());
            let datagram = udp(local, remote, 50_000, 4789);
            for &kind in errors {
                for from in [remote, other] {
                    assert!(is_ours(&mut own, &icmp_error(local, from, kind, &datagram, 8)));
                    assert!(is_ours(&mut own, &icmp_error(local, from, kind, &datagram, 500)));
                }
            }
            let foreign = udp(local, remote, 40_000, 4789);
            let answer = udp(remote, local, 4789, 50_000);
            for (visible, why) in [
                (icmp_error(local, remote, errors[0], &foreign, 8), "quotes another datagram"),
                (icmp_error(local, remote, errors[0], &answer, 8), "quotes the other way"),
                (icmp_error(other, remote, errors[0], &datagram, 8), "is for somebody else"),
                (icmp_error(local, remote, echo, &datagram, 8), "is no error"),
                (icmp_error(local, remote, errors[0], &datagram, 3), "quotes too little to tell"),
            ] {
                assert!(!is_ours(&mut own, &visible), "{why}");
            }
        }
    }

    #[test]
    fn a_later_fragment_of_a_ping_is_no_icmp_error_whatever_it_carries() {
        let Hosts { local, remote, .. } = ipv4();
        let mut fragment = icmp_error(local, remote, 3, &udp(local, remote, 50_000, 4789), 8);
        fragment[14 + 7] = 1;
        assert!(!is_ours(&mut own(ipv4(), vxlan()), &fragment));
    }

    #[test]
    fn a_quote_that_ends_before_the_session_id_is_ours() {
        let mut own = own(ipv4(), erspan2(&[9]));
        let Hosts { local, remote, .. } = ipv4();
        let ours = gre(ipv4(), &[0x1000_88be, 1, 0x1000_0009, 0]);
        let theirs = gre(ipv4(), &[0x1000_88be, 1, 0x1000_000a, 0]);
        assert!(is_ours(&mut own, &icmp_error(local, remote, 3, &ours, 8)));
        assert!(!is_ours(&mut own, &icmp_error(local, remote, 3, &theirs, 12)));
    }

    #[test]
    fn icmp_errors_may_quote_a_later_fragment() {
        for (hosts, kind) in [(ipv4(), 11), (ipv6(), 3)] {
            let mut own = own(hosts, vxlan());
            let fragments = fragments(hosts, VXLAN, 7, &[0; 1500]);
            let error = icmp_error(hosts.local, hosts.remote, kind, &fragments[1], 16);
            assert!(!is_ours(&mut own, &error));
            assert!(is_ours(&mut own, &fragments[0]));
            assert!(is_ours(&mut own, &error));
        }
    }

    #[test]
    fn each_of_several_tunnels_is_recognised() {
        let tunnel = |hosts: Hosts, carrier| OwnTunnel { local: hosts.local, remote: hosts.remote, carrier };
        let mut own =
            OwnTraffic::new(vec![tunnel(ipv4(), vxlan()), tunnel(ipv4(), Carrier::Erspan1), tunnel(ipv6(), vxlan())]);
        for hosts in [ipv4(), ipv6()] {
            assert!(is_ours(&mut own, &udp(hosts.local, hosts.remote, 50_007, 4789)));
        }
        assert!(is_ours(&mut own, &gre(ipv4(), &[0x0000_88be])));
        assert!(!is_ours(&mut own, &gre(ipv6(), &[0x0000_88be])));
    }

    #[test]
    fn tunnels_of_other_sessions_are_ours_from_the_next_turn_on() {
        let hosts = ipv4();
        let tunnel = |carrier| OwnTunnel { local: hosts.local, remote: hosts.remote, carrier };
        let all = AllTunnels::default();
        let _first = all.enter(vec![tunnel(vxlan())]);
        let mut own = OwnTraffic::following(&all);
        let fragments = fragments(hosts, VXLAN, 77, &[0; 1000]);
        assert!(is_ours(&mut own, &fragments[0]));

        let other = Carrier::Udp { sources: vec![51_000], destination: 4789, vnis: vec![Vni::LEAST] };
        let second = all.enter(vec![tunnel(other), tunnel(Carrier::Erspan1)]);
        let theirs = [udp(hosts.local, hosts.remote, 51_000, 4789), gre(hosts, &[0x0000_88be])];
        assert!(theirs.iter().all(|frame| !is_ours(&mut own, frame)));
        own.catch_up();
        assert!(theirs.iter().all(|frame| is_ours(&mut own, frame)));
        assert!(is_ours(&mut own, &fragments[1]), "what was known of fragments stays known");
        assert_eq!(own.paths.iter().map(|path| path.carriers.len()).collect::<Vec<_>>(), [1, 1]);

        drop(second);
        own.catch_up();
        assert!(theirs.iter().all(|frame| !is_ours(&mut own, frame)));
        assert!(is_ours(&mut own, &udp(hosts.local, hosts.remote, 50_000, 4789)));
    }

    proptest! {
        /// Hostile bytes on our path, whole and cut anywhere: an answer, never a panic.
        #[test]
        fn any_bytes_get_an_answer(
            v6: bool,
            protocol in prop_oneof![Just(layers::UDP), Just(layers::GRE), Just(layers::ICMP), Just(layers::ICMPV6), Just(44)],
            from_remote: bool,
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let hosts = if v6 { ipv6() } else { ipv4() };
            let (source, destination) =
                if from_remote { (hosts.remote, hosts.local) } else { (hosts.local, hosts.remote) };
            let mut hostile = frame(source, destination, Transport::Gre, &bytes);
            hostile[if v6 { 14 + 6 } else { 14 + 9 }] = protocol;
            let mut own = own(hosts, vxlan());
            for end in 0..=hostile.len() {
                is_ours(&mut own, &hostile[..end]);
            }
        }
    }
}
