//! The weight of a linear layer: numbers that may be trained, or frozen blocks of a few bits.

use candle_core::Tensor;

use super::param::{Gradients, Param};
use super::quantised::Quantised;
use crate::error::{Error, Result};

/// A named weight `[out, in]`.
#[derive(Debug, Clone)]
pub struct Weight {
    pub name: String,
    pub value: Values,
}

/// How the numbers are stored.
#[derive(Debug, Clone)]
pub enum Values {
    /// f32 or f64, or bf16 or f16 where frozen.
    Dense(Tensor),
    /// Frozen.
    Quantised(Quantised),
}

/// A weight as products take it.
#[derive(Debug, Clone, Copy)]
pub enum WeightRef<'a> {
    Dense(&'a Tensor),
    Quantised(&'a Quantised),
}

impl<'a> From<&'a Tensor> for WeightRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl<'a> From<&'a Values> for WeightRef<'a> {
    fn from(values: &'a Values) -> Self {
        match values {
            Values::Dense(tensor) => Self::Dense(tensor),
            Values::Quantised(quantised) => Self::Quantised(quantised),
        }
    }
}

impl WeightRef<'_> {
    /// Rows and columns.
    ///
    /// # Errors
    /// A tensor that is no matrix.
    pub fn dims2(self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(tensor) => Ok(tensor.dims2()?),
            Self::Quantised(quantised) => Ok(quantised.dims().into()),
        }
    }
}

impl Values {
    /// Rows and columns.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        WeightRef::from(self).dims2()
    }

    /// `n` rows (`dim` 0) or columns (`dim` 1) from `from` on, without copying.
    ///
    /// # Errors
    /// A part that is not inside, and a cut inside a run of quantised weights.
    pub fn narrow(&self, dim: usize, from: usize, n: usize) -> Result<Self> {
        Ok(match self {
            Self::Dense(tensor) => Self::Dense(tensor.narrow(dim, from, n)?),
            Self::Quantised(quantised) => Self::Quantised(quantised.narrow(dim, from, n)?),
        })
    }

    /// The tensor, unless the weight is quantised.
    pub fn dense(&self) -> Option<&Tensor> {
        match self {
            Self::Dense(tensor) => Some(tensor),
            Self::Quantised(_) => None,
        }
    }
}

impl From<Param> for Weight {
    fn from(Param { name, value }: Param) -> Self {
        Self { name, value: Values::Dense(value) }
    }
}

impl Weight {
    /// The weight as a parameter; quantised numbers are widened for it.
    pub(super) fn param(&self) -> Param {
        let value = match &self.value {
            Values::Dense(tensor) => tensor.clone(),
            Values::Quantised(quantised) => quantised.widen().expect("a matrix has as many numbers as its shape says"),
        };
        Param { name: self.name.clone(), value }
    }

    /// Adds a gradient `[out, in]`, computed only where it is wanted.
    ///
    /// # Errors
    /// A gradient that is wanted of quantised numbers: they are frozen.
    pub fn add_gradient(&self, gradients: &mut Gradients, gradient: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        if !gradients.wanted() {
            return Ok(());
        }
        match &self.value {
            Values::Dense(_) => gradients.add(&self.param(), gradient),
            Values::Quantised(_) => Err(Error::Invalid(format!("`{}` is quantised and cannot be trained", self.name))),
        }
    }
}
