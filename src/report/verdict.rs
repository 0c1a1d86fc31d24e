//! The first sentences of the page, made from numbers by fixed rules.

use super::data::{Data, Encoder, TEACHER};
use super::page::metric_title;
use super::table::{Outcome, escape, format_count, interval, signed};

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

/// "a, b and c".
fn join(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
