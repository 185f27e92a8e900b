//! A daemon for tests of how it is shown: two sessions, one of which is well.

use std::time::{Duration, SystemTime};

use super::view::{DestinationView, InterfaceView, Reloads, SessionView, State, View};
use crate::ledger::{DropReason, Ledger, SenderLedger};
use crate::quantity::Timestamp;
use crate::session::governor::{GovernorState, GovernorView, LimitView};
use crate::wire::decapsulate::Tunnel;

/// What is shown of it.
pub(crate) fn view() -> View {
    let started = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    View {
        version: "0.1.0".into(),
        started,
        uptime: Duration::from_mins(4441),
        reloads: Reloads { succeeded: 2, failed: 1, last_error: Some("there is no key `delya` here".into()) },
        sessions: vec![dmz(started), relay(started)],
    }
}

/// A session that mirrors an interface to an analyzer, and has lost frames.
fn dmz(started: SystemTime) -> SessionView {
    let mut ledger = Ledger::new([("ids1", "vxlan://192.0.2.10?vni=42"), ("archive", "gre://192.0.2.20")]);
    ledger.captured = 1_000;
    ledger.not_selected[DropReason::OwnTraffic] = 100;
    ledger.offered = 900;
    ledger.kernel.buffer_full = 7;
    for (account, lost) in ledger.destinations.iter_mut().zip([0, 30]) {
        account.assigned = 900;
        account.sent = 900 - lost;
        account.datagrams = account.sent;
        account.bytes = account.sent * 500;
        account.dropped[DropReason::Unreachable] = lost;
    }
    let at = Timestamp::from_nanos;
    ledger.delays.record(at(0), at(1_800_000), 800);
    ledger.delays.record(at(0), at(3_500_000), 100);
    let [ids1, archive] = ["ids1", "archive"].map(|name| DestinationView {
        name: name.into(),
        to: if name == "ids1" { "vxlan://192.0.2.10?vni=42" } else { "gre://192.0.2.20" }.into(),
        is_healthy: name == "ids1",
        why_unhealthy: (name != "ids1").then(|| "its next hop does not answer".into()),
        mtu: Some(1500),
        last_error: (name != "ids1").then(|| "unreachable: there is no route to the destination".into()),
        last_error_at: (name != "ids1").then_some(started + Duration::from_hours(74)),
    });
    SessionView {
        name: "dmz".into(),
        state: State::Running,
        since: started + Duration::from_mins(1),
        restarts: 1,
        interfaces: vec![InterfaceView { name: "eth0".into(), mtu: Some(1500), engine: Some("ring".into()) }],
        refused_for_room: 2,
        ledger,
        last_frame: Some(started + Duration::from_hours(72)),
        last_error: None,
        last_error_at: None,
        governor: Some(GovernorView {
            state: GovernorState::Shedding,
            reason: Some("limit.cpu".into()),
            kept_fraction: 0.625,
            admitted_flows: 0.5,
            limits: vec![LimitView { name: "limit.cpu".into(), allowed: 0.2, measured: 0.25 }],
        }),
        destinations: vec![ids1, archive],
    }
}

/// A session that cannot open its endpoint again, and had heard a sender before.
fn relay(started: SystemTime) -> SessionView {
    let mut ledger = Ledger::new([("file", "pcap:relay.pcap")]);
    (ledger.captured, ledger.offered) = (5, 5);
    (ledger.destinations[0].assigned, ledger.destinations[0].sent) = (5, 5);
    let heard = SenderLedger {
        from: Some([192, 0, 2, 77].into()),
        encapsulation: Some(Tunnel::Erspan2),
        id: Some(7),
        received: 5,
        lost: Some(2),
        reordered: 1,
        duplicated: 0,
        restarts: 0,
        reserved_bits: 0,
    };
    ledger.senders.update(|rows| rows.push(heard));
    SessionView {
        name: "relay".into(),
        state: State::Retrying { after: Duration::from_millis(2_500) },
        since: started + Duration::from_secs(90),
        restarts: 4,
        interfaces: Vec::new(),
        refused_for_room: 0,
        ledger,
        last_frame: None,
        last_error: Some("UDP port 4789 is taken".into()),
        last_error_at: Some(started + Duration::from_hours(74)),
        governor: None,
        destinations: vec![DestinationView {
            name: "file".into(),
            to: "pcap:relay.pcap".into(),
            is_healthy: true,
            why_unhealthy: None,
            mtu: None,
            last_error: None,
            last_error_at: None,
        }],
    }
}
