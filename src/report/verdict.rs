//! The first sentences of the page, made from numbers by fixed rules.

use super::data::{Data, Encoder, TEACHER};
use super::page::metric_title;
use super::significance::statement;
use super::table::{escape, format_count, interval, signed};

/// What the first sentences are about, with the words for a share of it.
const HEADLINE: [(&str, &str); 3] = [("compbench", "compositional score"), ("ocr_mean", "text rendering"), ("clip_score", "CLIP score")];

/// The verdict in one sentence, what the student keeps with intervals and outcomes; below it the differences that were tested.
pub fn verdict(data: &Data, headline: Option<&Encoder>) -> String {
    let Some(student) = headline else {
        return "<p class=\"verdict\">No student was generated and scored yet; the tables below show the teacher alone.</p>".into();
    };
    let name = format!("<b>{}</b>", escape(&student.name));
    let size = match (data.parameters_encoder(&student.name), data.parameters_encoder(TEACHER)) {
        (Some(own), Some(teacher)) if own > 0.0 => {
            format!(" ({} weights without projection, {:.1} times fewer than the teacher)", format_count(own), teacher / own)
        }
        _ => String::new(),
    };
    let kept: Vec<String> = HEADLINE.iter().filter_map(|(metric, words)| kept(data, student, metric, words)).collect();
    let sentence = if kept.is_empty() {
        format!("How much of the teacher {name}{size} keeps was not measured.")
    } else {
        format!("{name}{size} keeps {} of its teacher.", join(&kept))
    };
    let mut findings: Vec<String> = against(data, student, TEACHER, "its teacher").into_iter().collect();
    for (objective, words) in [("none", "its untrained twin"), ("naive", "naive distillation of the same network")] {
        for twin in data.twins(student, objective) {
            findings.extend(against(data, student, &twin.name, &format!("{words} ({})", escape(&twin.name))));
        }
    }
    let tests = data.tested.comparisons.iter().find(|row| row.encoder == student.name && row.versus == TEACHER && row.scope == "all");
    let corrected = tests.map_or(String::new(), |row| format!(" over the {} tests against the teacher", row.family));
    let items: String = findings.iter().map(|finding| format!("<li>{finding}</li>")).collect();
    let list = if items.is_empty() { items } else { format!("<ul class=\"findings\">{items}</ul>") };
    format!(
        "<p class=\"verdict\">{sentence}</p>\n{list}<p class=\"meta\">Brackets are 95 % bootstrap intervals over prompts unless a footnote \
         says otherwise; p-values are corrected after Holm{corrected}, and equivalence is tested against the margin beside it.</p>\n"
    )
}

/// The kept share of a metric with its interval, and what the test of the difference allows to say.
fn kept(data: &Data, student: &Encoder, metric: &str, words: &str) -> Option<String> {
    let row = data.number(&student.name, &format!("retention_{metric}"), "all", Some(TEACHER))?;
    let tested = data.number(&student.name, metric, "all", Some(TEACHER)).and_then(|row| data.tested.of(row));
    let outcome = tested.map_or("not tested", |row| &row.outcome);
    Some(format!("<b>{:.0} %</b> {} of the {words} (n {}, {})", row.value, escape(&interval(row)), row.n, escape(outcome)))
}

/// What the tests against `versus` allow to say; nothing where nothing was compared.
fn against(data: &Data, student: &Encoder, versus: &str, words: &str) -> Option<String> {
    let parts: Vec<String> = HEADLINE
        .iter()
        .filter_map(|(metric, _)| Some((metric, data.number(&student.name, metric, "all", Some(versus))?)))
        .map(|(metric, row)| {
            let outcome = data.tested.of(row).map_or("not tested".into(), statement);
            format!("{} {} {} ({})", escape(&metric_title(metric)), signed(metric, row.value), escape(&interval(row)), escape(&outcome))
        })
        .collect();
    (!parts.is_empty()).then(|| format!("Against {words}: {}.", join(&parts)))
}

/// "a, b and c".
fn join(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
