//! A capture file of inner frames, a series of them, or standard output.

use std::time::Instant;

use super::origins::Origins;
use super::records::{About, Format};
use super::shared_file::{CannotCreate, Outlet, Run, SharedFile, Written};
use super::{Patience, Shared};
use crate::config::local_end::CaptureFilePlan;
use crate::frame::{InterfaceId, WireFrame};
use crate::ledger::{DestinationLedger, DropReason};
use crate::wire::pcapng::Interface;

/// A capture file of inner frames, or standard output, as one worker writes it.
///
/// Records are collected in memory of its own and written by [`flush`](Self::flush).
#[derive(Debug)]
pub struct CaptureFile {
    file: SharedFile,
    /// By what number the file knows each of the session's interfaces.
    interfaces: Vec<Option<Known>>,
    /// The file's numbers that none of the session's interfaces has, but a record that waits in the buffer may name.
    unused: Vec<u32>,
    origins: Origins,
    records: Vec<u8>,
    /// Where the records go if a program may read them: a pipe or a device.
    outlet: Option<Outlet>,
    /// When it is asked again what became of records that were given to a pipe.
    unsettled_until: Option<Instant>,
    /// When it is looked at again whether somebody else harmed the file.
    look_at: Option<Instant>,
    /// What every further frame is dropped for, once nothing can be written any more.
    closed: Option<DropReason>,
}

/// One of the session's interfaces.
#[derive(Debug)]
struct Known {
    name: String,
    number: u32,
}

impl CaptureFile {
    /// Room for several of the largest frames.
    const BUFFER: usize = 1 << 20;

    /// Creates the file, or takes standard output, and writes the file header with `interfaces`, the session's list; or
    /// joins those of the session who have done so.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn open(
        plan: &CaptureFilePlan,
        interfaces: &[String],
        patience: Patience,
        shared: &mut Shared,
    ) -> Result<Self, CannotCreate> {
        let file = shared.file(plan)?;
        let known = |name: &String| {
            let number = file.number_of(Interface { name: name.clone(), comment: None })?;
            Ok(Some(Known { name: name.clone(), number }))
        };
        let interfaces = interfaces.iter().map(known).collect::<Result<_, _>>()?;
        let outlet = file.outlet(patience, shared.backlog, shared.ending());
        Ok(Self::writing(file, interfaces, outlet))
    }

    /// Lets the file know an interface of this name, which frames call `interface` from now on.
    pub fn learn_interface(&mut self, interface: InterfaceId, name: &str) {
        let at = usize::from(interface.0);
        if self.interfaces.len() <= at {
            self.interfaces.resize_with(at + 1, || None);
        }
        let number = self.file.number_of_another(Interface { name: name.to_owned(), comment: None });
        if let Some(interface) = self.interfaces.get_mut(at) {
            let before = interface.replace(Known { name: name.to_owned(), number });
            self.unused.extend(before.map(|before| before.number));
        }
    }

    /// Forgets an interface: frames with this number are dropped until another one is learnt by it. What waits in the buffer
    /// is recorded under the name that was known.
    pub fn forget_interface(&mut self, interface: InterfaceId) {
        let known = self.interfaces.get_mut(usize::from(interface.0)).and_then(Option::take);
        self.unused.extend(known.map(|known| known.number));
    }

    fn writing(file: SharedFile, interfaces: Vec<Option<Known>>, outlet: Option<Outlet>) -> Self {
        let records = Vec::with_capacity(Self::BUFFER);
        let (unused, origins) = (Vec::new(), Origins::new());
        let (unsettled_until, look_at, closed) = (None, None, None);
        Self { file, interfaces, unused, origins, records, outlet, unsettled_until, look_at, closed }
    }

    /// Whether nothing can be written any more: the reader of the pipe has ended, or a record broke off in it.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// The error with which the file could last not be written.
    pub fn last_refusal(&self) -> Option<String> {
        self.file.last_refusal()
    }

    /// Appends one frame to the buffer.
    pub fn offer(&mut self, frame: &WireFrame<'_>, account: &mut DestinationLedger) {
        if let Some(reason) = self.closed {
            account.dropped[reason] += 1;
            return;
        }
        let Some(interface) = self.interface_of(frame) else {
            account.dropped[DropReason::UnknownInterface] += 1;
            return;
        };
        if self.records.len() + self.file.format.overhead() + frame.len() > Self::BUFFER {
            self.write(account);
        }
        let about =
            About { timestamp: frame.timestamp, wire_len: frame.wire_len, interface, direction: frame.direction };
        about.write(self.file.format, [frame.head, frame.body], &mut self.records);
        account.in_flight += 1;
    }

    /// Where the file says that the frame was seen: its tunnelled stream, or the session's interface. `None` when the
    /// interface is unknown.
    fn interface_of(&mut self, frame: &WireFrame<'_>) -> Option<u32> {
        let known = self.interfaces.get(usize::from(frame.interface.0))?.as_ref()?;
        let origin = frame.origin.filter(|_| self.file.format == Format::Pcapng);
        let stream = origin.and_then(|origin| self.origins.number_of(origin, &known.name, &self.file));
        Some(stream.unwrap_or(known.number))
    }

    /// Writes the buffer and gives every record its fate. Where time ends files, `now` may have ended the last one.
    pub fn flush(&mut self, now: Instant, account: &mut DestinationLedger) {
        if self.file.rotates_by_time {
            self.file.look_at_the_time(now);
        }
        if self.look_at.is_none_or(|at| now >= at) {
            // Before the records are written: they go to a file that is there.
            self.look_at = Some(SharedFile::next_look(now));
            account.lost_from_file += self.file.look(now);
        }
        self.write(account);
        self.collect(account);
        self.unsettled_until = self.outlet.as_ref().and_then(|outlet| outlet.deadline(now));
    }

    /// When the time of the file at hand is over, where time ends files, or what became of records is to be asked.
    pub fn deadline(&self) -> Option<Instant> {
        let over = self.file.rotates_by_time.then(|| self.file.deadline()).flatten();
        over.into_iter().chain(self.unsettled_until).min()
    }

    /// Takes in what became of records that were given to a pipe.
    fn collect(&mut self, account: &mut DestinationLedger) {
        let Some(outlet) = &mut self.outlet else { return };
        for Run { records, bytes, lost } in outlet.collect() {
            account.in_flight -= records;
            match lost {
                None => {
                    account.sent += records;
                    account.bytes += bytes;
                }
                Some(reason) => {
                    account.dropped[reason] += records;
                    self.closed = outlet.closed();
                }
            }
        }
    }

    fn write(&mut self, account: &mut DestinationLedger) {
        self.write_records(account);
        // No record of ours names them any more: other interfaces may have these numbers.
        self.unused.drain(..).for_each(|number| self.file.release(number));
    }

    fn write_records(&mut self, account: &mut DestinationLedger) {
        if self.records.is_empty() {
            return;
        }
        let format = self.file.format;
        let written = match &mut self.outlet {
            None => self.file.append(&self.records),
            Some(outlet) => match self.file.give(outlet, &self.records) {
                Ok(()) => {
                    self.records.clear();
                    self.origins.retry();
                    return;
                }
                Err(reason) => Written { bytes: 0, lost: Some(reason), closed: outlet.closed().is_some() },
            },
        };
        let (frames, bytes) = format.whole_records(&self.records[..written.bytes], usize::MAX);
        account.sent += frames;
        account.bytes += bytes as u64;
        account.in_flight -= frames;
        if let Some(reason) = written.lost {
            let (lost, _) = format.whole_records(&self.records[bytes..], usize::MAX);
            account.dropped[reason] += lost;
            account.in_flight -= lost;
            self.closed = written.closed.then_some(reason);
        }
        self.records.clear();
        self.origins.retry();
    }

    /// Writes the buffer and gives every record its fate: afterwards nothing is in flight, and the disk has what the plan
    /// wants it to have.
    pub fn finish(&mut self, account: &mut DestinationLedger) {
        self.write(account);
        self.outlet.iter_mut().for_each(Outlet::finish);
        self.collect(account);
        account.lost_from_file += self.file.finish();
    }
}

impl Drop for CaptureFile {
    fn drop(&mut self) {
        let interfaces = self.interfaces.iter().flatten().map(|known| known.number);
        interfaces
            .chain(self.unused.iter().copied())
            .chain(self.origins.numbers())
            .for_each(|number| self.file.release(number));
    }
}

#[cfg(test)]
impl CaptureFile {
    /// What it calls an interface.
    pub(super) fn name_of(&self, interface: InterfaceId) -> Option<&str> {
        self.interfaces.get(usize::from(interface.0))?.as_ref().map(|known| known.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::time::Duration;

    use super::super::Ending;
    use super::*;
    use crate::config::plan::FilePath;
    use crate::error::Explain as _;
    use crate::flow::FlowHash;
    use crate::quantity::Timestamp;
    use crate::wire::layers::Layers;

    const FRAME: [u8; 60] = [7; 60];

    fn frame(nanos: u64) -> WireFrame<'static> {
        let (head, body) = FRAME.split_at(20);
        WireFrame {
            head,
            body,
            wire_len: 1514,
            layers: Layers::default(),
            flow: FlowHash::default(),
            timestamp: Timestamp::from_nanos(nanos),
            direction: None,
            interface: InterfaceId(0),
            origin: None,
        }
    }

    /// A destination that writes to `file`, a pipe or a device.
    fn writing_to(file: File) -> CaptureFile {
        let file = SharedFile::writing_to(file);
        let outlet = file.outlet(Patience::Drop, 1 << 20, &Ending::default());
        CaptureFile::writing(file, vec![Some(Known { name: "eth0".to_owned(), number: 0 })], outlet)
    }

    /// Writes what was collected, and waits until its fate is known.
    fn flush(file: &mut CaptureFile, account: &mut DestinationLedger) {
        file.flush(Instant::now(), account);
        while file.deadline().is_some() {
            std::thread::sleep(Duration::from_millis(1));
            file.flush(Instant::now(), account);
        }
    }

    #[test]
    fn libpcap_reads_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inner.pcap");
        let mut account = DestinationLedger::default();
        let plan = CaptureFilePlan::plain(FilePath::Path(path.clone()));
        let mut file = CaptureFile::open(&plan, &["eth0".into()], Patience::Drop, &mut Shared::new(&[], 0)).unwrap();
        // More than the buffer holds, so that it is written in between too.
        for number in 0..20_000 {
            file.offer(&frame(1_700_000_000_123_456_789 + number), &mut account);
        }
        assert!(account.sent > 0 && account.in_flight > 0 && account.sent + account.in_flight == 20_000);
        file.finish(&mut account);
        let expected = DestinationLedger { sent: 20_000, bytes: 20_000 * 76, ..Default::default() };
        assert_eq!(account, expected);

        let mut capture = pcap::Capture::from_file_with_precision(path, pcap::Precision::Nano).unwrap();
        assert_eq!(capture.get_datalink(), pcap::Linktype::ETHERNET);
        for number in 0..20_000 {
            let packet = capture.next_packet().unwrap();
            assert_eq!((packet.data, packet.header.len), (&FRAME[..], 1514));
            assert_eq!((packet.header.ts.tv_sec, packet.header.ts.tv_usec), (1_700_000_000, 123_456_789 + number));
        }
        assert_eq!(capture.next_packet(), Err(pcap::Error::NoMorePackets));
    }

    #[test]
    fn a_reader_that_has_gone_closes_the_destination() {
        let (reader, writer) = io::pipe().unwrap();
        let mut file = writing_to(File::from(std::os::fd::OwnedFd::from(writer)));
        let mut account = DestinationLedger::default();
        file.offer(&frame(1), &mut account);
        flush(&mut file, &mut account);
        assert_eq!((account.sent, account.bytes, file.is_closed()), (1, 76, false));

        drop(reader);
        file.offer(&frame(2), &mut account);
        flush(&mut file, &mut account);
        assert!(file.is_closed());
        file.offer(&frame(3), &mut account);
        file.finish(&mut account);
        assert_eq!((account.sent, account.in_flight, account.dropped[DropReason::ReaderGone]), (1, 0, 2));
    }

    #[test]
    fn a_full_device_loses_what_it_does_not_take_and_is_tried_again() {
        let mut file = writing_to(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let mut account = DestinationLedger::default();
        for _ in 0..2 {
            file.offer(&frame(1), &mut account);
            flush(&mut file, &mut account);
        }
        assert_eq!((account.sent, account.in_flight, account.dropped[DropReason::WriteFailed]), (0, 0, 2));
        assert!(!file.is_closed());
    }

    #[test]
    fn a_file_that_cannot_be_created_says_why() {
        for (path, hint) in [
            ("/nowhere-at-all/x.pcap", "its directory does not exist"),
            ("/", "name a file inside the directory"),
            ("/dev/full", "make room on its disk, or choose another one"),
        ] {
            let plan = CaptureFilePlan::plain(FilePath::Path(path.into()));
            let Err(error) = CaptureFile::open(&plan, &[], Patience::Drop, &mut Shared::new(&[], 0)) else {
                panic!("{path} is no file")
            };
            assert_eq!(error.to_string(), format!("cannot write the capture file `{path}`"));
            assert_eq!(error.hint().as_deref(), Some(hint));
        }
    }
}
