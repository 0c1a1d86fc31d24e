//! The frozen set of a text-to-image model: tokenizer, text teacher, pooled text encoder, denoiser and autoencoder.
//! Each part can be loaded alone, because a student is made to be used without the teacher.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::TextEncoder;
use super::autoencoder::{Autoencoder, AutoencoderConfig};
use super::checkpointing::Checkpointing;
use super::clip::{Clip, ClipConfig};
use super::flux::{Flux, FluxConfig};
use super::layout;
use super::t5::{T5Config, T5Encoder};
use super::tokenizer::Tokenizer;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::run::files;

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
    fn open(&self, folder: &Path, seed: u64) -> Result<Weights> {
        match self {
            Self::Random => Ok(Weights::initial(seed, DType::F32, &Device::Cpu)),
            Self::File(file) => Ok(Weights::load(&folder.join(file), DType::F32, &Device::Cpu)?.keeping_half_precision()),
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

/// What the denoiser is given as pooled text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PooledText {
    /// CLIP's feature, as at inference.
    #[default]
    Clip,
    /// Zeros, as in the released training script (DistillT5@2854218).
    Zero,
}

/// The frozen set of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// `tokenizer.json` of the text encoders, relative to the pipeline's folder.
    pub tokenizer: PathBuf,
    pub text_encoder: Part,
    pub clip: Part,
    /// `tokenizer.json` of CLIP where it has its own; without it CLIP reads the ids of `tokenizer`.
    #[serde(default)]
    pub clip_tokenizer: Option<PathBuf>,
    /// Tokens CLIP reads where it has its own tokenizer; 77 is the length of the published CLIP models.
    #[serde(default = "published_clip_length")]
    pub clip_token_length: usize,
    #[serde(default)]
    pub pooled_text: PooledText,
    pub denoiser: Part,
    /// What the denoiser keeps for its backward pass.
    #[serde(default)]
    pub checkpointing: Checkpointing,
    pub autoencoder: Part,
    /// Tokens per prompt, padding included.
    pub token_length: usize,
    /// Pixels along each side of an image.
    pub resolution: usize,
    /// Image pixels per latent pixel along each side.
    pub latent_downsampling: usize,
    /// Channels of the autoencoder; 16 in Flux and in the miniature world.
    #[serde(default = "flux_latent_channels")]
    pub latent_channels: usize,
}

fn published_clip_length() -> usize {
    77
}

fn flux_latent_channels() -> usize {
    16
}

/// Prompts as the denoiser and the student see them.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Token ids `[B, L]` (u32).
    pub ids: Tensor,
    /// The teacher's embedding `[B, L, D]`.
    pub teacher_text: Tensor,
    /// Pooled text embedding `[B, P]`.
    pub pooled: Tensor,
}

impl TeacherConfig {
    /// Files the frozen set is read from, for hashing.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let tokenizers = std::iter::once(&self.tokenizer).chain(&self.clip_tokenizer).map(|file| folder.join(file));
        let parts = [&self.text_encoder, &self.clip, &self.denoiser, &self.autoencoder];
        tokenizers.chain(parts.into_iter().filter_map(|part| part.weights.path(folder))).collect()
    }

    /// The configuration as far as results depend on it: not on what is kept for the backward pass.
    pub fn essence(&self) -> Self {
        Self { checkpointing: Checkpointing::default(), ..self.clone() }
    }

    /// SHA-256 over the configuration and the content of every file of the frozen set.
    pub fn fingerprint(&self, folder: &Path) -> Result<String> {
        let mut text =
            serde_json::to_string(&self.essence()).map_err(|error| Error::Invalid(format!("cannot write the teacher as JSON: {error}")))?;
        for file in self.files(folder) {
            text.push_str(&files::sha256_file(&file)?);
        }
        Ok(files::sha256_bytes(text.as_bytes()))
    }

    /// Loads the frozen text teacher.
    pub fn load_text_encoder(&self, folder: &Path, seed: u64) -> Result<T5Encoder> {
        let weights = self.text_encoder.weights.open(folder, seed)?;
        let encoder = T5Encoder::new(&T5Config::preset(&self.text_encoder.preset)?, &weights)?;
        weights.finish()?;
        Ok(encoder)
    }

    /// Loads the denoiser.
    pub fn load_denoiser(&self, folder: &Path, seed: u64) -> Result<Flux> {
        let weights = self.denoiser.weights.open(folder, seed)?;
        let mut denoiser = Flux::new(&FluxConfig::preset(&self.denoiser.preset)?, &weights)?;
        denoiser.checkpointing = self.checkpointing;
        weights.finish()?;
        Ok(denoiser)
    }

    /// Loads the autoencoder.
    pub fn load_autoencoder(&self, folder: &Path, seed: u64) -> Result<Autoencoder> {
        let weights = self.autoencoder.weights.open(folder, seed)?.in_layout(layout::autoencoder)?;
        let autoencoder = Autoencoder::new(&AutoencoderConfig::preset(&self.autoencoder.preset)?, &weights)?;
        weights.finish()?;
        Ok(autoencoder)
    }

    /// Loads tokenizers and the pooled text encoder.
    pub fn load_prompts(&self, folder: &Path, seed: u64) -> Result<PromptReader> {
        let weights = self.clip.weights.open(folder, seed)?;
        let clip = Clip::new(&ClipConfig::preset(&self.clip.preset)?, &weights)?;
        weights.finish()?;
        let clip_tokenizer = self.clip_tokenizer.as_ref().map(|file| Tokenizer::load(&folder.join(file))).transpose()?;
        Ok(PromptReader {
            tokenizer: Tokenizer::load(&folder.join(&self.tokenizer))?,
            token_length: self.token_length,
            clip,
            clip_tokenizer: clip_tokenizer.map(|tokenizer| (tokenizer, self.clip_token_length)),
            pooled_text: self.pooled_text,
        })
    }
}

/// Turns prompts into token ids and pooled text; the part of the conditioning that teacher and student share.
pub struct PromptReader {
    tokenizer: Tokenizer,
    token_length: usize,
    clip: Clip,
    clip_tokenizer: Option<(Tokenizer, usize)>,
    pooled_text: PooledText,
}

impl PromptReader {
    /// Token ids `[B, L]` (u32) and pooled text `[B, P]` of B prompts.
    pub fn read(&self, prompts: &[impl AsRef<str>]) -> Result<(Tensor, Tensor)> {
        let ids = self.tokenizer.encode(prompts, self.token_length)?;
        let pooled = match &self.clip_tokenizer {
            Some((tokenizer, length)) => self.clip.text_pooled(&tokenizer.encode(prompts, *length)?)?,
            None => self.clip.text_pooled(&ids)?,
        };
        let pooled = match self.pooled_text {
            PooledText::Clip => pooled,
            PooledText::Zero => pooled.zeros_like()?,
        };
        Ok((ids, pooled))
    }

    /// The pieces of a prompt with its end piece, neither cut nor padded, and the length [`Self::read`] brings it to.
    pub fn pieces(&self, prompt: &str) -> Result<(Vec<String>, usize)> {
        Ok((self.tokenizer.pieces(prompt)?, self.token_length))
    }
}

/// The whole frozen set.
pub struct Teacher {
    pub prompts: PromptReader,
    pub text_encoder: T5Encoder,
    pub denoiser: Flux,
    pub autoencoder: Autoencoder,
}

impl Teacher {
    /// Loads every part; files are relative to `folder`, `seed` makes the parts whose weights are `random`.
    pub fn load(config: &TeacherConfig, folder: &Path, seed: u64) -> Result<Self> {
        Ok(Self {
            prompts: config.load_prompts(folder, seed)?,
            text_encoder: config.load_text_encoder(folder, seed)?,
            denoiser: config.load_denoiser(folder, seed)?,
            autoencoder: config.load_autoencoder(folder, seed)?,
        })
    }

    /// Token ids, the teacher's text and the pooled text of B prompts.
    pub fn condition(&self, prompts: &[impl AsRef<str>]) -> Result<Condition> {
        condition(&self.prompts, &self.text_encoder, prompts)
    }
}

/// Token ids, the teacher's text and the pooled text of B prompts.
pub fn condition(reader: &PromptReader, teacher: &dyn TextEncoder, prompts: &[impl AsRef<str>]) -> Result<Condition> {
    let (ids, pooled) = reader.read(prompts)?;
    Ok(Condition { teacher_text: teacher.encode(&ids)?, ids, pooled })
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

    #[test]
    fn an_unknown_field_of_the_teacher_is_refused() {
        let part = r#"{"preset": "p", "weights": "random"}"#;
        let fields = format!(
            r#""tokenizer": "t.json", "text_encoder": {part}, "clip": {part}, "denoiser": {part}, "autoencoder": {part},
               "token_length": 24, "resolution": 64, "latent_downsampling": 4"#
        );
        let config: TeacherConfig = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
        assert_eq!((config.latent_channels, config.pooled_text), (16, PooledText::Clip));
        assert!(serde_json::from_str::<TeacherConfig>(&format!("{{{fields}, \"guidence\": 1}}")).is_err());
    }
}
