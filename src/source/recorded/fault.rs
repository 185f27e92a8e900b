//! What can be wrong with the bytes of a capture file.

use std::io;

use super::LARGEST_FRAME;

/// Why a capture file cannot be read from some byte on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file ends inside a record.
    #[error("the file is truncated: it ends inside the record that begins at byte {0}")]
    Truncated(u64),
    /// The file ends inside its header.
    #[error("the file is truncated: it ends inside its header")]
    NoHeader,
    /// Neither format begins like this.
    #[error("it begins with the bytes {}", hex(.0))]
    Magic(Vec<u8>),
    /// A version that is not known.
    #[error("version {major}.{minor} of the format is not supported (byte {at})")]
    Version {
        /// Where its section begins.
        at: u64,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// A frame that is longer than frames are.
    #[error("the frame at byte {at} claims {length} bytes: at most {LARGEST_FRAME} are possible")]
    FrameLength {
        /// Where its record begins.
        at: u64,
        /// What it claims.
        length: u32,
    },
    /// A block whose length cannot be.
    #[error("the block at byte {at} claims a length of {length} bytes, which its type does not allow")]
    BlockLength {
        /// Where it begins.
        at: u64,
        /// What it claims.
        length: u32,
    },
    /// The length at the end of a block is not the one at its start.
    #[error("a block ends at byte {at} with another length than it begins with")]
    Trailer {
        /// Where it ends.
        at: u64,
    },
    /// A section whose byte order cannot be told.
    #[error("the section at byte {at} has no valid byte-order magic")]
    ByteOrder {
        /// Where it begins.
        at: u64,
    },
    /// A frame of an interface that was not described.
    #[error("the frame at byte {at} belongs to interface {interface}, which the section does not describe")]
    NoInterface {
        /// Where its block begins.
        at: u64,
        /// The number of the interface.
        interface: u32,
    },
    /// More interfaces than a section can sensibly have.
    #[error("the section describes more than {0} interfaces")]
    TooManyInterfaces(usize),
    /// The file, or what decompresses it, cannot be read on.
    #[error("{error} (byte {at} of the capture)")]
    Unreadable {
        /// How far it could be read.
        at: u64,
        /// The kernel's or the decompressor's words.
        error: io::Error,
    },
    /// What is compressed is compressed again.
    #[error("it is compressed twice")]
    CompressedTwice,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
