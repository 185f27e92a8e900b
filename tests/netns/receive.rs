//! The receiving end: everything that others send comes out as it went in, and what is missing is told exactly.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::encapsulation::{
    ALL, ERSPAN_1, ERSPAN_2, ERSPAN_3, Encapsulation, GENEVE, GRE, GRE_WITH_KEY, Underlay, VXLAN,
    for_every_encapsulation,
};
use crate::farspan::{Farspan, Ledger, Sender, binary, replay, run, total};
use crate::judge::{Capture, KernelVxlan, OpenVswitch, frames_of};
use crate::lab::{ANALYZER, ANALYZER_V6, Lab, UNDERLAY_HOST, await_that, succeed};
use crate::traffic;

/// Room for a jumbo frame in the longest encapsulation.
const WIDE_MTU: u32 = 9200;
/// What the kernel says when nobody listens: ICMP unreachable, and of ICMPv6 also "unrecognized next header". Not about
/// the discard port, at which a mirror may ask for its next hop.
const UNREACHABLE: &str = "(icmp[0] == 3 and icmp[30:2] != 9) or ((ip6[40] == 1 or ip6[40] == 4) and ip6[90:2] != 9)";

mod what_farspan_mirrors_it_receives {
    use super::*;

    for_every_encapsulation! { everything_comes_back:
        vxlan_over_ipv4 = VXLAN over V4;
        vxlan_over_ipv6 = VXLAN over V6;
        gre_over_ipv4 = GRE over V4;
        gre_over_ipv6 = GRE over V6;
        gre_with_key_over_ipv4 = GRE_WITH_KEY over V4;
        gre_with_key_over_ipv6 = GRE_WITH_KEY over V6;
        erspan_1_over_ipv4 = ERSPAN_1 over V4;
        erspan_1_over_ipv6 = ERSPAN_1 over V6;
        erspan_2_over_ipv4 = ERSPAN_2 over V4;
        erspan_2_over_ipv6 = ERSPAN_2 over V6;
        erspan_3_over_ipv4 = ERSPAN_3 over V4;
        erspan_3_over_ipv6 = ERSPAN_3 over V6;
        geneve_over_ipv4 = GENEVE over V4;
        geneve_over_ipv6 = GENEVE over V6;
    }
}

/// Frames of every kind and of one long flow: byte for byte, in order, and no ICMP error leaves.
fn everything_comes_back(encapsulation: &Encapsulation, underlay: Underlay) {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let mut frames: Vec<_> = (0..600).map(|number| traffic::udp_frame(number, 1, 60 + number as usize * 2)).collect();
    frames.extend(traffic::twelve_types().into_iter().map(|(_, frame)| frame));
    let refusals = Capture::start(&lab, &lab.analyzer, "a0", UNREACHABLE);
    let received = lab.path("received.pcap");
    let farspan = receive_to(&lab, &[&encapsulation.endpoint(underlay)], &received);

    let sent = mirror(&lab, &frames, &encapsulation.url(underlay));
    await_frames(&received, frames.len());
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(ledger.captured, sent.only().sent);

    let arrived = frames_of(&received);
    let flow = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
        all.iter().filter(|frame| frame.get(34..38) == frames[0].get(34..38)).cloned().collect()
    };
    assert!(flow(&arrived) == flow(&frames), "one flow in the order in which it was sent");
    assert!(sorted(arrived) == sorted(frames.clone()), "every frame byte for byte");
    let (name, id) = encapsulation.stream();
    let [sender] = ledger.senders.as_slice() else { panic!("one sender: {ledger:#?}") };
    let from = if underlay == Underlay::V4 { UNDERLAY_HOST } else { "2001:db8:9::1" };
    assert_eq!((sender.from.as_str(), sender.encapsulation.as_deref(), sender.id), (from, Some(name), id));
    assert_eq!(sender.received, frames.len() as u64);
    let numbered = matches!(name, "erspan2" | "erspan3");
    assert_eq!(sender.lost, numbered.then_some(0));
    assert_eq!(frames_of(&refusals.stop()).len(), 0, "ICMP errors leave while somebody listens");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_process_takes_every_encapsulation_over_both_families() {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let frames: Vec<_> = (0..50).map(|number| traffic::udp_frame(number, 4, 200)).collect();
    let received = lab.path("received.pcap");
    let endpoints: Vec<String> = ["vxlan", "geneve", "gre", "erspan"]
        .iter()
        .flat_map(|scheme| [format!("{scheme}://0.0.0.0"), format!("{scheme}://[::]")])
        .collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let farspan = receive_to(&lab, &endpoints, &received);
    for encapsulation in ALL {
        for underlay in [Underlay::V4, Underlay::V6] {
            mirror(&lab, &frames, &encapsulation.url(underlay));
        }
    }
    await_frames(&received, frames.len() * ALL.len() * 2);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(ledger.captured, frames.len() as u64 * ALL.len() as u64 * 2);
    assert_eq!(ledger.senders.len(), ALL.len() * 2);
    assert!(ledger.senders.iter().all(|sender| sender.received == frames.len() as u64), "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn outer_fragments_come_back_whole() {
    let lab = Lab::new();
    let frames: Vec<_> = (0..100).map(|number| traffic::udp_frame(number, 1, 1514)).collect();
    for (encapsulation, underlay) in [(VXLAN, Underlay::V4), (VXLAN, Underlay::V6), (ERSPAN_2, Underlay::V4)] {
        let received = lab.path("received.pcap");
        let farspan = receive_to(&lab, &[&encapsulation.endpoint(underlay)], &received);
        let outer = Capture::start(&lab, &lab.analyzer, "a0", underlay.tunnel_filter());
        mirror(&lab, &frames, &encapsulation.url_with(underlay, "fit=fragment"));
        await_frames(&received, frames.len());
        farspan.stop().assert_lossless();
        let outer = outer.stop();
        assert!(frames_of(&received) == frames);

        // The same out of a capture of the fragments.
        let inner = lab.path("inner.pcap");
        let whole = lab.path("whole.pcap");
        let captured = Capture::start(&lab, &lab.analyzer, "a0", "ip or ip6");
        mirror(&lab, &frames, &encapsulation.url_with(underlay, "fit=fragment"));
        captured.await_frames(frames.len() * 2);
        std::fs::rename(captured.stop(), &whole).unwrap();
        let from = format!("file:{}", whole.display());
        let to = format!("pcap:{}", inner.display());
        succeed(Command::new(binary()).args(["receive", "--from", &from, "--to", &to]));
        assert!(frames_of(&inner) == frames);
        drop(outer);
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn the_kernels_vxlan_device_is_received() {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let received = lab.path("received.pcap");
    let farspan = receive_to(&lab, &["vxlan://0.0.0.0?vni=42"], &received);
    lab.host.run(&format!("ip link add vx0 type vxlan id 42 dstport 4789 local {UNDERLAY_HOST} remote {ANALYZER}"));
    lab.host.run("ip link set vx0 mtu 9000 addrgenmode none arp off up");
    let frames: Vec<_> = (0..500).map(|number| traffic::udp_frame(number, 16, 60 + number as usize * 2)).collect();
    let file = lab.write("sent.pcap", traffic::capture_file(&frames));
    lab.host.run(&format!("tcpreplay -q -i vx0 --pps 5000 {}", file.display()));
    await_frames(&received, frames.len());
    farspan.stop().assert_lossless();
    assert!(sorted(traffic::of_stranger(frames_of(&received))) == sorted(frames));
}

macro_rules! open_vswitch_mirrors {
    ($($test:ident = $endpoint:literal from $tunnel:literal as $encapsulation:literal;)*) => {
        $(
            #[test]
            #[ignore = "needs root: run scripts/test"]
            fn $test() {
                what_open_vswitch_mirrors($endpoint, $tunnel, $encapsulation);
            }
        )*
    };
}

mod what_open_vswitch_mirrors_is_received {
    use super::what_open_vswitch_mirrors;

    open_vswitch_mirrors! {
        as_gre = "gre://0.0.0.0?key=7" from "type=gre options:remote_ip=192.0.2.2 options:key=7 options:seq=true" as "gre";
        as_erspan_2 = "erspan://0.0.0.0" from
            "type=erspan options:remote_ip=192.0.2.2 options:key=5 options:erspan_ver=1 options:erspan_idx=3" as "erspan2";
        as_erspan_3 = "erspan://0.0.0.0?session=5" from
            "type=erspan options:remote_ip=192.0.2.2 options:key=5 options:erspan_ver=2 options:erspan_dir=1" as "erspan3";
        as_vxlan = "vxlan://0.0.0.0" from "type=vxlan options:remote_ip=192.0.2.2 options:key=42" as "vxlan";
    }
}

fn what_open_vswitch_mirrors(endpoint: &str, tunnel: &str, encapsulation: &str) {
    let lab = Lab::with_underlay_mtu(1700);
    let received = lab.path("received.pcap");
    let farspan = receive_to(&lab, &[endpoint], &received);
    let _switch = OpenVswitch::mirror(&lab, tunnel);
    let greeting: Vec<_> = (0..1000).map(|number| traffic::udp_frame(number, 1, 60)).collect();
    // The switch begins to mirror some time after it was told to.
    await_that("the first mirrored frame", || {
        traffic::send(&lab, &greeting[..1], "--topspeed");
        !traffic::of_stranger(frames_of(&received)).is_empty()
    });
    let before = traffic::of_stranger(frames_of(&received)).len();
    let frames: Vec<_> = (0..400).map(|number| traffic::udp_frame(number, 16, 115 + number as usize * 3)).collect();
    let longest: Vec<_> = frames.into_iter().filter(|frame| frame.len() <= 1514).collect();
    let mut sent = before;
    for some in longest.chunks(50) {
        traffic::send(&lab, some, "--topspeed");
        sent += some.len();
        await_that("every frame", || traffic::of_stranger(frames_of(&received)).len() >= sent);
    }
    let ledger = farspan.stop();
    ledger.assert_lossless();
    let arrived = traffic::of_stranger(frames_of(&received));
    assert!(arrived[before..] == longest[..], "byte for byte and in order");
    let [sender] = ledger.senders.as_slice() else { panic!("one sender: {ledger:#?}") };
    assert_eq!(sender.encapsulation.as_deref(), Some(encapsulation));
    assert_eq!((sender.reordered, sender.duplicated, sender.restarts), (0, 0, 0));
    assert_eq!(sender.lost.unwrap_or(0), 0);
}

/// A sender that skips, swaps and repeats known numbers, and begins anew.
const NUMBERING_SENDER: &str = r"
import socket, struct, sys
to, numbers = sys.argv[1], open(sys.argv[2]).read().split()
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
for count, number in enumerate(numbers):
    gre = struct.pack('>HHI', 0x1000, 0x88be, int(number))
    erspan = struct.pack('>II', 1 << 28 | 7, 0)
    frame = bytes.fromhex('020000000002 020000000001 88b5') + struct.pack('>I', int(number)) + bytes(46)
    raw.sendto(gre + erspan + frame, (to, 0))
";

#[test]
#[ignore = "needs root: run scripts/test"]
fn losses_are_told_exactly() {
    let lab = Lab::new();
    // 5000 numbers across the wrap, of which 1000 are never sent, ten come twice and twenty pairs are swapped; then the
    // sender begins anew.
    let start = u32::MAX - 2500;
    let mut numbers: Vec<u32> = (0..5000).filter(|n| n % 5 != 3).map(|n: u32| start.wrapping_add(n)).collect();
    for pair in 0..20 {
        numbers.swap(100 + pair * 150, 101 + pair * 150);
    }
    for copy in 0..10 {
        numbers.insert(50 + copy * 300, numbers[45 + copy * 300]);
    }
    let before = numbers.len();
    numbers.extend(0..500);
    let file = lab.path("numbers");
    let words = numbers.iter().fold(String::new(), |mut all, number| {
        let _ = write!(all, "{number} ");
        all
    });
    std::fs::write(&file, words).unwrap();
    let script = lab.write("sender.py", NUMBERING_SENDER);

    let received = lab.path("received.pcap");
    let farspan = receive_to(&lab, &["erspan://0.0.0.0?session=7"], &received);
    lab.host.run(&format!("python3 {} {ANALYZER} {}", script.display(), file.display()));
    await_frames(&received, numbers.len());
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(before, 4010);
    assert_eq!(
        ledger.senders,
        [Sender {
            from: UNDERLAY_HOST.to_owned(),
            encapsulation: Some("erspan2".to_owned()),
            id: Some(7),
            received: 4510,
            lost: Some(1000),
            reordered: 20,
            duplicated: 10,
            restarts: 1,
            reserved_bits: 0,
        }]
    );

    // The order of the numbers comes back where frames may wait for each other.
    let ordered = lab.path("ordered.pcap");
    let to = format!("pcap:{}", ordered.display());
    let arguments = ["--from", "erspan://0.0.0.0", "--to", &to, "--reorder", "500ms"];
    let farspan = Farspan::receive(&lab, &lab.analyzer, &arguments);
    let swapped: Vec<u32> = (0..1000).map(|n: u32| if n == 0 || n == 999 { n } else { ((n - 1) ^ 1) + 1 }).collect();
    let words: Vec<String> = swapped.iter().map(ToString::to_string).collect();
    std::fs::write(&file, words.join(" ")).unwrap();
    lab.host.run(&format!("python3 {} {ANALYZER} {}", script.display(), file.display()));
    await_frames(&ordered, 1000);
    farspan.stop().assert_lossless();
    let seen: Vec<u32> =
        frames_of(&ordered).iter().map(|frame| u32::from_be_bytes(frame[14..18].try_into().unwrap())).collect();
    assert_eq!(seen, (0..1000).collect::<Vec<u32>>());
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn erspan_iii_is_relayed_as_vxlan() {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    lab.set_tapped_mtu(WIDE_MTU);
    let delivered = KernelVxlan::start(&lab, 42, false);
    let to = VXLAN.url(Underlay::V4);
    let relay = Farspan::receive(&lab, &lab.host, &["--from", "erspan3://10.8.0.2?session=5", "--to", &to]);
    let frames: Vec<_> = (0..500).map(|number| traffic::udp_frame(number, 16, 60 + number as usize * 2)).collect();
    let file = lab.write("frames.pcap", traffic::capture_file(&frames));
    let mirror = ["mirror", "-r", file.to_str().unwrap(), "--to", "erspan3://10.8.0.2?session=5"];
    succeed(lab.client.command(binary()).args(mirror));
    await_that("every frame", || traffic::of_stranger(delivered.frames()).len() >= frames.len());
    let ledger = relay.stop();
    ledger.assert_lossless();
    assert_eq!(ledger.senders[0].lost, Some(0));
    let arrived = sorted(traffic::of_stranger(frames_of(&delivered.stop())));
    assert!(arrived == sorted(frames), "inner frames byte for byte");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn who_is_not_allowed_costs_a_counter() {
    let lab = Lab::new();
    let received = lab.path("received.pcap");
    let to = format!("pcap:{}", received.display());
    let others = ["--from", "vxlan://0.0.0.0", "--to", &to, "--allow", "198.51.100.0/24", "--allow", "2001:db8::/32"];
    let farspan = Farspan::receive(&lab, &lab.analyzer, &others);
    assert!(!farspan.log().contains("everybody"), "{}", farspan.log());
    let frames: Vec<_> = (0..300).map(|number| traffic::udp_frame(number, 4, 200)).collect();
    let sent = mirror(&lab, &frames, &VXLAN.url(Underlay::V4));
    sent.assert_lossless();
    let ledger = farspan.stop();
    assert_eq!((ledger.captured, ledger.dropped.get("not_allowed")), (300, Some(&300)));
    assert_eq!(ledger.only().sent, 0);
    assert!(ledger.senders.is_empty(), "{ledger:#?}");
    assert_eq!(frames_of(&received).len(), 0);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_does_not_fit_the_receive_buffer_is_counted() {
    let lab = Lab::new();
    let received = lab.path("received.pcap");
    let to = format!("pcap:{}", received.display());
    let farspan =
        Farspan::receive(&lab, &lab.analyzer, &["--from", "vxlan://0.0.0.0", "--to", &to, "--buffer", "1MiB"]);
    succeed(Command::new("kill").args(["-STOP", &farspan.id().to_string()]));
    let frames: Vec<_> = (0..4000).map(|number| traffic::udp_frame(number, 4, 1000)).collect();
    let sent = mirror(&lab, &frames, &VXLAN.url(Underlay::V4));
    sent.assert_lossless();
    succeed(Command::new("kill").args(["-CONT", &farspan.id().to_string()]));
    let ledger = farspan.stop();
    assert!(ledger.kernel_dropped > 0, "{ledger:#?}");
    assert_eq!(ledger.captured + ledger.kernel_dropped, 4000, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_taken_port_and_a_missing_capability_are_told() {
    let lab = Lab::new();
    lab.analyzer.run(&format!("ip link add vx0 type vxlan id 42 dstport 4789 local {ANALYZER} nolearning"));
    lab.analyzer.run("ip link set vx0 addrgenmode none up");
    let check = ["check", "--to", "pcap:/dev/null", "--from"];
    let taken = run(lab.analyzer.command(binary()).args(check).arg("vxlan://0.0.0.0"));
    let words = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert_eq!(taken.status.code(), Some(1), "{words}");
    assert!(words.contains("UDP port 4789 is taken") && words.contains("ip -d link show type vxlan"), "{words}");

    let foreign = run(lab.analyzer.command(binary()).args(check).arg("vxlan://198.51.100.1"));
    assert!(String::from_utf8_lossy(&foreign.stderr).contains("no interface of this host has"), "{foreign:?}");

    let unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
    let copy = lab.path("farspan");
    // By another program: what this one has open for writing a child of another test has open too, and cannot be run.
    succeed(Command::new("cp").arg(binary()).arg(&copy));
    let folder = copy.parent().unwrap();
    succeed(Command::new("chmod").arg("755").arg(folder));
    let mut command = lab.analyzer.command(unprivileged[0]);
    let refused = run(command.args(&unprivileged[1..]).arg(&copy).args(check).arg(format!("erspan://[{ANALYZER_V6}]")));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(77), "{words}");
    assert!(words.contains("setcap cap_net_raw"), "{words}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn each_stream_is_an_interface_of_the_pcapng_file() {
    let lab = Lab::new();
    let directory = lab.path("written");
    std::fs::create_dir(&directory).unwrap();
    // Several files, each of which must say what its interfaces are.
    let to = format!("pcap:{}/{{number}}.pcapng?rotate_size=100KiB", directory.display());
    let from = ["--from", "vxlan://0.0.0.0", "--from", "erspan://0.0.0.0", "--from", "vxlan://[::]"];
    let farspan = Farspan::receive(&lab, &lab.analyzer, &[&from[..], &["--to", &to, "--reorder", "5ms"]].concat());
    let streams = [
        (format!("vxlan://{ANALYZER}?vni=7"), format!("{UNDERLAY_HOST} vxlan 7"), "VNI 7, received by vxlan://0.0.0.0"),
        (format!("vxlan://{ANALYZER}?vni=8"), format!("{UNDERLAY_HOST} vxlan 8"), "VNI 8, received by vxlan://0.0.0.0"),
        (
            format!("erspan2://{ANALYZER}?session=7"),
            format!("{UNDERLAY_HOST} erspan2 7"),
            "session 7, received by erspan://0.0.0.0",
        ),
        (
            format!("vxlan://[{ANALYZER_V6}]?vni=7"),
            "2001:db8:9::1 vxlan 7".to_owned(),
            "VNI 7, received by vxlan://[::]",
        ),
    ];
    // Frames of each stream are as long as no other's, and come twice, so that every stream is in several files.
    let length = |stream: usize| 200 + 100 * stream;
    for _ in 0..2 {
        for (stream, (url, ..)) in streams.iter().enumerate() {
            let frames: Vec<_> = (0..200).map(|number| traffic::udp_frame(number, 4, length(stream))).collect();
            mirror(&lab, &frames, url);
        }
    }
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert_eq!(ledger.captured, 1600);

    let mut files: Vec<PathBuf> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3, "{files:?}");
    let mut seen = std::collections::BTreeMap::new();
    for file in &files {
        let fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.len"];
        let said = run(Command::new("tshark").arg("-nr").arg(file).args(fields));
        assert!(said.status.success(), "{said:?}");
        for line in String::from_utf8(said.stdout).unwrap().lines() {
            *seen.entry(line.to_owned()).or_insert(0) += 1;
        }
    }
    let expected =
        streams.iter().enumerate().map(|(stream, (_, name, _))| (format!("{name}\t{}", length(stream)), 400));
    assert_eq!(seen, expected.collect());
    let about = run(Command::new("capinfos").arg("-I").arg(files.last().unwrap()));
    let about = String::from_utf8(about.stdout).unwrap();
    for (_, name, comment) in &streams {
        assert!(about.contains(&format!("Name = {name}\n")) && about.contains(comment), "{about}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_relay_that_would_receive_its_own_datagrams_is_refused() {
    let lab = Lab::new();
    let ends = |command: &str, from: &str, to: &str| {
        let arguments = [command, "--from", from, "--to", to];
        let ended = run(lab.analyzer.command("timeout").arg("60").arg(binary()).args(arguments));
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let own = format!("vxlan://{ANALYZER}?vni=7");
    for (from, to) in [
        ("vxlan://0.0.0.0", own.clone()),
        ("vxlan://[::]", format!("vxlan://[{ANALYZER_V6}]?vni=7")),
        ("vxlan://0.0.0.0", "vxlan://127.0.0.1?vni=7".to_owned()),
        ("gre://0.0.0.0", format!("gre://{ANALYZER}")),
        ("erspan://0.0.0.0", format!("erspan3://{ANALYZER}?session=3")),
    ] {
        let (code, words) = ends("receive", from, &to);
        assert_eq!(code, Some(2), "{from} {to}: {words}");
        assert!(words.contains("would receive its own datagrams") && words.contains("hint:"), "{words}");
        let (code, words) = ends("check", from, &to);
        assert!(code != Some(0) && words.contains("would receive its own datagrams"), "{code:?} {words}");
    }
    // What comes back is not taken.
    for from in ["vxlan://0.0.0.0:8472", "vxlan://0.0.0.0?vni=8"] {
        Farspan::receive(&lab, &lab.analyzer, &["--from", from, "--to", &own]).stop().assert_lossless();
    }
}

/// Starts a receiver at the analyzer that writes what comes to a file.
fn receive_to(lab: &Lab, endpoints: &[&str], file: &Path) -> Farspan {
    let to = format!("pcap:{}", file.display());
    let mut arguments = vec!["--to", to.as_str()];
    arguments.extend(endpoints.iter().flat_map(|endpoint| ["--from", endpoint]));
    Farspan::receive(lab, &lab.analyzer, &arguments)
}

/// Mirrors `frames` from the tapped host, at a rate that no receiver has to fear.
fn mirror(lab: &Lab, frames: &[Vec<u8>], to: &str) -> Ledger {
    let file: PathBuf = lab.write("frames.pcap", traffic::capture_file(frames));
    let ledger = replay(lab, &["-r", file.to_str().unwrap(), "--rate", "20kpps", "--to", to]);
    assert_eq!(total(&ledger.only().dropped), 0, "{ledger:#?}");
    ledger
}

fn await_frames(file: &Path, count: usize) {
    await_that(&format!("{count} frames in {}", file.display()), || frames_of(file).len() >= count);
}

fn sorted(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort();
    frames
}
