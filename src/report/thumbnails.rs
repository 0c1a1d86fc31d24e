//! Small pictures for the page: one JPEG strip per prompt with the images of all encoders side by side.
//!
//! Why JPEG: the `image` crate writes WebP without loss only, and on generated images of 64 px that takes 4.2 kB a picture
//! where a JPEG strip at quality 80 takes 1.3 kB (six pictures share one header). Ten thousand of them fit into a page.

use std::path::PathBuf;

use base64::Engine as _;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::run::files;

/// Widths in pixels and JPEG qualities, best first; the first that fits the budget is taken.
const LADDER: [(u32, u8); 6] = [(192, 85), (128, 85), (128, 75), (96, 75), (64, 75), (48, 60)];
/// Strips encoded to estimate the size of all.
const PROBES: usize = 24;
/// The estimate may be short by this much.
const MARGIN: f64 = 1.08;
/// The ground on which a missing or smaller picture lies.
const GROUND: image::Rgb<u8> = image::Rgb([128, 128, 128]);

/// All strips of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strips {
    /// Width and height of one picture in the strip; (1, 1) where there is none.
    pub cell: (u32, u32),
    /// Width and height of the first picture as it was generated.
    pub natural: (u32, u32),
    /// One per prompt, base64; empty where the budget was spent.
    pub base64: Vec<String>,
}

impl Strips {
    /// Bytes in the page.
    pub fn bytes(&self) -> usize {
        self.base64.iter().map(|strip| strip.len() + 1).sum()
    }

    /// Number of prompts without a strip.
    pub fn missing(&self) -> usize {
        self.base64.iter().filter(|strip| strip.is_empty()).count()
    }
}

/// Strips of `rows` (one per prompt, one file per encoder or none) that together take at most `budget` bytes as base64; the
/// earlier rows come first.
///
/// # Errors
/// A file that is missing or no PNG.
pub fn strips(rows: &[Vec<Option<PathBuf>>], budget: usize) -> Result<Strips> {
    let Some(first) = rows.iter().flatten().flatten().next() else {
        return Ok(Strips { cell: (1, 1), natural: (1, 1), base64: vec![String::new(); rows.len()] });
    };
    let natural = read(first)?.dimensions();
    let probes: Vec<Vec<Option<RgbImage>>> =
        rows.iter().step_by(rows.len().div_ceil(PROBES)).map(|row| read_row(row)).collect::<Result<_>>()?;
    let mut chosen = None;
    for (width, quality) in LADDER {
        let cell = cell(natural, width);
        let mut bytes = 0;
        for probe in &probes {
            bytes += encode(probe, cell, quality)?.len();
        }
        let all = bytes as f64 / probes.len() as f64 * rows.len() as f64 * MARGIN;
        chosen = Some((cell, quality));
        if all <= budget as f64 {
            break;
        }
    }
    let Some((cell, quality)) = chosen else { return Err(Error::Invalid("no size of thumbnails is known".into())) };
    let encoded: Vec<String> =
        rows.par_iter().map(|row| read_row(row).and_then(|images| encode(&images, cell, quality))).collect::<Result<_>>()?;
    let mut left = budget;
    let base64 = encoded
        .into_iter()
        .map(|strip| match left.checked_sub(strip.len() + 1) {
            Some(rest) => {
                left = rest;
                strip
            }
            None => {
                left = 0;
                String::new()
            }
        })
        .collect();
    Ok(Strips { cell, natural, base64 })
}

/// The size of a picture in the strip: at most `width` wide, never larger than the picture itself.
fn cell((natural_width, natural_height): (u32, u32), width: u32) -> (u32, u32) {
    let width = width.min(natural_width).max(1);
    let height = (f64::from(width) * f64::from(natural_height) / f64::from(natural_width.max(1))).round() as u32;
    (width, height.max(1))
}

fn read_row(row: &[Option<PathBuf>]) -> Result<Vec<Option<RgbImage>>> {
    row.iter().map(|path| path.as_ref().map(read).transpose()).collect()
}

/// Reads a PNG as 8-bit RGB.
pub fn read(path: &PathBuf) -> Result<RgbImage> {
    let bytes = files::read_bytes(path, "a generated image", "run `scaledown generate` again")?;
    let image = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png);
    Ok(image.map_err(|error| Error::format("PNG image", path, error))?.into_rgb8())
}

/// A strip as base64.
fn encode(images: &[Option<RgbImage>], (width, height): (u32, u32), quality: u8) -> Result<String> {
    let mut strip = RgbImage::from_pixel(width * images.len().max(1) as u32, height, GROUND);
    for (i, image) in images.iter().enumerate().filter_map(|(i, image)| image.as_ref().map(|image| (i as u32, image))) {
        let scale = (f64::from(width) / f64::from(image.width())).min(f64::from(height) / f64::from(image.height())).min(1.0);
        let fitted = if scale < 1.0 {
            let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
            imageops::thumbnail(image, side(image.width()), side(image.height()))
        } else {
            image.clone()
        };
        let (x, y) = ((width - fitted.width().min(width)) / 2, (height - fitted.height().min(height)) / 2);
        imageops::replace(&mut strip, &fitted, i64::from(i * width + x), i64::from(y));
    }
    Ok(base64::engine::general_purpose::STANDARD.encode(jpeg(&strip, quality)?))
}

/// A picture as JPEG.
pub fn jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let failed = |error| Error::Invalid(format!("a picture of {:?} px cannot be written as JPEG: {error}", image.dimensions()));
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of two pictures with a pattern that does not compress to nothing.
    fn rows(folder: &std::path::Path, n: usize) -> Vec<Vec<Option<PathBuf>>> {
        let write = |i: usize, side: u32| {
            let path = folder.join(format!("{i}.png"));
            RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * 37 + y * 11) as u8, (x * y + i as u32) as u8, 90])).save(&path).unwrap();
            Some(path)
        };
        (0..n).map(|i| vec![write(2 * i, 256), if i == 1 { None } else { write(2 * i + 1, 256) }]).collect()
    }

    fn decoded(strip: &str) -> RgbImage {
        let bytes = base64::engine::general_purpose::STANDARD.decode(strip).unwrap();
        image::load_from_memory_with_format(&bytes, image::ImageFormat::Jpeg).unwrap().into_rgb8()
    }

    #[test]
    fn pictures_stand_side_by_side_and_a_missing_one_is_grey() {
        let folder = tempfile::tempdir().unwrap();
        let strips = strips(&rows(folder.path(), 3), 10_000_000).unwrap();
        assert_eq!((strips.cell, strips.missing()), ((192, 192), 0));
        let image = decoded(&strips.base64[1]);
        assert_eq!(image.dimensions(), (384, 192));
        // A flat area survives JPEG up to rounding.
        assert!(image.get_pixel(300, 100).0.iter().all(|value| value.abs_diff(128) <= 2));
    }

    #[test]
    fn a_smaller_budget_gives_smaller_pictures_and_then_fewer() {
        let folder = tempfile::tempdir().unwrap();
        let rows = rows(folder.path(), 6);
        let large = strips(&rows, 10_000_000).unwrap();
        let small = strips(&rows, large.bytes() / 3).unwrap();
        assert!(small.cell.0 < large.cell.0 && small.missing() == 0 && small.bytes() <= large.bytes() / 3);
        let (width, quality) = LADDER[LADDER.len() - 1];
        let least = encode(&read_row(&rows[0]).unwrap(), cell((256, 256), width), quality).unwrap().len();
        let few = strips(&rows, 2 * least + least / 2).unwrap();
        assert!((1..=3).contains(&(rows.len() - few.missing())) && !few.base64[0].is_empty() && few.base64[5].is_empty());
    }

    #[test]
    fn small_pictures_keep_their_size_and_none_gives_no_strip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        RgbImage::new(20, 10).save(&path).unwrap();
        assert_eq!(strips(&[vec![Some(path)]], 1_000_000).unwrap().cell, (20, 10));
        assert_eq!(strips(&[vec![None]], 1_000_000).unwrap(), Strips { cell: (1, 1), natural: (1, 1), base64: vec![String::new()] });
    }
}
