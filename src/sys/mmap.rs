//! Memory that is shared with the kernel: mmap(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A shared mapping of a descriptor, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, wherever it is moved; nothing in it is tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes of `descriptor`, from `offset` on, for reading and writing: populated at once, so that no frame
    /// pays for a page fault.
    ///
    /// # Errors
    /// The kernel's, from mmap(2).
    pub fn shared(descriptor: BorrowedFd<'_>, length: usize, offset: libc::off_t) -> io::Result<Self> {
        Self::map(length, libc::MAP_SHARED, descriptor.as_raw_fd(), offset)
    }

    /// Maps `length` bytes of fresh memory, all zero, populated at once.
    ///
    /// # Errors
    /// The kernel's, from mmap(2).
    pub fn anonymous(length: usize) -> io::Result<Self> {
        Self::map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn map(length: usize, flags: libc::c_int, descriptor: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_POPULATE);
        // SAFETY: with a null hint the kernel chooses an address that is not in use, so no memory of ours changes.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, descriptor, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap returned a null address"))?;
        Ok(Self { start, length })
    }

    /// Its first byte. Valid for [`len`](Self::len) bytes as long as the mapping lives.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping that `map` made, and no reference into it outlives this
        // value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
