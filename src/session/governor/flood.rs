//! Floods of chosen flows against the real shed, meters and regulator, by a clock of the test's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::meters::{Governed, Shared};
use super::regulator::{Regulator, TICK, ticks_in};
use crate::flow::{FlowHash, Purpose};
use crate::ledger::{DropReason, Ledger};
use crate::select::shed::Shed;
use crate::wire::layers::Layers;

/// Turns of the worker in a tick of the governor.
const TURNS: u32 = 10;

/// One worker and its governor, with a limit of frames a second.
struct Mirror {
    limit: f64,
    shared: Arc<Shared>,
    governed: Governed,
    shed: Shed,
    regulator: Regulator,
    ledger: Ledger,
    told: super::meters::Measures,
    start: Instant,
    turn: u32,
    frame: Vec<u8>,
}

/// What was mirrored.
#[derive(Default)]
struct Seen {
    /// Frames in each second.
    a_second: Vec<u64>,
    /// The second in which each flow was seen last.
    last: BTreeMap<u64, usize>,
}

impl Mirror {
    fn new(limit: u64) -> Self {
        let (shared, start) = (Arc::new(Shared::new([Some(limit / 10), None, None])), Instant::now());
        let mut frame = Vec::new();
        let packet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 7], [192, 0, 2, 8], 64);
        packet.udp(40_000, 53).write(&mut frame, &[0; 60]).unwrap();
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        Self {
            limit: limit as f64,
            governed: Governed::new(Arc::clone(&shared), start),
            shared,
            shed: Shed::default(),
            regulator: Regulator::default(),
            ledger: Ledger::default(),
            told: super::meters::Measures::default(),
            start,
            turn: 0,
            frame,
        }
    }

    /// Mirrors so many seconds of flows that take turns at this rate.
    fn run(&mut self, seconds: u32, rate: u32, flows: &[u64]) -> Seen {
        let (layers, mut seen) = (Layers::parse(&self.frame), Seen::default());
        let mut flows = flows.iter().cycle();
        for turn in 0..seconds * 10 * TURNS {
            let now = self.start + TICK / TURNS * self.turn;
            self.turn += 1;
            self.governed.follow(now, &self.ledger, &mut self.shed);
            let second = (turn / (10 * TURNS)) as usize;
            seen.a_second.resize(second + 1, 0);
            // As many as make the rate whole over a second.
            let of_turn = |turn: u32| turn % (10 * TURNS) * rate / (10 * TURNS);
            let frames =
                if (turn + 1) % (10 * TURNS) == 0 { rate - of_turn(turn) } else { of_turn(turn + 1) - of_turn(turn) };
            for &flow in flows.by_ref().take(frames as usize) {
                self.ledger.captured += 1;
                if self.shed.admits(FlowHash(flow), (&self.frame, self.frame.len()), &layers) {
                    self.ledger.offered += 1;
                    seen.a_second[second] += 1;
                    seen.last.insert(flow, second);
                } else {
                    self.ledger.not_selected[DropReason::Shed] += 1;
                }
            }
            self.governed.tell(now + TICK / TURNS, false, &self.ledger, &mut self.shed);
            if self.turn.is_multiple_of(TURNS) {
                self.look();
            }
        }
        seen
    }

    /// As the governor does once a tick.
    fn look(&mut self) {
        let own = self.shared.meters.read();
        let since = own.since(std::mem::replace(&mut self.told, own));
        self.regulator.scale.note(&self.shared.loads.take(), false, ticks_in(TICK));
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let used = since.frames as f64 / (self.limit * TICK.as_secs_f64());
        let window = self.regulator.step(used, since.kept(), self.shared.take_braked(), TICK);
        self.shared.admission.set(window);
    }
}

/// Hashes as those of flows are: any.
fn flows(seed: u64, count: u64) -> Vec<u64> {
    let mix = |number: u64| {
        let word = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        word ^ word >> 33
    };
    (1..=count).map(|number| mix(seed << 32 | number)).collect()
}

fn place(flow: u64) -> u32 {
    FlowHash(flow).decision(Purpose::Shed) >> 16
}

/// Ten parts of `flood` and one of 400 honest flows.
fn mixed(flood: &[u64], honest: &[u64]) -> Vec<u64> {
    let (mut flood, mut honest) = (flood.iter().cycle(), honest.iter().cycle());
    let round = |_| flood.by_ref().take(10).chain(honest.by_ref().take(1)).copied().collect::<Vec<_>>();
    (0..60_000).flat_map(round).collect()
}

/// Under 3,300 frames a second for 16 seconds where 300 are allowed: the most in a second after the second one, and how many
/// of the honest flows are seen in the last four.
fn flooded(flood: &[u64]) -> (u64, usize) {
    let honest = flows(77, 400);
    let seen = Mirror::new(300).run(16, 3300, &mixed(flood, &honest));
    let late = honest.iter().filter(|flow| seen.last.get(flow).is_some_and(|&second| second >= 12)).count();
    eprintln!("{:?} honest {late}", seen.a_second);
    (seen.a_second[2..].iter().copied().max().unwrap_or(0), late)
}

/// The experiment of A7: learn which flows a mirror keeps, then send those.
#[test]
fn a07_flows_that_were_learnt_neither_break_the_limit_nor_blind_the_mirror() {
    let learning = flows(1, 4000);
    let seen = Mirror::new(200).run(14, 4000, &learning);
    let learnt: Vec<u64> =
        learning.iter().copied().filter(|flow| seen.last.get(flow).is_some_and(|&second| second >= 12)).collect();
    assert!((100..400).contains(&learnt.len()), "{}", learnt.len());
    let (rate, honest) = flooded(&learnt);
    let (_, beside_random) = flooded(&flows(2, learnt.len() as u64));
    assert!(rate <= 450, "{rate} frames a second, where 300 are allowed");
    assert!(2 * honest >= beside_random, "{honest} of 400 honest flows, {beside_random} beside a random flood");
}

/// Whatever part of the scale the flood has chosen.
#[test]
fn a07_no_choice_of_flows_breaks_the_limit_or_blinds_the_mirror() {
    let all = flows(3, 400_000);
    for count in [40, 212, 2000] {
        let (_, beside_random) = flooded(&flows(2, count));
        for below in [64, 512, 2000, 4000, 8000, 16_000, 32_000, 48_000] {
            let chosen: Vec<u64> =
                all.iter().copied().filter(|&flow| place(flow) < below).take(usize::try_from(count).unwrap()).collect();
            let (rate, honest) = flooded(&chosen);
            assert!(rate <= 450, "{rate} frames a second of {count} flows below {below}");
            assert!(
                2 * honest >= beside_random,
                "{honest} honest flows beside {count} below {below}, {beside_random} beside a random flood"
            );
        }
    }
}

/// Flows that are known to be kept begin while the mirror is quiet, and again after a pause.
#[test]
fn a07_a_flood_that_comes_and_goes_is_met_each_time() {
    let honest = flows(77, 400);
    let chosen: Vec<u64> = flows(3, 400_000).into_iter().filter(|&flow| place(flow) < 3000).take(200).collect();
    let (mut mirror, flood) = (Mirror::new(300), mixed(&chosen, &honest));
    for _ in 0..4 {
        mirror.run(5, 200, &honest);
        let seen = mirror.run(6, 3300, &flood);
        assert!(seen.a_second[2..].iter().all(|&rate| rate <= 450), "{:?}", seen.a_second);
    }
}

/// Frames that a limit treats with care are no way around it.
#[test]
fn a07_a_flood_of_control_frames_keeps_to_the_limit_too() {
    let mut mirror = Mirror::new(300);
    mirror.frame = [&[2; 12][..], &[8, 6], &[0; 46]].concat();
    let seen = mirror.run(8, 3300, &flows(5, 3000));
    assert!(seen.a_second[2..].iter().all(|&rate| (100..=450).contains(&rate)), "{:?}", seen.a_second);
}

/// One flow that is large, among many that are not: whoever is large is no reason to lose the others.
#[test]
fn a07_one_large_flow_costs_the_others_nothing() {
    let honest = flows(77, 400);
    let (mut mirror, small) = (Mirror::new(1000), honest.len());
    let mut all: Vec<u64> = honest.iter().flat_map(|&flow| [flow, 0x1234_5678]).collect();
    all.rotate_left(1);
    let seen = mirror.run(20, 1600, &all);
    let late = honest.iter().filter(|flow| seen.last.get(flow).is_some_and(|&second| second >= 18)).count();
    assert!(late > small / 2, "{late} of {small}: {:?}", seen.a_second);
}
