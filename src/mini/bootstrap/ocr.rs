//! Trains the two networks of the text reader on rendered signs and writes them as ONNX. At least a third of the words are
//! random letters, so that the recogniser reads letters instead of guessing words.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::reader::bce;
use super::signs::{SIDE, Sample, Scenes, WIDTH_STEP, cut_line, line_box, mask, sample};
use super::trainer::{Task, VarSet, train, warmup_cosine};
use crate::error::{Error, Result};
use crate::mini::looks::Attribute;
use crate::mini::render::render;
use crate::mini::scene::{Kind, Scene, Split};
use crate::mini::words::{seen_sign_words, unseen_sign_words};
use crate::models::TextReader;
use crate::models::ocr::OcrsReader;
use crate::models::ocr::detection::{self, Detection};
use crate::models::ocr::recognition::{self, Recognition};
use crate::models::weights::Weights;
use crate::nn::optim::{AdamW, AdamWConfig};
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::files;
use crate::run::rng::{self, below, pick};

/// How the two networks are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub detection_steps: u64,
    pub detection_batch: usize,
    pub recognition_steps: u64,
    pub recognition_batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    /// Share of random letter strings among the words.
    pub random_share: f64,
    /// Scenes per part (seen, unseen) on which the ceiling is measured.
    pub ceiling_scenes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Signs are easily told from objects: more steps change the boxes by fractions of a pixel.
            detection_steps: 700,
            detection_batch: 8,
            recognition_steps: 1500,
            recognition_batch: 16,
            learning_rate: 2e-3,
            warmup: 50,
            // The seen words alone hold every letter in few places only.
            random_share: 0.6,
            ceiling_scenes: 200,
        }
    }
}

/// The written files and what they are worth on clean renders.
#[derive(Debug, Clone, Serialize)]
pub struct Outputs {
    pub detection: PathBuf,
    pub recognition: PathBuf,
    /// Share of signs with a seen word that are read exactly.
    pub seen_words: f64,
    /// The same with words that training never shows.
    pub unseen_words: f64,
    /// Share of pictures without sign in which nothing is read.
    pub silent_without_sign: f64,
    pub n_scenes: u64,
}

enum Network {
    Detection(Detection),
    Recognition(Recognition),
}

struct OcrTask {
    config: Config,
    seed: u64,
    network: Network,
    vars: VarSet,
    optimiser: AdamW,
}

impl OcrTask {
    fn new(config: &Config, seed: u64, make: impl FnOnce(&Weights) -> Result<Network>) -> Result<Self> {
        let weights = Weights::trainable(seed, BTreeMap::new(), DType::F32, &Device::Cpu);
        let network = make(&weights)?;
        let settings =
            AdamWConfig { learning_rate: config.learning_rate, weight_decay: 1e-2, max_gradient_norm: 5.0, ..Default::default() };
        Ok(Self { config: config.clone(), seed, network, vars: VarSet::new(weights.vars()), optimiser: AdamW::new(settings) })
    }

    fn sample(&self, purpose: &str, item: u64, scenes: Scenes) -> Sample {
        sample(rng::Key { seed: self.seed, purpose, item, draw: 0 }, self.config.random_share, scenes)
    }

    /// Value of the loss, and a tensor with its gradient.
    fn loss(&self, step: u64) -> Result<(f64, Tensor)> {
        match &self.network {
            Network::Detection(network) => self.detection_loss(network, step),
            Network::Recognition(network) => self.recognition_loss(network, step),
        }
    }

    fn detection_loss(&self, network: &Detection, step: u64) -> Result<(f64, Tensor)> {
        let batch = self.config.detection_batch;
        let first = step * batch as u64;
        let samples = (first..first + batch as u64).map(|item| self.sample("word detection", item, Scenes::Mixed));
        let (mut images, mut masks) = (Vec::new(), Vec::new());
        for sample in samples {
            masks.extend(mask(&sample));
            images.extend(sample.grey);
        }
        let half = detection::SIDE / detection::STRIDE;
        let images = Tensor::from_vec(images, (batch, detection::SIDE, detection::SIDE, 1), &Device::Cpu)?;
        let masks = Tensor::from_vec(masks, (batch, half, half, 1), &Device::Cpu)?;
        let loss = bce(&network.forward(&images)?, &masks)?.mean_all()?;
        Ok((f64::from(loss.to_scalar::<f32>()?), loss))
    }

    fn recognition_loss(&self, network: &Recognition, step: u64) -> Result<(f64, Tensor)> {
        let batch = self.config.recognition_batch;
        let first = step * batch as u64;
        let (mut lines, mut labels) = (Vec::new(), Vec::new());
        for item in first..first + batch as u64 {
            let sample = self.sample("word recognition", item, Scenes::Signs);
            let rng = &mut rng::stream(rng::Key { seed: self.seed, purpose: "word box", item, draw: 0 });
            let (classes, bounds, slope) = line_box(&sample, rng)?;
            lines.push(cut_line(&sample.grey, detection::SIDE, bounds, slope));
            labels.push(classes);
        }
        let width = lines.iter().map(|(_, width)| width.next_multiple_of(WIDTH_STEP)).max().unwrap_or(WIDTH_STEP);
        let mut padded = Vec::with_capacity(batch * recognition::HEIGHT * width);
        for (line, own) in &lines {
            for row in line.chunks_exact(*own) {
                padded.extend_from_slice(row);
                padded.extend(std::iter::repeat_n(-0.5, width - own));
            }
        }
        let padded = Tensor::from_vec(padded, (batch, recognition::HEIGHT, width, 1), &Device::Cpu)?;
        Recognition::loss(&network.forward(&padded)?, &labels)
    }
}

impl Task for OcrTask {
    fn name(&self) -> &str {
        match self.network {
            Network::Detection(_) => "word detection",
            Network::Recognition(_) => "word recognition",
        }
    }

    fn step(&mut self, step: u64) -> Result<f64> {
        let (value, loss) = self.loss(step)?;
        let gradients = self.vars.gradients(&loss.backward()?)?;
        let steps = match self.network {
            Network::Detection(_) => self.config.detection_steps,
            Network::Recognition(_) => self.config.recognition_steps,
        };
        self.optimiser.update(&mut self.vars, &gradients, warmup_cosine(step, self.config.warmup, steps, 0.02))?;
        Ok(value)
    }

    fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW) {
        (&mut self.vars, &mut self.optimiser)
    }
}

/// Trains (or resumes) both networks, writes `ocr-detection.onnx` and `ocr-recognition.onnx` into the pipeline's folder and
/// reads clean renders with them.
pub fn run(config: &Config, context: &RunContext) -> Result<Outputs> {
    let folder = context.runs.join("bootstrap");
    let [detection, recognition] = ["ocr-detection", "ocr-recognition"].map(|name| context.pipeline.join(name).with_extension("onnx"));
    let checkpoint = |name: &str| folder.join(name).with_extension("safetensors");

    let mut task = OcrTask::new(config, context.seed, |weights| Ok(Network::Detection(Detection::new(weights)?)))?;
    train(&mut task, config.detection_steps, &checkpoint("ocr-detection"), Duration::from_secs(60))?;
    write(&task.network, &detection)?;
    let mut task = OcrTask::new(config, context.seed, |weights| Ok(Network::Recognition(Recognition::new(weights)?)))?;
    train(&mut task, config.recognition_steps, &checkpoint("ocr-recognition"), Duration::from_secs(60))?;
    write(&task.network, &recognition)?;

    let reader = OcrsReader::load(&detection, &recognition)?;
    let n = config.ceiling_scenes;
    let seen_words = exact_share(&reader, seen_sign_words(), n, context.seed)?;
    let unseen_words = exact_share(&reader, unseen_sign_words(), n, context.seed)?;
    let silent_without_sign = silent_share(&reader, n, context.seed)?;
    Ok(Outputs { detection, recognition, seen_words, unseen_words, silent_without_sign, n_scenes: n })
}

fn write(network: &Network, path: &std::path::Path) -> Result<()> {
    let bytes = match network {
        Network::Detection(network) => network.to_onnx()?,
        Network::Recognition(network) => network.to_onnx()?,
    };
    files::write_bytes(path, &bytes)
}

/// Share of `n` clean renders with one of the `words` from which exactly that word is read.
pub fn exact_share(reader: &dyn TextReader, words: &[&str], n: u64, seed: u64) -> Result<f64> {
    let mut right = 0u64;
    for item in 0..n {
        let rng = &mut rng::stream(rng::Key { seed, purpose: "text ceiling", item, draw: 0 });
        let mut scene = Scene::sample_kind(rng, Kind::Sign, Split::Val, Attribute::Colour);
        let word = words[below(rng, words.len())];
        scene.sign_word = Some(word.to_owned());
        right += u64::from(reader.read_lines(&render(&scene, SIDE))?.join(" ") == word);
    }
    share(right, n)
}

/// Share of `n` clean renders without a sign in which nothing is read.
fn silent_share(reader: &dyn TextReader, n: u64, seed: u64) -> Result<f64> {
    let mut right = 0u64;
    for item in 0..n {
        let rng = &mut rng::stream(rng::Key { seed, purpose: "text silence", item, draw: 0 });
        let kind = *pick(rng, &[Kind::Single, Kind::Pair, Kind::Spatial, Kind::Count]);
        let scene = Scene::sample_kind(rng, kind, Split::Val, Attribute::Any);
        right += u64::from(reader.read_lines(&render(&scene, SIDE))?.is_empty());
    }
    share(right, n)
}

fn share(count: u64, of: u64) -> Result<f64> {
    if of == 0 {
        return Err(Error::Invalid("no scene to measure the text reader on".into()));
    }
    Ok(count as f64 / of as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_losses_fall_within_a_few_steps() {
        let config =
            Config { detection_steps: 20, detection_batch: 2, recognition_steps: 20, recognition_batch: 2, warmup: 3, ..Config::default() };
        let detection = OcrTask::new(&config, 1, |weights| Ok(Network::Detection(Detection::new(weights)?))).unwrap();
        let recognition = OcrTask::new(&config, 1, |weights| Ok(Network::Recognition(Recognition::new(weights)?))).unwrap();
        for mut task in [detection, recognition] {
            let losses: Vec<f64> = (0..20).map(|step| task.step(step).unwrap()).collect();
            assert!(losses[19] < 0.7 * losses[0], "{} {losses:?}", task.name());
        }
    }
}
