//! Live interfaces as a source, against the kernel: a veth pair in a network namespace of each test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::{Duration, Instant};

use farspan::config::defaults;
use farspan::config::plan::{
    DestinationPlan, Encapsulation, End, EndPlan, Engine, Fit, Gso, Host, Ids, LimitPlan, LivePlan, NormalisePlan,
    PriorityPlan, Probe, SamplePlan, SessionPlan, SourcePlan, Spread, TransmitPlan, TunnelPlan, UdpChecksum,
};
use farspan::error::ExitCode;
use farspan::frame::{InterfaceId, Offload, Unfinished};
use farspan::quantity::{Direction, Directions, Dscp, ErspanSessionId, Mtu, PortRange, SegmentLimit, Ttl, Weight};
use farspan::source::{self, Opened, Readiness, Source};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

/// The captured interface, and the far end of its cable.
const TAPPED: &str = "tapped0";
const FAR: &str = "far0";
/// Longest that a test waits for the kernel.
const PATIENCE: Duration = Duration::from_secs(30);
/// `EtherType` for local experiments (IEEE 802): nobody else sends it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A network namespace with one cable in it. It belongs to this thread and ends with it.
struct Network;

impl Network {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        // No router solicitations between the frames that a test counts.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        ip(&format!("link add {TAPPED} type veth peer name {FAR}"));
        ip(&format!("link set {TAPPED} up"));
        ip(&format!("link set {FAR} up"));
        Self
    }
}

/// Something that puts frames on the cable at this end.
fn sender(interface: &str) -> impl FnMut(&[u8]) {
    let mut capture = pcap::Capture::from_device(interface).unwrap().open().unwrap();
    move |frame: &[u8]| capture.sendpacket(frame).unwrap()
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

fn live(directions: Directions) -> LivePlan {
    live_by(Engine::Pcap, directions)
}

fn live_by(engine: Engine, directions: Directions) -> LivePlan {
    LivePlan {
        interfaces: vec![TAPPED.into()],
        directions,
        promiscuous: true,
        engine,
        buffer: defaults::BUFFER,
        max_interfaces: defaults::MAX_INTERFACES,
        delay: defaults::DELAY,
        workers: defaults::WORKERS,
        pin: Vec::new(),
        netns: None,
    }
}

fn plan(live: LivePlan, filter: &str) -> SessionPlan {
    SessionPlan {
        name: "test".into(),
        source: SourcePlan::Live(live),
        decap: None,
        filter: filter.into(),
        sample: SamplePlan::default(),
        seed: None,
        normalise: NormalisePlan {
            enabled: true,
            mtu: Mtu::ETHERNET,
            truncate: None,
            max_segments: Some(SegmentLimit::DEFAULT),
        },
        spread: Spread::Replicate,
        destinations: Vec::new(),
        limit: LimitPlan::default(),
        priority: PriorityPlan::default(),
        end: EndPlan::default(),
    }
}

/// A destination that must know directions.
fn erspan3() -> DestinationPlan {
    let session = Ids::all(ErspanSessionId::new(1).unwrap());
    DestinationPlan {
        name: "1".into(),
        to: "erspan3://192.0.2.1?session=1".into(),
        weight: Weight::default(),
        end: End::Tunnel(TunnelPlan {
            encapsulation: Encapsulation::Erspan3 { session },
            host: Host::Name("unused".into()),
            fit: Fit::Split,
            analyzer: None,
            source: None,
            device: None,
            ports: PortRange::DYNAMIC,
            dscp: Dscp::DEFAULT,
            ttl: Ttl::DEFAULT,
            udp_checksum: UdpChecksum::Auto,
            gso: Gso::Auto,
            transmit: TransmitPlan::Socket,
            probe: Probe::Off,
            mtu: None,
            mtu_floor: Mtu::IPV6_LEAST,
            resolve: None,
            mark: None,
        }),
    }
}

/// What a test remembers of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    bytes: Vec<u8>,
    direction: Option<Direction>,
    offload: Offload,
}

/// Drains the only source, waiting as a worker does, until `enough`.
fn collect(opened: &mut Opened, mut enough: impl FnMut(&[Seen]) -> bool) -> Vec<Seen> {
    let source = &mut opened.shares[0][0];
    let (mut seen, start) = (Vec::new(), Instant::now());
    while !enough(&seen) {
        assert!(start.elapsed() < PATIENCE, "only {} frames came", seen.len());
        let readiness = source.drain(Instant::now(), 64, &mut |frame| {
            assert_eq!((frame.interface, frame.wire_len as usize), (InterfaceId(0), frame.bytes.len()));
            seen.push(Seen { bytes: frame.bytes.to_vec(), direction: frame.direction, offload: frame.offload });
        });
        wait(source.as_ref(), readiness.unwrap());
    }
    seen
}

fn wait(source: &dyn Source, readiness: Readiness) {
    let until = match readiness {
        Readiness::More => return,
        Readiness::Waiting => Duration::from_millis(100),
        Readiness::Until(moment) | Readiness::Filling(moment) => {
            moment.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
        }
        Readiness::Ended => panic!("an interface does not end"),
    };
    let timeout = PollTimeout::try_from(until).unwrap();
    poll(&mut [PollFd::new(source.descriptor().unwrap(), PollFlags::POLLIN)], timeout).unwrap();
}

/// A frame of 60 bytes with this number in it, behind these tags.
fn frame(tags: &[u8], number: u32) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 2], tags, &EXPERIMENT, &number.to_be_bytes()].concat();
    frame.resize(60, 0);
    frame
}

fn bytes(seen: &[Seen]) -> Vec<Vec<u8>> {
    seen.iter().map(|frame| frame.bytes.clone()).collect()
}

fn frames_come_out_as_they_were_on_the_wire_with_their_vlan_tags(engine: Engine) {
    let _network = Network::new();
    let mut opened = source::open(&plan(live_by(engine, Directions::InOut), "")).unwrap();
    let mut send = sender(FAR);
    let frames = [
        frame(&[], 1),
        frame(&[0x81, 0, 0xa0, 5], 2),
        frame(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5], 3),
        [frame(&[], 4), vec![9; 1454]].concat(),
    ];
    for frame in &frames {
        send(frame);
    }
    let seen = collect(&mut opened, |seen| seen.len() == frames.len());
    assert_eq!(bytes(&seen), frames);
    let told = match engine {
        Engine::Pcap => (None, Offload::Unknown { mtu: Mtu::ETHERNET }),
        Engine::Auto | Engine::Ring => (Some(Direction::In), Offload::Exact(Unfinished::default())),
    };
    assert!(seen.iter().all(|frame| (frame.direction, frame.offload) == told), "{seen:?}");
    assert_eq!((opened.interfaces[0].name.as_str(), opened.interfaces[0].mtu), (TAPPED, Some(Mtu::ETHERNET)));
}

fn normalising_can_be_turned_off(engine: Engine) {
    let _network = Network::new();
    let mut untouched = plan(live_by(engine, Directions::In), "");
    untouched.normalise.enabled = false;
    let mut opened = source::open(&untouched).unwrap();
    sender(FAR)(&frame(&[], 1));
    assert_eq!(collect(&mut opened, |seen| seen.len() == 1)[0].offload, Offload::Whole);
}

fn a_vlan_filter_finds_the_tag_that_the_kernel_took_out(engine: Engine) {
    let _network = Network::new();
    let mut opened = source::open(&plan(live_by(engine, Directions::In), "vlan 5")).unwrap();
    let mut send = sender(FAR);
    for (tags, number) in [(&[][..], 1), (&[0x81, 0, 0, 6], 2), (&[0x81, 0, 0, 5], 3), (&[], 4), (&[0x81, 0, 0, 5], 5)]
    {
        send(&frame(tags, number));
    }
    let seen = collect(&mut opened, |seen| seen.len() == 2);
    assert_eq!(bytes(&seen), [frame(&[0x81, 0, 0, 5], 3), frame(&[0x81, 0, 0, 5], 5)]);
}

fn one_direction_is_captured_from_the_first_frame_on(engine: Engine) {
    let _network = Network::new();
    for (directions, from, direction) in
        [(Directions::In, FAR, Direction::In), (Directions::Out, TAPPED, Direction::Out)]
    {
        let mut opened = source::open(&plan(live_by(engine, directions), "")).unwrap();
        let other = if from == FAR { TAPPED } else { FAR };
        let (mut send, mut send_other_way) = (sender(from), sender(other));
        for number in 0..20 {
            send(&frame(&[], number));
            send_other_way(&frame(&[], 1000 + number));
        }
        let seen = collect(&mut opened, |seen| seen.len() >= 20);
        assert_eq!(bytes(&seen), (0..20).map(|number| frame(&[], number)).collect::<Vec<_>>());
        assert!(seen.iter().all(|frame| frame.direction == Some(direction)));
    }
}

fn both_directions_are_told_apart_and_stay_in_order(engine: Engine) {
    let _network = Network::new();
    let needs_direction = SessionPlan { destinations: vec![erspan3()], ..plan(live_by(engine, Directions::InOut), "") };
    assert!(needs_direction.needs_direction());
    let mut opened = source::open(&needs_direction).unwrap();
    let (mut receive, mut transmit) = (sender(FAR), sender(TAPPED));
    let count = 2000;
    for number in 0..count {
        // Requests, and now and then two responses at once.
        if number % 5 < 3 { receive(&frame(&[], number)) } else { transmit(&frame(&[], number)) }
    }
    let seen = collect(&mut opened, |seen| seen.len() >= count as usize);
    let expected = (0..count).map(|number| frame(&[], number)).collect::<Vec<_>>();
    assert_eq!(bytes(&seen), expected);
    for (number, frame) in seen.iter().enumerate() {
        let direction = if number % 5 < 3 { Direction::In } else { Direction::Out };
        assert_eq!(frame.direction, Some(direction), "frame {number}");
    }
}

fn a_full_ring_loses_frames_and_says_how_many(engine: Engine) {
    let _network = Network::new();
    let mut opened = source::open(&plan(LivePlan { buffer: 0, ..live_by(engine, Directions::In) }, "")).unwrap();
    assert_eq!(opened.shares[0][0].kernel_drops().buffer_full, 0);
    let (mut send, mut send_other_way) = (sender(FAR), sender(TAPPED));
    let large = [frame(&[], 0), vec![0; 1454]].concat();
    let count = 3000;
    for _ in 0..count {
        send_other_way(&large);
    }
    assert_eq!(opened.shares[0][0].kernel_drops().buffer_full, 0, "the other direction takes no room");
    for _ in 0..count {
        send(&large);
    }
    let dropped = opened.shares[0][0].kernel_drops().buffer_full;
    assert!(dropped > 0 && dropped < count, "{dropped} dropped");
    let seen = collect(&mut opened, |seen| seen.len() as u64 + dropped >= count);
    assert_eq!(seen.len() as u64 + opened.shares[0][0].kernel_drops().buffer_full, count);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_changed_mtu_is_noticed() {
    let _network = Network::new();
    let mut opened = source::open(&plan(live(Directions::In), "")).unwrap();
    ip(&format!("link set {TAPPED} mtu 9000"));
    opened.shares[0][0].kernel_drops();
    sender(FAR)(&frame(&[], 1));
    let seen = collect(&mut opened, |seen| !seen.is_empty());
    assert_eq!(seen[0].offload, Offload::Unknown { mtu: Mtu::new(9000).unwrap() });
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn any_gives_ethernet_frames_with_their_direction() {
    let _network = Network::new();
    let any = LivePlan { interfaces: vec!["any".into()], ..live(Directions::InOut) };
    let mut opened = source::open(&SessionPlan { destinations: vec![erspan3()], ..plan(any, "") }).unwrap();
    assert_eq!(opened.interfaces[0].mtu, None);
    sender(FAR)(&frame(&[], 7));
    let mut seen = collect(&mut opened, |seen| seen.len() == 2);
    seen.sort_by_key(|frame| frame.direction == Some(Direction::Out));
    let directions: Vec<_> = seen.iter().map(|frame| frame.direction).collect();
    assert_eq!(directions, [Some(Direction::In), Some(Direction::Out)]);
    for frame in &seen {
        // A broadcast that was received is one still; for what was sent the cooked header does not tell.
        assert_eq!(frame.bytes[6..12], [2, 0, 0, 0, 0, 2]);
        assert_eq!(frame.bytes[12..18], [0x88, 0xb5, 0, 0, 0, 7]);
    }
}

fn an_interface_that_goes_down_comes_back_and_one_that_vanishes_ends_the_capture(engine: Engine) {
    let _network = Network::new();
    for mirror in [
        plan(live_by(engine, Directions::InOut), ""),
        SessionPlan { destinations: vec![erspan3()], ..plan(live_by(engine, Directions::InOut), "") },
    ] {
        let mut opened = source::open(&mirror).unwrap();
        ip(&format!("link set {TAPPED} down"));
        ip(&format!("link set {TAPPED} up"));
        sender(FAR)(&frame(&[], 3));
        assert_eq!(bytes(&collect(&mut opened, |seen| !seen.is_empty())), [frame(&[], 3)]);
    }

    let mut opened = source::open(&plan(live_by(engine, Directions::InOut), "")).unwrap();
    ip(&format!("link del {TAPPED}"));
    let start = Instant::now();
    let error = loop {
        assert!(start.elapsed() < PATIENCE, "nobody noticed");
        match opened.shares[0][0].drain(Instant::now(), 64, &mut |_| ()) {
            Ok(readiness) => wait(opened.shares[0][0].as_ref(), readiness),
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_string(), format!("the capture on `{TAPPED}` ended"));
    assert_eq!(error.exit_code(), ExitCode::Failed);
    let cause = std::error::Error::source(&*error).unwrap().to_string();
    // The socket tells that the interface is down, unless it has told before that it is gone.
    let causes: &[&str] =
        if engine == Engine::Pcap { &["disappeared"] } else { &["Network is down", "No such device"] };
    assert!(causes.iter().any(|words| cause.contains(words)), "{cause}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_cannot_be_captured_is_explained() {
    let _network = Network::new();
    ip(&format!("link set {TAPPED} down"));
    let refused = |interfaces: &[&str], filter: &str| {
        let interfaces = interfaces.iter().map(ToString::to_string).collect();
        let Err(problems) = source::open(&plan(LivePlan { interfaces, ..live(Directions::In) }, filter)) else {
            panic!("this opens")
        };
        (problems.to_string(), problems.exit_code())
    };
    let (message, code) = refused(&[TAPPED], "");
    assert!(
        message.contains("the interface `tapped0` is down") && message.contains("ip link set tapped0 up"),
        "{message}"
    );
    assert_eq!(code, ExitCode::Failed);

    let pattern = LivePlan { interfaces: vec!["*0".into()], ..live(Directions::In) };
    let opened = source::open(&plan(pattern, "")).unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<_> = opened.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!(names, [FAR], "a pattern passes over what is down");

    let (message, code) = refused(&["nope", "q*", FAR], "");
    assert!(
        message.contains("there is no interface `nope`") && message.contains("no interface matches `q*`"),
        "{message}"
    );
    assert!(message.contains("interfaces here are ") && message.contains(FAR), "{message}");
    assert_eq!(code, ExitCode::NoInput);

    let (message, code) = refused(&[FAR, "lo"], "tcp prot 80");
    assert_eq!(message.matches("the filter `tcp prot 80` is wrong").count(), 1, "{message}");
    assert_eq!(code, ExitCode::Usage);
}

/// It receives what it sends, and an analyzer is to see that once.
fn a_loopback_interface_shows_each_frame_once(engine: Engine) {
    let _network = Network::new();
    ip("link set lo up");
    let lo = LivePlan { interfaces: vec!["lo".into()], ..live_by(engine, Directions::InOut) };
    let mut opened = source::open(&plan(lo, "udp")).unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..5_u8 {
        socket.send_to(&[number], socket.local_addr().unwrap()).unwrap();
    }
    let seen = collect(&mut opened, |seen| seen.last().is_some_and(|frame| frame.bytes.last() == Some(&4)));
    assert_eq!(seen.iter().filter_map(|frame| frame.bytes.last().copied()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

/// What holds whatever captures.
macro_rules! for_both_engines {
    ($($test:ident),* $(,)?) => {
        mod libpcap {
            $(
                #[test]
                #[ignore = "needs root: run scripts/test"]
                fn $test() {
                    super::$test(super::Engine::Pcap);
                }
            )*
        }

        mod ring {
            $(
                #[test]
                #[ignore = "needs root: run scripts/test"]
                fn $test() {
                    super::$test(super::Engine::Ring);
                }
            )*
        }
    };
}

for_both_engines! {
    a_loopback_interface_shows_each_frame_once,
    normalising_can_be_turned_off,
    frames_come_out_as_they_were_on_the_wire_with_their_vlan_tags,
    a_vlan_filter_finds_the_tag_that_the_kernel_took_out,
    one_direction_is_captured_from_the_first_frame_on,
    both_directions_are_told_apart_and_stay_in_order,
    a_full_ring_loses_frames_and_says_how_many,
    an_interface_that_goes_down_comes_back_and_one_that_vanishes_ends_the_capture,
}
