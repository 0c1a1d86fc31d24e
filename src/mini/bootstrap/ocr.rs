//! Trains the two networks of the text reader on rendered signs and writes them as ONNX. At least a third of the words are
//! random letters, so that the recogniser reads letters instead of guessing words.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::degrade::{Damage, Shift, degrade};
use super::reader::bce;
use super::trainer::{Task, VarSet, train, warmup_cosine};
use crate::error::{Error, Result};
use crate::mini::render::render;
use crate::mini::scene::{Kind, Scene, Split};
use crate::mini::words::{random_letters, seen_sign_words, unseen_sign_words};
use crate::models::TextReader;
use crate::models::ocr::detection::{self, Detection};
use crate::models::ocr::recognition::{self, Recognition};
use crate::models::ocr::{OcrsReader, enlarge, greyscale};
use crate::models::weights::Weights;
use crate::nn::optim::{AdamW, AdamWConfig};
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::files;
use crate::run::rng::{self, below, pick, uniform};

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
            detection_steps: 500,
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

const SIDE: u32 = 64;
/// Letters are thin: blur and noise stay below what would make them unreadable to the eye.
const DAMAGE: Damage = Damage { shift: 3, blur: 0.9, noise: 14.0, colour: 10.0 };
/// Widths of line images in training, as the engine pads them.
const WIDTH_STEP: usize = 52;
/// Largest error of the word box in training, in pixels of the enlarged picture.
const BOX_JITTER: f64 = 3.5;

/// A damaged picture at the size the engine sees, and where its word is.
struct Sample {
    grey: Vec<f32>,
    /// The word and the box of its ink `[x0, y0, x1, y1]`, in pixels of the enlarged picture.
    word: Option<(String, [f64; 4])>,
}

/// The smallest box of pixels in which two pictures differ: the ink of a word, when one of them lacks it.
fn difference_box(a: &RgbImage, b: &RgbImage) -> Option<[f64; 4]> {
    let mut found: Option<[u32; 4]> = None;
    for (x, y, pixel) in a.enumerate_pixels() {
        if pixel != b.get_pixel(x, y) {
            let [x0, y0, x1, y1] = found.unwrap_or([x, y, x + 1, y + 1]);
            found = Some([x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1)]);
        }
    }
    found.map(|edges| edges.map(f64::from))
}

fn sample(seed: u64, purpose: &str, item: u64, random_share: f64, only_signs: bool) -> Sample {
    let rng = &mut rng::stream(rng::Key { seed, purpose, item, draw: 0 });
    // Half of the detector's pictures have no sign: objects must not be taken for letters.
    let mut scene =
        if only_signs || uniform(rng) < 0.5 { Scene::sample_kind(rng, Kind::Sign, Split::Train) } else { Scene::sample(rng, Split::Train) };
    if scene.sign_word.is_some() {
        let word = if uniform(rng) < random_share { random_letters(rng) } else { (*pick(rng, seen_sign_words())).to_owned() };
        scene.sign_word = Some(word);
    }
    let image = render(&scene, SIDE);
    let empty = Scene { sign_word: scene.sign_word.as_ref().map(|_| String::new()), ..scene.clone() };
    let ink = difference_box(&image, &render(&empty, SIDE));
    let (damaged, Shift { x, y }) = degrade(&image, &DAMAGE, rng);
    let large = enlarge(&damaged);
    let scale = f64::from(large.width()) / f64::from(SIDE);
    let (x, y) = (x as f64, y as f64);
    let moved = ink.map(|[x0, y0, x1, y1]| [x0 + x, y0 + y, x1 + x, y1 + y].map(|edge| edge * scale));
    Sample { grey: greyscale(&large), word: scene.sign_word.zip(moved) }
}

/// 1 at the half-resolution pixels whose centre lies in the shrunken word box: `[SIDE/2 · SIDE/2]`.
fn mask(sample: &Sample) -> Vec<f32> {
    let side = detection::SIDE / detection::STRIDE;
    let mut mask = vec![0f32; side * side];
    if let Some((_, [x0, y0, x1, y1])) = sample.word {
        let inside = |i: usize, low: f64, high: f64| {
            let centre = (i as f64 + 0.5) * detection::STRIDE as f64;
            centre > low + detection::SHRINK && centre < high - detection::SHRINK
        };
        for (i, value) in mask.iter_mut().enumerate() {
            *value = f32::from(u8::from(inside(i % side, x0, x1) && inside(i / side, y0, y1)));
        }
    }
    mask
}

/// A line image as the engine cuts it: the box (whole pixels), scaled to the network's height, bilinear with half-pixel
/// centres, row by row. Returns it with its width.
fn cut_line(grey: &[f32], side: usize, bounds: [f64; 4]) -> (Vec<f32>, usize) {
    let [x0, y0, x1, y1] = bounds.map(|edge| edge.round().clamp(0.0, side as f64) as usize);
    let (width, height) = (x1.saturating_sub(x0).max(2), y1.saturating_sub(y0).max(2));
    let (x0, y0) = (x0.min(side - width), y0.min(side - height));
    let out_width = (recognition::HEIGHT * width / height).max(10);
    let source = |i: usize, out: usize, size: usize| -> (usize, usize, f32) {
        let place = ((i as f64 + 0.5) * size as f64 / out as f64 - 0.5).clamp(0.0, (size - 1) as f64);
        (place as usize, (place as usize + 1).min(size - 1), place.fract() as f32)
    };
    let mut line = Vec::with_capacity(recognition::HEIGHT * out_width);
    for row in 0..recognition::HEIGHT {
        let (top, bottom, down) = source(row, recognition::HEIGHT, height);
        for column in 0..out_width {
            let (left, right, across) = source(column, out_width, width);
            let at = |y: usize, x: usize| grey[(y0 + y) * side + x0 + x];
            let mix = |y: usize| at(y, left) * (1.0 - across) + at(y, right) * across;
            line.push(mix(top) * (1.0 - down) + mix(bottom) * down);
        }
    }
    (line, out_width)
}

/// A box around the word as a detector would give it, or (for one line in twelve) somewhere else with nothing to read.
fn line_box(sample: &Sample, rng: &mut impl Rng) -> (Vec<usize>, [f64; 4]) {
    let mut jitter = || (2.0 * uniform(rng) - 1.0) * BOX_JITTER;
    let errors = [jitter(), jitter(), jitter(), jitter()];
    match &sample.word {
        Some((word, [x0, y0, x1, y1])) if uniform(rng) < 11.0 / 12.0 => {
            let classes = recognition::classes(word).expect("sign words are of lower-case letters");
            // A box that cuts a letter off would teach guessing: inwards, errors are at most one pixel.
            (classes, [x0 + errors[0].min(1.0), y0 + errors[1].min(1.0), x1 + errors[2].max(-1.0), y1 + errors[3].max(-1.0)])
        }
        _ => {
            let side = detection::SIDE as f64;
            let (w, h) = (16.0 + 60.0 * uniform(rng), 16.0 + 16.0 * uniform(rng));
            // Below the sign stands an object.
            let (x, y) = (uniform(rng) * (side - w), 56.0 + uniform(rng) * (side - 56.0 - h));
            (Vec::new(), [x, y, x + w, y + h])
        }
    }
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
        let samples = (first..first + batch as u64).map(|item| sample(self.seed, "word detection", item, self.config.random_share, false));
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
            let sample = sample(self.seed, "word recognition", item, self.config.random_share, true);
            let rng = &mut rng::stream(rng::Key { seed: self.seed, purpose: "word box", item, draw: 0 });
            let (classes, bounds) = line_box(&sample, rng);
            lines.push(cut_line(&sample.grey, detection::SIDE, bounds));
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

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = self.optimiser.state()?;
        state.extend(self.vars.named());
        Ok(state)
    }

    fn restore(&mut self, step: u64, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.optimiser.restore(step, state)?;
        self.vars.assign(state)
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
        let mut scene = Scene::sample_kind(rng, Kind::Sign, Split::Val);
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
        let scene = Scene::sample_kind(rng, kind, Split::Val);
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
    fn the_word_box_is_found_and_its_mask_lies_inside() {
        for item in 0..40 {
            let sample = sample(1, "test", item, 0.5, true);
            let (word, [x0, y0, x1, y1]) = sample.word.clone().unwrap();
            // Letters stand 18 enlarged pixels apart.
            assert!(x1 - x0 > 18.0 * (word.len() as f64 - 1.0) && x1 - x0 <= 18.0 * word.len() as f64 + 4.0, "{word}");
            assert!(y1 - y0 > 14.0 && y1 - y0 < 34.0, "{word} {y0} {y1}");
            let marked = mask(&sample).iter().sum::<f32>() as f64 * (detection::STRIDE * detection::STRIDE) as f64;
            let expected = (x1 - x0 - 2.0 * detection::SHRINK) * (y1 - y0 - 2.0 * detection::SHRINK);
            assert!((marked / expected - 1.0).abs() < 0.35, "{marked} {expected}");
        }
    }

    #[test]
    fn a_line_of_the_networks_height_is_cut_without_change() {
        let side = 64;
        let grey: Vec<f32> = (0..side * side).map(|i| i as f32).collect();
        let (line, width) = cut_line(&grey, side, [10.0, 5.0, 30.0, 5.0 + recognition::HEIGHT as f64]);
        assert_eq!(width, 20);
        assert_eq!(line[0], (5 * side + 10) as f32);
        assert_eq!(line[width + 3], (6 * side + 13) as f32);
    }

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
