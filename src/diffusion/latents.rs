//! Latents before sampling: noise named by prompt and draw, and the 2×2 packing of Flux.
//!
//! B batch, C latent channels, H × W latent grid, N = H/2 · W/2 patches.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::run::rng;

/// Size of one image's latents before packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentShape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl LatentShape {
    /// Latents of a square image of `resolution` pixels under an autoencoder that shrinks by `downsampling`.
    ///
    /// # Errors
    /// The resolution must be a positive multiple of `2 · downsampling`, because patches are 2×2.
    pub fn square(resolution: usize, downsampling: usize, channels: usize) -> Result<Self> {
        let unit = 2 * downsampling;
        if unit == 0 || resolution == 0 || !resolution.is_multiple_of(unit) {
            return Err(Error::config(
                format!("resolution {resolution} is not a multiple of {unit} (2 × latent downsampling)"),
                "choose a resolution that the autoencoder and the 2×2 patches divide",
            ));
        }
        Ok(Self { channels, height: resolution / downsampling, width: resolution / downsampling })
    }

    /// Number of patches the denoiser sees.
    pub fn n_patches(&self) -> usize {
        self.height / 2 * (self.width / 2)
    }
}

/// One use of one prompt: `draw` counts its occurrences in training, or is the image index in generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    pub prompt_id: u64,
    pub draw: u64,
}

/// Packed standard normal noise `[B, N, 4C]` (f32), one image for each use; no image depends on its neighbours.
pub fn noise(seed: u64, uses: &[Use], shape: LatentShape, device: &Device) -> Result<Tensor> {
    let LatentShape { channels, height, width } = shape;
    let mut values = Vec::with_capacity(uses.len() * channels * height * width);
    for used in uses {
        let key = rng::Key { seed, purpose: "noise", item: used.prompt_id, draw: used.draw };
        values.extend(rng::normal(&mut rng::stream(key), channels * height * width));
    }
    pack(&Tensor::from_vec(values, (uses.len(), channels, height, width), device)?)
}

/// Packs latents `[B, C, H, W]` to `[B, N, 4C]`: `b c (h ph) (w pw) -> b (h w) (c ph pw)`, as in
/// black-forest-labs/flux@802fb47 src/flux/sampling.py.
pub fn pack(latents: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = latents.dims4()?;
    if h % 2 != 0 || w % 2 != 0 {
        return Err(Error::Invalid(format!("latents of {h}×{w} cannot be packed 2×2")));
    }
    Ok(latents.reshape(&[b, c, h / 2, 2, w / 2, 2][..])?.permute([0, 2, 4, 1, 3, 5])?.reshape((b, h / 2 * (w / 2), c * 4))?)
}

/// Unpacks `[B, N, 4C]` to latents `[B, C, H, W]`, the inverse of [`pack`].
pub fn unpack(packed: &Tensor, shape: LatentShape) -> Result<Tensor> {
    let b = packed.dim(0)?;
    let LatentShape { channels, height, width } = shape;
    let expected = [b, shape.n_patches(), channels * 4];
    if packed.dims() != expected {
        return Err(Error::Invalid(format!("packed latents have shape {:?}, expected {expected:?}", packed.dims())));
    }
    let grid = packed.reshape(&[b, height / 2, width / 2, channels, 2, 2][..])?;
    Ok(grid.permute([0, 3, 1, 4, 2, 5])?.reshape((b, channels, height, width))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LatentShape = LatentShape { channels: 3, height: 4, width: 6 };

    #[test]
    fn packed_value_of_patch_and_channel_is_the_pixel_flux_puts_there() {
        let values: Vec<f32> = (0..2 * 3 * 4 * 6).map(|i| i as f32).collect();
        let packed = pack(&Tensor::from_vec(values, (2, 3, 4, 6), &Device::Cpu).unwrap()).unwrap();
        assert_eq!(packed.dims(), [2, 6, 12]);
        let packed = packed.to_vec3::<f32>().unwrap();
        for (b, c, y, x) in [(0, 0, 0, 0), (0, 2, 3, 1), (1, 1, 2, 5), (1, 0, 1, 4)] {
            let value = (((b * 3 + c) * 4 + y) * 6 + x) as f32;
            assert_eq!(packed[b][y / 2 * 3 + x / 2][c * 4 + y % 2 * 2 + x % 2], value);
        }
    }

    #[test]
    fn unpacking_inverts_packing() {
        let values: Vec<f32> = (0..2 * 3 * 4 * 6).map(|i| i as f32).collect();
        let latents = Tensor::from_vec(values.clone(), (2, 3, 4, 6), &Device::Cpu).unwrap();
        let back = unpack(&pack(&latents).unwrap(), SHAPE).unwrap();
        assert_eq!(back.dims(), [2, 3, 4, 6]);
        assert_eq!(back.flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
    }

    #[test]
    fn packing_agrees_with_the_reference_implementation_of_candle() {
        let latents = noise(1, &[Use { prompt_id: 5, draw: 0 }], SHAPE, &Device::Cpu).unwrap();
        let latents = unpack(&latents, SHAPE).unwrap();
        let one = Tensor::zeros((1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        let state = candle_transformers::models::flux::sampling::State::new(&one.unsqueeze(0).unwrap(), &one, &latents).unwrap();
        let ours = pack(&latents).unwrap();
        assert_eq!(ours.to_vec3::<f32>().unwrap(), state.img.to_vec3::<f32>().unwrap());
    }

    #[test]
    fn noise_of_a_use_does_not_depend_on_its_neighbours_but_on_seed_and_draw() {
        let (a, b) = (Use { prompt_id: 5, draw: 0 }, Use { prompt_id: 5, draw: 1 });
        let make = |seed, uses: &[Use]| noise(seed, uses, SHAPE, &Device::Cpu).unwrap().to_vec3::<f32>().unwrap();
        let both = make(1, &[a, b]);
        assert_eq!(both[1], make(1, &[b])[0]);
        assert_ne!(both[0], both[1]);
        assert_ne!(both[0], make(2, &[a])[0]);
    }

    #[test]
    fn a_resolution_that_patches_do_not_divide_is_refused() {
        assert_eq!(LatentShape::square(64, 4, 16).unwrap().n_patches(), 64);
        assert!(LatentShape::square(68, 8, 16).unwrap_err().to_string().contains("68"));
        assert!(LatentShape::square(0, 8, 16).is_err());
    }
}
