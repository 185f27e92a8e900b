//! How long somebody waited for a CPU: the kernel's pressure stall information
//! (<https://docs.kernel.org/accounting/psi.html>).

use std::fs;
use std::io;
use std::time::Duration;

/// Where the kernel tells it, if it was built with `CONFIG_PSI` and not started with `psi=0`.
const FILE: &str = "/proc/pressure/cpu";

/// For how long altogether some task could not run because all CPUs were busy, since the host was started.
///
/// # Errors
/// `NotFound` from a kernel that does not measure it, `InvalidData` for words that nobody knows.
pub(super) fn stalled() -> io::Result<Duration> {
    read(&fs::read_to_string(FILE)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The total of the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, which counts microseconds.
fn read(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_as_the_kernel_writes_it() {
        let text =
            "some avg10=1.53 avg60=0.87 avg300=0.23 total=1238762\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(read(text), Some(Duration::from_micros(1_238_762)));
        for wrong in ["", "full avg10=0.00 total=3\n", "some avg10=0.00\n", "some total=x\n"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_kernel_that_measures_it_has_it_rise() {
        match stalled() {
            Ok(before) => assert!(stalled().unwrap() >= before),
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::InvalidData),
        }
    }
}
