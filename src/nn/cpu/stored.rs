//! Numbers as weights are stored. A product widens its right operand while it packs it, so that a frozen network keeps the
//! half precision of its file: half the memory, and the same results as with widened weights, since widening is exact.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::pack::{SQUARE, transpose_squares};
use super::vector::Vector;

/// Rows of eight columns that are widened before they are packed: they stay in the first-level cache.
const ROWS: usize = 32 * SQUARE;

/// A stored number that a product of `T` takes.
pub trait Stored<T>: Copy + Send + Sync + 'static {
    /// The same number.
    fn widen(self) -> T;

    /// The same numbers; both slices have the same length.
    fn widen_all(from: &[Self], to: &mut [T]);

    /// Packs eight columns of `rows` numbers, `stride` apart in `from`, into rows a panel apart in `to`, if this machine has a
    /// quick way to do it; `rows` is a multiple of eight.
    fn transpose_squares(from: &[Self], stride: usize, rows: usize, to: &mut [T]) -> bool;
}

macro_rules! full_precision {
    ($full:ty, $transpose:expr) => {
        impl Stored<$full> for $full {
            #[inline(always)]
            fn widen(self) -> Self {
                self
            }

            #[inline(always)]
            fn widen_all(from: &[Self], to: &mut [Self]) {
                to.copy_from_slice(from);
            }

            fn transpose_squares(from: &[Self], stride: usize, rows: usize, to: &mut [Self]) -> bool {
                $transpose(from, stride, rows, to)
            }
        }
    };
}

full_precision!(f32, transpose_squares);
full_precision!(f64, |_, _, _, _| false);

macro_rules! half_precision {
    ($half:ty) => {
        impl Stored<f32> for $half {
            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }

            fn widen_all(from: &[Self], to: &mut [f32]) {
                from.convert_to_f32_slice(to);
            }

            fn transpose_squares(from: &[Self], stride: usize, rows: usize, to: &mut [f32]) -> bool {
                let mut wide = [0.0; SQUARE * ROWS];
                (0..rows).step_by(ROWS).all(|row| {
                    let n = ROWS.min(rows - row);
                    for (column, wide) in wide.chunks_exact_mut(ROWS).enumerate() {
                        from[column * stride + row..][..n].convert_to_f32_slice(&mut wide[..n]);
                    }
                    transpose_squares(&wide, ROWS, n, &mut to[row * f32::PANEL..])
                })
            }
        }

        // Gradient checks run in f64.
        impl Stored<f64> for $half {
            #[inline(always)]
            fn widen(self) -> f64 {
                self.to_f64()
            }

            fn widen_all(from: &[Self], to: &mut [f64]) {
                from.convert_to_f64_slice(to);
            }

            fn transpose_squares(_: &[Self], _: usize, _: usize, _: &mut [f64]) -> bool {
                false
            }
        }
    };
}

half_precision!(bf16);
half_precision!(f16);
