//! Workers for tests: their sources are made up, and what they mirror goes nowhere.

use std::time::Duration;

use super::contact::{Contact, Failures};
use super::path::Path;
use super::worker::Worker;
use crate::config::local_end::CaptureFilePlan;
use crate::config::plan::{FilePath, SamplePlan};
use crate::destination::Shared;
use crate::destination::capture_file::CaptureFile;
use crate::destination::{Destination, Destinations};
use crate::frame::{Frame, InterfaceId, Offload};
use crate::ledger::Ledger;
use crate::normalise::Normaliser;
use crate::quantity::Timestamp;
use crate::select::Selector;
use crate::select::own_traffic::OwnTraffic;
use crate::source::Source;

/// A frame of the smallest size.
pub(super) const FRAME: Frame<'_> = Frame {
    has_restored_tag: false,
    refused: None,
    bytes: &[2; 60],
    wire_len: 60,
    timestamp: Timestamp::from_nanos(0),
    direction: None,
    interface: InterfaceId(0),
    origin: None,
    offload: Offload::Whole,
};

fn ledger() -> Ledger {
    Ledger::new([("1", "pcap:/dev/null")])
}

pub(super) fn contact() -> Contact {
    Contact::open(ledger(), Failures::default(), None).unwrap()
}

pub(super) fn worker(sources: Vec<Box<dyn Source>>, contact: &Contact, count: Option<u64>) -> Worker {
    let plan = CaptureFilePlan::plain(FilePath::Path("/dev/null".into()));
    let nowhere = CaptureFile::open(&plan, &["eth0".into()], &mut Shared::new(&[], 0)).unwrap();
    let path = Path {
        inside: None,
        selector: Selector::new(OwnTraffic::default(), crate::flow::FlowKey::PUBLIC, SamplePlan::default()),
        normaliser: Normaliser::new(None),
        destinations: Destinations::new(vec![Destination::File(nowhere)]),
        ledger: ledger(),
    };
    Worker::new(sources, path, contact.clone(), Duration::from_millis(2), count).unwrap()
}
