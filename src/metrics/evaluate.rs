//! The stage that scores everything `generate` made: one row per image and metric, then reported numbers with intervals.
//! A metric whose expert is missing is listed with the reason and gives no number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metrics::clip_score::{ClipScorer, clip_score};
use crate::metrics::compbench::Task;
use crate::metrics::experts::{self, Found};
use crate::metrics::frechet::{Distance, Moments, PromptFeatures, Reference};
use crate::metrics::ocr::{self, TargetText};
use crate::metrics::summary::{self, Comparison, Methods};
use crate::metrics::{encoders, tsne};
use crate::mini::reader::Reader;
use crate::mini::scene::Scene;
use crate::models::card::{REAL, TEACHER};
use crate::models::ocr::OcrsReader;
use crate::models::teacher::TeacherConfig;
use crate::models::{Detector, TextReader, Vqa};
use crate::run::context::RunContext;
use crate::run::evaluation::{ComparisonRow, ScalingRow, Skipped, write_skipped};
use crate::run::progress::Progress;
use crate::run::results::{SampleRow, ScoreRow, SummaryRow};
use crate::run::{files, interrupt};
use crate::stats::comparison::{self, Subject, Tests, compare_normal};
use crate::stats::scores::{ALL, COMPOSITION, ScoreTable};
use crate::stats::{Bootstrap, Estimate};

/// Images scored between two looks at Ctrl-C.
const BATCH: usize = 16;

/// A group of metrics that share an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    ClipScore,
    Frechet,
    Compbench,
    Ocr,
    Embeddings,
    Tsne,
    Efficiency,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 7] = [Self::ClipScore, Self::Frechet, Self::Compbench, Self::Ocr, Self::Embeddings, Self::Tsne, Self::Efficiency];
}

/// What to measure and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub metrics: Vec<Group>,
    pub bootstrap: Bootstrap,
    /// Significance and equivalence of differences.
    pub tests: Tests,
    /// Resamples of the Fréchet distance; each costs an eigenvalue problem of the feature width.
    pub frechet_resamples: usize,
    pub experts: experts::Config,
    pub tsne: tsne::Config,
    /// Timed calls of each text encoder.
    pub latency_runs: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Whatever can run; what cannot says why.
            metrics: Group::ALL.to_vec(),
            bootstrap: Bootstrap::default(),
            tests: Tests::default(),
            // The 2.5 % point of 400 has 10 draws beyond it, and eight encoders take seconds.
            frechet_resamples: 400,
            experts: experts::Config::default(),
            tsne: tsne::Config::default(),
            // Quartiles of 20 runs are steady, and an encoder of the miniature world takes milliseconds.
            latency_runs: 20,
        }
    }
}

/// Where the results lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    pub scores: PathBuf,
    pub summary: PathBuf,
    pub comparisons: PathBuf,
    pub scaling: PathBuf,
    /// Absent where no map was made.
    pub tsne: Option<PathBuf>,
    pub skipped: PathBuf,
}

/// The images of one encoder.
pub struct ImageSet {
    pub encoder: String,
    pub folder: PathBuf,
    pub rows: Vec<SampleRow>,
}

/// Scores the images of every encoder below `runs/<name>/generate`.
pub fn run(config: &Config, teacher: &TeacherConfig, context: &RunContext) -> Result<Outputs> {
    config.tests.check()?;
    let sets = read_image_sets(&context.runs.join("generate"))?;
    let mut results = Results { config, scores: Vec::new(), summary: Vec::new(), comparisons: Vec::new(), skipped: Vec::new() };
    let names: Vec<&str> = sets.iter().map(|set| set.encoder.as_str()).filter(|&name| name != REAL).collect();
    let comparisons = encoders::comparisons(&names, context)?;

    let judges = Judges::load(config, &context.pipeline, &mut results.skipped)?;
    let features = results.score_images(&judges, &sets)?;
    let scores = ScoreTable::new(&results.scores)?;
    let numbers = summary::summarise(&scores, &comparisons, Methods { bootstrap: &config.bootstrap, tests: &config.tests })?;
    results.summary.extend(numbers.summary);
    results.comparisons.extend(numbers.comparisons);
    if config.metrics.contains(&Group::Frechet) {
        match &judges.clip {
            Ok(clip) => results.add_frechet(&features, &comparisons, &clip.protocol)?,
            Err(reason) => results.skip("frechet", None, reason),
        }
    }
    let mut gathered = encoders::Gathered { config, comparisons: &comparisons, summary: results.summary, skipped: results.skipped };
    let places = gathered.measure(&sets, teacher, context)?;
    let scaling = gathered.scaling_laws(&scores, context)?;
    comparison::correct(&mut results.comparisons, &config.tests);

    let folder = context.evaluation();
    let outputs = Outputs {
        scores: folder.join("scores.parquet"),
        summary: folder.join("summary.parquet"),
        comparisons: folder.join("comparisons.parquet"),
        scaling: folder.join("scaling.parquet"),
        tsne: (!places.is_empty()).then(|| folder.join("tsne.parquet")),
        skipped: folder.join("skipped.json"),
    };
    ScoreRow::write(&outputs.scores, &results.scores)?;
    SummaryRow::write(&outputs.summary, &gathered.summary)?;
    ComparisonRow::write(&outputs.comparisons, &results.comparisons)?;
    ScalingRow::write(&outputs.scaling, &scaling)?;
    if let Some(path) = &outputs.tsne {
        crate::run::evaluation::TsneRow::write(path, &places)?;
    }
    write_skipped(&outputs.skipped, &gathered.skipped)?;
    Ok(outputs)
}

/// All sample tables below `folder`: ground truth first, then the teacher, then the students by name.
pub fn read_image_sets(folder: &Path) -> Result<Vec<ImageSet>> {
    let hint = "run `scaledown generate` first";
    let entries = std::fs::read_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: "generated images".into(), path: folder.into(), hint: hint.into() },
        _ => Error::io("list", folder)(error),
    })?;
    let mut sets = Vec::new();
    for entry in entries {
        let folder = entry.map_err(Error::io("list", folder))?.path();
        let table = folder.join("samples.parquet");
        if table.is_file() {
            let rows = SampleRow::read(&table, hint)?;
            let encoder = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(row) = rows.iter().find(|row| row.encoder != encoder) {
                return Err(Error::format("sample table", table, format!("holds images of `{}`, expected `{encoder}`", row.encoder)));
            }
            sets.push(ImageSet { encoder, folder, rows });
        }
    }
    if sets.is_empty() {
        return Err(Error::Missing { what: "generated images".into(), path: folder.into(), hint: hint.into() });
    }
    let rank = |name: &str| usize::from(name != REAL) + usize::from(name != REAL && name != TEACHER);
    sets.sort_by(|a, b| (rank(&a.encoder), &a.encoder).cmp(&(rank(&b.encoder), &b.encoder)));
    Ok(sets)
}

/// The experts of the chosen metrics.
struct Judges {
    clip: Found<ClipScorer>,
    reader: Found<Reader>,
    ocr: Found<OcrsReader>,
}

impl Judges {
    fn load(config: &Config, folder: &Path, skipped: &mut Vec<Skipped>) -> Result<Self> {
        let wants = |group: Group| config.metrics.contains(&group);
        let not_chosen = || "not chosen in the configuration".to_owned();
        let clip_is_wanted = wants(Group::ClipScore) || wants(Group::Frechet);
        let judges = Self {
            clip: if clip_is_wanted { config.experts.load_clip(folder)? } else { Err(not_chosen()) },
            reader: if wants(Group::Compbench) { config.experts.load_reader(folder)? } else { Err(not_chosen()) },
            ocr: if wants(Group::Ocr) { config.experts.load_ocr(folder)? } else { Err(not_chosen()) },
        };
        let reasons =
            [("clip_score", judges.clip.as_ref().err()), ("compbench", judges.reader.as_ref().err()), ("ocr", judges.ocr.as_ref().err())];
        for (metric, reason) in reasons {
            skipped.extend(reason.map(|reason| Skipped { metric: metric.into(), encoder: None, reason: reason.clone() }));
        }
        Ok(judges)
    }
}

/// Image features of one encoder's prompts, in order of the prompt ids, by scope.
type Features = BTreeMap<String, BTreeMap<String, Vec<PromptFeatures>>>;

/// What was measured so far.
struct Results<'a> {
    config: &'a Config,
    scores: Vec<ScoreRow>,
    summary: Vec<SummaryRow>,
    comparisons: Vec<ComparisonRow>,
    skipped: Vec<Skipped>,
}

impl Results<'_> {
    fn skip(&mut self, metric: &str, encoder: Option<&str>, reason: &str) {
        self.skipped.push(Skipped { metric: metric.into(), encoder: encoder.map(str::to_owned), reason: reason.into() });
    }

    /// Scores every image; returns CLIP's image features by encoder and scope.
    fn score_images(&mut self, judges: &Judges, sets: &[ImageSet]) -> Result<Features> {
        let total = sets.iter().map(|set| set.rows.len() as u64).sum();
        let mut progress = Progress::new("score images", 0, total);
        let mut done = 0;
        let mut features = Features::new();
        let mut without_rule = BTreeSet::new();
        for set in sets {
            let mut grouped: BTreeMap<String, BTreeMap<u64, Vec<Vec<f64>>>> = BTreeMap::new();
            for batch in set.rows.chunks(BATCH) {
                interrupt::check()?;
                let images = batch.iter().map(|row| read_image(&set.folder.join(&row.image))).collect::<Result<Vec<_>>>()?;
                if let Ok(clip) = &judges.clip {
                    let embeddings = clip.model.image_embeddings(&images)?;
                    if self.config.metrics.contains(&Group::ClipScore) {
                        let prompts: Vec<&str> = batch.iter().map(|row| row.prompt.as_str()).collect();
                        let texts = clip.model.text_embeddings(&prompts)?;
                        let protocol = format!("{}, 100·cos per image, not clamped", clip.protocol);
                        for ((row, image), text) in batch.iter().zip(&embeddings).zip(&texts) {
                            self.push(row, "clip_score", clip_score(image, text)?, None, &protocol)?;
                        }
                    }
                    for (row, embedding) in batch.iter().zip(embeddings) {
                        for scope in [ALL, row.dataset.as_str()] {
                            grouped.entry(scope.into()).or_default().entry(row.prompt_id).or_default().push(embedding.clone());
                        }
                    }
                }
                for (row, image) in batch.iter().zip(&images) {
                    if let Ok(reader) = &judges.reader
                        && row.dataset == "compbench"
                    {
                        if Task::has_rule(&row.category) {
                            self.score_composition(row, image, &reader.model, &reader.protocol)?;
                        } else if without_rule.insert(row.category.clone()) {
                            let metric = format!("{}{}", COMPOSITION, row.category);
                            self.skip(&metric, None, "no rule for this category is implemented");
                        }
                    }
                    if let (Ok(reader), Some(target)) = (&judges.ocr, &row.target_text) {
                        self.score_text(row, target, &reader.model.read_lines(image)?, &reader.protocol)?;
                    }
                }
                done += batch.len() as u64;
                progress.set(done, &set.encoder);
            }
            let by_prompt = |prompts: BTreeMap<u64, Vec<Vec<f64>>>| {
                prompts.into_iter().map(|(prompt_id, rows)| PromptFeatures { prompt_id, rows }).collect::<Vec<_>>()
            };
            features.insert(set.encoder.clone(), grouped.into_iter().map(|(scope, prompts)| (scope, by_prompt(prompts))).collect());
        }
        progress.finish("");
        Ok(features)
    }

    fn score_composition<R: Vqa + Detector>(&mut self, row: &SampleRow, image: &RgbImage, reader: &R, protocol: &str) -> Result<()> {
        let task = match &row.scene {
            Some(json) => {
                let scene: Scene = serde_json::from_str(json)
                    .map_err(|error| Error::Invalid(format!("the scene of prompt `{}` cannot be read: {error}", row.prompt)))?;
                Task::from_scene(&row.category, &scene)?
            }
            None => Task::from_prompt(&row.category, &row.prompt)?,
        };
        let scored = task.score(image, reader, reader)?;
        let detail = to_json(&scored.evidence)?;
        self.push(row, &format!("{}{}", COMPOSITION, row.category), 100.0 * scored.score, Some(detail), protocol)
    }

    fn score_text(&mut self, row: &SampleRow, target: &str, lines: &[String], protocol: &str) -> Result<()> {
        let detail = to_json(&serde_json::json!({ "read": lines.join(" "), "target": target }))?;
        let scores = ocr::score(&TargetText::new(target)?, lines);
        for (metric, value) in scores.named() {
            self.push(row, metric, 100.0 * value, Some(detail.clone()), protocol)?;
        }
        // The average of the paper's ablation (Table 4) and of its scaling figure.
        let mean = 100.0 * (scores.char + scores.word + scores.sentence) / 3.0;
        self.push(row, "ocr_mean", mean, Some(detail), &format!("mean of character, word and sentence; {protocol}"))
    }

    fn push(&mut self, row: &SampleRow, metric: &str, value: f64, detail: Option<String>, protocol: &str) -> Result<()> {
        if !value.is_finite() {
            return Err(Error::NonFinite { name: metric.into(), context: format!("`{}`, prompt `{}`", row.encoder, row.prompt) });
        }
        self.scores.push(ScoreRow {
            encoder: row.encoder.clone(),
            prompt_id: row.prompt_id,
            dataset: row.dataset.clone(),
            category: row.category.clone(),
            image_idx: row.image_idx,
            metric: metric.into(),
            value,
            detail,
            protocol: protocol.into(),
        });
        Ok(())
    }

    /// Fréchet distances of every encoder to the ground truth, and their differences.
    fn add_frechet(&mut self, features: &Features, comparisons: &[Comparison], clip: &str) -> Result<()> {
        let bootstrap = Bootstrap { resamples: self.config.frechet_resamples, ..self.config.bootstrap };
        let Some(real) = features.get(REAL) else {
            self.skip("frechet", None, "there are no images of encoder `real` to compare with");
            return Ok(());
        };
        // A run with one prompt set would give the same numbers under two names.
        let scopes: Vec<&String> = real.keys().filter(|scope| real.len() > 2 || *scope == ALL).collect();
        for scope in scopes {
            let (rows, width) = (real[scope].iter().flat_map(|prompt| &prompt.rows), real[scope][0].rows[0].len());
            let moments = Moments::of(rows.map(Vec::as_slice), width)?;
            if moments.n() < 2.0 {
                self.skip("frechet", None, &format!("scope `{scope}` has one real image, a covariance needs two"));
                continue;
            }
            let protocol = format!("image features of {clip}, {} real images, mean-shifted bootstrap over prompts", moments.n());
            let reference = Reference::new(moments.gaussian()?);
            let mut distances = BTreeMap::new();
            for (encoder, scopes) in features.iter().filter(|(encoder, _)| *encoder != REAL) {
                interrupt::check()?;
                match scopes.get(scope) {
                    Some(prompts) if prompts.iter().map(|prompt| prompt.rows.len()).sum::<usize>() > 1 => {
                        distances.insert(encoder.as_str(), Distance::to(&reference, prompts, &bootstrap)?);
                    }
                    _ => self.skip("frechet", Some(encoder), &format!("fewer than two images in scope `{scope}`")),
                }
            }
            let row = |encoder: &str, versus: Option<&str>, estimate: Estimate| SummaryRow {
                encoder: encoder.into(),
                metric: "frechet".into(),
                scope: scope.clone(),
                versus: versus.map(str::to_owned),
                value: estimate.value,
                ci_low: estimate.low,
                ci_high: estimate.high,
                n: estimate.n,
                unit: "squared feature distance".into(),
                direction: "lower".into(),
                protocol: protocol.clone(),
            };
            self.summary.extend(distances.iter().map(|(encoder, distance)| row(encoder, None, distance.estimate(&bootstrap))));
            for Comparison { encoder, versus, .. } in comparisons {
                let pair = distances.get(encoder.as_str()).zip(distances.get(versus.as_str()));
                let Some((difference, error)) = pair.and_then(|(own, other)| own.minus(other, &bootstrap)) else { continue };
                let reported = row(encoder, Some(versus), difference);
                let SummaryRow { metric, unit, direction, protocol, .. } = &reported;
                let subject = Subject { encoder, versus, metric, scope, unit, direction, protocol };
                self.comparisons.push(compare_normal(subject, difference, error, &self.config.tests));
                self.summary.push(reported);
            }
        }
        Ok(())
    }
}

/// Reads a PNG as 8-bit RGB.
fn read_image(path: &Path) -> Result<RgbImage> {
    let bytes = files::read_bytes(path, "a generated image", "run `scaledown generate` first")?;
    let image = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png);
    Ok(image.map_err(|error| Error::format("PNG image", path, error))?.to_rgb8())
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Invalid(format!("evidence cannot be written as JSON: {error}")))
}
