//! What signals do to this process: sigaction(2).

use std::io;
use std::mem::MaybeUninit;
use std::ptr::null;

use libc::c_int;

use super::check;

/// Has the kernel discard `signal`, whose default action would end or stop the process.
///
/// # Errors
/// When the kernel refuses: there is no such signal, or it cannot be ignored.
pub fn ignore(signal: c_int) -> io::Result<()> {
    // SAFETY: all zeroes is a `sigaction` without flags and with an empty mask; its handler is set below.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = libc::SIG_IGN;
    // SAFETY: sigaction(2) reads one structure, which lives here, and SIG_IGN calls no code of ours. A null pointer asks for
    // no former action.
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }).map(drop)
}

/// Whether `signal` is ignored, such as SIGHUP for a program that nohup(1) started.
pub fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer changes no action; the kernel writes one structure, for which there is room.
    let asked = check(unsafe { libc::sigaction(signal, null(), action.as_mut_ptr()) });
    // SAFETY: all zeroes is a valid structure, and the kernel has written another one over it or left it alone.
    let action = unsafe { action.assume_init() };
    asked.is_ok() && action.sa_sigaction == libc::SIG_IGN
}

/// The real-time signals that the C library leaves to programs.
pub fn real_time() -> std::ops::RangeInclusive<c_int> {
    libc::SIGRTMIN()..=libc::SIGRTMAX()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_ignored_ends_nothing() {
        assert!(!is_ignored(libc::SIGUSR2));
        ignore(libc::SIGUSR2).unwrap();
        assert!(is_ignored(libc::SIGUSR2));
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR2).unwrap();
        assert!(ignore(libc::SIGKILL).is_err());
    }
}
