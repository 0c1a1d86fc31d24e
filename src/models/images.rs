//! Pictures ⇄ tensors: 8-bit RGB images and `[B, 3, H, W]` f32 in [-1, 1], the range every image network here takes.

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use crate::error::{Error, Result};

/// Images of one size as `[B, 3, H, W]` f32 in [-1, 1] on the CPU.
///
/// # Errors
/// No image at all, or images of different sizes.
pub fn to_tensor(images: &[RgbImage]) -> Result<Tensor> {
    let Some(first) = images.first() else { return Err(Error::Invalid("no image to turn into a tensor".into())) };
    let (width, height) = first.dimensions();
    let pixels = (width * height) as usize;
    let mut values = vec![0f32; images.len() * 3 * pixels];
    for (image, planes) in images.iter().zip(values.chunks_exact_mut(3 * pixels)) {
        if image.dimensions() != (width, height) {
            return Err(Error::Invalid(format!("images of {:?} and {:?} px in one batch", (width, height), image.dimensions())));
        }
        for (i, pixel) in image.pixels().enumerate() {
            for channel in 0..3 {
                planes[channel * pixels + i] = f32::from(pixel[channel]) / 127.5 - 1.0;
            }
        }
    }
    Ok(Tensor::from_vec(values, (images.len(), 3, height as usize, width as usize), &Device::Cpu)?)
}

/// `[B, 3, H, W]` as 8-bit images; values outside [-1, 1] are clamped.
///
/// # Errors
/// Another shape, and a value that is not a number.
pub fn to_images(images: &Tensor) -> Result<Vec<RgbImage>> {
    let (batch, channels, height, width) = images.dims4()?;
    if channels != 3 {
        return Err(Error::Invalid(format!("images need 3 channels, found {channels}")));
    }
    let values = images.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().any(|value| value.is_nan()) {
        return Err(Error::NonFinite { name: "image".into(), context: format!("batch of {batch} images") });
    }
    let pixels = width * height;
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    Ok(values
        .chunks_exact(3 * pixels)
        .map(|planes| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let i = y as usize * width + x as usize;
                image::Rgb([byte(planes[i]), byte(planes[pixels + i]), byte(planes[2 * pixels + i])])
            })
        })
        .collect())
}

/// Rows of equally large images on one picture, two white pixels apart, for looking at them.
///
/// # Errors
/// No image at all, or images of different sizes.
pub fn contact_sheet(rows: &[Vec<RgbImage>]) -> Result<RgbImage> {
    const GAP: u32 = 2;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let Some(first) = rows.iter().flatten().next() else { return Err(Error::Invalid("no image for a contact sheet".into())) };
    let (width, height) = first.dimensions();
    let mut sheet = RgbImage::from_pixel(columns * (width + GAP), rows.len() as u32 * (height + GAP), image::Rgb([255; 3]));
    for (y, row) in rows.iter().enumerate() {
        for (x, picture) in row.iter().enumerate() {
            if picture.dimensions() != (width, height) {
                return Err(Error::Invalid(format!("images of {:?} and {:?} px on one sheet", (width, height), picture.dimensions())));
            }
            image::imageops::replace(&mut sheet, picture, i64::from(x as u32 * (width + GAP)), i64::from(y as u32 * (height + GAP)));
        }
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(3, 2, |x, y| image::Rgb([(x * 100) as u8, (y * 255) as u8, 7]))
    }

    #[test]
    fn every_byte_survives_the_way_there_and_back() {
        let all = RgbImage::from_fn(16, 16, |x, y| image::Rgb([(y * 16 + x) as u8, 0, 255]));
        assert_eq!(to_images(&to_tensor(std::slice::from_ref(&all)).unwrap()).unwrap(), [all]);
    }

    #[test]
    fn channels_are_planes_and_rows_run_down() {
        let tensor = to_tensor(&[picture(), picture()]).unwrap();
        assert_eq!(tensor.dims(), [2, 3, 2, 3]);
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(&values[..3], [-1.0, 100.0 / 127.5 - 1.0, 200.0 / 127.5 - 1.0]);
        assert_eq!(&values[6..12], [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn values_outside_the_range_are_clamped_and_nan_is_refused() {
        let tensor = Tensor::new(&[3f32, -3.0, 0.0], &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        assert_eq!(to_images(&tensor).unwrap()[0].get_pixel(0, 0).0, [255, 0, 128]);
        let broken = Tensor::new(&[f32::NAN, 0.0, 0.0], &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        assert!(matches!(to_images(&broken), Err(Error::NonFinite { .. })));
    }

    #[test]
    fn two_sizes_in_one_batch_are_refused() {
        assert!(to_tensor(&[picture(), RgbImage::new(2, 2)]).is_err());
    }
}
