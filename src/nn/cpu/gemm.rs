//! Matrix product on strided slices. The right operand is packed into panels as wide as two registers; tasks of a few rows
//! and panels are then taken by whichever thread is free, which changes no result: every output is computed by one task.
#![expect(unsafe_code, reason = "tasks write disjoint blocks of one output; every bound is checked before")]

use std::marker::PhantomData;

use rayon::prelude::*;

use super::pack::pack;
use super::stored::Stored;
use super::tile::Block;
use crate::nn::real::{Real, dispatch};

/// A matrix of `rows × columns` inside a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix whose rows lie `row_stride` apart.
    pub fn row_major(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transposed matrix, without copying.
    pub fn t(self) -> Self {
        Self { data: self.data, rows: self.columns, columns: self.rows, row_stride: self.column_stride, column_stride: self.row_stride }
    }
}

/// The right operand of a product: a matrix that can be packed into panels.
pub trait Operand<T>: Copy + Sync {
    /// Whether its slice holds all of it.
    fn fits(&self) -> bool;
    fn rows(&self) -> usize;
    fn columns(&self) -> usize;
    /// Packs the rows from `row` on and the columns from `column` on into `panel` `[rows, PANEL]`, padded with zeros.
    fn pack(&self, row: usize, column: usize, panel: &mut [T]);
}

impl<T: Real, S: Stored<T>> Operand<T> for Matrix<'_, S> {
    fn fits(&self) -> bool {
        self.rows == 0 || self.columns == 0 || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn pack(&self, row: usize, column: usize, panel: &mut [T]) {
        let part = Matrix { data: self.data.get(row * self.row_stride..).unwrap_or(&[]), rows: panel.len() / T::PANEL, ..*self };
        pack(part, column, panel);
    }
}

/// A row-major matrix that a product writes to.
pub struct MatrixMut<'a, T> {
    out: *mut T,
    rows: usize,
    columns: usize,
    row_stride: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: a `MatrixMut` is a mutable borrow of its numbers, like the slice it was made from.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}

impl<'a, T> MatrixMut<'a, T> {
    /// A matrix whose rows lie `row_stride` apart.
    ///
    /// # Panics
    /// If it does not fit its slice: a bug of the caller.
    pub fn row_major(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || (columns <= row_stride && (rows - 1) * row_stride + columns <= data.len()),
            "the output does not fit its slice"
        );
        Self { out: data.as_mut_ptr(), rows, columns, row_stride, data: PhantomData }
    }

    /// The matrix cut into matrices of `width` columns, which may be written at the same time: the heads of token-major
    /// activations.
    pub fn split_columns(self, width: usize) -> impl Iterator<Item = Self> {
        assert!(width > 0 && self.columns.is_multiple_of(width), "{} columns do not divide by {width}", self.columns);
        (0..self.columns / width).map(move |i| Self {
            // SAFETY: column `i · width` lies inside the first row; the parts share no number.
            out: if self.rows == 0 { self.out } else { unsafe { self.out.add(i * width) } },
            columns: width,
            ..self
        })
    }
}

/// What becomes of the numbers that the output held.
#[derive(Clone, Copy)]
pub enum Into<'a, T> {
    /// They are overwritten, unread.
    Replace,
    /// They are overwritten, unread, and a bias `[columns]` is added to every row.
    ReplaceWithBias(&'a [T]),
    /// The product is added to them.
    Add,
}

/// Whether the product may use the thread pool; inside a parallel loop it must not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

/// Inner indices multiplied at a time: a panel of so many rows stays in a core's second-level cache.
const INNER: usize = 2048;
/// Rows of one task: four tiles of the tallest kind.
const ROWS: usize = 48;
/// Multiply-adds of one task, about 20 µs of one core: enough to pay for handing it out, and enough tasks to share.
const TASK: usize = 1 << 20;

/// `out (+)= alpha · a · b`; `b` may be stored in half precision or in quantised blocks.
///
/// # Panics
/// If the shapes do not fit together or a slice is too short: a bug of the caller.
pub fn gemm<T: Real, B: Operand<T>>(out: MatrixMut<T>, a: Matrix<T>, b: B, alpha: T, into: Into<T>, threads: Threads) {
    let (m, n, k) = (a.rows, b.columns(), a.columns);
    assert!(k == b.rows() && out.rows == m && out.columns == n, "the sizes of a product do not fit together");
    assert!(Operand::<T>::fits(&a) && b.fits(), "a matrix does not fit its slice");
    let out_stride = out.row_stride;
    let bias = match into {
        Into::ReplaceWithBias(bias) => {
            assert_eq!(bias.len(), n, "the bias has another size than the rows");
            bias.as_ptr()
        }
        Into::Replace | Into::Add => std::ptr::null(),
    };
    let a_strides = (a.row_stride, a.column_stride);
    let operands = Operands { a: a.data.as_ptr(), bias, out: out.out };
    for from in (0..k.max(1)).step_by(INNER) {
        let inner = (k - from).min(INNER);
        with_panels(b, from, inner, threads, |panels| {
            let tasks = Tasks::new::<T>(m, n, inner);
            let run = |task: usize| {
                let (row, rows, column, columns) = tasks.block(task);
                // SAFETY: rows, columns and inner indices lie inside the matrices checked above; the blocks of two tasks are
                // disjoint, and `out` is a mutable borrow, so it overlaps no operand.
                let (a, bias, out) = unsafe { operands.at(row * a.row_stride + from * a.column_stride, column, row * out_stride + column) };
                dispatch(Block {
                    a,
                    a_row: a_strides.0,
                    a_column: a_strides.1,
                    panels: panels[column * inner..].as_ptr(),
                    bias: if from == 0 { bias } else { std::ptr::null() },
                    out,
                    out_row: out_stride,
                    rows,
                    columns,
                    inner,
                    alpha,
                    add: from > 0 || matches!(into, Into::Add),
                });
            };
            match threads {
                Threads::One => (0..tasks.count()).for_each(run),
                Threads::All => (0..tasks.count()).into_par_iter().with_max_len(1).for_each(run),
            }
        });
    }
}

/// Where the operands begin.
struct Operands<T> {
    a: *const T,
    bias: *const T,
    out: *mut T,
}

// SAFETY: the pointers come from slices that outlive the product; `a` and the bias are only read, and every task writes its
// own block of the output.
unsafe impl<T: Sync> Sync for Operands<T> {}

impl<T> Operands<T> {
    /// The operands from these numbers on; a missing bias stays null.
    ///
    /// # Safety
    /// Each offset lies inside its slice.
    unsafe fn at(&self, a: usize, bias: usize, out: usize) -> (*const T, *const T, *mut T) {
        // SAFETY: the caller's promise.
        unsafe { (self.a.add(a), if self.bias.is_null() { self.bias } else { self.bias.add(bias) }, self.out.add(out)) }
    }
}

/// The output cut into blocks.
struct Tasks {
    rows: usize,
    columns: usize,
    columns_per_task: usize,
    across: usize,
}

impl Tasks {
    fn new<T: Real>(rows: usize, columns: usize, inner: usize) -> Self {
        let panels = (TASK / (ROWS.min(rows.max(1)) * inner.max(1) * T::PANEL)).max(1);
        let columns_per_task = panels * T::PANEL;
        Self { rows, columns, columns_per_task, across: columns.div_ceil(columns_per_task) }
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(ROWS) * self.across
    }

    /// First row, rows, first column, columns.
    fn block(&self, task: usize) -> (usize, usize, usize, usize) {
        let (row, column) = (task / self.across * ROWS, task % self.across * self.columns_per_task);
        (row, ROWS.min(self.rows - row), column, self.columns_per_task.min(self.columns - column))
    }
}

/// Calls `product` with `rows` rows of `b` packed as `[⌈columns / PANEL⌉, rows, PANEL]`, the last panel padded with zeros.
fn with_panels<T: Real, B: Operand<T>>(b: B, from: usize, rows: usize, threads: Threads, product: impl FnOnce(&[T])) {
    // Taken, not borrowed: while this thread waits for others it may begin another product.
    let mut packed = T::scratch().take();
    let panel = rows * T::PANEL;
    let n = b.columns().div_ceil(T::PANEL) * panel;
    if packed.len() < n {
        packed.resize(n, T::ZERO);
    }
    if panel > 0 {
        let fill = |(i, packed): (usize, &mut [T])| b.pack(from, i * T::PANEL, packed);
        match threads {
            Threads::One => packed[..n].chunks_exact_mut(panel).enumerate().for_each(fill),
            Threads::All => packed[..n].par_chunks_exact_mut(panel).enumerate().for_each(fill),
        }
    }
    product(&packed[..n]);
    T::scratch().set(packed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Integers small enough that every sum is exact.
    fn integers(n: usize, pace: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * pace) % 17) as f32 - 8.0).collect()
    }

    fn at(matrix: Matrix<f32>, row: usize, column: usize) -> f32 {
        matrix.data[row * matrix.row_stride + column * matrix.column_stride]
    }

    #[test]
    fn products_of_integers_are_exact_at_every_size_with_strides_transposes_and_bias() {
        for (m, n, k) in [(1, 1, 1), (1, 40, 3), (5, 33, 7), (12, 32, 64), (49, 31, 70), (100, 97, 5), (3, 5, 0), (2, 3, 2 * INNER + 5)] {
            let (wide_a, wide_b, wide_out) = (k.max(m) + 3, n.max(k) + 2, n + 1);
            let (a, b, bias) = (integers(wide_a * k.max(m), 5), integers(wide_b * n.max(k), 11), integers(n, 3));
            for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
                let a = if a_transposed { Matrix::row_major(&a, k, m, wide_a).t() } else { Matrix::row_major(&a, m, k, wide_a) };
                let b = if b_transposed { Matrix::row_major(&b, n, k, wide_b).t() } else { Matrix::row_major(&b, k, n, wide_b) };
                for threads in [Threads::One, Threads::All] {
                    let mut out = vec![7.0; m * wide_out];
                    gemm(MatrixMut::row_major(&mut out, m, n, wide_out), a, b, 2.0, Into::ReplaceWithBias(&bias), threads);
                    gemm(MatrixMut::row_major(&mut out, m, n, wide_out), a, b, -1.0, Into::Add, threads);
                    for (i, row) in out.chunks_exact(wide_out).enumerate() {
                        for (j, &found) in row[..n].iter().enumerate() {
                            let product: f32 = (0..k).map(|p| at(a, i, p) * at(b, p, j)).sum();
                            assert_eq!(found, product + bias[j], "{m} × {k} × {n}, element {i}, {j}");
                        }
                        assert_eq!(row[n], 7.0, "a number beyond the output was written");
                    }
                }
            }
        }
    }
}
