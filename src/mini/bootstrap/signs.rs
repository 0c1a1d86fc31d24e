//! Training pictures of the text reader: damaged renders with the box of their word, masks for the detector and lines, cut
//! as the engine ocrs cuts them, for the recogniser.

use image::RgbImage;
use rand::Rng;

use super::degrade::{Damage, Shift, degrade};
use crate::error::Result;
use crate::mini::looks::Attribute;
use crate::mini::render::render;
use crate::mini::scene::{Kind, Scene, Split};
use crate::mini::words::{random_letters, seen_sign_words};
use crate::models::ocr::{detection, enlarge, greyscale, recognition};
use crate::run::rng::{self, pick, uniform};

/// Side of the renders before the reader enlarges them, in pixels.
pub const SIDE: u32 = 64;
/// Letters are thin: blur and noise stay below what would make them unreadable to the eye.
const DAMAGE: Damage = Damage { shift: 3, blur: 0.9, noise: 14.0, colour: 10.0 };
/// Widths of line images in training, as the engine pads them.
pub const WIDTH_STEP: usize = 52;
/// Paper around the ink that belongs to a word's box, in pixels of the enlarged picture: the engine's boxes lie half a pixel
/// inside what the detector marks, and a letter that is cut off cannot be read.
const WORD_MARGIN: f64 = 2.0;
/// Largest errors of a word's box in training, outwards and inwards, in pixels of the enlarged picture. Inwards they stay
/// small: a box that cuts a letter off would teach guessing.
const BOX_ERRORS: [f64; 2] = [6.0, 1.5];
/// Largest slope of the upper and lower edge: the engine's boxes are a little turned at times, with black beside them.
const LARGEST_SLOPE: f64 = 0.03;
/// A letter with ascender and one with descender: together as high as a line of text.
const FULL_HEIGHT: &str = "bp";

/// A damaged picture at the size the engine sees, and where its word is.
pub struct Sample {
    /// Row by row, in [-0.5, 0.5].
    pub grey: Vec<f32>,
    /// The word and its box `[x0, y0, x1, y1]`: as wide as its ink, as high as a line of text; in pixels of the enlarged
    /// picture.
    pub word: Option<(String, [f64; 4])>,
}

/// The smallest box of pixels in which two pictures differ: the ink of a word, when one of them lacks it.
fn difference_box(a: &RgbImage, b: &RgbImage) -> Option<[f64; 4]> {
    let mut found: Option<[u32; 4]> = None;
    for (x, y, pixel) in a.enumerate_pixels() {
        if pixel != b.get_pixel(x, y) {
            let [x0, y0, x1, y1] = found.unwrap_or([x, y, x + 1, y + 1]);
            found = Some([x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1)]);
        }
    }
    found.map(|edges| edges.map(f64::from))
}

/// Which scenes are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenes {
    /// Half of them signs, half of any kind: objects must not be taken for letters.
    Mixed,
    Signs,
}

/// The training picture of one stream; its word is a random letter string with probability `random_share`, else one that
/// training may show.
pub fn sample(key: rng::Key, random_share: f64, scenes: Scenes) -> Sample {
    let rng = &mut rng::stream(key);
    let mut scene = match scenes {
        Scenes::Mixed if uniform(rng) >= 0.5 => Scene::sample(rng, Split::Train),
        _ => Scene::sample_kind(rng, Kind::Sign, Split::Train, Attribute::Colour),
    };
    if scene.sign_word.is_some() {
        let word = if uniform(rng) < random_share { random_letters(rng) } else { (*pick(rng, seen_sign_words())).to_owned() };
        scene.sign_word = Some(word);
    }
    let image = render(&scene, SIDE);
    let with_word = |word: &str| render(&Scene { sign_word: scene.sign_word.as_ref().map(|_| word.to_owned()), ..scene.clone() }, SIDE);
    let empty = with_word("");
    let across = difference_box(&image, &empty);
    let down = across.and_then(|_| difference_box(&with_word(FULL_HEIGHT), &empty));
    let (damaged, Shift { x, y }) = degrade(&image, &DAMAGE, rng);
    let large = enlarge(&damaged);
    let scale = f64::from(large.width()) / f64::from(SIDE);
    let (x, y) = (x as f64, y as f64);
    let moved = across.zip(down).map(|([x0, _, x1, _], [_, y0, _, y1])| [x0 + x, y0 + y, x1 + x, y1 + y].map(|edge| edge * scale));
    Sample { grey: greyscale(&large), word: scene.sign_word.zip(moved) }
}

/// 1 at the half-resolution pixels whose centre lies in the word's box (ink and margin) after shrinking: `[SIDE/2 · SIDE/2]`.
pub fn mask(sample: &Sample) -> Vec<f32> {
    let side = detection::SIDE / detection::STRIDE;
    let mut mask = vec![0f32; side * side];
    if let Some((_, [x0, y0, x1, y1])) = sample.word {
        let inside = |i: usize, low: f64, high: f64| {
            let centre = (i as f64 + 0.5) * detection::STRIDE as f64;
            let shrink = detection::SHRINK - WORD_MARGIN;
            centre > low + shrink && centre < high - shrink
        };
        for (i, value) in mask.iter_mut().enumerate() {
            *value = f32::from(u8::from(inside(i % side, x0, x1) && inside(i / side, y0, y1)));
        }
    }
    mask
}

/// A line image as the engine cuts it: the box (whole pixels), black outside its upper and lower edges of the given slope,
/// scaled to the network's height, bilinear with half-pixel centres, row by row. Returns it with its width.
pub fn cut_line(grey: &[f32], side: usize, bounds: [f64; 4], slope: f64) -> (Vec<f32>, usize) {
    let [x0, y0, x1, y1] = bounds.map(|edge| edge.round().clamp(0.0, side as f64) as usize);
    let (width, height) = (x1.saturating_sub(x0).max(2), y1.saturating_sub(y0).max(2));
    let (x0, y0) = (x0.min(side - width), y0.min(side - height));
    let out_width = (recognition::HEIGHT * width / height).max(10);
    let source = |i: usize, out: usize, size: usize| -> (usize, usize, f32) {
        let place = ((i as f64 + 0.5) * size as f64 / out as f64 - 0.5).clamp(0.0, (size - 1) as f64);
        (place as usize, (place as usize + 1).min(size - 1), place.fract() as f32)
    };
    let mut line = Vec::with_capacity(recognition::HEIGHT * out_width);
    for row in 0..recognition::HEIGHT {
        let (top, bottom, down) = source(row, recognition::HEIGHT, height);
        for column in 0..out_width {
            let (left, right, across) = source(column, out_width, width);
            let at = |y: usize, x: usize| {
                // How far the edges have sunk at this column; the lower edge runs parallel to the upper one.
                let sunk = if slope >= 0.0 { slope * x as f64 } else { -slope * (width - 1 - x) as f64 };
                let rest = slope.abs() * (width - 1) as f64 - sunk;
                let inside = y as f64 >= sunk.floor() && (y as f64) < height as f64 - rest.floor();
                if inside { grey[(y0 + y) * side + x0 + x] } else { -0.5 }
            };
            let mix = |y: usize| at(y, left) * (1.0 - across) + at(y, right) * across;
            line.push(mix(top) * (1.0 - down) + mix(bottom) * down);
        }
    }
    (line, out_width)
}

/// Labels, box and slope of one training line: around the word as a detector would give it, or (for one line in twelve)
/// somewhere else with nothing to read.
pub fn line_box(sample: &Sample, rng: &mut impl Rng) -> Result<(Vec<usize>, [f64; 4], f64)> {
    let [out, inside] = BOX_ERRORS;
    let errors: [f64; 4] = std::array::from_fn(|_| (out + inside) * uniform(rng) - out);
    let slope = if uniform(rng) < 0.5 { 0.0 } else { (2.0 * uniform(rng) - 1.0) * LARGEST_SLOPE };
    match &sample.word {
        Some((word, [x0, y0, x1, y1])) if uniform(rng) < 11.0 / 12.0 => {
            let bounds = [x0 + errors[0], y0 + errors[1], x1 - errors[2], y1 - errors[3]];
            Ok((recognition::classes(word)?, bounds, slope))
        }
        _ => {
            let side = detection::SIDE as f64;
            let (w, h) = (16.0 + 60.0 * uniform(rng), 16.0 + 16.0 * uniform(rng));
            // Below the sign stands an object.
            let (x, y) = (uniform(rng) * (side - w), 56.0 + uniform(rng) * (side - 56.0 - h));
            Ok((Vec::new(), [x, y, x + w, y + h], slope))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_box_is_found_and_its_mask_lies_inside() {
        for item in 0..40 {
            let sample = sample(rng::Key { seed: 1, purpose: "test", item, draw: 0 }, 0.5, Scenes::Signs);
            let (word, [x0, y0, x1, y1]) = sample.word.clone().unwrap();
            // Letters stand 18 enlarged pixels apart.
            assert!(x1 - x0 > 18.0 * (word.len() as f64 - 1.0) && x1 - x0 <= 18.0 * word.len() as f64 + 4.0, "{word}");
            assert!(y1 - y0 > 28.0 && y1 - y0 < 34.0, "{word} {y0} {y1}");
            let marked = mask(&sample).iter().sum::<f32>() as f64 * (detection::STRIDE * detection::STRIDE) as f64;
            let shrink = 2.0 * (detection::SHRINK - WORD_MARGIN);
            let expected = (x1 - x0 - shrink) * (y1 - y0 - shrink);
            // Edges fall between the pixels of the half resolution.
            assert!((marked / expected - 1.0).abs() < 0.2, "{marked} {expected}");
        }
    }

    #[test]
    fn a_line_of_the_networks_height_is_cut_without_change() {
        let side = 64;
        let grey: Vec<f32> = (0..side * side).map(|i| i as f32).collect();
        let (line, width) = cut_line(&grey, side, [10.0, 5.0, 30.0, 5.0 + recognition::HEIGHT as f64], 0.0);
        assert_eq!(width, 20);
        assert_eq!(line[0], (5 * side + 10) as f32);
        assert_eq!(line[width + 3], (6 * side + 13) as f32);
    }
}
