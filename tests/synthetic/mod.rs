//! A run as the stages before `report` leave it, made from nothing: tables with known numbers, small pictures.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;

use scaledown::run::context::RunContext;
use scaledown::run::evaluation::{ComparisonRow, ScalingRow, Skipped, TsneRow, write_skipped};
use scaledown::run::results::{SampleRow, ScoreRow, SummaryRow, TokenRow, TrainLogRow};
use scaledown::run::rng::text_id;

/// Prompts that a page must show as the text they are.
pub const HOSTILE: [&str; 3] =
    ["<script>alert(1)</script>", "a \"double\" & 'single' `tick` </script><!-- car", "سلحفاة حمراء 🐢 on a שולחן, \u{202e}reversed"];
pub const ENCODERS: [&str; 6] = ["real", "teacher", "base", "small", "base-naive", "base-untrained"];

/// One prompt of the run.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub dataset: &'static str,
    pub category: &'static str,
    pub prompt: String,
    pub target: Option<&'static str>,
}

/// Prompts of every kind, hostile ones among them.
pub fn prompts() -> Vec<Prompt> {
    let prompt = |dataset, category, prompt: &str, target| Prompt { dataset, category, prompt: prompt.into(), target };
    vec![
        prompt("compbench", "color", HOSTILE[0], None),
        prompt("compbench", "numeracy", "two green cats on a pink background and so on, longer than what is kept", None),
        prompt("compbench", "spatial", "a dog on the left of a car", None),
        prompt("commontext", "seen", HOSTILE[1], Some("<b>hello")),
        prompt("commontext", "unseen", "a bus below a sign reading 'moon'", Some("moon")),
        prompt("laion", "caption", HOSTILE[2], None),
    ]
}

pub fn picture(seed: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, (seed * 40) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Images, their table and, but for ground truth, the tokens of one encoder; the picture of the `i`-th prompt comes from `paint`.
pub fn write_generated(context: &RunContext, encoder: &str, prompts: &[Prompt], paint: &dyn Fn(usize, &Path)) {
    let folder = context.samples(encoder);
    std::fs::create_dir_all(folder.join("images")).unwrap();
    let rows: Vec<SampleRow> = prompts
        .iter()
        .enumerate()
        .map(|(i, Prompt { dataset, category, prompt, target })| {
            let image = format!("images/{i}.png");
            paint(i, &folder.join(&image));
            SampleRow {
                encoder: encoder.into(),
                prompt_id: text_id(prompt),
                dataset: (*dataset).into(),
                category: (*category).into(),
                prompt: prompt.clone(),
                target_text: target.map(str::to_owned),
                scene: None,
                image_idx: 0,
                seed: 7,
                guidance: 3.5,
                steps: 20,
                image,
            }
        })
        .collect();
    SampleRow::write(&folder.join("samples.parquet"), &rows).unwrap();
    if encoder != "real" {
        let tokens: Vec<TokenRow> = prompts
            .iter()
            .map(|prompt| {
                let pieces: Vec<String> = prompt.prompt.split_whitespace().map(|word| format!("▁{word}")).chain(["</s>".into()]).collect();
                let kept = pieces.len().min(8) as u64;
                TokenRow { prompt_id: text_id(&prompt.prompt), pieces: serde_json::to_string(&pieces).unwrap(), kept, length: 8 }
            })
            .collect();
        TokenRow::write(&folder.join("tokens.parquet"), &tokens).unwrap();
    }
}

/// A student as `distill` leaves it, without weights.
pub fn write_student(context: &RunContext, encoder: &str, objective: &str, parameters: u64) {
    let folder = context.student(encoder);
    std::fs::create_dir_all(&folder).unwrap();
    let preset = encoder.split('-').next().unwrap();
    let card = serde_json::json!({
        "name": encoder, "preset": preset, "objective": objective, "updates": 600, "batch": 8, "seconds": 420.5,
        "parameters": parameters + 60_000, "parameters_without_projection": parameters, "dead_units": 0.02, "variance_ratio": 0.9,
    });
    std::fs::write(folder.join("student.json"), card.to_string()).unwrap();
    if objective != "none" {
        let rows: Vec<TrainLogRow> = (0..600)
            .map(|update| TrainLogRow {
                update,
                loss: 0.5 * (-(update as f64) / 200.0).exp() + 0.02 + 0.01 * ((update * 7) % 5) as f64,
                gradient_norm: 1.0,
                learning_rate: 1e-3,
                seconds: update as f64 * 0.7,
                denoising_step: update % 20,
                guidance: 3.5,
            })
            .collect();
        TrainLogRow::write(&folder.join("train-log.parquet"), &rows).unwrap();
    }
}

/// One reported number.
pub fn summary(encoder: &str, metric: &str, scope: &str, versus: Option<&str>, [value, ci_low, ci_high]: [f64; 3]) -> SummaryRow {
    let lower = matches!(metric, "frechet" | "encode_ms" | "parameters" | "parameters_encoder");
    SummaryRow {
        encoder: encoder.into(),
        metric: metric.into(),
        scope: scope.into(),
        versus: versus.map(str::to_owned),
        value,
        ci_low,
        ci_high,
        n: if metric.starts_with("parameters") { 1 } else { 48 },
        unit: "%".into(),
        direction: if lower { "lower" } else { "higher" }.into(),
        protocol: format!("judge of {metric} <1a2b3c4d>"),
    }
}

/// Numbers of the text embeddings, which have intervals and no tests: metric, value of `base` and of `base-naive`.
const SPACES: [(&str, f64, f64); 4] = [
    ("nearest_teacher_distance", 2.5, 0.75),
    ("recall_at_1", 12.5, 62.5),
    ("nearest_own_distance", 1.125, 0.25),
    ("mean_cosine", 0.25, 0.875),
];

/// The test of a difference; the outcome is stated here, the page must repeat it.
fn tested(row: &SummaryRow) -> Option<ComparisonRow> {
    let untested = row.metric.starts_with("retention_") || SPACES.iter().any(|(metric, ..)| *metric == row.metric);
    let versus = row.versus.clone().filter(|_| !untested)?;
    let outcome = match (versus.as_str(), row.metric.as_str()) {
        ("base-untrained", _) => "better",
        ("base-naive", _) => "undecided",
        (_, "clip_score") => "equivalent",
        _ => "worse",
    };
    Some(ComparisonRow {
        encoder: row.encoder.clone(),
        versus,
        metric: row.metric.clone(),
        scope: row.scope.clone(),
        value: row.value,
        ci_low: row.ci_low,
        ci_high: row.ci_high,
        n: row.n,
        prompts: row.n,
        standard_error: 1.5,
        test: "clustered paired t".into(),
        p: Some(0.004),
        p_check: Some(0.005),
        p_holm: Some(0.016),
        margin: Some(2.0),
        p_equivalence: Some(0.01),
        p_equivalence_holm: Some(0.03),
        family: 32,
        outcome: outcome.into(),
        unit: row.unit.clone(),
        direction: row.direction.clone(),
        protocol: row.protocol.clone(),
    })
}

fn law() -> ScalingRow {
    ScalingRow {
        metric: "compbench".into(),
        encoders: 3,
        slope: 12.25,
        ci_low: 9.5,
        ci_high: 15.0,
        fit_low: -3.0,
        fit_high: 27.5,
        intercept: -4.0,
        r_squared: 0.93,
        prompts: 48,
        unit: "%".into(),
        protocol: "p".into(),
    }
}

/// Scores, summary, tests, map and manifest of the encoders.
pub fn write_evaluation(context: &RunContext, encoders: &[&str], prompts: &[Prompt]) {
    let mut rows = Vec::new();
    let mut scores = Vec::new();
    for &encoder in encoders {
        let i = ENCODERS.iter().position(|known| *known == encoder).unwrap();
        let level = [97.4, 88.25, 71.5, 55.0, 30.0, 12.0][i];
        for metric in
            ["clip_score", "compbench_color", "compbench_spatial", "compbench_numeracy", "compbench", "ocr_char", "ocr_word", "ocr_mean"]
        {
            let value = if metric == "clip_score" { level / 3.0 } else { level };
            rows.push(summary(encoder, metric, "all", None, [value, value - 6.0, value + 2.0]));
            if encoder != "real" && encoder != "teacher" && encoders.contains(&"teacher") {
                let gap = value - 88.25 / if metric == "clip_score" { 3.0 } else { 1.0 };
                rows.push(summary(encoder, metric, "all", Some("teacher"), [gap, gap - 3.0, gap + 3.0]));
                let kept = 100.0 * level / 88.25;
                rows.push(summary(encoder, &format!("retention_{metric}"), "all", Some("teacher"), [kept, kept - 4.0, kept + 4.0]));
            }
        }
        for scope in ["seen", "unseen"] {
            rows.push(summary(encoder, "ocr_char", scope, None, [level - 4.0, level - 11.0, level + 3.0]));
        }
        if encoder != "real" {
            rows.push(summary(encoder, "frechet", "all", None, [0.5 - level / 250.0, 0.1, 0.6]));
            rows.push(summary(encoder, "effective_rank", "all", None, [level / 3.0, f64::NEG_INFINITY, f64::INFINITY]));
            rows.push(summary(encoder, "parameters_encoder", "all", None, [5e6 / (i * i) as f64; 3]));
            rows.push(summary(encoder, "parameters", "all", None, [5e6 / (i * i) as f64 + 6e4; 3]));
            rows.push(summary(encoder, "encode_ms", "all", None, [9.0 / i as f64, 8.0 / i as f64, 10.0 / i as f64]));
        }
        for Prompt { dataset, category, prompt, target } in prompts {
            let (metric, detail) = match *category {
                "color" => ("compbench_color", r#"{"answers":[{"phrase":"a <b>red</b> car","yes":0.98}]}"#.to_owned()),
                "numeracy" => (
                    "compbench_numeracy",
                    r#"{"counts":{"counts":[{"noun":"cat","expected":2,"found":3}],"boxes":[{"label":"cat","score":0.9,"bounds":{"x0":4.0,"y0":10.0,"x1":30.0,"y1":40.0}}]}}"#.to_owned(),
                ),
                "spatial" => (
                    "compbench_spatial",
                    r#"{"relation":{"first":"dog","locality":"Left","second":"car","boxes":[{"label":"dog","score":0.8,"bounds":{"x0":2.0,"y0":20.0,"x1":28.0,"y1":46.0}}]}}"#.to_owned(),
                ),
                "seen" | "unseen" => ("ocr_char", serde_json::json!({ "read": "hel<o", "target": target }).to_string()),
                _ => ("clip_score", "null".to_owned()),
            };
            let value = level - (text_id(prompt) % 20) as f64;
            scores.push(ScoreRow {
                encoder: encoder.into(),
                prompt_id: text_id(prompt),
                dataset: (*dataset).into(),
                category: (*category).into(),
                image_idx: 0,
                metric: metric.into(),
                value,
                detail: Some(detail),
                protocol: "p".into(),
            });
        }
    }
    if encoders.contains(&"base") && encoders.contains(&"base-naive") {
        rows.push(summary("base", "compbench", "all", Some("base-untrained"), [59.5, 50.5, 66.5]));
        rows.push(summary("base", "compbench", "all", Some("base-naive"), [1.5, -2.5, 6.5]));
        for (metric, base, naive) in SPACES {
            for (encoder, versus, value) in [("base", None, base), ("base-naive", None, naive), ("base", Some("base-naive"), base - naive)]
            {
                let row = summary(encoder, metric, "all", versus, [value, value - 0.125, value + 0.125]);
                rows.push(SummaryRow { direction: "none".into(), ..row });
            }
        }
    }
    let folder = context.evaluation();
    SummaryRow::write(&folder.join("summary.parquet"), &rows).unwrap();
    ComparisonRow::write(&folder.join("comparisons.parquet"), &rows.iter().filter_map(tested).collect::<Vec<_>>()).unwrap();
    ScalingRow::write(&folder.join("scaling.parquet"), &[law()]).unwrap();
    ScoreRow::write(&folder.join("scores.parquet"), &scores).unwrap();
    let skipped =
        Skipped { metric: "ocr_sentence".into(), encoder: None, reason: "`ocr-recognition.onnx` is not in the pipeline's folder".into() };
    write_skipped(&folder.join("skipped.json"), &[skipped]).unwrap();
    let places: Vec<TsneRow> = ["teacher", "base", "small"]
        .iter()
        .filter(|encoder| encoders.contains(encoder))
        .enumerate()
        .flat_map(|(e, encoder)| {
            (0..40).map(move |i| TsneRow {
                encoder: (*encoder).into(),
                prompt_id: i,
                dataset: "laion".into(),
                category: "caption".into(),
                x: e as f64 * 8.0 + (i as f64 * 0.7).sin() * 4.0,
                y: (i as f64 * 1.3).cos() * 5.0,
            })
        })
        .collect();
    TsneRow::write(&folder.join("tsne.parquet"), &places).unwrap();
    let manifest = serde_json::json!({
        "stage": "evaluate", "version": "0.1.0", "seed": 11, "config": { "note": "<script>" }, "inputs": [], "command": "scaledown evaluate",
        "outputs": [{ "path": "runs/x/evaluate/scores.parquet", "bytes": 10, "sha256": "ab12" }], "threads": 2, "device": "cpu", "commit": "0123456789abcdef", "finished": 1, "seconds": 3.25,
    });
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

/// Cards and logs of all students.
pub fn write_students(context: &RunContext) {
    write_student(context, "base", "vision", 900_000);
    write_student(context, "small", "vision", 300_000);
    write_student(context, "base-naive", "naive", 900_000);
    write_student(context, "base-untrained", "none", 900_000);
}

/// A whole run with every encoder and prompt.
pub fn run_below(root: &Path) -> RunContext {
    let context = RunContext::below(root, "synthetic", root.join("pipelines/synthetic"), 1);
    let prompts = prompts();
    for encoder in ENCODERS {
        write_generated(&context, encoder, &prompts, &|i, path| std::fs::write(path, picture(i as u32)).unwrap());
    }
    write_students(&context);
    write_evaluation(&context, &ENCODERS, &prompts);
    context
}

/// A run of the pipeline `smoke` below `root` with `n` prompts and pictures of `side` pixels.
pub fn write_large_run(root: &Path, n: usize, side: u32) {
    const OBJECTS: [&str; 8] = ["car", "dog", "cat", "house", "tree", "boat", "key", "apple"];
    std::fs::create_dir_all(root.join("pipelines")).unwrap();
    std::fs::copy("pipelines/smoke.toml", root.join("pipelines/smoke.toml")).unwrap();
    let context = RunContext::below(root, "smoke", root.join("pipelines"), 1);
    let kinds = [
        ("compbench", "color", None),
        ("compbench", "numeracy", None),
        ("compbench", "spatial", None),
        ("commontext", "seen", Some("hello")),
        ("laion", "caption", None),
    ];
    let prompts: Vec<Prompt> = (0..n)
        .map(|i| {
            let (dataset, category, target) = kinds[i % kinds.len()];
            let (first, second) = (OBJECTS[i % 8], OBJECTS[(i / 8) % 8]);
            let prompt = format!("number {i}: a {first} beside a {second}{}", " and some more words".repeat(i % 4));
            Prompt { dataset, category, prompt, target }
        })
        .collect();
    let encoders = ["real", "teacher", "base", "base-untrained", "base-naive"];
    // Forty pictures per encoder, linked under all names: the disk holds few, the stage reads every one.
    let drawn = root.join("drawn");
    std::fs::create_dir_all(&drawn).unwrap();
    for (e, encoder) in encoders.iter().enumerate() {
        for k in 0..40u32 {
            let mut state = u64::from(k) * 7919 + e as u64 + 1;
            let image = image::RgbImage::from_fn(side, side, |x, y| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let noise = (state >> 33) as u32 % 24;
                let wave = |a: u32, b: u32| (128.0 + 90.0 * ((x * a + y * b + k * 31) as f64 * 8.0 / f64::from(side)).sin()) as u32;
                image::Rgb([wave(1, 2) + noise, wave(3, 1) + noise, wave(2, 2) + noise].map(|value| value.min(255) as u8))
            });
            image.save(drawn.join(format!("{encoder}-{k}.png"))).unwrap();
        }
        let link = |i: usize, path: &Path| {
            let _ = std::fs::remove_file(path);
            std::fs::hard_link(drawn.join(format!("{encoder}-{}.png", i % 40)), path).unwrap();
        };
        write_generated(&context, encoder, &prompts, &link);
        std::fs::write(context.samples(encoder).join("embeddings.safetensors"), b"").unwrap();
    }
    write_students(&context);
    write_evaluation(&context, &encoders, &prompts);
}
