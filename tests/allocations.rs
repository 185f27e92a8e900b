//! The way of a frame into a tunnel, and out of one, allocates nothing once it is warm: counted, not assumed.
#![allow(unsafe_code, reason = "a global allocator that counts is an unsafe trait")]
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farspan::config::endpoint;
use farspan::config::local_end::{CaptureFilePlan, Rotation, Sync};
use farspan::config::plan::{
    Decap, DestinationPlan, Encapsulation, End, EndPlan, FilePath, Fit, Gso, Host, Ids, LimitPlan, NormalisePlan,
    OuterPackets, PriorityPlan, Probe, SamplePlan, SessionPlan, SourcePlan, Spread, Tag, TransmitPlan, TunnelPlan,
    TunnelsPlan, UdpChecksum,
};
use farspan::destination::capture_file::CaptureFile;
use farspan::destination::tunnel::Tunnel;
use farspan::destination::{Destination, Destinations, Patience, Shared};
use farspan::flow::FlowKey;
use farspan::frame::{InterfaceId, WireFrame};
use farspan::kernel::underlay::{NextHop, Underlay};
use farspan::ledger::{Ledger, Published};
use farspan::quantity::{Dscp, Mtu, PortRange, SegmentLimit, Timestamp, Ttl, Vni, Weight};
use farspan::source::{self, Source};
use farspan::wire::layers::Layers;
use farspan::wire::vxlan::Vxlan;

/// The system's allocator, and how often this thread asked it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's; counting touches only a thread-local that needs no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps GlobalAlloc::alloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, so from System, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// VXLAN to `port` of this host, over a path of 1500 bytes.
fn tunnel(port: u16, fit: Fit) -> Destination {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let plan = TunnelPlan {
        encapsulation: Encapsulation::Vxlan { vni: Ids::all(Vni::MAX), port },
        host: Host::Address(localhost),
        fit,
        analyzer: None,
        source: None,
        device: None,
        ports: PortRange::DYNAMIC,
        dscp: Dscp::DEFAULT,
        ttl: Ttl::DEFAULT,
        udp_checksum: UdpChecksum::Auto,
        gso: Gso::On,
        transmit: TransmitPlan::Socket,
        probe: Probe::Off,
        mtu: None,
        mtu_floor: Mtu::IPV6_LEAST,
        resolve: None,
        mark: None,
    };
    let name = String::from("1");
    let destination =
        DestinationPlan { name, to: String::from("test"), weight: Weight::default(), end: End::Tunnel(plan.clone()) };
    let way = Arc::new(Underlay::new(localhost, localhost, None, Mtu::ETHERNET, NextHop::Usable));
    let interfaces = [String::from("eth0")];
    let shared = &mut Shared::new(&[], 0);
    Destination::Tunnel(Tunnel::open(&destination, &plan, &way, &interfaces, Patience::Drop, shared).unwrap())
}

/// A TCP segment with `payload` bytes, in an Ethernet frame.
fn tcp_frame(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .tcp(40_000, 80, 1, 1000)
        .write(&mut bytes, &vec![7; payload])
        .unwrap();
    bytes
}

/// Gives 1,000 frames of `sizes` to every destination, with a flush after each hundred.
fn run(destinations: &mut Destinations, ledger: &mut Ledger, frames: &[Vec<u8>], now: Instant) {
    for number in 0..1000 {
        let bytes = &frames[number % frames.len()];
        let layers = Layers::parse(bytes);
        ledger.captured += 1;
        let frame = WireFrame {
            head: &[],
            body: bytes,
            wire_len: u32::try_from(bytes.len()).unwrap(),
            layers,
            flow: FlowKey::PUBLIC.flow(bytes, &layers),
            timestamp: Timestamp::default(),
            direction: None,
            interface: InterfaceId::default(),
            origin: None,
        };
        destinations.offer(&frame, ledger);
        if number % 100 == 99 {
            destinations.flush(now, ledger);
        }
    }
}

#[test]
fn neither_sending_nor_splitting_nor_icmp_errors_nor_publishing_allocate() {
    let listening = UdpSocket::bind("127.0.0.1:0").unwrap();
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hearing = listening.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let file = FilePath::Path(directory.path().join("record-{number}.pcapng"));
    let rotation = Rotation { size: Some(1 << 30), time: Some(Duration::from_hours(1)), keep: None };
    let record = CaptureFilePlan { rotation, sync: Sync::Off, ..CaptureFilePlan::plain(file) };
    let record = CaptureFile::open(&record, &["eth0".into()], Patience::Drop, &mut Shared::new(&[], 0)).unwrap();
    let mut destinations = Destinations::new(vec![
        tunnel(hearing, Fit::Split),
        tunnel(hearing, Fit::Truncate),
        tunnel(hearing, Fit::Fragment),
        tunnel(deaf, Fit::Drop),
        Destination::File(record),
    ]);
    let names = [("1", "split"), ("2", "truncate"), ("3", "fragment"), ("4", "deaf"), ("5", "record")];
    let mut ledger = Ledger::new(names);
    let frames: Vec<Vec<u8>> = [0, 10, 500, 1410, 1460, 3000].into_iter().map(tcp_frame).collect();
    let start = Instant::now();
    run(&mut destinations, &mut ledger, &frames, start);
    let published = Published::new(ledger.clone());

    let before = ALLOCATIONS.get();
    run(&mut destinations, &mut ledger, &frames, start);
    published.update(&ledger);
    assert_eq!(ALLOCATIONS.get() - before, 0);

    assert_eq!(published.read(), ledger);

    destinations.finish(start, &mut ledger);
    assert_eq!(ledger.balance(), Ok(()));
    assert!(ledger.destinations[0].split_added > 0);
    assert!(ledger.destinations[1].truncated > 0);
    assert!(ledger.destinations[3].icmp.port_unreachable > 0);
}

/// A VXLAN endpoint on `port` of this host, with everything that is done to a frame.
fn endpoint(port: u16) -> Box<dyn Source> {
    let written = format!("vxlan://127.0.0.1:{port}?vni=0-99");
    let tunnels = TunnelsPlan {
        outer: OuterPackets::Sockets { buffer: 1 << 20 },
        endpoints: vec![endpoint::read(&written).unwrap()],
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        strict: false,
        decap: Decap::All,
        tag: Tag::Vlan,
        reorder: None,
    };
    let plan = SessionPlan {
        name: "test".into(),
        source: SourcePlan::Tunnels(tunnels),
        decap: None,
        filter: "ip or vlan".into(),
        sample: SamplePlan::default(),
        seed: None,
        normalise: NormalisePlan {
            enabled: false,
            mtu: Mtu::ETHERNET,
            truncate: None,
            max_segments: Some(SegmentLimit::DEFAULT),
        },
        spread: Spread::Replicate,
        destinations: Vec::new(),
        limit: LimitPlan::default(),
        priority: PriorityPlan::default(),
        end: EndPlan::default(),
    };
    source::open(&plan).unwrap().shares.remove(0).remove(0)
}

#[test]
fn neither_receiving_nor_telling_of_senders_allocates() {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut source = endpoint(port);
    let mut ledger = Ledger::default();
    let frame = tcp_frame(1000);
    // Networks 0 to 99 are taken, 100 to 119 are not.
    let datagrams: Vec<Vec<u8>> = (0..120)
        .map(|vni| {
            let mut header = [0; Vxlan::LEN];
            Vxlan { vni: Vni::new(vni).unwrap() }.write(&mut header);
            [&header[..], &frame].concat()
        })
        .collect();
    let mut lent = [0, 0];
    let mut exchange = |datagrams: &[Vec<u8>]| {
        for datagram in datagrams {
            sender.send_to(datagram, (Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        let before = lent[0] + lent[1];
        while lent[0] + lent[1] < before + datagrams.len() {
            let mut take = |frame: &farspan::frame::Frame<'_>| lent[usize::from(frame.refused.is_some())] += 1;
            source.drain(Instant::now(), 1000, &mut take).unwrap();
        }
        ledger.senders.update(|all| source.senders(false, all));
    };
    exchange(&datagrams[..60]);
    exchange(&datagrams);

    let before = ALLOCATIONS.get();
    for _ in 0..10 {
        exchange(&datagrams);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(lent, [60 + 11 * 100, 11 * 20]);
    assert_eq!(ledger.senders.rows().len(), 100);
}
