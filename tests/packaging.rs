//! What is shipped beside the program says the same as the program: units, manifests and the documentation.
//! `scripts/check-packaging` has their own judges look at them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may stop at the first surprise
#![allow(missing_docs)] // a test binary has no public interface

use std::io::Write as _;

use farspan::config::load::Layers;
use farspan::config::{daemon, resolve};
use farspan::kernel::capabilities::{Capability, USED, ZERO_COPY};
use farspan::privilege::needs::{Needs, Reason};

const UNIT: &str = include_str!("../conf/systemd/farspan.service");
const DROP_INS: [&str; 3] = [
    include_str!("../conf/systemd/tap.conf"),
    include_str!("../conf/systemd/zero-copy.conf"),
    include_str!("../conf/systemd/netns.conf"),
];
const MANIFEST: &str = include_str!("../conf/kubernetes/farspan.yaml");
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

/// The configuration inside the manifest: the lines below `farspan.toml: |`, without their indentation.
fn configuration_of_the_manifest() -> String {
    let (_, block) = MANIFEST.split_once("  farspan.toml: |\n").expect("the ConfigMap holds it");
    let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| line.trim_start_matches("    ").to_owned() + "\n").collect()
}

#[test]
fn the_manifest_holds_a_right_configuration_and_the_capabilities_that_it_needs() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(configuration_of_the_manifest().as_bytes()).unwrap();
    let layers = Layers::load(Some(file.path()), std::iter::empty()).unwrap_or_else(|problems| panic!("{problems}"));
    let directories = layers.provenance().directories.clone();
    let plan = daemon::resolve(layers, |written| resolve::session(&written)).unwrap_or_else(|why| panic!("{why}"));
    let needs = Needs::of_daemon(&plan, &directories, 212_992);
    let names: Vec<String> =
        needs.capabilities().map(|(name, _)| format!("{:?}", name.to_string().replace("CAP_", ""))).collect();
    assert!(MANIFEST.contains(&format!("add: [{}]", names.join(", "))), "{names:?}");
}
