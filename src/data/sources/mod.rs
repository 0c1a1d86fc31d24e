//! Where prompts come from. A source reads everything it has; cleaning, splitting and auditing come after.

pub mod text_file;

use std::path::PathBuf;

use crate::error::Result;

/// A prompt as its source gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPrompt {
    pub dataset: String,
    pub category: String,
    /// `train` or `val` where the source decides, `None` where the build is to split.
    pub split: Option<String>,
    pub prompt: String,
    /// Text the image should show, if any.
    pub target_text: Option<String>,
    /// Ground truth as JSON (`mini::scene::Scene`), if any.
    pub scene: Option<String>,
}

/// A set of prompts.
pub trait PromptSource {
    /// How messages and the data card name it.
    fn name(&self) -> String;
    /// Licence of the prompts, for the data card.
    fn licence(&self) -> String;
    /// Files it reads; a missing one makes the build partial.
    fn files(&self) -> Vec<PathBuf>;
    /// All its prompts.
    fn read(&self) -> Result<Vec<RawPrompt>>;
}
