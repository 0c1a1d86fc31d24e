//! Parts that the frozen diffusion transformers in diffusers' layout share: embedders, modulation, feed-forward, positions,
//! patches. Backward passes give gradients of inputs only.

// B batch, N image tokens, L tokens, D width, H heads, S side of the image in tokens, C latent channels.

use candle_core::{DType, Device, Tensor};

use super::flux::conditioning::TIME_CHANNELS;
use super::weights::{Bias, Init, Weights};
use crate::error::{Error, Result};
use crate::nn::activation::{gelu, gelu_vjp, silu};
use crate::nn::attention::{AttentionSaved, attention, attention_output};
use crate::nn::linear::{Linear, linear, linear_input_vjp};

pub use super::flux::conditioning::timestep_embedding;

/// Whether a forward pass is followed by a backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    ForBackward,
}

/// Gradient of the input `[.., in]` of a frozen layer from `dy` `[.., out]`.
pub fn frozen_vjp(layer: &Linear, dy: &Tensor) -> Result<Tensor> {
    linear_input_vjp(dy, &layer.weight.value)
}

/// Two linear layers with SiLU between, for what does not depend on the text embedding.
#[derive(Debug, Clone)]
pub struct Embedder {
    linear_1: Linear,
    linear_2: Linear,
}

impl Embedder {
    pub fn new(inputs: usize, width: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            linear_1: weights.linear("linear_1", inputs, width, Bias::With)?,
            linear_2: weights.linear("linear_2", width, width, Bias::With)?,
        })
    }

    /// The embedder of [`timestep_embedding`]s.
    pub fn of_time(width: usize, weights: &Weights) -> Result<Self> {
        Self::new(TIME_CHANNELS, width, weights)
    }

    /// `[B, in]` to `[B, D]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&silu(&self.linear_1.forward(x)?)?)
    }
}

/// Two linear layers with GELU (tanh) between, four times as wide inside.
#[derive(Debug, Clone)]
pub struct FeedForward {
    inner: Linear,
    outer: Linear,
}

impl FeedForward {
    pub fn new(width: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            inner: weights.linear("net.0.proj", width, 4 * width, Bias::With)?,
            outer: weights.linear("net.2", 4 * width, width, Bias::With)?,
        })
    }

    /// `x` `[B, L, D]` to the same shape, and the inner values `[B, L, 4D]` that the backward needs.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let wide = self.inner.forward(x)?;
        Ok((self.outer.forward(&gelu(&wide)?)?, wide))
    }

    /// Gradient of `x` from the inner values and `dy` `[B, L, D]`.
    pub fn vjp(&self, wide: &Tensor, dy: &Tensor) -> Result<Tensor> {
        frozen_vjp(&self.inner, &gelu_vjp(wide, &frozen_vjp(&self.outer, dy)?)?)
    }
}

/// Cuts `[B, n·D]` into n vectors `[B, D]`.
pub fn parts(all: &Tensor, n: usize) -> Result<Vec<Tensor>> {
    let width = all.dim(1)? / n;
    (0..n).map(|i| Ok(all.narrow(1, i * width, width)?.contiguous()?)).collect()
}

/// `[B, L, D]` as `[B, L, H, D/H]`.
pub fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, l, d) = x.dims3()?;
    Ok(x.reshape((b, l, heads, d / heads))?)
}

/// 1/√(head width) of queries `[B, L, H, D/H]`.
pub fn heads_scale(q: &Tensor) -> Result<f64> {
    Ok((q.dim(3)? as f64).powf(-0.5))
}

/// Attention of `[B, L, H, D/H]`, joined to `[B, L, D]`; the probabilities stay only for a backward pass.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>, keep: Keep) -> Result<(Tensor, Option<AttentionSaved>)> {
    let scale = heads_scale(q)?;
    let (mixed, saved) = match keep {
        Keep::Nothing => (attention_output(q, k, v, bias, scale)?, None),
        Keep::ForBackward => {
            let (mixed, saved) = attention(q, k, v, bias, scale)?;
            (mixed, Some(saved))
        }
    };
    Ok((mixed.flatten_from(2)?, saved))
}

/// The convolution over 2×2 patches, as a linear layer over packed latents.
#[derive(Debug, Clone)]
pub struct PatchEmbedding {
    /// `[D, 4C]`.
    weight: Tensor,
    bias: Tensor,
}

/// Latent pixels along each side of a patch.
const PATCH: usize = 2;

impl PatchEmbedding {
    /// From `proj.weight` `[D, C, 2, 2]` and `proj.bias`; packed latents have the order of its last three dimensions.
    pub fn new(channels: usize, width: usize, weights: &Weights) -> Result<Self> {
        let inputs = channels * PATCH * PATCH;
        let shape = [width, channels, PATCH, PATCH];
        let weight = weights.tensor("proj.weight", &shape, Init::Normal((inputs as f64).powf(-0.5)))?;
        Ok(Self { weight: weight.reshape((width, inputs))?, bias: weights.tensor("proj.bias", &[width], Init::Zeros)? })
    }

    /// Packed latents `[B, N, 4C]` to tokens `[B, N, D]`.
    pub fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        linear(latents, &self.weight, Some(&self.bias))
    }
}

/// Patches with their channels last `[B, N, (2 2 C)]`, as output layers write them, to packed latents `[B, N, (C 2 2)]`.
pub fn channels_first(patches: &Tensor) -> Result<Tensor> {
    let (b, n, width) = patches.dims3()?;
    let area = PATCH * PATCH;
    Ok(patches.reshape((b, n, area, width / area))?.transpose(2, 3)?.contiguous()?.reshape((b, n, width))?)
}

/// The inverse, and the backward, of [`channels_first`].
pub fn channels_last(packed: &Tensor) -> Result<Tensor> {
    let (b, n, width) = packed.dims3()?;
    let area = PATCH * PATCH;
    Ok(packed.reshape((b, n, width / area, area))?.transpose(2, 3)?.contiguous()?.reshape((b, n, width))?)
}

/// Tokens along each side of a square image of `n` tokens.
pub fn side(n: usize) -> Result<usize> {
    let side = n.isqrt();
    if side * side == n { Ok(side) } else { Err(Error::Invalid(format!("{n} image tokens do not form a square"))) }
}

/// Sinusoids of the positions of a square of `side` tokens, `[S², D]`: half the width for the column, half for the row, sines
/// first. Positions are stretched so that the side is `length` long (diffusers@v0.42.1 embeddings.py `get_2d_sincos_pos_embed`).
pub fn sinusoidal_positions(side: usize, width: usize, length: f64, dtype: DType) -> Result<Tensor> {
    const MAX_PERIOD: f64 = 10_000.0;
    let quarter = width / 4;
    let one_axis = |i: usize| {
        let position = i as f64 * length / side as f64;
        let angles = (0..quarter).map(move |k| position / MAX_PERIOD.powf(k as f64 / quarter as f64));
        angles.clone().map(f64::sin).chain(angles.map(f64::cos)).collect::<Vec<f64>>()
    };
    let axis: Vec<Vec<f64>> = (0..side).map(one_axis).collect();
    let mut values: Vec<f64> = Vec::with_capacity(side * side * width);
    for row in &axis {
        for column in &axis {
            values.extend(column);
            values.extend(row);
        }
    }
    Ok(Tensor::from_vec(values, (side * side, width), &Device::Cpu)?.to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_change_order_and_back() {
        let values: Vec<f32> = (0..2 * 3 * 12).map(|i| i as f32).collect();
        let packed = Tensor::from_vec(values, (2, 3, 12), &Device::Cpu).unwrap();
        let last = channels_last(&packed).unwrap();
        // Channel 2 of place 1 was number 2·4 + 1, and is number 1·3 + 2.
        assert_eq!(last.to_vec3::<f32>().unwrap()[0][0][5], 9.0);
        assert_eq!(channels_first(&last).unwrap().to_vec3::<f32>().unwrap(), packed.to_vec3::<f32>().unwrap());
    }

    #[test]
    fn the_first_position_has_sines_of_zero_and_the_column_comes_first() {
        let positions = sinusoidal_positions(2, 8, 2.0, DType::F64).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(positions[0], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        assert_eq!(positions[1][4..], positions[0][4..]);
        assert!((positions[1][0] - 1f64.sin()).abs() < 1e-15 && (positions[2][4] - 1f64.sin()).abs() < 1e-15);
        // Twice the length, twice the position.
        assert!((sinusoidal_positions(2, 8, 4.0, DType::F64).unwrap().to_vec2::<f64>().unwrap()[1][0] - 2f64.sin()).abs() < 1e-15);
    }

    #[test]
    fn tokens_that_do_not_form_a_square_are_refused() {
        assert_eq!(side(64).unwrap(), 8);
        assert!(side(60).is_err());
    }
}
