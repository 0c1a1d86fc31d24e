//! Gated residual connection and mean squared error.

use candle_core::{Tensor, WithDType};
use rayon::prelude::*;

use super::cpu::output::unwritten;
use super::real::{Real, tensor, vectorised};
use crate::error::{Error, Result};
use crate::{by_real, numbers};

/// x + gate · h: `x`, `h` `[B, L, D]`, `gate` `[B, D]`.
pub fn gated_residual(x: &Tensor, gate: &Tensor, h: &Tensor) -> Result<Tensor> {
    let (_, l, d) = x.dims3()?;
    by_real!(x, T => {
        let mut y = unwritten::<T>(x.elem_count());
        {
            numbers!(T: x, gate, h);
            let items = y.par_chunks_mut(l * d).zip(x.par_chunks(l * d).zip(h.par_chunks(l * d))).zip(gate.par_chunks(d));
            items.for_each(|((y, (x, h)), gate)| vectorised(#[inline(always)] || {
                for ((y, x), h) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(h.chunks_exact(d)) {
                    for i in 0..d {
                        y[i] = x[i] + gate[i] * h[i];
                    }
                }
            }));
        }
        tensor(y, x.shape())
    })
}

/// Backward of [`gated_residual`] from `dy` `[B, L, D]`: `(dgate [B, D], dh [B, L, D])`; the gradient of `x` is `dy`.
pub fn gated_residual_vjp(gate: &Tensor, h: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (b, l, d) = h.dims3()?;
    by_real!(h, T => {
        let mut dh = unwritten::<T>(h.elem_count());
        let mut dgate = vec![T::ZERO; b * d];
        {
            numbers!(T: gate, h, dy);
            let outputs = dh.par_chunks_mut(l * d).zip(dgate.par_chunks_mut(d));
            outputs.zip(h.par_chunks(l * d).zip(dy.par_chunks(l * d))).zip(gate.par_chunks(d)).for_each(|(((dh, dgate), (h, dy)), gate)| {
                vectorised(#[inline(always)] || {
                    for ((dh, h), dy) in dh.chunks_exact_mut(d).zip(h.chunks_exact(d)).zip(dy.chunks_exact(d)) {
                        for i in 0..d {
                            dh[i] = gate[i] * dy[i];
                            dgate[i] += h[i] * dy[i];
                        }
                    }
                });
            });
        }
        Ok((tensor(dgate, (b, d))?, tensor(dh, h.shape())?))
    })
}

/// gate · x: `x` `[B, L, D]`, `gate` `[B, D]`. Also the backward of [`gated_residual`] with respect to `h` where nobody wants
/// the gradient of the gate.
pub fn gated(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let (_, l, d) = x.dims3()?;
    by_real!(x, T => {
        let mut y = unwritten::<T>(x.elem_count());
        {
            numbers!(T: x, gate);
            y.par_chunks_mut(l * d).zip(x.par_chunks(l * d)).zip(gate.par_chunks(d)).for_each(|((y, x), gate)| vectorised(#[inline(always)] || {
                for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    for i in 0..d {
                        y[i] = gate[i] * x[i];
                    }
                }
            }));
        }
        tensor(y, x.shape())
    })
}

/// Mean over all elements of (prediction − target)², and its gradient with respect to the prediction (same shape).
/// The sum is taken in f64, in element order.
///
/// # Errors
/// Different shapes, and a loss that is not finite.
pub fn mean_squared_error(prediction: &Tensor, target: &Tensor) -> Result<(f64, Tensor)> {
    if prediction.dims() != target.dims() {
        return Err(Error::Invalid(format!("prediction {:?} against target {:?}", prediction.dims(), target.dims())));
    }
    by_real!(prediction, T => {
        let n = prediction.elem_count() as f64;
        let mut gradient = unwritten::<T>(prediction.elem_count());
        let mut sum = 0.0f64;
        {
            numbers!(T: p = prediction, t = target);
            for i in 0..p.len() {
                let difference = p[i] - t[i];
                sum += difference.to_f64() * difference.to_f64();
                gradient[i] = T::of(2.0 / n) * difference;
            }
        }
        if !sum.is_finite() {
            return Err(Error::NonFinite { name: "mean squared error".into(), context: "between prediction and target".into() });
        }
        Ok((sum / n, tensor(gradient, prediction.shape())?))
    })
}
