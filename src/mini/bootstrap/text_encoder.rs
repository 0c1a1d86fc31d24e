//! Pretrains a T5 encoder on text alone, as the paper's teacher and students were: spans of a sentence are hidden behind
//! sentinels and predicted. The spans keep their length, so that an encoder with a linear head suffices and no decoder
//! is needed; visible tokens are predicted too, with a small weight.
//!
//! T5's decoder writes its answer in order, which makes the encoder keep what stands beside what. Flux gives text tokens no
//! positions, so nothing else tells "a red car and a blue house" from "a blue car and a red house". The stand-in for the
//! decoder here: every embedding also predicts the tokens before and after it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::trainer::{Task, train, warmup_cosine};
use crate::error::{Error, Result};
use crate::mini::corpus::corpus_sentence;
use crate::mini::tokenizer_training::SENTINELS;
use crate::models::t5::{T5Config, T5Encoder};
use crate::models::tokenizer::Tokenizer;
use crate::models::weights::{Bias, Weights, read_safetensors, write_safetensors};
use crate::nn::activation::add;
use crate::nn::cross_entropy::cross_entropy;
use crate::nn::linear::Linear;
use crate::nn::optim::{AdamW, AdamWConfig};
use crate::nn::param::{Gradients, Param, Parameters};
use crate::run::context::RunContext;
use crate::run::rng;

/// How an encoder is pretrained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    /// Tokens per sentence, with padding.
    pub token_length: usize,
    /// Share of tokens hidden (T5: 0.15; higher here, since the sentences are short).
    pub hidden_share: f64,
    /// Each embedding predicts the tokens up to this far before and after its own; 0 switches it off.
    pub neighbours: usize,
    /// Start from the weights that are already in the pipeline's folder.
    pub warm_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        // About three minutes on two cores for the teacher; the loss falls slowly from there.
        Self {
            steps: 450,
            batch: 32,
            learning_rate: 1e-3,
            warmup: 40,
            token_length: 24,
            hidden_share: 0.25,
            neighbours: 3,
            warm_start: false,
        }
    }
}

/// What a finished pretraining is worth, on sentences it never saw.
#[derive(Debug, Clone, Serialize)]
pub struct Outputs {
    pub weights: PathBuf,
    /// Share of hidden tokens predicted exactly.
    pub accuracy: f64,
    /// Number of hidden tokens measured.
    pub n_tokens: usize,
    /// Share of neighbours predicted exactly, hidden ones included.
    pub neighbour_accuracy: f64,
}

/// Weight of a visible token in the loss: enough to keep every token's identity in its embedding.
const VISIBLE_WEIGHT: f64 = 0.1;
/// Longest hidden span; T5's spans have a mean length of three.
const LONGEST_SPAN: usize = 3;
/// Id of padding.
const PAD: u32 = 0;

/// The encoder with its prediction head.
struct Pretraining {
    encoder: T5Encoder,
    head: Linear,
    /// Logits of all neighbours side by side, nearest earlier one first (−1, +1, −2, +2, …).
    neighbour_head: Option<Linear>,
}

impl Parameters for Pretraining {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.encoder.visit(visitor);
        self.head.visit(visitor);
        self.neighbour_head.iter().for_each(|head| head.visit(visitor));
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.encoder.visit_mut(visitor);
        self.head.visit_mut(visitor);
        self.neighbour_head.iter_mut().for_each(|head| head.visit_mut(visitor));
    }
}

/// One batch: what the encoder sees, what it must predict, and how much each token counts.
struct Batch {
    seen: Tensor,
    targets: Vec<u32>,
    weights: Vec<f64>,
    hidden: Vec<bool>,
    /// Tokens beside each token in the order of the neighbour head, and 1, or 0 where the sentence has none there.
    neighbours: (Vec<u32>, Vec<f64>),
}

struct TextTask {
    config: Config,
    name: String,
    seed: u64,
    tokenizer: Tokenizer,
    /// Ids of the sentinels, first one first.
    sentinels: Vec<u32>,
    network: Pretraining,
    optimiser: AdamW,
}

impl TextTask {
    fn new(config: &Config, name: &str, preset: &str, seed: u64, tokenizer: Tokenizer, start: BTreeMap<String, Tensor>) -> Result<Self> {
        let sizes = T5Config::preset(preset)?;
        let weights = Weights::initial(seed, DType::F32, &Device::Cpu);
        let head = weights.linear("lm_head", sizes.d_model, sizes.vocab_size, Bias::Without)?;
        let predicted = 2 * config.neighbours * sizes.vocab_size;
        let neighbour_head =
            (predicted > 0).then(|| weights.linear("neighbour_head", sizes.d_model, predicted, Bias::Without)).transpose()?;
        let mut encoder = T5Encoder::new(&sizes, &weights)?;
        if !start.is_empty() {
            let start = start.into_iter().map(|(name, value)| Ok((name, value.to_dtype(DType::F32)?)));
            encoder.assign(&start.collect::<Result<_>>()?)?;
        }
        let sentinels = (0..SENTINELS)
            .map(|i| {
                let piece = format!("<extra_id_{i}>");
                tokenizer.piece_to_id(&piece).ok_or_else(|| Error::Invalid(format!("the tokenizer has no `{piece}`")))
            })
            .collect::<Result<_>>()?;
        let optimiser = AdamW::new(AdamWConfig { learning_rate: config.learning_rate, weight_decay: 0.0, ..AdamWConfig::default() });
        let name = format!("text encoder {name}");
        Ok(Self {
            config: config.clone(),
            name,
            seed,
            tokenizer,
            sentinels,
            network: Pretraining { encoder, head, neighbour_head },
            optimiser,
        })
    }

    fn batch(&self, purpose: &str, first: u64) -> Result<Batch> {
        let length = self.config.token_length;
        let key = |i: usize| rng::Key { seed: self.seed, purpose, item: first + i as u64, draw: 0 };
        let sentences: Vec<String> = (0..self.config.batch).map(|i| corpus_sentence(key(i))).collect();
        let targets = self.tokenizer.encode(&sentences, length)?.flatten_all()?.to_vec1::<u32>()?;
        let mut seen = targets.clone();
        let mut hidden = vec![false; targets.len()];
        for (i, row) in seen.chunks_mut(length).enumerate() {
            let n = row.iter().filter(|&&id| id != PAD).count();
            let mut stream = rng::stream(rng::Key { draw: 1, ..key(i) });
            let (mut at, mut span) = (0, 0);
            while at < n {
                // A span of mean length two starts with the probability that hides the wanted share.
                if rng::uniform(&mut stream) < self.config.hidden_share / 2.0 {
                    let end = (at + 1 + rng::below(&mut stream, LONGEST_SPAN)).min(n);
                    row[at..end].fill(self.sentinels[span % self.sentinels.len()]);
                    hidden[i * length + at..i * length + end].fill(true);
                    span += 1;
                    at = end;
                }
                at += 1;
            }
        }
        let weights = targets.iter().zip(&hidden).map(|(&id, &hidden)| match (id, hidden) {
            (PAD, _) => 0.0,
            (_, true) => 1.0,
            (_, false) => VISIBLE_WEIGHT,
        });
        let neighbours = neighbours(&targets, length, self.config.neighbours);
        Ok(Batch {
            weights: weights.collect(),
            neighbours,
            seen: Tensor::from_vec(seen, (self.config.batch, length), &Device::Cpu)?,
            targets,
            hidden,
        })
    }

    /// Logits of the neighbours `[B·L·2R, V]` from states `[B, L, D]`, for reach R.
    fn neighbour_logits(&self, head: &Linear, states: &Tensor) -> Result<Tensor> {
        let vocabulary = self.network.head.weight.value.dim(0)?;
        let logits = head.forward(states)?;
        Ok(logits.reshape((logits.elem_count() / vocabulary, vocabulary))?)
    }

    /// Loss of the neighbours, and the gradient of the states `[B, L, D]`.
    fn neighbour_loss(&self, head: &Linear, states: &Tensor, batch: &Batch, gradients: &mut Gradients) -> Result<(f64, Tensor)> {
        let (targets, weights) = &batch.neighbours;
        let (loss, d_logits) = cross_entropy(&self.neighbour_logits(head, states)?, targets, weights)?;
        let (b, l, _) = states.dims3()?;
        let d_logits = d_logits.reshape((b, l, head.weight.value.dim(0)?))?;
        Ok((loss, head.vjp(states, &d_logits, gradients)?))
    }

    /// Share of hidden tokens of unseen sentences predicted exactly, their number, and the share of neighbours.
    fn accuracy(&self) -> Result<(f64, usize, f64)> {
        let (mut right, mut n) = (0, 0);
        let (mut beside, mut n_beside) = (0, 0);
        for i in 0..20 {
            let batch = self.batch("text validation", i * self.config.batch as u64)?;
            let (states, _) = self.network.encoder.forward(&batch.seen)?;
            let predicted = self.network.head.forward(&states)?.flatten_to(1)?.argmax(1)?.to_vec1::<u32>()?;
            for ((predicted, target), hidden) in predicted.iter().zip(&batch.targets).zip(&batch.hidden) {
                n += usize::from(*hidden);
                right += usize::from(*hidden && predicted == target);
            }
            if let Some(head) = &self.network.neighbour_head {
                let predicted = self.neighbour_logits(head, &states)?.argmax(1)?.to_vec1::<u32>()?;
                for ((predicted, target), &weight) in predicted.iter().zip(&batch.neighbours.0).zip(&batch.neighbours.1) {
                    n_beside += usize::from(weight > 0.0);
                    beside += usize::from(weight > 0.0 && predicted == target);
                }
            }
        }
        Ok((right as f64 / n.max(1) as f64, n, beside as f64 / n_beside.max(1) as f64))
    }
}

/// The tokens at distances −1, +1, −2, +2, … of every token in rows of `length`, with weight 1 where both are text.
fn neighbours(ids: &[u32], length: usize, reach: usize) -> (Vec<u32>, Vec<f64>) {
    let (mut tokens, mut weights) = (Vec::new(), Vec::new());
    for row in ids.chunks(length) {
        for at in 0..row.len() {
            for distance in 1..=reach {
                for place in [at.checked_sub(distance), Some(at + distance)] {
                    let token = place.and_then(|place| row.get(place)).copied().unwrap_or(PAD);
                    tokens.push(token);
                    weights.push(if token == PAD || row[at] == PAD { 0.0 } else { 1.0 });
                }
            }
        }
    }
    (tokens, weights)
}

impl Task for TextTask {
    fn name(&self) -> &str {
        &self.name
    }

    fn step(&mut self, step: u64) -> Result<f64> {
        let batch = self.batch("text", step * self.config.batch as u64)?;
        let (states, saved) = self.network.encoder.forward(&batch.seen)?;
        let logits = self.network.head.forward(&states)?;
        let (mut loss, d_logits) = cross_entropy(&logits.flatten_to(1)?, &batch.targets, &batch.weights)?;
        let mut gradients = Gradients::collect();
        let mut d_states = self.network.head.vjp(&states, &d_logits.reshape(logits.shape())?, &mut gradients)?;
        if let Some(head) = &self.network.neighbour_head {
            let (neighbour_loss, more) = self.neighbour_loss(head, &states, &batch, &mut gradients)?;
            loss += neighbour_loss;
            d_states = add(&d_states, &more)?;
        }
        self.network.encoder.vjp(&saved, &d_states, &mut gradients)?;
        let factor = warmup_cosine(step, self.config.warmup, self.config.steps, 0.05);
        self.optimiser.update(&mut self.network, &gradients.into_map(), factor)?;
        Ok(loss)
    }

    fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW) {
        (&mut self.network, &mut self.optimiser)
    }
}

/// Pretrains (or resumes) the encoder of size `preset`, writes `<file>.safetensors` into the pipeline's folder as f16.
pub fn run(config: &Config, file: &str, preset: &str, context: &RunContext) -> Result<Outputs> {
    let path = context.pipeline.join(format!("{file}.safetensors"));
    let tokenizer = Tokenizer::load(&context.pipeline.join("tokenizer.json"))?;
    let start = if config.warm_start { read_safetensors(&path, &Device::Cpu)? } else { BTreeMap::new() };
    let mut task = TextTask::new(config, file, preset, context.seed, tokenizer, start)?;
    let checkpoint = context.runs.join(format!("bootstrap/{file}.safetensors"));
    train(&mut task, config.steps, &checkpoint, Duration::from_secs(60))?;
    write_safetensors(&path, &task.network.encoder.named(), DType::F16)?;
    let (accuracy, n_tokens, neighbour_accuracy) = task.accuracy()?;
    Ok(Outputs { weights: path, accuracy, n_tokens, neighbour_accuracy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_of_the_sentence_and_never_padding() {
        // Two sentences of three and one tokens in rows of four.
        let (tokens, weights) = neighbours(&[7, 8, 9, PAD, 5, PAD, PAD, PAD], 4, 2);
        assert_eq!(tokens[..12], [PAD, 8, PAD, 9, 7, 9, PAD, PAD, 8, PAD, 7, PAD]);
        assert_eq!(weights[..12], [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        assert!(weights[12..].iter().all(|&weight| weight == 0.0));
    }
}
