//! The stage that turns results into one HTML page: no weights, no network, no script from elsewhere. Full pictures lie in
//! a folder beside it, or inside.

pub mod beside;
pub mod claims;
pub mod compare;
pub mod data;
pub mod evidence;
pub mod figures;
pub mod gallery;
pub mod index;
pub mod page;
pub mod paper;
pub mod plot;
pub mod preference;
pub mod provenance;
pub mod reproduction;
pub mod sections;
pub mod significance;
pub mod table;
pub mod thumbnails;
pub mod verdict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::context::RunContext;
use crate::run::files;
use beside::LongerRun;
use data::Data;

/// What the page shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The student the verdict is about; without it `base`, else the largest one distilled through the denoiser.
    pub headline: Option<String>,
    /// Where the pictures in full size are.
    pub pictures: Place,
    /// Bytes of the page; small pictures shrink to fit.
    pub page_budget: usize,
    /// The `summary.parquet` of a longer run, shown in a section of its own; relative to the pipeline's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<PathBuf>,
}

impl Config {
    /// The file of the longer run's numbers, where the page shows one.
    pub fn beside(&self, context: &RunContext) -> Option<PathBuf> {
        self.beside.as_ref().map(|file| context.pipeline.join(file))
    }

    /// Fails on a file that cannot be shown, before a stage works for it.
    pub fn check(&self, context: &RunContext) -> Result<()> {
        self.longer_run(context).map(drop)
    }

    fn longer_run(&self, context: &RunContext) -> Result<Option<LongerRun>> {
        self.beside(context).map(|file| LongerRun::read(&file)).transpose()
    }
}

/// Where pictures in full size are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the folder `images` beside the page; the page holds small ones.
    Beside,
    /// In the page, as many as fit.
    Inside,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The usual question of the paper: is a base-sized encoder enough?
            headline: None,
            // Thousands of pictures do not fit into a page that opens.
            pictures: Place::Beside,
            // Pages above 25 MB open slowly and do not travel by mail.
            page_budget: 25_000_000,
            // Most runs are the longest of their kind.
            beside: None,
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

/// Writes `reports/<name>/index.html` with its pictures and the data card, and refreshes `reports/index.html`.
pub fn run(config: &Config, context: &RunContext) -> Result<Outputs> {
    let data = Data::read(context)?;
    let longer = config.longer_run(context)?;
    let rendered = page::page(&data, longer.as_ref(), config)?;
    place_pictures(&context.reports, &rendered.links)?;
    let page = context.reports.join("index.html");
    files::write_bytes(&page, rendered.html.as_bytes())?;
    index::write_card(context)?;
    Ok(Outputs { page, index: refresh_index(context)? })
}

/// Rewrites the list of all reports.
pub fn refresh_index(context: &RunContext) -> Result<PathBuf> {
    let Some(parent) = context.reports.parent() else {
        return Err(Error::Invalid(format!("the report folder `{}` has no parent for the list of reports", context.reports.display())));
    };
    index::write_index(parent)
}

/// Brings the pictures below the report's folder, each by rename, and removes those of earlier reports. They are linked
/// where the disk can do that: thousands of pictures take no room twice. Nothing ever changes a picture in place.
fn place_pictures(report: &Path, links: &[(PathBuf, PathBuf)]) -> Result<()> {
    let root = report.join(gallery::FOLDER);
    let mut wanted = BTreeSet::new();
    for (file, place) in links {
        let path = report.join(place);
        if let Some(parent) = path.parent() {
            files::create_dir(parent)?;
        }
        let temporary = files::temporary_name(&path);
        // One may be left of a run that was killed.
        let _ = std::fs::remove_file(&temporary);
        if std::fs::hard_link(file, &temporary).is_err() {
            std::fs::copy(file, &temporary).map_err(Error::io("copy", file))?;
        }
        std::fs::rename(&temporary, &path).map_err(Error::io("rename into place", &path))?;
        // Renaming onto a link to the same file does nothing and leaves the temporary name.
        let _ = std::fs::remove_file(&temporary);
        wanted.insert(path);
    }
    for folder in data::folders(&root)? {
        let list = std::fs::read_dir(&folder).map_err(Error::io("list", &folder))?;
        for entry in list {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if !wanted.contains(&path) && path.extension().is_some_and(|ending| ending == "png" || ending == "tmp") {
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        // Fails where something else lies in it, which is not ours to remove.
        let _ = std::fs::remove_dir(&folder);
    }
    let _ = std::fs::remove_dir(&root);
    Ok(())
}
