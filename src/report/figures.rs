//! Figures with their captions: what is kept over size, bars per category, learning curves, the map of embeddings.

use super::data::{Data, Encoder, REAL, TEACHER};
use super::page::{Notes, metric_title};
use super::plot::{self, Axes, Bar, Series, SizeSeries};
use super::sections::{display_name, encoder_cell};
use super::table::{Cell, Table, escape};
use crate::error::Result;
use crate::run::results::{SummaryRow, TrainLogRow};

/// Points of a learning curve after averaging.
const CURVE_POINTS: usize = 120;
/// A point is the mean of this share of the updates: losses of single denoising steps differ more than training changes them.
const CURVE_WINDOW: usize = 20;

/// Scaling figure, bars per category, learning curves.
pub fn figures(data: &Data) -> Result<String> {
    let mut html = String::new();
    let vision = data.sizes();
    let kinds = [("compbench", "Composition"), ("ocr_mean", "Text rendering"), ("clip_score", "CLIP score")];
    let series: Vec<SizeSeries> = kinds
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
            // The law is about scores, the figure about shares of the teacher's.
            let teacher = data.value(TEACHER, metric).map(|row| row.value).filter(|&value| value > 0.0);
            let law = data.tested.scaling.iter().find(|row| row.metric == *metric);
            let line = law.zip(teacher).map(|(law, teacher)| (100.0 * law.intercept / teacher, 100.0 * law.slope / teacher));
            (!points.is_empty()).then(|| SizeSeries { name: (*title).to_owned(), points, line })
        })
        .collect();
    html.push_str("<div class=\"plots\">");
    if !series.is_empty() {
        let description = "Score of vision-distilled students in percent of the teacher's, over the number of encoder weights";
        let svg = plot::sizes(&series, Axes { x: "weights of the encoder, without projection (log)", y: "% of the teacher", description })?;
        let fitted = series.iter().any(|series| series.line.is_some());
        let fit = if fitted { " Broad pale lines: fitted laws, teacher included; their intervals stand under Tests." } else { "" };
        let words =
            format!("Scaling down, as in the paper's Figure 1: what each student keeps of its teacher, over the size of its encoder.{fit}");
        html.push_str(&figure(&svg, &plot::legend(series.iter().map(|series| series.name.as_str())), &words));
    }
    for objective in ["vision", "naive"] {
        for curve in CURVES {
            html.push_str(&curves(data, objective, &curve)?);
        }
    }
    html.push_str(&bar_figure(data)?);
    html.push_str("</div>\n");
    Ok(html)
}

/// One kind of learning curve.
struct Curve {
    title: &'static str,
    x: (&'static str, fn(&TrainLogRow) -> f64),
    y: (&'static str, fn(&TrainLogRow) -> f64),
}

/// Loss over updates and over time, and the size of the gradient, which shows training that came apart.
const CURVES: [Curve; 3] = [
    Curve { title: "Loss", x: ("updates", |row| row.update as f64), y: ("loss (log)", |row| row.loss) },
    Curve { title: "Loss over time", x: ("wall seconds", |row| row.seconds), y: ("loss (log)", |row| row.loss) },
    Curve { title: "Gradient norm", x: ("updates", |row| row.update as f64), y: ("gradient norm (log)", |row| row.gradient_norm) },
];

/// The curve of all students of an objective; empty where none has a log.
fn curves(data: &Data, objective: &str, curve: &Curve) -> Result<String> {
    let words = if objective == "vision" { "distillation through the denoiser" } else { "naive distillation" };
    let title = format!("{} of {words}", curve.title);
    let series: Vec<Series> = data
        .encoders
        .iter()
        .filter(|encoder| encoder.objective() == Some(objective))
        .map(|encoder| Series { name: encoder.name.clone(), points: smooth(&encoder.log, curve) })
        .filter(|series| series.points.iter().any(|(_, y)| *y > 0.0))
        .collect();
    if series.is_empty() {
        return Ok(String::new());
    }
    let svg = plot::curves(&series, Axes { x: curve.x.0, y: curve.y.0, description: &title })?;
    let units = if curve.y.0.starts_with("loss") { " The losses of the two objectives have different units." } else { "" };
    let caption = format!("{title}; each point is the mean of the twentieth of the updates around it.{units}");
    Ok(figure(&svg, &plot::legend(series.iter().map(|series| series.name.as_str())), &caption))
}

fn bar_figure(data: &Data) -> Result<String> {
    let groups: Vec<(&str, &str, String)> = [
        "compbench_color",
        "compbench_shape",
        "compbench_texture",
        "compbench_spatial",
        "compbench_3d_spatial",
        "compbench_numeracy",
        "compbench_complex",
    ]
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
    Ok(framed(
        "plot wide",
        &svg,
        &plot::legend(encoders.iter().map(|encoder| display_name(encoder))),
        "Score per category; whiskers are intervals over prompts.",
    ))
}

fn bar(row: &SummaryRow) -> Bar {
    Bar { value: row.value, low: row.ci_low, high: row.ci_high }
}

fn figure(svg: &str, legend: &str, caption: &str) -> String {
    framed("plot", svg, legend, caption)
}

fn framed(class: &str, svg: &str, legend: &str, caption: &str) -> String {
    format!("<figure class=\"{class}\">{legend}{svg}<figcaption>{}</figcaption></figure>\n", escape(caption))
}

/// Means of windows around equally distant updates; at the ends the windows are cut.
fn smooth(log: &[TrainLogRow], curve: &Curve) -> Vec<(f64, f64)> {
    let reach = log.len() / (2 * CURVE_WINDOW);
    let place = |i: usize| {
        let rows = &log[i.saturating_sub(reach)..(i + reach + 1).min(log.len())];
        let mean = |value: &dyn Fn(&TrainLogRow) -> f64| rows.iter().map(value).sum::<f64>() / rows.len() as f64;
        (mean(&curve.x.1), mean(&curve.y.1))
    };
    (0..log.len()).step_by(log.len().div_ceil(CURVE_POINTS).max(1)).map(place).collect()
}

/// t-SNE and collapse diagnostics.
pub fn collapse(data: &Data, notes: &mut Notes) -> Result<String> {
    let metrics: Vec<&str> = ["effective_rank", "mean_cosine"].into_iter().filter(|metric| data.metrics().contains(metric)).collect();
    let cards = [("dead_units", "Dead hidden units of the projection"), ("variance_ratio", "Variance against the teacher's")];
    let mut table =
        Table::new("Signs of collapse: few directions, a mean cosine near 1, dead units, lost variance").column("Encoder", None);
    for metric in &metrics {
        let protocol = data.summary.iter().find(|row| row.metric == *metric && row.versus.is_none()).map(|row| notes.number(&row.protocol));
        table = table.column(&metric_title(metric), protocol);
    }
    for (_, title) in cards {
        table = table.column(title, None);
    }
    for encoder in data.encoders.iter().filter(|encoder| encoder.name != REAL) {
        let mut cells = vec![encoder_cell(encoder)];
        for metric in &metrics {
            cells.push(Cell::value(data.value(&encoder.name, metric)));
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
    html.push_str(&spaces(data, notes));
    html.push_str(&table.html());
    Ok(html)
}

/// Where the students' embeddings lie among the teacher's, and how twins differ in that.
fn spaces(data: &Data, notes: &mut Notes) -> String {
    const PLAIN: [&str; 3] = ["nearest_teacher_distance", "recall_at_1", "nearest_own_distance"];
    const PAIRED: [&str; 4] = ["nearest_teacher_distance", "recall_at_1", "nearest_own_distance", "mean_cosine"];
    let mut values = Table::new("Students in the teacher's space; the teacher's own distances are 1, its own prompt is nearest for 100 %")
        .column("Student", None);
    let mut pairs =
        Table::new("Student minus its twin in the teacher's space, paired by prompt; intervals, no tests").column("Student", None);
    let note = |metric: &str, paired: bool, notes: &mut Notes| {
        let row = data.summary.iter().find(|row| row.metric == metric && row.versus.is_some() == paired);
        row.map(|row| notes.number(&row.protocol))
    };
    for metric in PLAIN {
        values = values.column(&metric_title(metric), note(metric, false, notes));
    }
    pairs = pairs.column("minus", None);
    for metric in PAIRED {
        pairs = pairs.column(&metric_title(metric), note(metric, true, notes));
    }
    for student in data.encoders.iter().filter(|encoder| encoder.is_student()) {
        let numbers = PLAIN.map(|metric| data.value(&student.name, metric));
        if numbers.iter().any(Option::is_some) {
            values.row(std::iter::once(encoder_cell(student)).chain(numbers.map(Cell::value)).collect());
        }
        for twin in data.encoders.iter().filter(|encoder| encoder.is_student()) {
            let numbers = PAIRED.map(|metric| data.number(&student.name, metric, "all", Some(&twin.name)));
            if numbers.iter().any(Option::is_some) {
                pairs.row([encoder_cell(student), encoder_cell(twin)].into_iter().chain(numbers.map(Cell::untested_difference)).collect());
            }
        }
    }
    let words = "<p>A distance above 1 lies outside of the teacher's space, one of 0 on an embedding of another prompt. Between a student's own \
                 prompts, 0 is collapse. An embedding in the middle of all prompts is near to many of them: below 1 is no mapping unless its \
                 own prompt is the nearest.</p>";
    if values.is_empty() { String::new() } else { format!("{words}{}{}", values.html(), pairs.html()) }
}
