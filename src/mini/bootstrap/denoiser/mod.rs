//! Trains the miniature world's denoiser by flow matching on renders, under the frozen text encoder, as Flux was; then
//! distils classifier-free guidance into its guidance embedding, as Flux.1-dev was. The same again, shorter and at a higher
//! resolution, is the fine-tuning.
//!
//! Everything a step needs is drawn by key, so a resumed training repeats an uninterrupted one.

pub mod fine_tuning;
mod frozen;
mod guidance;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::frozen::{Example, Frozen};
use self::guidance::guided;
use super::trainer::{Task, train, warmup_constant_decay};
use crate::diffusion::schedule::shift_at;
use crate::error::{Error, Result};
use crate::mini::grammar::{sample_any, sample_two_objects};
use crate::mini::render::render;
use crate::mini::scene::Split;
use crate::models::flux::{Flux, FluxConfig};
use crate::models::weights::{Weights, read_safetensors, write_safetensors};
use crate::models::{Denoiser, DenoiserInput};
use crate::nn::average::WeightAverage;
use crate::nn::optim::{AdamW, AdamWConfig};
use crate::nn::param::{Gradients, Parameters};
use crate::nn::residual::mean_squared_error;
use crate::run::context::RunContext;
use crate::run::rng;

/// How the denoiser is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Sizes, see the presets of the networks.
    pub preset: String,
    pub text_encoder: String,
    pub autoencoder: String,
    pub clip: String,
    pub token_length: usize,
    pub resolution: u32,
    /// Distinct scenes; their latents and text are kept in memory after the first visit (40 KB each at 64 px).
    pub scenes: u64,
    /// Share of the training scenes drawn among those with two objects, before the general mixture has its turn: which
    /// colour belongs to which of two objects is what takes longest to learn.
    pub two_objects: f64,
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    /// Share of the updates, at the end, over which the learning rate falls to zero.
    pub decay_share: f64,
    /// Share of captions replaced by the empty prompt, so that guidance can be formed.
    pub caption_dropout: f64,
    /// Decay of the averaged weights, which are the ones saved.
    pub ema_decay: f64,
    /// Updates that distil guidance into its embedding, after the first training.
    pub guidance_steps: u64,
    pub guidance_learning_rate: f64,
    /// Range of guidance scales the embedding learns.
    pub guidance_range: (f64, f64),
    /// Start from the weights that are already in the pipeline's folder.
    pub warm_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            preset: "mini".into(),
            text_encoder: "mini-teacher".into(),
            autoencoder: "mini".into(),
            clip: "mini".into(),
            token_length: 24,
            resolution: 64,
            // About 39,000 of them with two objects: combinations must be learnt, they cannot be remembered.
            scenes: 65_536,
            two_objects: 0.25,
            // About an hour on two cores.
            steps: 18_500,
            batch: 32,
            learning_rate: 1.2e-3,
            warmup: 100,
            decay_share: 0.3,
            caption_dropout: 0.1,
            ema_decay: 0.999,
            guidance_steps: 800,
            guidance_learning_rate: 5e-4,
            // The paper draws its guidance from 2 to 5; 1 is the plain conditional prediction.
            guidance_range: (1.0, 5.0),
            warm_start: false,
        }
    }
}

/// What a finished training is worth.
#[derive(Debug, Clone, Serialize)]
pub struct Outputs {
    pub weights: PathBuf,
    /// Mean squared error of the velocity before guidance is distilled, on training scenes under noise that training
    /// did not draw and on validation scenes, `n_images` of each.
    pub training_loss: f64,
    pub validation_loss: f64,
    /// The same of the finished network on validation scenes at guidance 1: what guidance has cost.
    pub finished_loss: f64,
    /// Relative error of the embedded guidance against v₀ + g (v − v₀) at the middle of the range, on validation scenes.
    pub guidance_error: f64,
    pub n_images: usize,
}

/// Names of the files of one training.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    /// Weights in the pipeline's folder that it begins with; without them it begins anew.
    pub start: Option<&'static str>,
    /// Weights in the pipeline's folder that it writes.
    pub weights: &'static str,
    /// Training states of flow matching and of guidance, below `runs/<name>/bootstrap`.
    pub checkpoints: [&'static str; 2],
}

/// The files of the training that begins anew.
pub const FILES: Files =
    Files { start: None, weights: "denoiser.safetensors", checkpoints: ["denoiser.safetensors", "guidance.safetensors"] };

/// Location of the logit-normal distribution of times for `n_tokens` image tokens: Flux's shift, so that training and
/// sampling spend their time in the same place (Esser et al. 2024, eq. 19 and 23).
fn time_location(n_tokens: usize) -> f64 {
    shift_at(n_tokens)
}

/// Share of the guidance updates over which the learning rate falls: nearly all, the network being trained already.
const GUIDANCE_DECAY_SHARE: f64 = 0.8;
/// First draw number of noise and time for guidance; flow matching counts its epochs from 0.
const GUIDANCE_DRAWS: u64 = 1_000_000;
/// Draw number of the measurement on training scenes: noise that neither training saw.
const MEASURING_DRAW: u64 = 2_000_000;
/// Images a finished training is measured on.
const MEASURED_IMAGES: u64 = 256;
/// Image tokens measured at a time: all images at 64 px, and as much memory at any other resolution.
const MEASURED_TOKENS: usize = 256 * 64;

/// A batch ready for one update.
struct Batch {
    input: DenoiserInput,
    text: Tensor,
    /// noise − latents, `[B, N, C]`.
    target: Tensor,
}

/// Which of the two trainings a task runs.
enum Phase {
    Flow,
    /// With the frozen result of the first training.
    Guidance(Box<Flux>),
}

struct DenoiserTask<'a> {
    config: &'a Config,
    phase: Phase,
    seed: u64,
    frozen: &'a Frozen,
    network: Flux,
    average: WeightAverage,
    optimiser: AdamW,
    cache: &'a mut BTreeMap<u64, Example>,
    empty: Example,
}

impl<'a> DenoiserTask<'a> {
    fn new(
        config: &'a Config,
        phase: Phase,
        seed: u64,
        frozen: &'a Frozen,
        network: Flux,
        cache: &'a mut BTreeMap<u64, Example>,
    ) -> Result<Self> {
        let rate = if matches!(phase, Phase::Flow) { config.learning_rate } else { config.guidance_learning_rate };
        let optimiser = AdamW::new(AdamWConfig { learning_rate: rate, weight_decay: 0.0, ..AdamWConfig::default() });
        let blank = image::RgbImage::new(config.resolution, config.resolution);
        let empty = frozen.examples(config, &[(String::new(), blank)])?.remove(0);
        let average = WeightAverage::new(&network, config.ema_decay)?;
        Ok(Self { config, phase, seed, frozen, network, average, optimiser, cache, empty })
    }

    /// Scenes `first..` of a split, with noise and time drawn by `draw`.
    fn batch(&mut self, split: Split, purpose: &str, items: &[u64], draw: u64) -> Result<Batch> {
        let key = |item, purpose| rng::Key { seed: self.seed, purpose, item, draw: 0 };
        let missing: Vec<u64> = items.iter().copied().filter(|item| split == Split::Val || !self.cache.contains_key(item)).collect();
        let scene = |item: &u64| {
            let chosen = rng::uniform(&mut rng::stream(rng::Key { draw: 1, ..key(*item, purpose) })) < self.config.two_objects;
            let (prompt, scene) = match split {
                Split::Train if chosen => sample_two_objects(split, key(*item, purpose)),
                _ => sample_any(split, key(*item, purpose)),
            };
            (prompt, render(&scene, self.config.resolution))
        };
        let pairs: Vec<_> = missing.par_iter().map(scene).collect();
        let made = if pairs.is_empty() { Vec::new() } else { self.frozen.examples(self.config, &pairs)? };
        let mut fresh: BTreeMap<u64, Example> = missing.into_iter().zip(made).collect();
        if split == Split::Train {
            self.cache.append(&mut fresh);
        }
        let channels = self.network.config.in_channels;
        let location = time_location(self.n_tokens());
        let (mut text, mut pooled, mut latents, mut target, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for item in items {
            let example =
                fresh.get(item).or_else(|| self.cache.get(item)).ok_or_else(|| Error::Invalid(format!("scene {item} was not made")))?;
            let mut stream = rng::stream(rng::Key { seed: self.seed, purpose: "flow", item: *item, draw });
            // Guidance of the empty prompt is that prompt's own velocity, whatever the scale: the network must keep it.
            let dropped = split == Split::Train && rng::uniform(&mut stream) < self.config.caption_dropout;
            let caption = if dropped { &self.empty } else { example };
            text.extend_from_slice(&caption.text);
            pooled.extend_from_slice(&caption.pooled);
            let time = 1.0 / (1.0 + (-(location + f64::from(rng::normal(&mut stream, 1)[0]))).exp());
            times.push(time as f32);
            let noise = rng::normal(&mut stream, example.latents.len());
            latents.extend(example.latents.iter().zip(&noise).map(|(&x, &e)| (1.0 - time as f32) * x + time as f32 * e));
            target.extend(example.latents.iter().zip(&noise).map(|(&x, &e)| e - x));
        }
        let b = items.len();
        let shape = (b, latents.len() / b / channels, channels);
        let text_shape = (b, self.config.token_length, self.network.config.context_in_dim);
        let input = DenoiserInput {
            latents: Tensor::from_vec(latents, shape, &Device::Cpu)?,
            time: Tensor::from_vec(times, b, &Device::Cpu)?,
            guidance: Tensor::ones(b, DType::F32, &Device::Cpu)?,
            pooled: Tensor::from_vec(pooled, (b, self.network.config.vec_in_dim), &Device::Cpu)?,
            text_mask: None,
        };
        Ok(Batch { input, text: Tensor::from_vec(text, text_shape, &Device::Cpu)?, target: Tensor::from_vec(target, shape, &Device::Cpu)? })
    }

    /// Number of image tokens.
    fn n_tokens(&self) -> usize {
        self.empty.latents.len() / self.network.config.in_channels
    }

    fn training_items(&self, step: u64) -> (Vec<u64>, u64) {
        let b = self.config.batch as u64;
        let at = step * b;
        ((at..at + b).map(|i| i % self.config.scenes).collect(), at / self.config.scenes)
    }

    fn averaged(&self) -> Result<Flux> {
        let mut network = self.network.clone();
        network.assign(&self.average.tensors()?)?;
        Ok(network)
    }
}

impl Task for DenoiserTask<'_> {
    fn name(&self) -> &str {
        match self.phase {
            Phase::Flow => "denoiser",
            Phase::Guidance(_) => "guidance",
        }
    }

    fn step(&mut self, step: u64) -> Result<f64> {
        let (items, epoch) = self.training_items(step);
        let (draw, steps, warmup, decay_share) = match self.phase {
            Phase::Flow => (epoch, self.config.steps, self.config.warmup, self.config.decay_share),
            Phase::Guidance(_) => (GUIDANCE_DRAWS + epoch, self.config.guidance_steps, self.config.warmup / 4, GUIDANCE_DECAY_SHARE),
        };
        let mut batch = self.batch(Split::Train, "denoiser", &items, draw)?;
        // The first training draws scales too, and learns to ignore them: so the second starts from a network that is
        // whole at every scale, and has only the difference to learn.
        let (low, high) = self.config.guidance_range;
        let mut stream = rng::stream(rng::Key { seed: self.seed, purpose: "guidance", item: step, draw: 0 });
        let scales: Vec<f32> = items.iter().map(|_| (low + (high - low) * rng::uniform(&mut stream)) as f32).collect();
        batch.input.guidance = Tensor::from_vec(scales, items.len(), &Device::Cpu)?;
        if let Phase::Guidance(frozen) = &self.phase {
            batch.target = guided(frozen, &batch, &self.empty, &batch.input.guidance)?;
        }
        let (velocity, saved) = self.network.forward(&batch.input, &batch.text)?;
        let (loss, d_velocity) = mean_squared_error(&velocity, &batch.target)?;
        let mut gradients = Gradients::collect();
        self.network.vjp(saved, &d_velocity, &mut gradients)?;
        self.optimiser.update(&mut self.network, &gradients.into_map(), warmup_constant_decay(step, warmup, steps, decay_share))?;
        self.average.update(&self.network, step)?;
        Ok(loss)
    }

    fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW) {
        (&mut self.network, &mut self.optimiser)
    }

    fn average(&mut self) -> Option<&mut WeightAverage> {
        Some(&mut self.average)
    }
}

/// Trains (or resumes) both phases and writes the weights into the pipeline's folder as f16.
pub fn run(config: &Config, names: Files, context: &RunContext) -> Result<Outputs> {
    let path = context.pipeline.join(names.weights);
    let frozen = Frozen::load(config, context)?;
    let mut network = Flux::new(&FluxConfig::preset(&config.preset)?, &Weights::initial(context.seed, DType::F32, &Device::Cpu))?;
    if let Some(start) = if config.warm_start { Some(names.weights) } else { names.start } {
        let start = context.pipeline.join(start);
        let weights = read_safetensors(&start, &Device::Cpu)?.into_iter().map(|(name, value)| Ok((name, value.to_dtype(DType::F32)?)));
        let misfit = |error| Error::format("start of this denoiser", &start, format!("{error}; its preset is `{}`", config.preset));
        network.assign(&weights.collect::<Result<_>>()?).map_err(misfit)?;
    }
    let folder = context.runs.join("bootstrap");
    let [flow_state, guidance_state] = names.checkpoints.map(|name| folder.join(name));
    let mut cache = BTreeMap::new();
    let mut flow = DenoiserTask::new(config, Phase::Flow, context.seed, &frozen, network, &mut cache)?;
    train(&mut flow, config.steps, &flow_state, Duration::from_secs(60))?;
    let plain = flow.averaged()?;

    let phase = Phase::Guidance(Box::new(plain.clone()));
    let mut guidance = DenoiserTask::new(config, phase, context.seed, &frozen, plain.clone(), &mut cache)?;
    train(&mut guidance, config.guidance_steps, &guidance_state, Duration::from_secs(60))?;
    let finished = guidance.averaged()?;
    write_safetensors(&path, &finished.named(), DType::F16)?;
    measure(&mut guidance, &plain, &finished, path)
}

/// What both phases are worth: `plain` is the result of the first, `finished` that of `task`, the second.
fn measure(task: &mut DenoiserTask, plain: &Flux, finished: &Flux, weights: PathBuf) -> Result<Outputs> {
    let loss = |network: &Flux, batch: &Batch| -> Result<f64> {
        Ok(mean_squared_error(&network.velocity(&batch.input, &batch.text)?, &batch.target)?.0)
    };
    let middle = (task.config.guidance_range.0 + task.config.guidance_range.1) / 2.0;
    let items: Vec<u64> = (0..MEASURED_IMAGES).collect();
    let [mut training, mut validation, mut after, mut error, mut size] = [0.0; 5];
    for items in items.chunks((MEASURED_TOKENS / task.n_tokens()).max(1)) {
        let share = items.len() as f64 / MEASURED_IMAGES as f64;
        let seen = task.batch(Split::Train, "denoiser", items, MEASURING_DRAW)?;
        let mut held_out = task.batch(Split::Val, "denoiser validation", items, 0)?;
        training += share * loss(plain, &seen)?;
        validation += share * loss(plain, &held_out)?;
        after += share * loss(finished, &held_out)?;
        held_out.input.guidance = (Tensor::ones(items.len(), DType::F32, &Device::Cpu)? * middle)?;
        held_out.target = guided(plain, &held_out, &task.empty, &held_out.input.guidance)?;
        error += share * loss(finished, &held_out)?;
        size += share * mean_squared_error(&held_out.target, &held_out.target.zeros_like()?)?.0;
    }
    let guidance_error = (error / size).sqrt();
    Ok(Outputs {
        weights,
        training_loss: training,
        validation_loss: validation,
        finished_loss: after,
        guidance_error,
        n_images: items.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_where_flux_puts_them_for_as_many_tokens() {
        // Linear between 0.5 at 256 and 1.15 at 4,096 tokens; 64 px are 64 tokens, exactly as trainings so far had it.
        assert_eq!(time_location(64), 0.4675);
        for (n_tokens, location) in [(256, 0.5), (2_176, 0.825), (4_096, 1.15)] {
            assert!((time_location(n_tokens) - location).abs() < 1e-12, "{n_tokens}");
        }
    }
}
