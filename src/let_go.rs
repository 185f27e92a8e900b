//! Patience with what a worker that has just ended, or the kernel after it, has not let go of yet: a worker says that it
//! has ended before it closes what it had, because to close many captures takes the kernel seconds.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a worker may need for it.
pub const LET_GO: Duration = Duration::from_millis(500);
/// How often it is tried again.
const NAP: Duration = Duration::from_millis(5);

/// Does `attempt` again for so long, while what it needs is taken.
///
/// # Errors
/// The last attempt's.
pub fn until_let_go<T, E>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_taken(&error) && begun.elapsed() < patience => sleep(NAP),
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_go_of_is_had_and_other_errors_are_told_at_once() {
        let mut attempts = 0;
        let third = until_let_go(
            LET_GO,
            || {
                attempts += 1;
                if attempts < 3 { Err("taken") } else { Ok(attempts) }
            },
            |error| *error == "taken",
        );
        assert_eq!(third, Ok(3));
        let mut attempts = 0;
        let refused: Result<(), _> = until_let_go(
            LET_GO,
            || {
                attempts += 1;
                Err("forbidden")
            },
            |error| *error == "taken",
        );
        assert_eq!((refused, attempts), (Err("forbidden"), 1));
    }
}
