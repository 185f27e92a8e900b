//! Which destinations get a frame: all of them, the one that its flow belongs to, or the first that is healthy.
//!
//! Flows are shared out by weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and Schomaker 2005):
//! each destination bids for each bucket of flows, and the highest bid has it. A destination that goes takes only its own
//! buckets away, and finds them again when it is back. Who is healthy changes seldom, so the bids are made then, and a frame costs
//! one look into a table.

use super::health::{Health, Healthy, MOST};
use crate::config::plan::{self, DestinationPlan};
use crate::flow::{FlowHash, Purpose};

/// Buckets of flows, a power of two: with three destinations their shares differ by about one in a hundred.
const BUCKETS_LOG2: u32 = 14;
const BUCKETS: usize = 1 << BUCKETS_LOG2;
/// A bucket that nobody healthy has bid for.
const NOBODY: u8 = u8::MAX;

/// Decides for one worker; all workers of a session decide alike.
#[derive(Clone, Debug)]
pub struct Spread {
    way: Way,
    health: Health,
    /// Whose health the decision rests on.
    seen: Healthy,
}

#[derive(Clone, Debug)]
enum Way {
    Replicate,
    Balance { bidders: Vec<Bidder>, table: Vec<u8> },
    Failover { destinations: usize, first: Choice },
}

/// Who gets a frame. Numbers count the destinations in the order of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All of them.
    Every,
    /// This one.
    One(usize),
    /// None is healthy.
    Nobody,
}

/// A destination as it bids for flows.
#[derive(Clone, Copy, Debug)]
struct Bidder {
    /// Its own for ever: of its name, so that neither its place in the file nor the others change it.
    seed: u64,
    weight: f64,
}

impl Spread {
    /// Every destination gets every frame, healthy or not.
    pub fn replicate() -> Self {
        let health = Health::new();
        Self { way: Way::Replicate, seen: health.now(), health }
    }

    /// As `spread` says, among those of `destinations` that are healthy.
    pub fn new(spread: plan::Spread, destinations: &[DestinationPlan], health: Health) -> Self {
        let way = match spread {
            plan::Spread::Replicate => Way::Replicate,
            plan::Spread::Balance => {
                Way::Balance { bidders: destinations.iter().map(Bidder::new).collect(), table: vec![NOBODY; BUCKETS] }
            }
            plan::Spread::Failover => Way::Failover { destinations: destinations.len(), first: Choice::Nobody },
        };
        let mut new = Self { way, seen: health.now(), health };
        new.decide();
        new
    }

    /// Takes note of who is healthy now: between turns.
    pub fn look(&mut self) {
        let now = self.health.now();
        if now != self.seen {
            self.seen = now;
            self.decide();
        }
    }

    /// Who gets a frame of `flow`.
    #[inline]
    pub fn of(&self, flow: FlowHash) -> Choice {
        match &self.way {
            Way::Replicate => Choice::Every,
            Way::Balance { table, .. } => match table.get(bucket(flow)) {
                None | Some(&NOBODY) => Choice::Nobody,
                Some(&number) => Choice::One(number.into()),
            },
            Way::Failover { first, .. } => *first,
        }
    }

    fn decide(&mut self) {
        let seen = self.seen;
        match &mut self.way {
            Way::Replicate => {}
            Way::Balance { bidders, table } => {
                let healthy = seen.usable(bidders.len());
                let bidding: Vec<(u8, Bidder)> = (0..).zip(bidders.iter().copied()).take(MOST).collect();
                for (bucket, owner) in table.iter_mut().enumerate() {
                    let bids = bidding.iter().filter(|&&(number, _)| healthy.contains(number.into()));
                    let highest = bids.map(|(number, bidder)| (bidder.bid(bucket), *number));
                    *owner =
                        highest.max_by(|one, other| one.0.total_cmp(&other.0)).map_or(NOBODY, |(_, number)| number);
                }
            }
            Way::Failover { destinations, first } => {
                let healthy = seen.usable(*destinations);
                let found = (0..*destinations).find(|&number| healthy.contains(number));
                *first = found.map_or(Choice::Nobody, Choice::One);
            }
        }
    }
}

impl Bidder {
    fn new(plan: &DestinationPlan) -> Self {
        // FNV-1a (Fowler, Noll, Vo), stable for ever and on every machine.
        let seed = plan
            .name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self { seed, weight: plan.weight.value().into() }
    }

    /// The weight over a random number with an exponential distribution: the highest of several is each one's with the
    /// probability of its weight's share.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn bid(&self, bucket: usize) -> f64 {
        let word = mix(self.seed ^ (bucket as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let uniform = ((word >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        self.weight / -uniform.ln()
    }
}

/// Other bits of the hash than those that choose a tunnel's source port: else each analyzer would see some ports only.
fn bucket(flow: FlowHash) -> usize {
    (flow.decision(Purpose::Balance) >> (u32::BITS - BUCKETS_LOG2)) as usize
}

/// The finaliser of `MurmurHash3` (Appleby).
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::local_end::CaptureFilePlan;
    use crate::config::plan::{End, FilePath};
    use crate::destination::health::Complaint;
    use crate::quantity::Weight;

    fn destinations(weights: &[u16]) -> Vec<DestinationPlan> {
        let one = |(number, &weight): (usize, &u16)| DestinationPlan {
            name: format!("ids{number}"),
            to: "pcap:-".into(),
            weight: Weight::new(weight.into()).unwrap(),
            end: End::File(CaptureFilePlan::plain(FilePath::Standard)),
        };
        weights.iter().enumerate().map(one).collect()
    }

    /// Hashes as those of flows are: any.
    fn flows() -> impl Iterator<Item = FlowHash> {
        (0..10_000_u64).map(|number| FlowHash(mix(number + 1)))
    }

    fn shares(spread: &Spread, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for flow in flows() {
            if let Choice::One(number) = spread.of(flow) {
                shares[number] += 1;
            }
        }
        shares
    }

    #[test]
    fn three_analyzers_get_a_third_each_and_a_heavier_one_more() {
        let spread = Spread::new(plan::Spread::Balance, &destinations(&[1, 1, 1]), Health::new());
        let equal = shares(&spread, 3);
        assert!(equal.iter().all(|&share| (3167..=3500).contains(&share)), "{equal:?}");
        let spread = Spread::new(plan::Spread::Balance, &destinations(&[1, 2, 5]), Health::new());
        let weighted = shares(&spread, 3);
        for (share, expected) in weighted.iter().zip([1250, 2500, 6250]) {
            assert!(share.abs_diff(expected) < expected / 10, "{weighted:?}");
        }
    }

    proptest! {
        /// Who goes takes only its own flows along, and finds exactly those again.
        #[test]
        fn only_the_flows_of_who_goes_move(weights in proptest::collection::vec(1..50_u16, 2..8), gone in 0..8_usize) {
            let gone = gone % weights.len();
            let health = Health::new();
            let mut spread = Spread::new(plan::Spread::Balance, &destinations(&weights), health.clone());
            let before: Vec<Choice> = flows().take(1000).map(|flow| spread.of(flow)).collect();
            health.set(gone, Some(Complaint::NextHop));
            spread.look();
            for (flow, was) in flows().zip(&before) {
                let is = spread.of(flow);
                prop_assert!(is != Choice::One(gone) && is != Choice::Nobody);
                prop_assert!(*was == Choice::One(gone) || is == *was);
            }
            health.set(gone, None);
            spread.look();
            let after: Vec<Choice> = flows().take(1000).map(|flow| spread.of(flow)).collect();
            prop_assert_eq!(before, after);
        }

        /// A destination that is added takes flows from everybody, and no flow moves between the others.
        #[test]
        fn who_comes_takes_flows_and_moves_no_others(count in 1..8_usize) {
            let weights = vec![1; count + 1];
            let many = destinations(&weights);
            let few = Spread::new(plan::Spread::Balance, &many[..count], Health::new());
            let more = Spread::new(plan::Spread::Balance, &many, Health::new());
            for flow in flows().take(1000) {
                prop_assert!(more.of(flow) == Choice::One(count) || more.of(flow) == few.of(flow));
            }
        }
    }

    #[test]
    fn failover_takes_the_first_that_is_healthy() {
        let health = Health::new();
        let mut spread = Spread::new(plan::Spread::Failover, &destinations(&[1, 1]), health.clone());
        let flow = FlowHash(7);
        assert_eq!(spread.of(flow), Choice::One(0));
        for (number, is_healthy, chosen) in [
            (0, false, Choice::One(1)),
            (1, false, Choice::Nobody),
            (0, true, Choice::One(0)),
            (1, true, Choice::One(0)),
        ] {
            health.set(number, (!is_healthy).then_some(Complaint::NextHop));
            spread.look();
            assert_eq!(spread.of(flow), chosen);
        }
    }

    #[test]
    fn nobody_healthy_means_nobody_and_everybody_means_all() {
        let health = Health::new();
        health.set(0, Some(Complaint::NextHop));
        let balance = Spread::new(plan::Spread::Balance, &destinations(&[1]), health.clone());
        let replicate = Spread::new(plan::Spread::Replicate, &destinations(&[1]), health);
        assert_eq!((balance.of(FlowHash(1)), replicate.of(FlowHash(1))), (Choice::Nobody, Choice::Every));
    }

    /// Source ports are chosen by the highest bits of the same hash: each analyzer must see all of them.
    #[test]
    fn each_analyzer_sees_every_source_port() {
        let spread = Spread::new(plan::Spread::Balance, &destinations(&[1, 1, 1]), Health::new());
        let mut seen = [[false; 64]; 3];
        for flow in flows() {
            if let Choice::One(number) = spread.of(flow) {
                seen[number][flow.bucket(64) as usize] = true;
            }
        }
        assert!(seen.iter().flatten().all(|&seen| seen));
    }
}
