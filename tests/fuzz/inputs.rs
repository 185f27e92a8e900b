//! What the fuzzer does with bytes: one function a target. Each calls the code that such bytes meet in operation, and
//! asserts what has to hold for all of them.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farspan::compare::{Comparing, Comparison, Kind, Order, compare_sources};
use farspan::config::endpoint;
use farspan::config::local_end::CaptureFilePlan;
use farspan::config::plan::{
    Decap, DestinationPlan, Encapsulation, End, EndPlan, FilePath, FilePlan, Fit, Gso, Host, Ids, LimitPlan,
    NormalisePlan, OuterPackets, PriorityPlan, Probe, SamplePlan, SessionPlan, SourcePlan, Spread, Tag, TransmitPlan,
    TunnelPlan, TunnelsPlan, UdpChecksum,
};
use farspan::daemon::control::{self, Answer, Command, Line};
use farspan::daemon::http::{Request, Response, Status, exchange};
use farspan::error::Explain;
use farspan::flow::FlowKey;
use farspan::frame::{Frame, InterfaceId, Offload, Unfinished};
use farspan::kernel;
use farspan::kernel::error_queue::Report;
use farspan::kernel::underlay::{NextHop, Underlay};
use farspan::ledger::{KernelDrops, Rewritten};
use farspan::normalise::Normaliser;
use farspan::quantity::{Dscp, Mtu, PortRange, SegmentLimit, Snaplen, Timestamp, Ttl, Vni, Weight};
use farspan::select::mirror_loop::MirrorLoop;
use farspan::session::Session;
use farspan::source::{self, Readiness, Source};
use farspan::wire::carrier::{Carrier, OwnTunnel};
use farspan::wire::decapsulate::{DecapsulateError, Decapsulated, Rules};
use farspan::wire::layers::{GRE, Layers, UDP};
use farspan::wire::nested::Nested;
use farspan::wire::nesting::{self, Walk};
use farspan::wire::reassembly::Reassembly;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a client sends to the page of metrics: it is answered in HTTP, or not at all while its head is not whole.
pub fn http(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let answer = runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let page = |request: &Request| {
            assert!(request.path.len() <= bytes.len());
            Response::text(Status::Ok, "page\n")
        };
        // A connection that the client has closed is an error that nobody is told of.
        let _ = exchange(server, page).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    });
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
    let head = bytes.windows(4).any(|end| end == b"\r\n\r\n");
    assert!(head || answer.is_empty() || !answer.starts_with(b"HTTP/1.1 200") || bytes.contains(&b'\n'));
}

/// A line of the control protocol, as either end reads it: what is understood means the same when it is written again.
pub fn control(bytes: &[u8]) {
    if let Ok(command) = control::read::<Command>(bytes) {
        assert_eq!(control::read::<Command>(&Line::of(&command)).unwrap(), command);
    }
    if let Ok(answer) = control::read::<Answer>(bytes) {
        let line = Line::of(&answer);
        let again = control::read::<Answer>(&line).unwrap();
        assert_eq!(Line::of(&again), line);
    }
}

/// What the kernel tells of links, neighbours and routes, and of datagrams that went wrong.
pub fn netlink(bytes: &[u8]) {
    let _ = kernel::reads_netlink(bytes);
    for entry in bytes.as_chunks().0 {
        if let Some(Report::TooBig(Some(mtu))) = kernel::reads_error(entry) {
            assert!(mtu.value() >= 552, "no ICMP error asks for less than the kernel's own least MTU");
        }
    }
}

/// A block of a packet ring; its frames are made wire-true with what it says of their offloads. However small it says that
/// segments are, the work has a bound.
pub fn ring_block(bytes: &[u8]) {
    let mut block = bytes.to_vec();
    let (mut frames, mut most) = (0, 0);
    let mut wire_frames = 0;
    let left = source::frames_of_block(&mut block, &mut |frame| {
        frames += 1;
        let made = normalise(frame);
        most = most.max(made);
        wire_frames += made;
        if let Offload::Exact(Unfinished { segment: Some(size), .. }) = frame.offload
            && size.get() < 8
            && made > 64
        {
            // Only UDP has so many segments that are so small.
            let packet = Layers::parse(frame.bytes).ip.unwrap();
            let nested = Nested::within(frame.bytes, packet);
            assert!(nested.packets().iter().any(|packet| packet.protocol == UDP));
        }
    });
    assert!(most <= u64::from(SegmentLimit::DEFAULT.value()), "one frame became {most}");
    assert!(wire_frames <= u64::from(frames) * u64::from(SegmentLimit::DEFAULT.value()));
    let promised = bytes.get(12..16).map_or(0, |count| u32::from_ne_bytes(count.try_into().unwrap()));
    assert_eq!(frames + left, promised);
}

/// One frame as each kind of source lends it.
pub fn wire(bytes: &[u8]) {
    let unknown = Offload::Unknown { mtu: Mtu::ETHERNET };
    for (wire_len, offload) in [(bytes.len(), Offload::Whole), (bytes.len(), unknown), (bytes.len() + 10, unknown)] {
        normalise(&frame(bytes, wire_len, offload));
    }
    nested(bytes);
}

/// What is inside a frame, and whether it is a mirror loop.
fn nested(bytes: &[u8]) {
    let layers = Layers::parse(bytes);
    let mut levels = 0;
    for level in Walk::new(bytes) {
        level.packet.address_pair(bytes);
        assert!(level.tunnels <= levels, "no packet is in more tunnels than there are packets around it");
        levels += 1;
    }
    assert!(levels < 2 || nesting::is_worth_a_walk(bytes, &layers));
    let own = OwnTunnel {
        local: [192, 0, 2, 1].into(),
        remote: [192, 0, 2, 2].into(),
        carrier: Carrier::Udp { sources: vec![4000], destination: 4789, vnis: vec![Vni::MAX] },
    };
    let flow = FlowKey::PUBLIC.flow(bytes, &layers);
    MirrorLoop::new(vec![own]).judge(&frame(bytes, bytes.len(), Offload::Whole), &layers, flow);
}

/// Makes a frame wire-true, and returns how many wire frames it became.
fn normalise(frame: &Frame<'_>) -> u64 {
    let layers = Layers::parse(frame.bytes);
    let flow = FlowKey::PUBLIC.flow(frame.bytes, &layers);
    let (mut out, mut pieces) = (vec![0; 1 << 18], 0);
    let given = Normaliser::new(None).apply(frame, &layers, flow, &mut Rewritten::default(), |wire| {
        pieces += 1;
        wire.copy_to(&mut out[..wire.len()]);
        assert_eq!(wire.layers.ethertype, layers.ethertype);
        ControlFlow::Continue(())
    });
    assert_eq!(given.unwrap_or(0), pieces);
    pieces
}

/// The payload of a tunnel, as each kind of socket gives it, as an IP packet of a file has it, and in an Ethernet frame.
/// The first byte says how many bytes the capture cut off.
pub fn decapsulate(bytes: &[u8]) {
    type Take = for<'a> fn(&Rules, &'a [u8], usize) -> Result<Decapsulated<'a>, DecapsulateError>;
    let ways: [Take; 6] = [
        |rules, bytes, missing| rules.take_from_vxlan(bytes, missing),
        |rules, bytes, missing| rules.take_from_geneve(bytes, missing),
        |rules, bytes, missing| rules.take_from_gre(bytes, missing),
        |rules, bytes, missing| rules.take_from_transport(UDP, bytes, missing),
        |rules, bytes, missing| rules.take_from_transport(GRE, bytes, missing),
        |rules, bytes, _| rules.take_from_frame(bytes).map(|(_, inner)| inner),
    ];
    let Some((&missing, bytes)) = bytes.split_first() else { return };
    let (generous, strict) = (Rules::default(), Rules { strict: true, ..Rules::default() });
    for take in ways {
        let taken = take(&generous, bytes, missing.into());
        let by_the_book = take(&strict, bytes, missing.into());
        let Ok(inner) = taken else {
            assert!(by_the_book.is_err(), "strict rules take what generous ones refuse");
            continue;
        };
        let refused = Err(DecapsulateError::ReservedBits);
        assert_eq!(by_the_book, if inner.notes.reserved_bits { refused } else { taken });
        assert!(bytes.as_ptr_range().start <= inner.bytes.as_ptr_range().start);
        assert!(inner.bytes.as_ptr_range().end <= bytes.as_ptr_range().end);
        let mut frame = Vec::new();
        inner.write(&mut frame);
        assert_eq!(frame.len(), inner.bytes.len() + inner.synthetic_header().map_or(0, |header| header.len()));
    }
}

/// `farspan receive` of a capture file, behind two bytes that say what is asked for: its packets are received, unwrapped,
/// tagged, filtered, ordered, made wire-true, written to a file, and relayed in a tunnel. Every one has its fate.
pub fn receive(bytes: &[u8]) {
    let Some((&[asked, levels], capture)) = bytes.split_first_chunk() else { return };
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), capture).unwrap();
    let outer = FilePath::Path(file.path().to_owned());
    let Some(packets) = packets_of(&outer) else { return };

    let way = Underlay::new([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), None, Mtu::ETHERNET, NextHop::Usable);
    let session = Session::open(&receiving(outer, asked, levels), &[None, Some(Arc::new(way))]);
    let ledger = session.unwrap_or_else(|problems| panic!("{problems:?}")).run_here();

    assert_eq!(ledger.balance(), Ok(()));
    // One fate for each packet; fragments share that of their datagram.
    assert!(ledger.captured <= packets, "{} of {packets}", ledger.captured);
    let received: u64 = ledger.senders.rows().iter().map(|row| row.received).sum();
    assert!(received <= ledger.captured);
    assert!(ledger.destinations.iter().all(|destination| destination.in_flight == 0));
    assert_eq!(ledger.destinations[0].sent, ledger.offered, "a file takes every frame");
}

/// How many packets can be read from a capture file; `None` if it is none.
fn packets_of(file: &FilePath) -> Option<u64> {
    let (mut source, mut packets) = (source::open_file(file).ok()?, 0);
    while let Ok(Readiness::More) = source.drain(Instant::now(), 1024, &mut |_| packets += 1) {}
    Some(packets)
}

/// The plan of a session that receives what is in `outer`: each bit of `asked` asks for something.
fn receiving(outer: FilePath, asked: u8, levels: u8) -> SessionPlan {
    let asks = |bit: u8| asked & 1 << bit != 0;
    let endpoints = ["vxlan://0.0.0.0?vni=42,50-59", "gre://[::]", "erspan://198.51.100.2", "geneve://0.0.0.0:6081"];
    let tunnels = TunnelsPlan {
        outer: OuterPackets::File(FilePlan::unpaced(outer)),
        endpoints: endpoints.iter().filter(|_| asks(0)).map(|url| endpoint::read(url).unwrap()).collect(),
        allow: ["198.51.100.0/25", "::/1"].iter().filter(|_| asks(1)).map(|prefix| prefix.parse().unwrap()).collect(),
        strict: asks(2),
        decap: if levels == 0 { Decap::All } else { Decap::Levels(1 + levels % 8) },
        tag: if asks(3) { Tag::Vlan } else { Tag::Off },
        reorder: asks(4).then_some(Duration::from_millis(5)),
    };
    let null = || FilePath::Path("/dev/null".into());
    let encapsulation = Encapsulation::Vxlan { vni: Ids::all(Vni::LEAST), port: 4789 };
    let relay = TunnelPlan {
        encapsulation,
        host: Host::Address([192, 0, 2, 1].into()),
        fit: Fit::Split,
        analyzer: None,
        source: None,
        device: None,
        ports: PortRange::DYNAMIC,
        dscp: Dscp::DEFAULT,
        ttl: Ttl::DEFAULT,
        udp_checksum: UdpChecksum::Auto,
        gso: Gso::Off,
        transmit: TransmitPlan::CaptureFile(null()),
        probe: Probe::Off,
        mtu: None,
        mtu_floor: Mtu::IPV6_LEAST,
        resolve: None,
        mark: None,
    };
    let destination = |name: &str, end| DestinationPlan {
        name: name.to_owned(),
        to: name.to_owned(),
        weight: Weight::default(),
        end,
    };
    SessionPlan {
        name: "fuzz".into(),
        source: SourcePlan::Tunnels(tunnels),
        decap: None,
        filter: if asks(5) { "ip or vlan".into() } else { String::new() },
        sample: SamplePlan::default(),
        seed: None,
        normalise: NormalisePlan {
            enabled: asks(6),
            mtu: Mtu::ETHERNET,
            truncate: asks(7).then(|| Snaplen::new(96).unwrap()),
            max_segments: Some(SegmentLimit::DEFAULT),
        },
        spread: Spread::Replicate,
        destinations: vec![
            destination("file", End::File(CaptureFilePlan::plain(null()))),
            destination("relay", End::Tunnel(relay)),
        ],
        limit: LimitPlan::default(),
        priority: PriorityPlan::default(),
        end: EndPlan::default(),
    }
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
        origin: None,
        offload,
        has_restored_tag: false,
        refused: None,
    }
}
