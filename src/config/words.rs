//! How single values are written: closed sets of words, sizes, times, switches.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::defaults;
use super::local_end::Sync;
use super::monitoring::{LogFormat, LogLevel};
use super::plan::{
    Analyzer, Decap, Engine, FilePath, Fit, Gso, Pace, Probe, SampleBy, Scheduling, Spread, Tag, TransmitPlan,
    UdpChecksum,
};
use super::privileges::Sandbox;
use crate::quantity::{Mtu, QuantityError, Rate, SegmentLimit, Snaplen, SocketMark};

/// Declares the words of a closed set, for reading and for showing.
macro_rules! words {
    ($name:ident, $what:literal, $all:literal: $($word:literal => $variant:ident),+) => {
        impl FromStr for $name {
            type Err = QuantityError;
            fn from_str(text: &str) -> Result<Self, QuantityError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(QuantityError::Unreadable { what: $what, text: text.to_owned(), example: $all }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(Fit, "way to fit", "split, fragment, truncate or drop":
    "split" => Split, "fragment" => Fragment, "truncate" => Truncate, "drop" => Drop);
words!(Analyzer, "known analyzer", "suricata, zeek, snort, arkime or linux":
    "suricata" => Suricata, "zeek" => Zeek, "snort" => Snort, "arkime" => Arkime, "linux" => Linux);
words!(UdpChecksum, "way to fill the UDP checksum", "auto, on or off":
    "auto" => Auto, "on" => On, "off" => Off);
words!(Gso, "way to use UDP GSO", "auto, on or off":
    "auto" => Auto, "on" => On, "off" => Off);
words!(LogFormat, "log format", "auto, text, json or journald":
    "auto" => Auto, "text" => Text, "json" => Json, "journald" => Journald);
words!(LogLevel, "log level", "error, warn, info, debug or trace":
    "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace);
words!(SampleBy, "way to sample", "flow or frame":
    "flow" => Flow, "frame" => Frame);
words!(Scheduling, "way to schedule", "other, batch or idle":
    "other" => Other, "batch" => Batch, "idle" => Idle);
words!(Sandbox, "way to confine", "auto or off":
    "auto" => Auto, "off" => Off);
words!(Sync, "way to sync", "off, rotate or flush":
    "off" => Off, "rotate" => Rotate, "flush" => Flush);

/// A socket mark with its mask, or `off`: none.
pub(super) fn mark(text: &str) -> Result<Option<SocketMark>, QuantityError> {
    if text == "off" { Ok(None) } else { text.parse().map(Some) }
}

/// A file was to be named, and was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFileName;

impl FromStr for FilePath {
    type Err = NoFileName;
    /// `-` is the standard stream.
    fn from_str(text: &str) -> Result<Self, NoFileName> {
        match text {
            "" => Err(NoFileName),
            "-" => Ok(Self::Standard),
            path => Ok(Self::Path(path.into())),
        }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("-"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// `auto` and `socket` are the sockets, `xdp` and `xdp-zerocopy` are AF_XDP; `pcap:FILE` is the dry run.
pub(super) fn transmit(text: &str) -> Result<TransmitPlan, QuantityError> {
    let unreadable = |NoFileName| unreadable("way to transmit", text, "auto, socket, xdp, xdp-zerocopy or pcap:FILE");
    match (text, text.strip_prefix("pcap:")) {
        ("auto" | "socket", _) => Ok(TransmitPlan::Socket),
        ("xdp", _) => Ok(TransmitPlan::Xdp { zero_copy: false }),
        ("xdp-zerocopy", _) => Ok(TransmitPlan::Xdp { zero_copy: true }),
        (_, Some(file)) => file.parse().map(TransmitPlan::CaptureFile).map_err(unreadable),
        _ => Err(unreadable(NoFileName)),
    }
}

/// `recorded`, or `unpaced`: as fast as the destinations take it.
pub(super) fn pace(text: &str) -> Result<Pace, QuantityError> {
    match text {
        "unpaced" => Ok(Pace::Unpaced),
        "recorded" => Ok(Pace::Recorded),
        _ => Err(unreadable("pace", text, "recorded or unpaced")),
    }
}

/// The capture engine.
pub(super) fn engine(text: &str) -> Result<Engine, QuantityError> {
    match text {
        "auto" => Ok(Engine::Auto),
        "ring" => Ok(Engine::Ring),
        "pcap" => Ok(Engine::Pcap),
        _ => Err(unreadable("capture engine", text, "auto, ring or pcap")),
    }
}

/// How many tunnels are taken off sniffed frames; `off` is none.
pub(super) fn decap_or_off(text: &str) -> Result<Option<Decap>, QuantityError> {
    match text {
        "off" => Ok(None),
        _ if text == "all" || text.parse::<u64>().is_ok() => decap(text).map(Some),
        _ => Err(unreadable("number of tunnels", text, "1 to 8, all, or off")),
    }
}

/// How many tunnels are taken off.
pub(super) fn decap(text: &str) -> Result<Decap, QuantityError> {
    match (text, text.parse()) {
        ("all", _) => Ok(Decap::All),
        (_, Ok(levels)) => {
            in_range("number of tunnels", levels, 1, defaults::MOST_TUNNELS.into())?;
            Ok(Decap::Levels(u8::try_from(levels).unwrap_or(defaults::MOST_TUNNELS)))
        }
        _ => Err(unreadable("number of tunnels", text, "1 to 8, or all")),
    }
}

/// How the tunnel's id stays with a frame.
pub(super) fn tag(text: &str) -> Result<Tag, QuantityError> {
    match text {
        "off" => Ok(Tag::Off),
        "vlan" => Ok(Tag::Vlan),
        _ => Err(unreadable("way to tag", text, "vlan or off")),
    }
}

/// `off`, or how long a frame may wait for earlier ones.
pub(super) fn reorder(text: &str) -> Result<Option<Duration>, QuantityError> {
    if text == "off" { Ok(None) } else { delay(text).map(Some) }
}

/// The longest pause of a replay.
pub(super) fn pause(text: &str) -> Result<Duration, QuantityError> {
    humantime::parse_duration(text).map_err(|_| unreadable("pause", text, "a time with its unit, such as 1s"))
}

/// How several destinations share the frames.
pub(super) fn spread(text: &str) -> Result<Spread, QuantityError> {
    match text {
        "replicate" => Ok(Spread::Replicate),
        "balance" => Ok(Spread::Balance),
        "failover" => Ok(Spread::Failover),
        _ => Err(unreadable("way to spread", text, "replicate, balance or failover")),
    }
}

/// How an analyzer is asked whether it is there.
pub(super) fn probe(text: &str) -> Result<Probe, QuantityError> {
    let port = |port: &str| port.parse().ok().map(Probe::Tcp);
    match text {
        "off" => Some(Probe::Off),
        "icmp" => Some(Probe::Icmp),
        _ => text.strip_prefix("tcp:").and_then(port),
    }
    .ok_or_else(|| unreadable("probe", text, "icmp, tcp:PORT or off"))
}

/// `off`, or how often a name is looked up again: a second to a day.
pub(super) fn resolve(text: &str) -> Result<Option<Duration>, QuantityError> {
    if text == "off" {
        return Ok(None);
    }
    let time = humantime::parse_duration(text)
        .map_err(|_| unreadable("time between look-ups", text, "a time with its unit, such as 60s, or off"))?;
    in_range("time between look-ups in seconds", time.as_secs(), 1, 86_400).map(|_| Some(time))
}

/// A switch, as people write it.
pub(super) fn switch(text: &str) -> Result<bool, QuantityError> {
    match text {
        "true" | "on" | "yes" => Ok(true),
        "false" | "off" | "no" => Ok(false),
        _ => Err(unreadable("switch", text, "on or off")),
    }
}

/// A buffer size in bytes, with its unit: tcpdump's `-B` counts KiB and others count bytes, so a bare number is
/// refused.
pub(super) fn buffer(text: &str) -> Result<u64, QuantityError> {
    // libpcap takes the size as a C int.
    const MOST: u64 = i32::MAX as u64;
    let size = size(text).ok_or_else(|| unreadable("buffer size", text, "a number with its unit, such as 24MiB"))?;
    in_range("buffer size in bytes", size, defaults::LEAST_BUFFER, MOST)
}

/// How many interfaces a session may capture at one time: frames tell 65,536 apart.
pub(super) fn interfaces(text: &str) -> Result<usize, QuantityError> {
    let count = text.parse().map_err(|_| unreadable("number of interfaces", text, "a number, such as 512"))?;
    in_range("number of interfaces", count, 1, 65_536).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// The memory of all capture buffers together: from one buffer's least to what no host has.
pub(super) fn memory(text: &str) -> Result<u64, QuantityError> {
    let size = size(text).ok_or_else(|| unreadable("memory size", text, "a number with its unit, such as 256MiB"))?;
    in_range("memory size in bytes", size, defaults::LEAST_BUFFER, 1 << 50)
}

/// Bits a second.
pub(super) fn bandwidth(text: &str) -> Result<f64, QuantityError> {
    match text.parse() {
        Ok(Rate::Bits(bits)) => Ok(bits),
        Ok(Rate::Frames(_)) | Err(_) => Err(unreadable("bandwidth", text, "500 Mbit/s")),
    }
}

/// Frames a second.
pub(super) fn frames_a_second(text: &str) -> Result<f64, QuantityError> {
    match text.parse() {
        Ok(Rate::Frames(frames)) => Ok(frames),
        Ok(Rate::Bits(_)) | Err(_) => Err(unreadable("frame rate", text, "20kpps")),
    }
}

/// A number of bytes with its unit.
fn size(text: &str) -> Option<u64> {
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    text.parse::<ByteSize>().ok().filter(|_| has_unit).map(|size| size.as_u64())
}

/// The size at which a capture file is followed by the next one: 64 KiB to 1 PiB.
pub(super) fn rotate_size(text: &str) -> Result<u64, QuantityError> {
    let size = size(text).ok_or_else(|| unreadable("file size", text, "a number with its unit, such as 100MiB"))?;
    in_range("file size in bytes", size, 64 << 10, 1 << 50)
}

/// The time after which a capture file is followed by the next one: a second to a year.
pub(super) fn rotate_time(text: &str) -> Result<Duration, QuantityError> {
    let time = humantime::parse_duration(text)
        .map_err(|_| unreadable("time to rotate", text, "a time with its unit, such as 1h"))?;
    in_range("time to rotate in seconds", time.as_secs(), 1, 366 * 86_400).map(|_| time)
}

/// How many rotated files are kept.
pub(super) fn keep(text: &str) -> Result<usize, QuantityError> {
    let count = text.parse::<u32>().map_err(|_| unreadable("number of files", text, "a whole number from 1"))?;
    in_range("number of files", count.into(), 1, 1_000_000).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// The MTU of a TAP device: the kernel's limits for it (drivers/net/tun.c).
pub(super) fn tap_mtu(text: &str) -> Result<Mtu, QuantityError> {
    let mtu = text.parse::<Mtu>()?;
    in_range("MTU of a TAP device", mtu.value().into(), 68, defaults::MOST_TAP_MTU.value().into()).map(|_| mtu)
}

/// The MTU of a tunnel's path: what an IP packet can be long.
pub(super) fn path_mtu(text: &str) -> Result<Mtu, QuantityError> {
    let mtu = text.parse::<Mtu>()?;
    in_range("path MTU", mtu.value().into(), 68, 65_535).map(|_| mtu)
}

/// A delay between 1 ms, the shortest that libpcap counts, and 1 s.
pub(super) fn delay(text: &str) -> Result<Duration, QuantityError> {
    let delay =
        humantime::parse_duration(text).map_err(|_| unreadable("delay", text, "a time with its unit, such as 2ms"))?;
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    in_range("delay in milliseconds", millis, 1, 1000).map(Duration::from_millis)
}

/// CPUs as taskset(1) takes them: numbers and ranges such as `0-3`.
pub(super) fn cpus(words: &[String]) -> Result<Vec<usize>, QuantityError> {
    // What sched_setaffinity(2) can name.
    const MOST: usize = nix::sched::CpuSet::count();
    let mut cpus = Vec::new();
    for word in words {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < MOST => cpus.extend(first..=last),
            _ => return Err(unreadable("list of CPUs", word, "numbers and ranges, such as 0,2 or 4-7")),
        }
    }
    Ok(cpus)
}

/// `off`, or how many bytes of each frame are kept. tcpdump's `0` is `off` too.
pub(super) fn truncate(text: &str) -> Result<Option<Snaplen>, QuantityError> {
    match text {
        "off" | "0" => Ok(None),
        number => number.parse().map(Some),
    }
}

/// How many segments a super-frame may become, or any number of them.
pub(super) fn max_segments(text: &str) -> Result<Option<SegmentLimit>, QuantityError> {
    match text {
        "off" => Ok(None),
        number => number.parse().map(Some),
    }
}

fn in_range(what: &'static str, value: u64, least: u64, most: u64) -> Result<u64, QuantityError> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(QuantityError::OutOfRange { what, value, least, most })
    }
}

pub(super) fn unreadable(what: &'static str, text: &str, example: &'static str) -> QuantityError {
    QuantityError::Unreadable { what, text: text.to_owned(), example }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_need_a_unit_and_take_a_space() {
        assert_eq!(buffer("24MiB"), Ok(24 << 20));
        assert_eq!(buffer("1 GB"), Ok(1_000_000_000));
        assert_eq!(delay("5 ms"), Ok(Duration::from_millis(5)));
        for wrong in ["", "4096", "24 parsecs", "1KiB", "4GiB", "-1MiB", "99999999999999999999GB"] {
            assert!(buffer(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "5", "0ms", "10us", "2s", "soon"] {
            assert!(delay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_word_that_is_read_is_shown_as_it_was_written() {
        for word in ["split", "fragment", "truncate", "drop"] {
            assert_eq!(word.parse::<Fit>().unwrap().to_string(), word);
        }
        assert_eq!(
            "cut".parse::<Fit>().unwrap_err().to_string(),
            "`cut` is not a way to fit: write split, fragment, truncate or drop"
        );
    }

    #[test]
    fn cpus_are_numbers_and_ranges() {
        let read = |text: &str| cpus(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read("0,2"), Ok(vec![0, 2]));
        assert_eq!(read("4-7,1"), Ok(vec![4, 5, 6, 7, 1]));
        for wrong in ["", "a", "3-1", "-1", "1-", "99999999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn zero_truncates_nothing_as_with_tcpdump() {
        assert_eq!(truncate("0"), truncate("off"));
        assert_eq!(truncate("64").unwrap().map(Snaplen::value), Some(64));
        assert!(truncate("13").is_err());
    }
}
