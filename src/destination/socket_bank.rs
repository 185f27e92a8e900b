//! The socket engine: every datagram leaves through its bucket's socket, and every error finds its datagram.
//!
//! The difficulty is whose error it is. A socket returns the *pending* error of an earlier datagram (an ICMP report)
//! instead of sending the next one, and a short sendmmsg return does not say why. So after an error the socket's error
//! queue is emptied and the same datagram is sent again; only an error that stays belongs to the datagram.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use super::Patience;
use super::batch::{Batch, Datagram};
use super::runs::{self, Runs};
use super::transmit::{Transmit, count_dropped, count_sent};
use crate::config::defaults::REPLAY_PATIENCE;
use crate::frame::WireFrame;
use crate::kernel::error_queue::Report;
use crate::kernel::underlay::Underlay;
use crate::ledger::{DestinationLedger, DropReason, IcmpReports};
use crate::quantity::Mtu;
use crate::sys::mmsg;

/// How often a datagram is sent again after an error that may be another datagram's.
const RETRIES: u32 = 4;
/// Datagrams of a bucket that are looked at together for runs of them: several of the longest, so that one that ends here
/// is seldom shorter than it could be.
const WINDOW: usize = 256;
/// Longest single wait for room: so soon a replay notices that its session is to end.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// One datagram socket to the analyzer, as the kernel behaves behind it.
pub(super) trait DatagramSocket: Send + fmt::Debug {
    /// Sends runs of datagrams in order and returns how many runs were taken, or why the first one was not. Never
    /// blocks. What a run of several may be: [`mmsg::send_each`].
    fn send(&mut self, runs: &[&[IoSlice<'_>]]) -> io::Result<usize>;

    /// Empties the error queue.
    fn reports(&mut self, each: &mut dyn FnMut(Report));

    /// Has the kernel ignore what it learnt of the path MTU, from ICMP as anybody can send it, on this socket; says whether
    /// it did not before.
    fn ignore_learnt_mtu(&mut self) -> bool;

    /// Waits for room in the socket or, when `device` is what is busy, a moment; returns how long that took.
    fn wait(&mut self, device: bool, at_most: Duration) -> Duration;
}

/// A bank of sockets to one analyzer: bucket n leaves through socket n.
#[derive(Debug)]
pub(super) struct SocketBank<S> {
    batch: Batch,
    sockets: Vec<S>,
    runs: Runs,
    errors: Errors,
}

/// What one destination knows about its errors.
#[derive(Debug)]
struct Errors {
    underlay: Arc<Underlay>,
    /// Bytes of outer IP and UDP in front of each datagram.
    outer_len: usize,
    /// Whether a datagram may wait for room: no longer when one has waited in vain, until one is taken again, so that a
    /// dead destination does not stall the others for ever.
    may_wait: bool,
    write_failed: Option<io::Error>,
}

/// What one datagram or run has gone through.
#[derive(Debug, Default)]
struct Trouble {
    errors: u32,
    waited: Duration,
}

/// What is done about an error.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    SendAgain,
    Wait {
        device: bool,
        at_most: Duration,
    },
    Drop(DropReason),
    /// The run's datagrams are to be sent one by one, each for a fate of its own.
    SendSingly,
}

impl<S: DatagramSocket> SocketBank<S> {
    /// An engine over `sockets`, one a bucket. The kernel puts `outer_len` bytes of IP and UDP in front of a datagram.
    pub(super) fn new(sockets: Vec<S>, runs: Runs, underlay: Arc<Underlay>, outer_len: usize) -> Self {
        Self {
            batch: Batch::new(),
            sockets,
            runs,
            errors: Errors { underlay, outer_len, may_wait: true, write_failed: None },
        }
    }
}

impl<S: DatagramSocket> Transmit for SocketBank<S> {
    fn push(&mut self, header_len: usize, frame: &WireFrame<'_>, bucket: u32, cut: bool) -> Option<&mut [u8]> {
        self.batch.push(header_len, frame, bucket, cut)
    }

    fn waiting(&self) -> usize {
        self.batch.len()
    }

    fn each_header(&mut self, each: &mut dyn FnMut(&mut [u8])) {
        self.batch.each_header(each);
    }

    fn send(&mut self, patience: Patience, account: &mut DestinationLedger) {
        let Self { batch, sockets, runs, errors } = self;
        batch.group_by_bucket();
        // One socket alone keeps all datagrams in one order; several promise it only for each flow.
        if sockets.len() > 1 && runs.longest() > 0 {
            batch.group_by_length();
        }
        for bucket in batch.datagrams().chunk_by(|one, next| one.bucket == next.bucket) {
            let socket = &mut sockets[bucket[0].bucket as usize];
            send_bucket(socket, batch, bucket, patience, (runs, errors), account);
        }
        batch.clear();
    }

    fn keep(&mut self, count: usize) -> usize {
        self.batch.truncate(count)
    }

    fn collect_reports(&mut self, account: &mut DestinationLedger) -> Option<io::Error> {
        for socket in &mut self.sockets {
            take_reports(socket, &self.errors.underlay, &mut account.icmp);
        }
        self.errors.write_failed.take()
    }
}

/// Sends the datagrams of one bucket through its socket.
fn send_bucket<S: DatagramSocket>(
    socket: &mut S,
    batch: &Batch,
    bucket: &[Datagram],
    patience: Patience,
    (runs, errors): (&mut Runs, &mut Errors),
    account: &mut DestinationLedger,
) {
    let mut rest = bucket;
    // How many of `rest` are sent one by one, because the run that they were was not taken.
    let mut alone = 0;
    let mut trouble = Trouble::default();
    while !rest.is_empty() {
        let mut slices = [IoSlice::new(&[]); WINDOW];
        let count = rest.len().min(if runs.longest() > 0 { WINDOW } else { mmsg::MOST });
        for (slice, datagram) in slices.iter_mut().zip(rest) {
            *slice = IoSlice::new(batch.bytes_of(datagram));
        }
        let mut messages: [&[IoSlice<'_>]; mmsg::MOST] = [&[]; mmsg::MOST];
        let count = runs::cut(&slices[..count], alone, runs.longest(), &mut messages);
        let messages = &messages[..count];
        let settled = match socket.send(messages).and_then(some) {
            Ok(taken) => {
                let gone = messages.iter().take(taken).map(|run| run.len()).sum();
                for datagram in rest.iter().take(gone) {
                    count_sent(account, errors.outer_len + datagram.len(), datagram.cut);
                }
                errors.may_wait = true;
                gone
            }
            Err(error) => {
                take_reports(socket, &errors.underlay, &mut account.icmp);
                let run = messages[0].len();
                let cannot_run = runs::is_refusal(&error);
                match errors.step(error, run, &mut trouble, patience) {
                    Step::SendAgain => 0,
                    Step::Wait { device, at_most } => {
                        trouble.waited += socket.wait(device, at_most);
                        0
                    }
                    Step::Drop(reason) => {
                        count_dropped(account, reason, run);
                        run
                    }
                    Step::SendSingly => {
                        if cannot_run {
                            runs.give_up();
                        }
                        trouble = Trouble::default();
                        alone = run;
                        0
                    }
                }
            }
        };
        if settled > 0 {
            trouble = Trouble::default();
            alone = alone.saturating_sub(settled);
            rest = &rest[settled..];
        }
    }
}

/// Taking none and reporting no error would be a kernel's fault; it counts as an error so that the loop ends.
fn some(taken: usize) -> io::Result<usize> {
    if taken == 0 { Err(ErrorKind::WriteZero.into()) } else { Ok(taken) }
}

impl Errors {
    /// What to do about `error`, which the kernel returned instead of sending a datagram or a run of that many.
    fn step(&mut self, error: io::Error, run: usize, trouble: &mut Trouble, patience: Patience) -> Step {
        let reason = reason_of(&error);
        // These two are never an earlier datagram's: the kernel says them about this one, now. Of a run they are true as a
        // whole: a queue holds it as one packet, and a socket takes whatever comes while it has any room.
        if matches!(reason, DropReason::DeviceBusy | DropReason::SocketFull) {
            let left = REPLAY_PATIENCE.saturating_sub(trouble.waited);
            if patience == Patience::Drop || !self.may_wait || !self.underlay.may_wait() {
                return Step::Drop(reason);
            }
            if left.is_zero() {
                self.may_wait = false;
                return Step::Drop(reason);
            }
            // A queue that counts bytes may never have room for a run.
            if run > 1 && !trouble.waited.is_zero() {
                return Step::SendSingly;
            }
            return Step::Wait { device: reason == DropReason::DeviceBusy, at_most: left.min(LONGEST_WAIT) };
        }
        trouble.errors += 1;
        if run > 1 && trouble.errors > 1 {
            return Step::SendSingly;
        }
        if trouble.errors <= RETRIES {
            return Step::SendAgain;
        }
        if reason == DropReason::WriteFailed {
            self.write_failed = Some(error);
        }
        Step::Drop(reason)
    }
}

/// Empties the error queue of `socket`: counts what came back, and learns the path MTU from it.
pub(super) fn take_reports(socket: &mut impl DatagramSocket, underlay: &Underlay, icmp: &mut IcmpReports) {
    let mut is_doubtful = false;
    let mut local = None;
    socket.reports(&mut |report| match report {
        Report::PortUnreachable => icmp.port_unreachable += 1,
        Report::HostUnreachable => {
            icmp.host_unreachable += 1;
            underlay.note_unreachable();
        }
        Report::Other => icmp.other += 1,
        Report::TooBig(mtu) => {
            icmp.too_big += 1;
            is_doubtful |= mtu.is_some_and(|mtu| underlay.believed(mtu) != mtu);
            learn(underlay, mtu.map(|mtu| underlay.believed(mtu)));
        }
        Report::LocalTooBig(mtu) => local = mtu.or(local),
    });
    // The kernel's own word is as good as the report that it has it from, unless it ignores those: then it is the
    // interface that takes no more.
    is_doubtful |= underlay.has_pinned_mtu() || local.is_some_and(|mtu| underlay.believed(mtu) != mtu);
    if !(is_doubtful && socket.ignore_learnt_mtu()) {
        learn(underlay, local);
    }
}

/// Reports only ever lower the path MTU; that a path has become wider is for the kernel's routes to say.
fn learn(underlay: &Underlay, mtu: Option<Mtu>) {
    if let Some(mtu) = mtu.filter(|&mtu| mtu < underlay.mtu()) {
        underlay.learn_mtu(mtu);
    }
}

/// What an error of sendmmsg(2) says about the datagram that it stays with.
fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => DropReason::DeviceBusy,
        Some(libc::EAGAIN) => DropReason::SocketFull,
        Some(libc::EMSGSIZE) => DropReason::Oversize,
        // No route; routes of the types unreachable, prohibit and blackhole (`fib_props` in net/ipv4/fib_semantics.c).
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => DropReason::Unreachable,
        Some(libc::ENETDOWN | libc::ENODEV | libc::ENXIO) => DropReason::InterfaceDown,
        _ => DropReason::WriteFailed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::testing::{frame, plan, underlay, vxlan};
    use super::*;
    use crate::config::plan::{Fit, Gso, TunnelPlan};
    use crate::flow::FlowHash;
    use crate::kernel::underlay::NextHop;

    /// What the scripted kernel does with one call of `send`.
    #[derive(Clone, Copy, Debug)]
    enum Answer {
        Takes(usize),
        Fails(i32),
    }

    /// A socket whose kernel follows a script, and takes everything when the script is over.
    #[derive(Debug, Default)]
    struct Scripted {
        answers: VecDeque<Answer>,
        /// What it says to every run of several datagrams, if it cannot send them.
        refuses_runs: Option<i32>,
        /// The longest run that it has been given.
        longest_run: usize,
        reports: VecDeque<Report>,
        taken: Arc<Mutex<Vec<Vec<u8>>>>,
        waited: Duration,
        ignores_learnt_mtu: bool,
    }

    impl DatagramSocket for Scripted {
        fn ignore_learnt_mtu(&mut self) -> bool {
            !std::mem::replace(&mut self.ignores_learnt_mtu, true)
        }

        fn send(&mut self, runs: &[&[IoSlice<'_>]]) -> io::Result<usize> {
            for run in runs {
                assert_is_a_run(run);
            }
            self.longest_run = runs.iter().map(|run| run.len()).chain([self.longest_run]).max().unwrap();
            let mut taken = match self.answers.pop_front().unwrap_or(Answer::Takes(usize::MAX)) {
                Answer::Takes(count) => count.min(runs.len()),
                Answer::Fails(errno) => return Err(io::Error::from_raw_os_error(errno)),
            };
            if let Some(errno) = self.refuses_runs {
                taken = taken.min(runs.iter().take_while(|run| run.len() == 1).count());
                if taken == 0 && runs[0].len() > 1 {
                    return Err(io::Error::from_raw_os_error(errno));
                }
            }
            self.taken.lock().unwrap().extend(runs[..taken].concat().iter().map(|datagram| datagram.to_vec()));
            Ok(taken)
        }

        fn reports(&mut self, each: &mut dyn FnMut(Report)) {
            self.reports.drain(..).for_each(each);
        }

        fn wait(&mut self, device: bool, at_most: Duration) -> Duration {
            let waited = if device { at_most.min(Duration::from_millis(1)) } else { at_most };
            self.waited += waited;
            waited
        }
    }

    /// The kernel cuts a run at multiples of its first datagram's length, into no more than 64, and none may be longer
    /// than the path MTU.
    fn assert_is_a_run(run: &[IoSlice<'_>]) {
        let [first, rest @ ..] = run else { panic!("an empty run") };
        if let [middle @ .., last] = rest {
            assert!(middle.iter().all(|datagram| datagram.len() == first.len()));
            assert!((1..=first.len()).contains(&last.len()));
            assert!(run.len() <= 64 && run.iter().map(|datagram| datagram.len()).sum::<usize>() <= 65_000);
            assert!(first.len() + OUTER <= MTU);
        }
    }

    impl SocketBank<Scripted> {
        fn send_batch(&mut self, batch: Batch, patience: Patience, account: &mut DestinationLedger) {
            self.batch = batch;
            self.send(patience, account);
        }
    }

    const FLOWS: usize = 3;
    const OUTER: usize = 28;
    const MTU: usize = 1500;

    fn bank(sockets: Vec<Scripted>) -> SocketBank<Scripted> {
        let underlay = underlay("192.0.2.1", MTU as u64, NextHop::Usable);
        let (_, plan) = plan(vxlan(4789), underlay.remote(), Fit::Fragment);
        let runs = Runs::new(&TunnelPlan { gso: Gso::On, ..plan }, &underlay, OUTER);
        SocketBank::new(sockets, runs, underlay, OUTER)
    }

    fn without_runs(sockets: Vec<Scripted>) -> SocketBank<Scripted> {
        let bank = bank(sockets);
        SocketBank { runs: Runs::never(&bank.errors.underlay), ..bank }
    }

    /// A batch of `buckets.len()` datagrams that say their number, and the account they are in flight in.
    fn batch(buckets: &[u32]) -> (Batch, DestinationLedger) {
        batch_of(&buckets.iter().map(|&bucket| (bucket, 2)).collect::<Vec<_>>())
    }

    /// The same with datagrams of these lengths in these buckets, of three flows in turn.
    fn batch_of(datagrams: &[(u32, usize)]) -> (Batch, DestinationLedger) {
        let mut batch = Batch::new();
        for (number, &(bucket, len)) in datagrams.iter().enumerate() {
            let mut bytes = vec![0; len];
            bytes[..2].copy_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
            let flow = FlowHash(u64::try_from(number % FLOWS).unwrap());
            batch.push(0, &WireFrame { flow, ..frame(&bytes) }, bucket, false).unwrap();
        }
        let in_flight = datagrams.len() as u64;
        (batch, DestinationLedger { assigned: in_flight, in_flight, ..DestinationLedger::default() })
    }

    fn answers() -> impl Strategy<Value = Answer> {
        prop_oneof![
            (0..70_usize).prop_map(Answer::Takes),
            (1..134_i32).prop_map(Answer::Fails),
            proptest::sample::select(vec![
                libc::ENOBUFS,
                libc::EAGAIN,
                libc::EMSGSIZE,
                libc::ECONNREFUSED,
                libc::EHOSTUNREACH,
                libc::ENETDOWN,
                libc::EPERM,
                libc::EINTR
            ])
            .prop_map(Answer::Fails),
        ]
    }

    proptest! {
        /// Whatever the kernel answers: every datagram has one fate, `sent` is what was taken, each flow keeps its order.
        #[test]
        fn every_datagram_finds_its_fate(
            scripts in vec(vec(answers(), 0..60), 4),
            refusals in vec(proptest::option::of(proptest::sample::select(vec![
                libc::EINVAL, libc::EIO, libc::EOPNOTSUPP, libc::EMSGSIZE
            ])), 4),
            datagrams in vec((0..4_u32, proptest::sample::select(vec![2, 60, 61, 600, 1472, 1473, 3000])), 0..300),
            patience in prop_oneof![Just(Patience::Drop), Just(Patience::Wait)],
        ) {
            let taken: Vec<_> = (0..4).map(|_| Arc::new(Mutex::new(Vec::new()))).collect();
            let sockets = scripts.iter().zip(&taken).zip(&refusals).map(|((script, taken), &refuses_runs)| Scripted {
                answers: script.iter().copied().collect(),
                refuses_runs,
                taken: Arc::clone(taken),
                ..Scripted::default()
            });
            let mut bank = bank(sockets.collect());
            let (batch, mut account) = batch_of(&datagrams);
            bank.send_batch(batch, patience, &mut account);

            prop_assert_eq!(bank.waiting(), 0);
            prop_assert_eq!(account.in_flight, 0);
            prop_assert_eq!(account.assigned, account.sent + account.dropped.total());
            let taken: Vec<Vec<Vec<u8>>> = taken.iter().map(|taken| taken.lock().unwrap().clone()).collect();
            prop_assert_eq!(account.sent, taken.iter().map(Vec::len).sum::<usize>() as u64);
            prop_assert_eq!(account.datagrams, account.sent);
            prop_assert_eq!(account.bytes, taken.iter().flatten().map(|bytes| (OUTER + bytes.len()) as u64).sum::<u64>());
            for (bucket, taken) in (0..).zip(&taken) {
                let numbers: Vec<_> = taken.iter().map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))).collect();
                for flow in 0..FLOWS {
                    let numbers: Vec<_> = numbers.iter().filter(|&number| number % FLOWS == flow).collect();
                    prop_assert!(numbers.is_sorted_by(|one, next| one < next), "each once and in order: {numbers:?}");
                }
                for (&number, bytes) in numbers.iter().zip(taken) {
                    prop_assert_eq!(datagrams[number], (bucket, bytes.len()));
                }
            }
            if scripts.iter().all(Vec::is_empty) {
                prop_assert_eq!(account.dropped.total(), 0, "a refused run costs nothing");
            }
        }
    }

    fn scripted(answers: impl IntoIterator<Item = Answer>, reports: impl IntoIterator<Item = Report>) -> Scripted {
        let (answers, reports) = (answers.into_iter().collect(), reports.into_iter().collect());
        Scripted { answers, reports, ..Scripted::default() }
    }

    #[test]
    fn equally_long_datagrams_of_a_bucket_leave_as_runs_of_64_and_a_shorter_one_ends_a_run() {
        let mut bank = bank(vec![Scripted::default(), Scripted::default()]);
        let (batch, mut account) = batch_of(&[[(0, 60); 99], [(1, 1000); 99]].concat());
        bank.send_batch(batch, Patience::Drop, &mut account);
        assert_eq!((bank.sockets[0].longest_run, bank.sockets[1].longest_run, account.sent), (64, 64, 198));

        let (batch, mut account) = batch_of(&[(0, 100), (0, 100), (0, 99), (0, 100), (0, 101)]);
        let slices: Vec<Vec<u8>> = batch.datagrams().iter().map(|datagram| batch.bytes_of(datagram).to_vec()).collect();
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let lengths = |alone, longest| {
            let mut messages: [&[IoSlice<'_>]; mmsg::MOST] = [&[]; mmsg::MOST];
            let count = runs::cut(&slices, alone, longest, &mut messages);
            messages[..count].iter().map(|run| run.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(0, 1472), [3, 1, 1]);
        assert_eq!(lengths(1, 1472), [1, 2, 1, 1]);
        assert_eq!(lengths(0, 99), [1, 1, 1, 1, 1], "too long for the path");
        bank.send_batch(batch, Patience::Drop, &mut account);
        assert_eq!(account.sent, 5);
    }

    #[test]
    fn a_kernel_without_runs_is_asked_once_and_costs_nothing() {
        for errno in [libc::EINVAL, libc::EIO, libc::EOPNOTSUPP] {
            let socket = || Scripted { refuses_runs: Some(errno), ..Scripted::default() };
            let mut bank = bank(vec![socket(), socket()]);
            for _ in 0..2 {
                let (batch, mut account) = batch(&[0, 0, 0, 1, 1]);
                bank.send_batch(batch, Patience::Drop, &mut account);
                assert_eq!((account.sent, account.dropped.total()), (5, 0));
            }
            assert_eq!((bank.sockets[0].longest_run, bank.sockets[1].longest_run, bank.runs.longest()), (3, 1, 0));
        }
    }

    #[test]
    fn a_run_that_is_too_long_for_the_path_leaves_singly_and_later_ones_are_runs_again() {
        let script = vec![Answer::Fails(libc::EMSGSIZE); 2];
        let mut bank = bank(vec![scripted(script, [])]);
        let (batch, mut account) = batch(&[0; 3]);
        bank.send_batch(batch, Patience::Drop, &mut account);
        assert_eq!((account.sent, account.dropped.total(), bank.runs.longest()), (3, 0, MTU - OUTER));
    }

    #[test]
    fn a_full_queue_drops_the_whole_run_and_a_replay_tries_its_datagrams_one_by_one() {
        let script = vec![Answer::Fails(libc::ENOBUFS); 2];
        let mut bank = bank(vec![scripted(script.clone(), [])]);
        let (first, mut account) = batch(&[0; 100]);
        bank.send_batch(first, Patience::Drop, &mut account);
        assert_eq!((account.sent, account.dropped[DropReason::DeviceBusy]), (0, 100), "a run of 64, and one of 36");

        bank.sockets = vec![scripted(script, [])];
        let (second, mut account) = batch(&[0; 100]);
        bank.send_batch(second, Patience::Wait, &mut account);
        assert_eq!((account.sent, account.dropped.total()), (100, 0));
    }

    #[test]
    fn an_earlier_datagrams_icmp_error_costs_no_datagram() {
        let refused = Answer::Fails(libc::ECONNREFUSED);
        let socket = scripted([refused, Answer::Takes(1), refused, refused], [Report::PortUnreachable; 3]);
        let mut bank = bank(vec![socket]);
        let (batch, mut account) = batch(&[0; 5]);
        bank.send_batch(batch, Patience::Drop, &mut account);
        assert_eq!((account.sent, account.dropped.total(), account.icmp.port_unreachable), (5, 0, 3));
    }

    #[test]
    fn an_error_that_stays_belongs_to_its_datagram_alone() {
        let reasons = [
            (libc::ENOBUFS, DropReason::DeviceBusy),
            (libc::EAGAIN, DropReason::SocketFull),
            (libc::EMSGSIZE, DropReason::Oversize),
            (libc::ENETUNREACH, DropReason::Unreachable),
            (libc::EHOSTUNREACH, DropReason::Unreachable),
            (libc::EACCES, DropReason::Unreachable),
            (libc::EINVAL, DropReason::Unreachable),
            (libc::ENETDOWN, DropReason::InterfaceDown),
            (libc::ENODEV, DropReason::InterfaceDown),
            (libc::ENXIO, DropReason::InterfaceDown),
            (libc::EPERM, DropReason::WriteFailed),
            (libc::ENOMEM, DropReason::WriteFailed),
        ];
        for (errno, reason) in reasons {
            // As often as it takes for the second of three: the kernel says some errors at once, others may be old.
            let tries = if matches!(errno, libc::ENOBUFS | libc::EAGAIN) { 1 } else { 1 + RETRIES as usize };
            let script = [vec![Answer::Takes(1)], vec![Answer::Fails(errno); tries]].concat();
            let mut bank = without_runs(vec![scripted(script, [])]);
            let (batch, mut account) = batch(&[0; 3]);
            bank.send_batch(batch, Patience::Drop, &mut account);
            assert_eq!((account.sent, account.dropped[reason], account.dropped.total()), (2, 1, 1), "errno {errno}");
            let failure = bank.collect_reports(&mut account).and_then(|error| error.raw_os_error());
            assert_eq!(failure, (reason == DropReason::WriteFailed).then_some(errno));
        }
    }

    #[test]
    fn a_replay_waits_its_patience_once_and_not_again_until_something_leaves() {
        let naps = usize::try_from(REPLAY_PATIENCE.as_millis()).unwrap();
        let script = [vec![Answer::Fails(libc::ENOBUFS); naps + 2], vec![Answer::Takes(1)]].concat();
        let script = [script, vec![Answer::Fails(libc::EAGAIN); 1]].concat();
        let mut bank = without_runs(vec![scripted(script, [])]);
        let (batch, mut account) = batch(&[0; 4]);
        bank.send_batch(batch, Patience::Wait, &mut account);
        // The first waited in vain, the second did not wait, the third left, the fourth waited again.
        assert_eq!((account.dropped[DropReason::DeviceBusy], account.sent), (2, 2));
        assert_eq!(bank.sockets[0].waited, REPLAY_PATIENCE + LONGEST_WAIT);
    }

    #[test]
    fn a12_a_report_below_the_floor_is_not_believed_and_the_kernel_is_told_to_ignore_it() {
        let mtu = |value| Mtu::new(value).ok();
        let mut socket = scripted([], [Report::TooBig(mtu(552)), Report::LocalTooBig(mtu(552))]);
        let mut bank = bank(vec![Scripted::default()]);
        let (way, mut icmp) = (Arc::clone(&bank.errors.underlay), IcmpReports::default());
        take_reports(&mut socket, &way, &mut icmp);
        assert!(socket.ignores_learnt_mtu);
        assert_eq!((icmp.too_big, way.mtu()), (1, Mtu::IPV6_LEAST));
        // From now on it is the interface that says so.
        socket.reports.push_back(Report::LocalTooBig(mtu(600)));
        take_reports(&mut socket, &way, &mut icmp);
        assert_eq!(way.mtu().value(), 600);
        assert!(bank.collect_reports(&mut DestinationLedger::default()).is_none());
    }

    #[test]
    fn reports_lower_the_path_mtu_and_never_raise_it() {
        let mtu = |value| Mtu::new(value).ok();
        let reports = [
            Report::TooBig(mtu(1400)),
            Report::LocalTooBig(mtu(1300)),
            Report::TooBig(mtu(9000)),
            Report::TooBig(None),
            Report::HostUnreachable,
            Report::Other,
        ];
        let mut bank = bank(vec![scripted([], reports)]);
        let mut account = DestinationLedger::default();
        assert!(bank.collect_reports(&mut account).is_none());
        assert_eq!(bank.errors.underlay.mtu().value(), 1300);
        let icmp = account.icmp;
        assert_eq!((icmp.too_big, icmp.host_unreachable, icmp.other, icmp.port_unreachable), (3, 1, 1, 0));
    }
}
