//! Where a run finds its inputs and leaves its outputs.

use std::path::{Path, PathBuf};

/// The folders and switches of one run of one pipeline.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// Name of the pipeline, for example `mini`.
    pub name: String,
    /// Folder of the pipeline's TOML, tokenizer and weights.
    pub pipeline: PathBuf,
    /// Committed inputs: word lists, published numbers (`datasets/`).
    pub datasets: PathBuf,
    /// Published prompt sets that the user fetched or has (`datasets/sources`, or the folder given by `--from`).
    pub sources: PathBuf,
    /// Output of `build-data` (`datasets/built/<name>`).
    pub built: PathBuf,
    /// Output of `distill`, `generate` and `evaluate` (`runs/<name>`).
    pub runs: PathBuf,
    /// Output of `report` (`reports/<name>`).
    pub reports: PathBuf,
    pub seed: u64,
    /// Do the work again although it is fresh.
    pub force: bool,
}

impl RunContext {
    /// The standard folders below `root` for the pipeline `name` whose files lie in `pipeline`.
    pub fn below(root: &Path, name: &str, pipeline: PathBuf, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            pipeline,
            datasets: root.join("datasets"),
            sources: root.join("datasets/sources"),
            built: root.join("datasets/built").join(name),
            runs: root.join("runs").join(name),
            reports: root.join("reports").join(name),
            seed,
            force: false,
        }
    }

    /// Prompts of one split, written by `build-data`.
    pub fn prompts(&self, dataset: &str, split: &str) -> PathBuf {
        self.built.join(format!("{dataset}-{split}.parquet"))
    }

    /// Folder of one distilled student; `flux-dev/base` is the student `base` of the pipeline `flux-dev`.
    pub fn student(&self, student: &str) -> PathBuf {
        let (runs, student) = match student.split_once('/') {
            Some((pipeline, student)) => (self.runs.with_file_name(pipeline), student),
            None => (self.runs.clone(), student),
        };
        runs.join("distill").join(student)
    }

    /// Folder of the images of one encoder.
    pub fn samples(&self, encoder: &str) -> PathBuf {
        self.runs.join("generate").join(encoder)
    }

    /// Folder of the scores.
    pub fn evaluation(&self) -> PathBuf {
        self.runs.join("evaluate")
    }
}
