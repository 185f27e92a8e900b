//! Blocks of a TPACKET_V3 ring: who owns one, and how it changes hands.
//!
//! The kernel fills a block and hands it over by setting `TP_STATUS_USER` in its header; we give it back by clearing
//! that. In between the kernel leaves its bytes alone, so they are an ordinary `&mut [u8]`; walking them is safe code elsewhere.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::mmap::Mapping;
use super::packet_socket::{PacketSocket, PacketStatistics, RingShape};

/// Where `block_status` stands in a block: behind `version` and `offset_to_priv` (`linux/if_packet.h`,
/// `struct tpacket_block_desc`).
const BLOCK_STATUS: usize = 8;
/// `TP_STATUS_KERNEL`: the block is the kernel's.
const TO_KERNEL: u32 = 0;
/// `TP_STATUS_USER`: the block is ours.
const TO_USER: u32 = 1;

/// A mapped receive ring. Blocks are handed over in order, so only the oldest one is ever looked at.
pub struct Ring {
    // Declared before the socket: the mapping goes first when the ring is dropped.
    memory: Mapping,
    socket: PacketSocket,
    block_size: usize,
    block_count: usize,
    oldest: usize,
}

impl Ring {
    /// Maps a ring of `shape` for `socket`.
    ///
    /// # Errors
    /// As [`PacketSocket::map_ring`].
    pub fn map(socket: PacketSocket, shape: RingShape) -> io::Result<Self> {
        let memory = socket.map_ring(shape)?;
        let (block_size, block_count) = (shape.block_size as usize, shape.block_count as usize);
        if block_count == 0
            || block_size < BLOCK_STATUS + size_of::<AtomicU32>()
            || block_size * block_count > memory.len()
        {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        Ok(Self { memory, socket, block_size, block_count, oldest: 0 })
    }

    /// The bytes of the oldest block, if the kernel has handed it over. They are ours to change.
    pub fn block(&mut self) -> Option<&mut [u8]> {
        // Pairs with the kernel's write barrier before it sets the status (net/packet/af_packet.c:prb_flush_block):
        // who sees TO_USER sees the whole block.
        if self.status().load(Ordering::Acquire) & TO_USER == 0 {
            return None;
        }
        let start = self.memory.start();
        // SAFETY: `oldest` is below `block_count` (see `release`) and all blocks lie in the mapping (see `map`), so the
        // block's address is inside it.
        let start = unsafe { start.add(self.oldest * self.block_size) };
        // SAFETY: the block lies in the mapping, which lives as long as `self`, and `self` is borrowed exclusively. The
        // kernel neither reads nor writes a block whose status is TO_USER; only `release` clears that, and it needs
        // `&mut self`, which ends this borrow. (The status word itself is part of the slice: the kernel does not touch
        // that either while it says TO_USER.)
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.block_size) })
    }

    /// Gives the oldest block back to the kernel and looks at the next one from now on. Does nothing while the kernel
    /// has not handed it over.
    pub fn release(&mut self) {
        if self.status().load(Ordering::Relaxed) & TO_USER == 0 {
            return;
        }
        // Pairs with the kernel's read of the status before it opens the block (prb_open_block): what we read from the
        // block, we have read before it may change.
        self.status().store(TO_KERNEL, Ordering::Release);
        self.oldest = (self.oldest + 1) % self.block_count;
    }

    /// What the kernel counted since the last call.
    ///
    /// # Errors
    /// As [`PacketSocket::take_statistics`].
    pub fn take_statistics(&self) -> io::Result<PacketStatistics> {
        self.socket.take_statistics()
    }

    /// The socket, for filter and bind.
    pub fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// The status word of the oldest block.
    fn status(&self) -> &AtomicU32 {
        let start = self.memory.start();
        // SAFETY: `oldest` is below `block_count` and each block is larger than its status' end (see `map`), so this
        // address is inside the mapping.
        let status = unsafe { start.add(self.oldest * self.block_size + BLOCK_STATUS) };
        // SAFETY: the address is inside the mapping, which lives as long as `self`, and aligned: blocks begin on pages.
        // Kernel and user access the word only as a whole.
        unsafe { AtomicU32::from_ptr(status.as_ptr().cast()) }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("blocks", &self.block_count)
            .field("block_size", &self.block_size)
            .finish_non_exhaustive()
    }
}
