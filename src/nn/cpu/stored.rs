//! Numbers as weights are stored. A product widens its right operand while it packs it, so that a frozen network keeps the
//! half precision of its file: half the memory, and the same results as with widened weights, since widening is exact.

use half::{bf16, f16};

use super::pack::{SQUARE, transpose_squares};
use super::vector::Vector;
use crate::nn::real::vectorised;

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

// Quantised weights are widened to f32; gradient checks run in f64.
impl Stored<f64> for f32 {
    #[inline(always)]
    fn widen(self) -> f64 {
        self.into()
    }

    fn widen_all(from: &[Self], to: &mut [f64]) {
        to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
    }

    fn transpose_squares(_: &[Self], _: usize, _: usize, _: &mut [f64]) -> bool {
        false
    }
}

macro_rules! half_precision {
    ($half:ty, $widen:ident) => {
        impl Stored<f32> for $half {
            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self.to_bits())
            }

            #[inline(always)]
            fn widen_all(from: &[Self], to: &mut [f32]) {
                to.iter_mut().zip(from).for_each(
                    #[inline(always)]
                    |(to, &from)| *to = $widen(from.to_bits()),
                );
            }

            fn transpose_squares(from: &[Self], stride: usize, rows: usize, to: &mut [f32]) -> bool {
                let mut wide = [0.0; SQUARE * ROWS];
                (0..rows).step_by(ROWS).all(|row| {
                    let n = ROWS.min(rows - row);
                    vectorised(
                        #[inline(always)]
                        || {
                            for (column, wide) in wide.chunks_exact_mut(ROWS).enumerate() {
                                for (to, &from) in wide[..n].iter_mut().zip(&from[column * stride + row..][..n]) {
                                    *to = $widen(from.to_bits());
                                }
                            }
                        },
                    );
                    transpose_squares(&wide, ROWS, n, &mut to[row * f32::PANEL..])
                })
            }
        }

        // Gradient checks run in f64.
        impl Stored<f64> for $half {
            #[inline(always)]
            fn widen(self) -> f64 {
                $widen(self.to_bits()).into()
            }

            fn widen_all(from: &[Self], to: &mut [f64]) {
                to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.widen());
            }

            fn transpose_squares(_: &[Self], _: usize, _: usize, _: &mut [f64]) -> bool {
                false
            }
        }
    };
}

half_precision!(bf16, widen_bf16);
half_precision!(f16, widen_f16);

/// The upper half of an f32.
#[inline(always)]
fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Without branches, so that a loop of it is vectorised: the exponent is moved to that of an f32 by a product, which also makes
/// subnormal numbers normal.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    const SHIFT: u32 = 13;
    /// 2¹¹²: the exponents' biases differ by so much.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = u32::from(bits & 0x7fff) << SHIFT;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    // Infinity and NaN keep their full exponent.
    let value = if bits & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(value | (u32::from(bits & 0x8000) << 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_as_the_standard_says() {
        for bits in 0..=u16::MAX {
            let (a, b) = (bf16::from_bits(bits), f16::from_bits(bits));
            let (wide_a, wide_b): (f32, f32) = (a.widen(), b.widen());
            assert!(wide_a.to_bits() == a.to_f32().to_bits() || (wide_a.is_nan() && a.is_nan()), "bf16 {bits:#06x}: {wide_a}");
            assert!(wide_b.to_bits() == b.to_f32().to_bits() || (wide_b.is_nan() && b.is_nan()), "f16 {bits:#06x}: {wide_b}");
        }
    }
}
