//! Draws a scene: Noto Emoji glyphs and shaped things in one finish each on an even background, and a sign in Hack. Coverage masks are cached, so a
//! picture costs a few blends. The same scene gives the same bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ab_glyph::{Font, FontRef, Glyph, PxScale, point};
use image::{Rgb, RgbImage};

use super::scene::{Object, SIDE, Scene};
use super::shapes;
use super::words::{Carrier, Finish, Form, Pattern, Shape};
use crate::models::PixelBox;

// The sign, in pixels of the 64-px picture. Letters stand on six fixed slots, nine pixels apart (Hack's advance at 15 px),
// so that a small denoiser meets every letter in few places.
const BOARD: [f64; 4] = [2.0, 3.0, 62.0, 23.0];
const BOARD_OUTLINE: f64 = 1.0;
const SLOTS: usize = 6;
const SLOT_WIDTH: f64 = 9.0;
const FIRST_SLOT: f64 = 5.0;
const BASELINE: f64 = 17.0;
/// Height of the Hack font (em), in pixels of the 64-px picture.
const LETTER_SIZE: f64 = 15.0;
const BOARD_COLOUR: [u8; 3] = [255, 255, 255];
const INK_COLOUR: [u8; 3] = [24, 24, 24];

/// Draws `scene` as an image `[px, px]`, sRGB in [0, 255].
pub fn render(scene: &Scene, px: u32) -> RgbImage {
    let mut image = RgbImage::from_pixel(px, px, Rgb(scene.background.rgb()));
    let scale = f64::from(px) / SIDE;
    if let Some(word) = &scene.sign_word {
        draw_sign(&mut image, word, scale);
    }
    // The nearest object comes last and covers the others.
    let (near, far): (Vec<_>, Vec<_>) = scene.objects.iter().enumerate().partition(|(i, _)| scene.nearest() == Some(*i));
    for (_, object) in far.into_iter().chain(near) {
        draw_object(&mut image, object, scale);
    }
    image
}

/// The box of an object's ink in an image of side `px`.
pub fn bounds(object: &Object, px: u32) -> PixelBox {
    let scale = f64::from(px) / SIDE;
    let (width, height) = ink_size(object);
    let larger = width.max(height);
    let (half_width, half_height) = (object.size * width / larger / 2.0, object.size * height / larger / 2.0);
    let [x, y] = object.centre;
    PixelBox { x0: (x - half_width) * scale, y0: (y - half_height) * scale, x1: (x + half_width) * scale, y1: (y + half_height) * scale }
}

/// Width and height of an object's ink, in units of the font or of the shape.
fn ink_size(object: &Object) -> (f64, f64) {
    match outline_of(object) {
        Outline::Glyph(glyph) => {
            let ink = emoji().outline(emoji().glyph_id(glyph)).expect("the embedded emoji font draws every noun").bounds;
            (f64::from((ink.max.x - ink.min.x).abs()), f64::from((ink.max.y - ink.min.y).abs()))
        }
        Outline::Shaped(carrier, shape) => shapes::extent(carrier, shape),
    }
}

enum Outline {
    Glyph(char),
    Shaped(Carrier, Shape),
}

/// A shaped thing without a shape, which only scenes written by hand can have, is drawn with the first one.
fn outline_of(object: &Object) -> Outline {
    match object.noun.form() {
        Form::Glyph(glyph) => Outline::Glyph(glyph),
        Form::Shaped(carrier) => Outline::Shaped(carrier, object.shape.or_else(|| Shape::all().next()).expect("there are shapes")),
    }
}

fn draw_object(image: &mut RgbImage, object: &Object, scale: f64) {
    let place = object.centre.map(|value| value * scale);
    let paint = |x: f64, y: f64| finish_at(object.finish, [(x - place[0]) / scale, (y - place[1]) / scale]);
    match outline_of(object) {
        Outline::Glyph(glyph) => {
            cached_mask(Ink::Glyph { glyph, larger_side: object.size * scale }, place).blend(image, place, paint);
        }
        Outline::Shaped(carrier, shape) => {
            for (layer, tint) in shapes::TINTS[carrier as usize].iter().enumerate() {
                let mask = cached_mask(Ink::Layer { carrier, shape, layer, larger_side: object.size * scale }, place);
                mask.blend(image, place, |x, y| tint.of(paint(x, y)));
            }
        }
    }
}

/// Width of a stripe, of a square and of the cell of a dot, in pixels of the 64-px picture.
const STRIPE: f64 = 3.0;
const SQUARE: f64 = 4.0;
const DOT_CELL: f64 = 4.0;
const DOT_RADIUS: f64 = 1.3;
/// Length of one band of sheen along x + y.
const BAND: f64 = 16.0;

/// The colour of a finish at a point relative to the centre of its object, in pixels of the 64-px picture.
fn finish_at(finish: Finish, [x, y]: [f64; 2]) -> [u8; 3] {
    let ground = finish.rgb();
    let mixed = |other: [u8; 3], share: f64| {
        std::array::from_fn(|i| (f64::from(ground[i]) + (f64::from(other[i]) - f64::from(ground[i])) * share).round() as u8)
    };
    let odd = |value: f64, period: f64| (value / period).floor().rem_euclid(2.0) == 1.0;
    let from_centre = |value: f64| value.rem_euclid(DOT_CELL) - DOT_CELL / 2.0;
    match finish.pattern() {
        Pattern::Even => ground,
        Pattern::Grain(other) => mixed(other, f64::from(u8::from(odd(y, STRIPE)))),
        Pattern::Sheen(other) => mixed(other, 0.5 + 0.5 * ((x + y) / BAND * std::f64::consts::TAU).cos()),
        Pattern::Checks(other) => mixed(other, f64::from(u8::from(odd(x, SQUARE) != odd(y, SQUARE)))),
        Pattern::Dots(other) => mixed(other, f64::from(u8::from(from_centre(x).hypot(from_centre(y)) < DOT_RADIUS))),
    }
}

fn draw_sign(image: &mut RgbImage, word: &str, scale: f64) {
    let [x0, y0, x1, y1] = BOARD;
    fill_rectangle(image, BOARD.map(|value| value * scale), INK_COLOUR);
    let inner = [x0 + BOARD_OUTLINE, y0 + BOARD_OUTLINE, x1 - BOARD_OUTLINE, y1 - BOARD_OUTLINE];
    fill_rectangle(image, inner.map(|value| value * scale), BOARD_COLOUR);
    let n_letters = word.chars().count();
    // Longer words than the world's own are squeezed onto the same board.
    let fit = (SLOTS as f64 / n_letters as f64).min(1.0);
    let first = FIRST_SLOT + SLOT_WIDTH * (SLOTS.saturating_sub(n_letters) / 2) as f64;
    for (slot, letter) in word.chars().enumerate() {
        let place = [(first + SLOT_WIDTH * fit * slot as f64) * scale, BASELINE * scale];
        cached_mask(Ink::Letter { letter, em: LETTER_SIZE * fit * scale }, place).blend(image, place, |_, _| INK_COLOUR);
    }
}

/// Fills `[x0, y0, x1, y1]` (pixels, rounded) with an even colour.
fn fill_rectangle(image: &mut RgbImage, bounds: [f64; 4], colour: [u8; 3]) {
    let [x0, y0, x1, y1] = bounds.map(|value| value.round() as u32);
    for y in y0..y1.min(image.height()) {
        for x in x0..x1.min(image.width()) {
            image.put_pixel(x, y, Rgb(colour));
        }
    }
}

/// What a mask shows, relative to the place it is drawn at.
#[derive(Clone, Copy)]
enum Ink {
    /// A glyph of the emoji font whose ink is centred on the place.
    Glyph { glyph: char, larger_side: f64 },
    /// One layer of a shaped thing that is centred on the place.
    Layer { carrier: Carrier, shape: Shape, layer: usize, larger_side: f64 },
    /// A letter of the text font whose pen stands on the place.
    Letter { letter: char, em: f64 },
}

/// Coverage in [0, 1] per pixel, row by row; `left` and `top` are relative to the whole pixel that holds the place.
struct Mask {
    left: i64,
    top: i64,
    width: usize,
    coverage: Vec<f32>,
}

impl Mask {
    /// Mixes the colour of `paint`, which is asked for the middle of each pixel, into the image in proportion to the coverage;
    /// pixels outside the image are cut off.
    fn blend(&self, image: &mut RgbImage, place: [f64; 2], paint: impl Fn(f64, f64) -> [u8; 3]) {
        let (x0, y0) = (place[0].floor() as i64 + self.left, place[1].floor() as i64 + self.top);
        for (row, line) in self.coverage.chunks_exact(self.width.max(1)).enumerate() {
            for (column, &coverage) in line.iter().enumerate() {
                let (Ok(x), Ok(y)) = (u32::try_from(x0 + column as i64), u32::try_from(y0 + row as i64)) else { continue };
                if coverage == 0.0 {
                    continue;
                }
                if let Some(pixel) = image.get_pixel_mut_checked(x, y) {
                    let colour = paint(f64::from(x) + 0.5, f64::from(y) + 0.5);
                    for (channel, &ink) in pixel.0.iter_mut().zip(&colour) {
                        let old = f32::from(*channel);
                        *channel = (old + (f32::from(ink) - old) * coverage).round() as u8;
                    }
                }
            }
        }
    }
}

/// Source, glyph, size and fraction of the place: what decides a mask. Floats by their bits.
type MaskKey = (u8, char, u64, [u64; 2]);

/// Masks differ by size and by the fraction of the place only, and the anchors are whole pixels at 64 and 128 px, so few
/// are ever made.
fn cached_mask(ink: Ink, place: [f64; 2]) -> Arc<Mask> {
    static MASKS: OnceLock<Mutex<HashMap<MaskKey, Arc<Mask>>>> = OnceLock::new();
    let fraction = place.map(|value| value - value.floor());
    let bits = fraction.map(f64::to_bits);
    let key = match ink {
        Ink::Letter { letter, em } => (0, letter, em.to_bits(), bits),
        Ink::Glyph { glyph, larger_side } => (1, glyph, larger_side.to_bits(), bits),
        Ink::Layer { carrier, shape, layer, larger_side } => {
            let kind = 2 + carrier as u8 * 8 + layer as u8;
            (kind, char::from(shape.index() as u8), larger_side.to_bits(), bits)
        }
    };
    // A thread that panicked while holding the lock leaves the map whole: insertion is its only change.
    let mut masks = MASKS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(masks.entry(key).or_insert_with(|| Arc::new(draw_mask(ink, fraction))))
}

fn draw_mask(ink: Ink, fraction: [f64; 2]) -> Mask {
    let (font, glyph) = match ink {
        Ink::Layer { carrier, shape, layer, larger_side } => {
            let (left, top, width, coverage) = shapes::coverage(carrier, shape, layer, larger_side, fraction);
            return Mask { left, top, width, coverage };
        }
        Ink::Glyph { glyph, larger_side } => (emoji(), centred_glyph(emoji(), glyph, larger_side, fraction)),
        Ink::Letter { letter, em } => {
            let units = f64::from(hack().units_per_em().expect("Hack states its em"));
            let scale = PxScale::from((em / units * f64::from(hack().height_unscaled())) as f32);
            (hack(), hack().glyph_id(letter).with_scale_and_position(scale, point(fraction[0] as f32, fraction[1] as f32)))
        }
    };
    // A space has no outline and an empty mask.
    let Some(outlined) = font.outline_glyph(glyph) else { return Mask { left: 0, top: 0, width: 0, coverage: Vec::new() } };
    let bounds = outlined.px_bounds();
    let (width, height) = (bounds.width().ceil() as usize, bounds.height().ceil() as usize);
    let mut coverage = vec![0.0f32; width * height];
    outlined.draw(|x, y, value| {
        if let Some(cell) = coverage.get_mut(y as usize * width + x as usize) {
            *cell = value.clamp(0.0, 1.0);
        }
    });
    Mask { left: bounds.min.x as i64, top: bounds.min.y as i64, width, coverage }
}

/// A glyph scaled so that its larger ink side is `larger_side` pixels and its ink is centred on `centre`.
fn centred_glyph(font: &FontRef<'static>, glyph: char, larger_side: f64, centre: [f64; 2]) -> Glyph {
    let id = font.glyph_id(glyph);
    let ink = font.outline(id).expect("the embedded emoji font draws every noun").bounds;
    let (width, height) = ((ink.max.x - ink.min.x).abs(), (ink.max.y - ink.min.y).abs());
    let pixels_per_unit = larger_side as f32 / width.max(height);
    let x = centre[0] as f32 - (ink.min.x + ink.max.x) / 2.0 * pixels_per_unit;
    // Outlines count upwards, images downwards.
    let y = centre[1] as f32 + (ink.min.y + ink.max.y) / 2.0 * pixels_per_unit;
    id.with_scale_and_position(PxScale::from(pixels_per_unit * font.height_unscaled()), point(x, y))
}

fn emoji() -> &'static FontRef<'static> {
    static FONT: OnceLock<FontRef<'static>> = OnceLock::new();
    FONT.get_or_init(|| FontRef::try_from_slice(epaint_default_fonts::NOTO_EMOJI_REGULAR).expect("the embedded emoji font is valid"))
}

fn hack() -> &'static FontRef<'static> {
    static FONT: OnceLock<FontRef<'static>> = OnceLock::new();
    FONT.get_or_init(|| FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR).expect("the embedded text font is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::looks::Look;
    use crate::mini::scene::Split;
    use crate::mini::words::{Background, Noun, Relation};
    use crate::run::rng::{Key, stream};

    fn single(noun: Noun, shape: Option<Shape>) -> Scene {
        Scene::single(Background::named("white").unwrap(), Look { noun, finish: Finish::named("black").unwrap(), shape })
    }

    /// Every noun, in every shape where it has one.
    fn outlines() -> Vec<(Noun, Option<Shape>)> {
        let shapes = |noun: Noun| if noun.is_shaped() { Shape::all().map(Some).collect() } else { vec![None] };
        Noun::all().flat_map(|noun| shapes(noun).into_iter().map(move |shape| (noun, shape))).collect()
    }

    /// Ink per pixel in [0, 1] of a black picture on white.
    fn ink(image: &RgbImage) -> Vec<f64> {
        image.pixels().map(|pixel| 1.0 - f64::from(pixel.0[0]) / 250.0).collect()
    }

    #[test]
    fn every_noun_has_ink_and_no_two_look_alike() {
        let masks: Vec<Vec<f64>> = outlines().iter().map(|&(noun, shape)| ink(&render(&single(noun, shape), 64))).collect();
        for (i, a) in masks.iter().enumerate() {
            let total: f64 = a.iter().sum();
            assert!(total > 250.0, "outline {i} has {total} pixels of ink");
            for b in &masks[..i] {
                let difference: f64 = a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum();
                assert!(difference > 100.0, "outline {i} differs from an earlier one by {difference} pixels only");
            }
        }
    }

    #[test]
    fn ink_fills_exactly_the_stated_bounds() {
        for (noun, shape) in outlines() {
            for px in [64, 128] {
                let scene = single(noun, shape);
                let image = render(&scene, px);
                let touched = |along: fn(u32, u32) -> u32| {
                    let inked = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] < 245).map(move |(x, y, _)| along(x, y));
                    (inked.clone().min().unwrap(), inked.max().unwrap())
                };
                let found = bounds(&scene.objects[0], px);
                // Anti-aliasing may leave the outermost pixel almost empty: one pixel at each side is allowed.
                for ((low, high), (from, to)) in [(touched(|x, _| x), (found.x0, found.x1)), (touched(|_, y| y), (found.y0, found.y1))] {
                    assert!((f64::from(low) - from).abs() <= 1.5 && (f64::from(high) + 1.0 - to).abs() <= 1.5, "{noun:?} {shape:?} {px}");
                }
            }
        }
    }

    #[test]
    fn a_scene_renders_to_the_same_bytes_at_any_time() {
        for item in 0..50 {
            let scene = Scene::sample(&mut stream(Key { seed: 1, purpose: "scene", item, draw: 0 }), Split::Val);
            assert_eq!(render(&scene, 64), render(&scene, 64));
        }
    }

    #[test]
    fn six_letters_stay_on_the_board_and_every_letter_shows() {
        let look = Look { noun: Noun::named("dog").unwrap(), finish: Finish::named("red").unwrap(), shape: None };
        let scene = |word: &str| Scene::sign(Background::named("mint").unwrap(), look, word);
        let blank = render(&scene(""), 64);
        let changed = |word: &str| -> Vec<(u32, u32)> {
            let image = render(&scene(word), 64);
            image.enumerate_pixels().filter(|(x, y, pixel)| *pixel != blank.get_pixel(*x, *y)).map(|(x, y, _)| (x, y)).collect()
        };
        for word in ["mmmmmm", "gjpqyl", "wwwwwwwwww"] {
            assert!(changed(word).iter().all(|&(x, y)| (3..61).contains(&x) && (4..22).contains(&y)), "{word}");
        }
        for letter in 'a'..='z' {
            assert!(changed(&letter.to_string()).len() > 8, "{letter}");
        }
    }

    #[test]
    fn the_nearer_object_covers_the_farther_one_in_either_order() {
        let look = |noun, finish| Look { noun: Noun::named(noun).unwrap(), finish: Finish::named(finish).unwrap(), shape: None };
        let looks = [look("house", "red"), look("apple", "blue")];
        let scene = |relation| Scene::related(Background::named("white").unwrap(), looks, relation);
        let count = |relation, finish: &str| {
            let rgb = Finish::named(finish).unwrap().rgb();
            render(&scene(relation), 64).pixels().filter(|pixel| pixel.0 == rgb).count()
        };
        assert!(count(Relation::InFrontOf, "red") > count(Relation::Behind, "red"));
        assert!(count(Relation::InFrontOf, "blue") < count(Relation::Behind, "blue"));
        assert!(count(Relation::HiddenBy, "red") < count(Relation::Behind, "red"));
        assert!(count(Relation::HiddenBy, "red") > 50, "something remains to be seen");
    }

    #[test]
    fn textures_show_two_colours() {
        for finish in Finish::textures() {
            let look = Look { noun: Noun::named("house").unwrap(), finish, shape: None };
            let image = render(&Scene::single(Background::named("white").unwrap(), look), 64);
            let near = |rgb: [u8; 3]| image.pixels().filter(|p| (0..3).all(|i| p.0[i].abs_diff(rgb[i]) < 30)).count();
            let (Pattern::Grain(other) | Pattern::Sheen(other) | Pattern::Checks(other) | Pattern::Dots(other)) = finish.pattern() else {
                panic!("{finish:?} is even")
            };
            assert!(near(finish.rgb()) > 60 && near(other) > 60, "{finish:?} {} {}", near(finish.rgb()), near(other));
        }
    }
}
