//! Pretrains a T5 encoder on text alone, as the paper's teacher and students were: spans of a sentence are hidden behind
//! sentinels and predicted. The spans keep their length, so that an encoder with a linear head suffices and no decoder
//! is needed; visible tokens are predicted too, with a small weight.
//!
//! Flux gives text tokens no positions, so only the embeddings tell "a red car and a blue house" from "a blue car and a
//! red house". Two things make them do so: position biases that start wide, and embeddings that predict their neighbours.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::neighbours::{NeighbourHead, Neighbours};
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
    /// Updates of the teacher's encoder.
    pub steps: u64,
    /// Updates of the encoders that students start from.
    pub student_steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    /// Tokens per sentence, with padding.
    pub token_length: usize,
    /// Share of tokens hidden (T5: 0.15; higher here, since the sentences are short).
    pub hidden_share: f64,
    /// Each embedding predicts the tokens up to this far before and after its own; 0 switches it off.
    pub neighbours: usize,
    /// Standard deviation of the relative position biases at the start. T5 starts them near zero and has a million steps
    /// to grow them; in a thousand an encoder remains a bag of words. Spread widely, each head prefers some distances.
    pub position_spread: f64,
    /// Start from the weights that are already in the pipeline's folder.
    pub warm_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Seven minutes on two cores. After 1,000 updates the order of words is there, but not yet whose colour is whose: the
            // denoiser then paints two objects in swapped colours.
            steps: 4_000,
            student_steps: 1_000,
            batch: 32,
            learning_rate: 1e-3,
            warmup: 40,
            token_length: 24,
            hidden_share: 0.25,
            neighbours: 3,
            position_spread: 2.0,
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
    pub parameters: Counts,
}

/// Scalar weights of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Those of its layers, without the table of tokens.
    pub encoder: usize,
    /// All that its file holds, the table of tokens included; the heads of the pretraining are not kept.
    pub total: usize,
}

impl Counts {
    /// What `encoder` is made of.
    fn of(encoder: &T5Encoder) -> Self {
        let total = encoder.count();
        Self { encoder: total - encoder.token_table().value.elem_count(), total }
    }
}

/// Weight of a visible token in the loss: enough to keep every token's identity in its embedding.
const VISIBLE_WEIGHT: f64 = 0.1;
/// Longest hidden span; T5's spans have a mean length of three.
const LONGEST_SPAN: usize = 3;
/// Id of padding.
const PAD: u32 = 0;
/// Batches of unseen sentences a finished encoder is measured on.
const MEASURED_BATCHES: usize = 20;

/// The encoder with its prediction head.
struct Pretraining {
    encoder: T5Encoder,
    head: Linear,
    neighbour_head: Option<NeighbourHead>,
}

impl Parameters for Pretraining {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.encoder.visit(visitor);
        self.head.visit(visitor);
        self.neighbour_head.iter().for_each(|head| head.linear.visit(visitor));
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.encoder.visit_mut(visitor);
        self.head.visit_mut(visitor);
        self.neighbour_head.iter_mut().for_each(|head| head.linear.visit_mut(visitor));
    }
}

/// One batch: what the encoder sees, what it must predict, and how much each token counts.
struct Batch {
    seen: Tensor,
    targets: Vec<u32>,
    weights: Vec<f64>,
    hidden: Vec<bool>,
    neighbours: Neighbours,
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
        let reach = config.neighbours;
        let neighbour_head = || -> Result<NeighbourHead> {
            let linear = weights.linear("neighbour_head", sizes.d_model, 2 * reach * sizes.vocab_size, Bias::Without)?;
            Ok(NeighbourHead { linear, reach })
        };
        let neighbour_head = (reach > 0).then(neighbour_head).transpose()?;
        let mut encoder = T5Encoder::new(&sizes, &weights)?;
        if start.is_empty() {
            let bias = encoder.relative_bias_mut();
            let mut stream = rng::stream(rng::Key { seed, purpose: "position biases", item: 0, draw: 0 });
            let values = rng::normal(&mut stream, bias.value.elem_count());
            bias.value = (Tensor::from_vec(values, bias.value.shape(), &Device::Cpu)? * config.position_spread)?;
        } else {
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
        let neighbours = Neighbours::of(&targets, length, self.config.neighbours, PAD);
        Ok(Batch {
            weights: weights.collect(),
            neighbours,
            seen: Tensor::from_vec(seen, (self.config.batch, length), &Device::Cpu)?,
            targets,
            hidden,
        })
    }

    /// What the network is worth on unseen sentences: hidden tokens and neighbours.
    fn measure(&self, weights: PathBuf) -> Result<Outputs> {
        let (mut hidden, mut beside) = (Share::default(), Share::default());
        for i in 0..MEASURED_BATCHES {
            let batch = self.batch("text validation", (i * self.config.batch) as u64)?;
            let (states, _) = self.network.encoder.forward(&batch.seen)?;
            let predicted = self.network.head.forward(&states)?.flatten_to(1)?.argmax(1)?.to_vec1::<u32>()?;
            for ((predicted, target), _) in predicted.iter().zip(&batch.targets).zip(&batch.hidden).filter(|(_, hidden)| **hidden) {
                hidden.count(predicted == target);
            }
            let Some(head) = &self.network.neighbour_head else { continue };
            let Neighbours { tokens, weights } = &batch.neighbours;
            for ((predicted, target), _) in head.predict(&states)?.iter().zip(tokens).zip(weights).filter(|(_, weight)| **weight > 0.0) {
                beside.count(predicted == target);
            }
        }
        Ok(Outputs {
            weights,
            accuracy: hidden.value(),
            n_tokens: hidden.n,
            neighbour_accuracy: beside.value(),
            parameters: Counts::of(&self.network.encoder),
        })
    }
}

/// How many of how many.
#[derive(Default)]
struct Share {
    right: usize,
    n: usize,
}

impl Share {
    fn count(&mut self, right: bool) {
        self.n += 1;
        self.right += usize::from(right);
    }

    /// Right ones by all, 0 if nothing was counted (`n` says so).
    fn value(&self) -> f64 {
        self.right as f64 / self.n.max(1) as f64
    }
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
            let (neighbour_loss, more) = head.loss(&states, &batch.neighbours, &mut gradients)?;
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
    task.measure(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoder_without_its_table_of_tokens_has_the_weights_of_its_layers() {
        let sizes = T5Config::preset("mini-small").unwrap();
        let encoder = T5Encoder::new(&sizes, &Weights::initial(1, DType::F32, &Device::Cpu)).unwrap();
        // Three layers of four projections 32 x 32, three 32 x 96 and two norms; position biases; the last norm.
        let layers = 3 * (4 * 32 * 32 + 3 * 32 * 96 + 2 * 32) + 32 * 2 + 32;
        assert_eq!(Counts::of(&encoder), Counts { encoder: layers, total: layers + 1024 * 32 });
    }
}
