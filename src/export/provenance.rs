//! Where a student comes from, as far as its run says: card, manifest, and the scores of images that these very weights made.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::models::card::{STUDENT_WEIGHTS, StudentCard, TEACHER};
use crate::run::files;
use crate::run::manifest::{FILE_NAME, FileRecord, Manifest};
use crate::run::results::SummaryRow;

/// The table of `evaluate` that is read.
const SUMMARY: &str = "summary.parquet";
/// Folder of a run's scores, beside that of its students.
const EVALUATION: &str = "evaluate";
/// Scope of a number over all prompts.
const ALL: &str = "all";

/// What a model card says.
#[derive(Debug, Clone)]
pub struct Provenance {
    pub card: StudentCard,
    /// SHA-256 of `student.safetensors`.
    pub weights_sha256: String,
    /// File name and SHA-256 of the teacher's weights; `None` where they were random.
    pub teacher: Option<(String, String)>,
    pub manifest: Manifest,
    /// SPDX identifier, where one was given.
    pub licence: Option<String>,
    pub figures: Figures,
}

/// Scores over all prompts of one metric each.
#[derive(Debug, Clone, PartialEq)]
pub enum Figures {
    /// Of the student and, below it, of the teacher.
    Known(Vec<SummaryRow>),
    /// Why there are none.
    Unknown(String),
}

impl Provenance {
    /// Reads what lies in the student's folder and in the folders of its run.
    ///
    /// # Errors
    /// A missing manifest, and weights that are not those the manifest describes.
    pub fn read(folder: &Path, card: StudentCard, licence: Option<String>) -> Result<Self> {
        let hint = "give the folder of a student that `scaledown distill` finished: runs/PIPELINE/distill/STUDENT";
        let manifest = Manifest::read(&folder.join(FILE_NAME), hint)?;
        let weights = folder.join(STUDENT_WEIGHTS);
        let weights_sha256 = files::sha256_file(&weights)?;
        let recorded = record(&manifest.outputs, STUDENT_WEIGHTS);
        if recorded.is_none_or(|record| record.sha256 != weights_sha256) {
            let message = format!("`{}` is not the file that the manifest beside it describes", weights.display());
            return Err(Error::config(message, "run `scaledown distill` again"));
        }
        let teacher = teacher(&manifest);
        let figures = figures(folder, &card.name, &weights_sha256)?;
        Ok(Self { card, weights_sha256, teacher, manifest, licence, figures })
    }

    /// Settings of the student in the pipeline, as TOML.
    pub fn settings(&self) -> Result<String> {
        let student = self.manifest.config.get("student").cloned().unwrap_or_default();
        toml::to_string(&without_nulls(student)).map_err(|error| Error::Invalid(format!("cannot write the settings as TOML: {error}")))
    }
}

/// TOML has no null; a missing value says the same.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(fields) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_nulls(value))).collect()
        }
        other => other,
    }
}

/// The record of a file by the end of its path.
fn record<'a>(records: &'a [FileRecord], end: &str) -> Option<&'a FileRecord> {
    records.iter().find(|record| Path::new(&record.path).ends_with(end))
}

/// The file of the teacher's text encoder, as the manifest names it.
fn teacher(manifest: &Manifest) -> Option<(String, String)> {
    let file = manifest.config.pointer("/teacher/text_encoder/weights")?.as_str()?;
    record(&manifest.inputs, file).map(|record| (file.to_owned(), record.sha256.clone()))
}

/// The scores of the run `folder` lies in (`RUN/distill/STUDENT`), if its images were made by these weights.
fn figures(folder: &Path, name: &str, weights_sha256: &str) -> Result<Figures> {
    let unknown = |why: &str| Ok(Figures::Unknown(why.to_owned()));
    let folder = std::path::absolute(folder).map_err(Error::io("resolve", folder))?;
    let Some(run) = folder.parent().and_then(Path::parent) else { return unknown("the student lies in no run") };
    let (images, evaluation) = (run.join("generate").join(name), run.join(EVALUATION));
    let (Ok(images), Ok(scores)) = (manifest_in(&images), manifest_in(&evaluation)) else {
        return unknown("the run has not been evaluated");
    };
    let made_by = record(&images.inputs, &format!("{name}/{STUDENT_WEIGHTS}"));
    let samples = record(&images.outputs, "samples.parquet");
    let scored = record(&scores.inputs, &format!("generate/{name}/samples.parquet"));
    let table = evaluation.join(SUMMARY);
    let is_same = |a: Option<&FileRecord>, sha256: &str| a.is_some_and(|record| record.sha256 == sha256);
    if !is_same(made_by, weights_sha256) || !samples.is_some_and(|samples| is_same(scored, &samples.sha256)) {
        return unknown("the run's scores are of other weights");
    }
    if !table.exists() || !is_same(record(&scores.outputs, SUMMARY), &files::sha256_file(&table)?) {
        return unknown("the table of scores is not the one that the run's manifest describes");
    }
    let rows = SummaryRow::read(&table, "run `scaledown evaluate` again")?;
    let of = |encoder: &str| {
        let encoder = encoder.to_owned();
        // What was counted stands in the card; what has no interval describes the prompts more than the encoder.
        let is_measured = |row: &&SummaryRow| row.n > 1 && row.ci_low.is_finite() && row.ci_high.is_finite();
        let is_plain = move |row: &&SummaryRow| row.encoder == encoder && row.scope == ALL && row.versus.is_none();
        rows.iter().filter(is_plain).filter(is_measured).cloned()
    };
    let mut kept: Vec<SummaryRow> = of(name).chain(of(TEACHER)).collect();
    kept.sort_by(|a, b| a.metric.cmp(&b.metric));
    if kept.is_empty() { unknown("the run's table of scores does not name the student") } else { Ok(Figures::Known(kept)) }
}

fn manifest_in(folder: &Path) -> Result<Manifest> {
    let path: PathBuf = folder.join(FILE_NAME);
    Manifest::read(&path, "")
}
