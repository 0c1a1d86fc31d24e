//! The sections made of tables, each a function from the data to HTML; an empty string leaves the section out.

use std::fmt::Write as _;

use super::data::{Data, Encoder, REAL, TEACHER};
use super::page::{Notes, arrow, metric_title};
use super::paper::Published;
use super::table::{Cell, Table, escape, format_value};
use crate::error::Result;
use crate::run::results::SummaryRow;

/// The columns of the paper and their averages; every other metric stands in a table that opens on demand.
pub const HEADLINE: [&str; 14] = [
    "clip_score",
    "frechet",
    "compbench_color",
    "compbench_shape",
    "compbench_texture",
    "compbench_spatial",
    "compbench_3d_spatial",
    "compbench_numeracy",
    "compbench_complex",
    "compbench",
    "ocr_char",
    "ocr_word",
    "ocr_sentence",
    "ocr_mean",
];

/// Metrics in the order of [`HEADLINE`], the paper's; others follow as they are.
fn in_order(mut metrics: Vec<&str>) -> Vec<&str> {
    metrics.sort_by_key(|metric| HEADLINE.iter().position(|known| known == metric).unwrap_or(HEADLINE.len()));
    metrics
}

/// Whether a metric is of a kind.
type Belongs<'a> = &'a dyn Fn(&str) -> bool;

/// Encoders × metrics, one table per kind of metric; every caption begins with `label`.
pub fn scores(data: &Data, notes: &mut Notes, label: &str) -> String {
    let metrics = data.metrics();
    let groups: [(&str, Belongs); 3] = [
        ("Image quality", &|metric| matches!(metric, "clip_score" | "frechet")),
        ("Semantic understanding (T2I-CompBench rules)", &|metric| metric.starts_with("compbench")),
        ("Text rendering (CommonText)", &|metric| metric.starts_with("ocr_") && HEADLINE.contains(&metric)),
    ];
    let mut html = String::new();
    for (caption, belongs) in groups {
        let chosen = in_order(metrics.iter().copied().filter(|metric| belongs(metric)).collect());
        html.push_str(&value_table(data, notes, &format!("{label}{caption}; all prompts it applies to"), &chosen, "all"));
    }
    let more: Vec<&str> = metrics.iter().copied().filter(|metric| metric.starts_with("ocr_") && !HEADLINE.contains(metric)).collect();
    let table = value_table(data, notes, &format!("{label}Other ways to compare the text read with the text asked for"), &more, "all");
    if !table.is_empty() {
        let _ = write!(html, "<details><summary>Other text scores</summary>{table}</details>");
    }
    for scope in scopes(data) {
        let in_scope: Vec<&str> = metrics
            .iter()
            .copied()
            .filter(|metric| data.summary.iter().any(|row| row.versus.is_none() && row.metric == *metric && row.scope == scope))
            .collect();
        let table = value_table(data, notes, &format!("{label}Only {scope}"), &in_scope, &scope);
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

/// The head cell of an encoder's row.
pub fn encoder_cell(encoder: &Encoder) -> Cell {
    Cell::text(display_name(encoder))
}

/// Paired differences against the teacher, the untrained and the naive twins.
pub fn differences(data: &Data, notes: &mut Notes) -> String {
    let caption = "Student minus reference, paired by prompt and noise";
    let table = difference_table(data, notes, caption, &|row| Cell::difference(row, &data.tested));
    if table.is_empty() {
        return String::new();
    }
    let words = "<p>“Better”, “worse” and “equivalent” are said only where a test, corrected for the number of tests, shows it; the tests \
                 stand in the section after.</p>";
    format!("{words}{}{}", table.html(), shares_kept(data, ""))
}

/// Encoders with their references × metrics, each difference as `cell` shows it.
pub fn difference_table(data: &Data, notes: &mut Notes, caption: &str, cell: &dyn Fn(Option<&SummaryRow>) -> Cell) -> Table {
    let metrics = metrics_compared(data);
    let mut table = Table::new(caption).column("Student", None).column("minus", None);
    for metric in &metrics {
        let row = data.summary.iter().find(|row| row.metric == *metric && row.versus.is_some() && row.scope == "all");
        let title = format!("{}{}", metric_title(metric), row.map_or("", |row| arrow(&row.direction)));
        table = table.column(&title, row.map(|row| notes.number(&row.protocol)));
    }
    for encoder in &data.encoders {
        let number = |metric: &str, versus: &str| data.number(&encoder.name, metric, "all", Some(versus));
        let compared = |versus: &&str| metrics.iter().any(|metric| number(metric, versus).is_some());
        for versus in data.references(&encoder.name).into_iter().filter(compared) {
            let cells = metrics.iter().map(|metric| cell(number(metric, versus)));
            table.row([encoder_cell(encoder), Cell::text(versus)].into_iter().chain(cells).collect());
        }
    }
    table
}

/// Columns of the paper in which encoders are compared.
fn metrics_compared(data: &Data) -> Vec<&str> {
    let compared = |metric: &str| data.summary.iter().any(|row| row.metric == metric && row.versus.is_some() && row.scope == "all");
    in_order(data.metrics().into_iter().filter(|metric| HEADLINE.contains(metric) && compared(metric)).collect())
}

/// What the students keep of the teacher's scores; the caption begins with `label`.
pub fn shares_kept(data: &Data, label: &str) -> String {
    let mut table = Table::new(&format!("{label}Share of the teacher's score that is kept, in percent")).column("Student", None);
    let kept: Vec<String> = metrics_compared(data)
        .into_iter()
        .map(|metric| format!("retention_{metric}"))
        .filter(|name| data.summary.iter().any(|row| row.metric == *name && row.scope == "all"))
        .collect();
    for name in &kept {
        table = table.column(&metric_title(name), None);
    }
    for encoder in &data.encoders {
        let shares: Vec<Option<&SummaryRow>> = kept.iter().map(|name| data.number(&encoder.name, name, "all", Some(TEACHER))).collect();
        if shares.iter().any(Option::is_some) {
            table.row(std::iter::once(encoder_cell(encoder)).chain(shares.into_iter().map(Cell::value)).collect());
        }
    }
    table.html()
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

/// The columns of a table of ours, with a table of the paper that has them too.
const BESIDE: [(&str, u64, &[&str]); 4] = [
    (
        "Composition",
        1,
        &["compbench_color", "compbench_shape", "compbench_texture", "compbench_spatial", "compbench_3d_spatial", "compbench_numeracy"],
    ),
    ("Image quality", 2, &["fid", "frechet", "clip_score"]),
    ("Text rendering", 3, &["ocr_char", "ocr_word", "ocr_sentence"]),
    ("Prompt sets and objectives", ABLATIONS, &["fid", "frechet", "clip_score", "compbench", "ocr_mean"]),
];

/// The paper's table of one network under several trainings.
const ABLATIONS: u64 = 4;

/// Our tables, each beside the paper's.
pub fn beside_paper(data: &Data, headline: Option<&Encoder>) -> Result<String> {
    let preset = headline.and_then(|encoder| encoder.card_text("preset"));
    let published = Published::read()?;
    let mut html = format!(
        "<p>Beside each table of this run: published numbers of “{}” (protocol: {}). Models, images, prompts and judges differ from this run's, so values are \
         not comparable; what can be compared is the share of the teacher's score that is kept (the percentages below the scores), and \
         which skill suffers first when the encoder shrinks.</p>",
        escape(&published.source),
        escape(&published.protocol)
    );
    for (title, number, columns) in BESIDE {
        let ours: Vec<&str> = columns.iter().copied().filter(|metric| data.metrics().contains(metric)).collect();
        let mut table = Table::new(&format!("This run: {title}")).column("Encoder", None);
        if number == ABLATIONS {
            table = table.column("Learned from", None);
        }
        for metric in &ours {
            let direction = data.summary.iter().find(|row| row.metric == *metric).map_or("", |row| arrow(&row.direction));
            table = table.column(&format!("{}{direction}", metric_title(metric)), None);
        }
        let belongs = |encoder: &&Encoder| match number {
            ABLATIONS => encoder.is_student() && encoder.card_text("preset") == preset,
            _ => encoder.name != REAL,
        };
        for encoder in data.encoders.iter().filter(belongs) {
            let numbers: Vec<Option<&SummaryRow>> = ours.iter().map(|metric| data.value(&encoder.name, metric)).collect();
            if numbers.iter().any(Option::is_some) {
                let learned = (number == ABLATIONS).then(|| Cell::text(&learned_from(encoder)));
                let cells = numbers.into_iter().zip(&ours).map(|(row, metric)| {
                    let kept = data.number(&encoder.name, &format!("retention_{metric}"), "all", Some(TEACHER));
                    Cell::value(row).with_share(kept.map(|kept| kept.value))
                });
                table.row(std::iter::once(encoder_cell(encoder)).chain(learned).chain(cells).collect());
            }
        }
        let ours = if table.is_empty() { format!("<p class=\"absent\">{title}: not measured in this run.</p>") } else { table.html() };
        html.push_str(&published.beside(&ours, &[number]));
    }
    html.push_str("<details><summary>Tables 5 to 7 of the paper</summary>");
    html.push_str(&published.beside("", &[5, 6, 7]));
    html.push_str("</details>");
    Ok(html)
}

/// Prompt sets and objective of a training in words.
fn learned_from(encoder: &Encoder) -> String {
    match encoder.objective() {
        Some("none") => "nothing, as it starts".into(),
        objective => {
            let how = if objective == Some("naive") { ", naive" } else { "" };
            format!("{}{how}, {} updates", encoder.prompt_sets().join(" + "), encoder.card_number("updates").unwrap_or(0.0))
        }
    }
}

/// The name the page writes for an encoder.
pub fn display_name(encoder: &Encoder) -> &str {
    if encoder.name == REAL { GROUND_TRUTH } else { &encoder.name }
}

/// How the page calls the encoder `real`.
pub const GROUND_TRUTH: &str = "ground truth";

/// The place where the script draws the images.
pub fn images(n_items: usize) -> String {
    if n_items == 0 {
        return "<p>There are no images: none was generated.</p>".into();
    }
    include_str!("assets/gallery.html").into()
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

/// Sizes with and without projection, bytes and latency; the caption begins with `label`.
pub fn efficiency(data: &Data, notes: &mut Notes, label: &str) -> String {
    let metrics: Vec<&str> = ["parameters_encoder", "parameters", "bytes_f32", "bytes_bf16", "encode_ms"]
        .into_iter()
        .chain(["pipeline_s", "pipeline_offload_s", "pipeline_bytes", "pipeline_offload_bytes"])
        .filter(|metric| data.metrics().contains(metric))
        .collect();
    if metrics.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&format!("{label}Text encoders; ratios are teacher over student")).column("Encoder", None);
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
