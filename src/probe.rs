//! The probe: one harmless exchange that nobody else sends, so that its arrival at the analyzer can be proved.
//!
//! A client fetches a page over HTTP and asks for a name over DNS. Addresses, names and MAC addresses are those that
//! are kept for examples, so that nothing of it can be mistaken for real traffic; a random token tells one run from
//! another.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::Ipv4Addr;
use std::time::Instant;

use etherparse::PacketBuilder;

use crate::destination::Destinations;
use crate::flow::FlowKey;
use crate::frame::{InterfaceId, WireFrame};
use crate::kernel::underlay::EXAMPLE_MACS;
use crate::ledger::Ledger;
use crate::quantity::Timestamp;
use crate::wire::layers::Layers;

/// TEST-NET-2 (RFC 5737): the web server and the name server.
const WEB_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// TEST-NET-3: what the name is said to be.
const ANSWER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
/// A name for examples (RFC 2606).
const DOMAIN: &str = "farspan-probe.example";
const TTL: u8 = 64;
const HTTP: u16 = 80;
const DNS: u16 = 53;

/// What tells one run from another: 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    /// A token that no other run has. No secret: it only has to differ.
    pub fn random() -> Self {
        Self(RandomState::new().hash_one(Timestamp::now().nanos()))
    }

    /// The client's own address in TEST-NET-1, so that runs have different flows.
    fn client(&self) -> Ipv4Addr {
        let [host, ..] = self.0.to_be_bytes();
        Ipv4Addr::new(192, 0, 2, host.clamp(1, 254))
    }

    /// The client's port, out of the dynamic ones.
    fn port(&self) -> u16 {
        let [_, high, low, ..] = self.0.to_be_bytes();
        u16::from_be_bytes([high | 0xc0, low])
    }

    /// Where the sequence numbers of client and server begin.
    fn sequence_numbers(&self) -> (u32, u32) {
        let [.., a, b, c, d] = self.0.to_be_bytes();
        (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([d, c, b, a]))
    }

    /// The path that is fetched.
    fn path(&self) -> String {
        format!("/farspan-probe/{self}")
    }

    /// The name that is asked for.
    fn name(&self) -> String {
        format!("{self}.{DOMAIN}")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Sends the exchange to every destination like any mirrored frames, and gives each frame its fate.
pub fn send(token: &Token, destinations: &mut Destinations, ledger: &mut Ledger) {
    for bytes in exchange(token) {
        let layers = Layers::parse(&bytes);
        ledger.captured += 1;
        let frame = WireFrame {
            head: &[],
            body: &bytes,
            wire_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            flow: FlowKey::PUBLIC.flow(&bytes, &layers),
            layers,
            timestamp: Timestamp::now(),
            direction: None,
            interface: InterfaceId::default(),
            origin: None,
        };
        destinations.offer(&frame, ledger);
    }
    destinations.flush(Instant::now(), ledger);
    destinations.finish(Instant::now(), ledger);
}

/// What proves at the analyzer that the exchange arrived, in words and lines for its operator.
///
/// The rules match every run of the probe, so that they can be loaded before; the token then finds this one.
pub fn proof(token: &Token) -> String {
    let (path, name, client) = (token.path(), token.name(), token.client());
    format!(
        "Suricata, with these rules (suricata -S probe.rules):\n\n\
         {}\n\
         then on the analyzer:\n\n    \
         grep {token} eve.json\n\n\
         Zeek, without any rule:\n\n    \
         grep {token} http.log dns.log\n\n\
         shows {client} fetching {path} from {DOMAIN} with status 200, and asking for {name}.\n",
        rules().map(|rule| format!("    {rule}\n")).concat()
    )
}

/// Suricata rules that fire on every probe.
pub fn rules() -> [String; 2] {
    // 1000000 to 1999999 are for local rules.
    [
        "alert http any any -> any any (msg:\"farspan probe: HTTP arrived\"; flow:established,to_server; http.uri; \
         content:\"/farspan-probe/\"; startswith; sid:1047891; rev:1;)"
            .to_owned(),
        format!(
            "alert dns any any -> any any (msg:\"farspan probe: DNS arrived\"; dns.query; \
             content:\".{DOMAIN}\"; nocase; endswith; sid:1047892; rev:1;)"
        ),
    ]
}

/// The frames of the exchange, in order: a TCP connection from handshake to both ends' FIN with one request and its
/// answer, then a DNS question and its answer.
pub fn exchange(token: &Token) -> Vec<Vec<u8>> {
    let mut frames = fetch_a_page(token);
    frames.extend(ask_for_a_name(token));
    frames
}

fn fetch_a_page(token: &Token) -> Vec<Vec<u8>> {
    let body = format!("farspan probe {token} arrived\n");
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {DOMAIN}\r\nUser-Agent: farspan/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        token.path(),
        env!("CARGO_PKG_VERSION"),
    );
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut connection = Connection::new(token);
    let (request, response) = (request.as_bytes(), response.as_bytes());
    vec![
        connection.segment(Sender::Client, Flags::Syn, &[]),
        connection.segment(Sender::Server, Flags::SynAck, &[]),
        connection.segment(Sender::Client, Flags::Ack, &[]),
        connection.segment(Sender::Client, Flags::PushAck, request),
        connection.segment(Sender::Server, Flags::Ack, &[]),
        connection.segment(Sender::Server, Flags::PushAck, response),
        connection.segment(Sender::Client, Flags::Ack, &[]),
        connection.segment(Sender::Server, Flags::FinAck, &[]),
        connection.segment(Sender::Client, Flags::FinAck, &[]),
        connection.segment(Sender::Server, Flags::Ack, &[]),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

#[derive(Clone, Copy)]
enum Flags {
    Syn,
    SynAck,
    Ack,
    PushAck,
    FinAck,
}

/// A TCP connection: what each end has sent so far.
struct Connection<'a> {
    token: &'a Token,
    /// Next sequence number of client and server.
    next: [u32; 2],
}

impl<'a> Connection<'a> {
    fn new(token: &'a Token) -> Self {
        let (client, server) = token.sequence_numbers();
        Self { token, next: [client, server] }
    }

    fn segment(&mut self, sender: Sender, flags: Flags, payload: &[u8]) -> Vec<u8> {
        const WINDOW: u16 = 64_240;
        let (own, other) = if sender == Sender::Client { (0, 1) } else { (1, 0) };
        let (sequence, acknowledged) = (self.next[own], self.next[other]);
        let ports = [self.token.port(), HTTP];
        let builder = between(sender, self.token.client(), WEB_SERVER).tcp(ports[own], ports[other], sequence, WINDOW);
        let (builder, takes_a_number) = match flags {
            Flags::Syn => (builder.syn(), true),
            Flags::SynAck => (builder.syn().ack(acknowledged), true),
            Flags::Ack => (builder.ack(acknowledged), false),
            Flags::PushAck => (builder.psh().ack(acknowledged), false),
            Flags::FinAck => (builder.fin().ack(acknowledged), true),
        };
        let length = u32::try_from(payload.len()).unwrap_or(0) + u32::from(takes_a_number);
        self.next[own] = sequence.wrapping_add(length);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        let built = builder.write(&mut frame, payload);
        debug_assert!(built.is_ok(), "a few hundred bytes are never too long for IP");
        frame
    }
}

fn ask_for_a_name(token: &Token) -> [Vec<u8>; 2] {
    let datagram = |sender, ports: [u16; 2], payload: &[u8]| {
        let builder = between(sender, token.client(), NAME_SERVER).udp(ports[0], ports[1]);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        let built = builder.write(&mut frame, payload);
        debug_assert!(built.is_ok(), "a few hundred bytes are never too long for IP");
        frame
    };
    let port = token.port();
    [
        datagram(Sender::Client, [port, DNS], &dns_message(token, false)),
        datagram(Sender::Server, [DNS, port], &dns_message(token, true)),
    ]
}

/// A question for the address of the token's name, or its answer (RFC 1035 section 4).
fn dns_message(token: &Token, answer: bool) -> Vec<u8> {
    const QUESTION_RECURSION_DESIRED: [u8; 2] = [0x01, 0x00];
    const ANSWER_RECURSION_AVAILABLE: [u8; 2] = [0x81, 0x80];
    const A_IN: [u8; 4] = [0, 1, 0, 1];
    /// The name that stands behind the 12 bytes of the header (section 4.1.4).
    const SAME_NAME: [u8; 2] = [0xc0, 12];
    const TTL_60: [u8; 4] = [0, 0, 0, 60];

    let [.., high, low] = token.0.to_be_bytes();
    let mut message = vec![high, low];
    message.extend(if answer { ANSWER_RECURSION_AVAILABLE } else { QUESTION_RECURSION_DESIRED });
    message.extend([0, 1, 0, u8::from(answer), 0, 0, 0, 0]);
    for label in token.name().split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(A_IN);
    if answer {
        message.extend(SAME_NAME);
        message.extend(A_IN);
        message.extend(TTL_60);
        message.extend([0, 4]);
        message.extend(ANSWER.octets());
    }
    message
}

/// Ethernet and IP between the client and a server.
fn between(sender: Sender, client: Ipv4Addr, server: Ipv4Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let (client_mac, server_mac) = EXAMPLE_MACS;
    match sender {
        Sender::Client => PacketBuilder::ethernet2(client_mac, server_mac).ipv4(client.octets(), server.octets(), TTL),
        Sender::Server => PacketBuilder::ethernet2(server_mac, client_mac).ipv4(server.octets(), client.octets(), TTL),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::config::local_end::CaptureFilePlan;
    use crate::config::plan::FilePath;
    use crate::destination::capture_file::CaptureFile;
    use crate::destination::{Destination, Patience, Shared};

    const TOKEN: Token = Token(0x0123_4567_89ab_cdef);

    /// A capture file of the exchange, written by libpcap.
    fn capture_of(token: &Token, directory: &Path) -> String {
        let file = directory.join("probe.pcap");
        let capture = pcap::Capture::dead(pcap::Linktype::ETHERNET).unwrap();
        let mut writer = capture.savefile(&file).unwrap();
        for (second, frame) in (1..).zip(exchange(token)) {
            let length = u32::try_from(frame.len()).unwrap();
            let ts = libc::timeval { tv_sec: second, tv_usec: 0 };
            writer.write(&pcap::Packet::new(&pcap::PacketHeader { ts, caplen: length, len: length }, &frame));
        }
        writer.flush().unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn output(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn every_run_has_its_own_flows() {
        let tokens: Vec<Token> = (0..100).map(|_| Token::random()).collect();
        let flows: HashSet<_> = tokens.iter().map(|token| (token.client(), token.port())).collect();
        assert!(flows.len() > 90, "{}", flows.len());
        assert!(flows.iter().all(|&(_, port)| port >= 49152));
    }

    #[test]
    fn both_directions_of_each_exchange_are_one_flow() {
        let hashes: Vec<crate::flow::FlowHash> =
            exchange(&TOKEN).iter().map(|frame| FlowKey::PUBLIC.flow(frame, &Layers::parse(frame))).collect();
        let (http, dns) = hashes.split_at(10);
        assert_eq!(http.iter().collect::<HashSet<_>>().len(), 1);
        assert_eq!(dns.iter().collect::<HashSet<_>>().len(), 1);
    }

    #[test]
    fn every_frame_of_the_exchange_has_its_fate() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("inner.pcap");
        let plan = CaptureFilePlan::plain(FilePath::Path(file.clone()));
        let destination =
            CaptureFile::open(&plan, &["probe".into()], Patience::Drop, &mut Shared::new(&[], 0)).unwrap();
        let mut destinations = Destinations::new(vec![Destination::File(destination)]);
        let mut ledger = Ledger::new([("1", "pcap:inner.pcap")]);

        send(&TOKEN, &mut destinations, &mut ledger);

        assert_eq!(ledger.balance(), Ok(()));
        assert_eq!((ledger.captured, ledger.destinations[0].sent, ledger.destinations[0].in_flight), (12, 12, 0));
        let mut written = pcap::Capture::from_file(file).unwrap();
        for frame in exchange(&TOKEN) {
            assert_eq!(written.next_packet().unwrap().data, frame);
        }
    }

    #[test]
    #[ignore = "needs tshark: run scripts/test"]
    fn tshark_reads_http_and_dns_with_good_checksums_and_no_complaint() {
        let directory = tempfile::tempdir().unwrap();
        let file = capture_of(&TOKEN, directory.path());
        let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
        let fields = ["http.request.uri", "http.response.code", "dns.qry.name", "dns.a", "tcp.checksum.status"];
        let mut arguments = vec!["-r", &file, "-T", "fields", "-e", "_ws.expert.message"];
        arguments.extend(fields.iter().flat_map(|field| ["-e", field]));
        arguments.extend(checks);
        let text = output("tshark", &arguments);
        let column = |number: usize| -> Vec<&str> {
            text.lines().filter_map(|line| line.split('\t').nth(number)).filter(|value| !value.is_empty()).collect()
        };
        assert_eq!(column(1), ["/farspan-probe/0123456789abcdef"]);
        assert_eq!(column(2), ["200"]);
        assert_eq!(column(3), ["0123456789abcdef.farspan-probe.example"; 2]);
        assert_eq!(column(4), ["203.0.113.80"]);
        assert_eq!(column(5), ["1"; 10]);
        let bad = "tcp.analysis.flags || ip.checksum.status==0 || udp.checksum.status==0 \
                   || _ws.malformed";
        let mut arguments = vec!["-r", &file, "-Y", bad];
        arguments.extend(checks);
        assert_eq!(output("tshark", &arguments), "");
    }

    #[test]
    #[ignore = "needs suricata: run scripts/test"]
    fn the_printed_rules_fire_in_suricata() {
        let directory = tempfile::tempdir().unwrap();
        let file = capture_of(&TOKEN, directory.path());
        let (rules_file, log) = (directory.path().join("probe.rules"), directory.path().to_str().unwrap());
        std::fs::write(&rules_file, rules().join("\n") + "\n").unwrap();
        output("suricata", &["-S", rules_file.to_str().unwrap(), "-l", log, "-r", &file]);
        let events = std::fs::read_to_string(directory.path().join("eve.json")).unwrap();
        let alerts: HashSet<u64> = events
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter_map(|event| event["alert"]["signature_id"].as_u64())
            .collect();
        assert_eq!(alerts, HashSet::from([1_047_891, 1_047_892]));
        assert!(events.contains("/farspan-probe/0123456789abcdef"));
        for rule in rules() {
            assert!(proof(&TOKEN).contains(&rule));
        }
    }
}
