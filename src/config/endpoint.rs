//! Tunnel endpoints as URLs: `vxlan://0.0.0.0:4789?vni=42,100-199`, `gre://[::]`, `erspan://192.0.2.1?session=7`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::defaults;
use super::destination_url::{UrlError, authority_and_query, host_and_port, parameters, udp_port};
use super::mistake::closest;
use super::plan::{EndpointPlan, Host, Takes};
use crate::quantity::whole_number;
use crate::wire::decapsulate::Tunnel;
use crate::wire::{hp_erm, jmirror, tzsp};

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not `ENCAPSULATION://ADDRESS`.
    #[error("`{0}` is not a tunnel endpoint: it begins with an encapsulation")]
    NoScheme(String),
    /// An encapsulation that does not exist.
    #[error("there is no encapsulation `{0}`")]
    UnknownScheme(String),
    /// A name instead of an address.
    #[error("`{0}` is not an address of this host")]
    Name(String),
    /// A parameter that endpoints do not have.
    #[error("`{key}` means nothing to an endpoint of {scheme}")]
    Meaningless {
        /// The parameter.
        key: String,
        /// The encapsulation.
        scheme: &'static str,
    },
    /// An id that is none.
    #[error("`{text}` is not a list of ids from 0 to {most}")]
    Ids {
        /// What was written.
        text: String,
        /// The largest id.
        most: u32,
    },
    /// `file:` without a file name.
    #[error("`file:` needs the name of a capture file, or - for standard input")]
    NoFile,
    /// The form of a URL is hurt.
    #[error(transparent)]
    Form(#[from] UrlError),
}

/// The encapsulations that endpoints have, with what selects inside them.
const SCHEMES: [(&str, Takes, Option<&str>, u32); 10] = [
    ("vxlan", Takes::Only(Tunnel::Vxlan), Some("vni"), 0xff_ffff),
    ("geneve", Takes::Only(Tunnel::Geneve), Some("vni"), 0xff_ffff),
    ("gre", Takes::Only(Tunnel::Gre), Some("key"), u32::MAX),
    ("erspan", Takes::AnyErspan, Some("session"), 1023),
    ("erspan1", Takes::Only(Tunnel::Erspan1), None, 0),
    ("erspan2", Takes::Only(Tunnel::Erspan2), Some("session"), 1023),
    ("erspan3", Takes::Only(Tunnel::Erspan3), Some("session"), 1023),
    ("tzsp", Takes::Only(Tunnel::Tzsp), None, 0),
    ("hperm", Takes::Only(Tunnel::HpErm), None, 0),
    ("jmirror", Takes::Only(Tunnel::Jmirror), Some("mirror"), u32::MAX),
];

/// Reads one endpoint.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(text: &str) -> Result<EndpointPlan, EndpointError> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").ok_or_else(|| EndpointError::NoScheme(text.to_owned()))?;
    let known = SCHEMES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(scheme));
    let &(name, takes, id_key, most) = known.ok_or_else(|| EndpointError::UnknownScheme(scheme.to_owned()))?;
    let (authority, query) = authority_and_query(rest)?;
    let (host, port) = host_and_port(name, authority, query)?;
    let Host::Address(address) = host else { return Err(EndpointError::Name(authority.to_owned())) };
    let mut ids = Vec::new();
    for (key, value) in parameters(query)? {
        if Some(key.as_str()) != id_key {
            return Err(EndpointError::Meaningless { key, scheme: name });
        }
        ids = id_list(&value, most).ok_or(EndpointError::Ids { text: value, most })?;
    }
    let standard = match takes {
        Takes::Only(Tunnel::Vxlan) => Some(defaults::VXLAN_PORT),
        Takes::Only(Tunnel::Geneve) => Some(defaults::GENEVE_PORT),
        Takes::Only(Tunnel::Tzsp) => Some(tzsp::PORT),
        Takes::Only(Tunnel::HpErm) => Some(hp_erm::PORT),
        Takes::Only(Tunnel::Jmirror) => Some(jmirror::PORT),
        Takes::Only(_) | Takes::AnyErspan => None,
    };
    let port = udp_port(name, standard, port)?;
    Ok(EndpointPlan { written: text.to_owned(), takes, address, port, ids })
}

/// `42`, `1,2,10-20`, hexadecimal behind `0x`.
fn id_list(text: &str, most: u32) -> Option<Vec<RangeInclusive<u32>>> {
    let number = |text: &str| {
        let number = whole_number(text).and_then(|number| u32::try_from(number).ok());
        number.filter(|&number| number <= most)
    };
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (number(first)?, number(last)?);
        (first <= last).then_some(first..=last)
    };
    text.split(',').map(range).collect()
}

impl EndpointPlan {
    /// Whether `tunnel` with this id is one that the endpoint takes.
    pub fn wants(&self, tunnel: Tunnel, id: Option<u32>) -> bool {
        let is_taken = match self.takes {
            Takes::Only(only) => only == tunnel,
            Takes::AnyErspan => matches!(tunnel, Tunnel::Erspan1 | Tunnel::Erspan2 | Tunnel::Erspan3),
        };
        is_taken && (self.ids.is_empty() || id.is_some_and(|id| self.ids.iter().any(|range| range.contains(&id))))
    }

    /// Whether it receives what is sent to this address.
    pub fn is_at(&self, address: IpAddr) -> bool {
        self.address == address || self.address.is_unspecified() && self.address.is_ipv4() == address.is_ipv4()
    }
}

impl EndpointError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        let names: Vec<&str> = SCHEMES.iter().map(|(name, ..)| *name).collect();
        let all = || format!("there are {}, and file:FILE", names.join(", "));
        match self {
            Self::NoScheme(_) => format!("for example vxlan://0.0.0.0:4789; {}", all()),
            Self::UnknownScheme(scheme) => {
                closest(scheme, &names).map_or_else(all, |near| format!("did you mean {near}://? {}", all()))
            }
            Self::Name(_) => "0.0.0.0 for all of IPv4, [::] for all of IPv6, or one address of this host".to_owned(),
            Self::Meaningless { scheme, .. } => {
                let key = SCHEMES.iter().find(|(name, ..)| name == scheme).and_then(|(_, _, key, _)| *key);
                key.map_or_else(
                    || format!("{scheme} has nothing to select by"),
                    |key| format!("{key} selects, for example {scheme}://0.0.0.0?{key}=7,10-19"),
                )
            }
            Self::Ids { .. } => "for example 7, or 7,10-19".to_owned(),
            Self::NoFile => "for example file:mirror.pcap".to_owned(),
            Self::Form(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_an_endpoint_is_read() {
        let expected = EndpointPlan {
            written: "vxlan://0.0.0.0:8472?vni=42,100-199".into(),
            takes: Takes::Only(Tunnel::Vxlan),
            address: [0, 0, 0, 0].into(),
            port: 8472,
            ids: vec![42..=42, 100..=199],
        };
        assert_eq!(read(" vxlan://0.0.0.0:8472?vni=42,100-199"), Ok(expected));
        let any = read("ERSPAN://[::]").unwrap();
        assert_eq!((any.takes, any.address, any.port), (Takes::AnyErspan, "::".parse().unwrap(), 0));
        assert_eq!(read("geneve://192.0.2.1").unwrap().port, 6081);
        assert_eq!(read("gre://[2001:db8::1]?key=0x10").unwrap().ids, [16..=16]);
    }

    #[test]
    fn an_endpoint_wants_its_encapsulation_and_its_ids() {
        let erspan = read("erspan://0.0.0.0?session=7").unwrap();
        assert!(erspan.wants(Tunnel::Erspan3, Some(7)) && !erspan.wants(Tunnel::Erspan3, Some(8)));
        assert!(!erspan.wants(Tunnel::Erspan1, None) && !erspan.wants(Tunnel::Gre, Some(7)));
        let every = read("gre://0.0.0.0").unwrap();
        assert!(every.wants(Tunnel::Gre, None) && every.wants(Tunnel::Gre, Some(1)));
        assert!(every.is_at([192, 0, 2, 1].into()) && !every.is_at("::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_a_hint() {
        for wrong in [
            "",
            "0.0.0.0",
            "vxlan://",
            "vxlan://sensor.example.net",
            "vxlan://0.0.0.0:0",
            "vxlan://::",
            "gre://0.0.0.0:47",
            "vlan://0.0.0.0",
            "vxlan://0.0.0.0?key=1",
            "erspan1://0.0.0.0?session=1",
            "erspan://0.0.0.0?session=1024",
            "vxlan://0.0.0.0?vni=9-7",
            "vxlan://0.0.0.0?vni=",
            "vxlan://0.0.0.0/path",
        ] {
            let error = read(wrong).unwrap_err();
            assert!(!error.hint().is_empty(), "{wrong}");
        }
    }
}
