//! `farspan receive` on capture files: what is in the tunnels comes out, and every other packet has its fate. The outer
//! packets are written here byte by byte, after the RFCs, so that our own encoder judges nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A mirrored frame: UDP from 10.0.0.1:1000 to 10.0.0.2:`port`.
fn frame(port: u16) -> Vec<u8> {
    let mut out = Vec::new();
    let packet = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1000, port);
    packet.write(&mut out, &[0x5a; 40]).unwrap();
    out
}

/// A UDP datagram from 192.0.2.1 to `port` of 192.0.2.2, in an Ethernet frame.
fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let packet = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .udp(50_000, port);
    packet.write(&mut out, payload).unwrap();
    out
}

/// The same with GRE, or any other IP protocol.
fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .write(&mut out, etherparse::IpNumber(protocol), payload)
        .unwrap();
    out
}

fn vxlan(vni: u8, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, vni, 0], frame].concat()
}

fn erspan2(session: u8, sequence: u8, frame: &[u8]) -> Vec<u8> {
    [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, sequence][..], &[0x10, 0, 0, session, 0, 0, 0, 0], frame].concat()
}

/// Writes the packets to a capture file and runs `farspan receive` on it: the inner frames with their original lengths,
/// and the ledger.
fn receive(packets: &[Vec<u8>], options: &[&str]) -> (Vec<(Vec<u8>, u32)>, Value) {
    let folder = TempDir::new().unwrap();
    write_capture(&folder.path().join("outer.pcap"), packets);
    let output = farspan(
        folder.path(),
        &[&["receive", "--from", "file:outer.pcap", "--to", "pcap:inner.pcap", "--json"], options].concat(),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut inner = pcap::Capture::from_file(folder.path().join("inner.pcap")).unwrap();
    let mut frames = Vec::new();
    while let Ok(packet) = inner.next_packet() {
        frames.push((packet.data.to_vec(), packet.header.len));
    }
    (frames, serde_json::from_slice(&output.stdout).unwrap())
}

fn farspan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farspan")).current_dir(folder).args(arguments).output().unwrap()
}

fn write_capture(path: &Path, packets: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 262_144, 1] {
        file.extend(word.to_ne_bytes());
    }
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        for word in [1_700_000_000, 0, length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(packet);
    }
    std::fs::write(path, file).unwrap();
}

/// Whole frames.
fn whole(frames: &[Vec<u8>]) -> Vec<(Vec<u8>, u32)> {
    frames.iter().map(|frame| (frame.clone(), u32::try_from(frame.len()).unwrap())).collect()
}

#[test]
fn each_packet_of_a_file_has_its_fate() {
    let packets = [
        udp(4789, &vxlan(42, &frame(1))),
        udp(8472, &vxlan(42, &frame(2))),
        udp(53, &vxlan(42, &frame(3))),
        ip(6, &[0; 20]),
        udp(4789, &[8, 0, 0]),
        ip(47, &erspan2(7, 0, &frame(4))),
        ip(47, &erspan2(7, 2, &frame(5))),
        ip(47, &[0x80, 0, 0x65, 0x58, 0xde, 0xad, 0, 0, 1, 2, 3]),
        udp(4789, &vxlan(42, &[1, 2, 3])),
    ];
    let (frames, ledger) = receive(&packets, &[]);
    assert_eq!(frames, whole(&[frame(1), frame(2), frame(4), frame(5)]));
    assert_eq!(ledger["captured"], 9);
    assert_eq!(ledger["dropped"], json!({"no_tunnel": 2, "undecodable": 2, "too_short": 1}));
    let sender = |encapsulation, id, received, lost: Option<u64>| {
        json!({"from": "192.0.2.1", "encapsulation": encapsulation, "id": id, "received": received, "lost": lost,
            "reordered": 0, "duplicated": 0, "restarts": 0, "reserved_bits": 0})
    };
    assert_eq!(ledger["senders"], json!([sender("vxlan", 42, 3, None), sender("erspan2", 7, 2, Some(1))]));
}

#[test]
fn endpoints_select_by_encapsulation_port_address_and_id() {
    let packets = [
        udp(4789, &vxlan(42, &frame(1))),
        udp(4789, &vxlan(43, &frame(2))),
        udp(5555, &vxlan(42, &frame(3))),
        udp(4789, &vxlan(50, &frame(4))),
        ip(47, &erspan2(7, 0, &frame(5))),
        ip(47, &[&[0, 0, 0x65, 0x58][..], &frame(6)].concat()),
    ];
    for (endpoints, taken, dropped) in [
        (&["vxlan://0.0.0.0?vni=42,50-59"][..], &[1, 4][..], json!({"other_id": 3, "no_tunnel": 1})),
        (&["vxlan://192.0.2.2:5555"], &[3], json!({"other_id": 2, "no_tunnel": 3})),
        (&["vxlan://192.0.2.9"], &[], json!({"other_id": 5, "no_tunnel": 1})),
        (&["vxlan://[::]"], &[], json!({"other_id": 5, "no_tunnel": 1})),
        (&["erspan://0.0.0.0", "gre://0.0.0.0"], &[5, 6], json!({"no_tunnel": 4})),
        (&["erspan3://0.0.0.0", "gre://0.0.0.0?key=7"], &[], json!({"no_tunnel": 4, "other_id": 2})),
    ] {
        let options: Vec<&str> = endpoints.iter().flat_map(|endpoint| ["--from", endpoint]).collect();
        let (frames, ledger) = receive(&packets, &options);
        assert_eq!(frames, whole(&taken.iter().map(|&port| frame(port)).collect::<Vec<_>>()), "{endpoints:?}");
        assert_eq!(ledger["dropped"], dropped, "{endpoints:?}");
    }
}

#[test]
fn senders_and_frames_are_selected() {
    let packets = [udp(4789, &vxlan(42, &frame(1))), udp(4789, &vxlan(42, &frame(2)))];
    let (frames, ledger) = receive(&packets, &["udp", "dst", "port", "2"]);
    assert_eq!((frames, &ledger["dropped"]), (whole(&[frame(2)]), &json!({"filtered": 1})));
    let (frames, ledger) = receive(&packets, &["--allow", "192.0.2.2", "--allow", "2001:db8::/32"]);
    assert_eq!((frames, &ledger["dropped"]), (vec![], &json!({"not_allowed": 2})));
    assert_eq!(ledger["senders"], json!([]));
    let (frames, _) = receive(&packets, &["--allow", "192.0.2.0/31"]);
    assert_eq!(frames.len(), 2);
}

#[test]
fn as_many_tunnels_are_taken_off_as_are_wanted() {
    let nested = |levels: u8| {
        (0..levels).fold(frame(9), |inner, level| {
            if level % 2 == 0 {
                udp(4789, &vxlan(level, &inner))
            } else {
                ip(47, &[&[0, 0, 0x65, 0x58][..], &inner].concat())
            }
        })
    };
    for (levels, decap, left) in
        [(3, "1", Some(2)), (3, "2", Some(1)), (3, "3", Some(0)), (3, "8", Some(0)), (8, "all", Some(0))]
    {
        let (frames, _) = receive(&[nested(levels)], &["--decap", decap]);
        assert_eq!(
            frames,
            whole(&left.map(nested).into_iter().collect::<Vec<_>>()),
            "{levels} levels, --decap {decap}"
        );
    }
    let (frames, ledger) = receive(&[nested(9)], &["--decap", "all"]);
    assert_eq!((frames, &ledger["dropped"]), (vec![], &json!({"nested_too_deep": 1})));
    // IP in GRE in IP in GRE, without any Ethernet between.
    let bare = ip(
        47,
        &[&[0, 0, 0x08, 0x00][..], &ip(47, &[&[0, 0, 0x08, 0x00][..], &frame(9)[14..]].concat())[14..]].concat(),
    );
    let (frames, _) = receive(&[bare], &["--decap", "all"]);
    assert_eq!(frames[0].0[12..], frame(9)[12..]);
}

#[test]
fn each_stream_is_an_interface_in_pcapng() {
    let folder = TempDir::new().unwrap();
    let packets = [
        udp(4789, &vxlan(42, &frame(1))),
        udp(4789, &vxlan(43, &frame(2))),
        ip(47, &erspan2(7, 0, &frame(3))),
        udp(4789, &vxlan(42, &frame(4))),
    ];
    write_capture(&folder.path().join("outer.pcap"), &packets);
    let output = farspan(folder.path(), &["receive", "--from", "file:outer.pcap", "--to", "pcap:inner.pcapng"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = interfaces_of_packets(&std::fs::read(folder.path().join("inner.pcapng")).unwrap());
    assert_eq!(names, ["192.0.2.1 vxlan 42", "192.0.2.1 vxlan 43", "192.0.2.1 erspan2 7", "192.0.2.1 vxlan 42"]);
}

/// The name of each packet's interface in a little-endian pcapng file (draft-ietf-opsawg-pcapng sections 4.2 and 4.3).
fn interfaces_of_packets(mut file: &[u8]) -> Vec<String> {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    while !file.is_empty() {
        let (block, rest) = file.split_at(word(&file[4..]) as usize);
        match word(block) {
            // The name is the first option: its code, its length, its bytes.
            1 => {
                let length = usize::from(block[18]);
                assert_eq!(block[16..18], [2, 0]);
                interfaces.push(String::from_utf8(block[20..20 + length].to_vec()).unwrap());
            }
            6 => packets.push(interfaces[word(&block[8..]) as usize].clone()),
            _ => {}
        }
        file = rest;
    }
    packets
}

#[test]
fn the_tunnels_id_becomes_a_vlan_tag() {
    let tagged = |tags: &[[u8; 4]]| [&frame(1)[..12], &tags.concat(), &frame(1)[12..]].concat();
    // ERSPAN II says that the sender took out VLAN 100 with priority 5.
    let removed = [&[0x10, 0, 0x88, 0xbe, 0, 0, 0, 0][..], &[0x10, 0x64, 0xb0, 7, 0, 0, 0, 0], &frame(1)].concat();
    let packets = [udp(4789, &[&[8, 0, 0, 0, 0x12, 0x34, 0x56, 0][..], &frame(1)].concat()), ip(47, &removed)];
    let (frames, ledger) = receive(&packets, &["--tag", "vlan"]);
    let expected = [tagged(&[[0x81, 0, 0x04, 0x56]]), tagged(&[[0x81, 0, 0, 7], [0x81, 0, 0xa0, 0x64]])];
    assert_eq!(frames, whole(&expected));
    assert_eq!(ledger["rewritten"]["tags"], 1);
    let (frames, _) = receive(&packets, &[]);
    assert_eq!(frames, whole(&[frame(1), tagged(&[[0x81, 0, 0xa0, 0x64]])]));
}

#[test]
fn strict_refuses_what_generous_receivers_take() {
    let packets = [udp(4789, &[&[0xf8, 0, 0, 0, 0, 0, 42, 0][..], &frame(1)].concat())];
    let (frames, ledger) = receive(&packets, &[]);
    assert_eq!((frames, &ledger["senders"][0]["reserved_bits"]), (whole(&[frame(1)]), &json!(1)));
    let (frames, ledger) = receive(&packets, &["--strict"]);
    assert_eq!((frames, &ledger["dropped"]), (vec![], &json!({"undecodable": 1})));
}

#[test]
fn a_cut_frame_keeps_the_length_that_it_had() {
    // T of ERSPAN II: the IP packet inside tells how long the frame was.
    let mut cut = erspan2(7, 0, &frame(1)[..60]);
    cut[10] |= 0x04;
    let (frames, _) = receive(&[ip(47, &cut)], &[]);
    assert_eq!(frames, [(frame(1)[..60].to_vec(), u32::try_from(frame(1).len()).unwrap())]);
}

#[test]
fn wrong_sources_are_told_with_place_and_hint() {
    let folder = TempDir::new().unwrap();
    for (arguments, code, words) in [
        (&["--from", "vxlan://host"][..], 2, "`host` is not an address of this host"),
        (&["--from", "vxlan://0.0.0.0?key=7"], 2, "`key` means nothing to an endpoint of vxlan"),
        (&["--from", "gre://0.0.0.0", "--from", "erspan://192.0.2.1"], 2, "for 192.0.2.1 would be received twice"),
        (&["--from", "vxlan://0.0.0.0", "--rate", "1kpps"], 2, "`rate` is for capture files"),
        (&["--from", "vxlan://0.0.0.0", "--decap", "9"], 2, "it goes from 1 to 8"),
        (&["--from", "vxlan://0.0.0.0", "--allow", "192.0.2.0/33"], 2, "`192.0.2.0/33` is not a network"),
        (&["--from", "file:", "--tag", "vlan"], 2, "`file:` needs the name of a capture file"),
        (&["--from", "file:a.pcap", "--buffer", "2MiB"], 2, "`buffer` is for"),
        (&["--from", "file:missing.pcap"], 66, "cannot read the capture file `missing.pcap`"),
        (&["--from", "file:-", "--from", "file:-"], 2, "standard input (-) can be read only once"),
        (&["--strict"], 2, "nothing to mirror"),
    ] {
        let output = farspan(folder.path(), &[&["receive", "--to", "pcap:x.pcap"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
        assert!(said.contains(words) && said.contains("hint:"), "{arguments:?}\n{said}");
    }
    write_capture(&folder.path().join("a.pcap"), &[]);
    let bad_filter =
        farspan(folder.path(), &["receive", "--from", "file:a.pcap", "--to", "pcap:x.pcap", "port banana"]);
    assert_eq!(bad_filter.status.code(), Some(2));
    let overwritten = farspan(folder.path(), &["receive", "--from", "file:a.pcap", "--to", "pcap:a.pcap"]);
    assert!(String::from_utf8_lossy(&overwritten.stderr).contains("both the source and a destination"));
}

#[test]
fn a_file_of_tunnels_is_a_session_of_the_configuration_and_of_check() {
    let folder = TempDir::new().unwrap();
    write_capture(&folder.path().join("outer.pcap"), &[udp(4789, &vxlan(42, &frame(1)))]);
    let text = "[session.a]\nsource = { tunnel = [\"file:outer.pcap\", \"vxlan://0.0.0.0?vni=42\"], allow = [\"192.0.2.0/24\"], \
                strict = true, decap = \"all\", tag = \"vlan\", reorder = \"5ms\", pace = \"recorded\" }\n\
                destination.out.to = \"pcap:inner.pcap\"\n";
    std::fs::write(folder.path().join("farspan.toml"), text).unwrap();
    let checked = farspan(folder.path(), &["check", "-C", "farspan.toml"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{said}");
    for line in [
        "from     vxlan://0.0.0.0?vni=42 in outer.pcap, at the recorded pace\n",
        "sender   192.0.2.0/24\n",
        "unwrap   all tunnels inside each other\n",
        "tag      the low 12 bits of VNI, key or session become a VLAN tag\n",
        "order    by sequence numbers, waiting 5 ms at most\n",
    ] {
        assert!(said.contains(line), "{line} is missing in\n{said}");
    }
    let received = farspan(folder.path(), &["receive", "-C", "farspan.toml", "--json"]);
    assert!(received.status.success(), "{}", String::from_utf8_lossy(&received.stderr));
    let ledger: Value = serde_json::from_slice(&received.stdout).unwrap();
    assert_eq!(ledger["destinations"][0]["sent"], 1);
}

/// The first fragment of packet number `identification`, of which no other comes.
fn first_fragment(identification: u8, payload: &[u8]) -> Vec<u8> {
    const IDENTIFICATION: usize = 14 + 5;
    const FLAGS: usize = 14 + 6;
    const MORE_FRAGMENTS: u8 = 0x20;
    let mut packet = udp(4789, payload);
    (packet[IDENTIFICATION], packet[FLAGS]) = (identification, MORE_FRAGMENTS);
    packet
}

#[test]
fn a_packet_that_is_given_up_for_another_ones_refused_fragment_has_its_own_fate() {
    // As many as may be incomplete at the same time.
    let mut packets: Vec<_> = (0..64).map(|number| first_fragment(number, &[7; 32])).collect();
    // Not a multiple of eight bytes long; and it takes the place of the oldest.
    packets.push(first_fragment(64, &[7; 33]));
    let (frames, ledger) = receive(&packets, &[]);
    assert!(frames.is_empty());
    assert_eq!((&ledger["captured"], &ledger["dropped"]), (&json!(65), &json!({"undecodable": 65})));
}
