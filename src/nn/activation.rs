//! Pointwise functions with their backward: tanh-approximated GELU, gated GELU (T5 v1.1), SiLU, ReLU, dropout mask.

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu::output::unwritten;
use super::real::{Real, tensor, vectorised};
use crate::error::Result;
use crate::{by_real, numbers};

/// Elements per parallel task.
const CHUNK: usize = 1 << 13;

/// gelu(x) ≈ x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) = x · logistic(2u) (Hendrycks & Gimpel 2016).
#[inline(always)]
fn gelu_value<T: Real>(x: T) -> T {
    x * gelu_gate(x)
}

#[inline(always)]
fn gelu_gate<T: Real>(x: T) -> T {
    // 2 √(2/π).
    const TWO_ROOT: f64 = 1.595_769_121_605_730_7;
    (T::of(TWO_ROOT) * (x + T::of(0.044715) * x * x * x)).logistic()
}

#[inline(always)]
fn gelu_slope<T: Real>(x: T) -> T {
    const TWO_ROOT: f64 = 1.595_769_121_605_730_7;
    let gate = gelu_gate(x);
    gate + x * gate * (T::ONE - gate) * T::of(TWO_ROOT) * (T::ONE + T::of(3.0 * 0.044715) * x * x)
}

fn map1<T: Real>(x: &Tensor, f: impl Fn(T) -> T + Sync) -> Result<Tensor> {
    let mut y = unwritten(x.elem_count());
    {
        numbers!(T: x);
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            vectorised(
                #[inline(always)]
                || {
                    for i in 0..y.len() {
                        y[i] = f(x[i]);
                    }
                },
            );
        });
    }
    tensor(y, x.shape())
}

fn map2<T: Real>(a: &Tensor, b: &Tensor, f: impl Fn(T, T) -> T + Sync) -> Result<Tensor> {
    let mut y = unwritten(a.elem_count());
    {
        numbers!(T: a, b);
        assert_eq!(a.len(), b.len(), "pointwise operands differ in size");
        y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(y, (a, b))| {
            vectorised(
                #[inline(always)]
                || {
                    for i in 0..y.len() {
                        y[i] = f(a[i], b[i]);
                    }
                },
            );
        });
    }
    tensor(y, a.shape())
}

/// GELU with tanh approximation, any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    by_real!(x, T => map1::<T>(x, gelu_value))
}

/// Backward of [`gelu`].
pub fn gelu_vjp(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    by_real!(x, T => map2::<T>(x, dy, #[inline(always)] |x, dy| dy * gelu_slope(x)))
}

/// gelu(gate) · value, any shape.
pub fn gated_gelu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    by_real!(gate, T => map2::<T>(gate, value, #[inline(always)] |g, v| gelu_value(g) * v))
}

/// Backward of [`gated_gelu`]: `(dgate, dvalue)`.
pub fn gated_gelu_vjp(gate: &Tensor, value: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    by_real!(gate, T => {
        let dgate_per_value = map2::<T>(gate, dy, #[inline(always)] |g, dy| dy * gelu_slope(g))?;
        let dgate = map2::<T>(&dgate_per_value, value, #[inline(always)] |a, v| a * v)?;
        Ok((dgate, map2::<T>(gate, dy, #[inline(always)] |g, dy| dy * gelu_value(g))?))
    })
}

/// x · logistic(x), any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    by_real!(x, T => map1::<T>(x, #[inline(always)] |x| x * x.logistic()))
}

/// Backward of [`silu`].
pub fn silu_vjp(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    by_real!(x, T => map2::<T>(x, dy, #[inline(always)] |x, dy| {
        let gate = x.logistic();
        dy * gate * (T::ONE + x * (T::ONE - gate))
    }))
}

/// max(x, 0) · mask; `mask` of the same shape holds 0 or 1/(1 − rate) (dropout), or ones.
pub fn relu_dropout(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    by_real!(x, T => map2::<T>(x, mask, #[inline(always)] |x, m| if x > T::ZERO { x * m } else { T::ZERO }))
}

/// Backward of [`relu_dropout`] with respect to `x`.
pub fn relu_dropout_vjp(x: &Tensor, mask: &Tensor, dy: &Tensor) -> Result<Tensor> {
    by_real!(x, T => {
        let open = map2::<T>(x, mask, #[inline(always)] |x, m| if x > T::ZERO { m } else { T::ZERO })?;
        map2::<T>(&open, dy, #[inline(always)] |m, dy| m * dy)
    })
}

/// a + b, equal shapes.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    by_real!(a, T => map2::<T>(a, b, #[inline(always)] |a, b| a + b))
}
