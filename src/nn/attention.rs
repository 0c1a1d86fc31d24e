//! Softmax attention on token-major heads, with an optional additive bias (T5) and its backward.

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu::gemm::{Into, Matrix, MatrixMut, Threads, gemm};
use super::cpu::output::unwritten;
use super::lanes::{identity, largest, product, sum_of, sum_of_two};
use super::real::{Real, numbers, tensor, vectorised};
use crate::error::{Error, Result};
use crate::{by_real, numbers};

/// What the backward needs besides the inputs: the attention probabilities `[B, H, Lq, Lk]`.
#[derive(Debug, Clone)]
pub struct AttentionSaved {
    pub probabilities: Tensor,
}

/// B batch, L tokens, H heads, D head width.
#[derive(Clone, Copy)]
struct Sizes {
    l: usize,
    h: usize,
    d: usize,
}

fn sizes(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(usize, Sizes)> {
    let (b, l, h, d) = q.dims4()?;
    if k.dims() != q.dims() || v.dims() != q.dims() {
        return Err(Error::Invalid(format!("attention over q {:?}, k {:?}, v {:?}", q.dims(), k.dims(), v.dims())));
    }
    Ok((b, Sizes { l, h, d }))
}

/// softmax(scale · q kᵀ + bias) v: `q`, `k`, `v` `[B, L, H, D]`, `bias` `[H, L, L]`, to `[B, L, H, D]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>, scale: f64) -> Result<(Tensor, AttentionSaved)> {
    let (b, s) = sizes(q, k, v)?;
    by_real!(q, T => {
        let mut out = unwritten::<T>(q.elem_count());
        let mut probabilities = unwritten::<T>(b * s.h * s.l * s.l);
        {
            numbers!(T: q, k, v);
            let bias = bias.map(numbers::<T>).transpose()?;
            let (views, scale) = (Views { s, q, k, v, bias: bias.as_deref() }, T::of(scale));
            let outputs = s.heads_mut(&mut out).into_par_iter().zip(probabilities.par_chunks_exact_mut(s.square()));
            outputs.enumerate().for_each(|(i, (out, p))| views.forward(i, scale, out, p));
        }
        let probabilities = tensor(probabilities, (b, s.h, s.l, s.l))?;
        Ok((tensor(out, q.shape())?, AttentionSaved { probabilities }))
    })
}

/// [`attention`] without a backward: the probabilities of a head live only while it is computed.
pub fn attention_output(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    let (_, s) = sizes(q, k, v)?;
    by_real!(q, T => {
        let mut out = unwritten::<T>(q.elem_count());
        {
            numbers!(T: q, k, v);
            let bias = bias.map(numbers::<T>).transpose()?;
            let (views, scale) = (Views { s, q, k, v, bias: bias.as_deref() }, T::of(scale));
            s.heads_mut(&mut out).into_par_iter().enumerate().for_each_init(
                || unwritten::<T>(s.square()),
                |p, (i, out)| views.forward(i, scale, out, p),
            );
        }
        tensor(out, q.shape())
    })
}

impl Sizes {
    /// Scores of one head.
    fn square(self) -> usize {
        self.l * self.l
    }

    /// Every head of every batch item of token-major numbers, to be read.
    fn head<T>(self, i: usize, x: &[T]) -> Matrix<'_, T> {
        let (item, head) = (i / self.h, i % self.h);
        Matrix::row_major(&x[(item * self.l * self.h + head) * self.d..], self.l, self.d, self.h * self.d)
    }

    /// Every head of every batch item of token-major numbers, to be written.
    fn heads_mut<T>(self, x: &mut [T]) -> Vec<MatrixMut<'_, T>> {
        let width = self.h * self.d;
        x.chunks_exact_mut(self.l * width).flat_map(|x| MatrixMut::row_major(x, self.l, width, width).split_columns(self.d)).collect()
    }
}

/// The inputs of [`attention`] as slices.
struct Views<'a, T> {
    s: Sizes,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    bias: Option<&'a [T]>,
}

impl<T: Real> Views<'_, T> {
    /// One head of one batch item: its output and its probabilities `[L, L]`.
    fn forward(&self, i: usize, scale: T, out: MatrixMut<T>, p: &mut [T]) {
        let s = self.s;
        let scores = MatrixMut::row_major(p, s.l, s.l, s.l);
        gemm(scores, s.head(i, self.q), s.head(i, self.k).t(), scale, Into::Replace, Threads::One);
        let bias = self.bias.map(|bias| &bias[i % s.h * s.square()..][..s.square()]);
        vectorised(
            #[inline(always)]
            || {
                // Plain loops: what an iterator calls inside would be compiled for the baseline.
                if let Some(bias) = bias {
                    for (p, &bias) in p.iter_mut().zip(bias) {
                        *p += bias;
                    }
                }
                for row in p.chunks_exact_mut(s.l) {
                    softmax(row);
                }
            },
        );
        gemm(out, Matrix::row_major(p, s.l, s.l, s.l), s.head(i, self.v), T::ONE, Into::Replace, Threads::One);
    }
}

#[inline(always)]
fn softmax<T: Real>(row: &mut [T]) {
    let largest = largest(row);
    for x in row.iter_mut() {
        *x = (*x - largest).exponential();
    }
    let inverse = T::ONE / sum_of(row, identity);
    for x in row.iter_mut() {
        *x *= inverse;
    }
}

/// Gradients of attention.
pub struct AttentionGradients {
    /// `[B, L, H, D]` each.
    pub dq: Tensor,
    pub dk: Tensor,
    pub dv: Tensor,
    /// `[H, L, L]`, summed over the batch; computed where asked for.
    pub dbias: Option<Tensor>,
}

/// Whether the gradient of the bias is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum BiasGradient {
    Skip,
    Compute,
}

/// Backward of [`attention`] from `d_out` `[B, L, H, D]`.
pub fn attention_vjp(
    saved: &AttentionSaved,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    scale: f64,
    d_out: &Tensor,
    bias: BiasGradient,
) -> Result<AttentionGradients> {
    let (b, s) = sizes(q, k, v)?;
    by_real!(q, T => {
        let n = q.elem_count();
        let (mut dq, mut dk, mut dv) = (unwritten::<T>(n), unwritten::<T>(n), unwritten::<T>(n));
        let mut dbias = None;
        {
            numbers!(T: q, k, v, d_out, p = &saved.probabilities);
            let views = Views { s, q, k, v, bias: None };
            let outputs = s.heads_mut(&mut dq).into_par_iter().zip(s.heads_mut(&mut dk)).zip(s.heads_mut(&mut dv));
            let outputs = outputs.map(|((dq, dk), dv)| [dq, dk, dv]).enumerate();
            let run = |ds: &mut [T], i: usize, outputs: [MatrixMut<T>; 3]| {
                views.backward(i, (&p[i * s.square()..][..s.square()], d_out), T::of(scale), outputs, ds);
            };
            match bias {
                BiasGradient::Skip => outputs.for_each_init(|| unwritten::<T>(s.square()), |ds, (i, outputs)| run(ds, i, outputs)),
                BiasGradient::Compute => {
                    let mut ds = unwritten::<T>(b * s.h * s.square());
                    outputs.zip(ds.par_chunks_exact_mut(s.square())).for_each(|((i, outputs), ds)| run(ds, i, outputs));
                    // Summed in the order of the batch.
                    let (first, others) = ds.split_at_mut(s.h * s.square());
                    for item in others.chunks_exact(s.h * s.square()) {
                        first.iter_mut().zip(item).for_each(|(sum, &value)| *sum += value);
                    }
                    dbias = Some(tensor(first.to_vec(), (s.h, s.l, s.l))?);
                }
            }
        }
        let shape = q.shape();
        Ok(AttentionGradients { dq: tensor(dq, shape)?, dk: tensor(dk, shape)?, dv: tensor(dv, shape)?, dbias })
    })
}

impl<T: Real> Views<'_, T> {
    /// One head of one batch item from its probabilities and the output's gradient; `ds` becomes the scores' gradient.
    fn backward(&self, i: usize, (p, d_out): (&[T], &[T]), scale: T, [dq, dk, dv]: [MatrixMut<T>; 3], ds: &mut [T]) {
        let s = self.s;
        let (p_matrix, d_out) = (Matrix::row_major(p, s.l, s.l, s.l), s.head(i, d_out));
        gemm(dv, p_matrix.t(), d_out, T::ONE, Into::Replace, Threads::One);
        gemm(MatrixMut::row_major(ds, s.l, s.l, s.l), d_out, s.head(i, self.v).t(), T::ONE, Into::Replace, Threads::One);
        vectorised(
            #[inline(always)]
            || {
                for (ds, p) in ds.chunks_exact_mut(s.l).zip(p.chunks_exact(s.l)) {
                    softmax_vjp(ds, p);
                }
            },
        );
        let ds = Matrix::row_major(&*ds, s.l, s.l, s.l);
        gemm(dq, ds, s.head(i, self.k), scale, Into::Replace, Threads::One);
        gemm(dk, ds.t(), s.head(i, self.q), scale, Into::Replace, Threads::One);
    }
}

/// dp to ds in place: ds = p ⊙ (dp − Σ dp ⊙ p).
#[inline(always)]
fn softmax_vjp<T: Real>(ds: &mut [T], p: &[T]) {
    let dot = sum_of_two(ds, p, product);
    for (ds, &p) in ds.iter_mut().zip(p) {
        *ds = p * (*ds - dot);
    }
}
