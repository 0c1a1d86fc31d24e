//! The stages of a pipeline as steps: what each reads, writes and depends on, beside the call that does it. A stage knows
//! nothing of the others; their order and their files are written down here and nowhere else.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::Pipeline;
use crate::data;
use crate::error::{Error, Result};
use crate::run::hashes::HashCache;
use crate::run::interrupt;
use crate::run::manifest::{Freshness, Input, Rerun, Stage, readable_seconds, unix_seconds};

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
        let stage = self.stage("build-data", context.built.clone(), config, inputs, outputs)?;
        Ok(Step { stage, body: Box::new(move || data::build::run(config, context).map(drop)) })
    }

    /// Files committed with the pipeline that its stages read.
    pub fn files(&self) -> Vec<PathBuf> {
        self.experiment.data.file.iter().map(|file| self.context.datasets.join(&file.path)).collect()
    }

    /// Every stage, in order.
    pub fn all(&self) -> Result<Vec<Step<'_>>> {
        Ok(vec![self.build_data()?])
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

/// What would happen to a stage.
enum Verdict {
    Fresh(String),
    Run(String),
    Blocked(String),
}
