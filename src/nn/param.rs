//! Parameters and their gradients: tensors with the name they have in a checkpoint.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::{Error, Result};

/// One weight of a network, under the name it has in the checkpoint.
#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub value: Tensor,
}

/// A network whose weights can be listed and replaced.
pub trait Parameters {
    /// Visits every parameter in a fixed order.
    fn visit(&self, visitor: &mut dyn FnMut(&Param));
    /// Visits every parameter for replacement, in the same order.
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param));

    /// All parameters by name.
    fn named(&self) -> BTreeMap<String, Tensor> {
        let mut all = BTreeMap::new();
        self.visit(&mut |param| {
            all.insert(param.name.clone(), param.value.clone());
        });
        all
    }

    /// Number of scalar weights.
    fn count(&self) -> usize {
        let mut n = 0;
        self.visit(&mut |param| n += param.value.elem_count());
        n
    }

    /// Replaces every parameter by the tensor of the same name.
    ///
    /// # Errors
    /// A missing name or a different shape is an error that names the tensor.
    fn assign(&mut self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut problem = None;
        self.visit_mut(&mut |param| match values.get(&param.name) {
            Some(value) if value.shape() == param.value.shape() => param.value = value.clone(),
            Some(value) => problem = Some(format!("`{}` has shape {:?}, expected {:?}", param.name, value.dims(), param.value.dims())),
            None => problem = Some(format!("`{}` is missing", param.name)),
        });
        problem.map_or(Ok(()), |problem| Err(Error::Invalid(problem)))
    }
}

/// Where the parameter gradients of a backward pass go.
#[derive(Debug)]
pub enum Gradients {
    /// The network is frozen: only gradients of inputs are computed.
    Frozen,
    /// Sums by parameter name.
    Collected(BTreeMap<String, Tensor>),
}

impl Gradients {
    /// An empty collection.
    pub fn collect() -> Self {
        Self::Collected(BTreeMap::new())
    }

    /// True where parameter gradients are wanted.
    pub fn wanted(&self) -> bool {
        matches!(self, Self::Collected(_))
    }

    /// Adds a gradient of `param`, computed only where it is wanted; the shape must be the parameter's.
    pub fn add(&mut self, param: &Param, gradient: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let Self::Collected(sums) = self else { return Ok(()) };
        let gradient = gradient()?;
        if gradient.shape() != param.value.shape() {
            return Err(Error::Invalid(format!(
                "gradient of `{}` has shape {:?}, expected {:?}",
                param.name,
                gradient.dims(),
                param.value.dims()
            )));
        }
        let sum = match sums.remove(&param.name) {
            Some(earlier) => (earlier + gradient)?,
            None => gradient,
        };
        sums.insert(param.name.clone(), sum);
        Ok(())
    }

    /// The collected sums by parameter name; empty for a frozen network.
    pub fn into_map(self) -> BTreeMap<String, Tensor> {
        match self {
            Self::Frozen => BTreeMap::new(),
            Self::Collected(sums) => sums,
        }
    }
}
