//! The control plane's runtime: one thread, no frame ever meets it.

use std::io;

use crate::error::{Explain, Problems};
use crate::privilege;

/// The kernel does not give what the control plane needs.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the control plane")]
pub struct RuntimeError(#[source] pub io::Error);

impl Explain for RuntimeError {
    fn hint(&self) -> Option<String> {
        Some("look at `ulimit -n` and `ulimit -u`".to_owned())
    }
}

/// Runs `work` to its end on this thread.
///
/// # Errors
/// When there is no runtime for it.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Problems> {
    // The runtime's other threads resolve names, and may be older than the moment when privileges are given up.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_start(privilege::renounce).build().map_err(RuntimeError)?;
    let done = runtime.block_on(work);
    // A name server or a disk that does not answer keeps threads, and nobody waits for them.
    runtime.shutdown_background();
    Ok(done)
}
