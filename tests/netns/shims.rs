//! Headers between Ethernet and IP: full-size frames behind them arrive over a path that is too narrow.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::farspan::{Farspan, replay};
use crate::judge::suricata::{STOCK, alerts_in};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{Lab, await_that, succeed};
use crate::traffic;

/// The alert is about the last bytes of a response that fills its frame.
const RULES: &str = r#"alert http any any -> any any (msg:"body"; flow:established,to_client; http.response_body; content:"evil"; endswith; sid:1;)
"#;

/// Writes the conversation behind one header: a request and a response, full size.
const CONVERSATION: &str = r"
import struct, sys
name, path = sys.argv[1:]
def csum(b):
    b += b'\0' * (len(b) % 2)
    s = sum(struct.unpack('>%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
macs = bytes.fromhex('020000000002020000000001')
wrap = {
    'plain': lambda p: b'\x08\0' + p,
    'pppoe': lambda p: bytes.fromhex('886411000001') + struct.pack('>H', len(p) + 2) + b'\0\x21' + p,
    'tagged-pppoe': lambda p: bytes.fromhex('81000007886411000001') + struct.pack('>H', len(p) + 2) + b'\0\x21' + p,
    'mpls': lambda p: bytes.fromhex('8847000100400002 0140'.replace(' ', '')) + p,
    'vntag': lambda p: bytes.fromhex('8926000100020800') + p,
    'isid': lambda p: bytes.fromhex('88e700000007') + macs + b'\x08\0' + p,
    'cmd': lambda p: bytes.fromhex('8909010100010007') + b'\x08\0' + p,
    'snap': lambda p: struct.pack('>H', len(p) + 8) + bytes.fromhex('aaaa030000000800') + p,
    'nsh': lambda p: bytes.fromhex('894f0fc2020100000701') + p,
}[name]
A, B = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
def segment(a, b, sp, dp, seq, ack, flags, payload=b''):
    tcp = struct.pack('>HHIIBBHHH', sp, dp, seq, ack, 0x50, flags, 8192, 0, 0) + payload
    tcp = tcp[:16] + struct.pack('>H', csum(a + b + struct.pack('>II', 6, len(tcp)) + tcp)) + tcp[18:]
    ip = struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(tcp), seq & 0xffff, 0x4000, 64, 6, 0) + a + b
    return macs + wrap(ip[:10] + struct.pack('>H', csum(ip)) + ip[12:] + tcp)
full = 1452 if 'pppoe' in name or name == 'snap' else 1460
request = b'GET /index HTTP/1.1\r\nHost: a\r\n\r\n'
head = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n'
length = full - len(head % 1000)
response = head % length + b'a' * (length - 4) + b'evil'
assert len(response) == full
C = lambda *a: segment(A, B, 40000, 80, *a)
S = lambda *a: segment(B, A, 80, 40000, *a)
n, m = 101 + len(request), 501 + full
frames = [C(100, 0, 2), S(500, 101, 18), C(101, 501, 16), C(101, 501, 24, request), S(501, n, 24, response), C(n, m, 17), S(m, n + 1, 17), C(n + 1, m + 1, 16)]
# A datagram that is longer than the path: it becomes fragments.
udp = struct.pack('>HHHH', 1000, 2000, 8 + 1460, 0) + b'b' * 1460
ip = struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(udp), 9, 0, 64, 17, 0) + A + B
frames.append(macs + wrap(ip[:10] + struct.pack('>H', csum(ip)) + ip[12:] + udp))
f = open(path, 'wb')
f.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
for n, b in enumerate(frames): f.write(struct.pack('<IIII', 1700000000 + n, 0, len(b), len(b)) + b)
";

/// The conversation through a GRE tunnel over a path of 1500 bytes.
struct Mirrored {
    lab: Lab,
    original: std::path::PathBuf,
    arrived: std::path::PathBuf,
}

fn mirror(shim: &str) -> Mirrored {
    let lab = Lab::new();
    let (original, arrived) = (lab.path(&format!("{shim}.pcap")), lab.path(&format!("{shim}-arrived.pcap")));
    let script = lab.write("conversation.py", CONVERSATION);
    succeed(Command::new("python3").arg(&script).arg(shim).arg(&original));
    let transmit = format!("pcap:{}", arrived.display());
    let ledger =
        replay(&lab, &["-r", &original.display().to_string(), "--to", "gre://192.0.2.2", "--transmit", &transmit]);
    ledger.assert_lossless();
    assert!(ledger.only().split_added >= 2, "{shim}: {ledger:#?}");
    assert!(frames_of(&arrived).iter().all(|frame| frame.len() <= 1514), "{shim}: every datagram fits the path");
    Mirrored { lab, original, arrived }
}

/// tshark finds no wrong checksum, no gap in the stream, and right lengths in the headers that have them.
fn assert_sound(shim: &str, arrived: &std::path::Path) {
    tshark::assert_sound(arrived);
    let payload = |field| -> Vec<String> { tshark::values(arrived, "tcp.len > 0", field) };
    assert_eq!(payload("tcp.analysis.lost_segment").concat(), "", "{shim}: the stream has no gap");
    for values in tshark::fields(arrived, "pppoes", &["pppoe.payload_length", "ip.len"]) {
        let inner: u32 = values[1].split(',').next_back().unwrap_or_default().parse().expect("a length");
        assert_eq!(values[0].parse(), Ok(inner + 2), "{shim}: the length in PPPoE");
    }
    for values in tshark::fields(arrived, "llc", &["eth.len", "ip.len"]) {
        let inner: u32 = values[1].split(',').next_back().unwrap_or_default().parse().expect("a length");
        assert_eq!(values[0].parse(), Ok(inner + 8), "{shim}: the length in the Ethernet header");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r10_suricata_alerts_on_a_full_size_response_behind_shim_headers() {
    for shim in ["plain", "pppoe", "tagged-pppoe", "mpls", "vntag"] {
        let Mirrored { lab, original, arrived } = mirror(shim);
        let rules = lab.write("http.rules", RULES);
        let alerts =
            |capture: &std::path::Path, folder: &str| alerts_in(STOCK.as_ref(), capture, &rules, &lab.path(folder));
        assert_eq!(alerts(&original, "direct"), [(1, 1)].into(), "{shim}: Suricata reads the frames as they were");
        assert_eq!(alerts(&arrived, "mirrored"), [(1, 1)].into(), "{shim}");
        assert_sound(shim, &arrived);
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r10_tshark_finds_whole_streams_behind_other_shim_headers() {
    for shim in ["isid", "cmd", "snap", "nsh"] {
        let Mirrored { lab: _lab, original, arrived } = mirror(shim);
        assert_sound(shim, &arrived);
        let stream = |capture: &std::path::Path| {
            let payload = tshark::values(capture, "tcp.srcport == 80 && tcp.len > 0", "tcp.payload").concat();
            assert!(payload.ends_with("6576696c"), "{shim}: tshark reads the response");
            payload
        };
        assert_eq!(stream(&arrived), stream(&original), "{shim}");
    }
}

/// The number of flows behind each header.
const FLOWS: u16 = 32;

/// Headers up to and with what names the packet: `PPPoE`, MPLS, VN-tag, E-tag, Cisco metadata, I-tag, SNAP and a pseudowire with
/// control word.
fn headers(packet: usize) -> Vec<Vec<u8>> {
    let length = |more: usize| u16::try_from(packet + more).expect("a short packet").to_be_bytes();
    let macs = [2; 12];
    vec![
        [&[0x88, 0x64, 0x11, 0, 0, 1][..], &length(2), &[0, 0x21]].concat(),
        vec![0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64],
        vec![0x89, 0x26, 0, 1, 0, 2, 8, 0],
        vec![0x89, 0x3f, 0, 1, 0, 2, 0, 0, 8, 0],
        vec![0x89, 0x09, 1, 1, 0, 1, 0, 7, 8, 0],
        [&[0x88, 0xe7, 0, 0, 0, 7][..], &macs, &[8, 0]].concat(),
        [&length(8)[..], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]].concat(),
        [&[0x88, 0x47, 0, 1, 1, 64, 0, 0, 0, 0][..], &macs, &[8, 0]].concat(),
    ]
}

/// UDP one way of every flow behind every header. The last four bytes name header and flow.
fn flows(back: bool) -> Vec<Vec<u8>> {
    const PACKET: usize = 20 + 8 + 60;
    let mut frames = Vec::new();
    for (number, header) in (0_u16..).zip(headers(PACKET)) {
        for flow in 0..FLOWS {
            let (mut hosts, mut ports) = ([1, 2], [20_000 + flow, 9]);
            if back {
                (hosts, ports) = ([2, 1], [9, 20_000 + flow]);
            }
            let mut packet = Vec::new();
            let mut payload = [0x5a; 60];
            payload[56..58].copy_from_slice(&number.to_be_bytes());
            payload[58..].copy_from_slice(&flow.to_be_bytes());
            etherparse::PacketBuilder::ipv4([10, 8, 6, hosts[0]], [10, 8, 6, hosts[1]], 64)
                .udp(ports[0], ports[1])
                .write(&mut packet, &payload)
                .expect("a vector takes everything");
            assert_eq!(packet.len(), PACKET);
            let macs = [2, 0xfb, 0, 0, 0, hosts[1], 2, 0xfb, 0, 0, 0, hosts[0]];
            frames.push([&macs[..], &header, &packet].concat());
        }
    }
    frames
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r10_both_directions_of_a_flow_behind_shim_headers_meet_one_worker() {
    const OUTER: usize = 14 + 20;
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--workers", "2", "--to", "vxlan://192.0.2.2?vni=42", "not arp"]);
    traffic::send(&lab, &flows(false), "--pps=4000");
    traffic::send_from(&lab, &lab.host, "h0", &flows(true), "--pps=4000");
    let frames = 2 * flows(false).len();
    // Not what the kernel or farspan says beside them.
    let is_ours = |frame: &Vec<u8>| frame.get(OUTER + 16..OUTER + 18) == Some(&[2, 0xfb]);
    await_that("every frame", || arriving.frames().iter().filter(|frame| is_ours(frame)).count() >= frames);
    farspan.stop().assert_lossless();

    let (mut ports, mut workers) = (BTreeMap::<_, BTreeSet<u16>>::new(), BTreeMap::<_, BTreeSet<u16>>::new());
    let number = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    for frame in frames_of(&arriving.stop()).into_iter().filter(is_ours) {
        let end = frame.len();
        let port = number(frame.get(OUTER..OUTER + 2));
        let (header, flow) = (number(frame.get(end - 4..end - 2)), number(frame.get(end - 2..end)));
        ports.entry((header, flow)).or_default().insert(port);
        // Each of two workers has half of the ports from 49152 to 65535.
        workers.entry(header).or_default().insert((port - 49152) / 8192);
    }
    assert_eq!(ports.len(), frames / 2, "every flow arrives");
    let torn: Vec<_> = ports.iter().filter(|(_, ports)| ports.len() > 1).collect();
    assert!(torn.is_empty(), "header and flow with several source ports: {torn:?}");
    for (header, workers) in workers {
        assert_eq!(workers.len(), 2, "header {header} is shared by both workers");
    }
}
