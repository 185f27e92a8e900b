//! Strangers who know the program: flows that nobody should be able to choose, reports that anybody can forge.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use etherparse::PacketBuilder;

use crate::farspan::{Farspan, Ledger, binary, run};
use crate::judge::{Capture, tshark};
use crate::lab::{Lab, Namespace, await_that, succeed};
use crate::traffic::{self, STRANGER};

/// TCP SYNs from one client to one server, one from each of these ports.
fn syns(ports: impl IntoIterator<Item = u16>) -> Vec<Vec<u8>> {
    let one = |port| {
        let packet =
            PacketBuilder::ethernet2(STRANGER, [2, 0xfa, 0, 0, 0, 2]).ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64);
        let mut frame = Vec::new();
        packet.tcp(port, 443, 1, 1000).syn().write(&mut frame, &[]).expect("a vector takes everything");
        frame
    };
    ports.into_iter().map(one).collect()
}

/// The source ports that a sample of one in ten has, for an installation whose state is in `state`.
fn sampled(lab: &Lab, state: &Path, file: &Path, more: &[&str]) -> BTreeSet<u16> {
    let seen = lab.path("seen.pcap");
    let mut command = Command::new(binary());
    command.args(["mirror", "-r"]).arg(file).args(["--sample", "1/10"]).args(more);
    command.args(["--to", &format!("pcap:{}", seen.display())]).env("STATE_DIRECTORY", state);
    succeed(&mut command);
    let ports = tshark::values(&seen, "tcp", "tcp.srcport");
    ports.iter().map(|port| port.parse().expect("a port")).collect()
}

/// The experiment of A6: learn with a farspan of one's own which flows are not in the sample, and use those elsewhere.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a06_what_one_installation_leaves_out_another_sees() {
    let lab = Lab::new();
    let (mine, theirs) = (lab.path("mine"), lab.path("theirs"));
    let file = lab.write("all.pcap", traffic::capture_file(&syns(1024..=u16::MAX)));
    let seen = sampled(&lab, &mine, &file, &[]);
    // 64,512 ports, one in ten, with a standard deviation of 76.
    assert!((6_000..=6_900).contains(&seen.len()), "{}", seen.len());
    assert_eq!(sampled(&lab, &mine, &file, &[]), seen, "a restart changes nothing");
    let mode = std::fs::metadata(mine.join("seed")).expect("it is stored").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let unseen: Vec<u16> = (1024..=u16::MAX).filter(|port| !seen.contains(port)).take(10_000).collect();
    let file = lab.write("unseen.pcap", traffic::capture_file(&syns(unseen)));
    assert_eq!(sampled(&lab, &mine, &file, &[]).len(), 0);
    let elsewhere = sampled(&lab, &theirs, &file, &[]).len();
    assert!((800..=1_200).contains(&elsewhere), "{elsewhere} of 10,000");

    // Hosts that are to agree share a seed.
    let shared = ["--seed", "00112233445566778899aabbccddeeff"];
    assert_eq!(sampled(&lab, &mine, &file, &shared), sampled(&lab, &theirs, &file, &shared));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a06_check_prints_the_fingerprint_and_never_the_seed() {
    let lab = Lab::new();
    let state = lab.path("state");
    let check = |more: &[&str]| {
        let mut command = lab.host.command(binary());
        command
            .args(["check", "-i", "h0", "--sample", "1/10", "--to", "pcap:-"])
            .args(more)
            .env("STATE_DIRECTORY", &state);
        String::from_utf8(run(&mut command).stdout).expect("it is text")
    };
    let line = |page: &str| page.lines().find(|line| line.contains("  seed ")).expect(page).to_owned();
    assert!(line(&check(&[])).contains("none yet"), "check stores nothing");
    let seed = "00112233445566778899aabbccddeeff";
    let given = check(&["--seed", seed]);
    assert!(line(&given).contains("fingerprint ") && !given.contains(seed), "{given}");
    std::fs::create_dir(&state).expect("the folder is writable");
    std::fs::write(state.join("seed"), format!("{seed}\n")).expect("the folder is writable");
    let stored = check(&[]);
    let fingerprint =
        |page: &str| line(page).split_whitespace().nth(2).expect("it has one").trim_end_matches(',').to_owned();
    assert_eq!(fingerprint(&stored), fingerprint(&given), "the same seed");
    let wrong = run(lab.host.command(binary()).args(["check", "-i", "h0", "--to", "pcap:-", "--seed", "my-secret"]));
    let said = String::from_utf8(wrong.stderr).expect("it is text");
    assert!(said.contains("32 hexadecimal digits") && !said.contains("my-secret"), "{said}");
}

/// The MAC address of an interface.
fn mac(namespace: &Namespace, link: &str) -> [u8; 6] {
    let text = namespace.run(&format!("cat /sys/class/net/{link}/address"));
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(digits, 16).expect("a MAC");
    }
    mac
}

/// One Ethernet frame from the client's network to the tapped host, with this ICMP message about a tunnel of GRE.
fn forged(lab: &Lab, v6: bool, kind: [u8; 2], word: u32) -> Vec<u8> {
    let to = mac(&lab.host, "h0");
    let start = PacketBuilder::ethernet2(STRANGER, to);
    let (near, far) = ([0x2001, 0xdb8, 9, 0, 0, 0, 0, 1_u16], [0x2001, 0xdb8, 9, 0, 0, 0, 0, 2_u16]);
    let octets = |address: [u16; 8]| std::net::Ipv6Addr::from(address).octets();
    let mut quoted = Vec::new();
    let gre = [0, 0, 0x65, 0x58, 0, 0, 0, 0];
    let mut frame = Vec::new();
    if v6 {
        let mut header = etherparse::Ipv6Header { payload_length: 1400, hop_limit: 64, ..Default::default() };
        (header.next_header, header.source, header.destination) = (etherparse::IpNumber(47), octets(near), octets(far));
        header.write(&mut quoted).expect("a vector takes everything");
        quoted.extend(gre);
        let start = start.ipv6(octets([0x2001, 0xdb8, 8, 0, 0, 0, 0, 1]), octets(near), 64);
        start.icmpv6_raw(kind[0], kind[1], word.to_be_bytes()).write(&mut frame, &quoted).expect("as above");
    } else {
        let header = etherparse::Ipv4Header::new(1400, 64, etherparse::IpNumber(47), [192, 0, 2, 1], [192, 0, 2, 2]);
        header.expect("it is short").write(&mut quoted).expect("as above");
        quoted.extend(gre);
        let start = start.ipv4([10, 8, 0, 1], [192, 0, 2, 1], 64);
        start.icmpv4_raw(kind[0], kind[1], word.to_be_bytes()).write(&mut frame, &quoted).expect("as above");
    }
    frame
}

/// What a mirror by GRE makes of 300 frames of this length, after three reports of a path MTU of 552.
fn after_forged_reports(v6: bool, more: &str, length: usize) -> (Ledger, usize, String) {
    const FRAMES: u32 = 300;
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "proto gre or ip6 proto gre");
    let to = if v6 { "gre://[2001:db8:9::2]" } else { "gre://192.0.2.2" };
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", &format!("{to}?fit=drop{more}"), "udp", "port", "9"]);
    let frames: Vec<_> = (0..FRAMES).map(|number| traffic::udp_frame(number, 16, length)).collect();
    let (kind, mtu) = if v6 { ([2, 0], 1280) } else { ([3, 4], 552) };
    traffic::send(&lab, &vec![forged(&lab, v6, kind, mtu); 3], "--pps=100");
    // The kernel believes it: whoever asks for the route is told.
    let route = if v6 { "ip -6 route get 2001:db8:9::2" } else { "ip route get 192.0.2.2" };
    assert!(lab.host.run(route).contains(&format!("mtu {mtu}")), "{}", lab.host.run(route));
    traffic::send(&lab, &frames, "--pps=1000");
    lab.await_tapped("h0", FRAMES + 3);
    let said = farspan.log();
    let ledger = farspan.stop();
    assert_eq!(ledger.kernel_dropped, 0);
    arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
    let arrived = tshark::count(&arriving.stop(), "gre");
    (ledger, arrived, said)
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a12_a_forged_path_mtu_below_the_floor_costs_no_frame_that_fits_the_floor() {
    // Of the first frames after a report the kernel may still refuse one for each socket: it is sent again.
    let (ledger, arrived, _) = after_forged_reports(false, "", 1200);
    assert_eq!((ledger.only().sent, arrived), (300, 300), "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a12_a_pinned_path_mtu_is_changed_by_nobody() {
    for v6 in [false, true] {
        let (ledger, arrived, _) = after_forged_reports(v6, "&mtu=1600", 1500);
        assert_eq!((ledger.only().sent, arrived), (300, 300), "{ledger:#?}");
    }
    // What the pin is against.
    let (ledger, ..) = after_forged_reports(true, "", 1500);
    assert!(ledger.only().dropped["oversize"] > 200, "{ledger:#?}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a12_a_learnt_path_mtu_that_costs_most_frames_is_a_warning() {
    let lab = Lab::with_underlay_mtu(1600);
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "gre://192.0.2.2?fit=drop", "udp", "port", "9"]);
    traffic::send(&lab, &vec![forged(&lab, false, [3, 4], 552); 3], "--pps=100");
    let frames: Vec<_> = (0..4000).map(|number| traffic::udp_frame(number, 16, 1500)).collect();
    traffic::send(&lab, &frames, "--pps=1000");
    await_that("a warning", || farspan.log().contains("too long for the path MTU of 1280 that was learnt"));
    assert!(farspan.log().contains("WARN destination 1 (gre://192.0.2.2?fit=drop): "), "{}", farspan.log());
    farspan.stop_anyhow();
}

/// For four seconds somebody reports again and again that the first analyzer's host is unreachable.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a12_forged_reports_move_no_flow_from_an_analyzer_that_answers() {
    for v6 in [false, true] {
        let lab = Lab::with_underlay_mtu(1600);
        lab.analyzer.run("ip address add 192.0.2.3/24 dev a0");
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", "proto gre or ip6 proto gre");
        let first = if v6 { "gre://[2001:db8:9::2]?probe=icmp" } else { "gre://192.0.2.2?probe=icmp" };
        let arguments =
            ["-i", "h0", "--spread", "failover", "--to", first, "--to", "gre://192.0.2.3?key=7", "udp", "port", "9"];
        let farspan = Farspan::mirror(&lab, &arguments);
        let kind = if v6 { [1, 3] } else { [3, 1] };
        let reports = vec![forged(&lab, v6, kind, 0); 40];
        let frames: Vec<_> = (0..4000).map(|number| traffic::udp_frame(number, 16, 300)).collect();
        let file = lab.write("reports.pcap", traffic::capture_file(&reports));
        thread::scope(|scope| {
            scope.spawn(|| lab.client.run(&format!("tcpreplay -q -i c0 --pps=10 {}", file.display())));
            traffic::send(&lab, &frames, "--pps=1000");
        });
        lab.await_tapped("h0", 4000);
        let said = farspan.log();
        let ledger = farspan.stop();
        let [first, second] = &ledger.destinations[..] else { panic!("two of them") };
        assert!(first.icmp.host_unreachable > 3, "the reports were heard: {ledger:#?}");
        assert_eq!((first.sent, second.sent), (4000, 0), "{said}\n{ledger:#?}");
        arriving.await_frames(4000);
        assert_eq!(tshark::count(&arriving.stop(), "gre.key"), 0, "nothing went to the second one");
    }
}

/// The experiment of A7 in small: learn which flows a mirror keeps, then send those and little else.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a07_a_flood_of_learnt_flows_keeps_to_the_limit() {
    const LIMIT: usize = 150;
    let lab = Lab::with_underlay_mtu(1600);
    let ports = |capture: &Path, after: f64| -> BTreeSet<u16> {
        let fields = tshark::fields(capture, "vxlan", &["frame.time_relative", "udp.srcport"]);
        let late = fields.iter().filter(|fields| fields[0].parse::<f64>().is_ok_and(|at| at >= after));
        late.map(|fields| fields[1].rsplit(',').next().and_then(|port| port.parse().ok()).expect("a port")).collect()
    };
    let mirrored = |limit: usize, seconds: usize, rate: usize, numbers: &[u32]| {
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
        let limit = format!("{limit}pps");
        let arguments = ["-i", "h0", "--limit-rate", &limit, "--to", "vxlan://192.0.2.2?vni=42", "udp", "port", "9"];
        let farspan = Farspan::mirror(&lab, &arguments);
        let frames: Vec<_> =
            numbers.iter().cycle().take(seconds * rate).map(|&number| traffic::udp_frame(number, 5000, 120)).collect();
        traffic::send(&lab, &frames, &format!("--pps={rate}"));
        let ledger = farspan.stop();
        arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
        arriving.stop()
    };
    let learning = mirrored(100, 6, 2000, &(0..2000).collect::<Vec<_>>());
    let learnt: Vec<u32> = ports(&learning, 4.5).into_iter().map(|port| u32::from(port) - 10_000).collect();
    assert!((20..=400).contains(&learnt.len()), "{}", learnt.len());
    // Ten frames of the learnt flows to one of 200 honest ones.
    let mut honest = (2000..2200).cycle();
    let attack: Vec<u32> = learnt
        .chunks(10)
        .cycle()
        .take(4000)
        .flat_map(|ten| ten.iter().copied().chain(honest.next()).collect::<Vec<_>>())
        .collect();
    let flood = mirrored(LIMIT, 8, 1650, &attack);
    let times = tshark::values(&flood, "vxlan", "frame.time_relative");
    // The mean of five seconds: what a worker that was kept from its core takes later belongs to the same.
    let late = times.iter().filter(|time| time.parse::<f64>().is_ok_and(|time| (2.5..7.5).contains(&time))).count();
    assert!(2 * late <= 3 * LIMIT * 5, "{} frames a second, where {LIMIT} are allowed", late / 5);
    let seen = ports(&flood, 2.5).into_iter().filter(|&port| (12_000..12_200).contains(&port)).count();
    // A random flood leaves a tenth of them.
    assert!(seen >= 10, "{seen} of 200 honest flows");
}

/// Forged senders of one allowed network come first, then an honest one of another.
#[test]
#[ignore = "needs root: run scripts/test"]
fn a23_forged_senders_of_one_network_leave_a_row_to_another() {
    let lab = Lab::with_underlay_mtu(1600);
    lab.analyzer.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.a0.rp_filter=0");
    let to = format!("pcap:{}", lab.path("received.pcap").display());
    let arguments = ["--from", "vxlan://0.0.0.0", "--allow", "10.66.0.0/16", "--allow", "192.0.2.0/24", "--to", &to];
    let receiver = Farspan::receive(&lab, &lab.analyzer, &arguments);
    let target = mac(&lab.analyzer, "a0");
    let datagram = |from: [u8; 4]| {
        let packet = PacketBuilder::ethernet2(STRANGER, target).ipv4(from, [192, 0, 2, 2], 64).udp(50_000, 4789);
        let payload = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &traffic::numbered_frame(7, 60)].concat();
        let mut frame = Vec::new();
        packet.write(&mut frame, &payload).expect("a vector takes everything");
        frame
    };
    let forged = (0..1500_u16).map(|number| datagram([10, 66, number.to_be_bytes()[0], number.to_be_bytes()[1]]));
    let frames: Vec<_> = forged.chain((0..100).map(|_| datagram([192, 0, 2, 1]))).collect();
    traffic::send_from(&lab, &lab.host, "u0", &frames, "--pps=2000");
    lab.await_received("a0", 1600);
    let said = receiver.log();
    let ledger = receiver.stop();
    let of = |from: &str| {
        ledger.senders.iter().filter(|sender| sender.from == from).map(|sender| sender.received).sum::<u64>()
    };
    assert_eq!((ledger.captured, of("192.0.2.1")), (1600, 100), "{said}");
    assert!(ledger.senders.len() < 1024 && said.contains("WARN the table of senders is full"), "{said}");
}
