//! What the process takes from its host: the kernel's own account of it.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// What the process takes at one moment. What the kernel does not tell, in a sandbox for instance, is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// CPU time of all its threads, in user and kernel mode.
    pub cpu: Option<Duration>,
    /// Memory that is resident, in bytes.
    pub resident: Option<u64>,
    /// Open file descriptors.
    pub descriptors: Option<u64>,
}

impl Process {
    /// Asks the kernel: a few microseconds.
    pub fn measure() -> Self {
        let cpu = getrusage(UsageWho::RUSAGE_SELF)
            .ok()
            .map(|usage| [usage.user_time(), usage.system_time()].into_iter().map(duration).sum());
        Self { cpu, resident: resident(), descriptors: descriptors() }
    }
}

fn duration(time: nix::sys::time::TimeVal) -> Duration {
    use nix::sys::time::TimeValLike as _;
    Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or_default())
}

/// The second number of proc(5)'s `statm`, in pages.
fn resident() -> Option<u64> {
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse::<u64>().ok()?.checked_mul(page)
}

fn descriptors() -> Option<u64> {
    // The one that reads the directory is among them.
    u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_this_process_takes() {
        let process = Process::measure();
        assert!(process.resident.is_some_and(|bytes| bytes > 100_000), "{process:?}");
        assert!(process.descriptors.is_some_and(|count| count >= 3), "{process:?}");
        assert!(process.cpu.is_some(), "{process:?}");
    }
}
