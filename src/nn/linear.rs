//! Linear layers, frozen and trainable by the same code: y = x Wᵀ + b.

use candle_core::{DType, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::cpu::gemm::{Into, Matrix, MatrixMut, Threads, gemm};
use super::cpu::output::unwritten;
use super::cpu::stored::Stored;
use super::param::{Gradients, Param, Parameters};
use super::quantised::Turned;
use super::real::{Real, numbers, tensor, vectorised, with_matrix};
use super::weight::{Values, Weight, WeightRef};
use crate::error::{Error, Result};
use crate::{by_real, numbers};

/// A linear layer with weight `[out, in]` and bias `[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    pub weight: Weight,
    pub bias: Option<Param>,
}

impl Linear {
    /// `x` `[.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight.value, self.bias.as_ref().map(|bias| &bias.value))
    }

    /// Gradient with respect to the input, `[.., in]`, from `dy` `[.., out]`; parameter gradients go to `gradients`.
    pub fn vjp(&self, x: &Tensor, dy: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        self.parameter_vjp(x, dy, gradients)?;
        linear_input_vjp(dy, &self.weight.value)
    }

    /// Parameter gradients only, for the first layer of a network.
    pub fn parameter_vjp(&self, x: &Tensor, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        self.weight.add_gradient(gradients, || linear_weight_vjp(x, dy))?;
        if let Some(bias) = &self.bias {
            gradients.add(bias, || column_sums(dy))?;
        }
        Ok(())
    }
}

impl Parameters for Linear {
    /// Quantised weights are shown widened.
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        visitor(&self.weight.param());
        self.bias.iter().for_each(visitor);
    }
    /// Quantised weights cannot be replaced and are left out.
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        if let Values::Dense(value) = &mut self.weight.value {
            let mut param = Param { name: self.weight.name.clone(), value: value.clone() };
            visitor(&mut param);
            *value = param.value;
        }
        self.bias.iter_mut().for_each(visitor);
    }
}

/// Rows and columns of a tensor seen as a matrix over its last dimension.
pub(super) fn rows_columns(x: &Tensor) -> Result<(usize, usize)> {
    let columns = *x.dims().last().ok_or_else(|| Error::Invalid("a scalar has no rows".into()))?;
    Ok((x.elem_count() / columns.max(1), columns))
}

fn with_last_dim(x: &Tensor, last: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    if let Some(dim) = dims.last_mut() {
        *dim = last;
    }
    dims
}

/// x Wᵀ + b: `x` `[.., in]` contiguous, `weight` `[out, in]` (may be a view, and in bf16, f16 or quantised, which the product
/// widens), `bias` `[out]`, to `[.., out]`.
pub fn linear<'a, W: Copy>(x: &Tensor, weight: W, bias: Option<&Tensor>) -> Result<Tensor>
where
    WeightRef<'a>: From<W>,
{
    linear_sum(&[(x, weight)], bias)
}

/// The sum of several products `xᵢ Wᵢᵀ` plus a bias: a linear layer over concatenated inputs, without concatenating.
pub fn linear_sum<'a, W: Copy>(parts: &[(&Tensor, W)], bias: Option<&Tensor>) -> Result<Tensor>
where
    WeightRef<'a>: From<W>,
{
    let &(x, weight) = parts.first().ok_or_else(|| Error::Invalid("a linear layer without input".into()))?;
    by_real!(x, T => {
        let (rows, outputs) = (rows_columns(x)?.0, WeightRef::from(weight).dims2()?.0);
        let mut y = unwritten::<T>(rows * outputs);
        let bias = bias.map(numbers::<T>).transpose()?;
        for (i, &(x, weight)) in parts.iter().enumerate() {
            let into = match &bias {
                _ if i > 0 => Into::Add,
                Some(bias) => Into::ReplaceWithBias(bias),
                None => Into::Replace,
            };
            product::<T>(&mut y, x, WeightRef::from(weight), false, into)?;
        }
        tensor(y, with_last_dim(x, outputs))
    })
}

/// dx = dy W: `dy` `[.., out]` contiguous, `weight` `[out, in]` (may be a view), to `[.., in]`.
pub fn linear_input_vjp<'a, W: Copy>(dy: &Tensor, weight: W) -> Result<Tensor>
where
    WeightRef<'a>: From<W>,
{
    linear_input_vjp_sum(&[(dy, weight)])
}

/// The sum of several `dyᵢ Wᵢ`: the input gradient where one input feeds several linear layers.
pub fn linear_input_vjp_sum<'a, W: Copy>(parts: &[(&Tensor, W)]) -> Result<Tensor>
where
    WeightRef<'a>: From<W>,
{
    let &(dy, weight) = parts.first().ok_or_else(|| Error::Invalid("a linear layer without output".into()))?;
    by_real!(dy, T => {
        let (rows, inputs) = (rows_columns(dy)?.0, WeightRef::from(weight).dims2()?.1);
        let mut dx = unwritten::<T>(rows * inputs);
        for (i, &(dy, weight)) in parts.iter().enumerate() {
            product::<T>(&mut dx, dy, WeightRef::from(weight), true, if i == 0 { Into::Replace } else { Into::Add })?;
        }
        tensor(dx, with_last_dim(dy, inputs))
    })
}

/// out (+)= x Wᵀ, or x W where `plain`.
fn product<T: Real>(out: &mut [T], x: &Tensor, weight: WeightRef, plain: bool, into: Into<T>) -> Result<()>
where
    bf16: Stored<T>,
    f16: Stored<T>,
    f32: Stored<T>,
{
    let (w_rows, w_columns) = weight.dims2()?;
    let (expected, columns) = if plain { (w_rows, w_columns) } else { (w_columns, w_rows) };
    let (rows, inner) = rows_columns(x)?;
    if inner != expected || out.len() != rows * columns {
        return Err(Error::Invalid(format!("cannot multiply {:?} with a weight [{w_rows}, {w_columns}]", x.dims())));
    }
    match weight {
        WeightRef::Quantised(weight) => {
            numbers!(T: x);
            let (out, x) = (MatrixMut::row_major(out, rows, columns, columns), Matrix::row_major(x, rows, inner, inner));
            gemm(out, x, Turned { weight, transposed: !plain }, T::ONE, into, Threads::All);
            Ok(())
        }
        WeightRef::Dense(weight) => match weight.dtype() {
            DType::BF16 => product_with::<T, bf16>(out, x, weight, plain, into),
            DType::F16 => product_with::<T, f16>(out, x, weight, plain, into),
            _ => product_with::<T, T>(out, x, weight, plain, into),
        },
    }
}

fn product_with<T: Real, S: Stored<T> + WithDType>(out: &mut [T], x: &Tensor, weight: &Tensor, plain: bool, into: Into<T>) -> Result<()> {
    let ((rows, inner), (w_rows, w_columns)) = (rows_columns(x)?, weight.dims2()?);
    let columns = if plain { w_columns } else { w_rows };
    numbers!(T: x);
    with_matrix::<S, _>(weight, |w, row_stride, column_stride| {
        let w = Matrix { data: w, rows: w_rows, columns: w_columns, row_stride, column_stride };
        let w = if plain { w } else { w.t() };
        gemm(MatrixMut::row_major(out, rows, columns, columns), Matrix::row_major(x, rows, inner, inner), w, T::ONE, into, Threads::All);
    })
}

/// dW = dyᵀ x: `x` `[.., in]`, `dy` `[.., out]`, to `[out, in]`.
pub fn linear_weight_vjp(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    by_real!(x, T => {
        let ((rows, inputs), (dy_rows, outputs)) = (rows_columns(x)?, rows_columns(dy)?);
        if rows != dy_rows {
            return Err(Error::Invalid(format!("inputs {:?} and output gradients {:?} do not match", x.dims(), dy.dims())));
        }
        let mut dw = unwritten::<T>(outputs * inputs);
        numbers!(T: x, dy);
        let (x, dy) = (Matrix::row_major(x, rows, inputs, inputs), Matrix::row_major(dy, rows, outputs, outputs));
        gemm(MatrixMut::row_major(&mut dw, outputs, inputs, inputs), dy.t(), x, T::ONE, Into::Replace, Threads::All);
        tensor(dw, (outputs, inputs))
    })
}

/// Rows summed by one task: the grouping depends on the shape alone, so the sum does not depend on the thread count.
pub(super) const ROWS_PER_SUM: usize = 128;

/// Sums over all rows: `[.., n]` to `[n]`.
pub fn column_sums(x: &Tensor) -> Result<Tensor> {
    by_real!(x, T => {
        let columns = rows_columns(x)?.1.max(1);
        let parts: Vec<Vec<T>> = {
            numbers!(T: x);
            let part = |rows: &[T]| vectorised(#[inline(always)] || {
                let mut sums = vec![T::ZERO; columns];
                for row in rows.chunks_exact(columns) {
                    for (sum, &value) in sums.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                sums
            });
            x.par_chunks(ROWS_PER_SUM * columns).map(part).collect()
        };
        tensor(sum_of_rows(&parts, columns), columns)
    })
}

/// The sum of rows of `columns` numbers, in their order.
pub(super) fn sum_of_rows<T: Real>(rows: &[Vec<T>], columns: usize) -> Vec<T> {
    let mut sums = vec![T::ZERO; columns];
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += value);
    }
    sums
}
