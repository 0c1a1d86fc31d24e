//! PixArt-Alpha's block: self-attention, attention to the text, feed-forward, modulated by one vector of time for all blocks plus a
//! table of each (diffusers@v0.42.1 attention.py `BasicTransformerBlock`, `ada_norm_single`).

// B batch, N image tokens, L text tokens, D width.

use candle_core::Tensor;

use super::PixArtConfig;
use crate::error::{Error, Result};
use crate::models::dit::{FeedForward, Keep, attend, frozen_vjp, heads_scale, split_heads};
use crate::models::weights::{Bias, Init, Weights};
use crate::nn::activation::add;
use crate::nn::attention::{AttentionSaved, BiasGradient, attention_vjp};
use crate::nn::linear::{Linear, linear_input_vjp, linear_input_vjp_sum};
use crate::nn::norm::{modulated_norm, modulated_norm_vjp};
use crate::nn::residual::{gated, gated_residual};

/// Attention of image tokens to themselves or to the text.
#[derive(Debug, Clone)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

#[derive(Debug, Clone)]
struct AttentionParts {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    probabilities: Option<AttentionSaved>,
}

impl Attention {
    fn new(config: &PixArtConfig, weights: &Weights) -> Result<Self> {
        let d = config.width();
        let layer = |name| weights.linear(name, d, d, Bias::With);
        Ok(Self { q: layer("to_q")?, k: layer("to_k")?, v: layer("to_v")?, out: layer("to_out.0")?, heads: config.heads })
    }

    /// `x` `[B, N, D]` asks `source` `[B, L, D]`; `bias` `[B, L]` is added to the scores.
    fn forward(&self, x: &Tensor, source: &Tensor, bias: Option<&Tensor>, keep: Keep) -> Result<(Tensor, AttentionParts)> {
        let q = split_heads(&self.q.forward(x)?, self.heads)?;
        let k = split_heads(&self.k.forward(source)?, self.heads)?;
        let v = split_heads(&self.v.forward(source)?, self.heads)?;
        let (mixed, probabilities) = attend(&q, &k, &v, bias, keep)?;
        Ok((self.out.forward(&mixed)?, AttentionParts { q, k, v, probabilities }))
    }

    /// Gradients of queries, keys and values, heads joined.
    fn vjp(&self, saved: AttentionParts, dy: &Tensor) -> Result<[Tensor; 3]> {
        let AttentionParts { q, k, v, probabilities } = saved;
        let probabilities = probabilities.ok_or_else(|| Error::Invalid("a backward pass without its forward pass".into()))?;
        let d_mixed = frozen_vjp(&self.out, dy)?.reshape(q.shape())?;
        let d = attention_vjp(&probabilities, (&q, &k, &v), heads_scale(&q)?, &d_mixed, BiasGradient::Skip)?;
        Ok([d.dq.flatten_from(2)?, d.dk.flatten_from(2)?, d.dv.flatten_from(2)?])
    }
}

/// One block.
#[derive(Debug, Clone)]
pub struct Block {
    /// `[6, D]`.
    table: Tensor,
    itself: Attention,
    text: Attention,
    feed_forward: FeedForward,
}

/// What [`Block::vjp`] needs.
#[derive(Debug, Clone)]
pub struct BlockSaved {
    x: Tensor,
    parts: Vec<Tensor>,
    itself: AttentionParts,
    text: AttentionParts,
    middle: Tensor,
    wide: Tensor,
}

/// What all blocks of one call see besides the image.
#[derive(Debug, Clone)]
pub struct Context {
    /// `[B, L, D]`.
    pub text: Tensor,
    /// Added to the scores of text tokens, `[B, L]`.
    pub bias: Option<Tensor>,
    /// `[B, 6, D]`.
    pub time: Tensor,
}

/// The vectors `[B, D]` of `time` `[B, n, D]` plus `table` `[n, D]`.
pub fn modulation(time: &Tensor, table: &Tensor) -> Result<Vec<Tensor>> {
    let all = time.broadcast_add(table)?;
    (0..table.dim(0)?).map(|i| Ok(all.narrow(1, i, 1)?.squeeze(1)?.contiguous()?)).collect()
}

impl Block {
    pub fn new(config: &PixArtConfig, weights: &Weights) -> Result<Self> {
        let d = config.width();
        Ok(Self {
            table: weights.tensor("scale_shift_table", &[6, d], Init::Normal((d as f64).powf(-0.5)))?,
            itself: Attention::new(config, &weights.pp("attn1"))?,
            text: Attention::new(config, &weights.pp("attn2"))?,
            feed_forward: FeedForward::new(d, &weights.pp("ff"))?,
        })
    }

    /// `x` `[B, N, D]` to the same shape.
    pub fn forward(&self, x: &Tensor, context: &Context, keep: Keep) -> Result<(Tensor, BlockSaved)> {
        let parts = modulation(&context.time, &self.table)?;
        let normed = modulated_norm(x, &parts[0], &parts[1])?;
        let (mixed, itself) = self.itself.forward(&normed, &normed, None, keep)?;
        let seen = gated_residual(x, &parts[2], &mixed)?;
        // The text is added without a norm before and without a gate.
        let (told, text) = self.text.forward(&seen, &context.text, context.bias.as_ref(), keep)?;
        let middle = add(&seen, &told)?;
        let (out, wide) = self.feed_forward.forward(&modulated_norm(&middle, &parts[3], &parts[4])?)?;
        let y = gated_residual(&middle, &parts[5], &out)?;
        Ok((y, BlockSaved { x: x.clone(), parts, itself, text, middle, wide }))
    }

    /// Gradients of `x` and of the text from `dy` `[B, N, D]`.
    pub fn vjp(&self, saved: BlockSaved, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let BlockSaved { x, parts, itself, text, middle, wide } = saved;
        let d_normed = self.feed_forward.vjp(&wide, &gated(dy, &parts[5])?)?;
        let d_middle = add(dy, &modulated_norm_vjp(&middle, &parts[4], &d_normed)?.0)?;
        drop((wide, middle, d_normed));
        let [dq, dk, dv] = self.text.vjp(text, &d_middle)?;
        let d_text = linear_input_vjp_sum(&[(&dk, &self.text.k.weight.value), (&dv, &self.text.v.weight.value)])?;
        let d_seen = add(&d_middle, &linear_input_vjp(&dq, &self.text.q.weight.value)?)?;
        let [dq, dk, dv] = self.itself.vjp(itself, &gated(&d_seen, &parts[2])?)?;
        let [q, k, v] = [&self.itself.q, &self.itself.k, &self.itself.v].map(|layer| &layer.weight.value);
        let d_normed = linear_input_vjp_sum(&[(&dq, q), (&dk, k), (&dv, v)])?;
        Ok((add(&d_seen, &modulated_norm_vjp(&x, &parts[1], &d_normed)?.0)?, d_text))
    }
}
