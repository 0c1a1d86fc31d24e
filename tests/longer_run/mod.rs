//! The numbers of a longer run in the report of a short one: shown, labelled, and nowhere else.

use std::path::Path;

use scaledown::config::Pipeline;
use scaledown::report::Config;
use scaledown::run::context::RunContext;
use scaledown::run::files::{sha256_file, write_bytes};
use scaledown::run::results::{ScoreRow, SummaryRow};
use scaledown::stages::Step;

use super::synthetic::{run_below, summary, write_large_run};
use super::{render, render_as};

const FILE: &str = "longer.parquet";

fn shown() -> Config {
    Config { beside: Some(FILE.into()), ..Config::default() }
}

/// A number over 240 prompts.
fn number(encoder: &str, metric: &str, versus: Option<&str>, values: [f64; 3]) -> SummaryRow {
    let row = summary(encoder, metric, "all", versus, values);
    SummaryRow { n: if row.n == 1 { 1 } else { 240 }, ..row }
}

fn longer_run() -> Vec<SummaryRow> {
    vec![
        number("tiny", "compbench", None, [61.25, 58.5, 64.0]),
        number("teacher", "compbench", None, [91.75, 90.0, 93.5]),
        number("large", "compbench", None, [80.5, 78.0, 83.0]),
        number("large", "compbench", Some("teacher"), [-11.25, -13.0, -9.5]),
        number("large", "retention_compbench", Some("teacher"), [87.75, 85.0, 90.5]),
        summary("large", "ocr_char", "seen", None, [44.5, 40.0, 49.0]),
        number("teacher", "parameters_encoder", None, [8e6; 3]),
        number("large", "parameters_encoder", None, [4e6; 3]),
        number("tiny", "parameters_encoder", None, [2e6; 3]),
        number("large", "effective_rank", None, [9.0, f64::NEG_INFINITY, f64::INFINITY]),
    ]
}

fn write(context: &RunContext, rows: &[SummaryRow]) {
    SummaryRow::write(&context.pipeline.join(FILE), rows).unwrap();
}

/// A row of another table.
fn score() -> ScoreRow {
    ScoreRow {
        encoder: "base".into(),
        prompt_id: 1,
        dataset: "laion".into(),
        category: "caption".into(),
        image_idx: 0,
        metric: "compbench".into(),
        value: 1.0,
        detail: None,
        protocol: "p".into(),
    }
}

/// The section on the longer run with its tags.
fn section(html: &str) -> &str {
    let start = html.find("<section id=\"longer-run\"").expect("the page has a section on the longer run");
    &html[start..start + html[start..].find("</section>\n").unwrap() + "</section>\n".len()]
}

#[test]
fn rows_of_a_longer_run_stand_in_a_labelled_section() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    write(&context, &longer_run());
    let html = render_as(&context, &shown());
    let section = section(&html);
    let hash = sha256_file(&context.pipeline.join(FILE)).unwrap();
    for expected in [
        "<h2 id=\"longer-run-title\">A longer run</h2>",
        "do not come from this run but from a longer one",
        "<code>longer.parquet</code> (240 prompts, SHA-256 <code>",
        &format!("<code>{}</code>…", &hash[..8]),
        "may be compared by eye only",
        "61.2<br><small class=\"interval\">[58.5, 64.0]</small> <small class=\"n\">n 240</small>",
        "80.5<br><small class=\"interval\">[78.0, 83.0]</small> <small class=\"n\">n 240</small>",
        // The difference and the share kept, without a word on either.
        "−11.2<br><small class=\"interval\">[−13.0, −9.5]</small> <small class=\"n\">n 240</small>",
        "87.8<br><small class=\"interval\">[85.0, 90.5]</small>",
        "<summary>Only seen</summary>",
        "44.5<br>",
        "8.00 M",
        "2.0×",
    ] {
        assert!(section.contains(expected), "`{expected}` is missing in\n{section}");
    }
    assert!(!section.contains("class=\"outcome\""), "no test of the longer run is known");
    assert_eq!(section.matches("<caption>").count(), section.matches("<caption>A longer run: ").count());
    // Teacher first, then from large to small.
    let places = ["teacher", "large", "tiny"].map(|name| section.find(&format!("data-value=\"{name}\"")).unwrap());
    assert!(places.is_sorted(), "{places:?}");
    assert!(html.find("id=\"efficiency\"").unwrap() < html.find("<section id=\"longer-run\"").unwrap());
}

#[test]
fn a_longer_run_changes_nothing_else_of_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    let alone = render(&context);
    write(&context, &longer_run());
    let both = render_as(&context, &shown());
    // Its protocols are those of this run, so even the footnotes are equal.
    assert_eq!(both.replace(section(&both), "").replace("<a href=\"#longer-run\">A longer run</a>", ""), alone);
}

#[test]
fn a_longer_run_without_sizes_and_prompts_shows_names_and_images() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    let rows: Vec<SummaryRow> = longer_run().into_iter().filter(|row| row.metric == "compbench").collect();
    write(&context, &rows);
    let html = render_as(&context, &shown());
    let section = section(&html);
    assert!(section.contains("(number of prompts not in it, at most 240 images of an encoder, SHA-256"), "{section}");
    assert!(section.contains("data-value=\"tiny\"") && !section.contains("Text encoders; ratios"), "{section}");
}

#[test]
fn a_longer_run_that_cannot_be_shown_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    let path = context.pipeline.join(FILE);
    let number = |values| number("base", "compbench", None, values);
    let rows = |rows: &[SummaryRow]| SummaryRow::write(&path, rows).unwrap();
    let cases: [(&str, &dyn Fn()); 7] = [
        ("file not found", &|| ()),
        ("not a valid parquet file", &|| write_bytes(&path, b"encoder,metric\n").unwrap()),
        ("column `scope` is missing", &|| ScoreRow::write(&path, &[score()]).unwrap()),
        ("0 rows, none of them a plain value", &|| rows(&[])),
        ("1 rows, none of them a plain value", &|| rows(&[SummaryRow { versus: Some("teacher".into()), ..number([1.0; 3]) }])),
        ("`compbench` of `base` over `all` is NaN", &|| rows(&[number([f64::NAN, 1.0, 2.0])])),
        ("two rows for `compbench` of `base` over `all`", &|| rows(&[number([1.0; 3]), number([2.0; 3])])),
    ];
    for (found, damage) in cases {
        damage();
        let error = scaledown::report::run(&shown(), &context).unwrap_err();
        let (message, hint) = (error.to_string(), error.hint().unwrap_or_default());
        assert!(message.contains(found) && message.contains(FILE) && message.contains("[report] beside"), "{message}");
        assert!(hint.contains("evaluate/summary.parquet") && hint.contains("remove `beside`"), "{hint}");
    }
}

/// A run of the pipeline `smoke`, whose report shows a longer one.
fn pipeline(root: &Path) -> Pipeline {
    write_large_run(root, 5, 32);
    let file = root.join("pipelines/smoke.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    write_bytes(&file, format!("{text}\n[report]\nbeside = \"{FILE}\"\n").as_bytes()).unwrap();
    Pipeline::load(root, "smoke").unwrap()
}

fn plan(pipeline: &Pipeline) -> String {
    let steps: Vec<Step> = vec![pipeline.report().unwrap()];
    pipeline.plan(&steps).unwrap().join("\n")
}

#[test]
fn another_longer_run_makes_the_report_stale() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path());
    write(&pipeline.context, &longer_run());
    pipeline.execute(vec![pipeline.report().unwrap()]).unwrap();
    assert!(plan(&pipeline).contains("report: fresh"), "{}", plan(&pipeline));
    let manifest = std::fs::read_to_string(pipeline.context.reports.join("manifest.json")).unwrap();
    assert!(manifest.contains(&sha256_file(&pipeline.context.pipeline.join(FILE)).unwrap()), "{manifest}");
    write(&pipeline.context, &longer_run()[..3]);
    assert!(plan(&pipeline).contains("its input `pipelines/longer.parquet` changed"), "{}", plan(&pipeline));
}

#[test]
fn a_missing_longer_run_is_said_before_any_stage_runs() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path());
    let Err(error) = pipeline.all() else { panic!("the file is not there") };
    assert!(error.to_string().contains("pipelines/longer.parquet`: file not found"), "{error}");
    assert!(pipeline.files().contains(&pipeline.context.pipeline.join(FILE)), "`doctor` lists what is missing");
}
