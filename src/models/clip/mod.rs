//! CLIP by OpenAI in the layout of Hugging Face's checkpoints (`text_model.…`, `vision_model.…`): one text and one image
//! transformer into a common space. Preparation of pictures (resize, crop) is not done here; [`text`] is the text half alone.

// B batch, L text tokens, N image tokens, D width, E embedding, P patch side.

pub mod text;
pub mod tower;

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use self::text::{ClipText, ClipTextConfig, End};
use self::tower::{Activation, Norm, Tower, TowerSizes};
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

impl TowerConfig {
    fn sizes(&self) -> TowerSizes {
        let Self { width, layers, heads } = *self;
        TowerSizes { width, layers, heads, mlp_width: 4 * width, activation: Activation::QuickGelu, epsilon: EPSILON }
    }
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
    /// The text half.
    pub fn text_half(&self) -> ClipTextConfig {
        ClipTextConfig {
            tower: self.text.sizes(),
            vocab_size: self.vocab_size,
            positions: self.positions,
            end: End::Id(self.end_id),
            projection: Some(self.embed_dim),
        }
    }

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
            "smoke" => Ok(mini(tower(32, 1, 2), tower(32, 1, 2), 16)),
            _ => Err(Error::config(
                format!("unknown CLIP `{name}`"),
                "known are clip-vit-base-patch32, clip-vit-large-patch14, mini and smoke",
            )),
        }
    }
}

/// Text and image into one space.
#[derive(Debug, Clone)]
pub struct Clip {
    config: ClipConfig,
    text: ClipText,
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
        let vision = weights.pp("vision_model");
        let (vd, p) = (config.vision.width, config.patch_size);
        let places = (config.image_size / p).pow(2) + 1;
        let normal = |weights: &Weights, name: &str, shape: &[usize], std: f64| weights.tensor(name, shape, Init::Normal(std));
        Ok(Self {
            config: config.clone(),
            text: ClipText::new(&config.text_half(), weights)?,
            class: normal(&vision, "embeddings.class_embedding", &[vd], 0.05)?,
            patches: normal(&vision, "embeddings.patch_embedding.weight", &[vd, 3, p, p], (1.0 / (3 * p * p) as f64).sqrt())?,
            image_positions: normal(&vision, "embeddings.position_embedding.weight", &[places, vd], 0.05)?,
            pre_norm: Norm::new(vd, EPSILON, &vision.pp("pre_layrnorm"))?,
            vision: Tower::new(&config.vision.sizes(), &vision)?,
            post_norm: Norm::new(vd, EPSILON, &vision.pp("post_layernorm"))?,
            visual_projection: normal(weights, "visual_projection.weight", &[config.embed_dim, vd], (vd as f64).powf(-0.5))?,
            logit_scale: weights.tensor("logit_scale", &[], Init::Ones)?,
        })
    }

    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The text half, without the other.
    pub fn into_text(self) -> ClipText {
        self.text
    }

    /// Pooled text `[B, D]` of token ids `[B, L]` (u32); see [`ClipText::pooled`].
    pub fn text_pooled(&self, ids: &Tensor) -> Result<Tensor> {
        self.text.pooled(ids)
    }

    /// Text embeddings `[B, E]` of token ids `[B, L]` (u32), of length 1.
    pub fn text_embeds(&self, ids: &Tensor) -> Result<Tensor> {
        unit_length(&self.text.projected(&self.text.pooled(ids)?)?)
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

fn unit_length(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;
    use candle_core::{DType, Device};
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
