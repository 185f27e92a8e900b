//! What an operator may set is in every datagram that arrives: tshark reads it there.

use crate::farspan::Farspan;
use crate::judge::{Capture, tshark};
use crate::lab::Lab;
use crate::traffic;

const FRAMES: u32 = 40;
const TUNNELS: &str = "udp dst port 4800 or udp dst port 6082 or proto gre or ip6 proto 47";

/// Destinations with every key at an unusual value, and what tshark must see of each datagram. The ports are not the
/// standard ones, so that the payload is looked at as bytes.
const SET: [(&str, &str); 4] = [
    (
        "vxlan://192.0.2.2:4800?vni=16777215&dscp=46&ttl=17&source=192.0.2.7&device=u0&ports=50000-50003&udp_checksum=on",
        "udp.dstport == 4800 && udp.srcport >= 50000 && udp.srcport <= 50003 && udp.checksum.status == Good \
         && ip.dsfield.dscp == 46 && ip.dsfield.ecn == 0 && ip.ttl == 17 && ip.src == 192.0.2.7 && ip.dst == 192.0.2.2 \
         && udp.payload[0:8] == 08:00:00:00:ff:ff:ff:00",
    ),
    (
        "geneve://[2001:db8:9::2]:6082?vni=1&dscp=8&ttl=255&source=2001:db8:9::7&device=u0&ports=60000",
        "udp.dstport == 6082 && udp.srcport == 60000 && udp.checksum.status == Good && ipv6.tclass.dscp == 8 \
         && ipv6.tclass.ecn == 0 && ipv6.hlim == 255 && ipv6.src == 2001:db8:9::7 && ipv6.dst == 2001:db8:9::2 \
         && udp.payload[0:8] == 00:00:65:58:00:00:01:00",
    ),
    (
        "gre://192.0.2.2?key=4294967295&seq=on&dscp=63&ttl=1&source=192.0.2.7&device=u0",
        "gre.flags_and_version == 0x3000 && gre.proto == 0x6558 && gre.key == 0xffffffff && ip.dsfield.dscp#1 == 63 \
         && ip.ttl#1 == 1 && ip.src#1 == 192.0.2.7 && ip.dst#1 == 192.0.2.2",
    ),
    (
        "erspan2://[2001:db8:9::2]?session=1023&index=1048575&dscp=1&ttl=2&source=2001:db8:9::7&device=u0",
        "gre.flags_and_version == 0x1000 && gre.proto == 0x88be && erspan.spanid == 1023 && erspan.index == 1048575 \
         && ipv6.tclass.dscp#1 == 1 && ipv6.hlim#1 == 2 && ipv6.src#1 == 2001:db8:9::7 && ipv6.dst#1 == 2001:db8:9::2",
    ),
];

#[test]
#[ignore = "needs root: run scripts/test"]
fn every_field_arrives_as_it_was_set() {
    let lab = Lab::with_underlay_mtu(1600);
    lab.host.run("ip address add 192.0.2.7/24 dev u0");
    lab.host.run("ip address add 2001:db8:9::7/64 dev u0 nodad");
    // The best route leads nowhere: only what leaves by the device that was set arrives.
    lab.host.run("ip link add nowhere type veth peer name nobody");
    lab.host.run("ip link set nowhere up");
    lab.host.run("ip link set nobody up");
    lab.host.run("ip route add 192.0.2.2/32 dev nowhere");
    lab.host.run("ip route add 2001:db8:9::2/128 dev nowhere");
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", TUNNELS);
    let mut arguments = vec!["-i", "h0"];
    arguments.extend(SET.iter().flat_map(|(url, _)| ["--to", url]));
    let farspan = Farspan::mirror(&lab, &arguments);
    let frames: Vec<_> = (0..FRAMES).map(|number| traffic::udp_frame(number, 16, 200)).collect();
    traffic::send(&lab, &frames, "--pps=1000");
    arriving.await_frames(SET.len() * frames.len());
    let ledger = farspan.stop();
    ledger.assert_lossless();
    let sent = ledger.destinations.iter().map(|account| usize::try_from(account.sent).expect("a small number"));
    arriving.await_frames(sent.clone().sum());
    let capture = arriving.stop();

    for ((url, exactly), sent) in SET.iter().zip(sent) {
        assert!(sent >= frames.len(), "{url}: every frame was sent");
        assert_eq!(tshark::count(&capture, exactly), sent, "datagrams of {url} that are exactly: {exactly}");
    }
    for sequences in ["gre.key", "erspan"] {
        let numbers = tshark::values(&capture, sequences, "gre.sequence_number");
        let numbers: Vec<u32> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences}: {numbers:?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn cut_frames_are_as_long_as_was_set_and_erspan_says_so() {
    const SHORT: usize = 90;
    const CUT_TO: usize = 100;
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "proto gre");
    let both = ["erspan2://192.0.2.2?session=1", "erspan3://192.0.2.2?session=1"];
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "-s", "100", "--to", both[0], "--to", both[1]]);
    traffic::send(&lab, &[traffic::udp_frame(0, 1, SHORT), traffic::udp_frame(1, 1, 1400)], "--pps=1000");
    let stranger = "eth.src == 02:fa:00:00:00:01";
    crate::lab::await_that("both frames in both tunnels", || tshark::count(arriving.file(), stranger) >= 4);
    farspan.stop().assert_lossless();
    let capture = arriving.stop();

    // Ethernet, IPv4, GRE with its sequence, and the ERSPAN header.
    for (version, overhead) in [(1, 14 + 20 + 8 + 8), (2, 14 + 20 + 8 + 12)] {
        for (truncated, length) in [(0, SHORT), (1, CUT_TO)] {
            let what = format!(
                "{stranger} && erspan.version == {version} && erspan.truncated == {truncated} && frame.len == {}",
                overhead + length
            );
            assert_eq!(tshark::count(&capture, &what), 1, "{what}");
        }
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn a_mode_that_the_driver_does_not_offer_is_said_and_every_frame_arrives_all_the_same() {
    let lab = Lab::with_underlay_mtu(1600);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let to = "vxlan://192.0.2.2?vni=1&transmit=xdp-zerocopy";
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", to]);
    let frames: Vec<_> = (0..FRAMES).map(|number| traffic::udp_frame(number, 16, 200)).collect();
    traffic::send(&lab, &frames, "--pps=1000");
    arriving.await_frames(frames.len());
    let said = "u0: no zero-copy mode, frames are copied: the driver does not offer it";
    assert_eq!(farspan.log().matches(said).count(), 1, "{}", farspan.log());
    farspan.stop().assert_lossless();
}
