//! What this machine has and what each pipeline lacks: the first thing to run where something does not work.

mod needs;

use std::fmt::Write;
use std::path::Path;

use crate::config::{self, Pipeline};
use crate::models::teacher::{FolderConfig, TeacherConfig};
use crate::run::machine::{self, readable_bytes};
use crate::run::{files, hub, manifest};

/// The report, as text for people.
pub fn report(root: &Path) -> String {
    let mut text = String::new();
    let mut line = |content: String| writeln!(text, "{content}").expect("writing to a string cannot fail");
    line(format!("scaledown {}", env!("CARGO_PKG_VERSION")));
    line(format!("processor: {}", machine::processor()));
    line(format!("threads: {}", rayon::current_num_threads()));
    for (name, present) in machine::vector_extensions() {
        line(format!("{name}: {}", if present { "yes" } else { "no" }));
    }
    match machine::memory() {
        Some((total, free)) => line(format!("memory: {} of {} available", readable_bytes(free), readable_bytes(total))),
        None => line("memory: unknown on this system".into()),
    }
    match machine::free_disk(root) {
        Some(free) => line(format!("free disk: {}", readable_bytes(free))),
        None => line("free disk: unknown on this system".into()),
    }
    let names = config::names(root);
    if names.is_empty() {
        line(format!("\nno pipelines in `{}`; is this the right folder (`--root`)?", root.join(config::PIPELINES).display()));
    }
    for name in names {
        line(format!("\npipeline {name}"));
        for item in pipeline_lines(root, &name) {
            line(format!("  {item}"));
        }
    }
    text
}

/// The parts of a published model with their sizes, and what is missing. They are too large to be hashed here.
fn model_lines(model: &FolderConfig, pipeline: &Pipeline) -> Vec<String> {
    let found = match model.open(&pipeline.context.pipeline) {
        Ok(found) => found,
        // That it is not in the cache was said.
        Err(_) if hub::hint(&model.folder).is_some() => return Vec::new(),
        Err(error) => return vec![format!("model: {error}"), format!("  {}", error.hint().unwrap_or_default())],
    };
    let mut lines = vec![format!("model {}: {}", found.path.display(), found.family.class())];
    let inventory = found.inventory();
    let all: u64 = inventory.iter().filter_map(|(_, size)| size.as_ref().ok()).sum();
    lines.push(format!("  in all {}; {}", readable_bytes(all), needs::licence(&found.path)));
    lines.extend(inventory.into_iter().map(|(part, size)| match size {
        Ok(size) => format!("  {part}: {}", readable_bytes(size)),
        Err(error) => format!("  {part}: missing ({error})"),
    }));
    lines.extend(needs::sizes(pipeline, all));
    lines
}

/// The files the pipeline is committed with, with their hashes, and what would run.
fn pipeline_lines(root: &Path, name: &str) -> Vec<String> {
    let pipeline = match Pipeline::load(root, name) {
        Ok(pipeline) => pipeline,
        Err(error) => return vec![format!("cannot be used: {error}")],
    };
    let mut lines = Vec::new();
    for path in pipeline.files() {
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        lines.push(match (path.metadata(), files::sha256_file(&path)) {
            (Ok(info), Ok(hash)) => format!("{shown}: {}, sha256 {hash}", readable_bytes(info.len())),
            _ => format!("{shown}: missing"),
        });
    }
    lines.extend(needs::models(&pipeline));
    if let TeacherConfig::Folder(model) = &pipeline.experiment.teacher {
        lines.extend(model_lines(model, &pipeline));
    }
    match pipeline.all().and_then(|steps| pipeline.plan(&steps)) {
        Ok(plan) => lines.extend(plan),
        Err(error) => lines.push(format!("cannot be planned: {error}")),
    }
    lines.push(format!("results: {} ({} records what made them)", pipeline.context.runs.display(), manifest::FILE_NAME));
    lines
}
