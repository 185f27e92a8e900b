#![no_main]

#[path = "../inputs.rs"]
#[allow(dead_code, reason = "each target has its own function in it")]
mod inputs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inputs::netlink(bytes));
