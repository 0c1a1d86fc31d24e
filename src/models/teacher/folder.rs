//! A teacher in the folder of a published model: its family, sizes, tokenizers and steps are what its files say.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::prompts::{ClipReader, Encoders, FluxReader, PooledText, PromptReader};
use crate::error::{Error, Result};
use crate::models::autoencoder::Autoencoder;
use crate::models::checkpointing::Checkpointing;
use crate::models::clip::text::ClipText;
use crate::models::flux::Flux;
use crate::models::lora::{self, Lora};
use crate::models::mapped::Reading;
use crate::models::pixart::PixArt;
use crate::models::published::architectures::{self, Projection};
use crate::models::published::{AUTOENCODER, Family, PipelineFolder, Stored, TRANSFORMER, tokenizers};
use crate::models::sd3::Sd3;
use crate::models::t5::{Padding, T5Config, T5Encoder};
use crate::models::weights::Weights;
use crate::models::{Denoiser, layout};
use crate::run::hub;

/// A published model as the frozen set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder that `save_pretrained` wrote, absolute or relative to the pipeline's folder, or `hf://OWNER/NAME`.
    pub folder: PathBuf,
    /// Pixels along each side of an image; those of the model where absent.
    #[serde(default)]
    pub resolution: Option<usize>,
    /// Tokens of T5 per prompt, padding included; those of the model's pipeline where absent.
    #[serde(default)]
    pub token_length: Option<usize>,
    #[serde(default)]
    pub pooled_text: PooledText,
    /// What the denoiser keeps for its backward pass.
    #[serde(default)]
    pub checkpointing: Checkpointing,
    /// Leaves the layers of T5 and the denoiser in their files, which are mapped: the system reads a layer when it is used, and drops it
    /// where memory is short.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mapped: bool,
    /// Changes of the denoiser, one after the other; of Flux only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lora: Vec<Lora>,
}

/// Latent pixels along each side of the images that Flux's pipeline makes where no size is given (diffusers@v0.42.1).
const FLUX_SIDE: usize = 128;
/// Longest text of the published CLIPs in tokens.
const CLIP_LENGTH: usize = 77;

/// Class of the text encoder that students replace.
const T5_CLASS: [&str; 1] = ["T5EncoderModel"];

impl FolderConfig {
    /// The model's folder for a pipeline in `pipeline`, that in the hub's cache where it is named by its address.
    pub fn path(&self, pipeline: &Path) -> Result<PathBuf> {
        hub::resolve(&self.folder, pipeline)
    }

    /// Looks at the model's index.
    pub fn open(&self, pipeline: &Path) -> Result<PipelineFolder> {
        PipelineFolder::open(&self.path(pipeline)?)
    }

    /// Files the frozen set is read from, for hashing; of a folder that is no model, the file that is missing.
    pub fn files(&self, pipeline: &Path) -> Vec<PathBuf> {
        let mut files =
            self.open(pipeline).map_or_else(|_| vec![pipeline.join(&self.folder).join("model_index.json")], |model| model.files());
        files.extend(self.lora.iter().map(|lora| lora.path(pipeline)));
        files
    }

    /// Image pixels per latent pixel along each side, channels of the latents, and pixels along each side of an image.
    ///
    /// # Errors
    /// Parts that do not fit each other.
    pub fn geometry(&self, pipeline: &Path) -> Result<(usize, usize, usize)> {
        let model = self.open(pipeline)?;
        let autoencoder = architectures::autoencoder(&model.part(AUTOENCODER, &["AutoencoderKL"])?)?;
        let transformer = transformer_folder(&model)?;
        let (channels, text_width, side) = match model.family {
            Family::Flux => architectures::flux(&transformer).map(|config| (config.in_channels / 4, config.context_in_dim, FLUX_SIDE))?,
            Family::Sd3 => architectures::sd3(&transformer).map(|(config, side)| (config.channels, config.text_width, side))?,
            Family::PixArt => architectures::pixart(&transformer).map(|(config, side)| (config.channels, config.text_width, side))?,
        };
        let made = architectures::t5(&t5_folder(&model)?)?.d_model;
        for (what, reads, part, makes) in [
            ("channels of latents", channels, AUTOENCODER, autoencoder.latent_channels),
            ("numbers for each token of text", text_width, "T5", made),
        ] {
            if reads != makes {
                let message = format!("`{}`: the transformer reads {reads} {what}, {part} makes {makes}", model.path.display());
                return Err(Error::config(message, "fetch both parts of the same model"));
            }
        }
        Ok((autoencoder.factor(), channels, self.resolution.unwrap_or(side * autoencoder.factor())))
    }

    /// Tokens of T5 per prompt.
    pub fn token_length(&self, pipeline: &Path) -> Result<usize> {
        self.token_length.map_or_else(|| Ok(self.open(pipeline)?.family.token_length()), Ok)
    }

    /// Sizes of the text encoder.
    pub fn text_encoder(&self, pipeline: &Path) -> Result<T5Config> {
        architectures::t5(&t5_folder(&self.open(pipeline)?)?)
    }

    /// Loads the frozen text teacher.
    pub fn load_text_encoder(&self, pipeline: &Path) -> Result<T5Encoder> {
        let model = self.open(pipeline)?;
        let folder = t5_folder(&model)?;
        let config = architectures::t5(&folder)?;
        let mut encoder = construct(&folder, layout::t5, Reading::mapped(self.mapped), |weights| T5Encoder::new(&config, weights))?;
        encoder.padding = padding(model.family);
        Ok(encoder)
    }

    /// Loads the denoiser.
    pub fn load_denoiser(&self, pipeline: &Path) -> Result<Box<dyn Denoiser>> {
        let model = self.open(pipeline)?;
        let folder = transformer_folder(&model)?;
        if model.family != Family::Flux && !self.lora.is_empty() {
            let message = format!("a LoRA changes Flux, and `{}` is a {}", model.path.display(), model.family.class());
            return Err(Error::config(message, "remove `lora` from [teacher]"));
        }
        Ok(match model.family {
            Family::Flux => {
                let config = architectures::flux(&folder)?;
                let layout = |tensors| lora::merge_all(&self.lora, layout::flux(tensors)?, pipeline);
                let mut denoiser = construct(&folder, layout, Reading::mapped(self.mapped), |weights| Flux::new(&config, weights))?;
                denoiser.checkpointing = self.checkpointing;
                Box::new(denoiser)
            }
            Family::Sd3 => {
                let (config, _) = architectures::sd3(&folder)?;
                let mut denoiser = construct(&folder, layout::sd3, Reading::mapped(self.mapped), |weights| Sd3::new(&config, weights))?;
                denoiser.checkpointing = self.checkpointing;
                Box::new(denoiser)
            }
            Family::PixArt => {
                let (config, _) = architectures::pixart(&folder)?;
                let mut denoiser =
                    construct(&folder, layout::pixart, Reading::mapped(self.mapped), |weights| PixArt::new(&config, weights))?;
                denoiser.checkpointing = self.checkpointing;
                Box::new(denoiser)
            }
        })
    }

    /// Loads the autoencoder.
    pub fn load_autoencoder(&self, pipeline: &Path) -> Result<Autoencoder> {
        let folder = self.open(pipeline)?.part(AUTOENCODER, &["AutoencoderKL"])?;
        let config = architectures::autoencoder(&folder)?;
        construct(&folder, layout::autoencoder, Reading::Whole, |weights| Autoencoder::new(&config, weights))
    }

    /// Loads tokenizers and the text encoders beside T5.
    pub fn load_prompts(&self, pipeline: &Path) -> Result<PromptReader> {
        let model = self.open(pipeline)?;
        let parts = model.family.parts();
        let clip = |i: usize, class: &str, projection| -> Result<ClipReader> {
            let folder = model.part(parts.text_encoders[i], &[class])?;
            let config = architectures::clip_text(&folder, projection)?;
            let clip = construct(&folder, layout::clip_text, Reading::Whole, |weights| ClipText::new(&config, weights))?;
            let tokenizer = tokenizers::clip(&model.part(parts.tokenizers[i], &[])?)?;
            Ok(ClipReader { clip, tokenizer, length: CLIP_LENGTH.min(config.positions) })
        };
        let projected = |i| clip(i, "CLIPTextModelWithProjection", Projection::With);
        let pooled_text = self.pooled_text;
        let encoders = match model.family {
            Family::Flux => {
                let ClipReader { clip, tokenizer, length } = clip(0, "CLIPTextModel", Projection::Without)?;
                Encoders::Flux(Box::new(FluxReader { clip, tokenizer: Some((tokenizer, length)), pooled_text }))
            }
            Family::Sd3 => {
                let text_width = architectures::t5(&t5_folder(&model)?)?.d_model;
                Encoders::Sd3 { clips: Box::new([projected(0)?, projected(1)?]), text_width, pooled_text }
            }
            Family::PixArt => Encoders::PixArt,
        };
        Ok(PromptReader { tokenizer: self.load_tokenizer(&model)?, token_length: self.token_length(pipeline)?, encoders })
    }

    /// T5's tokenizer.
    pub fn load_tokenizer(&self, model: &PipelineFolder) -> Result<crate::models::tokenizer::Tokenizer> {
        let [.., name] = model.family.parts().tokenizers else { return Err(Error::Invalid("a family without tokenizers".into())) };
        tokenizers::t5(&model.part(name, &[])?)
    }
}

/// Whether T5 sees padding: PixArt's pipeline hands it a mask, the others do not.
pub fn padding(family: Family) -> Padding {
    if family == Family::PixArt { Padding::Masked } else { Padding::Seen }
}

fn t5_folder(model: &PipelineFolder) -> Result<PathBuf> {
    let [.., name] = model.family.parts().text_encoders else { return Err(Error::Invalid("a family without text encoders".into())) };
    model.part(name, &T5_CLASS)
}

fn transformer_folder(model: &PipelineFolder) -> Result<PathBuf> {
    let classes: &[&str] = match model.family {
        Family::Flux => &["FluxTransformer2DModel"],
        Family::Sd3 => &["SD3Transformer2DModel"],
        Family::PixArt => &["PixArtTransformer2DModel", "Transformer2DModel"],
    };
    model.part(TRANSFORMER, classes)
}

/// The network `make` builds from a part's weights, all of which it must take.
fn construct<N>(
    folder: &Path,
    layout: impl Fn(layout::Named) -> Result<layout::Named>,
    reading: Reading,
    make: impl FnOnce(&Weights) -> Result<N>,
) -> Result<N> {
    let weights = Stored::find(folder)?.load(layout, reading)?;
    let network = make(&weights)?;
    weights.finish()?;
    Ok(network)
}
