//! Several capture files as one stream, in the order of their timestamps.
//!
//! Each file is a lane, of which only the next frame is looked at: frames of one file keep their order, whatever their
//! timestamps. Of frames with the same timestamp, those of the file that was named first come first. Nothing is taken while
//! a lane that has not ended has no frame: a pipe may be about to bring an older one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use pcap::Linktype;

use super::error::{ForeignKind, SourceError};
use super::filter::{Asks, FrameFilter};
use super::link_type::{self, LinkKind};
use super::recorded::{Described, Fault, Next, Reader, Record, Refusal};
use crate::config::plan::FilePath;
use crate::frame::InterfaceId;
use crate::quantity::Timestamp;

/// Files that are read together.
pub(super) struct Lanes {
    files: Vec<Lane>,
    /// For each lane with a frame: its timestamp, and the lane.
    order: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// Lanes without a frame that have not ended.
    empty: Vec<usize>,
    /// Wakes for pipes: those that are waited for.
    wake: Option<Epoll>,
    names: Names,
    /// Why lanes ended before their time.
    failures: Vec<SourceError>,
}

/// What is there to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// A frame of the lane of this number.
    Frame(usize),
    /// Nothing before a pipe has more.
    Waiting,
    /// Nothing any more.
    Ended,
}

/// One frame that is there to be taken.
pub(super) struct Front<'a> {
    /// The bytes that were captured, with the header of its own link type.
    pub captured: &'a [u8],
    /// What the file says about it.
    pub record: &'a Record,
    /// What is known about its interface.
    pub link: Link,
}

/// What is done with the frames of an interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// How they become Ethernet; `None` when they cannot.
    pub kind: Option<LinkKind>,
    /// What the filter asks them.
    pub asks: Asks,
    /// Which of the session's interfaces it is.
    pub interface: InterfaceId,
    /// Number of its link type (`LINKTYPE_…`).
    number: u16,
    /// Length of the frame check sequence that is taken off its frames.
    fcs_len: u8,
    /// Whether a frame of it was seen, and what becomes of its frames was said.
    is_told: bool,
}

struct Lane {
    reader: Reader,
    name: String,
    /// Its number as an interface of the session.
    interface: InterfaceId,
    /// The interfaces of the section at hand.
    links: Vec<Link>,
    /// Link types about which something was said already.
    told: Vec<u16>,
    front: Option<Record>,
    /// The timestamp of the latest frame, which a frame without one shares.
    latest: Timestamp,
}

/// The names of interfaces that files have described.
#[derive(Default)]
struct Names {
    /// Whether anybody wants to know them.
    are_wanted: bool,
    /// The first number that no file has.
    first: u16,
    numbers: HashMap<String, InterfaceId>,
    /// Those that nobody has been told yet: with the file that described them.
    news: Vec<(InterfaceId, String, usize)>,
}

impl Names {
    /// So many names have numbers of their own. Frames of further interfaces belong to their file.
    const MOST: usize = 1024;

    /// The number of the interface that file number `lane` calls `name`, if it has one.
    fn number_of(&mut self, name: &str, lane: usize) -> Option<InterfaceId> {
        if let Some(&number) = self.numbers.get(name) {
            return Some(number);
        }
        if !self.are_wanted || self.numbers.len() >= Self::MOST {
            return None;
        }
        let number = InterfaceId(self.first.checked_add(u16::try_from(self.numbers.len()).ok()?)?);
        self.numbers.insert(name.to_owned(), number);
        self.news.push((number, name.to_owned(), lane));
        Some(number)
    }
}

impl Lanes {
    /// Opens `files`, of which each is an interface of the session, and asks their frames what `filter` asks. With
    /// `with_names`, interfaces that a file names are interfaces of their own.
    pub fn open(files: &[FilePath], filter: &FrameFilter, with_names: bool) -> Result<Self, SourceError> {
        let first = u16::try_from(files.len()).unwrap_or(u16::MAX);
        let names = Names { are_wanted: with_names, first, ..Names::default() };
        let mut lanes = Self {
            files: Vec::new(),
            order: BinaryHeap::with_capacity(files.len()),
            empty: Vec::with_capacity(files.len()),
            wake: None,
            names,
            failures: Vec::new(),
        };
        for (file, number) in files.iter().zip(0..) {
            let lane = Lane::open(file, InterfaceId(number))?;
            lanes.empty.push(lanes.files.len());
            lanes.files.push(lane);
            lanes.learn_first_interfaces(filter)?;
        }
        lanes.prepare_to_wait().map_err(|cause| {
            let file = files.first().map(ToString::to_string).unwrap_or_default();
            SourceError::Unreadable { file, cause }
        })?;
        Ok(lanes)
    }

    /// Reads the lane that was opened last until an interface is described, and what else there is before its first frame.
    /// A file that has none of which Ethernet frames can be made until then is refused.
    fn learn_first_interfaces(&mut self, filter: &FrameFilter) -> Result<(), SourceError> {
        let number = self.files.len() - 1;
        let mut unsupported = None;
        loop {
            let Some(lane) = self.files.get_mut(number) else { return Ok(()) };
            match lane.reader.next() {
                Ok(Next::Section) => lane.links.clear(),
                Ok(Next::Interface(described)) => {
                    let link = lane.learn(&described, filter, &mut self.names, number);
                    if link.kind.is_none() {
                        unsupported.get_or_insert(described.link_type);
                    } else if link.asks == Asks::Unanswerable {
                        return filter.refusal().map_or(Ok(()), Err);
                    }
                }
                Ok(Next::Waiting) if lane.links.is_empty() => {
                    let waited = lane.reader.wait();
                    waited.map_err(|cause| SourceError::Unreadable { file: lane.name.clone(), cause })?;
                }
                Ok(Next::Waiting) => break,
                Ok(Next::Record(record)) => {
                    self.hold(number, record);
                    break;
                }
                Ok(Next::Ended) => {
                    self.empty.retain(|&lane| lane != number);
                    break;
                }
                Err(fault) => {
                    // Where it began well, this is told like any damage: when it is read.
                    self.fail(number, fault);
                    break;
                }
            }
        }
        let Some(lane) = self.files.get(number) else { return Ok(()) };
        match unsupported {
            Some(link_type) if lane.links.iter().all(|link| link.kind.is_none()) => {
                Err(SourceError::UnsupportedLinkType { place: lane.name.clone(), link_type: name_of(link_type) })
            }
            _ => Ok(()),
        }
    }

    /// What is there to be taken.
    ///
    /// # Errors
    /// When every lane has ended, and one of them before its time.
    pub fn ready(&mut self, filter: &FrameFilter) -> Result<Ready, SourceError> {
        if !self.empty.is_empty() {
            self.refill(filter);
            if !self.empty.is_empty() {
                return Ok(Ready::Waiting);
            }
        }
        match self.order.peek() {
            Some(&Reverse((_, lane))) => Ok(Ready::Frame(lane)),
            None => self.failures.pop().map_or(Ok(Ready::Ended), Err),
        }
    }

    /// The frame that is there to be taken from the lane of this number.
    pub fn front(&self, lane: usize) -> Option<Front<'_>> {
        let lane = self.files.get(lane)?;
        let record = lane.front.as_ref()?;
        let link = *lane.links.get(record.interface)?;
        Some(Front { captured: lane.reader.bytes(record), record, link })
    }

    /// Takes it: the lane's next frame is looked for.
    pub fn advance(&mut self, filter: &FrameFilter) {
        let Some(Reverse((_, lane))) = self.order.pop() else { return };
        self.empty.push(lane);
        self.refill(filter);
    }

    /// Tells interfaces that nobody was told yet: number, name, and the file that they are in.
    pub fn tell_news(&mut self, learn: &mut dyn FnMut(InterfaceId, &str, &str)) {
        for (interface, name, lane) in self.names.news.drain(..) {
            let file = self.files.get(lane).map_or("", |lane| &lane.name);
            learn(interface, &name, file);
        }
    }

    /// Whether there are interfaces that nobody was told yet.
    pub fn has_news(&self) -> bool {
        !self.names.news.is_empty()
    }

    /// The descriptor that becomes readable when the pipes that are waited for have more; none where all are files.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.wake.as_ref().map(|wake| wake.0.as_fd())
    }

    /// Asks to be woken when one of the pipes that are waited for has more.
    pub fn ask_to_be_woken(&mut self) -> io::Result<()> {
        let Some(wake) = &self.wake else { return Ok(()) };
        for &number in &self.empty {
            let Some(descriptor) = self.files.get(number).and_then(|lane| lane.reader.descriptor()) else { continue };
            // Once: a pipe whose frame is there already, and which has more, is not waited for.
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, number as u64);
            wake.modify(descriptor, &mut event)?;
        }
        Ok(())
    }

    /// Bytes of all files; `None` if one of them is a pipe.
    pub fn size(&self) -> Option<u64> {
        self.files.iter().map(|lane| lane.reader.size()).sum()
    }

    /// Bytes of the files that are done with.
    pub fn position(&self) -> u64 {
        self.files.iter().map(|lane| lane.reader.position()).sum()
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|lane| lane.name.as_str())
    }

    fn prepare_to_wait(&mut self) -> io::Result<()> {
        for (number, lane) in self.files.iter().enumerate() {
            let Some(descriptor) = lane.reader.descriptor() else { continue };
            let wake = match &mut self.wake {
                Some(wake) => wake,
                none => none.insert(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?),
            };
            wake.add(descriptor, EpollEvent::new(EpollFlags::EPOLLONESHOT, number as u64))?;
        }
        // The first wait is asked for when it is known what for.
        Ok(())
    }

    /// Looks for the next frame of each lane that has none.
    fn refill(&mut self, filter: &FrameFilter) {
        let mut at = 0;
        while let Some(&number) = self.empty.get(at) {
            let Some(lane) = self.files.get_mut(number) else { return };
            match lane.reader.next() {
                Ok(Next::Record(record)) => {
                    self.hold(number, record);
                }
                Ok(Next::Section) => lane.links.clear(),
                Ok(Next::Interface(described)) => {
                    lane.learn(&described, filter, &mut self.names, number);
                }
                Ok(Next::Waiting) => at += 1,
                Ok(Next::Ended) => {
                    self.empty.swap_remove(at);
                }
                Err(fault) => self.fail(number, fault),
            }
        }
    }

    fn hold(&mut self, number: usize, record: Record) {
        let Some(lane) = self.files.get_mut(number) else { return };
        lane.latest = record.timestamp.unwrap_or(lane.latest);
        if let Some(link) = lane.links.get_mut(record.interface).filter(|link| !link.is_told) {
            link.is_told = true;
            let link = *link;
            lane.tell(&link);
        }
        self.order.push(Reverse((lane.latest, number)));
        lane.front = Some(record);
        self.empty.retain(|&lane| lane != number);
    }

    /// A lane is damaged: the others go on.
    fn fail(&mut self, number: usize, fault: Fault) {
        self.empty.retain(|&lane| lane != number);
        let Some(lane) = self.files.get(number) else { return };
        let failure = SourceError::Damaged { file: lane.name.clone(), frames: lane.reader.frames(), cause: fault };
        if self.failures.is_empty() {
            self.failures.push(failure);
        } else {
            tracing::error!("{failure}");
        }
    }
}

impl Lane {
    fn open(path: &FilePath, interface: InterfaceId) -> Result<Self, SourceError> {
        let name = path.to_string();
        let reader = Reader::open(path).map_err(|refusal| match refusal {
            Refusal::Unreadable(cause) => SourceError::Unreadable { file: name.clone(), cause },
            Refusal::Foreign { fault, first } => {
                // What a decompressor refuses says nothing about what is in it.
                let is_readable = !matches!(fault, Fault::Unreadable { .. } | Fault::CompressedTwice);
                let kind = is_readable.then(|| ForeignKind::of(&first)).flatten();
                SourceError::Foreign { file: name.clone(), kind, cause: fault }
            }
        })?;
        let (links, told) = (Vec::new(), Vec::new());
        Ok(Self { reader, name, interface, links, told, front: None, latest: Timestamp::default() })
    }

    /// Adds an interface to the section at hand.
    fn learn(&mut self, described: &Described, filter: &FrameFilter, names: &mut Names, number: usize) -> Link {
        let libpcap = libpcaps_number(described.link_type);
        let kind = LinkKind::of(libpcap);
        let interface = described.name.as_deref().and_then(|name| names.number_of(name, number));
        let link = Link {
            kind,
            asks: filter.of(libpcap),
            interface: interface.unwrap_or(self.interface),
            number: described.link_type,
            fcs_len: described.fcs_len,
            is_told: false,
        };
        self.links.push(link);
        link
    }

    /// Says once what becomes of frames of this kind, if they are not Ethernet as they are.
    fn tell(&mut self, link: &Link) {
        const MOST: usize = 64;
        let is_plain = link.kind == Some(LinkKind::Ethernet) && link.fcs_len == 0;
        if is_plain || self.told.contains(&link.number) || self.told.len() >= MOST {
            return;
        }
        self.told.push(link.number);
        let (place, link_type) = (&self.name, name_of(link.number));
        match link.kind {
            None => tracing::warn!(
                "{place} has an interface of link type {link_type}, of which no Ethernet frames can be made: its frames are \
                 counted undecodable; supported are {}",
                link_type::SUPPORTED
            ),
            Some(LinkKind::Ethernet) => {}
            Some(_) => tracing::info!("{place} has link type {link_type}: its frames get a synthetic Ethernet header"),
        }
        if link.fcs_len > 0 {
            let bytes = link.fcs_len;
            tracing::info!("{place} has a frame check sequence of {bytes} bytes behind each frame: it is taken off");
        }
    }
}

/// The number by which libpcap knows a link type (`DLT_…`): it differs from the file's for raw IP.
fn libpcaps_number(link_type: u16) -> Linktype {
    const LINKTYPE_RAW: u16 = 101;
    if link_type == LINKTYPE_RAW { Linktype::RAW } else { Linktype(link_type.into()) }
}

fn name_of(link_type: u16) -> String {
    libpcaps_number(link_type).get_name().unwrap_or_else(|_| link_type.to_string())
}
