//! The C library's allocator.

/// Keeps malloc from giving each thread an arena of its own: threads that come and go would each leave one behind.
pub fn few_malloc_arenas() {
    // SAFETY: mallopt takes integers, and is called before there are other threads.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// Gives memory that malloc has free back to the kernel.
pub fn trim_memory() {
    // SAFETY: no preconditions.
    unsafe { libc::malloc_trim(0) };
}
