//! The honest end of the page: what did not run, what is left out, and how everything was made.

use std::fmt::Write as _;

use serde_json::Value;

use super::data::{Data, TEACHER};
use super::page::metric_title;
use super::sections::{GROUND_TRUTH, display_name, encoder_cell};
use super::table::{Cell, Table, escape};

/// What reports in this field usually have; each is named where the run lacks it.
const USUAL: [(&str, &str); 8] = [
    ("fid", "FID with the Inception network (the Fréchet distance here uses other features and other images)"),
    ("compbench_shape", "shape binding of T2I-CompBench"),
    ("compbench_texture", "texture binding of T2I-CompBench"),
    ("compbench_3d_spatial", "3D-spatial relations of T2I-CompBench"),
    ("compbench_non_spatial", "non-spatial relations of T2I-CompBench"),
    ("compbench_complex", "complex prompts of T2I-CompBench"),
    ("ocr_char", "text rendering"),
    ("preference", "human preference"),
];

/// Measured on the text encoder, which rendered ground truth does not have.
const TEXT_ONLY: [&str; 3] = ["encode_ms", "effective_rank", "mean_cosine"];

/// Measured against the teacher's embeddings, which is 1 or all for the teacher itself.
const STUDENTS_ONLY: [&str; 3] = ["nearest_teacher_distance", "recall_at_1", "nearest_own_distance"];

/// Encoders that lack a number others have, one sentence per metric.
fn empty_cells(data: &Data) -> Vec<String> {
    let images = || data.encoders.iter().filter(|encoder| !encoder.samples.is_empty());
    let sentence = |metric: &str| {
        let lacks: Vec<&str> = images().filter(|encoder| data.value(&encoder.name, metric).is_none()).map(display_name).collect();
        let of_encoder = metric.starts_with("parameters") || metric.starts_with("bytes") || TEXT_ONLY.contains(&metric);
        let lacks: Vec<&str> = lacks.into_iter().filter(|name| !(of_encoder && *name == GROUND_TRUTH)).collect();
        let of_student = |name: &str| name != GROUND_TRUTH && name != TEACHER;
        let lacks: Vec<&str> = lacks.into_iter().filter(|name| !STUDENTS_ONLY.contains(&metric) || of_student(name)).collect();
        // The distance is measured to the ground truth.
        let lacks: Vec<&str> = lacks.into_iter().filter(|name| !(matches!(metric, "frechet" | "fid") && *name == GROUND_TRUTH)).collect();
        (!lacks.is_empty()).then(|| format!("{} has no value for {}.", metric_title(metric), lacks.join(", ")))
    };
    let plain = |metric: &&str| data.summary.iter().any(|row| row.metric == **metric && row.scope == "all" && row.versus.is_none());
    data.metrics().into_iter().filter(plain).filter_map(sentence).collect()
}

/// What did not run, and what the page leaves out.
///
/// `pictures` are sentences on what the page does not show.
pub fn missing(data: &Data, pictures: &[String]) -> String {
    let mut items: Vec<String> = data
        .skipped
        .iter()
        .map(|skipped| {
            let encoder = skipped.encoder.as_ref().map(|encoder| format!(" for {encoder}")).unwrap_or_default();
            format!("{}{encoder}: not run: {}.", metric_title(&skipped.metric), skipped.reason)
        })
        .collect();
    items.extend(data.gaps.iter().cloned());
    items.extend(pictures.iter().cloned());
    let few = data.summary.iter().filter(|row| row.n < 30 && row.ci_low.is_finite() && row.ci_low != row.ci_high).count();
    if few > 0 {
        items.push(format!("{few} reported numbers rest on fewer than 30 images; their intervals are rough."));
    }
    items.extend(empty_cells(data));
    let absent = USUAL.iter().filter(|(metric, _)| !data.metrics().contains(metric));
    items.extend(absent.map(|(_, words)| format!("Not part of this report: {words}.")));
    if items.is_empty() {
        return "<p>Nothing that this report knows of.</p>".into();
    }
    format!("<ul>{}</ul>", items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect::<String>())
}

/// A command line without the folder of the program.
fn as_typed(command: &str) -> String {
    match command.split_once(' ') {
        Some((program, rest)) => format!("{} {rest}", program.rsplit('/').next().unwrap_or(program)),
        None => command.rsplit('/').next().unwrap_or(command).to_owned(),
    }
}

/// The command that makes a stage's results again.
fn redo(pipeline: &str, stage: &str) -> String {
    let command = match stage.split_once(' ') {
        Some(("distill", student)) => format!("distill --student {student}"),
        Some(("generate", encoder)) => format!("generate --encoder {encoder}"),
        _ => stage.to_owned(),
    };
    format!("scaledown {command} --pipeline {pipeline} --force")
}

/// Manifests: commands, seeds, hashes.
pub fn reproduce(data: &Data) -> String {
    if data.manifests.is_empty() {
        return "<p>No stage left a manifest, so commands and hashes are not known.</p>".into();
    }
    let mut table = Table::new("Stages");
    for title in ["Stage", "Made again by", "Seconds", "Seed", "Version", "Commit", "Threads", "Device", "Outputs", "Made by"] {
        table = table.column(title, None);
    }
    let mut details = String::new();
    for (name, manifest) in &data.manifests {
        let text = |key: &str| manifest.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let number = |key: &str, decimals: usize| match manifest.get(key).and_then(Value::as_f64) {
            Some(value) => Cell::number(value, &format!("{value:.decimals$}")),
            None => Cell::absent("not recorded"),
        };
        let files = |key: &str| manifest.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        table.row(vec![
            Cell::text(name),
            Cell::command(&redo(&data.name, name)),
            number("seconds", 1),
            number("seed", 0),
            Cell::text(&text("version")),
            manifest.get("commit").and_then(Value::as_str).map_or(Cell::absent("not made in a clone of the sources"), Cell::line),
            number("threads", 0),
            Cell::line(&text("device")),
            Cell::number(files("outputs").len() as f64, &format!("{} files", files("outputs").len())),
            Cell::command(&as_typed(&text("command"))),
        ]);
        let list = |title: &str, key: &str| {
            let shown = files(key).iter().filter(|file| !file["path"].as_str().unwrap_or("").ends_with(".png"));
            let items: String = shown
                .map(|file| {
                    let (path, hash) = (file["path"].as_str().unwrap_or(""), file["sha256"].as_str().unwrap_or(""));
                    format!("<li><code>{}</code> {}</li>", escape(hash), escape(path))
                })
                .collect();
            if items.is_empty() { String::new() } else { format!("<h3>{title}</h3><ul class=\"files\">{items}</ul>") }
        };
        let config = manifest.get("config").map(|config| serde_json::to_string_pretty(config).unwrap_or_default()).unwrap_or_default();
        let _ = write!(
            details,
            "<details><summary>{}</summary>{}{}<h3>Configuration</h3><pre tabindex=\"0\">{}</pre></details>",
            escape(name),
            list("Inputs (SHA-256)", "inputs"),
            list("Outputs (SHA-256, pictures left out)", "outputs"),
            escape(&config)
        );
    }
    let words = format!("<p>Page written by scaledown {}.</p>", env!("CARGO_PKG_VERSION"));
    format!("{words}{}{}{details}", rows(data), table.html())
}

/// The commands that make an encoder's row of the tables again, from its training to the page.
fn rows(data: &Data) -> String {
    let mut table = Table::new("Rows of the tables above").column("Encoder", None).column("Made again by", None);
    for encoder in data.encoders.iter().filter(|encoder| !encoder.samples.is_empty()) {
        let own = [format!("distill {}", encoder.name), format!("generate {}", encoder.name)];
        let recorded = own.iter().filter(|stage| data.manifests.iter().any(|(name, _)| name == *stage));
        let rest = ["evaluate", "report"].map(|stage| format!("scaledown {stage} --pipeline {}", data.name));
        let commands: Vec<String> = recorded.map(|stage| redo(&data.name, stage)).chain(rest).collect();
        table.row(vec![encoder_cell(encoder), Cell::commands(&commands)]);
    }
    table.html()
}
