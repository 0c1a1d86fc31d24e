//! The frozen networks around the denoiser, and what they make of prompts and renders.

use candle_core::{DType, Device};

use super::Config;
use crate::diffusion::latents::pack;
use crate::error::Result;
use crate::models::TextEncoder;
use crate::models::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::models::clip::{Clip, ClipConfig};
use crate::models::images::to_tensor;
use crate::models::t5::{T5Config, T5Encoder};
use crate::models::tokenizer::Tokenizer;
use crate::models::weights::Weights;
use crate::run::context::RunContext;

/// One scene as the denoiser sees it.
pub(super) struct Example {
    /// Packed latents, N·C values.
    pub latents: Vec<f32>,
    /// Text embedding, L·D values.
    pub text: Vec<f32>,
    /// Pooled text, P values.
    pub pooled: Vec<f32>,
}

/// The frozen networks around the denoiser.
pub(super) struct Frozen {
    tokenizer: Tokenizer,
    text_encoder: T5Encoder,
    clip: Clip,
    autoencoder: Autoencoder,
}

impl Frozen {
    /// Reads them from the pipeline's folder.
    pub fn load(config: &Config, context: &RunContext) -> Result<Self> {
        let load = |file: &str| Weights::load(&context.pipeline.join(file), DType::F32, &Device::Cpu);
        let (t5, clip, autoencoder) = (load("text-encoder.safetensors")?, load("clip.safetensors")?, load("autoencoder.safetensors")?);
        let frozen = Self {
            tokenizer: Tokenizer::load(&context.pipeline.join("tokenizer.json"))?,
            text_encoder: T5Encoder::new(&T5Config::preset(&config.text_encoder)?, &t5)?,
            clip: Clip::new(&ClipConfig::preset(&config.clip)?, &clip)?,
            autoencoder: Autoencoder::new(&AutoencoderConfig::preset(&config.autoencoder)?, &autoencoder)?,
        };
        [t5, clip, autoencoder].iter().try_for_each(Weights::finish)?;
        Ok(frozen)
    }

    /// Prompts with square images of the configured resolution as the denoiser sees them.
    pub fn examples(&self, config: &Config, pairs: &[(String, image::RgbImage)]) -> Result<Vec<Example>> {
        let (prompts, images): (Vec<&str>, Vec<image::RgbImage>) =
            pairs.iter().map(|(prompt, image)| (prompt.as_str(), image.clone())).unzip();
        let ids = self.tokenizer.encode(&prompts, config.token_length)?;
        let pooled = self.clip.text_pooled(&ids)?.to_vec2::<f32>()?;
        let latents = pack(&self.autoencoder.encode(&to_tensor(&images)?)?)?.flatten_from(1)?.to_vec2::<f32>()?;
        let text = self.text_encoder.encode(&ids)?.flatten_from(1)?.to_vec2::<f32>()?;
        Ok(latents.into_iter().zip(text).zip(pooled).map(|((latents, text), pooled)| Example { latents, text, pooled }).collect())
    }
}
