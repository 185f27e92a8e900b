//! seccomp: the system calls that this process never makes again, and may not (seccomp(2)).
//!
//! It is a list of what is refused, not of what is allowed. An allow-list holds for one version of the C library: the next
//! one uses a newer call for the same thing, and a process that has run for years dies of an update. What is refused here
//! is what turns a hole in farspan into a hole in the host: other programs, other processes, mounts, modules, the
//! kernel's largest attack surfaces. A refused call fails with `EPERM`, so that whatever tried it can say so.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter_all_threads,
};
use tracing::debug;

use super::needs::Needs;
use crate::kernel::capabilities::Capability;

/// What no plan needs.
const REFUSED: &[c_long] = &[
    // Other programs and processes: nothing is ever passed to a shell.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // What belongs to the host: its file systems, its kernel, its clock.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // What exploits of the kernel like best, and farspan never uses.
    libc::SYS_unshare,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_lookup_dcookie,
    libc::SYS_vhangup,
];

/// The calls of this architecture that are older than their successors above.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_uselib,
    libc::SYS_modify_ldt,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// The kinds of socket that farspan opens; every other one is refused.
const FAMILIES: [libc::c_int; 6] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_XDP];

/// Has the kernel refuse those calls to every thread of this process from now on, except what `needs` says. Whether it
/// does.
pub fn refuse(needs: &Needs) -> bool {
    let refused = filters(needs)
        .map_err(seccompiler::Error::Backend)
        .and_then(|filters| filters.iter().try_for_each(|filter| apply_filter_all_threads(filter)));
    if let Err(error) = &refused {
        debug!("system calls are not filtered: {error}");
    }
    refused.is_ok()
}

fn filters(needs: &Needs) -> Result<Vec<BpfProgram>, BackendError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let refusing = |rules, error: libc::c_int| {
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error.unsigned_abs()), architecture)?
            .try_into()
    };
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        REFUSED.iter().chain(OLD).map(|&call| (call, Vec::new())).collect();
    if !needs.has(Capability::CAP_BPF) {
        rules.insert(libc::SYS_bpf, Vec::new());
    }
    if !needs.has(Capability::CAP_SYS_ADMIN) {
        rules.insert(libc::SYS_setns, Vec::new());
    }
    let families = FAMILIES.iter().map(|&family| SeccompCondition::new(0, Dword, Ne, u64::from(family.unsigned_abs())));
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(families.collect::<Result<_, _>>()?)?]);
    // A new thread, yes; a new process, or one in namespaces of its own, no.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![SeccompCondition::new(0, Dword, MaskedEq(thread), 0)?])?]);
    // The flags of clone3 are in memory, where no filter sees them. The C library falls back to clone.
    let newer = [(libc::SYS_clone3, Vec::new())].into();
    let mut filters = vec![refusing(rules, libc::EPERM)?, refusing(newer, libc::ENOSYS)?];
    filters.extend(foreign_numbers());
    Ok(filters)
}

/// On x86-64 every call has a second number, for programs with 32-bit pointers (x32): those would go past the lists.
#[cfg(target_arch = "x86_64")]
fn foreign_numbers() -> [BpfProgram; 1] {
    /// `__X32_SYSCALL_BIT` of asm/unistd.h.
    const X32: u32 = 0x4000_0000;
    /// `linux/bpf_common.h`: load the number (offset 0 of `struct seccomp_data`), compare, answer.
    const LOAD: u16 = 0x20;
    const AT_LEAST: u16 = 0x35;
    const ANSWER: u16 = 0x06;
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let step = |code, jf, k| seccompiler::sock_filter { code, jt: 0, jf, k };
    [vec![
        step(LOAD, 0, 0),
        step(AT_LEAST, 1, X32),
        step(ANSWER, 0, no_such_call.into()),
        step(ANSWER, 0, SeccompAction::Allow.into()),
    ]]
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign_numbers() -> [BpfProgram; 0] {
    []
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use seccompiler::apply_filter;

    use super::*;
    use crate::privilege::needs::Reason;

    /// Filters hold for a thread unless they are given to all: what `job` does is refused what `needs` does not say.
    fn filtered(needs: &Needs, job: impl FnOnce() + Send + 'static) {
        let filters = filters(needs).unwrap();
        let thread = std::thread::spawn(move || {
            for filter in &filters {
                apply_filter(filter).unwrap();
            }
            job();
        });
        thread.join().unwrap();
    }

    #[test]
    fn no_other_program_is_run_and_threads_are_started_all_the_same() {
        filtered(&Needs::default(), || {
            let refused = std::process::Command::new("true").status().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            let refused = nix::sched::unshare(nix::sched::CloneFlags::empty()).unwrap_err();
            assert_eq!(refused, nix::errno::Errno::EPERM);
        });
    }

    #[test]
    fn sockets_of_other_families_are_refused() {
        use socket2::{Domain, Socket, Type};
        filtered(&Needs::default(), || {
            assert!(Socket::new(Domain::IPV4, Type::DGRAM, None).is_ok());
            let refused = Socket::new(Domain::VSOCK, Type::STREAM, None).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        });
    }

    #[test]
    fn namespaces_are_entered_only_by_a_plan_that_does() {
        use nix::sched::{CloneFlags, setns};
        let enter = |needs: &Needs, expected: nix::errno::Errno| {
            filtered(needs, move || {
                // No namespace, which is only found out by a kernel that looks.
                let file = std::fs::File::open("/dev/null").unwrap();
                assert_eq!(setns(file, CloneFlags::CLONE_NEWNET).unwrap_err(), expected);
            });
        };
        let mut needs = Needs::default();
        enter(&needs, nix::errno::Errno::EPERM);
        needs.capability(Capability::CAP_SYS_ADMIN, Reason::Asked);
        enter(&needs, nix::errno::Errno::EINVAL);
    }
}
