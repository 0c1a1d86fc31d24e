//! Matrix product on strided slices, over the `gemm` crate.
#![expect(unsafe_code, reason = "the gemm crate takes raw pointers; every bound is checked before the call")]

use crate::nn::real::Real;

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

    fn fits(&self) -> bool {
        self.rows == 0 || self.columns == 0 || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }
}

/// Whether the product replaces the output or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    Replace,
    Add,
}

/// Whether the product may use the thread pool; inside a parallel loop it must not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

/// `out (+)= alpha · a · b`, `out` being row-major with rows `out_stride` apart.
///
/// # Panics
/// If the shapes do not fit together or a slice is too short: a bug of the caller.
pub fn gemm<T: Real>(out: &mut [T], out_stride: usize, a: Matrix<T>, b: Matrix<T>, alpha: T, into: Into, threads: Threads) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes differ");
    assert!(a.fits() && b.fits() && out_stride >= n, "a matrix does not fit its slice");
    assert!(m == 0 || n == 0 || (m - 1) * out_stride + n <= out.len(), "the output does not fit its slice");
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: the assertions above guarantee that every index the product reads or writes lies inside its slice, and
    // `out` is borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::ONE,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_of_small_integer_matrices_is_exact_with_strides_and_accumulation() {
        // a = [1 2; 3 4] inside rows of three; b = [5 6; 7 8] given transposed.
        let a = [1.0f64, 2.0, 99.0, 3.0, 4.0, 99.0];
        let b_transposed = [5.0f64, 7.0, 6.0, 8.0];
        let mut out = [1.0f64; 4];
        let b = Matrix::row_major(&b_transposed, 2, 2, 2).t();
        gemm(&mut out, 2, Matrix::row_major(&a, 2, 2, 3), b, 2.0, Into::Add, Threads::One);
        assert_eq!(out, [39.0, 45.0, 87.0, 101.0]);
        gemm(&mut out, 2, Matrix::row_major(&a, 2, 2, 3), b, 1.0, Into::Replace, Threads::All);
        assert_eq!(out, [19.0, 22.0, 43.0, 50.0]);
    }
}
