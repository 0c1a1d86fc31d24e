//! Reading text in pictures: the engine ocrs (layout, decoding) with a detection and a recognition network in ONNX form.
//! The networks are ours, trained on rendered signs; the published ones of ocrs fit as well.

pub mod ctc;
pub mod detection;
pub mod onnx;
pub mod recognition;

use std::path::{Path, PathBuf};

use image::RgbImage;
use image::imageops::FilterType;
use ocrs::{ImageSource, OcrEngine, OcrEngineParams};

use super::TextReader;
use crate::error::{Error, Result};
use crate::run::files;

/// Smaller images are enlarged until no side is below this: letters must be as large as the networks learned them.
const SMALLEST_SIDE: u32 = detection::SIDE as u32;

/// How many times an image of these sides is enlarged before reading.
pub fn enlargement(width: u32, height: u32) -> u32 {
    SMALLEST_SIDE.div_ceil(width.min(height).max(1))
}

/// An image as the engine gets it: enlarged by [`enlargement`], bilinear with half-pixel centres.
pub fn enlarge(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    match enlargement(width, height) {
        1 => image.clone(),
        factor => image::imageops::resize(image, width * factor, height * factor, FilterType::Triangle),
    }
}

/// The engine's greyscale, row by row, in [-0.5, 0.5] (ITU-R BT.601 weights).
pub fn greyscale(image: &RgbImage) -> Vec<f32> {
    let grey = |pixel: &image::Rgb<u8>| (0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])) / 255.0;
    image.pixels().map(|pixel| grey(pixel) - 0.5).collect()
}

/// Reads text with ocrs and two ONNX files.
pub struct OcrsReader {
    engine: OcrEngine,
    folder: PathBuf,
    protocol: String,
}

impl OcrsReader {
    /// Loads the two networks.
    ///
    /// # Errors
    /// A missing file, and one that the runtime cannot load.
    pub fn load(detection: &Path, recognition: &Path) -> Result<Self> {
        let read = |path: &Path| -> Result<(rten::Model, String)> {
            let hint = "the text networks come with the repository in `pipelines/mini`, or are made by `scaledown bootstrap --part ocr`";
            let bytes = files::read_bytes(path, "a text network", hint)?;
            let hash = files::sha256_bytes(&bytes)[..12].to_owned();
            Ok((rten::Model::load(bytes).map_err(|error| Error::format("ONNX model", path, error))?, hash))
        };
        let ((detection_model, detection_hash), (recognition_model, recognition_hash)) = (read(detection)?, read(recognition)?);
        let engine = OcrEngine::new(OcrEngineParams {
            detection_model: Some(detection_model),
            recognition_model: Some(recognition_model),
            ..Default::default()
        })
        .map_err(|error| Error::format("ONNX model", detection, error))?;
        let protocol = format!(
            "ocrs 0.13, detection {detection_hash}, recognition {recognition_hash}, images enlarged (bilinear, whole factor) to at least {SMALLEST_SIDE} px"
        );
        Ok(Self { engine, folder: detection.parent().unwrap_or(Path::new("")).into(), protocol })
    }

    /// Engine, hashes of the two files and the enlargement; stands beside every number measured with this reader.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::Invalid(format!("reading text with the networks in `{}` failed: {error}", self.folder.display()))
    }

    /// Boxes of the words found, `[x0, y0, x1, y1]` in pixels of the image given.
    pub fn word_boxes(&self, image: &RgbImage) -> Result<Vec<super::PixelBox>> {
        let large = enlarge(image);
        let scale = f64::from(large.width()) / f64::from(image.width().max(1));
        let source = ImageSource::from_bytes(large.as_raw(), large.dimensions()).map_err(|error| self.failed(error))?;
        let input = self.engine.prepare_input(source).map_err(|error| self.failed(error))?;
        let words = self.engine.detect_words(&input).map_err(|error| self.failed(error))?;
        let to_box = |corners: Vec<(f64, f64)>| {
            let low = |pick: fn(&(f64, f64)) -> f64| corners.iter().map(pick).fold(f64::INFINITY, f64::min) / scale;
            let high = |pick: fn(&(f64, f64)) -> f64| corners.iter().map(pick).fold(f64::NEG_INFINITY, f64::max) / scale;
            super::PixelBox { x0: low(|c| c.0), y0: low(|c| c.1), x1: high(|c| c.0), y1: high(|c| c.1) }
        };
        Ok(words.iter().map(|word| to_box(word.corners().iter().map(|c| (f64::from(c.x), f64::from(c.y))).collect())).collect())
    }
}

impl TextReader for OcrsReader {
    fn read_lines(&self, image: &RgbImage) -> Result<Vec<String>> {
        let large = enlarge(image);
        let source = ImageSource::from_bytes(large.as_raw(), large.dimensions()).map_err(|error| self.failed(error))?;
        let input = self.engine.prepare_input(source).map_err(|error| self.failed(error))?;
        let words = self.engine.detect_words(&input).map_err(|error| self.failed(error))?;
        let lines = self.engine.find_text_lines(&input, &words);
        let read = self.engine.recognize_text(&input, &lines).map_err(|error| self.failed(error))?;
        Ok(read.into_iter().flatten().map(|line| line.to_string()).filter(|line| !line.trim().is_empty()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_enlarged_by_whole_factors() {
        assert_eq!([enlargement(64, 64), enlargement(128, 200), enlargement(100, 300), enlargement(40, 64)], [2, 1, 2, 4]);
        let image = RgbImage::from_fn(64, 64, |x, _| image::Rgb([x as u8 * 4; 3]));
        let large = enlarge(&image);
        assert_eq!(large.dimensions(), (128, 128));
        // A linear ramp stays one: the two halves of a pixel lie a quarter step to either side.
        assert_eq!([large.get_pixel(20, 5)[0], large.get_pixel(21, 5)[0]], [39, 41]);
    }

    #[test]
    fn grey_is_centred() {
        let image = RgbImage::from_raw(2, 1, vec![0, 0, 0, 255, 255, 255]).unwrap();
        let grey = greyscale(&image);
        assert_eq!(grey[0], -0.5);
        assert!((grey[1] - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_file_that_is_no_network_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ocr-detection.onnx");
        assert!(matches!(OcrsReader::load(&path, &path), Err(Error::Missing { .. })));
        std::fs::write(&path, b"no model").unwrap();
        let error = OcrsReader::load(&path, &path).err().unwrap().to_string();
        assert!(error.contains("ocr-detection.onnx"), "{error}");
    }
}
