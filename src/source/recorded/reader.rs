//! One capture file: from bytes to records, in the order of the file.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::blocks::{Blocks, SECTION_HEADER};
use super::classic::Classic;
use super::input::{Compression, Filled, Input};
use super::{Described, Fault, Found, Step};
use crate::config::plan::FilePath;
use crate::quantity::{Direction, Timestamp};

/// Reads one capture file.
pub(in crate::source) struct Reader {
    input: Input,
    window: Window,
    format: Format,
    /// Bytes to be passed over, of which some were not read yet.
    skip: u64,
    /// A classic file's one interface, until it is told.
    untold: Option<Described>,
    /// Where the latest record begins, in bytes of the capture.
    record_at: u64,
    /// Frames that were found so far.
    frames: u64,
}

/// What comes next in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) enum Next {
    /// A frame, whose bytes are there until the next one is asked for.
    Record(Record),
    /// The interfaces that follow are numbered from 0 again.
    Section,
    /// The interface with the next number.
    Interface(Described),
    /// Nothing yet: wait until the descriptor is readable.
    Waiting,
    /// The file has ended.
    Ended,
}

/// One frame of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) struct Record {
    window: Range<usize>,
    /// Length of the frame before the capture cut it, without a frame check sequence.
    pub wire_len: u32,
    /// When it was captured; `None` where the file does not say.
    pub timestamp: Option<Timestamp>,
    /// The number of its interface in the section.
    pub interface: usize,
    /// Which way it went, where the file says.
    pub direction: Option<Direction>,
}

/// Why a file is not read at all.
#[derive(Debug)]
pub(in crate::source) enum Refusal {
    /// It cannot be opened.
    Unreadable(io::Error),
    /// It is not a capture, as far as its first bytes tell.
    Foreign {
        /// What is wrong with it.
        fault: Fault,
        /// Its first bytes.
        first: Vec<u8>,
    },
}

enum Format {
    Classic(Classic),
    Blocks(Blocks),
}

/// Bytes that were read and not consumed.
struct Window {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// How many bytes of the capture were consumed.
    consumed: u64,
}

impl Window {
    /// Room for the longest block that is looked at as a whole, and for a read beside it.
    const SIZE: usize = Blocks::MOST_AT_ONCE + Self::AT_ONCE;
    /// Bytes that are read at once: few enough to stay in the processor's cache until they are used.
    const AT_ONCE: usize = 128 * 1024;

    fn new() -> Self {
        Self { bytes: vec![0; Self::SIZE].into_boxed_slice(), start: 0, end: 0, consumed: 0 }
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.consumed += bytes as u64;
    }

    /// Where the next read goes, so that `needed` bytes can be there.
    fn room(&mut self, needed: usize) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.start < needed.max(Self::AT_ONCE) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
        let most = self.bytes.len().min(self.end + Self::AT_ONCE.max(needed - self.len()));
        &mut self.bytes[self.end..most]
    }
}

impl Reader {
    /// Opens a file and reads its header. Waits for the other end of a pipe, and for the header.
    pub fn open(path: &FilePath) -> Result<Self, Refusal> {
        let mut input = Input::open(path).map_err(Refusal::Unreadable)?;
        let mut window = Window::new();
        match Format::recognise(&mut input, &mut window) {
            Ok(format) => Ok(Self::reading(input, window, format)),
            Err(fault) => Err(Refusal::Foreign { fault, first: window.unread().iter().copied().take(8).collect() }),
        }
    }

    fn reading(input: Input, window: Window, format: Format) -> Self {
        let (untold, skip) = match &format {
            Format::Classic(classic) => (Some(classic.described().clone()), Classic::HEADER_LEN as u64),
            Format::Blocks(_) => (None, 0),
        };
        Self { input, window, format, skip, untold, record_at: 0, frames: 0 }
    }

    /// What comes next. The bytes of the record before are gone then. After an error there is nothing more.
    pub fn next(&mut self) -> Result<Next, Fault> {
        if let Some(described) = self.untold.take() {
            return Ok(Next::Interface(described));
        }
        loop {
            let passed = self.skip.min(self.window.len() as u64);
            self.window.consume(usize::try_from(passed).unwrap_or(0));
            self.skip -= passed;
            let needed = if self.skip > 0 {
                // All that is there was passed over, and there is more of it.
                1
            } else {
                let at = self.window.consumed;
                if self.is_between_records() {
                    self.record_at = at;
                }
                let step = match &mut self.format {
                    Format::Classic(classic) => classic.step(self.window.unread(), at),
                    Format::Blocks(blocks) => blocks.step(self.window.unread(), at),
                }?;
                match step {
                    Step::Need(needed) => needed,
                    Step::Skip(length) => {
                        self.skip = length;
                        continue;
                    }
                    Step::Section(length) => {
                        self.skip = length;
                        return Ok(Next::Section);
                    }
                    Step::Interface(described, length) => {
                        self.skip = length;
                        return Ok(Next::Interface(described));
                    }
                    Step::Frame(found) => {
                        self.skip = found.record_len;
                        self.frames += 1;
                        return Ok(Next::Record(self.record(found)));
                    }
                }
            };
            match self.input.fill(self.window.room(needed)) {
                Ok(Filled::Bytes(read)) => self.window.end += read,
                Ok(Filled::Waiting) => return Ok(Next::Waiting),
                Ok(Filled::End) if self.window.len() == 0 && self.skip == 0 && self.is_between_records() => {
                    return Ok(Next::Ended);
                }
                Ok(Filled::End) => return Err(Fault::Truncated(self.record_at)),
                Err(error) => {
                    let at = self.window.consumed + self.window.len() as u64;
                    return Err(Fault::Unreadable { at, error });
                }
            }
        }
    }

    /// The bytes of the record that was found last.
    pub fn bytes(&self, record: &Record) -> &[u8] {
        self.window.bytes.get(record.window.clone()).unwrap_or_default()
    }

    /// Waits until [`Next::Waiting`] is over.
    pub fn wait(&self) -> io::Result<()> {
        self.input.wait()
    }

    /// The descriptor that becomes readable when [`Next::Waiting`] is over; none for a regular file.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.input.descriptor()
    }

    /// How many frames were found so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Size of the file in bytes; `None` for a pipe.
    pub fn size(&self) -> Option<u64> {
        self.input.size()
    }

    /// How many bytes of the file are done with. What a decompressor has read ahead counts as done.
    pub fn position(&self) -> u64 {
        if self.input.is_compressed() { self.input.taken() } else { self.window.consumed }
    }

    fn is_between_records(&self) -> bool {
        match &self.format {
            Format::Classic(_) => true,
            Format::Blocks(blocks) => blocks.is_between_blocks(),
        }
    }

    /// A SPAN port shows no frame check sequence: it is taken off, as far as the capture has it.
    fn record(&self, found: Found) -> Record {
        let Found { bytes, wire_len, fcs_len, timestamp, interface, direction, .. } = found;
        let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let wire_len = wire_len.max(captured).saturating_sub(fcs_len.into());
        let kept = bytes.len().min(wire_len as usize);
        let start = self.window.start + bytes.start;
        Record { window: start..start + kept, wire_len, timestamp, interface, direction }
    }
}

impl Format {
    /// Reads as much as tells the format, through a decompressor if that is how it begins.
    fn recognise(input: &mut Input, window: &mut Window) -> Result<Self, Fault> {
        loop {
            let Some(&first) = read(input, window, 4)?.first_chunk() else {
                let bytes = window.unread();
                return Err(if bytes.is_empty() { Fault::NoHeader } else { Fault::Magic(bytes.to_vec()) });
            };
            if let Some(compression) = Compression::of(first) {
                if input.is_compressed() {
                    return Err(Fault::CompressedTwice);
                }
                let seen = window.unread().to_vec();
                (window.start, window.end) = (0, 0);
                input.decompress(compression, seen).map_err(|error| Fault::Unreadable { at: 0, error })?;
            } else if first == SECTION_HEADER.to_be_bytes() {
                return Ok(Self::Blocks(Blocks::new()));
            } else if let Some(order) = Classic::order(first) {
                let header = read(input, window, Classic::HEADER_LEN)?;
                let header = header.first_chunk().ok_or(Fault::NoHeader)?;
                return Classic::new(order, header).map(Self::Classic);
            } else {
                return Err(Fault::Magic(first.to_vec()));
            }
        }
    }
}

/// Reads until so many bytes are there, or the end is. Waits for a pipe.
fn read<'w>(input: &mut Input, window: &'w mut Window, needed: usize) -> Result<&'w [u8], Fault> {
    let unreadable = |error| Fault::Unreadable { at: 0, error };
    while window.len() < needed {
        match input.fill(window.room(needed)).map_err(unreadable)? {
            Filled::Bytes(read) => window.end += read,
            Filled::Waiting => input.wait().map_err(unreadable)?,
            Filled::End => break,
        }
    }
    Ok(window.unread())
}
