//! A teacher of Flux's architecture whose parts are named one by one: a preset and a file of weights each.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::prompts::{Encoders, FluxReader, PooledText, PromptReader};
use crate::error::Result;
use crate::models::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::models::checkpointing::Checkpointing;
use crate::models::clip::{Clip, ClipConfig};
use crate::models::flux::{Flux, FluxConfig};
use crate::models::layout;
use crate::models::lora::{self, Lora};
use crate::models::mapped::Reading;
use crate::models::t5::{T5Config, T5Encoder};
use crate::models::tokenizer::Tokenizer;
use crate::models::weights::{self, Weights};

/// Where a network's weights come from; in a configuration a file name relative to the pipeline's folder, or `random`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum WeightSource {
    /// Seeded initial values: for smoke tests of the whole chain.
    Random,
    File(PathBuf),
}

impl From<String> for WeightSource {
    fn from(text: String) -> Self {
        if text == "random" { Self::Random } else { Self::File(text.into()) }
    }
}

impl From<WeightSource> for String {
    fn from(source: WeightSource) -> Self {
        match source {
            WeightSource::Random => "random".into(),
            WeightSource::File(path) => path.display().to_string(),
        }
    }
}

impl WeightSource {
    /// Opens the weights of a frozen network, in f32 on the CPU; linear layers keep the half precision of their file.
    fn open(&self, folder: &Path, seed: u64, reading: Reading) -> Result<Weights> {
        match self {
            Self::Random => Ok(Weights::initial(seed, DType::F32, &Device::Cpu)),
            Self::File(file) => {
                let path = folder.join(file);
                let contents = weights::read(&path, &Device::Cpu, reading)?;
                Ok(Weights::from_contents(contents, &path, DType::F32, &Device::Cpu).keeping_half_precision())
            }
        }
    }

    /// The file below the pipeline's folder, where there is one.
    pub fn path(&self, folder: &Path) -> Option<PathBuf> {
        match self {
            Self::Random => None,
            Self::File(file) => Some(folder.join(file)),
        }
    }
}

/// One network of the frozen set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Name of a preset of the network's architecture.
    pub preset: String,
    pub weights: WeightSource,
}

/// The frozen set of one pipeline, part by part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartsConfig {
    /// `tokenizer.json` of the text encoders, relative to the pipeline's folder.
    pub tokenizer: PathBuf,
    pub text_encoder: Part,
    pub clip: Part,
    /// `tokenizer.json` of CLIP where it has its own; without it CLIP reads the ids of `tokenizer`.
    pub clip_tokenizer: Option<PathBuf>,
    /// Tokens CLIP reads where it has its own tokenizer; 77 is the length of the published CLIP models.
    pub clip_token_length: usize,
    pub pooled_text: PooledText,
    pub denoiser: Part,
    /// What the denoiser keeps for its backward pass.
    pub checkpointing: Checkpointing,
    pub autoencoder: Part,
    /// Tokens per prompt, padding included.
    pub token_length: usize,
    /// Pixels along each side of an image.
    pub resolution: usize,
    /// Image pixels per latent pixel along each side.
    pub latent_downsampling: usize,
    /// Channels of the autoencoder; 16 in Flux and in the miniature world.
    pub latent_channels: usize,
    /// Leaves the layers of the text encoder and the denoiser in their files, which are mapped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mapped: bool,
    /// Changes of the denoiser, one after the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lora: Vec<Lora>,
}

/// Longest text of the published CLIP models in tokens.
pub(super) const PUBLISHED_CLIP_LENGTH: usize = 77;
/// Channels of Flux's latents.
pub(super) const FLUX_LATENT_CHANNELS: usize = 16;

impl PartsConfig {
    /// Files the frozen set is read from, for hashing.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let tokenizers = std::iter::once(&self.tokenizer).chain(&self.clip_tokenizer).map(|file| folder.join(file));
        let parts = [&self.text_encoder, &self.clip, &self.denoiser, &self.autoencoder];
        let changes = self.lora.iter().map(|lora| lora.path(folder));
        tokenizers.chain(parts.into_iter().filter_map(|part| part.weights.path(folder))).chain(changes).collect()
    }

    /// Loads the frozen text teacher.
    pub fn load_text_encoder(&self, folder: &Path, seed: u64) -> Result<T5Encoder> {
        let weights = self.text_encoder.weights.open(folder, seed, Reading::mapped(self.mapped))?;
        let encoder = T5Encoder::new(&T5Config::preset(&self.text_encoder.preset)?, &weights)?;
        weights.finish()?;
        Ok(encoder)
    }

    /// Loads the denoiser.
    pub fn load_denoiser(&self, folder: &Path, seed: u64) -> Result<Flux> {
        let weights = self.denoiser.weights.open(folder, seed, Reading::mapped(self.mapped))?;
        let weights = weights.in_layout(|tensors| lora::merge_all(&self.lora, layout::flux(tensors)?, folder))?;
        let mut denoiser = Flux::new(&FluxConfig::preset(&self.denoiser.preset)?, &weights)?;
        denoiser.checkpointing = self.checkpointing;
        weights.finish()?;
        Ok(denoiser)
    }

    /// Loads the autoencoder.
    pub fn load_autoencoder(&self, folder: &Path, seed: u64) -> Result<Autoencoder> {
        let weights = self.autoencoder.weights.open(folder, seed, Reading::Whole)?.in_layout(layout::autoencoder)?;
        let autoencoder = Autoencoder::new(&AutoencoderConfig::preset(&self.autoencoder.preset)?, &weights)?;
        weights.finish()?;
        Ok(autoencoder)
    }

    /// Loads tokenizers and the pooled text encoder.
    pub fn load_prompts(&self, folder: &Path, seed: u64) -> Result<PromptReader> {
        let weights = self.clip.weights.open(folder, seed, Reading::Whole)?;
        let clip = Clip::new(&ClipConfig::preset(&self.clip.preset)?, &weights)?;
        weights.finish()?;
        let clip_tokenizer = self.clip_tokenizer.as_ref().map(|file| Tokenizer::load(&folder.join(file))).transpose()?;
        let clip_tokenizer = clip_tokenizer.map(|tokenizer| (tokenizer, self.clip_token_length));
        Ok(PromptReader {
            tokenizer: Tokenizer::load(&folder.join(&self.tokenizer))?,
            token_length: self.token_length,
            encoders: Encoders::Flux(Box::new(FluxReader {
                clip: clip.into_text(),
                tokenizer: clip_tokenizer,
                pooled_text: self.pooled_text,
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_is_a_source_and_anything_else_a_file() {
        let source: WeightSource = serde_json::from_str("\"random\"").unwrap();
        assert_eq!(source, WeightSource::Random);
        let source: WeightSource = serde_json::from_str("\"denoiser.safetensors\"").unwrap();
        assert_eq!(source.path(Path::new("mini")), Some(PathBuf::from("mini/denoiser.safetensors")));
        assert_eq!(serde_json::to_string(&source).unwrap(), "\"denoiser.safetensors\"");
    }
}
