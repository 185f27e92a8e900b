//! Real captures of other projects, with provenance, through every encapsulation: byte for byte, in order, and with
//! the alerts that Suricata raises over them without any tunnel.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use serde::Deserialize;

use crate::bad_input::ends_well;
use crate::encapsulation::{ALL, ERSPAN_2, Encapsulation, GRE, Underlay, VXLAN};
use crate::farspan::{binary, replay};
use crate::judge::suricata::{Alerts, alerts_in};
use crate::judge::{Capture, frames_of, truncated_or_foreign};
use crate::lab::{Lab, succeed};
use crate::traffic::{full, real_captures};

/// veth's largest: no capture needs fitting.
const WIDEST_MTU: u32 = 65_535;

#[test]
#[ignore = "needs root: run scripts/test"]
fn every_ethernet_capture_comes_back_byte_for_byte() {
    let lab = Lab::with_underlay_mtu(WIDEST_MTU);
    let captures = comparable_captures();
    assert!(captures.len() > 50, "there are captures to compare");
    for (number, capture) in captures.iter().enumerate() {
        for encapsulation in sample(&ALL, number) {
            let outer = lab.path("outer.pcap");
            dry_run(&lab, capture, &encapsulation.url(Underlay::V4), &outer, &[]);
            assert_same(capture, &outer, "flow");
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_is_received_out_of_a_dry_run_is_the_capture() {
    let lab = Lab::with_underlay_mtu(WIDEST_MTU);
    for (number, capture) in comparable_captures().iter().enumerate() {
        for encapsulation in sample(&ALL, number) {
            let (outer, inner) = (lab.path("outer.pcap"), lab.path("inner.pcap"));
            dry_run(&lab, capture, &encapsulation.url(Underlay::V4), &outer, &[]);
            let (from, to) = (format!("file:{}", outer.display()), format!("pcap:{}", inner.display()));
            succeed(Command::new(binary()).args(["receive", "--from", &from, "--to", &to]));
            assert_referee(&["--order", "flow"], capture, &inner);
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn one_source_port_keeps_the_order_of_the_whole_capture() {
    let lab = Lab::with_underlay_mtu(WIDEST_MTU);
    for (number, capture) in comparable_captures().iter().enumerate() {
        if !full() && number % 3 != 0 {
            continue;
        }
        let outer = lab.path("outer.pcap");
        dry_run(&lab, capture, &VXLAN.url_with(Underlay::V4, "ports=50000-50000"), &outer, &[]);
        assert_same(capture, &outer, "global");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_replay_through_real_sockets_is_lossless() {
    for encapsulation in ALL {
        for underlay in [Underlay::V4, Underlay::V6] {
            let lab = Lab::with_underlay_mtu(WIDEST_MTU);
            let capture = real_captures().join("pcaps/http--cloud-probe--http_sample.pcap");
            let arriving = Capture::start(&lab, &lab.analyzer, "a0", underlay.tunnel_filter());
            let ledger = replay(&lab, &["-r", path(&capture), "--to", &encapsulation.url(underlay)]);
            ledger.assert_lossless();
            arriving.await_frames(usize::try_from(ledger.only().sent).expect("a small number"));
            assert_same(&capture, &arriving.stop(), "flow");
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn suricata_raises_the_alerts_that_it_raises_without_a_tunnel() {
    let lab = Lab::with_underlay_mtu(WIDEST_MTU);
    for (number, case) in SuricataCase::all().iter().enumerate() {
        for encapsulation in sample(&[&VXLAN, &GRE, &ERSPAN_2], number) {
            let alerts = case.alerts_through(&lab, encapsulation, &[]);
            assert_eq!(alerts, case.checksum_on, "{} through {}", case.name, encapsulation.name());
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn normalise_gives_suricata_what_unfinished_checksums_hid() {
    let lab = Lab::with_underlay_mtu(WIDEST_MTU);
    let hidden: Vec<_> = SuricataCase::all()
        .into_iter()
        .filter(|case| case.checksum_on != case.checksum_off && merely_unfinished(&case.capture()))
        .collect();
    assert!(!hidden.is_empty(), "there are cases whose checksums were merely unfinished");
    for (number, case) in hidden.iter().enumerate() {
        for encapsulation in sample(&[&VXLAN, &GRE, &ERSPAN_2], number) {
            let alerts = case.alerts_through(&lab, encapsulation, &["--normalise"]);
            assert_eq!(alerts, case.checksum_off, "{} through {}", case.name, encapsulation.name());
        }
    }
}

#[test]
#[ignore = "needs ../shared/captures: run scripts/test"]
fn no_real_capture_does_harm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in all_captures() {
        ends_well(&file, folder.path());
    }
}

/// All of `choices` in a full run, else one: the next one for each `number`.
fn sample<'a>(choices: &[&'a Encapsulation], number: usize) -> Vec<&'a Encapsulation> {
    if full() { choices.to_vec() } else { vec![choices[number % choices.len()]] }
}

/// Writes the datagrams of a replay to `outer`, as they would leave.
fn dry_run(lab: &Lab, capture: &Path, to: &str, outer: &Path, options: &[&str]) {
    let transmit = format!("pcap:{}", outer.display());
    let arguments = [&["-r", path(capture), "--to", to, "--transmit", &transmit], options].concat();
    replay(lab, &arguments).assert_lossless();
}

/// The referee of `../shared/tools`, which decapsulates by itself.
fn assert_same(capture: &Path, outer: &Path, order: &str) {
    assert_referee(&["--decap", "--order", order], capture, outer);
}

/// The referee says that two captures are the same.
fn assert_referee(options: &[&str], capture: &Path, outer: &Path) {
    let referee = real_captures().join("../tools/pcapsame.py");
    let verdict =
        Command::new("python3").arg(referee).args(options).args([capture, outer]).output().expect("python3 can be run");
    assert!(verdict.status.success(), "{}\n{}", capture.display(), String::from_utf8_lossy(&verdict.stdout));
}

fn all_captures() -> Vec<PathBuf> {
    let folder = real_captures().join("pcaps");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("the folder is readable").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Those of whole Ethernet frames that an IP packet can carry.
fn comparable_captures() -> Vec<PathBuf> {
    all_captures().into_iter().filter(|file| !truncated_or_foreign(file)).collect()
}

/// Whether every wrong TCP checksum of a capture is what offload leaves: the sum of the pseudo-header alone.
fn merely_unfinished(capture: &Path) -> bool {
    frames_of(capture).iter().all(|frame| {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return true };
        let (Some(net), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else { return true };
        let length = u32::try_from(tcp.slice().len()).expect("a captured segment is short");
        let (right, addresses) = match net {
            NetSlice::Ipv4(ip) => {
                let (source, destination) = (ip.header().source(), ip.header().destination());
                (tcp.calc_checksum_ipv4(source, destination), [source, destination].concat())
            }
            NetSlice::Ipv6(ip) => {
                let (source, destination) = (ip.header().source(), ip.header().destination());
                (tcp.calc_checksum_ipv6(source, destination), [source, destination].concat())
            }
            NetSlice::Arp(_) => return true,
        };
        let pseudo_header = addresses.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = pseudo_header.sum::<u32>() + u32::from(etherparse::IpNumber::TCP.0) + length;
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        right == Ok(tcp.checksum()) || folded == u32::from(tcp.checksum())
    })
}

/// A capture, rules, and the alerts that Suricata raises over them with and without checksum validation.
struct SuricataCase {
    name: String,
    folder: PathBuf,
    checksum_on: Alerts,
    checksum_off: Alerts,
}

impl SuricataCase {
    fn all() -> Vec<Self> {
        #[derive(Deserialize)]
        struct Expected {
            triples: BTreeMap<String, Triple>,
        }
        #[derive(Deserialize)]
        struct Triple {
            checksum_on: Run,
            checksum_off: Run,
        }
        #[derive(Deserialize)]
        struct Run {
            #[serde(default)]
            alerts: Alerts,
        }
        let folder = real_captures().join("suricata");
        let text = fs::read_to_string(folder.join("expected.json")).expect("the expectations are readable");
        let expected: Expected = serde_json::from_str(&text).expect("the expectations are JSON");
        expected
            .triples
            .into_iter()
            .map(|(name, triple)| Self {
                folder: folder.join(&name),
                name,
                checksum_on: triple.checksum_on.alerts,
                checksum_off: triple.checksum_off.alerts,
            })
            .collect()
    }

    fn capture(&self) -> PathBuf {
        self.folder.join("input.pcap")
    }

    /// The alerts over what farspan would send.
    fn alerts_through(&self, lab: &Lab, encapsulation: &Encapsulation, options: &[&str]) -> Alerts {
        let run = format!("{}-{}", self.name, encapsulation.name());
        let outer = lab.path(&format!("{run}.pcap"));
        dry_run(lab, &self.capture(), &encapsulation.url(Underlay::V4), &outer, options);
        let configuration = real_captures().join("suricata/suricata.yaml");
        alerts_in(&configuration, &outer, &self.folder.join("test.rules"), &lab.path(&run))
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("captures have plain names")
}
