//! One destination: URL parameters, keys of its table and flags for all are the same keys, read here once.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;

use super::defaults;
use super::destination_url::{DestinationUrl, Kind, Scheme};
use super::keys::{Keys, Mistakes};
use super::local_end;
use super::mistake::{Mistake, What, is_name};
use super::plan::{DestinationPlan, Encapsulation, End, Fit, Gso, Host, Ids, TunnelPlan, UdpChecksum};
use super::words;
use super::written::{Origin, Table, Value, Written};
use crate::quantity::{Dscp, ErspanIndex, PortRange, QuantityError, SocketMark, Ttl};

/// A destination as written, with what was written for all of them.
#[derive(Debug)]
pub(super) struct One<'a> {
    /// The name of its table.
    pub name: &'a str,
    /// Its own table.
    pub own: &'a Keys<'a>,
    /// Flags for every destination.
    pub for_every: &'a Table,
    /// Interfaces that need an id.
    pub interfaces: &'a [String],
    /// What the sockets of a tunnel are marked with.
    pub mark: Option<SocketMark>,
}

/// Resolves one destination and notes in `used` which of the flags for all it had a use for.
pub(super) fn resolve(one: &One<'_>, used: &mut HashSet<String>, mistakes: &mut Mistakes) -> Option<DestinationPlan> {
    let own = one.own;
    if own.written("to").is_none() {
        mistakes.push(own.mistake("to", What::Missing { key: "to", to: format!("destination {}", one.name) }));
        return None;
    }
    let to = own.word("to", mistakes)?;
    let found = mistakes.len();
    let url: DestinationUrl = own.read("to", mistakes, str::parse)?;
    let table = merged(one, &url, used, mistakes);
    let origin = own.origin("to").map(in_url);
    let keys = own.replaced(&table, origin.as_ref());
    only(&keys, url.kind(), mistakes);
    let weight = keys.read("weight", mistakes, str::parse).unwrap_or_default();
    let name = keys.read("name", mistakes, name).unwrap_or_else(|| one.name.to_owned());
    let end = match url {
        DestinationUrl::Tunnel { scheme, host, port, .. } => {
            End::Tunnel(tunnel(&keys, one, scheme, (host, port), mistakes)?)
        }
        DestinationUrl::Tap { device, .. } => End::Tap(local_end::tap(&keys, device, mistakes)),
        DestinationUrl::File { file, .. } => End::File(local_end::capture_file(&keys, file, mistakes)),
    };
    (mistakes.len() == found).then(|| DestinationPlan { name, to: to.to_owned(), weight, end })
}

/// The keys of one destination out of their three places. A flag is the stronger layer over a key of a file's table, as over
/// every key of a file. A parameter of a URL belongs to the destination's name, which the ledger and every message show: what
/// contradicts it, a key beside it or a flag, is a mistake.
fn merged(one: &One<'_>, url: &DestinationUrl, used: &mut HashSet<String>, mistakes: &mut Mistakes) -> Table {
    let mut keys = one.own.as_table().clone();
    let Some(to) = keys.shift_remove("to") else { return keys };
    for (key, value) in url.parameters() {
        if keys.contains_key(key) {
            mistakes.push(one.own.mistake(key, What::Twice { key: key.clone() }));
        }
        keys.insert(key.clone(), Written { value: Value::Word(value.clone()), origin: to.origin().map(in_url) });
    }
    let has = url.kind().keys();
    for (key, flag) in one.for_every {
        // One key, two flags: a TAP device has an MTU of its own, a tunnel that of its path.
        let meant = match (key.as_str(), url.kind()) {
            ("tap_mtu", Kind::Tap) | ("path_mtu", Kind::Tunnel(_)) => "mtu",
            (key, _) => key,
        };
        if !has.contains(&meant) {
            continue;
        }
        used.insert(key.clone());
        match keys.get(meant) {
            Some(known) if matches!(known.origin(), Some(Origin::Url(_))) => {
                // What stands in the URL and beside it has been told.
                let is_alone = !one.own.as_table().contains_key(meant);
                if is_alone && known.value != flag.value {
                    let (flag, url) = (text(flag), text(known));
                    let contradiction = What::Contradiction { key: meant.to_owned(), flag, url };
                    mistakes.push(Mistake::at(contradiction, known.origin(), one.own.path(meant)));
                }
            }
            _ => {
                keys.insert(meant.to_owned(), flag.clone());
            }
        }
    }
    keys
}

/// What was written: a flag with its value, or the value.
fn text(written: &Written) -> String {
    match (written.origin(), &written.value) {
        (Some(Origin::Flag(flag)), _) => flag.clone(),
        (_, Value::Word(word)) => word.clone(),
        _ => String::new(),
    }
}

fn in_url(origin: &Origin) -> Origin {
    Origin::Url(Box::new(origin.clone()))
}

/// Refuses keys that do not exist, and keys of other kinds of destination.
fn only(keys: &Keys<'_>, kind: Kind, mistakes: &mut Mistakes) {
    let known = kind.keys();
    for key in keys.as_table().keys().filter(|key| !known.contains(&key.as_str()) && *key != "name") {
        let of_another = Kind::all().any(|other| other.keys().contains(&key.as_str()));
        mistakes.push(keys.mistake(
            key,
            if of_another {
                What::Meaningless { key: key.clone(), kind }
            } else {
                What::UnknownKey { key: key.clone(), known: known.clone() }
            },
        ));
    }
}

fn name(text: &str) -> Result<String, What> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(What::Name(text.to_owned())) }
}

fn tunnel(
    keys: &Keys<'_>,
    one: &One<'_>,
    scheme: Scheme,
    (host, port): (Host, u16),
    mistakes: &mut Mistakes,
) -> Option<TunnelPlan> {
    let ids = ReadIds { keys, scheme, interfaces: one.interfaces };
    let encapsulation = encapsulation(&ids, port, mistakes);
    let source = keys.read("source", mistakes, address);
    if let (Some(source), Host::Address(host)) = (source, &host)
        && source.is_ipv4() != host.is_ipv4()
    {
        mistakes.push(keys.mistake("source", What::Family { address: source, host: *host }));
    }
    let gso = keys.read("gso", mistakes, str::parse).unwrap_or_default();
    let udp_checksum = keys.read("udp_checksum", mistakes, str::parse).unwrap_or_default();
    if gso == Gso::On && udp_checksum == UdpChecksum::Off {
        mistakes.push(keys.mistake("gso", What::GsoWithoutChecksum));
    }
    let fit = keys.read("fit", mistakes, str::parse).unwrap_or_default();
    let transmit = keys.read("transmit", mistakes, words::transmit).unwrap_or_default();
    if transmit.is_xdp() && fit == Fit::Fragment {
        mistakes.push(keys.mistake("transmit", What::XdpWithFragments));
    }
    if transmit.is_xdp() && gso == Gso::On {
        mistakes.push(keys.mistake("transmit", What::XdpWithGso));
    }
    Some(TunnelPlan {
        fit,
        analyzer: keys.read("analyzer", mistakes, str::parse),
        source,
        device: keys.read("device", mistakes, device),
        ports: keys.read("ports", mistakes, str::parse).unwrap_or(PortRange::DYNAMIC),
        dscp: keys.read("dscp", mistakes, str::parse).unwrap_or(Dscp::DEFAULT),
        ttl: keys.read("ttl", mistakes, str::parse).unwrap_or(Ttl::DEFAULT),
        udp_checksum,
        gso,
        transmit,
        probe: keys.read("probe", mistakes, words::probe).unwrap_or_default(),
        mtu: keys.read("mtu", mistakes, words::path_mtu),
        mtu_floor: keys.read("mtu_floor", mistakes, words::path_mtu).unwrap_or(defaults::MTU_FLOOR),
        resolve: keys.read("resolve", mistakes, words::resolve).unwrap_or(Some(defaults::RESOLVE)),
        mark: one.mark,
        encapsulation: encapsulation?,
        host,
    })
}

fn encapsulation(ids: &ReadIds<'_>, port: u16, mistakes: &mut Mistakes) -> Option<Encapsulation> {
    let keys = ids.keys;
    Some(match ids.scheme {
        Scheme::Vxlan => Encapsulation::Vxlan { vni: ids.needed("vni", "vni_out", mistakes)?, port },
        Scheme::Geneve => Encapsulation::Geneve { vni: ids.needed("vni", "vni_out", mistakes)?, port },
        Scheme::Gre => {
            let sequence = keys.read("seq", mistakes, words::switch).unwrap_or(defaults::GRE_SEQUENCE);
            let has_key = keys.written("key").is_some() || keys.written("key_out").is_some();
            let key = if has_key { Some(ids.needed("key", "key_out", mistakes)?) } else { None };
            Encapsulation::Gre { key, sequence }
        }
        Scheme::Erspan1 => Encapsulation::Erspan1,
        Scheme::Erspan2 => {
            let index = keys.read("index", mistakes, str::parse::<ErspanIndex>);
            let session = ids.needed("session", "session_out", mistakes)?;
            Encapsulation::Erspan2 { session, index: index.unwrap_or(defaults::ERSPAN_INDEX) }
        }
        Scheme::Erspan3 => Encapsulation::Erspan3 { session: ids.needed("session", "session_out", mistakes)? },
    })
}

/// Reads the ids that keep several taps apart.
#[derive(Debug)]
struct ReadIds<'a> {
    keys: &'a Keys<'a>,
    scheme: Scheme,
    interfaces: &'a [String],
}

impl ReadIds<'_> {
    /// The ids behind `key`, which must be there, and behind `out` for frames that went out.
    fn needed<T>(&self, key: &'static str, out: &'static str, mistakes: &mut Mistakes) -> Option<Ids<T>>
    where
        T: FromStr<Err = QuantityError> + Copy,
    {
        if self.keys.written(key).is_none() {
            mistakes.push(self.keys.mistake(key, What::Missing { key, to: self.scheme.to_string() }));
            return None;
        }
        let out_by_interface = match self.keys.written(out) {
            Some(written) => self.by_interface(out, written, mistakes),
            None => Some(Vec::new()),
        };
        let by_interface = self.keys.written(key).and_then(|written| self.by_interface(key, written, mistakes));
        let ids = Ids { by_interface: by_interface?, out_by_interface: out_by_interface? };
        for interface in self.interfaces.iter().filter(|interface| ids.resolve(interface, None).is_none()) {
            mistakes.push(self.keys.mistake(key, What::Uncovered { interface: interface.clone(), key }));
        }
        Some(ids)
    }

    /// `42`, `eth0:10,veth*:11`, or a table `{ eth0 = 10, "veth*" = 11 }`.
    fn by_interface<T>(&self, key: &'static str, written: &Written, mistakes: &mut Mistakes) -> Option<Vec<(String, T)>>
    where
        T: FromStr<Err = QuantityError>,
    {
        let Some(pairs) = pairs(written) else {
            let expected = "a number, or a table of interfaces and numbers";
            mistakes.push(self.keys.mistake(key, What::Shape { key: key.to_owned(), expected }));
            return None;
        };
        let found = mistakes.len();
        let mut ids = Vec::new();
        for (pattern, id, origin) in pairs {
            let wrong = |what| Mistake::at(what, origin.or(self.keys.origin(key)), self.keys.path(key));
            if pattern.is_empty() || glob::Pattern::new(pattern).is_err() {
                mistakes.push(wrong(What::Pattern { pattern: pattern.to_owned() }));
            }
            match id.parse() {
                Ok(id) => ids.push((pattern.to_owned(), id)),
                Err(error) => mistakes.push(wrong(What::Quantity(error))),
            }
        }
        (mistakes.len() == found).then_some(ids)
    }
}

/// Patterns of interface names with the id written for them; a plain number is for all.
fn pairs(written: &Written) -> Option<Vec<(&str, &str, Option<&Origin>)>> {
    match &written.value {
        Value::Word(word) if word.contains(':') => {
            let pairs = word.split(',').map(str::trim).map(|pair| pair.rsplit_once(':').unwrap_or(("*", pair)));
            Some(pairs.map(|(pattern, id)| (pattern, id, None)).collect())
        }
        Value::Word(word) => Some(vec![("*", word.as_str(), None)]),
        Value::Table(table) => table
            .iter()
            .map(|(pattern, id)| match &id.value {
                Value::Word(word) => Some((pattern.as_str(), word.as_str(), id.origin())),
                Value::List(_) | Value::Table(_) => None,
            })
            .collect(),
        Value::List(_) => None,
    }
}

fn address(text: &str) -> Result<IpAddr, QuantityError> {
    text.parse().map_err(|_| words::unreadable("source address", text, "an IP address of this host"))
}

fn device(text: &str) -> Result<String, QuantityError> {
    // The kernel's limit: IFNAMSIZ, with the final zero.
    if (1..=15).contains(&text.len()) && !text.contains(['/', ' ']) {
        Ok(text.to_owned())
    } else {
        Err(words::unreadable("interface name", text, "one of `ip link`"))
    }
}
