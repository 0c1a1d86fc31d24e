//! The images as data of the page: per prompt and noise one item with the image, the scores and the evidence of every
//! encoder. The page's script draws from it; no text in it is ever markup.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Serialize;

use super::data::{Data, Encoder, REAL, TEACHER};
use super::evidence::{Evidence, rounded};
use super::page::metric_title;
use crate::error::{Error, Result};
use crate::run::files;
use crate::run::html::{address, json_for_script};
use crate::run::results::{SampleRow, ScoreRow};

/// Folder of the full pictures beside the page.
pub const FOLDER: &str = "images";

/// Everything the script draws.
#[derive(Debug, Serialize)]
pub struct Gallery {
    encoders: Vec<String>,
    metrics: Vec<Metric>,
    /// The encoder that the others are compared with: the teacher, else the first.
    reference: usize,
    /// The encoder whose regressions come first.
    headline: usize,
    pub items: Vec<Item>,
    /// Width and height of one picture in a strip.
    pub cell: (u32, u32),
    /// Width and height of a full picture: the unit of the detectors' boxes.
    pub natural: (u32, u32),
    /// Files of the pictures by item and encoder.
    #[serde(skip)]
    pub files: Vec<Vec<Option<PathBuf>>>,
}

#[derive(Debug, Serialize)]
struct Metric {
    title: String,
    /// Less is better.
    lower: bool,
}

/// One prompt under one noise.
#[derive(Debug, Serialize)]
pub struct Item {
    id: String,
    dataset: String,
    category: String,
    prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    seed: u64,
    guidance: f64,
    steps: u64,
    /// Which of the prompt's images, from 1.
    draw: u64,
    /// What the encoders are given; encoders that are given the same share an entry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<Tokens>,
    /// The metric the prompt was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<usize>,
    /// One per encoder.
    pub images: Vec<Option<Image>>,
}

#[derive(Debug, Serialize)]
struct Tokens {
    encoders: Vec<usize>,
    pieces: Vec<String>,
    kept: u64,
    length: u64,
}

/// One encoder's image of an item.
#[derive(Debug, Serialize)]
pub struct Image {
    /// Address of the full picture; where it stands in the page, `#` and the number of its line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<String>,
    /// Metric and value.
    scores: Vec<(usize, f64)>,
    #[serde(flatten)]
    evidence: Evidence,
}

/// Prompt set, category, prompt and image: what images of all encoders share.
type Key<'a> = (&'a str, &'a str, u64, u64);

impl Gallery {
    /// Gathers the images of all encoders, prompts taken in turn from every category.
    pub fn gather(data: &Data, headline: Option<&Encoder>) -> Result<Self> {
        let position = |name: &str| data.encoders.iter().position(|encoder| encoder.name == name);
        let reference = position(TEACHER).unwrap_or(0);
        let mut gallery = Self {
            encoders: data.encoders.iter().map(|encoder| super::sections::display_name(encoder).to_owned()).collect(),
            metrics: Vec::new(),
            reference,
            headline: headline.and_then(|encoder| position(&encoder.name)).unwrap_or(reference),
            items: Vec::new(),
            cell: (1, 1),
            natural: (1, 1),
            files: Vec::new(),
        };
        let mut names: Vec<&str> = Vec::new();
        for row in &data.scores {
            if !names.contains(&row.metric.as_str()) {
                names.push(&row.metric);
            }
        }
        gallery.metrics = names
            .iter()
            .map(|name| {
                let lower = data.summary.iter().any(|row| row.metric == *name && row.direction == "lower");
                Metric { title: metric_title(name), lower }
            })
            .collect();
        let samples: Vec<BTreeMap<Key, &SampleRow>> =
            data.encoders.iter().map(|encoder| encoder.samples.iter().map(|row| (key(row), row)).collect()).collect();
        let mut scores: BTreeMap<(&str, Key), Vec<&ScoreRow>> = BTreeMap::new();
        for row in &data.scores {
            let key = (row.dataset.as_str(), row.category.as_str(), row.prompt_id, row.image_idx);
            scores.entry((row.encoder.as_str(), key)).or_default().push(row);
        }
        for row in in_turn(data) {
            let mut images = Vec::new();
            let mut files = Vec::new();
            for (encoder, samples) in data.encoders.iter().zip(&samples) {
                // Ground truth has no noise, so its one image stands beside every draw.
                let at = if encoder.name == REAL { (key(row).0, key(row).1, row.prompt_id, 0) } else { key(row) };
                let sample = samples.get(&at);
                let own = scores.get(&(encoder.name.as_str(), at)).map_or(&[][..], Vec::as_slice);
                images.push(sample.map(|sample| image(sample, own, &names)));
                files.push(sample.map(|sample| encoder.folder.join(&sample.image)));
            }
            gallery.items.push(Item {
                id: format!("{}-{}-{:016x}-{}", row.dataset, row.category, row.prompt_id, row.image_idx),
                dataset: row.dataset.clone(),
                category: row.category.clone(),
                prompt: row.prompt.clone(),
                target: row.target_text.clone(),
                seed: row.seed,
                guidance: rounded(row.guidance),
                steps: row.steps,
                draw: row.image_idx + 1,
                tokens: tokens(data, row.prompt_id)?,
                metric: own_metric(row, &names),
                images,
            });
            gallery.files.push(files);
        }
        Ok(gallery)
    }

    /// The data as it stands in the page.
    pub fn json(&self) -> Result<String> {
        let json = serde_json::to_string(self).map_err(|error| Error::Invalid(format!("the images' data as JSON: {error}")))?;
        Ok(json_for_script(&json))
    }

    /// Points every image to its file below [`FOLDER`]; returns source and path below the report of each.
    pub fn point_beside(&mut self, data: &Data) -> Vec<(PathBuf, PathBuf)> {
        let mut links = BTreeMap::new();
        for (item, files) in self.items.iter_mut().zip(&self.files) {
            for ((image, file), encoder) in item.images.iter_mut().zip(files).zip(&data.encoders) {
                let (Some(image), Some(file)) = (image, file) else { continue };
                let name = file.file_name().unwrap_or_default();
                let path = Path::new(FOLDER).join(&encoder.name).join(name);
                image.full = Some(address(&path.to_string_lossy()));
                links.insert(path, file.clone());
            }
        }
        links.into_iter().map(|(path, file)| (file, path)).collect()
    }

    /// Takes full pictures into the page while they fit into `budget` bytes; returns them as base64, and how many are left
    /// out. The images point to their lines.
    pub fn point_inside(&mut self, budget: usize) -> Result<(Vec<String>, usize)> {
        let (mut lines, mut left, mut missing) = (Vec::new(), budget, 0);
        for (item, files) in self.items.iter_mut().zip(&self.files) {
            for (image, file) in item.images.iter_mut().zip(files) {
                let (Some(image), Some(file)) = (image, file) else { continue };
                let bytes = std::fs::metadata(file).map_err(Error::io("read", file))?.len() as usize;
                let Some(rest) = left.checked_sub(bytes.div_ceil(3) * 4 + 1) else {
                    missing += 1;
                    continue;
                };
                left = rest;
                image.full = Some(format!("#{}", lines.len()));
                let png = files::read_bytes(file, "a generated image", "run `scaledown generate` again")?;
                lines.push(base64::engine::general_purpose::STANDARD.encode(png));
            }
        }
        Ok((lines, missing))
    }
}

fn key(row: &SampleRow) -> Key<'_> {
    (&row.dataset, &row.category, row.prompt_id, row.image_idx)
}

/// One row per prompt and draw, in turn from every category.
fn in_turn(data: &Data) -> Vec<&SampleRow> {
    let mut seen = BTreeSet::new();
    let mut by_category: BTreeMap<(&str, &str), Vec<&SampleRow>> = BTreeMap::new();
    // Rows of ground truth come last: they say nothing of the noise.
    let encoders = || data.encoders.iter().filter(|encoder| encoder.name != REAL).chain(data.encoders.iter().filter(|e| e.name == REAL));
    for row in encoders().flat_map(|encoder| &encoder.samples) {
        if seen.insert(key(row)) {
            by_category.entry((&row.dataset, &row.category)).or_default().push(row);
        }
    }
    let mut queues: Vec<_> = by_category.into_values().map(Vec::into_iter).collect();
    let mut rows = Vec::with_capacity(seen.len());
    loop {
        let turn: Vec<&SampleRow> = queues.iter_mut().filter_map(Iterator::next).collect();
        if turn.is_empty() {
            return rows;
        }
        rows.extend(turn);
    }
}

fn image(sample: &SampleRow, scores: &[&ScoreRow], names: &[&str]) -> Image {
    let details = scores.iter().filter_map(|row| Some((row.metric.as_str(), row.detail.as_deref()?)));
    let number = |row: &&ScoreRow| Some((names.iter().position(|name| *name == row.metric)?, rounded(row.value)));
    Image {
        full: None,
        scores: scores.iter().filter_map(number).collect(),
        evidence: Evidence::gather(details, sample.target_text.as_deref()),
    }
}

/// The metric by which regressions of this prompt are ordered.
fn own_metric(row: &SampleRow, names: &[&str]) -> Option<usize> {
    let find = |wanted: &str| names.iter().position(|name| *name == wanted);
    let of_set = match row.dataset.as_str() {
        "compbench" => find(&format!("compbench_{}", row.category)),
        "commontext" => find("ocr_mean").or_else(|| find("ocr_char")),
        _ => None,
    };
    of_set.or_else(|| find("clip_score"))
}

fn tokens(data: &Data, prompt_id: u64) -> Result<Vec<Tokens>> {
    let mut found: Vec<Tokens> = Vec::new();
    for (i, encoder) in data.encoders.iter().enumerate() {
        let Some(row) = encoder.tokens.get(&prompt_id) else { continue };
        let path = encoder.folder.join(crate::run::results::TOKENS);
        let pieces: Vec<String> = serde_json::from_str(&row.pieces).map_err(|error| Error::format("table of tokens", path, error))?;
        match found.iter_mut().find(|known| known.pieces == pieces && (known.kept, known.length) == (row.kept, row.length)) {
            Some(known) => known.encoders.push(i),
            None => found.push(Tokens { encoders: vec![i], pieces, kept: row.kept, length: row.length }),
        }
    }
    Ok(found)
}
