//! Has every embedding predict the tokens before and after its own: the stand-in for T5's decoder, which writes its
//! answer in order and so makes the encoder keep what stands beside what.

use candle_core::Tensor;

use crate::error::Result;
use crate::nn::cross_entropy::cross_entropy;
use crate::nn::linear::Linear;
use crate::nn::param::Gradients;

/// A linear read-out of the tokens up to `reach` before and after each token.
pub struct NeighbourHead {
    /// `[2·R·V, D]`: logits of all neighbours side by side, nearest earlier one first (−1, +1, −2, +2, …).
    pub linear: Linear,
    pub reach: usize,
}

/// The tokens at distances −1, +1, −2, +2, … of every token of a batch, in the order of the head's logits.
pub struct Neighbours {
    pub tokens: Vec<u32>,
    /// 1, or 0 where the sentence has no such neighbour.
    pub weights: Vec<f64>,
}

impl Neighbours {
    /// Of rows of `length` ids; `pad` ids are no text.
    pub fn of(ids: &[u32], length: usize, reach: usize, pad: u32) -> Self {
        let (mut tokens, mut weights) = (Vec::new(), Vec::new());
        for row in ids.chunks(length) {
            for at in 0..row.len() {
                for distance in 1..=reach {
                    for place in [at.checked_sub(distance), Some(at + distance)] {
                        let token = place.and_then(|place| row.get(place)).copied().unwrap_or(pad);
                        tokens.push(token);
                        weights.push(if token == pad || row[at] == pad { 0.0 } else { 1.0 });
                    }
                }
            }
        }
        Self { tokens, weights }
    }
}

impl NeighbourHead {
    /// Cross-entropy (mean over the neighbours) and the gradient of the states `[B, L, D]`, f32.
    pub fn loss(&self, states: &Tensor, neighbours: &Neighbours, gradients: &mut Gradients) -> Result<(f64, Tensor)> {
        let (loss, d_logits) = cross_entropy(&self.logits(states)?, &neighbours.tokens, &neighbours.weights)?;
        let (b, l, _) = states.dims3()?;
        let d_logits = d_logits.reshape((b, l, self.linear.weight.value.dims2()?.0))?;
        Ok((loss, self.linear.vjp(states, &d_logits, gradients)?))
    }

    /// The likeliest token at each place, in the order of [`Neighbours`], from states `[B, L, D]`.
    pub fn predict(&self, states: &Tensor) -> Result<Vec<u32>> {
        Ok(self.logits(states)?.argmax(1)?.to_vec1()?)
    }

    /// `[B·L·2R, V]`.
    fn logits(&self, states: &Tensor) -> Result<Tensor> {
        let vocabulary = self.linear.weight.value.dims2()?.0 / (2 * self.reach);
        let logits = self.linear.forward(states)?;
        Ok(logits.reshape((logits.elem_count() / vocabulary, vocabulary))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_of_the_sentence_and_never_padding() {
        // Two sentences of three and one tokens in rows of four.
        let Neighbours { tokens, weights } = Neighbours::of(&[7, 8, 9, 0, 5, 0, 0, 0], 4, 2, 0);
        assert_eq!(tokens[..12], [0, 8, 0, 9, 7, 9, 0, 0, 8, 0, 7, 0]);
        assert_eq!(weights[..12], [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        assert!(weights[12..].iter().all(|&weight| weight == 0.0));
    }
}
