//! The sections of the page, each a function from the data to HTML; an empty string leaves the section out.

use std::fmt::Write as _;

use serde_json::Value;

use super::data::{Data, Encoder, REAL, TEACHER};
use super::grid::{self, Grid};
use super::page::{Notes, arrow, metric_title};
use super::paper::Published;
use super::plot::{self, Axes, Bar, Series};
use super::table::{Cell, Outcome, Table, escape, format_count, format_value, interval, signed};
use crate::error::Result;
use crate::run::results::{SummaryRow, TrainLogRow};

/// The columns of the paper and their averages; every other metric stands in a table that opens on demand.
const HEADLINE: [&str; 10] = [
    "clip_score",
    "frechet",
    "compbench_color",
    "compbench_spatial",
    "compbench_numeracy",
    "compbench",
    "ocr_char",
    "ocr_word",
    "ocr_sentence",
    "ocr_mean",
];

/// Points of a learning curve after averaging.
const CURVE_POINTS: usize = 120;

/// The first sentences: what the main student keeps, and what distillation was worth.
pub fn verdict(data: &Data, headline: Option<&Encoder>) -> String {
    let Some(student) = headline else {
        return "<p class=\"verdict\">No student was generated and scored yet; the tables below show the teacher alone.</p>".into();
    };
    let name = format!("<b>{}</b>", escape(&student.name));
    let mut sentences = Vec::new();
    let size = match (data.parameters_encoder(&student.name), data.parameters_encoder(TEACHER)) {
        (Some(own), Some(teacher)) if own > 0.0 => {
            format!(" ({} weights without projection, {:.1} times fewer than the teacher)", format_count(own), teacher / own)
        }
        _ => String::new(),
    };
    let kept: Vec<String> = [("compbench", "compositional score"), ("ocr_mean", "text rendering"), ("clip_score", "CLIP score")]
        .iter()
        .filter_map(|(metric, words)| {
            let row = data.number(&student.name, &format!("retention_{metric}"), "all", Some(TEACHER))?;
            Some(format!("<b>{:.0} %</b> {} of the {words} (n {})", row.value, escape(&interval(row)), row.n))
        })
        .collect();
    sentences.push(if kept.is_empty() {
        format!("How much of the teacher {name}{size} keeps was not measured.")
    } else {
        format!("{name}{size} keeps {} of its teacher.", join(&kept))
    });
    for (objective, words) in [("none", "its untrained twin"), ("naive", "naive distillation of the same network")] {
        for twin in data.twins(student, objective) {
            let parts: Vec<String> = ["compbench", "ocr_mean", "clip_score"]
                .iter()
                .filter_map(|metric| Some((metric, data.number(&student.name, metric, "all", Some(&twin.name))?)))
                .map(|(metric, row)| {
                    let outcome = match Outcome::of(row) {
                        Outcome::Better => "better",
                        Outcome::Worse => "worse",
                        Outcome::Undecided => "not distinguishable",
                    };
                    format!("{} {} {} ({outcome})", escape(&metric_title(metric)), signed(metric, row.value), escape(&interval(row)))
                })
                .collect();
            if !parts.is_empty() {
                sentences.push(format!("Against {words} ({}): {}.", escape(&twin.name), join(&parts)));
            }
        }
    }
    sentences.push("Brackets are 95 % bootstrap intervals over prompts unless a footnote says otherwise.".into());
    format!("<p class=\"verdict\">{}</p>", sentences.join(" "))
}

/// Encoders × metrics, one table per kind of metric.
pub fn scores(data: &Data, notes: &mut Notes) -> String {
    let metrics = data.metrics();
    let groups: [(&str, &dyn Fn(&str) -> bool); 3] = [
        ("Image quality", &|metric| matches!(metric, "clip_score" | "frechet")),
        ("Semantic understanding (T2I-CompBench rules)", &|metric| metric.starts_with("compbench")),
        ("Text rendering (CommonText)", &|metric| metric.starts_with("ocr_") && HEADLINE.contains(&metric)),
    ];
    let mut html = String::new();
    for (caption, belongs) in groups {
        let chosen: Vec<&str> = metrics.iter().copied().filter(|metric| belongs(metric)).collect();
        html.push_str(&value_table(data, notes, &format!("{caption}; all prompts it applies to"), &chosen, "all"));
    }
    let more: Vec<&str> = metrics.iter().copied().filter(|metric| metric.starts_with("ocr_") && !HEADLINE.contains(metric)).collect();
    let table = value_table(data, notes, "Other ways to compare the text read with the text asked for", &more, "all");
    if !table.is_empty() {
        let _ = write!(html, "<details><summary>Other text scores</summary>{table}</details>");
    }
    for scope in scopes(data) {
        let in_scope: Vec<&str> = metrics
            .iter()
            .copied()
            .filter(|metric| data.summary.iter().any(|row| row.versus.is_none() && row.metric == *metric && row.scope == scope))
            .collect();
        let table = value_table(data, notes, &format!("Only {scope}"), &in_scope, &scope);
        let _ = write!(html, "<details><summary>Only {}</summary>{table}</details>", escape(&scope));
    }
    html
}

fn scopes(data: &Data) -> Vec<String> {
    let mut scopes: Vec<String> = data.summary.iter().map(|row| row.scope.clone()).filter(|scope| scope != "all").collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

fn value_table(data: &Data, notes: &mut Notes, caption: &str, metrics: &[&str], scope: &str) -> String {
    let first = |metric: &str| data.summary.iter().find(|row| row.metric == metric && row.scope == scope && row.versus.is_none());
    let mut table = Table::new(caption).column("Encoder", None);
    for metric in metrics {
        let row = first(metric);
        let title = format!("{}{}", metric_title(metric), row.map_or("", |row| arrow(&row.direction)));
        table = table.column(&title, row.map(|row| notes.number(&row.protocol)));
    }
    for encoder in &data.encoders {
        let numbers: Vec<Option<&SummaryRow>> = metrics.iter().map(|metric| data.number(&encoder.name, metric, scope, None)).collect();
        if numbers.iter().any(Option::is_some) {
            table.row(std::iter::once(encoder_cell(encoder)).chain(numbers.into_iter().map(Cell::value)).collect());
        }
    }
    table.html()
}

fn encoder_cell(encoder: &Encoder) -> Cell {
    Cell::text(if encoder.name == REAL { "ground truth" } else { &encoder.name })
}

/// Paired differences against the teacher, the untrained and the naive twins.
pub fn differences(data: &Data, notes: &mut Notes) -> String {
    let metrics: Vec<&str> = data
        .metrics()
        .into_iter()
        .filter(|metric| HEADLINE.contains(metric))
        .filter(|metric| data.summary.iter().any(|row| row.metric == *metric && row.versus.is_some() && row.scope == "all"))
        .collect();
    let mut table = Table::new("Student minus reference, paired by prompt and noise").column("Student", None).column("minus", None);
    for metric in &metrics {
        let row = data.summary.iter().find(|row| row.metric == *metric && row.versus.is_some() && row.scope == "all");
        let title = format!("{}{}", metric_title(metric), row.map_or("", |row| arrow(&row.direction)));
        table = table.column(&title, row.map(|row| notes.number(&row.protocol)));
    }
    let mut kept = Table::new("Share of the teacher's score that is kept, in percent").column("Student", None);
    let retained: Vec<String> = metrics
        .iter()
        .map(|metric| format!("retention_{metric}"))
        .filter(|name| data.summary.iter().any(|row| row.metric == *name && row.scope == "all"))
        .collect();
    for name in &retained {
        kept = kept.column(&metric_title(name), None);
    }
    for encoder in &data.encoders {
        let mut references: Vec<&str> = Vec::new();
        for row in data.summary.iter().filter(|row| row.encoder == encoder.name) {
            if let Some(versus) = row.versus.as_deref().filter(|versus| !references.contains(versus)) {
                references.push(versus);
            }
        }
        for versus in references {
            let cells = metrics.iter().map(|metric| Cell::difference(data.number(&encoder.name, metric, "all", Some(versus))));
            table.row([encoder_cell(encoder), Cell::text(versus)].into_iter().chain(cells).collect());
        }
        let shares: Vec<Option<&SummaryRow>> = retained.iter().map(|name| data.number(&encoder.name, name, "all", Some(TEACHER))).collect();
        if shares.iter().any(Option::is_some) {
            kept.row(std::iter::once(encoder_cell(encoder)).chain(shares.into_iter().map(Cell::value)).collect());
        }
    }
    if table.is_empty() {
        return String::new();
    }
    let words = "<p>“Better” and “worse” are said only where the interval excludes zero.</p>";
    format!("{words}{}{}", table.html(), kept.html())
}

/// Vision-based against naive distillation of the same network, with what each cost.
pub fn naive(data: &Data) -> String {
    let mut table = Table::new("The same network distilled in two ways");
    for title in
        ["Student", "Objective", "Compared at", "Updates", "Batch", "Wall seconds", "CompBench mean ↑", "OCR mean ↑", "CLIP score ↑"]
    {
        table = table.column(title, None);
    }
    let mut pairs = 0;
    for vision in data.encoders.iter().filter(|encoder| encoder.objective() == Some("vision")) {
        let twins = data.twins(vision, "naive");
        if twins.is_empty() {
            continue;
        }
        pairs += twins.len();
        table.row(training_cells(data, vision, "reference"));
        for twin in twins {
            table.row(training_cells(data, twin, &equality(vision, twin)));
        }
    }
    if pairs == 0 {
        return "<p>No pair of a vision-based and a naive student of the same network was generated.</p>".into();
    }
    let words = "<p>Naive distillation costs far less per update, because no denoiser runs. So it is shown at an equal number of updates and, \
                 where such a student exists, at equal wall time. Paired differences stand in the section before.</p>";
    format!("{words}{}", table.html())
}

/// In what two trainings are equal.
fn equality(vision: &Encoder, naive: &Encoder) -> String {
    let both = |key: &str| vision.card_number(key).zip(naive.card_number(key));
    let same_updates = both("updates").is_some_and(|(a, b)| a == b);
    // A tenth: wall time cannot be met exactly, training stops between two updates.
    let same_seconds = both("seconds").is_some_and(|(a, b)| (a - b).abs() <= 0.1 * a.max(b));
    match (same_updates, same_seconds) {
        (true, true) => "equal updates and wall time".into(),
        (true, false) => "equal updates".into(),
        (false, true) => "equal wall time".into(),
        (false, false) => {
            both("seconds").filter(|(a, _)| *a > 0.0).map_or("neither".into(), |(a, b)| format!("{:.2} of the wall time", b / a))
        }
    }
}

fn training_cells(data: &Data, encoder: &Encoder, compared: &str) -> Vec<Cell> {
    let number = |key: &str, decimals: usize| match encoder.card_number(key) {
        Some(value) => Cell::number(value, &format!("{value:.decimals$}")),
        None => Cell::absent("not in the student's card"),
    };
    let mut cells = vec![encoder_cell(encoder), Cell::text(encoder.objective().unwrap_or("")), Cell::text(compared)];
    cells.extend([number("updates", 0), number("batch", 0), number("seconds", 0)]);
    cells.extend(["compbench", "ocr_mean", "clip_score"].map(|metric| Cell::value(data.value(&encoder.name, metric))));
    cells
}

/// The paper's tables.
pub fn beside_paper(data: &Data) -> Result<String> {
    let published = Published::read()?;
    let ours: Vec<&str> =
        ["compbench_color", "compbench_spatial", "compbench_numeracy", "clip_score", "frechet", "ocr_char", "ocr_word", "ocr_sentence"]
            .into_iter()
            .filter(|metric| data.metrics().contains(metric))
            .collect();
    let mut table =
        Table::new("This run, the columns that the paper has too (other models: compare patterns, never values)").column("Encoder", None);
    for metric in &ours {
        table = table.column(&metric_title(metric), None);
    }
    for encoder in data.encoders.iter().filter(|encoder| encoder.name != REAL) {
        let numbers: Vec<Option<&SummaryRow>> = ours.iter().map(|metric| data.value(&encoder.name, metric)).collect();
        if numbers.iter().any(Option::is_some) {
            table.row(std::iter::once(encoder_cell(encoder)).chain(numbers.into_iter().map(Cell::value)).collect());
        }
    }
    let words = format!(
        "<p>Published numbers of “{}” ({}). Models, images, prompts and judges differ from this run's, so values are not comparable; \
         what can be compared is which skill suffers first when the encoder shrinks.</p>",
        escape(&published.source),
        escape(&published.protocol)
    );
    let rest = published.html(&[4, 5, 6, 7]);
    let main = published.html(&[1, 2, 3]);
    Ok(format!("{words}{}{main}<details><summary>Tables 4 to 7 of the paper</summary>{rest}</details>", table.html()))
}

/// Scaling figure, bars per category, learning curves.
pub fn figures(data: &Data) -> Result<String> {
    let mut html = String::new();
    let vision: Vec<&Encoder> = data.encoders.iter().filter(|encoder| encoder.objective() == Some("vision")).collect();
    let kinds = [("compbench", "Composition"), ("ocr_mean", "Text rendering"), ("clip_score", "CLIP score")];
    let series: Vec<(String, Vec<(f64, Bar, String)>)> = kinds
        .iter()
        .filter_map(|(metric, title)| {
            let points: Vec<_> = vision
                .iter()
                .filter_map(|encoder| {
                    let row = data.number(&encoder.name, &format!("retention_{metric}"), "all", Some(TEACHER))?;
                    let size = data.parameters_encoder(&encoder.name).filter(|&size| size > 0.0)?;
                    Some((size, bar(row), encoder.name.clone()))
                })
                .collect();
            (!points.is_empty()).then(|| ((*title).to_owned(), points))
        })
        .collect();
    html.push_str("<div class=\"plots\">");
    if !series.is_empty() {
        let description = "Score of vision-distilled students in percent of the teacher's, over the number of encoder weights";
        let svg = plot::sizes(&series, Axes { x: "weights of the encoder, without projection (log)", y: "% of the teacher", description })?;
        let words = "Scaling down: what each student keeps of its teacher, over the size of its encoder.";
        html.push_str(&figure(&svg, &plot::legend(series.iter().map(|(name, _)| name.as_str())), words));
    }
    html.push_str(&bar_figure(data)?);
    for (objective, title) in
        [("vision", "Learning curves of vision-based distillation"), ("naive", "Learning curves of naive distillation")]
    {
        let series: Vec<Series> = data
            .encoders
            .iter()
            .filter(|encoder| encoder.objective() == Some(objective))
            .map(|encoder| Series { name: encoder.name.clone(), points: smooth(&encoder.log) })
            .filter(|series| series.points.iter().any(|(_, y)| *y > 0.0))
            .collect();
        if !series.is_empty() {
            let svg = plot::curves(&series, Axes { x: "updates", y: "loss (log)", description: title })?;
            let words =
                format!("{title}; each point is the mean loss of a stretch of updates. Losses of the two objectives have different units.");
            html.push_str(&figure(&svg, &plot::legend(series.iter().map(|series| series.name.as_str())), &words));
        }
    }
    html.push_str("</div>\n");
    Ok(html)
}

fn bar_figure(data: &Data) -> Result<String> {
    let groups: Vec<(&str, &str, String)> = ["compbench_color", "compbench_spatial", "compbench_numeracy"]
        .into_iter()
        .map(|metric| (metric, "all", metric_title(metric)))
        .chain([("ocr_char", "seen", "OCR char, seen".to_owned()), ("ocr_char", "unseen", "OCR char, unseen".to_owned())])
        .chain([("ocr_word", "seen", "OCR word, seen".to_owned()), ("ocr_word", "unseen", "OCR word, unseen".to_owned())])
        .filter(|(metric, scope, _)| data.summary.iter().any(|row| row.metric == *metric && row.scope == *scope && row.versus.is_none()))
        .collect();
    let encoders: Vec<&Encoder> = data
        .encoders
        .iter()
        .filter(|encoder| groups.iter().any(|(metric, scope, _)| data.number(&encoder.name, metric, scope, None).is_some()))
        .collect();
    if groups.is_empty() || encoders.is_empty() {
        return Ok(String::new());
    }
    let bars: Vec<(String, Vec<Option<Bar>>)> = groups
        .iter()
        .map(|(metric, scope, title)| {
            (title.clone(), encoders.iter().map(|encoder| data.number(&encoder.name, metric, scope, None).map(bar)).collect())
        })
        .collect();
    let svg = plot::bars(
        &bars,
        Axes { x: "", y: "%", description: "Scores per category and encoder with intervals; the same numbers stand in the tables" },
    )?;
    Ok(figure(
        &svg,
        &plot::legend(encoders.iter().map(|encoder| display_name(encoder))),
        "Score per category; whiskers are intervals over prompts.",
    ))
}

fn display_name(encoder: &Encoder) -> &str {
    if encoder.name == REAL { "ground truth" } else { &encoder.name }
}

fn bar(row: &SummaryRow) -> Bar {
    Bar { value: row.value, low: row.ci_low, high: row.ci_high }
}

fn figure(svg: &str, legend: &str, caption: &str) -> String {
    format!("<figure class=\"plot\">{legend}{svg}<figcaption>{}</figcaption></figure>\n", escape(caption))
}

/// Mean loss of equal stretches of updates.
fn smooth(log: &[TrainLogRow]) -> Vec<(f64, f64)> {
    let stretch = log.len().div_ceil(CURVE_POINTS).max(1);
    log.chunks(stretch)
        .map(|rows| {
            let mean = |value: &dyn Fn(&TrainLogRow) -> f64| rows.iter().map(value).sum::<f64>() / rows.len() as f64;
            (mean(&|row| row.update as f64), mean(&|row| row.loss))
        })
        .collect()
}

/// The image grid with its filters.
pub fn images(data: &Data, pictures: &Grid) -> String {
    let options: String = grid::categories(data)
        .iter()
        .map(|(dataset, category)| {
            let value = escape(&format!("{dataset}/{category}"));
            format!("<option value=\"{value}\">{value}</option>")
        })
        .collect();
    let left_out = if pictures.shown < pictures.total {
        format!(" {} of {} prompts fit into this page, taken in turn from every category.", pictures.shown, pictures.total)
    } else {
        String::new()
    };
    format!(
        "<p>Every row shows one prompt with the same noise for every encoder.{left_out} Keys: <kbd>J</kbd> next, <kbd>K</kbd> previous.</p>\
         <form class=\"filters\" role=\"search\"><label>Category <select name=\"category\"><option value=\"\">all</option>{options}</select></label>\
         <label>Text <input type=\"search\" name=\"text\" placeholder=\"word in the prompt\"></label>\
         <label>Order <select name=\"order\"><option value=\"\">as generated</option><option value=\"worst\">worst regression first</option>\
         <option value=\"best\">best first</option></select></label>\
         <label><input type=\"checkbox\" name=\"boxes\"> detected boxes</label><output aria-live=\"polite\"></output></form>\n\
         <div class=\"grid\">\n{}</div>\n",
        pictures.html
    )
}

/// What the judges give to rendered ground truth.
pub fn ceilings(data: &Data, notes: &mut Notes) -> String {
    let mut table = Table::new("Scores of rendered ground truth: no encoder can be expected to be judged better");
    for title in ["Metric", "Prompts", "Ceiling"] {
        table = table.column(title, None);
    }
    for row in data.summary.iter().filter(|row| row.encoder == REAL && HEADLINE.contains(&row.metric.as_str())) {
        let title = format!("{}{}", metric_title(&row.metric), arrow(&row.direction));
        notes.number(&row.protocol);
        table.row(vec![Cell::text(&title), Cell::text(&row.scope), Cell::value(Some(row))]);
    }
    if table.is_empty() {
        return "<p>No ground truth was rendered, so the ceilings of the judges are not known.</p>".into();
    }
    table.html()
}

/// t-SNE and collapse diagnostics.
pub fn collapse(data: &Data, notes: &mut Notes) -> Result<String> {
    let metrics: Vec<&str> = ["effective_rank", "mean_cosine"].into_iter().filter(|metric| data.metrics().contains(metric)).collect();
    let cards = [("dead_units", "Dead hidden units of the projection"), ("variance_ratio", "Variance against the teacher's")];
    let mut table =
        Table::new("Signs of collapse: few directions, a mean cosine near 1, dead units, lost variance").column("Encoder", None);
    for metric in &metrics {
        let protocol = data.summary.iter().find(|row| row.metric == *metric).map(|row| notes.number(&row.protocol));
        table = table.column(&metric_title(metric), protocol);
    }
    for (_, title) in cards {
        table = table.column(title, None);
    }
    for encoder in data.encoders.iter().filter(|encoder| encoder.name != REAL) {
        let mut cells = vec![encoder_cell(encoder)];
        for metric in &metrics {
            cells.push(match data.value(&encoder.name, metric) {
                Some(row) => Cell::number(row.value, &format_value(metric, row.value)),
                None => Cell::absent("not measured"),
            });
        }
        for (key, _) in cards {
            cells.push(
                encoder.card_number(key).map_or(Cell::absent("not in the card"), |value| Cell::number(value, &format!("{value:.3}"))),
            );
        }
        table.row(cells);
    }
    let mut html = String::new();
    if !data.tsne.is_empty() {
        let mut series: Vec<Series> = Vec::new();
        for encoder in &data.encoders {
            let points: Vec<(f64, f64)> = data.tsne.iter().filter(|row| row.encoder == encoder.name).map(|row| (row.x, row.y)).collect();
            if !points.is_empty() {
                series.push(Series { name: encoder.name.clone(), points });
            }
        }
        let description = "t-SNE map of mean-pooled text embeddings, one point per prompt and encoder";
        let svg = plot::scatter(&series, Axes { x: "", y: "", description })?;
        let words = "t-SNE of mean-pooled text embeddings, one point per prompt. Distances between clusters mean nothing.";
        html.push_str(&figure(&svg, &plot::legend(series.iter().map(|series| series.name.as_str())), words));
    }
    html.push_str(&table.html());
    Ok(html)
}

/// Sizes with and without projection, bytes and latency.
pub fn efficiency(data: &Data, notes: &mut Notes) -> String {
    let metrics: Vec<&str> = ["parameters_encoder", "parameters", "bytes_f32", "bytes_bf16", "encode_ms"]
        .into_iter()
        .filter(|metric| data.metrics().contains(metric))
        .collect();
    if metrics.is_empty() {
        return String::new();
    }
    let mut table = Table::new("Text encoders; ratios are teacher over student").column("Encoder", None);
    for metric in &metrics {
        let protocol = data.summary.iter().find(|row| row.metric == *metric).map(|row| notes.number(&row.protocol));
        table = table.column(&metric_title(metric), protocol);
    }
    table = table.column("Smaller without projection", None).column("Smaller with projection", None);
    for encoder in data.encoders.iter().filter(|encoder| encoder.name != REAL) {
        let numbers: Vec<Option<&SummaryRow>> = metrics.iter().map(|metric| data.value(&encoder.name, metric)).collect();
        if numbers.iter().all(Option::is_none) {
            continue;
        }
        let ratio = |size: &dyn Fn(&str) -> Option<f64>| match (size(TEACHER), size(&encoder.name)) {
            (Some(teacher), Some(own)) if own > 0.0 => Cell::number(teacher / own, &format!("{:.1}×", teacher / own)),
            _ => Cell::absent("size not known"),
        };
        let mut cells = vec![encoder_cell(encoder)];
        cells.extend(numbers.into_iter().map(|row| match row {
            Some(row) if row.n == 1 => Cell::number(row.value, &format_value(&row.metric, row.value)),
            row => Cell::value(row),
        }));
        cells.extend([ratio(&|name| data.parameters_encoder(name)), ratio(&|name| data.parameters(name))]);
        table.row(cells);
    }
    table.html()
}

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

/// "a, b and c".
fn join(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
