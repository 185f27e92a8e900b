//! Asks the processor for memory before it is needed.

/// Bytes that travel between memory and the processor together, on every processor that Linux runs on in servers today.
const LINE: usize = 64;

/// Asks for `bytes`, line by line, and does not wait for them. Nothing happens where the processor has no such request, or
/// none that stable Rust can make.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    for line in bytes.iter().step_by(LINE) {
        ask(line);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn ask(byte: &u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

    // SAFETY: PREFETCHT0 reads and writes nothing and faults at no address (Intel SDM volume 2, PREFETCHh); every
    // x86_64 has it. The address is that of a live byte besides.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn ask(_: &u8) {}
