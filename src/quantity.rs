//! Numbers with a meaning, as types that cannot hold nonsense.
//!
//! Each is checked once, where it enters (command line, file, kernel), and never again.

mod mark;
mod shares;

pub use mark::SocketMark;
pub use shares::{CpuShare, SampleRate, Share};

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a number or a word is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// A number outside the range that its header field or the kernel allows.
    #[error("{value} is not {}: it goes from {least} to {most}", with_article(what))]
    OutOfRange {
        /// The quantity's name in the field's words.
        what: &'static str,
        /// What was given.
        value: u64,
        /// Smallest allowed value.
        least: u64,
        /// Largest allowed value.
        most: u64,
    },
    /// A text that does not read as the quantity.
    #[error("`{text}` is not {}: write {example}", with_article(what))]
    Unreadable {
        /// The quantity's name in the field's words.
        what: &'static str,
        /// What was given.
        text: String,
        /// A text that would be right.
        example: &'static str,
    },
}

/// "a VNI", "an ERSPAN session id".
fn with_article(what: &str) -> String {
    let article = if what.starts_with(['a', 'e', 'i', 'o', 'A', 'E', 'I', 'O']) { "an" } else { "a" };
    format!("{article} {what}")
}

/// Declares a whole number that is checked where it enters.
macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($int:ty), $least:literal..=$most:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($int);

        impl $name {
            /// The largest value.
            pub const MAX: Self = Self($most);
            /// The smallest value.
            pub const LEAST: Self = Self($least);

            /// Checks the range.
            ///
            /// # Errors
            /// [`QuantityError::OutOfRange`] when `value` lies outside it.
            pub fn new(value: u64) -> Result<Self, QuantityError> {
                match <$int>::try_from(value) {
                    Ok(small) if ($least..=$most).contains(&small) => Ok(Self(small)),
                    _ => Err(QuantityError::OutOfRange { what: $what, value, least: $least, most: $most }),
                }
            }

            /// The number itself.
            pub const fn value(self) -> $int {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = QuantityError;
            fn from_str(text: &str) -> Result<Self, QuantityError> {
                let value = whole_number(text).ok_or_else(|| QuantityError::Unreadable {
                    what: $what,
                    text: text.to_owned(),
                    example: concat!("a whole number from ", $least, " to ", $most),
                })?;
                Self::new(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

bounded! {
    /// VXLAN (RFC 7348 section 5) or Geneve (RFC 8926 section 3.4) network identifier, 24 bits.
    Vni(u32), 0..=16_777_215, "VNI"
}
bounded! {
    /// Most wire segments that one super-frame may become.
    SegmentLimit(u32), 1..=65_535, "number of segments"
}
impl SegmentLimit {
    /// What no ordinary super-frame exceeds: BIG TCP of 512 KiB makes 363 segments of 1,448 bytes.
    pub const DEFAULT: Self = Self(536);
}
bounded! {
    /// ERSPAN session id, 10 bits (draft-foschiano-erspan-03 section 4.2).
    ErspanSessionId(u16), 0..=1023, "ERSPAN session id"
}
bounded! {
    /// ERSPAN II index, 20 bits, platform dependent: port and direction on switches.
    ErspanIndex(u32), 0..=1_048_575, "ERSPAN index"
}
bounded! {
    /// GRE key, 32 bits (RFC 2890 section 2.1).
    GreKey(u32), 0..=4_294_967_295, "GRE key"
}
bounded! {
    /// Differentiated services code point of the outer IP header, 6 bits (RFC 2474); the ECN bits beside it stay 00.
    Dscp(u8), 0..=63, "DSCP"
}
bounded! {
    /// IPv4 time to live or IPv6 hop limit of the outer header; 0 never leaves a host.
    Ttl(u8), 1..=255, "TTL"
}
bounded! {
    /// Bytes of each frame that are kept, counted from the destination MAC. At least an Ethernet header.
    Snaplen(u32), 14..=262_144, "snaplen"
}
bounded! {
    /// Largest IP packet that a link or path carries, in bytes. Every IPv4 link carries 68 (RFC 791 section 3.2).
    Mtu(u32), 68..=262_144, "MTU"
}
bounded! {
    /// An interface's number in the kernel of its network namespace.
    Ifindex(u32), 1..=2_147_483_647, "interface index"
}

bounded! {
    /// Worker threads of one session.
    Workers(u8), 1..=64, "number of workers"
}

bounded! {
    /// How much a thread gives way to others, nice(1): 19 most.
    Nice(u8), 0..=19, "nice value"
}

bounded! {
    /// A destination's share of the flows, beside the shares of the others.
    Weight(u16), 1..=1000, "weight"
}

impl Default for Weight {
    /// As much as anybody.
    fn default() -> Self {
        Self(1)
    }
}

impl Mtu {
    /// What Ethernet has carried since 1980.
    pub const ETHERNET: Self = Self(1500);
    /// What every link carries that carries IPv6 (RFC 8200 section 5).
    pub const IPV6_LEAST: Self = Self(1280);
    /// The largest that a TAP device can have: 65,535 bytes less an Ethernet header (drivers/net/tun.c).
    pub const MOST_TAP: Self = Self(65_521);
}

impl Dscp {
    /// Best effort.
    pub const DEFAULT: Self = Self(0);
}

impl Ttl {
    /// What Linux and the tunnel RFCs use.
    pub const DEFAULT: Self = Self(64);
}

/// Which way a frame went through the interface, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received: ingress, rx.
    In,
    /// Sent: egress, tx.
    Out,
}

/// Which directions a source mirrors (tcpdump's `-Q`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Directions {
    /// Only frames that the interface received.
    In,
    /// Only frames that the host sent.
    Out,
    /// Both.
    #[default]
    InOut,
}

impl FromStr for Directions {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        match text {
            "in" => Ok(Self::In),
            "out" => Ok(Self::Out),
            "inout" => Ok(Self::InOut),
            _ => {
                Err(QuantityError::Unreadable { what: "direction", text: text.to_owned(), example: "in, out or inout" })
            }
        }
    }
}

impl fmt::Display for Directions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::InOut => "inout",
        })
    }
}

/// When a frame was captured: nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last moment there is, in the year 2554.
    pub const MAX: Self = Self(u64::MAX);

    /// From nanoseconds since the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The wall clock now; beyond the year 2554 it reads as its end. Not for the frame path: time comes in there as an
    /// argument.
    pub fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since the epoch.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

/// UDP source ports that a tunnel may send from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The dynamic ports, as RFC 7348 section 5 advises.
    pub const DYNAMIC: Self = Self { first: 49152, last: 65535 };

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports.
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// The part that belongs to worker `number` of `workers`, counted from 0: the parts differ by one port at most. The
    /// whole range where there are fewer ports than workers.
    #[must_use]
    pub fn part(self, number: u32, workers: u32) -> Self {
        let start =
            |number: u32| u64::from(self.first) + u64::from(self.count()) * u64::from(number) / u64::from(workers);
        let port = |number: u64| u16::try_from(number).unwrap_or(self.last);
        if number >= workers || workers > self.count() {
            return self;
        }
        Self { first: port(start(number)), last: port(start(number + 1) - 1) }
    }

    /// Whether `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl FromStr for PortRange {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let unreadable = || QuantityError::Unreadable {
            what: "source-port range",
            text: text.to_owned(),
            example: "49152-65535, or one port",
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = first.trim().parse::<u16>().map_err(|_| unreadable())?;
        let last = last.trim().parse::<u16>().map_err(|_| unreadable())?;
        if first == 0 || last < first {
            return Err(unreadable());
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// An IP network: all addresses that begin with the same bits. A single address is one of 32 or 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// How many bits of an address it sets: 0 to 32, or to 128.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` is in it. IPv4 and IPv6 are never in each other.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= self.length.into()
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= self.length.into()
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let unreadable = || QuantityError::Unreadable {
            what: "network",
            text: text.to_owned(),
            example: "192.0.2.0/24, 2001:db8::/32 or one address",
        };
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| unreadable())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), str::parse).map_err(|_| unreadable())?;
        if length <= most { Ok(Self { address, length }) } else { Err(unreadable()) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// How fast a capture file is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Frames a second.
    Frames(f64),
    /// Bits of mirrored frames a second, without encapsulation.
    Bits(f64),
}

impl FromStr for Rate {
    type Err = QuantityError;
    /// `20kpps`, `1.5 Mpps`, `500Mbit/s`, `500 mbit`: decimal multiples, as network people count.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let unreadable =
            || QuantityError::Unreadable { what: "rate", text: text.to_owned(), example: "20kpps or 500Mbit/s" };
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let digits = compact.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(unreadable)?;
        let (number, unit) = compact.split_at(digits);
        let number: f64 = number.parse().map_err(|_| unreadable())?;
        let unit = unit.to_ascii_lowercase();
        let (multiple, unit) = match unit.as_bytes().first() {
            Some(b'k') => (1e3, &unit[1..]),
            Some(b'm') => (1e6, &unit[1..]),
            Some(b'g') => (1e9, &unit[1..]),
            _ => (1.0, unit.as_str()),
        };
        let rate = number * multiple;
        if !rate.is_finite() || rate <= 0.0 {
            return Err(unreadable());
        }
        match unit {
            "pps" => Ok(Self::Frames(rate)),
            "bit" | "bit/s" | "bps" => Ok(Self::Bits(rate)),
            _ => Err(unreadable()),
        }
    }
}

/// A whole number in decimal, or in hexadecimal behind `0x`.
pub(crate) fn whole_number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_outside_its_field_is_refused_with_the_range() {
        assert_eq!(Vni::new(16_777_215), Ok(Vni::MAX));
        let error = Vni::new(16_777_216).unwrap_err();
        assert_eq!(error.to_string(), "16777216 is not a VNI: it goes from 0 to 16777215");
        assert!("1024".parse::<ErspanSessionId>().is_err());
        assert_eq!("0x10".parse::<GreKey>().map(GreKey::value), Ok(16));
    }

    #[test]
    fn rates_read_as_network_people_write_them() {
        assert_eq!("20kpps".parse(), Ok(Rate::Frames(20_000.0)));
        assert_eq!("1.5 Mpps".parse(), Ok(Rate::Frames(1_500_000.0)));
        assert_eq!("500Mbit/s".parse(), Ok(Rate::Bits(500e6)));
        for wrong in ["", "fast", "12", "-1pps", "0pps", "5 parsecs", "1e999pps", "1.2.3pps"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prefix_holds_what_begins_like_it() {
        let holds = |prefix: &str, address: &str| prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap());
        assert!(holds("192.0.2.0/24", "192.0.2.255") && !holds("192.0.2.0/24", "192.0.3.0"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("0.0.0.0/0", "198.51.100.1") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1") && !holds("2001:db8::/32", "2001:db9::"));
        for wrong in ["", "192.0.2.0/33", "192.0.2.0/-1", "192.0.2/24", "::/129", "host/24", "192.0.2.0/"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_range_holds_at_least_one_port() {
        assert_eq!("5000".parse::<PortRange>().map(PortRange::count), Ok(1));
        assert_eq!("49152-65535".parse(), Ok(PortRange::DYNAMIC));
        for wrong in ["0", "2-1", "70000", "a-b", ""] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_parts_of_a_port_range_are_the_range() {
        for (range, workers) in [("49152-65535", 3), ("1-65535", 64), ("5000-5002", 3), ("5000", 1)] {
            let range: PortRange = range.parse().unwrap();
            let parts: Vec<PortRange> = (0..workers).map(|number| range.part(number, workers)).collect();
            assert_eq!((parts[0].first, parts[parts.len() - 1].last), (range.first, range.last));
            assert!(parts.windows(2).all(|pair| pair[0].last + 1 == pair[1].first), "{parts:?}");
            let sizes = parts.iter().map(|part| part.count());
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1, "{parts:?}");
        }
    }
}
