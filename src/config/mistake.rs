//! What can be wrong with a configuration or a command line, and what to do about it.

use std::net::IpAddr;

use bytesize::ByteSize;

use super::defaults;
use super::destination_url::{Kind, UrlError};
use super::endpoint::EndpointError;
use super::written::{Origin, Place};
use crate::error::{ExitCode, Explain};
use crate::flow::InvalidKey;
use crate::quantity::{QuantityError, Workers};

/// The shape of a key that holds other keys.
pub(super) const TABLE: &str = "a table";

/// One mistake at its place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Mistake {
    /// What is wrong.
    pub what: What,
    /// Where.
    pub place: Place,
}

/// What is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// A value that does not read as what its key takes.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// A destination that does not read.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A tunnel endpoint that does not read.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A key that does not exist.
    #[error("there is no key `{key}` here")]
    UnknownKey {
        /// The key.
        key: String,
        /// The keys there are.
        known: Vec<&'static str>,
    },
    /// A table, list or word where another shape is needed.
    #[error("`{key}` must be {expected}")]
    Shape {
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
    },
    /// A key that must be given.
    #[error("`{key}` is missing: {to} needs it")]
    Missing {
        /// The key.
        key: &'static str,
        /// What needs it.
        to: String,
    },
    /// A key that this kind of destination does not have.
    #[error("`{key}` means nothing to {kind}")]
    Meaningless {
        /// The key.
        key: String,
        /// What the destination is.
        kind: Kind,
    },
    /// A flag that no destination has a use for.
    #[error("`{key}` means nothing to any of the destinations")]
    UselessFlag {
        /// The key.
        key: String,
    },
    /// A key beside the same key in the URL.
    #[error("`{key}` is given twice: in the URL and beside it")]
    Twice {
        /// The key.
        key: String,
    },
    /// A flag that says something else than the URL.
    #[error("`{flag}` contradicts `{key}={url}` in the URL")]
    Contradiction {
        /// The key.
        key: String,
        /// The flag with its value.
        flag: String,
        /// The value in the URL.
        url: String,
    },
    /// A key of the other kind of source.
    #[error("`{key}` is for {wanted}, and the source is {found}")]
    OtherSource {
        /// The key.
        key: &'static str,
        /// The kind of source that has it.
        wanted: &'static str,
        /// The kind of source there is.
        found: &'static str,
    },
    /// The MTU of a file whose frames are left as they are.
    #[error("`mtu` is for normalising, which is off for files and tunnels")]
    MtuWithoutNormalise,
    /// A pace and a rate.
    #[error("`pace` and `rate` cannot both be given")]
    PaceAndRate,
    /// No source.
    #[error("nothing to mirror: no interface, no capture file and no tunnel endpoint is given")]
    NoSource,
    /// Several kinds of source.
    #[error("interfaces, a capture file and tunnel endpoints cannot be mirrored together")]
    TwoSources,
    /// A capture file with the name of a compressed one.
    #[error("`{0}` is the name of a compressed file, and capture files are written uncompressed")]
    CompressedName(String),
    /// Standard input named more than once.
    #[error("standard input (-) can be read only once")]
    StandardInputTwice,
    /// A longest pause where no pauses are kept.
    #[error("`max_pause` shortens recorded pauses, and this replay keeps none")]
    PauseWithoutPace,
    /// One raw socket takes all addresses, and another only some of them: the second would get copies.
    #[error("GRE and ERSPAN for every address and for {0} would be received twice")]
    ReceivedTwice(IpAddr),
    /// No destination.
    #[error("no destination is given")]
    NoDestination,
    /// Two destinations of one name.
    #[error("two destinations are named `{0}`")]
    SameName(String),
    /// A name with other characters than the allowed ones, or too long.
    #[error("`{0}` is not a name: 1 to 32 of a-z, 0-9 and -")]
    Name(String),
    /// No such session in the file.
    #[error("there is no session `{name}`")]
    NoSuchSession {
        /// The name that was asked for.
        name: String,
        /// The sessions there are.
        sessions: Vec<String>,
    },
    /// No session at all.
    #[error("the configuration holds no session")]
    NoSession,
    /// Several sessions, and none was chosen.
    #[error("the configuration holds {} sessions, and one must be chosen", .0.len())]
    WhichSession(Vec<String>),
    /// A pattern of interface names that does not read.
    #[error("`{pattern}` is not a pattern of interface names")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// An interface without an id.
    #[error("interface {interface} has no `{key}`: none of its patterns matches")]
    Uncovered {
        /// The interface.
        interface: String,
        /// The id's key.
        key: &'static str,
    },
    /// A source address of the other address family.
    #[error("source address {address} cannot send to {host}: one is IPv4, the other IPv6")]
    Family {
        /// The source address.
        address: IpAddr,
        /// The analyzer.
        host: IpAddr,
    },
    /// A file or standard output that two destinations would write.
    #[error("two destinations write to {0}")]
    SameFile(String),
    /// A file that is read and written.
    #[error("{0} is both the source and a destination")]
    Overwritten(String),
    /// A user that this host does not have.
    #[error("there is no user `{0}` here")]
    NoSuchUser(String),
    /// A group that this host does not have.
    #[error("there is no group `{0}` here")]
    NoSuchGroup(String),
    /// Standard output is one stream for ever.
    #[error("`{0}` is for files, and `pcap:-` is standard output")]
    RotatedStream(&'static str),
    /// A number of files, of which there will be one.
    #[error("`keep` is for rotated files, and nothing says when this one is rotated")]
    KeepWithoutRotation,
    /// What the session writes would come in again, for ever.
    #[error("the session would mirror its own destination: `{pattern}` captures on the TAP device {device} too")]
    MirrorsItself {
        /// The pattern of interface names.
        pattern: String,
        /// The TAP device.
        device: String,
    },
    /// Two sessions that would write to the same.
    #[error("the sessions {0} and {1} both write to {2}")]
    SharedEnd(String, String, String),
    /// A session that would read what another one writes.
    #[error("the session {reader} reads {file}, which the session {writer} writes")]
    ReadWhileWritten {
        /// Who reads.
        reader: String,
        /// What.
        file: String,
        /// Who writes.
        writer: String,
    },
    /// A session that would capture what another one writes to its TAP device.
    #[error(
        "the session {captor} would mirror the mirror of {writer}: `{pattern}` captures on its TAP device {device}"
    )]
    MirrorsAnother {
        /// Who captures.
        captor: String,
        /// Its pattern of interface names.
        pattern: String,
        /// Who writes.
        writer: String,
        /// The TAP device.
        device: String,
    },
    /// Two sessions that would receive at one UDP port.
    #[error("the sessions {0} and {1} would both receive at UDP port {2}")]
    SharedPort(String, String, u16),
    /// Less memory than the least buffers of all sessions.
    #[error(
        "{memory} is too little memory for the capture buffers of {sessions} sessions, which are at least {least} together"
    )]
    TooLittleMemory {
        /// What is given.
        memory: ByteSize,
        /// What the sessions need.
        least: ByteSize,
        /// How many sessions capture.
        sessions: usize,
    },
    /// Runs need the checksum that is switched off.
    #[error("UDP GSO needs the UDP checksum, which is off")]
    GsoWithoutChecksum,
    /// A count that several workers would have to agree on, frame by frame.
    #[error("a count of frames needs one worker, and there are to be {0}")]
    CountOfWorkers(Workers),
    /// Source ports that do not suffice for all workers.
    #[error("{workers} workers need a UDP source port each, and `ports` has {ports}")]
    PortsOfWorkers {
        /// How many workers there are to be.
        workers: Workers,
        /// How many ports there are.
        ports: u32,
    },
    /// A CPU that this process cannot run on.
    #[error("there is no CPU {cpu} for farspan to run on")]
    NoSuchCpu {
        /// Its number.
        cpu: usize,
        /// The CPUs there are.
        present: Vec<usize>,
    },
    /// A word that names no network namespace.
    #[error("`{0}` is not a network namespace")]
    Netns(String),
    /// Fragments are made by the kernel's IP stack, which AF_XDP passes by.
    #[error("AF_XDP sends whole frames, and fit=fragment needs the kernel's IP stack")]
    XdpWithFragments,
    /// So are runs.
    #[error("AF_XDP sends single frames, and gso=on asks for UDP GSO of the kernel's IP stack")]
    XdpWithGso,
    /// Destinations behind one interface share its queue.
    #[error(
        "the destinations of a session have transmit=xdp or transmit=xdp-zerocopy, not some the one and some the other"
    )]
    XdpInBothModes,
    /// A seed that is none.
    #[error(transparent)]
    Seed(#[from] InvalidKey),
    /// A way to sample, and no sample.
    #[error("`sample_by` says what a sample counts, and there is no `sample`")]
    SampleOfWhat,
    /// A limit for what waits until it is sent.
    #[error("`limit` leaves flows out, and a capture file can wait instead")]
    LimitOfFile,
    /// CPUs for all workers, and one for each.
    #[error("`cpus` and `pin` cannot both be given")]
    CpusAndPin,
    /// More destinations than can share the frames.
    #[error("{0} destinations are to share the frames, and {most} can", most = defaults::MOST_SHARING)]
    TooManyToShare(usize),
    /// A flag behind the filter expression.
    #[error("`{0}` stands behind the first word of the filter, so it would be part of the filter")]
    FlagInFilter(String),
}

impl Mistake {
    /// A mistake that shows where its value came from.
    pub fn at(what: impl Into<What>, origin: Option<&Origin>, path: impl Into<String>) -> Self {
        Self { what: what.into(), place: Place { origin: origin.cloned(), path: path.into() } }
    }

    /// The last part of the path: the key itself.
    fn key(&self) -> &str {
        self.place.path.rsplit('.').next().unwrap_or_default()
    }
}

impl Explain for Mistake {
    fn place(&self) -> Option<String> {
        Some(self.place.to_string()).filter(|place| !place.is_empty())
    }

    #[allow(clippy::too_many_lines, reason = "one line or two for each mistake")]
    fn hint(&self) -> Option<String> {
        match &self.what {
            What::Quantity(_) => Some(example(self.key(), &self.place)),
            What::Url(error) => Some(error.hint()),
            What::Endpoint(error) => Some(error.hint()),
            What::UnknownKey { key, known } => {
                let all = format!("there are {}", known.join(", "));
                Some(closest(key, known).map_or_else(|| all.clone(), |near| format!("did you mean `{near}`? {all}")))
            }
            What::Shape { expected: TABLE, .. } => {
                Some(format!("write [{}], and its keys in the lines below", self.place.path))
            }
            What::Shape { key, .. } => Some(example(key, &self.place)),
            What::Missing { key, .. } => Some(example(key, &self.place)),
            What::Meaningless { kind, .. } => Some(format!("{kind} has {}", kind.keys().join(", "))),
            What::UselessFlag { .. } => Some("leave it out, or add a destination that has it".to_owned()),
            What::Contradiction { key, .. } => Some(format!(
                "leave out one of the two; where destinations differ, write `{key}` into each URL and no flag"
            )),
            What::Twice { key } => Some(format!("leave `{key}` out of one of the two")),
            What::OtherSource { key, .. } => Some(format!("leave out `{key}`")),
            What::MtuWithoutNormalise => {
                Some("their frames are left byte for byte; --normalise treats them as an interface's".to_owned())
            }
            What::PaceAndRate => Some("leave out one of the two".to_owned()),
            What::NoSource => Some(match self.place.path.as_str() {
                "" => "-i IF captures an interface (-i 'veth*' several), -r FILE reads a capture file, --from \
                       vxlan://0.0.0.0 receives a tunnel"
                    .to_owned(),
                table => {
                    format!(
                        "below [{table}], interface = \"eth0\" or file = \"capture.pcapng\" or tunnel = \"vxlan://0.0.0.0\""
                    )
                }
            }),
            What::TwoSources => Some("run two sessions, or leave out one of them".to_owned()),
            What::CompressedName(file) => {
                let quoted = format!("'{}'", file.replace('\'', "'\\''"));
                let command = if file.to_ascii_lowercase().ends_with(".gz") { "gzip" } else { "zstd" };
                Some(format!(
                    "leave the suffix out and compress the file when it is complete, or --to pcap:- | {command} > {quoted}"
                ))
            }
            What::StandardInputTwice => Some("name the other captures by their paths, or use <(command)".to_owned()),
            What::PauseWithoutPace => {
                Some("add pace = \"recorded\" (--pace recorded), or leave max_pause out".to_owned())
            }
            What::ReceivedTwice(_) => Some("give every address by itself, or all of them together".to_owned()),
            What::NoDestination => Some(match self.place.path.as_str() {
                "" => "for example --to 'vxlan://192.0.2.10?vni=42'".to_owned(),
                table => format!("below [{table}.ids1], for example, to = \"vxlan://192.0.2.10?vni=42\""),
            }),
            What::SameName(_) => Some("give one of them another name".to_owned()),
            What::Name(name) => {
                let lower: String = name.to_lowercase().chars().map(|c| if c == '_' { '-' } else { c }).collect();
                Some(if is_name(&lower) {
                    format!("`{lower}` would do")
                } else {
                    "it becomes a label in metrics and messages".to_owned()
                })
            }
            What::NoSuchSession { sessions, .. } | What::WhichSession(sessions) => {
                Some(format!("--session NAME, one of {}", sessions.join(", ")))
            }
            What::NoSession => {
                let start = "`farspan generate config` prints a commented file to start from";
                let named = matches!(&self.place.origin, Some(Origin::Flag(flag)) if flag.starts_with("--session"));
                let ids = if named { "; the flag for an ERSPAN session id is --session-id" } else { "" };
                Some(format!("{start}{ids}"))
            }
            What::Pattern { .. } => Some("`*`, `?` and `[…]` work as in a shell, for example veth*".to_owned()),
            What::Uncovered { interface, key } => Some(format!("add {interface}, or `*` for all others, to `{key}`")),
            What::Family { .. } => Some("give a source address of the analyzer's family, or none".to_owned()),
            What::SameFile(_) => Some("give each its own file".to_owned()),
            What::Overwritten(_) => Some("write to another file".to_owned()),
            What::NoSuchUser(_) => Some("a name out of `getent passwd`, or a number".to_owned()),
            What::NoSuchGroup(_) => Some("a name out of `getent group`, or a number".to_owned()),
            What::RotatedStream(key) => Some(format!("leave out `{key}`, or write pcap:FILE")),
            What::KeepWithoutRotation => Some("add rotate_size=100MiB or rotate_time=1h".to_owned()),
            What::MirrorsItself { device, .. } | What::MirrorsAnother { device, .. } => {
                Some(format!("name the interfaces, or use a pattern that leaves {device} out"))
            }
            What::SharedEnd(..) => Some("give each its own, or let one session have both sources".to_owned()),
            What::ReadWhileWritten { .. } => Some("read another file".to_owned()),
            What::SharedPort(..) => Some("give each its own port, or receive both in one session".to_owned()),
            What::TooLittleMemory { least, .. } => Some(format!("give {least} or more, or run fewer sessions")),
            What::GsoWithoutChecksum => {
                Some("leave `udp_checksum` at auto: it is computed where datagrams leave in GSO runs".to_owned())
            }
            What::CountOfWorkers(_) => Some("leave out `workers`, or -c".to_owned()),
            What::PortsOfWorkers { .. } => Some("give a wider range with `ports`, or run fewer workers".to_owned()),
            What::NoSuchCpu { present, .. } => {
                let present: Vec<String> = present.iter().map(ToString::to_string).collect();
                Some(format!("CPUs here are {}", present.join(", ")))
            }
            What::Netns(_) => {
                Some("write its name as `ip netns` lists it, a path, pid:NUMBER or container:ID".to_owned())
            }
            What::XdpWithFragments => Some("choose another `fit`, or transmit=socket".to_owned()),
            What::XdpInBothModes => Some("they share the queues of their interfaces: choose one for all".to_owned()),
            What::XdpWithGso => Some("leave `gso` out, or choose transmit=socket".to_owned()),
            What::Seed(_) => {
                Some("`openssl rand -hex 16` prints one; hosts that must choose alike get the same".to_owned())
            }
            What::SampleOfWhat => Some("add `sample`, for example 1/10, or leave `sample_by` out".to_owned()),
            What::LimitOfFile => Some("pace the file with `rate`, for example 20kpps or 500Mbit/s".to_owned()),
            What::CpusAndPin => {
                Some("`pin` keeps each worker on one CPU, `cpus` lets all of them use these: leave one out".to_owned())
            }
            What::TooManyToShare(_) => Some("share them out over several sessions, with filters".to_owned()),
            What::FlagInFilter(_) => {
                Some("put every option before the filter expression; an interface is given with -i".to_owned())
            }
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self.place.origin.as_ref().map(Origin::outermost) {
            Some(Origin::Flag(_)) => ExitCode::Usage,
            // What nobody wrote is missing from the command line, unless it is missing from a table of the file.
            None if self.place.path.is_empty() => ExitCode::Usage,
            _ => ExitCode::Config,
        }
    }
}

/// Whether `text` can name a session or a destination: `[a-z0-9-]{1,32}`.
pub fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The word of `known` that `word` was probably meant to be.
pub fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|&candidate| (strsim::normalized_damerau_levenshtein(&word.to_lowercase(), candidate), candidate))
        .filter(|&(likeness, _)| likeness > 0.6)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate)
}

/// A right value for `key`, as it would be written at `place`.
fn example(key: &str, place: &Place) -> String {
    /// Key, value, and what it does where the value alone does not say it.
    const EXAMPLES: &[(&str, &str, &str)] = &[
        ("vni", "42", ", or eth0:10,veth*:11 to tell interfaces apart"),
        ("vni_out", "43", ", for frames that the host sent"),
        ("key", "42", ", or eth0:10,veth*:11 to tell interfaces apart"),
        ("key_out", "43", ", for frames that the host sent"),
        ("session", "42", ", or eth0:10,veth*:11 to tell interfaces apart"),
        ("session_out", "43", ", for frames that the host sent"),
        ("seq", "on", ""),
        ("index", "1", ""),
        ("fit", "split", ""),
        ("analyzer", "suricata", ""),
        ("transmit", "auto", ", or pcap:FILE for a dry run"),
        ("udp_checksum", "auto", ""),
        ("gso", "auto", ""),
        ("dscp", "8", ", the class that gives way to others"),
        ("ttl", "64", ""),
        ("source", "192.0.2.1", ", an address of this host"),
        ("device", "eth1", ""),
        ("ports", "49152-65535", ""),
        ("owner", "suricata", ", a name or a number"),
        ("rotate_size", "100MiB", ""),
        ("rotate_time", "1h", ""),
        ("keep", "24", ", the newest files of this run"),
        ("sync", "rotate", ""),
        ("interface", "eth0", ", a pattern such as veth*, or a list"),
        ("file", "capture.pcapng", ""),
        ("tunnel", "vxlan://0.0.0.0:4789", ", or a list"),
        ("allow", "192.0.2.0/24", ", or a list"),
        ("strict", "on", ""),
        ("decap", "1", ", or all"),
        ("tag", "vlan", ", or off"),
        ("reorder", "5ms", ", or off"),
        ("direction", "in", ""),
        ("engine", "auto", ""),
        ("buffer", "24MiB", ""),
        ("delay", "2ms", ""),
        ("promiscuous", "on", ""),
        ("workers", "2", ""),
        ("netns", "web1", ", or a path, pid:NUMBER, container:ID"),
        ("pin", "0,2", ", a CPU for each worker"),
        ("pace", "recorded", ""),
        ("rate", "20kpps", ""),
        ("enabled", "on", ""),
        ("mtu", "1500", ""),
        ("truncate", "128", ", in bytes, or off"),
        ("max_segments", "536", ", or off"),
        ("spread", "balance", ", replicate or failover"),
        ("weight", "2", ", twice as many flows as one with 1"),
        ("probe", "icmp", ", tcp:22, or off"),
        ("resolve", "60s", ", or off"),
        ("memory", "256MiB", ""),
        ("listen", "127.0.0.1:9469", ""),
        ("socket", "/run/farspan/control.sock", ", or off"),
        ("group", "farspan", ", a name or a number"),
        ("format", "json", ""),
        ("level", "info", ""),
        ("watch", "on", ""),
        ("sandbox", "auto", ", or off"),
        ("user", "farspan", ""),
        ("capabilities", "CAP_NET_ADMIN", ", or a list"),
        ("filter", "not port 22", ""),
        ("sample", "1/10", ", or 1/1 for everything"),
        ("sample_by", "flow", ", or frame"),
        ("seed", "000102030405060708090a0b0c0d0e0f", ", but random"),
        ("bandwidth", "500 Mbit/s", ""),
        ("cpu", "20% of a core", ""),
        ("underlay", "90%", ", of its link's speed"),
        ("pressure", "20%", ", of the time"),
        ("nice", "10", ", 0 to 19"),
        ("scheduling", "batch", ", or idle"),
        ("cpus", "2-3", ""),
        ("to", "vxlan://192.0.2.10?vni=42", ""),
    ];
    let Some(&(key, value, remark)) = EXAMPLES.iter().find(|(name, ..)| *name == key) else {
        return "`farspan generate config` shows every key".to_owned();
    };
    match &place.origin {
        Some(Origin::Url(_)) => format!("for example {key}={value}{remark}"),
        Some(Origin::Flag(flag)) => {
            let flag = flag.split(' ').next().unwrap_or_default();
            format!("for example {flag} {value}{remark}")
        }
        Some(Origin::File(_) | Origin::Environment) | None => {
            let quote = if value.bytes().all(|byte| byte.is_ascii_digit()) { "" } else { "\"" };
            let remark = remark.replace("eth0:10,veth*:11", "{ eth0 = 10, \"veth*\" = 11 }");
            format!("for example {key} = {quote}{value}{quote}{remark}")
        }
    }
}
