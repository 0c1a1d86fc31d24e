//! The text half of a CLIP alone (`text_model.…`, `text_projection`), as text-to-image pipelines carry it: OpenAI's, or OpenCLIP's with
//! another activation.

// B batch, L text tokens, D width, E embedding.

use candle_core::{Device, Tensor};

use super::tower::{Norm, Tower, TowerSizes};
use crate::error::{Error, Result};
use crate::models::weights::{Init, Weights};

/// Which token stands for the whole text: the first that is the end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Id(u32),
    /// The largest id of the text, which is the end token in CLIP's vocabulary; configurations that name 2 as the end mean this
    /// (transformers@v5.23.0 modeling_clip.py).
    Largest,
}

/// Sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    pub tower: TowerSizes,
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub positions: usize,
    pub end: End,
    /// Width of the common space, where the network projects to it.
    pub projection: Option<usize>,
}

/// The text transformer.
#[derive(Debug, Clone)]
pub struct ClipText {
    pub config: ClipTextConfig,
    tokens: Tensor,
    positions: Tensor,
    tower: Tower,
    norm: Norm,
    /// `[E, D]`.
    projection: Option<Tensor>,
}

impl ClipText {
    /// Takes its weights by the names of Hugging Face's checkpoints.
    pub fn new(config: &ClipTextConfig, weights: &Weights) -> Result<Self> {
        let (view, d) = (weights.pp("text_model"), config.tower.width);
        let normal = |weights: &Weights, name: &str, shape: &[usize], std: f64| weights.tensor(name, shape, Init::Normal(std));
        let projection = |e: usize| normal(weights, "text_projection.weight", &[e, d], (d as f64).powf(-0.5));
        Ok(Self {
            config: config.clone(),
            tokens: normal(&view, "embeddings.token_embedding.weight", &[config.vocab_size, d], 0.05)?,
            positions: normal(&view, "embeddings.position_embedding.weight", &[config.positions, d], 0.02)?,
            tower: Tower::new(&config.tower, &view)?,
            norm: Norm::new(d, config.tower.epsilon, &view.pp("final_layer_norm"))?,
            projection: config.projection.map(projection).transpose()?,
        })
    }

    /// Pooled text `[B, D]` of token ids `[B, L]` (u32): the normalised feature at the first end token, before the
    /// projection (what Flux takes as its pooled embedding).
    ///
    /// # Errors
    /// A text without end token or longer than the network's positions.
    pub fn pooled(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.hidden_and_pooled(ids)?.1)
    }

    /// The hidden states `[B, L, D]` before the last layer, not normalised, and the pooled text `[B, D]` of token ids `[B, L]` (u32).
    ///
    /// # Errors
    /// As [`ClipText::pooled`].
    pub fn hidden_and_pooled(&self, ids: &Tensor) -> Result<(Tensor, Tensor)> {
        let ((b, l), d) = (ids.dims2()?, self.config.tower.width);
        if l > self.config.positions {
            return Err(Error::Invalid(format!("a text of {l} tokens is longer than CLIP's {} positions", self.config.positions)));
        }
        let device = self.tokens.device();
        let rows = ids.to_vec2::<u32>()?;
        let ends: Vec<u32> = rows.iter().enumerate().map(|(row, ids)| Ok((row * l + self.end(row, ids)?) as u32)).collect::<Result<_>>()?;
        let embedded = self.tokens.index_select(&ids.to_device(device)?.flatten_all()?, 0)?.reshape((b, l, d))?;
        let x = embedded.broadcast_add(&self.positions.narrow(0, 0, l)?)?;
        let mask = causal_mask(l, device)?.to_dtype(self.tokens.dtype())?;
        let (hidden, x) = self.tower.forward_with_penultimate(x, Some(&mask))?;
        let pooled = x.reshape((b * l, d))?.index_select(&Tensor::new(ends, device)?, 0)?;
        Ok((hidden, self.norm.forward(&pooled)?))
    }

    /// Pooled text `[B, D]` in the common space, `[B, E]`.
    ///
    /// # Errors
    /// A network that has no projection.
    pub fn projected(&self, pooled: &Tensor) -> Result<Tensor> {
        let projection = self.projection.as_ref().ok_or_else(|| Error::Invalid("this text encoder has no projection".into()))?;
        Ok(pooled.matmul(&projection.t()?)?)
    }

    /// The place of the end of text number `row` in its tokens.
    fn end(&self, row: usize, ids: &[u32]) -> Result<usize> {
        let end = match self.config.end {
            End::Id(end) => end,
            End::Largest => ids.iter().copied().max().unwrap_or_default(),
        };
        ids.iter().position(|&id| id == end).ok_or_else(|| Error::Invalid(format!("text {row} of the batch has no end token ({end})")))
    }
}

/// 0 where a place may look (itself and before), −∞ elsewhere: `[L, L]` f32.
fn causal_mask(l: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..l * l).map(|i| if i % l > i / l { f32::NEG_INFINITY } else { 0.0 }).collect();
    Ok(Tensor::from_vec(values, (l, l), device)?)
}
