//! Tunnels of others on a mirrored link: what is inside arrives, beside the frames that carry none.
//!
//! The tunnels are written by a Python script after the RFCs, or by the kernel's vxlan device. What comes out is compared
//! with what went in, and read by tshark.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::farspan::{Farspan, Ledger, replay, run, total};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{Lab, Namespace, await_that, succeed};
use crate::traffic;

/// Writes `sent.pcap` with tunnels and plain frames, and `inside-N.pcap` with what is left when N tunnels are taken off.
const TUNNELS: &str = r"
import struct, sys
folder = sys.argv[1]
def csum(b):
    b += b'\0' * (len(b) % 2)
    s = sum(struct.unpack('>%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
STRANGER = bytes.fromhex('02fa00000001')
OUT = bytes.fromhex('020000000002') + STRANGER
IN = bytes.fromhex('0200000000b2') + STRANGER
MADE = bytes.fromhex('020000000001020000000002')
def ipv4(proto, payload, a=b'\xc6\x33\x64\1', b=b'\xc6\x33\x64\2', ident=7, frag=0):
    ip = struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(payload), ident, frag, 64, proto, 0) + a + b
    return ip[:10] + struct.pack('>H', csum(ip)) + ip[12:] + payload
def v6(last): return bytes.fromhex('20010db8') + bytes(11) + bytes([last])
def ipv6(proto, payload, a=1, b=2):
    return struct.pack('>IHBB', 0x60000000, len(payload), proto, 64) + v6(a) + v6(b) + payload
def udp(port, payload, sport=50000):
    return struct.pack('>HHHH', sport, port, 8 + len(payload), 0) + payload
def udp6(port, payload, sport=50000):
    u = udp(port, payload, sport)
    return u[:6] + struct.pack('>H', csum(v6(1) + v6(2) + struct.pack('>II', len(u), 17) + u)) + u[8:]
def tcp(n, payload, back=False):
    A, B = b'\x0a\0\0\1', b'\x0a\0\0\2'
    p = (40000 + n, 80)
    if back: A, B, p = B, A, (80, 40000 + n)
    t = struct.pack('>HHIIBBHHH', *p, 100, 500, 0x50, 24, 8192, 0, 0) + payload
    t = t[:16] + struct.pack('>H', csum(A + B + struct.pack('>II', 6, len(t)) + t)) + t[18:]
    return ipv4(6, t, A, B, n)
def e4(p, macs=OUT): return macs + b'\x08\0' + p
def e6(p): return OUT + b'\x86\xdd' + p
def tagged(p): return OUT + b'\x81\0\0\7\x08\0' + p
vxlan = lambda f: b'\x08\0\0\0\0\0*\0' + f
def geneve(f, options=b''): return bytes([len(options) // 4, 0]) + b'\x65\x58\0\0*\0' + options + f
gre = lambda kind, f: struct.pack('>HH', 0, kind) + f
erspan2 = lambda f: bytes.fromhex('100088be00000001' '1000000700000000') + f
erspan3 = lambda f: bytes.fromhex('100022eb00000001' '200000070000000000008000') + f
tzsp = lambda f: bytes.fromhex('010000010a0101' '01') + f
U = lambda port, p: e4(ipv4(17, udp(port, p)))
U6 = lambda port, p: e6(ipv6(17, udp6(port, p)))
G = lambda p: e4(ipv4(47, p))
G6 = lambda p: e6(ipv6(47, p))
count = 0
def inner():
    global count
    count += 1
    return e4(tcp(count, b'inner frame %04d ' % count + b'x' * (count * 13 % 1300)), IN)
sent = []  # what is sent, what is left of it after one tunnel, after all of them
def one(wrap):
    f = inner(); sent.append((wrap(f), f, f))
def two(outer, between):
    f = inner(); sent.append((outer(between(f)), between(f), f))
def plain(f): sent.append((f, f, f))
for repetition in range(int(sys.argv[2])):
    one(lambda f: U(4789, vxlan(f)))
    one(lambda f: U6(4789, vxlan(f)))
    one(lambda f: U(8472, vxlan(f)))
    one(lambda f: U(6081, geneve(f)))
    one(lambda f: U6(6081, geneve(f, bytes.fromhex('0001000161626364'))))
    one(lambda f: U(37008, tzsp(f)))
    one(lambda f: G(gre(0x6558, f)))
    one(lambda f: G6(gre(0x6558, f)))
    one(lambda f: G(gre(0x88be, f)))
    one(lambda f: G(erspan2(f)))
    one(lambda f: G6(erspan3(f)))
    one(lambda f: tagged(ipv4(17, udp(4789, vxlan(f)))))
    f = inner(); bare = MADE + f[12:]
    sent.append((G(gre(0x0800, f[14:])), bare, bare))
    two(lambda f: U(4789, vxlan(f)), lambda f: U(6081, geneve(f)))
    two(lambda f: G(erspan2(f)), lambda f: U6(4789, vxlan(f)))
    plain(inner())
    plain(U(53, b'x' * 40))
    # An answer of a name server to a client whose port is VXLAN's; a datagram that is too short; another protocol in GRE.
    plain(e4(ipv4(17, udp(4789, bytes.fromhex('8a348180000100010000000003777777076578616d706c65'), 53))))
    plain(U(4789, b'\x08\0\0'))
    plain(G(gre(0x880b, b'\0\x21' + f[14:])))
    plain(e4(ipv4(17, udp(4789, vxlan(inner()))[:64], frag=0x2000)))
    plain(OUT + b'\x88\xb5' + b'no IP' * 12)
def write(name, frames):
    o = open(folder + '/' + name, 'wb')
    o.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 262144, 1))
    for n, b in enumerate(frames): o.write(struct.pack('<IIII', 1700000000 + n // 1000, n % 1000 * 1000, len(b), len(b)) + b)
write('sent.pcap', [s for s, _, _ in sent])
write('inside-1.pcap', [s for _, s, _ in sent])
write('inside-2.pcap', [s for _, _, s in sent])
# Conversations whose tunnels have another source port for every packet.
talk = []
for n in range(int(sys.argv[3])):
    for back in (False, True):
        for number, wrap in enumerate([lambda f, p: ipv4(17, udp(4789, vxlan(f), p)), lambda f, p: ipv4(17, udp(6081, geneve(f, b'\0\1\0\1abcd'), p)),
                     lambda f, p: ipv4(47, gre(0x6558, f), ident=p), lambda f, p: ipv4(47, erspan2(f), ident=p)]):
            a, b = (b'\xc6\x33\x64\1', b'\xc6\x33\x64\2') if not back else (b'\xc6\x33\x64\3', b'\xc6\x33\x64\1')
            packet = wrap(e4(tcp(n, b'talk', back), IN), 20000 + (n * 7919 + number * 13 + back) % 40000)
            packet = packet[:12] + a + b + packet[20:]
            packet = packet[:10] + b'\0\0' + packet[12:]
            talk.append(e4(packet[:10] + struct.pack('>H', csum(packet[:20])) + packet[12:]))
write('talk.pcap', talk)
";

/// Frames of one repetition of [`TUNNELS`], how many of them carry a tunnel, and how many look like it.
const EACH: u64 = 22;
const TUNNELLED: u64 = 15;
const LEFT_ON: u64 = 2;

/// Writes the frames into the lab's folder.
fn write_tunnels(lab: &Lab, repetitions: u32, conversations: u32) {
    let script = lab.write("tunnels.py", TUNNELS);
    let folder = script.parent().unwrap();
    let numbers = [repetitions, conversations].map(|number| number.to_string());
    succeed(Command::new("python3").arg(&script).arg(folder).args(numbers));
}

/// The made-up frames of a capture file, in any order.
fn made_up(file: &Path) -> Vec<Vec<u8>> {
    // A packet that came without Ethernet header has none of the stranger's address.
    let is_made_up = |frame: &Vec<u8>| {
        frame.get(6..12) == Some(&traffic::STRANGER) || frame.get(..12) == Some(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2])
    };
    let mut frames: Vec<_> = frames_of(file).into_iter().filter(is_made_up).collect();
    frames.sort();
    frames
}

/// What the ledger says of tunnels.
fn decapsulated(ledger: &Ledger) -> [u64; 3] {
    ["frames", "left_on", "fragments"].map(|what| ledger.decapsulated.get(what).copied().unwrap_or(0))
}

fn url(file: &Path) -> String {
    format!("pcap:{}", file.display())
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r09_tunnels_of_a_file_are_taken_off_beside_plain_frames() {
    let lab = Lab::new();
    write_tunnels(&lab, 3, 1);
    let sent = lab.path("sent.pcap").display().to_string();
    for (levels, expected) in
        [("1", "inside-1.pcap"), ("2", "inside-2.pcap"), ("all", "inside-2.pcap"), ("off", "sent.pcap")]
    {
        let out = lab.path("out.pcap");
        let ledger = replay(&lab, &["-r", &sent, "--decap", levels, "--to", &url(&out)]);
        assert!(frames_of(&out) == frames_of(&lab.path(expected)), "--decap {levels}: {}", out.display());
        let counted = if levels == "off" { [0; 3] } else { [TUNNELLED, LEFT_ON, 1].map(|count| 3 * count) };
        assert_eq!(decapsulated(&ledger), counted, "{ledger:#?}");
        assert_eq!((ledger.captured, total(&ledger.dropped)), (3 * EACH, 0));
    }
    // tshark reads them: each inner TCP packet, with nothing around it.
    let out = lab.path("out.pcap");
    replay(&lab, &["-r", &sent, "--decap", "all", "--to", &url(&out)]);
    let inside = "tcp && !udp && !gre";
    assert_eq!(tshark::count(&out, inside), 3 * (15 + 1));
    assert_eq!(tshark::count(&out, "tcp.checksum.status == Bad || ip.checksum.status == Bad"), 0);

    // The filter, the sample's flows and the snap length speak of the frame inside.
    let filtered = lab.path("filtered.pcap");
    let ledger = replay(
        &lab,
        &["-r", &sent, "--decap", "all", "--truncate", "60", "--to", &url(&filtered), "tcp", "port", "40003"],
    );
    let frames = tshark::fields(&filtered, "frame", &["tcp.srcport", "frame.cap_len", "frame.len"]);
    let whole = tshark::values(&out, "tcp.srcport == 40003", "frame.len");
    assert_eq!(frames, [["40003".to_owned(), "60".to_owned(), whole[0].clone()]]);
    assert_eq!(ledger.dropped, BTreeMap::from([("filtered".to_owned(), 3 * EACH - 1)]));
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r09_tunnels_on_a_link_are_taken_off_beside_plain_frames() {
    /// Not what is in a tunnel that stays on: PPP in GRE.
    const WANTED: &str = "tcp.srcport >= 40100 && tcp.srcport <= 40199 && !gre";

    let lab = Lab::with_underlay_mtu(1700);
    lab.set_tapped_mtu(1700);
    write_tunnels(&lab, 40, 1);
    let (sent, expected) = (lab.path("sent.pcap"), made_up(&lab.path("inside-2.pcap")));
    for engine in ["ring", "pcap"] {
        let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789 and dst host 192.0.2.2");
        let to = "vxlan://192.0.2.2?vni=42";
        let farspan = Farspan::mirror_as_told(&lab, &["-i", "h0", "--engine", engine, "--decap", "2", "--to", to]);
        lab.client.run(&format!("tcpreplay -q -i c0 --pps 2000 {}", sent.display()));
        await_that("every frame at the analyzer", || {
            made_up(&inside_vxlan(&lab, arriving.file())).len() >= expected.len()
        });
        let ledger = farspan.stop();
        ledger.assert_lossless();
        let received = made_up(&inside_vxlan(&lab, &arriving.stop()));
        assert!(received == expected, "{engine}: other frames arrived");
        assert_eq!(decapsulated(&ledger), [TUNNELLED, LEFT_ON, 1].map(|count| 40 * count), "{engine}: {ledger:#?}");
    }
    // The same with a filter that speaks of the frames inside: the kernel would let none of them through.
    let wanted = lab.path("wanted.pcap");
    let filter = ["tcp", "portrange", "40100-40199", "and", "dst", "port", "80"];
    let to = url(&wanted);
    let arguments = [&["-i", "h0", "--decap", "2", "--to", &to][..], &filter].concat();
    let farspan = Farspan::mirror(&lab, &arguments);
    lab.client.run(&format!("tcpreplay -q -i c0 --pps 2000 {}", sent.display()));
    let chosen = tshark::count(&lab.path("inside-2.pcap"), WANTED);
    await_that("the frames that the filter means", || wanted.exists() && frames_of(&wanted).len() >= chosen);
    let ledger = farspan.stop();
    assert_eq!(ledger.kernel_dropped, 0);
    assert_eq!(tshark::count(&wanted, WANTED), chosen);
    assert_eq!(ledger.only().sent, chosen as u64);
    assert!(ledger.dropped["filtered"] >= 40 * EACH - chosen as u64, "{ledger:#?}");
}

/// The frames inside the VXLAN datagrams of a capture file, as editcap cuts them out.
fn inside_vxlan(lab: &Lab, outer: &Path) -> PathBuf {
    /// Ethernet, IPv4, UDP and VXLAN.
    const HEADERS: &str = "50";
    let inner = lab.path("cut.pcap");
    // The last record may be under way.
    let _ = Command::new("editcap").args(["-F", "pcap", "-C", HEADERS]).arg(outer).arg(&inner).output();
    if !inner.exists() {
        fs::write(&inner, traffic::capture_file(&[])).unwrap();
    }
    inner
}

/// A host of a VXLAN: both ends of the tapped pair have a vxlan device of the kernel's, with its default offloads.
fn vxlan_devices(lab: &Lab) {
    let device = |namespace: &Namespace, link: &str, from: &str, to: &str, address: &str| {
        namespace.run(&format!("ip link add x0 type vxlan id 7 local {from} remote {to} dstport 4789 dev {link}"));
        namespace.link_up("x0", 1450, &[address]);
    };
    device(&lab.client, "c0", "10.8.0.1", "10.8.0.2", "10.9.0.1/24");
    device(&lab.host, "h0", "10.8.0.2", "10.8.0.1", "10.9.0.2/24");
}

/// Super-frames of TCP in VXLAN: each segment comes out as a wire would have carried it.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r09_tcp_in_the_kernels_vxlan_device_comes_out_in_segments() {
    const BYTES: u64 = 3_000_000;
    let lab = Lab::new();
    vxlan_devices(&lab);
    let data = lab.path("data");
    lab.host
        .run(&format!("dd if=/dev/urandom of={} bs=1M count={BYTES} iflag=count_bytes status=none", data.display()));
    let log = lab.path("server.log");
    let folder = data.parent().unwrap().display().to_string();
    let server = lab.host.start(&format!("python3 -u -m http.server --bind 10.9.0.2 --directory {folder} 8080"), &log);
    await_that("the server", || fs::read_to_string(&log).is_ok_and(|said| said.contains("Serving")));
    for engine in ["ring", "pcap"] {
        let mirrored = lab.path(&format!("mirrored-{engine}.pcap"));
        let to = url(&mirrored);
        let arguments = ["-i", "h0", "-B", "128MiB", "--engine", engine, "--decap", "1", "--to", &to, "tcp"];
        let farspan = Farspan::mirror_as_told(&lab, &arguments);
        let fetched = lab.path("fetched");
        let fetch = format!("curl -sS -H Connection:close -o {} http://10.9.0.2:8080/data", fetched.display());
        lab.client.run(&fetch);
        await_that("the end of the connection", || tshark::count(&mirrored, "tcp.flags.fin == 1") >= 2);
        let ledger = farspan.stop();
        ledger.assert_lossless();
        assert!(ledger.rewritten.super_frames > 0 && ledger.segments_added > 500, "there were none: {ledger:#?}");

        tshark::assert_sound(&mirrored);
        assert_eq!(tshark::count(&mirrored, "vxlan"), 0, "{engine}");
        assert_eq!(tshark::count(&mirrored, "frame.len > 1464"), 0, "{engine}: longer than the device's MTU");
        for disorder in ["tcp.analysis.lost_segment", "tcp.analysis.out_of_order"] {
            assert_eq!(tshark::count(&mirrored, disorder), 0, "{engine}: {disorder}");
        }
        // tshark puts the stream together: it is what the receiver got.
        let exported = lab.path(&format!("exported-{engine}"));
        let objects = format!("http,{}", exported.display());
        succeed(Command::new("tshark").args(["-Q", "-n", "-r"]).arg(&mirrored).args(["--export-objects", &objects]));
        assert!(fs::read(exported.join("data")).unwrap() == fs::read(&data).unwrap(), "{engine}: another stream");
        assert!(fs::read(&fetched).unwrap() == fs::read(&data).unwrap());
    }
    drop(server);
}

/// The outer source port tells which worker sent a datagram.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r09_two_workers_share_the_flows_inside_and_tear_none() {
    const CONVERSATIONS: u32 = 60;
    let lab = Lab::with_underlay_mtu(1600);
    write_tunnels(&lab, 1, CONVERSATIONS);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789 and dst host 192.0.2.2");
    let to = "vxlan://192.0.2.2?vni=42";
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--workers", "2", "--decap", "1", "--to", to, "tcp"]);
    lab.client.run(&format!("tcpreplay -q -i c0 --pps 2000 {}", lab.path("talk.pcap").display()));
    let frames = CONVERSATIONS as usize * 8;
    await_that("every frame", || tshark::count(arriving.file(), "tcp") >= frames);
    farspan.stop().assert_lossless();
    let mut ports_of: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    let capture = arriving.stop();
    let seen = tshark::fields(&capture, "vxlan && tcp", &["udp.srcport", "tcp.srcport", "tcp.dstport"]);
    assert_eq!(seen.len(), frames);
    for line in seen {
        let [outer, from, to] = [0, 1, 2].map(|at| line[at].parse::<u16>().unwrap());
        ports_of.entry(from.max(to)).or_default().insert(outer);
    }
    assert_eq!(ports_of.len(), CONVERSATIONS as usize);
    let torn: Vec<_> = ports_of.iter().filter(|(_, ports)| ports.len() > 1).collect();
    assert!(torn.is_empty(), "conversations of several source ports: {torn:?}");
    let workers: BTreeSet<bool> = ports_of.values().flatten().map(|&port| port >= 57_344).collect();
    assert_eq!(workers.len(), 2, "both workers have some");
}

/// Two mirrors that see each other's datagrams would hand each frame to and fro: what goes to their analyzer keeps its
/// tunnel.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r09_tunnels_to_the_own_analyzer_stay_on() {
    let lab = Lab::with_underlay_mtu(1600);
    let other = traffic::udp_frame(1, 1, 100);
    // What the mirror of another host sends to the same analyzer.
    let datagram = |vni: u8| {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(traffic::STRANGER, [2, 0, 0, 0, 0, 2])
            .ipv4([198, 51, 100, 7], [192, 0, 2, 2], 64)
            .udp(50_000, 4789)
            .write(&mut frame, &[&[8, 0, 0, 0, 0, 0, vni, 0], &other[..]].concat())
            .unwrap();
        frame
    };
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789 and src host 192.0.2.1");
    let farspan =
        Farspan::mirror(&lab, &["-i", "h0", "-Q", "in", "--decap", "all", "--to", "vxlan://192.0.2.2?vni=42"]);
    traffic::send(&lab, &[datagram(42), datagram(43)], "--pps=100");
    await_that("both", || tshark::count(arriving.file(), "udp contains 5a:5a:5a") >= 2);
    let ledger = farspan.stop();
    assert_eq!(decapsulated(&ledger), [1, 1, 0], "{ledger:#?}");
    let seen = tshark::values(&arriving.stop(), "udp contains 5a:5a:5a", "vxlan.vni");
    assert_eq!(seen, ["42,42", "42"], "that of the own analyzer is still inside");
}

/// Each frame of a Python script's list of wrong words is refused with the place.
#[test]
#[ignore = "needs root: run scripts/test"]
fn r09_a_wrong_number_of_tunnels_or_filter_is_refused_where_it_stands() {
    let lab = Lab::new();
    write_tunnels(&lab, 1, 1);
    let sent = lab.path("sent.pcap").display().to_string();
    let refused = |arguments: &[&str]| {
        let out = url(&lab.path("never.pcap"));
        let output =
            run(lab.host.command(crate::farspan::binary()).args(["mirror", "-r", &sent, "--to", &out]).args(arguments));
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for word in ["0", "9", "both"] {
        let said = refused(&["--decap", word]);
        assert_eq!(said.matches("error:").count(), 1, "{said}");
        assert!(said.contains(&format!("where: --decap {word}")), "{said}");
    }
    // Only a capture knows which way a frame went; the frame inside a tunnel went neither.
    let said = refused(&["--decap", "1", "inbound"]);
    assert!(said.contains("the filter `inbound` is wrong"), "{said}");
}
