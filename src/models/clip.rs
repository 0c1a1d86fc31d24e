//! CLIP by OpenAI in the layout of Hugging Face's checkpoints (`text_model.…`, `vision_model.…`): one text and one image
//! transformer into a common space. Preparation of pictures (resize, crop) is not done here.

// B batch, L text tokens, N image tokens, D width, E embedding, P patch side.

use candle_core::{D, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::rows::{layer_norm, linear, quick_gelu, softmax};
use super::weights::{Init, Weights};
use crate::error::{Error, Result};

/// Size of one of the two transformers; the MLP is four times as wide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerConfig {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
}

/// Sizes of a CLIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    pub text: TowerConfig,
    pub vision: TowerConfig,
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub positions: usize,
    /// The token that ends a text; the feature at its first place stands for the text.
    pub end_id: u32,
    /// Side of the square images in pixels.
    pub image_size: usize,
    pub patch_size: usize,
    pub embed_dim: usize,
    /// Mean and standard deviation by which images in [0, 1] are normalised, per channel.
    pub image_mean: [f64; 3],
    pub image_std: [f64; 3],
}

/// ε of every layer norm.
const EPSILON: f64 = 1e-5;

impl ClipConfig {
    /// A named size: `clip-vit-base-patch32`, `clip-vit-large-patch14`, `mini` or `smoke`.
    pub fn preset(name: &str) -> Result<Self> {
        let tower = |width, layers, heads| TowerConfig { width, layers, heads };
        let openai = |text, vision, patch_size, embed_dim| Self {
            text,
            vision,
            vocab_size: 49_408,
            positions: 77,
            end_id: 49_407,
            image_size: 224,
            patch_size,
            embed_dim,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
        };
        let mini = |text, vision, embed_dim| Self {
            text,
            vision,
            // The miniature world's tokenizer.
            vocab_size: MINI_VOCABULARY,
            positions: 24,
            end_id: 1,
            image_size: 64,
            patch_size: 8,
            embed_dim,
            // Leaves [-1, 1] as it is.
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        };
        match name {
            "clip-vit-base-patch32" => Ok(openai(tower(512, 12, 8), tower(768, 12, 12), 32, 512)),
            "clip-vit-large-patch14" => Ok(openai(tower(768, 12, 12), tower(1024, 24, 16), 14, 768)),
            "mini" => Ok(mini(tower(128, 3, 4), tower(128, 3, 4), 64)),
            "smoke" => Ok(mini(tower(128, 1, 2), tower(32, 1, 2), 16)),
            _ => Err(Error::config(
                format!("unknown CLIP `{name}`"),
                "known are clip-vit-base-patch32, clip-vit-large-patch14, mini and smoke",
            )),
        }
    }
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
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(d: usize, weights: &Weights) -> Result<Self> {
        Ok(Self { weight: weights.tensor("weight", &[d], Init::Ones)?, bias: weights.tensor("bias", &[d], Init::Zeros)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, EPSILON)
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
}

impl Layer {
    fn new(config: &TowerConfig, weights: &Weights) -> Result<Self> {
        let d = config.width;
        // Branches start small, so that the sum over all layers keeps about unit variance.
        let branch = (2.0 * config.layers as f64).powf(-0.5);
        let attention = weights.pp("self_attn");
        Ok(Self {
            norm1: Norm::new(d, &weights.pp("layer_norm1"))?,
            q: Linear::new(d, d, 1.0, &attention.pp("q_proj"))?,
            k: Linear::new(d, d, 1.0, &attention.pp("k_proj"))?,
            v: Linear::new(d, d, 1.0, &attention.pp("v_proj"))?,
            out: Linear::new(d, d, branch, &attention.pp("out_proj"))?,
            norm2: Norm::new(d, &weights.pp("layer_norm2"))?,
            fc1: Linear::new(d, 4 * d, 1.0, &weights.pp("mlp.fc1"))?,
            fc2: Linear::new(4 * d, d, branch, &weights.pp("mlp.fc2"))?,
            heads: config.heads,
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
        let hidden = quick_gelu(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        Ok((x + self.fc2.forward(&hidden)?)?)
    }
}

#[derive(Debug, Clone)]
struct Tower {
    layers: Vec<Layer>,
}

impl Tower {
    fn new(config: &TowerConfig, weights: &Weights) -> Result<Self> {
        let layers = (0..config.layers).map(|layer| Layer::new(config, &weights.pp("encoder.layers").pp(layer)));
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    fn forward(&self, x: Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        self.layers.iter().try_fold(x, |x, layer| layer.forward(&x, mask))
    }
}

/// Text and image into one space.
#[derive(Debug, Clone)]
pub struct Clip {
    config: ClipConfig,
    tokens: Tensor,
    text_positions: Tensor,
    text: Tower,
    text_norm: Norm,
    text_projection: Tensor,
    class: Tensor,
    patches: Tensor,
    image_positions: Tensor,
    pre_norm: Norm,
    vision: Tower,
    post_norm: Norm,
    visual_projection: Tensor,
    logit_scale: Tensor,
}

impl Clip {
    /// Takes its weights by the names of Hugging Face's checkpoints.
    pub fn new(config: &ClipConfig, weights: &Weights) -> Result<Self> {
        let (text, vision) = (weights.pp("text_model"), weights.pp("vision_model"));
        let (td, vd, p) = (config.text.width, config.vision.width, config.patch_size);
        let places = (config.image_size / p).pow(2) + 1;
        let normal = |weights: &Weights, name: &str, shape: &[usize], std: f64| weights.tensor(name, shape, Init::Normal(std));
        Ok(Self {
            config: config.clone(),
            tokens: normal(&text, "embeddings.token_embedding.weight", &[config.vocab_size, td], 0.05)?,
            text_positions: normal(&text, "embeddings.position_embedding.weight", &[config.positions, td], 0.02)?,
            text: Tower::new(&config.text, &text)?,
            text_norm: Norm::new(td, &text.pp("final_layer_norm"))?,
            text_projection: normal(weights, "text_projection.weight", &[config.embed_dim, td], (td as f64).powf(-0.5))?,
            class: normal(&vision, "embeddings.class_embedding", &[vd], 0.05)?,
            patches: normal(&vision, "embeddings.patch_embedding.weight", &[vd, 3, p, p], (1.0 / (3 * p * p) as f64).sqrt())?,
            image_positions: normal(&vision, "embeddings.position_embedding.weight", &[places, vd], 0.05)?,
            pre_norm: Norm::new(vd, &vision.pp("pre_layrnorm"))?,
            vision: Tower::new(&config.vision, &vision)?,
            post_norm: Norm::new(vd, &vision.pp("post_layernorm"))?,
            visual_projection: normal(weights, "visual_projection.weight", &[config.embed_dim, vd], (vd as f64).powf(-0.5))?,
            logit_scale: weights.tensor("logit_scale", &[], Init::Ones)?,
        })
    }

    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Pooled text `[B, D]` of token ids `[B, L]` (u32): the normalised feature at the first end token, before the
    /// projection (what Flux takes as its pooled embedding).
    ///
    /// # Errors
    /// A text without end token or longer than the network's positions.
    pub fn text_pooled(&self, ids: &Tensor) -> Result<Tensor> {
        let (b, l) = ids.dims2()?;
        if l > self.config.positions {
            return Err(Error::Invalid(format!("a text of {l} tokens is longer than CLIP's {} positions", self.config.positions)));
        }
        let device = self.tokens.device();
        let mut ends = Vec::with_capacity(b);
        for (row, ids) in ids.to_vec2::<u32>()?.iter().enumerate() {
            let end = ids.iter().position(|&id| id == self.config.end_id);
            let end = end.ok_or_else(|| Error::Invalid(format!("text {row} of the batch has no end token ({})", self.config.end_id)))?;
            ends.push((row * l + end) as u32);
        }
        let embedded = self.tokens.index_select(&ids.to_device(device)?.flatten_all()?, 0)?.reshape((b, l, self.config.text.width))?;
        let x = embedded.broadcast_add(&self.text_positions.narrow(0, 0, l)?)?;
        let x = self.text.forward(x, Some(&causal_mask(l, device)?.to_dtype(self.tokens.dtype())?))?;
        let pooled = x.reshape((b * l, self.config.text.width))?.index_select(&Tensor::new(ends, device)?, 0)?;
        self.text_norm.forward(&pooled)
    }

    /// Text embeddings `[B, E]` of token ids `[B, L]` (u32), of length 1.
    pub fn text_embeds(&self, ids: &Tensor) -> Result<Tensor> {
        unit_length(&self.text_pooled(ids)?.matmul(&self.text_projection.t()?)?)
    }

    /// Image embeddings `[B, E]` of images `[B, 3, px, px]` in [-1, 1], of length 1; px is the network's image size.
    pub fn image_embeds(&self, images: &Tensor) -> Result<Tensor> {
        let (b, channels, height, width) = images.dims4()?;
        let (side, p, d) = (self.config.image_size, self.config.patch_size, self.config.vision.width);
        if (channels, height, width) != (3, side, side) {
            return Err(Error::Invalid(format!("CLIP takes images [B, 3, {side}, {side}], found {:?}", images.dims())));
        }
        let n = side / p;
        let patches = self.normalise(images)?.reshape((b, 3, n, p, n, p))?.permute((0, 2, 4, 1, 3, 5))?.reshape((b * n * n, 3 * p * p))?;
        let patches = patches.matmul(&self.patches.reshape((d, 3 * p * p))?.t()?)?.reshape((b, n * n, d))?;
        let class = self.class.reshape((1, 1, d))?.broadcast_as((b, 1, d))?;
        let x = Tensor::cat(&[class, patches], 1)?.broadcast_add(&self.image_positions)?;
        let x = self.vision.forward(self.pre_norm.forward(&x)?, None)?;
        let pooled = self.post_norm.forward(&x.narrow(1, 0, 1)?.squeeze(1)?)?;
        unit_length(&pooled.matmul(&self.visual_projection.t()?)?)
    }

    /// Factor on cosines in the contrastive loss, a scalar tensor.
    pub fn temperature(&self) -> Result<Tensor> {
        Ok(self.logit_scale.exp()?)
    }

    /// From [-1, 1] to the network's mean 0 and standard deviation 1.
    fn normalise(&self, images: &Tensor) -> Result<Tensor> {
        let constant = |values: [f64; 3]| Tensor::new(&values, images.device())?.to_dtype(images.dtype())?.reshape((1, 3, 1, 1));
        let (mean, std) = (self.config.image_mean, self.config.image_std);
        let scale = constant([0, 1, 2].map(|c| 0.5 / std[c]))?;
        let shift = constant([0, 1, 2].map(|c| (0.5 - mean[c]) / std[c]))?;
        Ok(images.broadcast_mul(&scale)?.broadcast_add(&shift)?)
    }
}

/// Room for the 391 pieces of the miniature world's tokenizer.
const MINI_VOCABULARY: usize = 512;

/// 0 where a place may look (itself and before), −∞ elsewhere: `[L, L]` f32.
fn causal_mask(l: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..l * l).map(|i| if i % l > i / l { f32::NEG_INFINITY } else { 0.0 }).collect();
    Ok(Tensor::from_vec(values, (l, l), device)?)
}

fn unit_length(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;
    use candle_core::DType;
    use std::collections::BTreeMap;

    fn random(shape: &[usize], item: u64) -> Tensor {
        let key = rng::Key { seed: 9, purpose: "test", item, draw: 0 };
        let values = rng::normal(&mut rng::stream(key), shape.iter().product());
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
    }

    fn tiny() -> ClipConfig {
        let tower = TowerConfig { width: 8, layers: 2, heads: 2 };
        ClipConfig {
            text: tower.clone(),
            vision: tower,
            vocab_size: 9,
            positions: 5,
            image_size: 4,
            patch_size: 2,
            embed_dim: 6,
            ..ClipConfig::preset("mini").unwrap()
        }
    }

    #[test]
    fn gradients_of_every_part_are_finite_differences() {
        const STEP: f64 = 1e-6;
        let weights = Weights::trainable(3, BTreeMap::new(), DType::F64, &Device::Cpu);
        let network = Clip::new(&tiny(), &weights).unwrap();
        let images = random(&[2, 3, 4, 4], 0);
        let ids = Tensor::new(&[[3u32, 4, 1, 0, 0], [5, 6, 7, 8, 1]], &Device::Cpu).unwrap();
        let target = random(&[2, 2], 1);
        let loss = || {
            let cosines = network.text_embeds(&ids).unwrap().matmul(&network.image_embeds(&images).unwrap().t().unwrap()).unwrap();
            let scaled = cosines.broadcast_mul(&network.temperature().unwrap()).unwrap();
            (scaled - &target).unwrap().sqr().unwrap().sum_all().unwrap()
        };
        let store = loss().backward().unwrap();
        for (name, var) in weights.vars() {
            let gradient = store.get(var.as_tensor()).unwrap_or_else(|| panic!("{name} has no gradient"));
            let direction = random(var.dims(), rng::text_id(&name));
            let expected = (gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
            let start = var.as_tensor().copy().unwrap();
            let at = |factor: f64| {
                var.set(&(&start + (&direction * factor).unwrap()).unwrap()).unwrap();
                loss().to_scalar::<f64>().unwrap()
            };
            let found = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            var.set(&start).unwrap();
            assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{name}: {found} and {expected}");
        }
    }

    #[test]
    fn what_follows_the_first_end_token_does_not_matter() {
        let network = Clip::new(&tiny(), &Weights::initial(1, DType::F32, &Device::Cpu)).unwrap();
        let pooled = |ids: [u32; 5]| network.text_pooled(&Tensor::new(&[ids], &Device::Cpu).unwrap()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(pooled([3, 4, 1, 0, 0]), pooled([3, 4, 1, 7, 1]));
        assert_ne!(pooled([3, 4, 1, 0, 0]), pooled([4, 3, 1, 0, 0]));
    }

    #[test]
    fn a_text_without_end_and_one_that_is_too_long_are_refused() {
        let network = Clip::new(&tiny(), &Weights::initial(1, DType::F32, &Device::Cpu)).unwrap();
        assert!(network.text_pooled(&Tensor::new(&[[3u32, 4]], &Device::Cpu).unwrap()).is_err());
        assert!(network.text_pooled(&Tensor::new(&[[3u32, 4, 4, 4, 4, 1]], &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn embeddings_have_length_one() {
        let network = Clip::new(&tiny(), &Weights::initial(1, DType::F64, &Device::Cpu)).unwrap();
        let embedded = network.image_embeds(&random(&[3, 3, 4, 4], 0)).unwrap();
        for row in embedded.to_vec2::<f64>().unwrap() {
            assert!((row.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }
}
