//! Token embedding and its backward.

use candle_core::Tensor;

use super::param::{Gradients, Param};
use super::real::{Real, tensor};
use crate::error::{Error, Result};
use crate::{by_real, numbers};

/// Rows of `table` `[V, D]` for `ids` `[B, L]` (u32), to `[B, L, D]`.
///
/// # Errors
/// An id that is not below V.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (vocabulary, d) = table.dims2()?;
    let (b, l) = ids.dims2()?;
    let ids = ids.flatten_all()?.to_vec1::<u32>()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(Error::Invalid(format!("token id {id} is outside the vocabulary of {vocabulary}")));
    }
    by_real!(table, T => {
        let mut out = Vec::with_capacity(ids.len() * d);
        numbers!(T: table);
        ids.iter().for_each(|&id| out.extend_from_slice(&table[id as usize * d..][..d]));
        tensor(out, (b, l, d))
    })
}

/// Adds the gradient of the table, summed in token order, from `dy` `[B, L, D]`.
pub fn embedding_vjp(table: &Param, ids: &Tensor, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
    gradients.add(table, || {
        let (vocabulary, d) = table.value.dims2()?;
        let ids = ids.flatten_all()?.to_vec1::<u32>()?;
        by_real!(dy, T => {
            let mut sums = vec![T::ZERO; vocabulary * d];
            numbers!(T: dy);
            for (&id, dy) in ids.iter().zip(dy.chunks_exact(d)) {
                sums[id as usize * d..][..d].iter_mut().zip(dy).for_each(|(sum, &x)| *sum += x);
            }
            tensor(sums, (vocabulary, d))
        })
    })
}
