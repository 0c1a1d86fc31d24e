//! Row normalisations: root-mean-square norm with weight (T5), layer norm with per-item modulation (DiT).

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu::output::unwritten;
use super::lanes::{identity, product_of_three, square, sum_of, sum_of_three, sum_of_two};
use super::linear::{ROWS_PER_SUM, rows_columns, sum_of_rows};
use super::real::{Real, tensor, vectorised};
use crate::error::Result;
use crate::{by_real, numbers};

/// x / rms(x) · w: `x` `[.., D]`, `weight` `[D]` (T5LayerNorm: no mean, no bias).
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    by_real!(x, T => {
        let (_, d) = rows_columns(x)?;
        let mut y = unwritten::<T>(x.elem_count());
        {
            numbers!(T: x, w = weight);
            y.par_chunks_mut(d * 16).zip(x.par_chunks(d * 16)).for_each(|(y, x)| vectorised(#[inline(always)] || {
                for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let inverse = inverse_rms(x, epsilon);
                    for i in 0..d {
                        y[i] = x[i] * inverse * w[i];
                    }
                }
            }));
        }
        tensor(y, x.shape())
    })
}

#[inline(always)]
pub(super) fn inverse_rms<T: Real>(x: &[T], epsilon: f64) -> T {
    T::ONE / (sum_of(x, square) / T::of(x.len() as f64) + T::of(epsilon)).root()
}

/// Backward of [`rms_norm`]: `(dx, dweight)` from `dy` `[.., D]`; `dweight` `[D]` is summed in an order that the shape fixes.
pub fn rms_norm_vjp(x: &Tensor, weight: &Tensor, epsilon: f64, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    by_real!(x, T => {
        let (_, d) = rows_columns(x)?;
        let mut dx = unwritten::<T>(x.elem_count());
        let parts: Vec<Vec<T>> = {
            numbers!(T: x, w = weight, dy);
            let rows = ROWS_PER_SUM * d.max(1);
            let part = |(dx, (x, dy)): (&mut [T], (&[T], &[T]))| vectorised(#[inline(always)] || {
                let mut dw = vec![T::ZERO; d];
                for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
                    rms_norm_vjp_row(x, w, epsilon, dy, dx, &mut dw);
                }
                dw
            });
            dx.par_chunks_mut(rows).zip(x.par_chunks(rows).zip(dy.par_chunks(rows))).map(part).collect()
        };
        Ok((tensor(dx, x.shape())?, tensor(sum_of_rows(&parts, d), d)?))
    })
}

/// One row of the backward of the root-mean-square norm; adds to `dw`.
#[inline(always)]
pub(super) fn rms_norm_vjp_row<T: Real>(x: &[T], w: &[T], epsilon: f64, dy: &[T], dx: &mut [T], dw: &mut [T]) {
    let n = x.len();
    let (w, dy, dx, dw) = (&w[..n], &dy[..n], &mut dx[..n], &mut dw[..n]);
    let inverse = inverse_rms(x, epsilon);
    let dot = sum_of_three(dy, w, x, product_of_three);
    let shrink = dot * inverse * inverse * inverse / T::of(n as f64);
    for i in 0..n {
        dw[i] += dy[i] * x[i] * inverse;
        dx[i] = dy[i] * w[i] * inverse - x[i] * shrink;
    }
}

/// Epsilon of the affine-free layer norms of Flux (flux@802fb47 src/flux/modules/layers.py).
const LAYER_NORM_EPSILON: f64 = 1e-6;

/// (1 + scale) · layer_norm(x) + shift: `x` `[B, L, D]`, `shift` and `scale` `[B, D]`.
pub fn modulated_norm(x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let (_, l, d) = x.dims3()?;
    by_real!(x, T => {
        let mut y = unwritten::<T>(x.elem_count());
        {
            numbers!(T: x, shift, scale);
            y.par_chunks_mut(l * d).zip(x.par_chunks(l * d)).enumerate().for_each(|(b, (y, x))| vectorised(#[inline(always)] || {
                let (shift, scale) = (&shift[b * d..(b + 1) * d], &scale[b * d..(b + 1) * d]);
                for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let (mean, inverse) = moments(x);
                    for i in 0..d {
                        y[i] = (T::ONE + scale[i]) * ((x[i] - mean) * inverse) + shift[i];
                    }
                }
            }));
        }
        tensor(y, x.shape())
    })
}

/// Mean and inverse standard deviation of a row.
#[inline(always)]
fn moments<T: Real>(x: &[T]) -> (T, T) {
    let n = T::of(x.len() as f64);
    let mean = sum_of(x, identity) / n;
    let squares = sum_of(
        x,
        #[inline(always)]
        |x| (x - mean) * (x - mean),
    );
    (mean, T::ONE / (squares / n + T::of(LAYER_NORM_EPSILON)).root())
}

/// Backward of [`modulated_norm`]: `(dx [B, L, D], dshift [B, D], dscale [B, D])` from `dy` `[B, L, D]`.
pub fn modulated_norm_vjp(x: &Tensor, scale: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (batch, l, d) = x.dims3()?;
    by_real!(x, T => {
        let mut dx = unwritten::<T>(x.elem_count());
        let (mut dshift, mut dscale) = (vec![T::ZERO; batch * d], vec![T::ZERO; batch * d]);
        {
            numbers!(T: x, scale, dy);
            let outputs = dx.par_chunks_mut(l * d).zip(dshift.par_chunks_mut(d).zip(dscale.par_chunks_mut(d)));
            outputs.enumerate().for_each(|(b, (dx, (dshift, dscale)))| vectorised(#[inline(always)] || {
                let at = b * l * d..(b + 1) * l * d;
                let scale = &scale[b * d..(b + 1) * d];
                let rows = dx.chunks_exact_mut(d).zip(x[at.clone()].chunks_exact(d)).zip(dy[at].chunks_exact(d));
                for ((dx, x), dy) in rows {
                    modulated_norm_vjp_row(x, scale, dy, dx, dshift, dscale);
                }
            }));
        }
        Ok((tensor(dx, x.shape())?, tensor(dshift, (batch, d))?, tensor(dscale, (batch, d))?))
    })
}

#[inline(always)]
fn modulated_norm_vjp_row<T: Real>(x: &[T], scale: &[T], dy: &[T], dx: &mut [T], dshift: &mut [T], dscale: &mut [T]) {
    let d = x.len();
    let (scale, dy, dx, dshift, dscale) = (&scale[..d], &dy[..d], &mut dx[..d], &mut dshift[..d], &mut dscale[..d]);
    let (mean, inverse) = moments(x);
    let n = T::of(d as f64);
    let sum = sum_of_two(
        dy,
        scale,
        #[inline(always)]
        |dy, scale| dy * (T::ONE + scale),
    ) / n;
    let dot = sum_of_three(
        dy,
        scale,
        x,
        #[inline(always)]
        |dy, scale, x| dy * (T::ONE + scale) * ((x - mean) * inverse),
    ) / n;
    for i in 0..d {
        let normed = (x[i] - mean) * inverse;
        dshift[i] += dy[i];
        dscale[i] += dy[i] * normed;
        dx[i] = inverse * (dy[i] * (T::ONE + scale[i]) - sum - normed * dot);
    }
}
