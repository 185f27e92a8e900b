//! What `farspan status` tells of destinations: what speaks against each of them, and what went wrong with it last and when.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, unshare};

use crate::daemon::{Daemon, session};
use crate::farspan::{binary, run};
use crate::lab::{Lab, await_some, await_that, succeed};
use crate::spread::{conversations, route_to_a_host_behind_the_analyzer, several_analyzers};
use crate::traffic;

const FAR: &str = "vxlan://203.0.113.9?vni=1";

/// What status says about the lab's only session: as JSON, and as a table.
fn status(lab: &Lab) -> (serde_json::Value, String) {
    let socket = lab.path("control.sock");
    let ask = |arguments: &[&str]| {
        let answer = run(Command::new(binary()).arg("status").args(arguments).arg("--socket").arg(&socket));
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).into_owned()
    };
    let mut view: serde_json::Value = serde_json::from_str(&ask(&["--json"])).expect("status --json is JSON");
    (view["sessions"][0].take(), ask(&[]))
}

fn destination<'a>(session: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let all = session["destinations"].as_array().expect("a list");
    all.iter().find(|destination| destination["name"] == name).expect("it is in the configuration")
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs_f64()
}

/// Each of them gets every frame, so that nothing depends on its health: status tells it all the same.
#[test]
#[ignore = "needs root: run scripts/test"]
fn what_speaks_against_each_of_several_destinations_is_told_and_stays_as_its_last_error() {
    let lab = several_analyzers();
    route_to_a_host_behind_the_analyzer(&lab);
    let near = "destination.near.to = \"vxlan://192.0.2.3?vni=1\"\nselect.filter = \"udp port 9\"\n";
    let begun = now();
    let daemon = Daemon::start(&lab, &[&session("dmz", "h0", FAR), near].concat());
    let (seen, _) = status(&lab);
    assert_eq!((&seen["state"], &seen["last_frame"]), (&"running".into(), &serde_json::Value::Null));
    assert!(seen["since"].as_f64().is_some_and(|since| (begun - 1.0..=now() + 1.0).contains(&since)), "{seen}");
    for name in ["ids", "near"] {
        assert_eq!(destination(&seen, name)["is_healthy"], true, "{seen}");
        assert_eq!(destination(&seen, name)["last_error_at"], serde_json::Value::Null, "{seen}");
    }

    // A router reports the host behind it, which the other destination has nothing to do with.
    lab.analyzer.run("ip neigh del 203.0.113.9 dev r0");
    let reported = "ICMP reports that its host or network cannot be reached";
    let (seen, table) = await_some("the router's reports in the status", || {
        traffic::send(&lab, &conversations(100), "--pps=2000");
        Some(status(&lab)).filter(|(seen, _)| destination(seen, "ids")["why_unhealthy"] == reported)
    });
    assert_eq!(destination(&seen, "ids")["last_error"], reported, "{seen}");
    let at = destination(&seen, "ids")["last_error_at"].as_f64().expect("a moment");
    assert!((begun - 1.0..=now() + 1.0).contains(&at), "{at} is when it happened");
    assert!(seen["last_frame"].as_f64().is_some_and(|at| at >= begun - 1.0), "{seen}");
    let near = destination(&seen, "near");
    assert_eq!((&near["is_healthy"], &near["last_error"]), (&true.into(), &serde_json::Value::Null));
    assert!(table.contains(&format!("out of reach: {reported}")), "{table}");
    assert!(table.contains(&format!(" ago: {reported}")), "{table}");

    lab.analyzer.run("ip neigh replace 203.0.113.9 lladdr 02:00:00:00:00:99 dev r0 nud permanent");
    let (seen, table) = await_some("the destination to be well again", || {
        traffic::send(&lab, &conversations(100), "--pps=2000");
        Some(status(&lab)).filter(|(seen, _)| destination(seen, "ids")["is_healthy"] == true)
    });
    assert_eq!(destination(&seen, "ids")["last_error"], reported, "what is over is still known");
    assert!(!table.contains("out of reach"), "{table}");

    // The next hop of both goes away: the frames that it costs are the last error of each.
    lab.analyzer.run("ip link set a0 down");
    let lost = "unreachable: there is no route to the destination, or its next hop does not answer";
    await_that("the loss to be told of both", || {
        traffic::send(&lab, &conversations(100), "--pps=2000");
        let (seen, _) = status(&lab);
        ["ids", "near"].into_iter().map(|name| destination(&seen, name)).all(|destination| {
            destination["last_error"] == lost
                && destination["why_unhealthy"] == "there is no route to it, or its next hop does not answer"
        })
    });
    let ledgers = daemon.stop();
    for account in &ledgers["dmz"].destinations {
        assert!(account.dropped["unreachable"] > 0, "{ledgers:#?}");
    }
}

#[test]
#[ignore = "needs root: run scripts/test"]
fn what_a_full_disk_said_is_the_last_error_of_the_file() {
    // A disk of 256 KiB that only this thread and what it starts sees.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
    succeed(Command::new("mount").args(["--make-rprivate", "/"]));
    let lab = Lab::new();
    let disk = lab.path("disk");
    fs::create_dir(&disk).expect("the folder is writable");
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&disk));
    let daemon = Daemon::start(&lab, &session("record", "h0", &format!("pcap:{}/all.pcap", disk.display())));
    let frames: Vec<_> = (0..300).map(|number| traffic::udp_frame(number, 4, 1400)).collect();
    let (seen, table) = await_some("the full disk in the status", || {
        traffic::send(&lab, &frames, "--pps=3000");
        Some(status(&lab)).filter(|(seen, _)| !destination(seen, "ids")["last_error"].is_null())
    });
    let full = "write_failed: No space left on device (os error 28)";
    assert_eq!(destination(&seen, "ids")["last_error"], full, "{seen}");
    assert!(table.contains(&format!(" ago: {full}")), "{table}");
    let ledgers = daemon.stop();
    assert!(ledgers["record"].only().dropped["write_failed"] > 0, "{ledgers:#?}");
    succeed(Command::new("umount").arg(&disk));
}
