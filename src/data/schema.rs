//! The table of prompts that every stage after `build-data` reads.

use crate::run::rng;

/// Name of the set for image quality: captions.
pub const LAION: &str = "laion";
/// Name of the set for semantic understanding: attributes, places, counts.
pub const COMPBENCH: &str = "compbench";
/// Name of the set for text rendering.
pub const COMMONTEXT: &str = "commontext";
/// All sets, in the order of the paper.
pub const DATASETS: [&str; 3] = [LAION, COMPBENCH, COMMONTEXT];

/// Split that students learn from.
pub const TRAIN: &str = "train";
/// Split that images are generated and scored for.
pub const VAL: &str = "val";

crate::table! {
    /// One prompt.
    pub struct PromptRow {
        /// `run::rng::text_id` of the prompt: keys the noise, the guidance and every paired comparison.
        pub prompt_id: u64,
        /// `laion`, `compbench` or `commontext`.
        pub dataset: String,
        /// Category within the set, for example `caption`, `color`, `spatial`, `numeracy`, `seen`, `unseen`.
        pub category: String,
        /// `train` or `val`.
        pub split: String,
        pub prompt: String,
        /// Text the image should show, if any.
        pub target_text: Option<String>,
        /// Ground truth of a miniature-world prompt as JSON (`mini::scene::Scene`), if any.
        pub scene: Option<String>,
    }
}

impl PromptRow {
    /// A row whose id follows from its prompt.
    pub fn new(dataset: &str, category: &str, split: &str, prompt: String, target_text: Option<String>, scene: Option<String>) -> Self {
        let prompt_id = rng::text_id(&prompt);
        Self { prompt_id, dataset: dataset.into(), category: category.into(), split: split.into(), prompt, target_text, scene }
    }
}
