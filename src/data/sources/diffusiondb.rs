//! Prompts that people wrote, from the metadata table of DiffusionDB: some hundred of them, for the map of embeddings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::laion::columns::Names;
use super::laion::{self, Laion, Score};
use super::{PromptSource, RawPrompt, Reading, Treatment};
use crate::data::clean;
use crate::data::schema::{DIFFUSIONDB, VAL};
use crate::data::tokens;
use crate::error::Result;

/// `[data.diffusiondb]` of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Parquet files relative to the folder of the sources.
    pub files: Vec<PathBuf>,
    /// Different prompts drawn.
    pub sample: usize,
    pub licence: String,
    /// Whether a build without the table is complete.
    pub optional: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            files: vec!["diffusiondb/metadata*.parquet".into()],
            // The points of the paper's figure.
            sample: 500,
            licence: "CC0-1.0".into(),
            // What a pipeline names it means.
            optional: false,
        }
    }
}

impl Config {
    /// The table read as one of captions: it has a column `prompt`, one `prompt_nsfw` and no aesthetic scores.
    fn captions(&self) -> laion::Config {
        laion::Config {
            files: self.files.clone(),
            columns: Names::default(),
            score: Score::AlreadyFiltered,
            sample: Some(self.sample),
            licence: self.licence.clone(),
            ..laion::Config::default()
        }
    }

    /// Fails where no prompt could be drawn.
    pub fn check(&self) -> Result<()> {
        self.captions().check()
    }
}

/// The prompts of the table.
#[derive(Debug, Clone)]
pub struct DiffusionDb {
    captions: Laion,
    optional: bool,
}

impl DiffusionDb {
    /// The table of `config` below `folder`.
    pub fn new(config: &Config, clean: clean::Config, tokenizers: tokens::Config, folder: PathBuf, seed: u64) -> Self {
        Self { captions: Laion { config: config.captions(), clean, tokenizers, folder, seed }, optional: config.optional }
    }
}

impl PromptSource for DiffusionDb {
    fn name(&self) -> String {
        "DiffusionDB".into()
    }

    fn licence(&self) -> String {
        self.captions.licence()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.captions.files()
    }

    fn optional(&self) -> bool {
        self.optional
    }

    fn fetched_as(&self) -> Option<&'static str> {
        Some("diffusiondb")
    }

    fn read(&self) -> Result<Reading> {
        let reading = self.captions.read()?;
        let prompts = reading.prompts.into_iter().map(|prompt| RawPrompt {
            dataset: DIFFUSIONDB.into(),
            category: "prompt".into(),
            split: Some(VAL.into()),
            // The number of points is given, and nothing is trained on them.
            treatment: Treatment::Verbatim,
            ..prompt
        });
        Ok(Reading { prompts: prompts.collect(), removed: reading.removed })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn different_prompts_are_drawn_for_validation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("diffusiondb/metadata.parquet");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Every prompt four times, as users try seeds; one in ten is unsafe.
        let prompts: StringArray = (0..400).map(|i| Some(format!("portrait of wizard {}, trending on artstation", i / 4))).collect();
        let nsfw: Float32Array = (0..400).map(|i| Some(if i / 4 % 10 == 0 { 0.9 } else { 0.01 })).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![("prompt", Arc::new(prompts)), ("prompt_nsfw", Arc::new(nsfw))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let source = |sample| {
            let config = Config { sample, ..Config::default() };
            DiffusionDb::new(&config, clean::Config::default(), tokens::Config::default(), folder.path().into(), 3)
        };
        let reading = source(50).read().unwrap();
        assert_eq!(reading.prompts.len(), 50);
        assert!(reading.prompts.iter().all(|prompt| prompt.dataset == DIFFUSIONDB && prompt.split.as_deref() == Some(VAL)));
        assert_eq!(source(500).read().unwrap().prompts.len(), 90);
        assert!(Config { sample: 0, ..Config::default() }.check().is_err());
    }
}
