//! Cross-entropy over a vocabulary with its backward, for text-only pretraining.

use candle_core::{Tensor, WithDType};

use super::lanes::{largest, sum_of};
use super::real::{Real, tensor, vectorised};
use crate::error::{Error, Result};
use crate::{by_real, numbers};

/// Weighted mean over rows of `−log softmax(logits)[target]`, and its gradient: `logits` `[N, V]`, one target and one
/// weight (≥ 0) per row. Returns the loss and `[N, V]`.
///
/// # Errors
/// A target outside the vocabulary, weights that sum to zero, and lengths that differ from N.
pub fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f64]) -> Result<(f64, Tensor)> {
    let (n, v) = logits.dims2()?;
    let total: f64 = weights.iter().sum();
    if targets.len() != n || weights.len() != n || total <= 0.0 {
        return Err(Error::Invalid(format!("{n} rows with {} targets and weights that sum to {total}", targets.len())));
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= v) {
        return Err(Error::Invalid(format!("target {target} is outside the vocabulary of {v}")));
    }
    by_real!(logits, T => {
        let mut gradient = vec![T::ZERO; n * v];
        let mut loss = 0.0f64;
        {
            numbers!(T: logits);
            vectorised(#[inline(always)] || {
                for (row, (x, g)) in logits.chunks_exact(v).zip(gradient.chunks_exact_mut(v)).enumerate() {
                    let weight = weights[row] / total;
                    let largest = largest(x);
                    for (g, &x) in g.iter_mut().zip(x) {
                        *g = (x - largest).exponential();
                    }
                    let sum = sum_of(g, #[inline(always)] |x| x);
                    let target = targets[row] as usize;
                    loss += weight * (sum.to_f64().ln() - (x[target] - largest).to_f64());
                    let factor = T::of(weight) / sum;
                    for g in g.iter_mut() {
                        *g *= factor;
                    }
                    g[target] -= T::of(weight);
                }
            });
        }
        Ok((loss, tensor(gradient, (n, v))?))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let logits = Tensor::zeros((2, 4), candle_core::DType::F64, &Device::Cpu).unwrap();
        let (loss, gradient) = cross_entropy(&logits, &[1, 3], &[1.0, 0.0]).unwrap();
        assert!((loss - 4f64.ln()).abs() < 1e-12);
        let expected = vec![vec![0.25, -0.75, 0.25, 0.25], vec![0.0; 4]];
        assert_eq!(gradient.to_vec2::<f64>().unwrap(), expected);
    }
}
