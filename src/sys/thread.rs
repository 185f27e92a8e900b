//! How a thread is scheduled: setpriority(2), `sched_setscheduler(2)`.

use std::io;

use libc::c_int;

use super::check;

/// Sets the nice value of the calling thread.
///
/// # Errors
/// `EACCES` when it is lower than now, without `CAP_SYS_NICE`.
pub fn set_nice(nice: u8) -> io::Result<()> {
    // SAFETY: setpriority(2) takes three integers. "A zero value for who denotes (respectively) the calling process": of
    // PRIO_PROCESS on Linux "the calling thread" (its section BUGS: nice values are per-thread).
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, c_int::from(nice)) }).map(drop)
}

/// Has the kernel schedule the calling thread as a computation that nobody waits for (`SCHED_BATCH`).
///
/// # Errors
/// The kernel's.
pub fn schedule_as_batch() -> io::Result<()> {
    schedule(libc::SCHED_BATCH)
}

/// Has the calling thread run only when no other wants the CPU (`SCHED_IDLE`).
///
/// # Errors
/// The kernel's.
pub fn schedule_as_idle() -> io::Result<()> {
    schedule(libc::SCHED_IDLE)
}

fn schedule(policy: c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: sched_setscheduler(2): "If pid equals zero, the scheduling policy and parameters of the calling thread will be
    // set", out of a structure that outlives the call; "For processes scheduled under one of these policies,
    // sched_priority is not used in scheduling decisions (it must be specified as 0)".
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy (field 41) and the nice value (field 19) of the calling thread, `proc_pid_stat(5)`.
    fn scheduled() -> (c_int, i64) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[41 - 3].parse().unwrap(), fields[19 - 3].parse().unwrap())
    }

    #[test]
    fn a_thread_stands_back_alone() {
        let before = scheduled();
        let seen = std::thread::spawn(|| {
            set_nice(17).unwrap();
            schedule_as_batch().unwrap();
            let batch = scheduled();
            schedule_as_idle().unwrap();
            (batch, scheduled())
        });
        assert_eq!(seen.join().unwrap(), ((libc::SCHED_BATCH, 17), (libc::SCHED_IDLE, 17)));
        assert_eq!(scheduled(), before);
    }
}
