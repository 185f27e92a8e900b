//! How the load is spread over the scale of flows, measured, and which parts of it are closed.
//!
//! The scale is divided into [`BINS`] bins ([`crate::select::shed`]). The load of each is measured, so that the governor
//! knows what a mark lets in, whatever the flows are: somebody who has watched a mirror may send many of those flows that
//! it keeps. Where a few bins have so much of the load that without them twice as much of the scale could be open, they are
//! heavy. Heavy bins are closed unless they fit into a quarter of what the limit allows, or into what the others leave.

use crate::select::shed::{BINS, BINS_USIZE, Closed, Load, Loads};

/// Times the part of the scale that could be open otherwise: for less, no bin is heavy.
const GAIN: f64 = 2.0;
/// Bins that can be heavy at a time.
const MOST_HEAVY: usize = BINS_USIZE / 2;
/// What a tick weighs in the measured load: about a second counts.
const WEIGHT: f64 = 0.1;
/// Frames or bytes in a tick that count as none: what is left of a frame after 13 seconds.
const FORGOTTEN: f64 = 1e-6;
/// Of the mean: what a bin counts at least, because new flows may come in it at any time.
const LEAST: f64 = 0.5;
/// The part of what the limit allows that heavy bins, and also control frames, may have in any case.
const PORTION: f64 = 0.25;
/// A bin stays heavy for so many ticks after it was last.
const HEAVY_FOR: u16 = 50;
/// A bin that was closed is not settled for so many ticks afterwards: its flows may be under way.
const UNSETTLED_FOR: u16 = 600;

/// What is measured, and what follows from it.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    /// Load of each bin in a tick, smoothed; the last is that of control frames.
    frames: [f64; BINS_USIZE + 1],
    bytes: [f64; BINS_USIZE + 1],
    /// Whether it is bytes that are short, rather than frames.
    by_bytes: bool,
    /// The part of the load that each bin has, with [`LEAST`] of the mean for those with less.
    part: [f64; BINS_USIZE],
    /// For how many ticks more a bin counts as heavy.
    heavy_for: [u16; BINS_USIZE],
    /// For how many ticks more it is not settled.
    unsettled_for: [u16; BINS_USIZE],
    closed: Closed,
    /// The part of the load that control frames are.
    control: f64,
    /// No load is remembered, and no bin is closed, heavy or unsettled: another tick without load changes nothing.
    is_at_rest: bool,
}

impl Default for Scale {
    /// Nothing was measured: the load is taken to be even.
    fn default() -> Self {
        Self {
            frames: [0.0; BINS_USIZE + 1],
            bytes: [0.0; BINS_USIZE + 1],
            by_bytes: false,
            part: [1.0 / f64::from(BINS); BINS_USIZE],
            heavy_for: [0; BINS_USIZE],
            unsettled_for: [0; BINS_USIZE],
            closed: Closed::default(),
            control: 0.0,
            is_at_rest: true,
        }
    }
}

impl Scale {
    /// Takes note of what the workers were given in so many ticks, and of whether bytes are short or frames.
    pub(super) fn note(&mut self, loads: &Loads, by_bytes: bool, ticks: f64) {
        if self.is_at_rest && loads.0.iter().all(|load| *load == Load::default()) {
            return;
        }
        let weight = (WEIGHT * ticks).min(1.0);
        for (at, &Load { frames, bytes }) in loads.0.iter().enumerate() {
            for (smoothed, count) in [(&mut self.frames[at], frames), (&mut self.bytes[at], bytes)] {
                #[allow(clippy::cast_precision_loss, reason = "a proportion")]
                let a_tick = count as f64 / ticks;
                *smoothed += (a_tick - *smoothed) * weight;
                if *smoothed < FORGOTTEN {
                    *smoothed = 0.0;
                }
            }
        }
        self.by_bytes = by_bytes;
        self.weigh(ticks);
        let is_idle = self.frames.iter().chain(&self.bytes).all(|&load| load == 0.0);
        let is_settled = self.heavy_for.iter().chain(&self.unsettled_for).all(|&ticks| ticks == 0);
        self.is_at_rest = is_idle && is_settled && self.closed == Closed::default();
    }

    fn weigh(&mut self, ticks: f64) {
        let load = if self.by_bytes { &self.bytes } else { &self.frames };
        let total: f64 = load[..BINS_USIZE].iter().sum();
        let all = total + load[BINS_USIZE];
        self.control = if all > 0.0 { load[BINS_USIZE] / all } else { 0.0 };
        let mean = total / f64::from(BINS);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most five ticks")]
        let passed = (ticks.round() as u16).max(1);
        for (bin, &load) in load[..BINS_USIZE].iter().enumerate() {
            self.heavy_for[bin] = self.heavy_for[bin].saturating_sub(passed);
            self.unsettled_for[bin] = self.unsettled_for[bin].saturating_sub(passed);
            self.part[bin] = if mean > 0.0 { (load / mean).max(LEAST) } else { 1.0 } / f64::from(BINS);
        }
    }

    /// Decides which heavy bins are closed, where the limit has room for `share` of the load and new flows are admitted up
    /// to `open`. Flows that are under way there are cut short only where `cuts` says so.
    pub(super) fn choose(&mut self, open: f64, share: f64, cuts: bool) {
        let before = self.closed;
        let mut closed = Closed::default();
        if share < 1.0 {
            self.note_heavy(share);
            let heavy = |bin: usize| self.heavy_for[bin] > 0;
            let light: f64 = (0..BINS_USIZE).filter(|&bin| !heavy(bin)).map(|bin| self.part[bin]).sum();
            let mut room = (share * PORTION).max(share - light);
            for bin in (0..BINS_USIZE).filter(|&bin| heavy(bin)) {
                let this = 1_u128 << bin;
                let part = self.part[bin];
                // One that is open stays so while it fits more or less.
                let fits = part <= if before.to_new & this == 0 { room * 1.25 } else { room };
                if fits && share_below(bin, open) >= 1.0 {
                    room = (room - part).max(0.0);
                } else {
                    closed.to_new |= this;
                }
            }
            closed.to_all = closed.to_new & if cuts { u128::MAX } else { before.to_all };
        }
        for bin in 0..BINS_USIZE {
            let this = 1_u128 << bin;
            if closed.to_new & this != 0 {
                self.unsettled_for[bin] = UNSETTLED_FOR;
            } else if self.unsettled_for[bin] > 0 {
                closed.unsettled |= this;
            }
        }
        self.closed = closed;
        self.is_at_rest &= closed == Closed::default();
    }

    /// Takes note of the bins without which much more of the scale could be open.
    fn note_heavy(&mut self, share: f64) {
        // In frames of a second: few are no proof of anything.
        let frames: f64 = self.frames.iter().sum::<f64>() / WEIGHT;
        let mean = frames / f64::from(BINS);
        let proof = (mean + mean.sqrt() + 1.0) / frames.max(1.0);
        let mut order: Vec<usize> = (0..BINS_USIZE).filter(|&bin| self.part[bin] > proof).collect();
        order.sort_unstable_by(|&one, &other| self.part[other].total_cmp(&self.part[one]));
        order.truncate(MOST_HEAVY);
        let mut without = 0_u128;
        let (mut most, mut best) = (GAIN * self.open_places(share, without), 0);
        for &bin in &order {
            without |= 1 << bin;
            let places = self.open_places(share, without);
            if places > most {
                (most, best) = (places, without);
            }
        }
        for bin in (0..BINS_USIZE).filter(|&bin| best >> bin & 1 == 1) {
            self.heavy_for[bin] = HEAVY_FOR;
        }
    }

    /// How many bins could be open, where the limit has room for `share` of the load, without some.
    fn open_places(&self, share: f64, without: u128) -> f64 {
        let (mut left, mut places) = (share, 0.0);
        for bin in (0..BINS_USIZE).filter(|&bin| without >> bin & 1 == 0) {
            let part = self.part[bin];
            if part >= left {
                return places + left / part;
            }
            (left, places) = (left - part, places + 1.0);
        }
        places
    }

    /// Whether another tick without load would change nothing.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_at_rest
    }

    /// Which bins are closed.
    pub(super) fn closed(&self) -> Closed {
        self.closed
    }

    /// Whether control frames are so many that they are treated as all others, where the limit has room for `share`.
    pub(super) fn is_flooded_with_control_frames(&self, share: f64) -> bool {
        share < 1.0 && self.control > share * PORTION
    }

    /// The part of the load below a mark, 0 to 1, in bins that are not closed.
    pub(super) fn below(&self, mark: f64) -> f64 {
        self.open_bins().map(|bin| self.part_of(bin, mark)).sum()
    }

    /// The mark, 0 to 1, below which the load is `share` of all.
    pub(super) fn mark(&self, share: f64) -> f64 {
        let mut left = share;
        for bin in self.open_bins() {
            let part = self.part[bin];
            if part >= left {
                return ((index(bin) + left.max(0.0) / part) / f64::from(BINS)).min(1.0);
            }
            left -= part;
        }
        1.0
    }

    fn open_bins(&self) -> impl Iterator<Item = usize> {
        let closed = self.closed.to_new;
        (0..BINS_USIZE).filter(move |bin| closed >> bin & 1 == 0)
    }

    fn part_of(&self, bin: usize, mark: f64) -> f64 {
        self.part[bin] * share_below(bin, mark)
    }
}

/// How much of a bin lies below a mark.
fn share_below(bin: usize, mark: f64) -> f64 {
    (mark * f64::from(BINS) - index(bin)).clamp(0.0, 1.0)
}

fn index(bin: usize) -> f64 {
    u32::try_from(bin).map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loads(of_bin: impl Fn(usize) -> u64) -> Loads {
        let mut loads = Loads::default();
        loads.0[..BINS_USIZE].iter_mut().enumerate().for_each(|(bin, load)| {
            *load = Load { frames: of_bin(bin), bytes: 100 * of_bin(bin) };
        });
        loads
    }

    fn measured(of_bin: impl Fn(usize) -> u64) -> Scale {
        let mut scale = Scale::default();
        (0..20).for_each(|_| scale.note(&loads(&of_bin), false, 1.0));
        scale
    }

    #[test]
    fn a07_without_a_measurement_and_under_an_even_load_a_mark_is_its_share() {
        for mut scale in [Scale::default(), measured(|_| 10)] {
            scale.choose(0.5, 0.5, true);
            assert_eq!(scale.closed(), Closed::default());
            for share in [0.0, 0.003, 0.1, 0.5, 0.99, 1.0] {
                assert!((scale.mark(share) - share).abs() < 1e-9 && (scale.below(share) - share).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a07_bins_that_have_most_of_the_load_are_closed_and_the_others_open_further() {
        // The lowest eight have nine tenths of it.
        let mut scale = measured(|bin| if bin < 8 { 1000 } else { 7 });
        scale.choose(1.0, 0.1, false);
        assert_eq!(scale.closed(), Closed { to_new: 0xff, to_all: 0, unsettled: 0 }, "new flows first");
        scale.choose(1.0, 0.1, true);
        assert_eq!(scale.closed(), Closed { to_new: 0xff, to_all: 0xff, unsettled: 0 });
        assert!(scale.mark(0.1) > 0.1);
        // They fit again, but what is under way in them is not let in at once.
        scale.choose(1.0, 1.0, false);
        assert_eq!(scale.closed(), Closed { to_new: 0, to_all: 0, unsettled: 0xff });
    }

    #[test]
    fn a07_a_scale_without_load_comes_to_rest_and_measures_again_as_a_new_one() {
        let mut scale = measured(|bin| if bin < 8 { 1000 } else { 7 });
        scale.choose(1.0, 0.1, true);
        for _ in 0..1000 {
            scale.note(&Loads::default(), false, 1.0);
            scale.choose(1.0, 1.0, false);
        }
        assert!(scale.is_at_rest);
        assert_eq!(scale.closed(), Closed::default());
        let mut new = Scale::default();
        for scale in [&mut scale, &mut new] {
            scale.note(&loads(|bin| if bin == 3 { 100 } else { 10 }), false, 1.0);
        }
        assert_eq!((scale.frames, scale.part), (new.frames, new.part));
    }

    #[test]
    fn a07_a_heavy_bin_that_fits_stays() {
        let mut scale = measured(|bin| if bin == 3 { 100 } else { 10 });
        scale.choose(0.9, 0.8, true);
        assert_eq!(scale.closed(), Closed::default());
        scale.choose(0.9, 0.1, true);
        assert_eq!(scale.closed().to_all, 8);
    }

    proptest! {
        #[test]
        fn a07_a_mark_lets_in_the_share_that_it_was_made_for(
            frames in proptest::collection::vec(0..5000_u64, BINS_USIZE),
            share in 0.0..1.0_f64,
            open in 0.0..1.0_f64,
        ) {
            let mut scale = measured(|bin| frames[bin]);
            scale.choose(open, share, true);
            let mark = scale.mark(share);
            prop_assert!((0.0..=1.0).contains(&mark));
            let below = scale.below(mark);
            prop_assert!((below - share).abs() < 1e-9 || (mark >= 1.0 && below < share), "{below} instead of {share}");
        }
    }
}
