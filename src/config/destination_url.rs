//! Destinations as URLs: `vxlan://192.0.2.10:4789?vni=42`, `erspan2://[2001:db8::1]?session=7&fit=drop`,
//! `tap:ids0?mtu=9000`, `pcap:FILE?rotate_size=100MiB`.
//!
//! Only the form is read here; what the parameters mean is the same as for the keys of the configuration file.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::defaults;
use super::mistake::closest;
use super::plan::{ANY, FilePath, Host};
use super::words::NoFileName;

/// A destination as written, with its parts told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationUrl {
    /// A tunnel.
    Tunnel {
        /// The encapsulation.
        scheme: Scheme,
        /// The analyzer.
        host: Host,
        /// UDP destination port: the scheme's own unless given, 0 for GRE and ERSPAN, which have none.
        port: u16,
        /// The rest: keys and values in the order of the URL.
        parameters: Vec<(String, String)>,
    },
    /// A TAP device of this host.
    Tap {
        /// Its name.
        device: String,
        /// Keys and values in the order of the URL.
        parameters: Vec<(String, String)>,
    },
    /// A capture file of inner frames.
    File {
        /// Where it is written.
        file: FilePath,
        /// Keys and values in the order of the URL.
        parameters: Vec<(String, String)>,
    },
}

/// What a destination is: the word that its URL begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tunnel of this encapsulation.
    Tunnel(Scheme),
    /// `tap`
    Tap,
    /// `pcap`
    File,
}

/// The encapsulations, as schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `vxlan`
    Vxlan,
    /// `gre`
    Gre,
    /// `geneve`
    Geneve,
    /// `erspan1`
    Erspan1,
    /// `erspan2`
    Erspan2,
    /// `erspan3`
    Erspan3,
}

/// Why a text is no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Nothing in front of an address.
    #[error("`{0}` is not a destination: the encapsulation is missing")]
    NoScheme(String),
    /// A scheme that does not exist.
    #[error("there is no encapsulation `{0}`")]
    UnknownScheme(String),
    /// `erspan:` says which type is received, not which is sent.
    #[error("`erspan` does not say which ERSPAN is sent")]
    AnyErspan(String),
    /// A name that no interface can have, or that stands for several.
    #[error("`{0}` cannot be the name of a TAP device")]
    BadDevice(String),
    /// No host.
    #[error("the address behind {0}:// is missing")]
    NoHost(&'static str),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets in a URL")]
    BareIpv6 {
        /// The URL with brackets.
        corrected: String,
    },
    /// A host that is neither address nor name.
    #[error("`{0}` is neither an IP address nor a host name")]
    BadHost(String),
    /// `0.0.0.0` or `[::]`.
    #[error("{0} is nobody's address: a mirror needs the analyzer's own")]
    Unspecified(IpAddr),
    /// A port that is not from 1 to 65535.
    #[error("`{0}` is not a UDP port: it goes from 1 to 65535")]
    BadPort(String),
    /// A port where the protocol has none.
    #[error("{0} has no ports: it is IP protocol 47")]
    PortlessScheme(&'static str),
    /// A path, user or fragment.
    #[error("`{0}` has no meaning here")]
    Extra(String),
    /// A parameter without `=`.
    #[error("the parameter `{0}` has no value")]
    NoValue(String),
    /// A parameter that is there twice.
    #[error("the parameter `{0}` is given twice")]
    Repeated(String),
    /// A local end without a file name.
    #[error("`pcap:` needs a file name, or - for standard output")]
    NoFile,
}

impl FromStr for DestinationUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        if let Some(local) = text.strip_prefix("pcap:") {
            let (file, query) = local.split_once('?').unwrap_or((local, ""));
            let file = percent_decoded(file).parse().map_err(|NoFileName| UrlError::NoFile)?;
            return Ok(Self::File { file, parameters: parameters(query)? });
        }
        if let Some(local) = text.strip_prefix("tap:") {
            let (device, query) = local.split_once('?').unwrap_or((local, ""));
            return Ok(Self::Tap { device: device_name(device)?, parameters: parameters(query)? });
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UrlError::NoScheme(text.to_owned()))?;
        let scheme = match Scheme::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(scheme)) {
            Some(&known) => known,
            None if scheme == "erspan" => return Err(UrlError::AnyErspan(rest.to_owned())),
            None => return Err(UrlError::UnknownScheme(scheme.to_owned())),
        };
        let (authority, query) = authority_and_query(rest)?;
        let (host, port) = host_and_port(scheme.name(), authority, query)?;
        if let Host::Address(address) = host
            && address.is_unspecified()
        {
            return Err(UrlError::Unspecified(address));
        }
        let port = udp_port(scheme.name(), scheme.default_port(), port)?;
        Ok(Self::Tunnel { scheme, host, port, parameters: parameters(query)? })
    }
}

/// Tells the two parts behind `://` from each other.
pub(super) fn authority_and_query(rest: &str) -> Result<(&str, &str), UrlError> {
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    match authority.find(['/', '#', '@']) {
        Some(extra) => Err(UrlError::Extra(authority.get(extra..).unwrap_or_default().to_owned())),
        None => Ok((authority, query)),
    }
}

/// A name that the kernel gives a device as it is (`dev_valid_name` in net/core/dev.c; `%` makes it choose one), and
/// that is not a word for several interfaces: the settings of `all` and `default` are everybody's.
fn device_name(text: &str) -> Result<String, UrlError> {
    let characters = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    let is_taken = matches!(text, "." | ".." | "all" | "default" | ANY);
    // The kernel's limit: IFNAMSIZ, with the final zero.
    if (1..=15).contains(&text.len()) && characters && !is_taken {
        Ok(text.to_owned())
    } else {
        Err(UrlError::BadDevice(text.to_owned()))
    }
}

/// Tells the host from the text behind its colon.
pub(super) fn host_and_port<'a>(
    scheme: &'static str,
    authority: &'a str,
    query: &str,
) -> Result<(Host, Option<&'a str>), UrlError> {
    if let Some((address, rest)) = authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| UrlError::BadHost(address.to_owned()))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(UrlError::BadHost(authority.to_owned())),
        };
        return Ok((Host::Address(address.into()), port));
    }
    if authority.starts_with('[') {
        return Err(UrlError::BadHost(authority.to_owned())); // never closed
    }
    if authority.parse::<Ipv6Addr>().is_ok() {
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        return Err(UrlError::BareIpv6 { corrected: format!("{scheme}://[{authority}]{query}") });
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(UrlError::NoHost(scheme));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((Host::Address(address), port));
    }
    // A name of digits and dots alone is a mistyped address.
    let is_name = host.len() <= 253
        && host.bytes().any(|byte| byte.is_ascii_alphabetic())
        && host.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if is_name { Ok((Host::Name(host.to_owned()), port)) } else { Err(UrlError::BadHost(host.to_owned())) }
}

/// The port that was written, or the `standard` one; 0 where there are no ports.
pub(super) fn udp_port(scheme: &'static str, standard: Option<u16>, written: Option<&str>) -> Result<u16, UrlError> {
    match (standard, written) {
        (standard, None) => Ok(standard.unwrap_or(0)),
        (None, Some(_)) => Err(UrlError::PortlessScheme(scheme)),
        (Some(_), Some(port)) => match port.parse() {
            Ok(0) | Err(_) => Err(UrlError::BadPort(port.to_owned())),
            Ok(port) => Ok(port),
        },
    }
}

pub(super) fn parameters(query: &str) -> Result<Vec<(String, String)>, UrlError> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| UrlError::NoValue(pair.to_owned()))?;
        // Flags and Linux users write `udp-checksum`, files `udp_checksum`: both are the same key.
        let key = key.replace('-', "_");
        if parameters.iter().any(|(known, _)| *known == key) {
            return Err(UrlError::Repeated(key));
        }
        parameters.push((key, percent_decoded(value)));
    }
    Ok(parameters)
}

/// `%26` is `&` (RFC 3986 section 2.1): for file names. A lone `%` stays.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let decoded = match (first, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = decoded.unwrap_or((*first, tail));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl Scheme {
    /// Every scheme, as messages list them.
    pub const ALL: &'static [Self] =
        &[Self::Vxlan, Self::Gre, Self::Geneve, Self::Erspan1, Self::Erspan2, Self::Erspan3];

    /// The word before `://`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Gre => "gre",
            Self::Geneve => "geneve",
            Self::Erspan1 => "erspan1",
            Self::Erspan2 => "erspan2",
            Self::Erspan3 => "erspan3",
        }
    }

    /// UDP port of the protocol, where it has one.
    const fn default_port(self) -> Option<u16> {
        match self {
            Self::Vxlan => Some(defaults::VXLAN_PORT),
            Self::Geneve => Some(defaults::GENEVE_PORT),
            Self::Gre | Self::Erspan1 | Self::Erspan2 | Self::Erspan3 => None,
        }
    }

    /// Every key that means something to it: as URL parameter, in the file, and as a flag.
    pub fn keys(self) -> Vec<&'static str> {
        const ALL: &[&str] = &[
            "fit",
            "analyzer",
            "transmit",
            "source",
            "device",
            "dscp",
            "ttl",
            "weight",
            "probe",
            "resolve",
            "mtu",
            "mtu_floor",
        ];
        let own: &[&str] = match self {
            Self::Vxlan | Self::Geneve => &["vni", "vni_out", "udp_checksum", "gso", "ports"],
            Self::Gre => &["key", "key_out", "seq"],
            Self::Erspan1 => &[],
            Self::Erspan2 => &["session", "session_out", "index"],
            Self::Erspan3 => &["session", "session_out"],
        };
        [own, ALL].concat()
    }
}

impl DestinationUrl {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Tunnel { scheme, .. } => Kind::Tunnel(*scheme),
            Self::Tap { .. } => Kind::Tap,
            Self::File { .. } => Kind::File,
        }
    }

    /// Keys and values in the order of the URL.
    pub fn parameters(&self) -> &[(String, String)] {
        let (Self::Tunnel { parameters, .. } | Self::Tap { parameters, .. } | Self::File { parameters, .. }) = self;
        parameters
    }
}

impl Kind {
    /// Every kind of destination.
    pub fn all() -> impl Iterator<Item = Self> {
        Scheme::ALL.iter().map(|&scheme| Self::Tunnel(scheme)).chain([Self::Tap, Self::File])
    }

    /// Every key that means something to it: as URL parameter, in the file, and as a flag.
    pub fn keys(self) -> Vec<&'static str> {
        match self {
            Self::Tunnel(scheme) => scheme.keys(),
            Self::Tap => vec!["mtu", "owner", "weight"],
            Self::File => vec!["rotate_size", "rotate_time", "keep", "sync", "mode", "weight"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel(scheme) => scheme.fmt(f),
            Self::Tap => f.write_str("a TAP device"),
            Self::File => f.write_str("a capture file"),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl UrlError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        let all = || {
            let schemes: Vec<_> = Scheme::ALL.iter().map(|scheme| scheme.name()).collect();
            format!("there are {}, tap:NAME and pcap:FILE", schemes.join(", "))
        };
        match self {
            Self::NoScheme(text) => format!("for example {}; {}", with_scheme(text), all()),
            Self::UnknownScheme(scheme) => {
                let names: Vec<_> = Scheme::ALL.iter().map(|scheme| scheme.name()).collect();
                closest(scheme, &names).map_or_else(all, |near| format!("did you mean {near}://? {}", all()))
            }
            Self::AnyErspan(rest) => format!("most analyzers take type II: erspan2://{rest}"),
            Self::BadDevice(_) => "1 to 15 letters, digits, - and _, for example tap:ids0".to_owned(),
            Self::NoHost(scheme) => format!("for example {scheme}://192.0.2.10"),
            Self::BareIpv6 { corrected } => format!("write {corrected}"),
            Self::BadHost(host) => match host.split_once('%') {
                Some((_, zone)) => format!("the link of a link-local address is a key of its own: device={zone}"),
                None => "192.0.2.10, [2001:db8::10] or ids.example.net".to_owned(),
            },
            Self::Unspecified(_) => "give the address on which the analyzer listens".to_owned(),
            Self::BadPort(_) => "leave the port out for the standard one".to_owned(),
            Self::PortlessScheme(_) => "leave out the colon and what follows it".to_owned(),
            Self::Extra(_) => "the form is ENCAPSULATION://HOST:PORT?KEY=VALUE&KEY=VALUE".to_owned(),
            Self::NoValue(key) => format!("write {key}=VALUE; in a shell the URL stands in quotes"),
            Self::Repeated(key) => format!("leave `{key}` out once; several taps: {key}=eth0:10,eth1:11"),
            Self::NoFile => "for example pcap:mirror.pcapng; a ? in the name is written %3f".to_owned(),
        }
    }
}

/// The destination that somebody probably meant who left out `://` or all before it.
fn with_scheme(text: &str) -> String {
    let scheme = Scheme::ALL.iter().find_map(|scheme| {
        let rest = text.strip_prefix(scheme.name())?;
        let host = rest.trim_start_matches([':', '/']);
        (rest.len() > host.len()).then(|| format!("{scheme}://{host}"))
    });
    let is_file = text == "-" || text.contains('/') || text.contains(".pcap");
    match (scheme, text.parse::<Ipv6Addr>()) {
        (Some(url), _) => url,
        (None, Ok(address)) => format!("vxlan://[{address}]?vni=42"),
        _ if text.is_empty() => "vxlan://192.0.2.10?vni=42".to_owned(),
        _ if is_file => format!("pcap:{text}"),
        _ if text.contains('?') => format!("vxlan://{text}"),
        _ => format!("vxlan://{text}?vni=42"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        let DestinationUrl::Tunnel { host, .. } = text.parse().unwrap() else { panic!("{text} is no tunnel") };
        host
    }

    #[test]
    fn each_part_is_told_apart() {
        assert_eq!(
            "vxlan://[2001:db8::1]:4790?vni=7&udp-checksum=on".parse(),
            Ok(DestinationUrl::Tunnel {
                scheme: Scheme::Vxlan,
                host: Host::Address("2001:db8::1".parse().unwrap()),
                port: 4790,
                parameters: vec![("vni".into(), "7".into()), ("udp_checksum".into(), "on".into())],
            })
        );
        let file = |file, parameters| Ok(DestinationUrl::File { file, parameters });
        let path = FilePath::Path("/tmp/a?b".into());
        assert_eq!("pcap:-".parse(), file(FilePath::Standard, Vec::new()));
        assert_eq!("pcap:/tmp/a%3fb?keep=3".parse(), file(path, vec![("keep".into(), "3".into())]));
        let parameters = vec![("mtu".into(), "9000".into()), ("owner".into(), "root".into())];
        assert_eq!(
            "tap:ids0?mtu=9000&owner=root".parse(),
            Ok(DestinationUrl::Tap { device: "ids0".into(), parameters })
        );
        assert_eq!(host("gre://ids-1.example.net"), Host::Name("ids-1.example.net".into()));
        assert_eq!(host("GENEVE://192.0.2.1/?vni=1"), Host::Address("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn percent_signs_hide_what_a_url_would_swallow() {
        assert_eq!(percent_decoded("pcap:a%26b%25%zz%"), "pcap:a&b%%zz%");
    }

    #[test]
    fn a_bare_ipv6_address_gets_its_brackets_in_the_hint() {
        let error = "vxlan://2001:db8::1?vni=7".parse::<DestinationUrl>().unwrap_err();
        assert_eq!(error.hint(), "write vxlan://[2001:db8::1]?vni=7");
    }

    #[test]
    fn a_url_without_its_beginning_is_completed_in_the_hint() {
        for (wrong, meant) in [
            ("", "vxlan://192.0.2.10?vni=42"),
            ("192.0.2.1:4789", "vxlan://192.0.2.1:4789?vni=42"),
            ("192.0.2.1?vni=7", "vxlan://192.0.2.1?vni=7"),
            ("2001:db8::1", "vxlan://[2001:db8::1]?vni=42"),
            ("gre:192.0.2.1", "gre://192.0.2.1"),
            ("erspan2:/192.0.2.1?session=7", "erspan2://192.0.2.1?session=7"),
            ("geneve//192.0.2.1?vni=7", "geneve://192.0.2.1?vni=7"),
            ("gre.example.net", "vxlan://gre.example.net?vni=42"),
            ("/tmp/a", "pcap:/tmp/a"),
            ("mirror.pcap", "pcap:mirror.pcap"),
            ("-", "pcap:-"),
        ] {
            let hint = wrong.parse::<DestinationUrl>().unwrap_err().hint();
            assert!(hint.starts_with(&format!("for example {meant}; ")), "{wrong}: {hint}");
        }
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for wrong in [
            "",
            "192.0.2.1",
            "vxlan://",
            "vxlan://:4789",
            "vxlan://[::]",
            "vxlan://0.0.0.0",
            "vxlan://300.1.1.1",
            "vxlan://a b",
            "vxlan://h:0",
            "vxlan://h:65536",
            "vxlan://h:",
            "gre://h:47",
            "vxlan://h/path",
            "vxlan://u@h",
            "vxlan://h?vni",
            "vxlan://h?vni=1&vni=2",
            "vlan://h",
            "erspan://h",
            "tap:",
            "tap:x y",
            "tap:a/b",
            "tap:tap%d",
            "tap:all",
            "tap:default",
            "tap:any",
            "tap:longer-than-an-interface",
            "tap:x?mtu",
            "pcap:",
            "pcap:?keep=3",
            "pcap:a?b",
            "vxlan://[::1]x",
            "vxlan://[::1",
            "vxlan://a..b",
            "http://h",
        ] {
            assert!(wrong.parse::<DestinationUrl>().is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(vxlan|gre|pcap|tap|x)?(:|://)?\\PC{0,40}") {
            if let Err(error) = text.parse::<DestinationUrl>() {
                proptest::prop_assert!(!error.hint().is_empty());
            }
        }
    }
}
