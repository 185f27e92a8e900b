//! Every family of metrics, with its samples: one table for the page, the documentation, the alerts and the dashboard.
//!
//! Labels are bounded: sessions and destinations are those of the configuration, reasons are a closed set, and of the senders
//! of received tunnels a session shows [`MOST_SENDERS`].

use std::time::SystemTime;

use super::exposition::{Head, Kind, Samples};
use super::process::Process;
use super::senders::{MOST_SENDERS, Sender, senders};
use crate::daemon::view::{DestinationView, SessionView, State, View};
use crate::ledger::{DestinationLedger, DropReason, Drops, Kind as DropKind};
use crate::session::governor::{GovernorState, GovernorView};
use crate::spool;

/// What a page is about.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The daemon.
    pub view: &'a View,
    /// The process that it is.
    pub process: Process,
}

/// A family and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// What is said about it.
    pub head: Head,
    /// Writes its samples.
    pub samples: fn(&Scene<'_>, &mut Samples<'_>),
}

const NONE: &[&str] = &[];
const SESSION: &[&str] = &["session"];
const DESTINATION: &[&str] = &["session", "destination"];
const SENDER: &[&str] = &["session", "from", "encapsulation", "id"];

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Scene<'_>, &mut Samples<'_>),
) -> Family {
    Family { head: Head { name, kind, labels, help }, samples }
}

/// A counter of each session.
macro_rules! of_session {
    ($name:literal, $help:literal, $value:expr) => {
        family($name, Kind::Counter, SESSION, $help, |scene, samples| {
            each_session(scene, |session| samples.add([&session.name], ($value)(session)));
        })
    };
}

/// A counter of each destination.
macro_rules! of_destination {
    ($name:literal, $help:literal, $value:expr) => {
        family($name, Kind::Counter, DESTINATION, $help, |scene, samples| {
            each_account(scene, |session, account| samples.add([&session.name, &account.name], ($value)(account)));
        })
    };
}

/// A counter of each stream that a session receives.
macro_rules! of_sender {
    ($name:literal, $help:literal, $value:expr) => {
        family($name, Kind::Counter, SENDER, $help, |scene, samples| {
            each_sender(scene, |labels, sender| samples.add_known(labels, ($value)(sender)));
        })
    };
}

/// Every family, in the order of the page.
pub const FAMILIES: &[Family] = &[
    of_session!("farspan_captured_frames", "Frames that a session captured.", |session: &SessionView| session
        .ledger
        .captured),
    of_session!(
        "farspan_kernel_dropped_frames",
        "Frames that the kernel or the interface dropped before farspan saw them.",
        |session: &SessionView| session.ledger.kernel.total()
    ),
    of_session!(
        "farspan_interface_dropped_frames",
        "Of the frames that the kernel dropped: those that the interface or its driver dropped.",
        |session: &SessionView| session.ledger.kernel.interface
    ),
    of_session!(
        "farspan_untold_offload_frames",
        "Of the frames that the kernel dropped: those whose segmentation offload it cannot describe to a packet ring.",
        |session: &SessionView| session.ledger.kernel.untold
    ),
    family(
        "farspan_dropped_frames",
        Kind::Counter,
        &["session", "destination", "reason", "kind"],
        "Frames that ended before the analyzer; destination is empty where they ended before any.",
        |scene, samples| {
            each_session(scene, |session| {
                let before = &session.ledger.dropped();
                drops([&session.name, ""], before, |_| true, samples);
                for account in &session.ledger.destinations {
                    // A destination has no policy: one that occurred all the same is shown.
                    let is_shown = |reason: DropReason| reason.kind() == DropKind::Loss || account.dropped[reason] > 0;
                    drops([&session.name, &account.name], &account.dropped, is_shown, samples);
                }
            });
        },
    ),
    of_session!(
        "farspan_cut_frames",
        "Frames that came cut: shorter than they were on the wire, or than their IP packet says.",
        |session: &SessionView| session.ledger.cut
    ),
    of_session!(
        "farspan_segments_added_frames",
        "Extra frames made by cutting super-frames into wire segments.",
        |session: &SessionView| session.ledger.segments_added
    ),
    of_session!(
        "farspan_offered_frames",
        "Wire frames that were offered to the destinations.",
        |session: &SessionView| session.ledger.offered
    ),
    of_destination!(
        "farspan_assigned_frames",
        "Wire frames that were given to a destination.",
        |account: &DestinationLedger| account.assigned
    ),
    of_destination!(
        "farspan_split_added_frames",
        "Extra frames made by splitting frames for the path MTU.",
        |account: &DestinationLedger| account.split_added
    ),
    of_destination!(
        "farspan_sent_frames",
        "Frames that the kernel took without an error for them, or that were written.",
        |account: &DestinationLedger| account.sent
    ),
    of_destination!(
        "farspan_lost_from_file_frames",
        "Of the frames written: those that somebody else removed, with the capture file or by cutting it.",
        |account: &DestinationLedger| account.lost_from_file
    ),
    of_destination!(
        "farspan_truncated_frames",
        "Of the frames sent: those that were cut to fit the path MTU.",
        |account: &DestinationLedger| account.truncated
    ),
    of_destination!("farspan_sent_datagrams", "Datagrams handed to the kernel.", |account: &DestinationLedger| account
        .datagrams),
    of_destination!(
        "farspan_sent_bytes",
        "Bytes of outer IP packets handed to the kernel; of frames or records where there is no tunnel.",
        |account: &DestinationLedger| account.bytes
    ),
    family(
        "farspan_in_flight_frames",
        Kind::Gauge,
        DESTINATION,
        "Frames that wait for the next flush.",
        |scene, samples| {
            each_account(scene, |session, account| samples.add([&session.name, &account.name], account.in_flight));
        },
    ),
    family(
        "farspan_rewritten_frames",
        Kind::Counter,
        &["session", "what"],
        "What normalise finished that the hardware would have finished: super_frames, checksums, tags.",
        |scene, samples| {
            each_session(scene, |session| {
                let rewritten = session.ledger.rewritten;
                samples.add([&session.name, "super_frames"], rewritten.super_frames);
                samples.add([&session.name, "checksums"], rewritten.checksums);
                samples.add([&session.name, "tags"], rewritten.tags);
            });
        },
    ),
    family(
        "farspan_decapsulated_frames",
        Kind::Counter,
        &["session", "what"],
        "What became of tunnels in sniffed frames, with `decap`: frames that one was taken off, left_on, fragments.",
        |scene, samples| {
            each_session(scene, |session| {
                let decapsulated = session.ledger.decapsulated;
                samples.add([&session.name, "frames"], decapsulated.frames);
                samples.add([&session.name, "left_on"], decapsulated.left_on);
                samples.add([&session.name, "fragments"], decapsulated.fragments);
            });
        },
    ),
    family(
        "farspan_icmp_reports",
        Kind::Counter,
        &["session", "destination", "report"],
        "ICMP errors about our datagrams: port_unreachable, host_unreachable, too_big, other.",
        |scene, samples| {
            each_account(scene, |session, account| {
                let mut add = |report, count: u64| samples.add([&session.name, &account.name, report], count);
                add("port_unreachable", account.icmp.port_unreachable);
                add("host_unreachable", account.icmp.host_unreachable);
                add("too_big", account.icmp.too_big);
                add("other", account.icmp.other);
            });
        },
    ),
    of_sender!("farspan_sender_received_datagrams", "Datagrams that came from a sender.", |sender: &Sender| Some(
        sender.received
    )),
    of_sender!(
        "farspan_sender_lost_datagrams",
        "Sequence numbers of a sender that never came; only where datagrams are numbered.",
        |sender: &Sender| sender.lost
    ),
    of_sender!(
        "farspan_sender_reordered_datagrams",
        "Datagrams of a sender that came after one with a higher number.",
        |sender: &Sender| Some(sender.reordered)
    ),
    of_sender!(
        "farspan_sender_duplicated_datagrams",
        "Datagrams of a sender whose number had come before.",
        |sender: &Sender| Some(sender.duplicated)
    ),
    of_sender!(
        "farspan_sender_reserved_bits_datagrams",
        "Datagrams of a sender with reserved bits set.",
        |sender: &Sender| Some(sender.reserved_bits)
    ),
    of_sender!("farspan_sender_restarts", "How often a sender began to count anew.", |sender: &Sender| Some(
        sender.restarts
    )),
    family(
        "farspan_delay_seconds",
        Kind::Histogram,
        SESSION,
        "How long frames took from their capture by the kernel to their hand-over to it: upper bounds.",
        |scene, samples| each_session(scene, |session| samples.add_delays([&session.name], &session.ledger.delays)),
    ),
    family(
        "farspan_loop_alarm",
        Kind::Gauge,
        SESSION,
        "1 while a session is throttled because most frames that it captures are its own output, else 0.",
        |scene, samples| {
            each_session(scene, |session| samples.add([&session.name], u8::from(session.ledger.loop_alarm > 0)));
        },
    ),
    family(
        "farspan_session_state",
        Kind::Gauge,
        &["session", "state"],
        "1 for the state that the session is in, else 0.",
        |scene, samples| {
            each_session(scene, |session| {
                for state in State::LABELS {
                    samples.add([&session.name, state], u8::from(state == session.state.label()));
                }
            });
        },
    ),
    of_session!(
        "farspan_session_restarts",
        "How often a session was started again after it had failed.",
        |session: &SessionView| session.restarts
    ),
    family(
        "farspan_session_interfaces",
        Kind::Gauge,
        SESSION,
        "Interfaces, capture files and endpoints that a session captures from.",
        |scene, samples| each_session(scene, |session| samples.add([&session.name], session.interfaces.len())),
    ),
    family(
        "farspan_session_refused_interfaces",
        Kind::Gauge,
        SESSION,
        "Interfaces that a session means and does not capture, because its memory or source.max_interfaces is used up.",
        |scene, samples| each_session(scene, |session| samples.add([&session.name], session.refused_for_room)),
    ),
    of_session!(
        "farspan_session_interface_refusals",
        "How many interfaces a session has refused, because its memory or source.max_interfaces was used up.",
        |session: &SessionView| session.ledger.refused_interfaces
    ),
    family(
        "farspan_session_last_frame_timestamp_seconds",
        Kind::Gauge,
        SESSION,
        "When a session captured its last frame.",
        |scene, samples| {
            each_session(scene, |session| samples.add_known([&session.name], session.last_frame.map(unix_time)));
        },
    ),
    family(
        "farspan_governor_state",
        Kind::Gauge,
        &["session", "state"],
        "1 for what the governor of a session with limits does, else 0.",
        |scene, samples| {
            each_governor(scene, |session, governor| {
                for state in GovernorState::LABELS {
                    samples.add([session, state], u8::from(state == governor.state.label()));
                }
            });
        },
    ),
    family(
        "farspan_kept_ratio",
        Kind::Gauge,
        SESSION,
        "Of the frames that would have gone on in the last seconds: the part that did, where a session has limits.",
        |scene, samples| each_governor(scene, |session, governor| samples.add([session], governor.kept_fraction)),
    ),
    family(
        "farspan_admitted_flows_ratio",
        Kind::Gauge,
        SESSION,
        "The part of new flows that is admitted, where a session has limits.",
        |scene, samples| each_governor(scene, |session, governor| samples.add([session], governor.admitted_flows)),
    ),
    family(
        "farspan_limit_used_ratio",
        Kind::Gauge,
        &["session", "limit"],
        "How much of a limit is used: 1 is all of it.",
        |scene, samples| {
            each_governor(scene, |session, governor| {
                for limit in &governor.limits {
                    samples.add([session, &limit.name], limit.used());
                }
            });
        },
    ),
    family(
        "farspan_destination_healthy",
        Kind::Gauge,
        DESTINATION,
        "1 where a destination can be reached as far as is known, else 0.",
        |scene, samples| {
            each_destination(scene, |session, destination| {
                samples.add([&session.name, &destination.name], u8::from(destination.is_healthy));
            });
        },
    ),
    family(
        "farspan_destination_mtu_bytes",
        Kind::Gauge,
        DESTINATION,
        "The path MTU to a destination.",
        |scene, samples| {
            each_destination(scene, |session, destination| {
                samples.add_known([&session.name, &destination.name], destination.mtu);
            });
        },
    ),
    family(
        "farspan_config_reloads",
        Kind::Counter,
        &["result"],
        "Requests to read the configuration again: success, or failure, which changed nothing.",
        |scene, samples| {
            samples.add(["success"], scene.view.reloads.succeeded);
            samples.add(["failure"], scene.view.reloads.failed);
        },
    ),
    family("farspan_build_info", Kind::Gauge, &["version"], "1, with the version that runs.", |scene, samples| {
        samples.add([&scene.view.version], 1);
    }),
    family(
        "farspan_process_start_time_seconds",
        Kind::Gauge,
        NONE,
        "When the daemon was started.",
        |scene, samples| samples.add([], unix_time(scene.view.started)),
    ),
    family("farspan_process_cpu_seconds", Kind::Counter, NONE, "CPU time of the process.", |scene, samples| {
        samples.add_known([], scene.process.cpu.map(|cpu| cpu.as_secs_f64()));
    }),
    family(
        "farspan_process_resident_memory_bytes",
        Kind::Gauge,
        NONE,
        "Resident memory of the process.",
        |scene, samples| samples.add_known([], scene.process.resident),
    ),
    family(
        "farspan_log_lines_dropped",
        Kind::Counter,
        NONE,
        "Log lines that were dropped because nobody read the log in time.",
        |_, samples| samples.add([], spool::dropped_lines()),
    ),
    family("farspan_process_open_fds", Kind::Gauge, NONE, "Open file descriptors of the process.", |scene, samples| {
        samples.add_known([], scene.process.descriptors);
    }),
];

fn each_session(scene: &Scene<'_>, each: impl FnMut(&SessionView)) {
    scene.view.sessions.iter().for_each(each);
}

fn each_account(scene: &Scene<'_>, mut each: impl FnMut(&SessionView, &DestinationLedger)) {
    each_session(scene, |session| session.ledger.destinations.iter().for_each(|account| each(session, account)));
}

fn each_destination(scene: &Scene<'_>, mut each: impl FnMut(&SessionView, &DestinationView)) {
    each_session(scene, |session| session.destinations.iter().for_each(|destination| each(session, destination)));
}

fn each_governor(scene: &Scene<'_>, mut each: impl FnMut(&str, &GovernorView)) {
    each_session(scene, |session| {
        if let Some(governor) = &session.governor {
            each(&session.name, governor);
        }
    });
}

fn each_sender(scene: &Scene<'_>, mut each: impl FnMut([&str; 4], &Sender)) {
    each_session(scene, |session| {
        for sender in &senders(session.ledger.senders.rows(), MOST_SENDERS) {
            each([&session.name, &sender.from, sender.encapsulation, &sender.id], sender);
        }
    });
}

/// A sample for each reason that `is_shown`: also those that have not occurred, so that the first frame is a rise.
fn drops(whose: [&str; 2], drops: &Drops, is_shown: impl Fn(DropReason) -> bool, samples: &mut Samples<'_>) {
    let [session, destination] = whose;
    for &reason in DropReason::ALL.iter().filter(|&&reason| is_shown(reason)) {
        samples.add([session, destination, reason.label(), reason.kind().label()], drops[reason]);
    }
}

fn unix_time(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
