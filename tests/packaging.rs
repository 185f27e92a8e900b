//! What is shipped beside the program says the same as the program: units, manifests and the documentation.
//! `scripts/check-packaging` has their own judges look at them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may stop at the first surprise
#![allow(missing_docs)] // a test binary has no public interface

use farspan::kernel::capabilities::{Capability, USED, ZERO_COPY};
use farspan::privilege::needs::Reason;

const UNIT: &str = include_str!("../conf/systemd/farspan.service");
const DROP_INS: [&str; 3] = [
    include_str!("../conf/systemd/tap.conf"),
    include_str!("../conf/systemd/zero-copy.conf"),
    include_str!("../conf/systemd/netns.conf"),
];
const DOCKERFILE: &str = include_str!("../conf/Dockerfile");
const OPERATIONS: &str = include_str!("../docs/OPERATIONS.md");

/// The values of a unit's setting, all its lines together.
fn setting<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).collect()
}

#[test]
fn units_bound_what_they_give_and_give_what_plans_can_need() {
    let mut given = Vec::new();
    for unit in [UNIT].iter().chain(&DROP_INS) {
        let ambient = setting(unit, "AmbientCapabilities");
        assert_eq!(setting(unit, "CapabilityBoundingSet"), ambient);
        given.extend(ambient);
    }
    assert_eq!(setting(UNIT, "AmbientCapabilities"), ["CAP_NET_RAW", "CAP_NET_ADMIN"]);
    let of_root = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_NET_BIND_SERVICE];
    for capability in USED.iter().filter(|capability| !of_root.contains(capability)) {
        assert!(given.contains(&capability.to_string().as_str()), "{capability} is in no unit");
        assert!(DOCKERFILE.contains(&capability.to_string().to_lowercase()), "{capability} is not in the image");
    }
    assert!(ZERO_COPY.iter().all(|capability| given.contains(&capability.to_string().as_str())));
}

#[test]
fn the_documentation_has_a_row_for_each_reason_to_keep_a_capability() {
    for reason in Reason::ALL {
        assert!(OPERATIONS.contains(&format!("| {reason} |")), "no row for: {reason}");
    }
}
