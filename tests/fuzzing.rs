//! The fuzzer's seeds, whole and damaged, through the fuzzer's functions: what `scripts/fuzz` explores at length must
//! hold for these in every run of the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "fuzz/inputs.rs"]
mod inputs;
#[path = "fuzz/seeds.rs"]
mod seeds;

use proptest::prelude::*;

fn run(target: &str, bytes: &[u8]) {
    match target {
        "ring_block" => inputs::ring_block(bytes),
        "wire" => inputs::wire(bytes),
        "decapsulate" => inputs::decapsulate(bytes),
        "receive" => inputs::receive(bytes),
        "tunnel" => inputs::tunnel(bytes),
        "capture_file" => inputs::capture_file(bytes),
        "compare" => inputs::compare(bytes),
        "http" => inputs::http(bytes),
        "control" => inputs::control(bytes),
        "netlink" => inputs::netlink(bytes),
        unknown => panic!("no target {unknown}"),
    }
}

#[test]
fn seeds_hold() {
    for (target, seeds) in seeds::all() {
        assert!(!seeds.is_empty());
        for seed in seeds {
            run(target, &seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_seeds_hold(
        chosen: prop::sample::Index,
        damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        kept: prop::sample::Index,
    ) {
        for (target, seeds) in seeds::all() {
            let mut seed = seeds[chosen.index(seeds.len())].clone();
            for (place, value) in &damages {
                let place = place.index(seed.len());
                seed[place] = *value;
            }
            run(target, &seed);
            run(target, &seed[..kept.index(seed.len())]);
        }
    }
}
