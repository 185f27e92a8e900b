//! AF_XDP sockets of one worker: one for each interface that its frames leave by, shared by its destinations.
//!
//! A socket owns one transmit queue of the interface, and the memory that frames are written to. Each destination has
//! its share of that memory, as slots, and locks the socket once a batch: never for a frame, and nobody else wants it.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::socket;
use super::zero_copy::ZeroCopy;
use crate::kernel::capabilities::{Capability, remedy};
use crate::ledger::DropReason;
use crate::let_go::until_let_go;
use crate::quantity::{Ifindex, Mtu, SocketMark};
use crate::sys::interface;
use crate::sys::xdp_program::Attached;
use crate::sys::xsk::{self, CHUNK, LARGE_CHUNK, Shape, Slot};
use crate::wire::ethernet;

/// Frames in memory at most: a batch, and as many that a network card has not sent yet.
const MOST_SLOTS: usize = 2048;
/// The same where frames are large.
const LEAST_SLOTS: usize = 512;
/// Bytes of that memory, unless large frames need more.
const MEMORY: usize = 4 << 20;
/// Descriptors of one frame at most: the kernel puts no more than 17 into a packet, and 9,216 bytes need three.
const MOST_CHUNKS: usize = 4;
/// Bytes that may wait in the device, as the kernel counts them.
const SEND_BUFFER: usize = 4 << 20;
/// How long the kernel may need to let a queue go that was closed a moment ago.
const LONGEST_CLOSING: Duration = Duration::from_secs(1);

/// The AF_XDP sockets of one worker.
#[derive(Debug)]
pub struct Queues {
    /// Which transmit queue of each interface is ours: the worker's number.
    number: u32,
    /// How many destinations may share one socket.
    members: usize,
    /// Zero-copy mode, where it is wanted.
    zero_copy: Option<Arc<Mutex<ZeroCopy>>>,
    open: Vec<(Ifindex, Weak<Mutex<Queue>>)>,
}

/// A destination's part in a queue.
#[derive(Debug)]
pub(super) struct Member {
    queue: Arc<Mutex<Queue>>,
    number: usize,
    /// How many slots it has, those of frames on their way among them.
    slots: usize,
    /// The interface that the queue belongs to.
    pub(super) device: Ifindex,
    /// Largest frame that a slot holds, in bytes.
    pub(super) largest_frame: usize,
}

/// One AF_XDP socket.
#[derive(Debug)]
pub(super) struct Queue {
    socket: xsk::Socket<Memo>,
    largest_frame: usize,
    share: usize,
    /// Slots that no destination has.
    unclaimed: Vec<Slot>,
    /// By member: frames that the kernel has done with.
    done: Vec<Vec<Done>>,
    /// Whether the interface is gone, or has no more to do with the socket: then nothing comes back.
    gone: bool,
    /// Whether the interface was down at the last kick.
    down: bool,
    /// The program that zero-copy mode needs; it outlives the socket.
    _program: Option<Arc<Attached>>,
}

/// What the socket keeps of a frame that the kernel has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memo {
    /// Whose it is; `None` when that one has left, or has been told that the frame is lost.
    member: Option<usize>,
    frame: Outgoing,
    dropped: bool,
}

/// What is remembered of a frame on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    /// Length of the outer frame in bytes.
    pub(super) len: usize,
    /// Whether the mirrored frame was cut to fit.
    pub(super) cut: bool,
}

/// A frame that the kernel has done with.
#[derive(Debug)]
pub(super) struct Done {
    /// Its memory, unless that is lost with the interface.
    pub(super) slot: Option<Slot>,
    /// What was remembered of it.
    pub(super) frame: Outgoing,
    /// Why it did not leave; `None`: it did.
    pub(super) dropped: Option<DropReason>,
}

/// Why a queue cannot be had.
#[derive(Debug)]
pub struct QueueError {
    /// The interface's name, or its number where it has none any more.
    pub device: String,
    /// Which transmit queue.
    pub queue: u32,
    /// Whether frames of the interface's MTU need several chunks of memory, which Linux takes since 6.6.
    pub needs_chunks: bool,
    /// The kernel's words.
    pub cause: io::Error,
}

impl Queues {
    /// For the worker with this number, `members` of whose destinations send through AF_XDP.
    pub fn new(number: u32, members: usize, zero_copy: Option<Arc<Mutex<ZeroCopy>>>) -> Self {
        Self { number, members, zero_copy, open: Vec::new() }
    }

    /// Joins the queue of `device`, which is opened unless another destination has it open, and returns the slots that
    /// come with it. Its frames carry `mark`, which all destinations have in common. Where a queue was closed a moment ago,
    /// waits for it no longer than `patience`.
    ///
    /// # Errors
    /// The kernel's: see [`xsk::Socket::open`] and [`xsk::Socket::bind`].
    fn join(
        &mut self,
        device: Ifindex,
        mark: Option<SocketMark>,
        patience: Duration,
    ) -> Result<(Member, Vec<Slot>), QueueError> {
        // One whose interface is gone serves nobody any more, though others have not left it yet.
        self.open.retain(|(_, queue)| queue.upgrade().is_some_and(|queue| !lock(&queue).is_gone()));
        let known = self.open.iter().find(|&&(known, _)| known == device).and_then(|(_, queue)| queue.upgrade());
        let queue = known.map_or_else(|| self.open_queue(device, mark, patience), Ok)?;
        let mut locked = lock(&queue);
        let (number, largest_frame) = (locked.done.len(), locked.largest_frame);
        let left = locked.unclaimed.len().saturating_sub(locked.share);
        let slots = locked.unclaimed.split_off(left);
        locked.done.push(Vec::with_capacity(slots.len()));
        drop(locked);
        Ok((Member { queue, number, slots: slots.len(), device, largest_frame }, slots))
    }

    fn open_queue(
        &mut self,
        device: Ifindex,
        mark: Option<SocketMark>,
        patience: Duration,
    ) -> Result<Arc<Mutex<Queue>>, QueueError> {
        let queue = self.bind_queue(device, patience).and_then(|queue| {
            // Frames that are copied have it (net/xdp/xsk.c:xsk_build_skb); without a copy there is nothing to carry it.
            socket::mark(&queue.socket, mark).map(|_| queue)
        });
        let queue = queue.map_err(|cause| QueueError {
            device: name(device),
            queue: self.number,
            needs_chunks: mtu(device).is_ok_and(|mtu| shape(mtu).chunks_per_slot > 1),
            cause,
        })?;
        let queue = Arc::new(Mutex::new(queue));
        self.open.push((device, Arc::downgrade(&queue)));
        Ok(queue)
    }

    fn bind_queue(&self, device: Ifindex, patience: Duration) -> io::Result<Queue> {
        let mtu = mtu(device)?;
        if let Some(zero_copy) = &self.zero_copy
            && let Some((socket, unclaimed, program)) = lock(zero_copy).open(device, mtu, self.number, patience)?
        {
            return Ok(self.queue(socket, unclaimed, program));
        }
        let (socket, unclaimed) = xsk::Socket::open(shape(mtu))?;
        // The default holds less than the slots do. Less than asked for only makes the kernel take them in portions.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER));
        bind(&socket, device, self.number, patience)?;
        Ok(self.queue(socket, unclaimed, None))
    }

    fn queue(&self, socket: xsk::Socket<Memo>, unclaimed: Vec<Slot>, program: Option<Arc<Attached>>) -> Queue {
        let shape = socket.shape();
        Queue {
            socket,
            largest_frame: shape.slot_len(),
            share: (shape.slots / self.members.max(1)).max(1),
            unclaimed,
            done: Vec::new(),
            gone: false,
            down: false,
            _program: program,
        }
    }
}

/// Binds the socket. Where the queue was closed a moment ago, waits for it no longer than `patience`.
pub(super) fn bind(socket: &xsk::Socket<Memo>, device: Ifindex, queue: u32, patience: Duration) -> io::Result<()> {
    until_let_go(patience, || socket.bind(device, queue), |error| error.raw_os_error() == Some(libc::EBUSY))
}

/// Joins the queue of `device` at the start of a session.
///
/// # Errors
/// As [`Queues::join`].
pub(super) fn join(
    queues: &Mutex<Queues>,
    device: Ifindex,
    mark: Option<SocketMark>,
) -> Result<(Member, Vec<Slot>), QueueError> {
    lock(queues).join(device, mark, LONGEST_CLOSING)
}

/// The same while frames are waiting: not a moment's patience.
///
/// # Errors
/// As [`Queues::join`].
pub(super) fn join_now(
    queues: &Mutex<Queues>,
    device: Ifindex,
    mark: Option<SocketMark>,
) -> Result<(Member, Vec<Slot>), QueueError> {
    lock(queues).join(device, mark, Duration::ZERO)
}

impl Member {
    /// The queue, to be locked for one batch.
    pub(super) fn queue(&self) -> Arc<Mutex<Queue>> {
        Arc::clone(&self.queue)
    }

    /// Submits one frame: the first bytes of `slot`.
    pub(super) fn submit(&self, queue: &mut Queue, slot: Slot, frame: Outgoing) {
        queue.socket.submit(slot, frame.len, Memo { member: Some(self.number), frame, dropped: false });
    }

    /// The slots that are missing from its share and have come back: those of frames that were on their way when some
    /// member left.
    pub(super) fn complete_share(&mut self, queue: &mut Queue) -> Vec<Slot> {
        let missing = queue.share.saturating_sub(self.slots).min(queue.unclaimed.len());
        self.slots += missing;
        queue.unclaimed.split_off(queue.unclaimed.len() - missing)
    }

    /// Has the kernel send what was submitted, as far as it can now. Gives `each` frame of this member that it has done
    /// with since the last time.
    ///
    /// # Errors
    /// What is neither a full device nor one that is down or gone.
    pub(super) fn kick(&self, queue: &mut Queue, each: &mut impl FnMut(Done)) -> io::Result<()> {
        self.done(queue, each);
        queue.down = false;
        let result = if queue.socket.is_zero_copy() {
            queue.wake_driver(self.number, each)
        } else {
            queue.send_copies(self.number, each)
        };
        self.done(queue, each);
        result
    }

    /// Gives `each` frame of this member that the kernel has done with while others had it send theirs.
    pub(super) fn done(&self, queue: &mut Queue, each: &mut impl FnMut(Done)) {
        queue.done.get_mut(self.number).into_iter().flat_map(|done| done.drain(..)).for_each(each);
    }

    /// Leaves the queue, with all slots that are not on their way; the others are the queue's when they come back.
    pub(super) fn leave(self, slots: impl IntoIterator<Item = Slot>) {
        let mut queue = lock(&self.queue);
        queue.unclaimed.extend(slots);
        let Queue { socket, done, unclaimed, .. } = &mut *queue;
        for flight in socket.memos_mut().filter(|flight| flight.member == Some(self.number)) {
            flight.member = None;
        }
        let done = done.get_mut(self.number).into_iter().flat_map(|done| done.drain(..));
        unclaimed.extend(done.filter_map(|done| done.slot));
    }
}

impl Queue {
    fn send_copies(&mut self, member: usize, each: &mut impl FnMut(Done)) -> io::Result<()> {
        // A kernel that does not tell how far it has come may have sent all that it sends with one kick.
        let mut unseen = self.socket.unconsumed() / self.socket.budget();
        loop {
            let before = self.socket.unconsumed();
            let outcome = self.socket.kick();
            let code = outcome.as_ref().err().and_then(io::Error::raw_os_error);
            if code == Some(libc::EBUSY) {
                // The device dropped a frame, and the kernel stopped there.
                self.drop_one();
            }
            self.take_in(member, each);
            let left = self.socket.unconsumed();
            match code {
                Some(libc::EBUSY) => {}
                Some(libc::ENXIO | libc::ENODEV) => {
                    self.give_up();
                    return Ok(());
                }
                Some(libc::ENETDOWN) => {
                    self.down = true;
                    return Ok(());
                }
                None | Some(libc::EAGAIN) if left < before => {}
                Some(libc::EAGAIN) if unseen > 0 => unseen -= 1,
                // What the device has not taken yet is for a later turn.
                None | Some(libc::EAGAIN | libc::ENOBUFS) => return Ok(()),
                Some(_) => return outcome,
            }
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// The driver takes frames when it comes to it, and says nothing about any of them: all that it takes count as sent
    /// when they come back.
    fn wake_driver(&mut self, member: usize, each: &mut impl FnMut(Done)) -> io::Result<()> {
        let outcome = self.socket.kick();
        self.take_in(member, each);
        match outcome.as_ref().map_err(io::Error::raw_os_error) {
            // No longer zero-copy, or no longer there. `Xdp` joins anew, and is told how it can.
            Err(Some(libc::ENXIO | libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP)) => self.give_up(),
            Err(Some(libc::ENETDOWN)) => self.down = true,
            // What the driver has not taken yet is for a later turn.
            Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS)) => {}
            _ => return outcome,
        }
        Ok(())
    }

    /// Whether the queue is gone, and all that the kernel had with it.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether the interface was down when it was to send: what it was given waits until it is up.
    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    /// Gives every completed slot back to its member: at once to the one with this number, which is asking.
    fn take_in(&mut self, asking: usize, each: &mut impl FnMut(Done)) {
        while let Some((slot, Memo { member, frame, dropped })) = self.socket.completed() {
            let Some(member) = member else {
                self.unclaimed.push(slot);
                continue;
            };
            let dropped = dropped.then_some(DropReason::DeviceBusy);
            let done = Done { slot: Some(slot), frame, dropped };
            if member == asking {
                each(done);
            } else if let Some(of_member) = self.done.get_mut(member) {
                of_member.push(done);
            }
        }
    }

    /// Remembers that a frame did not leave: its slot is completed all the same.
    fn drop_one(&mut self) {
        let dropped = self.socket.dropped();
        if let Some(flight) = self.socket.memo_mut(dropped) {
            flight.dropped = true;
        }
    }

    /// The queue is gone: whatever the kernel had will neither leave nor come back.
    fn give_up(&mut self) {
        self.gone = true;
        for flight in self.socket.memos_mut() {
            let done = flight.member.take().and_then(|member| self.done.get_mut(member));
            if let Some(done) = done {
                done.push(Done { slot: None, frame: flight.frame, dropped: Some(DropReason::InterfaceDown) });
            }
        }
    }
}

impl QueueError {
    /// What an operator can do about it.
    pub(super) fn hint(&self) -> Option<String> {
        let Self { device, queue, needs_chunks, cause } = self;
        Some(match cause.raw_os_error()? {
            libc::EPERM | libc::EACCES => {
                format!("CAP_NET_RAW is missing: {}", remedy(&[Capability::CAP_NET_RAW]))
            }
            libc::EBUSY => {
                "another program has the queue by AF_XDP (`ss --xdp`): end it, or choose transmit=socket".to_owned()
            }
            // Every interface has a queue 0.
            libc::EINVAL if *needs_chunks && *queue == 0 => format!(
                "frames as long as the MTU of {device} leave by AF_XDP since Linux 6.6 (`uname -r`): set an MTU of at most \
                 {}, or choose transmit=socket",
                LARGE_CHUNK - ethernet::HEADER_LEN
            ),
            libc::EINVAL => format!(
                "each worker needs a queue of its own, and {device} may have no queue {queue}: see `ethtool -l {device}`; \
                 choose fewer workers, or transmit=socket"
            ),
            libc::ENOBUFS => {
                "the process may not lock the memory: raise `ulimit -l`, or give it CAP_IPC_LOCK".to_owned()
            }
            libc::EAFNOSUPPORT => "this kernel has no AF_XDP: transmit=socket".to_owned(),
            _ => return None,
        })
    }
}

impl Error for QueueError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot send through transmit queue {} of {} by AF_XDP", self.queue, self.device)
    }
}

/// Memory for frames of an interface with this MTU, which are copied out of it.
fn shape(mtu: Mtu) -> Shape {
    let largest = ethernet::HEADER_LEN + mtu.value() as usize;
    of_chunks(if largest <= CHUNK { CHUNK } else { LARGE_CHUNK }, largest)
}

/// The same in chunks of this size.
pub(super) fn of_chunks(chunk: usize, largest: usize) -> Shape {
    let chunks_per_slot = largest.div_ceil(chunk).min(MOST_CHUNKS);
    let slots = (MEMORY / (chunk * chunks_per_slot)).clamp(LEAST_SLOTS, MOST_SLOTS);
    Shape { chunk, chunks_per_slot, slots, reception: 0 }
}

/// The interface's name, or its number where it has none any more.
pub(super) fn name(device: Ifindex) -> String {
    let name = nix::net::if_::if_indextoname(device.value());
    name.map_or_else(|_| device.to_string(), |name| name.to_string_lossy().into_owned())
}

/// The MTU of an interface of this thread's network namespace.
pub(super) fn mtu(device: Ifindex) -> io::Result<Mtu> {
    let name = nix::net::if_::if_indextoname(device.value())?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mtu = interface::mtu(socket.as_fd(), &name.to_string_lossy())?;
    Mtu::new(mtu.into()).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Takes a lock that no other thread wants; whoever panicked with it left nothing half done that another would see.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cannot_do_is_not_blamed_on_the_workers() {
        let hint = |queue, needs_chunks| {
            let cause = io::Error::from_raw_os_error(libc::EINVAL);
            QueueError { device: "eth0".to_owned(), queue, needs_chunks, cause }.hint().unwrap()
        };
        assert!(hint(0, true).contains("Linux 6.6") && hint(0, true).contains("at most 4082"), "{}", hint(0, true));
        assert!(hint(3, true).contains("may have no queue 3"));
        assert!(hint(3, false).contains("may have no queue 3"));
    }
}
