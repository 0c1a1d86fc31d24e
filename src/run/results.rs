//! The tables by which `generate`, `evaluate` and `report` talk.

use serde::{Deserialize, Serialize};

/// Name of the table of [`TokenRow`]s beside the images.
pub const TOKENS: &str = "tokens.parquet";

/// Name of the file with [`Costs`] beside the images.
pub const COSTS: &str = "costs.json";

/// What one image costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// With all networks in memory; absent where they are not kept there.
    pub in_memory: Option<Cost>,
    /// With one network at a time, read from its files for every image.
    pub offloaded: Cost,
    /// Whether layers stay in mapped files, which nobody counts.
    pub mapped: bool,
    pub steps: u64,
    /// Pixels along each side of the image.
    pub resolution: u64,
    pub threads: u64,
}

/// Time and memory of one image after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Of each timed image, from prompt to pixels.
    pub seconds: Vec<f64>,
    /// Most bytes in use at a time, networks included; absent where nobody counts.
    pub peak_bytes: Option<u64>,
}

crate::table! {
    /// One generated image.
    pub struct SampleRow {
        /// Name of the text encoder that made it: `teacher`, a student's name, or `real` for rendered ground truth.
        pub encoder: String,
        pub prompt_id: u64,
        /// Prompt set: `laion`, `compbench` or `commontext`.
        pub dataset: String,
        /// Category within the set, for example `color`, `spatial`, `numeracy`, `seen`, `unseen`.
        pub category: String,
        pub prompt: String,
        /// Text the image should show, if any.
        pub target_text: Option<String>,
        /// Ground truth of a miniature-world prompt as JSON (`mini::scene::Scene`), if any.
        pub scene: Option<String>,
        /// Which of the images of this prompt.
        pub image_idx: u64,
        pub seed: u64,
        pub guidance: f64,
        pub steps: u64,
        /// PNG file, relative to the folder of this table.
        pub image: String,
    }
}

crate::table! {
    /// What a text encoder is given of one prompt.
    pub struct TokenRow {
        pub prompt_id: u64,
        /// The pieces of the whole prompt with its end piece, as a JSON array of texts.
        pub pieces: String,
        /// How many of them the encoder sees, the end piece included; the others are cut.
        pub kept: u64,
        /// Length of every sequence; what the pieces do not fill is padding.
        pub length: u64,
    }
}

crate::table! {
    /// One metric of one image.
    pub struct ScoreRow {
        pub encoder: String,
        pub prompt_id: u64,
        pub dataset: String,
        pub category: String,
        pub image_idx: u64,
        /// For example `clip_score`, `compbench`, `ocr_char`.
        pub metric: String,
        pub value: f64,
        /// Human-readable evidence as JSON: the OCR string, the answers, the boxes.
        pub detail: Option<String>,
        pub protocol: String,
    }
}

crate::table! {
    /// One reported number.
    pub struct SummaryRow {
        pub encoder: String,
        pub metric: String,
        /// `all`, a prompt set, or a category.
        pub scope: String,
        /// The encoder a difference is taken against; `None` for a plain value.
        pub versus: Option<String>,
        pub value: f64,
        pub ci_low: f64,
        pub ci_high: f64,
        /// Number of images (for differences: of pairs).
        pub n: u64,
        pub unit: String,
        /// `higher` or `lower` is better, or `none`.
        pub direction: String,
        /// Model, weights hash, resize, variant; numbers of different protocols never share a column.
        pub protocol: String,
    }
}

crate::table! {
    /// One update of the student.
    pub struct TrainLogRow {
        pub update: u64,
        pub loss: f64,
        pub gradient_norm: f64,
        pub learning_rate: f64,
        /// Seconds since the start, summed over resumes.
        pub seconds: f64,
        pub denoising_step: u64,
        pub guidance: f64,
    }
}
