//! How destinations that wait for a reader learn that their session is to end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a reader may take nothing after the session was asked to end.
pub const STALL: Duration = Duration::from_secs(2);
/// How long it may take in all from then on, however steadily it reads: a second before the session would be abandoned.
pub const LONGEST: Duration = Duration::from_secs(4);

/// Whether a session is to end, and since when. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    since: Option<Instant>,
    is_urgent: bool,
}

impl Ending {
    /// The session is to end: a reader that is slow has some seconds left. The first request counts.
    pub fn request(&self) {
        self.state().since.get_or_insert_with(Instant::now);
    }

    /// The session is to end at once.
    pub fn hurry(&self) {
        *self.state() = State { since: Some(Instant::now()), is_urgent: true };
    }

    /// Whether a reader that took something at `progress` the last time is not waited for any longer. `from` is when a session
    /// that ends by itself began to wait.
    pub(super) fn is_over(&self, progress: Instant, from: Option<Instant>) -> bool {
        let State { since, is_urgent } = *self.state();
        let Some(since) = since.or(from) else { return false };
        is_urgent || since.elapsed() >= LONGEST || since.max(progress).elapsed() >= STALL
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // One assignment, whole wherever somebody was interrupted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
