//! A TAP device: programs that sniff it see the mirrored frames, and nothing else.

use std::process::Command;

use crate::farspan::{Farspan, binary, replay, run, total};
use crate::judge::{Capture, Suricata, frames_of, tshark};
use crate::lab::{HOST, Lab, await_some, await_that};
use crate::traffic::{self, HTTP_DNS_TLS, RULES, Servers};

#[test]
#[ignore = "needs root: run scripts/test"]
fn suricata_alerts_on_what_is_mirrored_live_and_on_a_replay() {
    let lab = Lab::new();
    let _servers = Servers::start(&lab);
    let recorded = lab.path("recorded.pcap");
    let record = format!("pcap:{}", recorded.display());
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "tap:ids0", "--to", &record]);
    let suricata = Suricata::start_on(&lab, &lab.host, "ids0", RULES, &[]);
    Servers::converse(&lab);
    suricata.await_alerts(&HTTP_DNS_TLS);
    farspan.stop().assert_lossless();
    let findings = suricata.stop();
    assert_eq!(findings.counter(["tcp", "invalid_checksum"]), 0);
    assert!(!exists(&lab, "ids0"), "a device that farspan made goes with it");

    // A device that is there before, so that Suricata can be there too.
    lab.host.run("ip tuntap add ids1 mode tap");
    lab.host.run("ip link set ids1 addrgenmode none up");
    let suricata = Suricata::start_on(&lab, &lab.host, "ids1", RULES, &[]);
    let ledger = replay(&lab, &["-r", recorded.to_str().expect("a plain name"), "--to", "tap:ids1"]);
    ledger.assert_lossless();
    assert_eq!(ledger.only().sent, frames_of(&recorded).len() as u64);
    suricata.await_alerts(&HTTP_DNS_TLS);
    drop(suricata);
    assert!(exists(&lab, "ids1"), "a device that was there before stays");
}

/// What Suricata cannot read itself comes out of the tunnel before.
#[test]
#[ignore = "needs root: run scripts/test"]
fn suricata_alerts_on_erspan_3_that_is_received() {
    let lab = Lab::with_underlay_mtu(1600);
    let _servers = Servers::start(&lab);
    let receiving = Farspan::receive(&lab, &lab.analyzer, &["--from", "erspan3://0.0.0.0", "--to", "tap:ids0"]);
    let suricata = Suricata::start_on(&lab, &lab.analyzer, "ids0", RULES, &[]);
    let mirroring = Farspan::mirror(&lab, &["-i", "h0", "--to", "erspan3://192.0.2.2?session=7"]);
    Servers::converse(&lab);
    suricata.await_alerts(&HTTP_DNS_TLS);
    let sent = mirroring.stop();
    sent.assert_lossless();
    let received = receiving.stop();
    received.assert_lossless();
    assert_eq!(received.only().sent, sent.only().sent);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn each_frame_is_seen_once_in_order_and_byte_for_byte_and_no_other() {
    let lab = Lab::new();
    lab.set_tapped_mtu(9000);
    let _servers = Servers::start(&lab);
    traffic::bulk_file(&lab, 3 << 20);
    let written = lab.path("written.pcap");
    let record = format!("pcap:{}", written.display());
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "-B", "64MiB", "--to", "tap:ids0", "--to", &record]);
    let link = lab.host.run("ip -d -o link show ids0");
    assert!(link.contains(" mtu 9000 ") && link.contains("NOARP") && link.contains("LOWER_UP"), "{link}");
    assert_eq!(lab.host.run("ip -o address show dev ids0"), "", "no address of any kind");
    let seen = Capture::start(&lab, &lab.host, "ids0", "");
    Servers::converse(&lab);
    lab.client.run(&format!("curl -sS -o /dev/null http://{HOST}/bulk"));
    let kinds: Vec<Vec<u8>> = traffic::twelve_types().into_iter().map(|(_, frame)| frame).collect();
    traffic::send(&lab, &kinds, "--pps=1000");
    lab.client.run(&format!("ping -q -c 1 -s 25 {HOST}"));
    await_that("the answer to the last ping", || tshark::count(seen.file(), "icmp.type == 0 && ip.len == 53") == 1);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert!(ledger.rewritten.super_frames > 0, "{ledger:#?}");

    let (seen, written) = (frames_of(&seen.stop()), frames_of(&written));
    assert_eq!(written.len() as u64, ledger.destinations[0].sent);
    // What the kernel says of its own addresses may have passed before tcpdump listened.
    let before = written.len() - seen.len();
    assert!(before <= 3 && written[before..] == seen, "the device shows what the file holds");
    assert!(seen.iter().any(|frame| frame.len() > 8000), "full frames of MTU 9000 among them");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn frames_that_are_longer_than_its_mtu_are_oversize() {
    let lab = Lab::new();
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "tap:ids0?mtu=1000"]);
    let seen = Capture::start(&lab, &lab.host, "ids0", "icmp");
    lab.client.run(&format!("ping -q -c 3 -i 0.05 -s 973 {HOST}"));
    lab.client.run(&format!("ping -q -c 2 -i 0.05 -s 972 {HOST}"));
    seen.await_frames(4);
    let ledger = farspan.stop();
    assert_eq!(ledger.only().dropped.get("oversize"), Some(&6), "{ledger:#?}");
    assert_eq!(total(&ledger.only().dropped), 6);
    assert!(frames_of(&seen.stop()).iter().all(|frame| frame.len() == 14 + 1000));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_device_that_is_down_or_deleted_costs_frames_and_comes_back() {
    let lab = Lab::new();
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--workers", "2", "--to", "tap:ids0"]);
    let ping = |length: u32| lab.client.run(&format!("ping -q -c 1 -s {length} {HOST}"));
    ping(10);
    lab.host.run("ip link set ids0 down");
    ping(11);
    lab.host.run("ip link set ids0 up");
    let seen = Capture::start(&lab, &lab.host, "ids0", "icmp");
    ping(12);
    seen.await_frames(2);
    let (before, first) = (index(&lab), frames_of(&seen.stop()));

    lab.host.run("ip link delete ids0");
    ping(13);
    let again = await_some("another device of the name", || {
        exists(&lab, "ids0").then(|| index(&lab)).filter(|index| *index != before)
    });
    assert!(!again.is_empty());
    await_that("the device to be up", || lab.host.run("ip -o link show ids0").contains("LOWER_UP"));
    let seen = Capture::start(&lab, &lab.host, "ids0", "icmp");
    ping(14);
    seen.await_frames(2);
    let ledger = farspan.stop();
    let dropped = &ledger.only().dropped;
    let lost = dropped.get("interface_down").copied().unwrap_or(0);
    assert!(lost >= 4 && lost == total(dropped), "two pings were lost on the way, and told: {ledger:#?}");
    for (frames, length) in [(first, 12), (frames_of(&seen.stop()), 14)] {
        let lengths: Vec<usize> = frames.iter().map(Vec::len).collect();
        assert_eq!(lengths, [14 + 20 + 8 + length; 2]);
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn without_privilege_a_prepared_device_can_be_used_and_no_other() {
    /// As root, but without `CAP_NET_ADMIN`.
    const CONFINED: [&str; 2] = ["--bounding-set", "-net_admin"];

    let lab = Lab::new();
    let frames: Vec<Vec<u8>> = (0..10).map(|number| traffic::udp_frame(number, 2, 200)).collect();
    let file = lab.write("frames.pcap", traffic::capture_file(&frames));
    let file = file.to_str().expect("a plain name");
    let confined = |to: &str| {
        let mut command: Command = lab.host.command("setpriv");
        run(command.args(CONFINED).arg(binary()).args(["mirror", "--json", "-r", file, "--to", to]))
    };
    let refused = confined("tap:ids0");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(77), "{said}");
    for words in [
        "not permitted to create or use the TAP device ids0",
        "CAP_NET_ADMIN",
        "sudo setcap cap_net_admin=ep ",
        "tap:ids0",
    ] {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    let mut check = lab.host.command("setpriv");
    let checked = run(check.args(CONFINED).arg(binary()).args(["check", "-r", file, "--to", "tap:ids0"]));
    assert_eq!(checked.status.code(), Some(77), "{}", String::from_utf8_lossy(&checked.stderr));

    lab.host.run("ip tuntap add ids0 mode tap user root");
    lab.host.run("ip link set ids0 addrgenmode none mtu 2000 arp off up");
    let seen = Capture::start(&lab, &lab.host, "ids0", "");
    let used = confined("tap:ids0?mtu=1500");
    assert!(used.status.success(), "{}", String::from_utf8_lossy(&used.stderr));
    seen.await_frames(10);
    assert_eq!(frames_of(&seen.stop()), frames);
    assert!(lab.host.run("ip -o link show ids0").contains(" mtu 2000 "), "it may not be changed, and was not");

    let foreign = run(lab.host.command(binary()).args(["mirror", "-r", file, "--to", "tap:h0"]));
    let said = String::from_utf8_lossy(&foreign.stderr).into_owned();
    assert_eq!(foreign.status.code(), Some(66), "{said}");
    assert!(said.contains("the interface h0 is no TAP device"), "{said}");
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn check_tells_what_the_device_will_be_like() {
    let lab = Lab::new();
    lab.set_tapped_mtu(4000);
    let checked = run(lab.host.command(binary()).args(["check", "-i", "h0", "--to", "tap:ids0?owner=root"]));
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let expected = "a TAP device, made at the start, gone at the end; MTU 4000, no ARP, no IPv6, of the user 0";
    assert!(checked.status.success() && said.contains(expected), "{said}");
    assert!(!exists(&lab, "ids0"), "check makes nothing");

    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", "tap:ids0?owner=root"]);
    let about = lab.host.run("ip tuntap show");
    assert!(about.starts_with("ids0: tap") && about.contains("user 0"), "{about}");
    let settings = ["ipv6/conf/ids0/disable_ipv6", "ipv4/conf/ids0/rp_filter", "ipv6/conf/h0/disable_ipv6"];
    let settings = settings.map(|name| lab.host.run(&format!("cat /proc/sys/net/{name}")).trim().to_owned());
    assert_eq!(settings, ["1", "1", "0"], "no other interface is touched");
    // Its own mirror is refused before anything is opened.
    let loops = run(lab.host.command(binary()).args(["check", "-i", "*", "--to", "tap:ids0"]));
    assert_eq!(loops.status.code(), Some(2), "{}", String::from_utf8_lossy(&loops.stderr));
    let taken = run(lab.host.command(binary()).args(["mirror", "-i", "h0", "--to", "tap:ids0"]));
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(taken.status.code() == Some(1) && said.contains("another program has the TAP device ids0"), "{said}");
    farspan.stop();
}

fn exists(lab: &Lab, link: &str) -> bool {
    lab.host.run("ip -o link show").contains(&format!(" {link}: "))
}

/// The number of `ids0`, which another device of the name does not have.
fn index(lab: &Lab) -> String {
    let line = lab.host.run("ip -o link show ids0");
    line.split(':').next().expect("the number stands first").to_owned()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn two_workers_keep_each_flow_in_order_on_one_device() {
    const FRAMES: u32 = 4000;
    let lab = Lab::new();
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--workers", "2", "-B", "64MiB", "--to", "tap:ids0"]);
    let seen = Capture::start(&lab, &lab.host, "ids0", "udp port 9");
    let sent: Vec<Vec<u8>> = (0..FRAMES).map(|number| traffic::udp_frame(number, 16, 400)).collect();
    traffic::send(&lab, &sent, "--pps=20000");
    seen.await_frames(FRAMES as usize);
    farspan.stop().assert_lossless();
    let seen = frames_of(&seen.stop());
    let of_flow = |frames: &[Vec<u8>], flow: u16| -> Vec<Vec<u8>> {
        frames.iter().filter(|frame| frame[34..36] == (10_000 + flow).to_be_bytes()).cloned().collect()
    };
    assert_eq!(seen.len(), sent.len());
    for flow in 0..16 {
        assert!(of_flow(&seen, flow) == of_flow(&sent, flow), "flow {flow}");
    }
}
