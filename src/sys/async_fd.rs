//! A descriptor that tokio's reactor watches (epoll(7)).

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Has the runtime of the caller watch `descriptor`, which must be non-blocking, as long as the answer lives.
///
/// # Errors
/// When the kernel does not take it into the set, as a file's that is always ready.
pub fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the reactor uses the number of the descriptor until the `AsyncFd` is dropped, so it must stay open and the same
    // until then. An `OwnedFd` has one number for ever, closes it only when it is dropped, and the `AsyncFd` owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}
