//! The stage `generate`: images of the held-out prompts under one text encoder, with the noise every encoder gets.
//!
//! The encoder is `teacher`, a distilled student, or `real`: the ground truth of miniature-world prompts, rendered. [`free`] makes images
//! of any other prompts.

pub mod control;
mod costs;
pub mod free;
mod held;
pub mod painter;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::control::ControlConfig;
use self::painter::{Encoder, Painter, write_png};
use super::schedule::Shift;
use crate::data::schema::PromptRow;
use crate::error::{Error, Result};
use crate::mini;
use crate::models::card::{REAL, STUDENT_WEIGHTS, TEACHER};
use crate::models::teacher::TeacherConfig;
use crate::run::context::RunContext;
use crate::run::results::{COSTS, SampleRow, TOKENS};
use crate::run::{files, interrupt, rng};

/// What is sampled, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Prompt sets whose `val` split is sampled; in a pipeline, all that have one where none is named.
    pub datasets: Vec<String>,
    /// Prompts taken from each category of each set; all where absent.
    pub prompts_per_category: Option<usize>,
    /// Images per prompt, each with its own noise.
    pub images_per_prompt: u64,
    /// The same for single sets, where their protocols differ.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images_per_prompt_of: BTreeMap<String, u64>,
    pub guidance: f64,
    pub steps: usize,
    pub shift: Shift,
    /// A ControlNet and the image that every prompt is painted under; of Flux only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlConfig>,
    /// Keeps one network in memory at a time and reads it anew for every batch: slower, in as much memory as the largest takes.
    pub offload: bool,
    /// Images that are painted one by one to time them, and once more with `offload`; 0 measures nothing.
    pub timed_images: usize,
    /// Images sampled at a time; also the unit of work that an interruption loses.
    pub batch: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            datasets: Vec::new(),
            // Whole validation splits, as in the paper's tables.
            prompts_per_category: None,
            // One image per prompt; T2I-CompBench's protocol draws ten.
            images_per_prompt: 1,
            images_per_prompt_of: BTreeMap::new(),
            // Flux-dev's recommended guidance, inside the range of the distillation.
            guidance: 3.5,
            // As many steps as a training trajectory has.
            steps: 20,
            // Flux-dev's schedule.
            shift: Shift::Resolution,
            control: None,
            offload: false,
            // Of five, the quartiles are times that were measured.
            timed_images: 5,
            // Fills two CPU cores at 64 px; larger batches gain nothing there.
            batch: 16,
        }
    }
}

/// What the stage wrote.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// One row per image.
    pub samples: PathBuf,
    /// Mean text embedding of each prompt; rendered ground truth has none.
    pub embeddings: Option<PathBuf>,
    pub n_images: usize,
}

/// Makes all images of `encoder` (`teacher`, `real` or a student's name) into `context.samples(encoder)`.
///
/// Finished images of an earlier, interrupted call with the same inputs are kept.
///
/// # Errors
/// Missing prompts, weights or scenes; a non-finite latent; [`Error::Interrupted`] after Ctrl-C.
pub fn run(config: &Config, teacher: &TeacherConfig, encoder: &str, context: &RunContext) -> Result<Outputs> {
    config.validate()?;
    let prompts = select_prompts(config, context)?;
    let folder = context.samples(encoder);
    // The renderer has no noise: every image of a prompt would be the same.
    let images_of = |dataset: &str| if encoder == REAL { 1 } else { config.images_of(dataset) };
    let rows = sample_rows(config, encoder, images_of, context.seed, &prompts);
    let samples = folder.join("samples.parquet");
    keep_only_images_of(&recipe(config, teacher, encoder, context, &prompts)?, &folder, context.force)?;

    let embeddings = if encoder == REAL {
        render_all(&rows, teacher.geometry(&context.pipeline)?.resolution, &folder)?;
        None
    } else {
        let painter = Painter::load(config, teacher, &Encoder::named(encoder, context), context)?;
        let path = folder.join("embeddings.safetensors");
        if !path.exists() {
            painter.write_embeddings(&prompts, config.batch, &path)?;
        }
        painter.write_tokens(&prompts, &folder.join(TOKENS))?;
        painter.paint_all(&rows, config.batch, context.seed, &folder)?;
        drop(painter);
        let (costs, prompt) = (folder.join(COSTS), prompts.first());
        if let Some(prompt) = prompt.filter(|_| config.timed_images > 0 && !costs.exists()) {
            costs::write(config, teacher, &Encoder::named(encoder, context), prompt, context, &costs)?;
        }
        Some(path)
    };
    SampleRow::write(&samples, &rows)?;
    Ok(Outputs { samples, embeddings, n_images: rows.len() })
}

impl Config {
    fn validate(&self) -> Result<()> {
        let problem = match self {
            Self { batch: 0, .. } => "batch is 0",
            Self { timed_images: 1..=3, .. } => "timed_images is 1 to 3, which gives no quartiles",
            Self { images_per_prompt: 0, .. } => "images_per_prompt is 0",
            Self { images_per_prompt_of, .. } if images_per_prompt_of.values().any(|&n| n == 0) => "images_per_prompt_of holds a 0",
            Self { prompts_per_category: Some(0), .. } => "prompts_per_category is 0",
            Self { datasets, .. } if datasets.is_empty() => "datasets is empty",
            Self { guidance, .. } if !guidance.is_finite() => "guidance is not a number",
            _ => return Ok(()),
        };
        Err(Error::config(format!("[generate] {problem}"), "correct the value in the pipeline's TOML"))
    }
}

impl Config {
    /// The configuration as far as images depend on it.
    pub fn essence(&self) -> Self {
        Self { offload: false, timed_images: 0, ..self.clone() }
    }

    /// Images of each prompt of a set.
    fn images_of(&self, dataset: &str) -> u64 {
        self.images_per_prompt_of.get(dataset).copied().unwrap_or(self.images_per_prompt)
    }
}

/// The prompts to sample, grouped by set and category. Which ones are taken depends on seed and prompt only, so that
/// a larger `prompts_per_category` keeps the smaller choice and file order does not matter.
fn select_prompts(config: &Config, context: &RunContext) -> Result<Vec<PromptRow>> {
    let mut chosen = Vec::new();
    for dataset in &config.datasets {
        let path = context.prompts(dataset, "val");
        let mut categories: BTreeMap<String, Vec<(u64, PromptRow)>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for row in PromptRow::read(&path, "run `scaledown build-data` first")? {
            if seen.insert((row.category.clone(), row.prompt_id)) {
                let key = rng::Key { seed: context.seed, purpose: "prompt selection", item: row.prompt_id, draw: 0 };
                let rank = (rng::uniform(&mut rng::stream(key)) * (1u64 << 53) as f64) as u64;
                categories.entry(row.category.clone()).or_default().push((rank, row));
            }
        }
        for mut rows in categories.into_values() {
            rows.sort_by_key(|(rank, row)| (*rank, row.prompt_id));
            let n = config.prompts_per_category.unwrap_or(rows.len());
            chosen.extend(rows.into_iter().take(n).map(|(_, row)| row));
        }
    }
    if chosen.is_empty() {
        return Err(Error::config(
            format!("no prompts in the val splits of {}", config.datasets.join(", ")),
            "check the sizes in [data] and run `scaledown build-data` again",
        ));
    }
    Ok(chosen)
}

/// One row per image, all images of a prompt beside each other.
fn sample_rows(config: &Config, encoder: &str, images_of: impl Fn(&str) -> u64, seed: u64, prompts: &[PromptRow]) -> Vec<SampleRow> {
    let of_prompt = |prompt: &PromptRow, image_idx: u64| SampleRow {
        encoder: encoder.to_owned(),
        prompt_id: prompt.prompt_id,
        dataset: prompt.dataset.clone(),
        category: prompt.category.clone(),
        prompt: prompt.prompt.clone(),
        target_text: prompt.target_text.clone(),
        scene: prompt.scene.clone(),
        image_idx,
        seed,
        guidance: config.guidance,
        steps: config.steps as u64,
        image: format!("images/{}-{}-{:016x}-{image_idx}.png", prompt.dataset, prompt.category, prompt.prompt_id),
    };
    prompts.iter().flat_map(|prompt| (0..images_of(&prompt.dataset)).map(move |image_idx| of_prompt(prompt, image_idx))).collect()
}

/// Everything the images depend on, as one text.
fn recipe(config: &Config, teacher: &TeacherConfig, encoder: &str, context: &RunContext, prompts: &[PromptRow]) -> Result<String> {
    let student = match encoder {
        TEACHER | REAL => None,
        student => {
            let path = context.student(student).join(STUDENT_WEIGHTS);
            if !path.exists() {
                let hint = format!("run `scaledown distill` first, or name one of the encoders: {}", known_encoders(context).join(", "));
                return Err(Error::Missing { what: format!("the student `{student}`"), path, hint });
            }
            Some(files::sha256_file(&path)?)
        }
    };
    // Ground truth is rendered without any network, so it must not need their files.
    let networks = if encoder == REAL { None } else { Some(teacher.fingerprint(&context.pipeline)?) };
    let control = config.control.iter().flat_map(|control| control.files(&context.pipeline));
    let control = control.map(|file| files::sha256_file(&file)).collect::<Result<Vec<_>>>()?;
    let prompts: Vec<_> = prompts.iter().map(|p| (&p.dataset, &p.category, &p.prompt, &p.scene)).collect();
    let resolution = teacher.geometry(&context.pipeline)?.resolution;
    serde_json::to_string(&(config.essence(), networks, control, resolution, encoder, student, context.seed, prompts))
        .map_err(|error| Error::Invalid(format!("cannot write the recipe of the images as JSON: {error}")))
}

/// Names that [`run`] accepts at the moment.
fn known_encoders(context: &RunContext) -> Vec<String> {
    let mut names = vec![TEACHER.to_owned(), REAL.to_owned()];
    let students = context.runs.join("distill");
    let entries = std::fs::read_dir(students).into_iter().flatten().flatten();
    names.extend(entries.filter(|e| e.path().join(STUDENT_WEIGHTS).exists()).map(|e| e.file_name().to_string_lossy().into_owned()));
    names.sort();
    names
}

/// Empties `folder` unless what lies there was made by the same recipe.
fn keep_only_images_of(recipe: &str, folder: &Path, force: bool) -> Result<()> {
    let stamp = folder.join("recipe.sha256");
    let digest = files::sha256_bytes(recipe.as_bytes());
    let same = std::fs::read_to_string(&stamp).is_ok_and(|earlier| earlier == digest);
    if !same || force {
        for name in ["samples.parquet", "embeddings.safetensors", TOKENS, COSTS, "recipe.sha256"] {
            let path = folder.join(name);
            if path.exists() {
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        let images = folder.join("images");
        if images.exists() {
            std::fs::remove_dir_all(&images).map_err(Error::io("remove", &images))?;
        }
    }
    files::write_bytes(&stamp, digest.as_bytes())
}

/// Renders the ground truth of every row.
fn render_all(rows: &[SampleRow], resolution: usize, folder: &Path) -> Result<()> {
    let without = rows.iter().filter(|row| row.scene.is_none()).count();
    if without > 0 {
        return Err(Error::config(
            format!("{without} of {} prompts carry no scene, so that `{REAL}` has nothing to render", rows.len()),
            format!("leave `{REAL}` out, or generate from the sets of the miniature world only"),
        ));
    }
    for row in rows {
        interrupt::check()?;
        let json = row.scene.as_deref().unwrap_or_default();
        let scene: mini::scene::Scene =
            serde_json::from_str(json).map_err(|error| Error::Invalid(format!("scene of `{}` cannot be read: {error}", row.prompt)))?;
        write_png(&folder.join(&row.image), &mini::render::render(&scene, resolution as u32))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sources::RawPrompt;
    use image::RgbImage;

    fn raw(category: &str, text: &str) -> RawPrompt {
        RawPrompt { category: category.into(), ..RawPrompt::example("compbench", "val", text) }
    }

    fn context(folder: &Path) -> RunContext {
        RunContext::below(folder, "t", folder.join("pipeline"), 3)
    }

    fn config(n: usize) -> Config {
        Config { datasets: vec!["compbench".into()], prompts_per_category: Some(n), ..Default::default() }
    }

    #[test]
    fn a_larger_choice_of_prompts_contains_the_smaller_in_any_file_order() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        let mut rows: Vec<_> = (0..40).map(|i| raw(if i % 2 == 0 { "color" } else { "spatial" }, &format!("prompt {i}"))).collect();
        let mut chosen = |n| {
            rows.reverse();
            PromptRow::write(&context.prompts("compbench", "val"), &PromptRow::from_raw(&rows)).unwrap();
            select_prompts(&config(n), &context).unwrap().into_iter().map(|row| (row.category, row.prompt)).collect::<Vec<_>>()
        };
        let (small, large) = (chosen(3), chosen(7));
        assert_eq!((small.len(), large.len()), (6, 14));
        assert!(small.iter().all(|row| large.contains(row)));
        assert_eq!(small, chosen(3));
    }

    #[test]
    fn images_of_another_recipe_are_removed_and_those_of_the_same_kept() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("images/a.png");
        keep_only_images_of("one", folder.path(), false).unwrap();
        write_png(&image, &RgbImage::new(2, 2)).unwrap();
        keep_only_images_of("one", folder.path(), false).unwrap();
        assert!(image.exists());
        keep_only_images_of("two", folder.path(), false).unwrap();
        assert!(!image.exists());
    }

    #[test]
    fn rows_name_every_image_of_every_prompt_once() {
        let prompts = PromptRow::from_raw(&[raw("color", "a red car"), raw("spatial", "a red car")]);
        let rows = sample_rows(&config(1), TEACHER, |_| 3, 9, &prompts);
        assert_eq!(rows.len(), 6);
        assert_eq!(rows.iter().map(|row| &row.image).collect::<BTreeSet<_>>().len(), 6);
        assert_eq!((rows[2].image_idx, rows[3].image_idx), (2, 0));
    }

    #[test]
    fn ground_truth_without_scenes_is_an_error_that_counts_them() {
        let folder = tempfile::tempdir().unwrap();
        let rows = sample_rows(&config(1), REAL, |_| 1, 9, &PromptRow::from_raw(&[raw("color", "a red car")]));
        let error = render_all(&rows, 64, folder.path()).unwrap_err();
        assert!(error.to_string().contains("1 of 1 prompts carry no scene"), "{error}");
    }

    #[test]
    fn an_unknown_encoder_is_answered_with_the_known_ones() {
        let folder = tempfile::tempdir().unwrap();
        let part = r#"{"preset": "p", "weights": "random"}"#;
        let json = format!(
            r#"{{"tokenizer": "t.json", "text_encoder": {part}, "clip": {part}, "denoiser": {part}, "autoencoder": {part},
                "token_length": 24, "resolution": 64, "latent_downsampling": 4}}"#
        );
        let teacher: TeacherConfig = serde_json::from_str(&json).unwrap();
        let error = recipe(&config(1), &teacher, "tiny", &context(folder.path()), &[]).unwrap_err();
        assert!(error.to_string().contains("`tiny`") && error.hint().is_some_and(|hint| hint.contains("real, teacher")), "{error:?}");
    }
}
