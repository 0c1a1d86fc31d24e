//! Row-wise transformer operations with a backward for candle's autograd: layer norm, softmax, QuickGELU, linear.
//!
//! candle's own fused layer norm and softmax cut the gradient silently. Here each is one kernel on the CPU and a chain of
//! plain, differentiable operations elsewhere.

// N rows, D columns.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::convolution::{Walk, convolve, stored};
use crate::error::Result;
use crate::nn::real::{Real, numbers, vectorised};

/// Rows per parallel task.
const ROWS: usize = 64;

/// `x` `[.., D]` times `weight` `[O, D]` transposed, plus `bias` `[O]`: `[.., O]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (o, d) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let rows = x.elem_count() / d;
    shape.pop();
    shape.push(o);
    // A 1 × 1 convolution over a column of pixels.
    let y = convolve(&x.reshape((1, rows, 1, d))?, &weight.reshape((o, d, 1, 1))?, bias, Walk::Same)?;
    Ok(y.reshape(shape)?)
}

/// Layer norm over the last dimension of `x` `[.., D]`, scaled by `weight` and shifted by `bias` `[D]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { epsilon })?);
    }
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
    Ok(centred.broadcast_div(&deviation)?.broadcast_mul(weight)?.broadcast_add(bias)?)
}

/// Softmax over the last dimension; −∞ is allowed in a row that has a finite value too.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op1(Softmax)?);
    }
    Ok(candle_nn::ops::softmax(x, D::Minus1)?)
}

/// x · logistic(1.702 x), the activation of OpenAI's CLIP.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op1(QuickGelu)?);
    }
    Ok((x * candle_nn::ops::sigmoid(&(x * SLOPE)?)?)?)
}

const SLOPE: f64 = 1.702;

struct LayerNorm {
    epsilon: f64,
}

#[inline(always)]
fn row_statistics<T: Real>(x: &[T], epsilon: f64) -> (T, T) {
    let n = T::of(x.len() as f64);
    let mut sums = [T::ZERO; 16];
    let mut total = |f: &dyn Fn(T) -> T| -> T {
        sums = [T::ZERO; 16];
        let parts = x.chunks_exact(16);
        let rest = parts.remainder();
        for part in parts {
            for i in 0..16 {
                sums[i] += f(part[i]);
            }
        }
        let mut sum = T::ZERO;
        sums.iter().for_each(|&part| sum += part);
        rest.iter().for_each(|&value| sum += f(value));
        sum
    };
    let mean = total(&|v| v) / n;
    let variance = total(&|v| (v - mean) * (v - mean)) / n;
    (mean, T::ONE / (variance + T::of(epsilon)).root())
}

fn layer_norm_forward<T: Real>(op: &LayerNorm, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
    let d = w.len();
    let mut y = vec![T::ZERO; x.len()];
    y.par_chunks_mut(d * ROWS).zip(x.par_chunks(d * ROWS)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let (mean, inverse) = row_statistics(x, op.epsilon);
                    for i in 0..d {
                        y[i] = (x[i] - mean) * inverse * w[i] + b[i];
                    }
                }
            },
        );
    });
    y
}

/// Gradients of input, weight and bias; the sums run over blocks of rows in their order.
fn layer_norm_backward<T: Real>(op: &LayerNorm, x: &[T], w: &[T], dy: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
    let d = w.len();
    let n = T::of(d as f64);
    let mut dx = vec![T::ZERO; x.len()];
    let blocks = dx.par_chunks_mut(d * ROWS).zip(x.par_chunks(d * ROWS)).zip(dy.par_chunks(d * ROWS));
    let block = |((dx, x), dy): ((&mut [T], &[T]), &[T])| {
        let (mut dw, mut db) = (vec![T::ZERO; d], vec![T::ZERO; d]);
        for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
            let (mean, inverse) = row_statistics(x, op.epsilon);
            let (mut sum, mut sum_normed) = (T::ZERO, T::ZERO);
            for i in 0..d {
                let normed = (x[i] - mean) * inverse;
                dw[i] += dy[i] * normed;
                db[i] += dy[i];
                dx[i] = dy[i] * w[i];
                sum += dx[i];
                sum_normed += dx[i] * normed;
            }
            let (mean_d, mean_dn) = (sum / n, sum_normed / n);
            for i in 0..d {
                dx[i] = inverse * (dx[i] - mean_d - (x[i] - mean) * inverse * mean_dn);
            }
        }
        (dw, db)
    };
    let parts: Vec<(Vec<T>, Vec<T>)> = blocks
        .map(|part| {
            vectorised(
                #[inline(always)]
                || block(part),
            )
        })
        .collect();
    let (mut dw, mut db) = (vec![T::ZERO; d], vec![T::ZERO; d]);
    for (part_w, part_b) in &parts {
        dw.iter_mut().zip(part_w).for_each(|(sum, &value)| *sum += value);
        db.iter_mut().zip(part_b).for_each(|(sum, &value)| *sum += value);
    }
    (dx, dw, db)
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = match x {
            CpuStorage::F32(_) => {
                CpuStorage::F32(layer_norm_forward(self, stored(x, x_layout)?, stored(w, w_layout)?, stored(b, b_layout)?))
            }
            CpuStorage::F64(_) => {
                CpuStorage::F64(layer_norm_forward(self, stored(x, x_layout)?, stored(w, w_layout)?, stored(b, b_layout)?))
            }
            _ => candle_core::bail!("layer norm on the CPU runs in f32 or f64"),
        };
        Ok((out, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        fn run<T: Real>(op: &LayerNorm, [x, w, b, dy]: [&Tensor; 4]) -> Result<[Option<Tensor>; 3]> {
            let dy = dy.contiguous()?;
            let (dx, dw, db) = layer_norm_backward(op, &numbers::<T>(x)?, &numbers::<T>(w)?, &numbers::<T>(&dy)?);
            let back = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
            Ok([back(dx, x)?, back(dw, w)?, back(db, b)?])
        }
        let tensors = [x, w, b, dy];
        let gradients = if x.dtype() == DType::F64 { run::<f64>(self, tensors) } else { run::<f32>(self, tensors) };
        let [dx, dw, db] = gradients.map_err(candle_core::Error::wrap)?;
        Ok((dx, dw, db))
    }
}

struct Softmax;

fn softmax_forward<T: Real>(d: usize, x: &[T]) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len()];
    y.par_chunks_mut(d * ROWS).zip(x.par_chunks(d * ROWS)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let mut largest = x[0];
                    for &value in x {
                        largest = largest.larger(value);
                    }
                    let mut sum = T::ZERO;
                    for i in 0..d {
                        y[i] = (x[i] - largest).exponential();
                    }
                    for &value in y.iter() {
                        sum += value;
                    }
                    let inverse = T::ONE / sum;
                    for value in y.iter_mut() {
                        *value *= inverse;
                    }
                }
            },
        );
    });
    y
}

/// dx = y · (dy − Σ dy·y).
fn softmax_backward<T: Real>(d: usize, y: &[T], dy: &[T]) -> Vec<T> {
    let mut dx = vec![T::ZERO; y.len()];
    dx.par_chunks_mut(d * ROWS).zip(y.par_chunks(d * ROWS)).zip(dy.par_chunks(d * ROWS)).for_each(|((dx, y), dy)| {
        vectorised(
            #[inline(always)]
            || {
                for ((dx, y), dy) in dx.chunks_exact_mut(d).zip(y.chunks_exact(d)).zip(dy.chunks_exact(d)) {
                    let mut dot = T::ZERO;
                    for i in 0..d {
                        dot += y[i] * dy[i];
                    }
                    for i in 0..d {
                        dx[i] = y[i] * (dy[i] - dot);
                    }
                }
            },
        );
    });
    dx
}

struct QuickGelu;

fn quick_gelu_map<T: Real>(x: &[T], f: impl Fn(usize, T, T) -> T + Sync) -> Vec<T> {
    const CHUNK: usize = 1 << 13;
    let mut y = vec![T::ZERO; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
        vectorised(
            #[inline(always)]
            || {
                for i in 0..y.len() {
                    y[i] = f(chunk * CHUNK + i, x[i], (T::of(SLOPE) * x[i]).logistic());
                }
            },
        );
    });
    y
}

/// Runs a one-argument kernel on f32 or f64 storage.
macro_rules! on_storage {
    ($storage:expr, $layout:expr, $name:expr, $kernel:expr) => {
        match $storage {
            CpuStorage::F32(_) => CpuStorage::F32($kernel(stored::<f32>($storage, $layout)?)),
            CpuStorage::F64(_) => CpuStorage::F64($kernel(stored::<f64>($storage, $layout)?)),
            _ => candle_core::bail!("{} on the CPU runs in f32 or f64", $name),
        }
    };
}

/// Gradient of a one-argument operation from a saved tensor and `dy`.
fn backward1<T: Real>(saved: &Tensor, dy: &Tensor, kernel: impl Fn(&[T], &[T]) -> Vec<T>) -> candle_core::Result<Option<Tensor>> {
    let dy = dy.contiguous()?;
    let numbers = |tensor| numbers::<T>(tensor).map_err(candle_core::Error::wrap);
    let values = kernel(&numbers(saved)?, &numbers(&dy)?);
    Tensor::from_vec(values, saved.shape(), saved.device()).map(Some)
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = layout.dims()[layout.dims().len() - 1];
        Ok((on_storage!(x, layout, self.name(), |x| softmax_forward(d, x)), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let d = y.dim(D::Minus1)?;
        match y.dtype() {
            DType::F64 => backward1::<f64>(y, dy, |y, dy| softmax_backward(d, y, dy)),
            _ => backward1::<f32>(y, dy, |y, dy| softmax_backward(d, y, dy)),
        }
    }
}

#[inline(always)]
fn quick_gelu_slope<T: Real>(x: T, gate: T) -> T {
    gate * (T::ONE + T::of(SLOPE) * x * (T::ONE - gate))
}

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(quick_gelu_map(stored::<f32>(x, layout)?, |_, x, gate| x * gate)),
            CpuStorage::F64(_) => CpuStorage::F64(quick_gelu_map(stored::<f64>(x, layout)?, |_, x, gate| x * gate)),
            _ => candle_core::bail!("quick-gelu on the CPU runs in f32 or f64"),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        match x.dtype() {
            DType::F64 => backward1::<f64>(x, dy, |x, dy| quick_gelu_map(x, |i, x, gate| dy[i] * quick_gelu_slope(x, gate))),
            _ => backward1::<f32>(x, dy, |x, dy| quick_gelu_map(x, |i, x, gate| dy[i] * quick_gelu_slope(x, gate))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;
    use candle_core::{Device, Var};

    fn random(shape: &[usize], item: u64) -> Var {
        let key = rng::Key { seed: 8, purpose: "test", item, draw: 0 };
        let values: Vec<f64> = rng::normal(&mut rng::stream(key), shape.iter().product()).into_iter().map(f64::from).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap()
    }

    /// Compares two computations of the same function by value and by all gradients.
    fn assert_same(vars: &[&Var], ours: &Tensor, theirs: &Tensor) {
        assert!(distance(ours, theirs) < 1e-12);
        let weight = random(ours.dims(), 99);
        let gradient = |y: &Tensor| (y * weight.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let (ours, theirs) = (gradient(ours), gradient(theirs));
        for var in vars {
            assert!(distance(ours.get(var).unwrap(), theirs.get(var).unwrap()) < 1e-11);
        }
    }

    #[test]
    fn layer_norm_is_that_of_plain_operations() {
        let (x, w, b) = (random(&[70, 2, 37], 0), random(&[37], 1), random(&[37], 2));
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let deviation = (centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
        let plain = centred.broadcast_div(&deviation).unwrap().broadcast_mul(&w).unwrap().broadcast_add(&b).unwrap();
        assert_same(&[&x, &w, &b], &layer_norm(&x, &w, &b, 1e-5).unwrap(), &plain);
    }

    #[test]
    fn softmax_and_quick_gelu_are_those_of_plain_operations() {
        let x = random(&[3, 5, 7], 0);
        assert_same(&[&x], &softmax(&x).unwrap(), &candle_nn::ops::softmax(&x, D::Minus1).unwrap());
        let plain = (x.as_tensor() / ((x.as_tensor() * -SLOPE).unwrap().exp().unwrap() + 1.0).unwrap()).unwrap();
        assert_same(&[&x], &quick_gelu(&x).unwrap(), &plain);
    }

    #[test]
    fn linear_is_the_product_with_the_transposed_weight() {
        let (x, w, b) = (random(&[4, 3, 6], 0), random(&[5, 6], 1), random(&[5], 2));
        let plain = x.reshape((12, 6)).unwrap().matmul(&w.t().unwrap()).unwrap().broadcast_add(&b).unwrap().reshape((4, 3, 5)).unwrap();
        assert_same(&[&x, &w, &b], &linear(&x, &w, &b).unwrap(), &plain);
    }

    #[test]
    fn a_masked_place_gets_no_weight() {
        let x = Tensor::new(&[[0.5f32, f32::NEG_INFINITY, 0.5]], &Device::Cpu).unwrap();
        let y = softmax(&x).unwrap().to_vec2::<f32>().unwrap();
        assert!((y[0][0] - 0.5).abs() < 1e-6 && y[0][1] < 1e-30);
    }
}
