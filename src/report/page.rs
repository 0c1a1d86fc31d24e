//! The page as a whole: order of the sections, footnotes, data of the images, and what of them fits.

use std::path::PathBuf;

use super::beside::LongerRun;
use super::data::Data;
use super::gallery::{self, Gallery};
use super::table::escape;
use super::{Config, Place, claims, figures, provenance, sections, significance, thumbnails, verdict};
use crate::error::Result;
use crate::run::html;

const STYLE: &str = include_str!("assets/report.css");
const TABLES: &str = include_str!("assets/tables.js");
const GALLERY: &str = include_str!("assets/gallery.js");
const VIEWER: &str = include_str!("assets/viewer.js");

/// Bytes kept free for what is written after the pictures are chosen.
const RESERVE: usize = 300_000;

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

/// A page, and the pictures that lie beside it.
#[derive(Debug)]
pub struct Page {
    pub html: String,
    /// File of a run, and its place below the report.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// The report of one run, with the numbers of a longer one where there are some to show.
pub fn page(data: &Data, longer: Option<&LongerRun>, config: &Config) -> Result<Page> {
    let headline = data.headline(config.headline.as_deref());
    let mut notes = Notes::default();
    let mut gallery = Gallery::gather(data, headline)?;
    let mut parts: Vec<(&str, &str, String)> = vec![
        ("scores", "Scores", sections::scores(data, &mut notes, "")),
        ("differences", "Differences", sections::differences(data, &mut notes)),
        ("tests", "Tests", significance::html(data, &mut notes)),
        ("naive", "Naive distillation", sections::naive(data)),
        ("claims", "The paper's claims", claims::claims(data)?),
        ("paper", "Beside the paper", sections::beside_paper(data, headline)?),
        ("figures", "Figures", figures::figures(data)?),
        ("images", "Images", sections::images(gallery.items.len())),
        ("ceilings", "Ceilings of the judges", sections::ceilings(data, &mut notes)),
        ("collapse", "Embedding space", figures::collapse(data, &mut notes)?),
        ("efficiency", "Size and speed", sections::efficiency(data, &mut notes, "")),
        ("longer-run", "A longer run", longer.map_or_else(String::new, |longer| longer.html(&mut notes))),
        ("missing", "What is missing", String::new()),
        ("reproduce", "How it was made", provenance::reproduce(data)),
    ];
    let links = match config.pictures {
        Place::Beside => gallery.point_beside(data),
        Place::Inside => Vec::new(),
    };
    let without_pictures = parts.iter().map(|(_, _, html)| html.len()).sum::<usize>() + gallery.json()?.len() + RESERVE;
    let pictures = pictures(&mut gallery, config, config.page_budget.saturating_sub(without_pictures))?;
    if let Some(part) = parts.iter_mut().find(|(id, _, _)| *id == "missing") {
        part.2 = provenance::missing(data, &pictures.gaps);
    }
    parts.retain(|(_, _, html)| !html.is_empty());
    let navigation: String = parts.iter().map(|(id, title, _)| format!("<a href=\"#{id}\">{title}</a>")).collect();
    let body: String = parts
        .iter()
        .map(|(id, title, html)| {
            format!("<section id=\"{id}\" aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>\n{html}</section>\n")
        })
        .collect();
    let body = format!(
        "<a class=\"skip\" href=\"#main\">Skip to the results</a>\n\
         <header><h1>{}</h1><p class=\"subtitle\">Distilled text encoders of a text-to-image model, measured</p>\n{}</header>\n\
         <nav aria-label=\"Sections\">{navigation}</nav>\n<main id=\"main\">\n{body}\
         <section id=\"notes\" aria-labelledby=\"notes-title\"><h2 id=\"notes-title\">Protocols</h2>\n{}</section>\n</main>\n\
         <script type=\"application/json\" id=\"gallery-data\">{}</script>\n\
         <script type=\"text/plain\" id=\"strips\">{}</script>\n<script type=\"text/plain\" id=\"pictures\">{}</script>\n\
         <script>\n\"use strict\";\n{TABLES}{GALLERY}{VIEWER}</script>\n",
        escape(&data.name),
        verdict::verdict(data, headline),
        notes.html(),
        gallery.json()?,
        pictures.strips.join("\n"),
        pictures.full.join("\n"),
    );
    Ok(Page { html: html::document(&format!("{}: distilled text encoders", data.name), STYLE, &body), links })
}

/// Pictures inside of the page, as base64.
struct Pictures {
    strips: Vec<String>,
    full: Vec<String>,
    /// What does not fit, in sentences.
    gaps: Vec<String>,
}

fn pictures(gallery: &mut Gallery, config: &Config, budget: usize) -> Result<Pictures> {
    let for_strips = match config.pictures {
        Place::Beside => budget,
        // Most of the page belongs to the pictures themselves.
        Place::Inside => budget / 4,
    };
    let strips = thumbnails::strips(&gallery.files, for_strips)?;
    (gallery.cell, gallery.natural) = (strips.cell, strips.natural);
    let mut gaps = Vec::new();
    let (missing, n) = (strips.missing(), gallery.items.len());
    let mut full = Vec::new();
    match config.pictures {
        Place::Beside if missing > 0 => gaps.push(format!(
            "Small pictures of {missing} of {n} prompts do not fit into the page; they are shown from the folder `{}` beside it.",
            gallery::FOLDER
        )),
        Place::Beside => {}
        Place::Inside => {
            let (lines, left_out) = gallery.point_inside(budget.saturating_sub(strips.bytes()))?;
            full = lines;
            if left_out > 0 {
                gaps.push(format!("{left_out} pictures in full size do not fit into a single page of {} bytes.", config.page_budget));
            }
            if missing > 0 {
                gaps.push(format!("{missing} of {n} prompts have no small pictures in this page, for the same reason."));
            }
        }
    }
    Ok(Pictures { strips: strips.base64, full, gaps })
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
        "compbench_shape" => "Shape",
        "compbench_texture" => "Texture",
        "compbench_spatial" => "2D-spatial",
        "compbench_3d_spatial" => "3D-spatial",
        "compbench_complex" => "Complex",
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
        "pipeline_s" => "One image (s)",
        "pipeline_offload_s" => "One image, offloaded (s)",
        "pipeline_bytes" => "Memory of one image",
        "pipeline_offload_bytes" => "Memory of one image, offloaded",
        "nearest_teacher_distance" => "Distance to the teacher's nearest prompt",
        "recall_at_1" => "Own prompt nearest (recall@1, %)",
        "nearest_own_distance" => "Distance to its own nearest prompt",
        "neighbours" => "Nearest neighbours of text embeddings",
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
}
