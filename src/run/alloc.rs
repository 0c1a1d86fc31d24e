//! The allocator, which counts, and its settings and those of thread pools that must be made before the first tensor exists.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator; counts the bytes in use and their maximum.
#[derive(Debug)]
pub struct Counting;

fn grown(by: usize) {
    let now = IN_USE.fetch_add(by, Ordering::Relaxed) + by;
    // A read is cheaper than a write that changes nothing.
    if now > PEAK.load(Ordering::Relaxed) {
        PEAK.fetch_max(now, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes in use; 0 where [`Counting`] is not the process's allocator.
pub fn in_use() -> usize {
    IN_USE.load(Ordering::Relaxed)
}

/// What `work` returns, and how many bytes more than before were in use at a time; `None` where [`Counting`] is not the process's
/// allocator. One such call at a time: the counter is the process's.
pub fn peak_of<R>(work: impl FnOnce() -> R) -> (R, Option<u64>) {
    let before = in_use();
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    let peak = PEAK.load(Ordering::Relaxed);
    (result, (before > 0).then(|| peak.saturating_sub(before) as u64))
}

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
