//! What the C library's allocator does with memory that was freed.

/// Lets the allocator of glibc keep freed memory for what comes next.
///
/// A training step allocates and frees gigabytes in arrays of megabytes. glibc gives each of those
/// back to the system at once, which clears every page again when it is touched the next time: an
/// eighth of a step on a CPU. From here on it keeps them until the process ends. The peak of the
/// memory stays what it was, up to gaps between arrays.
///
/// Elsewhere it does nothing. To be called before other threads start.
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_freed_memory();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::c_int;

    /// Bytes by which the heap grows at least.
    const STEP: c_int = 64 << 20;

    #[expect(
        unsafe_code,
        reason = "a call into the C library, without a safe counterpart"
    )]
    pub(super) fn keep_freed_memory() {
        // SAFETY: `mallopt` sets numbers of the allocator and touches no memory of the caller's; a
        // number that it does not accept leaves the allocator as it is.
        unsafe {
            // All arrays from the heap, none from a mapping of its own.
            libc::mallopt(libc::M_MMAP_MAX, 0);
            // The end of the heap is not given back ...
            libc::mallopt(libc::M_TRIM_THRESHOLD, c_int::MAX);
            // ... and grows in large steps.
            libc::mallopt(libc::M_TOP_PAD, STEP);
        }
    }
}
