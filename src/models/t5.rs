//! The T5 v1.1 encoder (Raffel et al. 2020; Shazeer 2020 for the gated feed-forward) as explicit forward and backward.
//!
//! Names and shapes are those of the published checkpoints (`shared.weight`, `encoder.block.0.layer.0.SelfAttention.q.weight`, …).
//! Padding is attended to, as Flux's pipelines do, which call the encoder without a mask; or masked, as PixArt's do ([`Padding`]).

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::TextEncoder;
use super::weights::{Bias, Init, Weights};
use crate::error::{Error, Result};
use crate::nn::activation::{add, gated_gelu, gated_gelu_vjp};
use crate::nn::attention::{AttentionSaved, BiasGradient, attention, attention_output, attention_vjp};
use crate::nn::embedding::{embedding, embedding_vjp};
use crate::nn::linear::{Linear, linear_input_vjp_sum};
use crate::nn::norm::{rms_norm, rms_norm_vjp};
use crate::nn::param::{Gradients, Param, Parameters};

/// Sizes of an encoder; the fields are those of the published `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct T5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub relative_attention_num_buckets: usize,
    pub relative_attention_max_distance: usize,
    pub layer_norm_epsilon: f64,
}

/// Names [`T5Config::preset`] knows.
pub const T5_PRESETS: [&str; 15] = [
    "t5-v1.1-small",
    "t5-v1.1-base",
    "t5-v1.1-large",
    "t5-v1.1-xl",
    "t5-v1.1-xxl",
    "mini-teacher",
    "mini-small",
    "mini-base",
    "mini-large",
    "mini-xl",
    "smoke-teacher",
    "smoke-small",
    "smoke-base",
    "smoke-large",
    "smoke-xl",
];

impl T5Config {
    /// A named size: the five published v1.1 encoders, the miniature world's, and the smoke test's.
    pub fn preset(name: &str) -> Result<Self> {
        // (d_model, d_kv, d_ff, layers, heads)
        let (vocab_size, sizes) = match name {
            "t5-v1.1-small" => (32128, (512, 64, 1024, 8, 6)),
            "t5-v1.1-base" => (32128, (768, 64, 2048, 12, 12)),
            "t5-v1.1-large" => (32128, (1024, 64, 2816, 24, 16)),
            "t5-v1.1-xl" => (32128, (2048, 64, 5120, 24, 32)),
            "t5-v1.1-xxl" => (32128, (4096, 64, 10240, 24, 64)),
            "mini-teacher" => (MINI_VOCABULARY, (256, 64, 768, 6, 4)),
            // About 1/64, 1/24, 1/8 and 1/3 of the teacher's encoder.
            "mini-small" => (MINI_VOCABULARY, (32, 16, 96, 3, 2)),
            "mini-base" => (MINI_VOCABULARY, (64, 16, 160, 4, 4)),
            "mini-large" => (MINI_VOCABULARY, (96, 32, 320, 5, 3)),
            "mini-xl" => (MINI_VOCABULARY, (160, 32, 512, 5, 5)),
            "smoke-teacher" => (MINI_VOCABULARY, (32, 8, 64, 2, 4)),
            "smoke-small" => (MINI_VOCABULARY, (8, 8, 16, 1, 1)),
            "smoke-base" => (MINI_VOCABULARY, (16, 8, 32, 1, 2)),
            "smoke-large" => (MINI_VOCABULARY, (20, 8, 40, 1, 2)),
            "smoke-xl" => (MINI_VOCABULARY, (24, 8, 48, 2, 2)),
            _ => return Err(Error::Invalid(format!("no T5 size `{name}`; there are {}", T5_PRESETS.join(", ")))),
        };
        let (d_model, d_kv, d_ff, num_layers, num_heads) = sizes;
        Ok(Self {
            vocab_size,
            d_model,
            d_kv,
            d_ff,
            num_layers,
            num_heads,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
        })
    }
}

/// Vocabulary of the miniature world's tokenizer, rounded up as T5's 32,000 is to 32,128.
pub const MINI_VOCABULARY: usize = 1024;

/// One encoder layer.
#[derive(Debug, Clone)]
struct Block {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    attention_norm: Param,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
    feed_forward_norm: Param,
}

/// What the backward of one layer needs.
#[derive(Debug, Clone)]
struct BlockSaved {
    x: Tensor,
    normed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: AttentionSaved,
    mixed: Tensor,
    middle: Tensor,
    middle_normed: Tensor,
    gate: Tensor,
    value: Tensor,
    gated: Tensor,
}

/// Whether a forward pass is followed by a backward pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    ForBackward,
}

/// Whether tokens see the padding, whose id is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    #[default]
    Seen,
    Masked,
}

impl Padding {
    /// True for what files need not say.
    pub fn is_seen(&self) -> bool {
        *self == Self::Seen
    }
}

/// Added to the scores of masked tokens; the exponential of it is nothing beside that of any score.
const UNSEEN: f64 = -10_000.0;

/// 1 for tokens and 0 for padding, `[B, L]` in `dtype`, from `ids` `[B, L]`.
pub fn token_mask(ids: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(ids.to_dtype(DType::U32)?.ne(0u32)?.to_dtype(dtype)?)
}

/// The encoder: embedding, layers, final norm.
#[derive(Debug, Clone)]
pub struct T5Encoder {
    pub config: T5Config,
    /// [`Padding::Seen`] unless set.
    pub padding: Padding,
    shared: Param,
    relative_bias: Param,
    blocks: Vec<Block>,
    final_norm: Param,
}

/// What [`T5Encoder::vjp`] needs.
#[derive(Debug, Clone)]
pub struct T5Saved {
    ids: Tensor,
    buckets: Tensor,
    blocks: Vec<BlockSaved>,
    last: Tensor,
}

impl T5Encoder {
    /// Takes its tensors from `weights`, initialised as T5 does (Mesh TensorFlow: factor 1).
    pub fn new(config: &T5Config, weights: &Weights) -> Result<Self> {
        let (d, inner, ff) = (config.d_model, config.num_heads * config.d_kv, config.d_ff);
        let std = (d as f64).powf(-0.5);
        let mut blocks = Vec::new();
        for i in 0..config.num_layers {
            let view = weights.pp(format!("encoder.block.{i}"));
            let (attention, dense) = (view.pp("layer.0.SelfAttention"), view.pp("layer.1.DenseReluDense"));
            let q_std = ((d * config.d_kv) as f64).powf(-0.5);
            blocks.push(Block {
                q: attention.linear_scaled("q", d, inner, Bias::Without, q_std)?,
                k: attention.linear_scaled("k", d, inner, Bias::Without, std)?,
                v: attention.linear_scaled("v", d, inner, Bias::Without, std)?,
                o: attention.linear("o", inner, d, Bias::Without)?,
                attention_norm: view.param("layer.0.layer_norm.weight", &[d], Init::Ones)?,
                wi_0: dense.linear("wi_0", d, ff, Bias::Without)?,
                wi_1: dense.linear("wi_1", d, ff, Bias::Without)?,
                wo: dense.linear("wo", ff, d, Bias::Without)?,
                feed_forward_norm: view.param("layer.1.layer_norm.weight", &[d], Init::Ones)?,
            });
        }
        let bias_shape = [config.relative_attention_num_buckets, config.num_heads];
        let relative_bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        Ok(Self {
            config: config.clone(),
            padding: Padding::default(),
            shared: weights.param("shared.weight", &[config.vocab_size, d], Init::Normal(1.0))?,
            relative_bias: weights.param(relative_bias, &bias_shape, Init::Normal(std))?,
            blocks,
            final_norm: weights.param("encoder.final_layer_norm.weight", &[d], Init::Ones)?,
        })
    }

    /// The token embedding table `[V, D]`.
    pub fn token_table(&self) -> &Param {
        &self.shared
    }

    /// The biases added to attention logits by relative position, `[buckets, heads]`, shared by all layers.
    pub fn relative_bias_mut(&mut self) -> &mut Param {
        &mut self.relative_bias
    }

    /// Encodes `ids` `[B, L]` (u32) to hidden states `[B, L, D]` after the final norm.
    pub fn forward(&self, ids: &Tensor) -> Result<(Tensor, T5Saved)> {
        self.run(ids, Keep::ForBackward)
    }

    fn run(&self, ids: &Tensor, keep: Keep) -> Result<(Tensor, T5Saved)> {
        let (_, l) = ids.dims2()?;
        let buckets = relative_buckets(&self.config, l)?;
        let heads = self.config.num_heads;
        // Bias [L·L, H] gathered from the table, then [H, L, L].
        let bias = embedding(&self.relative_bias.value, &buckets)?.reshape((l * l, heads))?.t()?.contiguous()?.reshape((heads, l, l))?;
        let bias = match self.padding {
            Padding::Seen => bias,
            Padding::Masked => {
                let unseen = token_mask(ids, bias.dtype())?.affine(-UNSEEN, UNSEEN)?;
                bias.unsqueeze(0)?.broadcast_add(&unseen.unsqueeze(1)?.unsqueeze(1)?)?.contiguous()?
            }
        };
        let mut x = embedding(&self.shared.value, ids)?;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, saved) = block.forward(&self.config, x, &bias, keep)?;
            x = y;
            blocks.extend(saved);
        }
        let y = rms_norm(&x, &self.final_norm.value, self.config.layer_norm_epsilon)?;
        Ok((y, T5Saved { ids: ids.clone(), buckets, blocks, last: x }))
    }

    /// Adds the parameter gradients for `dy` `[B, L, D]` to `gradients`.
    pub fn vjp(&self, saved: &T5Saved, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let (mut dx, dw) = rms_norm_vjp(&saved.last, &self.final_norm.value, self.config.layer_norm_epsilon, dy)?;
        gradients.add(&self.final_norm, || Ok(dw))?;
        let mut dbias: Option<Tensor> = None;
        for (block, saved) in self.blocks.iter().zip(&saved.blocks).rev() {
            let (dx_block, dbias_block) = block.vjp(&self.config, saved, &dx, gradients)?;
            dx = dx_block;
            dbias = Some(match dbias {
                Some(sum) => add(&sum, &dbias_block)?,
                None => dbias_block,
            });
        }
        if let Some(dbias) = dbias {
            let (heads, l, _) = dbias.dims3()?;
            let per_pair = dbias.reshape((heads, l * l))?.t()?.contiguous()?.reshape((1, l * l, heads))?;
            embedding_vjp(&self.relative_bias, &saved.buckets, &per_pair, gradients)?;
        }
        embedding_vjp(&self.shared, &saved.ids, &dx, gradients)
    }
}

impl Block {
    fn forward(&self, config: &T5Config, x: Tensor, bias: &Tensor, keep: Keep) -> Result<(Tensor, Option<BlockSaved>)> {
        let (b, l, _) = x.dims3()?;
        let heads = (b, l, config.num_heads, config.d_kv);
        let normed = rms_norm(&x, &self.attention_norm.value, config.layer_norm_epsilon)?;
        let (q, k, v) =
            (self.q.forward(&normed)?.reshape(heads)?, self.k.forward(&normed)?.reshape(heads)?, self.v.forward(&normed)?.reshape(heads)?);
        // T5 does not divide the scores by √d; the initialisation of q does it.
        let (mixed, attention) = match keep {
            Keep::ForBackward => {
                let (mixed, saved) = attention(&q, &k, &v, Some(bias), 1.0)?;
                (mixed, Some(saved))
            }
            Keep::Nothing => (attention_output(&q, &k, &v, Some(bias), 1.0)?, None),
        };
        let mixed = mixed.reshape((b, l, config.num_heads * config.d_kv))?;
        let middle = add(&x, &self.o.forward(&mixed)?)?;
        let middle_normed = rms_norm(&middle, &self.feed_forward_norm.value, config.layer_norm_epsilon)?;
        let (gate, value) = (self.wi_0.forward(&middle_normed)?, self.wi_1.forward(&middle_normed)?);
        let gated = gated_gelu(&gate, &value)?;
        let y = add(&middle, &self.wo.forward(&gated)?)?;
        let saved =
            attention.map(|attention| BlockSaved { x, normed, q, k, v, attention, mixed, middle, middle_normed, gate, value, gated });
        Ok((y, saved))
    }

    /// Returns the gradients of the input `[B, L, D]` and of the position bias `[H, L, L]`.
    fn vjp(&self, config: &T5Config, saved: &BlockSaved, dy: &Tensor, gradients: &mut Gradients) -> Result<(Tensor, Tensor)> {
        let d_gated = self.wo.vjp(&saved.gated, dy, gradients)?;
        let (d_gate, d_value) = gated_gelu_vjp(&saved.gate, &saved.value, &d_gated)?;
        self.wi_0.parameter_vjp(&saved.middle_normed, &d_gate, gradients)?;
        self.wi_1.parameter_vjp(&saved.middle_normed, &d_value, gradients)?;
        let d_normed = linear_input_vjp_sum(&[(&d_gate, &self.wi_0.weight.value), (&d_value, &self.wi_1.weight.value)])?;
        let (d_middle, dw) = rms_norm_vjp(&saved.middle, &self.feed_forward_norm.value, config.layer_norm_epsilon, &d_normed)?;
        gradients.add(&self.feed_forward_norm, || Ok(dw))?;
        let d_middle = add(dy, &d_middle)?;

        let d_mixed = self.o.vjp(&saved.mixed, &d_middle, gradients)?.reshape(saved.q.shape())?;
        let g = attention_vjp(&saved.attention, (&saved.q, &saved.k, &saved.v), 1.0, &d_mixed, BiasGradient::Compute)?;
        let flat = saved.mixed.shape();
        let (dq, dk, dv) = (g.dq.reshape(flat)?, g.dk.reshape(flat)?, g.dv.reshape(flat)?);
        let mut parts = Vec::new();
        for (linear, d) in [(&self.q, &dq), (&self.k, &dk), (&self.v, &dv)] {
            linear.parameter_vjp(&saved.normed, d, gradients)?;
            parts.push((d, &linear.weight.value));
        }
        let (dx, dw) = rms_norm_vjp(&saved.x, &self.attention_norm.value, config.layer_norm_epsilon, &linear_input_vjp_sum(&parts)?)?;
        gradients.add(&self.attention_norm, || Ok(dw))?;
        let dbias = g.dbias.ok_or_else(|| Error::Invalid("the bias gradient was asked for and is absent".into()))?;
        Ok((add(&d_middle, &dx)?, dbias))
    }
}

/// Bucket of every (query, key) pair, `[1, L·L]` u32 (transformers@v4.46 modeling_t5.py `_relative_position_bucket`, bidirectional).
fn relative_buckets(config: &T5Config, l: usize) -> Result<Tensor> {
    let half = config.relative_attention_num_buckets / 2;
    let exact = half / 2;
    let bucket = |query: usize, key: usize| {
        let distance = query.abs_diff(key);
        let side = if key > query { half } else { 0 };
        if distance < exact {
            return (side + distance) as u32;
        }
        let ratio = (distance as f32 / exact as f32).ln() / (config.relative_attention_max_distance as f32 / exact as f32).ln();
        (side + (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)) as u32
    };
    let all: Vec<u32> = (0..l).flat_map(|query| (0..l).map(move |key| (query, key))).map(|(query, key)| bucket(query, key)).collect();
    Ok(Tensor::from_vec(all, (1, l * l), &Device::Cpu)?)
}

impl Parameters for T5Encoder {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        visitor(&self.shared);
        visitor(&self.relative_bias);
        for block in &self.blocks {
            for linear in [&block.q, &block.k, &block.v, &block.o, &block.wi_0, &block.wi_1, &block.wo] {
                linear.visit(visitor);
            }
            visitor(&block.attention_norm);
            visitor(&block.feed_forward_norm);
        }
        visitor(&self.final_norm);
    }

    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        visitor(&mut self.shared);
        visitor(&mut self.relative_bias);
        for block in &mut self.blocks {
            for linear in [&mut block.q, &mut block.k, &mut block.v, &mut block.o, &mut block.wi_0, &mut block.wi_1, &mut block.wo] {
                linear.visit_mut(visitor);
            }
            visitor(&mut block.attention_norm);
            visitor(&mut block.feed_forward_norm);
        }
        visitor(&mut self.final_norm);
    }
}

impl TextEncoder for T5Encoder {
    fn encode(&self, token_ids: &Tensor) -> Result<Tensor> {
        Ok(self.run(&token_ids.to_dtype(DType::U32)?, Keep::Nothing)?.0)
    }
}
