//! Settings of the allocator and of thread pools that must be made before the first tensor exists.

/// Keeps freed tensors in the process: glibc otherwise maps every large block anew and gives it back to the kernel,
/// whose page faults made a training step of the fused denoiser 1.4 to 2.4 times slower.
///
/// Does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Blocks below this size come from the heap, 1 GiB being more than any tensor of the mini pipelines.
        const LARGEST_HEAP_BLOCK: libc::c_int = 1 << 30;
        /// What older versions of glibc accept at most.
        const OLDER_LIMIT: libc::c_int = 32 << 20;
        #[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
        // SAFETY: `mallopt` only stores numbers in the allocator's parameters; the names are glibc's own constants, any
        // positive value is allowed, and `main` calls this once before it starts a thread.
        unsafe {
            if libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK) == 0 {
                libc::mallopt(libc::M_MMAP_THRESHOLD, OLDER_LIMIT);
            }
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGEST_HEAP_BLOCK);
        }
    }
}

/// Makes candle's own element-wise pool one thread wide: it spins while it waits and starves the matrix products.
/// A value the user has set stays.
pub fn one_candle_thread() {
    const NAME: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(NAME).is_none() {
        #[expect(unsafe_code, reason = "the environment is candle's only interface for it")]
        // SAFETY: `main` calls this first, while the process has one thread, so nobody reads the environment meanwhile.
        unsafe {
            std::env::set_var(NAME, "1");
        }
    }
}

/// Makes the calling thread a member of rayon's pool. Otherwise it would sleep through every parallel loop it begins and be
/// woken at its end, ten thousand times a second in training.
pub fn join_thread_pool() {
    // An error says that the pool exists already: then the caller waits for it, as usual.
    let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
}
