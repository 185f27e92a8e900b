//! The records of a capture file, as one worker collects them before they are written.

use crate::config::plan::FilePath;
use crate::quantity::{Direction, Timestamp};
use crate::wire::pcap::{FileHeader, RecordHeader};
use crate::wire::pcapng::{self, EnhancedPacket};

/// The two kinds of capture files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Classic pcap with nanoseconds: what every program and every pipe takes.
    Pcap,
    /// pcapng: knows interfaces and directions.
    Pcapng,
}

impl Format {
    /// By the name: `.pcapng` is pcapng, everything else and standard output pcap.
    pub(super) fn of(file: &FilePath) -> Self {
        let is_pcapng = match file {
            FilePath::Standard => false,
            FilePath::Path(path) => path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("pcapng")),
        };
        if is_pcapng { Self::Pcapng } else { Self::Pcap }
    }

    /// What a file begins with, before any interface.
    pub(super) fn file_header(self) -> Vec<u8> {
        match self {
            Self::Pcap => FileHeader::bytes().to_vec(),
            Self::Pcapng => pcapng::section_header(concat!("farspan ", env!("CARGO_PKG_VERSION"))),
        }
    }

    /// Most bytes that a record has beside its frame.
    pub(super) const fn overhead(self) -> usize {
        match self {
            Self::Pcap => RecordHeader::LEN,
            Self::Pcapng => EnhancedPacket::HEADER_LEN + EnhancedPacket::MOST_TRAILER_LEN,
        }
    }

    /// How many whole records `records` begins with, and their length in bytes; no more than fit into `room` bytes.
    pub(super) fn whole_records(self, records: &[u8], room: usize) -> (u64, usize) {
        let room = room.min(records.len());
        let (mut count, mut end) = (0, 0);
        while let Some(length) = self.record_len(&records[end..]).filter(|length| length + end <= room) {
            count += 1;
            end += length;
        }
        (count, end)
    }

    /// Length of the record that begins `records`, if its own length is there.
    pub(super) fn record_len(self, records: &[u8]) -> Option<usize> {
        match self {
            Self::Pcap => RecordHeader::record_len(records),
            Self::Pcapng => pcapng::block_len(records),
        }
    }
}

/// What a record says about its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    /// When it was captured.
    pub(super) timestamp: Timestamp,
    /// Length on the wire in bytes.
    pub(super) wire_len: u32,
    /// Its interface, as the file knows it.
    pub(super) interface: u32,
    /// Which way it went, where known.
    pub(super) direction: Option<Direction>,
}

impl About {
    /// Appends the record of a frame, whose bytes are in two parts.
    pub(super) fn write(&self, format: Format, [head, body]: [&[u8]; 2], records: &mut Vec<u8>) {
        let captured = u32::try_from(head.len() + body.len()).unwrap_or(u32::MAX);
        let Self { timestamp, wire_len, interface, direction } = *self;
        match format {
            Format::Pcap => {
                records.extend_from_slice(&RecordHeader { timestamp, captured, wire_len }.bytes());
                records.extend_from_slice(head);
                records.extend_from_slice(body);
            }
            Format::Pcapng => {
                let packet = EnhancedPacket { interface, timestamp, captured, wire_len, direction };
                records.extend_from_slice(&packet.header());
                records.extend_from_slice(head);
                records.extend_from_slice(body);
                packet.write_trailer(records);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_record_is_not_a_record() {
        for format in [Format::Pcap, Format::Pcapng] {
            let about = About { timestamp: Timestamp::default(), wire_len: 4, interface: 0, direction: None };
            let mut records = Vec::new();
            about.write(format, [&[1], &[1; 3]], &mut records);
            let one = records.len();
            assert!(one <= 4 + format.overhead());
            about.write(format, [&[], &[1; 4]], &mut records);
            assert_eq!(format.whole_records(&records, usize::MAX), (2, 2 * one));
            assert_eq!(format.whole_records(&records[..2 * one - 1], usize::MAX), (1, one));
            assert_eq!(format.whole_records(&records, 2 * one - 1), (1, one));
            assert_eq!(format.whole_records(&records[..3], usize::MAX), (0, 0));
        }
    }

    #[test]
    fn the_suffix_says_the_format() {
        let of = |name: &str| Format::of(&name.parse().unwrap());
        assert_eq!((of("a.pcapng"), of("b-{time}.PCAPNG")), (Format::Pcapng, Format::Pcapng));
        assert_eq!((of("a.pcap"), of("-"), of("pcapng")), (Format::Pcap, Format::Pcap, Format::Pcap));
    }
}
