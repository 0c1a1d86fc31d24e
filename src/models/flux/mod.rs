//! Flux.1's diffusion transformer (flux@802fb47 src/flux/model.py) as explicit forward and backward. The same code is
//! frozen in distillation (gradient of the text embedding only) and trained in the miniature world.

pub(super) mod conditioning;
pub mod control;
mod double_block;
mod single_block;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use self::conditioning::{Conditioning, ConditioningGradient, Embedders, MlpSaved, Modulation};
use self::control::Residuals;
use self::double_block::{DoubleBlock, DoubleSaved};
use self::single_block::{SingleBlock, SingleSaved};
use super::checkpointing::{Checkpointing, Kept};
use super::weights::{Bias, Weights};
use super::{Denoiser, DenoiserInput, Pullback};
use crate::by_real;
use crate::error::{Error, Result};
use crate::nn::activation::add;
use crate::nn::linear::Linear;
use crate::nn::norm::{modulated_norm, modulated_norm_vjp};
use crate::nn::param::{Gradients, Param, Parameters};
use crate::nn::rope::Rotation;

/// Sizes; the fields are those of the official `FluxParams`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FluxConfig {
    pub in_channels: usize,
    /// Width of the pooled text.
    pub vec_in_dim: usize,
    /// Width of the text embedding.
    pub context_in_dim: usize,
    pub hidden_size: usize,
    pub mlp_ratio: f64,
    pub num_heads: usize,
    /// Number of double-stream blocks.
    pub depth: usize,
    pub depth_single_blocks: usize,
    /// Head width given to the three position axes.
    pub axes_dim: Vec<usize>,
    pub theta: f64,
    pub guidance_embed: bool,
    /// Distance of two neighbouring image tokens; 1 in the published models. At twice the resolution, half of it leaves every place where a
    /// network trained at the first one knows it, as Stable Diffusion 3 interpolates its positions (Esser et al. 2024, section 5.3.2).
    pub position_step: f64,
}

impl FluxConfig {
    /// A named size: `flux-dev`, `flux-schnell`, the miniature world's `mini` and its `mini-128` for 128 px, the smoke test's
    /// `smoke`.
    pub fn preset(name: &str) -> Result<Self> {
        let published = |guidance_embed| Self {
            in_channels: 64,
            vec_in_dim: 768,
            context_in_dim: 4096,
            hidden_size: 3072,
            mlp_ratio: 4.0,
            num_heads: 24,
            depth: 19,
            depth_single_blocks: 38,
            axes_dim: vec![16, 56, 56],
            theta: 10_000.0,
            guidance_embed,
            position_step: 1.0,
        };
        let small = |(vec_in_dim, context_in_dim), hidden_size, num_heads, (depth, depth_single_blocks), axes_dim: [usize; 3]| Self {
            vec_in_dim,
            context_in_dim,
            hidden_size,
            num_heads,
            depth,
            depth_single_blocks,
            axes_dim: axes_dim.to_vec(),
            ..published(true)
        };
        let mini = || small((128, 256), 144, 3, (2, 5), [16, 16, 16]);
        match name {
            "flux-dev" => Ok(published(true)),
            "flux-schnell" => Ok(published(false)),
            "mini" => Ok(mini()),
            "mini-128" => Ok(Self { position_step: 0.5, ..mini() }),
            "smoke" => Ok(small((32, 32), 32, 2, (1, 1), [4, 6, 6])),
            _ => Err(Error::Invalid(format!("no denoiser size `{name}`; there are flux-dev, flux-schnell, mini, mini-128, smoke"))),
        }
    }

    fn head_width(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    fn mlp_width(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }

    fn check(&self) -> Result<()> {
        let axes: usize = self.axes_dim.iter().sum();
        if !self.hidden_size.is_multiple_of(self.num_heads) || axes != self.head_width() || self.axes_dim.len() != 3 {
            return Err(Error::Invalid(format!(
                "hidden size {} over {} heads gives head width {}, position axes {:?} sum to {axes}",
                self.hidden_size,
                self.num_heads,
                self.head_width(),
                self.axes_dim
            )));
        }
        Ok(())
    }
}

/// 1/√D for queries `[B, T, H, D]`.
fn heads_scale(q: &Tensor) -> Result<f64> {
    Ok((q.dim(3)? as f64).powf(-0.5))
}

fn double_blocks(config: &FluxConfig, weights: &Weights) -> Result<Vec<DoubleBlock>> {
    (0..config.depth).map(|i| DoubleBlock::new(config, &weights.pp(format!("double_blocks.{i}")))).collect()
}

fn single_blocks(config: &FluxConfig, weights: &Weights) -> Result<Vec<SingleBlock>> {
    (0..config.depth_single_blocks).map(|i| SingleBlock::new(config, &weights.pp(format!("single_blocks.{i}")))).collect()
}

/// Position of row or column `i`: the middle of the token, in tokens of a step of 1 whose first one sits at 0.
fn position(i: usize, step: f64) -> f64 {
    (i as f64 + 0.5) * step - 0.5
}

/// `l` text tokens sit at position zero, `n` image tokens at (0, row, column) of a square grid.
fn rotation(config: &FluxConfig, l: usize, n: usize, dtype: DType) -> Result<Rotation> {
    let side = (n as f64).sqrt() as usize;
    if side * side != n {
        return Err(Error::Invalid(format!("{n} image tokens do not form a square")));
    }
    let mut positions = vec![vec![0.0; 3]; l];
    let at = |i| position(i, config.position_step);
    positions.extend((0..n).map(|i| vec![0.0, at(i / side), at(i % side)]));
    let like = Tensor::zeros(1, dtype, &Device::Cpu)?;
    by_real!(like, T => Rotation::new::<T>(&positions, &config.axes_dim, config.theta))
}

/// The diffusion transformer.
#[derive(Debug, Clone)]
pub struct Flux {
    pub config: FluxConfig,
    /// What [`Flux::forward`] keeps for [`Flux::vjp`].
    pub checkpointing: Checkpointing,
    img_in: Linear,
    txt_in: Linear,
    embedders: Embedders,
    double_blocks: Vec<DoubleBlock>,
    single_blocks: Vec<SingleBlock>,
    final_modulation: Modulation,
    final_linear: Linear,
}

/// What [`Flux::vjp`] needs.
#[derive(Debug, Clone)]
pub struct FluxSaved {
    latents: Tensor,
    text: Tensor,
    conditioning: Conditioning,
    embedders: Vec<MlpSaved>,
    rotation: Rotation,
    /// Inputs are image and text tokens.
    double: Vec<Kept<(Tensor, Tensor), DoubleSaved>>,
    single: Vec<Kept<Tensor, SingleSaved>>,
    last: Tensor,
    final_parts: Vec<Tensor>,
    final_normed: Tensor,
}

impl Flux {
    /// Takes its tensors from `weights` under the published names.
    pub fn new(config: &FluxConfig, weights: &Weights) -> Result<Self> {
        config.check()?;
        let d = config.hidden_size;
        Ok(Self {
            config: config.clone(),
            checkpointing: Checkpointing::default(),
            img_in: weights.linear("img_in", config.in_channels, d, Bias::With)?,
            txt_in: weights.linear("txt_in", config.context_in_dim, d, Bias::With)?,
            embedders: Embedders::new(config, weights)?,
            double_blocks: double_blocks(config, weights)?,
            single_blocks: single_blocks(config, weights)?,
            final_modulation: Modulation::new(&weights.pp("final_layer"), "adaLN_modulation.1", d, 2)?,
            final_linear: weights.linear_scaled("final_layer.linear", d, config.in_channels, Bias::With, 0.02)?,
        })
    }

    /// Velocity `[B, N, C]` for the input and the text embedding `[B, L, D_text]`.
    pub fn forward(&self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, FluxSaved)> {
        self.run(input, text, Some(self.checkpointing), None)
    }

    /// The forward pass, keeping nothing of its blocks where `keep` is none; `residuals` are added to the image tokens.
    fn run(
        &self,
        input: &DenoiserInput,
        text: &Tensor,
        keep: Option<Checkpointing>,
        residuals: Option<&Residuals>,
    ) -> Result<(Tensor, FluxSaved)> {
        input.check(text)?;
        let (l, n) = (text.dim(1)?, input.latents.dim(1)?);
        let (conditioning, embedders) = self.embedders.forward(input)?;
        let rotation = rotation(&self.config, l, n, text.dtype())?;
        let mut image = self.img_in.forward(&input.latents)?;
        let mut words = self.txt_in.forward(text)?;
        let mut double = Vec::new();
        for (i, block) in self.double_blocks.iter().enumerate() {
            let (new_image, new_words, saved) = block.forward(&image, &words, &conditioning, &rotation)?;
            double.extend(keep.map(|keep| keep.keep(i, (image, words), saved)));
            (image, words) = (new_image, new_words);
            if let Some(residual) = residuals.and_then(|residuals| residuals.after_double(i, self.double_blocks.len())) {
                image = add(&image, residual)?;
            }
        }
        let mut x = Tensor::cat(&[&words, &image], 1)?;
        let mut single = Vec::new();
        for (i, block) in self.single_blocks.iter().enumerate() {
            let (y, saved) = block.forward(&x, &conditioning, &rotation)?;
            single.extend(keep.map(|keep| keep.keep(self.double_blocks.len() + i, x, saved)));
            x = y;
            if let Some(residual) = residuals.and_then(|residuals| residuals.after_single(i, self.single_blocks.len())) {
                let image = add(&x.narrow(1, l, n)?.contiguous()?, residual)?;
                x = Tensor::cat(&[&x.narrow(1, 0, l)?, &image], 1)?;
            }
        }
        let last = x.narrow(1, l, n)?.contiguous()?;
        let final_parts = self.final_modulation.forward(&conditioning)?;
        let final_normed = modulated_norm(&last, &final_parts[0], &final_parts[1])?;
        let velocity = self.final_linear.forward(&final_normed)?;
        let saved = FluxSaved {
            latents: input.latents.clone(),
            text: text.clone(),
            conditioning,
            embedders,
            rotation,
            double,
            single,
            last,
            final_parts,
            final_normed,
        };
        Ok((velocity, saved))
    }

    /// Gradient of the text embedding `[B, L, D_text]` from `d_velocity` `[B, N, C]`; parameter gradients go to `gradients`.
    /// What the forward pass saved is freed block by block.
    pub fn vjp(&self, saved: FluxSaved, d_velocity: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        let FluxSaved { latents, text, conditioning, embedders, rotation, double, single, last, final_parts, final_normed } = saved;
        let with = (&conditioning, &rotation);
        let mut d_vector = ConditioningGradient::default();
        let d_normed = self.final_linear.vjp(&final_normed, d_velocity, gradients)?;
        let (d_last, d_shift, d_scale) = modulated_norm_vjp(&last, &final_parts[1], &d_normed)?;
        self.final_modulation.vjp(&conditioning, &[d_shift, d_scale], gradients, &mut d_vector)?;

        let (b, n, d) = d_last.dims3()?;
        let l = text.dim(1)?;
        let mut dx = Tensor::cat(&[&Tensor::zeros((b, l, d), d_last.dtype(), d_last.device())?, &d_last], 1)?;
        drop((final_normed, d_normed, last, d_last));
        for (block, saved) in self.single_blocks.iter().zip(single).rev() {
            let again = |x: &Tensor| Ok(block.forward(x, with.0, with.1)?.1);
            dx = saved.backward(again, |saved| block.vjp(saved, with, &dx, gradients, &mut d_vector))?;
        }
        let (mut d_words, mut d_image) = (dx.narrow(1, 0, l)?.contiguous()?, dx.narrow(1, l, n)?.contiguous()?);
        drop(dx);
        for (block, saved) in self.double_blocks.iter().zip(double).rev() {
            let again = |(image, words): &(Tensor, Tensor)| Ok(block.forward(image, words, with.0, with.1)?.2);
            let backward = |saved: DoubleSaved| block.vjp(saved, with, (&d_image, &d_words), gradients, &mut d_vector);
            (d_image, d_words) = saved.backward(again, backward)?;
        }
        self.img_in.parameter_vjp(&latents, &d_image, gradients)?;
        if let Some(d_vector) = d_vector.finish(&conditioning)? {
            self.embedders.vjp(&embedders, &d_vector, gradients)?;
        }
        self.txt_in.vjp(&text, &d_words, gradients)
    }
}

impl Denoiser for Flux {
    fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor> {
        Ok(self.run(input, text, None, None)?.0)
    }

    fn velocity_under(&self, input: &DenoiserInput, text: &Tensor, residuals: &Residuals) -> Result<Tensor> {
        Ok(self.run(input, text, None, Some(residuals))?.0)
    }

    fn velocity_with_pullback<'a>(&'a self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, Pullback<'a>)> {
        let (velocity, saved) = self.forward(input, text)?;
        Ok((velocity, Box::new(move |d_velocity| self.vjp(saved, d_velocity, &mut Gradients::Frozen))))
    }
}

impl Parameters for Flux {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.img_in.visit(visitor);
        self.txt_in.visit(visitor);
        self.embedders.visit(visitor);
        self.double_blocks.iter().for_each(|block| block.visit(visitor));
        self.single_blocks.iter().for_each(|block| block.visit(visitor));
        self.final_modulation.visit(visitor);
        self.final_linear.visit(visitor);
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.img_in.visit_mut(visitor);
        self.txt_in.visit_mut(visitor);
        self.embedders.visit_mut(visitor);
        self.double_blocks.iter_mut().for_each(|block| block.visit_mut(visitor));
        self.single_blocks.iter_mut().for_each(|block| block.visit_mut(visitor));
        self.final_modulation.visit_mut(visitor);
        self.final_linear.visit_mut(visitor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::residual::mean_squared_error;

    #[test]
    fn a_grid_of_twice_the_side_lies_where_the_coarse_one_lies() {
        assert!((0..9).all(|i| position(i, 1.0) == i as f64));
        for i in 0..9 {
            assert_eq!((position(2 * i, 0.5) + position(2 * i + 1, 0.5)) / 2.0, position(i, 1.0));
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_reported_with_its_tensor() {
        let config = FluxConfig::preset("smoke").unwrap();
        let flux = Flux::new(&config, &Weights::initial(1, DType::F32, &Device::Cpu)).unwrap();
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors = [
            ones(&[1, 4, config.in_channels]),
            ones(&[1, 3, config.context_in_dim]),
            ones(&[1]),
            ones(&[1]),
            ones(&[1, config.vec_in_dim]),
        ];
        for (i, expected) in ["latents", "text", "time", "guidance", "pooled"].into_iter().enumerate() {
            let mut broken = tensors.clone();
            broken[i] = (&broken[i] * f64::NAN).unwrap();
            let [latents, text, time, guidance, pooled] = broken;
            let input = DenoiserInput { latents, time, guidance, pooled, text_mask: None };
            let error = flux.velocity(&input, &text).unwrap_err();
            assert!(matches!(&error, Error::NonFinite { name, .. } if name == expected), "{error}");
        }
    }

    #[test]
    fn a_fresh_network_depends_on_its_text() {
        let config = FluxConfig::preset("smoke").unwrap();
        let flux = Flux::new(&config, &Weights::initial(1, DType::F32, &Device::Cpu)).unwrap();
        let ramp =
            |n: usize, slope: f32| Tensor::from_vec((0..n).map(|i| (i as f32 * slope).sin()).collect::<Vec<_>>(), n, &Device::Cpu).unwrap();
        let input = DenoiserInput {
            latents: ramp(4 * config.in_channels, 0.3).reshape((1, 4, config.in_channels)).unwrap(),
            time: Tensor::full(0.5f32, 1, &Device::Cpu).unwrap(),
            guidance: Tensor::full(3.5f32, 1, &Device::Cpu).unwrap(),
            pooled: ramp(config.vec_in_dim, 0.7).unsqueeze(0).unwrap(),
            text_mask: None,
        };
        let velocity = |slope| -> Tensor {
            let text = ramp(3 * config.context_in_dim, slope).reshape((1, 3, config.context_in_dim)).unwrap();
            flux.velocity(&input, &text).unwrap()
        };
        let (loss, _) = mean_squared_error(&velocity(0.2), &velocity(1.1)).unwrap();
        assert!(loss > 1e-12, "changing the text changed the velocity by {loss} only: distilling through it would test nothing");
    }
}
