//! The joint block of Stable Diffusion 3: image and text have their own weights and meet in one attention
//! (diffusers@v0.42.1 attention.py `JointTransformerBlock`). The last block reads the text and does not write it.

// B batch, N image tokens, L text tokens, D width.

use candle_core::Tensor;

use super::Sd3Config;
use crate::error::{Error, Result};
use crate::models::dit::{FeedForward, Keep, attend, frozen_vjp, heads_scale, parts, split_heads};
use crate::models::weights::{Bias, Weights};
use crate::nn::activation::add;
use crate::nn::attention::{AttentionSaved, BiasGradient, attention_vjp};
use crate::nn::linear::{Linear, linear_input_vjp_sum};
use crate::nn::norm::{modulated_norm, modulated_norm_vjp};
use crate::nn::residual::{gated, gated_residual};

/// Whether a block writes a stream of tokens, or only reads it, as the last block does the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Written,
    Dropped,
}

/// Names of one stream's layers below the block.
struct Names {
    modulation: &'static str,
    qkv: [&'static str; 3],
    out: &'static str,
    feed_forward: &'static str,
}

const IMAGE: Names =
    Names { modulation: "norm1.linear", qkv: ["attn.to_q", "attn.to_k", "attn.to_v"], out: "attn.to_out.0", feed_forward: "ff" };
const TEXT: Names = Names {
    modulation: "norm1_context.linear",
    qkv: ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    out: "attn.to_add_out",
    feed_forward: "ff_context",
};

/// One stream up to the attention.
#[derive(Debug, Clone)]
struct Entry {
    modulation: Linear,
    q: Linear,
    k: Linear,
    v: Linear,
}

/// One stream from the attention on.
#[derive(Debug, Clone)]
struct Exit {
    out: Linear,
    feed_forward: FeedForward,
}

/// Saved values of one stream before the attention; the parts are shift, scale and, where the stream goes on, gate, shift, scale,
/// gate, `[B, D]` each.
#[derive(Debug, Clone)]
struct EntrySaved {
    x: Tensor,
    parts: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct ExitSaved {
    middle: Tensor,
    wide: Tensor,
}

impl Entry {
    fn new(d: usize, weights: &Weights, names: &Names, n_parts: usize) -> Result<Self> {
        let [q, k, v] = names.qkv.map(|name| weights.linear(name, d, d, Bias::With));
        // Near zero at first, so that a fresh block is nearly the identity.
        let modulation = weights.linear_scaled(names.modulation, d, n_parts * d, Bias::With, 0.02)?;
        Ok(Self { modulation, q: q?, k: k?, v: v? })
    }

    /// `x` `[B, L, D]` and silu(conditioning) `[B, D]` to what is saved and the modulated norm.
    fn forward(&self, x: &Tensor, condition: &Tensor, output: Output) -> Result<(EntrySaved, Tensor)> {
        let all = self.modulation.forward(condition)?;
        let parts = match output {
            Output::Written => parts(&all, 6)?,
            Output::Dropped => {
                // Diffusers' continuous norm stores the scale first.
                let mut two = parts(&all, 2)?;
                two.reverse();
                two
            }
        };
        let normed = modulated_norm(x, &parts[0], &parts[1])?;
        Ok((EntrySaved { x: x.clone(), parts }, normed))
    }
}

impl EntrySaved {
    fn vjp(&self, d_normed: &Tensor) -> Result<Tensor> {
        Ok(modulated_norm_vjp(&self.x, &self.parts[1], d_normed)?.0)
    }
}

impl Exit {
    fn new(d: usize, weights: &Weights, names: &Names) -> Result<Self> {
        let feed_forward = FeedForward::new(d, &weights.pp(names.feed_forward))?;
        Ok(Self { out: weights.linear(names.out, d, d, Bias::With)?, feed_forward })
    }

    fn forward(&self, entry: &EntrySaved, mixed: &Tensor) -> Result<(Tensor, ExitSaved)> {
        let parts = &entry.parts;
        let middle = gated_residual(&entry.x, &parts[2], &self.out.forward(mixed)?)?;
        let (out, wide) = self.feed_forward.forward(&modulated_norm(&middle, &parts[3], &parts[4])?)?;
        Ok((gated_residual(&middle, &parts[5], &out)?, ExitSaved { middle, wide }))
    }

    /// Gradients of the attention's output and, through the residual, of the stream.
    fn vjp(&self, entry: &EntrySaved, saved: ExitSaved, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let parts = &entry.parts;
        let d_normed = self.feed_forward.vjp(&saved.wide, &gated(dy, &parts[5])?)?;
        let d_middle = add(dy, &modulated_norm_vjp(&saved.middle, &parts[4], &d_normed)?.0)?;
        Ok((frozen_vjp(&self.out, &gated(&d_middle, &parts[2])?)?, d_middle))
    }
}

/// One joint block.
#[derive(Debug, Clone)]
pub struct JointBlock {
    image: (Entry, Exit),
    text: (Entry, Option<Exit>),
    heads: usize,
}

/// What [`JointBlock::vjp`] needs.
#[derive(Debug, Clone)]
pub struct JointSaved {
    image: (EntrySaved, ExitSaved),
    text: (EntrySaved, Option<ExitSaved>),
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: Option<AttentionSaved>,
}

impl JointBlock {
    pub fn new(config: &Sd3Config, weights: &Weights, output: Output) -> Result<Self> {
        let d = config.width();
        let (n_parts, exit) = match output {
            Output::Written => (6, Some(Exit::new(d, weights, &TEXT)?)),
            Output::Dropped => (2, None),
        };
        Ok(Self {
            image: (Entry::new(d, weights, &IMAGE, 6)?, Exit::new(d, weights, &IMAGE)?),
            text: (Entry::new(d, weights, &TEXT, n_parts)?, exit),
            heads: config.heads,
        })
    }

    /// `image` `[B, N, D]`, `text` `[B, L, D]` and silu(conditioning) `[B, D]` to new image and text tokens; no text in the
    /// last block.
    pub fn forward(&self, image: &Tensor, text: &Tensor, condition: &Tensor, keep: Keep) -> Result<(Tensor, Option<Tensor>, JointSaved)> {
        let (n, l) = (image.dim(1)?, text.dim(1)?);
        let ((image_entry, image_exit), (text_entry, text_exit)) = (&self.image, &self.text);
        let (image_saved, image_normed) = image_entry.forward(image, condition, Output::Written)?;
        let output = if text_exit.is_some() { Output::Written } else { Output::Dropped };
        let (text_saved, text_normed) = text_entry.forward(text, condition, output)?;
        let both = |of_image: &Linear, of_text: &Linear| -> Result<Tensor> {
            split_heads(&Tensor::cat(&[of_image.forward(&image_normed)?, of_text.forward(&text_normed)?], 1)?, self.heads)
        };
        let q = match output {
            Output::Written => both(&image_entry.q, &text_entry.q)?,
            // What the text would ask for, nobody reads.
            Output::Dropped => split_heads(&image_entry.q.forward(&image_normed)?, self.heads)?,
        };
        let (k, v) = (both(&image_entry.k, &text_entry.k)?, both(&image_entry.v, &text_entry.v)?);
        let (mixed, attention) = attend(&q, &k, &v, None, keep)?;
        let (image, image_after) = image_exit.forward(&image_saved, &mixed.narrow(1, 0, n)?.contiguous()?)?;
        let after = text_exit.as_ref().map(|exit| exit.forward(&text_saved, &mixed.narrow(1, n, l)?.contiguous()?)).transpose()?;
        let (text, text_after) = after.unzip();
        let saved = JointSaved { image: (image_saved, image_after), text: (text_saved, text_after), q, k, v, attention };
        Ok((image, text, saved))
    }

    /// `(d_image, d_text)` of the inputs from the gradients of the outputs; the last block has none of the text.
    pub fn vjp(&self, saved: JointSaved, d_image: &Tensor, d_text: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let JointSaved { image: (image_saved, image_after), text: (text_saved, text_after), q, k, v, attention } = saved;
        let attention = attention.ok_or_else(|| Error::Invalid("a backward pass without its forward pass".into()))?;
        let (d_image_mixed, d_image) = self.image.1.vjp(&image_saved, image_after, d_image)?;
        let (d_mixed, d_text) = match (&self.text.1, text_after, d_text) {
            (Some(exit), Some(after), Some(d_text)) => {
                let (d_text_mixed, d_text) = exit.vjp(&text_saved, after, d_text)?;
                (Tensor::cat(&[d_image_mixed, d_text_mixed], 1)?, Some(d_text))
            }
            _ => (d_image_mixed, None),
        };
        let gradients = attention_vjp(&attention, (&q, &k, &v), heads_scale(&q)?, &d_mixed.reshape(q.shape())?, BiasGradient::Skip)?;
        drop((q, k, v, attention, d_mixed));
        let (n, l) = (image_saved.x.dim(1)?, text_saved.x.dim(1)?);
        let flat = |d: &Tensor, from: usize, n: usize| -> Result<Tensor> { Ok(d.flatten_from(2)?.narrow(1, from, n)?.contiguous()?) };

        let entry = &self.image.0;
        let (dq, dk, dv) = (flat(&gradients.dq, 0, n)?, flat(&gradients.dk, 0, n)?, flat(&gradients.dv, 0, n)?);
        let d_normed = linear_input_vjp_sum(&[(&dq, &entry.q.weight.value), (&dk, &entry.k.weight.value), (&dv, &entry.v.weight.value)])?;
        let d_image = add(&d_image, &image_saved.vjp(&d_normed)?)?;

        let entry = &self.text.0;
        let (dk, dv) = (flat(&gradients.dk, n, l)?, flat(&gradients.dv, n, l)?);
        let mut sum = vec![(&dk, &entry.k.weight.value), (&dv, &entry.v.weight.value)];
        let dq = d_text.as_ref().map(|_| flat(&gradients.dq, n, l)).transpose()?;
        sum.extend(dq.as_ref().map(|dq| (dq, &entry.q.weight.value)));
        let d_entry = text_saved.vjp(&linear_input_vjp_sum(&sum)?)?;
        let d_text = match d_text {
            Some(d_text) => add(&d_text, &d_entry)?,
            None => d_entry,
        };
        Ok((d_image, d_text))
    }
}
