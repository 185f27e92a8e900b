//! The dry run: outer frames go to a capture file as they would leave. It needs no privilege and no network.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::Patience;
use super::batch::{Batch, Datagram};
use super::encapsulate::outer_len;
use super::open_error::OpenError;
use super::outer;
use super::records::About;
use super::shared_file::{Outlet, Run, SharedFile, Written};
use super::transmit::{Transmit, count_dropped, count_sent};
use crate::config::plan::TunnelPlan;
use crate::frame::WireFrame;
use crate::kernel::underlay::Underlay;
use crate::ledger::{DestinationLedger, DropReason};
use crate::wire::outer::{Outer, TooLong, Transport};

/// Writes the outer frames of one destination.
#[derive(Debug)]
pub(super) struct DryRun {
    batch: Batch,
    /// Everything of the outer headers that does not change from datagram to datagram.
    outer: Outer,
    /// The source port of each bucket; empty for GRE.
    sources: Vec<u16>,
    underlay: Arc<Underlay>,
    file: SharedFile,
    /// By what number the file knows this destination.
    interface: u32,
    /// Records of the batch at hand.
    records: Vec<u8>,
    /// The datagrams that have one, each with where its last record ends.
    recorded: Vec<(Datagram, usize)>,
    /// Where the records go if a program may read them: a pipe or a device.
    outlet: Option<Outlet>,
    /// The datagrams that were given to a pipe, each with how many bytes of its records are not settled, and why it is lost.
    given: VecDeque<Given>,
    /// The outer frame at hand.
    packet: Vec<u8>,
    /// Bytes of outer IP and UDP in front of each datagram.
    outer_len: usize,
    /// When it is looked at again whether somebody else harmed the file.
    look_at: Option<Instant>,
    /// Whether nothing can be written any more.
    closed: bool,
}

/// A datagram whose records wait for the program that reads a pipe.
#[derive(Clone, Copy, Debug)]
struct Given {
    datagram: Datagram,
    /// Bytes of its records that are neither written nor lost.
    unsettled: u64,
    lost: Option<DropReason>,
}

impl DryRun {
    /// Writes to `file`, as its `interface`, what sockets would send from `sources`, the ports of the buckets.
    ///
    /// # Errors
    /// When the source address is of another family than the analyzer's.
    pub(super) fn new(
        plan: &TunnelPlan,
        underlay: &Arc<Underlay>,
        sources: Vec<u16>,
        (file, interface): (SharedFile, u32),
        outlet: Option<Outlet>,
    ) -> Result<Self, OpenError> {
        let outer = outer::headers(plan, underlay)?;
        Ok(Self {
            batch: Batch::new(),
            outer,
            sources,
            underlay: Arc::clone(underlay),
            file,
            interface,
            records: Vec::new(),
            recorded: Vec::new(),
            outlet,
            given: VecDeque::new(),
            packet: Vec::new(),
            outer_len: outer_len(&plan.encapsulation, underlay.remote()),
            look_at: None,
            closed: false,
        })
    }

    /// Appends the records of one datagram: several when it is fragmented.
    fn record(&mut self, datagram: &Datagram) -> Result<(), TooLong> {
        let bytes = self.batch.bytes_of(datagram);
        if let (Transport::Udp { source_port, .. }, Some(&port)) =
            (&mut self.outer.transport, self.sources.get(datagram.bucket as usize))
        {
            *source_port = port;
        }
        // With the time at which the inner frame was captured.
        let (records, format, interface) = (&mut self.records, self.file.format, self.interface);
        let mut append = |packet: &[u8]| {
            let wire_len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
            let about = About { timestamp: datagram.timestamp, wire_len, interface, direction: None };
            about.write(format, [&[], packet], records);
        };
        if self.outer.dont_fragment {
            self.packet.clear();
            self.outer.write(bytes, &mut self.packet)?;
            append(&self.packet);
            Ok(())
        } else {
            self.outer.identification = self.outer.identification.wrapping_add(1);
            self.outer.write_fragments(bytes, self.underlay.mtu(), &mut self.packet, append)
        }
    }
}

impl DryRun {
    /// Remembers the datagrams whose records a pipe has.
    fn note_given(&mut self) {
        let mut start = 0;
        for &(datagram, end) in &self.recorded {
            self.given.push_back(Given { datagram, unsettled: (end - start) as u64, lost: None });
            start = end;
        }
    }

    /// Takes in what became of records that were given to a pipe: a datagram is sent when all of its records are written.
    fn collect(&mut self, account: &mut DestinationLedger) {
        let Some(outlet) = &mut self.outlet else { return };
        for Run { mut bytes, lost, .. } in outlet.collect() {
            while let Some(first) = self.given.front_mut().filter(|_| bytes > 0) {
                let here = bytes.min(first.unsettled);
                bytes -= here;
                first.unsettled -= here;
                first.lost = first.lost.or(lost);
                let Given { datagram, unsettled, lost } = *first;
                if unsettled > 0 {
                    break;
                }
                self.given.pop_front();
                match lost {
                    None => count_sent(account, self.outer_len + datagram.len(), datagram.cut),
                    Some(reason) => count_dropped(account, reason, 1),
                }
            }
            self.closed |= lost.is_some() && outlet.closed().is_some();
        }
    }
}

impl Transmit for DryRun {
    fn push(&mut self, header_len: usize, frame: &WireFrame<'_>, bucket: u32, cut: bool) -> Option<&mut [u8]> {
        self.batch.push(header_len, frame, bucket, cut)
    }

    fn waiting(&self) -> usize {
        self.batch.len()
    }

    fn each_header(&mut self, each: &mut dyn FnMut(&mut [u8])) {
        self.batch.each_header(each);
    }

    /// In the order in which the datagrams came, whatever their bucket.
    fn send(&mut self, _: Patience, account: &mut DestinationLedger) {
        self.records.clear();
        self.recorded.clear();
        for position in 0..self.batch.len() {
            let datagram = self.batch.datagrams()[position];
            match self.record(&datagram) {
                Ok(()) => self.recorded.push((datagram, self.records.len())),
                Err(TooLong(_)) => count_dropped(account, DropReason::Oversize, 1),
            }
        }
        self.batch.clear();
        let written = match &mut self.outlet {
            None => self.file.append(&self.records),
            Some(outlet) => match self.file.give(outlet, &self.records) {
                Ok(()) => {
                    self.note_given();
                    return;
                }
                Err(reason) => Written { bytes: 0, lost: Some(reason), closed: outlet.closed().is_some() },
            },
        };
        let stand = self.recorded.partition_point(|&(_, end)| end <= written.bytes);
        for (datagram, _) in &self.recorded[..stand] {
            count_sent(account, self.outer_len + datagram.len(), datagram.cut);
        }
        if let Some(reason) = written.lost {
            count_dropped(account, reason, self.recorded.len() - stand);
        }
        self.closed = written.closed;
    }

    fn keep(&mut self, count: usize) -> usize {
        self.batch.truncate(count)
    }

    fn settle(&mut self, now: Instant, account: &mut DestinationLedger) {
        if self.look_at.is_none_or(|at| now >= at) {
            self.look_at = Some(SharedFile::next_look(now));
            account.lost_from_file += self.file.look(now);
        }
        self.collect(account);
    }

    fn unsettled_until(&self, now: Instant) -> Option<Instant> {
        self.outlet.as_ref().and_then(|outlet| outlet.deadline(now))
    }

    fn finish(&mut self, account: &mut DestinationLedger) {
        self.outlet.iter_mut().for_each(Outlet::finish);
        self.collect(account);
        account.lost_from_file += self.file.finish();
    }

    fn collect_reports(&mut self, _: &mut DestinationLedger) -> Option<io::Error> {
        // The file says itself why it cannot be written.
        None
    }

    fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::super::Shared;
    use super::super::testing::{frame, plan, udp_frame, underlay, vxlan};
    use super::super::tunnel::Tunnel;
    use super::*;
    use crate::config::plan::{DestinationPlan, Encapsulation, FilePath, Fit, TransmitPlan};
    use crate::kernel::underlay::NextHop;

    /// A destination of `fit` and `encapsulation` that is dry-run into `path`, over a path of 1500 bytes.
    fn dry_run(path: &Path, encapsulation: Encapsulation, fit: Fit, shared: &mut Shared) -> Tunnel {
        let (destination, plan) = planned(path, encapsulation, fit);
        // The next hop is of no interest: nothing leaves.
        let underlay = underlay("192.0.2.1", 1500, NextHop::Failed);
        Tunnel::open(&destination, &plan, &underlay, &["eth0".into()], Patience::Drop, shared).unwrap()
    }

    fn planned(path: &Path, encapsulation: Encapsulation, fit: Fit) -> (DestinationPlan, TunnelPlan) {
        let (destination, mut plan) = plan(encapsulation, "192.0.2.1".parse().unwrap(), fit);
        plan.transmit = TransmitPlan::CaptureFile(FilePath::Path(path.to_owned()));
        (destination, plan)
    }

    /// What libpcap reads from the file: seconds, microseconds and bytes of each record.
    fn records(path: &Path) -> Vec<(i64, Vec<u8>)> {
        let mut capture = pcap::Capture::from_file_with_precision(path, pcap::Precision::Nano).unwrap();
        let mut records = Vec::new();
        while let Ok(packet) = capture.next_packet() {
            records.push((packet.header.ts.tv_sec * 1_000_000_000 + packet.header.ts.tv_usec, packet.data.to_vec()));
        }
        records
    }

    #[test]
    fn outer_frames_are_written_as_they_would_leave() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dry.pcap");
        let mut tunnel = dry_run(&path, vxlan(4789), Fit::Split, &mut Shared::new(&[], 0));
        let mut account = DestinationLedger::default();
        let inner = [udp_frame(1, 10), udp_frame(2, 1000)];
        for bytes in &inner {
            tunnel.offer(&frame(bytes), &mut account);
        }
        tunnel.finish(Instant::now(), &mut account);
        assert_eq!((account.sent, account.in_flight), (2, 0));
        assert_eq!(tunnel.own_tunnel(), None);

        let records = records(&path);
        assert_eq!(account.bytes, records.iter().map(|(_, bytes)| bytes.len() as u64 - 14).sum::<u64>());
        for ((time, bytes), inner) in records.iter().zip(&inner) {
            assert_eq!(*time, i64::try_from(frame(inner).timestamp.nanos()).unwrap());
            let outer = SlicedPacket::from_ethernet(bytes).unwrap();
            let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&outer.net, &outer.transport) else {
                panic!("not UDP over IPv4")
            };
            assert!(ip.header().dont_fragment());
            assert!((49152..49152 + 16).contains(&udp.source_port()));
            assert_eq!((udp.destination_port(), udp.checksum()), (4789, 0));
            assert_eq!(udp.payload()[..8], [8, 0, 0, 0, 0, 0, 42, 0]);
            assert_eq!(&udp.payload()[8..], inner);
        }
    }

    #[test]
    fn fit_fragment_writes_outer_fragments_that_are_the_datagram_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fragments.pcap");
        let mut tunnel = dry_run(&path, vxlan(4789), Fit::Fragment, &mut Shared::new(&[], 0));
        let mut account = DestinationLedger::default();
        let inner = udp_frame(1, 4000);
        tunnel.offer(&frame(&inner), &mut account);
        tunnel.finish(Instant::now(), &mut account);
        assert_eq!((account.sent, account.datagrams), (1, 1));

        let mut payload = Vec::new();
        for (_, bytes) in records(&path) {
            assert!(bytes.len() <= 14 + 1500);
            let outer = SlicedPacket::from_ethernet(&bytes).unwrap();
            let Some(NetSlice::Ipv4(ip)) = outer.net else { panic!("not IPv4") };
            assert!(!ip.header().dont_fragment());
            assert_eq!(usize::from(ip.header().fragments_offset().value()) * 8, payload.len());
            payload.extend_from_slice(ip.payload().payload);
        }
        assert_eq!(&payload[8 + 8..], inner);
    }

    #[test]
    fn destinations_that_name_one_file_share_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("both.pcap");
        let mut shared = Shared::new(&[], 0);
        let mut first = dry_run(&path, vxlan(4789), Fit::Split, &mut shared);
        let mut second = dry_run(&path, Encapsulation::Erspan1, Fit::Split, &mut shared);
        let mut account = DestinationLedger::default();
        let inner = udp_frame(1, 10);
        let mut send = |tunnel: &mut Tunnel| {
            tunnel.offer(&frame(&inner), &mut account);
            tunnel.flush(Instant::now(), &mut account);
        };
        send(&mut first);
        send(&mut second);
        send(&mut first);
        let protocols: Vec<u8> = records(&path).iter().map(|(_, bytes)| bytes[14 + 9]).collect();
        assert_eq!(protocols, [17, 47, 17]);
    }

    /// Otherwise `farspan mirror … --transmit pcap:- | tcpdump -c 5 -r -` would go on for nobody.
    #[test]
    fn a_reader_that_has_gone_closes_the_destination() {
        let (reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut tunnel = dry_run(Path::new(&path), vxlan(4789), Fit::Split, &mut Shared::new(&[], 0));
        let mut account = DestinationLedger::default();
        let inner = udp_frame(1, 10);
        let send = |account: &mut DestinationLedger, tunnel: &mut Tunnel| {
            tunnel.offer(&frame(&inner), account);
            tunnel.flush(Instant::now(), account);
            while account.in_flight > 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                tunnel.flush(Instant::now(), account);
            }
        };
        send(&mut account, &mut tunnel);
        assert_eq!((account.sent, tunnel.is_closed()), (1, false));
        drop(reader);
        send(&mut account, &mut tunnel);
        assert_eq!((account.sent, account.dropped[DropReason::ReaderGone], tunnel.is_closed()), (1, 1, true));
    }

    #[test]
    fn a_file_that_cannot_be_made_or_written_is_said() {
        let nowhere = Path::new("/nonexistent/dry.pcap");
        let (destination, plan) = planned(nowhere, vxlan(4789), Fit::Split);
        let underlay = underlay("192.0.2.1", 1500, NextHop::Usable);
        let shared = &mut Shared::new(&[], 0);
        let error = Tunnel::open(&destination, &plan, &underlay, &["eth0".into()], Patience::Drop, shared).unwrap_err();
        assert_eq!(error.to_string(), "cannot write the capture file `/nonexistent/dry.pcap`");

        let (destination, plan) = planned(Path::new("/dev/full"), vxlan(4789), Fit::Split);
        let error = Tunnel::open(&destination, &plan, &underlay, &["eth0".into()], Patience::Drop, shared).unwrap_err();
        assert_eq!(error.to_string(), "cannot write the capture file `/dev/full`");
    }
}
