//! AutoencoderKL of Flux, Stable Diffusion 3 and Stable Diffusion 1 (PixArt-Alpha's), under the tensor names of Flux's file
//! (flux@802fb47 src/flux/modules/autoencoder.py); [`super::layout`] renames diffusers'. Encoding gives the posterior's mean; nothing
//! is sampled.

// B batch, H height, W width, C channels, f the factor between image and latent sides. Inside, images are [B, H, W, C].

use candle_core::Tensor;
use candle_nn::ops::softmax;
use serde::{Deserialize, Serialize};

use super::convolution::{Walk, convolve};
use super::group_norm::{Then, group_norm};
use super::weights::{Init, Weights};
use crate::error::{Error, Result};

/// Sizes of an autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// Channels of the first level.
    pub channels: usize,
    /// Factor on the channels at each level; every level but the last halves the sides.
    pub multipliers: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub residual_blocks: usize,
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Latents are (mean − shift) · scale.
    pub scale_factor: f64,
    pub shift_factor: f64,
    /// Whether 1×1 convolutions stand around the latents, as in Stable Diffusion 1.
    #[serde(default)]
    pub quant_conv: bool,
}

impl AutoencoderConfig {
    /// A named size: `flux-dev`, `sd3` or `sd1` (f8), `mini` (f4, whitened latents) or `smoke` (f4, for tests of the chain).
    pub fn preset(name: &str) -> Result<Self> {
        let whitened = |channels, multipliers: [usize; 3], norm_groups| Self {
            channels,
            multipliers: multipliers.to_vec(),
            residual_blocks: 1,
            latent_channels: 16,
            norm_groups,
            scale_factor: 1.0,
            shift_factor: 0.0,
            quant_conv: false,
        };
        // The networks are of one size; factors are those of the published `config.json`s.
        let published = |latent_channels, (scale_factor, shift_factor), quant_conv| Self {
            channels: 128,
            multipliers: vec![1, 2, 4, 4],
            residual_blocks: 2,
            latent_channels,
            norm_groups: 32,
            scale_factor,
            shift_factor,
            quant_conv,
        };
        match name {
            "flux-dev" => Ok(published(16, (0.3611, 0.1159), false)),
            "sd3" => Ok(published(16, (1.5305, 0.0609), false)),
            "sd1" => Ok(published(4, (0.18215, 0.0), true)),
            "mini" => Ok(whitened(16, [1, 2, 4], 8)),
            "smoke" => Ok(whitened(8, [1, 1, 2], 4)),
            _ => Err(Error::config(format!("unknown autoencoder `{name}`"), "known are flux-dev, sd3, sd1, mini and smoke")),
        }
    }

    /// Image side divided by latent side.
    pub fn factor(&self) -> usize {
        1 << (self.multipliers.len() - 1)
    }

    fn width(&self, level: usize) -> usize {
        self.channels * self.multipliers[level]
    }
}

#[derive(Debug, Clone)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    /// `gain` scales the usual 1/√fan-in initialisation.
    fn new(c: usize, o: usize, kernel: usize, gain: f64, weights: &Weights) -> Result<Self> {
        let std = gain / ((c * kernel * kernel) as f64).sqrt();
        let weight = weights.tensor("weight", &[o, c, kernel, kernel], Init::Normal(std))?;
        Ok(Self { weight, bias: weights.tensor("bias", &[o], Init::Zeros)? })
    }

    fn forward(&self, x: &Tensor, walk: Walk) -> Result<Tensor> {
        convolve(x, &self.weight, &self.bias, walk)
    }
}

#[derive(Debug, Clone)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl Norm {
    fn new(c: usize, groups: usize, weights: &Weights) -> Result<Self> {
        Ok(Self { weight: weights.tensor("weight", &[c], Init::Ones)?, bias: weights.tensor("bias", &[c], Init::Zeros)?, groups })
    }

    fn forward(&self, x: &Tensor, then: Then) -> Result<Tensor> {
        group_norm(x, &self.weight, &self.bias, self.groups, then)
    }
}

#[derive(Debug, Clone)]
struct Residual {
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl Residual {
    fn new(c: usize, o: usize, groups: usize, weights: &Weights) -> Result<Self> {
        let shortcut = if c == o { None } else { Some(Conv::new(c, o, 1, 1.0, &weights.pp("nin_shortcut"))?) };
        Ok(Self {
            norm1: Norm::new(c, groups, &weights.pp("norm1"))?,
            conv1: Conv::new(c, o, 3, 1.4, &weights.pp("conv1"))?,
            norm2: Norm::new(o, groups, &weights.pp("norm2"))?,
            // A small branch at first, so that the network starts close to its skip path.
            conv2: Conv::new(o, o, 3, 0.3, &weights.pp("conv2"))?,
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward(x, Then::Silu)?, Walk::Same)?;
        let h = self.conv2.forward(&self.norm2.forward(&h, Then::Silu)?, Walk::Same)?;
        Ok(match &self.shortcut {
            Some(shortcut) => (shortcut.forward(x, Walk::Same)? + h)?,
            None => (x + h)?,
        })
    }
}

/// Attention over all places with one head.
#[derive(Debug, Clone)]
struct Attention {
    norm: Norm,
    q: Conv,
    k: Conv,
    v: Conv,
    out: Conv,
}

impl Attention {
    fn new(c: usize, groups: usize, weights: &Weights) -> Result<Self> {
        let conv = |name, gain| Conv::new(c, c, 1, gain, &weights.pp(name));
        Ok(Self {
            norm: Norm::new(c, groups, &weights.pp("norm"))?,
            q: conv("q", 1.0)?,
            k: conv("k", 1.0)?,
            v: conv("v", 1.0)?,
            out: conv("proj_out", 0.3)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let normed = self.norm.forward(x, Then::Nothing)?;
        let tokens = |conv: &Conv| -> Result<Tensor> { Ok(conv.forward(&normed, Walk::Same)?.reshape((b, h * w, c))?) };
        let (q, k, v) = ((tokens(&self.q)? * (c as f64).powf(-0.5))?, tokens(&self.k)?, tokens(&self.v)?);
        // `softmax` of plain operations: the fused one has no backward.
        let attended = softmax(&q.matmul(&k.t()?)?, candle_core::D::Minus1)?.matmul(&v)?;
        Ok((x + self.out.forward(&attended.reshape((b, h, w, c))?, Walk::Same)?)?)
    }
}

/// Two residual blocks around an attention, at the smallest side.
#[derive(Debug, Clone)]
struct Middle {
    block1: Residual,
    attention: Attention,
    block2: Residual,
}

impl Middle {
    fn new(c: usize, groups: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            block1: Residual::new(c, c, groups, &weights.pp("block_1"))?,
            attention: Attention::new(c, groups, &weights.pp("attn_1"))?,
            block2: Residual::new(c, c, groups, &weights.pp("block_2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.block2.forward(&self.attention.forward(&self.block1.forward(x)?)?)
    }
}

/// Blocks of one size, then the step to the next size where there is one.
#[derive(Debug, Clone)]
struct Level {
    blocks: Vec<Residual>,
    resample: Option<Conv>,
}

#[derive(Debug, Clone)]
struct Encoder {
    conv_in: Conv,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: Norm,
    conv_out: Conv,
}

impl Encoder {
    fn new(config: &AutoencoderConfig, weights: &Weights) -> Result<Self> {
        let groups = config.norm_groups;
        let mut width = config.channels;
        let conv_in = Conv::new(3, width, 3, 1.0, &weights.pp("conv_in"))?;
        let mut levels = Vec::new();
        for level in 0..config.multipliers.len() {
            let weights = weights.pp("down").pp(level);
            let mut blocks = Vec::new();
            for block in 0..config.residual_blocks {
                blocks.push(Residual::new(width, config.width(level), groups, &weights.pp("block").pp(block))?);
                width = config.width(level);
            }
            let last = level + 1 == config.multipliers.len();
            let resample = if last { None } else { Some(Conv::new(width, width, 3, 1.0, &weights.pp("downsample.conv"))?) };
            levels.push(Level { blocks, resample });
        }
        Ok(Self {
            conv_in,
            levels,
            middle: Middle::new(width, groups, &weights.pp("mid"))?,
            norm_out: Norm::new(width, groups, &weights.pp("norm_out"))?,
            // Mean and logarithm of the variance of the posterior.
            conv_out: Conv::new(width, 2 * config.latent_channels, 3, 1.4, &weights.pp("conv_out"))?,
        })
    }

    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mut h = self.conv_in.forward(images, Walk::Same)?;
        for level in &self.levels {
            for block in &level.blocks {
                h = block.forward(&h)?;
            }
            if let Some(downsample) = &level.resample {
                h = downsample.forward(&h, Walk::Halve)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&self.middle.forward(&h)?, Then::Silu)?, Walk::Same)
    }
}

#[derive(Debug, Clone)]
struct Decoder {
    conv_in: Conv,
    middle: Middle,
    /// In checkpoint order: level 0 is the full image size and comes last.
    levels: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
}

impl Decoder {
    fn new(config: &AutoencoderConfig, weights: &Weights) -> Result<Self> {
        let groups = config.norm_groups;
        let mut width = config.width(config.multipliers.len() - 1);
        let conv_in = Conv::new(config.latent_channels, width, 3, 1.0, &weights.pp("conv_in"))?;
        let middle = Middle::new(width, groups, &weights.pp("mid"))?;
        let mut levels = Vec::new();
        for level in (0..config.multipliers.len()).rev() {
            let weights = weights.pp("up").pp(level);
            let mut blocks = Vec::new();
            for block in 0..=config.residual_blocks {
                blocks.push(Residual::new(width, config.width(level), groups, &weights.pp("block").pp(block))?);
                width = config.width(level);
            }
            let resample = if level == 0 { None } else { Some(Conv::new(width, width, 3, 1.0, &weights.pp("upsample.conv"))?) };
            levels.push(Level { blocks, resample });
        }
        levels.reverse();
        let norm_out = Norm::new(width, groups, &weights.pp("norm_out"))?;
        Ok(Self { conv_in, middle, levels, norm_out, conv_out: Conv::new(width, 3, 3, 1.0, &weights.pp("conv_out"))? })
    }

    fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut h = self.middle.forward(&self.conv_in.forward(latents, Walk::Same)?)?;
        for level in self.levels.iter().rev() {
            for block in &level.blocks {
                h = block.forward(&h)?;
            }
            if let Some(upsample) = &level.resample {
                h = upsample.forward(&h, Walk::Double)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&h, Then::Silu)?, Walk::Same)
    }
}

/// Images ⇄ latents.
#[derive(Debug, Clone)]
pub struct Autoencoder {
    config: AutoencoderConfig,
    encoder: Encoder,
    decoder: Decoder,
    /// After the encoder and before the decoder.
    quant: Option<(Conv, Conv)>,
}

impl Autoencoder {
    /// Takes its weights by the checkpoint's names (`encoder.…`, `decoder.…`).
    pub fn new(config: &AutoencoderConfig, weights: &Weights) -> Result<Self> {
        let (encoder, decoder) = (Encoder::new(config, &weights.pp("encoder"))?, Decoder::new(config, &weights.pp("decoder"))?);
        let quant = || -> Result<(Conv, Conv)> {
            let c = config.latent_channels;
            Ok((Conv::new(2 * c, 2 * c, 1, 1.0, &weights.pp("quant_conv"))?, Conv::new(c, c, 1, 1.0, &weights.pp("post_quant_conv"))?))
        };
        Ok(Self { config: config.clone(), encoder, decoder, quant: config.quant_conv.then(quant).transpose()? })
    }

    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// Encodes images `[B, 3, H, W]` in [-1, 1] to latents `[B, C, H/f, W/f]` of about unit variance.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        let (_, channels, h, w) = images.dims4()?;
        let factor = self.config.factor();
        if channels != 3 || !h.is_multiple_of(factor) || !w.is_multiple_of(factor) {
            return Err(Error::Invalid(format!("cannot encode images {:?}: sides must be multiples of {factor}", images.dims())));
        }
        let moments = self.encoder.forward(&images.permute((0, 2, 3, 1))?.contiguous()?)?;
        let moments = match &self.quant {
            Some((after, _)) => after.forward(&moments, Walk::Same)?,
            None => moments,
        };
        let mean = moments.narrow(3, 0, self.config.latent_channels)?.permute((0, 3, 1, 2))?.contiguous()?;
        Ok(mean.affine(self.config.scale_factor, -self.config.shift_factor * self.config.scale_factor)?)
    }

    /// Decodes latents `[B, C, H/f, W/f]` to images `[B, 3, H, W]`, about in [-1, 1] and not clamped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = latents.affine(1.0 / self.config.scale_factor, self.config.shift_factor)?;
        let latents = latents.permute((0, 2, 3, 1))?.contiguous()?;
        let latents = match &self.quant {
            Some((_, before)) => before.forward(&latents, Walk::Same)?,
            None => latents,
        };
        let images = self.decoder.forward(&latents)?;
        Ok(images.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;
    use candle_core::{DType, Device, Var};
    use std::collections::BTreeMap;

    fn random(shape: &[usize], item: u64) -> Tensor {
        let key = rng::Key { seed: 7, purpose: "test", item, draw: 0 };
        let values = rng::normal(&mut rng::stream(key), shape.iter().product());
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
    }

    #[test]
    fn gradients_of_every_part_are_finite_differences() {
        const STEP: f64 = 1e-6;
        let config = AutoencoderConfig::preset("smoke").unwrap();
        let weights = Weights::trainable(3, BTreeMap::new(), DType::F64, &Device::Cpu);
        let network = Autoencoder::new(&config, &weights).unwrap();
        let (images, target) = (random(&[2, 3, 8, 8], 0), random(&[2, 3, 8, 8], 1));
        let loss = || (network.decode(&network.encode(&images).unwrap()).unwrap() - &target).unwrap().sqr().unwrap().sum_all().unwrap();
        let store = loss().backward().unwrap();
        for (name, var) in weights.vars() {
            let gradient = store.get(var.as_tensor()).unwrap_or_else(|| panic!("{name} has no gradient"));
            let direction = random(var.dims(), rng::text_id(&name));
            let expected = (gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
            let start = var.as_tensor().copy().unwrap();
            let at = |factor: f64| {
                Var::set(&var, &(&start + (&direction * factor).unwrap()).unwrap()).unwrap();
                loss().to_scalar::<f64>().unwrap()
            };
            let found = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            Var::set(&var, &start).unwrap();
            assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{name}: {found} and {expected}");
        }
    }

    #[test]
    fn flux_dev_asks_for_the_244_tensors_of_the_published_file() {
        // Narrower than the published network: names do not depend on the width.
        let config = AutoencoderConfig { channels: 8, norm_groups: 8, ..AutoencoderConfig::preset("flux-dev").unwrap() };
        let weights = Weights::trainable(0, BTreeMap::new(), DType::F32, &Device::Cpu);
        Autoencoder::new(&config, &weights).unwrap();
        let names: Vec<String> = weights.vars().into_keys().collect();
        assert_eq!(names.len(), 244);
        for name in ["encoder.down.1.block.0.nin_shortcut.weight", "decoder.up.3.upsample.conv.bias", "decoder.mid.attn_1.proj_out.weight"]
        {
            assert!(names.iter().any(|found| found == name), "{name}");
        }
    }

    #[test]
    fn sides_that_do_not_divide_are_refused() {
        let config = AutoencoderConfig::preset("smoke").unwrap();
        let network = Autoencoder::new(&config, &Weights::initial(0, DType::F64, &Device::Cpu)).unwrap();
        assert!(network.encode(&random(&[1, 3, 6, 8], 0)).is_err());
    }
}
