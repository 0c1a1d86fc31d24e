//! The image grid: per prompt one row of pictures from the same noise, with what the judges said about each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use serde_json::Value;

use super::data::{Data, Encoder, REAL, TEACHER};
use super::table::{escape, format_value};
use crate::error::Result;
use crate::run::files;
use crate::run::results::{SampleRow, ScoreRow};

/// The grid and what it leaves out.
#[derive(Debug)]
pub struct Grid {
    pub html: String,
    pub shown: usize,
    pub total: usize,
}

/// One prompt with its images.
struct Prompt<'a> {
    row: &'a SampleRow,
    /// The main student's score minus the teacher's; `None` where either was not scored.
    change: Option<f64>,
}

/// Renders as many prompts as fit into `budget` bytes of pictures, taken in turn from every category.
pub fn grid(data: &Data, headline: Option<&Encoder>, budget: usize) -> Result<Grid> {
    let scores = data.scores_by_image();
    let prompts = prompts_in_turn(data, headline, &scores);
    let total = prompts.len();
    let (mut html, mut used, mut shown) = (String::new(), 0, 0);
    for prompt in &prompts {
        let mut figures = String::new();
        for encoder in &data.encoders {
            if let Some(sample) = sample_of(encoder, prompt.row) {
                let own = scores.get(&(encoder.name.as_str(), sample.prompt_id, sample.image_idx)).map_or(&[][..], Vec::as_slice);
                figures.push_str(&figure(encoder, sample, own)?);
            }
        }
        if used + figures.len() > budget && shown > 0 {
            break;
        }
        used += figures.len();
        shown += 1;
        html.push_str(&article(prompt, &figures));
    }
    Ok(Grid { html, shown, total })
}

/// Categories of all prompts with their prompt set, for the filters.
pub fn categories(data: &Data) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> =
        data.encoders.iter().flat_map(|encoder| &encoder.samples).map(|row| (row.dataset.clone(), row.category.clone())).collect();
    found.sort();
    found.dedup();
    found
}

fn prompts_in_turn<'a>(data: &'a Data, headline: Option<&Encoder>, scores: &BTreeMap<(&str, u64, u64), Vec<&ScoreRow>>) -> Vec<Prompt<'a>> {
    let mut seen = std::collections::BTreeSet::new();
    let mut by_category: BTreeMap<(&str, &str), Vec<Prompt>> = BTreeMap::new();
    for row in data.encoders.iter().flat_map(|encoder| &encoder.samples).filter(|row| row.image_idx == 0) {
        if seen.insert((row.dataset.as_str(), row.prompt_id)) {
            let change = headline.and_then(|student| change(row, &student.name, scores));
            by_category.entry((&row.dataset, &row.category)).or_default().push(Prompt { row, change });
        }
    }
    let mut queues: Vec<_> = by_category.into_values().map(Vec::into_iter).collect();
    let mut prompts = Vec::new();
    loop {
        let turn: Vec<Prompt> = queues.iter_mut().filter_map(Iterator::next).collect();
        if turn.is_empty() {
            return prompts;
        }
        prompts.extend(turn);
    }
}

/// The main student's first score of the prompt's own kind, minus the teacher's.
fn change(row: &SampleRow, student: &str, scores: &BTreeMap<(&str, u64, u64), Vec<&ScoreRow>>) -> Option<f64> {
    let value = |encoder: &str| {
        let own = scores.get(&(encoder, row.prompt_id, 0))?;
        let of_kind = |prefix: &str| own.iter().find(|score| score.metric.starts_with(prefix)).map(|score| score.value);
        match row.dataset.as_str() {
            "compbench" => of_kind("compbench_"),
            "commontext" => of_kind("ocr_mean").or_else(|| of_kind("ocr_char")),
            _ => of_kind("clip_score"),
        }
    };
    Some(value(student)? - value(TEACHER)?)
}

fn sample_of<'a>(encoder: &'a Encoder, of: &SampleRow) -> Option<&'a SampleRow> {
    encoder.samples.iter().find(|row| row.prompt_id == of.prompt_id && row.dataset == of.dataset && row.image_idx == of.image_idx)
}

fn article(prompt: &Prompt, figures: &str) -> String {
    let row = prompt.row;
    let target = row.target_text.as_ref().map(|text| format!(" · should read “{}”", escape(text))).unwrap_or_default();
    let (change, shown_change) = match prompt.change {
        Some(change) => (format!("{change}"), format!(" · change against the teacher {}", super::table::signed("", change))),
        None => (String::new(), String::new()),
    };
    format!(
        "<article class=\"prompt\" id=\"p{:016x}\" tabindex=\"-1\" data-dataset=\"{}\" data-category=\"{}\" data-text=\"{}\" data-change=\"{change}\">\
         <h3>{}</h3><p class=\"meta\">{} · {} · seed {} · guidance {} · {} steps{target}{}</p><div class=\"row\">{figures}</div></article>\n",
        row.prompt_id,
        escape(&row.dataset),
        escape(&row.category),
        escape(&row.prompt.to_lowercase()),
        escape(&row.prompt),
        escape(&row.dataset),
        escape(&row.category),
        row.seed,
        row.guidance,
        row.steps,
        escape(&shown_change),
    )
}

fn figure(encoder: &Encoder, sample: &SampleRow, scores: &[&ScoreRow]) -> Result<String> {
    let png = files::read_bytes(&encoder.folder.join(&sample.image), "a generated image", "run `scaledown generate` again")?;
    let picture = base64::engine::general_purpose::STANDARD.encode(&png);
    let name = if encoder.name == REAL { "ground truth" } else { &encoder.name };
    let mut spoken = String::new();
    let mut lines = String::new();
    for score in scores.iter().filter(|score| is_shown(&score.metric)) {
        let text = format!("{} {}", super::page::metric_title(&score.metric), format_value(&score.metric, score.value));
        let _ = write!(spoken, ", {text}");
        let _ = write!(lines, "<span class=\"score\">{}</span>", escape(&text));
    }
    let details: Vec<Value> = scores.iter().filter_map(|score| serde_json::from_str(score.detail.as_deref()?).ok()).collect();
    let read = details.iter().find_map(|detail| detail.get("read")?.as_str());
    if let (Some(read), Some(target)) = (read, &sample.target_text) {
        let _ = write!(lines, "<span class=\"ocr\">{}</span>", text_difference(target, read));
    }
    for detail in &details {
        lines.push_str(&evidence(detail));
    }
    let boxes = details.iter().find_map(|detail| detail.get("relation").or(detail.get("counts"))?.get("boxes")?.as_array());
    let overlay = boxes.map(|boxes| overlay(boxes, png_size(&png))).unwrap_or_default();
    let alt = escape(&format!("{name}: {}{spoken}", sample.prompt));
    Ok(format!(
        "<figure><div class=\"picture\"><img loading=\"lazy\" alt=\"{alt}\" src=\"data:image/png;base64,{picture}\">{overlay}</div>\
         <figcaption><b>{}</b>{lines}</figcaption></figure>",
        escape(name)
    ))
}

/// The grid shows one line per judge; the rest is in the tables.
fn is_shown(metric: &str) -> bool {
    metric == "clip_score" || metric.starts_with("compbench_") || matches!(metric, "ocr_char" | "ocr_word")
}

/// Answers and counts as small lines.
fn evidence(detail: &Value) -> String {
    let mut html = String::new();
    for answer in detail.get("answers").and_then(Value::as_array).into_iter().flatten() {
        if let (Some(phrase), Some(yes)) = (answer["phrase"].as_str(), answer["yes"].as_f64()) {
            let _ = write!(html, "<span class=\"answer\">{}? {:.2}</span>", escape(phrase), yes);
        }
    }
    for count in detail.pointer("/counts/counts").and_then(Value::as_array).into_iter().flatten() {
        if let (Some(noun), Some(expected), Some(found)) = (count["noun"].as_str(), count["expected"].as_u64(), count["found"].as_u64()) {
            let _ = write!(html, "<span class=\"answer\">{}: {found} found, {expected} asked</span>", escape(noun));
        }
    }
    if let Some(boxes) = detail.pointer("/relation/boxes").and_then(Value::as_array) {
        let names: Vec<&str> = boxes.iter().filter_map(|found| found["label"].as_str()).collect();
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let _ = write!(html, "<span class=\"answer\">found: {}</span>", escape(&names));
    }
    html
}

/// Detected boxes over the picture, hidden until asked for.
fn overlay(boxes: &[Value], (width, height): (u32, u32)) -> String {
    let mut svg = format!("<svg class=\"boxes\" viewBox=\"0 0 {width} {height}\" aria-hidden=\"true\">");
    for found in boxes {
        let side = |name: &str| found["bounds"][name].as_f64();
        if let (Some(x0), Some(y0), Some(x1), Some(y1)) = (side("x0"), side("y0"), side("x1"), side("y1")) {
            let label = escape(found["label"].as_str().unwrap_or_default());
            let _ = write!(
                svg,
                "<rect x=\"{x0:.1}\" y=\"{y0:.1}\" width=\"{:.1}\" height=\"{:.1}\"/><text x=\"{x0:.1}\" y=\"{:.1}\">{label}</text>",
                x1 - x0,
                y1 - y0,
                (y0 - 1.0).max(5.0)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

/// Width and height from a PNG's header; a square where there is none.
fn png_size(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| png.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("the slice has four bytes")));
    number(16).zip(number(20)).unwrap_or((1, 1))
}

/// What was read against what should be read, ignoring case: missing letters as `<del>`, extra ones as `<ins>`.
pub fn text_difference(target: &str, read: &str) -> String {
    if read.is_empty() {
        return format!("<del>{}</del> <i>no text read</i>", escape(target));
    }
    let fold = |c: char| c.to_lowercase().next().unwrap_or(c);
    let (a, b): (Vec<char>, Vec<char>) = (target.chars().collect(), read.chars().collect());
    // common[i][j]: length of the longest common subsequence of a[i..] and b[j..].
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if fold(a[i]) == fold(b[j]) { 1 + common[i + 1][j + 1] } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut html) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        let (tag, letter) = if i < a.len() && j < b.len() && fold(a[i]) == fold(b[j]) {
            (i, j) = (i + 1, j + 1);
            ("span", b[j - 1])
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ("del", a[i - 1])
        } else {
            j += 1;
            ("ins", b[j - 1])
        };
        let letter = escape(&letter.to_string());
        match html.strip_suffix(&format!("</{tag}>")) {
            Some(open) if open.rfind('<').is_some_and(|at| open[at..].starts_with(&format!("<{tag}>"))) => {
                html = format!("{open}{letter}</{tag}>")
            }
            _ => html.push_str(&format!("<{tag}>{letter}</{tag}>")),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_differences_mark_missing_and_extra_letters() {
        assert_eq!(text_difference("moon", "MOON"), "<span>MOON</span>");
        assert_eq!(text_difference("community", "comunity"), "<span>com</span><del>m</del><span>unity</span>");
        assert_eq!(text_difference("cat", "cats!"), "<span>cat</span><ins>s!</ins>");
        assert_eq!(text_difference("<b>", ""), "<del>&lt;b&gt;</del> <i>no text read</i>");
        assert!(text_difference("a", "<script>").contains("&lt;"));
    }

    #[test]
    fn evidence_is_escaped() {
        let detail = serde_json::json!({ "answers": [{ "phrase": "<img onerror=x>", "yes": 0.25 }] });
        assert_eq!(evidence(&detail), "<span class=\"answer\">&lt;img onerror=x&gt;? 0.25</span>");
    }
}
