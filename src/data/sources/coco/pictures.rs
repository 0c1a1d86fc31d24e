//! Reference images: the square in the middle, at one size, as PNG.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::{FilterType, crop_imm, resize};
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;

use super::Pair;
use crate::error::{Error, Result};
use crate::run::{files, interrupt};

/// Writes the images of the pairs from the folder `from` to `to`, `size` pixels wide and high, under the name of the image with
/// the ending `.png`. Images that are there stay. Returns their paths in the order of the pairs.
///
/// # Errors
/// The first image that is missing or damaged.
pub fn prepare(pairs: &[Pair], from: &Path, to: &Path, size: u32) -> Result<Vec<PathBuf>> {
    if size == 0 {
        return Err(Error::config("images of 0 pixels are wanted", "give a size, for example 512"));
    }
    let one = |pair: &Pair| -> Result<PathBuf> {
        interrupt::check()?;
        let target = to.join(Path::new(&pair.image).with_extension("png").file_name().unwrap_or_default());
        if !target.exists() {
            let source = from.join(&pair.image);
            let bytes = files::read_bytes(&source, "an image of MSCOCO", "run `scaledown data fetch coco-2014` and unpack the images")?;
            let image = image::load_from_memory(&bytes).map_err(|error| Error::format("image", &source, error))?;
            let mut png = Cursor::new(Vec::new());
            square(&image.to_rgb8(), size).write_to(&mut png, ImageFormat::Png).map_err(|error| Error::format("image", &target, error))?;
            files::write_bytes(&target, png.get_ref())?;
        }
        Ok(target)
    };
    pairs.par_iter().map(one).collect()
}

/// The square in the middle of an image `[H, W, 3]`, resized with Lanczos' filter of three lobes to `[size, size, 3]`.
pub fn square(image: &RgbImage, size: u32) -> RgbImage {
    let side = image.width().min(image.height());
    let (left, top) = ((image.width() - side) / 2, (image.height() - side) / 2);
    resize(&crop_imm(image, left, top, side, side).to_image(), size, size, FilterType::Lanczos3)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// Black at both ends, grey in the middle square.
    fn wide() -> RgbImage {
        RgbImage::from_fn(40, 20, |x, _| if (10..30).contains(&x) { Rgb([120; 3]) } else { Rgb([0; 3]) })
    }

    #[test]
    fn the_middle_is_kept_for_wide_and_high_images() {
        for image in [wide(), image::imageops::rotate90(&wide())] {
            let square = square(&image, 8);
            assert_eq!(square.dimensions(), (8, 8));
            assert!(square.pixels().all(|pixel| pixel.0 == [120; 3]));
        }
    }

    #[test]
    fn images_are_written_once_and_damaged_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("val2014"), folder.path().join("out"));
        std::fs::create_dir_all(&from).unwrap();
        wide().save(from.join("a.jpg")).unwrap();
        let pair = |image: &str| Pair { image: image.into(), caption: "a".into() };
        let paths = prepare(&[pair("a.jpg")], &from, &to, 16).unwrap();
        assert_eq!(paths, [to.join("a.png")]);
        assert_eq!(image::open(&paths[0]).unwrap().to_rgb8().dimensions(), (16, 16));
        assert!(prepare(&[pair("b.jpg")], &from, &to, 16).unwrap_err().to_string().contains("b.jpg"));
        std::fs::write(from.join("c.jpg"), b"\xFF\xD8\xFF\xE0").unwrap();
        let error = prepare(&[pair("c.jpg")], &from, &to, 16).unwrap_err().to_string();
        assert!(error.contains("c.jpg") && error.contains("not a valid image"), "{error}");
    }
}
