//! How much the mirror would send, by what the tapped interfaces carry now.

use std::time::Duration;

use crate::kernel::links::Counters;
use crate::quantity::Directions;
use crate::wire::ethernet;

/// How long the interfaces' counters are watched.
pub const WINDOW: Duration = Duration::from_secs(1);

/// Frames and bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Frames a second, as the driver counts them.
    pub frames: f64,
    /// Bytes a second, from destination MAC to the last payload byte.
    pub bytes: f64,
}

impl Traffic {
    /// What went through an interface between two readings of its counters, in the mirrored directions.
    pub fn between(before: Counters, after: Counters, elapsed: Duration, directions: Directions) -> Self {
        let received = (
            after.received_frames.saturating_sub(before.received_frames),
            after.received_bytes.saturating_sub(before.received_bytes),
        );
        let sent =
            (after.sent_frames.saturating_sub(before.sent_frames), after.sent_bytes.saturating_sub(before.sent_bytes));
        let (frames, bytes) = match directions {
            Directions::In => received,
            Directions::Out => sent,
            Directions::InOut => (received.0 + sent.0, received.1 + sent.1),
        };
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        Self { frames: approximate(frames) / seconds, bytes: approximate(bytes) / seconds }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { frames: self.frames + other.frames, bytes: self.bytes + other.bytes }
    }

    /// The same traffic as it is on the wire: a super-frame counts as the full frames that it becomes on a link with
    /// this MTU.
    #[must_use]
    pub fn on_the_wire(self, mtu: u32) -> Self {
        let full_frame = f64::from(mtu) + approximate(ethernet::HEADER_LEN as u64);
        Self { frames: self.frames.max(self.bytes / full_frame), bytes: self.bytes }
    }

    /// Bits a second on the underlay when each frame gets `overhead` bytes of outer headers, outer Ethernet included.
    pub fn mirrored_bits(self, overhead: usize) -> f64 {
        let overhead = approximate(overhead as u64) + approximate(ethernet::HEADER_LEN as u64);
        8.0 * (self.bytes + self.frames * overhead)
    }

    /// Bits a second of the frames themselves.
    pub fn bits(self) -> f64 {
        8.0 * self.bytes
    }
}

/// A rate for people: three digits and a unit.
pub fn bits_in_words(bits: f64) -> String {
    match bits {
        bits if bits >= 1e9 => format!("{:.1} Gbit/s", bits / 1e9),
        bits if bits >= 1e6 => format!("{:.1} Mbit/s", bits / 1e6),
        bits if bits >= 1e3 => format!("{:.0} kbit/s", bits / 1e3),
        bits => format!("{bits:.0} bit/s"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates are shown with three digits, and a float has 53 bits")]
fn approximate(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Counters =
        Counters { received_frames: 100, received_bytes: 10_000, sent_frames: 50, sent_bytes: 1_000_000 };
    const AFTER: Counters =
        Counters { received_frames: 300, received_bytes: 30_000, sent_frames: 60, sent_bytes: 1_641_680 };

    #[test]
    fn only_the_mirrored_directions_count() {
        let two_seconds = Duration::from_secs(2);
        let traffic = |directions| Traffic::between(BEFORE, AFTER, two_seconds, directions);
        assert_eq!(traffic(Directions::In), Traffic { frames: 100.0, bytes: 10_000.0 });
        assert_eq!(traffic(Directions::Out), Traffic { frames: 5.0, bytes: 320_840.0 });
        assert_eq!(traffic(Directions::InOut), Traffic { frames: 105.0, bytes: 330_840.0 });
        assert_eq!(Traffic::between(AFTER, BEFORE, two_seconds, Directions::InOut), Traffic::default());
    }

    #[test]
    fn super_frames_pay_for_the_frames_that_they_become() {
        // 10 super-frames of 64,168 bytes in two seconds are at least 424 full frames.
        let sent = Traffic::between(BEFORE, AFTER, Duration::from_secs(2), Directions::Out).on_the_wire(1500);
        assert!((211.0..212.0).contains(&sent.frames), "{sent:?}");
        let vxlan = Traffic { frames: 1000.0, bytes: 100_000.0 }.mirrored_bits(36);
        assert!((vxlan - 8.0 * (100_000.0 + 1000.0 * 50.0)).abs() < 0.1);
    }

    #[test]
    fn rates_have_the_unit_that_people_expect() {
        let words: Vec<String> = [0.0, 950.0, 12_400.0, 3_250_000.0, 9.96e9].map(bits_in_words).into();
        assert_eq!(words, ["0 bit/s", "950 bit/s", "12 kbit/s", "3.2 Mbit/s", "10.0 Gbit/s"]);
    }
}
