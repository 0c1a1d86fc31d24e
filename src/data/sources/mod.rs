//! Where prompts come from. A source reads everything it has; splitting and auditing come after.

pub mod coco;
pub mod commontext;
pub mod compbench;
pub mod diffusiondb;
pub mod laion;
pub mod text_file;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// What the build may do to the prompts of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Treatment {
    /// Found texts: cleaned, freed of duplicates and of training prompts that are validation prompts, too.
    #[default]
    Clean,
    /// The lines of a benchmark, or prompts made to measure: white space only. Every line counts, the same one twice included.
    Verbatim,
}

/// A prompt as its source gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawPrompt {
    pub dataset: String,
    /// [`PromptSource::name`]; the build fills it in where it is empty.
    pub source: String,
    pub category: String,
    /// `train` or `val` where the source decides, `None` where the build is to split.
    pub split: Option<String>,
    pub prompt: String,
    /// Text the image should show, if any.
    pub target_text: Option<String>,
    /// What the prompt asks for as JSON (`data::structure::Structure`), if any.
    pub structure: Option<String>,
    /// Ground truth as JSON (`mini::scene::Scene`), if any.
    pub scene: Option<String>,
    /// Length in tokens of the T5 tokenizer with the end mark, if known.
    pub t5_tokens: Option<u64>,
    /// Length in tokens of the CLIP tokenizer with both marks, if known.
    pub clip_tokens: Option<u64>,
    /// What cleaning noticed, sorted ([`crate::data::flags::Flags::names`]).
    pub flags: Vec<String>,
    /// [`PromptSource::licence`]; the build fills it in where it is empty.
    pub licence: String,
    pub treatment: Treatment,
}

/// What a source gave, and what it left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    pub prompts: Vec<RawPrompt>,
    /// The source's own filters in their order; empty where it gives all it has.
    pub removed: Vec<Removed>,
}

/// Rows that one filter left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The filter in words, for the data card.
    pub filter: String,
    pub rows: u64,
}

impl From<Vec<RawPrompt>> for Reading {
    /// A reading that left nothing out.
    fn from(prompts: Vec<RawPrompt>) -> Self {
        Self { prompts, removed: Vec::new() }
    }
}

/// A set of prompts.
pub trait PromptSource {
    /// How messages, tables and the data card name it: the same on every machine.
    fn name(&self) -> String;
    /// Licence of the prompts, for the table and the data card.
    fn licence(&self) -> String;
    /// Files it reads; a missing one makes the build partial.
    fn files(&self) -> Vec<PathBuf>;
    /// True if a build without it is complete; what is missing is told all the same.
    fn optional(&self) -> bool {
        false
    }
    /// Its name in `datasets/sources.toml`, where it has one.
    fn fetched_as(&self) -> Option<&'static str> {
        None
    }
    /// All its prompts.
    fn read(&self) -> Result<Reading>;
}

#[cfg(test)]
impl RawPrompt {
    /// A prompt for tests, with what the schema requires.
    pub(crate) fn example(dataset: &str, split: &str, prompt: &str) -> Self {
        Self {
            dataset: dataset.into(),
            source: "test".into(),
            category: "all".into(),
            split: Some(split.into()),
            prompt: prompt.into(),
            licence: "CC0-1.0".into(),
            ..Self::default()
        }
    }
}
