//! Group norm of channels-last images, with or without SiLU after it, with a backward for candle's autograd: two fused
//! kernels on the CPU, plain candle operations elsewhere.

// B batch, H height, W width, C channels.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::convolution::stored;
use crate::error::{Error, Result};
use crate::nn::real::{Real, numbers, vectorised};

/// ε of every group norm in AutoencoderKL.
const EPSILON: f64 = 1e-6;

/// Per-channel vectors are repeated to about this length, so that inner loops are long whatever the number of channels.
const TILE: usize = 128;

/// What follows a group norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// x · logistic(x).
    Silu,
}

/// Group norm of `x` `[B, H, W, C]` over H, W and C/groups channels (ε = 1e-6), scaled by `weight` and shifted by `bias` `[C]`.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, then: Then) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if groups == 0 || c % groups != 0 {
        return Err(Error::Invalid(format!("{c} channels cannot be split into {groups} groups")));
    }
    if x.device().is_cpu() {
        return Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, GroupNorm { groups, then })?);
    }
    let grouped = x.reshape((b, h * w, groups, c / groups))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim((1, 3))?)?;
    let variance = centred.sqr()?.mean_keepdim((1, 3))?;
    let normed = centred.broadcast_div(&(variance + EPSILON)?.sqrt()?)?.reshape((b, h, w, c))?;
    let y = normed.broadcast_mul(weight)?.broadcast_add(bias)?;
    Ok(if then == Then::Silu { y.silu()? } else { y })
}

struct GroupNorm {
    groups: usize,
    then: Then,
}

/// Repeats per-channel numbers to a tile; the length stays a multiple of the number of channels.
fn tile<T: Real>(channels: &[T]) -> Vec<T> {
    channels.repeat(TILE.div_ceil(channels.len()))
}

/// Adds up a tile of partial sums by channel.
fn fold<T: Real>(tile: &[T], c: usize) -> Vec<f64> {
    let mut sums = vec![0.0; c];
    for part in tile.chunks_exact(c) {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value.to_f64());
    }
    sums
}

/// Mean and inverse standard deviation of every channel's group in one image.
#[inline(always)]
fn statistics<T: Real>(x: &[T], c: usize, groups: usize) -> (Vec<T>, Vec<T>) {
    let width = tile(&vec![T::ZERO; c]).len();
    let members = (x.len() / groups) as f64;
    let by_group = |sums: Vec<f64>| -> Vec<f64> {
        let size = c / groups;
        sums.chunks_exact(size).flat_map(|group| vec![group.iter().sum::<f64>() / members; size]).collect()
    };
    let mut sums = vec![T::ZERO; width];
    for row in x.chunks(width) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
    let mean: Vec<T> = by_group(fold(&sums, c)).into_iter().map(T::of).collect();
    let mean_tile = tile(&mean);
    sums.fill(T::ZERO);
    for row in x.chunks(width) {
        for ((sum, &value), &mean) in sums.iter_mut().zip(row).zip(&mean_tile) {
            let centred = value - mean;
            *sum += centred * centred;
        }
    }
    let inverse = by_group(fold(&sums, c)).into_iter().map(|variance| T::of(1.0 / (variance + EPSILON).sqrt())).collect();
    (mean, inverse)
}

#[inline(always)]
fn forward_image<T: Real>(op: &GroupNorm, x: &[T], weight: &[T], bias: &[T], y: &mut [T]) {
    let c = weight.len();
    let (mean, inverse) = statistics(x, c, op.groups);
    let scale: Vec<T> = weight.iter().zip(&inverse).map(|(&w, &i)| w * i).collect();
    let shift: Vec<T> = (0..c).map(|i| bias[i] - mean[i] * scale[i]).collect();
    let (scale, shift) = (tile(&scale), tile(&shift));
    for (y, x) in y.chunks_mut(scale.len()).zip(x.chunks(scale.len())) {
        let (scale, shift) = (&scale[..y.len()], &shift[..y.len()]);
        if op.then == Then::Silu {
            for i in 0..y.len() {
                let z = x[i] * scale[i] + shift[i];
                y[i] = z * z.logistic();
            }
        } else {
            for i in 0..y.len() {
                y[i] = x[i] * scale[i] + shift[i];
            }
        }
    }
}

/// Writes the input's gradient of one image to `dx`; returns the gradients of weight and bias.
#[inline(always)]
fn backward_image<T: Real>(op: &GroupNorm, x: &[T], weight: &[T], bias: &[T], dy: &[T], dx: &mut [T]) -> (Vec<f64>, Vec<f64>) {
    let c = weight.len();
    let (mean, inverse) = statistics(x, c, op.groups);
    let (mean_tile, inverse_tile, weight_tile, bias_tile) = (tile(&mean), tile(&inverse), tile(weight), tile(bias));
    let width = mean_tile.len();
    let (mut dw, mut db) = (vec![T::ZERO; width], vec![T::ZERO; width]);
    // dx first holds the gradient after scale and shift.
    for ((dx, x), dy) in dx.chunks_mut(width).zip(x.chunks(width)).zip(dy.chunks(width)) {
        for i in 0..dx.len() {
            let normed = (x[i] - mean_tile[i]) * inverse_tile[i];
            let dz = if op.then == Then::Silu {
                let z = normed * weight_tile[i] + bias_tile[i];
                let gate = z.logistic();
                dy[i] * gate * (T::ONE + z * (T::ONE - gate))
            } else {
                dy[i]
            };
            dw[i] += dz * normed;
            db[i] += dz;
            dx[i] = dz;
        }
    }
    let (dw, db) = (fold(&dw, c), fold(&db, c));
    // d normed = w·dz; dx = inverse · (d normed − mean(d normed) − normed · mean(d normed · normed)), means over the group.
    let members = (x.len() / op.groups) as f64;
    let size = c / op.groups;
    let group_mean = |sums: &[f64]| -> Vec<T> {
        let weighted: Vec<f64> = sums.iter().zip(weight).map(|(sum, w)| sum * w.to_f64()).collect();
        weighted.chunks_exact(size).flat_map(|group| vec![T::of(group.iter().sum::<f64>() / members); size]).collect()
    };
    let (mean_d, mean_dn) = (tile(&group_mean(&db)), tile(&group_mean(&dw)));
    for (dx, x) in dx.chunks_mut(width).zip(x.chunks(width)) {
        for i in 0..dx.len() {
            let normed = (x[i] - mean_tile[i]) * inverse_tile[i];
            dx[i] = inverse_tile[i] * (weight_tile[i] * dx[i] - mean_d[i] - normed * mean_dn[i]);
        }
    }
    (dw, db)
}

fn forward<T: Real>(op: &GroupNorm, image: usize, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len()];
    y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || forward_image(op, x, weight, bias, y),
        );
    });
    y
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group-norm"
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
        let image = x_layout.dims()[1..].iter().product();
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(forward(self, image, stored(x, x_layout)?, stored(w, w_layout)?, stored(b, b_layout)?)),
            CpuStorage::F64(_) => CpuStorage::F64(forward(self, image, stored(x, x_layout)?, stored(w, w_layout)?, stored(b, b_layout)?)),
            _ => candle_core::bail!("group norm on the CPU runs in f32 or f64"),
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
        let gradients = match x.dtype() {
            DType::F64 => backward::<f64>(self, x, w, b, dy),
            _ => backward::<f32>(self, x, w, b, dy),
        };
        let [dx, dw, db] = gradients.map_err(candle_core::Error::wrap)?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

fn backward<T: Real>(op: &GroupNorm, x: &Tensor, w: &Tensor, b: &Tensor, dy: &Tensor) -> Result<[Tensor; 3]> {
    let dy = dy.contiguous()?;
    let image: usize = x.dims()[1..].iter().product();
    let mut dx = vec![T::ZERO; x.elem_count()];
    let mut run = |x: &[T], w: &[T], b: &[T], dy: &[T]| -> Vec<(Vec<f64>, Vec<f64>)> {
        let images = dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(dy.par_chunks(image));
        images
            .map(|((dx, x), dy)| {
                vectorised(
                    #[inline(always)]
                    || backward_image(op, x, w, b, dy, dx),
                )
            })
            .collect()
    };
    let parts = run(&numbers::<T>(x)?, &numbers::<T>(w)?, &numbers::<T>(b)?, &numbers::<T>(&dy)?);
    let (mut dw, mut db) = (vec![T::ZERO; w.elem_count()], vec![T::ZERO; w.elem_count()]);
    for i in 0..w.elem_count() {
        dw[i] = T::of(parts.iter().map(|sums| sums.0[i]).sum());
        db[i] = T::of(parts.iter().map(|sums| sums.1[i]).sum());
    }
    let back = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
    Ok([back(dx, x)?, back(dw, w)?, back(db, b)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;
    use candle_core::{Device, Var};

    fn random(shape: &[usize], item: u64) -> Tensor {
        let key = rng::Key { seed: 6, purpose: "test", item, draw: 0 };
        let values: Vec<f64> = rng::normal(&mut rng::stream(key), shape.iter().product()).into_iter().map(f64::from).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap()
    }

    /// The same by plain operations with channels first.
    fn reference(x: &Tensor, w: &Tensor, b: &Tensor, groups: usize, then: Then) -> Tensor {
        let norm = candle_nn::GroupNorm::new(w.clone(), b.clone(), x.dim(3).unwrap(), groups, EPSILON).unwrap();
        let y = candle_nn::Module::forward(&norm, &x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()).unwrap();
        let y = if then == Then::Silu { y.silu().unwrap() } else { y };
        y.permute((0, 2, 3, 1)).unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_plain_operations() {
        for (c, groups, then) in [(6, 3, Then::Silu), (8, 8, Then::Nothing), (200, 1, Then::Silu)] {
            let vars = [random(&[2, 3, 5, c], 0), random(&[c], 1), random(&[c], 2)].map(|t| Var::from_tensor(&t).unwrap());
            let [x, w, b] = [vars[0].as_tensor(), vars[1].as_tensor(), vars[2].as_tensor()];
            let (ours, theirs) = (group_norm(x, w, b, groups, then).unwrap(), reference(x, w, b, groups, then));
            assert!(distance(&ours, &theirs) < 1e-12, "{c} {groups}");
            let weight = random(ours.dims(), 3);
            let gradient = |y: &Tensor| (y * &weight).unwrap().sum_all().unwrap().backward().unwrap();
            let (ours, theirs) = (gradient(&ours), gradient(&theirs));
            for var in &vars {
                assert!(distance(ours.get(var).unwrap(), theirs.get(var).unwrap()) < 1e-11, "{c} {groups}");
            }
        }
    }

    #[test]
    fn channels_that_do_not_split_into_groups_are_refused() {
        let (x, w) = (random(&[1, 2, 2, 6], 0), random(&[6], 1));
        assert!(group_norm(&x, &w, &w, 4, Then::Nothing).is_err());
    }
}
