//! Trouble that repeats: it is said at once, and then at most once a minute with a count.

use std::time::{Duration, Instant};

/// Between two lines about the same trouble.
const MINUTE: Duration = Duration::from_mins(1);

/// A counter that is spoken of at most once a minute.
#[derive(Debug, Default)]
pub struct Rising {
    said: u64,
    last: Option<Instant>,
}

impl Rising {
    /// How much `count` has risen since it was last spoken of, when it may be spoken of again.
    pub fn news(&mut self, now: Instant, count: u64) -> Option<u64> {
        let quiet = self.last.is_some_and(|last| now.duration_since(last) < MINUTE);
        if count == self.said || quiet {
            return None;
        }
        let risen = count - self.said;
        *self = Self { said: count, last: Some(now) };
        Some(risen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_at_once_and_then_once_a_minute_with_the_count_since() {
        let start = Instant::now();
        let mut rising = Rising::default();
        assert_eq!(rising.news(start, 0), None);
        assert_eq!(rising.news(start, 3), Some(3));
        assert_eq!(rising.news(start + MINUTE / 2, 10), None);
        assert_eq!(rising.news(start + MINUTE, 12), Some(9));
        assert_eq!(rising.news(start + MINUTE * 3, 12), None);
    }
}
