//! What `evaluate` measures on the text encoders themselves: size, speed, the spread of their embeddings and the map.
//! Also which encoders are compared with which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::metrics::efficiency::{bytes, encode_latency};
use crate::metrics::embeddings::{cosine_pseudo_values, spread};
use crate::metrics::evaluate::{Config, Group, ImageSet};
use crate::metrics::spaces::{self, Clouds};
use crate::metrics::summary::{self, Comparison};
use crate::metrics::tsne;
use crate::models::TextEncoder;
use crate::models::card::{REAL, STUDENT_CARD, StudentCard, TEACHER};
use crate::models::teacher::TeacherConfig;
use crate::models::weights::read_safetensors;
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::evaluation::{ScalingRow, Skipped, TsneRow};
use crate::run::progress::Progress;
use crate::run::results::{COSTS, Costs, SampleRow, SummaryRow};
use crate::run::{files, interrupt};
use crate::stats::scores::{ALL, ScoreTable};
use crate::stats::{self, Observation};

/// File of the mean-pooled text embeddings, beside the sample table; its one tensor is `text` `[n, D]`.
const EMBEDDINGS: &str = "embeddings.safetensors";

/// The metric that counts an encoder's weights without projection.
const WEIGHTS: &str = "parameters_encoder";

/// Every student against the teacher, against its untrained twin and, where it was distilled through the denoiser,
/// against its naive twins (same architecture).
pub fn comparisons(encoders: &[&str], context: &RunContext) -> Result<Vec<Comparison>> {
    let cards =
        encoders.iter().filter(|&&name| name != TEACHER).map(|&name| Ok((name, card(name, context)?))).collect::<Result<Vec<_>>>()?;
    let mut chosen = Vec::new();
    for (name, own) in &cards {
        let mut add = |versus: &str, retention| {
            chosen.push(Comparison { encoder: (*name).into(), versus: versus.into(), retention });
        };
        if encoders.contains(&TEACHER) {
            add(TEACHER, true);
        }
        let Some(own) = own else { continue };
        for (other_name, other) in &cards {
            let Some(other) = other.as_ref().filter(|other| other.preset == own.preset) else { continue };
            match (own.objective.as_str(), other.objective.as_str()) {
                ("vision" | "naive", "none") | ("vision", "naive") => add(other_name, false),
                _ => {}
            }
        }
    }
    Ok(chosen)
}

/// The card of a student; `None` for an encoder that `distill` did not make.
fn card(encoder: &str, context: &RunContext) -> Result<Option<StudentCard>> {
    let folder = context.student(encoder);
    if folder.join(STUDENT_CARD).is_file() { StudentCard::read(&folder).map(Some) } else { Ok(None) }
}

/// Rows and reasons gathered about the encoders.
pub struct Gathered<'a> {
    pub config: &'a Config,
    pub comparisons: &'a [Comparison],
    pub summary: Vec<SummaryRow>,
    pub skipped: Vec<Skipped>,
}

impl Gathered<'_> {
    /// Measures every encoder; returns the places on the t-SNE map, none where there is no map.
    pub fn measure(&mut self, sets: &[ImageSet], teacher: &TeacherConfig, context: &RunContext) -> Result<Vec<TsneRow>> {
        let sets: Vec<&ImageSet> = sets.iter().filter(|set| set.encoder != REAL).collect();
        let wants = |group| self.config.metrics.contains(&group);
        if wants(Group::Efficiency) {
            self.efficiency(&sets, teacher, context)?;
        }
        let (wants_spread, wants_map) = (wants(Group::Embeddings), wants(Group::Tsne));
        if !wants_spread && !wants_map {
            return Ok(Vec::new());
        }
        let mut embedded = Vec::new();
        for set in sets {
            match read_embeddings(set)? {
                Some(embeddings) => embedded.push((set.encoder.as_str(), embeddings)),
                None => self.skip("embeddings", Some(&set.encoder), &format!("`{EMBEDDINGS}` is not beside its images")),
            }
        }
        if wants_spread {
            for (encoder, embeddings) in &embedded {
                self.spread(encoder, embeddings)?;
            }
            self.spaces(&embedded)?;
        }
        if wants_map { self.map(&embedded) } else { Ok(Vec::new()) }
    }

    /// Scores over sizes of the teacher and the students whose weights were counted, distilled through the denoiser from as many prompt
    /// sets as any of them.
    pub fn scaling_laws(&mut self, scores: &ScoreTable, context: &RunContext) -> Result<Vec<ScalingRow>> {
        let mut counted: Vec<(&str, f64, usize)> = Vec::new();
        for row in self.summary.iter().filter(|row| row.metric == WEIGHTS) {
            if row.encoder == TEACHER {
                counted.push((&row.encoder, row.value, usize::MAX));
            } else if let Some(card) = card(&row.encoder, context)?.filter(|card| card.objective == "vision") {
                counted.push((&row.encoder, row.value, card.datasets.len()));
            }
        }
        let most = counted.iter().map(|(_, _, sets)| *sets).filter(|&sets| sets < usize::MAX).max().unwrap_or(0);
        let weights: Vec<(&str, f64)> =
            counted.into_iter().filter(|(_, _, sets)| *sets >= most).map(|(name, weights, _)| (name, weights)).collect();
        let sizes: BTreeSet<u64> = weights.iter().map(|(_, weights)| weights.to_bits()).collect();
        if sizes.len() < 3 {
            let found = weights.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let reason = format!(
                "a line with an interval needs three sizes of the teacher and students distilled through the denoiser, found {}: {found}",
                sizes.len()
            );
            self.skip("scaling law", None, &reason);
            return Ok(Vec::new());
        }
        summary::scaling_laws(scores, &weights, &self.config.bootstrap)
    }

    fn efficiency(&mut self, sets: &[&ImageSet], teacher: &TeacherConfig, context: &RunContext) -> Result<()> {
        let Some(tokenizer) = teacher.load_tokenizer(&context.pipeline)? else {
            self.skip("efficiency", None, "the teacher's tokenizer is not in the pipeline's folder");
            return Ok(());
        };
        let prompt = sets.iter().flat_map(|set| &set.rows).map(|row| row.prompt.as_str()).next().unwrap_or_default();
        let ids = tokenizer.encode(&[prompt], teacher.token_length(&context.pipeline)?)?;
        let mut progress = Progress::new("time text encoders", 0, sets.len() as u64);
        for (i, set) in sets.iter().enumerate() {
            interrupt::check()?;
            if set.encoder == TEACHER {
                let encoder = teacher.load_text_encoder(&context.pipeline, context.seed)?;
                let n = encoder.count() as u64;
                self.sizes_and_speed(TEACHER, [n, n], &encoder, &ids)?;
            } else if let Some(card) = card(&set.encoder, context)? {
                let student = card.load_student(&context.student(&set.encoder))?;
                self.sizes_and_speed(&set.encoder, [card.parameters_without_projection, card.parameters], &student, &ids)?;
            } else {
                self.skip("efficiency", Some(&set.encoder), "it has no student card, so its network is not known");
            }
            self.costs(set)?;
            progress.set(i as u64 + 1, &set.encoder);
        }
        progress.finish("");
        Ok(())
    }

    /// Time and memory of a whole image, as `generate` measured them.
    fn costs(&mut self, set: &ImageSet) -> Result<()> {
        let path = set.folder.join(COSTS);
        if !path.exists() {
            self.skip("pipeline_s", Some(&set.encoder), "`generate` timed no images ([generate] timed_images)");
            return Ok(());
        }
        let bytes = files::read_bytes(&path, "the costs of an image", "run `scaledown generate` again")?;
        let costs: Costs = serde_json::from_slice(&bytes).map_err(|error| Error::format("costs of an image", &path, error))?;
        let Costs { steps, resolution, threads, mapped, .. } = costs;
        let offloaded = Some(&costs.offloaded);
        for (cost, [time, memory], kept) in [
            (costs.in_memory.as_ref(), ["pipeline_s", "pipeline_bytes"], "all networks in memory"),
            (offloaded, ["pipeline_offload_s", "pipeline_offload_bytes"], "one network in memory at a time, read anew for each image"),
        ] {
            let Some(cost) = cost else { continue };
            let mut seconds = cost.seconds.clone();
            seconds.sort_by(f64::total_cmp);
            let made = format!("one image of {resolution} px in {steps} steps, CPU with {threads} threads, {kept}");
            let n = seconds.len() as u64;
            let protocol = format!("median of {n} images with its quartiles (not a confidence interval), {made}");
            let values = [0.5, 0.25, 0.75].map(|p| stats::quantile(&seconds, p));
            self.summary.push(row(&set.encoder, time, values, n, ("s", "lower"), &protocol));
            if let Some(peak) = cost.peak_bytes {
                let peak = peak as f64;
                let left_out = if mapped { " without layers in mapped files" } else { "" };
                let protocol = format!("most bytes in use at a time{left_out}, counted by the allocator, {made}");
                self.summary.push(row(&set.encoder, memory, [peak, peak, peak], 1, ("bytes", "lower"), &protocol));
            }
        }
        Ok(())
    }

    fn sizes_and_speed(&mut self, encoder: &str, parameters: [u64; 2], network: &dyn TextEncoder, ids: &Tensor) -> Result<()> {
        let [alone, with_projection] = parameters;
        let exact = |metric: &str, value: u64, unit: &str, protocol: &str| {
            let value = value as f64;
            row(encoder, metric, [value, value, value], 1, (unit, "lower"), protocol)
        };
        self.summary.push(exact(WEIGHTS, alone, "weights", "counted, without projection"));
        self.summary.push(exact("parameters", with_projection, "weights", "counted, with projection"));
        self.summary.push(exact("bytes_f32", bytes(with_projection, 4), "bytes", "4 bytes a weight, with projection"));
        self.summary.push(exact("bytes_bf16", bytes(with_projection, 2), "bytes", "2 bytes a weight, with projection"));
        let latency = encode_latency(network, ids, self.config.latency_runs)?;
        let values = [latency.median, latency.quartiles.0, latency.quartiles.1].map(|seconds| 1e3 * seconds);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let protocol = format!(
            "median of {} runs with its quartiles (not a confidence interval), one prompt of {} tokens, f32, CPU with {threads} threads",
            latency.runs,
            ids.dim(1)?
        );
        self.summary.push(row(encoder, "encode_ms", values, latency.runs, ("ms", "lower"), &protocol));
        Ok(())
    }

    fn spread(&mut self, encoder: &str, embeddings: &Embeddings) -> Result<()> {
        let spread = match spread(&embeddings.rows) {
            Ok(spread) => spread,
            Err(error) => {
                self.skip("effective_rank", Some(encoder), &error.to_string());
                return Ok(());
            }
        };
        let n = embeddings.rows.len() as u64;
        let of = format!("mean-pooled text embeddings of {n} prompts");
        let unbounded = |value: f64| [value, f64::NEG_INFINITY, f64::INFINITY];
        let described = format!("{of}; a description of this set, no interval");
        self.summary.push(row(encoder, "effective_rank", unbounded(spread.effective_rank), n, ("directions", "none"), &described));
        let (values, protocol) = match cosine_pseudo_values(&embeddings.rows) {
            Ok(cosines) => {
                let observed = |(&id, &value): (&u64, &f64)| Observation::plain(id, value);
                let observations: Vec<Observation> = embeddings.ids.iter().zip(&cosines).map(observed).collect();
                let estimate = stats::mean(&observations, &self.config.bootstrap)?;
                let protocol = format!("{of}; bootstrap over prompts of the jackknife's pseudo-values");
                ([spread.mean_cosine, estimate.low, estimate.high], protocol)
            }
            // Two prompts have one cosine and no interval.
            Err(_) => (unbounded(spread.mean_cosine), described),
        };
        self.summary.push(row(encoder, spaces::MEAN_COSINE, values, n, ("cos", "none"), &protocol));
        Ok(())
    }

    /// How the students' embeddings lie among the teacher's.
    fn spaces(&mut self, embedded: &[(&str, Embeddings)]) -> Result<()> {
        if embedded.iter().all(|(encoder, _)| *encoder == TEACHER) {
            return Ok(());
        }
        let Some((_, teacher)) = embedded.iter().find(|(encoder, _)| *encoder == TEACHER) else {
            self.skip(
                "neighbours",
                None,
                "the teacher has no text embeddings to measure distances to; run `scaledown generate --encoder teacher`",
            );
            return Ok(());
        };
        let width = |embeddings: &Embeddings| embeddings.rows.first().map_or(0, Vec::len);
        let mut compared: Vec<&(&str, Embeddings)> = Vec::new();
        for one in embedded {
            if width(&one.1) == width(teacher) {
                compared.push(one);
            } else {
                let reason = format!("its embeddings have {} numbers, expected {} as the teacher's have", width(&one.1), width(teacher));
                self.skip("neighbours", Some(one.0), &reason);
            }
        }
        let chosen = shared_prompts(&compared, spaces::MOST);
        if chosen.len() < spaces::FEWEST {
            let reason = format!("{} prompts have embeddings of all encoders, expected at least {}", chosen.len(), spaces::FEWEST);
            self.skip("neighbours", None, &reason);
            return Ok(());
        }
        let rows = |set: &Embeddings| chosen.iter().map(|row| set.rows[set.index[&row.prompt_id]].clone()).collect();
        let students = compared.iter().filter(|(encoder, _)| *encoder != TEACHER);
        let clouds = Clouds {
            prompts: chosen.iter().map(|row| row.prompt_id).collect(),
            teacher: rows(teacher),
            students: students.map(|(encoder, set)| (*encoder, rows(set))).collect(),
        };
        match clouds.summarise(self.comparisons, &self.config.bootstrap) {
            Ok(numbers) => self.summary.extend(numbers),
            Err(Error::Invalid(reason)) => self.skip("neighbours", None, &reason),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn map(&mut self, embedded: &[(&str, Embeddings)]) -> Result<Vec<TsneRow>> {
        if embedded.is_empty() {
            self.skip("tsne", None, "no encoder has text embeddings");
            return Ok(Vec::new());
        }
        let chosen = shared_prompts(&embedded.iter().collect::<Vec<_>>(), self.config.tsne.prompts);
        let points: Vec<(&str, &SampleRow)> =
            embedded.iter().flat_map(|(encoder, _)| chosen.iter().map(move |row| (*encoder, *row))).collect();
        let rows: Vec<Vec<f64>> =
            embedded.iter().flat_map(|(_, set)| chosen.iter().map(|row| set.rows[set.index[&row.prompt_id]].clone())).collect();
        if rows.len() < tsne::POINTS || rows.iter().any(|row| row.len() != rows[0].len()) {
            self.skip("tsne", None, &format!("{} embeddings of one width are too few for a map", rows.len()));
            return Ok(Vec::new());
        }
        let places = tsne::map(&rows, &self.config.tsne)?;
        let place = |((encoder, row), [x, y]): ((&str, &SampleRow), [f64; 2])| TsneRow {
            encoder: encoder.into(),
            prompt_id: row.prompt_id,
            dataset: row.dataset.clone(),
            category: row.category.clone(),
            x,
            y,
        };
        Ok(points.into_iter().zip(places).map(place).collect())
    }

    fn skip(&mut self, metric: &str, encoder: Option<&str>, reason: &str) {
        self.skipped.push(Skipped { metric: metric.into(), encoder: encoder.map(str::to_owned), reason: reason.into() });
    }
}

/// Prompts that all encoders have, at most `most`, evenly over the table, so that every prompt set is among them.
fn shared_prompts<'a>(embedded: &[&'a (&str, Embeddings)], most: usize) -> Vec<&'a SampleRow> {
    let Some((_, first)) = embedded.first() else { return Vec::new() };
    let common = |row: &&SampleRow| embedded.iter().all(|(_, other)| other.index.contains_key(&row.prompt_id));
    let shared: Vec<&SampleRow> = first.prompts.iter().filter(common).collect();
    let step = shared.len().div_ceil(most.max(1)).max(1);
    shared.into_iter().step_by(step).collect()
}

/// Mean-pooled text embeddings of one encoder.
struct Embeddings {
    /// One sample row per prompt.
    prompts: Vec<SampleRow>,
    /// `[n][D]`.
    rows: Vec<Vec<f64>>,
    /// Prompt id of each row.
    ids: Vec<u64>,
    /// Prompt id → row of `rows`.
    index: BTreeMap<u64, usize>,
}

fn read_embeddings(set: &ImageSet) -> Result<Option<Embeddings>> {
    let path = set.folder.join(EMBEDDINGS);
    if !path.is_file() {
        return Ok(None);
    }
    let (rows, ids) = read_tensors(&path)?;
    let index: BTreeMap<u64, usize> = ids.iter().enumerate().map(|(at, &id)| (id, at)).collect();
    let mut seen = BTreeSet::new();
    let prompts: Vec<SampleRow> = set.rows.iter().filter(|row| seen.insert(row.prompt_id)).cloned().collect();
    if let Some(row) = prompts.iter().find(|row| !index.contains_key(&row.prompt_id)) {
        return Err(Error::format("set of text embeddings", path, format!("prompt `{}` has images but no embedding", row.prompt)));
    }
    Ok(Some(Embeddings { prompts, rows, ids, index }))
}

/// The tensor `text` `[n, D]` in f64 and `prompt_id` `[n]`, the ids' bits as i64.
fn read_tensors(path: &Path) -> Result<(Vec<Vec<f64>>, Vec<u64>)> {
    let mut tensors = read_safetensors(path, &Device::Cpu)?;
    let mut take =
        |name: &str| tensors.remove(name).ok_or_else(|| Error::WeightName { name: name.into(), problem: "missing", path: path.into() });
    let (text, ids) = (take("text")?, take("prompt_id")?);
    let rows: Vec<Vec<f64>> = text.to_dtype(DType::F64)?.to_vec2()?;
    let ids: Vec<u64> = ids.to_vec1::<i64>()?.into_iter().map(i64::cast_unsigned).collect();
    if rows.len() != ids.len() {
        let reason = format!("tensor `text` has {} rows, `prompt_id` has {}", rows.len(), ids.len());
        return Err(Error::format("set of text embeddings", path, reason));
    }
    Ok((rows, ids))
}

/// A row about an encoder as a whole; `[value, low, high]`, `(unit, direction)`.
fn row(encoder: &str, metric: &str, [value, ci_low, ci_high]: [f64; 3], n: u64, unit: (&str, &str), protocol: &str) -> SummaryRow {
    SummaryRow {
        encoder: encoder.into(),
        metric: metric.into(),
        scope: ALL.into(),
        versus: None,
        value,
        ci_low,
        ci_high,
        n,
        unit: unit.0.into(),
        direction: unit.1.into(),
        protocol: protocol.into(),
    }
}
