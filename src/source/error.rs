//! What can be wrong with a source, told to an operator.

use std::io;

use super::memory::NoRoom;
use super::recorded::Fault;
use crate::error::{ExitCode, Explain};
use crate::kernel::capabilities::{Capability, remedy};
use crate::kernel::link_events::LinksError;

/// Why a source cannot be opened, or why it ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A name that no interface has.
    #[error("there is no interface `{name}`")]
    NoSuchInterface {
        /// The name.
        name: String,
        /// The interfaces there are.
        present: Vec<String>,
    },
    /// A pattern that no interface's name matches.
    #[error("no interface matches `{pattern}`")]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// The interfaces there are.
        present: Vec<String>,
    },
    /// The memory or the number of interfaces is used up.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Nobody knows what interfaces there are.
    #[error(transparent)]
    NoList(#[from] LinksError),
    /// The process may not capture.
    #[error("not permitted to capture on `{interface}`: it takes the capability CAP_NET_RAW")]
    NotPermitted {
        /// The interface.
        interface: String,
        /// libpcap's words.
        #[source]
        cause: pcap::Error,
    },
    /// The interface is there, but not up.
    #[error("the interface `{interface}` is down")]
    InterfaceDown {
        /// The interface.
        interface: String,
        /// libpcap's words.
        #[source]
        cause: pcap::Error,
    },
    /// Anything else that libpcap refuses at start.
    #[error("cannot open capture on `{interface}`")]
    CannotOpen {
        /// The interface.
        interface: String,
        /// libpcap's words.
        #[source]
        cause: pcap::Error,
    },
    /// The kernel refuses the capture ring.
    #[error("cannot open the capture ring on `{interface}`")]
    CannotOpenRing {
        /// The interface.
        interface: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The kernel refuses to share an interface among workers.
    #[error("cannot share `{interface}` among several workers")]
    CannotShare {
        /// The interface.
        interface: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The kernel refuses the program that leaves out the datagrams of farspan's tunnels.
    #[error("cannot leave out marked frames on `{interface}`")]
    CannotLeaveOutMarked {
        /// The interface.
        interface: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// The ring was asked for by name, and it takes Ethernet interfaces only.
    #[error("`{interface}` is not an Ethernet interface, which the ring engine needs")]
    NoRing {
        /// The interface.
        interface: String,
    },
    /// The interface of a running capture is gone.
    #[error("the capture on `{interface}` ended")]
    InterfaceGone {
        /// The interface.
        interface: String,
        /// The kernel's words.
        #[source]
        cause: io::Error,
    },
    /// A running capture ended: as a rule, the interface is gone.
    #[error("the capture on `{interface}` ended")]
    CaptureEnded {
        /// The interface.
        interface: String,
        /// libpcap's words.
        #[source]
        cause: pcap::Error,
    },
    /// The descriptor that waits for both directions could not be made.
    #[error("cannot wait for both directions of `{interface}`")]
    CannotWait {
        /// The interface.
        interface: String,
        /// The kernel's word.
        #[source]
        cause: nix::Error,
    },
    /// A filter expression that libpcap does not compile.
    #[error("the filter `{expression}` is wrong")]
    BadFilter {
        /// As the operator wrote it.
        expression: String,
        /// Byte offset of the first word that cannot stand where it stands, where it could be found.
        fault: Option<usize>,
        /// libpcap's words.
        #[source]
        cause: pcap::Error,
    },
    /// libpcap does not compile any filter.
    #[error("cannot compile a filter")]
    NoCompiler(#[source] pcap::Error),
    /// A link type whose frames are neither Ethernet nor can become it.
    #[error("{place} has link type {link_type}, of which no Ethernet frames can be made")]
    UnsupportedLinkType {
        /// The interface or file.
        place: String,
        /// libpcap's name of the link type, or its number.
        link_type: String,
    },
    /// A file that is not there, or cannot be read.
    #[error("cannot read the capture file `{file}`")]
    Unreadable {
        /// Its path.
        file: String,
        /// The kernel's word.
        #[source]
        cause: io::Error,
    },
    /// A file of some other kind.
    #[error("`{file}` is not a capture file")]
    Foreign {
        /// Its path.
        file: String,
        /// What it looks like.
        kind: Option<ForeignKind>,
        /// What is wrong with its first bytes.
        #[source]
        cause: Fault,
    },
    /// A file that breaks off or goes wrong in the middle. The frames before were mirrored.
    #[error("the capture file `{file}` is damaged after frame {frames}")]
    Damaged {
        /// Its path.
        file: String,
        /// How many frames were read before.
        frames: u64,
        /// What is wrong, and where.
        #[source]
        cause: Fault,
    },
}

/// What a file is that is no capture file, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignKind {
    /// Nothing in it.
    Empty,
    /// A file that is compressed in another format than gzip and zstd, with the command that writes what is in it to
    /// standard output.
    Compressed(&'static str),
    /// Solaris snoop (RFC 1761).
    Snoop,
}

impl ForeignKind {
    /// Judges by the first bytes of a file.
    pub fn of(first: &[u8]) -> Option<Self> {
        match first {
            [] => Some(Self::Empty),
            [0xfd, b'7', b'z', b'X', ..] => Some(Self::Compressed("xz -dc")),
            [b'B', b'Z', b'h', ..] => Some(Self::Compressed("bzip2 -dc")),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Compressed("lz4 -dc")),
            [b'P', b'K', 3, 4, ..] => Some(Self::Compressed("unzip -p")),
            [b's', b'n', b'o', b'o', ..] => Some(Self::Snoop),
            _ => None,
        }
    }
}

/// A file name as a shell takes it.
fn quoted(file: &str) -> String {
    format!("'{}'", file.replace('\'', "'\\''"))
}

impl SourceError {
    /// Whether another interface would only say the same again.
    pub(super) fn is_general(&self) -> bool {
        matches!(self, Self::NotPermitted { .. } | Self::BadFilter { .. } | Self::NoList(_))
    }
}

impl Explain for SourceError {
    fn place(&self) -> Option<String> {
        match self {
            Self::BadFilter { expression, fault: Some(offset), .. } => {
                let column = expression.get(..*offset)?.chars().count() + 1;
                Some(format!("column {column} of the filter"))
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchInterface { name, present } if name.contains([',', ' ']) => {
                Some(format!("give -i once for each; interfaces here are {}", present.join(", ")))
            }
            Self::NoSuchInterface { present, .. } | Self::NoMatch { present, .. } => {
                Some(format!("interfaces here are {}", present.join(", ")))
            }
            Self::NotPermitted { .. } => Some(remedy(&[Capability::CAP_NET_RAW])),
            Self::InterfaceDown { interface, .. } => Some(format!("ip link set {interface} up")),
            Self::CannotOpenRing { .. } => {
                Some("a smaller --buffer needs less kernel memory; --engine pcap captures with libpcap".to_owned())
            }
            Self::CannotShare { .. } => Some("it takes Linux 4.12 or newer; without `workers` there is one".to_owned()),
            Self::CannotLeaveOutMarked { .. } => {
                Some("the filter may be too long: 5 instructions of the kernel's 4096 are for the mark".to_owned())
            }
            Self::NoRing { .. } => Some("--engine auto or pcap makes Ethernet frames of other link types".to_owned()),
            Self::InterfaceGone { interface, .. } | Self::CaptureEnded { interface, .. } => {
                Some(format!("look at `ip link show {interface}` and the kernel log"))
            }
            Self::BadFilter { expression, fault: Some(offset), .. } => {
                let before = expression.get(..*offset)?.chars().count();
                let line = expression.replace(char::is_whitespace, " ");
                let what = if *offset == expression.len() {
                    "something is missing here"
                } else {
                    "not understood from here on"
                };
                Some(format!("{line}\n{:before$}^ {what}; pcap-filter(7) has the syntax", ""))
            }
            Self::BadFilter { .. } => Some("pcap-filter(7) has the syntax".to_owned()),
            Self::UnsupportedLinkType { .. } => Some(format!("supported are {}", super::link_type::SUPPORTED)),
            Self::Unreadable { cause, .. } => match cause.kind() {
                io::ErrorKind::NotFound => Some("check the path; `-` reads standard input".to_owned()),
                io::ErrorKind::PermissionDenied => {
                    Some("check the permissions of the file and its directories".to_owned())
                }
                io::ErrorKind::IsADirectory => Some("name one capture file inside the directory".to_owned()),
                _ => None,
            },
            Self::Foreign { file, kind, .. } => Some(match kind {
                Some(ForeignKind::Empty) => {
                    "the file is empty: was the capture stopped before its header was written?".to_owned()
                }
                Some(ForeignKind::Compressed(command)) => {
                    format!("only gzip and zstd are decompressed here: {command} {} > decompressed.pcap", quoted(file))
                }
                Some(ForeignKind::Snoop) => {
                    format!("it is a snoop capture: editcap -F pcap {} converted.pcap", quoted(file))
                }
                None => "pcap and pcapng are read, also compressed with gzip or zstd; editcap -F pcap converts most other captures"
                    .to_owned(),
            }),
            Self::Damaged { .. } => {
                Some("the frames before are good; the rest of the file cannot be trusted".to_owned())
            }
            Self::NoList(error) => error.hint(),
            Self::NoRoom(error) => error.hint(),
            Self::NoCompiler(_) | Self::CannotOpen { .. } | Self::CannotWait { .. } => None,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoSuchInterface { .. }
            | Self::NoMatch { .. }
            | Self::UnsupportedLinkType { .. }
            | Self::Unreadable { .. }
            | Self::Foreign { .. } => ExitCode::NoInput,
            Self::NotPermitted { .. } => ExitCode::NotPermitted,
            Self::NoList(error) => error.exit_code(),
            Self::BadFilter { .. } => ExitCode::Usage,
            _ => ExitCode::Failed,
        }
    }
}
