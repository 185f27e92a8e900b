//! Routes to analyzers that go through another tunnel of the mirrored host.

use crate::daemon::{Daemon, session};
use crate::farspan::{Farspan, binary};
use crate::judge::{Capture, frames_of, tshark};
use crate::lab::{Lab, Namespace, await_that, succeed};
use crate::marks::take_in_silence;

/// Gives a namespace one end of a VXLAN overlay over the underlay, with this address.
fn overlay(namespace: &Namespace, local: &str, remote: &str, address: &str) {
    namespace.run(&format!("ip link add vx7 type vxlan id 7 dstport 8472 local {local} remote {remote} nolearning"));
    namespace.link_up("vx7", 1400, &[address]);
}

fn check(lab: &Lab, arguments: &[&str]) -> String {
    succeed(lab.host.command(binary()).arg("check").args(arguments))
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_an_analyzer_behind_the_host_s_own_overlay_is_told_and_does_not_loop() {
    const TO: &str = "vxlan://10.77.0.2?vni=1";
    const FILTER: &str = "not (udp dst port 8472 and dst host 192.0.2.2)";
    let lab = Lab::new();
    overlay(&lab.host, "192.0.2.1", "192.0.2.2", "10.77.0.1/24");
    overlay(&lab.analyzer, "192.0.2.2", "192.0.2.1", "10.77.0.2/24");
    let warning =
        "its route goes through vx7, a tunnel of this host (vxlan) whose packets leave by u0, which is mirrored";

    let said = check(&lab, &["-i", "u0", "--to", TO]);
    assert!(said.contains(&format!("warning: destination 1 ({TO}): {warning}")), "{said}");
    assert!(said.contains(&format!("add to the filter: {FILTER}")), "{said}");
    for quiet in [&["-i", "h0", "--to", TO][..], &["-i", "vx7", "--to", TO], &["-i", "u0", "--to", TO, FILTER]] {
        let said = check(&lab, quiet);
        assert!(!said.contains("its route goes through"), "{quiet:?}: {said}");
    }

    let daemon = Daemon::start(&lab, &session("one", "u0", TO));
    daemon.await_words(warning);
    assert!(daemon.log().contains(FILTER), "{}", daemon.log());
    daemon.stop();

    let _sink = take_in_silence(&lab);
    let seen = Capture::start(&lab, &lab.analyzer, "vx7", "");
    let mut command = lab.host.command(binary());
    command.args(["mirror", "--json", "-i", "u0", "--to", TO]);
    let farspan = Farspan::start_command(&lab, ["mirror", "mirroring "], command);
    assert!(farspan.log().contains(warning), "{}", farspan.log());
    lab.analyzer.run("ping -q -c 1 -s 900 192.0.2.1");
    lab.analyzer.run("ping -q -c 1 -s 25 192.0.2.1");
    await_that("the copy of the last answer", || {
        tshark::count(seen.file(), "udp.dstport == 4789 && icmp.type == 0 && ip.len == 53") > 0
    });
    let ledger = farspan.stop();
    assert!(ledger.captured < 100, "the mark passes the overlay: {ledger:#?}");
    let capture = seen.stop();
    for kind in [8, 0] {
        let copies = format!("udp.dstport == 4789 && icmp.type == {kind} && ip.len == 928");
        assert_eq!(tshark::count(&capture, &copies), 1, "{kind}");
    }
    assert!(frames_of(&capture).len() < 100);
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn r01_an_analyzer_behind_a_user_space_vpn_is_told() {
    let lab = Lab::new();
    lab.host.run("ip tuntap add dev vpn0 mode tun");
    lab.host.link_up("vpn0", 1400, &["10.78.0.1/24"]);
    let arguments = ["-i", "u0", "--to", "vxlan://10.78.0.2?vni=1"];
    let said = check(&lab, &arguments);
    let warning =
        "its route goes through vpn0, a tunnel of this host (tun) whose packets may leave by u0, which is mirrored";
    assert!(said.contains(warning) && said.contains("ss -tunp"), "{said}");
    // A guest's TAP device in the bridge that carries the route is not a way to the network.
    lab.host.run("ip address flush dev u0");
    lab.host.run("ip link add br1 type bridge");
    lab.host.run("ip link set u0 master br1");
    lab.host.run("ip tuntap add dev guest0 mode tap");
    lab.host.run("ip link set guest0 master br1");
    lab.host.link_up("guest0", 1500, &[]);
    lab.host.link_up("br1", 1500, &["192.0.2.1/24"]);
    let said = check(&lab, &["-i", "u0", "--to", "vxlan://192.0.2.2?vni=1"]);
    assert!(!said.contains("its route goes through"), "{said}");
}
