//! Trains the miniature world's CLIP on fresh pairs of render and prompt.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;
use serde::{Deserialize, Serialize};

use super::contrast::{Aspect, one_word_wrong};
use super::trainer::{Task, VarSet, train, warmup_cosine};
use crate::error::{Error, Result};
use crate::mini::grammar::sample_any;
use crate::mini::render::render;
use crate::mini::scene::Split;
use crate::models::clip::{Clip, ClipConfig};
use crate::models::images::to_tensor;
use crate::models::tokenizer::Tokenizer;
use crate::models::weights::{Weights, read_safetensors, write_safetensors};
use crate::nn::optim::{AdamW, AdamWConfig};
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::rng;

/// How CLIP is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Size of the network, see [`ClipConfig::preset`].
    pub preset: String,
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    /// Start from the weights that are already in the pipeline's folder.
    pub warm_start: bool,
    /// Train the image side only, so that a denoiser trained with the pooled text stays valid; needs a warm start.
    pub vision_only: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            preset: "mini".into(),
            // 94 % retrieval among 64 validation pairs; about a second per step on one busy core.
            steps: 800,
            batch: 64,
            learning_rate: 1e-3,
            warmup: 60,
            warm_start: false,
            vision_only: false,
        }
    }
}

/// What a finished training is worth, on validation scenes.
#[derive(Debug, Clone, Serialize)]
pub struct Outputs {
    pub weights: PathBuf,
    /// Share of images whose own prompt scores highest among the prompts of a batch.
    pub image_to_text: f64,
    /// Share of prompts whose own image scores highest among the images of a batch.
    pub text_to_image: f64,
    /// Size of these batches, and number of pairs.
    pub retrieval_batch: usize,
    pub n_pairs: usize,
    /// By class of words: share of images that score higher with their prompt than with one word of it exchanged, and
    /// the number of images whose prompt has such a word.
    pub aspects: BTreeMap<String, (f64, usize)>,
}

const VALIDATION_BATCHES: usize = 8;
const VALIDATION_BATCH: usize = 64;

/// Logarithm of the initial factor on cosines, 1/0.07 (Radford et al. 2021).
const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// Pairs of one batch.
struct Pairs {
    prompts: Vec<String>,
    /// `[B, 3, px, px]` in [-1, 1].
    images: Tensor,
}

impl Pairs {
    fn new(seed: u64, purpose: &str, split: Split, first: u64, count: usize, px: usize) -> Result<Self> {
        let (mut prompts, mut images) = (Vec::new(), Vec::new());
        for item in first..first + count as u64 {
            let (prompt, scene) = sample_any(split, rng::Key { seed, purpose, item, draw: 0 });
            prompts.push(prompt);
            images.push(render(&scene, px as u32));
        }
        Ok(Self { prompts, images: to_tensor(&images)? })
    }
}

struct ClipTask {
    config: Config,
    seed: u64,
    network: Clip,
    tokenizer: Tokenizer,
    /// All weights, and those that are trained.
    vars: VarSet,
    trained: VarSet,
    optimiser: AdamW,
}

impl ClipTask {
    fn new(config: &Config, seed: u64, tokenizer: Tokenizer, mut start: BTreeMap<String, Tensor>) -> Result<Self> {
        let sizes = ClipConfig::preset(&config.preset)?;
        if tokenizer.vocab_size() > sizes.vocab_size || tokenizer.eos_id() != sizes.end_id {
            return Err(Error::Invalid(format!(
                "CLIP has room for {} pieces and ends texts by {}, the tokenizer has {} and {}",
                sizes.vocab_size,
                sizes.end_id,
                tokenizer.vocab_size(),
                tokenizer.eos_id()
            )));
        }
        if config.vision_only && !config.warm_start {
            return Err(Error::config("`vision_only` needs `warm_start`", "train the whole CLIP first"));
        }
        if !start.contains_key("logit_scale") {
            start.insert("logit_scale".into(), Tensor::new(INITIAL_LOGIT_SCALE, &Device::Cpu)?);
        }
        let weights = Weights::trainable(seed, start, DType::F32, &Device::Cpu);
        let network = Clip::new(&sizes, &weights)?;
        let learning_rate = config.learning_rate;
        let optimiser = AdamW::new(AdamWConfig { learning_rate, beta2: 0.98, weight_decay: 0.01, ..AdamWConfig::default() });
        let is_text = |name: &str| name.starts_with("text_");
        let trained = weights.vars().into_iter().filter(|(name, _)| !config.vision_only || !is_text(name)).collect();
        let (vars, trained) = (VarSet::new(weights.vars()), VarSet::new(trained));
        Ok(Self { config: config.clone(), seed, network, tokenizer, vars, trained, optimiser })
    }

    /// Symmetric contrastive loss; from image to text the wrong prompts compete too, and equal prompts do not.
    fn loss(&self, pairs: &Pairs, step: u64) -> Result<Tensor> {
        let b = pairs.prompts.len();
        let mut texts = pairs.prompts.clone();
        for (i, prompt) in pairs.prompts.iter().enumerate() {
            let key = rng::Key { seed: self.seed, purpose: "clip wrong prompt", item: step * b as u64 + i as u64, draw: 0 };
            texts.push(one_word_wrong(prompt, &mut rng::stream(key)).unwrap_or_default());
        }
        let ids = self.tokenizer.encode(&texts, self.network.config().positions)?;
        let (text, image) = (self.network.text_embeds(&ids)?, self.network.image_embeds(&pairs.images)?);
        // Cut from the graph, a frozen text side costs no backward pass.
        let text = if self.config.vision_only { text.detach() } else { text };
        let logits = image.matmul(&text.t()?)?.broadcast_mul(&self.network.temperature()?)?;
        let twin = |i: usize, j: usize| i != j && (texts[j].is_empty() || texts[i] == texts[j]);
        let mask: Vec<f32> = (0..b * 2 * b).map(|at| if twin(at / (2 * b), at % (2 * b)) { -1e4 } else { 0.0 }).collect();
        let logits = (logits + Tensor::from_vec(mask, (b, 2 * b), &Device::Cpu)?)?;
        let own = Tensor::arange(0u32, b as u32, &Device::Cpu)?.unsqueeze(1)?;
        let chosen = |logits: &Tensor| -> Result<Tensor> { Ok(log_softmax(logits, D::Minus1)?.gather(&own, 1)?.mean_all()?) };
        let to_image = logits.narrow(1, 0, b)?.t()?.contiguous()?;
        Ok(((chosen(&logits)? + chosen(&to_image)?)? * -0.5)?)
    }
}

impl Task for ClipTask {
    fn name(&self) -> &str {
        "clip"
    }

    fn step(&mut self, step: u64) -> Result<f64> {
        let (batch, px) = (self.config.batch, self.network.config().image_size);
        let pairs = Pairs::new(self.seed, "clip scene", Split::Train, step * batch as u64, batch, px)?;
        let loss = self.loss(&pairs, step)?;
        let gradients = self.trained.gradients(&loss.backward()?)?;
        let factor = warmup_cosine(step, self.config.warmup, self.config.steps, 0.01);
        self.optimiser.update(&mut self.trained, &gradients, factor)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW) {
        (&mut self.vars, &mut self.optimiser)
    }
}

/// Index of the largest number of each row.
fn best(rows: &[Vec<f32>]) -> Vec<usize> {
    rows.iter().map(|row| (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })).collect()
}

/// Measures a network on validation scenes.
fn measure(network: &Clip, tokenizer: &Tokenizer, seed: u64, weights: PathBuf) -> Result<Outputs> {
    let sizes = network.config();
    let (mut to_text, mut to_image) = (0, 0);
    let mut aspects: BTreeMap<Aspect, (usize, usize)> = BTreeMap::new();
    for batch in 0..VALIDATION_BATCHES {
        let first = (batch * VALIDATION_BATCH) as u64;
        let pairs = Pairs::new(seed, "clip validation", Split::Val, first, VALIDATION_BATCH, sizes.image_size)?;
        let embed = |texts: &[String]| network.text_embeds(&tokenizer.encode(texts, sizes.positions)?);
        let (text, image) = (embed(&pairs.prompts)?, network.image_embeds(&pairs.images)?);
        let cosines = image.matmul(&text.t()?)?;
        let same = |i: usize, j: usize| pairs.prompts[i] == pairs.prompts[j];
        to_text += best(&cosines.to_vec2()?).into_iter().enumerate().filter(|&(i, j)| same(i, j)).count();
        to_image += best(&cosines.t()?.to_vec2()?).into_iter().enumerate().filter(|&(i, j)| same(i, j)).count();
        for aspect in Aspect::ALL {
            let mut rows = Vec::new();
            let mut wrong = Vec::new();
            for (row, prompt) in pairs.prompts.iter().enumerate() {
                let key = rng::Key { seed, purpose: aspect.name(), item: first + row as u64, draw: 0 };
                if let Some(prompt) = aspect.exchange(prompt, &mut rng::stream(key)) {
                    rows.push(row as u32);
                    wrong.push(prompt);
                }
            }
            if rows.is_empty() {
                continue;
            }
            let rows = Tensor::new(rows, &Device::Cpu)?;
            let image = image.index_select(&rows, 0)?;
            let score = |text: &Tensor| -> Result<Vec<f32>> { Ok((&image * text)?.sum(1)?.to_vec1()?) };
            let (right, wrong) = (score(&text.index_select(&rows, 0)?)?, score(&embed(&wrong)?)?);
            let entry = aspects.entry(aspect).or_default();
            entry.0 += right.iter().zip(&wrong).filter(|(right, wrong)| right > wrong).count();
            entry.1 += right.len();
        }
    }
    let n_pairs = VALIDATION_BATCHES * VALIDATION_BATCH;
    Ok(Outputs {
        weights,
        image_to_text: to_text as f64 / n_pairs as f64,
        text_to_image: to_image as f64 / n_pairs as f64,
        retrieval_batch: VALIDATION_BATCH,
        n_pairs,
        aspects: aspects.into_iter().map(|(aspect, (hits, n))| (aspect.name().to_owned(), (hits as f64 / n as f64, n))).collect(),
    })
}

/// Trains (or resumes), writes `clip.safetensors` into the pipeline's folder as f16 and measures it.
pub fn run(config: &Config, context: &RunContext) -> Result<Outputs> {
    let path = context.pipeline.join("clip.safetensors");
    let tokenizer = Tokenizer::load(&context.pipeline.join("tokenizer.json"))?;
    let start = if config.warm_start { read_safetensors(&path, &Device::Cpu)? } else { BTreeMap::new() };
    let mut task = ClipTask::new(config, context.seed, tokenizer, start)?;
    train(&mut task, config.steps, &context.runs.join("bootstrap/clip.safetensors"), Duration::from_secs(60))?;
    write_safetensors(&path, &task.vars.snapshot()?, DType::F16)?;

    let written = Weights::load(&path, DType::F32, &Device::Cpu)?;
    let network = Clip::new(&ClipConfig::preset(&config.preset)?, &written)?;
    written.finish()?;
    measure(&network, &task.tokenizer, context.seed, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_each_row_is_found() {
        assert_eq!(best(&[vec![0.1, 0.5, 0.2], vec![3.0, -1.0, 2.0]]), [1, 0]);
    }

    #[test]
    fn equal_prompts_do_not_compete() {
        let tokenizer = Tokenizer::load(std::path::Path::new("pipelines/mini/tokenizer.json")).unwrap();
        let config = Config { preset: "smoke".into(), ..Config::default() };
        let task = ClipTask::new(&config, 1, tokenizer, BTreeMap::new()).unwrap();
        let one = Pairs::new(1, "test", Split::Train, 0, 1, 64).unwrap();
        let images = Tensor::cat(&[&one.images, &one.images], 0).unwrap();
        let twice = Pairs { prompts: vec![one.prompts[0].clone(), one.prompts[0].clone()], images };
        // Both images see only their own prompt and wrong ones; from text to image nothing competes at all.
        let loss = task.loss(&twice, 0).unwrap().to_scalar::<f32>().unwrap();
        assert!(loss.is_finite() && loss < 0.5 * 3f32.ln() + 2.0, "{loss}");
    }

    #[test]
    fn training_the_image_side_only_leaves_the_text_side_as_it_is() {
        let tokenizer = Tokenizer::load(std::path::Path::new("pipelines/mini/tokenizer.json")).unwrap();
        let config = Config { preset: "smoke".into(), batch: 2, warm_start: true, vision_only: true, ..Config::default() };
        let mut task = ClipTask::new(&config, 1, tokenizer, BTreeMap::new()).unwrap();
        let before = task.vars.snapshot().unwrap();
        task.step(0).unwrap();
        for (name, tensor) in task.vars.snapshot().unwrap() {
            let moved = (tensor - &before[&name]).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() > 0.0;
            assert_eq!(moved, !name.starts_with("text_"), "{name}");
        }
    }

    #[test]
    fn the_loss_falls_within_a_few_steps() {
        let tokenizer = Tokenizer::load(std::path::Path::new("pipelines/mini/tokenizer.json")).unwrap();
        let config = Config { preset: "smoke".into(), steps: 40, batch: 12, warmup: 5, ..Config::default() };
        let mut task = ClipTask::new(&config, 1, tokenizer, BTreeMap::new()).unwrap();
        let losses: Vec<f64> = (0..40).map(|step| task.step(step).unwrap()).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(mean(&losses[30..]) < mean(&losses[..10]), "{losses:?}");
    }
}
