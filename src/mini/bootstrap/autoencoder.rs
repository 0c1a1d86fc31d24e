//! Trains the miniature world's autoencoder on rendered scenes and whitens its latents, in two phases: the whole network on plain
//! scenes, then the decoder alone on all of them. What the encoder learns of patterns and edges makes its latents rougher, and a
//! denoiser learns rough latents less well; the decoder has to know them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::trainer::{Task, VarSet, train, warmup_cosine};
use crate::error::{Error, Result};
use crate::mini::grammar::sample_any;
use crate::mini::looks::Attribute;
use crate::mini::render::render;
use crate::mini::scene::{Kind, Scene, Split};
use crate::models::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::models::images::{contact_sheet, to_images, to_tensor};
use crate::models::weights::{Weights, read_safetensors, write_safetensors};
use crate::nn::optim::{AdamW, AdamWConfig};
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::{files, rng};

/// How the autoencoder is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Size of the network, see [`AutoencoderConfig::preset`].
    pub preset: String,
    /// Updates of the whole network on plain scenes; a warm start leaves them out, so that latents made before stay valid.
    pub plain_steps: u64,
    /// Updates of the decoder on all scenes.
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    /// Standard deviation of the noise on the latents: the decoder must stand the denoiser's small errors.
    pub latent_noise: f64,
    /// Weight of the penalty on latent channels whose mean is not 0 or whose variance is not 1.
    pub latent_penalty: f64,
    /// Start from the weights that are already in the pipeline's folder, and train the decoder only.
    pub warm_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            preset: "mini".into(),
            // On plain scenes 25.6 dB after 1,400 steps of four images, 29.0 dB after 3,000; on all scenes 26.4 dB before the decoder
            // is trained, 29.7 dB after.
            plain_steps: 3000,
            steps: 3000,
            batch: 4,
            learning_rate: 2e-3,
            warmup: 50,
            latent_noise: 0.05,
            latent_penalty: 0.01,
            warm_start: false,
        }
    }
}

/// What a finished training is worth, on scenes it never saw.
#[derive(Debug, Clone, Serialize)]
pub struct Outputs {
    pub weights: PathBuf,
    /// Truth above reconstruction.
    pub sheet: PathBuf,
    /// Peak signal-to-noise ratio of the reconstruction in dB over 8-bit images.
    pub psnr: f64,
    /// Number of images the ratio was measured on.
    pub n_images: usize,
}

/// Images the whitening is measured on: the standard error of a channel's variance is then far below 1 %.
const WHITENING_IMAGES: u64 = 512;
/// Images the reconstruction is measured on.
const VALIDATION_IMAGES: u64 = 128;
/// Images encoded at a time outside training.
const CHUNK: u64 = 32;

/// What is trained, and on which scenes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The whole network on objects of one even colour each, none before another.
    Plain,
    /// The decoder on all scenes.
    Decoder,
}

/// Renders scenes `first..first + count` of the stream `purpose` at 64 px.
fn pictures(seed: u64, purpose: &str, split: Split, phase: Phase, first: u64, count: u64) -> Vec<RgbImage> {
    let scene = |item| {
        let key = rng::Key { seed, purpose, item, draw: 0 };
        match phase {
            Phase::Plain => {
                let rng = &mut rng::stream(key);
                let kind = *rng::pick(rng, &[Kind::Single, Kind::Pair, Kind::Spatial, Kind::Count, Kind::Sign]);
                Scene::sample_kind(rng, kind, split, Attribute::Colour)
            }
            Phase::Decoder => sample_any(split, key).1,
        }
    };
    (first..first + count).map(|item| render(&scene(item), 64)).collect()
}

struct AutoencoderTask {
    config: Config,
    phase: Phase,
    seed: u64,
    network: Autoencoder,
    /// All weights, and those that are trained.
    vars: VarSet,
    trained: VarSet,
    optimiser: AdamW,
}

impl AutoencoderTask {
    fn new(config: &Config, phase: Phase, seed: u64, start: BTreeMap<String, Tensor>) -> Result<Self> {
        let weights = Weights::trainable(seed, start, DType::F32, &Device::Cpu);
        let network = Autoencoder::new(&AutoencoderConfig::preset(&config.preset)?, &weights)?;
        let optimiser = AdamW::new(AdamWConfig {
            learning_rate: config.learning_rate,
            // Few steps: a shorter memory of the second moment follows the fast start.
            beta2: 0.99,
            weight_decay: 0.0,
            ..AdamWConfig::default()
        });
        let trained = weights.vars().into_iter().filter(|(name, _)| phase == Phase::Plain || name.starts_with("decoder.")).collect();
        let (vars, trained) = (VarSet::new(weights.vars()), VarSet::new(trained));
        Ok(Self { config: config.clone(), phase, seed, network, vars, trained, optimiser })
    }

    /// Loss of images `[B, 3, H, W]` in [-1, 1]: L1 + L2 of the reconstruction from noisy latents, plus the latent penalty.
    fn loss(&self, images: &Tensor, step: u64) -> Result<Tensor> {
        let latents = self.network.encode(images)?;
        // Cut from the graph, a frozen encoder costs no backward pass.
        let latents = if self.phase == Phase::Decoder { latents.detach() } else { latents };
        let key = rng::Key { seed: self.seed, purpose: "autoencoder latent noise", item: step, draw: 0 };
        let noise = Tensor::from_vec(rng::normal(&mut rng::stream(key), latents.elem_count()), latents.shape(), &Device::Cpu)?;
        let difference = (self.network.decode(&(&latents + (noise * self.config.latent_noise)?)?)? - images)?;
        let reconstruction = (difference.abs()?.mean_all()? + difference.sqr()?.mean_all()?)?;
        if self.phase == Phase::Decoder {
            return Ok(reconstruction);
        }
        let by_channel = latents.transpose(0, 1)?.flatten_from(1)?;
        let mean = by_channel.mean_keepdim(1)?;
        let variance = by_channel.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)?;
        let penalty = (mean.sqr()?.mean_all()? + (variance - 1.0)?.sqr()?.mean_all()?)?;
        Ok((reconstruction + (penalty * self.config.latent_penalty)?)?)
    }
}

impl Task for AutoencoderTask {
    fn name(&self) -> &str {
        match self.phase {
            Phase::Plain => "autoencoder",
            Phase::Decoder => "decoder",
        }
    }

    fn step(&mut self, step: u64) -> Result<f64> {
        let batch = self.config.batch as u64;
        let images = to_tensor(&pictures(self.seed, "autoencoder scene", Split::Train, self.phase, step * batch, batch))?;
        let loss = self.loss(&images, step)?;
        let gradients = self.trained.gradients(&loss.backward()?)?;
        let steps = if self.phase == Phase::Plain { self.config.plain_steps } else { self.config.steps };
        let factor = warmup_cosine(step, self.config.warmup, steps, 0.02);
        self.optimiser.update(&mut self.trained, &gradients, factor)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW) {
        (&mut self.vars, &mut self.optimiser)
    }
}

/// Mean and standard deviation of every latent channel over renders.
fn latent_statistics(network: &Autoencoder, seed: u64) -> Result<(Vec<f64>, Vec<f64>)> {
    let channels = network.config().latent_channels;
    let (mut sums, mut squares, mut count) = (vec![0.0; channels], vec![0.0; channels], 0.0);
    for first in (0..WHITENING_IMAGES).step_by(CHUNK as usize) {
        let latents = network.encode(&to_tensor(&pictures(seed, "autoencoder whitening", Split::Train, Phase::Decoder, first, CHUNK))?)?;
        for (channel, values) in latents.transpose(0, 1)?.flatten_from(1)?.to_vec2::<f32>()?.into_iter().enumerate() {
            sums[channel] += values.iter().map(|&v| f64::from(v)).sum::<f64>();
            squares[channel] += values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        }
        count += latents.elem_count() as f64 / channels as f64;
    }
    let mean: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
    let std = squares.iter().zip(&mean).map(|(square, mean)| (square / count - mean * mean).sqrt()).collect();
    Ok((mean, std))
}

/// Rewrites the last layer of the encoder and the first of the decoder so that every latent channel has mean 0 and
/// standard deviation 1. Images come out as before, except for the zero padding of a mean that was not 0.
fn whiten(weights: &mut BTreeMap<String, Tensor>, mean: &[f64], std: &[f64]) -> Result<()> {
    let n = mean.len();
    let column = |values: &[f64]| column_of(values, 1.0, n);
    // The second half of the encoder's output, the variance, stays as it is.
    let padded = |values: &[f64], rest: f64| column_of(values, rest, 2 * n);
    let inverse: Vec<f64> = std.iter().map(|s| 1.0 / s).collect();
    let replace = |weights: &mut BTreeMap<String, Tensor>, name: &str, change: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<()> {
        let changed = change(&weights[name])?;
        weights.insert(name.into(), changed);
        Ok(())
    };
    replace(weights, "encoder.conv_out.weight", &|w| Ok(w.broadcast_mul(&padded(&inverse, 1.0)?.reshape((2 * n, 1, 1, 1))?)?))?;
    replace(weights, "encoder.conv_out.bias", &|b| Ok((b - padded(mean, 0.0)?)?.mul(&padded(&inverse, 1.0)?)?))?;
    let first = weights["decoder.conv_in.weight"].clone();
    let shift = first.broadcast_mul(&column(mean)?.reshape((1, n, 1, 1))?)?.sum((1, 2, 3))?;
    replace(weights, "decoder.conv_in.bias", &|b| Ok((b + &shift)?))?;
    replace(weights, "decoder.conv_in.weight", &|w| Ok(w.broadcast_mul(&column(std)?.reshape((1, n, 1, 1))?)?))
}

/// `values` followed by `rest` up to `n` numbers, f32.
fn column_of(values: &[f64], rest: f64, n: usize) -> Result<Tensor> {
    let values: Vec<f32> = values.iter().copied().chain(std::iter::repeat(rest)).take(n).map(|v| v as f32).collect();
    Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
}

/// Ratio in dB of the squared peak (255) to the mean squared difference of two series of 8-bit images.
fn psnr(truth: &[RgbImage], found: &[RgbImage]) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for (a, b) in truth.iter().zip(found) {
        for (&a, &b) in a.as_raw().iter().zip(b.as_raw()) {
            sum += (f64::from(a) - f64::from(b)).powi(2);
            count += 1.0;
        }
    }
    10.0 * (255.0f64.powi(2) * count / sum).log10()
}

/// Reconstructs validation scenes; returns truth and reconstruction.
fn reconstruct(network: &Autoencoder, seed: u64) -> Result<(Vec<RgbImage>, Vec<RgbImage>)> {
    let (mut truth, mut found) = (Vec::new(), Vec::new());
    for first in (0..VALIDATION_IMAGES).step_by(CHUNK as usize) {
        let images = pictures(seed, "autoencoder validation", Split::Val, Phase::Decoder, first, CHUNK);
        found.extend(to_images(&network.decode(&network.encode(&to_tensor(&images)?)?)?)?);
        truth.extend(images);
    }
    Ok((truth, found))
}

/// The weights after the first phase, latents whitened over all scenes.
fn train_plain(config: &Config, context: &RunContext) -> Result<BTreeMap<String, Tensor>> {
    let mut task = AutoencoderTask::new(config, Phase::Plain, context.seed, BTreeMap::new())?;
    train(&mut task, config.plain_steps, &context.runs.join("bootstrap/autoencoder-plain.safetensors"), Duration::from_secs(60))?;
    let mut weights = task.vars.snapshot()?;
    let (mean, std) = latent_statistics(&task.network, context.seed)?;
    whiten(&mut weights, &mean, &std)?;
    Ok(weights)
}

/// Trains (or resumes), writes `autoencoder.safetensors` into the pipeline's folder as f16 and measures it.
pub fn run(config: &Config, context: &RunContext) -> Result<Outputs> {
    let folder = context.runs.join("bootstrap");
    let path = context.pipeline.join("autoencoder.safetensors");
    let start = if config.warm_start { read_safetensors(&path, &Device::Cpu)? } else { train_plain(config, context)? };
    let mut task = AutoencoderTask::new(config, Phase::Decoder, context.seed, start)?;
    train(&mut task, config.steps, &folder.join("autoencoder.safetensors"), Duration::from_secs(60))?;
    write_safetensors(&path, &task.vars.snapshot()?, DType::F16)?;

    let written = Weights::load(&path, DType::F32, &Device::Cpu)?;
    let network = Autoencoder::new(&AutoencoderConfig::preset(&config.preset)?, &written)?;
    written.finish()?;
    let (truth, found) = reconstruct(&network, context.seed)?;
    let sheet = folder.join("autoencoder.png");
    files::create_dir(&folder)?;
    let shown = |images: &[RgbImage], row: usize| images[row * 16..(row + 1) * 16].to_vec();
    let rows: Vec<Vec<RgbImage>> = (0..4).flat_map(|row| [shown(&truth, row), shown(&found, row)]).collect();
    save_png(&contact_sheet(&rows)?, &sheet)?;
    Ok(Outputs { weights: path, sheet, psnr: psnr(&truth, &found), n_images: truth.len() })
}

fn save_png(image: &RgbImage, path: &std::path::Path) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let encoded = image.write_to(&mut bytes, image::ImageFormat::Png);
    encoded.map_err(|error| Error::format("PNG", path, error))?;
    files::write_bytes(path, bytes.get_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitening_gives_unit_latents_and_keeps_the_image_away_from_the_border() {
        let config = AutoencoderConfig::preset("smoke").unwrap();
        let trained = Weights::trainable(1, BTreeMap::new(), DType::F32, &Device::Cpu);
        let before = Autoencoder::new(&config, &trained).unwrap();
        let (mean, std) = latent_statistics(&before, 1).unwrap();
        let mut weights = VarSet::new(trained.vars()).snapshot().unwrap();
        whiten(&mut weights, &mean, &std).unwrap();
        let loaded = Weights::from_tensors(weights, std::path::Path::new("memory"), DType::F32, &Device::Cpu);
        let after = Autoencoder::new(&config, &loaded).unwrap();
        let (mean, std) = latent_statistics(&after, 1).unwrap();
        assert!(mean.iter().all(|m| m.abs() < 1e-3) && std.iter().all(|s| (s - 1.0).abs() < 1e-3), "{mean:?} {std:?}");
    }

    #[test]
    fn a_difference_of_one_level_everywhere_is_48_db() {
        let (a, b) = (RgbImage::from_pixel(4, 4, image::Rgb([10; 3])), RgbImage::from_pixel(4, 4, image::Rgb([11; 3])));
        assert!((psnr(&[a], &[b]) - 48.13).abs() < 0.01);
    }

    #[test]
    fn the_loss_falls_within_a_few_steps() {
        let config = Config { preset: "smoke".into(), plain_steps: 20, batch: 2, warmup: 5, ..Config::default() };
        let mut task = AutoencoderTask::new(&config, Phase::Plain, 1, BTreeMap::new()).unwrap();
        let losses: Vec<f64> = (0..20).map(|step| task.step(step).unwrap()).collect();
        assert!(losses[19] < 0.7 * losses[0], "{losses:?}");
    }

    #[test]
    fn training_the_decoder_only_leaves_the_encoder_as_it_is() {
        let config = Config { preset: "smoke".into(), batch: 1, ..Config::default() };
        let mut task = AutoencoderTask::new(&config, Phase::Decoder, 1, BTreeMap::new()).unwrap();
        let before = task.vars.snapshot().unwrap();
        task.step(0).unwrap();
        for (name, tensor) in task.vars.snapshot().unwrap() {
            let moved = (tensor - &before[&name]).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() > 0.0;
            assert_eq!(moved, name.starts_with("decoder."), "{name}");
        }
    }
}
