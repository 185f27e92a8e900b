//! What GRO merges inside tunnels comes out as the frames that were sent.

use crate::encapsulation::{Encapsulation, GRE, GRE_WITH_KEY, Underlay, VXLAN};
use crate::farspan::{Farspan, Ledger};
use crate::judge::{Capture, frames_of};
use crate::lab::{ANALYZER, HOST, Lab, await_that};
use crate::traffic::{self, Servers};

const BULK: u64 = 1 << 20;

/// Has GRO work at `a0`, and wait for more between two polls of the driver, as a busy receiver's does.
fn merge(lab: &Lab) {
    lab.analyzer.run("ethtool -K a0 gro on");
    let timeout =
        lab.analyzer.command("sh").args(["-c", "echo 2000000 > /sys/class/net/a0/gro_flush_timeout"]).status();
    assert!(timeout.expect("a shell").success());
}

/// Frames without `outer` bytes in front, in a comparable order.
fn inside(frames: Vec<Vec<u8>>, outer: usize) -> Vec<Vec<u8>> {
    sorted(frames.into_iter().map(|frame| frame.get(outer..).unwrap_or_default().to_vec()).collect())
}

fn sorted(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort();
    frames
}

/// Mirrors a download and receives it where GRO merges. tcpdump at the sender is the judge: the inner frames of its outer
/// packets, `outer` bytes in front, are those that come out. Returns the receiver's ledger.
fn download(lab: &Lab, encapsulation: &Encapsulation, underlay: Underlay, outer: usize) -> Ledger {
    let _servers = Servers::start(lab);
    traffic::bulk_file(lab, BULK);
    let received = lab.path("received.pcap");
    let to = format!("pcap:{}", received.display());
    let from = encapsulation.endpoint(underlay);
    let farspan = Farspan::receive(lab, &lab.analyzer, &["--from", &from, "--to", &to]);
    let sender = Capture::start(lab, &lab.host, "u0", underlay.tunnel_filter());
    let mirror = Farspan::mirror(lab, &["-i", "h0", "--to", &encapsulation.url(underlay), "tcp"]);
    lab.client.run(&format!("curl -sS -o /dev/null http://{HOST}/bulk"));
    let sent = mirror.stop();
    sent.assert_lossless();
    let frames = usize::try_from(sent.only().sent).expect("a small number");
    sender.await_frames(frames);
    let sent = inside(frames_of(&sender.stop()), outer);
    assert_eq!(sent.len(), frames);
    await_that("every frame", || frames_of(&received).len() >= frames);
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert!(sorted(frames_of(&received)) == sent, "the frames that were sent, byte for byte");
    assert_eq!(ledger.captured + ledger.segments_added, frames as u64);
    assert_eq!(ledger.senders[0].received, frames as u64, "each frame counts for its sender: {ledger:#?}");
    ledger
}

/// Over a path with room for full frames, and over one on which they are split into long and short ones.
fn merged_download(encapsulation: &Encapsulation, underlay: Underlay, outer: usize) {
    for mtu in [1600, 1500] {
        let lab = Lab::with_underlay_mtu(mtu);
        merge(&lab);
        let ledger = download(&lab, encapsulation, underlay, outer);
        assert!(ledger.rewritten.super_frames > 0, "GRO merges: {ledger:#?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn gro_of_plain_gre_is_cut_back() {
    merged_download(&GRE, Underlay::V4, 14 + 20 + 4);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn gro_of_keyed_gre_over_ipv6_is_cut_back() {
    merged_download(&GRE_WITH_KEY, Underlay::V6, 14 + 40 + 8);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn gro_beside_a_vxlan_device_leaves_the_frames_of_an_endpoint_alone() {
    for device in ["", "ip link add vx0 type vxlan id 7 dstport 4789 local 2001:db8:9::2 udp6zerocsumrx"] {
        let lab = Lab::with_underlay_mtu(1600);
        merge(&lab);
        if !device.is_empty() {
            lab.analyzer.run(device);
            lab.analyzer.run("ip link set vx0 up");
        }
        download(&lab, &VXLAN, Underlay::V4, 14 + 20 + 8 + 8);
    }
}

/// Sends TCP segments of known sizes in GRE: Ethernet frames and bare IP packets, with tags, over IPv4 and IPv6 inside.
const SENDER: &str = r"
import socket, struct, sys, random
to, pcap = sys.argv[1:]
def csum(b):
    b += b'\0' * (len(b) % 2)
    s = sum(struct.unpack('>%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def packet(v, flow, seq, ident, payload):
    tcp = struct.pack('>HHIIBBHHH', 1000 + flow, 80, seq, 1, 0x80, 0x10, 1000, 0, 0) + b'\1\1\x08\x0a' + b'\0' * 8 + payload
    a, b = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])) if v == 4 else (b'\xfd' + bytes(14) + b'\1', b'\xfd' + bytes(14) + b'\2')
    sum_ = csum(a + b + struct.pack('>II', len(tcp), 6) + tcp)
    tcp = tcp[:16] + struct.pack('>H', sum_) + tcp[18:]
    if v == 6: return struct.pack('>IHBB', 0x60000000, len(tcp), 6, 64) + a + b + tcp
    ip = struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(tcp), ident, 0x4000, 64, 6, 0) + a + b
    return ip[:10] + struct.pack('>H', csum(ip)) + ip[12:] + tcp
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
macs = bytes.fromhex('020000000001020000000002')
out = open(pcap, 'wb')
out.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
rnd = random.Random(7)
for run in range(400):
    v, tags, bare = rnd.choice([4, 6]), rnd.choice([b'', bytes.fromhex('81000007'), bytes.fromhex('88a8000581000007')]), rnd.random() < .3
    ethertype = b'\x08\0' if v == 4 else b'\x86\xdd'
    size, count, last = rnd.randint(1, 1300), rnd.randint(1, 12), rnd.random()
    seq = 1
    for n in range(count):
        length = size if n + 1 < count else max(1, int(size * last))
        inner = packet(v, run, seq, n + 1, rnd.randbytes(length))
        seq += length
        frame = macs + ethertype + inner if bare else macs + tags + ethertype + inner
        gre = struct.pack('>H', 0) + (ethertype + inner if bare else b'\x65\x58' + frame)
        raw.sendto(gre, (to, 0))
        out.write(struct.pack('<IIII', 0, 0, len(frame), len(frame)) + frame)
";

#[test]
#[ignore = "needs root: run scripts/test"]
fn gro_of_segments_of_any_size_is_cut_back() {
    let lab = Lab::new();
    merge(&lab);
    let (received, sent) = (lab.path("received.pcap"), lab.path("sent.pcap"));
    let script = lab.write("sender.py", SENDER);
    let to = format!("pcap:{}", received.display());
    let farspan = Farspan::receive(&lab, &lab.analyzer, &["--from", "gre://0.0.0.0", "--to", &to]);
    lab.host.run(&format!("python3 {} {ANALYZER} {}", script.display(), sent.display()));
    // A bare packet has another pair of addresses in its Ethernet header.
    let behind_macs = |file| inside(frames_of(file), 12);
    let sent = behind_macs(&sent);
    await_that("every frame", || frames_of(&received).len() >= sent.len());
    let ledger = farspan.stop();
    ledger.assert_lossless();
    assert!(ledger.rewritten.super_frames > 50, "GRO merges: {ledger:#?}");
    assert!(behind_macs(&received) == sent, "the frames that were sent, byte for byte");
}

/// The commands of README's section about a Linux tunnel device.
fn readme_recipe() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let section = readme.split("### A Linux tunnel device").nth(1).expect("README has the section");
    let lines =
        section.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| line.starts_with("    "));
    lines
        .map(|line| {
            line.split('#').next().unwrap_or_default().trim().replace("192.0.2.10", ANALYZER).replace("eth1", "a0")
        })
        .collect()
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn readmes_linux_tunnel_device_delivers_the_frames_that_were_sent() {
    let lab = Lab::with_underlay_mtu(1600);
    merge(&lab);
    for command in readme_recipe() {
        lab.analyzer.run(&command);
    }
    let _servers = Servers::start(&lab);
    traffic::bulk_file(&lab, BULK);
    let sender = Capture::start(&lab, &lab.host, "u0", Underlay::V4.tunnel_filter());
    let delivered = Capture::start(&lab, &lab.analyzer, "vx0", "tcp port 80");
    let mirror = Farspan::mirror(&lab, &["-i", "h0", "--to", &VXLAN.url(Underlay::V4), "tcp"]);
    lab.client.run(&format!("curl -sS -o /dev/null http://{HOST}/bulk"));
    let ledger = mirror.stop();
    let frames = usize::try_from(ledger.only().sent).expect("a small number");
    sender.await_frames(frames);
    let sent = inside(frames_of(&sender.stop()), 14 + 20 + 8 + 8);
    delivered.await_frames(frames);
    assert!(sorted(frames_of(&delivered.stop())) == sent, "one frame for each that was sent, byte for byte");
}
