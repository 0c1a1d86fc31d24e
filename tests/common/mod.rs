//! A random teacher, denoiser and student that train in milliseconds, and prompts without a tokenizer.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use scaledown::diffusion::latents::LatentShape;
use scaledown::diffusion::scheduler::Scheduler;
use scaledown::distill::trajectory::{PoolPrompt, PromptOrder};
use scaledown::distill::{self, Config, Frozen, Identity, Objective, Stop};
use scaledown::error::Result;
use scaledown::models::card::STUDENT_WEIGHTS;
use scaledown::models::card::StudentCard;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::student::{Student, StudentConfig};
use scaledown::models::t5::{T5Config, T5Encoder};
use scaledown::models::teacher::{Condition, Shared};
use scaledown::models::weights::{Weights, read_safetensors};
use scaledown::models::{Denoiser, TextEncoder};
use scaledown::run::{files, rng};

const TOKENS: usize = 6;
const SEED: u64 = 11;

/// The frozen networks of the smoke test's size.
pub struct TinyWorld {
    pub teacher: T5Encoder,
    pub denoiser: Flux,
}

/// Settings of a short training.
pub fn config(objective: Objective, updates: u64) -> Config {
    let text = format!(
        "name = \"tiny\"\npreset = \"smoke-base\"\nobjective = \"{}\"\nupdates = {updates}\nbatch = 2\nsteps = 5\ncheckpoint_every = 3\n\
         datasets = [{{ dataset = \"laion\" }}]",
        objective.name()
    );
    let mut config: Config = toml::from_str(&text).unwrap();
    // Large enough that a handful of updates moves every weight by more than its rounding.
    config.optimiser.learning_rate = 1e-3;
    config
}

impl TinyWorld {
    pub fn new() -> Self {
        let weights = Weights::initial(3, DType::F32, &Device::Cpu);
        let teacher = T5Encoder::new(&T5Config::preset("smoke-teacher").unwrap(), &weights).unwrap();
        // Every tensor gets noise: Flux starts with zeros where the published model is trained, and would pass no gradient.
        let weights = Weights::initial(4, DType::F32, &Device::Cpu);
        let mut denoiser = Flux::new(&FluxConfig::preset("smoke").unwrap(), &weights).unwrap();
        shake(&mut denoiser);
        Self { teacher, denoiser }
    }

    /// The student before training.
    pub fn student(&self) -> Student {
        let encoder = T5Config::preset("smoke-base").unwrap();
        let config = StudentConfig { encoder, projection_hidden: 32, text_width: 32, dropout: 0.1 };
        Student::new(&config, &Weights::initial(5, DType::F32, &Device::Cpu)).unwrap()
    }

    pub fn distil(&self, config: &Config, folder: &Path, stop: &mut Stop) -> Result<StudentCard> {
        self.distil_with(config, &self.denoiser, folder, stop)
    }

    pub fn distil_with(&self, config: &Config, denoiser: &dyn Denoiser, folder: &Path, stop: &mut Stop) -> Result<StudentCard> {
        let frozen = Frozen {
            conditioner: &|prompts| self.condition(prompts),
            denoiser: Some(denoiser),
            empty: None,
            scheduler: Scheduler::Shift(config.shift),
            shape: LatentShape { channels: 16, height: 4, width: 4 },
        };
        let pool = (0..7).map(|i| format!("prompt {i}")).map(|prompt| PoolPrompt { prompt_id: rng::text_id(&prompt), prompt });
        let mut order = PromptOrder::new(pool.collect(), SEED)?;
        let identity = Identity {
            seed: SEED,
            fingerprint: "tiny".into(),
            teacher: ("smoke-teacher".into(), 1),
            token_length: TOKENS,
            unchanged: None,
        };
        distill::distil(config, &identity, self.student(), &frozen, &mut order, folder, stop)
    }

    /// Ids are drawn from the prompt's own stream, the pooled text too.
    fn condition(&self, prompts: &[&str]) -> Result<Condition> {
        let (mut ids, mut pooled) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let mut stream = rng::stream(rng::Key { seed: 0, purpose: "ids", item: rng::text_id(prompt), draw: 0 });
            ids.extend((0..TOKENS).map(|_| rng::below(&mut stream, 1024) as u32));
            pooled.extend(rng::normal(&mut stream, 32));
        }
        let ids = Tensor::from_vec(ids, (prompts.len(), TOKENS), &Device::Cpu)?;
        let pooled = Tensor::from_vec(pooled, (prompts.len(), 32), &Device::Cpu)?;
        Ok(Condition { teacher_text: self.teacher.encode(&ids)?, ids, shared: Shared::pooled(pooled) })
    }
}

/// Adds noise to every parameter.
fn shake(network: &mut impl scaledown::nn::param::Parameters) {
    network.visit_mut(&mut |param| {
        let key = rng::Key { seed: 9, purpose: "shake", item: rng::text_id(&param.name), draw: 0 };
        let noise = rng::normal(&mut rng::stream(key), param.value.elem_count());
        let noise = Tensor::from_vec(noise, param.value.shape(), &Device::Cpu).unwrap();
        param.value = (&param.value + (noise * 0.1).unwrap()).unwrap();
    });
}

/// The student's weights in `folder`.
pub fn read_weights(folder: &Path) -> BTreeMap<String, Tensor> {
    read_safetensors(&folder.join(STUDENT_WEIGHTS), &Device::Cpu).unwrap()
}

/// SHA-256 of the student's weights in `folder`.
pub fn hash(folder: &Path) -> String {
    files::sha256_file(&folder.join(STUDENT_WEIGHTS)).unwrap()
}
