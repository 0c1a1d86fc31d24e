//! A report rendered from synthetic tables: numbers, escaping, self-containment, gaps, determinism.

use std::path::Path;

use scaledown::report::{self, Config};
use scaledown::run::context::RunContext;
use scaledown::run::evaluation::{ComparisonRow, ScalingRow, Skipped, TsneRow, write_skipped};
use scaledown::run::results::{SampleRow, ScoreRow, SummaryRow, TrainLogRow};
use scaledown::run::rng::text_id;

const HOSTILE: &str = r#"a <script>alert("x")</script> & 'quoted' car"#;
const ENCODERS: [&str; 6] = ["real", "teacher", "base", "small", "base-naive", "base-untrained"];

fn prompts() -> Vec<(&'static str, &'static str, String, Option<&'static str>)> {
    vec![
        ("compbench", "color", HOSTILE.into(), None),
        ("compbench", "numeracy", "two green cats on a pink background".into(), None),
        ("compbench", "spatial", "a dog on the left of a car".into(), None),
        ("commontext", "seen", "a cat below a sign reading 'hello'".into(), Some("hello")),
        ("commontext", "unseen", "a bus below a sign reading 'moon'".into(), Some("moon")),
        ("laion", "caption", "a watercolour of a turtle".into(), None),
    ]
}

fn picture(seed: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, (seed * 40) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write_generated(context: &RunContext, encoder: &str) {
    let folder = context.samples(encoder);
    std::fs::create_dir_all(folder.join("images")).unwrap();
    let rows: Vec<SampleRow> = prompts()
        .into_iter()
        .enumerate()
        .map(|(i, (dataset, category, prompt, target))| {
            let image = format!("images/{i}.png");
            std::fs::write(folder.join(&image), picture(i as u32)).unwrap();
            SampleRow {
                encoder: encoder.into(),
                prompt_id: text_id(&prompt),
                dataset: dataset.into(),
                category: category.into(),
                prompt,
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
}

fn write_student(context: &RunContext, encoder: &str, objective: &str, parameters: u64) {
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

fn summary(encoder: &str, metric: &str, scope: &str, versus: Option<&str>, [value, ci_low, ci_high]: [f64; 3]) -> SummaryRow {
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

/// The test of a difference; the outcome is stated here, the page must repeat it.
fn tested(row: &SummaryRow) -> Option<ComparisonRow> {
    let versus = row.versus.clone().filter(|_| !row.metric.starts_with("retention_"))?;
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

fn write_evaluation(context: &RunContext) {
    let mut rows = Vec::new();
    let mut scores = Vec::new();
    for (i, encoder) in ENCODERS.into_iter().enumerate() {
        let level = [97.4, 88.25, 71.5, 55.0, 30.0, 12.0][i];
        for metric in
            ["clip_score", "compbench_color", "compbench_spatial", "compbench_numeracy", "compbench", "ocr_char", "ocr_word", "ocr_mean"]
        {
            let value = if metric == "clip_score" { level / 3.0 } else { level };
            rows.push(summary(encoder, metric, "all", None, [value, value - 6.0, value + 2.0]));
            if encoder != "real" && encoder != "teacher" {
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
        for (dataset, category, prompt, target) in prompts() {
            let (metric, detail) = match category {
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
            let value = level - (text_id(&prompt) % 20) as f64;
            scores.push(ScoreRow {
                encoder: encoder.into(),
                prompt_id: text_id(&prompt),
                dataset: dataset.into(),
                category: category.into(),
                image_idx: 0,
                metric: metric.into(),
                value,
                detail: Some(detail),
                protocol: "p".into(),
            });
        }
    }
    rows.push(summary("base", "compbench", "all", Some("base-untrained"), [59.5, 50.5, 66.5]));
    rows.push(summary("base", "compbench", "all", Some("base-naive"), [1.5, -2.5, 6.5]));
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
        "outputs": [{ "path": "runs/x/evaluate/scores.parquet", "bytes": 10, "sha256": "ab12" }], "threads": 2, "device": "cpu", "finished": 1, "seconds": 3.25,
    });
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

fn run_below(root: &Path) -> RunContext {
    let context = RunContext::below(root, "synthetic", root.join("pipelines/synthetic"), 1);
    for encoder in ENCODERS {
        write_generated(&context, encoder);
    }
    write_student(&context, "base", "vision", 900_000);
    write_student(&context, "small", "vision", 300_000);
    write_student(&context, "base-naive", "naive", 900_000);
    write_student(&context, "base-untrained", "none", 900_000);
    write_evaluation(&context);
    context
}

fn render(context: &RunContext) -> String {
    let outputs = report::run(&Config::default(), context).unwrap();
    std::fs::read_to_string(outputs.page).unwrap()
}

#[test]
fn numbers_and_their_intervals_appear() {
    let folder = tempfile::tempdir().unwrap();
    let html = render(&run_below(folder.path()));
    for expected in [
        "71.5<br><small class=\"interval\">[65.5, 73.5]</small> <small class=\"n\">n 48</small>",
        "66.90",
        "<b>81 %</b> [77.0, 85.0] of the compositional score",
        "Against its teacher: CompBench mean −16.8 [−19.8, −13.8] (worse, p 0.016)",
        "(equivalent within ±2.00, p 0.030)",
        "Against its untrained twin (base-untrained): CompBench mean +59.5 [50.5, 66.5] (better, p 0.016)",
        "+1.5 [−2.5, 6.5] (undecided: neither a difference nor equivalence within ±2.0 is shown)",
        "p-values are corrected after Holm over the 32 tests against the teacher",
        "+12.2",
        "[−3.0, 27.5]",
        "judge of compbench &lt;1a2b3c4d&gt;",
        "50.32",
        "a &lt;b&gt;red&lt;/b&gt; car? 0.98",
        "cat: 3 found, 2 asked",
        "<span>hel</span>",
        "equal updates and wall time",
        "scaledown evaluate",
        "ab12",
    ] {
        assert!(html.contains(expected), "`{expected}` is missing");
    }
    if let Ok(copy) = std::env::var("SCALEDOWN_KEEP_REPORT") {
        std::fs::write(copy, &html).unwrap();
    }
}

#[test]
fn without_tests_nothing_is_called_better_worse_or_equivalent() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    std::fs::remove_file(context.evaluation().join("comparisons.parquet")).unwrap();
    let html = render(&context);
    let verdict = html.split("<p class=\"verdict\">").nth(1).and_then(|rest| rest.split("</p>").next()).unwrap();
    assert!(verdict.contains("(not tested)"), "{verdict}");
    for word in ["better,", "worse,", "equivalent within"] {
        assert!(!verdict.contains(word), "{verdict}");
    }
    assert!(!html.contains("class=\"outcome\">better") && !html.contains("class=\"outcome\">worse"));
    assert!(html.contains("Evaluate did not write the tests of the differences"));
}

#[test]
fn text_of_prompts_never_becomes_markup() {
    let folder = tempfile::tempdir().unwrap();
    let html = render(&run_below(folder.path()));
    assert!(html.contains("a &lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;quoted&#39; car"));
    assert!(!html.contains("<script>alert"));
    assert_eq!(html.matches("<script>").count(), 1, "only the page's own script");
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let html = render(&run_below(folder.path()));
    for attribute in ["src=\"", "href=\"", "url(", "@import"] {
        for (at, _) in html.match_indices(attribute) {
            let value: String = html[at + attribute.len()..].chars().take(40).collect();
            let allowed = value.starts_with('#') || value.starts_with("data:");
            assert!(allowed, "`{attribute}{value}` points elsewhere");
        }
    }
    assert!(!html.contains("//cdn") && !html.contains("https://"));
}

#[test]
fn the_same_results_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    assert_eq!(render(&context), render(&context));
}

#[test]
fn what_did_not_run_is_said_and_has_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    std::fs::remove_file(context.student("small").join("train-log.parquet")).unwrap();
    let html = render(&context);
    assert!(html.contains("OCR sentence: not run: `ocr-recognition.onnx` is not in the pipeline&#39;s folder."));
    assert!(html.contains("Student small has no train log"));
    assert!(html.contains("Stage build-data left no manifest"));
}

#[test]
fn a_small_budget_shows_fewer_prompts_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    let config = Config { picture_budget: 1, ..Config::default() };
    let outputs = report::run(&config, &context).unwrap();
    let html = std::fs::read_to_string(outputs.page).unwrap();
    assert_eq!(html.matches("<article").count(), 1);
    assert!(html.contains("1 of 6 prompts fit into this page") && html.contains("5 prompts have images that this page does not show"));
}

#[test]
fn the_list_of_reports_links_every_report() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    std::fs::create_dir_all(folder.path().join("reports/other")).unwrap();
    std::fs::write(folder.path().join("reports/other/index.html"), "x").unwrap();
    std::fs::create_dir_all(folder.path().join("reports/empty")).unwrap();
    let outputs = report::run(&Config::default(), &context).unwrap();
    let list = std::fs::read_to_string(outputs.index).unwrap();
    assert!(list.contains("href=\"other/index.html\"") && list.contains("href=\"synthetic/index.html\"") && !list.contains("empty"));
}

#[test]
fn a_run_without_scores_says_which_stage_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let context = RunContext::below(folder.path(), "synthetic", folder.path().into(), 1);
    write_generated(&context, "teacher");
    let error = report::run(&Config::default(), &context).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("evaluate")), "{error}");
}
