//! Packing of a product's right operand: the columns of one panel side by side, row after row, widened where they are stored
//! in half precision.
#![expect(unsafe_code, reason = "registers are loaded from and stored to raw pointers; every bound is checked before")]

use super::gemm::Matrix;
use super::stored::Stored;
use super::vector::Vector;
use crate::nn::real::{Real, vectorised};

/// Side of the squares in which a transposed operand is packed: a register of eight numbers.
pub(super) const SQUARE: usize = 8;

/// Packs the columns from `column` on into `panel` `[rows, PANEL]`, padded with zeros.
pub(super) fn pack<T: Real, S: Stored<T>>(b: Matrix<S>, column: usize, panel: &mut [T]) {
    let columns = (b.columns - column).min(T::PANEL);
    if columns < T::PANEL {
        panel.fill(T::ZERO);
    }
    if b.column_stride == 1 {
        vectorised(
            #[inline(always)]
            || {
                for (row, packed) in panel.chunks_exact_mut(T::PANEL).enumerate() {
                    let from = &b.data[row * b.row_stride + column..][..columns];
                    // Whole registers are copied where the width is known.
                    if columns == T::PANEL { S::widen_all(&from[..T::PANEL], packed) } else { S::widen_all(from, &mut packed[..columns]) }
                }
            },
        );
        return;
    }
    let (mut column_from, mut row_from) = (0, 0);
    if b.row_stride == 1 {
        (column_from, row_from) = (columns / SQUARE * SQUARE, b.rows / SQUARE * SQUARE);
        for j in (0..column_from).step_by(SQUARE) {
            let from = &b.data[(column + j) * b.column_stride..];
            if !S::transpose_squares(from, b.column_stride, row_from, &mut panel[j..]) {
                (column_from, row_from) = (0, 0);
                break;
            }
        }
    }
    for j in 0..columns {
        let from = &b.data[(column + j) * b.column_stride..];
        for row in (if j < column_from { row_from } else { 0 })..b.rows {
            panel[row * T::PANEL + j] = from[row * b.row_stride].widen();
        }
    }
}

/// Transposes eight columns of `rows` numbers, `stride` apart in `from`, into rows `PANEL` apart in `to`; `rows` is a multiple
/// of eight. False where this machine has no registers for it, and nothing was done.
#[cfg(target_arch = "x86_64")]
pub(super) fn transpose_squares(from: &[f32], stride: usize, rows: usize, to: &mut [f32]) -> bool {
    const PANEL: usize = <f32 as Vector>::PANEL;
    let Some(simd) = pulp::x86::V3::try_new() else { return false };
    if rows == 0 {
        return true;
    }
    assert!(rows.is_multiple_of(SQUARE), "{rows} rows are no whole squares");
    assert!(7 * stride + rows <= from.len() && (rows - 1) * PANEL + SQUARE <= to.len(), "a square does not fit its slice");
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    simd.vectorize(Transpose { simd, from, stride, rows, to });
    true
}

#[cfg(target_arch = "x86_64")]
struct Transpose {
    simd: pulp::x86::V3,
    from: *const f32,
    stride: usize,
    rows: usize,
    to: *mut f32,
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for Transpose {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        const PANEL: usize = <f32 as Vector>::PANEL;
        // The control byte of a shuffle that takes elements 0, 1 of both operands, or 2, 3.
        const LOW: i32 = 0b01_00_01_00;
        const HIGH: i32 = 0b11_10_11_10;
        let avx = self.simd.avx;
        for row in (0..self.rows).step_by(SQUARE) {
            // SAFETY: the caller checked that eight columns of `rows` numbers can be read and as many rows written.
            let c: [_; 8] = std::array::from_fn(
                #[inline(always)]
                |j| unsafe { avx._mm256_loadu_ps(self.from.add(j * self.stride + row)) },
            );
            // Pairs of columns, then fours, then the two halves of a register.
            let pairs: [_; 8] = std::array::from_fn(
                #[inline(always)]
                |i| {
                    let (a, b) = (c[i / 2 * 2], c[i / 2 * 2 + 1]);
                    if i % 2 == 0 { avx._mm256_unpacklo_ps(a, b) } else { avx._mm256_unpackhi_ps(a, b) }
                },
            );
            let fours: [_; 8] = std::array::from_fn(
                #[inline(always)]
                |i| {
                    let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
                    if i % 2 == 0 { avx._mm256_shuffle_ps::<LOW>(a, b) } else { avx._mm256_shuffle_ps::<HIGH>(a, b) }
                },
            );
            for i in 0..4 {
                let low = avx._mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
                let high = avx._mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
                // SAFETY: as above.
                unsafe {
                    avx._mm256_storeu_ps(self.to.add((row + i) * PANEL), low);
                    avx._mm256_storeu_ps(self.to.add((row + i + 4) * PANEL), high);
                }
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn transpose_squares(_: &[f32], _: usize, _: usize, _: &mut [f32]) -> bool {
    false
}
