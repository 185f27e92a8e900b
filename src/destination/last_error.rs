//! What went wrong with each destination of a session last, and when.
//!
//! Who notices it writes it: a worker about once a second, whoever watches the destination, whoever could not open it.
//! `farspan status` shows it; it stays when the trouble is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::ledger::{DestinationLedger, DropReason, Drops, Kind};
use crate::repeated::EverySecond;

/// What went wrong with each destination last, by its name. A clone shows and notes the same.
#[derive(Clone, Debug, Default)]
pub struct LastErrors(Arc<Mutex<BTreeMap<String, LastError>>>);

/// What went wrong, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// In words for an operator.
    pub words: String,
    /// When it was noticed.
    pub at: SystemTime,
}

impl LastError {
    /// That went wrong just now.
    pub fn now(words: String) -> Self {
        Self { words, at: SystemTime::now() }
    }
}

impl LastErrors {
    /// Takes note of what went wrong with `destination` just now.
    pub fn note(&self, destination: &str, words: String) {
        self.lock().insert(destination.to_owned(), LastError::now(words));
    }

    /// What went wrong with `destination` last, if anything did.
    pub fn of(&self, destination: &str) -> Option<LastError> {
        self.lock().get(destination).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, LastError>> {
        // Every entry is whole, whoever was interrupted over it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one worker notices that its destinations lose frames.
#[derive(Debug, Default)]
pub(super) struct LossWatch {
    errors: LastErrors,
    /// When it looks.
    pub(super) next_look: EverySecond,
    /// What each had lost at the last look.
    seen: Vec<Drops>,
}

impl LossWatch {
    /// What is noticed goes to `errors`.
    pub(super) fn telling(errors: LastErrors) -> Self {
        Self { errors, ..Self::default() }
    }

    /// Looks at what destination `number` has lost. `cause` says, if anybody knows, with which error the kernel refused
    /// what could not be written.
    pub(super) fn look(&mut self, number: usize, account: &DestinationLedger, cause: impl Fn() -> Option<String>) {
        if self.seen.len() <= number {
            self.seen.resize(number + 1, Drops::default());
        }
        let before = std::mem::replace(&mut self.seen[number], account.dropped);
        let lost = |reason: &DropReason| account.dropped[*reason].saturating_sub(before[*reason]);
        let reasons = DropReason::ALL.iter().filter(|reason| reason.kind() == Kind::Loss);
        let Some(reason) = reasons.copied().filter(|reason| lost(reason) > 0).max_by_key(lost) else { return };
        let known = if reason == DropReason::WriteFailed { cause() } else { None };
        let why = known.unwrap_or_else(|| reason.sentence().to_owned());
        self.errors.note(&account.name, format!("{}: {why}", reason.label()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_the_most_losses_since_the_last_look_is_the_last_error() {
        let errors = LastErrors::default();
        let mut watch = LossWatch::telling(errors.clone());
        let mut account = DestinationLedger { name: "ids".into(), ..DestinationLedger::default() };
        let mut after = |changes: &[(DropReason, u64)], cause: Option<&str>| {
            for &(reason, frames) in changes {
                account.dropped[reason] += frames;
            }
            watch.look(0, &account, || cause.map(str::to_owned));
            errors.of("ids").map(|error| error.words)
        };
        assert_eq!(after(&[(DropReason::Shed, 9)], None), None, "a rule is no error");
        let unreachable = "unreachable: there is no route to the destination, or its next hop does not answer";
        let lost = [(DropReason::Unreachable, 5), (DropReason::Oversize, 2)];
        assert_eq!(after(&lost, Some("no buffer")).as_deref(), Some(unreachable));
        let full = "write_failed: No space left on device";
        assert_eq!(after(&[(DropReason::WriteFailed, 1)], Some("No space left on device")).as_deref(), Some(full));
        assert_eq!(after(&[], None).as_deref(), Some(full), "it stays");
        let unknown = "write_failed: the kernel refused the datagram, or the file could not be written";
        assert_eq!(after(&[(DropReason::WriteFailed, 1)], None).as_deref(), Some(unknown));
    }
}
