//! Traffic: real clients that talk to real servers, and single frames of every kind.

use std::fs;
use std::path::PathBuf;

use crate::lab::{CLIENT, HOST, Lab, Namespace, Process, await_that};

/// Rules that the conversations of [`Servers`] trigger, one each for HTTP, DNS and TLS.
pub const RULES: &str = r#"
alert http any any -> any any (msg:"HTTP request"; flow:established,to_server; http.uri; content:"/evil"; sid:1;)
alert dns any any -> any any (msg:"DNS query"; dns.query; content:"evil.example"; sid:2;)
alert tls any any -> any any (msg:"TLS server name"; tls.sni; content:"evil.example"; sid:3;)
"#;
/// The signatures of [`RULES`].
pub const HTTP_DNS_TLS: [u64; 3] = [1, 2, 3];

/// nginx for HTTP and TLS and dnsmasq for DNS, on the tapped host.
pub struct Servers {
    _nginx: Process,
    _dnsmasq: Process,
}

impl Servers {
    /// Starts both and waits until they answer. They serve the lab's folder.
    pub fn start(lab: &Lab) -> Self {
        let folder = lab.path("");
        let folder = folder.display();
        lab.host.run(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=evil.example \
             -keyout {folder}key.pem -out {folder}certificate.pem"
        ));
        lab.write("evil", "<p>a page that a rule looks for</p>\n");
        let configuration = lab.write(
            "nginx.conf",
            // One process: a master that is killed would leave its worker behind.
            format!(
                "daemon off; master_process off; user root; pid {folder}nginx.pid; error_log {folder}nginx.error;\n\
                 events {{}}\n\
                 http {{ access_log off; sendfile on; root {folder};\n\
                 client_body_temp_path {folder}body; proxy_temp_path {folder}proxy; fastcgi_temp_path {folder}fastcgi;\n\
                 uwsgi_temp_path {folder}uwsgi; scgi_temp_path {folder}scgi;\n\
                 server {{ listen 80; listen [::]:80; listen 443 ssl;\n\
                 ssl_certificate {folder}certificate.pem; ssl_certificate_key {folder}key.pem; }} }}\n"
            ),
        );
        let nginx = lab.host.start(&format!("nginx -c {}", configuration.display()), &lab.path("nginx.log"));
        let dnsmasq = lab.host.start(
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file= --no-resolv --no-hosts \
             --address=/evil.example/203.0.113.7",
            &lab.path("dnsmasq.log"),
        );
        await_that("nginx and dnsmasq to listen", || {
            let listening = lab.host.run("ss -Hlntu");
            [":80 ", ":443 ", ":53 "].iter().all(|port| listening.contains(port))
        });
        Self { _nginx: nginx, _dnsmasq: dnsmasq }
    }

    /// One HTTP request, one DNS query and one TLS handshake of the client: what [`RULES`] look for.
    pub fn converse(lab: &Lab) {
        lab.client.run(&format!("curl -sS -o /dev/null http://{HOST}/evil"));
        lab.client.run(&format!("dig +tries=5 +time=2 @{HOST} evil.example"));
        lab.client.run(&format!("curl -sSk -o /dev/null --resolve evil.example:443:{HOST} https://evil.example/evil"));
    }
}

/// So many HTTP requests of the client for `/evil`, each over a connection of its own, one after the other.
pub fn requests(lab: &Lab, count: u32) {
    lab.client.run(&format!("curl -sS -H Connection:close -o /dev/null http://{HOST}/evil?[1-{count}]"));
}

/// Writes `bytes` random bytes to the file that the servers know as `/bulk` and returns its SHA-256.
pub fn bulk_file(lab: &Lab, bytes: u64) -> String {
    let path = lab.path("bulk");
    lab.host
        .run(&format!("dd if=/dev/urandom of={} bs=1M count={bytes} iflag=count_bytes status=none", path.display()));
    let sum = lab.host.run(&format!("sha256sum {}", path.display()));
    sum.split_whitespace().next().expect("sha256sum prints the sum first").to_owned()
}

/// MAC address of the sender of made-up frames, by which they are told from the kernel's own.
pub const STRANGER: [u8; 6] = [0x02, 0xfa, 0, 0, 0, 1];

/// The made-up ones among captured frames.
pub fn of_stranger(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.into_iter().filter(|frame| frame.get(6..12) == Some(&STRANGER)).collect()
}

/// Sends made-up frames from the client towards the tapped host, at `rate` (an option of tcpreplay).
pub fn send(lab: &Lab, frames: &[Vec<u8>], rate: &str) {
    send_from(lab, &lab.client, "c0", frames, rate);
}

/// Sends made-up frames at any interface of the lab.
pub fn send_from(lab: &Lab, namespace: &Namespace, link: &str, frames: &[Vec<u8>], rate: &str) {
    let file = lab.write("sent.pcap", capture_file(frames));
    namespace.await_link(link);
    namespace.run(&format!("tcpreplay -q -i {link} {rate} {}", file.display()));
}

/// A classic capture file of whole Ethernet frames, one a millisecond
/// (<https://ietf-opsawg-wg.github.io/draft-ietf-opsawg-pcap/draft-ietf-opsawg-pcap.html>, section 4).
pub fn capture_file(frames: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: usize| u32::try_from(value).expect("a test's frame is short").to_ne_bytes();
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_ne_bytes()); // microseconds
    file.extend([2_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat());
    file.extend([word(0), word(0), word(262_144), word(1)].concat()); // zone, accuracy, snaplen, Ethernet
    for (number, frame) in frames.iter().enumerate() {
        file.extend([word(number / 1000), word(number % 1000 * 1000), word(frame.len()), word(frame.len())].concat());
        file.extend(frame);
    }
    file
}

/// A frame with a local experimental EtherType (IEEE 802, 0x88b5), a number and a filling.
pub fn numbered_frame(number: u32, length: usize) -> Vec<u8> {
    let mut frame = ethernet(0x88b5);
    frame.extend(number.to_be_bytes());
    frame.resize(length, 0x5a);
    frame
}

/// UDP over IPv4 from one of `flows` ports, numbered, with right checksums.
pub fn udp_frame(number: u32, flows: u16, length: usize) -> Vec<u8> {
    let port = 10_000 + u16::try_from(number % u32::from(flows)).expect("a remainder of a u16");
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(length - 14 - 20 - 8, 0x5a);
    let packet =
        etherparse::PacketBuilder::ethernet2(STRANGER, NOBODY).ipv4(address(CLIENT), [10, 8, 0, 200], 64).udp(port, 9);
    let mut frame = Vec::with_capacity(packet.size(payload.len()));
    packet.write(&mut frame, &payload).expect("a vector takes everything");
    frame
}

/// Conversations over HTTP as a client and a server have them, each of ten frames and with a request that a rule looks
/// for; about sixty go on at the same time.
pub fn conversations_over_http(count: u32) -> Vec<Vec<u8>> {
    const FRAMES: u32 = 10;
    const APART: u32 = 6;
    let mut frames: Vec<(u32, Vec<u8>)> = Vec::with_capacity((count * FRAMES) as usize);
    for number in 0..count {
        let [_, high, middle, low] = (number / 20).to_be_bytes();
        let client = [10, 9 + high, middle, low];
        let port = 20_000 + u16::try_from(number % 20).expect("small");
        let request = b"GET /evil HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n"[..], &[b'x'; 300]].concat();
        let (asked, answered) =
            (u32::try_from(request.len()).expect("short"), u32::try_from(answer.len()).expect("short"));
        // From the client?, flags, sequence and acknowledgment number, payload.
        let (syn, ack, push, fin) = (1, 2, 4, 8);
        let talk: [(bool, u8, u32, u32, &[u8]); FRAMES as usize] = [
            (true, syn, 0, 0, &[]),
            (false, syn | ack, 0, 1, &[]),
            (true, ack, 1, 1, &[]),
            (true, ack | push, 1, 1, request),
            (false, ack, 1, 1 + asked, &[]),
            (false, ack | push, 1, 1 + asked, &answer),
            (true, ack, 1 + asked, 1 + answered, &[]),
            (true, ack | fin, 1 + asked, 1 + answered, &[]),
            (false, ack | fin, 1 + answered, 2 + asked, &[]),
            (true, ack, 2 + asked, 2 + answered, &[]),
        ];
        for (step, (from_client, flags, sequence, acknowledged, payload)) in (0..).zip(talk) {
            let server = [10, 8, 0, 200];
            let (from, to, ports) =
                if from_client { (client, server, (port, 80)) } else { (server, client, (80, port)) };
            let packet = etherparse::PacketBuilder::ethernet2(STRANGER, NOBODY).ipv4(from, to, 64);
            let mut tcp = packet.tcp(ports.0, ports.1, 1000 + sequence, 60_000);
            tcp = if flags & syn != 0 { tcp.syn() } else { tcp };
            tcp = if flags & ack != 0 { tcp.ack(1000 + acknowledged) } else { tcp };
            tcp = if flags & push != 0 { tcp.psh() } else { tcp };
            tcp = if flags & fin != 0 { tcp.fin() } else { tcp };
            let mut frame = Vec::with_capacity(tcp.size(payload.len()));
            tcp.write(&mut frame, payload).expect("a vector takes everything");
            frames.push((number + step * APART, frame));
        }
    }
    frames.sort_by_key(|&(when, _)| when);
    frames.into_iter().map(|(_, frame)| frame).collect()
}

/// One frame of each kind that a mirror meets, by name.
pub fn twelve_types() -> Vec<(&'static str, Vec<u8>)> {
    let ipv4 = udp_frame(1, 1, 120);
    let payload = ipv4[14..].to_vec();
    let tagged = |tags: &[[u8; 4]]| [&ipv4[..12], &tags.concat(), &ipv4[12..]].concat();
    let mut ipv6 = ethernet(0x86dd);
    ipv6.extend([0x60, 0, 0, 0, 0, 12, 17, 64]); // 12 bytes of UDP
    ipv6.extend([0x20, 1, 0xd, 0xb8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ipv6.extend([0x20, 1, 0xd, 0xb8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc8]);
    ipv6.extend([0x27, 0x10, 0, 9, 0, 12, 0x31, 0x9d, 1, 2, 3, 4]);
    let mut arp = ethernet(0x0806);
    arp.extend([0, 1, 8, 0, 6, 4, 0, 1]); // request
    arp.extend(STRANGER);
    arp.extend([10, 8, 0, 201, 0, 0, 0, 0, 0, 0, 10, 8, 0, 202]);
    arp.resize(60, 0);
    let mut mpls = ethernet(0x8847);
    mpls.extend([0, 0x01, 0x01, 0x40]); // label 16, bottom of the stack, TTL 64
    mpls.extend(&payload);
    let mut lldp = to([0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc);
    lldp.extend([2, 7, 4]); // chassis id: MAC address
    lldp.extend(STRANGER);
    lldp.extend([4, 3, 7, b'p', b'1', 6, 2, 0, 120, 0, 0]); // port id, time to live, end
    lldp.resize(60, 0);
    let mut stp = to([0x01, 0x80, 0xc2, 0, 0, 0], 38); // 802.3 length: LLC and BPDU
    stp.extend([0x42, 0x42, 3, 0, 0, 0, 0, 0]);
    stp.resize(60, 0);
    let fragment = |offset: u16, more: u16, bytes: usize| {
        let mut header = etherparse::Ipv4Header::new(
            u16::try_from(bytes).expect("a short fragment"),
            64,
            etherparse::IpNumber::UDP,
            address(CLIENT),
            [10, 8, 0, 200],
        )
        .expect("the length fits");
        header.identification = 4711;
        header.dont_fragment = false;
        header.more_fragments = more == 1;
        header.fragment_offset = etherparse::IpFragOffset::try_new(offset).expect("13 bits");
        header.header_checksum = header.calc_header_checksum();
        let mut frame = ethernet(0x0800);
        header.write(&mut frame).expect("a vector takes everything");
        frame.resize(frame.len() + bytes, 0x41);
        frame
    };
    vec![
        ("IPv4", ipv4.clone()),
        ("IPv6", ipv6),
        ("ARP", arp),
        ("802.1Q", tagged(&[[0x81, 0, 0, 100]])),
        ("QinQ", tagged(&[[0x88, 0xa8, 0, 200], [0x81, 0, 0, 100]])),
        ("PCP bits", tagged(&[[0x81, 0, 0xb0, 100]])), // priority 5, drop eligible
        ("MPLS", mpls),
        ("LLDP", lldp),
        ("STP", stp),
        ("first fragment", fragment(0, 1, 800)),
        ("last fragment", fragment(100, 0, 300)),
        ("runt", numbered_frame(0, 20)),
        ("jumbo", udp_frame(12, 1, 8900)),
    ]
}

/// A locally administered address that no interface has.
const NOBODY: [u8; 6] = [0x02, 0xfa, 0, 0, 0, 2];

fn ethernet(kind: u16) -> Vec<u8> {
    to(NOBODY, kind)
}

fn to(destination: [u8; 6], kind: u16) -> Vec<u8> {
    [&destination[..], &STRANGER[..], &kind.to_be_bytes()[..]].concat()
}

fn address(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().expect("an IPv4 address").octets()
}

/// The folder of real captures with their provenance.
///
/// # Panics
/// When it is not there: these tests cannot pass by being skipped.
pub fn real_captures() -> PathBuf {
    let folder = std::env::var_os("FARSPAN_CAPTURES")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/captures"), PathBuf::from);
    assert!(
        fs::exists(folder.join("MANIFEST.tsv")).unwrap_or(false),
        "no captures in {}: set FARSPAN_CAPTURES, or skip captures::",
        folder.display()
    );
    folder
}

/// Whether the whole matrices are wanted, not only a sample (`scripts/test --full`).
pub fn full() -> bool {
    std::env::var_os("FARSPAN_FULL").is_some()
}
