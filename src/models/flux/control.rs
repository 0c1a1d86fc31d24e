//! ControlNet for Flux: a shallow copy of the transformer that reads an image of edges, depth or a pose and adds to the image
//! tokens of the large one (diffusers 0.42.1 `FluxControlNetModel`; published as FLUX.1-dev-ControlNet-Union-Pro). It guides
//! images; nothing is distilled through it.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::conditioning::Embedders;
use super::double_block::DoubleBlock;
use super::single_block::SingleBlock;
use super::{FluxConfig, double_blocks, rotation, single_blocks};
use crate::error::{Error, Result};
use crate::models::weights::{Bias, Init, Weights};
use crate::models::{Denoiser, DenoiserInput, Pullback};
use crate::nn::activation::add;
use crate::nn::linear::Linear;
use crate::nn::param::Param;

/// What the image of a ControlNet for several kinds shows; the numbers are those of the published Union models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Canny = 0,
    Depth = 2,
    Pose = 4,
}

impl Mode {
    /// `canny`, `depth` or `pose`.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "canny" => Ok(Self::Canny),
            "depth" => Ok(Self::Depth),
            "pose" => Ok(Self::Pose),
            _ => Err(Error::config(format!("no kind of control image is named `{name}`"), "name canny, depth or pose")),
        }
    }
}

/// What is added to the image tokens `[B, N, D]` after the blocks of the large transformer.
#[derive(Debug, Clone)]
pub struct Residuals {
    pub double: Vec<Tensor>,
    pub single: Vec<Tensor>,
}

impl Residuals {
    /// For block `i` of `blocks` double-stream blocks: each residual serves as many blocks in a row as there are blocks for one.
    pub(super) fn after_double(&self, i: usize, blocks: usize) -> Option<&Tensor> {
        spread(&self.double, i, blocks)
    }

    /// The same for the single-stream blocks.
    pub(super) fn after_single(&self, i: usize, blocks: usize) -> Option<&Tensor> {
        spread(&self.single, i, blocks)
    }
}

fn spread(residuals: &[Tensor], i: usize, blocks: usize) -> Option<&Tensor> {
    (!residuals.is_empty()).then(|| &residuals[i / blocks.div_ceil(residuals.len())])
}

/// The small transformer.
#[derive(Debug, Clone)]
pub struct ControlNet {
    config: FluxConfig,
    img_in: Linear,
    txt_in: Linear,
    control_in: Linear,
    embedders: Embedders,
    double_blocks: Vec<DoubleBlock>,
    single_blocks: Vec<SingleBlock>,
    double_out: Vec<Linear>,
    single_out: Vec<Linear>,
    /// One token per kind of image `[modes, D]`, where it knows several.
    modes: Option<Param>,
}

impl ControlNet {
    /// Takes its tensors from `weights`: those it shares with Flux under Flux's names, its own under diffusers'. `config.depth` and
    /// `config.depth_single_blocks` count its own blocks; `modes` is the number of kinds of image, if it knows several.
    pub fn new(config: &FluxConfig, modes: Option<usize>, weights: &Weights) -> Result<Self> {
        config.check()?;
        let d = config.hidden_size;
        let outputs = |name: &str, count: usize| -> Result<Vec<Linear>> {
            (0..count).map(|i| weights.linear(&format!("{name}.{i}"), d, d, Bias::With)).collect()
        };
        Ok(Self {
            config: config.clone(),
            img_in: weights.linear("img_in", config.in_channels, d, Bias::With)?,
            txt_in: weights.linear("txt_in", config.context_in_dim, d, Bias::With)?,
            control_in: weights.linear("controlnet_x_embedder", config.in_channels, d, Bias::With)?,
            embedders: Embedders::new(config, weights)?,
            double_blocks: double_blocks(config, weights)?,
            single_blocks: single_blocks(config, weights)?,
            double_out: outputs("controlnet_blocks", config.depth)?,
            single_out: outputs("controlnet_single_blocks", config.depth_single_blocks)?,
            modes: modes.map(|modes| weights.param("controlnet_mode_embedder.weight", &[modes, d], Init::Normal(1.0))).transpose()?,
        })
    }

    /// What to add to the large transformer's tokens, `control.scale` times.
    ///
    /// # Errors
    /// Control latents of another shape than the latents; a kind of image where the network knows one kind only, or none where it
    /// knows several.
    pub fn residuals(&self, input: &DenoiserInput, text: &Tensor, control: &Control) -> Result<Residuals> {
        input.check(text)?;
        if control.latents.dims()[1..] != input.latents.dims()[1..] {
            let shapes = format!("latents {:?}, control {:?}", input.latents.dims(), control.latents.dims());
            return Err(Error::Invalid(format!("the control image has another size than the image: {shapes}")));
        }
        let (b, n, _) = input.latents.dims3()?;
        let mut words = self.txt_in.forward(text)?;
        match (&self.modes, control.mode) {
            (Some(modes), Some(mode)) => {
                let token = modes.value.narrow(0, mode as usize, 1)?.unsqueeze(0)?;
                let token = token.broadcast_as((b, 1, self.config.hidden_size))?.to_dtype(words.dtype())?;
                words = Tensor::cat(&[&token, &words], 1)?;
            }
            (None, None) => {}
            (Some(_), None) => {
                return Err(Error::config("this ControlNet knows several kinds of images", "say which: canny, depth or pose"));
            }
            (None, Some(_)) => return Err(Error::config("this ControlNet knows one kind of images only", "do not name a kind")),
        }
        let l = words.dim(1)?;
        let (conditioning, _) = self.embedders.forward(input)?;
        let rotation = rotation(&self.config, l, n, text.dtype())?;
        let seen = control.latents.broadcast_as(input.latents.shape())?.contiguous()?;
        let mut image = add(&self.img_in.forward(&input.latents)?, &self.control_in.forward(&seen)?)?;
        let scaled = |out: &Linear, tokens: &Tensor| -> Result<Tensor> { Ok((out.forward(tokens)? * control.scale)?) };
        let mut double = Vec::new();
        for (block, out) in self.double_blocks.iter().zip(&self.double_out) {
            (image, words, _) = block.forward(&image, &words, &conditioning, &rotation)?;
            double.push(scaled(out, &image)?);
        }
        let mut x = Tensor::cat(&[&words, &image], 1)?;
        let mut single = Vec::new();
        for (block, out) in self.single_blocks.iter().zip(&self.single_out) {
            x = block.forward(&x, &conditioning, &rotation)?.0;
            single.push(scaled(out, &x.narrow(1, l, n)?.contiguous()?)?);
        }
        Ok(Residuals { double, single })
    }
}

/// The image that controls, and how much.
#[derive(Debug, Clone)]
pub struct Control {
    /// Packed latents of the control image `[B, N, C]`, or `[1, N, C]` for all, encoded and scaled as an image is.
    pub latents: Tensor,
    pub mode: Option<Mode>,
    /// Factor of the residuals; 1 is the network as trained.
    pub scale: f64,
}

/// Flux under a ControlNet.
#[derive(Clone, Copy)]
pub struct Controlled<'a> {
    pub denoiser: &'a dyn Denoiser,
    pub net: &'a ControlNet,
    pub control: &'a Control,
}

impl Denoiser for Controlled<'_> {
    fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor> {
        let residuals = self.net.residuals(input, text, self.control)?;
        self.denoiser.velocity_under(input, text, &residuals)
    }

    fn velocity_with_pullback<'a>(&'a self, _: &DenoiserInput, _: &Tensor) -> Result<(Tensor, Pullback<'a>)> {
        Err(Error::Invalid("nothing is distilled through a ControlNet; distil through the denoiser alone".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn each_residual_serves_as_many_blocks_in_a_row() {
        let residuals: Vec<Tensor> = (0..5).map(|i| Tensor::new(i as f32, &Device::Cpu).unwrap()).collect();
        let served: Vec<f32> = (0..19).map(|i| spread(&residuals, i, 19).unwrap().to_scalar().unwrap()).collect();
        // Flux-dev's 19 blocks under the published network's 5: ceil(19 / 5) = 4 each, 3 for the last.
        let expected: Vec<f32> = (0..19).map(|i| (i / 4) as f32).collect();
        assert_eq!(served, expected);
        assert!(spread(&[], 0, 19).is_none());
    }

    #[test]
    fn a_kind_of_image_must_fit_the_network() {
        let config = FluxConfig::preset("smoke").unwrap();
        let weights = Weights::initial(3, DType::F32, &Device::Cpu);
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let input = DenoiserInput {
            latents: random(&[1, 4, config.in_channels]),
            time: Tensor::new(&[0.5f32], &Device::Cpu).unwrap(),
            guidance: Tensor::new(&[3.5f32], &Device::Cpu).unwrap(),
            pooled: random(&[1, config.vec_in_dim]),
            text_mask: None,
        };
        let text = random(&[1, 3, config.context_in_dim]);
        let control = |mode| Control { latents: input.latents.clone(), mode, scale: 1.0 };
        let union = ControlNet::new(&config, Some(10), &weights).unwrap();
        assert!(union.residuals(&input, &text, &control(Some(Mode::Depth))).is_ok());
        assert!(union.residuals(&input, &text, &control(None)).unwrap_err().to_string().contains("several kinds"));
        let plain = ControlNet::new(&config, None, &weights).unwrap();
        assert!(plain.residuals(&input, &text, &control(Some(Mode::Canny))).unwrap_err().to_string().contains("one kind"));
        let small = Control { latents: random(&[1, 1, config.in_channels]), mode: None, scale: 1.0 };
        assert!(plain.residuals(&input, &text, &small).unwrap_err().to_string().contains("another size"));
        assert!(Mode::named("scribble").is_err());
    }
}
