//! The transformer that both halves of a CLIP are made of.

// B batch, N tokens, D width, H heads.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::models::rows::{layer_norm, linear, quick_gelu, softmax};
use crate::models::weights::{Init, Weights};

/// Between the two linear layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// OpenAI's.
    #[default]
    QuickGelu,
    /// OpenCLIP's, the exact one.
    Gelu,
}

impl Activation {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::QuickGelu => quick_gelu(x),
            Self::Gelu => Ok(x.gelu_erf()?),
        }
    }
}

/// Sizes of a stack of layers.
#[derive(Debug, Clone, PartialEq)]
pub struct TowerSizes {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub mlp_width: usize,
    pub activation: Activation,
    /// ε of every layer norm.
    pub epsilon: f64,
}

#[derive(Debug, Clone)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(d: usize, o: usize, gain: f64, weights: &Weights) -> Result<Self> {
        let weight = weights.tensor("weight", &[o, d], Init::Normal(gain / (d as f64).sqrt()))?;
        Ok(Self { weight, bias: weights.tensor("bias", &[o], Init::Zeros)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, &self.bias)
    }
}

#[derive(Debug, Clone)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl Norm {
    pub fn new(d: usize, epsilon: f64, weights: &Weights) -> Result<Self> {
        Ok(Self { epsilon, weight: weights.tensor("weight", &[d], Init::Ones)?, bias: weights.tensor("bias", &[d], Init::Zeros)? })
    }

    /// `[.., D]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

impl Layer {
    fn new(sizes: &TowerSizes, weights: &Weights) -> Result<Self> {
        let (d, wide) = (sizes.width, sizes.mlp_width);
        // Branches start small, so that the sum over all layers keeps about unit variance.
        let branch = (2.0 * sizes.layers as f64).powf(-0.5);
        let attention = weights.pp("self_attn");
        Ok(Self {
            norm1: Norm::new(d, sizes.epsilon, &weights.pp("layer_norm1"))?,
            q: Linear::new(d, d, 1.0, &attention.pp("q_proj"))?,
            k: Linear::new(d, d, 1.0, &attention.pp("k_proj"))?,
            v: Linear::new(d, d, 1.0, &attention.pp("v_proj"))?,
            out: Linear::new(d, d, branch, &attention.pp("out_proj"))?,
            norm2: Norm::new(d, sizes.epsilon, &weights.pp("layer_norm2"))?,
            fc1: Linear::new(d, wide, 1.0, &weights.pp("mlp.fc1"))?,
            fc2: Linear::new(wide, d, branch, &weights.pp("mlp.fc2"))?,
            heads: sizes.heads,
            activation: sizes.activation,
        })
    }

    /// `x` `[B, N, D]`; `mask` `[N, N]` is added to the scores.
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (b, n, d) = x.dims3()?;
        let normed = self.norm1.forward(x)?;
        let split = |linear: &Linear| -> Result<Tensor> {
            Ok(linear.forward(&normed)?.reshape((b, n, self.heads, d / self.heads))?.transpose(1, 2)?.contiguous()?)
        };
        let q = (split(&self.q)? * ((d / self.heads) as f64).powf(-0.5))?;
        let scores = q.matmul(&split(&self.k)?.t()?)?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let attended = softmax(&scores)?.matmul(&split(&self.v)?)?.transpose(1, 2)?.reshape((b, n, d))?;
        let x = (x + self.out.forward(&attended)?)?;
        let hidden = self.activation.forward(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        Ok((x + self.fc2.forward(&hidden)?)?)
    }
}

/// A stack of layers.
#[derive(Debug, Clone)]
pub struct Tower {
    layers: Vec<Layer>,
}

impl Tower {
    /// Takes `encoder.layers.…` from `weights`.
    pub fn new(sizes: &TowerSizes, weights: &Weights) -> Result<Self> {
        let layers = (0..sizes.layers).map(|layer| Layer::new(sizes, &weights.pp("encoder.layers").pp(layer)));
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// `x` `[B, N, D]` through all layers; `mask` `[N, N]` is added to the scores.
    pub fn forward(&self, x: Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        self.layers.iter().try_fold(x, |x, layer| layer.forward(&x, mask))
    }

    /// Like [`Tower::forward`], with what goes into the last layer before what comes out of it.
    pub fn forward_with_penultimate(&self, x: Tensor, mask: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let Some((last, first)) = self.layers.split_last() else { return Ok((x.clone(), x)) };
        let penultimate = first.iter().try_fold(x, |x, layer| layer.forward(&x, mask))?;
        let last = last.forward(&penultimate, mask)?;
        Ok((penultimate, last))
    }
}
