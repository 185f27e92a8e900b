//! Two hundred sessions over two hundred interfaces: each is mirrored, and together they stay small.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use crate::daemon::{Daemon, session, systemd, told};
use crate::judge::{Capture, tshark};
use crate::lab::Lab;
use crate::traffic;

const SESSIONS: u32 = 200;
/// Largest resident memory for each session, capture buffers included.
const MOST_KIB_EACH: u64 = 2 << 10;

#[test]
#[ignore = "needs root: run scripts/test"]
fn two_hundred_sessions_mirror_two_hundred_interfaces() {
    let lab = Lab::with_underlay_mtu(1600);
    let mut links = String::new();
    for number in 1..=SESSIONS {
        for line in [
            format!("link add t{number} type veth peer name p{number}"),
            format!("link set t{number} addrgenmode none up"),
            format!("link set p{number} addrgenmode none up"),
        ] {
            writeln!(links, "{line}").expect("a string takes everything");
        }
    }
    lab.host.run(&format!("ip -batch {}", lab.write("links", links).display()));
    let arriving = Capture::start(&lab, &lab.analyzer, "a0", "udp dst port 4789");
    let one =
        |number| session(&format!("s{number}"), &format!("t{number}"), &format!("vxlan://192.0.2.2?vni={number}"));
    let configuration: String = (1..=SESSIONS).map(one).collect();
    let (socket, path) = systemd(&lab);
    let daemon = Daemon::start_with(&lab, &configuration, &[("NOTIFY_SOCKET", &path)]);
    assert!(daemon.log().contains("200 sessions get smaller capture buffers than they ask for"), "{}", daemon.log());
    told(&socket, "200 sessions: 200 running");

    // Each interface gets a frame, and each session's analyzer its copy.
    let frame = lab.write("frame.pcap", traffic::capture_file(&[traffic::udp_frame(1, 1, 200)]));
    let mut script = String::new();
    for number in 1..=SESSIONS {
        writeln!(script, "tcpreplay -q -i p{number} {}", frame.display()).expect("a string takes everything");
    }
    lab.host.run(&format!("sh -e {}", lab.write("send", script).display()));
    arriving.await_frames(SESSIONS as usize);
    let memory = resident(daemon.id());

    // One of them changes, and goes on.
    let changed = format!("{configuration}select.filter = \"udp\"\n");
    daemon.reload(&lab, &changed, "reloaded: changed s200; 199 sessions went on");
    lab.host.run(&format!("tcpreplay -q -i p{SESSIONS} {}", frame.display()));
    arriving.await_frames(SESSIONS as usize + 1);

    let ledgers = daemon.stop();
    assert_eq!(ledgers.len(), SESSIONS as usize);
    ledgers.values().for_each(crate::farspan::Ledger::assert_lossless);
    assert!(ledgers.values().all(|ledger| ledger.only().sent == 1), "{ledgers:#?}");
    let mut seen = tshark::values(&arriving.stop(), "vxlan", "vxlan.vni");
    assert_eq!(seen.pop(), Some(SESSIONS.to_string()));
    let ids: BTreeSet<u32> = seen.iter().filter_map(|id| id.parse().ok()).collect();
    assert_eq!((ids.len(), ids.last()), (SESSIONS as usize, Some(&SESSIONS)));
    let each = memory / u64::from(SESSIONS);
    assert!(each < MOST_KIB_EACH, "{each} KiB of resident memory for each session");
}

/// Resident memory in KiB (`VmRSS` of proc(5)).
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("farspan runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc(5) has VmRSS");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("VmRSS is a number")
}
