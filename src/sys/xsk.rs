//! AF_XDP sockets that only send: `Documentation/networking/af_xdp.rst`, `linux/if_xdp.h`.
//!
//! Frames are written into memory that is registered with the kernel (the UMEM). A frame's [`Slot`] is a token that
//! can only be moved: whoever has it may write the memory; [`Socket::submit`] takes it away, and
//! [`Socket::completed`] gives it back when the kernel has done with it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use libc::c_int;

use super::mmap::Mapping;
use super::socket_option::set_option;
use super::{check, length_of};
use crate::quantity::Ifindex;

/// Bytes that one descriptor may point to. The kernel takes powers of two up to a page.
pub const CHUNK: usize = 2048;
/// The same for frames that do not fit [`CHUNK`].
pub const LARGE_CHUNK: usize = 4096;

/// How the registered memory is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of one descriptor: [`CHUNK`] or [`LARGE_CHUNK`].
    pub chunk: usize,
    /// Descriptors that the largest frame needs, at least 1. More than one needs Linux 6.6.
    pub chunks_per_slot: usize,
    /// Frames that there is room for, at least 1.
    pub slots: usize,
    /// Further chunks, which the kernel has for ever, for what the interface receives: 0, or a power of two. With them
    /// the socket is bound in zero-copy mode, in which the driver's receive queue has no other memory.
    pub reception: usize,
}

impl Shape {
    /// Bytes of one slot: the largest frame.
    pub const fn slot_len(self) -> usize {
        self.chunk * self.chunks_per_slot
    }

    /// How many chunks so many bytes take. A shift, because a division would cost each frame several nanoseconds.
    const fn chunks(self, bytes: usize) -> usize {
        (bytes + self.chunk - 1) >> self.chunk.trailing_zeros()
    }

    /// Which slot is at this address of the memory.
    fn slot_at(self, address: u64) -> usize {
        let chunk = u32::try_from(address >> self.chunk.trailing_zeros()).unwrap_or(u32::MAX);
        let chunks_per_slot = u32::try_from(self.chunks_per_slot).unwrap_or(u32::MAX);
        // A division would cost each frame several nanoseconds, and nearly all slots have one chunk.
        let slot = if chunks_per_slot <= 1 { chunk } else { chunk / chunks_per_slot };
        slot as usize
    }
}

/// Where frames are written.
struct Umem {
    memory: Mapping,
    slot_len: usize,
}

// SAFETY: nothing can be done with a shared `Umem` but to look at its address; its bytes are reached through slots
// only, each of which owns its own.
unsafe impl Sync for Umem {}

/// Memory for one frame. While it exists the kernel has nothing to do with it, and there is no other for this memory.
pub struct Slot {
    umem: Arc<Umem>,
    index: u32,
}

impl Slot {
    /// Its number, below [`Shape::slots`].
    fn index(&self) -> usize {
        self.index as usize
    }

    /// The memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let length = self.umem.slot_len;
        // SAFETY: `index` is below the number of slots (see `Socket::open`), which all lie in the mapping.
        let start = unsafe { self.umem.memory.start().add(self.index as usize * length) };
        // SAFETY: the slot's bytes lie in the mapping, which lives as long as `umem`, and are initialised (anonymous
        // memory is zero at first). `open` makes one `Slot` an index, and only `submit` and `completed` move it out and
        // back, so nobody else has a reference to these bytes; the kernel only reads them, and only between those two (it
        // writes to chunks of reception, which are no slots).
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.index).finish()
    }
}

/// A slot that the kernel has, how many of its descriptors it has not given back, and what its owner remembers of it.
struct Flight<T> {
    slot: Slot,
    descriptors: u32,
    memo: T,
}

/// An AF_XDP socket with its memory and both rings. While the kernel has a frame, it keeps a `T` for it.
pub struct Socket<T> {
    fd: OwnedFd,
    shape: Shape,
    transmit: Ring,
    completion: Ring,
    /// Descriptors written so far, a number that wraps; the kernel sees them with the next [`kick`](Self::kick).
    written: u32,
    /// Completions read so far.
    read: u32,
    /// Descriptors that the kernel is known to have consumed, whether it has said so or not.
    consumed: u32,
    /// How many frames one [`kick`](Self::kick) sends at most.
    budget: usize,
    /// What all its slots are of.
    umem: Arc<Umem>,
    /// By slot.
    flights: Vec<Option<Flight<T>>>,
}

impl<T> Socket<T> {
    /// A socket that is bound to nothing, and all the slots of its memory.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `EAFNOSUPPORT` when the kernel has no AF_XDP, `ENOBUFS` when the memory exceeds
    /// what the process may lock (`RLIMIT_MEMLOCK`, without `CAP_IPC_LOCK`), `InvalidInput` for an impossible shape.
    pub fn open(shape: Shape) -> io::Result<(Self, Vec<Slot>)> {
        // First all slots, then the chunks of reception.
        let length = shape.slot_len().checked_mul(shape.slots).filter(|&length| length > 0);
        let length = length.and_then(|length| length.checked_add(shape.chunk.checked_mul(shape.reception)?));
        let slots = u32::try_from(shape.slots).ok();
        // Every descriptor that there can be finds room in either ring: neither is ever full.
        let entries = u32::try_from(shape.slots.saturating_mul(shape.chunks_per_slot)).ok();
        let entries = entries.and_then(u32::checked_next_power_of_two);
        let (Some(length), Some(slots), Some(entries)) = (length, slots, entries) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: socket(2) takes three integers; it reads and writes no memory of ours.
        let fd = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the kernel has just returned this descriptor, so it is open and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let memory = Mapping::anonymous(length)?;
        let registration = libc::xdp_umem_reg {
            addr: memory.start().as_ptr() as u64,
            len: length as u64,
            chunk_size: u32::try_from(shape.chunk).unwrap_or(u32::MAX),
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set(&fd, libc::XDP_UMEM_REG, &registration)?;
        // The kernel binds no socket without one, even where nothing is received.
        let reception = u32::try_from(shape.reception).map_err(|_| io::ErrorKind::InvalidInput)?;
        set(&fd, libc::XDP_UMEM_FILL_RING, &reception.max(1))?;
        set(&fd, libc::XDP_UMEM_COMPLETION_RING, &entries)?;
        set(&fd, libc::XDP_TX_RING, &entries)?;
        // Linux 6.17: frames that one kick may send. Older kernels send 32, and are kicked more often.
        let budget = set(&fd, XDP_MAX_TX_SKB_BUDGET, &entries).map_or(OLD_BUDGET, |()| entries as usize);
        let offsets = ring_offsets(&fd)?;
        let transmit = Ring::map::<libc::xdp_desc>(fd.as_fd(), libc::XDP_PGOFF_TX_RING, &offsets.tx, entries)?;
        let completion = Ring::map::<u64>(fd.as_fd(), COMPLETION_RING, &offsets.cr, entries)?;
        if reception > 0 {
            let fill = Ring::map::<u64>(fd.as_fd(), FILL_RING, &offsets.fr, reception)?;
            for number in 0..reception {
                let address = (length - shape.chunk * (number as usize + 1)) as u64;
                // SAFETY: the entry lies in the mapped ring (see `entry`) and is ours until the producer below passes it.
                // The chunk lies behind all slots, so that no `Slot` is for the memory that the kernel may write to.
                unsafe { fill.entry::<u64>(number).write(address) };
            }
            // Pairs with the kernel's acquire of the producer (xskq_cons_nb_entries).
            fill.producer().store(reception, Ordering::Release);
        }

        let umem = Arc::new(Umem { memory, slot_len: shape.slot_len() });
        let tokens = (0..slots).map(|index| Slot { umem: Arc::clone(&umem), index }).collect();
        let flights = std::iter::repeat_with(|| None).take(shape.slots).collect();
        Ok((Self { fd, shape, transmit, completion, written: 0, read: 0, consumed: 0, budget, umem, flights }, tokens))
    }

    /// Sends through queue `queue` of `device` from now on. In copy mode the driver's own receive path is left alone; in
    /// zero-copy mode the driver receives what comes by this queue into [`Shape::reception`].
    ///
    /// # Errors
    /// `EBUSY` when another socket has the queue, or had it some milliseconds ago; `EINVAL` when the device has no such
    /// queue or the kernel cannot send frames of several descriptors; `EOPNOTSUPP` when the driver has no zero-copy mode,
    /// or not for such frames; `ENODEV`, `ENETDOWN`.
    pub fn bind(&self, device: Ifindex, queue: u32) -> io::Result<()> {
        let mode = if self.is_zero_copy() { libc::XDP_ZEROCOPY | libc::XDP_USE_NEED_WAKEUP } else { libc::XDP_COPY };
        let several = if self.shape.chunks_per_slot > 1 { libc::XDP_USE_SG } else { 0 };
        let address = libc::sockaddr_xdp {
            sxdp_family: u16::try_from(libc::AF_XDP).unwrap_or(u16::MAX),
            sxdp_flags: mode | several,
            sxdp_ifindex: device.value(),
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: bind(2) reads `addrlen` bytes of `addr`; both describe the one `sockaddr_xdp` above, which outlives
        // the call.
        check(unsafe {
            libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_xdp>())
        })?;
        Ok(())
    }

    /// Hands the first `length` bytes of `slot` to the kernel, which sends them after the next [`kick`](Self::kick), and
    /// keeps `memo` until they come back. A length over the slot's counts as its length.
    pub fn submit(&mut self, slot: Slot, length: usize, memo: T) {
        debug_assert!(Arc::ptr_eq(&slot.umem, &self.umem), "a slot is for the socket that it came from");
        let Shape { chunk, chunks_per_slot, .. } = self.shape;
        let (index, length) = (slot.index(), length.min(self.shape.slot_len()));
        let Some(flight) = self.flights.get_mut(index) else { return };
        let descriptors = self.shape.chunks(length).clamp(1, chunks_per_slot);
        *flight = Some(Flight { slot, descriptors: u32::try_from(descriptors).unwrap_or(u32::MAX), memo });
        for number in 0..descriptors {
            let offset = number * chunk;
            let is_last = number + 1 == descriptors;
            let descriptor = libc::xdp_desc {
                addr: (index * self.shape.slot_len() + offset) as u64,
                len: u32::try_from((length - offset).min(chunk)).unwrap_or(u32::MAX),
                options: if is_last { 0 } else { libc::XDP_PKT_CONTD },
            };
            let entry = self.transmit.entry::<libc::xdp_desc>(self.written);
            // SAFETY: the entry lies in the mapped ring (see `entry`) and is the kernel's only from `kick` on until it is
            // consumed. As there are no more descriptors than entries, the kernel has consumed what stood there.
            unsafe { entry.write(descriptor) };
            self.written = self.written.wrapping_add(1);
        }
    }

    /// How its memory is divided.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether the driver reads frames where they were written.
    pub const fn is_zero_copy(&self) -> bool {
        self.shape.reception > 0
    }

    /// Lets the kernel see what was submitted, and send what it can. In copy mode that is done when the call returns, but
    /// for what a full socket buffer or an older kernel's limit keeps back. In zero-copy mode the driver sends when it
    /// comes to it; it is called when it asks for that, and when there is nothing new to see.
    ///
    /// # Errors
    /// In copy mode `EAGAIN` when there is more to send, `EBUSY` when the device dropped the frame that was consumed last
    /// (then it is completed all the same, `__xsk_generic_xmit` in net/xdp/xsk.c), `ENOBUFS` when the kernel has no memory.
    /// In zero-copy mode what the driver says (`ndo_xsk_wakeup`). `ENETDOWN` while the device is down, `ENXIO` when it is
    /// gone.
    pub fn kick(&mut self) -> io::Result<()> {
        let told = self.told();
        if self.is_ahead(told) {
            self.consumed = told;
        }
        let producer = self.transmit.producer();
        let is_news = self.is_zero_copy() && producer.load(Ordering::Relaxed) != self.written;
        // Pairs with the kernel's acquire of the producer (xskq_cons_nb_entries): who sees the number sees the entries.
        producer.store(self.written, Ordering::Release);
        if is_news {
            // A driver first asks to be called and then looks once more whether there is something to send.
            fence(Ordering::SeqCst);
            if self.transmit.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP == 0 {
                return Ok(());
            }
        }
        // SAFETY: sendto(2) with a null buffer of length 0 and no address reads and writes no memory of ours.
        let sent =
            unsafe { libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Descriptors that were submitted and that the kernel has not told to be consumed. Before Linux 6.17 it tells so only
    /// when it has consumed all of them: nothing about a [`kick`](Self::kick) that failed.
    pub fn unconsumed(&self) -> usize {
        self.written.wrapping_sub(self.told()) as usize
    }

    /// How many frames one [`kick`](Self::kick) sends at most.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// The slot of the frame that the kernel dropped, after a [`kick`](Self::kick) that failed with `EBUSY`: the one that
    /// it consumed last. Where it has not told how far it came, the first one that may be it: so there are as many as there
    /// were errors. To be asked before what that call [completed](Self::completed) is taken in, the frame among it.
    pub fn dropped(&mut self) -> usize {
        let told = self.told();
        if self.is_ahead(told) {
            self.consumed = told;
        } else {
            while self.is_ahead(self.written) {
                self.consumed = self.consumed.wrapping_add(1);
                let latest = self.descriptor(self.consumed.wrapping_sub(1));
                let flight = self.flights.get(self.shape.slot_at(latest.addr));
                // What was taken in has left.
                if latest.options & libc::XDP_PKT_CONTD == 0 && flight.is_some_and(Option::is_some) {
                    break;
                }
            }
        }
        self.shape.slot_at(self.descriptor(self.consumed.wrapping_sub(1)).addr)
    }

    /// Descriptors that the kernel has told to be consumed, a number that wraps.
    fn told(&self) -> u32 {
        self.transmit.consumer().load(Ordering::Acquire)
    }

    /// Whether `number` is beyond what is known to be consumed. There are never more descriptors than half of all numbers.
    fn is_ahead(&self, number: u32) -> bool {
        (1..=u32::MAX / 2).contains(&number.wrapping_sub(self.consumed))
    }

    /// The descriptor with this number that was written last.
    fn descriptor(&self, number: u32) -> libc::xdp_desc {
        let entry = self.transmit.entry::<libc::xdp_desc>(number);
        // SAFETY: the entry lies in the mapped ring and every bit pattern is a valid `xdp_desc`. The kernel only reads
        // entries of this ring, and what we wrote there last stands there until we write it anew.
        unsafe { entry.read() }
    }

    /// What is kept for the frame in the slot with this number, if the kernel has it.
    pub fn memo_mut(&mut self, slot: usize) -> Option<&mut T> {
        Some(&mut self.flights.get_mut(slot)?.as_mut()?.memo)
    }

    /// What is kept for every frame that the kernel has.
    pub fn memos_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.flights.iter_mut().flatten().map(|flight| &mut flight.memo)
    }

    /// A slot that the kernel has done with, if there is one, and what was kept for its frame.
    pub fn completed(&mut self) -> Option<(Slot, T)> {
        // Pairs with the kernel's release of the producer (xskq_prod_submit_n).
        while self.completion.producer().load(Ordering::Acquire) != self.read {
            let entry = self.completion.entry::<u64>(self.read);
            // SAFETY: the entry lies in the mapped ring, any bits are a `u64`, and the kernel writes it no more until we
            // have given it back below.
            let address = unsafe { entry.read() };
            self.read = self.read.wrapping_add(1);
            // Pairs with the kernel's acquire of the consumer (xskq_prod_nb_free).
            self.completion.consumer().store(self.read, Ordering::Release);
            let Some(place) = self.flights.get_mut(self.shape.slot_at(address)) else { continue };
            let Some(flight) = place else { continue };
            flight.descriptors -= 1;
            if flight.descriptors == 0
                && let Some(Flight { slot, memo, .. }) = place.take()
            {
                return Some((slot, memo));
            }
        }
        None
    }
}

impl<T> AsFd for Socket<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<T> fmt::Debug for Socket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("fd", &self.fd).field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Where the completion ring is mapped; a number of 34 bits that libc has as unsigned.
#[allow(clippy::cast_possible_wrap, reason = "it has 34 bits")]
const COMPLETION_RING: libc::off_t = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;

/// Where the fill ring is mapped; the same.
#[allow(clippy::cast_possible_wrap, reason = "it has 33 bits")]
const FILL_RING: libc::off_t = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;

/// `linux/if_xdp.h`, Linux 6.17; libc lacks it.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
/// `TX_BATCH_SIZE` of `net/xdp/xsk.c` before.
const OLD_BUDGET: usize = 32;

/// One mapped ring: two counters that wrap, flags, and a power of two of entries.
struct Ring {
    memory: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    mask: u32,
}

impl Ring {
    /// Maps the ring with `entries` entries of type `T`, which is at `page_offset` of the socket and laid out as `layout`
    /// says.
    fn map<T>(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        layout: &libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let offset = |offset: u64| usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let words = [offset(layout.producer)?, offset(layout.consumer)?, offset(layout.flags)?];
        let start = offset(layout.desc)?;
        let length = start + entries as usize * size_of::<T>();
        let ends = words.map(|word| word + size_of::<AtomicU32>());
        let is_aligned = words.iter().all(|word| word % align_of::<AtomicU32>() == 0);
        if ends.iter().any(|&end| end > length) || !is_aligned || start % align_of::<T>() != 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let memory = Mapping::shared(socket, length, page_offset)?;
        let [producer, consumer, flags] = words;
        Ok(Self { memory, producer, consumer, flags, entries: start, mask: entries - 1 })
    }

    fn producer(&self) -> &AtomicU32 {
        self.word(self.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.word(self.consumer)
    }

    fn flags(&self) -> &AtomicU32 {
        self.word(self.flags)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `map` made sure that the word lies inside the mapping.
        let word = unsafe { self.memory.start().add(offset) };
        // SAFETY: the address is inside the mapping, which lives as long as `self`, and aligned (see `map`; mappings begin
        // on pages). Kernel and user access the word only as a whole.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }

    /// The address of the entry with this number: inside the mapping and aligned, because `map` asked for the same `T`.
    fn entry<T>(&self, number: u32) -> *mut T {
        let offset = self.entries + (number & self.mask) as usize * size_of::<T>();
        // SAFETY: the masked number is below the number of entries, all of which lie inside the mapping.
        unsafe { self.memory.start().add(offset) }.as_ptr().cast()
    }
}

/// Where the parts of each ring lie in its mapping.
fn ring_offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: `xdp_mmap_offsets` is a C struct of integers, for which all zeroes is a valid value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = length_of::<libc::xdp_mmap_offsets>();
    // SAFETY: getsockopt(2) writes at most `*optlen` bytes to `optval` and their number to `optlen`; both point to live
    // variables above.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    })?;
    // Kernels before 5.4 answer with a shorter structure.
    if length < length_of::<libc::xdp_mmap_offsets>() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(offsets)
}

/// Sets one option of level `SOL_XDP`. Of what `XDP_UMEM_REG` registers the kernel keeps the pages, not the structure.
fn set<T>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_XDP, option, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: usize = 4;

    /// A socket without a kernel, for frames of up to two descriptors.
    fn alone() -> (Socket<()>, Vec<Slot>) {
        let shape = Shape { chunk: CHUNK, chunks_per_slot: 2, slots: SLOTS, reception: 0 };
        let ring = || Ring {
            memory: Mapping::anonymous(4096).unwrap(),
            producer: 0,
            consumer: 64,
            flags: 68,
            entries: 128,
            mask: 7,
        };
        let memory = Mapping::anonymous(shape.slot_len() * SLOTS).unwrap();
        let umem = Arc::new(Umem { memory, slot_len: shape.slot_len() });
        let slots = (0..4).map(|index| Slot { umem: Arc::clone(&umem), index }).collect();
        let flights = std::iter::repeat_with(|| None).take(SLOTS).collect();
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        let (transmit, completion) = (ring(), ring());
        (Socket { fd, shape, transmit, completion, written: 0, read: 0, consumed: 0, budget: 32, umem, flights }, slots)
    }

    #[test]
    fn a_dropped_frame_is_the_one_that_the_kernel_consumed_last() {
        let (mut socket, slots) = alone();
        for slot in slots {
            socket.submit(slot, 100, ());
        }
        for (told, slot) in [(2, 1), (3, 2), (4, 3)] {
            socket.kick().unwrap_err();
            socket.transmit.consumer().store(told, Ordering::Relaxed);
            assert_eq!((socket.dropped(), socket.unconsumed()), (slot, SLOTS - told as usize));
        }
    }

    #[test]
    fn each_drop_is_another_frame_where_the_kernel_does_not_tell_how_far_it_has_come() {
        let (mut socket, mut slots) = alone();
        // The first has left before, and the kernel has told so.
        socket.submit(slots.remove(0), 100, ());
        socket.transmit.consumer().store(1, Ordering::Relaxed);
        let lengths = [CHUNK + 1, 2 * CHUNK, 1];
        for (slot, length) in slots.into_iter().zip(lengths) {
            socket.submit(slot, length, ());
        }
        for slot in 1..SLOTS {
            socket.kick().unwrap_err();
            assert_eq!((socket.dropped(), socket.unconsumed()), (slot, 5));
        }
    }
}
