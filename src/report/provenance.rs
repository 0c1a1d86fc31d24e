//! The honest end of the page: what did not run, what is left out, and how everything was made.

use std::fmt::Write as _;

use serde_json::Value;

use super::data::Data;
use super::grid::Grid;
use super::page::metric_title;
use super::table::{Cell, Table, escape};

/// What did not run, and what the page leaves out.
pub fn missing(data: &Data, pictures: &Grid) -> String {
    let mut items: Vec<String> = data
        .skipped
        .iter()
        .map(|skipped| {
            let encoder = skipped.encoder.as_ref().map(|encoder| format!(" for {encoder}")).unwrap_or_default();
            format!("{}{encoder}: not run: {}.", metric_title(&skipped.metric), skipped.reason)
        })
        .collect();
    items.extend(data.gaps.iter().cloned());
    if pictures.shown < pictures.total {
        items.push(format!("{} prompts have images that this page does not show.", pictures.total - pictures.shown));
    }
    let few = data.summary.iter().filter(|row| row.n < 30 && row.ci_low.is_finite() && row.ci_low != row.ci_high).count();
    if few > 0 {
        items.push(format!("{few} reported numbers rest on fewer than 30 images; their intervals are rough."));
    }
    items.extend(
        [
            "3D-spatial, shape, texture, non-spatial and complex prompts of T2I-CompBench, and the published judges (BLIP-VQA, UniDet, DPT).",
            "FID with the Inception network: the Fréchet distance here uses CLIP features and other images.",
            "Human preference, ControlNet, LoRA and other base models.",
        ]
        .map(|text| format!("Not part of this report: {text}")),
    );
    format!("<ul>{}</ul>", items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect::<String>())
}

/// Manifests: commands, seeds, hashes.
pub fn reproduce(data: &Data) -> String {
    if data.manifests.is_empty() {
        return "<p>No stage left a manifest, so commands and hashes are not known.</p>".into();
    }
    let mut table = Table::new("Stages");
    for title in ["Stage", "Command", "Seed", "Version", "Device", "Threads", "Seconds", "Outputs"] {
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
            Cell::text(&text("command")),
            number("seed", 0),
            Cell::text(&text("version")),
            Cell::text(&text("device")),
            number("threads", 0),
            number("seconds", 1),
            Cell::number(files("outputs").len() as f64, &format!("{} files", files("outputs").len())),
        ]);
        let list = |title: &str, key: &str| {
            let shown = files(key).iter().filter(|file| !file["path"].as_str().unwrap_or("").ends_with(".png"));
            let items: String = shown
                .map(|file| {
                    let (path, hash) = (file["path"].as_str().unwrap_or(""), file["sha256"].as_str().unwrap_or(""));
                    format!("<li><code>{}</code> {}</li>", escape(hash), escape(path))
                })
                .collect();
            if items.is_empty() { String::new() } else { format!("<h4>{title}</h4><ul class=\"files\">{items}</ul>") }
        };
        let config = manifest.get("config").map(|config| serde_json::to_string_pretty(config).unwrap_or_default()).unwrap_or_default();
        let _ = write!(
            details,
            "<details><summary>{}</summary>{}{}<h4>Configuration</h4><pre>{}</pre></details>",
            escape(name),
            list("Inputs (SHA-256)", "inputs"),
            list("Outputs (SHA-256, pictures left out)", "outputs"),
            escape(&config)
        );
    }
    format!("{}{details}", table.html())
}
