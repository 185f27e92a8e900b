//! What repeats: trouble is said at once, and then at most once a minute with a count; what costs something is done at
//! most once a second. No clock: time comes in.

use std::time::{Duration, Instant};

/// Between two lines about the same trouble.
pub const MINUTE: Duration = Duration::from_mins(1);
/// Between two times of what [`EverySecond`] is asked about.
const SECOND: Duration = Duration::from_secs(1);

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

/// Words that are said at once when they are new, and then at most once a minute.
#[derive(Clone, Debug, Default)]
pub struct Repeated {
    words: String,
    said: Option<Instant>,
    unsaid: u32,
}

impl Repeated {
    /// Whether `words` are to be said now, and how many times they went unsaid before.
    pub fn note(&mut self, words: &str, now: Instant) -> Option<u32> {
        let is_new = self.words != words;
        if is_new {
            words.clone_into(&mut self.words);
        }
        if !is_new && self.said.is_some_and(|said| now.duration_since(said) < MINUTE) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Something that is done at once, and then about once a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct EverySecond {
    next: Option<Instant>,
}

impl EverySecond {
    /// Whether it is time to do it, which is then done.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_none_or(|next| next <= now);
        if due {
            self.next = Some(now + SECOND);
        }
        due
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

    #[test]
    fn the_same_words_are_said_once_a_minute_with_a_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut trouble = Repeated::default();
        let said: Vec<_> = [0, 1, 3, 7, 59].map(|second| trouble.note("no such device", at(second))).into();
        assert_eq!(said, [Some(0), None, None, None, None]);
        assert_eq!(trouble.note("no such device", at(60)), Some(4));
        assert_eq!(trouble.note("no such device", at(61)), None);
        assert_eq!(trouble.note("not permitted", at(62)), Some(1), "another trouble is said at once");
    }

    #[test]
    fn each_time_is_a_second_after_the_last() {
        let (mut looks, start) = (EverySecond::default(), Instant::now());
        let due = [0, 500, 999, 1000, 1001, 2500].map(|ms| looks.is_due(start + Duration::from_millis(ms)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
