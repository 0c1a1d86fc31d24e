//! The page as a whole: head, order of the sections, footnotes and the list of all reports.

use super::data::Data;
use super::table::escape;
use super::{Config, figures, grid, provenance, sections, significance, verdict};
use crate::error::Result;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/report.js");

/// Protocols as numbered footnotes.
#[derive(Debug, Default)]
pub struct Notes {
    texts: Vec<String>,
}

impl Notes {
    /// The number of a footnote; equal texts share one.
    pub fn number(&mut self, text: &str) -> usize {
        match self.texts.iter().position(|known| known == text) {
            Some(at) => at + 1,
            None => {
                self.texts.push(text.into());
                self.texts.len()
            }
        }
    }

    fn html(&self) -> String {
        let notes: String =
            self.texts.iter().enumerate().map(|(i, text)| format!("<li id=\"note-{}\">{}</li>", i + 1, escape(text))).collect();
        format!("<ol class=\"notes\">{notes}</ol>")
    }
}

/// The report of one run.
pub fn page(data: &Data, config: &Config) -> Result<String> {
    let headline = data.headline(config.headline.as_deref());
    let mut notes = Notes::default();
    let pictures = grid::grid(data, headline, config.picture_budget)?;
    let parts: Vec<(&str, &str, String)> = vec![
        ("scores", "Scores", sections::scores(data, &mut notes)),
        ("differences", "Differences", sections::differences(data, &mut notes)),
        ("tests", "Tests", significance::html(data, &mut notes)),
        ("naive", "Naive distillation", sections::naive(data)),
        ("paper", "Beside the paper", sections::beside_paper(data)?),
        ("figures", "Figures", figures::figures(data)?),
        ("images", "Images", sections::images(data, &pictures)),
        ("ceilings", "Ceilings of the judges", sections::ceilings(data, &mut notes)),
        ("collapse", "Embedding space", figures::collapse(data, &mut notes)?),
        ("efficiency", "Size and speed", sections::efficiency(data, &mut notes)),
        ("missing", "What is missing", provenance::missing(data, &pictures)),
        ("reproduce", "How it was made", provenance::reproduce(data)),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(_, _, html)| !html.is_empty()).collect();
    let navigation: String = parts.iter().map(|(id, title, _)| format!("<a href=\"#{id}\">{title}</a>")).collect();
    let body: String = parts.iter().map(|(id, title, html)| format!("<section id=\"{id}\"><h2>{title}</h2>\n{html}</section>\n")).collect();
    let name = escape(&data.name);
    Ok(format!(
        "{}<header><h1>{name}</h1><p class=\"subtitle\">Distilled text encoders of a text-to-image model, measured</p>\n{}</header>\n\
         <nav aria-label=\"Sections\">{navigation}</nav>\n<main>\n{body}<section id=\"notes\"><h2>Protocols</h2>\n{}</section>\n</main>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        head(&format!("{name}: distilled text encoders")),
        verdict::verdict(data, headline),
        notes.html(),
    ))
}

/// The list of all reports; names are folders beside it.
pub fn index(names: &[String]) -> String {
    let items: String =
        names.iter().map(|name| format!("<li><a href=\"{}/index.html\">{}</a></li>\n", percent_encode(name), escape(name))).collect();
    format!("{}<header><h1>Reports</h1></header>\n<main><ul class=\"reports\">\n{items}</ul></main>\n</body>\n</html>\n", head("Reports"))
}

fn head(title: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    )
}

/// A folder name as a relative URL.
fn percent_encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The name of a metric as the page writes it.
pub fn metric_title(metric: &str) -> String {
    if let Some(of) = metric.strip_prefix("retention_") {
        return format!("{} kept", metric_title(of));
    }
    let known = match metric {
        "clip_score" => "CLIP score",
        "frechet" => "Fréchet distance (mini CLIP features)",
        "compbench" => "CompBench mean",
        "compbench_color" => "Color",
        "compbench_spatial" => "2D-spatial",
        "compbench_numeracy" => "Numeracy",
        "ocr_char" => "OCR character",
        "ocr_word" => "OCR word",
        "ocr_sentence" => "OCR sentence",
        "ocr_mean" => "OCR mean",
        "parameters" => "Weights with projection",
        "parameters_encoder" => "Weights of the encoder",
        "bytes_f32" => "Bytes in f32",
        "bytes_bf16" => "Bytes in bf16",
        "encode_ms" => "Encoding one prompt (ms)",
        "effective_rank" => "Effective rank",
        "mean_cosine" => "Mean cosine",
        _ => return metric.replace("compbench_", "").replace("ocr_", "OCR ").replace('_', " "),
    };
    known.to_owned()
}

/// Arrow that says which way is better.
pub fn arrow(direction: &str) -> &'static str {
    match direction {
        "higher" => " ↑",
        "lower" => " ↓",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_protocols_share_a_footnote() {
        let mut notes = Notes::default();
        assert_eq!((notes.number("a"), notes.number("b"), notes.number("a")), (1, 2, 1));
        assert!(notes.html().contains("<li id=\"note-2\">b</li>"));
    }

    #[test]
    fn the_list_links_folders_whatever_their_name() {
        let html = index(&["a b\"<".into()]);
        assert!(html.contains("href=\"a%20b%22%3C/index.html\"") && html.contains("a b&quot;&lt;"));
    }
}
