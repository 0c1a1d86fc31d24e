//! What `evaluate` leaves for `report` besides the scores: the map of the text embeddings and the list of what did not run.

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
