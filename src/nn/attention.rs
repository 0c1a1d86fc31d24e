//! Softmax attention on token-major heads, of tokens among themselves or to other tokens, with an optional additive bias
//! (positions in T5, masks) and its backward.

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu::gemm::{Into, Matrix, MatrixMut, Threads, gemm};
use super::cpu::output::unwritten;
use super::lanes::{identity, largest, product, sum_of, sum_of_two};
use super::real::{Real, numbers, tensor, vectorised};
use crate::error::{Error, Result};
use crate::{by_real, numbers};

// B batch, Lq queries, Lk keys, H heads, D head width.

/// What the backward needs besides the inputs: the attention probabilities `[B, H, Lq, Lk]`.
#[derive(Debug, Clone)]
pub struct AttentionSaved {
    pub probabilities: Tensor,
}

#[derive(Clone, Copy)]
struct Sizes {
    lq: usize,
    lk: usize,
    h: usize,
    d: usize,
}

fn sizes(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(usize, Sizes)> {
    let ((b, lq, h, d), (kb, lk, kh, kd)) = (q.dims4()?, k.dims4()?);
    if (kb, kh, kd) != (b, h, d) || v.dims() != k.dims() {
        return Err(Error::Invalid(format!("attention over q {:?}, k {:?}, v {:?}", q.dims(), k.dims(), v.dims())));
    }
    Ok((b, Sizes { lq, lk, h, d }))
}

/// softmax(scale · q kᵀ + bias) v: `q` `[B, Lq, H, D]`, `k` and `v` `[B, Lk, H, D]`, to `[B, Lq, H, D]`. The bias is
/// `[H, Lq, Lk]` for every item of the batch, `[B, Lk]` for every head and query (a mask: 0, or far below zero), or
/// `[B, H, Lq, Lk]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>, scale: f64) -> Result<(Tensor, AttentionSaved)> {
    let (b, s) = sizes(q, k, v)?;
    by_real!(q, T => {
        let mut out = unwritten::<T>(q.elem_count());
        let mut probabilities = unwritten::<T>(b * s.h * s.scores());
        {
            numbers!(T: q, k, v);
            let reach = bias.map(|bias| reach(bias, b, s)).transpose()?;
            let bias = bias.map(numbers::<T>).transpose()?;
            let (views, scale) = (Views { s, q, k, v, bias: bias.as_deref().zip(reach) }, T::of(scale));
            let outputs = s.heads_mut(&mut out, s.lq).into_par_iter().zip(probabilities.par_chunks_exact_mut(s.scores()));
            outputs.enumerate().for_each(|(i, (out, p))| views.forward(i, scale, out, p));
        }
        let probabilities = tensor(probabilities, (b, s.h, s.lq, s.lk))?;
        Ok((tensor(out, q.shape())?, AttentionSaved { probabilities }))
    })
}

/// [`attention`] without a backward: the probabilities of a head live only while it is computed.
pub fn attention_output(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    let (b, s) = sizes(q, k, v)?;
    by_real!(q, T => {
        let mut out = unwritten::<T>(q.elem_count());
        {
            numbers!(T: q, k, v);
            let reach = bias.map(|bias| reach(bias, b, s)).transpose()?;
            let bias = bias.map(numbers::<T>).transpose()?;
            let (views, scale) = (Views { s, q, k, v, bias: bias.as_deref().zip(reach) }, T::of(scale));
            s.heads_mut(&mut out, s.lq).into_par_iter().enumerate().for_each_init(
                || unwritten::<T>(s.scores()),
                |p, (i, out)| views.forward(i, scale, out, p),
            );
        }
        tensor(out, q.shape())
    })
}

impl Sizes {
    /// Scores of one head.
    fn scores(self) -> usize {
        self.lq * self.lk
    }

    /// One head of one batch item of `l` token-major tokens, to be read.
    fn head<T>(self, i: usize, x: &[T], l: usize) -> Matrix<'_, T> {
        let (item, head) = (i / self.h, i % self.h);
        Matrix::row_major(&x[(item * l * self.h + head) * self.d..], l, self.d, self.h * self.d)
    }

    /// Every head of every batch item of `l` token-major tokens, to be written.
    fn heads_mut<T>(self, x: &mut [T], l: usize) -> Vec<MatrixMut<'_, T>> {
        let width = self.h * self.d;
        x.chunks_exact_mut(l * width).flat_map(|x| MatrixMut::row_major(x, l, width, width).split_columns(self.d)).collect()
    }
}

/// Which scores a bias is added to.
#[derive(Clone, Copy)]
enum Reach {
    /// `[H, Lq, Lk]`: the same for every item of the batch.
    Heads,
    /// `[B, Lk]`: the same for every head and query.
    Keys,
    /// `[B, H, Lq, Lk]`.
    Scores,
}

fn reach(bias: &Tensor, b: usize, s: Sizes) -> Result<Reach> {
    match *bias.dims() {
        [h, lq, lk] if (h, lq, lk) == (s.h, s.lq, s.lk) => Ok(Reach::Heads),
        [items, lk] if (items, lk) == (b, s.lk) => Ok(Reach::Keys),
        [items, h, lq, lk] if (items, h, lq, lk) == (b, s.h, s.lq, s.lk) => Ok(Reach::Scores),
        _ => Err(Error::Invalid(format!(
            "a bias {:?} does not fit attention of {b} items, {} heads, {} queries and {} keys",
            bias.dims(),
            s.h,
            s.lq,
            s.lk
        ))),
    }
}

/// The inputs of [`attention`] as slices.
struct Views<'a, T> {
    s: Sizes,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    bias: Option<(&'a [T], Reach)>,
}

impl<T: Real> Views<'_, T> {
    /// One head of one batch item: its output and its probabilities `[Lq, Lk]`.
    fn forward(&self, i: usize, scale: T, out: MatrixMut<T>, p: &mut [T]) {
        let s = self.s;
        let scores = MatrixMut::row_major(p, s.lq, s.lk, s.lk);
        gemm(scores, s.head(i, self.q, s.lq), s.head(i, self.k, s.lk).t(), scale, Into::Replace, Threads::One);
        let bias = self.bias.map(|(bias, reach)| match reach {
            Reach::Heads => &bias[i % s.h * s.scores()..][..s.scores()],
            Reach::Keys => &bias[i / s.h * s.lk..][..s.lk],
            Reach::Scores => &bias[i * s.scores()..][..s.scores()],
        });
        vectorised(
            #[inline(always)]
            || {
                // Plain loops: what an iterator calls inside would be compiled for the baseline.
                if let Some(bias) = bias {
                    for p in p.chunks_exact_mut(bias.len()) {
                        for (p, &bias) in p.iter_mut().zip(bias) {
                            *p += bias;
                        }
                    }
                }
                for row in p.chunks_exact_mut(s.lk) {
                    softmax(row);
                }
            },
        );
        gemm(out, Matrix::row_major(p, s.lq, s.lk, s.lk), s.head(i, self.v, s.lk), T::ONE, Into::Replace, Threads::One);
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
    /// `[B, Lq, H, D]`.
    pub dq: Tensor,
    /// `[B, Lk, H, D]`, as `dv`.
    pub dk: Tensor,
    pub dv: Tensor,
    /// `[H, Lq, Lk]`, summed over the batch; computed where asked for.
    pub dbias: Option<Tensor>,
}

/// Whether the gradient of the bias is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum BiasGradient {
    Skip,
    Compute,
}

/// Backward of [`attention`] from `d_out` `[B, Lq, H, D]`.
pub fn attention_vjp(
    saved: &AttentionSaved,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    scale: f64,
    d_out: &Tensor,
    bias: BiasGradient,
) -> Result<AttentionGradients> {
    let (b, s) = sizes(q, k, v)?;
    by_real!(q, T => {
        let shapes = (q.shape(), k.shape());
        let (n, nk) = (q.elem_count(), k.elem_count());
        let (mut dq, mut dk, mut dv) = (unwritten::<T>(n), unwritten::<T>(nk), unwritten::<T>(nk));
        let mut dbias = None;
        {
            numbers!(T: q, k, v, d_out, p = &saved.probabilities);
            let views = Views { s, q, k, v, bias: None };
            let outputs = s.heads_mut(&mut dq, s.lq).into_par_iter().zip(s.heads_mut(&mut dk, s.lk)).zip(s.heads_mut(&mut dv, s.lk));
            let outputs = outputs.map(|((dq, dk), dv)| [dq, dk, dv]).enumerate();
            let run = |ds: &mut [T], i: usize, outputs: [MatrixMut<T>; 3]| {
                views.backward(i, (&p[i * s.scores()..][..s.scores()], d_out), T::of(scale), outputs, ds);
            };
            match bias {
                BiasGradient::Skip => outputs.for_each_init(|| unwritten::<T>(s.scores()), |ds, (i, outputs)| run(ds, i, outputs)),
                BiasGradient::Compute => {
                    let mut ds = unwritten::<T>(b * s.h * s.scores());
                    outputs.zip(ds.par_chunks_exact_mut(s.scores())).for_each(|((i, outputs), ds)| run(ds, i, outputs));
                    // Summed in the order of the batch.
                    let (first, others) = ds.split_at_mut(s.h * s.scores());
                    for item in others.chunks_exact(s.h * s.scores()) {
                        first.iter_mut().zip(item).for_each(|(sum, &value)| *sum += value);
                    }
                    dbias = Some(tensor(first.to_vec(), (s.h, s.lq, s.lk))?);
                }
            }
        }
        Ok(AttentionGradients { dq: tensor(dq, shapes.0)?, dk: tensor(dk, shapes.1)?, dv: tensor(dv, shapes.1)?, dbias })
    })
}

impl<T: Real> Views<'_, T> {
    /// One head of one batch item from its probabilities and the output's gradient; `ds` becomes the scores' gradient.
    fn backward(&self, i: usize, (p, d_out): (&[T], &[T]), scale: T, [dq, dk, dv]: [MatrixMut<T>; 3], ds: &mut [T]) {
        let s = self.s;
        let (p_matrix, d_out) = (Matrix::row_major(p, s.lq, s.lk, s.lk), s.head(i, d_out, s.lq));
        gemm(dv, p_matrix.t(), d_out, T::ONE, Into::Replace, Threads::One);
        gemm(MatrixMut::row_major(ds, s.lq, s.lk, s.lk), d_out, s.head(i, self.v, s.lk).t(), T::ONE, Into::Replace, Threads::One);
        vectorised(
            #[inline(always)]
            || {
                for (ds, p) in ds.chunks_exact_mut(s.lk).zip(p.chunks_exact(s.lk)) {
                    softmax_vjp(ds, p);
                }
            },
        );
        let ds = Matrix::row_major(&*ds, s.lq, s.lk, s.lk);
        gemm(dq, ds, s.head(i, self.k, s.lk), scale, Into::Replace, Threads::One);
        gemm(dk, ds.t(), s.head(i, self.q, s.lq), scale, Into::Replace, Threads::One);
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
