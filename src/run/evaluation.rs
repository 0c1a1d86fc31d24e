//! What `evaluate` leaves for `report` besides the scores: tested comparisons, scaling laws, the map of the text embeddings and
//! the list of what did not run.

use std::path::Path;

use crate::error::{Error, Result};
use crate::run::files;

crate::table! {
    /// One prompt's text embedding on the t-SNE plane; all encoders of one table share the plane.
    pub struct TsneRow {
        pub encoder: String,
        pub prompt_id: u64,
        pub dataset: String,
        pub category: String,
        pub x: f64,
        pub y: f64,
    }
}

crate::table! {
    /// One encoder against another one on the same prompts, tested.
    pub struct ComparisonRow {
        pub encoder: String,
        pub versus: String,
        pub metric: String,
        /// `all`, a prompt set, or a category.
        pub scope: String,
        /// Mean of `encoder` minus `versus` over pairs of images.
        pub value: f64,
        /// Interval of the paired bootstrap over prompts; infinite where there is none.
        pub ci_low: f64,
        pub ci_high: f64,
        /// Pairs of images.
        pub n: u64,
        pub prompts: u64,
        /// Of the mean difference; infinite where there is none.
        pub standard_error: f64,
        /// The test behind `p`.
        pub test: String,
        /// Two-sided p-value; `None` where nothing can be tested.
        pub p: Option<f64>,
        /// The same question answered by a second method: the exact McNemar test or the studentised bootstrap.
        pub p_check: Option<f64>,
        /// `p` corrected over the table after Holm.
        pub p_holm: Option<f64>,
        /// Largest difference that does not matter, in the metric's unit.
        pub margin: Option<f64>,
        /// p-value of two one-sided tests against the margin.
        pub p_equivalence: Option<f64>,
        /// The same corrected over the table after Holm.
        pub p_equivalence_holm: Option<f64>,
        /// Tests in the table: everything compared with `versus` in `scope`.
        pub family: u64,
        /// `better`, `worse`, `equivalent`, `better, within the margin`, `worse, within the margin` or `undecided`.
        pub outcome: String,
        pub unit: String,
        /// `higher` or `lower` is better, or `none`.
        pub direction: String,
        pub protocol: String,
    }
}

crate::table! {
    /// A score as a line over the decimal logarithm of the encoder's weights.
    pub struct ScalingRow {
        pub metric: String,
        /// Encoders on the line: the teacher and the students distilled through the denoiser.
        pub encoders: u64,
        /// Points gained by ten times the weights.
        pub slope: f64,
        /// Interval of the slope over prompts.
        pub ci_low: f64,
        pub ci_high: f64,
        /// t interval of the slope over encoders: how well a line fits.
        pub fit_low: f64,
        pub fit_high: f64,
        /// The line's height at one weight: score = intercept + slope · log₁₀(weights).
        pub intercept: f64,
        pub r_squared: f64,
        pub prompts: u64,
        pub unit: String,
        pub protocol: String,
    }
}

/// A metric that gave no number, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    pub metric: String,
    /// The encoder concerned; `None` where it concerns all.
    pub encoder: Option<String>,
    pub reason: String,
}

/// Writes the list as JSON; an empty list is written too, it says that nothing was skipped.
pub fn write_skipped(path: &Path, skipped: &[Skipped]) -> Result<()> {
    let text = serde_json::to_vec_pretty(skipped).map_err(|error| Error::format("list of skipped metrics", path, error))?;
    files::write_bytes(path, &text)
}

/// Reads what [`write_skipped`] wrote.
pub fn read_skipped(path: &Path) -> Result<Vec<Skipped>> {
    let bytes = files::read_bytes(path, "the list of skipped metrics", "run `scaledown evaluate` first")?;
    serde_json::from_slice(&bytes).map_err(|error| Error::format("list of skipped metrics", path, error))
}
