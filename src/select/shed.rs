//! Shedding: when there is more than a limit allows, some flows are left out, whole, and the others stay whole.
//!
//! A flow's hash gives it a place on a scale of 65,536 buckets. Three marks on that scale, which the governor sets, say
//! what becomes of its frames:
//!
//! ```text
//!   0            settled              open           established            65,536
//!   ├───────────────┼───────────────────┼──────────────────┼──────────────────┤
//!     every frame      flows that were      flows that were    no frame
//!                      admitted, and new    admitted
//! ```
//!
//! To let in less, the governor moves `open` down at once, which cuts no conversation short, and `established` only as far
//! as it must. To let in more, it moves `open` up: a conversation that was left out so far stays out until it ends, because
//! an analyzer can do nothing with its second half. What has been open for long is `settled`: there every frame goes on, so
//! that a connection that lasts for months is not missing for months.
//!
//! The marks only ever move along the scale, so windows are nested: of two that are equally wide, neither has a flow that
//! the other has not. Both directions, all fragments between two addresses and all workers agree.
//!
//! The scale also has 128 bins of 512 buckets each. What comes in each is counted, because the load need not be even, and
//! the governor closes bins that carry far more than their part ([`Closed`]): to new flows, or to all.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::flow::{FlowHash, Purpose};
use crate::wire::layers::{Fragment, Layers, TCP};

/// Places on the scale.
pub const BUCKETS: u32 = 1 << 16;
/// How long a bucket must have been silent for a packet in it to be a new flow, when it is none of TCP: in seconds.
const SILENCE: u8 = 10;

/// Parts of the scale whose load is measured, and which can be closed.
pub const BINS: u32 = 128;
/// The same, as a length.
pub const BINS_USIZE: usize = BINS as usize;
/// Buckets of a bin.
const BIN: u32 = BUCKETS / BINS;

/// What came in one bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Frames, where each 2 KiB of one count: a super-frame becomes as many.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What came in each bin, admitted or not, and, last, all control frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loads(pub [Load; BINS_USIZE + 1]);

impl Default for Loads {
    fn default() -> Self {
        Self([Load::default(); BINS_USIZE + 1])
    }
}

/// Bins, a bit each, that are not open as far as the marks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// No new flow is admitted there.
    pub to_new: u128,
    /// No frame is. All of them are closed to new flows too.
    pub to_all: u128,
    /// They are open, but were closed lately: what is under way is not settled, whatever the mark says.
    pub unsettled: u128,
}

/// The three marks. `settled` ≤ `open` ≤ `established` ≤ [`BUCKETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Below, every frame is admitted.
    pub settled: u32,
    /// Below, new flows are.
    pub open: u32,
    /// Below, flows are that were admitted before.
    pub established: u32,
    /// Below, established flows are for now: what lies beyond is not cut short, but waits for a decision about that.
    pub gate: u32,
    /// Whether control frames are, wherever they are on the scale: ARP, LACP, STP, LLDP and whatever else is neither IP nor
    /// carries other traffic. If not, they are treated as all others.
    pub control_frames: bool,
    /// Whether frames are to be taken in larger portions, because it is CPU time that is short: to be woken costs some.
    pub in_portions: bool,
    /// What is closed whatever the marks say.
    pub closed: Closed,
}

impl Window {
    /// Everything.
    pub const FULL: Self = Self {
        settled: BUCKETS,
        open: BUCKETS,
        established: BUCKETS,
        gate: BUCKETS,
        control_frames: true,
        in_portions: false,
        closed: Closed { to_new: 0, to_all: 0, unsettled: 0 },
    };

    /// The marks in one bin.
    fn marks(&self, bin: u32) -> Marks {
        let Self { settled, open, established, closed: Closed { to_new, to_all, unsettled }, .. } = *self;
        let is_in = |bins: u128| bins >> bin & 1 == 1;
        if is_in(to_all) {
            Marks { settled: 0, open: 0, established: 0 }
        } else if is_in(to_new) {
            Marks { settled: 0, open: 0, established }
        } else {
            Marks { settled: if is_in(unsettled) { 0 } else { settled }, open, established }
        }
    }

    /// The part of new flows that is admitted, 0 to 1.
    pub fn admitted(&self) -> f64 {
        let places: u32 = (0..BINS).map(|bin| self.marks(bin).open.saturating_sub(bin * BIN).min(BIN)).sum();
        f64::from(places) / f64::from(BUCKETS)
    }

    /// In one word but for the gate and what is closed, with a number that tells one edition from the next.
    fn packed(self, edition: u8) -> u64 {
        let [control_frames, in_portions] = [self.control_frames, self.in_portions].map(u32::from);
        let parts = [self.settled, self.open, self.established, control_frames, in_portions, u32::from(edition)];
        parts.into_iter().zip([0, 17, 34, 51, 52, 53]).fold(0, |word, (mark, at)| word | u64::from(mark) << at)
    }

    fn unpacked(word: u64, gate: u32, closed: Closed) -> Self {
        let mark = |at: u32| u32::try_from(word >> at & 0x1_ffff).unwrap_or(BUCKETS);
        let switch = |at: u32| word >> at & 1 == 1;
        Self {
            settled: mark(0),
            open: mark(17),
            established: mark(34),
            gate,
            control_frames: switch(51),
            in_portions: switch(52),
            closed,
        }
    }
}

/// The marks in one bin, on the whole scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    settled: u32,
    open: u32,
    established: u32,
}

/// The window as the control plane sets it and workers read it, once a turn.
#[derive(Debug)]
pub struct Admission {
    /// The window but for what is closed, with its edition: written last.
    word: AtomicU64,
    /// The sets of what is closed, in two halves each. Bins are independent: a reader between two editions takes some bins
    /// from the one and some from the other, until its next turn.
    closed: [AtomicU64; 6],
    gate: AtomicU32,
}

impl Default for Admission {
    /// Everything is admitted.
    fn default() -> Self {
        Self { word: AtomicU64::new(Window::FULL.packed(0)), closed: Default::default(), gate: AtomicU32::new(BUCKETS) }
    }
}

impl Admission {
    /// Sets the window. Whoever reads it knows that it was set, even to what it was.
    pub fn set(&self, window: Window) {
        let edition = u8::try_from(self.word.load(Ordering::Relaxed) >> 53 & 0xff).unwrap_or(0).wrapping_add(1);
        let Closed { to_new, to_all, unsettled } = window.closed;
        let halves = [to_new, to_all, unsettled].into_iter().flat_map(halves);
        self.closed.iter().zip(halves).for_each(|(word, half)| word.store(half, Ordering::Relaxed));
        self.gate.store(window.gate, Ordering::Relaxed);
        // Whoever reads this edition also sees what is closed in it: pairs with `Acquire` in `word`.
        self.word.store(window.packed(edition), Ordering::Release);
    }

    /// What was set last, with its edition.
    fn word(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    fn closed(&self) -> Closed {
        let half = |at: usize| u128::from(self.closed[at].load(Ordering::Relaxed));
        let [to_new, to_all, unsettled] = [0, 2, 4].map(|at| half(at) | half(at + 1) << 64);
        Closed { to_new, to_all, unsettled }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "halves are meant")]
fn halves(set: u128) -> [u64; 2] {
    [set as u64, (set >> 64) as u64]
}

/// One worker's memory of which flows it admitted.
#[derive(Debug)]
pub struct Shed {
    window: Window,
    /// The word that `window` was read from.
    word: u64,
    /// Of each bucket: whether it is admitted, and in the low 7 bits the second in which it was last seen. Only what lies
    /// between `settled` and `established` is kept up to date.
    buckets: Box<[Bucket]>,
    /// What `window` means in each bin.
    marks: [Marks; BINS_USIZE],
    /// What came in each since it was taken last.
    loads: Box<Loads>,
    /// The second that it is now, modulo 128.
    second: u8,
}

/// Whether a bucket is admitted (the top bit), and when it was last seen, in seconds modulo 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket(u8);

impl Bucket {
    const ADMITTED: u8 = 0x80;
    const SECOND: u8 = 0x7f;

    const fn new(is_admitted: bool, second: u8) -> Self {
        Self(if is_admitted { Self::ADMITTED } else { 0 } | second & Self::SECOND)
    }

    const fn is_admitted(self) -> bool {
        self.0 & Self::ADMITTED != 0
    }

    /// Whether it has been silent. After two minutes of silence it may look as if it had not, for a while: then a flow is
    /// taken for the one before it.
    const fn is_silent(self, second: u8) -> bool {
        second.wrapping_sub(self.0) & Self::SECOND >= SILENCE
    }
}

/// What a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The first packet of a TCP connection: SYN without ACK.
    Opening,
    /// Another packet of TCP.
    Connection,
    /// Anything without a beginning that shows.
    Other,
    /// What keeps the network itself together.
    Control,
}

impl Default for Shed {
    fn default() -> Self {
        let buckets = vec![Bucket::new(true, 0); BUCKETS as usize].into_boxed_slice();
        let (window, loads) = (Window::FULL, Box::default());
        Self { window, word: window.packed(0), buckets, marks: [window.marks(0); BINS_USIZE], loads, second: 0 }
    }
}

impl Shed {
    /// Takes over what the governor has set: for once a turn. `second` is any clock's, as long as it goes on evenly. Says
    /// whether anything was set since the last turn.
    pub fn follow(&mut self, admission: &Admission, second: u64) -> bool {
        self.second = u8::try_from(second & u64::from(Bucket::SECOND)).unwrap_or(0);
        let word = admission.word();
        let is_new = word != self.word;
        if is_new {
            self.word = word;
            self.move_to(Window::unpacked(word, admission.gate.load(Ordering::Relaxed), admission.closed()));
        }
        is_new
    }

    /// The window now.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Narrows the window by itself, until the governor sets another: what is open ends at `open` at most, and what is
    /// established at `established`. Whether established flows are cut short for good, the governor decides.
    pub fn narrow(&mut self, open: u32, established: u32) {
        let window = self.window;
        let gate = window.gate.min(established);
        let open = window.open.min(open).min(gate);
        self.move_to(Window { settled: window.settled.min(open), open, gate, ..window });
    }

    fn move_to(&mut self, window: Window) {
        self.window = window;
        for bin in 0..BINS {
            let Some(marks) = self.marks.get_mut(bin as usize) else { continue };
            let after = window.marks(bin);
            let before = std::mem::replace(marks, after);
            if before != after {
                let (start, end) = (bin * BIN, (bin + 1) * BIN);
                // What leaves the settled part was admitted until now; what is beyond all marks is not admitted.
                self.fill(after.settled.max(start)..before.settled.min(end), true);
                self.fill(after.established.max(start)..end, false);
            }
        }
    }

    /// What came in each bin since this was asked last.
    pub fn take_loads(&mut self) -> Loads {
        std::mem::take(&mut *self.loads)
    }

    fn fill(&mut self, buckets: Range<u32>, is_admitted: bool) {
        let buckets = buckets.start as usize..buckets.end as usize;
        if let Some(buckets) = self.buckets.get_mut(buckets) {
            buckets.fill(Bucket::new(is_admitted, self.second));
        }
    }

    /// Whether a frame of this flow is admitted. Asked once for each frame, in the order of capture.
    pub fn admits(&mut self, flow: FlowHash, (frame, length): (&[u8], usize), layers: &Layers) -> bool {
        let place = flow.decision(Purpose::Shed) >> 16;
        let bin = (place / BIN) as usize;
        let kind = kind(frame, layers);
        if kind == Kind::Control {
            self.note(BINS_USIZE, length);
            if self.window.control_frames {
                return true;
            }
        }
        self.note(bin, length);
        let Some(&marks) = self.marks.get(bin) else { return false };
        if place < marks.settled {
            return true;
        }
        place < marks.established && self.admits_at(place, marks.open, kind) && place < self.window.gate
    }

    fn note(&mut self, bin: usize, length: usize) {
        if let Some(load) = self.loads.0.get_mut(bin) {
            let bytes = length as u64;
            load.frames += 1 + (bytes >> 11);
            load.bytes += bytes;
        }
    }

    /// Whether it is admitted between `settled` and `established`, where memory decides.
    fn admits_at(&mut self, place: u32, open: u32, kind: Kind) -> bool {
        let Some(bucket) = self.buckets.get_mut(place as usize) else { return false };
        let is_new = match kind {
            Kind::Opening => true,
            Kind::Connection => false,
            Kind::Other | Kind::Control => bucket.is_silent(self.second),
        };
        let is_admitted = if is_new { place < open } else { bucket.is_admitted() };
        *bucket = Bucket::new(is_admitted, self.second);
        is_admitted
    }
}

fn kind(frame: &[u8], layers: &Layers) -> Kind {
    const FLAGS: usize = 13;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    let Some(ip) = &layers.ip else {
        return if carries_traffic(layers.ethertype) { Kind::Other } else { Kind::Control };
    };
    if ip.protocol != TCP || ip.fragment != Fragment::Whole {
        return Kind::Other;
    }
    match frame.get(ip.transport + FLAGS) {
        Some(flags) if flags & (SYN | ACK) == SYN => Kind::Opening,
        _ => Kind::Connection,
    }
}

/// Whether frames of this `EtherType` carry other traffic (IEEE's public list of `EtherTypes`): broken IP, MPLS, `PPPoE`
/// sessions, frames in frames, storage.
const fn carries_traffic(ethertype: u16) -> bool {
    matches!(
        ethertype,
        0x0800 | 0x86dd | 0x8847 | 0x8848 | 0x8864 | 0x88e7 | 0x6558 | 0x22f3 | 0x894f | 0x8906 | 0x8915 | 0x88a2
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hash whose place is `place`: found by trying, because mixing has no simple way back.
    fn at(place: u32) -> FlowHash {
        (0..1 << 22).map(FlowHash).find(|flow| flow.decision(Purpose::Shed) >> 16 == place).unwrap()
    }

    /// TCP with these flags.
    fn tcp(flags: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        let packet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 7], [192, 0, 2, 8], 64);
        packet.tcp(40_000, 80, 1, 1000).write(&mut frame, &[]).unwrap();
        frame[14 + 20 + 13] = flags;
        frame
    }

    fn udp() -> Vec<u8> {
        let mut frame = Vec::new();
        let packet = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 7], [192, 0, 2, 8], 64);
        packet.udp(40_000, 53).write(&mut frame, &[]).unwrap();
        frame
    }

    const SYN: u8 = 2;
    const ACK: u8 = 16;

    struct Tried {
        shed: Shed,
        admission: Admission,
        second: u64,
    }

    impl Tried {
        fn new() -> Self {
            Self { shed: Shed::default(), admission: Admission::default(), second: 0 }
        }

        fn set(&mut self, settled: u32, open: u32, established: u32) {
            self.admission.set(Window { settled, open, established, ..Window::FULL });
            assert!(self.shed.follow(&self.admission, self.second));
        }

        fn wait(&mut self, seconds: u64) {
            self.second += seconds;
            self.shed.follow(&self.admission, self.second);
        }

        fn admits(&mut self, place: u32, frame: &[u8]) -> bool {
            self.shed.admits(at(place), (frame, frame.len()), &Layers::parse(frame))
        }
    }

    #[test]
    fn an_admitted_conversation_stays_while_new_ones_are_refused() {
        let mut tried = Tried::new();
        assert!(tried.admits(500, &tcp(SYN)));
        tried.set(100, 100, BUCKETS);
        assert!(tried.admits(500, &tcp(ACK)), "it was there before");
        assert!(!tried.admits(501, &tcp(SYN)) && !tried.admits(501, &tcp(ACK)), "a new one, and all of it");
        assert!(tried.admits(99, &tcp(SYN)) && tried.admits(99, &udp()));
        tried.set(100, 100, 400);
        assert!(!tried.admits(500, &tcp(ACK)), "now it must go too");
    }

    #[test]
    fn a_conversation_that_was_left_out_stays_out_until_the_next_one() {
        let mut tried = Tried::new();
        tried.set(100, 100, 100);
        assert!(!tried.admits(500, &tcp(SYN)));
        tried.set(100, 1000, 1000);
        assert!(!tried.admits(500, &tcp(ACK)), "its beginning is missing");
        assert!(tried.admits(500, &tcp(SYN)) && tried.admits(500, &tcp(ACK)));
        tried.set(1000, 1000, 1000);
        assert!(tried.admits(501, &tcp(ACK)), "after so long everything goes on");
    }

    #[test]
    fn what_has_no_beginning_is_new_after_a_silence() {
        let mut tried = Tried::new();
        tried.set(0, 0, 0);
        assert!(!tried.admits(500, &udp()));
        tried.set(0, 1000, 1000);
        for _ in 0..30 {
            tried.wait(1);
            assert!(!tried.admits(500, &udp()), "it goes on without a pause");
        }
        tried.wait(u64::from(SILENCE));
        assert!(tried.admits(500, &udp()) && tried.admits(500, &udp()));
        tried.set(0, 100, 1000);
        tried.wait(5);
        assert!(tried.admits(500, &udp()), "it is under way");
        tried.wait(u64::from(SILENCE));
        assert!(!tried.admits(500, &udp()), "that would be a new one");
    }

    #[test]
    fn control_frames_go_last() {
        let frame = |ethertype: [u8; 2]| [&[2; 12][..], &ethertype, &[0; 46]].concat();
        let mut tried = Tried::new();
        tried.set(0, 0, 0);
        // ARP, LLDP, LACP, spanning tree (a length); MPLS and PPPoE carry traffic.
        for kind in [[0x08, 0x06], [0x88, 0xcc], [0x88, 0x09], [0, 38]] {
            assert!(tried.admits(500, &frame(kind)), "{kind:x?}");
        }
        for kind in [[0x88, 0x47], [0x88, 0x64]] {
            assert!(!tried.admits(500, &frame(kind)), "{kind:x?}");
        }
        tried.admission.set(Window { settled: 0, open: 0, established: 0, control_frames: false, ..Window::FULL });
        tried.wait(0);
        assert!(!tried.admits(500, &frame([0x08, 0x06])));
    }

    #[test]
    fn a07_a_bin_that_is_closed_lets_nothing_new_in_and_is_not_settled_when_it_opens() {
        let mut tried = Tried::new();
        let set = |tried: &mut Tried, to_new, to_all, unsettled| {
            tried.admission.set(Window { closed: Closed { to_new, to_all, unsettled }, ..Window::FULL });
            tried.wait(0);
        };
        let second_bin = 2;
        set(&mut tried, second_bin, 0, 0);
        assert!(tried.admits(600, &tcp(ACK)), "it was under way");
        assert!(!tried.admits(601, &tcp(SYN)) && !tried.admits(601, &tcp(ACK)));
        assert!(tried.admits(500, &tcp(SYN)) && tried.admits(1024, &tcp(SYN)), "its neighbours are open");
        set(&mut tried, second_bin, second_bin, 0);
        assert!(!tried.admits(600, &tcp(ACK)));
        set(&mut tried, 0, 0, second_bin);
        assert!(!tried.admits(600, &tcp(ACK)), "it was left out and has no beginning");
        assert!(tried.admits(600, &tcp(SYN)));
        set(&mut tried, 0, 0, 0);
        assert!(tried.admits(601, &tcp(ACK)), "after so long everything goes on");
    }

    #[test]
    fn what_comes_is_counted_by_bin_admitted_or_not() {
        let mut tried = Tried::new();
        tried.set(0, 0, 0);
        let frame = udp();
        (0..3).for_each(|_| assert!(!tried.admits(600, &frame)));
        let arp = [&[2; 12][..], &[8, 6], &[0; 46]].concat();
        assert!(tried.admits(600, &arp));
        let loads = tried.shed.take_loads();
        assert_eq!(loads.0[1], Load { frames: 3, bytes: 3 * frame.len() as u64 });
        assert_eq!(loads.0[BINS_USIZE], Load { frames: 1, bytes: 60 });
        assert_eq!(tried.shed.take_loads(), Loads::default());
    }

    /// Frames of some places and windows that move, in any order.
    #[derive(Clone, Debug)]
    enum Event {
        Marks([u32; 3]),
        Narrow(u32, u32),
        Frame(u32, u8),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let marks = any::<[u16; 3]>().prop_map(|marks| {
            let mut marks = marks.map(u32::from);
            marks.sort_unstable();
            Event::Marks(marks)
        });
        let frames = (0..8_u32, proptest::sample::select(vec![SYN, ACK]));
        let frames = frames.prop_map(|(place, flags)| Event::Frame(place * 8191, flags));
        let narrow = any::<[u16; 2]>().prop_map(|[open, established]| Event::Narrow(open.into(), established.into()));
        proptest::collection::vec(prop_oneof![1 => marks, 1 => narrow, 6 => frames], 0..200)
    }

    proptest! {
        /// Whatever the window does: a conversation that began within it is whole as long as it stays below `established`,
        /// and one that was refused stays refused until it is opened anew or settled.
        #[test]
        fn no_conversation_is_admitted_in_its_middle(events in events()) {
            let flows: Vec<FlowHash> = (0..8).map(|place| at(place * 8191)).collect();
            let (mut shed, admission) = (Shed::default(), Admission::default());
            // The slow twin: of each conversation, whether it is admitted.
            let mut admitted = [true; 8];
            for event in events {
                match event {
                    Event::Marks([settled, open, established]) => {
                        admission.set(Window { settled, open, established, ..Window::FULL });
                        prop_assert!(shed.follow(&admission, 0));
                    }
                    Event::Narrow(open, established) => shed.narrow(open, established),
                    Event::Frame(place, flags) => {
                        let number = (place / 8191) as usize;
                        let window = shed.window();
                        if flags == SYN {
                            admitted[number] = place < window.open;
                        }
                        let expected = place < window.settled || (admitted[number] && place < window.gate);
                        let frame = tcp(flags);
                        prop_assert_eq!(shed.admits(flows[number], (&frame, frame.len()), &Layers::parse(&frame)), expected);
                    }
                }
                // What a worker narrows cuts nobody short for good.
                let window = shed.window;
                for (number, admitted) in admitted.iter_mut().enumerate() {
                    let place = u32::try_from(number).unwrap() * 8191;
                    *admitted = (*admitted || place < window.settled) && place < window.established;
                }
            }
        }

        #[test]
        fn a_window_is_read_as_it_was_set(marks in any::<[u16; 3]>(), control_frames: bool, in_portions: bool, edition: u8) {
            let [settled, open, established] = marks.map(|mark| u32::from(mark) + 1);
            let closed = Closed { to_new: 5 << 100, to_all: 1 << 100, unsettled: 2 };
            let window = Window { settled, open, established, gate: open, control_frames, in_portions, closed };
            prop_assert_eq!(Window::unpacked(window.packed(edition), open, closed), window);
            let (admission, mut shed) = (Admission::default(), Shed::default());
            admission.set(window);
            prop_assert!(shed.follow(&admission, 0));
            prop_assert_eq!(shed.window(), window);
        }
    }
}
