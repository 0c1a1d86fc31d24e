//! Everything a report is made from, read from the result files of one run. What is not there becomes a line of the
//! section on gaps; only the sample tables and the summary are required.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::significance::Tested;
use crate::error::{Error, Result};
pub use crate::models::card::{REAL, TEACHER};
use crate::run::context::RunContext;
use crate::run::evaluation::{Skipped, TsneRow, read_skipped};
use crate::run::files;
use crate::run::results::{SampleRow, ScoreRow, SummaryRow, TOKENS, TokenRow, TrainLogRow};

/// One run as the page sees it.
#[derive(Debug)]
pub struct Data {
    pub name: String,
    /// Ground truth, teacher, then students from large to small.
    pub encoders: Vec<Encoder>,
    pub summary: Vec<SummaryRow>,
    pub scores: Vec<ScoreRow>,
    /// Tests of the differences, and scaling laws.
    pub tested: Tested,
    pub tsne: Vec<TsneRow>,
    pub skipped: Vec<Skipped>,
    /// What could not be read, in sentences.
    pub gaps: Vec<String>,
    /// Manifests by a short name, as JSON.
    pub manifests: Vec<(String, Value)>,
}

/// One text encoder, or the ground truth.
#[derive(Debug)]
pub struct Encoder {
    pub name: String,
    pub folder: PathBuf,
    pub samples: Vec<SampleRow>,
    /// The student's card; the report reads what it finds in it.
    pub card: Option<Value>,
    pub log: Vec<TrainLogRow>,
    /// What it was given of each prompt, by prompt id; empty where that was not written.
    pub tokens: BTreeMap<u64, TokenRow>,
}

impl Encoder {
    /// A text of the card.
    pub fn card_text(&self, key: &str) -> Option<&str> {
        self.card.as_ref()?.get(key)?.as_str()
    }

    /// A number of the card.
    pub fn card_number(&self, key: &str) -> Option<f64> {
        self.card.as_ref()?.get(key)?.as_f64()
    }

    /// `vision`, `naive` or `none`; `None` for the teacher and the ground truth.
    pub fn objective(&self) -> Option<&str> {
        self.card_text("objective")
    }

    /// Prompt sets that it learned from, as its card says.
    pub fn prompt_sets(&self) -> Vec<&str> {
        let sets = self.card.as_ref().and_then(|card| card.get("datasets")?.as_array());
        sets.into_iter().flatten().filter_map(|set| set.as_str()).collect()
    }

    /// Whether it was distilled at all.
    pub fn is_student(&self) -> bool {
        self.name != REAL && self.name != TEACHER
    }
}

impl Data {
    /// Reads the results of `context`'s run.
    pub fn read(context: &RunContext) -> Result<Self> {
        let evaluation = context.evaluation();
        let hint = "run `scaledown evaluate` first";
        let summary = SummaryRow::read(&evaluation.join("summary.parquet"), hint)?;
        let scores = ScoreRow::read(&evaluation.join("scores.parquet"), hint)?;
        let mut gaps = Vec::new();
        let tested = Tested::read(&evaluation, &mut gaps)?;
        let tsne = optional(&evaluation.join("tsne.parquet"), &mut gaps, "the map of text embeddings", |path| TsneRow::read(path, hint))?;
        let skipped = optional(&evaluation.join("skipped.json"), &mut gaps, "the list of skipped metrics", read_skipped)?;
        let encoders = read_encoders(context, &mut gaps)?;
        if encoders.iter().all(|encoder| encoder.samples.is_empty()) {
            gaps.push("No image was generated, so there is nothing to look at and nothing that could be scored.".into());
        }
        for folder in folders(&context.runs.join("distill"))? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !encoders.iter().any(|encoder| encoder.name == name) {
                gaps.push(format!("Student {name} was distilled, but has no generated images."));
            }
        }
        let mut data = Self { name: context.name.clone(), encoders, summary, scores, tested, tsne, skipped, gaps, manifests: Vec::new() };
        data.read_manifests(context)?;
        data.sort_encoders();
        for encoder in data.encoders.iter().filter(|encoder| encoder.name != REAL) {
            if !data.summary.iter().any(|row| row.encoder == encoder.name) {
                data.gaps.push(format!("Encoder {} has images, but no scores: evaluate ran before it was generated.", encoder.name));
            }
        }
        Ok(data)
    }

    /// Reads only what `generate` and `distill` left.
    pub fn read_images(context: &RunContext) -> Result<Self> {
        let mut gaps = Vec::new();
        let encoders = read_encoders(context, &mut gaps)?;
        let mut data = Self {
            name: context.name.clone(),
            encoders,
            summary: Vec::new(),
            scores: Vec::new(),
            tested: Tested::default(),
            tsne: Vec::new(),
            skipped: Vec::new(),
            gaps,
            manifests: Vec::new(),
        };
        data.sort_encoders();
        Ok(data)
    }

    /// A run of which only the summary is known.
    pub fn of_summary(name: &str, summary: Vec<SummaryRow>) -> Self {
        let mut encoders: Vec<Encoder> = Vec::new();
        for row in &summary {
            if !encoders.iter().any(|encoder| encoder.name == row.encoder) {
                encoders.push(Encoder {
                    name: row.encoder.clone(),
                    folder: PathBuf::new(),
                    samples: Vec::new(),
                    card: None,
                    log: Vec::new(),
                    tokens: BTreeMap::new(),
                });
            }
        }
        let mut data = Self {
            name: name.to_owned(),
            encoders,
            summary,
            scores: Vec::new(),
            tested: Tested::default(),
            tsne: Vec::new(),
            skipped: Vec::new(),
            gaps: Vec::new(),
            manifests: Vec::new(),
        };
        data.sort_encoders();
        data
    }

    /// The encoder of that name.
    pub fn encoder(&self, name: &str) -> Option<&Encoder> {
        self.encoders.iter().find(|encoder| encoder.name == name)
    }

    /// A reported number.
    pub fn number(&self, encoder: &str, metric: &str, scope: &str, versus: Option<&str>) -> Option<&SummaryRow> {
        self.summary
            .iter()
            .find(|row| row.encoder == encoder && row.metric == metric && row.scope == scope && row.versus.as_deref() == versus)
    }

    /// What an encoder's differences are taken against.
    pub fn references(&self, encoder: &str) -> Vec<&str> {
        let mut references: Vec<&str> = Vec::new();
        for row in self.summary.iter().filter(|row| row.encoder == encoder) {
            if let Some(versus) = row.versus.as_deref().filter(|versus| !references.contains(versus)) {
                references.push(versus);
            }
        }
        references
    }

    /// A number over everything the metric applies to.
    pub fn value(&self, encoder: &str, metric: &str) -> Option<&SummaryRow> {
        self.number(encoder, metric, "all", None)
    }

    /// Scalar weights with the projection.
    pub fn parameters(&self, encoder: &str) -> Option<f64> {
        let from_card = || self.encoder(encoder)?.card_number("parameters");
        self.value(encoder, "parameters").map(|row| row.value).or_else(from_card)
    }

    /// Scalar weights of the encoder alone.
    pub fn parameters_encoder(&self, encoder: &str) -> Option<f64> {
        let from_card = || self.encoder(encoder)?.card_number("parameters_without_projection");
        self.value(encoder, "parameters_encoder").map(|row| row.value).or_else(from_card)
    }

    /// Metrics that have plain values, in order of the summary.
    pub fn metrics(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for row in self.summary.iter().filter(|row| row.versus.is_none()) {
            if !names.contains(&row.metric.as_str()) {
                names.push(&row.metric);
            }
        }
        names
    }

    /// The student the first sentence is about: `base`, else the largest one distilled through the denoiser, else the
    /// first student.
    pub fn headline(&self, chosen: Option<&str>) -> Option<&Encoder> {
        let named = |name: &str| self.encoders.iter().find(|encoder| encoder.name == name && encoder.is_student());
        chosen
            .and_then(named)
            .or_else(|| named("base"))
            .or_else(|| self.encoders.iter().find(|encoder| encoder.objective() == Some("vision")))
            .or_else(|| self.encoders.iter().find(|encoder| encoder.is_student()))
    }

    /// Students distilled through the denoiser from as many prompt sets as any of them, one of each size, from large to small.
    pub fn sizes(&self) -> Vec<&Encoder> {
        let vision = || self.encoders.iter().filter(|encoder| encoder.objective() == Some("vision"));
        let most = vision().map(|encoder| encoder.prompt_sets().len()).max().unwrap_or(0);
        let mut students: Vec<&Encoder> = vision().filter(|encoder| encoder.prompt_sets().len() == most).collect();
        let size = |encoder: &Encoder| self.parameters_encoder(&encoder.name).unwrap_or(0.0);
        students.sort_by(|a, b| size(b).total_cmp(&size(a)));
        students.dedup_by(|a, b| a.card_text("preset") == b.card_text("preset"));
        students
    }

    /// Students of the same architecture with that objective, without `of` itself.
    pub fn twins(&self, of: &Encoder, objective: &str) -> Vec<&Encoder> {
        let Some(preset) = of.card_text("preset") else { return Vec::new() };
        let same = |encoder: &&Encoder| {
            encoder.name != of.name && encoder.card_text("preset") == Some(preset) && encoder.objective() == Some(objective)
        };
        self.encoders.iter().filter(same).collect()
    }

    fn sort_encoders(&mut self) {
        let rank = |name: &str| match name {
            REAL => 0,
            TEACHER => 1,
            _ => 2,
        };
        let objective_rank = |encoder: &Encoder| match encoder.objective() {
            Some("vision") => 0,
            Some("naive") => 1,
            _ => 2,
        };
        let size: BTreeMap<String, f64> =
            self.encoders.iter().map(|encoder| (encoder.name.clone(), self.parameters(&encoder.name).unwrap_or(0.0))).collect();
        self.encoders.sort_by(|a, b| {
            let by_size = size[&b.name].total_cmp(&size[&a.name]);
            rank(&a.name)
                .cmp(&rank(&b.name))
                .then(objective_rank(a).cmp(&objective_rank(b)))
                .then(by_size)
                .then_with(|| a.name.cmp(&b.name))
        });
    }

    fn read_manifests(&mut self, context: &RunContext) -> Result<()> {
        let mut places = vec![("build-data".to_owned(), context.built.clone())];
        for stage in ["distill", "generate"] {
            for folder in folders(&context.runs.join(stage))? {
                places.push((format!("{stage} {}", folder.file_name().unwrap_or_default().to_string_lossy()), folder));
            }
        }
        places.push(("evaluate".to_owned(), context.evaluation()));
        for (name, folder) in places {
            let path = folder.join("manifest.json");
            if !path.is_file() {
                self.gaps.push(format!("Stage {name} left no manifest, so its inputs are not recorded here."));
                continue;
            }
            self.manifests.push((name, read_json(&path, "manifest")?));
        }
        Ok(())
    }
}

fn read_encoders(context: &RunContext, gaps: &mut Vec<String>) -> Result<Vec<Encoder>> {
    let mut encoders = Vec::new();
    for folder in folders(&context.runs.join("generate"))? {
        let table = folder.join("samples.parquet");
        if !table.is_file() {
            continue;
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let samples = SampleRow::read(&table, "run `scaledown generate` first")?;
        encoders.push(read_encoder(name, folder, samples, context, gaps)?);
    }
    Ok(encoders)
}

fn read_encoder(name: String, folder: PathBuf, samples: Vec<SampleRow>, context: &RunContext, gaps: &mut Vec<String>) -> Result<Encoder> {
    let mut encoder = Encoder { name, folder, samples, card: None, log: Vec::new(), tokens: BTreeMap::new() };
    let tokens = encoder.folder.join(TOKENS);
    if tokens.is_file() {
        let rows = TokenRow::read(&tokens, "run `scaledown generate` again")?;
        encoder.tokens = rows.into_iter().map(|row| (row.prompt_id, row)).collect();
    } else if encoder.name != REAL {
        gaps.push(format!("The images of {} came without a table of tokens: padding and cut prompts are not known.", encoder.name));
    }
    if !encoder.is_student() {
        return Ok(encoder);
    }
    let student = context.student(&encoder.name);
    let card = student.join("student.json");
    if card.is_file() {
        encoder.card = Some(read_json(&card, "student card")?);
    } else {
        gaps.push(format!("Encoder {} has no student card: its size and objective are not known.", encoder.name));
    }
    let log = student.join("train-log.parquet");
    if log.is_file() {
        encoder.log = TrainLogRow::read(&log, "run `scaledown distill` again")?;
    } else if encoder.objective().is_some_and(|objective| objective != "none") {
        gaps.push(format!("Student {} has no train log, so there is no learning curve.", encoder.name));
    }
    Ok(encoder)
}

fn optional<T: Default>(path: &Path, gaps: &mut Vec<String>, what: &str, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    if path.is_file() {
        return read(path);
    }
    gaps.push(format!("Evaluate did not write {what}."));
    Ok(T::default())
}

fn read_json(path: &Path, format: &'static str) -> Result<Value> {
    serde_json::from_slice(&files::read_bytes(path, format, "")?).map_err(|error| Error::format(format, path, error))
}

/// Folders below `folder` by name; none where it does not exist.
pub fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
