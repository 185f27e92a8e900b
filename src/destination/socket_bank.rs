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
use super::transmit::{Transmit, count_dropped, count_sent};
use crate::config::defaults::REPLAY_PATIENCE;
use crate::kernel::error_queue::Report;
use crate::kernel::underlay::Underlay;
use crate::ledger::{DestinationLedger, DropReason};
use crate::quantity::Mtu;
use crate::sys::mmsg;

/// How often a datagram is sent again after an error that may be another datagram's.
const RETRIES: u32 = 4;
/// Longest single wait for room: so soon a replay notices that its session is to end.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// One datagram socket to the analyzer, as the kernel behaves behind it.
pub(super) trait DatagramSocket: Send + fmt::Debug {
    /// Sends datagrams in order and returns how many were taken, or why the first one was not. Never blocks.
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Empties the error queue.
    fn reports(&mut self, each: &mut dyn FnMut(Report));

    /// Waits for room in the socket or, when `device` is what is busy, a moment; returns how long that took.
    fn wait(&mut self, device: bool, at_most: Duration) -> Duration;
}

/// A bank of sockets to one analyzer: bucket n leaves through socket n.
#[derive(Debug)]
pub(super) struct SocketBank<S> {
    sockets: Vec<S>,
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

/// What one datagram has gone through.
#[derive(Debug, Default)]
struct Trouble {
    errors: u32,
    waited: Duration,
}

/// What is done about an error.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    SendAgain,
    Wait { device: bool, at_most: Duration },
    Drop(DropReason),
}

impl<S: DatagramSocket> SocketBank<S> {
    /// An engine over `sockets`, one a bucket. The kernel puts `outer_len` bytes of IP and UDP in front of a datagram.
    pub(super) fn new(sockets: Vec<S>, underlay: Arc<Underlay>, outer_len: usize) -> Self {
        Self { sockets, errors: Errors { underlay, outer_len, may_wait: true, write_failed: None } }
    }
}

impl<S: DatagramSocket> Transmit for SocketBank<S> {
    fn send(&mut self, batch: &mut Batch, patience: Patience, account: &mut DestinationLedger) {
        batch.group_by_bucket();
        for run in batch.datagrams().chunk_by(|one, next| one.bucket == next.bucket) {
            let socket = &mut self.sockets[run[0].bucket as usize];
            send_run(socket, batch, run, patience, &mut self.errors, account);
        }
        batch.clear();
    }

    fn collect_reports(&mut self, account: &mut DestinationLedger) -> Option<io::Error> {
        for socket in &mut self.sockets {
            self.errors.collect(socket, account);
        }
        self.errors.write_failed.take()
    }
}

/// Sends datagrams of one bucket through its socket.
fn send_run<S: DatagramSocket>(
    socket: &mut S,
    batch: &Batch,
    run: &[Datagram],
    patience: Patience,
    errors: &mut Errors,
    account: &mut DestinationLedger,
) {
    let mut rest = run;
    let mut trouble = Trouble::default();
    while !rest.is_empty() {
        let mut slices = [IoSlice::new(&[]); mmsg::MOST];
        let count = rest.len().min(slices.len());
        for (slice, datagram) in slices.iter_mut().zip(rest) {
            *slice = IoSlice::new(batch.bytes_of(datagram));
        }
        // Taking none and reporting no error would be a kernel's fault; it counts as an error so that the loop ends.
        let taken = socket.send(&slices[..count]).and_then(|taken| match taken.min(count) {
            0 => Err(ErrorKind::WriteZero.into()),
            some => Ok(some),
        });
        let settled = match taken {
            Ok(taken) => {
                let (gone, _) = rest.split_at(taken);
                for datagram in gone {
                    count_sent(account, datagram, errors.outer_len);
                }
                errors.may_wait = true;
                taken
            }
            Err(error) => {
                errors.collect(socket, account);
                match errors.step(error, &mut trouble, patience) {
                    Step::SendAgain => 0,
                    Step::Wait { device, at_most } => {
                        trouble.waited += socket.wait(device, at_most);
                        0
                    }
                    Step::Drop(reason) => {
                        count_dropped(account, reason, 1);
                        1
                    }
                }
            }
        };
        if settled > 0 {
            trouble = Trouble::default();
            rest = &rest[settled..];
        }
    }
}

impl Errors {
    /// Empties the error queue of `socket`.
    fn collect(&mut self, socket: &mut impl DatagramSocket, account: &mut DestinationLedger) {
        let (icmp, underlay) = (&mut account.icmp, &self.underlay);
        socket.reports(&mut |report| match report {
            Report::PortUnreachable => icmp.port_unreachable += 1,
            Report::HostUnreachable => icmp.host_unreachable += 1,
            Report::Other => icmp.other += 1,
            Report::TooBig(mtu) => {
                icmp.too_big += 1;
                learn(underlay, mtu);
            }
            Report::LocalTooBig(mtu) => learn(underlay, mtu),
        });
    }

    /// What to do about `error`, which the kernel returned instead of sending a datagram.
    fn step(&mut self, error: io::Error, trouble: &mut Trouble, patience: Patience) -> Step {
        let reason = reason_of(&error);
        // These two are never an earlier datagram's: the kernel says them about this one, now.
        if matches!(reason, DropReason::DeviceBusy | DropReason::SocketFull) {
            let left = REPLAY_PATIENCE.saturating_sub(trouble.waited);
            if patience == Patience::Drop || !self.may_wait || !self.underlay.may_wait() {
                return Step::Drop(reason);
            }
            if left.is_zero() {
                self.may_wait = false;
                return Step::Drop(reason);
            }
            return Step::Wait { device: reason == DropReason::DeviceBusy, at_most: left.min(LONGEST_WAIT) };
        }
        trouble.errors += 1;
        if trouble.errors <= RETRIES {
            return Step::SendAgain;
        }
        if reason == DropReason::WriteFailed {
            self.write_failed = Some(error);
        }
        Step::Drop(reason)
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
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => DropReason::Unreachable,
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

    use super::super::testing::{frame, underlay};
    use super::*;
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
        reports: VecDeque<Report>,
        taken: Arc<Mutex<Vec<Vec<u8>>>>,
        waited: Duration,
    }

    impl DatagramSocket for Scripted {
        fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
            let taken = match self.answers.pop_front().unwrap_or(Answer::Takes(usize::MAX)) {
                Answer::Takes(count) => count.min(datagrams.len()),
                Answer::Fails(errno) => return Err(io::Error::from_raw_os_error(errno)),
            };
            self.taken.lock().unwrap().extend(datagrams[..taken].iter().map(|datagram| datagram.to_vec()));
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

    const OUTER: usize = 28;

    fn bank(sockets: Vec<Scripted>) -> SocketBank<Scripted> {
        SocketBank::new(sockets, underlay("192.0.2.1", 1500, NextHop::Usable), OUTER)
    }

    /// A batch of `buckets.len()` datagrams that say their number, and the account they are in flight in.
    fn batch(buckets: &[u32]) -> (Batch, DestinationLedger) {
        let mut batch = Batch::new();
        for (number, &bucket) in buckets.iter().enumerate() {
            let number = u16::try_from(number).unwrap().to_be_bytes();
            batch.push(0, &frame(&number), bucket, false).unwrap();
        }
        let in_flight = buckets.len() as u64;
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
        /// Whatever the kernel answers: every datagram has one fate, `sent` is what was taken, order is kept.
        #[test]
        fn every_datagram_finds_its_fate(
            scripts in vec(vec(answers(), 0..60), 4),
            buckets in vec(0..4_u32, 0..200),
            patience in prop_oneof![Just(Patience::Drop), Just(Patience::Wait)],
        ) {
            let taken: Vec<_> = (0..4).map(|_| Arc::new(Mutex::new(Vec::new()))).collect();
            let sockets = scripts.iter().zip(&taken).map(|(script, taken)| Scripted {
                answers: script.iter().copied().collect(),
                taken: Arc::clone(taken),
                ..Scripted::default()
            });
            let mut bank = bank(sockets.collect());
            let (mut batch, mut account) = batch(&buckets);
            bank.send(&mut batch, patience, &mut account);

            prop_assert!(batch.is_empty());
            prop_assert_eq!(account.in_flight, 0);
            prop_assert_eq!(account.assigned, account.sent + account.dropped.total());
            let taken: Vec<Vec<Vec<u8>>> = taken.iter().map(|taken| taken.lock().unwrap().clone()).collect();
            prop_assert_eq!(account.sent, taken.iter().map(Vec::len).sum::<usize>() as u64);
            prop_assert_eq!(account.datagrams, account.sent);
            prop_assert_eq!(account.bytes, account.sent * (OUTER as u64 + 2));
            for numbers in &taken {
                prop_assert!(numbers.is_sorted_by(|one, next| one < next), "each once and in order: {numbers:?}");
            }
        }
    }

    fn scripted(answers: impl IntoIterator<Item = Answer>, reports: impl IntoIterator<Item = Report>) -> Scripted {
        let (answers, reports) = (answers.into_iter().collect(), reports.into_iter().collect());
        Scripted { answers, reports, ..Scripted::default() }
    }

    #[test]
    fn an_earlier_datagrams_icmp_error_costs_no_datagram() {
        let refused = Answer::Fails(libc::ECONNREFUSED);
        let socket = scripted([refused, Answer::Takes(1), refused, refused], [Report::PortUnreachable; 3]);
        let mut bank = bank(vec![socket]);
        let (mut batch, mut account) = batch(&[0; 5]);
        bank.send(&mut batch, Patience::Drop, &mut account);
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
            let mut bank = bank(vec![scripted(script, [])]);
            let (mut batch, mut account) = batch(&[0; 3]);
            bank.send(&mut batch, Patience::Drop, &mut account);
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
        let mut bank = bank(vec![scripted(script, [])]);
        let (mut batch, mut account) = batch(&[0; 4]);
        bank.send(&mut batch, Patience::Wait, &mut account);
        // The first waited in vain, the second did not wait, the third left, the fourth waited again.
        assert_eq!((account.dropped[DropReason::DeviceBusy], account.sent), (2, 2));
        assert_eq!(bank.sockets[0].waited, REPLAY_PATIENCE + LONGEST_WAIT);
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
