//! What the fuzzer does with bytes: one function a target. Each calls the code that such bytes meet in operation, and
//! asserts what has to hold for all of them.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use farspan::compare::{Comparing, Comparison, Kind, Order, compare_sources};
use farspan::config::plan::FilePath;
use farspan::error::Explain;
use farspan::flow::FlowHash;
use farspan::frame::{Frame, InterfaceId, Offload};
use farspan::ledger::{KernelDrops, Rewritten};
use farspan::normalise::Normaliser;
use farspan::quantity::{Mtu, Timestamp};
use farspan::source::{self, Readiness, Source};
use farspan::wire::decapsulate::{DecapsulateError, Rules};
use farspan::wire::layers::Layers;
use farspan::wire::reassembly::Reassembly;

/// A block of a packet ring; its frames are made wire-true with what it says of their offloads.
pub fn ring_block(bytes: &[u8]) {
    let mut block = bytes.to_vec();
    let mut frames = 0;
    let left = source::frames_of_block(&mut block, &mut |frame| {
        frames += 1;
        normalise(frame);
    });
    let promised = bytes.get(12..16).map_or(0, |count| u32::from_ne_bytes(count.try_into().unwrap()));
    assert_eq!(frames + left, promised);
}

/// One frame as each kind of source lends it.
pub fn wire(bytes: &[u8]) {
    let unknown = Offload::Unknown { mtu: Mtu::ETHERNET };
    for (wire_len, offload) in [(bytes.len(), Offload::Whole), (bytes.len(), unknown), (bytes.len() + 10, unknown)] {
        normalise(&frame(bytes, wire_len, offload));
    }
}

fn normalise(frame: &Frame<'_>) {
    let layers = Layers::parse(frame.bytes);
    let flow = FlowHash::of(frame.bytes, &layers);
    let (mut out, mut pieces) = (vec![0; 1 << 18], 0);
    let given = Normaliser::new(None).apply(frame, &layers, flow, &mut Rewritten::default(), |wire| {
        pieces += 1;
        wire.copy_to(&mut out[..wire.len()]);
        assert_eq!(wire.layers.ethertype, layers.ethertype);
    });
    assert_eq!(given.unwrap_or(0), pieces);
}

/// Outer frames, of which each may be a fragment of a tunnel packet.
pub fn tunnel(bytes: &[u8]) {
    for strict in [false, true] {
        let (rules, mut reassembly) = (Rules { strict, ..Rules::default() }, Reassembly::default());
        for (number, recorded) in recorded(bytes).into_iter().enumerate() {
            let outer = recorded.bytes.as_slice();
            let Some(packet) = Layers::parse(outer).ip else { continue };
            let inner = match rules.take_from_packet(outer, &packet) {
                Err(DecapsulateError::Fragment) => {
                    let now = Timestamp::from_nanos(number as u64);
                    let Ok(Some((bytes, packet))) = reassembly.add(outer, &packet, now) else { continue };
                    let whole = rules.take_from_packet(bytes, &packet);
                    assert_ne!(whole, Err(DecapsulateError::Fragment));
                    whole.map_or(0, |inner| inner.bytes.len())
                }
                taken => taken.map_or(0, |inner| inner.bytes.len()),
            };
            assert!(inner < 65_536 || inner < outer.len());
        }
    }
}

/// A capture file, read to its end or to its first fault.
pub fn capture_file(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let Ok(mut source) = source::open_file(&FilePath::Path(file.path().to_owned())) else { return };
    let (mut frames, now) = (0, Instant::now());
    while let Ok(Readiness::More) = source.drain(now, 16, &mut |frame| {
        frames += 1;
        assert!(frame.bytes.len() <= bytes.len() + 14);
        assert!(frame.wire_len as usize >= frame.bytes.len());
    }) {}
    assert!(frames <= bytes.len());
}

/// Two captures: every frame of both is accounted for, and a capture is the same as itself.
pub fn compare(bytes: &[u8]) {
    let mut frames = recorded(bytes);
    let b = frames.split_off(frames.len() / 2);
    for (order, decapsulate) in [(Order::Global, false), (Order::Flow, true), (Order::None, false)] {
        let rules =
            Comparing { order, decapsulate: [decapsulate; 2], window: 4096, most: usize::MAX, ..Comparing::default() };
        let comparison = compared(&frames, &b, &rules);
        for (side, numbers) in [
            (0, (|difference| &difference.a) as fn(&farspan::compare::Difference) -> &Vec<u64>),
            (1, |difference| &difference.b),
        ] {
            let unequal = comparison.differences.iter().filter(|difference| difference.kind != Kind::Reordered);
            let listed: usize = unequal.map(|difference| numbers(difference).len()).sum();
            assert_eq!(comparison.identical + listed as u64, comparison.tallies[side].compared);
        }
        assert!(compared(&frames, &frames, &rules).is_same());
        assert!(!comparison.table().to_string().is_empty());
    }
}

/// A frame of a capture, and its length on the wire.
#[derive(Clone)]
struct Recorded {
    bytes: Vec<u8>,
    wire_len: usize,
}

/// Takes bytes as frames, each behind its length in two bytes, little-endian. The highest bit says that it was cut.
fn recorded(mut bytes: &[u8]) -> Vec<Recorded> {
    let mut frames = Vec::new();
    while let Some((&[low, high], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high & 0x7f])).min(rest.len());
        let (frame, behind) = rest.split_at(length);
        frames.push(Recorded { bytes: frame.to_vec(), wire_len: frame.len() + usize::from(high >> 7) });
        bytes = behind;
    }
    frames
}

fn compared(a: &[Recorded], b: &[Recorded], rules: &Comparing) -> Comparison {
    let source = |frames: &[Recorded]| -> Box<dyn Source> { Box::new(InMemory(frames.iter().cloned().collect())) };
    compare_sources([source(a), source(b)], ["a".to_owned(), "b".to_owned()], rules).unwrap()
}

struct InMemory(VecDeque<Recorded>);

impl Source for InMemory {
    fn drain(
        &mut self,
        _now: Instant,
        budget: usize,
        each: &mut dyn FnMut(&Frame<'_>),
    ) -> Result<Readiness, Box<dyn Explain>> {
        for _ in 0..budget {
            let Some(recorded) = self.0.pop_front() else { return Ok(Readiness::Ended) };
            each(&frame(&recorded.bytes, recorded.wire_len, Offload::Whole));
        }
        Ok(Readiness::More)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kernel_drops(&mut self) -> KernelDrops {
        KernelDrops::default()
    }
}

fn frame(bytes: &[u8], wire_len: usize, offload: Offload) -> Frame<'_> {
    Frame {
        bytes,
        wire_len: u32::try_from(wire_len).unwrap(),
        timestamp: Timestamp::default(),
        direction: None,
        interface: InterfaceId(0),
        offload,
        has_restored_tag: false,
        refused: None,
    }
}
