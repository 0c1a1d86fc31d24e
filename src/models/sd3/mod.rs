//! Stable Diffusion 3's transformer, MMDiT (Esser et al. 2024), in the tensor names of diffusers
//! (diffusers@v0.42.1 transformer_sd3.py), frozen: the backward pass gives the gradient of the text embedding. Files in the layout
//! of the single published file are renamed by [`super::layout`].
//!
//! The network knows no guidance; see [`super::guidance`]. Padding of the text is attended to.

// B batch, N image tokens, L text tokens, D width, S side of the table of positions.

mod block;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use self::block::{JointBlock, JointSaved, Output};
use super::checkpointing::{Checkpointing, Kept};
use super::dit::{Embedder, Keep, PatchEmbedding, channels_first, channels_last, frozen_vjp, parts, side, timestep_embedding};
use super::weights::{Bias, Init, Weights};
use super::{Denoiser, DenoiserInput, Pullback};
use crate::error::{Error, Result};
use crate::nn::activation::{add, silu};
use crate::nn::linear::Linear;
use crate::nn::norm::{modulated_norm, modulated_norm_vjp};

/// Sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sd3Config {
    /// Channels of the latents.
    pub channels: usize,
    pub blocks: usize,
    pub heads: usize,
    pub head_width: usize,
    /// Width of the text embedding (`joint_attention_dim`).
    pub text_width: usize,
    /// Width of the pooled text (`pooled_projection_dim`).
    pub pooled_width: usize,
    /// Side, in tokens, of the table of positions, whose middle is used (`pos_embed_max_size`).
    pub positions: usize,
}

impl Sd3Config {
    /// A named size: `sd3-medium`, or `smoke` for tests.
    pub fn preset(name: &str) -> Result<Self> {
        match name {
            "sd3-medium" => {
                Ok(Self { channels: 16, blocks: 24, heads: 24, head_width: 64, text_width: 4096, pooled_width: 2048, positions: 192 })
            }
            "smoke" => Ok(Self { channels: 4, blocks: 2, heads: 3, head_width: 8, text_width: 20, pooled_width: 12, positions: 6 }),
            _ => Err(Error::config(format!("unknown size of Stable Diffusion 3 `{name}`"), "known are sd3-medium and smoke")),
        }
    }

    fn width(&self) -> usize {
        self.heads * self.head_width
    }
}

/// The transformer.
#[derive(Debug, Clone)]
pub struct Sd3 {
    pub config: Sd3Config,
    /// What is kept for the backward pass.
    pub checkpointing: Checkpointing,
    patches: PatchEmbedding,
    /// `[1, S², D]`.
    positions: Tensor,
    time: Embedder,
    pooled: Embedder,
    text: Linear,
    blocks: Vec<JointBlock>,
    norm_out: Linear,
    proj_out: Linear,
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct Saved {
    /// Inputs are image and text tokens.
    blocks: Vec<Kept<(Tensor, Tensor), JointSaved>>,
    condition: Tensor,
    last: Tensor,
    scale: Tensor,
}

impl Sd3 {
    /// Takes its tensors from `weights` under diffusers' names.
    pub fn new(config: &Sd3Config, weights: &Weights) -> Result<Self> {
        let d = config.width();
        let block = |i: usize| {
            let output = if i + 1 == config.blocks { Output::Dropped } else { Output::Written };
            JointBlock::new(config, &weights.pp("transformer_blocks").pp(i), output)
        };
        let position_shape = [1, config.positions * config.positions, d];
        Ok(Self {
            config: config.clone(),
            checkpointing: Checkpointing::default(),
            patches: PatchEmbedding::new(config.channels, d, &weights.pp("pos_embed"))?,
            positions: weights.tensor("pos_embed.pos_embed", &position_shape, Init::Normal(0.7))?,
            time: Embedder::of_time(d, &weights.pp("time_text_embed.timestep_embedder"))?,
            pooled: Embedder::new(config.pooled_width, d, &weights.pp("time_text_embed.text_embedder"))?,
            text: weights.linear("context_embedder", config.text_width, d, Bias::With)?,
            blocks: (0..config.blocks).map(block).collect::<Result<_>>()?,
            norm_out: weights.linear_scaled("norm_out.linear", d, 2 * d, Bias::With, 0.02)?,
            proj_out: weights.linear("proj_out", d, 4 * config.channels, Bias::With)?,
        })
    }

    /// The middle of the table, for an image of `n` tokens: `[1, N, D]`.
    fn positions(&self, n: usize) -> Result<Tensor> {
        let (side, all, d) = (side(n)?, self.config.positions, self.config.width());
        if side > all {
            return Err(Error::Invalid(format!("an image of {side}×{side} patches is larger than the {all}×{all} positions")));
        }
        let first = (all - side) / 2;
        let middle = self.positions.reshape((all, all, d))?.narrow(0, first, side)?.narrow(1, first, side)?;
        Ok(middle.contiguous()?.reshape((1, n, d))?)
    }

    fn run(&self, input: &DenoiserInput, text: &Tensor, keep: Keep) -> Result<(Tensor, Saved)> {
        input.check(text)?;
        let n = input.latents.dim(1)?;
        let mut image = self.patches.forward(&input.latents)?.broadcast_add(&self.positions(n)?)?;
        let mut words = self.text.forward(text)?;
        let vector = add(&self.time.forward(&timestep_embedding(&input.time)?)?, &self.pooled.forward(&input.pooled)?)?;
        let condition = silu(&vector)?;
        let mut blocks = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let (new_image, new_words, saved) = block.forward(&image, &words, &condition, keep)?;
            let new_words = new_words.unwrap_or_else(|| words.clone());
            if keep == Keep::ForBackward {
                blocks.push(self.checkpointing.keep(i, (image, words), saved));
            }
            (image, words) = (new_image, new_words);
        }
        let [scale, shift] = <[Tensor; 2]>::try_from(parts(&self.norm_out.forward(&condition)?, 2)?)
            .map_err(|_| Error::Invalid("two parts are cut into two".into()))?;
        let velocity = channels_first(&self.proj_out.forward(&modulated_norm(&image, &shift, &scale)?)?)?;
        Ok((velocity, Saved { blocks, condition, last: image, scale }))
    }

    fn vjp(&self, saved: Saved, d_velocity: &Tensor) -> Result<Tensor> {
        let Saved { blocks, condition, last, scale } = saved;
        let d_normed = frozen_vjp(&self.proj_out, &channels_last(d_velocity)?)?;
        let mut d_image = modulated_norm_vjp(&last, &scale, &d_normed)?.0;
        let mut d_words: Option<Tensor> = None;
        drop((last, d_normed));
        for (block, saved) in self.blocks.iter().zip(blocks).rev() {
            let again = |(image, words): &(Tensor, Tensor)| Ok(block.forward(image, words, &condition, Keep::ForBackward)?.2);
            let (d_image_in, d_words_in) = saved.backward(again, |saved| block.vjp(saved, &d_image, d_words.as_ref()))?;
            (d_image, d_words) = (d_image_in, Some(d_words_in));
        }
        let d_words = d_words.ok_or_else(|| Error::Invalid("a network without blocks does not look at its text".into()))?;
        frozen_vjp(&self.text, &d_words)
    }
}

impl Denoiser for Sd3 {
    fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor> {
        Ok(self.run(input, text, Keep::Nothing)?.0)
    }

    fn velocity_with_pullback<'a>(&'a self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, Pullback<'a>)> {
        let (velocity, saved) = self.run(input, text, Keep::ForBackward)?;
        Ok((velocity, Box::new(move |d_velocity| self.vjp(saved, d_velocity))))
    }
}
