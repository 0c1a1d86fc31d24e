//! Makes the weights of the miniature world's networks. Every part is seeded and resumable.

pub mod autoencoder;
pub mod clip;
pub mod contrast;
pub mod degrade;
pub mod denoiser;
pub mod neighbours;
pub mod ocr;
pub mod reader;
pub mod signs;
pub mod text_encoder;
pub mod trainer;

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::trainer::Cost;
use crate::error::{Error, Result};
use crate::mini::tokenizer_training;
use crate::run::context::RunContext;
use crate::run::files;

/// How every network is trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub autoencoder: autoencoder::Config,
    pub clip: clip::Config,
    /// Pretraining on text alone, of the teacher and of the students' encoders.
    pub text_encoder: text_encoder::Config,
    pub denoiser: denoiser::Config,
    pub denoiser_128: denoiser::fine_tuning::Config,
    pub reader: reader::Config,
    pub ocr: ocr::Config,
}

/// One thing that is trained, in an order in which each finds what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Tokenizer,
    TextEncoder,
    StudentSmall,
    StudentBase,
    StudentLarge,
    StudentXl,
    Autoencoder,
    Clip,
    Reader,
    Ocr,
    Denoiser,
    Denoiser128,
}

impl Part {
    /// Every part, in order.
    pub const ALL: [Self; 12] = [
        Self::Tokenizer,
        Self::TextEncoder,
        Self::StudentSmall,
        Self::StudentBase,
        Self::StudentLarge,
        Self::StudentXl,
        Self::Autoencoder,
        Self::Clip,
        Self::Reader,
        Self::Ocr,
        Self::Denoiser,
        Self::Denoiser128,
    ];

    /// As the command line says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::TextEncoder => "text-encoder",
            Self::StudentSmall => "student-small",
            Self::StudentBase => "student-base",
            Self::StudentLarge => "student-large",
            Self::StudentXl => "student-xl",
            Self::Autoencoder => "autoencoder",
            Self::Clip => "clip",
            Self::Reader => "reader",
            Self::Ocr => "ocr",
            Self::Denoiser => "denoiser",
            Self::Denoiser128 => "denoiser-128",
        }
    }

    /// The part of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// Files in the pipeline's folder that it reads.
    pub fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::Tokenizer | Self::Autoencoder | Self::Reader | Self::Ocr => &[],
            Self::TextEncoder | Self::StudentSmall | Self::StudentBase | Self::StudentLarge | Self::StudentXl | Self::Clip => {
                &["tokenizer.json"]
            }
            Self::Denoiser => &["tokenizer.json", "text-encoder.safetensors", "autoencoder.safetensors", "clip.safetensors"],
            Self::Denoiser128 => {
                &["tokenizer.json", "text-encoder.safetensors", "autoencoder.safetensors", "clip.safetensors", "denoiser.safetensors"]
            }
        }
    }

    /// Files in the pipeline's folder that it writes.
    pub fn outputs(self) -> &'static [&'static str] {
        match self {
            Self::Tokenizer => &["tokenizer.json"],
            Self::TextEncoder => &["text-encoder.safetensors"],
            Self::StudentSmall => &["student-small.safetensors"],
            Self::StudentBase => &["student-base.safetensors"],
            Self::StudentLarge => &["student-large.safetensors"],
            Self::StudentXl => &["student-xl.safetensors"],
            Self::Autoencoder => &["autoencoder.safetensors"],
            Self::Clip => &["clip.safetensors"],
            Self::Reader => &["reader.safetensors"],
            Self::Ocr => &["ocr-detection.onnx", "ocr-recognition.onnx"],
            Self::Denoiser => &["denoiser.safetensors"],
            Self::Denoiser128 => &["denoiser-128.safetensors"],
        }
    }

    /// Names of the training states that it keeps below `runs/<name>/bootstrap`.
    fn checkpoints(self) -> &'static [&'static str] {
        match self {
            Self::Tokenizer => &[],
            Self::Ocr => &["ocr-detection.safetensors", "ocr-recognition.safetensors"],
            Self::Autoencoder => &["autoencoder-plain.safetensors", "autoencoder.safetensors"],
            Self::Denoiser => &denoiser::FILES.checkpoints,
            Self::Denoiser128 => &denoiser::fine_tuning::FILES.checkpoints,
            _ => self.outputs(),
        }
    }

    /// Where it writes what its networks are worth, measured on scenes or sentences that training never showed.
    pub fn measurements(self, context: &RunContext) -> PathBuf {
        context.runs.join("bootstrap").join(self.name()).join("measurements.json")
    }

    /// What its training states have taken so far.
    fn cost(self, context: &RunContext) -> Result<Cost> {
        let states = self.checkpoints().iter().map(|file| context.runs.join("bootstrap").join(file));
        states.map(|state| Cost::of(&state)).try_fold(Cost::NOTHING, |sum, cost| Ok(sum.and(cost?)))
    }
}

impl Config {
    /// The same, starting from the weights that are already in the pipeline's folder; OCR always starts anew. Of the autoencoder
    /// only the decoder is trained then: denoisers were trained on latents of its encoder, and these must stay valid.
    pub fn warm_started(mut self) -> Self {
        for warm_start in [
            &mut self.autoencoder.warm_start,
            &mut self.clip.warm_start,
            &mut self.text_encoder.warm_start,
            &mut self.denoiser.warm_start,
            &mut self.denoiser_128.warm_start,
            &mut self.reader.warm_start,
        ] {
            *warm_start = true;
        }
        self
    }

    /// The settings of a text encoder: students' have updates of their own.
    fn pretraining_of(&self, part: Part) -> text_encoder::Config {
        let config = &self.text_encoder;
        let steps = if part == Part::TextEncoder { config.steps } else { config.student_steps };
        text_encoder::Config { steps, ..config.clone() }
    }

    /// The settings of one part.
    pub fn of(&self, part: Part) -> Result<serde_json::Value> {
        match part {
            Part::Tokenizer => Ok(serde_json::Value::Null),
            Part::TextEncoder | Part::StudentSmall | Part::StudentBase | Part::StudentLarge | Part::StudentXl => {
                json(&self.pretraining_of(part))
            }
            Part::Autoencoder => json(&self.autoencoder),
            Part::Clip => json(&self.clip),
            Part::Reader => json(&self.reader),
            Part::Ocr => json(&self.ocr),
            Part::Denoiser => json(&self.denoiser),
            Part::Denoiser128 => json(&self.denoiser_128.after(&self.denoiser)),
        }
    }
}

/// Trains one part (or goes on where an earlier call stopped) and writes its files and measurements, among them its cost: all
/// updates, the wall seconds of those that earlier calls made, and the wall seconds of this call, loading and measuring included.
pub fn run(config: &Config, part: Part, context: &RunContext) -> Result<()> {
    let begun = Instant::now();
    drop_other_checkpoints(config, part, context)?;
    let earlier = part.cost(context)?;
    let text_encoder = |preset| json(&text_encoder::run(&config.pretraining_of(part), part.name(), preset, context)?);
    let mut measured = match part {
        Part::Tokenizer => {
            tokenizer_training::write(&context.pipeline.join("tokenizer.json"))?;
            serde_json::json!({})
        }
        Part::TextEncoder => text_encoder("mini-teacher")?,
        Part::StudentSmall => text_encoder("mini-small")?,
        Part::StudentBase => text_encoder("mini-base")?,
        Part::StudentLarge => text_encoder("mini-large")?,
        Part::StudentXl => text_encoder("mini-xl")?,
        Part::Autoencoder => json(&autoencoder::run(&config.autoencoder, context)?)?,
        Part::Clip => json(&clip::run(&config.clip, context)?)?,
        Part::Reader => json(&reader::run(&config.reader, context)?)?,
        Part::Ocr => json(&ocr::run(&config.ocr, context)?)?,
        Part::Denoiser => json(&denoiser::run(&config.denoiser, denoiser::FILES, context)?)?,
        Part::Denoiser128 => {
            let settings = config.denoiser_128.after(&config.denoiser);
            json(&denoiser::run(&settings, denoiser::fine_tuning::FILES, context)?)?
        }
    };
    let updates = part.cost(context)?.updates;
    measured["cost"] = json(&earlier.after(begun.elapsed(), updates - earlier.updates))?;
    eprintln!("bootstrap {}: {measured}", part.name());
    files::write_bytes(&part.measurements(context), measured.to_string().as_bytes())
}

/// Removes training states that another configuration, seed or input has left, and all of them where the run is forced.
fn drop_other_checkpoints(config: &Config, part: Part, context: &RunContext) -> Result<()> {
    let folder = context.runs.join("bootstrap");
    let hashes = part.inputs().iter().map(|file| files::sha256_file(&context.pipeline.join(file))).collect::<Result<Vec<_>>>()?;
    let recipe = serde_json::json!({"config": config.of(part)?, "seed": context.seed, "inputs": hashes}).to_string();
    let path = folder.join(part.name()).join("recipe.json");
    if context.force || std::fs::read(&path).ok().as_deref() != Some(recipe.as_bytes()) {
        for checkpoint in part.checkpoints() {
            let state = folder.join(checkpoint);
            if state.exists() {
                std::fs::remove_file(&state).map_err(Error::io("remove", &state))?;
            }
        }
    }
    files::write_bytes(&path, recipe.as_bytes())
}

fn json(value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::Invalid(format!("cannot write as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_part_finds_its_inputs_among_earlier_outputs() {
        let (mut made, mut states): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
        for part in Part::ALL {
            assert!(part.inputs().iter().all(|file| made.contains(*file)), "{}", part.name());
            assert!(part.outputs().iter().all(|file| made.insert(*file)), "{} writes over an earlier part", part.name());
            assert!(part.checkpoints().iter().all(|file| states.insert(*file)), "{} goes on from another part's state", part.name());
            assert_eq!(Part::named(part.name()), Some(part));
        }
    }

    #[test]
    fn measurements_state_weights_and_cost_of_all_calls() {
        let root = tempfile::tempdir().unwrap();
        let context = RunContext::below(root.path(), "mini", root.path().join("pipeline"), 5);
        std::fs::create_dir_all(&context.pipeline).unwrap();
        std::fs::copy("pipelines/mini/tokenizer.json", context.pipeline.join("tokenizer.json")).unwrap();
        let mut config = Config::default();
        (config.text_encoder.student_steps, config.text_encoder.batch) = (2, 2);
        let measure = || -> serde_json::Value {
            run(&config, Part::StudentSmall, &context).unwrap();
            serde_json::from_slice(&std::fs::read(Part::StudentSmall.measurements(&context)).unwrap()).unwrap()
        };
        let (first, second) = (measure(), measure());
        assert!(first["parameters"]["total"].as_u64() > first["parameters"]["encoder"].as_u64());
        for found in [&first, &second] {
            assert_eq!(found["cost"]["updates"], 2, "the second call finds nothing left to do");
        }
        // The first call's updates and all of the second call.
        let trained = Part::StudentSmall.cost(&context).unwrap().seconds.unwrap();
        assert!(first["cost"]["seconds"].as_f64().unwrap() > trained && second["cost"]["seconds"].as_f64().unwrap() > trained);
    }

    #[test]
    fn every_student_size_is_a_part_after_the_text_encoder() {
        let names = Part::ALL.map(Part::name);
        assert_eq!(names[1..6], ["text-encoder", "student-small", "student-base", "student-large", "student-xl"]);
        for part in Part::ALL.into_iter().filter(|part| part.name().starts_with("student-")) {
            assert_eq!(part.outputs(), [format!("{}.safetensors", part.name())]);
        }
    }
}
