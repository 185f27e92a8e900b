//! Several workers on one interface: what the analyzer gets is what one worker would have sent.
//!
//! The outer source port tells which worker sent a datagram: each has its own part of 49152–65535.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use etherparse::{PacketBuilder, VlanId};

use crate::farspan::{Farspan, Ledger, binary, engine, total};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{HOST, Lab, Process, await_that};
use crate::own_traffic::exactly_one_copy;
use crate::traffic::{self, Servers};

const FRAMES: u32 = 20_000;
const FLOWS: u16 = 64;

#[test]
#[ignore = "needs root: run scripts/test"]
fn both_directions_of_a_flow_and_all_fragments_of_a_packet_meet_one_worker() {
    conversations_stay_together("vxlan://192.0.2.2?vni=42", "");
}

/// libpcap captures the directions apart here, in two groups.
#[test]
#[ignore = "needs root: run scripts/test"]
fn conversations_stay_together_where_directions_are_told_apart() {
    conversations_stay_together("vxlan://192.0.2.2?vni=42&vni_out=43", "");
}

/// With a filter of the operator's.
#[test]
#[ignore = "needs root: run scripts/test"]
fn conversations_stay_together_behind_a_filter() {
    conversations_stay_together("vxlan://192.0.2.2?vni=42", "not port 22");
}

fn conversations_stay_together(to: &str, filter: &str) {
    let lab = Lab::with_underlay_mtu(1600);
    let _servers = Servers::start(&lab);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let mut arguments = vec!["-i", "h0", "--workers", "2", "--to", to];
    arguments.extend(filter.split(' ').filter(|word| !word.is_empty()));
    let farspan = Farspan::mirror(&lab, &arguments);
    // Both directions, from many ports and addresses; ARP comes with them.
    let script = format!(
        "for i in $(seq 16); do for host in {HOST} [2001:db8:8::2]; do \
         curl -gsS -o /dev/null http://$host/evil || exit 1; done; done; \
         for i in $(seq 30 45); do ip address add 10.8.0.$i/24 dev c0 && \
         ping -q -c 2 -i 0.01 -s 4000 -I 10.8.0.$i {HOST} || exit 1; \
         ip address add 2001:db8:8::$i/64 dev c0 nodad && \
         ping -q -c 2 -i 0.01 -s 4000 -I 2001:db8:8::$i 2001:db8:8::2 || exit 1; done;"
    );
    crate::lab::succeed(lab.client.command("sh").args(["-c", &script]));
    // Not every kernel has VLAN devices: these frames are made up.
    traffic::send(&lab, &in_vlans(false), "--pps=4000");
    traffic::send_from(&lab, &lab.host, "h0", &in_vlans(true), "--pps=4000");
    lab.client.run(&format!("ping -q -c 1 -s 25 {HOST}"));
    // The last ping is recognised by its length: 25 bytes after an IP and an ICMP header.
    await_that("the answer to the last ping", || tshark::count(arriving.file(), "icmp.type == 0 && ip.len == 53") >= 1);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    let capture = arriving.stop();

    let mut ports_of: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    let mut kinds: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
    let mut frames = 0;
    for (port, kind, flow) in inner_flows(&capture) {
        frames += 1;
        kinds.entry(kind).or_default().insert(worker_of(port));
        ports_of.entry(flow).or_default().insert(port);
    }
    assert_eq!(frames, ledger.only().sent, "each frame arrives once, in {}", capture.display());
    let torn: Vec<_> = ports_of.iter().filter(|(_, ports)| ports.len() > 1).collect();
    assert!(torn.is_empty(), "flows of several source ports: {torn:#?} in {}", capture.display());
    let both = BTreeSet::from([0, 1]);
    for kind in ["TCP", "TCP over IPv6", "UDP in VLAN", "UDP over IPv6 in VLAN", "fragment", "IPv6 fragment"] {
        assert_eq!(kinds.get(kind), Some(&both), "{kind} is shared by both workers: {kinds:?}");
    }
    assert!(kinds.contains_key("ARP"), "{kinds:?}");
    assert_eq!(kinds["ARP"].len(), 1, "who asks and who answers stay together: {kinds:?}");
    // A conversation that arrived in order has neither of these; both directions count, because tshark knows both.
    for disorder in ["tcp.analysis.out_of_order", "tcp.analysis.ack_lost_segment", "tcp.analysis.lost_segment"] {
        assert_eq!(tshark::count(&capture, disorder), 0, "{disorder} in {}", capture.display());
    }
}

/// UDP both ways between 32 pairs of ports, each once over IPv4 behind one tag and once over IPv6 behind two.
fn in_vlans(back: bool) -> Vec<Vec<u8>> {
    let frame = |port: u16, over_v6: bool| {
        let (mut hosts, mut ports) = ([1, 2], [port, 9]);
        if back {
            (hosts, ports) = ([2, 1], [9, port]);
        }
        let ethernet = PacketBuilder::ethernet2([2, 0xfb, 0, 0, 0, hosts[0]], [2, 0xfb, 0, 0, 0, hosts[1]]);
        let tag = |vlan| VlanId::try_new(vlan).expect("12 bits");
        let v6 = |host| [0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
        let packet = if over_v6 {
            ethernet.double_vlan(tag(6), tag(7)).ipv6(v6(hosts[0]), v6(hosts[1]), 64).udp(ports[0], ports[1])
        } else {
            ethernet.single_vlan(tag(5)).ipv4([10, 8, 5, hosts[0]], [10, 8, 5, hosts[1]], 64).udp(ports[0], ports[1])
        };
        let mut frame = Vec::new();
        packet.write(&mut frame, &[0x5a; 60]).expect("a vector takes everything");
        frame
    };
    (20_000..20_032).flat_map(|port| [frame(port, false), frame(port, true)]).collect()
}

/// Which part of the source ports a port belongs to, of two workers.
fn worker_of(port: u16) -> u16 {
    (port - 49152) / 8192
}

/// Of each datagram: its source port, what kind of frame it carries, and the inner flow, the same in both directions.
/// All ARP frames are one flow whose source ports are not compared: they follow the MAC addresses.
fn inner_flows(capture: &Path) -> Vec<(u16, &'static str, String)> {
    const FIELDS: [&str; 9] =
        ["udp.port", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.port", "vlan.id", "arp.opcode", "ipv6.fraghdr"];
    let flow_of = |fields: Vec<String>| {
        let all = |at: usize| fields[at].split(',').filter(|value| !value.is_empty()).collect::<Vec<_>>();
        let port: u16 = all(0)[0].parse().expect("a port");
        let (is_v6, tagged) = (!all(3).is_empty(), !all(6).is_empty());
        // The outer header is IPv4 and UDP.
        let mut ends = if is_v6 { [all(3), all(4)].concat() } else { [&all(1)[1..], &all(2)[1..]].concat() };
        ends.sort_unstable();
        let (tcp, udp) = (all(5), all(0)[2..].to_vec());
        let kind = match (tcp.is_empty(), udp.is_empty(), is_v6, tagged) {
            _ if !all(7).is_empty() => return (port, "ARP", format!("ARP at {port}")),
            // Asks a group and is answered by one: no flow of two directions.
            _ if ends.iter().any(|end| end.starts_with("ff02:")) => return (port, "group", format!("group at {port}")),
            (false, _, false, _) => "TCP",
            (false, _, true, _) => "TCP over IPv6",
            (_, false, false, true) => "UDP in VLAN",
            (_, false, true, true) => "UDP over IPv6 in VLAN",
            (_, _, false, _) => "fragment",
            (_, _, true, _) if !all(8).is_empty() => "IPv6 fragment",
            _ => "other",
        };
        let mut ports = [tcp, udp].concat();
        ports.sort_unstable();
        (port, kind, format!("{kind} {} {}", ends.join(" "), ports.join(" ")))
    };
    tshark::fields(capture, "vxlan", &FIELDS).into_iter().map(flow_of).collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn under_load_every_flow_is_in_order_and_the_law_holds_for_all_workers_together() {
    /// Outer Ethernet, IPv4, UDP and VXLAN.
    const OUTER: usize = 14 + 20 + 8 + 8;

    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--workers", "2", "--to", "vxlan://192.0.2.2?vni=42"]);
    traffic::send(&lab, &numbered(), "--topspeed");
    let ledger = stop_when_all_were_seen(farspan, &lab);
    let account = ledger.only();
    assert_eq!(ledger.captured, account.sent + total(&account.dropped) + total(&ledger.dropped), "{ledger:#?}");
    arriving.await_frames(usize::try_from(account.sent).expect("a small number"));
    let capture = arriving.stop();
    let arrived = frames_of(&capture);
    assert_eq!(arrived.len() as u64, account.sent, "sent is what arrived");

    let two = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let mut flows: BTreeMap<u16, (u16, Option<u32>, u32)> = BTreeMap::new();
    for frame in arrived.iter().filter(|frame| frame.get(OUTER + 6..OUTER + 12) == Some(&traffic::STRANGER)) {
        let (outer, inner) = (two(frame, 34), two(frame, OUTER + 34));
        let number = OUTER + 42;
        let number = u32::from_be_bytes([frame[number], frame[number + 1], frame[number + 2], frame[number + 3]]);
        let (port, last, count) = flows.entry(inner).or_insert((outer, None, 0));
        assert_eq!(*port, outer, "flow {inner} comes from one source port");
        assert!(last.is_none_or(|last| last < number), "flow {inner}: {number} comes behind {last:?}");
        (*last, *count) = (Some(number), *count + 1);
    }
    let workers: BTreeSet<u16> = flows.values().map(|&(port, ..)| worker_of(port)).collect();
    assert_eq!((flows.len(), workers), (usize::from(FLOWS), BTreeSet::from([0, 1])));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn sequence_numbers_are_one_series_for_all_workers() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "ip proto 47");
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--workers", "2", "--to", "erspan2://192.0.2.2?session=7"]);
    traffic::send(&lab, &numbered(), "--mbps=100");
    let ledger = stop_when_all_were_seen(farspan, &lab);
    arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
    let numbers = tshark::fields(&arriving.stop(), "gre", &["gre.sequence_number"]);
    let numbers: Vec<u64> = numbers.iter().map(|fields| fields[0].parse().expect("a number")).collect();
    let each: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(each.len(), numbers.len(), "no number twice");
    let account = ledger.only();
    assert_eq!(each.last().copied(), Some(account.sent + total(&account.dropped) - 1), "none left out: {ledger:#?}");
}

/// Stops when the interface has received every frame that was sent; nothing is said about how many were dropped.
fn stop_when_all_were_seen(farspan: Farspan, lab: &Lab) -> Ledger {
    lab.await_tapped("h0", FRAMES);
    let ledger = farspan.stop();
    assert!(ledger.captured + ledger.kernel_dropped >= u64::from(FRAMES), "the tap saw every frame: {ledger:#?}");
    ledger
}

fn numbered() -> Vec<Vec<u8>> {
    (0..FRAMES).map(|number| traffic::udp_frame(number, FLOWS, 400)).collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_two_workers_write_to_a_pipe_is_one_sound_capture_file() {
    let lab = Lab::new();
    let (inner, log) = (lab.path("inner.pcap"), lab.path("farspan.log"));
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let mut command = lab.host.command(binary());
    command
        .args(["mirror", "--json", "-i", "h0", "--workers", "2", "-B", "64MiB", "--to", "pcap:-"])
        .args(engine())
        .stdout(Stdio::from(writer))
        .stderr(File::create(&log).expect("the folder is writable"));
    let mut farspan = Process::start(command);
    let file = inner.clone();
    let copying = thread::spawn(move || io::copy(&mut reader, &mut File::create(file)?));
    let said = || fs::read_to_string(&log).unwrap_or_default();
    await_that("farspan's start line", || said().contains("mirroring "));
    traffic::send(&lab, &numbered(), "--mbps=100");
    lab.await_tapped("h0", FRAMES);
    assert!(farspan.interrupt().success(), "{}", said());
    copying.join().expect("the copying ends").expect("the folder is writable");

    let said = said();
    let ledger =
        Ledger::lawful(said.lines().rfind(|line| line.starts_with('{')).expect("the ledger stands in the log"));
    tshark::assert_sound(&inner);
    assert_eq!(tshark::count(&inner, "frame") as u64, ledger.only().sent);
    let arrived = traffic::of_stranger(frames_of(&inner));
    assert_eq!(arrived.len() as u64 + ledger.kernel_dropped, u64::from(FRAMES), "{ledger:#?}");
    let (arrived, sent) = (arrived.into_iter().collect::<BTreeSet<_>>(), numbered().into_iter().collect());
    assert!(arrived.is_subset(&sent), "every frame is as it was sent");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn each_worker_knows_the_datagrams_of_the_others() {
    let lab = Lab::new();
    exactly_one_copy(&lab, "vxlan://192.0.2.2?vni=42", Some("icmp.type == 3"), &["--workers", "2"]);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn fragments_of_another_worker_s_datagrams_are_known_too() {
    let lab = Lab::new();
    let to = "vxlan://192.0.2.2?vni=42&fit=fragment";
    let capture = exactly_one_copy(&lab, to, None, &["--workers", "2"]);
    assert!(tshark::count(&capture, "ip.frag_offset#1 > 0") > 0, "full frames left as two fragments");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn pinned_workers_stay_on_their_cpu() {
    let lab = Lab::new();
    let farspan =
        Farspan::mirror(&lab, &["-i", "h0", "--workers", "3", "--pin", "0", "--to", "vxlan://192.0.2.2?vni=42"]);
    let tasks = format!("/proc/{}/task", farspan.id());
    let pinned = || {
        let threads = fs::read_dir(&tasks).into_iter().flatten().flatten().filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned();
            name.starts_with("worker-").then(|| (name.trim().to_owned(), cpus))
        });
        threads.collect::<BTreeMap<_, _>>()
    };
    let expected = ["worker-0", "worker-1", "worker-2"].map(|name| (name.to_owned(), "0".to_owned()));
    await_that("three workers on CPU 0", || pinned() == expected.clone().into());
    farspan.stop().assert_lossless();
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn an_interface_that_goes_away_ends_the_session_and_is_told_once() {
    let lab = Lab::new();
    let log = lab.path("farspan.log");
    let mut command = lab.host.command(binary());
    command
        .args(["mirror", "-i", "h0", "--workers", "2", "--to", "vxlan://192.0.2.2?vni=42"])
        .args(engine())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("the folder is writable"));
    let mut farspan = Process::start(command);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    await_that("farspan's start line", || said().contains("mirroring "));
    lab.host.run("ip link delete h0");
    let status = crate::lab::await_some("farspan to end by itself", || farspan.ended());
    let said = said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.matches("error: the capture on `h0` ended").count(), 1, "{said}");
    assert_eq!(said.matches("ERROR").count(), 1, "{said}");
}
