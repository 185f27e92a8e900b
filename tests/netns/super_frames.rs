//! Super-frames that guests and containers can make: judged by the kernel's own segmentation, tshark and counted frames.

use std::path::PathBuf;

use crate::farspan::{Farspan, Ledger, total};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{Lab, await_that, wire};
use crate::traffic;
use crate::vnet::{GSO_UDP, Numbers, Sender, Sent, any_frame, payload, tcp_super_frame, udp_frame};

const TO: &str = "vxlan://192.0.2.2?vni=42";
/// Honest frames a second.
const HONEST_RATE: u32 = 1000;
/// For how many seconds.
const SECONDS: u32 = 3;
/// Super-frames a second beside them.
const ATTACK_RATE: u32 = 200;

/// The frames of an attack: 60,000 bytes in segments of each size; plain, tagged.
fn attack(sizes: &[u16]) -> Vec<Sent> {
    let plain = sizes.iter().map(|&size| tcp_super_frame(60_000, size, 60_000));
    plain.flat_map(|sent| [sent.clone().tagged(&[[0x81, 0, 0, 7]]), sent]).collect()
}

/// Mirrors honest frames beside the attack, and asserts that 95 of 100 arrive.
fn honest_frames_arrive_beside(sizes: &[u16], is_tunnelled: bool, burner: Option<&str>) -> Ledger {
    let lab = Lab::with_underlay_mtu(1600);
    let link = if is_tunnelled {
        lab.client.run("ip link add x0 type vxlan id 7 local 10.8.0.1 remote 10.8.0.2 dstport 4789 dev c0");
        lab.client.link_up("x0", 1450, &[]);
        // The neighbour is known before the first frame.
        lab.client.run("ping -q -c 1 -W 30 10.8.0.2");
        "x0"
    } else {
        "c0"
    };
    // Numbered frames of the stranger inside our tunnel: UDP to port 9.
    let honest = "udp dst port 4789 and udp[39] = 17 and udp[52:2] = 9";
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", honest);
    let farspan = Farspan::mirror_as_told(&lab, &["-i", "h0", "--to", TO]);
    let _burner =
        burner.map(|cpu| lab.host.start(&format!("taskset -c {cpu} sha256sum /dev/zero"), &lab.path("burner.log")));
    let sender = Sender::socket(&lab, &lab.client, link, ATTACK_RATE, SECONDS);
    sender.send(&attack(sizes));
    let frames: Vec<_> = (0..HONEST_RATE * SECONDS).map(|number| traffic::udp_frame(number, 16, 200)).collect();
    traffic::send(&lab, &frames, &format!("--pps={HONEST_RATE}"));
    let attacked = sender.await_end();
    lab.await_tapped("h0", HONEST_RATE * SECONDS + attacked);
    let least = frames.len() * 95 / 100;
    arriving.await_frames(least);
    let ledger = farspan.stop();
    assert_eq!(ledger.only().dropped.len(), 0, "{ledger:#?}");
    let sent = u64::from(HONEST_RATE * SECONDS + attacked);
    assert!(ledger.captured + ledger.kernel_dropped >= sent, "{sent} frames were sent: {ledger:#?}");
    // The analyzer's kernel counts every datagram that has left, and the ledger every segment that has not.
    await_that("the last datagram", || crate::super_frames::arrived(&lab) >= ledger.only().sent);
    assert_eq!(crate::super_frames::arrived(&lab), ledger.only().sent, "{ledger:#?}");
    assert_eq!(ledger.captured + ledger.segments_added, ledger.only().sent + total(&ledger.dropped), "{ledger:#?}");
    let mut arrived = frames_of(&arriving.stop());
    arrived.sort();
    arrived.dedup_by(|one, other| one[50..] == other[50..]);
    println!(
        "{sizes:?} tunnelled {is_tunnelled} burner {burner:?}: {} of {} honest frames arrived; captured {}, kernel_dropped {}, \
         segments {}, dropped {:?}",
        arrived.len(),
        frames.len(),
        ledger.captured,
        ledger.kernel_dropped,
        ledger.segments_added,
        ledger.dropped
    );
    assert!(arrived.len() >= least, "{} of {} arrived: {ledger:#?}", arrived.len(), frames.len());
    ledger
}

/// The issue's sizes: what the kernel never makes, what is refused by default, what is cut.
const SIZES: [u16; 4] = [1, 8, 48, 120];

#[test]
#[ignore = "needs root: run scripts/test"]
fn a24_honest_frames_arrive_beside_super_frames_plain_and_tagged() {
    let ledger = honest_frames_arrive_beside(&SIZES, false, None);
    assert!(ledger.dropped["unsegmentable"] > 0 && ledger.dropped["too_many_segments"] > 0, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a24_honest_frames_arrive_beside_super_frames_inside_vxlan() {
    let ledger = honest_frames_arrive_beside(&SIZES, true, None);
    assert!(ledger.dropped["unsegmentable"] > 0 && ledger.dropped["too_many_segments"] > 0, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a24_honest_frames_arrive_beside_super_frames_and_a_busy_processor() {
    honest_frames_arrive_beside(&SIZES, false, Some("0"));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a24_honest_frames_arrive_beside_super_frames_inside_vxlan_and_a_busy_processor() {
    honest_frames_arrive_beside(&SIZES, true, Some("0"));
}

/// What was sent one by one and joined by the kernel on receive is no attack, however small.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a24_tiny_segments_of_a_few_are_cut() {
    let lab = Lab::new();
    let sender = Sender::tap(&lab, &lab.host, "t0", 100);
    let (file, farspan) = to_file(&lab, "t0", &[]);
    sender.send(&[tcp_super_frame(64, 1, 64), tcp_super_frame(65, 1, 65)]);
    await_that("the segments", || frames_of(&file).len() >= 64);
    sender.await_end();
    let ledger = farspan.stop();
    assert_eq!((ledger.captured, ledger.segments_added, ledger.dropped["unsegmentable"]), (2, 63, 1), "{ledger:#?}");
    tshark::assert_sound(&file);
    assert_eq!(tshark::count(&file, "tcp.len == 1"), 64);
}

/// Ended in the middle of a super-frame, the ledger has every datagram that has left, and each segment that has not.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a25_a_session_that_ends_inside_a_super_frame_has_a_whole_ledger() {
    let lab = Lab::with_underlay_mtu(1600);
    let farspan = Farspan::mirror_as_told(&lab, &["-i", "h0", "--max-segments", "off", "--to", TO]);
    let sender = Sender::socket(&lab, &lab.client, "c0", 200, 0);
    sender.send(&vec![tcp_super_frame(60_000, 8, 60_000); 300]);
    sender.await_end();
    await_that("the first segments", || arrived(&lab) > 0);
    let ledger = farspan.stop();
    await_that("the last datagram", || arrived(&lab) >= ledger.only().sent);
    assert_eq!(arrived(&lab), ledger.only().sent, "{ledger:#?}");
    assert_eq!(ledger.only().dropped.len(), 0, "{ledger:#?}");
    assert_eq!(
        ledger.captured + ledger.segments_added,
        ledger.only().sent + total(&ledger.dropped),
        "every segment has its fate: {ledger:#?}"
    );
    println!("captured {}, sent {}, dropped {:?}", ledger.captured, ledger.only().sent, ledger.dropped);
}

/// Datagrams of the mirror that the analyzer's kernel has counted: no socket is there for them.
fn arrived(lab: &Lab) -> u64 {
    let counters = lab.analyzer.run("cat /proc/net/snmp");
    let mut udp = counters.lines().filter(|line| line.starts_with("Udp:")).map(|line| line.split_whitespace());
    let (names, values) = (udp.next().expect("names"), udp.next().expect("values"));
    let mut both = names.zip(values);
    both.find_map(|(name, value)| (name == "NoPorts").then(|| value.parse().expect("a number"))).expect("NoPorts")
}

/// Mirrors what an interface of the host receives to a file, through a packet ring.
fn to_file(lab: &Lab, link: &str, more: &[&str]) -> (PathBuf, Farspan) {
    let file = lab.path("mirrored.pcap");
    let to = format!("pcap:{}", file.display());
    let arguments = [&["-i", link, "-Q", "in", "--engine", "ring", "--to", &to], more].concat();
    (file.clone(), Farspan::mirror_as_told(lab, &arguments))
}

/// UFO is a type that the kernel has no word for in front of a ring's frames: it claims a slot and leaves it.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r02_a_frame_that_the_ring_cannot_describe_costs_no_other_frame() {
    let plain = |number: usize| {
        let mut sent = tcp_super_frame(1000, 0, 1000);
        sent.gso_type = 0;
        sent.frame[sent.payload..sent.payload + 8].copy_from_slice(&number.to_be_bytes());
        sent
    };
    let ufo = || udp_frame(5000, GSO_UDP, 1480);
    // In one block, in memory that is new; and when the ring has gone round.
    for (frames, losses) in [
        (vec![plain(0), ufo(), plain(1), plain(2), plain(3)], 1),
        ((0..80).map(plain).chain((0..5).map(|_| ufo())).chain((80..84).map(plain)).collect(), 5),
    ] {
        let lab = Lab::new();
        let sender = Sender::tap(&lab, &lab.host, "t0", if frames.len() > 10 { 100 } else { 100_000 });
        let (file, farspan) = to_file(&lab, "t0", &["-B", "1MiB"]);
        let ordinary = frames.len() - losses;
        sender.send(&frames);
        sender.await_end();
        await_that("the ordinary frames", || frames_of(&file).len() >= ordinary);
        let log = farspan.log();
        let ledger = farspan.stop();
        let mut numbers: Vec<Vec<u8>> = frames_of(&file).iter().map(|frame| frame[54..62].to_vec()).collect();
        numbers.sort();
        assert_eq!(numbers, (0..ordinary).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(ledger.captured, ordinary as u64, "{ledger:#?}");
        assert_eq!((ledger.kernel_dropped, ledger.kernel_untold), (losses as u64, losses as u64), "{ledger:#?}");
        println!("{log}");
    }
}

/// Has a bridge give what `link` of the host receives to a veth without offloads, so that the kernel cuts it before `v1`.
/// A veth drops what is longer than its MTU: there is room for every header.
fn judged_by_the_kernel(lab: &Lab, link: &str) {
    wire(&lab.host, "v0", &lab.host, "v1");
    lab.host.run("ip link add br0 type bridge mcast_snooping 0");
    lab.host.run("ethtool -K v0 tx off tso off gso off tx-udp-segmentation off");
    for link in ["br0", "v0", "v1"] {
        lab.host.run(&format!("sysctl -qw net.ipv6.conf.{link}.disable_ipv6=1"));
        lab.host.link_up(link, 1800, &[]);
    }
    for link in [link, "v0"] {
        lab.host.run(&format!("ip link set {link} master br0"));
    }
    lab.host.await_link("v1");
}

/// Every frame that the kernel sent must be among farspan's, byte for byte and in order.
fn assert_among(ours: &[Vec<u8>], kernels: &[Vec<u8>]) {
    let mut rest = ours.iter();
    for (position, kernels) in kernels.iter().enumerate() {
        assert!(rest.any(|ours| ours == kernels), "the kernel's frame {position} is not ours: {}", hex_of(kernels));
    }
}

/// The judge is the kernel: a bridge gives the same frames to a veth without offloads.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r03_segments_are_those_of_the_kernel_whatever_the_headers() {
    let lab = Lab::new();
    let sender = Sender::tap(&lab, &lab.host, "t0", 250);
    judged_by_the_kernel(&lab, "t0");
    let judge =
        Capture::start(&lab, &lab.host, "v1", "ether src 02:fa:00:00:00:01 or (vlan and ether src 02:fa:00:00:00:01)");
    let (file, farspan) = to_file(&lab, "t0", &[]);
    let mut numbers = Numbers(0x5eed);
    let mut frames: Vec<Sent> = (0..400).map(|_| any_frame(&mut numbers)).collect();
    let mut last = tcp_super_frame(1000, 0, 1000);
    last.gso_type = 0;
    last.frame[last.payload..].fill(0xed);
    frames.push(last);
    sender.send(&frames);
    sender.await_end();
    let segments: usize = frames.iter().map(segments).sum();
    await_that("farspan's segments", || frames_of(&file).len() >= segments);
    let ledger = farspan.stop();
    assert_eq!((ledger.captured, total(&ledger.dropped)), (frames.len() as u64, 0), "{ledger:#?}");
    let is_last = |frame: &Vec<u8>| frame.len() == 1054 && frame[54..].iter().all(|&byte| byte == 0xed);
    await_that("the kernel's last frame", || judge.frames().last().is_some_and(is_last));
    let (ours, kernels) = (frames_of(&file), frames_of(&judge.stop()));
    assert_eq!(ours.len(), segments);
    println!("the kernel sent {} of {segments} frames", kernels.len());
    assert!(kernels.len() * 10 > segments * 8, "the kernel sent only {} of {segments} frames", kernels.len());
    assert_among(&ours, &kernels);
}

/// The same inside the kernel's own VXLAN device, with outer UDP checksums and without, over IPv4 and IPv6.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r03_segments_inside_vxlan_are_those_of_the_kernel() {
    let ends = [("10.8.0.1", "10.8.0.2"), ("2001:db8:8::1", "2001:db8:8::2")];
    for ((local, remote), checksum) in
        [(ends[0], "noudpcsum"), (ends[0], "udpcsum"), (ends[1], "udp6zerocsumtx"), (ends[1], "noudp6zerocsumtx")]
    {
        let lab = Lab::new();
        lab.set_tapped_mtu(1800);
        let ends = format!("local {local} remote {remote} dstport 4789 dev c0");
        lab.client.run(&format!("ip link add x0 type vxlan id 7 {ends} {checksum}"));
        lab.client.run("sysctl -qw net.ipv6.conf.x0.disable_ipv6=1");
        lab.client.link_up("x0", 1700, &[]);
        // The host has the address no more once its interface is in the bridge.
        lab.client.run(&format!("ip neighbour replace {remote} lladdr 02:fa:00:00:00:99 dev c0 nud permanent"));
        judged_by_the_kernel(&lab, "h0");
        let judge = Capture::start(&lab, &lab.host, "v1", "udp dst port 4789");
        let file = lab.path("mirrored.pcap");
        let to = format!("pcap:{}", file.display());
        let arguments = ["-i", "h0", "-Q", "in", "--engine", "ring", "--to", &to, "udp dst port 4789"];
        let farspan = Farspan::mirror_as_told(&lab, &arguments);
        let sender = Sender::socket(&lab, &lab.client, "x0", 250, 0);
        let mut numbers = Numbers(0x5eed);
        let mut frames: Vec<Sent> = (0..100).map(|_| any_frame(&mut numbers)).collect();
        let mut last = tcp_super_frame(1000, 0, 1000);
        last.gso_type = 0;
        last.frame[last.payload..].fill(0xed);
        frames.push(last);
        sender.send(&frames);
        sender.await_end();
        let is_last =
            |frame: &Vec<u8>| frame.len() > 1054 && frame[frame.len() - 1000..].iter().all(|&byte| byte == 0xed);
        await_that("the kernel's last frame", || judge.frames().last().is_some_and(is_last));
        await_that("farspan's last frame", || frames_of(&file).last().is_some_and(is_last));
        let ledger = farspan.stop();
        let (ours, kernels) = (frames_of(&file), frames_of(&judge.stop()));
        let segments: usize = frames.iter().map(segments).sum();
        println!(
            "{checksum}: {segments} segments, the kernel sent {}, farspan {}: {ledger:#?}",
            kernels.len(),
            ours.len()
        );
        assert_eq!(total(&ledger.dropped), 0, "{ledger:#?}");
        assert!(kernels.len() * 10 > segments * 8, "the kernel sent only {} of {segments} frames", kernels.len());
        assert_among(&ours, &kernels);
    }
}

/// How many frames this becomes.
fn segments(sent: &Sent) -> usize {
    match sent.gso_size {
        0 => 1,
        size => (sent.frame.len() - sent.payload).div_ceil(size.into()),
    }
}

/// As tshark writes bytes.
fn hex_of(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Outer headers with the lengths of one segment, as devices with tx-gso-partial are given them. `behind` counts what
/// follows the outer IP header in that segment.
fn outer(protocol: u8, behind: usize, transport: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + behind).unwrap().to_be_bytes();
    let mut frame = vec![2, 0xfa, 0, 0, 0, 2, 2, 0xfa, 0, 0, 0, 1, 8, 0];
    let mut header = etherparse::Ipv4Header::from_slice(&[
        0x45, 0, length[0], length[1], 0, 9, 0, 0, 64, protocol, 0, 0, 10, 8, 0, 77, 10, 8, 0, 200,
    ])
    .unwrap()
    .0;
    header.header_checksum = header.calc_header_checksum();
    header.write(&mut frame).unwrap();
    frame.extend(transport);
    frame
}

fn udp_to(port: u16, behind: usize, tunnel: &[u8]) -> Vec<u8> {
    let (port, length) = (port.to_be_bytes(), u16::try_from(8 + behind).unwrap().to_be_bytes());
    [&[0xc3, 0x50][..], &port, &length, &[0, 0], tunnel].concat()
}

/// 5,000 bytes of TCP in segments of 1,400, with headers that tell the length of one.
fn partial_super_frames() -> Vec<(&'static str, Sent)> {
    const INNER: usize = 54 + 1400;
    let inner = || tcp_super_frame(5000, 1400, 1400);
    let vxlan = udp_to(4789, 8 + INNER, &[8, 0, 0, 0, 0, 0, 42, 0]);
    let geneve = udp_to(6081, 8 + INNER, &[0, 0, 0x65, 0x58, 0, 0, 42, 0]);
    let mut bare = inner();
    bare.frame.drain(..14);
    (bare.transport, bare.payload) = (20, 40);
    vec![
        ("plain", inner()),
        ("tagged", inner().tagged(&[[0x81, 0, 0, 7]])),
        ("vxlan", inner().within(&outer(17, 16 + INNER, &vxlan))),
        ("geneve", inner().within(&outer(17, 16 + INNER, &geneve))),
        ("gre", inner().within(&outer(47, 4 + INNER, &[0, 0, 0x65, 0x58]))),
        ("gre with checksum", inner().within(&outer(47, 8 + INNER, &[0x80, 0, 0x65, 0x58, 0, 0, 0, 0]))),
        ("ip in ip", bare.within(&outer(4, INNER - 14, &[]))),
    ]
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r03_a_super_frame_with_the_lengths_of_one_segment_is_cut_whole() {
    let frames = partial_super_frames();
    let lab = Lab::new();
    let sender = Sender::tap(&lab, &lab.host, "t0", 250);
    let (file, farspan) = to_file(&lab, "t0", &[]);
    sender.send(&frames.iter().map(|(_, sent)| sent.clone()).collect::<Vec<_>>());
    sender.await_end();
    await_that("the segments", || frames_of(&file).len() >= 4 * frames.len());
    let ledger = farspan.stop();
    assert_eq!(ledger.captured, frames.len() as u64, "{ledger:#?}");
    assert_eq!(total(&ledger.dropped), 0, "{ledger:#?}");
    tshark::assert_sound(&file);
    let lengths = tshark::values(&file, "tcp", "tcp.len");
    assert_eq!(lengths, ["1400", "1400", "1400", "800"].repeat(frames.len()), "the payload of every segment");
    let payloads = tshark::values(&file, "tcp", "tcp.payload").concat().replace(':', "");
    let expected = hex_of(&payload(5000));
    assert_eq!(payloads, expected.repeat(frames.len()), "every byte, in order");
    assert_eq!(tshark::count(&file, "tcp.checksum.status == Good"), 4 * frames.len());
    assert_eq!(tshark::count(&file, "gre.checksum.status == Good"), 4, "of the GRE headers that have one");
}

/// Where no segment size is told, nothing is left out in silence.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r03_bytes_that_padding_does_not_explain_are_counted() {
    let lab = Lab::with_underlay_mtu(1500);
    let frames: Vec<Vec<u8>> = partial_super_frames().into_iter().map(|(_, sent)| sent.frame).collect();
    let recorded = lab.write("partial.pcap", traffic::capture_file(&frames));
    let recorded = recorded.to_str().unwrap();
    let outer = format!("pcap:{}", lab.path("outer.pcap").display());
    let to_tunnel = crate::farspan::replay(&lab, &["-r", recorded, "--to", TO, "--transmit", &outer]);
    assert_eq!(to_tunnel.only().dropped["oversize"], frames.len() as u64, "{to_tunnel:#?}");
    let normalised = crate::farspan::replay(&lab, &["-r", recorded, "--normalise", "--to", &outer]);
    assert_eq!(normalised.dropped["unsegmentable"], frames.len() as u64, "{normalised:#?}");

    let sender = Sender::tap(&lab, &lab.host, "t0", 250);
    let file = lab.path("mirrored.pcap");
    let to = format!("pcap:{}", file.display());
    let farspan = Farspan::mirror_as_told(&lab, &["-i", "t0", "-Q", "in", "--engine", "pcap", "--to", &to]);
    let mut all: Vec<Sent> = partial_super_frames().into_iter().map(|(_, sent)| sent).collect();
    // The last one, by which the test knows that the others are through.
    all.push(Sent { gso_type: 0, gso_size: 0, ..tcp_super_frame(100, 0, 100) });
    sender.send(&all);
    await_that("the last frame", || !frames_of(&file).is_empty());
    let ledger = farspan.stop();
    assert_eq!((ledger.captured, ledger.dropped["unsegmentable"]), (8, 7), "{ledger:#?}");
}

/// What Windows and macOS leave to their hardware: judged by tshark.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r11_headers_that_other_systems_leave_undone_are_finished() {
    let lab = Lab::new();
    let without = |sent: Sent, length: bool, sum: [u8; 2]| {
        let mut frame = sent.frame;
        if !length {
            frame[16..18].fill(0);
        }
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    // NDIS large send offload: the pseudo header's sum has no length.
    let lengthless = |mut frame: Vec<u8>| {
        let tcp = u16::try_from(frame.len() - 34).unwrap();
        let sum = u32::from(u16::from_be_bytes([frame[50], frame[51]])) + u32::from(!tcp);
        let sum = u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap();
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let ordinary = || tcp_super_frame(1000, 0, 1000);
    let frames = [
        without(ordinary(), true, [0, 0]),
        without(ordinary(), false, [0, 0]),
        lengthless(without(ordinary(), true, [0, 0])),
        without(tcp_super_frame(5000, 0, 5000), true, [0, 0]),
        lengthless(without(tcp_super_frame(5000, 0, 5000), false, [0, 0])),
    ];
    let recorded = lab.write("windows.pcap", traffic::capture_file(&frames));
    let file = lab.path("finished.pcap");
    let to = format!("pcap:{}", file.display());
    let arguments = ["-r", recorded.to_str().unwrap(), "--normalise", "--to", &to];
    let ledger = crate::farspan::replay(&lab, &arguments);
    assert_eq!((ledger.captured, ledger.only().sent), (5, 3 + 4 + 4), "{ledger:#?}");
    tshark::assert_sound(&file);
    assert_eq!(tshark::count(&file, "ip.checksum.status == Good and tcp.checksum.status == Good and ip.len > 40"), 11);

    // Any other wrong checksum is the sender's.
    let wrong = lab.write("wrong.pcap", traffic::capture_file(&[without(ordinary(), true, [0xba, 0xd0])]));
    let arguments = ["-r", wrong.to_str().unwrap(), "--normalise", "--to", &to];
    crate::farspan::replay(&lab, &arguments);
    assert_eq!(tshark::values(&file, "ip.checksum.status == Bad", "ip.checksum"), ["0xbad0"]);
}
