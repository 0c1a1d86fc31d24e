//! Room for the numbers a kernel is about to write. Zeroing it first took a twentieth of a distillation step.
#![expect(unsafe_code, reason = "memory is handed out before it is written")]

use std::sync::atomic::{AtomicBool, Ordering};

use crate::nn::real::Real;

/// Whether room is filled with NaN first.
static POISON: AtomicBool = AtomicBool::new(false);

/// Makes [`unwritten`] fill its numbers with NaN, so that a kernel which leaves one out gives itself away.
pub fn poison_unwritten(poison: bool) {
    POISON.store(poison, Ordering::Relaxed);
}

/// `n` unspecified numbers, every one of which must be written before it is read.
#[expect(clippy::uninit_vec, reason = "kernels write every number before they read it, which `tests/kernels.rs` checks with NaN")]
pub fn unwritten<T: Real>(n: usize) -> Vec<T> {
    if POISON.load(Ordering::Relaxed) {
        return vec![T::of(f64::NAN); n];
    }
    let mut numbers = Vec::with_capacity(n);
    // SAFETY: the capacity is `n`, every bit pattern is a valid number, and no kernel reads a number before writing it.
    unsafe {
        numbers.set_len(n);
    }
    numbers
}
