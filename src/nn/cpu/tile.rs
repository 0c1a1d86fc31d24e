//! The innermost part of the matrix product: a few rows times one packed panel, all sums held in registers.
//!
//! Every number of the output is one chain of fused multiply-adds over the inner index, whatever the instruction set, so all
//! of them give the same bits.
#![expect(unsafe_code, reason = "registers are loaded from raw pointers; the caller guarantees the bounds")]

use pulp::{Simd, WithSimd};

use crate::nn::real::Real;

/// Some rows of `a` times some panels of `b`, into a block of the output.
pub(super) struct Block<T> {
    /// First row of `a`; element (i, p) lies at `i · a_row + p · a_column`.
    pub a: *const T,
    pub a_row: usize,
    pub a_column: usize,
    /// Packed panels `[columns / PANEL, inner, PANEL]`.
    pub panels: *const T,
    /// `[columns]`, or null; added once to every row.
    pub bias: *const T,
    pub out: *mut T,
    pub out_row: usize,
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub alpha: T,
    /// Whether the block is added to the output or replaces it.
    pub add: bool,
}

impl<T: Real> WithSimd for Block<T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Twelve rows of two registers leave eight of AVX-512's thirty-two for the operands, six leave four of sixteen.
        let tall = S::REGISTER_COUNT >= 32;
        let width = 2 * T::lanes::<S>();
        for panel in 0..self.columns.div_ceil(T::PANEL) {
            let columns = (self.columns - panel * T::PANEL).min(T::PANEL);
            for part in (0..columns).step_by(width) {
                let column = panel * T::PANEL + part;
                let tile = Tile {
                    block: &self,
                    // SAFETY: panel and part lie inside the packed panels, which are padded to whole panels.
                    b: unsafe { self.panels.add(panel * self.inner * T::PANEL + part) },
                    column,
                    columns: (columns - part).min(width),
                };
                let mut row = 0;
                while row < self.rows {
                    row += match self.rows - row {
                        12.. if tall => tile.rows::<S, 12>(simd, row),
                        8.. if tall => tile.rows::<S, 8>(simd, row),
                        6.. => tile.rows::<S, 6>(simd, row),
                        4.. => tile.rows::<S, 4>(simd, row),
                        2.. => tile.rows::<S, 2>(simd, row),
                        _ => tile.rows::<S, 1>(simd, row),
                    };
                }
            }
        }
    }
}

/// Two registers of columns.
struct Tile<'a, T> {
    block: &'a Block<T>,
    b: *const T,
    column: usize,
    /// Valid columns, at most two registers.
    columns: usize,
}

impl<T: Real> Tile<'_, T> {
    /// Computes `M` rows from `row` on and returns `M`.
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(&self, simd: S, row: usize) -> usize {
        let block = self.block;
        // SAFETY: the caller of `Block` guarantees `rows × inner` numbers behind `a` with the given strides, and
        // `row + M ≤ rows`.
        let sums = unsafe {
            let a = block.a.add(row * block.a_row);
            if block.a_column == 1 {
                let mut at = [a; M];
                for (i, at) in at.iter_mut().enumerate() {
                    *at = a.add(i * block.a_row);
                }
                self.sums::<S, M>(simd, |i, p| *at[i].add(p))
            } else if block.a_row == 1 {
                let stride = block.a_column;
                self.sums::<S, M>(simd, |i, p| *a.add(p * stride + i))
            } else {
                let (row, column) = (block.a_row, block.a_column);
                self.sums::<S, M>(simd, |i, p| *a.add(i * row + p * column))
            }
        };
        for (i, sums) in sums.into_iter().enumerate() {
            // SAFETY: row `row + i` of the output block is valid for writes of `columns` numbers.
            unsafe { self.store(simd, block.out.add((row + i) * block.out_row + self.column), sums) };
        }
        M
    }

    /// The products of `M` rows, element (i, p) of which `a` gives, with the two registers of columns.
    #[inline(always)]
    unsafe fn sums<S: Simd, const M: usize>(&self, simd: S, a: impl Fn(usize, usize) -> T) -> [[T::Register<S>; 2]; M] {
        let lanes = T::lanes::<S>();
        let mut sums = [[T::splat(simd, T::ZERO); 2]; M];
        let mut b = self.b;
        for p in 0..self.block.inner {
            // SAFETY: `b` points to row `p` of the panel; a panel is a multiple of two registers wide.
            let (left, right) =
                unsafe { (b.cast::<T::Register<S>>().read_unaligned(), b.add(lanes).cast::<T::Register<S>>().read_unaligned()) };
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = T::splat(simd, a(i, p));
                sums[0] = T::times_plus(simd, x, left, sums[0]);
                sums[1] = T::times_plus(simd, x, right, sums[1]);
            }
            // SAFETY: at most one past the panel's end.
            b = unsafe { b.add(T::PANEL) };
        }
        sums
    }

    /// Writes one row of the tile: alpha · sums + bias, added to the output where wanted.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, simd: S, out: *mut T, sums: [T::Register<S>; 2]) {
        let lanes = T::lanes::<S>();
        let alpha = T::splat(simd, self.block.alpha);
        for (half, sum) in sums.into_iter().enumerate() {
            let valid = self.columns.saturating_sub(half * lanes).min(lanes);
            if valid == 0 {
                continue;
            }
            // SAFETY: `valid` numbers lie behind `out` and, where there is one, behind the bias; partial registers go
            // through `edge`, which is a whole register.
            unsafe {
                let out = out.add(half * lanes);
                let bias = if self.block.bias.is_null() { None } else { Some(self.block.bias.add(self.column + half * lanes)) };
                let mut value = T::times(simd, alpha, sum);
                if valid == lanes {
                    if let Some(bias) = bias {
                        value = T::plus(simd, value, bias.cast::<T::Register<S>>().read_unaligned());
                    }
                    let out = out.cast::<T::Register<S>>();
                    if self.block.add {
                        value = T::plus(simd, value, out.read_unaligned());
                    }
                    out.write_unaligned(value);
                } else {
                    let value = (&raw const value).cast::<T>();
                    for j in 0..valid {
                        let mut value = *value.add(j);
                        if let Some(bias) = bias {
                            value += *bias.add(j);
                        }
                        if self.block.add {
                            value += *out.add(j);
                        }
                        *out.add(j) = value;
                    }
                }
            }
        }
    }
}
