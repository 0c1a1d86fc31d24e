//! Channels-last convolution with a backward for candle's autograd: on the CPU a kernel that gathers a block of rows and
//! multiplies it (candle's own backward of a convolution is several times slower); elsewhere candle's convolution.

// B batch, H height, W width, C input channels, O output channels.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use crate::error::Result;
use crate::nn::cpu::gemm::{Into as Output, Matrix, MatrixMut, Threads, gemm};
use crate::nn::real::{Real, numbers};

/// Gathered numbers per block: half a megabyte of f32, which stays in a core's second-level cache.
const BLOCK: usize = 1 << 17;

/// How a convolution walks over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Output as large as the input; the border is padded by zeros.
    Same,
    /// Every second pixel; one row and column of zeros below and to the right (as in AutoencoderKL).
    Halve,
    /// The input is doubled by repetition first, then as `Same`.
    Double,
}

/// Convolves `x` `[B, H, W, C]` with `weight` `[O, C, K, K]` (K odd) and adds `bias` `[O]`: `[B, H', W', O]`, where H' is H, H/2 or 2H.
pub fn convolve(x: &Tensor, weight: &Tensor, bias: &Tensor, walk: Walk) -> Result<Tensor> {
    let (_, _, kernel, _) = weight.dims4()?;
    if x.device().is_cpu() {
        // [K, K, C, O]: rows of the gathered matrix are contiguous pieces of the image.
        let packed = weight.permute((2, 3, 1, 0))?.contiguous()?;
        return Ok(x.contiguous()?.apply_op3(&packed, &bias.contiguous()?, Convolution { kernel, walk })?);
    }
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let (_, _, h, w) = x.dims4()?;
    let y = match walk {
        Walk::Same => x.conv2d(weight, kernel / 2, 1, 1, 1)?,
        Walk::Halve => x.pad_with_zeros(2, 0, kernel / 2)?.pad_with_zeros(3, 0, kernel / 2)?.conv2d(weight, 0, 2, 1, 1)?,
        Walk::Double => x.upsample_nearest2d(2 * h, 2 * w)?.conv2d(weight, kernel / 2, 1, 1, 1)?,
    };
    Ok(y.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)?)
}

struct Convolution {
    kernel: usize,
    walk: Walk,
}

/// Sizes of one convolution.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    h: usize,
    w: usize,
    c: usize,
    out_h: usize,
    out_w: usize,
    o: usize,
    kernel: usize,
    walk: Walk,
}

impl Sizes {
    fn new(op: &Convolution, x: &[usize], packed: &[usize]) -> candle_core::Result<Self> {
        let (&[b, h, w, c], &[_, _, weight_c, o]) = (x, packed) else { candle_core::bail!("convolution of {x:?} with {packed:?}") };
        if c != weight_c || op.kernel.is_multiple_of(2) || (op.walk == Walk::Halve && !(h.is_multiple_of(2) && w.is_multiple_of(2))) {
            candle_core::bail!("convolution ({:?}) of {x:?} with weights of {packed:?}", op.walk)
        }
        let (out_h, out_w) = match op.walk {
            Walk::Same => (h, w),
            Walk::Halve => (h / 2, w / 2),
            Walk::Double => (2 * h, 2 * w),
        };
        Ok(Self { b, h, w, c, out_h, out_w, o, kernel: op.kernel, walk: op.walk })
    }

    /// Numbers gathered for one output pixel.
    fn depth(&self) -> usize {
        self.kernel * self.kernel * self.c
    }

    /// Output rows per block.
    fn rows(&self) -> usize {
        (BLOCK / (self.depth() * self.out_w)).clamp(1, self.out_h)
    }

    /// Source coordinate of tap `k` at output `i`, or `None` in the padding.
    #[inline(always)]
    fn source(&self, i: usize, k: usize, size: usize) -> Option<usize> {
        let pad = self.kernel / 2;
        match self.walk {
            Walk::Same => (i + k).checked_sub(pad).filter(|&s| s < size),
            Walk::Halve => Some(2 * i + k).filter(|&s| s < size),
            Walk::Double => (i + k).checked_sub(pad).map(|s| s / 2).filter(|&s| s < size),
        }
    }

    /// Calls `piece(place in the gathered matrix, place in the image or None, length)` for all pieces of output rows from `y0`.
    #[inline(always)]
    fn pieces(&self, y0: usize, rows: usize, mut piece: impl FnMut(usize, Option<usize>, usize)) {
        let (c, k) = (self.c, self.kernel);
        let mut place = 0;
        for y in y0..y0 + rows {
            for x in 0..self.out_w {
                for ky in 0..k {
                    let Some(sy) = self.source(y, ky, self.h) else {
                        piece(place, None, k * c);
                        place += k * c;
                        continue;
                    };
                    let (first, last) = (self.source(x, 0, self.w), self.source(x, k - 1, self.w));
                    if let (Some(first), Some(_), true) = (first, last, self.walk != Walk::Double) {
                        piece(place, Some((sy * self.w + first) * c), k * c);
                        place += k * c;
                        continue;
                    }
                    for kx in 0..k {
                        piece(place, self.source(x, kx, self.w).map(|sx| (sy * self.w + sx) * c), c);
                        place += c;
                    }
                }
            }
        }
    }

    fn gather<T: Real>(&self, image: &[T], y0: usize, rows: usize, gathered: &mut [T]) {
        self.pieces(y0, rows, |to, from, n| match from {
            Some(from) => gathered[to..to + n].copy_from_slice(&image[from..from + n]),
            None => gathered[to..to + n].fill(T::ZERO),
        });
    }

    fn scatter<T: Real>(&self, gathered: &[T], y0: usize, rows: usize, image: &mut [T]) {
        self.pieces(y0, rows, |from, to, n| {
            let Some(to) = to else { return };
            for (sum, &value) in image[to..to + n].iter_mut().zip(&gathered[from..from + n]) {
                *sum += value;
            }
        });
    }
}

fn forward<T: Real>(s: Sizes, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
    let (depth, rows) = (s.depth(), s.rows());
    let mut out = vec![T::ZERO; s.b * s.out_h * s.out_w * s.o];
    let images = out.par_chunks_mut(s.out_h * s.out_w * s.o).zip(x.par_chunks(s.h * s.w * s.c));
    images.for_each(|(out, image)| {
        out.par_chunks_mut(rows * s.out_w * s.o).enumerate().for_each_init(
            || vec![T::ZERO; if s.kernel == 1 { 0 } else { rows * s.out_w * depth }],
            |gathered, (block, out)| {
                let (y0, pixels) = (block * rows, out.len() / s.o);
                let matrix = if s.kernel == 1 {
                    &image[y0 * s.out_w * depth..][..pixels * depth]
                } else {
                    s.gather(image, y0, pixels / s.out_w, gathered);
                    &gathered[..pixels * depth]
                };
                let (a, b) = (Matrix::row_major(matrix, pixels, depth, depth), Matrix::row_major(weight, depth, s.o, s.o));
                gemm(MatrixMut::row_major(out, pixels, s.o, s.o), a, b, T::ONE, Output::ReplaceWithBias(bias), Threads::One);
            },
        );
    });
    out
}

/// Gradients of the input, the packed weight and the bias; sums run over images in their order.
fn backward<T: Real>(s: Sizes, x: &[T], weight: &[T], dy: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (depth, rows) = (s.depth(), s.rows());
    let mut dx = vec![T::ZERO; x.len()];
    let images = dx.par_chunks_mut(s.h * s.w * s.c).zip(x.par_chunks(s.h * s.w * s.c)).zip(dy.par_chunks(s.out_h * s.out_w * s.o));
    let parts: Vec<(Vec<T>, Vec<T>)> = images
        .map(|((dx, image), dy)| {
            let mut dw = vec![T::ZERO; depth * s.o];
            let mut db = vec![T::ZERO; s.o];
            let mut gathered = vec![T::ZERO; rows * s.out_w * depth];
            for (block, dy) in dy.chunks(rows * s.out_w * s.o).enumerate() {
                let (y0, pixels) = (block * rows, dy.len() / s.o);
                for row in dy.chunks_exact(s.o) {
                    for (sum, &value) in db.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                s.gather(image, y0, pixels / s.out_w, &mut gathered);
                let dy = Matrix::row_major(dy, pixels, s.o, s.o);
                let matrix = Matrix::row_major(&gathered, pixels, depth, depth);
                gemm(MatrixMut::row_major(&mut dw, depth, s.o, s.o), matrix.t(), dy, T::ONE, Output::Add, Threads::One);
                let weight = Matrix::row_major(weight, depth, s.o, s.o).t();
                gemm(MatrixMut::row_major(&mut gathered, pixels, depth, depth), dy, weight, T::ONE, Output::Replace, Threads::One);
                s.scatter(&gathered, y0, pixels / s.out_w, dx);
            }
            (dw, db)
        })
        .collect();
    let (mut dw, mut db) = (vec![T::ZERO; depth * s.o], vec![T::ZERO; s.o]);
    for (part_w, part_b) in &parts {
        dw.iter_mut().zip(part_w).for_each(|(sum, &value)| *sum += value);
        db.iter_mut().zip(part_b).for_each(|(sum, &value)| *sum += value);
    }
    (dx, dw, db)
}

/// The numbers of a contiguous operand.
pub(super) fn stored<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => candle_core::bail!("image kernels need contiguous tensors"),
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
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
        let s = Sizes::new(self, x_layout.dims(), w_layout.dims())?;
        let shape = Shape::from((s.b, s.out_h, s.out_w, s.o));
        let out = match x {
            CpuStorage::F32(_) => CpuStorage::F32(forward(s, stored(x, x_layout)?, stored(w, w_layout)?, stored(b, b_layout)?)),
            CpuStorage::F64(_) => CpuStorage::F64(forward(s, stored(x, x_layout)?, stored(w, w_layout)?, stored(b, b_layout)?)),
            _ => candle_core::bail!("convolution on the CPU runs in f32 or f64"),
        };
        Ok((out, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        fn run<T: Real>(s: Sizes, tensors: [&Tensor; 4]) -> Result<[Option<Tensor>; 3]> {
            let [x, w, b, dy] = tensors;
            let dy = dy.contiguous()?;
            let (dx, dw, db) = backward(s, &numbers::<T>(x)?, &numbers::<T>(w)?, &numbers::<T>(&dy)?);
            let back = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
            Ok([back(dx, x)?, back(dw, w)?, back(db, b)?])
        }
        let s = Sizes::new(self, x.dims(), w.dims())?;
        let gradients = if x.dtype() == DType::F64 { run::<f64>(s, [x, w, b, dy]) } else { run::<f32>(s, [x, w, b, dy]) };
        let [dx, dw, db] = gradients.map_err(candle_core::Error::wrap)?;
        Ok((dx, dw, db))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;
    use candle_core::{Device, Var};

    fn random(shape: &[usize], item: u64) -> Tensor {
        let key = rng::Key { seed: 5, purpose: "test", item, draw: 0 };
        let values: Vec<f64> = rng::normal(&mut rng::stream(key), shape.iter().product()).into_iter().map(f64::from).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// The same convolution by candle's operations.
    fn reference(x: &Tensor, w: &Tensor, b: &Tensor, walk: Walk) -> Tensor {
        let x = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let (_, _, h, width) = x.dims4().unwrap();
        let pad = w.dim(2).unwrap() / 2;
        let y = match walk {
            Walk::Same => x.conv2d(w, pad, 1, 1, 1),
            Walk::Halve => x.pad_with_zeros(2, 0, pad).unwrap().pad_with_zeros(3, 0, pad).unwrap().conv2d(w, 0, 2, 1, 1),
            Walk::Double => x.upsample_nearest2d(2 * h, 2 * width).unwrap().conv2d(w, pad, 1, 1, 1),
        };
        y.unwrap().permute((0, 2, 3, 1)).unwrap().broadcast_add(b).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_candles_convolution() {
        for (walk, kernel) in [(Walk::Same, 3), (Walk::Same, 1), (Walk::Halve, 3), (Walk::Double, 3)] {
            let vars =
                [random(&[2, 4, 6, 3], 0), random(&[5, 3, kernel, kernel], 1), random(&[5], 2)].map(|t| Var::from_tensor(&t).unwrap());
            let [x, w, b] = [vars[0].as_tensor(), vars[1].as_tensor(), vars[2].as_tensor()];
            let (ours, theirs) = (convolve(x, w, b, walk).unwrap(), reference(x, w, b, walk));
            assert!(distance(&ours, &theirs) < 1e-12, "{walk:?} {kernel}");
            let weight = random(ours.dims(), 3);
            let gradient = |y: &Tensor| (y * &weight).unwrap().sum_all().unwrap().backward().unwrap();
            let (ours, theirs) = (gradient(&ours), gradient(&theirs));
            for var in &vars {
                assert!(distance(ours.get(var).unwrap(), theirs.get(var).unwrap()) < 1e-11, "{walk:?} {kernel}");
            }
        }
    }

    #[test]
    fn blocks_of_rows_join_without_seams() {
        // 64 × 64 × 32 channels needs several blocks.
        let (x, w, b) = (random(&[1, 64, 64, 32], 0), random(&[4, 32, 3, 3], 1), random(&[4], 2));
        assert!(distance(&convolve(&x, &w, &b, Walk::Same).unwrap(), &reference(&x, &w, &b, Walk::Same)) < 1e-11);
    }
}
