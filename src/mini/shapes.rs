//! Shaped things: a plaque, a box or a balloon in one of five shapes, as layers of coverage. Each layer is the shape at its
//! own size and place (the string of a balloon a line), painted in a tint of the finish.

use super::words::{Carrier, Shape};

/// What a layer makes of the finish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tint {
    /// As it is.
    Plain,
    /// At 45 % of its brightness.
    Dark,
    /// Two thirds of the way to white.
    Light,
}

impl Tint {
    /// The tint of a colour, red, green and blue in [0, 255].
    pub fn of(self, colour: [u8; 3]) -> [u8; 3] {
        let toward = |target: f64, share: f64| colour.map(|value| (f64::from(value) + (target - f64::from(value)) * share).round() as u8);
        match self {
            Self::Plain => colour,
            Self::Dark => toward(0.0, 0.55),
            Self::Light => toward(255.0, 0.67),
        }
    }
}

/// The tints of the layers of each carrier, from the back to the front; in the order of [`Carrier`].
pub const TINTS: [&[Tint]; 3] = [&[Tint::Dark, Tint::Plain], &[Tint::Dark, Tint::Plain], &[Tint::Dark, Tint::Plain, Tint::Light]];

/// What a layer covers, in units in which a shape of scale 1 has the half extents of [`half_extent`].
#[derive(Clone, Copy)]
enum Layer {
    /// The shape at this scale around this centre.
    Shape(f64, [f64; 2]),
    /// The box `[x0, y0, x1, y1]`.
    Line([f64; 4]),
    /// A disc of this radius around this centre.
    Disc(f64, [f64; 2]),
}

fn layers(carrier: Carrier) -> &'static [Layer] {
    match carrier {
        Carrier::Plaque => &[Layer::Shape(1.0, [0.0, 0.0]), Layer::Shape(0.72, [0.0, 0.0])],
        Carrier::Box => &[Layer::Shape(0.84, [0.16, 0.16]), Layer::Shape(0.84, [-0.16, -0.16])],
        Carrier::Balloon => &[Layer::Line([-0.07, 0.3, 0.07, 1.1]), Layer::Shape(0.8, [0.0, -0.3]), Layer::Disc(0.16, [-0.14, -0.36])],
    }
}

/// Half width and half height of a shape of scale 1.
fn half_extent(shape: Shape) -> [f64; 2] {
    match shape.name() {
        "oval" => [1.0, 0.6],
        // The horizontal tips of a five-pointed star of radius 1 lie at ± sin 72°; it is stretched to the full width.
        _ => [1.0, 1.0],
    }
}

/// Whether a point lies in a shape of scale 1 around the origin; y points down.
fn inside(shape: Shape, [x, y]: [f64; 2]) -> bool {
    let [half_width, half_height] = half_extent(shape);
    match shape.name() {
        "round" | "oval" => (x / half_width).hypot(y / half_height) <= 1.0,
        "square" => x.abs() <= 1.0 && y.abs() <= 1.0,
        // From one point at the top to the full width at the bottom.
        "triangular" => y.abs() <= 1.0 && x.abs() <= (y + 1.0) / 2.0,
        _ => inside_star([x, y]),
    }
}

/// A five-pointed star that fills [-1, 1] in both directions.
fn inside_star([x, y]: [f64; 2]) -> bool {
    use std::f64::consts::{PI, TAU};
    const POINTS: f64 = 5.0;
    /// Radius of the inner corners; a pentagram has 0.382, a fuller one stays readable when it is small.
    const INNER: f64 = 0.48;
    // Extent of the star of radius 1: ± sin 72° across, from −1 to cos 36° down.
    let (across, bottom) = ((TAU / POINTS).sin(), (PI / POINTS).cos());
    let (x, y) = (x * across, (y + 1.0) / 2.0 * (1.0 + bottom) - 1.0);
    let radius = x.hypot(y);
    // The angle from the nearest point of the star, folded into [0, 36°].
    let angle = (x.atan2(-y).rem_euclid(TAU / POINTS) - PI / POINTS).abs();
    let from_point = PI / POINTS - angle;
    // The edge runs from (1, 0°) to (INNER, 36°): in polar form r(φ) with its normal.
    let (ax, ay, bx, by) = (1.0, 0.0, INNER * (PI / POINTS).cos(), INNER * (PI / POINTS).sin());
    let (px, py) = (radius * from_point.cos(), radius * from_point.sin());
    (bx - ax) * (py - ay) - (by - ay) * (px - ax) >= 0.0
}

/// The box `[x0, y0, x1, y1]` of a layer.
fn layer_box(layer: Layer, shape: Shape) -> [f64; 4] {
    let around = |[x, y]: [f64; 2], [half_width, half_height]: [f64; 2]| [x - half_width, y - half_height, x + half_width, y + half_height];
    match layer {
        Layer::Shape(scale, centre) => around(centre, half_extent(shape).map(|half| half * scale)),
        Layer::Line(edges) => edges,
        Layer::Disc(radius, centre) => around(centre, [radius, radius]),
    }
}

/// The box of all layers.
fn whole_box(carrier: Carrier, shape: Shape) -> [f64; 4] {
    layers(carrier)
        .iter()
        .map(|&layer| layer_box(layer, shape))
        .fold([f64::MAX, f64::MAX, f64::MIN, f64::MIN], |a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])])
}

/// Width and height of a shaped thing, in units of its shape.
pub fn extent(carrier: Carrier, shape: Shape) -> (f64, f64) {
    let [x0, y0, x1, y1] = whole_box(carrier, shape);
    (x1 - x0, y1 - y0)
}

/// Samples along each side of a pixel.
const SAMPLES: usize = 4;

/// Coverage in [0, 1] of one layer per pixel, row by row, of a thing whose larger side is `larger_side` pixels and whose ink is
/// centred on `centre`: left edge, top edge, width and the values.
pub fn coverage(carrier: Carrier, shape: Shape, layer: usize, larger_side: f64, centre: [f64; 2]) -> (i64, i64, usize, Vec<f32>) {
    let [x0, y0, x1, y1] = whole_box(carrier, shape);
    let scale = larger_side / (x1 - x0).max(y1 - y0);
    let middle = [(x0 + x1) / 2.0, (y0 + y1) / 2.0];
    let layer = layers(carrier)[layer];
    let [left, top, right, bottom] = layer_box(layer, shape);
    let pixel = |value: f64, axis: usize| (value - middle[axis]) * scale + centre[axis];
    let (left, right) = (pixel(left, 0).floor() as i64, pixel(right, 0).ceil() as i64);
    let (top, bottom) = (pixel(top, 1).floor() as i64, pixel(bottom, 1).ceil() as i64);
    let covers = |point: [f64; 2]| match layer {
        Layer::Shape(size, [cx, cy]) => inside(shape, [(point[0] - cx) / size, (point[1] - cy) / size]),
        Layer::Line([x0, y0, x1, y1]) => (x0..=x1).contains(&point[0]) && (y0..=y1).contains(&point[1]),
        Layer::Disc(radius, [cx, cy]) => (point[0] - cx).hypot(point[1] - cy) <= radius,
    };
    let unit = |value: f64, axis: usize| (value - centre[axis]) / scale + middle[axis];
    let sub = |pixel: i64, i: usize| pixel as f64 + (i as f64 + 0.5) / SAMPLES as f64;
    let one = |x: i64, y: i64| {
        let points = (0..SAMPLES * SAMPLES).map(|i| [unit(sub(x, i % SAMPLES), 0), unit(sub(y, i / SAMPLES), 1)]);
        points.filter(|&point| covers(point)).count() as f32 / (SAMPLES * SAMPLES) as f32
    };
    let values = (top..bottom).flat_map(|y| (left..right).map(move |x| (x, y))).map(|(x, y)| one(x, y)).collect();
    (left, top, (right - left) as usize, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of the square [-1, 1]² that a shape covers.
    fn area(shape: &str) -> f64 {
        let shape = Shape::named(shape).unwrap();
        let n = 400;
        let at = |i: usize| (i as f64 + 0.5) / n as f64 * 2.0 - 1.0;
        (0..n * n).filter(|i| inside(shape, [at(i % n), at(i / n)])).count() as f64 / (n * n) as f64
    }

    #[test]
    fn shapes_have_their_areas() {
        use std::f64::consts::PI;
        for (shape, expected) in [("round", PI / 4.0), ("square", 1.0), ("triangular", 0.5), ("oval", 0.6 * PI / 4.0)] {
            assert!((area(shape) - expected).abs() < 0.005, "{shape} {}", area(shape));
        }
        // Ten triangles of 1 · r · sin 36° / 2, stretched to fill the square.
        let star = 10.0 * 0.48 * (PI / 5.0).sin() / 2.0 / (2.0 * (2.0 * PI / 5.0).sin() * (1.0 + (PI / 5.0).cos()));
        assert!((area("star") - star).abs() < 0.005, "{} {star}", area("star"));
    }

    #[test]
    fn a_square_plaque_covers_its_pixels_exactly() {
        let (left, top, width, values) = coverage(Carrier::Plaque, Shape::named("square").unwrap(), 0, 8.0, [0.0, 0.0]);
        assert_eq!((left, top, width, values.len()), (-4, -4, 8, 64));
        assert!(values.iter().all(|&value| value == 1.0));
    }
}
