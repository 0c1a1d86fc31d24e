//! Frozen matrices as their files have them: in the blocks of GGUF, a few bits a weight, or as numbers that stay in a mapped file. They
//! are widened while a product packs them, so that a network in memory is as large as its file, or smaller. The layouts of blocks are
//! those of ggml (ggml-common.h, ggml-quants.c); a run of 32 weights is widened at a time.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;

use super::cpu::gemm::{Matrix, Operand};
use super::cpu::stored::Stored;
use super::real::{Real, vectorised};
use crate::error::{Error, Result};

/// Weights that are widened together; blocks are one or eight runs.
pub const RUN: usize = 32;

/// How weights lie in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// 32 weights of 4 bits and one factor.
    Q4_0,
    /// 32 weights of 8 bits and one factor.
    Q8_0,
    /// 256 weights of 4 bits; each 32 have a factor and an offset of 6 bits.
    Q4K,
    /// 256 weights of 5 bits; each 32 have a factor and an offset of 6 bits.
    Q5K,
    /// 256 weights of 6 bits; each 16 have a factor of 8 bits.
    Q6K,
    /// Numbers in bf16, for matrices in a mapped file.
    Bf16,
    /// Numbers in f16.
    F16,
    /// Numbers in f32.
    F32,
}

impl Blocks {
    /// Those of few bits.
    pub const ALL: [Self; 5] = [Self::Q4_0, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// Weights of a block.
    pub fn weights(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q8_0 | Self::Bf16 | Self::F16 | Self::F32 => RUN,
            Self::Q4K | Self::Q5K | Self::Q6K => 8 * RUN,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Bf16 | Self::F16 => 2 * RUN,
            Self::F32 => 4 * RUN,
        }
    }

    /// Widens run `run` of a block.
    #[inline(always)]
    fn widen(self, block: &[u8], run: usize, to: &mut [f32; RUN]) {
        match self {
            Self::Bf16 => {
                for (to, bits) in to.iter_mut().zip(block.as_chunks::<2>().0) {
                    *to = bf16::from_le_bytes(*bits).to_f32();
                }
            }
            Self::F16 => {
                for (to, bits) in to.iter_mut().zip(block.as_chunks::<2>().0) {
                    *to = f16::from_le_bytes(*bits).to_f32();
                }
            }
            Self::F32 => {
                for (to, bits) in to.iter_mut().zip(block.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*bits);
                }
            }
            Self::Q4_0 => {
                let factor = half_at(block, 0);
                let bits = &block[2..18];
                for i in 0..16 {
                    to[i] = (i32::from(bits[i] & 15) - 8) as f32 * factor;
                    to[i + 16] = (i32::from(bits[i] >> 4) - 8) as f32 * factor;
                }
            }
            Self::Q8_0 => {
                let factor = half_at(block, 0);
                for (to, &bits) in to.iter_mut().zip(&block[2..34]) {
                    *to = f32::from(bits as i8) * factor;
                }
            }
            Self::Q4K => {
                let (factor, offset) = scale_of(block, run);
                let bits = &block[16 + RUN * (run / 2)..][..RUN];
                let shift = 4 * (run % 2);
                for (to, &bits) in to.iter_mut().zip(bits) {
                    *to = factor * f32::from((bits >> shift) & 15) - offset;
                }
            }
            Self::Q5K => {
                let (factor, offset) = scale_of(block, run);
                let (high, low) = (&block[16..48], &block[48 + RUN * (run / 2)..][..RUN]);
                let shift = 4 * (run % 2);
                for (to, (&low, &high)) in to.iter_mut().zip(low.iter().zip(high)) {
                    *to = factor * f32::from(((low >> shift) & 15) | (((high >> run) & 1) << 4)) - offset;
                }
            }
            Self::Q6K => {
                // Two halves of four runs each; the runs of a half share 64 bytes of low bits and 32 of high ones.
                let (half, run) = (run / 4, run % 4);
                let low = &block[64 * half + RUN * (run % 2)..][..RUN];
                let high = &block[128 + RUN * half..][..RUN];
                let scales = &block[192 + 8 * half + 2 * run..][..2];
                let factor = half_at(block, 208);
                let factors = [factor * f32::from(scales[0] as i8), factor * f32::from(scales[1] as i8)];
                let (low_shift, high_shift) = (4 * (run / 2), 2 * run);
                for (i, to) in to.iter_mut().enumerate() {
                    let bits = ((low[i] >> low_shift) & 15) | (((high[i] >> high_shift) & 3) << 4);
                    *to = factors[i / 16] * (i32::from(bits) - 32) as f32;
                }
            }
        }
    }
}

/// The f16 at `at`.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Factor and offset of a run of a block that begins with both as f16 and eight pairs of them in 6 bits each: the first four in the
/// low bits of eight bytes, the others in four bytes and the high bits of the eight.
#[inline(always)]
fn scale_of(block: &[u8], run: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, offset) = if run < 4 {
        (packed[run] & 63, packed[run + 4] & 63)
    } else {
        ((packed[run + 4] & 15) | ((packed[run - 4] >> 6) << 4), (packed[run + 4] >> 4) | ((packed[run] >> 6) << 4))
    };
    (half_at(block, 0) * f32::from(scale), half_at(block, 2) * f32::from(offset))
}

/// Where blocks are.
#[derive(Clone)]
pub enum Bytes {
    InMemory(Arc<Vec<u8>>),
    /// A range of a file, which the system reads when it is used and may drop again.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match self {
            Self::InMemory(bytes) => bytes,
            Self::Mapped(file, range) => &file[range.clone()],
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::InMemory(Arc::new(bytes))
    }
}

/// Rows that lie one behind the other.
#[derive(Clone)]
struct Stack {
    blocks: Blocks,
    data: Bytes,
    /// The first of them in `data`.
    first: usize,
    rows: usize,
}

/// A matrix, or some of its rows and columns, in blocks along its rows.
#[derive(Clone)]
pub struct Quantised {
    /// One above the other.
    stacks: Arc<[Stack]>,
    /// Columns of the whole matrix.
    width: usize,
    first: [usize; 2],
    dims: [usize; 2],
}

impl fmt::Debug for Quantised {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let blocks: Vec<Blocks> = self.stacks.iter().map(|stack| stack.blocks).collect();
        write!(out, "Quantised[{:?}; {blocks:?}]", self.dims)
    }
}

impl Quantised {
    /// `data` holds the blocks of a matrix `[rows, columns]`, row after row.
    ///
    /// # Errors
    /// Columns that are no whole blocks, and data of another length.
    pub fn new(blocks: Blocks, data: impl Into<Bytes>, [rows, columns]: [usize; 2]) -> Result<Self> {
        let data = data.into();
        let expected = rows * columns / blocks.weights() * blocks.bytes();
        if !columns.is_multiple_of(blocks.weights()) || data.len() != expected {
            return Err(Error::Invalid(format!(
                "{} bytes are no matrix [{rows}, {columns}] in blocks of {} weights and {} bytes",
                data.len(),
                blocks.weights(),
                blocks.bytes()
            )));
        }
        let stack = Stack { blocks, data, first: 0, rows };
        Ok(Self { stacks: Arc::new([stack]), width: columns, first: [0, 0], dims: [rows, columns] })
    }

    /// Matrices one above the other, without copying.
    ///
    /// # Errors
    /// No matrix, cut columns, and matrices of different widths.
    pub fn stack(parts: &[Self]) -> Result<Self> {
        let width = parts.first().map_or(0, |part| part.width);
        if width == 0 || parts.iter().any(|part| (part.width, part.dims[1]) != (width, width)) {
            let dims: Vec<_> = parts.iter().map(|part| part.dims).collect();
            return Err(Error::Invalid(format!("cannot put quantised matrices {dims:?} one above the other")));
        }
        let mut stacks = Vec::new();
        for part in parts {
            let (mut skip, mut left) = (part.first[0], part.dims[0]);
            for stack in part.stacks.iter() {
                let rows = stack.rows.saturating_sub(skip).min(left);
                if rows > 0 {
                    stacks.push(Stack { first: stack.first + skip, rows, ..stack.clone() });
                }
                skip = skip.saturating_sub(stack.rows);
                left -= rows;
            }
        }
        let rows = parts.iter().map(|part| part.dims[0]).sum();
        Ok(Self { stacks: stacks.into(), width, first: [0, 0], dims: [rows, width] })
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        self.dims
    }

    /// `n` rows (`dim` 0) or columns (`dim` 1) from `from` on, without copying; columns are cut between runs of 32.
    ///
    /// # Errors
    /// A part that is not inside, or a cut inside a run.
    pub fn narrow(&self, dim: usize, from: usize, n: usize) -> Result<Self> {
        let is_inside = dim < 2 && from.checked_add(n).is_some_and(|end| end <= self.dims[dim]);
        if !is_inside || (dim == 1 && !(from.is_multiple_of(RUN) && n.is_multiple_of(RUN))) {
            return Err(Error::Invalid(format!(
                "cannot cut {n} from {from} on out of dimension {dim} of a quantised matrix {:?}",
                self.dims
            )));
        }
        let mut part = self.clone();
        part.first[dim] += from;
        part.dims[dim] = n;
        Ok(part)
    }

    /// Widens the run of row `row` that begins at column `column`, a multiple of 32.
    #[inline(always)]
    fn widen_run(&self, row: usize, column: usize, to: &mut [f32; RUN]) {
        let mut row = self.first[0] + row;
        let mut stack = &self.stacks[0];
        for next in &self.stacks[1..] {
            if row < stack.rows {
                break;
            }
            row -= stack.rows;
            stack = next;
        }
        let blocks = stack.blocks;
        let at = (stack.first + row) * self.width + self.first[1] + column;
        let (block, inside) = (at / blocks.weights(), at % blocks.weights());
        blocks.widen(&stack.data[block * blocks.bytes()..][..blocks.bytes()], inside / RUN, to);
    }

    /// Widens `to.len()` columns of row `row` from `column` on; both are multiples of 32.
    #[inline(always)]
    fn widen_inside(&self, row: usize, column: usize, to: &mut [f32]) {
        let mut run = [0.0; RUN];
        for (i, to) in to.chunks_exact_mut(RUN).enumerate() {
            self.widen_run(row, column + i * RUN, &mut run);
            to.copy_from_slice(&run);
        }
    }

    /// Widens columns `column..` of the rows `row..` into rows of `n` numbers each; `column` and `n` are multiples of 32.
    pub(super) fn widen_rows(&self, row: usize, column: usize, n: usize, to: &mut [f32]) {
        vectorised(
            #[inline(always)]
            || {
                for (i, to) in to.chunks_exact_mut(n).enumerate() {
                    self.widen_inside(row + i, column, to);
                }
            },
        );
    }

    /// Whether no number is infinite or NaN.
    pub fn is_finite(&self) -> bool {
        let [rows, columns] = self.dims;
        (0..rows).into_par_iter().all(|row| {
            let mut run = [0.0; RUN];
            (0..columns).step_by(RUN).all(|column| {
                self.widen_run(row, column, &mut run);
                run.iter().all(|x| x.is_finite())
            })
        })
    }

    /// All numbers, `[rows, columns]` in f32.
    pub fn widen(&self) -> Result<Tensor> {
        let [rows, columns] = self.dims;
        let mut all = vec![0f32; rows * columns];
        if columns > 0 {
            all.par_chunks_mut(columns).enumerate().for_each(|(row, to)| self.widen_rows(row, 0, columns, to));
        }
        Ok(Tensor::from_vec(all, (rows, columns), &Device::Cpu)?)
    }
}

/// The matrix as the right operand of a product.
#[derive(Clone, Copy)]
pub(super) struct Turned<'a> {
    pub weight: &'a Quantised,
    /// Whether its columns are the operand's rows.
    pub transposed: bool,
}

thread_local! {
    /// Rows of the weight on their way into a panel, kept between products.
    static WIDE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

impl<T: Real> Operand<T> for Turned<'_>
where
    f32: Stored<T>,
{
    fn fits(&self) -> bool {
        true
    }

    fn rows(&self) -> usize {
        self.weight.dims[usize::from(self.transposed)]
    }

    fn columns(&self) -> usize {
        self.weight.dims[usize::from(!self.transposed)]
    }

    fn pack(&self, row: usize, column: usize, panel: &mut [T]) {
        let rows = panel.len() / T::PANEL;
        if self.transposed {
            // The panel's columns are rows of the weight: widened as they lie, then turned.
            let columns = (self.weight.dims[0] - column).min(T::PANEL);
            let mut wide = WIDE.take();
            wide.resize(columns * rows, 0.0);
            self.weight.widen_rows(column, row, rows, &mut wide);
            Matrix::row_major(&wide, columns, rows, rows).t().pack(0, 0, panel);
            WIDE.set(wide);
            return;
        }
        // A panel is as wide as a run or half of one, so it lies inside one.
        let inside = column % RUN;
        vectorised(
            #[inline(always)]
            || {
                let mut run = [0.0; RUN];
                for (i, packed) in panel.chunks_exact_mut(T::PANEL).enumerate() {
                    self.weight.widen_run(row + i, column - inside, &mut run);
                    f32::widen_all(&run[inside..][..T::PANEL], packed);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use candle_core::quantized::{GgmlDType, QTensor};

    fn kind(blocks: Blocks) -> GgmlDType {
        match blocks {
            Blocks::Q4_0 => GgmlDType::Q4_0,
            Blocks::Q8_0 => GgmlDType::Q8_0,
            Blocks::Q4K => GgmlDType::Q4K,
            Blocks::Q5K => GgmlDType::Q5K,
            Blocks::Q6K => GgmlDType::Q6K,
            Blocks::Bf16 => GgmlDType::BF16,
            Blocks::F16 => GgmlDType::F16,
            Blocks::F32 => GgmlDType::F32,
        }
    }

    fn waves(rows: usize, columns: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin() * (1.0 + (i % 91) as f32 * 0.05) + 0.1).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    /// Candle's widening is that of ggml to the bit, by its own tests; ours has to be, too.
    #[test]
    fn every_kind_of_block_is_widened_to_the_same_bits_as_by_candle() {
        for blocks in Blocks::ALL {
            let reference = QTensor::quantize(&waves(5, 512), kind(blocks)).unwrap();
            assert_eq!((blocks.weights(), blocks.bytes()), (kind(blocks).block_size(), kind(blocks).type_size()));
            let ours = Quantised::new(blocks, reference.data().unwrap().into_owned(), [5, 512]).unwrap();
            let expected = reference.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(ours.widen().unwrap().to_vec2::<f32>().unwrap(), expected, "{blocks:?}");
            let part = ours.narrow(0, 1, 3).unwrap().narrow(1, 96, 320).unwrap();
            let part: Vec<Vec<f32>> = part.widen().unwrap().to_vec2().unwrap();
            let expected: Vec<Vec<f32>> = expected[1..4].iter().map(|row| row[96..416].to_vec()).collect();
            assert_eq!(part, expected, "{blocks:?}");
        }
    }

    #[test]
    fn plain_numbers_are_widened_like_any_others() {
        let values = waves(2, 64);
        for (blocks, dtype) in [(Blocks::Bf16, DType::BF16), (Blocks::F16, DType::F16), (Blocks::F32, DType::F32)] {
            let stored = values.to_dtype(dtype).unwrap();
            let data = QTensor::quantize(&stored.to_dtype(DType::F32).unwrap(), kind(blocks)).unwrap().data().unwrap().into_owned();
            let found = Quantised::new(blocks, data, [2, 64]).unwrap().widen().unwrap();
            let expected = stored.to_dtype(DType::F32).unwrap();
            assert_eq!(found.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap(), "{blocks:?}");
        }
    }

    #[test]
    fn matrices_stand_one_above_the_other_and_are_cut_across() {
        let matrix = |blocks, rows| {
            let stored = QTensor::quantize(&waves(rows, 64), kind(blocks)).unwrap().data().unwrap().into_owned();
            Quantised::new(blocks, stored, [rows, 64]).unwrap()
        };
        let parts = [matrix(Blocks::Q8_0, 3), matrix(Blocks::F32, 5).narrow(0, 1, 3).unwrap(), matrix(Blocks::Q4_0, 2)];
        let expected: Vec<Vec<f32>> = parts.iter().flat_map(|part| part.widen().unwrap().to_vec2::<f32>().unwrap()).collect();
        let stacked = Quantised::stack(&parts).unwrap();
        assert_eq!(stacked.widen().unwrap().to_vec2::<f32>().unwrap(), expected);
        let cut = stacked.narrow(0, 2, 5).unwrap();
        assert_eq!(cut.widen().unwrap().to_vec2::<f32>().unwrap(), expected[2..7]);
        let again = Quantised::stack(&[cut, parts[0].clone()]).unwrap().widen().unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(again, [&expected[2..7], &expected[..3]].concat());
        assert!(Quantised::stack(&[]).is_err() && Quantised::stack(&[parts[0].narrow(1, 0, 32).unwrap()]).is_err());
    }

    #[test]
    fn broken_sizes_and_cuts_inside_a_run_are_refused() {
        assert!(Quantised::new(Blocks::Q8_0, vec![0; 34], [1, 33]).is_err());
        assert!(Quantised::new(Blocks::Q8_0, vec![0; 33], [1, 32]).is_err());
        let matrix = Quantised::new(Blocks::Q8_0, vec![0; 68], [1, 64]).unwrap();
        assert!(matrix.narrow(1, 16, 32).is_err() && matrix.narrow(0, 1, 1).is_err() && matrix.narrow(1, 32, 32).is_ok());
    }
}
