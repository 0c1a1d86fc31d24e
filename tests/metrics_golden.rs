//! Metrics against published or hand-computed values through the public interface, and the evaluate stage on rendered
//! ground truth.

use std::path::PathBuf;

use scaledown::metrics::evaluate::{self, Config, Group};
use scaledown::metrics::frechet;
use scaledown::mini::grammar;
use scaledown::mini::render::render;
use scaledown::mini::scene::Split;
use scaledown::models::teacher::TeacherConfig;
use scaledown::run::context::RunContext;
use scaledown::run::evaluation::read_skipped;
use scaledown::run::results::{SampleRow, ScoreRow, SummaryRow};
use scaledown::run::rng::{Key, text_id};
use scaledown::stats;

#[test]
fn frechet_distance_is_the_one_three_reference_implementations_give() {
    let f = |i: f64, j: f64| (0.7 * i + 1.3 * j).sin() + 0.1 * j + 0.3 * (0.11 * i * i + j).sin();
    let g = |i: f64, j: f64| 1.2 * (0.5 * i + 0.9 * j).cos() + 0.05 * i / 64.0 + 0.3 * (0.13 * i * i + 2.0 * j).cos();
    let rows = |h: &dyn Fn(f64, f64) -> f64| -> Vec<Vec<f64>> {
        (0..64).map(|i| (0..4).map(|j| h(f64::from(i), f64::from(j))).collect()).collect()
    };
    let distance = frechet::frechet_distance_of_rows(&rows(&f), &rows(&g)).unwrap();
    assert!((distance - 0.664319123569).abs() < 1e-10, "{distance:.12}");
}

#[test]
fn sixteen_of_fifty_two_votes_are_not_a_tie() {
    // The paper's user study: 36 votes for T5-XXL against 16 for T5-Base among those who chose.
    let share = stats::wilson(16, 52, 0.95).unwrap();
    assert!(share.high < 0.5, "{share:?}");
}

/// The committed pipeline.
fn pipeline() -> PathBuf {
    PathBuf::from("pipelines/mini")
}

fn teacher() -> TeacherConfig {
    let part = |preset: &str, file: &str| serde_json::json!({ "preset": preset, "weights": file });
    serde_json::from_value(serde_json::json!({
        "tokenizer": "tokenizer.json", "text_encoder": part("mini-teacher", "text-encoder.safetensors"), "clip": part("mini", "clip.safetensors"),
        "denoiser": part("mini", "denoiser.safetensors"), "autoencoder": part("mini", "autoencoder.safetensors"),
        "token_length": 24, "resolution": 64, "latent_downsampling": 4,
    }))
    .unwrap()
}

/// Six rendered scenes of every category as the images of `encoder`, moved one prompt on where `shifted`.
fn write_images(context: &RunContext, encoder: &str, shifted: bool) {
    let folder = context.samples(encoder);
    std::fs::create_dir_all(folder.join("images")).unwrap();
    let mut rows = Vec::new();
    let compbench = ["color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "complex"].map(|category| ("compbench", category));
    for (dataset, category) in compbench.into_iter().chain([("commontext", "seen"), ("laion", "caption")]) {
        for item in 0..6 {
            let sample =
                |item| grammar::sample_prompt(dataset, category, Split::Val, Key { seed: 4, purpose: "test", item, draw: 0 }).unwrap();
            let ((prompt, scene), (_, shown)) = (sample(item), sample(item + u64::from(shifted)));
            let image = format!("images/{category}-{item}.png");
            render(&shown, 64).save(folder.join(&image)).unwrap();
            rows.push(SampleRow {
                encoder: encoder.into(),
                prompt_id: text_id(&prompt),
                dataset: dataset.into(),
                category: category.into(),
                target_text: scene.sign_word.clone().filter(|_| dataset == "commontext"),
                scene: Some(serde_json::to_string(&scene).unwrap()),
                prompt,
                image_idx: 0,
                seed: 0,
                guidance: 3.5,
                steps: 20,
                image,
            });
        }
    }
    SampleRow::write(&folder.join("samples.parquet"), &rows).unwrap();
}

#[test]
fn without_experts_every_metric_says_why_and_gives_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let context = RunContext::below(folder.path(), "bare", folder.path().join("pipelines/bare"), 1);
    write_images(&context, "real", false);
    write_images(&context, "teacher", false);
    let outputs = evaluate::run(&Config::default(), &teacher(), &context).unwrap();
    assert!(SummaryRow::read(&outputs.summary, "").unwrap().is_empty() && ScoreRow::read(&outputs.scores, "").unwrap().is_empty());
    assert_eq!(outputs.tsne, None);
    let skipped = read_skipped(&outputs.skipped).unwrap();
    for metric in ["clip_score", "frechet", "compbench", "ocr", "embeddings", "tsne", "efficiency"] {
        let reason = skipped.iter().find(|skipped| skipped.metric == metric);
        assert!(reason.is_some_and(|skipped| skipped.reason.contains("not ") || skipped.reason.contains("no ")), "{metric}: {skipped:?}");
    }
}

#[test]
fn the_experts_know_right_pictures_from_wrong_ones() {
    let folder = tempfile::tempdir().unwrap();
    let context = RunContext::below(folder.path(), "truth", pipeline(), 1);
    write_images(&context, "real", false);
    write_images(&context, "teacher", true);
    let config = Config { metrics: vec![Group::Compbench, Group::Ocr], ..Config::default() };
    let outputs = evaluate::run(&config, &teacher(), &context).unwrap();
    let summary = SummaryRow::read(&outputs.summary, "").unwrap();
    let value = |encoder: &str, metric: &str| {
        let row = summary.iter().find(|row| row.encoder == encoder && row.metric == metric && row.scope == "all" && row.versus.is_none());
        row.unwrap_or_else(|| panic!("no {metric} of {encoder}")).clone()
    };
    for metric in ["compbench", "ocr_mean"] {
        let (right, wrong) = (value("real", metric), value("teacher", metric));
        println!("{metric}: {:.1} for right pictures, {:.1} for wrong ones ({})", right.value, wrong.value, right.protocol);
        assert!(right.value > wrong.value + 20.0, "{metric}: {} and {}", right.value, wrong.value);
        assert!(right.ci_low <= right.value && right.value <= right.ci_high);
    }
    let scores = ScoreRow::read(&outputs.scores, "").unwrap();
    assert!(scores.iter().any(|row| row.metric == "ocr_word" && row.detail.as_ref().is_some_and(|detail| detail.contains("\"read\""))));
}
