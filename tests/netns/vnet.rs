//! Frames with a `virtio_net_hdr`, as guests and containers send them, and a generator of them.

use std::fs;
use std::path::PathBuf;

use crate::lab::{Lab, Namespace, Process, await_some, await_that};
use crate::traffic::STRANGER;

/// `VIRTIO_NET_HDR_GSO_*` of `linux/virtio_net.h`.
pub const GSO_TCPV4: u8 = 1;
pub const GSO_UDP: u8 = 3;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_UDP_L4: u8 = 5;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A frame and what its sender leaves to the hardware.
#[derive(Clone, Debug)]
pub struct Sent {
    pub gso_type: u8,
    pub gso_size: u16,
    /// Where the transport header begins.
    pub transport: usize,
    /// Where the payload begins.
    pub payload: usize,
    /// Where the transport checksum is behind the transport header.
    pub checksum: u16,
    pub frame: Vec<u8>,
}

impl Sent {
    fn record(&self) -> Vec<u8> {
        let short = |value: usize| u16::try_from(value).expect("a test's headers are short").to_ne_bytes();
        let header = [
            &[1, self.gso_type][..],
            &short(self.payload),
            &self.gso_size.to_ne_bytes(),
            &short(self.transport),
            &self.checksum.to_ne_bytes(),
        ]
        .concat();
        let length = u32::try_from(header.len() + self.frame.len()).expect("a test's frame is short");
        [&length.to_le_bytes()[..], &header, &self.frame].concat()
    }

    /// The same frame with VLAN tags behind its addresses, the outer one first.
    pub fn tagged(mut self, tags: &[[u8; 4]]) -> Self {
        let bytes = tags.concat();
        self.transport += bytes.len();
        self.payload += bytes.len();
        self.frame.splice(12..12, bytes);
        self
    }

    /// The same frame inside another packet, whose headers are `outer`.
    pub fn within(mut self, outer: &[u8]) -> Self {
        self.transport += outer.len();
        self.payload += outer.len();
        self.frame.splice(0..0, outer.iter().copied());
        self
    }
}

/// Something that sends such frames.
pub struct Sender {
    _process: Process,
    log: PathBuf,
    file: PathBuf,
    script: PathBuf,
}

impl Sender {
    /// A TAP device of this namespace, as a virtual machine has it. It sends at `rate` what [`send`](Self::send) is given.
    pub fn tap(lab: &Lab, namespace: &Namespace, name: &str, rate: u32) -> Self {
        Self::start(lab, namespace, ["tap", name], rate, 0)
    }

    /// A packet socket on an interface of this namespace: sends over and over for so many seconds, or once if 0.
    pub fn socket(lab: &Lab, namespace: &Namespace, link: &str, rate: u32, seconds: u32) -> Self {
        Self::start(lab, namespace, ["packet", link], rate, seconds)
    }

    fn start(lab: &Lab, namespace: &Namespace, [how, name]: [&str; 2], rate: u32, seconds: u32) -> Self {
        let (log, file) = (lab.path(&format!("{name}.log")), lab.path(&format!("{name}.vnet")));
        let script = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/vnet.py"));
        let line = format!("python3 {} {how} {name} {} {rate} {seconds}", script.display(), file.display());
        let process = namespace.start(&line, &log);
        let sender = Self { _process: process, log, file, script };
        await_that("the sender to be ready", || sender.said("ready"));
        sender
    }

    /// Begins to send these.
    pub fn send(&self, frames: &[Sent]) {
        let unfinished = self.file.with_extension("part");
        fs::write(&unfinished, frames.iter().flat_map(Sent::record).collect::<Vec<u8>>())
            .expect("the folder is writable");
        fs::rename(&unfinished, &self.file).expect("the folder is writable");
    }

    /// Waits until everything has been sent. How many frames that were.
    pub fn await_end(&self) -> u32 {
        await_some("everything to be sent", || {
            let words = self.words();
            assert!(!words.contains("Error"), "{}: {words}", self.script.display());
            let (_, sent) = words.split_once("sent ")?;
            sent.lines().next()?.trim().parse().ok()
        })
    }

    fn words(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn said(&self, words: &str) -> bool {
        self.words().contains(words)
    }
}

/// TCP over IPv4 from a stranger with `length` bytes of payload, in segments of `size` bytes. The lengths are those of a
/// packet with `told` bytes of payload.
pub fn tcp_super_frame(length: usize, size: u16, told: usize) -> Sent {
    let mut tcp = vec![0x9c, 0x40, 0, 80, 0, 0, 0x10, 0, 0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0];
    let addresses = [10, 8, 0, 77, 10, 8, 0, 200];
    let checksum = pseudo_header(&addresses, TCP, tcp.len() + length);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = ethernet(0x0800);
    frame.extend(ipv4_header(&[], TCP, 20 + told, addresses, 7));
    frame.extend(tcp);
    let headers = frame.len();
    frame.extend(payload(length));
    Sent { gso_type: GSO_TCPV4, gso_size: size, transport: 34, payload: headers, checksum: 16, frame }
}

/// UDP over IPv4 from a stranger, with a checksum that is left to the hardware, as one super-frame of type `gso_type`.
pub fn udp_frame(length: usize, gso_type: u8, size: u16) -> Sent {
    let addresses = [10, 8, 0, 77, 10, 8, 0, 200];
    let told = u16::try_from(8 + length).expect("a short datagram").to_be_bytes();
    let sum = pseudo_header(&addresses, UDP, 8 + length).to_be_bytes();
    let mut frame = ethernet(0x0800);
    frame.extend(ipv4_header(&[], UDP, 8 + length, addresses, 7));
    frame.extend([0x9c, 0x40, 1, 0xbb, told[0], told[1], sum[0], sum[1]]);
    frame.extend(payload(length));
    Sent { gso_type, gso_size: size, transport: 34, payload: 42, checksum: 6, frame }
}

/// So many bytes that count to 250, over and over.
pub fn payload(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

fn ethernet(kind: u16) -> Vec<u8> {
    [&[0x02, 0xfa, 0, 0, 0, 2][..], &STRANGER, &kind.to_be_bytes()].concat()
}

/// An IPv4 header with a right checksum, for so many bytes behind it.
fn ipv4_header(options: &[u8], protocol: u8, behind: usize, addresses: [u8; 8], identification: u16) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("options are short");
    let length = u16::try_from(20 + options.len() + behind).expect("a packet").to_be_bytes();
    let [high, low] = identification.to_be_bytes();
    let mut header = vec![0x40 | words, 0, length[0], length[1], high, low, 0x40, 0, 64, protocol, 0, 0];
    header.extend(addresses);
    header.extend(options);
    let checksum = (!folded(&header)).to_be_bytes();
    header[10..12].copy_from_slice(&checksum);
    header
}

/// The sum of the pseudo header, as a host leaves it in the checksum field.
fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    let length = u32::try_from(length).expect("a packet").to_be_bytes();
    folded(&[addresses, &length, &[0, 0, 0, protocol]].concat())
}

/// RFC 1071 section 1, word by word.
fn folded(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).fold(0_u32, |sum, word| {
        let sum = sum + (u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
        (sum >> 16) + (sum & 0xffff)
    });
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// A small generator of numbers (xorshift64*, Vigna 2016): the same frames in every run.
pub struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).expect("48 bits") % end
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// A frame with headers as they come, which Linux takes from a guest: VLAN tags, IPv4 options, IPv6 extension headers, any
/// flags, lengths of the whole or of one segment, a checksum field that holds any pseudo header, or anything at all.
pub fn any_frame(numbers: &mut Numbers) -> Sent {
    let is_ipv6 = numbers.one_in(2);
    let is_udp = numbers.one_in(3);
    let is_super = !numbers.one_in(4);
    let protocol = if is_udp { UDP } else { TCP };
    let size = [8, 100, 536, 1000, 1400][numbers.below(5)];
    let pieces = 1 + numbers.below(12);
    let payload = if is_super { size * pieces + 41 + numbers.below(size) } else { numbers.below(1300) };
    let mut transport = if is_udp { udp_header(numbers, payload) } else { tcp_header(numbers) };
    // One segment's lengths: what a device with tx-gso-partial is given.
    let told = if is_super && !is_udp && numbers.one_in(4) { size } else { payload };
    let mut network = if is_ipv6 {
        ipv6(numbers, protocol, transport.len() + told)
    } else {
        ipv4(numbers, protocol, transport.len() + told)
    };
    let field = if is_udp { 6 } else { 16 };
    let sum = if numbers.one_in(3) {
        numbers.bytes()
    } else {
        let addresses = if is_ipv6 { &network[8..40] } else { &network[12..20] };
        pseudo_header(addresses, protocol, transport.len() + payload).to_be_bytes()
    };
    transport[field..field + 2].copy_from_slice(&sum);
    if !is_ipv6 && is_super && numbers.one_in(5) {
        network[10..12].copy_from_slice(&numbers.bytes::<2>());
    }
    let mut frame = ethernet(if is_ipv6 { 0x86dd } else { 0x0800 });
    frame.extend(network);
    let start = frame.len();
    frame.extend(transport);
    let headers = frame.len();
    frame.extend((0..payload).map(|_| numbers.next().to_le_bytes()[0]));
    let gso_type = match (is_super, is_udp, is_ipv6) {
        (false, _, _) => 0,
        (true, true, _) => GSO_UDP_L4,
        (true, false, true) => GSO_TCPV6,
        (true, false, false) => GSO_TCPV4,
    };
    let gso_size = if is_super { u16::try_from(size).expect("a segment") } else { 0 };
    let sent = Sent {
        gso_type,
        gso_size,
        transport: start,
        payload: headers,
        checksum: u16::try_from(field).expect("6 or 16"),
        frame,
    };
    match numbers.below(4) {
        0 => sent.tagged(&[[0x81, 0, 0x60, 7]]),
        1 => sent.tagged(&[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 7]]),
        _ => sent,
    }
}

fn tcp_header(numbers: &mut Numbers) -> Vec<u8> {
    let mut header = numbers.bytes::<12>().to_vec();
    let has_times = numbers.one_in(2);
    // Everything but SYN: ACK, and FIN, RST, PSH, URG, ECE, CWR and AE as they come.
    let [flags, reserved] = numbers.bytes();
    let offset = if has_times { 0x80 } else { 0x50 } | (reserved & 1);
    header.extend([offset, (flags & 0xfd & !0x04) | 0x10, 0x20, 0, 0, 0]);
    header.extend(numbers.bytes::<2>());
    if has_times {
        header.extend([1, 1, 8, 10]);
        header.extend(numbers.bytes::<8>());
    }
    header
}

fn udp_header(numbers: &mut Numbers, payload: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload).expect("a short datagram").to_be_bytes();
    // No port that says what is inside.
    let source = [0x9c, numbers.bytes::<1>()[0]];
    [&source[..], &[0x23, 0x28], &length, &[0, 0]].concat()
}

fn ipv4(numbers: &mut Numbers, protocol: u8, behind: usize) -> Vec<u8> {
    let options: Vec<u8> = match numbers.below(4) {
        0 => [&[131, 11, 4][..], &numbers.bytes::<8>(), &[0]].concat(),
        1 => [&[7, 7, 4][..], &numbers.bytes::<4>(), &[1]].concat(),
        2 => vec![1, 1, 1, 1],
        _ => Vec::new(),
    };
    let identification = u16::from_ne_bytes(numbers.bytes());
    let mut addresses = [10, 8, 0, 77, 10, 8, 0, 200];
    addresses[3] = numbers.bytes::<1>()[0];
    let mut header = ipv4_header(&options, protocol, behind, addresses, identification);
    header[1] = numbers.bytes::<1>()[0];
    header[10..12].fill(0);
    let checksum = (!folded(&header)).to_be_bytes();
    header[10..12].copy_from_slice(&checksum);
    header
}

fn ipv6(numbers: &mut Numbers, protocol: u8, behind: usize) -> Vec<u8> {
    let home = || [&[0, 2, 1, 2, 0, 0, 201, 16][..], &[0x20; 16]].concat();
    let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
    if numbers.one_in(4) {
        chain.push((0, vec![0, 0, 1, 4, 0, 0, 0, 0]));
    }
    if numbers.one_in(4) {
        chain.push((60, if numbers.one_in(2) { home() } else { vec![0, 0, 1, 4, 0, 0, 0, 0] }));
    }
    if numbers.one_in(3) {
        let kind = [0, 2, 4][numbers.below(3)];
        chain.push((43, [&[0, 2, kind, 1, 0, 0, 0, 0][..], &numbers.bytes::<16>()].concat()));
    }
    let extensions: usize = chain.iter().map(|(_, bytes)| bytes.len()).sum();
    let nexts: Vec<u8> = chain.iter().map(|(kind, _)| *kind).chain([protocol]).collect();
    let length = u16::try_from(extensions + behind).expect("a packet").to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], nexts[0], 64];
    header.extend([0xfd; 16]);
    header.extend(numbers.bytes::<16>());
    for ((_, mut bytes), next) in chain.into_iter().zip(&nexts[1..]) {
        bytes[0] = *next;
        header.extend(bytes);
    }
    header
}
