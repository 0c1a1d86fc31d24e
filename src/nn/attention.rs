//! Softmax attention on token-major heads, with an optional additive bias (T5) and its backward.

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu::gemm::{Into, Matrix, Threads, gemm};
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
        let mut out = vec![T::ZERO; q.elem_count()];
        let mut probabilities = vec![T::ZERO; b * s.h * s.l * s.l];
        {
            numbers!(T: q, k, v);
            let bias = bias.map(numbers::<T>).transpose()?;
            let bias = bias.as_deref();
            let per = s.l * s.h * s.d;
            out.par_chunks_mut(per).zip(probabilities.par_chunks_mut(s.h * s.l * s.l)).enumerate().for_each(|(i, (out, p))| {
                let at = i * per..(i + 1) * per;
                forward_one(s, &q[at.clone()], &k[at.clone()], &v[at], bias, T::of(scale), out, p);
            });
        }
        let probabilities = tensor(probabilities, (b, s.h, s.l, s.l))?;
        Ok((tensor(out, q.shape())?, AttentionSaved { probabilities }))
    })
}

/// All heads of one batch item.
#[expect(clippy::too_many_arguments, reason = "slices of one batch item, used in one place")]
fn forward_one<T: Real>(s: Sizes, q: &[T], k: &[T], v: &[T], bias: Option<&[T]>, scale: T, out: &mut [T], p: &mut [T]) {
    let stride = s.h * s.d;
    for head in 0..s.h {
        let p = &mut p[head * s.l * s.l..(head + 1) * s.l * s.l];
        let from = head * s.d;
        let view = |x| Matrix::row_major(x, s.l, s.d, stride);
        gemm(p, s.l, view(&q[from..]), view(&k[from..]).t(), scale, Into::Replace, Threads::One);
        if let Some(bias) = bias {
            p.iter_mut().zip(&bias[head * s.l * s.l..]).for_each(|(p, &bias)| *p += bias);
        }
        vectorised(
            #[inline(always)]
            || p.chunks_exact_mut(s.l).for_each(softmax),
        );
        gemm(&mut out[from..], stride, Matrix::row_major(p, s.l, s.l, s.l), view(&v[from..]), T::ONE, Into::Replace, Threads::One);
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
        let per = s.l * s.h * s.d;
        let (mut dq, mut dk, mut dv) = (vec![T::ZERO; b * per], vec![T::ZERO; b * per], vec![T::ZERO; b * per]);
        // Score gradients replace the probabilities item by item; the bias gradient sums them in batch order.
        let square = s.h * s.l * s.l;
        let mut ds = vec![T::ZERO; b * square];
        {
            numbers!(T: q, k, v, d_out, p = &saved.probabilities);
            let outputs = dq.par_chunks_mut(per).zip(dk.par_chunks_mut(per)).zip(dv.par_chunks_mut(per).zip(ds.par_chunks_mut(square)));
            outputs.enumerate().for_each(|(i, ((dq, dk), (dv, ds)))| {
                let at = i * per..(i + 1) * per;
                let inputs = [&q[at.clone()], &k[at.clone()], &v[at.clone()], &d_out[at], &p[i * square..(i + 1) * square]];
                backward_one(s, inputs, T::of(scale), [dq, dk, dv, ds]);
            });
        }
        let dbias = match bias {
            BiasGradient::Skip => None,
            BiasGradient::Compute => {
                let mut sum = vec![T::ZERO; square];
                for item in ds.chunks_exact(square) {
                    sum.iter_mut().zip(item).for_each(|(sum, &value)| *sum += value);
                }
                Some(tensor(sum, (s.h, s.l, s.l))?)
            }
        };
        let shape = q.shape();
        Ok(AttentionGradients { dq: tensor(dq, shape)?, dk: tensor(dk, shape)?, dv: tensor(dv, shape)?, dbias })
    })
}

fn backward_one<T: Real>(s: Sizes, [q, k, v, d_out, p]: [&[T]; 5], scale: T, [dq, dk, dv, ds]: [&mut [T]; 4]) {
    let stride = s.h * s.d;
    for head in 0..s.h {
        let square = head * s.l * s.l..(head + 1) * s.l * s.l;
        let (p, ds) = (&p[square.clone()], &mut ds[square]);
        let from = head * s.d;
        let view = |x| Matrix::row_major(x, s.l, s.d, stride);
        let p_matrix = Matrix::row_major(p, s.l, s.l, s.l);
        gemm(&mut dv[from..], stride, p_matrix.t(), view(&d_out[from..]), T::ONE, Into::Replace, Threads::One);
        gemm(ds, s.l, view(&d_out[from..]), view(&v[from..]).t(), T::ONE, Into::Replace, Threads::One);
        vectorised(
            #[inline(always)]
            || ds.chunks_exact_mut(s.l).zip(p.chunks_exact(s.l)).for_each(|(ds, p)| softmax_vjp(ds, p)),
        );
        let ds = Matrix::row_major(&*ds, s.l, s.l, s.l);
        gemm(&mut dq[from..], stride, ds, view(&k[from..]), scale, Into::Replace, Threads::One);
        gemm(&mut dk[from..], stride, ds.t(), view(&q[from..]), scale, Into::Replace, Threads::One);
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
