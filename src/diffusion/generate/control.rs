//! A ControlNet and the image that it sees, from their files.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use image::imageops::FilterType;

use crate::diffusion::latents::{self, LatentShape};
use crate::error::{Error, Result};
use crate::models::autoencoder::Autoencoder;
use crate::models::flux::control::{Control, ControlNet, Mode};
use crate::models::layout;
use crate::models::published::{Stored, architectures};

/// What to generate under.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlRequest {
    /// The folder that diffusers' `FluxControlNetModel.save_pretrained` writes.
    pub net: PathBuf,
    /// What the image shows, for a network that knows several kinds.
    pub mode: Option<Mode>,
    /// An image of edges, depth or a pose; made square and as large as the images.
    pub image: PathBuf,
    /// How much the network changes; 1 is as trained.
    pub scale: f64,
}

impl ControlRequest {
    /// Loads the network, and encodes the image for images of `shape`. The latents are the mean of the autoencoder's posterior.
    ///
    /// # Errors
    /// Files that are missing or of something else; an image that is not square.
    pub fn load(&self, autoencoder: &Autoencoder, shape: LatentShape) -> Result<(ControlNet, Control)> {
        let (config, modes) = architectures::control_net(&self.net)?;
        let weights = Stored::find(&self.net)?.load(layout::flux)?;
        let net = ControlNet::new(&config, modes, &weights)?;
        weights.finish()?;
        let side = (shape.height * autoencoder.config().factor()) as u32;
        let image = image::open(&self.image).map_err(|error| Error::format("control image", &self.image, error))?.to_rgb8();
        if image.width() != image.height() {
            let size = format!("{} x {}", image.width(), image.height());
            return Err(Error::config(
                format!("the control image `{}` is {size}, images are square", self.image.display()),
                "cut it to a square",
            ));
        }
        let image = if image.width() == side { image } else { image::imageops::resize(&image, side, side, FilterType::Lanczos3) };
        let pixels: Vec<f32> = image.into_raw().into_iter().map(|value| f32::from(value) / 127.5 - 1.0).collect();
        let side = side as usize;
        let pixels = Tensor::from_vec(pixels, (1, side, side, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?.contiguous()?;
        let latents = latents::pack(&autoencoder.encode(&pixels)?)?;
        Ok((net, Control { latents, mode: self.mode, scale: self.scale }))
    }
}
