//! TAP devices and capture files: what they will be like, and what is in their way.

use std::io;

use super::facts::Facts;
use super::finding::Finding;
use super::report::Statement;
use crate::config::local_end::{CaptureFilePlan, FileMode, Sync, TapPlan};
use crate::config::plan::{DestinationPlan, End, SessionPlan};
use crate::destination::open_error::CannotOpen;
use crate::destination::tap_device::TapError;
use crate::error::Explain;
use crate::kernel::capabilities::Capability;
use crate::kernel::links::Link;
use crate::quantity::Mtu;
use crate::session::mirrored_mtu;

/// The kernel's word for TUN and TAP devices.
const TUN: &str = "tun";

/// TAP devices that the session cannot have.
pub fn problems(plan: &SessionPlan, facts: &Facts) -> Vec<Box<dyn Explain>> {
    let problem = |(destination, tap): (&DestinationPlan, &TapPlan)| -> Option<Box<dyn Explain>> {
        let error = in_the_way(tap, facts)?.into();
        Some(CannotOpen { destination: destination.place(), error }.into())
    };
    taps(plan).filter_map(problem).collect()
}

fn in_the_way(tap: &TapPlan, facts: &Facts) -> Option<TapError> {
    let device = tap.device.clone();
    let existing = existing(tap, facts);
    let kernels = io::Error::from_raw_os_error;
    if !facts.has_tap_devices {
        return Some(TapError::NoCloneDevice(kernels(libc::ENOENT)));
    }
    if existing.is_some_and(|link| link.kind.as_deref() != Some(TUN)) {
        return Some(TapError::Foreign { device, cause: kernels(libc::EINVAL) });
    }
    if existing.is_none() && !facts.capabilities.has(Capability::CAP_NET_ADMIN) {
        return Some(TapError::NotPermitted { doing: "create or use", device, cause: kernels(libc::EPERM) });
    }
    None
}

/// What may be otherwise than one expects.
pub fn findings(plan: &SessionPlan, facts: &Facts) -> Vec<Finding> {
    let mtu = mtu(plan, facts);
    let may_not = !facts.capabilities.has(Capability::CAP_NET_ADMIN);
    let mut findings = Vec::new();
    for (destination, tap) in taps(plan) {
        let (name, device, wanted) = (&destination.name, &tap.device, tap.mtu.unwrap_or(mtu));
        let found = existing(tap, facts);
        if wanted < mtu {
            findings.push(
                Finding::warning(format!("destination {name}: full frames are dropped as oversize"))
                    .because(format!("They come from links of MTU {mtu}, and {device} is to have {wanted}."))
                    .cure(format!("leave out mtu={wanted}")),
            );
        }
        if let Some(link) = found.filter(|link| may_not && (!link.up || link.mtu.is_none_or(|has| has < wanted))) {
            findings.push(
                Finding::warning(format!("destination {name}: {device} stays as it is, down or with too small an MTU"))
                    .because(format!("Without {} it cannot be set up.", Capability::CAP_NET_ADMIN))
                    .cure(format!("ip link set {} mtu {wanted} arp off up", link.name)),
            );
        }
    }
    findings
}

/// A TAP device in words.
pub(super) fn tap_in_words(tap: &TapPlan, plan: &SessionPlan, facts: &Facts) -> Statement {
    let mtu = tap.mtu.unwrap_or_else(|| mtu(plan, facts));
    let owner = tap.owner.map_or_else(String::new, |user| format!(", of the user {user}"));
    let life = match existing(tap, facts) {
        Some(_) => "is there already, and stays",
        None => "made at the start, gone at the end",
    };
    Statement::new("", format!("a TAP device, {life}; MTU {mtu}, no ARP, no IPv6{owner}"))
}

/// A capture file in words.
pub(super) fn file_in_words(plan: &CaptureFilePlan) -> String {
    let mut words = format!("inner frames to {}", plan.file);
    let mut ends = Vec::new();
    ends.extend(plan.rotation.size.map(|size| format!("{size} bytes")));
    ends.extend(plan.rotation.time.map(|time| humantime::format_duration(time).to_string()));
    if !ends.is_empty() {
        let kept =
            plan.rotation.keep.map_or_else(|| "all are".to_owned(), |keep| format!("the last {keep} of this run are"));
        words = format!("{words}, a new file after {}; {kept} kept", ends.join(" or "));
    }
    words += match plan.sync {
        Sync::Off => "",
        Sync::Rotate => "; each is on the disk when it is complete",
        Sync::Flush => "; every batch waits for the disk",
    };
    if plan.mode != FileMode::DEFAULT {
        words = format!("{words}; permissions {:04o}", plan.mode.bits());
    }
    words
}

fn taps(plan: &SessionPlan) -> impl Iterator<Item = (&DestinationPlan, &TapPlan)> {
    plan.destinations.iter().filter_map(|destination| match &destination.end {
        End::Tap(tap) => Some((destination, tap)),
        End::Tunnel(_) | End::File(_) => None,
    })
}

fn existing<'a>(tap: &TapPlan, facts: &'a Facts) -> Option<&'a Link> {
    facts.links.iter().find(|link| link.name == tap.device)
}

/// The MTU that the device gets unless the plan says another.
fn mtu(plan: &SessionPlan, facts: &Facts) -> Mtu {
    mirrored_mtu(plan, facts.tapped.iter().map(|tapped| tapped.link.mtu))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{self, facts, link, mtu, tunnel, vxlan};
    use super::*;
    use crate::config::local_end::Rotation;
    use crate::error::ExitCode;
    use crate::kernel::capabilities::Capabilities;

    fn plan(mtu: Option<Mtu>) -> SessionPlan {
        let mut plan = testing::plan(tunnel(vxlan()));
        let tap = TapPlan { device: "ids0".into(), owner: Some(7), mtu };
        plan.destinations[0].end = End::Tap(tap);
        plan
    }

    fn with_device(kind: &str) -> Facts {
        let mut facts = facts(mtu(1500));
        facts.links.push(Link { kind: Some(kind.to_owned()), ..link(3, "ids0") });
        facts
    }

    #[test]
    fn what_keeps_a_tap_device_away_is_told() {
        let told = |facts: &Facts| -> Vec<(String, ExitCode)> {
            let problems = problems(&plan(None), facts);
            assert!(problems.iter().all(|problem| problem.hint().is_some() && problem.place().is_some()));
            problems.iter().map(|problem| (problem.to_string(), problem.exit_code())).collect()
        };
        assert_eq!(told(&facts(mtu(1500))), []);
        assert_eq!(told(&with_device("tun")), []);
        let foreign = "the interface ids0 is no TAP device".to_owned();
        assert_eq!(told(&with_device("veth")), [(foreign, ExitCode::NoInput)]);
        let unprivileged = |facts| Facts { capabilities: Capabilities::NONE, ..facts };
        let refused = "not permitted to create or use the TAP device ids0".to_owned();
        assert_eq!(told(&unprivileged(facts(mtu(1500)))), [(refused, ExitCode::NotPermitted)]);
        assert_eq!(told(&unprivileged(with_device("tun"))), []);
        let without = Facts { has_tap_devices: false, ..facts(mtu(1500)) };
        assert_eq!(told(&without)[0].1, ExitCode::NoInput);
    }

    #[test]
    fn a_device_that_is_too_small_is_warned_of() {
        let warned = |plan: &SessionPlan, facts: &Facts| -> Vec<String> {
            findings(plan, facts).into_iter().map(|finding| finding.what).collect()
        };
        assert_eq!(warned(&plan(None), &facts(mtu(1500))), [""; 0]);
        let small = "destination 1: full frames are dropped as oversize";
        assert_eq!(warned(&plan(Some(mtu(1400))), &facts(mtu(1500))), [small]);
        let unprivileged = Facts { capabilities: Capabilities::NONE, ..with_device("tun") };
        assert_eq!(warned(&plan(None), &unprivileged), [""; 0]);
        let stays = "destination 1: ids0 stays as it is, down or with too small an MTU";
        assert_eq!(warned(&plan(Some(mtu(9000))), &unprivileged), [stays]);
    }

    #[test]
    fn local_ends_are_told_in_words() {
        let plan = plan(None);
        let End::Tap(tap) = &plan.destinations[0].end else { panic!("a TAP device") };
        let words = tap_in_words(tap, &plan, &facts(mtu(1500))).text;
        let expected = "a TAP device, made at the start, gone at the end; MTU 1500, no ARP, no IPv6, of the user 7";
        assert_eq!(words, expected);

        let rotation = Rotation { size: Some(1 << 20), time: Some(Duration::from_hours(1)), keep: Some(24) };
        let file = CaptureFilePlan {
            rotation,
            sync: Sync::Rotate,
            mode: "0640".parse().unwrap(),
            ..CaptureFilePlan::plain("m.pcapng".parse().unwrap())
        };
        assert_eq!(
            file_in_words(&file),
            "inner frames to m.pcapng, a new file after 1048576 bytes or 1h; the last 24 of this run are kept; each is on \
             the disk when it is complete; permissions 0640"
        );
        assert_eq!(file_in_words(&CaptureFilePlan::plain("m.pcap".parse().unwrap())), "inner frames to m.pcap");
    }
}
