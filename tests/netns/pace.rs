//! How fast frames really came: a sender on a busy machine sends less, and less evenly, than it is asked to.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::lab::Namespace;

/// How often the kernel's counter is read.
const EVERY: Duration = Duration::from_millis(50);

/// How many frames an interface had received at which time, as the kernel counts them.
pub struct Pace {
    samples: Vec<(f64, f64)>,
}

impl Pace {
    /// Reads the counter of `link` in `namespace` for as long as `work` takes.
    pub fn of<T>(namespace: &Namespace, link: &str, work: impl FnOnce() -> T) -> (Self, T) {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watching = scope.spawn(|| {
                namespace.enter(|| {
                    let mut samples = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        samples.push((now(), received(link)));
                        thread::sleep(EVERY);
                    }
                    samples.push((now(), received(link)));
                    samples
                })
            });
            // The watching ends also when the work fails.
            let found = {
                let _end = End(&is_over);
                work()
            };
            (Self { samples: watching.join().expect("a counter can be read") }, found)
        })
    }

    /// Frames a second between two times, in seconds since 1970.
    pub fn a_second(&self, from: f64, to: f64) -> f64 {
        (self.at(to) - self.at(from)) / (to - from)
    }

    /// Frames until a time, between two samples in proportion.
    fn at(&self, time: f64) -> f64 {
        let next = self.samples.partition_point(|&(at, _)| at < time);
        match (next.checked_sub(1).map(|before| self.samples[before]), self.samples.get(next)) {
            (Some((from, before)), Some(&(to, after))) => before + (after - before) * (time - from) / (to - from),
            (Some((_, count)), None) => count,
            (None, first) => first.map_or(0.0, |&(_, count)| count),
        }
    }
}

/// Ends the watching when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Now, in seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Frames that an interface of this thread's namespace has received (`/proc/net/dev`).
fn received(link: &str) -> f64 {
    let all = fs::read_to_string("/proc/thread-self/net/dev").expect("the kernel tells it");
    let counters = all.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':'));
    // Bytes come first.
    counters.and_then(|counters| counters.split_whitespace().nth(1)?.parse().ok()).expect("the interface is there")
}
