//! PixArt-Alpha's transformer (Chen et al. 2023) in the tensor names of diffusers (diffusers@v0.42.1 pixart_transformer_2d.py),
//! frozen: the backward pass gives the gradient of the text embedding.
//!
//! It predicts noise, and a variance that its sampler does not use. It knows no guidance; see [`super::guidance`]. Of the text it
//! sees the tokens that [`DenoiserInput::text_mask`] shows.

// B batch, N image tokens, L text tokens, D width, C latent channels.

mod block;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use self::block::{Block, BlockSaved, Context, modulation};
use super::checkpointing::{Checkpointing, Kept};
use super::dit::{
    Embedder, Keep, PatchEmbedding, channels_first, channels_last, frozen_vjp, side, sinusoidal_positions, timestep_embedding,
};
use super::weights::{Bias, Init, Weights};
use super::{Denoiser, DenoiserInput, Predicts, Pullback};
use crate::error::{Error, Result};
use crate::nn::activation::{add, gelu, gelu_vjp, silu};
use crate::nn::linear::Linear;
use crate::nn::norm::{modulated_norm, modulated_norm_vjp};

/// Sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixArtConfig {
    /// Channels of the latents; twice as many are predicted.
    pub channels: usize,
    pub blocks: usize,
    pub heads: usize,
    pub head_width: usize,
    /// Width of the text embedding (`caption_channels`).
    pub text_width: usize,
    /// Latent pixels along each side of the images it was trained on (`sample_size`), over which positions are stretched.
    pub sample_size: usize,
}

impl PixArtConfig {
    /// A named size: `pixart-xl-2-512`, or `smoke` for tests.
    pub fn preset(name: &str) -> Result<Self> {
        match name {
            "pixart-xl-2-512" => Ok(Self { channels: 4, blocks: 28, heads: 16, head_width: 72, text_width: 4096, sample_size: 64 }),
            "smoke" => Ok(Self { channels: 4, blocks: 2, heads: 3, head_width: 8, text_width: 20, sample_size: 16 }),
            _ => Err(Error::config(format!("unknown size of PixArt `{name}`"), "known are pixart-xl-2-512 and smoke")),
        }
    }

    fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Length of an image's side in units of position: patches at the trained size, which count less where it is a multiple of 64.
    fn side_length(&self) -> f64 {
        (self.sample_size / 2) as f64 / (self.sample_size / 64).max(1) as f64
    }
}

/// The transformer.
#[derive(Debug, Clone)]
pub struct PixArt {
    pub config: PixArtConfig,
    /// What is kept for the backward pass.
    pub checkpointing: Checkpointing,
    patches: PatchEmbedding,
    time: Embedder,
    time_to_parts: Linear,
    text_1: Linear,
    text_2: Linear,
    blocks: Vec<Block>,
    /// `[2, D]`.
    table: Tensor,
    proj_out: Linear,
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct Saved {
    blocks: Vec<Kept<Tensor, BlockSaved>>,
    context: Context,
    /// `[B, L, D]`, before its GELU.
    text_inner: Tensor,
    last: Tensor,
    scale: Tensor,
}

/// Added to the scores of tokens that are not seen (diffusers@v0.42.1 pixart_transformer_2d.py).
const UNSEEN: f64 = -10_000.0;

impl PixArt {
    /// Takes its tensors from `weights` under diffusers' names.
    pub fn new(config: &PixArtConfig, weights: &Weights) -> Result<Self> {
        let d = config.width();
        let text = weights.pp("caption_projection");
        Ok(Self {
            config: config.clone(),
            checkpointing: Checkpointing::default(),
            patches: PatchEmbedding::new(config.channels, d, &weights.pp("pos_embed"))?,
            time: Embedder::of_time(d, &weights.pp("adaln_single.emb.timestep_embedder"))?,
            // Near zero at first, so that blocks start close to their tables.
            time_to_parts: weights.linear_scaled("adaln_single.linear", d, 6 * d, Bias::With, 0.02)?,
            text_1: text.linear("linear_1", config.text_width, d, Bias::With)?,
            text_2: text.linear("linear_2", d, d, Bias::With)?,
            blocks: (0..config.blocks).map(|i| Block::new(config, &weights.pp("transformer_blocks").pp(i))).collect::<Result<_>>()?,
            table: weights.tensor("scale_shift_table", &[2, d], Init::Normal((d as f64).powf(-0.5)))?,
            proj_out: weights.linear("proj_out", d, 2 * 4 * config.channels, Bias::With)?,
        })
    }

    /// Noise and variance, packed: `[B, N, 8C]`, the noise being the first half.
    pub fn prediction(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor> {
        Ok(self.run(input, text, Keep::Nothing)?.0)
    }

    fn run(&self, input: &DenoiserInput, text: &Tensor, keep: Keep) -> Result<(Tensor, Saved)> {
        input.check(text)?;
        let (b, n, _) = input.latents.dims3()?;
        let d = self.config.width();
        let positions = sinusoidal_positions(side(n)?, d, self.config.side_length(), text.dtype())?;
        let mut x = self.patches.forward(&input.latents)?.broadcast_add(&positions)?;
        let time = self.time.forward(&timestep_embedding(&input.time)?)?;
        let text_inner = self.text_1.forward(text)?;
        let context = Context {
            text: self.text_2.forward(&gelu(&text_inner)?)?,
            bias: input.text_mask.as_ref().map(|mask| mask.to_dtype(text.dtype())?.affine(-UNSEEN, UNSEEN)).transpose()?,
            time: self.time_to_parts.forward(&silu(&time)?)?.reshape((b, 6, d))?,
        };
        let mut blocks = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, saved) = block.forward(&x, &context, keep)?;
            if keep == Keep::ForBackward {
                blocks.push(self.checkpointing.keep(i, x, saved));
            }
            x = y;
        }
        let [shift, scale] = <[Tensor; 2]>::try_from(modulation(&time.unsqueeze(1)?, &self.table)?)
            .map_err(|_| Error::Invalid("a table of two has two rows".into()))?;
        let prediction = channels_first(&self.proj_out.forward(&modulated_norm(&x, &shift, &scale)?)?)?;
        Ok((prediction, Saved { blocks, context, text_inner, last: x, scale }))
    }

    /// Gradient of the text embedding from that of the noise `[B, N, 4C]`.
    fn vjp(&self, saved: Saved, d_noise: &Tensor) -> Result<Tensor> {
        let Saved { blocks, context, text_inner, last, scale } = saved;
        let d_prediction = Tensor::cat(&[d_noise, &d_noise.zeros_like()?], 2)?;
        let d_normed = frozen_vjp(&self.proj_out, &channels_last(&d_prediction)?)?;
        let mut dx = modulated_norm_vjp(&last, &scale, &d_normed)?.0;
        let mut d_text: Option<Tensor> = None;
        drop((last, d_normed, d_prediction));
        for (block, saved) in self.blocks.iter().zip(blocks).rev() {
            let again = |x: &Tensor| Ok(block.forward(x, &context, Keep::ForBackward)?.1);
            let (dx_in, d_text_here) = saved.backward(again, |saved| block.vjp(saved, &dx))?;
            dx = dx_in;
            d_text = Some(match d_text {
                Some(sum) => add(&sum, &d_text_here)?,
                None => d_text_here,
            });
        }
        let d_text = d_text.ok_or_else(|| Error::Invalid("a network without blocks does not look at its text".into()))?;
        frozen_vjp(&self.text_1, &gelu_vjp(&text_inner, &frozen_vjp(&self.text_2, &d_text)?)?)
    }

    /// The half of a prediction that is noise.
    fn noise(&self, prediction: &Tensor) -> Result<Tensor> {
        Ok(prediction.narrow(2, 0, 4 * self.config.channels)?.contiguous()?)
    }
}

impl Denoiser for PixArt {
    fn predicts(&self) -> Predicts {
        Predicts::Noise
    }

    fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor> {
        self.noise(&self.prediction(input, text)?)
    }

    fn velocity_with_pullback<'a>(&'a self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, Pullback<'a>)> {
        let (prediction, saved) = self.run(input, text, Keep::ForBackward)?;
        Ok((self.noise(&prediction)?, Box::new(move |d_noise| self.vjp(saved, d_noise))))
    }
}
