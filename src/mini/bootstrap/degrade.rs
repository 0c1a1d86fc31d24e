//! Makes clean renders look like generated pictures: shifted, blurred, noisy and a little off in colour. The networks that
//! judge generated pictures learn on these.

use image::RgbImage;
use rand::Rng;

use crate::run::rng::{below, normal, uniform};

/// Upper bounds of the damage; each picture gets its own amounts below them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damage {
    /// Largest shift to either side, in whole pixels.
    pub shift: u32,
    /// Standard deviation of the largest blur, in pixels.
    pub blur: f64,
    /// Standard deviation of the strongest noise, in levels of 255.
    pub noise: f64,
    /// Largest shift of a colour channel, in levels of 255.
    pub colour: f64,
}

/// What was done to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shift {
    pub x: i64,
    pub y: i64,
}

/// Damages `image` (sRGB in [0, 255]) and says by how much it was shifted. A quarter of the pictures stays sharp and clean.
pub fn degrade(image: &RgbImage, damage: &Damage, rng: &mut impl Rng) -> (RgbImage, Shift) {
    let span = 2 * damage.shift as usize + 1;
    let mut one = || below(rng, span) as i64 - i64::from(damage.shift);
    let shift = Shift { x: one(), y: one() };
    let (width, height) = image.dimensions();
    let inside = |value: i64, size: u32| value.clamp(0, i64::from(size) - 1) as u32;
    let mut planes: [Vec<f32>; 3] = std::array::from_fn(|_| Vec::with_capacity((width * height) as usize));
    for y in 0..height {
        for x in 0..width {
            let pixel = image.get_pixel(inside(i64::from(x) - shift.x, width), inside(i64::from(y) - shift.y, height));
            planes.iter_mut().zip(pixel.0).for_each(|(plane, value)| plane.push(f32::from(value)));
        }
    }
    if uniform(rng) >= 0.25 {
        let kernel = gaussian(uniform(rng) * damage.blur);
        let noise = (uniform(rng) * damage.noise) as f32;
        for plane in &mut planes {
            let moved = ((2.0 * uniform(rng) - 1.0) * damage.colour) as f32;
            blur(plane, width as usize, height as usize, &kernel);
            let random = normal(rng, plane.len());
            plane.iter_mut().zip(random).for_each(|(value, r)| *value += moved + noise * r);
        }
    }
    let byte = |value: f32| value.round().clamp(0.0, 255.0) as u8;
    let damaged = RgbImage::from_fn(width, height, |x, y| {
        let i = (y * width + x) as usize;
        image::Rgb([byte(planes[0][i]), byte(planes[1][i]), byte(planes[2][i])])
    });
    (damaged, shift)
}

/// Weights of a Gaussian blur from its centre outwards, summing to one over both sides.
fn gaussian(sigma: f64) -> Vec<f32> {
    let radius = (2.5 * sigma).ceil() as i32;
    let weight = |i: i32| (-0.5 * (f64::from(i) / sigma.max(1e-6)).powi(2)).exp();
    let total: f64 = (-radius..=radius).map(weight).sum();
    (0..=radius).map(|i| (weight(i) / total) as f32).collect()
}

/// Blurs one plane in place, along rows and then along columns; beyond the border the last pixel goes on.
fn blur(plane: &mut [f32], width: usize, height: usize, kernel: &[f32]) {
    if kernel.len() < 2 {
        return;
    }
    let mut along = |n_lines: usize, length: usize, place: &dyn Fn(usize, usize) -> usize| {
        let mut line = vec![0f32; length];
        for l in 0..n_lines {
            (0..length).for_each(|i| line[i] = plane[place(l, i)]);
            for i in 0..length {
                let sides = (1..kernel.len()).map(|k| kernel[k] * (line[i.saturating_sub(k)] + line[(i + k).min(length - 1)]));
                plane[place(l, i)] = kernel[0] * line[i] + sides.sum::<f32>();
            }
        }
    };
    along(height, width, &|l, i| l * width + i);
    along(width, height, &|l, i| i * width + l);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng::{Key, stream};

    #[test]
    fn blur_keeps_even_pictures_and_the_mean_of_a_dot() {
        let kernel = gaussian(1.0);
        let mut even = vec![7f32; 30];
        blur(&mut even, 6, 5, &kernel);
        assert!(even.iter().all(|v| (v - 7.0).abs() < 1e-4));
        let mut dot = vec![0f32; 17 * 17];
        dot[8 * 17 + 8] = 1.0;
        blur(&mut dot, 17, 17, &kernel);
        assert!((dot.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!((dot[8 * 17 + 8] - kernel[0] * kernel[0]).abs() < 1e-6);
    }

    #[test]
    fn without_damage_a_picture_stays_and_a_shift_is_told() {
        let image = RgbImage::from_fn(8, 8, |x, y| image::Rgb([(x * 20) as u8, (y * 20) as u8, 7]));
        let none = Damage { shift: 0, blur: 0.0, noise: 0.0, colour: 0.0 };
        let rng = &mut stream(Key { seed: 1, purpose: "test", item: 0, draw: 0 });
        assert_eq!(degrade(&image, &none, rng).0, image);
        let (moved, shift) = degrade(&image, &Damage { shift: 2, ..none }, rng);
        let (x, y) = ((3 + shift.x) as u32, (4 + shift.y) as u32);
        assert_eq!(moved.get_pixel(x, y), image.get_pixel(3, 4));
    }
}
