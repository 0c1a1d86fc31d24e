//! The stages of a pipeline as steps: what each reads, writes and depends on, beside the call that does it. A stage knows
//! nothing of the others; their order and their files are written down here and nowhere else.

mod images;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::config::{self, Pipeline};
use crate::data::mixture::Mixture;
use crate::distill::config::Initialisation;
use crate::error::{Error, Result};
use crate::mini::bootstrap::{self, Part};
use crate::models::card::{REAL, STUDENT_CARD, STUDENT_WEIGHTS, TEACHER};
use crate::models::teacher::TeacherConfig;
use crate::run::hashes::HashCache;
use crate::run::hub;
use crate::run::interrupt;
use crate::run::manifest::{Freshness, Input, Rerun, Stage, readable_seconds, unix_seconds};
use crate::{data, distill, metrics, report};

/// How to get the weights `path`, which are not there.
fn weights_hint(path: &Path) -> String {
    let writes = |part: &Part| part.outputs().iter().any(|output| path.ends_with(output));
    match Part::ALL.into_iter().find(writes) {
        Some(part) => format!("train it with `scaledown bootstrap --part {}`, or restore it where the repository has it", part.name()),
        None => "restore the file from the repository, or name another one in the pipeline".into(),
    }
}

/// What `evaluate` always writes.
const RESULTS: [&str; 5] = ["scores.parquet", "summary.parquet", "comparisons.parquet", "scaling.parquet", "skipped.json"];

/// Where the training of a network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Anew,
    /// At the weights that are already in the pipeline's folder.
    FromWeights,
}

/// One stage and the work it stands for.
pub struct Step<'a> {
    pub stage: Stage,
    body: Box<dyn FnOnce() -> Result<()> + 'a>,
}

impl Pipeline {
    /// The prompt tables.
    pub fn build_data(&self) -> Result<Step<'_>> {
        let (config, context) = (&self.experiment.data, &self.context);
        config.check()?;
        let mut outputs = config.tables(context);
        outputs.extend([data::build::CARD, data::build::SUMMARY].map(|name| context.built.join(name)));
        let inputs = config.present_files(context).into_iter().map(|path| Input::new(path, "prompts", "put the file there")).collect();
        let students = self.experiment.student.iter();
        let mixtures: Vec<Mixture> =
            students.map(|student| Mixture { name: student.name.clone(), sources: student.datasets.clone() }).collect();
        let mut settings = serde_json::to_value(config).map_err(|error| Error::Invalid(format!("configuration of build-data: {error}")))?;
        settings["mixtures"] = json!(mixtures);
        let stage = self.stage("build-data", context.built.clone(), &settings, inputs, outputs)?;
        Ok(Step { stage, body: Box::new(move || data::build::run(config, &mixtures, context).map(drop)) })
    }

    /// The student `name`, distilled.
    pub fn distill(&self, name: &str) -> Result<Step<'_>> {
        let (experiment, context) = (&self.experiment, &self.context);
        let Some(config) = experiment.student.iter().find(|student| student.name == name) else {
            return Err(config::unknown("student", name, &self.students()));
        };
        config.validate()?;
        let mut inputs = self.teacher_inputs();
        let train = config.datasets.iter().map(|source| context.prompts(&source.dataset, "train"));
        inputs.extend(train.map(|path| Input::new(path, "training prompts", self.hint("build-data"))));
        let start = match &config.init {
            Initialisation::Student(name) => {
                Some(name.split_once('/').map_or_else(|| self.hint("distill"), |(pipeline, _)| hint("distill", pipeline)))
            }
            Initialisation::Encoder(path) | Initialisation::Weights(path) => hub::hint(path),
            Initialisation::Random => None,
        };
        let hint = |path: &Path| start.clone().unwrap_or_else(|| weights_hint(path));
        inputs.extend(config.files(context).into_iter().map(|path| Input::new(path.clone(), "starting weights", hint(&path))));
        let folder = context.student(name);
        let files = [STUDENT_WEIGHTS, STUDENT_CARD, distill::log::TRAIN_LOG, distill::log::EVENTS];
        let outputs = files.map(|file| folder.join(file)).to_vec();
        let settings = json!({"student": config, "teacher": experiment.teacher.essence()});
        let stage = self.stage(&format!("distill {name}"), folder, &settings, inputs, outputs)?;
        Ok(Step { stage, body: Box::new(move || distill::run(config, &experiment.teacher, context).map(drop)) })
    }

    /// The scores of all images.
    pub fn evaluate(&self) -> Result<Step<'_>> {
        let (experiment, context) = (&self.experiment, &self.context);
        let config = &experiment.evaluate;
        let mut inputs = self.image_inputs();
        inputs.extend(self.teacher_inputs());
        // A judge that is not there is a reason in the report; one that appears makes the scores stale.
        let judges = config.experts.files(&context.pipeline).into_iter().filter(|path| path.exists());
        inputs.extend(judges.map(|path| Input::new(path.clone(), "a judge's weights", weights_hint(&path))));
        let folder = context.evaluation();
        let outputs = RESULTS.map(|file| folder.join(file)).to_vec();
        let settings = json!({"evaluate": config, "teacher": experiment.teacher.essence()});
        let mut stage = self.stage("evaluate", folder.clone(), &settings, inputs, outputs)?;
        // Absent where no embeddings can be mapped.
        stage.optional_outputs.push(folder.join("tsne.parquet"));
        Ok(Step { stage, body: Box::new(move || metrics::evaluate::run(config, &experiment.teacher, context).map(drop)) })
    }

    /// The page.
    ///
    /// # Errors
    /// The numbers of a longer run that it shall show cannot be shown; no stage makes these.
    pub fn report(&self) -> Result<Step<'_>> {
        let (config, context) = (&self.experiment.report, &self.context);
        config.check(context)?;
        let evaluation = context.evaluation();
        let scores = RESULTS.map(|file| evaluation.join(file));
        let mut inputs: Vec<Input> = scores.map(|path| Input::new(path, "the scores", self.hint("evaluate"))).into();
        inputs.extend(self.image_inputs());
        inputs.extend(config.beside(context).map(|path| Input::new(path, report::beside::WHAT, report::beside::HINT)));
        let mut stage = self.stage("report", context.reports.clone(), config, inputs, vec![self.page()])?;
        // Absent where the pictures are in the page; the card where `build-data` left none.
        stage.optional_outputs.extend([report::gallery::FOLDER, report::index::CARD_PAGE].map(|name| context.reports.join(name)));
        Ok(Step { stage, body: Box::new(move || report::run(config, context).map(drop)) })
    }

    /// Writes the page for blind preferences between two encoders and prints its path.
    pub fn preference_page(&self, a: String, b: String, pairs: usize, checks: usize, dry_run: bool) -> Result<()> {
        let question = report::preference::Question { encoders: [a, b], pairs, checks };
        if dry_run {
            println!("preference-page: would write {}", report::preference::path(&question, &self.context).display());
            return Ok(());
        }
        let page = report::preference::run(&question, &self.context)?;
        report::refresh_index(&self.context)?;
        println!("{}", page.display());
        Ok(())
    }

    /// Where the report appears.
    pub fn page(&self) -> PathBuf {
        self.context.reports.join("index.html")
    }

    /// One network of the miniature world, trained.
    pub fn bootstrap(&self, name: &str, start: Start) -> Result<Step<'_>> {
        let Some(part) = Part::named(name) else {
            return Err(config::unknown("part", name, &Part::ALL.map(Part::name)));
        };
        let context = &self.context;
        let config = match start {
            Start::Anew => self.experiment.bootstrap.clone(),
            Start::FromWeights => self.experiment.bootstrap.clone().warm_started(),
        };
        let below = |files: &[&str]| files.iter().map(|file| context.pipeline.join(file)).collect::<Vec<_>>();
        let inputs = below(part.inputs()).into_iter().map(|path| Input::new(path, "an earlier part", "run `scaledown bootstrap` first"));
        let measurements = part.measurements(context);
        let mut outputs = below(part.outputs());
        outputs.push(measurements.clone());
        let folder = context.runs.join("bootstrap").join(name);
        let stage = self.stage(&format!("bootstrap {name}"), folder, &config.of(part)?, inputs.collect(), outputs)?;
        Ok(Step { stage, body: Box::new(move || bootstrap::run(&config, part, context)) })
    }

    /// Every stage, in order.
    pub fn all(&self) -> Result<Vec<Step<'_>>> {
        let mut steps = vec![self.build_data()?];
        for student in self.students() {
            steps.push(self.distill(&student)?);
        }
        for encoder in self.encoders() {
            steps.push(self.generate(&encoder)?);
        }
        steps.extend([self.evaluate()?, self.report()?]);
        Ok(steps)
    }

    /// Names of the students, in the order of the TOML.
    pub fn students(&self) -> Vec<String> {
        self.experiment.student.iter().map(|student| student.name.clone()).collect()
    }

    /// Everything images are made with: rendered ground truth where the prompts have scenes, the teacher, the students but those
    /// that are only the start of another.
    pub fn encoders(&self) -> Vec<String> {
        let students = &self.experiment.student;
        let is_stage = |name: &String| students.iter().any(|other| matches!(&other.init, Initialisation::Student(start) if start == name));
        let real = self.experiment.data.mini.is_some().then(|| REAL.to_owned());
        let finished = self.students().into_iter().filter(|name| !is_stage(name));
        real.into_iter().chain([TEACHER.to_owned()]).chain(finished).collect()
    }

    /// Files that its stages read, without those of a published model.
    pub fn files(&self) -> Vec<PathBuf> {
        let (experiment, context) = (&self.experiment, &self.context);
        let mut files = match &experiment.teacher {
            TeacherConfig::Parts(parts) => parts.files(&context.pipeline),
            TeacherConfig::Folder(_) => Vec::new(),
        };
        files.extend(experiment.evaluate.experts.files(&context.pipeline));
        files.extend(
            experiment.student.iter().flat_map(|student| student.files(context)).filter(|path| path.starts_with(&context.pipeline)),
        );
        files.extend(experiment.generate.control.iter().map(|control| context.pipeline.join(&control.image)));
        files.extend(experiment.data.file.iter().map(|file| context.datasets.join(&file.path)));
        files.extend(experiment.report.beside(context));
        files.sort();
        files.dedup();
        files
    }

    fn teacher_inputs(&self) -> Vec<Input> {
        let files = self.experiment.teacher.files(&self.context.pipeline);
        let hint = self.experiment.teacher.hint();
        let hint = |path: &Path| hint.clone().unwrap_or_else(|| weights_hint(path));
        files.into_iter().map(|path| Input::new(path.clone(), "weights of the teacher", hint(&path))).collect()
    }

    /// The images of every encoder with what the students are.
    fn image_inputs(&self) -> Vec<Input> {
        let mut inputs = Vec::new();
        for encoder in self.encoders() {
            let folder = self.context.samples(&encoder);
            let mut files = vec![folder.join("samples.parquet"), folder.join("images")];
            if encoder != REAL {
                files.push(folder.join("embeddings.safetensors"));
            }
            inputs.extend(files.into_iter().map(|path| Input::new(path, format!("images of `{encoder}`"), self.hint("generate"))));
            if self.students().contains(&encoder) {
                let card = self.context.student(&encoder).join(STUDENT_CARD);
                inputs.push(Input::new(card, format!("the card of `{encoder}`"), self.hint("distill")));
            }
        }
        inputs
    }

    fn hint(&self, command: &str) -> String {
        hint(command, &self.context.name)
    }

    fn stage(&self, name: &str, folder: PathBuf, config: &impl Serialize, inputs: Vec<Input>, outputs: Vec<PathBuf>) -> Result<Stage> {
        let config = serde_json::to_value(config).map_err(|error| Error::Invalid(format!("configuration of {name}: {error}")))?;
        let (root, seed) = (self.root.clone(), self.context.seed);
        Ok(Stage { name: name.to_owned(), root, folder, seed, config, inputs, outputs, optional_outputs: Vec::new() })
    }

    fn hashes(&self) -> HashCache {
        HashCache::open(&self.context.runs.join("hashes.json"))
    }

    /// Runs the steps one after the other and stops at the first error or at Ctrl-C.
    pub fn execute(&self, steps: Vec<Step>) -> Result<()> {
        let mut cache = self.hashes();
        let rerun = if self.context.force { Rerun::Always } else { Rerun::WhenStale };
        for step in steps {
            interrupt::check()?;
            step.stage.run(rerun, &mut cache, step.body)?;
        }
        Ok(())
    }

    /// One line per step: whether it would run, and why. Reads configurations and hashes, loads no weights.
    pub fn plan(&self, steps: &[Step]) -> Result<Vec<String>> {
        let mut cache = self.hashes();
        let mut remade: BTreeSet<PathBuf> = BTreeSet::new();
        let mut lines = Vec::new();
        for Step { stage, .. } in steps {
            let verdict = self.verdict(stage, &remade, &mut cache)?;
            if !matches!(verdict, Verdict::Fresh(_)) {
                remade.extend(stage.outputs.iter().cloned().chain([stage.manifest_path()]));
            }
            let text = match verdict {
                Verdict::Fresh(why) => format!("fresh ({why})"),
                Verdict::Run(why) => format!("would run ({why})"),
                Verdict::Blocked(why) => format!("cannot run ({why})"),
            };
            lines.push(format!("{}: {text}", stage.name));
        }
        cache.save()?;
        Ok(lines)
    }

    fn verdict(&self, stage: &Stage, remade: &BTreeSet<PathBuf>, cache: &mut HashCache) -> Result<Verdict> {
        if let Some(input) = stage.inputs.iter().find(|input| !remade.contains(&input.path) && !input.path.exists()) {
            return Ok(Verdict::Blocked(format!("{} is missing: `{}`; {}", input.what, input.path.display(), input.hint)));
        }
        if self.context.force {
            return Ok(Verdict::Run("forced".into()));
        }
        if let Some(input) = stage.inputs.iter().find(|input| remade.contains(&input.path)) {
            return Ok(Verdict::Run(format!("an earlier stage makes `{}` anew", input.path.display())));
        }
        Ok(match stage.freshness(cache)? {
            Freshness::Fresh { finished, seconds } => {
                let age = readable_seconds(unix_seconds().saturating_sub(finished) as f64);
                let counts = format!("{} inputs and {} outputs as recorded", stage.inputs.len(), stage.outputs.len());
                Verdict::Fresh(format!("made {age} ago in {}, {counts}", readable_seconds(seconds)))
            }
            Freshness::Stale { reason } => Verdict::Run(reason),
        })
    }
}

fn hint(command: &str, pipeline: &str) -> String {
    let option = match pipeline.strip_suffix(config::TINY) {
        _ if pipeline == config::DEFAULT => String::new(),
        Some(name) => format!(" --pipeline {name} --tiny"),
        None => format!(" --pipeline {pipeline}"),
    };
    format!("run `scaledown {command}{option}` first")
}

/// What would happen to a stage.
enum Verdict {
    Fresh(String),
    Run(String),
    Blocked(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_bootstrap_makes_are_missed_with_the_part_that_makes_them() {
        for (file, part) in
            [("denoiser-128.safetensors", "denoiser-128"), ("denoiser.safetensors", "denoiser"), ("ocr-detection.onnx", "ocr")]
        {
            let hint = weights_hint(&Path::new("pipelines/mini").join(file));
            assert!(hint.contains(&format!("`scaledown bootstrap --part {part}`")), "{file}: {hint}");
        }
        assert!(!weights_hint(Path::new("pipelines/other/my-denoiser.safetensors")).contains("bootstrap"));
    }
}
