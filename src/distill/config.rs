//! The settings of one student, and what they select: prompts, starting weights, the fingerprint of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::schedule::RateSchedule;
use super::trajectory::{GuidanceDraw, PoolPrompt};
use crate::data::mixture;
pub use crate::data::mixture::Source;
use crate::data::schema::PromptRow;
use crate::diffusion::schedule::Shift;
use crate::error::{Error, Result};
use crate::models::card::{REAL, STUDENT_CARD, STUDENT_WEIGHTS, StudentCard, TEACHER};
use crate::models::exported;
use crate::models::layout;
use crate::models::published::Stored;
use crate::models::student::{Student, StudentConfig};
use crate::models::t5::{T5Config, T5Encoder};
use crate::models::teacher::TeacherConfig;
use crate::models::weights::Weights;
use crate::nn::optim::AdamWConfig;
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::{files, hub};

/// What the student is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Eq. 5 of the paper: equal velocities of the denoiser, along the teacher's trajectory.
    #[default]
    Vision,
    /// Eq. 4 of the paper: equal embeddings.
    Naive,
    /// No training: the student as it starts, for comparison.
    None,
}

impl Objective {
    /// The name in configurations and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Naive => "naive",
            Self::None => "none",
        }
    }
}

/// Which predictions of a teacher that is guided by the empty prompt are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Those under the prompt.
    Conditional,
    /// Those moved away from the empty prompt's.
    Guided,
}

/// Where the student starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialisation {
    /// Seeded random weights.
    #[default]
    Random,
    /// Encoder weights from a file or folder relative to the pipeline's folder, or from the hub (`hf://OWNER/NAME`), of an encoder or a whole
    /// T5; the projection starts at random.
    Encoder(PathBuf),
    /// Another student of the same pipeline, for schedules of several stages, or one of another pipeline: `flux-dev/base`.
    Student(String),
    /// A whole student from elsewhere, file or folder relative to the pipeline's folder: one that `scaledown export` wrote, or a released
    /// `T5EncoderWithProjection`.
    Weights(PathBuf),
}

/// One student and its training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder name and label of the student.
    pub name: String,
    /// Size of its encoder, a T5 preset.
    pub preset: String,
    #[serde(default)]
    pub init: Initialisation,
    #[serde(default)]
    pub objective: Objective,
    /// Optimiser steps. With the vision objective each is one denoising step, the paper's iteration.
    pub updates: u64,
    /// Prompts per update; 32 in the paper.
    #[serde(default = "paper_batch")]
    pub batch: usize,
    /// Those of the released training script.
    #[serde(default)]
    pub optimiser: AdamWConfig,
    /// Linear without warm-up, as in the paper.
    #[serde(default)]
    pub schedule: RateSchedule,
    /// Values of guidance to draw from.
    #[serde(default = "paper_guidance")]
    pub guidance: Vec<f64>,
    #[serde(default)]
    pub guidance_draw: GuidanceDraw,
    /// Compares guided predictions, where the teacher is guided by the empty prompt, which then passes through the student, too; else
    /// those under the prompts alone are compared. The trajectory follows the guided teacher in both cases.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guided: bool,
    /// Denoising steps of a trajectory.
    #[serde(default = "paper_steps")]
    pub steps: usize,
    /// Must be the shift that images are generated with.
    #[serde(default)]
    pub shift: Shift,
    /// Rate in the projection.
    #[serde(default = "released_dropout")]
    pub dropout: f64,
    /// Width between the two projection layers; the teacher's width where absent, as released.
    #[serde(default)]
    pub projection_hidden: Option<usize>,
    /// Pixels of the trajectories' images; the teacher's where absent. The paper mixes 512 and 1024.
    #[serde(default)]
    pub resolution: Option<usize>,
    /// Seed of prompt order, noise, guidance, dropout and random initial weights; the pipeline's where absent. Students that differ
    /// in nothing else show how much a training varies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub datasets: Vec<Source>,
    /// Updates between two checkpoints.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
}

/// The paper's total batch over 8 GPUs.
fn paper_batch() -> usize {
    32
}

/// The paper's values for Flux: 2, 2.5, …, 5.
fn paper_guidance() -> Vec<f64> {
    (4..=10).map(|half| f64::from(half) / 2.0).collect()
}

/// The paper's trajectories.
fn paper_steps() -> usize {
    20
}

/// `nn.Dropout(0.1)` of the released student.
fn released_dropout() -> f64 {
    0.1
}

/// Ten trajectories of the paper's length: a checkpoint then costs well below a hundredth of the time.
fn checkpoint_every() -> u64 {
    200
}

impl Config {
    /// Fails on values that no run can have.
    pub fn validate(&self) -> Result<()> {
        let reserved = [TEACHER, REAL];
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let trains = self.objective != Objective::None;
        let problem = if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            "the name must consist of letters, digits, `-`, `_` and `.`".to_owned()
        } else if reserved.contains(&self.name.as_str()) {
            format!("the names {} are taken", reserved.join(" and "))
        } else if trains && self.updates == 0 {
            "updates is 0; the objective `none` writes the untrained student".to_owned()
        } else if !trains && self.updates > 0 {
            format!("updates is {} although the objective is `none`", self.updates)
        } else if self.batch == 0 || self.steps == 0 || self.checkpoint_every == 0 {
            "batch, steps and checkpoint_every must be above 0".to_owned()
        } else if self.guidance.is_empty() || !self.guidance.iter().all(|value| value.is_finite()) {
            format!("guidance must be a list of numbers, found {:?}", self.guidance)
        } else if !(0.0..1.0).contains(&self.dropout) {
            format!("dropout must lie in [0, 1), found {}", self.dropout)
        } else if self.datasets.iter().all(|source| source.repeat == 0) {
            "datasets selects nothing".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::config(format!("student `{}`: {problem}", self.name), "correct the value in the pipeline's TOML"))
    }

    /// Which predictions are compared.
    pub fn compared(&self) -> Compared {
        if self.guided { Compared::Guided } else { Compared::Conditional }
    }

    /// Fails where guided predictions are asked for and cannot be had.
    pub fn check_guidance(&self, by_the_empty_prompt: bool) -> Result<()> {
        let problem = match (self.guided, by_the_empty_prompt, self.objective) {
            (true, false, _) => "the teacher takes guidance as a number and is not guided by the empty prompt",
            (true, true, Objective::Naive | Objective::None) => "only the vision objective compares predictions",
            _ => return Ok(()),
        };
        Err(Error::config(format!("student `{}`: guided is true, but {problem}", self.name), "remove `guided`"))
    }

    /// The training prompts of all sources, each as often as its source is repeated.
    pub fn read_pool(&self, context: &RunContext) -> Result<Vec<PoolPrompt>> {
        let mut pool = Vec::new();
        let mut counts = BTreeMap::new();
        for source in &self.datasets {
            let rows = PromptRow::read(&context.prompts(&source.dataset, "train"), "run `scaledown build-data` first")?;
            counts.insert(source.dataset.as_str(), rows.len());
            for row in rows {
                let prompt = PoolPrompt { prompt_id: row.prompt_id, prompt: row.prompt };
                pool.extend(std::iter::repeat_n(prompt, source.repeat));
            }
        }
        eprintln!("distill {}: {}", self.name, mixture::describe(&self.datasets, |set| counts.get(set).copied().unwrap_or(0)));
        Ok(pool)
    }

    /// Sizes of a student that projects to `text_width`.
    fn student(&self, text_width: usize) -> Result<StudentConfig> {
        let projection_hidden = self.projection_hidden.unwrap_or(text_width);
        Ok(StudentConfig { encoder: T5Config::preset(&self.preset)?, projection_hidden, text_width, dropout: self.dropout })
    }

    /// Scalar weights of a student that projects to `text_width`, without making it.
    pub fn parameters(&self, text_width: usize) -> Result<u64> {
        let weights = Weights::recording(DType::F32, &Device::Cpu);
        Student::new(&self.student(text_width)?, &weights)?;
        Ok(weights.recorded().values().map(|shape| shape.iter().product::<usize>() as u64).sum())
    }

    /// The student before its first update, projecting to `text_width`.
    pub fn initial_student(&self, text_width: usize, context: &RunContext) -> Result<Student> {
        let config = self.student(text_width)?;
        let load = |path: PathBuf| Weights::load(&path, DType::F32, &Device::Cpu);
        let random = Weights::initial(self.seed(context), DType::F32, &Device::Cpu);
        match &self.init {
            Initialisation::Random => Student::new(&config, &random),
            Initialisation::Encoder(path) => {
                let mut student = Student::new(&config, &random)?;
                let path = hub::resolve(path, &context.pipeline)?;
                let weights = match path.is_dir() {
                    true => Stored::find(&path)?.load_in_full(layout::t5)?,
                    false => load(path)?.in_layout(layout::t5)?,
                };
                // The same sizes, but the names of a T5 file; its parameters keep those of the student.
                let pretrained = T5Encoder::new(&config.encoder, &weights)?.named();
                weights.finish()?;
                let named = pretrained.into_iter().map(|(name, tensor)| (format!("encoder.{name}"), tensor)).collect();
                student.encoder.assign(&named)?;
                Ok(student)
            }
            Initialisation::Student(name) => {
                let folder = context.student(name);
                let card = StudentCard::read(&folder)?;
                if (card.preset.as_str(), card.projection_hidden) != (self.preset.as_str(), config.projection_hidden) {
                    return Err(Error::config(
                        format!("student `{}` ({}) cannot start from `{name}` ({})", self.name, self.preset, card.preset),
                        "both stages need the same preset and projection_hidden",
                    ));
                }
                let weights = load(folder.join(STUDENT_WEIGHTS))?;
                let student = Student::new(&config, &weights)?;
                weights.finish()?;
                Ok(student)
            }
            Initialisation::Weights(path) => exported::load_student(&config, &hub::resolve(path, &context.pipeline)?),
        }
    }

    /// The folder of the student that this one is, where it starts from a whole one and is not trained any further.
    fn unchanged_from(&self, context: &RunContext) -> Option<PathBuf> {
        match (self.objective, &self.init) {
            (Objective::None, Initialisation::Student(name)) => Some(context.student(name)),
            (Objective::None, Initialisation::Weights(path)) => hub::resolve(path, &context.pipeline).ok(),
            _ => None,
        }
    }

    /// The card of the student that this one is, where it is not trained any further and that one has a card.
    pub fn unchanged_card(&self, context: &RunContext) -> Result<Option<StudentCard>> {
        let folder = self.unchanged_from(context).filter(|folder| folder.join(STUDENT_CARD).is_file());
        folder.map(|folder| StudentCard::read(&folder)).transpose()
    }

    /// Files besides the teacher's that the student depends on; the weights that it starts from are the last.
    pub fn files(&self, context: &RunContext) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.datasets.iter().map(|source| context.prompts(&source.dataset, "train")).collect();
        // Weights may come without a card. A student of a run has one, once it is there.
        let card = self.unchanged_from(context).map(|folder| folder.join(STUDENT_CARD));
        files.extend(card.filter(|card| card.is_file() || matches!(self.init, Initialisation::Student(_))));
        match &self.init {
            Initialisation::Random => {}
            Initialisation::Encoder(path) => {
                let path = hub::resolve(path, &context.pipeline).unwrap_or_else(|_| path.clone());
                match Stored::find(&path).and_then(|stored| stored.files()) {
                    Ok(stored) if path.is_dir() => files.extend(stored),
                    _ => files.push(path),
                }
            }
            Initialisation::Student(name) => files.push(context.student(name).join(STUDENT_WEIGHTS)),
            Initialisation::Weights(path) => {
                let path = hub::resolve(path, &context.pipeline).unwrap_or_else(|_| path.clone());
                // A folder without weights is named as it is, for the message that it lacks them.
                files.push(exported::weights_file(&path).unwrap_or(path));
            }
        }
        files
    }

    /// Seed of the training.
    pub fn seed(&self, context: &RunContext) -> u64 {
        self.seed.unwrap_or(context.seed)
    }

    /// SHA-256 of everything the trained weights depend on; how often checkpoints are written is not part of it.
    pub fn fingerprint(&self, teacher: &TeacherConfig, pool: &[PoolPrompt], context: &RunContext) -> Result<String> {
        let config = Self { checkpoint_every: 1, ..self.clone() };
        let start = match &self.init {
            Initialisation::Random => None,
            _ => self.files(context).last().map(|file| files::sha256_file(file)).transpose()?,
        };
        let mut prompts: Vec<&str> = pool.iter().map(|prompt| prompt.prompt.as_str()).collect();
        prompts.sort_unstable();
        let teacher = teacher.fingerprint(&context.pipeline)?;
        let text = serde_json::to_string(&(config, context.seed, teacher, start, prompts))
            .map_err(|error| Error::Invalid(format!("cannot write the settings of `{}` as JSON: {error}", self.name)))?;
        Ok(files::sha256_bytes(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(extra: &str) -> std::result::Result<Config, toml::de::Error> {
        toml::from_str(&format!("name = \"base\"\npreset = \"mini-base\"\nupdates = 40\ndatasets = [{{ dataset = \"laion\" }}]\n{extra}"))
    }

    #[test]
    fn defaults_are_those_of_the_paper() {
        let config = config("").unwrap();
        config.validate().unwrap();
        assert_eq!(config.guidance, [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]);
        assert_eq!((config.batch, config.steps, config.datasets[0].repeat), (32, 20, 1));
        assert_eq!(config.objective, Objective::Vision);
    }

    #[test]
    fn a_seed_of_its_own_replaces_the_pipelines_and_its_absence_changes_no_file() {
        let context = RunContext::below(Path::new("."), "mini", "pipelines/mini".into(), 7);
        let (plain, seeded) = (config("").unwrap(), config("seed = 11").unwrap());
        assert_eq!((plain.seed(&context), seeded.seed(&context)), (7, 11));
        assert!(!serde_json::to_string(&plain).unwrap().contains("seed"));
    }

    #[test]
    fn initialisation_reads_as_a_word_or_a_table() {
        assert_eq!(config("init = \"random\"").unwrap().init, Initialisation::Random);
        let file = config("init = { encoder = \"student-base.safetensors\" }").unwrap().init;
        assert_eq!(file, Initialisation::Encoder("student-base.safetensors".into()));
        assert_eq!(config("init = { student = \"stage-1\" }").unwrap().init, Initialisation::Student("stage-1".into()));
        let folder = config("init = { weights = \"export-diffusers\" }").unwrap().init;
        assert_eq!(folder, Initialisation::Weights("export-diffusers".into()));
        assert!(config("initialisation = \"random\"").is_err());
    }

    #[test]
    fn an_encoder_comes_from_a_file_or_from_the_folder_of_a_whole_t5() {
        let folder = tempfile::tempdir().unwrap();
        let context = RunContext::below(folder.path(), "x", folder.path().into(), 7);
        let sizes = T5Config::preset("smoke-base").unwrap();
        let encoder = T5Encoder::new(&sizes, &Weights::initial(3, DType::F32, &Device::Cpu)).unwrap();
        let mut tensors: BTreeMap<String, candle_core::Tensor> = encoder.named().into_iter().collect();
        let table = tensors["shared.weight"].clone();
        tensors.insert("lm_head.weight".into(), table.clone());
        tensors.insert("decoder.embed_tokens.weight".into(), table.clone());
        safetensors::serialize_to_file(&tensors, None, &folder.path().join("model.safetensors")).unwrap();
        for place in ["model.safetensors", "."] {
            let config = Config { preset: "smoke-base".into(), ..config(&format!("init = {{ encoder = \"{place}\" }}")).unwrap() };
            let student = config.initial_student(32, &context).unwrap();
            let found: BTreeMap<_, _> = student.encoder.named().into_iter().collect();
            let shared = found.iter().find(|(name, _)| name.ends_with("shared.weight")).unwrap().1;
            assert_eq!(shared.flatten_all().unwrap().to_vec1::<f32>().unwrap(), table.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            assert!(config.files(&context).iter().any(|file| file.ends_with("model.safetensors")), "{:?}", config.files(&context));
        }
        let missing = Config { preset: "smoke-base".into(), ..config("init = { encoder = \"hf://nobody/nothing\" }").unwrap() };
        let error = missing.initial_student(32, &context).unwrap_err();
        assert!(error.hint().unwrap().contains("scaledown fetch-model hf://nobody/nothing"), "{error}");
    }

    #[test]
    fn only_a_student_that_stays_what_another_is_depends_on_the_others_card() {
        let folder = tempfile::tempdir().unwrap();
        let context = RunContext::below(folder.path(), "x", folder.path().into(), 7);
        let files = |extra: &str| {
            let files = config(extra).unwrap().files(&context);
            files[1..].iter().map(|file| file.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let unchanged = "objective = \"none\"\ninit = { weights = \"student\" }";
        let student = folder.path().join("student");
        std::fs::create_dir(&student).unwrap();
        std::fs::write(student.join(STUDENT_WEIGHTS), "").unwrap();
        assert_eq!(files(unchanged), ["student/student.safetensors"]);
        std::fs::write(student.join(STUDENT_CARD), "").unwrap();
        assert_eq!(files(unchanged), ["student/student.json", "student/student.safetensors"]);
        // A card tells how long its training took: the same weights, trained again, must not make those after them stale.
        assert_eq!(files("init = { weights = \"student\" }"), ["student/student.safetensors"]);
        assert_eq!(files("init = { student = \"first\" }"), ["runs/x/distill/first/student.safetensors"]);
        // The other student may still have to be trained.
        let copy = files("objective = \"none\"\ninit = { student = \"first\" }");
        assert_eq!(copy, ["student.json", "student.safetensors"].map(|file| format!("runs/x/distill/first/{file}")));
    }

    #[test]
    fn impossible_values_are_refused_with_the_reason() {
        for (extra, reason) in [
            ("batch = 0", "batch"),
            ("guidance = []", "guidance"),
            ("dropout = 1.0", "dropout"),
            ("objective = \"none\"", "although the objective is `none`"),
        ] {
            let error = config(extra).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("`base`"), "{error}");
        }
        let reserved = Config { name: "teacher".into(), ..config("").unwrap() };
        assert!(reserved.validate().unwrap_err().to_string().contains("taken"));
    }
}
