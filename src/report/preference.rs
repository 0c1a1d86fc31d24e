//! A page on which a person chooses between two encoders without knowing which is which. The votes leave it as a JSON file.
//!
//! Sides and order are drawn anew for every rater, each encoder being left in half of the pairs; between the pairs stand checks of
//! attention, in which one picture is cut into shuffled tiles. The encoders' names are in the page's source, not in what it shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use image::{RgbImage, imageops};
use serde::Serialize;

use super::data::{Data, Encoder, REAL, TEACHER};
use super::thumbnails;
use crate::error::{Error, Result};
use crate::run::context::RunContext;
use crate::run::html::{document, json_for_script};
use crate::run::results::SampleRow;
use crate::run::{files, rng};

/// Start of the page's file name.
pub const PREFIX: &str = "preference-";

const STYLE: &str = include_str!("assets/preference.css");
const BODY: &str = include_str!("assets/preference.html");
const SCRIPT: &str = include_str!("assets/preference.js");

/// Bytes of a page; above that it opens slowly and does not travel by mail.
const BUDGET: usize = 25_000_000;
/// Pictures up to this side stay as they are; JPEG would disturb what is judged, and there is nothing to gain.
const SMALL: u32 = 256;
/// Sides and JPEG qualities of larger pictures, best first; the first that fits is taken.
const LADDER: [(u32, u8); 4] = [(1024, 92), (768, 90), (512, 90), (384, 85)];
/// Tiles along a side of a shuffled picture.
const TILES: u32 = 4;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub encoders: [String; 2],
    pub pairs: usize,
    /// Checks of attention between the pairs.
    pub checks: usize,
}

#[derive(Debug, Serialize)]
struct Questionnaire<'a> {
    version: u32,
    encoders: &'a [String; 2],
    pairs: Vec<Pair>,
    checks: Vec<Check>,
}

/// A prompt with the picture of either encoder: numbers of lines.
#[derive(Debug, Serialize)]
struct Pair {
    pair: String,
    prompt: String,
    pictures: [usize; 2],
}

/// A prompt with a whole and a shuffled picture.
#[derive(Debug, Serialize)]
struct Check {
    pair: String,
    prompt: String,
    whole: usize,
    shuffled: usize,
}

/// Writes `reports/<name>/preference-<a>-<b>.html` and returns its path.
///
/// # Errors
/// An encoder without images, the same encoder twice, encoders that share no prompt, or pictures that do not fit into a page.
pub fn run(question: &Question, context: &RunContext) -> Result<PathBuf> {
    let data = Data::read_images(context)?;
    let [a, b] = &question.encoders;
    if a == b {
        return Err(Error::config(format!("encoder `{a}` cannot be compared with itself"), "name two encoders"));
    }
    if question.pairs == 0 {
        return Err(Error::config("a questionnaire needs pairs, found 0", "ask for at least one with `--pairs`"));
    }
    let find = |name: &String| {
        let known: Vec<&str> = data.encoders.iter().map(|encoder| encoder.name.as_str()).collect();
        let hint = format!("encoders with images: {}", known.join(", "));
        data.encoder(name).ok_or_else(|| Error::config(format!("encoder `{name}` has no images"), hint))
    };
    let html = render(question, [find(a)?, find(b)?], &data, context.seed)?;
    let page = path(question, context);
    files::write_bytes(&page, html.as_bytes())?;
    Ok(page)
}

/// Where the page appears.
pub fn path(question: &Question, context: &RunContext) -> PathBuf {
    let [a, b] = &question.encoders;
    context.reports.join(format!("{PREFIX}{a}-{b}.html"))
}

fn render(question: &Question, encoders: [&Encoder; 2], data: &Data, seed: u64) -> Result<String> {
    let prompts = prompts(encoders, seed);
    if prompts.is_empty() {
        let [a, b] = &question.encoders;
        return Err(Error::config(format!("`{a}` and `{b}` have images of no common prompt"), "generate both from the same prompts"));
    }
    let pairs = &prompts[..question.pairs.min(prompts.len())];
    // Prompts of checks follow those of the pairs; where none are left, they start again.
    let checks: Vec<_> = prompts.iter().cycle().skip(pairs.len()).take(question.checks).collect();
    let mut pictures = Vec::new();
    let mut asked = Questionnaire { version: 1, encoders: &question.encoders, pairs: Vec::new(), checks: Vec::new() };
    for (left, right) in pairs {
        let files = [encoders[0].folder.join(&left.image), encoders[1].folder.join(&right.image)];
        let at = pictures.len();
        for file in &files {
            pictures.push(thumbnails::read(file)?);
        }
        asked.pairs.push(Pair { pair: format!("{:016x}", left.prompt_id), prompt: left.prompt.clone(), pictures: [at, at + 1] });
    }
    for (row, _) in checks {
        let whole = thumbnails::read(&clear_picture(data, encoders[0], row))?;
        let at = pictures.len();
        pictures.push(shuffled(&whole, rng::Key { seed, purpose: "shuffled tiles", item: row.prompt_id, draw: 0 }));
        pictures.push(whole);
        asked.checks.push(Check { pair: format!("{:016x}", row.prompt_id), prompt: row.prompt.clone(), whole: at + 1, shuffled: at });
    }
    let json = serde_json::to_string(&asked).map_err(|error| Error::Invalid(format!("the pairs as JSON: {error}")))?;
    let lines = encode_all(&pictures)?;
    let lines = lines.join("\n");
    let hash = files::sha256_bytes(format!("{json}\n{lines}").as_bytes());
    let body = format!(
        "{BODY}<script type=\"application/json\" id=\"pairs\">{}</script>\n<script type=\"text/plain\" id=\"pictures\">{lines}</script>\n\
         <script data-page=\"{hash}\" id=\"script\">\n\"use strict\";\n{SCRIPT}</script>\n",
        json_for_script(&json)
    );
    // The title names no encoder.
    Ok(document(&format!("{}: which picture fits better?", data.name), STYLE, &body))
}

/// The images of one prompt, of either encoder.
type Images<'a> = (&'a SampleRow, &'a SampleRow);
/// Images by what was drawn for their prompt, then by the prompt.
type Ranked<'a> = BTreeMap<(u64, u64), Images<'a>>;

/// Prompts that both encoders have the first image of, in turn from every category, in an order drawn from the seed.
fn prompts(encoders: [&Encoder; 2], seed: u64) -> Vec<Images<'_>> {
    let of_right: BTreeMap<u64, &SampleRow> =
        encoders[1].samples.iter().filter(|row| row.image_idx == 0).map(|row| (row.prompt_id, row)).collect();
    let mut categories: BTreeMap<(&str, &str), Ranked> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for left in encoders[0].samples.iter().filter(|row| row.image_idx == 0) {
        if let Some(&right) = of_right.get(&left.prompt_id).filter(|_| seen.insert(left.prompt_id)) {
            let key = rng::Key { seed, purpose: "preference pairs", item: left.prompt_id, draw: 0 };
            let rank = (rng::uniform(&mut rng::stream(key)) * (1u64 << 53) as f64) as u64;
            categories.entry((&left.dataset, &left.category)).or_default().insert((rank, left.prompt_id), (left, right));
        }
    }
    let mut queues: Vec<_> = categories.into_values().map(BTreeMap::into_values).collect();
    let mut chosen = Vec::new();
    loop {
        let turn: Vec<_> = queues.iter_mut().filter_map(Iterator::next).collect();
        if turn.is_empty() {
            return chosen;
        }
        chosen.extend(turn);
    }
}

/// A picture of the prompt that shows something: ground truth, else the teacher's, else the first encoder's.
fn clear_picture(data: &Data, otherwise: &Encoder, row: &SampleRow) -> PathBuf {
    let of = |name: &str| {
        let encoder = data.encoder(name)?;
        let sample = encoder.samples.iter().find(|sample| sample.prompt_id == row.prompt_id && sample.image_idx == 0)?;
        Some(encoder.folder.join(&sample.image))
    };
    of(REAL).or_else(|| of(TEACHER)).unwrap_or_else(|| otherwise.folder.join(&row.image))
}

/// The picture cut into tiles that change places; no tile stays where it was.
fn shuffled(image: &RgbImage, key: rng::Key) -> RgbImage {
    let n = TILES * TILES;
    let (width, height) = (image.width() / TILES, image.height() / TILES);
    let mut random = rng::stream(key);
    let mut order: Vec<u32> = (0..n).collect();
    rng::shuffle(&mut random, &mut order);
    let mut cut = image.clone();
    // Along the drawn circle every tile moves on to the place of the next one.
    for (i, from) in order.iter().enumerate() {
        let to = order[(i + 1) % order.len()];
        let tile = imageops::crop_imm(image, (from % TILES) * width, (from / TILES) * height, width, height).to_image();
        imageops::replace(&mut cut, &tile, i64::from((to % TILES) * width), i64::from((to / TILES) * height));
    }
    cut
}

/// Pictures as `data:` addresses that together fit into a page.
fn encode_all(pictures: &[RgbImage]) -> Result<Vec<String>> {
    let small = pictures.iter().all(|picture| picture.width().max(picture.height()) <= SMALL);
    if small {
        let lines: Vec<String> = pictures.iter().map(png).collect::<Result<_>>()?;
        if lines.iter().map(String::len).sum::<usize>() <= BUDGET {
            return Ok(lines);
        }
    }
    for (side, quality) in LADDER {
        let lines: Vec<String> = pictures.iter().map(|picture| jpeg(picture, side, quality)).collect::<Result<_>>()?;
        if lines.iter().map(String::len).sum::<usize>() <= BUDGET {
            return Ok(lines);
        }
    }
    let message = format!("{} pictures do not fit into a page of {BUDGET} bytes", pictures.len());
    Err(Error::config(message, "ask for fewer pairs with `--pairs`"))
}

fn png(picture: &RgbImage) -> Result<String> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).map_err(|error| Error::format("PNG image", Path::new("memory"), error))?;
    Ok(format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes.get_ref())))
}

fn jpeg(picture: &RgbImage, side: u32, quality: u8) -> Result<String> {
    let longer = picture.width().max(picture.height()).max(1);
    let fitted = if longer > side {
        let scaled = |length: u32| (length * side / longer).max(1);
        imageops::resize(picture, scaled(picture.width()), scaled(picture.height()), imageops::FilterType::Triangle)
    } else {
        picture.clone()
    };
    Ok(format!("data:image/jpeg;base64,{}", base64::engine::general_purpose::STANDARD.encode(thumbnails::jpeg(&fitted, quality)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tile_stays_and_none_is_lost() {
        // Every tile has a colour of its own.
        let image = RgbImage::from_fn(16, 16, |x, y| image::Rgb([(x / 4) as u8, (y / 4) as u8, 0]));
        let cut = shuffled(&image, rng::Key { seed: 1, purpose: "t", item: 2, draw: 0 });
        let tiles = |image: &RgbImage| (0..16u32).map(|i| image.get_pixel(4 * (i % 4) + 1, 4 * (i / 4) + 1).0).collect::<Vec<_>>();
        assert!(tiles(&image).iter().zip(tiles(&cut)).all(|(a, b)| *a != b));
        let sorted = |mut list: Vec<[u8; 3]>| {
            list.sort_unstable();
            list
        };
        assert_eq!(sorted(tiles(&image)), sorted(tiles(&cut)));
    }

    #[test]
    fn small_pictures_stay_as_they_are_and_large_ones_become_jpeg() {
        assert!(encode_all(&[RgbImage::new(64, 64)]).unwrap()[0].starts_with("data:image/png;base64,"));
        assert!(encode_all(&[RgbImage::new(300, 64)]).unwrap()[0].starts_with("data:image/jpeg;base64,"));
    }
}
