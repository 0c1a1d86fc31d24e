//! The stage that turns results into one self-contained HTML page: no weights, no network, no script from elsewhere.

pub mod compare;
pub mod data;
pub mod figures;
pub mod grid;
pub mod page;
pub mod paper;
pub mod plot;
pub mod provenance;
pub mod sections;
pub mod significance;
pub mod table;
pub mod verdict;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::context::RunContext;
use crate::run::files;
use data::Data;

/// What the page shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The student the verdict is about; without it `base`, else the largest one distilled through the denoiser.
    pub headline: Option<String>,
    /// Bytes of pictures with their captions.
    pub picture_budget: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The usual question of the paper: is a base-sized encoder enough?
            headline: None,
            // Pages above 15 MB open slowly and do not travel by mail; tables and figures need about one.
            picture_budget: 12_000_000,
        }
    }
}

/// Where the pages lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    pub page: PathBuf,
    /// The list of all reports.
    pub index: PathBuf,
}

/// Writes `reports/<name>/index.html` and refreshes `reports/index.html`.
pub fn run(config: &Config, context: &RunContext) -> Result<Outputs> {
    let data = Data::read(context)?;
    let page = context.reports.join("index.html");
    files::write_bytes(&page, page::page(&data, config)?.as_bytes())?;
    let Some(parent) = context.reports.parent() else {
        return Err(Error::Invalid(format!("the report folder `{}` has no parent for the list of reports", context.reports.display())));
    };
    let index = parent.join("index.html");
    files::write_bytes(&index, page::index(&reports_below(parent)?).as_bytes())?;
    Ok(Outputs { page, index })
}

/// Names of the folders that hold a report.
fn reports_below(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.join("index.html").is_file() {
            names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
