//! A report rendered from synthetic tables: numbers, escaping, self-containment, gaps, determinism, form.

mod longer_run;
mod synthetic;

use scaledown::report::preference::{self, Question};
use scaledown::report::{self, Config, Place};
use scaledown::run::context::RunContext;
use scaledown::run::files::{sha256_bytes, write_bytes};
use scaledown::run::html::{document, escape};
use scaledown::run::results::{SampleRow, ScoreRow, SummaryRow};
use serde_json::Value;
use synthetic::{HOSTILE, picture, prompts, run_below, write_evaluation, write_generated};

fn render(context: &RunContext) -> String {
    render_as(context, &Config::default())
}

fn render_as(context: &RunContext, config: &Config) -> String {
    let outputs = report::run(config, context).unwrap();
    std::fs::read_to_string(outputs.page).unwrap()
}

/// The text of the script element with this id.
fn block<'a>(html: &'a str, id: &str) -> &'a str {
    let start = html.find(&format!("id=\"{id}\">")).unwrap() + id.len() + 6;
    html[start..].split("</script>").next().unwrap()
}

/// What the page's script draws.
fn gallery(html: &str) -> Value {
    serde_json::from_str(block(html, "gallery-data")).unwrap()
}

/// The image of an encoder for the prompt that begins so.
fn image<'a>(gallery: &'a Value, prompt: &str, encoder: &str) -> &'a Value {
    let e = gallery["encoders"].as_array().unwrap().iter().position(|name| name == encoder).unwrap();
    let item = gallery["items"].as_array().unwrap().iter().find(|item| item["prompt"].as_str().unwrap().starts_with(prompt)).unwrap();
    &item["images"][e]
}

/// Compares with a committed file; `SCALEDOWN_UPDATE_SNAPSHOTS=1` writes it anew, to be looked at before it is committed.
fn assert_snapshot(name: &str, text: &str) {
    let path = std::path::Path::new("tests/snapshots").join(name);
    if std::env::var_os("SCALEDOWN_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (i, (found, expected)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{}, line {}", path.display(), i + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{}", path.display());
}

/// Tags without text, one a line; rows of tables, inner parts of figures, styles and scripts are left out.
fn skeleton(html: &str) -> String {
    let mut lines = String::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let tag = &rest[start..start + rest[start..].find('>').unwrap() + 1];
        rest = &rest[start + tag.len()..];
        let name: String = tag[1..].chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        if matches!(name.as_str(), "b" | "br" | "small" | "kbd" | "a" | "code" | "sup") || tag.starts_with("</") {
            continue;
        }
        lines.push_str(tag);
        lines.push('\n');
        if matches!(name.as_str(), "tbody" | "svg" | "style" | "script" | "option") {
            rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
        }
    }
    lines
}

#[test]
fn numbers_and_their_intervals_appear() {
    let folder = tempfile::tempdir().unwrap();
    let html = render(&run_below(folder.path()));
    for expected in [
        "71.5<br><small class=\"interval\">[65.5, 73.5]</small> <small class=\"n\">n 48</small>",
        "66.90",
        "<small class=\"share\">92.8 %</small>",
        "<b>81 %</b> [77.0, 85.0] of the compositional score (n 48, worse)",
        "Against its teacher: CompBench mean −16.8 [−19.8, −13.8] (worse, p 0.016)",
        "(equivalent within ±2.00, p 0.030)",
        "Against its untrained twin (base-untrained): CompBench mean +59.5 [50.5, 66.5] (better, p 0.016)",
        "+1.5 [−2.5, 6.5] (undecided: neither a difference nor equivalence within ±2.0 is shown)",
        "p-values are corrected after Holm over the 32 tests against the teacher",
        "+12.2",
        "[−3.0, 27.5]",
        "judge of compbench &lt;1a2b3c4d&gt;",
        "50.32",
        "equal updates and wall time",
        "<code>scaledown evaluate --pipeline synthetic --force</code>",
        "data-value=\"scaledown evaluate --pipeline synthetic &amp;&amp; scaledown report --pipeline synthetic\"",
        "0123456789abcdef",
        "ab12",
    ] {
        assert!(html.contains(expected), "`{expected}` is missing");
    }
}

#[test]
fn where_embeddings_lie_stands_beside_their_map_and_answers_two_claims() {
    let folder = tempfile::tempdir().unwrap();
    let html = render(&run_below(folder.path()));
    let section = html.split("<section id=\"collapse\"").nth(1).and_then(|rest| rest.split("</section>").next()).unwrap();
    for expected in [
        "2.50<br><small class=\"interval\">[2.38, 2.62]</small> <small class=\"n\">n 48</small>",
        "62.5<br><small class=\"interval\">[62.4, 62.6]</small> <small class=\"n\">n 48</small>",
        "+1.75<br><small class=\"interval\">[1.62, 1.88]</small> <small class=\"n\">n 48</small>",
        "−0.625<br><small class=\"interval\">[−0.750, −0.500]</small>",
        "0.875<br><small class=\"interval\">[0.750, 1.000]</small>",
        "<figcaption>t-SNE of mean-pooled text embeddings",
    ] {
        assert!(section.contains(expected), "`{expected}` is missing in {section}");
    }
    for claim in ["maps them onto it (Figure 6)</b>: agrees.", "the same embedding (Figure 9)</b>: agrees."] {
        assert!(html.contains(claim), "`{claim}` is missing");
    }
    // A metric of students only is no gap of the teacher; `small` was not measured.
    assert!(html.contains("recall@1, %) has no value for small, base-untrained."));
}

#[test]
fn evidence_of_every_judge_reaches_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let data = gallery(&render(&run_below(folder.path())));
    assert_eq!(image(&data, HOSTILE[0], "base")["answers"], serde_json::json!([["a <b>red</b> car", 0.98]]));
    let counted = image(&data, "two green cats", "teacher");
    assert_eq!(counted["counts"], serde_json::json!([["cat", 2, 3]]));
    assert_eq!(counted["boxes"], serde_json::json!([["cat", 0.9, 4.0, 10.0, 30.0, 40.0]]));
    assert_eq!(image(&data, "a dog", "base")["relation"], "dog: left of car");
    assert_eq!(
        image(&data, "a bus", "base")["read"],
        serde_json::json!([["missing", "mo"], ["extra", "hel<"], ["same", "o"], ["missing", "n"]])
    );
}

#[test]
fn tokens_say_what_is_padding_and_what_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let data = gallery(&render(&run_below(folder.path())));
    let tokens = |prompt: &str| {
        let items = data["items"].as_array().unwrap();
        items.iter().find(|item| item["prompt"].as_str().unwrap().starts_with(prompt)).unwrap()["tokens"].clone()
    };
    let short = tokens("a dog");
    // All encoders but the rendered ground truth are given the same.
    assert_eq!(short.as_array().unwrap().len(), 1);
    assert_eq!(short[0]["encoders"], serde_json::json!([1, 2, 3, 4, 5]));
    assert_eq!((&short[0]["kept"], &short[0]["length"]), (&serde_json::json!(8), &serde_json::json!(8)));
    let long = &tokens("two green cats")[0];
    assert_eq!((long["pieces"].as_array().unwrap().len(), long["kept"].as_u64().unwrap()), (16, 8));
}

#[test]
fn without_tests_nothing_is_called_better_worse_or_equivalent() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    std::fs::remove_file(context.evaluation().join("comparisons.parquet")).unwrap();
    let html = render(&context);
    let verdict = html.split("<p class=\"verdict\">").nth(1).and_then(|rest| rest.split("</header>").next()).unwrap();
    assert!(verdict.contains("(n 48, not tested)") && verdict.contains("(not tested)"), "{verdict}");
    for word in ["better", "worse", "equivalent within"] {
        assert!(!verdict.contains(word), "{verdict}");
    }
    assert!(!html.contains("class=\"outcome\">better") && !html.contains("class=\"outcome\">worse"));
    assert!(html.contains("Evaluate did not write the tests of the differences"));
}

/// A data card of prompts that try to be markup.
fn write_card(context: &RunContext) {
    let prompts: String = HOSTILE.iter().map(|prompt| format!("<li>{}</li>\n", escape(prompt))).collect();
    let card = document("Card", "", &format!("<main><h1>Card</h1>\n<ul>{prompts}</ul></main>\n"));
    write_bytes(&context.built.join("data-card.html"), card.as_bytes()).unwrap();
}

#[test]
fn text_of_prompts_never_becomes_markup() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    write_card(&context);
    let html = render(&context);
    assert!(!html.contains("<script>alert") && !html.contains("</script><!--"));
    assert_eq!(html.matches("<script>\n").count(), 1, "only the page's own script");
    // Four blocks: data of the images, small pictures, full pictures, script.
    assert_eq!(html.matches("</script>").count(), 4);
    let found: Vec<String> =
        gallery(&html)["items"].as_array().unwrap().iter().map(|item| item["prompt"].as_str().unwrap().to_owned()).collect();
    assert!(HOSTILE.iter().all(|prompt| found.contains(&(*prompt).to_owned())), "{found:?}");
    let card = std::fs::read_to_string(context.reports.join("data-card.html")).unwrap();
    assert!(card.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && card.contains(HOSTILE[2]) && !card.contains("<script"));
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let html = render(&run_below(folder.path()));
    let script = html.rfind("<script>\n").unwrap();
    for attribute in ["src=\"", "href=\"", "url(", "@import"] {
        for (at, _) in html[..script].match_indices(attribute) {
            let value: String = html[at + attribute.len()..].chars().take(40).collect();
            let allowed = value.starts_with('#') || value.starts_with("data:");
            assert!(allowed, "`{attribute}{value}` points elsewhere");
        }
    }
    assert!(!html.contains("//cdn") && !html.contains("https://"));
}

#[test]
fn full_pictures_lie_beside_the_page_or_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    let data = gallery(&render(&context));
    let full = image(&data, "a dog", "base")["full"].as_str().unwrap().to_owned();
    assert_eq!(full, "images/base/2.png");
    assert_eq!(std::fs::read(context.reports.join(&full)).unwrap(), picture(2));
    // A picture of an earlier run goes, anything else stays.
    write_bytes(&context.reports.join("images/gone/9.png"), b"x").unwrap();
    write_bytes(&context.reports.join("images/notes/read.txt"), b"x").unwrap();
    render(&context);
    assert!(!context.reports.join("images/gone").exists() && context.reports.join("images/notes/read.txt").exists());
    assert!(
        std::fs::read_dir(context.reports.join("images/base")).unwrap().all(|entry| entry.unwrap().path().extension().unwrap() == "png")
    );

    let html = render_as(&context, &Config { pictures: Place::Inside, ..Config::default() });
    let line: usize = image(&gallery(&html), "a dog", "base")["full"].as_str().unwrap().strip_prefix('#').unwrap().parse().unwrap();
    assert_eq!(block(&html, "pictures").lines().count(), 36);
    assert!(block(&html, "pictures").lines().nth(line).unwrap().starts_with("iVBORw0KGgo"));
    assert!(!context.reports.join("images/base").exists());
}

#[test]
fn a_small_budget_leaves_pictures_out_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    let html = render_as(&context, &Config { page_budget: 1, ..Config::default() });
    assert!(html.contains("Small pictures of 6 of 6 prompts do not fit into the page"));
    assert!(block(&html, "strips").trim().is_empty());
    assert_eq!(gallery(&html)["items"].as_array().unwrap().len(), 6, "no prompt is left out");
    let html = render_as(&context, &Config { page_budget: 1, pictures: Place::Inside, ..Config::default() });
    assert!(html.contains("36 pictures in full size do not fit"));
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
    write_generated(&context, "teacher", &prompts(), &|i, path| std::fs::write(path, picture(i as u32)).unwrap());
    let error = report::run(&Config::default(), &context).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("evaluate")), "{error}");
}

#[test]
fn metrics_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    SummaryRow::write(&context.evaluation().join("summary.parquet"), &[]).unwrap();
    ScoreRow::write(&context.evaluation().join("scores.parquet"), &[]).unwrap();
    let html = render(&context);
    assert!(html.contains("Composition: not measured in this run.") && html.contains("Not part of this report: text rendering"));
    assert!(html.contains("Encoder base has images, but no scores"));
    assert!(html.contains("the ceilings of the judges are not known"));
    assert_eq!(gallery(&html)["items"].as_array().unwrap().len(), 6);
}

#[test]
fn one_encoder_alone_gives_a_page_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let context = RunContext::below(folder.path(), "alone", folder.path().into(), 1);
    let prompts = prompts();
    write_generated(&context, "teacher", &prompts, &|i, path| std::fs::write(path, picture(i as u32)).unwrap());
    write_evaluation(&context, &["teacher"], &prompts);
    let html = render(&context);
    assert!(html.contains("No student was generated"));
    assert!(html.contains("No pair of a vision-based and a naive student"));
    assert_eq!(gallery(&html)["encoders"], serde_json::json!(["teacher"]));
}

#[test]
fn no_image_at_all_gives_a_page_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let context = RunContext::below(folder.path(), "empty", folder.path().into(), 1);
    SampleRow::write(&context.samples("teacher").join("samples.parquet"), &[]).unwrap();
    write_evaluation(&context, &[], &[]);
    let html = render(&context);
    assert!(html.contains("No image was generated") && html.contains("There are no images: none was generated."));
    assert!(!html.contains("id=\"viewer\""));
}

fn question(a: &str, b: &str, pairs: usize) -> Question {
    Question { encoders: [a.into(), b.into()], pairs, checks: 2 }
}

#[test]
fn a_preference_page_holds_every_pair_once_and_its_own_hash() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    let page = preference::run(&question("teacher", "base", 4), &context).unwrap();
    assert_eq!(page, context.reports.join("preference-teacher-base.html"));
    let html = std::fs::read_to_string(page).unwrap();
    let json = block(&html, "pairs").replace("\\u003c", "<");
    let data: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(data["encoders"], serde_json::json!(["teacher", "base"]));
    let ids: Vec<&str> = data["pairs"].as_array().unwrap().iter().map(|pair| pair["pair"].as_str().unwrap()).collect();
    let distinct: std::collections::BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!((ids.len(), distinct.len()), (4, 4));
    assert_eq!(data["checks"].as_array().unwrap().len(), 2);
    // Two pictures of every pair, whole and shuffled of every check.
    assert_eq!(block(&html, "pictures").lines().count(), 12);
    let hash = sha256_bytes(format!("{json}\n{}", block(&html, "pictures")).as_bytes());
    assert!(html.contains(&format!("data-page=\"{hash}\"")));
    // What is shown before a choice names no encoder.
    let title = html.split("</title>").next().unwrap();
    assert!(!title.contains("teacher") && !title.contains("base"));
    assert!(!html.contains("<script>alert"));
}

#[test]
fn a_question_that_cannot_be_asked_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let context = run_below(folder.path());
    for (question, message, hint) in [
        (question("teacher", "huge", 4), "`huge` has no images", "base"),
        (question("base", "base", 4), "compared with itself", "two encoders"),
        (question("teacher", "base", 0), "needs pairs", "--pairs"),
    ] {
        let error = preference::run(&question, &context).unwrap_err();
        assert!(error.to_string().contains(message) && error.hint().is_some_and(|text| text.contains(hint)), "{error}");
    }
}

#[test]
fn the_form_of_the_page_is_the_committed_one() {
    let folder = tempfile::tempdir().unwrap();
    assert_snapshot("report.txt", &skeleton(&render(&run_below(folder.path()))));
}

#[test]
fn the_figures_are_the_committed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let html = render(&run_below(folder.path()));
    let figures: Vec<&str> =
        html.match_indices("<svg role=\"img\"").map(|(at, _)| &html[at..at + html[at..].find("</svg>").unwrap() + 6]).collect();
    assert_snapshot("figures.txt", &figures.join("\n"));
}

/// Writes the pages that `tests/browser/*.mjs` look at.
#[test]
#[ignore = "for the browser: set SCALEDOWN_PAGES to the folder that the pages go to"]
fn pages_for_the_browser() {
    let folder = std::env::var("SCALEDOWN_PAGES").expect("SCALEDOWN_PAGES names a folder");
    let context = run_below(std::path::Path::new(&folder));
    write_card(&context);
    render(&context);
    preference::run(&question("teacher", "base", 6), &context).unwrap();
}

/// Writes a run of 2,000 prompts and five encoders, to be opened in a browser after
/// `scaledown report --pipeline smoke --root DIR`. Its pictures are noisy, so that they compress no better than real ones.
#[test]
#[ignore = "for the browser: set SCALEDOWN_LARGE_RUN to the folder that the run goes to"]
fn a_large_run() {
    let root = std::env::var("SCALEDOWN_LARGE_RUN").expect("SCALEDOWN_LARGE_RUN names a folder");
    synthetic::write_large_run(std::path::Path::new(&root), 2000, 256);
}
