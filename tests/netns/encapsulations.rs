//! Every encapsulation over IPv4 and IPv6: the fields as configured, the inner frame whole, and nothing missing at
//! receivers that are not ours.

use crate::encapsulation::{
    ERSPAN_1, ERSPAN_2, ERSPAN_3, Encapsulation, GENEVE, GRE, GRE_WITH_KEY, Underlay, VXLAN, for_every_encapsulation,
};
use crate::farspan::Farspan;
use crate::judge::{Capture, KernelVxlan, OpenVswitch, Suricata, tshark};
use crate::lab::{Lab, await_that};
use crate::traffic::{self, HTTP_DNS_TLS, RULES, Servers};

/// Room for the longest encapsulation around a full frame, so that frames arrive as they were.
const WIDE_MTU: u32 = 1600;

mod seen_by_tshark_and_suricata {
    use super::*;

    for_every_encapsulation! { real_conversations_arrive:
        vxlan_over_ipv4 = VXLAN over V4;
        vxlan_over_ipv6 = VXLAN over V6;
        gre_over_ipv4 = GRE over V4;
        gre_over_ipv6 = GRE over V6;
        gre_with_key_over_ipv4 = GRE_WITH_KEY over V4;
        gre_with_key_over_ipv6 = GRE_WITH_KEY over V6;
        erspan_1_over_ipv4 = ERSPAN_1 over V4;
        erspan_1_over_ipv6 = ERSPAN_1 over V6;
        erspan_2_over_ipv4 = ERSPAN_2 over V4;
        erspan_2_over_ipv6 = ERSPAN_2 over V6;
        erspan_3_over_ipv4 = ERSPAN_3 over V4;
        erspan_3_over_ipv6 = ERSPAN_3 over V6;
        geneve_over_ipv4 = GENEVE over V4;
        geneve_over_ipv6 = GENEVE over V6;
    }
}

mod delivered_by_other_receivers {
    use super::*;

    for_every_encapsulation! { the_kernel_delivers_everything:
        vxlan_over_ipv4_to_the_kernel = VXLAN over V4;
        vxlan_over_ipv6_to_the_kernel = VXLAN over V6;
    }

    for_every_encapsulation! { open_vswitch_delivers_everything:
        vxlan_over_ipv4 = VXLAN over V4;
        gre_over_ipv4 = GRE over V4;
        gre_over_ipv6 = GRE over V6;
        gre_with_key_over_ipv4 = GRE_WITH_KEY over V4;
        erspan_2_over_ipv4 = ERSPAN_2 over V4;
        erspan_2_over_ipv6 = ERSPAN_2 over V6;
        erspan_3_over_ipv4 = ERSPAN_3 over V4;
        erspan_3_over_ipv6 = ERSPAN_3 over V6;
        geneve_over_ipv4 = GENEVE over V4;
        geneve_over_ipv6 = GENEVE over V6;
    }
}

/// HTTP, DNS and TLS between real clients and servers: tshark finds every datagram exactly as configured and dissects
/// what is inside, Suricata raises its alerts.
fn real_conversations_arrive(encapsulation: &Encapsulation, underlay: Underlay) {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let _servers = Servers::start(&lab);
    let suricata = Suricata::start(&lab, RULES, &[]);
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", underlay.tunnel_filter());
    let farspan = Farspan::mirror(&lab, &["-i", "h0", "--to", &encapsulation.url(underlay)]);

    Servers::converse(&lab);
    if encapsulation.seen_by_suricata {
        suricata.await_alerts(&HTTP_DNS_TLS);
    } else {
        // The last conversation is TLS; when it has ended, everything before it has arrived.
        await_that("the end of the TLS conversation", || {
            tshark::count(arriving.file(), "tcp.port == 443 && tcp.flags.fin == 1") >= 2
        });
        assert!(suricata.alerts().is_empty(), "this Suricata sees {}: say so in the docs", encapsulation.name());
    }
    let ledger = farspan.stop();
    ledger.assert_lossless();

    let sent = usize::try_from(ledger.only().sent).expect("a small number");
    arriving.await_frames(sent);
    let capture = arriving.stop();
    tshark::assert_sound(&capture);
    let exactly = format!("{} && {}", underlay.exactly(), encapsulation.exactly);
    assert_eq!(tshark::count(&capture, &exactly), sent, "datagrams that are exactly: {exactly}");
    assert_eq!(tshark::count(&capture, "eth && frame.protocols contains \":eth:\""), sent, "inner Ethernet headers");
    for dissected in ["http.request.uri == \"/evil\"", "http.response.code == 200", "dns.a == 203.0.113.7"] {
        assert_eq!(tshark::count(&capture, dissected), 1, "{dissected}");
    }
    assert_eq!(tshark::count(&capture, "tls.handshake.extensions_server_name == \"evil.example\""), 1);
}

/// Frames of many flows and sizes come out of the kernel's vxlan device as they went in.
fn the_kernel_delivers_everything(encapsulation: &Encapsulation, underlay: Underlay) {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let delivered = KernelVxlan::start(&lab, 42, underlay == Underlay::V6);
    everything_is_delivered(&lab, &delivered, encapsulation, underlay);
}

/// The same out of Open vSwitch's userspace datapath.
fn open_vswitch_delivers_everything(encapsulation: &Encapsulation, underlay: Underlay) {
    let lab = Lab::with_underlay_mtu(WIDE_MTU);
    let tunnel = encapsulation.open_vswitch.expect("only those that Open vSwitch takes are tested");
    let (_switch, delivered) = OpenVswitch::start(&lab, tunnel);
    everything_is_delivered(&lab, &delivered, encapsulation, underlay);
}

fn everything_is_delivered(lab: &Lab, delivered: &Capture, encapsulation: &Encapsulation, underlay: Underlay) {
    let mut frames: Vec<_> = (0..500).map(|number| traffic::udp_frame(number, 16, 60 + number as usize * 2)).collect();
    let farspan = Farspan::mirror(lab, &["-i", "h0", "--to", &encapsulation.url(underlay)]);
    // As many at a time as a receiver's socket buffer holds: Open vSwitch reads it when it gets round to it.
    let mut sent = 0;
    for some in frames.chunks(50) {
        traffic::send(lab, some, "--topspeed");
        sent += some.len();
        await_that("every frame", || traffic::of_stranger(delivered.frames()).len() >= sent);
    }
    farspan.stop().assert_lossless();

    let mut arrived = traffic::of_stranger(delivered.frames());
    arrived.sort();
    frames.sort();
    assert!(arrived == frames, "{} arrives byte for byte", encapsulation.name());
}
