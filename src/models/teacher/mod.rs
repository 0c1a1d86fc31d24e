//! The frozen set of a text-to-image model: tokenizers, text teacher, other text encoders, denoiser and autoencoder, named part by part
//! or found in a published folder. Each part can be loaded alone, because a student is made to be used without the teacher.

pub mod folder;
pub mod parts;
pub mod prompts;

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

pub use self::folder::FolderConfig;
pub use self::parts::{Part, PartsConfig, WeightSource};
pub use self::prompts::{Condition, PooledText, PromptReader, Shared, condition};
use super::Denoiser;
use super::autoencoder::Autoencoder;
use super::checkpointing::Checkpointing;
use super::lora::Lora;
use super::published::{Family, SCHEDULER};
use super::t5::{Padding, T5Config, T5Encoder};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::run::{files, hub};

/// The frozen set of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Fields")]
pub enum TeacherConfig {
    /// Every part by its own preset and file; Flux's architecture.
    Parts(Box<PartsConfig>),
    /// A published model.
    Folder(FolderConfig),
}

/// All keys of either kind, so that a misspelt one is answered with the keys there are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    folder: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    text_encoder: Option<Part>,
    clip: Option<Part>,
    clip_tokenizer: Option<PathBuf>,
    clip_token_length: Option<usize>,
    #[serde(default)]
    pooled_text: PooledText,
    denoiser: Option<Part>,
    #[serde(default)]
    checkpointing: Checkpointing,
    autoencoder: Option<Part>,
    token_length: Option<usize>,
    resolution: Option<usize>,
    latent_downsampling: Option<usize>,
    latent_channels: Option<usize>,
    #[serde(default)]
    mapped: bool,
    #[serde(default)]
    lora: Vec<Lora>,
}

impl TryFrom<Fields> for TeacherConfig {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let Fields { pooled_text, checkpointing, token_length, resolution, mapped, lora, .. } = fields;
        let sizes = [
            ("tokenizer", fields.tokenizer.is_some()),
            ("text_encoder", fields.text_encoder.is_some()),
            ("clip", fields.clip.is_some()),
            ("clip_tokenizer", fields.clip_tokenizer.is_some()),
            ("clip_token_length", fields.clip_token_length.is_some()),
            ("denoiser", fields.denoiser.is_some()),
            ("autoencoder", fields.autoencoder.is_some()),
            ("latent_downsampling", fields.latent_downsampling.is_some()),
            ("latent_channels", fields.latent_channels.is_some()),
        ];
        if let Some(folder) = fields.folder {
            return match sizes.iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(format!("`{key}` is read from the files of `folder` and cannot be given beside it")),
                None => Ok(Self::Folder(FolderConfig { folder, resolution, token_length, pooled_text, checkpointing, mapped, lora })),
            };
        }
        fn given<T>(key: &str, value: Option<T>) -> Result<T, String> {
            value.ok_or_else(|| format!("missing field `{key}` of [teacher]: name every part, or the `folder` of a published model"))
        }
        Ok(Self::Parts(Box::new(PartsConfig {
            tokenizer: given("tokenizer", fields.tokenizer)?,
            text_encoder: given("text_encoder", fields.text_encoder)?,
            clip: given("clip", fields.clip)?,
            clip_tokenizer: fields.clip_tokenizer,
            clip_token_length: fields.clip_token_length.unwrap_or(parts::PUBLISHED_CLIP_LENGTH),
            pooled_text,
            denoiser: given("denoiser", fields.denoiser)?,
            checkpointing,
            autoencoder: given("autoencoder", fields.autoencoder)?,
            token_length: given("token_length", token_length)?,
            resolution: given("resolution", resolution)?,
            latent_downsampling: given("latent_downsampling", fields.latent_downsampling)?,
            latent_channels: fields.latent_channels.unwrap_or(parts::FLUX_LATENT_CHANNELS),
            mapped,
            lora,
        })))
    }
}

/// Sizes of a teacher's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels along each side of an image.
    pub resolution: usize,
    /// Image pixels per latent pixel along each side.
    pub downsampling: usize,
    /// Channels of the latents.
    pub channels: usize,
}

impl TeacherConfig {
    /// Files the frozen set is read from, for hashing.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        match self {
            Self::Parts(parts) => parts.files(folder),
            Self::Folder(model) => model.files(folder),
        }
    }

    /// What to do where one of [`TeacherConfig::files`] is missing; `None` for single files, of which only their maker knows.
    pub fn hint(&self) -> Option<String> {
        let Self::Folder(model) = self else { return None };
        Some(hub::hint(&model.folder).unwrap_or_else(|| {
            "set `[teacher] folder` to the folder of a published model, with `model_index.json` and all its parts".into()
        }))
    }

    /// The configuration as far as results depend on it: not on what is kept for the backward pass, nor on where layers are.
    pub fn essence(&self) -> Self {
        let checkpointing = Checkpointing::default();
        match self.clone() {
            Self::Parts(parts) => Self::Parts(Box::new(PartsConfig { checkpointing, mapped: false, ..*parts })),
            Self::Folder(model) => Self::Folder(FolderConfig { checkpointing, mapped: false, ..model }),
        }
    }

    /// Whether layers stay in their files.
    pub fn is_mapped(&self) -> bool {
        match self {
            Self::Parts(parts) => parts.mapped,
            Self::Folder(model) => model.mapped,
        }
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

    /// The same teacher for images of another size.
    pub fn with_resolution(&self, resolution: Option<usize>) -> Self {
        match (self.clone(), resolution) {
            (Self::Parts(parts), Some(resolution)) => Self::Parts(Box::new(PartsConfig { resolution, ..*parts })),
            (Self::Folder(model), Some(_)) => Self::Folder(FolderConfig { resolution, ..model }),
            (same, None) => same,
        }
    }

    /// Sizes of its images and latents.
    pub fn geometry(&self, folder: &Path) -> Result<Geometry> {
        match self {
            Self::Parts(parts) => {
                Ok(Geometry { resolution: parts.resolution, downsampling: parts.latent_downsampling, channels: parts.latent_channels })
            }
            Self::Folder(model) => {
                let (downsampling, channels, resolution) = model.geometry(folder)?;
                Ok(Geometry { resolution, downsampling, channels })
            }
        }
    }

    /// The family of its architecture.
    pub fn family(&self, folder: &Path) -> Result<Family> {
        match self {
            Self::Parts(_) => Ok(Family::Flux),
            Self::Folder(model) => Ok(model.open(folder)?.family),
        }
    }

    /// The file with a published model's steps of denoising; none where the parts are named one by one.
    pub fn scheduler(&self, folder: &Path) -> Option<PathBuf> {
        match self {
            Self::Parts(_) => None,
            Self::Folder(model) => Some(model.path(folder).ok()?.join(SCHEDULER.0).join(SCHEDULER.1)),
        }
    }

    /// Tokens per prompt, padding included.
    pub fn token_length(&self, folder: &Path) -> Result<usize> {
        match self {
            Self::Parts(parts) => Ok(parts.token_length),
            Self::Folder(model) => model.token_length(folder),
        }
    }

    /// Whether its text encoder, and so a student, sees padding.
    pub fn padding(&self, folder: &Path) -> Result<Padding> {
        Ok(folder::padding(self.family(folder)?))
    }

    /// A name for its text encoder, in the cards of students.
    pub fn encoder_name(&self) -> String {
        match self {
            Self::Parts(parts) => parts.text_encoder.preset.clone(),
            Self::Folder(model) => {
                let name =
                    model.folder.file_name().map_or_else(|| model.folder.display().to_string(), |name| name.to_string_lossy().into_owned());
                format!("T5 of {name}")
            }
        }
    }

    /// Width of its text embedding.
    pub fn text_width(&self, folder: &Path) -> Result<usize> {
        Ok(match self {
            Self::Parts(parts) => T5Config::preset(&parts.text_encoder.preset)?.d_model,
            Self::Folder(model) => model.text_encoder(folder)?.d_model,
        })
    }

    /// Loads the frozen text teacher.
    pub fn load_text_encoder(&self, folder: &Path, seed: u64) -> Result<T5Encoder> {
        match self {
            Self::Parts(parts) => parts.load_text_encoder(folder, seed),
            Self::Folder(model) => model.load_text_encoder(folder),
        }
    }

    /// Loads the denoiser.
    pub fn load_denoiser(&self, folder: &Path, seed: u64) -> Result<Box<dyn Denoiser>> {
        match self {
            Self::Parts(parts) => Ok(Box::new(parts.load_denoiser(folder, seed)?)),
            Self::Folder(model) => model.load_denoiser(folder),
        }
    }

    /// Loads the autoencoder.
    pub fn load_autoencoder(&self, folder: &Path, seed: u64) -> Result<Autoencoder> {
        match self {
            Self::Parts(parts) => parts.load_autoencoder(folder, seed),
            Self::Folder(model) => model.load_autoencoder(folder),
        }
    }

    /// Loads tokenizers and the text encoders that teacher and student share.
    pub fn load_prompts(&self, folder: &Path, seed: u64) -> Result<PromptReader> {
        match self {
            Self::Parts(parts) => parts.load_prompts(folder, seed),
            Self::Folder(model) => model.load_prompts(folder),
        }
    }

    /// Loads the tokenizer of the text encoder alone; `None` where its file is not there.
    pub fn load_tokenizer(&self, folder: &Path) -> Result<Option<Tokenizer>> {
        match self {
            Self::Parts(parts) => {
                let file = folder.join(&parts.tokenizer);
                if file.is_file() { Tokenizer::load(&file).map(Some) } else { Ok(None) }
            }
            Self::Folder(model) => model.load_tokenizer(&model.open(folder)?).map(Some),
        }
    }
}

/// The whole frozen set.
pub struct Teacher {
    pub family: Family,
    pub prompts: PromptReader,
    pub text_encoder: T5Encoder,
    pub denoiser: Box<dyn Denoiser>,
    pub autoencoder: Autoencoder,
}

impl Teacher {
    /// Loads every part; files are relative to `folder`, `seed` makes the parts whose weights are `random`.
    pub fn load(config: &TeacherConfig, folder: &Path, seed: u64) -> Result<Self> {
        Ok(Self {
            family: config.family(folder)?,
            prompts: config.load_prompts(folder, seed)?,
            text_encoder: config.load_text_encoder(folder, seed)?,
            denoiser: config.load_denoiser(folder, seed)?,
            autoencoder: config.load_autoencoder(folder, seed)?,
        })
    }

    /// Token ids, the teacher's text and the shared text of B prompts.
    pub fn condition(&self, prompts: &[impl AsRef<str>]) -> Result<Condition> {
        condition(&self.prompts, &self.text_encoder, prompts)
    }

    /// The empty prompt, where guidance needs it: the negative prompt of the teacher's own images.
    pub fn empty(&self) -> Result<Option<Condition>> {
        self.family.is_guided_by_the_empty_prompt().then(|| self.condition(&[""])).transpose()
    }

    /// Ids of `prompts` as T5 reads them, `[B, L]`.
    pub fn ids(&self, prompts: &[impl AsRef<str>]) -> Result<Tensor> {
        Ok(self.prompts.read(prompts)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> std::result::Result<TeacherConfig, String> {
        serde_json::from_str(&format!("{{{fields}}}")).map_err(|error| error.to_string())
    }

    fn parts() -> String {
        let part = r#"{"preset": "p", "weights": "random"}"#;
        format!(
            r#""tokenizer": "t.json", "text_encoder": {part}, "clip": {part}, "denoiser": {part}, "autoencoder": {part},
               "token_length": 24, "resolution": 64, "latent_downsampling": 4"#
        )
    }

    #[test]
    fn an_unknown_field_of_the_teacher_is_refused() {
        let TeacherConfig::Parts(config) = read(&parts()).unwrap() else { panic!("these are parts") };
        assert_eq!((config.latent_channels, config.pooled_text), (16, PooledText::Clip));
        let error = read(&format!("{}, \"guidence\": 1", parts())).unwrap_err();
        assert!(error.contains("unknown field `guidence`, expected one of `folder`, `tokenizer`"), "{error}");
    }

    #[test]
    fn a_folder_stands_alone_and_missing_parts_are_named() {
        let folder = read(r#""folder": "sd3", "resolution": 512"#).unwrap();
        assert!(matches!(&folder, TeacherConfig::Folder(model) if model.resolution == Some(512) && model.token_length.is_none()));
        assert!(read(r#""folder": "sd3", "latent_channels": 16"#).unwrap_err().contains("`latent_channels` is read from the files"));
        assert!(read(r#""tokenizer": "t.json""#).unwrap_err().contains("missing field `text_encoder`"));
    }

    #[test]
    fn both_kinds_are_written_as_they_are_read() {
        for fields in [parts(), r#""folder": "sd3""#.to_owned()] {
            let config = read(&fields).unwrap();
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<TeacherConfig>(&json).unwrap(), config);
        }
    }
}
