//! How the C library's allocator keeps memory that was given back: mallopt(3).

/// Has allocations of 128 KiB and more be mappings of their own, which go back to the kernel when they are freed. glibc raises
/// that size each time that a large one is freed; then the buffers of sessions, megabytes each, lie in its heaps among small
/// objects that stay, and what a reload frees stays, too. Has no effect with other C libraries.
pub fn return_large_allocations() {
    // SAFETY: mallopt(3) takes two integers; what was allocated before is freed as it was allocated.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}
