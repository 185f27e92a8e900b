//! Headers between Ethernet and IP: full-size frames behind them arrive over a path that is too narrow.

use std::process::Command;

use crate::farspan::replay;
use crate::judge::suricata::{STOCK, alerts_in};
use crate::judge::{frames_of, tshark};
use crate::lab::{Lab, succeed};

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
