//! Mirror formats of switches and routers: what tshark finds inside is what comes out.

use std::path::Path;
use std::process::Command;

use crate::farspan::{Farspan, binary};
use crate::judge::frames_of;
use crate::lab::{ANALYZER, Lab, await_that, succeed};

/// Writes outer packets of every format to a capture file and the mirrored packets to another; or sends the UDP formats.
const SENDER: &str = r"
import socket, struct, sys
outer_file, inner_file, to = sys.argv[1:]
def csum(b):
    b += b'\0' * (len(b) % 2)
    s = sum(struct.unpack('>%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def ip4(proto, body, ident, a, b):
    h = struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(body), ident, 0x4000, 64, proto, 0) + a + b
    return h[:10] + struct.pack('>H', csum(h)) + h[12:] + body
def udp(sport, dport, body): return struct.pack('>HHHH', sport, dport, 8 + len(body), 0) + body
A, B = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
OUT = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
macs = bytes.fromhex('020000000002020000000001')
number = 0
def p4(n=40):
    global number
    number += 1
    return ip4(17, udp(1000, 2000, bytes([number]) * n), number, A, B)
def p6(n=40):
    body = udp(1000, 2000, bytes([7]) * n)
    a, b = b'\xfd' + bytes(14) + b'\1', b'\xfd' + bytes(14) + b'\2'
    body = body[:6] + struct.pack('>H', csum(a + b + struct.pack('>II', len(body), 17) + body)) + body[8:]
    return struct.pack('>IHBB', 0x60000000, len(body), 17, 64) + a + b + body
eth = lambda p: macs + (b'\x08\0' if p[0] >> 4 == 4 else b'\x86\xdd') + p
tagged = lambda p: macs + bytes.fromhex('81000007') + (b'\x08\0' if p[0] >> 4 == 4 else b'\x86\xdd') + p
synthetic = lambda p: bytes.fromhex('020000000001020000000002') + (b'\x08\0' if p[0] >> 4 == 4 else b'\x86\xdd') + p
geneve = lambda t, p, o=b'': struct.pack('>BBHI', len(o) // 4, 0, t, 42 << 8) + o + p
cases = []                                  # UDP port or None for GRE, payload, frame
def case(port, header, packet, frame): cases.append((port, header, frame))
for p in (p4(), p6()):
    t = 0x0800 if p[0] >> 4 == 4 else 0x86dd
    case(6081, geneve(t, p), p, synthetic(p))
    case(6081, geneve(t, p, bytes.fromhex('010801020000000a0000000a')[:12]), p, synthetic(p))    # options
    for tags in ('01', '000001', '0a01ff1201060001', '280400000007' + '290200ff' + '01'):
        f = eth(p)
        if '2902' in tags: tags = tags.replace('00ff', '%04x' % len(f))
        for kind in (0, 1):
            case(37008, struct.pack('>BBH', 1, kind, 1) + bytes.fromhex(tags) + f, p, f)
    case(7932, bytes.fromhex('00000000000000000000070a') + eth(p), p, eth(p))
    case(7932, bytes(12) + tagged(p), p, tagged(p))
    case(30030, struct.pack('>II', 0xabc, 7) + p, p, synthetic(p))
    if t == 0x0800: case(30030, struct.pack('>II', 0xabc, 8) + b'\xff\x03\x00\x21' + p, p, synthetic(p))
    case(4790, struct.pack('>II', 0x0c000000 | (1 if t == 0x0800 else 2), 42 << 8) + p, p, synthetic(p))
    case(4790, struct.pack('>II', 0x0c000003, 42 << 8) + eth(p), p, eth(p))
    # Without the P bit, as in a capture of Arkime's: the next protocol is named all the same.
    case(4790, struct.pack('>II', 0x08000000 | (1 if t == 0x0800 else 2), 42 << 8) + p, p, synthetic(p))
    case(None, struct.pack('>HH', 0, t) + p, p, synthetic(p))
    case(None, struct.pack('>HH', 0, 0x88be) + eth(p), p, eth(p))
    # NVGRE: key with the virtual subnet and a flow number.
    case(None, struct.pack('>HHI', 0x2000, 0x6558, 42 << 8 | 7) + tagged(p), p, tagged(p))
if to == '-':
    f, g = open(outer_file, 'wb'), open(inner_file, 'wb')
    for out in (f, g): out.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
    for n, (port, body, frame) in enumerate(cases):
        o = macs + b'\x08\0' + (ip4(47, body, n, *OUT) if port is None else ip4(17, udp(50000, port, body), n, *OUT))
        for out, b in ((f, o), (g, frame)): out.write(struct.pack('<IIII', n, 0, len(b), len(b)) + b)
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    g = open(inner_file, 'wb')
    g.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
    for port, body, frame in cases:
        if port in (37008, 7932, 30030):
            s.sendto(body, (to, port))
            g.write(struct.pack('<IIII', 0, 0, len(frame), len(frame)) + frame)
";

/// What tshark finds innermost in each packet: addresses, identification, lengths, payload.
fn innermost(capture: &Path) -> Vec<Vec<String>> {
    const FIELDS: [&str; 7] = ["ip.src", "ipv6.src", "ip.id", "ip.len", "ipv6.plen", "udp.length", "udp.payload"];
    let mut command = Command::new("tshark");
    command.args([
        "-n",
        "-d",
        "udp.port==7932,hp_erm",
        "-T",
        "fields",
        "-E",
        "separator=/t",
        "-E",
        "occurrence=l",
        "-r",
    ]);
    command.arg(capture);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let lines = succeed(&mut command);
    lines.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r07_r08_tshark_finds_the_same_inside_every_format() {
    let lab = Lab::new();
    let [outer, inner, taken] = ["outer.pcap", "inner.pcap", "taken.pcap"].map(|name| lab.path(name));
    let script = lab.write("formats.py", SENDER);
    succeed(Command::new("python3").arg(&script).args([&outer, &inner]).arg("-"));
    let (from, to) = (format!("file:{}", outer.display()), format!("pcap:{}", taken.display()));
    succeed(Command::new(binary()).args(["receive", "--from", &from, "--to", &to]));
    assert!(frames_of(&inner).len() > 30);
    assert!(frames_of(&taken) == frames_of(&inner), "every frame byte for byte");
    // Of an outer IPv4 packet the outer fields are there too, of an inner IPv6 packet those are last.
    let (outside, inside) = (innermost(&outer), innermost(&taken));
    assert_eq!(outside.len(), inside.len());
    for (outside, inside) in outside.iter().zip(&inside) {
        assert_eq!(outside[5..], inside[5..], "the mirrored datagram");
        let is_ipv6 = !inside[1].is_empty();
        let same = if is_ipv6 { [1, 4] } else { [0, 2] };
        assert!(same.iter().all(|&field| outside[field] == inside[field]), "{outside:?} {inside:?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r08_routers_and_switches_are_received_at_their_ports() {
    let lab = Lab::new();
    let [inner, received] = ["inner.pcap", "received.pcap"].map(|name| lab.path(name));
    let script = lab.write("formats.py", SENDER);
    let to = format!("pcap:{}", received.display());
    let endpoints =
        ["--from", "tzsp://0.0.0.0", "--from", "hperm://0.0.0.0:7932", "--from", "jmirror://0.0.0.0?mirror=0xabc"];
    let farspan = Farspan::receive(&lab, &lab.analyzer, &[&endpoints[..], &["--to", &to]].concat());
    lab.host.run(&format!("python3 {} - {} {ANALYZER}", script.display(), inner.display()));
    let sent = frames_of(&inner);
    await_that("every frame", || frames_of(&received).len() >= sent.len());
    let ledger = farspan.stop();
    ledger.assert_lossless();
    let sorted = |mut frames: Vec<Vec<u8>>| {
        frames.sort();
        frames
    };
    assert!(sorted(frames_of(&received)) == sorted(sent.clone()), "every frame byte for byte");
    let mut senders: Vec<_> = ledger
        .senders
        .iter()
        .map(|sender| (sender.encapsulation.as_deref().unwrap_or_default(), sender.id, sender.received))
        .collect();
    senders.sort_unstable();
    assert_eq!(senders, [("hperm", None, 4), ("jmirror", Some(0xabc), 3), ("tzsp", None, 16)]);
}

/// What `r07` of the reports is about: Geneve with IP inside VXLAN, all tunnels taken off.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r07_geneve_with_ip_inside_vxlan_is_taken_off() {
    const NESTED: &str = r"
import struct, sys
u = lambda port, b: struct.pack('>HHHH', 5, port, 8 + len(b), 0) + b
def ip(b): return struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(b), 1, 0, 64, 17, 0) + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + b
e = lambda b: bytes.fromhex('020000000002020000000001') + b'\x08\0' + b
ntp = ip(u(123, b'\x23' + bytes(47)))
f = e(ip(u(4789, struct.pack('>II', 8 << 24, 7 << 8) + e(ip(u(6081, struct.pack('>II', 0x0800, 42 << 8) + ntp))))))
sys.stdout.buffer.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1) + struct.pack('<IIII', 0, 0, len(f), len(f)) + f)
";
    let lab = Lab::new();
    let (outer, taken) = (lab.path("nested.pcap"), lab.path("taken.pcap"));
    let written = Command::new("python3").args(["-c", NESTED]).output().expect("python3");
    std::fs::write(&outer, written.stdout).expect("the folder is writable");
    let (from, to) = (format!("file:{}", outer.display()), format!("pcap:{}", taken.display()));
    for decap in ["2", "all"] {
        succeed(Command::new(binary()).args(["receive", "--from", &from, "--to", &to, "--decap", decap]));
        let protocols = crate::judge::tshark::values(&taken, "ntp", "frame.protocols");
        assert_eq!(protocols, ["eth:ethertype:ip:udp:ntp"], "--decap {decap}");
    }
}
