//! The expert of the miniature world: one convolutional network that finds the objects of a picture with noun, finish, shape,
//! place, size and whether it covers another, and names the background. It plays the parts that BLIP-VQA and UniDet have in the published protocol,
//! behind the same traits. Like them it has seen every combination, also those held out from the text encoders.

mod ceilings;

// B batch, H height, W width, C channels.

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use image::RgbImage;
use image::imageops::FilterType;

use super::phrase::{Phrase, exactly};
use super::render;
use super::scene::Object;
use super::words::{Background, Finish, Noun, Shape};
use crate::error::{Error, Result};
use crate::models::convolution::{Walk, convolve};
use crate::models::images::to_tensor;
use crate::models::weights::{Init, Weights};
use crate::models::{Detection, Detector, PixelBox, Vqa};

pub use ceilings::Ceilings;

/// Side of the pictures the network sees, in pixels; others are resized to it.
pub const SIDE: usize = 64;
/// Cells along each side.
pub const CELLS: usize = 8;
/// Pixels per cell.
pub const CELL: f64 = (SIDE / CELLS) as f64;
/// Objectness from which a cell holds an object.
const THRESHOLD: f64 = 0.5;
/// Overlap (intersection over union) from which two boxes are the same object.
const SAME_OBJECT: f64 = 0.4;

const WIDTHS: [usize; 3] = [24, 48, 80];
const BLOCKS: usize = 3;
/// Numbers per cell that say where the object's box lies: centre x, y from the cell's own, width, height; in cells.
pub const BOX: usize = 4;
/// Classes of shape: none, and each of them.
pub const SHAPES: usize = 1 + Shape::COUNT;
const OUTPUTS: usize = 1 + BOX + Noun::COUNT + Finish::COUNT + SHAPES + 1;

/// Weight and bias of one convolution.
struct Conv(Tensor, Tensor);

impl Conv {
    fn new(weights: &Weights, name: &str, [to, from, kernel]: [usize; 3]) -> Result<Self> {
        let weights = weights.pp(name);
        let spread = (2.0 / (from * kernel * kernel) as f64).sqrt();
        Ok(Self(weights.tensor("weight", &[to, from, kernel, kernel], Init::Normal(spread))?, weights.tensor("bias", &[to], Init::Zeros)?))
    }

    fn forward(&self, x: &Tensor, walk: Walk) -> Result<Tensor> {
        convolve(x, &self.0, &self.1, walk)
    }
}

/// What the network says about a batch, as logits; cells are in rows from the top left.
pub struct Outputs {
    /// `[B, 8, 8, 1]`
    pub objectness: Tensor,
    /// `[B, 8, 8, 4]`, see [`BOX`].
    pub boxes: Tensor,
    /// `[B, 8, 8, nouns]`
    pub nouns: Tensor,
    /// `[B, 8, 8, finishes]`
    pub finishes: Tensor,
    /// `[B, 8, 8, 1 + shapes]`, the first for things without a shape.
    pub shapes: Tensor,
    /// `[B, 8, 8, 1]`: whether the object covers another (1), is covered (0) or neither (½).
    pub nearness: Tensor,
    /// `[B, backgrounds]`
    pub background: Tensor,
}

/// The network.
pub struct Reader {
    stem: [Conv; 4],
    blocks: Vec<Conv>,
    cells: Conv,
    background: Conv,
}

/// One object as the reader sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenObject {
    pub noun: Noun,
    pub finish: Finish,
    /// Of shaped things.
    pub shape: Option<Shape>,
    /// Probability that it is the nearer of two, ½ where nothing is covered; in [0, 1].
    pub nearness: f64,
    /// Probability that there is an object at all.
    pub objectness: f64,
    /// Probability of each noun, by index.
    pub noun_probabilities: Vec<f64>,
    /// Probability of each finish, by index.
    pub finish_probabilities: Vec<f64>,
    /// Probability of no shape and of each shape.
    pub shape_probabilities: Vec<f64>,
    /// In pixels of the image given.
    pub bounds: PixelBox,
}

/// The cell that is responsible for an object with this centre (pixels of the 64-px picture) along one axis. Anchors, which
/// are multiples of 8, lie in the middle of the range of their cell, so that small shifts do not change it.
pub fn cell_of(centre: f64) -> usize {
    (centre / CELL - 1.0).round().clamp(0.0, (CELLS - 1) as f64) as usize
}

/// Where a cell expects its object, in pixels of the 64-px picture.
pub fn cell_centre(cell: usize) -> f64 {
    (cell + 1) as f64 * CELL
}

impl Reader {
    /// The network with the given weights.
    pub fn new(weights: &Weights) -> Result<Self> {
        let [a, b, c] = WIDTHS;
        let stem = |i: usize, sizes| Conv::new(weights, &format!("stem.{i}"), sizes);
        Ok(Self {
            stem: [stem(0, [a, 3, 3])?, stem(1, [b, a, 3])?, stem(2, [b, b, 3])?, stem(3, [c, b, 3])?],
            blocks: (0..BLOCKS).map(|i| Conv::new(weights, &format!("blocks.{i}"), [c, c, 3])).collect::<Result<_>>()?,
            cells: Conv::new(weights, "cells", [OUTPUTS, c, 1])?,
            background: Conv::new(weights, "background", [Background::COUNT, c, 1])?,
        })
    }

    /// Loads `reader.safetensors`.
    pub fn load(path: &Path) -> Result<Self> {
        let weights = Weights::load(path, DType::F32, &Device::Cpu)?;
        let reader = Self::new(&weights)?;
        weights.finish()?;
        Ok(reader)
    }

    /// Looks at images `[B, 3, 64, 64]` in [-1, 1].
    pub fn forward(&self, images: &Tensor) -> Result<Outputs> {
        let mut x = images.permute((0, 2, 3, 1))?.contiguous()?;
        for (conv, walk) in self.stem.iter().zip([Walk::Halve, Walk::Halve, Walk::Same, Walk::Halve]) {
            x = conv.forward(&x, walk)?.relu()?;
        }
        for conv in &self.blocks {
            x = (&x + conv.forward(&x, Walk::Same)?.relu()?)?;
        }
        let cells = self.cells.forward(&x, Walk::Same)?;
        let background = self.background.forward(&x, Walk::Same)?.mean((1, 2))?;
        let part = |start: usize, n: usize| cells.narrow(D::Minus1, start, n);
        Ok(Outputs {
            objectness: part(0, 1)?,
            boxes: part(1, BOX)?,
            nouns: part(1 + BOX, Noun::COUNT)?,
            finishes: part(1 + BOX + Noun::COUNT, Finish::COUNT)?,
            shapes: part(1 + BOX + Noun::COUNT + Finish::COUNT, SHAPES)?,
            nearness: part(OUTPUTS - 1, 1)?,
            background,
        })
    }

    /// The objects of a picture, surest first.
    pub fn objects(&self, image: &RgbImage) -> Result<Vec<SeenObject>> {
        Ok(self.look(image)?.0)
    }

    /// The background of a picture and its probability.
    pub fn background(&self, image: &RgbImage) -> Result<(Background, f64)> {
        let probabilities = self.look(image)?.1;
        let best = argmax(&probabilities);
        let background = Background::all().nth(best).ok_or_else(|| Error::Invalid("the world has no background".into()))?;
        Ok((background, probabilities[best]))
    }

    fn look(&self, image: &RgbImage) -> Result<(Vec<SeenObject>, Vec<f64>)> {
        let (width, height) = image.dimensions();
        let side = SIDE as u32;
        let fitted;
        let seen = if (width, height) == (side, side) {
            image
        } else {
            fitted = image::imageops::resize(image, side, side, FilterType::Triangle);
            &fitted
        };
        let outputs = self.forward(&to_tensor(std::slice::from_ref(seen))?)?;
        let rows = |tensor: &Tensor| -> Result<Vec<Vec<f64>>> { Ok(tensor.squeeze(0)?.flatten(0, 1)?.to_dtype(DType::F64)?.to_vec2()?) };
        let (objectness, boxes) = (rows(&outputs.objectness)?, rows(&outputs.boxes)?);
        let (nouns, finishes, shapes) = (rows(&outputs.nouns)?, rows(&outputs.finishes)?, rows(&outputs.shapes)?);
        let nearness = rows(&outputs.nearness)?;
        let scale = [f64::from(width) / SIDE as f64, f64::from(height) / SIDE as f64];
        let mut found = Vec::new();
        for cell in 0..CELLS * CELLS {
            let objectness = sigmoid(objectness[cell][0]);
            if !objectness.is_finite() {
                return Err(Error::NonFinite { name: "objectness".into(), context: format!("cell {cell}") });
            }
            if objectness < THRESHOLD {
                continue;
            }
            let noun_probabilities = softmax(&nouns[cell]);
            let (finish_probabilities, shape_probabilities) = (softmax(&finishes[cell]), softmax(&shapes[cell]));
            let (noun, finish) = (Noun::all().nth(argmax(&noun_probabilities)), Finish::all().nth(argmax(&finish_probabilities)));
            let (Some(noun), Some(finish)) = (noun, finish) else { continue };
            let shape = argmax(&shape_probabilities).checked_sub(1).and_then(|index| Shape::all().nth(index));
            let nearness = sigmoid(nearness[cell][0]);
            let [x, y] = [boxes[cell][0] * CELL + cell_centre(cell % CELLS), boxes[cell][1] * CELL + cell_centre(cell / CELLS)];
            let [half_w, half_h] = [boxes[cell][2], boxes[cell][3]].map(|size| (size * CELL / 2.0).max(0.5));
            let bounds = PixelBox {
                x0: (x - half_w) * scale[0],
                y0: (y - half_h) * scale[1],
                x1: (x + half_w) * scale[0],
                y1: (y + half_h) * scale[1],
            };
            found.push(SeenObject {
                noun,
                finish,
                shape,
                nearness,
                objectness,
                noun_probabilities,
                finish_probabilities,
                shape_probabilities,
                bounds,
            });
        }
        found.sort_by(|a, b| b.objectness.total_cmp(&a.objectness));
        // One object may light two neighbouring cells: the surer one stays.
        let mut kept: Vec<SeenObject> = Vec::new();
        for object in found {
            if kept.iter().all(|other| overlap(&other.bounds, &object.bounds) < SAME_OBJECT) {
                kept.push(object);
            }
        }
        let background = outputs.background.squeeze(0)?.to_dtype(DType::F64)?.to_vec1()?;
        Ok((kept, softmax(&background)))
    }
}

impl Detector for Reader {
    /// Label: the likeliest noun; score: objectness times its probability; nearness in place of a depth map.
    fn detect(&self, image: &RgbImage) -> Result<Vec<Detection>> {
        let score = |seen: &SeenObject| seen.objectness * seen.noun_probabilities[seen.noun.index()];
        let mut found: Vec<Detection> = self
            .objects(image)?
            .iter()
            .map(|seen| Detection {
                label: seen.noun.name().to_owned(),
                score: score(seen),
                bounds: seen.bounds,
                nearness: Some(seen.nearness),
            })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(found)
    }
}

impl Vqa for Reader {
    /// Each object found fits the phrase with probability objectness · P(noun) · P(finish) · P(shape), without the factors
    /// that the phrase does not name. "a red car" asks for the best fit; "three red cars" for the probability that exactly
    /// three fit, objects being independent.
    fn probability_of_yes(&self, image: &RgbImage, phrase: &str) -> Result<f64> {
        let asked = Phrase::parse(phrase)?;
        let fit = |seen: &SeenObject| {
            let finish = asked.finish.map_or(1.0, |finish| seen.finish_probabilities[finish.index()]);
            let shape = asked.shape.map_or(1.0, |shape| seen.shape_probabilities[1 + shape.index()]);
            seen.objectness * seen.noun_probabilities[asked.noun.index()] * finish * shape
        };
        let fits: Vec<f64> = self.objects(image)?.iter().map(fit).collect();
        Ok(match asked.count {
            None => fits.iter().copied().fold(0.0, f64::max),
            Some(count) => exactly(count, &fits),
        })
    }
}

/// The box of an object in an image of 64 px, as the network's targets: centre from the cell's, width and height; in cells.
pub fn box_target(object: &Object, shift: [f64; 2]) -> [f64; BOX] {
    let bounds = render::bounds(object, SIDE as u32);
    let [x, y] = [object.centre[0] + shift[0], object.centre[1] + shift[1]];
    [
        (x - cell_centre(cell_of(x))) / CELL,
        (y - cell_centre(cell_of(y))) / CELL,
        (bounds.x1 - bounds.x0) / CELL,
        (bounds.y1 - bounds.y0) / CELL,
    ]
}

fn centre(bounds: &PixelBox) -> [f64; 2] {
    [(bounds.x0 + bounds.x1) / 2.0, (bounds.y0 + bounds.y1) / 2.0]
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Intersection over union.
fn overlap(a: &PixelBox, b: &PixelBox) -> f64 {
    let area = |b: &PixelBox| (b.x1 - b.x0) * (b.y1 - b.y0);
    let common = (a.x1.min(b.x1) - a.x0.max(b.x0)).max(0.0) * (a.y1.min(b.y1) - a.y0.max(b.y0)).max(0.0);
    common / (area(a) + area(b) - common)
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|v| (v - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|v| v / sum).collect()
}

/// Place of the highest value.
fn argmax(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::looks::Look;
    use crate::mini::scene::Scene;

    #[test]
    fn anchors_stay_in_their_cell_when_shifted_a_little() {
        for anchor in [16.0, 32.0, 48.0] {
            assert!((-3..=3).all(|shift| cell_of(anchor + f64::from(shift)) == cell_of(anchor)));
            assert_eq!(cell_centre(cell_of(anchor)), anchor);
        }
    }

    #[test]
    fn the_committed_reader_sees_fresh_renders_and_answers_for_them() {
        let reader = Reader::load(Path::new("pipelines/mini/reader.safetensors")).unwrap();
        let ceilings = reader.ceilings(240, 11).unwrap();
        let Ceilings { object, colour, texture, shape, count, relation, depth, background, .. } = ceilings;
        let all = [object, colour, texture, shape, count, relation, background];
        // Of a covered object, a part of its outline is all there is.
        assert!(all.iter().all(|&share| share > 0.93) && depth > 0.8, "{ceilings:?}");

        let look = |noun, finish| Look { noun: Noun::named(noun).unwrap(), finish: Finish::named(finish).unwrap(), shape: None };
        let image = render::render(&Scene::counted(Background::named("mint").unwrap(), look("car", "red"), 3), 64);
        let yes = |phrase| reader.probability_of_yes(&image, phrase).unwrap();
        for phrase in ["a red car", "a car", "three red cars"] {
            assert!(yes(phrase) > 0.8, "{phrase} {}", yes(phrase));
        }
        for phrase in ["a blue car", "a red house", "two red cars", "four cars"] {
            assert!(yes(phrase) < 0.2, "{phrase} {}", yes(phrase));
        }
        // The boxes are given in pixels of the image that was shown.
        let large = image::imageops::resize(&image, 128, 128, FilterType::Triangle);
        let first = |image| centre(&reader.objects(image).unwrap()[0].bounds);
        let places = [[16.0, 16.0], [48.0, 16.0], [32.0, 48.0]];
        assert!(places.iter().any(|&place| distance(first(&image), place) < 4.0));
        assert!(places.iter().any(|place| distance(first(&large), place.map(|v| 2.0 * v)) < 8.0));
        assert!(reader.detect(&image).unwrap().iter().all(|found| found.label == "car"));
    }

    #[test]
    fn overlap_is_one_third_for_half_shifted_squares() {
        let a = PixelBox { x0: 0.0, y0: 0.0, x1: 2.0, y1: 2.0 };
        let b = PixelBox { x0: 1.0, x1: 3.0, ..a };
        assert!((overlap(&a, &b) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(overlap(&a, &a), 1.0);
    }
}
